package ingest

import (
	"net/netip"
	"sync"
	"time"
)

// Guard holds the caps of addresses that have not logged in. An address is an
// IPv4 address or an IPv6 /64.
type Guard struct {
	safety *Safety
	now    func() time.Time

	mu        sync.Mutex // guards what follows
	addresses map[netip.Addr]*visitor
}

type visitor struct {
	waiting int // connections that have not logged in
	failed  int // log-ins failed in second
	second  int64
}

// maxVisitors bounds the memory of the guard. An entry lives while a connection
// of its address waits, or its failures are younger than a second.
const maxVisitors = 1 << 16

// NewGuard returns a guard that holds s.
func NewGuard(s *Safety, now func() time.Time) *Guard {
	return &Guard{safety: s, now: now, addresses: map[netip.Addr]*visitor{}}
}

func prefix(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// Enter lets a connection in, or says why not. Each entered connection leaves
// once.
func (g *Guard) Enter(a netip.Addr) (reason string) {
	a = prefix(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.addresses[a]
	if v == nil {
		if len(g.addresses) >= maxVisitors {
			g.sweep()
			if len(g.addresses) >= maxVisitors {
				return "too_many_addresses"
			}
		}
		v = &visitor{}
		g.addresses[a] = v
	}
	if v.waiting >= g.safety.Unauthenticated {
		return "too_many_unauthenticated"
	}
	if v.second == g.now().Unix() && v.failed >= g.safety.FailedLogins {
		g.drop(a, v)
		return "too_many_failed_logins"
	}
	v.waiting++
	return ""
}

// Leave tells that a connection that had entered has logged in, failed to, or
// ended before.
func (g *Guard) Leave(a netip.Addr, failed bool) {
	a = prefix(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	v := g.addresses[a]
	if v == nil {
		return
	}
	v.waiting--
	if failed {
		if s := g.now().Unix(); s != v.second {
			v.second, v.failed = s, 0
		}
		v.failed++
	}
	g.drop(a, v)
}

func (g *Guard) drop(a netip.Addr, v *visitor) {
	if v.waiting == 0 && (v.failed == 0 || v.second != g.now().Unix()) {
		delete(g.addresses, a)
	}
}

func (g *Guard) sweep() {
	for a, v := range g.addresses {
		g.drop(a, v)
	}
}
