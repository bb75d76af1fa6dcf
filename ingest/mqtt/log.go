package mqtt

import (
	"context"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
)

// Log is what the gateway needs of the event log; OnLog makes one of it.
type Log interface {
	Partitions() int
	// Committed returns the last committed sequence of partition p.
	Committed(p int) uint64
	// Newest returns the last sequence there is: another process may have
	// appended what this one has not been told of yet.
	Newest(p int) (uint64, error)
	// Append queues e and returns; r is told of the outcome. It blocks while
	// the log's queue is full, which is what slows publishers down.
	Append(ctx context.Context, e *event.Event, r eventlog.Receipt, token uint64) error
	// Follow reads a partition from behind a sequence.
	Follow(o eventlog.FollowOptions) (Follower, error)
}

// Follower reads one partition in order, never beyond what is committed.
type Follower interface {
	Next(ctx context.Context, max int) (batch []*event.Event, upto uint64, err error)
	Close()
}

// OnLog returns l as the gateway's Log.
func OnLog(l *eventlog.Log) Log { return store{l} }

type store struct{ *eventlog.Log }

func (s store) Follow(o eventlog.FollowOptions) (Follower, error) {
	f, err := s.Log.Follow(o)
	if err != nil {
		return nil, err // not a Follower that holds nil
	}
	return f, nil
}
