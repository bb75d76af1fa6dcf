package replay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/lane"
)

// Kind is what a job does.
type Kind string

const (
	Canary   Kind = "canary"   // compares a version with the current one on what comes in; delivers nothing
	Backfill Kind = "backfill" // delivers what a rule makes of stored events
)

// State is how a job stands.
type State string

const (
	Running State = "running"
	Stopped State = "stopped" // by its owner; it can be resumed
	Done    State = "done"    // a backfill has delivered everything
	Failed  State = "failed"  // Reason says why; it can be resumed
)

// Job is a canary or a backfill as it is kept. What its counters say belongs to
// its positions: after a crash it goes on from both.
type Job struct {
	ID      string      `json:"id"`
	Kind    Kind        `json:"kind"`
	Rule    *rules.Rule `json:"rule"`              // the version under trial, or whose results are delivered
	Current *rules.Rule `json:"current,omitempty"` // of a canary: the version it is compared with
	Version int         `json:"version,omitempty"` // of Current
	Since   time.Time   `json:"since,omitzero"`    // of a backfill: arrival of the first event
	Until   time.Time   `json:"until,omitzero"`    // and of the last
	Rate    float64     `json:"rate,omitempty"`    // of a backfill: results a second, 0 for as fast as they are taken
	Created time.Time   `json:"created"`
	Ended   time.Time   `json:"ended,omitzero"`
	State   State       `json:"state"`
	Reason  string      `json:"reason,omitempty"`
	Parts   []Part      `json:"parts"` // by partition
	Tally   Tally       `json:"tally"` // of a canary
	Trimmed uint64      `json:"trimmed,omitempty"`
	Samples []Sample    `json:"samples,omitempty"` // of a canary: the first few of each verdict

	Stop  bool      `json:"stop,omitempty"` // its owner wants it to stop
	Owner string    `json:"owner,omitempty"`
	Saved time.Time `json:"saved"`

	revision uint64
}

// Part is a job's part of one partition.
type Part struct {
	From  uint64       `json:"from"`            // it begins behind this sequence
	To    uint64       `json:"to,omitempty"`    // and ends with this one; a canary does not end
	At    uint64       `json:"at"`              // everything up to here is done
	Lanes []lane.State `json:"lanes,omitempty"` // of a backfill, by action
}

// Sample is one outcome, as it is kept and shown.
type Sample struct {
	ID           string    `json:"id"`
	Partition    uint16    `json:"partition"`
	Seq          uint64    `json:"seq"`
	Topic        string    `json:"topic"`
	Received     time.Time `json:"received"`
	Verdict      string    `json:"verdict"`
	Result       *string   `json:"result,omitempty"` // of the version under trial
	Error        string    `json:"error,omitempty"`
	Current      *string   `json:"current,omitempty"` // of the current version
	CurrentError string    `json:"currentError,omitempty"`
}

// SampleOf returns o for keeping and showing. Payloads that are not text are
// told by their length.
func SampleOf(o *Outcome) Sample {
	e := o.Event
	s := Sample{ID: e.ID().String(), Partition: e.Partition, Seq: e.Seq, Topic: string(e.Topic), Received: e.Received, Verdict: o.Verdict.String()}
	s.Result, s.Error = shown(&o.New)
	s.Current, s.CurrentError = shown(&o.Current)
	return s
}

func shown(r *Result) (*string, string) {
	switch {
	case r.Err != nil:
		return nil, errs.Text(r.Err)
	case !r.Acts:
		return nil, ""
	}
	text := string(r.Payload)
	if !utf8.ValidString(text) {
		text = fmt.Sprintf("%d bytes that are not text", len(text))
	}
	return &text, ""
}

// Account returns what became of a backfill's results, by action, over all
// partitions.
func (j *Job) Account() []lane.Counts {
	if j.Kind != Backfill {
		return nil
	}
	out := make([]lane.Counts, len(j.Rule.Actions))
	for _, p := range j.Parts {
		for i, l := range p.Lanes {
			out[i].Add(l.Counts)
		}
	}
	return out
}

// Progress returns how much of the log is behind the job, and how much there is.
func (j *Job) Progress() (read, total uint64) {
	for _, p := range j.Parts {
		read += p.At - p.From
		total += p.To - min(p.To, p.From)
	}
	return read, total
}

// maxJobs bounds what is kept, ended jobs included.
const maxJobs = 100

// Options are what Jobs needs.
type Options struct {
	Log     Log
	Bucket  Bucket
	Compile func(*rules.Rule) (rules.SQLProgram, error)
	Lanes   rules.LaneMaker // of backfills
	// Owner names this process: a job is run by one. A stable name takes its own
	// jobs over at once after a crash. Empty: a random name.
	Owner  string
	Logger *slog.Logger
	Now    func() time.Time
}

// Bucket is what Jobs needs of a kv.Bucket.
type Bucket interface {
	Get(ctx context.Context, key string) (kv.Entry, error)
	Update(ctx context.Context, key string, value []byte, expected uint64) (uint64, error)
	Scan(ctx context.Context, prefix string, fn func(kv.Entry) error) error
	Watch(ctx context.Context, prefix string, fn func(kv.Entry)) error
}

// Jobs keeps and runs canaries and backfills. Its methods may be called
// concurrently.
type Jobs struct {
	o Options

	mu      sync.Mutex
	known   map[string]Job
	running map[string]*run
	wake    chan struct{}
}

// NewJobs checks the options. Nothing runs until Run.
func NewJobs(o Options) *Jobs {
	if o.Owner == "" {
		o.Owner = newID()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Jobs{o: o, known: map[string]Job{}, running: map[string]*run{}, wake: make(chan struct{}, 1)}
}

func newID() string {
	var b [5]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

const (
	// saveEvery is how often a job's positions are saved, and its lease with them.
	saveEvery = time.Second
	// leaseTTL is how long a job whose owner is silent stays its own.
	leaseTTL = 10 * time.Second
)

// Run runs the jobs that are to run until ctx ends; then their positions are
// saved and nothing of them runs.
func (js *Jobs) Run(ctx context.Context) error {
	var all sync.WaitGroup
	all.Go(func() { js.watch(ctx) })
	t := time.NewTicker(leaseTTL / 4)
	defer t.Stop()
	for {
		js.mu.Lock()
		for id, j := range js.known {
			r := js.running[id]
			if r != nil && j.Stop {
				r.stop()
			}
			free := j.Owner == js.o.Owner || js.o.Now().Sub(j.Saved) > leaseTTL
			if r != nil || j.State != Running || !free || ctx.Err() != nil {
				continue
			}
			r = newRun(js, j)
			js.running[id] = r
			all.Go(func() {
				r.run(ctx)
				js.mu.Lock()
				delete(js.running, id)
				js.mu.Unlock()
			})
		}
		js.mu.Unlock()
		select {
		case <-js.wake:
		case <-t.C:
		case <-ctx.Done():
			all.Wait()
			return nil
		}
	}
}

func (js *Jobs) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := js.o.Bucket.Watch(ctx, "", func(e kv.Entry) {
			if e.Key == "" {
				return
			}
			js.take(e)
		})
		if ctx.Err() != nil {
			return
		}
		js.o.Logger.Error("the jobs cannot be watched; watching them again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// take notes what the bucket has.
func (js *Jobs) take(e kv.Entry) {
	js.mu.Lock()
	defer js.mu.Unlock()
	if len(e.Value) == 0 {
		delete(js.known, e.Key)
		if r := js.running[e.Key]; r != nil {
			r.stop()
		}
		return
	}
	j, err := decodeJob(e)
	if err != nil {
		js.o.Logger.Error("a job cannot be read", "job", e.Key, "error", err)
		return
	}
	if known, ok := js.known[j.ID]; ok && known.revision >= j.revision {
		return
	}
	js.known[j.ID] = j
	select {
	case js.wake <- struct{}{}:
	default:
	}
}

func decodeJob(e kv.Entry) (Job, error) {
	var j Job
	if err := json.Unmarshal(e.Value, &j); err != nil {
		return Job{}, errs.E("replay.job", errs.Internal, err)
	}
	j.revision = e.Revision
	return j, nil
}

// List returns the jobs of a kind, the newest first.
func (js *Jobs) List(ctx context.Context, kind Kind) ([]Job, error) {
	var out []Job
	err := js.o.Bucket.Scan(ctx, "", func(e kv.Entry) error {
		j, err := decodeJob(e)
		if err == nil && j.Kind == kind {
			out = append(out, j)
		}
		return err
	})
	slices.SortFunc(out, func(a, b Job) int { return b.Created.Compare(a.Created) })
	return out, err
}

// Get returns a job by its id. Errors: NotFound.
func (js *Jobs) Get(ctx context.Context, id string) (Job, error) {
	const op = "replay.Get"
	e, err := js.o.Bucket.Get(ctx, id)
	switch {
	case errs.Is(err, errs.NotFound):
		return Job{}, errs.Errorf(op, errs.NotFound, "there is no canary or backfill %s", id)
	case err != nil:
		return Job{}, err
	}
	return decodeJob(e)
}

// StartCanary begins to compare rule with the current version of the rule of
// its name, on what comes in from now on. Errors: Invalid, Exists (the rule has a
// canary), Quota.
func (js *Jobs) StartCanary(ctx context.Context, rule *rules.Rule, current rules.Stored) (Job, error) {
	const op = "replay.StartCanary"
	running, err := js.List(ctx, Canary)
	if err != nil {
		return Job{}, err
	}
	for _, j := range running {
		if j.Rule.Name == rule.Name {
			return Job{}, errs.Errorf(op, errs.Exists, "the rule %s has a canary already: promote or drop it", rule.Name)
		}
	}
	j := Job{Kind: Canary, Rule: rule, Current: current.Rule, Version: current.Version}
	for p := range js.o.Log.Partitions() {
		at := js.o.Log.Committed(p)
		j.Parts = append(j.Parts, Part{From: at, At: at})
	}
	return js.start(ctx, op, j)
}

// BackfillRequest says what is delivered.
type BackfillRequest struct {
	Rule  *rules.Rule
	Since time.Time // arrival of the first event; zero: from the beginning of the log
	Until time.Time // arrival of the last; zero: to the end
	Rate  float64   // results a second; 0: as fast as they are taken
	// Ends are, by partition, the last sequences; nil: those committed now.
	Ends []uint64
}

// StartBackfill begins to deliver. Errors: Invalid, Quota.
func (js *Jobs) StartBackfill(ctx context.Context, q BackfillRequest) (Job, error) {
	const op = "replay.StartBackfill"
	j := Job{Kind: Backfill, Rule: q.Rule, Since: q.Since, Until: q.Until, Rate: q.Rate}
	for p := range js.o.Log.Partitions() {
		part := Part{From: max(js.o.Log.First(p), 1) - 1, To: js.o.Log.Committed(p)}
		if q.Ends != nil {
			part.To = min(part.To, q.Ends[p])
		}
		if !q.Since.IsZero() {
			f, err := js.o.Log.Follow(follow(p, 0, q.Since, nil))
			if err != nil {
				return Job{}, err
			}
			part.From = max(part.From, f.Position())
			f.Close()
		}
		part.To = max(part.To, part.From)
		part.At = part.From
		for range q.Rule.Actions {
			part.Lanes = append(part.Lanes, lane.State{Confirmed: part.From})
		}
		j.Parts = append(j.Parts, part)
	}
	return js.start(ctx, op, j)
}

func (js *Jobs) start(ctx context.Context, op string, j Job) (Job, error) {
	if _, err := js.o.Compile(j.Rule); err != nil {
		return Job{}, errs.E(op, errs.Invalid, err)
	}
	n := 0
	if err := js.o.Bucket.Scan(ctx, "", func(kv.Entry) error { n++; return nil }); err != nil {
		return Job{}, err
	}
	if n >= maxJobs {
		return Job{}, errs.Errorf(op, errs.Quota, "%d canaries and backfills are kept, no more: delete those that have ended", maxJobs)
	}
	j.ID, j.Created, j.State, j.Owner = newID(), js.o.Now().UTC(), Running, js.o.Owner
	return js.put(ctx, j)
}

// put saves j where nobody has changed it since it was read.
func (js *Jobs) put(ctx context.Context, j Job) (Job, error) {
	j.Saved = js.o.Now().UTC()
	b, err := json.Marshal(j)
	if err != nil {
		return j, errs.E("replay.put", errs.Internal, err)
	}
	j.revision, err = js.o.Bucket.Update(ctx, j.ID, b, j.revision)
	return j, err
}

// change applies fn to the job until it is saved.
func (js *Jobs) change(ctx context.Context, id string, fn func(*Job) error) (Job, error) {
	for {
		j, err := js.Get(ctx, id)
		if err != nil {
			return j, err
		}
		if err := fn(&j); err != nil {
			return j, err
		}
		if j, err = js.put(ctx, j); !errs.Is(err, errs.Conflict) {
			return j, err
		}
	}
}

// Halt asks a running job to stop, and waits until it has. Errors: NotFound,
// Conflict (it does not run).
func (js *Jobs) Halt(ctx context.Context, id string) (Job, error) {
	const op = "replay.Halt"
	j, err := js.change(ctx, id, func(j *Job) error {
		if j.State != Running {
			return errs.Errorf(op, errs.Conflict, "%s %s does not run: it is %s", j.Kind, id, j.State)
		}
		j.Stop = true
		if js.o.Now().Sub(j.Saved) > leaseTTL { // nobody runs it
			j.State = Stopped
		}
		return nil
	})
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for err == nil && j.State == Running {
		select {
		case <-t.C:
			j, err = js.Get(ctx, id)
		case <-ctx.Done():
			return j, errs.E(op, errs.Timeout, ctx.Err())
		}
	}
	return j, err
}

// Resume lets a job that was stopped or has failed go on from where it stands.
func (js *Jobs) Resume(ctx context.Context, id string) (Job, error) {
	return js.change(ctx, id, func(j *Job) error {
		if j.State != Stopped && j.State != Failed {
			return errs.Errorf("replay.Resume", errs.Conflict, "%s %s cannot be resumed: it is %s", j.Kind, id, j.State)
		}
		j.State, j.Stop, j.Reason, j.Ended, j.Owner = Running, false, "", time.Time{}, js.o.Owner
		return nil
	})
}

// Remove forgets a job that does not run, and ends a canary that does.
func (js *Jobs) Remove(ctx context.Context, id string) error {
	const op = "replay.Remove"
	for {
		j, err := js.Get(ctx, id)
		if err != nil {
			return err
		}
		if j.State == Running && j.Kind == Backfill {
			return errs.Errorf(op, errs.Conflict, "backfill %s runs: stop it first", id)
		}
		if _, err = js.o.Bucket.Update(ctx, id, nil, j.revision); !errs.Is(err, errs.Conflict) {
			return err
		}
	}
}

// errStopped is why a run's context ends when its owner stops it.
var errStopped = errors.New("stopped by its owner")
