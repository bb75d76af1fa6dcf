package functions

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"

	"github.com/weir-iot/weir/internal/errs"
)

// modules runs a version as a WebAssembly module: an instance a call, with the
// event on its standard input and the answer on its standard output. It has no
// network, and no files but those of the folders that are granted, to read.
type modules struct {
	s    *Service
	name string
	p    *pool
	logs *logbook
	memories

	mu       sync.Mutex
	runtime  wazero.Runtime // nil: not compiled yet, or let go of
	compiled wazero.CompiledModule
	base     wazero.ModuleConfig // what every call has in common
	secrets  []string
	granted  []*os.Root // folders it can read
	used     time.Time
	busy     int
	closed   bool
}

// moduleNames are the files of a package that may be the module.
var moduleNames = []string{"main.wasm", "bootstrap.wasm", "function.wasm", "bootstrap"}

// moduleFile returns the path of the module in an unpacked package.
func moduleFile(dir string, cfg *Config) (string, error) {
	names := moduleNames
	if h := cfg.Handler; strings.HasSuffix(h, ".wasm") && filepath.IsLocal(h) {
		names = []string{h}
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", errs.Errorf("functions.wasm", errs.Invalid, "the package has no %s; name the module in handler", strings.Join(names, ", "))
}

// open returns the compiled module, which stays until release.
func (m *modules) open(ctx context.Context) (wazero.Runtime, wazero.CompiledModule, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.runtime == nil {
		if err := m.load(ctx); err != nil {
			m.letGo()
			return nil, nil, err
		}
	}
	m.busy++
	m.used = m.s.now()
	return m.runtime, m.compiled, nil
}

func (m *modules) isLoaded() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.runtime != nil
}

// load compiles the module, or has it from the cache on disk; m.mu is held.
func (m *modules) load(ctx context.Context) error {
	dir, err := m.s.codes.folder(ctx, m.p.cfg.Code, m.p.cfg.CodeSize)
	if err != nil {
		return err
	}
	if err := m.configure(); err != nil {
		return err
	}
	m.runtime, m.compiled, err = m.s.compile(dir, &m.p.cfg)
	if err != nil {
		return err
	}
	_, err = wasi_snapshot_preview1.Instantiate(context.Background(), m.runtime)
	return err
}

func newRuntime(cache wazero.CompilationCache, cfg *Config) wazero.Runtime {
	return wazero.NewRuntimeWithConfig(context.Background(), wazero.NewRuntimeConfig().
		WithCompilationCache(cache).
		WithCloseOnContextDone(true).
		WithMemoryLimitPages(uint32(cfg.Memory)*16))
}

// compile compiles the module of an unpacked package, into the cache on disk too.
// The caller closes the runtime. Errors: errs.Invalid.
func (s *Service) compile(dir string, cfg *Config) (wazero.Runtime, wazero.CompiledModule, error) {
	file, err := moduleFile(dir, cfg)
	if err != nil {
		return nil, nil, err
	}
	binary, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	cache, err := s.compilations()
	if err != nil {
		return nil, nil, err
	}
	rt := newRuntime(cache, cfg)
	compiled, err := rt.CompileModule(context.Background(), binary)
	if err != nil {
		rt.Close(context.Background())
		return nil, nil, errs.Errorf("functions.wasm", errs.Invalid, "%s is no module this runtime takes: %w", filepath.Base(file), err)
	}
	return rt, compiled, nil
}

// configure finds out what every instance has, and the values logs must not show.
func (m *modules) configure() error {
	vars, secrets, err := (&processes{s: m.s, name: m.name, p: m.p}).variables()
	if err != nil {
		return errs.E("functions.wasm", errs.Invalid, err)
	}
	cfg := wazero.NewModuleConfig().WithName("").WithSysWalltime().WithSysNanotime().WithRandSource(crand.Reader)
	if mounts := m.p.cfg.Mounts; len(mounts) > 0 {
		files := wazero.NewFSConfig()
		for _, path := range mounts {
			root, err := os.OpenRoot(path) // no link leads out of it
			if err != nil {
				return errs.E("functions.wasm", errs.Invalid, err)
			}
			m.granted = append(m.granted, root)
			files = files.WithFSMount(root.FS(), path)
		}
		cfg = cfg.WithFSConfig(files)
	}
	for _, v := range vars {
		name, text, _ := strings.Cut(v, "=")
		switch name {
		case "AWS_LAMBDA_RUNTIME_API", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR", "PATH", "LD_LIBRARY_PATH", "HOME", "TMPDIR":
			continue // there is no such thing
		}
		cfg = cfg.WithEnv(name, text)
	}
	m.base, m.secrets = cfg, secrets
	return nil
}

func (m *modules) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy--; m.closed && m.busy == 0 {
		m.letGo()
	}
}

// letGo drops the compiled module; m.mu is held.
func (m *modules) letGo() {
	if m.runtime != nil {
		m.runtime.Close(context.Background())
	}
	m.runtime, m.compiled = nil, nil
	for _, root := range m.granted {
		root.Close()
	}
	m.granted = nil
}

func (m *modules) reap(before time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy == 0 && m.used.Before(before) {
		m.letGo()
	}
}

func (m *modules) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed = true; m.busy == 0 {
		m.letGo()
	}
}

// buffers are reused between calls; large ones are not kept.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// invoke implements runner.
func (m *modules) invoke(ctx context.Context, inv *invocation) (result, error) {
	at, warm := time.Now(), m.isLoaded()
	rt, compiled, err := m.open(ctx)
	if err != nil {
		if errs.Is(err, errs.Invalid) {
			return failed(inv.id, typeStart, "%s", errs.Text(err)), nil
		}
		return result{}, err
	}
	defer m.release()
	var began time.Duration
	if !warm {
		began = time.Since(at)
	}
	ctx, cancel := context.WithTimeout(ctx, inv.timeout)
	defer cancel()

	out := buffers.Get().(*bytes.Buffer)
	defer func() {
		if out.Cap() <= 64<<10 {
			out.Reset()
			buffers.Put(out)
		}
	}()
	answer := &limitedBuffer{b: out, left: maxAnswer}
	log := &lineWriter{line: func(text string) {
		for _, s := range m.secrets {
			text = strings.ReplaceAll(text, s, "***")
		}
		m.logs.add(LogLine{Time: m.s.now(), Request: inv.id, Text: text})
		if inv.tail != nil {
			inv.tail.add(text)
		}
	}}
	cfg := m.base.WithStdin(bytes.NewReader(inv.payload)).WithStdout(answer).WithStderr(log).
		WithArgs(m.name, inv.id) // not WithEnv: its copies share their list
	mod, err := rt.InstantiateModule(experimental.WithMemoryAllocator(ctx, &m.memories), compiled, cfg)
	var used int64
	if mod != nil {
		used = size(mod)
		mod.Close(context.Background())
	}
	log.flush()
	res := m.outcome(ctx, inv, err, answer, log)
	res.init, res.peak = began, used
	return res, nil
}

func size(mod api.Module) int64 {
	if mem := mod.Memory(); mem != nil {
		return int64(mem.Size())
	}
	return 0
}

func (m *modules) outcome(ctx context.Context, inv *invocation, err error, answer *limitedBuffer, log *lineWriter) result {
	var exit *sys.ExitError
	switch {
	case answer.over:
		return tooLarge()
	case errors.As(err, &exit) && (exit.ExitCode() == sys.ExitCodeDeadlineExceeded || exit.ExitCode() == sys.ExitCodeContextCanceled),
		err != nil && ctx.Err() != nil:
		return timedOut(inv)
	case errors.As(err, &exit) && exit.ExitCode() != 0:
		text := fmt.Sprintf("Runtime exited with error: exit status %d", exit.ExitCode())
		if log.last != "" {
			text += ": " + clipTo(log.last, 500)
		}
		return failed(inv.id, typeExit, "%s", text)
	case err != nil && exit == nil:
		first, _, _ := strings.Cut(err.Error(), "\n")
		return failed(inv.id, typeExit, "Runtime exited with error: %s", clipTo(first, 500))
	}
	return result{payload: bytes.Clone(answer.b.Bytes())}
}

// limitedBuffer takes left bytes and refuses more.
type limitedBuffer struct {
	b    *bytes.Buffer
	left int
	over bool
}

// Write implements io.Writer.
func (w *limitedBuffer) Write(p []byte) (int, error) {
	if len(p) > w.left {
		w.over = true
		return 0, io.ErrShortWrite
	}
	w.left -= len(p)
	return w.b.Write(p)
}

// lineWriter calls line for each line.
type lineWriter struct {
	line func(string)
	rest []byte
	last string
}

// Write implements io.Writer.
func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		w.emit(append(w.rest, p[:i]...))
		w.rest, p = w.rest[:0], p[i+1:]
	}
	if room := maxLine - len(w.rest); room > 0 {
		w.rest = append(w.rest, p[:min(len(p), room)]...)
	}
	return n, nil
}

func (w *lineWriter) emit(b []byte) {
	text := strings.TrimRight(string(b), "\r")
	if text != "" {
		w.last = text
	}
	w.line(text)
}

func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		w.emit(w.rest)
		w.rest = nil
	}
}
