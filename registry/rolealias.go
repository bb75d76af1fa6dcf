package registry

import (
	"context"
	"time"
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
