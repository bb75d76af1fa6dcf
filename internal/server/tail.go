package server

import (
	"context"
	"errors"
	"io"
	"sort"
	"sync"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
)

// tailer reads the log for people.
type tailer struct{ log *eventlog.Log }

const tailBatch = 256

// Tail implements control.Tailer.
//
// What was committed when it began is merged over the partitions by arrival;
// what comes later is passed on as each partition commits it.
func (t *tailer) Tail(ctx context.Context, o control.TailOptions, fn func(*event.Event) error, gap func(int, uint64, uint64) error) error {
	const op = "tail"
	var filters []topic.Filter
	if o.Filter != "" {
		f, err := topic.ParseFilter(o.Filter, topic.Limits{})
		if err != nil {
			return errs.E(op, errs.Invalid, err)
		}
		filters = []topic.Filter{f}
	}
	n := t.log.Partitions()
	from := make([]uint64, n) // read behind
	upto := make([]uint64, n) // the past ends here
	for p := range n {
		upto[p] = t.log.Committed(p)
		from[p] = upto[p]
	}
	switch {
	case o.Last > 0:
		events, err := t.last(ctx, filters, o, upto)
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := fn(e); err != nil {
				return err
			}
		}
	case !o.Since.IsZero():
		if err := t.past(ctx, filters, o, upto, fn, gap); err != nil {
			return err
		}
	}
	if !o.Follow {
		return nil
	}
	return t.live(ctx, filters, from, fn, gap)
}

// reader is one partition's part of a merge.
type reader struct {
	f     *eventlog.Follower
	upto  uint64
	batch []*event.Event
	ended bool
}

// fill reads on until there is an event or the past has ended.
func (r *reader) fill(ctx context.Context, gap func(int, uint64, uint64) error) error {
	for len(r.batch) == 0 && !r.ended {
		if r.f.Position() >= r.upto {
			r.ended = true
			return nil
		}
		batch, _, err := r.f.Next(ctx, tailBatch)
		var g *eventlog.GapError
		switch {
		case errors.As(err, &g):
			if err := gap(g.Partition, g.From, g.To); err != nil {
				return err
			}
		case errors.Is(err, io.EOF):
			r.ended = true
		case err != nil:
			return err
		}
		for len(batch) > 0 && batch[len(batch)-1].Seq > r.upto {
			batch = batch[:len(batch)-1]
			r.ended = len(batch) == 0
		}
		r.batch = append(r.batch[:0], batch...)
	}
	return nil
}

// past calls fn for what has come in since o.Since, up to upto, merged by
// arrival.
func (t *tailer) past(ctx context.Context, filters []topic.Filter, o control.TailOptions, upto []uint64, fn func(*event.Event) error, gap func(int, uint64, uint64) error) error {
	readers := make([]*reader, 0, len(upto))
	defer func() {
		for _, r := range readers {
			r.f.Close()
		}
	}()
	for p := range upto {
		f, err := t.log.Follow(eventlog.FollowOptions{Partition: p, Since: o.Since, Filters: filters, Mode: topic.Standard, ToEnd: true})
		if err != nil {
			return err
		}
		readers = append(readers, &reader{f: f, upto: upto[p]})
	}
	return merge(ctx, readers, gap, func(e *event.Event) error {
		if e.Received.Before(o.Since) {
			return nil
		}
		return fn(e)
	})
}

func merge(ctx context.Context, readers []*reader, gap func(int, uint64, uint64) error, fn func(*event.Event) error) error {
	for {
		var first *reader
		for _, r := range readers {
			if err := r.fill(ctx, gap); err != nil {
				return err
			}
			if len(r.batch) > 0 && (first == nil || r.batch[0].Received.Before(first.batch[0].Received)) {
				first = r
			}
		}
		if first == nil {
			return nil
		}
		e := first.batch[0]
		first.batch = first.batch[1:]
		if err := fn(e); err != nil {
			return err
		}
	}
}

// last returns the newest o.Last events that match, oldest first. It reads
// backwards in windows that grow, so that a few events of a busy topic do not
// cost the whole log.
func (t *tailer) last(ctx context.Context, filters []topic.Filter, o control.TailOptions, upto []uint64) ([]*event.Event, error) {
	noGap := func(int, uint64, uint64) error { return nil }
	var all []*event.Event
	for p := range upto {
		var events []*event.Event
		first := t.log.First(p)
		for window := uint64(4*o.Last + 1024); ; window *= 8 {
			from := uint64(0)
			if upto[p] > window {
				from = upto[p] - window
			}
			whole := from == 0 || from < first
			if whole && first > 0 {
				from = first - 1
			}
			f, err := t.log.Follow(eventlog.FollowOptions{Partition: p, After: from, Filters: filters, Mode: topic.Standard, ToEnd: true})
			if err != nil {
				return nil, err
			}
			events = events[:0]
			err = merge(ctx, []*reader{{f: f, upto: upto[p]}}, noGap, func(e *event.Event) error {
				if !o.Since.IsZero() && e.Received.Before(o.Since) {
					return nil
				}
				if len(events) == o.Last {
					copy(events, events[1:])
					events = events[:len(events)-1]
				}
				events = append(events, e)
				return nil
			})
			f.Close()
			if err != nil {
				return nil, err
			}
			if whole || len(events) == o.Last {
				break
			}
		}
		all = append(all, events...)
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].Received.Before(all[j].Received) })
	return all[max(0, len(all)-o.Last):], nil
}

// live calls fn for every event behind from, as it is committed.
func (t *tailer) live(ctx context.Context, filters []topic.Filter, from []uint64, fn func(*event.Event) error, gap func(int, uint64, uint64) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex // fn and gap are called by one goroutine at a time
	var first error
	var running sync.WaitGroup
	for p := range from {
		f, err := t.log.Follow(eventlog.FollowOptions{Partition: p, After: from[p], Filters: filters, Mode: topic.Standard})
		if err != nil {
			cancel()
			running.Wait()
			return err
		}
		running.Add(1)
		go func() {
			defer running.Done()
			defer f.Close()
			err := follow(ctx, f, &mu, fn, gap)
			mu.Lock()
			if first == nil && ctx.Err() == nil {
				first = err
			}
			mu.Unlock()
			cancel()
		}()
	}
	running.Wait()
	return first
}

func follow(ctx context.Context, f *eventlog.Follower, mu *sync.Mutex, fn func(*event.Event) error, gap func(int, uint64, uint64) error) error {
	for {
		batch, _, err := f.Next(ctx, tailBatch)
		var g *eventlog.GapError
		mu.Lock()
		switch {
		case errors.As(err, &g):
			err = gap(g.Partition, g.From, g.To)
		case err == nil:
			for _, e := range batch {
				if err = fn(e); err != nil {
					break
				}
			}
		}
		mu.Unlock()
		if err != nil {
			return err
		}
	}
}
