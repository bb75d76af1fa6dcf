package azure

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
)

// Bucket keeps the identities, and positions on the log. *kv.Bucket is one.
type Bucket interface {
	Get(ctx context.Context, key string) (kv.Entry, error)
	Commit(ctx context.Context, changes []kv.Change) (uint64, error)
	Watch(ctx context.Context, prefix string, f func(kv.Entry)) error
}

// Sealer keeps keys unreadable in the bucket. *seal.Box is one.
type Sealer interface {
	Seal(name string, plain []byte) []byte
	Open(name string, sealed []byte) ([]byte, error)
}

// identities is the registry: a projection of the bucket, read without I/O.
type identities struct {
	bucket Bucket
	box    Sealer

	mu       sync.RWMutex // guards what follows
	all      map[string]*Identity
	revision uint64
	loaded   bool
	moved    chan struct{} // closed and replaced when the projection moves
}

func newIdentities(b Bucket, box Sealer) *identities {
	return &identities{bucket: b, box: box, all: map[string]*Identity{}, moved: make(chan struct{})}
}

// run follows the bucket until ctx ends; changed is called after each change with
// the name of the identity.
func (s *identities) run(ctx context.Context, changed func(name string)) error {
	return s.bucket.Watch(ctx, bucketPrefix, func(e kv.Entry) {
		device, module := parseKey(e.Key)
		s.mu.Lock()
		if e.Key == "" {
			s.loaded = true
		} else {
			if len(e.Value) == 0 {
				delete(s.all, nameOf(device, module))
			} else if i, err := decodeIdentity(e.Key, e.Value, s.box); err == nil {
				i.revision = e.Revision
				s.all[i.name()] = i
			} else {
				// A record nobody can read lets nobody in.
				s.all[nameOf(device, module)] = &Identity{Device: device, Module: module, unreadable: true, revision: e.Revision}
			}
			s.revision = max(s.revision, e.Revision)
		}
		close(s.moved)
		s.moved = make(chan struct{})
		s.mu.Unlock()
		if e.Key != "" {
			changed(nameOf(device, module))
		}
	})
}

// wait returns when ok, asked under the lock, is true.
func (s *identities) wait(ctx context.Context, ok func() bool) error {
	for {
		s.mu.RLock()
		done, moved := ok(), s.moved
		s.mu.RUnlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return errs.E("azure.Registry", errs.Unavailable, ctx.Err())
		}
	}
}

// get returns an identity, which is not to be changed; nil where there is none.
func (s *identities) get(device, module string) *Identity {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.all[nameOf(device, module)]
}

// list returns the identities of devices, or the modules of one, sorted by name.
func (s *identities) list(modulesOf string) []*Identity {
	return s.filter(func(i *Identity) bool {
		return modulesOf == "" && i.Module == "" || modulesOf != "" && i.Module != "" && i.Device == modulesOf
	})
}

// behind returns all devices, or all modules, whose names come behind after,
// sorted by name.
func (s *identities) behind(after string, modules bool) []*Identity {
	return s.filter(func(i *Identity) bool { return (i.Module != "") == modules && i.name() > after })
}

func (s *identities) filter(ok func(*Identity) bool) []*Identity {
	s.mu.RLock()
	var out []*Identity
	for _, i := range s.all {
		if ok(i) {
			out = append(out, i)
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(out, func(a, b *Identity) int { return strings.Compare(a.name(), b.name()) })
	return out
}

// put makes i the version behind old, which is nil where there must be none, and
// returns once it can be read.
func (s *identities) put(ctx context.Context, i, old *Identity) error {
	value, err := i.encode(s.box)
	if err != nil {
		return err
	}
	c := kv.Change{Key: keyOf(i.Device, i.Module), Value: value}
	if old != nil {
		c.Expected = old.revision
	}
	return s.commit(ctx, c)
}

// remove takes old out, and its modules with it.
func (s *identities) remove(ctx context.Context, old *Identity) error {
	changes := []kv.Change{{Key: keyOf(old.Device, old.Module), Expected: old.revision}}
	if old.Module == "" {
		for _, m := range s.list(old.Device) {
			changes = append(changes, kv.Change{Key: keyOf(m.Device, m.Module), Expected: m.revision})
		}
	}
	return s.commit(ctx, changes...)
}

func (s *identities) commit(ctx context.Context, changes ...kv.Change) error {
	rev, err := s.bucket.Commit(ctx, changes)
	if err != nil {
		return err
	}
	return s.wait(ctx, func() bool { return s.revision >= rev })
}
