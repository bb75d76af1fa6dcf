package policy

import "slices"

// Trial is the answer to a Request in the words of TestAuthorization.
type Trial struct {
	Decision string   // "ALLOWED", "EXPLICIT_DENY", "IMPLICIT_DENY"
	Allowing []string // names of the policies that allow it, in order
	Denying  []string // names of the policies that deny it
	Missing  []string // variables of the statements looked at that have no value
}

// Try answers r as Decide does, and tells of every policy that has a say.
// Source: AWS IoT API, TestAuthorization.
func (s *Set) Try(r *Request) *Trial {
	t := &Trial{Decision: "IMPLICIT_DENY"}
	for _, rule := range s.all {
		if !rule.action(r.Action.lower) {
			continue
		}
		for _, v := range rule.variables(r) {
			if v.Missing && !slices.Contains(t.Missing, v.Name) {
				t.Missing = append(t.Missing, v.Name)
			}
		}
		if !rule.applies(r) {
			continue
		}
		name, list := s.sources[rule.source].Name, &t.Allowing
		if rule.Effect == Deny {
			list = &t.Denying
		}
		if !slices.Contains(*list, name) {
			*list = append(*list, name)
		}
	}
	switch {
	case len(t.Denying) > 0:
		t.Decision = "EXPLICIT_DENY"
	case len(t.Allowing) > 0:
		t.Decision = "ALLOWED"
	}
	return t
}
