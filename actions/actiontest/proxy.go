package actiontest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// Proxy stands before a real server and plays its faults.
type Proxy struct {
	URL string // without a slash at the end

	srv  *httptest.Server
	next http.Handler

	mu      sync.Mutex
	fault   Fault         // guarded by mu
	release chan struct{} // closed when a Hang ends; guarded by mu
}

// NewProxy returns a Proxy for the server at target; it ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	next := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = u.Scheme, u.Host }, // Host stays: it is signed
		Transport: transport,
	}
	p := NewServer(t, next)
	t.Cleanup(transport.CloseIdleConnections)
	return p
}

// NewServer returns a Proxy for a handler; it ends with the test.
func NewServer(t testing.TB, next http.Handler) *Proxy {
	p := &Proxy{next: next, release: make(chan struct{})}
	p.srv = httptest.NewServer(p)
	p.URL = p.srv.URL
	t.Cleanup(func() {
		p.Set(None)
		p.srv.CloseClientConnections()
		p.srv.Close()
	})
	return p
}

// Set sets the fault. Gone cannot be taken back.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	p.fault = f
	close(p.release)
	p.release = make(chan struct{})
	p.mu.Unlock()
	if f == Gone {
		p.srv.CloseClientConnections()
		p.srv.Close()
	}
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	fault, release := p.fault, p.release
	p.mu.Unlock()
	if fault == None {
		p.next.ServeHTTP(w, r)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	switch fault {
	case Hang:
		select {
		case <-release:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case Busy:
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
	case Refuse:
		w.WriteHeader(http.StatusForbidden)
	default:
		panic(http.ErrAbortHandler)
	}
}
