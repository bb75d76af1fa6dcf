package mqtt

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/ingest/auth"
)

// door is one way into a gateway: the plain listener, TLS with a client
// certificate, or a WebSocket over that.
type door struct {
	name string
	addr string
	open func(t testing.TB) (net.Conn, error) // ready for a CONNECT
}

// doors starts a gateway that has all of them.
func doors(t *testing.T, change func(*Options)) (*fortress, []door) {
	f := fortified(t, func(o *Options) {
		o.Authenticator = either{o.Authenticator}
		o.Authorizer = auth.AllowAll{}
		o.Plain = "127.0.0.1:0"
		change(o)
	})
	p := f.device("iot:* *")
	web := httptest.NewUnstartedServer(f.s.WebSocket(func(r *http.Request) *tls.ConnectionState { return r.TLS }))
	web.TLS = f.ca.TLSConfig(auth.TLSOptions{Protocols: []string{"http/1.1"}})
	web.StartTLS()
	t.Cleanup(web.Close)
	return f, []door{
		{"plain", f.s.Addr(auth.Plain).String(), func(t testing.TB) (net.Conn, error) {
			return net.Dial("tcp", f.s.Addr(auth.Plain).String())
		}},
		{"TLS", f.s.Addr(auth.TLS).String(), func(t testing.TB) (net.Conn, error) {
			return tls.Dial("tcp", f.s.Addr(auth.TLS).String(), f.tls(p))
		}},
		{"WSS", web.Listener.Addr().String(), func(t testing.TB) (net.Conn, error) {
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: f.tls(p)}}
			wc, _, err := websocket.Dial(context.Background(), "wss://"+web.Listener.Addr().String()+"/mqtt",
				&websocket.DialOptions{Subprotocols: []string{"mqtt"}, HTTPClient: client})
			if err != nil {
				return nil, err
			}
			wc.SetReadLimit(1 << 20)
			return websocket.NetConn(context.Background(), wc, websocket.MessageBinary), nil
		}},
	}
}

// either knows who comes by the plain listener by its client id.
type either struct{ auth.Authenticator }

func (e either) Authenticate(ctx context.Context, c *auth.Connection) (*auth.Principal, error) {
	if c.Listener == auth.Plain {
		return insider{}.Authenticate(ctx, c)
	}
	return e.Authenticator.Authenticate(ctx, c)
}

func (d door) peer(t testing.TB) *peer {
	t.Helper()
	nc, err := d.open(t)
	if err != nil {
		t.Fatal(d.name, err)
	}
	t.Cleanup(func() { nc.Close() })
	return &peer{t: t, nc: nc, r: bufio.NewReader(nc)}
}

func (d door) connect(t testing.TB, v byte, id string, props ...byte) *peer {
	t.Helper()
	p := d.peer(t)
	p.v5 = v == 5
	p.send(connectPacket(v, id, 2, 60, props))
	if code, _ := p.connack(); code != 0 {
		t.Fatalf("%s: CONNACK %#x", d.name, code)
	}
	return p
}

// cutIn waits until the server has ended the connection, and returns how long
// that took.
func cutIn(t testing.TB, nc net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	nc.SetReadDeadline(began.Add(time.Minute))
	_, err := io.Copy(io.Discard, nc)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Error("not cut within a minute")
	}
	return time.Since(began)
}

// A hundred connections claim 256 MiB with five bytes: each is cut at once, for
// no more memory than it had.
func TestHostileHeaders(t *testing.T) {
	f, all := doors(t, func(*Options) {})
	for _, d := range all {
		other := d.connect(t, 5, "other-"+d.name)
		var peers []*peer
		for range 100 {
			peers = append(peers, d.peer(t))
		}
		before := heap()
		for i, p := range peers {
			claim := []byte{packets.Connect << 4, 0xff, 0xff, 0xff, 0x7f}
			if i%2 == 1 { // of a packet that may be as large as a CONNECT is allowed to be
				claim = []byte{packets.Connect << 4, 0x80, 0x80, 0x0c, 0}
			}
			p.nc.Write(claim)
		}
		for i := 0; i < len(peers); i += 2 {
			cutIn(t, peers[i].nc)
		}
		eventually(t, "all seen", func() bool { f.s.mu.Lock(); defer f.s.mu.Unlock(); return len(f.s.waiting) <= 50 })
		if after := heap(); after > before+10<<20 {
			t.Errorf("%s: %d bytes more", d.name, after-before)
		}
		other.ping()
		// The same claim of a client that has logged in.
		for _, v := range versions {
			p := d.connect(t, v, fmt.Sprint("claims-", v, d.name))
			before := heap()
			p.nc.Write([]byte{packets.Publish << 4, 0xff, 0xff, 0xff, 0x7f})
			p.disconnected(codePacketTooLarge)
			if after := heap(); after > before+10<<20 {
				t.Errorf("%s: %d bytes more", d.name, after-before)
			}
		}
		for _, p := range peers {
			p.nc.Close()
		}
		other.ping()
	}
}

// Who does not say CONNECT, says it a byte at a time, or stalls in the TLS
// handshake, is cut when its time is up; meanwhile others come in and are served.
func TestHostileSlowness(t *testing.T) {
	const limit = 4 * time.Second
	_, all := doors(t, func(o *Options) { o.Safety.ConnectTimeout = limit })
	for _, d := range all {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			slowness(t, d, limit)
		})
	}
}

func slowness(t *testing.T, d door, limit time.Duration) {
	other := d.connect(t, 4, "other-"+d.name)
	var cuts sync.WaitGroup
	late := func(what string, nc net.Conn) {
		cuts.Go(func() {
			if took := cutIn(t, nc); took > 5*limit { // the machine may be busy
				t.Errorf("%s is cut after %v", what, took)
			}
		})
	}
	for range 20 {
		late("a silent connection", d.peer(t).nc)
	}
	drip := d.peer(t)
	late("a byte at a time", drip.nc)
	cuts.Go(func() {
		for _, b := range connectPacket(4, strings.Repeat("d", 100), 2, 60, nil) {
			if _, err := drip.nc.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(limit / 20)
		}
		t.Error("a CONNECT came in whole")
	})
	if d.name == "TLS" { // the WebSocket's belongs to the HTTPS server
		for _, begun := range []string{"", "\x16\x03\x01", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"} {
			nc, err := net.Dial("tcp", d.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			nc.Write([]byte(begun))
			late("a stalled handshake", nc)
		}
	}
	for i := range 5 {
		d.connect(t, 5, fmt.Sprint("in-", d.name, i)).ping()
	}
	other.ping()
	cuts.Wait()
	other.ping()
}

// Packets that are against the protocol, before and after CONNECT: the answer has
// its code, the connection ends, nobody else is affected.
func TestHostilePackets(t *testing.T) {
	slashes := strings.Repeat("/", 65_400)
	user := append([]byte{packets.PropUser}, append(str("a"), str("b")...)...)
	twice := func(prop ...byte) []byte { return append(append([]byte{}, prop...), prop...) }
	withProps := func(h byte, head, props, tail []byte) []byte {
		b := append(appendLength(append([]byte{}, head...), len(props)), props...)
		return packet(h, append(b, tail...))
	}
	connects := []struct {
		name string
		b    []byte
	}{
		{"session expiry twice", connectPacket(5, "x", 2, 60, twice(packets.PropSessionExpiryInterval, 0, 0, 0, 9))},
		{"receive maximum twice", connectPacket(5, "x", 2, 60, twice(packets.PropReceiveMaximum, 0, 9))},
		{"maximum packet size twice", connectPacket(5, "x", 2, 60, twice(packets.PropMaximumPacketSize, 0, 0, 9, 9))},
		{"a will to 65,400 slashes", connectPacket(5, "x", 2|4, 60, nil, append(append([]byte{0}, str(slashes)...), str("w")...)...)},
		{"a client id of 65,400 slashes", connectPacket(5, slashes, 2, 60, nil)},
		{"a will's delay twice", connectPacket(5, "x", 2|4, 60, nil, append(append(appendLength(nil, 10), twice(packets.PropWillDelayInterval, 0, 0, 0, 9)...), append(str("w"), str("w")...)...)...)},
		{"a PUBLISH", packet(packets.Publish<<4, append(str("a"), 0))},
		{"five bytes of length", []byte{packets.Connect << 4, 0xff, 0xff, 0xff, 0xff, 1}},
	}
	after := []struct {
		name string
		code byte
		b    []byte
	}{
		{"65,400 slashes published", codeTopicInvalid, packet(packets.Publish<<4, append(str(slashes), 0))},
		{"message expiry twice", codeProtocol, withProps(packets.Publish<<4, str("a"), twice(packets.PropMessageExpiryInterval, 0, 0, 0, 9), nil)},
		{"topic alias twice", codeProtocol, withProps(packets.Publish<<4, str("a"), twice(packets.PropTopicAlias, 0, 1), nil)},
		{"content type twice", codeProtocol, withProps(packets.Publish<<4, str("a"), twice(append([]byte{packets.PropContentType}, str("x")...)...), nil)},
		{"subscription identifier twice", codeProtocol, withProps(packets.Subscribe<<4|2, []byte{0, 1}, twice(packets.PropSubscriptionIdentifier, 1), append(str("a"), 1))},
		{"session expiry twice", codeProtocol, withProps(packets.Disconnect<<4, []byte{0}, twice(packets.PropSessionExpiryInterval, 0, 0, 0, 9), nil)},
		{"a reason twice", codeProtocol, withProps(packets.Puback<<4, []byte{0, 1, 0}, twice(append([]byte{packets.PropReasonString}, str("x")...)...), nil)},
		{"five bytes of length", codeMalformed, []byte{packets.Publish << 4, 0xff, 0xff, 0xff, 0xff, 1}},
	}
	r, all := doors(t, func(*Options) {})
	for _, d := range all {
		other := d.connect(t, 5, "other-"+d.name)
		other.subscribe("fine")
		for _, c := range connects {
			p := d.peer(t)
			p.v5 = true
			p.nc.Write(c.b)
			if h, b, err := p.read(); err == nil && (h>>4 != packets.Connack || b[1] < codeUnspecified) {
				t.Errorf("%s: %s: % x % x", d.name, c.name, h, b)
			}
			cutIn(t, p.nc)
		}
		for _, c := range after {
			p := d.connect(t, 5, "hostile-"+d.name)
			p.nc.Write(c.b)
			p.disconnected(c.code)
			r.gone("hostile-" + d.name)
		}
		// Where there is an answer for one filter the connection stays.
		p := d.connect(t, 5, "hostile-"+d.name)
		if codes := p.subscribe(slashes, "fine"); codes[0] != codeFilterInvalid || codes[1] != 1 {
			t.Errorf("%s: SUBACK % x", d.name, codes)
		}
		// A user property may be there twice.
		p.nc.Write(withProps(packets.Publish<<4|2, append(str("fine"), 0, 7), twice(user...), []byte("x")))
		if d := other.delivery(); d.payload != "x" {
			t.Error(d)
		}
		other.ping()
	}
}
