package provision

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/registry"
)

// Limits of provisioning.
const (
	// TokenLife is how long a certificate that a device has asked for waits.
	// Source: AWS IoT Core developer guide, "Device provisioning MQTT API".
	TokenLife = time.Hour

	// CreationsPerSecond bounds what one principal can ask for.
	CreationsPerSecond = 200

	maxCalls = 256 // at a time, of all connections, besides those that wait for a hook
	maxHooks = 256
)

// Invoker calls a function, by its name or ARN.
type Invoker interface {
	// Invoke returns when the function has answered or ctx ends.
	Invoke(ctx context.Context, function string, payload []byte) ([]byte, error)
}

// Options are what a Service needs.
type Options struct {
	Registry *registry.Registry
	Invoke   Invoker // of pre-provisioning hooks
	// Publish appends the event that tells of an attempt. It must not return
	// before the event is durable.
	Publish func(ctx context.Context, e *event.Event) error

	CreationsPerSecond int // of a principal; 0: CreationsPerSecond

	Logger *slog.Logger
	Now    func() time.Time // nil: time.Now
}

// Service answers the calls by which devices enrol. It is safe for concurrent
// use.
type Service struct {
	o     Options
	now   func() time.Time
	calls chan struct{}
	hooks chan struct{}

	creations, registrations limiter

	mu       sync.Mutex // guards what follows
	compiled map[string]*Template
}

// New returns a Service.
func New(o Options) (*Service, error) {
	if o.Registry == nil || o.Invoke == nil || o.Publish == nil || o.Logger == nil {
		return nil, errs.Errorf("provision.New", errs.Invalid, "registry, functions, log or logger is missing")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CreationsPerSecond == 0 {
		o.CreationsPerSecond = CreationsPerSecond
	}
	return &Service{
		o: o, now: o.Now, calls: make(chan struct{}, maxCalls), hooks: make(chan struct{}, maxHooks), compiled: map[string]*Template{},
		creations:     limiter{perSecond: o.CreationsPerSecond, now: o.Now},
		registrations: limiter{perSecond: o.CreationsPerSecond, now: o.Now},
	}, nil
}

// Caller is the connection that asks.
type Caller struct {
	Principal string // certificate id, access key, …; not empty
	ClientID  string
	SourceIP  string
	// Certificate tells that Principal is a certificate's id.
	Certificate bool
}

// operation is what a topic asks for.
type operation struct {
	name     string // as AWS calls it
	template string
	format   Format
}

// operationOf reads a topic; ok is false where it is not of this service.
func operationOf(n topic.Name) (operation, bool) {
	levels := strings.Split(string(n), "/")
	if levels[0] != "$aws" {
		return operation{}, false
	}
	o := operation{format: Format(levels[len(levels)-1])}
	switch {
	case len(levels) == 4 && levels[1] == "certificates" && levels[2] == "create":
		o.name = "CreateKeysAndCertificate"
	case len(levels) == 4 && levels[1] == "certificates" && levels[2] == "create-from-csr":
		o.name = "CreateCertificateFromCsr"
	case len(levels) == 5 && levels[1] == "provisioning-templates" && levels[3] == "provision":
		o.name, o.template = "RegisterThing", levels[2]
	default:
		return operation{}, false
	}
	return o, o.format == JSON || o.format == CBOR
}

// Serves reports whether n is a call of this service.
func Serves(n topic.Name) bool {
	_, ok := operationOf(n)
	return ok
}

// rejection is the answer to a call that is refused.
// Source: AWS IoT Core developer guide, "Device provisioning MQTT API".
type rejection struct {
	StatusCode   int    `json:"statusCode"`
	ErrorCode    string `json:"errorCode"`
	ErrorMessage string `json:"errorMessage"`
}

func (r *rejection) Error() string { return r.ErrorMessage }

func reject(status int, code, message string) error {
	return &rejection{status, code, message}
}

// rejectionOf returns what a device is told of err. What it could not change is
// not told it.
func rejectionOf(err error) *rejection {
	var r *rejection
	if errors.As(err, &r) {
		return r
	}
	status, code := 500, "InternalError"
	switch registry.CodeOf(err) {
	case registry.MalformedPolicy:
		return &rejection{400, "InvalidParameters", "the template's policy is not a policy with these parameters"}
	case registry.NotFound:
		return &rejection{404, "ResourceNotFound", errs.Text(err)}
	case registry.LimitExceeded, registry.VersionsLimitExceeded:
		return &rejection{400, "LimitExceeded", errs.Text(err)}
	case registry.CertificateState:
		return &rejection{409, "ResourceConflict", errs.Text(err)}
	case "":
	default:
		if errs.Is(err, errs.Conflict) || errs.Is(err, errs.Exists) {
			return &rejection{409, "ResourceConflict", errs.Text(err)}
		}
		return &rejection{400, "InvalidParameters", errs.Text(err)}
	}
	switch errs.KindOf(err) {
	case errs.Invalid, errs.TooLarge:
		return &rejection{400, "InvalidParameters", errs.Text(err)}
	case errs.Conflict, errs.Exists:
		return &rejection{409, "ResourceConflict", errs.Text(err)}
	case errs.Quota:
		return &rejection{429, "Throttled", errs.Text(err)}
	case errs.Unavailable, errs.Timeout:
		return &rejection{503, "ServiceUnavailable", "try again later"}
	}
	return &rejection{status, code, "an internal error"}
}

// Call does what a device asks for on a topic and returns the topic and the
// payload of the answer. It returns when what it decided is durable. An error
// says that there is no answer.
func (s *Service) Call(ctx context.Context, who Caller, n topic.Name, payload []byte) (topic.Name, []byte, error) {
	const op = "provision.Call"
	o, ok := operationOf(n)
	if !ok {
		return "", nil, errs.Errorf(op, errs.NotImplemented, "%s is no call of provisioning", clip(string(n)))
	}
	select {
	case s.calls <- struct{}{}:
		defer func() { <-s.calls }()
	case <-ctx.Done():
		return "", nil, errs.E(op, errs.Unavailable, ctx.Err())
	}
	a := &Attempt{
		Operation: o.name, Template: o.template, ClientID: who.ClientID, Principal: who.Principal, SourceIP: who.SourceIP, Format: string(o.format), At: s.now().UTC(),
	}
	counted := &s.creations
	if o.name == "RegisterThing" {
		counted = &s.registrations
	}
	var out any
	var err error
	if !counted.allow(who.Principal) {
		// Told to the device alone: an event for each would let it fill the log.
		err = reject(429, "Throttled", "too many requests in a second")
	} else {
		switch o.name {
		case "CreateKeysAndCertificate":
			out, err = s.createKeys(ctx, who, o, payload, a)
		case "CreateCertificateFromCsr":
			out, err = s.createFromCSR(ctx, who, o, payload, a)
		default:
			out, err = s.registerThing(ctx, who, o, payload, a)
		}
		s.tell(ctx, a, err)
	}
	end := "/accepted"
	if err != nil {
		if ctx.Err() != nil {
			return "", nil, errs.E(op, errs.Unavailable, err)
		}
		end, out = "/rejected", rejectionOf(err)
	}
	answer, err := o.format.encode(out)
	if err != nil {
		return "", nil, errs.E(op, errs.Internal, err)
	}
	return n + topic.Name(end), answer, nil
}

func malformed(f Format) error {
	return reject(400, "InvalidPayload", "the payload is not "+strings.ToUpper(string(f))+" of the form that is expected")
}

type certificateAnswer struct {
	CertificateID  string `json:"certificateId"`
	CertificatePEM string `json:"certificatePem"`
	PrivateKey     string `json:"privateKey,omitempty"`
	Token          string `json:"certificateOwnershipToken"`
}

// claim makes the secret that proves who asked, and what is kept of it.
func (s *Service) claim(who Caller) (secret [32]byte, c *registry.Claim) {
	rand.Read(secret[:])
	return secret, &registry.Claim{Token: hashed(secret[:]), Principal: who.Principal, Expires: s.now().Add(TokenLife).UTC().Truncate(time.Millisecond)}
}

func hashed(secret []byte) string {
	sum := sha256.Sum256(secret)
	return hex.EncodeToString(sum[:])
}

// token is the certificate's id and the secret.
func token(id string, secret [32]byte) string {
	b, _ := hex.DecodeString(id)
	return base64.RawURLEncoding.EncodeToString(append(b, secret[:]...))
}

func (s *Service) createKeys(ctx context.Context, who Caller, o operation, payload []byte, a *Attempt) (any, error) {
	if len(strings.TrimSpace(string(payload))) > 0 {
		if err := o.format.decode(payload, &struct{}{}); err != nil {
			return nil, malformed(o.format)
		}
	}
	secret, claim := s.claim(who)
	c, keys, err := s.o.Registry.CreateKeysAndCertificate(ctx, registry.CreateKeys{Status: registry.PendingActivation, Claim: claim})
	if err != nil {
		return nil, err
	}
	a.created(c)
	return &certificateAnswer{c.ID, c.PEM(), keys.Private, token(c.ID, secret)}, nil
}

func (s *Service) createFromCSR(ctx context.Context, who Caller, o operation, payload []byte, a *Attempt) (any, error) {
	var q struct {
		CSR string `json:"certificateSigningRequest"`
	}
	if err := o.format.decode(payload, &q); err != nil {
		return nil, malformed(o.format)
	}
	secret, claim := s.claim(who)
	c, err := s.o.Registry.CreateCertificateFromCSR(ctx, q.CSR, registry.PendingActivation, claim)
	if err != nil {
		if registry.CodeOf(err) == registry.InvalidRequest {
			return nil, reject(400, "InvalidCsr", errs.Text(err))
		}
		return nil, err
	}
	a.created(c)
	return &certificateAnswer{CertificateID: c.ID, CertificatePEM: c.PEM(), Token: token(c.ID, secret)}, nil
}

type thingAnswer struct {
	Configuration map[string]string `json:"deviceConfiguration"`
	Thing         string            `json:"thingName"`
}

var errToken = reject(400, "InvalidCertificateOwnershipToken", "the certificate ownership token is not valid for this connection, was used, or has ended")

// owned returns the certificate of a token, where it is who's and holds. cert
// finds it.
func (s *Service) owned(who Caller, given string, cert func(id string) (*registry.Certificate, error)) (*registry.Certificate, error) {
	b, err := base64.RawURLEncoding.DecodeString(given)
	if err != nil || len(b) != 64 {
		return nil, errToken
	}
	c, err := cert(hex.EncodeToString(b[:32]))
	if err != nil {
		if errs.Is(err, errs.Unavailable) {
			return nil, err
		}
		return nil, errToken
	}
	if c.Claim == nil || c.Status != registry.PendingActivation || c.Claim.Principal != who.Principal || !s.now().Before(c.Claim.Expires) ||
		subtle.ConstantTimeCompare([]byte(hashed(b[32:])), []byte(c.Claim.Token)) != 1 {
		return nil, errToken
	}
	return c, nil
}

func (s *Service) registerThing(ctx context.Context, who Caller, o operation, payload []byte, a *Attempt) (any, error) {
	var q struct {
		Token      string            `json:"certificateOwnershipToken"`
		Parameters map[string]string `json:"parameters"`
	}
	if err := o.format.decode(payload, &q); err != nil {
		return nil, malformed(o.format)
	}
	a.parameters(q.Parameters)
	if err := checkParameters(q.Parameters); err != nil {
		return nil, err
	}
	t, err := s.o.Registry.Template(o.template)
	switch {
	case err != nil && registry.CodeOf(err) == registry.NotFound, err == nil && t.Type != registry.FleetProvisioning:
		return nil, reject(404, "ResourceNotFound", "there is no such provisioning template")
	case err != nil:
		return nil, err
	case !t.Enabled:
		return nil, reject(400, "InvalidParameters", "the provisioning template is not enabled")
	}
	a.step("template", "version "+itoa(t.Default))
	// A temporary claim is for one template.
	if claim, err := s.o.Registry.ProvisioningClaim(who.Principal); err == nil && claim.Template != t.Name {
		return nil, reject(403, "AccessDenied", "this claim is for another provisioning template")
	}
	c, err := s.owned(who, q.Token, s.o.Registry.Certificate)
	if err != nil {
		return nil, err
	}
	a.CertificateID = c.ID
	a.step("token", "proves who asked for certificate "+c.ID)
	parameters := q.Parameters
	if t.Hook != nil {
		if parameters, err = s.hook(ctx, who, t, c, parameters, a); err != nil {
			return nil, err
		}
	}
	compiled, err := s.compile(t.Body(), t.Type)
	if err != nil {
		return nil, errs.E("provision.registerThing", errs.Internal, err)
	}
	leaf, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return nil, errs.E("provision.registerThing", errs.Internal, err)
	}
	plan, err := compiled.Expand(parameters, parametersOf(leaf, c.ID))
	if err != nil {
		return nil, err
	}
	a.step("expanded", plan.summary())
	if plan.Certificate.ID != c.ID {
		return nil, reject(400, "InvalidParameters", "the template's certificate is not the one the token is of")
	}
	var made *Made
	err = s.o.Registry.Change(ctx, "provision.RegisterThing", func(tx *registry.Tx) (err error) {
		if _, err = s.owned(who, q.Token, tx.Certificate); err != nil {
			return err // used meanwhile
		}
		made, err = plan.apply(tx, c.ID)
		return err
	})
	if err != nil {
		return nil, err
	}
	a.Thing = made.Thing
	a.Steps = append(a.Steps, made.Steps...)
	return &thingAnswer{plan.Configuration, made.Thing}, nil
}

// compile returns the compiled form of a template's body.
func (s *Service) compile(body string, typ registry.TemplateType) (*Template, error) {
	key := string(typ) + "\x00" + body
	s.mu.Lock()
	t := s.compiled[key]
	s.mu.Unlock()
	if t != nil {
		return t, nil
	}
	t, err := Compile(body, typ)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if len(s.compiled) >= 256 {
		clear(s.compiled)
	}
	s.compiled[key] = t
	s.mu.Unlock()
	return t, nil
}

// oids of a subject that crypto/x509 has no field for.
const oidDNQualifier = "2.5.4.46"

// parametersOf returns what a template can ask of a certificate.
func parametersOf(leaf *x509.Certificate, id string) map[string]string {
	n := leaf.Subject
	out := map[string]string{certificateID: id}
	set := func(name, v string) {
		if v != "" {
			out[ofCertificate+name] = v
		}
	}
	first := func(l []string) string {
		if len(l) == 0 {
			return ""
		}
		return l[0]
	}
	set("Country", first(n.Country))
	set("Organization", first(n.Organization))
	set("OrganizationalUnit", first(n.OrganizationalUnit))
	set("StateName", first(n.Province))
	set("CommonName", n.CommonName)
	set("SerialNumber", n.SerialNumber)
	for _, a := range n.Names {
		if v, ok := a.Value.(string); ok && a.Type.String() == oidDNQualifier {
			set("DistinguishedNameQualifier", v)
		}
	}
	return out
}
