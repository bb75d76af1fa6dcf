package server

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
)

// parts records in what order parts of a stack ended.
type parts struct {
	mu    sync.Mutex // guards ended
	ended []string
}

func (p *parts) run(name string, fail <-chan error) func(context.Context) error {
	return func(ctx context.Context) error {
		var err error
		select {
		case <-ctx.Done():
		case err = <-fail:
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ended = append(p.ended, name)
		return err
	}
}

func TestStackEndsInReverse(t *testing.T) {
	s, p := newStack(slog.New(slog.DiscardHandler)), &parts{}
	for _, name := range []string{"log", "rules", "gateway"} {
		s.start(name, p.run(name, nil))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.wait(ctx); err != nil {
		t.Error(err)
	}
	if !slices.Equal(p.ended, []string{"gateway", "rules", "log"}) {
		t.Error(p.ended)
	}
}

func TestAFailureEndsTheStack(t *testing.T) {
	for _, cause := range []error{errors.New("disk on fire"), nil} {
		s, p := newStack(slog.New(slog.DiscardHandler)), &parts{}
		fail := make(chan error, 1)
		s.start("log", p.run("log", nil))
		s.start("rules", p.run("rules", fail))
		s.start("gateway", p.run("gateway", nil))
		fail <- cause
		err := s.wait(context.Background())
		if err == nil || !strings.Contains(err.Error(), "rules: ") || cause != nil && !errors.Is(err, cause) {
			t.Errorf("%v", err)
		}
		if len(p.ended) != 3 || slices.Index(p.ended, "gateway") > slices.Index(p.ended, "log") {
			t.Error(p.ended)
		}
	}
}
