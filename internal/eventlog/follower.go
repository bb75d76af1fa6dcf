package eventlog

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog/jet"
	"github.com/weir-iot/weir/internal/topic"
)

// FollowOptions say what a Follower reads.
type FollowOptions struct {
	Partition int
	After     uint64         // the first event has Seq > After
	Since     time.Time      // if set, instead of After: the first event was stored at this time or later
	Filters   []topic.Filter // only events that match one; nil: all
	Mode      topic.Mode
	ToEnd     bool // io.EOF at the end committed when Follow was called
}

// GapError says that events a follower had not read yet have been trimmed
// away. Reading goes on behind them.
type GapError struct {
	Partition int
	From, To  uint64 // the first and the last sequence that is gone
}

func (e *GapError) Error() string {
	return fmt.Sprintf("events %d to %d of partition %d were trimmed before they were read", e.From, e.To, e.Partition)
}

const (
	fetchEvents = 500     // messages of one read from the stream
	fetchBytes  = 1 << 20 // the same in bytes
	scanEvents  = 1000    // ring events looked at in one Next
	farBehind   = 4000    // from here on a cursor pays
	cursorBytes = 4 << 20 // bytes of one read by a cursor; more than any event has
)

// The store looks every subject of a block up for each message of a filtered
// read (about 30 µs with 500 subjects, against 4 for any message of an
// unfiltered one), and then reads what matches only. So a follower reads
// unfiltered where its filters take at least one event in sparse, and filtered
// where they take fewer; it looks again every sampleEvents.
const (
	sparse       = 10
	sampleEvents = 2000
)

// Follower reads one partition in order, from a position, never beyond the
// committed end: from the ring where it can, from the stream where it must.
// It is used by one goroutine.
type Follower struct {
	p     *partition
	pos   uint64 // every event up to here was considered
	end   uint64 // with toEnd
	toEnd bool
	epoch int // of the partition's clamps

	match   func(topic.Name) bool // nil: all
	subject string                // for reads from the stream; "" for all

	scan    []*event.Event
	batch   []*event.Event
	fetched []*event.Event // read from the stream, not handed out yet
	upto    uint64         // fetched covers all events up to here
	fetches uint64
	narrow  bool        // read with the subject filter
	seen    uint64      // sequences passed by since the last look at the density
	hits    uint64      // events that matched among them
	cursor  *jet.Cursor // for a long way; nil otherwise
	next    uint64      // the position the cursor goes on from
	closed  bool
}

// Follow returns a follower; it reads nothing yet. With Since it looks the
// position up. Without it, an After below the first event there is gives a
// GapError on the first Next.
// Errors: errs.Invalid, errs.Unavailable.
func (l *Log) Follow(o FollowOptions) (*Follower, error) {
	const op = "eventlog.Follow"
	if o.Partition < 0 || o.Partition >= len(l.parts) {
		return nil, errs.Errorf(op, errs.Invalid, "there is no partition %d", o.Partition)
	}
	p := l.parts[o.Partition]
	f := &Follower{p: p, pos: o.After, toEnd: o.ToEnd, epoch: p.ring.epochNow()}
	f.end = p.line.end.Load()
	if !o.Since.IsZero() {
		seq, err := p.seqAt(o.Since)
		if err != nil {
			return nil, errs.E(op, errs.KindOf(err), err)
		}
		f.pos = seq - 1
	}
	f.filter(o.Filters, o.Mode, o.Partition)
	return f, nil
}

func (f *Follower) filter(filters []topic.Filter, mode topic.Mode, partition int) {
	if filters == nil {
		return
	}
	if len(filters) <= 4 {
		f.match = func(n topic.Name) bool {
			for _, x := range filters {
				if topic.Match(x, n, mode) {
					return true
				}
			}
			return false
		}
	} else {
		t := topic.NewTrie[struct{}](mode)
		for _, x := range filters {
			t.Add(x, struct{}{})
		}
		var hits []struct{}
		f.match = func(n topic.Name) bool {
			hits = t.Match(n, hits[:0])
			return len(hits) > 0
		}
	}
	var subjects []string
	for _, x := range filters {
		for _, s := range topic.FilterSubjects(x, mode) {
			subjects = append(subjects, fmt.Sprintf("%s%d.%s", subjectRoot, partition, s))
		}
	}
	f.subject = superset(subjects)
}

// Position returns the sequence up to which every event was considered.
func (f *Follower) Position() uint64 { return f.pos }

// Fetches returns how often the follower has read from the stream instead of
// the ring.
func (f *Follower) Fetches() uint64 { return f.fetches }

// Close ends the follower's use.
func (f *Follower) Close() {
	f.closed = true
	f.leaveCursor()
	f.fetched, f.scan, f.batch = nil, nil, nil
}

// Next blocks until there is at least one event or upto has moved. The batch
// holds at most max events and is valid until the next call; every event up to
// upto was considered. A *GapError comes once and reading goes on behind the
// gap. Where the log has lost its end, upto moves back to what is left of it and
// reading goes on from there. Errors: ctx's, io.EOF with ToEnd, errs.Unavailable (may be tried
// again), errs.Internal after Close.
func (f *Follower) Next(ctx context.Context, max int) (batch []*event.Event, upto uint64, err error) {
	const op = "eventlog.Next"
	if f.closed {
		return nil, f.pos, errs.Errorf(op, errs.Internal, "the follower is closed")
	}
	if max <= 0 {
		max = 1
	}
	r := f.p.ring
	for {
		if f.cursor != nil && len(f.fetched) == 0 && f.upto <= f.pos && f.pos >= r.end() {
			f.leaveCursor()
		}
		if err := ctx.Err(); err != nil {
			return nil, f.pos, err
		}
		if to, epoch, ok := r.clampedSince(f.epoch); ok {
			f.epoch = epoch
			f.fetched, f.upto, f.end = nil, 0, min(f.end, to)
			if f.pos > to {
				f.pos = to
				return nil, to, nil
			}
		}
		if len(f.fetched) > 0 || f.upto > f.pos {
			return f.hand(max)
		}
		committed := r.end()
		limit := committed
		if f.toEnd && limit >= f.end {
			limit = f.end
			if f.pos >= f.end {
				return nil, f.pos, io.EOF
			}
		}
		if f.pos >= limit {
			moved := r.wait(committed)
			if moved == nil {
				continue
			}
			select {
			case <-moved:
				continue
			case <-ctx.Done():
				return nil, f.pos, ctx.Err()
			case <-f.p.l.done:
				return nil, f.pos, errs.Errorf(op, errs.Unavailable, "the log is closed")
			}
		}
		var ok bool
		if f.scan, ok = r.read(f.scan[:0], f.pos, scanEvents); ok {
			f.leaveCursor()
			f.batch = f.batch[:0]
			for _, e := range f.scan {
				if e.Seq > limit || len(f.batch) == max {
					break
				}
				f.pos = e.Seq
				if f.match == nil || f.match(e.Topic) {
					f.batch = append(f.batch, e)
				}
			}
			return f.batch, f.pos, nil
		}
		if gap := f.gap(); gap != nil {
			return nil, f.pos, gap
		}
		if err := f.fetch(limit); err != nil {
			return nil, f.pos, errs.E(op, errs.KindOf(err), err)
		}
		// Trimming sets the first sequence before it removes anything: where it
		// is still not beyond the position, what was read is complete.
		if gap := f.gap(); gap != nil {
			f.fetched, f.upto = nil, 0
			return nil, f.pos, gap
		}
	}
}

func (f *Follower) gap() *GapError {
	first := f.p.first.Load()
	if f.pos+1 >= first {
		return nil
	}
	g := &GapError{Partition: f.p.n, From: f.pos + 1, To: first - 1}
	f.pos = first - 1
	return g
}

// hand gives out what was fetched.
func (f *Follower) hand(max int) ([]*event.Event, uint64, error) {
	n := min(max, len(f.fetched))
	f.batch = append(f.batch[:0], f.fetched[:n]...)
	clear(f.fetched[:n])
	f.fetched = f.fetched[n:]
	if len(f.fetched) > 0 {
		f.pos = f.fetched[0].Seq - 1
	} else {
		f.pos, f.upto = f.upto, 0
	}
	return f.batch, f.pos, nil
}

// fetch reads from the stream what follows the position, up to limit.
func (f *Follower) fetch(limit uint64) error {
	f.fetches++
	f.p.l.m.fetches.Inc()
	store := f.p.l.store
	f.fetched = f.fetched[:0:0]
	last := f.pos
	take := func(m *jet.Message) error {
		if m.Seq > limit {
			return nil
		}
		last = m.Seq
		e, err := decode(m, uint16(f.p.n))
		if err != nil {
			f.p.l.log.Warn("a message on the log is no event; it is passed over", "partition", f.p.n, "seq", m.Seq, "err", err)
			return nil
		}
		if f.match == nil || f.match(e.Topic) {
			f.fetched = append(f.fetched, e)
		}
		return nil
	}
	if !store.Embedded() {
		// A lagging replica may answer: only a contiguous read shows what is missing.
		lowest := uint64(0)
		_, err := store.Fetch(jet.Query{Stream: f.p.stream, From: f.pos + 1, Max: fetchEvents, MaxBytes: fetchBytes}, func(m *jet.Message) error {
			if lowest == 0 {
				lowest = m.Seq
			}
			return take(m)
		})
		if err == nil && (lowest > f.pos+1 || lowest == 0) {
			// Another process may have trimmed.
			var st jet.StreamState
			if st, err = store.State(f.p.stream); err == nil {
				f.p.looked(st)
			}
		}
		if err != nil {
			f.fetched = nil
			return err
		}
		if f.upto = last; last == f.pos {
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	}
	if f.far(limit) {
		n, err := f.cursor.Read(fetchEvents, cursorBytes, take)
		if err == nil && n > 0 && last > f.pos {
			f.upto, f.next = last, last
			f.weigh()
			return nil
		}
		f.leaveCursor()
		f.fetched, last = f.fetched[:0], f.pos
	}
	end, err := store.Fetch(jet.Query{
		Stream: f.p.stream, From: f.pos + 1, Filter: f.readSubject(), Max: fetchEvents, MaxBytes: fetchBytes,
	}, take)
	if err != nil {
		f.fetched = nil
		return err
	}
	f.upto = last
	if end {
		f.upto = limit
	}
	f.weigh()
	return nil
}

// readSubject returns the subject filter of the next read; "" for none.
func (f *Follower) readSubject() string {
	if f.narrow {
		return f.subject
	}
	return ""
}

// weigh decides how to read on, by how many of the last events have matched.
func (f *Follower) weigh() {
	if f.subject == "" {
		return
	}
	f.seen += f.upto - f.pos
	f.hits += uint64(len(f.fetched))
	if f.seen < sampleEvents {
		return
	}
	if narrow := f.hits*sparse < f.seen; narrow != f.narrow {
		f.narrow = narrow
		f.leaveCursor()
	}
	f.seen, f.hits = 0, 0
}

// far reports whether there is a cursor to read with: it is opened where the
// follower has a long way to go, and left where it does not stand at the
// follower's position.
func (f *Follower) far(limit uint64) bool {
	if f.cursor != nil && f.next != f.pos {
		f.leaveCursor()
	}
	if f.cursor == nil && limit-f.pos >= farBehind {
		c, ok, err := f.p.l.store.OpenCursor(f.p.stream, f.pos+1, f.readSubject())
		if err != nil {
			f.p.l.log.Debug("cannot open a cursor", "partition", f.p.n, "err", err)
		}
		if ok && err == nil {
			f.cursor, f.next = c, f.pos
		}
	}
	return f.cursor != nil
}

func (f *Follower) leaveCursor() {
	if f.cursor != nil {
		f.cursor.Close()
		f.cursor = nil
	}
}
