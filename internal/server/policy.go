package server

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"hash/fnv"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/policy"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/registry"
)

// openAuth opens who is let in and what is allowed: certificates and policies of
// the registry.
func (s *Server) openAuth(context.Context) error {
	s.directory = newDirectory(s.things)
	s.policies = auth.NewPolicies(auth.PoliciesOptions{
		AccountID: s.cfg.AccountID, Region: s.cfg.Region, Generation: s.directory.Generation, GenerationOf: s.directory.GenerationOf,
		Logger: s.logger.With("room", "auth"), Now: s.now,
	})
	s.denials = &ingest.Denials{Noise: ingest.Noise{Logger: s.logger.With("room", "credentials"), Now: s.now}, Authorizer: s.policies}
	var err error
	s.authn, err = auth.NewRegistered(auth.RegisteredOptions{
		Directory: s.directory, Policies: s.policies, Registrar: s.directory, Provisioner: provisioner{s}, Announce: s.announce,
		Registerer: s.registry, Now: s.now,
	})
	return err
}

// directory is the registry as ingest/auth asks it.
type directory struct {
	r          *registry.Registry
	generation atomic.Uint64 // of anything
	all        atomic.Uint64 // of what may concern every certificate
	of         [1024]atomic.Uint64
}

func newDirectory(r *registry.Registry) *directory {
	d := &directory{r: r}
	r.OnChange(d.changed)
	return d
}

// changed moves the generations of those whose standing a change may touch: who
// is missed here keeps rights that were taken away.
func (d *directory) changed(c registry.Change) {
	switch c.Kind {
	case registry.KindCertificate, registry.KindClaim:
		d.certificate(c.Name).Add(1)
	case registry.KindPrincipal:
		d.certificate(c.Other).Add(1)
	case registry.KindThing, registry.KindMember:
		d.certificatesOf(c.Name)
	case registry.KindAttachment:
		if id, ok := strings.CutPrefix(c.Name, "cert/"); ok {
			d.certificate(id).Add(1)
		} else {
			d.all.Add(1)
		}
	case registry.KindGroup, registry.KindCA, registry.KindPolicy, registry.KindTemplate:
		d.all.Add(1)
	case registry.KindAccessKey:
	default:
		return
	}
	d.generation.Add(1) // last: who sees it asks for the others
}

// certificate returns the generation of a certificate, which it shares with some
// others.
func (d *directory) certificate(id string) *atomic.Uint64 {
	h := fnv.New32a()
	h.Write([]byte(id))
	return &d.of[h.Sum32()%uint32(len(d.of))]
}

// certificatesOf moves the generations of a thing's certificates. One that is
// attached or detached by the same change is told of by itself.
func (d *directory) certificatesOf(thing string) {
	for p := (registry.Page{}); ; {
		list, next, err := d.r.PrincipalsOf(thing, "", p)
		if registry.CodeOf(err) == registry.NotFound {
			return
		}
		if err != nil {
			d.all.Add(1)
			return
		}
		for _, t := range list {
			d.certificate(t.CertificateID).Add(1)
		}
		if next == "" {
			return
		}
		p.Token = next
	}
}

// GenerationOf returns the generation of a certificate's standing.
func (d *directory) GenerationOf(id string) func() uint64 {
	own := d.certificate(id)
	return func() uint64 { return d.all.Load() + own.Load() }
}

// Generation implements auth.Directory, as the others do.
func (d *directory) Generation() uint64 { return d.generation.Load() }

func (d *directory) Certificate(id string) (*auth.Certificate, bool) {
	c, err := d.r.Certificate(id)
	if err != nil {
		return d.claimed(id)
	}
	return &auth.Certificate{ID: c.ID, Status: auth.Status(c.Status), DER: c.DER, CA: c.CAID, Registered: c.CreatedAt}, true
}

func (d *directory) CA(id string) (*auth.CA509, bool) {
	c, err := d.r.CACertificate(id)
	if err != nil {
		return nil, false
	}
	return authority(c), true
}

func authority(c *registry.CACertificate) *auth.CA509 {
	out := &auth.CA509{ID: c.ID, Status: auth.Status(c.Status), Certificate: c.Certificate(), AutoRegistration: c.AutoRegistration}
	if c.Config != nil {
		out.Template = c.Config.TemplateName
		if out.Template == "" {
			out.Template = c.Config.TemplateBody
		}
	}
	return out
}

func (d *directory) CAsOf(leaf *x509.Certificate) []*auth.CA509 {
	var out []*auth.CA509
	for _, c := range d.r.CAsOf(leaf) {
		out = append(out, authority(c))
	}
	return out
}

func (d *directory) ThingsOf(id string) []auth.Attachment {
	var out []auth.Attachment
	for p := (registry.Page{}); ; {
		list, next, err := d.r.ThingsOf(id, "", p)
		if err != nil {
			return nil
		}
		for _, t := range list {
			out = append(out, auth.Attachment{Thing: t.Thing, Exclusive: t.Type == registry.Exclusive})
		}
		if next == "" {
			return out
		}
		p.Token = next
	}
}

func (d *directory) Thing(name string) (*policy.Thing, bool) {
	t, err := d.r.Thing(name)
	if err != nil {
		return nil, false
	}
	return &policy.Thing{Name: t.Name, Type: t.Type, Attributes: t.Attributes}, true
}

// PoliciesOf returns nothing where the certificate is not known any more: then
// nothing is allowed.
func (d *directory) PoliciesOf(id, thing string) []auth.Policy {
	list, err := d.r.EffectivePolicies(id, thing)
	if err != nil {
		return d.claimPolicy(id)
	}
	out := make([]auth.Policy, len(list))
	for i, p := range list {
		out[i] = auth.Policy{Name: p.Policy.Name, Document: p.Policy.Document()}
	}
	return out
}

// RegisterPending implements auth.Registrar.
func (d *directory) RegisterPending(ctx context.Context, leaf *x509.Certificate, _ *auth.CA509) error {
	_, _, isNew, err := d.r.AutoRegister(ctx, leaf)
	if err == nil && !isNew {
		return errs.E("server.RegisterPending", errs.Exists, nil)
	}
	return err
}

// announce tells rules and subscribers of a certificate that waits for its
// activation.
// Source: AWS IoT Core developer guide, "Automatic/Just-in-time registration".
func (s *Server) announce(ctx context.Context, r *auth.Registration) error {
	if !s.things.EventConfigurations().On("CA_CERTIFICATE") {
		return nil
	}
	name, err := topic.ParseName("$aws/events/certificates/registered/"+r.CA, topic.Limits{})
	if err != nil {
		return err
	}
	payload, err := json.Marshal(struct {
		CertificateID string `json:"certificateId"`
		CA            string `json:"caCertificateId"`
		Timestamp     int64  `json:"timestamp"`
		Status        string `json:"certificateStatus"`
		Account       string `json:"awsAccountId"`
		Registered    string `json:"certificateRegistrationTimestamp"`
	}{r.Certificate, r.CA, r.At.UnixMilli(), string(auth.PendingActivation), s.cfg.AccountID, strconv.FormatInt(r.Registered.UnixMilli(), 10)})
	if err != nil {
		return err
	}
	return s.log.Publish(ctx, &event.Event{
		Topic: name, Payload: payload, Principal: r.Certificate, Received: r.At.UTC().Truncate(time.Millisecond), QoS: 1, Protocol: event.Server,
	})
}

// ownerPolicy is the policy of the owner's own certificate.
const ownerPolicy = "WeirOwnerMayDoEverything"

const ownerDocument = `{
  "Version": "2012-10-17",
  "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]
}`

// registerOwner makes the certificate of the owner's own tools known, once, with
// a policy that allows all. What the owner changes of it later stays changed.
func (s *Server) registerOwner(ctx context.Context) error {
	pem, err := os.ReadFile(s.endpoints.CertFile)
	if err != nil {
		return err
	}
	return s.things.Change(ctx, "server.registerOwner", func(tx *registry.Tx) error {
		c, err := tx.RegisterCertificate(registry.RegisterCertificate{PEM: string(pem), WithoutCA: true, Status: registry.Active})
		if registry.CodeOf(err) == registry.Exists {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := tx.Policy(ownerPolicy); registry.CodeOf(err) == registry.NotFound {
			if _, err := tx.CreatePolicy(ownerPolicy, ownerDocument, nil); err != nil {
				return err
			}
		}
		return tx.AttachPolicy(ownerPolicy, s.things.CertificateARN(c.ID))
	})
}
