package mqtt

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
)

// saver says whether this gateway saves the retained messages. Each projects the
// log by itself; of several, the one with the lowest id among the living saves.
// All that it writes goes with a key that must be as it left it, so that of two
// which both take themselves for the saver one stops.
type saver struct {
	node   *node
	active bool
	rev    uint64 // of saverName, while active
}

// saverName is the key in the bucket of retained messages; no topic has a
// control character.
const saverName = "\x00saver"

// due reports whether this gateway is to save.
func (v *saver) due() bool { return v.node.first() }

// claim makes this gateway the saver. From then on a restart projects from where
// both it and the saver before it had got to.
func (v *saver) claim(ctx context.Context, r *retained, handled []uint64) error {
	if !v.node.shared() || v.active {
		return nil
	}
	upto := slices.Clone(handled)
	err := r.bucket.Scan(ctx, positionKey, func(e kv.Entry) error {
		p, err := strconv.Atoi(strings.TrimPrefix(e.Key, positionKey))
		pos, err2 := strconv.ParseUint(string(e.Value), 10, 64)
		if err == nil && err2 == nil && p >= 0 && p < len(upto) {
			upto[p] = min(upto[p], pos)
		}
		return nil
	})
	if err != nil {
		return err
	}
	changes := positionChanges(upto)
	changes = append(changes, kv.Change{Key: saverName, Value: []byte(v.node.id), Any: true})
	rev, err := r.bucket.Commit(ctx, changes)
	if err != nil {
		return err
	}
	v.active, v.rev = true, rev
	return nil
}

func positionChanges(at []uint64) []kv.Change {
	var changes []kv.Change
	for p, pos := range at {
		changes = append(changes, kv.Change{Key: positionKey + strconv.Itoa(p), Value: strconv.AppendUint(nil, pos, 10), Any: true})
	}
	return changes
}

// commit writes changes as the saver.
// Errors: errs.Conflict where another gateway is the saver now.
func (v *saver) commit(ctx context.Context, b Bucket, changes []kv.Change) error {
	if !v.node.shared() {
		_, err := b.Commit(ctx, changes)
		return err
	}
	changes = append(slices.Clone(changes), kv.Change{Key: saverName, Value: []byte(v.node.id), Expected: v.rev})
	rev, err := b.Commit(ctx, changes)
	if err != nil {
		// Also where the outcome is unknown: the revision is.
		v.active = false
		return err
	}
	v.rev = rev
	return nil
}

// ignore reports whether an error of commit only says that another one saves.
func (v *saver) ignore(err error) bool { return v.node.shared() && errs.Is(err, errs.Conflict) }
