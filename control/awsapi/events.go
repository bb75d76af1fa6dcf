package awsapi

import (
	"context"

	"github.com/weir-iot/weir/registry"
)

func eventOperations() []operation {
	return []operation{
		op(IoT, "DescribeEventConfigurations", "*", (*API).eventConfigurations),
		op(IoT, "UpdateEventConfigurations", "*", (*API).updateEventConfigurations, partly("no events of jobs")),
	}
}

type eventConfiguration struct {
	Enabled bool `json:"Enabled"`
}

type eventConfigurationsResponse struct {
	EventConfigurations map[string]eventConfiguration `json:"eventConfigurations"`
	CreationDate        *Time                         `json:"creationDate,omitempty"`
	LastModifiedDate    *Time                         `json:"lastModifiedDate,omitempty"`
}

func (a *API) eventConfigurations(context.Context, *none) (*eventConfigurationsResponse, error) {
	e := a.o.Registry.EventConfigurations()
	out := &eventConfigurationsResponse{EventConfigurations: map[string]eventConfiguration{}}
	for _, t := range registry.EventTypes() {
		out.EventConfigurations[t] = eventConfiguration{e.On(t)}
	}
	if !e.CreatedAt.IsZero() {
		out.CreationDate, out.LastModifiedDate = &Time{e.CreatedAt}, &Time{e.ModifiedAt}
	}
	return out, nil
}

type updateEventConfigurationsRequest struct {
	EventConfigurations map[string]eventConfiguration `json:"eventConfigurations" is:"..64"`
}

func (a *API) updateEventConfigurations(ctx context.Context, q *updateEventConfigurationsRequest) (*none, error) {
	enabled := make(map[string]bool, len(q.EventConfigurations))
	for t, c := range q.EventConfigurations {
		enabled[t] = c.Enabled
	}
	return &none{}, a.o.Registry.UpdateEventConfigurations(ctx, enabled)
}
