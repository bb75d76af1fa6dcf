package server

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/policy"
	"github.com/weir-iot/weir/internal/errs"
)

// authz is control.Authz over the policies.
type authz struct{ s *Server }

// Explain implements control.Authz.
func (z authz) Explain(ctx context.Context, q control.AuthzQuestion) (*control.AuthzAnswer, error) {
	const op = "server.Explain"
	s := z.s
	out := &control.AuthzAnswer{Action: q.Action, Resource: q.Resource, ClientID: q.ClientID, Policies: []string{}, Verdicts: []control.AuthzVerdict{}}
	var st auth.Standing
	var err error
	if q.Certificate != "" {
		if out.Principal, err = s.things.CertificateIDOf(q.Certificate); err != nil {
			return nil, errs.E(op, errs.Invalid, err)
		}
		st, err = s.authn.Suppose(auth.Supposed{Certificate: out.Principal, ClientID: q.ClientID})
	} else {
		var p *auth.Principal
		if s.gateway != nil {
			p = s.gateway.Principal(q.ClientID)
		}
		if p == nil && s.services != nil {
			return s.explainElsewhere(ctx, &q)
		}
		if p == nil {
			return nil, errNotConnected(q.ClientID)
		}
		var free bool
		out.Principal = p.ID
		st, free, err = s.policies.Standing(p)
		if free {
			out.Allowed, out.Reason = true, "the client came in by the plain port, where no policy is asked; private and reserved topics are refused there too"
			return out, nil
		}
	}
	var refusal *auth.Refusal
	if errors.As(err, &refusal) {
		out.Reason = refusal.Error()
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	e, err := s.policies.Explain(st, q.Action, q.Resource)
	if err != nil {
		return nil, err
	}
	out.Action, out.Resource, out.Allowed, out.Reason, out.Others = e.Action, e.Resource, e.Allowed, e.Reason, e.Others
	out.Policies = append(out.Policies, e.Policies...)
	out.ClientID = st.Facts.ClientID
	if st.Facts.Thing != nil {
		out.Thing = st.Facts.Thing.Name
	}
	for i := range e.Statements {
		out.Verdicts = append(out.Verdicts, verdict(&e.Statements[i]))
	}
	if e.Decided != nil {
		v := verdict(e.Decided)
		out.Decided = &v
	}
	if e.Smallest != "" {
		out.Smallest = json.RawMessage(e.Smallest)
	}
	return out, nil
}

func errNotConnected(client string) error {
	return errs.Errorf("server.Explain", errs.NotFound, "no client %q is connected; name a certificate to ask about one that is not", client)
}

func verdict(v *policy.Verdict) control.AuthzVerdict {
	out := control.AuthzVerdict{Policy: v.Policy, Statement: v.Statement, Sid: v.Sid, Effect: v.Effect, Applies: v.Applies, Why: v.Why}
	for _, x := range v.Variables {
		out.Variables = append(out.Variables, control.AuthzVariable(x))
	}
	return out
}
