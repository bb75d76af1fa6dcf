package server

import (
	"context"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/ingest/mqtt"
)

// devices are the clients of all gateways as the control API wants them.
type devices struct{ gateway *mqtt.Gateways }

func deviceOf(c *mqtt.Connection) control.DeviceClient {
	d := control.DeviceClient{
		ClientID: c.ClientID, Connected: c.Connected, Since: c.Since, Reason: c.Reason, Principal: c.Principal, Listener: string(c.Listener),
		KeepAlive: int(c.KeepAlive / time.Second), CleanSession: c.CleanSession, SessionExpiry: int(c.SessionExpiry / time.Second),
		Expires: c.Expires, InFlight: c.InFlight, Queued: c.Queued, Lag: c.Lag,
	}
	switch c.Version {
	case 4:
		d.Version = "3.1.1"
	case 5:
		d.Version = "5"
	}
	if c.Remote.IsValid() {
		d.Remote = c.Remote.String()
	}
	for _, s := range c.Subscriptions {
		d.Subscriptions = append(d.Subscriptions, control.ClientSubscription{Filter: string(s.Filter), QoS: s.QoS})
	}
	return d
}

// List implements control.Clients.
func (d devices) List(ctx context.Context, after string, max int) ([]control.DeviceClient, error) {
	list, err := d.gateway.Connections(ctx, after, max)
	if err != nil {
		return nil, err
	}
	out := make([]control.DeviceClient, 0, len(list))
	for _, c := range list {
		out = append(out, deviceOf(c))
	}
	return out, nil
}

// Get implements control.Clients.
func (d devices) Get(ctx context.Context, id string) (*control.DeviceClient, error) {
	c, err := d.gateway.GetConnection(ctx, id)
	if err != nil {
		return nil, err
	}
	out := deviceOf(c)
	return &out, nil
}

// Disconnect implements control.Clients.
func (d devices) Disconnect(ctx context.Context, id string, clean, noWill bool) error {
	return d.gateway.DeleteConnection(ctx, id, clean, noWill)
}
