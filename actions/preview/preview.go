// Package preview says what an action would be asked to do with a result, and
// connects to nothing.
//
// It stands beside a message's way: rules are tried out and tested with it. The
// action is the real one; what it would send is caught before it leaves.
package preview

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/install"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/strictyaml"
	"github.com/weir-iot/weir/internal/suggest"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

// Options say which action of which rule.
type Options struct {
	Rule        string
	Kind        string
	Params      json.RawMessage
	Program     *eval.Program // of the rule; scope of the templates
	ErrorAction bool
	AccountID   string
	Region      string
	Topics      topic.Limits // bounds of topics results are published on
}

// Action is an action that sends nothing. Its methods may be called by several
// goroutines at a time.
type Action struct {
	rule      string
	real      actions.Action
	params    *strictyaml.Node
	fields    []actions.Field
	templates map[*strictyaml.Node]*eval.Template
	paths     []string
	parts     []part
}

// part is one substitution of a parameter.
type part struct {
	path, text string // text is ${…} as written
	template   *eval.Template
}

// New checks the action as creating its rule does, and compiles its templates.
func New(ctx context.Context, o Options) (*Action, error) {
	kind, ok := install.Find(o.Kind)
	if !ok {
		var names []string
		for _, k := range install.Kinds() {
			names = append(names, k.Name)
		}
		hint := "known: " + strings.Join(names, ", ")
		if near, ok := suggest.Nearest(o.Kind, names); ok {
			hint = fmt.Sprintf("did you mean %s?", near)
		}
		return nil, &actions.FieldError{Offset: -1, Msg: fmt.Sprintf("unknown action %q", o.Kind), Hint: hint}
	}
	owner := o.Program
	if o.ErrorAction {
		owner = owner.ForErrorAction()
	}
	a := &Action{rule: o.Rule, fields: kind.Fields, templates: map[*strictyaml.Node]*eval.Template{}}
	var err error
	a.real, _, err = kind.New(ctx, actions.Env{
		Rule: o.Rule, AccountID: o.AccountID, Region: o.Region, Logger: slog.New(slog.DiscardHandler), TopicLimits: o.Topics,
		Template: actions.Templates(owner),
		Publish:  publish,
		PublishAll: func(ctx context.Context, events []*event.Event) []error {
			out := make([]error, len(events))
			for i, e := range events {
				out[i] = publish(ctx, e)
			}
			return out
		},
		AWS:          func(context.Context) (aws.Config, error) { return aws.Config{}, errCaught },
		AllowPrivate: true,
		Destinations: catcher{},
	}, o.Params)
	if err != nil {
		return nil, err
	}
	if a.params, err = strictyaml.Parse(o.Kind, o.Params); err != nil {
		return nil, err
	}
	return a, a.compile(a.params, kind.Fields, owner, nil)
}

// compile finds the templates among the parameters.
func (a *Action) compile(n *strictyaml.Node, fields []actions.Field, owner *eval.Program, path []string) error {
	if n.Kind == strictyaml.List {
		for i, item := range n.Items {
			if err := a.compile(item, fields, owner, append(slices.Clone(path), strconv.Itoa(i))); err != nil {
				return err
			}
		}
		return nil
	}
	for _, f := range n.Fields {
		i := slices.IndexFunc(fields, func(k actions.Field) bool { return k.Name == f.Name })
		if i < 0 {
			continue
		}
		at := append(slices.Clone(path), f.Name)
		if !fields[i].Template {
			if err := a.compile(f.Value, fields[i].Fields, owner, at); err != nil {
				return err
			}
			continue
		}
		if f.Value.Kind != strictyaml.String {
			continue
		}
		t, err := eval.CompileTemplate(f.Value.Text, owner)
		if err != nil {
			return err
		}
		a.templates[f.Value] = t
		if _, fixed := t.Literal(); fixed {
			continue
		}
		name := strings.Join(at, ".")
		a.paths = append(a.paths, name)
		parts, err := sql.ParseTemplate(f.Value.Text)
		if err != nil {
			return err
		}
		for _, p := range parts {
			if p.Expr == nil {
				continue
			}
			// Each by itself, to tell which one gives nothing.
			span := p.Expr.Pos()
			text := "${" + f.Value.Text[span.From:span.To] + "}"
			if one, err := eval.CompileTemplate(text, owner); err == nil {
				a.parts = append(a.parts, part{name, text, one})
			}
		}
	}
	return nil
}

// Empty returns the substitutions that stand for nothing in e's parameters,
// being Undefined, Null or empty: "${deviceId} in key".
func (a *Action) Empty(ctx context.Context, e *event.Event) (list []string) {
	m := machines.Get().(*eval.Machine)
	defer machines.Put(m)
	for _, p := range a.parts {
		if s, err := p.template.Execute(ctx, m, e); err == nil && s == "" {
			list = append(list, p.text+" in "+p.path)
		}
	}
	return list
}

// Templates returns the parameters with substitution templates, as dotted
// paths, in the order of the file.
func (a *Action) Templates() []string { return a.paths }

// Close lets go of the action.
func (a *Action) Close(ctx context.Context) error { return a.real.Close(ctx) }

// errCaught ends a delivery at the point where something would be sent.
var errCaught = errors.New("caught")

// caught is what a delivery came to.
type caught struct {
	topic topic.Name
	url   string
}

type caughtKey struct{}

func publish(ctx context.Context, e *event.Event) error {
	if c, ok := ctx.Value(caughtKey{}).(*caught); ok {
		c.topic = e.Topic
	}
	return nil
}

// catcher stands for the HTTP destinations, which an action asks last.
type catcher struct{}

func (catcher) Confirm(context.Context, string) error { return nil }
func (catcher) Enabled(ctx context.Context, url string) (bool, error) {
	if c, ok := ctx.Value(caughtKey{}).(*caught); ok {
		c.url = url
	}
	return false, errCaught
}

// Render returns the action's parameters for one result, JSON with the members
// in the order of the file and templates substituted. err tells why the action
// would not send it: the result goes to the error action.
func (a *Action) Render(ctx context.Context, e *event.Event, payload []byte) (params json.RawMessage, err error) {
	m := machines.Get().(*eval.Machine)
	defer machines.Put(m)
	var c caught
	ctx = context.WithValue(ctx, caughtKey{}, &c)
	err = a.real.Deliver(ctx, []*actions.Result{{ID: e.ID(), Rule: a.rule, Event: e, Payload: payload}})
	if errors.Is(err, errCaught) {
		err = nil
	}
	b, failed := a.render(ctx, m, e, &c, nil, a.params, nil)
	if err == nil {
		err = failed
	}
	if err != nil {
		err = errors.New(errs.Text(err))
	}
	return b, err
}

// render appends n as JSON.
func (a *Action) render(ctx context.Context, m *eval.Machine, e *event.Event, c *caught, b []byte, n *strictyaml.Node, path []string) ([]byte, error) {
	var failed error
	switch n.Kind {
	case strictyaml.Map, strictyaml.List:
		open, end := byte('{'), byte('}')
		if n.Kind == strictyaml.List {
			open, end = '[', ']'
		}
		b = append(b, open)
		comma := func(i int) {
			if i > 0 {
				b = append(b, ',')
			}
		}
		for i, f := range n.Fields {
			comma(i)
			b = append(strictyaml.AppendString(b, f.Name), ':')
			var err error
			if b, err = a.render(ctx, m, e, c, b, f.Value, append(slices.Clone(path), f.Name)); err != nil && failed == nil {
				failed = fmt.Errorf("%s: %w", f.Name, err)
			}
		}
		for i, item := range n.Items {
			comma(i)
			var err error
			if b, err = a.render(ctx, m, e, c, b, item, append(slices.Clone(path), strconv.Itoa(i))); err != nil && failed == nil {
				failed = err
			}
		}
		return append(b, end), failed
	}
	switch {
	case len(path) == 1 && path[0] == "topic" && c.topic != "":
		return strictyaml.AppendString(b, string(c.topic)), nil // $$aws became $aws
	case len(path) == 1 && path[0] == "url" && c.url != "":
		return strictyaml.AppendString(b, c.url), nil // values are encoded for their place
	}
	t := a.templates[n]
	if t == nil {
		return append(b, n.JSON()...), nil
	}
	s, err := t.Execute(ctx, m, e)
	return strictyaml.AppendString(b, s), err
}

var machines = sync.Pool{New: func() any { return eval.NewMachine() }}
