package replay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/replay"
	"github.com/weir-iot/weir/rules/sql"
)

func version(t testing.TB, name, src string) replay.Version {
	t.Helper()
	stmt, err := sql.Parse(src)
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23", RuleName: name, AccountID: "123456789012"})
	if err != nil {
		t.Fatal(err)
	}
	return replay.Version{Name: name, Program: p}
}

// openLog returns a log that runs until the test ends.
func openLog(t testing.TB, o eventlog.Options) *eventlog.Log {
	t.Helper()
	o.Dir, o.Logger = t.TempDir(), slog.New(slog.DiscardHandler)
	l, err := eventlog.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, l.Close()); err != nil {
			t.Error(err)
		}
	})
	return l
}

// store appends events and waits until all are on the log.
func store(t testing.TB, l *eventlog.Log, events []*event.Event) {
	t.Helper()
	r := &receipt{t: t}
	r.left.Add(len(events))
	for _, e := range events {
		if err := l.Append(t.Context(), e, r, 0); err != nil {
			t.Fatal(err)
		}
	}
	r.left.Wait()
}

type receipt struct {
	t    testing.TB
	left sync.WaitGroup
}

func (r *receipt) Appended(_ uint64, _ *event.Event, err error) {
	if err != nil {
		r.t.Error(err)
	}
	r.left.Done()
}
func (r *receipt) Flush() {}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// readings are n messages of ten devices, a second apart: {"v": i}.
func readings(n int) []*event.Event {
	list := make([]*event.Event, n)
	for i := range list {
		list[i] = &event.Event{
			Topic: topic.Name(fmt.Sprintf("plant/%d", i%10)), Payload: fmt.Appendf(nil, `{"v":%d}`, i), QoS: 1,
			ClientID: fmt.Sprintf("dev-%d", i%10), Received: epoch.Add(time.Duration(i) * time.Second),
		}
	}
	return list
}

func TestBacktestCounts(t *testing.T) {
	for _, partitions := range []int{1, 3} {
		t.Run(fmt.Sprint(partitions, " partitions"), func(t *testing.T) {
			l := openLog(t, eventlog.Options{Durability: eventlog.Memory, Partitions: partitions})
			events := readings(1000)
			events = append(events, &event.Event{Topic: "elsewhere", Payload: []byte(`{"v":1}`), QoS: 1, Received: epoch})
			store(t, l, events)
			now := version(t, "r", `SELECT v FROM 'plant/+' WHERE v >= 600`)
			next := version(t, "r", `SELECT v, v > 800 AS high FROM 'plant/+' WHERE v >= 500 AND v < 700`)

			r, err := replay.Backtest(t.Context(), replay.BacktestOptions{Log: l, New: next})
			if err != nil {
				t.Fatal(err)
			}
			if r.Events != 1000 || r.Results != 200 || r.Appear != 200 || r.Same+r.Vanish+r.Change != 0 || r.Read != 1001 || r.Total != 1001 {
				t.Errorf("alone: %+v", r)
			}

			seen := map[replay.Verdict]int{}
			r, err = replay.Backtest(t.Context(), replay.BacktestOptions{Log: l, New: next, Current: &now, Outcome: func(o *replay.Outcome) error {
				seen[o.Verdict]++
				if o.Verdict == replay.Changes && (!strings.Contains(string(o.New.Payload), "high") || strings.Contains(string(o.Current.Payload), "high")) {
					t.Errorf("%s → %s", o.Current.Payload, o.New.Payload)
				}
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			want := map[replay.Verdict]int{replay.Appears: 100, replay.Changes: 100, replay.Vanishes: 300}
			if !maps.Equal(seen, want) || r.Appear != 100 || r.Change != 100 || r.Vanish != 300 || r.Same != 0 {
				t.Errorf("against the current version: %v, %+v", seen, r)
			}

			if r, err = replay.Backtest(t.Context(), replay.BacktestOptions{Log: l, New: now, Current: &now}); err != nil || r.Same != 400 || r.Change+r.Appear+r.Vanish != 0 {
				t.Errorf("against itself: %+v, %v", r, err)
			}
		})
	}
}

func TestBacktestOfATime(t *testing.T) {
	l := openLog(t, eventlog.Options{Durability: eventlog.Memory})
	store(t, l, readings(1000))
	all := version(t, "r", `SELECT v FROM 'plant/+'`)
	// Events are found by the time they were stored, and judged by that of their arrival.
	r, err := replay.Backtest(t.Context(), replay.BacktestOptions{Log: l, New: all, Since: epoch.Add(100 * time.Second), Until: epoch.Add(199 * time.Second)})
	if err != nil || r.Results != 100 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = replay.Backtest(t.Context(), replay.BacktestOptions{Log: l, New: all, Limit: 42}); err != nil || r.Events != 42 {
		t.Errorf("limited: %+v, %v", r, err)
	}
	if r, err = replay.Backtest(t.Context(), replay.BacktestOptions{Log: l, New: all, Since: time.Now().Add(time.Hour)}); err != nil || r.Events != 0 {
		t.Errorf("the future: %+v, %v", r, err)
	}
}

func TestBacktestErrorsByKind(t *testing.T) {
	l := openLog(t, eventlog.Options{Durability: eventlog.Memory})
	list := readings(30)
	for _, e := range list {
		e.Hops = 12
	}
	store(t, l, append(list, readings(5)...))
	r, err := replay.Backtest(t.Context(), replay.BacktestOptions{Log: l, New: version(t, "r", `SELECT v FROM 'plant/+'`)})
	if err != nil || r.Errors != 30 || r.Results != 5 || len(r.Kinds) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	for k, n := range r.Kinds {
		if n != 30 || !strings.Contains(k, "republish") {
			t.Error(k, n)
		}
	}
}

func TestBacktestEnds(t *testing.T) {
	l := openLog(t, eventlog.Options{Durability: eventlog.Memory, Partitions: 2})
	store(t, l, readings(100))
	all := version(t, "r", `SELECT v FROM 'plant/+'`)
	stop := errors.New("enough")
	if _, err := replay.Backtest(t.Context(), replay.BacktestOptions{Log: l, New: all, Outcome: func(*replay.Outcome) error { return stop }}); !errors.Is(err, stop) {
		t.Error("the outcome's error:", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := replay.Backtest(ctx, replay.BacktestOptions{Log: l, New: all}); !errors.Is(err, context.Canceled) {
		t.Error("cancelled:", err)
	}
}

// A backtest and an evaluation by hand agree, and keep the order.
func TestBacktestKeepsTheOrder(t *testing.T) {
	l := openLog(t, eventlog.Options{Durability: eventlog.Memory})
	events := readings(2000)
	store(t, l, events)
	v := version(t, "r", `SELECT v, newuuid() AS id, clientid() AS c FROM 'plant/+' WHERE v % 3 = 0`)
	var got []string
	if _, err := replay.Backtest(t.Context(), replay.BacktestOptions{Log: l, New: v, Outcome: func(o *replay.Outcome) error {
		got = append(got, string(o.New.Payload))
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	var want []string
	m := eval.NewMachine()
	for _, e := range events {
		if payload, ok, _ := v.Program.Eval(t.Context(), m, e); ok {
			want = append(want, string(payload))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d results, want %d", len(got), len(want))
	}
}

// BenchmarkBacktest is the example rule over 208-byte messages, one in ten of
// which matches. It reports the CPU of reading and evaluating, of all threads.
func BenchmarkBacktest(b *testing.B) {
	l := openLog(b, eventlog.Options{Durability: eventlog.OS})
	const n = 200_000
	events := make([]*event.Event, n)
	for i := range events {
		temperature := "21.5"
		if i%10 == 0 {
			temperature = "41.3"
		}
		events[i] = &event.Event{
			Topic: topic.Name(fmt.Sprintf("factory/7/device/%d/telemetry", i%500)), QoS: 1, ClientID: fmt.Sprintf("d-%05d", i%500), Received: time.Now(),
			Payload: fmt.Appendf(nil, `{"deviceId":"d-%05d","ts":1700000000000,"seq":%d,"temperature":%s,"humidity":45.2,"battery":87,`+
				`"location":{"lat":47.61,"lon":-122.33},"tags":["a","b"],"fw":"2.7.14-r3","net":"lte-m1","status":"ok"}`, i%500, 1_000_000_000+i, temperature),
		}
	}
	store(b, l, events)
	v := version(b, "example", `SELECT deviceId, temperature, temperature*1.8+32 AS f, topic(2) AS site FROM 'factory/+/device/+/telemetry' WHERE temperature > 40 AND status = 'ok'`)
	before := cpu(b)
	rounds := 0
	for b.Loop() {
		r, err := replay.Backtest(b.Context(), replay.BacktestOptions{Log: l, New: v})
		if err != nil || r.Results != n/10 {
			b.Fatal(r, err)
		}
		rounds++
	}
	b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(rounds*n), "cpu-ns/event")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rounds*n), "ns/event")
	b.ReportMetric(0, "ns/op")
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
