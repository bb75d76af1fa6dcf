package eventlog

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog/jet"
)

const (
	lineEvents = 16384                // events that wait for one before them
	lineBytes  = 16 << 20             // the same in bytes
	lineGrace  = 5 * time.Millisecond // how long a copy that is missing may be under way
	lineFar    = 8192                 // a longer gap is left to the followers to read
)

// line brings the commits of this process and those of others into the stream's
// order before followers see them. Alone, every commit continues the ring, and
// the line has nothing to do. What does not continue it waits for what lies
// before: copies from other processes, or, where none come, a read of the stream.
type line struct {
	ring *ring
	// end is the highest sequence known to be committed. The ring's end follows
	// it within a moment.
	end  atomic.Uint64
	wake chan struct{} // one token: there is a gap

	mu    sync.Mutex // guards what follows; comes before the ring's
	held  map[uint64]*event.Event
	bytes int
}

func newLine(r *ring) *line {
	return &line{ring: r, wake: make(chan struct{}, 1), held: map[uint64]*event.Event{}}
}

// add takes committed events, in the order of their sequences, and the end that
// is committed with them.
func (n *line) add(events []*event.Event, end uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.raise(end)
	next := n.ring.end() + 1
	if k := len(events); k > 0 && len(n.held) == 0 && events[0].Seq == next && events[k-1].Seq == next+uint64(k-1) {
		n.ring.push(events)
	} else {
		for _, e := range events {
			if e.Seq < next || n.held[e.Seq] != nil || len(n.held) >= lineEvents || n.bytes+weight(e) > lineBytes {
				continue // known, or to be read from the stream
			}
			n.held[e.Seq] = e
			n.bytes += weight(e)
		}
		n.drain()
	}
	n.hurry()
}

// drain hands on what continues the ring. n.mu is held.
func (n *line) drain() {
	if len(n.held) == 0 {
		return
	}
	var run []*event.Event
	for seq := n.ring.end() + 1; ; seq++ {
		e := n.held[seq]
		if e == nil {
			break
		}
		delete(n.held, seq)
		n.bytes -= weight(e)
		run = append(run, e)
	}
	n.ring.push(run)
}

// filled takes what was read from the stream: all events there are up to upto.
func (n *line) filled(events []*event.Event, upto uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.raise(upto)
	at := n.ring.end()
	for len(events) > 0 && events[0].Seq <= at {
		events = events[1:]
	}
	n.ring.push(events)
	n.ring.extend(upto)
	for seq, e := range n.held {
		if seq <= upto {
			delete(n.held, seq)
			n.bytes -= weight(e)
		}
	}
	n.drain()
	n.hurry()
}

// opened takes over the stream's end; back says that it has gone back.
func (n *line) opened(end uint64, back bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.held)
	n.bytes = 0
	n.end.Store(end)
	if back {
		n.ring.clamp(end)
	} else {
		n.ring.reset(end)
	}
}

// raise moves the committed end. n.mu is held.
func (n *line) raise(end uint64) {
	if end > n.end.Load() {
		n.end.Store(end)
	}
}

// hurry tells the reader of a gap. n.mu is held.
func (n *line) hurry() {
	if n.ring.end() < n.end.Load() {
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
}

// gap returns the first sequences that are committed and not here.
func (n *line) gap() (from, to uint64, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	from, to = n.ring.end()+1, n.end.Load()
	if from > to {
		return 0, 0, false
	}
	for seq := range n.held {
		to = min(to, seq-1)
	}
	return from, to, true
}

// fill reads what is committed and does not come by itself, until ctx ends.
func (p *partition) fill(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.line.wake:
		}
		for last := uint64(0); ; {
			from, to, ok := p.line.gap()
			if !ok {
				break
			}
			if from != last {
				last = from
				if !wait(ctx, lineGrace) {
					return nil
				}
				continue
			}
			if to-from >= lineFar {
				p.line.filled(nil, to)
				continue
			}
			if !p.fillGap(from, to) && !wait(ctx, lineGrace) {
				return nil
			}
		}
	}
}

// fillGap reads events from the stream, from the first that is missing on. It
// reports whether there were any.
func (p *partition) fillGap(from, to uint64) bool {
	p.l.m.fills.Inc()
	var events []*event.Event
	upto := from - 1
	_, err := p.l.store.Fetch(jet.Query{Stream: p.stream, From: from, Max: fetchEvents, MaxBytes: fetchBytes}, func(m *jet.Message) error {
		if m.Seq > to {
			upto = to // nothing is left of what lay between
			return nil
		}
		upto = m.Seq
		e, err := decode(m, uint16(p.n))
		if err != nil {
			p.l.log.Warn("a message on the log is no event; it is passed over", "partition", p.n, "seq", m.Seq, "err", err)
			return nil
		}
		events = append(events, e)
		return nil
	})
	if err == nil && upto < from {
		// A replica that lags, or all is trimmed.
		var st jet.StreamState
		if st, err = p.l.store.State(p.stream); err == nil && st.FirstSeq > from {
			upto = min(to, st.FirstSeq-1)
		}
	}
	if err != nil {
		p.l.log.Debug("what others have committed cannot be read yet", "partition", p.n, "err", err)
		return false
	}
	if upto < from {
		return false
	}
	p.line.filled(events, upto)
	return true
}

// wait waits for d; false: ctx has ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
