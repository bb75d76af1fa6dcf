package mqtt

import (
	"encoding/binary"
	"net"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/internal/event"
)

// Reason codes Weir sends. Source: MQTT 5, 2.4.
const (
	codeSuccess          = 0x00
	codeWithWill         = 0x04 // DISCONNECT of a client that wants its will published
	codeNoSubscription   = 0x11
	codeUnspecified      = 0x80
	codeMalformed        = 0x81
	codeProtocol         = 0x82
	codeImplementation   = 0x83
	codeVersion          = 0x84
	codeClientID         = 0x85
	codeNotAuthorized    = 0x87
	codeUnavailable      = 0x88
	codeBusy             = 0x89
	codeShuttingDown     = 0x8b
	codeBadAuthMethod    = 0x8c
	codeKeepAlive        = 0x8d
	codeTakenOver        = 0x8e
	codeFilterInvalid    = 0x8f
	codeTopicInvalid     = 0x90
	codeReceiveMax       = 0x93
	codeAliasInvalid     = 0x94
	codePacketTooLarge   = 0x95
	codeQuota            = 0x97
	codeAdministrative   = 0x98
	codePayloadFormat    = 0x99
	codeRetainNone       = 0x9a
	codeQoSNone          = 0x9b
	codeSharedNone       = 0x9e
	codeConnectRate      = 0x9f
	codeSubscriptionIDNo = 0xa1
)

// fault is why a connection ends, or a packet is refused: a reason code for the
// client, a bounded word for the counters, a text for the log.
type fault struct {
	code byte
	word string
	text string
}

func (f *fault) Error() string { return f.text }

func faultf(code byte, word, text string) *fault { return &fault{code, word, text} }

var (
	errMalformed = faultf(codeMalformed, "malformed", "malformed packet")
	errTooLarge  = faultf(codePacketTooLarge, "packet_bytes", "packet is over the limit")
)

const (
	readBufferMin = 1 << 10
	readBufferMax = 16 << 10 // for packets that fit; a larger packet gets a buffer of its own size
)

// reader cuts a connection's bytes into packets. Its buffer grows with what
// arrives, never with what a header claims.
type reader struct {
	c     net.Conn
	buf   []byte
	r, w  int
	small int // reads in a row that were much smaller than the buffer
	// beforeRead is called before each read, which may wait; nil: nothing is.
	beforeRead func() error
	// idle is set while the client is waited for.
	idle *atomic.Bool
	// onRead is called after each read from the connection.
	onRead func(now time.Time)
	now    func() time.Time
	at     time.Time // of the last read
}

// next returns the first byte and the body of the next packet. The body is
// valid until the following call. max bounds the body; first, where it is not
// 0, is the only type allowed.
func (rd *reader) next(max int, first byte) (h byte, body []byte, err error) {
	if err := rd.need(2); err != nil {
		return 0, nil, err
	}
	h = rd.buf[rd.r]
	if first != 0 && h>>4 != first {
		return h, nil, faultf(codeProtocol, "protocol", "the first packet is not a CONNECT")
	}
	if !flagsValid(h) {
		return h, nil, faultf(codeMalformed, "malformed", "packet type or flags are not valid")
	}
	n, at := 0, 1
	for shift := 0; ; shift += 7 {
		if err := rd.need(at + 1); err != nil {
			return h, nil, err
		}
		b := rd.buf[rd.r+at]
		at++
		n |= int(b&127) << shift
		if b < 128 {
			break
		}
		if shift == 21 {
			return h, nil, faultf(codeMalformed, "malformed", "remaining length has more than four bytes")
		}
	}
	if n > max {
		return h, nil, errTooLarge
	}
	if err := rd.need(at + n); err != nil {
		return h, nil, err
	}
	body = rd.buf[rd.r+at : rd.r+at+n : rd.r+at+n]
	rd.r += at + n
	return h, body, nil
}

// buffered returns how many bytes have been read but not yet handed out.
func (rd *reader) buffered() int { return rd.w - rd.r }

// need returns when n bytes from the read position are in the buffer.
func (rd *reader) need(n int) error {
	for rd.w-rd.r < n {
		rd.makeRoom(n)
		if rd.beforeRead != nil {
			if err := rd.beforeRead(); err != nil {
				return err
			}
		}
		rd.idle.Store(true)
		k, err := rd.c.Read(rd.buf[rd.w:])
		rd.idle.Store(false)
		if k > 0 {
			if rd.w+k == len(rd.buf) && len(rd.buf) < readBufferMax {
				rd.small = -1 // full: grow at the next chance
			} else if k <= readBufferMin/2 && len(rd.buf) > readBufferMin {
				rd.small = max(rd.small, 0) + 1
			} else {
				rd.small = 0
			}
			rd.w += k
			rd.at = rd.now()
			rd.onRead(rd.at)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (rd *reader) makeRoom(n int) {
	if rd.r == rd.w {
		rd.r, rd.w = 0, 0
		switch {
		case len(rd.buf) > readBufferMax || rd.small >= 8:
			rd.buf, rd.small = make([]byte, readBufferMin), 0
		case rd.small < 0 && len(rd.buf) < readBufferMax:
			rd.buf, rd.small = make([]byte, min(4*len(rd.buf), readBufferMax)), 0
		}
	}
	if rd.w < len(rd.buf) && rd.r+n <= len(rd.buf) {
		return
	}
	to := rd.buf
	if n > len(rd.buf) && rd.w-rd.r == len(rd.buf) {
		to = make([]byte, min(max(n, readBufferMin), 2*len(rd.buf)))
	} else if rd.w < len(rd.buf) && rd.r == 0 {
		return // the packet is larger than the buffer, which is not full yet
	}
	rd.w = copy(to, rd.buf[rd.r:rd.w])
	rd.r, rd.buf = 0, to
}

func flagsValid(h byte) bool {
	switch t := h >> 4; t {
	case packets.Publish:
		return true // its flags are judged with the packet
	case packets.Pubrel, packets.Subscribe, packets.Unsubscribe:
		return h&15 == 2
	case packets.Reserved:
		return false
	default:
		return h&15 == 0
	}
}

// publish is a PUBLISH in its buffer.
type publish struct {
	topic   []byte
	pid     uint16
	qos     byte
	retain  bool
	props   []byte // the property section without its length
	payload []byte
}

func parsePublish(h byte, b []byte, v5 bool, p *publish) *fault {
	p.qos, p.retain, p.pid, p.props = h>>1&3, h&1 == 1, 0, nil
	switch {
	case p.qos == 2:
		return faultf(codeQoSNone, "qos", "QoS 2 is not supported")
	case p.qos == 3 || p.qos == 0 && h&8 != 0:
		return errMalformed
	case len(b) < 2:
		return errMalformed
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if n > len(b) {
		return errMalformed
	}
	p.topic, b = b[:n], b[n:]
	if p.qos > 0 {
		if len(b) < 2 {
			return errMalformed
		}
		if p.pid = binary.BigEndian.Uint16(b); p.pid == 0 {
			return faultf(codeProtocol, "protocol", "packet identifier 0")
		}
		b = b[2:]
	}
	if v5 {
		section, rest, f := cutProperties(b)
		if f != nil {
			return f
		}
		p.props, b = section, rest
	}
	p.payload = b
	return nil
}

func appendLength(b []byte, n int) []byte {
	for n >= 128 {
		b = append(b, byte(n)|128)
		n >>= 7
	}
	return append(b, byte(n))
}

func appendString(b []byte, s string) []byte {
	return append(append(b, byte(len(s)>>8), byte(len(s))), s...)
}

// appendPuback appends a PUBACK; reason are the properties of one that says no.
func appendPuback(b []byte, pid uint16, code byte, v5 bool, reason []byte) []byte {
	if code == codeSuccess || !v5 {
		return append(b, packets.Puback<<4, 2, byte(pid>>8), byte(pid))
	}
	b = append(appendLength(append(b, packets.Puback<<4), 3+len(reason)), byte(pid>>8), byte(pid), code)
	return append(b, reason...)
}

// reasonMax bounds a reason string, in bytes.
const reasonMax = 200

// reason returns the properties of a packet that says why, with their length. A
// client that takes no packet of that size gets none.
// Source: MQTT 5, 3.2.2.3.9 [MQTT-3.2.2-19], 3.4.2.2.2, 3.14.2.2.3.
func (c *client) reason(text string) []byte {
	if len(text) > reasonMax || !validText([]byte(text)) {
		text = ""
	}
	const around = 6 // header, packet id or flags, code
	n := 3 + len(text)
	if text == "" || c.maxPacket > 0 && around+lengthBytes(n)+n > c.maxPacket {
		return []byte{0}
	}
	return appendString(append(appendLength(nil, n), packets.PropReasonString), text)
}

// encoded is one event as a PUBLISH for one version, QoS and retain flag.
type encoded struct {
	b   []byte
	pid int // where the packet id is in b; 0: QoS 0
}

// encoder encodes one event after the other, each at most once for a
// combination of version, QoS and retain flag. Its buffers are used again for
// the next event. It is for one goroutine.
type encoder struct {
	e    *event.Event
	now  time.Time
	have [8]bool
	enc  [8]encoded
	tmp  []byte
}

func (x *encoder) reset(e *event.Event, now time.Time) {
	x.e, x.now = e, now
	x.have = [8]bool{}
}

func (x *encoder) get(v5 bool, qos byte, retain bool) *encoded {
	i := int(qos) << 1
	if v5 {
		i |= 1
	}
	if retain {
		i |= 4
	}
	c := &x.enc[i]
	if !x.have[i] {
		x.have[i] = true
		c.b, c.pid = x.append(c.b[:0], v5, qos, retain, nil, 0, false)
	}
	return c
}

// append encodes the event, with subscription identifiers where there are any,
// and with a topic alias where it is not 0; a known one stands for the name.
func (x *encoder) append(b []byte, v5 bool, qos byte, retain bool, ids []uint32, alias uint16, known bool) ([]byte, int) {
	e := x.e
	name := string(e.Topic)
	if known {
		name = ""
	}
	n := 2 + len(name) + len(e.Payload)
	if qos > 0 {
		n += 2
	}
	props := x.tmp[:0]
	if v5 {
		if alias > 0 {
			props = binary.BigEndian.AppendUint16(append(props, packets.PropTopicAlias), alias)
		}
		props = appendProperties(props, e, x.now, ids)
		x.tmp = props
		n += len(props) + lengthBytes(len(props))
	}
	h := byte(packets.Publish<<4) | qos<<1
	if retain {
		h |= 1
	}
	b = appendLength(append(b, h), n)
	b = appendString(b, name)
	pid := 0
	if qos > 0 {
		pid = len(b)
		b = append(b, 0, 0)
	}
	if v5 {
		b = append(appendLength(b, len(props)), props...)
	}
	return append(b, e.Payload...), pid
}

func lengthBytes(n int) int {
	k := 1
	for ; n >= 128; n >>= 7 {
		k++
	}
	return k
}

func appendProperties(b []byte, e *event.Event, now time.Time, ids []uint32) []byte {
	for _, id := range ids {
		b = appendLength(append(b, packets.PropSubscriptionIdentifier), int(id))
	}
	p := e.Props
	if p == nil {
		return b
	}
	if p.PayloadUTF8 {
		b = append(b, packets.PropPayloadFormat, 1)
	}
	if p.MessageExpiry > 0 {
		// What is left of it. Source: MQTT 5 [MQTT-3.3.2-6].
		left := int64(p.MessageExpiry) - int64(now.Sub(e.Received)/time.Second)
		b = binary.BigEndian.AppendUint32(append(b, packets.PropMessageExpiryInterval), uint32(max(left, 1)))
	}
	if p.ContentType != "" {
		b = appendString(append(b, packets.PropContentType), p.ContentType)
	}
	if p.ResponseTopic != "" {
		b = appendString(append(b, packets.PropResponseTopic), p.ResponseTopic)
	}
	if len(p.CorrelationData) > 0 {
		b = appendString(append(b, packets.PropCorrelationData), string(p.CorrelationData))
	}
	for _, u := range p.User {
		b = appendString(appendString(append(b, packets.PropUser), u.Key), u.Value)
	}
	return b
}
