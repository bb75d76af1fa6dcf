package registry

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"time"
)

// Status is a certificate's.
type Status string

const (
	Active            Status = "ACTIVE"
	Inactive          Status = "INACTIVE"
	Revoked           Status = "REVOKED"
	PendingTransfer   Status = "PENDING_TRANSFER"
	PendingActivation Status = "PENDING_ACTIVATION"
	RegisterInactive  Status = "REGISTER_INACTIVE"
)

// Mode says how a certificate's CA is found.
type Mode string

const (
	ModeDefault Mode = "DEFAULT"
	ModeSNIOnly Mode = "SNI_ONLY" // registered without its CA, or of a CA registered so
)

// Certificate is a client certificate that is known. Its fingerprint decides
// who a connection is, never its subject.
type Certificate struct {
	ID         string    `json:"certificateId"` // SHA-256 of DER, lower case hexadecimal
	Status     Status    `json:"status"`
	Mode       Mode      `json:"certificateMode"`
	CAID       string    `json:"caCertificateId,omitempty"` // "": of no registered CA
	DER        []byte    `json:"der"`
	NotBefore  time.Time `json:"notBefore"`
	NotAfter   time.Time `json:"notAfter"`
	CreatedAt  time.Time `json:"creationDate"`
	ModifiedAt time.Time `json:"lastModifiedDate"`
	Version    int       `json:"customerVersion"` // from 1, growing with every change
	Generation string    `json:"generationId"`

	// Claim is set on a certificate a device asked for and has not activated.
	Claim *Claim `json:"claim,omitempty"`
}

// Claim binds a certificate that waits for activation to who asked for it.
type Claim struct {
	Token     string    `json:"token"`     // hash of the ownership token, as its maker defines it
	Principal string    `json:"principal"` // who asked
	Expires   time.Time `json:"expires"`   // a certificate still pending then is to be deleted
}

// PEM returns the certificate.
func (c *Certificate) PEM() string { return pemOf(c.DER) }

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// Holds reports whether the certificate may be used at a time, and if not, why.
func (c *Certificate) Holds(at time.Time) (bool, string) {
	switch {
	case c.Status != Active:
		return false, "the certificate is " + string(c.Status)
	case at.Before(c.NotBefore):
		return false, "the certificate is not valid before " + c.NotBefore.UTC().Format(time.RFC3339)
	case at.After(c.NotAfter):
		return false, "the certificate ended on " + c.NotAfter.UTC().Format(time.RFC3339)
	}
	return true, ""
}

// Certificate returns a certificate by its id, in either case of letters.
// Error: errs.NotFound.
func (r *Registry) Certificate(id string) (*Certificate, error) {
	return read(r, "Certificate", func(tx *Tx) (*Certificate, error) { return tx.Certificate(id) })
}

// Certificate is Registry.Certificate in a change.
func (tx *Tx) Certificate(id string) (*Certificate, error) {
	id, err := tx.r.certificateID(id)
	if err != nil {
		return nil, err
	}
	if c := get(tx, tx.r.certificates, id); c != nil {
		return c, nil
	}
	return nil, fail(NotFound, "there is no certificate %s", id)
}

// Certificates lists certificates by time of creation, the newest first unless
// ascending.
func (r *Registry) Certificates(ascending bool, p Page) ([]*Certificate, string, error) {
	return readPage(r, "Certificates", func(*Tx) ([]*Certificate, string, error) {
		return pageOf(&r.certificates.order, p, "certificates", !ascending, every[*Certificate])
	})
}

func every[V any](_ string, v V) (V, bool) { return v, true }

// CertificatesByCA lists the certificates of a registered CA.
func (r *Registry) CertificatesByCA(ca string, ascending bool, p Page) ([]*Certificate, string, error) {
	return readPage(r, "CertificatesByCA", func(tx *Tx) ([]*Certificate, string, error) {
		c, err := tx.CACertificate(ca)
		if err != nil {
			return nil, "", err
		}
		return pageOf(r.certsByCA[c.ID], p, "certificates of\x00"+c.ID, !ascending, every[*Certificate])
	})
}

// RegisterCertificate says what to register.
type RegisterCertificate struct {
	PEM       string
	CAPEM     string // "": the registered CA that signed it is looked for
	WithoutCA bool   // no CA is asked for; CAPEM must be empty
	Status    Status // "": INACTIVE
}

// RegisterCertificate registers a certificate that was made elsewhere. Only
// ACTIVE, INACTIVE, REVOKED and REGISTER_INACTIVE (as INACTIVE) are taken.
// Errors: Exists, CertificateValidation, CertificateConflict, InvalidRequest.
func (r *Registry) RegisterCertificate(ctx context.Context, in RegisterCertificate) (*Certificate, error) {
	return change(ctx, r, "RegisterCertificate", func(tx *Tx) (*Certificate, error) { return tx.RegisterCertificate(in) })
}

// RegisterCertificate is Registry.RegisterCertificate in a change.
func (tx *Tx) RegisterCertificate(in RegisterCertificate) (*Certificate, error) {
	leaf, err := parseCertificate(in.PEM)
	if err != nil {
		return nil, err
	}
	var ca *x509.Certificate
	if in.CAPEM != "" {
		if in.WithoutCA {
			return nil, invalid("a certificate without CA, and a CA")
		}
		if ca, err = parseCertificate(in.CAPEM); err != nil {
			return nil, err
		}
	}
	status := in.Status
	switch status {
	case "":
		status = Inactive
	case RegisterInactive:
		status = Inactive
	case Active, Inactive, Revoked:
	default:
		return nil, invalid("a certificate cannot be registered as %s", clip(string(status)))
	}
	return tx.register(leaf, ca, in.WithoutCA, status)
}

// AutoRegister registers a certificate that a connection showed and that an
// active CA with automatic registration signed, as PENDING_ACTIVATION, and
// returns it with its CA. One that is known already is returned as it is, new
// is false then.
func (r *Registry) AutoRegister(ctx context.Context, leaf *x509.Certificate) (c *Certificate, ca *CACertificate, isNew bool, err error) {
	err = r.Change(ctx, "registry.AutoRegister", func(tx *Tx) (err error) {
		c, ca, isNew, err = tx.AutoRegister(leaf)
		return err
	})
	if err != nil {
		return nil, nil, false, err
	}
	return c, ca, isNew, nil
}

// AutoRegister is Registry.AutoRegister in a change.
func (tx *Tx) AutoRegister(leaf *x509.Certificate) (c *Certificate, ca *CACertificate, isNew bool, err error) {
	r := tx.r
	if c = get(tx, r.certificates, fingerprint(leaf.Raw)); c != nil {
		return c, get(tx, r.cas, c.CAID), false, nil
	}
	if err := checkLeaf(leaf); err != nil {
		return nil, nil, false, err
	}
	for _, one := range r.signers(leaf) {
		if one.Status == Active && one.AutoRegistration {
			ca = one
		}
	}
	if ca == nil {
		return nil, nil, false, fail(NotFound, "no active CA with automatic registration has signed the certificate")
	}
	c, err = tx.add(leaf, ca, ca.Mode, PendingActivation, nil)
	return c, ca, true, err
}

func (tx *Tx) register(leaf, caCert *x509.Certificate, withoutCA bool, status Status) (*Certificate, error) {
	if err := checkLeaf(leaf); err != nil {
		return nil, err
	}
	if withoutCA {
		return tx.add(leaf, nil, ModeSNIOnly, status, nil)
	}
	signers := tx.r.signers(leaf)
	if caCert != nil {
		id := fingerprint(caCert.Raw)
		i := slices.IndexFunc(signers, func(c *CACertificate) bool { return c.ID == id })
		switch {
		case get(tx, tx.r.cas, id) == nil:
			return nil, fail(CertificateValidation, "the CA certificate is not registered")
		case i < 0:
			return nil, fail(CertificateValidation, "the certificate is not signed by the CA certificate")
		}
		return tx.add(leaf, signers[i], signers[i].Mode, status, nil)
	}
	switch len(signers) {
	case 0:
		return nil, fail(CertificateValidation, "no registered CA certificate has signed the certificate; register one, or register the certificate without CA")
	case 1:
		return tx.add(leaf, signers[0], signers[0].Mode, status, nil)
	}
	return nil, fail(CertificateConflict, "%d registered CA certificates have the subject and key that signed the certificate: say which", len(signers))
}

func (tx *Tx) add(leaf *x509.Certificate, ca *CACertificate, mode Mode, status Status, claim *Claim) (*Certificate, error) {
	id := fingerprint(leaf.Raw)
	if old := get(tx, tx.r.certificates, id); old != nil {
		return nil, &Error{Code: Exists, Message: "the certificate is already registered", ID: id, ARN: tx.r.CertificateARN(id)}
	}
	c := &Certificate{
		ID: id, Status: status, Mode: mode, DER: leaf.Raw, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		CreatedAt: tx.now, ModifiedAt: tx.now, Version: 1, Generation: newID(), Claim: claim,
	}
	if ca != nil {
		if ca.Status != Active {
			return nil, fail(CertificateValidation, "the CA certificate %s is %s", ca.ID, ca.Status)
		}
		c.CAID = ca.ID
		tx.lean(KindCA, ca.ID, id)
	}
	put(tx, tx.r.certificates, id, c)
	return c, nil
}

// UpdateCertificate sets the status: ACTIVE, INACTIVE or REVOKED.
func (r *Registry) UpdateCertificate(ctx context.Context, id string, status Status) (*Certificate, error) {
	return change(ctx, r, "UpdateCertificate", func(tx *Tx) (*Certificate, error) { return tx.UpdateCertificate(id, status) })
}

// UpdateCertificate is Registry.UpdateCertificate in a change. It ends a claim.
func (tx *Tx) UpdateCertificate(id string, status Status) (*Certificate, error) {
	switch status {
	case Active, Inactive, Revoked:
	case RegisterInactive:
		status = Inactive // an older name of it
	case PendingTransfer, PendingActivation:
		return nil, invalid("a certificate cannot be set to %s", status)
	default:
		return nil, invalid("%q is no status of a certificate", clip(string(status)))
	}
	old, err := tx.Certificate(id)
	if err != nil {
		return nil, err
	}
	if old.Status == PendingTransfer {
		return nil, fail(CertificateState, "the certificate is %s", old.Status)
	}
	if old.Status == status && old.Claim == nil {
		return old, nil
	}
	c := *old
	c.Status, c.Claim, c.ModifiedAt = status, nil, tx.now
	c.Version++
	put(tx, tx.r.certificates, c.ID, &c)
	return &c, nil
}

// SetClaim binds a certificate in PENDING_ACTIVATION to who may activate it; nil
// ends the claim.
func (tx *Tx) SetClaim(id string, claim *Claim) (*Certificate, error) {
	old, err := tx.Certificate(id)
	if err != nil {
		return nil, err
	}
	if claim != nil && old.Status != PendingActivation {
		return nil, fail(CertificateState, "the certificate is %s, not %s", old.Status, PendingActivation)
	}
	c := *old
	c.Claim, c.ModifiedAt = claim, tx.now
	c.Version++
	put(tx, tx.r.certificates, c.ID, &c)
	return &c, nil
}

// LapsedClaims returns the certificates whose claim has ended by then, at most
// max of them.
func (r *Registry) LapsedClaims(then time.Time, max int) []*Certificate {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []*Certificate
	r.claims.after("", func(_ string, c *Certificate) bool {
		if c.Claim.Expires.After(then) || len(out) == max {
			return false
		}
		out = append(out, c)
		return true
	})
	return out
}

// DeleteCertificate deletes a certificate that is not ACTIVE, and with force
// detaches its policies.
// Errors: CertificateState (ACTIVE, PENDING_TRANSFER), DeleteConflict (attached
// to a thing, or without force to a policy), NotFound.
func (r *Registry) DeleteCertificate(ctx context.Context, id string, force bool) error {
	return r.Change(ctx, "registry.DeleteCertificate", func(tx *Tx) error { return tx.DeleteCertificate(id, force) })
}

// DeleteCertificate is Registry.DeleteCertificate in a change.
func (tx *Tx) DeleteCertificate(id string, force bool) error {
	c, err := tx.Certificate(id)
	if err != nil {
		return err
	}
	if c.Status == Active || c.Status == PendingTransfer {
		return fail(CertificateState, "certificate %s is %s: set it INACTIVE or REVOKED before deleting it", c.ID, c.Status)
	}
	if things := tx.lefts(tx.r.principals, c.ID); len(things) > 0 {
		return fail(DeleteConflict, "certificate %s cannot be deleted: it is attached to %d things, such as %s", c.ID, len(things), things[0])
	}
	target := certTarget(c.ID)
	policies := tx.rights(tx.r.attachments, target)
	if len(policies) > 0 && !force {
		return fail(DeleteConflict, "certificate %s cannot be deleted: %d policies are attached to it, such as %s", c.ID, len(policies), policies[0])
	}
	for _, p := range policies {
		tx.unlink(tx.r.attachments, target, p)
	}
	tx.shake(KindCertificate, c.ID)
	drop(tx, tx.r.certificates, c.ID)
	return nil
}
