package registry

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
)

// told collects what a registry publishes.
type told struct {
	mu     sync.Mutex
	topics []string
}

func (l *told) publish(_ context.Context, e *event.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !json.Valid(e.Payload) {
		return errors.New("no JSON")
	}
	l.topics = append(l.topics, string(e.Topic))
	return nil
}

func (l *told) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.topics...)
}

// TestAnnouncementsOutliveTheirProcess ends a process that has made changes and
// could not publish their events: another one does, once each, and nothing stays
// behind. A change that is refused announces nothing.
func TestAnnouncementsOutliveTheirProcess(t *testing.T) {
	b, _ := store(t, eventlog.Options{Durability: eventlog.Memory})
	ctx := t.Context()
	mute, stop := open(t, b, func(o *Options) {
		o.Publish = func(context.Context, *event.Event) error { return errors.New("not now") }
	})
	must[*Thing](t)(mute.CreateThing(ctx, CreateThing{Name: "before"}))
	ok(t, mute.UpdateEventConfigurations(ctx, map[string]bool{"THING": true, "THING_GROUP_MEMBERSHIP": true}))
	must[*Thing](t)(mute.CreateThing(ctx, CreateThing{Name: "t"}))
	_, err := mute.CreateThing(ctx, CreateThing{Name: "t", Attributes: map[string]string{"a": "1"}})
	refused(t, err, Exists)
	must[*Group](t)(mute.CreateGroup(ctx, CreateGroup{Name: "g"}))
	ok(t, mute.AddToGroup(ctx, "t", "g"))
	ok(t, mute.AddToGroup(ctx, "t", "g"))
	stop()

	l := &told{}
	heir, _ := open(t, b, func(o *Options) {
		o.Publish, o.Now = l.publish, func() time.Time { return time.Now().Add(2 * announceAfter) }
	})
	settle(t, func() bool {
		due, others, _ := heir.dueAnnouncements()
		return len(due) == 0 && !others && len(l.all()) >= 2
	}, func() string { return "nobody tells" })
	if got := l.all(); len(got) != 2 || got[0] != "$aws/events/thing/t/created" || got[1] != "$aws/events/thingGroupMembership/thingGroup/g/thing/t/added" {
		t.Fatal(got)
	}
	if n := len(heir.announcementKeys()); n != 0 {
		t.Fatalf("%d announcements stay", n)
	}
}

// TestAnnouncementsAreLeftToTheirProcess: of two processes the one that made a
// change tells of it.
func TestAnnouncementsAreLeftToTheirProcess(t *testing.T) {
	b, _ := store(t, eventlog.Options{Durability: eventlog.Memory})
	one, two := &told{}, &told{}
	now := time.Now() // stands still: nobody is late
	still := func() time.Time { return now }
	first, _ := open(t, b, func(o *Options) { o.Publish, o.Now = one.publish, still })
	second, _ := open(t, b, func(o *Options) { o.Publish, o.Now = two.publish, still })
	ctx := t.Context()
	ok(t, first.UpdateEventConfigurations(ctx, map[string]bool{"THING": true}))
	settle(t, func() bool { return second.EventConfigurations().On("THING") }, func() string { return "the other does not hear of it" })
	must[*Thing](t)(first.CreateThing(ctx, CreateThing{Name: "a"}))
	must[*Thing](t)(second.CreateThing(ctx, CreateThing{Name: "b"}))
	settle(t, func() bool {
		return len(first.announcementKeys())+len(second.announcementKeys()) == 0 && len(one.all()) > 0 && len(two.all()) > 0
	}, func() string { return "not all is told" })
	if a, b := one.all(), two.all(); len(a) != 1 || a[0] != "$aws/events/thing/a/created" || len(b) != 1 || b[0] != "$aws/events/thing/b/created" {
		t.Fatal(a, b)
	}
}

func (r *Registry) announcementKeys() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.announcements.order.keys()
}
