package mqtt

import (
	"context"
	"errors"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
)

const (
	replayBatch    = 512
	replayLap      = 24 << 10 // events a group reads before its sessions' buffers are written
	replayLapBytes = 8 << 20  // the same in bytes
	replayGroups   = 8        // readers of one partition at a time
	replayOwn      = 4        // of them, how many may be of one session
	replayNear     = 50_000   // events; sessions no further apart read together
	replayShared   = 16       // sessions from which on a group's reach is widened for another one
	replayKept     = 16 << 10 // events a group remembers, for its sessions that had no room
	replayKeptSize = 64 << 20 // bytes all groups of all partitions remember
	replayQueue    = 32       // messages that wait in a session beyond a window that is smaller
	replayWait     = 10 * time.Millisecond
)

// replay reads one partition's log for the sessions that are late: those too
// slow for the router and those whose client was away. It reads once for all
// that stand near each other. They are a group: its reader goes ahead with a
// trie over their filters, as the router does, and hands each event to those
// that want it. A session without room is passed by and waits; once it has room
// it takes what it has missed from the newest events its group remembers, or
// from the log, as a group of its own at first. A group that comes near one
// ahead of it is joined to it, and the rearmost read most often, so that groups
// become fewer. At the end of the log each session joins the router. QoS 1
// messages only are sent: those of QoS 0 are never sent late.
//
// Its memory is bounded: what groups remember, one read each, and the buffers
// of one lap.
type replay struct {
	s    *Server
	p    int
	wake chan struct{} // one buffered

	mu   sync.Mutex // guards what follows; comes after every session's
	told []*rider
	lost *uint64 // the log went back to here

	// Of run alone.
	groups   []*group
	unplaced []*rider
	turn     int
	x        encoder
	hits     []ticket
	touched  []*rider
}

// rider is a late session in one partition. All but told is the replay's.
type rider struct {
	sess    *session
	told    bool // in the list of the replay, whose lock guards it
	g       *group
	riding  bool // has been handed all its group has
	tickets []ticket
	filters []topic.Filter
	every   bool   // no filter is left, but messages to be sent again are: it is asked of every event
	resends bool   // there are messages to be sent again
	at      uint64 // where it stands while it is in no group
	last    uint64 // last event it was handed, or does not want
	touched bool
}

// ticket is one filter a rider reads for; sub is nil where only messages that
// were sent before may have come by it.
type ticket struct {
	r   *rider
	sub *subscription
}

// group is sessions that read together.
type group struct {
	pos     atomic.Uint64 // everything up to it has been handed to those that ride
	f       Follower      // nil: to be opened
	reach   reach
	trie    *topic.Trie[ticket]
	every   []*rider
	riders  map[*rider]struct{}
	riding  int
	resends int
	turn    int // when it last read

	// The newest events within reach, none is left out behind from.
	kept     []*event.Event
	keptSize int
	from     uint64
}

func newReplay(s *Server, p int) *replay {
	return &replay{s: s, p: p, wake: make(chan struct{}, 1)}
}

// tell makes the replay look at r: it is new, has room, reads for other
// filters, or has closed. The caller holds the session's lock.
func (v *replay) tell(r *rider) {
	v.mu.Lock()
	if !r.told {
		r.told = true
		v.told = append(v.told, r)
	}
	v.mu.Unlock()
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// lose makes the replay forget what lies behind end, before the sessions are
// told: the log has lost it.
func (v *replay) lose(end uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.lost == nil || *v.lost > end {
		v.lost = &end
	}
}

// run reads until ctx ends.
func (v *replay) run(ctx context.Context) {
	defer func() {
		for _, g := range v.groups {
			g.close()
		}
	}()
	t := time.NewTimer(0)
	defer t.Stop()
	for ctx.Err() == nil {
		v.hear()
		g, waits := v.next()
		if g == nil {
			var again <-chan time.Time
			if waits {
				t.Reset(replayWait)
				again = t.C
			}
			select {
			case <-v.wake:
			case <-again:
			case <-ctx.Done():
			}
			if waits { // the router may be there by now
				for _, g := range v.groups {
					v.arrive(g)
				}
			}
			continue
		}
		if err := v.lap(ctx, g); err != nil && ctx.Err() == nil {
			g.close()
			v.s.noise.warn("reading the log for late sessions", "partition", v.p, "sessions", len(g.riders), "error", err)
			pause(ctx, 100*time.Millisecond)
		}
		v.write()
		v.arrive(g)
		v.join()
	}
}

// hear looks at the riders that were told of, and gives each a group.
func (v *replay) hear() {
	v.mu.Lock()
	told := v.told
	v.told = nil
	for _, r := range told {
		r.told = false
	}
	lost := v.lost
	v.lost = nil
	v.mu.Unlock()
	if lost != nil {
		for _, g := range v.groups {
			g.pos.Store(min(g.pos.Load(), *lost))
			g.close()
			g.forget()
		}
	}
	for _, r := range told {
		v.place(r)
	}
	v.write()
	for i := 0; i < len(v.groups); {
		if g := v.groups[i]; len(g.riders) == 0 {
			v.end(g)
		} else {
			i++
		}
	}
	if len(v.unplaced) > 0 {
		v.begin()
	}
}

// place finds a group for r among those there are; it waits for a new one where
// none will do.
func (v *replay) place(r *rider) {
	s := r.sess
	s.mu.Lock()
	pl := &s.places[v.p]
	if s.closed || pl.ride != r {
		s.mu.Unlock()
		v.leave(r)
		v.unplaced = slices.DeleteFunc(v.unplaced, func(o *rider) bool { return o == r })
		return
	}
	if pl.parked || r.riding && !pl.stale {
		s.mu.Unlock()
		return
	}
	if pl.stale || r.tickets == nil && !r.every {
		v.leave(r)
		pl.stale = false
		v.take(r)
	}
	r.at = s.position(v.p)
	if s.caughtUp(v.p) {
		s.mu.Unlock()
		v.leave(r)
		return
	}
	s.mu.Unlock()
	if g := r.g; g != nil {
		if r.at >= g.from {
			v.refresh(g, r)
			return
		}
		v.leave(r)
	}
	if g := v.groupFor(r); g != nil {
		g.add(r)
		v.refresh(g, r)
		return
	}
	if !slices.Contains(v.unplaced, r) {
		v.unplaced = append(v.unplaced, r)
	}
}

// take sets what r reads for. The caller holds the session's lock.
func (v *replay) take(r *rider) {
	s := r.sess
	r.tickets, r.filters, r.last = nil, nil, 0
	r.resends = len(s.places[v.p].again) > 0
	for f, sub := range s.subs {
		if sub.qos == 1 && !sub.shared {
			r.tickets, r.filters = append(r.tickets, ticket{r, sub}), append(r.filters, f)
		}
	}
	for _, sub := range s.replaced {
		if s.position(v.p) < sub.until[v.p] {
			r.tickets, r.filters = append(r.tickets, ticket{r, sub}), append(r.filters, sub.filter)
		}
	}
	if r.resends {
		for _, f := range s.ghosts {
			r.tickets, r.filters = append(r.tickets, ticket{r, nil}), append(r.filters, f)
		}
	}
	r.every = len(r.tickets) == 0
}

// groupFor returns a group that r can take part in as it is, nil where there is
// none.
func (v *replay) groupFor(r *rider) *group {
	var best *group
	for _, g := range v.groups {
		pos := g.pos.Load()
		if r.at < g.from || r.at > pos+replayNear || r.every && !g.reach.all {
			continue
		}
		if !g.reach.covers(r.filters) {
			if r.at < pos || len(g.riders) < replayShared {
				continue
			}
		}
		if best == nil || pos > best.pos.Load() {
			best = g
		}
	}
	if best != nil && !best.reach.covers(r.filters) {
		v.extend(best, r.filters)
	}
	return best
}

// extend makes g read for filters too, from where it stands.
func (v *replay) extend(g *group, filters []topic.Filter) {
	g.reach = reachOf(append(slices.Clone(g.reach.filters), filters...))
	g.close()
	g.forget()
}

// begin makes groups of the riders that have none.
func (v *replay) begin() {
	sort.Slice(v.unplaced, func(i, j int) bool { return v.unplaced[i].at < v.unplaced[j].at })
	for len(v.unplaced) > 0 {
		if len(v.groups) >= replayGroups && !v.evict() {
			return // until one ends
		}
		n := 1
		if len(v.unplaced) > 1 && len(v.groups)+len(v.unplaced) > replayOwn {
			for n < len(v.unplaced) && v.unplaced[n].at-v.unplaced[0].at <= replayNear {
				n++
			}
		}
		g := &group{trie: topic.NewTrie[ticket](v.s.limits.Mode), riders: map[*rider]struct{}{}, from: v.unplaced[0].at}
		g.pos.Store(g.from)
		var filters []topic.Filter
		for _, r := range v.unplaced[:n] {
			filters = append(filters, r.filters...)
			g.reach.all = g.reach.all || r.every
		}
		if !g.reach.all {
			g.reach = reachOf(filters)
		}
		v.groups = append(v.groups, g)
		for _, r := range v.unplaced[:n] {
			g.add(r)
			v.refresh(g, r)
		}
		v.unplaced = append(v.unplaced[:0], v.unplaced[n:]...)
		clear(v.unplaced[len(v.unplaced):cap(v.unplaced)])
	}
}

// evict ends a group in which nobody rides; its riders find another once they
// have room.
func (v *replay) evict() bool {
	for _, g := range v.groups {
		if g.riding == 0 {
			for r := range g.riders {
				g.remove(r)
			}
			v.end(g)
			return true
		}
	}
	return false
}

func (v *replay) end(g *group) {
	g.close()
	g.forget()
	v.groups = slices.DeleteFunc(v.groups, func(o *group) bool { return o == g })
}

func (g *group) close() {
	if g.f != nil {
		g.f.Close()
		g.f = nil
	}
}

// forget drops what the group remembers.
func (g *group) forget() {
	g.kept, g.keptSize, g.from = nil, 0, g.pos.Load()
}

func (g *group) add(r *rider) {
	r.g = g
	g.riders[r] = struct{}{}
	for i, t := range r.tickets {
		g.trie.Add(r.filters[i], t)
	}
	if r.every {
		g.every = append(g.every, r)
	}
	if r.resends {
		g.resends++
	}
}

func (g *group) remove(r *rider) {
	r.g = nil
	delete(g.riders, r)
	for i, t := range r.tickets {
		g.trie.Remove(r.filters[i], t)
	}
	if r.every {
		g.every = slices.DeleteFunc(g.every, func(o *rider) bool { return o == r })
	}
	if r.resends {
		g.resends--
	}
	if r.riding {
		r.riding = false
		g.riding--
	}
}

func (v *replay) leave(r *rider) {
	if r.g != nil {
		r.g.remove(r)
	}
}

// next returns the group that reads next. waits tells that there are some that
// have read all there is and wait for the router.
func (v *replay) next() (g *group, waits bool) {
	v.turn++
	end := v.s.log.Committed(v.p)
	for _, o := range v.groups {
		if o.riding == 0 {
			continue
		}
		if o.pos.Load() >= end {
			waits = true
			continue
		}
		switch {
		case g == nil:
			g = o
		case v.turn%4 == 0: // each in its turn
			if o.turn < g.turn {
				g = o
			}
		case o.pos.Load() < g.pos.Load():
			g = o
		}
	}
	if g != nil {
		g.turn = v.turn
	}
	return g, waits
}

// lap reads a stretch and hands it out.
func (v *replay) lap(ctx context.Context, g *group) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if g.f == nil {
		f, err := v.s.log.Follow(eventlog.FollowOptions{Partition: v.p, After: g.pos.Load(), Filters: g.reach.follow(), Mode: v.s.limits.Mode})
		if err != nil {
			return err
		}
		g.f = f
	}
	now := v.s.now()
	for n, size := 0, 0; n < replayLap && size < replayLapBytes && g.riding > 0; {
		pos := g.pos.Load()
		if pos >= v.s.log.Committed(v.p) {
			return nil
		}
		batch, upto, err := g.f.Next(ctx, replayBatch)
		if err != nil {
			var gap *eventlog.GapError
			if errors.As(err, &gap) {
				v.gap(g, gap)
				continue
			}
			if errors.Is(err, context.DeadlineExceeded) {
				return nil // there was nothing: the log's end went back
			}
			return err
		}
		if upto < pos || len(batch) > 0 && batch[0].Seq <= pos {
			g.pos.Store(upto) // the log's end went back
			g.forget()
		}
		for _, e := range batch {
			size += v.hand(g, e, now)
			v.keep(g, e)
		}
		n += max(len(batch), 1)
		g.pos.Store(upto)
		v.settle(g)
	}
	return nil
}

// keep remembers e for those of the group that had no room for it.
func (v *replay) keep(g *group, e *event.Event) {
	most := max(replayKeptSize/len(v.s.routed), 2<<20) / max(len(v.groups), 2)
	g.kept = append(g.kept, e)
	g.keptSize += e.Size()
	n := 0
	for ; len(g.kept)-n > replayKept || g.keptSize > most && len(g.kept)-n > 1; n++ {
		g.from = g.kept[n].Seq
		g.keptSize -= g.kept[n].Size()
		g.kept[n] = nil
	}
	g.kept = g.kept[n:]
}

// hand gives e to those of the group that want it, and returns how many bytes
// that has put into buffers.
func (v *replay) hand(g *group, e *event.Event, now time.Time) (size int) {
	if hidden(e) {
		return 0
	}
	v.hits = g.trie.Match(e.Topic, v.hits[:0])
	for _, r := range g.every {
		v.hits = append(v.hits, ticket{r, nil})
	}
	if len(v.hits) == 0 {
		return 0
	}
	v.x.reset(e, now)
	for _, t := range v.hits {
		if t.r.riding && t.r.last < e.Seq {
			if v.offer(g, t, e, now, &g.pos) {
				size += e.Size()
			}
		}
	}
	return size
}

// offer hands e to a rider, and parks it where it has no room. from is what the
// session's place must say that it rides in: whoever closes a session, or
// changes what it reads for, takes that away.
func (v *replay) offer(g *group, t ticket, e *event.Event, now time.Time, from *atomic.Uint64) (sent bool) {
	r, s := t.r, t.r.sess
	s.mu.Lock()
	defer s.mu.Unlock()
	pl := &s.places[v.p]
	if s.closed || pl.ride != r || pl.stale || pl.pos != from {
		v.stop(r)
		return false
	}
	if e.Seq <= pl.after {
		return false
	}
	counter, again := s.sentBefore(v.p, e.Seq)
	if again {
		if !s.turn(counter) {
			v.park(r, e.Seq-1)
			return false
		}
		s.resend(&v.x, e, counter, now)
		v.x.reset(e, now)
		pl.again = pl.again[1:]
		s.advance()
		s.pump()
	} else if !s.passed(v.p, e.Seq) {
		sub := t.sub
		if sub == nil || e.QoS == 0 || !sub.holds(e) || sub.noLocal && e.ClientID == s.c.id {
			return false
		}
		if s.may(e) {
			retain := e.Retain && sub.retainAsPublished
			switch {
			case s.clear() && s.hasRoom():
				s.send(&v.x, 1, retain, s.ids(sub, e), false)
			case s.window < replayQueue && len(s.retained) == 0 && len(s.queue) < replayQueue && s.queueBytes+e.Size() <= s.c.s.safety.QueuedBytes:
				s.queue = append(s.queue, waiting{e, sub, retain})
				s.queueBytes += e.Size()
			default:
				v.park(r, e.Seq-1)
				return false
			}
		}
	}
	r.last, pl.after = e.Seq, e.Seq
	if len(s.buf) >= drainPiece {
		s.write()
	}
	if !r.touched {
		r.touched = true
		v.touched = append(v.touched, r)
	}
	return true
}

// park lets the rider wait for room, at a position. The caller holds the
// session's lock, and has found that there is none.
func (v *replay) park(r *rider, at uint64) {
	s := r.sess
	pl := &s.places[v.p]
	pl.after, pl.pos, pl.parked = max(pl.after, at), nil, true
	s.parked++
	v.stop(r)
	s.write()
}

func (v *replay) stop(r *rider) {
	if r.riding {
		r.riding = false
		r.g.riding--
	}
}

// refresh hands r what its group remembers from where r stands, and lets it
// ride. r is in g.
func (v *replay) refresh(g *group, r *rider) {
	s := r.sess
	s.mu.Lock()
	pl := &s.places[v.p]
	if s.closed || pl.ride != r || pl.stale || pl.parked {
		s.mu.Unlock()
		return
	}
	pl.pos = &refreshing
	s.mu.Unlock()
	now := v.s.now()
	r.riding = true
	g.riding++
	at := sort.Search(len(g.kept), func(i int) bool { return g.kept[i].Seq > r.at })
	for _, e := range g.kept[at:] {
		if hidden(e) {
			continue
		}
		fresh := true
		for i, t := range r.tickets {
			if r.last >= e.Seq || !topic.Match(r.filters[i], e.Topic, v.s.limits.Mode) {
				continue
			}
			if fresh {
				v.x.reset(e, now)
				fresh = false
			}
			if v.offer(g, t, e, now, &refreshing); !r.riding {
				return
			}
		}
		if r.every {
			v.x.reset(e, now)
			if v.offer(g, ticket{r, nil}, e, now, &refreshing); !r.riding {
				return
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || pl.ride != r || pl.stale || pl.pos != &refreshing {
		v.stop(r)
		return
	}
	pl.after = max(pl.after, r.at)
	if at < len(g.kept) || r.at < g.pos.Load() {
		pl.after = max(pl.after, g.pos.Load())
	}
	pl.pos = &g.pos
}

// refreshing is the position of a session that takes what its group remembers:
// its own place says how far it is.
var refreshing atomic.Uint64

// settle takes what the log does not have any more out of what is to be sent
// again.
func (v *replay) settle(g *group) {
	if g.resends == 0 {
		return
	}
	for r := range g.riders {
		if !r.resends || !r.riding {
			continue
		}
		s := r.sess
		s.mu.Lock()
		pl := &s.places[v.p]
		if pl.pos == &g.pos && !s.closed {
			s.sentBefore(v.p, s.position(v.p)+1)
			if len(pl.again) == 0 {
				r.resends = false
				g.resends--
			}
		}
		s.mu.Unlock()
	}
}

// gap moves the group over what was trimmed away.
func (v *replay) gap(g *group, gap *eventlog.GapError) {
	for r := range g.riders {
		s := r.sess
		s.mu.Lock()
		pl := &s.places[v.p]
		if r.riding && !s.closed && pl.pos == &g.pos && s.position(v.p) < gap.To {
			v.s.m.gaps.Inc()
			v.s.noise.warn("a session was overtaken by trimming", "clientId", s.c.id, "partition", v.p, "from", s.position(v.p)+1, "to", gap.To)
			s.sentBefore(v.p, gap.To+1)
			pl.after = max(pl.after, gap.To)
		}
		s.mu.Unlock()
	}
	g.pos.Store(max(g.pos.Load(), gap.To))
	g.forget()
}

// arrive lets those of the group that have met the router join it.
func (v *replay) arrive(g *group) {
	if g.pos.Load() < v.s.routed[v.p].Load() {
		return
	}
	for r := range g.riders {
		if !r.riding {
			continue
		}
		s := r.sess
		s.mu.Lock()
		gone := s.closed || s.places[v.p].ride != r
		if !gone && s.places[v.p].pos == &g.pos {
			s.sentBefore(v.p, s.position(v.p)+1)
			gone = s.caughtUp(v.p)
		}
		s.mu.Unlock()
		if gone {
			g.remove(r)
		}
	}
}

// join moves the riders of a group that stands in what another remembers to
// that one.
func (v *replay) join() {
	for i := 0; i < len(v.groups); i++ {
		g := v.groups[i]
		for _, h := range v.groups {
			if pos := g.pos.Load(); h == g || pos > h.pos.Load() || pos < h.from || !h.reach.coversReach(&g.reach) {
				continue
			}
			v.move(g, h)
			i--
			break
		}
	}
}

func (v *replay) move(g, h *group) {
	now := v.s.now()
	at := sort.Search(len(h.kept), func(i int) bool { return h.kept[i].Seq > g.pos.Load() })
	for _, e := range h.kept[at:] {
		v.hand(g, e, now)
	}
	g.pos.Store(max(g.pos.Load(), h.pos.Load()))
	v.settle(g)
	v.write()
	for r := range g.riders {
		rides := r.riding
		g.remove(r)
		s := r.sess
		s.mu.Lock()
		if pl := &s.places[v.p]; rides && pl.pos == &g.pos {
			pl.after, pl.pos = s.position(v.p), &h.pos
		} else {
			rides = false // it has told, or will
		}
		s.mu.Unlock()
		h.add(r)
		if rides {
			r.riding = true
			h.riding++
		}
	}
	v.end(g)
}

// write writes the buffers of those that were sent something.
func (v *replay) write() {
	for i, r := range v.touched {
		r.touched = false
		v.touched[i] = nil
		r.sess.mu.Lock()
		r.sess.write()
		r.sess.mu.Unlock()
	}
	v.touched = v.touched[:0]
}

// ride makes the session read partition p for itself. The caller holds s.mu.
func (s *session) ride(p int) {
	r := &rider{sess: s}
	pl := &s.places[p]
	pl.ride, pl.pos, pl.parked, pl.stale = r, nil, false, false
	s.c.s.replays[p].tell(r)
}

// stall makes the session stand still where it reads for itself, and be looked
// at anew: its filters have changed, or it closes. The caller holds s.mu.
func (s *session) stall() {
	for p := range s.places {
		pl := &s.places[p]
		if pl.ride == nil {
			continue
		}
		pl.after = s.position(p)
		pl.pos, pl.stale = nil, true
		if pl.parked {
			pl.parked = false
			s.parked--
		}
		s.c.s.replays[p].tell(pl.ride)
	}
}

// unpark lets the session read on where it waited for room. The caller holds
// s.mu.
func (s *session) unpark() {
	if s.parked == 0 || s.slow() {
		return
	}
	room := s.clear() && 2*int(s.flightTail-s.flightHead) <= s.window
	for p := range s.places {
		pl := &s.places[p]
		if pl.parked && (room || len(pl.again) > 0 && s.turn(pl.again[0].counter)) {
			pl.parked = false
			s.parked--
			s.c.s.replays[p].tell(pl.ride)
		}
	}
}

// clear reports that nothing waits to be sent before a late message. The caller
// holds s.mu.
func (s *session) clear() bool { return len(s.retained) == 0 && len(s.queue) == 0 }
