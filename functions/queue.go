package functions

import (
	"cmp"
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
)

// queue holds the events of asynchronous invocations. Each lies in the bucket
// from before it is accepted until it is done or given up, in one of a fixed
// number of places: keys are used again, for a bucket forgets none.
//
// Several processes may share the bucket. An event belongs to the one that
// accepted it; each writes a lease, and what belongs to one whose lease has run
// out is taken over by another. Whoever writes a place must know the revision it
// replaces: that fences a former owner.
type queue struct {
	s   *Service
	id  string        // of this process
	ttl time.Duration // of a lease that is not renewed

	mu      sync.Mutex
	places  map[int]*place
	bytes   int       // of all payloads
	taken   int       // places with an event, or with one on its way there
	waiting []*place  // this process's, by time
	running int       // this process's
	held    time.Time // when the lease that is known to be stored was written; zero: none is
	peers   map[string]lease
	loaded  bool          // all there is has been seen
	lost    map[int]*Lost // given up, by place in the bucket
	wake    chan struct{} // has one when something came or ended
}

// Bounds of the queue.
const (
	manyQueued  = 10_000
	manyBytes   = 256 << 20 // of payloads, which are in memory too
	manyRunning = 64
	manyLost    = 100
	leaseTTL    = 5 * time.Second
)

// place is what is known of one place of the queue; queue.mu guards it.
type place struct {
	n    int
	rev  uint64  // of what is known; 0: nothing was seen since begin
	one  *queued // nil: it is empty
	busy bool    // this process runs the event, or puts one here
}

// queued is one event; it is not changed.
type queued struct {
	ID        string    `json:"id"`
	Function  string    `json:"function"`
	Qualifier string    `json:"qualifier,omitempty"`
	Client    string    `json:"clientContext,omitempty"`
	Payload   []byte    `json:"payload"`
	Accepted  time.Time `json:"accepted"`
	Tries     int       `json:"tries"`     // the function failed so often
	NotBefore time.Time `json:"notBefore"` // of the next try
	Refused   int       `json:"refused"`   // there was no place so often since
	Owner     string    `json:"owner"`     // process it belongs to
}

// lease is when a process's lease last changed, by this one's own clock, so that
// clocks need not agree.
type lease struct {
	rev  uint64
	seen time.Time
}

// Lost is an event whose function failed to the last try.
type Lost struct {
	ID       string    `json:"id"`
	Function string    `json:"function"`
	Payload  []byte    `json:"payload"`
	Accepted time.Time `json:"accepted"`
	GivenUp  time.Time `json:"givenUp"`
	Tries    int       `json:"tries"`
	Reason   string    `json:"reason"`

	rev uint64 // of the bucket
}

// maxAge is how long an event waits for a place. Source: AWS Lambda developer
// guide, "Asynchronous invocation".
const maxAge = 6 * time.Hour

// Keys of the queue in the bucket.
const (
	queuePrefix = "queue."
	placePrefix = queuePrefix + "at."
	lostPrefix  = queuePrefix + "lost."
	leasePrefix = queuePrefix + "lease."
)

func queueKey(n int) string { return placePrefix + strconv.Itoa(n) }
func lostKey(n int) string  { return lostPrefix + strconv.Itoa(n) }

func openQueue(ctx context.Context, s *Service) (*queue, error) {
	q := &queue{
		s: s, id: NewID(), ttl: s.o.Lease, places: map[int]*place{}, peers: map[string]lease{}, lost: map[int]*Lost{},
		wake: make(chan struct{}, 1),
	}
	return q, s.bucket.Scan(ctx, queuePrefix, func(e kv.Entry) error { q.seen(e); return nil })
}

// seen takes one entry of the bucket.
func (q *queue) seen(e kv.Entry) {
	if id, ok := strings.CutPrefix(e.Key, leasePrefix); ok {
		q.mu.Lock()
		defer q.mu.Unlock()
		if len(e.Value) == 0 {
			delete(q.peers, id)
		} else if q.peers[id].rev != e.Revision {
			q.peers[id] = lease{e.Revision, time.Now()}
		}
		return
	}
	if n, ok := number(e.Key, lostPrefix, manyLost); ok {
		l := &Lost{}
		if err := json.Unmarshal(e.Value, l); err != nil {
			q.s.logger.Error("an event that was given up cannot be read", "key", e.Key, "err", err)
		}
		l.rev = e.Revision
		q.mu.Lock()
		defer q.mu.Unlock()
		q.lost[n] = l
	}
	if n, ok := number(e.Key, placePrefix, manyQueued); ok {
		var one *queued
		if len(e.Value) > 0 {
			one = &queued{}
			if err := json.Unmarshal(e.Value, one); err != nil {
				q.s.logger.Error("a queued event cannot be read", "key", e.Key, "err", err)
			}
		}
		q.apply(n, e.Revision, one)
	}
}

// number returns the number of a key below prefix, from 0 to many-1.
func number(key, prefix string, many int) (int, bool) {
	digits, ok := strings.CutPrefix(key, prefix)
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n >= 0 && n < many
}

// apply takes over what place n holds at a revision, whoever has written it.
func (q *queue) apply(n int, rev uint64, one *queued) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.at(n)
	if rev <= p.rev {
		return
	}
	p.rev = rev
	q.set(p, one)
}

// set puts one, or nothing, at p; q.mu is held.
func (q *queue) set(p *place, one *queued) {
	if i := slices.Index(q.waiting, p); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	if p.one != nil {
		q.bytes -= len(p.one.Payload)
	}
	if one != nil {
		q.bytes += len(one.Payload)
	}
	before := p.taken()
	p.one = one
	q.count(before, p.taken())
	q.line(p)
}

func (p *place) taken() bool { return p.one != nil || p.busy }

func (q *queue) count(before, after bool) {
	if before && !after {
		q.taken--
	} else if after && !before {
		q.taken++
	}
}

// at returns place n; q.mu is held.
func (q *queue) at(n int) *place {
	p := q.places[n]
	if p == nil {
		p = &place{n: n}
		q.places[n] = p
	}
	return p
}

// line puts a place in the line where its event is this process's to run; q.mu
// is held.
func (q *queue) line(p *place) {
	if p.busy || p.one == nil || p.one.Owner != q.id {
		return
	}
	i, _ := slices.BinarySearchFunc(q.waiting, p, func(a, b *place) int {
		return cmp.Or(a.one.NotBefore.Compare(b.one.NotBefore), a.one.Accepted.Compare(b.one.Accepted), cmp.Compare(a.n, b.n))
	})
	q.waiting = slices.Insert(q.waiting, i, p)
	q.signal()
}

// free ends what this process does with a place.
func (q *queue) free(p *place) {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := p.taken()
	p.busy = false
	q.count(before, p.taken())
	q.line(p)
}

// len returns how many events there are, of all processes.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.taken
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Enqueue takes an event for an invocation that nobody waits for, and returns
// its id once it is stored. The function is tried three times where it fails,
// one and two minutes apart; then the event is Lost. An event may come to the
// function more than once, with the same id. Errors: errs.NotFound,
// errs.TooLarge, errs.Quota (the queue is full), errs.Unavailable.
func (s *Service) Enqueue(ctx context.Context, r *Request) (string, error) {
	const op = "functions.Enqueue"
	f, _, version, err := s.find(r.Function, r.Qualifier)
	if err != nil {
		return "", err
	}
	if len(r.Payload) > MaxEvent {
		return "", errs.Errorf(op, errs.TooLarge, "%d bytes exceeded the maximum of %d", len(r.Payload), MaxEvent)
	}
	if s.elsewhere != nil {
		return s.elsewhere.enqueue(ctx, r)
	}
	q := s.queue
	one := &queued{ID: r.ID, Function: f.Name, Qualifier: version, Client: r.ClientContext, Payload: r.Payload, Accepted: s.now().UTC(), Owner: q.id}
	if one.ID == "" {
		one.ID = NewID()
	}
	one.NotBefore = one.Accepted
	for try := 0; ; try++ {
		p, expected := q.empty(len(one.Payload))
		if p == nil {
			return "", errs.Errorf(op, errs.Quota, "%d events of %d MiB wait, no more are taken", q.len(), manyBytes>>20)
		}
		err := q.write(ctx, p, one, expected)
		q.free(p)
		if err == nil {
			return one.ID, nil
		}
		// Another process may have taken the place meanwhile.
		if !errs.Is(err, errs.Conflict) || try == 20 {
			return "", err
		}
	}
}

// empty reserves an empty place, for an event of size bytes, and returns its
// revision; nil: there is none. The caller frees it.
func (q *queue) empty(size int) (*place, uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.taken >= manyQueued || q.bytes+size > manyBytes {
		return nil, 0
	}
	// By chance, so that processes seldom choose the same.
	for n := rand.IntN(manyQueued); ; n = (n + 1) % manyQueued {
		if p := q.at(n); p.one == nil && !p.busy {
			p.busy = true
			q.taken++
			return p, p.rev
		}
	}
}

// write stores one in place p, which has the revision expected, and takes it over.
func (q *queue) write(ctx context.Context, p *place, one *queued, expected uint64) error {
	b, err := json.Marshal(one)
	if err != nil {
		return err
	}
	rev, err := q.s.bucket.Update(ctx, queueKey(p.n), b, expected)
	if err == nil {
		q.apply(p.n, rev, one)
	}
	return err
}

// run gives waiting events to their functions until ctx ends.
func (q *queue) run(ctx context.Context) {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { q.watch(ctx) })
	parts.Go(func() { q.lead(ctx) })
	for {
		now := q.s.now()
		wait := time.Hour
		q.mu.Lock()
		for len(q.waiting) > 0 && q.running < manyRunning && q.leads() {
			p := q.waiting[0]
			if d := p.one.NotBefore.Sub(now); d > 0 {
				wait = d
				break
			}
			q.waiting = slices.Delete(q.waiting, 0, 1)
			p.busy = true
			q.running++
			one, rev := p.one, p.rev
			parts.Go(func() { q.try(ctx, p, one, rev) })
		}
		q.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-q.wake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// watch follows the bucket until ctx ends.
func (q *queue) watch(ctx context.Context) {
	for ctx.Err() == nil {
		q.begin()
		err := q.s.bucket.Watch(ctx, queuePrefix, func(e kv.Entry) {
			if e.Key == "" {
				q.end()
				return
			}
			q.seen(e)
		})
		if err != nil {
			q.s.logger.Warn("the queue of functions is read anew", "err", err)
			pause(ctx, time.Second)
		}
	}
}

// begin expects all there is to be seen again: revisions may have gone back.
func (q *queue) begin() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.loaded = false
	for _, p := range q.places {
		p.rev = 0
	}
}

// end empties the places that have not been seen since begin.
func (q *queue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.loaded = true
	for _, p := range q.places {
		if p.rev == 0 {
			q.set(p, nil)
		}
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// leads reports whether no other process thinks that this one is gone; q.mu is
// held.
func (q *queue) leads() bool { return q.s.o.Alone || time.Since(q.held) < q.ttl }

// lead keeps this process's lease until ctx ends, and takes over the events of
// processes that are gone.
func (q *queue) lead(ctx context.Context) {
	for ctx.Err() == nil {
		if !q.s.o.Alone {
			began := time.Now()
			within, cancel := context.WithTimeout(ctx, q.ttl)
			_, err := q.s.bucket.Commit(within, []kv.Change{{Key: leasePrefix + q.id, Value: []byte(`{}`), Any: true}})
			cancel()
			if err == nil {
				q.mu.Lock()
				q.held = began
				q.mu.Unlock()
				q.signal()
			} else if ctx.Err() == nil {
				q.s.logger.Warn("the lease on queued events is not renewed; others may take them over", "err", err)
			}
		}
		q.takeOver(ctx)
		pause(ctx, q.ttl/4)
	}
	if !q.s.o.Alone {
		final, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = q.s.bucket.Commit(final, []kv.Change{{Key: leasePrefix + q.id, Any: true}}) // it runs out by itself
	}
}

// takeOver makes the events of processes that are gone this one's own.
func (q *queue) takeOver(ctx context.Context) {
	var changes []kv.Change
	var events []*queued
	var of []*place
	q.mu.Lock()
	for _, p := range q.places {
		if q.loaded && p.one != nil && !p.busy && p.one.Owner != q.id && q.gone(p.one.Owner) {
			one := *p.one
			one.Owner = q.id
			if b, err := json.Marshal(one); err == nil {
				changes = append(changes, kv.Change{Key: queueKey(p.n), Value: b, Expected: p.rev})
				events, of = append(events, &one), append(of, p)
			}
		}
	}
	q.mu.Unlock()
	for len(changes) > 0 && ctx.Err() == nil {
		n := min(len(changes), 64)
		done, err := q.s.bucket.UpdateEach(ctx, changes[:n])
		if err != nil {
			return // later
		}
		for i, o := range done {
			if o.Err == nil {
				q.apply(of[i].n, o.Revision, events[i])
			}
		}
		changes, events, of = changes[n:], events[n:], of[n:]
	}
}

// gone reports whether a process's lease has run out; q.mu is held.
func (q *queue) gone(id string) bool {
	if q.s.o.Alone {
		return true
	}
	l, ok := q.peers[id]
	if !ok { // it has just begun, or ended
		q.peers[id] = lease{0, time.Now()}
		return false
	}
	return time.Since(l.seen) >= q.ttl
}

// try gives one, which lies at p with the revision rev, to its function once.
func (q *queue) try(ctx context.Context, p *place, one *queued, rev uint64) {
	defer q.signal()
	defer q.free(p)
	resp, err := q.s.Call(ctx, &Request{Function: one.Function, Qualifier: one.Qualifier, ID: one.ID, Payload: one.Payload, ClientContext: one.Client})
	if ctx.Err() == nil { // else Weir stops, and it is tried again after the start
		next, lost := q.after(one, resp, err)
		q.record(ctx, p, rev, next, lost)
	}
	q.mu.Lock()
	q.running--
	q.mu.Unlock()
}

// after returns what one becomes after a try: it stays in the queue, is lost, or
// is done where both are nil.
func (q *queue) after(one *queued, resp *Response, err error) (*queued, *Lost) {
	if err == nil && resp.Error == "" {
		return nil, nil
	}
	now := q.s.now().UTC()
	next := *one
	lost := func(reason string) *Lost {
		l := &Lost{ID: one.ID, Function: one.Function, Payload: one.Payload, Accepted: one.Accepted, GivenUp: now, Tries: next.Tries, Reason: reason}
		q.s.logger.Warn("an event was given up", "function", one.Function, "id", one.ID, "tries", next.Tries, "reason", reason)
		return l
	}
	if err == nil {
		next.Tries++
		next.Refused = 0
		if next.Tries > len(q.s.o.Waits) {
			return nil, lost(strings.TrimPrefix(failureLine(resp.Payload), "failed: "))
		}
		next.NotBefore = now.Add(q.s.o.Waits[next.Tries-1])
		return &next, nil
	}
	if errs.Is(err, errs.NotFound) || errs.Is(err, errs.Invalid) || now.Sub(one.Accepted) > maxAge {
		return nil, lost(errs.Text(err))
	}
	// No place, or none can be had: from 1 s to 5 min apart.
	next.NotBefore = now.Add(min(time.Second<<min(one.Refused, 9), 5*time.Minute))
	next.Refused++
	return &next, nil
}

// record stores what became of the event at p, unless another process has taken
// it over. It tries until ctx ends: without it the event would come again.
func (q *queue) record(ctx context.Context, p *place, rev uint64, next *queued, lost *Lost) {
	for wait := 50 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
		err := q.replace(ctx, p, rev, next, lost)
		if err == nil {
			return
		}
		if errs.Is(err, errs.Conflict) {
			if e, err := q.s.bucket.Get(ctx, queueKey(p.n)); errs.Is(err, errs.NotFound) || err == nil && e.Revision != rev {
				return
			}
		} else if ctx.Err() == nil {
			q.s.logger.Warn("what became of a queued event is not stored yet", "err", err)
		}
		pause(ctx, wait)
	}
}

// replace puts next, or nothing, in the place of the event at p, and keeps what
// was lost.
func (q *queue) replace(ctx context.Context, p *place, rev uint64, next *queued, lost *Lost) error {
	if next != nil {
		return q.write(ctx, p, next, rev)
	}
	changes := []kv.Change{{Key: queueKey(p.n), Expected: rev}}
	if lost != nil {
		b, err := json.Marshal(lost)
		if err != nil {
			return err
		}
		n, expected := q.oldest()
		changes = append(changes, kv.Change{Key: lostKey(n), Value: b, Expected: expected})
	}
	now, err := q.s.bucket.Commit(ctx, changes)
	if err != nil {
		return err
	}
	if lost != nil {
		q.seen(kv.Entry{Key: changes[1].Key, Value: changes[1].Value, Revision: now})
		now--
	}
	q.apply(p.n, now, nil)
	return nil
}

// oldest returns the place for the next lost event: an empty one, or that of the
// oldest.
func (q *queue) oldest() (n int, rev uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range manyLost {
		l := q.lost[i]
		if l == nil {
			return i, 0
		}
		if l.GivenUp.Before(q.lost[n].GivenUp) {
			n = i
		}
	}
	return n, q.lost[n].rev
}

// Queued returns how many events wait or are under way, in all processes.
func (s *Service) Queued() int { return s.queue.len() }

// Lost returns the events of a function that were given up, newest last; at most
// the newest 100 of all functions are kept.
func (s *Service) Lost(ref string) ([]*Lost, error) {
	f, _, _, err := s.find(ref, "")
	if err != nil {
		return nil, err
	}
	if s.elsewhere != nil {
		return s.elsewhere.lost(ref)
	}
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	out := []*Lost{}
	for _, l := range s.queue.lost {
		if l.Function == f.Name {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b *Lost) int { return cmp.Or(a.GivenUp.Compare(b.GivenUp), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}
