package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/ingest/policy"
	"github.com/weir-iot/weir/internal/errs"
)

// RegisteredOptions configure a Registered.
type RegisteredOptions struct {
	Directory Directory
	Policies  *Policies

	Registrar   Registrar   // nil: no registration just in time
	Provisioner Provisioner // nil: certificates of a CA with a template are registered, no more
	// Announce tells of a certificate that was registered just in time or waits
	// for its activation. nil: nobody is told.
	Announce func(ctx context.Context, r *Registration) error

	Registerer prometheus.Registerer // nil: no metrics
	Now        func() time.Time      // nil: time.Now
}

// Registration tells of a certificate that waits for its activation.
type Registration struct {
	Certificate string // id
	CA          string // id
	Registered  time.Time
	At          time.Time
}

// Registered is the Authenticator of TLS client certificates. What decides is the
// certificate's fingerprint and what the registry says of it; no name in it
// means anything. Without TLS it lets in everyone from loopback.
type Registered struct {
	o       RegisteredOptions
	now     func() time.Time
	refused *prometheus.CounterVec

	mu    sync.Mutex // guards what follows
	known map[string]*policy.Certificate
	// Registrations just in time, and announcements, of the current second.
	second int64
	count  int
}

// maxKnown bounds the certificates whose attributes are kept at hand.
const maxKnown = 10_000

// maxRegistrations bounds what strangers can make the registry do in a second.
const maxRegistrations = 200

// maxChain is the longest chain a client may send; only its first certificate is
// looked at.
const maxChain = 10

// Reasons for which a certificate is refused; they label the metric.
const (
	reasonNone       = "none"
	reasonUnknown    = "unknown"
	reasonInactive   = "inactive"
	reasonRevoked    = "revoked"
	reasonPending    = "pending"
	reasonExpired    = "expired"
	reasonEarly      = "not_yet_valid"
	reasonWeak       = "weak"
	reasonUsage      = "usage"
	reasonIsCA       = "is_ca"
	reasonCA         = "ca_inactive"
	reasonChain      = "chain"
	reasonPolicy     = "policy_unreadable"
	reasonRegistered = "registered"
)

// Refusal is the error of a client certificate that is not accepted.
type Refusal struct {
	Certificate string // id; "" without one
	Reason      string // a word, the label of the metric
	Text        string
}

func (r *Refusal) Error() string {
	if r.Certificate == "" {
		return r.Text
	}
	return fmt.Sprintf("certificate %s: %s", r.Certificate, r.Text)
}

// JustRegistered tells that the certificate was registered by this attempt, which
// is refused all the same.
func (r *Refusal) JustRegistered() bool { return r.Reason == reasonRegistered }

// NewRegistered returns the Authenticator.
func NewRegistered(o RegisteredOptions) (*Registered, error) {
	if o.Directory == nil || o.Policies == nil {
		return nil, errors.New("auth: directory and policies are needed")
	}
	r := &Registered{o: o, now: o.Now, known: map[string]*policy.Certificate{}}
	if r.now == nil {
		r.now = time.Now
	}
	r.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "weir", Subsystem: "auth", Name: "certificates_refused_total", Help: "Client certificates that were not accepted, by reason.",
	}, []string{"reason"})
	if o.Registerer != nil {
		if err := o.Registerer.Register(r.refused); err != nil {
			return nil, fmt.Errorf("auth: metrics: %w", err)
		}
	}
	return r, nil
}

func refuse(id, reason, format string, args ...any) error {
	return errs.E("auth.Authenticate", errs.Unauthorized, &Refusal{id, reason, fmt.Sprintf(format, args...)})
}

// Authenticate implements Authenticator.
func (r *Registered) Authenticate(ctx context.Context, c *Connection) (*Principal, error) {
	p := &Principal{ClientID: c.ClientID, Remote: c.Remote, Listener: c.Listener}
	if c.TLS == nil {
		if !c.Remote.Addr().Unmap().IsLoopback() {
			return nil, errs.Errorf("auth.Authenticate", errs.Forbidden, "connections without TLS are for loopback only")
		}
		p.Data = loopback{}
		return p, nil
	}
	s, id, err := r.admit(ctx, c)
	if err != nil {
		var refusal *Refusal
		if errors.As(err, &refusal) {
			r.refused.WithLabelValues(refusal.Reason).Inc()
		}
		return nil, err
	}
	p.ID, p.Data = id, s
	return p, nil
}

func (r *Registered) admit(ctx context.Context, c *Connection) (*Session, string, error) {
	chain := c.TLS.PeerCertificates
	switch {
	case len(chain) == 0:
		return nil, "", refuse("", reasonNone, "no client certificate")
	case len(chain) > maxChain:
		return nil, "", refuse("", reasonChain, "the client sent a chain of %d certificates", len(chain))
	}
	leaf := chain[0]
	id := CertificateID(leaf)
	if err := fit(leaf, id, r.now()); err != nil {
		return nil, "", err
	}
	if _, ok := r.o.Directory.Certificate(id); !ok {
		if err := r.registerJustInTime(ctx, c, leaf, id); err != nil {
			return nil, "", err
		}
	}
	facts, thing := r.facts(c, leaf, id), claimedThing(c)
	s, err := r.o.Policies.NewSession(id, func() (Standing, error) { return r.standing(id, leaf.NotAfter, facts, thing) })
	if err != nil {
		var refusal *Refusal
		if errors.As(err, &refusal) && refusal.Reason == reasonPending {
			if rec, ok := r.o.Directory.Certificate(id); ok && rec.CA != "" {
				r.announce(ctx, &Registration{Certificate: id, CA: rec.CA, Registered: rec.Registered, At: r.now()})
			}
		}
		return nil, "", err
	}
	return s, id, nil
}

// fit judges what a certificate says by itself. That the client has its key, the
// handshake has shown.
func fit(leaf *x509.Certificate, id string, now time.Time) error {
	switch {
	case now.Before(leaf.NotBefore):
		return refuse(id, reasonEarly, "not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	case now.After(leaf.NotAfter):
		return refuse(id, reasonExpired, "expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	switch k := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return refuse(id, reasonWeak, "its RSA key has %d bits, at least 2048 are needed", k.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return refuse(id, reasonWeak, "its key is on the curve %s", k.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return refuse(id, reasonWeak, "its key is of a kind that is not supported")
	}
	switch leaf.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.DSAWithSHA256, x509.MD5WithRSA, x509.MD2WithRSA, x509.UnknownSignatureAlgorithm:
		return refuse(id, reasonWeak, "it is signed with %s", leaf.SignatureAlgorithm)
	}
	// Many tools mark self-signed certificates as authorities; such a one speaks
	// for itself alone, and may be registered.
	if leaf.IsCA && string(leaf.RawIssuer) != string(leaf.RawSubject) {
		return refuse(id, reasonIsCA, "it is the certificate of an authority")
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return refuse(id, reasonUsage, "its key usage has no digital signature")
	}
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) > 0 {
		for _, u := range leaf.ExtKeyUsage {
			if u == x509.ExtKeyUsageClientAuth || u == x509.ExtKeyUsageAny {
				return nil
			}
		}
		return refuse(id, reasonUsage, "its extended key usage has no client authentication")
	}
	return nil
}

// facts gathers what does not change while the connection is there.
func (r *Registered) facts(c *Connection, leaf *x509.Certificate, id string) *policy.Facts {
	f := &policy.Facts{
		ClientID: c.ClientID, MQTT: c.Listener != HTTPS && c.Listener != HTTP, Certificate: r.certificate(leaf, id),
		SourceIP: c.Remote.Addr(), DomainName: c.TLS.ServerName, Secure: true,
	}
	f.Connecting(r.o.Policies.arn, c.Persistent, c.WillTopic)
	return f.Prepare()
}

// certificate returns what policies may ask of leaf.
func (r *Registered) certificate(leaf *x509.Certificate, id string) *policy.Certificate {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.known[id]
	if c == nil {
		if len(r.known) >= maxKnown {
			clear(r.known)
		}
		c = policyCertificate(leaf, id)
		r.known[id] = c
	}
	return c
}

// ThingNameHeader has the name of the thing that asks the credentials provider.
const ThingNameHeader = "X-Amzn-Iot-Thingname"

// claimedThing returns the thing a request to the credentials provider says it
// is of.
func claimedThing(c *Connection) string {
	if c.HTTP == nil || !strings.HasPrefix(c.HTTP.URL.Path, "/role-aliases/") {
		return ""
	}
	return c.HTTP.Header.Get(ThingNameHeader)
}

// standing says what holds for a certificate now. claimed is the thing a
// connection that is not MQTT says it is of; it is believed where the
// certificate is attached to it.
func (r *Registered) standing(id string, until time.Time, base *policy.Facts, claimed string) (Standing, error) {
	d := r.o.Directory
	rec, ok := d.Certificate(id)
	if !ok {
		return Standing{}, refuse(id, reasonUnknown, "not registered")
	}
	switch rec.Status {
	case Active:
	case Revoked:
		return Standing{}, refuse(id, reasonRevoked, "revoked")
	case PendingActivation, PendingTransfer:
		return Standing{}, refuse(id, reasonPending, "its status is %s", rec.Status)
	default:
		return Standing{}, refuse(id, reasonInactive, "its status is %s", rec.Status)
	}
	if rec.CA != "" {
		ca, ok := d.CA(rec.CA)
		switch {
		case !ok: // deleted: what it vouched for stays registered
		case ca.Status != Active:
			return Standing{}, refuse(id, reasonCA, "the CA %s it was registered with is %s", rec.CA, ca.Status)
		}
	}
	f := *base
	thing := ""
	if f.MQTT {
		for _, a := range d.ThingsOf(id) {
			if a.Thing == f.ClientID {
				thing = a.Thing
				break
			}
			if a.Exclusive {
				thing = a.Thing
			}
		}
	} else if claimed != "" && slices.ContainsFunc(d.ThingsOf(id), func(a Attachment) bool { return a.Thing == claimed }) {
		thing = claimed
	}
	if thing != "" {
		f.Thing, _ = d.Thing(thing)
	}
	set, err := r.o.Policies.Compile(d.PoliciesOf(id, thing))
	if err != nil {
		return Standing{}, refuse(id, reasonPolicy, "%s", errs.Text(err))
	}
	return Standing{Set: set, Facts: &f, Until: until}, nil
}

// registerJustInTime registers a certificate that a registered CA has signed. It
// returns nil only where the certificate is registered by now.
func (r *Registered) registerJustInTime(ctx context.Context, c *Connection, leaf *x509.Certificate, id string) error {
	unknown := refuse(id, reasonUnknown, "not registered")
	if r.o.Registrar == nil {
		return unknown
	}
	for _, ca := range r.o.Directory.CAsOf(leaf) {
		if !ca.Certificate.IsCA || leaf.CheckSignatureFrom(ca.Certificate) != nil {
			continue
		}
		now := r.now()
		switch {
		case ca.Status != Active:
			return refuse(id, reasonCA, "not registered, and its CA %s is %s", ca.ID, ca.Status)
		case now.Before(ca.Certificate.NotBefore), now.After(ca.Certificate.NotAfter):
			return refuse(id, reasonCA, "not registered, and its CA %s has expired", ca.ID)
		case !ca.AutoRegistration:
			return refuse(id, reasonUnknown, "not registered, and its CA %s does not register by itself", ca.ID)
		case !r.allow():
			return errs.Errorf("auth.Authenticate", errs.Unavailable, "too many certificates are being registered")
		}
		if ca.Template != "" && r.o.Provisioner != nil {
			err := r.o.Provisioner.Provision(ctx, c, leaf, ca)
			switch {
			case err == nil:
				return refuse(id, reasonRegistered, "registered just now, with the template of its CA; the next connection may succeed")
			case errs.Is(err, errs.Exists):
				return nil
			}
			return errs.E("auth.Authenticate", errs.Unavailable, fmt.Errorf("provisioning certificate %s: %w", id, err))
		}
		err := r.o.Registrar.RegisterPending(ctx, leaf, ca)
		if errs.Is(err, errs.Exists) {
			return nil
		}
		if err != nil {
			return errs.E("auth.Authenticate", errs.Unavailable, fmt.Errorf("registering certificate %s: %w", id, err))
		}
		if r.o.Announce != nil {
			if err := r.o.Announce(ctx, &Registration{Certificate: id, CA: ca.ID, Registered: now, At: now}); err != nil {
				return errs.E("auth.Authenticate", errs.Unavailable, fmt.Errorf("announcing certificate %s: %w", id, err))
			}
		}
		return refuse(id, reasonRegistered, "registered just now, and waits for its activation")
	}
	return unknown
}

// allow counts what strangers make the registry and the log do.
func (r *Registered) allow() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.now().Unix(); s != r.second {
		r.second, r.count = s, 0
	}
	r.count++
	return r.count <= maxRegistrations
}

// announce tells again of a certificate that waits for its activation, as its
// client comes again. It is not needed: whoever missed it asks the registry.
func (r *Registered) announce(ctx context.Context, reg *Registration) {
	if r.o.Announce == nil || !r.allow() {
		return
	}
	if err := r.o.Announce(ctx, reg); err != nil {
		r.o.Policies.logger.Warn("a certificate that waits for its activation is not announced", "certificate", reg.Certificate, "error", err)
	}
}
