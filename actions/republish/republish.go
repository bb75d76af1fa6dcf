// Package republish is the rule action republish: it publishes each result on
// another topic.
//
// It closes a message's way into a loop: the result becomes an event of its own
// on the log, from where it goes to subscribers and to other rules. Each event
// counts the rules it has passed, so that a circle of rules ends.
package republish

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/param"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// MaxHops is how many republish actions one message may pass, its results and
// theirs included.
const MaxHops = 10

// MaxPayload is the largest result that is published, in bytes.
// Source: AWS IoT Core quotas, message size.
const MaxPayload = 128 << 10

// Kind is the action republish.
// Source: AWS IoT API, RepublishAction and MqttHeaders; AWS IoT developer guide,
// "Republish".
var Kind = actions.Kind{
	Name:    "republish",
	Summary: "Publishes each result on another MQTT topic, for subscribers and for other rules.",
	Fields:  fields,
	New:     newAction,
}

var fields = []actions.Field{
	{Name: "topic", Type: actions.String, Required: true, Template: true,
		Help: "The topic. A reserved one is written with `$$`: `$$aws/things/${topic(2)}/shadow/update`. A topic of jobs, certificates or provisioning templates is refused, and so is a text that turns out not to be a topic name, such as one with a wildcard."},
	{Name: "qos", Type: actions.Int, Default: "0", Help: "Quality of service, 0 or 1."},
	{Name: "headers", Type: actions.Object, Help: "MQTT 5 properties of the message.", Fields: []actions.Field{
		{Name: "payloadFormatIndicator", Type: actions.String, Template: true, Help: "`UTF8_DATA` or `UNSPECIFIED_BYTES`."},
		{Name: "contentType", Type: actions.String, Template: true, Help: "What the payload is, such as a MIME type."},
		{Name: "responseTopic", Type: actions.String, Template: true, Help: "The topic for an answer, without wildcards."},
		{Name: "correlationData", Type: actions.String, Template: true, Help: "Binary data for the answer, in base64."},
		{Name: "messageExpiry", Type: actions.String, Template: true, Help: "Seconds after which the message is not delivered any more, 1 to 604,800. Longer times count as 604,800."},
		{Name: "userProperties", Type: actions.List, Help: "1 to 100 pairs.", Fields: []actions.Field{
			{Name: "key", Type: actions.String, Required: true, Template: true, Help: "The name; it may repeat."},
			{Name: "value", Type: actions.String, Required: true, Template: true, Help: "The value."},
		}},
	}},
	param.Role,
}

const (
	batchMax    = 256
	maxInFlight = 8
	maxHeader   = 1024   // bytes of a header, before and after substitution. Source: MqttHeaders
	maxPairs    = 100    // Source: UserProperties
	maxExpiry   = 604800 // 7 days. Source: AWS IoT Core quotas, message expiry interval
)

type action struct {
	env      actions.Env
	topic    param.Text
	reserved bool // written with $$
	qos      byte
	headers  *headers // nil: none
	now      func() time.Time
}

type headers struct {
	format, contentType, responseTopic, correlation, expiry param.Text
	user                                                    [][2]param.Text
}

func newAction(_ context.Context, env actions.Env, raw json.RawMessage) (actions.Action, actions.Spec, error) {
	var p struct {
		Topic   string `json:"topic"`
		QoS     int64  `json:"qos"`
		RoleARN string `json:"roleArn"`
		Headers *struct {
			PayloadFormatIndicator string                        `json:"payloadFormatIndicator"`
			ContentType            string                        `json:"contentType"`
			ResponseTopic          string                        `json:"responseTopic"`
			CorrelationData        string                        `json:"correlationData"`
			MessageExpiry          string                        `json:"messageExpiry"`
			UserProperties         []struct{ Key, Value string } `json:"userProperties"`
		} `json:"headers"`
	}
	var spec actions.Spec
	if err := actions.Decode(raw, fields, &p); err != nil {
		return nil, spec, err
	}
	if err := param.CheckRole(p.RoleARN, "roleArn"); err != nil {
		return nil, spec, err
	}
	if p.QoS != 0 && p.QoS != 1 {
		return nil, spec, param.Wrong([]string{"qos"}, fmt.Sprintf("%d is not a quality of service", p.QoS), "0 or 1")
	}
	if env.Publish == nil && env.PublishAll == nil {
		return nil, spec, param.Wrong(nil, "nothing can be published here", "")
	}
	a := &action{env: env, qos: byte(p.QoS), now: time.Now}
	src := p.Topic
	shift := 0
	if strings.HasPrefix(src, "$$") && !strings.HasPrefix(src, "$${") {
		// Only the rule's author opens reserved topics, never what a message puts in.
		a.reserved, src, shift = true, src[1:], 1
	} else if strings.HasPrefix(src, "$") && !strings.HasPrefix(src, "${") {
		return nil, spec, param.Wrong([]string{"topic"}, "a reserved topic is written with $$", "write $"+src)
	}
	var err error
	if a.topic, err = param.Compile(env, src, "topic"); err != nil {
		if fe, ok := err.(*actions.FieldError); ok && fe.Offset >= 0 {
			fe.Offset += shift
		}
		return nil, spec, err
	}
	if text, ok := a.topic.Literal(); ok {
		if _, err := a.name(text); err != nil {
			return nil, spec, param.Wrong([]string{"topic"}, err.Error(), "")
		}
	}
	if h := p.Headers; h != nil {
		a.headers = &headers{}
		for _, f := range []struct {
			name, src string
			into      *param.Text
			check     func(*event.Properties, string) error
		}{
			{"payloadFormatIndicator", h.PayloadFormatIndicator, &a.headers.format, setFormat},
			{"contentType", h.ContentType, &a.headers.contentType, setContentType},
			{"responseTopic", h.ResponseTopic, &a.headers.responseTopic, setResponseTopic},
			{"correlationData", h.CorrelationData, &a.headers.correlation, setCorrelation},
			{"messageExpiry", h.MessageExpiry, &a.headers.expiry, setExpiry},
		} {
			if *f.into, err = a.header(f.src, func(s string) error { return f.check(&event.Properties{}, s) }, "headers", f.name); err != nil {
				return nil, spec, err
			}
		}
		if n := len(h.UserProperties); n > maxPairs || h.UserProperties != nil && n == 0 {
			return nil, spec, param.Wrong([]string{"headers", "userProperties"}, fmt.Sprintf("%d pairs, 1 to %d are allowed", n, maxPairs), "")
		}
		for i, u := range h.UserProperties {
			var pair [2]param.Text
			for k, src := range []string{u.Key, u.Value} {
				if pair[k], err = a.header(src, checkText, "headers", "userProperties", strconv.Itoa(i), []string{"key", "value"}[k]); err != nil {
					return nil, spec, err
				}
			}
			a.headers.user = append(a.headers.user, pair)
		}
	}
	return a, actions.Spec{MaxInFlight: maxInFlight, BatchMax: batchMax, Resource: p.Topic}, nil
}

func (a *action) header(src string, check func(string) error, path ...string) (param.Text, error) {
	if len(src) > maxHeader {
		return param.Text{}, param.Wrong(path, fmt.Sprintf("%d bytes, at most %d are allowed", len(src), maxHeader), "")
	}
	t, err := param.Compile(a.env, src, path...)
	if err != nil {
		return t, err
	}
	if text, ok := t.Literal(); ok && text != "" {
		if err := check(text); err != nil {
			return t, param.Wrong(path, err.Error(), "")
		}
	}
	return t, nil
}

// name checks what the topic's template came to.
func (a *action) name(s string) (topic.Name, error) {
	n, err := topic.ParseName(s, a.env.TopicLimits)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(s, "$") {
		return n, nil
	}
	if !a.reserved {
		return "", fmt.Errorf("topic %q is reserved, and the rule's topic does not begin with $$", s)
	}
	if !strings.HasPrefix(s, "$aws/") {
		return "", fmt.Errorf("topic %q is reserved: only $aws/… can be published on", s)
	}
	if rest, ok := strings.CutPrefix(s, "$aws/things/"); ok {
		if _, rest, _ = strings.Cut(rest, "/"); rest == "jobs" || strings.HasPrefix(rest, "jobs/") {
			return "", fmt.Errorf("topic %q is a topic of jobs", s)
		}
	}
	for _, private := range []string{"$aws/certificates/", "$aws/provisioning-templates/", "$aws/events/"} {
		if strings.HasPrefix(s, private) {
			return "", fmt.Errorf("topic %q is private", s)
		}
	}
	return n, nil
}

func (a *action) Deliver(ctx context.Context, batch []*actions.Result) error {
	failed := make([]error, len(batch))
	events := make([]*event.Event, 0, len(batch))
	of := make([]int, 0, len(batch)) // the result of each event
	for i, r := range batch {
		e, err := a.event(ctx, r)
		if err != nil {
			failed[i] = err
			continue
		}
		events, of = append(events, e), append(of, i)
	}
	if len(events) > 0 {
		for k, err := range a.publish(ctx, events) {
			failed[of[k]] = classify(err)
		}
	}
	return actions.Failures(failed)
}

// publish returns one error for each event. Without PublishAll it publishes the
// events of one key in turn, those of different keys at a time.
func (a *action) publish(ctx context.Context, events []*event.Event) []error {
	if a.env.PublishAll != nil {
		return a.env.PublishAll(ctx, events)
	}
	out := make([]error, len(events))
	byKey := map[string][]int{}
	for i, e := range events {
		byKey[e.Key] = append(byKey[e.Key], i)
	}
	var wg sync.WaitGroup
	for _, of := range byKey {
		run := func() {
			var before error
			for _, i := range of {
				if before == nil {
					before = a.env.Publish(ctx, events[i])
				}
				out[i] = before // behind a failure the order would be lost
				if !retriable(before) {
					before = nil
				}
			}
		}
		if len(byKey) == 1 {
			run()
			break
		}
		wg.Go(run)
	}
	wg.Wait()
	return out
}

func (a *action) event(ctx context.Context, r *actions.Result) (*event.Event, error) {
	src := r.Event
	if src.Hops >= MaxHops {
		return nil, actions.Permanent(fmt.Errorf("the message has passed %d republish actions: the rules go in a circle", src.Hops))
	}
	if len(r.Payload) > MaxPayload {
		return nil, actions.Permanent(fmt.Errorf("the result has %d bytes, a message at most %d", len(r.Payload), MaxPayload))
	}
	text, err := a.topic.Execute(ctx, src)
	if err != nil {
		return nil, err
	}
	name, err := a.name(text)
	if err != nil {
		return nil, actions.Permanent(err)
	}
	e := &event.Event{
		Topic:    name,
		Payload:  r.Payload,
		Received: a.now().UTC().Truncate(time.Millisecond),
		Key:      src.OrderingKey(),
		QoS:      a.qos,
		Protocol: event.Server,
		Hops:     src.Hops + 1,
	}
	if a.headers != nil {
		if e.Props, err = a.headers.properties(ctx, src, r.Payload); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (h *headers) properties(ctx context.Context, src *event.Event, payload []byte) (*event.Properties, error) {
	p := &event.Properties{}
	for _, f := range []struct {
		name string
		text param.Text
		set  func(*event.Properties, string) error
	}{
		{"payloadFormatIndicator", h.format, setFormat},
		{"contentType", h.contentType, setContentType},
		{"responseTopic", h.responseTopic, setResponseTopic},
		{"correlationData", h.correlation, setCorrelation},
		{"messageExpiry", h.expiry, setExpiry},
	} {
		if f.text.IsZero() {
			continue
		}
		s, err := f.text.Execute(ctx, src)
		if err != nil {
			return nil, err
		}
		if s == "" { // nothing was there to substitute
			continue
		}
		if err := f.set(p, s); err != nil {
			return nil, actions.Permanent(fmt.Errorf("headers.%s: %w", f.name, err))
		}
	}
	if p.PayloadUTF8 && !utf8.Valid(payload) {
		return nil, actions.Permanent(fmt.Errorf("headers.payloadFormatIndicator: the result is not UTF-8"))
	}
	for i, pair := range h.user {
		var u [2]string
		for k := range pair {
			s, err := pair[k].Execute(ctx, src)
			if err != nil {
				return nil, err
			}
			if err := checkText(s); err != nil {
				return nil, actions.Permanent(fmt.Errorf("headers.userProperties.%d: %w", i, err))
			}
			u[k] = s
		}
		p.User = append(p.User, event.UserProperty{Key: u[0], Value: u[1]})
	}
	return p, nil
}

func checkText(s string) error {
	if len(s) > maxHeader {
		return fmt.Errorf("%d bytes, at most %d are allowed", len(s), maxHeader)
	}
	if what, bad := param.Control(s); bad {
		return fmt.Errorf("it has a %s", what)
	}
	return nil
}

func setFormat(p *event.Properties, s string) error {
	switch s {
	case "UTF8_DATA":
		p.PayloadUTF8 = true
	case "UNSPECIFIED_BYTES":
	default:
		return fmt.Errorf("%.60q is neither UTF8_DATA nor UNSPECIFIED_BYTES", s)
	}
	return nil
}

func setContentType(p *event.Properties, s string) error {
	p.ContentType = s
	return checkText(s)
}

func setResponseTopic(p *event.Properties, s string) error {
	if err := checkText(s); err != nil {
		return err
	}
	n, err := topic.ParseName(s, topic.Limits{})
	p.ResponseTopic = string(n)
	return err
}

func setCorrelation(p *event.Properties, s string) error {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return fmt.Errorf("not base64: %w", err)
	}
	if len(b) > maxHeader {
		return fmt.Errorf("%d bytes, at most %d are allowed", len(b), maxHeader)
	}
	p.CorrelationData = b
	return nil
}

func setExpiry(p *event.Properties, s string) error {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		return fmt.Errorf("%.60q is not a number of seconds", s)
	}
	p.MessageExpiry = uint32(min(n, maxExpiry))
	return nil
}

// retriable reports whether the events behind a failed one must wait for it.
func retriable(err error) bool {
	return err != nil && !errs.Is(err, errs.TooLarge) && !errs.Is(err, errs.Invalid) && !errs.Is(err, errs.Forbidden)
}

// classify gives an error of the log its class. A log that cannot take the event
// now, full or away, is waited for: to give the result up would only move it to
// another stream of the same log.
func classify(err error) error {
	switch {
	case err == nil, actions.IsPermanent(err), actions.IsUnreachable(err):
		return err
	case !retriable(err):
		return actions.Permanent(err)
	}
	return actions.Unreachable(err)
}

func (a *action) Close(context.Context) error { return nil }
