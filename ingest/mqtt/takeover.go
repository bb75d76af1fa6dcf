package mqtt

import (
	"context"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
)

const (
	opLetGo = "let go"
	opWhose = "whose"
)

// takeOver asks the other gateways to let go of c's client id, and waits: what
// the older connection published, its will included, is on the log then, and its
// session is saved. It is called when c is the connection of its id here.
func (c *client) takeOver() *fault {
	n := c.s.node
	if !n.shared() {
		return nil
	}
	peers := n.others()
	if len(peers) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.s.safety.TakeoverTimeout+n.ttl)
	defer cancel()
	q := request{Op: opLetGo, ID: c.key, Version: c.connection, Node: n.id}
	answers, faults := make([]response, len(peers)), make([]*fault, len(peers))
	var asked sync.WaitGroup
	for i, peer := range peers {
		asked.Go(func() {
			a, gone, err := n.ask(ctx, peer, q)
			switch {
			case gone:
			case err != nil:
				faults[i] = faultf(codeBusy, "takeover", "another gateway does not let go of this client id")
			case a.Newer:
				faults[i] = faultf(codeTakenOver, "taken_over", "another connection has the same client id")
			default:
				answers[i] = a
			}
		})
	}
	asked.Wait()
	latest := int64(0)
	for i := range peers {
		if faults[i] != nil {
			return faults[i]
		}
		if answers[i].Had {
			c.s.m.takeovers.Inc()
			latest = max(latest, answers[i].Version)
		}
	}
	if latest >= c.connection { // by a clock that is ahead
		for last := c.s.version.Load(); last < latest && !c.s.version.CompareAndSwap(last, latest); last = c.s.version.Load() {
		}
		c.s.mu.Lock()
		c.connection = c.s.nextVersion()
		c.s.mu.Unlock()
	}
	return nil
}

// letGo ends a connection whose client connects at another gateway, and waits
// until nothing of it is under way. Where both are being established, the later
// one stays.
func (n *node) letGo(ctx context.Context, q request) response {
	s := n.s
	s.mu.Lock()
	old := s.clients[q.ID]
	var version int64
	if old != nil {
		version = old.connection
	}
	s.mu.Unlock()
	if old == nil {
		return response{}
	}
	if !old.accepted.Load() && (version > q.Version || version == q.Version && n.id > q.Node) {
		return response{Newer: true}
	}
	old.end(faultf(codeTakenOver, "taken_over", "another connection has the same client id"))
	limit := time.NewTimer(s.safety.TakeoverTimeout)
	defer limit.Stop()
	settled := make(chan struct{})
	n.answers.Go(func() {
		<-old.done
		old.unsettled.Wait()
		close(settled)
	})
	select {
	case <-settled:
		return response{Had: true, Version: version}
	case <-limit.C:
		return response{Error: "the connection does not end"}
	case <-ctx.Done():
		return response{Error: "the gateway is shutting down"}
	}
}

// lookUp reads what the bucket has for c's client id: with several gateways
// another one may have written it.
func (c *client) lookUp() *fault {
	if !c.s.node.shared() || c.s.sessions.bucket == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, sessionsTimeout)
	defer cancel()
	if err := c.s.refresh(ctx, c.key, func() bool { return true }); err != nil {
		return faultf(codeUnavailable, "unavailable", errs.Text(err))
	}
	return nil
}

// refresh takes over what the bucket has for a client id, if still holds once it
// has been read.
func (s *Server) refresh(ctx context.Context, id string, still func() bool) error {
	e, err := s.sessions.bucket.Get(ctx, id)
	if errs.Is(err, errs.NotFound) {
		if still() {
			s.sessions.forget(id)
		}
		return nil
	}
	if err != nil {
		return err
	}
	k := stored{unsure: true}
	if r, err := decodeRecord(e.Value, len(s.routed)); err == nil {
		s.reach(ctx, r)
		if !r.left.IsZero() {
			k = stored{until: r.left.Add(r.expiry)}
		}
	}
	if still() {
		s.sessions.set(id, k)
	}
	return nil
}

// absent reports whether the client is not connected to this gateway.
func (s *Server) absent(id string) func() bool { return func() bool { return !s.here(id) } }

// reach waits until this gateway knows the log as far as the one that wrote r
// did. What it does not get to has been lost; see record.clamp.
func (s *Server) reach(ctx context.Context, r *record) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for p := range r.cursor {
		far := max(r.cursor[p], r.dup[p])
		for _, sub := range r.subs {
			far = max(far, sub.start[p])
		}
		for _, sub := range r.replaced {
			far = max(far, sub.until[p])
		}
		for _, f := range r.flights {
			if int(f.part) == p {
				far = max(far, f.seq)
			}
		}
		for s.log.Committed(p) < far {
			if !pause(ctx, 2*time.Millisecond) {
				return
			}
		}
	}
}

// adoptSessions takes note of sessions whose clients have left, on whichever
// gateway, or whose gateway has died, so that somebody ends them in time.
func (s *Server) adoptSessions(ctx context.Context) {
	st := &s.sessions
	now := s.now()
	var changes []kv.Change
	err := st.bucket.Scan(ctx, "", func(e kv.Entry) error {
		r, err := decodeRecord(e.Value, len(s.routed))
		if err != nil {
			return nil // told at the start
		}
		st.mu.Lock()
		_, known := st.stored[e.Key]
		if !known && !r.left.IsZero() {
			st.stored[e.Key] = stored{until: r.left.Add(r.expiry)}
		}
		st.mu.Unlock()
		if !known && r.left.IsZero() && !s.here(e.Key) {
			// Scan passes those by whose gateway is alive.
			r.left = now
			for p := range r.dup {
				r.dup[p] = max(r.dup[p], s.log.Committed(p))
			}
			changes = append(changes, kv.Change{Key: e.Key, Value: appendRecord(nil, r), Any: true})
		}
		return nil
	})
	if err != nil {
		s.noise.warn("the sessions of other gateways are not read", "error", err)
		return
	}
	for _, c := range changes {
		if _, err := st.bucket.Commit(ctx, []kv.Change{c}); err != nil {
			continue // its client is back, or the next look finds it
		}
	}
	if err := s.sweepShares(ctx); err != nil {
		s.noise.warn("the shared subscriptions nobody has are not read", "error", err)
	}
}

// here reports whether the client is connected to this gateway.
func (s *Server) here(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients[id] != nil
}
