package server

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"

	"github.com/weir-iot/weir/control/awsapi"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/registry"
	"github.com/weir-iot/weir/registry/provision"
)

// enrolment does what devices ask for to become things.
type enrolment interface {
	Call(ctx context.Context, who provision.Caller, n topic.Name, payload []byte) (topic.Name, []byte, error)
	Provision(ctx context.Context, leaf *x509.Certificate, ca string, who provision.Caller) (known bool, err error)
}

// openProvision opens the enrolment of devices. The gateway hands it the private
// calls, and certificates that are shown for the first time; without the role
// registry it asks a process that has it.
func (s *Server) openProvision(context.Context) error {
	if s.roles&registryRole == 0 {
		s.enrolment = enrolmentElsewhere{s}
		return nil
	}
	var err error
	s.provision, err = provision.New(provision.Options{
		Registry: s.things, Invoke: s.invoker(), Publish: s.log.Publish,
		CreationsPerSecond: s.cfg.Safety.Creations, Logger: s.logger.With("room", "provision"), Now: s.now,
	})
	s.enrolment = s.provision
	return err
}

// privateCalls answers the private calls of connections.
type privateCalls struct{ s *Server }

// Serves implements mqtt.Private.
func (privateCalls) Serves(n topic.Name) bool { return provision.Serves(n) }

// Call implements mqtt.Private.
func (c privateCalls) Call(ctx context.Context, p *auth.Principal, n topic.Name, payload []byte) (topic.Name, []byte, error) {
	_, known := c.s.directory.Certificate(p.ID)
	return c.s.enrolment.Call(ctx, provision.Caller{
		Principal: p.ID, ClientID: p.ClientID, SourceIP: p.Remote.Addr().String(), Certificate: known,
	}, n, payload)
}

// provisioner implements auth.Provisioner.
type provisioner struct{ s *Server }

func (p provisioner) Provision(ctx context.Context, c *auth.Connection, leaf *x509.Certificate, ca *auth.CA509) error {
	known, err := p.s.enrolment.Provision(ctx, leaf, ca.ID, provision.Caller{
		Principal: auth.CertificateID(leaf), ClientID: c.ClientID, SourceIP: c.Remote.Addr().String(), Certificate: true,
	})
	if err == nil && known {
		return errs.E("server.Provision", errs.Exists, nil)
	}
	return err
}

// enrolQuestion is what a gateway asks of a process with the role registry, with
// the payload, or the certificate, as body.
type enrolQuestion struct {
	Who   provision.Caller `json:"who"`
	Topic topic.Name       `json:"topic,omitempty"`
	CA    string           `json:"ca,omitempty"`
}

// enrolAnswer comes with the answer's payload as body.
type enrolAnswer struct {
	Topic    topic.Name `json:"topic,omitempty"`
	Known    bool       `json:"known,omitempty"`
	Revision uint64     `json:"revision"` // of the registry, which has what was done
}

const (
	enrolCall = "call"
	enrolJust = "just in time"
)

// answerEnrolment serves gateways in other processes.
func (s *Server) answerEnrolment(ctx context.Context, q *question, body []byte) (any, []byte, error) {
	const op = "server.answerEnrolment"
	var in enrolQuestion
	if err := json.Unmarshal(q.Args, &in); err != nil {
		return nil, nil, errs.E(op, errs.Invalid, err)
	}
	var a enrolAnswer
	var out []byte
	var err error
	switch q.Operation {
	case enrolCall:
		a.Topic, out, err = s.provision.Call(ctx, in.Who, in.Topic, body)
	case enrolJust:
		leaf, perr := x509.ParseCertificate(body)
		if perr != nil {
			return nil, nil, errs.E(op, errs.Invalid, perr)
		}
		a.Known, err = s.provision.Provision(ctx, leaf, in.CA, in.Who)
	default:
		return nil, nil, errs.Errorf(op, errs.NotImplemented, "no operation %q", q.Operation)
	}
	a.Revision = s.things.Revision()
	return &a, out, err
}

// enrolmentElsewhere asks a process with the role registry, and waits until this
// one has heard of what was done: a device that has its certificate may come with
// it at once.
type enrolmentElsewhere struct{ s *Server }

func (e enrolmentElsewhere) ask(ctx context.Context, operation string, q *enrolQuestion, body []byte) (*enrolAnswer, []byte, error) {
	var a enrolAnswer
	out, err := e.s.services.ask(ctx, "the role registry", enrolSubject, question{Operation: operation}, q, body, &a)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	return &a, out, e.s.things.Await(ctx, a.Revision)
}

// Call implements enrolment.
func (e enrolmentElsewhere) Call(ctx context.Context, who provision.Caller, n topic.Name, payload []byte) (topic.Name, []byte, error) {
	a, out, err := e.ask(ctx, enrolCall, &enrolQuestion{Who: who, Topic: n}, payload)
	if err != nil {
		return "", nil, err
	}
	return a.Topic, out, nil
}

// Provision implements enrolment.
func (e enrolmentElsewhere) Provision(ctx context.Context, leaf *x509.Certificate, ca string, who provision.Caller) (bool, error) {
	a, _, err := e.ask(ctx, enrolJust, &enrolQuestion{Who: who, CA: ca}, leaf.Raw)
	return err == nil && a.Known, err
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
