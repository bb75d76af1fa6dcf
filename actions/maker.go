package actions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/suggest"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/lane"
)

// Maker makes lanes of the kinds it knows.
type Maker struct {
	Kinds []Kind
	Env   Env // what is the same for every rule; Rule and Template are filled in
	Dead  DeadLetters

	Outcomes Recorder // nil: none are kept
	// Lane holds the options that are the same for every lane: window, retry and
	// back-off, Logger, Now.
	Lane LaneOptions
}

// Plan says which lane is wanted.
type Plan struct {
	Rule        string
	Program     *eval.Program
	Index       int
	Kind        string
	Params      json.RawMessage
	ErrorKind   string // "": the rule has no error action
	ErrorParams json.RawMessage
	State       lane.State
}

// NewLane makes the lane of a plan; nothing of it runs.
func (m *Maker) NewLane(ctx context.Context, p Plan) (*Lane, error) {
	o := m.Lane
	o.Rule, o.Index, o.Kind, o.State, o.Dead, o.Outcomes = p.Rule, p.Index, p.Kind, p.State, m.Dead, m.Outcomes
	var err error
	if o.Action, o.Spec, err = m.open(ctx, p.Rule, p.Program, p.Kind, p.Params); err != nil {
		return nil, err
	}
	if p.ErrorKind != "" {
		o.ErrorKind = p.ErrorKind
		if o.ErrorAction, o.ErrorSpec, err = m.open(ctx, p.Rule, p.Program.ForErrorAction(), p.ErrorKind, p.ErrorParams); err != nil {
			return nil, errors.Join(err, o.Action.Close(ctx))
		}
	}
	if o.Logger == nil {
		o.Logger = m.Env.Logger
	}
	return NewLane(o), nil
}

// Check validates the parameters of one action completely. errorAction: it is
// the rule's error action. Errors: a *FieldError where a place is known.
func (m *Maker) Check(ctx context.Context, rule string, p *eval.Program, kind string, params json.RawMessage, errorAction bool) error {
	if errorAction {
		p = p.ForErrorAction()
	}
	dry := *m
	dry.Env.Destinations = nil // a check asks no web server to confirm
	a, _, err := dry.open(ctx, rule, p, kind, params)
	if err != nil {
		return err
	}
	return a.Close(ctx)
}

func (m *Maker) open(ctx context.Context, rule string, p *eval.Program, kind string, params json.RawMessage) (Action, Spec, error) {
	names := make([]string, len(m.Kinds))
	for i, k := range m.Kinds {
		names[i] = k.Name
		if k.Name != kind {
			continue
		}
		env := m.Env
		env.Rule = rule
		env.Template = Templates(p)
		return k.New(ctx, env, params)
	}
	e := &FieldError{Offset: -1, Msg: fmt.Sprintf("unknown action %q", kind), Hint: "known are " + strings.Join(names, ", ")}
	if near, ok := suggest.Nearest(kind, names); ok {
		e.Hint = fmt.Sprintf("did you mean %q?", near)
	}
	return nil, Spec{}, e
}

// Deliver delivers one recorded result through the action a plan describes, as
// a redrive does: once, with the tries of an answered failure.
func (m *Maker) Deliver(ctx context.Context, p Plan, r *Result) error {
	const op = "actions.Deliver"
	a, spec, err := m.open(ctx, p.Rule, p.Program, p.Kind, p.Params)
	if err != nil {
		return errs.E(op, errs.Invalid, err)
	}
	limit := spec.Timeout
	if limit <= 0 {
		limit = 30 * time.Second
	}
	for n := range 3 {
		if err = call(ctx, a, limit, []*Result{r}); err == nil || classOf(err) != answered {
			break
		}
		t := time.NewTimer(max(min(retryAfter(err), limit), 100*time.Millisecond<<n))
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		err = errs.E(op, errs.Unavailable, err)
	}
	return errors.Join(err, a.Close(ctx))
}

// Templates compiles substitution templates in the scope of p. It is what
// Env.Template is.
func Templates(p *eval.Program) func(src string) (Template, error) {
	machines := &sync.Pool{New: func() any { return eval.NewMachine() }}
	return func(src string) (Template, error) {
		t, err := eval.CompileTemplate(src, p)
		if err != nil {
			return nil, err
		}
		return pooled{t, machines}, nil
	}
}

// pooled is a template that many goroutines may execute.
type pooled struct {
	*eval.Template
	machines *sync.Pool
}

func (t pooled) Execute(ctx context.Context, e *event.Event) (string, error) {
	m := t.machines.Get().(*eval.Machine)
	s, err := t.Template.Execute(ctx, m, e)
	t.machines.Put(m) // not where it panicked: it may be in any state
	return s, err
}
