package shadow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

const holdName = "shadow"

// lease is what is saved of a partition: who works on it, and how far it is.
// Whoever writes must have read the revision it replaces: that fences a former
// owner.
type lease struct {
	Owner    string `json:"owner"`
	Epoch    uint64 `json:"epoch"` // one more with each owner
	Position uint64 `json:"position"`
	Saved    int64  `json:"saved"` // milliseconds since the epoch
}

func leaseKey(p int) string { return fmt.Sprintf("shadow.%d", p) }

// partition works on the requests of one partition whenever this process owns
// it.
type partition struct {
	s     *Service
	id    int
	owner string
	sole  bool // nobody else can own it
	log   *slog.Logger

	opened uint64 // committed when the service was made: answers to it come later
}

var errLost = errors.New("another process has taken the partition over")

func (p *partition) run(ctx context.Context) {
	lost := false
	for ctx.Err() == nil {
		s, err := p.acquire(ctx, lost)
		if err == nil {
			err = s.run(ctx)
			lost = errors.Is(err, errLost)
		}
		if ctx.Err() != nil {
			return
		}
		p.log.Error("the shadows of a partition have stopped; taking them up again", "error", err)
		pause(ctx, 200*time.Millisecond)
	}
}

func (p *partition) load(ctx context.Context) (lease, uint64, error) {
	e, err := p.s.o.Positions.Get(ctx, leaseKey(p.id))
	if errs.Is(err, errs.NotFound) {
		return lease{}, 0, nil
	}
	if err != nil {
		return lease{}, 0, err
	}
	var l lease
	if err := json.Unmarshal(e.Value, &l); err != nil {
		return lease{}, 0, errs.Errorf("shadow.positions", errs.Internal, "the record %q cannot be read: %w", leaseKey(p.id), err)
	}
	return l, e.Revision, nil
}

// acquire waits for the partition's lease. It has run out when its record did not
// change for LeaseTTL by this process's own clock, so clocks need not agree.
func (p *partition) acquire(ctx context.Context, lost bool) (*session, error) {
	var seen uint64
	since := time.Now()
	for {
		l, rev, err := p.load(ctx)
		if err != nil {
			return nil, err
		}
		if rev != seen {
			seen, since = rev, time.Now()
		}
		if l.Owner != "" && (l.Owner != p.owner || lost) && time.Since(since) < p.s.o.LeaseTTL {
			if !pause(ctx, p.s.o.LeaseTTL/10) {
				return nil, ctx.Err()
			}
			continue
		}
		l.Owner = p.owner
		l.Epoch++
		b, err := json.Marshal(l)
		if err != nil {
			return nil, err
		}
		rev, err = p.s.o.Positions.Update(ctx, leaseKey(p.id), b, rev)
		if errs.Is(err, errs.Conflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return newSession(p, l, rev), nil
	}
}

// save writes the position down until ctx ends or the lease is lost.
func (s *session) save(ctx context.Context) error {
	tick := time.NewTicker(s.p.s.o.SaveEvery)
	defer tick.Stop()
	for failing := false; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		err := s.write(ctx, false)
		switch {
		case errors.Is(err, errLost):
			return err
		case err != nil && ctx.Err() == nil:
			if !failing {
				s.p.log.Error("the position of the shadows cannot be saved; trying again", "error", err)
			}
			failing = true
			// Before anybody else may take the lease, this owner stops.
			if !s.p.sole && time.Since(s.written) > s.p.s.o.LeaseTTL*3/4 {
				return errLost
			}
		default:
			failing = false
		}
	}
}

// write saves the position if it has moved or the lease wants to be kept, or in
// any case with force; release gives the lease up.
func (s *session) write(ctx context.Context, release bool) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	l := lease{Owner: s.p.owner, Epoch: s.epoch, Position: s.confirmedPosition(), Saved: s.p.s.o.Now().UnixMilli()}
	if release {
		l.Owner = ""
	} else if l.Position == s.held.Load() && time.Since(s.written) < s.p.s.o.LeaseTTL/3 {
		return nil
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	before := time.Now()
	rev, err := s.p.s.o.Positions.Update(ctx, leaseKey(s.p.id), b, s.rev)
	if errs.Is(err, errs.Conflict) {
		// A write of our own whose answer was lost may be what stands there.
		cur, curRev, lerr := s.p.load(ctx)
		if lerr != nil {
			return lerr
		}
		if cur.Owner != s.p.owner || cur.Epoch != s.epoch {
			return errLost
		}
		s.rev = curRev
		rev, err = s.p.s.o.Positions.Update(ctx, leaseKey(s.p.id), b, s.rev)
	}
	if err != nil {
		return err
	}
	s.rev, s.written = rev, before
	s.held.Store(l.Position)
	return nil
}

// pause waits for d; false: ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
