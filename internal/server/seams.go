package server

import (
	"context"
	"errors"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules"
)

// The rooms declare what they need of the log and the buckets; here they get it.

// engineLog is the log as the rules engine sees it.
type engineLog struct{ *eventlog.Log }

func (l engineLog) Follow(p int, after uint64, filters []topic.Filter) (rules.Follower, error) {
	f, err := l.Log.Follow(eventlog.FollowOptions{Partition: p, After: after, Filters: filters, Mode: topic.AWS})
	if err != nil {
		return nil, err
	}
	return engineFollower{f}, nil
}

type engineFollower struct{ *eventlog.Follower }

func (f engineFollower) Next(ctx context.Context, max int) ([]*event.Event, uint64, error) {
	batch, upto, err := f.Follower.Next(ctx, max)
	var gap *eventlog.GapError
	if errors.As(err, &gap) {
		err = &rules.Gap{From: gap.From, To: gap.To}
	}
	return batch, upto, err
}

// bucket is a bucket as the rooms see it.
type bucket struct{ *kv.Bucket }

func (b bucket) Get(ctx context.Context, key string) (rules.Entry, error) {
	e, err := b.Bucket.Get(ctx, key)
	return rules.Entry(e), err
}

func (b bucket) Commit(ctx context.Context, changes []rules.Change) (uint64, error) {
	out := make([]kv.Change, len(changes))
	for i, c := range changes {
		out[i] = kv.Change(c)
	}
	return b.Bucket.Commit(ctx, out)
}

func (b bucket) Scan(ctx context.Context, prefix string, fn func(rules.Entry) error) error {
	return b.Bucket.Scan(ctx, prefix, func(e kv.Entry) error { return fn(rules.Entry(e)) })
}

func (b bucket) Watch(ctx context.Context, prefix string, fn func(rules.Entry)) error {
	return b.Bucket.Watch(ctx, prefix, func(e kv.Entry) { fn(rules.Entry(e)) })
}

// destinationStore keeps HTTP destinations in a bucket.
type destinationStore struct{ *kv.Bucket }

func (s destinationStore) Scan(ctx context.Context, fn func(id string, value []byte, revision uint64) error) error {
	return s.Bucket.Scan(ctx, "", func(e kv.Entry) error { return fn(e.Key, e.Value, e.Revision) })
}
