package server

import (
	"context"
	"sync"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

// language joins the engine with AWS IoT SQL.
type language struct {
	accountID string
	lookups   eval.Lookups
}

// compile returns the program of r, and what the language accepts but cannot
// mean.
func (l *language) compile(r *rules.Rule) (*program, []sql.Error, error) {
	stmt, err := sql.Parse(r.SQL)
	if err != nil {
		return nil, nil, err
	}
	p, warnings, err := eval.Compile(stmt, eval.Options{Version: r.SQLVersion, RuleName: r.Name, AccountID: l.accountID, Lookups: l.lookups})
	if err != nil {
		return nil, nil, err
	}
	return &program{p}, warnings, nil
}

// Compile implements rules.Language.
func (l *language) Compile(r *rules.Rule) (rules.Program, error) {
	p, _, err := l.compile(r)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// NewMachine implements rules.Language.
func (l *language) NewMachine() rules.Machine { return machine{eval.NewMachine()} }

type machine struct{ *eval.Machine }

func (m machine) Exceeded() uint64 { return m.RegexLimitHits() }

type program struct{ *eval.Program }

func (p *program) Eval(ctx context.Context, m rules.Machine, e *event.Event) ([]byte, bool, error) {
	return p.Program.Eval(ctx, m.(machine).Machine, e)
}

// machines are for templates, which actions execute from goroutines of their
// own.
var machines = sync.Pool{New: func() any { return eval.NewMachine() }}

type template struct{ *eval.Template }

func compileTemplate(src string, owner *eval.Program) (actions.Template, error) {
	t, err := eval.CompileTemplate(src, owner)
	if err != nil {
		return nil, err
	}
	return template{t}, nil
}

func (t template) Execute(ctx context.Context, e *event.Event) (string, error) {
	m := machines.Get().(*eval.Machine)
	defer machines.Put(m)
	return t.Template.Execute(ctx, m, e)
}
