package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
)

// TestOnChangeTellsAll has two processes change a registry; both are told of
// each change, of a key in order, and what they are told is readable.
func TestOnChangeTellsAll(t *testing.T) {
	b, _ := store(t, eventlog.Options{Durability: eventlog.Memory})
	one, _ := open(t, b, nil)
	two, _ := open(t, b, nil)
	ctx := t.Context()
	var mu sync.Mutex
	told := map[*Registry][]Change{}
	for _, r := range []*Registry{one, two} {
		r.OnChange(func(c Change) {
			if c.Kind == KindThing && !c.Deleted {
				if _, err := r.Thing(c.Name); err != nil && !strings.HasPrefix(c.Name, "gone") {
					t.Errorf("told of %s: %v", c.Name, err)
				}
			}
			mu.Lock()
			told[r] = append(told[r], c)
			mu.Unlock()
		})
	}
	for i := range 20 {
		r := []*Registry{one, two}[i%2]
		must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: fmt.Sprint("t", i)}))
	}
	must[*Group](t)(one.CreateGroup(ctx, CreateGroup{Name: "g"}))
	c, _, err := one.CreateKeysAndCertificate(ctx, CreateKeys{})
	ok(t, err)
	must[*Policy](t)(one.CreatePolicy(ctx, "p.q", "{}", nil))
	// The other process sees them in its own time; a change there waits for it.
	settle(t, func() bool { _, err := two.Policy("p.q"); return err == nil }, func() string { return "no policy" })
	ok(t, two.AddToGroup(ctx, "t1", "g"))
	ok(t, two.AttachPrincipal(ctx, "t1", c.ID, ""))
	ok(t, two.AttachPolicy(ctx, "p.q", c.ID))
	ok(t, two.DetachPolicy(ctx, "p.q", c.ID))
	ok(t, two.SetLoggingOptions(ctx, LoggingOptions{}))
	want := []Change{
		{Kind: KindGroup, Name: "g"}, {Kind: KindCertificate, Name: c.ID}, {Kind: KindPolicy, Name: "p.q"}, {Kind: KindMember, Name: "t1", Other: "g"},
		{Kind: KindPrincipal, Name: "t1", Other: c.ID}, {Kind: KindAttachment, Name: "cert/" + c.ID, Other: "p.q", Deleted: true}, {Kind: KindSetting, Name: "logging"},
	}
	for _, r := range []*Registry{one, two} {
		got := func() []Change {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(told[r])
		}
		missing := func() []Change {
			var out []Change
			for _, w := range want {
				if !slices.ContainsFunc(got(), func(c Change) bool { c.Revision = 0; return c == w }) {
					out = append(out, w)
				}
			}
			return out
		}
		settle(t, func() bool { return len(missing()) == 0 }, func() string { return fmt.Sprint(missing()) })
		last := uint64(0)
		things := map[string]int{}
		for _, c := range got() {
			if c.Revision <= last {
				t.Errorf("revision %d after %d", c.Revision, last)
			}
			last = c.Revision
			if c.Kind == KindThing {
				things[c.Name]++
			}
			if c.Kind == "" {
				t.Errorf("%+v", c)
			}
		}
		if len(things) != 20 {
			t.Errorf("told of %d things", len(things))
		}
	}
}

// TestRestart reads all of a registry again.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	b, stop := store(t, eventlog.Options{Dir: dir})
	r, end := open(t, b, nil)
	ctx := t.Context()
	must[*ThingType](t)(r.CreateThingType(ctx, "y", ThingTypeProperties{Searchable: []string{"a"}}, map[string]string{"k": "v"}))
	must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: "a:b", Type: "y", Attributes: map[string]string{"a": "1"}}))
	must[*Group](t)(r.CreateGroup(ctx, CreateGroup{Name: "g"}))
	must[*Group](t)(r.CreateGroup(ctx, CreateGroup{Name: "gone"}))
	ok(t, r.AddToGroup(ctx, "a:b", "g"))
	ok(t, r.AddToGroup(ctx, "a:b", "gone"))
	ok(t, r.DeleteGroup(ctx, "gone", 0))
	must[*Policy](t)(r.CreatePolicy(ctx, "p.q=", "{}", nil))
	own := newCA(t, "ca")
	ca := must[*CACertificate](t)(r.RegisterCACertificate(ctx, RegisterCA{PEM: own.pem(), Mode: ModeSNIOnly, Active: true}))
	text, leaf := own.leaf(t, "d")
	c := must[*Certificate](t)(r.RegisterCertificate(ctx, RegisterCertificate{PEM: text, Status: Active}))
	ok(t, r.AttachPrincipal(ctx, "a:b", c.ID, Exclusive))
	ok(t, r.AttachPolicy(ctx, "p.q=", c.ID))
	ok(t, r.AttachPolicy(ctx, "p.q=", r.GroupARN("g")))
	k, secret, err := r.CreateAccessKey(ctx, "{}", "")
	ok(t, err)
	before := dump(r)
	end()
	stop()
	b, _ = store(t, eventlog.Options{Dir: dir})
	r, _ = open(t, b, nil)
	if d := diff(before, dump(r)); d != "" {
		t.Fatal(d)
	}
	if bad := sound(r); len(bad) > 0 {
		t.Fatal(bad)
	}
	if cr := must[*Credential](t)(r.Credential(k.ID, "")); cr.Secret != secret {
		t.Fatal("another secret")
	}
	if cas := r.CAsOf(leaf); len(cas) != 1 || cas[0].ID != ca.ID {
		t.Fatal(cas)
	}
	if list := must[[]EffectivePolicy](t)(r.EffectivePolicies(c.ID, "")); len(list) != 1 {
		t.Fatal(list)
	}
	if th := r.ThingOf(c.ID, "a:b"); th == nil || th.Type != "y" || th.Attributes["a"] != "1" {
		t.Fatal(th)
	}
	// And it can be changed on.
	must[*Thing](t)(r.UpdateThing(ctx, UpdateThing{Name: "a:b", ExpectedVersion: 1}))
	must[*Group](t)(r.CreateGroup(ctx, CreateGroup{Name: "gone"}))
	if list, _, err := r.ThingsInGroup("gone", false, Page{}); err != nil || len(list) > 0 {
		t.Fatal(list, err)
	}
}

// A change that names another record each time it runs comes to its end.
func TestChangeThatNeverIsTheSame(t *testing.T) {
	r := start(t, nil)
	ok(t, r.Change(t.Context(), "test", func(tx *Tx) error {
		_, err := tx.CreateThing(CreateThing{Name: newID()})
		return err
	}))
	if n := len(r.things.rows); n != 1 {
		t.Fatal(n)
	}
}

// What another process has changed is readable after CatchUp, and after Await of
// the revision it names.
func TestCatchUp(t *testing.T) {
	b, _ := store(t, eventlog.Options{Durability: eventlog.Memory})
	one, _ := open(t, b, nil)
	two, _ := open(t, b, nil)
	for i := range 50 {
		name := fmt.Sprint("t", i)
		must[*Thing](t)(one.CreateThing(t.Context(), CreateThing{Name: name}))
		if i%2 == 0 {
			ok(t, two.CatchUp(t.Context()))
		} else {
			ok(t, two.Await(t.Context(), one.Revision()))
		}
		if _, err := two.Thing(name); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := two.Await(ctx, one.Revision()+1); !errs.Is(err, errs.Timeout) {
		t.Error(err)
	}
}
