package auth

import (
	"crypto/x509"
	"net/netip"
	"slices"
	"strings"

	"github.com/weir-iot/weir/ingest/policy"
	"github.com/weir-iot/weir/internal/errs"
)

// Supposed is a connection that is not there, to find out what it would be
// allowed.
type Supposed struct {
	Certificate string // id
	ClientID    string // "": the name of the only thing the certificate is attached to
	SourceIP    netip.Addr
	DomainName  string
	Add         []Policy // besides those that hold
	Skip        []string // names of policies not to be looked at
}

// Suppose says what would hold for a connection of a registered certificate.
// Errors: errs.NotFound; errs.Unauthorized with a *Refusal: it would not be let
// in.
func (r *Registered) Suppose(o Supposed) (Standing, error) {
	const op = "auth.Suppose"
	rec, ok := r.o.Directory.Certificate(o.Certificate)
	if !ok {
		return Standing{}, errs.Errorf(op, errs.NotFound, "there is no certificate %s", o.Certificate)
	}
	leaf, err := x509.ParseCertificate(rec.DER)
	if err != nil {
		return Standing{}, errs.E(op, errs.Internal, err)
	}
	if err := fit(leaf, rec.ID, r.now()); err != nil {
		return Standing{}, err
	}
	if o.ClientID == "" {
		if things := r.o.Directory.ThingsOf(rec.ID); len(things) == 1 {
			o.ClientID = things[0].Thing
		}
	}
	f := &policy.Facts{
		ClientID: o.ClientID, MQTT: true, Certificate: r.certificate(leaf, rec.ID), SourceIP: o.SourceIP, DomainName: o.DomainName, Secure: true,
	}
	st, err := r.standing(rec.ID, leaf.NotAfter, f.Prepare(), "")
	if err != nil || len(o.Add)+len(o.Skip) == 0 {
		return st, err
	}
	thing := ""
	if st.Facts.Thing != nil {
		thing = st.Facts.Thing.Name
	}
	list := slices.DeleteFunc(slices.Clone(r.o.Directory.PoliciesOf(rec.ID, thing)), func(p Policy) bool { return slices.Contains(o.Skip, p.Name) })
	st.Set, err = r.o.Policies.Compile(append(list, o.Add...))
	return st, err
}

// Standing returns what holds for the principal of an open connection. free
// tells that no policy judges it: it came in without TLS.
func (a *Policies) Standing(p *Principal) (st Standing, free bool, err error) {
	s := sessionOf(p)
	if s == nil {
		if _, ok := p.Data.(loopback); ok {
			return Standing{}, true, nil
		}
		return Standing{}, false, errs.Errorf("auth.Standing", errs.Forbidden, "the principal is not judged by policies")
	}
	now := s.current()
	return now.Standing, false, now.err
}

// Explain answers a question about what holds for a principal, and says why.
// resource is an ARN, the end of one such as "topic/a/b", or "*".
func (a *Policies) Explain(st Standing, action, resource string) (*policy.Explanation, error) {
	r, err := a.request(st, action, resource)
	if err != nil {
		return nil, err
	}
	e := st.Set.Explain(r)
	// As decide: a shared subscription is denied by what denies its filter.
	rest, shared := strings.CutPrefix(r.Resource, a.arn+Subscribe.Prefix()+share)
	if r.Action != a.actions[Subscribe] || !e.Allowed || !shared {
		return e, nil
	}
	if _, filter, ok := strings.Cut(rest, "/"); ok {
		r.Resource = a.ARN(Subscribe, filter)
		if d := st.Set.Decide(r); d.Explicit() {
			return st.Set.Explain(r), nil
		}
	}
	return e, nil
}

// Try answers a question as TestAuthorization does; resource as in Explain.
func (a *Policies) Try(st Standing, action, resource string) (*policy.Trial, error) {
	r, err := a.request(st, action, resource)
	if err != nil {
		return nil, err
	}
	return st.Set.Try(r), nil
}

func (a *Policies) request(st Standing, action, resource string) (*policy.Request, error) {
	const op = "auth.Explain"
	service, name, ok := strings.Cut(action, ":")
	if !ok || service == "" || name == "" || strings.ContainsAny(action, "*? ") {
		return nil, errs.Errorf(op, errs.Invalid, "%q is no action; as in iot:Publish", action)
	}
	act := policy.ActionOf(action)
	kind, _, typed := strings.Cut(resource, "/")
	switch {
	case resource == "*", strings.HasPrefix(resource, "arn:"):
	case typed && slices.Contains([]string{"topic", "topicfilter", "client", "thing", "rolealias"}, kind):
		resource = a.arn + resource
	default:
		hint := "topic/a/b"
		if known, ok := ParseAction(action); ok && known.Prefix() != "" {
			hint = known.Prefix() + "…"
		}
		return nil, errs.Errorf(op, errs.Invalid, "%q is no resource: %s, or an ARN", resource, hint)
	}
	return &policy.Request{Action: act, Resource: resource, Facts: st.Facts, Now: a.now()}, nil
}
