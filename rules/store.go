package rules

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// prefix of the rules' keys. rule.<name> holds the newest version of a rule;
// rule.<name>.<revision> holds a version that is closed and whose lanes may
// still have results to deliver. Names have no dots.
const prefix = "rule."

// maxClosed bounds the closed versions of one rule that wait for their lanes.
const maxClosed = 64

// Store keeps rules in a bucket. Each change is a compare-and-set, so that
// several writers cannot overwrite one another unseen.
type Store struct {
	bucket Bucket
	check  func(ctx context.Context, r *Rule) error
	ends   func() []uint64
	now    func() time.Time
}

// NewStore returns the store in bucket. check validates a rule completely
// before it is stored; ends returns the committed end of each partition.
func NewStore(bucket Bucket, check func(context.Context, *Rule) error, ends func() []uint64, now func() time.Time) *Store {
	if now == nil {
		now = time.Now
	}
	return &Store{bucket: bucket, check: check, ends: ends, now: now}
}

// Apply makes r the newest version of its rule. changed is false where the
// stored document is the same already. expected, if not 0, is the revision that
// must be the newest one.
// Errors: Invalid (a *Problem where a place is known), Conflict, Quota, Unavailable.
func (s *Store) Apply(ctx context.Context, r *Rule, expected uint64) (st Stored, changed bool, err error) {
	const op = "rules.Apply"
	if err := s.check(ctx, r); err != nil {
		return Stored{}, false, errs.E(op, errs.Invalid, err)
	}
	old, err := s.Get(ctx, r.Name)
	switch {
	case errs.Is(err, errs.NotFound):
		if expected != 0 {
			return Stored{}, false, errs.Errorf(op, errs.Conflict, "rule %q does not exist any more", r.Name)
		}
		st, err = s.put(ctx, op, r, nil)
		return st, err == nil, err
	case err != nil:
		return Stored{}, false, err
	case expected != 0 && old.Revision != expected:
		return Stored{}, false, errs.Errorf(op, errs.Conflict, "rule %q was changed by somebody else", r.Name)
	case old.Rule.Equal(r):
		return old, false, nil
	}
	st, err = s.put(ctx, op, r, &old)
	return st, err == nil, err
}

// Create stores r where there is no rule of its name.
// Errors: as Apply's, and Exists.
func (s *Store) Create(ctx context.Context, r *Rule) (Stored, error) {
	const op = "rules.Create"
	if err := s.check(ctx, r); err != nil {
		return Stored{}, errs.E(op, errs.Invalid, err)
	}
	exists := errs.Errorf(op, errs.Exists, "rule %q exists already", r.Name)
	if _, err := s.Get(ctx, r.Name); err == nil {
		return Stored{}, exists
	} else if !errs.Is(err, errs.NotFound) {
		return Stored{}, err
	}
	st, err := s.put(ctx, op, r, nil)
	if errs.Is(err, errs.Conflict) {
		return Stored{}, exists // somebody else was first
	}
	return st, err
}

// SetEnabled enables or disables a rule. It does nothing where the rule is so.
// Errors: NotFound, Conflict, Unavailable.
func (s *Store) SetEnabled(ctx context.Context, name string, enabled bool) (Stored, error) {
	const op = "rules.SetEnabled"
	old, err := s.Get(ctx, name)
	if err != nil || old.Rule.Disabled == !enabled {
		return old, err
	}
	r := *old.Rule
	r.Disabled = !enabled
	return s.put(ctx, op, &r, &old)
}

// Delete deletes a rule; what it matched before is still delivered.
// Errors: NotFound, Conflict, Unavailable.
func (s *Store) Delete(ctx context.Context, name string) error {
	const op = "rules.Delete"
	old, err := s.Get(ctx, name)
	if err != nil {
		return err
	}
	_, err = s.put(ctx, op, nil, &old)
	return err
}

// put stores r as the version behind old; r nil deletes. One atomic commit
// closes old and brings the new version in, so that a crash leaves both or none.
func (s *Store) put(ctx context.Context, op string, r *Rule, old *Stored) (Stored, error) {
	now := s.now().UTC()
	st := Stored{Rule: r, Version: 1, CreatedAt: now, UpdatedAt: now, Start: s.ends()}
	var changes []Change
	var expected uint64
	name := ""
	if r != nil {
		name = r.Name
	}
	if old != nil {
		name, expected = old.Rule.Name, old.Revision
		st.Version, st.CreatedAt = old.Version+1, old.CreatedAt
		if !old.Rule.Disabled {
			n := 0
			if err := s.bucket.Scan(ctx, prefix+name+".", func(Entry) error { n++; return nil }); err != nil {
				return Stored{}, err
			}
			if n >= maxClosed {
				return Stored{}, errs.Errorf(op, errs.Quota, "%d replaced versions of rule %q still have results to deliver", n, name)
			}
			closed := *old
			closed.End = st.Start
			b, err := json.Marshal(closed)
			if err != nil {
				return Stored{}, errs.E(op, errs.Internal, err)
			}
			changes = append(changes, Change{Key: closedKey(name, old.Revision), Value: b})
		}
	}
	var value []byte
	if r != nil {
		b, err := json.Marshal(st)
		if err != nil {
			return Stored{}, errs.E(op, errs.Internal, err)
		}
		if len(b) > MaxDocument+64<<10 {
			return Stored{}, errs.Errorf(op, errs.TooLarge, "the rule document is too large")
		}
		value = b
	}
	changes = append(changes, Change{Key: prefix + name, Value: value, Expected: expected})
	rev, err := s.bucket.Commit(ctx, changes)
	if err != nil {
		if errs.Is(err, errs.Conflict) {
			return Stored{}, errs.Errorf(op, errs.Conflict, "rule %q was changed by somebody else", name)
		}
		return Stored{}, err
	}
	st.Revision = rev // of the last change of the batch
	return st, nil
}

// Get returns the newest version of a rule. Errors: NotFound, Unavailable.
func (s *Store) Get(ctx context.Context, name string) (Stored, error) {
	const op = "rules.Get"
	if err := CheckName(name); err != nil {
		return Stored{}, errs.E(op, errs.NotFound, fmt.Errorf("no rule %q", name))
	}
	e, err := s.bucket.Get(ctx, prefix+name)
	if errs.Is(err, errs.NotFound) {
		return Stored{}, errs.Errorf(op, errs.NotFound, "no rule %q", name)
	}
	if err != nil {
		return Stored{}, err
	}
	return decodeStored(e)
}

// List returns the newest version of every rule, sorted by name.
func (s *Store) List(ctx context.Context) ([]Stored, error) {
	var out []Stored
	err := s.bucket.Scan(ctx, prefix, func(e Entry) error {
		if _, _, isClosed := splitKey(e.Key); isClosed || len(e.Value) == 0 {
			return nil
		}
		st, err := decodeStored(e)
		if err != nil {
			return err
		}
		out = append(out, st)
		return nil
	})
	slices.SortFunc(out, func(a, b Stored) int { return strings.Compare(a.Rule.Name, b.Rule.Name) })
	return out, err
}

// drained clears the record of a closed version whose lanes have delivered all.
func (s *Store) drained(ctx context.Context, name string, revision uint64) error {
	_, err := s.bucket.Commit(ctx, []Change{{Key: closedKey(name, revision), Any: true}})
	return err
}

func closedKey(name string, revision uint64) string {
	return prefix + name + "." + strconv.FormatUint(revision, 10)
}

// splitKey reads a key of the store.
func splitKey(key string) (name string, revision uint64, closed bool) {
	rest, _ := strings.CutPrefix(key, prefix)
	name, rev, closed := strings.Cut(rest, ".")
	if closed {
		revision, _ = strconv.ParseUint(rev, 10, 64)
	}
	return name, revision, closed
}

func decodeStored(e Entry) (Stored, error) {
	var st Stored
	if err := json.Unmarshal(e.Value, &st); err != nil {
		return Stored{}, errs.Errorf("rules.decode", errs.Internal, "record %q: %w", e.Key, err)
	}
	if st.Rule == nil {
		return Stored{}, errs.Errorf("rules.decode", errs.Internal, "record %q holds no rule", e.Key)
	}
	st.Revision = e.Revision
	if _, rev, closed := splitKey(e.Key); closed {
		st.Revision = rev
	}
	return st, nil
}
