package rules

import (
	"context"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

// SQL is AWS IoT SQL as the engine's Language.
type SQL struct {
	AccountID string
	Lookups   eval.Lookups
}

var _ Language = SQL{}

// Compile implements Language. Its error is a *sql.Error.
func (l SQL) Compile(r *Rule) (Program, error) {
	p, _, err := l.compile(r)
	if err != nil {
		return nil, err
	}
	return SQLProgram{p}, nil
}

func (l SQL) compile(r *Rule) (*eval.Program, []sql.Error, error) {
	stmt, err := sql.Parse(r.SQL)
	if err != nil {
		return nil, nil, err
	}
	return eval.Compile(stmt, eval.Options{Version: r.SQLVersion, RuleName: r.Name, AccountID: l.AccountID, Lookups: l.Lookups})
}

// Warnings returns what d's statement says that the language accepts but cannot
// mean. A statement that does not compile has none.
func (l SQL) Warnings(d *Document) []*Problem {
	_, warnings, err := l.compile(d.Rule)
	if err != nil {
		return nil
	}
	out := make([]*Problem, len(warnings))
	for i := range warnings {
		out[i] = d.sqlProblem(d.root.Get("sql"), &warnings[i])
	}
	return out
}

// NewMachine implements Language.
func (SQL) NewMachine() Machine { return sqlMachine{eval.NewMachine()} }

// SQLProgram is a compiled statement of AWS IoT SQL.
type SQLProgram struct{ *eval.Program }

// Eval implements Program.
func (p SQLProgram) Eval(ctx context.Context, m Machine, e *event.Event) ([]byte, bool, error) {
	return p.Program.Eval(ctx, m.(sqlMachine).Machine, e)
}

type sqlMachine struct{ *eval.Machine }

func (m sqlMachine) Exceeded() uint64 { return m.RegexLimitHits() }
