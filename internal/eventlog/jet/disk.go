package jet

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// disk watches the free space of the store's volume. A JetStream store that
// has once met a full disk answers no more, even when space is back; so
// appends are refused while there is still some.
type disk struct {
	dir     string
	size    uint64        // of the volume, bytes
	reserve uint64        // appends are refused below this
	free    atomic.Uint64 // when last looked
}

func (d *disk) open(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	d.dir = dir
	d.size = st.Blocks * uint64(st.Bsize)
	d.reserve = min(max(d.size/16, 4<<20), 512<<20)
	return d.look()
}

// look reads the free space.
func (d *disk) look() error {
	if d.dir == "" {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return err
	}
	d.free.Store(st.Bavail * uint64(st.Bsize))
	return nil
}

// low reports whether appends must be refused.
func (d *disk) low() bool { return d.dir != "" && d.free.Load() < d.reserve }

// roomy reports whether the store may be opened again; a little more than not
// low, so that it does not flap.
func (d *disk) roomy() bool { return d.dir == "" || d.free.Load() >= d.reserve+d.reserve/4 }
