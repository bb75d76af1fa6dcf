package sql

import "strings"

// expr writes the expression that starts at tok and returns how many levels of
// parentheses lie inside each other in what it wrote.
func (r *reader) expr() (height int) {
	if r.tok.is("*") {
		r.star()
		return 0
	}
	c := chain{reader: r, sides: make([]side, 1, 2)}
	c.sides[0].start = len(r.text)
	for {
		minuses := c.prefixes()
		if c.top().listNext {
			c.top().listNext = false
			height = r.list()
		} else {
			height = r.operand()
		}
		r.depth -= minuses
		c.top().height = max(c.top().height, height+minuses)
		if !c.operator() {
			return c.height
		}
		r.advance()
	}
}

// A chain is an expression in writing: operands with operators between them. It
// adds the parentheses that the grammar wants and the language does not.
type chain struct {
	*reader
	sides  []side // one, and another for each NOT with a parenthesis
	height int    // of the sides that are closed
}

// A side is the left side of a comparison that may still come, or, with a
// parenthesis around it, all of a NOT that stands behind another operator.
type side struct {
	start    int  // where it begins in text
	compared bool // it has a comparison already
	inOpen   bool // "in (" is open
	listNext bool // the next operand is the parenthesised list of an IN
	prefixes int  // operators before it, which are levels too
	height   int
}

func (c *chain) top() *side { return &c.sides[len(c.sides)-1] }

// prefixes writes the operators before an operand. It returns how many minuses
// have to be taken off depth behind it.
func (c *chain) prefixes() (minuses int) {
	for {
		switch {
		case c.tok.is("-"):
			c.deeper(1, 0, c.tok.span)
			minuses++
			c.write("- ")
		case c.tok.upper == "NOT":
			if len(c.text) != c.top().start { // behind an operator other than AND, OR and NOT
				c.deeper(1, 0, c.tok.span)
				c.write("(")
				c.sides = append(c.sides, side{prefixes: minuses})
				minuses = 0
			}
			c.deeper(1, 0, c.tok.span)
			c.write("not ")
			c.top().prefixes++
			c.top().start = len(c.text)
		default:
			return minuses
		}
		c.advance()
	}
}

// operator writes the operator at tok. If there is none, the chain is at its
// end.
func (c *chain) operator() bool {
	t := c.tok
	switch {
	case t.is("+"), t.is("-"), t.is("*"), t.is("/"), t.is("%"):
		c.write(t.text + " ")
	case t.upper == "AND", t.upper == "OR":
		c.close()
		c.write(" " + strings.ToLower(t.upper) + " ")
		c.sides[0] = side{start: len(c.text)}
	case t.is("="), t.is("<>"), t.is("<"), t.is("<="), t.is(">"), t.is(">="):
		c.comparison()
		c.write(t.text)
	case t.upper == "IN":
		c.comparison()
		c.in()
	case t.upper == "NOT" && c.peek(1).upper == "IN":
		c.comparison()
		c.advance()
		c.write(" not")
		c.in()
	default:
		c.close()
		return false
	}
	return true
}

// comparison begins a comparison. One that is there already becomes its left
// side.
func (c *chain) comparison() {
	c.closeIn()
	left := c.top()
	if left.compared {
		left.height++
		c.deeper(0, left.height, c.tok.span)
		c.parens = append(c.parens, left.start)
		c.write(")")
	}
	left.compared = true
}

// in writes the IN at tok. The grammar wants a list behind it, so a list of one
// is what it gets, whatever the set is.
func (c *chain) in() {
	if c.peek(1).upper == "NOT" {
		c.advance()
		c.unexpected("a list or an array")
	}
	c.deeper(1, 0, c.tok.span)
	c.write(" in (")
	c.top().inOpen = true
	c.top().listNext = c.peek(1).is("(") && c.peek(2).upper != "SELECT"
}

func (c *chain) closeIn() {
	if s := c.top(); s.inOpen {
		c.write(")")
		c.depth--
		s.inOpen = false
		s.height++
	}
}

// close closes all sides.
func (c *chain) close() {
	for {
		c.closeIn()
		s := c.top()
		c.depth -= s.prefixes
		s.height += s.prefixes
		if len(c.sides) == 1 {
			c.height = max(c.height, s.height)
			return
		}
		c.write(")")
		c.depth--
		c.sides = c.sides[:len(c.sides)-1]
		c.top().height = max(c.top().height, s.height+1)
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
