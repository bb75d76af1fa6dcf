package https

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// publishTimeout bounds the wait for a commit. A client that gets 503 may try
// again; the message may be there twice then.
const publishTimeout = 15 * time.Second

// publish takes one message in, and returns its id.
func (s *Server) publish(r *http.Request, escaped string) (id string, err error) {
	const op = "https.Publish"
	c := connection(r)
	p, err := s.authenticate(r, c)
	if err != nil {
		return "", err
	}
	text, err := url.PathUnescape(escaped)
	if err != nil {
		return "", errs.Errorf(op, errs.Invalid, "topic is not URL encoded")
	}
	n, err := topic.ParseName(text, s.o.Limits.Topic())
	if err != nil {
		return "", errs.E(op, errs.Invalid, err)
	}
	e := &event.Event{Topic: n, Principal: p.ID, SourceIP: c.Remote.Addr().String(), Protocol: event.HTTP}
	if err := s.parameters(r, e); err != nil {
		return "", errs.E(op, errs.Invalid, err)
	}
	switch ingest.Publish(n) {
	case ingest.Private:
		s.denied.WithLabelValues("private").Inc()
		return "", errs.Errorf(op, errs.Forbidden, "private topic: its answer goes to the MQTT connection that asks; call it over MQTT, or MQTT over WebSocket")
	case ingest.Reserved:
		s.denied.WithLabelValues("reserved").Inc()
		return "", errs.Errorf(op, errs.Forbidden, "reserved topic: clients may not publish on it")
	}
	if e.Retain && n[0] == '$' {
		s.denied.WithLabelValues("reserved").Inc()
		return "", errs.Errorf(op, errs.Forbidden, "messages on reserved topics are not retained")
	}
	if !s.may(p, auth.Publish, text) || e.Retain && !s.may(p, auth.RetainPublish, text) {
		return "", errs.Errorf(op, errs.Forbidden, "not allowed to publish on this topic")
	}
	e.Payload = c.HTTP.Body
	if e.Retain && s.o.MayRetain != nil && !s.o.MayRetain(n, len(e.Payload)) {
		return "", errs.Errorf(op, errs.Quota, "there is no room for another retained message")
	}
	if l := s.o.Logger; l.Enabled(r.Context(), slog.LevelDebug) { // as over MQTT, for who wants to see all of a client
		l.Debug("publish", "topic", string(n), "qos", e.QoS, "bytes", len(e.Payload), "clientId", p.ClientID, "principal", p.ID, "remote", p.Remote.String())
	}
	e.Received = s.o.Now().UTC().Truncate(time.Millisecond)
	// A client that goes away does not take back what it published.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), publishTimeout)
	defer cancel()
	if err := s.o.Log.Publish(ctx, e); err != nil {
		if ctx.Err() != nil {
			return "", errs.E(op, errs.Unavailable, err)
		}
		return "", err
	}
	return e.ID().String(), nil
}

// may asks the authorizer, and counts and logs what it denies.
func (s *Server) may(p *auth.Principal, a auth.Action, resource string) bool {
	if s.o.Authorizer.May(p, a, resource) {
		return true
	}
	s.denied.WithLabelValues(a.String()).Inc()
	s.denials.Log(p, a, resource)
	return false
}

// parameters reads what the query and the headers say of a message.
// Source: AWS IoT data plane API, Publish.
func (s *Server) parameters(r *http.Request, e *event.Event) error {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return errors.New("the query is not URL encoded")
	}
	for name, values := range q {
		if len(values) > 1 {
			return fmt.Errorf("the query has %q more than once", name)
		}
	}
	switch v := q.Get("qos"); v {
	case "", "0":
	case "1":
		e.QoS = 1
	default:
		return fmt.Errorf("qos is %q, must be 0 or 1", v)
	}
	switch v := q.Get("retain"); v {
	case "", "false":
	case "true":
		e.Retain = true
	default:
		return fmt.Errorf("retain is %q, must be true or false", v)
	}
	p := &event.Properties{ContentType: q.Get("contentType"), ResponseTopic: q.Get("responseTopic")}
	if len(p.ContentType) > 1024 || !utf8.ValidString(p.ContentType) {
		return errors.New("contentType is longer than 1024 bytes or not UTF-8")
	}
	if p.ResponseTopic != "" {
		if _, err := topic.ParseName(p.ResponseTopic, s.o.Limits.Topic()); err != nil {
			return fmt.Errorf("responseTopic: %w", err)
		}
	}
	if v := q.Get("messageExpiry"); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return fmt.Errorf("messageExpiry is %q, must be a number of seconds", v)
		}
		p.MessageExpiry = uint32(min(n, uint64(s.o.Limits.MessageExpiryMax/time.Second)))
	}
	switch v := r.Header.Get("X-Amz-Mqtt5-Payload-Format-Indicator"); v {
	case "", "UNSPECIFIED_BYTES":
	case "UTF8_DATA":
		p.PayloadUTF8 = true
	default:
		return fmt.Errorf("payload format indicator is %q, must be UNSPECIFIED_BYTES or UTF8_DATA", v)
	}
	if v := r.Header.Get("X-Amz-Mqtt5-Correlation-Data"); v != "" {
		if p.CorrelationData, err = base64.StdEncoding.DecodeString(v); err != nil || len(p.CorrelationData) > 1024 {
			return errors.New("correlation data is not base64 or longer than 1024 bytes")
		}
	}
	if v := r.Header.Get("X-Amz-Mqtt5-User-Properties"); v != "" {
		if p.User, err = userProperties(v); err != nil {
			return fmt.Errorf("user properties: %w", err)
		}
	}
	if p.ContentType != "" || p.ResponseTopic != "" || p.MessageExpiry != 0 || p.PayloadUTF8 || len(p.CorrelationData) > 0 || len(p.User) > 0 {
		e.Props = p
	}
	return nil
}

// userProperties decodes base64 of a JSON array of objects with one member
// each, in their order.
func userProperties(v string) ([]event.UserProperty, error) {
	b, err := base64.StdEncoding.DecodeString(v)
	if err != nil {
		return nil, errors.New("not base64")
	}
	var list []map[string]string
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, errors.New("not a JSON array of objects with a text each")
	}
	var out []event.UserProperty
	for _, o := range list {
		if len(o) != 1 {
			return nil, errors.New("each object must have one member")
		}
		for k, v := range o {
			if strings.ContainsRune(k, 0) || strings.ContainsRune(v, 0) {
				return nil, errors.New("a character is not allowed")
			}
			out = append(out, event.UserProperty{Key: k, Value: v})
		}
	}
	return out, nil
}
