package mqtt

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/weir-iot/weir/ingest/auth"
)

// WebSocket returns a handler that serves MQTT over WebSocket, subprotocol
// "mqtt". tlsState gives the TLS state of a request's connection; a WebSocket
// without TLS counts as the plain listener.
func (s *Server) WebSocket(tlsState func(*http.Request) *tls.ConnectionState) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !offers(r.Header, "mqtt") {
			http.Error(w, "the WebSocket subprotocol must be mqtt", http.StatusBadRequest)
			return
		}
		// Before the upgrade, so that Run waits for this goroutine.
		s.mu.Lock()
		if !s.running {
			s.mu.Unlock()
			http.Error(w, "not serving", http.StatusServiceUnavailable)
			return
		}
		s.wg.Add(1)
		s.mu.Unlock()
		defer s.wg.Done()
		state := tlsState(r)
		// Devices send no Origin. A browser does, and brings no credentials of its
		// own accord: what authenticates is in the request or in CONNECT. A client
		// certificate would be brought, so its origin must be this host, as it must
		// by default.
		taken := &taker{ResponseWriter: w}
		wc, err := websocket.Accept(taken, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt"}})
		if err != nil {
			return // answered by Accept
		}
		wc.SetReadLimit(int64(s.limits.PacketBytes) + 16)
		kind := auth.WebSocket
		if state == nil {
			kind = auth.Plain
		}
		s.serve(&wsConn{Conn: taken.conn, ws: wc}, kind, state)
	})
}

// offers reports whether a request offers a subprotocol.
func offers(h http.Header, name string) bool {
	return slices.ContainsFunc(h.Values("Sec-WebSocket-Protocol"), func(line string) bool {
		return slices.ContainsFunc(strings.Split(line, ","), func(p string) bool { return strings.TrimSpace(p) == name })
	})
}

// taker remembers the connection that the upgrade takes from the HTTP server:
// its deadlines are set there.
type taker struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (t *taker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(t.ResponseWriter).Hijack()
	t.conn = conn
	return conn, rw, err
}

// wsConn makes a stream of binary frames. Deadlines and addresses are those of
// the connection below; reading and writing never set any themselves.
type wsConn struct {
	net.Conn
	ws *websocket.Conn
	r  io.Reader
}

var errNotBinary = errors.New("a WebSocket message that is not binary")

func (w *wsConn) Read(p []byte) (int, error) {
	for {
		if w.r == nil {
			kind, r, err := w.ws.Reader(context.Background())
			if err != nil {
				return 0, err
			}
			if kind != websocket.MessageBinary {
				return 0, errNotBinary
			}
			w.r = r
		}
		n, err := w.r.Read(p)
		if errors.Is(err, io.EOF) {
			w.r, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

// Write sends p as one message. It is called by one goroutine at a time.
func (w *wsConn) Write(p []byte) (int, error) {
	if err := w.ws.Write(context.Background(), websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close closes the connection without a word.
func (w *wsConn) Close() error { return w.ws.CloseNow() }

// finish says that nothing follows, waits until the client has said so too, and
// closes the connection, at the latest at the deadline.
func (w *wsConn) finish(deadline time.Time) {
	w.Conn.SetReadDeadline(time.Time{})
	cut := time.AfterFunc(time.Until(deadline), func() { w.Conn.Close() })
	defer cut.Stop()
	w.ws.Close(websocket.StatusNormalClosure, "")
}

var _ net.Conn = (*wsConn)(nil)
