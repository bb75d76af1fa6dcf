package functions

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
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
	stop := context.AfterFunc(ctx, env.p.Kill)
	defer stop()
	res := env.run(ctx, inv)
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

// idleSince returns when the environment that is idle longest was used last.
func (r *processes) idleSince() (used time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.idle) == 0 {
		return used, false
	}
	return r.idle[0].used, true
}

// evict ends the environment that is idle longest, where there is one.
func (r *processes) evict() {
	r.mu.Lock()
	var env *environment
	if len(r.idle) > 0 {
		env = r.idle[0]
		r.idle = slices.Delete(r.idle, 0, 1)
	}
	r.mu.Unlock()
	if env != nil {
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
		s: r.s, p: p, logs: r.logs, asks: make(chan struct{}, 1), said: make(chan result, 1),
		read: make(chan struct{}), secrets: secrets, private: cfg.Network == sandbox.Open,
	}
	env.current.Store(inv)
	env.serve()
	defer r.s.host.Prepare() // for the next one, once this one needs the processor no more
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
	over    context.Context // ends with it
	close   context.CancelFunc
	served  sync.WaitGroup
	read    chan struct{} // closed when the output has ended
	pending pendingOutput
	secrets []string
	private bool // others can reach the listener

	used    time.Time     // guarded by processes.mu
	current value         // the invocation under way, or the last one
	asks    chan struct{} // has one when another connection asks for an event
	said    chan result   // what it said of the current one

	mu        sync.Mutex
	askers    []*connection // that wait for an event; guarded by mu
	busy      string        // id of the invocation that has no answer; guarded by mu
	answering bool          // the answer to busy is being read; guarded by mu
	began     bool          // it has asked for an event; guarded by mu
	done      bool          // no answer is taken any more; guarded by mu
	once      sync.Once
}

// serve serves the Runtime API and reads the output until end.
func (e *environment) serve() {
	e.over, e.close = context.WithCancel(context.Background())
	e.served.Go(func() { e.accept(e.p.Listener) })
	e.served.Go(func() {
		defer close(e.read)
		e.output()
	})
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
		e.p.Listener.Close()
		e.close()
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

// run gives inv to the program and waits for its answer, until its time is up or
// ctx ends: then the program ends too.
func (e *environment) run(ctx context.Context, inv *invocation) result {
	e.current.Store(inv)
	late := time.NewTimer(inv.timeout)
	defer late.Stop()
	give := func(res result) result {
		e.mu.Lock()
		e.done = true
		e.mu.Unlock()
		return res
	}
	for {
		if c := e.asker(inv); c != nil {
			if c.event(inv) == nil {
				break
			}
			c.Close() // it has gone; the program may ask again
			continue
		}
		select {
		case <-e.asks:
		case <-e.p.Done():
			return give(e.exited(inv))
		case <-late.C:
			return give(timedOut(inv))
		case <-ctx.Done():
			return give(timedOut(inv))
		}
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
	case <-late.C:
		return give(timedOut(inv))
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
