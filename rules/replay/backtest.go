package replay

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
)

// BacktestOptions say what is tried on which events.
type BacktestOptions struct {
	Log     Log
	New     Version
	Current *Version // what to compare with; nil: nothing

	Since time.Time // arrival of the first event; zero: from the beginning of the log
	Until time.Time // events that arrived later are left out; zero: to the end at the start
	Limit uint64    // events that reach a version; 0: all

	// Outcome is told of each event on which a version gives a result or an
	// error, by one goroutine at a time, in the order of each partition. It may
	// keep the outcome but not the event. Its error ends the backtest. May be nil.
	Outcome func(*Outcome) error
	// Progress is told how far it is, a few times a second. May be nil.
	Progress func(Progress)
}

// Progress is how far a replay is.
type Progress struct {
	Read  uint64 `json:"read"`  // sequences of the log that are behind it
	Total uint64 `json:"total"` // those there are to read
	Tally
}

// Report is what a backtest found.
type Report struct {
	Progress
	Trimmed uint64        `json:"trimmed,omitempty"` // events that retention took while it read
	Took    time.Duration `json:"took"`
}

const readBatch = 512

// disorder is by how much a partition's events may be out of the order of their
// arrival: a client that waits for the log has been stamped before it waits.
const disorder = time.Minute

// progressEvery is how often Progress is called.
const progressEvery = 200 * time.Millisecond

// Backtest evaluates stored events. With several partitions it reads them side
// by side. A report comes with the error, too, where ctx ended first.
func Backtest(ctx context.Context, o BacktestOptions) (Report, error) {
	begun := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b := &backtest{o: o, cancel: cancel}
	parts := make([]*part, 0, o.Log.Partitions())
	defer func() {
		for _, p := range parts {
			p.f.Close()
		}
	}()
	for n := range o.Log.Partitions() {
		j := newJudge(&o.New, o.Current)
		end := o.Log.Committed(n)
		f, err := o.Log.Follow(eventlog.FollowOptions{Partition: n, After: max(o.Log.First(n), 1) - 1, Since: o.Since, Filters: j.filters(), Mode: topic.AWS, ToEnd: true})
		if err != nil {
			return Report{}, err
		}
		p := &part{judge: j, f: f, end: end}
		b.report.Total += end - min(end, f.Position())
		p.at = f.Position()
		parts = append(parts, p)
	}
	var running sync.WaitGroup
	for _, p := range parts {
		running.Go(func() { b.fail(b.run(ctx, p)) })
	}
	ended := make(chan struct{})
	var teller sync.WaitGroup
	if o.Progress != nil {
		teller.Go(func() { b.tell(ended) })
	}
	running.Wait()
	close(ended)
	teller.Wait()
	b.report.Took = time.Since(begun)
	if errors.Is(b.err, errLimit) {
		b.err = nil
	}
	return b.report, b.err
}

type backtest struct {
	o      BacktestOptions
	cancel context.CancelFunc

	mu     sync.Mutex // guards what follows, and is held while Outcome is called
	report Report
	err    error
}

// part is one partition's part.
type part struct {
	judge *judge
	f     *eventlog.Follower
	at    uint64
	end   uint64
}

// errLimit ends the other partitions once the limit is reached.
var errLimit = errors.New("limit reached")

func (b *backtest) fail(err error) {
	if err == nil {
		return
	}
	b.mu.Lock()
	if b.err == nil {
		b.err = err
	}
	b.mu.Unlock()
	b.cancel()
}

func (b *backtest) run(ctx context.Context, p *part) error {
	var list []Outcome
	for {
		batch, upto, err := p.f.Next(ctx, readBatch)
		var gap *eventlog.GapError
		switch {
		case errors.As(err, &gap):
			b.mu.Lock()
			b.report.Trimmed += gap.To - gap.From + 1
			b.mu.Unlock()
			continue
		case errors.Is(err, io.EOF):
			return b.take(p, nil, p.end)
		case ctx.Err() != nil:
			return errs.E("replay.Backtest", errs.Unavailable, ctx.Err())
		case err != nil:
			return err
		}
		list = list[:0]
		for _, e := range batch {
			if !b.o.Until.IsZero() && e.Received.After(b.o.Until) {
				if e.Received.After(b.o.Until.Add(disorder)) {
					return b.take(p, list, p.end)
				}
				continue
			}
			if e.Received.Before(b.o.Since) {
				continue
			}
			list = append(list, Outcome{})
			p.judge.judge(ctx, e, &list[len(list)-1])
		}
		if err := b.take(p, list, upto); err != nil {
			return err
		}
	}
}

// take counts outcomes and passes them on.
func (b *backtest) take(p *part, list []Outcome, upto uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range list {
		if b.o.Limit > 0 && b.report.Events >= b.o.Limit {
			return errLimit
		}
		o := &list[i]
		b.report.count(o)
		if o.Verdict == Nothing || b.o.Outcome == nil {
			continue
		}
		if err := b.o.Outcome(o); err != nil {
			return err
		}
	}
	if upto = min(upto, p.end); upto > p.at {
		b.report.Read += upto - p.at
		p.at = upto
	}
	return nil
}

func (b *backtest) tell(ended <-chan struct{}) {
	t := time.NewTicker(progressEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ended:
			return
		}
		b.mu.Lock()
		now := b.report.Progress
		now.Kinds = nil // the map goes on changing
		b.mu.Unlock()
		b.o.Progress(now)
	}
}
