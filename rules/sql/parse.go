package sql

import (
	"strconv"
	"unicode/utf8"
)

// What a statement may be. They keep the cost of reading one in bounds.
const (
	MaxBytes   = 256 << 10 // of a statement or a template
	MaxTerms   = 10_000    // names, constants, calls, brackets and aliases together
	MaxNesting = 128       // brackets, CASEs and prefix operators inside each other; a nested SELECT counts as two
)

// MaxNames is how many names a path or an alias may have: a payload is not read
// any deeper.
const MaxNames = 64

// Limits of the SET clause.
const (
	MaxVariables    = 10
	MaxVariableName = 64 // characters, the @ not counted
)

// Parse reads a rule statement. The error is an *Error.
func Parse(src string) (_ *Statement, err error) {
	defer rescue(&err)
	r := newReader(src)
	r.start(0)
	stmt := &Statement{Source: src}
	r.statement(stmt)
	newConverter(r).statement(stmt)
	return stmt, nil
}

// ParseExpr reads one expression. The error is an *Error.
func ParseExpr(src string) (_ Expr, err error) {
	defer rescue(&err)
	r := newReader(src)
	r.start(0)
	r.expr()
	if r.tok.kind != tokEnd {
		r.unexpected("an operator or the end", operators...)
	}
	return newConverter(r).expressions()[0], nil
}

// rescue turns the panic by which the reader leaves a statement into an error.
func rescue(err *error) {
	switch p := recover().(type) {
	case nil:
	case *Error:
		*err = p
	default:
		panic(p)
	}
}

// The reader turns a statement into text that the MySQL grammar can read. It
// checks what that grammar does not know, or would report badly, and keeps for
// itself what the grammar cannot carry: every name, constant, call and bracket
// becomes a hole with a number, and the node that belongs into the hole waits in
// holes. So
//
//	SELECT [a.b.c, 1] AS x.y FROM 'f' WHERE NOT a > 5 = true
//
// goes to the grammar as
//
//	select f0(p1,p2) as p3 where not (p4>p5)=p6
//
// which leaves it the lists and how strongly operators bind. The converter puts
// the nodes back. Where the grammar wants parentheses that the language does
// not (a comparison of a comparison, NOT behind another operator) the reader
// adds them.
type reader struct {
	lexer
	tok    token   // the one to be read
	ahead  []token // those behind it, as far as someone has looked
	prev   token   // the one before tok
	text   []byte
	parens []int // offsets in text at which a parenthesis is still to be opened
	holes  []Expr
	depth  int // parentheses open in text, and prefix operators
}

// Nodes that exist only in holes.
type (
	group  struct{ Span Span } // (x)
	label  struct{ alias }     // of a column
	source struct{ alias }     // of a nested query; Names is empty where it has no alias
	alias  struct {
		Span  Span
		Names []string
	}
	target struct{ Assignment } // of a SET clause
)

func (x *group) Pos() Span  { return x.Span }
func (x *alias) Pos() Span  { return x.Span }
func (x *target) Pos() Span { return x.NameSpan }
func (*group) expr()        {}
func (*alias) expr()        {}
func (*target) expr()       {}

// newReader returns a reader that has read nothing yet, not even tok.
func newReader(src string) *reader {
	if len(src) > MaxBytes {
		panic(At(src, Span{MaxBytes, MaxBytes}, "", "the text has %d bytes, at most %d are allowed", len(src), MaxBytes))
	}
	if i := invalidUTF8(src); i >= 0 {
		panic(At(src, Span{i, i + 1}, "", "the text is not valid UTF-8"))
	}
	r := &reader{lexer: lexer{src: src}, text: make([]byte, 0, len(src)+len(src)/2+16)}
	r.write("select ")
	return r
}

// invalidUTF8 returns where s stops to be valid UTF-8; -1: nowhere.
func invalidUTF8(s string) int {
	if utf8.ValidString(s) {
		return -1
	}
	for i, c := range s {
		if _, n := utf8.DecodeRuneInString(s[i:]); c == utf8.RuneError && n == 1 {
			return i
		}
	}
	return -1
}

// start begins to read at offset pos.
func (r *reader) start(pos int) {
	r.pos, r.prev, r.ahead = pos, token{}, r.ahead[:0]
	r.tok = r.lexer.next()
}

func (r *reader) advance() token {
	r.prev = r.tok
	if len(r.ahead) > 0 {
		r.tok = r.ahead[0]
		r.ahead = append(r.ahead[:0], r.ahead[1:]...)
	} else {
		r.tok = r.lexer.next()
	}
	return r.prev
}

// peek returns the token n places behind tok.
func (r *reader) peek(n int) *token {
	for len(r.ahead) < n {
		r.ahead = append(r.ahead, r.lexer.next())
	}
	return &r.ahead[n-1]
}

func (r *reader) write(s string) { r.text = append(r.text, s...) }

// hole writes a placeholder of the given kind, 'p' for an operand and 'f' for
// what has operands of its own, and keeps x for it.
func (r *reader) hole(kind byte, x Expr) int {
	if len(r.holes) == MaxTerms {
		r.fail(r.tok.span, "", "the statement has more than %d names, constants, calls and brackets", MaxTerms)
	}
	r.text = append(r.text, kind)
	r.text = strconv.AppendInt(r.text, int64(len(r.holes)), 10)
	r.holes = append(r.holes, x)
	return len(r.holes) - 1
}

// deeper enters n levels that lie around something inner levels high.
func (r *reader) deeper(n, inner int, at Span) {
	r.depth += n
	if r.depth+inner > MaxNesting {
		r.fail(at, "", "nested more than %d levels deep", MaxNesting)
	}
}

func (r *reader) fail(at Span, hint, format string, args ...any) {
	panic(At(r.src, at, hint, format, args...))
}
