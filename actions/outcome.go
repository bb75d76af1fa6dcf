package actions

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/eventlog/jet"
	"github.com/weir-iot/weir/rules/lane"
)

// Outcome is what became of a result that was not simply delivered by the first
// try. Simple successes are not kept: a result that lies before its lane's
// confirmed position and has no Outcome is one.
type Outcome struct {
	ID        event.ID       `json:"-"`
	Partition uint16         `json:"-"`
	Seq       uint64         `json:"-"`
	Rule      string         `json:"ruleName"`
	Index     int            `json:"actionIndex"`
	Kind      string         `json:"action"`
	State     string         `json:"state"` // of package lane
	Attempts  []lane.Attempt `json:"attempts,omitempty"`
	Failed    uint64         `json:"failed"` // tries that failed; more than are in Attempts where they were many
	Time      time.Time      `json:"time"`
}

// The stream of outcomes: subjects outcome.<partition>.<sequence>.
const (
	outcomeStream = "OUTCOMES"
	outcomeRoot   = "outcome."
)

// Outcomes is the stream OUTCOMES. Its methods may be called concurrently.
type Outcomes struct{ *journal }

// OpenOutcomes opens the stream of outcomes in the log's store. It holds at most
// maxBytes; then the oldest go.
func OpenOutcomes(log *eventlog.Log, maxBytes int64, logger *slog.Logger) (*Outcomes, error) {
	const op = "actions.OpenOutcomes"
	if maxBytes <= 0 {
		maxBytes = 64 << 20
	}
	j, err := openJournal(log, journalOptions{Stream: outcomeStream, Root: outcomeRoot, Description: "What became of results that were not simply delivered",
		What: "outcomes", MaxBytes: maxBytes, Logger: logger})
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	return &Outcomes{j}, nil
}

// Record implements Recorder. It is on its way to the store when Record returns,
// before the lane's position that passes it is saved: after a crash the result
// comes again, and so does its outcome.
func (o *Outcomes) Record(ctx context.Context, out *Outcome) {
	b, err := json.Marshal(out)
	if err == nil {
		err = o.offer(ctx, fmt.Sprintf("%s%d.%d", outcomeRoot, out.Partition, out.Seq), b)
	}
	if err != nil && ctx.Err() == nil {
		o.log.Warn("an outcome could not be recorded", "rule", out.Rule, "message", out.ID.String(), "error", err)
	}
}

// Find returns the outcomes recorded for the results of one event, the newest of
// each action. whole is false where older records have gone for want of room.
func (o *Outcomes) Find(partition uint16, seq uint64) (list []Outcome, whole bool, err error) {
	const op = "actions.Find"
	filter := fmt.Sprintf("%s%d.%d", outcomeRoot, partition, seq)
	for from, end := uint64(1), false; !end; {
		n := 0
		end, err = o.store.Fetch(jet.Query{Stream: outcomeStream, From: from, Filter: filter, Max: 500, MaxBytes: 4 << 20}, func(m *jet.Message) error {
			var out Outcome
			n++
			from = m.Seq + 1
			if err := json.Unmarshal(m.Payload, &out); err != nil {
				return errs.Errorf(op, errs.Internal, "outcome %d cannot be read: %w", m.Seq, err)
			}
			for i := range list {
				if list[i].Rule == out.Rule && list[i].Index == out.Index {
					list[i] = out
					return nil
				}
			}
			list = append(list, out)
			return nil
		})
		if err != nil {
			return nil, false, errs.E(op, errs.KindOf(err), err)
		}
		if n == 0 {
			break
		}
	}
	st, err := o.store.State(outcomeStream)
	if err != nil {
		return nil, false, errs.E(op, errs.KindOf(err), err)
	}
	return list, st.FirstSeq <= 1, nil
}

// Recorder keeps outcomes.
type Recorder interface {
	// Record must not block for long; what it cannot keep is lost.
	Record(ctx context.Context, o *Outcome)
}
