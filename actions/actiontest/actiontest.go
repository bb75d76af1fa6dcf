// Package actiontest is the contract of actions.Action as a test: every kind of
// action passes Run against a real server.
//
// It stands in for the lane in a message's way: it hands results to the action
// and compares what arrives, while the destination hangs, refuses or is gone.
package actiontest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

// Fault is what a destination does to a delivery.
type Fault uint8

const (
	None   Fault = iota // it works
	Hang                // it takes the delivery and does not answer
	Busy                // it answers that it cannot now
	Refuse              // it answers that it never will
	Cut                 // it ends the connection in place of an answer
	Gone                // it does not take connections; for good
)

// Delivery is one result as the destination has it.
type Delivery struct {
	ID      string // message id; empty where the destination is not told
	Payload string
}

// Destination is a server of its own for one test.
type Destination struct {
	Config   string                              // the action's JSON object
	Env      func(*actions.Env)                  // completes the environment; nil: nothing to add
	Received func(t testing.TB) []Delivery       // all deliveries, in any order
	Fault    func(f Fault)                       // sets the fault; nil: none can be had
	Payload  func(t testing.TB, p []byte) string // what a payload looks like in Received; nil: as it is
}

// Features describe a kind of action to Run.
type Features struct {
	Kind actions.Kind
	Open func(t testing.TB) *Destination

	Bad          func(r *actions.Result) // makes r one that cannot be delivered; nil: there is none
	TooLarge     int                     // bytes of a payload the action refuses by itself; 0: none
	Keyed        bool                    // a repeat leaves one delivery, not two
	Without      []Fault                 // faults the destination does not know
	SharedClient bool                    // connections outlive the action, in a pool of the process
	InProcess    bool                    // the destination's own goroutines come and go in this process: leaks cannot be told
}

// Env returns an environment for the actions of a rule with statement; empty:
// SELECT * FROM '#'.
func Env(t testing.TB, statement string) actions.Env {
	t.Helper()
	if statement == "" {
		statement = "SELECT * FROM '#'"
	}
	stmt, err := sql.Parse(statement)
	if err != nil {
		t.Fatal(err)
	}
	program, _, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23", RuleName: "test", AccountID: "123456789012"})
	if err != nil {
		t.Fatal(err)
	}
	return actions.Env{
		Rule: "test", AccountID: "123456789012", Region: "us-east-1",
		Logger: slog.New(slog.DiscardHandler), Template: actions.Templates(program),
	}
}

// Result returns the n-th result, n from 1: topic t/<n>, payload
// {"device":"d<n>","n":<n>}.
func Result(n int) *actions.Result {
	p := fmt.Appendf(nil, `{"device":"d%d","n":%d}`, n, n)
	e := &event.Event{
		Topic: topic.Name(fmt.Sprintf("t/%d", n)), Payload: p, ClientID: fmt.Sprintf("c%d", n),
		Received: time.UnixMilli(1_780_000_000_000 + int64(n)).UTC(), Seq: uint64(n),
	}
	return &actions.Result{ID: e.ID(), Rule: "test", Event: e, Payload: p}
}

// soon is how fast a Deliver returns once its context has ended.
const soon = 2 * time.Second

// Run checks the contract.
func Run(t *testing.T, f Features) {
	t.Run("Delivers", f.delivers)
	t.Run("PayloadsStayWhatTheyAre", f.payloads)
	t.Run("ConcurrentDeliveries", f.concurrent)
	t.Run("RepeatIsHarmless", f.repeat)
	if f.Bad != nil {
		t.Run("BadResultFailsAlone", f.partial)
	}
	if f.TooLarge > 0 {
		t.Run("TooLargeIsPermanent", f.tooLarge)
	}
	t.Run("CloseWithoutDelivery", func(t *testing.T) { f.open(t).close() })
	for _, c := range []struct {
		name  string
		fault Fault
		class string
	}{
		{"BusyIsATry", Busy, "answered"},
		{"RefusalIsPermanent", Refuse, "permanent"},
		{"BrokenConnectionIsUnreachable", Cut, "unreachable"},
		{"GoneIsUnreachable", Gone, "unreachable"},
	} {
		if f.has(c.fault) {
			t.Run(c.name, func(t *testing.T) { f.fails(t, c.fault, c.class) })
		}
	}
	if f.has(Hang) {
		t.Run("CancelReturnsSoon", f.cancel)
	}
	t.Run("UnknownKeyIsRefused", f.unknownKey)
}

func (f Features) has(x Fault) bool {
	for _, w := range f.Without {
		if w == x {
			return false
		}
	}
	return true
}

// subject is an action with its destination.
type subject struct {
	t      *testing.T
	d      *Destination
	a      actions.Action
	spec   actions.Spec
	closed bool
}

func (f Features) open(t *testing.T) *subject {
	t.Helper()
	d := f.Open(t)
	// What the destination runs is its own; what the action starts must end.
	leaks := []goleak.Option{goleak.IgnoreCurrent()}
	for _, fn := range []string{"net/http.(*conn).serve", "net/http.(*connReader).backgroundRead", "net/http.(*Server).Serve"} {
		leaks = append(leaks, goleak.IgnoreAnyFunction(fn))
	}
	if f.SharedClient {
		leaks = append(leaks, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
	}
	env := Env(t, "")
	if d.Env != nil {
		d.Env(&env)
	}
	a, spec, err := f.Kind.New(t.Context(), env, json.RawMessage(d.Config))
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	s := &subject{t: t, d: d, a: a, spec: spec}
	t.Cleanup(func() {
		s.close()
		if f.InProcess {
			return
		}
		if err := goleak.Find(leaks...); err != nil {
			t.Errorf("after Close: %v", err)
		}
	})
	return s
}

func (s *subject) close() {
	if s.closed {
		return
	}
	s.closed = true
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.a.Close(ctx); err != nil {
		s.t.Errorf("Close: %v", err)
	}
}

func (s *subject) batchMax() int {
	if s.spec.BatchMax <= 0 {
		return 1
	}
	return s.spec.BatchMax
}

func (s *subject) inFlight() int {
	if s.spec.MaxInFlight <= 0 {
		return 8
	}
	return s.spec.MaxInFlight
}

// expect compares what arrived with the results; repeats allowed where the
// destination keeps them.
func (s *subject) expect(results []*actions.Result, keyed bool) {
	s.t.Helper()
	want := map[string]int{}
	for _, r := range results {
		p := string(r.Payload)
		if s.d.Payload != nil {
			p = s.d.Payload(s.t, r.Payload)
		}
		want[p]++
	}
	ids := map[string]string{}
	got := map[string]int{}
	for _, d := range s.d.Received(s.t) {
		if got[d.Payload]++; want[d.Payload] == 0 {
			s.t.Errorf("arrived and was not sent: %.200q", d.Payload)
		}
		if d.ID != "" {
			if was, ok := ids[d.ID]; ok && was != d.Payload {
				s.t.Errorf("id %s came with %q and with %q", d.ID, was, d.Payload)
			}
			ids[d.ID] = d.Payload
		}
	}
	for p, n := range want {
		if got[p] == 0 {
			s.t.Errorf("did not arrive: %.200q", p)
		}
		if keyed && got[p] > n {
			s.t.Errorf("arrived %d times: %.200q", got[p], p)
		}
	}
}

func (f Features) delivers(t *testing.T) {
	s := f.open(t)
	var all []*actions.Result
	for n := 0; n < 3*s.batchMax() && n < 30; {
		var batch []*actions.Result
		for range min(s.batchMax(), 10) {
			n++
			batch = append(batch, Result(n))
		}
		if err := s.a.Deliver(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		all = append(all, batch...)
	}
	s.expect(all, true)
}

func (f Features) payloads(t *testing.T) {
	s := f.open(t)
	var all []*actions.Result
	for i, p := range []string{
		`{"device":"x1","big":12345678901234567890123456789012345678,"small":0.10,"list":[1,"two",null,true,{"x":[]}],"text":"ü\"\\<>& "}`,
		`{"device":"x2","empty":"","deep":{"a":{"b":{"c":1}}}}`,
	} {
		r := Result(i + 1)
		r.Payload = []byte(p)
		if err := s.a.Deliver(t.Context(), []*actions.Result{r}); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		all = append(all, r)
	}
	s.expect(all, true)
}

func (f Features) concurrent(t *testing.T) {
	s := f.open(t)
	const rounds = 3
	size := min(s.batchMax(), 5)
	var all []*actions.Result
	var wg sync.WaitGroup
	for range s.inFlight() {
		var mine [][]*actions.Result
		for range rounds {
			var batch []*actions.Result
			for range size {
				r := Result(len(all) + 1)
				all = append(all, r)
				batch = append(batch, r)
			}
			mine = append(mine, batch)
		}
		wg.Go(func() {
			for _, batch := range mine {
				if err := s.a.Deliver(t.Context(), batch); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s.expect(all, true)
}

func (f Features) repeat(t *testing.T) {
	s := f.open(t)
	batch := []*actions.Result{Result(1)}
	for range 3 {
		if err := s.a.Deliver(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	s.expect(batch, f.Keyed)
}

func (f Features) partial(t *testing.T) {
	s := f.open(t)
	bad := Result(2)
	f.Bad(bad)
	if s.batchMax() == 1 {
		if err := s.a.Deliver(t.Context(), []*actions.Result{bad}); !actions.IsPermanent(err) {
			t.Errorf("want a permanent error, got %v", err)
		}
		return
	}
	batch := []*actions.Result{Result(1), bad, Result(3)}
	err := s.a.Deliver(t.Context(), batch)
	var be *actions.BatchError
	if !errors.As(err, &be) || len(be.Errs) != 3 || be.Errs[0] != nil || be.Errs[2] != nil || !actions.IsPermanent(be.Errs[1]) {
		t.Fatalf("want a permanent error of the second result alone, got %#v", err)
	}
	s.expect([]*actions.Result{batch[0], batch[2]}, true)
}

func (f Features) tooLarge(t *testing.T) {
	s := f.open(t)
	r := Result(1)
	r.Payload = make([]byte, f.TooLarge)
	for i := range r.Payload {
		r.Payload[i] = 'x'
	}
	if err := s.a.Deliver(t.Context(), []*actions.Result{r}); !actions.IsPermanent(err) {
		t.Errorf("want a permanent error, got %v", err)
	}
	s.expect(nil, true)
}

func (f Features) fails(t *testing.T, fault Fault, want string) {
	s := f.open(t)
	s.d.Fault(fault)
	err := s.a.Deliver(t.Context(), []*actions.Result{Result(1)})
	class := "answered"
	switch {
	case err == nil:
		t.Fatal("no error")
	case actions.IsPermanent(err):
		class = "permanent"
	case actions.IsUnreachable(err):
		class = "unreachable"
	}
	if class != want {
		t.Errorf("the failure is %s, want %s: %v", class, want, err)
	}
	if fault == Gone {
		return
	}
	// What the lane does next must work.
	s.d.Fault(None)
	if err := s.a.Deliver(t.Context(), []*actions.Result{Result(1)}); err != nil {
		t.Errorf("once it works again: %v", err)
	}
	s.expect([]*actions.Result{Result(1)}, false)
}

func (f Features) cancel(t *testing.T) {
	s := f.open(t)
	s.d.Fault(Hang)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	at := time.Now()
	err := s.a.Deliver(ctx, []*actions.Result{Result(1)})
	if !actions.IsUnreachable(err) {
		t.Errorf("a delivery that was cut short is no try: %v", err)
	}
	if took := time.Since(at); took > soon {
		t.Errorf("Deliver returned after %v", took)
	}
	s.d.Fault(None)
}

func (f Features) unknownKey(t *testing.T) {
	d := f.Open(t)
	env := Env(t, "")
	if d.Env != nil {
		d.Env(&env)
	}
	_, _, err := f.Kind.New(t.Context(), env, json.RawMessage(d.Config[:len(d.Config)-1]+`,"rolArn":"x"}`))
	var fe *actions.FieldError
	if !errors.As(err, &fe) || fe.Hint == "" {
		t.Errorf("want an error that names the nearest key, got %v", err)
	}
}

// CPU reports the processor time a benchmark takes, the destination's included
// where it runs in the process. Call what it returns at the end, with the number
// of results.
func CPU(b *testing.B) func(results int) {
	var from, to syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &from)
	return func(results int) {
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &to)
		spent := to.Utime.Nano() - from.Utime.Nano() + to.Stime.Nano() - from.Stime.Nano()
		b.ReportMetric(float64(spent)/1e3/float64(results), "cpu-µs/result")
	}
}
