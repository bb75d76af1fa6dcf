package registry

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Group is a thing group.
type Group struct {
	Name        string            `json:"thingGroupName"`
	ID          string            `json:"thingGroupId"`
	Parent      string            `json:"parentGroupName,omitempty"` // fixed
	Description string            `json:"thingGroupDescription,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`
	Version     int64             `json:"version"` // from 1
	CreatedAt   time.Time         `json:"creationDate"`
	Tags        map[string]string `json:"tags,omitempty"`
}

// CreateGroup says what to create.
type CreateGroup struct {
	Name        string
	Parent      string // "": none
	Description string
	Attributes  map[string]string
	Tags        map[string]string
}

// UpdateGroup says what to change of a group.
type UpdateGroup struct {
	Name            string
	Description     *string           // nil: as it is
	Attributes      map[string]string // nil: as they are; an empty value removes one
	Merge           bool
	ExpectedVersion int64 // 0: any
}

// CreateGroup creates a thing group. The same again is no error.
func (r *Registry) CreateGroup(ctx context.Context, in CreateGroup) (*Group, error) {
	return change(ctx, r, "CreateThingGroup", func(tx *Tx) (*Group, error) {
		if err := groupName.check(in.Name); err != nil {
			return nil, err
		}
		if err := checkDescription("the description of a thing group", in.Description, 2028); err != nil {
			return nil, err
		}
		if err := checkTags(in.Tags, r.limits.Tags); err != nil {
			return nil, err
		}
		attributes, err := r.attributes(nil, in.Attributes, false, true)
		if err != nil {
			return nil, err
		}
		if old := get(tx, r.groups, in.Name); old != nil {
			if old.Parent == in.Parent && old.Description == in.Description && maps.Equal(old.Attributes, attributes) && maps.Equal(old.Tags, in.Tags) {
				return old, nil
			}
			return nil, &Error{Code: Exists, Message: "thing group " + in.Name + " exists with other properties", ID: old.ID, ARN: r.GroupARN(in.Name)}
		}
		if in.Parent != "" {
			if _, err := tx.Group(in.Parent); err != nil {
				return nil, err
			}
			if depth := len(tx.ancestors(in.Parent)) + 2; depth > r.limits.GroupDepth {
				return nil, fail(LimitExceeded, "thing groups nest %d deep at most, this one would be the %dth", r.limits.GroupDepth, depth)
			}
			tx.lean(KindGroup, in.Parent, in.Name)
		}
		g := &Group{Name: in.Name, ID: newID(), Parent: in.Parent, Description: in.Description, Attributes: attributes, Version: 1, CreatedAt: tx.now, Tags: in.Tags}
		put(tx, r.groups, g.Name, g)
		return g, nil
	})
}

// Group returns a thing group. Error: errs.NotFound.
func (r *Registry) Group(name string) (*Group, error) {
	return read(r, "Group", func(tx *Tx) (*Group, error) { return tx.Group(name) })
}

// Group is Registry.Group in a change.
func (tx *Tx) Group(name string) (*Group, error) {
	if err := groupName.check(name); err != nil {
		return nil, err
	}
	if g := get(tx, tx.r.groups, name); g != nil {
		return g, nil
	}
	return nil, fail(NotFound, "there is no thing group %s", name)
}

// ancestors returns the parent of a group, its parent, and so on up to the root.
func (tx *Tx) ancestors(name string) []string {
	var up []string
	for g := get(tx, tx.r.groups, name); g != nil && g.Parent != "" && len(up) < 100; g = get(tx, tx.r.groups, g.Parent) {
		up = append(up, g.Parent)
	}
	return up
}

func (tx *Tx) root(name string) string {
	if up := tx.ancestors(name); len(up) > 0 {
		return up[len(up)-1]
	}
	return name
}

// Ancestors returns the groups a group is in, from the root to its parent.
func (r *Registry) Ancestors(name string) ([]*Group, error) {
	return read(r, "Ancestors", func(tx *Tx) ([]*Group, error) {
		if _, err := tx.Group(name); err != nil {
			return nil, err
		}
		var out []*Group
		for _, n := range slices.Backward(tx.ancestors(name)) {
			if g := get(tx, r.groups, n); g != nil {
				out = append(out, g)
			}
		}
		return out, nil
	})
}

// GroupFilter narrows a list of groups.
type GroupFilter struct {
	Parent    string // groups in this one; "": all
	Prefix    string // of their names
	Recursive *bool  // with Parent: also groups in groups in it (nil: yes); without: false gives the roots alone
}

// Groups lists thing groups by name.
func (r *Registry) Groups(f GroupFilter, p Page) ([]*Group, string, error) {
	return readPage(r, "Groups", func(tx *Tx) ([]*Group, string, error) {
		recursive := f.Recursive == nil || *f.Recursive
		if f.Parent != "" {
			if _, err := tx.Group(f.Parent); err != nil {
				return nil, "", err
			}
		}
		if f.Prefix != "" {
			if err := groupName.check(f.Prefix); err != nil {
				return nil, "", err
			}
		}
		mark := strings.Join([]string{"groups", f.Parent, f.Prefix, strconv.FormatBool(recursive)}, "\x00")
		return pageOf(&r.groups.order, p, mark, false, func(name string, g *Group) (*Group, bool) {
			switch {
			case !strings.HasPrefix(name, f.Prefix):
				return nil, false
			case f.Parent == "":
				return g, recursive || g.Parent == ""
			case recursive:
				return g, slices.Contains(tx.ancestors(name), f.Parent)
			}
			return g, g.Parent == f.Parent
		})
	})
}

// UpdateGroup changes a thing group and returns it.
func (r *Registry) UpdateGroup(ctx context.Context, in UpdateGroup) (*Group, error) {
	return change(ctx, r, "UpdateThingGroup", func(tx *Tx) (*Group, error) {
		old, err := tx.Group(in.Name)
		if err != nil {
			return nil, err
		}
		if err := checkVersion("thing group", in.Name, in.ExpectedVersion, old.Version); err != nil {
			return nil, err
		}
		g := *old
		if in.Description != nil {
			if err := checkDescription("the description of a thing group", *in.Description, 2028); err != nil {
				return nil, err
			}
			g.Description = *in.Description
		}
		if in.Attributes != nil {
			if g.Attributes, err = r.attributes(old.Attributes, in.Attributes, in.Merge, true); err != nil {
				return nil, err
			}
		}
		g.Version++
		put(tx, r.groups, g.Name, &g)
		return &g, nil
	})
}

// DeleteGroup deletes a thing group; its things are not in it any more, its
// policies are detached. One that does not exist is no error. Refused while
// there are groups in it.
func (r *Registry) DeleteGroup(ctx context.Context, name string, expectedVersion int64) error {
	return r.Change(ctx, "registry.DeleteThingGroup", func(tx *Tx) error {
		if err := groupName.check(name); err != nil {
			return err
		}
		g := get(tx, r.groups, name)
		if g == nil {
			return nil
		}
		if err := checkVersion("thing group", name, expectedVersion, g.Version); err != nil {
			return err
		}
		if n := r.children[name].len(); n > 0 {
			return invalid("thing group %s cannot be deleted while there are still %d child groups in it", name, n)
		}
		target := groupTarget(name)
		for _, p := range tx.rights(r.attachments, target) {
			tx.unlink(r.attachments, target, p)
		}
		tx.shake(KindGroup, name)
		drop(tx, r.groups, name)
		return nil
	})
}

// AddToGroup puts a thing into a group. Where it is already is no error.
func (r *Registry) AddToGroup(ctx context.Context, thing, group string) error {
	return r.Change(ctx, "registry.AddThingToThingGroup", func(tx *Tx) error { return tx.AddToGroup(thing, group) })
}

// AddToGroup is Registry.AddToGroup in a change.
func (tx *Tx) AddToGroup(thing, group string) error {
	if _, err := tx.Thing(thing); err != nil {
		return err
	}
	g, err := tx.Group(group)
	if err != nil {
		return err
	}
	r := tx.r
	if tx.linked(r.members, thing, group) == g.ID {
		return nil
	}
	in := tx.rights(r.members, thing)
	if len(in) >= r.limits.GroupsPerThing {
		return invalid("thing %s is in %d groups already, at most %d are allowed", thing, len(in), r.limits.GroupsPerThing)
	}
	root := tx.root(group)
	for _, other := range in {
		if tx.root(other) == root {
			return invalid("thing %s is in group %s already: a thing is in one group of a hierarchy", thing, other)
		}
	}
	tx.lean(KindThing, thing, "")
	tx.lean(KindGroup, group, thing)
	tx.link(r.members, thing, group, g.ID)
	return nil
}

// RemoveFromGroup takes a thing out of a group. Where it is not is no error.
func (r *Registry) RemoveFromGroup(ctx context.Context, thing, group string) error {
	return r.Change(ctx, "registry.RemoveThingFromThingGroup", func(tx *Tx) error { return tx.RemoveFromGroup(thing, group) })
}

// RemoveFromGroup is Registry.RemoveFromGroup in a change.
func (tx *Tx) RemoveFromGroup(thing, group string) error {
	if _, err := tx.Thing(thing); err != nil {
		return err
	}
	if _, err := tx.Group(group); err != nil {
		return err
	}
	if tx.linked(tx.r.members, thing, group) != "" {
		tx.unlink(tx.r.members, thing, group)
	}
	return nil
}

// UpdateGroupsOfThing takes a thing out of groups and puts it into others, at
// once.
func (r *Registry) UpdateGroupsOfThing(ctx context.Context, thing string, add, remove []string) error {
	return r.Change(ctx, "registry.UpdateThingGroupsForThing", func(tx *Tx) error {
		for _, g := range remove {
			if slices.Contains(add, g) {
				return invalid("thing group %s is to be added and removed", clip(g))
			}
			if err := tx.RemoveFromGroup(thing, g); err != nil {
				return err
			}
		}
		for _, g := range add {
			if err := tx.AddToGroup(thing, g); err != nil {
				return err
			}
		}
		return nil
	})
}

// ThingsInGroup lists the names of the things in a group; recursive: also of
// those in the groups in it.
func (r *Registry) ThingsInGroup(group string, recursive bool, p Page) ([]string, string, error) {
	return readPage(r, "ThingsInGroup", func(tx *Tx) ([]string, string, error) {
		if _, err := tx.Group(group); err != nil {
			return nil, "", err
		}
		mark := "things in\x00" + group + "\x00" + strconv.FormatBool(recursive)
		if !recursive {
			o := r.members.byRight[group]
			return pageOf(o, p, mark, false, func(name string, _ link) (string, bool) { return name, true })
		}
		max, last, err := p.open(mark)
		if err != nil {
			return nil, "", err
		}
		// The first max+1 of each group hold the first max+1 of all.
		var names []string
		var collect func(group string)
		collect = func(group string) {
			n := 0
			r.members.byRight[group].after(last, func(name string, _ link) bool {
				names = append(names, name)
				n++
				return n <= max
			})
			r.children[group].after("", func(child string, _ struct{}) bool { collect(child); return true })
		}
		collect(group)
		slices.Sort(names)
		names = slices.Compact(names)
		if len(names) > max {
			names = names[:max]
			return names, tokenOf(mark, names[max-1]), nil
		}
		return names, "", nil
	})
}

// GroupsOfThing lists the groups a thing is in, not those around them.
func (r *Registry) GroupsOfThing(thing string, p Page) ([]string, string, error) {
	return readPage(r, "GroupsOfThing", func(tx *Tx) ([]string, string, error) {
		if _, err := tx.Thing(thing); err != nil {
			return nil, "", err
		}
		return pageOf(r.members.byLeft[thing], p, "groups of\x00"+thing, false, func(name string, _ link) (string, bool) { return name, true })
	})
}

// GroupsOf returns the groups a thing is in, sorted, in a change.
func (tx *Tx) GroupsOf(thing string) []string { return tx.rights(tx.r.members, thing) }
