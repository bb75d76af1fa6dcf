// Package npm gives tests the servers and clients that other people publish for
// Node.js.
//
// It has no part in a message's way. package.json names the packages with their
// exact versions; Dir installs them once per machine, outside the repository,
// and every test process after the first finds them there. To add one:
//
//	npm install --package-lock-only --omit-lockfile-registry-resolved --save-exact <name>
package npm

import (
	"bufio"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

//go:embed package.json
var packageJSON []byte

//go:embed package-lock.json
var packageLock []byte

// Dir returns the path of a node_modules folder with the packages of
// package.json. The first call on a machine downloads them; others wait for it.
// It fails the test where Node.js, npm or the registry is missing.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := install()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "node_modules")
}

var install = sync.OnceValues(func() (string, error) {
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", fmt.Errorf("%s is not installed: this test runs packages of npm; install Node.js 20 or newer with npm (Debian: apt install nodejs npm)", tool)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("npm packages need a cache folder: %w", err)
	}
	sum := sha256.New()
	sum.Write(packageJSON)
	sum.Write(packageLock)
	dir := filepath.Join(cache, "weir-test", hex.EncodeToString(sum.Sum(nil))[:16])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Test processes run next to each other: one installs, the others wait here.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	done := filepath.Join(dir, "installed")
	if _, err := os.Stat(done); err == nil {
		return dir, nil
	}
	for name, data := range map[string][]byte{"package.json": packageJSON, "package-lock.json": packageLock} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	// Install scripts of strangers stay off; the packages bring prebuilt binaries.
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci in %s: %w\n%s", dir, err, out)
	}
	return dir, os.WriteFile(done, nil, 0o644)
})

// Built is Dir with the package name's own install scripts run, which Dir leaves
// off: for one that compiles a part of itself. tools are the programs that needs;
// the test is skipped where one is missing. It can take minutes, once a machine.
func Built(t testing.TB, name string, tools ...string) string {
	t.Helper()
	modules := Dir(t)
	done := filepath.Join(filepath.Dir(modules), "built-"+name)
	lock, err := os.OpenFile(done+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(done); err == nil {
		return modules
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: %s of npm compiles a part of itself with %s", tool, name, strings.Join(tools, ", "))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "rebuild", name, "--foreground-scripts", "--no-audit", "--no-fund")
	cmd.Dir = filepath.Dir(modules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm rebuild %s in %s: %v\n%s", name, cmd.Dir, err, out[max(0, len(out)-4000):])
	}
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return modules
}

// Node runs script with Node.js in the folder above node_modules until the
// test ends, and returns the first submatch of ready in a line of its output.
// Scripts listen on port 0 of 127.0.0.1 and print the port they got.
func Node(t testing.TB, script string, ready *regexp.Regexp, args ...string) string {
	t.Helper()
	cmd := exec.Command("node", append([]string{"-e", script, "--"}, args...)...)
	cmd.Dir = filepath.Dir(Dir(t))
	cmd.SysProcAttr = dieWithParent() // where a test process is killed, too
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	// The death signal follows the thread that forked: it must live as long.
	started, finished := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(finished)
		err := cmd.Start()
		w.Close()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	found := make(chan string, 1)
	read := make(chan struct{})
	var out strings.Builder
	go func() {
		defer close(read)
		s := bufio.NewScanner(r)
		waiting := true
		for s.Scan() {
			if m := ready.FindStringSubmatch(s.Text()); waiting && m != nil {
				waiting = false
				found <- m[1]
			} else if waiting {
				fmt.Fprintln(&out, s.Text())
			}
		}
	}()
	stop := func() {
		_ = cmd.Process.Kill()
		<-finished
		<-read
		r.Close()
	}
	select {
	case m := <-found:
		t.Cleanup(stop)
		return m
	case <-read:
		stop()
		t.Fatalf("node ended early:\n%s", out.String())
	case <-time.After(time.Minute):
		stop()
		t.Fatalf("node did not get ready:\n%s", out.String())
	}
	return ""
}
