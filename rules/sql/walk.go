package sql

// Walk calls f for x and then, where f returns true, for what x is made of, in
// the order of the source; the columns, source and condition of a nested query
// among it. A nil x is skipped.
func Walk(x Expr, f func(Expr) bool) {
	if x == nil || !f(x) {
		return
	}
	switch x := x.(type) {
	case *Member:
		Walk(x.X, f)
	case *Unary:
		Walk(x.X, f)
	case *Binary:
		Walk(x.X, f)
		Walk(x.Y, f)
	case *In:
		Walk(x.X, f)
		Walk(x.Set, f)
	case *Exists:
		x.Select.Walk(f)
	case *Subquery:
		x.Select.Walk(f)
	case *Case:
		Walk(x.Operand, f)
		for _, w := range x.Whens {
			Walk(w.Cond, f)
			Walk(w.Then, f)
		}
		Walk(x.Else, f)
	case *Call:
		for _, a := range x.Args {
			Walk(a, f)
		}
	case *Cast:
		Walk(x.X, f)
	case *Array:
		for _, a := range x.Items {
			Walk(a, f)
		}
	case *Object:
		for _, m := range x.Members {
			Walk(m.Value, f)
		}
	}
}

// Walk is Walk over the columns, the source and the condition of s.
func (s *Select) Walk(f func(Expr) bool) {
	for _, item := range s.Items {
		Walk(item.Expr, f)
	}
	Walk(s.From, f)
	Walk(s.Where, f)
}

// Walk is Walk over the variables and the query of s.
func (s *Statement) Walk(f func(Expr) bool) {
	for _, a := range s.Set {
		Walk(a.Value, f)
	}
	s.Select.Walk(f)
}
