package republish

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/actiontest"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
)

// log is the event log as far as republish sees it.
type log struct {
	mu     sync.Mutex
	events []*event.Event // guarded by mu
	fail   func(*event.Event) error
	hang   bool
}

func (l *log) Publish(ctx context.Context, e *event.Event) error {
	l.mu.Lock()
	fail, hang := l.fail, l.hang
	l.mu.Unlock()
	if hang {
		<-ctx.Done()
		return errs.E("log.Publish", errs.Timeout, ctx.Err())
	}
	if fail != nil {
		if err := fail(e); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.events = append(l.events, e)
	l.mu.Unlock()
	return nil
}

func (l *log) PublishAll(ctx context.Context, events []*event.Event) []error {
	out := make([]error, len(events))
	for i, e := range events {
		out[i] = l.Publish(ctx, e)
	}
	return out
}

func TestContract(t *testing.T) {
	for name, all := range map[string]bool{"PublishAll": true, "Publish": false} {
		t.Run(name, func(t *testing.T) {
			actiontest.Run(t, actiontest.Features{
				Kind: Kind,
				Open: func(t testing.TB) *actiontest.Destination {
					l := &log{}
					return &actiontest.Destination{
						Config: `{"topic":"out/${device}","qos":1,"roleArn":"arn:aws:iam::123456789012:role/r"}`,
						Env: func(env *actions.Env) {
							env.Publish = l.Publish
							if all {
								env.PublishAll = l.PublishAll
							}
						},
						Received: func(testing.TB) (out []actiontest.Delivery) {
							for _, e := range l.events {
								out = append(out, actiontest.Delivery{Payload: string(e.Payload)})
							}
							return out
						},
						Fault: func(f actiontest.Fault) {
							l.mu.Lock()
							defer l.mu.Unlock()
							l.hang = f == actiontest.Hang
							l.fail = nil
							if f == actiontest.Gone || f == actiontest.Cut {
								l.fail = func(*event.Event) error { return errs.Errorf("log.Publish", errs.Unavailable, "the disk is full") }
							}
							if f == actiontest.Refuse {
								l.fail = func(*event.Event) error { return errs.Errorf("log.Publish", errs.TooLarge, "too large") }
							}
						},
					}
				},
				Bad:      func(r *actions.Result) { r.Event.Payload = []byte(`{"device":"+"}`) },
				TooLarge: MaxPayload + 1,
				Without:  []actiontest.Fault{actiontest.Busy},
			})
		})
	}
}

func open(t *testing.T, l *log, statement, config string) actions.Action {
	t.Helper()
	env := actiontest.Env(t, statement)
	env.PublishAll = l.PublishAll
	a, _, err := Kind.New(t.Context(), env, json.RawMessage(config))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestEvent(t *testing.T) {
	l := &log{}
	a := open(t, l, "", `{"topic":"$$aws/things/${device}/shadow/update","qos":1,"headers":{
		"payloadFormatIndicator":"UTF8_DATA","contentType":"text/${device}","responseTopic":"answer/${device}",
		"correlationData":"ZDc=","messageExpiry":"${n * 60}",
		"userProperties":[{"key":"k","value":"${n}"},{"key":"k","value":""}]}}`)
	a.(*action).now = func() time.Time { return time.UnixMilli(1_790_000_000_123).Add(456) }
	r := actiontest.Result(7)
	r.Event.Hops = 2
	r.Event.Retain = true
	if err := a.Deliver(t.Context(), []*actions.Result{r}); err != nil {
		t.Fatal(err)
	}
	want := &event.Event{
		Topic: "$aws/things/d7/shadow/update", Payload: r.Payload, QoS: 1, Key: "c7", Hops: 3, Protocol: event.Server,
		Received: time.UnixMilli(1_790_000_000_123).UTC(),
		Props: &event.Properties{PayloadUTF8: true, ContentType: "text/d7", ResponseTopic: "answer/d7", CorrelationData: []byte("d7"),
			MessageExpiry: 420, User: []event.UserProperty{{Key: "k", Value: "7"}, {Key: "k", Value: ""}}},
	}
	if !reflect.DeepEqual(l.events[0], want) {
		t.Errorf("got  %+v %+v\nwant %+v %+v", l.events[0], l.events[0].Props, want, want.Props)
	}
}

func TestWhatAMessageMayNotDo(t *testing.T) {
	for name, c := range map[string]struct {
		topic  string
		change func(*actions.Result)
	}{
		"wildcard":       {"out/${x}", func(r *actions.Result) { r.Event.Payload = []byte(`{"x":"+/#"}`) }},
		"control":        {"out/${x}", func(r *actions.Result) { r.Event.Payload = []byte(`{"x":"a\r\nb"}`) }},
		"nothing":        {"${x}", func(r *actions.Result) { r.Event.Payload = []byte(`{}`) }},
		"reserved":       {"${x}", func(r *actions.Result) { r.Event.Payload = []byte(`{"x":"$aws/things/a/shadow/update"}`) }},
		"reserved twice": {"${x}", func(r *actions.Result) { r.Event.Payload = []byte(`{"x":"$$aws/things/a/shadow/update"}`) }},
		"jobs":           {"$$aws/things/${x}/update", func(r *actions.Result) { r.Event.Payload = []byte(`{"x":"a/jobs/1"}`) }},
		"certificates":   {"$$aws/${x}", func(r *actions.Result) { r.Event.Payload = []byte(`{"x":"certificates/create/json"}`) }},
		"circle":         {"out", func(r *actions.Result) { r.Event.Hops = MaxHops }},
	} {
		t.Run(name, func(t *testing.T) {
			l := &log{}
			a := open(t, l, "", `{"topic":`+quote(c.topic)+`}`)
			r := actiontest.Result(1)
			c.change(r)
			if err := a.Deliver(t.Context(), []*actions.Result{r}); !actions.IsPermanent(err) || len(l.events) > 0 {
				t.Errorf("error %v, %d events", err, len(l.events))
			}
		})
	}
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func TestConfigMistakes(t *testing.T) {
	for _, c := range []struct{ config, path, part string }{
		{`{}`, "", "topic"},
		{`{"topic":""}`, "topic", "empty"},
		{`{"topic":"a/#"}`, "topic", "wildcard"},
		{`{"topic":"$aws/things/a/shadow/update"}`, "topic", "$$"},
		{`{"topic":"$$SYS/x"}`, "topic", "reserved"},
		{`{"topic":"$$aws/things/a/jobs/get"}`, "topic", "jobs"},
		{`{"topic":"a/${topic(}"}`, "topic", ""},
		{`{"topic":"a","qos":2}`, "qos", "quality"},
		{`{"topic":"a","roleArn":"me"}`, "roleArn", "IAM role"},
		{`{"topic":"a","headers":{"payloadFormatIndicator":"UTF8"}}`, "headers.payloadFormatIndicator", "UTF8_DATA"},
		{`{"topic":"a","headers":{"correlationData":"?"}}`, "headers.correlationData", "base64"},
		{`{"topic":"a","headers":{"messageExpiry":"soon"}}`, "headers.messageExpiry", "seconds"},
		{`{"topic":"a","headers":{"responseTopic":"a/+"}}`, "headers.responseTopic", "wildcard"},
		{`{"topic":"a","headers":{"userProperties":[]}}`, "headers.userProperties", "1 to 100"},
		{`{"topic":"a","headers":{"userProperties":[{"key":"a"}]}}`, "headers.userProperties.0", "value"},
		{`{"topic":"a","headers":{"userProperties":[{"key":"a","value":"b\nc"}]}}`, "headers.userProperties.0.value", "control"},
	} {
		env := actiontest.Env(t, "")
		env.PublishAll = (&log{}).PublishAll
		_, _, err := Kind.New(t.Context(), env, json.RawMessage(c.config))
		var fe *actions.FieldError
		if !errors.As(err, &fe) || strings.Join(fe.Path, ".") != c.path || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v", c.config, err)
		}
	}
}

// The place of a mistake counts from the text as written, $$ included.
func TestTemplateMistakeHasItsPlace(t *testing.T) {
	for src, want := range map[string]int{"a/${nope(}": 4, "$$aws/${nope(}": 8} {
		env := actiontest.Env(t, "")
		env.PublishAll = (&log{}).PublishAll
		_, _, err := Kind.New(t.Context(), env, json.RawMessage(`{"topic":`+quote(src)+`}`))
		var fe *actions.FieldError
		if !errors.As(err, &fe) || fe.Offset < want {
			t.Errorf("%s: %#v", src, err)
		}
	}
}

func TestWithoutPublishAllAKeyKeepsItsOrder(t *testing.T) {
	l := &log{}
	env := actiontest.Env(t, "")
	env.Publish = l.Publish
	fail := true
	l.fail = func(e *event.Event) error {
		if string(e.Payload) == "2" && fail {
			return errs.Errorf("log", errs.Unavailable, "not now")
		}
		return nil
	}
	a, _, err := Kind.New(t.Context(), env, json.RawMessage(`{"topic":"out"}`))
	if err != nil {
		t.Fatal(err)
	}
	var batch []*actions.Result
	for _, p := range []string{"1", "2", "3"} {
		r := actiontest.Result(1)
		r.Payload = []byte(p)
		batch = append(batch, r)
	}
	var be *actions.BatchError
	if err := a.Deliver(t.Context(), batch); !errors.As(err, &be) || be.Errs[0] != nil || !actions.IsUnreachable(be.Errs[1]) || !actions.IsUnreachable(be.Errs[2]) {
		t.Fatalf("want the second and all behind it to wait: %v", err)
	}
	fail = false
	if err := a.Deliver(t.Context(), batch[1:]); err != nil {
		t.Fatal(err)
	}
	var got string
	for _, e := range l.events {
		got += string(e.Payload)
	}
	if got != "123" {
		t.Errorf("order %s", got)
	}
}

func BenchmarkDeliver(b *testing.B) {
	for name, config := range map[string]string{
		"plain":   `{"topic":"out/${n}","qos":1}`,
		"headers": `{"topic":"out/${n}","qos":1,"headers":{"contentType":"application/json","userProperties":[{"key":"d","value":"${device}"}]}}`,
	} {
		b.Run(name, func(b *testing.B) {
			env := actiontest.Env(b, "")
			env.PublishAll = func(_ context.Context, events []*event.Event) []error { return make([]error, len(events)) }
			a, _, err := Kind.New(b.Context(), env, json.RawMessage(config))
			if err != nil {
				b.Fatal(err)
			}
			batch := make([]*actions.Result, 64)
			for i := range batch {
				batch[i] = actiontest.Result(i + 1)
			}
			b.ReportAllocs()
			for n := 0; n < b.N; n += len(batch) {
				if err := a.Deliver(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
