package mqtt

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
)

const (
	routeBatch = 512
	// routeChunk bounds how long a SUBSCRIBE waits for the routers.
	routeChunk = 64
)

// route hands the events of one partition to the sessions that want them, until
// ctx ends.
func (s *Server) route(ctx context.Context, p int, f Follower) {
	defer f.Close()
	var x encoder
	var matched []*subscription
	var touched []*session
	for {
		batch, upto, err := f.Next(ctx, routeBatch)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			var gap *eventlog.GapError
			if errors.As(err, &gap) {
				s.m.gaps.Inc()
				s.logger.Error("live delivery has a gap", "partition", p, "from", gap.From, "to", gap.To)
				continue
			}
			s.noise.warn("live delivery waits for the log", "partition", p, "error", err)
			if !pause(ctx, 100*time.Millisecond) {
				return
			}
			continue
		}
		if len(batch) > 0 {
			upto = max(upto, batch[len(batch)-1].Seq)
		}
		prev := s.routed[p].Load()
		if len(batch) > 0 && batch[0].Seq <= prev {
			s.clampSessions(p, batch[0].Seq-1)
		} else if upto < prev {
			s.clampSessions(p, upto)
		}
		// Before anything is handed out: a session that compares its own
		// position with this one misses nothing of the batch.
		s.routed[p].Store(upto)
		now := s.now()
		for len(batch) > 0 {
			n := min(len(batch), routeChunk)
			unlock := s.takeRetained(p, batch[:n])
			if s.routes.trie.Len() > 0 {
				for _, e := range batch[:n] {
					matched, touched = s.handOut(&x, e, now, matched[:0], touched)
				}
			}
			s.handed[p].Store(batch[n-1].Seq)
			unlock()
			for i, sess := range touched {
				sess.Flush()
				touched[i] = nil
			}
			touched = touched[:0]
			clear(matched[:cap(matched)])
			batch = batch[n:]
		}
		x.e = nil
		s.handed[p].Store(upto)
		s.moved.tell()
		if s.routes.retained.bucket != nil {
			s.routes.mu.Lock()
			s.routes.retained.handled[p] = upto
			s.routes.mu.Unlock()
		}
	}
}

// takeRetained locks the routes for a chunk of events, as readers where none of
// them is retained, and returns the unlocking.
func (s *Server) takeRetained(p int, chunk []*event.Event) (unlock func()) {
	r := &s.routes.retained
	if r.bucket == nil || !slices.ContainsFunc(chunk, func(e *event.Event) bool { return e.Retain }) {
		s.routes.mu.RLock()
		return s.routes.mu.RUnlock
	}
	s.routes.mu.Lock()
	for _, e := range chunk {
		r.take(e)
	}
	r.handled[p] = chunk[len(chunk)-1].Seq
	return s.routes.mu.Unlock
}

func (s *Server) handOut(x *encoder, e *event.Event, now time.Time, matched []*subscription, touched []*session) ([]*subscription, []*session) {
	if hidden(e) {
		return matched, touched
	}
	matched = s.routes.trie.Match(e.Topic, matched)
	if len(matched) == 0 {
		return matched, touched
	}
	x.reset(e, now)
	if len(matched) == 1 {
		if sub := matched[0]; sub.sess == nil {
			touched = appendSession(touched, sub.group.deliver(x))
		} else if sub.sess.deliver(x, sub) {
			touched = append(touched, sub.sess)
		}
		return matched, touched
	}
	// A session with several matching filters gets the message once, with the
	// highest QoS of them and the identifiers of all.
	for _, qos := range [2]byte{1, 0} {
		for _, sub := range matched {
			if sub.qos != qos {
				continue
			}
			if sub.sess == nil {
				touched = appendSession(touched, sub.group.deliver(x))
			} else if sub.sess.deliver(x, sub) {
				touched = append(touched, sub.sess)
			}
		}
	}
	return matched, touched
}

// appendSession appends a member of a group that was sent something.
func appendSession(touched []*session, s *session) []*session {
	if s == nil || len(touched) > 0 && touched[len(touched)-1] == s {
		return touched
	}
	return append(touched, s)
}

// hidden reports that e is not for subscribers: Basic Ingest goes to its rule
// only, private calls to nobody.
func hidden(e *event.Event) bool {
	if e.Topic[0] != '$' {
		return false
	}
	_, _, basic := e.Topic.Rule()
	return basic || ingest.IsPrivate(e.Topic)
}

// pause waits for d, and reports false where ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// allHanded waits until the routers have handed out all that is committed now:
// what a client was told is on the log comes before the subscriptions made next.
// It reports false where ctx ended first.
func (s *Server) allHanded(ctx context.Context) bool {
	for p := range s.handed {
		end := s.log.Committed(p)
		// The log's end may go back meanwhile.
		behind := func() bool { return s.handed[p].Load() < min(end, s.log.Committed(p)) }
		for behind() {
			s.moved.waiters.Add(1)
			moved := s.moved.next()
			if behind() {
				select {
				case <-moved:
				case <-ctx.Done():
				}
			}
			s.moved.waiters.Add(-1)
			if ctx.Err() != nil {
				return false
			}
		}
	}
	return true
}

// signal wakes all that wait for something to move; it costs an atomic load
// where nobody does.
type signal struct {
	waiters atomic.Int32
	mu      sync.Mutex
	ch      chan struct{} // closed at the next move; nil: nobody waits
}

// next returns a channel that is closed by the next tell. The caller has counted
// itself among the waiters.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) tell() {
	if s.waiters.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}
