package republish

import (
	"context"
	"sync"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
)

// Log is the event log as far as ToLog needs it.
type Log interface {
	Append(ctx context.Context, e *event.Event, r eventlog.Receipt, token uint64) error
}

// ToLog returns the Env.PublishAll of a log: the events of a batch are appended
// one behind the other and share commits, as those of a device do.
func ToLog(l Log) func(ctx context.Context, events []*event.Event) []error {
	return func(ctx context.Context, events []*event.Event) []error {
		w := &wait{out: make([]error, len(events)), settled: make([]bool, len(events)), left: len(events), done: make(chan struct{})}
		for i, e := range events {
			if err := l.Append(ctx, e, w, uint64(i)); err != nil {
				for ; i < len(events); i++ { // what comes behind would overtake it
					w.Appended(uint64(i), nil, err)
				}
				break
			}
		}
		select {
		case <-w.done:
		case <-ctx.Done():
		}
		return w.outcome(ctx)
	}
}

// wait is the Receipt of one batch.
type wait struct {
	mu      sync.Mutex // guards what follows: partitions report at a time
	out     []error
	settled []bool
	left    int
	done    chan struct{} // closed when left is 0
}

func (w *wait) Appended(token uint64, _ *event.Event, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out[token], w.settled[token] = err, true
	if w.left--; w.left == 0 {
		close(w.done)
	}
}

func (w *wait) Flush() {}

// outcome copies: when ctx ended first, the log may still report.
func (w *wait) outcome(ctx context.Context) []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left == 0 {
		return w.out
	}
	out := make([]error, len(w.out))
	for i, err := range w.out {
		if out[i] = err; !w.settled[i] {
			out[i] = errs.E("republish.Publish", errs.Timeout, ctx.Err())
		}
	}
	return out
}
