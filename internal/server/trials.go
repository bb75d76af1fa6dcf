package server

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/replay"
)

// trials is package replay as the control API wants it.
type trials struct{ s *Server }

func (s *Server) openTrials(ctx context.Context) error {
	b, err := s.bucket(ctx, kv.Config{Name: "jobs"})
	if err != nil {
		return err
	}
	s.jobs = replay.NewJobs(replay.Options{
		Log: s.log, Bucket: b, Compile: s.compile, Lanes: s.makeLane, Owner: s.owner(), Logger: s.logger.With("room", "rules"), Now: s.now,
	})
	return nil
}

func (s *Server) compile(r *rules.Rule) (rules.SQLProgram, error) {
	p, err := s.language.Compile(r)
	if err != nil {
		return rules.SQLProgram{}, err
	}
	return p.(rules.SQLProgram), nil
}

// rule returns the rule q names, checked completely where it comes with its
// document, and the stored one of its name, nil where there is none.
func (t *trials) rule(ctx context.Context, q control.RuleText) (*rules.Rule, *rules.Stored, error) {
	const op = "rules"
	r := (*rules.Rule)(nil)
	if q.Content != "" {
		docs, err := rules.Parse(q.File, []byte(q.Content))
		if err != nil {
			return nil, nil, errs.E(op, errs.Invalid, err)
		}
		if q.Name != "" {
			docs = slices.DeleteFunc(docs, func(d *rules.Document) bool { return d.Rule.Name != q.Name })
		}
		switch {
		case len(docs) == 0:
			return nil, nil, errs.Errorf(op, errs.NotFound, "the file has no rule %s", q.Name)
		case len(docs) > 1:
			return nil, nil, errs.Errorf(op, errs.Invalid, "the file has %d rules: say which, by ruleName", len(docs))
		}
		if err := docs[0].Check(ctx, t.s.checker); err != nil {
			return nil, nil, errs.E(op, errs.Invalid, err)
		}
		r = docs[0].Rule
	} else if q.Name == "" {
		return nil, nil, errs.Errorf(op, errs.Invalid, "say which rule: by its document or by ruleName")
	}
	name := q.Name
	if r != nil {
		name = r.Name
	}
	stored, err := t.s.store.Get(ctx, name)
	switch {
	case errs.Is(err, errs.NotFound) && r != nil:
		return r, nil, nil
	case err != nil:
		return nil, nil, missing(name, err)
	case r == nil:
		r = stored.Rule
	}
	return r, &stored, nil
}

// Backtest implements control.Trials.
func (t *trials) Backtest(ctx context.Context, q control.BacktestRequest, fn func(*control.BacktestLine) error) error {
	const op = "rules.Backtest"
	r, stored, err := t.rule(ctx, q.RuleText)
	if err != nil {
		return err
	}
	p, err := t.s.compile(r)
	if err != nil {
		return errs.E(op, errs.Invalid, err)
	}
	o := replay.BacktestOptions{Log: t.s.log, New: replay.Version{Name: r.Name, Program: p.Program}, Since: q.Since, Until: q.Until, Limit: q.Limit}
	report := &control.BacktestReport{Rule: r.Name}
	callsOut := p.CallsOut()
	if q.Against {
		if stored == nil {
			return errs.Errorf(op, errs.NotFound, "there is no rule %s to compare with", r.Name)
		}
		current, err := t.s.compile(stored.Rule)
		if err != nil {
			return errs.Errorf(op, errs.Invalid, "the stored version of %s cannot be compiled: %w", r.Name, err)
		}
		o.Current = &replay.Version{Name: r.Name, Program: current.Program}
		report.Version = stored.Version
		callsOut = callsOut || current.CallsOut()
	}
	if callsOut && !q.Lookups {
		return errs.Errorf(op, errs.Invalid, "the statement calls other services, and a backtest would call them for every event, as they are today: allow it with lookups")
	}
	told := map[replay.Verdict]int{}
	o.Outcome = func(out *replay.Outcome) error {
		if q.Samples < 0 && out.Verdict != replay.Same || told[out.Verdict] < q.Samples && (out.Verdict != replay.Same || q.Samples < 0) {
			told[out.Verdict]++
			sample := replay.SampleOf(out)
			return fn(&control.BacktestLine{Outcome: &sample})
		}
		return nil
	}
	o.Progress = func(p replay.Progress) { _ = fn(&control.BacktestLine{Progress: &p}) } // a reader that is gone ends ctx
	if report.Report, err = replay.Backtest(ctx, o); err != nil {
		return err
	}
	return fn(&control.BacktestLine{Report: report})
}

// StartCanary implements control.Trials.
func (t *trials) StartCanary(ctx context.Context, q control.RuleText) (*replay.Job, error) {
	const op = "rules.StartCanary"
	r, stored, err := t.rule(ctx, q)
	switch {
	case err != nil:
		return nil, err
	case stored == nil:
		return nil, errs.Errorf(op, errs.NotFound, "there is no rule %s beside which the canary could run; `weir rule apply` makes it", r.Name)
	case q.Content == "" || r.Equal(stored.Rule):
		return nil, errs.Errorf(op, errs.Invalid, "the canary of %s is the version that runs", r.Name)
	}
	j, err := t.s.jobs.StartCanary(ctx, r, *stored)
	return &j, err
}

// Canaries implements control.Trials.
func (t *trials) Canaries(ctx context.Context) ([]replay.Job, error) {
	return t.s.jobs.List(ctx, replay.Canary)
}

// Canary implements control.Trials.
func (t *trials) Canary(ctx context.Context, rule string) (*replay.Job, error) {
	list, err := t.s.jobs.List(ctx, replay.Canary)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].Rule.Name == rule {
			return &list[i], nil
		}
	}
	return nil, errs.Errorf("rules.Canary", errs.NotFound, "the rule %s has no canary; `weir rule canary start` makes one", rule)
}

// Promote implements control.Trials.
func (t *trials) Promote(ctx context.Context, rule string) (*control.Applied, error) {
	const op = "rules.Promote"
	j, err := t.Canary(ctx, rule)
	if err != nil {
		return nil, err
	}
	stored, err := t.s.store.Get(ctx, rule)
	if err != nil {
		return nil, missing(rule, err)
	}
	if stored.Version != j.Version && !stored.Rule.Equal(j.Rule) {
		return nil, errs.Errorf(op, errs.Conflict, "the rule %s has changed since the canary began: version %d runs, the canary was compared with %d. Drop it and start another",
			rule, stored.Version, j.Version)
	}
	content, err := json.Marshal(j.Rule)
	if err != nil {
		return nil, errs.E(op, errs.Internal, err)
	}
	applied, err := t.s.rules.Apply(ctx, rule+".json", content, false)
	if err != nil {
		return nil, err
	}
	return &applied[0], t.s.jobs.Remove(ctx, j.ID)
}

// Drop implements control.Trials.
func (t *trials) Drop(ctx context.Context, rule string) error {
	j, err := t.Canary(ctx, rule)
	if err != nil {
		return err
	}
	return t.s.jobs.Remove(ctx, j.ID)
}

// StartBackfill implements control.Trials.
func (t *trials) StartBackfill(ctx context.Context, q control.BackfillRequest) (*replay.Job, error) {
	const op = "rules.StartBackfill"
	r, stored, err := t.rule(ctx, q.RuleText)
	if err != nil {
		return nil, err
	}
	if q.Rate < 0 {
		return nil, errs.Errorf(op, errs.Invalid, "rate: results a second, more than 0")
	}
	b := replay.BackfillRequest{Rule: r, Since: q.Since, Until: q.Until, Rate: q.Rate}
	if stored != nil && !stored.Rule.Disabled && !q.Again {
		// What came after the rule began it has delivered, or will, by itself.
		b.Ends = stored.Start
	}
	j, err := t.s.jobs.StartBackfill(ctx, b)
	return &j, err
}

// Backfills implements control.Trials.
func (t *trials) Backfills(ctx context.Context) ([]replay.Job, error) {
	return t.s.jobs.List(ctx, replay.Backfill)
}

// Backfill implements control.Trials.
func (t *trials) Backfill(ctx context.Context, id string) (*replay.Job, error) {
	j, err := t.s.jobs.Get(ctx, id)
	if err == nil && j.Kind != replay.Backfill {
		err = errs.Errorf("rules.Backfill", errs.NotFound, "%s is a %s", id, j.Kind)
	}
	if errs.Is(err, errs.NotFound) {
		return nil, errs.Errorf("rules.Backfill", errs.NotFound, "there is no backfill %s; `weir rule backfill list` shows them", id)
	}
	return &j, err
}

func (t *trials) changed(ctx context.Context, id string, change func(context.Context, string) (replay.Job, error)) (*replay.Job, error) {
	if _, err := t.Backfill(ctx, id); err != nil {
		return nil, err
	}
	j, err := change(ctx, id)
	return &j, err
}

// StopBackfill implements control.Trials.
func (t *trials) StopBackfill(ctx context.Context, id string) (*replay.Job, error) {
	return t.changed(ctx, id, t.s.jobs.Halt)
}

// ResumeBackfill implements control.Trials.
func (t *trials) ResumeBackfill(ctx context.Context, id string) (*replay.Job, error) {
	return t.changed(ctx, id, t.s.jobs.Resume)
}

// DeleteBackfill implements control.Trials.
func (t *trials) DeleteBackfill(ctx context.Context, id string) error {
	if _, err := t.Backfill(ctx, id); err != nil {
		return err
	}
	return t.s.jobs.Remove(ctx, id)
}
