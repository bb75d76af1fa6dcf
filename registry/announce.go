package registry

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// announcement is an event about a change of the registry that is still to be
// published. It is committed with the change, so that neither is there without
// the other, and cleared once the log has it.
type announcement struct {
	Topic   string          `json:"topic"`
	Payload json.RawMessage `json:"payload"`
	At      time.Time       `json:"at"`
	By      string          `json:"by"` // the process that made the change
}

// announceAfter is how long other processes leave an announcement to the one
// that made it.
const announceAfter = 5 * time.Second

// announce adds what tx changes to what is to be told, as far as somebody has
// asked for it.
// Source: AWS IoT Core developer guide, "Registry events".
func (tx *Tx) announce() {
	config := get(tx, tx.r.settings.events, single)
	if tx.r.o.Publish == nil || config == nil {
		return
	}
	t := &teller{tx: tx, config: *config}
	for _, w := range tx.order {
		t.change(w)
	}
	for i, a := range t.told {
		put(tx, tx.r.announcements, fmt.Sprintf("%s-%03d", tx.id, i), a)
	}
}

// teller makes the events of one change.
type teller struct {
	tx     *Tx
	config EventConfigurations
	told   []*announcement
}

func (t *teller) change(w *write) {
	r := t.tx.r
	kind, name, _ := strings.Cut(w.key, ".")
	switch kind {
	case r.things.prefix:
		old, now := before(t.tx, r.things, w, name)
		t.thing(old, now)
		t.typeOf(old, now)
	case r.types.prefix:
		t.thingType(before(t.tx, r.types, w, name))
	case r.groups.prefix:
		old, now := before(t.tx, r.groups, w, name)
		t.group(old, now)
		t.hierarchy(old, now)
	case r.members.prefix:
		t.member(w)
	}
}

// before returns what a write replaces, and with what; nil where there is
// nothing.
func before[T any](tx *Tx, t *table[T], w *write, name string) (old, now *T) {
	now, _ = w.record.(*T)
	return t.rows[name].v, now
}

// operationOf names what became of a record: "" where there never was one.
func operationOf[T any](old, now *T) string {
	switch {
	case old == nil && now == nil:
		return ""
	case old == nil:
		return "CREATED"
	case now == nil:
		return "DELETED"
	}
	return "UPDATED"
}

// latest returns now, or old where there is no now.
func latest[T any](old, now *T) *T {
	if now == nil {
		return old
	}
	return now
}

// tell adds an event, which has body and what all of them have, where its type
// is asked for.
func (t *teller) tell(kind, typ, where, operation string, body map[string]any) {
	if !t.config.On(kind) {
		return
	}
	name := "$aws/events/" + where + "/" + strings.ToLower(operation)
	body["eventType"], body["operation"], body["eventId"] = typ, operation, newID()
	body["timestamp"], body["accountId"] = t.tx.now.UnixMilli(), t.tx.r.o.AccountID
	payload, err := json.Marshal(body)
	if err != nil {
		panic(err) // it holds nothing JSON cannot say
	}
	t.told = append(t.told, &announcement{Topic: name, Payload: payload, At: t.tx.now, By: t.tx.r.self})
}

func (t *teller) thing(old, now *Thing) {
	if op := operationOf(old, now); op != "" {
		v := latest(old, now)
		t.tell("THING", "THING_EVENT", "thing/"+v.Name, op, map[string]any{
			"thingId": v.ID, "thingName": v.Name, "versionNumber": v.Version, "thingTypeName": orNull(v.Type), "attributes": orEmpty(v.Attributes),
		})
	}
}

// typeOf tells of a thing that has another type than before.
func (t *teller) typeOf(old, now *Thing) {
	was, is := "", ""
	if old != nil {
		was = old.Type
	}
	if now != nil {
		is = now.Type
	}
	tell := func(typ, operation string) {
		v := latest(old, now)
		t.tell("THING_TYPE_ASSOCIATION", "THING_TYPE_ASSOCIATION_EVENT", "thingTypeAssociation/thing/"+v.Name+"/thingType/"+typ, operation,
			map[string]any{"thingId": v.ID, "thingName": v.Name, "thingTypeName": typ})
	}
	if was != is && was != "" {
		tell(was, "REMOVED")
	}
	if was != is && is != "" {
		tell(is, "ADDED")
	}
}

func (t *teller) thingType(old, now *ThingType) {
	op := operationOf(old, now)
	if op == "" || op == "UPDATED" && old.Deprecated == now.Deprecated && old.Description == now.Description && slices.Equal(old.Searchable, now.Searchable) {
		return // its tags, at most
	}
	v := latest(old, now)
	var deprecated any
	if v.Deprecated {
		deprecated = v.DeprecatedAt.UnixMilli()
	}
	searchable := v.Searchable
	if searchable == nil {
		searchable = []string{}
	}
	t.tell("THING_TYPE", "THING_TYPE_EVENT", "thingType/"+v.Name, op, map[string]any{
		"thingTypeId": v.ID, "thingTypeName": v.Name, "isDeprecated": v.Deprecated, "deprecationDate": deprecated,
		"searchableAttributes": searchable, "description": orNull(v.Description),
	})
}

func (t *teller) group(old, now *Group) {
	op := operationOf(old, now)
	if op == "" || op == "UPDATED" && old.Version == now.Version {
		return // its tags, at most
	}
	v := latest(old, now)
	type above struct {
		ARN string `json:"groupArn"`
		ID  string `json:"groupId"`
	}
	path, parentID := []above{}, ""
	for up := t.parent(v); up != nil && len(path) < 100; up = t.parent(up) {
		if parentID == "" {
			parentID = up.ID
		}
		path = append([]above{{t.tx.r.GroupARN(up.Name), up.ID}}, path...)
	}
	t.tell("THING_GROUP", "THING_GROUP_EVENT", "thingGroup/"+v.Name, op, map[string]any{
		"thingGroupId": v.ID, "thingGroupName": v.Name, "versionNumber": v.Version, "parentGroupName": orNull(v.Parent), "parentGroupId": orNull(parentID),
		"description": orNull(v.Description), "rootToParentThingGroups": path, "attributes": orEmpty(v.Attributes), "dynamicGroupMappingId": nil,
	})
}

func (t *teller) parent(g *Group) *Group {
	if g.Parent == "" {
		return nil
	}
	return get(t.tx, t.tx.r.groups, g.Parent)
}

// hierarchy tells of a group that has come into another one or gone with it: a
// group's parent is fixed.
func (t *teller) hierarchy(old, now *Group) {
	v := latest(old, now)
	if v == nil || (old == nil) == (now == nil) || v.Parent == "" {
		return
	}
	op := "ADDED"
	if now == nil {
		op = "REMOVED"
	}
	parentID := ""
	if up := t.parent(v); up != nil {
		parentID = up.ID
	}
	t.tell("THING_GROUP_HIERARCHY", "THING_GROUP_HIERARCHY_EVENT", "thingGroupHierarchy/thingGroup/"+v.Parent+"/childThingGroup/"+v.Name, op, map[string]any{
		"thingGroupId": parentID, "thingGroupName": v.Parent, "childGroupId": v.ID, "childGroupName": v.Name,
	})
}

// member tells of a thing that has come into a group or left it.
func (t *teller) member(w *write) {
	r := t.tx.r
	was, _ := r.members.get(w.left, w.right)
	if (was.value == "") == (w.linked == "") {
		return
	}
	op := "ADDED"
	if w.linked == "" {
		op = "REMOVED"
	}
	thingID, groupID := "", ""
	if v := latest(r.things.rows[w.left].v, get(t.tx, r.things, w.left)); v != nil {
		thingID = v.ID
	}
	if v := latest(r.groups.rows[w.right].v, get(t.tx, r.groups, w.right)); v != nil {
		groupID = v.ID
	}
	// The same for both of its events.
	sum := sha256.Sum256([]byte(thingID + groupID))
	t.tell("THING_GROUP_MEMBERSHIP", "THING_GROUP_MEMBERSHIP_EVENT", "thingGroupMembership/thingGroup/"+w.right+"/thing/"+w.left, op, map[string]any{
		"groupArn": r.GroupARN(w.right), "groupId": groupID, "thingArn": r.ThingARN(w.left), "thingId": thingID,
		"membershipId": fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16]),
	})
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// publishAnnouncements publishes what changes have left to be told, until ctx
// ends. Another process's are left to it for a while. An event may come twice,
// where this process ends between the event and the note that it is told.
func (r *Registry) publishAnnouncements(ctx context.Context) {
	for ctx.Err() == nil {
		due, others, moved := r.dueAnnouncements()
		if len(due) == 0 {
			wait := time.Hour
			if others {
				wait = announceAfter
			}
			t := time.NewTimer(wait)
			select {
			case <-moved:
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
			continue
		}
		if err := r.publish(ctx, due); err != nil && ctx.Err() == nil {
			r.o.Logger.Warn("events of the registry are not published yet", "events", len(due), "err", err)
			pause(ctx, time.Second)
		}
	}
}

// dueAnnouncements returns the keys of what this process is to publish, and
// whether there is more that others may leave undone.
func (r *Registry) dueAnnouncements() (due []string, others bool, moved <-chan struct{}) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.announcements.order.after("", func(key string, a *announcement) bool {
		if a.By == r.self || r.now().Sub(a.At) > announceAfter {
			due = append(due, key)
		} else {
			others = true
		}
		return len(due) < 200
	})
	return due, others, r.moved
}

func (r *Registry) publish(ctx context.Context, keys []string) error {
	for _, key := range keys {
		r.mu.RLock()
		a := r.announcements.rows[key].v
		r.mu.RUnlock()
		if a == nil {
			continue
		}
		if err := r.o.Publish(ctx, &event.Event{
			Topic: topic.Name(a.Topic), Payload: a.Payload, Received: r.now().UTC().Truncate(time.Millisecond), QoS: 1, Protocol: event.Server,
		}); err != nil {
			return err
		}
	}
	return r.Change(ctx, "registry.Announced", func(tx *Tx) error {
		for _, key := range keys {
			if get(tx, r.announcements, key) != nil {
				drop(tx, r.announcements, key)
			}
		}
		return nil
	})
}
