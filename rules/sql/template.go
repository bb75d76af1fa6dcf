package sql

import "strings"

// Part is a piece of a substitution template.
type Part struct {
	Text string // copied as it is; only where Expr is nil
	Expr Expr   // of ${expr}
	Span Span   // of the piece in the template, with the ${ and }
}

// ParseTemplate cuts src into text and ${expr}, in order; no two texts are
// neighbours, and none is empty. Only "${" is special: a $ before anything else
// is text, and there is no way to write a "${" that is text other than ${'${'}.
// The error is an *Error, with its place in the template.
func ParseTemplate(src string) (_ []Part, err error) {
	defer rescue(&err)
	r := newReader(src)
	var parts []Part
	for pos := 0; pos < len(src); {
		from := pos
		i := strings.Index(src[from:], "${")
		if i < 0 {
			i = len(src) - from
		}
		if i > 0 {
			parts = append(parts, Part{Text: src[from : from+i], Span: Span{from, from + i}})
		}
		if pos = from + i; pos < len(src) {
			span := r.substitution(pos)
			parts = append(parts, Part{Span: span})
			pos = span.To
		}
	}
	if len(r.holes) == 0 {
		return parts, nil
	}
	r.text = r.text[:len(r.text)-1] // the comma behind the last
	exprs := newConverter(r).expressions()
	for i := range parts {
		if parts[i].Text == "" {
			parts[i].Expr, exprs = exprs[0], exprs[1:]
		}
	}
	return parts, nil
}

// substitution reads the ${expr} at offset from, and writes a comma after it.
func (r *reader) substitution(from int) Span {
	opening := Span{from, from + 2}
	r.start(opening.To)
	if r.tok.is("}") {
		r.fail(Span{from, r.tok.span.To}, "", "${} has no expression")
	}
	if r.tok.kind == tokEnd {
		r.fail(opening, "", "${ is not closed")
	}
	r.expr()
	if r.tok.kind == tokEnd {
		r.fail(opening, "", "${ is not closed")
	}
	if !r.tok.is("}") {
		r.unexpected("an operator or }", operators...)
	}
	r.write(",")
	return Span{from, r.tok.span.To}
}
