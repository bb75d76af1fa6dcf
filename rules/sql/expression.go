package sql

import "strings"

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
