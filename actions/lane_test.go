package actions

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/lane"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink is an action of a function.
type sink struct {
	deliver func(ctx context.Context, batch []*Result) error

	mu     sync.Mutex
	got    []uint64 // sequences delivered, in order
	docs   [][]byte
	sizes  []int
	closed int
}

func (s *sink) Deliver(ctx context.Context, batch []*Result) error {
	if s.deliver != nil {
		if err := s.deliver(ctx, batch); err != nil {
			var be *BatchError
			if errors.As(err, &be) {
				for i, r := range batch {
					if be.Errs[i] == nil {
						s.took(r)
					}
				}
			}
			return err
		}
	}
	s.took(batch...)
	return nil
}

func (s *sink) took(batch ...*Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sizes = append(s.sizes, len(batch))
	for _, r := range batch {
		s.got = append(s.got, r.Event.Seq)
		s.docs = append(s.docs, r.Payload)
	}
}

func (s *sink) Close(context.Context) error {
	s.mu.Lock()
	s.closed++
	s.mu.Unlock()
	return nil
}

func (s *sink) seqs() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// grave is DeadLetters in memory.
type grave struct {
	mu      sync.Mutex
	letters []*Letter
	fail    int // so many Puts fail first
}

func (g *grave) Put(_ context.Context, l *Letter) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail > 0 {
		g.fail--
		return errors.New("no store")
	}
	c := *l
	g.letters = append(g.letters, &c)
	return nil
}

func (g *grave) list() []*Letter {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.letters)
}

func ev(seq uint64, client string) *event.Event {
	return &event.Event{Topic: topic.Name("t/" + client), ClientID: client, Payload: []byte("raw"), Seq: seq, Received: time.Now()}
}

type harness struct {
	*Lane
	t    *testing.T
	stop func() error
}

// run starts a lane with short pauses; it ends with the test.
func run(t *testing.T, o LaneOptions) *harness {
	t.Helper()
	o.Rule, o.Kind = "r1", "s3"
	if o.BackoffMin == 0 {
		o.BackoffMin, o.BackoffMax = time.Millisecond, 4*time.Millisecond
	}
	if o.Dead == nil {
		o.Dead = &grave{}
	}
	l := NewLane(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	var once sync.Once
	var err error
	h := &harness{Lane: l, t: t, stop: func() error {
		once.Do(func() { cancel(); err = <-ended })
		return err
	}}
	t.Cleanup(func() { h.stop() })
	return h
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("not in time: " + what)
}

func (h *harness) offer(seqs ...uint64) {
	h.t.Helper()
	for _, s := range seqs {
		for !h.Offer(ev(s, "c"), []byte(fmt.Sprint(s))) {
			select {
			case <-h.Room():
			case <-time.After(10 * time.Second):
				h.t.Fatal("no room")
			}
		}
	}
}

func (h *harness) confirmed(pos uint64) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("confirmed %d: %+v", pos, h.Status()), func() bool { return h.State().Confirmed >= pos })
}

func TestDelivers(t *testing.T) {
	a := &sink{}
	h := run(t, LaneOptions{Action: a, State: lane.State{Confirmed: 4, Counts: lane.Counts{Delivered: 2}}})
	if h.State().Confirmed != 4 {
		t.Error("a restored lane must stand where it left off")
	}
	h.offer(5, 7, 9)
	h.Advance(12)
	h.confirmed(12)
	if st := h.Status(); st.Delivered != 5 || st.Pending != 0 || st.Bytes != 0 || !st.Oldest.IsZero() {
		t.Errorf("%+v", st)
	}
	if got := a.seqs(); !slices.Equal(got, []uint64{5, 7, 9}) {
		t.Error(got)
	}
	if err := h.stop(); err != nil || a.closed != 1 {
		t.Error(err, a.closed)
	}
}

// Counters stand at the confirmed position, whatever was settled beyond it.
func TestStateIsConsistent(t *testing.T) {
	hold := make(chan struct{})
	a := &sink{deliver: func(ctx context.Context, b []*Result) error {
		if b[0].Event.Seq == 1 {
			<-hold
		}
		return nil
	}}
	h := run(t, LaneOptions{Action: a, Spec: Spec{MaxInFlight: 64}})
	h.Offer(ev(1, "slow"), nil)
	slow := h.slotOf("slow")
	n := uint64(2)
	for i := 0; n < 20; i++ {
		if c := fmt.Sprint("c", i); h.slotOf(c) != slow {
			h.Offer(ev(n, c), nil)
			n++
		}
	}
	eventually(t, "the others", func() bool { return h.Status().Pending == 1 })
	if st := h.State(); st.Confirmed != 0 || st.Settled() != 0 {
		t.Errorf("%+v", st)
	}
	if st := h.Status(); st.Delivered != 18 || st.Oldest.IsZero() {
		t.Errorf("%+v", st)
	}
	close(hold)
	h.confirmed(19)
	if st := h.State(); st.Delivered != 19 {
		t.Errorf("%+v", st)
	}
}

func (l *Lane) slotOf(client string) int {
	t := NewLane(LaneOptions{Spec: l.o.Spec})
	t.seed = l.seed
	t.Offer(ev(1, client), nil)
	return slices.IndexFunc(t.slots, func(s slot) bool { return len(s.queue) > 0 })
}

func TestWindowRefusesAndSignalsRoom(t *testing.T) {
	gate := make(chan struct{})
	a := &sink{deliver: func(context.Context, []*Result) error { <-gate; return nil }}
	h := run(t, LaneOptions{Action: a, Window: 8, WindowBytes: 8 << 10})
	var n uint64
	for h.Offer(ev(n+1, "c"), make([]byte, 2)) {
		n++
	}
	if n != 8 {
		t.Errorf("took %d, the window has 8", n)
	}
	close(gate)
	<-h.Room()
	if !h.Offer(ev(n+1, "c"), make([]byte, 9000)) {
		// Over the byte limit as long as something is pending, alone it goes.
		eventually(t, "empty window", func() bool { return h.Offer(ev(n+1, "c"), make([]byte, 9000)) })
	}
	h.confirmed(n + 1)
}

func TestBatches(t *testing.T) {
	a := &sink{}
	h := run(t, LaneOptions{Action: a, Spec: Spec{MaxInFlight: 1, BatchMax: 4, BatchBytes: 10, BatchLinger: time.Hour}})
	for s := range uint64(4) {
		h.Offer(ev(s+1, "c"), []byte("x"))
	}
	h.confirmed(4)
	h.Offer(ev(5, "c"), make([]byte, 6))
	h.Offer(ev(6, "c"), make([]byte, 6))
	h.confirmed(5)
	a.mu.Lock()
	if !slices.Equal(a.sizes, []int{4, 1}) {
		t.Error(a.sizes)
	}
	a.mu.Unlock()

	b := &sink{}
	h = run(t, LaneOptions{Action: b, Spec: Spec{MaxInFlight: 1, BatchMax: 100, BatchLinger: 5 * time.Millisecond}})
	h.offer(1, 2)
	h.confirmed(2)
}

func TestAnsweredFailuresAreCountedTries(t *testing.T) {
	tries := 0
	a := &sink{deliver: func(_ context.Context, b []*Result) error {
		if b[0].Event.Seq == 1 {
			tries++
			return errors.New("500")
		}
		return nil
	}}
	g := &grave{fail: 2}
	h := run(t, LaneOptions{Action: a, Dead: g, Spec: Spec{MaxInFlight: 1}})
	h.offer(1, 2)
	h.confirmed(2)
	if st := h.State(); st.Dead != 1 || st.Delivered != 1 {
		t.Errorf("%+v", st)
	}
	if l := g.list(); tries != 3 || len(l) != 1 || l[0].Tries != 3 || l[0].Error != "500" || string(l[0].Result.Payload) != "1" {
		t.Errorf("%d tries, %+v", tries, l)
	}
}

func TestPartialFailureKeepsTheRest(t *testing.T) {
	a := &sink{}
	first := true
	a.deliver = func(_ context.Context, b []*Result) error {
		if first {
			first = false
			errs := make([]error, len(b))
			errs[1] = errors.New("throttled")
			errs[2] = Permanent(errors.New("too large"))
			return &BatchError{Errs: errs}
		}
		return nil
	}
	e := &sink{}
	l := NewLane(LaneOptions{Action: a, ErrorAction: e, Dead: &grave{}, Rule: "r1", Kind: "dynamoDBv2", BackoffMin: time.Millisecond,
		Spec: Spec{MaxInFlight: 1, BatchMax: 10, Resource: "table-1"}})
	for s := range uint64(4) {
		l.Offer(ev(s+1, "c"), []byte("x"))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	eventually(t, "all settled", func() bool { return l.State().Confirmed == 4 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := a.seqs(); !slices.Equal(got, []uint64{1, 4, 2}) {
		t.Error(got)
	}
	if st := l.State(); st.Delivered != 3 || st.ErrorDelivered != 1 {
		t.Errorf("%+v", st)
	}
	var doc map[string]any
	if err := json.Unmarshal(e.docs[0], &doc); err != nil {
		t.Fatal(err)
	}
	f := doc["failures"].([]any)[0].(map[string]any)
	if len(doc) != 6 || doc["ruleName"] != "r1" || doc["topic"] != "t/c" || doc["clientId"] != "c" ||
		doc["base64OriginalPayload"] != base64.StdEncoding.EncodeToString([]byte("raw")) ||
		len(f) != 3 || f["failedAction"] != "DynamoDBv2Action" || f["failedResource"] != "table-1" || f["errorMessage"] != "too large" {
		t.Errorf("%s", e.docs[0])
	}
	if id, err := event.ParseID(doc["cloudwatchTraceId"].(string)); err != nil {
		t.Error(err)
	} else if _, seq, _ := id.Position(); seq != 3 {
		t.Error("trace id of", seq)
	}
}

func TestErrorActionFailsToo(t *testing.T) {
	tries := 0
	e := &sink{deliver: func(context.Context, []*Result) error { tries++; return Unreachable(errors.New("error sink away")) }}
	a := &sink{deliver: func(context.Context, []*Result) error { return Permanent(errors.New("no bucket")) }}
	g := &grave{}
	h := run(t, LaneOptions{Action: a, ErrorAction: e, Dead: g, Spec: Spec{MaxInFlight: 1}})
	h.offer(1, 2)
	h.confirmed(2)
	if st := h.State(); st.Dead != 2 || tries != 3 {
		t.Errorf("%+v, %d tries: an error action that cannot be reached is left alone for a while", st, tries)
	}
	if l := g.list(); l[0].ErrorAction != "error sink away" || l[0].Error != "no bucket" {
		t.Errorf("%+v", l[0])
	}
}

func TestFailedEvaluationGoesToTheErrorAction(t *testing.T) {
	a, e := &sink{}, &sink{}
	h := run(t, LaneOptions{Action: a, ErrorAction: e})
	h.Offer(ev(1, "c"), nil)
	h.Fail(ev(2, "c"), errors.New("look-up failed"))
	loop := ev(3, "c")
	loop.Hops = 12
	h.Fail(loop, errors.New("loop"))
	h.confirmed(3)
	if st := h.State(); st.Delivered != 1 || st.ErrorDelivered != 1 || st.Dead != 1 {
		t.Errorf("%+v: the failure of a message beyond the loop limit must not be told again", st)
	}
}

// A destination that is away costs no try; the lane waits, one probe at a time,
// and everything arrives in order once it is back.
func TestBreaker(t *testing.T) {
	var mu sync.Mutex
	down, inside, most, calls := true, 0, 0, 0
	a := &sink{}
	a.deliver = func(context.Context, []*Result) error {
		mu.Lock()
		calls++
		inside++
		if calls > 64 { // all slots may have begun before the breaker opened
			most = max(most, inside)
		}
		d := down
		mu.Unlock()
		time.Sleep(100 * time.Microsecond)
		mu.Lock()
		inside--
		mu.Unlock()
		if d {
			return Unreachable(errors.New("connection refused"))
		}
		return nil
	}
	h := run(t, LaneOptions{Action: a, Spec: Spec{MaxInFlight: 16}})
	want := map[string][]uint64{}
	for s := range uint64(200) {
		c := fmt.Sprint("c", s%20)
		h.Offer(ev(s+1, c), nil)
		want[c] = append(want[c], s+1)
	}
	eventually(t, "probes", func() bool { mu.Lock(); defer mu.Unlock(); return calls > 80 })
	if st := h.Status(); st.Breaker == "closed" || st.DownSince.IsZero() || st.LastError != "connection refused" || h.State().DownSince.IsZero() {
		t.Errorf("%+v", st)
	}
	mu.Lock()
	if most > 1 {
		t.Errorf("%d probes at a time", most)
	}
	down = false
	mu.Unlock()
	h.confirmed(200)
	got := map[string][]uint64{}
	for _, s := range a.seqs() {
		c := fmt.Sprint("c", (s-1)%20)
		got[c] = append(got[c], s)
	}
	for c := range want {
		if !slices.Equal(got[c], want[c]) {
			t.Errorf("%s: %v", c, got[c])
		}
	}
	if st := h.Status(); st.Delivered != 200 || st.Breaker != "closed" || st.Dead != 0 {
		t.Errorf("%+v", st)
	}
}

func TestGivesUpAfterRetryFor(t *testing.T) {
	a := &sink{deliver: func(context.Context, []*Result) error { return Unreachable(errors.New("away")) }}
	e := &sink{}
	h := run(t, LaneOptions{Action: a, ErrorAction: e, RetryFor: 50 * time.Millisecond, Spec: Spec{MaxInFlight: 2, BatchMax: 3}})
	for s := range uint64(30) {
		h.Offer(ev(s+1, fmt.Sprint("c", s)), nil)
	}
	h.confirmed(30)
	if st := h.State(); st.ErrorDelivered != 30 {
		t.Errorf("%+v", st)
	}
}

func TestAWSRetriesCountSilence(t *testing.T) {
	n := 0
	a := &sink{deliver: func(context.Context, []*Result) error { n++; return Unreachable(errors.New("away")) }}
	h := run(t, LaneOptions{Action: a, AWSRetries: true, Spec: Spec{MaxInFlight: 1}})
	h.offer(1)
	h.confirmed(1)
	if st := h.Status(); n != 3 || st.Dead != 1 || st.Breaker != "closed" {
		t.Errorf("%d tries, %+v", n, st)
	}
}

// A delivery that hangs ends at its time limit, costs no try, and the results
// arrive afterwards.
func TestHangingSink(t *testing.T) {
	n := 0
	a := &sink{}
	a.deliver = func(ctx context.Context, _ []*Result) error {
		if n++; n <= 5 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	h := run(t, LaneOptions{Action: a, Spec: Spec{MaxInFlight: 1, Timeout: 3 * time.Millisecond}})
	h.offer(1, 2, 3)
	h.confirmed(3)
	if st := h.State(); st.Delivered != 3 {
		t.Errorf("%+v", st)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	var at []time.Time
	a := &sink{}
	a.deliver = func(context.Context, []*Result) error {
		if at = append(at, time.Now()); len(at) == 1 {
			return RetryAfter(errors.New("429"), 60*time.Millisecond)
		}
		return nil
	}
	h := run(t, LaneOptions{Action: a, Spec: Spec{MaxInFlight: 1}})
	h.offer(1)
	h.confirmed(1)
	if d := at[1].Sub(at[0]); d < 60*time.Millisecond {
		t.Error("tried again after", d)
	}
}

// A destination may not park a result for longer than one that does not answer.
func TestRetryAfterIsBoundedByRetryFor(t *testing.T) {
	tries := 0
	a := &sink{}
	a.deliver = func(context.Context, []*Result) error {
		if tries++; tries == 1 {
			return RetryAfter(errors.New("429"), 20*365*24*time.Hour)
		}
		return nil
	}
	h := run(t, LaneOptions{Action: a, Spec: Spec{MaxInFlight: 1}, RetryFor: 50 * time.Millisecond})
	h.offer(1)
	h.confirmed(1)
}

func TestPanicOfAnActionIsContained(t *testing.T) {
	a := &sink{deliver: func(context.Context, []*Result) error { panic("oops") }}
	h := run(t, LaneOptions{Action: a})
	h.offer(1)
	h.confirmed(1)
	if st := h.Status(); st.Dead != 1 || st.LastError != "the action panicked: oops" {
		t.Errorf("%+v", st)
	}
}

// The end of the lane waits for what is under way and settles nothing else.
func TestEndKeepsWhatIsNotSettled(t *testing.T) {
	began, goOn := make(chan struct{}, 1), make(chan struct{})
	a := &sink{deliver: func(ctx context.Context, b []*Result) error {
		began <- struct{}{}
		<-goOn
		return nil
	}}
	h := run(t, LaneOptions{Action: a, Spec: Spec{MaxInFlight: 1}})
	h.offer(1, 2, 3)
	<-began
	stopped := make(chan error)
	go func() { stopped <- h.stop() }()
	eventually(t, "the end has begun", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.ended })
	close(goOn)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if st := h.State(); st.Confirmed != 1 || st.Delivered != 1 {
		t.Errorf("%+v", st)
	}
	hang := &sink{deliver: func(ctx context.Context, _ []*Result) error { <-ctx.Done(); return ctx.Err() }}
	h = run(t, LaneOptions{Action: hang, Grace: 5 * time.Millisecond})
	h.offer(1)
	h.stop()
	if st := h.State(); st.Confirmed != 0 || st.Settled() != 0 {
		t.Errorf("%+v", st)
	}
}

// Whatever fails how: each result is settled once, keys keep their order, and
// the account adds up.
func TestRandomFailures(t *testing.T) {
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 1))
		var mu sync.Mutex
		a, e, g := &sink{}, &sink{}, &grave{}
		flaky := func(p int) func(context.Context, []*Result) error {
			return func(ctx context.Context, b []*Result) error {
				mu.Lock()
				defer mu.Unlock()
				x := r.IntN(p)
				errs := make([]error, len(b))
				switch x {
				case 0:
					return errors.New("503")
				case 1:
					return Unreachable(errors.New("away"))
				case 2:
					return Permanent(errors.New("never"))
				case 3:
					errs[r.IntN(len(b))] = errors.New("one of them")
					return &BatchError{Errs: errs}
				case 4:
					panic("x")
				}
				return nil
			}
		}
		a.deliver, e.deliver = flaky(20), flaky(10)
		h := run(t, LaneOptions{Action: a, ErrorAction: e, Dead: g, Window: 64, BackoffMin: 50 * time.Microsecond, BackoffMax: 200 * time.Microsecond,
			Spec: Spec{MaxInFlight: 4, BatchMax: 5}, ErrorSpec: Spec{BatchMax: 3}})
		const n = 2000
		for s := uint64(1); s <= n; s++ {
			for !h.Offer(ev(s, fmt.Sprint("c", s%7)), nil) {
				<-h.Room()
			}
		}
		h.confirmed(n)
		st := h.State()
		if st.Settled() != n || int(st.Delivered) != len(a.seqs()) || int(st.ErrorDelivered) != len(e.seqs()) || int(st.Dead) != len(g.list()) {
			t.Errorf("seed %d: %+v; %d, %d, %d", seed, st, len(a.seqs()), len(e.seqs()), len(g.list()))
		}
		h.stop()
	}
}

func BenchmarkLane(b *testing.B) {
	l := NewLane(LaneOptions{Action: nop{}, Dead: &grave{}, Spec: Spec{BatchMax: 64}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	evs := make([]*event.Event, 64)
	for i := range evs {
		evs[i] = ev(1, fmt.Sprint("c", i))
	}
	payload := make([]byte, 100)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		for !l.Offer(evs[i%64], payload) {
			<-l.Room()
		}
	}
	cancel()
	<-done
}

type nop struct{}

func (nop) Deliver(context.Context, []*Result) error { return nil }
func (nop) Close(context.Context) error              { return nil }

// An event may be large without a payload: its properties count too.
func TestWindowIsBoundedInBytesOfProperties(t *testing.T) {
	gate := make(chan struct{})
	a := &sink{deliver: func(context.Context, []*Result) error { <-gate; return nil }}
	h := run(t, LaneOptions{Action: a, WindowBytes: 64 << 10})
	var n uint64
	for n < 100 {
		e := ev(n+1, "c")
		e.Props = &event.Properties{User: []event.UserProperty{{Key: "k", Value: strings.Repeat("x", 32<<10)}}}
		if !h.Offer(e, nil) {
			break
		}
		n++
	}
	if n > 2 {
		t.Errorf("%d events of 32 KiB were taken into a window of 64 KiB", n)
	}
	close(gate)
	h.confirmed(n)
}
