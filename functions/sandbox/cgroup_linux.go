package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// controllers are the control groups Weir may make groups below, "" where there
// are none. memory and pids may lie in one hierarchy (version 2) or in two.
type controllers struct {
	v2     string // folder below which groups are made
	memory string // version 1
	pids   string // version 1
	why    string // why there are none
}

const groupPrefix = "weir-fn-"

// findControllers looks for control groups that can be used, by making one.
// proc is /proc/self, root the file system they are mounted in ("" but in tests).
func findControllers(proc, root string) controllers {
	own, err := ownGroups(filepath.Join(proc, "cgroup"))
	if err != nil {
		return controllers{why: err.Error()}
	}
	var c controllers
	mounts, err := groupMounts(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return controllers{why: err.Error()}
	}
	if m, ok := mounts["cgroup2"]; ok {
		dir := filepath.Join(root, m.at, within(m.root, own[""]))
		if err := delegated(dir); err == nil {
			c.v2 = dir
			return c
		} else {
			c.why = err.Error()
		}
	}
	for name, into := range map[string]*string{"memory": &c.memory, "pids": &c.pids} {
		m, ok := mounts[name]
		if !ok {
			continue
		}
		dir := filepath.Join(root, m.at, within(m.root, own[name]))
		if err := writable(dir); err != nil {
			c.why = err.Error()
			continue
		}
		*into = dir
	}
	if c.memory == "" && c.pids == "" && c.why == "" {
		c.why = "no control groups are mounted"
	}
	return c
}

// within returns the path of a group below a mount that shows the hierarchy from
// root on.
func within(root, group string) string {
	if root == "/" {
		return group
	}
	if rest, ok := strings.CutPrefix(group, root); ok {
		return rest
	}
	return "/"
}

// ownGroups returns this process's group by controller; "" is version 2.
func ownGroups(file string) (map[string]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for name := range strings.SplitSeq(parts[1], ",") {
			out[name] = parts[2]
		}
	}
	return out, nil
}

type groupMount struct{ root, at string }

// groupMounts returns where hierarchies are mounted, by controller, and
// "cgroup2".
func groupMounts(file string) (map[string]groupMount, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]groupMount{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		before, after, ok := strings.Cut(s.Text(), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(head) < 5 || len(tail) < 3 {
			continue
		}
		m := groupMount{head[3], head[4]}
		switch tail[0] {
		case "cgroup2":
			out["cgroup2"] = m
		case "cgroup":
			for name := range strings.SplitSeq(tail[2], ",") {
				out[name] = m
			}
		}
	}
	return out, s.Err()
}

// writable reports whether groups can be made in dir.
func writable(dir string) error {
	probe, err := os.MkdirTemp(dir, groupPrefix+"probe-")
	if err != nil {
		return err
	}
	return os.Remove(probe)
}

// delegated prepares a version 2 group so that it may have groups with limits:
// its own processes move into a leaf first, as only leaves may have any. It fails
// where they are not all this process's.
func delegated(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, want := range []string{"memory", "pids"} {
		if !strings.Contains(" "+strings.TrimSpace(string(have))+" ", " "+want+" ") {
			return fmt.Errorf("the controller %s is not delegated to %s", want, dir)
		}
	}
	if err := writable(dir); err != nil {
		return err
	}
	enable := func() error {
		return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory +pids"), 0)
	}
	if enable() == nil {
		return nil
	}
	leaf := filepath.Join(dir, groupPrefix+"main")
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return err
	}
	if err := enable(); err != nil {
		return fmt.Errorf("%s has other processes than Weir: run Weir as a service with Delegate=yes (%w)", dir, err)
	}
	return nil
}

func (c controllers) canMemory() bool { return c.v2 != "" || c.memory != "" }
func (c controllers) canPids() bool   { return c.v2 != "" || c.pids != "" }

// group is the control group of one sandbox, a folder in each hierarchy.
type group struct {
	dirs   []string
	v2     string
	memory string
}

// make makes a group with its limits; what the host does not have is left out. It
// is nobody else's, though another host of this process may give the same name.
func (c controllers) make(name string, memory int64, processes int) (_ *group, err error) {
	g := &group{}
	defer func() {
		if err != nil {
			g.remove()
		}
	}()
	folder := func(parent string) (string, error) {
		dir, err := os.MkdirTemp(parent, groupPrefix+strconv.Itoa(os.Getpid())+"-"+name+"-")
		if err != nil {
			return "", err
		}
		g.dirs = append(g.dirs, dir)
		return dir, nil
	}
	set := func(dir, file string, value any) error {
		return os.WriteFile(filepath.Join(dir, file), []byte(fmt.Sprint(value)), 0)
	}
	if c.v2 != "" {
		if g.v2, err = folder(c.v2); err != nil {
			return nil, err
		}
		_ = set(g.v2, "memory.swap.max", 0)  // not there without swap
		_ = set(g.v2, "memory.oom.group", 1) // since Linux 4.19
		return g, errors.Join(set(g.v2, "memory.max", memory), set(g.v2, "pids.max", processes))
	}
	if c.memory != "" {
		if g.memory, err = folder(c.memory); err != nil {
			return nil, err
		}
		if err := set(g.memory, "memory.limit_in_bytes", memory); err != nil {
			return nil, err
		}
		_ = set(g.memory, "memory.memsw.limit_in_bytes", memory) // not there without swap accounting
	}
	if c.pids != "" {
		dir, err := folder(c.pids)
		if err != nil {
			return nil, err
		}
		if err := set(dir, "pids.max", processes); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func (g *group) add(pid int) error {
	for _, dir := range g.dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return err
		}
	}
	return nil
}

// kill ends every process of the group, also those that left the process group.
func (g *group) kill() {
	if g.v2 != "" && os.WriteFile(filepath.Join(g.v2, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	for range 10 { // a fork bomb may be faster than one reading
		some := false
		for _, dir := range g.dirs {
			b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			for _, field := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
					some = true
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		if !some {
			return
		}
	}
}

// outOfMemory reports whether the kernel ended a process of the group for want of
// memory.
func (g *group) outOfMemory() bool {
	for _, file := range []string{filepath.Join(g.v2, "memory.events"), filepath.Join(g.memory, "memory.oom_control")} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" && f[1] != "0" {
				return true
			}
		}
	}
	return false
}

// peak returns the most memory the group has used, in bytes; 0: not known.
func (g *group) peak() int64 {
	for _, file := range []string{filepath.Join(g.v2, "memory.peak"), filepath.Join(g.memory, "memory.max_usage_in_bytes")} {
		if b, err := os.ReadFile(file); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
				return n
			}
		}
	}
	return 0
}

// remove removes the group once its processes have ended.
func (g *group) remove() {
	for _, dir := range g.dirs {
		for range 100 {
			err := os.Remove(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			time.Sleep(5 * time.Millisecond) // the kernel lets go of the last one a little later
		}
	}
}

// sweep removes the groups of processes that are gone.
func (c controllers) sweep() {
	for _, parent := range []string{c.v2, c.memory, c.pids} {
		if parent == "" {
			continue
		}
		list, _ := filepath.Glob(filepath.Join(parent, groupPrefix+"*"))
		for _, dir := range list {
			of, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), groupPrefix), "-")
			if pid, err := strconv.Atoi(of); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
				_ = os.Remove(dir)
			}
		}
	}
}
