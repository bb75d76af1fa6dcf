package eventlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	goleak.VerifyTestMain(m)
}

// smallRing lets followers fall back often.
func smallRing(l *Log) {
	for _, p := range l.parts {
		end := p.ring.end()
		p.ring = newRing(50, 1<<20)
		p.line.ring = p.ring
		p.ring.reset(end)
	}
}

func TestFollowersJoinUnderLoadWithoutGapRepeatOrReordering(t *testing.T) {
	for _, d := range []Durability{Disk, OS} {
		l := start(t, Options{Durability: d}, smallRing)
		const n = 4000
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for c := range 4 {
			wg.Go(func() {
				b := newBook(n / 4)
				for i := range n / 4 {
					if err := l.Append(ctx, ev(fmt.Sprintf("a/%d", c), i), b, uint64(i)); err != nil {
						t.Error(err)
						return
					}
					if i%50 == 49 {
						time.Sleep(time.Millisecond)
					}
				}
				b.wait(t)
			})
		}
		read := make(chan uint64, 100)
		for k := range 8 {
			wg.Go(func() {
				time.Sleep(time.Duration(k) * 10 * time.Millisecond)
				o := FollowOptions{}
				filtered := k%2 == 1
				if filtered {
					o.Filters = []topic.Filter{"a/2", "a/3"}
				}
				f, err := l.Follow(o)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				var seen, pos uint64
				next := map[string]int{}
				for seen < n && f.Position() < n {
					b, upto, err := f.Next(ctx, 1+rand.IntN(200))
					if err != nil {
						t.Errorf("follower %d at %d: %v", k, f.Position(), err)
						return
					}
					for _, e := range b {
						if e.Seq <= pos || e.Seq > upto || e.Seq > l.Committed(0) {
							t.Errorf("follower %d: sequence %d after %d, up to %d, committed %d", k, e.Seq, pos, upto, l.Committed(0))
							return
						}
						if !filtered && e.Seq != pos+1 {
							t.Errorf("follower %d: %d follows %d", k, e.Seq, pos)
							return
						}
						pos = e.Seq
						// Each client's events come in its order, none missing.
						if want := fmt.Sprintf(`{"n":%d}`, next[string(e.Topic)]); string(e.Payload) != want {
							t.Errorf("follower %d: %s of %s, want %s", k, e.Payload, e.Topic, want)
							return
						}
						next[string(e.Topic)]++
						seen++
					}
					if k > 5 {
						time.Sleep(2 * time.Millisecond) // a slow one
					}
				}
				want := uint64(n)
				if filtered {
					want = n / 2
				}
				if seen != want {
					t.Errorf("follower %d saw %d events, want %d", k, seen, want)
				}
				read <- f.Fetches()
			})
		}
		wg.Wait()
		close(read)
		total := uint64(0)
		for x := range read {
			total += x
		}
		if total == 0 {
			t.Error("no follower has read from the stream: the test shows nothing")
		}
	}
}

func TestLiveFollowerReadsTheRingOnly(t *testing.T) {
	l := start(t, Options{Durability: OS})
	f, err := l.Follow(FollowOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range 300 {
		e := ev("a", i)
		if err := l.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		got := collect(t, f, 1)
		if got[0] != e || got[0].Seq != uint64(i+1) {
			t.Fatalf("event %d: %+v", i, got[0])
		}
	}
	if f.Fetches() != 0 {
		t.Errorf("%d reads from the stream", f.Fetches())
	}
}

func TestNextEndsWithItsContextAndWithTheLog(t *testing.T) {
	l, stop := open(t, Options{Durability: OS})
	f, err := l.Follow(FollowOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := f.Next(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { _, _, err := f.Next(context.Background(), 1); done <- err }()
	stop()
	if err := <-done; !errs.Is(err, errs.Unavailable) {
		t.Fatal(err)
	}
}

func TestSince(t *testing.T) {
	l := start(t, Options{Durability: OS})
	for i := range 10 {
		if err := l.Publish(t.Context(), ev("a", i)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * time.Millisecond)
	mid := time.Now()
	for i := range 10 {
		if err := l.Publish(t.Context(), ev("a", 10+i)); err != nil {
			t.Fatal(err)
		}
	}
	for want, since := range map[int]time.Time{0: mid.Add(-time.Hour), 10: mid, 20: mid.Add(time.Hour)} {
		f, err := l.Follow(FollowOptions{Since: since, ToEnd: true})
		if err != nil {
			t.Fatal(err)
		}
		if f.Position() != uint64(want) {
			t.Errorf("since %v: position %d, want %d", since.Sub(mid), f.Position(), want)
		}
		f.Close()
	}
}

func TestTrimmingRespectsAgeAndHoldsAndShowsGaps(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	l := start(t, Options{Durability: OS, MaxAge: time.Hour, Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }}, smallRing)
	p := l.parts[0]
	for i := range 1000 {
		if err := l.Append(t.Context(), ev("a", i), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Publish(t.Context(), ev("a", 1000)); err != nil {
		t.Fatal(err)
	}
	lane := uint64(300)
	l.Hold("lane", 0, func() uint64 { return lane })
	slow, err := l.Follow(FollowOptions{After: 100})
	if err != nil {
		t.Fatal(err)
	}
	if got := collect(t, slow, 1); got[0].Seq != 101 {
		t.Fatal(got[0].Seq)
	}
	slow.fetched, slow.upto = nil, 0 // what it had read ahead
	if err := p.trim(now); err != nil || l.First(0) != 1 {
		t.Fatalf("young events were trimmed up to %d, %v", l.First(0), err)
	}
	if err := p.trim(now.Add(2 * time.Hour)); err != nil || l.First(0) != 301 {
		t.Fatalf("first is %d, want 301, %v", l.First(0), err)
	}
	_, _, err = slow.Next(t.Context(), 10)
	var gap *GapError
	if !errors.As(err, &gap) || gap.From != 102 || gap.To != 300 {
		t.Fatalf("gap: %v", err)
	}
	if got := collect(t, slow, 1); got[0].Seq != 301 {
		t.Fatalf("behind the gap comes %d", got[0].Seq)
	}
	l.Release("lane", 0)
	if err := p.trim(now.Add(2 * time.Hour)); err != nil || l.First(0) != 1002 {
		t.Fatalf("first is %d, want 1002, %v", l.First(0), err)
	}
	if err := l.Publish(t.Context(), ev("a", 1001)); err != nil {
		t.Fatal(err)
	}
	if l.Committed(0) != 1002 {
		t.Fatal(l.Committed(0))
	}
	if st, err := l.store.State(p.stream); err != nil || st.Messages != 1 {
		t.Fatal(st, err)
	}
}

func TestClamp(t *testing.T) {
	l := start(t, Options{Durability: OS})
	for i := range 5 {
		if err := l.Publish(t.Context(), ev("a", i)); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := l.Clamp(0, 3), l.Clamp(0, 900); a != 3 || b != 5 {
		t.Fatal(a, b)
	}
	// The log loses its end while a follower is at it: what comes then under
	// the old sequences is new to the follower.
	f, err := l.Follow(FollowOptions{})
	if err != nil {
		t.Fatal(err)
	}
	collect(t, f, 5)
	r := l.parts[0].ring
	r.clamp(3)
	again := []*event.Event{ev("a", 103), ev("a", 104)}
	again[0].Seq, again[1].Seq = 4, 5
	r.push(again)
	got := collect(t, f, 2)
	if got[0] != again[0] || got[1] != again[1] {
		t.Fatalf("%+v", got)
	}
}

func TestPartitions(t *testing.T) {
	dir := t.TempDir()
	l, stop := open(t, Options{Dir: dir, Durability: OS, Partitions: 3})
	for i := range 30 {
		e := ev("a", i)
		e.ClientID = fmt.Sprint("c", i%10)
		if err := l.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if e.Partition != l.Partition(e.ClientID) {
			t.Fatalf("partition %d", e.Partition)
		}
	}
	total, used := 0, 0
	for p := range l.Partitions() {
		if l.Committed(p) > 0 {
			used++
		}
		f, err := l.Follow(FollowOptions{Partition: p, ToEnd: true})
		if err != nil {
			t.Fatal(err)
		}
		for {
			b, _, err := f.Next(t.Context(), 100)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			total += len(b)
		}
	}
	if total != 30 || used < 2 {
		t.Fatalf("%d events in %d partitions", total, used)
	}
	stop()
	if l, err := Open(t.Context(), Options{Dir: dir, Durability: OS, Partitions: 2}); !errs.Is(err, errs.Invalid) {
		if err == nil {
			l.Close()
		}
		t.Fatalf("another number of partitions: %v", err)
	}
}

// A follower reads with its subject filter where that takes little of the log
// only, and looks again as it goes on.
func TestHowAFollowerReads(t *testing.T) {
	f := &Follower{subject: "ev.0.m.a.>"}
	read := func(seen uint64, hits int) string {
		f.upto, f.fetched = f.pos+seen, make([]*event.Event, hits)
		f.weigh()
		f.pos = f.upto
		return f.readSubject()
	}
	if s := read(sampleEvents/2, 0); s != "" {
		t.Error("narrow before enough was seen:", s)
	}
	if s := read(sampleEvents/2, 1); s != f.subject {
		t.Error("unfiltered though next to nothing matches")
	}
	if s := read(sampleEvents, sampleEvents/sparse); s != "" {
		t.Error("filtered though much matches:", s)
	}
	all := &Follower{pos: 0, upto: 10 * sampleEvents}
	if all.weigh(); all.narrow {
		t.Error("a follower of everything has no filter")
	}
}
