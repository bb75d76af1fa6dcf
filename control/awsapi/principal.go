package awsapi

import (
	"context"

	"github.com/weir-iot/weir/registry"
)

func principalOperations() []operation {
	const thing = "thing/{thingName}"
	return []operation{
		op(IoT, "AttachThingPrincipal", thing, (*API).attachThingPrincipal, partly("certificates; there are no Cognito identities")),
		op(IoT, "DetachThingPrincipal", thing, (*API).detachThingPrincipal),
		op(IoT, "ListThingPrincipals", thing, (*API).listThingPrincipals),
		op(IoT, "ListThingPrincipalsV2", thing, (*API).listThingPrincipalsV2),
		op(IoT, "ListPrincipalThings", "*", (*API).listPrincipalThings),
		op(IoT, "ListPrincipalThingsV2", "*", (*API).listPrincipalThingsV2),
	}
}

type attachThingPrincipalRequest struct {
	ThingName          string `json:"thingName" in:"uri" is:"required 1..128 ~name"`
	Principal          string `json:"x-amzn-principal" in:"header" is:"required 1..2048"`
	ThingPrincipalType string `json:"thingPrincipalType" in:"query" is:"=EXCLUSIVE_THING|NON_EXCLUSIVE_THING"`
}

func (a *API) attachThingPrincipal(ctx context.Context, q *attachThingPrincipalRequest) (*none, error) {
	return &none{}, a.o.Registry.AttachPrincipal(ctx, q.ThingName, q.Principal, registry.PrincipalType(q.ThingPrincipalType))
}

type detachThingPrincipalRequest struct {
	ThingName string `json:"thingName" in:"uri" is:"required 1..128 ~name"`
	Principal string `json:"x-amzn-principal" in:"header" is:"required 1..2048"`
}

func (a *API) detachThingPrincipal(ctx context.Context, q *detachThingPrincipalRequest) (*none, error) {
	return &none{}, a.o.Registry.DetachPrincipal(ctx, q.ThingName, q.Principal)
}

type listThingPrincipalsRequest struct {
	NextToken  string `json:"nextToken" in:"query"`
	MaxResults *int64 `json:"maxResults" in:"query" is:"1..250"`
	ThingName  string `json:"thingName" in:"uri" is:"required 1..128 ~name"`
}

type listThingPrincipalsResponse struct {
	Principals []string `json:"principals"`
	NextToken  string   `json:"nextToken,omitempty"`
}

func (a *API) listThingPrincipals(_ context.Context, q *listThingPrincipalsRequest) (*listThingPrincipalsResponse, error) {
	list, next, err := a.o.Registry.PrincipalsOf(q.ThingName, "", pageOf(q.MaxResults, q.NextToken))
	if err != nil {
		return nil, err
	}
	out := &listThingPrincipalsResponse{Principals: make([]string, 0, len(list)), NextToken: next}
	for _, p := range list {
		out.Principals = append(out.Principals, a.o.Registry.CertificateARN(p.CertificateID))
	}
	return out, nil
}

type listThingPrincipalsV2Request struct {
	NextToken          string `json:"nextToken" in:"query"`
	MaxResults         *int64 `json:"maxResults" in:"query" is:"1..250"`
	ThingName          string `json:"thingName" in:"uri" is:"required 1..128 ~name"`
	ThingPrincipalType string `json:"thingPrincipalType" in:"query" is:"=EXCLUSIVE_THING|NON_EXCLUSIVE_THING"`
}

type listThingPrincipalsV2Response struct {
	ThingPrincipalObjects []thingPrincipal `json:"thingPrincipalObjects"`
	NextToken             string           `json:"nextToken,omitempty"`
}

type thingPrincipal struct {
	Principal          string `json:"principal"`
	ThingPrincipalType string `json:"thingPrincipalType"`
}

func (a *API) listThingPrincipalsV2(_ context.Context, q *listThingPrincipalsV2Request) (*listThingPrincipalsV2Response, error) {
	list, next, err := a.o.Registry.PrincipalsOf(q.ThingName, registry.PrincipalType(q.ThingPrincipalType), pageOf(q.MaxResults, q.NextToken))
	if err != nil {
		return nil, err
	}
	out := &listThingPrincipalsV2Response{ThingPrincipalObjects: make([]thingPrincipal, 0, len(list)), NextToken: next}
	for _, p := range list {
		out.ThingPrincipalObjects = append(out.ThingPrincipalObjects, thingPrincipal{a.o.Registry.CertificateARN(p.CertificateID), string(p.Type)})
	}
	return out, nil
}

type listPrincipalThingsRequest struct {
	NextToken  string `json:"nextToken" in:"query"`
	MaxResults *int64 `json:"maxResults" in:"query" is:"1..250"`
	Principal  string `json:"x-amzn-principal" in:"header" is:"required 1..2048"`
}

func (a *API) listPrincipalThings(_ context.Context, q *listPrincipalThingsRequest) (*thingNamesResponse, error) {
	list, next, err := a.o.Registry.ThingsOf(q.Principal, "", pageOf(q.MaxResults, q.NextToken))
	if err != nil {
		return nil, err
	}
	out := &thingNamesResponse{Things: make([]string, 0, len(list)), NextToken: next}
	for _, p := range list {
		out.Things = append(out.Things, p.Thing)
	}
	return out, nil
}

type listPrincipalThingsV2Request struct {
	NextToken          string `json:"nextToken" in:"query"`
	MaxResults         *int64 `json:"maxResults" in:"query" is:"1..250"`
	Principal          string `json:"x-amzn-principal" in:"header" is:"required 1..2048"`
	ThingPrincipalType string `json:"thingPrincipalType" in:"query" is:"=EXCLUSIVE_THING|NON_EXCLUSIVE_THING"`
}

type listPrincipalThingsV2Response struct {
	PrincipalThingObjects []principalThing `json:"principalThingObjects"`
	NextToken             string           `json:"nextToken,omitempty"`
}

type principalThing struct {
	ThingName          string `json:"thingName"`
	ThingPrincipalType string `json:"thingPrincipalType"`
}

func (a *API) listPrincipalThingsV2(_ context.Context, q *listPrincipalThingsV2Request) (*listPrincipalThingsV2Response, error) {
	list, next, err := a.o.Registry.ThingsOf(q.Principal, registry.PrincipalType(q.ThingPrincipalType), pageOf(q.MaxResults, q.NextToken))
	if err != nil {
		return nil, err
	}
	out := &listPrincipalThingsV2Response{PrincipalThingObjects: make([]principalThing, 0, len(list)), NextToken: next}
	for _, p := range list {
		out.PrincipalThingObjects = append(out.PrincipalThingObjects, principalThing{p.Thing, string(p.Type)})
	}
	return out, nil
}
