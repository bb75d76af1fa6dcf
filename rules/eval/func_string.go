package eval

import (
	"strings"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

var stringFunctions = []Function{
	{
		Name: "chr", Signature: "chr(code)", MinArgs: 1, MaxArgs: 1, Pure: true,
		Summary:  "The ASCII character with this code, from 0 to 127; other codes give Undefined.",
		Source:   "iot-func-chr",
		Examples: []Example{{Expr: "chr(65)", Want: `"A"`}, {Expr: "chr('49.9')", Want: `"1"`}, {Expr: "chr(300)"}},
		Eval: func(c *Call, args []Value) Value {
			n, ok := clampInt(c, args[0], -1, 128)
			if !ok || n < 0 || n > 127 {
				return Value{}
			}
			return StringValue(asciiText[n : n+1])
		},
	},
	{
		Name: "concat", Signature: "concat(a, …)", MinArgs: 0, MaxArgs: -1, Pure: true,
		Summary: "All arguments as one: an Array of all items where any argument is an Array, otherwise their texts joined, if at least one is a String. " +
			"A single argument is returned unchanged; without arguments, and where an argument has no text, the result is Undefined.",
		Source: "iot-func-concat",
		Examples: []Example{
			{Expr: "concat('he', 'is', 'man')", Want: `"heisman"`}, {Expr: "concat(1, 'hello')", Want: `"1hello"`}, {Expr: "concat([1, 2], 'mid', [3])", Want: `[1,2,"mid",3]`},
			{Expr: "concat(1)", Want: "1"}, {Expr: "concat(1, 2)"}, {Expr: "concat('a', missing)"}, {Expr: "concat()"},
		},
		Eval: concat,
	},
	stringTest("endswith", "suffix", "true if s ends in suffix.", strings.HasSuffix,
		Example{Expr: "endswith('cat', 'at')", Want: "true"}, Example{Expr: "endswith(true, 'ue')", Want: "true"}, Example{Expr: "endswith('cat', NULL)"}),
	{
		Name: "indexof", Since: V2016, Signature: "indexof(s, part)", MinArgs: 2, MaxArgs: 2, Pure: true,
		Summary:  "Where part first occurs in s, in characters from 0; -1 where it does not. Arrays are searched as their JSON text.",
		Source:   "iot-sql-function-indexof",
		Examples: []Example{{Expr: "indexof('abcd', 'bc')", Want: "1"}, {Expr: "indexof('日本語', '語')", Want: "2"}, {Expr: "indexof('abcd', 'x')", Want: "-1"}},
		Eval: func(c *Call, args []Value) Value {
			s, part, ok := two(c, args)
			if !ok {
				return Value{}
			}
			i := strings.Index(s, part)
			if i > 0 {
				i = utf8.RuneCountInString(s[:i])
			}
			return IntValue(int64(i))
		},
	},
	stringToInt("length", "The number of characters of s.", "iot-sql-function-length", utf8.RuneCountInString,
		Example{Expr: "length('hi')", Want: "2"}, Example{Expr: "length(false)", Want: "5"}, Example{Expr: "length('日本')", Want: "2"}),
	stringChange("lower", "s in lower case.", "iot-func-lower", lower,
		Example{Expr: "lower('HELLO')", Want: `"hello"`}, Example{Expr: "lower(['HELLO'])", Want: `"[\"hello\"]"`}),
	pad("lpad", "left", "iot-func-lpad", func(b *strings.Builder, s, spaces string) { b.WriteString(spaces); b.WriteString(s) },
		Example{Expr: "lpad('hello', 2)", Want: `"  hello"`}, Example{Expr: "lpad(1, 3)", Want: `"   1"`}, Example{Expr: "lpad('a', -5)", Want: `"a"`}),
	stringChange("ltrim", "s without spaces and tabs at its beginning.", "iot-func-ltrim", func(s string) string { return strings.TrimLeft(s, " \t") },
		Example{Expr: "ltrim(' h i ')", Want: `"h i "`}),
	stringToInt("numbytes", "The number of bytes of s in UTF-8.", "iot-sql-function-numbytes", func(s string) int { return len(s) },
		Example{Expr: "numbytes('hi')", Want: "2"}, Example{Expr: "numbytes('€')", Want: "3"}),
	{
		Name: "replace", Signature: "replace(s, old, new)", MinArgs: 3, MaxArgs: 3, Pure: true,
		Summary:  "s with every occurrence of old, taken as plain text, replaced by new.",
		Source:   "iot-func-replace",
		Examples: []Example{{Expr: "replace('abcdabcd', 'b', 'x')", Want: `"axcdaxcd"`}, {Expr: "replace(123123, 2, 'x')", Want: `"1x31x3"`}, {Expr: "replace(topic(), '/', '-')", Want: `"a-b-c"`}},
		Eval: func(c *Call, args []Value) Value {
			s, old, ok := two(c, args)
			with := textOf(c, args[2])
			if !ok || with.IsUndefined() {
				return Value{}
			}
			n := strings.Count(s, old)
			if n == 0 {
				return StringValue(s)
			}
			if !c.Charge(len(s) + n*len(with.Str())) {
				return Value{}
			}
			return StringValue(strings.ReplaceAll(s, old, with.Str()))
		},
	},
	pad("rpad", "right", "iot-func-rpad", func(b *strings.Builder, s, spaces string) { b.WriteString(s); b.WriteString(spaces) },
		Example{Expr: "rpad('hello', 2)", Want: `"hello  "`}, Example{Expr: "length(rpad('a', 5000))", Want: "1001"}),
	stringChange("rtrim", "s without spaces and tabs at its end.", "iot-func-rtrim", func(s string) string { return strings.TrimRight(s, " \t") },
		Example{Expr: "rtrim(' h i ')", Want: `" h i"`}),
	stringTest("startswith", "prefix", "true if s begins with prefix.", strings.HasPrefix,
		Example{Expr: "startswith('ranger', 'ran')", Want: "true"}, Example{Expr: "startswith([1, 2], '[')", Want: "true"}),
	{
		Name: "substring", Signature: "substring(s, start[, end])", MinArgs: 2, MaxArgs: 3, Pure: true,
		Summary: "The characters of s from start, counted from 0, to the one before end, or to the end of s. " +
			"Positions outside s mean its nearest end; a start not before end gives an empty String.",
		Source: "iot-func-substring",
		Examples: []Example{
			{Expr: "substring('012345', 2)", Want: `"2345"`}, {Expr: "substring('012345', 1, 3)", Want: `"12"`}, {Expr: "substring('012345', -50, 50)", Want: `"012345"`},
			{Expr: "substring('012345', 3, 1)", Want: `""`}, {Expr: "substring(true, 1.2)", Want: `"rue"`}, {Expr: "substring('日本語', 1, 2)", Want: `"本"`},
		},
		Eval: substring,
	},
	stringChange("trim", "s without spaces and tabs at both ends.", "iot-func-trim", func(s string) string { return strings.Trim(s, " \t") },
		Example{Expr: "trim(' hi ')", Want: `"hi"`}),
	stringChange("upper", "s in upper case.", "iot-sql-function-upper", upper,
		Example{Expr: "upper('hello')", Want: `"HELLO"`}, Example{Expr: "upper('straße')", Want: `"STRASSE"`}),
}

var asciiText = func() string {
	b := make([]byte, 128)
	for i := range b {
		b[i] = byte(i)
	}
	return string(b)
}()

// textOf converts v to text and takes the work of reading it once; Undefined
// where it has none.
func textOf(c *Call, v Value) Value {
	s := c.Str(v)
	if !c.m.work(len(s.s)) {
		return Value{}
	}
	return s
}

// two converts the first two arguments to text.
func two(c *Call, args []Value) (a, b string, ok bool) {
	x, y := textOf(c, args[0]), textOf(c, args[1])
	return x.Str(), y.Str(), !x.IsUndefined() && !y.IsUndefined()
}

func stringTest(name, what, summary string, f func(s, t string) bool, examples ...Example) Function {
	return Function{
		Name: name, Signature: name + "(s, " + what + ")", MinArgs: 2, MaxArgs: 2, Pure: true,
		Summary: summary, Source: "iot-func-" + name, Examples: examples,
		Eval: func(c *Call, args []Value) Value {
			s, t, ok := two(c, args)
			if !ok {
				return Value{}
			}
			return BoolValue(f(s, t))
		},
	}
}

func stringToInt(name, summary, source string, f func(s string) int, examples ...Example) Function {
	return Function{
		Name: name, Since: V2016, Signature: name + "(s)", MinArgs: 1, MaxArgs: 1, Pure: true,
		Summary: summary, Source: source, Examples: examples,
		Eval: func(c *Call, args []Value) Value {
			s := textOf(c, args[0])
			if s.IsUndefined() {
				return s
			}
			return IntValue(int64(f(s.Str())))
		},
	}
}

// stringChange is a function of a text whose result is at most three times as
// long.
func stringChange(name, summary, source string, f func(s string) string, examples ...Example) Function {
	return Function{
		Name: name, Signature: name + "(s)", MinArgs: 1, MaxArgs: 1, Pure: true,
		Summary: summary, Source: source, Examples: examples,
		Eval: func(c *Call, args []Value) Value {
			s := textOf(c, args[0])
			if s.IsUndefined() || !c.Charge(len(s.Str())) || !isASCII(s.Str()) && !c.m.work(caseWork*len(s.Str())) {
				return Value{}
			}
			return StringValue(f(s.Str()))
		},
	}
}

// caseWork is what a byte of a text beyond ASCII takes in another case.
const caseWork = 16

func lower(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	return cases.Lower(language.Und).String(s)
}

// upper follows the full mapping, as Java does: ß becomes SS.
func upper(s string) string {
	if isASCII(s) {
		return strings.ToUpper(s)
	}
	return cases.Upper(language.Und).String(s)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

const maxPad = 1000

var padding = strings.Repeat(" ", maxPad)

func pad(name, side, source string, join func(b *strings.Builder, s, spaces string), examples ...Example) Function {
	return Function{
		Name: name, Signature: name + "(s, n)", MinArgs: 2, MaxArgs: 2, Pure: true,
		Summary: "s with n spaces added on the " + side + "; n is kept within 0 and 1000. It is not the width of the result.",
		Source:  source, Examples: examples,
		Eval: func(c *Call, args []Value) Value {
			s := textOf(c, args[0])
			n, ok := clampInt(c, args[1], 0, maxPad)
			if s.IsUndefined() || !ok {
				return Value{}
			}
			size := len(s.Str()) + int(n)
			if n == 0 || !c.Charge(size) {
				return s
			}
			var b strings.Builder
			b.Grow(size)
			join(&b, s.Str(), padding[:n])
			return StringValue(b.String())
		},
	}
}

func concat(c *Call, args []Value) Value {
	if len(args) < 2 {
		if len(args) == 0 {
			return Value{}
		}
		return args[0]
	}
	anyArray, anyString := false, false
	for _, a := range args {
		anyArray = anyArray || a.Kind() == Array
		anyString = anyString || a.Kind() == String
	}
	switch {
	case anyArray:
		return concatArrays(c, args)
	case !anyString:
		return Value{}
	}
	size := 0
	for _, a := range args {
		if a.Kind() == Undefined || a.Kind() == Null {
			return Value{}
		}
		size += max(len(a.Str()), 8)
	}
	if !c.Charge(size) {
		return Value{}
	}
	b := make([]byte, 0, size)
	for _, a := range args {
		b = append(b, textOf(c, a).Str()...)
	}
	return StringValue(bytesText(b))
}

func concatArrays(c *Call, args []Value) Value {
	n := 0
	for _, a := range args {
		switch a.Kind() {
		case Undefined:
			return Value{}
		case Array:
			n += a.Len()
		default:
			n++
		}
	}
	const itemSize = 48
	if !c.Charge(n * itemSize) {
		return Value{}
	}
	items := make([]Value, 0, n)
	for _, a := range args {
		if a.Kind() == Array {
			items = append(items, c.Items(a)...)
		} else {
			items = append(items, a)
		}
	}
	return ArrayValue(items)
}

func substring(c *Call, args []Value) Value {
	s := textOf(c, args[0])
	if s.IsUndefined() {
		return s
	}
	text := s.Str()
	from, ok := clampInt(c, args[1], 0, int64(len(text)))
	to := int64(len(text))
	if ok && len(args) == 3 {
		to, ok = clampInt(c, args[2], 0, int64(len(text)))
	}
	switch {
	case !ok:
		return Value{}
	case from >= to:
		return StringValue("")
	}
	start := byteOffset(text, int(from))
	return StringValue(text[start : start+byteOffset(text[start:], int(to-from))])
}

// byteOffset returns where character n of s begins; its length where s has no
// more than n.
func byteOffset(s string, n int) int {
	i := 0
	for ; n > 0 && i < len(s); n-- {
		if s[i] < utf8.RuneSelf {
			i++
			continue
		}
		_, w := utf8.DecodeRuneInString(s[i:])
		i += w
	}
	return i
}
