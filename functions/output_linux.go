package functions

import (
	"os"

	"golang.org/x/sys/unix"
)

// waiting returns how many bytes wait in a pipe.
func waiting(f *os.File) (n int) {
	c, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	_ = c.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n
}
