package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/lane"
)

// run is one job while this process runs it.
type run struct {
	js     *Jobs
	log    *slog.Logger
	halted atomic.Bool
	cancel atomic.Pointer[context.CancelCauseFunc]

	mu    sync.Mutex // guards what follows
	job   Job
	lanes [][]lane.Lane // of a backfill, by partition and action
}

func newRun(js *Jobs, j Job) *run {
	return &run{js: js, job: j, log: js.o.Logger.With("job", j.ID, "kind", string(j.Kind), "rule", j.Rule.Name)}
}

// stop ends the run.
func (r *run) stop() {
	r.halted.Store(true)
	if c := r.cancel.Load(); c != nil {
		(*c)(errStopped)
	}
}

// run runs the job until it has ended, is stopped, or ctx ends.
func (r *run) run(parent context.Context) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	r.cancel.Store(&cancel)
	if r.halted.Load() {
		cancel(errStopped)
	}
	r.mu.Lock()
	r.job.Owner = r.js.o.Owner
	r.mu.Unlock()
	if !r.save(ctx) { // the lease is ours, or nobody's
		return
	}
	var saver sync.WaitGroup
	saving, stopSaving := context.WithCancel(ctx)
	saver.Go(func() {
		t := time.NewTicker(saveEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
			case <-saving.Done():
				return
			}
			if !r.save(saving) && saving.Err() == nil {
				cancel(errLost)
			}
		}
	})
	err := r.parts(ctx)
	stopSaving()
	saver.Wait()
	cause := context.Cause(ctx)
	r.mu.Lock()
	switch {
	case errors.Is(cause, errLost):
		r.mu.Unlock()
		return
	case errors.Is(cause, errStopped):
		r.job.State, r.job.Ended = Stopped, r.js.o.Now().UTC()
	case ctx.Err() != nil: // the process ends; the job does not
	case err != nil:
		r.job.State, r.job.Reason, r.job.Ended = Failed, errs.Text(err), r.js.o.Now().UTC()
		r.log.Error("a job has failed", "error", err)
	default:
		r.job.State, r.job.Ended = Done, r.js.o.Now().UTC()
	}
	r.mu.Unlock()
	last, end := context.WithTimeout(context.WithoutCancel(parent), 5*time.Second)
	defer end()
	r.save(last)
}

// errLost is why a run ends whose job another process has taken, or that is gone.
var errLost = errors.New("the job is another process's")

// save keeps the job's positions with its counters. It reports false where the
// job is not this run's any more, or cannot be saved now.
func (r *run) save(ctx context.Context) bool {
	for ctx.Err() == nil {
		r.mu.Lock()
		for p := range r.lanes {
			for i, l := range r.lanes[p] {
				r.job.Parts[p].Lanes[i] = l.State()
			}
			r.job.Parts[p].At = lowest(r.job.Parts[p].Lanes, r.job.Parts[p].To)
		}
		j := r.job
		j.Parts = append([]Part(nil), j.Parts...)
		r.mu.Unlock()
		saved, err := r.js.put(ctx, j)
		if err == nil {
			r.mu.Lock()
			r.job.revision = saved.revision
			r.mu.Unlock()
			return true
		}
		if !errs.Is(err, errs.Conflict) {
			r.log.Warn("a job's positions could not be saved; trying again", "error", err)
			return ctx.Err() == nil
		}
		now, err := r.js.Get(ctx, j.ID)
		if err != nil || now.Owner != j.Owner && now.Owner != "" && r.js.o.Now().Sub(now.Saved) < leaseTTL {
			return false
		}
		r.mu.Lock()
		r.job.Stop, r.job.revision = now.Stop, now.revision
		r.mu.Unlock()
		if now.Stop {
			r.stop()
		}
	}
	return false
}

func lowest(lanes []lane.State, end uint64) uint64 {
	for _, l := range lanes {
		end = min(end, l.Confirmed)
	}
	return end
}

func follow(p int, after uint64, since time.Time, filters []topic.Filter) eventlog.FollowOptions {
	return eventlog.FollowOptions{Partition: p, After: after, Since: since, Filters: filters, Mode: topic.AWS}
}

// parts runs the job's partitions and returns when all have ended.
func (r *run) parts(ctx context.Context) error {
	prog, err := r.js.o.Compile(r.job.Rule)
	if err != nil {
		return err
	}
	fresh := Version{r.job.Rule.Name, prog.Program}
	var current *Version
	if r.job.Current != nil {
		prog, err := r.js.o.Compile(r.job.Current)
		if err != nil {
			return fmt.Errorf("the current version: %w", err)
		}
		current = &Version{r.job.Current.Name, prog.Program}
	}
	var limiter *rate.Limiter
	if r.job.Rate > 0 {
		limiter = rate.NewLimiter(rate.Limit(r.job.Rate), max(1, int(r.job.Rate/10)))
	}
	if r.job.Kind == Backfill {
		lanes := make([][]lane.Lane, len(r.job.Parts))
		for p := range lanes {
			for i := range r.job.Rule.Actions {
				l, err := r.js.o.Lanes(ctx, rules.LaneSpec{Rule: r.job.Rule, Program: prog, Version: r.job.revision, Index: i, Partition: p, State: r.job.Parts[p].Lanes[i]})
				if err != nil {
					return err
				}
				lanes[p] = append(lanes[p], l)
			}
		}
		r.mu.Lock()
		r.lanes = lanes
		r.mu.Unlock()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	var first error
	var once sync.Once
	for p := range r.job.Parts {
		running.Go(func() {
			var err error
			if r.job.Kind == Backfill {
				err = r.backfill(ctx, p, newJudge(&fresh, nil), limiter)
			} else {
				err = r.canary(ctx, p, newJudge(&fresh, current))
			}
			if err != nil && ctx.Err() == nil {
				once.Do(func() { first = err })
				cancel(err)
			}
		})
	}
	running.Wait()
	return first
}

// read calls each for what the partition has behind after, until ctx ends or
// each returns false.
func (r *run) read(ctx context.Context, o eventlog.FollowOptions, each func(batch []*event.Event, upto uint64) bool) error {
	for ctx.Err() == nil {
		f, err := r.js.o.Log.Follow(o)
		for err == nil {
			var batch []*event.Event
			var upto uint64
			batch, upto, err = f.Next(ctx, readBatch)
			var gap *eventlog.GapError
			switch {
			case errors.As(err, &gap):
				r.mu.Lock()
				r.job.Trimmed += gap.To - gap.From + 1
				r.mu.Unlock()
				o.After, err = gap.To, nil
			case err == nil:
				o.After = upto
				if !each(batch, upto) {
					f.Close()
					return nil
				}
			}
		}
		if f != nil {
			f.Close()
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, io.EOF):
			return nil
		case !errs.Is(err, errs.Unavailable):
			return err
		}
		r.log.Warn("the log cannot be read; trying again", "error", err)
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

const (
	samplesOfEach = 3
	sampleBytes   = 4 << 10
)

// canary compares both versions on what comes in.
func (r *run) canary(ctx context.Context, p int, j *judge) error {
	list := make([]Outcome, 0, readBatch)
	return r.read(ctx, follow(p, r.job.Parts[p].At, time.Time{}, j.filters()), func(batch []*event.Event, upto uint64) bool {
		list = list[:0]
		for _, e := range batch {
			list = append(list, Outcome{})
			j.judge(ctx, e, &list[len(list)-1])
		}
		if ctx.Err() != nil {
			return false // a look-up may have been cut off: not counted
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for i := range list {
			o := &list[i]
			r.job.Tally.count(o)
			if o.Verdict != Nothing && o.Verdict != Same {
				r.sample(o)
			}
		}
		r.job.Parts[p].At = upto
		clear(list)
		return true
	})
}

// sample keeps o if it is one of the first of its verdict. r.mu is held.
func (r *run) sample(o *Outcome) {
	n := 0
	for i := range r.job.Samples {
		if r.job.Samples[i].Verdict == o.Verdict.String() {
			n++
		}
	}
	if n < samplesOfEach && len(o.New.Payload)+len(o.Current.Payload) <= sampleBytes {
		r.job.Samples = append(r.job.Samples, SampleOf(o))
	}
}

// backfill delivers the partition's results, and returns when all are settled.
func (r *run) backfill(ctx context.Context, p int, j *judge, limiter *rate.Limiter) error {
	r.mu.Lock()
	lanes, part := r.lanes[p], r.job.Parts[p]
	r.mu.Unlock()
	var running sync.WaitGroup
	inner, end := context.WithCancel(ctx)
	defer running.Wait()
	defer end()
	confirmed := make([]uint64, len(lanes))
	for i, l := range lanes {
		confirmed[i] = part.Lanes[i].Confirmed
		running.Go(func() {
			if err := l.Run(inner); err != nil {
				r.log.Warn("an action did not close", "action", r.job.Rule.Actions[i].Kind, "error", err)
			}
		})
	}
	if part.At < part.To {
		err := r.read(ctx, follow(p, part.At, time.Time{}, j.filters()), func(batch []*event.Event, upto uint64) bool {
			var o Outcome
			for _, e := range batch {
				if e.Seq > part.To {
					break
				}
				if e.Received.Before(r.job.Since) || !r.job.Until.IsZero() && e.Received.After(r.job.Until) {
					continue
				}
				j.judge(ctx, e, &o)
				if ctx.Err() != nil {
					return false
				}
				if o.New.none() {
					continue
				}
				if limiter != nil && limiter.Wait(ctx) != nil {
					return false
				}
				for i, l := range lanes {
					if e.Seq > confirmed[i] && !offer(ctx, l, i, e, &o.New) {
						return false
					}
				}
			}
			for _, l := range lanes {
				l.Advance(min(upto, part.To))
			}
			return upto < part.To
		})
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		settled := true
		for _, l := range lanes {
			settled = settled && l.State().Confirmed >= part.To
		}
		if settled {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// offer hands a result to a lane, and waits for room. A failed evaluation is one
// failure of the rule, not one for each of its actions. It reports false where
// ctx ended first.
func offer(ctx context.Context, l lane.Lane, index int, e *event.Event, res *Result) bool {
	for {
		var taken bool
		switch {
		case res.Err == nil:
			taken = l.Offer(e, res.Payload)
		default:
			taken = index > 0 || l.Fail(e, res.Err)
		}
		if taken {
			return true
		}
		select {
		case <-l.Room():
		case <-ctx.Done():
			return false
		}
	}
}
