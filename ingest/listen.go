package ingest

import (
	"errors"
	"net"
	"sync"
	"syscall"
)

// Listen listens on addr as net.Listen does, but on both loopback addresses
// where its host is localhost: 127.0.0.1 and, on a machine with IPv6, ::1, on the
// same port.
func Listen(addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if host != "localhost" {
		return net.Listen("tcp", addr)
	}
	for try := 0; ; try++ {
		v4, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			return nil, err
		}
		_, got, err := net.SplitHostPort(v4.Addr().String())
		if err != nil {
			v4.Close()
			return nil, err
		}
		v6, err := net.Listen("tcp", net.JoinHostPort("::1", got))
		switch {
		case err == nil:
			return newBoth(v4, v6), nil
		case errors.Is(err, syscall.EADDRINUSE):
			v4.Close()
			if port == "0" && try < 20 {
				continue // somebody has it there; take another
			}
			return nil, err
		}
		return v4, nil // no IPv6 here
	}
}

// both is two listeners as one. Goroutines that accept begin with the first
// Accept and have ended when Close returns.
type both struct {
	net.Listener
	other net.Listener

	begin    sync.Once
	end      sync.Once
	wg       sync.WaitGroup
	accepted chan accepted
	closed   chan struct{}
}

type accepted struct {
	c   net.Conn
	err error
}

func newBoth(v4, v6 net.Listener) *both {
	return &both{Listener: v4, other: v6, accepted: make(chan accepted), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (b *both) Accept() (net.Conn, error) {
	b.begin.Do(func() {
		for _, l := range []net.Listener{b.Listener, b.other} {
			b.wg.Go(func() { b.from(l) })
		}
	})
	select {
	case a := <-b.accepted:
		return a.c, a.err
	case <-b.closed:
		return nil, net.ErrClosed
	}
}

// from hands on what l accepts. Errors go to the caller of Accept, who knows
// how long to wait before the next try.
func (b *both) from(l net.Listener) {
	for {
		c, err := l.Accept()
		select {
		case b.accepted <- accepted{c, err}:
		case <-b.closed:
			if c != nil {
				c.Close()
			}
			return
		}
	}
}

// Close implements net.Listener.
func (b *both) Close() error {
	var err error
	b.end.Do(func() {
		close(b.closed)
		err = errors.Join(b.Listener.Close(), b.other.Close())
		// Nobody may begin to accept from now on, or be waited for.
		b.begin.Do(func() {})
		b.wg.Wait()
	})
	return err
}
