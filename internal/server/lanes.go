package server

import (
	"context"
	"errors"
	"slices"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/dynamodb"
	webhook "github.com/weir-iot/weir/actions/http"
	"github.com/weir-iot/weir/actions/republish"
	"github.com/weir-iot/weir/actions/s3"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/suggest"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/lane"
)

// installed is every kind of action by name.
func installed() map[string]actions.Kind {
	kinds := map[string]actions.Kind{}
	for _, k := range []actions.Kind{republish.Kind, webhook.Kind, s3.Kind, dynamodb.Kind, dynamodb.KindV2} {
		kinds[k.Name] = k
	}
	return kinds
}

// newAction makes an action of r. It validates all of it and connects to
// nothing.
func (s *Server) newAction(ctx context.Context, r *rules.Rule, p rules.SQLProgram, a *rules.Action, errorAction bool) (actions.Action, actions.Spec, error) {
	const op = "rules.check"
	k, ok := s.kinds[a.Kind]
	if !ok {
		var names []string
		for name := range s.kinds {
			names = append(names, name)
		}
		slices.Sort(names)
		hint := "known: " + known(names)
		if near, ok := suggest.Nearest(a.Kind, names); ok {
			hint = "did you mean " + near + "?"
		}
		return nil, actions.Spec{}, errs.Errorf(op, errs.Invalid, "unknown action %q; %s", a.Kind, hint)
	}
	env := s.env
	env.Rule = r.Name
	env.Logger = s.logger.With("room", "actions", "rule", r.Name, "action", a.Kind)
	owner := p.Program
	if errorAction {
		owner = owner.ForErrorAction()
	}
	env.Template = func(src string) (actions.Template, error) { return compileTemplate(src, owner) }
	act, spec, err := k.New(ctx, env, a.Params)
	if err != nil {
		var coded *errs.Error
		if !errors.As(err, &coded) {
			err = errs.E(op, errs.Invalid, err)
		}
		return nil, spec, err
	}
	return act, spec, nil
}

// makeLane implements rules.LaneMaker.
func (s *Server) makeLane(ctx context.Context, spec rules.LaneSpec) (lane.Lane, error) {
	r := spec.Rule
	a := &r.Actions[spec.Index]
	o := actions.LaneOptions{
		Rule: r.Name, Index: spec.Index, Kind: a.Kind, Dead: s.dead, State: spec.State,
		RetryFor: s.cfg.Retry.For, AWSRetries: s.cfg.Retry.Tries == "aws",
		Logger: s.logger.With("room", "actions"), Now: s.now,
	}
	var err error
	if o.Action, o.Spec, err = s.newAction(ctx, r, spec.Program.(rules.SQLProgram), a, false); err != nil {
		return nil, err
	}
	if e := r.ErrorAction; e != nil {
		o.ErrorKind = e.Kind
		if o.ErrorAction, o.ErrorSpec, err = s.newAction(ctx, r, spec.Program.(rules.SQLProgram), e, true); err != nil {
			return nil, errors.Join(err, o.Action.Close(ctx))
		}
	}
	return actions.NewLane(o), nil
}
