package shadow

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// kind is what a value is. The zero value is no value at all.
type kind uint8

const (
	absent kind = iota
	null
	boolean
	number
	text
	array
	object
)

// value is a JSON value. Scalars keep the text they came with, so that numbers
// stay exact; members keep their order. Values are not changed once made.
type value struct {
	kind    kind
	raw     string // of a scalar: its JSON text, quotes included
	items   []value
	members []member // names differ
}

type member struct {
	name string // decoded
	val  value
}

// What is wrong with a text that parse refuses.
var (
	errSyntax = errors.New("not JSON")
	errUTF8   = errors.New("not UTF-8")
	errDeep   = errors.New("nested too deeply")
)

// maxNesting bounds recursion; documents are held to less.
const maxNesting = 64

// parse reads one JSON value that fills s. Of members with the same name the last
// one counts, in the place of the first.
func parse(s string) (value, error) {
	if !utf8.ValidString(s) {
		return value{}, errUTF8
	}
	p := parser{s: s}
	p.space()
	v, err := p.value(0)
	if err != nil {
		return value{}, err
	}
	p.space()
	if p.i != len(s) {
		return value{}, errSyntax
	}
	return v, nil
}

type parser struct {
	s string
	i int
}

func (p *parser) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\r', '\n':
			p.i++
		default:
			return
		}
	}
}

func (p *parser) value(depth int) (value, error) {
	if p.i >= len(p.s) {
		return value{}, errSyntax
	}
	switch c := p.s[p.i]; {
	case c == '{':
		return p.object(depth + 1)
	case c == '[':
		return p.array(depth + 1)
	case c == '"':
		raw, err := p.text()
		return value{kind: text, raw: raw}, err
	case c == '-' || c >= '0' && c <= '9':
		raw, ok := p.number()
		if !ok {
			return value{}, errSyntax
		}
		return value{kind: number, raw: raw}, nil
	}
	for _, w := range [...]struct {
		word string
		kind kind
	}{{"true", boolean}, {"false", boolean}, {"null", null}} {
		if strings.HasPrefix(p.s[p.i:], w.word) {
			p.i += len(w.word)
			return value{kind: w.kind, raw: w.word}, nil
		}
	}
	return value{}, errSyntax
}

func (p *parser) object(depth int) (value, error) {
	if depth > maxNesting {
		return value{}, errDeep
	}
	v := value{kind: object}
	var at map[string]int // where there are many members
	p.i++
	p.space()
	if p.i < len(p.s) && p.s[p.i] == '}' {
		p.i++
		return v, nil
	}
	for {
		if p.i >= len(p.s) || p.s[p.i] != '"' {
			return v, errSyntax
		}
		raw, err := p.text()
		if err != nil {
			return v, err
		}
		name := unquote(raw)
		p.space()
		if p.i >= len(p.s) || p.s[p.i] != ':' {
			return v, errSyntax
		}
		p.i++
		p.space()
		x, err := p.value(depth)
		if err != nil {
			return v, err
		}
		k := -1
		if at != nil {
			if i, ok := at[name]; ok {
				k = i
			}
		} else {
			k = v.find(name)
		}
		if k >= 0 {
			v.members[k].val = x
		} else {
			if v.members == nil {
				v.members = make([]member, 0, 4)
			}
			v.members = append(v.members, member{name, x})
			if at != nil {
				at[name] = len(v.members) - 1
			} else if len(v.members) == 16 {
				at = make(map[string]int, 64)
				for i := range v.members {
					at[v.members[i].name] = i
				}
			}
		}
		p.space()
		if p.i >= len(p.s) {
			return v, errSyntax
		}
		c := p.s[p.i]
		p.i++
		if c == '}' {
			return v, nil
		}
		if c != ',' {
			return v, errSyntax
		}
		p.space()
	}
}

func (p *parser) array(depth int) (value, error) {
	if depth > maxNesting {
		return value{}, errDeep
	}
	v := value{kind: array}
	p.i++
	p.space()
	if p.i < len(p.s) && p.s[p.i] == ']' {
		p.i++
		return v, nil
	}
	for {
		x, err := p.value(depth)
		if err != nil {
			return v, err
		}
		v.items = append(v.items, x)
		p.space()
		if p.i >= len(p.s) {
			return v, errSyntax
		}
		c := p.s[p.i]
		p.i++
		if c == ']' {
			return v, nil
		}
		if c != ',' {
			return v, errSyntax
		}
		p.space()
	}
}

// text reads a string and returns it as it is written.
func (p *parser) text() (string, error) {
	start := p.i
	p.i++
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == '"':
			p.i++
			return p.s[start:p.i], nil
		case c < ' ':
			return "", errSyntax
		case c == '\\':
			p.i++
			if p.i >= len(p.s) {
				return "", errSyntax
			}
			if p.s[p.i] == 'u' {
				if p.i+4 >= len(p.s) {
					return "", errSyntax
				}
				for _, h := range []byte(p.s[p.i+1 : p.i+5]) {
					if !(h >= '0' && h <= '9' || h >= 'a' && h <= 'f' || h >= 'A' && h <= 'F') {
						return "", errSyntax
					}
				}
				p.i += 4
			} else if strings.IndexByte(`"\/bfnrt`, p.s[p.i]) < 0 {
				return "", errSyntax
			}
			p.i++
		default:
			p.i++
		}
	}
	return "", errSyntax
}

func (p *parser) number() (string, bool) {
	start := p.i
	if p.s[p.i] == '-' {
		p.i++
	}
	first := p.i
	if p.digits() == 0 || p.s[first] == '0' && p.i-first > 1 {
		return "", false
	}
	if p.i < len(p.s) && p.s[p.i] == '.' {
		p.i++
		if p.digits() == 0 {
			return "", false
		}
	}
	if p.i < len(p.s) && p.s[p.i]|0x20 == 'e' {
		p.i++
		if p.i < len(p.s) && (p.s[p.i] == '+' || p.s[p.i] == '-') {
			p.i++
		}
		if p.digits() == 0 {
			return "", false
		}
	}
	return p.s[start:p.i], true
}

func (p *parser) digits() int {
	start := p.i
	for p.i < len(p.s) && p.s[p.i] >= '0' && p.s[p.i] <= '9' {
		p.i++
	}
	return p.i - start
}

// unquote returns what a JSON string stands for.
func unquote(raw string) string {
	if strings.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var s string
	if json.Unmarshal([]byte(raw), &s) != nil {
		return ""
	}
	return s
}

const hexDigits = "0123456789abcdef"

// appendQuoted appends s as a JSON string.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(b, s[from:]...), '"')
}

// append writes v without white space; nothing where it is absent.
func (v *value) append(b []byte) []byte {
	switch v.kind {
	case object:
		b = append(b, '{')
		for i := range v.members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendQuoted(b, v.members[i].name), ':')
			b = v.members[i].val.append(b)
		}
		return append(b, '}')
	case array:
		b = append(b, '[')
		for i := range v.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = v.items[i].append(b)
		}
		return append(b, ']')
	}
	return append(b, v.raw...)
}

func (v *value) String() string { return string(v.append(nil)) }

// find returns the index of a member, -1 where there is none.
func (v *value) find(name string) int {
	for i := range v.members {
		if v.members[i].name == name {
			return i
		}
	}
	return -1
}

// get returns a member; an absent value where there is none.
func (v *value) get(name string) value {
	if i := v.find(name); i >= 0 {
		return v.members[i].val
	}
	return value{}
}

// empty reports whether v is absent or an object without members.
func (v *value) empty() bool {
	return v.kind == absent || v.kind == object && len(v.members) == 0
}

// clone returns a copy that shares no memory with v that could be changed.
func (v *value) clone() value {
	c := value{kind: v.kind, raw: v.raw}
	if len(v.items) > 0 {
		c.items = make([]value, len(v.items))
		for i := range v.items {
			c.items[i] = v.items[i].clone()
		}
	}
	if len(v.members) > 0 {
		c.members = make([]member, len(v.members))
		for i := range v.members {
			c.members[i] = member{v.members[i].name, v.members[i].val.clone()}
		}
	}
	return c
}

// depth returns how many objects and arrays lie in one another, v included.
func (v *value) depth() int {
	if v.kind != object && v.kind != array {
		return 0
	}
	d := 0
	for i := range v.items {
		d = max(d, v.items[i].depth())
	}
	for i := range v.members {
		d = max(d, v.members[i].val.depth())
	}
	return d + 1
}

// nullInArray reports whether an array in v has a null item.
func (v *value) nullInArray() bool {
	for i := range v.items {
		if v.items[i].kind == null || v.items[i].nullInArray() {
			return true
		}
	}
	for i := range v.members {
		if v.members[i].val.nullInArray() {
			return true
		}
	}
	return false
}

// equal reports whether two values mean the same: the order of members, the
// notation of numbers and the escapes of strings do not count.
func equal(a, b *value) bool {
	if a.kind != b.kind {
		return false
	}
	switch a.kind {
	case number:
		return a.raw == b.raw || sameNumber(a.raw, b.raw)
	case text:
		return a.raw == b.raw ||
			(strings.IndexByte(a.raw, '\\') >= 0 || strings.IndexByte(b.raw, '\\') >= 0) && unquote(a.raw) == unquote(b.raw)
	case array:
		if len(a.items) != len(b.items) {
			return false
		}
		for i := range a.items {
			if !equal(&a.items[i], &b.items[i]) {
				return false
			}
		}
		return true
	case object:
		if len(a.members) != len(b.members) {
			return false
		}
		for i := range a.members {
			j := i
			if b.members[j].name != a.members[i].name {
				if j = b.find(a.members[i].name); j < 0 {
					return false
				}
			}
			if !equal(&a.members[i].val, &b.members[j].val) {
				return false
			}
		}
		return true
	}
	return a.raw == b.raw
}

// sameNumber compares two JSON numbers exactly.
func sameNumber(a, b string) bool {
	na, da, ea, oka := decimal(a)
	nb, db, eb, okb := decimal(b)
	return oka && okb && da == db && ea == eb && (na == nb || da == "")
}

// decimal takes a JSON number apart: sign, digits without zeros at either end,
// and the exponent of the last digit. ok is false beyond what is worth comparing.
func decimal(s string) (negative bool, digits string, exponent int, ok bool) {
	if s[0] == '-' {
		negative, s = true, s[1:]
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		e := strings.TrimPrefix(s[i+1:], "+")
		sign := 1
		if e[0] == '-' {
			sign, e = -1, e[1:]
		}
		e = strings.TrimLeft(e, "0")
		if len(e) > 9 {
			return false, "", 0, false
		}
		for _, c := range []byte(e) {
			exponent = exponent*10 + int(c-'0')
		}
		exponent *= sign
		s = s[:i]
	}
	if whole, fraction, point := strings.Cut(s, "."); point {
		s, exponent = whole+fraction, exponent-len(fraction)
	}
	s = strings.TrimLeft(s, "0")
	t := strings.TrimRight(s, "0")
	if t == "" {
		return false, "", 0, true
	}
	return negative, t, exponent + len(s) - len(t), true
}
