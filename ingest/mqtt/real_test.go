package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
)

// openLog opens the real log and its bucket of retained messages in dir.
func openLog(t *testing.T, dir string, d eventlog.Durability) (Log, Bucket, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l, err := eventlog.Open(ctx, eventlog.Options{Dir: dir, Durability: d})
	if err != nil {
		t.Fatal(err)
	}
	b, err := kv.Open(ctx, l, kv.Config{Name: "retained"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			wg.Wait()
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return OnLog(l), b, stop
}

func TestOnTheRealLog(t *testing.T) {
	dir := t.TempDir()
	for round := range 2 {
		log, bucket, stop := openLog(t, dir, eventlog.Disk)
		r := start(t, func(o *Options) { o.Log, o.Retained = log, bucket })
		sub, pub := r.connect(5, "sub"), r.connect(4, "pub")
		sub.subscribe("a/#", "kept")
		if round == 1 {
			if d := sub.delivery(); d.String() != "kept=0 qos 1 retain true" {
				t.Error(d)
			} else {
				sub.ack(d.pid)
			}
		}
		var b []byte
		for i := 1; i <= 500; i++ {
			b = append(b, pub.publishPacket(fmt.Sprint("a/", i%7), 1, uint16(i), fmt.Sprint(i))...)
		}
		var wg sync.WaitGroup
		wg.Go(func() { pub.send(b) })
		for i := 1; i <= 500; i++ {
			if pid, _ := pub.puback(); pid != uint16(i) {
				t.Fatal("PUBACK", pid, "want", i)
			}
		}
		wg.Wait()
		for i := 1; i <= 500; i++ {
			d := sub.delivery()
			if d.payload != fmt.Sprint(i) {
				t.Fatal(d, "want", i)
			}
			sub.ack(d.pid)
		}
		pub.retain("kept", fmt.Sprint(round), 600)
		pub.puback()
		if d := sub.delivery(); d.payload != fmt.Sprint(round) || d.retain {
			t.Error(d)
		}
		r.stop()
		stop()
	}
}

func TestTLSAndWebSocket(t *testing.T) {
	ca, err := auth.OpenCA(t.TempDir(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, k, err := ca.IssueClient("device")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(c, k)
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, func(o *Options) {
		o.Authenticator, o.TLS = &auth.Own{CA: ca}, "127.0.0.1:0"
		o.TLSConfig = ca.TLSConfig(auth.TLSOptions{Protocols: Protocols})
	})
	dial := func(cfg *tls.Config) (*peer, error) {
		cfg.RootCAs = ca.Pool()
		nc, err := tls.Dial("tcp", r.s.Addr(auth.TLS).String(), cfg)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { nc.Close() })
		return &peer{t: t, nc: nc, r: bufio.NewReader(nc)}, nil
	}
	// One subscriber over TLS, one over a WebSocket, a publisher of each.
	over, err := dial(&tls.Config{ServerName: "localhost", NextProtos: []string{"x-amzn-mqtt-ca"}, Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	over.send(connectPacket(4, "tls", 2, 60, nil))
	if code, _ := over.connack(); code != 0 {
		t.Fatal(code)
	}
	web := httptest.NewServer(r.s.WebSocket(func(*http.Request) *tls.ConnectionState { return nil }))
	defer web.Close()
	addr := "ws" + web.URL[len("http"):] + "/mqtt"
	wc, _, err := websocket.Dial(t.Context(), addr, &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
	if err != nil {
		t.Fatal(err)
	}
	defer wc.CloseNow()
	wc.SetReadLimit(1 << 20)
	ws := &peer{t: t, nc: websocket.NetConn(t.Context(), wc, websocket.MessageBinary), v5: true}
	ws.r = bufio.NewReader(ws.nc)
	connect := connectPacket(5, "ws", 2, 60, nil)
	ws.send(connect[:5], connect[5:]) // frames are not packets
	if code, _ := ws.connack(); code != 0 {
		t.Fatal(code)
	}
	over.subscribe("a")
	ws.subscribe("a")
	large := string(bytes.Repeat([]byte{'x'}, 100<<10))
	over.publish("a", 1, 1, large)
	seen := 0
	for range 2 {
		h, b, err := over.read()
		if err != nil {
			t.Fatal(err)
		}
		if h>>4 == packets.Publish && over.parse(h, b).payload == large {
			seen++
		}
	}
	if d := ws.delivery(); seen != 1 || d.payload != large {
		t.Error(seen, len(d.payload))
	}
	if e := r.log.events(0)[0]; len(e.Principal) != 64 {
		t.Errorf("principal %q", e.Principal)
	}
	ws.publish("b", 2, 1, "x")
	ws.disconnected(codeQoSNone)

	if _, _, err := websocket.Dial(t.Context(), addr, nil); err == nil {
		t.Error("a WebSocket without the subprotocol")
	}
	foreign := &websocket.DialOptions{Subprotocols: []string{"mqtt"}, HTTPHeader: http.Header{"Origin": {"https://elsewhere.example"}}}
	if _, _, err := websocket.Dial(t.Context(), addr, foreign); err == nil {
		t.Error("a WebSocket of a page from elsewhere")
	}
	// A client that takes its leave is answered with a close frame, and may send
	// its own.
	wc, _, err = websocket.Dial(t.Context(), addr, &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
	if err != nil {
		t.Fatal(err)
	}
	leaving := &peer{t: t, nc: websocket.NetConn(t.Context(), wc, websocket.MessageBinary), v5: true}
	leaving.r = bufio.NewReader(leaving.nc)
	leaving.send(connectPacket(5, "leaving", 2, 60, nil))
	leaving.connack()
	leaving.send([]byte{packets.Disconnect << 4, 0})
	if _, _, err := wc.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Error("no close frame:", err)
	}
	for name, cfg := range map[string]*tls.Config{
		"no name":        {InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}},
		"no certificate": {ServerName: "localhost"},
	} {
		p, err := dial(cfg)
		if err != nil {
			continue
		}
		p.nc.Write(connectPacket(4, "x", 2, 60, nil))
		if h, b, err := p.read(); err == nil && b[1] == 0 {
			t.Errorf("%s: %x % x", name, h, b)
		}
	}
	// A stalled handshake holds nobody up, and is cut with the server.
	nc, err := net.Dial("tcp", r.s.Addr(auth.TLS).String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.Write([]byte{0x16, 3, 1})
	over.ping()
}
