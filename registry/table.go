package registry

import (
	"encoding/json"
	"strings"

	"github.com/weir-iot/weir/internal/kv"
)

// table is the projection of one kind of record, by name. Records are
// immutable: a change puts another in their place.
type table[T any] struct {
	prefix string // of its keys, without the dot
	kind   Kind
	rows   map[string]row[T]
	order  ordered[*T]
	// orderKey places a record in order; nil: its name.
	orderKey func(name string, v *T) string
	// index keeps further indexes; old or now is nil where there is none. May be nil.
	index func(name string, old, now *T)
}

type row[T any] struct {
	v   *T
	rev uint64
}

func newTable[T any](r *Registry, prefix string, kind Kind) *table[T] {
	t := &table[T]{prefix: prefix, kind: kind, rows: map[string]row[T]{}}
	r.tables[prefix] = t
	return t
}

func (t *table[T]) place(name string, v *T) string {
	if t.orderKey == nil {
		return name
	}
	return t.orderKey(name, v)
}

// set puts v, or removes the record where v is nil.
func (t *table[T]) set(name string, v *T, rev uint64) {
	old := t.rows[name].v
	if old != nil && (v == nil || t.place(name, old) != t.place(name, v)) {
		t.order.remove(t.place(name, old))
	}
	if v == nil {
		delete(t.rows, name)
	} else {
		t.rows[name] = row[T]{v, rev}
		t.order.set(t.place(name, v), v)
	}
	if t.index != nil && (old != nil || v != nil) {
		t.index(name, old, v)
	}
}

func (t *table[T]) change(name string, e kv.Entry) Change {
	if t.kind == KindSetting {
		name = t.prefix
	}
	return Change{Kind: t.kind, Name: name, Deleted: len(e.Value) == 0, Revision: e.Revision}
}

func (t *table[T]) apply(_ *Registry, name string, e kv.Entry) (Change, error) {
	var v *T
	if len(e.Value) > 0 {
		v = new(T)
		if err := json.Unmarshal(e.Value, v); err != nil {
			return Change{}, err
		}
	}
	t.set(name, v, e.Revision)
	return t.change(name, e), nil
}

// links is the projection of pairs of names, readable from both sides. Its keys
// are prefix.left.right; left has no dots.
type links struct {
	prefix          string
	kind            Kind
	byLeft, byRight map[string]*ordered[link]
	// holds says whether a pair stands for something; nil: each does. One that
	// does not is left out and its key cleared.
	holds func(left, right, value string) bool
}

// link is what a pair carries.
type link struct {
	value string // not empty
	rev   uint64
}

func newLinks(r *Registry, prefix string, kind Kind) *links {
	l := &links{prefix: prefix, kind: kind, byLeft: map[string]*ordered[link]{}, byRight: map[string]*ordered[link]{}}
	r.tables[prefix] = l
	return l
}

func (l *links) key(left, right string) string { return l.prefix + "." + left + "." + right }

func (l *links) get(left, right string) (link, bool) {
	var found link
	ok := false
	if o := l.byLeft[left]; o.has(right) {
		i := o.chunk(right)
		for _, p := range o.chunks[i] {
			if p.key == right {
				found, ok = p.v, true
			}
		}
	}
	return found, ok
}

func (l *links) set(left, right string, v link) {
	put := func(m map[string]*ordered[link], a, b string) {
		o := m[a]
		if o == nil {
			o = &ordered[link]{}
			m[a] = o
		}
		o.set(b, v)
	}
	put(l.byLeft, left, right)
	put(l.byRight, right, left)
}

func (l *links) remove(left, right string) {
	cut := func(m map[string]*ordered[link], a, b string) {
		if o := m[a]; o != nil {
			if o.remove(b); o.n == 0 {
				delete(m, a)
			}
		}
	}
	cut(l.byLeft, left, right)
	cut(l.byRight, right, left)
}

func (l *links) change(name string, e kv.Entry) Change {
	left, right, _ := strings.Cut(name, ".")
	return Change{Kind: l.kind, Name: left, Other: right, Deleted: len(e.Value) == 0, Revision: e.Revision}
}

func (l *links) apply(r *Registry, name string, e kv.Entry) (Change, error) {
	left, right, _ := strings.Cut(name, ".")
	delete(r.stale, e.Key)
	switch v := string(e.Value); {
	case v == "":
		l.remove(left, right)
	case l.holds != nil && !l.holds(left, right, v):
		l.remove(left, right)
		r.stale[e.Key] = e.Revision
	default:
		l.set(left, right, link{intern(v), e.Revision})
	}
	return l.change(name, e), nil
}

// intern spares a copy of the values that come often.
func intern(v string) string {
	switch v {
	case attached:
		return attached
	case string(Exclusive):
		return string(Exclusive)
	case string(NonExclusive):
		return string(NonExclusive)
	}
	return v
}

const attached = "attached"

// guardTable is the pool of guards.
type guardTable struct{}

func (guardTable) change(string, kv.Entry) Change { return Change{} }

func (guardTable) apply(r *Registry, name string, e kv.Entry) (Change, error) {
	n, err := guardNumber(name)
	if err == nil {
		r.guards[n] = e.Revision
	}
	return Change{}, err
}
