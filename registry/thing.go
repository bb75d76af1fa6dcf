package registry

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"time"
)

// Thing is a device, or what stands for one.
type Thing struct {
	Name       string            `json:"thingName"`
	ID         string            `json:"thingId"` // a UUID; of this thing, not of one made later under its name
	Type       string            `json:"thingTypeName,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Version    int64             `json:"version"` // from 1, growing with every update
	CreatedAt  time.Time         `json:"creationDate"`
}

// CreateThing says what to create.
type CreateThing struct {
	Name       string
	Type       string            // "": none
	Attributes map[string]string // empty values are left out
}

// UpdateThing says what to change of a thing.
type UpdateThing struct {
	Name            string
	Type            string // "": as it is
	RemoveType      bool
	Attributes      map[string]string // nil: as they are; an empty value removes one
	Merge           bool              // keep the attributes not named
	ExpectedVersion int64             // 0: any
}

// CreateThing creates a thing. The same thing again is no error.
func (r *Registry) CreateThing(ctx context.Context, in CreateThing) (*Thing, error) {
	return change(ctx, r, "CreateThing", func(tx *Tx) (*Thing, error) { return tx.CreateThing(in) })
}

// CreateThing is Registry.CreateThing in a change.
func (tx *Tx) CreateThing(in CreateThing) (*Thing, error) {
	if err := thingName.check(in.Name); err != nil {
		return nil, err
	}
	attributes, err := tx.r.attributes(nil, in.Attributes, false, in.Type != "")
	if err != nil {
		return nil, err
	}
	if old := get(tx, tx.r.things, in.Name); old != nil {
		if old.Type == in.Type && maps.Equal(old.Attributes, attributes) {
			return old, nil
		}
		return nil, &Error{Code: Exists, Message: "thing " + in.Name + " exists with another type or other attributes", ID: old.ID, ARN: tx.r.ThingARN(in.Name)}
	}
	if err := tx.useType(in.Name, in.Type); err != nil {
		return nil, err
	}
	t := &Thing{Name: in.Name, ID: newID(), Type: in.Type, Attributes: attributes, Version: 1, CreatedAt: tx.now}
	put(tx, tx.r.things, t.Name, t)
	return t, nil
}

// useType checks that a thing can be given a type, and leans on it.
func (tx *Tx) useType(thing, typ string) error {
	if typ == "" {
		return nil
	}
	if err := thingTypeName.check(typ); err != nil {
		return err
	}
	t := get(tx, tx.r.types, typ)
	if t == nil {
		return fail(NotFound, "there is no thing type %s", typ)
	}
	if t.Deprecated {
		return invalid("thing type %s is deprecated: no thing can be given it", typ)
	}
	tx.lean(KindType, typ, thing)
	return nil
}

// attributes returns what old become; nil for none.
func (r *Registry) attributes(old, in map[string]string, merge, many bool) (map[string]string, error) {
	out := map[string]string{}
	if merge {
		maps.Copy(out, old)
	}
	for k, v := range in {
		if err := attributeName.check(k); err != nil {
			return nil, err
		}
		if err := attributeValue.check(v); err != nil {
			return nil, err
		}
		if v == "" {
			delete(out, k)
		} else {
			out[k] = v
		}
	}
	max := r.limits.AttributesUntyped
	if many {
		max = r.limits.Attributes
	}
	if len(out) > max {
		return nil, invalid("at most %d attributes are allowed here (%d with a thing type), these are %d", max, r.limits.Attributes, len(out))
	}
	size := 0
	for k, v := range out {
		size += len(k) + len(v)
	}
	if size > r.limits.AttributeBytes {
		return nil, invalid("names and values of attributes have at most %d bytes, these have %d", r.limits.AttributeBytes, size)
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// Thing returns a thing. Error: errs.NotFound.
func (r *Registry) Thing(name string) (*Thing, error) {
	return read(r, "Thing", func(tx *Tx) (*Thing, error) { return tx.Thing(name) })
}

// Thing is Registry.Thing in a change.
func (tx *Tx) Thing(name string) (*Thing, error) {
	if err := thingName.check(name); err != nil {
		return nil, err
	}
	if t := get(tx, tx.r.things, name); t != nil {
		return t, nil
	}
	return nil, fail(NotFound, "there is no thing %s", name)
}

// read runs a function of a Tx that changes nothing.
func read[T any](r *Registry, op string, f func(*Tx) (T, error)) (T, error) {
	tx := &Tx{r: r}
	r.mu.RLock()
	v, err := f(tx)
	r.mu.RUnlock()
	if err != nil {
		var none T
		return none, wrap("registry."+op, err)
	}
	return v, nil
}

// list is what a page of a list holds.
type list[T any] struct {
	items []T
	next  string
}

func readPage[T any](r *Registry, op string, f func(*Tx) ([]T, string, error)) ([]T, string, error) {
	l, err := read(r, op, func(tx *Tx) (list[T], error) {
		items, next, err := f(tx)
		return list[T]{items, next}, err
	})
	return l.items, l.next, err
}

// ThingFilter narrows a list of things.
type ThingFilter struct {
	Type           string
	AttributeName  string // with AttributeValue
	AttributeValue string
	Prefix         bool // AttributeValue is the beginning of the value
}

// Things lists things by name. A page of a filtered list may have fewer results
// than asked for, or none, and be followed by others.
func (r *Registry) Things(f ThingFilter, p Page) ([]*Thing, string, error) {
	return readPage(r, "Things", func(tx *Tx) ([]*Thing, string, error) {
		o := &r.things.order
		if f.Type != "" {
			if err := thingTypeName.check(f.Type); err != nil {
				return nil, "", err
			}
			o = r.thingsByType[f.Type]
		}
		if f.AttributeValue != "" && f.AttributeName == "" {
			return nil, "", invalid("an attribute value without the attribute's name")
		}
		if f.AttributeName != "" {
			if err := attributeName.check(f.AttributeName); err != nil {
				return nil, "", err
			}
			if err := attributeValue.check(f.AttributeValue); err != nil {
				return nil, "", err
			}
		}
		mark := strings.Join([]string{"things", f.Type, f.AttributeName, f.AttributeValue, strconv.FormatBool(f.Prefix)}, "\x00")
		return pageOf(o, p, mark, false, func(_ string, t *Thing) (*Thing, bool) {
			if f.AttributeName == "" {
				return t, true
			}
			v, ok := t.Attributes[f.AttributeName]
			return t, ok && (f.AttributeValue == "" || v == f.AttributeValue || f.Prefix && strings.HasPrefix(v, f.AttributeValue))
		})
	})
}

// UpdateThing changes a thing and returns it.
func (r *Registry) UpdateThing(ctx context.Context, in UpdateThing) (*Thing, error) {
	return change(ctx, r, "UpdateThing", func(tx *Tx) (*Thing, error) { return tx.UpdateThing(in) })
}

// UpdateThing is Registry.UpdateThing in a change.
func (tx *Tx) UpdateThing(in UpdateThing) (*Thing, error) {
	old, err := tx.Thing(in.Name)
	if err != nil {
		return nil, err
	}
	if err := checkVersion("thing", in.Name, in.ExpectedVersion, old.Version); err != nil {
		return nil, err
	}
	t := *old
	switch {
	case in.RemoveType && in.Type != "":
		return nil, invalid("a thing type to set and one to remove: say one of them")
	case in.RemoveType:
		t.Type = ""
	case in.Type != "" && in.Type != old.Type:
		if err := tx.useType(in.Name, in.Type); err != nil {
			return nil, err
		}
		t.Type = in.Type
	}
	attributes, merge := in.Attributes, in.Merge
	if attributes == nil {
		merge = true
	}
	if t.Attributes, err = tx.r.attributes(old.Attributes, attributes, merge, t.Type != ""); err != nil {
		return nil, err
	}
	t.Version++
	put(tx, tx.r.things, t.Name, &t)
	return &t, nil
}

func checkVersion(what, name string, expected, have int64) error {
	if expected < 0 {
		return invalid("the expected version is %d", expected)
	}
	if expected != 0 && expected != have {
		return fail(VersionConflict, "version %d of %s %s was expected, it has version %d", expected, what, name, have)
	}
	return nil
}

// DeleteThing deletes a thing, and it from its groups. One that does not exist
// is no error. Refused while certificates are attached.
func (r *Registry) DeleteThing(ctx context.Context, name string, expectedVersion int64) error {
	return r.Change(ctx, "registry.DeleteThing", func(tx *Tx) error { return tx.DeleteThing(name, expectedVersion) })
}

// DeleteThing is Registry.DeleteThing in a change.
func (tx *Tx) DeleteThing(name string, expectedVersion int64) error {
	if err := thingName.check(name); err != nil {
		return err
	}
	t := get(tx, tx.r.things, name)
	if t == nil {
		return nil
	}
	if err := checkVersion("thing", name, expectedVersion, t.Version); err != nil {
		return err
	}
	if n := len(tx.rights(tx.r.principals, name)); n > 0 {
		return invalid("thing %s cannot be deleted: it is still attached to %d principals", name, n)
	}
	for _, g := range tx.rights(tx.r.members, name) {
		tx.unlink(tx.r.members, name, g)
	}
	tx.shake(KindThing, name)
	drop(tx, tx.r.things, name)
	return nil
}
