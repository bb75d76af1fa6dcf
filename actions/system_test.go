package actions_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/lane"
)

// These tests run the engine and its lanes on a real log.

// system is a log with an engine on it.
type system struct {
	t      testing.TB
	log    *eventlog.Log
	store  *rules.Store
	engine *rules.Engine
	dead   *actions.Dead
	maker  *actions.Maker
	stop   func()
}

// join makes the engine's lanes with m.
func join(m *actions.Maker) rules.LaneMaker {
	return func(ctx context.Context, s rules.LaneSpec) (lane.Lane, error) {
		return m.NewLane(ctx, plan(s.Rule, s.Program, s.Index, s.State))
	}
}

func plan(r *rules.Rule, p rules.Program, index int, st lane.State) actions.Plan {
	a := r.Actions[index]
	out := actions.Plan{Rule: r.Name, Program: p.(rules.SQLProgram).Program, Index: index, Kind: a.Kind, Params: a.Params, State: st}
	if r.ErrorAction != nil {
		out.ErrorKind, out.ErrorParams = r.ErrorAction.Kind, r.ErrorAction.Params
	}
	return out
}

func open(t testing.TB, dir string, d eventlog.Durability, partitions int, kinds ...actions.Kind) *system {
	t.Helper()
	ctx := context.Background()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	log, err := eventlog.Open(ctx, eventlog.Options{Dir: dir, Durability: d, Partitions: partitions})
	must(err)
	registry, err := kv.Open(ctx, log, kv.Config{Name: "registry"})
	must(err)
	lanes, err := kv.Open(ctx, log, kv.Config{Name: "lanes"})
	must(err)
	dead, err := actions.OpenDead(log, 1<<20, nil)
	must(err)
	s := &system{t: t, log: log, dead: dead}
	s.maker = &actions.Maker{
		Kinds: kinds, Dead: dead,
		Env:  actions.Env{Publish: log.Publish},
		Lane: actions.LaneOptions{BackoffMin: time.Millisecond, BackoffMax: 10 * time.Millisecond},
	}
	l := rules.OnLog(log)
	s.store = rules.NewStore(registry, func(ctx context.Context, r *rules.Rule) error {
		_, err := rules.SQL{}.Compile(r)
		return err
	}, rules.Ends(l), nil)
	s.engine, err = rules.New(rules.Options{Log: l, Store: s.store, Positions: lanes, Language: rules.SQL{}, Lanes: join(s.maker), Owner: "local"})
	must(err)
	logCtx, stopLog := context.WithCancel(ctx)
	engCtx, stopEng := context.WithCancel(ctx)
	var logWG, engWG sync.WaitGroup
	logWG.Go(func() { log.Run(logCtx) })
	engWG.Go(func() { s.engine.Run(engCtx) })
	var once sync.Once
	s.stop = func() {
		once.Do(func() {
			stopEng()
			engWG.Wait()
			stopLog()
			logWG.Wait()
			log.Close()
		})
	}
	t.Cleanup(s.stop)
	return s
}

func (s *system) apply(name, sql string, acts ...rules.Action) {
	s.t.Helper()
	r := &rules.Rule{Name: name, SQL: sql}
	for _, a := range acts {
		if a.Kind == "error" {
			r.ErrorAction = &rules.Action{Kind: "sink", Params: a.Params}
			continue
		}
		r.Actions = append(r.Actions, a)
	}
	if _, _, err := s.store.Apply(context.Background(), r, 0); err != nil {
		s.t.Fatal(err)
	}
}

func (s *system) idle() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.engine.Idle(ctx); err != nil {
		s.t.Fatalf("not idle: %+v", s.engine.Status())
	}
}

func (s *system) publish(t, client, payload string) *event.Event {
	s.t.Helper()
	e := &event.Event{Topic: topic.Name(t), ClientID: client, Payload: []byte(payload), Received: time.Now().UTC().Truncate(time.Millisecond), QoS: 1}
	if err := s.log.Publish(context.Background(), e); err != nil {
		s.t.Fatal(err)
	}
	return e
}

// burst publishes n events of many clients without waiting for each.
func (s *system) burst(t string, n int, payload func(int) string) {
	s.t.Helper()
	r := &receipts{left: n, done: make(chan struct{})}
	for i := range n {
		e := &event.Event{Topic: topic.Name(t), ClientID: fmt.Sprint("c", i%16), Payload: []byte(payload(i)), Received: time.Now().UTC(), QoS: 1}
		if err := s.log.Append(context.Background(), e, r, 0); err != nil {
			s.t.Fatal(err)
		}
	}
	<-r.done
	if r.failed > 0 {
		s.t.Fatalf("%d events were not stored", r.failed)
	}
}

type receipts struct {
	mu           sync.Mutex
	left, failed int
	done         chan struct{}
}

func (r *receipts) Appended(_ uint64, _ *event.Event, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed++
	}
	if r.left--; r.left == 0 {
		close(r.done)
	}
}
func (r *receipts) Flush() {}

func (s *system) account(rule string, index int) rules.ActionStatus {
	for _, rs := range s.engine.Status() {
		if rs.Name == rule {
			for _, a := range rs.Actions {
				if a.Index == index {
					return a
				}
			}
		}
	}
	return rules.ActionStatus{}
}

// sinks is a kind whose actions are told apart by their parameter.
type sinks struct {
	mu      sync.Mutex
	deliver map[string]func(context.Context, []*actions.Result) error
	got     map[string][]actions.Result
}

func newSinks() *sinks {
	return &sinks{deliver: map[string]func(context.Context, []*actions.Result) error{}, got: map[string][]actions.Result{}}
}

func (s *sinks) kind() actions.Kind {
	fields := []actions.Field{{Name: "to", Type: actions.String, Required: true}, {Name: "batch", Type: actions.Int}}
	return actions.Kind{Name: "sink", Fields: fields, New: func(_ context.Context, env actions.Env, raw json.RawMessage) (actions.Action, actions.Spec, error) {
		var p struct {
			To    string
			Batch int
		}
		if err := actions.Decode(raw, fields, &p); err != nil {
			return nil, actions.Spec{}, err
		}
		return &sinkAction{s, p.To}, actions.Spec{Resource: p.To, BatchMax: p.Batch}, nil
	}}
}

type sinkAction struct {
	s  *sinks
	to string
}

func (a *sinkAction) Deliver(ctx context.Context, batch []*actions.Result) error {
	a.s.mu.Lock()
	f := a.s.deliver[a.to]
	a.s.mu.Unlock()
	if f != nil {
		if err := f(ctx, batch); err != nil {
			return err
		}
	}
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	for _, r := range batch {
		a.s.got[a.to] = append(a.s.got[a.to], *r)
	}
	return nil
}

func (a *sinkAction) Close(context.Context) error { return nil }

func (s *sinks) on(to string, f func(context.Context, []*actions.Result) error) {
	s.mu.Lock()
	s.deliver[to] = f
	s.mu.Unlock()
}

func (s *sinks) results(to string) []actions.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got[to])
}

func to(name string) rules.Action {
	return rules.Action{Kind: "sink", Params: json.RawMessage(fmt.Sprintf(`{"to":%q,"batch":64}`, name))}
}
func errorTo(name string) rules.Action { a := to(name); a.Kind = "error"; return a }

func TestOneMessageAllTheWay(t *testing.T) {
	k := newSinks()
	s := open(t, "", eventlog.Memory, 2, k.kind())
	s.apply("hot", `SELECT deviceId, temperature FROM 'factory/+/telemetry' WHERE temperature > 40`, to("hot"))
	s.apply("all", `SELECT * FROM 'factory/#'`, to("all"))
	for i := range 50 {
		s.publish(fmt.Sprintf("factory/%d/telemetry", i%3), fmt.Sprint("dev", i%5), fmt.Sprintf(`{"deviceId":"d%d","temperature":%d}`, i, i))
	}
	s.idle()
	if got := k.results("hot"); len(got) != 9 {
		t.Errorf("%d results", len(got))
	} else if !strings.Contains(string(got[0].Payload), `"temperature"`) || strings.Contains(string(got[0].Payload), "x") {
		t.Errorf("%s", got[0].Payload)
	}
	if got := k.results("all"); len(got) != 50 {
		t.Errorf("%d results", len(got))
	}
	if a := s.account("all", 0); a.Matched != 50 || a.Delivered != 50 || a.Pending != 0 || a.Lag != 0 {
		t.Errorf("%+v", a)
	}
}

// A sink that is away or slow delays nobody, loses nothing, and the log is read
// again for what did not fit into memory.
func TestAwaySinkDelaysNobody(t *testing.T) {
	k := newSinks()
	s := open(t, "", eventlog.Memory, 1, k.kind())
	var down atomic.Bool
	down.Store(true)
	k.on("away", func(context.Context, []*actions.Result) error {
		if down.Load() {
			return actions.Unreachable(errors.New("connection refused"))
		}
		return nil
	})
	s.apply("away", `SELECT * FROM 't'`, to("away"))
	s.apply("quick", `SELECT * FROM 't'`, to("quick"))
	const n = 5000
	s.burst("t", n, func(i int) string { return fmt.Sprintf(`{"n":%d}`, i) })
	eventually(t, "the quick rule", func() bool { return len(k.results("quick")) == n })
	a := s.account("away", 0)
	if a.AtHead || a.Pending == 0 || a.Pending > 1024 || a.Breaker == "closed" || a.Delivered != 0 || a.LastError != "connection refused" {
		t.Errorf("%+v", a)
	}
	down.Store(false)
	s.idle()
	inOrder(t, k.results("away"), n)
	eventually(t, "back at the head", func() bool { a := s.account("away", 0); return a.AtHead && a.Breaker == "closed" })
	if a := s.account("away", 0); a.Delivered != n || a.Matched != n {
		t.Errorf("%+v", a)
	}
}

// inOrder checks that each of n events arrived once, and those of each client
// in order.
func inOrder(t *testing.T, got []actions.Result, n int) {
	t.Helper()
	last := map[string]uint64{}
	for _, r := range got {
		if r.Event.Seq <= last[r.Event.ClientID] {
			t.Fatalf("client %s: event %d behind %d", r.Event.ClientID, r.Event.Seq, last[r.Event.ClientID])
		}
		last[r.Event.ClientID] = r.Event.Seq
	}
	if len(got) != n {
		t.Fatalf("%d results, want %d", len(got), n)
	}
}

func TestErrorActionAndDeadLetters(t *testing.T) {
	k := newSinks()
	s := open(t, "", eventlog.Memory, 1, k.kind())
	never := func(context.Context, []*actions.Result) error { return actions.Permanent(errors.New("no such bucket")) }
	k.on("broken", never)
	s.apply("r", `SELECT n FROM 't'`, to("broken"), errorTo("errors"))
	s.apply("lost", `SELECT n FROM 't'`, to("broken"))
	e := s.publish("t", "c1", `{"n":1,"x":2}`)
	s.idle()
	if a := s.account("r", 0); a.ErrorDelivered != 1 || a.Matched != 1 {
		t.Errorf("%+v", a)
	}
	var doc struct{ RuleName, Topic, CloudwatchTraceID string }
	if got := k.results("errors"); len(got) != 1 || json.Unmarshal(got[0].Payload, &doc) != nil || doc.RuleName != "r" || doc.CloudwatchTraceID != e.ID().String() {
		t.Errorf("%+v", doc)
	}
	ctx := context.Background()
	letters, err := s.dead.List(ctx, "lost", 0, 10)
	if err != nil || len(letters) != 1 {
		t.Fatal(letters, err)
	}
	l := letters[0]
	if l.Rule != "lost" || l.Kind != "sink" || l.Error != "no such bucket" || string(l.Result.Payload) != `{"n":1}` || string(l.Result.Event.Payload) != `{"n":1,"x":2}` ||
		l.Result.ID != e.ID() || l.Result.Event.ClientID != "c1" || !l.Result.Event.Received.Equal(e.Received) {
		t.Errorf("%+v %+v", l, l.Result)
	}
	if other, err := s.dead.List(ctx, "nobody", 0, 10); err != nil || len(other) != 0 {
		t.Error(other, err)
	}
	redrive := func() (int, map[uint64]error) {
		return s.dead.Redrive(ctx, []uint64{l.Seq}, func(ctx context.Context, l *actions.Letter) error {
			st, err := s.store.Get(ctx, l.Rule)
			if err != nil {
				return err
			}
			p, err := rules.SQL{}.Compile(st.Rule)
			if err != nil {
				return err
			}
			return s.maker.Deliver(ctx, plan(st.Rule, p, l.Index, lane.State{}), l.Result)
		})
	}
	if n, failed := redrive(); n != 0 || failed[l.Seq] == nil {
		t.Error("a letter whose sink is still broken must stay", n, failed)
	}
	if _, err := s.dead.Get(ctx, l.Seq); err != nil {
		t.Error(err)
	}
	k.on("broken", nil)
	if n, failed := redrive(); n != 1 || len(failed) != 0 {
		t.Error(n, failed)
	}
	if got := k.results("broken"); len(got) != 1 || got[0].ID != e.ID() || string(got[0].Payload) != `{"n":1}` {
		t.Errorf("%+v", got)
	}
	if _, err := s.dead.Get(ctx, l.Seq); !errs.Is(err, errs.NotFound) {
		t.Error("the letter is still there:", err)
	}
	if st, err := s.dead.Stats(); err != nil || st.Letters != 0 || s.dead.Count() != 0 {
		t.Error(st, err)
	}
}

// A letter that holds nothing to deliver cannot be redriven, and stays.
func TestRedriveOfAFailedEvaluation(t *testing.T) {
	k := newSinks()
	s := open(t, "", eventlog.Memory, 1, k.kind())
	ctx := context.Background()
	e := s.publish("t", "c", strings.Repeat("x", 1000))
	big := &event.Event{Topic: "t", Payload: make([]byte, 900_000), Seq: 7, Received: e.Received}
	for _, l := range []*actions.Letter{
		{Rule: "r", Kind: "sink", Evaluation: true, Result: &actions.Result{ID: e.ID(), Event: e}},
		{Rule: "r", Kind: "sink", Result: &actions.Result{ID: big.ID(), Event: big, Payload: make([]byte, 900_000)}},
		{Rule: "r", Kind: "sink", Result: &actions.Result{ID: big.ID(), Event: big, Payload: make([]byte, 600_000)}},
	} {
		if err := s.dead.Put(ctx, l); err != nil {
			t.Fatal(err)
		}
	}
	var got []*actions.Letter
	n, failed := s.dead.Redrive(ctx, []uint64{1, 2, 3, 4}, func(_ context.Context, l *actions.Letter) error { got = append(got, l); return nil })
	if n != 1 || !errs.Is(failed[1], errs.Invalid) || !errs.Is(failed[2], errs.Invalid) || !errs.Is(failed[4], errs.NotFound) {
		t.Error(n, failed)
	}
	if len(got) != 1 || len(got[0].Result.Payload) != 600_000 || len(got[0].Result.Event.Payload) != 0 || got[0].Result.Event.Seq != 7 {
		t.Errorf("%+v", got)
	}
}

// At DEAD's limit the oldest letters go, counted.
func TestDeadLimit(t *testing.T) {
	k := newSinks()
	s := open(t, "", eventlog.Memory, 1, k.kind())
	k.on("broken", func(context.Context, []*actions.Result) error { return actions.Permanent(errors.New("x")) })
	s.apply("r", `SELECT * FROM 't'`, to("broken"))
	pad := strings.Repeat("x", 10_000)
	const n = 100
	s.burst("t", n, func(i int) string { return fmt.Sprintf(`{"n":%d,"p":%q}`, i, pad) })
	s.idle()
	eventually(t, "trimmed", func() bool { st, err := s.dead.Stats(); return err == nil && st.Bytes <= 1<<20 && st.Dropped > 0 })
	st, _ := s.dead.Stats()
	if st.Letters+st.Dropped != n || st.Letters < 10 {
		t.Errorf("%+v", st)
	}
	all, err := s.dead.List(context.Background(), "", 0, 1000)
	if err != nil || uint64(len(all)) != st.Letters || all[len(all)-1].Seq != n {
		t.Error(len(all), err)
	}
}

// A loop by republish ends.
func TestLoopEnds(t *testing.T) {
	k := newSinks()
	republish := actions.Kind{Name: "again", New: func(_ context.Context, env actions.Env, raw json.RawMessage) (actions.Action, actions.Spec, error) {
		return &again{env}, actions.Spec{}, nil
	}}
	s := open(t, "", eventlog.Memory, 1, k.kind(), republish)
	s.apply("loop", `SELECT * FROM 'a/#'`, rules.Action{Kind: "again", Params: json.RawMessage(`{}`)}, rules.Action{Kind: "error", Params: json.RawMessage(`{"to":"errors"}`)})
	s.apply("worse", `SELECT * FROM 'b'`, rules.Action{Kind: "again", Params: json.RawMessage(`{}`)})
	s.publish("a/1", "c", `{}`)
	s.publish("b", "c", `{}`)
	eventually(t, "both loops end", func() bool {
		return s.account("loop", 0).ErrorDelivered == 1 && s.account("worse", 0).Dead == 1
	})
	s.idle()
	if a := s.account("loop", 0); a.Matched != 12 || a.Delivered != 11 {
		t.Errorf("%+v", a)
	}
}

type again struct{ env actions.Env }

func (a *again) Deliver(ctx context.Context, batch []*actions.Result) error {
	for _, r := range batch {
		err := a.env.Publish(ctx, &event.Event{Topic: r.Event.Topic, Payload: r.Payload, Received: time.Now().UTC(), Hops: r.Event.Hops + 1,
			Key: r.Event.OrderingKey(), Protocol: event.Server})
		if err != nil {
			return err
		}
	}
	return nil
}
func (*again) Close(context.Context) error { return nil }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("not in time: " + what)
}

// TestKill kills a process with an engine under load at random moments. Every
// stored event that a rule selects is delivered, and the account adds up over
// all lives of the process.
func TestKill(t *testing.T) {
	if os.Getenv("WEIR_TEST_CHILD") != "" {
		child(t)
		return
	}
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	const lives = 5
	for life := range lives {
		last := life == lives-1
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$", "-test.v")
		mode := "load"
		if last {
			mode = "finish"
		}
		cmd.Env = append(os.Environ(), "WEIR_TEST_CHILD="+mode, "WEIR_TEST_DIR="+dir)
		var out, stderr bytes.Buffer
		cmd.Stderr = &stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		sc := bufio.NewScanner(stdout)
		ready := false
		for sc.Scan() {
			if out.WriteString(sc.Text() + "\n"); sc.Text() == "ready" {
				ready = true
				break
			}
		}
		if !ready {
			cmd.Wait()
			t.Fatalf("life %d: %s%s", life, out.String(), stderr.String())
		}
		if !last {
			time.Sleep(time.Duration(150+r.IntN(500)) * time.Millisecond)
			cmd.Process.Kill()
			cmd.Wait()
			continue
		}
		for sc.Scan() {
			out.WriteString(sc.Text() + "\n")
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v\n%s%s", err, out.String(), stderr.String())
		}
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, " events; ") {
				t.Log(strings.TrimSpace(line))
			}
		}
	}
}

// child is one life of the process: under load until it is killed, or the
// last one, which checks.
func child(t *testing.T) {
	dir := os.Getenv("WEIR_TEST_DIR")
	record := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	k := newSinks()
	var dice atomic.Uint64
	for _, name := range []string{"a", "b", "err"} {
		f := record("got-" + name)
		k.on(name, func(_ context.Context, batch []*actions.Result) error {
			var failed []error
			var buf bytes.Buffer
			for _, r := range batch {
				var err error
				if name == "b" && r.Event.Seq%10 == 0 { // by message, so that every life decides alike
					err = actions.Permanent(errors.New("refused"))
				} else {
					fmt.Fprintf(&buf, "%d\n", r.Event.Seq)
				}
				failed = append(failed, err)
			}
			if name == "a" && dice.Add(1)%5 == 0 {
				return actions.Unreachable(errors.New("away"))
			}
			if _, err := f.Write(buf.Bytes()); err != nil {
				return err
			}
			if name == "b" {
				return &actions.BatchError{Errs: failed}
			}
			return nil
		})
	}
	s := open(t, filepath.Join(dir, "data"), eventlog.OS, 1, k.kind())
	s.apply("a", `SELECT n FROM 't'`, to("a"))
	s.apply("b", `SELECT n FROM 't' WHERE odd = 1`, to("b"), errorTo("err"))
	fmt.Println("ready")
	if os.Getenv("WEIR_TEST_CHILD") == "load" {
		for i := 0; ; i++ {
			s.burst("t", 50, func(i int) string { return fmt.Sprintf(`{"n":%d,"odd":%d}`, i, i%2) })
		}
	}
	s.idle()
	// What the log holds is what must have been delivered.
	end := s.log.Committed(0)
	f, err := rules.OnLog(s.log).Follow(0, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	var all, odd []uint64
	for at := uint64(0); at < end; {
		batch, upto, err := f.Next(context.Background(), 500)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch {
			all = append(all, e.Seq)
			if strings.Contains(string(e.Payload), `"odd":1`) {
				odd = append(odd, e.Seq)
			}
		}
		at = upto
	}
	read := func(name string) (map[uint64]int, int) {
		b, err := os.ReadFile(filepath.Join(dir, "got-"+name))
		if err != nil {
			t.Fatal(err)
		}
		out := map[uint64]int{}
		n := 0
		for line := range strings.Lines(string(b)) {
			var seq uint64
			if _, err := fmt.Sscan(line, &seq); err != nil {
				t.Fatal(err)
			}
			out[seq]++
			n++
		}
		return out, n
	}
	a, na := read("a")
	b, nb := read("b")
	e, ne := read("err")
	var wantB, wantE uint64
	for _, seq := range all {
		if a[seq] == 0 {
			t.Fatalf("a: event %d was lost", seq)
		}
	}
	for _, seq := range odd {
		if seq%10 == 0 {
			if wantE++; e[seq] == 0 {
				t.Fatalf("error action: event %d was lost", seq)
			}
		} else if wantB++; b[seq] == 0 {
			t.Fatalf("b: event %d was lost", seq)
		}
	}
	if acc := s.account("a", 0); acc.Matched != uint64(len(all)) || acc.Delivered != acc.Matched || acc.Pending != 0 {
		t.Errorf("a: %+v of %d", acc, len(all))
	}
	if acc := s.account("b", 0); acc.Matched != uint64(len(odd)) || acc.Delivered != wantB || acc.ErrorDelivered != wantE || acc.Dead != 0 {
		t.Errorf("b: %+v, want %d and %d", acc, wantB, wantE)
	}
	if len(a) != len(all) || len(b) != int(wantB) || len(e) != int(wantE) {
		t.Error("something was delivered that is not on the log")
	}
	t.Logf("%d events; a %d deliveries, b %d, error action %d", len(all), na, nb, ne)
	s.stop()
}
