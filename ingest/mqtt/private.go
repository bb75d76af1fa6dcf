package mqtt

import (
	"bytes"
	"context"
	"time"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// Private answers calls: messages on private topics, which are never appended
// and whose answers nobody gets but the connection that asked.
type Private interface {
	// Serves reports whether n is a call that is answered here. All others are
	// refused.
	Serves(n topic.Name) bool

	// Call does what is asked for and returns when that is durable. A call that is
	// refused has an answer too; an error says that there is none, and that the
	// outcome may be unknown. Calls overlap, those of one connection too. payload
	// is the callee's.
	Call(ctx context.Context, p *auth.Principal, n topic.Name, payload []byte) (answerTopic topic.Name, answer []byte, err error)
}

const (
	// callsAtATime bounds the calls of one connection that are under way; behind
	// them it is not read from.
	callsAtATime = 8
	callTimeout  = 20 * time.Second
)

// mayCall judges a publish that is a private call.
func (c *client) mayCall(n *name, retain bool) *fault {
	switch {
	case retain:
		c.s.m.denials.WithLabelValues("reserved").Inc()
		return faultf(codeNotAuthorized, "reserved", "messages on reserved topics are not retained")
	case c.principal.ID == "":
		c.s.m.denials.WithLabelValues("private").Inc()
		return faultf(codeNotAuthorized, "private", "private topic: only a connection with an identity may publish on it")
	case !c.s.may(c.principal, auth.Publish, string(n.topic)):
		return faultf(codeNotAuthorized, "denied", "the principal may not publish on this topic")
	}
	return nil
}

// call hands a publish to the service of its topic. PUBACK and answer follow
// when the service has decided; the connection goes on meanwhile.
func (c *client) call(n topic.Name, p *publish) error {
	token := untracked
	if p.qos > 0 {
		var f *fault
		if token, f = c.sess.reserve(p.pid); f != nil {
			return f
		}
	}
	c.counted[p.qos]++
	if c.calls == nil {
		c.calls = make(chan struct{}, callsAtATime)
	}
	select {
	case c.calls <- struct{}{}:
	default:
		c.sess.Flush() // what the client waits for may be in the buffer
		select {
		case c.calls <- struct{}{}:
		case <-c.ctx.Done():
			return errEnded
		}
	}
	payload := bytes.Clone(p.payload)
	c.s.wg.Go(func() {
		defer func() { <-c.calls }()
		// A client that goes away does not take back what it asked for.
		ctx, cancel := context.WithTimeout(c.s.runContext(), callTimeout)
		defer cancel()
		at, answer, err := c.s.private.Call(ctx, c.principal, n, payload)
		if err != nil {
			c.s.m.failures.WithLabelValues(errs.KindOf(err).String()).Inc()
			c.warn("private call without an answer", "topic", string(n), "error", err)
		}
		c.sess.answered(token, at, answer, err)
	})
	return nil
}

// answered takes the outcome of a private call.
func (s *session) answered(token uint64, at topic.Name, answer []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	switch {
	case token == untracked:
	case err == nil:
		s.settle(token, codeSuccess)
	case s.c.v5:
		s.refuse(token, appendCode(err), errs.Text(err))
	default: // 3.1.1 has no way to say no; see Appended
		s.c.endLocked(faultf(codeImplementation, "private", errs.Text(err)))
		return
	}
	if err == nil {
		s.give(at, answer)
	}
	s.write()
}

// give sends an answer, if the client has subscribed to its topic and may
// receive it. It is sent with QoS 0: an answer may hold a private key, so it is
// kept nowhere, and what is kept nowhere cannot be sent again. The caller holds
// s.mu.
func (s *session) give(at topic.Name, answer []byte) {
	var by *subscription
	for f, sub := range s.subs {
		if !sub.shared && topic.Match(f, at, s.c.s.limits.Mode) {
			by = sub
			break
		}
	}
	e := &event.Event{Topic: at, Payload: answer, Received: s.c.s.now()}
	if by == nil {
		s.c.s.m.drops.WithLabelValues("unsubscribed").Inc()
		return
	}
	if !s.may(e) {
		return
	}
	var x encoder // of its own: those of the pool are used again, with what they hold
	x.reset(e, e.Received)
	s.send(&x, 0, false, s.ids(by, e), false)
}
