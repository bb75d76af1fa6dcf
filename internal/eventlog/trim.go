package eventlog

import (
	"context"
	"time"
)

// Hold registers a position in partition p that trimming respects: what lies
// behind it is kept, whatever its age. position returns the sequence up to
// which the holder needs nothing any more; it is called by the trimming
// goroutine. A name holds one position per partition; a second Hold replaces
// the first. Holds are registered before Run, so that the first trimming knows
// them.
func (l *Log) Hold(name string, p int, position func() uint64) {
	q := l.parts[p]
	q.holdMu.Lock()
	defer q.holdMu.Unlock()
	q.holds[name] = position
}

// Release ends a Hold.
func (l *Log) Release(name string, p int) {
	q := l.parts[p]
	q.holdMu.Lock()
	defer q.holdMu.Unlock()
	delete(q.holds, name)
}

// trim removes, now and then, what is older than the age limit and held by
// nobody.
func (l *Log) trim(ctx context.Context) error {
	every := min(max(l.o.MaxAge/100, 100*time.Millisecond), time.Minute)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, p := range l.parts {
			if err := p.trim(l.o.Now()); err != nil {
				l.log.Warn("cannot trim the log", "partition", p.n, "err", err)
			}
		}
	}
}

// trim removes what is older than the age limit at now, up to the lowest held
// position.
func (p *partition) trim(now time.Time) error {
	keep, err := p.seqAt(now.Add(-p.l.o.MaxAge))
	if err != nil {
		return err
	}
	p.holdMu.Lock()
	for _, position := range p.holds {
		keep = min(keep, position()+1)
	}
	p.holdMu.Unlock()
	first := p.first.Load()
	if keep <= first {
		return nil
	}
	// Followers learn of it first; see Next.
	p.first.Store(keep)
	if err := p.l.store.Purge(p.stream, keep); err != nil {
		return err
	}
	p.l.m.trimmed.Add(float64(keep - first))
	return nil
}
