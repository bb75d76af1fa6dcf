// Package https is the gateway's HTTPS dialect: POST /topics/<topic> publishes
// one message.
//
// The body becomes an event on the log; the answer 200 says that the log has
// committed it. Who publishes is told by the TLS client certificate, through
// the same seams as for MQTT. Requests for MQTT over WebSocket come to the same
// port and are handed on.
package https

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
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

	Addr      string       // of the TLS listener; "" for none: Handler alone is used
	TLSConfig *tls.Config  // see auth.CA.TLSConfig and Protocols
	MQTT      http.Handler // takes GET /mqtt, MQTT over WebSocket; nil: not found
	// MayRetain reports whether there is room for a retained message of so many
	// bytes; nil: always.
	MayRetain func(n topic.Name, size int) bool

	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// Protocols are the ALPN names of the TLS listener.
var Protocols = []string{"x-amzn-http-ca", "http/1.1"}

// publishTimeout bounds the wait for a commit. A client that gets 503 may try
// again; the message may be there twice then.
const publishTimeout = 15 * time.Second

// Server is the HTTPS gateway.
type Server struct {
	o        Options
	ln       net.Listener
	guard    *ingest.Guard // of the listener; nil without
	requests *prometheus.CounterVec
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
	}, []string{"status"})}
	if o.Registerer != nil {
		if err := o.Registerer.Register(s.requests); err != nil {
			return nil, fmt.Errorf("https: metrics: %w", err)
		}
	}
	if o.Addr == "" {
		return s, nil
	}
	if o.TLSConfig == nil {
		return nil, errors.New("https: the listener needs a TLS configuration")
	}
	ln, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("https: %w", err)
	}
	s.ln = ln
	s.guard = ingest.NewGuard(&s.o.Safety, o.Now)
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
	if s.ln == nil {
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
	served := make(chan error, 1)
	wg.Go(func() { served <- hs.Serve(&tlsListener{s.ln, s.o.TLSConfig, s.guard}) })
	select {
	case err := <-served:
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

// tlsListener hides from net/http that its connections are TLS: it would close
// those of an ALPN name it does not know.
type tlsListener struct {
	net.Listener
	config *tls.Config
	guard  *ingest.Guard
}

// tlsConn counts as unauthenticated until a request on it has said who it is.
type tlsConn struct {
	net.Conn
	addr  netip.Addr
	guard *ingest.Guard
	left  sync.Once
}

func (l *tlsListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		remote, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		if l.guard.Enter(remote.Addr()) != "" {
			c.Close()
			continue
		}
		return &tlsConn{Conn: tls.Server(c, l.config), addr: remote.Addr(), guard: l.guard}, nil
	}
}

func (c *tlsConn) leave(failed bool) {
	c.left.Do(func() { c.guard.Leave(c.addr, failed) })
}

func (c *tlsConn) Close() error {
	c.leave(false)
	return c.Conn.Close()
}

// known tells the guard how the log-in of a request's connection went.
func known(r *http.Request, failed bool) {
	if c, ok := r.Context().Value(connKey{}).(*tlsConn); ok {
		c.leave(failed)
	}
}

type connKey struct{}

// TLSState returns the TLS state of a request's connection; nil without TLS.
func TLSState(r *http.Request) *tls.ConnectionState {
	if r.TLS != nil {
		return r.TLS
	}
	if c, ok := r.Context().Value(connKey{}).(*tlsConn); ok {
		st := c.Conn.(*tls.Conn).ConnectionState()
		return &st
	}
	return nil
}

// Handler returns the dialect as a handler, for a listener of somebody else's.
// Without TLS it takes what the Authenticator lets in: loopback only.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Not by ServeMux, which would clean empty levels out of a topic.
		path := r.URL.EscapedPath()
		escaped, ok := strings.CutPrefix(path, "/topics/")
		switch {
		case path == "/mqtt" && s.o.MQTT != nil:
			known(r, false) // it is asked again, and guarded, as an MQTT connection
			s.o.MQTT.ServeHTTP(w, r)
		case !ok:
			s.answer(w, http.StatusNotFound, "ResourceNotFoundException", "Not Found", traceID())
		case r.Method != http.MethodPost:
			w.Header().Set("Allow", http.MethodPost)
			s.answer(w, http.StatusMethodNotAllowed, "MethodNotAllowedException", "Method Not Allowed", traceID())
		default:
			id, err := s.publish(r, escaped)
			if err != nil {
				s.fail(w, r, err)
				return
			}
			s.answer(w, http.StatusOK, "", "OK", id)
		}
	})
}

// publish takes one message in, and returns its id.
func (s *Server) publish(r *http.Request, escaped string) (id string, err error) {
	const op = "https.Publish"
	state := TLSState(r)
	c := &auth.Connection{Listener: auth.HTTPS, TLS: state}
	if state == nil {
		c.Listener = auth.HTTP
	}
	c.Remote, _ = netip.ParseAddrPort(r.RemoteAddr)
	c.Remote = netip.AddrPortFrom(c.Remote.Addr().Unmap(), c.Remote.Port())
	p, err := s.o.Authenticator.Authenticate(r.Context(), c)
	if err != nil {
		known(r, true)
		return "", err
	}
	known(r, false)
	text, err := url.PathUnescape(escaped)
	if err != nil {
		return "", errs.Errorf(op, errs.Invalid, "topic is not URL encoded")
	}
	n, err := topic.ParseName(text, s.o.Limits.Topic())
	if err != nil {
		return "", errs.E(op, errs.Invalid, err)
	}
	e := &event.Event{Topic: n, Principal: p.ID, SourceIP: c.Remote.Addr().String(), Protocol: event.HTTP}
	if err := s.parameters(r, e); err != nil {
		return "", errs.E(op, errs.Invalid, err)
	}
	switch ingest.Publish(n) {
	case ingest.Private:
		return "", errs.Errorf(op, errs.Forbidden, "private topic: its service is not there")
	case ingest.Reserved:
		return "", errs.Errorf(op, errs.Forbidden, "reserved topic: clients may not publish on it")
	}
	if !s.o.Authorizer.May(p, auth.Publish, text) || e.Retain && !s.o.Authorizer.May(p, auth.RetainPublish, text) {
		return "", errs.Errorf(op, errs.Forbidden, "not allowed to publish on this topic")
	}
	if r.ContentLength > int64(s.o.Limits.Payload) {
		return "", errs.Errorf(op, errs.TooLarge, "payload is over %d bytes", s.o.Limits.Payload)
	}
	e.Payload, err = io.ReadAll(io.LimitReader(r.Body, int64(s.o.Limits.Payload)+1))
	switch {
	case err != nil:
		return "", errs.E(op, errs.Invalid, fmt.Errorf("reading the body: %w", err))
	case len(e.Payload) > s.o.Limits.Payload:
		return "", errs.Errorf(op, errs.TooLarge, "payload is over %d bytes", s.o.Limits.Payload)
	}
	if e.Retain && s.o.MayRetain != nil && !s.o.MayRetain(n, len(e.Payload)) {
		return "", errs.Errorf(op, errs.Quota, "there is no room for another retained message")
	}
	e.Received = s.o.Now().UTC().Truncate(time.Millisecond)
	// A client that goes away does not take back what it published.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), publishTimeout)
	defer cancel()
	if err := s.o.Log.Publish(ctx, e); err != nil {
		if ctx.Err() != nil {
			return "", errs.E(op, errs.Unavailable, err)
		}
		return "", err
	}
	return e.ID().String(), nil
}

// parameters reads what the query and the headers say of a message.
// Source: AWS IoT data plane API, Publish.
func (s *Server) parameters(r *http.Request, e *event.Event) error {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return errors.New("the query is not URL encoded")
	}
	switch v := q.Get("qos"); v {
	case "", "0":
	case "1":
		e.QoS = 1
	default:
		return fmt.Errorf("qos is %q, must be 0 or 1", v)
	}
	switch v := q.Get("retain"); v {
	case "", "false":
	case "true":
		e.Retain = true
	default:
		return fmt.Errorf("retain is %q, must be true or false", v)
	}
	p := &event.Properties{ContentType: q.Get("contentType"), ResponseTopic: q.Get("responseTopic")}
	if len(p.ContentType) > 1024 || !utf8.ValidString(p.ContentType) {
		return errors.New("contentType is longer than 1024 bytes or not UTF-8")
	}
	if p.ResponseTopic != "" {
		if _, err := topic.ParseName(p.ResponseTopic, s.o.Limits.Topic()); err != nil {
			return fmt.Errorf("responseTopic: %w", err)
		}
	}
	if v := q.Get("messageExpiry"); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return fmt.Errorf("messageExpiry is %q, must be a number of seconds", v)
		}
		p.MessageExpiry = uint32(min(n, uint64(s.o.Limits.MessageExpiryMax/time.Second)))
	}
	switch v := r.Header.Get("X-Amz-Mqtt5-Payload-Format-Indicator"); v {
	case "", "UNSPECIFIED_BYTES":
	case "UTF8_DATA":
		p.PayloadUTF8 = true
	default:
		return fmt.Errorf("payload format indicator is %q, must be UNSPECIFIED_BYTES or UTF8_DATA", v)
	}
	if v := r.Header.Get("X-Amz-Mqtt5-Correlation-Data"); v != "" {
		if p.CorrelationData, err = base64.StdEncoding.DecodeString(v); err != nil || len(p.CorrelationData) > 1024 {
			return errors.New("correlation data is not base64 or longer than 1024 bytes")
		}
	}
	if v := r.Header.Get("X-Amz-Mqtt5-User-Properties"); v != "" {
		if p.User, err = userProperties(v); err != nil {
			return fmt.Errorf("user properties: %w", err)
		}
	}
	if p.ContentType != "" || p.ResponseTopic != "" || p.MessageExpiry != 0 || p.PayloadUTF8 || len(p.CorrelationData) > 0 || len(p.User) > 0 {
		e.Props = p
	}
	return nil
}

// userProperties decodes base64 of a JSON array of objects with one member
// each, in their order.
func userProperties(v string) ([]event.UserProperty, error) {
	b, err := base64.StdEncoding.DecodeString(v)
	if err != nil {
		return nil, errors.New("not base64")
	}
	var list []map[string]string
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, errors.New("not a JSON array of objects with a text each")
	}
	var out []event.UserProperty
	for _, o := range list {
		if len(o) != 1 {
			return nil, errors.New("each object must have one member")
		}
		for k, v := range o {
			if strings.ContainsRune(k, 0) || strings.ContainsRune(v, 0) {
				return nil, errors.New("a character is not allowed")
			}
			out = append(out, event.UserProperty{Key: k, Value: v})
		}
	}
	return out, nil
}

// fail answers an error as AWS does.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, kind, text := http.StatusInternalServerError, "InternalFailureException", "Internal failure"
	switch errs.KindOf(err) {
	case errs.Invalid:
		status, kind, text = http.StatusBadRequest, "InvalidRequestException", errs.Text(err)
	case errs.Unauthorized, errs.Forbidden:
		status, kind, text = http.StatusForbidden, "ForbiddenException", errs.Text(err)
	case errs.TooLarge:
		status, kind, text = http.StatusRequestEntityTooLarge, "RequestEntityTooLargeException", errs.Text(err)
	case errs.Quota:
		status, kind, text = http.StatusTooManyRequests, "ThrottlingException", errs.Text(err)
	case errs.Unavailable, errs.Timeout:
		status, kind, text = http.StatusServiceUnavailable, "ServiceUnavailableException", "Service unavailable"
	}
	id := traceID()
	if status >= 500 {
		s.o.Logger.Error("publish failed", "error", err, "traceId", id)
	} else {
		s.o.Logger.Debug("publish refused", "error", err, "remote", r.RemoteAddr, "traceId", id)
	}
	if status == http.StatusRequestEntityTooLarge || status == http.StatusForbidden {
		w.Header().Set("Connection", "close")
	}
	s.answer(w, status, kind, text, id)
}

func (s *Server) answer(w http.ResponseWriter, status int, kind, message, id string) {
	s.requests.WithLabelValues(strconv.Itoa(status)).Inc()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Amzn-RequestId", id)
	if kind != "" {
		h.Set("X-Amzn-ErrorType", kind)
	}
	b, err := json.Marshal(struct {
		Message string `json:"message"`
		TraceID string `json:"traceId"`
	}{message, id})
	if err != nil {
		b = []byte("{}")
	}
	w.WriteHeader(status)
	w.Write(b)
}

// traceID returns a random id, for answers that have no message.
func traceID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&15|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
