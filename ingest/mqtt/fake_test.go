package mqtt

import (
	"context"
	"io"
	"sync"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
)

// fakeLog is a log in memory. Appends wait for commit, or are committed at once.
type fakeLog struct {
	mu        sync.Mutex
	changed   chan struct{} // closed and replaced whenever something changes
	parts     [][]*event.Event
	committed []uint64
	auto      bool
	waiting   []appended
	appends   int
	fail      func(i int) error // of the i-th append, from 1
	refuse    error             // of Append itself
	limit     int               // appends that may wait; 0: any
	trimmed   uint64            // sequences up to it are gone, in partition 0
	follows   int
	read      int      // events looked at by followers
	losses    []uint64 // ends that the log went back to
	untold    uint64   // messages of other processes that this one has not been told of
}

type appended struct {
	e     *event.Event
	r     eventlog.Receipt
	token uint64
	err   error
}

func newFakeLog(partitions int) *fakeLog {
	return &fakeLog{changed: make(chan struct{}), parts: make([][]*event.Event, partitions), committed: make([]uint64, partitions), auto: true}
}

func (l *fakeLog) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *fakeLog) Partitions() int { return len(l.parts) }

func (l *fakeLog) Committed(p int) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.committed[p]
}

func (l *fakeLog) Newest(p int) (uint64, error) { return l.Committed(p) + l.untold, nil }

func (l *fakeLog) Append(ctx context.Context, e *event.Event, r eventlog.Receipt, token uint64) error {
	l.mu.Lock()
	for l.limit > 0 && len(l.waiting) >= l.limit {
		ch := l.changed
		l.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
		l.mu.Lock()
	}
	if l.refuse != nil {
		defer l.mu.Unlock()
		return l.refuse
	}
	l.appends++
	a := appended{e, r, token, nil}
	if l.fail != nil {
		a.err = l.fail(l.appends)
	}
	l.waiting = append(l.waiting, a)
	l.wake()
	auto := l.auto
	l.mu.Unlock()
	if auto {
		l.commit(1 << 30)
	}
	return nil
}

var commitMu sync.Mutex

// commit commits the first n that wait.
func (l *fakeLog) commit(n int) {
	commitMu.Lock() // one appender
	defer commitMu.Unlock()
	l.mu.Lock()
	n = min(n, len(l.waiting))
	batch := append([]appended(nil), l.waiting[:n]...)
	l.waiting = append(l.waiting[:0], l.waiting[n:]...)
	for _, a := range batch {
		if a.err == nil {
			p := 0
			if len(l.parts) > 1 {
				p = len(a.e.OrderingKey()) % len(l.parts)
			}
			a.e.Partition = uint16(p)
			a.e.Seq = uint64(len(l.parts[p])) + 1
			l.parts[p] = append(l.parts[p], a.e)
			l.committed[p] = a.e.Seq
		}
	}
	l.wake()
	l.mu.Unlock()
	touched := map[eventlog.Receipt]bool{}
	for _, a := range batch {
		if a.r != nil {
			a.r.Appended(a.token, a.e, a.err)
			touched[a.r] = true
		}
	}
	for r := range touched {
		r.Flush()
	}
}

// hold lets appends wait, or commits what has waited.
func (l *fakeLog) hold(on bool) {
	l.mu.Lock()
	l.auto = !on
	l.mu.Unlock()
	if !on {
		l.commit(1 << 30)
	}
}

// lose forgets what lies behind end in every partition, as a log does that comes
// back without its unsynced tail.
func (l *fakeLog) lose(end uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.losses = append(l.losses, end)
	for p := range l.parts {
		if l.committed[p] > end {
			l.parts[p] = l.parts[p][:end]
			l.committed[p] = end
		}
	}
	l.wake()
}

// events returns what is committed in partition p.
func (l *fakeLog) events(p int) []*event.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*event.Event(nil), l.parts[p]...)
}

func (l *fakeLog) pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

func (l *fakeLog) Follow(o eventlog.FollowOptions) (Follower, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.follows++
	return &fakeFollower{l: l, o: o, at: o.After, losses: len(l.losses)}, nil
}

type fakeFollower struct {
	l      *fakeLog
	o      eventlog.FollowOptions
	at     uint64
	losses int
	closed bool
}

func (f *fakeFollower) Next(ctx context.Context, max int) ([]*event.Event, uint64, error) {
	for {
		if f.closed {
			return nil, 0, errs.E("fake", errs.Internal, nil)
		}
		f.l.mu.Lock()
		if f.o.Partition == 0 && f.at < f.l.trimmed {
			gap := &eventlog.GapError{From: f.at + 1, To: f.l.trimmed}
			f.at = f.l.trimmed
			f.l.mu.Unlock()
			return nil, 0, gap
		}
		for ; f.losses < len(f.l.losses); f.losses++ {
			f.at = min(f.at, f.l.losses[f.losses])
		}
		var out []*event.Event
		start := f.at
		for f.at < f.l.committed[f.o.Partition] && len(out) < max {
			e := f.l.parts[f.o.Partition][f.at]
			f.at++
			f.l.read++
			want := len(f.o.Filters) == 0
			for _, x := range f.o.Filters {
				want = want || topic.Match(x, e.Topic, f.o.Mode)
			}
			if want {
				out = append(out, e)
			}
		}
		ch := f.l.changed
		f.l.mu.Unlock()
		if f.at > start {
			return out, f.at, nil
		}
		if f.o.ToEnd {
			return nil, f.at, io.EOF
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

func (f *fakeFollower) Close() { f.closed = true }
