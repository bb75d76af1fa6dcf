package mqtt

import (
	"sync"
	"time"
)

// bucket is a token bucket: so many tokens a second, and one second's worth at
// once. It is for one goroutine.
type bucket struct {
	rate   float64
	tokens float64
	at     time.Time
}

// take takes n tokens, which may be owed, and returns for how long nothing more
// should be taken.
func (b *bucket) take(n int, now time.Time) time.Duration {
	b.fill(now)
	if b.tokens -= float64(n); b.tokens >= 0 {
		return 0
	}
	return time.Duration(-b.tokens / b.rate * float64(time.Second))
}

// try takes one token if there is one.
func (b *bucket) try(now time.Time) bool {
	b.fill(now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (b *bucket) fill(now time.Time) {
	if b.at.IsZero() {
		b.tokens = b.rate
	} else if d := now.Sub(b.at); d > 0 {
		b.tokens = min(b.rate, b.tokens+b.rate*d.Seconds())
	}
	b.at = now
}

// connectRate counts the CONNECTs of a client id.
type connectRate struct {
	mu   sync.Mutex // guards what follows
	seen map[string]*bucket
}

// maxConnectRates bounds the client ids that are remembered; one that has not
// connected for a second is forgotten first.
const maxConnectRates = 1 << 16

func (r *connectRate) try(id string, rate int, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.seen[id]
	if b == nil {
		if len(r.seen) >= maxConnectRates {
			for k, o := range r.seen {
				if now.Sub(o.at) >= time.Second {
					delete(r.seen, k)
				}
			}
			if len(r.seen) >= maxConnectRates {
				return false
			}
		}
		if r.seen == nil {
			r.seen = map[string]*bucket{}
		}
		b = &bucket{rate: float64(rate)}
		r.seen[id] = b
	}
	return b.try(now)
}
