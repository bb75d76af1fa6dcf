package eventlog

import (
	"context"
	"math"
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

// held returns the first sequence that somebody needs, or may need.
func (p *partition) held() uint64 {
	keep := uint64(math.MaxUint64)
	own := map[string]uint64{}
	p.holdMu.Lock()
	for name, position := range p.holds {
		own[name] = position()
	}
	p.holdMu.Unlock()
	if p.l.store.Embedded() {
		for _, at := range own {
			keep = min(keep, at+1)
		}
		return keep
	}
	// One process knows where a holder stands, the others hold at 0: the highest
	// is its position. It only grows, so an old word of it does no harm; without
	// one everything is kept.
	others := p.l.peers.holds(p.n)
	for _, name := range p.l.o.Holders {
		own[name] = max(own[name], others[name])
	}
	for name, at := range own {
		keep = min(keep, max(at, others[name])+1)
	}
	return keep
}

// ownHolds returns where this process holds, by name and partition.
func (l *Log) ownHolds() map[string][]uint64 {
	all := map[string][]uint64{}
	for i, p := range l.parts {
		p.holdMu.Lock()
		for name, position := range p.holds {
			if all[name] == nil {
				all[name] = make([]uint64, len(l.parts))
			}
			all[name][i] = position()
		}
		p.holdMu.Unlock()
	}
	return all
}

// holds returns where others hold partition p, the highest of each name.
func (ps *peers) holds(p int) map[string]uint64 {
	all := map[string]uint64{}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, o := range ps.seen {
		for name, at := range o.holds {
			if p < len(at) {
				all[name] = max(all[name], at[p])
			}
		}
	}
	return all
}

// trim removes what is older than the age limit at now, up to the lowest held
// position.
func (p *partition) trim(now time.Time) error {
	keep, err := p.seqAt(now.Add(-p.l.o.MaxAge))
	if err != nil {
		return err
	}
	keep = min(keep, p.held())
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
