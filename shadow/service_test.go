package shadow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
)

func topicName(s string) topic.Name { return topic.Name(s) }

const patience = 20 * time.Second

// bench is a log with the buckets of a service.
type bench struct {
	t         testing.TB
	log       *eventlog.Log
	shadows   *kv.Bucket
	positions *kv.Bucket
	stop      func()
}

func newBench(t testing.TB, dir string) *bench {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	log, err := eventlog.Open(t.Context(), eventlog.Options{Dir: dir, Durability: eventlog.OS})
	if err != nil {
		t.Fatal(err)
	}
	return benchOn(t, log)
}

// benchOn runs a log that was opened.
func benchOn(t testing.TB, log *eventlog.Log) *bench {
	t.Helper()
	b := &bench{t: t, log: log}
	var err error
	if b.shadows, err = kv.Open(t.Context(), log, kv.Config{Name: Bucket, History: 64}); err != nil {
		t.Fatal(err)
	}
	if b.positions, err = kv.Open(t.Context(), log, kv.Config{Name: "leases"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := log.Run(ctx); err != nil {
			t.Errorf("log: %v", err)
		}
	}()
	b.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		log.Close()
	})
	t.Cleanup(b.stop)
	return b
}

// options returns those of a service that owns the log alone.
func (b *bench) options() Options {
	return Options{Log: b.log, Shadows: b.shadows, Positions: b.positions, Owner: "test", Limits: AWS(),
		Logger: slog.New(slog.NewTextHandler(testLog{b.t}, &slog.HandlerOptions{Level: slog.LevelInfo}))}
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// serve runs a service until the test, or the function it returns, ends it.
func (b *bench) serve(o Options) (*Service, func()) {
	b.t.Helper()
	s, err := Open(b.t.Context(), o)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	b.t.Cleanup(stop)
	return s, stop
}

func (b *bench) publish(client, name, payload string) *event.Event {
	b.t.Helper()
	e := &event.Event{Topic: topic.Name(name), Payload: []byte(payload), ClientID: client, QoS: 1}
	if err := b.log.Publish(b.t.Context(), e); err != nil {
		b.t.Fatal(err)
	}
	return e
}

// reader reads the events that match a filter, from the beginning of the log.
type reader struct {
	b    *bench
	f    *eventlog.Follower
	rest []*event.Event
}

func (b *bench) reader(filters ...topic.Filter) *reader {
	b.t.Helper()
	f, err := b.log.Follow(eventlog.FollowOptions{Filters: filters})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(f.Close)
	return &reader{b: b, f: f}
}

func (r *reader) next() *event.Event {
	r.b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for len(r.rest) == 0 {
		batch, _, err := r.f.Next(ctx, 100)
		if err != nil {
			r.b.t.Fatalf("no event: %v", err)
		}
		r.rest = append(r.rest, batch...)
	}
	e := r.rest[0]
	r.rest = r.rest[1:]
	return e
}

var timestamps = regexp.MustCompile(`("timestamp":)\d+`)

// want reads the next event and compares topic and payload, with every
// timestamp as T.
func (r *reader) want(name, payload string) {
	r.b.t.Helper()
	e := r.next()
	got := timestamps.ReplaceAllString(string(e.Payload), "${1}T")
	if string(e.Topic) != name || got != payload {
		r.b.t.Fatalf("got  %s %s\nwant %s %s", e.Topic, got, name, payload)
	}
}

// One conversation, answer by answer, as the guide has it.
func TestTopics(t *testing.T) {
	b := newBench(t, "")
	b.serve(b.options())
	const p = "$aws/things/lamp/shadow/"
	r := b.reader(p+"+/+", p+"name/+/+/+")
	b.publish("app", p+"get", `{"clientToken":"t0"}`)
	r.want(p+"get/rejected", `{"code":404,"message":"No shadow exists with name: 'lamp'","clientToken":"t0"}`)
	b.publish("app", p+"update", `{"state":{"desired":{"color":{"r":10},"engine":"ON"}},"clientToken":"t1"}`)
	r.want(p+"update/accepted", `{"state":{"desired":{"color":{"r":10},"engine":"ON"}},"metadata":{"desired":{"color":{"r":{"timestamp":T}},"engine":{"timestamp":T}}},"version":1,"timestamp":T,"clientToken":"t1"}`)
	r.want(p+"update/delta", `{"version":1,"timestamp":T,"state":{"color":{"r":10},"engine":"ON"},"metadata":{"color":{"r":{"timestamp":T}},"engine":{"timestamp":T}},"clientToken":"t1"}`)
	r.want(p+"update/documents", `{"previous":null,"current":{"state":{"desired":{"color":{"r":10},"engine":"ON"}},"metadata":{"desired":{"color":{"r":{"timestamp":T}},"engine":{"timestamp":T}}},"version":1},"timestamp":T,"clientToken":"t1"}`)
	b.publish("lamp", p+"update", `{"state":{"reported":{"color":{"r":10}}}}`)
	r.want(p+"update/accepted", `{"state":{"reported":{"color":{"r":10}}},"metadata":{"reported":{"color":{"r":{"timestamp":T}}}},"version":2,"timestamp":T}`)
	r.want(p+"update/delta", `{"version":2,"timestamp":T,"state":{"engine":"ON"},"metadata":{"engine":{"timestamp":T}}}`)
	if e := r.next(); e.Aside != "1 1" {
		t.Errorf("the change that tells of itself says %q aside, not the versions of desired and reported", e.Aside)
	}
	b.publish("lamp", p+"get", ``)
	r.want(p+"get/accepted", `{"state":{"desired":{"color":{"r":10},"engine":"ON"},"reported":{"color":{"r":10}},"delta":{"engine":"ON"}},"metadata":{"desired":{"color":{"r":{"timestamp":T}},"engine":{"timestamp":T}},"reported":{"color":{"r":{"timestamp":T}}},"delta":{"engine":{"timestamp":T}}},"version":2,"timestamp":T}`)
	b.publish("app", p+"update", `{"state":{"desired":{"engine":"OFF"}},"version":1,"clientToken":"t2"}`)
	r.want(p+"update/rejected", `{"code":409,"message":"Version conflict","clientToken":"t2"}`)
	b.publish("app", p+"update", `{"state":{"desired":null},"version":2}`)
	r.want(p+"update/accepted", `{"state":{"desired":null},"metadata":{},"version":3,"timestamp":T}`)
	r.next()
	b.publish("app", p+"update", `{"state":{"other":1}}`)
	r.want(p+"update/rejected", `{"code":400,"message":"State contains an invalid node","timestamp":T}`)
	b.publish("app", p+"update", `{"state":{"reported":{"x":"`+strings.Repeat("y", 8200)+`"}}}`)
	r.want(p+"update/rejected", `{"code":413,"message":"The payload exceeds the maximum size allowed","timestamp":T}`)
	b.publish("app", p+"delete", `{"clientToken":"t3"}`)
	r.want(p+"delete/accepted", `{"version":3,"timestamp":T,"clientToken":"t3"}`)
	b.publish("app", p+"delete", ``)
	r.want(p+"delete/rejected", `{"code":404,"message":"No shadow exists with name: 'lamp'"}`)
	b.publish("app", p+"update", `{"state":{"desired":{"a":[1,[2]]}}}`)
	r.want(p+"update/accepted", `{"state":{"desired":{"a":[1,[2]]}},"metadata":{"desired":{"a":[{"timestamp":T},[{"timestamp":T}]]}},"version":4,"timestamp":T}`)
	r.next()
	r.next()
	b.publish("app", p+"name/n1/update", `{"state":{"reported":{"on":true}}}`)
	r.want(p+"name/n1/update/accepted", `{"state":{"reported":{"on":true}},"metadata":{"reported":{"on":{"timestamp":T}}},"version":1,"timestamp":T}`)
	r.next()
	b.publish("app", p+"name/n%/update", `{}`)
	r.want(p+"name/n%/update/rejected", `{"code":400,"message":"Invalid shadow name","timestamp":T}`)
}

func code(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func TestAPI(t *testing.T) {
	b := newBench(t, "")
	s, _ := b.serve(b.options())
	ctx := t.Context()
	who := Who{ClientID: "cli", Principal: "me", SourceIP: "::1", Via: "http"}
	if _, err := s.Get(ctx, "lamp", ""); code(err) != 404 || !errs.Is(err, errs.NotFound) {
		t.Fatal(err)
	}
	for i, body := range []string{`{"state":{"desired":{"n":1}}}`, `{"state":{"desired":{"n":2,"m":1}}}`, `{"state":{"reported":{"n":2}}}`} {
		if out, err := s.Update(ctx, "lamp", "", []byte(body), who); err != nil || !bytes.Contains(out, []byte(`"version":`+uitoa(uint64(i+1)))) {
			t.Fatalf("%s %v", out, err)
		}
	}
	if _, err := s.Update(ctx, "lamp", "", []byte(`{"state":{},"version":1}`), who); code(err) != 409 || !errs.Is(err, errs.Conflict) {
		t.Fatal(err)
	}
	d, err := s.Read(ctx, "lamp", "")
	if err != nil || d.Version != 3 || d.Desired.Version != 2 || d.Reported.Version != 1 || d.By != who || d.Apart.IsZero() || string(d.Desired.State) != `{"n":2,"m":1}` {
		t.Fatalf("%+v %v", d, err)
	}
	if got, _ := s.Get(ctx, "lamp", ""); string(d.AWS(time.Now()))[:60] != string(got)[:60] {
		t.Fatalf("%s %s", d.AWS(time.Now()), got)
	}
	past, err := s.Past(ctx, "lamp", "", At{Version: 1})
	if err != nil || string(past.Desired.State) != `{"n":1}` {
		t.Fatalf("%+v %v", past, err)
	}
	if diff, _ := json.Marshal(Diff(past, d)); string(diff) != `[{"path":"desired.n","old":1,"new":2},{"path":"desired.m","new":1},{"path":"reported.n","new":2}]` {
		t.Fatalf("%s", diff)
	}
	r, err := s.Restore(ctx, "lamp", "", At{Version: 1}, false, who)
	if err != nil || r.Version != 4 || string(r.Desired.State) != `{"n":1}` || string(r.Reported.State) != `{"n":2}` || r.Note != "restored version 1" {
		t.Fatalf("%+v %v", r, err)
	}
	if _, err := s.Delete(ctx, "lamp", "", who); err != nil {
		t.Fatal(err)
	}
	h, err := s.History(ctx, "lamp", "", 0)
	if err != nil || len(h) != 5 || !h[0].Deleted || h[0].Version != 4 || h[4].Version != 1 {
		t.Fatalf("%+v %v", h, err)
	}
	if r, err = s.Restore(ctx, "lamp", "", At{Version: 3}, true, who); err != nil || r.Version != 5 || string(r.Reported.State) != `{"n":2}` {
		t.Fatalf("%+v %v", r, err)
	}
	// Tags and sections, as another dialect changes them.
	v := uint64(5)
	c, err := s.Change(ctx, "lamp", "", Change{Tags: []byte(`{"floor":3}`), Version: &v}, who)
	if err != nil || c.Version != 6 || c.Tags.Version != 2 || string(c.Tags.State) != `{"floor":3}` || c.Desired.Version != r.Desired.Version {
		t.Fatalf("%+v %v", c, err)
	}
	if _, err := s.Change(ctx, "lamp", "", Change{Tags: []byte(`null`), Version: &v}, who); code(err) != 409 {
		t.Fatal(err)
	}
	for _, n := range []string{"b", "a", "$x", "c:1"} {
		if _, err := s.Update(ctx, "lamp", n, []byte(`{"state":{"reported":{}}}`), who); err != nil {
			t.Fatal(err)
		}
	}
	page, err := s.List(ctx, "lamp", 3, "")
	if err != nil || strings.Join(page.Results, " ") != "$x a b" || page.NextToken == "" {
		t.Fatalf("%+v %v", page, err)
	}
	if page, err = s.List(ctx, "lamp", 3, page.NextToken); err != nil || strings.Join(page.Results, " ") != "c:1" || page.NextToken != "" {
		t.Fatalf("%+v %v", page, err)
	}
	all, err := s.All(ctx, "")
	if err != nil || len(all) != 5 {
		t.Fatalf("%+v %v", all, err)
	}
	for _, c := range []struct{ thing, name string }{{"", ""}, {"a b", ""}, {"t", "a/b"}, {strings.Repeat("x", 129), ""}, {"t", strings.Repeat("x", 65)}} {
		if _, err := s.Get(ctx, c.thing, c.name); code(err) != 400 {
			t.Errorf("%q %q: %v", c.thing, c.name, err)
		}
	}
}

// What was published while the service was down is applied when it is back, and
// what it did before is not done again.
func TestDown(t *testing.T) {
	b := newBench(t, "")
	const p = "$aws/things/lamp/shadow/"
	for i := range 30 {
		b.publish("lamp", p+"update", `{"state":{"reported":{"n":`+uitoa(uint64(i))+`}}}`)
	}
	o := b.options()
	s, stop := b.serve(o)
	wait := func(want uint64) *Document {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
			if d, err := s.Read(t.Context(), "lamp", ""); err == nil && d.Version >= want {
				return d
			}
			if time.Now().After(end) {
				t.Fatalf("version %d was not reached", want)
			}
		}
	}
	if d := wait(30); string(d.Reported.State) != `{"n":29}` {
		t.Fatalf("%+v", d)
	}
	r := b.reader(p + "update/accepted")
	seen := map[uint64]string{}
	accepted := func() {
		t.Helper()
		var doc struct{ Version uint64 }
		e := r.next()
		if err := json.Unmarshal(e.Payload, &doc); err != nil {
			t.Fatal(err)
		}
		if old, ok := seen[doc.Version]; ok && old != string(e.Payload) {
			t.Fatalf("version %d was accepted with %s and with %s", doc.Version, old, e.Payload)
		}
		seen[doc.Version] = string(e.Payload)
	}
	for range 30 {
		accepted()
	}
	stop()
	h, err := s.History(t.Context(), "lamp", "", 0)
	if err != nil || len(h) != 30 {
		t.Fatalf("%d versions of 30: %v", len(h), err)
	}
	// As after a crash right before the position was saved.
	e, err := b.positions.Get(t.Context(), leaseKey(0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.positions.Update(t.Context(), leaseKey(0), []byte(`{"owner":"test","epoch":5,"position":0}`), e.Revision); err != nil {
		t.Fatal(err)
	}
	b.publish("lamp", p+"update", `{"state":{"reported":{"n":30}}}`)
	s, _ = b.serve(o)
	if d := wait(31); d.Version != 31 {
		t.Fatalf("version %d: something was applied twice", d.Version)
	}
	for range 31 {
		accepted()
	}
	if len(seen) != 31 {
		t.Fatalf("%d versions", len(seen))
	}
}

// A connection may have 10 requests for a thing in flight.
func TestInFlight(t *testing.T) {
	b := newBench(t, "")
	s, _ := b.serve(b.options())
	if _, err := s.Update(t.Context(), "lamp", "", []byte(`{"state":{}}`), Who{}); err != nil {
		t.Fatal(err)
	}
	const p = "$aws/things/lamp/shadow/"
	r := b.reader(p+"update/accepted", p+"update/rejected")
	r.next()
	const n = 200
	for range n {
		e := &event.Event{Topic: p + "update", Payload: []byte(`{"state":{}}`), ClientID: "hasty", QoS: 1}
		if err := b.log.Append(t.Context(), e, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	refused := 0
	for range n {
		if e := r.next(); strings.HasSuffix(string(e.Topic), "rejected") {
			if !bytes.Contains(e.Payload, []byte(`"code":429`)) {
				t.Fatalf("%s", e.Payload)
			}
			refused++
		}
	}
	d, err := s.Read(t.Context(), "lamp", "")
	if err != nil || refused == 0 || d.Version != uint64(1+n-refused) {
		t.Fatalf("%d refused, version %d: %v", refused, d.Version, err)
	}
}

// Deltas that no report answers come again, and an event says so.
func TestApart(t *testing.T) {
	b := newBench(t, "")
	o := b.options()
	o.Resend, o.Diverged = 30*time.Millisecond, 60*time.Millisecond
	_, stop := b.serve(o)
	const p = "$aws/things/lamp/shadow/"
	r := b.reader(p+"update/delta", "$aws/events/shadow/#")
	b.publish("app", p+"update", `{"state":{"desired":{"on":true}}}`)
	deltas, diverged := 0, 0
	for deltas < 3 || diverged < 1 {
		if e := r.next(); strings.HasPrefix(string(e.Topic), "$aws/events/") {
			if diverged++; e.Topic != "$aws/events/shadow/diverged/lamp" || !bytes.Contains(e.Payload, []byte(`"delta":{"on":true}`)) {
				t.Fatalf("%s %s", e.Topic, e.Payload)
			}
		} else if deltas++; !bytes.Contains(e.Payload, []byte(`"version":1`)) {
			t.Fatalf("%s", e.Payload)
		}
	}
	// Also after a restart; the divergence has been said.
	stop()
	o.Resend = 10 * time.Millisecond
	_, stop = b.serve(o)
	more := b.log.Committed(0)
	for {
		e := r.next()
		if strings.HasPrefix(string(e.Topic), "$aws/events/") && e.Seq > more {
			t.Fatal("the divergence was said again")
		}
		if e.Seq > more {
			break
		}
	}
	b.publish("lamp", p+"update", `{"state":{"reported":{"on":true}}}`)
	acc := b.reader(p + "update/accepted")
	acc.next()
	acc.next()
	end := b.log.Committed(0)
	stop()
	if b.log.Committed(0) > end+1 { // documents may follow
		t.Error("a delta that is answered was sent again")
	}
}

func TestTombstone(t *testing.T) {
	l := AWS()
	p, _ := parseUpdate([]byte(`{"state":{"desired":{"a":1}}}`), &l)
	var r *record
	at := int64(1_700_000_000_000)
	r, _ = r.apply(&p, at, &l)
	r, _ = r.apply(&p, at-5000, &l)
	if r.version != 2 || r.at != at {
		t.Fatalf("%+v: time goes back", r)
	}
	gone := r.remove(at + 1)
	if n, _ := gone.apply(&p, at+survives.Milliseconds(), &l); n.version != 3 {
		t.Errorf("version %d within 48 hours", n.version)
	}
	if n, _ := gone.apply(&p, at+survives.Milliseconds()+2, &l); n.version != 1 {
		t.Errorf("version %d after 48 hours", n.version)
	}
}
