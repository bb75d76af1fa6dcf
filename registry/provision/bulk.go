package provision

import (
	"context"
	"errors"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/registry"
)

// RegisterThing carries out a template that comes with its request, and returns
// what it made with the certificate.
// Source: AWS IoT Core API reference, RegisterThing.
func (s *Service) RegisterThing(ctx context.Context, body string, parameters map[string]string) (*Made, *registry.Certificate, error) {
	const op = "provision.RegisterThing"
	t, err := s.compile(body, Bulk)
	if err != nil {
		return nil, nil, err
	}
	plan, err := t.Expand(parameters, nil)
	if err != nil {
		return nil, nil, err
	}
	var made *Made
	var c *registry.Certificate
	r := s.o.Registry
	if csr := plan.Certificate.CSR; csr != "" {
		c, err = r.CreateCertificateFromCSR(ctx, csr, plan.Certificate.Status, nil, func(tx *registry.Tx, c *registry.Certificate) (err error) {
			made, err = plan.apply(tx, c.ID)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		return made, c, nil
	}
	err = r.Change(ctx, op, func(tx *registry.Tx) (err error) {
		id := plan.Certificate.ID
		if pem := plan.Certificate.PEM; pem != "" {
			known, err := tx.RegisterCertificate(registry.RegisterCertificate{PEM: pem, CAPEM: plan.Certificate.CAPEM, Status: plan.Certificate.Status})
			var exists *registry.Error
			switch {
			case err == nil:
				id = known.ID
			case registry.CodeOf(err) == registry.Exists && errors.As(err, &exists):
				id = exists.ID
			default:
				return err
			}
		}
		if c, err = tx.Certificate(id); err != nil {
			return err
		}
		if made, err = plan.apply(tx, c.ID); err != nil {
			return err
		}
		c, err = tx.Certificate(c.ID)
		return err
	})
	if err != nil {
		return nil, nil, errs.E(op, errs.KindOf(err), err)
	}
	return made, c, nil
}
