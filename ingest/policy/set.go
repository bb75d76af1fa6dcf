package policy

import (
	"fmt"
	"strings"
)

// Action is an action of a service, such as iot:Publish.
type Action struct {
	name, lower string
	id          int // in actionNames; -1: another
}

// actionNames are the actions devices ask for; a Set finds the statements for
// them at once.
var actionNames = [...]string{
	"iot:Connect", "iot:Publish", "iot:RetainPublish", "iot:Subscribe", "iot:Receive",
	"iot:GetRetainedMessage", "iot:ListRetainedMessages",
	"iot:GetThingShadow", "iot:UpdateThingShadow", "iot:DeleteThingShadow", "iot:ListNamedShadowsForThing",
	"iot:DescribeJobExecution", "iot:GetPendingJobExecutions", "iot:UpdateJobExecution", "iot:StartNextPendingJobExecution",
	"iot:AssumeRoleWithCertificate",
}

const connectID = 0

// lowerNames are the actionNames in lower case, actionIDs their places.
var (
	lowerNames [len(actionNames)]string
	actionIDs  = func() map[string]int {
		m := map[string]int{}
		for i, n := range actionNames {
			lowerNames[i] = strings.ToLower(n)
			m[lowerNames[i]] = i
		}
		return m
	}()
)

// ActionOf returns the action called name, with its service: "iot:Publish".
// Upper and lower case are the same.
func ActionOf(name string) Action {
	lower := strings.ToLower(name)
	if id, ok := actionIDs[lower]; ok {
		return Action{actionNames[id], lower, id}
	}
	return Action{name, lower, -1}
}

func (a Action) String() string { return a.name }

// Source is a document with the name it goes by.
type Source struct {
	Name     string
	Document *Document
}

// Set is all that holds for a principal. It is immutable and safe for concurrent
// use.
type Set struct {
	sources []Source
	all     []*rule // denials first
	by      [len(actionNames)][]*rule
}

// rule is a statement in its place.
type rule struct {
	*Statement
	source, index int
}

// Compile joins documents. Their order does not matter for what is allowed.
func Compile(sources ...Source) *Set {
	s := &Set{sources: sources}
	for _, effect := range []Effect{Deny, Allow} {
		for i, src := range sources {
			for j := range src.Document.Statements {
				st := &src.Document.Statements[j]
				if st.Effect != effect {
					continue
				}
				r := &rule{st, i, j}
				s.all = append(s.all, r)
				for id, name := range lowerNames {
					if r.action(name) {
						s.by[id] = append(s.by[id], r)
					}
				}
			}
		}
	}
	return s
}

// action reports whether the rule is about an action, in lower case.
func (r *rule) action(lower string) bool {
	for i := range r.actions {
		if r.actions[i].match(lower, nil) {
			return !r.NotAction
		}
	}
	return r.NotAction
}

// Decision is the answer to a Request.
type Decision struct {
	Allowed bool
	Policy  int // the place in what Compile was given; -1: no statement decided
	// Statement is the place in the document, from 0; -1: no statement decided.
	Statement int
}

// Explicit reports that a statement denied.
func (d Decision) Explicit() bool { return !d.Allowed && d.Policy >= 0 }

// Decide answers r. One statement that denies decides the matter; without one
// that allows it is denied.
func (s *Set) Decide(r *Request) Decision {
	rules := s.all
	if r.Action.id >= 0 {
		rules = s.by[r.Action.id]
	}
	for _, rule := range rules {
		if r.Action.id < 0 && !rule.action(r.Action.lower) {
			continue
		}
		if rule.applies(r) {
			return Decision{rule.Effect == Allow, rule.source, rule.index}
		}
	}
	return Decision{false, -1, -1}
}

// applies reports whether a statement about the action says anything of r. What
// a statement excepts (NotResource, a negated condition) is not excepted where
// it rests on a variable without a value: such a statement never allows.
func (r *rule) applies(q *Request) bool {
	ok, unsure := r.resource(q)
	if !ok || unsure && r.Effect == Allow {
		return false
	}
	for i := range r.tests {
		ok, unsure := r.tests[i].holds(q)
		if !ok || unsure && r.tests[i].not && r.Effect == Allow {
			return false
		}
	}
	return true
}

// resource reports whether the statement is about the resource of q.
func (r *rule) resource(q *Request) (ok, unsure bool) {
	for i := range r.resources {
		p := &r.resources[i]
		if p.whole() || p.match(q.Resource, q) {
			return !r.NotRes, false
		}
		if r.NotRes && !p.resolved(q) {
			unsure = true
		}
	}
	return r.NotRes, unsure
}

// Names returns the names of the policies, in the order Compile got them.
func (s *Set) Names() []string {
	out := make([]string, len(s.sources))
	for i, src := range s.sources {
		out[i] = src.Name
	}
	return out
}

// Text says in words what decided, for a log.
func (s *Set) Text(d Decision) string {
	switch {
	case len(s.sources) == 0:
		return "the principal has no policy"
	case d.Policy < 0:
		return "no statement allows it"
	}
	verb := "denies"
	if d.Allowed {
		verb = "allows"
	}
	return fmt.Sprintf("%s %s it", s.statement(d.Policy, d.Statement), verb)
}

// statement names a statement.
func (s *Set) statement(source, index int) string {
	st := &s.sources[source].Document.Statements[index]
	name := fmt.Sprintf("statement %d", index+1)
	if st.Sid != "" {
		name += " (" + st.Sid + ")"
	}
	return fmt.Sprintf("%s of policy %s", name, s.sources[source].Name)
}
