//go:build unix

package mqtt

import "syscall"

const canTry = true

// tryWrite writes what the socket takes without waiting.
func tryWrite(fd uintptr, b []byte) (int, error) {
	for n := 0; ; {
		k, err := syscall.Write(int(fd), b[n:])
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return n, nil
		case err != nil:
			return n, err
		case k <= 0:
			return n, nil
		default:
			if n += k; n == len(b) {
				return n, nil
			}
		}
	}
}
