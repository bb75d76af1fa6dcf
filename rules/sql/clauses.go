package sql

import "strings"

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
