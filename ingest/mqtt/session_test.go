package mqtt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/topic"
)

// persist is a change of a rig's options that gives it persistent sessions.
func persist(b *fakeBucket, more ...func(*Options)) func(*Options) {
	return func(o *Options) {
		o.Sessions = b
		for _, f := range more {
			f(o)
		}
	}
}

func expiry(seconds uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{packets.PropSessionExpiryInterval}, seconds)
}

// resume connects without clean start, as a client that wants its session kept.
func (r *rig) resume(version byte, id string, props ...byte) (p *peer, present bool) {
	r.t.Helper()
	p = r.dial()
	p.v5 = version == 5
	if p.v5 && !bytes.Contains(props, []byte{packets.PropSessionExpiryInterval}) {
		props = append(expiry(600), props...)
	}
	p.send(connectPacket(version, id, 0, 60, props))
	_, b := p.expect(packets.Connack)
	if b[1] != 0 {
		r.t.Fatalf("CONNACK %#x", b[1])
	}
	return p, b[0] == 1
}

// leave ends the connection without a word and waits until the server has seen
// it.
func (r *rig) leave(p *peer, id string) {
	r.t.Helper()
	p.nc.Close()
	r.gone(id)
}

func (r *rig) gone(id string) {
	r.t.Helper()
	eventually(r.t, id+" is gone", func() bool {
		return !slices.ContainsFunc(r.s.Clients(), func(c ClientInfo) bool { return c.ClientID == id })
	})
}

func (p *peer) wants(payload string, dup bool) delivery {
	p.t.Helper()
	d := p.delivery()
	if d.payload != payload || d.dup != dup {
		p.t.Fatalf("got %q, duplicate %v; want %q, %v", d.payload, d.dup, payload, dup)
	}
	return d
}

func TestSessionReturns(t *testing.T) {
	for _, v := range versions {
		for _, parts := range []int{1, 3} {
			b := newFakeBucket()
			r := start(t, persist(b, func(o *Options) { o.Log = newFakeLog(parts) }))
			pub := r.connect(4, "pub")
			sub, present := r.resume(v, "sub")
			if present {
				t.Error("a session that was not there")
			}
			sub.subscribe("a/#", "b")
			sub.subscribeWith(nil, 0, "zero")
			if !b.has("sub") {
				t.Error("SUBACK before the session was saved")
			}
			for i := 1; i <= 3; i++ {
				pub.publish("a/x", 1, uint16(i), fmt.Sprint(i))
				pub.puback()
			}
			one, two, three := sub.delivery(), sub.delivery(), sub.delivery()
			sub.ack(two.pid)
			sub.ping()
			r.leave(sub, "sub")
			for i := 4; i <= 300; i++ {
				pub.publish([]string{"a/x", "b", "c"}[i%3], 1, uint16(i), fmt.Sprint(i))
				pub.puback()
			}
			pub.publish("a/x", 0, 0, "QoS 0 is not kept")
			pub.publish("zero", 1, 1, "nor is this")
			pub.puback()
			eventually(t, "handed out", func() bool {
				for p := range parts {
					if r.s.handed[p].Load() < r.log.Committed(p) {
						return false
					}
				}
				return true
			})

			sub, present = r.resume(v, "sub")
			if !present {
				t.Fatal("no session")
			}
			if d := sub.wants("1", true); d.pid != one.pid {
				t.Error("packet id", d.pid, "was", one.pid)
			} else {
				sub.ack(d.pid)
			}
			if d := sub.wants("3", true); d.pid != three.pid {
				t.Error("packet id", d.pid, "was", three.pid)
			} else {
				sub.ack(d.pid)
			}
			for i := 4; i <= 300; i++ {
				if i%3 != 2 {
					sub.ack(sub.wants(fmt.Sprint(i), false).pid)
				}
			}
			pub.publish("a/x", 1, 1, "live")
			pub.puback()
			sub.ack(sub.wants("live", false).pid)
			pub.publish("zero", 0, 0, "live too")
			sub.wants("live too", false)
			sub.ping()
			// Nothing is left for the next time, on a gateway that starts anew.
			r.stop()
			r = start(t, persist(b, func(o *Options) { o.Log = r.log }))
			sub, present = r.resume(v, "sub")
			sub.ping()
			pub = r.connect(4, "pub")
			pub.publish("b", 1, 1, "again")
			sub.wants("again", false)
			if !present {
				t.Error("no session after a restart")
			}
			r.stop()
		}
	}
}

// What an old connection was sent and did not acknowledge comes with the window
// of the new one.
func TestSessionReturnsWithASmallerWindow(t *testing.T) {
	r := start(t, persist(newFakeBucket()))
	pub := r.connect(4, "pub")
	sub, _ := r.resume(5, "sub")
	sub.subscribe("a")
	for i := range 20 {
		pub.publish("a", 1, uint16(i+1), fmt.Sprint(i))
		pub.puback()
	}
	for i := range 20 {
		sub.wants(fmt.Sprint(i), false)
	}
	r.leave(sub, "sub")
	sub, _ = r.resume(5, "sub", append(expiry(60), packets.PropReceiveMaximum, 0, 2)...)
	pub.publish("a", 1, 1, "20")
	pub.puback()
	for i := 0; i <= 20; i += 2 {
		first := sub.wants(fmt.Sprint(i), i < 20)
		if i == 20 {
			sub.ack(first.pid)
			break
		}
		second := sub.wants(fmt.Sprint(i+1), true)
		sub.ping() // and nothing more
		sub.ack(first.pid)
		sub.ack(second.pid)
	}
	sub.ping()
}

// After a crash the messages of the last moment come again, as duplicates, and
// nothing is missing.
func TestSessionAfterACrash(t *testing.T) {
	for _, v := range versions {
		b := newFakeBucket()
		r := start(t, persist(b))
		pub := r.connect(4, "pub")
		sub, _ := r.resume(v, "sub")
		sub.subscribe("a")
		crashed := b.copy() // as SUBACK left it
		for i := range 50 {
			pub.publish("a", 1, uint16(i+1), fmt.Sprint(i))
			pub.puback()
			sub.ack(sub.wants(fmt.Sprint(i), false).pid)
		}
		sub.ping()
		old := r
		r = start(t, persist(crashed, func(o *Options) { o.Log = r.log }))
		pub = r.connect(4, "pub")
		pub.publish("a", 1, 1, "50")
		pub.puback()
		sub, present := r.resume(v, "sub")
		if !present {
			t.Fatal("no session")
		}
		for i := range 51 {
			sub.ack(sub.wants(fmt.Sprint(i), i < 50).pid)
		}
		sub.ping()
		r.stop()
		old.stop()
	}
}

func TestSessionIsSavedWhileConnected(t *testing.T) {
	b := newFakeBucket()
	r := start(t, persist(b))
	pub := r.connect(4, "pub")
	sub, _ := r.resume(4, "sub")
	sub.subscribe("a")
	pub.publish("a", 1, 1, "acknowledged")
	pub.publish("a", 1, 2, "in flight")
	pub.puback()
	pub.puback()
	sub.ack(sub.delivery().pid)
	d := sub.delivery()
	eventually(t, "saved", func() bool {
		e, _ := b.Get(context.Background(), "sub")
		rec, err := decodeRecord(e.Value, 1)
		return err == nil && rec.cursor[0] == 1 && len(rec.flights) == 1 && packetID(rec.head) == d.pid && rec.left.IsZero()
	})
	commits := func() int { b.mu.Lock(); defer b.mu.Unlock(); return b.commits }
	n := commits()
	time.Sleep(2 * sessionsEvery)
	if commits() != n {
		t.Error("saved without a change")
	}
}

// byName takes a client's user name for its identity.
type byName struct{}

func (byName) Authenticate(_ context.Context, c *auth.Connection) (*auth.Principal, error) {
	return &auth.Principal{ID: c.Username, ClientID: c.ClientID}, nil
}

func TestSessionEnds(t *testing.T) {
	b := newFakeBucket()
	var clock atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }
	r := start(t, persist(b, func(o *Options) { o.Now, o.Retention, o.Authenticator = now, 2*time.Hour, byName{} }))
	begin := func(v byte, id string, props ...byte) *peer {
		t.Helper()
		p, present := r.resume(v, id, props...)
		if present {
			t.Error(id, "has a session already")
		}
		p.subscribe("a")
		return p
	}
	none := func(v byte, id string) {
		t.Helper()
		p, present := r.resume(v, id)
		if present {
			t.Error(id, "still has a session")
		}
		r.leave(p, id)
	}
	// Clean start, with either version, discards it.
	for _, v := range versions {
		r.leave(begin(4, "clean"), "clean")
		p := r.connect(v, "clean")
		if b.has("clean") {
			t.Error("CONNACK before the old session was cleared")
		}
		r.leave(p, "clean")
		none(4, "clean")
		r.leave(r.connect(4, "clean"), "clean")
	}
	// Expiry.
	r.leave(begin(5, "expires", expiry(100)...), "expires")
	r.leave(begin(4, "hour"), "hour")
	clock.Add(int64(101 * time.Second))
	none(5, "expires")
	eventually(t, "the sweep", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.values["hour"] != nil })
	p, present := r.resume(4, "hour")
	if !present {
		t.Error("expired too early")
	}
	clock.Add(int64(61 * time.Minute)) // connected: it does not expire
	p.ping()
	r.leave(p, "hour")
	if p, present = r.resume(4, "hour"); !present {
		t.Error("expired while connected")
	}
	r.leave(p, "hour")
	clock.Add(int64(61 * time.Minute))
	eventually(t, "cleared when expired", func() bool { return !b.has("hour") })
	// DISCONNECT changes the expiry.
	p = begin(5, "ends", expiry(100)...)
	p.send(packet(packets.Disconnect<<4, append([]byte{0, 5}, expiry(0)...)))
	p.closed()
	r.gone("ends")
	if b.has("ends") {
		t.Error("a session that ends with its connection is kept")
	}
	none(5, "ends")
	p = begin(5, "none", expiry(0)...)
	p.send(packet(packets.Disconnect<<4, append([]byte{0, 5}, expiry(10)...)))
	p.disconnected(codeProtocol)
	// A session that is wanted back for one last connection.
	r.leave(begin(5, "last"), "last")
	p, present = r.resume(5, "last", expiry(0)...)
	if !present {
		t.Error("no session")
	}
	if b.has("last") {
		t.Error("a session that ends with its connection is stored")
	}
	r.leave(p, "last")
	none(5, "last")
	// Another principal.
	r.leave(begin(4, "whose"), "whose")
	p = r.dial()
	p.send(connectPacket(4, "whose", 0x80, 60, nil, str("somebody else")...))
	if _, body := p.expect(packets.Connack); body[0] != 0 || body[1] != 0 {
		t.Errorf("CONNACK % x", body)
	}
	pub := r.connect(4, "pub")
	pub.publish("a", 1, 1, "secret")
	pub.puback()
	p.ping()
	r.leave(p, "whose")
	none(4, "whose")
	// What holds is announced.
	for asked, want := range map[uint32]uint32{7: 7, 7200: 7200, 7201: 7200, 1<<32 - 1: 7200} {
		p := r.dial()
		p.send(connectPacket(5, "announce", 2, 60, expiry(asked)))
		code, props := p.connack()
		pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, ProtocolVersion: 5}
		if err := pk.ConnackDecode(append([]byte{0, code}, props...)); err != nil || pk.Properties.SessionExpiryInterval != want {
			t.Error(asked, err, pk.Properties.SessionExpiryInterval)
		}
	}
	for _, line := range strings.Split(r.out.String(), "\n") {
		if strings.Contains(line, "level=ERROR") {
			t.Error(line)
		}
	}
}

func TestSessionTakeover(t *testing.T) {
	for _, v := range versions {
		r := start(t, persist(newFakeBucket()))
		pub := r.connect(4, "pub")
		first, _ := r.resume(v, "same")
		first.subscribe("a")
		pub.publish("a", 1, 1, "1")
		pub.puback()
		d := first.wants("1", false)
		second, present := r.resume(v, "same")
		if !present {
			t.Error("no session")
		}
		if again := second.wants("1", true); again.pid != d.pid {
			t.Error(again.pid, d.pid)
		}
		first.disconnected(codeTakenOver)
		pub.publish("a", 1, 2, "2")
		second.wants("2", false)
		r.stop()
	}
}

// Where the bucket fails, nothing is promised.
func TestSessionThatCannotBeSaved(t *testing.T) {
	for _, v := range versions {
		b := newFakeBucket()
		r := start(t, persist(b))
		sub, _ := r.resume(v, "sub")
		sub.subscribe("a")
		b.set(errors.New("full"))
		if c := sub.subscribe("b"); c[0] < 0x80 {
			t.Errorf("SUBACK %#x", c)
		}
		p := r.dial()
		p.send(connectPacket(v, "other", 0, 60, map[byte][]byte{5: expiry(10)}[v]))
		if _, body := p.expect(packets.Connack); body[1] != map[byte]byte{4: 3, 5: codeUnavailable}[v] {
			t.Errorf("CONNACK % x", body)
		}
		transient := r.connect(v, "transient") // has no session to save
		transient.subscribe("b")
		transient.publish("b", 1, 1, "x")
		for range 2 { // PUBACK and its own message; the failed subscription gets none
			transient.read()
		}
		transient.publish("a", 1, 2, "y")
		transient.puback()
		sub.wants("y", false)
		body := append([]byte{0, 9}, str("a")...)
		if v == 4 {
			sub.send(packet(packets.Unsubscribe<<4|2, body))
			sub.closed()
		} else {
			sub.send(packet(packets.Unsubscribe<<4|2, append([]byte{0, 9, 0}, str("a")...)))
			if _, body := sub.expect(packets.Unsuback); body[3] != codeUnspecified {
				t.Errorf("UNSUBACK % x", body)
			}
			sub.nc.Close()
		}
		r.gone("sub")
		b.set(nil)
		// The end was not saved either: what had been sent comes as a duplicate.
		sub, present := r.resume(v, "sub")
		if !present {
			t.Error("no session")
		}
		sub.wants("y", true)
		r.stop()
	}
}

// A message in flight is sent again though its subscription is gone.
func TestSessionUnsubscribedInFlight(t *testing.T) {
	for _, keep := range []bool{true, false} {
		r := start(t, persist(newFakeBucket()))
		pub := r.connect(4, "pub")
		sub, _ := r.resume(4, "sub")
		sub.subscribe("a/#")
		if keep {
			sub.subscribe("other")
		}
		pub.publish("a/1", 1, 1, "x")
		pub.publish("a/2", 1, 2, "y")
		pub.puback()
		pub.puback()
		x, y := sub.wants("x", false), sub.wants("y", false)
		sub.send(packet(packets.Unsubscribe<<4|2, append([]byte{0, 9}, str("a/#")...)))
		sub.expect(packets.Unsuback)
		for range 2 {
			r.leave(sub, "sub")
			pub.publish("a/3", 1, 3, "gone")
			pub.puback()
			sub, _ = r.resume(4, "sub")
			if d := sub.wants("x", true); d.pid != x.pid {
				t.Error(d.pid)
			}
			if d := sub.wants("y", true); d.pid != y.pid {
				t.Error(d.pid)
			}
		}
		sub.ack(x.pid)
		sub.ack(y.pid)
		sub.ping()
		r.leave(sub, "sub")
		sub, _ = r.resume(4, "sub")
		pub.publish("other", 1, 4, "z")
		pub.puback()
		if keep {
			sub.wants("z", false)
		}
		sub.ping()
		r.stop()
	}
}

// Subscribing again while messages wait does not lose or repeat any.
func TestSessionSubscribesAgain(t *testing.T) {
	r := start(t, persist(newFakeBucket()))
	pub := r.connect(4, "pub")
	sub, _ := r.resume(5, "sub", append(expiry(60), packets.PropReceiveMaximum, 0, 1)...)
	sub.subscribe("a")
	send := func(from, to int) {
		for i := from; i < to; i++ {
			pub.publish("a", 1, uint16(i+1), fmt.Sprint(i))
			pub.puback()
		}
	}
	send(0, 10)
	d := sub.wants("0", false)
	if c := sub.subscribe("a"); c[0] != 1 {
		t.Fatal(c)
	}
	r.leave(sub, "sub")
	send(10, 20)
	sub, _ = r.resume(5, "sub", append(expiry(60), packets.PropReceiveMaximum, 0, 1)...)
	again := sub.wants("0", true)
	if again.pid != d.pid {
		t.Error(again.pid)
	}
	sub.subscribe("a", "b")
	sub.ack(again.pid)
	for i := 1; i < 20; i++ {
		sub.ack(sub.wants(fmt.Sprint(i), false).pid)
	}
	sub.ping()
}

func TestSessionRetainedInFlight(t *testing.T) {
	r := start(t, persist(newFakeBucket(), func(o *Options) {
		o.Retained, o.Limits = newFakeBucket(), ingest.Relaxed()
	}))
	pub := r.connect(4, "pub")
	for i, n := range []string{"k/1", "k/2", "k/3", "k/4"} {
		pub.retain(n, n, uint16(i+1))
		pub.puback()
	}
	eventually(t, "retained", func() bool { return r.s.Retained("k/4") != nil })
	window := append(expiry(60), packets.PropReceiveMaximum, 0, 2)
	sub, _ := r.resume(5, "sub", window...)
	sub.subscribe("k/#")
	one := sub.wants("k/1", false)
	sub.wants("k/2", false)
	r.leave(sub, "sub")
	pub.retain("k/2", "new", 9)
	pub.puback()
	eventually(t, "retained", func() bool { return string(r.s.Retained("k/2").Payload) == "new" })
	sub, _ = r.resume(5, "sub", window...)
	if d := sub.wants("k/1", true); d.pid != one.pid || !d.retain {
		t.Error(d)
	} else {
		sub.ack(d.pid)
	}
	for _, want := range []string{"k/3", "k/4", "new"} {
		d := sub.wants(want, false)
		if d.retain != (want != "new") {
			t.Error(d)
		}
		sub.ack(d.pid)
	}
	sub.ping()
}

// The log's end was lost and its sequences are used again; or its beginning was
// trimmed before the client came back.
func TestSessionBeyondTheLog(t *testing.T) {
	b := newFakeBucket()
	r := start(t, persist(b))
	pub := r.connect(4, "pub")
	sub, _ := r.resume(4, "sub")
	sub.subscribe("a")
	for i := range 10 {
		pub.publish("a", 1, uint16(i+1), fmt.Sprint(i))
		pub.puback()
		if d := sub.wants(fmt.Sprint(i), false); i < 8 {
			sub.ack(d.pid)
		}
	}
	sub.ping()
	r.leave(sub, "sub")
	r.stop()
	l := newFakeLog(1)
	l.parts[0], l.committed[0] = r.log.parts[0][:5], 5
	r = start(t, persist(b, func(o *Options) { o.Log = l }))
	pub = r.connect(4, "pub")
	for i := range 20 {
		pub.publish("a", 1, uint16(i+1), fmt.Sprint("new ", i))
		pub.puback()
	}
	sub, _ = r.resume(4, "sub")
	for i := range 20 {
		d := sub.delivery()
		if d.payload != fmt.Sprint("new ", i) {
			t.Fatal(d, i)
		}
		if i < 10 {
			sub.ack(d.pid)
		}
	}
	sub.ping()
	r.leave(sub, "sub")
	l.mu.Lock()
	l.trimmed = 20 // five of those in flight
	l.mu.Unlock()
	sub, _ = r.resume(4, "sub")
	for i := 15; i < 20; i++ {
		sub.ack(sub.wants(fmt.Sprint("new ", i), true).pid)
	}
	pub.publish("a", 1, 1, "live")
	pub.puback()
	sub.wants("live", false)
	sub.ping()
	if !strings.Contains(r.out.String(), "overtaken by trimming") {
		t.Error("the gap is not told")
	}
}

// Subscribers drop and come back at random while publishers go on; gateways end
// and crash at random too. Every message of QoS 1 comes in order, and what comes
// twice says so.
func TestSessionsAtRandom(t *testing.T) {
	for _, parts := range []int{1, 2} {
		seed := uint64(time.Now().UnixNano())
		t.Log("seed", seed)
		rnd := rand.New(rand.NewPCG(seed, 1))
		log, b := newFakeLog(parts), newFakeBucket()
		tight := func(o *Options) {
			o.Log = log
			o.Safety.QueuedMessages, o.Safety.PendingBytes = 5, 4<<10
		}
		r := start(t, persist(b, tight))
		subs := make([]*roamer, 4)
		for i := range subs {
			subs[i] = &roamer{t: t, id: fmt.Sprint("sub", i), v: versions[i%2], next: map[string]int{}, rnd: rand.New(rand.NewPCG(seed, uint64(i+2)))}
			p, _ := r.resume(subs[i].v, subs[i].id)
			p.subscribe("t/+", "t/x")
			r.leave(p, subs[i].id)
		}
		sent := map[string]int{}
		const rounds, each = 6, 250
		for round := range rounds {
			var pubs, roam sync.WaitGroup
			done := make(chan struct{})
			for _, id := range []string{"x", "yy"} { // different partitions, where there are two
				pub := r.connect(4, id)
				from := sent[id]
				sent[id] += each
				pubs.Go(func() {
					for i := from; i < from+each; i++ {
						pub.publish("t/"+id, 1, uint16(i+1), fmt.Sprint(i))
						if _, _, err := pub.read(); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			for _, s := range subs {
				roam.Go(func() { s.roam(r, done) })
			}
			pubs.Wait()
			time.Sleep(time.Duration(rnd.IntN(50)) * time.Millisecond)
			close(done)
			roam.Wait()
			if round%2 == 1 {
				// A crash, with some of them connected: what the bucket has now is
				// all there is.
				b = b.copy()
			}
			r.stop()
			r = start(t, persist(b, tight))
		}
		for _, s := range subs {
			p, present := r.resume(s.v, s.id)
			if !present {
				t.Fatal("no session")
			}
			deadline := time.Now().Add(20 * time.Second)
			for s.next["t/x"] < sent["x"] || s.next["t/yy"] < sent["yy"] {
				if time.Now().After(deadline) || t.Failed() {
					t.Fatal(s.id, s.next, sent)
				}
				d := p.delivery()
				s.take(d)
				p.ack(d.pid)
			}
			t.Log(s.id, s.returns, "returns", s.dups, "duplicates")
			r.leave(p, s.id)
		}
		r.stop()
	}
}

// roamer is a subscriber that drops and comes back.
type roamer struct {
	t             *testing.T
	id            string
	v             byte
	rnd           *rand.Rand
	next          map[string]int
	returns, dups int
}

// take holds a delivery against what came before.
func (s *roamer) take(d delivery) {
	var i int
	fmt.Sscan(d.payload, &i)
	switch n := s.next[d.topic]; {
	case i == n:
		s.next[d.topic]++
	case i > n:
		s.t.Errorf("%s: %s is %d after %d", s.id, d.topic, i, n-1)
		s.next[d.topic] = i + 1
	default:
		s.dups++
		if !d.dup {
			s.t.Errorf("%s: %s is %d again and does not say so", s.id, d.topic, i)
		}
	}
}

func (s *roamer) roam(r *rig, done chan struct{}) {
	for {
		select {
		case <-done:
			return
		default:
		}
		p := r.dial()
		p.v5 = s.v == 5
		var props []byte
		if p.v5 {
			props = append(expiry(600), packets.PropReceiveMaximum, 0, byte(1+s.rnd.IntN(10)))
		}
		p.send(connectPacket(s.v, s.id, 0, 60, props))
		_, b, err := p.read()
		if err != nil || b[1] != 0 || b[0] != 1 {
			s.t.Errorf("%s: CONNACK % x, %v", s.id, b, err)
			return
		}
		s.returns++
		for range s.rnd.IntN(100) {
			p.nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			h, err := p.r.ReadByte()
			if err != nil {
				break
			}
			n, _ := binary.ReadUvarint(p.r)
			b := make([]byte, n)
			p.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := readFull(p, b); err != nil {
				break
			}
			if h>>4 != packets.Publish {
				continue
			}
			d := p.parse(h, b)
			s.take(d)
			if s.rnd.IntN(10) > 0 { // some are acknowledged late, or never
				p.nc.Write([]byte{packets.Puback << 4, 2, byte(d.pid >> 8), byte(d.pid)})
			}
		}
		select {
		case <-done:
			if s.rnd.IntN(2) == 0 {
				return // connected still
			}
		default:
		}
		p.nc.Close()
	}
}

func readFull(p *peer, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		k, err := p.r.Read(b[n:])
		if n += k; err != nil {
			return n, err
		}
	}
	return n, nil
}

func FuzzRecord(f *testing.F) {
	r := record{
		principal: "p", expiry: time.Hour, left: time.UnixMilli(1), cursor: []uint64{5, 7}, dup: []uint64{9, 7}, head: packetIDs - 1,
		subs: []*subscription{
			{filter: "a/#", qos: 1, id: 7, noLocal: true, retainAsPublished: true, start: []uint64{6, 7}},
			{filter: "+", start: []uint64{0, 0}},
		},
		ghosts:  []topic.Filter{"b"},
		flights: []flight{{seq: 6, retain: true}, {seq: 3, part: 1, done: true}, {seq: 2, retained: true, retain: true}},
		names:   map[uint64]topic.Name{packetIDs + 1: "k"}, unsent: []unsent{{"u", "+"}},
		replaced: []*subscription{{filter: "+", qos: 1, start: []uint64{0, 3}, until: []uint64{6, 7}}},
	}
	f.Add(appendRecord(nil, &r))
	f.Add(appendRecord(nil, &record{cursor: []uint64{0, 0}, dup: []uint64{0, 0}}))
	f.Add([]byte{recordVersion})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b, 2)
		if err != nil {
			return
		}
		again, err := decodeRecord(appendRecord(nil, r), 2)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := appendRecord(nil, r), appendRecord(nil, again); !bytes.Equal(a, b) {
			t.Errorf("% x\n% x", a, b)
		}
		r.clamp(func(int) uint64 { return 4 })
		for p := range r.cursor {
			if r.cursor[p] > 4 || r.dup[p] > 4 {
				t.Error(r.cursor, r.dup)
			}
		}
	})
}

// A crowd that comes back is let in however long each of its sessions takes to be
// joined to the others, and though one of them cannot be read at once.
func TestACrowdReturns(t *testing.T) {
	for _, v := range versions {
		b := newFakeBucket()
		r := start(t, persist(b, func(o *Options) { o.Safety.Unauthenticated = 3 }))
		id := func(i int) string { return fmt.Sprint("s", i) }
		const crowd = 12
		for i := range crowd {
			p, _ := r.resume(v, id(i))
			p.subscribe("t")
			r.leave(p, id(i))
		}
		b.mu.Lock()
		b.unread = 2
		b.mu.Unlock()
		r.s.routes.mu.RLock() // nobody is joined
		var back []*peer
		for i := range crowd {
			p, present := r.resume(v, id(i))
			if !present {
				t.Error("no session")
			}
			back = append(back, p)
		}
		r.s.routes.mu.RUnlock()
		r.connect(4, "pub").publish("t", 1, 1, "1")
		for _, p := range back {
			p.wants("1", false)
		}
		r.stop()
	}
}

// What an earlier connection was sent and has acknowledged is over, also while the
// one before it was not: it is neither sent again, nor does it need room that those
// behind it take.
func TestAcknowledgedBeyondTheHead(t *testing.T) {
	s := newSession(&client{s: start(t, nil).s}, 2)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restore(&record{
		cursor: []uint64{0, 10}, dup: []uint64{4, 12},
		flights: []flight{{seq: 1}, {seq: 11, part: 1, done: true}, {seq: 2, done: true}, {seq: 3, done: true}, {seq: 5}},
	})
	if at := s.cursors(); !slices.Equal(at, []uint64{0, 10}) {
		t.Fatal(at)
	}
	for seq, want := range map[uint64]bool{2: true, 4: true, 5: false, 6: false} {
		if s.passed(0, seq) != want {
			t.Errorf("%d was passed: %t", seq, !want)
		}
	}
	if _, ok := s.take(packetID(0)); !ok {
		t.Fatal("the head is not under way")
	}
	// The session has read nothing of it yet.
	if at := s.cursors(); !slices.Equal(at, []uint64{3, 11}) || s.flightHead != 4 {
		t.Errorf("settled up to %v, head %d", at, s.flightHead)
	}
}

// Of a session whose last record is not its last state, all that there was to send
// counts as sent before, also what only another gateway knows of.
func TestTakenOverWithoutItsLastState(t *testing.T) {
	l, b := newFakeLog(1), newFakeBucket()
	r := start(t, persist(b, func(o *Options) { o.Log = l }))
	p, _ := r.resume(5, "p")
	p.subscribe("t")
	pub := r.connect(4, "pub")
	pub.publish("t", 1, 1, "1")
	pub.puback()
	p.wants("1", false)
	r.leave(p, "p")
	r.s.sessions.set("p", stored{unsure: true})
	l.untold = 3
	p, _ = r.resume(5, "p")
	p.wants("1", true)
	l.untold = 0
	for i := 2; i <= 6; i++ {
		pub.publish("t", 1, uint16(i), fmt.Sprint(i))
		pub.puback()
		p.wants(fmt.Sprint(i), i <= 4)
	}
}

// What has not been written yet makes no client slow: nobody would tell when that
// is over.
func TestAFullBufferAloneIsNotSlow(t *testing.T) {
	const most = 4 << 10
	r := start(t, func(o *Options) { o.Safety.PendingBytes = most })
	p := r.connect(4, "p")
	r.s.mu.Lock()
	s := r.s.clients["p"].sess
	r.s.mu.Unlock()
	s.mu.Lock()
	s.buf = bytes.Repeat([]byte{packets.Pingresp << 4, 0}, most/2)
	slow, left := s.slow(), len(s.buf)
	s.mu.Unlock()
	if slow || left > 0 {
		t.Errorf("slow: %t, %d bytes are not written", slow, left)
	}
	for range most / 2 {
		p.expect(packets.Pingresp)
	}
}
