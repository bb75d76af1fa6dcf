// Package weirtest starts a whole Weir for a test: in the test's own process, or
// as a child process that can be killed. It has no part in a message's way; its
// clients go through the real ports, as devices and owners do.
package weirtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/config"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/internal/server"
)

// patience is how long a test waits for what must come. It is long because it
// is only waited out by a test that fails.
const patience = 60 * time.Second

type options struct {
	dir    string
	set    []func(*config.Config)
	dev    bool
	env    []string
	log    slog.Handler // of this process
	stderr io.Writer    // of a child

	roles []string
	whole string // why it cannot be several processes; "": it can
}

// Option changes how a Weir is started.
type Option func(*options)

// Set changes the configuration. The default is that of weir dev with every
// listener on port 0 and durability "os".
func Set(f func(*config.Config)) Option { return func(o *options) { o.set = append(o.set, f) } }

// Key gives the configuration key at path a value, as weir.yaml would.
func Key(path, value string) Option {
	return Set(func(c *config.Config) {
		if err := c.Set(path, value); err != nil {
			panic(err)
		}
	})
}

// Durability is Key("durability", d).
func Durability(d string) Option { return Key("durability", d) }

// Dir uses a data folder of the caller's. Default: a new one of the test.
func Dir(dir string) Option { return func(o *options) { o.dir = dir } }

// Production starts Weir as weir serve does: AWS instead of an S3 of its own.
func Production() Option { return func(o *options) { o.dev = false } }

// Roles gives the child process these roles, on the NATS server at url.
func Roles(url string, names ...string) Option {
	return func(o *options) {
		o.roles = names
		o.set = append(o.set, func(c *config.Config) { c.NATS.URL, c.Roles = url, names })
	}
}

// Whole keeps the Weir in one process where tests run on several, and says why.
func Whole(why string) Option { return func(o *options) { o.whole = why } }

// Log has a Weir in the test's own process log to h. Default: warnings, to the
// test's log.
func Log(h slog.Handler) Option {
	return func(o *options) { o.log, o.whole = h, "its log is read" }
}

// Env adds NAME=value to the environment of a child process.
func Env(kv ...string) Option { return func(o *options) { o.env = append(o.env, kv...) } }

// Stderr copies what a child process writes there to w.
func Stderr(w io.Writer) Option { return func(o *options) { o.stderr = w } }

func build(t testing.TB, opts []Option) *options {
	o := &options{dev: true}
	for _, f := range opts {
		f(o)
	}
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	return o
}

func (o *options) config() *config.Config {
	c := config.Default(true)
	c.DataDir, c.Durability = o.dir, "os"
	c.Provisioning.KeysAhead = 2 // a core has something else to do in a test
	for _, a := range []*string{&c.Listen.MQTT, &c.Listen.MQTTS, &c.Listen.HTTPS, &c.Listen.Mux, &c.Listen.API, &c.Listen.NATS} {
		*a = "127.0.0.1:0"
	}
	for _, f := range o.set {
		f(c)
	}
	return c
}

// Weir is a running Weir and clients of it. Its methods fail the test.
type Weir struct {
	t  testing.TB
	o  *options
	in *inner // the one that runs; changes with Restart

	parts []*Weir // of a Split one, a role each, in the order they end

	mu        sync.Mutex // guards publisher
	publisher *mqttclient.Client
	clients   int
}

// inner is what runs: a server in this process or a child.
type inner struct {
	ends   server.Endpoints
	server *server.Server
	stop   context.CancelFunc
	done   chan struct{}
	err    error
	cmd    *exec.Cmd
	stderr *tail
}

// Start runs a Weir in this process until the test ends. With WEIR_TEST_SPLIT=1
// it is Split, so that one suite tests both.
func Start(t testing.TB, opts ...Option) *Weir {
	t.Helper()
	w := &Weir{t: t, o: build(t, opts)}
	if split() {
		return w.split(opts)
	}
	w.Begin()
	t.Cleanup(func() {
		if w.in != nil {
			w.Stop()
		}
	})
	return w
}

// Begin starts the Weir again after Stop.
func (w *Weir) Begin() {
	w.t.Helper()
	if w.parts != nil {
		w.beginParts()
		return
	}
	cfg := w.o.config()
	if err := cfg.Validate(); err != nil {
		w.t.Fatal(err)
	}
	log := w.o.log
	if log == nil {
		log = slog.NewTextHandler(testLog{w.t}, &slog.HandlerOptions{Level: slog.LevelWarn})
	}
	s, err := server.New(w.t.Context(), server.Options{Config: cfg, Dev: w.o.dev, Logger: slog.New(log)})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	in := &inner{server: s, stop: stop, done: make(chan struct{})}
	go func() {
		in.err = s.Run(ctx)
		if err := s.Close(); in.err == nil {
			in.err = err
		}
		close(in.done)
	}()
	select {
	case <-s.Ready():
	case <-in.done:
		stop()
		w.t.Fatalf("weir ended: %v", in.err)
	}
	in.ends = s.Endpoints()
	w.in = in
}

// Stop ends the Weir in good order.
func (w *Weir) Stop() {
	w.t.Helper()
	w.dropPublisher()
	in := w.in
	w.in = nil
	if w.parts != nil {
		for _, p := range w.parts {
			p.Stop()
		}
		return
	}
	if in.cmd != nil {
		_ = in.cmd.Process.Signal(syscall.SIGTERM)
	} else {
		in.stop()
	}
	select {
	case <-in.done:
	case <-time.After(patience):
		w.t.Fatalf("weir does not stop%s", in.output())
	}
	if in.err != nil {
		w.t.Errorf("weir ended with: %v%s", in.err, in.output())
	}
}

// Restart stops the Weir and starts it on the same folder.
func (w *Weir) Restart() {
	w.t.Helper()
	child := w.in.cmd != nil || w.parts != nil
	w.Stop()
	if child {
		w.BeginProcess()
		return
	}
	w.Begin()
}

// Process runs the real binary as a child process until the test ends.
func Process(t testing.TB, opts ...Option) *Weir {
	t.Helper()
	w := &Weir{t: t, o: build(t, opts)}
	if split() && len(w.o.roles) == 0 {
		return w.split(opts)
	}
	w.BeginProcess()
	t.Cleanup(func() {
		if w.in != nil {
			w.Stop()
		}
	})
	return w
}

// BeginProcess starts the child process again after Kill or Stop.
func (w *Weir) BeginProcess() {
	w.t.Helper()
	if w.parts != nil {
		w.beginParts()
		return
	}
	w.await(w.launch())
}

// launched is a child process that may not be ready yet.
type launched struct {
	*inner
	ready chan error
}

// launch starts the child process.
func (w *Weir) launch() *launched {
	w.t.Helper()
	cfg := filepath.Join(w.t.TempDir(), "weir.yaml")
	c := w.o.config()
	if err := os.WriteFile(cfg, c.File(true), 0o600); err != nil {
		w.t.Fatal(err)
	}
	command := []string{"dev", "-o", "json"}
	if !w.o.dev {
		command = []string{"serve"}
	}
	cmd := exec.Command(Binary(w.t), append(command, "--config", cfg)...)
	cmd.Env = append(os.Environ(), w.o.env...)
	cmd.SysProcAttr = childAttr()
	in := &inner{cmd: cmd, done: make(chan struct{}), stderr: &tail{}}
	cmd.Stderr = in.stderr
	if w.o.stderr != nil {
		cmd.Stderr = io.MultiWriter(in.stderr, w.o.stderr)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	// The kernel ends the child with the thread that started it: one that lives as
	// long as the child.
	started := make(chan error, 1)
	l := &launched{in, make(chan error, 1)}
	go ownThread(func() {
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		if w.o.dev {
			d := json.NewDecoder(bufio.NewReader(out))
			l.ready <- d.Decode(&in.ends)
		} else {
			go func() { l.ready <- in.served(w.o.dir) }()
		}
		_, _ = io.Copy(io.Discard, out)
		in.err = cmd.Wait()
		close(in.done)
	})
	if err := <-started; err != nil {
		w.t.Fatal(err)
	}
	return l
}

// await returns once the child is ready.
func (w *Weir) await(l *launched) {
	w.t.Helper()
	select {
	case err := <-l.ready:
		if err != nil {
			<-l.done
			w.t.Fatalf("weir did not start: %v%s", l.err, l.output())
		}
	case <-time.After(patience):
		_ = l.cmd.Process.Kill()
		w.t.Fatalf("weir does not get ready%s", l.output())
	}
	w.in = l.inner
}

// served waits until the child says where it is reached.
func (in *inner) served(dir string) error {
	for {
		if e, err := server.ReadEndpoints(dir); err == nil && e.PID == in.cmd.Process.Pid {
			in.ends = *e
			return nil
		}
		select {
		case <-in.done:
			return errors.New("it ended")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Freeze stops the child process where it stands, with SIGSTOP. Kill may follow.
func (w *Weir) Freeze() {
	w.t.Helper()
	if w.in == nil || w.in.cmd == nil {
		w.t.Fatal("Freeze: not a child process")
	}
	if err := w.in.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		w.t.Fatal(err)
	}
	// A thread that is in a system call stops when it leaves it.
	Eventually(w.t, func() bool { return stopped(w.in.cmd.Process.Pid) }, func() string { return "the process does not stop" })
}

// Kill ends the child process with SIGKILL.
func (w *Weir) Kill() {
	w.t.Helper()
	if w.parts != nil {
		for _, p := range w.parts {
			p.Kill()
		}
		w.in = nil
		w.dropPublisher()
		return
	}
	if w.in == nil || w.in.cmd == nil {
		w.t.Fatal("Kill: not a child process")
	}
	in := w.in
	w.in = nil
	if err := in.cmd.Process.Kill(); err != nil {
		w.t.Fatal(err)
	}
	<-in.done
	w.dropPublisher()
}

func (in *inner) output() string {
	if in.stderr == nil {
		return ""
	}
	return "\nits standard error:\n" + in.stderr.String()
}

// Endpoints returns where the Weir can be reached.
func (w *Weir) Endpoints() server.Endpoints { return w.in.ends }

// Dir returns the data folder.
func (w *Weir) Dir() string { return w.o.dir }

// API returns a client of the control API.
func (w *Weir) API() *control.Client {
	w.t.Helper()
	token, err := control.ReadToken(w.in.ends.TokenFile)
	if err != nil {
		w.t.Fatal(err)
	}
	return &control.Client{URL: w.in.ends.API, Token: token}
}

// TLS returns the configuration of a client with the owner's certificate.
func (w *Weir) TLS() *tls.Config {
	w.t.Helper()
	pem, err := os.ReadFile(w.in.ends.CAFile)
	if err != nil {
		w.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	pair, err := tls.LoadX509KeyPair(w.in.ends.CertFile, w.in.ends.KeyFile)
	if err != nil {
		w.t.Fatal(err)
	}
	return &tls.Config{ServerName: "localhost", RootCAs: pool, Certificates: []tls.Certificate{pair}}
}

// Connect opens an MQTT connection; an empty Addr is the plain port, an empty
// ClientID a new one. It is closed when the test ends.
func (w *Weir) Connect(o mqttclient.Options) *mqttclient.Client {
	w.t.Helper()
	if o.Addr == "" {
		o.Addr = w.in.ends.MQTT
	}
	if o.ClientID == "" {
		w.mu.Lock()
		w.clients++
		o.ClientID = fmt.Sprintf("test-%d", w.clients)
		w.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := mqttclient.Connect(ctx, o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Abort)
	return c
}

// MustPublish publishes at QoS 1 and returns once it is acknowledged.
func (w *Weir) MustPublish(topic, payload string) {
	w.t.Helper()
	w.mu.Lock()
	c := w.publisher
	w.mu.Unlock()
	if c == nil || c.Err() != nil {
		c = w.Connect(mqttclient.Options{ClientID: "test-publisher"})
		w.mu.Lock()
		w.publisher = c
		w.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Publish(ctx, &mqttclient.Message{Topic: topic, Payload: []byte(payload), QoS: 1}); err != nil {
		w.t.Fatalf("publish to %s: %v", topic, err)
	}
}

func (w *Weir) dropPublisher() {
	w.mu.Lock()
	c := w.publisher
	w.publisher = nil
	w.mu.Unlock()
	if c != nil {
		c.Abort()
	}
}

// Subscription is messages that were delivered to a subscriber.
type Subscription struct {
	t testing.TB
	c chan *mqttclient.Message
	*mqttclient.Client
}

// Subscribe subscribes at QoS 1 with a connection of its own.
func (w *Weir) Subscribe(filters ...string) *Subscription {
	w.t.Helper()
	s := &Subscription{t: w.t, c: make(chan *mqttclient.Message, 10_000)}
	s.Client = w.Connect(mqttclient.Options{OnMessage: func(m *mqttclient.Message) { s.c <- m }})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Client.Subscribe(ctx, 1, filters...); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// Next returns the next message; it fails the test when none comes.
func (s *Subscription) Next() *mqttclient.Message {
	s.t.Helper()
	select {
	case m := <-s.c:
		return m
	case <-s.Done():
		s.t.Fatalf("the subscriber's connection ended: %v", s.Err())
	case <-time.After(patience):
		s.t.Fatal("no message was delivered")
	}
	return nil
}

// Apply applies rule documents, YAML or JSON. What is published from then on
// counts for them.
func (w *Weir) Apply(document string) []control.Applied {
	w.t.Helper()
	a, err := w.API().Apply(w.t.Context(), "rule.yaml", []byte(document), false)
	if err != nil {
		if r, ok := err.(*control.RemoteError); ok {
			w.t.Fatalf("apply: %s", r.Detail())
		}
		w.t.Fatal(err)
	}
	return a
}

// told is long enough for a process to learn of what another has appended.
const told = 200 * time.Millisecond

// Account waits until the rule has settled all that is on the log, and returns
// the sum over its actions.
func (w *Weir) Account(rule string) control.Account {
	w.t.Helper()
	var sum control.Account
	var last *control.Rule
	if w.parts != nil {
		time.Sleep(told)
	}
	Eventually(w.t, func() bool {
		r, err := w.API().Rule(context.Background(), rule)
		if err != nil {
			w.t.Fatal(err)
		}
		last, sum = r, control.Account{}
		settled := r.Lag == 0
		for _, l := range r.Actions {
			sum.Add(l.Account)
			settled = settled && l.State == "live" && l.Pending == 0
		}
		return settled
	}, func() string { return fmt.Sprintf("rule %s does not settle: %+v", rule, last) })
	return sum
}

// Eventually fails the test when ok does not become true.
func Eventually(t testing.TB, ok func() bool, what func() string) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatal(what())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Binary returns the path of the weir binary, built once a test process. A test
// that runs others in a process of its own names it in WEIR_TEST_BINARY.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("WEIR_TEST_BINARY"); path != "" {
		return path
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var binary = sync.OnceValues(func() (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("go list -m: %w", err)
	}
	dir, err := os.MkdirTemp("", "weirtest-")
	if err != nil {
		return "", err
	}
	builtIn.Store(&dir)
	path := filepath.Join(dir, "weir")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/weir")
	cmd.Dir = strings.TrimSpace(string(root))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/weir: %w\n%s", err, out)
	}
	return path, nil
})

// RemoveBinary removes what Binary built. Call it at the end of TestMain.
func RemoveBinary() {
	if dir := builtIn.Load(); dir != nil {
		os.RemoveAll(*dir)
	}
}

var builtIn atomic.Pointer[string]

// Run runs the binary to its end and returns what it wrote and its exit code.
func Run(t testing.TB, stdin string, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	binary := Binary(t) // building it takes a time of its own
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("weir %s does not end\n%s%s", strings.Join(args, " "), out.String(), errs.String())
	}
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// tail keeps the end of what is written.
type tail struct {
	mu sync.Mutex // guards b
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-64<<10):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimRight(p, "\n"))
	return len(p), nil
}
