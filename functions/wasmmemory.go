package functions

import (
	"sync"

	"github.com/tetratelabs/wazero/experimental"
)

// memories are the linear memories of one version's instances. An instance has
// one for a call, and the next has it again, with zeros in it: getting memory
// and collecting it costs more than a small module's own work.
type memories struct{ free sync.Pool }

// maxKept bounds what is kept of a memory between calls, in bytes. What is not
// needed goes with the next garbage collections.
const maxKept = 16 << 20

// Allocate implements experimental.MemoryAllocator.
func (m *memories) Allocate(_, max uint64) experimental.LinearMemory {
	l, ok := m.free.Get().(*linear)
	if !ok {
		l = &linear{from: m}
	}
	l.max = max
	return l
}

// linear is one linear memory. What lies behind its length is zero.
type linear struct {
	from *memories
	b    []byte
	max  uint64
}

// Reallocate implements experimental.LinearMemory.
func (l *linear) Reallocate(size uint64) []byte {
	if size > uint64(cap(l.b)) {
		// A module that grows page by page is not copied each time.
		room := size
		if len(l.b) > 0 {
			room = min(max(size, 2*uint64(cap(l.b))), l.max)
		}
		l.b = append(make([]byte, 0, room), l.b...)
	}
	l.b = l.b[:size]
	return l.b
}

// Free implements experimental.LinearMemory. The instance has ended.
func (l *linear) Free() {
	if cap(l.b) > maxKept {
		return
	}
	clear(l.b)
	l.b = l.b[:0]
	l.from.free.Put(l)
}
