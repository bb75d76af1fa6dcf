// Package auth answers who a connection is and whether it may.
//
// A dialect of the gateway asks the Authenticator once, when a client has said
// all it has to say about itself (MQTT: CONNECT, HTTPS: the request), and the
// Authorizer for the connection itself, for each publish, subscription and
// delivery. The package also keeps Weir's own certificate authority: the server
// certificate of the TLS ports and client certificates come from it.
package auth

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// Listener is the way a connection came in.
type Listener string

const (
	Plain     Listener = "mqtt"  // TCP without TLS; loopback only
	TLS       Listener = "mqtts" // MQTT over TLS
	WebSocket Listener = "wss"   // MQTT over WebSocket
	HTTPS     Listener = "https" // HTTPS publish
	HTTP      Listener = "http"  // the same without TLS; loopback only
)

// Connection is what is known of a client that wants in.
type Connection struct {
	Listener Listener
	Remote   netip.AddrPort
	TLS      *tls.ConnectionState // nil without TLS
	ClientID string               // empty for HTTPS without one
	Assigned bool                 // the client id is the server's choice, the client sent none
	Username string               // as sent, metrics of the SDKs included
	Password []byte

	// What a CONNECT asks for, for conditions of iot:Connect.
	Persistent bool   // a session that outlives the connection
	WillTopic  string // "": no will

	// Mux tells that it came in by the one port that serves everything, where
	// the ALPN name says which authentication is meant.
	Mux  bool
	ID   string   // names the connection, for logs and authorizers: a UUID
	HTTP *Request // the request, of HTTPS and WebSocket; nil for MQTT over TCP
}

// LogValue keeps user name and password out of every log.
func (c *Connection) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("listener", string(c.Listener)),
		slog.String("remote", c.Remote.String()),
		slog.String("clientId", c.ClientID),
	)
}

// String keeps user name and password out of every %v.
func (c *Connection) String() string {
	return fmt.Sprintf("%s from %s as %q", c.Listener, c.Remote, c.ClientID)
}

// Principal is one connection's identity. It is made by an Authenticator for
// one connection and read by the Authorizer with every question.
type Principal struct {
	ID       string // certificate id, access key, …; stored with events; may be empty
	ClientID string
	Remote   netip.AddrPort
	Listener Listener
	Data     any // what the Authenticator wants to find again; nil for the development one

	// Expires is when the connection must end at the latest; zero: never.
	Expires time.Time
	// Ended is called by the gateway, once, when the connection has ended or was
	// refused after all; nil: nobody wants to know. Of an HTTPS request it is
	// not called.
	Ended func()
}

// Authenticator says who a connection is. Its calls may overlap; each must end
// within ctx. Errors: errs.Unauthorized (not known), errs.Forbidden (known and
// shut out), errs.Unavailable (cannot be told now).
type Authenticator interface {
	Authenticate(ctx context.Context, c *Connection) (*Principal, error)
}

// Action is what a principal asks to do, in the words of an IoT policy.
type Action uint8

const (
	Connect       Action = iota // resource: the client id
	Publish                     // a topic name
	RetainPublish               // a topic name, asked besides Publish
	Subscribe                   // a topic filter, $share and its group included
	Receive                     // a topic name

	// Of the HTTPS data plane; over MQTT the same is asked for by topics.
	GetRetainedMessage       // a topic name
	ListRetainedMessages     // no resource
	GetThingShadow           // a thing's name, or name/shadow
	UpdateThingShadow        // the same
	DeleteThingShadow        // the same
	ListNamedShadowsForThing // a thing's name

	DescribeJobExecution         // a thing's name
	GetPendingJobExecutions      // a thing's name
	UpdateJobExecution           // a thing's name
	StartNextPendingJobExecution // a thing's name

	AssumeRoleWithCertificate // a role alias
	actionCount
)

// actions has for each Action its name in a policy and what goes before the
// resource's name in its ARN. Source: AWS IoT Core developer guide, "AWS IoT
// Core action resources".
var actions = [actionCount]struct{ name, prefix string }{
	Connect: {"iot:Connect", "client/"}, Publish: {"iot:Publish", "topic/"}, RetainPublish: {"iot:RetainPublish", "topic/"},
	Subscribe: {"iot:Subscribe", "topicfilter/"}, Receive: {"iot:Receive", "topic/"},
	GetRetainedMessage: {"iot:GetRetainedMessage", "topic/"}, ListRetainedMessages: {"iot:ListRetainedMessages", ""},
	GetThingShadow: {"iot:GetThingShadow", "thing/"}, UpdateThingShadow: {"iot:UpdateThingShadow", "thing/"},
	DeleteThingShadow: {"iot:DeleteThingShadow", "thing/"}, ListNamedShadowsForThing: {"iot:ListNamedShadowsForThing", "thing/"},
	DescribeJobExecution: {"iot:DescribeJobExecution", "thing/"}, GetPendingJobExecutions: {"iot:GetPendingJobExecutions", "thing/"},
	UpdateJobExecution: {"iot:UpdateJobExecution", "thing/"}, StartNextPendingJobExecution: {"iot:StartNextPendingJobExecution", "thing/"},
	AssumeRoleWithCertificate: {"iot:AssumeRoleWithCertificate", "rolealias/"},
}

// String returns the policy's name of a.
func (a Action) String() string { return actions[a].name }

// Prefix returns what goes before the name in an ARN: "topic/". It is empty for
// an action without a resource.
func (a Action) Prefix() string { return actions[a].prefix }

// ParseAction returns the action a policy calls name; upper and lower case are
// the same.
func ParseAction(name string) (Action, bool) {
	for a := range actions {
		if strings.EqualFold(actions[a].name, name) {
			return Action(a), true
		}
	}
	return 0, false
}

// Authorizer says whether a principal may. May is called for every message, by
// many goroutines, and must not block: it decides from memory. What it denies
// is refused to the client; the gateway counts and logs it.
type Authorizer interface {
	May(p *Principal, a Action, resource string) bool
}

// Explainer is an Authorizer that can say why it denied. Why returns a sentence
// for the log, never for the client.
type Explainer interface {
	Why(p *Principal, a Action, resource string) string
}

// Keeper is an Authorizer whose mind may change while a connection is open.
type Keeper interface {
	// Generation grows whenever the answer of Still may have changed for anyone.
	Generation() uint64
	// Still reports why p may not stay connected, nil where it may. Besides a new
	// generation, time may end a connection: it is asked from time to time.
	Still(p *Principal) error
}
