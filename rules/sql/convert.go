package sql

import (
	"regexp"
	"slices"
	"strconv"

	"github.com/xwb1989/sqlparser"
)

// The converter makes the tree of what the grammar returned for the reader's
// text and of the nodes that wait in the reader's holes.
type converter struct {
	src   string
	holes []Expr
	query *sqlparser.Select
}

func newConverter(r *reader) *converter {
	c := &converter{src: r.src, holes: r.holes}
	stmt, err := sqlparser.Parse(string(r.grammatical()))
	if err != nil {
		panic(c.refused(err))
	}
	query, ok := stmt.(*sqlparser.Select)
	if !ok {
		panic(c.strange(stmt))
	}
	c.query = query
	return c
}

// grammatical returns the reader's text with the parentheses it owes.
func (r *reader) grammatical() []byte {
	if len(r.parens) == 0 {
		return r.text
	}
	slices.Sort(r.parens)
	text := make([]byte, 0, len(r.text)+len(r.parens))
	from := 0
	for _, at := range r.parens {
		text = append(text, r.text[from:at]...)
		text = append(text, '(')
		from = at
	}
	return append(text, r.text[from:]...)
}

var near = regexp.MustCompile(`near '[pf]([0-9]+)'`)

// refused reports an error of the grammar. The reader leaves none that is
// known of; where there is one after all, the hole it is near says the place.
func (c *converter) refused(err error) *Error {
	if m := near.FindStringSubmatch(err.Error()); m != nil {
		if n, convErr := strconv.Atoi(m[1]); convErr == nil && n < len(c.holes) {
			return At(c.src, c.holes[n].Pos(), "", "syntax error")
		}
	}
	return At(c.src, Span{0, len(c.src)}, "", "syntax error: %v", err)
}

// strange reports a node that the reader's text cannot have.
func (c *converter) strange(node sqlparser.SQLNode) *Error {
	return At(c.src, Span{0, len(c.src)}, "", "the statement reads as %T, which is not part of the language", node)
}

func (c *converter) statement(stmt *Statement) {
	n := len(stmt.Set)
	for i := range n {
		stmt.Set[i].Value, _ = c.expr(c.query.SelectExprs[i].(*sqlparser.AliasedExpr).Expr)
	}
	c.query.SelectExprs = c.query.SelectExprs[n:]
	c.sel(stmt.Select, c.query)
}

// expressions returns the columns of the query without their spans.
func (c *converter) expressions() []Expr {
	list := make([]Expr, len(c.query.SelectExprs))
	for i, e := range c.query.SelectExprs {
		list[i], _ = c.expr(e.(*sqlparser.AliasedExpr).Expr)
	}
	return list
}

func (c *converter) sel(s *Select, query *sqlparser.Select) {
	s.Items = make([]Item, 0, len(query.SelectExprs))
	for _, e := range query.SelectExprs {
		column := e.(*sqlparser.AliasedExpr)
		x, span := c.expr(column.Expr)
		item := Item{Expr: x, Span: span}
		if !column.As.IsEmpty() {
			switch as := c.hole(column.As.String()).(type) {
			case *label:
				item.Alias, item.Span.To = as.Names, as.Span.To
			case *source:
				s.From = x
				if as.Names != nil {
					s.As = as.Names[0]
				}
				continue
			}
		}
		s.Items = append(s.Items, item)
	}
	if query.Where != nil {
		s.Where, _ = c.expr(query.Where.Expr)
	}
}

// hole returns the node of a placeholder.
func (c *converter) hole(name string) Expr {
	n, err := strconv.Atoi(name[1:])
	if err != nil {
		panic(At(c.src, Span{0, len(c.src)}, "", "no placeholder: %s", name))
	}
	return c.holes[n]
}

// expr converts e. span is where it stands in the source with the parentheses
// around it; the node's own span is without them.
func (c *converter) expr(e sqlparser.Expr) (x Expr, span Span) {
	// A long chain of operators is a tree as deep on its left side.
	var chain []sqlparser.Expr
	for {
		var left sqlparser.Expr
		switch e := e.(type) {
		case *sqlparser.AndExpr:
			left = e.Left
		case *sqlparser.OrExpr:
			left = e.Left
		case *sqlparser.ComparisonExpr:
			left = e.Left
		case *sqlparser.BinaryExpr:
			left = e.Left
		}
		if left == nil {
			break
		}
		chain = append(chain, e)
		e = left
	}
	x, span = c.operand(e)
	for _, e := range slices.Backward(chain) {
		x, span = c.binary(x, span, e)
	}
	return x, span
}

// binary makes the node of e, whose left side is x already.
func (c *converter) binary(x Expr, at Span, e sqlparser.Expr) (Expr, Span) {
	var op Op
	var right sqlparser.Expr
	switch e := e.(type) {
	case *sqlparser.AndExpr:
		op, right = And, e.Right
	case *sqlparser.OrExpr:
		op, right = Or, e.Right
	case *sqlparser.BinaryExpr:
		op, right = Op(e.Operator), e.Right
	case *sqlparser.ComparisonExpr:
		if set, ok := e.Right.(sqlparser.ValTuple); ok {
			y, span := c.expr(set[0])
			span.From = at.From
			return &In{Span: span, Not: e.Operator == sqlparser.NotInStr, X: x, Set: y}, span
		}
		op, right = Op(e.Operator), e.Right
		if e.Operator == sqlparser.NotEqualStr {
			op = Ne
		}
	}
	y, span := c.expr(right)
	span.From = at.From
	return &Binary{Span: span, Op: op, X: x, Y: y}, span
}

func (c *converter) operand(e sqlparser.Expr) (Expr, Span) {
	switch e := e.(type) {
	case *sqlparser.ColName:
		x := c.hole(e.Name.String())
		return x, x.Pos()
	case *sqlparser.FuncExpr:
		x := c.hole(e.Name.String())
		span := x.Pos()
		return c.fill(x, e.Exprs), span
	case *sqlparser.ParenExpr: // one of the reader's
		return c.expr(e.Expr)
	case *sqlparser.NotExpr:
		return c.unary(Not, e.Expr, "NOT")
	case *sqlparser.UnaryExpr:
		return c.unary(Neg, e.Expr, "-")
	}
	panic(c.strange(e))
}

// unary makes the node of an operator that stands, but for space, right before
// its operand.
func (c *converter) unary(op Op, e sqlparser.Expr, text string) (Expr, Span) {
	x, span := c.expr(e)
	for span.From > 0 && isSpace(c.src[span.From-1]) {
		span.From--
	}
	span.From -= len(text)
	return &Unary{Span: span, Op: op, X: x}, span
}

// fill gives x, from a hole, its operands.
func (c *converter) fill(x Expr, args sqlparser.SelectExprs) Expr {
	switch x := x.(type) {
	case *group:
		inner, _ := c.arg(args[0])
		return inner
	case *Member:
		x.X = c.fill(x.X, args)
	case *Call:
		x.Args = c.args(args)
	case *Array:
		x.Items = c.args(args)
	case *Object:
		for i := range x.Members {
			x.Members[i].Value, _ = c.arg(args[i])
		}
	case *Cast:
		x.X, _ = c.arg(args[0])
	case *Subquery:
		c.nested(x.Select, args)
	case *Exists:
		c.nested(x.Select, args)
	case *Case:
		c.caseOf(x, args)
	default:
		panic(At(c.src, x.Pos(), "", "unexpected operands: %T", x))
	}
	return x
}

func (c *converter) arg(e sqlparser.SelectExpr) (Expr, Span) {
	column, ok := e.(*sqlparser.AliasedExpr)
	if !ok {
		panic(c.strange(e))
	}
	return c.expr(column.Expr)
}

func (c *converter) args(list sqlparser.SelectExprs) []Expr {
	if len(list) == 0 {
		return nil
	}
	args := make([]Expr, len(list))
	for i, e := range list {
		args[i], _ = c.arg(e)
	}
	return args
}

func (c *converter) nested(s *Select, args sqlparser.SelectExprs) {
	if column, ok := args[0].(*sqlparser.AliasedExpr); ok {
		if sub, ok := column.Expr.(*sqlparser.Subquery); ok {
			if query, ok := sub.Select.(*sqlparser.Select); ok {
				c.sel(s, query)
				return
			}
		}
	}
	panic(c.strange(args[0]))
}

func (c *converter) caseOf(x *Case, args sqlparser.SelectExprs) {
	column, _ := args[0].(*sqlparser.AliasedExpr)
	e, ok := column.Expr.(*sqlparser.CaseExpr)
	if !ok {
		panic(c.strange(args[0]))
	}
	if e.Expr != nil {
		x.Operand, _ = c.expr(e.Expr)
	}
	x.Whens = make([]When, len(e.Whens))
	for i, w := range e.Whens {
		x.Whens[i].Cond, _ = c.expr(w.Cond)
		x.Whens[i].Then, _ = c.expr(w.Val)
	}
	if e.Else != nil {
		x.Else, _ = c.expr(e.Else)
	}
}
