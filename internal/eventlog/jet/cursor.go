package jet

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nuid"

	"github.com/weir-iot/weir/internal/errs"
)

// Cursor reads a long stretch of a stream through a consumer of its own, on a
// connection of its own. A message costs half of what Fetch costs, but what it
// does not deliver says nothing: the end of a stretch is Fetch's. It is used by
// one goroutine.
type Cursor struct {
	s      *Store
	c      *conn
	stream string
	name   string
	ack    []byte // prefix of the reply subjects, which hold the sequence
}

// maxCursors bounds the cursors there are at a time: each costs a connection
// and a consumer.
const maxCursors = 4

// OpenCursor returns a cursor that begins at from, for the messages that match
// filter; "" for all. ok is false where there are too many already.
func (s *Store) OpenCursor(stream string, from uint64, filter string) (_ *Cursor, ok bool, err error) {
	const op = "jet.OpenCursor"
	if s.cursors.Add(1) > maxCursors {
		s.cursors.Add(-1)
		return nil, false, nil
	}
	k := &Cursor{s: s, stream: stream, name: "weir-" + nuid.Next()}
	k.ack = []byte("$JS.ACK." + stream + "." + k.name + ".")
	config := map[string]any{
		"name": k.name, "deliver_policy": "by_start_sequence", "opt_start_seq": from, "ack_policy": "none",
		"replay_policy": "instant", "mem_storage": true, "num_replicas": 1, "inactive_threshold": 30 * time.Second,
	}
	if filter != "" {
		config["filter_subject"] = filter
	}
	err = s.api("CONSUMER.CREATE."+stream+"."+k.name, map[string]any{"stream_name": stream, "config": config, "action": "create"}, nil)
	if err == nil {
		k.c, err = s.dial()
	}
	if err != nil {
		s.cursors.Add(-1)
		return nil, false, errs.E(op, errs.Unavailable, err)
	}
	return k, true, nil
}

// Close removes the consumer. Where that fails the server does so by itself
// after half a minute.
func (k *Cursor) Close() {
	k.c.close()
	if err := k.s.api("CONSUMER.DELETE."+k.stream+"."+k.name, nil, nil); err != nil {
		k.s.Logger().Debug("cannot remove a consumer", "stream", k.stream, "err", err)
	}
	k.s.cursors.Add(-1)
}

// Read hands up to max messages to f and returns how many there were. It does
// not wait for new ones. A message over maxBytes is not delivered.
func (k *Cursor) Read(max, maxBytes int, f func(*Message) error) (n int, err error) {
	n, err = k.read(max, maxBytes, f)
	if err != nil {
		err = errs.E("jet.Cursor", errs.Unavailable, err)
	}
	return n, err
}

func (k *Cursor) read(max, maxBytes int, f func(*Message) error) (n int, err error) {
	c := k.c
	tok := c.token()
	req := fmt.Sprintf(`{"batch":%d,"max_bytes":%d,"no_wait":true}`, max, maxBytes)
	b := fmt.Appendf(nil, "PUB $JS.API.CONSUMER.MSG.NEXT.%s.%s %s.%s %d\r\n%s\r\n", k.stream, k.name, c.inbox, tok, len(req), req)
	deadline := time.Now().Add(k.s.o.Deadline)
	if err := c.ask(b, deadline); err != nil {
		return 0, err
	}
	var m Message
	for n < max {
		fr, err := c.answer(deadline)
		if err != nil {
			return n, err
		}
		rest, ok := bytes.CutPrefix(fr.reply, k.ack)
		if !ok {
			if string(c.tokenOf(fr)) == tok {
				return n, nil // a status: there is no more for this request
			}
			continue
		}
		// deliveries . stream sequence . consumer sequence . time . pending
		_, rest, _ = bytes.Cut(rest, []byte{'.'})
		seq, rest, _ := bytes.Cut(rest, []byte{'.'})
		_, rest, _ = bytes.Cut(rest, []byte{'.'})
		ns, _, _ := bytes.Cut(rest, []byte{'.'})
		m = Message{Subject: fr.subject, Payload: fr.payload}
		if m.Seq, ok = number(seq); !ok {
			return n, fmt.Errorf("malformed reply subject %q", fr.reply)
		}
		if i := bytes.IndexByte(fr.header, '\n'); i >= 0 {
			m.Header = fr.header[i+1:]
		}
		m.stored = ns
		n++
		if err := f(&m); err != nil {
			return n, err
		}
	}
	return n, nil
}

// StoredAt returns when the message was stored.
func (m *Message) StoredAt() time.Time {
	if m.stored != nil {
		ns, err := strconv.ParseInt(string(m.stored), 10, 64)
		if err != nil {
			return time.Time{}
		}
		return time.Unix(0, ns).UTC()
	}
	t, err := time.Parse(time.RFC3339Nano, string(m.Stored))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}
