package https

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/weir-iot/weir/ingest/auth"
)

// tlsListener hides from net/http that its connections are TLS: it would close
// those of an ALPN name it does not know.
type tlsListener struct {
	net.Listener
	config *tls.Config
	s      *Server
	mux    bool
}

// tlsConn counts as unauthenticated until a request on it has said who it is.
type tlsConn struct {
	net.Conn // of type *tls.Conn
	s        *Server
	addr     netip.Addr
	mux      bool
	id       string
	left     sync.Once
	begun    bool // something has been read
}

func (l *tlsListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		remote, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		if l.s.guard.Enter(remote.Addr()) != "" {
			c.Close()
			continue
		}
		return &tlsConn{Conn: tls.Server(c, l.config), s: l.s, addr: remote.Addr(), mux: l.mux, id: traceID()}, nil
	}
}

var errMQTT = errors.New("MQTT without the ALPN name it needs on this port")

// Read refuses MQTT: net/http would answer it as a bad request.
func (c *tlsConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.begun || n == 0 {
		return n, err
	}
	c.begun = true
	if p[0] == 0x10 { // CONNECT
		c.s.o.Logger.Debug("connection refused", "reason", errMQTT.Error(), "remote", c.RemoteAddr().String())
		c.leave(true)
		c.Conn.Close()
		return 0, errMQTT
	}
	return n, err
}

func (c *tlsConn) leave(failed bool) {
	c.left.Do(func() { c.s.guard.Leave(c.addr, failed) })
}

func (c *tlsConn) Close() error {
	c.leave(false)
	return c.Conn.Close()
}

// Known tells the guard how the log-in of a request's connection went, for the
// handlers of Options.Service.
func Known(r *http.Request, failed bool) { known(r, failed) }

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

// connection returns what is known of r's connection.
func connection(r *http.Request) *auth.Connection {
	c := &auth.Connection{Listener: auth.HTTPS, TLS: TLSState(r), HTTP: &auth.Request{Request: r}}
	if c.TLS == nil {
		c.Listener = auth.HTTP
	}
	c.Remote, _ = netip.ParseAddrPort(r.RemoteAddr)
	c.Remote = netip.AddrPortFrom(c.Remote.Addr().Unmap(), c.Remote.Port())
	if tc, ok := r.Context().Value(connKey{}).(*tlsConn); ok {
		c.Mux, c.ID = tc.mux, tc.id
	}
	return c
}
