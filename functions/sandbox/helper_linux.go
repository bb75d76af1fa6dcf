package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// helperName is argv[0] of the helper.
const (
	helperName = "weir-function"
	idleName   = "weir-function-idle"
)

// called is whether this binary can be a sandbox: one that never calls Main
// would begin its own work anew in there.
var called atomic.Bool

// Messages of one byte over the link; any other is an error's text.
const (
	ready     = 0 // all is done but the start
	listening = 1 // with the listener's descriptor
)

// plan is what the helper is told on descriptor 3.
type plan struct {
	Spec
	Staging    string // empty folder of the host on which the new root is mounted
	Namespaces bool
	UID        int  // to become; -1: stay
	Data       bool // limit memory of each process, as no control group does
	Listen     bool // make a listener in the new network and send it back
	Probe      *probe
}

// Main makes this process the program of a sandbox where it was started as one;
// otherwise it returns at once. A binary that makes sandboxes calls it first of
// all in main, a test in TestMain.
func Main() {
	called.Store(true)
	if len(os.Args) > 0 && os.Args[0] == idleName {
		select {} // one of a probe's children
	}
	if len(os.Args) == 0 || os.Args[0] != helperName {
		return
	}
	runtime.LockOSThread() // privileges and execve are the thread's
	// Not reached unless it failed.
	_, _ = unix.Write(link, []byte(become().Error()))
	os.Exit(70)
}

// link is the descriptor that leads to Weir, a socket that keeps the bounds of
// messages.
const link = 3

// maxPlan bounds a plan's JSON.
const maxPlan = 128 << 10

func become() error {
	buf := make([]byte, maxPlan)
	n, err := unix.Read(link, buf)
	if err != nil {
		return fmt.Errorf("the plan: %w", err)
	}
	var p plan
	if err := json.Unmarshal(buf[:n], &p); err != nil {
		return fmt.Errorf("the plan: %w", err)
	}
	unix.CloseOnExec(link)
	if p.Listen {
		if err := listen(); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
	}
	dir := p.Code
	if p.Namespaces {
		if err := p.mount(); err != nil {
			return err
		}
		dir = CodePath
		_ = unix.Sethostname([]byte("function"))
	}
	if err := p.limit(); err != nil {
		return err
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	if err := p.drop(); err != nil {
		return err
	}
	unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC)
	// Weir answers once it has taken note; where it has died meanwhile the death
	// signal may have come too early, and the link is at its end.
	if _, err := unix.Write(link, []byte{ready}); err != nil {
		return err
	}
	if n, _ := unix.Read(link, buf[:1]); n != 1 {
		return errors.New("the server is gone")
	}
	if p.Probe != nil {
		p.Probe.run()
		os.Exit(0)
	}
	path, err := find(p.Command[0], p.Env)
	if err != nil {
		return err
	}
	return &os.PathError{Op: "start", Path: p.Command[0], Err: syscall.Exec(path, p.Command, p.Env)}
}

func find(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, v := range env {
		if list, ok := strings.CutPrefix(v, "PATH="); ok {
			for _, dir := range filepath.SplitList(list) {
				path := filepath.Join(dir, name)
				if st, err := os.Stat(path); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
					return path, nil
				}
			}
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}

// apiPort is the port of the listener in a network of its own.
const apiPort = 9001

// listen brings the loopback up and sends a listener on it through the link.
func listen() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr); err != nil {
		return err
	}
	if err := unix.Bind(s, &unix.SockaddrInet4{Port: apiPort, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err := unix.Listen(s, 64); err != nil {
		return err
	}
	return unix.Sendmsg(link, []byte{listening}, unix.UnixRights(s), nil, 0)
}

// system are the host's folders every program sees, read-only.
var system = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt"}

// settings are the files of /etc every program sees: none holds a secret.
var settings = []string{
	"alternatives", "ca-certificates", "crypto-policies", "host.conf", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime",
	"mime.types", "nsswitch.conf", "os-release", "pki", "protocols", "services", "ssl", "timezone",
}

// mount makes a root of its own and goes into it.
func (p *plan) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	// Sources are opened before anything covers them.
	type bind struct {
		fd     int
		target string
		dir    bool
	}
	var binds []bind
	open := func(source, target string) error {
		fd, err := unix.Open(source, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "mount", Path: source, Err: err}
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		binds = append(binds, bind{fd, target, st.Mode&unix.S_IFMT == unix.S_IFDIR})
		return nil
	}
	links := map[string]string{}
	for _, dir := range system {
		st, err := os.Lstat(dir)
		switch {
		case err != nil:
		case st.Mode()&os.ModeSymlink != 0:
			if to, err := os.Readlink(dir); err == nil {
				links[dir] = to
			}
		case st.IsDir():
			if err := open(dir, dir); err != nil {
				return err
			}
		}
	}
	etc := settings
	if p.Network == Open {
		etc = append(etc[:len(etc):len(etc)], "resolv.conf", "hosts")
	}
	for _, name := range etc {
		if _, err := os.Stat("/etc/" + name); err == nil {
			if err := open("/etc/"+name, "/etc/"+name); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom"} {
		if err := open("/dev/"+name, "/dev/"+name); err != nil {
			return err
		}
	}
	if err := open(p.Code, CodePath); err != nil {
		return err
	}
	for _, path := range p.Mounts {
		if err := open(path, path); err != nil {
			return err
		}
	}

	root := p.Staging
	if err := unix.Mount("weir", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m,mode=0755"); err != nil {
		return fmt.Errorf("a root of its own: %w", err)
	}
	for _, dir := range []string{"/etc", "/dev", "/dev/shm", "/proc", TempPath, CodePath} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
	}
	for name, to := range links {
		if err := os.Symlink(to, root+name); err != nil {
			return err
		}
	}
	for _, b := range binds {
		at := root + b.target
		if b.dir {
			if err := os.MkdirAll(at, 0o755); err != nil {
				return err
			}
		} else {
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				return err
			}
			f, err := os.OpenFile(at, os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			f.Close()
		}
		if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(b.fd), at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return &os.PathError{Op: "mount", Path: b.target, Err: err}
		}
		if err := unix.Close(b.fd); err != nil {
			return err
		}
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_RDONLY}
		if !strings.HasPrefix(b.target, "/dev/") {
			attr.Attr_set |= unix.MOUNT_ATTR_NODEV
		}
		if err := unix.MountSetattr(unix.AT_FDCWD, at, unix.AT_RECURSIVE, attr); err != nil {
			return fmt.Errorf("%s read-only: %w", b.target, err)
		}
	}
	for name, text := range map[string]string{
		"/etc/passwd": "root:x:0:0:root:/:/usr/sbin/nologin\nfunction:x:" + strconv.Itoa(max(p.UID, 1)) + ":" + strconv.Itoa(max(p.UID, 1)) + "::" + TempPath + ":/usr/sbin/nologin\n",
		"/etc/group":  "root:x:0:\nfunction:x:" + strconv.Itoa(max(p.UID, 1)) + ":\n",
	} {
		if err := os.WriteFile(root+name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if p.Network != Open {
		if err := os.WriteFile(root+"/etc/hosts", []byte("127.0.0.1 localhost\n"), 0o644); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, root+"/dev/"+name); err != nil {
			return err
		}
	}
	for _, dir := range []string{TempPath, "/dev/shm"} {
		if err := unix.Mount("weir", root+dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,nr_inodes=65536,mode=1777", p.Temp)); err != nil {
			return fmt.Errorf("%s of its own: %w", dir, err)
		}
	}
	// Containers that mask parts of /proc do not let a new one be mounted.
	if err := unix.Mount("proc", root+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("/proc of its own: %w", err)
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("the root read-only: %w", err)
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("into the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("out of the old root: %w", err)
	}
	return os.Chdir("/")
}

// allowance is what a limit of each process is above the function's memory: it
// counts address space that runtimes reserve and never touch.
const allowance = 192 << 20

func (p *plan) limit() error {
	set := func(what int, value uint64) error {
		var have unix.Rlimit
		if err := unix.Getrlimit(what, &have); err != nil {
			return err
		}
		value = min(value, have.Max)
		return unix.Setrlimit(what, &unix.Rlimit{Cur: value, Max: value})
	}
	const limitNproc = 6 // RLIMIT_NPROC
	err := errors.Join(
		set(unix.RLIMIT_CORE, 0), set(unix.RLIMIT_NOFILE, 1024), set(unix.RLIMIT_MEMLOCK, 64<<10), set(unix.RLIMIT_MSGQUEUE, 0),
		set(unix.RLIMIT_FSIZE, uint64(p.Temp)))
	if p.Namespaces { // processes are counted by user, and without namespaces that is everybody's
		err = errors.Join(err, set(limitNproc, uint64(p.Processes)))
	}
	if p.Data {
		err = errors.Join(err, set(unix.RLIMIT_DATA, uint64(p.Memory+allowance)))
	}
	if err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	return unix.Setpriority(unix.PRIO_PROCESS, 0, 5) // Weir itself goes first
}

// drop gives up what privileges are left, for good.
func (p *plan) drop() error {
	if p.Namespaces {
		for c := 0; c <= 63; c++ {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); errors.Is(err, unix.EINVAL) {
				break
			} else if err != nil {
				return fmt.Errorf("capabilities: %w", err)
			}
		}
		if p.UID >= 0 {
			if err := errors.Join(rawSetgroups(), raw3(unix.SYS_SETRESGID, p.UID), raw3(unix.SYS_SETRESUID, p.UID)); err != nil {
				return fmt.Errorf("user %d: %w", p.UID, err)
			}
		}
		h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&h, &none[0]); err != nil {
			return fmt.Errorf("capabilities: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if p.Namespaces {
		if err := filter(); err != nil {
			return fmt.Errorf("system calls: %w", err)
		}
	}
	// After the change of user, which clears it.
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}

func rawSetgroups() error {
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// raw3 changes this thread alone, which is the one that becomes the program.
func raw3(call uintptr, id int) error {
	if _, _, e := unix.RawSyscall(call, uintptr(id), uintptr(id), uintptr(id)); e != 0 {
		return e
	}
	return nil
}

// probe is what Check has tried from inside.
type probe struct {
	Hidden []string // paths of the host that must not be there
	Dial   []string // addresses that must not answer
	Eat    int64    // bytes to use up, none: 0
	Forks  int      // processes to try to start at a time
}

// answer is what a probe prints.
type answer struct {
	Seen      []string // of Hidden
	Reached   []string // of Dial
	PID, UID  int
	Processes int // it sees
	Files     int // open descriptors beyond 0 to 2
	Env       int
	Writable  []string
	Caps      string
	Mount     string // error of trying to mount
	Children  int    // it could start
	Ate       bool
}

func (p *probe) run() {
	a := answer{PID: os.Getpid(), UID: os.Getuid(), Env: len(os.Environ())}
	for _, path := range p.Hidden {
		if f, err := os.Open(path); err == nil {
			f.Close()
			a.Seen = append(a.Seen, path)
		}
	}
	for _, addr := range p.Dial {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			a.Reached = append(a.Reached, addr)
		}
	}
	list, _ := os.ReadDir("/proc")
	for _, e := range list {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			a.Processes++
		}
	}
	for _, dir := range []string{"/", "/etc", "/usr", CodePath, "/dev"} {
		if f, err := os.CreateTemp(dir, "x"); err == nil {
			f.Close()
			a.Writable = append(a.Writable, dir)
		}
	}
	status, _ := os.ReadFile("/proc/thread-self/status")
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			a.Caps = strings.TrimSpace(v)
		}
	}
	if err := unix.Mount("x", TempPath, "tmpfs", 0, ""); err != nil {
		a.Mount = err.Error()
	}
	var pids []int
	for len(pids) < p.Forks {
		pid, err := syscall.ForkExec("/proc/self/exe", []string{idleName}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
		if err != nil {
			break
		}
		pids = append(pids, pid)
	}
	a.Children = len(pids)
	out := json.NewEncoder(os.Stdout)
	_ = out.Encode(a)
	var held [][]byte
	for n := int64(0); n < p.Eat; n += 1 << 20 {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
	}
	if p.Eat > 0 {
		a.Ate = true
		_ = out.Encode(a)
	}
	runtime.KeepAlive(held)
}
