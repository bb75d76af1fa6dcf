package mqtt

import (
	"net/netip"
	"sync"
	"time"

	"github.com/weir-iot/weir/ingest"
)

// guard holds the caps of addresses that have not logged in. An address is an
// IPv4 address or an IPv6 /64.
type guard struct {
	safety *ingest.Safety
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

func newGuard(s *ingest.Safety, now func() time.Time) *guard {
	return &guard{safety: s, now: now, addresses: map[netip.Addr]*visitor{}}
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

// enter lets a connection in, or says why not. Each entered connection leaves
// once.
func (g *guard) enter(a netip.Addr) (reason string) {
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

func (g *guard) leave(a netip.Addr, failed bool) {
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

func (g *guard) drop(a netip.Addr, v *visitor) {
	if v.waiting == 0 && (v.failed == 0 || v.second != g.now().Unix()) {
		delete(g.addresses, a)
	}
}

func (g *guard) sweep() {
	for a, v := range g.addresses {
		g.drop(a, v)
	}
}
