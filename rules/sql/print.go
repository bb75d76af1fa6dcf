package sql

import (
	"slices"
	"strings"
)

// String returns the statement in canonical form: one line, keywords in upper
// case, function names in lower case, strings in single quotes, and only the
// parentheses that are needed. Parsing it gives an equal tree, but for spans.
func (s *Statement) String() string {
	var p printer
	if len(s.Set) > 0 {
		p.text("SET ")
		for i, a := range s.Set {
			if i > 0 {
				p.text(", ")
			}
			p.text("@", a.Name, " = ")
			p.expr(a.Value, loosest)
		}
		p.text(" ")
	}
	p.query(s.Select, s)
	return string(p.buf)
}

// Print returns the expression in canonical form.
func Print(x Expr) string {
	var p printer
	p.expr(x, loosest)
	return string(p.buf)
}

// How strongly an expression binds.
const (
	loosest = iota
	bindingOr
	bindingAnd
	bindingNot
	bindingComparison
	bindingSum
	bindingProduct
	bindingSign
	tightest
)

func binding(x Expr) int {
	switch x := x.(type) {
	case *Unary:
		if x.Op == Not {
			return bindingNot
		}
		return bindingSign
	case *In:
		return bindingComparison
	case *Binary:
		switch x.Op {
		case Or:
			return bindingOr
		case And:
			return bindingAnd
		case Add, Sub:
			return bindingSum
		case Mul, Div, Mod:
			return bindingProduct
		}
		return bindingComparison
	}
	return tightest
}

type printer struct{ buf []byte }

func (p *printer) text(list ...string) {
	for _, s := range list {
		p.buf = append(p.buf, s...)
	}
}

// query prints a SELECT; stmt is nil for a nested one.
func (p *printer) query(s *Select, stmt *Statement) {
	p.text("SELECT ")
	if s.Value {
		p.text("VALUE ")
	}
	for i, item := range s.Items {
		if i > 0 {
			p.text(", ")
		}
		from := len(p.buf)
		p.expr(item.Expr, loosest)
		if i == 0 && misread(string(p.buf[from:min(len(p.buf), from+6)]), s.Value) {
			p.buf = append(slices.Insert(p.buf, from, '('), ')')
		}
		if item.Alias != nil {
			p.text(" AS ")
			p.alias(item.Alias)
		}
	}
	switch {
	case stmt == nil:
		p.text(" FROM ")
		p.expr(s.From, tightest)
		if s.As != "" {
			p.text(" AS ", s.As)
		}
	case stmt.HasFrom:
		p.text(" FROM ")
		p.string(stmt.Filter)
	}
	if s.Where != nil {
		p.text(" WHERE ")
		p.expr(s.Where, loosest)
	}
}

// misread reports whether the first column, which starts with text, needs
// parentheses: behind SELECT, "value (" would be the keyword, and behind SELECT
// VALUE a minus would make it a member.
func misread(text string, value bool) bool {
	if value {
		return text[0] == '-'
	}
	return strings.EqualFold(text, "value(")
}

func (p *printer) alias(names []string) {
	if len(names) == 1 && (nameLen(names[0]) != len(names[0]) || keywordOf(names[0]) != "") {
		p.string(names[0])
		return
	}
	p.text(strings.Join(names, "."))
}

// expr prints x, in parentheses where it binds less than least.
func (p *printer) expr(x Expr, least int) {
	own := binding(x)
	if own < least {
		p.text("(")
		defer p.text(")")
	}
	switch x := x.(type) {
	case *Literal:
		p.literal(x)
	case *Path:
		p.text(strings.Join(x.Names, "."))
	case *Star:
		p.text("*")
	case *Var:
		p.text("@", x.Name)
	case *Member:
		switch x.X.(type) {
		case *Var, *Call, *Cast, *Array, *Object, *Subquery:
			p.expr(x.X, tightest)
		default:
			p.text("(")
			p.expr(x.X, loosest)
			p.text(")")
		}
		p.text(".", strings.Join(x.Names, "."))
	case *Unary:
		p.text(string(x.Op))
		if inner, ok := x.X.(*Unary); x.Op == Not || ok && inner.Op == Neg {
			p.text(" ")
		}
		p.expr(x.X, own)
	case *Binary:
		p.expr(x.X, own)
		p.text(" ", string(x.Op), " ")
		p.expr(x.Y, own+1)
	case *In:
		p.expr(x.X, own)
		if x.Not {
			p.text(" NOT")
		}
		p.text(" IN ")
		if list, ok := x.Set.(*Array); ok && len(list.Items) > 0 {
			p.text("(")
			p.list(list.Items)
			p.text(")")
		} else {
			p.expr(x.Set, own+1)
		}
	case *Exists:
		p.text("EXISTS (")
		p.query(x.Select, nil)
		p.text(")")
	case *Subquery:
		p.text("(")
		p.query(x.Select, nil)
		p.text(")")
	case *Case:
		p.text("CASE")
		if x.Operand != nil {
			p.text(" ")
			p.expr(x.Operand, loosest)
		}
		for _, w := range x.Whens {
			p.text(" WHEN ")
			p.expr(w.Cond, loosest)
			p.text(" THEN ")
			p.expr(w.Then, loosest)
		}
		if x.Else != nil {
			p.text(" ELSE ")
			p.expr(x.Else, loosest)
		}
		p.text(" END")
	case *Call:
		p.text(x.Name, "(")
		p.list(x.Args)
		p.text(")")
	case *Cast:
		p.text("cast(")
		p.expr(x.X, loosest)
		p.text(" AS ", x.Type, ")")
	case *Array:
		p.text("[")
		p.list(x.Items)
		p.text("]")
	case *Object:
		p.text("{")
		for i, m := range x.Members {
			if i > 0 {
				p.text(", ")
			}
			p.string(m.Name)
			p.text(": ")
			p.expr(m.Value, loosest)
		}
		p.text("}")
	}
}

func (p *printer) list(items []Expr) {
	for i, x := range items {
		if i > 0 {
			p.text(", ")
		}
		p.expr(x, loosest)
	}
}

func (p *printer) literal(x *Literal) {
	switch {
	case x.Kind == Number:
		p.text(x.Text)
	case x.Kind == String:
		p.string(x.Text)
	case x.Kind == Null:
		p.text("NULL")
	case x.Bool:
		p.text("TRUE")
	default:
		p.text("FALSE")
	}
}

func (p *printer) string(s string) {
	p.text("'")
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '\'':
			p.text("''")
		case '\n':
			p.text(`\n`)
		case '\t':
			p.text(`\t`)
		case '\r':
			p.text(`\r`)
		case '\\':
			p.text(`\`)
			// Doubled only where the reader would take it for an escape.
			if i+1 == len(s) || strings.IndexByte("ntr\\'\"/\n\t\r", s[i+1]) >= 0 {
				p.text(`\`)
			}
		default:
			p.buf = append(p.buf, c)
		}
	}
	p.text("'")
}
