package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// stack owns goroutines that lean on one another: what was started later is
// ended first, and has ended before the one below it is told to.
type stack struct {
	logger *slog.Logger
	parts  []*part
	failed chan struct{} // readable once a part has ended by itself
}

type part struct {
	name string
	end  context.CancelFunc
	done chan struct{}
	err  error // valid once done is closed
}

func newStack(logger *slog.Logger) *stack {
	return &stack{logger: logger, failed: make(chan struct{}, 1)}
}

// start runs f until the stack ends it.
func (s *stack) start(name string, f func(context.Context) error) {
	ctx, end := context.WithCancel(context.Background())
	p := &part{name: name, end: end, done: make(chan struct{})}
	s.parts = append(s.parts, p)
	go func() {
		err := f(ctx)
		if ctx.Err() == nil && err == nil {
			err = errors.New("ended by itself")
		}
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil
		}
		p.err = err
		close(p.done)
		if err != nil {
			select {
			case s.failed <- struct{}{}:
			default:
			}
		}
	}()
}

// await returns true once ready is closed, false where ctx has ended or a part
// has failed first.
func (s *stack) await(ctx context.Context, ready <-chan struct{}) bool {
	select {
	case <-ready:
		return true
	case <-ctx.Done():
	case <-s.failed:
		select { // for wait
		case s.failed <- struct{}{}:
		default:
		}
	}
	return false
}

// wait returns when ctx ends or a part has failed, after all parts have ended,
// the last one first.
func (s *stack) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-s.failed:
	}
	return s.stop()
}

func (s *stack) stop() error {
	var all []error
	for i := len(s.parts) - 1; i >= 0; i-- {
		p := s.parts[i]
		begun := time.Now()
		p.end()
		<-p.done
		s.logger.Debug("stopped", "part", p.name, "took", time.Since(begun).Round(time.Millisecond))
		if p.err != nil {
			all = append(all, fmt.Errorf("%s: %w", p.name, p.err))
		}
	}
	s.parts = nil
	return errors.Join(all...)
}
