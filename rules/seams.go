package rules

import (
	"context"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/lane"
)

// Log is what the engine needs of the event log.
type Log interface {
	Partitions() int
	Committed(p int) uint64
	// Follow reads partition p behind position after; filters nil: every event,
	// else those that match one of them in mode AWS.
	Follow(p int, after uint64, filters []topic.Filter) (Follower, error)
	// Hold keeps trimming behind the position that the function returns.
	Hold(name string, p int, position func() uint64)
}

// Follower reads one partition in order. See eventlog.Follower.
type Follower interface {
	// Next returns events and the position up to which all were considered. It
	// blocks until it has an event or the position moved. After an error that is
	// not a *Gap, and not the end of ctx, the follower is of no more use.
	Next(ctx context.Context, max int) (batch []*event.Event, upto uint64, err error)
	Close()
}

// Gap is the error of a Follower that was overtaken by trimming: the events
// From to To are lost to it. Reading goes on behind them.
type Gap struct{ From, To uint64 }

func (g *Gap) Error() string { return "events were trimmed before they were read" }

// Language compiles statements.
type Language interface {
	// Compile finds every static mistake. Its error says where: see Problem.
	Compile(r *Rule) (Program, error)
	// NewMachine returns scratch space for evaluation, for one goroutine.
	NewMachine() Machine
}

// Machine is what Language.NewMachine returned. Exceeded counts evaluations
// that hit a work limit, such as a regular expression's step limit; it only
// grows.
type Machine interface {
	Exceeded() uint64
}

// Program is a compiled statement: immutable, safe for concurrent use.
type Program interface {
	// Filter returns the topic filter after FROM; false: the rule is reached by
	// Basic Ingest only.
	Filter() (topic.Filter, bool)
	// CallsOut reports whether Eval may wait for others. Such a rule's lanes never
	// join the shared worker: nobody else may wait with them.
	CallsOut() bool
	// Eval returns a freshly allocated payload; ok is false where WHERE is not
	// true. An error goes to the error action.
	Eval(ctx context.Context, m Machine, e *event.Event) (payload []byte, ok bool, err error)
}

// LaneSpec says which lane is wanted.
type LaneSpec struct {
	Rule      *Rule
	Program   Program
	Version   uint64 // the rule's revision in the store
	Index     int    // of the action in Rule.Actions
	Partition int
	State     lane.State // where it left off; zero: new
}

// LaneMaker makes a lane. It connects to nothing and starts no goroutine.
type LaneMaker func(ctx context.Context, s LaneSpec) (lane.Lane, error)

// Entry and Change are a bucket's words.
type (
	Entry  = kv.Entry
	Change = kv.Change
)

// Bucket is what the engine needs of a kv.Bucket.
type Bucket interface {
	Get(ctx context.Context, key string) (Entry, error)
	Update(ctx context.Context, key string, value []byte, expected uint64) (uint64, error)
	Commit(ctx context.Context, changes []Change) (uint64, error)
	Scan(ctx context.Context, prefix string, fn func(Entry) error) error
	Watch(ctx context.Context, prefix string, fn func(Entry)) error
}
