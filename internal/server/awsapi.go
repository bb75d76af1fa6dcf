package server

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/control/awsapi"
	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/auth/sigv4"
	"github.com/weir-iot/weir/ingest/mqtt"
	"github.com/weir-iot/weir/ingest/policy"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules"
)

// openAWS joins the AWS APIs with the rooms they speak for.
func (s *Server) openAWS(context.Context) error {
	owner, err := control.OpenAccessKey(s.dataDir)
	if err != nil {
		return err
	}
	s.signatures = &signatures{
		owner: owner.ID, account: s.cfg.AccountID, policies: s.policies, now: s.now,
		v: sigv4.New(sigv4.Options{Keys: s.accessKeys(owner), Region: s.cfg.Region, Services: awsapi.SigningNames(), Now: s.now}),
	}
	s.aws, err = awsapi.New(awsapi.Options{
		AccountID: s.cfg.AccountID, Region: s.cfg.Region,
		Verifier: s.signatures,
		Registry: s.things, Rules: topicRules{s.rules}, Destinations: s.destinations,
		Messages: &messages{log: s.log, retained: retainedMessages{s}, limits: s.limits(), now: s.now},
		Shadows:  s.shadows, Connections: mqtt.NewGateways(s.gateway, s.services.conn()), Authorizers: s.authorizers, Provisioner: registerThing{s}, Endpoints: s.deviceEndpointsAnywhere,
		Logger: s.logger.With("room", "aws"), Registerer: s.registry, Now: s.now,
	})
	return err
}

// accessKeys finds the secrets of access keys.
func (s *Server) accessKeys(owner control.OwnerKey) sigv4.Keys {
	return sigv4.KeysFunc(func(_ context.Context, id, token string) (sigv4.Key, bool) {
		if id == owner.ID {
			return sigv4.Key{Secret: owner.Secret, Policies: []string{ownerDocument}}, token == ""
		}
		c, err := s.things.Credential(id, token)
		if err != nil {
			return sigv4.Key{}, false
		}
		return sigv4.Key{Secret: c.Secret, Policies: []string{c.Policy}, Expires: c.Expires, Context: s.roleContext(c.Role)}, true
	})
}

// deviceEndpoints returns what DescribeEndpoint answers: the port that takes
// everything, else that for HTTPS, which the credentials provider is on.
func (s *Server) deviceEndpoints() map[string]string {
	at := s.endpoints.Mux
	if at == "" {
		at = s.endpoints.HTTPS
	}
	if at == "" {
		return nil
	}
	at = s.public(at)
	out := map[string]string{"iot:Data": at, "iot:Data-ATS": at, "iot:Jobs": at}
	if s.endpoints.HTTPS != "" { // the other port asks for certificates by ALPN name alone, which no client of it sends
		out["iot:CredentialProvider"] = s.public(s.endpoints.HTTPS)
	}
	return out
}

// deviceEndpointsAnywhere is deviceEndpoints, of a gateway in another process
// where this one has none.
func (s *Server) deviceEndpointsAnywhere() map[string]string {
	if s.gateway != nil || s.services == nil {
		return s.deviceEndpoints()
	}
	var out map[string]string
	if err := s.tell(tellEndpoints, nil, &out); err != nil {
		s.logger.Warn("no gateway says where devices connect", "err", err)
	}
	return out
}

// signatures verifies who signed a request. The owner's key may do everything,
// every other what its policies allow.
type signatures struct {
	v        *sigv4.Verifier
	owner    string // access key id
	account  string
	policies *auth.Policies
	now      func() time.Time
}

// refused is a signature's error with its code.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// AWSCode implements the code of awsapi.
func (r refused) AWSCode() string {
	if code := sigv4.CodeOf(r.error); code != "" {
		return code
	}
	return sigv4.UnrecognizedClient
}

// of returns signatures for one service alone.
func (s *signatures) of(service string) *signatures {
	o := *s
	o.v = s.v.For(service)
	return &o
}

// Check implements awsapi.Verifier.
func (s *signatures) Check(r *http.Request) error {
	if err := s.v.Check(r); err != nil {
		return refused{err}
	}
	return nil
}

// Verify implements awsapi.Verifier.
func (s *signatures) Verify(r *http.Request, body []byte) (*awsapi.Caller, error) {
	k, err := s.v.Verify(r, body)
	if err != nil {
		return nil, refused{err}
	}
	c := &awsapi.Caller{ID: k.AccessKeyID, ARN: "arn:aws:iam::" + s.account + ":user/" + k.AccessKeyID}
	if remote, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		c.SourceIP = remote.Addr().Unmap()
	}
	if k.AccessKeyID == s.owner {
		c.ARN = "arn:aws:iam::" + s.account + ":root"
		c.May = func(string, string) bool { return true }
		return c, nil
	}
	documents := make([]auth.Policy, len(k.Policies))
	for i, d := range k.Policies {
		documents[i] = auth.Policy{Name: "of the access key", Document: d}
	}
	set, err := s.policies.Compile(documents)
	if err != nil {
		return nil, errs.E("server.Verify", errs.Internal, err)
	}
	facts := &policy.Facts{SourceIP: c.SourceIP, Other: k.Context}
	facts.Prepare()
	c.May = func(action, resource string) bool {
		return set.Decide(&policy.Request{Action: policy.ActionOf(action), Resource: resource, Facts: facts, Now: s.now()}).Allowed
	}
	return c, nil
}

// serveData answers the data plane's requests on the device ports, where the
// gateway has said who sends them and the same policies hold as for MQTT.
func (s *Server) serveData(w http.ResponseWriter, r *http.Request) {
	p := auth.PrincipalFrom(r.Context())
	if p == nil || s.aws == nil {
		http.NotFound(w, r)
		return
	}
	if alias, ok := credentialsOf(r.URL.EscapedPath()); ok {
		s.serveCredentials(w, r, p, alias)
		return
	}
	prefix := "arn:aws:iot:" + s.cfg.Region + ":" + s.cfg.AccountID + ":"
	s.aws.ServeData(w, r, &awsapi.Caller{ID: p.ID, ARN: p.ID, SourceIP: p.Remote.Addr(), May: func(action, resource string) bool {
		a, ok := auth.ParseAction(action)
		if !ok {
			return false // no device may
		}
		if a.Prefix() == "" {
			return s.policies.May(p, a, "")
		}
		name, ok := strings.CutPrefix(resource, prefix+a.Prefix())
		return ok && s.policies.May(p, a, name)
	}})
}

// topicRules is the rule store and the engine, as the AWS API wants them.
type topicRules struct{ r *ruleService }

// settle waits until the engine has taken a change in.
func (t topicRules) settle(ctx context.Context, st rules.Stored, err error) error {
	if err == nil {
		t.r.await(ctx, st.Rule.Name, st.Version, !st.Rule.Disabled)
	}
	return err
}

func (t topicRules) Create(ctx context.Context, r *rules.Rule) error {
	if err := t.check(r); err != nil {
		return err
	}
	st, err := t.r.s.store.Create(ctx, r)
	return t.settle(ctx, st, err)
}

func (t topicRules) Replace(ctx context.Context, r *rules.Rule) error {
	old, err := t.r.s.store.Get(ctx, r.Name)
	if err != nil {
		return err
	}
	if err := t.check(r); err != nil {
		return err
	}
	st, _, err := t.r.s.store.Apply(ctx, r, old.Revision)
	return t.settle(ctx, st, err)
}

// check finds a mistake in the statement with its place in it; the store's own
// check finds all others.
func (t topicRules) check(r *rules.Rule) error {
	if _, err := t.r.s.language.Compile(r); err != nil {
		return errs.E("rules.Check", errs.Invalid, err)
	}
	return nil
}

func (t topicRules) Rule(ctx context.Context, name string) (*rules.Stored, error) {
	st, err := t.r.s.store.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	return &st, nil
}

func (t topicRules) All(ctx context.Context) ([]rules.Stored, error) { return t.r.s.store.List(ctx) }

func (t topicRules) SetEnabled(ctx context.Context, name string, enabled bool) error {
	st, err := t.r.s.store.SetEnabled(ctx, name, enabled)
	return t.settle(ctx, st, err)
}

func (t topicRules) Delete(ctx context.Context, name string) error {
	if err := t.r.s.store.Delete(ctx, name); err != nil {
		return err
	}
	t.r.await(ctx, name, 0, false)
	return nil
}

// messages publishes as the gateway would.
type messages struct {
	log      *eventlog.Log
	retained retainedMessages
	limits   ingest.Limits
	now      func() time.Time
}

// Publish implements awsapi.Messages.
func (m *messages) Publish(ctx context.Context, e *event.Event) error {
	const op = "server.Publish"
	n, err := topic.ParseName(string(e.Topic), m.limits.Topic())
	if err != nil {
		return errs.E(op, errs.Invalid, err)
	}
	switch ingest.Publish(n) {
	case ingest.Private:
		return errs.Errorf(op, errs.Forbidden, "private topic: only a device's connection can call its service")
	case ingest.Reserved:
		return errs.Errorf(op, errs.Forbidden, "reserved topic: clients may not publish on it")
	}
	if len(e.Payload) > m.limits.Payload {
		return errs.Errorf(op, errs.TooLarge, "payload is over %d bytes", m.limits.Payload)
	}
	if e.Props != nil && e.Props.ResponseTopic != "" {
		if _, err := topic.ParseName(e.Props.ResponseTopic, m.limits.Topic()); err != nil {
			return errs.Errorf(op, errs.Invalid, "responseTopic: %w", err)
		}
	}
	if e.Props != nil {
		e.Props.MessageExpiry = min(e.Props.MessageExpiry, uint32(m.limits.MessageExpiryMax/time.Second))
	}
	e.Received = m.now().UTC().Truncate(time.Millisecond)
	// A client that goes away does not take back what it published.
	return m.log.Publish(context.WithoutCancel(ctx), e)
}

// Retained implements awsapi.Messages.
func (m *messages) Retained(n topic.Name) (*event.Event, error) { return m.retained.one(n) }

// RetainedAfter implements awsapi.Messages.
func (m *messages) RetainedAfter(after topic.Name, max int) ([]*event.Event, error) {
	return m.retained.after(after, max)
}
