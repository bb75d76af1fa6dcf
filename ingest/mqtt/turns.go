package mqtt

import (
	"net"
	"sync"
	"time"
)

// turns lets a bounded number of TLS handshakes work at a time, and of those
// that have begun be under way. A handshake is two stretches of work with a wait
// for the client between them; while it waits others have its turn, and once it
// has waited for long it counts as stalled and keeps nobody out. Those under way
// go before those that have not begun: when very many clients come at once the
// first ones are in soon, and not all of them late.
type turns struct {
	mu    sync.Mutex // guards what follows
	work  int        // turns to be had
	room  int        // handshakes that may begin
	begun []chan struct{}
	new   []chan struct{} // both in the order they came
}

const (
	turnsUnderWay = 128
	turnStall     = time.Second
)

// take waits for a turn. Whoever works gives it on without waiting for anybody.
func (t *turns) take(begun bool) {
	mine := make(chan struct{})
	t.mu.Lock()
	if begun {
		t.begun = append(t.begun, mine)
	} else {
		t.new = append(t.new, mine)
	}
	t.next()
	t.mu.Unlock()
	<-mine
}

// give gives back a turn, or room for a handshake.
func (t *turns) give(work, room int) {
	t.mu.Lock()
	t.work += work
	t.room += room
	t.next()
	t.mu.Unlock()
}

// next hands out what there is. The caller holds t.mu.
func (t *turns) next() {
	for t.work > 0 {
		switch {
		case len(t.begun) > 0:
			close(t.begun[0])
			t.begun = t.begun[1:]
		case len(t.new) > 0 && t.room > 0:
			t.room--
			close(t.new[0])
			t.new = t.new[1:]
		default:
			return
		}
		t.work--
	}
}

// turnConn is a connection that has a turn from begin to end, except while it is
// read from.
type turnConn struct {
	net.Conn
	turns   *turns // nil: it has ended
	stalled bool
}

func (c *turnConn) begin() { c.turns.take(false) }

func (c *turnConn) end() {
	room := 1
	if c.stalled {
		room = 0
	}
	c.turns.give(1, room)
	c.turns = nil
}

// Read implements net.Conn.
func (c *turnConn) Read(b []byte) (int, error) {
	t := c.turns
	if t == nil {
		return c.Conn.Read(b)
	}
	t.give(1, 0)
	defer t.take(true)
	if c.stalled {
		return c.Conn.Read(b)
	}
	stall := time.AfterFunc(turnStall, func() { t.give(0, 1) })
	n, err := c.Conn.Read(b)
	c.stalled = !stall.Stop()
	return n, err
}
