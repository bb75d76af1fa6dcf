package jet

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The embedded server puts the messages of an atomic batch into a small store of
// the batch's own until it commits, and syncs each file of that, though nothing
// of it is ever read after a crash. In memory that costs a tenth. So the folder
// of a stream's batches is made a link to a folder on a tmpfs. The server removes
// the link when it opens a stream; where there is none it works as without.

const (
	batchesFolder = "batches"
	stagingParent = "/dev/shm"
	stagingPrefix = "weir-batches-"
	stagingRoom   = 256 << 20 // free bytes it takes: eight MiB for each stream, and other users
)

// openStaging makes the folder in memory. Without one, batches cost more.
func (s *Store) openStaging() {
	s.staging = ""
	if s.o.Durability != Disk {
		return
	}
	s.dropStaging()
	var st unix.Statfs_t
	if err := unix.Statfs(stagingParent, &st); err != nil || st.Type != unix.TMPFS_MAGIC || st.Bavail*uint64(st.Bsize) < stagingRoom {
		s.Logger().Debug("batches are staged on disk, which is slower", "wants", stagingParent, "free", stagingRoom)
		return
	}
	dir, err := os.MkdirTemp(stagingParent, stagingPrefix) // 0700
	if err != nil {
		s.Logger().Debug("batches are staged on disk, which is slower", "err", err)
		return
	}
	s.staging = dir
}

func (s *Store) streamFolders() string {
	return filepath.Join(s.o.Dir, "jetstream", weirAccount, "streams")
}

// dropStaging removes what this store had in memory before, also where it was
// killed: the links say where.
func (s *Store) dropStaging() {
	links, _ := filepath.Glob(filepath.Join(s.streamFolders(), "*", batchesFolder))
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue
		}
		if dir := filepath.Dir(target); filepath.Dir(dir) == stagingParent && strings.HasPrefix(filepath.Base(dir), stagingPrefix) {
			_ = os.RemoveAll(dir)
		}
		_ = os.Remove(link)
	}
}

// stageAll links the folders of all streams there are.
func (s *Store) stageAll() {
	list, _ := os.ReadDir(s.streamFolders())
	for _, e := range list {
		s.stage(e.Name())
	}
}

// stage links the folder of a stream's batches, where it is not linked.
func (s *Store) stage(stream string) {
	folder := filepath.Join(s.streamFolders(), stream)
	if s.staging == "" || !exists(folder) {
		return
	}
	link, target := filepath.Join(folder, batchesFolder), filepath.Join(s.staging, stream)
	if _, err := os.Readlink(link); err == nil {
		return
	}
	_ = os.Remove(link) // an empty folder of batches that are over
	if err := os.Mkdir(target, 0o700); err != nil && !os.IsExist(err) {
		return
	}
	_ = os.Symlink(target, link)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
