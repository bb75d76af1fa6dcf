package param

import (
	"context"
	"sync"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules/eval"
)

// Compiler returns the Env.Template of a rule's actions.
func Compiler(owner *eval.Program) func(src string) (actions.Template, error) {
	return func(src string) (actions.Template, error) {
		t, err := eval.CompileTemplate(src, owner)
		if err != nil {
			return nil, err
		}
		return template{t}, nil
	}
}

// template gives each execution a machine of its own.
type template struct{ *eval.Template }

var machines = sync.Pool{New: func() any { return eval.NewMachine() }}

func (t template) Execute(ctx context.Context, e *event.Event) (string, error) {
	m := machines.Get().(*eval.Machine)
	defer machines.Put(m)
	return t.Template.Execute(ctx, m, e)
}
