package fault_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	webhook "github.com/weir-iot/weir/actions/http"
	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/test/fault"
	"github.com/weir-iot/weir/test/weirtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	weirtest.RemoveBinary()
	os.Exit(code)
}

// rounds returns how often a fault is tried: few in the suite, as many as
// WEIR_FAULT_ROUNDS says in the long run.
func rounds(few int) int {
	if n, err := strconv.Atoi(os.Getenv("WEIR_FAULT_ROUNDS")); err == nil && n > 0 {
		return n
	}
	return few
}

// random returns a source of randomness whose seed the test prints, and which
// WEIR_FAULT_SEED repeats.
func random(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("WEIR_FAULT_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("WEIR_FAULT_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// sink is a webhook that remembers what it was sent, each message id once.
type sink struct {
	*httptest.Server
	mu      sync.Mutex // guards what follows
	ids     map[string]bool
	bodies  [][]byte
	repeats int
	hold    chan struct{} // while set, requests hang until it is closed
}

func newSink(t *testing.T) *sink {
	s := &sink{ids: map[string]bool{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.receive))
	t.Cleanup(s.Close)
	return s
}

func (s *sink) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return
		}
	}
	id := r.Header.Get(webhook.HeaderMessageID)
	if id == "" {
		return // the confirmation of the destination
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids[id] {
		s.repeats++
		return
	}
	s.ids[id] = true
	s.bodies = append(s.bodies, body)
}

func (s *sink) received() (bodies [][]byte, repeats int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([][]byte(nil), s.bodies...), s.repeats
}

// rule sends every tenth message of the fleet to the webhook.
func (s *sink) rule(name string) string {
	return fmt.Sprintf(`
ruleName: %s
sql: SELECT * FROM 'fault/+/telemetry' WHERE value >= 90
awsIotSqlVersion: '2016-03-23'
actions:
  - http: {url: %s/results, confirmationUrl: %[2]s/}
`, name, s.URL)
}

func toSink(m fault.Message) bool { return m.Value >= 90 }

// stored reads the payloads of the fleet's messages from the log.
func stored(t *testing.T, w *weirtest.Weir) (payloads [][]byte) {
	t.Helper()
	err := w.API().Tail(t.Context(), control.TailOptions{Filter: "fault/+/telemetry", Since: time.Unix(1, 0)},
		func(l *control.TailLine, _ []byte) error {
			payloads = append(payloads, append([]byte(nil), l.Payload...))
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	return payloads
}

// check compares the log and the sink with what the fleet was told.
func check(t *testing.T, w *weirtest.Weir, l *fault.Ledger, s *sink, rule string) {
	t.Helper()
	log := l.Check(stored(t, w), nil, false)
	t.Logf("log: %v", log)
	if !log.OK() {
		t.Error("the log is not what was acknowledged")
	}
	if s == nil {
		return
	}
	account := w.Account(rule)
	bodies, repeats := s.received()
	sink := l.Check(bodies, toSink, true)
	t.Logf("sink: %v; %d repeats by id; account %+v", sink, repeats, account)
	if !sink.OK() {
		t.Error("the sink is not what was acknowledged")
	}
	if !account.AddsUp() || account.Pending != 0 || account.Dead != 0 {
		t.Errorf("the account does not add up: %+v", account)
	}
	if account.Delivered != uint64(len(bodies)) {
		t.Errorf("the account says %d delivered, the sink has %d different results", account.Delivered, len(bodies))
	}
}

// Acknowledged messages and their results survive kill -9 at any moment.
func TestKill(t *testing.T) {
	r := random(t)
	w := weirtest.Process(t, weirtest.Durability("os"))
	s := newSink(t)
	w.Apply(s.rule("kill"))
	var addr fault.Address
	addr.Set(w.Endpoints().MQTT)
	fleet := fault.Fleet{Addr: addr.Get, Devices: 50, Window: 32, Prefix: "kill", Pause: 2 * time.Millisecond, Ledger: fault.NewLedger()}
	fleet.Start()
	var slowest time.Duration
	for range rounds(5) {
		time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
		w.Kill()
		began := time.Now()
		w.BeginProcess()
		slowest = max(slowest, time.Since(began))
		addr.Set(w.Endpoints().MQTT)
	}
	time.Sleep(500 * time.Millisecond)
	fleet.Stop()
	t.Logf("slowest restart %v", slowest)
	if slowest > 5*time.Second {
		t.Errorf("a restart took %v", slowest)
	}
	check(t, w, fleet.Ledger, s, "kill")
}

// Acknowledged messages survive a power cut under durability disk, the first
// one right after the first start.
func TestPowerCut(t *testing.T) {
	r := random(t)
	fs := fault.NewLoopFS(t, 512<<20)
	dir := filepath.Join(fs.Dir, "data")
	w := weirtest.Process(t, weirtest.Durability("disk"), weirtest.Dir(dir))
	s := newSink(t)
	w.Apply(s.rule("cut"))
	var addr fault.Address
	addr.Set(w.Endpoints().MQTT)
	fleet := fault.Fleet{Addr: addr.Get, Devices: 20, Window: 32, Prefix: "cut", Pause: 2 * time.Millisecond, Ledger: fault.NewLedger()}
	fleet.Start()
	for i := range rounds(3) {
		if i > 0 {
			time.Sleep(time.Duration(r.IntN(1500)) * time.Millisecond)
		} else {
			weirtest.Eventually(t, func() bool { _, acked := fleet.Ledger.Totals(); return acked > 0 }, func() string { return "no message was acknowledged" })
		}
		fs.PowerCut()
		w.Kill()
		fs.Remount()
		w.BeginProcess()
		addr.Set(w.Endpoints().MQTT)
		if _, err := w.API().Rule(t.Context(), "cut"); err != nil {
			t.Fatalf("the rule that apply acknowledged is gone: %v", err)
		}
	}
	time.Sleep(500 * time.Millisecond)
	fleet.Stop()
	check(t, w, fleet.Ledger, s, "cut")
	w.Stop()
}

// On a full disk publishers get an error, nothing acknowledged is lost, and
// Weir accepts again by itself within 10 s of space being back.
func TestDiskFull(t *testing.T) {
	fs := fault.NewLoopFS(t, 512<<20)
	w := weirtest.Process(t, weirtest.Durability("disk"), weirtest.Dir(filepath.Join(fs.Dir, "data")))
	// MQTT 3.1.1: a refused publish ends the connection, so that order holds. In
	// MQTT 5 it is answered, and what the client had sent behind it may be stored.
	fleet := fault.Fleet{Addr: func() string { return w.Endpoints().MQTT }, Devices: 20, Window: 32, Version: 4, Prefix: "full", Ledger: fault.NewLedger()}
	fleet.Start()
	acked := func() int { _, n := fleet.Ledger.Totals(); return n }
	await := func(limit time.Duration, what string, ok func() bool) time.Duration {
		t.Helper()
		began := time.Now()
		for !ok() {
			if time.Since(began) > limit {
				t.Fatalf("%s: not after %v", what, limit)
			}
			time.Sleep(10 * time.Millisecond)
		}
		return time.Since(began)
	}
	for round := range 2 {
		before := acked()
		await(10*time.Second, "messages are acknowledged", func() bool { return acked() > before+1000 })
		refused := fleet.Refused.Load()
		fs.Fill(0)
		d := await(6*time.Second, "publishers get an error", func() bool { return fleet.Refused.Load() > refused })
		time.Sleep(time.Second)
		full := acked()
		time.Sleep(500 * time.Millisecond)
		fs.Free()
		back := await(10*time.Second, "messages are acknowledged again", func() bool { return acked() > full+1000 })
		t.Logf("round %d: refused after %v, accepting %v after space was back", round, d, back)
	}
	fleet.Stop()
	check(t, w, fleet.Ledger, nil, "")
	w.Stop()
}

// A sink that hangs delays nobody else, costs bounded memory, and gets every
// result once it answers.
func TestHangingSink(t *testing.T) {
	w := weirtest.Process(t, weirtest.Durability("os"))
	slow, quick := newSink(t), newSink(t)
	w.Apply(slow.rule("slow"))
	w.Apply(quick.rule("quick"))
	fleet := fault.Fleet{Addr: func() string { return w.Endpoints().MQTT }, Devices: 10, Window: 8, Prefix: "hang", Pause: time.Millisecond, Ledger: fault.NewLedger()}
	fleet.Start()
	time.Sleep(time.Second)
	hold := make(chan struct{})
	slow.mu.Lock()
	slow.hold = hold
	slow.mu.Unlock()
	time.Sleep(time.Duration(rounds(8)) * time.Second)
	stuck, _ := slow.received()
	going, _ := quick.received()
	if len(going) < 2*len(stuck) {
		t.Errorf("while one sink hangs the other has %d results, the hanging one %d", len(going), len(stuck))
	}
	close(hold)
	slow.mu.Lock()
	slow.hold = nil
	slow.mu.Unlock()
	fleet.Stop()
	check(t, w, fleet.Ledger, slow, "slow")
	check(t, w, fleet.Ledger, quick, "quick")
}

// A client that invents topics without end is refused at the limit; topics that
// are there go on, and memory stays bounded.
func TestTopicFlood(t *testing.T) {
	w := weirtest.Process(t, weirtest.Durability("os"), weirtest.Key("events.max_subjects", "20000"))
	w.MustPublish("steady/topic", "1")
	l := fault.NewLedger()
	f := fault.Fleet{Addr: func() string { return w.Endpoints().MQTT }, Devices: 4, Window: 32, Prefix: "flood", Ledger: l,
		Topic: func(device string, n int) string { return fmt.Sprintf("flood/%s/%d", device, n) }}
	f.Start()
	weirtest.Eventually(t, func() bool { return f.Refused.Load() > 100 }, func() string { return "an endless number of topics was taken" })
	f.Stop()
	w.MustPublish("steady/topic", "2")
	if _, acked := l.Totals(); acked > 20_100 {
		t.Errorf("%d topics were taken, the limit is 20,000", acked)
	}
}
