package eventlog

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/test/natstest"
)

// outsider is a client of the store that is no Weir.
func outsider(t *testing.T, url string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// meet waits until the logs know each other.
func meet(t *testing.T, logs ...*Log) {
	t.Helper()
	until(t, "the processes do not find each other", func() bool {
		for _, l := range logs {
			l.peers.mu.Lock()
			n := len(l.peers.seen)
			l.peers.mu.Unlock()
			if n != len(logs)-1 {
				return false
			}
		}
		return true
	})
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// Processes that append at the same time, in bursts of all sizes, see one order:
// the stream's, each event once, and their own as soon as it is acknowledged.
func TestSeveralProcessesSeeOneOrder(t *testing.T) {
	all := cluster(t, 1)
	var logs []*Log
	for range 3 {
		logs = append(logs, start(t, Options{URL: urls(all), Logger: discard()}))
	}
	meet(t, logs...)
	const n = 1000
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	seen := make([][]string, len(logs))
	for k, l := range logs {
		wg.Go(func() {
			b := newBook(n)
			for i := range n {
				if err := l.Append(ctx, ev(fmt.Sprint("p/", k), i), b, uint64(i)); err != nil {
					t.Error(err)
					return
				}
				if i%(7+20*k) == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			b.wait(t)
			for i, err := range b.errs {
				if err != nil {
					t.Errorf("append %d: %v", i, err)
					return
				}
			}
		})
		wg.Go(func() {
			f, err := l.Follow(FollowOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for pos := uint64(0); pos < 3*n; {
				b, _, err := f.Next(ctx, 100)
				if err != nil {
					t.Errorf("process %d after %d events: %v", k, pos, err)
					return
				}
				for _, e := range b {
					if pos++; e.Seq != pos {
						t.Errorf("process %d: %d comes as the %d.", k, e.Seq, pos)
						return
					}
					seen[k] = append(seen[k], string(e.Topic)+string(e.Payload))
				}
			}
			if f.Fetches() > 0 {
				t.Errorf("process %d read the stream %d times; copies came too late or not at all", k, f.Fetches())
			}
		})
	}
	wg.Wait()
	if !slices.Equal(seen[0], seen[1]) || !slices.Equal(seen[0], seen[2]) {
		t.Error("the processes disagree about the order")
	}
}

// What nobody has announced is not shown, until it is clear that nobody will.
func TestAnEventIsShownOnceItsCommitIsKnown(t *testing.T) {
	all := cluster(t, 1)
	l := start(t, Options{URL: urls(all), Logger: discard()})
	_, js := outsider(t, urls(all))
	put := func(payload string) {
		t.Helper()
		if _, err := js.Publish(t.Context(), string(appendSubject(nil, 0, "a/b")), []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Publish(t.Context(), ev("own", 0)); err != nil { // it has found the stream's end
		t.Fatal(err)
	}
	f, err := l.Follow(FollowOptions{After: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	began := time.Now()
	put("killed before it could tell")
	b, _, err := f.Next(t.Context(), 10)
	if err != nil || len(b) != 1 || string(b[0].Payload) != "killed before it could tell" {
		t.Fatal(b, err)
	}
	if d := time.Since(began); d < helloLapse {
		t.Errorf("it was shown after %v", d)
	}
	// An own commit behind it settles it: the store syncs in order.
	put("before")
	own := ev("own", 1)
	if err := l.Publish(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	got := collect(t, f, 2)
	if string(got[0].Payload) != "before" || got[1].Seq != own.Seq || got[0].Seq != own.Seq-1 {
		t.Errorf("%+v %+v", got[0], got[1])
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("that took %v", d)
	}
}

// One process alone tells nobody what it commits; one that comes later is told,
// and one that left is not waited for.
func TestCopiesOnlyWhileAnotherProcessIsHere(t *testing.T) {
	all := cluster(t, 1)
	nc, _ := outsider(t, urls(all))
	said, err := nc.SubscribeSync(commitSubject + ">")
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	a := start(t, Options{URL: urls(all), Logger: discard()})
	for i := range 50 {
		if err := a.Publish(t.Context(), ev("alone", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n, _, err := said.Pending(); n != 0 || err != nil {
		t.Errorf("%d messages to nobody, %v", n, err)
	}
	b, stop := open(t, Options{URL: urls(all), Logger: discard()})
	if b.Committed(0) != 50 {
		t.Error("it begins at", b.Committed(0))
	}
	meet(t, a, b)
	f, err := b.Follow(FollowOptions{After: b.Committed(0)})
	if err != nil {
		t.Fatal(err)
	}
	big := ev("big", 0)
	big.Payload = make([]byte, copyBytes+1) // no copy of it is sent
	for _, e := range []*event.Event{ev("both", 0), big, ev("both", 1)} {
		if err := a.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if got := collect(t, f, 3); got[0].Seq != 51 || len(got[1].Payload) != len(big.Payload) || got[2].Topic != "both" {
		t.Errorf("%v", got)
	}
	f.Close()
	if a.Alone() {
		t.Error("alone")
	}
	stop()
	until(t, "the one that left is still counted", a.Alone)
}

// An event that only another process may still need is not trimmed, and one
// that was trimmed by another process is a gap, not a silence.
func TestTrimmingBesideOthers(t *testing.T) {
	all := cluster(t, 1)
	o := Options{URL: urls(all), Logger: discard(), MaxAge: 100 * time.Millisecond, Holders: []string{"rules"}}
	gateway := start(t, o)
	for i := range 10 {
		if err := gateway.Publish(t.Context(), ev("a", i)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(300 * time.Millisecond)
	if n := gateway.First(0); n != 1 {
		t.Fatal("trimmed up to", n, "although nobody knows where the rules stand")
	}
	rules := start(t, o, func(l *Log) { l.Hold("rules", 0, func() uint64 { return 6 }) })
	meet(t, gateway, rules)
	until(t, "nothing is trimmed", func() bool { return gateway.First(0) == 7 && rules.First(0) == 7 })
	f, err := rules.Follow(FollowOptions{ToEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	var gap *GapError
	left := 0
	for {
		b, _, err := f.Next(t.Context(), 10)
		if err == io.EOF {
			break
		}
		if g, ok := err.(*GapError); ok {
			gap = g
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		left += len(b)
	}
	if gap == nil || gap.From != 1 || gap.To != 6 || left != 4 {
		t.Errorf("%v, %d events", gap, left)
	}
}

func FuzzCopies(f *testing.F) {
	e := ev("a/b", 1)
	f.Add(appendCopy(appendCopy(nil, 7, appendSubject(nil, 0, e.Topic), appendHeader(nil, e), e.Payload), 8, []byte("x"), nil, nil))
	f.Add([]byte{1, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range readCopies(b, 0) {
			again := readCopies(appendCopy(nil, e.Seq, appendSubject(nil, 0, e.Topic), appendHeader(nil, e), e.Payload), 0)
			if len(again) != 1 || again[0].Seq != e.Seq || again[0].Topic != e.Topic || string(again[0].Payload) != string(e.Payload) {
				t.Fatalf("%+v becomes %+v", e, again)
			}
		}
	})
}

// The NATS server goes away and comes back while two processes append. Nothing
// that was acknowledged is lost, both go on by themselves and agree.
func TestTheServerComesBack(t *testing.T) {
	srv := natstest.Start(t)
	var logs []*Log
	for range 2 {
		logs = append(logs, start(t, Options{URL: srv.URL(), Logger: discard(), Deadline: 2 * time.Second}))
	}
	meet(t, logs...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	acked := map[string]bool{}
	var publishers sync.WaitGroup
	down := make(chan struct{})
	for k, l := range logs {
		publishers.Go(func() {
			after := 0
			for i := 0; after < 100; i++ {
				e := ev(fmt.Sprint("p/", k), i)
				if err := l.Publish(ctx, e); err != nil {
					if ctx.Err() != nil {
						t.Error("process", k, "does not go on")
						return
					}
					time.Sleep(10 * time.Millisecond)
					continue
				}
				mu.Lock()
				acked[string(e.Topic)+string(e.Payload)] = true
				mu.Unlock()
				select {
				case <-down:
					after++
				default:
				}
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	srv.Stop()
	time.Sleep(200 * time.Millisecond)
	close(down)
	srv.Begin()
	publishers.Wait()
	end := max(logs[0].Committed(0), logs[1].Committed(0))
	var seen [2][]string
	for k, l := range logs {
		f, err := l.Follow(FollowOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for pos := uint64(0); pos < end; {
			b, upto, err := f.Next(ctx, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range b {
				seen[k] = append(seen[k], string(e.Topic)+string(e.Payload))
			}
			pos = upto
		}
		f.Close()
	}
	if !slices.Equal(seen[0], seen[1]) {
		t.Error("the processes disagree")
	}
	for _, s := range seen[0] {
		delete(acked, s)
	}
	if len(acked) > 0 {
		t.Errorf("%d acknowledged events are lost", len(acked))
	}
}

// BenchmarkProcesses is what a second process costs that follows the first one's
// events: CPU of both, and of the NATS server, which all are one process here.
func BenchmarkProcesses(b *testing.B) {
	for _, processes := range []int{1, 2} {
		b.Run(fmt.Sprint(processes), func(b *testing.B) {
			srv := natstest.Start(b)
			var logs []*Log
			for range processes {
				logs = append(logs, start(b, Options{URL: srv.URL(), Logger: discard()}))
			}
			for end := time.Now().Add(10 * time.Second); processes > 1 && logs[0].Alone() && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			f, err := logs[processes-1].Follow(FollowOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			w := &window{slots: make(chan struct{}, 512)}
			ctx := context.Background()
			b.ResetTimer()
			c0 := cpu()
			go func() {
				for i := range b.N {
					w.slots <- struct{}{}
					if logs[0].Append(ctx, benchEvent(i), w, 0) != nil {
						return
					}
				}
			}()
			for pos := uint64(0); pos < uint64(b.N); {
				if _, pos, err = f.Next(ctx, 500); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64((cpu()-c0).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			b.ReportMetric(float64(f.Fetches())/float64(b.N), "reads/op")
		})
	}
}
