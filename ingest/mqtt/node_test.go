package mqtt

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/nats-io/nats.go"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/test/natstest"
)

// testTTL is the lease of a gateway in tests: long enough for a loaded machine.
const testTTL = 2 * time.Second

// gateway runs one gateway of several, with a log of its own on the NATS server
// at url.
func gateway(t *testing.T, url string, more ...func(*Options)) *rig {
	t.Helper()
	l, err := eventlog.Open(t.Context(), eventlog.Options{URL: url, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	buckets := map[string]*kv.Bucket{}
	for _, name := range []string{"retained", "sessions", "leases"} {
		if buckets[name], err = kv.Open(t.Context(), l, kv.Config{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	between, err := l.Store().Connect("test")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		between.Close()
		cancel()
		running.Wait()
		l.Close()
	})
	return start(t, func(o *Options) {
		o.Log, o.Lifecycle = OnLog(l), true
		o.Retained, o.Sessions, o.Leases = buckets["retained"], buckets["sessions"], buckets["leases"]
		o.Conn, o.LeaseTTL = between, testTTL
		for _, f := range more {
			f(o)
		}
	})
}

// know waits until the gateways know each other.
func know(t *testing.T, all ...*rig) {
	t.Helper()
	for _, r := range all {
		eventually(t, "the gateways know each other", func() bool { return len(r.s.node.others()) >= len(all)-1 })
	}
}

// collectFrom reads deliveries of p until its connection ends or one has topic
// last, and acknowledges them.
func collectFrom(p *peer, take func(delivery), last string) bool {
	for {
		h, b, err := p.read()
		if err != nil {
			return false
		}
		if h>>4 != packets.Publish {
			continue
		}
		d := p.parse(h, b)
		take(d)
		if d.qos > 0 {
			p.nc.Write([]byte{packets.Puback << 4, 2, byte(d.pid >> 8), byte(d.pid)})
		}
		if d.topic == last {
			return true
		}
	}
}

// A client moves between gateways while others publish on both. The gateway it
// was at lets go, its session goes along, and everything comes in order.
func TestAClientMovesBetweenGateways(t *testing.T) {
	url := natstest.Start(t).URL()
	rigs := []*rig{gateway(t, url), gateway(t, url)}
	know(t, rigs...)
	for _, v := range versions {
		const moves, n = 6, 600
		s := &roamer{t: t, id: fmt.Sprint("mover", v), v: v, next: map[string]int{}}
		// The publishers' topics are in the session's order each by itself.
		var publishers sync.WaitGroup
		begin := make(chan struct{})
		for i, r := range rigs {
			publishers.Go(func() {
				<-begin
				p := r.connect(4, fmt.Sprintf("pub%d-%d", v, i))
				for k := range n {
					p.publish(fmt.Sprintf("t%d/%d", v, i), 1, uint16(k+1), fmt.Sprint(k))
					p.puback()
				}
			})
		}
		var last *peer
		for move := range moves {
			p, present := rigs[move%2].resume(v, s.id)
			if present != (move > 0) {
				t.Fatal("session present:", present)
			}
			if move == 0 {
				p.subscribe(fmt.Sprintf("t%d/#", v), "last")
				close(begin)
			} else {
				// What it was sent before the end is read to the end.
				sawCode := byte(0)
				for {
					h, b, err := last.read()
					if err != nil {
						break
					}
					if h>>4 == packets.Publish {
						s.take(last.parse(h, b))
					} else if h>>4 == packets.Disconnect && len(b) > 0 {
						sawCode = b[0]
					}
				}
				if v == 5 && sawCode != codeTakenOver {
					t.Errorf("the older connection was told %#x", sawCode)
				}
			}
			last = p
			if move == moves-1 {
				break
			}
			for range 40 { // it acknowledges some, and then stays behind
				h, b, err := p.read()
				if err != nil {
					t.Fatal(err)
				}
				if h>>4 != packets.Publish {
					continue
				}
				d := p.parse(h, b)
				s.take(d)
				p.ack(d.pid)
			}
		}
		var collector sync.WaitGroup
		collector.Go(func() {
			if !collectFrom(last, s.take, "last") {
				t.Error("the last connection has ended")
			}
		})
		publishers.Wait()
		done := rigs[0].connect(4, fmt.Sprint("done", v))
		done.publish("last", 1, 1, "0")
		done.puback()
		collector.Wait()
		for i := range rigs {
			if got := s.next[fmt.Sprintf("t%d/%d", v, i)]; got != n {
				t.Errorf("MQTT %d: %d of %d messages from gateway %d", v, got, n, i)
			}
		}
		t.Log("duplicates:", s.dups)
	}
}

// presence reads lifecycle events of a client.
func presence(t *testing.T, p *peer) lifecycle {
	t.Helper()
	d := p.delivery()
	var l lifecycle
	if err := json.Unmarshal([]byte(d.payload), &l); err != nil {
		t.Fatal(err)
	}
	if d.qos > 0 {
		p.ack(d.pid)
	}
	return l
}

// Moving shows as one disconnected and one connected event, in this order and
// with growing version numbers, whatever the gateways' clocks say.
func TestLifecycleOverGateways(t *testing.T) {
	url := natstest.Start(t).URL()
	ahead := gateway(t, url, func(o *Options) { o.Now = func() time.Time { return time.Now().Add(time.Hour) } })
	rigs := []*rig{ahead, gateway(t, url)}
	know(t, rigs...)
	watch := rigs[1].connect(4, "watch")
	watch.subscribe("$aws/events/presence/+/roamer")
	var version int64
	for move := range 4 {
		rigs[move%2].connect(5, "roamer")
		if move > 0 {
			l := presence(t, watch)
			if l.EventType != "disconnected" || l.Reason != "DUPLICATE_CLIENTID" || *l.Version != version {
				t.Fatalf("move %d: %+v", move, l)
			}
		}
		l := presence(t, watch)
		if l.EventType != "connected" || *l.Version <= version {
			t.Fatalf("move %d: %+v version %d after %d", move, l, *l.Version, version)
		}
		version = *l.Version
	}
}

// Two connections of one client id that begin at the same moment on two gateways
// leave one.
func TestTwoConnectsAtOnce(t *testing.T) {
	url := natstest.Start(t).URL()
	rigs := []*rig{gateway(t, url), gateway(t, url)}
	know(t, rigs...)
	for round := range 20 {
		var both sync.WaitGroup
		id := fmt.Sprint("twin", round%3)
		for _, r := range rigs {
			both.Go(func() {
				p := r.dial()
				p.nc.Write(connectPacket(4, id, 2, 60, nil))
				p.read() // accepted, or refused, or taken over
			})
		}
		both.Wait()
		eventually(t, "one connection is left", func() bool {
			n := 0
			for _, r := range rigs {
				if r.s.here(id) {
					n++
				}
			}
			return n <= 1
		})
	}
}

// Each gateway has all retained messages, and whoever of them is left keeps them.
func TestRetainedOverGateways(t *testing.T) {
	url := natstest.Start(t).URL()
	rigs := []*rig{gateway(t, url), gateway(t, url)}
	know(t, rigs...)
	slices.SortFunc(rigs, func(a, b *rig) int { return strings.Compare(a.s.node.id, b.s.node.id) }) // the first one saves
	retain := func(p *peer, name, payload string, pid uint16) {
		t.Helper()
		b := append(str(name), byte(pid>>8), byte(pid))
		p.send(packet(packets.Publish<<4|1<<1|1, append(b, payload...)))
		p.puback()
	}
	has := func(r *rig, name topic.Name, payload string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s is %q", name, payload), func() bool {
			m := r.s.Retained(name)
			return m == nil && payload == "" || m != nil && string(m.Payload) == payload
		})
	}
	p := rigs[0].connect(4, "p0")
	q := rigs[1].connect(4, "p1")
	for i := range 20 {
		retain(p, fmt.Sprint("r/", i), "first", uint16(i+1))
	}
	for i := range 10 {
		retain(q, fmt.Sprint("r/", i), "second", uint16(i+1))
	}
	retain(q, "r/19", "", 100)
	for _, r := range rigs {
		has(r, "r/3", "second")
		has(r, "r/12", "first")
		has(r, "r/19", "")
	}
	sub := rigs[0].connect(4, "sub")
	sub.subscribe("r/3")
	if d := sub.delivery(); d.payload != "second" || !d.retain {
		t.Errorf("%v", d)
	}
	eventually(t, "one gateway saves", func() bool {
		r := &rigs[0].s.routes
		r.mu.RLock()
		defer r.mu.RUnlock()
		return len(r.retained.changed) == 0
	})
	rigs[0].stop()
	retain(q, "r/12", "third", 101)
	eventually(t, "the other one saves", func() bool {
		r := &rigs[1].s.routes
		r.mu.RLock()
		defer r.mu.RUnlock()
		return len(r.retained.changed) == 0
	})
	rigs[1].stop()
	fresh := gateway(t, url)
	has(fresh, "r/3", "second")
	has(fresh, "r/12", "third")
	has(fresh, "r/15", "first")
	has(fresh, "r/19", "")
}

// Who asks for a client reaches it on whichever gateway it is, from a gateway and
// from a process that has none.
func TestClientsOverGateways(t *testing.T) {
	url := natstest.Start(t).URL()
	rigs := []*rig{gateway(t, url), gateway(t, url)}
	know(t, rigs...)
	conn, err := nats.Connect(url, nats.NoEcho())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	for i, g := range []*Gateways{NewGateways(rigs[0].s, rigs[0].s.node.nc), NewGateways(nil, conn)} {
		id := fmt.Sprint("device", i)
		rigs[0].connect(4, "local")
		p, _ := rigs[1].resume(5, id)
		p.subscribe("t/#")
		all, err := g.Connections(t.Context(), "", 10)
		if err != nil || len(all) != 2 || all[0].ClientID != id || all[1].ClientID != "local" {
			t.Fatal(all, err)
		}
		subs, err := g.ListSubscriptions(t.Context(), id)
		if err != nil || len(subs) != 1 || subs[0].Filter != "t/#" {
			t.Error(subs, err)
		}
		if err := g.DeleteConnection(t.Context(), id, false, false); err != nil {
			t.Fatal(err)
		}
		p.disconnected(codeAdministrative)
		c, err := g.GetConnection(t.Context(), id)
		if err != nil || c.Connected || c.CleanSession || len(c.Subscriptions) != 1 {
			t.Errorf("%+v, %v", c, err)
		}
		if err := g.DeleteConnection(t.Context(), id, true, false); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the session has ended everywhere", func() bool {
			all, err := g.Connections(t.Context(), "", 10)
			return err == nil && len(all) == 1
		})
		if err := g.DeleteConnection(t.Context(), "nobody", true, false); !errs.Is(err, errs.NotFound) {
			t.Error(err)
		}
	}
}

// A gateway that others take for dead, and which does not know that, cannot
// write over a session that has been taken over.
func TestASessionIsFenced(t *testing.T) {
	url := natstest.Start(t).URL()
	deaf := gateway(t, url)
	well := gateway(t, url)
	know(t, deaf, well)
	p, _ := deaf.resume(5, "s")
	p.subscribe("t/#")
	pub := well.connect(4, "pub")
	pub.publish("t/1", 1, 1, "1")
	pub.puback()
	first := p.delivery()
	// It cannot be asked any more, but its log and its client are there.
	deaf.s.node.nc.Close()
	q, present := well.resume(5, "s")
	if !present {
		t.Fatal("no session")
	}
	d := q.wants("1", true) // unacknowledged so far
	q.ack(d.pid)
	p.nc.Write([]byte{packets.Puback << 4, 2, byte(first.pid >> 8), byte(first.pid)}) // makes the deaf one write
	for {
		h, b, err := p.read()
		if err != nil {
			break
		}
		if h>>4 == packets.Disconnect && b[0] != codeTakenOver {
			t.Errorf("the older connection was told %#x", b[0])
		}
	}
	pub.publish("t/2", 1, 2, "2")
	pub.puback()
	q.ack(q.wants("2", false).pid)
	eventually(t, "saved", func() bool {
		well.s.sessions.mu.Lock()
		defer well.s.sessions.mu.Unlock()
		return len(well.s.sessions.dirty) == 0
	})
	q.ping()
	well.leave(q, "s")
	if _, present := well.resume(5, "s"); !present {
		t.Error("the session is gone")
	}
}

// A gateway that stood still for longer than its lease finds out which of its
// clients have gone elsewhere, those without a stored session too.
func TestAGatewayThatStoodStill(t *testing.T) {
	url := natstest.Start(t).URL()
	a, b := gateway(t, url), gateway(t, url)
	know(t, a, b)
	gone, stays := a.connect(4, "gone"), a.connect(4, "stays")
	b.connect(4, "elsewhere")
	b.s.mu.Lock()
	b.s.clients["gone"] = b.s.clients["elsewhere"] // taken over meanwhile
	b.s.mu.Unlock()
	a.s.node.recall(t.Context())
	gone.closed()
	stays.ping()
	b.s.mu.Lock()
	delete(b.s.clients, "gone")
	b.s.mu.Unlock()
}

// withWill connects with a will on name; props are those of CONNECT, willProps
// those of the will.
func withWill(t *testing.T, addr string, v byte, id, name string, flags byte, props, willProps []byte) *peer {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	p := &peer{t: t, nc: nc, r: bufio.NewReader(nc), v5: v == 5}
	rest := []byte{}
	if v == 5 {
		rest = append(appendLength(rest, len(willProps)), willProps...)
	}
	rest = append(append(rest, str(name)...), str("gone: "+id)...)
	p.send(connectPacket(v, id, flags|4|1<<3, 60, props, rest...))
	if _, b := p.expect(packets.Connack); b[1] != 0 {
		t.Fatalf("CONNACK %#x", b[1])
	}
	return p
}

func willDelay(seconds byte) []byte {
	return []byte{packets.PropWillDelayInterval, 0, 0, 0, seconds}
}

// onLog returns the payloads of what is on the log on topics that match f.
func onLog(t *testing.T, r *rig, f topic.Filter) []string {
	t.Helper()
	var all []string
	for p := range r.s.log.Partitions() {
		fl, err := r.s.log.Follow(eventlog.FollowOptions{Partition: p, Filters: []topic.Filter{f}, Mode: topic.Standard, ToEnd: true})
		if err != nil {
			t.Fatal(err)
		}
		for {
			batch, _, err := fl.Next(t.Context(), 100)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range batch {
				all = append(all, string(e.Payload))
			}
		}
		fl.Close()
	}
	return all
}

// A gateway is killed. The others publish its clients' wills, once; a client that
// comes back before its will's delay has passed takes it back, and finds its
// session and what it has missed at another gateway, at once.
func TestAKilledGatewayOfSeveral(t *testing.T) {
	url := natstest.Start(t).URL()
	rigs := []*rig{gateway(t, url), gateway(t, url)}
	addr, kill := child(t, t.TempDir(), childURL+"="+url)
	for _, r := range rigs {
		eventually(t, "the gateways know each other", func() bool { return len(r.s.node.others()) == 2 })
	}

	withWill(t, addr, 4, "w4", "will/w4", 2, nil, nil)
	withWill(t, addr, 5, "w5", "will/w5", 2, expiry(600), nil)
	withWill(t, addr, 5, "later", "will/later", 2, expiry(600), willDelay(2))
	withWill(t, addr, 5, "back", "will/back", 2, expiry(600), willDelay(30))
	leaver := withWill(t, addr, 4, "leaver", "will/leaver", 2, nil, nil)
	leaver.send([]byte{packets.Disconnect << 4, 0})
	leaver.closed()
	mover, _ := dialChild(t, addr, 5, "mover", 0)
	mover.subscribe("t/#")
	pub := rigs[0].connect(4, "pub")
	pub.publish("t/1", 1, 1, "1")
	pub.puback()
	mover.ack(mover.delivery().pid)
	time.Sleep(2 * sessionsEvery) // that it has acknowledged is saved
	kill()
	pub.publish("t/2", 1, 2, "2")
	pub.puback()

	began := time.Now()
	m, present := rigs[1].resume(5, "mover")
	if !present {
		t.Error("its session is not there")
	}
	d := m.delivery() // with DUP, where this gateway had heard of it when it took over: the killed one may have sent it
	if d.payload != "2" {
		t.Fatalf("got %q", d.payload)
	}
	m.ack(d.pid)
	if d := time.Since(began); d > testTTL {
		t.Errorf("it is served after %v", d)
	}
	back := withWill(t, rigs[1].s.Addr(auth.Plain).String(), 5, "back", "will/back2", 0, expiry(600), nil)
	wills := func() []string {
		all := onLog(t, rigs[0], "will/#")
		slices.Sort(all)
		return all
	}
	eventually(t, "three wills", func() bool { return len(wills()) >= 3 })
	time.Sleep(500 * time.Millisecond) // for what must not come
	if got := wills(); !slices.Equal(got, []string{"gone: later", "gone: w4", "gone: w5"}) {
		t.Errorf("%q", got)
	}
	back.nc.Close()
	eventually(t, "the new will", func() bool { return slices.Contains(wills(), "gone: back") })
	eventually(t, "all wills are cleared", func() bool {
		for _, r := range rigs {
			r.s.node.mu.Lock()
			n := len(r.s.node.wills)
			r.s.node.mu.Unlock()
			if n > 0 {
				return false
			}
		}
		return true
	})
}

// A single gateway publishes the wills of its killed predecessor itself, before
// anybody is let in.
func TestWillsOfAKilledGateway(t *testing.T) {
	dir := t.TempDir()
	addr, kill := child(t, dir)
	withWill(t, addr, 4, "w4", "will/w4", 2, nil, nil)
	withWill(t, addr, 5, "w5", "will/w5", 2, nil, nil)
	left := withWill(t, addr, 5, "left", "will/left", 2, nil, nil)
	left.send([]byte{packets.Disconnect << 4, 0})
	left.closed()
	watcher, _ := dialChild(t, addr, 4, "watcher", 2)
	watcher.subscribe("will/taken")
	withWill(t, addr, 4, "taken", "will/taken", 2, nil, nil)
	withWill(t, addr, 4, "taken", "will/taken", 2, nil, nil) // the first one's is published now
	watcher.delivery()
	kill()
	addr, kill = child(t, dir)
	p, _ := dialChild(t, addr, 4, "w4", 2)
	p.publish("end", 1, 1, "x")
	p.puback()
	p.nc.Close()
	kill()
	l, err := eventlog.Open(t.Context(), eventlog.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.Follow(eventlog.FollowOptions{ToEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []string
	for {
		batch, _, err := f.Next(t.Context(), 100)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch {
			got = append(got, string(e.Topic))
		}
	}
	want := []string{"will/taken", "will/taken", "will/w4", "will/w5", "end"}
	if len(got) != len(want) || got[0] != want[0] || got[len(got)-1] != "end" {
		t.Errorf("%q", got)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
