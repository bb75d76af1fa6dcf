package jet

import "testing"

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
