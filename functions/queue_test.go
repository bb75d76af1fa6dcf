package functions_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/functions"
	"github.com/weir-iot/weir/functions/sandbox"
	"github.com/weir-iot/weir/internal/errs"
)

// recorder is a web server that is a function.
type recorder struct {
	*httptest.Server
	mu    sync.Mutex
	seen  map[string][]string // request ids of a payload
	fail  int                 // requests that are refused before any is taken
	block chan struct{}       // nil: answers at once
}

func record(t testing.TB) *recorder {
	r := &recorder{seen: map[string][]string{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	b, _ := io.ReadAll(q.Body)
	r.mu.Lock()
	r.seen[string(b)] = append(r.seen[string(b)], q.Header.Get("Lambda-Runtime-Aws-Request-Id"))
	refuse := r.fail > 0
	r.fail--
	block := r.block
	r.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-q.Context().Done():
		}
	}
	switch {
	case refuse:
		w.WriteHeader(http.StatusInternalServerError)
	case strings.Contains(string(b), "large"):
		_, _ = w.Write(make([]byte, 8<<20))
	default:
		_, _ = w.Write(b)
	}
}

func (r *recorder) ids(payload string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.seen[payload]...)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func overHTTP(o *functions.Options) {
	o.HTTP = http.DefaultTransport
	o.Waits = []time.Duration{10 * time.Millisecond, 20 * time.Millisecond}
}

// An event that was accepted is tried three times, with one id, and then kept as
// lost; what was accepted and not done is there after a restart.
func TestQueue(t *testing.T) {
	dir := t.TempDir()
	s, end := openAt(t, dir, overHTTP)
	srv := record(t)
	deploy(t, s, "f", functions.Config{Runtime: "http", URL: srv.URL}, nil)
	queue := func(payload string) string {
		t.Helper()
		id, err := s.Enqueue(t.Context(), &functions.Request{Function: "f", Payload: []byte(payload)})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	srv.fail = 2
	id := queue(`"third time"`)
	eventually(t, "the queue is empty", func() bool { return s.Queued() == 0 })
	if got := srv.ids(`"third time"`); fmt.Sprint(got) != fmt.Sprint([]string{id, id, id}) {
		t.Errorf("%v, want %s three times", got, id)
	}
	srv.fail = 3
	id = queue(`"never"`)
	eventually(t, "the queue is empty", func() bool { return s.Queued() == 0 })
	srv.fail = 0
	check := func() {
		t.Helper()
		lost, err := s.Lost("f")
		if err != nil || len(lost) != 1 || lost[0].ID != id || lost[0].Tries != 3 || string(lost[0].Payload) != `"never"` || !strings.Contains(lost[0].Reason, "500") {
			t.Errorf("%+v, %v", lost, err)
		}
	}
	check()
	srv.mu.Lock()
	srv.block = make(chan struct{})
	srv.mu.Unlock()
	first := map[string]string{}
	for i := range 20 {
		p := fmt.Sprintf(`{"n":%d}`, i)
		first[p] = queue(p)
	}
	eventually(t, "some are under way", func() bool { return len(srv.ids(`{"n":0}`)) > 0 })
	end()
	srv.mu.Lock()
	close(srv.block)
	srv.block = nil
	srv.mu.Unlock()
	s, _ = openAt(t, dir, overHTTP)
	eventually(t, "the queue is empty", func() bool { return s.Queued() == 0 })
	for p, id := range first {
		got := srv.ids(p)
		if len(got) == 0 {
			t.Errorf("%s was lost", p)
		}
		for _, other := range got {
			if other != id {
				t.Errorf("%s came with %s and with %s", p, id, other)
			}
		}
	}
	check()
	if _, err := s.Enqueue(t.Context(), &functions.Request{Function: "g"}); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	if _, err := s.Enqueue(t.Context(), &functions.Request{Function: "f", Payload: make([]byte, functions.MaxEvent+1)}); !errs.Is(err, errs.TooLarge) {
		t.Error(err)
	}
}

func TestHTTPFunction(t *testing.T) {
	s, _ := open(t, overHTTP)
	srv := record(t)
	deploy(t, s, "f", functions.Config{Runtime: "http", URL: srv.URL, Timeout: 1}, nil)
	if r := invoke(t, s, "f", `{"a":1}`); string(r.Payload) != `{"a":1}` || fmt.Sprint(srv.ids(`{"a":1}`)) != "["+r.ID+"]" {
		t.Errorf("%+v", r)
	}
	if kind, _ := failureOf(t, invoke(t, s, "f", `"large"`)); kind != "Function.ResponseSizeTooLarge" {
		t.Error(kind)
	}
	srv.mu.Lock()
	srv.block = make(chan struct{})
	srv.mu.Unlock()
	if kind, _ := failureOf(t, invoke(t, s, "f", `2`)); kind != "Sandbox.Timedout" {
		t.Error(kind)
	}
	if _, err := s.Invoke(t.Context(), "f", []byte(`3`)); !errs.Is(err, errs.Timeout) {
		t.Error(err)
	}
	srv.CloseClientConnections()
	srv.Close()
	if _, err := s.Invoke(t.Context(), "f", []byte(`4`)); !errs.Is(err, errs.Unavailable) {
		t.Error(err)
	}
}

// A module is bounded in time, memory and answer.
func TestModulesAreBounded(t *testing.T) {
	s, _ := open(t, nil)
	for _, c := range []struct {
		mode, timeout int
		kind          string
	}{{2, 1, "Sandbox.Timedout"}, {3, 60, "Runtime.ExitError"}, {4, 1, "Sandbox.Timedout|Function.ResponseSizeTooLarge"}} {
		name := fmt.Sprintf("m%d", c.mode)
		deploy(t, s, name, functions.Config{Runtime: "wasm", Timeout: c.timeout, Memory: 64}, zipped(t, file{"main.wasm", string(module(c.mode, "x")), 0o644}))
		for range 2 {
			if kind, text := failureOf(t, invoke(t, s, name, `{}`)); !strings.Contains(c.kind, kind) {
				t.Errorf("%s: %s %s", name, kind, text)
			}
		}
	}
	deploy(t, s, "echo", functions.Config{Runtime: "wasm"}, zipped(t, file{"main.wasm", string(module(1, "")), 0o644}))
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			p := fmt.Sprintf(`{"n":%d}`, i)
			if out, err := s.Invoke(t.Context(), "echo", []byte(p)); err != nil || string(out) != p {
				t.Errorf("%s: %s, %v", p, out, err)
			}
		})
	}
	wg.Wait()
}

// Idle environments end, and the next call begins anew.
func TestScaleToZero(t *testing.T) {
	s, _ := open(t, func(o *functions.Options) { o.Idle = 50 * time.Millisecond })
	deploy(t, s, "celsius", functions.Config{Runtime: "provided"}, goFunction(t))
	for range 2 {
		if r := invoke(t, s, "celsius", `{"fahrenheit":32}`); r.Error != "" || !strings.Contains(string(r.Log), "Init Duration") {
			t.Errorf("%s %s", r.Payload, r.Log)
		}
		eventually(t, "no environment is left", func() bool { return s.Environments() == 0 })
	}
}

// Where there is room for one program only, what is idle makes way.
func TestIdleEnvironmentsMakeWay(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("python3 is not installed")
	}
	s, _ := open(t, func(o *functions.Options) { o.MaxEnvironments = 1 })
	for _, name := range []string{"a", "b"} {
		deploy(t, s, name, functions.Config{Runtime: "provided", Command: []string{"python3", "-c", sleeper}}, zipped(t, file{"x", name, 0o644}))
	}
	for _, name := range []string{"a", "b", "b", "a"} {
		if r := invoke(t, s, name, `0`); r.Error != "" {
			t.Errorf("%s: %s", name, r.Payload)
		}
		if n := s.Environments(); n != 1 {
			t.Errorf("%d environments", n)
		}
	}
	busy := make(chan error, 1)
	go func() {
		_, err := s.Invoke(t.Context(), "a", []byte(`2`))
		for errs.Is(err, errs.Quota) { // b was at work
			_, err = s.Invoke(t.Context(), "a", []byte(`2`))
		}
		busy <- err
	}()
	eventually(t, "a is at work", func() bool {
		_, err := s.Call(t.Context(), &functions.Request{Function: "b", Payload: []byte(`0`)})
		return errs.Is(err, errs.Quota)
	})
	if err := <-busy; err != nil {
		t.Error(err)
	}
}

func TestCallerGoesAway(t *testing.T) {
	s, _ := open(t, overHTTP)
	srv := record(t)
	srv.block = make(chan struct{})
	deploy(t, s, "f", functions.Config{Runtime: "http", URL: srv.URL, Concurrency: 1, Timeout: 60}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Invoke(ctx, "f", []byte(`1`))
		done <- err
	}()
	eventually(t, "it is under way", func() bool { return len(srv.ids(`1`)) > 0 })
	cancel()
	if err := <-done; !errs.Is(err, errs.Timeout) {
		t.Error(err)
	}
	if _, err := s.Call(t.Context(), &functions.Request{Function: "f", Payload: []byte(`2`)}); !errs.Is(err, errs.Quota) {
		t.Errorf("its place is free: %v", err)
	}
	srv.mu.Lock()
	close(srv.block)
	srv.block = nil
	srv.mu.Unlock()
	if out, err := s.Invoke(t.Context(), "f", []byte(`3`)); err != nil || string(out) != `3` {
		t.Errorf("%s %v", out, err)
	}
}

// Where isolation is required, a program runs isolated, or not at all, or because
// it was said that it need not be.
func TestRequiredIsolation(t *testing.T) {
	s, _ := open(t, func(o *functions.Options) { o.RequireIsolation = true })
	pkg := zipped(t, file{"bootstrap", "#!/bin/sh\nexit 5\n", 0o755})
	put := func(i sandbox.Isolation) (*functions.Deployed, error) {
		return s.Deploy(t.Context(), functions.Deployment{Name: "f", Config: functions.Config{Runtime: "provided", Isolation: i}, Package: pkg})
	}
	r := s.Isolation(t.Context())
	d, err := put("")
	if r.Isolated() {
		if err != nil || len(d.Warnings) > 0 {
			t.Errorf("%+v, %v", d, err)
		}
	} else if !errs.Is(err, errs.Forbidden) || !strings.Contains(err.Error(), "isolation none") {
		t.Errorf("%v", err)
	}
	if d, err = put(sandbox.None); err != nil || len(d.Warnings) != 1 {
		t.Fatalf("%+v, %v", d, err)
	}
	if kind, text := failureOf(t, invoke(t, s, "f", `{}`)); kind != "Runtime.ExitError" || !strings.Contains(text, "exit status 5") {
		t.Errorf("%s %s", kind, text)
	}
}

func FuzzReference(f *testing.F) {
	s, _ := open(f, nil)
	for _, x := range []string{"f", "f:1", "f:$LATEST", "arn:aws:lambda:us-east-1:123456789012:function:f:1", "123456789012:function:f", "::", ""} {
		f.Add(x, "")
	}
	f.Fuzz(func(t *testing.T, ref, qualifier string) {
		if _, err := s.Get(ref, qualifier); !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", ref, err)
		}
	})
}

func FuzzPackage(f *testing.F) {
	s, _ := open(f, nil)
	f.Add(zipped(f, file{"main.wasm", "x", 0o644}))
	f.Add(zipped(f, file{"../x", "x", 0o644}, file{"a/../../b", "", 0o644}))
	f.Fuzz(func(t *testing.T, pkg []byte) {
		d, err := s.Deploy(t.Context(), functions.Deployment{Name: "f", Config: functions.Config{Runtime: "wasm"}, Package: pkg})
		if err != nil && !errs.Is(err, errs.Invalid) && !errs.Is(err, errs.TooLarge) {
			t.Errorf("%v", err)
		} else if err == nil {
			b, _ := json.Marshal(d)
			if len(b) == 0 {
				t.Error("nothing")
			}
		}
	})
}
