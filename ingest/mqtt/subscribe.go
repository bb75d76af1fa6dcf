package mqtt

import (
	"slices"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/topic"
)

// onSubscribe judges each filter by itself, and answers.
func (c *client) onSubscribe(body []byte) error {
	if f := checkSubscribe(body, packets.Subscribe, c.v5); f != nil {
		return f
	}
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1, Remaining: len(body)}, ProtocolVersion: c.version()}
	if err := pk.SubscribeDecode(body); err != nil {
		return errMalformed
	}
	if len(pk.Properties.SubscriptionIdentifier) > 0 && !c.s.limits.SubscriptionIDs {
		return c.violation("subscription_id", codeSubscriptionIDNo, "subscription identifiers are not available")
	}
	codes := make([]byte, len(pk.Filters))
	subs := make([]*subscription, len(pk.Filters))
	for i := range pk.Filters {
		o := &pk.Filters[i]
		if i >= c.s.limits.PerSubscribe {
			c.limited("per_subscribe", "more topic filters in a SUBSCRIBE than the limit")
			codes[i] = codeQuota
			continue
		}
		f, code, err := c.filter(o)
		if err != nil {
			return err
		}
		if codes[i] = code; code != codeSuccess {
			continue
		}
		subs[i] = &subscription{
			sess: c.sess, retainHandling: o.RetainHandling, filter: f, qos: min(o.Qos, 1), id: uint32(o.Identifier),
			noLocal: o.NoLocal, retainAsPublished: o.RetainAsPublished,
		}
		_, subs[i].shared = subs[i].parseShare()
		codes[i] = subs[i].qos
	}
	c.subscribe(pk.PacketID, subs, codes)
	var topics []string
	for i, sub := range subs {
		if sub != nil && codes[i] <= 1 {
			topics = append(topics, string(sub.filter))
		}
	}
	c.debug("subscribed", "filters", topics)
	c.tellSubscriptions("subscribed", topics)
	return nil
}

// filter judges one filter of a SUBSCRIBE.
func (c *client) filter(o *packets.Subscription) (topic.Filter, byte, *fault) {
	text := strings.Clone(o.Filter)
	if c.dialect != nil {
		f, err := c.dialect.Filter(text)
		if err != nil {
			return "", 0, dialectFault(err)
		}
		if !c.s.may(c.principal, auth.Subscribe, string(f)) {
			return "", codeNotAuthorized, nil
		}
		return f, codeSuccess, nil
	}
	group, inner, shared, err := topic.ParseShare(text)
	if shared && o.NoLocal {
		return "", 0, faultf(codeProtocol, "protocol", "no local on a shared subscription")
	}
	if err != nil {
		return "", codeFilterInvalid, nil
	}
	if len(group) > c.s.limits.ShareName {
		c.limited("share_name", "the name of a shared subscription is over the limit")
		return "", codeFilterInvalid, nil
	}
	// A group's members may what the filter behind its name allows.
	f, err := topic.ParseFilter(inner, c.s.limits.Topic())
	if err != nil {
		c.limited("filter", err.Error())
		return "", codeFilterInvalid, nil
	}
	if !ingest.Subscribe(f) {
		c.s.m.denials.WithLabelValues("reserved").Inc()
		return "", codeNotAuthorized, nil
	}
	if !c.s.may(c.principal, auth.Subscribe, text) {
		return "", codeNotAuthorized, nil
	}
	return topic.Filter(text), codeSuccess, nil
}

// limited notes a filter that is refused because a limit was exceeded.
func (c *client) limited(limit, text string) {
	c.s.m.violations.WithLabelValues(limit).Inc()
	c.warn("subscription refused", "reason", text)
}

// subscribe puts the subscriptions in force and writes the SUBACK, at one
// moment as the routers see it: nothing of a new subscription comes before its
// SUBACK, nothing behind it is missed.
func (c *client) subscribe(pid uint16, subs []*subscription, codes []byte) {
	s := c.sess
	admitted := c.admit(subs, codes)
	if !c.s.allHanded(c.ctx) { // before it is stored where they begin, and again before they do
		return
	}
	release, held := c.holdShares(subs)
	defer release()
	if !held || s.savePending(admitted) != nil {
		for i := range subs {
			if subs[i] != nil {
				subs[i], codes[i] = nil, codeUnspecified
			}
		}
	}
	if !c.s.allHanded(c.ctx) {
		return
	}
	c.s.routes.mu.Lock()
	defer c.s.routes.mu.Unlock()
	s.mu.Lock()
	var shared []*subscription
	defer func() { s.mu.Unlock(); c.joinShares(shared) }()
	if s.closed {
		return
	}
	s.stall()
	at := s.reach()
	for _, sub := range subs {
		if sub == nil {
			continue
		}
		old := s.subs[sub.filter]
		if left := s.replace(old, sub, at); left != nil {
			s.replaced = append(s.replaced, left)
		}
		if old != nil {
			if !old.shared {
				c.s.routes.trie.Remove(old.filter, old)
			}
			s.forget(old)
			if old.qos > sub.qos {
				s.leaveGhost(old)
			}
		}
		s.rewind(sub)
		if s.subs == nil {
			s.subs = make(map[topic.Filter]*subscription, len(subs))
		}
		s.subs[sub.filter] = sub
		if sub.id != 0 {
			s.withID++
		}
		if sub.shared { // and gets no retained messages
			sub.group = nil
			shared = append(shared, sub)
			continue
		}
		c.s.routes.trie.Add(sub.filter, sub)
		if sub.retainHandling == 0 || sub.retainHandling == 1 && old == nil {
			s.dropRetained(sub.filter)
			for _, m := range c.s.retainedFor(sub.filter) {
				if s.may(m) {
					s.retained = append(s.retained, waiting{m, sub, true})
				}
			}
		}
	}
	s.buffer()
	n := 2 + len(codes)
	if c.v5 {
		n++
	}
	s.buf = appendLength(append(s.buf, packets.Suback<<4), n)
	s.buf = append(s.buf, byte(pid>>8), byte(pid))
	if c.v5 {
		s.buf = append(s.buf, 0)
	}
	for _, code := range codes {
		if code > 1 && !c.v5 {
			code = codeUnspecified
		}
		s.buf = append(s.buf, code)
	}
	s.changed()
	s.pump()
}

// admit refuses subscriptions beyond the limit, and returns the others.
func (c *client) admit(subs []*subscription, codes []byte) map[topic.Filter]*subscription {
	s := c.sess
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.replaced) > 0 {
		s.dropSpent(s.cursors())
	}
	admitted := make(map[topic.Filter]*subscription, len(subs))
	added := 0
	for i, sub := range subs {
		if sub == nil {
			continue
		}
		if s.subs[sub.filter] == nil && admitted[sub.filter] == nil {
			if len(s.subs)+added >= c.s.limits.Subscriptions {
				c.limited("subscriptions", "more subscriptions than the limit")
				subs[i], codes[i] = nil, codeQuota
				continue
			}
			added++
		}
		// Of a client that changes a subscription again and again, and takes nothing.
		if len(s.replaced) >= c.s.limits.Subscriptions {
			c.limited("subscriptions", "more replaced subscriptions have messages left than the limit")
			subs[i], codes[i] = nil, codeQuota
			continue
		}
		admitted[sub.filter] = sub
	}
	return admitted
}

func (c *client) onUnsubscribe(body []byte) error {
	if f := checkSubscribe(body, packets.Unsubscribe, c.v5); f != nil {
		return f
	}
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1, Remaining: len(body)}, ProtocolVersion: c.version()}
	if err := pk.UnsubscribeDecode(body); err != nil {
		return errMalformed
	}
	if c.dialect != nil {
		for i := range pk.Filters {
			if f, err := c.dialect.Filter(pk.Filters[i].Filter); err == nil {
				pk.Filters[i].Filter = string(f)
			}
		}
	}
	s := c.sess
	gone := map[topic.Filter]*subscription{}
	var topics []string
	s.mu.Lock()
	for i := range pk.Filters {
		if sub := s.subs[topic.Filter(pk.Filters[i].Filter)]; sub != nil {
			gone[sub.filter] = nil
			topics = append(topics, string(sub.filter))
		}
	}
	s.mu.Unlock()
	unsaved := s.savePending(gone) != nil
	if unsaved && !c.v5 {
		return faultf(codeUnspecified, "store", "an UNSUBSCRIBE could not be saved") // 3.1.1 has no way to say no
	}
	c.unsubscribe(&pk, unsaved)
	if !unsaved {
		c.debug("unsubscribed", "filters", topics)
		c.tellSubscriptions("unsubscribed", topics)
	}
	return nil
}

// unsubscribe takes the subscriptions out and writes the UNSUBACK; where the
// change is unsaved it only says so.
func (c *client) unsubscribe(pk *packets.Packet, unsaved bool) {
	s := c.sess
	c.s.routes.mu.Lock()
	defer c.s.routes.mu.Unlock()
	if !unsaved {
		c.leaveGroups(pk.Filters)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stall()
	s.buffer()
	n := 2
	if c.v5 {
		n += 1 + len(pk.Filters)
	}
	s.buf = appendLength(append(s.buf, packets.Unsuback<<4), n)
	s.buf = append(s.buf, byte(pk.PacketID>>8), byte(pk.PacketID))
	if c.v5 {
		s.buf = append(s.buf, 0)
	}
	for i := range pk.Filters {
		code := byte(codeNoSubscription)
		if sub := s.subs[topic.Filter(pk.Filters[i].Filter)]; sub != nil && unsaved {
			code = codeUnspecified
		} else if sub != nil {
			code = codeSuccess
			if !sub.shared {
				s.leaveGhost(sub)
				c.s.routes.trie.Remove(sub.filter, sub)
			}
			s.forget(sub)
			s.dropReplaced(sub.filter)
			s.dropRetained(sub.filter)
		}
		if c.v5 {
			s.buf = append(s.buf, code)
		}
	}
	s.setShares()
	s.changed()
}

// leaveGroups takes the session out of its groups among filters, before it says
// so: no message of theirs follows. The caller holds routes.mu, and no session's
// lock.
func (c *client) leaveGroups(filters packets.Subscriptions) {
	var left []*subscription
	c.sess.mu.Lock()
	for i := range filters {
		if sub := c.sess.subs[topic.Filter(filters[i].Filter)]; sub != nil && sub.shared {
			left = append(left, sub)
		}
	}
	c.sess.mu.Unlock()
	for _, sub := range left {
		c.s.leaveShare(sub, false)
	}
}

// forget takes sub out of the session. The caller holds s.mu and takes it out of
// the routes.
func (s *session) forget(sub *subscription) {
	delete(s.subs, sub.filter)
	if sub.id != 0 {
		s.withID--
	}
}

// dropRetained takes away the retained messages that still wait for a filter:
// whoever subscribes again and again has them wait once. The caller holds s.mu.
func (s *session) dropRetained(f topic.Filter) {
	s.retained = slices.DeleteFunc(s.retained, func(w waiting) bool { return w.sub.filter == f })
}

// leaveGhost remembers a filter that goes while messages are in flight that may
// have come by it: to be sent again, they are looked for on the log. The caller
// holds s.mu.
func (s *session) leaveGhost(sub *subscription) {
	// A session that will not outlive this connection may have outlived the last.
	resends := s.persistent || slices.ContainsFunc(s.places, func(p place) bool { return len(p.again) > 0 })
	if resends && sub.qos == 1 && !sub.shared && s.flightHead != s.flightTail && !slices.Contains(s.ghosts, sub.filter) {
		s.ghosts = append(s.ghosts[:len(s.ghosts):len(s.ghosts)], sub.filter)
	}
}

// joinShares makes the session a member of groups. The caller holds routes.mu,
// and no session's lock.
func (c *client) joinShares(subs []*subscription) {
	if len(subs) == 0 {
		return
	}
	for _, sub := range subs {
		c.s.joinShare(sub, c.sess.kept())
	}
	c.sess.mu.Lock()
	c.sess.setShares()
	c.sess.mu.Unlock()
}

// kept reports whether the session outlives its connection.
func (s *session) kept() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c.expiry > 0
}

// unsubscribeAll takes a session that has closed out of the routes and of its
// groups, which send what is under way to it to others.
func (c *client) unsubscribeAll() {
	s := c.sess
	s.mu.Lock()
	none := len(s.subs) == 0 && s.flightHead == s.flightTail // which may be a group's it has left
	s.mu.Unlock()
	if none {
		return
	}
	c.s.routes.mu.Lock()
	defer c.s.routes.mu.Unlock()
	s.mu.Lock()
	type under struct {
		g *share
		w where
	}
	var left []*subscription
	var open []under
	for _, sub := range s.subs {
		if sub.shared {
			left = append(left, sub)
		} else {
			c.s.routes.trie.Remove(sub.filter, sub)
		}
	}
	for i := s.flightHead; i != s.flightTail; i++ {
		if f := s.flight(i); f != nil && f.share != nil {
			open = append(open, under{f.share, where{f.part, f.seq}})
		}
	}
	s.subs, s.shares = nil, nil
	s.queue, s.retained, s.flights, s.flightHead = nil, nil, nil, s.flightTail
	s.mu.Unlock()
	for _, u := range open {
		u.g.back(u.w)
	}
	kept := s.kept()
	for _, sub := range left {
		c.s.leaveShare(sub, kept)
	}
	for _, u := range open {
		u.g.pump()
	}
}
