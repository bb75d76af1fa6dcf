package rules

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/lane"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memLog is a Log in memory.
type memLog struct {
	mu     sync.Mutex
	parts  [][]*event.Event
	first  []uint64 // trimmed up to, by partition
	moved  chan struct{}
	holds  map[string]func() uint64
	opened int // followers open
}

func newMemLog(partitions int) *memLog {
	return &memLog{parts: make([][]*event.Event, partitions), first: make([]uint64, partitions), moved: make(chan struct{}), holds: map[string]func() uint64{}}
}

func (l *memLog) add(p int, t string, payload string) uint64 {
	e := &event.Event{Topic: topic.Name(t), Payload: []byte(payload), ClientID: t, Received: time.Now(), Partition: uint16(p)}
	return l.append(e)
}

func (l *memLog) append(e *event.Event) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Seq = uint64(len(l.parts[e.Partition]) + 1)
	l.parts[e.Partition] = append(l.parts[e.Partition], e)
	close(l.moved)
	l.moved = make(chan struct{})
	return e.Seq
}

func (l *memLog) Partitions() int { return len(l.parts) }
func (l *memLog) Committed(p int) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.parts[p]))
}

func (l *memLog) Hold(name string, p int, f func() uint64) {
	l.mu.Lock()
	l.holds[fmt.Sprint(name, p)] = f
	l.mu.Unlock()
}
func (l *memLog) Follow(p int, after uint64, filters []topic.Filter) (Follower, error) {
	l.mu.Lock()
	l.opened++
	l.mu.Unlock()
	return &memFollower{l: l, p: p, pos: after, filters: filters}, nil
}

type memFollower struct {
	l       *memLog
	p       int
	pos     uint64
	filters []topic.Filter
	closed  bool
}

func (f *memFollower) Close() {
	if !f.closed {
		f.closed = true
		f.l.mu.Lock()
		f.l.opened--
		f.l.mu.Unlock()
	}
}

func (f *memFollower) Next(ctx context.Context, max int) ([]*event.Event, uint64, error) {
	if f.closed {
		return nil, 0, errors.New("the follower is closed")
	}
	for {
		if ctx.Err() != nil {
			return nil, f.pos, ctx.Err()
		}
		f.l.mu.Lock()
		all, moved, first := f.l.parts[f.p], f.l.moved, f.l.first[f.p]
		f.l.mu.Unlock()
		if f.pos > uint64(len(all)) { // the log has lost its tail
			f.pos = uint64(len(all))
			return nil, f.pos, nil
		}
		if f.pos < first {
			g := &Gap{From: f.pos + 1, To: first}
			f.pos = first
			return nil, f.pos, g
		}
		if f.pos < uint64(len(all)) {
			var out []*event.Event
			for f.pos < uint64(len(all)) && len(out) < max {
				e := all[f.pos]
				f.pos++
				if f.filters == nil || slices.ContainsFunc(f.filters, func(x topic.Filter) bool { return topic.Match(x, e.Topic, topic.AWS) }) {
					out = append(out, e)
				}
			}
			return out, f.pos, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
		}
	}
}

// memBucket is a Bucket in memory.
type memBucket struct {
	mu      sync.Mutex
	rev     uint64
	entries map[string]Entry
	log     []Entry
	moved   chan struct{}
	down    error // of every write
}

func newMemBucket() *memBucket {
	return &memBucket{entries: map[string]Entry{}, moved: make(chan struct{})}
}

func (b *memBucket) Get(_ context.Context, key string) (Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[key]
	if len(e.Value) == 0 {
		return Entry{}, errs.Errorf("mem.Get", errs.NotFound, "no %q", key)
	}
	return e, nil
}

func (b *memBucket) Update(ctx context.Context, key string, value []byte, expected uint64) (uint64, error) {
	return b.Commit(ctx, []Change{{Key: key, Value: value, Expected: expected}})
}

func (b *memBucket) Commit(_ context.Context, changes []Change) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return 0, b.down
	}
	for _, c := range changes {
		e := b.entries[c.Key]
		have := e.Revision
		if len(e.Value) == 0 {
			have = 0
		}
		if !c.Any && have != c.Expected {
			return 0, errs.Errorf("mem.Commit", errs.Conflict, "%q: revision %d, expected %d", c.Key, have, c.Expected)
		}
	}
	for _, c := range changes {
		b.rev++
		e := Entry{Key: c.Key, Value: slices.Clone(c.Value), Revision: b.rev, Time: time.Now()}
		b.entries[c.Key] = e
		b.log = append(b.log, e)
	}
	close(b.moved)
	b.moved = make(chan struct{})
	return b.rev, nil
}

func (b *memBucket) Scan(_ context.Context, prefix string, fn func(Entry) error) error {
	b.mu.Lock()
	var list []Entry
	for k, e := range b.entries {
		if strings.HasPrefix(k, prefix) && len(e.Value) > 0 {
			list = append(list, e)
		}
	}
	b.mu.Unlock()
	slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	for _, e := range list {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func (b *memBucket) Watch(ctx context.Context, prefix string, fn func(Entry)) error {
	b.mu.Lock()
	at := len(b.log)
	b.mu.Unlock()
	b.Scan(ctx, prefix, func(e Entry) error { fn(e); return nil })
	fn(Entry{})
	for {
		b.mu.Lock()
		news, moved := b.log[at:], b.moved
		at = len(b.log)
		b.mu.Unlock()
		for _, e := range news {
			if strings.HasPrefix(e.Key, prefix) {
				fn(e)
			}
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// testLanguage reads "<filter> [word]": the rule selects the payload of events
// whose payload contains word.
type testLanguage struct{}

func (testLanguage) Compile(r *Rule) (Program, error) {
	f, word, _ := strings.Cut(r.SQL, " ")
	if f == "bad" {
		return nil, errors.New("a bad statement")
	}
	return testProgram{topic.Filter(f), word}, nil
}

func (testLanguage) NewMachine() Machine { return new(testMachine) }

type testMachine struct{ exceeded uint64 }

func (m *testMachine) Exceeded() uint64 { return m.exceeded }

type testProgram struct {
	filter topic.Filter
	word   string
}

func (p testProgram) Filter() (topic.Filter, bool) { return p.filter, p.filter != "-" }

func (p testProgram) CallsOut() bool { return strings.HasPrefix(p.word, "call") }

func (p testProgram) Eval(_ context.Context, m Machine, e *event.Event) ([]byte, bool, error) {
	switch s := string(e.Payload); {
	case p.word == "panic" && s == "panic":
		panic("poison")
	case p.word == "call":
		<-blocked
	case p.word == "regex":
		m.(*testMachine).exceeded++
	case s == "fail":
		return nil, false, errors.New("a look-up failed")
	case !strings.Contains(s, p.word):
		return nil, false, nil
	}
	return slices.Clone(e.Payload), true, nil
}

// blocked holds evaluations of rules with the word call.
var blocked = make(chan struct{})

// testLane is a lane with a window of a few results; a test says when they are
// settled.
type testLane struct {
	spec LaneSpec
	hub  *testHub

	mu        sync.Mutex
	window    []uint64
	size      int
	refused   bool
	confirmed uint64
	advanced  uint64
	counts    lane.Counts
	room      chan struct{}
	auto      bool   // settle at once
	last      uint64 // highest sequence taken
	refusals  int
}

type got struct {
	rule    string
	version uint64
	index   int
	seq     uint64
	failed  bool
}

// testHub makes lanes and records what they deliver.
type testHub struct {
	mu    sync.Mutex
	lanes []*testLane
	got   []got
	size  int  // of windows; 0: unbounded
	auto  bool // lanes settle at once
	fail  error
}

func (h *testHub) make(_ context.Context, s LaneSpec) (lane.Lane, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return nil, h.fail
	}
	l := &testLane{spec: s, hub: h, size: h.size, auto: h.auto, room: make(chan struct{}, 1), confirmed: s.State.Confirmed, counts: s.State.Counts, last: s.State.Confirmed}
	h.lanes = append(h.lanes, l)
	return l, nil
}

func (h *testHub) lane(rule string, index int) *testLane {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := len(h.lanes) - 1; i >= 0; i-- {
		if l := h.lanes[i]; l.spec.Rule.Name == rule && l.spec.Index == index {
			return l
		}
	}
	return nil
}

func (h *testHub) seqs(rule string, index int) []uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []uint64
	for _, g := range h.got {
		if g.rule == rule && g.index == index {
			out = append(out, g.seq)
		}
	}
	return out
}

func (l *testLane) put(e *event.Event, failed bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && len(l.window) >= l.size {
		l.refused = true
		l.refusals++
		return false
	}
	if e.Seq <= l.last {
		panic(fmt.Sprintf("rule %s: event %d was offered behind %d", l.spec.Rule.Name, e.Seq, l.last))
	}
	l.last = e.Seq
	l.hub.mu.Lock()
	l.hub.got = append(l.hub.got, got{l.spec.Rule.Name, l.spec.Version, l.spec.Index, e.Seq, failed})
	l.hub.mu.Unlock()
	if l.auto {
		l.counts.Delivered++
		l.confirmed = max(l.confirmed, e.Seq)
		return true
	}
	l.window = append(l.window, e.Seq)
	return true
}

// settle settles the n oldest results.
func (l *testLane) settle(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; n > 0 && len(l.window) > 0; n-- {
		l.confirmed = max(l.confirmed, l.window[0])
		l.window = l.window[1:]
		l.counts.Delivered++
	}
	if l.refused && len(l.window) < l.size {
		l.refused = false
		select {
		case l.room <- struct{}{}:
		default:
		}
	}
}

func (l *testLane) Offer(e *event.Event, _ []byte) bool { return l.put(e, false) }
func (l *testLane) Fail(e *event.Event, _ error) bool   { return l.put(e, true) }
func (l *testLane) Room() <-chan struct{}               { return l.room }

func (l *testLane) Trace(seq uint64) lane.Trace {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Contains(l.window, seq) {
		return lane.Trace{State: lane.Pending}
	}
	return lane.Trace{}
}

func (l *testLane) Advance(upto uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advanced = max(l.advanced, upto)
}

func (l *testLane) State() lane.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := max(l.confirmed, l.advanced)
	if len(l.window) > 0 {
		c = l.window[0] - 1
	}
	return lane.State{Confirmed: c, Counts: l.counts}
}

func (l *testLane) Status() lane.Status {
	st := l.State()
	l.mu.Lock()
	defer l.mu.Unlock()
	return lane.Status{Counts: l.counts, Confirmed: st.Confirmed, Pending: len(l.window), Breaker: "closed"}
}

func (l *testLane) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// world is an engine on fakes.
type world struct {
	t         *testing.T
	log       *memLog
	bucket    *memBucket
	positions *memBucket
	hub       *testHub
	store     *Store
	engine    *Engine
	end       func()
}

func newWorld(t *testing.T, partitions int) *world {
	w := &world{t: t, log: newMemLog(partitions), bucket: newMemBucket(), positions: newMemBucket(), hub: &testHub{auto: true}}
	w.store = NewStore(w.bucket, func(context.Context, *Rule) error { return nil }, Ends(w.log), nil)
	return w
}

// start runs an engine; end stops it, kill stops it without the last save.
// start makes an engine and runs it. made is called in between.
func (w *world) start(made ...func(*Engine)) {
	w.t.Helper()
	e, err := New(Options{Log: w.log, Store: w.store, Positions: w.positions, Language: testLanguage{}, Lanes: w.hub.make,
		Owner: "me", LeaseTTL: 300 * time.Millisecond, SaveEvery: 2 * time.Millisecond})
	if err != nil {
		w.t.Fatal(err)
	}
	w.engine = e
	for _, f := range made {
		f(e)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { e.Run(ctx); close(done) }()
	var once sync.Once
	w.end = func() { once.Do(func() { cancel(); <-done }) }
	w.t.Cleanup(w.end)
}

// kill stops the engine so that nothing it did since is saved.
func (w *world) kill() {
	w.positions.mu.Lock()
	w.positions.down = errors.New("dead")
	w.positions.mu.Unlock()
	w.end()
	w.positions.mu.Lock()
	w.positions.down = nil
	w.positions.mu.Unlock()
}

func (w *world) apply(name, sql string, kinds ...string) Stored {
	w.t.Helper()
	r := &Rule{Name: name, SQL: sql, Actions: []Action{}}
	for _, k := range kinds {
		r.Actions = append(r.Actions, Action{Kind: k, Params: []byte(`{}`)})
	}
	st, _, err := w.store.Apply(context.Background(), r, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// idle waits until every lane has confirmed all there is.
func (w *world) idle() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.engine.Idle(ctx); err != nil {
		w.t.Fatalf("not idle: %+v %+v", w.engine.Status(), w.engine.Partitions())
	}
}

// running waits until the newest version of a rule is in the worker's table.
func (w *world) running(name string, revision uint64) {
	w.t.Helper()
	w.eventually("rule "+name+" runs", func() bool {
		for _, p := range w.engine.parts {
			s := p.current()
			if s == nil {
				return false
			}
			s.mu.Lock()
			v := s.versions[revision]
			ok := v != nil && v.taken
			s.mu.Unlock()
			if !ok {
				return false
			}
		}
		return true
	})
}

// closed waits until the worker has closed n versions that wait for their lanes.
func (w *world) closed(n int) {
	w.t.Helper()
	w.eventually("closed", func() bool {
		s := w.engine.parts[0].current()
		s.mu.Lock()
		defer s.mu.Unlock()
		k := 0
		for _, v := range s.versions {
			if v.end != open {
				k++
			}
		}
		return k == n
	})
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	for _, p := range w.engine.parts {
		if s := p.current(); s != nil {
			s.mu.Lock()
			w.t.Logf("partition %d at %d, joining %d, done %v", p.id, s.position.Load(), len(s.joining), s.done)
			for rev, v := range s.versions {
				for _, r := range v.lanes {
					w.t.Logf("%s@%d/%d: from %d end %d pos %d left %v known %v %+v", v.stored.Rule.Name, rev, r.index, v.from, v.end, r.pos, r.left.Load(), v.known, r.lane.State())
				}
			}
			s.mu.Unlock()
		}
	}
	w.t.Fatalf("not in time: %s; %+v", what, w.engine.Status())
}
