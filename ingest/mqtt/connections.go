package mqtt

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/topic"
)

// Connection describes a client: one that is connected, one that is away and
// has a session that is kept, or one that has left not long ago.
type Connection struct {
	ClientID  string // of a dialect: the key of connection and session
	Connected bool
	Since     time.Time // it connected, or left; zero: not known
	Reason    string    // why it left, in the words of lifecycle events; "": not known
	// CleanSession tells that the session ends with the connection.
	CleanSession  bool
	SessionExpiry time.Duration // how long the session is kept without its client
	Expires       time.Time     // of a client that is away: when its session ends

	// While it is connected, but for the principal.
	Principal     string
	Listener      auth.Listener
	Version       byte           // 4 or 5
	Remote, Local netip.AddrPort // of the socket
	KeepAlive     time.Duration

	Subscriptions []Subscription // sorted by filter
	InFlight      int            // messages sent to it and not acknowledged
	Queued        int            // messages that wait in memory
	Lag           []uint64       // by partition: events of the log that have not been considered for it
}

// Subscription is one topic filter of a client's session.
type Subscription struct {
	Filter topic.Filter // with $share/<group>/ where it is shared
	QoS    byte
}

// departed remembers who left, for as long as the cloud's API tells of it.
type departed struct {
	of map[string]departure
}

type departure struct {
	at     time.Time
	reason string
}

const (
	departedFor = 30 * time.Minute
	maxDeparted = 20_000
)

// put notes that a client has left. The caller holds the server's lock.
func (d *departed) put(id string, at time.Time, reason string) {
	if d.of == nil {
		d.of = map[string]departure{}
	}
	if len(d.of) >= maxDeparted {
		for k, o := range d.of { // the old ones, and if there are none any
			if at.Sub(o.at) > departedFor {
				delete(d.of, k)
			}
		}
		for k := range d.of {
			if len(d.of) < maxDeparted {
				break
			}
			delete(d.of, k)
		}
	}
	d.of[id] = departure{at, reason}
}

// GetConnection describes a client.
// Errors: errs.NotFound, errs.Unavailable.
func (s *Server) GetConnection(ctx context.Context, clientID string) (*Connection, error) {
	const op = "mqtt.GetConnection"
	s.mu.Lock()
	c := s.clients[clientID]
	left, hasLeft := s.departed.of[clientID]
	s.mu.Unlock()
	if c != nil {
		return c.describe(), nil
	}
	info, err := s.away(ctx, clientID)
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	if hasLeft && s.now().Sub(left.at) > departedFor {
		hasLeft = false
	}
	switch {
	case info == nil && !hasLeft:
		return nil, errs.Errorf(op, errs.NotFound, "the client %q is not connected and has no session", clientID)
	case info == nil:
		info = &Connection{ClientID: clientID, CleanSession: true}
	}
	if hasLeft {
		info.Since, info.Reason = left.at, left.reason
	}
	return info, nil
}

// describe tells of a connected client.
func (c *client) describe() *Connection {
	info := &Connection{
		ClientID: c.key, Connected: true, Since: c.connected, Principal: c.principal.ID, Listener: c.listener,
		Version: c.version(), Remote: c.remote, KeepAlive: c.keepAlive,
	}
	if a, ok := c.out.LocalAddr().(*net.TCPAddr); ok {
		info.Local = a.AddrPort()
	}
	s := c.sess
	s.mu.Lock()
	defer s.mu.Unlock()
	info.SessionExpiry = c.expiry
	info.CleanSession = c.expiry == 0
	for f, sub := range s.subs {
		info.Subscriptions = append(info.Subscriptions, Subscription{f, sub.qos})
	}
	for i := s.flightHead; i != s.flightTail; i++ {
		if s.flight(i) != nil {
			info.InFlight++
		}
	}
	info.Queued = len(s.queue) + len(s.retained)
	for p := range s.places {
		info.Lag = append(info.Lag, behind(c.s.log.Committed(p), s.position(p)))
	}
	sortSubscriptions(info.Subscriptions)
	return info
}

func behind(end, at uint64) uint64 {
	if at >= end {
		return 0
	}
	return end - at
}

func sortSubscriptions(list []Subscription) {
	slices.SortFunc(list, func(a, b Subscription) int { return strings.Compare(string(a.Filter), string(b.Filter)) })
}

// away describes the kept session of a client that is not connected; nil where
// there is none.
func (s *Server) away(ctx context.Context, clientID string) (*Connection, error) {
	st := &s.sessions
	if st.bucket == nil {
		return nil, nil
	}
	if s.node.shared() {
		if err := s.refresh(ctx, clientID, s.absent(clientID)); err != nil {
			return nil, err
		}
	}
	st.mu.Lock()
	k, ok := st.stored[clientID]
	st.mu.Unlock()
	if !ok || !k.until.IsZero() && s.now().After(k.until) {
		return nil, nil
	}
	e, err := st.bucket.Get(ctx, clientID)
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := decodeRecord(e.Value, len(s.routed))
	if err != nil {
		return nil, errs.Errorf("mqtt.session", errs.Internal, "the stored session of %q cannot be read", clientID)
	}
	info := &Connection{ClientID: clientID, Principal: r.principal, Since: r.left, SessionExpiry: r.expiry, Expires: k.until}
	for _, sub := range r.subs {
		info.Subscriptions = append(info.Subscriptions, Subscription{sub.filter, sub.qos})
	}
	for _, f := range r.flights {
		if !f.done {
			info.InFlight++
		}
	}
	info.Queued = len(r.unsent)
	for p, c := range r.cursor {
		info.Lag = append(info.Lag, behind(s.log.Committed(p), c))
	}
	sortSubscriptions(info.Subscriptions)
	return info, nil
}

// Connections describes up to max clients whose ids come behind after, sorted:
// those that are connected and those with a session that is kept.
// Error: errs.Unavailable.
func (s *Server) Connections(ctx context.Context, after string, max int) ([]*Connection, error) {
	ids := map[string]struct{}{}
	s.mu.Lock()
	for id := range s.clients {
		if id > after {
			ids[id] = struct{}{}
		}
	}
	s.mu.Unlock()
	s.sessions.mu.Lock()
	for id := range s.sessions.stored {
		if id > after {
			ids[id] = struct{}{}
		}
	}
	s.sessions.mu.Unlock()
	sorted := make([]string, 0, len(ids))
	for id := range ids {
		sorted = append(sorted, id)
	}
	slices.Sort(sorted)
	var out []*Connection
	for _, id := range sorted {
		if len(out) == max {
			break
		}
		info, err := s.GetConnection(ctx, id)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if info.Connected || !info.CleanSession {
			out = append(out, info)
		}
	}
	return out, nil
}

// ListSubscriptions returns the subscriptions of a client that is connected or
// whose session is kept, sorted by filter.
// Errors: errs.NotFound, errs.Unavailable.
func (s *Server) ListSubscriptions(ctx context.Context, clientID string) ([]Subscription, error) {
	const op = "mqtt.ListSubscriptions"
	info, err := s.GetConnection(ctx, clientID)
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	if !info.Connected && info.CleanSession {
		return nil, errs.Errorf(op, errs.NotFound, "the client %q is not connected and has no session", clientID)
	}
	return info.Subscriptions, nil
}

// DeleteConnection ends a client's connection and returns when it has ended.
// With cleanSession its session goes too, also that of a client that is away;
// with preventWill its will is not published.
// Errors: errs.NotFound, errs.Unavailable, ctx's.
func (s *Server) DeleteConnection(ctx context.Context, clientID string, cleanSession, preventWill bool) error {
	const op = "mqtt.DeleteConnection"
	s.mu.Lock()
	c := s.clients[clientID]
	s.mu.Unlock()
	if c != nil {
		c.sess.mu.Lock()
		if cleanSession {
			c.expiry = 0
		}
		if preventWill {
			c.noWill.Store(true)
		}
		c.endLocked(faultf(codeAdministrative, "administrative", "ended by the administrator"))
		c.sess.mu.Unlock()
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	gone := false
	if cleanSession {
		var err error
		if gone, err = s.endSession(ctx, clientID); err != nil {
			return errs.E(op, errs.KindOf(err), err)
		}
	}
	if c == nil && !gone {
		return errs.Errorf(op, errs.NotFound, "the client %q is not connected", clientID)
	}
	return nil
}

// endSession clears the kept session of a client that is not connected, and
// reports whether there was one.
func (s *Server) endSession(ctx context.Context, clientID string) (bool, error) {
	st := &s.sessions
	if s.node.shared() && st.bucket != nil && !s.here(clientID) {
		if err := s.refresh(ctx, clientID, s.absent(clientID)); err != nil {
			return false, err
		}
	}
	st.mu.Lock()
	k, ok := st.stored[clientID]
	ok = ok && !k.until.IsZero() // its client is not here again
	st.mu.Unlock()
	if !ok {
		return false, nil
	}
	if err := st.place(&order{key: clientID}); err != nil {
		return false, err
	}
	st.forget(clientID)
	s.forgetMember(clientID)
	return true, nil
}
