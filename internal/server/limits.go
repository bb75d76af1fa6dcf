package server

import (
	"time"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/internal/config"
	"github.com/weir-iot/weir/internal/topic"
)

func (s *Server) limits() ingest.Limits { return limitsOf(s.cfg) }

// limitsOf returns the limits of the profile the configuration names, with those
// that it sets by themselves.
func limitsOf(c *config.Config) ingest.Limits {
	l := ingest.AWS()
	if c.Limits == "relaxed" {
		l = ingest.Relaxed()
	}
	set, over := &c.Limit, packetOverhead(&l)
	if set.Payload > 0 {
		l.Payload = int(set.Payload)
		l.PacketBytes = max(l.PacketBytes, l.Payload+over)
	}
	if set.PacketBytes > 0 {
		l.PacketBytes = int(set.PacketBytes)
	}
	for _, n := range []struct{ to, from *int }{
		{&l.TopicBytes, &set.TopicBytes}, {&l.TopicSlashes, &set.TopicSlashes}, {&l.Subscriptions, &set.Subscriptions},
		{&l.PerSubscribe, &set.PerSubscribe}, {&l.InFlight, &set.InFlight}, {&l.TopicAliases, &set.TopicAliases},
		{&l.ClientID, &set.ClientID}, {&l.ShareName, &set.ShareName},
	} {
		if *n.from > 0 {
			*n.to = *n.from
		}
	}
	for _, d := range []struct{ to, from *time.Duration }{
		{&l.KeepAliveMin, &set.KeepAliveMin}, {&l.KeepAliveMax, &set.KeepAliveMax}, {&l.MessageExpiryMax, &set.MessageExpiryMax},
		{&l.SessionExpiry, &set.SessionExpiry}, {&l.SessionExpiryMax, &set.SessionExpiryMax},
	} {
		if *d.from > 0 {
			*d.to = *d.from
		}
	}
	for _, b := range []struct {
		to   *bool
		from string
	}{{&l.SubscriptionIDs, set.SubscriptionIDs}, {&l.RetainedOnWildcard, set.RetainedOnWildcard}, {&l.SNIOptional, set.SNIOptional}} {
		if b.from != "" {
			*b.to = b.from == "true"
		}
	}
	switch set.Matching {
	case "aws":
		l.Mode = topic.AWS
	case "standard":
		l.Mode = topic.Standard
	}
	return l
}

// packetOverhead is what a profile gives a packet beside its payload.
func packetOverhead(l *ingest.Limits) int { return l.PacketBytes - l.Payload }

// Check finds limits that cannot hold together; it is for config.Load.
func Check(c *config.Config) error {
	l, set := limitsOf(c), &c.Limit
	// Of two keys the one that was set is at fault, rather than the profile.
	either := func(isSet bool, key, other string) string {
		if isSet {
			return key
		}
		return other
	}
	least := int64(l.Payload) + 1<<10
	switch {
	case int64(l.PacketBytes) < least:
		return config.Mistake("limit.packet_bytes", "%s cannot hold a message of %s (limit.payload, or the profile's): leave it out, or set at least %s",
			config.FormatSize(int64(l.PacketBytes)), config.FormatSize(int64(l.Payload)), config.FormatSize(least))
	case l.KeepAliveMin > l.KeepAliveMax:
		return config.Mistake(either(set.KeepAliveMin > 0, "limit.keep_alive_min", "limit.keep_alive_max"),
			"the least keep-alive would be %s and the longest %s: lower limit.keep_alive_min or raise limit.keep_alive_max", config.FormatDuration(l.KeepAliveMin), config.FormatDuration(l.KeepAliveMax))
	case l.SessionExpiry > l.SessionExpiryMax:
		return config.Mistake(either(set.SessionExpiry > 0, "limit.session_expiry", "limit.session_expiry_max"),
			"sessions of MQTT 3.1.1 would be kept %s and none longer than %s: lower limit.session_expiry or raise limit.session_expiry_max", config.FormatDuration(l.SessionExpiry), config.FormatDuration(l.SessionExpiryMax))
	case l.PerSubscribe > l.Subscriptions:
		return config.Mistake(either(set.PerSubscribe > 0, "limit.per_subscribe", "limit.subscriptions"),
			"one SUBSCRIBE could ask for %d filters and a connection have %d: lower limit.per_subscribe or raise limit.subscriptions", l.PerSubscribe, l.Subscriptions)
	case c.Safety.RetainedBytes < int64(l.Payload):
		return config.Mistake("safety.retained_bytes", "%s cannot hold one message of %s: set at least limit.payload, better a thousand times as much",
			config.FormatSize(c.Safety.RetainedBytes), config.FormatSize(int64(l.Payload)))
	}
	return l.Validate()
}

func (s *Server) rates() ingest.Rates {
	if s.cfg.Rates == "aws" {
		return ingest.AWSRates()
	}
	return ingest.Rates{}
}
