package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
)

// sound reports what is half made in a registry.
func sound(r *Registry) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var bad []string
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	each := func(l *links, f func(left, right, value string)) {
		n := 0
		for left, o := range l.byLeft {
			o.after("", func(right string, v link) bool {
				n++
				if !l.byRight[right].has(left) {
					say("%s: %s to %s is known from one side", l.kind, left, right)
				}
				f(left, right, v.value)
				return true
			})
		}
		m := 0
		for _, o := range l.byRight {
			m += o.len()
		}
		if n != m {
			say("%s: %d from the left, %d from the right", l.kind, n, m)
		}
	}
	each(r.members, func(thing, group, id string) {
		if g := r.groups.rows[group].v; g == nil || g.ID != id || r.things.rows[thing].v == nil {
			say("thing %s is in group %s", thing, group)
		}
		if n := r.members.byLeft[thing].len(); n > r.limits.GroupsPerThing {
			say("thing %s is in %d groups", thing, n)
		}
	})
	each(r.principals, func(thing, cert, value string) {
		if r.things.rows[thing].v == nil || r.certificates.rows[cert].v == nil {
			say("thing %s has certificate %s", thing, cert)
		}
		if value == string(Exclusive) && r.principals.byRight[cert].len() > 1 {
			say("certificate %s is exclusive to several", cert)
		}
	})
	each(r.attachments, func(target, policy, _ string) {
		kind, name, _ := strings.Cut(target, "/")
		if r.policies.rows[policy].v == nil || kind == arnCertificate && r.certificates.rows[name].v == nil || kind == arnGroup && r.groups.rows[name].v == nil {
			say("policy %s is attached to %s", policy, target)
		}
		if n := r.attachments.byLeft[target].len(); n > r.limits.PoliciesPerTarget {
			say("%d policies are attached to %s", n, target)
		}
	})
	for name, row := range r.things.rows {
		if typ := row.v.Type; typ != "" && (r.types.rows[typ].v == nil || !r.thingsByType[typ].has(name)) {
			say("thing %s has type %s", name, typ)
		}
	}
	for name, row := range r.groups.rows {
		if p := row.v.Parent; p != "" && (r.groups.rows[p].v == nil || !r.children[p].has(name)) {
			say("group %s is in %s", name, p)
		}
	}
	for _, row := range r.domains.rows {
		if a := row.v.Authorizer; a != "" && r.authorizers.rows[a].v == nil {
			say("domain configuration %s has authorizer %s", row.v.Name, a)
		}
	}
	return bad
}

// dump returns all a registry holds, as it can be compared.
func dump(r *Registry) map[string]string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := map[string]string{}
	dumpTable(out, r.things)
	dumpTable(out, r.types)
	dumpTable(out, r.groups)
	dumpTable(out, r.certificates)
	dumpTable(out, r.policies)
	dumpTable(out, r.authorizers)
	dumpTable(out, r.domains)
	for _, l := range []*links{r.members, r.principals, r.attachments} {
		for left, o := range l.byLeft {
			o.after("", func(right string, v link) bool {
				out[l.key(left, right)] = fmt.Sprint(v.value, v.rev)
				return true
			})
		}
	}
	return out
}

func dumpTable[T any](out map[string]string, t *table[T]) {
	for name, row := range t.rows {
		b, _ := json.Marshal(row.v)
		out[t.prefix+"."+name] = fmt.Sprint(string(b), row.rev)
	}
	if n := t.order.len(); n != len(t.rows) {
		out["order of "+t.prefix] = fmt.Sprint(n, len(t.rows))
	}
}

// stir does a random change among few names. It fails only as it may.
func stir(ctx context.Context, r *Registry, rnd *rand.Rand, certs []string) error {
	thing := fmt.Sprint("t", rnd.IntN(6))
	group := fmt.Sprint("g", rnd.IntN(5))
	typ := fmt.Sprint("y", rnd.IntN(2))
	policy := fmt.Sprint("p.", rnd.IntN(4))
	cert := certs[rnd.IntN(len(certs))]
	target := r.CertificateARN(cert)
	if rnd.IntN(2) == 0 {
		target = r.GroupARN(group)
	}
	authorizer := fmt.Sprint("a", rnd.IntN(2))
	domain := fmt.Sprint("d", rnd.IntN(2))
	var err error
	switch rnd.IntN(24) {
	case 0, 1:
		in := CreateThing{Name: thing}
		if rnd.IntN(2) == 0 {
			in.Type = typ
		}
		_, err = r.CreateThing(ctx, in)
	case 2:
		err = r.DeleteThing(ctx, thing, 0)
	case 3, 4:
		parent := ""
		if n := rnd.IntN(8); n < 4 {
			parent = fmt.Sprint("g", n)
		}
		_, err = r.CreateGroup(ctx, CreateGroup{Name: group, Parent: parent})
	case 5:
		err = r.DeleteGroup(ctx, group, 0)
	case 6, 7, 8:
		err = r.AddToGroup(ctx, thing, group)
	case 9:
		err = r.RemoveFromGroup(ctx, thing, group)
	case 10, 11:
		_, err = r.CreatePolicy(ctx, policy, "{}", nil)
	case 12:
		err = r.DeletePolicy(ctx, policy)
	case 13, 14, 15:
		err = r.AttachPolicy(ctx, policy, target)
	case 16:
		err = r.DetachPolicy(ctx, policy, target)
	case 17, 18:
		err = r.AttachPrincipal(ctx, thing, cert, []PrincipalType{"", NonExclusive, Exclusive}[rnd.IntN(3)])
	case 19:
		err = r.DetachPrincipal(ctx, thing, cert)
	case 20:
		switch rnd.IntN(4) {
		case 0:
			_, err = r.CreateThingType(ctx, typ, ThingTypeProperties{}, nil)
		case 1:
			err = r.DeprecateThingType(ctx, typ, rnd.IntN(2) == 0)
		case 2:
			err = r.DeleteThingType(ctx, typ)
		case 3:
			_, err = r.UpdateThing(ctx, UpdateThing{Name: thing, RemoveType: true})
		}
	case 21:
		err = r.DeleteCertificate(ctx, cert, rnd.IntN(2) == 0)
	case 22:
		switch rnd.IntN(4) {
		case 0:
			_, err = r.CreateAuthorizer(ctx, CreateAuthorizer{Name: authorizer, Function: "f", SigningDisabled: true})
		case 1:
			err = r.DeleteAuthorizer(ctx, authorizer)
		case 2:
			_, err = r.CreateDomainConfiguration(ctx, DomainConfiguration{Name: domain, Authorizer: authorizer})
		case 3:
			_, err = r.UpdateDomainConfiguration(ctx, UpdateDomain{Name: domain, Enabled: new(bool), RemoveAuthorizer: true})
		}
	case 23: // several at once
		err = r.Change(ctx, "test", func(tx *Tx) error {
			if _, err := tx.CreateThing(CreateThing{Name: thing}); err != nil {
				return err
			}
			return errors.Join(tx.AttachPrincipal(thing, cert, ""), tx.AttachPolicy(policy, target))
		})
	}
	switch CodeOf(err) {
	case "":
		return err
	}
	return nil
}

func TestNothingIsHalfMade(t *testing.T) {
	b, _ := store(t, eventlog.Options{Durability: eventlog.Memory})
	set := func(o *Options) {
		o.Limits = AWS()
		o.Limits.TypeDeleteWait = 0
		o.Limits.GroupsPerThing = 2
		o.Limits.PoliciesPerTarget = 2
	}
	// Two registries on one bucket are two processes.
	one, _ := open(t, b, set)
	two, _ := open(t, b, set)
	var certs []string
	for range 4 {
		c, _, err := one.CreateKeysAndCertificate(t.Context(), CreateKeys{Type: ECDSAP256})
		ok(t, err)
		certs = append(certs, c.ID)
	}
	var wg sync.WaitGroup
	for w := range 32 {
		r := one
		if w%4 == 0 {
			r = two
		}
		rnd := rand.New(rand.NewPCG(uint64(w), 7))
		wg.Go(func() {
			for i := 0; i < 60 && !t.Failed(); i++ {
				if err := stir(t.Context(), r, rnd, certs); err != nil {
					t.Errorf("%s: %v", errs.KindOf(err), err)
					return
				}
				if bad := sound(one); r == one && len(bad) > 0 {
					// Half of another process's batch may have come by.
					settle(t, func() bool { bad = sound(one); return len(bad) == 0 }, func() string { return strings.Join(bad, "\n") })
				}
			}
		})
	}
	wg.Wait()
	for _, r := range []*Registry{one, two} {
		if bad := sound(r); len(bad) > 0 {
			settle(t, func() bool { bad = sound(r); return len(bad) == 0 }, func() string { return strings.Join(bad, "\n") })
		}
	}
	settle(t, func() bool { return maps.Equal(dump(one), dump(two)) }, func() string { return diff(dump(one), dump(two)) })
	// What a third process reads anew is the same; keys of memberships that ended
	// with their group are cleared.
	three, _ := open(t, b, set)
	settle(t, func() bool { return maps.Equal(dump(one), dump(three)) }, func() string { return diff(dump(one), dump(three)) })
	settle(t, func() bool { return len(strays(t, b, one)) == 0 }, func() string { return strings.Join(strays(t, b, one), "\n") })
	one.mu.RLock()
	defer one.mu.RUnlock()
	if n := len(one.stale); n > 0 {
		t.Errorf("%d stale", n)
	}
}

// strays returns the membership keys of the bucket that the registry does not
// have.
func strays(t *testing.T, b *kv.Bucket, r *Registry) []string {
	var keys []string
	ok(t, b.Scan(t.Context(), "member.", func(e kv.Entry) error {
		left, right, _ := strings.Cut(strings.TrimPrefix(e.Key, "member."), ".")
		r.mu.RLock()
		defer r.mu.RUnlock()
		if _, ok := r.members.get(left, right); !ok {
			keys = append(keys, e.Key)
		}
		return nil
	}))
	return keys
}

func diff(a, b map[string]string) string {
	var out []string
	for k, v := range a {
		if b[k] != v {
			out = append(out, k+": "+v+" / "+b[k])
		}
	}
	for k, v := range b {
		if _, ok := a[k]; !ok {
			out = append(out, k+": - / "+v)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func settle(t *testing.T, done func() bool, why func() string) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(end) {
			t.Errorf("not settled:\n%s", why())
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
