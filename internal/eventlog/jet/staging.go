package jet

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The embedded server puts the messages of an atomic batch into a small store of
// the batch's own, and syncs each file of that, before it writes them to the
// stream. Where a crash cut that writing off, it completes the batch from there
// when it opens the stream again. On a tmpfs this costs a tenth, and still serves
// after a process was killed; after a power cut the redo file does. So the folder
// of a stream's batches is made a link to a folder in memory. The server removes
// the link when it opens a stream; where there is none it works as without.

const (
	batchesFolder = "batches"
	stagingParent = "/dev/shm"
	stagingPrefix = "weir-batches-"
	stagingRoom   = 256 << 20 // free bytes it takes: eight MiB for each stream, and other users
)

// openStaging makes the folder in memory. Without one, batches cost more.
func (s *Store) openStaging() {
	dir := s.makeStaging()
	s.mu.Lock()
	s.staging = dir
	s.mu.Unlock()
}

func (s *Store) makeStaging() string {
	if s.o.Durability != Disk {
		return ""
	}
	var st unix.Statfs_t
	if err := unix.Statfs(stagingParent, &st); err != nil || st.Type != unix.TMPFS_MAGIC || st.Bavail*uint64(st.Bsize) < stagingRoom {
		s.Logger().Debug("batches are staged on disk, which is slower", "wants", stagingParent, "free", stagingRoom)
		return ""
	}
	dir, err := os.MkdirTemp(stagingParent, stagingPrefix) // 0700
	if err != nil {
		s.Logger().Debug("batches are staged on disk, which is slower", "err", err)
		return ""
	}
	return dir
}

func (s *Store) streamFolders() string {
	return filepath.Join(s.o.Dir, "jetstream", weirAccount, "streams")
}

// staged returns the links of the streams and the folders in memory that they lead
// to, also those of a process that was killed.
func (s *Store) staged() map[string]string {
	dirs := map[string]string{}
	links, _ := filepath.Glob(filepath.Join(s.streamFolders(), "*", batchesFolder))
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue
		}
		if dir := filepath.Dir(target); filepath.Dir(dir) == stagingParent && strings.HasPrefix(filepath.Base(dir), stagingPrefix) {
			dirs[link] = dir
		}
	}
	return dirs
}

// dropStaging removes what staged has returned.
func dropStaging(dirs map[string]string) {
	for link, dir := range dirs {
		_ = os.RemoveAll(dir)
		_ = os.Remove(link)
	}
}

// stageAll links the folders of all streams that are open.
func (s *Store) stageAll() {
	s.mu.Lock()
	list := slices.Collect(maps.Keys(s.streams))
	s.mu.Unlock()
	for _, stream := range list {
		s.stage(stream)
	}
}

// stages reports whether batches are staged in memory, and redoes whether those of
// a stream need a redo file then.
func (s *Store) stages() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.staging != ""
}

func (s *Store) redoes(stream string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.staging != "" && s.streams[stream]
}

// stage links the folder of a stream's batches, where it is not linked.
func (s *Store) stage(stream string) {
	folder := filepath.Join(s.streamFolders(), stream)
	if !s.stages() || !exists(folder) {
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
