package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/graph"
	"github.com/weir-iot/weir/rules/lane"
)

// explainer tells what became of events: evaluation again, and the recorded
// outcomes of what was not simply delivered.
type explainer struct{ s *Server }

// Explain implements control.Explainer.
func (x *explainer) Explain(ctx context.Context, q control.ExplainQuery) ([]control.Explained, error) {
	events, err := x.find(ctx, q)
	if err != nil {
		return nil, err
	}
	stored, err := x.s.store.List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]control.Explained, 0, len(events))
	for _, e := range events {
		one, err := x.explain(ctx, e, stored)
		if err != nil {
			return nil, err
		}
		out = append(out, *one)
	}
	return out, nil
}

// find returns the events of a query.
func (x *explainer) find(ctx context.Context, q control.ExplainQuery) ([]*event.Event, error) {
	const op = "explain"
	if q.Topic != "" {
		var list []*event.Event
		t := &tailer{x.s.log}
		err := t.Tail(ctx, control.TailOptions{Filter: q.Topic, Last: q.Last}, func(e *event.Event) error {
			list = append(list, e)
			return nil
		}, func(int, uint64, uint64) error { return nil })
		if err == nil && len(list) == 0 {
			err = errs.Errorf(op, errs.NotFound, "no event on the log has a topic that matches %s", q.Topic)
		}
		return list, err
	}
	partition, seq, received, err := place(q.ID)
	if err != nil {
		return nil, errs.E(op, errs.Invalid, err)
	}
	if int(partition) >= x.s.log.Partitions() {
		return nil, errs.Errorf(op, errs.NotFound, "there is no partition %d", partition)
	}
	switch {
	case seq > x.s.log.Committed(int(partition)):
		return nil, errs.Errorf(op, errs.NotFound, "the log of partition %d ends before %d", partition, seq)
	case seq < x.s.log.First(int(partition)):
		return nil, errs.Errorf(op, errs.NotFound, "event %d:%d has been trimmed: the log begins at %d", partition, seq, x.s.log.First(int(partition)))
	}
	f, err := x.s.log.Follow(eventlog.FollowOptions{Partition: int(partition), After: seq - 1, ToEnd: true})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	batch, _, err := f.Next(ctx, 1)
	var gap *eventlog.GapError
	switch {
	case errors.Is(err, io.EOF), errors.As(err, &gap), err == nil && (len(batch) == 0 || batch[0].Seq != seq):
		return nil, errs.Errorf(op, errs.NotFound, "there is no event %d:%d on the log any more", partition, seq)
	case err != nil:
		return nil, err
	case !received.IsZero() && batch[0].Received.UnixMilli() != received.UnixMilli():
		return nil, errs.Errorf(op, errs.NotFound, "the event of that id was lost; its place on the log, %d:%d, is another's now", partition, seq)
	}
	return batch, nil
}

// place reads a message id, or partition:sequence.
func place(s string) (partition uint16, seq uint64, received time.Time, err error) {
	if p, n, ok := strings.Cut(s, ":"); ok {
		a, errA := strconv.ParseUint(p, 10, 16)
		b, errB := strconv.ParseUint(n, 10, 62)
		if errA != nil || errB != nil || b == 0 {
			return 0, 0, time.Time{}, fmt.Errorf("expected partition:sequence, such as 0:1234, found %q", s)
		}
		return uint16(a), b, time.Time{}, nil
	}
	id, err := event.ParseID(s)
	if err != nil {
		return 0, 0, time.Time{}, fmt.Errorf("%w; or partition:sequence, such as 0:1234", err)
	}
	partition, seq, received = id.Position()
	if seq == 0 {
		return 0, 0, time.Time{}, errors.New("not the id of a message on the log")
	}
	return partition, seq, received, nil
}

func (x *explainer) explain(ctx context.Context, e *event.Event, stored []rules.Stored) (*control.Explained, error) {
	out := &control.Explained{Event: *control.LineOf(e), Rules: []control.ExplainedRule{}}
	if rules.Private(e.Topic) {
		out.Note = "the topic is a private call: no rule sees it"
		return out, nil
	}
	outcomes, whole, err := x.s.outcomes.Find(e.Partition, e.Seq)
	if err != nil {
		return nil, err
	}
	m := eval.NewMachine()
	for i := range stored {
		st := &stored[i]
		p, err := x.s.compile(st.Rule)
		if err != nil {
			continue // `weir rule list` says why it does not run
		}
		if !p.Matches(e.Topic) {
			if f, ok := p.Filter(); ok {
				if eval.Near(f, e.Topic) {
					out.Near = append(out.Near, control.NearRule{Name: st.Rule.Name, Filter: string(f), Why: p.Mismatch(e.Topic).Text})
				}
			}
			continue
		}
		mine := slices.DeleteFunc(slices.Clone(outcomes), func(o actions.Outcome) bool { return o.Rule != st.Rule.Name })
		out.Rules = append(out.Rules, x.rule(ctx, m, e, st, p, mine, whole))
		outcomes = slices.DeleteFunc(outcomes, func(o actions.Outcome) bool { return o.Rule == st.Rule.Name })
	}
	for _, o := range outcomes { // of rules that are gone
		out.Rules = append(out.Rules, control.ExplainedRule{Name: o.Rule, Note: "the rule does not exist any more", Acts: true, Deliveries: []control.ExplainedAction{recorded(o)}})
	}
	return out, nil
}

func (x *explainer) rule(ctx context.Context, m *eval.Machine, e *event.Event, st *rules.Stored, p rules.SQLProgram, outcomes []actions.Outcome, whole bool) control.ExplainedRule {
	r := control.ExplainedRule{Name: st.Rule.Name, Version: st.Version, LookedUp: p.CallsOut()}
	var failed error
	if e.Hops > rules.MaxHops {
		r.Text, failed = "result   error: "+rules.ErrLoop.Error(), rules.ErrLoop
	} else {
		ex := p.Explain(ctx, m, e)
		r.Text, r.Acts, failed = ex.Text(), ex.Acts, ex.Err
	}
	h, handled := x.s.trace(ctx, st.Rule.Name, int(e.Partition), e.Seq)
	switch start := at(st.Start, e.Partition); {
	case handled && h.Version != st.Version:
		r.Note = fmt.Sprintf("version %d handled the event; what is shown is how version %d, which runs now, sees it", h.Version, st.Version)
	case handled:
	case st.Rule.Disabled:
		r.Note = "the rule is disabled"
	case e.Seq <= start:
		r.Note = fmt.Sprintf("version %d of the rule began on %s, after this event", st.Version, st.UpdatedAt.UTC().Format(time.RFC3339))
		if st.Version > 1 {
			r.Note += "; an earlier version, which is not kept, handled it"
		}
	default:
		r.Note = "the rule does not run anywhere at the moment"
	}
	for _, o := range outcomes {
		r.Deliveries = append(r.Deliveries, recorded(o))
	}
	if !r.Acts && failed == nil {
		return r
	}
	for _, a := range h.Actions {
		if slices.ContainsFunc(outcomes, func(o actions.Outcome) bool { return o.Index == a.Index }) || failed != nil && a.Index > 0 {
			continue
		}
		d := control.ExplainedAction{Action: a.Kind, State: a.State}
		for _, t := range a.Attempts {
			d.Attempts = append(d.Attempts, control.ExplainedAttempt(t))
		}
		switch {
		case a.State == lane.Pending && a.Failed > 0:
			d.Detail = tries(a.Failed)
		case a.State != "":
		case a.Settled && (whole || h.Version != st.Version):
			d.State = lane.Delivered
		case a.Settled:
			d.State, d.Detail = lane.Delivered, "or its record has gone for want of room"
		default:
			d.State, d.Detail = "waiting", "the action has not come to this event yet"
		}
		r.Deliveries = append(r.Deliveries, d)
	}
	return r
}

func at(positions []uint64, p uint16) uint64 {
	if int(p) < len(positions) {
		return positions[p]
	}
	return 0
}

func recorded(o actions.Outcome) control.ExplainedAction {
	d := control.ExplainedAction{Action: o.Kind, State: o.State}
	for _, t := range o.Attempts {
		d.Attempts = append(d.Attempts, control.ExplainedAttempt(t))
	}
	if o.Failed > 0 {
		d.Detail = tries(o.Failed)
	}
	return d
}

func tries(n uint64) string {
	if n == 1 {
		return "one try failed"
	}
	return fmt.Sprintf("%d tries failed", n)
}

// Graph implements control.Explainer.
func (x *explainer) Graph(ctx context.Context) (*control.Graph, error) {
	stored, err := x.s.store.List(ctx)
	if err != nil {
		return nil, err
	}
	var list []graph.Rule
	g := &control.Graph{Rules: []control.GraphRule{}}
	for i := range stored {
		r := stored[i].Rule
		list = append(list, x.s.graphRule(r))
		node := control.GraphRule{Name: r.Name, Enabled: !r.Disabled, From: string(list[i].From), Where: list[i].Where, Actions: []control.GraphEdge{}}
		for _, a := range r.Actions {
			node.Actions = append(node.Actions, control.GraphEdge{Action: a.Kind, Target: strings.Join(republished(&a), "")})
		}
		if a := r.ErrorAction; a != nil {
			node.Error = []control.GraphEdge{{Action: a.Kind, Target: strings.Join(republished(a), "")}}
		}
		g.Rules = append(g.Rules, node)
	}
	for _, e := range graph.Edges(list) {
		for i := range g.Rules {
			if g.Rules[i].Name == e.From {
				g.Rules[i].Leads = append(g.Rules[i].Leads, control.GraphReach{Rule: e.To, Certain: e.Certain})
			}
		}
	}
	for _, l := range graph.Loops(list) {
		g.Loops = append(g.Loops, l.Rules)
	}
	return g, nil
}

// graphRule returns r for the graph.
func (s *Server) graphRule(r *rules.Rule) graph.Rule {
	out := graph.Rule{Name: r.Name, Disabled: r.Disabled, Where: true}
	if p, err := s.compile(r); err == nil {
		out.From, _ = p.Filter()
		out.Where = p.Statement().Select.Where != nil
	}
	for i := range r.Actions {
		out.Republish = append(out.Republish, republished(&r.Actions[i])...)
	}
	if r.ErrorAction != nil {
		out.OnError = republished(r.ErrorAction)
	}
	return out
}

// checkLoops refuses rules that would close a loop with each other or with those
// that are stored, and returns a warning for a loop that may end.
func (s *Server) checkLoops(ctx context.Context, docs []*rules.Document) (warnings map[string]string, err error) {
	stored, err := s.store.List(ctx)
	if err != nil {
		return nil, err
	}
	byName := map[string]*rules.Rule{}
	for i := range stored {
		byName[stored[i].Rule.Name] = stored[i].Rule
	}
	for _, d := range docs {
		byName[d.Rule.Name] = d.Rule
	}
	var list []graph.Rule
	for _, r := range byName {
		list = append(list, s.graphRule(r))
	}
	warnings = map[string]string{}
	for _, d := range docs {
		l, ok := graph.Through(list, d.Rule.Name)
		switch {
		case !ok:
		case l.Certain:
			return nil, errs.Errorf("rules.Apply", errs.Invalid, "the rule %s closes a loop that no message leaves: %s. Give one of these rules a WHERE that ends it, or another topic", d.Rule.Name, l)
		default:
			warnings[d.Rule.Name] = fmt.Sprintf("messages may run in a loop: %s; after %d rounds they are stopped", l, rules.MaxHops)
		}
	}
	return warnings, nil
}
func republished(a *rules.Action) []string {
	if a.Kind != "republish" {
		return nil
	}
	var p struct {
		Topic string `json:"topic"`
	}
	if json.Unmarshal(a.Params, &p) != nil || p.Topic == "" {
		return nil
	}
	return []string{p.Topic}
}
