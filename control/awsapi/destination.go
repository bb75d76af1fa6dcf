package awsapi

import (
	"context"
	"strings"

	webhook "github.com/weir-iot/weir/actions/http"
	"github.com/weir-iot/weir/internal/errs"
)

// Destinations are the web servers the http action may send to.
// *actions/http.Destinations is one.
type Destinations interface {
	Create(ctx context.Context, confirmationURL string) (webhook.Destination, error)
	Accept(ctx context.Context, token string) (webhook.Destination, error)
	Get(ctx context.Context, arn string) (webhook.Destination, error)
	List(ctx context.Context) ([]webhook.Destination, error) // oldest first
	Update(ctx context.Context, arn string, to webhook.Status) (webhook.Destination, error)
	Delete(ctx context.Context, arn string) error
}

func destinationOperations() []operation {
	return []operation{
		op(IoT, "CreateTopicRuleDestination", "*", (*API).createDestination, partly("HTTP; no VPC")),
		op(IoT, "ConfirmTopicRuleDestination", "*", (*API).confirmDestination),
		op(IoT, "GetTopicRuleDestination", "{arn:arn}", (*API).getDestination),
		op(IoT, "UpdateTopicRuleDestination", "{arn:arn}", (*API).updateDestination),
		op(IoT, "DeleteTopicRuleDestination", "{arn:arn}", (*API).deleteDestination),
		op(IoT, "ListTopicRuleDestinations", "*", (*API).listDestinations),
	}
}

type createDestinationRequest struct {
	DestinationConfiguration *destinationConfiguration `json:"destinationConfiguration" is:"required"`
}

type destinationConfiguration struct {
	HTTPURLConfiguration *httpURLConfiguration `json:"httpUrlConfiguration"`
	VPCConfiguration     *struct{}             `json:"vpcConfiguration"`
}

type httpURLConfiguration struct {
	ConfirmationURL string `json:"confirmationUrl" is:"required ..2000"`
}

type destinationResponse struct {
	TopicRuleDestination *destination `json:"topicRuleDestination"`
}

type destination struct {
	ARN               string             `json:"arn"`
	Status            string             `json:"status"`
	CreatedAt         Time               `json:"createdAt"`
	LastUpdatedAt     Time               `json:"lastUpdatedAt"`
	StatusReason      string             `json:"statusReason,omitempty"`
	HTTPURLProperties *httpURLProperties `json:"httpUrlProperties,omitempty"`
	HTTPURLSummary    *httpURLProperties `json:"httpUrlSummary,omitempty"` // in lists
}

type httpURLProperties struct {
	ConfirmationURL string `json:"confirmationUrl"`
}

func destinationOf(d webhook.Destination) *destination {
	return &destination{ARN: d.ARN, Status: string(d.Status), CreatedAt: Time{d.CreatedAt}, LastUpdatedAt: Time{d.LastUpdatedAt},
		StatusReason: d.StatusReason, HTTPURLProperties: &httpURLProperties{d.ConfirmationURL}}
}

func (a *API) createDestination(ctx context.Context, q *createDestinationRequest) (*destinationResponse, error) {
	c := q.DestinationConfiguration
	switch {
	case c.VPCConfiguration != nil:
		return nil, notSupported("destinationConfiguration.vpcConfiguration", "there are no VPCs here")
	case c.HTTPURLConfiguration == nil:
		return nil, invalid("destinationConfiguration.httpUrlConfiguration is missing")
	}
	d, err := a.o.Destinations.Create(ctx, c.HTTPURLConfiguration.ConfirmationURL)
	if errs.Is(err, errs.Exists) {
		return nil, &Error{Code: "ResourceAlreadyExistsException", Message: errs.Text(err),
			ResourceID: d.ARN[strings.LastIndexByte(d.ARN, '/')+1:], ResourceARN: d.ARN, Err: err}
	}
	if err != nil {
		return nil, err
	}
	return &destinationResponse{destinationOf(d)}, nil
}

type confirmDestinationRequest struct {
	ConfirmationToken string `json:"confirmationToken" in:"uri" is:"required 1..2048"`
}

func (a *API) confirmDestination(ctx context.Context, q *confirmDestinationRequest) (*none, error) {
	_, err := a.o.Destinations.Accept(ctx, q.ConfirmationToken)
	return &none{}, err
}

type destinationRequest struct {
	ARN string `json:"arn" in:"uri" is:"required 1..2048 ~arn"`
}

func (a *API) getDestination(ctx context.Context, q *destinationRequest) (*destinationResponse, error) {
	d, err := a.o.Destinations.Get(ctx, q.ARN)
	if err != nil {
		return nil, err
	}
	return &destinationResponse{destinationOf(d)}, nil
}

type updateDestinationRequest struct {
	ARN    string `json:"arn" is:"required 1..2048 ~arn"`
	Status string `json:"status" is:"required =ENABLED|IN_PROGRESS|DISABLED|ERROR|DELETING"`
}

func (a *API) updateDestination(ctx context.Context, q *updateDestinationRequest) (*none, error) {
	_, err := a.o.Destinations.Update(ctx, q.ARN, webhook.Status(q.Status))
	return &none{}, err
}

func (a *API) deleteDestination(ctx context.Context, q *destinationRequest) (*none, error) {
	return &none{}, a.o.Destinations.Delete(ctx, q.ARN)
}

type listDestinationsRequest struct {
	MaxResults *int64 `json:"maxResults" in:"query" is:"1..1000"`
	NextToken  string `json:"nextToken" in:"query"`
}

type listDestinationsResponse struct {
	DestinationSummaries []*destination `json:"destinationSummaries"`
	NextToken            string         `json:"nextToken,omitempty"`
}

func (a *API) listDestinations(ctx context.Context, q *listDestinationsRequest) (*listDestinationsResponse, error) {
	all, err := a.o.Destinations.List(ctx)
	if err != nil {
		return nil, err
	}
	// By age, and by name where two are as old.
	key := func(d *webhook.Destination) string { return d.CreatedAt.Format("20060102150405.000000000") + d.ARN }
	sortBy(all, key)
	part, next, err := page("ListTopicRuleDestinations", all, key, q.NextToken, q.MaxResults, 100, false)
	if err != nil {
		return nil, err
	}
	out := &listDestinationsResponse{DestinationSummaries: []*destination{}, NextToken: next}
	for _, d := range part {
		one := destinationOf(d)
		one.HTTPURLProperties, one.HTTPURLSummary = nil, one.HTTPURLProperties
		out.DestinationSummaries = append(out.DestinationSummaries, one)
	}
	return out, nil
}
