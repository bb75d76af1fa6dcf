package awsapi

import (
	"context"

	"github.com/weir-iot/weir/registry"
)

func authorizerOperations() []operation {
	const authorizer = "authorizer/{authorizerName}"
	return []operation{
		op(IoT, "CreateAuthorizer", authorizer, (*API).createAuthorizer),
		op(IoT, "DescribeAuthorizer", authorizer, (*API).describeAuthorizer),
		op(IoT, "UpdateAuthorizer", authorizer, (*API).updateAuthorizer),
		op(IoT, "DeleteAuthorizer", authorizer, (*API).deleteAuthorizer),
		op(IoT, "ListAuthorizers", "*", (*API).listAuthorizers),
		op(IoT, "SetDefaultAuthorizer", authorizer, (*API).setDefaultAuthorizer),
		op(IoT, "DescribeDefaultAuthorizer", "*", (*API).describeDefaultAuthorizer),
		op(IoT, "ClearDefaultAuthorizer", "*", (*API).clearDefaultAuthorizer),
		op(IoT, "TestInvokeAuthorizer", authorizer, (*API).testInvokeAuthorizer),
	}
}

type createAuthorizerRequest struct {
	AuthorizerName         string            `json:"authorizerName" in:"uri" is:"required 1..128 ~word"`
	AuthorizerFunctionARN  string            `json:"authorizerFunctionArn" is:"required ..2048"`
	TokenKeyName           string            `json:"tokenKeyName" is:"1..128 ~token"`
	TokenSigningPublicKeys map[string]string `json:"tokenSigningPublicKeys" is:"..10" each:"..5120" keys:"1..128 ~name"`
	Status                 string            `json:"status" is:"=ACTIVE|INACTIVE"`
	Tags                   []tag             `json:"tags" is:"..50"`
	SigningDisabled        bool              `json:"signingDisabled"`
	EnableCachingForHTTP   bool              `json:"enableCachingForHttp"`
}

type authorizerName struct {
	AuthorizerName string `json:"authorizerName"`
	AuthorizerARN  string `json:"authorizerArn"`
}

func (a *API) authorizerName(v *registry.Authorizer, err error) (*authorizerName, error) {
	if err != nil {
		return nil, err
	}
	return &authorizerName{v.Name, a.o.Registry.AuthorizerARN(v.Name)}, nil
}

func (a *API) createAuthorizer(ctx context.Context, q *createAuthorizerRequest) (*authorizerName, error) {
	tags, err := tagsOf(q.Tags)
	if err != nil {
		return nil, err
	}
	return a.authorizerName(a.o.Registry.CreateAuthorizer(ctx, registry.CreateAuthorizer{
		Name: q.AuthorizerName, Function: q.AuthorizerFunctionARN, Status: registry.Status(q.Status), SigningDisabled: q.SigningDisabled,
		TokenKeyName: q.TokenKeyName, Keys: q.TokenSigningPublicKeys, CacheHTTP: q.EnableCachingForHTTP, Tags: tags,
	}))
}

type authorizerRequest struct {
	AuthorizerName string `json:"authorizerName" in:"uri" is:"required 1..128 ~word"`
}

type describeAuthorizerResponse struct {
	AuthorizerDescription authorizerDescription `json:"authorizerDescription"`
}

type authorizerDescription struct {
	AuthorizerName         string            `json:"authorizerName"`
	AuthorizerARN          string            `json:"authorizerArn"`
	AuthorizerFunctionARN  string            `json:"authorizerFunctionArn"`
	TokenKeyName           string            `json:"tokenKeyName,omitempty"`
	TokenSigningPublicKeys map[string]string `json:"tokenSigningPublicKeys"`
	Status                 string            `json:"status"`
	CreationDate           Time              `json:"creationDate"`
	LastModifiedDate       Time              `json:"lastModifiedDate"`
	SigningDisabled        bool              `json:"signingDisabled"`
	EnableCachingForHTTP   bool              `json:"enableCachingForHttp"`
}

func (a *API) authorizer(v *registry.Authorizer, err error) (*describeAuthorizerResponse, error) {
	if err != nil {
		return nil, err
	}
	return &describeAuthorizerResponse{authorizerDescription{
		v.Name, a.o.Registry.AuthorizerARN(v.Name), v.Function, v.TokenKeyName, notNil(v.Keys), string(v.Status),
		Time{v.CreatedAt}, Time{v.ModifiedAt}, v.SigningDisabled, v.CacheHTTP,
	}}, nil
}

func (a *API) describeAuthorizer(_ context.Context, q *authorizerRequest) (*describeAuthorizerResponse, error) {
	return a.authorizer(a.o.Registry.Authorizer(q.AuthorizerName))
}

type updateAuthorizerRequest struct {
	AuthorizerName         string            `json:"authorizerName" in:"uri" is:"required 1..128 ~word"`
	AuthorizerFunctionARN  string            `json:"authorizerFunctionArn" is:"..2048"`
	TokenKeyName           string            `json:"tokenKeyName" is:"1..128 ~token"`
	TokenSigningPublicKeys map[string]string `json:"tokenSigningPublicKeys" is:"..10" each:"..5120" keys:"1..128 ~name"`
	Status                 string            `json:"status" is:"=ACTIVE|INACTIVE"`
	EnableCachingForHTTP   *bool             `json:"enableCachingForHttp"`
}

func (a *API) updateAuthorizer(ctx context.Context, q *updateAuthorizerRequest) (*authorizerName, error) {
	return a.authorizerName(a.o.Registry.UpdateAuthorizer(ctx, registry.UpdateAuthorizer{
		Name: q.AuthorizerName, Function: q.AuthorizerFunctionARN, Status: registry.Status(q.Status), TokenKeyName: q.TokenKeyName,
		Keys: q.TokenSigningPublicKeys, CacheHTTP: q.EnableCachingForHTTP,
	}))
}

func (a *API) deleteAuthorizer(ctx context.Context, q *authorizerRequest) (*none, error) {
	return &none{}, a.o.Registry.DeleteAuthorizer(ctx, q.AuthorizerName)
}

type listAuthorizersRequest struct {
	PageSize       *int64 `json:"pageSize" in:"query" is:"1..250"`
	Marker         string `json:"marker" in:"query" is:"..1024 ~base64"`
	AscendingOrder bool   `json:"isAscendingOrder" in:"query"`
	Status         string `json:"status" in:"query" is:"=ACTIVE|INACTIVE"`
}

type listAuthorizersResponse struct {
	Authorizers []*authorizerName `json:"authorizers"`
	NextMarker  string            `json:"nextMarker,omitempty"`
}

func (a *API) listAuthorizers(_ context.Context, q *listAuthorizersRequest) (*listAuthorizersResponse, error) {
	list, next, err := a.o.Registry.Authorizers(registry.Status(q.Status), q.AscendingOrder, pageOf(q.PageSize, q.Marker))
	if err != nil {
		return nil, err
	}
	out := &listAuthorizersResponse{Authorizers: make([]*authorizerName, 0, len(list)), NextMarker: next}
	for _, v := range list {
		out.Authorizers = append(out.Authorizers, &authorizerName{v.Name, a.o.Registry.AuthorizerARN(v.Name)})
	}
	return out, nil
}

type setDefaultAuthorizerRequest struct {
	AuthorizerName string `json:"authorizerName" is:"required 1..128 ~word"`
}

func (a *API) setDefaultAuthorizer(ctx context.Context, q *setDefaultAuthorizerRequest) (*authorizerName, error) {
	return a.authorizerName(a.o.Registry.SetDefaultAuthorizer(ctx, q.AuthorizerName))
}

func (a *API) describeDefaultAuthorizer(context.Context, *none) (*describeAuthorizerResponse, error) {
	return a.authorizer(a.o.Registry.DefaultAuthorizer())
}

func (a *API) clearDefaultAuthorizer(ctx context.Context, _ *none) (*none, error) {
	return &none{}, a.o.Registry.ClearDefaultAuthorizer(ctx)
}
