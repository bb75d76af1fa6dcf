package replay

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/eval"
)

// Log is what the package needs of the event log.
type Log interface {
	Partitions() int
	First(p int) uint64
	Committed(p int) uint64
	Follow(o eventlog.FollowOptions) (*eventlog.Follower, error)
}

// Version is one version of a rule: its name and its compiled statement.
type Version struct {
	Name    string
	Program *eval.Program
}

// Verdict is how the outcome of the version under trial stands to that of the
// current version. Without a current version it is Appears for each result.
type Verdict uint8

const (
	Nothing  Verdict = iota // neither version selects the event
	Same                    // both do the same with it
	Appears                 // only the version under trial gives a result, or an error
	Vanishes                // only the current version does
	Changes                 // both do, not the same
)

var verdicts = [...]string{"nothing", "same", "appears", "vanishes", "changes"}

// String returns the verdict's word in output.
func (v Verdict) String() string { return verdicts[v] }

// Result is what one version makes of an event.
type Result struct {
	Payload []byte // nil where there is none
	Acts    bool   // WHERE is true: Payload goes to the actions
	Err     error  // of the evaluation: it goes to the error action
}

func (r *Result) none() bool { return !r.Acts && r.Err == nil }

func (r *Result) equal(o *Result) bool {
	if r.Acts != o.Acts || (r.Err == nil) != (o.Err == nil) {
		return false
	}
	if r.Err != nil {
		return r.Err.Error() == o.Err.Error()
	}
	return bytes.Equal(r.Payload, o.Payload)
}

// Outcome is one event with what both versions make of it.
type Outcome struct {
	Event   *event.Event
	Verdict Verdict
	New     Result
	Current Result
}

// Tally counts outcomes. Same + Appear + Change is what the version under trial
// gives, results and errors; Same + Vanish + Change is what the current one does.
type Tally struct {
	Events  uint64 `json:"events"`  // that reached one of the versions
	Results uint64 `json:"results"` // of the version under trial
	Errors  uint64 `json:"errors"`  // evaluations of it that failed
	Same    uint64 `json:"same"`
	Appear  uint64 `json:"appear"`
	Vanish  uint64 `json:"vanish"`
	Change  uint64 `json:"change"`
	// Kinds counts the errors by their text: the first twenty, the rest as "others".
	Kinds map[string]uint64 `json:"kinds,omitempty"`
}

const maxKinds = 20

// others is the kind of the errors for which there is no room.
const others = "others"

func (t *Tally) count(o *Outcome) {
	t.Events++
	switch {
	case o.New.Err != nil:
		t.Errors++
		t.kind(errs.Text(o.New.Err), 1)
	case o.New.Acts:
		t.Results++
	}
	switch o.Verdict {
	case Same:
		t.Same++
	case Appears:
		t.Appear++
	case Vanishes:
		t.Vanish++
	case Changes:
		t.Change++
	}
}

func (t *Tally) kind(text string, n uint64) {
	if t.Kinds == nil {
		t.Kinds = map[string]uint64{}
	}
	if _, ok := t.Kinds[text]; !ok && len(t.Kinds) >= maxKinds {
		text = others
	}
	t.Kinds[text] += n
}

// Add adds o to t.
func (t *Tally) Add(o Tally) {
	t.Events += o.Events
	t.Results += o.Results
	t.Errors += o.Errors
	t.Same += o.Same
	t.Appear += o.Appear
	t.Vanish += o.Vanish
	t.Change += o.Change
	for k, n := range o.Kinds {
		t.kind(k, n)
	}
}

// judge evaluates one event with one or two versions. It belongs to one
// goroutine.
type judge struct {
	fresh, current *Version // current nil: nothing to compare with
	a, b           *eval.Machine
}

func newJudge(fresh, current *Version) *judge {
	j := &judge{fresh: fresh, current: current, a: eval.NewMachine()}
	if current != nil {
		j.b = eval.NewMachine()
	}
	return j
}

// filters returns what the versions listen on, without those that another
// covers.
func (j *judge) filters() []topic.Filter {
	list := listens(j.fresh)
	if j.current != nil {
		for _, f := range listens(j.current) {
			if !slices.Contains(list, f) {
				list = append(list, f)
			}
		}
	}
	return list
}

func listens(v *Version) []topic.Filter {
	return rules.Filters(v.Name, rules.SQLProgram{Program: v.Program})
}

// judge fills o for e. The payloads are o's own.
func (j *judge) judge(ctx context.Context, e *event.Event, o *Outcome) {
	*o = Outcome{Event: e}
	if rules.Private(e.Topic) {
		return
	}
	o.New = evaluate(ctx, j.fresh, &j.a, e)
	if j.current == nil {
		if !o.New.none() {
			o.Verdict = Appears
		}
		return
	}
	o.Current = evaluate(ctx, j.current, &j.b, e)
	switch {
	case o.New.none() && o.Current.none():
	case o.Current.none():
		o.Verdict = Appears
	case o.New.none():
		o.Verdict = Vanishes
	case o.New.equal(&o.Current):
		o.Verdict = Same
	default:
		o.Verdict = Changes
	}
}

func evaluate(ctx context.Context, v *Version, m **eval.Machine, e *event.Event) (r Result) {
	if !v.Program.Matches(e.Topic) {
		return Result{}
	}
	if e.Hops > rules.MaxHops {
		return Result{Err: rules.ErrLoop}
	}
	defer func() {
		if p := recover(); p != nil {
			*m = eval.NewMachine() // the old one may be in any state
			r = Result{Err: fmt.Errorf("evaluating the statement panicked: %v", p)}
		}
	}()
	payload, ok, err := v.Program.Eval(ctx, *m, e)
	return Result{Payload: payload, Acts: ok && err == nil, Err: err}
}
