package mqtt

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

var (
	errEnded      = faultf(codeSuccess, "ended", "the connection has ended")
	errLost       = faultf(codeSuccess, "lost", "the connection was lost")
	errDisconnect = faultf(codeSuccess, "disconnect", "the client disconnected")
	errWithWill   = faultf(codeWithWill, "disconnect_with_will", "the client disconnected and wants its will published")
)

// client is one connection, from its acceptance to its end.
type client struct {
	s        *Server
	conn     net.Conn // where packets are read from and written to: the outbox, or TLS or a WebSocket over it
	out      *outbox
	listener auth.Listener
	remote   netip.AddrPort
	ip       string
	sess     *session
	ctx      context.Context // ends with the connection
	cancel   context.CancelFunc
	done     chan struct{} // closed when nothing of the client is left in the server
	why      atomic.Pointer[fault]

	// Set by CONNECT, constant from then on.
	v5         bool
	id         string
	key        string  // names connection and session: the client id, or what the dialect says
	dialect    Dialect // nil: AWS's
	principal  *auth.Principal
	keepAlive  time.Duration
	connected  time.Time
	maxPacket  int  // bytes the client takes; 0: any
	noReasons  bool // it wants no reason strings but in CONNACK and DISCONNECT
	will       *event.Event
	sessionID  string        // of lifecycle events
	connection int64         // version number of lifecycle events
	keeps      bool          // CONNECT asked for a session that outlives the connection
	expiry     time.Duration // of that session; the read loop changes it at a DISCONNECT
	known      bool          // it does not count any more among those that are not
	answered   bool          // a CONNACK that refuses has been written
	willDelay  time.Duration // of the will, behind the end of the connection
	kept       *storedWill   // the will as it is stored; nil: it is not

	accepted  atomic.Bool    // it is in; else it is being established
	unsettled sync.WaitGroup // of the events that tell of its end, its will among them, on their way to the log

	lastRead atomic.Int64 // unix nanoseconds
	idle     atomic.Bool  // the read loop waits for the client, not for the log
	noWill   atomic.Bool  // it is not to be published

	// Of the read loop alone.
	rd       reader
	pub      publish
	names    map[string]*name
	aliases  []*name
	payloads []byte        // room for payloads of the packets read with one read
	events   []event.Event // the same for events
	counted  [2]int        // publishes by QoS, not yet in the metrics
	rate     struct{ publishes, bytes bucket }
	delayed  bool
	calls    chan struct{} // private calls under way; nil before the first
}

// name is a topic name of the client's that has been checked.
type name struct {
	topic topic.Name
	class ingest.Class
}

// maxNames bounds the names a client's read loop remembers.
const maxNames = 32

func (c *client) version() byte {
	if c.v5 {
		return 5
	}
	return 4
}

// entry is the way a connection came in.
type entry struct {
	kind   auth.Listener
	config *tls.Config      // TLS to be begun; nil: none, or ended by somebody else
	known  *auth.Connection // what is known of it already: of a WebSocket, or of the one port; may be nil
}

// serve is a connection's life.
func (s *Server) serve(nc net.Conn, e entry) {
	kind := e.kind
	c := &client{s: s, listener: kind, done: make(chan struct{})}
	c.rate.publishes.rate, c.rate.bytes.rate = float64(s.rates.Publishes), float64(s.rates.Bytes)
	c.remote, _ = netip.ParseAddrPort(nc.RemoteAddr().String())
	c.remote = netip.AddrPortFrom(c.remote.Addr().Unmap(), c.remote.Port())
	c.ip = c.remote.Addr().String()
	if reason := s.guard.Enter(c.remote.Addr()); reason != "" {
		s.m.guarded.WithLabelValues(reason).Inc()
		nc.Close()
		return
	}
	s.mu.Lock()
	if !s.running {
		s.mu.Unlock()
		s.guard.Leave(c.remote.Addr(), false)
		nc.Close()
		return
	}
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	s.waiting[nc] = struct{}{}
	s.mu.Unlock()

	c.out = newOutbox(nc, &s.wg, s.safety.PendingBytes/2)
	c.conn = c.out
	c.sess = newSession(c, len(s.routed))
	c.out.drained = c.sess.hasDrained
	c.rd = reader{c: c.out, buf: make([]byte, readBufferMin), now: s.now, idle: &c.idle, onRead: func(now time.Time) { c.lastRead.Store(now.UnixNano()) }}
	nc.SetDeadline(time.Now().Add(s.safety.ConnectTimeout))

	f, failed := c.establish(e)
	c.identified(failed)
	s.mu.Lock()
	delete(s.waiting, nc)
	s.mu.Unlock()
	if f != nil {
		s.m.connects.WithLabelValues(f.word).Inc()
		c.warn("connection refused", "reason", f.text, "listener", string(kind))
		if c.answered { // what was never a client is cut at once
			c.out.finish(s.safety.CloseGrace)
		}
		c.out.CloseAfter(s.safety.CloseGrace)
		close(c.done)
		c.over()
		return
	}
	s.m.connects.WithLabelValues("accepted").Inc()
	s.m.connections.Inc()
	nc.SetDeadline(time.Time{})
	c.accepted.Store(true)
	c.debug("connected", "listener", string(kind))
	c.tellConnected()
	if c.dialect != nil {
		c.dialect.Opened(&Link{c})
	}
	live := func() {
		c.leave(c.loop())
		c.over()
	}
	if e.config == nil {
		live()
		return
	}
	// The handshake has grown the stack of this goroutine, and most connections
	// are silent most of the time: they get a small one to be so with.
	s.wg.Go(live)
}

// over is the last of a connection's life.
func (c *client) over() {
	if p := c.principal; p != nil && p.Ended != nil {
		p.Ended()
	}
	c.cancel()
}

// identified takes the connection out of those whose client has not said who it
// is: it has, or could not.
func (c *client) identified(failed bool) {
	if !c.known {
		c.known = true
		c.s.guard.Leave(c.remote.Addr(), failed)
	}
}

// establish takes the connection up to a CONNACK that accepts it. failed tells
// that the client could not say who it is.
func (c *client) establish(e entry) (f *fault, failed bool) {
	told := auth.Connection{}
	if e.known != nil {
		told = *e.known
	}
	if e.config != nil {
		turn := &turnConn{Conn: c.out, turns: &c.s.handshakes}
		tc := tls.Server(turn, e.config)
		turn.begin()
		// Its time begins with its turn.
		c.out.SetDeadline(time.Now().Add(c.s.safety.ConnectTimeout))
		err := tc.HandshakeContext(c.ctx)
		turn.end()
		if err != nil {
			return connectFault(err, "tls"), false
		}
		st := tc.ConnectionState()
		told.TLS = &st
		c.conn, c.rd.c = tc, tc
	}
	_, body, err := c.rd.next(c.s.safety.ConnectBytes, packets.Connect)
	if err != nil {
		return connectFault(err, "connect"), false
	}
	version, f := checkConnect(body)
	c.v5 = version >= 5
	if f != nil {
		return c.refuse(f), false
	}
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect, Remaining: len(body)}}
	if err := pk.ConnectDecode(body); err != nil {
		return c.refuse(errMalformed), false
	}
	if c.v5 {
		c.maxPacket = int(min(pk.Properties.MaximumPacketSize, 1<<30))
		c.noReasons = pk.Properties.RequestProblemInfoFlag && pk.Properties.RequestProblemInfo == 0
	}
	f, failed = c.login(&pk, &told)
	if f != nil {
		return c.refuse(f), failed
	}
	return nil, false
}

// connectFault tells why a connection did not get as far as a CONNECT.
func connectFault(err error, word string) *fault {
	var f *fault
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, os.ErrDeadlineExceeded):
		return faultf(codeSuccess, "connect_timeout", "no CONNECT in time")
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return faultf(codeSuccess, "lost", "the connection was lost before a CONNECT")
	}
	return faultf(codeSuccess, word, err.Error())
}

// refuse answers a CONNECT with f's code, where the version has a way to, and
// returns f.
func (c *client) refuse(f *fault) *fault {
	code := f.code
	if !c.v5 {
		switch f.code {
		case codeVersion:
			code = 1
		case codeClientID:
			code = 2
		case codeUnavailable, codeBusy, codeQuota, codeConnectRate, codeUnspecified:
			code = 3
		case codeNotAuthorized:
			code = 5
		default:
			return f // 3.1.1 closes the connection
		}
	}
	b := []byte{packets.Connack << 4, 2, 0, code}
	if c.v5 {
		text := f.text
		if code == codeNotAuthorized {
			text = "not authorized" // whoever it is
		}
		reason := c.reason(text)
		b = append(appendLength([]byte{packets.Connack << 4}, 2+len(reason)), 0, code)
		b = append(b, reason...)
	}
	c.conn.Write(b)
	c.answered = true
	return f
}

// login judges a CONNECT whose form is good, takes over an older connection of
// the same client id, and answers.
func (c *client) login(pk *packets.Packet, conn *auth.Connection) (f *fault, failed bool) {
	s, p := c.s, &pk.Connect
	id := strings.Clone(p.ClientIdentifier)
	assigned := id == ""
	if assigned {
		if !c.v5 && !p.Clean {
			return faultf(codeClientID, "client_id", "an empty client id asks for a clean session"), false
		}
		var b [12]byte
		rand.Read(b[:])
		id = "auto-" + hex.EncodeToString(b[:])
	}
	if f := checkClientID(id, s.limits.ClientID); f != nil {
		return f, false
	}
	c.id, c.key = id, id
	if c.v5 && pk.Properties.AuthenticationMethod != "" {
		return faultf(codeBadAuthMethod, "auth_method", "extended authentication is not supported"), false
	}
	conn.Listener, conn.Remote, conn.ClientID, conn.Assigned = c.listener, c.remote, id, assigned
	conn.Username, conn.Password = string(p.Username), append([]byte(nil), p.Password...)
	if conn.ID == "" {
		conn.ID = connectionID()
	}
	conn.Persistent = c.v5 && pk.Properties.SessionExpiryInterval > 0 || !c.v5 && !p.Clean
	if p.WillFlag {
		conn.WillTopic = strings.Clone(p.WillTopic)
	}
	ctx, cancel := context.WithTimeout(c.ctx, s.safety.ConnectTimeout)
	defer cancel()
	principal, err := s.authn.Authenticate(ctx, conn)
	if err != nil {
		switch errs.KindOf(err) {
		case errs.Unauthorized, errs.Forbidden:
			return faultf(codeNotAuthorized, "not_authorized", errs.Text(err)), true
		}
		return faultf(codeUnavailable, "unavailable", errs.Text(err)), false
	}
	c.principal = principal
	if f := c.speak(principal); f != nil {
		return f, false
	}
	if !s.may(principal, auth.Connect, id) {
		return faultf(codeNotAuthorized, "not_authorized", "the principal may not connect with this client id"), true
	}
	// What is left may take a moment in a crowd, which is no reason to let fewer in.
	c.identified(false)
	if n := s.rates.Connects; n > 0 && !s.connects.try(c.key, n, s.now()) {
		return c.violation("connect_rate", codeConnectRate, "more CONNECTs of this client id than a second allows"), false
	}
	if f := c.takeWill(pk); f != nil {
		return f, false
	}
	c.keepAlive = s.limits.KeepAlive(p.Keepalive)
	c.connected = s.now()
	var sid [16]byte
	rand.Read(sid[:])
	c.sessionID = hex.EncodeToString(sid[:])
	c.sess.window = s.limits.InFlight
	if c.v5 {
		if n := int(pk.Properties.ReceiveMaximum); n > 0 {
			c.sess.window = min(c.sess.window, n)
		}
		c.sess.alias.max = min(s.limits.TopicAliases, int(pk.Properties.TopicAliasMaximum))
	}
	c.keeps = conn.Persistent
	switch {
	case s.sessions.bucket == nil:
	case c.v5:
		c.expiry = s.sessionExpiry(pk.Properties.SessionExpiryInterval)
	case !p.Clean && c.dialect != nil:
		c.expiry = s.retention // the dialect says how long its messages are worth being sent
	case !p.Clean:
		c.expiry = min(s.limits.SessionExpiry, s.retention)
	}
	c.connection = s.nextVersion()
	if f := s.install(c); f != nil {
		return f, false
	}
	present := false
	f = c.takeOver()
	if f == nil {
		f = c.lookUp()
	}
	if f == nil {
		f = c.keepWill(p.Clean)
	}
	if f == nil {
		present, f = c.openSession(p.Clean)
	}
	if f != nil {
		c.dropWill()
		s.remove(c)
		return f, false
	}
	if err := c.connack(p.Keepalive, assigned, present); err != nil {
		c.closeSession()
		c.dropWill()
		s.remove(c)
		return errLost, false
	}
	if present {
		c.join()
	}
	return nil, false
}

// connectionID returns a random UUID.
func connectionID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&15|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// sessionExpiry returns the session expiry that holds where a client asks for
// seconds: no longer than the log keeps what the session would ask it for.
func (s *Server) sessionExpiry(seconds uint32) time.Duration {
	return min(time.Duration(seconds)*time.Second, s.limits.SessionExpiryMax, s.retention).Truncate(time.Second)
}

// checkClientID refuses what would be a wildcard in a filter or in a policy,
// and control characters. The other characters are the client's own.
func checkClientID(id string, limit int) *fault {
	switch {
	case len(id) > limit:
		return faultf(codeClientID, "client_id", "client id is over the limit")
	case strings.ContainsAny(id, "+#*?"):
		return faultf(codeClientID, "client_id", "client id has a wildcard")
	}
	for _, r := range id {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\ufeff' || r >= 0x2028 && r <= 0x202e || r >= 0x200b && r <= 0x200f {
			return faultf(codeClientID, "client_id", "client id has a control character")
		}
	}
	return nil
}

// install makes c the connection of its client id. An older one is ended and
// waited for: its last messages, its will included, come before the first of
// the new one.
func (s *Server) install(c *client) *fault {
	deadline := time.NewTimer(s.safety.TakeoverTimeout)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		old := s.clients[c.key]
		switch {
		case !s.running:
			s.mu.Unlock()
			return faultf(codeShuttingDown, "shutdown", "the server is shutting down")
		case old == nil && len(s.clients) >= s.safety.MaxConnections:
			s.mu.Unlock()
			return faultf(codeBusy, "max_connections", "too many connections")
		case old == nil:
			c.lastRead.Store(s.now().UnixNano())
			s.clients[c.key] = c
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		old.end(faultf(codeTakenOver, "taken_over", "another connection has the same client id"))
		select {
		case <-old.done:
		case <-deadline.C:
			return faultf(codeBusy, "takeover", "the older connection of this client id does not end")
		case <-c.ctx.Done():
			return errEnded
		}
	}
}

func (s *Server) remove(c *client) {
	s.mu.Lock()
	if s.clients[c.key] == c {
		delete(s.clients, c.key)
	}
	s.mu.Unlock()
}

// connack accepts. With MQTT 5 it announces what holds and what is not there.
func (c *client) connack(asked uint16, assigned, present bool) error {
	flags := byte(0)
	if present {
		flags = 1
	}
	if !c.v5 {
		_, err := c.conn.Write([]byte{packets.Connack << 4, 2, flags, codeSuccess})
		return err
	}
	l := &c.s.limits
	p := make([]byte, 0, 64)
	u16 := func(id byte, v int) { p = binary.BigEndian.AppendUint16(append(p, id), uint16(v)) }
	u32 := func(id byte, v int) { p = binary.BigEndian.AppendUint32(append(p, id), uint32(v)) }
	flag := func(id byte, on bool) {
		v := byte(0)
		if on {
			v = 1
		}
		p = append(p, id, v)
	}
	u32(packets.PropSessionExpiryInterval, int(c.expiry/time.Second))
	u16(packets.PropReceiveMaximum, l.InFlight)
	p = append(p, packets.PropMaximumQos, 1)
	flag(packets.PropRetainAvailable, c.s.routes.retained.bucket != nil)
	u32(packets.PropMaximumPacketSize, l.PacketBytes)
	if assigned {
		p = appendString(append(p, packets.PropAssignedClientID), c.id)
	}
	if l.TopicAliases > 0 {
		u16(packets.PropTopicAliasMaximum, l.TopicAliases)
	}
	flag(packets.PropWildcardSubAvailable, true)
	flag(packets.PropSubIDAvailable, l.SubscriptionIDs)
	flag(packets.PropSharedSubAvailable, true)
	if d := time.Duration(asked) * time.Second; d != c.keepAlive {
		u16(packets.PropServerKeepAlive, int(c.keepAlive/time.Second))
	}
	b := appendLength([]byte{packets.Connack << 4}, 2+lengthBytes(len(p))+len(p))
	b = append(appendLength(append(b, flags, codeSuccess), len(p)), p...)
	_, err := c.conn.Write(b)
	return err
}

// takeWill checks the will of a CONNECT and keeps it.
func (c *client) takeWill(pk *packets.Packet) *fault {
	p := &pk.Connect
	if !p.WillFlag {
		return nil
	}
	if p.WillQos > 1 {
		return faultf(codeQoSNone, "qos", "the will has QoS 2")
	}
	if len(p.WillPayload) > c.s.limits.Payload {
		return faultf(codePacketTooLarge, "payload", "the will is over the payload limit")
	}
	if c.dialect != nil {
		return c.dialectWill(p)
	}
	n, err := topic.ParseName(strings.Clone(p.WillTopic), c.s.limits.Topic())
	if err != nil {
		return faultf(codeTopicInvalid, "topic", "will: "+err.Error())
	}
	if f := c.mayPublish(&name{n, ingest.Publish(n)}, p.WillRetain); f != nil {
		return f
	}
	props, f := c.properties(&p.WillProperties)
	if f != nil {
		return f
	}
	c.willDelay = time.Duration(p.WillProperties.WillDelayInterval) * time.Second
	c.will = &event.Event{
		Topic: n, Payload: append([]byte(nil), p.WillPayload...), ClientID: c.id, Principal: c.principal.ID,
		SourceIP: c.ip, QoS: p.WillQos, Retain: p.WillRetain, Props: props,
	}
	return nil
}

// mayPublish judges a publish on n, and whether it may be retained.
func (c *client) mayPublish(n *name, retain bool) *fault {
	switch n.class {
	case ingest.Private:
		c.s.m.denials.WithLabelValues("private").Inc()
		return faultf(codeNotAuthorized, "private", "private topic: its service is not there")
	case ingest.Reserved:
		c.s.m.denials.WithLabelValues("reserved").Inc()
		return faultf(codeNotAuthorized, "reserved", "reserved topic: clients may not publish on it")
	}
	if !c.s.may(c.principal, auth.Publish, string(n.topic)) {
		return faultf(codeNotAuthorized, "denied", "the principal may not publish on this topic")
	}
	if !retain {
		return nil
	}
	if n.topic[0] == '$' {
		c.s.m.denials.WithLabelValues("reserved").Inc()
		return faultf(codeNotAuthorized, "reserved", "messages on reserved topics are not retained")
	}
	if !c.s.may(c.principal, auth.RetainPublish, string(n.topic)) {
		return faultf(codeNotAuthorized, "denied", "the principal may not publish retained messages on this topic")
	}
	switch {
	case c.s.routes.retained.bucket == nil:
		return c.violation("retain", codeRetainNone, "retained messages are not available")
	case !c.s.mayRetain(n.topic):
		return c.violation("retained", codeQuota, "too many retained messages")
	}
	return nil
}

// end ends the connection for a reason of the server's. The first reason
// counts. An MQTT 5 client is told.
func (c *client) end(f *fault) {
	c.sess.mu.Lock()
	c.endLocked(f)
	c.sess.mu.Unlock()
}

// endLocked is end for callers that hold the session's lock.
func (c *client) endLocked(f *fault) {
	if !c.why.CompareAndSwap(nil, f) {
		return
	}
	if !c.sess.closed {
		if c.v5 && f.code >= codeUnspecified {
			c.sess.buffer()
			reason := c.reason(f.text)
			c.sess.buf = append(appendLength(append(c.sess.buf, packets.Disconnect<<4), 1+len(reason)), f.code)
			c.sess.buf = append(c.sess.buf, reason...)
		}
		c.sess.write()
		c.sess.close()
	}
	c.sess.room.Broadcast()
	c.cancel()
	// The read loop sits in a read or in an append; both end now.
	c.out.Conn.SetReadDeadline(time.Unix(1, 0))
}

// endLater is end for callers that hold the session's lock and go on using the
// session.
func (c *client) endLater(f *fault) {
	if c.why.Load() == nil {
		c.s.wg.Go(func() { c.end(f) })
	}
}

// leave takes what is left of the client out of the server. err is what ended
// the read loop.
func (c *client) leave(err error) {
	var f *fault
	if !errors.As(err, &f) {
		f = errLost
	}
	c.end(f)
	f = c.why.Load()
	c.s.m.closed.WithLabelValues(f.word).Inc()
	if f.code >= codeUnspecified && f.code != codeShuttingDown { // which is told once, for all
		c.warn("connection ended", "reason", f.text)
	} else {
		c.debug("connection ended", "reason", f.text)
	}
	c.countPublishes()
	c.closeSession()
	c.unsubscribeAll()
	c.publishWill(f)
	c.tellDisconnected(f)
	if c.dialect != nil {
		c.dialect.Closed(disconnectReason(f))
	}
	c.s.mu.Lock()
	c.s.departed.put(c.key, c.s.now(), disconnectReason(f))
	c.s.mu.Unlock()
	c.s.remove(c)
	c.s.m.connections.Dec()
	close(c.done)
	if tc, ok := c.conn.(*tls.Conn); ok {
		tc.CloseWrite() // close_notify
	}
	// A client that has taken its leave closes the connection too: it must not
	// find it gone while it still says so (TLS, WebSocket).
	if f == errDisconnect || f == errWithWill || c.v5 && f.code >= codeUnspecified && f.code != codeKeepAlive {
		c.out.finish(c.s.safety.CloseGrace)
	}
	c.out.CloseAfter(c.s.safety.CloseGrace)
	c.rd.buf = nil
}

func (s *Server) runContext() context.Context {
	ctx, _ := s.runState()
	return ctx
}

// runState returns a context that ends when everything else has, and whether the
// server still takes on something new.
func (s *Server) runState() (ctx context.Context, running bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx, s.running
}

// loop reads packets until the connection ends. A *fault says why, any other
// error that the connection was lost.
func (c *client) loop() error {
	s := c.sess
	c.rd.beforeRead = c.beforeRead
	for {
		h, body, err := c.rd.next(c.s.limits.PacketBytes, 0)
		if err != nil {
			return err
		}
		switch h >> 4 {
		case packets.Publish:
			err = c.onPublish(h, body)
		case packets.Puback:
			if len(body) < 2 || !c.v5 && len(body) != 2 {
				return errMalformed
			}
			if len(body) > 2 {
				if f := checkReason(body[2:], packets.Puback); f != nil {
					return f
				}
			}
			s.acknowledge(binary.BigEndian.Uint16(body))
		case packets.Subscribe:
			err = c.onSubscribe(body)
		case packets.Unsubscribe:
			err = c.onUnsubscribe(body)
		case packets.Pingreq:
			if len(body) != 0 {
				return errMalformed
			}
			s.mu.Lock()
			s.buffer()
			s.buf = append(s.buf, packets.Pingresp<<4, 0)
			s.mu.Unlock()
		case packets.Disconnect:
			return c.onDisconnect(body)
		case packets.Connect:
			return faultf(codeProtocol, "protocol", "a second CONNECT")
		default:
			return faultf(codeProtocol, "protocol", "a packet that only servers send, or of a feature that is not there")
		}
		if err != nil {
			return err
		}
		if c.s.rates.Bytes > 0 {
			if wait := c.rate.bytes.take(len(body)+2, c.s.now()); wait > 0 && !c.delay(wait) {
				return errEnded
			}
		}
	}
}

// delay lets a connection wait that sends more bytes than a second allows. It
// reports false where the connection has ended.
func (c *client) delay(wait time.Duration) bool {
	if !c.delayed {
		c.delayed = true // once a connection
		c.warn("a connection is slowed down", "reason", "more bytes than a second allows")
	}
	c.s.m.violations.WithLabelValues("byte_rate").Inc()
	c.sess.mu.Lock()
	c.sess.write()
	c.sess.mu.Unlock()
	return pause(c.ctx, wait)
}

// beforeRead writes what the packets so far have led to, and waits while a
// client that does not read has too much pending: its own packets are then not
// read either.
func (c *client) beforeRead() error {
	c.countPublishes()
	s := c.sess
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write()
	for !s.closed && (s.stopping || c.out.Pending() >= c.s.safety.PendingHard) {
		c.idle.Store(true)
		s.waiters++
		s.room.Wait()
		s.waiters--
		c.idle.Store(false)
	}
	if s.closed {
		return errEnded
	}
	// From here on it is the client's turn, however long the log took.
	if t := c.s.tick.Load(); t > c.lastRead.Load() {
		c.lastRead.Store(t)
	}
	return nil
}

func (c *client) onDisconnect(body []byte) error {
	if !c.v5 {
		if len(body) != 0 {
			return errMalformed
		}
		return errDisconnect
	}
	if f := checkReason(body, packets.Disconnect); f != nil {
		return f
	}
	if len(body) > 1 {
		pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect, Remaining: len(body)}, ProtocolVersion: 5}
		if err := pk.DisconnectDecode(body); err != nil {
			return errMalformed
		}
		if pk.Properties.SessionExpiryIntervalFlag {
			if !c.keeps && pk.Properties.SessionExpiryInterval > 0 {
				return faultf(codeProtocol, "protocol", "a session expiry in DISCONNECT where CONNECT had none")
			}
			if c.s.sessions.bucket != nil {
				c.sess.mu.Lock() // whoever writes the record reads it
				c.expiry = c.s.sessionExpiry(pk.Properties.SessionExpiryInterval)
				c.sess.mu.Unlock()
			}
		}
	}
	if len(body) > 0 && body[0] == codeWithWill {
		return errWithWill
	}
	if len(body) > 0 && body[0] != codeSuccess {
		return faultf(codeWithWill, "client_error", "the client disconnected with an error")
	}
	return errDisconnect
}

func (c *client) countPublishes() {
	for qos, n := range c.counted {
		if n > 0 {
			c.s.m.publishes[qos].Add(float64(n))
			c.counted[qos] = 0
		}
	}
}
