package awsapi

import (
	"context"
	"slices"

	"github.com/weir-iot/weir/ingest/policy"
	"github.com/weir-iot/weir/registry"
)

func decisionOperations() []operation {
	return []operation{
		op(IoT, "GetEffectivePolicies", "*", (*API).getEffectivePolicies, partly("no Cognito identities")),
		op(IoT, "TestAuthorization", "{arn:principal}", (*API).testAuthorization, partly("no Cognito identities")),
	}
}

type getEffectivePoliciesRequest struct {
	Principal             string `json:"principal" is:"..2048"`
	CognitoIdentityPoolID string `json:"cognitoIdentityPoolId" refuse:"there are no Cognito identities here"`
	ThingName             string `json:"thingName" in:"query" is:"1..128 ~name"`
}

type getEffectivePoliciesResponse struct {
	EffectivePolicies []effectivePolicy `json:"effectivePolicies"`
}

type effectivePolicy struct {
	PolicyName     string `json:"policyName"`
	PolicyARN      string `json:"policyArn"`
	PolicyDocument string `json:"policyDocument"`
}

func (a *API) getEffectivePolicies(_ context.Context, q *getEffectivePoliciesRequest) (*getEffectivePoliciesResponse, error) {
	if q.Principal == "" && q.ThingName == "" {
		return nil, invalid("principal or thingName is needed")
	}
	list, err := a.o.Registry.EffectivePolicies(q.Principal, q.ThingName)
	if err != nil {
		return nil, err
	}
	out := &getEffectivePoliciesResponse{EffectivePolicies: []effectivePolicy{}}
	for _, e := range list {
		out.EffectivePolicies = append(out.EffectivePolicies, effectivePolicy{e.Policy.Name, a.o.Registry.PolicyARN(e.Policy.Name), documentOf(e.Policy)})
	}
	return out, nil
}

// documentOf returns the default version's document.
func documentOf(p *registry.Policy) string {
	v, ok := p.Version(p.Default)
	if !ok {
		return ""
	}
	return v.Document
}

type testAuthorizationRequest struct {
	Principal             string     `json:"principal" is:"required 1..2048"`
	CognitoIdentityPoolID string     `json:"cognitoIdentityPoolId" refuse:"there are no Cognito identities here"`
	AuthInfos             []authInfo `json:"authInfos" is:"required 1..10"`
	ClientID              string     `json:"clientId" in:"query" is:"..128"`
	PolicyNamesToAdd      []string   `json:"policyNamesToAdd" is:"..50" each:"1..128 ~policy"`
	PolicyNamesToSkip     []string   `json:"policyNamesToSkip" is:"..50" each:"1..128 ~policy"`
}

type authInfo struct {
	ActionType string   `json:"actionType" is:"=PUBLISH|SUBSCRIBE|RECEIVE|CONNECT"`
	Resources  []string `json:"resources" is:"required 1..50" each:"1..2048"`
}

type testAuthorizationResponse struct {
	AuthResults []authResult `json:"authResults"`
}

type authResult struct {
	AuthInfo             authInfo      `json:"authInfo"`
	Allowed              *policiesThat `json:"allowed,omitempty"`
	Denied               *denied       `json:"denied,omitempty"`
	AuthDecision         string        `json:"authDecision"` // ALLOWED, EXPLICIT_DENY, IMPLICIT_DENY
	MissingContextValues []string      `json:"missingContextValues"`
}

type policiesThat struct {
	Policies []policyName `json:"policies"`
}

type denied struct {
	ImplicitDeny *policiesThat `json:"implicitDeny,omitempty"`
	ExplicitDeny *policiesThat `json:"explicitDeny,omitempty"`
}

var testedActions = map[string]string{"PUBLISH": "iot:Publish", "SUBSCRIBE": "iot:Subscribe", "RECEIVE": "iot:Receive", "CONNECT": "iot:Connect"}

// testAuthorization answers as the gateway would for a connection of the
// certificate with the client id. An answer speaks of all resources of its
// question: they are allowed where each of them is.
func (a *API) testAuthorization(_ context.Context, q *testAuthorizationRequest) (*testAuthorizationResponse, error) {
	id, err := a.o.Registry.CertificateIDOf(q.Principal)
	if err != nil {
		return nil, err
	}
	thing := a.o.Registry.ThingOf(id, q.ClientID)
	of := ""
	if thing != nil {
		of = thing.Name
	}
	effective, err := a.o.Registry.EffectivePolicies(q.Principal, of)
	if err != nil {
		return nil, err
	}
	var list []*registry.Policy
	for _, e := range effective {
		if !slices.Contains(q.PolicyNamesToSkip, e.Policy.Name) {
			list = append(list, e.Policy)
		}
	}
	for _, name := range q.PolicyNamesToAdd {
		p, err := a.o.Registry.Policy(name)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	sources := make([]policy.Source, len(list))
	for i, p := range list {
		doc, err := policy.Parse(documentOf(p))
		if err != nil {
			return nil, &Error{Code: "MalformedPolicyException", Message: "policy " + p.Name + ": " + err.Error(), Err: err}
		}
		sources[i] = policy.Source{Name: p.Name, Document: doc}
	}
	set := policy.Compile(sources...)
	facts := &policy.Facts{ClientID: q.ClientID, MQTT: true, Secure: true, Certificate: &policy.Certificate{ID: id}}
	if thing != nil {
		facts.Thing = &policy.Thing{Name: thing.Name, Type: thing.Type, Attributes: thing.Attributes}
	}
	facts.Prepare()

	out := &testAuthorizationResponse{AuthResults: []authResult{}}
	for _, info := range q.AuthInfos {
		name := testedActions[info.ActionType]
		if name == "" {
			return nil, invalid("authInfos: actionType is missing")
		}
		r := authResult{AuthInfo: info, AuthDecision: "ALLOWED", MissingContextValues: []string{}}
		that := &policiesThat{Policies: []policyName{}}
		for _, resource := range info.Resources {
			request := &policy.Request{Action: policy.ActionOf(name), Resource: resource, Facts: facts, Now: a.o.Now()}
			d := set.Decide(request)
			if d.Policy >= 0 {
				p := policyName{list[d.Policy].Name, a.o.Registry.PolicyARN(list[d.Policy].Name)}
				if d.Explicit() && r.AuthDecision != "EXPLICIT_DENY" || d.Allowed && r.AuthDecision == "ALLOWED" {
					if d.Explicit() {
						that.Policies = nil
					}
					if !slices.Contains(that.Policies, p) {
						that.Policies = append(that.Policies, p)
					}
				}
			}
			switch {
			case d.Explicit():
				r.AuthDecision = "EXPLICIT_DENY"
			case !d.Allowed && r.AuthDecision == "ALLOWED":
				r.AuthDecision = "IMPLICIT_DENY"
				that.Policies = []policyName{}
			}
			if !d.Allowed {
				for _, v := range set.Explain(request).Statements {
					for _, missing := range v.Variables {
						if missing.Missing && !slices.Contains(r.MissingContextValues, missing.Name) {
							r.MissingContextValues = append(r.MissingContextValues, missing.Name)
						}
					}
				}
			}
		}
		switch r.AuthDecision {
		case "ALLOWED":
			r.Allowed = that
		case "EXPLICIT_DENY":
			r.Denied = &denied{ExplicitDeny: that}
		default:
			r.Denied = &denied{ImplicitDeny: that}
		}
		out.AuthResults = append(out.AuthResults, r)
	}
	return out, nil
}
