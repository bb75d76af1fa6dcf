package functions

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// value holds the invocation a line belongs to.
type value struct{ p atomic.Pointer[invocation] }

func (v *value) Load() *invocation   { return v.p.Load() }
func (v *value) Store(i *invocation) { v.p.Store(i) }

// pendingOutput knows whether output was read that is not in the log yet.
type pendingOutput struct {
	mu   sync.Mutex
	busy bool
}

func (p *pendingOutput) set(busy bool) {
	p.mu.Lock()
	p.busy = busy
	p.mu.Unlock()
}

func (p *pendingOutput) took(buffered int) {
	if buffered == 0 {
		p.set(false)
	}
}

func (p *pendingOutput) is() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.busy
}

type pendingReader struct {
	io.Reader
	p *pendingOutput
}

// Read implements io.Reader.
func (r pendingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if n > 0 {
		r.p.set(true)
	}
	return n, err
}

// drain waits a moment until what the program wrote before its answer is in the
// log: the two come by different ways.
func (e *environment) drain() {
	f, ok := e.p.Output.(*os.File)
	if !ok {
		return
	}
	for range 50 {
		if waiting(f) == 0 && !e.pending.is() {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
