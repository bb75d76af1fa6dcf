package https

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
)

// Handler returns the dialect as a handler, for a listener of somebody else's.
// Without TLS it takes what the Authenticator lets in: loopback only.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Not by ServeMux, which would clean empty levels out of a topic.
		path := r.URL.EscapedPath()
		escaped, publishes := strings.CutPrefix(path, "/topics/")
		switch {
		case (path == "/mqtt" || slices.Contains(s.o.WebSockets, r.URL.Path)) && s.o.MQTT != nil:
			s.upgrade(w, r)
		case publishes && r.Method != http.MethodPost:
			w.Header().Set("Allow", http.MethodPost)
			s.answer(w, http.StatusMethodNotAllowed, "MethodNotAllowedException", "Method Not Allowed", traceID())
		case publishes:
			id, err := s.publish(r, escaped)
			if err != nil {
				s.fail(w, r, err)
				return
			}
			s.answer(w, http.StatusOK, "", "OK", id)
		case s.o.Data != nil && ofData(path):
			s.data(w, r)
		default:
			if s.o.Service != nil {
				if h := s.o.Service(r.URL.Path); h != nil {
					h.ServeHTTP(w, r)
					return
				}
			}
			s.answer(w, http.StatusNotFound, "ResourceNotFoundException", "Not Found", traceID())
		}
	})
}

// upgrade hands MQTT over WebSocket on, after a look at what the request says of
// its sender.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request) {
	c := connection(r)
	c.Listener = auth.WebSocket
	if c.TLS == nil {
		c.Listener = auth.Plain
	}
	if u, ok := s.o.Authenticator.(auth.Usher); ok {
		if err := u.Admit(r.Context(), c); err != nil {
			known(r, true)
			s.denials.Warn("WebSocket refused", "why", errs.Text(err), "remote", r.RemoteAddr)
			s.fail(w, r, err)
			return
		}
	}
	known(r, false) // it is asked again, and guarded, as an MQTT connection
	s.o.MQTT.ServeHTTP(w, r.WithContext(auth.WithConnection(r.Context(), c)))
}

// The paths of the data plane's REST API, besides /topics, and of the
// credentials provider.
// Source: AWS IoT data plane API; jobs data plane API; "Authorizing direct calls
// to AWS services".
var dataPaths = []string{"/things/", "/retainedMessage", "/api/things/shadow/", "/connections/", "/role-aliases/"}

func ofData(path string) bool {
	for _, p := range dataPaths {
		if strings.HasPrefix(path, p) {
			return true
		}
	}
	return false
}

// ofJobs reports whether path is of the jobs data plane: /things/<thing>/jobs….
func ofJobs(path string) bool {
	rest, ok := strings.CutPrefix(path, "/things/")
	if !ok {
		return false
	}
	_, rest, _ = strings.Cut(rest, "/")
	first, _, _ := strings.Cut(rest, "/")
	name, err := url.PathUnescape(first)
	return err == nil && name == "jobs"
}

// data hands a request of the REST API on with who sent it.
func (s *Server) data(w http.ResponseWriter, r *http.Request) {
	const op = "https.Data"
	c := connection(r)
	// Source: "Device communication protocols", the note on ALPN.
	if c.Mux && c.TLS != nil && c.TLS.NegotiatedProtocol == HTTPProtocol && ofJobs(r.URL.EscapedPath()) {
		s.fail(w, r, errs.Errorf(op, errs.Forbidden, "jobs are not served on this port by the ALPN name %s", HTTPProtocol))
		return
	}
	p, err := s.authenticate(r, c)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	q := r.WithContext(auth.WithPrincipal(auth.WithConnection(r.Context(), c), p))
	q.Body, q.ContentLength = io.NopCloser(bytes.NewReader(c.HTTP.Body)), int64(len(c.HTTP.Body))
	s.o.Data.ServeHTTP(w, q)
}

// authenticate says who sent r. It reads the body into c, once the request looks
// as if it may be let in: a signature covers it.
func (s *Server) authenticate(r *http.Request, c *auth.Connection) (_ *auth.Principal, err error) {
	const op = "https.Authenticate"
	defer func() {
		if err != nil && (errs.Is(err, errs.Unauthorized) || errs.Is(err, errs.Forbidden)) {
			known(r, true)
			s.denials.Warn("request refused", "why", errs.Text(err), "remote", r.RemoteAddr)
		}
		var refusal *auth.Refusal
		if errors.As(err, &refusal) {
			// The log says why, the client is told no more than that it is so.
			s.denials.Warn("request refused", "why", errs.Text(err), "remote", r.RemoteAddr)
			err = errs.Errorf(op, errs.Unauthorized, "Forbidden")
		}
	}()
	if u, ok := s.o.Authenticator.(auth.Usher); ok {
		if err := u.Admit(r.Context(), c); err != nil {
			return nil, err
		}
	}
	if r.ContentLength > int64(s.o.Limits.Payload) {
		return nil, errs.Errorf(op, errs.TooLarge, "payload is over %d bytes", s.o.Limits.Payload)
	}
	c.HTTP.Body, err = io.ReadAll(io.LimitReader(r.Body, int64(s.o.Limits.Payload)+1))
	switch {
	case err != nil:
		return nil, errs.E(op, errs.Invalid, fmt.Errorf("reading the body: %w", err))
	case len(c.HTTP.Body) > s.o.Limits.Payload:
		return nil, errs.Errorf(op, errs.TooLarge, "payload is over %d bytes", s.o.Limits.Payload)
	}
	p, err := s.o.Authenticator.Authenticate(r.Context(), c)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return nil, errs.E(op, errs.Unavailable, err)
		}
		return nil, err
	}
	known(r, false)
	return p, nil
}
