package azure

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weir-iot/weir/internal/errs"
)

// Gateways ask each other which devices are connected, and have methods called
// where the device is, by two NATS services.
const (
	hubService    = "weir-azure"
	hubsSubject   = "weir.azure.hubs" // all answer
	hubSubject    = "weir.azure.hub." // + node: calls a method
	hubsPatience  = 500 * time.Millisecond
	hubsNames     = 1000 // in one question
	askForDevices = 500 * time.Millisecond
)

func newNode() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// whereabouts is what is known of one connection.
type whereabouts struct {
	Connected bool      `json:"connected,omitempty"`
	At        time.Time `json:"at,omitzero"` // it came, or left
	Methods   bool      `json:"methods,omitempty"`
	node      string
}

// question goes to all other gateways.
type question struct {
	Names []string `json:"names,omitempty"`
}

// reply is one gateway's answer.
type reply struct {
	Node  string                 `json:"node"`
	Count int                    `json:"count"` // of all devices connected there
	Names map[string]whereabouts `json:"names,omitempty"`
}

// remoteCall is a direct method for a device of another gateway.
type remoteCall struct {
	Name     string        `json:"name"` // of the device, or device/module
	Method   string        `json:"method"`
	Payload  []byte        `json:"payload"`
	Response time.Duration `json:"response"`
}

// remoteAnswer is what came of it.
type remoteAnswer struct {
	Status int       `json:"status"`
	Body   []byte    `json:"body"`
	Kind   errs.Kind `json:"kind,omitempty"`
	Error  string    `json:"error,omitempty"`
}

// here answers a question for this process.
func (h *Hub) here(names []string) reply {
	r := reply{Node: h.node, Names: map[string]whereabouts{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.links {
		if d.module == "" {
			r.Count++
		}
	}
	for _, n := range names {
		if d := h.links[n]; d != nil {
			r.Names[n] = whereabouts{Connected: true, At: d.since, Methods: d.listens(), node: h.node}
		} else if at, ok := h.seen[n]; ok {
			r.Names[n] = whereabouts{At: at}
		}
	}
	return r
}

// listens reports whether methods can be called here and now.
func (d *Device) listens() bool {
	return !d.gone.Load() && d.link.Load().Subscribed(d.methods)
}

// everywhere tells of connections to any gateway, and how many devices are
// connected. A gateway that does not answer is as one that is not there.
func (h *Hub) everywhere(ctx context.Context, names ...string) (map[string]whereabouts, int) {
	r := h.here(names)
	all, count := r.Names, r.Count
	missing := h.o.Others()
	if missing == 0 {
		return all, count
	}
	for first := true; first || len(names) > 0; first = false {
		some := names[:min(len(names), hubsNames)]
		names = names[len(some):]
		err := h.ask(ctx, question{some}, missing, func(r reply) {
			if first {
				count += r.Count
			}
			for n, w := range r.Names {
				if w.node = r.Node; w.Connected && !all[n].Connected || w.Connected == all[n].Connected && w.At.After(all[n].At) {
					all[n] = w
				}
			}
		})
		if err != nil && ctx.Err() == nil {
			h.logger.Warn("other gateways cannot be asked for their devices", "error", err)
		}
	}
	return all, count
}

// ask asks the other gateways, until want of them have answered or it is plain
// that no more will.
func (h *Hub) ask(ctx context.Context, q question, want int, f func(reply)) error {
	ctx, cancel := context.WithTimeout(ctx, hubsPatience)
	defer cancel()
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	inbox := h.o.Conn.NewRespInbox()
	sub, err := h.o.Conn.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	if err := h.o.Conn.PublishRequest(hubsSubject, inbox, body); err != nil {
		return err
	}
	for want > 0 {
		m, err := sub.NextMsgWithContext(ctx)
		if errors.Is(err, context.DeadlineExceeded) || err == nil && len(m.Data) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		var r reply
		if err := json.Unmarshal(m.Data, &r); err != nil {
			return err
		}
		if r.Node != h.node {
			f(r)
			want--
		}
	}
	return nil
}

// answerOthers serves the other gateways until ctx ends.
func (h *Hub) answerOthers(ctx context.Context) error {
	if h.o.Conn == nil {
		return nil
	}
	var mu sync.Mutex // guards ended
	var wg sync.WaitGroup
	ended := false
	handle := func(f func(r micro.Request) any) micro.HandlerFunc {
		return func(r micro.Request) {
			mu.Lock()
			defer mu.Unlock()
			if ended {
				return
			}
			wg.Go(func() {
				if err := r.RespondJSON(f(r)); err != nil {
					h.logger.Warn("another gateway is not answered", "error", err)
				}
			})
		}
	}
	svc, err := micro.AddService(h.o.Conn, micro.Config{Name: hubService, Version: "1.0.0", Description: "Devices of the Azure dialect", Metadata: map[string]string{"node": h.node}})
	if err == nil {
		err = svc.AddEndpoint("devices", handle(func(r micro.Request) any {
			var q question
			if json.Unmarshal(r.Data(), &q) != nil {
				q.Names = nil
			}
			return h.here(q.Names)
		}), micro.WithEndpointSubject(hubsSubject), micro.WithEndpointQueueGroupDisabled())
	}
	if err == nil {
		err = svc.AddEndpoint("method", handle(func(r micro.Request) any { return h.answerCall(ctx, r.Data()) }), micro.WithEndpointSubject(hubSubject+h.node))
	}
	if err != nil {
		return errs.E("azure.Peers", errs.Unavailable, err)
	}
	<-ctx.Done()
	if err := svc.Stop(); err != nil {
		h.logger.Debug("the service for other gateways", "error", err)
	}
	mu.Lock()
	ended = true
	mu.Unlock()
	wg.Wait()
	return nil
}

func (h *Hub) answerCall(ctx context.Context, body []byte) remoteAnswer {
	var c remoteCall
	if err := json.Unmarshal(body, &c); err != nil {
		return remoteAnswer{Kind: errs.Invalid, Error: "the request cannot be read"}
	}
	d := h.link(c.Name)
	if d == nil || !d.listens() {
		return remoteAnswer{Kind: errs.NotFound, Error: errs.Text(errOffline)}
	}
	status, out, err := d.invoke(ctx, c.Method, c.Payload, c.Response)
	if err != nil {
		return remoteAnswer{Kind: errs.KindOf(err), Error: errs.Text(err)}
	}
	return remoteAnswer{Status: status, Body: out}
}

// invokeAt calls a method on the gateway node.
func (h *Hub) invokeAt(ctx context.Context, node string, c remoteCall) (status int, body []byte, err error) {
	const op = "azure.Method"
	request, err := json.Marshal(c)
	if err != nil {
		return 0, nil, errs.E(op, errs.Internal, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Response+hubsPatience)
	defer cancel()
	m, err := h.o.Conn.RequestWithContext(ctx, hubSubject+node, request)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return 0, nil, errOffline
	case errors.Is(err, context.DeadlineExceeded):
		return 0, nil, errs.Errorf(op, errs.Timeout, "the device did not answer in time")
	case err != nil:
		return 0, nil, errs.E(op, errs.Unavailable, err)
	}
	var a remoteAnswer
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return 0, nil, errs.E(op, errs.Internal, err)
	}
	switch {
	case a.Error == "":
		return a.Status, a.Body, nil
	case a.Kind == errs.NotFound:
		return 0, nil, errOffline
	}
	return 0, nil, errs.Errorf(op, a.Kind, "%s", a.Error)
}
