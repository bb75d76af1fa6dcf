package mqtt

import (
	"slices"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// A subscription that a SUBSCRIBE replaces still brings what was published while
// it was in force and has not been sent: its session, which reads that from the
// log, reads for it up to until. What it brought at once needs no such thing.
// Source: MQTT 5 [MQTT-3.8.4-3], messages are not lost by the replacement.

// replace makes sub begin where old ends, and returns what is left of old; nil
// where that is nothing. at has, for each partition, how far the session has been
// handed the log, or the router if that is further. The caller holds s.mu.
func (s *session) replace(old, sub *subscription, at []uint64) *subscription {
	sub.start = at
	switch {
	case old == nil || old.qos == 0: // what came with QoS 0 does not come again with QoS 1
		return nil
	case old.shared || old.sameOptions(sub):
		sub.start = old.start
		return nil
	}
	left := *old
	left.until = at
	if s.spent(&left, s.cursors()) {
		return nil
	}
	return &left
}

// sameOptions reports whether it makes no difference by which of two
// subscriptions to a filter a message comes.
func (sub *subscription) sameOptions(o *subscription) bool {
	return sub.qos == o.qos && sub.noLocal == o.noLocal && sub.retainAsPublished == o.retainAsPublished
}

// reach returns, for each partition, where a subscription made now begins. The
// caller holds routes.mu and s.mu.
func (s *session) reach() []uint64 {
	at := make([]uint64, len(s.places))
	for p := range at {
		// A session that reads for itself may be ahead of the router.
		at[p] = max(s.c.s.handed[p].Load(), s.position(p))
	}
	return at
}

// spent reports whether a replaced subscription has brought all it was to. The
// caller holds s.mu.
func (s *session) spent(sub *subscription, cursors []uint64) bool {
	for p, until := range sub.until {
		if max(cursors[p], sub.start[p]) < until {
			return false
		}
	}
	return true
}

// dropSpent forgets the replaced subscriptions that have nothing left. The caller
// holds s.mu.
func (s *session) dropSpent(cursors []uint64) {
	if len(s.replaced) > 0 {
		s.replaced = slices.DeleteFunc(s.replaced, func(sub *subscription) bool { return s.spent(sub, cursors) })
	}
}

// dropReplaced forgets the replaced subscriptions of a filter. The caller holds
// s.mu.
func (s *session) dropReplaced(f topic.Filter) {
	s.replaced = slices.DeleteFunc(s.replaced, func(sub *subscription) bool { return sub.filter == f })
}

// cursors returns, for each partition, the position behind which there is
// something the client has not acknowledged or was not sent. The caller holds
// s.mu.
func (s *session) cursors() []uint64 {
	at := make([]uint64, len(s.places))
	for p := range at {
		at[p] = s.position(p)
	}
	for i := s.flightHead; i != s.flightTail; i++ {
		if f := s.flight(i); f != nil && f.seq > 0 && !f.retained && f.share == nil {
			at[f.part] = min(at[f.part], f.seq-1)
		}
	}
	for i := range s.queue {
		e := s.queue[i].e
		at[e.Partition] = min(at[e.Partition], e.Seq-1)
	}
	return at
}

// holds reports whether the subscription is, or was, in force for e.
func (sub *subscription) holds(e *event.Event) bool {
	p := e.Partition
	return e.Seq > sub.start[p] && (sub.until == nil || e.Seq <= sub.until[p])
}
