package mqtt

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/ingest/auth"
)

// collect takes what comes until n messages have, and acknowledges it.
func (p *peer) collect(n int) (got []delivery) {
	p.t.Helper()
	for range n {
		d := p.delivery()
		if d.pid != 0 {
			p.ack(d.pid)
		}
		got = append(got, d)
	}
	return got
}

func (p *peer) send1(topic string, from, to int) {
	p.t.Helper()
	for i := from; i < to; i++ {
		p.publish(topic, 1, uint16(i%60_000+1), fmt.Sprint(i))
		p.puback()
	}
}

func TestSharedSubscription(t *testing.T) {
	for _, v := range versions {
		for _, qos := range []byte{0, 1} {
			r := start(t, nil)
			one, two, other, pub := r.connect(v, "one"), r.connect(v, "two"), r.connect(v, "other"), r.connect(4, "pub")
			one.subscribeWith(nil, qos, "$share/g/a/#")
			two.subscribeWith(nil, qos, "$share/g/a/#")
			other.subscribeWith(nil, qos, "$share/other/a/#")
			pub.send1("a/x", 0, 40)
			all := append(one.collect(20), two.collect(20)...)
			var got []string
			for _, d := range all {
				got = append(got, d.payload)
			}
			slices.Sort(got)
			if len(slices.Compact(got)) != 40 {
				t.Error("not each message once:", got)
			}
			for i, d := range other.collect(40) {
				if d.payload != fmt.Sprint(i) {
					t.Error(i, d)
				}
			}
			pub.publish("a/x", 0, 0, "zero")
			for _, p := range []*peer{one, other} { // it is its turn
				if d := p.delivery(); d.payload != "zero" || d.qos != 0 {
					t.Error(d)
				}
			}
			// One leaves the group: the other has all of it.
			b := []byte{0, 9}
			if v == 5 {
				b = append(b, 0)
			}
			two.send(packet(packets.Unsubscribe<<4|2, append(b, str("$share/g/a/#")...)))
			two.expect(packets.Unsuback)
			for _, p := range []*peer{one, other} {
				p.ping()
			}
			pub.send1("a/x", 100, 110)
			for i, d := range one.collect(10) {
				if d.payload != fmt.Sprint(100+i) {
					t.Error(d)
				}
			}
			r.stop()
			if n := len(r.s.routes.shares); n != 0 {
				t.Error(n, "groups are left")
			}
		}
	}
}

// A shared subscription gets no retained message, and
// the authorizer is asked about it as it was written, name and filter.
func TestSharedSubscriptionIsAuthorized(t *testing.T) {
	deny := &policy{deny: map[string]bool{}}
	deny.set(auth.Subscribe.String() + " $share/g/secret/#")
	r := start(t, func(o *Options) { o.Authorizer, o.Retained = deny, newFakeBucket() })
	pub := r.connect(4, "pub")
	pub.retain("a", "kept", 1)
	for _, v := range versions {
		p := r.connect(v, fmt.Sprint("c", v))
		codes := p.subscribe("$share/g/secret/#", "$share/g/a", "$share/+/a", "$share/g/$SYS/x", "$share/"+strings.Repeat("n", 129)+"/a")
		refused := map[byte][]byte{
			4: {0x80, 1, 0x80, 0x80, 0x80},
			5: {codeNotAuthorized, 1, codeFilterInvalid, codeNotAuthorized, codeFilterInvalid},
		}[v]
		if !bytes.Equal(codes, refused) {
			t.Errorf("SUBACK % x, want % x", codes, refused)
		}
		p.ping() // and no retained message
		r.leave(p, fmt.Sprint("c", v))
	}
}

func TestSharedSubscriptionPassesSlowMembersBy(t *testing.T) {
	r := start(t, func(o *Options) { o.Safety.QueuedMessages = 5 })
	slow, fast, pub := r.connect(5, "slow", packets.PropReceiveMaximum, 0, 2), r.connect(5, "fast"), r.connect(4, "pub")
	slow.subscribe("$share/g/a")
	fast.subscribe("$share/g/a")
	pub.send1("a", 0, 50)
	stuck := []delivery{slow.delivery(), slow.delivery()} // and does not acknowledge
	fast.collect(48)
	fast.ping()
	// It leaves: what it had goes to the other.
	slow.nc.Close()
	r.gone("slow")
	for i, d := range fast.collect(2) {
		if d.payload != stuck[i].payload || d.dup {
			t.Error(d, stuck[i])
		}
	}
	// A group without room at all reads the log by itself, and joins again.
	var fasts sync.WaitGroup
	fasts.Go(func() {
		for i, d := range fast.collect(400) {
			if d.payload != fmt.Sprint(100+i) {
				t.Error(d, 100+i)
				return
			}
		}
	})
	pub.send1("a", 100, 500)
	fasts.Wait()
	stalled := r.connect(5, "stalled", packets.PropReceiveMaximum, 0, 1)
	stalled.subscribe("$share/h/a")
	pub.send1("a", 500, 600)
	for i, d := range stalled.collect(100) {
		if d.payload != fmt.Sprint(500+i) {
			t.Fatal(d, 500+i)
		}
	}
	stalled.ping()
}

// While all of a group are away its messages wait on the log, if one of them
// has a session that is kept; also over a restart, and a crash.
func TestSharedSubscriptionQueuesWhileAllAreAway(t *testing.T) {
	for _, parts := range []int{1, 3} {
		for _, how := range []string{"stays", "restart", "crash"} {
			b := newFakeBucket()
			log := newFakeLog(parts)
			r := start(t, persist(b, func(o *Options) { o.Log = log }))
			pub := r.connect(4, "pub")
			kept, _ := r.resume(5, "kept")
			kept.subscribe("$share/g/a/#")
			passing := r.connect(5, "passing")
			passing.subscribe("$share/g/a/#")
			pub.send1("a/x", 0, 10)
			seen := map[string]int{}
			take := func(d delivery) { seen[d.payload]++ }
			held := kept.delivery() // and does not acknowledge
			for range 4 {
				d := kept.delivery()
				take(d)
				kept.ack(d.pid)
			}
			for _, d := range passing.collect(5) {
				take(d)
			}
			kept.ping()
			passing.ping()
			eventually(t, "saved", func() bool {
				e, _ := b.Get(t.Context(), shareKey+"$share/g/a/#")
				rec, err := decodeShare(e.Value, parts)
				return err == nil && len(rec.open) == 1
			})
			crashed := b.copy()
			passing.nc.Close()
			kept.nc.Close()
			r.gone("kept")
			r.gone("passing")
			for i := 10; i < 400; i++ {
				pub.publish("a/"+strings.Repeat("y", i%3), 1, uint16(i), fmt.Sprint(i))
				pub.puback()
			}
			switch how {
			case "restart":
				r.stop()
				r = start(t, persist(b, func(o *Options) { o.Log = log }))
			case "crash":
				r.stop()
				r = start(t, persist(crashed, func(o *Options) { o.Log = log }))
			}
			kept, present := r.resume(5, "kept")
			if !present {
				t.Fatal("no session")
			}
			again := false
			for _, d := range kept.collect(391) {
				take(d)
				if d.payload == held.payload {
					again = true
				}
			}
			if !again {
				t.Error(how, "what was in flight did not come again")
			}
			for i := range 400 {
				if n := seen[fmt.Sprint(i)]; n != 1 {
					t.Fatalf("%s: message %d came %d times", how, i, n)
				}
			}
			kept.ping()
			// Live again. Then its session ends, and with it the group.
			pub = r.connect(4, "pub")
			pub.send1("a/x", 400, 401)
			kept.collect(1)
			kept.send(packet(packets.Disconnect<<4, append([]byte{0, 5}, expiry(0)...)))
			kept.closed()
			eventually(t, "the group has ended", func() bool {
				r.s.routes.mu.RLock()
				defer r.s.routes.mu.RUnlock()
				bucket := b
				if how == "crash" {
					bucket = crashed
				}
				return len(r.s.routes.shares) == 0 && !bucket.has(shareKey+"$share/g/a/#")
			})
			r.stop()
		}
	}
}

// Members come and go while messages come: each is acknowledged by one of them.
func TestSharedSubscriptionWithMembersThatComeAndGo(t *testing.T) {
	b := newFakeBucket()
	r := start(t, persist(b, func(o *Options) { o.Log, o.Safety.QueuedMessages = newFakeLog(2), 20 }))
	const n = 3000
	var mu sync.Mutex
	got := map[string]int{}
	var members sync.WaitGroup
	stop := make(chan struct{})
	anchor, _ := r.resume(5, "anchor", append(expiry(600), packets.PropReceiveMaximum, 0, 3)...)
	anchor.subscribe("$share/g/#")
	r.leave(anchor, "anchor")
	for k := range 4 {
		members.Go(func() {
			for round := 0; ; round++ {
				select {
				case <-stop:
					return
				default:
				}
				nc, err := net.Dial("tcp", r.s.Addr(auth.Plain).String())
				if err != nil {
					return // the gateway has ended
				}
				p := &peer{t: t, nc: nc, r: bufio.NewReader(nc), v5: true}
				p.nc.Write(connectPacket(5, fmt.Sprint("m", k), byte(2*(k%2)), 60, append(expiry(uint32(600*(k%2))), packets.PropReceiveMaximum, 0, byte(1+k*3))))
				p.nc.Write(packet(packets.Subscribe<<4|2, append([]byte{0, 9, 0}, append(str("$share/g/#"), 1)...)))
				for i := 0; i < 20+17*k; {
					h, body, err := p.read()
					if err != nil {
						break
					}
					if h>>4 != packets.Publish {
						continue
					}
					i++
					d := p.parse(h, body)
					if i%7 == 6 {
						break // gone without an answer
					}
					mu.Lock()
					got[d.payload]++
					have := len(got)
					mu.Unlock()
					p.nc.Write([]byte{packets.Puback << 4, 2, byte(d.pid >> 8), byte(d.pid)})
					if have == n {
						break
					}
				}
				p.nc.Close()
			}
		})
	}
	for k := range 2 {
		pub := r.connect(4, fmt.Sprint(strings.Repeat("p", k+1)))
		members.Go(func() {
			for i := k; i < n; i += 2 {
				pub.publish("t", 1, uint16(i%60_000+1), fmt.Sprint(i))
				if _, _, err := pub.read(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	eventually(t, "every message was acknowledged by a member", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) == n
	})
	close(stop)
	r.stop() // ends those that wait for more
	members.Wait()
	twice := 0
	for _, k := range got {
		twice += k - 1
	}
	t.Log(twice, "came twice: their acknowledgement was lost with the connection")
}

func FuzzShareRecord(f *testing.F) {
	f.Add((&shareRecord{upto: []uint64{7, 0}, open: []where{{1, 3}, {0, 9}}}).append(nil))
	f.Add([]byte{1, 2, 0, 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeShare(b, 2)
		if err != nil {
			return
		}
		again, err := decodeShare(r.append(nil), 2)
		if err != nil || !slices.Equal(again.upto, r.upto) || !slices.Equal(again.open, r.open) {
			t.Fatal(err, again, r)
		}
	})
}

// What a member was sent and has not acknowledged goes to another member when its
// connection ends, also where it had left the group, and all else, before.
func TestAMemberThatLeftAndIsLost(t *testing.T) {
	for _, v := range versions {
		r := start(t, nil)
		pub, left, stays := r.connect(4, "pub"), r.connect(v, "left"), r.connect(v, "stays")
		left.subscribe("$share/g/t")
		pub.publish("t", 1, 1, "1")
		pub.puback()
		left.wants("1", false)
		stays.subscribe("$share/g/t")
		b := []byte{0, 9}
		if v == 5 {
			b = append(b, 0)
		}
		left.send(packet(packets.Unsubscribe<<4|2, append(b, str("$share/g/t")...)))
		left.expect(packets.Unsuback)
		r.leave(left, "left")
		stays.wants("1", false)
		r.stop()
	}
}
