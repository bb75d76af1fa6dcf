package policy

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Explanation says why a Request is answered as it is.
type Explanation struct {
	Action   string `json:"action"`
	Resource string `json:"resource"`
	Allowed  bool   `json:"allowed"`
	Reason   string `json:"reason"` // one sentence
	// Decided is the statement that decided; nil: none did.
	Decided *Verdict `json:"decided,omitempty"`
	// Statements are those about the action, denials first.
	Statements []Verdict `json:"statements"`
	Others     int       `json:"otherStatements"` // statements about other actions
	// Smallest is the smallest statement that would allow it; "" where it is
	// allowed, or where no statement can because another denies.
	Smallest string   `json:"smallest,omitempty"`
	Policies []string `json:"policies"`
}

// Verdict says what one statement has to say of a Request.
type Verdict struct {
	Policy    string     `json:"policy"`
	Statement int        `json:"statement"` // from 1
	Sid       string     `json:"sid,omitempty"`
	Effect    string     `json:"effect"`
	Applies   bool       `json:"applies"`
	Why       string     `json:"why"`
	Variables []Variable `json:"variables,omitempty"`

	source, index int
}

// Variable is a variable of a statement and what it stands for.
type Variable struct {
	Name    string `json:"name"` // as written, without ${}
	Value   string `json:"value,omitempty"`
	Missing bool   `json:"missing,omitempty"` // it has no value
}

// Explain answers r as Decide does, and says why.
func (s *Set) Explain(r *Request) *Explanation {
	d := s.Decide(r)
	e := &Explanation{Action: r.Action.name, Resource: r.Resource, Allowed: d.Allowed, Reason: s.Text(d), Statements: []Verdict{}, Policies: s.Names()}
	for _, rule := range s.all {
		if !rule.action(r.Action.lower) {
			e.Others++
			continue
		}
		st := rule.Statement
		v := Verdict{
			Policy: s.sources[rule.source].Name, Statement: rule.index + 1, Sid: st.Sid, Effect: st.Effect.String(),
			Applies: rule.applies(r), Why: rule.why(r), Variables: rule.variables(r), source: rule.source, index: rule.index,
		}
		e.Statements = append(e.Statements, v)
	}
	for i := range e.Statements {
		if v := &e.Statements[i]; v.source == d.Policy && v.index == d.Statement {
			e.Decided = v
		}
	}
	if !d.Allowed && !d.Explicit() {
		e.Smallest = smallest(r)
	}
	return e
}

// smallest returns the smallest statement that allows r.
func smallest(r *Request) string {
	resource := strings.NewReplacer("*", "${*}", "?", "${?}", "$", "${$}").Replace(r.Resource)
	if r.Resource == "*" {
		resource = "*"
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(struct { // three strings
		Effect, Action, Resource string
	}{"Allow", r.Action.name, resource})
	return strings.TrimSpace(b.String())
}

// why says in words why the statement applies to q or not.
func (r *rule) why(q *Request) string {
	ok, unsure := r.resource(q)
	if !ok || unsure && r.Effect == Allow {
		if r.NotRes && !unsure {
			return "its NotResource excepts the resource"
		}
		if name, missing := r.missing(q); missing {
			return "${" + name + "} has no value here, so its resource matches nothing"
		}
		if len(r.resources) == 1 {
			return "its resource is " + r.resources[0].text(q)
		}
		return fmt.Sprintf("none of its %d resources is this one", len(r.resources))
	}
	for i := range r.tests {
		t := &r.tests[i]
		c := &r.Conditions[i]
		ok, unsure := t.holds(q)
		if ok && !(unsure && t.not && r.Effect == Allow) {
			continue
		}
		have := t.key.values(q)
		is := c.Key + " has no value here"
		if len(have) > 0 {
			is = fmt.Sprintf("%s is %s", c.Key, quoteAll(have))
		}
		return fmt.Sprintf("its condition %s is not met: %s, the policy names %s", c.Operator, is, quoteAll(c.Values))
	}
	return "action, resource and conditions are met"
}

// missing returns a variable of the resources that has no value.
func (r *rule) missing(q *Request) (name string, ok bool) {
	for _, v := range r.variables(q) {
		if v.Missing {
			return v.Name, true
		}
	}
	return "", false
}

func quoteAll(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = fmt.Sprintf("%q", s)
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

// variables returns the variables of the statement's resources.
func (r *rule) variables(q *Request) []Variable {
	var out []Variable
	seen := map[string]bool{}
	for i := range r.resources {
		for j := range r.resources[i].tokens {
			t := &r.resources[i].tokens[j]
			if t.kind != variable || seen[t.text] {
				continue
			}
			seen[t.text] = true
			v, ok := t.value(q)
			out = append(out, Variable{Name: strings.TrimSuffix(strings.TrimPrefix(t.text, "${"), "}"), Value: v, Missing: !ok})
		}
	}
	return out
}
