package functions_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/functions"
	"github.com/weir-iot/weir/functions/sandbox"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	if len(os.Args) == 4 && os.Args[0] == queueProcess {
		n, _ := strconv.Atoi(os.Args[3])
		if err := runQueue(os.Args[1], os.Args[2], n); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// open returns a running Service over a log of its own, and what ends it.
func open(t testing.TB, change func(*functions.Options)) (*functions.Service, func()) {
	t.Helper()
	return openAt(t, t.TempDir(), change)
}

func openAt(t testing.TB, dir string, change func(*functions.Options)) (*functions.Service, func()) {
	t.Helper()
	log, err := eventlog.Open(t.Context(), eventlog.Options{Dir: filepath.Join(dir, "log"), Durability: eventlog.OS})
	if err != nil {
		t.Fatal(err)
	}
	return openWith(t, log, filepath.Join(dir, "functions"), func(o *functions.Options) {
		o.Hidden, o.Alone = []string{dir}, true
		if change != nil {
			change(o)
		}
	})
}

// openWith runs a Service over log until the test ends.
func openWith(t testing.TB, log *eventlog.Log, dir string, change func(*functions.Options)) (*functions.Service, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	logged := make(chan error, 1)
	go func() { logged <- log.Run(ctx) }()
	b, err := kv.Open(t.Context(), log, kv.Config{Name: "functions"})
	if err != nil {
		t.Fatal(err)
	}
	o := functions.Options{Bucket: b, Dir: dir, AccountID: "123456789012", Region: "us-east-1", Logger: slog.New(slog.DiscardHandler), InitTime: time.Minute,
		Isolation: report}
	change(&o)
	s, err := functions.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(run) }()
	end := sync.OnceFunc(func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-logged; err != nil {
			t.Error(err)
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return s, end
}

type file struct {
	name, text string
	mode       fs.FileMode
}

func zipped(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		h := &zip.FileHeader{Name: f.name, Method: zip.Store} // deflating programs is slow under the race detector
		h.SetMode(f.mode)
		out, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write([]byte(f.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	building sync.Mutex
	built    string
)

// build compiles a command of this repository once for all tests.
func build(t testing.TB, name, dir string, env ...string) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	if built == "" {
		var err error
		if built, err = os.MkdirTemp("", "weir-functions-"); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(built, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, dir)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", dir, err, out)
	}
	return path
}

func goFunction(t testing.TB) []byte {
	return zipped(t, file{"bootstrap", read(t, build(t, "bootstrap", "../examples/functions/go", "CGO_ENABLED=0")), 0o755})
}

func wasmFunction(t testing.TB) []byte {
	return zipped(t, file{"main.wasm", read(t, build(t, "main.wasm", "../examples/functions/wasm", "GOOS=wasip1", "GOARCH=wasm")), 0o644})
}

// report is what this machine permits, once a test has had it tried.
var report *sandbox.Report

// isolation is what programs of these tests run in: where the host permits no
// sandbox they run without.
func isolation(t testing.TB, s *functions.Service) sandbox.Isolation {
	t.Helper()
	r := s.Isolation(t.Context())
	report = r
	if len(r.Findings) == 1 && !r.Findings[0].OK {
		t.Logf("this host permits no sandbox: %s", r.Findings[0].Detail)
		return sandbox.None
	}
	return sandbox.Full
}

func deploy(t testing.TB, s *functions.Service, name string, cfg functions.Config, pkg []byte) *functions.Deployed {
	t.Helper()
	if cfg.Isolation == "" && (strings.HasPrefix(cfg.Runtime, "provided") || strings.HasPrefix(cfg.Runtime, "nodejs") || strings.HasPrefix(cfg.Runtime, "python")) {
		cfg.Isolation = isolation(t, s)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 60
	}
	d, err := s.Deploy(t.Context(), functions.Deployment{Name: name, Config: cfg, Package: pkg, Publish: true})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func invoke(t testing.TB, s *functions.Service, name, payload string) *functions.Response {
	t.Helper()
	r, err := s.Call(t.Context(), &functions.Request{Function: name, Payload: []byte(payload), Tail: true, Wait: true})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return r
}

// The examples, each by its own runtime.
func TestExamples(t *testing.T) {
	s, _ := open(t, nil)
	t.Run("Go", func(t *testing.T) {
		deploy(t, s, "celsius", functions.Config{Runtime: "provided.al2023", Handler: "bootstrap"}, goFunction(t))
		for range 3 {
			r := invoke(t, s, "celsius", `{"device":"d1","fahrenheit":212}`)
			var a struct {
				Device  string
				Celsius float64
				Request string
			}
			if err := json.Unmarshal(r.Payload, &a); err != nil || a.Celsius != 100 || a.Device != "d1" || a.Request != r.ID || r.Error != "" {
				t.Fatalf("%+v, %s", a, r.Payload)
			}
			if log := string(r.Log); !strings.Contains(log, "reading of d1\n") || !strings.HasPrefix(log, "START RequestId: "+r.ID) || !strings.Contains(log, "REPORT RequestId: "+r.ID) {
				t.Errorf("log %q", log)
			}
		}
		r := invoke(t, s, "celsius", `{"device":"d1"}`)
		if r.Error != "Unhandled" || !strings.Contains(string(r.Payload), `"errorMessage":"fahrenheit is missing"`) || !strings.Contains(string(r.Payload), `"errorType":"errorString"`) {
			t.Errorf("%s %s", r.Error, r.Payload)
		}
		if _, err := s.Invoke(t.Context(), "celsius", []byte(`{}`)); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "fahrenheit is missing") {
			t.Errorf("%v", err)
		}
	})
	t.Run("WebAssembly", func(t *testing.T) {
		deploy(t, s, "level", functions.Config{Runtime: "wasm"}, wasmFunction(t))
		if r := invoke(t, s, "level", `{"device":"d1","level":0.95}`); string(r.Payload) != `{"alarm":true,"device":"d1"}`+"\n" {
			t.Errorf("%s %s %s", r.Error, r.Payload, r.Log)
		}
		if r := invoke(t, s, "level", `nonsense`); r.Error == "" || !strings.Contains(string(r.Payload), "exit status 1: not a reading") || !strings.Contains(string(r.Log), "not a reading") {
			t.Errorf("%s %s %s", r.Error, r.Payload, r.Log)
		}
	})
	t.Run("Node", func(t *testing.T) {
		if _, err := exec.LookPath("node"); err != nil {
			t.Skip("node is not installed")
		}
		deploy(t, s, "greet", functions.Config{Runtime: "nodejs20.x", Handler: "index.handler"}, zipped(t, file{"index.js", read(t, "../examples/functions/node/index.js"), 0o644}))
		for range 2 {
			if r := invoke(t, s, "greet", `{"name":"weir"}`); string(r.Payload) != `{"hello":"weir","request":"`+r.ID+`"}` || !strings.Contains(string(r.Log), "greeting weir") {
				t.Errorf("%s %s %s", r.Error, r.Payload, r.Log)
			}
		}
		if r := invoke(t, s, "greet", `{}`); r.Error == "" || !strings.Contains(string(r.Payload), "name is missing") {
			t.Errorf("%s %s", r.Error, r.Payload)
		}
	})
	t.Run("Python", func(t *testing.T) {
		if _, err := os.Stat("/usr/bin/python3"); err != nil {
			t.Skip("python3 is not installed")
		}
		deploy(t, s, "total", functions.Config{Runtime: "provided"}, zipped(t, file{"bootstrap", read(t, "../examples/functions/python/bootstrap"), 0o755}))
		if r := invoke(t, s, "total", `{"values":[1,2,3.5]}`); string(r.Payload) != `{"total": 6.5}` {
			t.Errorf("%s %s %s", r.Error, r.Payload, r.Log)
		}
		if r := invoke(t, s, "total", `{}`); r.Error == "" || !strings.Contains(string(r.Payload), `"KeyError"`) {
			t.Errorf("%s %s", r.Error, r.Payload)
		}
		deploy(t, s, "handler", functions.Config{Runtime: "python3.12", Handler: "app.handle"},
			zipped(t, file{"app.py", "def handle(event, context):\n    print('got', event)\n    return {'id': context.aws_request_id, 'n': event['n'] + 1}\n", 0o644}))
		if r := invoke(t, s, "handler", `{"n":1}`); string(r.Payload) != `{"id": "`+r.ID+`", "n": 2}` || !strings.Contains(string(r.Log), "got {'n': 1}") {
			t.Errorf("%s %s %s", r.Error, r.Payload, r.Log)
		}
		if r := invoke(t, s, "handler", `{}`); r.Error == "" || !strings.Contains(string(r.Payload), `"KeyError"`) {
			t.Errorf("%s %s", r.Error, r.Payload)
		}
	})
}

// misbehaving deploys a program that does one thing wrong.
func misbehaving(t testing.TB, s *functions.Service, what string, timeout int) {
	t.Helper()
	program := file{"program", read(t, build(t, "misbehave", "./testdata/misbehave", "CGO_ENABLED=0")), 0o755}
	deploy(t, s, what, functions.Config{Runtime: "provided", Command: []string{"./program", what}, Timeout: timeout, Memory: 96}, zipped(t, program))
}

func failureOf(t testing.TB, r *functions.Response) (kind, text string) {
	t.Helper()
	var f struct{ ErrorType, ErrorMessage string }
	if err := json.Unmarshal(r.Payload, &f); err != nil || r.Error != "Unhandled" {
		t.Fatalf("%q %s: %v", r.Error, r.Payload, err)
	}
	return f.ErrorType, f.ErrorMessage
}

// What a bad function does is bounded and told, and others do not notice.
func TestMisbehaviour(t *testing.T) {
	s, _ := open(t, nil)
	if isolation(t, s) != sandbox.Full {
		t.Skip("no sandbox here")
	}
	memory := s.Isolation(t.Context()).Isolated()
	deploy(t, s, "another", functions.Config{Runtime: "wasm"}, zipped(t, file{"main.wasm", string(module(1, "")), 0o644}))
	for _, c := range []struct {
		what, kind, text string
		timeout          int
	}{
		{"loop", "Sandbox.Timedout", "Task timed out after 1.00 seconds", 1},
		{"silent", "Sandbox.Timedout", "Task timed out", 1},
		{"forkbomb", "Sandbox.Timedout|Runtime.OutOfMemory", "", 2},
		{"eat", "Runtime.OutOfMemory", "memory limit", 60},
		{"flood", "Function.ResponseSizeTooLarge", "exceeded", 60},
		{"exit", "Runtime.ExitError", "exit status 3", 60},
		{"panic", "Runtime.ExitError", "exit status 2", 60},
		{"skip", "Runtime.InvalidResponse", "without having answered", 60},
		{"inerror", "Custom.Init", "no database", 60},
		{"chatter", "", "", 60},
	} {
		t.Run(c.what, func(t *testing.T) {
			if c.what == "eat" && !memory {
				t.Skip("memory is not bounded on this host")
			}
			misbehaving(t, s, c.what, c.timeout)
			for range 2 {
				at := time.Now()
				r := invoke(t, s, c.what, `{}`)
				if c.kind != "" {
					if kind, text := failureOf(t, r); !slices.Contains(strings.Split(c.kind, "|"), kind) || !strings.Contains(text, c.text) {
						t.Errorf("%s: %s; %s", kind, text, r.Log)
					}
				} else if r.Error != "" || len(r.Log) > 5000 {
					t.Errorf("%s %s, log of %d bytes", r.Error, r.Payload, len(r.Log))
				}
				if took := time.Since(at); took > 30*time.Second {
					t.Errorf("took %v", took)
				}
				if r := invoke(t, s, "another", `{}`); r.Error != "" {
					t.Errorf("another function: %s", r.Payload)
				}
			}
		})
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	s, _ := open(t, nil)
	deploy(t, s, "slow", functions.Config{Runtime: "provided", Concurrency: 2, Command: []string{"python3", "-c", sleeper}}, zipped(t, file{"x", "", 0o644}))
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("python3 is not installed")
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	outcome := map[errs.Kind]int{}
	ok := 0
	for range 6 {
		wg.Go(func() {
			_, err := s.Call(t.Context(), &functions.Request{Function: "slow", Payload: []byte(`0.5`)})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				ok++
			} else {
				outcome[errs.KindOf(err)]++
			}
		})
	}
	wg.Wait()
	if ok != 2 || outcome[errs.Quota] != 4 {
		t.Errorf("%d answered, %v", ok, outcome)
	}
	for range 4 {
		wg.Go(func() {
			if _, err := s.Invoke(t.Context(), "slow", []byte(`0.05`)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

const sleeper = `
import http.client, os, time, json
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
while True:
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    a = api.getresponse(); event = a.read(); id = a.headers["Lambda-Runtime-Aws-Request-Id"]
    time.sleep(json.loads(event))
    api.request("POST", "/2018-06-01/runtime/invocation/" + id + "/response", json.dumps(os.getpid()))
    api.getresponse().read()
`

func TestSecretsByReference(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(secret, []byte("canary-5up3r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WEIR_TEST_SECRET", "canary-variable")
	dir := t.TempDir()
	s, end := openAt(t, dir, nil)
	script := "#!/bin/sh\necho \"log $TOKEN and $OTHER\"\necho \"$TOKEN\" | sha256sum\nexec python3 -c \"$CODE\"\n"
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("python3 is not installed")
	}
	deploy(t, s, "f", functions.Config{Runtime: "provided", Env: map[string]string{"CODE": sleeper},
		Secrets: map[string]functions.Reference{"TOKEN": {File: secret}, "OTHER": {Variable: "WEIR_TEST_SECRET"}}}, zipped(t, file{"bootstrap", script, 0o755}))
	r := invoke(t, s, "f", "0")
	if r.Error != "" || !strings.Contains(string(r.Log), "log *** and ***\n") {
		t.Errorf("%s %s", r.Payload, r.Log)
	}
	var lines []string
	if err := s.Logs(t.Context(), "f", -1, false, func(l functions.LogLine) error { lines = append(lines, l.Text); return nil }); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(lines, "\n") + string(r.Log)
	f, err := s.Get("f", "")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(f)
	if all += string(b); strings.Contains(all, "canary") {
		t.Errorf("a secret is shown: %s", all)
	}
	end()
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(read(t, path), "canary") {
			t.Errorf("%s has a secret", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDeployment(t *testing.T) {
	dir := t.TempDir()
	s, end := openAt(t, dir, nil)
	module := func(text string) []byte { return zipped(t, file{"main.wasm", string(answering(text)), 0o644}) }
	want := func(ref, text string) {
		t.Helper()
		if r := invoke(t, s, ref, `{}`); string(r.Payload) != text {
			t.Errorf("%s: %s %s", ref, r.Error, r.Payload)
		}
	}
	if d := deploy(t, s, "f", functions.Config{Runtime: "wasm"}, module("1")); d.Result != "created" || d.Function.ARN != "arn:aws:lambda:us-east-1:123456789012:function:f" {
		t.Errorf("%+v", d)
	}
	want("f", "1")
	if d := deploy(t, s, "f", functions.Config{Runtime: "wasm"}, module("1")); d.Result != "unchanged" {
		t.Errorf("%+v", d)
	}
	if d := deploy(t, s, "f", functions.Config{Runtime: "wasm"}, module("22")); d.Result != "changed" || len(d.Function.Versions) != 2 {
		t.Errorf("%+v", d)
	}
	for ref, text := range map[string]string{"f": "22", "f:$LATEST": "22", "f:1": "1", "f:2": "22", "arn:aws:lambda:us-east-1:123456789012:function:f:1": "1", "123456789012:function:f": "22", "function:f": "22"} {
		want(ref, text)
	}
	for _, ref := range []string{"g", "f:3", "arn:aws:lambda:us-east-1:210987654321:function:f", "arn:aws:lambda:eu-west-1:123456789012:function:f"} {
		if _, err := s.Call(t.Context(), &functions.Request{Function: ref}); !errs.Is(err, errs.NotFound) || s.Has(ref) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	end()
	if err := os.RemoveAll(filepath.Join(dir, "functions")); err != nil { // it is a cache
		t.Fatal(err)
	}
	s, _ = openAt(t, dir, nil)
	want("f", "22")
	want("f:1", "1")
	if err := s.Delete(t.Context(), "f", "1"); err != nil || s.Has("f:1") || !s.Has("f") {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "functions", "code", "*")); len(left) != 1 {
		t.Errorf("%v", left)
	}
	if err := s.Delete(t.Context(), "f", ""); err != nil || s.Has("f") {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), "f", ""); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
}

func TestMistakesInADeployment(t *testing.T) {
	own := t.TempDir()
	s, _ := openAt(t, own, nil)
	good := zipped(t, file{"main.wasm", string(answering("1")), 0o644})
	for _, c := range []struct {
		name string
		cfg  functions.Config
		pkg  []byte
		text string
	}{
		{"a b", functions.Config{Runtime: "wasm"}, good, "name of a function"},
		{"f", functions.Config{Runtime: "cobol"}, good, "runtime"},
		{"f", functions.Config{Runtime: "wasm"}, nil, "needs code"},
		{"f", functions.Config{Runtime: "http", URL: "http://x"}, good, "takes no code"},
		{"f", functions.Config{Runtime: "http", URL: "ftp://x"}, nil, "url"},
		{"f", functions.Config{Runtime: "http", URL: "https://user:pw@x/"}, nil, "url"},
		{"f", functions.Config{Runtime: "lambda", Target: "a b"}, nil, "target"},
		{"f", functions.Config{Runtime: "wasm", Timeout: 901}, good, "timeout"},
		{"f", functions.Config{Runtime: "wasm", Memory: 1}, good, "memory"},
		{"f", functions.Config{Runtime: "wasm", Env: map[string]string{"AWS_REGION": "x", "_HANDLER": ""}}, good, "name of a variable"},
		{"f", functions.Config{Runtime: "wasm", Env: map[string]string{"AWS_REGION": "x"}}, good, "AWS_REGION"},
		{"f", functions.Config{Runtime: "wasm", Env: map[string]string{"A": strings.Repeat("x", 5000)}}, good, "bytes"},
		{"f", functions.Config{Runtime: "wasm", Secrets: map[string]functions.Reference{"A": {}}}, good, "secret A"},
		{"f", functions.Config{Runtime: "wasm", Isolation: "none"}, good, "for programs"},
		{"f", functions.Config{Runtime: "nodejs20.x", Handler: "index"}, good, "handler"},
		{"f", functions.Config{Runtime: "provided", Mounts: []string{"/proc"}}, good, "mount"},
		{"f", functions.Config{Runtime: "wasm", Mounts: []string{own}}, good, "Weir's own"},
		{"f", functions.Config{Runtime: "wasm", Mounts: []string{filepath.Dir(own)}}, good, "Weir's own"},
		{"f", functions.Config{Runtime: "wasm", Mounts: []string{own + "/functions/code"}}, good, "Weir's own"},
		{"f", functions.Config{Runtime: "wasm"}, []byte("no zip"), "zip"},
		{"f", functions.Config{Runtime: "wasm"}, zipped(t, file{"x", "", 0o644}), "main.wasm"},
		{"f", functions.Config{Runtime: "wasm"}, zipped(t, file{"../x", "", 0o644}), "outside"},
		{"f", functions.Config{Runtime: "wasm"}, zipped(t, file{"/etc/x", "", 0o644}), "outside"},
		{"f", functions.Config{Runtime: "wasm"}, zipped(t, file{"x", "/etc/passwd", fs.ModeSymlink | 0o777}), "link out"},
		{"f", functions.Config{Runtime: "wasm"}, zipped(t, file{"a/x", "../../y", fs.ModeSymlink | 0o777}), "link out"},
	} {
		_, err := s.Deploy(t.Context(), functions.Deployment{Name: c.name, Config: c.cfg, Package: c.pkg})
		if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.text) || s.Has("f") {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
}
