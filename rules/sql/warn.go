package sql

import "strings"

// Warnings returns what in a statement can be read but was hardly meant, in the
// order of the source: a subtraction of two members without spaces, where the
// payload most likely has a member with a hyphen.
func Warnings(stmt *Statement) (list []*Error) {
	stmt.Walk(func(x Expr) bool {
		minus, ok := x.(*Binary)
		if !ok || minus.Op != Sub {
			return true
		}
		get, ok := hyphenated(stmt.Source, minus)
		if !ok {
			return true
		}
		text := clip(stmt.Source[minus.Span.From:minus.Span.To])
		list = append(list, At(stmt.Source, minus.Span,
			"for a member with a hyphen write "+clip(get)+"; for a subtraction put spaces around the minus",
			"%s is a subtraction", text))
		return false
	})
	return list
}

// hyphenated returns the call of get that reaches the member which x, a
// subtraction, spells; ok is false where x spells none.
func hyphenated(src string, x *Binary) (get string, ok bool) {
	last, ok := x.Y.(*Path)
	if !ok {
		return "", false
	}
	words := []string{last.Names[0]} // from the last to the first
	left, to := x.X, last.Span.From
	const most = 8 // a longer chain is not looked through, from each of its ends
	for len(words) < most {
		from := left.Pos().To
		if src[from:to] != "-" {
			return "", false
		}
		switch x := left.(type) {
		case *Path:
			n := len(x.Names) - 1
			of := "*"
			if n > 0 {
				of = strings.Join(x.Names[:n], ".")
			}
			words = append(words, x.Names[n])
			var name strings.Builder
			for i := len(words) - 1; i >= 0; i-- {
				name.WriteString(words[i])
				if i > 0 {
					name.WriteByte('-')
				}
			}
			rest := ""
			if len(last.Names) > 1 {
				rest = "." + strings.Join(last.Names[1:], ".")
			}
			return "get(" + of + ", '" + name.String() + "')" + rest, true
		case *Binary:
			middle, isPath := x.Y.(*Path)
			if x.Op != Sub || !isPath || len(middle.Names) != 1 {
				return "", false
			}
			words = append(words, middle.Names[0])
			left, to = x.X, middle.Span.From
		default:
			return "", false
		}
	}
	return "", false
}
