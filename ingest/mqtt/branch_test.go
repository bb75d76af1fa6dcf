package mqtt

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/test/natstest"
)

// tally counts which member was given which message.
type tally struct {
	mu  sync.Mutex
	by  map[string]int // deliveries by member
	got map[string]int // deliveries by payload
	dup int            // of them marked as duplicates
}

func newTally() *tally { return &tally{by: map[string]int{}, got: map[string]int{}} }

func (y *tally) take(member string, d delivery) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.by[member]++
	y.got[d.payload]++
	if d.dup {
		y.dup++
	}
}

func (y *tally) distinct() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return len(y.got)
}

// follow takes and acknowledges what p is sent, until its connection ends.
func (y *tally) follow(w *sync.WaitGroup, member string, p *peer) {
	w.Go(func() {
		for {
			h, b, err := p.read()
			if err != nil {
				return
			}
			if h>>4 != packets.Publish {
				continue
			}
			d := p.parse(h, b)
			y.take(member, d)
			if d.qos > 0 {
				p.nc.Write([]byte{packets.Puback << 4, 2, byte(d.pid >> 8), byte(d.pid)})
			}
		}
	})
}

// all waits until every payload from 0 up to n has been taken.
func (y *tally) all(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " messages"), func() bool { return y.distinct() >= n })
	y.mu.Lock()
	defer y.mu.Unlock()
	for i := range n {
		if y.got[fmt.Sprint(i)] == 0 {
			t.Errorf("message %d is lost", i)
		}
	}
}

// once fails the test where a message was delivered more than once.
func (y *tally) once(t *testing.T) {
	t.Helper()
	y.mu.Lock()
	defer y.mu.Unlock()
	for m, n := range y.got {
		if n != 1 {
			t.Errorf("message %s came %d times", m, n)
		}
	}
}

// group returns the group as a gateway has it, nil where it does not.
func (r *rig) group(key topic.Filter) *share {
	r.s.routes.mu.RLock()
	defer r.s.routes.mu.RUnlock()
	return r.s.routes.shares[key]
}

func (r *rig) tenure(key topic.Filter) tenure {
	g := r.group(key)
	if g == nil {
		return tenureUnknown
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tenure
}

// A group has members on two gateways: each message reaches one of them, all get
// their share, and a member that leaves leaves it to the others. While all are
// away it queues for the one that will come back, to whichever gateway.
func TestGroupOverGateways(t *testing.T) {
	url := natstest.Start(t).URL()
	rigs := []*rig{gateway(t, url), gateway(t, url)}
	know(t, rigs...)
	const key = "$share/g/t/#"
	for _, v := range versions {
		y := newTally()
		var followers sync.WaitGroup
		name := func(s string) string { return fmt.Sprint(s, v) }
		a1, a2, b1 := rigs[0].connect(v, name("a1")), rigs[0].connect(v, name("a2")), rigs[1].connect(v, name("b1"))
		kept, _ := rigs[1].resume(v, name("kept"))
		for _, p := range []*peer{a1, a2, b1, kept} {
			p.subscribeWith(nil, 1, key)
		}
		for id, p := range map[string]*peer{"a1": a1, "a2": a2, "b1": b1, "kept": kept} {
			y.follow(&followers, id, p)
		}
		const n = 200
		var publishers sync.WaitGroup
		publish := func(from, to int) {
			for i, r := range rigs {
				pub := r.connect(4, fmt.Sprintf("pub%d-%d-%d", v, i, from))
				publishers.Go(func() {
					for k := from + i; k < to; k += 2 {
						pub.publish(fmt.Sprintf("t/%d", k%5), 1, uint16(k+1), fmt.Sprint(k))
						pub.puback()
					}
				})
			}
			publishers.Wait()
		}
		publish(0, n)
		y.all(t, n)
		y.once(t)
		for member, got := range y.by {
			if got < n/8 || got > n/2 {
				t.Errorf("MQTT %d: %s got %d of %d messages", v, member, got, n)
			}
		}
		// The owner's own members leave: the other gateway's have it all, and the
		// group becomes theirs once its owner has no part in it.
		a1.nc.Close()
		a2.nc.Close()
		rigs[0].gone(name("a1"))
		rigs[0].gone(name("a2"))
		publish(n, 2*n)
		y.all(t, 2*n)
		y.once(t)
		// All leave; one will be back.
		b1.nc.Close()
		kept.nc.Close()
		rigs[1].gone(name("b1"))
		rigs[1].gone(name("kept"))
		followers.Wait()
		publish(2*n, 3*n)
		back, present := rigs[0].resume(v, name("kept"))
		if !present {
			t.Fatal("no session")
		}
		y.follow(&followers, "kept", back)
		y.all(t, 3*n)
		y.once(t)
		if y.dup > 0 {
			t.Error(y.dup, "marked as duplicates")
		}
		end := []byte{packets.Disconnect << 4, 0}
		if v == 5 {
			end = packet(packets.Disconnect<<4, append([]byte{0, 5}, expiry(0)...))
		}
		back.nc.Write(end)
		followers.Wait()
		rigs[0].gone(name("kept"))
		if v == 4 {
			// Its session is there for an hour: a clean one ends it.
			rigs[1].connect(4, name("kept")).nc.Close()
			rigs[1].gone(name("kept"))
		}
		for _, r := range rigs {
			eventually(t, "the group is nobody's", func() bool { return r.group(key) == nil })
		}
		// Whoever comes now finds nothing of it.
		publish(3*n, 3*n+10)
		late := rigs[1].connect(v, name("late"))
		late.subscribe(key)
		late.ping()
		late.nc.Close()
		rigs[1].gone(name("late"))
		for _, r := range rigs {
			eventually(t, "the group is nobody's", func() bool { return r.group(key) == nil })
		}
	}
}

// A group whose members' sessions have all ended while they were away is taken
// out of the store; one that somebody can come back to is not.
func TestGroupThatNobodyComesBackTo(t *testing.T) {
	r := gateway(t, natstest.Start(t).URL())
	const key = "$share/g/t"
	stored := func() bool {
		_, value, err := r.s.fenced().read(t.Context(), shareKey+key)
		return err == nil && len(value) > 0
	}
	p, _ := r.resume(5, "kept")
	p.subscribe(key)
	r.leave(p, "kept")
	eventually(t, "the group is nobody's", func() bool { return r.group(key) == nil })
	if err := r.s.sweepShares(t.Context()); err != nil || !stored() {
		t.Fatal("the group is gone: ", err)
	}
	r.leave(r.connect(5, "kept"), "kept") // with a clean start
	if err := r.s.sweepShares(t.Context()); err != nil || stored() {
		t.Fatal("the group is there: ", err)
	}
}

// What a gateway that was alone has kept of a group is found when it is one of
// several.
func TestGroupOfAGatewayThatWasAlone(t *testing.T) {
	url := natstest.Start(t).URL()
	alone := gateway(t, url, func(o *Options) { o.Conn = nil })
	p, _ := alone.resume(5, "kept")
	p.subscribe("$share/g/t")
	pub := alone.connect(4, "pub")
	pub.send1("t", 0, 1)
	p.collect(1)
	alone.leave(p, "kept")
	pub.send1("t", 1, 20)
	alone.stop()
	one, two := gateway(t, url), gateway(t, url)
	know(t, one, two)
	other := two.connect(5, "other")
	other.subscribe("$share/g/t")
	y := newTally()
	for range 19 {
		d := other.delivery()
		y.take("other", d)
		other.ack(d.pid)
	}
	y.once(t)
	back, present := one.resume(5, "kept")
	if !present {
		t.Fatal("no session")
	}
	eventually(t, "it is a member", func() bool { return one.tenure("$share/g/t") == tenureBranch })
	two.connect(4, "pub").send1("t", 20, 40)
	for range 10 {
		y.take("other", other.collect(1)[0])
		y.take("kept", back.collect(1)[0])
	}
	y.once(t)
}

// A gateway with members of a group is killed, the owner of the group and one
// that is not: what its members were sent and have not acknowledged, and all
// that comes after, goes to the member that is left.
func TestGroupOfAKilledGateway(t *testing.T) {
	for _, dies := range []string{"owner", "branch"} {
		t.Run(dies, func(t *testing.T) {
			url := natstest.Start(t).URL()
			r := gateway(t, url)
			addr, kill := child(t, t.TempDir(), childURL+"="+url)
			eventually(t, "the gateways know each other", func() bool { return len(r.s.node.others()) == 1 })
			const key, n = "$share/g/t", 600
			y := newTally()
			var followers sync.WaitGroup
			here := r.connect(5, "here")
			there, _ := dialChild(t, addr, 5, "there", 2)
			order := []*peer{here, there}
			if dies == "owner" {
				order = []*peer{there, here}
			}
			for _, p := range order {
				p.subscribe(key)
			}
			want := map[string]tenure{"owner": tenureBranch, "branch": tenureOwn}[dies]
			if got := r.tenure(key); got != want {
				t.Fatalf("tenure %d, want %d", got, want)
			}
			y.follow(&followers, "here", here)
			pub := r.connect(4, "pub")
			publish := func(from, to int) {
				for k := from; k < to; k++ {
					pub.publish("t", 1, uint16(k+1), fmt.Sprint(k))
					pub.puback()
				}
			}
			// The member there acknowledges some and dies with the others in its hands.
			followers.Go(func() {
				for i := range 60 {
					d, err := there.next()
					if err != nil {
						return
					}
					if i < 40 {
						y.take("there", d)
						there.nc.Write([]byte{packets.Puback << 4, 2, byte(d.pid >> 8), byte(d.pid)})
					}
				}
				kill()
			})
			publish(0, n)
			y.all(t, n)
			publish(n, n+20) // and it goes on
			y.all(t, n+20)
			if got := r.tenure(key); got != tenureOwn {
				t.Errorf("tenure %d of the one that is left", got)
			}
			twice := 0
			for _, k := range y.got {
				twice += k - 1
			}
			t.Logf("there %d, here %d, twice %d, marked %d", y.by["there"], y.by["here"], twice, y.dup)
			if twice > y.dup {
				t.Error("some came twice without a mark")
			}
			here.nc.Close()
			followers.Wait()
		})
	}
}

// next returns the next delivery, or why there is none.
func (p *peer) next() (delivery, error) {
	for {
		h, b, err := p.read()
		if err != nil {
			return delivery{}, err
		}
		if h>>4 == packets.Publish {
			return p.parse(h, b), nil
		}
	}
}

// A gateway that owns a group is shut down in good order while a member of
// another one has messages in its hands: they do not come twice.
func TestGroupOfAGatewayThatEnds(t *testing.T) {
	url := natstest.Start(t).URL()
	first, second := gateway(t, url), gateway(t, url)
	know(t, first, second)
	const key, n = "$share/g/t", 40
	a, b := first.connect(5, "a"), second.connect(5, "b")
	a.subscribe(key)
	b.subscribe(key)
	pub := second.connect(4, "pub")
	var inHand []delivery
	y := newTally()
	for k := range n {
		pub.publish("t", 1, uint16(k+1), fmt.Sprint(k))
		pub.puback()
	}
	for range n / 2 {
		inHand = append(inHand, b.delivery())
		d := a.delivery()
		y.take("a", d)
		a.ack(d.pid)
	}
	a.ping()
	first.stop()
	eventually(t, "the group is the other's", func() bool { return second.tenure(key) == tenureOwn })
	for _, d := range inHand {
		y.take("b", d)
		b.ack(d.pid)
	}
	for k := n; k < n+10; k++ {
		pub.publish("t", 1, uint16(k+1), fmt.Sprint(k))
		pub.puback()
		d := b.delivery()
		y.take("b", d)
		b.ack(d.pid)
	}
	y.all(t, n+10)
	y.once(t)
}

// An owner that others take for dead, and which does not know that, finds out with
// its next write, and becomes a branch.
func TestGroupIsFenced(t *testing.T) {
	url := natstest.Start(t).URL()
	one, two := gateway(t, url), gateway(t, url)
	know(t, one, two)
	const key = "$share/g/t"
	a := one.connect(5, "a")
	a.subscribe(key)
	// The other one believes that the first has died.
	two.s.node.mu.Lock()
	id := one.s.node.id
	two.s.node.peers[id] = lease{two.s.node.peers[id].revision, time.Now().Add(-time.Hour)}
	two.s.node.mu.Unlock()
	b := two.connect(5, "b")
	b.subscribe(key)
	if two.tenure(key) != tenureOwn {
		t.Fatal("the second gateway has not taken the group")
	}
	y := newTally()
	var followers sync.WaitGroup
	y.follow(&followers, "a", a)
	y.follow(&followers, "b", b)
	pub := two.connect(4, "pub")
	for k := 0; k < 20 || one.tenure(key) != tenureBranch; k++ {
		pub.publish("t", 1, uint16(k%60_000+1), fmt.Sprint(k))
		pub.puback()
	}
	sent := y.distinct()
	y.mu.Lock()
	y.got = map[string]int{}
	y.mu.Unlock()
	t.Log(sent, "messages until it knew")
	for k := range 40 {
		pub.publish("t", 1, uint16(k+1), fmt.Sprint("after ", k))
		pub.puback()
	}
	eventually(t, "all", func() bool {
		y.mu.Lock()
		defer y.mu.Unlock()
		n := 0
		for m, k := range y.got {
			if strings.HasPrefix(m, "after") {
				n += k
			}
		}
		return n >= 40
	})
	for m, k := range y.got {
		if strings.HasPrefix(m, "after") && k != 1 {
			t.Errorf("%s came %d times", m, k)
		}
	}
	a.nc.Close()
	b.nc.Close()
	followers.Wait()
}

// Frames between gateways are lost: what is not heard of comes again, and nothing
// stays in between.
func TestGroupWithFramesLost(t *testing.T) {
	url := natstest.Start(t).URL()
	one, two := gateway(t, url), gateway(t, url)
	know(t, one, two)
	const key, n = "$share/g/t", 300
	a, b := one.connect(5, "a"), two.connect(5, "b")
	a.subscribe(key)
	b.subscribe(key)
	y := newTally()
	var followers sync.WaitGroup
	y.follow(&followers, "a", a)
	y.follow(&followers, "b", b)
	pub := one.connect(4, "pub")
	deaf := func(r *rig, on bool) {
		r.s.node.hearing.Lock()
		r.s.node.deaf = on
		r.s.node.hearing.Unlock()
	}
	for k := range n {
		switch k {
		case 50, 150: // messages get lost
			deaf(two, true)
		case 100, 200: // what became of them gets lost
			deaf(two, false)
			deaf(one, true)
		case 130, 230:
			deaf(one, false)
		}
		pub.publish("t", 1, uint16(k+1), fmt.Sprint(k))
		pub.puback()
	}
	y.all(t, n)
	deaf(two, true) // the last ones get lost: no later one tells of that
	pub.send1("t", n, n+10)
	deaf(two, false)
	y.all(t, n+10)
	eventually(t, "nothing is under way", func() bool {
		for _, r := range []*rig{one, two} {
			g := r.group(key)
			g.mu.Lock()
			k := len(g.flights) + len(g.queue) + len(g.returned) + len(g.open)
			for _, b := range g.branches {
				k += len(b.flights)
			}
			g.mu.Unlock()
			if k > 0 {
				return false
			}
		}
		return true
	})
	a.nc.Close()
	b.nc.Close()
	followers.Wait()
}

// What no member of a gateway may have goes to one of another.
func TestGroupMembersThatMayNot(t *testing.T) {
	url := natstest.Start(t).URL()
	deny := &policy{deny: map[string]bool{}}
	deny.set("iot:Receive t")
	one, two := gateway(t, url), gateway(t, url, func(o *Options) { o.Authorizer = deny })
	know(t, one, two)
	a, b := one.connect(5, "a"), two.connect(5, "b")
	a.subscribe("$share/g/t")
	b.subscribe("$share/g/t")
	one.connect(4, "pub").send1("t", 0, 20)
	for i, d := range a.collect(20) {
		if d.payload == "" {
			t.Error(i, d)
		}
	}
	a.ping()
	b.ping()
}

func FuzzFrame(f *testing.F) {
	f.Add((&frame{Kind: frameMessage, Share: "$share/g/t", Seq: 7, Event: &willEvent{Topic: "t"}}).encode([]byte("x")))
	f.Add((&frame{Kind: frameState, Has: []framePlace{{0, 7}}}).encode(nil))
	f.Add([]byte{200, 1, '{'})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, payload, err := decodeFrame(b)
		if err != nil {
			return
		}
		again, rest, err := decodeFrame(fr.encode(payload))
		if err != nil || again.Kind != fr.Kind || string(rest) != string(payload) {
			t.Fatal(err, again, fr)
		}
	})
}

// Members come and go on both gateways while messages come, some without an
// answer: each message is acknowledged by one of them.
func TestGroupMembersThatComeAndGoOverGateways(t *testing.T) {
	url := natstest.Start(t).URL()
	small := func(o *Options) { o.Safety.QueuedMessages = 20 }
	rigs := []*rig{gateway(t, url, small), gateway(t, url, small)}
	know(t, rigs...)
	const n, key = 400, "$share/g/#"
	anchor, _ := rigs[0].resume(5, "anchor")
	anchor.subscribe(key)
	rigs[0].leave(anchor, "anchor")
	y := newTally()
	stop := make(chan struct{})
	var members, publishers sync.WaitGroup
	for k := range 4 {
		members.Go(func() {
			for round := k; y.distinct() < n; round++ {
				select {
				case <-stop:
					return
				default:
				}
				nc, err := net.Dial("tcp", rigs[round%2].s.Addr(auth.Plain).String())
				if err != nil {
					return // it is over
				}
				p := &peer{t: t, nc: nc, r: bufio.NewReader(nc), v5: true}
				props := append(expiry(uint32(600*(k%2))), packets.PropReceiveMaximum, 0, byte(1+k*3))
				p.nc.Write(connectPacket(5, fmt.Sprint("m", k), byte(2*(k%2)), 60, props))
				p.nc.Write(packet(packets.Subscribe<<4|2, append([]byte{0, 9, 0}, append(str(key), 1)...)))
				for i := range 15 + 17*k {
					d, err := p.next()
					if err != nil || i%7 == 6 {
						break // gone without an answer
					}
					y.take(fmt.Sprint("m", k), d)
					p.nc.Write([]byte{packets.Puback << 4, 2, byte(d.pid >> 8), byte(d.pid)})
				}
				p.nc.Close()
			}
		})
	}
	for i, r := range rigs {
		pub := r.connect(4, fmt.Sprint("pub", i))
		publishers.Go(func() {
			for k := i; k < n; k += 2 {
				pub.publish("t", 1, uint16(k+1), fmt.Sprint(k))
				pub.puback()
			}
		})
	}
	publishers.Wait()
	y.all(t, n)
	close(stop)
	for _, r := range rigs {
		r.stop() // ends those that wait for more
	}
	members.Wait()
	twice := 0
	for _, k := range y.got {
		twice += k - 1
	}
	t.Log(twice, "came twice: their acknowledgement was lost with the connection")
}
