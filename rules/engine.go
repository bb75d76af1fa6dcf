package rules

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/topic"
)

// Options configure an Engine.
type Options struct {
	Log       Log
	Store     *Store
	Positions Bucket // of the lanes' positions and the partitions' leases
	Language  Language
	Lanes     LaneMaker

	// Owner names this process in leases. A stable name takes its own lease over
	// at once after a crash: right where a data folder can have one process only.
	// Empty: a random name, and a dead owner's lease runs out first.
	Owner string

	LeaseTTL  time.Duration // default 5 s
	SaveEvery time.Duration // of positions; default 100 ms

	Logger *slog.Logger
	Now    func() time.Time
}

// Engine runs the rules of a store on a log.
type Engine struct {
	o     Options
	parts []*partition

	mu      sync.Mutex
	entries map[string]*entry // by key of the store
	loaded  bool              // the store has been read once
	changed chan struct{}     // closed and replaced at each change of entries
}

// entry is one version of a rule as the store has it, compiled.
type entry struct {
	stored Stored
	prog   Program // nil: the version cannot be run, see err
	err    error
	closed bool // under a closed key
}

// New checks the options and reads the log's committed ends: the log is open and
// takes nothing yet. Nothing runs until Run.
func New(o Options) (*Engine, error) {
	const op = "rules.New"
	if o.Log == nil || o.Store == nil || o.Positions == nil || o.Language == nil || o.Lanes == nil {
		return nil, errs.Errorf(op, errs.Internal, "an option is missing")
	}
	alone := o.Owner != ""
	if !alone {
		var b [8]byte
		rand.Read(b[:])
		o.Owner = hex.EncodeToString(b[:])
	}
	if o.LeaseTTL <= 0 {
		o.LeaseTTL = 5 * time.Second
	}
	if o.SaveEvery <= 0 {
		o.SaveEvery = 100 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	e := &Engine{o: o, entries: map[string]*entry{}, changed: make(chan struct{})}
	for p := range o.Log.Partitions() {
		part := &partition{engine: e, id: p, log: o.Logger.With("partition", p), opened: open, openedAt: o.Now()}
		if alone {
			part.opened = o.Log.Committed(p)
		}
		e.parts = append(e.parts, part)
		e.parts[p].holdAll()
	}
	return e, nil
}

// Run runs the rules until ctx ends; positions are saved on the way out. Every
// goroutine it started has ended on return.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { e.watch(ctx) })
	for _, p := range e.parts {
		wg.Go(func() { p.run(ctx) })
	}
	wg.Wait()
	return nil
}

// watch follows the store until ctx ends.
func (e *Engine) watch(ctx context.Context) {
	for ctx.Err() == nil {
		seen := map[string]bool{}
		initial := true
		err := e.o.Store.bucket.Watch(ctx, prefix, func(kv Entry) {
			if kv.Key == "" { // the end of the current values
				if initial {
					initial = false
					e.forget(seen)
				}
				return
			}
			if initial {
				seen[kv.Key] = true
			}
			e.take(ctx, kv)
		})
		if ctx.Err() != nil {
			return
		}
		e.o.Logger.Error("the rules' bucket cannot be watched; watching it again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// take brings one entry of the store in.
func (e *Engine) take(ctx context.Context, kv Entry) {
	_, revision, closed := splitKey(kv.Key)
	if !closed {
		revision = kv.Revision
	}
	e.mu.Lock()
	old := e.entries[kv.Key]
	e.mu.Unlock()
	if old != nil && old.stored.Revision == revision && len(kv.Value) > 0 {
		return // seen already: the watch began anew
	}
	var n *entry
	if len(kv.Value) > 0 {
		n = e.compile(kv, closed)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if n == nil {
		delete(e.entries, kv.Key)
	} else {
		e.entries[kv.Key] = n
	}
	e.notify()
}

func (e *Engine) compile(kv Entry, closed bool) *entry {
	st, err := decodeStored(kv)
	if err != nil {
		name, _, _ := splitKey(kv.Key)
		st = Stored{Rule: &Rule{Name: name}, Revision: kv.Revision}
	}
	n := &entry{stored: st, closed: closed, err: err}
	if err == nil && (closed || !st.Rule.Disabled) {
		if n.prog, n.err = e.o.Language.Compile(st.Rule); n.err != nil {
			n.prog = nil
		}
	}
	if n.err != nil {
		e.o.Logger.Error("a stored rule cannot be run; its positions are kept", "rule", st.Rule.Name, "error", n.err)
	}
	return n
}

// forget drops the entries a new watch did not show any more.
func (e *Engine) forget(seen map[string]bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k := range e.entries {
		if !seen[k] {
			delete(e.entries, k)
		}
	}
	e.loaded = true
	e.notify()
}

// notify wakes the partitions. e.mu is held.
func (e *Engine) notify() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// current returns the versions to run, by rule and age, and a channel that is
// closed at the next change. loaded is false until the store has been read.
func (e *Engine) current() (list []*entry, loaded bool, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.entries {
		if n.closed || !n.stored.Rule.Disabled {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.stored.Rule.Name, b.stored.Rule.Name), cmp.Compare(a.stored.Revision, b.stored.Revision))
	})
	return list, e.loaded, e.changed
}

// finished is called when a partition has saved that a closed version has
// drained there. The version's record goes once it has in all partitions.
func (e *Engine) finished(ctx context.Context, name string, revision uint64) error {
	for p := range e.o.Log.Partitions() {
		rec, _, err := loadRecord(ctx, e.o.Positions, p)
		if err != nil {
			return err
		}
		if !slices.Contains(rec.Done, revision) {
			return nil
		}
	}
	return e.o.Store.drained(ctx, name, revision)
}

// Filters returns the topics a version listens on.
func Filters(name string, prog Program) []topic.Filter {
	base := topic.Filter(topic.BasicIngest + name)
	out := []topic.Filter{base, base + "/#"}
	if f, ok := prog.Filter(); ok {
		out = append(out, f)
	}
	return out
}

// Private reports whether no rule may match n: its payload is for one client
// alone.
func Private(n topic.Name) bool {
	if len(n) < 5 || n[:5] != "$aws/" {
		return false
	}
	return topic.Match("$aws/certificates/#", n, topic.Standard) ||
		topic.Match("$aws/provisioning-templates/#", n, topic.Standard) ||
		topic.Match("$aws/things/+/jobs/#", n, topic.Standard) &&
			!topic.Match("$aws/things/+/jobs/notify", n, topic.Standard) &&
			!topic.Match("$aws/things/+/jobs/notify-next", n, topic.Standard)
}

// ErrLoop is the error of an evaluation that MaxHops refuses.
var ErrLoop = errors.New("the message has passed more than 10 republish actions: a rule republishes to a topic that leads back to it")

// MaxHops is how many republish actions a message may have passed; beyond it no
// rule evaluates it.
const MaxHops = 10

// panicError is a panic while a statement was evaluated.
type panicError struct{ value any }

func (p *panicError) Error() string {
	return fmt.Sprintf("evaluating the statement panicked: %v", p.value)
}
