package fault

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LoopFS is an ext4 file system in an image file, mounted through a loop
// device. It can lose its power and be filled up. Its methods fail the test on
// an error.
type LoopFS struct {
	Dir   string // where it is mounted
	t     testing.TB
	image string
}

// NewLoopFS makes and mounts a file system of size bytes, which is gone when
// the test ends. Where that is not possible the test is skipped, with the
// reason: it needs root, mkfs.ext4 and a free loop device.
func NewLoopFS(t testing.TB, size int64) *LoopFS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a loop file system needs root")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("mkfs.ext4 is not installed")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("no loop devices: ", err)
	}
	base := t.TempDir()
	l := &LoopFS{Dir: filepath.Join(base, "mnt"), t: t, image: filepath.Join(base, "image")}
	f, err := os.Create(l.image)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close(), os.Mkdir(l.Dir, 0o700))
	}
	if err != nil {
		t.Fatal(err)
	}
	// No lazy initialisation: it would write behind the test's back.
	l.run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", l.image)
	if out, err := exec.Command("mount", "-o", "loop", l.image, l.Dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a loop device: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := l.unmount(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *LoopFS) run(name string, args ...string) {
	l.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// unmount tries for a while: a process that was just killed may hold files.
func (l *LoopFS) unmount() error {
	var err error
	for range 100 {
		if err = syscall.Unmount(l.Dir, 0); err == nil || errors.Is(err, syscall.EINVAL) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("unmount %s: %w", l.Dir, err)
}

// ext4Shutdown is EXT4_IOC_SHUTDOWN; flag 2 stops the file system at once
// without flushing its journal, as xfstests' godown does.
const (
	ext4Shutdown = 0x8004587d
	noLogFlush   = 2
)

// PowerCut stops the file system: nothing that has not been synced is kept,
// every further write fails. Kill the process that used it, then Remount. A
// disk's own write cache is not modelled.
func (l *LoopFS) PowerCut() {
	l.t.Helper()
	f, err := os.Open(l.Dir)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	flag := uint32(noLogFlush)
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&flag))); no != 0 {
		l.t.Skipf("the kernel cannot stop an ext4 file system: %v", no)
	}
}

// Remount unmounts the file system and mounts it again, as after a restart.
func (l *LoopFS) Remount() {
	l.t.Helper()
	if err := l.unmount(); err != nil {
		l.t.Fatal(err)
	}
	l.run("mount", "-o", "loop", l.image, l.Dir)
}

func (l *LoopFS) ballast() string { return filepath.Join(l.Dir, "ballast") }

// Fill takes all free space but leave bytes.
func (l *LoopFS) Fill(leave int64) {
	l.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(l.Dir, &st); err != nil {
		l.t.Fatal(err)
	}
	size := int64(st.Bavail)*st.Bsize - leave
	if size <= 0 {
		return
	}
	f, err := os.OpenFile(l.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err == nil && leave > 0 {
		return
	}
	// Take what is left byte by byte: fallocate is all or nothing.
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		l.t.Fatal(err)
	}
	for chunk := make([]byte, 64<<10); len(chunk) > 0 && leave == 0; {
		if _, err := f.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
}

// Free gives back what Fill took.
func (l *LoopFS) Free() {
	l.t.Helper()
	if err := os.Remove(l.ballast()); err != nil && !errors.Is(err, os.ErrNotExist) {
		l.t.Fatal(err)
	}
}
