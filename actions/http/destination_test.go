package http

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	nethttp "net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/internal/errs"
)

// memory is a Store.
type memory struct {
	mu  sync.Mutex
	rev uint64
	all map[string]entry // guarded by mu
}

type entry struct {
	value []byte
	rev   uint64
}

func (m *memory) Update(_ context.Context, id string, value []byte, expected uint64) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all[id].rev != expected {
		return 0, errs.Errorf("memory.Update", errs.Conflict, "revision %d, have %d", expected, m.all[id].rev)
	}
	m.rev++
	if m.all == nil {
		m.all = map[string]entry{}
	}
	if value == nil {
		delete(m.all, id)
	} else {
		m.all[id] = entry{value, m.rev}
	}
	return m.rev, nil
}

func (m *memory) Scan(_ context.Context, fn func(string, []byte, uint64) error) error {
	m.mu.Lock()
	all := maps.Clone(m.all)
	m.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if err := fn(id, all[id].value, all[id].rev); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, e := range m.all {
		b.Write(e.value)
	}
	return b.String()
}

// clock is a time that tests turn.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time      { c.mu.Lock(); defer c.mu.Unlock(); return c.at }
func (c *clock) add(d time.Duration) { c.mu.Lock(); c.at = c.at.Add(d); c.mu.Unlock() }

func destinations(t testing.TB, store Store, change ...func(*DestinationOptions)) *Destinations {
	t.Helper()
	o := DestinationOptions{Store: store, AccountID: "123456789012", Region: "us-east-1", EnableURL: "http://127.0.0.1:8080/", Policy: Policy{AllowPrivate: true}}
	for _, c := range change {
		c(&o)
	}
	d, err := OpenDestinations(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// run runs d until the test ends.
func run(t testing.TB, d *Destinations) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = d.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

type challenge struct{ ARN, ConfirmationToken, EnableURL, MessageType string }

func TestHandshake(t *testing.T) {
	got := &receiver{}
	srv := httptest.NewServer(got)
	defer srv.Close()
	store := &memory{}
	d := destinations(t, store)
	run(t, d)
	if err := d.Confirm(t.Context(), srv.URL+"/hook"); err != nil {
		t.Fatal(err)
	}
	if err := d.Confirm(t.Context(), srv.URL+"/hook"); err != nil { // there is one already
		t.Fatal(err)
	}
	eventually(t, "the request to confirm", func() bool { return len(got.all()) > 0 })
	q := got.all()[0]
	var c challenge
	if err := json.Unmarshal([]byte(q.body), &c); err != nil {
		t.Fatal(err)
	}
	if q.header.Get("X-Amz-Rules-Engine-Message-Type") != "DestinationConfirmation" || c.MessageType != "DestinationConfirmation" ||
		q.header.Get("X-Amz-Rules-Engine-Destination-Arn") != c.ARN || q.header.Get("Content-Type") != "application/json" ||
		q.url != "/hook?confirmationToken="+c.ConfirmationToken || c.EnableURL != "http://127.0.0.1:8080/confirmdestination/"+c.ConfirmationToken ||
		!strings.HasPrefix(c.ARN, "arn:aws:iot:us-east-1:123456789012:ruledestination/http/") || len(c.ConfirmationToken) < 40 {
		t.Errorf("%s %v\n%+v", q.url, q.header, c)
	}
	if strings.Contains(store.text(), c.ConfirmationToken) {
		t.Error("the token lies in the store")
	}
	eventually(t, "the note that it was sent", func() bool { x, _ := d.Get(t.Context(), c.ARN); return x.Sent })
	enabled := func(u string) bool {
		ok, err := d.Enabled(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if enabled(srv.URL + "/hook") {
		t.Error("enabled before it was confirmed")
	}
	if _, err := d.Accept(t.Context(), c.ConfirmationToken+"x"); !errs.Is(err, errs.NotFound) {
		t.Errorf("a wrong token: %v", err)
	}
	if _, err := d.Accept(t.Context(), ""); !errs.Is(err, errs.NotFound) {
		t.Errorf("no token: %v", err)
	}
	if x, err := d.Accept(t.Context(), c.ConfirmationToken); err != nil || x.Status != Enabled || x.ARN != c.ARN {
		t.Fatalf("%+v, %v", x, err)
	}
	if _, err := d.Accept(t.Context(), c.ConfirmationToken); !errs.Is(err, errs.NotFound) {
		t.Errorf("a used token: %v", err)
	}
	for u, want := range map[string]bool{
		srv.URL + "/hook": true, srv.URL + "/hook/x": true, srv.URL + "/hook?a=b": true,
		srv.URL + "/other": false, "http://127.0.0.1:1/hook": false, strings.Replace(srv.URL, "http:", "https:", 1) + "/hook": false,
		"http://evil.example/?" + srv.URL + "/hook": false,
	} {
		if enabled(u) != want {
			t.Errorf("%s: %v", u, !want)
		}
	}
	if n := len(got.all()); n != 1 {
		t.Errorf("%d requests to confirm", n)
	}
	// What another process sees.
	other := destinations(t, store)
	if ok, _ := other.Enabled(t.Context(), srv.URL+"/hook"); !ok {
		t.Error("another process does not know it")
	}
}

func TestStates(t *testing.T) {
	ctx := t.Context()
	d := destinations(t, &memory{}, func(o *DestinationOptions) { o.EnableLoopback = true })
	x, err := d.Create(ctx, "http://localhost:1/")
	if err != nil || x.Status != Enabled {
		t.Fatalf("%+v, %v", x, err)
	}
	step := func(to Status, kind errs.Kind, want Status) {
		t.Helper()
		_, err := d.Update(ctx, x.ARN, to)
		if (err == nil) != (kind == 99) || err != nil && !errs.Is(err, kind) {
			t.Errorf("to %s: %v", to, err)
		}
		if got, _ := d.Get(ctx, x.ARN); got.Status != want {
			t.Errorf("to %s: it is %s", to, got.Status)
		}
	}
	const fine = errs.Kind(99)
	step(Disabled, fine, Disabled)
	step(Disabled, fine, Disabled)
	if ok, _ := d.Enabled(ctx, "http://localhost:1/"); ok {
		t.Error("a disabled one is enabled")
	}
	step(Enabled, fine, Enabled)
	step(Failed, errs.Invalid, Enabled)
	step("", errs.Invalid, Enabled)
	step(InProgress, fine, InProgress)
	step(Enabled, errs.Invalid, InProgress)
	step(Disabled, errs.Invalid, InProgress)
	if _, err := d.Update(ctx, "arn:x/y", Enabled); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	if _, err := d.Create(ctx, "http://localhost:1/"); !errs.Is(err, errs.Exists) {
		t.Error(err)
	}
	if l, err := d.List(ctx); err != nil || len(l) != 1 {
		t.Errorf("%v, %v", l, err)
	}
	if err := d.Delete(ctx, x.ARN); err != nil {
		t.Error(err)
	}
	if err := d.Delete(ctx, x.ARN); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	if _, err := d.Create(ctx, "http://localhost:1/"); err != nil {
		t.Error(err)
	}
}

func TestOnlyLoopbackIsEnabledUnasked(t *testing.T) {
	for u, want := range map[string]Status{
		"http://127.0.0.1:9/x": Enabled, "http://[::1]:9/": Enabled, "http://localhost/": Enabled,
		"http://10.0.0.1/": InProgress, "https://a.example/": InProgress, "http://localhost.example/": InProgress,
	} {
		d := destinations(t, &memory{}, func(o *DestinationOptions) { o.EnableLoopback = true })
		if x, err := d.Create(t.Context(), u); err != nil || x.Status != want {
			t.Errorf("%s: %+v, %v", u, x, err)
		}
		d = destinations(t, &memory{})
		if x, err := d.Create(t.Context(), u); err != nil || x.Status != InProgress {
			t.Errorf("%s, not configured: %+v, %v", u, x, err)
		}
	}
	d := destinations(t, &memory{}, func(o *DestinationOptions) { o.EnableLoopback, o.Policy = true, Policy{} })
	if _, err := d.Create(t.Context(), "http://127.0.0.1/"); !errs.Is(err, errs.Invalid) {
		t.Errorf("plain http in production: %v", err)
	}
	if x, err := d.Create(t.Context(), "https://127.0.0.1/"); err != nil || x.Status != InProgress {
		t.Errorf("loopback in production: %+v, %v", x, err)
	}
	for _, u := range []string{"", "x", "ftp://a.example", "https://u:p@a.example", "https://a.example/#f", "https://a.example/../x"} {
		if _, err := d.Create(t.Context(), u); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", u, err)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	got := &receiver{then: func(w nethttp.ResponseWriter, r *nethttp.Request) { w.WriteHeader(500) }}
	srv := httptest.NewServer(got)
	defer srv.Close()
	c := &clock{at: time.Now()}
	d := destinations(t, &memory{}, func(o *DestinationOptions) { o.Now = c.now })
	defer d.client.close()
	x, err := d.Create(t.Context(), srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	status := func() Destination { x, _ := d.Get(t.Context(), x.ARN); return x }
	for i := range sendTries {
		d.work(t.Context())
		d.work(t.Context()) // too early for the next
		if n := len(got.all()); n != i+1 {
			t.Fatalf("%d requests after %d turns", n, i+1)
		}
		c.add(sendPause << i)
	}
	if s := status(); s.Status != Failed || !strings.Contains(s.StatusReason, "500") {
		t.Errorf("%+v", s)
	}
	// Asked again, it is sent, and lapses when nobody confirms.
	got.mu.Lock()
	got.then = nil
	got.mu.Unlock()
	if _, err := d.Update(t.Context(), x.ARN, InProgress); err != nil {
		t.Fatal(err)
	}
	d.work(t.Context())
	if s := status(); s.Status != InProgress || !s.Sent {
		t.Errorf("%+v", s)
	}
	var ch challenge
	all := got.all()
	_ = json.Unmarshal([]byte(all[len(all)-1].body), &ch)
	c.add(72 * time.Hour)
	if _, err := d.Accept(t.Context(), ch.ConfirmationToken); !errs.Is(err, errs.NotFound) {
		t.Errorf("a lapsed token: %v", err)
	}
	d.work(t.Context())
	if s := status(); s.Status != Failed || !strings.Contains(s.StatusReason, "in time") {
		t.Errorf("%+v", s)
	}
}

// A request to confirm is a request like others: not into closed networks.
func TestChallengeIsGuarded(t *testing.T) {
	got := &receiver{}
	srv := httptest.NewServer(got)
	defer srv.Close()
	c := &clock{at: time.Now()}
	d := destinations(t, &memory{}, func(o *DestinationOptions) { o.Policy, o.Now = Policy{}, c.now })
	x, err := d.Create(t.Context(), strings.Replace(srv.URL, "http:", "https:", 1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sendTries {
		d.work(t.Context())
		c.add(sendPause << i)
	}
	if s, _ := d.Get(t.Context(), x.ARN); s.Status != Failed || !strings.Contains(s.StatusReason, "not open to webhooks") || len(got.all()) > 0 {
		t.Errorf("%+v", s)
	}
}

func TestQuota(t *testing.T) {
	store := &memory{}
	for i := range maxDestinations - 1 {
		x, _ := json.Marshal(Destination{ARN: fmt.Sprintf("arn:x/%d", i), ConfirmationURL: fmt.Sprintf("https://a.example/%d", i), Status: Enabled})
		if _, err := store.Update(t.Context(), fmt.Sprint(i), x, 0); err != nil {
			t.Fatal(err)
		}
	}
	d := destinations(t, store)
	if _, err := d.Create(t.Context(), "https://a.example/last"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(t.Context(), "https://a.example/more"); !errs.Is(err, errs.Quota) {
		t.Errorf("%v", err)
	}
}

// The whole way: a rule asks, its owner confirms, the waiting result arrives.
func TestRuleWithDestination(t *testing.T) {
	got := &receiver{}
	srv := httptest.NewServer(got)
	defer srv.Close()
	d := destinations(t, &memory{})
	run(t, d)
	a, _ := open(t, `{"url":"`+srv.URL+`/data/${device}","confirmationUrl":"`+srv.URL+`/data"}`, func(e *actions.Env) { e.Destinations = d })
	if err := deliver(t, a, `{"device":"x"}`); !actions.IsUnreachable(err) {
		t.Fatalf("before: %v", err)
	}
	eventually(t, "the request to confirm", func() bool { return len(got.all()) > 0 })
	var c challenge
	_ = json.Unmarshal([]byte(got.all()[0].body), &c)
	if _, err := d.Accept(t.Context(), c.ConfirmationToken); err != nil {
		t.Fatal(err)
	}
	if err := deliver(t, a, `{"device":"x"}`); err != nil {
		t.Fatal(err)
	}
	if q := got.all()[1]; q.url != "/data/x" || q.body != `{"device":"x"}` {
		t.Errorf("%+v", q)
	}
}
