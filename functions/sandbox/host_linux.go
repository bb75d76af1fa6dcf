package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-iot/weir/internal/errs"
)

// Host makes sandboxes on this machine.
type Host struct {
	dir    string   // Weir's own, for mount points and folders of programs without a file system of their own
	hidden []string // must not be seen from inside
	groups controllers
	root   bool
	uids   uint32 // first of the users; 0: only nobody is there
	next   atomic.Uint32

	requests chan func() // to the thread that forks
	ended    chan struct{}

	mu     sync.Mutex
	report *Report // of the last Check

	spares sync.Mutex
	spare  *helper        // waits for its plan; nil: there is none
	making bool           // it is on its way, or not to come
	made   sync.WaitGroup // of those that make one
}

// firstUID is the first of the host's users programs get, one each, where Weir
// is root. Nobody else's ranges reach so far up.
const (
	firstUID = 0x70000000
	manyUIDs = 1 << 16
	nobody   = 65534
)

// NewHost looks for what the machine offers. dir is a folder of Weir's own;
// hidden are the paths Check must not find inside. Sandboxes can be made while
// Run runs.
func NewHost(dir string, hidden []string) (*Host, error) {
	staging := filepath.Join(dir, "root")
	if err := os.MkdirAll(staging, 0o700); err != nil {
		return nil, err
	}
	h := &Host{
		dir: dir, hidden: hidden, groups: findControllers("/proc/self", ""), root: os.Geteuid() == 0,
		requests: make(chan func()), ended: make(chan struct{}),
	}
	h.groups.sweep()
	if h.root && mapped("/proc/self/uid_map", firstUID+manyUIDs) {
		h.uids = firstUID
	}
	return h, nil
}

// mapped reports whether the user id is one of this user namespace.
func mapped(file string, id int64) bool {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		from, err1 := strconv.ParseInt(f[0], 10, 64)
		n, err2 := strconv.ParseInt(f[2], 10, 64)
		if err1 == nil && err2 == nil && from <= id && id < from+n {
			return true
		}
	}
	return false
}

// Run forks for Start until ctx ends. A program dies with the thread that
// forked it, so that is a thread of its own, which lives as long as Weir.
func (h *Host) Run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case f := <-h.requests:
			f()
		case <-ctx.Done():
			close(h.ended)
			h.spares.Lock()
			h.making = true // no more
			h.spares.Unlock()
			h.made.Wait()
			if last := h.take(standard); last != nil {
				last.drop()
			}
			return nil
		}
	}
}

// shape is what of a sandbox is there from its first instruction on.
type shape struct{ namespaces, listen bool }

// standard is the shape of most: isolated, with a network of its own.
var standard = shape{true, true}

// helper is a process that becomes a program once it is told its plan.
type helper struct {
	cmd    *exec.Cmd
	link   int           // Weir's end of it
	output *os.File      // of it and what it becomes
	exited chan struct{} // it has ended
}

// fork starts a helper.
func (h *Host) fork(ctx context.Context, of shape) (*helper, error) {
	const op = "sandbox.Start"
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "link")
	defer theirs.Close()
	r, w, err := os.Pipe()
	if err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	defer w.Close()
	p := &helper{link: pair[0], output: r, exited: make(chan struct{})}
	p.cmd = &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{helperName}, Env: []string{}, Dir: "/",
		Stdout: w, Stderr: w, ExtraFiles: []*os.File{theirs},
		SysProcAttr: h.attributes(of),
	}
	launched := make(chan error, 1)
	select {
	case h.requests <- func() { launched <- p.cmd.Start() }:
		if err = <-launched; err != nil {
			err = errs.E(op, errs.Unavailable, fmt.Errorf("namespaces: %w", err))
		}
	case <-h.ended:
		err = errs.Errorf(op, errs.Unavailable, "Weir is stopping")
	case <-ctx.Done():
		err = errs.E(op, errs.Unavailable, ctx.Err())
	}
	if err != nil {
		unix.Close(p.link)
		r.Close()
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// drop ends a helper that is not needed.
func (p *helper) drop() {
	_ = p.cmd.Process.Kill()
	<-p.exited
	unix.Close(p.link)
	p.output.Close()
}

// Prepare starts a helper that the next isolated program will be, where none
// waits yet: a process of Weir's own takes time to begin, which is spared then.
// Where one cannot be started none is tried again: Start says why.
func (h *Host) Prepare() {
	h.spares.Lock()
	defer h.spares.Unlock()
	if h.making || h.spare != nil || !called.Load() {
		return
	}
	h.making = true
	h.made.Go(func() {
		p, err := h.fork(context.Background(), standard)
		h.spares.Lock()
		defer h.spares.Unlock()
		if err == nil {
			h.spare, h.making = p, false
		}
	})
}

// take returns the helper that waits; nil: there is none of this shape.
func (h *Host) take(of shape) *helper {
	h.spares.Lock()
	defer h.spares.Unlock()
	p := h.spare
	if p == nil || of != standard {
		return nil
	}
	h.spare = nil
	select {
	case <-p.exited:
		p.drop()
		return nil
	default:
		return p
	}
}

// process is the part of Process that is the platform's.
type process struct {
	h      *Host
	helper *helper
	group  *group
	temp   string // folder to remove; "": none
	done   chan struct{}
	state  *os.ProcessState // valid once done is closed
	oom    bool             // likewise
	peak   int64            // likewise
	UID    int              // of the program; -1: Weir's own
}

// Start starts a program. The caller ends it with Kill, and waits with Wait.
// Errors: errs.Invalid (the program cannot be started), errs.Unavailable (the
// host does not permit the sandbox).
func (h *Host) Start(ctx context.Context, s Spec) (*Process, error) {
	return h.start(ctx, s, nil)
}

func (h *Host) start(ctx context.Context, s Spec, pr *probe) (_ *Process, err error) {
	const op = "sandbox.Start"
	if !called.Load() {
		return nil, errs.Errorf(op, errs.Internal, "this binary does not call sandbox.Main first of all")
	}
	p := &Process{process: process{h: h, done: make(chan struct{}), UID: -1}}
	started := false
	defer func() {
		if err != nil && !started {
			p.cleanUp()
		}
	}()
	pl := plan{Spec: s, Staging: filepath.Join(h.dir, "root"), Namespaces: s.Isolation == Full, UID: -1, Data: !h.groups.canMemory(), Probe: pr}
	pl.Listen = pl.Namespaces && s.Network != Open
	of := shape{pl.Namespaces, pl.Listen}
	n := h.next.Add(1)
	addr, code, temp := net.JoinHostPort("127.0.0.1", strconv.Itoa(apiPort)), CodePath, TempPath
	if !pl.Namespaces {
		if p.temp, err = os.MkdirTemp(h.dir, "tmp-"); err != nil {
			return nil, err
		}
		code, temp = s.Code, p.temp
	}
	if !pl.Listen {
		if p.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, err
		}
		addr = p.Listener.Addr().String()
	}
	places := strings.NewReplacer(CodePlace, code, TempPlace, temp, AddrPlace, addr)
	pl.Env, pl.Command = slices.Clone(s.Env), slices.Clone(s.Command)
	for _, list := range [][]string{pl.Env, pl.Command} {
		for i := range list {
			list[i] = places.Replace(list[i])
		}
	}
	if pl.Namespaces && h.root {
		pl.UID = nobody
		if h.uids > 0 {
			pl.UID = int(h.uids + n%manyUIDs)
		}
		p.UID = pl.UID
	}
	if h.groups.canMemory() || h.groups.canPids() {
		if p.group, err = h.groups.make(fmt.Sprintf("%s-%d", s.Name, n), s.Memory, s.Processes); err != nil {
			return nil, errs.E(op, errs.Unavailable, fmt.Errorf("control group: %w", err))
		}
	}
	packed, err := json.Marshal(pl)
	if err != nil {
		return nil, err
	}
	if len(packed) > maxPlan {
		return nil, errs.Errorf(op, errs.TooLarge, "command and environment have more than %d bytes", maxPlan)
	}
	p.helper = h.take(of)
	if p.helper == nil {
		if p.helper, err = h.fork(ctx, of); err != nil {
			return nil, err
		}
	}
	started = true
	p.PID, p.Output = p.helper.cmd.Process.Pid, p.helper.output
	defer unix.Close(p.helper.link)
	if p.UID >= 0 {
		_ = p.helper.output.Chown(p.UID, p.UID) // programs open /dev/stderr
	}
	go p.wait()
	// The helper is short; one that hangs is ended.
	late := time.AfterFunc(startTime, p.Kill)
	defer late.Stop()
	stop := context.AfterFunc(ctx, p.Kill)
	defer stop()
	if err := p.introduce(p.helper.link, packed, pl.Listen); err != nil {
		p.Kill()
		<-p.done
		if p.Listener != nil {
			p.Listener.Close()
		}
		p.Output.Close()
		return nil, err
	}
	if !stop() {
		p.Kill()
	}
	return p, nil
}

const startTime = 20 * time.Second

func (h *Host) attributes(of shape) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if !of.namespaces {
		return a
	}
	a.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS
	if of.listen {
		a.Cloneflags |= syscall.CLONE_NEWNET
	}
	if !h.root {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return a
}

// introduce tells the helper its plan and sees it become the program.
func (p *Process) introduce(fd int, packed []byte, listen bool) error {
	const op = "sandbox.Start"
	if p.group != nil {
		if err := p.group.add(p.PID); err != nil {
			return errs.E(op, errs.Unavailable, fmt.Errorf("control group: %w", err))
		}
	}
	if _, err := unix.Write(fd, packed); err != nil {
		return errs.E(op, errs.Unavailable, err)
	}
	buf, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	for step := 0; ; step++ {
		n, nr, err := receive(fd, buf, rights)
		switch {
		case err != nil:
			return errs.E(op, errs.Unavailable, err)
		case n == 0 && step > 0 && buf[0] == ready:
			return nil // the link ended with the helper's becoming the program
		case n == 0:
			return errs.Errorf(op, errs.Unavailable, "the sandbox ended before the program started")
		case n == 1 && buf[0] == listening && listen:
			l, err := listener(rights[:nr])
			if err != nil {
				return errs.E(op, errs.Unavailable, err)
			}
			p.Listener = l
		case n == 1 && buf[0] == ready:
			if _, err := unix.Write(fd, []byte{ready}); err != nil {
				return errs.E(op, errs.Unavailable, err)
			}
		default:
			kind := errs.Unavailable
			if step > 0 && strings.HasPrefix(string(buf[:n]), "start ") {
				kind = errs.Invalid
			}
			return errs.Errorf(op, kind, "%s", buf[:n])
		}
	}
}

func receive(fd int, buf, rights []byte) (n, nr int, err error) {
	for {
		n, nr, _, _, err = unix.Recvmsg(fd, buf, rights, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			if errors.Is(err, unix.ECONNRESET) {
				return 0, 0, nil
			}
			return n, nr, err
		}
	}
}

func listener(rights []byte) (net.Listener, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("the sandbox sent no listener: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("the sandbox sent no listener: %w", err)
	}
	f := os.NewFile(uintptr(fds[0]), "listener")
	defer f.Close()
	return net.FileListener(f)
}

func (p *Process) wait() {
	<-p.helper.exited
	p.state = p.helper.cmd.ProcessState
	if p.group != nil {
		p.oom, p.peak = p.group.outOfMemory(), p.group.peak()
	}
	p.Kill() // what it leaves behind
	p.cleanUp()
	close(p.done)
}

func (p *Process) cleanUp() {
	if p.group != nil {
		p.group.remove()
	}
	if p.temp != "" {
		_ = os.RemoveAll(p.temp)
	}
}

// Kill ends the program and everything it started. It does not wait.
func (p *Process) Kill() {
	// With namespaces the program is the first of its process namespace, which
	// ends with it.
	_ = syscall.Kill(-p.PID, syscall.SIGKILL)
	if p.group != nil {
		p.group.kill()
	}
}

// Done is closed once the program has ended and nothing of it is left.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how the program ended, such as "exit status 1" or "signal: killed".
// Done must be closed.
func (p *Process) Exit() string {
	if p.state == nil {
		return "unknown"
	}
	return p.state.String()
}

// OutOfMemory reports whether the kernel ended some of it at the memory limit.
// Done must be closed.
func (p *Process) OutOfMemory() bool { return p.oom }

// Peak returns the most memory it has used so far, in bytes; 0: not known.
func (p *Process) Peak() int64 {
	select {
	case <-p.done:
		return p.peak
	default:
	}
	if p.group == nil {
		return 0
	}
	return p.group.peak()
}

// Owns reports whether the other end of c is of this program's user. It can tell
// only where programs have users of their own.
func (p *Process) Owns(c net.Conn) bool {
	if p.UID < 0 {
		return true
	}
	local, ok1 := c.LocalAddr().(*net.TCPAddr)
	remote, ok2 := c.RemoteAddr().(*net.TCPAddr)
	if !ok1 || !ok2 {
		return false
	}
	uid, ok := socketOwner("/proc/net/tcp", remote, local)
	return ok && uid == p.UID
}

// socketOwner returns the user of the IPv4 socket with these ends.
func socketOwner(table string, local, remote *net.TCPAddr) (int, bool) {
	b, err := os.ReadFile(table)
	if err != nil {
		return 0, false
	}
	want := [2]string{hexAddr(local), hexAddr(remote)}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 7 && f[1] == want[0] && f[2] == want[1] {
			uid, err := strconv.Atoi(f[7])
			return uid, err == nil
		}
	}
	return 0, false
}

func hexAddr(a *net.TCPAddr) string {
	ip := a.IP.To4()
	if ip == nil {
		return ""
	}
	return fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], a.Port)
}

// Users reports whether each program has a user of its own.
func (h *Host) Users() bool { return h.uids > 0 }

// Check makes a sandbox, tries its walls from inside and returns which stood.
// The first answer is kept.
func (h *Host) Check(ctx context.Context) *Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.report != nil {
		return h.report
	}
	r := h.check(ctx)
	if ctx.Err() == nil {
		h.report = r
	}
	return r
}

// Assume has Check return r, which it has found on this machine before.
func (h *Host) Assume(r *Report) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.report = r
}

func (h *Host) check(ctx context.Context) *Report {
	r := &Report{}
	add := func(wall string, must, ok bool, detail string, args ...any) {
		r.Findings = append(r.Findings, Finding{wall, ok, must, fmt.Sprintf(detail, args...)})
	}
	code, err := os.MkdirTemp(h.dir, "check-")
	if err != nil {
		add("sandbox", true, false, "%v", err)
		return r
	}
	defer os.RemoveAll(code)
	open, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		add("sandbox", true, false, "%v", err)
		return r
	}
	defer open.Close()
	const memory, processes = 96<<20 + raced, 64
	a, _, err := h.probe(ctx, Spec{Name: "check", Code: code, Isolation: Full, Network: Closed, Memory: memory, Temp: 1 << 20, Processes: processes},
		&probe{Hidden: append(slices.Clone(h.hidden), code, h.dir), Dial: []string{open.Addr().String()}, Forks: processes})
	if err != nil {
		add("namespaces", true, false, "%s", errs.Text(err))
		return r
	}
	switch {
	case h.uids > 0:
		add("user", true, a.UID != 0 && a.Caps == "0000000000000000", "a user of its own for each environment, no capabilities")
	case h.root:
		add("user", true, a.UID != 0 && a.Caps == "0000000000000000", "the user nobody, no capabilities")
	default:
		add("user", true, a.Caps == "0000000000000000", "Weir's own user in a user namespace, no capabilities")
	}
	add("processes", true, a.PID == 1 && a.Processes <= 2, "sees %d processes, is process %d of its namespace", a.Processes, a.PID)
	add("files", true, len(a.Seen) == 0 && len(a.Writable) == 0 && a.Mount != "", "sees %s of Weir, can write to %s outside of %s", names(a.Seen), names(a.Writable), TempPath)
	add("network", true, len(a.Reached) == 0, "reaches %s of the host", names(a.Reached))
	add("environment", true, a.Env == 0, "inherits %d variables", a.Env)
	add("fork bomb", true, a.Children < processes, "%d of %d processes could be started", a.Children, processes)
	if h.groups.canMemory() {
		const little = 96<<20 + raced/8
		_, ended, err := h.probe(ctx, Spec{Name: "check", Code: code, Isolation: Full, Network: Closed, Memory: little, Temp: 1 << 20, Processes: processes},
			&probe{Eat: 2 * little})
		if err != nil && ended == nil {
			add("memory", true, false, "%s", errs.Text(err))
		} else {
			add("memory", true, !ended.Ate, "a control group limits all processes together")
		}
	} else {
		// A limit of each process stands in its way, but shared memory goes past it.
		add("memory", true, false, "there is no control group: %s", h.groups.why)
	}
	if !h.groups.canPids() {
		add("processes together", false, false, "counted by user, for there is no control group: %s", h.groups.why)
	}
	return r
}

func names(list []string) string {
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}

// probe runs pr and returns what it printed first and last.
func (h *Host) probe(ctx context.Context, s Spec, pr *probe) (first, last *answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	s.Command = []string{"-"}
	p, err := h.start(ctx, s, pr)
	if err != nil {
		return nil, nil, err
	}
	defer p.Output.Close()
	if p.Listener != nil {
		defer p.Listener.Close()
	}
	var out bytes.Buffer
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(&out, io.LimitReader(p.Output, 64<<10))
		read <- err
	}()
	stop := context.AfterFunc(ctx, p.Kill)
	defer stop()
	<-p.Done()
	if err := <-read; err != nil {
		return nil, nil, err
	}
	d := json.NewDecoder(&out)
	for {
		var a answer
		if err := d.Decode(&a); err != nil {
			break
		}
		if first == nil {
			first = &a
		}
		last = &a
	}
	if first == nil {
		return nil, nil, errs.Errorf("sandbox.Check", errs.Unavailable, "the sandbox said nothing (%s): %.200s", p.Exit(), out.String())
	}
	return first, last, nil
}
