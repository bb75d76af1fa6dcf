package awsapi

import (
	"context"
	"strconv"
	"strings"

	"github.com/weir-iot/weir/registry"
)

func policyOperations() []operation {
	const policy = "policy/{policyName}"
	return []operation{
		op(IoT, "CreatePolicy", policy, (*API).createPolicy),
		op(IoT, "GetPolicy", policy, (*API).getPolicy),
		op(IoT, "ListPolicies", "*", (*API).listPolicies),
		op(IoT, "DeletePolicy", policy, (*API).deletePolicy),
		op(IoT, "CreatePolicyVersion", policy, (*API).createPolicyVersion),
		op(IoT, "GetPolicyVersion", policy, (*API).getPolicyVersion),
		op(IoT, "ListPolicyVersions", policy, (*API).listPolicyVersions),
		op(IoT, "SetDefaultPolicyVersion", policy, (*API).setDefaultPolicyVersion),
		op(IoT, "DeletePolicyVersion", policy, (*API).deletePolicyVersion),
		op(IoT, "AttachPolicy", "{arn:target}", (*API).attachPolicy, partly("to certificates and thing groups; there are no Cognito identities")),
		op(IoT, "DetachPolicy", "{arn:target}", (*API).detachPolicy, partly("as AttachPolicy")),
		op(IoT, "ListAttachedPolicies", "{arn:target}", (*API).listAttachedPolicies),
		op(IoT, "ListTargetsForPolicy", policy, (*API).listTargetsForPolicy),
		op(IoT, "AttachPrincipalPolicy", "{arn:x-amzn-iot-principal}", (*API).attachPrincipalPolicy, partly("as AttachPolicy")),
		op(IoT, "DetachPrincipalPolicy", "{arn:x-amzn-iot-principal}", (*API).detachPrincipalPolicy, partly("as AttachPolicy")),
		op(IoT, "ListPrincipalPolicies", "*", (*API).listPrincipalPolicies),
		op(IoT, "ListPolicyPrincipals", "*", (*API).listPolicyPrincipals, partly("in the order of their ARNs")),
	}
}

type createPolicyRequest struct {
	PolicyName     string `json:"policyName" in:"uri" is:"required 1..128 ~policy"`
	PolicyDocument string `json:"policyDocument" is:"required ..404600"`
	Tags           []tag  `json:"tags" is:"..50"`
}

type createPolicyResponse struct {
	PolicyName      string `json:"policyName"`
	PolicyARN       string `json:"policyArn"`
	PolicyDocument  string `json:"policyDocument"`
	PolicyVersionID string `json:"policyVersionId"`
}

func (a *API) createPolicy(ctx context.Context, q *createPolicyRequest) (*createPolicyResponse, error) {
	tags, err := tagsOf(q.Tags)
	if err != nil {
		return nil, err
	}
	p, err := a.o.Registry.CreatePolicy(ctx, q.PolicyName, q.PolicyDocument, tags)
	if err != nil {
		return nil, err
	}
	return &createPolicyResponse{p.Name, a.o.Registry.PolicyARN(p.Name), q.PolicyDocument, strconv.Itoa(p.Default)}, nil
}

type policyRequest struct {
	PolicyName string `json:"policyName" in:"uri" is:"required 1..128 ~policy"`
}

type getPolicyResponse struct {
	PolicyName       string `json:"policyName"`
	PolicyARN        string `json:"policyArn"`
	PolicyDocument   string `json:"policyDocument"`
	DefaultVersionID string `json:"defaultVersionId"`
	CreationDate     Time   `json:"creationDate"`
	LastModifiedDate Time   `json:"lastModifiedDate"`
	GenerationID     string `json:"generationId"`
}

func (a *API) getPolicy(_ context.Context, q *policyRequest) (*getPolicyResponse, error) {
	p, err := a.o.Registry.Policy(q.PolicyName)
	if err != nil {
		return nil, err
	}
	out := &getPolicyResponse{PolicyName: p.Name, PolicyARN: a.o.Registry.PolicyARN(p.Name), DefaultVersionID: strconv.Itoa(p.Default),
		CreationDate: Time{p.CreatedAt}, LastModifiedDate: Time{p.ModifiedAt}, GenerationID: p.Generation}
	if v, ok := p.Version(p.Default); ok {
		out.PolicyDocument = v.Document
	}
	return out, nil
}

type listPoliciesRequest struct {
	Marker         string `json:"marker" in:"query" is:"..1024 ~base64"`
	PageSize       *int64 `json:"pageSize" in:"query" is:"1..250"`
	AscendingOrder bool   `json:"isAscendingOrder" in:"query"`
}

type listPoliciesResponse struct {
	Policies   []policyName `json:"policies"`
	NextMarker string       `json:"nextMarker,omitempty"`
}

type policyName struct {
	PolicyName string `json:"policyName"`
	PolicyARN  string `json:"policyArn"`
}

func (a *API) policies(list []*registry.Policy, next string, err error) (*listPoliciesResponse, error) {
	if err != nil {
		return nil, err
	}
	out := &listPoliciesResponse{Policies: make([]policyName, 0, len(list)), NextMarker: next}
	for _, p := range list {
		out.Policies = append(out.Policies, policyName{p.Name, a.o.Registry.PolicyARN(p.Name)})
	}
	return out, nil
}

func (a *API) listPolicies(_ context.Context, q *listPoliciesRequest) (*listPoliciesResponse, error) {
	return a.policies(a.o.Registry.Policies(q.AscendingOrder, pageOf(q.PageSize, q.Marker)))
}

func (a *API) deletePolicy(ctx context.Context, q *policyRequest) (*none, error) {
	return &none{}, a.o.Registry.DeletePolicy(ctx, q.PolicyName)
}

type createPolicyVersionRequest struct {
	PolicyName     string `json:"policyName" in:"uri" is:"required 1..128 ~policy"`
	PolicyDocument string `json:"policyDocument" is:"required ..404600"`
	SetAsDefault   bool   `json:"setAsDefault" in:"query"`
}

type createPolicyVersionResponse struct {
	PolicyARN        string `json:"policyArn"`
	PolicyDocument   string `json:"policyDocument"`
	PolicyVersionID  string `json:"policyVersionId"`
	IsDefaultVersion bool   `json:"isDefaultVersion"`
}

func (a *API) createPolicyVersion(ctx context.Context, q *createPolicyVersionRequest) (*createPolicyVersionResponse, error) {
	p, v, err := a.o.Registry.CreatePolicyVersion(ctx, q.PolicyName, q.PolicyDocument, q.SetAsDefault)
	if err != nil {
		return nil, err
	}
	return &createPolicyVersionResponse{a.o.Registry.PolicyARN(p.Name), v.Document, strconv.Itoa(v.ID), v.ID == p.Default}, nil
}

type policyVersionRequest struct {
	PolicyName      string `json:"policyName" in:"uri" is:"required 1..128 ~policy"`
	PolicyVersionID string `json:"policyVersionId" in:"uri" is:"required 1..10 ~digits"`
}

type getPolicyVersionResponse struct {
	PolicyARN        string `json:"policyArn"`
	PolicyName       string `json:"policyName"`
	PolicyDocument   string `json:"policyDocument"`
	PolicyVersionID  string `json:"policyVersionId"`
	IsDefaultVersion bool   `json:"isDefaultVersion"`
	CreationDate     Time   `json:"creationDate"`
	LastModifiedDate Time   `json:"lastModifiedDate"`
	GenerationID     string `json:"generationId"`
}

func (a *API) getPolicyVersion(_ context.Context, q *policyVersionRequest) (*getPolicyVersionResponse, error) {
	p, v, err := a.o.Registry.PolicyVersion(q.PolicyName, q.PolicyVersionID)
	if err != nil {
		return nil, err
	}
	return &getPolicyVersionResponse{a.o.Registry.PolicyARN(p.Name), p.Name, v.Document, strconv.Itoa(v.ID), v.ID == p.Default,
		Time{v.CreatedAt}, Time{v.CreatedAt}, p.Generation}, nil
}

type listPolicyVersionsResponse struct {
	PolicyVersions []policyVersion `json:"policyVersions"`
}

type policyVersion struct {
	VersionID        string `json:"versionId"`
	IsDefaultVersion bool   `json:"isDefaultVersion"`
	CreateDate       Time   `json:"createDate"`
}

func (a *API) listPolicyVersions(_ context.Context, q *policyRequest) (*listPolicyVersionsResponse, error) {
	p, err := a.o.Registry.Policy(q.PolicyName)
	if err != nil {
		return nil, err
	}
	out := &listPolicyVersionsResponse{PolicyVersions: []policyVersion{}}
	for i := len(p.Versions) - 1; i >= 0; i-- { // the newest first
		v := &p.Versions[i]
		out.PolicyVersions = append(out.PolicyVersions, policyVersion{strconv.Itoa(v.ID), v.ID == p.Default, Time{v.CreatedAt}})
	}
	return out, nil
}

func (a *API) setDefaultPolicyVersion(ctx context.Context, q *policyVersionRequest) (*none, error) {
	return &none{}, a.o.Registry.SetDefaultPolicyVersion(ctx, q.PolicyName, q.PolicyVersionID)
}

func (a *API) deletePolicyVersion(ctx context.Context, q *policyVersionRequest) (*none, error) {
	return &none{}, a.o.Registry.DeletePolicyVersion(ctx, q.PolicyName, q.PolicyVersionID)
}

type attachPolicyRequest struct {
	PolicyName string `json:"policyName" in:"uri" is:"required 1..128 ~policy"`
	Target     string `json:"target" is:"required 1..2048"`
}

func (a *API) attachPolicy(ctx context.Context, q *attachPolicyRequest) (*none, error) {
	return &none{}, a.o.Registry.AttachPolicy(ctx, q.PolicyName, q.Target)
}

func (a *API) detachPolicy(ctx context.Context, q *attachPolicyRequest) (*none, error) {
	return &none{}, a.o.Registry.DetachPolicy(ctx, q.PolicyName, q.Target)
}

type listAttachedPoliciesRequest struct {
	Target    string `json:"target" in:"uri" is:"required 1..2048"`
	Recursive bool   `json:"recursive" in:"query"`
	Marker    string `json:"marker" in:"query" is:"..1024 ~base64"`
	PageSize  *int64 `json:"pageSize" in:"query" is:"1..250"`
}

func (a *API) listAttachedPolicies(_ context.Context, q *listAttachedPoliciesRequest) (*listPoliciesResponse, error) {
	return a.policies(a.o.Registry.AttachedPolicies(q.Target, q.Recursive, pageOf(q.PageSize, q.Marker)))
}

type listTargetsForPolicyRequest struct {
	PolicyName string `json:"policyName" in:"uri" is:"required 1..128 ~policy"`
	Marker     string `json:"marker" in:"query" is:"..1024 ~base64"`
	PageSize   *int64 `json:"pageSize" in:"query" is:"1..250"`
}

type listTargetsForPolicyResponse struct {
	Targets    []string `json:"targets"`
	NextMarker string   `json:"nextMarker,omitempty"`
}

func (a *API) listTargetsForPolicy(_ context.Context, q *listTargetsForPolicyRequest) (*listTargetsForPolicyResponse, error) {
	list, next, err := a.o.Registry.TargetsOf(q.PolicyName, pageOf(q.PageSize, q.Marker))
	if err != nil {
		return nil, err
	}
	return &listTargetsForPolicyResponse{names(list), next}, nil
}

type principalPolicyRequest struct {
	PolicyName string `json:"policyName" in:"uri" is:"required 1..128 ~policy"`
	Principal  string `json:"x-amzn-iot-principal" in:"header" is:"required 1..2048"`
}

func (a *API) attachPrincipalPolicy(ctx context.Context, q *principalPolicyRequest) (*none, error) {
	return &none{}, a.o.Registry.AttachPolicy(ctx, q.PolicyName, q.Principal)
}

func (a *API) detachPrincipalPolicy(ctx context.Context, q *principalPolicyRequest) (*none, error) {
	return &none{}, a.o.Registry.DetachPolicy(ctx, q.PolicyName, q.Principal)
}

type listPrincipalPoliciesRequest struct {
	Principal      string `json:"x-amzn-iot-principal" in:"header" is:"required 1..2048"`
	Marker         string `json:"marker" in:"query" is:"..1024"`
	PageSize       *int64 `json:"pageSize" in:"query" is:"1..250"`
	AscendingOrder bool   `json:"isAscendingOrder" in:"query"`
}

func (a *API) listPrincipalPolicies(_ context.Context, q *listPrincipalPoliciesRequest) (*listPoliciesResponse, error) {
	// A principal has few; they are all sorted by age here.
	all, _, err := a.o.Registry.AttachedPolicies(q.Principal, false, registry.Page{Max: 250})
	if err != nil {
		return nil, err
	}
	key := func(p **registry.Policy) string {
		return (*p).CreatedAt.UTC().Format("20060102150405.000000000") + (*p).Name
	}
	sortBy(all, key)
	if !q.AscendingOrder {
		for i, j := 0, len(all)-1; i < j; i, j = i+1, j-1 {
			all[i], all[j] = all[j], all[i]
		}
	}
	list := "ListPrincipalPolicies " + q.Principal + " " + strconv.FormatBool(q.AscendingOrder)
	part, next, err := page(list, all, key, q.Marker, q.PageSize, 250, !q.AscendingOrder)
	return a.policies(part, next, err)
}

type listPolicyPrincipalsRequest struct {
	PolicyName     string `json:"x-amzn-iot-policy" in:"header" is:"required 1..128 ~policy"`
	Marker         string `json:"marker" in:"query" is:"..1024"`
	PageSize       *int64 `json:"pageSize" in:"query" is:"1..250"`
	AscendingOrder bool   `json:"isAscendingOrder" in:"query"` // attachments have no age here: the order is that of the ARNs
}

type listPolicyPrincipalsResponse struct {
	Principals []string `json:"principals"`
	NextMarker string   `json:"nextMarker,omitempty"`
}

func (a *API) listPolicyPrincipals(_ context.Context, q *listPolicyPrincipalsRequest) (*listPolicyPrincipalsResponse, error) {
	list, next, err := a.o.Registry.TargetsOf(q.PolicyName, pageOf(q.PageSize, q.Marker))
	if err != nil {
		return nil, err
	}
	out := &listPolicyPrincipalsResponse{Principals: []string{}, NextMarker: next}
	for _, arn := range list {
		if strings.HasPrefix(arn, a.arn+"cert/") { // groups are no principals
			out.Principals = append(out.Principals, arn)
		}
	}
	return out, nil
}
