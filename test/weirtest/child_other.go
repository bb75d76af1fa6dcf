//go:build !linux

package weirtest

import "syscall"

func childAttr() *syscall.SysProcAttr { return nil }

func ownThread(f func()) { f() }

// stopped cannot be told here; the signal has been sent.
func stopped(int) bool { return true }
