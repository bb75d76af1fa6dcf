package mqtt

import (
	"context"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// Log is what the gateway needs of the event log.
type Log interface {
	Partitions() int
	// Committed returns the last committed sequence of partition p.
	Committed(p int) uint64
	// Append queues e and returns; r is told of the outcome. It blocks while
	// the log's queue is full, which is what slows publishers down.
	Append(ctx context.Context, e *event.Event, r Receipt, token uint64) error
	// Follow reads partition p from behind a sequence.
	Follow(o FollowOptions) (Follower, error)
}

// Receipt is told of appended events, in order, and once after each commit.
type Receipt interface {
	Appended(token uint64, e *event.Event, err error)
	Flush()
}

// FollowOptions say what a Follower reads.
type FollowOptions struct {
	Partition int
	After     uint64
	Since     time.Time
	Filters   []topic.Filter
	Mode      topic.Mode
	ToEnd     bool
}

// Follower reads one partition in order, never beyond what is committed.
type Follower interface {
	Next(ctx context.Context, max int) (batch []*event.Event, upto uint64, err error)
	Position() uint64
	Close()
}
