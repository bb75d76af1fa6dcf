package awsapi

import (
	"context"
	"errors"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/shadow"
)

// Shadows is the shadow service. Errors: an *shadow.Error, errs.Unavailable,
// errs.Timeout.
type Shadows interface {
	Get(ctx context.Context, thing, name string) ([]byte, error)
	Update(ctx context.Context, thing, name string, body []byte, who shadow.Who) ([]byte, error)
	Delete(ctx context.Context, thing, name string, who shadow.Who) ([]byte, error)
	List(ctx context.Context, thing string, size int, token string) (*shadow.Names, error)
}

func shadowOperations() []operation {
	// A named shadow is thing/<thing>/<shadow> to policies.
	const resource = "thing/{thingName}{/name}"
	return []operation{
		op(Data, "GetThingShadow", resource, (*API).getThingShadow),
		op(Data, "UpdateThingShadow", resource, (*API).updateThingShadow),
		op(Data, "DeleteThingShadow", resource, (*API).deleteThingShadow),
		op(Data, "ListNamedShadowsForThing", "thing/{thingName}", (*API).listNamedShadows),
	}
}

// shadowCodes are the codes of the shadow service's refusals.
var shadowCodes = map[int]string{
	400: "InvalidRequestException", 401: "UnauthorizedException", 403: "ForbiddenException", 404: "ResourceNotFoundException",
	409: "ConflictException", 413: "RequestEntityTooLargeException", 415: "UnsupportedDocumentEncodingException",
	429: "ThrottlingException", 500: "InternalFailureException", 503: "ServiceUnavailableException",
}

func shadowError(err error) error {
	var e *shadow.Error
	if errors.As(err, &e) && shadowCodes[e.Code] != "" {
		return &Error{Code: shadowCodes[e.Code], Message: e.Message, Err: err}
	}
	return err
}

func shadowAnswer(doc []byte, err error) (*shadowResponse, error) {
	if err != nil {
		return nil, shadowError(err)
	}
	return &shadowResponse{doc}, nil
}

func (a *API) shadowWho(ctx context.Context) shadow.Who {
	c := callerOf(ctx)
	who := shadow.Who{Principal: c.ID, Via: "http"}
	if c.SourceIP.IsValid() {
		who.SourceIP = c.SourceIP.String()
	}
	return who
}

type shadowRequest struct {
	ThingName  string `json:"thingName" in:"uri" is:"required 1..128 ~name"`
	ShadowName string `json:"name" in:"query" is:"1..64 ~shadow"`
}

type shadowResponse struct {
	Payload []byte `json:"payload" in:"payload"`
}

func (a *API) getThingShadow(ctx context.Context, q *shadowRequest) (*shadowResponse, error) {
	return shadowAnswer(a.o.Shadows.Get(ctx, q.ThingName, q.ShadowName))
}

type updateShadowRequest struct {
	ThingName  string `json:"thingName" in:"uri" is:"required 1..128 ~name"`
	ShadowName string `json:"name" in:"query" is:"1..64 ~shadow"`
	Payload    []byte `json:"payload" in:"payload" is:"required"`
}

func (a *API) updateThingShadow(ctx context.Context, q *updateShadowRequest) (*shadowResponse, error) {
	return shadowAnswer(a.o.Shadows.Update(ctx, q.ThingName, q.ShadowName, q.Payload, a.shadowWho(ctx)))
}

func (a *API) deleteThingShadow(ctx context.Context, q *shadowRequest) (*shadowResponse, error) {
	return shadowAnswer(a.o.Shadows.Delete(ctx, q.ThingName, q.ShadowName, a.shadowWho(ctx)))
}

type listNamedShadowsRequest struct {
	ThingName string `json:"thingName" in:"uri" is:"required 1..128 ~name"`
	NextToken string `json:"nextToken" in:"query" is:"..2048"`
	PageSize  *int64 `json:"pageSize" in:"query" is:"1..100"`
}

type listNamedShadowsResponse struct {
	Results   []string `json:"results"`
	NextToken string   `json:"nextToken,omitempty"`
	Timestamp int64    `json:"timestamp"`
}

func (a *API) listNamedShadows(ctx context.Context, q *listNamedShadowsRequest) (*listNamedShadowsResponse, error) {
	n, err := a.o.Shadows.List(ctx, q.ThingName, int(number(q.PageSize)), q.NextToken)
	if err != nil {
		return nil, shadowError(err)
	}
	if n == nil {
		return nil, errs.Errorf("awsapi.ListNamedShadows", errs.Internal, "no list")
	}
	return &listNamedShadowsResponse{names(n.Results), n.NextToken, n.Timestamp}, nil
}
