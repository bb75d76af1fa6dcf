package shadowcheck

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// Sections is a document in two sections, each with its version and the name of
// the write that made it, and the version of the whole. Every view of a document
// shows a part of it: what one does not show is zero, or Unseen.
type Sections struct {
	Version           uint64 // of the whole; 1: no write yet
	Desired, Reported Part
}

// Part is a section: its first version, before any write, is 1.
type Part struct {
	Version uint64
	Write   string
}

// Unseen is the write of a section that a view does not show.
const Unseen = "\x00"

// shows reports whether a view v is one of s.
func (v *Sections) shows(s *Sections) bool {
	return (v.Version == 0 || v.Version == s.Version) && v.Desired.shows(s.Desired) && v.Reported.shows(s.Reported)
}

func (v Part) shows(s Part) bool {
	return (v.Version == 0 || v.Version == s.Version) && (v.Write == Unseen || v.Write == s.Write)
}

// change is a write of one section, or, without a name, a read.
type change struct {
	reported bool
	write    string
	expected uint64 // of the whole; 0: any
}

type seen struct {
	outcome Outcome
	view    Sections
}

var sections = porcupine.Model{
	Init: func() any { return Sections{Version: 1, Desired: Part{Version: 1}, Reported: Part{Version: 1}} },
	Step: func(st, in, out any) (bool, any) {
		s, c, o := st.(Sections), in.(change), out.(seen)
		fits := c.expected == 0 || c.expected == s.Version
		switch {
		case o.outcome == Missing:
			return c.write == "" && s.Version == 1, s
		case o.outcome == Conflict:
			return !fits, s
		case c.write == "":
			return o.view.shows(&s), s
		}
		s.Version++
		part := &s.Desired
		if c.reported {
			part = &s.Reported
		}
		*part = Part{part.Version + 1, c.write}
		return fits && o.view.shows(&s), s
	},
	Equal:             func(a, b any) bool { return a == b },
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v → %+v", in, out) },
}

// Views is what clients did to documents of two sections, by whichever view. Its
// methods may be called concurrently.
type Views struct {
	began time.Time

	mu       sync.Mutex // guards what follows
	ops      map[string][]porcupine.Operation
	accepted map[string]uint64
}

// NewViews returns an empty history.
func NewViews() *Views {
	return &Views{began: time.Now(), ops: map[string][]porcupine.Operation{}, accepted: map[string]uint64{}}
}

// Now returns the time for Wrote and Read.
func (v *Views) Now() int64 { return int64(time.Since(v.began)) }

// Wrote records a write of a section that was called at a time and has been
// answered now. expected is the version of the whole that it was for; 0: any.
func (v *Views) Wrote(client int, doc string, reported bool, write string, expected uint64, called int64, o Outcome, view Sections) {
	v.add(client, doc, change{reported, write, expected}, called, seen{o, view})
}

// Read records a read.
func (v *Views) Read(client int, doc string, called int64, o Outcome, view Sections) {
	v.add(client, doc, change{}, called, seen{o, view})
}

func (v *Views) add(client int, doc string, c change, called int64, o seen) {
	back := v.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ops[doc] = append(v.ops[doc], porcupine.Operation{ClientId: client, Input: c, Call: called, Output: o, Return: back})
	if c.write != "" && o.outcome == Accepted {
		v.accepted[doc]++
	}
}

// Accepted returns how many writes of a document were accepted.
func (v *Views) Accepted(doc string) uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.accepted[doc]
}

// Check fails the test where a document's history is not linearizable.
func (v *Views) Check(t testing.TB) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	for doc, ops := range v.ops {
		t.Logf("%s: %d requests, %d writes accepted", doc, len(ops), v.accepted[doc])
		switch porcupine.CheckOperationsTimeout(sections, ops, 60*time.Second) {
		case porcupine.Illegal:
			t.Errorf("%s: %d requests are not linearizable", doc, len(ops))
		case porcupine.Unknown:
			t.Errorf("%s: no verdict on %d requests in time", doc, len(ops))
		}
	}
}
