package mqtt

import (
	"slices"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// restore makes the session what r says. It is not in the routes yet. The
// caller holds s.mu.
func (s *session) restore(r *record) {
	s.flightHead = r.head
	s.flightTail = r.head + uint64(len(r.flights))
	s.flights = make([]flight, max(8, len(r.flights)))
	for p := range s.places {
		s.places[p] = place{behind: true, after: r.cursor[p], dup: r.dup[p]}
	}
	for i, f := range r.flights {
		counter := r.head + uint64(i)
		s.flights[counter%uint64(len(s.flights))] = f
		if !f.retained && f.seq > 0 {
			pl := &s.places[f.part]
			pl.again = append(pl.again, again{f.seq, counter})
		}
	}
	for p := range s.places {
		slices.SortFunc(s.places[p].again, func(a, b again) int { return int(int64(a.seq - b.seq)) })
	}
	s.names, s.unsent, s.ghosts, s.replaced = r.names, r.unsent, r.ghosts, r.replaced
	for _, sub := range r.replaced {
		sub.sess = s
	}
	s.subs = make(map[topic.Filter]*subscription, len(r.subs))
	for _, sub := range r.subs {
		sub.sess = s
		_, sub.shared = sub.parseShare()
		s.subs[sub.filter] = sub
		if sub.id != 0 {
			s.withID++
		}
	}
	s.advance()
}

// join puts the subscriptions of a restored session in force, after its
// CONNACK, and begins to read what its client has missed.
func (c *client) join() {
	s := c.sess
	c.s.routes.mu.Lock()
	defer c.s.routes.mu.Unlock()
	s.mu.Lock()
	var shared []*subscription
	defer func() { s.mu.Unlock(); c.joinShares(shared) }()
	if s.closed {
		return
	}
	for _, sub := range s.subs {
		if sub.shared {
			shared = append(shared, sub)
			continue
		}
		c.s.routes.trie.Add(sub.filter, sub)
		s.rewind(sub)
	}
	s.resendRetained()
	for p := range s.places {
		if s.places[p].ride == nil && !s.caughtUp(p) {
			s.ride(p)
		}
	}
	s.pump()
	s.write()
}

// resendRetained sends the retained messages again that were under way, and
// queues those that were not sent. One that is no longer retained has been
// replaced by a newer one, which is on the log, or cleared. The caller holds
// routes.mu and s.mu.
func (s *session) resendRetained() {
	var x encoder
	now := s.c.s.now()
	for i := s.flightHead; i < s.flightTail; i++ {
		f := s.flight(i)
		if f == nil || !f.retained {
			continue
		}
		m := s.c.s.routes.retained.messages[s.names[i]]
		if m == nil || m.Seq != f.seq || m.Partition != f.part {
			f.done = true
			continue
		}
		if !s.turn(i) {
			s.late = append(s.late, lateRetained{m, i})
			continue
		}
		s.resend(&x, m, i, now)
	}
	for _, u := range s.unsent {
		m, sub := s.c.s.routes.retained.messages[u.topic], s.subs[u.filter]
		if m != nil && sub != nil && s.may(m) {
			s.retained = append(s.retained, waiting{m, sub, true})
		}
	}
	s.unsent = nil
	s.advance()
}

// resend sends a message again with its packet id. The caller holds s.mu and
// calls advance.
func (s *session) resend(x *encoder, e *event.Event, counter uint64, now time.Time) {
	f := s.flight(counter)
	if f == nil {
		return // acknowledged meanwhile
	}
	var ids []uint32
	if sub := s.wants(e, 1); sub != nil {
		ids = s.ids(sub, e)
	}
	x.reset(e, now)
	if !s.may(e) {
		f.done = true
		return
	}
	at, pid, ok := s.put(x, 1, f.retain, ids)
	if !ok {
		f.done = true
		return
	}
	s.buf[at] |= duplicate
	if s.c.dialect != nil {
		f.e = e
	}
	id := packetID(counter)
	s.buf[pid], s.buf[pid+1] = byte(id>>8), byte(id)
	s.c.s.m.redeliveries.Inc()
}

// sentBefore takes what lies before seq out of those to be sent again in
// partition p: it is not on the log any more. It returns the flight of seq
// itself where there is one. The caller holds s.mu.
func (s *session) sentBefore(p int, seq uint64) (counter uint64, ok bool) {
	pl := &s.places[p]
	n := 0
	for ; n < len(pl.again) && pl.again[n].seq < seq; n++ {
		if f := s.flight(pl.again[n].counter); f != nil {
			f.done = true
		}
	}
	if n > 0 {
		pl.again = pl.again[n:]
		s.advance()
		s.pump()
	}
	if len(pl.again) > 0 && pl.again[0].seq == seq {
		return pl.again[0].counter, true
	}
	return 0, false
}

// passed reports whether an earlier connection came by seq in partition p, which
// is not among what is to be sent again: it was acknowledged, or could not be sent.
// A new flight for it might wait for ever for room that those behind it take. The
// caller holds s.mu.
func (s *session) passed(p int, seq uint64) bool {
	again := s.places[p].again
	return len(again) > 0 && seq < again[len(again)-1].seq && s.c.dialect == nil
}

// turn reports whether the message of a flight may be sent again now: a client
// may have come back with a smaller window. The caller holds s.mu.
func (s *session) turn(counter uint64) bool {
	return s.flight(counter) == nil || counter-s.flightHead < uint64(s.window) && !s.slow()
}

// wants returns a subscription of the session, of at least qos, that e matches;
// nil where there is none. The caller holds s.mu.
func (s *session) wants(e *event.Event, qos byte) *subscription {
	for f, sub := range s.subs {
		if sub.qos >= qos && topic.Match(f, e.Topic, s.c.s.limits.Mode) {
			return sub
		}
	}
	return nil
}

// caughtUp lets the session join the router of partition p where it has nothing
// left to read for itself. The caller holds s.mu.
func (s *session) caughtUp(p int) bool {
	pl, routed := &s.places[p], s.c.s.routed[p].Load()
	if len(pl.again) > 0 {
		return false
	}
	after := s.position(p)
	if after < routed {
		for _, sub := range s.subs {
			if sub.qos == 1 && !sub.shared {
				return false
			}
		}
		for _, sub := range s.replaced {
			if after < sub.until[p] {
				return false
			}
		}
		// Nothing is left to be late with: whoever subscribes from here on starts
		// live.
		after = routed
	}
	pl.after, pl.behind = after, false
	pl.ride, pl.pos, pl.stale = nil, nil, false
	if pl.parked {
		pl.parked = false
		s.parked--
	}
	return true
}
