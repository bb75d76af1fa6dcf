package provision

import (
	"sync"
	"time"
)

// limiter counts what each principal asks for in a second. Its memory is
// bounded by what comes in one second and by maxCounted; beyond that all others
// share one count.
type limiter struct {
	perSecond int
	now       func() time.Time

	mu     sync.Mutex // guards what follows
	second int64
	counts map[string]int
}

const maxCounted = 10_000

func (l *limiter) allow(who string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.now().Unix(); s != l.second || l.counts == nil {
		l.second, l.counts = s, map[string]int{}
	}
	if _, ok := l.counts[who]; !ok && len(l.counts) >= maxCounted {
		who = ""
	}
	l.counts[who]++
	return l.counts[who] <= l.perSecond
}
