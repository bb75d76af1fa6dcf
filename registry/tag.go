package registry

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// tagged is a record with tags: how to read and write them in a change.
type tagged struct {
	tags func(tx *Tx, name string) (map[string]string, error)
	set  func(tx *Tx, name string, tags map[string]string)
}

// tagsOf makes the access to the tags of a table's records.
func tagsOf[T any](find func(tx *Tx, name string) (*T, error), t *table[T], tags func(*T) *map[string]string, name func(*T) string) tagged {
	return tagged{
		func(tx *Tx, n string) (map[string]string, error) {
			v, err := find(tx, n)
			if err != nil {
				return nil, err
			}
			return *tags(v), nil
		},
		func(tx *Tx, n string, to map[string]string) {
			v, err := find(tx, n)
			if err != nil {
				return // tags has said so
			}
			now := *v
			*tags(&now) = to
			put(tx, t, name(v), &now)
		},
	}
}

// taggable returns the access to the tags of what an ARN names.
func (r *Registry) taggable(arn string) (tagged, string, error) {
	kind, name, err := r.parseARN(arn)
	if err != nil {
		return tagged{}, "", err
	}
	switch kind {
	case arnType:
		return tagsOf((*Tx).thingType, r.types, func(v *ThingType) *map[string]string { return &v.Tags }, func(v *ThingType) string { return v.Name }), name, nil
	case arnGroup:
		return tagsOf((*Tx).Group, r.groups, func(v *Group) *map[string]string { return &v.Tags }, func(v *Group) string { return v.Name }), name, nil
	case arnPolicy:
		return tagsOf((*Tx).Policy, r.policies, func(v *Policy) *map[string]string { return &v.Tags }, func(v *Policy) string { return v.Name }), name, nil
	case arnCA:
		return tagsOf((*Tx).CACertificate, r.cas, func(v *CACertificate) *map[string]string { return &v.Tags }, func(v *CACertificate) string { return v.ID }), name, nil
	case arnTemplate:
		return tagsOf((*Tx).Template, r.templates, func(v *Template) *map[string]string { return &v.Tags }, func(v *Template) string { return v.Name }), name, nil
	case arnAuthorizer:
		return tagsOf((*Tx).authorizer, r.authorizers, func(v *Authorizer) *map[string]string { return &v.Tags }, func(v *Authorizer) string { return v.Name }), name, nil
	case arnRoleAlias:
		return tagsOf((*Tx).roleAlias, r.roleAliases, func(v *RoleAlias) *map[string]string { return &v.Tags }, func(v *RoleAlias) string { return v.Name }), name, nil
	case arnRule:
		return tagsOf((*Tx).ruleTags, r.ruleTags, func(v *RuleTags) *map[string]string { return &v.Tags }, func(v *RuleTags) string { return v.Rule }), name, nil
	case arnDomain:
		short, id, _ := strings.Cut(name, "/")
		find := func(tx *Tx, n string) (*DomainConfiguration, error) {
			d, err := tx.domain(n)
			if err == nil && id != "" && d.ID != id {
				return nil, fail(NotFound, "there is no domain configuration %s", clip(name))
			}
			return d, err
		}
		return tagsOf(find, r.domains, func(v *DomainConfiguration) *map[string]string { return &v.Tags }, func(v *DomainConfiguration) string { return v.Name }), short, nil
	}
	return tagged{}, "", invalid("resources of type %s have no tags here", clip(kind))
}

// RuleTags are the tags of a topic rule. The rule itself is not kept here: who
// asks for its tags has seen that it is there.
type RuleTags struct {
	Rule string            `json:"ruleName"`
	Tags map[string]string `json:"tags"`
}

func (tx *Tx) ruleTags(rule string) (*RuleTags, error) {
	if err := topicRuleName.check(rule); err != nil {
		return nil, err
	}
	if t := get(tx, tx.r.ruleTags, rule); t != nil {
		return t, nil
	}
	return &RuleTags{Rule: rule}, nil
}

// CheckTags says why a resource cannot have these tags.
// Errors: LimitExceeded, InvalidRequest.
func (r *Registry) CheckTags(tags map[string]string) error {
	return wrap("registry.CheckTags", checkTags(tags, r.limits.Tags))
}

// SetRuleTags makes these the tags of a topic rule that has been made, or, none,
// of one that is gone.
func (r *Registry) SetRuleTags(ctx context.Context, rule string, tags map[string]string) error {
	return r.Change(ctx, "registry.SetRuleTags", func(tx *Tx) error {
		t, err := tx.ruleTags(rule)
		if err != nil {
			return err
		}
		switch {
		case len(tags) > 0:
			if err := checkTags(tags, r.limits.Tags); err != nil {
				return err
			}
			put(tx, r.ruleTags, rule, &RuleTags{rule, tags})
		case len(t.Tags) > 0:
			drop(tx, r.ruleTags, rule)
		}
		return nil
	})
}

// TagResource adds tags to what an ARN names.
// Errors: NotFound, LimitExceeded, InvalidRequest.
func (r *Registry) TagResource(ctx context.Context, arn string, tags map[string]string) error {
	return r.retag(ctx, "TagResource", arn, func(now map[string]string) { maps.Copy(now, tags) })
}

// UntagResource takes tags away. One that is not there is no error.
func (r *Registry) UntagResource(ctx context.Context, arn string, keys []string) error {
	return r.retag(ctx, "UntagResource", arn, func(now map[string]string) {
		maps.DeleteFunc(now, func(k, _ string) bool { return slices.Contains(keys, k) })
	})
}

func (r *Registry) retag(ctx context.Context, op, arn string, edit func(map[string]string)) error {
	return r.Change(ctx, "registry."+op, func(tx *Tx) error {
		t, name, err := r.taggable(arn)
		if err != nil {
			return err
		}
		old, err := t.tags(tx, name)
		if err != nil {
			return err
		}
		now := maps.Clone(old)
		if now == nil {
			now = map[string]string{}
		}
		edit(now)
		if maps.Equal(old, now) {
			return nil
		}
		if err := checkTags(now, r.limits.Tags); err != nil {
			return err
		}
		t.set(tx, name, now)
		return nil
	})
}

// Tags returns the tags of what an ARN names; do not modify them.
func (r *Registry) Tags(arn string) (map[string]string, error) {
	return read(r, "ListTagsForResource", func(tx *Tx) (map[string]string, error) {
		t, name, err := r.taggable(arn)
		if err != nil {
			return nil, err
		}
		return t.tags(tx, name)
	})
}
