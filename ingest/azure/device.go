package azure

import (
	"context"
	"crypto/x509"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/mqtt"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// Device is one connection of a device or module: the Data of its principal, and
// its mqtt.Dialect.
type Device struct {
	hub            *Hub
	device, module string
	generation     string
	since          time.Time
	remote         netip.AddrPort
	// How it has shown who it is: one of them.
	key         string // that made its token
	policy      string
	certificate *x509.Certificate

	events  topic.Name // of its telemetry
	prefix  string     // the same as the device writes it
	bound   string     // before the bag of a message to it
	filters map[string]topic.Filter
	c2d     topic.Name // on the log
	twins   topic.Filter
	desired topic.Filter
	methods topic.Filter

	link atomic.Pointer[mqtt.Link]
	gone atomic.Bool // its permission to be here is withdrawn

	// The last topic of telemetry and what it means, of the read loop alone.
	last       string
	lastRetain bool
	lastMeans  mqtt.Message

	mu      sync.Mutex // guards what follows
	calls   map[string]chan methodAnswer
	nextRID uint64

	sent map[uint64]*parcel // sent and not acknowledged, by sequence; under the lock of the queue
}

var _ mqtt.Dialect = (*Device)(nil)

func (d *Device) name() string { return nameOf(d.device, d.module) }

// root is where the log has what no client but the device itself reaches.
func root(device, module string) string {
	if module == "" {
		return "$azure/devices/" + device
	}
	return "$azure/devices/" + device + "/modules/" + module
}

func c2dTopic(device string) topic.Name { return topic.Name(root(device, "") + "/c2d") }

// prepare makes the names of the device's topics.
func (d *Device) prepare() {
	own := "devices/" + d.device
	if d.module != "" {
		own += "/modules/" + d.module
	}
	d.prefix = own + "/messages/events"
	d.events = topic.Name(d.prefix)
	r := root(d.device, d.module)
	d.twins, d.desired, d.methods = topic.Filter(r+"/twin"), topic.Filter(r+"/desired"), topic.Filter(r+"/methods")
	d.filters = map[string]topic.Filter{
		"$iothub/twin/res/#": d.twins, "$iothub/twin/PATCH/properties/desired/#": d.desired, "$iothub/methods/POST/#": d.methods,
	}
	if d.module == "" {
		d.c2d, d.bound = c2dTopic(d.device), own+"/messages/devicebound/"
		d.filters[d.bound+"#"] = topic.Filter(d.c2d)
	}
	d.calls, d.sent = map[string]chan methodAnswer{}, map[uint64]*parcel{}
}

// sessionKey names the session of a device; the '#' keeps it apart from client
// ids.
func sessionKey(device, module string) string { return "azure#" + nameOf(device, module) }

// Key implements mqtt.Dialect.
func (d *Device) Key() string { return sessionKey(d.device, d.module) }

// may judges what the device asks for; nothing is but its own.
func (d *Device) may(a auth.Action, resource string) bool {
	if d.gone.Load() {
		return false
	}
	switch a {
	case auth.Connect:
		return resource == d.name()
	case auth.Publish:
		return resource == string(d.events)
	case auth.Subscribe:
		for _, f := range d.filters {
			if resource == string(f) {
				return true
			}
		}
		return false
	case auth.Receive:
		return d.c2d != "" && resource == string(d.c2d)
	}
	return false
}

// Opened implements mqtt.Dialect.
func (d *Device) Opened(l *mqtt.Link) {
	d.link.Store(l)
	h := d.hub
	h.mu.Lock()
	h.links[d.name()] = d
	delete(h.seen, d.name())
	h.mu.Unlock()
	if d.still() != nil { // changed while it logged in
		d.gone.Store(true)
		h.generation.Add(1)
	}
	h.connected(d)
}

// Closed implements mqtt.Dialect.
func (d *Device) Closed(reason string) {
	h := d.hub
	d.giveBack()
	h.mu.Lock()
	if h.links[d.name()] == d {
		delete(h.links, d.name())
		if len(h.seen) >= maxSeen {
			for k := range h.seen {
				delete(h.seen, k)
				break
			}
		}
		h.seen[d.name()] = h.now()
	}
	h.mu.Unlock()
	d.mu.Lock()
	for _, c := range d.calls {
		close(c)
	}
	d.calls = map[string]chan methodAnswer{}
	d.mu.Unlock()
	h.disconnected(d, reason)
}

func notATopic(what string) error {
	return errs.Errorf("azure.Topic", errs.Invalid, "%s: not a topic of the hub that is this device's", trimmed(what))
}

// Publish implements mqtt.Dialect.
func (d *Device) Publish(name, payload []byte, retain bool) (mqtt.Message, error) {
	if string(name) == d.last && retain == d.lastRetain && d.last != "" {
		return d.lastMeans, nil
	}
	if strings.HasPrefix(string(name), "$iothub/") {
		return d.call(string(name), payload)
	}
	m, err := d.telemetry(string(name), retain, false)
	if err == nil {
		d.last, d.lastRetain, d.lastMeans = string(name), retain, m
	}
	return m, err
}

// Will implements mqtt.Dialect.
func (d *Device) Will(name string, _ []byte, retain bool) (mqtt.Message, error) {
	return d.telemetry(strings.Clone(name), retain, true)
}

// telemetry is a message to the hub.
func (d *Device) telemetry(name string, retain, will bool) (mqtt.Message, error) {
	rest, ok := strings.CutPrefix(name, d.prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return mqtt.Message{}, notATopic(name)
	}
	p := &event.Properties{User: make([]event.UserProperty, 0, 1+strings.Count(rest, "=")+2)}
	if rest != "" {
		if err := parseBag(rest[1:], p); err != nil {
			return mqtt.Message{}, errs.E("azure.Publish", errs.Invalid, err)
		}
	}
	add := func(k, v string) { p.User = append(p.User, event.UserProperty{Key: k, Value: v}) }
	if add(propDevice, d.device); d.module != "" {
		add(propModule, d.module)
	}
	if retain {
		add(propRetain, "true")
	}
	if will {
		add(propMessage, "Will")
	}
	return mqtt.Message{Topic: d.events, Props: p}, nil
}

// callTimeout bounds how long the device's packets wait for the twin.
const callTimeout = 10 * time.Second

// call is a publish that asks for something or answers.
func (d *Device) call(name string, payload []byte) (mqtt.Message, error) {
	path, query, ok := strings.Cut(name, "/?")
	if !ok {
		return mqtt.Message{}, notATopic(name)
	}
	q, err := parseQuery(query)
	if err != nil {
		return mqtt.Message{}, errs.E("azure.Publish", errs.Invalid, err)
	}
	body := append([]byte(nil), payload...)
	do := func(f func(ctx context.Context)) (mqtt.Message, error) {
		return mqtt.Message{Call: func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			f(ctx)
		}}, nil
	}
	switch {
	case path == "$iothub/twin/GET":
		return do(func(ctx context.Context) { d.getTwin(ctx, q) })
	case path == "$iothub/twin/PATCH/properties/reported":
		return do(func(ctx context.Context) { d.report(ctx, q, body) })
	case strings.HasPrefix(path, "$iothub/methods/res/"):
		status, err := strconv.Atoi(strings.TrimPrefix(path, "$iothub/methods/res/"))
		if err != nil {
			return mqtt.Message{}, notATopic(name)
		}
		return do(func(context.Context) { d.answered(q.rid, methodAnswer{status, body}) })
	}
	return mqtt.Message{}, notATopic(name)
}

// query is what comes after "/?" in a topic.
type query struct {
	rid     string
	version string
}

func parseQuery(s string) (q query, err error) {
	for part := range strings.SplitSeq(s, "&") {
		k, v, _ := strings.Cut(part, "=")
		if k, err = url.PathUnescape(k); err != nil {
			return q, errBag
		}
		if v, err = url.PathUnescape(v); err != nil || len(v) > 128 {
			return q, errBag
		}
		switch k {
		case "$rid":
			q.rid = v
		case "$version":
			q.version = v
		}
	}
	return q, nil
}

// Filter implements mqtt.Dialect.
func (d *Device) Filter(text string) (topic.Filter, error) {
	if f, ok := d.filters[text]; ok {
		return f, nil
	}
	return "", notATopic(text)
}
