package mqtt

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// subscription is one filter of one session.
type subscription struct {
	sess   *session
	filter topic.Filter
	qos    byte
	id     uint32 // MQTT 5 subscription identifier; 0: none
	shared bool   // filter is $share/<group>/<filter>; it is not in the routes, its group is
	group  *share // of one that is shared and in force

	retainHandling    byte
	noLocal           bool
	retainAsPublished bool
	// start has, for each partition, the sequence behind which the subscription
	// begins.
	start []uint64
	until []uint64 // of one that was replaced: where it ends; see replace
}

// flight is a QoS 1 message sent and not acknowledged.
type flight struct {
	seq      uint64 // 0: settled, and nothing of the session's own reading
	part     uint16
	done     bool
	retained bool // a retained message: its place on the log is an older one
	retain   bool // the flag it was sent with
	share    *share
	e        *event.Event // of a dialect, which wants to know what became of it
}

// waiting is a QoS 1 message that waits for room in the window.
type waiting struct {
	e      *event.Event
	sub    *subscription
	retain bool
}

// place is where a session stands in one partition.
type place struct {
	// behind: the session follows this partition's log by itself; the router
	// passes it by with QoS 1 messages.
	behind bool
	after  uint64 // everything up to it has been considered, while behind
	seen   uint64 // last event considered by the router
	// While behind and not closed: the reading of it. Where pos is set, all up to
	// there has been considered too. A session is parked while it has no room;
	// stale, when it reads for other filters than its rider knows.
	ride          *rider
	pos           *atomic.Uint64
	parked, stale bool
	// dup is the last event that an earlier connection may have been sent; a
	// message up to it is marked as a duplicate.
	dup uint64
	// again are the messages an earlier connection was sent, in the log's order.
	// The session reads them for itself, and stays behind until it has.
	again []again
}

// again is a message to be sent once more, by the counter of its flight.
type again struct{ seq, counter uint64 }

// session is what a client subscribed to and what is under way to and from it.
// Its lock comes after that of the routes and before that of the outbox.
type session struct {
	c *client

	mu       sync.Mutex // guards what follows
	room     sync.Cond  // on mu: the window, the outbox or the acknowledgement ring has room, or the session is closed
	waiters  int        // goroutines that wait for room besides the read loop
	closed   bool
	stopping bool
	listed   bool   // a router will call Flush
	buf      []byte // packets not yet given to the connection; nil when empty

	acks             []ackSlot
	reasons          map[uint64][]byte // of the slots that say no: their properties
	ackHead, ackTail uint32
	acked            int // PUBACKs in buf

	window                 int
	flights                []flight
	flightHead, flightTail uint64
	queue                  []waiting
	queueBytes             int
	retained               []waiting // retained messages to send; the log cannot be asked for them again
	places                 []place
	subs                   map[topic.Filter]*subscription
	replaced               []*subscription // that have something left to bring
	parked                 int             // places that wait for room
	withID                 int             // subscriptions that have an identifier
	alias                  aliases
	shares                 []*share // replaced, never changed

	// Of a session that outlives its connection.
	persistent bool
	dirty      bool                           // in the list of those to be saved
	pending    map[topic.Filter]*subscription // saved, not yet in force; nil: to be taken out
	ghosts     []topic.Filter                 // filters given up that messages in flight came by
	names      map[uint64]topic.Name          // of the retained messages in flight, by counter
	late       []lateRetained                 // retained messages to be sent again, once the window reaches them
	unsent     []unsent                       // retained messages an earlier connection was not sent
}

// lateRetained is the retained message of a flight.
type lateRetained struct {
	e       *event.Event
	counter uint64
}

// unsent is a retained message that waits, and for which subscription.
type unsent struct {
	topic  topic.Name
	filter topic.Filter
}

func newSession(c *client, partitions int) *session {
	s := &session{c: c, places: make([]place, partitions)}
	s.room.L = &s.mu
	return s
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

// maxPooled keeps buffers that one large message made big out of the pool.
const maxPooled = 64 << 10

// buffer makes sure there is a buffer. The caller holds s.mu.
func (s *session) buffer() {
	if s.buf == nil {
		s.buf = *buffers.Get().(*[]byte)
	}
}

// write hands the buffer to the connection, which never blocks. The caller
// holds s.mu.
func (s *session) write() {
	s.listed = false
	if s.buf == nil {
		return
	}
	b := s.buf
	s.buf = nil
	if s.acked > 0 {
		s.c.s.m.pubacks.Add(float64(s.acked))
		s.acked = 0
	}
	if !s.closed {
		if _, err := s.c.conn.Write(b); err != nil {
			s.c.endLater(errLost)
		}
	}
	if cap(b) <= maxPooled {
		b = b[:0]
		buffers.Put(&b)
	}
}

// slow reports that the client's socket is full. What is in the buffer counts;
// where it is that alone it is written first, since nobody is told when that is
// over. The caller holds s.mu.
func (s *session) slow() bool {
	most := s.c.s.safety.PendingBytes
	if s.c.out.Pending()+len(s.buf) < most {
		return false
	}
	if s.buf != nil {
		s.write()
	}
	return s.c.out.Pending() >= most
}

// hasRoom reports whether a QoS 1 message can be sent now. The caller holds
// s.mu.
func (s *session) hasRoom() bool {
	return int(s.flightTail-s.flightHead) < s.window && !s.slow()
}

// deliver hands an event that matches sub to the session. It is called by the
// router of the event's partition, for one event with the subscriptions of the
// higher QoS first. It reports whether the caller must call Flush later.
func (s *session) deliver(x *encoder, sub *subscription) bool {
	e := x.e
	s.mu.Lock()
	defer s.mu.Unlock()
	pl := &s.places[e.Partition]
	if s.closed || e.Seq <= pl.seen || e.Seq <= sub.start[e.Partition] || sub.noLocal && e.ClientID == s.c.id {
		return false
	}
	pl.seen = e.Seq
	qos := min(e.QoS, sub.qos)
	if qos == 0 && e.Seq <= s.c.s.ends[e.Partition] {
		return false // from before the server, which reads it again for what is retained
	}
	if qos == 1 && (pl.behind || e.Seq <= pl.after) {
		return false // its own reading has it, or will
	}
	if !s.may(e) {
		return false
	}
	retain, ids := e.Retain && sub.retainAsPublished, s.ids(sub, e)
	switch {
	case qos == 0 && s.slow():
		s.c.s.m.drops.WithLabelValues("slow").Inc()
	case qos == 0:
		s.send(x, 0, retain, ids, false)
	case len(s.queue) == 0 && len(s.retained) == 0 && s.hasRoom():
		s.send(x, 1, retain, ids, false)
	case len(s.queue) < s.c.s.safety.QueuedMessages && s.queueBytes+e.Size() <= s.c.s.safety.QueuedBytes:
		s.queue = append(s.queue, waiting{e, sub, retain})
		s.queueBytes += e.Size()
	default:
		pl.behind, pl.after = true, e.Seq-1
		s.c.s.m.fallbacks.Inc()
		s.ride(int(e.Partition))
	}
	if len(s.buf) >= drainPiece {
		s.write()
	}
	if s.buf == nil || s.listed {
		return false
	}
	s.listed = true
	return true
}

// may asks for the delivery. The caller holds s.mu.
func (s *session) may(e *event.Event) bool {
	if d := s.c.dialect; d != nil && !d.Wants(e) {
		return false
	}
	return s.c.s.may(s.c.principal, auth.Receive, string(e.Topic))
}

// put encodes the encoder's event into the buffer, and returns where it and its
// packet id are. ok is false where it is not sent at all. The caller holds s.mu,
// and has seen to it that there is room.
func (s *session) put(x *encoder, qos byte, retain bool, ids []uint32) (at, pid int, ok bool) {
	e := x.e
	if e.Props != nil && e.Expired(x.now) {
		s.c.s.m.drops.WithLabelValues("expired").Inc()
		if s.c.dialect != nil {
			s.c.dialect.Settled(e, true)
		}
		return 0, 0, false
	}
	s.buffer()
	at = len(s.buf)
	alias, known := uint16(0), false
	if d := s.c.dialect; d != nil {
		s.buf, pid = x.appendAs(s.buf, d.Topic(nil, e), qos)
		s.c.s.m.deliveries[qos].Inc()
		return at, pid, true
	}
	if s.alias.max > 0 {
		alias, known = s.alias.get(e.Topic)
	}
	if ids == nil && alias == 0 {
		enc := x.get(s.c.v5, qos, retain)
		s.buf = append(s.buf, enc.b...)
		pid = at + enc.pid
	} else {
		s.buf, pid = x.append(s.buf, s.c.v5, qos, retain, ids, alias, known)
	}
	if s.c.maxPacket > 0 && len(s.buf)-at > s.c.maxPacket {
		s.buf = s.buf[:at]
		if alias > 0 && !known {
			s.alias.unsent(e.Topic)
		}
		if at == 0 {
			s.write()
		}
		s.c.s.m.drops.WithLabelValues("packet_size").Inc()
		return 0, 0, false
	}
	s.c.s.m.deliveries[qos].Inc()
	return at, pid, true
}

// duplicate is the flag of a PUBLISH that was sent before.
const duplicate = 1 << 3

// send puts the encoder's event in the buffer; retained tells that it is not
// new but a retained message. The caller holds s.mu, and has seen to it that
// there is room.
func (s *session) send(x *encoder, qos byte, retain bool, ids []uint32, retained bool) {
	e := x.e
	at, pid, ok := s.put(x, qos, retain, ids)
	if ok && qos == 0 && s.c.dialect != nil {
		s.c.dialect.Settled(e, false)
	}
	if !ok || qos == 0 {
		return
	}
	if !retained && e.Seq > 0 && e.Seq <= s.places[e.Partition].dup {
		s.buf[at] |= duplicate
		s.c.s.m.redeliveries.Inc()
	}
	if s.persistent {
		if retained {
			if s.names == nil {
				s.names = map[uint64]topic.Name{}
			}
			s.names[s.flightTail] = e.Topic
		}
		s.changed()
	}
	f := flight{seq: e.Seq, part: e.Partition, retained: retained, retain: retain}
	if s.c.dialect != nil {
		f.e = e
	}
	s.fly(f, pid)
}

// fly adds a flight whose PUBLISH is in the buffer, with its packet id at pid.
// The caller holds s.mu.
func (s *session) fly(f flight, pid int) {
	if n := s.flightTail - s.flightHead; int(n) == len(s.flights) {
		grown := make([]flight, max(8, 2*len(s.flights)))
		for i := s.flightHead; i != s.flightTail; i++ {
			grown[i%uint64(len(grown))] = s.flights[i%uint64(len(s.flights))]
		}
		s.flights = grown
	}
	id := packetID(s.flightTail)
	s.buf[pid], s.buf[pid+1] = byte(id>>8), byte(id)
	s.flights[s.flightTail%uint64(len(s.flights))] = f
	s.flightTail++
}

// flight returns a flight that is under way, nil where it has been settled. The
// caller holds s.mu.
func (s *session) flight(counter uint64) *flight {
	if counter < s.flightHead || counter >= s.flightTail {
		return nil
	}
	if f := &s.flights[counter%uint64(len(s.flights))]; !f.done {
		return f
	}
	return nil
}

// advance takes what is settled off the head of the flights. Of one partition
// they are in the log's order, so all up to one that goes is settled: the session
// need not read there again, where it reads what an earlier connection was sent.
// A dialect may have sent an older message late. The caller holds s.mu.
func (s *session) advance() {
	for s.flightHead != s.flightTail && s.flights[s.flightHead%uint64(len(s.flights))].done {
		if f := &s.flights[s.flightHead%uint64(len(s.flights))]; f.seq > 0 && !f.retained && s.c.dialect == nil {
			s.places[f.part].after = max(s.places[f.part].after, f.seq)
		}
		if s.names != nil {
			delete(s.names, s.flightHead)
		}
		s.flightHead++
	}
	if s.flightHead == s.flightTail {
		s.ghosts = nil
	}
}

// packetIDs is the number of packet ids there are.
const packetIDs = 1<<16 - 1

// Packet ids follow the counter of flights, so that an acknowledgement finds
// its flight without a table.
func packetID(counter uint64) uint16 { return uint16(counter%packetIDs) + 1 }

// acknowledge takes the client's PUBACK of a packet id.
func (s *session) acknowledge(pid uint16) {
	s.mu.Lock()
	shares, settled, w := s.shares, (*share)(nil), where{}
	f, ok := s.take(pid)
	if ok && f.share != nil {
		settled, w = f.share, where{f.part, f.seq}
	}
	s.mu.Unlock()
	if ok && f.e != nil {
		s.c.dialect.Settled(f.e, false)
	}
	if settled != nil {
		settled.settle(w)
	}
	for _, g := range shares {
		g.pump()
	}
}

// take settles the flight of a packet id, and sends what there is room for; ok
// is false where there is no such flight. The caller holds s.mu.
func (s *session) take(pid uint16) (_ flight, ok bool) {
	if pid == 0 {
		return flight{}, false
	}
	ahead := (uint64(pid-1) + packetIDs - s.flightHead%packetIDs) % packetIDs
	if ahead >= s.flightTail-s.flightHead {
		return flight{}, false // not under way; a client may say so twice
	}
	at := &s.flights[(s.flightHead+ahead)%uint64(len(s.flights))]
	f := *at
	at.done, at.share, at.e = true, nil, nil
	if f.share != nil {
		at.seq = 0
	}
	if s.persistent {
		s.changed()
	}
	if ahead == 0 {
		s.advance()
		s.pump()
	}
	return f, !f.done
}

var encoders = sync.Pool{New: func() any { return new(encoder) }}

// pump sends what waits, as far as there is room. The caller holds s.mu and
// calls write, now or before it next waits.
func (s *session) pump() {
	if s.closed {
		return
	}
	if len(s.late) > 0 || len(s.retained) > 0 || len(s.queue) > 0 {
		x := encoders.Get().(*encoder)
		now := s.c.s.now()
		for len(s.late) > 0 && s.turn(s.late[0].counter) {
			s.resend(x, s.late[0].e, s.late[0].counter, now)
			s.late = s.late[1:]
			s.advance()
		}
		n := 0
		for ; n < len(s.retained) && s.hasRoom(); n++ {
			s.sendWaiting(x, &s.retained[n], now, true)
		}
		s.retained = cutFront(s.retained, n)
		n = 0
		if len(s.retained) == 0 {
			for ; n < len(s.queue) && s.hasRoom(); n++ {
				s.queueBytes -= s.queue[n].e.Size()
				s.sendWaiting(x, &s.queue[n], now, false)
			}
		}
		s.queue = cutFront(s.queue, n)
		x.e = nil
		encoders.Put(x)
	}
	s.unpark()
}

// sendWaiting sends what was allowed when it came, if it is still. The caller
// holds s.mu.
func (s *session) sendWaiting(x *encoder, w *waiting, now time.Time, retained bool) {
	if !s.may(w.e) {
		return
	}
	x.reset(w.e, now)
	s.send(x, min(w.e.QoS, w.sub.qos), w.retain, s.ids(w.sub, w.e), retained)
}

// position returns the sequence up to which the session has been handed a
// partition's events. The caller holds s.mu.
func (s *session) position(p int) uint64 {
	pl := &s.places[p]
	if pl.behind {
		if pl.pos != nil {
			return max(pl.after, pl.pos.Load())
		}
		return pl.after
	}
	return max(pl.after, pl.seen, s.c.s.handed[p].Load())
}

// close makes the session take no event any more, and keeps where it stands.
// The caller holds s.mu.
func (s *session) close() {
	if s.closed {
		return
	}
	s.stall()
	for p := range s.places {
		s.places[p].after = s.position(p)
		s.places[p].behind = true
	}
	s.closed = true
}

// ids returns the identifiers of all the session's subscriptions that match e,
// of which sub is one. The caller holds s.mu.
func (s *session) ids(sub *subscription, e *event.Event) []uint32 {
	switch {
	case s.withID == 0:
		return nil
	case len(s.subs) == 1 && s.subs[sub.filter] == sub:
		return []uint32{sub.id}
	}
	var ids []uint32
	for f, o := range s.subs {
		if o.id != 0 && topic.Match(f, e.Topic, s.c.s.limits.Mode) {
			ids = append(ids, o.id)
		}
	}
	return ids
}

func cutFront(q []waiting, n int) []waiting {
	if n == len(q) {
		return nil
	}
	return slices.Delete(q, 0, n)
}

// hasDrained is told by the outbox that the socket has taken what was pending.
func (s *session) hasDrained() {
	s.mu.Lock()
	s.pump()
	s.write()
	s.room.Broadcast()
	shares := s.shares
	s.mu.Unlock()
	for _, g := range shares {
		g.pump()
	}
}

// setShares notes which groups the session is in. The caller holds s.mu.
func (s *session) setShares() {
	var shares []*share
	for _, sub := range s.subs {
		if sub.group != nil {
			shares = append(shares, sub.group)
		}
	}
	s.shares = shares
}

// filters returns the session's filters, sorted.
func (s *session) filters() []topic.Filter {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]topic.Filter, 0, len(s.subs))
	for f := range s.subs {
		out = append(out, f)
	}
	slices.Sort(out)
	return out
}
