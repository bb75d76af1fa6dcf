package policy

import (
	"strings"
	"time"
)

// Bound is what a Set says of one action on one connection: variables have their
// values, conditions are decided, and what is left compares names. It is
// immutable and safe for concurrent use.
type Bound struct {
	deny, allow matcher
	timed       []*rule // what rests on the time is asked each time

	action Action
	prefix string
	facts  *Facts
}

// Bind returns what s says of an action whose resources are prefix and a name:
// "arn:aws:iot:us-east-1:123456789012:topic/" and a topic.
func (s *Set) Bind(a Action, prefix string, f *Facts) *Bound {
	b := &Bound{action: a, prefix: prefix, facts: f}
	rules := s.all
	if a.id >= 0 {
		rules = s.by[a.id]
	}
	r := &Request{Action: a, Facts: f}
	for _, rule := range rules {
		if a.id < 0 && !rule.action(a.lower) {
			continue
		}
		c, holds, timed := rule.bind(r, prefix)
		switch {
		case timed:
			b.timed = append(b.timed, rule)
		case holds && rule.Effect == Deny:
			b.deny.add(c)
		case holds:
			b.allow.add(c)
		}
	}
	b.deny.index()
	b.allow.index()
	return b
}

// Allows answers as Decide does for prefix and name. now is called where an
// answer rests on the time.
func (b *Bound) Allows(name string, now func() time.Time) bool {
	if b.deny.match(name) {
		return false
	}
	allowed := b.allow.match(name)
	if len(b.timed) == 0 {
		return allowed
	}
	r := Request{Action: b.action, Resource: b.prefix + name, Facts: b.facts, Now: now()}
	for _, rule := range b.timed { // denials first
		if rule.Effect == Allow && allowed {
			break
		}
		if rule.applies(&r) {
			return rule.Effect == Allow
		}
	}
	return allowed
}

// fewTries is how many patterns are compared as fast as an answer is remembered.
const fewTries = 16

// Quick reports that asking costs less than remembering the answers.
func (b *Bound) Quick() bool { return len(b.timed) == 0 && b.deny.tries()+b.allow.tries() <= fewTries }

// Timed reports that an answer may change by itself.
func (b *Bound) Timed() bool { return len(b.timed) > 0 }

// bind resolves all of a statement about the action of q but the resource's
// name. holds is false where it never applies; timed tells that it cannot be
// resolved, for it rests on the time.
func (r *rule) bind(q *Request, prefix string) (c clause, holds, timed bool) {
	for i := range r.tests {
		q.volatile = false
		ok, unsure := r.tests[i].holds(q)
		switch {
		case q.volatile:
			timed = true
		case !ok, unsure && r.tests[i].not && r.Effect == Allow:
			return c, false, false
		}
	}
	c.not = r.NotRes
	q.volatile = false
	for i := range r.resources {
		p, ok := r.resources[i].resolve(q)
		if ok {
			c.names = p.behind(prefix, c.names)
		} else if r.NotRes && r.Effect == Allow && !q.volatile {
			return c, false, false // see applies
		}
	}
	return c, true, timed || q.volatile
}

// resolve returns p with the values of its variables; ok is false where one has
// none.
func (p *pattern) resolve(q *Request) (_ pattern, ok bool) {
	if p.variables == 0 {
		return *p, true
	}
	var out pattern
	for i := range p.tokens {
		t := p.tokens[i]
		if t.kind == variable {
			if t.text, ok = t.value(q); !ok {
				return out, false
			}
			t = token{kind: literal, text: t.text}
		}
		if last := len(out.tokens) - 1; t.kind == literal && last >= 0 && out.tokens[last].kind == literal {
			out.tokens[last].text += t.text
			continue
		}
		out.tokens = append(out.tokens, t)
	}
	return out, true
}

// behind adds to names what must follow prefix, which is ASCII, for p to match:
// one pattern for each place in p that prefix can come to. p has no variables.
func (p pattern) behind(prefix string, names []name) []name {
	if t := p.tokens; len(t) > 0 && t[0].kind == literal && len(t[0].text) >= len(prefix) {
		if !strings.HasPrefix(t[0].text, prefix) {
			return names
		}
		return append(names, nameOf(t[0].text[len(prefix):], t[1:]))
	}
	type place struct{ token, at int } // at: in a literal
	reach := func(set []place, at place) []place {
		for {
			if at.token < len(p.tokens) && p.tokens[at.token].kind == literal && at.at == len(p.tokens[at.token].text) {
				at = place{at.token + 1, 0}
			}
			for _, known := range set {
				if known == at {
					return set
				}
			}
			set = append(set, at)
			if at.token == len(p.tokens) || p.tokens[at.token].kind != star {
				return set
			}
			at = place{at.token + 1, 0} // the star may be empty
		}
	}
	places := reach(nil, place{})
	for i := range len(prefix) {
		var next []place
		for _, at := range places {
			if at.token == len(p.tokens) {
				continue
			}
			switch t := &p.tokens[at.token]; {
			case t.kind == star:
				next = reach(next, at)
			case t.kind == question, t.text[at.at] == prefix[i]:
				step := place{at.token + 1, 0}
				if t.kind == literal {
					step = place{at.token, at.at + 1}
				}
				next = reach(next, step)
			}
		}
		places = next
	}
	for _, at := range places {
		rest := p.tokens[at.token:]
		if len(rest) > 0 && rest[0].kind == literal {
			names = append(names, nameOf(rest[0].text[at.at:], rest[1:]))
		} else {
			names = append(names, nameOf("", rest))
		}
	}
	return names
}

// name is a pattern of names: a literal, and what follows it.
type name struct {
	head string
	any  bool // anything follows
	rest pattern
}

func nameOf(head string, rest []token) name {
	n := name{head: head, rest: pattern{tokens: rest}}
	if n.rest.whole() {
		n.any, n.rest.tokens = true, nil
	}
	return n
}

func (n *name) match(s string) bool {
	if !strings.HasPrefix(s, n.head) {
		return false
	}
	switch {
	case n.any:
		return true
	case len(n.rest.tokens) == 0:
		return len(s) == len(n.head)
	}
	return n.rest.match(s[len(n.head):], nil)
}

// level returns the first level of all names that match; ok is false where they
// may differ in it.
func (n *name) level() (_ string, ok bool) {
	if i := strings.IndexByte(n.head, '/'); i >= 0 {
		return n.head[:i], true
	}
	return n.head, !n.any && len(n.rest.tokens) == 0
}

// clause is one statement: it is about these names, or about all others.
type clause struct {
	names []name
	not   bool
}

// matcher tells the names some statement is about.
type matcher struct {
	names   []name
	but     []clause          // statements about all names but some
	levels  map[string][]name // by first level; nil where there are few
	longest int               // of levels
}

func (m *matcher) add(c clause) {
	if c.not {
		m.but = append(m.but, c)
		return
	}
	m.names = append(m.names, c.names...)
}

// index takes what it can by its first level.
func (m *matcher) index() {
	if len(m.names) <= fewTries/4 {
		return
	}
	m.levels = map[string][]name{}
	rest := m.names[:0:0]
	for _, n := range m.names {
		level, ok := n.level()
		if !ok {
			rest = append(rest, n)
			continue
		}
		m.levels[level] = append(m.levels[level], n)
		m.longest = max(m.longest, len(m.levels[level]))
	}
	m.names = rest
}

// tries returns how many patterns a question compares at most.
func (m *matcher) tries() int {
	n := len(m.names) + m.longest
	for i := range m.but {
		n += len(m.but[i].names)
	}
	return n
}

func (m *matcher) match(s string) bool {
	if m.levels != nil {
		level := s
		if i := strings.IndexByte(s, '/'); i >= 0 {
			level = s[:i]
		}
		if matchAny(m.levels[level], s) {
			return true
		}
	}
	if matchAny(m.names, s) {
		return true
	}
	for i := range m.but {
		if !matchAny(m.but[i].names, s) {
			return true
		}
	}
	return false
}

func matchAny(names []name, s string) bool {
	for i := range names {
		if names[i].match(s) {
			return true
		}
	}
	return false
}
