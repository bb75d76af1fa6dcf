//go:build !linux

package npm

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }
