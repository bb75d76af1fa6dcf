package shadow

import (
	"context"
	"encoding/json"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// The past of a document is the bucket's history of its key: each entry holds the
// versions that were made in one commit. What is beyond the bucket's count goes
// by itself; nothing is ever deleted by hand.

// past returns the kept versions, the oldest first, deletions among them.
func (s *Service) past(ctx context.Context, thing, name string) ([]*record, error) {
	const op = "shadow.past"
	entries, err := s.o.Shadows.History(ctx, keyOf(thing, name))
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	var all []*record
	for _, e := range entries {
		if len(e.Value) == 0 {
			continue
		}
		r, err := decode(e.Value)
		if err != nil {
			return nil, errs.E(op, errs.Internal, err)
		}
		all = append(all, r.past...)
		r.past = nil
		all = append(all, r)
	}
	return all, nil
}

// History returns the kept versions of a shadow, the newest first, at most max (0:
// all). A deletion is a version of its own with the number of what it deleted.
// Errors: an *Error (400, 404), errs.Unavailable.
func (s *Service) History(ctx context.Context, thing, name string, max int) ([]*Document, error) {
	const op = "shadow.History"
	if err := s.check(op, thing, name); err != nil {
		return nil, err
	}
	all, err := s.past(ctx, thing, name)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, wrap(op, errNoShadow(thing, name))
	}
	var out []*Document
	for i := len(all) - 1; i >= 0 && (max == 0 || len(out) < max); i-- {
		// The newest version is no past.
		if s.o.Keep > 0 && i < len(all)-1 && s.o.Now().Sub(time.UnixMilli(all[i+1].at)) > s.o.Keep {
			break
		}
		out = append(out, all[i].document(thing, name))
	}
	return out, nil
}

// At says which version of a shadow is meant: a number, or the one that was valid
// at a time.
type At struct {
	Version uint64
	Time    time.Time
}

// Past returns one version.
// Errors: as History's; 404 also where that version is not kept or the shadow was
// deleted then.
func (s *Service) Past(ctx context.Context, thing, name string, at At) (*Document, error) {
	const op = "shadow.Past"
	all, err := s.History(ctx, thing, name, 0)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		switch {
		case !at.Time.IsZero():
			if d.Time.After(at.Time) {
				continue
			}
			if d.Deleted {
				return nil, wrap(op, &Error{404, "the shadow was deleted at that time"})
			}
			return d, nil
		case d.Version == at.Version && !d.Deleted:
			return d, nil
		}
	}
	return nil, wrap(op, &Error{404, "that version is not kept"})
}

// Restore makes a version of the past the next one: desired, and with all also
// reported and tags, become what they were.
// Errors: as Past's and Update's.
func (s *Service) Restore(ctx context.Context, thing, name string, at At, all bool, who Who) (*Document, error) {
	d, err := s.Past(ctx, thing, name, at)
	if err != nil {
		return nil, err
	}
	c := Change{Desired: orNull(d.Desired.State), Replace: true, Note: "restored version " + uitoa(d.Version)}
	if all {
		c.Reported, c.Tags = orNull(d.Reported.State), orNull(d.Tags.State)
	}
	return s.Change(ctx, thing, name, c, who)
}

func orNull(b json.RawMessage) json.RawMessage {
	if b == nil {
		return json.RawMessage("null")
	}
	return b
}

// Difference is one value that differs between two versions.
type Difference struct {
	Path string          `json:"path"`          // "desired.color.r"
	Old  json.RawMessage `json:"old,omitempty"` // nil: was not there
	New  json.RawMessage `json:"new,omitempty"` // nil: is not there any more
}

// Diff returns what b has otherwise than a, in the order of a, then of b. Arrays
// are compared as a whole. Either may be nil.
func Diff(a, b *Document) []Difference {
	var out []Difference
	for _, name := range []string{"desired", "reported", "tags"} {
		x, y := a.section(name), b.section(name)
		out = diff(out, name, &x, &y)
	}
	return out
}

func (d *Document) section(name string) value {
	if d == nil {
		return value{}
	}
	s := map[string]*Section{"desired": &d.Desired, "reported": &d.Reported, "tags": &d.Tags}[name]
	if s.State == nil {
		return value{}
	}
	v, err := parse(string(s.State))
	if err != nil {
		return value{}
	}
	return v
}

func diff(out []Difference, path string, a, b *value) []Difference {
	isObject := func(v *value) bool { return v.kind == object || v.kind == absent }
	if isObject(a) && isObject(b) {
		for i := range a.members {
			m := &a.members[i]
			n := b.get(m.name)
			out = diff(out, path+"."+m.name, &m.val, &n)
		}
		for i := range b.members {
			if m := &b.members[i]; a.find(m.name) < 0 {
				out = diff(out, path+"."+m.name, &value{}, &m.val)
			}
		}
		return out
	}
	if equal(a, b) {
		return out
	}
	d := Difference{Path: path}
	if a.kind != absent {
		d.Old = a.append(nil)
	}
	if b.kind != absent {
		d.New = b.append(nil)
	}
	return append(out, d)
}
