package server

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"strings"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/registry"
)

// people is the registry as the control API wants it.
type people struct {
	r     *registry.Registry
	caPEM string // of Weir's own authority
}

// operation does one operation of the registry for people.
type operation func(p people, ctx context.Context, request json.RawMessage) (any, error)

// as makes an operation of a function with a typed request. Unknown members are
// refused.
func as[In any](f func(p people, ctx context.Context, in In) (any, error)) operation {
	return func(p people, ctx context.Context, request json.RawMessage) (any, error) {
		var in In
		d := json.NewDecoder(bytes.NewReader(request))
		d.DisallowUnknownFields()
		if err := d.Decode(&in); err != nil {
			return nil, errs.Errorf("registry", errs.Invalid, "the request is not as expected: %v", err)
		}
		return f(p, ctx, in)
	}
}

var operations = map[string]operation{
	"thing.create": as(people.createThing),
	"thing.list":   as(people.listThings),
	"thing.show":   as(people.showThing),
	"thing.update": as(people.updateThing),
	"thing.delete": as(func(p people, ctx context.Context, in control.Named) (any, error) {
		if _, err := p.r.Thing(in.Name); err != nil { // who types a name wrong is told
			return nil, err
		}
		return nil, p.r.DeleteThing(ctx, in.Name, 0)
	}),
	"thing.attach": as(func(p people, ctx context.Context, in control.Link) (any, error) {
		typ := registry.NonExclusive
		if in.Exclusive {
			typ = registry.Exclusive
		}
		return nil, p.r.AttachPrincipal(ctx, in.Thing, in.Certificate, typ)
	}),
	"thing.detach": as(func(p people, ctx context.Context, in control.Link) (any, error) {
		return nil, p.r.DetachPrincipal(ctx, in.Thing, in.Certificate)
	}),

	"type.create": as(func(p people, ctx context.Context, in control.ThingType) (any, error) {
		t, err := p.r.CreateThingType(ctx, in.Name, registry.ThingTypeProperties{Description: in.Description, Searchable: in.Searchable}, nil)
		return typeOf(t), err
	}),
	"type.list": as(func(p people, _ context.Context, in control.ListRequest) (any, error) {
		return all(in, func(page registry.Page) ([]*registry.ThingType, string, error) { return p.r.ThingTypes("", page) }, typeOf)
	}),
	"type.show": as(func(p people, _ context.Context, in control.Named) (any, error) {
		t, err := p.r.ThingType(in.Name)
		return typeOf(t), err
	}),
	"type.deprecate": as(func(p people, ctx context.Context, in control.Named) (any, error) {
		return nil, p.r.DeprecateThingType(ctx, in.Name, in.Undo)
	}),
	"type.delete": as(func(p people, ctx context.Context, in control.Named) (any, error) {
		return nil, p.r.DeleteThingType(ctx, in.Name)
	}),

	"group.create": as(func(p people, ctx context.Context, in control.Group) (any, error) {
		g, err := p.r.CreateGroup(ctx, registry.CreateGroup{Name: in.Name, Parent: in.Parent, Description: in.Description, Attributes: in.Attributes})
		return p.group(g), err
	}),
	"group.list": as(func(p people, _ context.Context, in control.ListRequest) (any, error) {
		return all(in, func(page registry.Page) ([]*registry.Group, string, error) {
			return p.r.Groups(registry.GroupFilter{}, page)
		}, p.group)
	}),
	"group.show": as(people.showGroup),
	"group.delete": as(func(p people, ctx context.Context, in control.Named) (any, error) {
		if _, err := p.r.Group(in.Name); err != nil {
			return nil, err
		}
		return nil, p.r.DeleteGroup(ctx, in.Name, 0)
	}),
	"group.add": as(func(p people, ctx context.Context, in control.Link) (any, error) {
		return nil, p.r.AddToGroup(ctx, in.Thing, in.Group)
	}),
	"group.remove": as(func(p people, ctx context.Context, in control.Link) (any, error) {
		return nil, p.r.RemoveFromGroup(ctx, in.Thing, in.Group)
	}),

	"cert.create":   as(people.createCertificate),
	"cert.register": as(people.registerCertificate),
	"cert.list": as(func(p people, _ context.Context, in control.ListRequest) (any, error) {
		return all(in, func(page registry.Page) ([]*registry.Certificate, string, error) {
			return p.r.Certificates(false, page)
		}, p.certificate)
	}),
	"cert.show": as(people.showCertificate),
	"cert.status": as(func(p people, ctx context.Context, in control.Named) (any, error) {
		c, err := p.r.UpdateCertificate(ctx, in.Name, registry.Status(in.Status))
		return p.certificate(c), err
	}),
	"cert.delete": as(func(p people, ctx context.Context, in control.Named) (any, error) {
		return nil, p.r.DeleteCertificate(ctx, in.Name, in.Force)
	}),

	"ca.code": as(func(p people, ctx context.Context, _ struct{}) (any, error) {
		code, err := p.r.RegistrationCode(ctx)
		return map[string]string{"registrationCode": code}, err
	}),
	"ca.register": as(people.registerCA),
	"ca.list": as(func(p people, _ context.Context, in control.ListRequest) (any, error) {
		return all(in, func(page registry.Page) ([]*registry.CACertificate, string, error) {
			return p.r.CACertificates("", false, page)
		}, p.authority)
	}),
	"ca.show": as(func(p people, _ context.Context, in control.Named) (any, error) {
		c, err := p.r.CACertificate(in.Name)
		if err != nil {
			return nil, err
		}
		out := p.authority(c)
		out.PEM = c.PEM()
		return out, nil
	}),
	"ca.status": as(func(p people, ctx context.Context, in control.Named) (any, error) {
		c, err := p.r.UpdateCACertificate(ctx, registry.UpdateCA{ID: in.Name, Status: registry.Status(in.Status)})
		return p.authority(c), err
	}),
	"ca.delete": as(func(p people, ctx context.Context, in control.Named) (any, error) {
		return nil, p.r.DeleteCACertificate(ctx, in.Name)
	}),

	"policy.create": as(func(p people, ctx context.Context, in control.Policy) (any, error) {
		v, err := p.r.CreatePolicy(ctx, in.Name, in.Document, nil)
		return p.policy(v), err
	}),
	"policy.update": as(func(p people, ctx context.Context, in control.Policy) (any, error) {
		v, _, err := p.r.CreatePolicyVersion(ctx, in.Name, in.Document, true)
		return p.policy(v), err
	}),
	"policy.list": as(func(p people, _ context.Context, in control.ListRequest) (any, error) {
		return all(in, func(page registry.Page) ([]*registry.Policy, string, error) { return p.r.Policies(true, page) }, p.policy)
	}),
	"policy.show": as(people.showPolicy),
	"policy.default": as(func(p people, ctx context.Context, in control.Named) (any, error) {
		return nil, p.r.SetDefaultPolicyVersion(ctx, in.Name, in.Version)
	}),
	"policy.delete": as(people.deletePolicy),
	"policy.attach": as(func(p people, ctx context.Context, in control.Link) (any, error) {
		return nil, p.r.AttachPolicy(ctx, in.Policy, p.target(in))
	}),
	"policy.detach": as(func(p people, ctx context.Context, in control.Link) (any, error) {
		return nil, p.r.DetachPolicy(ctx, in.Policy, p.target(in))
	}),

	"access-key.create": as(func(p people, ctx context.Context, in control.AccessKey) (any, error) {
		k, secret, err := p.r.CreateAccessKey(ctx, in.Policy, in.Description)
		if err != nil {
			return nil, err
		}
		out := accessKey(k)
		out.Secret = secret
		return out, nil
	}),
	"access-key.list": as(func(p people, _ context.Context, in control.ListRequest) (any, error) {
		return all(in, p.r.AccessKeys, accessKey)
	}),
	"access-key.show": as(func(p people, _ context.Context, in control.Named) (any, error) {
		k, err := p.r.AccessKey(in.Name)
		return accessKey(k), err
	}),
	"access-key.status": as(func(p people, ctx context.Context, in control.Named) (any, error) {
		k, err := p.r.UpdateAccessKey(ctx, in.Name, registry.Status(in.Status), "")
		return accessKey(k), err
	}),
	"access-key.delete": as(func(p people, ctx context.Context, in control.Named) (any, error) {
		return nil, p.r.DeleteAccessKey(ctx, in.Name)
	}),
}

// Call implements control.Registry.
func (p people) Call(ctx context.Context, name string, request json.RawMessage) (any, error) {
	f := operations[name]
	if f == nil {
		return nil, errs.Errorf("registry", errs.NotFound, "the registry has no operation %q", name)
	}
	return f(p, ctx, request)
}

// all reads pages until there are as many results as asked for.
func all[T, V any](in control.ListRequest, page func(registry.Page) ([]T, string, error), view func(T) V) (any, error) {
	limit := in.Max
	if limit == 0 {
		limit = 1000
	}
	if limit < 1 || limit > 10_000 {
		return nil, errs.Errorf("registry", errs.Invalid, "a list has 1 to 10000 results, not %d", limit)
	}
	out := control.List[V]{Items: []V{}, Next: in.Token}
	for {
		items, next, err := page(registry.Page{Max: min(250, limit-len(out.Items)), Token: out.Next})
		if err != nil {
			return nil, err
		}
		for _, t := range items {
			out.Items = append(out.Items, view(t))
		}
		if out.Next = next; next == "" || len(out.Items) == limit {
			return out, nil
		}
	}
}

const shown = 250 // of what a record has many of

func (p people) thing(t *registry.Thing) control.Thing {
	if t == nil {
		return control.Thing{}
	}
	return control.Thing{Name: t.Name, ARN: p.r.ThingARN(t.Name), ID: t.ID, Type: t.Type, Attributes: t.Attributes, Version: t.Version, CreatedAt: t.CreatedAt}
}

func (p people) createThing(ctx context.Context, in control.Thing) (any, error) {
	t, err := p.r.CreateThing(ctx, registry.CreateThing{Name: in.Name, Type: in.Type, Attributes: in.Attributes})
	return p.thing(t), err
}

func (p people) updateThing(ctx context.Context, in control.Thing) (any, error) {
	t, err := p.r.UpdateThing(ctx, registry.UpdateThing{Name: in.Name, Type: in.Type, Attributes: in.Attributes, Merge: true, ExpectedVersion: in.Version})
	return p.thing(t), err
}

func (p people) listThings(_ context.Context, in control.ListRequest) (any, error) {
	f := registry.ThingFilter{Type: in.Type, AttributeName: in.Attribute, AttributeValue: in.Value}
	return all(in, func(page registry.Page) ([]*registry.Thing, string, error) { return p.r.Things(f, page) }, p.thing)
}

func (p people) showThing(_ context.Context, in control.Named) (any, error) {
	t, err := p.r.Thing(in.Name)
	if err != nil {
		return nil, err
	}
	out := p.thing(t)
	if out.Groups, _, err = p.r.GroupsOfThing(t.Name, registry.Page{Max: shown}); err != nil {
		return nil, err
	}
	list, _, err := p.r.PrincipalsOf(t.Name, "", registry.Page{Max: shown})
	for _, c := range list {
		out.Certificates = append(out.Certificates, c.CertificateID)
	}
	return out, err
}

func typeOf(t *registry.ThingType) control.ThingType {
	if t == nil {
		return control.ThingType{}
	}
	return control.ThingType{Name: t.Name, Description: t.Description, Searchable: t.Searchable, Deprecated: t.Deprecated, CreatedAt: t.CreatedAt}
}

func (p people) group(g *registry.Group) control.Group {
	if g == nil {
		return control.Group{}
	}
	return control.Group{Name: g.Name, ARN: p.r.GroupARN(g.Name), Parent: g.Parent, Description: g.Description, Attributes: g.Attributes, Version: g.Version, CreatedAt: g.CreatedAt}
}

func (p people) showGroup(_ context.Context, in control.Named) (any, error) {
	g, err := p.r.Group(in.Name)
	if err != nil {
		return nil, err
	}
	out := p.group(g)
	if out.Things, _, err = p.r.ThingsInGroup(g.Name, false, registry.Page{Max: shown}); err != nil {
		return nil, err
	}
	out.Policies, err = p.attached(out.ARN)
	return out, err
}

func (p people) attached(target string) ([]string, error) {
	list, _, err := p.r.AttachedPolicies(target, false, registry.Page{Max: shown})
	var names []string
	for _, v := range list {
		names = append(names, v.Name)
	}
	return names, err
}

func (p people) certificate(c *registry.Certificate) control.Certificate {
	if c == nil {
		return control.Certificate{}
	}
	return control.Certificate{ID: c.ID, ARN: p.r.CertificateARN(c.ID), Status: string(c.Status), Mode: string(c.Mode), CA: c.CAID, Subject: subject(c.DER),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, CreatedAt: c.CreatedAt}
}

func subject(der []byte) string {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return ""
	}
	return c.Subject.String()
}

func (p people) authority(c *registry.CACertificate) control.Certificate {
	if c == nil {
		return control.Certificate{}
	}
	return control.Certificate{ID: c.ID, ARN: p.r.CAARN(c.ID), Status: string(c.Status), Mode: string(c.Mode), AutoRegistration: c.AutoRegistration,
		Subject: c.Certificate().Subject.String(), NotBefore: c.NotBefore, NotAfter: c.NotAfter, CreatedAt: c.CreatedAt}
}

func (p people) createCertificate(ctx context.Context, in control.CreateCertificate) (any, error) {
	status := registry.Active
	if in.Inactive {
		status = registry.Inactive
	}
	made := ""
	c, err := p.r.CreateCertificateFromCSR(ctx, in.CSR, status, nil, func(tx *registry.Tx, c *registry.Certificate) error {
		made = ""
		if in.Thing != "" {
			if _, err := tx.Thing(in.Thing); registry.CodeOf(err) == registry.NotFound {
				if _, err := tx.CreateThing(registry.CreateThing{Name: in.Thing}); err != nil {
					return err
				}
				made = in.Thing
			}
			if err := tx.AttachPrincipal(in.Thing, c.ID, ""); err != nil {
				return err
			}
		}
		for _, name := range in.Policies {
			if err := tx.AttachPolicy(name, c.ID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := p.certificate(c)
	out.PEM, out.CAPEM, out.Made = c.PEM(), p.caPEM, made
	return out, nil
}

func (p people) registerCertificate(ctx context.Context, in control.RegisterCertificate) (any, error) {
	status := registry.Inactive
	if in.Active {
		status = registry.Active
	}
	c, err := p.r.RegisterCertificate(ctx, registry.RegisterCertificate{PEM: in.PEM, CAPEM: in.CA, WithoutCA: in.WithoutCA, Status: status})
	return p.certificate(c), err
}

func (p people) registerCA(ctx context.Context, in control.RegisterCertificate) (any, error) {
	mode := registry.ModeDefault
	if in.SNIOnly {
		mode = registry.ModeSNIOnly
	}
	c, err := p.r.RegisterCACertificate(ctx, registry.RegisterCA{PEM: in.PEM, Verification: in.Verification, Mode: mode, Active: in.Active, AutoRegistration: in.AutoRegistration})
	return p.authority(c), err
}

func (p people) showCertificate(_ context.Context, in control.Named) (any, error) {
	c, err := p.r.Certificate(in.Name)
	if err != nil {
		return nil, err
	}
	out := p.certificate(c)
	out.PEM = c.PEM()
	if out.Policies, err = p.attached(out.ARN); err != nil {
		return nil, err
	}
	list, _, err := p.r.ThingsOf(c.ID, "", registry.Page{Max: shown})
	for _, t := range list {
		out.Things = append(out.Things, t.Thing)
	}
	return out, err
}

func (p people) policy(v *registry.Policy) control.Policy {
	if v == nil {
		return control.Policy{}
	}
	out := control.Policy{Name: v.Name, ARN: p.r.PolicyARN(v.Name), Default: v.Default, CreatedAt: v.CreatedAt}
	for _, version := range v.Versions {
		out.Versions = append(out.Versions, version.ID)
	}
	return out
}

func (p people) showPolicy(_ context.Context, in control.Named) (any, error) {
	v, err := p.r.Policy(in.Name)
	if err != nil {
		return nil, err
	}
	out := p.policy(v)
	out.Document = v.Document()
	if in.Version != "" {
		_, version, err := p.r.PolicyVersion(in.Name, in.Version)
		if err != nil {
			return nil, err
		}
		out.Document = version.Document
	}
	out.Targets, _, err = p.r.TargetsOf(in.Name, registry.Page{Max: shown})
	return out, err
}

// deletePolicy deletes a policy, or with a version that version alone.
func (p people) deletePolicy(ctx context.Context, in control.Named) (any, error) {
	if in.Version != "" {
		return nil, p.r.DeletePolicyVersion(ctx, in.Name, in.Version)
	}
	return nil, p.r.DeletePolicy(ctx, in.Name)
}

// target returns what a policy is to be attached to.
func (p people) target(in control.Link) string {
	if in.Group != "" && !strings.HasPrefix(in.Group, "arn:") {
		return p.r.GroupARN(in.Group)
	}
	return in.Group + in.Certificate
}

func accessKey(k *registry.AccessKey) control.AccessKey {
	if k == nil {
		return control.AccessKey{}
	}
	return control.AccessKey{ID: k.ID, Status: string(k.Status), Description: k.Description, Policy: k.Policy, CreatedAt: k.CreatedAt}
}
