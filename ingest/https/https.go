// Package https is the gateway's HTTPS dialect: POST /topics/<topic> publishes
// one message.
//
// The body becomes an event on the log; the answer 200 says that the log has
// committed it. Who publishes is told by the TLS client certificate, or on the
// one port that serves everything by the request itself, through the same seams
// as for MQTT. Requests for MQTT over WebSocket come to the same ports and are
// handed on, and so are those for shadows and retained messages, with who sent
// them.
package https

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// Log is what the dialect needs of the event log.
type Log interface {
	// Publish appends e and waits for its commit.
	Publish(ctx context.Context, e *event.Event) error
}

// Options configure a Server.
type Options struct {
	Log           Log
	Authenticator auth.Authenticator
	Authorizer    auth.Authorizer
	Limits        ingest.Limits // the zero value: ingest.AWS()
	Safety        ingest.Safety // the zero value: ingest.DefaultSafety()

	Addr       string       // of the TLS listener; "" for none: Handler alone is used
	TLSConfig  *tls.Config  // see auth.CA.TLSConfig and Protocols
	MQTT       http.Handler // takes GET /mqtt, MQTT over WebSocket; nil: not found
	WebSockets []string     // paths besides /mqtt that MQTT takes
	// Service returns who answers requests of a path that is not the dialect's own,
	// and says himself who asks (Known); nil: nobody does.
	Service func(path string) http.Handler
	// MayRetain reports whether there is room for a retained message of so many
	// bytes; nil: always.
	MayRetain func(n topic.Name, size int) bool

	// Data takes the requests on things, retained messages and connections that
	// the REST API of the data plane has, with who sent them in their context
	// (auth.PrincipalFrom) and their body read; what the principal may do is the
	// handler's to ask. nil: not found.
	Data http.Handler

	// Mux gives the connections of the one port that are neither MQTT nor of a
	// certificate's ALPN name for MQTT; nil: none. Run closes it.
	Mux          net.Listener
	MuxTLSConfig *tls.Config // TLS begins on them with the next byte

	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// HTTPProtocol is the ALPN name that says HTTPS with a client certificate.
const HTTPProtocol = "x-amzn-http-ca"

// Protocols are the ALPN names of the TLS listener.
var Protocols = []string{HTTPProtocol, "http/1.1"}

// Server is the HTTPS gateway.
type Server struct {
	o        Options
	ln       net.Listener // of Options.Addr; nil without
	guard    *ingest.Guard
	requests *prometheus.CounterVec
	denied   *prometheus.CounterVec
	denials  *ingest.Denials
}

// New checks the options and opens the listener.
func New(o Options) (*Server, error) {
	if o.Log == nil || o.Authenticator == nil || o.Authorizer == nil {
		return nil, errors.New("https: log, authenticator and authorizer are needed")
	}
	if o.Limits == (ingest.Limits{}) {
		o.Limits = ingest.AWS()
	}
	if err := o.Limits.Validate(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Safety == (ingest.Safety{}) {
		o.Safety = ingest.DefaultSafety()
	}
	s := &Server{o: o, requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "weir", Subsystem: "https", Name: "publishes_total", Help: "Publish requests by status.",
	}, []string{"status"}), denied: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "weir", Subsystem: "https", Name: "denials_total", Help: "Actions the authorizer or a reserved topic denied.",
	}, []string{"action"})}
	s.denials = &ingest.Denials{Noise: ingest.Noise{Logger: o.Logger, Now: o.Now}, Authorizer: o.Authorizer}
	if o.Registerer != nil {
		if err := errors.Join(o.Registerer.Register(s.requests), o.Registerer.Register(s.denied)); err != nil {
			return nil, fmt.Errorf("https: metrics: %w", err)
		}
	}
	s.guard = ingest.NewGuard(&s.o.Safety, o.Now)
	if o.Mux != nil && o.MuxTLSConfig == nil {
		return nil, errors.New("https: the one port needs a TLS configuration")
	}
	if o.Addr == "" {
		return s, nil
	}
	if o.TLSConfig == nil {
		return nil, errors.New("https: the listener needs a TLS configuration")
	}
	ln, err := ingest.Listen(o.Addr)
	if err != nil {
		return nil, fmt.Errorf("https: %w", err)
	}
	s.ln = ln
	return s, nil
}

// Addr returns the listener's address, nil without one.
func (s *Server) Addr() net.Addr {
	if s.ln == nil {
		return nil
	}
	return s.ln.Addr()
}

// Close closes the listener of a Server that was never run.
func (s *Server) Close() {
	if s.ln != nil {
		s.ln.Close()
	}
}

// Run serves until ctx ends; requests under way are answered first.
func (s *Server) Run(ctx context.Context) error {
	var listeners []*tlsListener
	if s.ln != nil {
		listeners = append(listeners, &tlsListener{s.ln, s.o.TLSConfig, s, false})
	}
	if s.o.Mux != nil {
		listeners = append(listeners, &tlsListener{s.o.Mux, s.o.MuxTLSConfig, s, true})
	}
	if len(listeners) == 0 {
		<-ctx.Done()
		return nil
	}
	hs := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: s.o.Safety.ConnectTimeout, ReadTimeout: 60 * time.Second,
		WriteTimeout: 90 * time.Second, IdleTimeout: 120 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	served := make(chan error, len(listeners))
	for _, l := range listeners {
		wg.Go(func() {
			err := hs.Serve(l)
			// Who runs the one port may stop before this server does.
			if !l.mux || !errors.Is(err, net.ErrClosed) {
				served <- err
			}
		})
	}
	select {
	case err := <-served:
		hs.Close()
		return fmt.Errorf("https: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if hs.Shutdown(grace) != nil {
		hs.Close()
	}
	return nil
}
