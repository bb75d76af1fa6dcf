package mqtt

import (
	"bytes"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// onPublish checks a PUBLISH and hands it to the log.
func (c *client) onPublish(h byte, body []byte) error {
	p := &c.pub
	if f := parsePublish(h, body, c.v5, p); f != nil {
		return f
	}
	if c.dialect != nil {
		return c.onDialectPublish(p)
	}
	var props packets.Properties
	if len(p.props) > 0 {
		if f := checkProperties(p.props, packets.Publish); f != nil {
			return f
		}
		section := appendLength(make([]byte, 0, len(p.props)+4), len(p.props))
		if _, err := props.Decode(packets.Publish, bytes.NewBuffer(append(section, p.props...))); err != nil {
			return errMalformed
		}
	}
	n, f := c.name(p.topic, &props)
	if f != nil {
		return f
	}
	if len(p.payload) > c.s.limits.Payload {
		return c.violation("payload", codePacketTooLarge, "payload is over the limit")
	}
	private := n.class == ingest.Private && c.s.private != nil && c.s.private.Serves(n.topic)
	may := c.mayPublish
	if private {
		may = c.mayCall
	}
	if f := may(n, p.retain); f != nil {
		if f.code == codeRetainNone {
			return f // CONNACK said so. Source: MQTT 5 [MQTT-3.2.2-14]
		}
		return c.deny(p, f)
	}
	properties, f := c.properties(&props)
	if f != nil {
		return f
	}
	if p.retain && len(p.payload) > 0 && !c.s.retainedRoom(n.topic, len(p.payload)+len(p.props)) {
		return c.deny(p, c.violation("retained_bytes", codeQuota, "the retained messages take too much memory"))
	}
	if c.s.rates.Publishes > 0 && !c.rate.publishes.try(c.s.now()) {
		return c.overRate(p)
	}
	if private {
		return c.call(n.topic, p)
	}
	return c.toLog(p, n.topic, properties, p.retain)
}

// toLog appends a publish that may be made.
func (c *client) toLog(p *publish, n topic.Name, properties *event.Properties, retain bool) error {
	e := c.newEvent()
	*e = event.Event{
		Topic: n, Payload: c.keep(p.payload), ClientID: c.id, Principal: c.principal.ID, SourceIP: c.ip,
		Received: c.rd.at.UTC().Truncate(time.Millisecond), Props: properties, QoS: p.qos, Retain: retain,
	}
	token := untracked
	if p.qos > 0 {
		var f *fault
		if token, f = c.sess.reserve(p.pid); f != nil {
			return f
		}
	}
	c.counted[p.qos]++
	if c.debugs() {
		c.debug("publish", "topic", string(n), "qos", p.qos, "bytes", len(p.payload))
	}
	if err := c.s.log.Append(c.ctx, e, c.sess, token); err != nil {
		if c.ctx.Err() != nil {
			return errEnded
		}
		c.s.m.failures.WithLabelValues(errs.KindOf(err).String()).Inc()
		if p.qos == 0 {
			return nil
		}
		if !c.v5 {
			return faultf(codeUnspecified, "store", errs.Text(err))
		}
		c.sess.mu.Lock()
		c.sess.refuse(token, appendCode(err), errs.Text(err))
		c.sess.write()
		c.sess.mu.Unlock()
	}
	return nil
}

// violation is a fault that ends the connection because a limit was exceeded.
func (c *client) violation(limit string, code byte, text string) *fault {
	c.s.m.violations.WithLabelValues(limit).Inc()
	return faultf(code, limit, text)
}

// overRate answers a publish beyond the rate of publishes. It is not taken:
// MQTT 5 with QoS 1 is told so by a PUBACK, 3.1.1 has no way to be told and gets
// none. Source: AWS IoT Core quotas, "Publish requests per second per connection".
func (c *client) overRate(p *publish) error {
	c.s.m.violations.WithLabelValues("publish_rate").Inc()
	f := faultf(codeQuota, "publish_rate", "more publishes than a second allows")
	if c.v5 && p.qos > 0 {
		return c.deny(p, f)
	}
	c.warn("publish not taken", "reason", f.text, "topic", string(p.topic))
	return nil
}

// deny answers a publish that is not allowed: MQTT 5 with QoS 1 by a PUBACK in
// its turn, all others by the end of the connection.
func (c *client) deny(p *publish, f *fault) error {
	if !c.v5 || p.qos == 0 {
		return f
	}
	if f.word != "denied" { // that has been told, with the reason
		c.warn("publish denied", "reason", f.text, "topic", string(p.topic))
	}
	token, full := c.sess.reserve(p.pid)
	if full != nil {
		return full
	}
	c.sess.mu.Lock()
	c.sess.refuse(token, f.code, f.text)
	c.sess.mu.Unlock()
	return nil
}

// name returns the checked topic name of a publish, its alias resolved.
func (c *client) name(b []byte, props *packets.Properties) (*name, *fault) {
	alias := int(props.TopicAlias)
	if props.TopicAliasFlag && (alias == 0 || alias > c.s.limits.TopicAliases) {
		return nil, c.violation("topic_alias", codeAliasInvalid, "topic alias is 0 or over the maximum")
	}
	if len(b) == 0 {
		if alias == 0 {
			return nil, faultf(codeProtocol, "protocol", "neither topic nor topic alias")
		}
		if alias > len(c.aliases) || c.aliases[alias-1] == nil {
			return nil, faultf(codeAliasInvalid, "topic_alias", "unknown topic alias")
		}
		return c.aliases[alias-1], nil
	}
	n := c.names[string(b)]
	if n == nil {
		t, err := topic.ParseName(string(b), c.s.limits.Topic())
		if err != nil {
			if !validText(b) {
				return nil, errMalformed
			}
			return nil, c.violation("topic", codeTopicInvalid, err.Error())
		}
		n = &name{t, ingest.Publish(t)}
		if c.names == nil {
			c.names = make(map[string]*name, 1)
		}
		if len(c.names) >= maxNames {
			for k := range c.names {
				delete(c.names, k)
				break
			}
		}
		c.names[string(t)] = n
	}
	if alias > 0 {
		for len(c.aliases) < alias {
			c.aliases = append(c.aliases, nil)
		}
		c.aliases[alias-1] = n
	}
	return n, nil
}

// properties takes what is kept of a message's properties out of the packet.
// The codec's strings lie in the packet's buffer.
func (c *client) properties(p *packets.Properties) (*event.Properties, *fault) {
	if p.ContentType == "" && p.ResponseTopic == "" && len(p.CorrelationData) == 0 && len(p.User) == 0 &&
		p.MessageExpiryInterval == 0 && p.PayloadFormat == 0 {
		return nil, nil
	}
	out := &event.Properties{
		ContentType: strings.Clone(p.ContentType), ResponseTopic: strings.Clone(p.ResponseTopic),
		CorrelationData: bytes.Clone(p.CorrelationData), PayloadUTF8: p.PayloadFormat == 1,
		MessageExpiry: min(p.MessageExpiryInterval, uint32(c.s.limits.MessageExpiryMax/time.Second)),
	}
	if out.ResponseTopic != "" {
		if _, err := topic.ParseName(out.ResponseTopic, c.s.limits.Topic()); err != nil {
			return nil, c.violation("response_topic", codeTopicInvalid, "response topic: "+err.Error())
		}
	}
	for _, u := range p.User {
		out.User = append(out.User, event.UserProperty{Key: strings.Clone(u.Key), Value: strings.Clone(u.Val)})
	}
	return out, nil
}

// Payloads and events of the packets that came with one read share their
// allocations: they are committed, kept and let go of together.
const (
	smallPayload  = 2 << 10
	eventsAtATime = 32
)

func (c *client) keep(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	if len(b) > smallPayload {
		return append(make([]byte, 0, len(b)), b...)
	}
	if cap(c.payloads)-len(c.payloads) < len(b) {
		c.payloads = make([]byte, 0, len(b)+min(c.rd.buffered(), 8<<10))
	}
	n := len(c.payloads)
	c.payloads = append(c.payloads, b...)
	return c.payloads[n:len(c.payloads):len(c.payloads)]
}

func (c *client) newEvent() *event.Event {
	if len(c.events) == 0 {
		// As many as there are packets of this size in the buffer still.
		size := len(c.pub.topic) + len(c.pub.payload) + 8
		c.events = make([]event.Event, min(1+c.rd.buffered()/size, eventsAtATime))
	}
	e := &c.events[0]
	c.events = c.events[1:]
	return e
}
