package eventlog

import (
	"sync"

	"github.com/weir-iot/weir/internal/event"
)

// ring holds the newest committed events of a partition, for all its followers.
// Its sequences are contiguous. It also carries the committed end, so that a
// follower sees both in one look.
type ring struct {
	maxEvents int
	maxBytes  int

	mu        sync.RWMutex
	buf       []*event.Event // a circle of maxEvents
	start     int            // index of the oldest
	n         int
	bytes     int
	first     uint64        // sequence of the oldest; meaningless while n is 0
	committed uint64        // nothing beyond is handed to anybody
	moved     chan struct{} // closed and replaced when committed changes
	waited    bool          // somebody holds moved
	clamps    []uint64      // ends that the log went back to, oldest first
}

func newRing(maxEvents, maxBytes int) *ring {
	return &ring{maxEvents: maxEvents, maxBytes: maxBytes, moved: make(chan struct{})}
}

func weight(e *event.Event) int { return e.Size() + 156 }

// push adds committed events in the order of their sequences and wakes the
// followers once. Where an event does not continue the ring, the ring starts
// anew with it: another process has appended in between.
func (r *ring) push(events []*event.Event) {
	if len(events) == 0 {
		return
	}
	r.mu.Lock()
	if r.buf == nil {
		r.buf = make([]*event.Event, r.maxEvents)
	}
	for _, e := range events {
		if r.n > 0 && e.Seq != r.first+uint64(r.n) {
			r.clear()
		}
		if r.n == 0 {
			r.first = e.Seq
		}
		for r.n == r.maxEvents || r.n > 0 && r.bytes+weight(e) > r.maxBytes {
			r.bytes -= weight(r.buf[r.start])
			r.buf[r.start] = nil
			r.start = (r.start + 1) % r.maxEvents
			r.n--
			r.first++
		}
		r.buf[(r.start+r.n)%r.maxEvents] = e
		r.n++
		r.bytes += weight(e)
	}
	r.advance(events[len(events)-1].Seq)
	r.mu.Unlock()
}

// reset forgets the events and sets the committed end, which may go back when
// an unsynced tail was lost.
func (r *ring) reset(committed uint64) {
	r.mu.Lock()
	r.restart(committed)
	r.mu.Unlock()
}

func (r *ring) restart(committed uint64) {
	r.clear()
	r.committed = committed
	r.wakeAll()
}

// extend moves the committed end ahead for events that others appended.
func (r *ring) extend(committed uint64) {
	r.mu.Lock()
	r.advance(committed)
	r.mu.Unlock()
}

func (r *ring) clear() {
	clear(r.buf)
	r.start, r.n, r.bytes = 0, 0, 0
}

func (r *ring) advance(committed uint64) {
	if committed > r.committed {
		r.committed = committed
		r.wakeAll()
	}
}

func (r *ring) wakeAll() {
	if r.waited {
		close(r.moved)
		r.moved = make(chan struct{})
		r.waited = false
	}
}

// end returns the committed end.
func (r *ring) end() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.committed
}

// read appends up to max events behind after to batch. ok is false where the
// ring does not hold the first of them any more.
func (r *ring) read(batch []*event.Event, after uint64, max int) (_ []*event.Event, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.n == 0 || after+1 < r.first || after+1 >= r.first+uint64(r.n) {
		return batch, false
	}
	at := int(after + 1 - r.first)
	for ; at < r.n && max > 0; at, max = at+1, max-1 {
		e := r.buf[(r.start+at)%r.maxEvents]
		if e.Seq > r.committed {
			break
		}
		batch = append(batch, e)
	}
	return batch, true
}

// wait returns a channel that is closed once the committed end differs from
// seen; nil where it does already.
func (r *ring) wait(seen uint64) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.committed != seen {
		return nil
	}
	r.waited = true
	return r.moved
}

// clamp remembers that the end went back to committed, so that followers
// beyond it go back too: sequences behind it are given out again. Both happen
// at one moment: a follower that goes back finds nothing of the lost end to go
// ahead with again.
func (r *ring) clamp(committed uint64) {
	r.mu.Lock()
	r.clamps = append(r.clamps, committed)
	r.restart(committed)
	r.mu.Unlock()
}

func (r *ring) epochNow() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.clamps)
}

// clampedSince returns the lowest end since an epoch; ok is false where the end
// has not gone back.
func (r *ring) clampedSince(epoch int) (to uint64, now int, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.clamps) == epoch {
		return 0, epoch, false
	}
	to = r.clamps[epoch]
	for _, c := range r.clamps[epoch:] {
		to = min(to, c)
	}
	return to, len(r.clamps), true
}
