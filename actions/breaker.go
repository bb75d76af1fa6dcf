package actions

import "time"

// breaker stops a lane whose destination does not answer. While it is open, one
// slot at a time may probe, after a pause that grows. Its lane's lock guards it.
type breaker struct {
	open    bool
	probing bool
	since   time.Time     // of the first failure
	at      time.Time     // of the next probe
	n       int           // probes that failed
	changed chan struct{} // closed and replaced at each change
}

// String names the state.
func (b *breaker) String() string {
	switch {
	case b.probing:
		return "probing"
	case b.open:
		return "open"
	}
	return "closed"
}

func (b *breaker) downSince() time.Time {
	if b.open {
		return b.since
	}
	return time.Time{}
}

// enter asks for a try. Where it is not granted, wait is the time until it may
// be; 0: until something changes.
func (b *breaker) enter(now time.Time) (wait time.Duration, granted bool) {
	switch {
	case !b.open:
		return 0, true
	case b.probing:
		return 0, false
	case now.Before(b.at):
		return b.at.Sub(now), false
	}
	b.probing = true
	return 0, true
}

// trip records a try without an answer.
func (b *breaker) trip(now time.Time, backoff func(int) time.Duration) {
	if !b.open {
		b.open, b.since, b.n = true, now, 0
	} else if !b.probing {
		return // a try that had begun before the breaker opened
	}
	b.probing = false
	b.at = now.Add(backoff(b.n))
	b.n++
	b.signal()
}

// close records an answer.
func (b *breaker) close() {
	b.open, b.probing, b.n, b.since = false, false, 0, time.Time{}
	b.signal()
}

func (b *breaker) signal() {
	close(b.changed)
	b.changed = make(chan struct{})
}
