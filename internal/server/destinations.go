package server

import (
	"context"

	webhook "github.com/weir-iot/weir/actions/http"
	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/errs"
)

// owners are the HTTP destinations as the control API wants them.
type owners struct{ d *webhook.Destinations }

func destinationOf(d webhook.Destination) control.Destination {
	return control.Destination{ARN: d.ARN, URL: d.ConfirmationURL, Status: string(d.Status), Reason: d.StatusReason, CreatedAt: d.CreatedAt}
}

// List implements control.Destinations.
func (o owners) List(ctx context.Context) ([]control.Destination, error) {
	list, err := o.d.List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]control.Destination, 0, len(list))
	for _, d := range list {
		out = append(out, destinationOf(d))
	}
	return out, nil
}

// Confirm implements control.Destinations.
func (o owners) Confirm(ctx context.Context, token string) (*control.Destination, error) {
	d, err := o.d.Accept(ctx, token)
	if errs.Is(err, errs.NotFound) {
		return nil, errs.Errorf("destinations.Confirm", errs.NotFound, "the confirmation token is unknown, used or lapsed")
	}
	if err != nil {
		return nil, err
	}
	out := destinationOf(d)
	return &out, nil
}

// Delete implements control.Destinations.
func (o owners) Delete(ctx context.Context, name string) error {
	list, err := o.d.List(ctx)
	if err != nil {
		return err
	}
	for _, d := range list {
		if d.ARN == name || d.ConfirmationURL == name {
			return o.d.Delete(ctx, d.ARN)
		}
	}
	return errs.Errorf("destinations.Delete", errs.NotFound, "there is no destination %s; `weir destination list` shows them", name)
}
