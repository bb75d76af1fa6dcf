package republish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/actiontest"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
)

// openLog runs an event log in memory until the test ends.
func openLog(t testing.TB) *eventlog.Log {
	t.Helper()
	l, err := eventlog.Open(t.Context(), eventlog.Options{Dir: t.TempDir(), Durability: eventlog.Memory, Partitions: 3})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		_ = l.Close()
	})
	return l
}

// stored reads all events of a log, partition by partition.
func stored(t testing.TB, l *eventlog.Log) (out []*event.Event) {
	t.Helper()
	for p := range l.Partitions() {
		f, err := l.Follow(eventlog.FollowOptions{Partition: p, ToEnd: true})
		if err != nil {
			t.Fatal(err)
		}
		for {
			batch, _, err := f.Next(t.Context(), 100)
			for _, e := range batch {
				c := *e
				out = append(out, &c)
			}
			if err != nil {
				break
			}
		}
		f.Close()
	}
	return out
}

func TestContractOnTheLog(t *testing.T) {
	actiontest.Run(t, actiontest.Features{
		Kind: Kind,
		Open: func(t testing.TB) *actiontest.Destination {
			l := openLog(t)
			return &actiontest.Destination{
				Config: `{"topic":"out/${topic()}","qos":1}`,
				Env:    func(e *actions.Env) { e.PublishAll = ToLog(l) },
				Received: func(t testing.TB) (out []actiontest.Delivery) {
					for _, e := range stored(t, l) {
						out = append(out, actiontest.Delivery{Payload: string(e.Payload)})
					}
					return out
				},
			}
		},
		TooLarge: MaxPayload + 1, InProcess: true,
		Without: []actiontest.Fault{actiontest.Hang, actiontest.Busy, actiontest.Refuse, actiontest.Cut, actiontest.Gone},
	})
}

func TestOrderOnTheLog(t *testing.T) {
	l := openLog(t)
	env := actiontest.Env(t, "")
	env.PublishAll = ToLog(l)
	a, spec, err := Kind.New(t.Context(), env, json.RawMessage(`{"topic":"out"}`))
	if err != nil {
		t.Fatal(err)
	}
	const clients, each = 4, 200
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			var batch []*actions.Result
			for n := range each {
				r := actiontest.Result(n + 1)
				r.Event.ClientID = fmt.Sprint(c)
				r.Payload = fmt.Append(nil, n)
				if batch = append(batch, r); len(batch) == spec.BatchMax || n == each-1 {
					if err := a.Deliver(t.Context(), batch); err != nil {
						t.Error(err)
					}
					batch = nil
				}
			}
		})
	}
	wg.Wait()
	next := map[string]int{}
	for _, e := range stored(t, l) {
		if string(e.Payload) != fmt.Sprint(next[e.Key]) {
			t.Fatalf("client %s: %s, want %d", e.Key, e.Payload, next[e.Key])
		}
		next[e.Key]++
	}
	if len(next) != clients || next["0"] != each {
		t.Errorf("%v", next)
	}
}

// slow is a Log that takes events and reports as it is told.
type slow struct {
	report func(i int, e *event.Event, r eventlog.Receipt) error
}

func (s slow) Append(_ context.Context, e *event.Event, r eventlog.Receipt, token uint64) error {
	return s.report(int(token), e, r)
}

func TestToLogOutcomes(t *testing.T) {
	full := errs.Errorf("log", errs.Quota, "full")
	events := []*event.Event{{Key: "a"}, {Key: "b"}, {Key: "c"}}
	// The second is not taken: neither it nor the third is stored.
	got := ToLog(slow{func(i int, e *event.Event, r eventlog.Receipt) error {
		if i == 1 {
			return full
		}
		r.Appended(uint64(i), e, nil)
		return nil
	}})(t.Context(), events)
	if got[0] != nil || got[1] != full || got[2] != full {
		t.Errorf("%v", got)
	}
	// The context ends while the log is silent, and the log speaks later.
	ctx, cancel := context.WithCancel(t.Context())
	var late eventlog.Receipt
	got = ToLog(slow{func(i int, e *event.Event, r eventlog.Receipt) error {
		if late = r; i == 0 {
			r.Appended(0, e, nil)
		}
		if i == 2 {
			cancel()
		}
		return nil
	}})(ctx, events)
	late.Appended(1, nil, nil)
	if got[0] != nil || !errs.Is(got[1], errs.Timeout) || !errs.Is(got[2], errs.Timeout) {
		t.Errorf("%v", got)
	}
}

func BenchmarkToLog(b *testing.B) {
	l := openLog(b)
	env := actiontest.Env(b, "")
	env.PublishAll = ToLog(l)
	a, spec, err := Kind.New(b.Context(), env, json.RawMessage(`{"topic":"out/${topic(2)}","qos":1}`))
	if err != nil {
		b.Fatal(err)
	}
	batch := make([]*actions.Result, spec.BatchMax)
	for i := range batch {
		batch[i] = actiontest.Result(i%50 + 1)
	}
	b.ReportAllocs()
	cpu := actiontest.CPU(b)
	n := 0
	for ; n < b.N; n += len(batch) {
		if err := a.Deliver(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	cpu(n)
}
