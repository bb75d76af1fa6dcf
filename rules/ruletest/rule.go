package ruletest

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

// Action shows what an action of a rule would be asked to do; it does nothing.
// Several goroutines may use it.
type Action interface {
	// Render returns the action's parameters for one result as a JSON object, in
	// the order of the rule's document. err tells why the action would not take
	// the result.
	Render(ctx context.Context, e *event.Event, payload []byte) (params json.RawMessage, err error)
	// Templates returns the dotted paths of the parameters that have substitution
	// templates.
	Templates() []string
	// Empty returns the substitutions that stand for nothing with this event:
	// "${deviceId} in key".
	Empty(ctx context.Context, e *event.Event) []string
	Close(ctx context.Context) error
}

// Actions makes actions. An error may tell the field it is about, as
// rules.Checker has it.
type Actions func(ctx context.Context, r *rules.Rule, p *eval.Program, a rules.Action, errorAction bool) (Action, error)

// Rule is a compiled rule with its actions. It is immutable once compiled;
// several goroutines may use it, each with a Machine of its own.
type Rule struct {
	File     string // "": a statement alone
	Doc      *rules.Rule
	Program  *eval.Program
	Warnings []sql.Error
	actions  []Action
	onError  Action // nil: none
}

// Options are what rules are compiled with.
type Options struct {
	AccountID string
	Lookups   eval.Lookups
	Actions   Actions
}

// Compile checks a rule as creating it does. file is what the document was read
// from. The error is rules.Problems, with all mistakes and their places.
func Compile(ctx context.Context, file string, d *rules.Document, o Options) (*Rule, error) {
	r := &Rule{File: file, Doc: d.Rule}
	err := d.Check(ctx, rules.Checker{
		Language: rules.SQL{AccountID: o.AccountID, Lookups: o.Lookups},
		Action: func(ctx context.Context, doc *rules.Rule, p rules.Program, kind string, params json.RawMessage, errorAction bool) error {
			a, err := o.Actions(ctx, doc, p.(rules.SQLProgram).Program, rules.Action{Kind: kind, Params: params}, errorAction)
			switch {
			case err != nil:
				return err
			case errorAction:
				r.onError = a
			default:
				r.actions = append(r.actions, a)
			}
			return nil
		},
	})
	if err != nil {
		return nil, errors.Join(err, r.Close(ctx))
	}
	c, err := compileSQL(d.Rule, o)
	if err != nil {
		return nil, errors.Join(err, r.Close(ctx))
	}
	r.Program, r.Warnings = c.Program, c.Warnings
	return r, nil
}

// CompileSQL compiles a statement without actions. name is the rule's name. The
// error is a *sql.Error.
func CompileSQL(name, text, version string, o Options) (*Rule, error) {
	return compileSQL(&rules.Rule{Name: name, SQL: text, SQLVersion: version}, o)
}

func compileSQL(doc *rules.Rule, o Options) (*Rule, error) {
	stmt, err := sql.Parse(doc.SQL)
	if err != nil {
		return nil, err
	}
	p, warnings, err := eval.Compile(stmt, eval.Options{Version: doc.SQLVersion, RuleName: doc.Name, AccountID: o.AccountID, Lookups: o.Lookups})
	if err != nil {
		return nil, err
	}
	for _, w := range sql.Warnings(stmt) {
		warnings = append(warnings, *w)
	}
	slices.SortStableFunc(warnings, func(a, b sql.Error) int { return a.Span.From - b.Span.From })
	return &Rule{Doc: doc, Program: p, Warnings: warnings}, nil
}

// Close lets go of the actions.
func (r *Rule) Close(ctx context.Context) error {
	var all []error
	for _, a := range r.actions {
		all = append(all, a.Close(ctx))
	}
	if r.onError != nil {
		all = append(all, r.onError.Close(ctx))
	}
	return errors.Join(all...)
}

// Outcome is what a rule makes of one event.
type Outcome struct {
	Acts    bool
	Reason  string   // why it does not act: "topic", "where", "error", "twice"; "" where it does
	Payload []byte   // of the result
	Err     error    // the evaluation failed
	Actions []Filled // one for each action, in the rule's order; empty where it does not act
	OnError *Filled  // the error action, where it would get the message
}

// Filled is an action with its parameters for one result.
type Filled struct {
	Kind   string
	Params json.RawMessage // JSON, templates substituted
	Err    error           // why the action would not take the result
}

// Run evaluates r over e.
func (r *Rule) Run(ctx context.Context, m *eval.Machine, e *event.Event) *Outcome {
	o := &Outcome{}
	if !r.Program.Matches(e.Topic) {
		o.Reason = "topic"
		return o
	}
	var ok bool
	o.Payload, ok, o.Err = r.Program.Eval(ctx, m, e)
	switch {
	case o.Err != nil:
		o.Reason, o.Payload = "error", nil
		o.Err = errors.New(errs.Text(o.Err))
	case !ok && r.Program.Statement().Select.Where == nil:
		o.Reason = "twice"
	case !ok:
		o.Reason = "where"
	default:
		o.Acts = true
	}
	failed := o.Err != nil
	if o.Acts {
		for i, a := range r.actions {
			f := Filled{Kind: r.Doc.Actions[i].Kind}
			f.Params, f.Err = a.Render(ctx, e, o.Payload)
			failed = failed || f.Err != nil
			o.Actions = append(o.Actions, f)
		}
	}
	if failed && r.onError != nil {
		o.OnError = &Filled{Kind: r.Doc.ErrorAction.Kind}
		o.OnError.Params, o.OnError.Err = r.onError.Render(ctx, e, []byte("{}"))
	}
	return o
}

// Empty returns, for each action, the substitutions that stand for nothing.
func (r *Rule) Empty(ctx context.Context, e *event.Event) [][]string {
	list := make([][]string, len(r.actions))
	for i, a := range r.actions {
		list[i] = a.Empty(ctx, e)
	}
	return list
}

// LeftOut returns the columns that are not in a result because their value is
// Undefined, by name.
func (r *Rule) LeftOut(payload []byte) (names []string) {
	sel := r.Program.Statement().Select
	if sel.Value {
		return nil
	}
	v, err := decode(payload)
	if err != nil {
		return nil
	}
columns:
	for _, item := range sel.Items {
		levels := item.Alias
		if levels == nil {
			switch x := item.Expr.(type) {
			case *sql.Star:
				continue
			case *sql.Path:
				levels = x.Names[len(x.Names)-1:]
			case *sql.Member:
				levels = x.Names[len(x.Names)-1:]
			case *sql.Var:
				levels = []string{x.Name}
			default:
				span := x.Pos()
				levels = []string{r.Doc.SQL[span.From:span.To]}
			}
		}
		at := v
		for _, l := range levels {
			m, _ := at.(map[string]any)
			next, ok := m[l]
			if !ok {
				names = append(names, strings.Join(levels, "."))
				continue columns
			}
			at = next
		}
	}
	return names
}
