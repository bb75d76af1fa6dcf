package registry

import (
	"context"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// RoleAlias names a role devices may get credentials of.
type RoleAlias struct {
	Name       string            `json:"roleAlias"`
	RoleARN    string            `json:"roleArn"`
	Seconds    int               `json:"credentialDurationSeconds"` // 900 to 43,200
	CreatedAt  time.Time         `json:"creationDate"`
	ModifiedAt time.Time         `json:"lastModifiedDate"`
	Tags       map[string]string `json:"tags,omitempty"`
}

func checkSeconds(n int) error {
	if n < 900 || n > 43200 {
		return invalid("credentials of a role alias last 900 to 43200 seconds, not %d", n)
	}
	return nil
}

// CreateRoleAlias creates a role alias; seconds 0: 3,600.
// Errors: Exists, LimitExceeded, InvalidRequest.
func (r *Registry) CreateRoleAlias(ctx context.Context, name, roleARN string, seconds int, tags map[string]string) (*RoleAlias, error) {
	return change(ctx, r, "CreateRoleAlias", func(tx *Tx) (*RoleAlias, error) {
		n := seconds
		if n == 0 {
			n = 3600
		}
		for _, err := range []error{roleAliasName.check(name), checkRole(roleARN), checkSeconds(n), checkTags(tags, r.limits.Tags)} {
			if err != nil {
				return nil, err
			}
		}
		if get(tx, r.roleAliases, name) != nil {
			return nil, &Error{Code: Exists, Message: "role alias " + name + " exists already", ID: name, ARN: r.RoleAliasARN(name)}
		}
		if err := tx.count(KindRoleAlias, len(r.roleAliases.rows), r.limits.RoleAliases, "role aliases"); err != nil {
			return nil, err
		}
		a := &RoleAlias{Name: name, RoleARN: roleARN, Seconds: n, CreatedAt: tx.now, ModifiedAt: tx.now, Tags: tags}
		put(tx, r.roleAliases, name, a)
		return a, nil
	})
}

// RoleAlias returns a role alias. Error: errs.NotFound.
func (r *Registry) RoleAlias(name string) (*RoleAlias, error) {
	return read(r, "RoleAlias", func(tx *Tx) (*RoleAlias, error) { return tx.roleAlias(name) })
}

func (tx *Tx) roleAlias(name string) (*RoleAlias, error) {
	if err := roleAliasName.check(name); err != nil {
		return nil, err
	}
	if a := get(tx, tx.r.roleAliases, name); a != nil {
		return a, nil
	}
	return nil, fail(NotFound, "there is no role alias %s", name)
}

// RoleAliases lists role aliases by time of creation, the newest first unless
// ascending.
func (r *Registry) RoleAliases(ascending bool, p Page) ([]*RoleAlias, string, error) {
	return readPage(r, "RoleAliases", func(*Tx) ([]*RoleAlias, string, error) {
		return pageOf(&r.roleAliases.order, p, "role aliases", !ascending, every[*RoleAlias])
	})
}

// UpdateRoleAlias sets role ("": as it is) and seconds (0: as they are).
func (r *Registry) UpdateRoleAlias(ctx context.Context, name, roleARN string, seconds int) (*RoleAlias, error) {
	return change(ctx, r, "UpdateRoleAlias", func(tx *Tx) (*RoleAlias, error) {
		old, err := tx.roleAlias(name)
		if err != nil {
			return nil, err
		}
		a := *old
		if roleARN != "" {
			if err := checkRole(roleARN); err != nil {
				return nil, err
			}
			a.RoleARN = roleARN
		}
		if seconds != 0 {
			if err := checkSeconds(seconds); err != nil {
				return nil, err
			}
			a.Seconds = seconds
		}
		a.ModifiedAt = tx.now
		put(tx, r.roleAliases, name, &a)
		return &a, nil
	})
}

// DeleteRoleAlias deletes a role alias. Error: errs.NotFound.
func (r *Registry) DeleteRoleAlias(ctx context.Context, name string) error {
	return r.Change(ctx, "registry.DeleteRoleAlias", func(tx *Tx) error {
		if _, err := tx.roleAlias(name); err != nil {
			return err
		}
		drop(tx, r.roleAliases, name)
		return nil
	})
}

// Role is what a session is of that a device was given: a role alias, and who
// the device is.
type Role struct {
	Alias       string `json:"a"`
	Certificate string `json:"c"`           // id
	Thing       string `json:"t,omitempty"` // "": the device has not said
}

// RoleName returns the name of the policy that says what a role may: the last
// part of the role's ARN.
func RoleName(roleARN string) string { return roleARN[strings.LastIndexAny(roleARN, "/:")+1:] }

// CreateRoleSession makes a credential that may what the policy named like the
// role of role.Alias says, as long as the alias does and no longer than the
// certificate is active, attached to the thing, and alias and policy are there.
// Errors: errs.NotFound (no such alias), errs.Forbidden (all else that a
// session ends with).
func (r *Registry) CreateRoleSession(role Role) (*Session, error) {
	const op = "registry.CreateRoleSession"
	if r.o.Seal == nil {
		return nil, errs.E(op, errs.NotImplemented, errNoSealer)
	}
	a, err := r.RoleAlias(role.Alias)
	if err != nil {
		return nil, err
	}
	if _, err := r.policyOfRole(&role); err != nil {
		return nil, err
	}
	return r.newSession(sessionToken{Role: &role}, time.Duration(a.Seconds)*time.Second)
}

// policyOfRole returns the document of what a session of role may now.
// Error: errs.Forbidden.
func (r *Registry) policyOfRole(role *Role) (string, error) {
	const op = "registry.Credential"
	c, err := r.Certificate(role.Certificate)
	if err != nil || c.Status != Active {
		return "", errs.Errorf(op, errs.Forbidden, "the certificate %s is not active", role.Certificate)
	}
	if role.Thing != "" && !r.Attached(role.Thing, role.Certificate) {
		return "", errs.Errorf(op, errs.Forbidden, "the certificate %s is not attached to the thing %s", role.Certificate, clip(role.Thing))
	}
	a, err := r.RoleAlias(role.Alias)
	if err != nil {
		return "", errs.Errorf(op, errs.Forbidden, "there is no role alias %s", role.Alias)
	}
	p, err := r.Policy(RoleName(a.RoleARN))
	if err != nil {
		return "", errs.Errorf(op, errs.Forbidden, "the role %s cannot be assumed: there is no policy %s", a.RoleARN, clip(RoleName(a.RoleARN)))
	}
	return p.Document(), nil
}
