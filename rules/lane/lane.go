// Package lane is the seam between the rules engine, which evaluates, and
// package actions, which delivers.
//
// For each rule, action and partition there is one Lane. The engine offers it
// the rule's results in the order of the log; the lane delivers them and says
// up to which position all of them are settled. Engine and lane meet only here.
package lane

import (
	"context"
	"time"

	"github.com/weir-iot/weir/internal/event"
)

// Lane takes the results of one rule's action in one partition.
//
// Offer, Fail and Advance are called by one goroutine at a time, with rising
// sequences. The other methods may run beside them.
type Lane interface {
	// Offer hands over the payload the rule selected from e. It does not block.
	// false: the window is full and nothing was taken; the same event is offered
	// again later.
	Offer(e *event.Event, payload []byte) bool

	// Fail hands over that evaluating e failed; the result goes to the error
	// action. It refuses as Offer does.
	Fail(e *event.Event, err error) bool

	// Room returns a channel that can be read once there is room again after a
	// refusal. A stale signal is possible: offer again and see.
	Room() <-chan struct{}

	// Advance says that everything up to position upto has been offered or did
	// not match. A lower position than before is ignored.
	Advance(upto uint64)

	// State returns what a restart needs; it is consistent in itself.
	State() State

	// Status returns what people want to know.
	Status() Status

	// Trace returns how the result of the event at sequence seq stands, as long as
	// the lane has it in its window.
	Trace(seq uint64) Trace

	// Run delivers until ctx ends, then lets deliveries under way end for a short
	// while. On return nothing of the lane runs; what is not settled is offered
	// again after a restart.
	Run(ctx context.Context) error
}

// Counts is what became of settled results, each counted once however often it
// was tried.
type Counts struct {
	Delivered      uint64 `json:"delivered"`
	ErrorDelivered uint64 `json:"errorDelivered"` // by the rule's error action
	Dead           uint64 `json:"dead"`           // in the stream DEAD
}

// Settled returns the sum.
func (c Counts) Settled() uint64 { return c.Delivered + c.ErrorDelivered + c.Dead }

// Add adds d to c.
func (c *Counts) Add(d Counts) {
	c.Delivered += d.Delivered
	c.ErrorDelivered += d.ErrorDelivered
	c.Dead += d.Dead
}

// State is a lane's saved state: all results of events up to Confirmed are
// settled, and Counts counts exactly those. What was settled beyond Confirmed,
// out of order, is in neither: it is offered again after a crash.
type State struct {
	Confirmed uint64
	Counts
	DownSince time.Time // since when the destination cannot be reached; zero: it can
}

// Status is a lane as it is now.
type Status struct {
	Counts               // everything settled, beyond the confirmed position too
	Confirmed  uint64    // all results up to here are settled
	Pending    int       // taken and not settled; matched = Settled() + Pending
	Bytes      int       // of these and their events
	Oldest     time.Time // arrival of the oldest pending event; zero: none
	Retries    uint64    // tries that failed, since the process started
	LastError  string    // empty: none since the process started
	LastFailed time.Time
	Breaker    string    // "closed", "open" or "probing"
	DownSince  time.Time // zero: the breaker is closed
}

// How a result stands.
const (
	Pending        = "pending"
	Delivered      = "delivered"
	ErrorDelivered = "delivered by the error action"
	DeadLetter     = "dead"
)

// Trace is how one result stands.
type Trace struct {
	State    string    // one of the above; empty: the lane does not have the result in its window
	Attempts []Attempt // that failed, oldest first; the first and the last of many
	Failed   uint64    // how many there were
}

// Attempt is one try that failed.
type Attempt struct {
	Time  time.Time `json:"time"`
	Error string    `json:"error"`
}
