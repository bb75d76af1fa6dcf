package control

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
)

// Limits of a request.
const (
	maxBody    = 1 << 20 // a rule document may have 256 KiB, its YAML somewhat more
	maxHeader  = 16 << 10
	maxTails   = 32 // at a time
	maxLetters = 1000
)

// Options are what the API serves and to whom.
type Options struct {
	Token string   // bearer token; required
	Hosts []string // Host headers accepted beside loopback names

	Rules  Rules
	Status StatusReader
	Tailer Tailer
	Dead   DeadLetters

	Destinations Destinations
	Trials       Trials
	Explainer    Explainer
	Shadows      Shadows

	AWS interface { // nil: not served
		http.Handler
		// Claims reports whether a request is for it, whatever its path.
		Claims(*http.Request) bool
	}
	Registry Registry
	Clients  Clients
	Authz    Authz // nil: nothing is explained

	// StatusOnly: this process does not run the control API. It tells its status
	// and refuses everything else; only Status, Health and Metrics are needed.
	StatusOnly bool

	// Functions is served below /weir/v1/functions, with the token; Lambda at the
	// paths of LambdaRoots, and checks by itself who asks. nil: not served.
	Functions   http.Handler
	Lambda      http.Handler
	LambdaRoots []string

	Health   http.Handler // without token
	Metrics  http.Handler // without token
	Profiles http.Handler // nil: not served
	Logger   *slog.Logger
}

// Server is the API on one listener.
type Server struct {
	o     Options
	http  *http.Server
	tails atomic.Int64
	end   context.CancelFunc // ends the tails
}

// New checks o. It listens nowhere; see Run.
func New(o Options) (*Server, error) {
	if len(o.Token) < 16 {
		return nil, errors.New("control: the admin token is missing or shorter than 16 characters")
	}
	s := &Server{o: o}
	ctx, end := context.WithCancel(context.Background())
	s.end = end
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Run serves on l until ctx ends, then lets requests under way end for two
// seconds. It closes l.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	s.end()
	grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.http.Shutdown(grace); err != nil {
		s.http.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// route is one operation: the table below is the API.
type route struct {
	pattern string
	open    bool // without token
	serve   func(s *Server, w http.ResponseWriter, r *http.Request) error
}

const statusRoute = "GET /weir/v1/status"

var routes = []route{
	{statusRoute, false, (*Server).status},
	{"GET /weir/v1/rules", false, (*Server).listRules},
	{"PUT /weir/v1/rules", false, (*Server).applyRule},
	{"GET /weir/v1/rules/{name}", false, (*Server).getRule},
	{"DELETE /weir/v1/rules/{name}", false, (*Server).deleteRule},
	{"POST /weir/v1/rules/{name}/enable", false, (*Server).enableRule},
	{"POST /weir/v1/rules/{name}/disable", false, (*Server).disableRule},
	{"GET /weir/v1/tail", false, (*Server).tail},
	{"POST /weir/v1/authz/explain", false, (*Server).explainAuthz},
	{"GET /weir/v1/destinations", false, (*Server).listDestinations},
	{"DELETE /weir/v1/destinations", false, (*Server).deleteDestination},
	// Asked by the owners of web servers; the token says that they are.
	{"GET /confirmdestination/{token}", true, (*Server).confirmDestination},
	{"POST /weir/v1/registry/{operation}", false, (*Server).callRegistry},
	{"GET /weir/v1/clients", false, (*Server).listClients},
	{"GET /weir/v1/client", false, (*Server).getClient},
	{"DELETE /weir/v1/client", false, (*Server).disconnectClient},
	{"GET /weir/v1/dead", false, (*Server).listDead},
	{"GET /weir/v1/dead/{seq}", false, (*Server).getDead},
	{"POST /weir/v1/dead/redrive", false, (*Server).redrive},
	{"POST /weir/v1/backtest", false, (*Server).backtest},
	{"GET /weir/v1/canaries", false, (*Server).listCanaries},
	{"POST /weir/v1/canaries", false, (*Server).startCanary},
	{"GET /weir/v1/canaries/{rule}", false, (*Server).getCanary},
	{"POST /weir/v1/canaries/{rule}/promote", false, (*Server).promoteCanary},
	{"DELETE /weir/v1/canaries/{rule}", false, (*Server).dropCanary},
	{"GET /weir/v1/backfills", false, (*Server).listBackfills},
	{"POST /weir/v1/backfills", false, (*Server).startBackfill},
	{"GET /weir/v1/backfills/{id}", false, (*Server).getBackfill},
	{"POST /weir/v1/backfills/{id}/stop", false, (*Server).stopBackfill},
	{"POST /weir/v1/backfills/{id}/resume", false, (*Server).resumeBackfill},
	{"DELETE /weir/v1/backfills/{id}", false, (*Server).deleteBackfill},
	{"GET /weir/v1/explain", false, (*Server).explain},
	{"GET /weir/v1/graph", false, (*Server).graph},
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range slices.Concat(routes, shadowRoutes, provisionRoutes) {
		mux.Handle(rt.pattern, s.operation(rt))
	}
	if s.o.Functions != nil {
		for _, root := range []string{"/weir/v1/functions", "/weir/v1/functions/", "/weir/v1/function-isolation"} {
			mux.Handle(root, s.authorized(s.o.Functions))
		}
	}
	if s.o.Lambda != nil {
		for _, root := range s.o.LambdaRoots {
			mux.Handle(root, s.o.Lambda)
		}
	}
	if s.o.Health != nil {
		mux.Handle("GET /healthz", s.o.Health)
	}
	if s.o.Metrics != nil {
		mux.Handle("GET /metrics", s.o.Metrics)
	}
	if s.o.Profiles != nil {
		mux.Handle("/debug/pprof/", s.authorized(s.o.Profiles))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if s.o.AWS != nil && !strings.HasPrefix(r.URL.Path, "/weir/") && !strings.HasPrefix(r.URL.Path, "/debug/") {
			s.o.AWS.ServeHTTP(w, r)
			return
		}
		// The mux answers a known path with another method here too.
		s.fail(w, r, errs.Errorf("control", errs.NotFound, "no operation %s %s", r.Method, r.URL.Path))
	})
	if s.o.AWS == nil {
		return s.guard(mux)
	}
	return s.guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Before the mux, which cleans the path of what it redirects.
		if s.o.AWS.Claims(r) {
			s.o.AWS.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
}

// guard lets through only what was meant for this server: a Host it is known
// by, so that no web page reaches it through a name of its own (DNS rebinding),
// and no Origin but its own, so that none reaches it from elsewhere.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.o.Logger.Error("panic in the control API", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				s.fail(w, r, errs.Errorf("control", errs.Internal, "the request failed; the log says why"))
			}
		}()
		if !s.knownHost(r.Host) {
			s.fail(w, r, errs.Errorf("control", errs.Forbidden, "the host name %q is not one of this server; add it to api.hosts", hostOnly(r.Host)))
			return
		}
		if o := r.Header.Get("Origin"); o != "" {
			u, err := url.Parse(o)
			if err != nil || !strings.EqualFold(u.Host, r.Host) {
				s.fail(w, r, errs.Errorf("control", errs.Forbidden, "requests of pages from %q are not accepted", o))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func hostOnly(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return strings.Trim(hostport, "[]")
}

func (s *Server) knownHost(hostport string) bool {
	host := strings.ToLower(hostOnly(hostport))
	if host == "localhost" || slices.ContainsFunc(s.o.Hosts, func(h string) bool { return strings.EqualFold(h, host) }) {
		return true
	}
	// A page cannot make a browser send an address as Host unless it was loaded
	// from that address, and then the Origin check stands.
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func (s *Server) authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare([]byte(strings.TrimSpace(token)), []byte(s.o.Token)) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="weir"`)
			s.fail(w, r, errs.Errorf("control", errs.Unauthorized, "the admin token is missing or wrong; it is in admin.token of the data folder"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) operation(rt route) http.Handler {
	if s.o.StatusOnly && rt.pattern != statusRoute {
		rt.serve = func(*Server, http.ResponseWriter, *http.Request) error {
			return errs.Errorf("control", errs.NotImplemented, "this process does not run the role registry: ask one that does")
		}
	}
	h := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if err := rt.serve(s, w, r); err != nil {
			s.fail(w, r, err)
		}
	}))
	if !rt.open {
		h = s.authorized(h)
	}
	return h
}

var statusOf = map[errs.Kind]int{
	errs.Internal: http.StatusInternalServerError, errs.Invalid: http.StatusBadRequest, errs.NotFound: http.StatusNotFound,
	errs.Exists: http.StatusConflict, errs.Conflict: http.StatusConflict, errs.Unauthorized: http.StatusUnauthorized,
	errs.Forbidden: http.StatusForbidden, errs.TooLarge: http.StatusRequestEntityTooLarge, errs.Quota: http.StatusTooManyRequests,
	errs.Unavailable: http.StatusServiceUnavailable, errs.Timeout: http.StatusGatewayTimeout, errs.NotImplemented: http.StatusNotImplemented,
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // nobody reads the answer
	}
	kind := errs.KindOf(err)
	info := ErrorInfo{Kind: kind.String(), Message: errs.Text(err)}
	var d Detailed
	if errors.As(err, &d) {
		info.Detail = d.Detail()
	}
	if kind == errs.Internal {
		s.o.Logger.Error("control API", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	writeJSON(w, statusOf[kind], ErrorBody{info})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // the client is gone, or it is not: there is no one else to tell
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	st, err := s.o.Status.Status(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, st)
	return nil
}

func (s *Server) listRules(w http.ResponseWriter, r *http.Request) error {
	list, err := s.o.Rules.List(r.Context())
	if err != nil {
		return err
	}
	if list == nil {
		list = []Rule{}
	}
	writeJSON(w, http.StatusOK, struct {
		Rules []Rule `json:"rules"`
	}{list})
	return nil
}

func (s *Server) getRule(w http.ResponseWriter, r *http.Request) error {
	rule, err := s.o.Rules.Get(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, rule)
	return nil
}

func (s *Server) applyRule(w http.ResponseWriter, r *http.Request) error {
	const op = "control.applyRule"
	body, err := io.ReadAll(r.Body)
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return errs.Errorf(op, errs.TooLarge, "a rule document may have %d bytes", tooLarge.Limit)
		}
		return errs.E(op, errs.Invalid, err)
	}
	q, err := query(r, "file", "dry")
	if err != nil {
		return err
	}
	file := q.Get("file")
	if len(file) > 4096 {
		return errs.Errorf(op, errs.Invalid, "file: at most 4096 bytes")
	}
	dry, err := boolParam(q, "dry")
	if err != nil {
		return err
	}
	applied, err := s.o.Rules.Apply(r.Context(), file, body, dry)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct {
		Applied []Applied `json:"applied"`
	}{applied})
	return nil
}

func (s *Server) deleteRule(w http.ResponseWriter, r *http.Request) error {
	if err := s.o.Rules.Delete(r.Context(), r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) enableRule(w http.ResponseWriter, r *http.Request) error {
	return s.setEnabled(w, r, true)
}

func (s *Server) disableRule(w http.ResponseWriter, r *http.Request) error {
	return s.setEnabled(w, r, false)
}

func (s *Server) setEnabled(w http.ResponseWriter, r *http.Request, enabled bool) error {
	if err := s.o.Rules.SetEnabled(r.Context(), r.PathValue("name"), enabled); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// tail streams a line of JSON for each event. An error after the first line is
// the last line.
func (s *Server) tail(w http.ResponseWriter, r *http.Request) error {
	const op = "control.tail"
	q, err := query(r, "filter", "since", "last", "follow")
	if err != nil {
		return err
	}
	o := TailOptions{Filter: q.Get("filter"), Follow: true}
	if o.Follow, err = boolParam(q, "follow"); err != nil {
		return err
	}
	if v := q.Get("since"); v != "" {
		if o.Since, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return errs.Errorf(op, errs.Invalid, "since: expected a time as 2006-01-02T15:04:05Z, found %q", v)
		}
	}
	if v := q.Get("last"); v != "" {
		if o.Last, err = strconv.Atoi(v); err != nil || o.Last < 0 || o.Last > 100_000 {
			return errs.Errorf(op, errs.Invalid, "last: expected a number from 0 to 100000, found %q", v)
		}
	}
	if s.tails.Add(1) > maxTails {
		s.tails.Add(-1)
		return errs.Errorf(op, errs.Quota, "%d tails are open, no more are served at a time", maxTails)
	}
	defer s.tails.Add(-1)

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := newLines(w, cancel)
	err = s.o.Tailer.Tail(ctx, o,
		func(e *event.Event) error { return out.write(LineOf(e)) },
		func(p int, from, to uint64) error { return out.write(&TailLine{Gap: &Gap{p, from, to}}) })
	defer out.stop()
	if err != nil && ctx.Err() == nil {
		return out.fail(err)
	}
	return nil
}

// LineOf returns e as a line of a tail.
func LineOf(e *event.Event) *TailLine {
	return &TailLine{ID: e.ID().String(), Topic: string(e.Topic), Received: e.Received, ClientID: e.ClientID, Principal: e.Principal,
		SourceIP: e.SourceIP, QoS: e.QoS, Retain: e.Retain, Partition: e.Partition, Seq: e.Seq, Content: ContentOf(e.Payload)}
}

// ContentOf returns b as JSON can hold it.
func ContentOf(b []byte) Content {
	if utf8.Valid(b) && !slices.ContainsFunc(b, func(c byte) bool { return c < ' ' && c != '\n' && c != '\r' && c != '\t' }) {
		return Content{Payload: string(b)}
	}
	return Content{PayloadBase64: encodeBase64(b)}
}

func (s *Server) listDestinations(w http.ResponseWriter, r *http.Request) error {
	list, err := s.o.Destinations.List(r.Context())
	if err != nil {
		return err
	}
	if list == nil {
		list = []Destination{}
	}
	writeJSON(w, http.StatusOK, struct {
		Destinations []Destination `json:"destinations"`
	}{list})
	return nil
}

func (s *Server) deleteDestination(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "name")
	if err != nil {
		return err
	}
	if err := s.o.Destinations.Delete(r.Context(), q.Get("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) confirmDestination(w http.ResponseWriter, r *http.Request) error {
	d, err := s.o.Destinations.Confirm(r.Context(), r.PathValue("token"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, d)
	return nil
}

func (s *Server) listDead(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "rule", "after", "max")
	if err != nil {
		return err
	}
	after, err := uintParam(q, "after", 0, 1<<62)
	if err != nil {
		return err
	}
	max, err := uintParam(q, "max", 100, maxLetters)
	if err != nil {
		return err
	}
	list, err := s.o.Dead.List(r.Context(), q.Get("rule"), after, int(max))
	if err != nil {
		return err
	}
	if list == nil {
		list = []DeadLetter{}
	}
	writeJSON(w, http.StatusOK, struct {
		Dead []DeadLetter `json:"dead"`
	}{list})
	return nil
}

func (s *Server) getDead(w http.ResponseWriter, r *http.Request) error {
	seq, err := strconv.ParseUint(r.PathValue("seq"), 10, 62)
	if err != nil {
		return errs.Errorf("control.getDead", errs.Invalid, "%q is not the number of a dead letter", r.PathValue("seq"))
	}
	d, err := s.o.Dead.Get(r.Context(), seq)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, Letter{*d, ContentOf(d.Payload), ContentOf(d.Original)})
	return nil
}

// RedriveRequest says which letters: these, all, or those that all of the other
// fields name.
type RedriveRequest struct {
	Seqs []uint64 `json:"seqs,omitempty"` // these
	All  bool     `json:"all,omitempty"`

	Rule  string    `json:"ruleName,omitempty"`
	Error string    `json:"error,omitempty"` // a part of the reason, in any case of letters
	Since time.Time `json:"since,omitzero"`  // given up then or later
	Until time.Time `json:"until,omitzero"`  // given up then or earlier
}

// Check reports whether q says which letters, in one way.
func (q *RedriveRequest) Check() error {
	const op = "control.redrive"
	some := q.Rule != "" || q.Error != "" || !q.Since.IsZero() || !q.Until.IsZero()
	if n := boolInt(some) + boolInt(len(q.Seqs) > 0) + boolInt(q.All); n != 1 {
		return errs.Errorf(op, errs.Invalid, "say which letters: by their numbers, all of them, or by rule, error and time")
	}
	if len(q.Seqs) > maxLetters {
		return errs.Errorf(op, errs.TooLarge, "at most %d numbers at a time", maxLetters)
	}
	return nil
}

// Wants reports whether q names d.
func (q *RedriveRequest) Wants(d *DeadLetter) bool {
	return (q.Rule == "" || q.Rule == d.Rule) && strings.Contains(strings.ToLower(d.Reason), strings.ToLower(q.Error)) &&
		!d.Time.Before(q.Since) && (q.Until.IsZero() || !d.Time.After(q.Until))
}

func (s *Server) redrive(w http.ResponseWriter, r *http.Request) error {
	var q RedriveRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	if err := q.Check(); err != nil {
		return err
	}
	res, err := s.o.Dead.Redrive(r.Context(), q)
	return answer(w, res, err)
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// query returns the parameters; one that is not known is an error.
func query(r *http.Request, known ...string) (url.Values, error) {
	const op = "control"
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, errs.Errorf(op, errs.Invalid, "query: %v", err)
	}
	for name, values := range q {
		if !slices.Contains(known, name) {
			return nil, errs.Errorf(op, errs.Invalid, "unknown parameter %q; known: %s", name, strings.Join(known, ", "))
		}
		if len(values) > 1 {
			return nil, errs.Errorf(op, errs.Invalid, "parameter %q is there twice", name)
		}
	}
	return q, nil
}

func boolParam(q url.Values, name string) (bool, error) {
	switch v := q.Get(name); v {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	default:
		return false, errs.Errorf("control", errs.Invalid, "%s: expected true or false, found %q", name, v)
	}
}

func uintParam(q url.Values, name string, def, max uint64) (uint64, error) {
	v := q.Get(name)
	if v == "" {
		return def, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || n > max {
		return 0, errs.Errorf("control", errs.Invalid, "%s: expected a number from 0 to %d, found %q", name, max, v)
	}
	return n, nil
}
