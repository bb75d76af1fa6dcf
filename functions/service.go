package functions

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/tetratelabs/wazero"

	"github.com/weir-iot/weir/functions/sandbox"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
)

// Options configure a Service. Zero values have the defaults named.
type Options struct {
	Bucket    *kv.Bucket // "functions"
	Dir       string     // folder of Weir's own for unpacked code and sandboxes
	Hidden    []string   // paths no function may see, for the check of the walls
	AccountID string
	Region    string

	// Elsewhere: this process knows the functions there are and runs none; it asks
	// others. nil: they run here.
	Elsewhere Elsewhere

	// RequireIsolation refuses programs the host cannot isolate, but those that ask
	// for isolation none. weir serve sets it; weir dev warns.
	RequireIsolation bool

	// Isolation is what this machine was found to isolate; nil: it is tried when it
	// must be known.
	Isolation *sandbox.Report

	// Alone says that no other process runs functions on this log: queued events
	// need no lease then.
	Alone bool
	Lease time.Duration // how long a process's queued events are its own without a sign of it; default 5 s

	HTTP http.RoundTripper                             // of the runtime http, guarded; nil: not served
	AWS  func(ctx context.Context) (aws.Config, error) // of the runtime lambda; nil: not served

	Idle            time.Duration   // how long an environment stays warm; default 10 min
	InitTime        time.Duration   // from a program's start to its first question; default 10 s, as AWS Lambda
	MaxEnvironments int             // programs at a time, of all functions; default 100
	Waits           []time.Duration // before the second, third, … try of a queued event; default 1 min, 2 min, as AWS Lambda

	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// Service deploys and runs functions. Its methods may be called concurrently.
type Service struct {
	o         Options
	logger    *slog.Logger
	now       func() time.Time
	bucket    *kv.Bucket
	codes     *codes
	host      *sandbox.Host
	elsewhere *elsewhere // nil: functions run here
	queue     *queue
	metrics   *metrics

	deploying sync.Mutex // one change of records at a time

	mu       sync.RWMutex
	byName   map[string]*function
	programs int // environments there are
	calls    sync.WaitGroup
	running  bool // Run runs
	closing  bool
	ctx      context.Context // of all invocations; ends with Run
	cancel   context.CancelCauseFunc

	loading   sync.Mutex // one module is prepared at a time
	compiling sync.Mutex
	compiled  wazero.CompilationCache
}

// errClosing ends invocations when Weir stops.
var errClosing = errors.New("the server is stopping")

// record is a function as the bucket has it.
type record struct {
	Name     string         `json:"name"`
	Latest   Config         `json:"latest"`
	Versions map[int]Config `json:"versions,omitempty"`
	Last     int            `json:"last"` // version published last; they are never given twice
	Created  time.Time      `json:"created"`
	Modified time.Time      `json:"modified"`
	Revision string         `json:"revision"` // changes with every change
}

// function is a record with what runs it.
type function struct {
	record
	rev   uint64           // of the bucket; 0: not seen since it is read anew
	logs  *logbook         // outlives changes
	pools map[string]*pool // by version; made when first asked
}

// Function is what is known of a function's version.
type Function struct {
	Name     string    `json:"name"`
	ARN      string    `json:"arn"`
	Version  string    `json:"version"` // "$LATEST" or a number
	Config   Config    `json:"config"`
	Created  time.Time `json:"created"`
	Modified time.Time `json:"modified"`
	Revision string    `json:"revision"`
	Versions []int     `json:"versions,omitempty"` // there are, oldest first
}

const recordPrefix = "fn."

// Open reads the functions there are. Nothing runs before Run.
func Open(ctx context.Context, o Options) (*Service, error) {
	if o.Idle == 0 {
		o.Idle = 10 * time.Minute
	}
	if o.InitTime == 0 {
		o.InitTime = 10 * time.Second
	}
	if o.MaxEnvironments == 0 {
		o.MaxEnvironments = 100
	}
	if o.Lease == 0 {
		o.Lease = leaseTTL
	}
	if o.Waits == nil {
		o.Waits = []time.Duration{time.Minute, 2 * time.Minute}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Service{o: o, logger: o.Logger, now: o.Now, bucket: o.Bucket, byName: map[string]*function{}}
	s.codes = &codes{bucket: o.Bucket, dir: filepath.Join(o.Dir, "code")}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	if o.Elsewhere != nil {
		s.elsewhere = &elsewhere{s, o.Elsewhere}
		return s, o.Bucket.Scan(ctx, recordPrefix, func(e kv.Entry) error { s.seen(e); return nil })
	}
	for _, dir := range []string{o.Dir, filepath.Join(o.Dir, "code")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	for _, stale := range []string{filepath.Join(o.Dir, "tmp-*"), filepath.Join(o.Dir, "check-*"), filepath.Join(o.Dir, "code", "new-*")} {
		list, _ := filepath.Glob(stale)
		for _, path := range list {
			_ = os.RemoveAll(path)
		}
	}
	var err error
	if s.host, err = sandbox.NewHost(o.Dir, o.Hidden); err != nil {
		return nil, err
	}
	if o.Isolation != nil {
		s.host.Assume(o.Isolation)
	}
	if err := o.Bucket.Scan(ctx, recordPrefix, func(e kv.Entry) error { s.seen(e); return nil }); err != nil {
		return nil, err
	}
	if s.queue, err = openQueue(ctx, s); err != nil {
		return nil, err
	}
	s.metrics = newMetrics(s)
	if o.Registerer != nil {
		if err := o.Registerer.Register(s.metrics); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Run serves invocations until ctx ends; then it ends every environment.
func (s *Service) Run(ctx context.Context) error {
	if s.elsewhere != nil {
		s.watch(ctx)
		return nil
	}
	s.mu.Lock()
	s.running = true
	s.mu.Unlock()
	inner, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = s.host.Run(inner) })
	parts.Go(func() { s.watch(ctx) })
	parts.Go(func() { s.queue.run(ctx) })
	reap := time.NewTicker(max(s.o.Idle/4, 10*time.Millisecond))
	defer reap.Stop()
	for {
		select {
		case <-reap.C:
			before := s.now().Add(-s.o.Idle)
			for _, p := range s.pools() {
				p.runner.reap(before)
			}
			continue
		case <-ctx.Done():
		}
		break
	}
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.cancel(errClosing)
	s.calls.Wait()
	for _, p := range s.pools() {
		p.runner.close()
	}
	cancel()
	parts.Wait()
	s.compiling.Lock()
	defer s.compiling.Unlock()
	if s.compiled != nil {
		return s.compiled.Close(context.Background())
	}
	return nil
}

func (s *Service) pools() []*pool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*pool
	for _, f := range s.byName {
		out = slices.AppendSeq(out, maps.Values(f.pools))
	}
	return out
}

// watch follows the records until ctx ends.
func (s *Service) watch(ctx context.Context) {
	for ctx.Err() == nil {
		s.mu.Lock()
		for _, f := range s.byName {
			f.rev = 0 // revisions may have gone back
		}
		s.mu.Unlock()
		err := s.bucket.Watch(ctx, recordPrefix, func(e kv.Entry) {
			if e.Key == "" {
				s.dropUnseen()
				return
			}
			s.seen(e)
		})
		if err != nil {
			s.logger.Warn("the functions are read anew", "err", err)
			pause(ctx, time.Second)
		}
	}
}

// dropUnseen drops the functions the bucket has no more.
func (s *Service) dropUnseen() {
	s.mu.RLock()
	var gone []string
	for name, f := range s.byName {
		if f.rev == 0 {
			gone = append(gone, name)
		}
	}
	s.mu.RUnlock()
	for _, name := range gone {
		s.seen(kv.Entry{Key: recordPrefix + name, Revision: 1})
	}
}

// seen takes one entry of the bucket.
func (s *Service) seen(e kv.Entry) {
	name := strings.TrimPrefix(e.Key, recordPrefix)
	var r record
	if len(e.Value) > 0 {
		if err := json.Unmarshal(e.Value, &r); err != nil {
			s.logger.Error("the record of a function cannot be read", "function", name, "err", err)
			return
		}
	}
	s.mu.Lock()
	old := s.byName[name]
	if old != nil && old.rev >= e.Revision {
		s.mu.Unlock()
		return
	}
	var retired []*pool
	if len(e.Value) == 0 {
		delete(s.byName, name)
		if old != nil {
			retired = slices.Collect(maps.Values(old.pools))
		}
	} else {
		f := &function{record: r, rev: e.Revision, pools: map[string]*pool{}, logs: newLogbook()}
		if old != nil {
			f.logs = old.logs
			for version, p := range old.pools {
				if cfg, ok := f.config(version); ok && same(cfg, p.cfg) {
					f.pools[version] = p
				} else {
					retired = append(retired, p)
				}
			}
		}
		s.byName[name] = f
	}
	running := s.running
	s.mu.Unlock()
	if running && len(e.Value) > 0 {
		s.prepare(name)
	}
	for _, p := range retired {
		p.runner.close()
	}
}

// prepare makes the first call of a function a faster one.
func (s *Service) prepare(name string) {
	f, cfg, version, err := s.find(name, "")
	switch {
	case err != nil:
	case cfg.process() && cfg.Isolation == sandbox.Full:
		s.host.Prepare()
	case cfg.Runtime == "wasm":
		p, err := s.pool(f, cfg, version)
		if err != nil || !s.begin() {
			return
		}
		go func() {
			defer s.calls.Done()
			s.loading.Lock()
			defer s.loading.Unlock()
			if s.loaded() > maxPrepared {
				return
			}
			m := p.runner.(*modules)
			if _, _, err := m.open(s.ctx); err == nil {
				m.release()
			}
		}()
	}
}

// maxPrepared is how many bytes of packages have their modules in memory before
// any is called: each takes a few times its size.
const maxPrepared = 32 << 20

// loaded returns the bytes of packages whose modules are in memory.
func (s *Service) loaded() (size int64) {
	for _, p := range s.pools() {
		if m, ok := p.runner.(*modules); ok && m.isLoaded() {
			size += p.cfg.CodeSize
		}
	}
	return size
}

// begin counts a call in, which ends with calls.Done; false: the Service ends.
func (s *Service) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.calls.Add(1)
	return true
}

func same(a, b Config) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// config returns the configuration of a version: "", Latest or a number.
func (r *record) config(version string) (Config, bool) {
	if version == "" || version == Latest {
		return r.Latest, true
	}
	n, err := strconv.Atoi(version)
	if err != nil {
		return Config{}, false
	}
	cfg, ok := r.Versions[n]
	return cfg, ok
}

// find returns a function's version.
func (s *Service) find(ref, qualifier string) (*function, Config, string, error) {
	const op = "functions.find"
	if qualifier == "" {
		s.mu.RLock()
		f := s.byName[ref]
		s.mu.RUnlock()
		if f != nil { // a name as it is: most calls
			return f, f.Latest, Latest, nil
		}
	}
	name, version, own, err := s.resolve(ref, qualifier)
	if err != nil {
		return nil, Config{}, "", err
	}
	if version == "" {
		version = Latest
	}
	s.mu.RLock()
	f := s.byName[name]
	s.mu.RUnlock()
	if f != nil && own {
		if cfg, ok := f.config(version); ok {
			return f, cfg, version, nil
		}
	}
	missing := s.ARN(name, version)
	if !own {
		missing = ref
	}
	return nil, Config{}, "", errs.Errorf(op, errs.NotFound, "Function not found: %s", missing)
}

// Has reports whether function, a name or an ARN, is deployed here.
func (s *Service) Has(function string) bool {
	_, _, _, err := s.find(function, "")
	return err == nil
}

// Get returns a function's version. Errors: errs.NotFound, errs.Invalid.
func (s *Service) Get(ref, qualifier string) (*Function, error) {
	f, cfg, version, err := s.find(ref, qualifier)
	if err != nil {
		return nil, err
	}
	return s.describe(f, cfg, version), nil
}

func (s *Service) describe(f *function, cfg Config, version string) *Function {
	return &Function{Name: f.Name, ARN: s.ARN(f.Name, version), Version: version, Config: cfg, Created: f.Created, Modified: f.Modified,
		Revision: f.Revision, Versions: slices.Sorted(maps.Keys(f.record.Versions))}
}

// List returns the latest version of every function, sorted by name.
func (s *Service) List() []*Function {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := []*Function{}
	for _, name := range slices.Sorted(maps.Keys(s.byName)) {
		f := s.byName[name]
		out = append(out, s.describe(f, f.Latest, Latest))
	}
	return out
}

// Invoke runs a function and returns its answer. It waits for a free place until
// ctx ends. Errors: errs.NotFound, errs.Invalid (the function failed, too),
// errs.Timeout (its time was up), errs.Quota, errs.Unavailable.
func (s *Service) Invoke(ctx context.Context, function string, payload []byte) ([]byte, error) {
	resp, err := s.Call(ctx, &Request{Function: function, Payload: payload, Wait: true})
	if err != nil {
		return nil, err
	}
	if err := resp.Failed(function); err != nil {
		return nil, err
	}
	if len(resp.Payload) == 0 {
		return nil, errs.Errorf("functions.Invoke", errs.Invalid, "function %s answered nothing", function)
	}
	return resp.Payload, nil
}

// Do runs a function for a result nobody reads; id is the invocation's. It waits
// for a free place until ctx ends. Errors: as Invoke's.
func (s *Service) Do(ctx context.Context, function, id string, payload []byte) error {
	resp, err := s.Call(ctx, &Request{Function: function, ID: id, Payload: payload, Wait: true})
	if err != nil {
		return err
	}
	return resp.Failed(function)
}

// Call runs a function. A function that failed is a Response. When ctx ends
// before the answer, the invocation goes on to its own end and its outcome is
// lost. Errors: as Invoke's, without the function's own.
func (s *Service) Call(ctx context.Context, r *Request) (*Response, error) {
	const op = "functions.Invoke"
	f, cfg, version, err := s.find(r.Function, r.Qualifier)
	if err != nil {
		return nil, err
	}
	if len(r.Payload) > MaxPayload {
		return nil, errs.Errorf(op, errs.TooLarge, "%d bytes exceeded the maximum of %d", len(r.Payload), MaxPayload)
	}
	if s.elsewhere != nil {
		return s.elsewhere.call(ctx, &cfg, r)
	}
	p, err := s.pool(f, cfg, version)
	if err != nil {
		return nil, err
	}
	if err := p.take(ctx, r.Wait); err != nil {
		s.metrics.throttled.WithLabelValues(f.Name).Inc()
		return nil, err
	}
	if !s.begin() {
		p.give()
		return nil, errs.E(op, errs.Unavailable, errClosing)
	}
	inv := &invocation{id: r.ID, arn: s.ARN(f.Name, version), trace: r.Trace, client: r.ClientContext, payload: r.Payload, timeout: time.Duration(cfg.Timeout) * time.Second}
	if inv.id == "" {
		inv.id = NewID()
	}
	at := s.now()
	inv.deadline = at.Add(inv.timeout)
	if inv.trace == "" {
		inv.trace = trace(at, inv.id)
	}
	if r.Tail {
		inv.tail = &tail{}
		inv.tail.add("START RequestId: " + inv.id + " Version: " + version)
	}
	type outcome struct {
		res result
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		defer s.calls.Done()
		defer p.give()
		res, err := p.runner.invoke(s.ctx, inv)
		s.metrics.invoked(f.Name, s.now().Sub(at), res, err)
		if res.failed {
			f.logs.add(LogLine{Time: s.now(), Request: inv.id, Text: failureLine(res.payload), Weir: true})
		} else if err != nil {
			f.logs.add(LogLine{Time: s.now(), Request: inv.id, Text: errs.Text(err), Weir: true})
		}
		done <- outcome{res, err}
	}()
	var o outcome
	select {
	case o = <-done:
	case <-ctx.Done():
		return nil, errs.Errorf(op, errs.Timeout, "function %s did not answer in time: %w", f.Name, ctx.Err())
	}
	if o.err != nil {
		return nil, o.err
	}
	resp := &Response{ID: inv.id, Version: version, Payload: o.res.payload, Duration: s.now().Sub(at)}
	if o.res.failed {
		resp.Error = "Unhandled"
	}
	if inv.tail != nil {
		if o.res.failed {
			inv.tail.add(failureLine(o.res.payload))
		}
		inv.tail.add("END RequestId: " + inv.id)
		inv.tail.add(report(inv, resp.Duration, &cfg, &o.res))
		resp.Log = inv.tail.bytes()
	}
	return resp, nil
}

func failureLine(payload []byte) string {
	var f failure
	if json.Unmarshal(payload, &f) != nil || f.Type == "" && f.Message == "" {
		return "failed: " + clipTo(string(payload), 1000)
	}
	return "failed: " + f.Type + ": " + clipTo(f.Message, 1000)
}

// report is the last line of a log. Source: AWS Lambda developer guide, log
// format.
func report(inv *invocation, d time.Duration, cfg *Config, res *result) string {
	ms := func(d time.Duration) string { return strconv.FormatFloat(float64(d)/1e6, 'f', 2, 64) + " ms" }
	text := fmt.Sprintf("REPORT RequestId: %s\tDuration: %s\tBilled Duration: %d ms\tMemory Size: %d MB\tMax Memory Used: %d MB",
		inv.id, ms(d-res.init), (d+time.Millisecond-1)/time.Millisecond, cfg.Memory, res.peak>>20)
	if res.init > 0 {
		text += "\tInit Duration: " + ms(res.init)
	}
	return text
}

// pool returns the places of a version.
func (s *Service) pool(f *function, cfg Config, version string) (*pool, error) {
	s.mu.RLock()
	p := f.pools[version]
	s.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.byName[f.Name]; now != f && now != nil {
		if c, ok := now.config(version); ok && same(c, cfg) {
			f = now // changed meanwhile, but not in this version
		}
	}
	if p := f.pools[version]; p != nil {
		return p, nil
	}
	p = &pool{cfg: cfg, version: version, places: make(chan struct{}, cfg.Concurrency)}
	switch cfg.Runtime {
	case "wasm":
		p.runner = &modules{s: s, name: f.Name, p: p, logs: f.logs}
	case "http":
		u, err := url.Parse(cfg.URL)
		if err != nil {
			return nil, errs.E("functions.pool", errs.Invalid, err)
		}
		p.runner = &endpoint{s: s, url: u}
	case "lambda":
		p.runner = &remote{s: s, target: cfg.Target}
	default:
		p.runner = &processes{s: s, name: f.Name, p: p, logs: f.logs}
	}
	f.pools[version] = p
	return p, nil
}

// take counts an environment in. Where there are as many as may be, the idle one
// that was used longest ago makes room.
func (s *Service) take() bool {
	for {
		s.mu.Lock()
		room := s.programs < s.o.MaxEnvironments
		if room {
			s.programs++
		}
		s.mu.Unlock()
		if room || !s.evict() {
			return room
		}
	}
}

// evict ends the idle environment that was used longest ago, of any function;
// false: all are at work.
func (s *Service) evict() bool {
	var of *processes
	var oldest time.Time
	for _, p := range s.pools() {
		if r, ok := p.runner.(*processes); ok {
			if used, ok := r.idleSince(); ok && (of == nil || used.Before(oldest)) {
				of, oldest = r, used
			}
		}
	}
	if of == nil {
		return false
	}
	of.evict()
	return true
}

func (s *Service) give() {
	s.mu.Lock()
	s.programs--
	s.mu.Unlock()
}

// Environments returns how many programs there are, idle ones too.
func (s *Service) Environments() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.programs
}

// permitted refuses a program the host cannot isolate, where that is required.
func (s *Service) permitted(ctx context.Context, cfg *Config) error {
	if !s.o.RequireIsolation || cfg.Isolation == sandbox.None {
		return nil
	}
	const op = "functions.isolate"
	r := s.host.Check(ctx)
	if !r.Isolated() {
		return errs.Errorf(op, errs.Forbidden, "this machine cannot isolate the function (%s); set isolation none to run it all the same", strings.Join(r.Missing(), "; "))
	}
	if cfg.Network == sandbox.Open && !s.host.Users() {
		return errs.Errorf(op, errs.Forbidden, "with network host functions could reach each other's events here, as programs have no users of their own: run Weir as root, or set isolation none")
	}
	return nil
}

// Isolation tries what this machine can keep a function from.
func (s *Service) Isolation(ctx context.Context) *sandbox.Report {
	if s.elsewhere != nil {
		return s.elsewhere.isolation(ctx)
	}
	return s.host.Check(ctx)
}

// compilations returns the cache of compiled modules, on disk.
func (s *Service) compilations() (wazero.CompilationCache, error) {
	s.compiling.Lock()
	defer s.compiling.Unlock()
	if s.compiled == nil {
		c, err := wazero.NewCompilationCacheWithDir(filepath.Join(s.o.Dir, "wasm"))
		if err != nil {
			return nil, err
		}
		s.compiled = c
	}
	return s.compiled, nil
}

// Logs calls fn for the newest last lines of a function's log (negative: all
// that are kept), then with follow for each new one until ctx ends.
func (s *Service) Logs(ctx context.Context, ref string, last int, follow bool, fn func(LogLine) error) error {
	f, _, _, err := s.find(ref, "")
	if err != nil {
		return err
	}
	if s.elsewhere != nil {
		return s.elsewhere.logs(ctx, ref, last, follow, fn)
	}
	return f.logs.read(ctx, last, follow, fn)
}

// NewID returns an id of an invocation, a random UUID.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return uuid(b)
}

func uuid(b [16]byte) string {
	var out [36]byte
	hex.Encode(out[:8], b[:4])
	hex.Encode(out[9:13], b[4:6])
	hex.Encode(out[14:18], b[6:8])
	hex.Encode(out[19:23], b[8:10])
	hex.Encode(out[24:], b[10:])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return string(out[:])
}

// trace makes a tracing header of an invocation's id. Source: AWS X-Ray
// developer guide, "Tracing header".
func trace(at time.Time, id string) string {
	digits := strings.ReplaceAll(id, "-", "") + "00000000000000000000000000000000"
	return fmt.Sprintf("Root=1-%08x-%s;Parent=%s;Sampled=0", uint32(at.Unix()), digits[:24], digits[16:32])
}
