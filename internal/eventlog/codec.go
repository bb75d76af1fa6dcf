package eventlog

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog/jet"
	"github.com/weir-iot/weir/internal/topic"
)

// An event on the stream is its payload, untouched, and these headers. Absent
// means the default, except for t, which is always there.
//
//	name  is                       value, default
//	t     Received                 milliseconds since the epoch
//	q     QoS                      "0"; absent: 1
//	r     Retain                   "1"; absent: not retained
//	c     ClientID                 text
//	p     Principal                text
//	a     SourceIP                 text
//	k     Key                      text
//	o     Protocol                 "h" HTTP, "s" server; absent: MQTT
//	h     Hops                     decimal; absent: 0
//	s     Aside                    text
//	ct    Props.ContentType        text
//	rt    Props.ResponseTopic      text
//	cd    Props.CorrelationData    base64, standard, without padding
//	x     Props.MessageExpiry      decimal, seconds; absent: never
//	f     Props.PayloadUTF8        "1"
//	u     Props.User               name "=" value, both text; one line each, in order
//	v     Props                    "5" where there are properties but all are empty
//
// In text a control character, '%', DEL, a space at either end, and in the name
// of a user property '=', are written %XX. Topic and partition are the subject,
// ev.<p>.<topic as subject>; the sequence is the stream's.

const subjectRoot = "ev."

// AppendSubject appends the subject of topic n in partition p.
func appendSubject(b []byte, p uint16, n topic.Name) []byte {
	b = append(b, subjectRoot...)
	b = append(strconv.AppendUint(b, uint64(p), 10), '.')
	return topic.AppendSubject(b, n)
}

func appendHeader(b []byte, e *event.Event) []byte {
	b = append(strconv.AppendInt(append(b, "t:"...), e.Received.UnixMilli(), 10), "\r\n"...)
	if e.QoS == 0 {
		b = append(b, "q:0\r\n"...)
	}
	if e.Retain {
		b = append(b, "r:1\r\n"...)
	}
	b = appendText(b, "c:", e.ClientID)
	b = appendText(b, "p:", e.Principal)
	b = appendText(b, "a:", e.SourceIP)
	b = appendText(b, "k:", e.Key)
	switch e.Protocol {
	case event.HTTP:
		b = append(b, "o:h\r\n"...)
	case event.Server:
		b = append(b, "o:s\r\n"...)
	}
	if e.Hops > 0 {
		b = append(strconv.AppendUint(append(b, "h:"...), uint64(e.Hops), 10), "\r\n"...)
	}
	b = appendText(b, "s:", e.Aside)
	p := e.Props
	if p == nil {
		return b
	}
	before := len(b)
	b = appendText(b, "ct:", p.ContentType)
	b = appendText(b, "rt:", p.ResponseTopic)
	if len(p.CorrelationData) > 0 {
		b = base64.RawStdEncoding.AppendEncode(append(b, "cd:"...), p.CorrelationData)
		b = append(b, "\r\n"...)
	}
	if p.MessageExpiry > 0 {
		b = append(strconv.AppendUint(append(b, "x:"...), uint64(p.MessageExpiry), 10), "\r\n"...)
	}
	if p.PayloadUTF8 {
		b = append(b, "f:1\r\n"...)
	}
	for _, u := range p.User {
		b = escape(append(b, "u:"...), u.Key, '=')
		b = append(escape(append(b, '='), u.Value, 0), "\r\n"...)
	}
	if len(b) == before {
		b = append(b, "v:5\r\n"...)
	}
	return b
}

func appendText(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return append(escape(append(b, name...), s, 0), "\r\n"...)
}

const hexDigits = "0123456789ABCDEF"

// escape appends s with what a header cannot carry as %XX; also is one more
// byte to escape, 0 for none.
func escape(b []byte, s string, also byte) []byte {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < ' ' || c == '%' || c == 0x7f || c == ' ' && (i == 0 || i == len(s)-1) || c == also && also != 0 {
			b = append(b, '%', hexDigits[c>>4], hexDigits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

// unescape reverses escape. A '%' that escape would not have written is kept
// as it is: other programs may write to a stream, and reading goes on.
func unescape(s string) string {
	i := strings.IndexByte(s, '%')
	if i < 0 {
		return s
	}
	b := append(make([]byte, 0, len(s)), s[:i]...)
	for ; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
			if hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

var errSubject = errors.New("the subject is not an event's")

// decode makes an event of a stored message. Unknown headers are passed over,
// malformed values read as absent; only a subject that is no topic is an error.
func decode(m *jet.Message, p uint16) (*event.Event, error) {
	s, ok := strings.CutPrefix(string(m.Subject), subjectRoot)
	if !ok {
		return nil, errSubject
	}
	_, s, ok = strings.Cut(s, ".")
	if !ok {
		return nil, errSubject
	}
	name, err := topic.ParseSubject(s)
	if err != nil {
		return nil, err
	}
	// One allocation each for the event, and for payload and headers together:
	// the strings of the headers share one copy.
	e := &event.Event{Topic: name, Seq: m.Seq, Partition: p, QoS: 1}
	e.Payload = append(make([]byte, 0, len(m.Payload)), m.Payload...)
	header := m.Header
	for {
		n, v, rest, ok := jet.NextHeader(header)
		if !ok {
			break
		}
		header = rest
		if len(n) == 0 || len(n) > 2 {
			continue
		}
		if len(n) == 1 {
			switch n[0] {
			case 't':
				if ms, err := strconv.ParseInt(string(v), 10, 64); err == nil {
					e.Received = time.UnixMilli(ms).UTC()
				}
			case 'q':
				if string(v) == "0" {
					e.QoS = 0
				}
			case 'r':
				e.Retain = string(v) == "1"
			case 'c':
				e.ClientID = unescape(string(v))
			case 'p':
				e.Principal = unescape(string(v))
			case 'a':
				e.SourceIP = unescape(string(v))
			case 'k':
				e.Key = unescape(string(v))
			case 'o':
				switch string(v) {
				case "h":
					e.Protocol = event.HTTP
				case "s":
					e.Protocol = event.Server
				}
			case 'h':
				if h, err := strconv.ParseUint(string(v), 10, 8); err == nil {
					e.Hops = uint8(h)
				}
			case 's':
				e.Aside = unescape(string(v))
			case 'x':
				if x, err := strconv.ParseUint(string(v), 10, 32); err == nil {
					props(e).MessageExpiry = uint32(x)
				}
			case 'f':
				props(e).PayloadUTF8 = string(v) == "1"
			case 'u':
				key, value, _ := strings.Cut(string(v), "=")
				q := props(e)
				q.User = append(q.User, event.UserProperty{Key: unescape(key), Value: unescape(value)})
			case 'v':
				props(e)
			}
			continue
		}
		switch string(n) {
		case "ct":
			props(e).ContentType = unescape(string(v))
		case "rt":
			props(e).ResponseTopic = unescape(string(v))
		case "cd":
			if d, err := base64.RawStdEncoding.AppendDecode(nil, v); err == nil {
				props(e).CorrelationData = d
			}
		}
	}
	if e.Received.IsZero() {
		// Not written by Weir; the time of storing is the next best.
		e.Received = m.StoredAt().Truncate(time.Millisecond)
	}
	return e, nil
}

func props(e *event.Event) *event.Properties {
	if e.Props == nil {
		e.Props = &event.Properties{}
	}
	return e.Props
}
