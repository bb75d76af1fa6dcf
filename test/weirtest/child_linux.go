package weirtest

import (
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
