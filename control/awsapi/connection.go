package awsapi

import (
	"context"

	"github.com/weir-iot/weir/ingest/mqtt"
)

// Connections are the MQTT clients; *ingest/mqtt.Server has them. Errors:
// errs.NotFound, errs.Unavailable.
type Connections interface {
	GetConnection(ctx context.Context, clientID string) (*mqtt.Connection, error)
	ListSubscriptions(ctx context.Context, clientID string) ([]mqtt.Subscription, error) // sorted by filter
	DeleteConnection(ctx context.Context, clientID string, cleanSession, preventWill bool) error
}

func connectionOperations() []operation {
	const client = "client/{clientId}"
	return []operation{
		op(Data, "GetConnection", client, (*API).getConnection),
		op(Data, "ListSubscriptions", client, (*API).listSubscriptions),
		op(Data, "DeleteConnection", client, (*API).deleteConnection),
	}
}

type getConnectionRequest struct {
	ClientID                 string `json:"clientId" in:"uri" is:"required 1..128 ~client"`
	IncludeSocketInformation bool   `json:"includeSocketInformation" in:"query"`
}

type getConnectionResponse struct {
	Connected         bool   `json:"connected"`
	ThingName         string `json:"thingName,omitempty"`
	CleanSession      bool   `json:"cleanSession"`
	SourceIP          string `json:"sourceIp,omitempty"`
	SourcePort        int    `json:"sourcePort,omitempty"`
	TargetIP          string `json:"targetIp,omitempty"`
	TargetPort        int    `json:"targetPort,omitempty"`
	KeepAliveDuration int64  `json:"keepAliveDuration,omitempty"` // seconds
	ConnectedSince    int64  `json:"connectedSince,omitempty"`    // milliseconds since 1970
	DisconnectedSince int64  `json:"disconnectedSince,omitempty"` // milliseconds since 1970
	DisconnectReason  string `json:"disconnectReason,omitempty"`
	SessionExpiry     int64  `json:"sessionExpiry,omitempty"` // seconds
	ClientID          string `json:"clientId"`
}

func (a *API) getConnection(ctx context.Context, q *getConnectionRequest) (*getConnectionResponse, error) {
	c, err := a.o.Connections.GetConnection(ctx, q.ClientID)
	if err != nil {
		return nil, err
	}
	out := &getConnectionResponse{Connected: c.Connected, CleanSession: c.CleanSession, ClientID: c.ClientID, DisconnectReason: c.Reason,
		KeepAliveDuration: int64(c.KeepAlive.Seconds()), SessionExpiry: int64(c.SessionExpiry.Seconds())}
	switch {
	case c.Since.IsZero():
	case c.Connected:
		out.ConnectedSince = c.Since.UnixMilli()
	default:
		out.DisconnectedSince = c.Since.UnixMilli()
	}
	if c.Connected && c.Principal != "" {
		if t := a.o.Registry.ThingOf(c.Principal, c.ClientID); t != nil {
			out.ThingName = t.Name
		}
	}
	if q.IncludeSocketInformation && c.Connected {
		if c.Remote.IsValid() {
			out.SourceIP, out.SourcePort = c.Remote.Addr().String(), int(c.Remote.Port())
		}
		if c.Local.IsValid() {
			out.TargetIP, out.TargetPort = c.Local.Addr().String(), int(c.Local.Port())
		}
	}
	return out, nil
}

type listSubscriptionsRequest struct {
	ClientID   string `json:"clientId" in:"uri" is:"required 1..128 ~client"`
	NextToken  string `json:"nextToken" in:"query"`
	MaxResults *int64 `json:"maxResults" in:"query" is:"1..200"`
}

type listSubscriptionsResponse struct {
	Subscriptions []subscription `json:"subscriptions"`
	NextToken     string         `json:"nextToken,omitempty"`
}

type subscription struct {
	TopicFilter string `json:"topicFilter"`
	QoS         int    `json:"qos"`
}

func (a *API) listSubscriptions(ctx context.Context, q *listSubscriptionsRequest) (*listSubscriptionsResponse, error) {
	list, err := a.o.Connections.ListSubscriptions(ctx, q.ClientID)
	if err != nil {
		return nil, err
	}
	key := func(s *mqtt.Subscription) string { return string(s.Filter) }
	part, next, err := page("ListSubscriptions "+q.ClientID, list, key, q.NextToken, q.MaxResults, 200, false)
	if err != nil {
		return nil, err
	}
	out := &listSubscriptionsResponse{Subscriptions: make([]subscription, 0, len(part)), NextToken: next}
	for _, s := range part {
		out.Subscriptions = append(out.Subscriptions, subscription{string(s.Filter), int(s.QoS)})
	}
	return out, nil
}

type deleteConnectionRequest struct {
	ClientID           string `json:"clientId" in:"uri" is:"required 1..128 ~client"`
	CleanSession       bool   `json:"cleanSession" in:"query"`
	PreventWillMessage bool   `json:"preventWillMessage" in:"query"`
}

func (a *API) deleteConnection(ctx context.Context, q *deleteConnectionRequest) (*none, error) {
	return &none{}, a.o.Connections.DeleteConnection(ctx, q.ClientID, q.CleanSession, q.PreventWillMessage)
}
