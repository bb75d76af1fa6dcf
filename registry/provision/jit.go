package provision

import (
	"context"
	"crypto/x509"
	"strings"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/registry"
)

// Provision registers a certificate that was shown at a first connection and
// that a registered CA has signed, and carries out the CA's template, in one
// change. known: the certificate was registered already, and nothing was done.
func (s *Service) Provision(ctx context.Context, leaf *x509.Certificate, ca string, who Caller) (known bool, err error) {
	const op = "provision.Provision"
	a := &Attempt{Operation: "JustInTime", ClientID: who.ClientID, Principal: who.Principal, SourceIP: who.SourceIP, CertificateID: who.Principal, At: s.now().UTC()}
	known, err = s.justInTime(ctx, leaf, ca, a)
	if !known {
		s.tell(ctx, a, err)
	}
	if err != nil {
		return false, errs.E(op, errs.KindOf(err), err)
	}
	return known, nil
}

func (s *Service) justInTime(ctx context.Context, leaf *x509.Certificate, id string, a *Attempt) (known bool, err error) {
	const op = "provision.Provision"
	ca, err := s.o.Registry.CACertificate(id)
	if err != nil {
		return false, err
	}
	if ca.Config == nil {
		return false, errs.Errorf(op, errs.NotFound, "CA certificate %s has no registration configuration", id)
	}
	a.step("request", "a certificate of CA "+id)
	body := ca.Config.TemplateBody
	if name := ca.Config.TemplateName; name != "" {
		a.Template = name
		t, err := s.o.Registry.Template(name)
		switch {
		case err != nil:
			return false, err
		case !t.Enabled:
			return false, errs.Errorf(op, errs.Invalid, "template %s is not enabled", name)
		}
		body = t.Body()
		a.step("template", "version "+itoa(t.Default))
	}
	t, err := s.compile(body, registry.JITP)
	if err != nil {
		return false, err
	}
	plan, err := t.Expand(nil, parametersOf(leaf, a.CertificateID))
	if err != nil {
		return false, err
	}
	a.step("expanded", plan.summary())
	if !strings.EqualFold(plan.Certificate.ID, a.CertificateID) {
		return false, errs.Errorf(op, errs.Invalid, "the template's CertificateId is not that of the certificate: it must be {\"Ref\": %q}", certificateID)
	}
	var made *Made
	err = s.o.Registry.Change(ctx, op, func(tx *registry.Tx) error {
		known, made = false, nil
		c, _, isNew, err := tx.AutoRegister(leaf)
		if err != nil {
			return err
		}
		if !isNew {
			known = true
			return nil
		}
		made, err = plan.apply(tx, c.ID)
		return err
	})
	if err != nil || known {
		return known, err
	}
	a.Thing = made.Thing
	a.step("registered", "the certificate")
	a.Steps = append(a.Steps, made.Steps...)
	return false, nil
}
