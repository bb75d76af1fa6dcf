package mqtt

import (
	"context"
	"encoding/json"
	"maps"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
)

// willRecord is the will of a connected client, or one whose delay runs, as the
// leases' bucket keeps it. The gateway Node answers for it; once its lease has
// run out any other one does.
type willRecord struct {
	Node       string    `json:"node"`
	Connection int64     `json:"connection"`    // see client.connection
	Delay      int64     `json:"delay"`         // seconds from the end of the connection
	Due        int64     `json:"due,omitempty"` // milliseconds; 0: its client is connected
	Will       willEvent `json:"will"`
}

type willEvent struct {
	Topic     topic.Name        `json:"topic"`
	Payload   []byte            `json:"payload"`
	ClientID  string            `json:"clientId"`
	Principal string            `json:"principal"`
	SourceIP  string            `json:"sourceIp,omitempty"`
	QoS       byte              `json:"qos"`
	Retain    bool              `json:"retain,omitempty"`
	Props     *event.Properties `json:"props,omitempty"`
}

// storedWill is a record with its revision; immutable.
type storedWill struct {
	willRecord
	revision uint64
}

const willEvery = 250 * time.Millisecond // how often wills are looked at

// learnWill takes a change of the bucket. n.mu is held.
func (n *node) learnWill(client string, e kv.Entry) {
	if old := n.wills[client]; old != nil && old.revision >= e.Revision {
		return
	}
	if len(e.Value) == 0 {
		delete(n.wills, client)
		return
	}
	w := &storedWill{revision: e.Revision}
	if err := json.Unmarshal(e.Value, &w.willRecord); err != nil {
		n.s.logger.Error("a stored will cannot be read; it is not published", "clientId", client, "error", err)
		delete(n.wills, client)
		return
	}
	n.wills[client] = w
}

// putWill writes a record on top of a revision, or any; it returns nil where
// another one has come between.
func (n *node) putWill(ctx context.Context, client string, r willRecord, expected uint64, whatever bool) (*storedWill, error) {
	value, err := json.Marshal(r)
	if err != nil {
		panic(err) // it holds nothing JSON cannot say
	}
	ctx, cancel := context.WithTimeout(ctx, sessionsTimeout)
	defer cancel()
	rev, err := n.bucket.Commit(ctx, []kv.Change{{Key: willKey + client, Value: value, Expected: expected, Any: whatever}})
	if errs.Is(err, errs.Conflict) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w := &storedWill{r, rev}
	n.mu.Lock()
	if old := n.wills[client]; old == nil || old.revision < rev {
		n.wills[client] = w
	}
	n.mu.Unlock()
	return w, nil
}

// clearWill takes a record out, unless another one has come between.
func (n *node) clearWill(ctx context.Context, client string, w *storedWill) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sessionsTimeout)
	defer cancel()
	_, err := n.bucket.Commit(ctx, []kv.Change{{Key: willKey + client, Expected: w.revision}})
	if err != nil && !errs.Is(err, errs.Conflict) {
		n.s.noise.warn("a stored will is not cleared; it may be published once more", "clientId", client, "error", err)
		return
	}
	n.mu.Lock()
	if n.wills[client] == w {
		delete(n.wills, client)
	}
	n.mu.Unlock()
}

// keepWill makes the will of a CONNECT durable before it is accepted, in the place
// of that of an older connection, which is settled first.
func (c *client) keepWill(clean bool) *fault {
	n := c.s.node
	if n == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, sessionsTimeout)
	defer cancel()
	if err := n.settleOlder(ctx, c.key, clean); err != nil {
		return faultf(codeUnavailable, "unavailable", errs.Text(err))
	}
	if c.will == nil {
		return nil
	}
	w := c.will
	var err error
	c.kept, err = n.putWill(c.ctx, c.key, willRecord{
		Node: n.id, Connection: c.connection, Delay: int64(c.willDelay / time.Second),
		Will: willEvent{w.Topic, w.Payload, w.ClientID, w.Principal, w.SourceIP, w.QoS, w.Retain, w.Props},
	}, 0, true)
	if err != nil {
		return faultf(codeUnavailable, "unavailable", errs.Text(err))
	}
	return nil
}

// settleOlder settles the will of a client's connection that has ended. There is
// one only where its gateway has died, or could not store it, or where its delay
// runs. When it returns nil, the will is on the log, or taken back.
// Source: MQTT 5, 3.1.3.2.2: a new connection to the session before the delay has
// passed takes the will back.
func (n *node) settleOlder(ctx context.Context, client string, clean bool) error {
	for {
		old, err := n.will(ctx, client)
		switch {
		case err != nil || old == nil:
			return err
		case !clean && old.Delay > 0:
			n.clearWill(ctx, client, old)
			return nil
		}
		if !n.claimed(old) {
			if done, err := n.publish(ctx, client, old); done || err != nil {
				return err
			}
		}
		// Somebody else is about to.
		if !pause(ctx, 5*time.Millisecond) {
			return errs.Errorf("mqtt.will", errs.Unavailable, "the will of an older connection is not settled")
		}
	}
}

// claimed reports whether another gateway publishes w at this moment.
func (n *node) claimed(w *storedWill) bool {
	return w.Due > 0 && w.Due <= n.s.now().UnixMilli() && w.Node != n.id && n.alive(w.Node)
}

// will returns the stored will of a client, nil where there is none.
func (n *node) will(ctx context.Context, client string) (*storedWill, error) {
	if n.shared() {
		// The watch may be behind what another gateway has just written.
		ctx, cancel := context.WithTimeout(ctx, sessionsTimeout)
		defer cancel()
		e, err := n.bucket.Get(ctx, willKey+client)
		if errs.Is(err, errs.NotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		n.mu.Lock()
		n.learnWill(client, e)
		n.mu.Unlock()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.wills[client], nil
}

// dropWill forgets the will of a connection that ends in good order, or never
// came to be.
func (c *client) dropWill() {
	if c.kept != nil {
		c.s.node.clearWill(c.s.runContext(), c.key, c.kept)
		c.kept = nil
	}
}

// publishWill publishes the will of a client that did not take its leave, or
// lets its delay begin.
func (c *client) publishWill(f *fault) {
	if c.will == nil {
		return
	}
	if f == errDisconnect || c.noWill.Load() {
		c.dropWill()
		return
	}
	w := c.will
	if d := c.mayPublishWill(w); d != nil {
		c.warn("will not published", "reason", d.text)
		c.dropWill()
		return
	}
	if w.Retain && len(w.Payload) > 0 && !c.s.retainedRoom(w.Topic, w.Size()) {
		c.violation("retained_bytes", codeQuota, "")
		c.warn("will not published", "reason", "the retained messages take too much memory")
		c.dropWill()
		return
	}
	now := c.s.now()
	if delay := min(c.willDelay, c.expiry); delay > 0 && c.kept != nil {
		r := c.kept.willRecord
		r.Due = now.Add(delay).UnixMilli()
		if _, err := c.s.node.putWill(c.s.runContext(), c.key, r, c.kept.revision, false); err == nil {
			return
		}
		// At once is better than not at all.
	}
	w.Received = now.UTC().Truncate(time.Millisecond)
	if err := c.s.store(c.s.runContext(), w); err != nil {
		c.s.m.failures.WithLabelValues("will").Inc()
		c.s.logger.Error("will not stored", "clientId", c.id, "error", err)
		if c.kept != nil { // it is due, and tried again
			r := c.kept.willRecord
			r.Due = now.UnixMilli()
			c.s.node.putWill(c.s.runContext(), c.key, r, c.kept.revision, false)
		}
		return
	}
	c.dropWill()
}

// store appends e and returns when it is on the log.
func (s *Server) store(ctx context.Context, e *event.Event) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	done := make(settled, 1)
	if err := s.log.Append(ctx, e, &done, untracked); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keepWills publishes what is due, and the wills of gateways that have died,
// until ctx ends.
func (n *node) keepWills(ctx context.Context) {
	t := time.NewTicker(min(willEvery, n.ttl/8))
	defer t.Stop()
	adopted := time.Now().Add(n.ttl - adoptEvery) // once the dead are known to be
	for {
		select {
		case <-t.C:
			n.settleWills(ctx)
			if n.shared() && n.s.sessions.bucket != nil && time.Since(adopted) > adoptEvery {
				adopted = time.Now()
				n.s.adoptSessions(ctx)
			}
		case <-ctx.Done():
			return
		}
	}
}

// adoptEvery is how often sessions that other gateways left behind are looked for.
const adoptEvery = 15 * time.Minute

func (n *node) settleWills(ctx context.Context) {
	n.mu.Lock()
	wills := maps.Clone(n.wills)
	n.mu.Unlock()
	now := n.s.now().UnixMilli()
	for client, w := range wills {
		if ctx.Err() != nil {
			return
		}
		dead := !n.alive(w.Node)
		switch {
		case w.Due > 0 && now >= w.Due && (dead || w.Node == n.id):
			n.publish(ctx, client, w)
		case w.Due == 0 && dead && w.Delay == 0:
			n.publish(ctx, client, w)
		case w.Due == 0 && dead:
			// Its delay runs from now on.
			r := w.willRecord
			r.Node, r.Due = n.id, now+w.Delay*1000
			if _, err := n.putWill(ctx, client, r, w.revision, false); err != nil {
				n.s.noise.warn("a will is not taken over yet", "clientId", client, "error", err)
			}
		}
	}
}

// publish publishes a stored will: it is claimed first, so that of several
// gateways one does, and cleared when it is on the log. A gateway that dies in
// between leaves it to the next one, which may publish it again. done is false
// where somebody else has claimed it.
func (n *node) publish(ctx context.Context, client string, w *storedWill) (done bool, err error) {
	n.mu.Lock()
	_, busy := n.publishing[client]
	n.publishing[client] = struct{}{}
	n.mu.Unlock()
	if busy {
		return false, nil
	}
	defer func() {
		n.mu.Lock()
		delete(n.publishing, client)
		n.mu.Unlock()
	}()
	r := w.willRecord
	r.Node, r.Due = n.id, max(r.Due, n.s.now().UnixMilli())
	mine, err := n.putWill(ctx, client, r, w.revision, false)
	if err != nil {
		n.s.noise.warn("a will is not published yet", "clientId", client, "error", err)
	}
	if mine == nil {
		return false, err
	}
	e := &event.Event{
		Topic: w.Will.Topic, Payload: w.Will.Payload, ClientID: w.Will.ClientID, Principal: w.Will.Principal, SourceIP: w.Will.SourceIP,
		QoS: w.Will.QoS, Retain: w.Will.Retain, Props: w.Will.Props, Received: n.s.now().UTC().Truncate(time.Millisecond),
	}
	if _, err := topic.ParseName(string(e.Topic), topic.Limits{}); err != nil {
		n.s.logger.Error("a stored will has no topic; it is not published", "clientId", client)
	} else if err := n.s.store(ctx, e); err != nil {
		n.s.m.failures.WithLabelValues("will").Inc()
		n.s.noise.warn("a will is not stored yet", "clientId", client, "error", err)
		return false, err // it is due, and tried again
	}
	n.clearWill(ctx, client, mine)
	return true, nil
}

// settled is the receipt of one event somebody waits for.
type settled chan error

func (s *settled) Appended(_ uint64, _ *event.Event, err error) { *s <- err }
func (s *settled) Flush()                                       {}
