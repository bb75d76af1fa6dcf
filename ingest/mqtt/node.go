package mqtt

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weir-iot/weir/internal/kv"
)

// LeaseBucket is where gateways keep their leases, and the wills of their
// clients; *kv.Bucket is one.
type LeaseBucket interface {
	Get(ctx context.Context, key string) (kv.Entry, error)
	Commit(ctx context.Context, changes []kv.Change) (rev uint64, err error)
	Watch(ctx context.Context, prefix string, f func(kv.Entry)) error
}

const (
	gatewayKey = "gateway." // + node: a heartbeat; a clean end clears it
	willKey    = "will."    // + client id: see storedWill

	leaseTTL       = 5 * time.Second // a gateway whose heartbeat has stood for this long is dead
	gatewayService = "weir-gateway"
	gatewaySubject = "weir.gateway." // + node
)

// node is this gateway among the gateways of one log. A gateway alone has one
// too, where it has a bucket for leases: it keeps its clients' wills there.
type node struct {
	s      *Server
	id     string // new with every start
	bucket LeaseBucket
	nc     *nats.Conn // between the gateways; nil: this one is alone
	ttl    time.Duration

	mu     sync.Mutex // guards what follows
	peers  map[string]lease
	wills  map[string]*storedWill // of all gateways, by client id
	loaded bool                   // the bucket has been read once
	ready  chan struct{}          // closed then
	ended  bool                   // others are not answered any more

	publishing map[string]struct{} // clients whose stored wills this gateway is publishing

	answers sync.WaitGroup

	hearing sync.Mutex // held while a frame of another gateway is taken; guards deaf
	deaf    bool
}

// lease is when a gateway's heartbeat last changed, by this one's own clock, so
// that clocks need not agree.
type lease struct {
	revision uint64
	seen     time.Time
}

func newNode(s *Server, o *Options) *node {
	if o.Leases == nil {
		return nil
	}
	var b [8]byte
	rand.Read(b[:])
	n := &node{
		s: s, id: hex.EncodeToString(b[:]), bucket: o.Leases, nc: o.Conn, ttl: o.LeaseTTL,
		peers: map[string]lease{}, wills: map[string]*storedWill{}, ready: make(chan struct{}),
		publishing: map[string]struct{}{},
	}
	if n.ttl <= 0 {
		n.ttl = leaseTTL
	}
	return n
}

// name returns the node's id, "" where there is no node.
func (n *node) name() string {
	if n == nil {
		return ""
	}
	return n.id
}

// shared reports whether there may be other gateways.
func (n *node) shared() bool { return n != nil && n.nc != nil }

// begin takes up the node's lease and reads the others', before the gateway
// listens. until ends what it leaves running in wg.
func (n *node) begin(ctx, until context.Context, wg *sync.WaitGroup) error {
	if n == nil {
		return nil
	}
	if n.shared() {
		if err := n.beat(ctx); err != nil {
			return fmt.Errorf("mqtt: the gateway's lease: %w", err)
		}
		svc, err := micro.AddService(n.nc, micro.Config{
			Name: gatewayService, Version: "1.0.0", Description: "Lets go of clients that connect elsewhere", Metadata: map[string]string{"node": n.id},
		})
		handle := func(f func(context.Context, micro.Request)) micro.HandlerFunc {
			return func(r micro.Request) {
				n.mu.Lock()
				defer n.mu.Unlock()
				if !n.ended {
					n.answers.Go(func() { f(until, r) })
				}
			}
		}
		if err == nil {
			err = svc.AddEndpoint("client", handle(n.answer), micro.WithEndpointSubject(gatewaySubject+n.id))
		}
		if err == nil {
			err = svc.AddEndpoint("clients", handle(n.tell), micro.WithEndpointSubject(gatewaysSubject), micro.WithEndpointQueueGroupDisabled())
		}
		if err != nil {
			return fmt.Errorf("mqtt: service %s: %w", gatewayService, err)
		}
		frames, err := n.nc.Subscribe(shareSubject+n.id, n.hear)
		if err != nil {
			return fmt.Errorf("mqtt: shared subscriptions: %w", err)
		}
		wg.Go(func() {
			n.beats(until)
			if err := errors.Join(svc.Stop(), frames.Unsubscribe()); err != nil {
				n.s.logger.Debug("the gateway's service", "error", err)
			}
			n.mu.Lock()
			n.ended = true
			n.mu.Unlock()
			n.answers.Wait()
		})
	}
	wg.Go(func() { n.watch(until) })
	select {
	case <-n.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	if !n.shared() {
		n.settleWills(ctx) // before a client of theirs comes back
	}
	wg.Go(func() { n.keepWills(until) })
	return nil
}

// beat renews the lease.
func (n *node) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.ttl)
	defer cancel()
	value, err := json.Marshal(map[string]int64{"at": n.s.now().UnixMilli()})
	if err != nil {
		panic(err) // a number
	}
	_, err = n.bucket.Commit(ctx, []kv.Change{{Key: gatewayKey + n.id, Value: value, Any: true}})
	return err
}

// beats renews the lease until ctx ends, and gives it up then.
func (n *node) beats(ctx context.Context) {
	t := time.NewTicker(n.ttl / 4)
	defer t.Stop()
	held := time.Now()
	for {
		select {
		case <-t.C:
			began := time.Now()
			if err := n.beat(ctx); err != nil {
				if ctx.Err() == nil {
					n.s.noise.warn("the gateway's lease is not renewed; others may take its clients over", "error", err)
				}
				continue
			}
			if began.Sub(held) > n.ttl {
				n.recall(ctx)
			}
			held = began
		case <-ctx.Done():
			final, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if _, err := n.bucket.Commit(final, []kv.Change{{Key: gatewayKey + n.id, Any: true}}); err != nil {
				n.s.logger.Warn("the gateway's lease is not given up; it runs out", "error", err)
			}
			return
		}
	}
}

// watch follows leases and wills until ctx ends.
func (n *node) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := n.bucket.Watch(ctx, "", n.learn)
		if ctx.Err() != nil {
			return
		}
		n.s.noise.warn("the leases cannot be watched; watching them again", "error", err)
		pause(ctx, time.Second)
	}
}

func (n *node) learn(e kv.Entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch id, isGateway := strings.CutPrefix(e.Key, gatewayKey); {
	case e.Key == "":
		if !n.loaded {
			n.loaded = true
			close(n.ready)
		}
	case isGateway && id == n.id:
	case isGateway && len(e.Value) == 0:
		delete(n.peers, id)
	case isGateway:
		if n.peers[id].revision != e.Revision {
			n.peers[id] = lease{e.Revision, time.Now()}
		}
	default:
		if client, ok := strings.CutPrefix(e.Key, willKey); ok {
			n.learnWill(client, e)
		}
	}
}

// alive reports whether the gateway id holds its lease.
func (n *node) alive(id string) bool {
	if n == nil || id == n.id {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.peers[id]
	return ok && time.Since(p.seen) < n.ttl
}

// others returns the other gateways whose lease holds.
func (n *node) others() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for id, p := range n.peers {
		if time.Since(p.seen) < n.ttl {
			out = append(out, id)
		}
	}
	return out
}

// first reports whether this is the gateway with the lowest id among the living,
// which does what one of them has to do. Two may think so for a moment.
func (n *node) first() bool {
	return !n.shared() || n.id < slices.Min(append(n.others(), "~"))
}

// recall ends the connections of clients that have gone to other gateways while
// this one could not be asked: it was cut off, or stood still.
func (n *node) recall(ctx context.Context) {
	n.s.mu.Lock()
	ids := make([]string, 0, len(n.s.clients))
	for id, c := range n.s.clients {
		if c.accepted.Load() {
			ids = append(ids, id)
		}
	}
	n.s.mu.Unlock()
	n.s.tendAll(true)
	ctx, cancel := context.WithTimeout(ctx, 2*n.ttl)
	defer cancel()
	for _, peer := range n.others() {
		for some := range slices.Chunk(ids, 1000) {
			a, gone, err := n.ask(ctx, peer, request{Op: opWhose, IDs: some})
			if gone {
				break
			}
			if err != nil {
				n.s.noise.warn("another gateway does not say which clients it has", "error", err)
				break
			}
			for _, id := range a.IDs {
				n.s.sessionLost(id)
			}
		}
	}
}

// request is what one gateway asks another for.
type request struct {
	// "let go": the client connects elsewhere; "whose": which of IDs are connected
	// there?; "get", "list", "delete": as Gateways has them.
	Op      string   `json:"op"`
	ID      string   `json:"clientId,omitempty"` // of "list": the one before the first
	IDs     []string `json:"clientIds,omitempty"`
	Version int64    `json:"version,omitempty"` // of the new connection; see client.connection
	Node    string   `json:"node,omitempty"`    // where it is
	Max     int      `json:"max,omitempty"`
	Clean   bool     `json:"clean,omitempty"`
	NoWill  bool     `json:"noWill,omitempty"`
}

// response is its answer, once it is done.
type response struct {
	Node        string        `json:"node,omitempty"`    // who answers, where all are asked
	Had         bool          `json:"had,omitempty"`     // the client was here
	Version     int64         `json:"version,omitempty"` // of the connection it had here
	IDs         []string      `json:"clientIds,omitempty"`
	Newer       bool          `json:"newer,omitempty"` // "let go" is refused: the client connects here at this moment, and later
	Connections []*Connection `json:"connections,omitempty"`
	More        bool          `json:"more,omitempty"` // another part follows
	Error       string        `json:"error,omitempty"`
}

// ask asks another gateway. gone reports that it is not there to answer: its
// process has ended, or its lease has.
func (n *node) ask(ctx context.Context, peer string, q request) (a response, gone bool, err error) {
	body, err := json.Marshal(q)
	if err != nil {
		panic(err) // it holds nothing JSON cannot say
	}
	for {
		// A gateway that stands still answers late or never.
		wait, cancel := context.WithTimeout(ctx, n.ttl/4)
		m, err := n.nc.RequestWithContext(wait, gatewaySubject+peer, body)
		cancel()
		switch {
		case err == nil:
			if err := json.Unmarshal(m.Data, &a); err != nil {
				return a, false, err
			}
			if a.Error != "" {
				return a, false, errors.New(a.Error)
			}
			return a, false, nil
		case errors.Is(err, nats.ErrNoResponders):
			return a, true, nil
		case !n.alive(peer):
			return a, true, nil
		case ctx.Err() != nil:
			return a, false, ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded):
			return a, false, err
		}
	}
}

// answer answers another gateway.
func (n *node) answer(ctx context.Context, r micro.Request) {
	var q request
	var a response
	if err := json.Unmarshal(r.Data(), &q); err != nil {
		a.Error = "the request cannot be read"
	} else {
		switch q.Op {
		case opLetGo:
			a = n.letGo(ctx, q)
		case opDelete:
			a = n.remove(ctx, q)
		case opWhose:
			for _, id := range q.IDs {
				if n.s.here(id) {
					a.IDs = append(a.IDs, id)
				}
			}
		default:
			a.Error = "this gateway is of an older version: it does not know " + q.Op
		}
	}
	if err := r.RespondJSON(a); err != nil {
		n.s.noise.warn("another gateway is not answered", "error", err)
	}
}
