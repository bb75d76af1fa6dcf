package weirtest

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"syscall"
)

// childAttr makes the kernel end the child when the test's process is killed.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// ownThread runs f on a thread that no other goroutine uses.
func ownThread(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f()
}

// stopped reports whether a process has been stopped by a signal.
func stopped(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, ok := bytes.Cut(b, []byte(") "))
	return ok && state[0] == 'T'
}
