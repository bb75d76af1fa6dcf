package jet

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// After a quiet time the server has closed every connection of the pool, and the
// first request does not fail for it.
func TestPoolOfDeadConnections(t *testing.T) {
	r := newRig(t, Options{Durability: Memory}, nil)
	var taken []*conn
	gen := uint64(0)
	for range 12 {
		c, g, err := r.s.get()
		if err != nil {
			t.Fatal(err)
		}
		taken, gen = append(taken, c), g
	}
	for _, c := range taken {
		c.nc.Close() // the other end is gone; nobody has noticed
		r.s.put(c, gen)
	}
	if _, err := r.s.State("T"); err != nil {
		t.Error(err)
	}
}

// lateConn is a connection whose every answer takes a moment.
type lateConn struct{ net.Conn }

func (c lateConn) Read(b []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return c.Conn.Read(b)
}

// A crowd that looks something up at once shares a few connections.
func TestACrowdSharesConnections(t *testing.T) {
	var dials atomic.Int32
	r := newRig(t, Options{Durability: Memory}, func(s *Store) {
		s.wrap = func(c net.Conn) net.Conn { dials.Add(1); return lateConn{c} }
	})
	before := dials.Load()
	var crowd sync.WaitGroup
	for range 20 * keptConns {
		crowd.Go(func() {
			if _, err := r.s.Last("T", "t.none"); !errs.Is(err, errs.NotFound) {
				t.Error(err)
			}
		})
	}
	crowd.Wait()
	if n := dials.Load() - before; n > 2*keptConns {
		t.Errorf("%d connections", n)
	}
}
