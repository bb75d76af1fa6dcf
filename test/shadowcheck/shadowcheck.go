// Package shadowcheck judges what clients saw of shadows that many wrote at the
// same time, and the answers that came by the log. It has no part in a message's
// way.
package shadowcheck

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// Outcome is what a client learned of a request.
type Outcome uint8

const (
	Accepted Outcome = iota
	Conflict         // the version was another
	Missing          // there is no document
	Unknown          // no answer: it was done, or will be, or not
)

// input and output are of one request. A document is its version and the name of
// the write that made it.
type input struct {
	get       bool
	versioned bool
	version   uint64 // expected
	write     string // unique
}

type output struct {
	outcome Outcome
	version uint64
	write   string // of a get
}

type state struct {
	version uint64
	write   string
}

// model is a register with a version.
var model = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{state{}} },
	Step: func(s, in, out any) []any {
		st, i, o := s.(state), in.(input), out.(output)
		if i.get {
			ok := o.outcome == Unknown || o.outcome == Missing && st.version == 0 ||
				o.outcome == Accepted && st.version > 0 && o.version == st.version && o.write == st.write
			if ok {
				return []any{st}
			}
			return nil
		}
		fits := !i.versioned || i.version == st.version
		next := state{st.version + 1, i.write}
		switch o.outcome {
		case Accepted:
			if fits && o.version == next.version {
				return []any{next}
			}
			return nil
		case Conflict:
			if !fits {
				return []any{st}
			}
			return nil
		}
		if fits {
			return []any{st, next}
		}
		return []any{st}
	},
	Equal:             func(a, b any) bool { return a == b },
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v → %+v", in, out) },
}).ToModel()

// History is what clients did, by shadow. Its methods may be called
// concurrently.
type History struct {
	began time.Time

	mu      sync.Mutex // guards what follows
	ops     map[string][]porcupine.Operation
	count   map[Outcome]int
	clients int
}

// New returns an empty history.
func New() *History {
	return &History{began: time.Now(), ops: map[string][]porcupine.Operation{}, count: map[Outcome]int{}}
}

// Client returns a number for a client that does one thing after the other. After
// an unknown outcome it must become another one: its request may still be under
// way.
func (h *History) Client() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clients++
	return h.clients - 1
}

// Now returns the time for Update and Get.
func (h *History) Now() int64 { return int64(time.Since(h.began)) }

// Update records an update that was called at a time and has returned now.
func (h *History) Update(client int, shadow, write string, expected *uint64, called int64, o Outcome, version uint64) {
	in := input{write: write}
	if expected != nil {
		in.versioned, in.version = true, *expected
	}
	h.add(client, shadow, in, called, output{outcome: o, version: version})
}

// Get records a read.
func (h *History) Get(client int, shadow string, called int64, o Outcome, version uint64, write string) {
	h.add(client, shadow, input{get: true}, called, output{o, version, write})
}

func (h *History) add(client int, shadow string, in input, called int64, out output) {
	back := h.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if out.outcome == Unknown {
		if in.get {
			h.count[Unknown]++
			return // it says nothing
		}
		back = 1 << 62
	}
	h.ops[shadow] = append(h.ops[shadow], porcupine.Operation{ClientId: client, Input: in, Call: called, Output: out, Return: back})
	h.count[out.outcome]++
}

// Resolve says what became of the updates that had no answer: made maps each
// write that any message of the log shows to the version it made. Without it a
// verdict on many of them takes too long.
func (h *History) Resolve(made map[string]uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for shadow, ops := range h.ops {
		keep := ops[:0]
		for _, o := range ops {
			if in := o.Input.(input); o.Output.(output).outcome == Unknown {
				version, ok := made[in.write]
				if !ok {
					continue
				}
				o.Output = output{outcome: Accepted, version: version}
			}
			keep = append(keep, o)
		}
		h.ops[shadow] = keep
	}
}

// Check fails the test where a shadow's history is not linearizable.
func (h *History) Check(t testing.TB) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	t.Logf("%d accepted, %d conflicts, %d missing, %d without an answer", h.count[Accepted], h.count[Conflict], h.count[Missing], h.count[Unknown])
	for shadow, ops := range h.ops {
		result, info := porcupine.CheckOperationsVerbose(model, ops, 30*time.Second)
		switch result {
		case porcupine.Illegal:
			t.Errorf("%s: %d requests are not linearizable; %s", shadow, len(ops), stuck(ops, info))
		case porcupine.Unknown:
			t.Errorf("%s: no verdict on %d requests in time", shadow, len(ops))
		}
	}
}

// stuck describes the end of the longest history that fits, and the first
// requests that do not fit behind it.
func stuck(ops []porcupine.Operation, info porcupine.LinearizationInfo) string {
	var longest []int
	for _, of := range info.PartialLinearizations() {
		for _, some := range of {
			if len(some) > len(longest) {
				longest = some
			}
		}
	}
	fits := map[int]bool{}
	for _, i := range longest {
		fits[i] = true
	}
	var left []porcupine.Operation
	for i, o := range ops {
		if !fits[i] {
			left = append(left, o)
		}
	}
	slices.SortFunc(left, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	var b strings.Builder
	fmt.Fprintf(&b, "%d fit, the last of them", len(longest))
	line := func(o porcupine.Operation) {
		fmt.Fprintf(&b, "\n  %8.3f to %8.3f ms, client %d: %s", float64(o.Call)/1e6, float64(o.Return)/1e6, o.ClientId, model.DescribeOperation(o.Input, o.Output))
	}
	for _, i := range longest[max(0, len(longest)-3):] {
		line(ops[i])
	}
	b.WriteString("\nbehind them")
	for _, o := range left[:min(6, len(left))] {
		line(o)
	}
	return b.String()
}

// Stream judges the messages of one topic …/update/documents or …/update/delta in
// the order of the log: versions grow; a repeat after a crash is the same message
// again.
type Stream struct {
	Gapless bool // each version comes

	last    uint64
	seen    map[uint64]string
	Repeats int
}

// Write returns the version and the member desired.w of a message of the topic
// …/update/documents.
func Write(payload []byte) (version uint64, write string) {
	var d struct {
		Current struct {
			Version uint64
			State   struct{ Desired struct{ W string } }
		}
	}
	if json.Unmarshal(payload, &d) != nil {
		return 0, ""
	}
	return d.Current.Version, d.Current.State.Desired.W
}

// Add takes the next message.
func (s *Stream) Add(payload []byte) error {
	var d struct {
		Version uint64
		Current *struct{ Version uint64 }
	}
	if err := json.Unmarshal(payload, &d); err != nil {
		return err
	}
	if d.Current != nil {
		d.Version = d.Current.Version
	}
	if s.seen == nil {
		s.seen = map[uint64]string{}
	}
	if d.Version <= s.last {
		s.Repeats++
		if old, ok := s.seen[d.Version]; !ok || old != string(payload) {
			return fmt.Errorf("version %d after %d is no repeat: %s, was %s", d.Version, s.last, payload, old)
		}
		return nil
	}
	if s.Gapless && d.Version != s.last+1 {
		return fmt.Errorf("version %d follows %d", d.Version, s.last)
	}
	s.last = d.Version
	s.seen[d.Version] = string(payload)
	return nil
}

// Last returns the newest version.
func (s *Stream) Last() uint64 { return s.last }
