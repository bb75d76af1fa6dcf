package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-iot/weir/internal/errs"
)

func TestMain(m *testing.M) {
	Main()
	if len(os.Args) > 2 && os.Args[1] == "parent-that-dies" {
		parentThatDies(os.Args[2])
	}
	os.Exit(m.Run())
}

// open returns a running Host.
func open(t testing.TB, hidden ...string) *Host {
	t.Helper()
	h, err := NewHost(t.TempDir(), hidden)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = h.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return h
}

// What this machine permits is tried once for all tests.
var (
	checked sync.Once
	report  *Report
)

// isolated skips where the host permits no sandbox at all; what it permits is
// then not Weir's to test.
func isolated(t testing.TB, h *Host) {
	t.Helper()
	checked.Do(func() { report = h.Check(t.Context()) })
	r := report
	h.Assume(r)
	if len(r.Findings) == 1 && !r.Findings[0].OK {
		t.Skipf("this host permits no sandbox: %s", r.Findings[0].Detail)
	}
}

func spec(t testing.TB, script string) Spec {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "run"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o755)
	}
	return Spec{Name: "t", Command: []string{CodePlace + "/run"}, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "ADDR=" + AddrPlace, "TMP=" + TempPlace},
		Code: dir, Isolation: Full, Network: Closed, Memory: 128 << 20, Temp: 4 << 20, Processes: 64}
}

// run runs a program to its end and returns what it printed.
func run(t testing.TB, h *Host, s Spec, limit time.Duration) (string, *Process) {
	t.Helper()
	p, err := h.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Listener.Close()
	defer p.Output.Close()
	timer := time.AfterFunc(limit, p.Kill)
	defer timer.Stop()
	var out bytes.Buffer
	if _, err := io.Copy(&out, io.LimitReader(p.Output, 1<<20)); err != nil {
		t.Error(err)
	}
	<-p.Done()
	return out.String(), p
}

func TestCheckFindsTheWalls(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	h := open(t, secret)
	r := h.Check(t.Context())
	b, _ := json.MarshalIndent(r, "", " ")
	t.Logf("%s", b)
	isolated(t, h)
	for _, f := range r.Findings {
		if f.Must && !f.OK && (f.Wall != "memory" || h.groups.canMemory()) {
			t.Errorf("a wall did not stand: %+v", f)
		}
	}
}

func TestWhatAProgramSees(t *testing.T) {
	h := open(t)
	isolated(t, h)
	t.Setenv("AWS_SECRET_ACCESS_KEY", "canary-in-the-environment")
	secret := filepath.Join(t.TempDir(), "admin.token")
	if err := os.WriteFile(secret, []byte("canary-in-a-file"), 0o644); err != nil {
		t.Fatal(err)
	}
	inherited, err := os.Open(secret) // close-on-exec is off: a careless library
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	if _, err := unix.FcntlInt(inherited.Fd(), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	s := spec(t, `
echo "pid $$ uid $(id -u)"
echo "env $(env | sort | tr '\n' ' ')"
cat `+secret+` 2>&1
ls /proc/self/fd | tr '\n' ' '; echo
for f in /proc/self/fd/[3-9]*; do timeout 1 cat $f 2>/dev/null; done; echo seen >/dev/stderr
cat /etc/shadow 2>&1; ls /root /home /var/lib /sys 2>&1
echo x > /var/task/x; echo x > /etc/x; echo x > /usr/x
echo written > /tmp/x && cat /tmp/x
grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status
mount -t tmpfs x /tmp 2>&1 | head -1
unshare -U true 2>&1 | head -1
kill -9 1 2>&1
echo end`)
	out, p := run(t, h, s, time.Minute)
	t.Log(out)
	for _, bad := range []string{"canary", "root:"} {
		if strings.Contains(out, bad) {
			t.Errorf("the program saw %q", bad)
		}
	}
	if h.root && strings.Contains(out, "uid 0") {
		t.Error("the program is root")
	}
	for _, want := range []string{"pid 1 ", "seen\n", "written\n", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "end\n", "ADDR=127.0.0.1:9001"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	if _, err := os.Stat(filepath.Join(s.Code, "x")); err == nil {
		t.Error("the program wrote into its code")
	}
	if p.Exit() != "exit status 0" {
		t.Errorf("ended with %s", p.Exit())
	}
}

// The listener is the one thing in the program's network; the host's is not
// there.
func TestNetworkIsItsOwn(t *testing.T) {
	h := open(t)
	isolated(t, h)
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("bash dials in this test")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	s := spec(t, "")
	s.Command = []string{"bash", "-c", `
(exec 3<>/dev/tcp/127.0.0.1/` + port + `) 2>/dev/null && echo reached
exec 3<>/dev/tcp/127.0.0.1/9001 && echo hello >&3 && head -1 <&3`}
	p, err := h.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	defer p.Output.Close()
	defer p.Listener.Close()
	c, err := p.Listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "hello\n" || !p.Owns(c) == (p.UID < 0) {
		t.Errorf("%q, %v", line, err)
	}
	fmt.Fprintln(c, "answer")
	c.Close()
	out, err := io.ReadAll(p.Output)
	if string(out) != "answer\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// On the machine's network the listener knows its program from others.
func TestOpenNetwork(t *testing.T) {
	h := open(t)
	isolated(t, h)
	if !h.Users() {
		t.Skip("programs have no users of their own here")
	}
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("bash dials in this test")
	}
	s := spec(t, "")
	s.Network = Open
	s.Command = []string{"bash", "-c", "exec 3<>/dev/tcp/${ADDR/://} && head -1 <&3"}
	p, err := h.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Output.Close()
	defer p.Listener.Close()
	defer p.Kill()
	other, err := net.Dial("tcp", p.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for range 2 {
		c, err := p.Listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if mine := c.RemoteAddr().String() != other.LocalAddr().String(); p.Owns(c) != mine {
			t.Errorf("Owns says %v of the program's own connection, or of another's", !mine)
		} else if mine {
			fmt.Fprintln(c, "hello")
		}
	}
	if out, err := io.ReadAll(p.Output); string(out) != "hello\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// What costs the host is bounded, and the host goes on: each ends by itself or is
// ended, with all it started.
func TestBounds(t *testing.T) {
	h := open(t)
	isolated(t, h)
	python := "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		python = ""
	}
	t.Run("ForkBomb", func(t *testing.T) {
		s := spec(t, `f() { f & f & wait; }; f 2>/dev/null`)
		s.Processes = 32
		_, p := run(t, h, s, 2*time.Second)
		empty(t, p)
	})
	t.Run("EndlessLoop", func(t *testing.T) {
		_, p := run(t, h, spec(t, `while :; do :; done`), time.Second)
		if !strings.Contains(p.Exit(), "killed") {
			t.Error(p.Exit())
		}
		empty(t, p)
	})
	t.Run("LeavesChildrenBehind", func(t *testing.T) {
		_, p := run(t, h, spec(t, `setsid sleep 1000 >/dev/null 2>&1 & setsid setsid sleep 1000 >/dev/null 2>&1 &`), time.Minute)
		empty(t, p)
	})
	t.Run("FillsTheDisk", func(t *testing.T) {
		out, _ := run(t, h, spec(t, `dd if=/dev/zero of=/tmp/a bs=1M count=100 2>/dev/null; dd if=/dev/zero of=/dev/shm/a bs=1M count=100 2>/dev/null; du -m /tmp/a /dev/shm/a | tr '\n' ' '`), time.Minute)
		if out != "4\t/tmp/a 4\t/dev/shm/a " {
			t.Errorf("%q", out)
		}
	})
	t.Run("TenGigabytes", func(t *testing.T) {
		if python == "" {
			t.Skip("python3 is not installed")
		}
		if !h.groups.canMemory() {
			t.Skip("without a control group memory is not bounded, and Check says so")
		}
		// Safe on a host whose limits fail: no more than 512 MiB are touched.
		s := spec(t, "")
		s.Memory = 64 << 20
		s.Command = []string{python, "-c", "print('start', flush=True)\nheld = []\nfor i in range(512): held.append(bytearray(1 << 20))\nprint('had it all')"}
		out, p := run(t, h, s, time.Minute)
		if !strings.Contains(out, "start") || strings.Contains(out, "had it all") {
			t.Errorf("%q", out)
		}
		if !p.OutOfMemory() {
			t.Error("the end is not known as want of memory")
		}
		s.Command[2] = "import mmap\nmmap.mmap(-1, 10 << 30)[::4096]\nprint('had it all')"
		if out, _ := run(t, h, s, time.Minute); strings.Contains(out, "had it all") {
			t.Errorf("%q", out)
		}
	})
}

// empty checks that nothing of p is left.
func empty(t *testing.T, p *Process) {
	t.Helper()
	if p.UID > nobody {
		list, _ := os.ReadDir("/proc")
		for _, e := range list {
			var st syscall.Stat_t
			if _, err := strconv.Atoi(e.Name()); err == nil && syscall.Stat("/proc/"+e.Name(), &st) == nil && int(st.Uid) == p.UID {
				t.Errorf("process %s is left", e.Name())
			}
		}
	}
	if p.group != nil {
		for _, dir := range p.group.dirs {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s is left", dir)
			}
		}
	}
}

func TestOthersAreUnaffected(t *testing.T) {
	h := open(t)
	isolated(t, h)
	bomb := spec(t, `f() { f & f & wait; }; f 2>/dev/null`)
	bomb.Processes = 32
	p, err := h.Start(t.Context(), bomb)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Output.Close()
	defer p.Listener.Close()
	defer func() { p.Kill(); <-p.Done() }()
	if out, _ := run(t, h, spec(t, `sleep 0.1 & wait; echo well`), time.Minute); out != "well\n" {
		t.Errorf("%q", out)
	}
}

func TestWithoutIsolation(t *testing.T) {
	h := open(t)
	t.Setenv("AWS_SECRET_ACCESS_KEY", "canary-in-the-environment")
	s := spec(t, `pwd; env; ls -a $TMP; ls /proc/self/fd; setsid sleep 1000 >/dev/null 2>&1 &`)
	s.Isolation = None
	out, p := run(t, h, s, time.Minute)
	if strings.Contains(out, "canary") || !strings.Contains(out, s.Code+"\n") || !strings.Contains(out, "TMP="+h.dir) {
		t.Errorf("%s", out)
	}
	if p.group != nil {
		empty(t, p)
	}
	if left, _ := filepath.Glob(filepath.Join(h.dir, "tmp-*")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

func TestMistakesAreTold(t *testing.T) {
	h := open(t)
	isolated(t, h)
	for _, c := range []struct {
		change func(*Spec)
		kind   errs.Kind
		text   string
	}{
		{func(s *Spec) { s.Command = []string{CodePlace + "/nothing"} }, errs.Invalid, "no such file"},
		{func(s *Spec) { s.Command = []string{"no-such-program"} }, errs.Unavailable, "not found"},
		{func(s *Spec) { s.Mounts = []string{"/no/such/folder"} }, errs.Unavailable, "/no/such/folder"},
		{func(s *Spec) { s.Env = []string{strings.Repeat("x", maxPlan)} }, errs.TooLarge, "bytes"},
	} {
		s := spec(t, "true")
		c.change(&s)
		p, err := h.Start(t.Context(), s)
		if err == nil {
			p.Kill()
			<-p.Done()
			p.Listener.Close()
			p.Output.Close()
		}
		if !errs.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v (%v), want %v with %q", err, errs.KindOf(err), c.kind, c.text)
		}
	}
	for _, e := range []string{"tmp-*", "root/*"} {
		if left, _ := filepath.Glob(filepath.Join(h.dir, e)); len(left) > 0 {
			t.Errorf("%v are left", left)
		}
	}
}

// Where Weir is killed, so are its programs.
func TestProgramsDieWithWeir(t *testing.T) {
	isolated(t, open(t))
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "parent-that-dies", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	deadline := time.Now().Add(30 * time.Second)
	for syscall.Kill(pid, 0) == nil {
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); bytes.Contains(b, []byte(") Z ")) {
			break // dead; whoever took it over has not looked yet
		}
		if time.Now().After(deadline) {
			t.Fatal("the program lives on")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func parentThatDies(dir string) {
	h, err := NewHost(dir, nil)
	if err != nil {
		panic(err)
	}
	go func() { _ = h.Run(context.Background()) }()
	p, err := h.Start(context.Background(), Spec{Name: "t", Command: []string{"sleep", "1000"}, Env: []string{"PATH=/usr/bin:/bin"},
		Code: dir, Isolation: Full, Network: Closed, Memory: 64 << 20, Temp: 1 << 20, Processes: 16})
	if err != nil {
		panic(err)
	}
	fmt.Println(p.PID)
	select {}
}

func TestManyAtATime(t *testing.T) {
	h := open(t)
	isolated(t, h)
	before := countFiles(t)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			want := fmt.Sprintf("%d\n", i)
			if out, _ := run(t, h, spec(t, fmt.Sprintf("echo %d", i)), time.Minute); out != want {
				t.Errorf("%q", out)
			}
		})
	}
	wg.Wait()
	runtime.GC()
	if now := countFiles(t); now > before+2 {
		t.Errorf("%d descriptors before, %d after", before, now)
	}
}

func countFiles(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// Control groups as hosts have them, on folders that stand for them.
func TestFindControllers(t *testing.T) {
	write := func(dir string, files map[string]string) {
		for name, text := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	const v2mount = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
	for _, c := range []struct {
		name        string
		proc, files map[string]string
		v2, memory  string
		why         string
	}{
		{"delegated", map[string]string{"cgroup": "0::/system.slice/weir.service\n", "mountinfo": v2mount},
			map[string]string{"sys/fs/cgroup/system.slice/weir.service/cgroup.controllers": "cpu memory pids\n"}, "/sys/fs/cgroup/system.slice/weir.service", "", ""},
		{"container", map[string]string{"cgroup": "0::/../../x\n", "mountinfo": strings.Replace(v2mount, " / /", " /../../x /", 1)},
			map[string]string{"sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n"}, "/sys/fs/cgroup", "", ""},
		{"no memory", map[string]string{"cgroup": "0::/user.slice\n", "mountinfo": v2mount},
			map[string]string{"sys/fs/cgroup/user.slice/cgroup.controllers": "pids\n"}, "", "", "memory is not delegated"},
		{"version 1", map[string]string{"cgroup": "5:pids:/\n4:memory:/a/b\n0::/\n", "mountinfo": "31 23 0:27 / /cg/memory rw - cgroup cgroup rw,memory\n32 23 0:28 / /cg/pids rw - cgroup cgroup rw,pids\n"},
			map[string]string{"cg/memory/a/b/x": "", "cg/pids/x": ""}, "", "/cg/memory/a/b", ""},
		{"none", map[string]string{"cgroup": "", "mountinfo": ""}, nil, "", "", "no control groups"},
	} {
		proc, root := t.TempDir(), t.TempDir()
		write(proc, c.proc)
		write(root, c.files)
		got := findControllers(proc, root)
		if strings.TrimPrefix(got.v2, root) != c.v2 || strings.TrimPrefix(got.memory, root) != c.memory || !strings.Contains(got.why, c.why) || (got.why == "") != (c.why == "") {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestSocketOwner(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	uid, ok := socketOwner("/proc/net/tcp", c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr))
	if !ok || uid != os.Getuid() {
		t.Errorf("%d, %v", uid, ok)
	}
	if _, ok := socketOwner("/proc/net/tcp", c.RemoteAddr().(*net.TCPAddr), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}); ok {
		t.Error("found a socket that is not there")
	}
}

func BenchmarkStart(b *testing.B) {
	h := open(b)
	isolated(b, h)
	s := spec(b, "")
	s.Command = []string{"true"}
	for b.Loop() {
		p, err := h.Start(b.Context(), s)
		if err != nil {
			b.Fatal(err)
		}
		<-p.Done()
		p.Listener.Close()
		p.Output.Close()
	}
}

// Two hosts of one process number their sandboxes alike; their groups are two.
func TestGroupsOfOneName(t *testing.T) {
	c := controllers{memory: t.TempDir()} // stands for a mounted hierarchy
	a, err := c.make("t-1", 1<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.make("t-1", 1<<20, 1)
	if err != nil {
		t.Fatal(err)
	}
	if a.memory == b.memory {
		t.Error("both are", a.memory)
	}
}
