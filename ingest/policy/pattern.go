package policy

import (
	"strings"
	"unicode/utf8"
)

// pattern is a text with wildcards and variables.
type pattern struct {
	tokens    []token
	variables int // how many of the tokens are
}

type tokenKind byte

const (
	literal  tokenKind = iota
	star               // any run of characters, the empty one too
	question           // one character
	variable           // the value of a key
)

type token struct {
	kind    tokenKind
	text    string // literal; of a variable: as written
	key     key
	instead *string // of a variable: the value where the key has none
}

// parsePattern reads a pattern; msg says what is wrong with it.
func parsePattern(s string, wildcards, variables bool) (p pattern, msg string) {
	var lit strings.Builder
	flush := func() {
		if lit.Len() > 0 {
			p.tokens = append(p.tokens, token{kind: literal, text: lit.String()})
			lit.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case wildcards && c == '*':
			flush()
			if n := len(p.tokens); n == 0 || p.tokens[n-1].kind != star {
				p.tokens = append(p.tokens, token{kind: star})
			}
		case wildcards && c == '?':
			flush()
			p.tokens = append(p.tokens, token{kind: question})
		case variables && c == '$' && i+1 < len(s) && s[i+1] == '{':
			end := strings.IndexByte(s[i:], '}')
			if end < 0 {
				return p, "a variable has no closing brace"
			}
			inner := s[i+2 : i+end]
			written := s[i : i+end+1]
			i += end
			switch inner {
			case "*", "?", "$":
				lit.WriteString(inner)
				continue
			}
			name, instead, hasInstead := strings.Cut(inner, ",")
			name = strings.TrimSpace(name)
			if name == "" || strings.ContainsAny(name, "${*?'\" ") || !strings.Contains(name, ":") {
				return p, written + " is no variable"
			}
			t := token{kind: variable, text: written, key: parseKey(name)}
			if hasInstead {
				v := strings.TrimSpace(instead)
				if len(v) < 2 || v[0] != '\'' || v[len(v)-1] != '\'' || strings.ContainsAny(v[1:len(v)-1], "'") {
					return p, "the default in " + written + " must be in single quotes"
				}
				v = v[1 : len(v)-1]
				t.instead = &v
			}
			flush()
			p.tokens = append(p.tokens, t)
			p.variables++
		default:
			lit.WriteByte(c)
		}
	}
	flush()
	return p, ""
}

// resolved reports whether every variable of p has a value.
func (p *pattern) resolved(r *Request) bool {
	if p.variables == 0 {
		return true
	}
	for i := range p.tokens {
		if t := &p.tokens[i]; t.kind == variable {
			if _, ok := t.value(r); !ok {
				return false
			}
		}
	}
	return true
}

// value returns the text a literal or a variable stands for.
func (t *token) value(r *Request) (string, bool) {
	if t.kind == literal {
		return t.text, true
	}
	if v, ok := t.key.substitute(r); ok {
		return v, true
	}
	if t.instead != nil {
		return *t.instead, true
	}
	return "", false
}

// match reports whether s is what p says. A pattern with a variable that has no
// value matches nothing.
func (p *pattern) match(s string, r *Request) bool {
	// Where it fails behind a star, the star takes one character more.
	back, from := -1, 0
	i, at := 0, 0
	for {
		if i == len(p.tokens) {
			if at == len(s) {
				return true
			}
		} else if t := &p.tokens[i]; t.kind == star {
			if i++; i == len(p.tokens) {
				return true
			}
			back, from = i, at
			continue
		} else if t.kind == question {
			if at < len(s) {
				at += width(s[at:])
				i++
				continue
			}
		} else {
			v, ok := t.text, true
			if t.kind == variable {
				if v, ok = t.value(r); !ok {
					return false
				}
			}
			if strings.HasPrefix(s[at:], v) {
				at += len(v)
				i++
				continue
			}
			if back == i { // right behind the star: go where it is next
				n := strings.Index(s[at:], v)
				if n < 0 {
					return false
				}
				from, at = at+n, at+n
				continue
			}
		}
		if back < 0 || from >= len(s) {
			return false
		}
		from += width(s[from:])
		i, at = back, from
	}
}

// width returns the bytes of the first character of s, which is not empty.
func width(s string) int {
	if s[0] < utf8.RuneSelf {
		return 1
	}
	_, n := utf8.DecodeRuneInString(s)
	return n
}

// text returns p with the values of its variables, and those without one as
// written.
func (p *pattern) text(r *Request) string {
	var b strings.Builder
	for i := range p.tokens {
		switch t := &p.tokens[i]; t.kind {
		case star:
			b.WriteByte('*')
		case question:
			b.WriteByte('?')
		default:
			if v, ok := t.value(r); ok {
				b.WriteString(v)
			} else {
				b.WriteString(t.text)
			}
		}
	}
	return b.String()
}

// whole reports that p is one star, which takes anything.
func (p *pattern) whole() bool { return len(p.tokens) == 1 && p.tokens[0].kind == star }

// equal compares s with p, which has no wildcards.
func (p *pattern) equal(s string, fold bool, r *Request) bool {
	if p.variables > 0 && !p.resolved(r) {
		return false
	}
	if fold {
		return strings.EqualFold(s, p.text(r))
	}
	for i := range p.tokens {
		v, _ := p.tokens[i].value(r)
		if !strings.HasPrefix(s, v) {
			return false
		}
		s = s[len(v):]
	}
	return s == ""
}
