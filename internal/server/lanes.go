package server

import (
	"context"
	"fmt"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/lane"
)

// plan says which lane of r is wanted.
func plan(r *rules.Rule, p rules.SQLProgram, index int) actions.Plan {
	a := &r.Actions[index]
	out := actions.Plan{Rule: r.Name, Program: p.Program, Index: index, Kind: a.Kind, Params: a.Params}
	if e := r.ErrorAction; e != nil {
		out.ErrorKind, out.ErrorParams = e.Kind, e.Params
	}
	return out
}

// makeLane implements rules.LaneMaker.
func (s *Server) makeLane(ctx context.Context, spec rules.LaneSpec) (lane.Lane, error) {
	p := plan(spec.Rule, spec.Program.(rules.SQLProgram), spec.Index)
	p.State = spec.State
	return s.lanes.NewLane(ctx, p)
}

// graveyard is the stream DEAD as the control API wants it.
type graveyard struct{ s *Server }

func deadLetter(l *actions.Letter) control.DeadLetter {
	d := control.DeadLetter{
		Seq: l.Seq, ID: l.Result.ID.String(), Rule: l.Rule, Action: l.Kind, Topic: string(l.Result.Event.Topic), ClientID: l.Result.Event.ClientID,
		Time: l.Time, Reason: l.Error, Payload: l.Result.Payload, Original: l.Result.Event.Payload,
	}
	if l.ErrorAction != "" {
		d.Reason += "; the error action: " + l.ErrorAction
	}
	if l.Evaluation {
		d.Reason = "evaluating the statement failed: " + d.Reason
	}
	return d
}

// List implements control.DeadLetters.
func (g graveyard) List(ctx context.Context, rule string, after uint64, max int) ([]control.DeadLetter, error) {
	letters, err := g.s.dead.List(ctx, rule, after, max)
	if err != nil {
		return nil, err
	}
	out := make([]control.DeadLetter, 0, len(letters))
	for _, l := range letters {
		out = append(out, deadLetter(l))
	}
	return out, nil
}

// Get implements control.DeadLetters.
func (g graveyard) Get(ctx context.Context, seq uint64) (*control.DeadLetter, error) {
	l, err := g.s.dead.Get(ctx, seq)
	if errs.Is(err, errs.NotFound) {
		return nil, errs.Errorf("dead.Get", errs.NotFound, "there is no dead letter %d; `weir dead list` shows them", seq)
	}
	if err != nil {
		return nil, err
	}
	d := deadLetter(l)
	return &d, nil
}

// maxRedrive bounds one request: each letter is a delivery.
const maxRedrive = 10_000

// Redrive implements control.DeadLetters. A letter goes through the action its
// rule has now at the place it had: who mended the rule wants that.
func (g graveyard) Redrive(ctx context.Context, q control.RedriveRequest) (*control.Redriven, error) {
	seqs := q.Seqs
	if len(seqs) == 0 {
		for after := uint64(0); len(seqs) < maxRedrive; {
			letters, err := g.s.dead.List(ctx, q.Rule, after, 1000)
			if err != nil {
				return nil, err
			}
			if len(letters) == 0 {
				break
			}
			for _, l := range letters {
				after = l.Seq
				if d := deadLetter(l); q.Wants(&d) {
					seqs = append(seqs, l.Seq)
				}
			}
		}
	}
	delivered, failed := g.s.dead.Redrive(ctx, seqs, g.deliver)
	out := &control.Redriven{Delivered: delivered, Failed: len(failed)}
	for _, seq := range seqs {
		if err := failed[seq]; err != nil && len(out.Errors) < 20 {
			out.Errors = append(out.Errors, fmt.Sprintf("%d: %s", seq, errs.Text(err)))
		}
	}
	return out, nil
}

func (g graveyard) deliver(ctx context.Context, l *actions.Letter) error {
	const op = "dead.Redrive"
	switch {
	case l.Evaluation:
		return errs.Errorf(op, errs.Invalid, "evaluating the statement failed for this message: there is no result to deliver")
	case l.Omitted:
		return errs.Errorf(op, errs.Invalid, "the result was too large to be kept")
	}
	stored, err := g.s.store.Get(ctx, l.Rule)
	if errs.Is(err, errs.NotFound) {
		return errs.Errorf(op, errs.NotFound, "the rule %s does not exist any more", l.Rule)
	}
	if err != nil {
		return err
	}
	r := stored.Rule
	if l.Index >= len(r.Actions) || r.Actions[l.Index].Kind != l.Kind {
		return errs.Errorf(op, errs.Conflict, "the rule %s has no action %s at place %d any more", l.Rule, l.Kind, l.Index+1)
	}
	p, err := g.s.language.Compile(r)
	if err != nil {
		return err
	}
	return g.s.lanes.Deliver(ctx, plan(r, p.(rules.SQLProgram), l.Index), l.Result)
}
