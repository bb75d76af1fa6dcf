package mqtt

import (
	"context"
	"errors"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
)

const catchUpBatch = 64

// catchUp follows one partition for a session that is too slow for the router,
// or whose client was away, from where the session stands until it meets the router again. It sends QoS 1
// messages only: those of QoS 0 are never sent late.
func (s *session) catchUp(p int) {
	ctx := s.c.ctx
	for {
		s.mu.Lock()
		if s.closed || s.caughtUp(p) {
			s.mu.Unlock()
			return
		}
		after, version := s.places[p].after, s.subsVersion
		filters := s.wanted(p)
		s.mu.Unlock()
		f, err := s.c.s.log.Follow(eventlog.FollowOptions{Partition: p, After: after, Filters: filters, Mode: s.c.s.limits.Mode})
		if err == nil {
			var joined bool
			joined, err = s.catchUpWith(ctx, p, f, version)
			f.Close()
			if joined {
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.c.s.noise.warn("reading the log for a slow session", "clientId", s.c.id, "partition", p, "error", err)
			if !pause(ctx, 100*time.Millisecond) {
				return
			}
		}
	}
}

// wanted returns the filters a late session reads partition p for. The caller
// holds s.mu.
func (s *session) wanted(p int) []topic.Filter {
	var out []topic.Filter
	if len(s.places[p].again) > 0 {
		// Where no filter is left, the nil list stands for all and finds them.
		out = append(out, s.ghosts...)
	}
	for f, sub := range s.subs {
		if sub.qos == 1 {
			out = append(out, f)
		}
	}
	return out
}

// catchUpWith reads until the session has met the router (joined), its
// subscriptions have changed, or reading fails.
func (s *session) catchUpWith(ctx context.Context, p int, f Follower, version int) (joined bool, err error) {
	var x encoder
	for {
		batch, upto, err := f.Next(ctx, catchUpBatch)
		if err != nil {
			var gap *eventlog.GapError
			if errors.As(err, &gap) {
				s.c.s.m.gaps.Inc()
				s.c.s.logger.Error("a session was overtaken by trimming", "clientId", s.c.id, "partition", p, "from", gap.From, "to", gap.To)
				s.mu.Lock()
				if !s.closed {
					s.sentBefore(p, gap.To+1)
					s.places[p].after = max(s.places[p].after, gap.To)
				}
				s.mu.Unlock()
				continue
			}
			return false, err
		}
		now := s.c.s.now()
		s.mu.Lock()
		for _, e := range batch {
			if s.closed {
				break
			}
			counter, again := s.sentBefore(p, e.Seq)
			open := false
			if again {
				open = s.awaitTurn(counter)
			} else {
				open = s.awaitRoom()
			}
			if !open {
				s.mu.Unlock()
				return false, context.Canceled
			}
			if s.subsVersion != version {
				break
			}
			if again {
				s.resend(&x, e, counter, false, now)
				s.places[p].again = s.places[p].again[1:]
				s.advance()
			} else {
				s.sendLate(&x, e, now)
			}
			s.places[p].after = e.Seq
			if len(s.buf) >= drainPiece {
				s.write()
			}
		}
		s.write()
		if s.subsVersion != version {
			// What has been read was read with the old filters: a new one may
			// begin within it. Read again from where the session stands.
			s.mu.Unlock()
			return false, nil
		}
		if !s.closed {
			s.sentBefore(p, upto+1)
			s.places[p].after = max(s.places[p].after, upto)
		}
		if s.closed || s.caughtUp(p) {
			s.mu.Unlock()
			return true, nil
		}
		s.mu.Unlock()
	}
}

// awaitRoom waits until a message can be sent after all that waits already. It
// reports false when the session has closed. The caller holds s.mu.
func (s *session) awaitRoom() bool {
	for !s.closed && (len(s.retained) > 0 || len(s.queue) > 0 || !s.hasRoom()) {
		s.write()
		s.waiters++
		s.room.Wait()
		s.waiters--
	}
	return !s.closed
}

// sendLate sends e if one of the session's subscriptions wants it with QoS 1.
// The caller holds s.mu and there is room.
func (s *session) sendLate(x *encoder, e *event.Event, now time.Time) {
	if e.QoS == 0 || hidden(e) {
		return
	}
	var best *subscription
	for f, sub := range s.subs {
		if sub.qos == 0 || e.Seq <= sub.start[e.Partition] || !topic.Match(f, e.Topic, s.c.s.limits.Mode) {
			continue
		}
		if !(sub.noLocal && e.ClientID == s.c.id) {
			best = sub
		}
	}
	if best == nil || !s.may(e) {
		return
	}
	x.reset(e, now)
	s.send(x, 1, e.Retain && best.retainAsPublished, s.ids(best, e), false)
}
