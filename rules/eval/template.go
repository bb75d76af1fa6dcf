package eval

import (
	"context"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules/sql"
)

// Template is text with substitutions, ${expression}. It is immutable, like a
// Program.
type Template struct {
	code
	source string
	parts  []templatePart
	fixed  bool // it has no substitution
	text   string
}

type templatePart struct {
	text string
	expr node // nil: text
}

// CompileTemplate compiles a substitution template of a rule's action. owner is
// the rule's program: its version, services and SET variables count, its
// aliases do not. The error is a *sql.Error with a place in src.
func CompileTemplate(src string, owner *Program) (*Template, error) {
	parts, err := sql.ParseTemplate(src)
	if err != nil {
		return nil, err
	}
	t := &Template{source: src, fixed: true}
	c := newCompiler(src, owner)
	vars := false
	for _, part := range parts {
		if part.Expr == nil {
			t.parts = append(t.parts, templatePart{text: part.Text})
			t.text += part.Text
			continue
		}
		if t.fixed = false; !vars {
			// Variables are computed again, over the same payload.
			vars = true
			c.source = owner.stmt.Source
			c.set(owner.stmt)
			c.source = src
			if c.err != nil {
				return nil, c.err
			}
		}
		t.parts = append(t.parts, templatePart{expr: c.expr(part.Expr)})
	}
	if c.err != nil {
		return nil, c.err
	}
	c.finish(&t.code)
	return t, nil
}

// Source returns the text t was compiled from.
func (t *Template) Source() string { return t.source }

// Literal returns t's text where it has no substitutions.
func (t *Template) Literal() (string, bool) { return t.text, t.fixed }

// Execute returns t's text for e, the original message: each value as a String,
// Null and Undefined as nothing. It fails as Program.Eval does.
func (t *Template) Execute(ctx context.Context, m *Machine, e *event.Event) (string, error) {
	if t.fixed {
		return t.text, nil
	}
	m.begin(ctx, e, &t.code)
	for i := range t.parts {
		part := &t.parts[i]
		if part.expr == nil {
			m.out = append(m.out, part.text...)
			continue
		}
		v := part.expr.eval(m)
		if m.err != nil {
			return "", m.err
		}
		m.out = append(m.out, v.ToStr().s...)
		if !m.checkOut() {
			return "", m.err
		}
	}
	return string(m.out), nil
}
