package server

import (
	"time"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/internal/topic"
)

// limits returns the limits of the profile the configuration names, with those
// that it sets by themselves.
func (s *Server) limits() ingest.Limits {
	l := ingest.AWS()
	if s.cfg.Limits == "relaxed" {
		l = ingest.Relaxed()
	}
	set, over := &s.cfg.Limit, packetOverhead(&l)
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

func (s *Server) rates() ingest.Rates {
	if s.cfg.Rates == "aws" {
		return ingest.AWSRates()
	}
	return ingest.Rates{}
}
