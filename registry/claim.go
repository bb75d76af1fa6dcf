package registry

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// ClaimLife is how long a temporary provisioning claim holds.
// Source: AWS IoT Core developer guide, "Provisioning by trusted user".
const ClaimLife = 5 * time.Minute

// ProvisioningClaim is a certificate with which a device may be provisioned by
// one template, for a short time. It is no Certificate: no list shows it, and no
// policy is attached to it.
type ProvisioningClaim struct {
	ID        string    `json:"certificateId"` // as a certificate's
	Template  string    `json:"templateName"`
	DER       []byte    `json:"der"`
	CreatedAt time.Time `json:"creationDate"`
	Expires   time.Time `json:"expiration"`
}

// PEM returns the certificate.
func (c *ProvisioningClaim) PEM() string { return pemOf(c.DER) }

// CreateProvisioningClaim makes a claim for a template, with its keys.
// Errors: NotFound, InvalidRequest (not enabled, or of another type).
func (r *Registry) CreateProvisioningClaim(ctx context.Context, template string) (*ProvisioningClaim, *KeyPair, error) {
	const op = "registry.CreateProvisioningClaim"
	check := func(tx *Tx) error {
		t, err := tx.Template(template)
		switch {
		case err != nil:
			return err
		case !t.Enabled:
			return invalid("template %s is not enabled", template)
		case t.Type != FleetProvisioning:
			return invalid("template %s is of type %s, a claim needs %s", template, t.Type, FleetProvisioning)
		}
		return nil
	}
	if _, err := read(r, "CreateProvisioningClaim", func(tx *Tx) (struct{}, error) { return struct{}{}, check(tx) }); err != nil {
		return nil, nil, err // before keys are made
	}
	if r.o.CA == nil {
		return nil, nil, errs.Errorf(op, errs.NotImplemented, "this Weir has no certificate authority")
	}
	pub, keys, err := r.keys.pair(ctx, r.o.Keys)
	if err != nil {
		return nil, nil, wrap(op, err)
	}
	now := r.now().UTC().Truncate(time.Second) // as a certificate's times
	c := &ProvisioningClaim{Template: template, CreatedAt: now, Expires: now.Add(ClaimLife)}
	if c.DER, err = r.o.CA.SignClientUntil(IssuedSubject, pub, c.Expires); err != nil {
		return nil, nil, errs.E(op, errs.Internal, err)
	}
	leaf, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return nil, nil, errs.E(op, errs.Internal, err)
	}
	c.ID = fingerprint(leaf.Raw)
	err = r.Change(ctx, op, func(tx *Tx) error {
		if err := check(tx); err != nil {
			return err
		}
		put(tx, r.tempClaims, c.ID, c)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return c, keys, nil
}

// ProvisioningClaim returns a temporary claim that holds; one whose template is
// gone or not enabled any more does not. Error: errs.NotFound.
func (r *Registry) ProvisioningClaim(id string) (*ProvisioningClaim, error) {
	return read(r, "ProvisioningClaim", func(tx *Tx) (*ProvisioningClaim, error) {
		c := get(tx, r.tempClaims, id)
		if c == nil || !r.now().Before(c.Expires) {
			return nil, fail(NotFound, "there is no provisioning claim %s", clip(id))
		}
		if t := get(tx, r.templates, c.Template); t == nil || !t.Enabled {
			return nil, fail(NotFound, "the template of provisioning claim %s is gone or not enabled", id)
		}
		return c, nil
	})
}

// EndProvisioningClaims deletes the temporary claims that have ended by then, at
// most 500 at a time, and returns how many they were.
func (r *Registry) EndProvisioningClaims(ctx context.Context, then time.Time) (int, error) {
	var ended []string
	r.mu.RLock()
	r.tempClaims.order.after("", func(_ string, c *ProvisioningClaim) bool {
		if c.Expires.After(then) || len(ended) == 500 {
			return false
		}
		ended = append(ended, c.ID)
		return true
	})
	r.mu.RUnlock()
	if len(ended) == 0 {
		return 0, nil
	}
	err := r.Change(ctx, "registry.EndProvisioningClaims", func(tx *Tx) error {
		for _, id := range ended {
			if get(tx, r.tempClaims, id) != nil {
				drop(tx, r.tempClaims, id)
			}
		}
		return nil
	})
	return len(ended), err
}
