package mqtt

import (
	"context"
	"encoding/json"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// lifecycle is the payload of an event about a client.
// Source: AWS IoT Core developer guide, "Lifecycle events".
type lifecycle struct {
	ClientID        string   `json:"clientId"`
	Timestamp       int64    `json:"timestamp"` // milliseconds
	EventType       string   `json:"eventType"`
	Session         string   `json:"sessionIdentifier"`
	Principal       string   `json:"principalIdentifier"`
	IP              string   `json:"ipAddress,omitempty"`
	ClientInitiated *bool    `json:"clientInitiatedDisconnect,omitempty"`
	Reason          string   `json:"disconnectReason,omitempty"`
	Version         *int64   `json:"versionNumber,omitempty"`
	Topics          []string `json:"topics,omitempty"`
}

// nextVersion returns the version number of a connection. It grows with every
// connection, on every node and over restarts, since it follows the clock;
// values are skipped, as they may be.
func (s *Server) nextVersion() int64 {
	for {
		last := s.version.Load()
		next := max(last+1, s.now().UnixMilli())
		if s.version.CompareAndSwap(last, next) {
			return next
		}
	}
}

func (c *client) tellConnected() {
	c.tell("presence", &lifecycle{EventType: "connected", IP: c.ip, Version: &c.connection})
}

func (c *client) tellDisconnected(f *fault) {
	byClient := f == errDisconnect || f == errWithWill
	c.tell("presence", &lifecycle{
		EventType: "disconnected", ClientInitiated: &byClient, Reason: disconnectReason(f), Version: &c.connection,
	})
}

func (c *client) tellSubscriptions(kind string, topics []string) {
	if len(topics) > 0 {
		c.tell("subscriptions", &lifecycle{EventType: kind, Topics: topics})
	}
}

// disconnectReason is the word of a lifecycle event for what ended a
// connection.
func disconnectReason(f *fault) string {
	switch f.word {
	case "disconnect", "disconnect_with_will":
		return "CLIENT_INITIATED_DISCONNECT"
	case "lost", "ended":
		return "CONNECTION_LOST"
	case "keep_alive":
		return "MQTT_KEEP_ALIVE_TIMEOUT"
	case "taken_over":
		return "DUPLICATE_CLIENTID"
	case "administrative":
		return "API_INITIATED_DISCONNECT"
	case "shutdown":
		return "SERVER_INITIATED_DISCONNECT"
	case "store":
		return "SERVER_ERROR"
	}
	if f.code == codeNotAuthorized {
		return "AUTH_ERROR"
	}
	return "CLIENT_ERROR"
}

// tell appends an event about c. It is ordered with what c publishes.
func (c *client) tell(about string, l *lifecycle) {
	s := c.s
	if !s.lifecycle {
		return
	}
	name, err := topic.ParseName("$aws/events/"+about+"/"+l.EventType+"/"+c.id, topic.Limits{})
	if err != nil {
		s.noise.warn("a client id that no lifecycle event can be about", "clientId", c.id)
		return
	}
	now := s.now().UTC().Truncate(time.Millisecond)
	l.ClientID, l.Timestamp, l.Session, l.Principal = c.id, now.UnixMilli(), c.sessionID, c.principal.ID
	payload, err := json.Marshal(l)
	if err != nil {
		panic(err) // it holds nothing JSON cannot say
	}
	e := &event.Event{
		Topic: name, Payload: payload, ClientID: c.id, Principal: c.principal.ID, Received: now,
		QoS: 1, Protocol: event.Server,
	}
	// Not the connection's context: its end is told too.
	ctx, cancel := context.WithTimeout(s.runContext(), 5*time.Second)
	defer cancel()
	c.unsettled.Add(1)
	if err := s.log.Append(ctx, e, &lifecycleReceipt{c}, untracked); err != nil {
		(&lifecycleReceipt{c}).Appended(untracked, e, err)
	}
}

type lifecycleReceipt struct{ c *client }

func (r *lifecycleReceipt) Appended(_ uint64, e *event.Event, err error) {
	defer r.c.unsettled.Done()
	if err != nil {
		r.c.s.m.failures.WithLabelValues("lifecycle").Inc()
		r.c.s.noise.warn("a lifecycle event is not stored", "topic", string(e.Topic), "error", err)
	}
}

func (r *lifecycleReceipt) Flush() {}
