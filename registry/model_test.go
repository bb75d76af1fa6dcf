package registry

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/weir-iot/weir/internal/eventlog"
)

// model is a registry of things, groups and policies as simple as it can be.
type model struct {
	things   map[string]map[string]bool // thing to its groups
	groups   map[string]string          // group to its parent
	policies map[string]map[string]bool // policy to the groups it is attached to
}

func (m *model) root(g string) string {
	for m.groups[g] != "" {
		g = m.groups[g]
	}
	return g
}

func (m *model) depth(g string) int {
	n := 0
	for ; g != ""; g = m.groups[g] {
		n++
	}
	return n
}

func (m *model) has(g string) bool { _, ok := m.groups[g]; return ok }

// TestAgainstModel does random changes to a registry and to the model: both must
// take or refuse the same, and show the same.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		b, _ := store(t, eventlog.Options{Durability: eventlog.Memory})
		r, _ := open(t, b, func(o *Options) {
			o.Limits = AWS()
			o.Limits.GroupDepth = 3
			o.Limits.GroupsPerThing = 2
			o.Limits.PoliciesPerTarget = 2
		})
		m := &model{map[string]map[string]bool{}, map[string]string{}, map[string]map[string]bool{}}
		ctx := t.Context()
		for step := range 400 {
			th, g, p := fmt.Sprint("t", rnd.IntN(5)), fmt.Sprint("g", rnd.IntN(6)), fmt.Sprint("p", rnd.IntN(4))
			thing, policy := m.things[th], m.policies[p]
			var err error
			want := Code("")
			what := ""
			switch rnd.IntN(10) {
			case 0:
				what = "create " + th
				_, err = r.CreateThing(ctx, CreateThing{Name: th})
				if thing == nil {
					m.things[th] = map[string]bool{}
				}
			case 1:
				what = "delete " + th
				err = r.DeleteThing(ctx, th, 0)
				delete(m.things, th)
			case 2, 3:
				parent := ""
				if n := rnd.IntN(9); n < 6 {
					parent = fmt.Sprint("g", n)
				}
				what = "create " + g + " in " + parent
				_, err = r.CreateGroup(ctx, CreateGroup{Name: g, Parent: parent})
				switch {
				case m.has(g) && m.groups[g] != parent:
					want = Exists
				case m.has(g):
				case parent != "" && !m.has(parent):
					want = NotFound
				case m.depth(parent) >= 3:
					want = LimitExceeded
				default:
					m.groups[g] = parent
				}
			case 4:
				what = "delete " + g
				err = r.DeleteGroup(ctx, g, 0)
				if slices.Contains(slices.Collect(maps.Values(m.groups)), g) {
					want = InvalidRequest
					break
				}
				delete(m.groups, g)
				for _, in := range m.things {
					delete(in, g)
				}
				for _, on := range m.policies {
					delete(on, g)
				}
			case 5, 6:
				what = "add " + th + " to " + g
				err = r.AddToGroup(ctx, th, g)
				switch {
				case thing == nil || !m.has(g):
					want = NotFound
				case thing[g]:
				case len(thing) == 2:
					want = InvalidRequest
				default:
					for in := range thing {
						if m.root(in) == m.root(g) {
							want = InvalidRequest
						}
					}
					if want == "" {
						thing[g] = true
					}
				}
			case 7:
				what = "create " + p
				_, err = r.CreatePolicy(ctx, p, "{}", nil)
				if policy != nil {
					want = Exists
				} else {
					m.policies[p] = map[string]bool{}
				}
			case 8:
				what = "delete " + p
				err = r.DeletePolicy(ctx, p)
				switch {
				case policy == nil:
					want = NotFound
				case len(policy) > 0:
					want = DeleteConflict
				default:
					delete(m.policies, p)
				}
			case 9:
				what = "attach " + p + " to " + g
				err = r.AttachPolicy(ctx, p, r.GroupARN(g))
				on := 0
				for _, groups := range m.policies {
					if groups[g] {
						on++
					}
				}
				switch {
				case policy == nil || !m.has(g):
					want = NotFound
				case policy[g]:
				case on == 2:
					want = LimitExceeded
				default:
					policy[g] = true
				}
			}
			if got := CodeOf(err); got != want || (err != nil) != (want != "") {
				t.Fatalf("seed %d, step %d, %s: got %q (%v), expected %q", seed, step, what, got, err, want)
			}
			if got, want := shownBy(t, r), m.shown(); got != want {
				t.Fatalf("seed %d, step %d, %s:\n%s\nexpected\n%s", seed, step, what, got, want)
			}
		}
	}
}

func (m *model) shown() string {
	var out []string
	for th, groups := range m.things {
		var effective []string
		for g := range groups {
			for up := g; up != ""; up = m.groups[up] {
				for p, on := range m.policies {
					if on[up] && !slices.Contains(effective, p) {
						effective = append(effective, p)
					}
				}
			}
		}
		slices.Sort(effective)
		out = append(out, fmt.Sprint(th, slices.Sorted(maps.Keys(groups)), effective))
	}
	for g, parent := range m.groups {
		var in []string
		for th, groups := range m.things {
			for at := range groups {
				for up := at; up != ""; up = m.groups[up] {
					if up == g {
						in = append(in, th)
					}
				}
			}
		}
		slices.Sort(in)
		out = append(out, fmt.Sprint(g, " in ", parent, slices.Compact(in)))
	}
	for p, on := range m.policies {
		out = append(out, fmt.Sprint(p, slices.Sorted(maps.Keys(on))))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func shownBy(t *testing.T, r *Registry) string {
	t.Helper()
	var out []string
	things, _, err := r.Things(ThingFilter{}, Page{})
	ok(t, err)
	for _, th := range things {
		groups, _, err := r.GroupsOfThing(th.Name, Page{})
		ok(t, err)
		list, err := r.EffectivePolicies("", th.Name)
		ok(t, err)
		var effective []string
		for _, p := range list {
			effective = append(effective, p.Policy.Name)
		}
		slices.Sort(effective)
		out = append(out, fmt.Sprint(th.Name, groups, effective))
	}
	groups, _, err := r.Groups(GroupFilter{}, Page{})
	ok(t, err)
	for _, g := range groups {
		in, _, err := r.ThingsInGroup(g.Name, true, Page{})
		ok(t, err)
		out = append(out, fmt.Sprint(g.Name, " in ", g.Parent, in))
	}
	policies, _, err := r.Policies(true, Page{})
	ok(t, err)
	for _, p := range policies {
		targets, _, err := r.TargetsOf(p.Name, Page{})
		ok(t, err)
		for i := range targets {
			targets[i] = strings.TrimPrefix(targets[i], r.GroupARN(""))
		}
		out = append(out, fmt.Sprint(p.Name, targets))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
