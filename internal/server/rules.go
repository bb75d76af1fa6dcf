package server

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/rulefolder"
	"github.com/weir-iot/weir/rules"
)

// ruleService is the rule store and the engine, as the control API wants them.
type ruleService struct{ s *Server }

// List implements control.Rules.
func (r *ruleService) List(ctx context.Context) ([]control.Rule, error) {
	stored, err := r.s.store.List(ctx)
	if err != nil {
		return nil, err
	}
	status := map[string]rules.RuleStatus{}
	for _, st := range r.s.engine.Status() {
		status[st.Name] = st
	}
	list := make([]control.Rule, 0, len(stored))
	for i := range stored {
		list = append(list, r.ruleOf(&stored[i], status[stored[i].Rule.Name]))
	}
	return list, nil
}

// Get implements control.Rules.
func (r *ruleService) Get(ctx context.Context, name string) (*control.Rule, error) {
	stored, err := r.s.store.Get(ctx, name)
	if err != nil {
		if errs.Is(err, errs.NotFound) {
			return nil, errs.Errorf("rules.Get", errs.NotFound, "there is no rule %s", name)
		}
		return nil, err
	}
	var status rules.RuleStatus
	for _, st := range r.s.engine.Status() {
		if st.Name == name {
			status = st
		}
	}
	rule := r.ruleOf(&stored, status)
	var document bytes.Buffer
	e := json.NewEncoder(&document)
	e.SetEscapeHTML(false) // people read it: < stays <
	if err := e.Encode(stored.Rule); err != nil {
		return nil, errs.E("rules.Get", errs.Internal, err)
	}
	rule.Document = document.Bytes()
	return &rule, nil
}

func (r *ruleService) ruleOf(st *rules.Stored, status rules.RuleStatus) control.Rule {
	out := control.Rule{
		Name: st.Rule.Name, SQL: st.Rule.SQL, Description: st.Rule.Description, Enabled: !st.Rule.Disabled,
		Version: st.Version, CreatedAt: st.CreatedAt, UpdatedAt: st.UpdatedAt, Problem: status.Error, Actions: []control.Lane{},
	}
	for _, a := range status.Actions {
		lane := control.Lane{Action: a.Kind, Retries: a.Retries, LastError: a.LastError, LastFailed: a.LastFailed, DownSince: a.DownSince,
			Account: control.Account{Matched: a.Matched, Delivered: a.Delivered, ErrorDelivered: a.ErrorDelivered, Dead: a.Dead, Pending: a.Pending}}
		switch {
		case a.Breaker != "" && a.Breaker != "closed":
			lane.State = "destination down"
		case a.Lanes < r.s.log.Partitions() && out.Enabled:
			lane.State = "starting"
		case !a.AtHead:
			lane.State = "catching up"
		default:
			lane.State = "live"
		}
		out.Lag = max(out.Lag, a.Lag)
		out.Actions = append(out.Actions, lane)
	}
	if len(out.Actions) == 0 { // stored, and the engine has not seen it yet
		for _, a := range st.Rule.Actions {
			out.Actions = append(out.Actions, control.Lane{Action: a.Kind, State: "starting"})
		}
	}
	return out
}

// Apply implements control.Rules.
func (r *ruleService) Apply(ctx context.Context, file string, document []byte, dry bool) (*control.Applied, error) {
	rule, err := r.s.readRule(file, document)
	if err != nil {
		return nil, err
	}
	out := &control.Applied{Name: rule.Name, Result: "valid"}
	for _, w := range warnings(r.s.language, rule) {
		out.Warnings = append(out.Warnings, control.Problem{Message: w.Error(), Line: w.Line, Column: w.Column, Detail: "rule " + rule.Name + ", sql: " + w.Detail()})
	}
	if dry {
		return out, r.s.checkRule(ctx, rule)
	}
	st, changed, err := r.s.store.Apply(ctx, rule, 0)
	switch {
	case err != nil:
		return nil, err
	case !changed:
		out.Result = "unchanged"
	case st.Version == 1:
		out.Result = "created"
	default:
		out.Result = "updated"
	}
	return out, nil
}

// SetEnabled implements control.Rules.
func (r *ruleService) SetEnabled(ctx context.Context, name string, enabled bool) error {
	_, err := r.s.store.SetEnabled(ctx, name, enabled)
	return missing(name, err)
}

// Delete implements control.Rules.
func (r *ruleService) Delete(ctx context.Context, name string) error {
	return missing(name, r.s.store.Delete(ctx, name))
}

func missing(name string, err error) error {
	if errs.Is(err, errs.NotFound) {
		return errs.Errorf("rules", errs.NotFound, "there is no rule %s; `weir rule list` shows them", name)
	}
	return err
}

func (s *Server) openRulesFolder(context.Context) error {
	if s.cfg.RulesDir == "" {
		return nil
	}
	w, err := rulefolder.Watch(s.cfg.RulesDir)
	if err != nil {
		return err
	}
	s.folder = w
	s.onClose(w.Close)
	return nil
}

// watchRules applies the files of the rules folder, now and when they change.
func (s *Server) watchRules(ctx context.Context) error {
	logger := s.logger.With("room", "rules folder")
	changed := func(f rulefolder.File) {
		applied, err := s.applyFile(ctx, f)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			logger.Error("rule file refused; the rule stays as it was", "file", f.Name, "err", err)
		} else {
			logger.Info("rule file applied", "file", f.Name, "rule", applied.Name, "result", applied.Result)
		}
		if s.o.RuleFile != nil {
			s.o.RuleFile(f.Name, applied, err)
		}
	}
	removed := func(name string) {
		logger.Warn("rule file is gone; its rule stays until `weir rule delete`", "file", name)
	}
	failed := func(err error) { logger.Error("rules folder", "err", err) }
	return s.folder.Run(ctx, changed, removed, failed)
}

// applyFile applies f, and again where the store could not answer.
func (s *Server) applyFile(ctx context.Context, f rulefolder.File) (*control.Applied, error) {
	wait := 100 * time.Millisecond
	for {
		applied, err := s.rules.Apply(ctx, filepath.Base(f.Name), f.Content, false)
		again := slices.ContainsFunc([]errs.Kind{errs.Unavailable, errs.Timeout, errs.Conflict}, func(k errs.Kind) bool { return errs.Is(err, k) })
		if err == nil || !again || wait > 5*time.Second {
			return applied, err
		}
		select {
		case <-time.After(wait):
			wait *= 2
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// checkRule validates a rule completely: name, statement, each action.
func (s *Server) checkRule(ctx context.Context, r *rules.Rule) error {
	const op = "rules.check"
	compiled, err := s.language.Compile(r)
	if err != nil {
		return errs.E(op, errs.Invalid, err)
	}
	p := compiled.(rules.SQLProgram)
	if len(r.Actions) == 0 {
		return errs.Errorf(op, errs.Invalid, "the rule has no action")
	}
	for i := range r.Actions {
		if err := s.lanes.Check(ctx, r.Name, p.Program, r.Actions[i].Kind, r.Actions[i].Params, false); err != nil {
			return errs.E(op, errs.Invalid, err)
		}
	}
	if e := r.ErrorAction; e != nil {
		if err := s.lanes.Check(ctx, r.Name, p.Program, e.Kind, e.Params, true); err != nil {
			return errs.E(op, errs.Invalid, err)
		}
	}
	return nil
}
