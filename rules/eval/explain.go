package eval

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/sql"
)

// Explanation says what a program makes of an event, and why. It shares no
// memory with the event or the Machine.
type Explanation struct {
	Topic     topic.Name
	Filter    topic.Filter // "" where the statement has no FROM
	Matches   bool         // the topic reaches the rule
	NoMembers string       // why the payload has no members; "" where it has
	Vars      []ExplainedVar
	Where     *Operand // nil: none
	Acts      bool
	Payload   []byte // outgoing; nil where the rule does not act
	Err       error  // why the evaluation failed
}

// ExplainedVar is a variable of the SET clause.
type ExplainedVar struct{ Name, Value string }

// Operand is an expression of WHERE with its value, and the operands it was
// made from.
type Operand struct {
	Text     string // as written
	Value    string // JSON, or Undefined
	Note     string // what is peculiar about it; usually ""
	Operands []*Operand
}

// Explain evaluates p over e, whatever its topic, and tells how the outcome came
// about.
func (p *Program) Explain(ctx context.Context, m *Machine, e *event.Event) *Explanation {
	x := &Explanation{Topic: e.Topic, Filter: p.filter, Matches: p.Matches(e.Topic)}
	payload, acts, err := p.Eval(ctx, m, e)
	x.Acts, x.Err = acts && x.Matches, err
	if x.Acts {
		x.Payload = bytes.Clone(payload)
	}
	m.begin(ctx, e, &p.code)
	x.NoMembers = whyNoMembers(e.Payload)
	for _, a := range p.stmt.Set {
		if v := p.variables[a.Name]; v != nil {
			m.refill(len(e.Payload))
			x.Vars = append(x.Vars, ExplainedVar{a.Name, v.eval(m).String()})
		}
	}
	if where := p.stmt.Select.Where; where != nil {
		x.Where = p.operand(m, where)
	}
	return x
}

// whyNoMembers says why a payload has none, "" where it has.
func whyNoMembers(b []byte) string {
	_, _, _, ok := document(b, nil, nil, nil)
	switch {
	case ok:
		if t := bytes.TrimLeft(b, " \t\r\n"); t[0] == '[' {
			return "the payload is a JSON array, not an object"
		}
		return ""
	case len(b) == 0:
		return "the payload is empty"
	}
	if _, ok := ParseJSON(b, V2016); ok {
		return "the payload is JSON, but no object"
	}
	return fmt.Sprintf("the payload is not JSON, or is nested deeper than %d levels", maxDepth)
}

// operand explains x, an expression of WHERE.
func (p *Program) operand(m *Machine, x sql.Expr) *Operand {
	span := x.Pos()
	o := &Operand{Text: p.stmt.Source[span.From:span.To], Value: "Undefined"}
	if n, ok := p.nodes[x]; ok {
		m.refill(len(m.event.Payload))
		v := n.eval(m)
		o.Value = shorten(v.String())
		o.Note = p.note(m, x)
	}
	for _, y := range operandsOf(x) {
		if _, ok := y.(*sql.Literal); !ok {
			o.Operands = append(o.Operands, p.operand(m, y))
		}
	}
	return o
}

// note tells why an operand may be Undefined though one would not think so.
func (p *Program) note(m *Machine, x sql.Expr) string {
	switch x := x.(type) {
	case *sql.Path:
		if p.nodes[x].eval(m).kind == Undefined {
			return "no such member"
		}
	case *sql.Binary:
		a, b := p.nodes[x.X], p.nodes[x.Y]
		if a == nil || b == nil {
			return ""
		}
		switch x.Op {
		case sql.Eq, sql.Ne:
			u, v := a.eval(m), b.eval(m)
			if u.kind != Undefined && v.kind != Undefined && u.kind != v.kind && !(u.IsNumber() && v.IsNumber()) {
				return fmt.Sprintf("%s and %s are never equal", u.kind, v.kind)
			}
		case sql.Lt, sql.Le, sql.Gt, sql.Ge:
			for _, v := range []Value{a.eval(m), b.eval(m)} {
				if v.kind != Undefined && v.ToNum(p.ver).kind == Undefined {
					return fmt.Sprintf("%s is not a number", shorten(v.String()))
				}
			}
		}
	}
	return ""
}

// operandsOf returns what x is made from in the same frame.
func operandsOf(x sql.Expr) []sql.Expr {
	switch x := x.(type) {
	case *sql.Unary:
		return []sql.Expr{x.X}
	case *sql.Binary:
		return []sql.Expr{x.X, x.Y}
	case *sql.In:
		return []sql.Expr{x.X, x.Set}
	case *sql.Call:
		return x.Args
	case *sql.Cast:
		return []sql.Expr{x.X}
	case *sql.Member:
		return []sql.Expr{x.X}
	case *sql.Case:
		var list []sql.Expr
		if x.Operand != nil {
			list = append(list, x.Operand)
		}
		for _, w := range x.Whens {
			list = append(list, w.Cond)
		}
		return list
	}
	return nil
}

// shownValue bounds a value's text in an explanation.
const shownValue = 120

func shorten(s string) string {
	if len(s) <= shownValue {
		return s
	}
	return strings.ToValidUTF8(s[:shownValue], "") + "…"
}

// Text returns x for people, without a newline at the end.
func (x *Explanation) Text() string {
	var b strings.Builder
	switch {
	case x.Matches:
		fmt.Fprintf(&b, "topic    %s matches", x.Topic)
	case x.Filter == "":
		fmt.Fprintf(&b, "topic    %s does not match: the rule has no FROM and is reached by Basic Ingest only", x.Topic)
	default:
		fmt.Fprintf(&b, "topic    %s does not match", x.Topic)
	}
	if x.Filter != "" {
		fmt.Fprintf(&b, " %s", x.Filter)
	}
	if x.NoMembers != "" {
		fmt.Fprintf(&b, "\npayload  %s: every member is Undefined", x.NoMembers)
	}
	for _, v := range x.Vars {
		fmt.Fprintf(&b, "\nset      @%s = %s", v.Name, shorten(v.Value))
	}
	if x.Where != nil {
		b.WriteString("\nwhere    " + strings.Join(x.Where.Tree(), "\n         "))
	}
	switch {
	case x.Err != nil:
		fmt.Fprintf(&b, "\nresult   error: %v; the error action gets the message", x.Err)
	case x.Acts:
		fmt.Fprintf(&b, "\nresult   %s", shownPayload(x.Payload))
	case !x.Matches:
		b.WriteString("\nresult   no action: the topic does not match")
	case x.Where != nil:
		fmt.Fprintf(&b, "\nresult   no action: WHERE is %s, not true", x.Where.Value)
	default:
		b.WriteString("\nresult   no action: the statement calls get_dynamodb more than once")
	}
	return b.String()
}

func shownPayload(b []byte) string {
	for _, c := range b {
		if c < ' ' && c != '\n' && c != '\t' && c != '\r' {
			return fmt.Sprintf("%d bytes that are not text", len(b))
		}
	}
	if len(b) == 0 {
		return "an empty payload"
	}
	return string(b)
}

// Tree draws the operand with the value of each one it was made from, a line
// each.
func (o *Operand) Tree() []string {
	rows := operandRows(o, "", "", nil)
	width := 0
	for _, r := range rows {
		if n := utf8.RuneCountInString(r[0]); n <= 72 {
			width = max(width, n)
		}
	}
	lines := make([]string, len(rows))
	for i, r := range rows {
		lines[i] = r[0] + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(r[0]))) + " → " + r[1]
	}
	return lines
}

func operandRows(o *Operand, first, rest string, rows [][2]string) [][2]string {
	value := o.Value
	if o.Note != "" {
		value += "  (" + o.Note + ")"
	}
	rows = append(rows, [2]string{first + strings.Join(strings.Fields(o.Text), " "), value})
	for i, y := range o.Operands {
		if i == len(o.Operands)-1 {
			rows = operandRows(y, rest+"└─ ", rest+"   ", rows)
		} else {
			rows = operandRows(y, rest+"├─ ", rest+"│  ", rows)
		}
	}
	return rows
}
