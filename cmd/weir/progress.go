package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// progress tells how far long work is: a bar where w is a terminal, else a line
// every few seconds.
type progress struct {
	w     io.Writer
	bar   bool
	what  string
	begun time.Time
	told  time.Time
}

const lineEvery = 5 * time.Second

func newProgress(w io.Writer, what string) *progress {
	_, bar := terminal(w)
	now := time.Now()
	return &progress{w: w, bar: bar, what: what, begun: now, told: now}
}

// at tells that done of total are done; more is what else there is to say.
func (p *progress) at(done, total uint64, more string) {
	part := 1.0
	if total > 0 {
		part = min(1, float64(done)/float64(total))
	}
	if p.bar {
		const width = 30
		n := int(part * width)
		fmt.Fprintf(p.w, "\r\x1b[K%s [%s%s] %3.0f %%  %s", p.what, strings.Repeat("█", n), strings.Repeat("·", width-n), part*100, more)
		return
	}
	if now := time.Now(); now.Sub(p.told) >= lineEvery {
		p.told = now
		fmt.Fprintf(p.w, "%s: %.0f %%, %s\n", p.what, part*100, more)
	}
}

// end takes the bar away.
func (p *progress) end() {
	if p.bar {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
