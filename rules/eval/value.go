package eval

import (
	"unicode/utf8"
	"unsafe"

	"github.com/cockroachdb/apd/v3"
)

// Version is a version of the rule language. Later ones have all the features
// of earlier ones.
type Version uint8

const (
	V2015 Version = iota // 2015-10-08
	V2016                // 2016-03-23
	Beta                 // beta
)

var versionText = [...]string{"2015-10-08", "2016-03-23", "beta"}

// String returns v as a rule document spells it.
func (v Version) String() string { return versionText[v] }

// ParseVersion reads a version as a rule document spells it; "" is V2015.
func ParseVersion(s string) (Version, bool) {
	for i, t := range versionText {
		if s == t {
			return Version(i), true
		}
	}
	return V2015, s == ""
}

// Kind is the type of a Value.
type Kind uint8

const (
	Undefined Kind = iota // a missing member, a failed conversion; never in JSON
	Null
	Bool
	Int     // whole, up to 34 digits
	Decimal // 34 significant digits
	String
	Array
	Object
)

var kindText = [...]string{"Undefined", "Null", "Boolean", "Int", "Decimal", "String", "Array", "Object"}

func (k Kind) String() string { return kindText[k] }

// Value is a value of the rule language. The zero Value is Undefined. A Value
// is immutable; those of one evaluation may share memory with the event's
// payload and with the Machine and are valid until it ends.
type Value struct {
	kind Kind
	form form
	exp  int32  // of a small number: it is n × 10^exp; 0 for an Int, never above 0
	n    int64  // Bool: 0 or 1; small number: its digits
	s    string // String: the text; raw Array or Object: its JSON; whole payload: its bytes
	p    *boxed // big number, built Array or Object
}

type form uint8

const (
	formRaw   form = 1 << iota // Array or Object held as validated JSON in s
	formMessy                  // raw, and not the compact text it would be written as
	formOld                    // raw, numbers in it follow V2015
	// The event's payload, unchanged. Where it is an Object or an Array, s is the
	// document, and n and exp count the bytes of white space before and after it;
	// otherwise the kind is Undefined and s is all of it.
	formPayload
)

type boxed struct {
	big     apd.Decimal
	items   []Value
	members []Member
}

// Member is one member of an Object.
type Member struct {
	Name  string
	Value Value
}

// NullValue is the one Null.
var NullValue = Value{kind: Null}

// BoolValue returns b as a Value.
func BoolValue(b bool) Value {
	if b {
		return Value{kind: Bool, n: 1}
	}
	return Value{kind: Bool}
}

// StringValue returns s as a Value. Bytes that are not UTF-8 are written as
// U+FFFD.
func StringValue(s string) Value { return Value{kind: String, s: s} }

// ArrayValue returns items as an Array and keeps the slice. An Undefined item
// is written as null, for the others must keep their places.
func ArrayValue(items []Value) Value { return Value{kind: Array, p: &boxed{items: items}} }

// ObjectValue returns members as an Object and keeps the slice. Members that
// are Undefined are not written; of several with one name the last counts.
func ObjectValue(members []Member) Value { return Value{kind: Object, p: &boxed{members: members}} }

// Kind returns v's type.
func (v Value) Kind() Kind { return v.kind }

// IsUndefined reports whether v is Undefined.
func (v Value) IsUndefined() bool { return v.kind == Undefined }

// IsNumber reports whether v is an Int or a Decimal.
func (v Value) IsNumber() bool { return v.kind == Int || v.kind == Decimal }

// True reports whether v is the Boolean true.
func (v Value) True() bool { return v.kind == Bool && v.n != 0 }

// Str returns the text of a String, "" for other kinds.
func (v Value) Str() string {
	if v.kind != String {
		return ""
	}
	return v.s
}

// PayloadBytes returns the bytes of the event's payload where v is *, as it
// came; ok is false for every other value. Such a v may be Undefined: the
// payload is not JSON then.
func (v Value) PayloadBytes() (b []byte, ok bool) {
	if v.form&formPayload == 0 {
		return nil, false
	}
	first := unsafe.Add(unsafe.Pointer(unsafe.StringData(v.s)), -int(v.n))
	return unsafe.Slice((*byte)(first), int(v.n)+len(v.s)+int(v.exp)), true
}

// ToStr converts v to a String: numbers in plain notation, Arrays and Objects
// as compact JSON; Null and Undefined give Undefined.
func (v Value) ToStr() Value {
	switch v.kind {
	case String:
		return v
	case Bool:
		if v.n != 0 {
			return StringValue("true")
		}
		return StringValue("false")
	case Int, Decimal:
		var small [64]byte
		return StringValue(string(v.appendNumber(small[:0], false)))
	case Array, Object:
		var small [64]byte
		return StringValue(string(v.AppendJSON(small[:0])))
	}
	return Value{}
}

// ToBool converts v to a Bool: a Bool, or a String that is true or false in any
// case; anything else gives Undefined.
func (v Value) ToBool() Value {
	switch v.kind {
	case Bool:
		return v
	case String:
		if len(v.s) == 4 && foldEqual(v.s, "true") {
			return BoolValue(true)
		}
		if len(v.s) == 5 && foldEqual(v.s, "false") {
			return BoolValue(false)
		}
	}
	return Value{}
}

// foldEqual reports whether s is lower, an ASCII text in lower case, in any
// case. Both have the same length.
func foldEqual(s, lower string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// String returns v as JSON, for people; Undefined is spelt out.
func (v Value) String() string {
	if v.kind == Undefined {
		return "Undefined"
	}
	return string(v.AppendJSON(nil))
}

// AppendJSON appends v as compact JSON; numbers with an exponent only where they
// are beyond 34 digits or far below one. Undefined appends nothing.
func (v Value) AppendJSON(b []byte) []byte {
	switch v.kind {
	case Null:
		return append(b, "null"...)
	case Bool:
		if v.n != 0 {
			return append(b, "true"...)
		}
		return append(b, "false"...)
	case Int, Decimal:
		return v.appendNumber(b, true)
	case String:
		return appendQuoted(b, v.s)
	case Array:
		if v.form&formRaw != 0 {
			return appendRaw(b, v)
		}
		b = append(b, '[')
		for i, x := range v.p.items {
			if i > 0 {
				b = append(b, ',')
			}
			if x.kind == Undefined {
				b = append(b, "null"...)
			} else {
				b = x.AppendJSON(b)
			}
		}
		return append(b, ']')
	case Object:
		if v.form&formRaw != 0 {
			return appendRaw(b, v)
		}
		return appendMembers(b, v.p.members)
	}
	return b
}

func appendMembers(b []byte, members []Member) []byte {
	b = append(b, '{')
	first := true
	for i := range members {
		if members[i].Value.kind == Undefined || repeated(members, i) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendQuoted(b, members[i].Name)
		b = append(b, ':')
		b = members[i].Value.AppendJSON(b)
	}
	return append(b, '}')
}

const hexDigits = "0123456789abcdef"

// plain tells the bytes that stand for themselves in a JSON string.
var plain = func() (t [256]bool) {
	for c := 0x20; c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// appendQuoted appends s as a JSON string.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(append(b, s[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += n
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		case '\b':
			b = append(b, '\\', 'b')
		case '\f':
			b = append(b, '\\', 'f')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

// quoteName returns name as the key of a JSON member, colon included.
func quoteName(name string) string { return string(append(appendQuoted(nil, name), ':')) }

// repeated reports whether a later member has the name of members[i]. It is
// called for short, built objects; raw ones keep their members as they came.
func repeated(members []Member, i int) bool {
	for _, m := range members[i+1:] {
		if m.Name == members[i].Name {
			return true
		}
	}
	return false
}
