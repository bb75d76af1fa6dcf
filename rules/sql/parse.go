package sql

import (
	"strconv"
	"strings"
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

func (r *reader) statement(stmt *Statement) {
	if r.tok.kind == tokName && strings.EqualFold(r.tok.text, "set") {
		r.set(stmt)
	}
	if r.tok.upper != "SELECT" {
		r.noSelect()
	}
	stmt.Select = new(Select)
	r.query(stmt.Select, stmt)
	if r.tok.kind != tokEnd {
		r.notTheEnd(stmt)
	}
}

func (r *reader) set(stmt *Statement) {
	r.advance()
	for {
		name := r.tok
		switch {
		case name.kind == tokName && r.peek(1).is("="):
			r.fail(name.span, "write @"+clip(name.text), "expected a variable, found %s", found(&name))
		case name.kind != tokVar:
			r.unexpected("a variable such as @limit")
		case len(name.text) > MaxVariableName:
			r.fail(name.span, "", "the variable's name has %d characters, at most %d are allowed", len(name.text), MaxVariableName)
		case len(stmt.Set) == MaxVariables:
			r.fail(name.span, "", "at most %d variables are allowed", MaxVariables)
		}
		for _, a := range stmt.Set {
			if a.Name == name.text {
				r.fail(name.span, "a variable is set once and then keeps its value", "@%s is set already", name.text)
			}
		}
		r.advance()
		if !r.tok.is("=") {
			if r.tok.is("-") && r.tok.span.From == name.span.To {
				r.fail(Span{name.span.From, r.tok.span.To}, "names of variables are letters, digits and underscores", "expected = after @%s, found -", name.text)
			}
			r.unexpected("= after @" + name.text)
		}
		r.advance()
		t := &target{Assignment{Name: name.text, NameSpan: name.span}}
		stmt.Set = append(stmt.Set, t.Assignment)
		r.expr()
		r.write(" as ")
		r.hole('p', t)
		r.write(",")
		if !r.tok.is(",") {
			break
		}
		r.advance()
	}
	if r.tok.upper == "SELECT" {
		return
	}
	if r.tok.kind == tokName && strings.EqualFold(r.tok.text, "set") {
		r.fail(r.tok.span, "put a comma between the variables: SET @x = 1, @y = 2", "a second SET")
	}
	r.unexpected("a comma or SELECT", append(operators, "SELECT")...)
}

// query reads a SELECT, from tok to its last clause; stmt is nil for a nested
// one. Like expr it returns the height of what it wrote.
func (r *reader) query(s *Select, stmt *Statement) (height int) {
	s.Span.From = r.advance().span.From
	if r.valueComes() {
		s.Value = true
		r.advance()
	}
	for {
		height = max(height, r.expr())
		if r.tok.upper == "AS" {
			r.advance()
			r.write(" as ")
			r.hole('p', &label{r.alias("FROM")})
		}
		if !r.tok.is(",") {
			break
		}
		if s.Value {
			r.fail(r.tok.span, "put several values into an array or an object: SELECT VALUE [a, b]", "SELECT VALUE takes one item")
		}
		r.advance()
		r.write(",")
	}
	r.afterItems(stmt)
	if stmt == nil {
		height = max(height, r.nestedFrom())
	} else if r.tok.upper == "FROM" {
		r.topic(stmt)
	}
	if r.tok.upper == "WHERE" {
		r.advance()
		r.write(" where ")
		height = max(height, r.expr())
	}
	s.Span.To = r.prev.span.To
	return height
}

// valueComes reports whether tok is the VALUE of SELECT VALUE, not a member of
// that name.
func (r *reader) valueComes() bool {
	if r.tok.kind != tokName || !strings.EqualFold(r.tok.text, "value") {
		return false
	}
	switch next := r.peek(1); next.kind {
	case tokVar, tokNumber, tokString:
		return true
	case tokName:
		switch next.upper {
		case "AND", "OR", "IN", "AS", "FROM", "WHERE":
			return false
		case "NOT":
			return r.peek(2).upper != "IN"
		}
		return true
	case tokOp:
		if next.is("*") {
			return endsOperand(r.peek(2))
		}
		return next.is("(") || next.is("[") || next.is("{")
	}
	return false
}

// endsOperand reports whether t can stand behind a whole item, as it must for
// a star to be the message and not a multiplication.
func endsOperand(t *token) bool {
	switch t.kind {
	case tokEnd:
		return true
	case tokName:
		switch t.upper {
		case "FROM", "WHERE", "AS", "SELECT", "WHEN", "THEN", "ELSE", "END":
			return true
		}
	}
	return t.is(",") || t.is(")") || t.is("]") || t.is("}")
}

// alias reads the name after AS. A keyword is a name where it cannot be the
// keyword: before a comma, a dot, the end, or next, the clause that follows.
func (r *reader) alias(next keyword) alias {
	t := r.tok
	if t.kind == tokString {
		r.advance()
		if t.text == "" {
			r.fail(t.span, "", "the name after AS is empty")
		}
		return alias{t.span, []string{t.text}}
	}
	if t.upper != "" {
		behind := r.peek(1)
		free := behind.is(",") || behind.upper == next || behind.kind == tokEnd && t.upper != next && t.upper != "WHERE"
		if !free {
			r.fail(t.span, "write a name behind AS, or take AS out", "expected a name after AS, found %s", found(&t))
		}
	} else if t.kind != tokName {
		r.unexpected("a name after AS")
	}
	a := alias{Span: t.span, Names: []string{t.text}}
	r.advance()
	a.Names, a.Span.To = r.members(a.Names, a.Span.To)
	if r.tok.is("-") && r.tok.span.From == a.Span.To {
		r.fail(Span{a.Span.From, r.tok.span.To}, "a name that is not a plain word is written in quotes: AS 'my-name'", "unexpected - in the name after AS")
	}
	return a
}

// members reads .name.name and appends it to names; to is where they end.
func (r *reader) members(names []string, to int) ([]string, int) {
	for r.tok.is(".") {
		dot := r.advance().span
		t := r.tok
		switch {
		case t.kind == tokString, t.span.From == dot.To && dot.To < len(r.src) && isDigit(r.src[dot.To]):
			r.notPlain(names, dot)
		case t.is("*"):
			r.fail(Span{dot.From, t.span.To}, "the object itself has all its members", "expected a name after the dot, found *")
		case t.kind != tokName, t.upper != "" && t.span.From != dot.To:
			r.unexpected("a name after the dot")
		}
		if len(names) == MaxNames {
			r.fail(t.span, "", "more than %d names behind each other", MaxNames)
		}
		names, to = append(names, t.text), t.span.To
		r.advance()
	}
	return names, to
}

// topic reads FROM '…'.
func (r *reader) topic(stmt *Statement) {
	r.advance()
	t := r.tok
	if t.kind != tokString || r.src[t.span.From] != '\'' {
		r.noTopic()
	}
	r.advance()
	stmt.HasFrom, stmt.Filter = true, t.text
	stmt.FilterSpan = Span{t.span.From + 1, t.span.To - 1}
}

// nestedFrom reads FROM source [AS name].
func (r *reader) nestedFrom() (height int) {
	if r.tok.upper != "FROM" {
		r.unexpected("FROM", append(operators, "FROM", "AS")...)
	}
	r.advance()
	switch t := &r.tok; {
	case t.kind == tokString:
		r.fail(t.span, "write the member without quotes, or * for the whole message", "a nested SELECT reads from a member, not from a topic")
	case t.kind == tokNumber, t.kind == tokEnd, t.is(")"), t.is(","), t.upper != "" && t.upper != "CASE":
		r.unexpected("a member, a variable or * after FROM")
	}
	r.write(",")
	if r.tok.is("*") {
		r.star()
	} else {
		height = r.operand()
	}
	r.write(" as ")
	s := &source{}
	if r.tok.upper == "AS" {
		r.advance()
		s.alias = r.alias("WHERE")
		if len(s.Names) > 1 || r.prev.kind == tokString {
			r.fail(s.Span, "", "the name of the items after FROM must be one plain word")
		}
	}
	r.hole('p', s)
	return height
}

// expr writes the expression that starts at tok and returns how many levels of
// parentheses lie inside each other in what it wrote.
func (r *reader) expr() (height int) {
	if r.tok.is("*") {
		r.star()
		return 0
	}
	// side is the left side of a comparison that may still come, or all of a NOT
	// that stands behind another operator and needs a parenthesis of its own.
	type side struct {
		start    int  // where it begins in text
		compared bool // it has a comparison already
		list     bool // "in (" is open
		nots     int  // NOTs at its beginning
		height   int
	}
	sides := make([]side, 1, 2)
	sides[0].start = len(r.text)
	cur := &sides[0]
	closeList := func() {
		if cur.list {
			r.write(")")
			r.depth--
			cur.height++
			cur.list = false
		}
	}
	closeSide := func() {
		closeList()
		r.depth -= cur.nots
		cur.height += cur.nots
		height = max(height, cur.height)
	}
	closeAll := func() {
		for len(sides) > 1 {
			closeSide()
			r.write(")")
			r.depth--
			inner := cur.height + 1
			sides = sides[:len(sides)-1]
			cur = &sides[len(sides)-1]
			cur.height = max(cur.height, inner)
		}
		closeSide()
	}
	list := false // the operand is the parenthesised list of an IN
	for {
		minuses := 0
		for {
			if r.tok.is("-") {
				r.deeper(1, 0, r.tok.span)
				minuses++
				r.write("- ")
			} else if r.tok.upper == "NOT" {
				if len(r.text) != cur.start {
					r.deeper(1, 0, r.tok.span)
					r.write("(")
					sides = append(sides, side{start: len(r.text)})
					cur = &sides[len(sides)-1]
					cur.nots, minuses = minuses, 0 // their levels stay open as long as this side
				}
				r.deeper(1, 0, r.tok.span)
				cur.nots++
				r.write("not ")
				cur.start = len(r.text)
			} else {
				break
			}
			r.advance()
		}
		h := 0
		if list {
			h, list = r.list(), false
		} else {
			h = r.operand()
		}
		r.depth -= minuses
		cur.height = max(cur.height, h+minuses)

		t := r.tok
		switch {
		case t.is("+"), t.is("-"), t.is("*"), t.is("/"), t.is("%"):
			r.write(t.text)
			r.write(" ")
		case t.upper == "AND", t.upper == "OR":
			closeAll()
			r.write(" " + strings.ToLower(t.upper) + " ")
			sides[0] = side{start: len(r.text)}
		case t.is("="), t.is("<>"), t.is("<"), t.is("<="), t.is(">"), t.is(">="), t.upper == "IN",
			t.upper == "NOT" && r.peek(1).upper == "IN":
			closeList()
			if cur.compared {
				cur.height++
				r.deeper(0, cur.height, t.span)
				r.parens = append(r.parens, cur.start)
				r.write(")")
			}
			cur.compared = true
			if t.kind == tokOp {
				r.write(t.text)
				break
			}
			if t.upper == "NOT" {
				r.advance()
				r.write(" not")
			}
			r.deeper(1, 0, t.span)
			r.write(" in (")
			cur.list = true
			list = r.peek(1).is("(") && r.peek(2).upper != "SELECT"
			if r.peek(1).upper == "NOT" {
				r.advance()
				r.unexpected("a list or an array")
			}
		default:
			closeAll()
			return height
		}
		r.advance()
	}
}

// operand writes what stands between operators.
func (r *reader) operand() (height int) {
	t := r.tok
	var at int // its hole
	switch {
	case t.kind == tokNumber:
		r.advance()
		r.hole('p', &Literal{Span: t.span, Kind: Number, Text: t.text})
		return 0
	case t.kind == tokString:
		r.advance()
		r.hole('p', &Literal{Span: t.span, Kind: String, Text: t.text})
		return 0
	case t.upper == "CASE":
		return r.caseOf()
	case t.upper == "EXISTS":
		return r.exists()
	case t.upper == "NULL", t.upper == "TRUE", t.upper == "FALSE":
		r.advance()
		x := &Literal{Span: t.span}
		if t.upper != "NULL" {
			x.Kind, x.Bool = Bool, t.upper == "TRUE"
		}
		r.hole('p', x)
		return 0
	case t.kind == tokName && t.upper == "":
		if !r.peek(1).is("(") {
			r.advance()
			x := &Path{Span: t.span, Names: []string{t.text}}
			x.Names, x.Span.To = r.members(x.Names, x.Span.To)
			r.hole('p', x)
			r.noIndex()
			return 0
		}
		at, height = r.call()
	case t.kind == tokVar:
		r.advance()
		at = r.hole('p', &Var{Span: t.span, Name: t.text})
	case t.is("*"):
		r.fail(t.span, "* is the whole message and stands alone: SELECT *, f(*), {'all': *}", "* cannot be an operand")
	case t.is("("):
		at, height = r.parenthesis()
	case t.is("["):
		x := &Array{}
		at = r.hole('f', x)
		x.Span, height = r.items(']', 0)
	case t.is("{"):
		at, height = r.object()
	default:
		r.noExpression()
	}
	r.reach(at)
	return height
}

// reach reads the members taken of what is in a hole.
func (r *reader) reach(at int) {
	if names, to := r.members(nil, 0); names != nil {
		x := r.holes[at]
		r.holes[at] = &Member{Span: Span{x.Pos().From, to}, X: x, Names: names}
	}
	r.noIndex()
}

// list writes the list of an IN.
func (r *reader) list() (height int) {
	x := &Array{}
	at := r.hole('f', x)
	x.Span, height = r.items(')', 1)
	r.reach(at)
	return height
}

// items writes expressions between commas, from the opening bracket at tok to
// the closing one, as the arguments of the hole just written.
func (r *reader) items(closing byte, least int) (span Span, height int) {
	opening := r.advance()
	r.deeper(1, 0, opening.span)
	r.write("(")
	for n := 0; n < least || n > 0 || !r.tok.is(string(closing)); n++ {
		height = max(height, r.expr())
		if !r.tok.is(",") {
			break
		}
		r.advance()
		r.write(",")
	}
	return Span{opening.span.From, r.close(opening, closing, "a comma or ")}, height + 1
}

// close reads the bracket that closes opening and returns where it ends.
func (r *reader) close(opening token, closing byte, others string) int {
	if !r.tok.is(string(closing)) {
		r.notClosed(opening, others+string(closing))
	}
	r.write(")")
	r.depth--
	return r.advance().span.To
}

func (r *reader) object() (at, height int) {
	x := &Object{}
	at = r.hole('f', x)
	opening := r.advance()
	r.deeper(1, 0, opening.span)
	r.write("(")
	for n := 0; n > 0 || !r.tok.is("}"); n++ {
		name := r.tok
		if name.kind != tokString {
			r.noMemberName(opening)
		}
		r.advance()
		if !r.tok.is(":") {
			r.unexpected("a colon after the member's name")
		}
		r.advance()
		x.Members = append(x.Members, ObjectMember{Name: name.text, NameSpan: name.span})
		height = max(height, r.expr())
		if !r.tok.is(",") {
			break
		}
		r.advance()
		r.write(",")
	}
	x.Span = Span{opening.span.From, r.close(opening, '}', "a comma or ")}
	return at, height + 1
}

func (r *reader) call() (at, height int) {
	name := r.advance()
	lower := strings.ToLower(name.text)
	if lower == "cast" {
		return r.cast(name.span)
	}
	x := &Call{Name: lower, NameSpan: name.span}
	at = r.hole('f', x)
	x.Span, height = r.items(')', 0)
	x.Span.From = name.span.From
	return at, height
}

func (r *reader) cast(name Span) (at, height int) {
	x := &Cast{}
	at = r.hole('f', x)
	opening := r.advance()
	r.deeper(1, 0, opening.span)
	r.write("(")
	height = r.expr()
	if r.tok.upper != "AS" {
		if r.tok.is(",") || r.tok.is(")") {
			r.fail(r.tok.span, "cast is written cast(x AS Int)", "expected AS, found %s", found(&r.tok))
		}
		r.notClosed(opening, "AS")
	}
	r.advance()
	if r.tok.kind != tokName || r.tok.upper != "" {
		r.unexpected("a type after AS")
	}
	x.X, x.Type, x.TypeSpan = nil, r.tok.text, r.tok.span
	r.advance()
	x.Span = Span{name.From, r.close(opening, ')', "")}
	return at, height + 1
}

// parenthesis writes (x) or (SELECT …).
func (r *reader) parenthesis() (at, height int) {
	opening := r.advance()
	if r.tok.upper == "SELECT" {
		x := &Subquery{Select: new(Select)}
		at = r.hole('f', x)
		x.Span.From = opening.span.From
		x.Span.To, height = r.nested(opening, x.Select)
		return at, height
	}
	if r.tok.is("*") && r.peek(1).is(")") {
		r.fail(r.tok.span, "write * without parentheses", "* cannot stand in parentheses")
	}
	x := &group{}
	at = r.hole('f', x)
	r.deeper(1, 0, opening.span)
	r.write("(")
	height = r.expr()
	if r.tok.is(",") {
		r.fail(r.tok.span, "a list stands behind IN only; an array is written [a, b]", "expected ), found a comma")
	}
	x.Span = Span{opening.span.From, r.close(opening, ')', "")}
	return at, height + 1
}

// nested writes a nested query behind its parenthesis, in the hole just
// written, and returns where it ends.
func (r *reader) nested(opening token, s *Select) (to, height int) {
	r.deeper(2, 0, opening.span)
	r.write("((select ")
	height = r.query(s, nil)
	to = r.close(opening, ')', "")
	r.write(")")
	r.depth--
	return to, height + 2
}

func (r *reader) exists() (height int) {
	word := r.advance()
	x := &Exists{Select: new(Select)}
	r.hole('f', x)
	opening := r.tok
	if !opening.is("(") || r.peek(1).upper != "SELECT" {
		if opening.is("(") {
			r.advance()
		}
		if r.tok.kind == tokWrong {
			panic(r.tok.err)
		}
		r.fail(r.tok.span, "EXISTS (SELECT * FROM list WHERE …) is true where the query keeps an item; for a member, write NOT isUndefined(x)",
			"expected a nested SELECT in parentheses after EXISTS, found %s", found(&r.tok))
	}
	r.advance()
	x.Span.From = word.span.From
	x.Span.To, height = r.nested(opening, x.Select)
	return height
}

func (r *reader) caseOf() (height int) {
	word := r.advance()
	x := &Case{Span: word.span}
	r.hole('f', x)
	r.deeper(1, 0, word.span)
	r.write("(case ")
	if r.tok.upper != "WHEN" {
		height = r.expr()
	}
	if r.tok.upper != "WHEN" {
		r.unexpected("WHEN", append(operators, "WHEN")...)
	}
	for r.tok.upper == "WHEN" {
		r.advance()
		r.write(" when ")
		height = max(height, r.expr())
		if r.tok.upper != "THEN" {
			r.unexpected("THEN", append(operators, "THEN")...)
		}
		r.advance()
		r.write(" then ")
		height = max(height, r.expr())
	}
	rest := []string{"WHEN", "ELSE", "END"}
	if r.tok.upper == "ELSE" {
		r.advance()
		r.write(" else ")
		height = max(height, r.expr())
		rest = rest[2:]
	}
	if r.tok.upper != "END" {
		if r.tok.kind == tokEnd || r.tok.upper == "FROM" || r.tok.upper == "WHERE" || r.tok.upper == "AS" {
			r.fail(r.tok.span, "the CASE at "+r.place(word.span)+" is closed with END", "expected %s, found %s", oneOf(rest), found(&r.tok))
		}
		r.unexpected(oneOf(rest), append(operators, rest...)...)
	}
	r.write(" end)")
	r.depth--
	x.Span.To = r.advance().span.To
	return height + 1
}

// star writes a * that stands where a whole item can, if it is alone there.
func (r *reader) star() {
	t := r.tok
	if behind := r.peek(1); !endsOperand(behind) {
		if behind.is(".") {
			r.fail(Span{t.span.From, behind.span.To}, "a member of the message is written without *.", "* has no members")
		}
		r.fail(t.span, "* is the whole message and stands alone: SELECT *, f(*), {'all': *}", "* cannot be an operand")
	}
	r.advance()
	r.hole('p', &Star{Span: t.span})
}
