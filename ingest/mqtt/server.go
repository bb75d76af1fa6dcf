package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
)

// Options configure a Server.
type Options struct {
	Log           Log
	Authenticator auth.Authenticator
	Authorizer    auth.Authorizer
	Limits        ingest.Limits // the zero value: ingest.AWS()
	Safety        ingest.Safety // the zero value: ingest.DefaultSafety()
	Rates         ingest.Rates  // the zero value: none

	Retained Bucket // of the retained messages; nil: there are none, and clients are told

	Sessions SessionBucket // of the persistent sessions; nil: there are none, and clients are told
	// Leases is where the wills of connected clients are kept, so that they outlive
	// the gateway, and the gateways' leases; nil: a killed gateway's wills are lost.
	Leases   LeaseBucket
	LeaseTTL time.Duration // 0: 5 s
	// Conn is the connection to the other gateways of the log, one that does not
	// hear itself; nil: there are none.
	Conn *nats.Conn

	// Retention is how long the log keeps an event, and with it the longest
	// session expiry that can be held; 0: 24 h.
	Retention time.Duration
	// Lifecycle appends an event for each connection and subscription that
	// begins or ends, on $aws/events/presence/… and $aws/events/subscriptions/….
	Lifecycle bool

	// Private answers the calls that are published on private topics; nil: they
	// are refused.
	Private Private

	Plain     string      // address of the listener without TLS, loopback only; "" for none
	TLS       string      // address of the TLS listener; "" for none
	TLSConfig *tls.Config // of the TLS listener; see auth.CA.TLSConfig and Protocols

	Logger     *slog.Logger          // nil: discards
	Registerer prometheus.Registerer // nil: no metrics
	Now        func() time.Time      // nil: time.Now
}

// Protocols are the ALPN names of the TLS listener.
var Protocols = []string{"x-amzn-mqtt-ca", "mqtt"}

// Server is the MQTT gateway. Make one with New, serve with Run.
type Server struct {
	log       Log
	authn     auth.Authenticator
	authz     auth.Authorizer
	limits    ingest.Limits
	safety    ingest.Safety
	rates     ingest.Rates
	connects  connectRate
	tlsConfig *tls.Config
	logger    *slog.Logger
	noise     noise
	denials   *ingest.Denials
	keeper    auth.Keeper // nil: who is connected stays
	private   Private     // nil: none
	now       func() time.Time
	m         *metrics
	guard     *ingest.Guard
	listeners []listener

	routes routes
	// routed holds, for each partition, the last sequence the router has begun
	// to hand out. A session whose own reading has reached it is up to date.
	routed []atomic.Uint64
	// handed holds the last sequence the router has handed out in full.
	handed []atomic.Uint64
	// ends holds where each partition ended at New. What was stored of an earlier
	// process is held against it: other rooms may append before Run.
	ends  []uint64
	moved signal // handed has moved
	// replays read each partition for the sessions that are late.
	replays []*replay

	handshakes turns // of TLS

	sessions  sessions
	node      *node // nil: there is no bucket for leases
	saver     saver
	retention time.Duration
	lifecycle bool
	version   atomic.Int64 // the last version number of a lifecycle event

	reconsidered uint64 // of the sweep alone: the authorizer's generation last acted on
	sweeps       int    // of the sweep alone

	serving chan struct{} // closed once Run takes connections

	tick atomic.Int64   // the sweep's idea of now, unix nanoseconds
	wg   sync.WaitGroup // goroutines of connections

	mu      sync.Mutex // guards what follows
	ctx     context.Context
	running bool
	clients map[string]*client // logged in, by client id
	waiting map[net.Conn]struct{}

	departed departed
}

type listener struct {
	kind auth.Listener
	net.Listener
}

// routes is who gets what. The routers read it for each chunk of events; a
// SUBSCRIBE writes it together with its SUBACK, so that no message overtakes it.
type routes struct {
	mu       sync.RWMutex
	trie     *topic.Trie[*subscription]
	shares   map[topic.Filter]*share // by $share/<group>/<filter>
	retained retained
}

// New checks the options and opens the listeners.
func New(o Options) (_ *Server, err error) {
	if o.Log == nil || o.Authenticator == nil || o.Authorizer == nil {
		return nil, errors.New("mqtt: log, authenticator and authorizer are needed")
	}
	if o.Conn != nil && o.Leases == nil {
		return nil, errors.New("mqtt: several gateways need a bucket for leases")
	}
	if o.Limits == (ingest.Limits{}) {
		o.Limits = ingest.AWS()
	}
	if err := o.Limits.Validate(); err != nil {
		return nil, err
	}
	if o.Safety == (ingest.Safety{}) {
		o.Safety = ingest.DefaultSafety()
	}
	if o.Retention == 0 {
		o.Retention = 24 * time.Hour
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{
		log: o.Log, authn: o.Authenticator, authz: o.Authorizer, limits: o.Limits, safety: o.Safety, rates: o.Rates,
		tlsConfig: o.TLSConfig, logger: o.Logger, now: o.Now,
		private:  o.Private,
		routed:   make([]atomic.Uint64, o.Log.Partitions()),
		handed:   make([]atomic.Uint64, o.Log.Partitions()),
		sessions: sessions{bucket: o.Sessions, wake: make(chan struct{}, 1), stored: map[string]stored{}}, retention: o.Retention, lifecycle: o.Lifecycle,
		clients: map[string]*client{}, waiting: map[net.Conn]struct{}{}, serving: make(chan struct{}),
	}
	s.noise = noise{&ingest.Noise{Logger: o.Logger, Now: o.Now}}
	s.denials = &ingest.Denials{Noise: ingest.Noise{Logger: o.Logger, Now: o.Now}, Authorizer: o.Authorizer}
	s.keeper, _ = o.Authorizer.(auth.Keeper)
	s.node = newNode(s, &o)
	s.saver.node = s.node
	if o.Sessions != nil {
		s.sessions.bucket = &fence{bucket: o.Sessions, node: s.node, partitions: len(s.routed), lost: s.sessionLost, revs: map[string]uint64{}}
	}
	s.routes.trie = topic.NewTrie[*subscription](o.Limits.Mode)
	s.routes.shares = map[topic.Filter]*share{}
	s.routes.retained = retained{
		bucket: o.Retained, messages: map[topic.Name]*event.Event{}, changed: map[topic.Name]struct{}{},
		handled: make([]uint64, len(s.routed)), saved: make([]uint64, len(s.routed)),
	}
	for p := range s.routed {
		s.ends = append(s.ends, o.Log.Committed(p))
		s.replays = append(s.replays, newReplay(s, p))
	}
	s.handshakes.work, s.handshakes.room = 2*runtime.GOMAXPROCS(0), turnsUnderWay
	s.guard = ingest.NewGuard(&s.safety, o.Now)
	defer func() {
		if err != nil {
			s.closeListeners()
		}
	}()
	if o.Plain != "" {
		if !loopback(o.Plain) {
			return nil, fmt.Errorf("mqtt: the listener without TLS must be on loopback, %s is not", o.Plain)
		}
		if err := s.listen(auth.Plain, o.Plain); err != nil {
			return nil, err
		}
	}
	if o.TLS != "" {
		if o.TLSConfig == nil {
			return nil, errors.New("mqtt: the TLS listener needs a TLS configuration")
		}
		if err := s.listen(auth.TLS, o.TLS); err != nil {
			return nil, err
		}
	}
	if s.m, err = newMetrics(o.Registerer); err != nil {
		return nil, fmt.Errorf("mqtt: metrics: %w", err)
	}
	return s, nil
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

func (s *Server) listen(kind auth.Listener, addr string) error {
	ln, err := ingest.Listen(addr)
	if err != nil {
		return fmt.Errorf("mqtt: %w", err)
	}
	s.listeners = append(s.listeners, listener{kind, ln})
	return nil
}

func (s *Server) closeListeners() {
	for _, ln := range s.listeners {
		ln.Close()
	}
}

// Close closes the listeners of a Server that was never run. Run does it by
// itself.
func (s *Server) Close() { s.closeListeners() }

// Addr returns the address of a listener, nil where it has none.
func (s *Server) Addr(kind auth.Listener) net.Addr {
	for _, ln := range s.listeners {
		if ln.kind == kind {
			return ln.Addr()
		}
	}
	return nil
}

// Run serves until ctx ends; every goroutine it started has ended on return.
// The log must be running. Clients are told (MQTT 5), and given a moment in which publishes under way are
// still acknowledged.
func (s *Server) Run(ctx context.Context) error {
	// Routers and appends outlive the connections.
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var routers, accepts sync.WaitGroup
	err := s.restore(ctx)
	if err == nil {
		err = s.node.begin(ctx, inner, &routers)
	}
	if err == nil {
		err = s.restoreSessions(ctx)
	}
	if err != nil {
		stop()
		s.closeListeners()
		routers.Wait()
		return err
	}
	for p := range s.routed {
		after := s.log.Committed(p)
		if s.routes.retained.bucket != nil {
			after = s.routes.retained.handled[p]
		}
		s.routed[p].Store(after)
		s.handed[p].Store(after)
		f, err := s.log.Follow(eventlog.FollowOptions{Partition: p, After: after})
		if err != nil {
			stop()
			s.closeListeners()
			routers.Wait()
			return fmt.Errorf("mqtt: following partition %d: %w", p, err)
		}
		routers.Go(func() { s.route(inner, p, f) })
	}
	for _, v := range s.replays {
		routers.Go(func() { v.run(inner) })
	}
	routers.Go(func() { s.save(inner) })
	routers.Go(func() { s.keep(inner) })
	s.mu.Lock()
	s.ctx, s.running = inner, true
	s.mu.Unlock()
	close(s.serving)
	accepts.Go(func() { s.sweep(ctx) })
	accepts.Go(func() { s.tendShares(ctx) })
	for _, ln := range s.listeners {
		accepts.Go(func() { s.accept(ctx, ln) })
	}
	<-ctx.Done()
	s.closeListeners()
	accepts.Wait()

	s.mu.Lock()
	s.running = false
	clients := make([]*client, 0, len(s.clients))
	for _, c := range s.clients {
		clients = append(clients, c)
	}
	for nc := range s.waiting {
		nc.Close()
	}
	s.mu.Unlock()
	deadline := time.Now().Add(s.safety.ShutdownDrainTime)
	for _, c := range clients {
		c.sess.stopReading()
	}
	if len(clients) > 0 {
		s.logger.Info("the server is shutting down; connections end", "connections", len(clients))
	}
	for _, c := range clients {
		c.sess.awaitAcks(deadline)
		c.end(faultf(codeShuttingDown, "shutdown", "the server is shutting down"))
	}
	for _, c := range clients {
		<-c.done
	}
	s.closeShares()
	s.wg.Wait()
	stop()
	routers.Wait()
	return nil
}

// Serving is closed once Run takes connections: what was there before is read
// first.
func (s *Server) Serving() <-chan struct{} { return s.serving }

func (s *Server) accept(ctx context.Context, ln listener) {
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, most likely: wait for some to be freed.
			s.noise.warn("accepting a connection", "listener", string(ln.kind), "error", err)
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return
			}
			continue
		}
		e := entry{kind: ln.kind}
		if ln.kind == auth.TLS {
			e.config = s.tlsConfig
		}
		s.wg.Go(func() { s.serve(nc, e) })
	}
}

// Serve takes over a connection that came in by the one port: TLS, with config,
// begins with the next byte. It returns at once; Run waits for the connection.
func (s *Server) Serve(nc net.Conn, config *tls.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		nc.Close()
		return
	}
	s.wg.Go(func() { s.serve(nc, entry{kind: auth.TLS, config: config, known: &auth.Connection{Mux: true}}) })
}

// sweep looks for clients that have been silent for longer than one and a half
// keep-alives, or whose time is up.
func (s *Server) sweep(ctx context.Context) {
	t := time.NewTicker(s.safety.KeepAliveTick)
	defer t.Stop()
	var overdue, expired []*client
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		now := s.now().UnixNano()
		s.tick.Store(now)
		s.mu.Lock()
		for _, c := range s.clients {
			// A client the log holds up cannot be heard, and is not overdue.
			if c.idle.Load() && now-c.lastRead.Load() > int64(c.keepAlive+c.keepAlive/2) {
				overdue = append(overdue, c)
			}
			if e := c.principal.Expires; !e.IsZero() && now >= e.UnixNano() {
				expired = append(expired, c)
			}
		}
		s.mu.Unlock()
		for i, c := range overdue {
			c.end(faultf(codeKeepAlive, "keep_alive", "no packet within one and a half keep-alives"))
			overdue[i] = nil
		}
		overdue = overdue[:0]
		for i, c := range expired {
			c.end(faultf(codeNotAuthorized, "expired", "the time its credentials give the connection is up"))
			expired[i] = nil
		}
		expired = expired[:0]
		s.reconsider()
	}
}

// DisconnectSession ends the connection p was made for, and reports whether it
// was there.
func (s *Server) DisconnectSession(p *auth.Principal) bool {
	s.mu.Lock()
	c := s.clients[p.ClientID]
	if c != nil && c.principal != p {
		c = nil
	}
	s.mu.Unlock()
	if c == nil {
		return false
	}
	c.end(faultf(codeNotAuthorized, "withdrawn", "the principal may no longer connect"))
	return true
}

// Disconnect ends the connection of a client id, and reports whether there was
// one.
func (s *Server) Disconnect(clientID string) bool {
	s.mu.Lock()
	c := s.clients[clientID]
	s.mu.Unlock()
	if c == nil {
		return false
	}
	c.end(faultf(codeAdministrative, "administrative", "ended by the administrator"))
	return true
}

// DisconnectPrincipal ends every connection of a principal: its permission to be
// here was withdrawn. It returns how many there were.
func (s *Server) DisconnectPrincipal(id string) int {
	var ended []*client
	s.mu.Lock()
	for _, c := range s.clients {
		if c.principal.ID == id {
			ended = append(ended, c)
		}
	}
	s.mu.Unlock()
	for _, c := range ended {
		c.end(faultf(codeNotAuthorized, "withdrawn", "the principal may no longer connect"))
	}
	return len(ended)
}

// ClientInfo describes a connected client.
type ClientInfo struct {
	ClientID      string
	Principal     string
	Remote        netip.AddrPort
	Listener      auth.Listener
	Version       byte // 4 or 5
	KeepAlive     time.Duration
	Connected     time.Time
	Subscriptions []topic.Filter
}

// Clients returns the connected clients, in no order.
func (s *Server) Clients() []ClientInfo {
	s.mu.Lock()
	clients := make([]*client, 0, len(s.clients))
	for _, c := range s.clients {
		clients = append(clients, c)
	}
	s.mu.Unlock()
	out := make([]ClientInfo, len(clients))
	for i, c := range clients {
		out[i] = ClientInfo{
			ClientID: c.id, Principal: c.principal.ID, Remote: c.remote, Listener: c.listener,
			Version: c.version(), KeepAlive: c.keepAlive, Connected: c.connected, Subscriptions: c.sess.filters(),
		}
	}
	return out
}

// noise writes log lines that clients can provoke.
type noise struct{ *ingest.Noise }

func (n noise) warn(msg string, args ...any) { n.Warn(msg, args...) }
