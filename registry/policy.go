package registry

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/errs"
)

// Policy is a policy with the versions of its document.
type Policy struct {
	Name       string            `json:"policyName"`
	Default    int               `json:"defaultVersionId"`
	Last       int               `json:"lastVersionId"` // given out; never again
	Versions   []PolicyVersion   `json:"versions"`      // the oldest first
	CreatedAt  time.Time         `json:"creationDate"`
	ModifiedAt time.Time         `json:"lastModifiedDate"`
	Generation string            `json:"generationId"` // of this policy, not of one made later under its name
	Tags       map[string]string `json:"tags,omitempty"`
}

// PolicyVersion is one document of a policy. It never changes.
type PolicyVersion struct {
	ID        int       `json:"policyVersionId"` // from 1
	Document  string    `json:"policyDocument"`
	CreatedAt time.Time `json:"creationDate"`
}

// Version returns a version of the policy.
func (p *Policy) Version(id int) (*PolicyVersion, bool) {
	for i := range p.Versions {
		if p.Versions[i].ID == id {
			return &p.Versions[i], true
		}
	}
	return nil, false
}

// Document returns the default version's document.
func (p *Policy) Document() string {
	v, ok := p.Version(p.Default)
	if !ok {
		return ""
	}
	return v.Document
}

// checkDocument checks a policy document.
func (r *Registry) checkDocument(doc string) error {
	n := 0
	for _, c := range doc {
		if !unicode.IsSpace(c) {
			n++
		}
	}
	if n > r.limits.PolicyBytes || len(doc) > 404600 {
		return fail(MalformedPolicy, "a policy document has at most %d characters, white space not counted; this one has %d", r.limits.PolicyBytes, n)
	}
	if !utf8.ValidString(doc) {
		return fail(MalformedPolicy, "the policy document is not UTF-8")
	}
	var object map[string]json.RawMessage
	if r.o.CheckPolicy != nil {
		if err := r.o.CheckPolicy(doc); err != nil {
			return &Error{Code: MalformedPolicy, Message: errs.Text(err), Err: err}
		}
	} else if err := json.Unmarshal([]byte(doc), &object); err != nil {
		return fail(MalformedPolicy, "the policy document is not a JSON object: %v", err)
	}
	return nil
}

// CreatePolicy creates a policy with its first version.
// Errors: Exists, MalformedPolicy, InvalidRequest.
func (r *Registry) CreatePolicy(ctx context.Context, name, document string, tags map[string]string) (*Policy, error) {
	return change(ctx, r, "CreatePolicy", func(tx *Tx) (*Policy, error) { return tx.CreatePolicy(name, document, tags) })
}

// CreatePolicy is Registry.CreatePolicy in a change.
func (tx *Tx) CreatePolicy(name, document string, tags map[string]string) (*Policy, error) {
	r := tx.r
	if err := policyName.check(name); err != nil {
		return nil, err
	}
	if err := r.checkDocument(document); err != nil {
		return nil, err
	}
	if err := checkTags(tags, r.limits.Tags); err != nil {
		return nil, err
	}
	if get(tx, r.policies, name) != nil {
		return nil, &Error{Code: Exists, Message: "policy " + name + " exists already", ID: name, ARN: r.PolicyARN(name)}
	}
	p := &Policy{Name: name, Default: 1, Last: 1, Versions: []PolicyVersion{{1, document, tx.now}}, CreatedAt: tx.now, ModifiedAt: tx.now, Generation: newID(), Tags: tags}
	put(tx, r.policies, name, p)
	return p, nil
}

// Policy returns a policy. Error: errs.NotFound.
func (r *Registry) Policy(name string) (*Policy, error) {
	return read(r, "Policy", func(tx *Tx) (*Policy, error) { return tx.Policy(name) })
}

// Policy is Registry.Policy in a change.
func (tx *Tx) Policy(name string) (*Policy, error) {
	if err := policyName.check(name); err != nil {
		return nil, err
	}
	if p := get(tx, tx.r.policies, name); p != nil {
		return p, nil
	}
	return nil, fail(NotFound, "there is no policy %s", name)
}

// Policies lists policies by time of creation, the newest first unless
// ascending.
func (r *Registry) Policies(ascending bool, p Page) ([]*Policy, string, error) {
	return readPage(r, "Policies", func(*Tx) ([]*Policy, string, error) {
		return pageOf(&r.policies.order, p, "policies", !ascending, every[*Policy])
	})
}

func parseVersion(id string) (int, error) {
	if err := policyVersionID.check(id); err != nil {
		return 0, err
	}
	return strconv.Atoi(id)
}

// PolicyVersion returns one version of a policy. Error: errs.NotFound.
func (r *Registry) PolicyVersion(name, version string) (*Policy, *PolicyVersion, error) {
	var v *PolicyVersion
	p, err := read(r, "PolicyVersion", func(tx *Tx) (p *Policy, err error) {
		p, v, err = tx.policyVersion(name, version)
		return p, err
	})
	return p, v, err
}

func (tx *Tx) policyVersion(name, version string) (*Policy, *PolicyVersion, error) {
	p, err := tx.Policy(name)
	if err != nil {
		return nil, nil, err
	}
	id, err := parseVersion(version)
	if err != nil {
		return nil, nil, err
	}
	v, ok := p.Version(id)
	if !ok {
		return nil, nil, fail(NotFound, "policy %s has no version %d", name, id)
	}
	return p, v, nil
}

// CreatePolicyVersion adds a version to a policy.
// Errors: NotFound, MalformedPolicy, VersionsLimitExceeded.
func (r *Registry) CreatePolicyVersion(ctx context.Context, name, document string, setDefault bool) (*Policy, *PolicyVersion, error) {
	var v *PolicyVersion
	p, err := change(ctx, r, "CreatePolicyVersion", func(tx *Tx) (*Policy, error) {
		old, err := tx.Policy(name)
		if err != nil {
			return nil, err
		}
		if err := r.checkDocument(document); err != nil {
			return nil, err
		}
		if len(old.Versions) >= r.limits.PolicyVersions {
			return nil, fail(VersionsLimitExceeded, "policy %s has %d versions, no more are allowed: delete one", name, len(old.Versions))
		}
		p := *old
		p.Last++
		p.Versions = append(slices.Clone(old.Versions), PolicyVersion{p.Last, document, tx.now})
		v = &p.Versions[len(p.Versions)-1]
		if setDefault {
			p.Default = p.Last
		}
		p.ModifiedAt = tx.now
		put(tx, r.policies, name, &p)
		return &p, nil
	})
	return p, v, err
}

// SetDefaultPolicyVersion makes a version the one that holds.
func (r *Registry) SetDefaultPolicyVersion(ctx context.Context, name, version string) error {
	return r.Change(ctx, "registry.SetDefaultPolicyVersion", func(tx *Tx) error {
		old, v, err := tx.policyVersion(name, version)
		if err != nil || old.Default == v.ID {
			return err
		}
		p := *old
		p.Default, p.ModifiedAt = v.ID, tx.now
		put(tx, r.policies, name, &p)
		return nil
	})
}

// DeletePolicyVersion deletes a version that is not the default.
// Errors: NotFound, DeleteConflict.
func (r *Registry) DeletePolicyVersion(ctx context.Context, name, version string) error {
	return r.Change(ctx, "registry.DeletePolicyVersion", func(tx *Tx) error {
		old, v, err := tx.policyVersion(name, version)
		if err != nil {
			return err
		}
		if old.Default == v.ID {
			return fail(DeleteConflict, "version %d of policy %s cannot be deleted: it is the default", v.ID, name)
		}
		p := *old
		p.Versions = slices.DeleteFunc(slices.Clone(old.Versions), func(o PolicyVersion) bool { return o.ID == v.ID })
		p.ModifiedAt = tx.now
		put(tx, r.policies, name, &p)
		return nil
	})
}

// DeletePolicy deletes a policy that has no versions but its default and is
// attached to nothing.
// Errors: NotFound, DeleteConflict.
func (r *Registry) DeletePolicy(ctx context.Context, name string) error {
	return r.Change(ctx, "registry.DeletePolicy", func(tx *Tx) error {
		p, err := tx.Policy(name)
		if err != nil {
			return err
		}
		if n := len(p.Versions) - 1; n > 0 {
			return fail(DeleteConflict, "policy %s cannot be deleted: it has %d versions beside the default", name, n)
		}
		if tx.anyLeft(r.attachments, name) {
			return fail(DeleteConflict, "policy %s cannot be deleted: it is attached", name)
		}
		tx.shake(KindPolicy, name)
		drop(tx, r.policies, name)
		return nil
	})
}

// A target is what a policy is attached to: "cert/<id>" or "thinggroup/<name>",
// the end of its ARN.
func certTarget(id string) string    { return arnCertificate + "/" + id }
func groupTarget(name string) string { return arnGroup + "/" + name }

// target checks that what an ARN, or a bare certificate id, names exists.
func (tx *Tx) target(s string) (kind Kind, name, target string, err error) {
	if rest, ok := strings.CutPrefix(s, tx.r.arnPrefix+arnGroup+"/"); ok {
		g, err := tx.Group(rest)
		if err != nil {
			return "", "", "", err
		}
		return KindGroup, g.Name, groupTarget(g.Name), nil
	}
	if kind, _, err := tx.r.parseARN(s); err == nil && kind != arnCertificate {
		return "", "", "", invalid("a policy is attached to a certificate or a thing group, not to %q", clip(s))
	}
	c, err := tx.Certificate(s)
	if err != nil {
		return "", "", "", err
	}
	return KindCertificate, c.ID, certTarget(c.ID), nil
}

// AttachPolicy attaches a policy to the certificate or thing group of an ARN.
// Where it is already is no error.
// Errors: NotFound, LimitExceeded, InvalidRequest.
func (r *Registry) AttachPolicy(ctx context.Context, policy, target string) error {
	return r.Change(ctx, "registry.AttachPolicy", func(tx *Tx) error { return tx.AttachPolicy(policy, target) })
}

// AttachPolicy is Registry.AttachPolicy in a change.
func (tx *Tx) AttachPolicy(policy, target string) error {
	if _, err := tx.Policy(policy); err != nil {
		return err
	}
	kind, name, target, err := tx.target(target)
	if err != nil {
		return err
	}
	r := tx.r
	if tx.linked(r.attachments, target, policy) != "" {
		return nil
	}
	if n := len(tx.rights(r.attachments, target)); n >= r.limits.PoliciesPerTarget {
		return fail(LimitExceeded, "%d policies are attached to %s, no more are allowed", n, target)
	}
	tx.lean(KindPolicy, policy, target)
	tx.lean(kind, name, "") // the same guard for all: policies are counted
	tx.link(r.attachments, target, policy, attached)
	return nil
}

// DetachPolicy detaches a policy. Where it is not attached is no error.
func (r *Registry) DetachPolicy(ctx context.Context, policy, target string) error {
	return r.Change(ctx, "registry.DetachPolicy", func(tx *Tx) error { return tx.DetachPolicy(policy, target) })
}

// DetachPolicy is Registry.DetachPolicy in a change.
func (tx *Tx) DetachPolicy(policy, target string) error {
	if _, err := tx.Policy(policy); err != nil {
		return err
	}
	_, _, target, err := tx.target(target)
	if err != nil {
		return err
	}
	if tx.linked(tx.r.attachments, target, policy) != "" {
		tx.unlink(tx.r.attachments, target, policy)
	}
	return nil
}

// AttachedPolicies lists the policies attached to the certificate or group of an
// ARN by name; recursive: for a group, also those of the groups it is in.
func (r *Registry) AttachedPolicies(target string, recursive bool, p Page) ([]*Policy, string, error) {
	return readPage(r, "AttachedPolicies", func(tx *Tx) ([]*Policy, string, error) {
		kind, name, target, err := tx.target(target)
		if err != nil {
			return nil, "", err
		}
		names := r.attachments.byLeft[target].keys()
		if recursive && kind == KindGroup {
			for _, g := range tx.ancestors(name) {
				names = append(names, r.attachments.byLeft[groupTarget(g)].keys()...)
			}
		}
		mark := "attached\x00" + target + "\x00" + strconv.FormatBool(recursive)
		return pageOfNames(names, p, mark, func(n string) *Policy { return r.policies.rows[n].v })
	})
}

// TargetsOf lists the ARNs of what a policy is attached to.
func (r *Registry) TargetsOf(policy string, p Page) ([]string, string, error) {
	return readPage(r, "TargetsOf", func(tx *Tx) ([]string, string, error) {
		if _, err := tx.Policy(policy); err != nil {
			return nil, "", err
		}
		return pageOf(r.attachments.byRight[policy], p, "targets\x00"+policy, false, func(t string, _ link) (string, bool) {
			return r.arnPrefix + t, true
		})
	})
}

// EffectivePolicy is a policy that holds for a principal.
type EffectivePolicy struct {
	Policy *Policy // its default version
	From   string  // ARN of the certificate or thing group it is attached to
}

// EffectivePolicies returns the policies that hold for a certificate: its own,
// and those of the groups its things are in and of the groups around them; each
// once. thing: only this thing's groups, "" those of all things it is attached
// to. principal "" : the groups' of the thing alone.
// Errors: errs.NotFound, errs.Invalid.
func (r *Registry) EffectivePolicies(principal, thing string) ([]EffectivePolicy, error) {
	return read(r, "EffectivePolicies", func(tx *Tx) ([]EffectivePolicy, error) {
		var out []EffectivePolicy
		seen := map[string]bool{}
		add := func(target string) {
			r.attachments.byLeft[target].after("", func(name string, _ link) bool {
				if p := r.policies.rows[name].v; p != nil && !seen[name] {
					seen[name] = true
					out = append(out, EffectivePolicy{p, r.arnPrefix + target})
				}
				return true
			})
		}
		var things []string
		if principal != "" {
			c, err := tx.Certificate(principal)
			if err != nil {
				return nil, err
			}
			add(certTarget(c.ID))
			things = r.principals.byRight[c.ID].keys()
		}
		if thing != "" {
			if _, err := tx.Thing(thing); err != nil {
				return nil, err
			}
			things = []string{thing}
		}
		for _, t := range things {
			r.members.byLeft[t].after("", func(g string, _ link) bool {
				add(groupTarget(g))
				for _, up := range tx.ancestors(g) {
					add(groupTarget(up))
				}
				return true
			})
		}
		return out, nil
	})
}
