package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weir-iot/weir/internal/errs"
)

// Gateways are all the gateways of a log together: what one gateway tells of its
// clients and does to them, over all of them. It is for who is one of them and
// for who is not, such as a process that runs the control API alone.
type Gateways struct {
	own  *Server    // nil: none is in this process
	conn *nats.Conn // nil: there is no other
}

// NewGateways returns the gateways that are reached through conn, and own.
// Either may be nil.
func NewGateways(own *Server, conn *nats.Conn) *Gateways { return &Gateways{own, conn} }

const (
	gatewaysSubject  = "weir.gateways" // all answer
	gatewaysPatience = 500 * time.Millisecond
	connectionsPart  = 50 // in one message

	opGet    = "get"
	opList   = "list"
	opDelete = "delete"
)

// Others returns how many other gateways of the log live.
func (s *Server) Others() int {
	if !s.node.shared() {
		return 0
	}
	return len(s.node.others())
}

// First reports whether this gateway does what one of all gateways has to do; two
// may think so for a moment.
func (s *Server) First() bool { return s.node.first() }

// gather asks all other gateways and hands their answers to f, until all have
// answered or it is plain that no more will.
func (g *Gateways) gather(ctx context.Context, q request, f func(a *response)) error {
	if g.conn == nil {
		return nil
	}
	want := -1
	if g.own != nil && g.own.node.shared() {
		if want = len(g.own.node.others()); want == 0 {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, gatewaysPatience)
	defer cancel()
	body, err := json.Marshal(q)
	if err != nil {
		panic(err) // it holds nothing JSON cannot say
	}
	inbox := g.conn.NewRespInbox()
	sub, err := g.conn.SubscribeSync(inbox)
	if err != nil {
		return errs.E("mqtt.Gateways", errs.Unavailable, err)
	}
	defer sub.Unsubscribe()
	if err := g.conn.PublishRequest(gatewaysSubject, inbox, body); err != nil {
		return errs.E("mqtt.Gateways", errs.Unavailable, err)
	}
	for done := 0; done != want; {
		m, err := sub.NextMsgWithContext(ctx)
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) {
			return nil
		}
		if err != nil {
			return errs.E("mqtt.Gateways", errs.Unavailable, err)
		}
		if len(m.Data) == 0 {
			return nil // no responders
		}
		var a response
		if err := json.Unmarshal(m.Data, &a); err != nil {
			return errs.E("mqtt.Gateways", errs.Internal, err)
		}
		f(&a)
		if !a.More {
			done++
		}
	}
	return nil
}

// GetConnection is Server.GetConnection over all gateways.
func (g *Gateways) GetConnection(ctx context.Context, clientID string) (*Connection, error) {
	c, _, err := g.find(ctx, clientID)
	return c, err
}

// find returns what is known of a client, and the gateway it is connected to, or
// one that knows its session; "": this process's.
func (g *Gateways) find(ctx context.Context, clientID string) (best *Connection, node string, err error) {
	if g.own != nil {
		best, err = g.own.GetConnection(ctx, clientID)
		if err != nil && !errs.Is(err, errs.NotFound) || err == nil && best.Connected {
			return best, "", err
		}
	}
	err = g.gather(ctx, request{Op: opGet, ID: clientID}, func(a *response) {
		for _, c := range a.Connections {
			if best == nil || c.Connected && !best.Connected || c.Connected == best.Connected && c.Since.After(best.Since) {
				best, node = c, a.Node
			}
		}
	})
	if err == nil && best == nil {
		err = errs.Errorf("mqtt.GetConnection", errs.NotFound, "the client %q is not connected and has no session", clientID)
	}
	return best, node, err
}

// Connections is Server.Connections over all gateways.
func (g *Gateways) Connections(ctx context.Context, after string, max int) ([]*Connection, error) {
	all := map[string]*Connection{}
	take := func(list []*Connection) {
		for _, c := range list {
			if old := all[c.ClientID]; old == nil || c.Connected && !old.Connected {
				all[c.ClientID] = c
			}
		}
	}
	if g.own != nil {
		list, err := g.own.Connections(ctx, after, max)
		if err != nil {
			return nil, err
		}
		take(list)
	}
	if err := g.gather(ctx, request{Op: opList, ID: after, Max: max}, func(a *response) { take(a.Connections) }); err != nil {
		return nil, err
	}
	out := make([]*Connection, 0, len(all))
	for _, c := range all {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *Connection) int { return strings.Compare(a.ClientID, b.ClientID) })
	return out[:min(len(out), max)], nil
}

// ListSubscriptions is Server.ListSubscriptions over all gateways.
func (g *Gateways) ListSubscriptions(ctx context.Context, clientID string) ([]Subscription, error) {
	const op = "mqtt.ListSubscriptions"
	info, err := g.GetConnection(ctx, clientID)
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	if !info.Connected && info.CleanSession {
		return nil, errs.Errorf(op, errs.NotFound, "the client %q is not connected and has no session", clientID)
	}
	return info.Subscriptions, nil
}

// DeleteConnection is Server.DeleteConnection, on the gateway whose client it is.
func (g *Gateways) DeleteConnection(ctx context.Context, clientID string, cleanSession, preventWill bool) error {
	const op = "mqtt.DeleteConnection"
	_, node, err := g.find(ctx, clientID)
	if err != nil {
		return errs.E(op, errs.KindOf(err), err)
	}
	if node == "" {
		return g.own.DeleteConnection(ctx, clientID, cleanSession, preventWill)
	}
	body, err := json.Marshal(request{Op: opDelete, ID: clientID, Clean: cleanSession, NoWill: preventWill})
	if err != nil {
		panic(err) // it holds nothing JSON cannot say
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	m, err := g.conn.RequestWithContext(ctx, gatewaySubject+node, body)
	if err != nil {
		return errs.E(op, errs.Unavailable, err)
	}
	var a response
	switch err := json.Unmarshal(m.Data, &a); {
	case err != nil:
		return errs.E(op, errs.Internal, err)
	case a.Error != "":
		return errs.Errorf(op, errs.Unavailable, "%s", a.Error)
	case !a.Had:
		return errs.Errorf(op, errs.NotFound, "the client %q is not connected", clientID)
	}
	return nil
}

// tell answers a question to all gateways.
func (n *node) tell(ctx context.Context, r micro.Request) {
	ctx, cancel := context.WithTimeout(ctx, gatewaysPatience)
	defer cancel()
	var q request
	a := response{Node: n.id}
	var list []*Connection
	if err := json.Unmarshal(r.Data(), &q); err != nil {
		a.Error = "the request cannot be read"
	} else {
		switch q.Op {
		case opGet:
			var c *Connection
			if c, err = n.s.GetConnection(ctx, q.ID); err == nil {
				list = append(list, c)
			}
		case opList:
			list, err = n.s.Connections(ctx, q.ID, q.Max)
		}
		if err != nil && !errs.Is(err, errs.NotFound) {
			a.Error = errs.Text(err)
		}
	}
	for {
		k := min(len(list), connectionsPart)
		a.Connections, list = list[:k], list[k:]
		a.More = len(list) > 0
		if err := r.RespondJSON(a); err != nil {
			n.s.noise.warn("another process is not answered", "error", err)
			return
		}
		if !a.More {
			return
		}
	}
}

// remove ends a client's connection for another process.
func (n *node) remove(ctx context.Context, q request) response {
	err := n.s.DeleteConnection(ctx, q.ID, q.Clean, q.NoWill)
	switch {
	case errs.Is(err, errs.NotFound):
		return response{}
	case err != nil:
		return response{Error: errs.Text(err)}
	}
	return response{Had: true}
}
