package rules

import (
	"context"
	"errors"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
)

// OnLog returns l as the engine's Log.
func OnLog(l *eventlog.Log) Log { return onLog{l} }

type onLog struct{ *eventlog.Log }

func (l onLog) Follow(p int, after uint64, filters []topic.Filter) (Follower, error) {
	f, err := l.Log.Follow(eventlog.FollowOptions{Partition: p, After: after, Filters: filters, Mode: topic.AWS})
	if err != nil {
		return nil, err
	}
	return follower{f}, nil
}

type follower struct{ *eventlog.Follower }

func (f follower) Next(ctx context.Context, max int) ([]*event.Event, uint64, error) {
	batch, upto, err := f.Follower.Next(ctx, max)
	var gap *eventlog.GapError
	if errors.As(err, &gap) {
		err = &Gap{From: gap.From, To: gap.To}
	}
	return batch, upto, err
}

// Ends returns the committed end of each partition, for NewStore.
func Ends(l Log) func() []uint64 {
	return func() []uint64 {
		ends := make([]uint64, l.Partitions())
		for p := range ends {
			ends[p] = l.Committed(p)
		}
		return ends
	}
}
