package mqtt

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
)

// rig is a gateway on a fake log.
type rig struct {
	t    testing.TB
	log  *fakeLog
	s    *Server
	out  *lockedBuffer
	stop func()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	return len(p), nil
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

type insider struct{} // lets everybody in

func (insider) Authenticate(_ context.Context, c *auth.Connection) (*auth.Principal, error) {
	return &auth.Principal{ID: "p-" + c.ClientID, ClientID: c.ClientID}, nil
}

func start(t testing.TB, change func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, log: newFakeLog(1), out: &lockedBuffer{}}
	safety := ingest.DefaultSafety()
	safety.CloseGrace, safety.ShutdownDrainTime = 200*time.Millisecond, 200*time.Millisecond
	o := Options{
		Log: r.log, Authenticator: insider{}, Authorizer: auth.AllowAll{}, Limits: ingest.AWS(), Safety: safety,
		Plain: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(r.out, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&o)
	}
	l, fake := o.Log.(*fakeLog)
	if fake {
		r.log = l
	}
	leak := goleak.IgnoreCurrent()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.s = s
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			wg.Wait()
			if tt, ok := t.(*testing.T); ok && fake { // the real log's goroutines live on
				goleak.VerifyNone(tt, leak)
			}
		})
	}
	t.Cleanup(r.stop)
	eventually(t, "running", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.running })
	return r
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
		time.Sleep(time.Millisecond)
	}
}

// peer is a client that says exactly what a test wants it to.
type peer struct {
	t  testing.TB
	nc net.Conn
	r  *bufio.Reader
	v5 bool

	early []received // deliveries that came before a PUBACK that was waited for
}

type received struct {
	h    byte
	body []byte
}

func (r *rig) dial() *peer {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.s.Addr(auth.Plain).String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	return &peer{t: r.t, nc: nc, r: bufio.NewReader(nc)}
}

// connect opens a connection with client id and clean start.
func (r *rig) connect(version byte, id string, props ...byte) *peer {
	r.t.Helper()
	p := r.dial()
	p.send(connectPacket(version, id, 2, 60, props))
	code, _ := p.connack()
	if code != 0 {
		r.t.Fatalf("CONNACK %#x", code)
	}
	p.v5 = version == 5
	return p
}

func connectPacket(version byte, id string, flags byte, keepAlive uint16, props []byte, rest ...byte) []byte {
	b := append(str("MQTT"), version, flags, byte(keepAlive>>8), byte(keepAlive))
	if version == 5 {
		b = append(appendLength(b, len(props)), props...)
	}
	b = append(b, str(id)...)
	return packet(packets.Connect<<4, append(b, rest...))
}

func str(s string) []byte { return appendString(nil, s) }

func packet(h byte, body []byte) []byte {
	return append(appendLength([]byte{h}, len(body)), body...)
}

func (p *peer) send(b ...[]byte) {
	p.t.Helper()
	p.nc.SetWriteDeadline(time.Now().Add(60 * time.Second))
	for _, x := range b {
		if _, err := p.nc.Write(x); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *peer) read() (h byte, body []byte, err error) {
	if len(p.early) > 0 {
		e := p.early[0]
		p.early = p.early[1:]
		return e.h, e.body, nil
	}
	return p.readNext()
}

func (p *peer) readNext() (h byte, body []byte, err error) {
	p.nc.SetReadDeadline(time.Now().Add(60 * time.Second))
	if h, err = p.r.ReadByte(); err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(p.r)
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, n)
	_, err = io.ReadFull(p.r, body)
	return h, body, err
}

// expect returns the body of the next packet, which has type typ. Between a PUBACK
// and a delivery, which may be of the same message, there is no order.
func (p *peer) expect(typ byte) (h byte, body []byte) {
	p.t.Helper()
	var err error
	if typ == packets.Puback {
		for h, body, err = p.readNext(); err == nil && h>>4 == packets.Publish; h, body, err = p.readNext() {
			p.early = append(p.early, received{h, body})
		}
	} else {
		h, body, err = p.read()
	}
	if err != nil {
		p.t.Fatalf("waiting for packet type %d: %v", typ, err)
	}
	if h>>4 != typ {
		p.t.Fatalf("got packet type %d (% x), want %d", h>>4, body, typ)
	}
	return h, body
}

func (p *peer) connack() (code byte, props []byte) {
	p.t.Helper()
	_, b := p.expect(packets.Connack)
	if b[0] != 0 {
		p.t.Errorf("session present is %d", b[0])
	}
	return b[1], b[2:]
}

func (p *peer) closed() {
	p.t.Helper()
	h, b, err := p.read()
	if err == nil {
		p.t.Fatalf("got packet type %d (% x), want the end", h>>4, b)
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		p.t.Fatal("the connection stays open")
	}
}

// disconnected expects DISCONNECT with code (MQTT 5) and then the end.
func (p *peer) disconnected(code byte) {
	p.t.Helper()
	if p.v5 {
		if _, b := p.expect(packets.Disconnect); b[0] != code {
			p.t.Errorf("DISCONNECT %#x, want %#x", b[0], code)
		}
	}
	p.closed()
}

func (p *peer) publishPacket(topic string, qos byte, pid uint16, payload string, props ...byte) []byte {
	b := str(topic)
	if qos > 0 {
		b = append(b, byte(pid>>8), byte(pid))
	}
	if p.v5 {
		b = append(appendLength(b, len(props)), props...)
	}
	return packet(packets.Publish<<4|qos<<1, append(b, payload...))
}

func (p *peer) publish(topic string, qos byte, pid uint16, payload string, props ...byte) {
	p.t.Helper()
	p.send(p.publishPacket(topic, qos, pid, payload, props...))
}

func (p *peer) puback() (pid uint16, code byte) {
	p.t.Helper()
	_, b := p.expect(packets.Puback)
	if len(b) > 2 {
		code = b[2]
	}
	return binary.BigEndian.Uint16(b), code
}

func (p *peer) subscribe(filters ...string) []byte {
	return p.subscribeWith(nil, 1, filters...)
}

func (p *peer) subscribeWith(props []byte, options byte, filters ...string) []byte {
	p.t.Helper()
	b := []byte{0, 7}
	if p.v5 {
		b = append(appendLength(b, len(props)), props...)
	}
	for _, f := range filters {
		b = append(append(b, str(f)...), options)
	}
	p.send(packet(packets.Subscribe<<4|2, b))
	_, body := p.expect(packets.Suback)
	if p.v5 {
		return body[3:]
	}
	return body[2:]
}

type delivery struct {
	topic, payload string
	qos            byte
	pid            uint16
	retain, dup    bool
	props          []byte
}

func (p *peer) delivery() delivery {
	p.t.Helper()
	h, b := p.expect(packets.Publish)
	return p.parse(h, b)
}

func (p *peer) parse(h byte, b []byte) delivery {
	n := int(binary.BigEndian.Uint16(b))
	d := delivery{topic: string(b[2 : 2+n]), qos: h >> 1 & 3, retain: h&1 == 1, dup: h&8 != 0}
	b = b[2+n:]
	if d.qos > 0 {
		d.pid, b = binary.BigEndian.Uint16(b), b[2:]
	}
	if p.v5 {
		n, k := varint(b)
		d.props, b = b[k:k+n], b[k+n:]
	}
	d.payload = string(b)
	return d
}

func (p *peer) ack(pid uint16) { p.send([]byte{packets.Puback << 4, 2, byte(pid >> 8), byte(pid)}) }

// ping returns when the server has handled everything sent before.
func (p *peer) ping() {
	p.t.Helper()
	p.send([]byte{packets.Pingreq << 4, 0})
	p.expect(packets.Pingresp)
}

func (d delivery) String() string {
	return fmt.Sprintf("%s=%s qos %d retain %v", d.topic, d.payload, d.qos, d.retain)
}
