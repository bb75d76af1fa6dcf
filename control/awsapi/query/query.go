// Package query reads and answers queries in the syntax of AWS IoT fleet
// indexing, such as `attributes.site:a* AND shadow.reported.battery < 20`.
//
// It has no part in a message's way: SearchIndex and the aggregations ask it of
// each thing. Parse finds every mistake, with its place; a Query is immutable.
//
// Source: AWS IoT Core developer guide, "Query syntax", "Example thing queries".
package query

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of a query. The number of terms is that of AWS.
const (
	MaxTerms  = 7
	MaxLength = 1000 // characters
	maxDepth  = 16
)

// Error is a mistake in a query.
type Error struct {
	At  int // character, from 1
	Msg string
}

func (e *Error) Error() string { return fmt.Sprintf("%d: %s", e.At, e.Msg) }

// Value is one value of a field.
type Value struct {
	Text     string
	Number   float64
	IsNumber bool
}

// Text returns the value of a text; one that reads as a number is one too.
func Text(s string) Value {
	n, err := strconv.ParseFloat(s, 64)
	return Value{s, n, err == nil && plain(s)}
}

// plain reports whether s has the characters of a decimal number: ParseFloat
// also reads "inf", "nan" and "0x1p-2".
func plain(s string) bool { return s != "" && strings.Trim(s, "0123456789+-.eE") == "" }

// Document is what is asked: the values of each field, by its path with dots.
type Document map[string][]Value

// Add adds a value to a field.
func (d Document) Add(field string, v Value) { d[field] = append(d[field], v) }

// Query is a parsed query. It may be used by several goroutines.
type Query struct{ root node }

// Match reports whether d is what the query asks for.
func (q *Query) Match(d Document) bool { return q.root.match(d) }

type node interface{ match(Document) bool }

type (
	and struct{ of []node }
	or  struct{ of []node }
	not struct{ of node }
	all struct{}

	// term is a test of the values of a field; "" is any field.
	term struct {
		field string
		test  func(Value) bool
	}
)

func (n and) match(d Document) bool {
	for _, x := range n.of {
		if !x.match(d) {
			return false
		}
	}
	return true
}

func (n or) match(d Document) bool {
	for _, x := range n.of {
		if x.match(d) {
			return true
		}
	}
	return false
}

func (n not) match(d Document) bool { return !n.of.match(d) }
func (all) match(Document) bool     { return true }

func (n term) match(d Document) bool {
	if n.field != "" {
		return n.any(d[n.field])
	}
	for _, values := range d {
		if n.any(values) {
			return true
		}
	}
	return false
}

func (n term) any(values []Value) bool {
	for _, v := range values {
		if n.test(v) {
			return true
		}
	}
	return false
}

// Parse reads a query. The error is an *Error.
func Parse(src string) (*Query, error) {
	if n := utf8.RuneCountInString(src); n > MaxLength {
		return nil, &Error{MaxLength + 1, fmt.Sprintf("a query has at most %d characters, this one has %d", MaxLength, n)}
	}
	if !utf8.ValidString(src) {
		return nil, &Error{1, "the query is not UTF-8"}
	}
	p := &parser{src: src}
	p.next()
	root, err := p.or("")
	if err == nil && p.tok.kind != end {
		err = p.fail("expected AND, OR, NOT or the end, found %s", p.tok)
	}
	if err != nil {
		return nil, err
	}
	return &Query{root}, nil
}

type kind int

const (
	end kind = iota
	word
	phrase
	colon
	compare // < <= > >=
	open
	shut
	minus
	from  // [ or {
	to    // ] or }
	wrong // a text that does not end
)

type token struct {
	kind kind
	text string // of a word: with escapes, of a phrase: without
	at   int    // byte
}

func (t token) String() string {
	if t.kind == end {
		return "the end"
	}
	return strconv.Quote(t.text)
}

type parser struct {
	src   string
	pos   int
	tok   token
	terms int
	depth int
}

func (p *parser) fail(format string, args ...any) error {
	return &Error{1 + utf8.RuneCountInString(p.src[:p.tok.at]), fmt.Sprintf(format, args...)}
}

// next reads the next token.
func (p *parser) next() {
	for p.pos < len(p.src) {
		r, n := utf8.DecodeRuneInString(p.src[p.pos:])
		if !unicode.IsSpace(r) {
			break
		}
		p.pos += n
	}
	at := p.pos
	if at == len(p.src) {
		p.tok = token{end, "", at}
		return
	}
	one := func(k kind, n int) {
		p.tok = token{k, p.src[at : at+n], at}
		p.pos = at + n
	}
	switch c := p.src[at]; c {
	case ':':
		one(colon, 1)
	case '(':
		one(open, 1)
	case ')':
		one(shut, 1)
	case '[', '{':
		one(from, 1)
	case ']', '}':
		one(to, 1)
	case '<', '>':
		if at+1 < len(p.src) && p.src[at+1] == '=' {
			one(compare, 2)
			return
		}
		one(compare, 1)
	case '"':
		var b strings.Builder
		for i := at + 1; i < len(p.src); i++ {
			switch p.src[i] {
			case '"':
				p.tok, p.pos = token{phrase, b.String(), at}, i+1
				return
			case '\\':
				if i++; i == len(p.src) {
					continue
				}
			}
			b.WriteByte(p.src[i])
		}
		p.tok, p.pos = token{wrong, "a text without its closing quote", at}, len(p.src)
	default:
		if c == '-' && (at+1 == len(p.src) || p.src[at+1] < '0' || p.src[at+1] > '9') {
			one(minus, 1)
			return
		}
		i := at
		for i < len(p.src) {
			if p.src[i] == '\\' {
				i = min(i+2, len(p.src))
				continue
			}
			r, n := utf8.DecodeRuneInString(p.src[i:])
			if unicode.IsSpace(r) || strings.ContainsRune(`:()[]{}<>"`, r) {
				break
			}
			i += n
		}
		one(word, i-at)
	}
}

// or reads alternatives; field is what terms without one are of.
func (p *parser) or(field string) (node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail("the query is nested too deeply")
	}
	defer func() { p.depth-- }()
	first, err := p.and(field)
	if err != nil {
		return nil, err
	}
	of := []node{first}
	for p.tok.kind == word && p.tok.text == "OR" {
		p.next()
		n, err := p.and(field)
		if err != nil {
			return nil, err
		}
		of = append(of, n)
	}
	if len(of) == 1 {
		return first, nil
	}
	return or{of}, nil
}

func (p *parser) and(field string) (node, error) {
	first, err := p.unary(field)
	if err != nil {
		return nil, err
	}
	of := []node{first}
	for {
		switch {
		case p.tok.kind == end || p.tok.kind == shut || p.tok.kind == word && p.tok.text == "OR":
			if len(of) == 1 {
				return first, nil
			}
			return and{of}, nil
		case p.tok.kind == word && p.tok.text == "AND":
			p.next()
		}
		n, err := p.unary(field)
		if err != nil {
			return nil, err
		}
		of = append(of, n)
	}
}

func (p *parser) unary(field string) (node, error) {
	if p.tok.kind == minus || p.tok.kind == word && p.tok.text == "NOT" {
		if p.depth++; p.depth > maxDepth {
			return nil, p.fail("the query is nested too deeply")
		}
		defer func() { p.depth-- }()
		p.next()
		n, err := p.unary(field)
		return not{n}, err
	}
	return p.primary(field)
}

func (p *parser) primary(field string) (node, error) {
	switch p.tok.kind {
	case open:
		p.next()
		n, err := p.or(field)
		if err != nil {
			return nil, err
		}
		if p.tok.kind != shut {
			return nil, p.fail("expected ), found %s", p.tok)
		}
		p.next()
		return n, nil
	case word:
		if p.tok.text == "AND" || p.tok.text == "OR" {
			return nil, p.fail("expected a term, found %s", p.tok)
		}
		first := p.tok
		p.next()
		if p.tok.kind != colon && p.tok.kind != compare {
			return p.value(field, first)
		}
		if field != "" {
			return nil, p.fail("a field inside the group of a field")
		}
		name := unescape(first.text)
		if p.tok.kind == compare {
			return p.compare(name)
		}
		p.next()
		switch p.tok.kind {
		case open:
			return p.primary(name)
		case from:
			return p.span(name)
		case compare:
			return p.compare(name)
		case word, phrase:
			t := p.tok
			p.next()
			return p.value(name, t)
		}
		return nil, p.fail("expected a value of %s, found %s", name, p.tok)
	case phrase:
		t := p.tok
		p.next()
		return p.value(field, t)
	case from:
		if field != "" {
			return p.span(field)
		}
	case compare:
		if field != "" {
			return p.compare(field)
		}
	}
	return nil, p.fail("expected a term, found %s", p.tok)
}

func (p *parser) term(field string, test func(Value) bool) (node, error) {
	if p.terms++; p.terms > MaxTerms {
		return nil, p.fail("a query has at most %d terms", MaxTerms)
	}
	return term{field, test}, nil
}

// value reads a word with wildcards, or a phrase.
func (p *parser) value(field string, t token) (node, error) {
	if t.kind == phrase {
		want := strings.Fields(strings.ToLower(t.text))
		return p.term(field, func(v Value) bool { return contains(strings.Fields(strings.ToLower(v.Text)), want) })
	}
	if t.text == "*" {
		if field == "" {
			p.terms++
			return all{}, nil
		}
		return p.term(field, func(Value) bool { return true })
	}
	if t.text[0] == '*' || t.text[0] == '?' {
		return nil, &Error{1 + utf8.RuneCountInString(p.src[:t.at]), "a wildcard cannot lead a term"}
	}
	pattern, wild := compilePattern(strings.ToLower(t.text))
	if wild {
		return p.term(field, func(v Value) bool { return anyWord(v.Text, func(w string) bool { return like(pattern, w) }) })
	}
	want := Text(strings.ToLower(unescape(t.text)))
	return p.term(field, func(v Value) bool {
		return want.IsNumber && v.IsNumber && want.Number == v.Number || anyWord(v.Text, func(w string) bool { return w == want.Text })
	})
}

// anyWord asks of the whole of a text and of each of its words.
func anyWord(s string, f func(string) bool) bool {
	s = strings.ToLower(s)
	if f(s) {
		return true
	}
	for w := range strings.FieldsSeq(s) {
		if f(w) {
			return true
		}
	}
	return false
}

func contains(have, want []string) bool {
	for i := 0; i+len(want) <= len(have); i++ {
		same := true
		for j := range want {
			same = same && have[i+j] == want[j]
		}
		if same {
			return true
		}
	}
	return false
}

// compare reads an operator and the number or text behind it.
func (p *parser) compare(field string) (node, error) {
	op := p.tok.text
	p.next()
	bound, err := p.bound()
	if err != nil {
		return nil, err
	}
	test := map[string]func(int) bool{
		"<": func(c int) bool { return c < 0 }, "<=": func(c int) bool { return c <= 0 },
		">": func(c int) bool { return c > 0 }, ">=": func(c int) bool { return c >= 0 },
	}[op]
	return p.term(field, func(v Value) bool {
		c, ok := bound.compare(v)
		return ok && test(c)
	})
}

// bound is one end of a range.
type bound struct {
	Value
	open   bool // *: there is none
	quoted bool
}

// compare orders v against b; ok is false where they cannot be ordered.
func (b *bound) compare(v Value) (c int, ok bool) {
	if b.IsNumber && !b.quoted {
		switch {
		case !v.IsNumber:
			return 0, false
		case v.Number < b.Number:
			return -1, true
		case v.Number > b.Number:
			return 1, true
		}
		return 0, true
	}
	return strings.Compare(strings.ToLower(v.Text), strings.ToLower(b.Text)), true
}

func (p *parser) bound() (*bound, error) {
	t := p.tok
	switch t.kind {
	case word:
		p.next()
		if t.text == "*" {
			return &bound{open: true}, nil
		}
		return &bound{Value: Text(unescape(t.text))}, nil
	case phrase:
		p.next()
		return &bound{Value: Text(t.text), quoted: true}, nil
	}
	return nil, p.fail("expected a number or a text, found %s", t)
}

// span reads [a TO b], {a TO b} and mixed ones.
func (p *parser) span(field string) (node, error) {
	least := p.tok.text == "["
	p.next()
	lo, err := p.bound()
	if err != nil {
		return nil, err
	}
	if p.tok.kind != word || p.tok.text != "TO" {
		return nil, p.fail("expected TO, found %s", p.tok)
	}
	p.next()
	hi, err := p.bound()
	if err != nil {
		return nil, err
	}
	if p.tok.kind != to {
		return nil, p.fail("expected ] or }, found %s", p.tok)
	}
	most := p.tok.text == "]"
	p.next()
	return p.term(field, func(v Value) bool {
		if !lo.open {
			if c, ok := lo.compare(v); !ok || c < 0 || c == 0 && !least {
				return false
			}
		}
		if !hi.open {
			if c, ok := hi.compare(v); !ok || c > 0 || c == 0 && !most {
				return false
			}
		}
		return true
	})
}

func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// compilePattern reads the wildcards of a word: '*' any characters, '?' one.
func compilePattern(s string) (pattern []rune, wild bool) {
	const many, one = -1, -2
	rs := []rune(s)
	for i := 0; i < len(rs); i++ {
		switch r := rs[i]; {
		case r == '\\' && i+1 < len(rs):
			i++
			pattern = append(pattern, rs[i])
		case r == '*':
			pattern, wild = append(pattern, many), true
		case r == '?':
			pattern, wild = append(pattern, one), true
		default:
			pattern = append(pattern, r)
		}
	}
	return pattern, wild
}

// like reports whether s is as the pattern says, in time linear in both but for
// the number of wildcards.
func like(pattern []rune, s string) bool {
	const many, one = -1, -2
	rs := []rune(s)
	p, i, star, mark := 0, 0, -1, 0
	for i < len(rs) {
		switch {
		case p < len(pattern) && (pattern[p] == one || pattern[p] == rs[i]):
			p++
			i++
		case p < len(pattern) && pattern[p] == many:
			star, mark = p, i
			p++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == many {
		p++
	}
	return p == len(pattern)
}
