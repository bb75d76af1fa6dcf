package mqtt

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
)

// share is a shared subscription: each message goes to one of its members, in
// turn to those that have room. While nobody has room a few wait in memory;
// then the group leaves the router and reads the log by itself, as a session
// does. It is asleep while no member is connected: what comes is on the log, and
// the group's place in it is kept for the members whose sessions outlive their
// connections. A message that a member was sent and has not acknowledged when
// its connection ends goes to another member.
//
// Where several gateways share the log one of them has the group, and hands
// messages to the others for their members: see tenure.go and branch.go.
type share struct {
	s     *Server
	key   topic.Filter // as clients write it: $share/<group>/<filter>
	inner topic.Filter
	proxy *subscription // stands for the group in the routes

	waiting atomic.Bool // something waits for a member's room

	mu         sync.Mutex // guards what follows; comes after the routes' and before every session's
	room       sync.Cond  // on mu
	members    []member
	next       int
	persistent map[string]struct{} // client ids of members whose sessions are kept, connected or not
	places     []sharePlace
	flights    map[where]message // sent to a member, not acknowledged
	open       map[where]struct{}
	returned   []message // were on their way to members that have left
	queue      []message
	queueBytes int
	readers    int
	stop       context.CancelFunc // nil: asleep
	ctx        context.Context
	dirty      bool
	stored     bool // the bucket has a record
	ended      bool

	// Where several gateways share the log.
	tenure   tenure
	found    chan struct{} // closed once the tenure is known
	seeking  bool          // a goroutine finds it out
	holders  int           // SUBSCRIBEs that are about to make a member
	asked    string        // the gateway that was asked to have this one as a branch, and may have begun to
	epoch    uint64        // what it calls that time
	heard    uint64        // the number of its last message
	branches map[string]*branch
}

// member takes messages of a group: a subscription, or another gateway for one
// of its own.
type member interface {
	take(x *encoder, m message, dup bool) shareResult
	name() string      // one who takes a message again has had it before
	session() *session // nil: on another gateway
}

func (sub *subscription) take(x *encoder, _ message, dup bool) shareResult {
	return sub.sess.takeShared(x, sub, dup)
}
func (sub *subscription) name() string      { return sub.sess.c.id }
func (sub *subscription) session() *session { return sub.sess }

// sharePlace is where a group stands in one partition.
type sharePlace struct {
	behind bool   // it reads the log by itself
	after  uint64 // everything up to it has been considered, but for open
	seen   uint64 // last event considered by the router
	// What lies up to here is settled, unless it is open: it is read once more to
	// find those.
	upto uint64
	dup  uint64 // a message up to it may have been sent before
}

type where struct {
	part uint16
	seq  uint64
}

// message is one that waits for a member, or for its acknowledgement.
type message struct {
	e       *event.Event
	to      string   // the client id it has been sent to, last
	dup     bool     // it may have been sent to anybody before
	by      *branch  // who has it, where that is another gateway
	refused []string // gateways none of whose members may have it
}

func placeOf(e *event.Event) where { return where{e.Partition, e.Seq} }

// shareKey begins the keys of the bucket of sessions that are groups. No client
// id has a control character.
const shareKey = "\x00share."

// parseShare tells the parts of a shared subscription's filter.
func (sub *subscription) parseShare() (inner topic.Filter, shared bool) {
	_, f, shared, err := topic.ParseShare(string(sub.filter))
	return topic.Filter(f), shared && err == nil
}

func newShare(s *Server, key, inner topic.Filter) *share {
	g := &share{
		s: s, key: key, inner: inner, persistent: map[string]struct{}{}, places: make([]sharePlace, len(s.routed)),
		flights: map[where]message{}, open: map[where]struct{}{},
	}
	g.proxy = &subscription{group: g, filter: key, qos: 1}
	g.room.L = &g.mu
	if g.joint() {
		g.tenure, g.found, g.branches = tenureUnknown, make(chan struct{}), map[string]*branch{}
	}
	return g
}

// joinShare makes sub a member of its group. The caller holds routes.mu, and no
// session's lock.
func (s *Server) joinShare(sub *subscription, persistent bool) {
	g := s.shareOf(sub)
	id := sub.sess.c.id
	g.mu.Lock()
	sub.group = g
	g.members = slices.DeleteFunc(g.members, func(o member) bool { return o.session() == sub.sess })
	g.members = append(g.members, sub)
	if persistent {
		g.persistent[id] = struct{}{}
	} else {
		delete(g.persistent, id)
	}
	g.changed()
	g.rouse()
	g.tellState("")
	g.mu.Unlock()
	g.pump()
}

// shareOf returns the group of sub, which begins where sub does if it is not
// there. The caller holds routes.mu.
func (s *Server) shareOf(sub *subscription) *share {
	g := s.routes.shares[sub.filter]
	if g == nil {
		inner, _ := sub.parseShare()
		g = newShare(s, sub.filter, inner)
		for p := range g.places {
			g.places[p].after = s.routed[p].Load()
			if g.joint() && sub.start != nil {
				g.places[p].after = sub.start[p]
			}
		}
		s.routes.shares[sub.filter] = g
	}
	return g
}

// leaveShare takes a member out; its session is kept where it is persistent.
// The caller holds routes.mu, and no session's lock.
func (s *Server) leaveShare(sub *subscription, persistent bool) {
	g := sub.group
	if g == nil {
		return
	}
	g.mu.Lock()
	g.members = slices.DeleteFunc(g.members, func(o member) bool { return o == sub })
	gone := ""
	if !persistent {
		gone = sub.sess.c.id
		delete(g.persistent, gone)
	}
	g.changed()
	g.rest()
	g.tellState(gone)
	g.mu.Unlock()
	g.pump()
}

// forgetMember tells the groups that the session of a client id has ended. The
// caller holds no lock.
func (s *Server) forgetMember(id string) {
	s.routes.mu.RLock()
	none := len(s.routes.shares) == 0
	s.routes.mu.RUnlock()
	if none {
		return
	}
	s.routes.mu.Lock()
	defer s.routes.mu.Unlock()
	for _, g := range s.routes.shares {
		g.mu.Lock()
		if _, ok := g.persistent[id]; ok {
			delete(g.persistent, id)
			g.changed()
			g.rest()
			g.tellState(id)
		}
		g.mu.Unlock()
	}
}

// rouse lets the group take messages if it has members and is this gateway's,
// and finds out whose it is where that is not known. The caller holds routes.mu
// and g.mu.
func (g *share) rouse() {
	switch {
	case len(g.members) == 0:
	case g.tenure == tenureOwn && g.stop == nil:
		g.wake()
	case g.tenure == tenureUnknown, g.tenure == tenureReleasing:
		g.seek()
	}
}

// wake lets the group take messages. The caller holds routes.mu and g.mu.
func (g *share) wake() {
	g.ctx, g.stop = context.WithCancel(g.s.runContext())
	g.s.routes.trie.Add(g.inner, g.proxy)
	for p := range g.places {
		pl := &g.places[p]
		pl.seen = 0
		pl.behind = pl.after < g.s.routed[p].Load()
		if pl.behind {
			g.read(p)
		}
	}
}

// rest lets a group without members sleep, and ends it where none will come
// back. The caller holds routes.mu and g.mu.
func (g *share) rest() {
	if len(g.members) > 0 {
		return
	}
	if g.stop != nil {
		g.s.routes.trie.Remove(g.inner, g.proxy)
		for p := range g.places {
			pl := &g.places[p]
			pl.upto = g.position(p)
			pl.after, pl.behind = pl.upto, false
		}
		g.stop()
		g.stop = nil
		for _, m := range append(g.queue, g.returned...) {
			g.open[placeOf(m.e)] = struct{}{}
		}
		for w := range g.open {
			pl := &g.places[w.part]
			pl.after = min(pl.after, w.seq-1)
		}
		g.queue, g.queueBytes, g.returned = nil, 0, nil
		g.wait()
		g.room.Broadcast()
	}
	if g.tenure == tenureBranch {
		g.giveBack()
	}
	if !g.joint() && len(g.persistent) == 0 && !g.ended {
		g.ended = true
		delete(g.s.routes.shares, g.key)
	}
}

// position returns the sequence up to which partition p has been considered.
// The caller holds g.mu.
func (g *share) position(p int) uint64 {
	pl := &g.places[p]
	switch {
	case g.stop == nil:
		return pl.upto
	case pl.behind:
		return max(pl.after, pl.upto)
	}
	return max(pl.after, pl.upto, pl.seen, g.s.handed[p].Load())
}

// deliver takes an event from the router, and returns the session that has
// something to write. The caller holds routes.mu.
func (g *share) deliver(x *encoder) *session {
	e := x.e
	g.mu.Lock()
	defer g.mu.Unlock()
	pl := &g.places[e.Partition]
	if g.stop == nil || e.Seq <= pl.seen {
		return nil
	}
	pl.seen = e.Seq
	// A router that begins anew hands out once more what the group has had.
	w := placeOf(e)
	if len(g.branches) > 0 {
		if _, flies := g.flights[w]; flies {
			return nil // a branch had it from the owner before
		}
	}
	if _, open := g.open[w]; e.Seq <= pl.upto && !open {
		return nil
	}
	if e.QoS == 0 {
		sess, ok := g.give(x, message{e: e})
		if !ok {
			g.s.m.drops.WithLabelValues("slow").Inc()
		}
		return sess
	}
	if pl.behind || e.Seq <= pl.after {
		return nil
	}
	if len(g.queue) == 0 && len(g.returned) == 0 {
		if sess, ok := g.give(x, message{e: e}); ok {
			delete(g.open, w)
			return sess
		}
	}
	if len(g.queue) < g.s.safety.QueuedMessages && g.queueBytes+e.Size() <= g.s.safety.QueuedBytes {
		g.queue = append(g.queue, message{e: e})
		g.queueBytes += e.Size()
		delete(g.open, w)
		g.wait()
		g.changed()
		// Room that came before it said so is not told of.
		if len(g.queue) == 1 && len(g.returned) == 0 {
			if sess, ok := g.give(x, g.queue[0]); ok {
				g.queue, g.queueBytes = nil, 0
				g.wait()
				return sess
			}
		}
		return nil
	}
	pl.behind, pl.after = true, e.Seq-1
	g.s.m.fallbacks.Inc()
	g.read(int(e.Partition))
	return nil
}

// give sends m to the next member that has room, and reports whether it is off
// the group's hands. The encoder stands at its event. The caller holds g.mu and
// flushes the session, if there is one.
func (g *share) give(x *encoder, m message) (*session, bool) {
	full := false
	for i := range g.members {
		o := g.members[(g.next+i)%len(g.members)]
		dup := m.dup || m.to == o.name() || m.e.Seq <= g.places[m.e.Partition].dup
		switch o.take(x, m, dup) {
		case shareFull:
			full = true
			continue
		case shareDenied:
			continue
		case shareSent:
			m.to = o.name()
			m.by, _ = o.(*branch)
			g.flights[placeOf(m.e)] = m
		case shareSettled:
			g.tellSettled(m.e)
		}
		g.next = (g.next + i + 1) % len(g.members)
		g.changed()
		return o.session(), true
	}
	if !full && len(g.members) > 0 {
		g.tellRefused(m.e)
	}
	// Where nobody may have it there is nothing to wait for.
	return nil, !full && len(g.members) > 0
}

type shareResult byte

const (
	shareSent    shareResult = iota // in flight
	shareSettled                    // nothing will be heard of it
	shareFull
	shareDenied
)

// takeShared sends the encoder's event, which came by sub, if there is room.
func (s *session) takeShared(x *encoder, sub *subscription, dup bool) shareResult {
	e := x.e
	s.mu.Lock()
	defer s.mu.Unlock()
	qos := min(e.QoS, sub.qos)
	switch {
	case s.closed || qos == 0 && s.slow() || qos == 1 && !(s.clear() && s.hasRoom()):
		return shareFull
	case !s.may(e):
		return shareDenied
	}
	var ids []uint32
	if sub.id != 0 {
		ids = []uint32{sub.id}
	}
	at, pid, ok := s.put(x, qos, e.Retain && sub.retainAsPublished, ids)
	if !ok || qos == 0 {
		return shareSettled
	}
	s.fly(flight{seq: e.Seq, part: e.Partition, share: sub.group}, pid)
	if dup {
		s.buf[at] |= duplicate
		s.c.s.m.redeliveries.Inc()
	}
	if len(s.buf) >= drainPiece {
		s.write()
	}
	return shareSent
}

// settle takes the acknowledgement of a message.
func (g *share) settle(w where) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m, ok := g.flights[w]
	if !ok {
		return
	}
	delete(g.flights, w)
	if m.by != nil {
		delete(m.by.flights, w)
	}
	if m.e != nil {
		g.tellSettled(m.e)
	}
	g.changed()
}

// back takes a message back that was under way to a member.
func (g *share) back(w where) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m, ok := g.flights[w]
	if !ok {
		return
	}
	delete(g.flights, w)
	g.takeBack(w, m)
}

// takeBack takes a message that is under way to nobody now. The caller holds
// g.mu.
func (g *share) takeBack(w where, m message) {
	m.by = nil
	if g.tenure == tenureBranch {
		g.returned = append(g.returned, m)
		if len(g.members) == 0 {
			g.giveBack()
		}
		g.wait()
		return
	}
	if g.stop == nil {
		g.open[w] = struct{}{}
		g.places[w.part].after = min(g.places[w.part].after, w.seq-1)
	} else {
		g.returned = append(g.returned, m)
		g.wait()
	}
	g.changed()
}

// wait says whether somebody waits for room. The caller holds g.mu.
func (g *share) wait() {
	g.waiting.Store(len(g.queue) > 0 || len(g.returned) > 0 || g.readers > 0)
}

// pump sends what waits, as far as there is room. The caller holds no
// session's lock.
func (g *share) pump() {
	if !g.waiting.Load() {
		return
	}
	x := encoders.Get().(*encoder)
	now := g.s.now()
	var touched []*session
	g.mu.Lock()
	send := func(list []message) []message {
		n := 0
		for ; n < len(list); n++ {
			x.reset(list[n].e, now)
			sess, ok := g.give(x, list[n])
			if !ok {
				break
			}
			if sess != nil && !slices.Contains(touched, sess) {
				touched = append(touched, sess)
			}
		}
		return slices.Delete(list, 0, n)
	}
	if g.returned = send(g.returned); len(g.returned) == 0 {
		g.queue = send(g.queue)
		g.queueBytes = 0
		for _, m := range g.queue {
			g.queueBytes += m.e.Size()
		}
	}
	g.wait()
	g.room.Broadcast()
	g.mu.Unlock()
	for _, sess := range touched {
		sess.Flush()
	}
	x.e = nil
	encoders.Put(x)
}

// read lets the group read partition p by itself until it meets the router. The
// caller holds g.mu.
func (g *share) read(p int) {
	ctx := g.ctx
	g.s.wg.Go(func() {
		for ctx.Err() == nil {
			g.mu.Lock()
			after := g.places[p].after
			g.mu.Unlock()
			r := reachOf([]topic.Filter{g.inner})
			f, err := g.s.log.Follow(eventlog.FollowOptions{Partition: p, After: after, Filters: r.follow(), Mode: g.s.limits.Mode})
			if err == nil {
				err = g.readWith(ctx, p, f)
				f.Close()
			}
			if err == nil || ctx.Err() != nil {
				return
			}
			g.s.noise.warn("reading the log for a shared subscription", "filter", string(g.key), "partition", p, "error", err)
			pause(ctx, 100*time.Millisecond)
		}
	})
}

func (g *share) readWith(ctx context.Context, p int, f Follower) error {
	var x encoder
	for {
		batch, upto, err := f.Next(ctx, replayBatch)
		g.mu.Lock()
		if ctx.Err() != nil {
			g.mu.Unlock()
			return nil // whoever stopped it has its position
		}
		pl := &g.places[p]
		var gap *eventlog.GapError
		switch {
		case errors.As(err, &gap):
			g.s.m.gaps.Inc()
			g.s.noise.warn("a shared subscription was overtaken by trimming", "filter", string(g.key), "partition", p, "from", gap.From, "to", gap.To)
			for w := range g.open {
				if int(w.part) == p && w.seq <= gap.To {
					delete(g.open, w)
				}
			}
			upto = gap.To
		case err != nil:
			g.mu.Unlock()
			return err
		}
		now := g.s.now()
		var touched []*session
		flush := func() {
			g.mu.Unlock()
			for _, sess := range touched {
				sess.Flush()
			}
			touched = touched[:0]
			g.mu.Lock()
		}
		for _, e := range batch {
			if !g.wants(e) {
				continue
			}
			x.reset(e, now)
			waits := false
			done := func() {
				if waits {
					g.readers--
					g.wait()
				}
			}
			for {
				if len(g.returned) == 0 && len(g.queue) == 0 {
					if sess, ok := g.give(&x, message{e: e}); ok {
						if sess != nil && !slices.Contains(touched, sess) {
							touched = append(touched, sess)
						}
						break
					}
				}
				switch {
				case !waits: // room that came before it said so is not told of: try again
					waits = true
					g.readers++
					g.wait()
				case len(touched) > 0: // their acknowledgements make room
					flush()
				default:
					g.room.Wait()
				}
				if ctx.Err() != nil {
					done()
					g.mu.Unlock()
					return nil
				}
			}
			done()
			delete(g.open, placeOf(e))
			pl.after = e.Seq
		}
		pl.after = max(pl.after, upto)
		g.changed()
		joined := pl.after >= g.s.routed[p].Load()
		if joined {
			pl.behind = false
		}
		flush()
		g.mu.Unlock()
		if joined {
			return nil
		}
	}
}

// wants reports whether the group's own reading is to send e. The caller holds
// g.mu.
func (g *share) wants(e *event.Event) bool {
	if e.QoS == 0 || hidden(e) || !topic.Match(g.inner, e.Topic, g.s.limits.Mode) {
		return false
	}
	w := placeOf(e)
	if _, sent := g.flights[w]; sent || e.Seq > g.places[e.Partition].upto {
		return !sent
	}
	_, open := g.open[w]
	return open
}

// changed puts the group on the list of those to be saved. The caller holds
// g.mu.
func (g *share) changed() {
	st := &g.s.sessions
	if g.dirty || st.bucket == nil || g.tenure != tenureOwn {
		return
	}
	g.dirty = true
	st.mu.Lock()
	st.shares = append(st.shares, g)
	st.mu.Unlock()
}

// maxOpen bounds the messages a group's record names one by one. With more of
// them it goes back to the first: the others come twice after a crash.
const maxOpen = 4000

// record encodes the group as it stands; nil where nothing of it is kept. stored
// tells that the bucket had something of it.
func (g *share) record() (value []byte, stored bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dirty = false
	if g.joint() {
		return g.recordJoint()
	}
	stored = g.stored
	if g.stored = len(g.persistent) > 0 && !g.ended; !g.stored {
		return nil, stored
	}
	return g.encode(), stored
}

// encode encodes the group as it stands. The caller holds g.mu.
func (g *share) encode() []byte {
	r := shareRecord{upto: make([]uint64, len(g.places))}
	if g.joint() {
		r.ids = slices.Sorted(maps.Keys(g.persistent))
	}
	for p := range g.places {
		r.upto[p] = g.position(p)
	}
	add := func(w where) { r.open = append(r.open, w) }
	for w := range g.open {
		add(w)
	}
	for w := range g.flights {
		add(w)
	}
	for _, m := range g.queue {
		add(placeOf(m.e))
	}
	for _, m := range g.returned {
		add(placeOf(m.e))
	}
	if len(r.open) > maxOpen {
		for _, w := range r.open {
			r.upto[w.part] = min(r.upto[w.part], w.seq-1)
		}
		r.open = nil
	}
	return r.append(nil)
}

// shareRecord is a group as the bucket keeps it.
type shareRecord struct {
	upto []uint64 // by partition: all up to here is settled, but for open
	open []where
	// The client ids in share.persistent, of several gateways; else who they are is
	// looked up among the sessions.
	ids []string
}

const (
	shareVersion    = 1
	shareVersionIDs = 2
)

func (r *shareRecord) append(b []byte) []byte {
	version := byte(shareVersion)
	if r.ids != nil {
		version = shareVersionIDs
	}
	b = append(b, version)
	b = binary.AppendUvarint(b, uint64(len(r.upto)))
	for _, n := range r.upto {
		b = binary.AppendUvarint(b, n)
	}
	b = binary.AppendUvarint(b, uint64(len(r.open)))
	for _, w := range r.open {
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(w.part)), w.seq)
	}
	if version == shareVersionIDs {
		b = binary.AppendUvarint(b, uint64(len(r.ids)))
		for _, id := range r.ids {
			b = append(binary.AppendUvarint(b, uint64(len(id))), id...)
		}
	}
	return b
}

func decodeShare(b []byte, partitions int) (*shareRecord, error) {
	bad := false
	num := func(most uint64) uint64 {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > most {
			bad, b = true, nil
			return 0
		}
		b = b[k:]
		return n
	}
	const mostSeq = 1 << 62
	if len(b) == 0 || b[0] != shareVersion && b[0] != shareVersionIDs {
		return nil, errRecord
	}
	version := b[0]
	b = b[1:]
	if num(uint64(partitions)) != uint64(partitions) {
		return nil, errRecord
	}
	r := &shareRecord{}
	for range partitions {
		r.upto = append(r.upto, num(mostSeq))
	}
	for range num(uint64(len(b))) {
		w := where{part: uint16(num(uint64(partitions - 1))), seq: num(mostSeq)}
		if w.seq == 0 {
			bad = true
		}
		r.open = append(r.open, w)
	}
	if version == shareVersionIDs {
		r.ids = []string{}
		for range num(uint64(len(b))) {
			n := num(uint64(len(b)))
			if bad || n > uint64(len(b)) {
				return nil, errRecord
			}
			r.ids, b = append(r.ids, string(b[:n])), b[n:]
		}
	}
	if bad || len(b) != 0 {
		return nil, errRecord
	}
	return r, nil
}

// restoreShare makes a group that sleeps: what r says, or the place its first
// member began at where the group's own record was not written any more.
func (s *Server) restoreShare(key, inner topic.Filter, r *shareRecord) *share {
	g := newShare(s, key, inner)
	g.stored = true
	g.restore(r, s.endAtNew, s.endAtNew)
	return g
}

// restore makes the group what r says. What lies up to dup may have been sent
// before; no place is behind end. The caller holds g.mu, or has g to itself.
func (g *share) restore(r *shareRecord, dup, end func(p int) uint64) {
	clear(g.open)
	for p := range g.places {
		pl := &g.places[p]
		*pl = sharePlace{upto: min(r.upto[p], end(p))}
		pl.after, pl.dup = pl.upto, min(dup(p), end(p))
	}
	for _, w := range r.open {
		if pl := &g.places[w.part]; w.seq <= end(int(w.part)) {
			g.open[w] = struct{}{}
			pl.after = min(pl.after, w.seq-1)
		}
	}
}
