package mqtt

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/weir-iot/weir/ingest/auth"
)

// WebSocket returns a handler that serves MQTT over WebSocket, subprotocol
// "mqtt". What is known of the connection comes with the request's context
// (auth.WithConnection); without that, tlsState gives its TLS state. A WebSocket
// without TLS counts as the plain listener.
func (s *Server) WebSocket(tlsState func(*http.Request) *tls.ConnectionState) http.Handler {
	up := websocket.Upgrader{
		ReadBufferSize: 1 << 10, WriteBufferPool: &writeBuffers, WriteBufferSize: 4 << 10,
		Subprotocols: subprotocols, HandshakeTimeout: s.safety.ConnectTimeout,
		// Devices send no Origin. A browser does, and brings no credentials of
		// its own accord: what authenticates is in the request or in CONNECT. A
		// client certificate would be brought, so its origin must be this host.
		CheckOrigin: nil,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		offered := false
		for _, p := range websocket.Subprotocols(r) {
			offered = offered || slices.Contains(subprotocols, p)
		}
		if !offered {
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
		known := auth.ConnectionFrom(r.Context())
		if known == nil {
			known = &auth.Connection{TLS: tlsState(r), HTTP: &auth.Request{Request: r}}
		}
		wc, err := up.Upgrade(w, r, nil)
		if err != nil {
			return // answered by the upgrader
		}
		wc.SetReadLimit(int64(s.limits.PacketBytes) + 16)
		kind := auth.WebSocket
		if known.TLS == nil {
			kind = auth.Plain
		}
		s.serve(&wsConn{Conn: wc}, entry{kind: kind, known: known})
	})
}

// subprotocols are the names of MQTT, whatever its version. The second one is
// what older clients say, the AWS IoT Device SDK v1 for JavaScript among them.
var subprotocols = []string{"mqtt", "mqttv3.1"}

var writeBuffers pool

// pool is a websocket.BufferPool: an idle connection holds no write buffer.
type pool struct{ p sync.Pool }

func (p *pool) Get() any  { return p.p.Get() }
func (p *pool) Put(v any) { p.p.Put(v) }

// wsConn makes a stream of binary frames.
type wsConn struct {
	*websocket.Conn
	r io.Reader

	mu  sync.Mutex // guards cut
	cut *time.Timer
}

var errNotBinary = errors.New("a WebSocket message that is not binary")

func (w *wsConn) Read(p []byte) (int, error) {
	for {
		if w.r == nil {
			kind, r, err := w.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
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
	if err := w.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite says that nothing follows.
func (w *wsConn) CloseWrite() error {
	return w.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
}

// SetWriteDeadline closes the connection at t, unless it is set again before.
// That of websocket.Conn may not be called while another goroutine writes.
func (w *wsConn) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut != nil {
		w.cut.Stop()
		w.cut = nil
	}
	if !t.IsZero() {
		w.cut = time.AfterFunc(time.Until(t), func() { w.UnderlyingConn().Close() })
	}
	return nil
}

// Close closes the connection.
func (w *wsConn) Close() error {
	return errors.Join(w.SetWriteDeadline(time.Time{}), w.Conn.Close())
}

func (w *wsConn) SetDeadline(t time.Time) error {
	return errors.Join(w.SetReadDeadline(t), w.SetWriteDeadline(t))
}

var _ net.Conn = (*wsConn)(nil)
