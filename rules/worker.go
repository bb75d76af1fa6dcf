package rules

import (
	"context"
	"errors"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

type trie = topic.Trie[*version]

func newTrie() *trie { return topic.NewTrie[*version](topic.AWS) }

// worker is the shared reader of one partition: one goroutine that evaluates
// each event once for each rule that matches.
type worker struct {
	s       *session
	table   *table
	machine Machine
	hits    []*version
	inside  bool   // an evaluation: a panic is the rule's
	at      uint64 // everything up to here was offered to the lanes that are with it
}

const batchMax = 256

func (w *worker) run(ctx context.Context) {
	s := w.s
	var f Follower
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	for ctx.Err() == nil {
		if f == nil {
			var err error
			if f, err = s.e.o.Log.Follow(s.p.id, w.at, nil); err != nil {
				f = nil
				s.p.log.Error("the log cannot be followed; trying again", "error", err)
				pause(s.waiting(), 200*time.Millisecond)
				s.rearm()
				w.settle()
				continue
			}
		}
		batch, upto, err := f.Next(s.waiting(), batchMax)
		var gap *Gap
		switch {
		case err == nil && upto < w.at:
			if len(batch) > 0 {
				upto = batch[0].Seq - 1
			}
			s.back.Store(upto)
			s.stop(errBack)
			return
		case err == nil:
			for _, ev := range batch {
				w.event(ev)
			}
			w.reach(upto)
		case s.waiting().Err() != nil:
			s.rearm() // before looking what it was about, so that no call is missed
		case errors.As(err, &gap):
			s.gap(gap, "")
			w.reach(gap.To)
		default:
			s.p.log.Error("following the log failed; trying again", "error", err)
			f.Close()
			f = nil
			pause(s.waiting(), 200*time.Millisecond)
		}
		w.settle()
	}
}

// errBack ends a session whose log has lost its unsynced tail: the sequences
// behind the new end are used again, so every position is read and clamped anew.
var errBack = errors.New("the log's end has moved back")

func (w *worker) reach(upto uint64) {
	if upto > w.at {
		w.at = upto
		w.s.position.Store(upto)
	}
}

// settle does what is done between two events: a new table, lanes that come back.
func (w *worker) settle() {
	if t := w.s.next.Load(); t != w.table {
		w.s.take(t, w.table, w.at, w.follow)
		w.table = t
	}
	if w.joinable() {
		w.join()
	}
}

// event offers ev's results to the lanes that are with the worker. It does not
// allocate where no rule selects anything.
func (w *worker) event(ev *event.Event) {
	if Private(ev.Topic) {
		return
	}
	if name, _, ok := ev.Topic.Rule(); ok {
		w.evaluateAll(w.table.byName[name], ev)
		return
	}
	if w.hits = w.table.match.Match(ev.Topic, w.hits[:0]); len(w.hits) > 0 {
		w.evaluateAll(w.hits, ev)
	}
}

func (w *worker) evaluateAll(list []*version, ev *event.Event) {
	for i := 0; i < len(list); {
		i = w.evaluateFrom(list, i, ev)
	}
}

// evaluateFrom evaluates list from i on and returns how far it came: behind a
// panic it ends. One guard for all costs less than one for each.
func (w *worker) evaluateFrom(list []*version, i int, ev *event.Event) (next int) {
	defer func() {
		if !w.inside {
			return
		}
		w.inside = false
		v := list[next]
		w.offer(v, ev, nil, false, w.s.panicked(&w.machine, v, ev, recover()))
		next++
	}()
	for next = i; next < len(list); next++ {
		w.evaluate(list[next], ev)
	}
	return next
}

func (w *worker) evaluate(v *version, ev *event.Event) {
	if ev.Seq <= v.from || ev.Seq > v.end {
		return
	}
	wanted := false
	for _, r := range v.lanes {
		if !r.left.Load() && ev.Seq > r.pos {
			wanted = true
			break
		}
	}
	if !wanted {
		return
	}
	w.inside = true
	payload, ok, err := w.s.evalUnguarded(w.s.readersCtx, w.machine, v, ev)
	w.inside = false
	if ok || err != nil || v.hot.Load() {
		w.offer(v, ev, payload, ok, err)
	}
}

// offer hands the outcome of an evaluation to the lanes that are with the worker.
func (w *worker) offer(v *version, ev *event.Event, payload []byte, ok bool, err error) {
	if ok || err != nil {
		for _, r := range v.lanes {
			if !r.left.Load() && ev.Seq > r.pos && !r.offer(ev, payload, err) {
				r.pos = ev.Seq - 1
				w.follow(r)
			}
		}
	}
	if v.hot.Load() {
		for _, r := range v.lanes {
			if !r.left.Load() {
				r.pos = max(r.pos, ev.Seq)
				w.follow(r)
			}
		}
	}
}

// offer hands one outcome to the lane. A failed evaluation is one failure of the
// rule, not one for each of its actions.
func (r *runner) offer(ev *event.Event, payload []byte, err error) bool {
	if err == nil {
		return r.lane.Offer(ev, payload)
	}
	return r.index > 0 || r.lane.Fail(ev, err)
}

// eval evaluates and contains a panic.
func (s *session) eval(ctx context.Context, m *Machine, v *version, ev *event.Event) (payload []byte, ok bool, err error) {
	panicking := true
	defer func() {
		if panicking {
			payload, ok, err = nil, false, s.panicked(m, v, ev, recover())
		}
	}()
	payload, ok, err = s.evalUnguarded(ctx, *m, v, ev)
	panicking = false
	return payload, ok, err
}

func (s *session) evalUnguarded(ctx context.Context, m Machine, v *version, ev *event.Event) (payload []byte, ok bool, err error) {
	if ev.Hops > MaxHops {
		s.mu.Lock()
		s.loops++
		s.mu.Unlock()
		return nil, false, ErrLoop
	}
	before := m.Exceeded()
	payload, ok, err = v.prog.Eval(ctx, m, ev)
	if m.Exceeded() != before {
		s.strike(v)
	}
	return payload, ok, err
}

// panicked makes the error of an evaluation that panicked, and a new Machine:
// the old one may be in any state.
func (s *session) panicked(m *Machine, v *version, ev *event.Event, p any) error {
	*m = s.e.o.Language.NewMachine()
	s.mu.Lock()
	s.panics++
	s.mu.Unlock()
	s.p.log.Error("evaluating a rule panicked", "rule", v.stored.Rule.Name, "message", ev.ID().String(), "panic", p)
	return &panicError{p}
}

// maxStrikes is how often a minute a rule may exceed a work limit before it is
// kept out of the shared worker.
const maxStrikes = 100

func (s *session) strike(v *version) {
	now := s.e.o.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(v.strikes.since) >= time.Minute {
		v.strikes.n, v.strikes.since = 0, now
	}
	if v.strikes.n++; v.strikes.n >= maxStrikes && !v.hot.Swap(true) {
		s.p.log.Warn("a rule exceeds its work limit too often and follows the log by itself from now on", "rule", v.stored.Rule.Name)
	}
}

func (s *session) gap(g *Gap, rule string) {
	s.mu.Lock()
	s.gaps += g.To - g.From + 1
	s.mu.Unlock()
	s.p.log.Error("events were trimmed before rules had read them", "from", g.From, "to", g.To, "rule", rule)
}

// follow lets r leave the worker: from r.pos on it reads by itself.
func (w *worker) follow(r *runner) {
	r.left.Store(true)
	w.s.readers.Go(func() { w.s.follow(r) })
}

// follow reads the log for one lane until it has caught up with the worker, its
// version has ended, or the session ends.
func (s *session) follow(r *runner) {
	v := r.v
	ctx := v.ctx
	if !r.reach(r.pos) {
		return
	}
	m := s.e.o.Language.NewMachine()
	for ctx.Err() == nil {
		if r.f == nil {
			f, err := s.e.o.Log.Follow(s.p.id, r.pos, Filters(v.stored.Rule.Name, v.prog))
			if err != nil {
				s.p.log.Error("the log cannot be followed; trying again", "rule", v.stored.Rule.Name, "error", err)
				pause(ctx, 200*time.Millisecond)
				continue
			}
			r.f = f
		}
		switch again, err := s.feed(ctx, r, &m, true); {
		case err != nil:
			r.f.Close()
			r.f = nil
			if ctx.Err() == nil {
				s.p.log.Error("following the log failed; trying again", "rule", v.stored.Rule.Name, "error", err)
				pause(ctx, 200*time.Millisecond)
			}
		case !again:
			r.f.Close()
			r.f = nil
			return
		case r.pos >= s.position.Load() && !v.hot.Load():
			s.mu.Lock()
			s.joining = append(s.joining, r)
			s.mu.Unlock()
			s.wake()
			return
		}
	}
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}

var errRefused = errors.New("the lane is full")

// feed reads one batch for r and offers it. again is false when r's version has
// ended. wait false: a refusal is errRefused instead of waiting for room.
func (s *session) feed(ctx context.Context, r *runner, m *Machine, wait bool) (again bool, err error) {
	v := r.v
	batch, upto, err := r.f.Next(ctx, batchMax)
	if err != nil {
		var gap *Gap
		if !errors.As(err, &gap) {
			return true, err
		}
		s.gap(gap, v.stored.Rule.Name)
		return r.reach(gap.To), nil
	}
	for _, ev := range batch {
		if ev.Seq <= r.pos || Private(ev.Topic) {
			continue
		}
		if !r.reach(ev.Seq - 1) {
			return false, nil
		}
		var payload []byte
		ok := false
		var evalErr error
		if ev.Seq > v.from {
			payload, ok, evalErr = s.eval(ctx, m, v, ev)
			if ctx.Err() != nil {
				return true, ctx.Err() // a look-up may have failed only because of that
			}
		}
		for ok || evalErr != nil {
			v.mu.Lock()
			taken := ev.Seq > v.end || r.offer(ev, payload, evalErr)
			if taken {
				r.pos = min(ev.Seq, v.end)
			}
			v.mu.Unlock()
			if taken {
				break
			}
			if !wait {
				return true, errRefused
			}
			select {
			case <-r.lane.Room():
			case <-ctx.Done():
				return true, ctx.Err()
			}
		}
	}
	return r.reach(upto), nil
}

// reach says that everything up to upto was offered. false: the version ends
// there or before.
func (r *runner) reach(upto uint64) bool {
	v := r.v
	v.mu.Lock()
	defer v.mu.Unlock()
	upto = min(upto, v.end)
	if upto > r.pos {
		r.pos = upto
	}
	r.lane.Advance(r.pos)
	return r.pos < v.end
}

func (w *worker) joinable() bool {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return len(w.s.joining) > 0
}

// joinMax bounds what the worker reads for one lane that comes back, in batches,
// and joinWait how long it waits for it.
const (
	joinMax  = 4
	joinWait = 5 * time.Millisecond
)

// join takes lanes over that have caught up. The last few events between such a
// lane and the worker are read by the worker itself, from the lane's follower:
// two readers that run side by side at full load would never meet.
func (w *worker) join() {
	s := w.s
	s.mu.Lock()
	list := s.joining
	s.joining = nil
	s.mu.Unlock()
	for _, r := range list {
		if !w.meet(r) {
			w.follow(r)
		}
	}
}

// meet brings r up to the worker's position; false: not now.
func (w *worker) meet(r *runner) bool {
	s := w.s
	if r.pos >= w.at {
		r.f.Close()
		r.f = nil
		r.left.Store(false)
		return true
	}
	ctx, cancel := context.WithTimeout(s.readersCtx, joinWait)
	defer cancel()
	for range joinMax {
		again, err := s.feed(ctx, r, &w.machine, false)
		if err != nil || !again {
			// The follower has passed what was refused: it is of no more use.
			r.f.Close()
			r.f = nil
			return false
		}
		if r.pos >= w.at {
			r.f.Close()
			r.f = nil
			r.left.Store(false)
			return true
		}
	}
	return false
}
