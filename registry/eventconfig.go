package registry

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

// eventTypes are the types of events, each with whether it is published where
// nothing is configured, and why that cannot be changed; "": it can.
// Source: AWS IoT Core developer guide, "Event messages", "Lifecycle events".
var eventTypes = map[string]struct {
	on    bool
	fixed string
}{
	"THING": {}, "THING_GROUP": {}, "THING_TYPE": {}, "THING_GROUP_MEMBERSHIP": {}, "THING_GROUP_HIERARCHY": {}, "THING_TYPE_ASSOCIATION": {},
	"CA_CERTIFICATE": {on: true},
	"CERTIFICATE":    {on: true, fixed: "lifecycle events of clients cannot be switched off"},
	"POLICY":         {fixed: "there are no events of policies"},
	"JOB":            {fixed: "there are no jobs here"},
	"JOB_EXECUTION":  {fixed: "there are no jobs here"},
}

// EventTypes returns the types of events, sorted.
func EventTypes() []string { return slices.Sorted(maps.Keys(eventTypes)) }

// EventConfigurations say which events of the registry are published. The zero
// value has those that AWS publishes without being asked.
type EventConfigurations struct {
	Enabled    map[string]bool `json:"eventConfigurations,omitempty"` // of EventTypes; those that were ever set
	CreatedAt  time.Time       `json:"creationDate,omitzero"`
	ModifiedAt time.Time       `json:"lastModifiedDate,omitzero"`
}

// On reports whether events of a type are published.
func (e EventConfigurations) On(eventType string) bool {
	if on, set := e.Enabled[eventType]; set {
		return on
	}
	return eventTypes[eventType].on
}

// UpdateEventConfigurations switches the events named, and no other.
// Errors: InvalidRequest, NotSupported.
func (r *Registry) UpdateEventConfigurations(ctx context.Context, enabled map[string]bool) error {
	return r.Change(ctx, "registry.UpdateEventConfigurations", func(tx *Tx) error {
		e := EventConfigurations{CreatedAt: tx.now}
		if old := get(tx, r.settings.events, single); old != nil {
			e = *old
		}
		e.Enabled = maps.Clone(e.Enabled)
		if e.Enabled == nil {
			e.Enabled = map[string]bool{}
		}
		for t, on := range enabled {
			known, ok := eventTypes[t]
			switch {
			case !ok:
				return invalid("%q is no type of event: %s", clip(t), strings.Join(EventTypes(), ", "))
			case known.fixed != "" && on != known.on:
				return fail(NotSupported, "%s: %s", t, known.fixed)
			}
			e.Enabled[t] = on
		}
		e.ModifiedAt = tx.now
		put(tx, r.settings.events, single, &e)
		return nil
	})
}

// EventConfigurations returns which events are published.
func (r *Registry) EventConfigurations() EventConfigurations {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if e := r.settings.events.rows[single].v; e != nil {
		return *e
	}
	return EventConfigurations{}
}
