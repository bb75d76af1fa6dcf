package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/telemetry"
)

// fake is every service behind the API, of function fields.
type fake struct {
	apply   func(file string, content []byte, dry bool) ([]Applied, error)
	tail    func(ctx context.Context, o TailOptions, fn func(*event.Event) error, gap func(int, uint64, uint64) error) error
	redrive func(q RedriveRequest) (*Redriven, error)
	fail    error
}

func (f *fake) List(context.Context) ([]Rule, error) { return nil, f.fail }
func (f *fake) Get(_ context.Context, name string) (*Rule, error) {
	return &Rule{Name: name, Document: json.RawMessage(`{"sql":"a < b"}`)}, f.fail
}
func (f *fake) Apply(_ context.Context, file string, content []byte, dry bool) ([]Applied, error) {
	return f.apply(file, content, dry)
}
func (f *fake) SetEnabled(context.Context, string, bool) error { return f.fail }
func (f *fake) Delete(context.Context, string) error           { return f.fail }
func (f *fake) Status(context.Context) (*Status, error)        { return &Status{Ready: true}, f.fail }
func (f *fake) Tail(ctx context.Context, o TailOptions, fn func(*event.Event) error, gap func(int, uint64, uint64) error) error {
	return f.tail(ctx, o, fn, gap)
}

type fakeDead struct{ *fake }

func (f fakeDead) List(_ context.Context, rule string, after uint64, max int) ([]DeadLetter, error) {
	return []DeadLetter{{Seq: after + 1, Rule: rule}}, f.fail
}
func (f fakeDead) Get(_ context.Context, seq uint64) (*DeadLetter, error) {
	return &DeadLetter{Seq: seq, Payload: []byte("text"), Original: []byte{0xff, 0}}, f.fail
}
func (f fakeDead) Redrive(_ context.Context, q RedriveRequest) (*Redriven, error) {
	return f.redrive(q)
}

const token = "0123456789abcdef-token"

// serve runs an API over f until the test ends.
func serve(t *testing.T, f *fake) *Client {
	t.Helper()
	s, err := New(Options{Token: token, Hosts: []string{"weir.example.com"}, Rules: f, Status: f, Tailer: f, Dead: fakeDead{f},
		Health: telemetry.Health(func(context.Context) error { return nil }), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	tr := &http.Transport{}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &Client{URL: "http://" + l.Addr().String(), Token: token, HTTP: &http.Client{Transport: tr}}
}

func TestWhoMayAsk(t *testing.T) {
	c := serve(t, &fake{})
	for _, tc := range []struct {
		name, path string
		header     http.Header
		host       string
		want       int
	}{
		{"token", "/weir/v1/status", http.Header{"Authorization": {"Bearer " + token}}, "", 200},
		{"no token", "/weir/v1/status", nil, "", 401},
		{"wrong token", "/weir/v1/status", http.Header{"Authorization": {"Bearer " + token + "x"}}, "", 401},
		{"token as password", "/weir/v1/status", http.Header{"Authorization": {"Basic " + token}}, "", 401},
		{"health without token", "/healthz", nil, "", 200},
		{"unknown path without token", "/x", nil, "", 404},
		{"another name for this address", "/healthz", nil, "evil.example.com:8080", 403},
		{"a name from the configuration", "/healthz", nil, "Weir.example.com", 200},
		{"loopback, IPv6", "/healthz", nil, "[::1]:8080", 200},
		{"another address", "/healthz", nil, "192.0.2.1:8080", 403},
		{"a page from elsewhere", "/weir/v1/status", http.Header{"Authorization": {"Bearer " + token}, "Origin": {"https://evil.example.com"}}, "", 403},
		{"a sandboxed page", "/healthz", http.Header{"Origin": {"null"}}, "", 403},
	} {
		req, err := http.NewRequest("GET", c.URL+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tc.header != nil {
			req.Header = tc.header
		}
		if tc.host != "" {
			req.Host = tc.host
		}
		resp, err := c.HTTP.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tc.want {
			t.Errorf("%s: %s %s, want %d", tc.name, resp.Status, b, tc.want)
		}
		if resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: a CORS header", tc.name)
		}
		var e ErrorBody
		if resp.StatusCode >= 400 && (json.Unmarshal(b, &e) != nil || e.Error.Kind == "" || e.Error.Message == "") {
			t.Errorf("%s: the error is %s", tc.name, b)
		}
	}
}

type detailed struct{}

func (detailed) Error() string  { return "1:8: wrong" }
func (detailed) Detail() string { return "1:8: wrong\n  SELECT\n  ^" }

func TestErrors(t *testing.T) {
	f := &fake{}
	c := serve(t, f)
	for kind, want := range statusOf {
		f.fail = errs.Errorf("op", kind, "said so")
		_, err := c.Status(t.Context())
		var r *RemoteError
		if !errors.As(err, &r) || r.Status != want || r.Info.Message != "said so" || r.Info.Kind != kind.String() {
			t.Errorf("%v: %+v", kind, err)
		}
	}
	f.apply = func(string, []byte, bool) ([]Applied, error) { return nil, errs.E("op", errs.Invalid, detailed{}) }
	_, err := c.Apply(t.Context(), "a.yaml", []byte("x"), false)
	var r *RemoteError
	if !errors.As(err, &r) || r.Detail() != (detailed{}).Detail() {
		t.Errorf("%+v", err)
	}
	_, err = c.Apply(t.Context(), "a.yaml", make([]byte, maxBody+1), false)
	if !errors.As(err, &r) || r.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("%+v", err)
	}
	_, err = (&Client{URL: "http://127.0.0.1:1", Token: token}).Status(t.Context())
	if !errs.Is(err, errs.Unavailable) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestApply(t *testing.T) {
	f := &fake{}
	c := serve(t, f)
	f.apply = func(file string, content []byte, dry bool) ([]Applied, error) {
		if file != "rules/ä b.yaml" || string(content) != "doc" || !dry {
			t.Errorf("%q %q %v", file, content, dry)
		}
		return []Applied{{Name: "r", Result: "valid", Warnings: []Problem{{Message: "w"}}}}, nil
	}
	a, err := c.Apply(t.Context(), "rules/ä b.yaml", []byte("doc"), true)
	if err != nil || len(a) != 1 || a[0].Name != "r" || len(a[0].Warnings) != 1 {
		t.Errorf("%+v %v", a, err)
	}
	rule, err := c.Rule(t.Context(), "r")
	if err != nil || string(rule.Document) != `{"sql":"a < b"}` {
		t.Errorf("%s %v", rule.Document, err)
	}
}

func TestUnknownParametersAreRefused(t *testing.T) {
	f := &fake{tail: func(context.Context, TailOptions, func(*event.Event) error, func(int, uint64, uint64) error) error {
		return nil
	}}
	c := serve(t, f)
	for _, path := range []string{"/weir/v1/tail?fliter=a", "/weir/v1/tail?since=yesterday", "/weir/v1/tail?last=-1", "/weir/v1/tail?follow=1",
		"/weir/v1/tail?last=1&last=2", "/weir/v1/dead?max=100000", "/weir/v1/dead/x"} {
		u, q, _ := strings.Cut(path, "?")
		req, _ := http.NewRequest("GET", c.URL+u+"?"+q, nil)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := c.HTTP.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}

func TestTail(t *testing.T) {
	f := &fake{}
	c := serve(t, f)
	at := time.UnixMilli(1_780_000_000_000).UTC()
	started := make(chan struct{})
	f.tail = func(ctx context.Context, o TailOptions, fn func(*event.Event) error, gap func(int, uint64, uint64) error) error {
		if o.Filter != "a/#" || !o.Since.Equal(at) || o.Last != 3 || !o.Follow {
			t.Errorf("%+v", o)
		}
		for _, p := range [][]byte{[]byte(`{"a":"<b>"}`), {0xff, 0xfe}} {
			if err := fn(&event.Event{Topic: "a/b", Payload: p, ClientID: "c", Received: at, Seq: 7}); err != nil {
				return err
			}
		}
		if err := gap(0, 3, 5); err != nil {
			return err
		}
		close(started)
		<-ctx.Done()
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	var lines []TailLine
	err := c.Tail(ctx, TailOptions{Filter: "a/#", Since: at, Last: 3, Follow: true}, func(l *TailLine, raw []byte) error {
		lines = append(lines, *l)
		if len(lines) == 3 {
			cancel()
		}
		return nil
	})
	if err != nil || len(lines) != 3 {
		t.Fatalf("%+v %v", lines, err)
	}
	<-started
	if lines[0].Payload != `{"a":"<b>"}` || lines[0].Topic != "a/b" || lines[0].Seq != 7 || lines[1].PayloadBase64 != "//4=" ||
		lines[2].Gap == nil || *lines[2].Gap != (Gap{0, 3, 5}) {
		t.Errorf("%+v", lines)
	}

	// An error before the first line is an answer, one after it the last line.
	for _, n := range []int{0, 1} {
		f.tail = func(_ context.Context, _ TailOptions, fn func(*event.Event) error, _ func(int, uint64, uint64) error) error {
			for range n {
				if err := fn(&event.Event{Topic: "a"}); err != nil {
					return err
				}
			}
			return errs.Errorf("op", errs.Unavailable, "the log is being opened again")
		}
		got := 0
		err := c.Tail(t.Context(), TailOptions{}, func(*TailLine, []byte) error { got++; return nil })
		var r *RemoteError
		if !errors.As(err, &r) || r.Info.Message != "the log is being opened again" || got != n {
			t.Errorf("%d lines, then %v", got, err)
		}
	}
}

// A tail without events still answers at once, and lives on past the time limit
// of other requests' reading.
func TestTailAnswersAtOnce(t *testing.T) {
	f := &fake{}
	c := serve(t, f)
	f.tail = func(ctx context.Context, _ TailOptions, _ func(*event.Event) error, _ func(int, uint64, uint64) error) error {
		<-ctx.Done()
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	opened := false
	err := c.TailOpened(ctx, TailOptions{Follow: true}, func() { opened = true; cancel() }, func(*TailLine, []byte) error { return nil })
	if err != nil || !opened {
		t.Errorf("opened %v, %v", opened, err)
	}
}

func TestRedrive(t *testing.T) {
	f := &fake{}
	c := serve(t, f)
	f.redrive = func(q RedriveRequest) (*Redriven, error) {
		return &Redriven{Delivered: len(q.Seqs), Failed: len(q.Rule)}, nil
	}
	for _, bad := range []RedriveRequest{{}, {Rule: "r", All: true}, {Rule: "r", Seqs: []uint64{1}}} {
		if _, err := c.Redrive(t.Context(), bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	if r, err := c.Redrive(t.Context(), RedriveRequest{Seqs: []uint64{1, 2}}); err != nil || r.Delivered != 2 {
		t.Errorf("%+v %v", r, err)
	}
	l, err := c.DeadLetter(t.Context(), 9)
	if err != nil || l.Result.Payload != "text" || l.Message.PayloadBase64 != "/wA=" {
		t.Errorf("%+v %v", l, err)
	}
}

// A slow start of a request does not hold a connection for ever.
func TestSlowHeader(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a time limit")
	}
	c := serve(t, &fake{})
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: local"); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := bufio.NewReader(conn).ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection stays open: %v", err)
	}
}

func TestToken(t *testing.T) {
	dir := t.TempDir()
	first, err := OpenToken(dir)
	if err != nil || len(first) < 32 {
		t.Fatalf("%q %v", first, err)
	}
	if again, err := OpenToken(dir); err != nil || again != first {
		t.Errorf("%q %v", again, err)
	}
	path := filepath.Join(dir, TokenFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenToken(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a token others can read: %v", err)
	}
	if _, err := New(Options{Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("no token is accepted")
	}
}
