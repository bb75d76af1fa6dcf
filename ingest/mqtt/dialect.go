package mqtt

import (
	"context"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// Dialect is how one connection speaks whose topics are not names on the log: it
// turns the names of its own into those of the log and back, and takes calls.
// Sessions, replay and acknowledgements stay the gateway's. It is the Data of
// the connection's Principal. Such a connection has no retained messages, no
// shared subscriptions, and speaks MQTT 3.1.1.
type Dialect interface {
	// Key names connection and session. It must not be a client id that another
	// way in would take: '#' in it sees to that.
	Key() string
	// Opened is called once the client has been told that it is connected. Closed
	// follows, with the reason in the words of lifecycle events, before the next
	// connection with the same key is opened.
	Opened(l *Link)
	Closed(reason string)

	// Publish says what becomes of a publish. The slices are the packet's: valid
	// until it returns. An error ends the connection.
	Publish(topic, payload []byte, retain bool) (Message, error)
	// Will is Publish for the will of a CONNECT. It must not be a call.
	Will(topic string, payload []byte, retain bool) (Message, error)
	// Filter returns the filter on the log of a topic filter of the client's. An
	// error ends the connection.
	Filter(text string) (topic.Filter, error)
	// Begin says where on the log a subscription begins, be it new or of a session
	// that is taken up again: in one partition behind a sequence, which may lie
	// before what the session has been sent. ok false: where any begins. Like Wants,
	// Topic and Settled it must not block, nor call the Link.
	Begin(f topic.Filter) (partition int, after uint64, ok bool)
	// Wants reports whether e is to be sent, as far as is known now.
	Wants(e *event.Event) bool
	// Topic appends the name under which the client is sent e. It is called each
	// time that e is sent.
	Topic(b []byte, e *event.Event) []byte
	// Settled tells that the client has acknowledged e, or has been sent it with QoS
	// 0, or that it expired before it could be sent.
	Settled(e *event.Event, expired bool)
}

// Message is a publish as the log takes it, or a call.
type Message struct {
	Topic topic.Name
	Props *event.Properties
	// Call, where it is not nil, is made instead of an append; the client's next
	// packets wait for it, its PUBACK too.
	Call func(ctx context.Context)
}

// Link is a connection as its Dialect sees it. Its methods may be called
// concurrently, and after the connection has ended.
type Link struct{ c *client }

// Send sends a message of QoS 0 that is not on the log. It reports false where
// the connection has ended or does not take more for now.
func (l *Link) Send(topic string, payload []byte) bool {
	s := l.c.sess
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.slow() {
		return false
	}
	s.buffer()
	s.buf = appendLength(append(s.buf, packets.Publish<<4), 2+len(topic)+len(payload))
	s.buf = append(appendString(s.buf, topic), payload...)
	l.c.s.m.deliveries[0].Inc()
	s.write()
	return true
}

// Subscribed reports whether the session has a subscription of a filter on the
// log.
func (l *Link) Subscribed(f topic.Filter) bool {
	s := l.c.sess
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closed && s.subs[f] != nil
}

// rewind makes the session read on from where its dialect wants a subscription
// to begin, if that lies behind it. The caller holds s.mu.
func (s *session) rewind(sub *subscription) {
	if s.c.dialect == nil {
		return
	}
	p, after, ok := s.c.dialect.Begin(sub.filter)
	if !ok {
		return
	}
	sub.start[p] = min(sub.start[p], after)
	if sub.qos == 0 || s.position(p) <= after {
		return
	}
	s.places[p].behind, s.places[p].after = true, after
	s.ride(p)
}

// speak makes c speak the dialect of its principal, where it has one.
func (c *client) speak(p *auth.Principal) *fault {
	d, ok := p.Data.(Dialect)
	if !ok {
		return nil
	}
	if c.v5 {
		return faultf(codeVersion, "version", "this dialect is MQTT 3.1.1")
	}
	c.dialect, c.key = d, d.Key()
	return nil
}

// onDialectPublish is onPublish for a connection with a dialect.
func (c *client) onDialectPublish(p *publish) error {
	if len(p.payload) > c.s.limits.Payload {
		return c.violation("payload", codePacketTooLarge, "payload is over the limit")
	}
	m, err := c.dialect.Publish(p.topic, p.payload, p.retain)
	if err != nil {
		return dialectFault(err)
	}
	if c.s.rates.Publishes > 0 && !c.rate.publishes.try(c.s.now()) {
		return c.overRate(p)
	}
	if m.Call == nil {
		if !c.s.may(c.principal, auth.Publish, string(m.Topic)) {
			return faultf(codeNotAuthorized, "denied", "the principal may not publish on this topic")
		}
		return c.toLog(p, m.Topic, m.Props, false)
	}
	// What is to be told the client of earlier packets does not wait for the call.
	c.sess.mu.Lock()
	c.sess.write()
	c.sess.mu.Unlock()
	m.Call(c.ctx)
	c.counted[p.qos]++
	if p.qos == 0 {
		return nil
	}
	token, f := c.sess.reserve(p.pid)
	if f != nil {
		return f
	}
	c.sess.mu.Lock()
	c.sess.settle(token, codeSuccess)
	c.sess.mu.Unlock()
	return nil
}

func dialectFault(err error) *fault {
	return faultf(codeTopicInvalid, "dialect", errs.Text(err))
}

// dialectWill is takeWill for a connection with a dialect.
func (c *client) dialectWill(p *packets.ConnectParams) *fault {
	m, err := c.dialect.Will(p.WillTopic, p.WillPayload, p.WillRetain)
	if err != nil {
		return dialectFault(err)
	}
	c.will = &event.Event{
		Topic: m.Topic, Payload: append([]byte(nil), p.WillPayload...), ClientID: c.id, Principal: c.principal.ID,
		SourceIP: c.ip, QoS: p.WillQos, Props: m.Props,
	}
	return nil
}

// mayPublishWill judges the will when its time has come.
func (c *client) mayPublishWill(w *event.Event) *fault {
	if c.dialect == nil {
		return c.mayPublish(&name{w.Topic, ingest.Publish(w.Topic)}, w.Retain)
	}
	if !c.s.may(c.principal, auth.Publish, string(w.Topic)) {
		return faultf(codeNotAuthorized, "denied", "the principal may not publish on the will's topic")
	}
	return nil
}

// appendAs encodes the event under another name, for MQTT 3.1.1.
func (x *encoder) appendAs(b, name []byte, qos byte) ([]byte, int) {
	n := 2 + len(name) + len(x.e.Payload)
	if qos > 0 {
		n += 2
	}
	b = appendLength(append(b, byte(packets.Publish<<4)|qos<<1), n)
	b = append(append(b, byte(len(name)>>8), byte(len(name))), name...)
	pid := 0
	if qos > 0 {
		pid = len(b)
		b = append(b, 0, 0)
	}
	return append(b, x.e.Payload...), pid
}
