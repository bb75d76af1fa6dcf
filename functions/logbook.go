package functions

import (
	"context"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// LogLine is one line a function wrote, or one Weir wrote about it.
type LogLine struct {
	Time    time.Time `json:"time"`
	Request string    `json:"requestId,omitempty"` // of the invocation under way; "": none was
	Text    string    `json:"text"`
	Weir    bool      `json:"weir,omitempty"` // Weir's own

	n uint64
}

// Bounds of a function's log. It is in memory; the oldest lines go first.
const (
	manyLines = 2000
	maxLines  = 512 << 10 // bytes
	maxLine   = 8 << 10   // bytes; a longer line is cut
	maxTail   = 4 << 10   // bytes, of one invocation. Source: API reference, Invoke, LogResult.
)

// logbook is the log of one function.
type logbook struct {
	mu    sync.Mutex
	lines []LogLine
	size  int
	count uint64
	more  chan struct{} // closed and replaced with each line
}

func newLogbook() *logbook { return &logbook{more: make(chan struct{})} }

func (b *logbook) add(l LogLine) {
	l.Text = clip(l.Text)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count++
	l.n = b.count
	b.lines = append(b.lines, l)
	b.size += len(l.Text)
	for len(b.lines) > manyLines || b.size > maxLines {
		b.size -= len(b.lines[0].Text)
		b.lines[0] = LogLine{}
		b.lines = b.lines[1:] // append copies what is left, once in a while
	}
	close(b.more)
	b.more = make(chan struct{})
}

func clip(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= maxLine {
		return s
	}
	n := maxLine
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// after returns the newest last lines (negative: all there are) behind the line
// numbered n, and the number of the newest; with wait, as soon as there is one or
// ctx ends. A number of another process's log counts as none.
func (b *logbook) after(ctx context.Context, n uint64, last int, wait bool) ([]LogLine, uint64) {
	for {
		b.mu.Lock()
		if n > b.count {
			n = 0
		}
		lines := []LogLine{}
		for _, l := range b.lines {
			if l.n > n {
				lines = append(lines, l)
			}
		}
		newest, more := b.count, b.more
		b.mu.Unlock()
		if len(lines) > 0 || !wait {
			if last >= 0 && len(lines) > last {
				lines = lines[len(lines)-last:]
			}
			return lines, newest
		}
		select {
		case <-more:
		case <-ctx.Done():
			return lines, newest
		}
	}
}

// read calls fn for the newest last lines (negative: all there are), then with
// follow for each new one until ctx ends.
func (b *logbook) read(ctx context.Context, last int, follow bool, fn func(LogLine) error) error {
	b.mu.Lock()
	lines := b.lines
	if last >= 0 && len(lines) > last {
		lines = lines[len(lines)-last:]
	}
	lines = append([]LogLine(nil), lines...)
	seen, more := b.count, b.more
	b.mu.Unlock()
	for {
		for _, l := range lines {
			if err := fn(l); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
		b.mu.Lock()
		lines = nil
		for _, l := range b.lines {
			if l.n > seen {
				lines = append(lines, l)
			}
		}
		seen, more = b.count, b.more
		b.mu.Unlock()
	}
}

// tail is the end of what one invocation wrote.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) add(line string) {
	t.mu.Lock()
	t.b = append(append(t.b, line...), '\n')
	if len(t.b) > 2*maxTail {
		t.b = append(t.b[:0], t.b[len(t.b)-maxTail:]...)
	}
	t.mu.Unlock()
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]byte(nil), t.b[max(0, len(t.b)-maxTail):]...)
}
