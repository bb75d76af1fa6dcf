package ingest

import (
	"log/slog"
	"sync"
	"time"
)

// Noise writes log lines that clients can provoke: at most ten a second, the
// rest is counted and told with the next one.
type Noise struct {
	Logger *slog.Logger
	Now    func() time.Time

	mu      sync.Mutex // guards what follows
	second  int64
	lines   int
	skipped int
}

// Warn writes a line, unless there have been too many. Arguments that are costly
// to make implement slog.LogValuer.
func (n *Noise) Warn(msg string, args ...any) {
	n.mu.Lock()
	if s := n.Now().Unix(); s != n.second {
		n.second, n.lines = s, 0
	}
	n.lines++
	if n.lines > 10 {
		n.skipped++
		n.mu.Unlock()
		return
	}
	skipped := n.skipped
	n.skipped = 0
	n.mu.Unlock()
	if skipped > 0 {
		args = append(args, "suppressed", skipped)
	}
	n.Logger.Warn(msg, args...)
}
