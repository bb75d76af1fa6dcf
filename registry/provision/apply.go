package provision

import (
	"maps"
	"slices"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/registry"
)

// Made is what a plan has made, or found as it should be.
type Made struct {
	Thing         string
	CertificateID string
	Logical       map[string]Named // by the template's names
	Steps         []Step
}

// Named is a resource.
type Named struct {
	Kind registry.Kind
	Name string
}

// conflict refuses a resource that is there and different.
func conflict(format string, args ...any) error {
	return errs.Errorf("provision.Apply", errs.Conflict, format, args...)
}

// apply carries p out in a change of the registry, for a certificate that is in
// it. pending tells that the certificate waits for this.
func (p *Plan) apply(tx *registry.Tx, id string) (*Made, error) {
	m := &Made{CertificateID: id, Logical: map[string]Named{p.Certificate.Logical: {registry.KindCertificate, id}}}
	c, err := tx.Certificate(id)
	if err != nil {
		return nil, err
	}
	if t := p.Thing; t != nil {
		if err := t.apply(tx, m); err != nil {
			return nil, err
		}
		if err := tx.AttachPrincipal(t.Name, id, ""); err != nil {
			return nil, err
		}
		m.step("attached", "certificate to thing "+t.Name)
	}
	for _, pol := range p.Policies {
		old, err := tx.Policy(pol.Name)
		switch {
		case err == nil && pol.Document != "" && old.Document() != pol.Document:
			return nil, conflict("policy %s is there with another document", pol.Name)
		case err == nil:
			m.step("found", "policy "+pol.Name)
		case registry.CodeOf(err) == registry.NotFound && pol.Document != "":
			if _, err := tx.CreatePolicy(pol.Name, pol.Document, nil); err != nil {
				return nil, err
			}
			m.step("created", "policy "+pol.Name)
		default:
			return nil, err
		}
		if err := tx.AttachPolicy(pol.Name, id); err != nil {
			return nil, err
		}
		m.Logical[pol.Logical] = Named{registry.KindPolicy, pol.Name}
		m.step("attached", "policy "+pol.Name+" to the certificate")
	}
	want, override := p.Certificate.Status, p.Certificate.Override
	switch {
	case c.Status == registry.PendingActivation || c.Status != want && override == Replace:
		if _, err := tx.UpdateCertificate(id, want); err != nil {
			return nil, err
		}
		m.step("set", "certificate to "+string(want))
	case c.Status == want, override == DoNothing:
		m.step("found", "certificate "+string(c.Status))
	default:
		return nil, conflict("the certificate is %s, and the template's OverrideSettings do not say to replace its status", c.Status)
	}
	return m, nil
}

func (m *Made) step(what, detail string) { m.Steps = append(m.Steps, Step{What: what, Detail: detail}) }

// apply makes the thing, or makes one that is there as it should be.
func (t *PlannedThing) apply(tx *registry.Tx, m *Made) error {
	m.Thing = t.Name
	m.Logical[t.Logical] = Named{registry.KindThing, t.Name}
	old, err := tx.Thing(t.Name)
	switch {
	case registry.CodeOf(err) == registry.NotFound:
		if _, err := tx.CreateThing(registry.CreateThing{Name: t.Name, Type: t.Type, Attributes: t.Attributes}); err != nil {
			return err
		}
		m.step("created", "thing "+t.Name)
		return t.join(tx, m, t.Groups)
	case err != nil:
		return err
	}
	m.step("found", "thing "+t.Name)
	u := registry.UpdateThing{Name: t.Name}
	change := false
	if t.Type != "" && t.Type != old.Type {
		switch t.Override["ThingTypeName"] {
		case Replace:
			u.Type, change = t.Type, true
		case DoNothing:
		default:
			return differs(t.Name, "ThingTypeName")
		}
	}
	wanted := maps.Clone(t.Attributes)
	maps.DeleteFunc(wanted, func(_, v string) bool { return v == "" })
	if t.Attributes != nil && !maps.Equal(wanted, old.Attributes) {
		switch t.Override["AttributePayload"] {
		case Replace:
			u.Attributes, change = t.Attributes, true
		case Merge:
			u.Attributes, u.Merge, change = t.Attributes, true, true
		case DoNothing:
		default:
			return differs(t.Name, "AttributePayload")
		}
	}
	if change {
		if _, err := tx.UpdateThing(u); err != nil {
			return err
		}
		m.step("updated", "thing "+t.Name)
	}
	if t.Groups == nil {
		return nil
	}
	in := tx.GroupsOf(t.Name)
	add := slices.DeleteFunc(slices.Clone(t.Groups), func(g string) bool { return slices.Contains(in, g) })
	remove := slices.DeleteFunc(in, func(g string) bool { return slices.Contains(t.Groups, g) })
	switch o := t.Override["ThingGroups"]; {
	case len(add) == 0 && (len(remove) == 0 || o == Merge), o == DoNothing:
		return nil
	case o == Merge:
	case o == Replace:
		for _, g := range remove {
			if err := tx.RemoveFromGroup(t.Name, g); err != nil {
				return err
			}
			m.step("removed", "thing "+t.Name+" from group "+g)
		}
	default:
		return differs(t.Name, "ThingGroups")
	}
	return t.join(tx, m, add)
}

func differs(thing, property string) error {
	return conflict("thing %s is there with another %s, and the template's OverrideSettings do not say what to do", thing, property)
}

func (t *PlannedThing) join(tx *registry.Tx, m *Made, groups []string) error {
	for _, g := range groups {
		if err := tx.AddToGroup(t.Name, g); err != nil {
			return err
		}
		m.step("added", "thing "+t.Name+" to group "+g)
	}
	return nil
}
