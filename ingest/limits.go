package ingest

import (
	"fmt"
	"time"

	"github.com/weir-iot/weir/internal/topic"
)

// Limits are the limits of shape a device meets. AWS and Relaxed return the two
// sets Weir documents; each field may be set by itself.
type Limits struct {
	Name string // "aws", "relaxed"; shown to people

	Payload       int // bytes of one message; over it: the connection is closed, HTTPS 413
	PacketBytes   int // a whole MQTT packet, announced in CONNACK
	TopicBytes    int // of a topic name or filter
	TopicSlashes  int // a Basic Ingest prefix not counted
	Subscriptions int // of one connection
	PerSubscribe  int // filters in one SUBSCRIBE
	InFlight      int // QoS 1 messages not yet acknowledged, each way
	TopicAliases  int // of one connection
	ClientID      int // bytes
	ShareName     int // bytes

	KeepAliveMin, KeepAliveMax time.Duration // 0 and anything above the maximum count as the maximum
	MessageExpiryMax           time.Duration // a longer message expiry counts as this
	SessionExpiry              time.Duration // of a persistent session of MQTT 3.1.1, which cannot ask for one
	SessionExpiryMax           time.Duration // a longer session expiry counts as this, or as the log's retention

	SubscriptionIDs    bool       // MQTT 5 subscription identifiers are available
	RetainedOnWildcard bool       // a wildcard subscription gets retained messages
	SNIOptional        bool       // a TLS client from loopback may leave out the server name
	Mode               topic.Mode // how subscriptions match
}

// AWS returns the limits AWS IoT Core documents.
func AWS() Limits {
	return Limits{
		Name: "aws", Payload: 128 << 10, PacketBytes: 149_504, TopicBytes: 256, TopicSlashes: 7,
		Subscriptions: 50, PerSubscribe: 8, InFlight: 100, TopicAliases: 8, ClientID: 128, ShareName: 128,
		KeepAliveMin: 30 * time.Second, KeepAliveMax: 1200 * time.Second,
		MessageExpiryMax: 7 * 24 * time.Hour, SessionExpiry: time.Hour, SessionExpiryMax: 7 * 24 * time.Hour, Mode: topic.AWS,
	}
}

// Relaxed returns limits for owners who want none of the cloud's: what is left
// protects the process.
func Relaxed() Limits {
	l := AWS()
	l.Name = "relaxed"
	l.Payload, l.PacketBytes = 1<<20, 1<<20+64<<10
	l.TopicBytes, l.TopicSlashes = topic.MaxBytes, 32
	l.Subscriptions, l.PerSubscribe, l.InFlight = 10_000, 1_000, 1_000
	l.SubscriptionIDs, l.RetainedOnWildcard, l.SNIOptional = true, true, true
	l.Mode = topic.Standard
	return l
}

// Rates are limits of rate. The zero value holds none.
type Rates struct {
	Publishes int // a second and connection; those over it are not taken
	Bytes     int // a second and connection; what is over it is read later
	Connects  int // a second and client id; those over it are refused
}

// AWSRates returns the rates AWS IoT Core documents.
func AWSRates() Rates { return Rates{Publishes: 100, Bytes: 512 << 10, Connects: 1} }

// Topic returns the bounds of names and filters.
func (l *Limits) Topic() topic.Limits {
	return topic.Limits{Bytes: l.TopicBytes, Slashes: l.TopicSlashes}
}

// KeepAlive returns the keep-alive that holds for a client that asks for
// seconds.
func (l *Limits) KeepAlive(seconds uint16) time.Duration {
	d := time.Duration(seconds) * time.Second
	switch {
	case d == 0 || d > l.KeepAliveMax:
		return l.KeepAliveMax
	case d < l.KeepAliveMin:
		return l.KeepAliveMin
	}
	return d
}

// Validate reports a field nothing can work with.
func (l *Limits) Validate() error {
	for _, f := range []struct {
		name     string
		is       int
		min, max int
	}{
		{"payload", l.Payload, 1, 8 << 20},
		{"packet bytes", l.PacketBytes, l.Payload + 1024, 16 << 20},
		{"topic bytes", l.TopicBytes, 1, topic.MaxBytes},
		{"topic slashes", l.TopicSlashes, 1, topic.MaxBytes},
		{"subscriptions", l.Subscriptions, 1, 1 << 20},
		{"filters in one SUBSCRIBE", l.PerSubscribe, 1, 1 << 16},
		{"in flight", l.InFlight, 1, 1<<16 - 1},
		{"topic aliases", l.TopicAliases, 0, 1<<16 - 1},
		{"client id bytes", l.ClientID, 1, 1<<16 - 1},
	} {
		if f.is < f.min || f.is > f.max {
			return fmt.Errorf("limits: %s is %d, must be %d to %d", f.name, f.is, f.min, f.max)
		}
	}
	if l.KeepAliveMin <= 0 || l.KeepAliveMax < l.KeepAliveMin || l.KeepAliveMax > 65535*time.Second {
		return fmt.Errorf("limits: keep-alive must be within 1s to 65535s, least before most")
	}
	if l.SessionExpiry < 0 || l.SessionExpiryMax < 0 {
		return fmt.Errorf("limits: a session expiry is not negative")
	}
	return nil
}

// Safety are the limits that stand before a client has said who it is. They
// hold always, whatever Limits say.
type Safety struct {
	ConnectTimeout    time.Duration // from accepting a connection to a whole CONNECT, the TLS handshake included; 10 s
	Unauthenticated   int           // connections of one address that have not logged in; 500
	FailedLogins      int           // of one address in a second; 10
	ConnectBytes      int           // a CONNECT packet; 192 KiB (user name, password, will)
	PendingBytes      int           // bytes not yet taken by a slow client's socket before it counts as slow; 64 KiB
	PendingHard       int           // bytes at which the client's own packets are no longer read; 256 KiB
	QueuedMessages    int           // QoS 1 messages waiting in memory for room in a client's window; 256
	QueuedBytes       int           // the same in bytes, properties included; 256 KiB
	MaxConnections    int           // 100,000
	Retained          int           // topics with a retained message, kept in memory; 500,000
	RetainedBytes     int           // the same in bytes, properties included; 256 MiB
	CloseGrace        time.Duration // how long a closing connection may take to read its last bytes; 1 s
	KeepAliveTick     time.Duration // how often overdue clients are looked for; 500 ms
	TakeoverTimeout   time.Duration // how long a CONNECT waits for the connection it takes over; 5 s
	ShutdownDrainTime time.Duration // how long open publishes may still be acknowledged at shutdown; 2 s
}

// DefaultSafety returns the documented values.
func DefaultSafety() Safety {
	return Safety{
		ConnectTimeout: 10 * time.Second, Unauthenticated: 500, FailedLogins: 10,
		ConnectBytes: 192 << 10, PendingBytes: 64 << 10, PendingHard: 256 << 10,
		QueuedMessages: 256, QueuedBytes: 256 << 10, MaxConnections: 100_000, Retained: 500_000, RetainedBytes: 256 << 20,
		CloseGrace: time.Second, KeepAliveTick: 500 * time.Millisecond,
		TakeoverTimeout: 5 * time.Second, ShutdownDrainTime: 2 * time.Second,
	}
}
