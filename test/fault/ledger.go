package fault

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"sort"
	"strings"
	"sync"
)

// Message is what a test's publisher sends: who, the how manieth of it, and a
// checksum over both, so that a message nobody sent, or one with wrong bytes,
// shows.
type Message struct {
	Device string  `json:"device"`
	N      int     `json:"n"` // from 1, one more with each new message of the device
	Value  float64 `json:"value"`
	Sum    uint32  `json:"sum"`
}

// NewMessage returns the n-th message of device. Its value goes round from 0
// to 99, so that a rule can pick a share of the messages.
func NewMessage(device string, n int) Message {
	m := Message{Device: device, N: n, Value: float64(n % 100)}
	m.Sum = m.sum()
	return m
}

func (m Message) sum() uint32 {
	return crc32.ChecksumIEEE(fmt.Appendf(nil, "%s/%d/%v", m.Device, m.N, m.Value))
}

// Payload returns m as JSON.
func (m Message) Payload() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // a struct of strings and numbers
	}
	return b
}

// ParseMessage reads a payload, or what a rule's SELECT * made of it.
func ParseMessage(payload []byte) (Message, error) {
	var m Message
	if err := json.Unmarshal(payload, &m); err != nil {
		return m, err
	}
	if m.Sum != m.sum() {
		return m, fmt.Errorf("checksum of %s/%d is %08x, want %08x", m.Device, m.N, m.Sum, m.sum())
	}
	return m, nil
}

// Ledger is the memory of a fault test. It lives in the test's process, which
// the fault does not reach: what was sent, what was acknowledged.
type Ledger struct {
	mu      sync.Mutex
	devices map[string]*account
}

type account struct {
	sent  int          // highest counter sent
	acked map[int]bool // counters acknowledged
	again map[int]bool // counters sent more than once
}

// NewLedger returns an empty Ledger.
func NewLedger() *Ledger { return &Ledger{devices: map[string]*account{}} }

func (l *Ledger) account(device string) *account {
	a := l.devices[device]
	if a == nil {
		a = &account{acked: map[int]bool{}, again: map[int]bool{}}
		l.devices[device] = a
	}
	return a
}

// Sent records that a message is about to be written to the connection. A
// message sent again after a reconnect is recorded again.
func (l *Ledger) Sent(m Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.account(m.Device)
	if m.N <= a.sent {
		a.again[m.N] = true
		return
	}
	a.sent = m.N
}

// Acked records that a message was acknowledged.
func (l *Ledger) Acked(m Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.account(m.Device).acked[m.N] = true
}

// Totals returns how many different messages were sent and acknowledged.
func (l *Ledger) Totals() (sent, acked int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.devices {
		sent += a.sent
		acked += len(a.acked)
	}
	return sent, acked
}

// Report is what became of the messages. All but Duplicates must be zero.
type Report struct {
	Sent, Acked, Found int
	Lost               int // acknowledged, but not found
	Phantom            int // found, but never sent
	Reordered          int // found behind a later one of its device, repeats left out
	Duplicates         int // found more than once
	BadDuplicates      int // found more than once although sent only once
	Corrupt            int // checksum does not fit
	Examples           []string
}

// OK reports whether nothing went wrong.
func (r Report) OK() bool {
	return r.Lost == 0 && r.Phantom == 0 && r.Reordered == 0 && r.BadDuplicates == 0 && r.Corrupt == 0
}

func (r Report) String() string {
	s := fmt.Sprintf("sent %d, acknowledged %d, found %d: lost %d, phantom %d, reordered %d, corrupt %d, duplicates %d (of messages sent once: %d)",
		r.Sent, r.Acked, r.Found, r.Lost, r.Phantom, r.Reordered, r.Corrupt, r.Duplicates, r.BadDuplicates)
	if len(r.Examples) > 0 {
		s += "\n\t" + strings.Join(r.Examples, "\n\t")
	}
	return s
}

func (r *Report) example(format string, args ...any) {
	if len(r.Examples) < 8 {
		r.Examples = append(r.Examples, fmt.Sprintf(format, args...))
	}
}

// Check compares what was found, in the order it was found, with the ledger.
// want says which acknowledged messages had to be found; nil: all. A place that
// may repeat any message, as an action may, sets atLeastOnce.
func (l *Ledger) Check(found [][]byte, want func(Message) bool, atLeastOnce bool) Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Report{Found: len(found)}
	seen := map[string]map[int]bool{}
	last := map[string]int{}
	for i, payload := range found {
		m, err := ParseMessage(payload)
		if err != nil {
			r.Corrupt++
			r.example("message %d of those found: %v", i, err)
			continue
		}
		a := l.devices[m.Device]
		if a == nil || m.N < 1 || m.N > a.sent {
			r.Phantom++
			r.example("%s/%d was never sent", m.Device, m.N)
			continue
		}
		if seen[m.Device] == nil {
			seen[m.Device] = map[int]bool{}
		}
		if seen[m.Device][m.N] {
			r.Duplicates++
			if !atLeastOnce && !a.again[m.N] {
				r.BadDuplicates++
				r.example("%s/%d is there twice but was sent once", m.Device, m.N)
			}
			continue
		}
		seen[m.Device][m.N] = true
		if m.N < last[m.Device] {
			r.Reordered++
			r.example("%s/%d came after %d", m.Device, m.N, last[m.Device])
		}
		last[m.Device] = max(last[m.Device], m.N)
	}
	devices := make([]string, 0, len(l.devices))
	for d := range l.devices {
		devices = append(devices, d)
	}
	sort.Strings(devices)
	for _, d := range devices {
		a := l.devices[d]
		r.Sent += a.sent
		r.Acked += len(a.acked)
		for n := range a.acked {
			if !seen[d][n] && (want == nil || want(NewMessage(d, n))) {
				r.Lost++
				r.example("%s/%d was acknowledged and is not there", d, n)
			}
		}
	}
	return r
}
