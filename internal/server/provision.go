package server

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/weir-iot/weir/control/awsapi"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/registry"
	"github.com/weir-iot/weir/registry/provision"
)

// openProvision opens the enrolment of devices. The gateway hands it the private
// calls, and certificates that are shown for the first time.
func (s *Server) openProvision(context.Context) error {
	var err error
	s.provision, err = provision.New(provision.Options{
		Registry: s.things, Invoke: authorizerFunctions{s}, Publish: s.log.Publish,
		CreationsPerSecond: s.cfg.Safety.Creations, Logger: s.logger.With("room", "provision"), Now: s.now,
	})
	return err
}

// privateCalls answers the private calls of connections.
type privateCalls struct{ s *Server }

// Serves implements mqtt.Private.
func (privateCalls) Serves(n topic.Name) bool { return provision.Serves(n) }

// Call implements mqtt.Private.
func (c privateCalls) Call(ctx context.Context, p *auth.Principal, n topic.Name, payload []byte) (topic.Name, []byte, error) {
	_, known := c.s.directory.Certificate(p.ID)
	return c.s.provision.Call(ctx, provision.Caller{
		Principal: p.ID, ClientID: p.ClientID, SourceIP: p.Remote.Addr().String(), Certificate: known,
	}, n, payload)
}

// provisioner implements auth.Provisioner.
type provisioner struct{ s *Server }

func (p provisioner) Provision(ctx context.Context, c *auth.Connection, leaf *x509.Certificate, ca *auth.CA509) error {
	known, err := p.s.provision.Provision(ctx, leaf, ca.ID, provision.Caller{
		Principal: auth.CertificateID(leaf), ClientID: c.ClientID, SourceIP: c.Remote.Addr().String(), Certificate: true,
	})
	if err == nil && known {
		return errs.E("server.Provision", errs.Exists, nil)
	}
	return err
}

// claimed returns the certificate of a temporary provisioning claim, which is no
// certificate of the registry.
func (d *directory) claimed(id string) (*auth.Certificate, bool) {
	c, err := d.r.ProvisioningClaim(id)
	if err != nil {
		return nil, false
	}
	return &auth.Certificate{ID: c.ID, Status: auth.Active, DER: c.DER, Registered: c.CreatedAt}, true
}

// claimPolicy is what a temporary claim may: enrol by its template, no more.
func (d *directory) claimPolicy(id string) []auth.Policy {
	c, err := d.r.ProvisioningClaim(id)
	if err != nil {
		return nil
	}
	arn := d.r.ARNPrefix()
	document := fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": "iot:Connect", "Resource": "%[1]sclient/*"},
  {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": ["%[1]stopic/$aws/certificates/create/*",
    "%[1]stopic/$aws/certificates/create-from-csr/*", "%[1]stopic/$aws/provisioning-templates/%[2]s/provision/*"]},
  {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": ["%[1]stopicfilter/$aws/certificates/create/*",
    "%[1]stopicfilter/$aws/certificates/create-from-csr/*", "%[1]stopicfilter/$aws/provisioning-templates/%[2]s/provision/*"]}]}`, arn, c.Template)
	return []auth.Policy{{Name: "of the provisioning claim", Document: document}}
}

// registerThing is RegisterThing of the AWS API.
type registerThing struct{ s *Server }

// RegisterThing implements awsapi.Provisioner.
func (r registerThing) RegisterThing(ctx context.Context, body string, parameters map[string]string) (*awsapi.Provisioned, error) {
	made, c, err := r.s.provision.RegisterThing(ctx, body, parameters)
	if err != nil {
		return nil, err
	}
	out := &awsapi.Provisioned{CertificatePEM: c.PEM(), ARNs: map[string]string{}}
	for logical, at := range made.Logical {
		switch at.Kind {
		case registry.KindThing:
			out.ARNs[logical] = r.s.things.ThingARN(at.Name)
		case registry.KindCertificate:
			out.ARNs[logical] = r.s.things.CertificateARN(at.Name)
		case registry.KindPolicy:
			out.ARNs[logical] = r.s.things.PolicyARN(at.Name)
		}
	}
	return out, nil
}
