package jet

import (
	"context"
	"errors"
	"time"
)

var (
	errDiskFull = errors.New("the disk is almost full")
	errUnknown  = errors.New("the store did not confirm in time; the outcome is unknown")
	errReopen   = errors.New("the store is being opened again")
)

// fail says that the store of generation gen must be opened again. For an
// external cluster a new connection is all there is to open.
func (s *Store) fail(gen uint64, err error) {
	s.mu.Lock()
	if gen == s.gen && s.broken == nil && !s.closed {
		s.broken = err
		s.signal()
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	s.mu.Unlock()
}

// signal wakes those who wait for a change. s.mu is held.
func (s *Store) signal() {
	close(s.change)
	s.change = make(chan struct{})
}

// state returns the generation, why it is broken, and a channel that is closed
// when either changes.
func (s *Store) state() (gen uint64, change <-chan struct{}, broken error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.gen, s.change, errStale
	}
	return s.gen, s.change, s.broken
}

// trusts reports whether an acknowledgement that has just been read, from the
// store of generation gen, may be believed. A store that is being shut down,
// by Weir to open it again or by JetStream because the disk is full, answers a
// commit whose sync it has skipped. Both say so before they begin.
func (s *Store) trusts(gen uint64) bool {
	if s.o.URL != "" {
		return true // another process's store; the connection would have been lost
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return gen == s.gen && s.broken == nil && !s.closed && s.srv != nil && s.srv.JetStreamEnabled()
}

// Run watches the disk and opens the store again whenever an appender has lost
// it, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	if s.o.ListenAddr != "" {
		served := make(chan struct{})
		go func() { s.serveReaders(ctx); close(served) }()
		defer func() { <-served }()
	}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	var retry time.Time // no reopening before
	wait := 100 * time.Millisecond
	wasLow := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.wake:
		}
		if err := s.disk.look(); err != nil {
			s.Logger().Error("cannot read the free space of the data folder", "err", err)
		}
		if low := s.disk.low(); low != wasLow {
			wasLow = low
			if low {
				s.Logger().Error("the disk is almost full: publishes are refused", "free", s.disk.free.Load(), "needed", s.disk.reserve)
			} else {
				s.Logger().Info("the disk has room again", "free", s.disk.free.Load())
			}
		}
		_, _, broken := s.state()
		if broken == nil {
			wait = 100 * time.Millisecond
			continue
		}
		if !s.disk.roomy() || time.Now().Before(retry) {
			continue
		}
		if err := s.reopen(); err != nil {
			s.Logger().Error("cannot open the store again; trying on", "err", err)
			retry, wait = time.Now().Add(wait), min(2*wait, 2*time.Second)
			continue
		}
		s.Logger().Warn("the store was opened again", "reason", broken)
	}
}

func (s *Store) reopen() error {
	s.mu.Lock()
	srv := s.srv
	s.srv = nil
	s.dropIdle()
	s.mu.Unlock()
	if srv != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
	if s.o.URL == "" {
		if err := s.start(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.gen++
	s.broken = nil
	s.dropIdle()
	s.signal()
	s.mu.Unlock()
	return nil
}

// Ready returns why the store takes nothing now; nil: it does.
func (s *Store) Ready() error {
	if _, _, broken := s.state(); broken != nil {
		return broken
	}
	if s.disk.low() {
		return errDiskFull
	}
	return nil
}
