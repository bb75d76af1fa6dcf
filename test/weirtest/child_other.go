//go:build !linux

package weirtest

import "syscall"

func childAttr() *syscall.SysProcAttr { return nil }

func ownThread(f func()) { f() }
