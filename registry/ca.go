package registry

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// CACertificate is a registered certificate authority of a user.
type CACertificate struct {
	ID               string              `json:"certificateId"` // as a certificate's
	Status           Status              `json:"status"`        // ACTIVE or INACTIVE
	Mode             Mode                `json:"certificateMode"`
	AutoRegistration bool                `json:"autoRegistration,omitempty"` // of certificates at their first connection
	Config           *RegistrationConfig `json:"registrationConfig,omitempty"`
	DER              []byte              `json:"der"`
	NotBefore        time.Time           `json:"notBefore"`
	NotAfter         time.Time           `json:"notAfter"`
	CreatedAt        time.Time           `json:"creationDate"`
	ModifiedAt       time.Time           `json:"lastModifiedDate"`
	Version          int                 `json:"customerVersion"`
	Generation       string              `json:"generationId"`
	Tags             map[string]string   `json:"tags,omitempty"`

	cert *x509.Certificate // DER
}

// RegistrationConfig says what is made of a certificate that is registered
// automatically.
type RegistrationConfig struct {
	TemplateBody string `json:"templateBody,omitempty"`
	RoleARN      string `json:"roleArn,omitempty"`
	TemplateName string `json:"templateName,omitempty"`
}

// UnmarshalJSON reads a stored record.
func (c *CACertificate) UnmarshalJSON(b []byte) error {
	type plain CACertificate
	if err := json.Unmarshal(b, (*plain)(c)); err != nil {
		return err
	}
	var err error
	c.cert, err = x509.ParseCertificate(c.DER)
	return err
}

// PEM returns the certificate.
func (c *CACertificate) PEM() string { return pemOf(c.DER) }

// Certificate returns the certificate; do not modify it.
func (c *CACertificate) Certificate() *x509.Certificate { return c.cert }

func (r *Registry) indexCA(_ string, old, now *CACertificate) {
	if old != nil {
		s := string(old.cert.RawSubject)
		left := slices.DeleteFunc(slices.Clone(r.casBySubject[s]), func(c *CACertificate) bool { return c.ID == old.ID })
		if len(left) == 0 {
			delete(r.casBySubject, s)
		} else {
			r.casBySubject[s] = left
		}
	}
	if now != nil {
		s := string(now.cert.RawSubject)
		r.casBySubject[s] = append(slices.Clone(r.casBySubject[s]), now)
	}
}

// signers returns the registered CAs whose key has signed leaf, whatever their
// status.
func (r *Registry) signers(leaf *x509.Certificate) []*CACertificate {
	var out []*CACertificate
	for _, ca := range r.casBySubject[string(leaf.RawIssuer)] {
		if leaf.CheckSignatureFrom(ca.cert) == nil {
			out = append(out, ca)
		}
	}
	return out
}

// CAsOf returns the registered CAs that have signed leaf, whatever their status.
func (r *Registry) CAsOf(leaf *x509.Certificate) []*CACertificate {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.signers(leaf)
}

// RegisterCA says what to register.
type RegisterCA struct {
	PEM              string
	Verification     string // PEM: signed by the CA, its common name the registration code; not with SNI_ONLY
	Mode             Mode   // "": DEFAULT
	Active           bool
	AutoRegistration bool
	Config           *RegistrationConfig // may be nil
	Tags             map[string]string
}

// RegistrationCode returns what the verification certificate of a CA must have
// as its common name: 64 characters, the same until it is deleted.
func (r *Registry) RegistrationCode(ctx context.Context) (string, error) {
	return change(ctx, r, "GetRegistrationCode", func(tx *Tx) (string, error) {
		if s := get(tx, r.settings.code, single); s != nil {
			return s.Code, nil
		}
		s := &registrationCode{randomHex(32)}
		put(tx, r.settings.code, single, s)
		return s.Code, nil
	})
}

type registrationCode struct {
	Code string `json:"registrationCode"`
}

// DeleteRegistrationCode forgets the code; the next one asked for is another.
func (r *Registry) DeleteRegistrationCode(ctx context.Context) error {
	return r.Change(ctx, "registry.DeleteRegistrationCode", func(tx *Tx) error {
		if get(tx, r.settings.code, single) == nil {
			return fail(NotFound, "there is no registration code")
		}
		drop(tx, r.settings.code, single)
		return nil
	})
}

// RegisterCACertificate registers a certificate authority.
// Errors: Exists, CertificateValidation, RegistrationCode, LimitExceeded,
// InvalidRequest, NotFound (template).
func (r *Registry) RegisterCACertificate(ctx context.Context, in RegisterCA) (*CACertificate, error) {
	const op = "registry.RegisterCACertificate"
	cert, err := parseCertificate(in.PEM)
	if err != nil {
		return nil, wrap(op, err)
	}
	if err := r.checkCA(cert); err != nil {
		return nil, wrap(op, err)
	}
	var verification *x509.Certificate
	switch in.Mode {
	case "", ModeDefault:
		in.Mode = ModeDefault
		if in.Verification == "" {
			return nil, wrap(op, invalid("the verification certificate is missing; a CA of mode SNI_ONLY needs none"))
		}
		if verification, err = parseCertificate(in.Verification); err != nil {
			return nil, wrap(op, err)
		}
	case ModeSNIOnly:
		if in.Verification != "" {
			return nil, wrap(op, invalid("a CA of mode SNI_ONLY is registered without verification certificate"))
		}
	default:
		return nil, wrap(op, invalid("%q is no mode of a certificate: DEFAULT or SNI_ONLY", clip(string(in.Mode))))
	}
	if err := checkTags(in.Tags, r.limits.Tags); err != nil {
		return nil, wrap(op, err)
	}
	id := fingerprint(cert.Raw)
	return change(ctx, r, "RegisterCACertificate", func(tx *Tx) (*CACertificate, error) {
		if get(tx, r.cas, id) != nil {
			return nil, &Error{Code: Exists, Message: "the CA certificate is already registered", ID: id, ARN: r.CAARN(id)}
		}
		if verification != nil {
			code := get(tx, r.settings.code, single)
			switch {
			case verification.CheckSignatureFrom(cert) != nil:
				return nil, fail(CertificateValidation, "the verification certificate is not signed by the CA certificate")
			case code == nil || !strings.EqualFold(verification.Subject.CommonName, code.Code):
				return nil, fail(RegistrationCode, "the common name of the verification certificate is not the registration code")
			case tx.now.Before(verification.NotBefore) || tx.now.After(verification.NotAfter):
				return nil, fail(CertificateValidation, "the verification certificate does not hold now")
			}
		}
		if n := len(r.casBySubject[string(cert.RawSubject)]); n >= r.limits.CAsPerSubject {
			return nil, fail(LimitExceeded, "%d CA certificates with this subject are registered, no more are allowed", n)
		}
		if err := tx.checkConfig(id, in.Config); err != nil {
			return nil, err
		}
		c := &CACertificate{
			ID: id, Status: Inactive, Mode: in.Mode, AutoRegistration: in.AutoRegistration, Config: in.Config, DER: cert.Raw,
			NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, CreatedAt: tx.now, ModifiedAt: tx.now, Version: 1, Generation: newID(), Tags: in.Tags, cert: cert,
		}
		if in.Active {
			c.Status = Active
		}
		put(tx, r.cas, id, c)
		return c, nil
	})
}

func (r *Registry) checkCA(c *x509.Certificate) error {
	switch now := r.now(); {
	case !c.BasicConstraintsValid || !c.IsCA:
		return fail(CertificateValidation, "the certificate is not of a certificate authority (basic constraints)")
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fail(CertificateValidation, "the CA certificate's key is not for signing certificates (key usage)")
	case now.Before(c.NotBefore) || now.After(c.NotAfter):
		return fail(CertificateValidation, "the CA certificate does not hold now")
	case weakSignature(c.SignatureAlgorithm):
		return fail(CertificateValidation, "the CA certificate is signed with %s, which is too weak", c.SignatureAlgorithm)
	}
	return checkKey(c.PublicKey)
}

func (tx *Tx) checkConfig(ca string, c *RegistrationConfig) error {
	switch {
	case c == nil:
		return nil
	case c.TemplateName != "":
		if c.TemplateBody != "" || c.RoleARN != "" {
			return invalid("a registration configuration has a template name, or a template body and role, not both")
		}
		t, err := tx.Template(c.TemplateName)
		if err != nil {
			return err
		}
		if t.Type != JITP {
			return invalid("template %s is of type %s, a registration configuration needs %s", t.Name, t.Type, JITP)
		}
		tx.lean(KindTemplate, t.Name, ca)
		return nil
	case c.TemplateBody != "":
		if err := tx.r.checkBody(c.TemplateBody, JITP); err != nil {
			return err
		}
		return checkRole(c.RoleARN)
	}
	return invalid("a registration configuration needs a template name, or a template body and role")
}

// CACertificate returns a CA by its id. Error: errs.NotFound.
func (r *Registry) CACertificate(id string) (*CACertificate, error) {
	return read(r, "CACertificate", func(tx *Tx) (*CACertificate, error) { return tx.CACertificate(id) })
}

// CACertificate is Registry.CACertificate in a change.
func (tx *Tx) CACertificate(id string) (*CACertificate, error) {
	if rest, ok := strings.CutPrefix(id, tx.r.arnPrefix+arnCA+"/"); ok {
		id = rest
	}
	if err := certificateIDRule.check(id); err != nil {
		return nil, err
	}
	if c := get(tx, tx.r.cas, strings.ToLower(id)); c != nil {
		return c, nil
	}
	return nil, fail(NotFound, "there is no CA certificate %s", strings.ToLower(id))
}

// CACertificates lists CAs by time of creation, the newest first unless
// ascending; template: those whose registration configuration names it, "" all.
func (r *Registry) CACertificates(template string, ascending bool, p Page) ([]*CACertificate, string, error) {
	return readPage(r, "CACertificates", func(*Tx) ([]*CACertificate, string, error) {
		if template != "" {
			if err := templateName.check(template); err != nil {
				return nil, "", err
			}
		}
		return pageOf(&r.cas.order, p, "cas\x00"+template, !ascending, func(_ string, c *CACertificate) (*CACertificate, bool) {
			return c, template == "" || c.Config != nil && c.Config.TemplateName == template
		})
	})
}

// UpdateCA says what to change of a CA.
type UpdateCA struct {
	ID               string
	Status           Status              // "": as it is
	AutoRegistration *bool               // nil: as it is
	Config           *RegistrationConfig // nil: as it is
	RemoveConfig     bool                // and end automatic registration
}

// UpdateCACertificate changes a CA and returns it.
func (r *Registry) UpdateCACertificate(ctx context.Context, in UpdateCA) (*CACertificate, error) {
	return change(ctx, r, "UpdateCACertificate", func(tx *Tx) (*CACertificate, error) {
		old, err := tx.CACertificate(in.ID)
		if err != nil {
			return nil, err
		}
		c := *old
		switch in.Status {
		case "":
		case Active, Inactive:
			c.Status = in.Status
		default:
			return nil, invalid("a CA certificate is %s or %s, not %s", Active, Inactive, clip(string(in.Status)))
		}
		if in.AutoRegistration != nil {
			c.AutoRegistration = *in.AutoRegistration
		}
		if in.Config != nil {
			if in.RemoveConfig {
				return nil, invalid("a registration configuration to set and one to remove: say one of them")
			}
			if err := tx.checkConfig(old.ID, in.Config); err != nil {
				return nil, err
			}
			c.Config = in.Config
		}
		if in.RemoveConfig {
			c.Config, c.AutoRegistration = nil, false
		}
		c.ModifiedAt = tx.now
		c.Version++
		if c.Status != old.Status {
			tx.shake(KindCA, c.ID) // certificates being registered look again
		}
		put(tx, r.cas, c.ID, &c)
		return &c, nil
	})
}

// DeleteCACertificate deletes a CA that is INACTIVE. Its certificates stay.
func (r *Registry) DeleteCACertificate(ctx context.Context, id string) error {
	return r.Change(ctx, "registry.DeleteCACertificate", func(tx *Tx) error {
		c, err := tx.CACertificate(id)
		if err != nil {
			return err
		}
		if c.Status == Active {
			return fail(CertificateState, "CA certificate %s is ACTIVE: set it INACTIVE before deleting it", c.ID)
		}
		tx.shake(KindCA, c.ID)
		drop(tx, r.cas, c.ID)
		return nil
	})
}
