package mux

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/weir-iot/weir/ingest"
)

// The ALPN names of MQTT.
const (
	CertificateProtocol = "x-amzn-mqtt-ca" // with a client certificate
	CustomProtocol      = "mqtt"           // with a custom authorizer
)

// Options configure a Server.
type Options struct {
	Addr string
	// TLSConfig returns the TLS configuration that offers the given ALPN names.
	TLSConfig func(protocols ...string) *tls.Config
	// MQTT takes a connection over, TLS still to begin with config, and returns at
	// once.
	MQTT   func(nc net.Conn, config *tls.Config)
	Safety ingest.Safety    // the zero value: ingest.DefaultSafety()
	Logger *slog.Logger     // nil: discards
	Now    func() time.Time // nil: time.Now
}

// Server is the one port.
type Server struct {
	o           Options
	ln          net.Listener
	guard       *ingest.Guard
	certificate *tls.Config
	custom      *tls.Config

	http   chan net.Conn
	closed chan struct{} // Run has ended, or Close was called
	once   sync.Once

	mu      sync.Mutex // guards reading
	reading map[net.Conn]struct{}
}

// New checks the options and opens the listener.
func New(o Options) (*Server, error) {
	if o.TLSConfig == nil || o.MQTT == nil {
		return nil, errors.New("mux: a TLS configuration and the MQTT gateway are needed")
	}
	if o.Safety == (ingest.Safety{}) {
		o.Safety = ingest.DefaultSafety()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	ln, err := ingest.Listen(o.Addr)
	if err != nil {
		return nil, fmt.Errorf("mux: %w", err)
	}
	s := &Server{
		o: o, ln: ln, certificate: o.TLSConfig(CertificateProtocol), custom: o.TLSConfig(CustomProtocol),
		http: make(chan net.Conn), closed: make(chan struct{}), reading: map[net.Conn]struct{}{},
	}
	s.guard = ingest.NewGuard(&s.o.Safety, o.Now)
	return s, nil
}

// Addr returns the listener's address.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Close closes the listener of a Server that was never run. Run does it by
// itself.
func (s *Server) Close() {
	s.once.Do(func() {
		close(s.closed)
		s.ln.Close()
	})
}

// HTTP returns the connections that are not of an ALPN name of MQTT. Its Accept
// ends with net.ErrClosed when Run does.
func (s *Server) HTTP() net.Listener { return &listener{s} }

// Run serves until ctx ends; every goroutine it started has ended on return.
// Connections handed over are their new owners'.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.accept(ctx, &wg) })
	<-ctx.Done()
	s.Close()
	s.mu.Lock()
	for nc := range s.reading {
		nc.Close()
	}
	s.mu.Unlock()
	wg.Wait()
	return nil
}

func (s *Server) accept(ctx context.Context, wg *sync.WaitGroup) {
	for {
		nc, err := s.ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, most likely: wait for some to be freed.
			s.o.Logger.Warn("accepting a connection", "listener", "mux", "error", err)
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return
			}
			continue
		}
		wg.Go(func() { s.serve(ctx, nc) })
	}
}

// serve finds out what a connection is and hands it over.
func (s *Server) serve(ctx context.Context, nc net.Conn) {
	remote, _ := netip.ParseAddrPort(nc.RemoteAddr().String())
	if s.guard.Enter(remote.Addr()) != "" {
		nc.Close()
		return
	}
	s.mu.Lock()
	if ctx.Err() != nil {
		s.mu.Unlock()
		s.guard.Leave(remote.Addr(), false)
		nc.Close()
		return
	}
	s.reading[nc] = struct{}{}
	s.mu.Unlock()
	nc.SetDeadline(time.Now().Add(s.o.Safety.ConnectTimeout))
	protocols, whole, err := hello(ctx, nc)
	s.mu.Lock()
	delete(s.reading, nc)
	s.mu.Unlock()
	s.guard.Leave(remote.Addr(), false) // its new owner counts it from now on
	if err != nil {
		s.o.Logger.Debug("connection refused", "listener", "mux", "remote", remote.String(), "reason", err.Error())
		nc.Close()
		return
	}
	nc.SetDeadline(time.Time{})
	switch {
	case slices.Contains(protocols, CertificateProtocol):
		s.o.MQTT(whole, s.certificate)
	case slices.Contains(protocols, CustomProtocol):
		s.o.MQTT(whole, s.custom)
	default:
		select {
		case s.http <- whole:
		case <-s.closed:
			nc.Close()
		}
	}
}

type listener struct{ s *Server }

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.s.http:
		return c, nil
	case <-l.s.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. The port is closed by Run.
func (l *listener) Close() error { return nil }

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.s.Addr() }
