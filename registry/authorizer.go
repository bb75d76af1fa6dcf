package registry

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"time"
)

// Authorizer is a custom authorizer: a function that says who a connection is
// and what it may.
type Authorizer struct {
	Name            string            `json:"authorizerName"`
	Function        string            `json:"authorizerFunctionArn"`
	Status          Status            `json:"status"` // ACTIVE or INACTIVE
	SigningDisabled bool              `json:"signingDisabled,omitempty"`
	TokenKeyName    string            `json:"tokenKeyName,omitempty"`           // header or query parameter with the token
	Keys            map[string]string `json:"tokenSigningPublicKeys,omitempty"` // name to PEM of an RSA key
	CacheHTTP       bool              `json:"enableCachingForHttp,omitempty"`
	CreatedAt       time.Time         `json:"creationDate"`
	ModifiedAt      time.Time         `json:"lastModifiedDate"`
	Tags            map[string]string `json:"tags,omitempty"`
}

// CreateAuthorizer says what to create.
type CreateAuthorizer struct {
	Name            string
	Function        string
	Status          Status // "": INACTIVE
	SigningDisabled bool
	TokenKeyName    string
	Keys            map[string]string
	CacheHTTP       bool
	Tags            map[string]string
}

func checkFunction(arn string) error {
	if arn == "" || len(arn) > 2048 {
		return invalid("the ARN of a function has 1 to 2048 characters, this one has %d", len(arn))
	}
	return nil
}

func (a *Authorizer) check() error {
	if err := checkFunction(a.Function); err != nil {
		return err
	}
	if a.Status != Active && a.Status != Inactive {
		return invalid("an authorizer is %s or %s, not %q", Active, Inactive, clip(string(a.Status)))
	}
	if a.TokenKeyName != "" {
		if err := tokenKeyName.check(a.TokenKeyName); err != nil {
			return err
		}
	}
	if !a.SigningDisabled && (a.TokenKeyName == "" || len(a.Keys) == 0) {
		return invalid("an authorizer with signed tokens needs a token key name and signing keys; or disable signing")
	}
	if len(a.Keys) > 10 {
		return invalid("an authorizer has at most 10 signing keys, these are %d", len(a.Keys))
	}
	for name, key := range a.Keys {
		if err := signingKeyName.check(name); err != nil {
			return err
		}
		if _, err := ParseSigningKey(key); err != nil {
			return invalid("signing key %s: %s", name, err)
		}
	}
	return nil
}

// ParseSigningKey reads the PEM of an RSA public key of 2,048 bits or more.
func ParseSigningKey(s string) (*rsa.PublicKey, error) {
	if len(s) > 5120 {
		return nil, invalid("a signing key has at most 5120 characters")
	}
	b, _ := pem.Decode([]byte(s))
	if b == nil {
		return nil, invalid("a signing key is PEM")
	}
	var key any
	var err error
	if b.Type == "RSA PUBLIC KEY" {
		key, err = x509.ParsePKCS1PublicKey(b.Bytes)
	} else {
		key, err = x509.ParsePKIXPublicKey(b.Bytes)
	}
	k, ok := key.(*rsa.PublicKey)
	if err != nil || !ok {
		return nil, invalid("a signing key is an RSA public key")
	}
	if err := checkKey(k); err != nil {
		return nil, asInvalid(err)
	}
	return k, nil
}

// CreateAuthorizer creates a custom authorizer.
// Errors: Exists, LimitExceeded, InvalidRequest.
func (r *Registry) CreateAuthorizer(ctx context.Context, in CreateAuthorizer) (*Authorizer, error) {
	return change(ctx, r, "CreateAuthorizer", func(tx *Tx) (*Authorizer, error) {
		if err := authorizerName.check(in.Name); err != nil {
			return nil, err
		}
		if in.Status == "" {
			in.Status = Inactive
		}
		a := &Authorizer{
			Name: in.Name, Function: in.Function, Status: in.Status, SigningDisabled: in.SigningDisabled, TokenKeyName: in.TokenKeyName,
			Keys: maps.Clone(in.Keys), CacheHTTP: in.CacheHTTP, CreatedAt: tx.now, ModifiedAt: tx.now, Tags: in.Tags,
		}
		if err := a.check(); err != nil {
			return nil, err
		}
		if err := checkTags(in.Tags, r.limits.Tags); err != nil {
			return nil, err
		}
		if get(tx, r.authorizers, in.Name) != nil {
			return nil, &Error{Code: Exists, Message: "authorizer " + in.Name + " exists already", ID: in.Name, ARN: r.AuthorizerARN(in.Name)}
		}
		if err := tx.count(KindAuthorizer, len(r.authorizers.rows), r.limits.Authorizers, "authorizers"); err != nil {
			return nil, err
		}
		put(tx, r.authorizers, a.Name, a)
		return a, nil
	})
}

// count refuses one more of what there are n of, and has creations go one after
// the other.
func (tx *Tx) count(k Kind, n, max int, what string) error {
	if n >= max {
		return fail(LimitExceeded, "there are %d %s, no more are allowed", n, what)
	}
	tx.lean(k, "*", "")
	return nil
}

// Authorizer returns a custom authorizer. Error: errs.NotFound.
func (r *Registry) Authorizer(name string) (*Authorizer, error) {
	return read(r, "Authorizer", func(tx *Tx) (*Authorizer, error) { return tx.authorizer(name) })
}

func (tx *Tx) authorizer(name string) (*Authorizer, error) {
	if err := authorizerName.check(name); err != nil {
		return nil, err
	}
	if a := get(tx, tx.r.authorizers, name); a != nil {
		return a, nil
	}
	return nil, fail(NotFound, "there is no authorizer %s", name)
}

// Authorizers lists authorizers by time of creation, the newest first unless
// ascending; status "": of either.
func (r *Registry) Authorizers(status Status, ascending bool, p Page) ([]*Authorizer, string, error) {
	return readPage(r, "Authorizers", func(*Tx) ([]*Authorizer, string, error) {
		if status != "" && status != Active && status != Inactive {
			return nil, "", invalid("an authorizer is %s or %s", Active, Inactive)
		}
		return pageOf(&r.authorizers.order, p, "authorizers\x00"+string(status), !ascending, func(_ string, a *Authorizer) (*Authorizer, bool) {
			return a, status == "" || a.Status == status
		})
	})
}

// UpdateAuthorizer says what to change of an authorizer.
type UpdateAuthorizer struct {
	Name         string
	Function     string // "": as it is; so below
	Status       Status
	TokenKeyName string
	Keys         map[string]string // nil: as they are
	CacheHTTP    *bool
}

// UpdateAuthorizer changes an authorizer and returns it.
func (r *Registry) UpdateAuthorizer(ctx context.Context, in UpdateAuthorizer) (*Authorizer, error) {
	return change(ctx, r, "UpdateAuthorizer", func(tx *Tx) (*Authorizer, error) {
		old, err := tx.authorizer(in.Name)
		if err != nil {
			return nil, err
		}
		a := *old
		if in.Function != "" {
			a.Function = in.Function
		}
		if in.Status != "" {
			a.Status = in.Status
		}
		if in.TokenKeyName != "" {
			a.TokenKeyName = in.TokenKeyName
		}
		if in.Keys != nil {
			a.Keys = maps.Clone(in.Keys)
		}
		if in.CacheHTTP != nil {
			a.CacheHTTP = *in.CacheHTTP
		}
		if err := a.check(); err != nil {
			return nil, err
		}
		a.ModifiedAt = tx.now
		put(tx, r.authorizers, a.Name, &a)
		return &a, nil
	})
}

// DeleteAuthorizer deletes an authorizer that is INACTIVE, not the default and
// named by no domain configuration.
// Errors: NotFound, DeleteConflict.
func (r *Registry) DeleteAuthorizer(ctx context.Context, name string) error {
	return r.Change(ctx, "registry.DeleteAuthorizer", func(tx *Tx) error {
		a, err := tx.authorizer(name)
		if err != nil {
			return err
		}
		if a.Status == Active {
			return fail(DeleteConflict, "authorizer %s is ACTIVE: set it INACTIVE before deleting it", name)
		}
		if d := get(tx, r.settings.authorizer, single); d != nil && d.Name == name {
			return fail(DeleteConflict, "authorizer %s is the default: clear that before deleting it", name)
		}
		for _, row := range r.domains.rows {
			if row.v.Authorizer == name {
				return fail(DeleteConflict, "authorizer %s is the default of domain configuration %s", name, row.v.Name)
			}
		}
		tx.shake(KindAuthorizer, name)
		drop(tx, r.authorizers, name)
		return nil
	})
}

type defaultAuthorizer struct {
	Name string `json:"authorizerName"`
}

// SetDefaultAuthorizer makes an authorizer the one of connections that name
// none. Errors: NotFound, Exists (it is the default).
func (r *Registry) SetDefaultAuthorizer(ctx context.Context, name string) (*Authorizer, error) {
	return change(ctx, r, "SetDefaultAuthorizer", func(tx *Tx) (*Authorizer, error) {
		a, err := tx.authorizer(name)
		if err != nil {
			return nil, err
		}
		if d := get(tx, r.settings.authorizer, single); d != nil && d.Name == name {
			return nil, &Error{Code: Exists, Message: "authorizer " + name + " is the default already", ID: name, ARN: r.AuthorizerARN(name)}
		}
		tx.lean(KindAuthorizer, name, "")
		put(tx, r.settings.authorizer, single, &defaultAuthorizer{name})
		return a, nil
	})
}

// DefaultAuthorizer returns the default. Error: errs.NotFound, where there is
// none.
func (r *Registry) DefaultAuthorizer() (*Authorizer, error) {
	return read(r, "DefaultAuthorizer", func(tx *Tx) (*Authorizer, error) {
		if d := get(tx, r.settings.authorizer, single); d != nil {
			return tx.authorizer(d.Name)
		}
		return nil, fail(NotFound, "there is no default authorizer")
	})
}

// ClearDefaultAuthorizer leaves no default. Error: errs.NotFound.
func (r *Registry) ClearDefaultAuthorizer(ctx context.Context) error {
	return r.Change(ctx, "registry.ClearDefaultAuthorizer", func(tx *Tx) error {
		if get(tx, r.settings.authorizer, single) == nil {
			return fail(NotFound, "there is no default authorizer")
		}
		drop(tx, r.settings.authorizer, single)
		return nil
	})
}
