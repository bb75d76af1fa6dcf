package mqtt

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// drainPiece is how much the drain goroutine writes at a time; room is
// reported after each piece.
const drainPiece = 16 << 10

// outbox is a connection whose Write never blocks. What the socket takes at
// once is written at once, by whoever calls; the rest waits in memory for a
// goroutine that exists only while there is something to wait for. Whoever
// writes asks Pending first and stops where it is too much: the outbox itself
// has no bound.
type outbox struct {
	net.Conn
	raw     syscall.RawConn // nil where one cannot try to write without blocking
	owner   *sync.WaitGroup // waits for the drain goroutine
	drained func()          // called, without a lock, when Pending falls below low
	low     int64

	size atomic.Int64

	mu       sync.Mutex // guards what follows
	pending  []byte
	draining bool
	closing  bool
	err      error

	// The arguments of one attempt, here so that it allocates nothing.
	tryBuf []byte
	tryN   int
	tryErr error
	tryFn  func(fd uintptr) bool
}

func newOutbox(nc net.Conn, owner *sync.WaitGroup, low int) *outbox {
	o := &outbox{Conn: nc, owner: owner, low: int64(low)}
	if sc, ok := nc.(syscall.Conn); ok && canTry {
		if raw, err := sc.SyscallConn(); err == nil {
			o.raw = raw
			o.tryFn = func(fd uintptr) bool {
				o.tryN, o.tryErr = tryWrite(fd, o.tryBuf)
				return true // never wait for the socket here
			}
		}
	}
	return o
}

// Pending returns how many bytes wait for the socket.
func (o *outbox) Pending() int { return int(o.size.Load()) }

// Write takes all of b, or fails because the connection has.
func (o *outbox) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	if o.closing {
		return 0, net.ErrClosed
	}
	n := 0
	if o.raw != nil && !o.draining {
		o.tryBuf = b
		err := o.raw.Write(o.tryFn)
		o.tryBuf = nil
		if err == nil {
			err = o.tryErr
		}
		if err != nil {
			o.err = err
			return 0, err
		}
		n = o.tryN
	}
	if n < len(b) {
		o.pending = append(o.pending, b[n:]...)
		o.size.Add(int64(len(b) - n))
		if !o.draining {
			o.draining = true
			o.owner.Go(o.drain)
		}
	}
	return len(b), nil
}

func (o *outbox) drain() {
	var b []byte
	for {
		o.mu.Lock()
		b, o.pending = o.pending, b[:0]
		if len(b) == 0 || o.err != nil {
			o.draining = false
			o.pending = nil
			o.size.Store(0)
			closing := o.closing
			o.mu.Unlock()
			if closing {
				o.Conn.Close()
			}
			if o.drained != nil {
				o.drained()
			}
			return
		}
		o.mu.Unlock()
		for rest := b; len(rest) > 0; {
			piece := rest[:min(len(rest), drainPiece)]
			n, err := o.Conn.Write(piece)
			if err != nil {
				o.mu.Lock()
				o.err = err
				o.mu.Unlock()
				break
			}
			rest = rest[n:]
			before := o.size.Add(-int64(n)) + int64(n)
			if o.drained != nil && before >= o.low && before-int64(n) < o.low {
				o.drained()
			}
		}
	}
}

// CloseAfter closes the connection once what is pending has been written, at
// the latest after grace. Nothing can be written after it.
func (o *outbox) CloseAfter(grace time.Duration) {
	o.mu.Lock()
	if o.closing {
		o.mu.Unlock()
		return
	}
	o.closing = true
	draining := o.draining
	if draining {
		o.Conn.SetWriteDeadline(time.Now().Add(grace))
	}
	o.mu.Unlock()
	if !draining {
		o.Conn.Close()
	}
}

// finish ends the sending side in order and reads what the client still sends,
// so that the last packet written is not lost to a reset. It returns within
// grace.
func (o *outbox) finish(grace time.Duration) {
	deadline := time.Now().Add(grace)
	for o.Pending() > 0 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	if w, ok := o.Conn.(interface{ finish(time.Time) }); ok {
		w.finish(deadline)
		return
	}
	if cw, ok := o.Conn.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil {
		o.Conn.SetReadDeadline(deadline)
		io.CopyN(io.Discard, o.Conn, 1<<20)
	}
}
