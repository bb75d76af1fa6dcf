package functions

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
)

// queue holds the events of asynchronous invocations. Each lies in the bucket
// from before it is accepted until it is done or given up, in one of a fixed
// number of places: keys are used again, for a bucket forgets none.
type queue struct {
	s *Service

	mu      sync.Mutex
	free    []int     // places nobody has
	waiting []*queued // by time
	running int
	lost    []*Lost       // given up, newest last; in the bucket too
	lostAt  int           // place of the next one
	wake    chan struct{} // has one when something came or ended
}

// Bounds of the queue.
const (
	manyQueued  = 10_000
	manyRunning = 64
	manyLost    = 100
)

// queued is one event.
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

	place int
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
}

// maxAge is how long an event waits for a place. Source: AWS Lambda developer
// guide, "Asynchronous invocation".
const maxAge = 6 * time.Hour

func queueKey(place int) string { return fmt.Sprintf("queue.%d", place) }
func lostKey(place int) string  { return fmt.Sprintf("lost.%d", place) }

func openQueue(ctx context.Context, s *Service) (*queue, error) {
	q := &queue{s: s, wake: make(chan struct{}, 1)}
	taken := map[int]bool{}
	err := s.bucket.Scan(ctx, "queue.", func(e kv.Entry) error {
		var place int
		if _, err := fmt.Sscanf(e.Key, "queue.%d", &place); err != nil || place < 0 || place >= manyQueued {
			return nil
		}
		var one queued
		if len(e.Value) == 0 {
			return nil
		}
		if err := json.Unmarshal(e.Value, &one); err != nil {
			s.logger.Error("a queued event cannot be read", "key", e.Key, "err", err)
			taken[place] = true
			return nil
		}
		one.place = place
		taken[place] = true
		q.waiting = append(q.waiting, &one)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for place := manyQueued - 1; place >= 0; place-- {
		if !taken[place] {
			q.free = append(q.free, place)
		}
	}
	q.sort()
	var newest time.Time
	err = s.bucket.Scan(ctx, "lost.", func(e kv.Entry) error {
		var l Lost
		var place int
		if _, err := fmt.Sscanf(e.Key, "lost.%d", &place); err != nil || json.Unmarshal(e.Value, &l) != nil {
			return nil
		}
		q.lost = append(q.lost, &l)
		if !l.GivenUp.Before(newest) {
			newest, q.lostAt = l.GivenUp, (place+1)%manyLost
		}
		return nil
	})
	slices.SortFunc(q.lost, func(a, b *Lost) int { return a.GivenUp.Compare(b.GivenUp) })
	return q, err
}

func (q *queue) sort() {
	slices.SortStableFunc(q.waiting, func(a, b *queued) int {
		return cmp.Or(a.NotBefore.Compare(b.NotBefore), a.Accepted.Compare(b.Accepted))
	})
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) + q.running
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
	one := &queued{ID: r.ID, Function: f.Name, Qualifier: version, Client: r.ClientContext, Payload: r.Payload, Accepted: s.now().UTC()}
	if one.ID == "" {
		one.ID = NewID()
	}
	one.NotBefore = one.Accepted
	q := s.queue
	q.mu.Lock()
	if len(q.free) == 0 {
		q.mu.Unlock()
		return "", errs.Errorf(op, errs.Quota, "%d events wait, no more are taken", manyQueued)
	}
	one.place = q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	q.mu.Unlock()
	if err := q.write(ctx, one); err != nil {
		// Whether it is stored is not known after some errors: the place stays
		// taken, and a restart finds out.
		if errs.Is(err, errs.Invalid) || errs.Is(err, errs.TooLarge) || errs.Is(err, errs.Quota) {
			q.mu.Lock()
			q.free = append(q.free, one.place)
			q.mu.Unlock()
		}
		return "", err
	}
	q.mu.Lock()
	q.waiting = append(q.waiting, one)
	q.sort()
	q.mu.Unlock()
	q.signal()
	return one.ID, nil
}

// write stores one in its place.
func (q *queue) write(ctx context.Context, one *queued) error {
	b, err := json.Marshal(one)
	if err != nil {
		return err
	}
	_, err = q.s.bucket.Commit(ctx, []kv.Change{{Key: queueKey(one.place), Value: b, Any: true}})
	return err
}

// run gives waiting events to their functions until ctx ends.
func (q *queue) run(ctx context.Context) {
	var under sync.WaitGroup
	defer under.Wait()
	for {
		now := q.s.now()
		wait := time.Hour
		q.mu.Lock()
		for len(q.waiting) > 0 && q.running < manyRunning {
			one := q.waiting[0]
			if d := one.NotBefore.Sub(now); d > 0 {
				wait = d
				break
			}
			q.waiting = q.waiting[1:]
			q.running++
			under.Go(func() { q.try(ctx, one) })
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

// try gives one to its function once.
func (q *queue) try(ctx context.Context, one *queued) {
	defer q.signal()
	resp, err := q.s.Call(ctx, &Request{Function: one.Function, Qualifier: one.Qualifier, ID: one.ID, Payload: one.Payload, ClientContext: one.Client})
	now := q.s.now().UTC()
	reason := ""
	switch {
	case ctx.Err() != nil:
		// Weir stops: it is tried again after the start.
		q.mu.Lock()
		q.running--
		q.mu.Unlock()
		return
	case err == nil && resp.Error == "":
		q.done(ctx, one, nil)
		return
	case err == nil:
		one.Tries++
		one.Refused = 0
		reason = strings.TrimPrefix(failureLine(resp.Payload), "failed: ")
		if one.Tries > len(q.s.o.Waits) {
			q.done(ctx, one, &Lost{Reason: reason, GivenUp: now})
			return
		}
		one.NotBefore = now.Add(q.s.o.Waits[one.Tries-1])
	default:
		reason = errs.Text(err)
		if errs.Is(err, errs.NotFound) || errs.Is(err, errs.Invalid) || now.Sub(one.Accepted) > maxAge {
			q.done(ctx, one, &Lost{Reason: reason, GivenUp: now})
			return
		}
		// No place, or none can be had: from 1 s to 5 min apart.
		one.NotBefore = now.Add(min(time.Second<<min(one.Refused, 9), 5*time.Minute))
		one.Refused++
	}
	if err := q.write(ctx, one); err != nil {
		q.s.logger.Warn("the count of tries of a queued event is not stored; it may be tried more often", "id", one.ID, "err", err)
	}
	q.mu.Lock()
	q.running--
	q.waiting = append(q.waiting, one)
	q.sort()
	q.mu.Unlock()
}

// done takes one out of the bucket; with lost, it is kept there as that.
func (q *queue) done(ctx context.Context, one *queued, lost *Lost) {
	changes := []kv.Change{{Key: queueKey(one.place), Any: true}}
	if lost != nil {
		lost.ID, lost.Function, lost.Payload, lost.Accepted, lost.Tries = one.ID, one.Function, one.Payload, one.Accepted, one.Tries
		b, err := json.Marshal(lost)
		if err != nil {
			b = nil
		}
		q.mu.Lock()
		changes = append(changes, kv.Change{Key: lostKey(q.lostAt), Value: b, Any: true})
		q.lostAt = (q.lostAt + 1) % manyLost
		q.lost = append(q.lost, lost)
		if len(q.lost) > manyLost {
			q.lost = q.lost[1:]
		}
		q.mu.Unlock()
		q.s.logger.Warn("an event was given up", "function", one.Function, "id", one.ID, "tries", one.Tries, "reason", lost.Reason)
	}
	var err error
	for range 5 {
		if _, err = q.s.bucket.Commit(ctx, changes); err == nil || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	if err != nil {
		// Its place stays taken; after the next start it is tried again.
		q.s.logger.Warn("the end of a queued event is not stored; it comes again after a restart", "id", one.ID, "err", err)
		return
	}
	q.free = append(q.free, one.place)
}

// Queued returns how many events wait or are under way in this process.
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
	return out, nil
}
