// Package graph tells how rules lead to rules: which republish actions reach
// which FROM, and where that closes a loop.
//
// A loop that every message must run through is refused when its last rule is
// stored; one that a WHERE or a template may leave is warned of. What slips
// through both is stopped by the engine's count of hops.
package graph

import (
	"slices"
	"strings"

	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/sql"
)

// Rule is what the graph needs of a rule.
type Rule struct {
	Name     string
	Disabled bool
	From     topic.Filter // empty: Basic Ingest only
	Where    bool         // it does not act on every message
	// Republish holds the topics of its republish actions, as written: a fixed
	// topic or a substitution template. OnError are those of its error action.
	Republish []string
	OnError   []string
}

// Edge says that a rule's republish action reaches another rule, or itself.
type Edge struct {
	From, To string
	// Certain: the topic is fixed and To's FROM takes it. Otherwise a template may
	// give such a topic, or only a failure leads there.
	Certain bool
}

// Edges returns who reaches whom, sorted; one edge for each pair.
func Edges(rules []Rule) []Edge {
	var out []Edge
	for i := range rules {
		for j := range rules {
			a, b := &rules[i], &rules[j]
			reached, certain := false, false
			for _, t := range a.Republish {
				r, c := reaches(t, b)
				reached, certain = reached || r, certain || c
			}
			for _, t := range a.OnError {
				r, _ := reaches(t, b)
				reached = reached || r
			}
			if reached {
				out = append(out, Edge{a.Name, b.Name, certain})
			}
		}
	}
	slices.SortFunc(out, func(a, b Edge) int {
		if c := strings.Compare(a.From, b.From); c != 0 {
			return c
		}
		return strings.Compare(a.To, b.To)
	})
	return out
}

// Loop is rules that lead to one another: the last leads to the first.
type Loop struct {
	Rules []string
	// Certain: every message that enters the loop stays in it. The engine stops it
	// after so many hops as it allows.
	Certain bool
}

// String returns the loop as people read it: a → b → a.
func (l Loop) String() string {
	return strings.Join(append(slices.Clone(l.Rules), l.Rules[0]), " → ")
}

// Loops returns the shortest loop through each rule that is in one, each once,
// those that are certain first. Disabled rules are in none.
func Loops(rules []Rule) []Loop {
	var out []Loop
	seen := map[string]bool{}
	for i := range rules {
		for _, certain := range []bool{true, false} {
			l, ok := through(rules, rules[i].Name, certain)
			if !ok {
				continue
			}
			key := slices.Clone(l.Rules)
			slices.Sort(key)
			if k := strings.Join(key, " "); !seen[k] {
				seen[k] = true
				out = append(out, l)
			}
			break
		}
	}
	slices.SortStableFunc(out, func(a, b Loop) int {
		switch {
		case a.Certain == b.Certain:
			return 0
		case a.Certain:
			return -1
		}
		return 1
	})
	return out
}

// Through returns the shortest loop through the rule of this name, one that is
// certain where there is one.
func Through(rules []Rule, name string) (Loop, bool) {
	if l, ok := through(rules, name, true); ok {
		return l, true
	}
	return through(rules, name, false)
}

func through(rules []Rule, name string, certain bool) (Loop, bool) {
	next := map[string][]string{}
	enabled := slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool { return r.Disabled || certain && r.Where })
	for _, e := range Edges(enabled) {
		if e.Certain || !certain {
			next[e.From] = append(next[e.From], e.To)
		}
	}
	// Breadth first: the first way back is the shortest.
	came := map[string]string{}
	for queue := []string{name}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		for _, to := range next[at] {
			if to == name {
				path := []string{at}
				for at != name {
					at = came[at]
					path = append(path, at)
				}
				slices.Reverse(path)
				return Loop{path, certain}, true
			}
			if _, ok := came[to]; !ok {
				came[to] = at
				queue = append(queue, to)
			}
		}
	}
	return Loop{}, false
}

// reaches reports whether a message republished to target may reach r, and
// whether it must.
func reaches(target string, r *Rule) (may, must bool) {
	// "$$" is how a template writes the "$" of a reserved topic.
	if rest, ok := strings.CutPrefix(target, "$$"); ok {
		target = "$" + rest
	}
	parts, err := sql.ParseTemplate(target)
	if err != nil {
		return false, false // such an action is refused anyway
	}
	var pattern []token
	fixed := true
	for _, p := range parts {
		if p.Expr != nil {
			fixed = false
			pattern = append(pattern, token{any: true})
			continue
		}
		pattern = append(pattern, chars(p.Text)...)
	}
	if fixed {
		n := topic.Name(target)
		if name, _, ok := n.Rule(); ok {
			return name == r.Name, name == r.Name
		}
		hit := r.From != "" && topic.Match(r.From, n, topic.AWS)
		return hit, hit
	}
	if meet(pattern, chars(topic.BasicIngest+r.Name), 0, 0, nil) {
		return true, false
	}
	return r.From != "" && meet(pattern, wanted(r.From), 0, 0, map[[2]int]bool{}), false
}

// token is one character, or any text, with or without a slash.
type token struct {
	c     byte
	any   bool // any text
	level bool // any text within a level
}

func chars(s string) []token {
	out := make([]token, len(s))
	for i := range s {
		out[i].c = s[i]
	}
	return out
}

func wanted(f topic.Filter) []token {
	var out []token
	for i, level := range strings.Split(string(f), "/") {
		if i > 0 {
			out = append(out, token{c: '/'})
		}
		switch level {
		case "+":
			out = append(out, token{level: true})
		case "#":
			out = append(out, token{any: true})
		default:
			out = append(out, chars(level)...)
		}
	}
	return out
}

// meet reports whether some text is in both patterns, from places i and j on.
// failed remembers the places from which there is none.
func meet(a, b []token, i, j int, failed map[[2]int]bool) bool {
	if i == len(a) && j == len(b) {
		return true
	}
	if failed[[2]int{i, j}] {
		return false
	}
	wild := func(list []token, k int) bool { return k < len(list) && (list[k].any || list[k].level) }
	takes := func(t token, c byte) bool { return t.any || t.level && c != '/' }
	ok := false
	switch {
	case wild(a, i) && meet(a, b, i+1, j, failed), wild(b, j) && meet(a, b, i, j+1, failed):
		ok = true
	case i == len(a) || j == len(b):
	case wild(a, i) && !wild(b, j):
		ok = takes(a[i], b[j].c) && meet(a, b, i, j+1, failed)
	case wild(b, j) && !wild(a, i):
		ok = takes(b[j], a[i].c) && meet(a, b, i+1, j, failed)
	case !wild(a, i):
		ok = a[i].c == b[j].c && meet(a, b, i+1, j+1, failed)
	}
	if !ok && failed != nil {
		failed[[2]int{i, j}] = true
	}
	return ok
}
