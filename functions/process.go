package functions

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/functions/sandbox"
	"github.com/weir-iot/weir/internal/errs"
)

// processes runs a version as programs that ask for events over the Runtime API:
// one environment for each invocation at a time, kept warm behind it.
type processes struct {
	s    *Service
	name string
	p    *pool
	logs *logbook

	mu     sync.Mutex
	idle   []*environment // the one used last is at the end
	closed bool
}

// invoke implements runner.
func (r *processes) invoke(ctx context.Context, inv *invocation) (result, error) {
	var began time.Duration
	env := r.warm()
	if env == nil {
		at := time.Now()
		var res *result
		var err error
		if env, res, err = r.start(ctx, inv); err != nil || res != nil {
			if res != nil {
				return *res, nil
			}
			return result{}, err
		}
		began = time.Since(at)
		// The time to begin is not the function's.
		inv.deadline = r.s.now().Add(inv.timeout)
	}
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), inv.timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(context.Cause(ctx), errClosing) {
			cancel()
		}
	})
	defer stop()
	res := env.run(wait, inv)
	res.init = began
	if inv.tail != nil {
		res.peak = env.p.Peak() // a file is read for it
	}
	r.settle(env)
	return res, nil
}

func (r *processes) warm() *environment {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.idle) > 0 {
		env := r.idle[len(r.idle)-1]
		r.idle = r.idle[:len(r.idle)-1]
		if env.alive() {
			return env
		}
		env.end()
	}
	return nil
}

// settle puts env back, or ends it where it is of no more use.
func (r *processes) settle(env *environment) {
	r.mu.Lock()
	keep := !r.closed && env.alive()
	if keep {
		env.used = r.s.now()
		r.idle = append(r.idle, env)
	}
	r.mu.Unlock()
	if !keep {
		env.end()
	}
}

func (r *processes) reap(before time.Time) {
	r.mu.Lock()
	n := 0
	for n < len(r.idle) && (r.idle[n].used.Before(before) || !r.idle[n].alive()) {
		n++
	}
	old := slices.Clone(r.idle[:n])
	r.idle = slices.Delete(r.idle, 0, n)
	r.mu.Unlock()
	for _, env := range old {
		env.end()
	}
}

func (r *processes) close() {
	r.mu.Lock()
	r.closed = true
	old := r.idle
	r.idle = nil
	r.mu.Unlock()
	for _, env := range old {
		env.end()
	}
}

// start makes an environment and waits until it asks for its first event. A
// result says that the function could not begin.
func (r *processes) start(ctx context.Context, inv *invocation) (*environment, *result, error) {
	cfg := &r.p.cfg
	if err := r.s.permitted(ctx, cfg); err != nil {
		return nil, nil, err
	}
	code, err := r.s.codes.folder(ctx, cfg.Code, cfg.CodeSize)
	if err != nil {
		return nil, nil, err
	}
	vars, secrets, err := r.variables()
	if err != nil {
		res := failed(inv.id, typeStart, "%s", errs.Text(err))
		return nil, &res, nil
	}
	if !r.s.take() {
		return nil, nil, errs.Errorf("functions.Invoke", errs.Quota, "%d execution environments run on this machine, no more are started", r.s.o.MaxEnvironments)
	}
	p, err := r.s.host.Start(ctx, sandbox.Spec{
		Name: r.name, Command: cfg.command(), Env: vars, Code: code, Mounts: cfg.Mounts, Isolation: cfg.Isolation, Network: cfg.Network,
		Memory: int64(cfg.Memory) << 20, Temp: int64(cfg.Temp) << 20, Processes: 512,
	})
	if err != nil {
		r.s.give()
		if errs.Is(err, errs.Invalid) {
			res := failed(inv.id, typeStart, "%s", errs.Text(err))
			return nil, &res, nil
		}
		return nil, nil, err
	}
	env := &environment{
		s: r.s, p: p, logs: r.logs, logger: r.s.logger, asks: make(chan struct{}, 1), hand: make(chan *invocation), said: make(chan result, 1),
		read: make(chan struct{}), secrets: secrets, private: cfg.Network == sandbox.Open,
	}
	env.current.Store(inv)
	env.serve()
	limit := time.NewTimer(r.s.o.InitTime)
	defer limit.Stop()
	fail := func(res result) (*environment, *result, error) {
		env.end()
		return nil, &res, nil
	}
	select {
	case <-env.asks:
		return env, nil, nil
	case res := <-env.said: // an error of its own
		return fail(res)
	case <-p.Done():
		select {
		case res := <-env.said:
			return fail(res)
		default:
		}
		return fail(env.exited(inv))
	case <-limit.C:
		return fail(failed(inv.id, typeTimeout, "The function did not ask for an event within %v of its start", r.s.o.InitTime))
	case <-ctx.Done():
		env.end()
		return nil, nil, errs.E("functions.Invoke", errs.Unavailable, context.Cause(ctx))
	}
}

// variables returns the whole environment, and the values that must not be seen
// in logs.
func (r *processes) variables() (vars, secrets []string, err error) {
	cfg := &r.p.cfg
	set := map[string]string{
		"PATH": "/usr/local/bin:/usr/bin:/bin:/opt/bin", "LANG": "en_US.UTF-8", "TZ": ":UTC", "HOME": sandbox.TempPlace, "TMPDIR": sandbox.TempPlace,
		"LD_LIBRARY_PATH": sandbox.CodePlace + ":" + sandbox.CodePlace + "/lib:/opt/lib",
	}
	maps.Copy(set, cfg.Env)
	for name, ref := range cfg.Secrets {
		value, err := ref.read()
		if err != nil {
			return nil, nil, errs.Errorf("functions.secret", errs.Unavailable, "the secret %s: %w", name, err)
		}
		set[name] = value
		if len(value) >= 4 {
			secrets = append(secrets, value)
		}
	}
	group := "/aws/lambda/" + r.name
	maps.Copy(set, map[string]string{
		"_HANDLER": cfg.Handler, "AWS_REGION": r.s.o.Region, "AWS_DEFAULT_REGION": r.s.o.Region,
		"AWS_LAMBDA_FUNCTION_NAME": r.name, "AWS_LAMBDA_FUNCTION_VERSION": r.p.version, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": strconv.Itoa(cfg.Memory),
		"AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "AWS_LAMBDA_LOG_GROUP_NAME": group, "AWS_LAMBDA_LOG_STREAM_NAME": r.p.version,
		"AWS_LAMBDA_RUNTIME_API": sandbox.AddrPlace, "LAMBDA_TASK_ROOT": sandbox.CodePlace, "LAMBDA_RUNTIME_DIR": "/var/runtime",
	})
	if family(cfg.Runtime) != "provided" {
		set["AWS_EXECUTION_ENV"] = "AWS_Lambda_" + cfg.Runtime
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		vars = append(vars, name+"="+set[name])
	}
	return vars, secrets, nil
}

// read returns the secret. Errors name no value.
func (r Reference) read() (string, error) {
	if r.Variable != "" {
		v, ok := os.LookupEnv(r.Variable)
		if !ok {
			return "", errors.New("the variable " + r.Variable + " is not in Weir's environment")
		}
		return v, nil
	}
	f, err := os.Open(r.File)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10+1))
	if err != nil {
		return "", err
	}
	if len(b) > 64<<10 || strings.ContainsRune(string(b), 0) {
		return "", errors.New(r.File + " is no text of at most 64 KiB")
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// environment is one program with the Runtime API it sees. One invocation is in
// it at a time.
type environment struct {
	s       *Service
	p       *sandbox.Process
	logs    *logbook
	logger  *slog.Logger
	srv     *http.Server
	served  sync.WaitGroup
	read    chan struct{} // closed when the output has ended
	pending pendingOutput
	secrets []string
	private bool // others can reach the listener

	used    time.Time        // guarded by processes.mu
	current value            // the invocation under way, or the last one
	asks    chan struct{}    // it asks for an event
	hand    chan *invocation // to the request that asks
	said    chan result      // what it said of the current one

	mu   sync.Mutex
	busy string // id of the invocation that has no answer; guarded by mu
	done bool   // no answer is taken any more; guarded by mu
	once sync.Once
}

// serve serves the Runtime API and reads the output until end.
func (e *environment) serve() {
	e.srv = &http.Server{Handler: e, ErrorLog: slog.NewLogLogger(e.logger.Handler(), slog.LevelDebug), MaxHeaderBytes: 1 << 20}
	l := e.p.Listener
	if e.private {
		l = &ownListener{l, e.p}
	}
	e.served.Add(2)
	go func() {
		defer e.served.Done()
		_ = e.srv.Serve(l)
	}()
	go func() {
		defer e.served.Done()
		defer close(e.read)
		e.output()
	}()
}

// ownListener takes connections of the program alone.
type ownListener struct {
	net.Listener
	p *sandbox.Process
}

// Accept implements net.Listener.
func (l *ownListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || l.p.Owns(c) {
			return c, err
		}
		c.Close()
	}
}

func (e *environment) alive() bool {
	select {
	case <-e.p.Done():
		return false
	default:
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.done
}

// end ends the program and waits until nothing is left of it.
func (e *environment) end() {
	e.once.Do(func() {
		e.p.Kill()
		<-e.p.Done()
		e.srv.Close()
		// What the program's own descendants might still hold is not waited for.
		select {
		case <-e.read:
		case <-time.After(time.Second):
			e.p.Output.Close()
		}
		e.served.Wait()
		e.p.Output.Close()
		e.s.give()
	})
}

// run gives inv to the program and waits for its answer, until ctx ends: then the
// program ends too.
func (e *environment) run(ctx context.Context, inv *invocation) result {
	e.current.Store(inv)
	give := func(res result) result {
		e.mu.Lock()
		e.done = true
		e.mu.Unlock()
		return res
	}
	select {
	case e.hand <- inv:
	case <-e.p.Done():
		return give(e.exited(inv))
	case <-ctx.Done():
		return give(timedOut(inv))
	}
	select {
	case res := <-e.said:
		if inv.tail != nil {
			e.drain()
		}
		return res
	case <-e.p.Done():
		select {
		case res := <-e.said: // it answered and went
			return res
		default:
		}
		return give(e.exited(inv))
	case <-ctx.Done():
		return give(timedOut(inv))
	}
}

func (e *environment) exited(inv *invocation) result {
	<-e.p.Done()
	if e.p.OutOfMemory() {
		return failed(inv.id, typeMemory, "Runtime exited with error: %s: the memory limit was reached", e.p.Exit())
	}
	return failed(inv.id, typeExit, "Runtime exited with error: %s", e.p.Exit())
}

// Headers of the Runtime API. Source: AWS Lambda developer guide, "AWS Lambda
// runtime API".
const (
	headerID       = "Lambda-Runtime-Aws-Request-Id"
	headerDeadline = "Lambda-Runtime-Deadline-Ms"
	headerARN      = "Lambda-Runtime-Invoked-Function-Arn"
	headerTrace    = "Lambda-Runtime-Trace-Id"
	headerClient   = "Lambda-Runtime-Client-Context"
	headerErrType  = "Lambda-Runtime-Function-Error-Type"
	apiRoot        = "/2018-06-01/runtime/"
)

// ServeHTTP is the Runtime API.
func (e *environment) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, apiRoot)
	switch {
	case !ok:
		apiError(w, http.StatusNotFound, "NotFound", "there is no "+r.URL.Path)
	case path == "invocation/next" && r.Method == http.MethodGet:
		e.next(w, r)
	case path == "init/error" && r.Method == http.MethodPost:
		e.failed(w, r, "")
	case strings.HasPrefix(path, "invocation/") && r.Method == http.MethodPost:
		id, what, _ := strings.Cut(strings.TrimPrefix(path, "invocation/"), "/")
		switch what {
		case "response":
			e.answered(w, r, id)
		case "error":
			e.failed(w, r, id)
		default:
			apiError(w, http.StatusNotFound, "NotFound", "there is no "+r.URL.Path)
		}
	default:
		apiError(w, http.StatusNotFound, "NotFound", "there is no "+r.Method+" "+r.URL.Path)
	}
}

func apiError(w http.ResponseWriter, status int, kind, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(failure{kind, text})
}

func accepted(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, `{"status":"OK"}`+"\n")
}

// next waits for the next event.
func (e *environment) next(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	if e.busy != "" {
		// It goes on without having answered: the answer will not come.
		id := e.busy
		e.busy = ""
		e.tell(failed(id, typeInvalid, "the runtime asked for the next event without having answered this one"))
	}
	e.mu.Unlock()
	select {
	case e.asks <- struct{}{}:
	default:
	}
	select {
	case inv := <-e.hand:
		e.mu.Lock()
		e.busy = inv.id
		e.mu.Unlock()
		h := w.Header()
		h["Content-Type"] = []string{"application/json"}
		h[headerID] = []string{inv.id}
		h[headerDeadline] = []string{strconv.FormatInt(inv.deadline.UnixMilli(), 10)}
		h[headerARN] = []string{inv.arn}
		h[headerTrace] = []string{inv.trace}
		if inv.client != "" {
			h[headerClient] = []string{inv.client}
		}
		h["Content-Length"] = []string{strconv.Itoa(len(inv.payload))}
		_, _ = w.Write(inv.payload)
	case <-r.Context().Done():
	}
}

// tell brings res to run; e.mu is held.
func (e *environment) tell(res result) {
	if e.done {
		return
	}
	select {
	case e.said <- res:
	default:
	}
}

// answered takes the answer of the invocation id.
func (e *environment) answered(w http.ResponseWriter, r *http.Request, id string) {
	e.mu.Lock()
	mine := id != "" && id == e.busy
	e.mu.Unlock()
	if !mine {
		apiError(w, http.StatusBadRequest, "InvalidRequestID", "the invocation is not this environment's")
		return
	}
	body, err := readBody(r, maxAnswer)
	res := result{payload: body}
	switch {
	case errs.Is(err, errs.TooLarge):
		res = tooLarge()
	case err != nil:
		res = failed(id, typeInvalid, "the answer broke off: %v", err)
	case r.Trailer.Get(headerErrType) != "":
		res = failed(id, r.Trailer.Get(headerErrType), "the function failed while it answered")
	}
	e.mu.Lock()
	if e.busy == id {
		e.busy = ""
		e.tell(res)
	}
	e.mu.Unlock()
	if res.failed && err != nil {
		apiError(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "the answer is not taken")
		return
	}
	accepted(w)
}

// failed takes the error of the invocation id, or of the start where it is "".
func (e *environment) failed(w http.ResponseWriter, r *http.Request, id string) {
	body, err := readBody(r, maxFailure)
	e.mu.Lock()
	defer e.mu.Unlock()
	if id != "" && id != e.busy {
		apiError(w, http.StatusBadRequest, "InvalidRequestID", "the invocation is not this environment's")
		return
	}
	if !json.Valid(body) || err != nil {
		kind := r.Header.Get(headerErrType)
		if kind == "" {
			kind = "Runtime.Unknown"
		}
		body, _ = json.Marshal(failure{kind, strings.ToValidUTF8(string(body[:min(len(body), 1024)]), "\ufffd")})
	}
	e.busy = ""
	e.tell(result{payload: body, failed: true})
	accepted(w)
}

const maxFailure = 256 << 10

// readBody reads at most max bytes. Errors: errs.TooLarge.
func readBody(r *http.Request, max int64) ([]byte, error) {
	if r.ContentLength > max {
		return nil, errs.Errorf("functions.readBody", errs.TooLarge, "%d bytes", r.ContentLength)
	}
	var buf []byte
	if r.ContentLength > 0 {
		buf = make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, buf)
		return buf, err
	}
	buf, err := io.ReadAll(io.LimitReader(r.Body, max+1))
	if int64(len(buf)) > max {
		return nil, errs.Errorf("functions.readBody", errs.TooLarge, "more than %d bytes", max)
	}
	return buf, err
}

// output reads what the program writes, line by line.
func (e *environment) output() {
	in := bufio.NewReaderSize(pendingReader{e.p.Output, &e.pending}, 64<<10)
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			e.line(strings.TrimRight(string(line[:min(len(line), maxLine+1)]), "\r\n"))
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a line that is too long
			_, err = in.ReadSlice('\n')
		}
		e.pending.took(in.Buffered())
		if err != nil {
			return
		}
	}
}

func (e *environment) line(text string) {
	for _, s := range e.secrets {
		text = strings.ReplaceAll(text, s, "***")
	}
	l := LogLine{Time: e.s.now(), Text: text}
	if inv := e.current.Load(); inv != nil {
		l.Request = inv.id
		if inv.tail != nil {
			inv.tail.add(text)
		}
	}
	e.logs.add(l)
}
