package azure

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
)

// Log is what the dialect needs of the event log.
type Log interface {
	Partitions() int
	Committed(p int) uint64
	Follow(o eventlog.FollowOptions) (*eventlog.Follower, error)
	Partition(key string) uint16
	Publish(ctx context.Context, e *event.Event) error
	Append(ctx context.Context, e *event.Event, r eventlog.Receipt, token uint64) error
}

// Section is one part of a twin.
type Section struct {
	State    json.RawMessage // an object; nil: empty
	Metadata json.RawMessage // in the shape of State: milliseconds since the epoch for each value
	Version  uint64          // changes that named the section
}

// Twin is the state a device shares with its back end.
type Twin struct {
	Version                 uint64
	Time                    time.Time
	Desired, Reported, Tags Section
}

// TwinChange changes sections of a twin: an object merges, null removes, nil
// leaves it.
type TwinChange struct {
	Desired, Reported, Tags json.RawMessage
	Replace                 bool    // instead of merging
	Version                 *uint64 // of the Twin that is changed; nil: any
}

// Twins keeps twins as shadows: that of a device is the unnamed shadow of the
// thing of its name, that of a module the named one. Errors: errs.NotFound
// (there is none), errs.Invalid, errs.TooLarge, errs.Conflict (Version),
// errs.Quota, errs.Unavailable, errs.Timeout.
type Twins interface {
	Read(ctx context.Context, device, module string) (*Twin, error)
	Change(ctx context.Context, device, module string, c TwinChange, by string) (*Twin, error)
	Delete(ctx context.Context, device, module string) error
}

// Options configure a Hub.
type Options struct {
	Bucket   Bucket
	Sealer   Sealer
	Policies []Policy // of the hub
	// Hosts are the names the hub answers to, without port. The name a client
	// asked for by SNI is one too.
	Hosts []string
	Twins Twins
	Log   Log
	// Retention is how long the log keeps an event; 0: 24 h.
	Retention time.Duration
	// Conn reaches the other gateways of the log, of which Others says how many
	// live; nil: this one is alone. First reports whether this one does what one of
	// them has to do. With Conn they are needed.
	Conn   *nats.Conn
	Others func() int
	First  func() bool
	// Issued reports whether a registered authority that is active issued leaf, for
	// devices of type certificateAuthority; nil: there are none.
	Issued func(leaf *x509.Certificate) bool

	Logger *slog.Logger     // nil: discards
	Now    func() time.Time // nil: time.Now
}

// Hub is the dialect: who its devices are, and what is between them and their
// back ends. Its methods may be called concurrently.
type Hub struct {
	o          Options
	now        func() time.Time
	logger     *slog.Logger
	ids        *identities
	generation atomic.Uint64
	queue      *queue
	node       string       // names this process among the gateways
	refusals   atomic.Int64 // when the last refused log-in was told of, in nanoseconds

	mu    sync.Mutex // guards what follows
	links map[string]*Device
	seen  map[string]time.Time // when a device that is away was last here; bounded
}

// maxSeen bounds the devices whose last visit is remembered.
const maxSeen = 100_000

// New checks the options. Nothing runs until Run.
func New(o Options) (*Hub, error) {
	if o.Bucket == nil || o.Sealer == nil || o.Twins == nil || o.Log == nil {
		return nil, errors.New("azure: bucket, sealer, twins and log are needed")
	}
	if o.Retention == 0 {
		o.Retention = 24 * time.Hour
	}
	if o.Conn == nil {
		o.Others, o.First = func() int { return 0 }, func() bool { return true }
	} else if o.Others == nil || o.First == nil {
		return nil, errors.New("azure: with a connection to other gateways it must be known how many there are")
	}
	h := &Hub{
		o: o, now: o.Now, logger: o.Logger, ids: newIdentities(o.Bucket, o.Sealer),
		queue: newQueue(o.Log), node: newNode(), links: map[string]*Device{}, seen: map[string]time.Time{},
	}
	if h.now == nil {
		h.now = time.Now
	}
	if h.logger == nil {
		h.logger = slog.New(slog.DiscardHandler)
	}
	return h, nil
}

// Run serves until ctx ends; every goroutine it started has ended on return.
func (h *Hub) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	low, err := h.lows(ctx)
	if err != nil {
		return err
	}
	parts := []func(context.Context) error{
		func(ctx context.Context) error { return h.ids.run(ctx, h.changed) },
		h.tellSettled, h.sweep, h.keepLow, h.tellTwins, h.answerOthers,
	}
	for p := range h.o.Log.Partitions() {
		f, err := h.o.Log.Follow(eventlog.FollowOptions{Partition: p, After: h.o.Log.Committed(p), Filters: documents})
		if err != nil {
			return errs.E("azure.Run", errs.KindOf(err), err)
		}
		parts = append(parts,
			func(ctx context.Context) error { return h.follow(ctx, f) },
			func(ctx context.Context) error { return h.followQueue(ctx, p, low[p]) })
	}
	var wg sync.WaitGroup
	failed := make(chan error, len(parts))
	for _, part := range parts {
		wg.Go(func() {
			if err := part(ctx); err != nil && ctx.Err() == nil {
				failed <- err
			}
		})
	}
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	stop()
	wg.Wait()
	return err
}

// loaded waits until the registry and the queues have been read once.
func (h *Hub) loaded(ctx context.Context) error {
	if err := h.ids.wait(ctx, func() bool { return h.ids.loaded }); err != nil {
		return err
	}
	return h.queue.loaded(ctx)
}

// changed is told of each change of an identity.
func (h *Hub) changed(name string) {
	h.mu.Lock()
	d := h.links[name]
	h.mu.Unlock()
	if d != nil && d.still() != nil {
		d.gone.Store(true)
	}
	h.generation.Add(1)
}

func (h *Hub) link(name string) *Device {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.links[name]
}

// ours reports whether host is a name of the hub; sni is the name the client
// asked for.
func (h *Hub) ours(host, sni string) bool {
	return sni != "" && sameHost(host, sni) || slices.ContainsFunc(h.o.Hosts, func(n string) bool { return sameHost(host, n) })
}

// Authorizer judges the dialect's devices; all others are Next's.
type Authorizer struct {
	Hub  *Hub
	Next interface {
		auth.Authorizer
		auth.Explainer
		auth.Keeper
	}
}

// May implements auth.Authorizer.
func (a *Authorizer) May(p *auth.Principal, act auth.Action, resource string) bool {
	if d, ok := p.Data.(*Device); ok {
		return d.may(act, resource)
	}
	return a.Next.May(p, act, resource)
}

// Why implements auth.Explainer.
func (a *Authorizer) Why(p *auth.Principal, act auth.Action, resource string) string {
	if d, ok := p.Data.(*Device); ok {
		if err := d.still(); err != nil {
			return errs.Text(err)
		}
		return "a device of the Azure dialect has the topics of that dialect alone"
	}
	return a.Next.Why(p, act, resource)
}

// Generation implements auth.Keeper.
func (a *Authorizer) Generation() uint64 { return a.Next.Generation() + a.Hub.generation.Load() }

// Still implements auth.Keeper.
func (a *Authorizer) Still(p *auth.Principal) error {
	if d, ok := p.Data.(*Device); ok {
		return d.still()
	}
	return a.Next.Still(p)
}

// Right is what a hub policy allows.
type Right string

const (
	RegistryRead   Right = "RegistryRead"
	RegistryWrite  Right = "RegistryWrite"
	ServiceConnect Right = "ServiceConnect"
	DeviceConnect  Right = "DeviceConnect"
)

// Policy is a shared access policy of the hub.
type Policy struct {
	Name      string  `json:"name"`
	Primary   string  `json:"primaryKey"` // Base64
	Secondary string  `json:"secondaryKey"`
	Rights    []Right `json:"rights"`
}

// Owner is the name of the policy that may do everything.
const Owner = "iothubowner"

// NewPolicies returns the policies Azure gives a new hub, with new keys.
func NewPolicies() []Policy {
	list := []Policy{
		{Name: Owner, Rights: []Right{RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect}},
		{Name: "service", Rights: []Right{ServiceConnect}},
		{Name: "device", Rights: []Right{DeviceConnect}},
		{Name: "registryRead", Rights: []Right{RegistryRead}},
		{Name: "registryReadWrite", Rights: []Right{RegistryRead, RegistryWrite}},
	}
	for i := range list {
		list[i].Primary, list[i].Secondary = newKey(), newKey()
	}
	return list
}

// policy checks a token of a hub policy for a resource of the hub; right "": none
// in particular.
func (h *Hub) policy(t *Token, right Right, host string, path ...string) (*Policy, error) {
	const op = "azure.Authenticate"
	for i := range h.o.Policies {
		p := &h.o.Policies[i]
		if p.Name != t.Policy {
			continue
		}
		switch {
		case !t.Signed(p.Primary, p.Secondary):
			return nil, errs.E(op, errs.Unauthorized, errSignature)
		case !h.now().Before(t.Expires):
			return nil, errs.E(op, errs.Unauthorized, errExpired)
		case !t.Covers(host, path...):
			return nil, errs.E(op, errs.Unauthorized, errScope)
		case right != "" && !slices.Contains(p.Rights, right):
			return nil, errs.Errorf(op, errs.Unauthorized, "the policy %s has not the right %s", p.Name, right)
		}
		return p, nil
	}
	return nil, errs.Errorf(op, errs.Unauthorized, "no policy of the hub has that name")
}

// trimmed bounds what is written to the log of a name that strangers choose.
func trimmed(s string) string { return strings.ToValidUTF8(s[:min(len(s), 200)], "?") }
