package server

import (
	"context"
	"log/slog"
	"math"
	"net/netip"
	"sync/atomic"

	"github.com/weir-iot/weir/registry"
)

// clientLog lets through the log what the V2 logging options and levels of the
// registry ask for of the lines about clients: those that name a client id, a
// principal or an address. All others, and all while no options have been set,
// follow log.level of the configuration.
// Source: AWS IoT Core developer guide, "Configure AWS IoT logging".
type clientLog struct {
	next slog.Handler
	set  *logLevels
	of   logClient // what With has said
}

// logClient is whom a line is about, as far as it says.
type logClient struct{ id, principal, remote string }

func (c *logClient) note(a slog.Attr) bool {
	switch a.Key {
	case "clientId":
		c.id = a.Value.String()
	case "principal", "certificate":
		c.principal = a.Value.String()
	case "remote", "sourceIp":
		c.remote = a.Value.String()
	}
	return true
}

// Enabled implements slog.Handler. Whom a line is about is not known yet.
func (l *clientLog) Enabled(ctx context.Context, level slog.Level) bool {
	if l.next.Enabled(ctx, level) {
		return true
	}
	now := l.set.now.Load()
	return now != nil && level >= now.lowest
}

// Handle implements slog.Handler.
func (l *clientLog) Handle(ctx context.Context, r slog.Record) error {
	wanted := l.next.Enabled(ctx, r.Level)
	if now := l.set.now.Load(); now != nil {
		of := l.of
		r.Attrs(of.note)
		if of != (logClient{}) {
			if least, ok := now.of(of, l.set.things); ok {
				wanted = r.Level >= least
			}
		}
	}
	if !wanted {
		return nil
	}
	return l.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (l *clientLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *l
	for _, a := range attrs {
		n.of.note(a)
	}
	n.next = l.next.WithAttrs(attrs)
	return &n
}

// WithGroup implements slog.Handler.
func (l *clientLog) WithGroup(name string) slog.Handler {
	n := *l
	n.next = l.next.WithGroup(name)
	return &n
}

// logLevels are the levels of the registry, as the log asks for them.
type logLevels struct {
	things *registry.Registry // set before now
	now    atomic.Pointer[levels]
}

// levels is what was set at a time. It is not changed.
type levels struct {
	all     slog.Level // of clients without a level of their own
	allSet  bool       // else those follow log.level
	target  map[registry.LogTarget]slog.Level
	grouped bool // some target is a thing group
	lowest  slog.Level
}

const logNothing = slog.Level(math.MaxInt)

var slogLevels = map[registry.LogLevel]slog.Level{
	registry.LogDebug: slog.LevelDebug, registry.LogInfo: slog.LevelInfo, registry.LogWarn: slog.LevelWarn, registry.LogError: slog.LevelError,
	registry.LogDisabled: logNothing,
}

// follow has the log follow what is set in r.
func (l *logLevels) follow(r *registry.Registry) {
	l.things = r
	l.now.Store(readLevels(r))
	r.OnChange(func(c registry.Change) {
		if c.Kind == registry.KindLogLevel || c.Kind == registry.KindSetting {
			l.now.Store(readLevels(r))
		}
	})
}

// readLevels returns nil where no logging options have been set.
func readLevels(r *registry.Registry) *levels {
	o, err := r.LoggingOptions()
	if err != nil {
		return nil
	}
	out := &levels{lowest: logNothing, target: map[registry.LogTarget]slog.Level{}}
	if o.DisableAll {
		out.all, out.allSet = logNothing, true
		return out
	}
	if o.Default != "" {
		out.all, out.allSet = slogLevels[o.Default], true
		out.lowest = out.all
	}
	for p := (registry.Page{}); ; {
		list, next, err := r.LogLevels("", p)
		if err != nil {
			return out
		}
		for _, t := range list {
			level := slogLevels[t.Level]
			out.target[t.Target] = level
			out.lowest = min(out.lowest, level)
			out.grouped = out.grouped || t.Target.Type == "THING_GROUP"
		}
		if next == "" {
			return out
		}
		p.Token = next
	}
}

// of returns the least level a line about c needs. The nearest target counts:
// the client, its principal, its address, the groups of its thing; then all.
func (v *levels) of(c logClient, things *registry.Registry) (least slog.Level, ok bool) {
	if len(v.target) > 0 {
		address := c.remote
		if at, err := netip.ParseAddrPort(c.remote); err == nil {
			address = at.Addr().Unmap().String()
		}
		for _, t := range []registry.LogTarget{{Type: "CLIENT_ID", Name: c.id}, {Type: "PRINCIPAL_ID", Name: c.principal}, {Type: "SOURCE_IP", Name: address}} {
			if level, ok := v.target[t]; ok {
				return level, true
			}
		}
		if v.grouped {
			if level, ok := v.ofGroups(things.ThingOf(c.principal, c.id), things); ok {
				return level, true
			}
		}
	}
	return v.all, v.allSet
}

// ofGroups returns the level of the groups a thing is in: a group's own, else
// that of the next one above it; of several groups, the lowest.
func (v *levels) ofGroups(thing *registry.Thing, things *registry.Registry) (least slog.Level, ok bool) {
	if thing == nil {
		return 0, false
	}
	groups, _, err := things.GroupsOfThing(thing.Name, registry.Page{Max: 250})
	if err != nil {
		return 0, false
	}
	for _, g := range groups {
		if level, found := v.ofGroup(g, things); found && (!ok || level < least) {
			least, ok = level, true
		}
	}
	return least, ok
}

func (v *levels) ofGroup(name string, things *registry.Registry) (level slog.Level, ok bool) {
	for range 100 { // a group deleted and made again might close a circle
		if level, ok = v.target[registry.LogTarget{Type: "THING_GROUP", Name: name}]; ok {
			return level, true
		}
		g, err := things.Group(name)
		if err != nil || g.Parent == "" {
			return 0, false
		}
		name = g.Parent
	}
	return 0, false
}
