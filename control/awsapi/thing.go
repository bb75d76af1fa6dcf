package awsapi

import (
	"context"
	"strings"

	"github.com/weir-iot/weir/registry"
)

func thingOperations() []operation {
	const thing, typ = "thing/{thingName}", "thingtype/{thingTypeName}"
	return []operation{
		op(IoT, "CreateThing", thing, (*API).createThing, partly("no billing groups")),
		op(IoT, "DescribeThing", thing, (*API).describeThing),
		op(IoT, "ListThings", "*", (*API).listThings),
		op(IoT, "UpdateThing", thing, (*API).updateThing),
		op(IoT, "DeleteThing", thing, (*API).deleteThing),
		op(IoT, "CreateThingType", typ, (*API).createThingType, partly("no propagating attributes")),
		op(IoT, "DescribeThingType", typ, (*API).describeThingType),
		op(IoT, "ListThingTypes", "*", (*API).listThingTypes),
		op(IoT, "DeprecateThingType", typ, (*API).deprecateThingType),
		op(IoT, "UpdateThingType", typ, (*API).updateThingType, partly("no propagating attributes")),
		op(IoT, "DeleteThingType", typ, (*API).deleteThingType),
	}
}

type attributePayload struct {
	Attributes map[string]string `json:"attributes" each:"..800 ~value" keys:"1..128 ~attribute"`
	Merge      bool              `json:"merge"`
}

// of returns the attributes and whether they are to be merged; nil where none
// were given.
func (p *attributePayload) of() (map[string]string, bool) {
	if p == nil {
		return nil, false
	}
	if p.Attributes == nil {
		return map[string]string{}, p.Merge
	}
	return p.Attributes, p.Merge
}

type createThingRequest struct {
	ThingName        string            `json:"thingName" in:"uri" is:"required 1..128 ~name"`
	ThingTypeName    string            `json:"thingTypeName" is:"1..128 ~name"`
	AttributePayload *attributePayload `json:"attributePayload"`
	BillingGroupName string            `json:"billingGroupName" refuse:"there are no billing groups here"`
}

type createThingResponse struct {
	ThingName string `json:"thingName"`
	ThingARN  string `json:"thingArn"`
	ThingID   string `json:"thingId"`
}

func (a *API) createThing(ctx context.Context, q *createThingRequest) (*createThingResponse, error) {
	attributes, _ := q.AttributePayload.of()
	t, err := a.o.Registry.CreateThing(ctx, registry.CreateThing{Name: q.ThingName, Type: q.ThingTypeName, Attributes: attributes})
	if err != nil {
		return nil, err
	}
	return &createThingResponse{t.Name, a.o.Registry.ThingARN(t.Name), t.ID}, nil
}

type thingRequest struct {
	ThingName string `json:"thingName" in:"uri" is:"required 1..128 ~name"`
}

type describeThingResponse struct {
	DefaultClientID string            `json:"defaultClientId"`
	ThingName       string            `json:"thingName"`
	ThingID         string            `json:"thingId"`
	ThingARN        string            `json:"thingArn"`
	ThingTypeName   string            `json:"thingTypeName,omitempty"`
	Attributes      map[string]string `json:"attributes"`
	Version         int64             `json:"version"`
}

func (a *API) describeThing(_ context.Context, q *thingRequest) (*describeThingResponse, error) {
	t, err := a.o.Registry.Thing(q.ThingName)
	if err != nil {
		return nil, err
	}
	return &describeThingResponse{t.Name, t.Name, t.ID, a.o.Registry.ThingARN(t.Name), t.Type, notNil(t.Attributes), t.Version}, nil
}

func notNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// pageOf is the page a request asks for.
func pageOf(max *int64, token string) registry.Page {
	p := registry.Page{Token: token}
	if max != nil {
		p.Max = int(*max)
	}
	return p
}

func number(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

type listThingsRequest struct {
	NextToken               string `json:"nextToken" in:"query"`
	MaxResults              *int64 `json:"maxResults" in:"query" is:"1..250"`
	AttributeName           string `json:"attributeName" in:"query" is:"..128 ~attribute"`
	AttributeValue          string `json:"attributeValue" in:"query" is:"..800 ~value"`
	ThingTypeName           string `json:"thingTypeName" in:"query" is:"1..128 ~name"`
	UsePrefixAttributeValue bool   `json:"usePrefixAttributeValue" in:"query"`
}

type listThingsResponse struct {
	Things    []thingAttribute `json:"things"`
	NextToken string           `json:"nextToken,omitempty"`
}

type thingAttribute struct {
	ThingName     string            `json:"thingName"`
	ThingTypeName string            `json:"thingTypeName,omitempty"`
	ThingARN      string            `json:"thingArn"`
	Attributes    map[string]string `json:"attributes"`
	Version       int64             `json:"version"`
}

func (a *API) listThings(_ context.Context, q *listThingsRequest) (*listThingsResponse, error) {
	f := registry.ThingFilter{Type: q.ThingTypeName, AttributeName: q.AttributeName, AttributeValue: q.AttributeValue, Prefix: q.UsePrefixAttributeValue}
	list, next, err := a.o.Registry.Things(f, pageOf(q.MaxResults, q.NextToken))
	if err != nil {
		return nil, err
	}
	out := &listThingsResponse{Things: make([]thingAttribute, 0, len(list)), NextToken: next}
	for _, t := range list {
		out.Things = append(out.Things, thingAttribute{t.Name, t.Type, a.o.Registry.ThingARN(t.Name), notNil(t.Attributes), t.Version})
	}
	return out, nil
}

type updateThingRequest struct {
	ThingName        string            `json:"thingName" in:"uri" is:"required 1..128 ~name"`
	ThingTypeName    string            `json:"thingTypeName" is:"1..128 ~name"`
	AttributePayload *attributePayload `json:"attributePayload"`
	ExpectedVersion  *int64            `json:"expectedVersion"`
	RemoveThingType  bool              `json:"removeThingType"`
}

func (a *API) updateThing(ctx context.Context, q *updateThingRequest) (*none, error) {
	attributes, merge := q.AttributePayload.of()
	_, err := a.o.Registry.UpdateThing(ctx, registry.UpdateThing{Name: q.ThingName, Type: q.ThingTypeName, RemoveType: q.RemoveThingType,
		Attributes: attributes, Merge: merge, ExpectedVersion: number(q.ExpectedVersion)})
	return &none{}, err
}

type deleteThingRequest struct {
	ThingName       string `json:"thingName" in:"uri" is:"required 1..128 ~name"`
	ExpectedVersion *int64 `json:"expectedVersion" in:"query"`
}

func (a *API) deleteThing(ctx context.Context, q *deleteThingRequest) (*none, error) {
	return &none{}, a.o.Registry.DeleteThing(ctx, q.ThingName, number(q.ExpectedVersion))
}

type thingTypeProperties struct {
	ThingTypeDescription string    `json:"thingTypeDescription,omitempty" is:"..2028 ~text"`
	SearchableAttributes []string  `json:"searchableAttributes,omitempty" each:"1..128 ~attribute"`
	Mqtt5Configuration   *struct{} `json:"mqtt5Configuration,omitempty" refuse:"attributes are not propagated to messages here"`
}

func (p *thingTypeProperties) of() registry.ThingTypeProperties {
	if p == nil {
		return registry.ThingTypeProperties{}
	}
	return registry.ThingTypeProperties{Description: p.ThingTypeDescription, Searchable: p.SearchableAttributes}
}

type createThingTypeRequest struct {
	ThingTypeName       string               `json:"thingTypeName" in:"uri" is:"required 1..128 ~name"`
	ThingTypeProperties *thingTypeProperties `json:"thingTypeProperties"`
	Tags                []tag                `json:"tags" is:"..50"`
}

type createThingTypeResponse struct {
	ThingTypeName string `json:"thingTypeName"`
	ThingTypeARN  string `json:"thingTypeArn"`
	ThingTypeID   string `json:"thingTypeId"`
}

func (a *API) createThingType(ctx context.Context, q *createThingTypeRequest) (*createThingTypeResponse, error) {
	tags, err := tagsOf(q.Tags)
	if err != nil {
		return nil, err
	}
	t, err := a.o.Registry.CreateThingType(ctx, q.ThingTypeName, q.ThingTypeProperties.of(), tags)
	if err != nil {
		return nil, err
	}
	return &createThingTypeResponse{t.Name, a.o.Registry.TypeARN(t.Name), t.ID}, nil
}

type thingTypeRequest struct {
	ThingTypeName string `json:"thingTypeName" in:"uri" is:"required 1..128 ~name"`
}

type thingType struct {
	ThingTypeName       string              `json:"thingTypeName"`
	ThingTypeID         string              `json:"thingTypeId,omitempty"` // not in lists
	ThingTypeARN        string              `json:"thingTypeArn"`
	ThingTypeProperties thingTypeProperties `json:"thingTypeProperties"`
	ThingTypeMetadata   thingTypeMetadata   `json:"thingTypeMetadata"`
}

type thingTypeMetadata struct {
	Deprecated      bool `json:"deprecated"`
	DeprecationDate Time `json:"deprecationDate,omitzero"`
	CreationDate    Time `json:"creationDate"`
}

func (a *API) thingTypeOf(t *registry.ThingType) *thingType {
	return &thingType{t.Name, t.ID, a.o.Registry.TypeARN(t.Name), thingTypeProperties{ThingTypeDescription: t.Description, SearchableAttributes: t.Searchable},
		thingTypeMetadata{t.Deprecated, Time{t.DeprecatedAt}, Time{t.CreatedAt}}}
}

func (a *API) describeThingType(_ context.Context, q *thingTypeRequest) (*thingType, error) {
	t, err := a.o.Registry.ThingType(q.ThingTypeName)
	if err != nil {
		return nil, err
	}
	return a.thingTypeOf(t), nil
}

type listThingTypesRequest struct {
	NextToken     string `json:"nextToken" in:"query"`
	MaxResults    *int64 `json:"maxResults" in:"query" is:"1..250"`
	ThingTypeName string `json:"thingTypeName" in:"query" is:"1..128 ~name"`
}

type listThingTypesResponse struct {
	ThingTypes []*thingType `json:"thingTypes"`
	NextToken  string       `json:"nextToken,omitempty"`
}

func (a *API) listThingTypes(_ context.Context, q *listThingTypesRequest) (*listThingTypesResponse, error) {
	list, next, err := a.o.Registry.ThingTypes(q.ThingTypeName, pageOf(q.MaxResults, q.NextToken))
	if err != nil {
		return nil, err
	}
	out := &listThingTypesResponse{ThingTypes: make([]*thingType, 0, len(list)), NextToken: next}
	for _, t := range list {
		one := a.thingTypeOf(t)
		one.ThingTypeID = ""
		out.ThingTypes = append(out.ThingTypes, one)
	}
	return out, nil
}

type deprecateThingTypeRequest struct {
	ThingTypeName string `json:"thingTypeName" in:"uri" is:"required 1..128 ~name"`
	UndoDeprecate bool   `json:"undoDeprecate"`
}

func (a *API) deprecateThingType(ctx context.Context, q *deprecateThingTypeRequest) (*none, error) {
	return &none{}, a.o.Registry.DeprecateThingType(ctx, q.ThingTypeName, q.UndoDeprecate)
}

type updateThingTypeRequest struct {
	ThingTypeName       string               `json:"thingTypeName" in:"uri" is:"required 1..128 ~name"`
	ThingTypeProperties *thingTypeProperties `json:"thingTypeProperties"`
}

func (a *API) updateThingType(ctx context.Context, q *updateThingTypeRequest) (*none, error) {
	return &none{}, a.o.Registry.UpdateThingType(ctx, q.ThingTypeName, q.ThingTypeProperties.of())
}

func (a *API) deleteThingType(ctx context.Context, q *thingTypeRequest) (*none, error) {
	return &none{}, a.o.Registry.DeleteThingType(ctx, q.ThingTypeName)
}

// named returns the name of a thing or a group that a request names by its name,
// its ARN or both.
func (a *API) named(kind, member, name, arn string) (string, error) {
	if arn != "" {
		fromARN, ok := strings.CutPrefix(arn, a.arn+kind+"/")
		switch {
		case !ok:
			return "", invalid("%sArn: %q is not an ARN of a %s here", member, clip(arn), kind)
		case name != "" && name != fromARN:
			return "", invalid("%sName and %sArn name different ones", member, member)
		}
		name = fromARN
	}
	if name == "" {
		return "", invalid("%sName or %sArn is needed", member, member)
	}
	return name, nil
}
