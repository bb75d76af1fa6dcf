package jet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// Message is one stored message as read back. Its slices are valid only
// during the call they are handed to.
type Message struct {
	Seq     uint64
	Stored  []byte // time of storing, as the server writes it; see StoredAt
	Subject []byte
	Header  []byte // lines "Name:value\r\n", the server's own among them
	Payload []byte

	stored []byte // the same in nanoseconds, where the server writes that
}

// Query selects messages of a stream, in order.
type Query struct {
	Stream   string
	From     uint64    // first sequence to look at; 0: use Since
	Since    time.Time // first time of storing to look at
	Filter   string    // subject filter; "" for all
	Max      int       // messages; 0: 1
	MaxBytes int
}

// Fetch hands up to q.Max messages to f. It reports end where there was no
// further match when the store looked. An error of f ends it.
//
// It reads by batched direct get: with an embedded server what it returns is
// complete; in a cluster a replica that lags may answer, so only sequences up
// to the last message handed over are known to be covered, and only without a
// filter.
func (s *Store) Fetch(q Query, f func(*Message) error) (end bool, err error) {
	const op = "jet.Fetch"
	if q.Max <= 0 {
		q.Max = 1
	}
	req := make([]byte, 0, 256)
	if q.From > 0 {
		req = strconv.AppendUint(append(req, `{"seq":`...), q.From, 10)
	} else {
		req = append(append(append(req, `{"start_time":"`...), q.Since.UTC().Format(time.RFC3339Nano)...), '"')
	}
	req = strconv.AppendInt(append(req, `,"batch":`...), int64(q.Max), 10)
	if q.MaxBytes > 0 {
		req = strconv.AppendInt(append(req, `,"max_bytes":`...), int64(q.MaxBytes), 10)
	}
	if q.Filter != "" {
		name, err := json.Marshal(q.Filter)
		if err != nil {
			return false, errs.E(op, errs.Invalid, err)
		}
		req = append(append(req, `,"next_by_subj":`...), name...)
	}
	req = append(req, '}')
	delivered := false
	err = s.with(func(c *conn) error {
		if delivered {
			return errs.Errorf(op, errs.Unavailable, "the connection ended while reading")
		}
		tok := c.token()
		b := make([]byte, 0, len(req)+160)
		b = append(append(append(b, "PUB $JS.API.DIRECT.GET."...), q.Stream...), ' ')
		b = append(append(append(append(b, c.inbox...), '.'), tok...), ' ')
		b = append(strconv.AppendInt(b, int64(len(req)), 10), "\r\n"...)
		b = append(append(b, req...), "\r\n"...)
		deadline := time.Now().Add(s.o.Deadline)
		if err := c.ask(b, deadline); err != nil {
			return err
		}
		var m Message
		for {
			fr, err := c.answer(deadline)
			if err != nil {
				return err
			}
			if string(c.tokenOf(fr)) != tok {
				continue
			}
			switch code := status(fr.header); code {
			case 0:
			case 404:
				end = true
				return nil
			case 204:
				pending, ok := number(headerValue(fr.header, "Nats-Num-Pending"))
				end = ok && pending == 0
				return nil
			case 503:
				return fmt.Errorf("stream %s: %w", q.Stream, errNoResponder)
			default:
				return fmt.Errorf("stream %s: the store answers %d", q.Stream, code)
			}
			if err := m.parse(fr); err != nil {
				c.close()
				c.dead = err
				return err
			}
			delivered = true
			if err := f(&m); err != nil {
				c.close()
				return err
			}
			deadline = time.Now().Add(s.o.Deadline)
		}
	})
	if err != nil {
		return false, errs.E(op, errs.Unavailable, err)
	}
	return end, nil
}

// Read hands the messages with the sequences from … to, a few hundred at most,
// to f, in their order; one that is gone is passed over. It is for an embedded
// server. Each Fetch has the store count all subjects of the stream, which takes
// milliseconds with 100,000 of them: who follows a stream closely reads
// by number.
// Errors: errs.Unavailable, f's.
func (s *Store) Read(stream string, from, to uint64, f func(*Message) error) error {
	const op = "jet.Read"
	handed := from // what is behind it was handed over
	err := s.with(func(c *conn) error {
		first := c.next + 1
		b := make([]byte, 0, 128*int(to-handed+1))
		for seq := handed; seq <= to; seq++ {
			body := strconv.AppendUint([]byte(`{"seq":`), seq, 10)
			b = append(append(append(b, "PUB $JS.API.DIRECT.GET."...), stream...), ' ')
			b = append(append(append(append(b, c.inbox...), '.'), c.token()...), ' ')
			b = append(strconv.AppendInt(b, int64(len(body)+1), 10), "\r\n"...)
			b = append(append(b, body...), "}\r\n"...)
		}
		deadline := time.Now().Add(s.o.Deadline)
		if err := c.ask(b, deadline); err != nil {
			return err
		}
		var m Message
		for base := handed; handed <= to; {
			fr, err := c.answer(deadline)
			if err != nil {
				return err
			}
			n, err := strconv.ParseUint(string(c.tokenOf(fr)), 36, 64)
			if err != nil || n < first {
				continue // of an earlier request that was given up
			}
			if n-first != handed-base {
				c.close()
				return fmt.Errorf("stream %s: answers out of order", stream)
			}
			handed++
			switch code := status(fr.header); code {
			case 0:
				if err := m.parse(fr); err != nil {
					c.close()
					return err
				}
				if err := f(&m); err != nil {
					c.close()
					return err
				}
			case 404:
			default:
				c.close()
				return fmt.Errorf("stream %s: the store answers %d", stream, code)
			}
		}
		return nil
	})
	if err != nil {
		return errs.E(op, errs.Unavailable, err)
	}
	return nil
}

// last reads the newest message of one subject.
func (s *Store) last(stream, subject string) (m Message, ok bool, err error) {
	if !s.Embedded() {
		return s.lastOfLeader(stream, subject)
	}
	req, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return m, false, err
	}
	err = s.with(func(c *conn) error {
		tok := c.token()
		b := append([]byte("PUB $JS.API.DIRECT.GET."+stream+" "+c.inbox+"."+tok+" "), strconv.Itoa(len(req))...)
		b = append(append(append(b, "\r\n"...), req...), "\r\n"...)
		deadline := time.Now().Add(s.o.Deadline)
		if err := c.ask(b, deadline); err != nil {
			return err
		}
		for {
			fr, err := c.answer(deadline)
			if err != nil {
				return err
			}
			if string(c.tokenOf(fr)) != tok {
				continue
			}
			switch code := status(fr.header); code {
			case 0:
			case 404:
				return nil
			case 503:
				return fmt.Errorf("stream %s: %w", stream, errNoResponder)
			default:
				return fmt.Errorf("stream %s: the store answers %d", stream, code)
			}
			if err := m.parse(fr); err != nil {
				return err
			}
			m.Stored, m.Subject = bytes.Clone(m.Stored), bytes.Clone(m.Subject)
			m.Header, m.Payload = bytes.Clone(m.Header), bytes.Clone(m.Payload)
			ok = true
			return nil
		}
	})
	return m, ok, err
}

// Last reads the newest message of one subject.
// Errors: errs.NotFound, errs.Unavailable.
func (s *Store) Last(stream, subject string) (Message, error) {
	s.lookups <- struct{}{}
	defer func() { <-s.lookups }()
	m, ok, err := s.last(stream, subject)
	if err != nil {
		return m, errs.E("jet.Last", errs.Unavailable, err)
	}
	if !ok {
		return m, errs.E("jet.Last", errs.NotFound, nil)
	}
	return m, nil
}

// parse takes m from a direct get answer: its sequence, subject and time are
// headers that the server adds behind the stored ones.
func (m *Message) parse(f frame) error {
	i := bytes.IndexByte(f.header, '\n')
	if i < 0 {
		return fmt.Errorf("message without header")
	}
	*m = Message{Header: f.header[i+1:], Payload: f.payload}
	for h := m.Header; ; {
		name, value, rest, ok := NextHeader(h)
		if !ok {
			break
		}
		h = rest
		switch string(name) {
		case "Nats-Sequence":
			m.Seq, _ = number(value)
		case "Nats-Subject":
			m.Subject = value
		case "Nats-Time-Stamp":
			m.Stored = value
		}
	}
	if m.Seq == 0 || len(m.Subject) == 0 {
		return fmt.Errorf("message without sequence or subject")
	}
	return nil
}

// NextHeader cuts the first line off h. The value has no leading space.
func NextHeader(h []byte) (name, value, rest []byte, ok bool) {
	i := bytes.IndexByte(h, '\n')
	if i < 1 {
		return nil, nil, nil, false
	}
	line, rest := h[:i], h[i+1:]
	if line[i-1] == '\r' {
		line = line[:i-1]
	}
	k := bytes.IndexByte(line, ':')
	if k < 0 {
		return nil, nil, nil, false
	}
	value = line[k+1:]
	for len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	return line[:k], value, rest, true
}

func headerValue(h []byte, want string) []byte {
	i := bytes.IndexByte(h, '\n')
	if i < 0 {
		return nil
	}
	for h = h[i+1:]; ; {
		name, value, rest, ok := NextHeader(h)
		if !ok {
			return nil
		}
		if string(name) == want {
			return value
		}
		h = rest
	}
}

// lastOfLeader asks the stream's leader, where a direct get may be answered by
// a replica that lags.
func (s *Store) lastOfLeader(stream, subject string) (m Message, ok bool, err error) {
	var out struct {
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	err = s.api("STREAM.MSG.GET."+stream, map[string]string{"last_by_subj": subject}, &out)
	var ae *apiError
	if errors.As(err, &ae) && ae.ErrCode == codeMessageNotFound {
		return m, false, nil
	}
	if err != nil {
		return m, false, err
	}
	o := &out.Message
	if i := bytes.IndexByte(o.Header, '\n'); i >= 0 {
		m.Header = o.Header[i+1:]
	}
	m.Seq, m.Subject, m.Payload = o.Seq, []byte(o.Subject), o.Data
	m.Stored = []byte(o.Time.Format(time.RFC3339Nano))
	return m, true, nil
}
