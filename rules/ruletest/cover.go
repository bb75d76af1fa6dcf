package ruletest

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

// coverage is what the cases of one rule have exercised. It is used by one
// goroutine.
type coverage struct {
	rule       *Rule
	reached    bool
	where      branch // zero text: the statement has no WHERE
	conditions []*condition
	probes     []*probe
	templates  []*branch
	onError    []*branch
}

// branch is something that is taken or not.
type branch struct {
	text         string
	taken, other bool // other: WHERE or a condition was not true
}

type condition struct {
	branch
	path []int // among Operand.Operands, from the root of WHERE
}

// probe tells which arm of a CASE is taken. It is a program of its own, made
// from the statement with the arms' values replaced by their numbers.
type probe struct {
	text    string
	arms    []*branch
	program *eval.Program
	always  bool   // it is reached whether or not WHERE holds
	outer   *probe // the CASE in an arm of which it stands
	arm     int
	hit     []bool // of the current case
}

func newCoverage(r *Rule, o Options) *coverage {
	c := &coverage{rule: r}
	stmt := r.Program.Statement()
	text := func(x sql.Expr) string {
		s := x.Pos()
		return strings.Join(strings.Fields(r.Doc.SQL[s.From:s.To]), " ")
	}
	if w := stmt.Select.Where; w != nil {
		c.where.text = text(w)
		c.leaves(w, nil, text)
		if len(c.conditions) == 1 {
			c.conditions = nil // it is WHERE itself
		}
	}
	for _, a := range stmt.Set {
		c.cases(a.Value, nil, true, nil, 0, o, text)
	}
	c.cases(stmt.Select.Where, nil, true, nil, 0, o, text)
	for _, item := range stmt.Select.Items {
		c.cases(item.Expr, nil, false, nil, 0, o, text)
	}
	for i, a := range r.actions {
		for _, t := range a.Templates() {
			c.templates = append(c.templates, &branch{text: fmt.Sprintf("action %d, %s.%s", i+1, r.Doc.Actions[i].Kind, t)})
		}
	}
	if r.onError != nil {
		for _, t := range r.onError.Templates() {
			c.onError = append(c.onError, &branch{text: fmt.Sprintf("error action, %s.%s", r.Doc.ErrorAction.Kind, t)})
		}
	}
	return c
}

// leaves collects the conditions that AND, OR and NOT join. path leads to x in
// the tree of an explanation, which leaves constants out.
func (c *coverage) leaves(x sql.Expr, path []int, text func(sql.Expr) string) {
	switch b := x.(type) {
	case *sql.Binary:
		if b.Op == sql.And || b.Op == sql.Or {
			i := 0
			for _, y := range []sql.Expr{b.X, b.Y} {
				if _, constant := y.(*sql.Literal); constant {
					continue
				}
				c.leaves(y, append(path[:len(path):len(path)], i), text)
				i++
			}
			return
		}
	case *sql.Unary:
		if _, constant := b.X.(*sql.Literal); b.Op == sql.Not && !constant {
			c.leaves(b.X, append(path[:len(path):len(path)], 0), text)
			return
		}
	}
	c.conditions = append(c.conditions, &condition{branch{text: text(x)}, path})
}

// nested is a query around a CASE.
type nested struct {
	sel   *sql.Select
	where bool // its WHERE has chosen the item
}

// cases finds the CASE expressions in x.
func (c *coverage) cases(x sql.Expr, around []nested, always bool, outer *probe, arm int, o Options, text func(sql.Expr) string) {
	inner := func(sel *sql.Select) {
		c.cases(sel.From, around, always, outer, arm, o, text)
		c.cases(sel.Where, append(around[:len(around):len(around)], nested{sel, false}), always, outer, arm, o, text)
		for _, item := range sel.Items {
			c.cases(item.Expr, append(around[:len(around):len(around)], nested{sel, true}), always, outer, arm, o, text)
		}
	}
	sql.Walk(x, func(x sql.Expr) bool {
		switch x := x.(type) {
		case *sql.Subquery:
			inner(x.Select)
			return false
		case *sql.Exists:
			inner(x.Select)
			return false
		case *sql.Case:
			p := &probe{text: "CASE …", always: always, outer: outer, arm: arm}
			number := func(i int) sql.Expr { return &sql.Literal{Span: x.Span, Kind: sql.Number, Text: strconv.Itoa(i)} }
			y := &sql.Case{Span: x.Span, Operand: x.Operand}
			if x.Operand != nil {
				p.text = "CASE " + text(x.Operand) + " …"
			}
			for i, w := range x.Whens {
				y.Whens = append(y.Whens, sql.When{Cond: w.Cond, Then: number(i)})
				p.arms = append(p.arms, &branch{text: "WHEN " + text(w.Cond)})
			}
			if y.Else = number(len(x.Whens)); x.Else != nil {
				p.arms = append(p.arms, &branch{text: "ELSE"})
			}
			if p.program = c.probe(y, around, o); p.program != nil {
				c.probes = append(c.probes, p)
			}
			c.cases(x.Operand, around, always, outer, arm, o, text)
			for i, w := range x.Whens {
				c.cases(w.Cond, around, always, outer, arm, o, text)
				c.cases(w.Then, around, always, p, i, o, text)
			}
			c.cases(x.Else, around, always, p, len(x.Whens), o, text)
			return false
		}
		return true
	})
}

// probe compiles SELECT VALUE x in the place of x, nil where that cannot be
// done.
func (c *coverage) probe(x sql.Expr, around []nested, o Options) *eval.Program {
	for i := len(around) - 1; i >= 0; i-- {
		s := &sql.Select{Span: around[i].sel.Span, Value: true, Items: []sql.Item{{Expr: x, Span: x.Pos()}}, From: around[i].sel.From, As: around[i].sel.As}
		if around[i].where {
			s.Where = around[i].sel.Where
		}
		x = &sql.Subquery{Span: s.Span, Select: s}
	}
	stmt := *c.rule.Program.Statement()
	stmt.Select = &sql.Select{Span: stmt.Select.Span, Value: true, Items: []sql.Item{{Expr: x, Span: x.Pos()}}}
	p, _, err := eval.Compile(&stmt, eval.Options{Version: c.rule.Doc.SQLVersion, RuleName: c.rule.Doc.Name, AccountID: o.AccountID, Lookups: o.Lookups})
	if err != nil {
		return nil
	}
	return p
}

// note records what one case has exercised.
func (c *coverage) note(ctx context.Context, m *eval.Machine, e *event.Event, o *Outcome) {
	if !c.rule.Program.Matches(e.Topic) {
		return
	}
	c.reached = true
	if c.where.text != "" && o.Err == nil {
		c.where.taken = c.where.taken || o.Acts
		c.where.other = c.where.other || !o.Acts
	}
	if len(c.conditions) > 0 {
		root := c.rule.Program.Explain(ctx, m, e).Where
		for _, leaf := range c.conditions {
			op := root
			for _, i := range leaf.path {
				if op == nil || i >= len(op.Operands) {
					op = nil
					break
				}
				op = op.Operands[i]
			}
			if op != nil {
				leaf.taken = leaf.taken || op.Value == "true"
				leaf.other = leaf.other || op.Value != "true"
			}
		}
	}
	for _, p := range c.probes {
		p.hit = make([]bool, len(p.arms)+1)
		if !p.always && !o.Acts || p.outer != nil && !p.outer.hit[min(p.arm, len(p.outer.hit)-1)] {
			continue
		}
		b, ok, err := p.program.Eval(ctx, m, e)
		if err != nil || !ok {
			continue
		}
		p.arrive(b)
	}
	if o.Acts {
		for _, t := range c.templates {
			t.taken = true
		}
	}
	if o.OnError != nil {
		for _, t := range c.onError {
			t.taken = true
		}
	}
}

// arrive notes the numbers of arms in b, a number or nested lists of them.
func (p *probe) arrive(b []byte) {
	var v any
	if json.Unmarshal(b, &v) != nil {
		return
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, y := range v {
				walk(y)
			}
		case float64:
			if i := int(v); i >= 0 && i < len(p.hit) {
				if p.hit[i] = true; i < len(p.arms) {
					p.arms[i].taken = true
				}
			}
		}
	}
	walk(v)
}

// merge adds what d, of the same rule, has exercised.
func (c *coverage) merge(d *coverage) {
	c.reached = c.reached || d.reached
	c.where.merge(&d.where)
	for i, x := range d.conditions {
		c.conditions[i].merge(&x.branch)
	}
	for i, p := range d.probes {
		for k, a := range p.arms {
			c.probes[i].arms[k].merge(a)
		}
	}
	for i, t := range d.templates {
		c.templates[i].merge(t)
	}
	for i, t := range d.onError {
		c.onError[i].merge(t)
	}
}

func (b *branch) merge(o *branch) { b.taken, b.other = b.taken || o.taken, b.other || o.other }

// Coverage says how much of the rules the cases have exercised.
type Coverage struct {
	Rules     Share    `json:"rules"`
	Where     Share    `json:"where"` // WHERE true and not true, and so for each condition in it
	Case      Share    `json:"case"`  // arms of CASE
	Templates Share    `json:"templates"`
	Missing   []Missed `json:"missing"`
}

// Share is a part of a whole.
type Share struct {
	Covered int `json:"covered"`
	Of      int `json:"of"`
}

// Percent returns s in percent, 100 where there is nothing to cover.
func (s Share) Percent() int {
	if s.Of == 0 {
		return 100
	}
	return 100 * s.Covered / s.Of
}

// Missed is something no case has exercised.
type Missed struct {
	File string `json:"file"`
	Rule string `json:"rule,omitempty"`
	Text string `json:"text"`
}

// add counts c, the coverage of a rule file. nil: no case is about the rule.
func (t *Coverage) add(file, rule string, c *coverage) {
	miss := func(format string, args ...any) {
		t.Missing = append(t.Missing, Missed{File: file, Rule: rule, Text: fmt.Sprintf(format, args...)})
	}
	t.Rules.Of++
	if !c.reached {
		miss("no case reaches the rule")
	} else {
		t.Rules.Covered++
	}
	quiet := !c.reached // one line says it all
	count := func(s *Share, covered bool, format string, args ...any) {
		if s.Of++; covered {
			s.Covered++
		} else if !quiet {
			miss(format, args...)
		}
	}
	if c.where.text != "" {
		count(&t.Where, c.where.taken, "WHERE is never true")
		count(&t.Where, c.where.other, "WHERE is always true")
		for _, x := range c.conditions {
			count(&t.Where, x.taken, "in WHERE, %s is never true", x.text)
			count(&t.Where, x.other, "in WHERE, %s is always true", x.text)
		}
	}
	for _, p := range c.probes {
		for _, a := range p.arms {
			count(&t.Case, a.taken, "%s %s is never taken", p.text, a.text)
		}
	}
	for _, list := range [][]*branch{c.templates, c.onError} {
		for _, x := range list {
			count(&t.Templates, x.taken, "%s is never filled in", x.text)
		}
	}
}
