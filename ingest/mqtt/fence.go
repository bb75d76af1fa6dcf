package mqtt

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
)

// fence is the bucket of sessions, and of groups, where several gateways write to
// it. A record says whose it is, and is written only on top of the revision this gateway has
// read or written: who was taken over, and does not know it yet, writes in vain.
type fence struct {
	bucket     SessionBucket
	node       *node
	partitions int
	lost       func(key string) // another gateway has the session, or the group

	mu   sync.Mutex
	revs map[string]uint64 // of the records this gateway has read or written last
}

// lostError says that records were not written since others have them now. All
// other records of the commit were.
type lostError struct{ keys []string }

func (e *lostError) Error() string { return "another gateway has taken the session over" }

// of returns the error of one record.
func (e *lostError) of(key string) error {
	if slices.Contains(e.keys, key) {
		return errs.E("mqtt.session", errs.Unavailable, e)
	}
	return nil
}

// A record's value is owned, the length of its gateway's id, the id, the record
// as appendRecord makes it. One without is of a time with one gateway.
const owned = 0xee

func seal(owner string, record []byte) []byte {
	b := make([]byte, 0, len(record)+len(owner)+4)
	b = append(binary.AppendUvarint(append(b, owned), uint64(len(owner))), owner...)
	return append(b, record...)
}

func unseal(b []byte) (owner string, record []byte) {
	if len(b) == 0 || b[0] != owned {
		return "", b
	}
	n, k := binary.Uvarint(b[1:])
	if k <= 0 || n > uint64(len(b)-1-k) {
		return "", nil
	}
	b = b[1+k:]
	return string(b[:n]), b[n:]
}

func (f *fence) Get(ctx context.Context, key string) (kv.Entry, error) {
	e, err := f.bucket.Get(ctx, key)
	if err == nil || errs.Is(err, errs.NotFound) {
		f.know(key, e.Revision)
	}
	_, e.Value = unseal(e.Value)
	return e, err
}

// read returns who has a record, and what it says; nothing where there is none.
func (f *fence) read(ctx context.Context, key string) (owner string, record []byte, err error) {
	e, err := f.bucket.Get(ctx, key)
	switch {
	case errs.Is(err, errs.NotFound):
		f.know(key, 0)
		return "", nil, nil
	case err != nil:
		return "", nil, err
	}
	f.know(key, e.Revision)
	owner, record = unseal(e.Value)
	return owner, record, nil
}

// claim writes a record on top of what read found.
// Errors: errs.Conflict where another gateway has written it since.
func (f *fence) claim(ctx context.Context, key string, value []byte) error {
	f.mu.Lock()
	rev := f.revs[key]
	f.mu.Unlock()
	_, err := f.commit(ctx, []kv.Change{{Key: key, Value: value, Expected: rev}})
	return err
}

func (f *fence) know(key string, revision uint64) {
	if !f.node.shared() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if revision == 0 {
		delete(f.revs, key)
	} else {
		f.revs[key] = revision
	}
}

// Scan passes by the sessions that are connected to other gateways.
func (f *fence) Scan(ctx context.Context, prefix string, fn func(kv.Entry) error) error {
	return f.bucket.Scan(ctx, prefix, func(e kv.Entry) error {
		var owner string
		owner, e.Value = unseal(e.Value)
		if owner != "" && owner != f.node.name() && f.node.shared() {
			if r, err := decodeRecord(e.Value, f.partitions); err == nil && r.left.IsZero() && f.node.alive(owner) {
				return nil
			}
		}
		f.mu.Lock()
		_, known := f.revs[e.Key]
		f.mu.Unlock()
		if !known {
			f.know(e.Key, e.Revision)
		}
		return fn(e)
	})
}

func (f *fence) Commit(ctx context.Context, changes []kv.Change) (rev uint64, err error) {
	if !f.node.shared() {
		return f.bucket.Commit(ctx, changes)
	}
	fenced := make([]kv.Change, len(changes))
	for i, c := range changes {
		if len(c.Value) > 0 && !strings.HasPrefix(c.Key, shareKey) { // a group has been sealed
			c.Value = seal(f.node.id, c.Value)
		}
		f.mu.Lock()
		c.Any, c.Expected = false, f.revs[c.Key]
		f.mu.Unlock()
		fenced[i] = c
	}
	rev, err = f.commit(ctx, fenced)
	if !errs.Is(err, errs.Conflict) {
		return rev, err
	}
	// One of them is another gateway's now.
	var lost []string
	for _, c := range fenced {
		switch r, err := f.one(ctx, c); {
		case errs.Is(err, errs.Conflict):
			lost = append(lost, c.Key)
		case err != nil:
			return 0, err
		default:
			rev = r
		}
	}
	if len(lost) == 0 {
		return rev, nil
	}
	for _, key := range lost {
		f.know(key, 0)
		f.lost(key)
	}
	return 0, &lostError{lost}
}

// one writes one record. What stands in its way may be an own write whose
// answer was lost.
func (f *fence) one(ctx context.Context, c kv.Change) (uint64, error) {
	rev, err := f.commit(ctx, []kv.Change{c})
	if !errs.Is(err, errs.Conflict) {
		return rev, err
	}
	e, gerr := f.bucket.Get(ctx, c.Key)
	switch owner, _ := unseal(e.Value); {
	case errs.Is(gerr, errs.NotFound):
		c.Expected = 0
	case gerr != nil:
		return 0, gerr
	case owner == f.node.id:
		c.Expected = e.Revision
	default:
		return 0, err
	}
	return f.commit(ctx, []kv.Change{c})
}

func (f *fence) commit(ctx context.Context, changes []kv.Change) (uint64, error) {
	rev, err := f.bucket.Commit(ctx, changes)
	if err != nil {
		return 0, err
	}
	for i, c := range changes {
		at := rev - uint64(len(changes)-1-i)
		if len(c.Value) == 0 {
			at = 0
		}
		f.know(c.Key, at)
	}
	return rev, nil
}

// sessionLost ends the connection of a client that another gateway has, and its
// session with it.
func (s *Server) sessionLost(id string) {
	if strings.HasPrefix(id, shareKey) {
		s.shareLost(id)
		return
	}
	s.mu.Lock()
	c := s.clients[id]
	s.mu.Unlock()
	s.sessions.forget(id)
	if c == nil || !c.accepted.Load() {
		return // a CONNECT under way is told by its own order
	}
	s.wg.Go(func() {
		c.sess.mu.Lock()
		c.sess.persistent = false
		c.sess.mu.Unlock()
		c.end(faultf(codeTakenOver, "taken_over", "another gateway has this client"))
	})
}

// lostOf returns the error of one record of a commit.
func lostOf(err error, key string) error {
	var lost *lostError
	if errors.As(err, &lost) {
		return lost.of(key)
	}
	return err
}
