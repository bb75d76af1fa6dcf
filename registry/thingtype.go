package registry

import (
	"context"
	"maps"
	"slices"
	"time"
)

// ThingType describes things of one make.
type ThingType struct {
	Name         string            `json:"thingTypeName"`
	ID           string            `json:"thingTypeId"`
	Description  string            `json:"thingTypeDescription,omitempty"`
	Searchable   []string          `json:"searchableAttributes,omitempty"`
	Deprecated   bool              `json:"deprecated,omitempty"`
	DeprecatedAt time.Time         `json:"deprecationDate,omitzero"`
	CreatedAt    time.Time         `json:"creationDate"`
	Tags         map[string]string `json:"tags,omitempty"`
}

// ThingTypeProperties are what a user says of a thing type.
type ThingTypeProperties struct {
	Description string
	Searchable  []string
}

func (r *Registry) checkType(p ThingTypeProperties) error {
	if err := checkDescription("the description of a thing type", p.Description, 2028); err != nil {
		return err
	}
	if len(p.Searchable) > r.limits.Searchable {
		return invalid("a thing type has at most %d searchable attributes, these are %d", r.limits.Searchable, len(p.Searchable))
	}
	for _, a := range p.Searchable {
		if err := attributeName.check(a); err != nil {
			return err
		}
	}
	return nil
}

// CreateThingType creates a thing type. The same again is no error.
func (r *Registry) CreateThingType(ctx context.Context, name string, p ThingTypeProperties, tags map[string]string) (*ThingType, error) {
	return change(ctx, r, "CreateThingType", func(tx *Tx) (*ThingType, error) {
		if err := thingTypeName.check(name); err != nil {
			return nil, err
		}
		if err := r.checkType(p); err != nil {
			return nil, err
		}
		if err := checkTags(tags, r.limits.Tags); err != nil {
			return nil, err
		}
		if old := get(tx, r.types, name); old != nil {
			if old.Description == p.Description && slices.Equal(old.Searchable, p.Searchable) && maps.Equal(old.Tags, tags) {
				return old, nil
			}
			return nil, &Error{Code: Exists, Message: "thing type " + name + " exists with other properties", ID: old.ID, ARN: r.TypeARN(name)}
		}
		t := &ThingType{Name: name, ID: newID(), Description: p.Description, Searchable: p.Searchable, CreatedAt: tx.now, Tags: tags}
		put(tx, r.types, name, t)
		return t, nil
	})
}

// ThingType returns a thing type. Error: errs.NotFound.
func (r *Registry) ThingType(name string) (*ThingType, error) {
	return read(r, "ThingType", func(tx *Tx) (*ThingType, error) { return tx.thingType(name) })
}

func (tx *Tx) thingType(name string) (*ThingType, error) {
	if err := thingTypeName.check(name); err != nil {
		return nil, err
	}
	if t := get(tx, tx.r.types, name); t != nil {
		return t, nil
	}
	return nil, fail(NotFound, "there is no thing type %s", name)
}

// ThingTypes lists thing types by name; name: this one alone, "" all.
func (r *Registry) ThingTypes(name string, p Page) ([]*ThingType, string, error) {
	return readPage(r, "ThingTypes", func(*Tx) ([]*ThingType, string, error) {
		if name != "" {
			if err := thingTypeName.check(name); err != nil {
				return nil, "", err
			}
		}
		return pageOf(&r.types.order, p, "types\x00"+name, false, func(_ string, t *ThingType) (*ThingType, bool) {
			return t, name == "" || t.Name == name
		})
	})
}

// DeprecateThingType keeps things from being given the type, or allows it again.
func (r *Registry) DeprecateThingType(ctx context.Context, name string, undo bool) error {
	return r.Change(ctx, "registry.DeprecateThingType", func(tx *Tx) error {
		old, err := tx.thingType(name)
		if err != nil {
			return err
		}
		if old.Deprecated != undo {
			return nil
		}
		t := *old
		t.Deprecated, t.DeprecatedAt = !undo, time.Time{}
		if !undo {
			t.DeprecatedAt = tx.now
		}
		tx.shake(KindType, name)
		put(tx, r.types, name, &t)
		return nil
	})
}

// UpdateThingType replaces the properties of a thing type.
func (r *Registry) UpdateThingType(ctx context.Context, name string, p ThingTypeProperties) error {
	return r.Change(ctx, "registry.UpdateThingType", func(tx *Tx) error {
		old, err := tx.thingType(name)
		if err != nil {
			return err
		}
		if err := r.checkType(p); err != nil {
			return err
		}
		t := *old
		t.Description, t.Searchable = p.Description, p.Searchable
		put(tx, r.types, name, &t)
		return nil
	})
}

// DeleteThingType deletes a thing type that has been deprecated for
// Limits.TypeDeleteWait and has no things.
func (r *Registry) DeleteThingType(ctx context.Context, name string) error {
	return r.Change(ctx, "registry.DeleteThingType", func(tx *Tx) error {
		t, err := tx.thingType(name)
		if err != nil {
			return err
		}
		if !t.Deprecated {
			return invalid("thing type %s cannot be deleted: it is not deprecated", name)
		}
		if left := r.limits.TypeDeleteWait - tx.now.Sub(t.DeprecatedAt); left > 0 {
			// Terraform looks for AWS's sentence, and tries again.
			return invalid("Cannot delete thing type : %s. Please wait for 5 minutes after deprecation and then retry: %s are left", name, left.Round(time.Second))
		}
		if n := r.thingsByType[name].len(); n > 0 {
			return invalid("thing type %s cannot be deleted: %d things have it", name, n)
		}
		tx.shake(KindType, name)
		drop(tx, r.types, name)
		return nil
	})
}
