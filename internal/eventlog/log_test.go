package eventlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// start opens a log and runs it until the test ends.
func start(t testing.TB, o Options, tune ...func(*Log)) *Log {
	t.Helper()
	l, stop := open(t, o, tune...)
	t.Cleanup(stop)
	return l
}

// open opens and runs a log; stop ends it and may be called twice.
func open(t testing.TB, o Options, tune ...func(*Log)) (*Log, func()) {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tune {
		f(l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return l, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Run:", err)
		}
		if err := l.Close(); err != nil {
			t.Error("Close:", err)
		}
	})
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

func ev(name string, i int) *event.Event {
	return &event.Event{
		Topic: topic.Name(name), Payload: fmt.Appendf(nil, `{"n":%d}`, i), ClientID: "c", QoS: 1,
		Received: time.UnixMilli(1_780_000_000_000 + int64(i)).UTC(),
	}
}

// collect reads n events.
func collect(t testing.TB, f *Follower, n int) []*event.Event {
	t.Helper()
	var all []*event.Event
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for len(all) < n {
		b, _, err := f.Next(ctx, n-len(all))
		if err != nil {
			t.Fatalf("after %d events: %v", len(all), err)
		}
		all = append(all, b...)
	}
	return all
}

// book is a Receipt that keeps what it was told.
type book struct {
	mu     sync.Mutex
	tokens []uint64
	seqs   []uint64
	errs   []error
	left   int
	full   chan struct{}
}

func newBook(n int) *book { return &book{left: n, full: make(chan struct{})} }

func (b *book) Appended(token uint64, e *event.Event, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens, b.seqs, b.errs = append(b.tokens, token), append(b.seqs, e.Seq), append(b.errs, err)
	if b.left--; b.left == 0 {
		close(b.full)
	}
}
func (b *book) Flush() {}

func (b *book) wait(t testing.TB) {
	t.Helper()
	select {
	case <-b.full:
	case <-time.After(30 * time.Second):
		t.Fatal("receipts are missing")
	}
}

func TestAppendThenFollowAfterRestart(t *testing.T) {
	dir := t.TempDir()
	const n = 12_000 // far enough for a cursor
	l, stop := open(t, Options{Dir: dir})
	b := newBook(n)
	for i := range n {
		if err := l.Append(t.Context(), ev(fmt.Sprintf("a/%d", i%7), i), b, uint64(i)); err != nil {
			t.Fatal(err)
		}
	}
	b.wait(t)
	for i := range n {
		if b.tokens[i] != uint64(i) || b.seqs[i] != uint64(i+1) || b.errs[i] != nil {
			t.Fatalf("receipt %d: token %d, sequence %d, %v", i, b.tokens[i], b.seqs[i], b.errs[i])
		}
	}
	stop()

	l = start(t, Options{Dir: dir})
	if l.Committed(0) != n || l.First(0) != 1 {
		t.Fatalf("after a restart: %d … %d", l.First(0), l.Committed(0))
	}
	f, err := l.Follow(FollowOptions{ToEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i, e := range collect(t, f, n) {
		want := ev(fmt.Sprintf("a/%d", i%7), i)
		if e.Seq != uint64(i+1) || e.Topic != want.Topic || string(e.Payload) != string(want.Payload) || e.ClientID != "c" || !e.Received.Equal(want.Received) {
			t.Fatalf("event %d: %+v", i, e)
		}
	}
	if _, _, err := f.Next(t.Context(), 1); !errors.Is(err, io.EOF) {
		t.Fatalf("at the end: %v", err)
	}
}

func TestFilteredFollowFromStreamAndRing(t *testing.T) {
	l := start(t, Options{Durability: OS})
	for i := range 100 {
		if err := l.Publish(t.Context(), ev(fmt.Sprintf("a/%d", i%10), i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, cold := range []bool{false, true} {
		if cold {
			l.parts[0].ring.reset(l.Committed(0))
		}
		f, err := l.Follow(FollowOptions{Filters: []topic.Filter{"a/3"}, ToEnd: true})
		if err != nil {
			t.Fatal(err)
		}
		var got []*event.Event
		for {
			b, upto, err := f.Next(t.Context(), 3)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(b) > 3 || upto != f.Position() {
				t.Fatalf("%d events up to %d", len(b), upto)
			}
			got = append(got, b...)
		}
		if len(got) != 10 || f.Position() != 100 {
			t.Fatalf("cold %v: %d events, position %d", cold, len(got), f.Position())
		}
		f.Close()
	}
}

// AppendAll keeps the order over partitions' queues and tells each receipt.
func TestAppendAll(t *testing.T) {
	l := start(t, Options{Durability: OS, Partitions: 2})
	var out []Outgoing
	w := make(waiter, 10_000)
	for i := range 9000 { // more than a queue holds
		out = append(out, Outgoing{Event: &event.Event{Topic: "a/b", ClientID: fmt.Sprint("c", i/100%4), Payload: fmt.Append(nil, i)}, Receipt: &w})
	}
	if err := l.AppendAll(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	for range out {
		if err := <-w; err != nil {
			t.Fatal(err)
		}
	}
	last := map[string]uint64{}
	for _, o := range out {
		if o.Event.Seq <= last[o.Event.ClientID] {
			t.Fatalf("%s: sequence %d after %d", o.Event.ClientID, o.Event.Seq, last[o.Event.ClientID])
		}
		last[o.Event.ClientID] = o.Event.Seq
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.AppendAll(ended, out[:1]); err == nil {
		t.Error("queued after its context has ended")
	}
}
