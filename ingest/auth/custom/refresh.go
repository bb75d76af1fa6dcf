package custom

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
)

// Run asks the functions of connections again when it is time, and ends those
// that may not last; until ctx ends. Every goroutine it started has ended on
// return.
func (a *Authenticator) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			a.sweep(ctx, &wg)
		case <-ctx.Done():
			return nil
		}
	}
}

// sweep looks for sessions whose time has come. Calls of functions go on behind
// it; no session has two at a time.
func (a *Authenticator) sweep(ctx context.Context, wg *sync.WaitGroup) {
	now := a.o.Now()
	var due, over []*session
	a.mu.Lock()
	for s := range a.sessions {
		switch {
		case !now.Before(s.end):
			over = append(over, s) // again and again, until the gateway says it has ended
		case !now.Before(s.refresh):
			due = append(due, s)
			s.refresh = s.end.Add(time.Hour) // while it is asked
		}
	}
	a.mu.Unlock()
	for _, s := range over {
		a.o.End(s.p)
	}
	for _, s := range due {
		wg.Go(func() { a.renew(ctx, s) })
	}
}

// renew asks again on behalf of s. The connection ends where the answer is not
// as good as the first.
func (a *Authenticator) renew(ctx context.Context, s *session) {
	g, err := a.again(ctx, s)
	if ctx.Err() != nil {
		return // everything ends
	}
	if err != nil {
		a.noise.Warn("custom authentication withdrawn", "authorizer", s.authorizer, "reason", errs.Text(err), "clientId", s.p.ClientID)
		a.mu.Lock()
		s.end = a.o.Now()
		a.mu.Unlock()
		a.o.End(s.p)
		return
	}
	s.current.Store(g)
	if data, ok := s.p.Data.(*auth.Session); ok {
		data.Reload()
	}
	a.mu.Lock()
	s.refresh = a.o.Now().Add(g.answer.RefreshAfter)
	// Counted from when the connection was opened; never later than was said
	// first.
	if end := s.opened.Add(g.answer.DisconnectAfter); end.Before(s.end) {
		s.end = end
	}
	a.mu.Unlock()
}

func (a *Authenticator) again(ctx context.Context, s *session) (*granted, error) {
	z, ok := a.o.Store.Authorizer(s.authorizer)
	if !ok || !z.Active {
		return nil, errors.New("the authorizer is gone or not active")
	}
	if !z.SigningDisabled && !s.event.Verified {
		return nil, errors.New("the authorizer wants signed tokens now")
	}
	g, err := a.ask(ctx, z, s.event)
	if err != nil {
		return nil, err
	}
	if is, was := g.answer.PrincipalID, s.p.ID; is != was {
		return nil, fmt.Errorf("the function says it is %s, and said %s before", is, was)
	}
	return g, nil
}

// Changed tells that authorizers have changed. Connections of one that is gone
// or switched off end, and no cached answer counts any more.
func (a *Authenticator) Changed() {
	a.cache.mu.Lock()
	a.cache.entries = nil
	a.cache.mu.Unlock()
	a.mu.Lock()
	var over []*session
	for s := range a.sessions {
		if z, ok := a.o.Store.Authorizer(s.authorizer); !ok || !z.Active {
			s.end = a.o.Now()
			over = append(over, s)
		}
	}
	a.mu.Unlock()
	for _, s := range over {
		a.o.End(s.p)
	}
}
