package jet

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Batches are staged in memory: after the start, after a stream is made, and
// after the store was opened again; and nothing of it stays, not even of a
// process that was killed.
func TestBatchesAreStagedInMemory(t *testing.T) {
	var st unix.Statfs_t
	if err := unix.Statfs(stagingParent, &st); err != nil || st.Type != unix.TMPFS_MAGIC || st.Bavail*uint64(st.Bsize) < stagingRoom {
		t.Skip("no room in memory here")
	}
	o := Options{Dir: t.TempDir(), Durability: Disk}
	targets := map[string]bool{}
	open := func() *Store {
		t.Helper()
		s, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Ensure(StreamConfig{Name: "T", Subjects: []string{"t.>"}}); err != nil {
			t.Fatal(err)
		}
		target, err := os.Readlink(filepath.Join(s.streamFolders(), "T", batchesFolder))
		if err != nil || filepath.Dir(filepath.Dir(target)) != stagingParent {
			t.Fatal(target, err)
		}
		if info, err := os.Stat(filepath.Dir(target)); err != nil || info.Mode().Perm() != 0o700 {
			t.Error(info, err)
		}
		targets[target] = true
		return s
	}
	s := open()
	left, _ := os.Readlink(filepath.Join(s.streamFolders(), "T", batchesFolder))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// As a killed process leaves it.
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(left, filepath.Join(s.streamFolders(), "T", batchesFolder)); err != nil {
		t.Fatal(err)
	}
	if err := open().Close(); err != nil {
		t.Fatal(err)
	}
	for target := range targets {
		if exists(filepath.Dir(target)) {
			t.Error(target, "is still there")
		}
	}
}
