package sql

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEnd    tokenKind = iota
	tokName             // a word, keyword or not
	tokVar              // @name
	tokNumber           // as written, without a sign
	tokString
	tokOp    // an operator or a bracket
	tokWrong // text that is no token; err says why
)

type token struct {
	kind  tokenKind
	upper keyword // of a tokName: which keyword it spells, if any
	span  Span
	text  string // of a tokString its value, of a tokVar the name, otherwise as written
	err   *Error
}

// is reports whether t is the operator or bracket op.
func (t *token) is(op string) bool { return t.kind == tokOp && t.text == op }

// keyword is a reserved word in upper case; "" is none. VALUE and SET are words
// with a meaning in one place only, and no keywords elsewhere.
type keyword = string

var keywords = map[string]keyword{}

func init() {
	for _, k := range []keyword{
		"SELECT", "FROM", "WHERE", "AS", "AND", "OR", "NOT", "IN", "EXISTS",
		"CASE", "WHEN", "THEN", "ELSE", "END", "NULL", "TRUE", "FALSE",
	} {
		keywords[k] = k
	}
}

// keywordOf returns the keyword that word spells in any case.
func keywordOf(word string) keyword {
	if len(word) < 2 || len(word) > 6 {
		return ""
	}
	var buf [6]byte
	for i := 0; i < len(word); i++ {
		c := word[i]
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		buf[i] = c
	}
	return keywords[string(buf[:len(word)])]
}

// lexer cuts src into tokens. A mistake becomes a token too and is reported by
// whoever meets it, so that looking ahead never hides an earlier mistake.
type lexer struct {
	src string
	pos int
}

func (l *lexer) next() token {
	for l.pos < len(l.src) && isSpace(l.src[l.pos]) {
		l.pos++
	}
	from := l.pos
	if from == len(l.src) {
		return token{kind: tokEnd, span: Span{from, from}}
	}
	switch c := l.src[from]; {
	case isDigit(c):
		return l.number()
	case c == '\'' || c == '"':
		return l.quoted(c)
	case c == '@':
		return l.variable()
	}
	if n := nameLen(l.src[from:]); n > 0 {
		l.pos += n
		t := token{kind: tokName, span: Span{from, l.pos}, text: l.src[from:l.pos]}
		// Before a dot a keyword is the first name of a path: case.number.
		if l.pos+1 >= len(l.src) || l.src[l.pos] != '.' || !startsName(l.src[l.pos+1:]) {
			t.upper = keywordOf(t.text)
		}
		return t
	}
	return l.operator()
}

func (l *lexer) wrong(span Span, hint, format string, args ...any) token {
	l.pos = max(span.To, span.From+1)
	return token{kind: tokWrong, span: span, err: At(l.src, span, hint, format, args...)}
}

func (l *lexer) number() token {
	from, i := l.pos, l.pos
	for i < len(l.src) && isDigit(l.src[i]) {
		i++
	}
	if i+1 < len(l.src) && l.src[i] == '.' && isDigit(l.src[i+1]) {
		for i++; i < len(l.src) && isDigit(l.src[i]); i++ {
		}
	} else if i < len(l.src) && l.src[i] == '.' {
		return l.wrong(Span{from, i + 1}, "write "+clip(l.src[from:i])+".0 or "+clip(l.src[from:i]), "number has no digits after its point")
	}
	if i < len(l.src) && (l.src[i] == 'e' || l.src[i] == 'E') {
		j := i + 1
		if j < len(l.src) && (l.src[j] == '-' || l.src[j] == '+') {
			j++
		}
		if j < len(l.src) && isDigit(l.src[j]) {
			for i = j; i < len(l.src) && isDigit(l.src[i]); i++ {
			}
		}
	}
	if n := nameLen(l.src[i:]); n > 0 {
		start := from // of the name, if it has hyphens: my-1st-name
		for start > 0 && (isNameByte(l.src[start-1]) || l.src[start-1] == '-') {
			start--
		}
		word := wordAt(l.src, start)
		return l.wrong(Span{from, i + n}, "a member of that name is reached with get(*, '"+clip(word)+"')",
			"%s is neither a number nor a name", clip(l.src[from:i+n]))
	}
	l.pos = i
	return token{kind: tokNumber, span: Span{from, i}, text: l.src[from:i]}
}

func (l *lexer) quoted(quote byte) token {
	from := l.pos
	plain := true // no escape so far: the value is a piece of the source
	var value strings.Builder
	for i := from + 1; i < len(l.src); i++ {
		c := l.src[i]
		switch {
		case c == quote && i+1 < len(l.src) && l.src[i+1] == quote, c == '\\' && i+1 < len(l.src):
			if plain {
				plain = false
				value.WriteString(l.src[from+1 : i])
			}
			i++
			if c == quote {
				value.WriteByte(quote)
				continue
			}
			switch e := l.src[i]; e {
			case 'n':
				value.WriteByte('\n')
			case 't':
				value.WriteByte('\t')
			case 'r':
				value.WriteByte('\r')
			case '\\', '\'', '"', '/':
				value.WriteByte(e)
			default: // stays as written: regular expressions are full of '\d'
				value.WriteByte('\\')
				value.WriteByte(e)
			}
		case c == quote:
			l.pos = i + 1
			text := l.src[from+1 : i]
			if !plain {
				text = value.String()
			}
			return token{kind: tokString, span: Span{from, l.pos}, text: text}
		case !plain:
			value.WriteByte(c)
		}
	}
	t := l.wrong(Span{from, from + 1}, "close it with "+string(quote)+"; a quote inside a string is written twice", "string is not closed")
	l.pos = len(l.src)
	return t
}

func (l *lexer) variable() token {
	from, i := l.pos, l.pos+1
	for i < len(l.src) && (l.src[i] < utf8.RuneSelf && l.src[i] != '$' && isNameByte(l.src[i])) {
		i++
	}
	if i == from+1 {
		return l.wrong(Span{from, i}, "names of variables are letters, digits and underscores: @limit", "expected the name of a variable after @")
	}
	l.pos = i
	return token{kind: tokVar, span: Span{from, i}, text: l.src[from+1 : i]}
}

// foreign are operators of other languages, longest first, with what to write here.
var foreign = []struct{ text, hint string }{
	{"===", "equality is written ="},
	{"<=>", "equality is written ="},
	{"==", "equality is written ="},
	{"!=", "inequality is written <>"},
	{"=<", "write <="},
	{"=>", "write >="},
	{"&&", "write AND"},
	{"||", "write OR; strings are joined with +"},
	{"!", "write NOT"},
	{"<<", "there is no shift; multiply or divide with power(2, n)"},
	{">>", "there is no shift; multiply or divide with power(2, n)"},
	{"&", "write bitand(x, y), or AND for conditions"},
	{"|", "write bitor(x, y), or OR for conditions"},
	{"^", "write bitxor(x, y), or power(x, y)"},
	{"~", "write bitnot(x)"},
}

func (l *lexer) operator() token {
	from, rest := l.pos, l.src[l.pos:]
	if n := min(2, len(rest)); rest[:n] == "--" || rest[:n] == "/*" || rest[:n] == "//" {
		hint := "take it out; a rule has a description for remarks"
		if rest[0] == '-' {
			hint += "; a minus before a minus needs a space between them"
		}
		return l.wrong(Span{from, from + n}, hint, "comments are not part of the language")
	}
	for _, f := range foreign {
		if strings.HasPrefix(rest, f.text) {
			return l.wrong(Span{from, from + len(f.text)}, f.hint, "%s is not an operator of the language", f.text)
		}
	}
	if n := min(2, len(rest)); rest[:n] == "<>" || rest[:n] == "<=" || rest[:n] == ">=" {
		l.pos += 2
		return token{kind: tokOp, span: Span{from, l.pos}, text: rest[:2]}
	}
	if strings.IndexByte("()[]{},:.*+-/%=<>", rest[0]) >= 0 {
		l.pos++
		return token{kind: tokOp, span: Span{from, l.pos}, text: rest[:1]}
	}
	r, n := utf8.DecodeRuneInString(rest)
	span := Span{from, from + n}
	switch {
	case r == ';':
		return l.wrong(span, "a statement ends without a semicolon", "unexpected ;")
	case r == '`':
		return l.wrong(span, "names are written as they are: temp; names that are not plain words with get(*, 'my-name')", "names are not quoted with `")
	case strings.ContainsRune("‘’‚′", r):
		return l.wrong(span, "use the straight quote '", "%c is not a quote of the language", r)
	case strings.ContainsRune("“”„″«»", r):
		return l.wrong(span, "use the straight quotes ' or \"", "%c is not a quote of the language", r)
	case unicode.IsSpace(r) || r == '\ufeff' || r == '\u200b':
		return l.wrong(span, "replace it with an ordinary space", "unexpected character %U, which looks like a space", r)
	case r == '?':
		return l.wrong(span, "a choice is written CASE WHEN a THEN b ELSE c END", "unexpected character ?")
	case unicode.IsPrint(r):
		return l.wrong(span, "", "unexpected character %c", r)
	}
	return l.wrong(span, "", "unexpected character %U", r)
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isNameByte(c byte) bool {
	return c == '_' || c == '$' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || isDigit(c)
}

// nameLen returns the length in bytes of the name that s starts with: letters,
// digits, _ and $, not starting with a digit. 0: none.
func nameLen(s string) int {
	i := 0
	for i < len(s) {
		if c := s[i]; c < utf8.RuneSelf {
			if !isNameByte(c) || i == 0 && isDigit(c) {
				break
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if !unicode.IsLetter(r) && (i == 0 || !unicode.IsMark(r) && !unicode.IsDigit(r)) {
			break
		}
		i += n
	}
	return i
}

// startsName reports whether s starts with a name.
func startsName(s string) bool {
	_, n := utf8.DecodeRuneInString(s)
	return nameLen(s[:n]) > 0
}

// clip makes a piece of source fit for a message: short, and on one line.
func clip(s string) string {
	const most = 40
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > most {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(r) {
			r = '·'
		}
		b.WriteRune(r)
	}
	return b.String()
}
