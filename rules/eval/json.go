package eval

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"
)

// maxDepth is how deep JSON may be nested. A deeper document counts as one that
// is not JSON: it has no members.
const maxDepth = 64

// scan is one pass over a JSON text. It validates what it passes; nothing of it
// is kept but positions.
type scan struct {
	b     []byte
	messy bool      // what was passed is not the compact text it would be written as
	high  bool      // there is a byte above 0x7f somewhere
	refs  []ref     // the places of the members that a shape names
	memo  []memoKey // keys of the document before; nil: not remembered
	seen  int       // keys so far
}

// Classes of bytes.
const (
	isSpace  = 1 << iota // white space between tokens
	isString             // stands for itself in a string, ASCII
)

var class = func() (t [256]uint8) {
	for c := 0x20; c < 0x80; c++ {
		if c != '"' && c != '\\' {
			t[c] = isString
		}
	}
	for _, c := range []byte(" \t\r\n") {
		t[c] |= isSpace
	}
	return t
}()

// space returns the next position from i that is no white space.
func (s *scan) space(i int) int {
	b := s.b
	if uint(i) < uint(len(b)) && b[i] > ' ' {
		return i
	}
	for uint(i) < uint(len(b)) && class[b[i]]&isSpace != 0 {
		s.messy = true
		i++
	}
	return i
}

const (
	lows  = 0x0101010101010101
	highs = 0x8080808080808080
)

// str passes a string whose opening quote is before i. It returns the position
// after the closing one, or -1, and whether there are escapes in it.
func (s *scan) str(i int) (end int, escaped bool) {
	b := s.b
	for i+8 <= len(b) {
		k := stop(binary.LittleEndian.Uint64(b[i:]))
		if i += k; k == 8 {
			continue
		}
		if b[i] == '"' {
			return i + 1, false
		}
		break
	}
	return s.strSlow(i)
}

// stop returns the index of the first of the eight bytes of w that does not
// stand for itself in a string, or is beyond ASCII; 8 where all do.
func stop(w uint64) int {
	q, e := w^lows*'"', w^lows*'\\'
	// The lowest bit set is exact: borrows only reach above it.
	return bits.TrailingZeros64(((w-lows*' ')|(q-lows)|(e-lows)|w)&highs) >> 3
}

// strSlow is str from i on, where there is no more than the end of the text, or
// something that needs a look.
func (s *scan) strSlow(i int) (end int, escaped bool) {
	b := s.b
	for {
		for uint(i) < uint(len(b)) && class[b[i]]&isString != 0 {
			i++
		}
		if uint(i) >= uint(len(b)) {
			return -1, escaped
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1, escaped
		case c >= utf8.RuneSelf:
			s.high = true
			i++
		case c == '\\':
			escaped = true
			if i+1 >= len(b) {
				return -1, true
			}
			switch b[i+1] {
			case '"', '\\', 'b', 'f', 'n', 'r', 't':
				i += 2
			case '/':
				s.messy = true
				i += 2
			case 'u':
				if i+6 > len(b) || hex4(b[i+2:i+6]) < 0 {
					return -1, true
				}
				s.messy = true
				i += 6
			default:
				return -1, true
			}
		default:
			return -1, escaped
		}
	}
}

func hex4(b []byte) rune {
	var r rune
	for _, c := range b[:4] {
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// number passes a number that begins at i.
func (s *scan) number(i int) int {
	b := s.b
	start := i
	if b[i] == '-' {
		i++
		if uint(i) >= uint(len(b)) {
			return -1
		}
		if b[i] == '0' {
			s.messy = true
		}
	}
	first := b[i]
	if first-'0' > 9 {
		return -1
	}
	i++
	if first != '0' {
		for i+8 <= len(b) {
			w := binary.LittleEndian.Uint64(b[i:])
			if w&(lows*0xf0) != lows*'0' || (w+lows*6)&(lows*0xf0) != lows*'0' {
				break
			}
			i += 8
		}
		for uint(i) < uint(len(b)) && b[i]-'0' <= 9 {
			i++
		}
	}
	if uint(i) >= uint(len(b)) || numberEnd[b[i]] {
		if i-start > digits {
			s.messy = true
		}
		return i
	}
	if b[i] == '.' {
		i++
		at := i
		for uint(i) < uint(len(b)) && b[i]-'0' <= 9 {
			i++
		}
		if i == at {
			return -1
		}
		if b[i-1] == '0' {
			s.messy = true
		}
	}
	if uint(i) < uint(len(b)) && b[i]|0x20 == 'e' {
		s.messy = true
		i++
		if uint(i) < uint(len(b)) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		at := i
		for uint(i) < uint(len(b)) && b[i]-'0' <= 9 {
			i++
		}
		if i == at {
			return -1
		}
	}
	if i-start > digits {
		s.messy = true
	}
	return i
}

// numberEnd tells the bytes that end a number which is well so far.
var numberEnd = [256]bool{',': true, '}': true, ']': true, ' ': true, '\n': true, '\r': true, '\t': true}

func (s *scan) word(i int, w string) int {
	if len(s.b)-i >= len(w) && string(s.b[i:i+len(w)]) == w {
		return i + len(w)
	}
	return -1
}

// value passes the value that begins at i, at most depth levels deep, and
// returns where it ends, or -1.
func (s *scan) value(i, depth int) int {
	b := s.b
	if uint(i) >= uint(len(b)) {
		return -1
	}
	switch c := b[i]; c {
	case '"':
		i, _ = s.str(i + 1)
		return i
	case 't':
		return s.word(i, "true")
	case 'f':
		return s.word(i, "false")
	case 'n':
		return s.word(i, "null")
	case '{':
		return s.object(i, depth, nil)
	case '[':
		if depth == 0 {
			return -1
		}
		i = s.space(i + 1)
		if uint(i) < uint(len(b)) && b[i] == ']' {
			return i + 1
		}
		for {
			if i = s.value(i, depth-1); i < 0 {
				return -1
			}
			if i = s.space(i); uint(i) >= uint(len(b)) {
				return -1
			}
			if b[i] == ']' {
				return i + 1
			}
			if b[i] != ',' {
				return -1
			}
			i = s.space(i + 1)
		}
	}
	return s.number(i)
}

// ParseJSON returns a JSON text as a Value that shares text's memory. ok is
// false where text is not JSON, or is nested deeper than 64 levels.
func ParseJSON(text []byte, v Version) (x Value, ok bool) {
	s := scan{b: text}
	from := s.space(0)
	s.messy = false
	end := s.value(from, maxDepth)
	if end < 0 {
		return Value{}, false
	}
	messy := s.messy
	if s.space(end) != len(text) || s.high && !utf8.Valid(text) {
		return Value{}, false
	}
	return rawValue(text[from:end], messy, v), true
}

// rawValue returns the value of text, one validated JSON value without white
// space around it. A number out of range gives Undefined.
func rawValue(text []byte, messy bool, v Version) Value {
	switch text[0] {
	case '"':
		s := text[1 : len(text)-1]
		return StringValue(unescape(s))
	case 't':
		return BoolValue(true)
	case 'f':
		return BoolValue(false)
	case 'n':
		return NullValue
	case '{', '[':
		return rawComposite(text, messy, v)
	}
	x, _ := ParseNumber(bytesText(text), v)
	return x
}

func rawComposite(text []byte, messy bool, v Version) Value {
	x := Value{kind: Object, form: formRaw, s: bytesText(text)}
	if text[0] == '[' {
		x.kind = Array
	}
	if messy {
		x.form |= formMessy
	}
	if v == V2015 {
		x.form |= formOld
	}
	return x
}

// version returns the version a raw value was read under.
func (v Value) version() Version {
	if v.form&formOld != 0 {
		return V2015
	}
	return V2016
}

// bytesText returns b as a string without copying; b must not change.
func bytesText(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func textBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// unescape returns the text of a validated JSON string without its quotes; it
// shares s where there is no escape.
func unescape(s []byte) string {
	for i := range s {
		if s[i] == '\\' {
			return bytesText(appendUnescaped(make([]byte, 0, len(s)), s))
		}
	}
	return bytesText(s)
}

// appendUnescaped appends the text of a validated JSON string. A surrogate
// without its pair becomes U+FFFD.
func appendUnescaped(b, s []byte) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		if c != '\\' {
			b = append(b, c)
			i++
			continue
		}
		switch c = s[i+1]; c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r := hex4(s[i+2:])
			i += 6
			if utf16.IsSurrogate(r) {
				low := rune(-1)
				if i+6 <= len(s) && s[i] == '\\' && s[i+1] == 'u' {
					low = hex4(s[i+2:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					i += 6
				}
			}
			b = utf8.AppendRune(b, r)
			continue
		}
		b = append(b, c)
		i += 2
	}
	return b
}

// appendRaw appends a raw Array or Object as it would be written.
func appendRaw(b []byte, v Value) []byte {
	if v.form&formMessy == 0 {
		return append(b, v.s...)
	}
	w := rewriter{scan: scan{b: textBytes(v.s)}, out: b, v: v.version()}
	w.value(0)
	return w.out
}

// rewriter writes validated JSON compactly: no white space, strings escaped
// only where they must be, numbers in plain notation.
type rewriter struct {
	scan
	out []byte
	v   Version
}

// value writes the value at i and returns where it ends. A number out of range
// stays as it is.
func (w *rewriter) value(i int) (end int) {
	switch c := w.b[i]; c {
	case '{', '[':
		w.out = append(w.out, c)
		for i = w.space(i + 1); w.b[i] != c+2; {
			if c == '{' {
				end, _ := w.str(i + 1)
				w.quoted(i, end)
				w.out = append(w.out, ':')
				i = w.space(w.space(end) + 1)
			}
			if i = w.space(w.value(i)); w.b[i] == ',' {
				w.out = append(w.out, ',')
				i = w.space(i + 1)
			}
		}
		w.out = append(w.out, c+2)
		return i + 1
	case '"':
		end, _ := w.str(i + 1)
		w.quoted(i, end)
		return end
	}
	end = w.scan.value(i, 0)
	if c := w.b[i]; c == '-' || c-'0' <= 9 {
		if x, ok := ParseNumber(bytesText(w.b[i:end]), w.v); ok {
			w.out = x.AppendJSON(w.out)
			return end
		}
	}
	w.out = append(w.out, w.b[i:end]...)
	return end
}

// quoted writes the string that stands, with its quotes, from i to end.
func (w *rewriter) quoted(i, end int) {
	w.out = appendQuoted(w.out, unescape(w.b[i+1:end-1]))
}

// cursor reads the items of a raw Array, or the members of a raw Object, one by
// one.
type cursor struct {
	s     scan
	at    int
	kind  Kind
	name  []byte // of a member, as it stands, without quotes
	text  []byte // of the value, as it stands
	messy bool   // see scan.messy
	ver   Version
}

func (v Value) cursor() cursor {
	c := cursor{s: scan{b: textBytes(v.s)}, kind: v.kind, ver: v.version()}
	c.at = c.s.space(1)
	return c
}

// next goes to the next item; false: there is none.
func (c *cursor) next() bool {
	i := c.at
	if c.s.b[i] == '}' || c.s.b[i] == ']' {
		return false
	}
	if c.kind == Object {
		end, _ := c.s.str(i + 1)
		c.name = c.s.b[i+1 : end-1]
		i = c.s.space(c.s.space(end) + 1)
	}
	c.s.messy = false
	end := c.s.value(i, maxDepth)
	c.text, c.messy = c.s.b[i:end], c.s.messy
	if i = c.s.space(end); c.s.b[i] == ',' {
		i = c.s.space(i + 1)
	}
	c.at = i
	return true
}

// value is the value the cursor stands at.
func (c *cursor) value() Value { return rawValue(c.text, c.messy, c.ver) }

// walk calls f for each item of a raw Array or member of a raw Object, in
// order, until f returns false. name is nil for an Array; it and text are as
// they stand in the JSON, name without its quotes.
func (v Value) walk(f func(name, text []byte, messy bool) bool) {
	for c := v.cursor(); c.next() && f(c.name, c.text, c.messy); {
	}
}

// Len returns the number of items of an Array or members of an Object.
func (v Value) Len() int {
	switch {
	case v.kind != Array && v.kind != Object:
		return 0
	case v.form&formRaw == 0:
		return len(v.p.items) + len(v.p.members)
	}
	n := 0
	v.walk(func(_, _ []byte, _ bool) bool { n++; return true })
	return n
}

// index returns item i of an Array, from 0; Undefined where there is none.
func (v Value) index(i int64) (x Value) {
	if v.kind != Array || i < 0 {
		return Value{}
	}
	if v.form&formRaw == 0 {
		if i < int64(len(v.p.items)) {
			return v.p.items[i]
		}
		return Value{}
	}
	v.walk(func(_, text []byte, messy bool) bool {
		if i == 0 {
			x = rawValue(text, messy, v.version())
			return false
		}
		i--
		return true
	})
	return x
}

// member returns the member of an Object with this name, the last one where it
// repeats; Undefined where there is none or v is no Object.
func (v Value) member(name string) (x Value) {
	if v.kind != Object {
		return Value{}
	}
	if v.form&formRaw == 0 {
		for i := len(v.p.members) - 1; i >= 0; i-- {
			if v.p.members[i].Name == name {
				return v.p.members[i].Value
			}
		}
		return Value{}
	}
	var found []byte
	var messyFound bool
	v.walk(func(n, text []byte, messy bool) bool {
		if nameIs(n, name) {
			found, messyFound = text, messy
		}
		return true
	})
	if found != nil {
		x = rawValue(found, messyFound, v.version())
	}
	return x
}

// nameIs reports whether raw, a member's name as it stands in JSON, is name.
func nameIs(raw []byte, name string) bool {
	if string(raw) == name {
		// An escaped spelling is longer than its text.
		for _, c := range raw {
			if c == '\\' {
				return unescape(raw) == name
			}
		}
		return true
	}
	if len(raw) <= len(name) {
		return false
	}
	for _, c := range raw {
		if c == '\\' {
			return unescape(raw) == name
		}
	}
	return false
}

// Index returns item i of an Array, from 0; Undefined where there is none.
func (c *Call) Index(v Value, i int64) Value {
	if v.form&formRaw != 0 && !c.m.again(len(v.s)) {
		return Value{}
	}
	return v.index(i)
}

// Member returns the member of an Object with this name, the last one where it
// repeats; Undefined where there is none or v is no Object.
func (c *Call) Member(v Value, name string) Value {
	if v.form&formRaw != 0 && !c.m.again(len(v.s)) {
		return Value{}
	}
	return v.member(name)
}

// Items returns the items of an Array. The slice must not be changed.
func (c *Call) Items(v Value) []Value {
	if v.kind != Array {
		return nil
	}
	if v.form&formRaw == 0 {
		return v.p.items
	}
	n := v.Len()
	if !c.m.again(2*len(v.s)) || !c.Charge(n*int(unsafe.Sizeof(v))) {
		return nil
	}
	items := make([]Value, 0, n)
	v.walk(func(_, text []byte, messy bool) bool {
		items = append(items, rawValue(text, messy, v.version()))
		return true
	})
	return items
}

// Members returns the members of an Object in order; names may repeat (the last
// one counts) and values may be Undefined (they are not there). The slice must
// not be changed.
func (c *Call) Members(v Value) []Member {
	if v.kind != Object {
		return nil
	}
	if v.form&formRaw == 0 {
		return v.p.members
	}
	n := v.Len()
	if !c.m.again(2*len(v.s)) || !c.Charge(n*int(unsafe.Sizeof(Member{}))) {
		return nil
	}
	members := make([]Member, 0, n)
	v.walk(func(name, text []byte, messy bool) bool {
		members = append(members, Member{unescape(name), rawValue(text, messy, v.version())})
		return true
	})
	return members
}
