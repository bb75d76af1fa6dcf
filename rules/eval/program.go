package eval

import (
	"bytes"
	"context"
	"strings"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/sql"
)

// Program is a compiled statement. It is immutable: any number of goroutines
// may use it, each with a Machine of its own.
type Program struct {
	code
	stmt        *sql.Statement
	info        *ruleInfo
	filter      topic.Filter
	hasFilter   bool
	errorAction bool
	callsOut    bool
	never       bool // the statement is of a kind that ends without acting
	where       cond // nil: none
	whereNode   node
	project     *projection
	nodes       map[sql.Expr]node // of WHERE, for Explain
	variables   map[string]*variable
}

// code is what a Machine must know of a program or a template to begin.
type code struct {
	ver   Version
	shape *shape // the members to read from the payload; nil: none
	slots int32  // refs the shape fills
	depth int    // frames
	vars  int    // variables of SET
	reads bool   // the payload is looked at
}

// Statement returns what p was compiled from; it must not be changed.
func (p *Program) Statement() *sql.Statement { return p.stmt }

// Version returns the version of the language p was compiled for.
func (p *Program) Version() Version { return p.info.version }

// Filter returns the topic filter of FROM; ok is false where the statement has
// none and is reached by Basic Ingest only.
func (p *Program) Filter() (f topic.Filter, ok bool) { return p.filter, p.hasFilter }

// CallsOut reports whether evaluating p may wait for a look-up.
func (p *Program) CallsOut() bool { return p.callsOut }

// Matches reports whether a message on n reaches p: by its filter, or by Basic
// Ingest under the name of its rule.
func (p *Program) Matches(n topic.Name) bool {
	if rule, _, ok := n.Rule(); ok {
		return rule == p.info.rule
	}
	return p.hasFilter && topic.Match(p.filter, n, topic.AWS)
}

// ForErrorAction returns p for compiling templates of its rule's error action,
// which may not call out.
func (p *Program) ForErrorAction() *Program {
	q := *p
	q.errorAction = true
	return &q
}

// Eval runs p over e, whose topic is taken to match. ok is false where WHERE is
// not true: the rule does not act. payload is the outgoing payload, made for
// this call. err is set where a look-up failed or a budget was exceeded: the
// rule's error action acts instead. The result depends on p, e and what
// look-ups answer, on nothing else.
func (p *Program) Eval(ctx context.Context, m *Machine, e *event.Event) (payload []byte, ok bool, err error) {
	if p.never {
		return nil, false, nil
	}
	m.begin(ctx, e, &p.code)
	if p.where != nil && !p.where.holds(m) || m.err != nil {
		return nil, false, m.err
	}
	if p.project.star {
		if item := m.item(); item.kind == Undefined || item.form&formMessy == 0 {
			if item.kind == Undefined {
				return bytes.Clone(e.Payload), true, nil
			}
			return []byte(item.s), true, nil
		}
	}
	p.project.write(m)
	if m.err != nil {
		return nil, false, m.err
	}
	return bytes.Clone(m.out), true, nil
}

// detached runs a node that depends on constants alone and returns a value that
// shares no memory with a Machine.
func detached(n node) Value {
	m := NewMachine()
	m.begin(context.Background(), &event.Event{}, &code{depth: 1})
	v := n.eval(m)
	if v.kind == String {
		v.s = strings.Clone(v.s)
	}
	return v
}
