// Package mqttclient is a small MQTT 3.1.1 and 5 client, QoS 0 and 1, over the
// packet codec the server uses. It stands at both ends of a message's way as a
// device would: weir pub and weir sub, the demo's fleet and the tests publish
// and subscribe with it over the real ports.
package mqttclient

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Message is one application message, sent or received.
type Message struct {
	Topic     string
	Payload   []byte
	QoS       byte
	Retain    bool
	Duplicate bool

	// MQTT 5 only; empty is absent.
	ContentType     string
	ResponseTopic   string
	CorrelationData []byte
	MessageExpiry   uint32 // seconds
	User            []packets.UserProperty
}

// Options say how to connect. Addr and ClientID are required.
type Options struct {
	Addr     string      // host:port
	TLS      *tls.Config // nil: plain text
	ClientID string
	Version  byte // 4 (MQTT 3.1.1) or 5; 0 means 5
	Resume   bool // keep the session of an earlier connection
	Username string
	Password string

	SessionExpiry  uint32        // seconds, MQTT 5
	ReceiveMaximum uint16        // MQTT 5; 0: the server's limit
	KeepAlive      time.Duration // default 60 s
	Window         int           // QoS 1 publishes in flight; default 100
	Will           *Message
	MaxPacket      int // of what is received; default 2 MiB

	// OnMessage is called for each message, in order, from one goroutine; a QoS 1
	// message is acknowledged when it returns. It must not call Publish, which
	// could wait for an answer that only this goroutine reads.
	OnMessage func(*Message)

	// Dial opens the connection; nil means TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// ReasonError is a refusal: a CONNACK, PUBACK, SUBACK or DISCONNECT with a
// reason code that says so.
type ReasonError struct {
	Packet string // "CONNECT", "PUBLISH", "SUBSCRIBE", "DISCONNECT"
	Code   byte   // reason code of MQTT 5, return code of 3.1.1
	Text   string // of the server, or of the standard
}

func (e *ReasonError) Error() string {
	if e.Packet == "DISCONNECT" {
		return fmt.Sprintf("the server closed the connection: %s (reason code 0x%02x)", e.Text, e.Code)
	}
	return fmt.Sprintf("the server refused the %s: %s (reason code 0x%02x)", e.Packet, e.Text, e.Code)
}

// ErrClosed is the error of calls on a connection that has ended.
var ErrClosed = errors.New("the connection was closed")

// Client is one connection. Its methods may be called from any goroutine.
type Client struct {
	o       Options
	conn    net.Conn
	version byte

	SessionPresent bool

	slots chan struct{} // one for each publish in flight

	wmu sync.Mutex // guards conn's write side and buf
	buf bytes.Buffer

	mu      sync.Mutex // guards what follows
	nextID  uint16
	waiting map[uint16]func(*packets.Packet, error)
	err     error // why the connection ended

	done    chan struct{}
	running sync.WaitGroup
	maxSize uint32 // what the server takes; 0: anything
}

// Connect opens a connection and waits for CONNACK.
func Connect(ctx context.Context, o Options) (*Client, error) {
	if o.Version == 0 {
		o.Version = 5
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = time.Minute
	}
	if o.Window <= 0 {
		o.Window = 100
	}
	if o.MaxPacket <= 0 {
		o.MaxPacket = 2 << 20
	}
	dial := o.Dial
	if dial == nil {
		var d net.Dialer
		dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	conn, err := dial(ctx, o.Addr)
	if err != nil {
		return nil, err
	}
	if o.TLS != nil {
		t := tls.Client(conn, o.TLS)
		if err := t.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, fmt.Errorf("TLS to %s: %w", o.Addr, err)
		}
		conn = t
	}
	c := &Client{o: o, conn: conn, version: o.Version, waiting: map[uint16]func(*packets.Packet, error){}, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	r, err := c.handshake()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("connect to %s: %w", o.Addr, context.Cause(ctx))
		}
		return nil, err
	}
	c.running.Add(2)
	go c.read(r)
	go c.keepAlive()
	return c, nil
}

func (c *Client) handshake() (*bufio.Reader, error) {
	pk := packets.Packet{
		FixedHeader:     packets.FixedHeader{Type: packets.Connect},
		ProtocolVersion: c.version,
		Connect: packets.ConnectParams{
			ProtocolName:     []byte("MQTT"),
			Clean:            !c.o.Resume,
			Keepalive:        uint16(c.o.KeepAlive / time.Second),
			ClientIdentifier: c.o.ClientID,
			Username:         []byte(c.o.Username), UsernameFlag: c.o.Username != "",
			Password: []byte(c.o.Password), PasswordFlag: c.o.Password != "",
		},
	}
	if c.version == 5 {
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = c.o.SessionExpiry, c.o.SessionExpiry > 0
		pk.Properties.ReceiveMaximum = c.o.ReceiveMaximum
	}
	if w := c.o.Will; w != nil {
		pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, w.Topic, w.Payload
		pk.Connect.WillQos, pk.Connect.WillRetain = w.QoS, w.Retain
	}
	if err := c.write(&pk); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(c.conn, 16<<10)
	ack, err := c.next(r)
	if err != nil {
		return nil, fmt.Errorf("waiting for CONNACK: %w", ended(err))
	}
	if ack.FixedHeader.Type != packets.Connack {
		return nil, fmt.Errorf("expected CONNACK, found %s", packets.PacketNames[ack.FixedHeader.Type])
	}
	if ack.ReasonCode != 0 {
		return nil, c.reason("CONNECT", ack.ReasonCode, ack)
	}
	c.SessionPresent = ack.SessionPresent
	c.maxSize = ack.Properties.MaximumPacketSize
	window := c.o.Window
	if m := int(ack.Properties.ReceiveMaximum); m > 0 && m < window {
		window = m
	}
	c.slots = make(chan struct{}, window)
	if ack.Properties.ServerKeepAliveFlag {
		c.o.KeepAlive = time.Duration(ack.Properties.ServerKeepAlive) * time.Second
	}
	return r, nil
}

// Publish sends m. At QoS 1 it returns once the server has acknowledged it, at
// QoS 0 once it has been written.
func (c *Client) Publish(ctx context.Context, m *Message) error {
	if m.QoS == 0 {
		return c.PublishAsync(ctx, m, nil)
	}
	answer := make(chan error, 1)
	if err := c.PublishAsync(ctx, m, func(err error) { answer <- err }); err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// PublishAsync sends m and returns when it has been written; it blocks while
// Window publishes are in flight. A nil error of a QoS 1 publish means that
// done will be called exactly once, from the reading goroutine: with nil for
// a PUBACK, a *ReasonError for a refusal, or why the connection ended, when the
// outcome is unknown.
func (c *Client) PublishAsync(ctx context.Context, m *Message, done func(error)) error {
	pk := packets.Packet{
		FixedHeader:     packets.FixedHeader{Type: packets.Publish, Qos: m.QoS, Retain: m.Retain},
		ProtocolVersion: c.version, TopicName: m.Topic, Payload: m.Payload,
	}
	if c.version == 5 {
		pk.Properties = packets.Properties{ContentType: m.ContentType, ResponseTopic: m.ResponseTopic,
			CorrelationData: m.CorrelationData, MessageExpiryInterval: m.MessageExpiry, User: m.User}
	}
	if m.QoS == 0 {
		if err := c.Err(); err != nil {
			return err
		}
		return c.write(&pk)
	}
	if m.QoS > 1 {
		return fmt.Errorf("QoS %d: only 0 and 1 are supported", m.QoS)
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.Err()
	}
	id, err := c.expect(func(ack *packets.Packet, err error) {
		<-c.slots
		if err == nil && ack.ReasonCode >= 0x80 {
			err = c.reason("PUBLISH", ack.ReasonCode, ack)
		}
		if done != nil {
			done(err)
		}
	})
	if err != nil {
		<-c.slots
		return err
	}
	pk.PacketID = id
	if err := c.write(&pk); err != nil {
		// The reading goroutine ends too, and tells done.
		c.fail(err)
	}
	return nil
}

// Subscribe asks for filters with QoS qos and waits for the answer. A refused
// filter is a *ReasonError.
func (c *Client) Subscribe(ctx context.Context, qos byte, filters ...string) error {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, ProtocolVersion: c.version}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f, Qos: qos})
	}
	ack, err := c.ask(ctx, &pk)
	if err != nil {
		return err
	}
	for i, code := range ack.ReasonCodes {
		if code >= 0x80 {
			e := c.reason("SUBSCRIBE", code, ack)
			if i < len(filters) {
				e.Text = fmt.Sprintf("%s: %s", filters[i], e.Text)
			}
			return e
		}
	}
	return nil
}

// Unsubscribe ends subscriptions and waits for the answer.
func (c *Client) Unsubscribe(ctx context.Context, filters ...string) error {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, ProtocolVersion: c.version}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f})
	}
	_, err := c.ask(ctx, &pk)
	return err
}

// Close sends DISCONNECT, so that no will is published, and waits until the
// connection has ended.
func (c *Client) Close() error {
	err := c.write(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ProtocolVersion: c.version})
	c.fail(ErrClosed)
	c.running.Wait()
	return err
}

// Abort drops the connection without DISCONNECT, as a device that lost its
// network would.
func (c *Client) Abort() {
	c.fail(ErrClosed)
	c.running.Wait()
}

// Done is closed when the connection has ended; Err tells why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns nil while the connection stands.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// fail ends the connection; the first reason stays.
func (c *Client) fail(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
		close(c.done)
	}
	c.mu.Unlock()
	if first {
		c.conn.Close()
	}
}

// expect reserves a packet identifier whose answer goes to f.
func (c *Client) expect(f func(*packets.Packet, error)) (uint16, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	for range 1 << 16 {
		c.nextID++
		if _, used := c.waiting[c.nextID]; c.nextID != 0 && !used {
			c.waiting[c.nextID] = f
			return c.nextID, nil
		}
	}
	return 0, errors.New("every packet identifier is in use")
}

func (c *Client) ask(ctx context.Context, pk *packets.Packet) (*packets.Packet, error) {
	type answer struct {
		pk  *packets.Packet
		err error
	}
	got := make(chan answer, 1)
	id, err := c.expect(func(pk *packets.Packet, err error) { got <- answer{pk, err} })
	if err != nil {
		return nil, err
	}
	pk.PacketID = id
	if err := c.write(pk); err != nil {
		c.fail(err)
	}
	select {
	case a := <-got:
		return a.pk, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *Client) write(pk *packets.Packet) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.buf.Reset()
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectEncode(&c.buf)
	case packets.Publish:
		err = pk.PublishEncode(&c.buf)
	case packets.Puback:
		err = pk.PubackEncode(&c.buf)
	case packets.Subscribe:
		err = pk.SubscribeEncode(&c.buf)
	case packets.Unsubscribe:
		err = pk.UnsubscribeEncode(&c.buf)
	case packets.Pingreq:
		err = pk.PingreqEncode(&c.buf)
	case packets.Disconnect:
		err = pk.DisconnectEncode(&c.buf)
	}
	if err != nil {
		return err
	}
	if c.maxSize > 0 && c.buf.Len() > int(c.maxSize) {
		return fmt.Errorf("the message takes %d bytes, the server accepts %d", c.buf.Len(), c.maxSize)
	}
	_, err = c.conn.Write(c.buf.Bytes())
	return err
}

func (c *Client) read(r *bufio.Reader) {
	defer c.running.Done()
	var err error
	for err == nil {
		var pk *packets.Packet
		if pk, err = c.next(r); err == nil {
			err = c.handle(pk)
		}
	}
	c.fail(ended(err))
	c.mu.Lock()
	waiting := c.waiting
	c.waiting, err = nil, c.err
	c.mu.Unlock()
	for _, f := range waiting {
		f(nil, err)
	}
}

func (c *Client) handle(pk *packets.Packet) error {
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if c.o.OnMessage != nil {
			c.o.OnMessage(&Message{Topic: pk.TopicName, Payload: pk.Payload, QoS: pk.FixedHeader.Qos, Retain: pk.FixedHeader.Retain,
				Duplicate: pk.FixedHeader.Dup, ContentType: pk.Properties.ContentType, ResponseTopic: pk.Properties.ResponseTopic,
				CorrelationData: pk.Properties.CorrelationData, MessageExpiry: pk.Properties.MessageExpiryInterval, User: pk.Properties.User})
		}
		if pk.FixedHeader.Qos == 1 {
			return c.write(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, ProtocolVersion: c.version, PacketID: pk.PacketID})
		}
	case packets.Puback, packets.Suback, packets.Unsuback:
		c.mu.Lock()
		f := c.waiting[pk.PacketID]
		delete(c.waiting, pk.PacketID)
		c.mu.Unlock()
		if f == nil {
			return fmt.Errorf("%s for packet %d, which is not in flight", packets.PacketNames[pk.FixedHeader.Type], pk.PacketID)
		}
		f(pk, nil)
	case packets.Disconnect:
		return c.reason("DISCONNECT", pk.ReasonCode, pk)
	case packets.Pingresp:
	default:
		return fmt.Errorf("a server does not send %s", packets.PacketNames[pk.FixedHeader.Type])
	}
	return nil
}

// next reads one packet.
func (c *Client) next(r *bufio.Reader) (*packets.Packet, error) {
	first, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	pk := &packets.Packet{ProtocolVersion: c.version}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return nil, err
	}
	n, _, err := packets.DecodeLength(r)
	if err != nil {
		return nil, err
	}
	if n > c.o.MaxPacket {
		return nil, fmt.Errorf("a packet of %d bytes: over the limit of %d", n, c.o.MaxPacket)
	}
	pk.FixedHeader.Remaining = n
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Unsuback:
		err = pk.UnsubackDecode(body)
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	}
	return pk, err
}

func (c *Client) keepAlive() {
	defer c.running.Done()
	if c.o.KeepAlive <= 0 {
		<-c.done
		return
	}
	t := time.NewTicker(c.o.KeepAlive * 3 / 4)
	defer t.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-t.C:
			if err := c.write(&packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}, ProtocolVersion: c.version}); err != nil {
				c.fail(err)
			}
		}
	}
}

// ended says what an end of file means here.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrClosed
	}
	return err
}

var connackText = map[byte]string{ // of MQTT 3.1.1
	1: "unacceptable protocol version", 2: "client identifier rejected", 3: "server unavailable",
	4: "bad user name or password", 5: "not authorized",
}

var reasonText = map[byte]string{
	0x00: "normal disconnection", 0x80: "unspecified error", 0x81: "malformed packet", 0x82: "protocol error",
	0x83: "implementation specific error", 0x84: "unsupported protocol version", 0x85: "client identifier not valid",
	0x86: "bad user name or password", 0x87: "not authorized", 0x88: "server unavailable", 0x89: "server busy",
	0x8a: "banned", 0x8b: "server shutting down", 0x8d: "keep alive timeout", 0x8e: "session taken over",
	0x8f: "topic filter invalid", 0x90: "topic name invalid", 0x91: "packet identifier in use",
	0x93: "receive maximum exceeded", 0x94: "topic alias invalid", 0x95: "packet too large", 0x96: "message rate too high",
	0x97: "quota exceeded", 0x98: "administrative action", 0x99: "payload format invalid", 0x9a: "retain not supported",
	0x9b: "QoS not supported", 0x9e: "shared subscriptions not supported", 0x9f: "connection rate exceeded",
	0xa1: "subscription identifiers not supported", 0xa2: "wildcard subscriptions not supported",
}

func (c *Client) reason(packet string, code byte, pk *packets.Packet) *ReasonError {
	e := &ReasonError{Packet: packet, Code: code, Text: reasonText[code]}
	if c.version < 5 && packet == "CONNECT" {
		e.Text = connackText[code]
	}
	if s := pk.Properties.ReasonString; s != "" {
		e.Text = s
	}
	if e.Text == "" {
		e.Text = "no reason given"
	}
	return e
}
