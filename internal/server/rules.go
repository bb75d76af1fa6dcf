package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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
	for _, st := range r.s.ruleStatus(ctx) {
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
	for _, st := range r.s.ruleStatus(ctx) {
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
func (r *ruleService) Apply(ctx context.Context, file string, content []byte, dry bool) ([]control.Applied, error) {
	const op = "rules.Apply"
	docs, err := rules.Parse(file, content)
	if err != nil {
		return nil, errs.E(op, errs.Invalid, err)
	}
	var mistakes rules.Problems
	for _, d := range docs {
		err := d.Check(ctx, r.s.checker)
		var ps rules.Problems
		switch {
		case errors.As(err, &ps):
			mistakes = append(mistakes, ps...)
		case err != nil:
			return nil, errs.E(op, errs.Invalid, err)
		}
	}
	if len(mistakes) > 0 {
		return nil, errs.E(op, errs.Invalid, mistakes)
	}
	loops, err := r.s.checkLoops(ctx, docs)
	if err != nil {
		return nil, err
	}
	out := make([]control.Applied, 0, len(docs))
	for _, d := range docs {
		one := control.Applied{Name: d.Rule.Name, Result: "valid"}
		for _, w := range warnings(r.s.language, d.Rule) {
			one.Warnings = append(one.Warnings, control.Problem{Message: w.Error(), Line: w.Line, Column: w.Column, Detail: "rule " + d.Rule.Name + ", sql " + w.Detail()})
		}
		if w := loops[d.Rule.Name]; w != "" {
			one.Warnings = append(one.Warnings, control.Problem{Message: w, Detail: "rule " + d.Rule.Name + ": " + w})
		}
		if !dry {
			st, changed, err := r.s.store.Apply(ctx, d.Rule, 0)
			switch {
			case err != nil:
				return nil, err
			case !changed:
				one.Result = "unchanged"
			case st.Version == 1:
				one.Result = "created"
			default:
				one.Result = "updated"
			}
			if changed {
				r.await(ctx, d.Rule.Name, st.Version, !d.Rule.Disabled)
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// await waits until the engine runs version of the rule, or has stopped to, so
// that who applied a rule and then publishes sees it act. It is a courtesy with a
// limit: the change is stored, whatever the engine is held up by.
func (r *ruleService) await(ctx context.Context, name string, version int, enabled bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	tick := time.NewTicker(r.s.statusEvery())
	defer tick.Stop()
	for !r.settled(ctx, name, version, enabled) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (r *ruleService) settled(ctx context.Context, name string, version int, enabled bool) bool {
	for _, st := range r.s.ruleStatus(ctx) {
		if st.Name != name || st.Deleted {
			continue
		}
		if st.Version < version {
			return false
		}
		for _, a := range st.Actions {
			if enabled && a.Lanes < r.s.log.Partitions() || !enabled && a.Lanes > 0 {
				return st.Error != ""
			}
		}
		return true
	}
	return !enabled
}

// SetEnabled implements control.Rules.
func (r *ruleService) SetEnabled(ctx context.Context, name string, enabled bool) error {
	st, err := r.s.store.SetEnabled(ctx, name, enabled)
	if err != nil {
		return missing(name, err)
	}
	r.await(ctx, name, st.Version, enabled)
	return nil
}

// Delete implements control.Rules.
func (r *ruleService) Delete(ctx context.Context, name string) error {
	if err := r.s.store.Delete(ctx, name); err != nil {
		return missing(name, err)
	}
	r.await(ctx, name, 0, false)
	return nil
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
			for _, a := range applied {
				logger.Info("rule file applied", "file", f.Name, "rule", a.Name, "result", a.Result)
			}
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
func (s *Server) applyFile(ctx context.Context, f rulefolder.File) ([]control.Applied, error) {
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

// checkAction validates one action of a rule completely.
func (s *Server) checkAction(ctx context.Context, r *rules.Rule, p rules.Program, kind string, params json.RawMessage, errorAction bool) error {
	return s.lanes.Check(ctx, r.Name, p.(rules.SQLProgram).Program, kind, params, errorAction)
}
