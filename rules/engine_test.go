package rules

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

func TestMatchesAndRoutes(t *testing.T) {
	w := newWorld(t, 2)
	w.start()
	w.apply("temp", "s/+/temp", "s3", "http")
	w.apply("all", "#", "s3")
	w.apply("aws", "$aws/#", "s3")
	st := w.apply("basic", "-", "s3")
	w.running("basic", st.Revision)
	w.log.add(0, "s/1/temp", "x")
	w.log.add(1, "s/2/temp", "x")
	w.log.add(0, "other", "x")
	w.log.add(0, "$aws/rules/basic/s/1/temp", "x")
	w.log.add(0, "$aws/rules/nobody/s/1/temp", "x")
	w.log.add(0, "$aws/certificates/create/json", "secret")
	w.log.add(0, "$aws/things/t/jobs/get", "secret")
	w.log.add(0, "$aws/things/t/jobs/notify", "x")
	w.idle()
	for _, c := range []struct {
		rule  string
		index int
		want  []uint64
	}{
		{"temp", 0, []uint64{1, 1}}, {"temp", 1, []uint64{1, 1}}, {"all", 0, []uint64{1, 1, 2}},
		{"basic", 0, []uint64{3}}, {"aws", 0, []uint64{7}},
	} {
		got := w.hub.seqs(c.rule, c.index)
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s/%d: %v, want %v", c.rule, c.index, got, c.want)
		}
	}
	for _, rs := range w.engine.Status() {
		for _, a := range rs.Actions {
			if a.Matched != a.Delivered || a.Matched != uint64(len(w.hub.seqs(rs.Name, a.Index))) || !a.AtHead || a.Lag != 0 {
				t.Errorf("%s: %+v", rs.Name, a)
			}
		}
	}
}

// What is appended between apply and the moment the engine hears of it counts.
func TestANewRuleMissesNothing(t *testing.T) {
	w := newWorld(t, 1)
	w.start()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				w.log.add(0, "t", "x")
			}
		}
	})
	var started []uint64
	for i := range 20 {
		before := w.log.Committed(0)
		st := w.apply(fmt.Sprint("r", i), "t", "s3")
		started = append(started, st.Start[0])
		if st.Start[0] < before {
			t.Error("starts before it was applied")
		}
	}
	time.Sleep(5 * time.Millisecond)
	close(stop)
	wg.Wait()
	w.idle()
	end := w.log.Committed(0)
	for i := range 20 {
		exactly(t, fmt.Sprint("r", i), w.hub.seqs(fmt.Sprint("r", i), 0), started[i]+1, end)
	}
}

func exactly(t *testing.T, what string, got []uint64, from, to uint64) {
	t.Helper()
	want := from
	for _, s := range got {
		if s != want {
			t.Fatalf("%s: event %d, expected %d", what, s, want)
		}
		want++
	}
	if want != to+1 {
		t.Fatalf("%s: ends at %d, expected %d", what, want-1, to)
	}
}

// Lanes that are slow, stop, and go on at random get every event of their rule,
// once, in order; lanes that are quick are never delayed.
func TestLeaveAndRejoin(t *testing.T) {
	for seed := range uint64(6) {
		w := newWorld(t, 1)
		w.hub.auto, w.hub.size = false, 3
		w.start()
		const slow = 4
		var last Stored
		for i := range slow {
			last = w.apply(fmt.Sprint("slow", i), "t/+ "+[]string{"", "1", "2", ""}[i], "s3", "http")
		}
		w.running("slow", last.Revision)
		w.hub.mu.Lock()
		w.hub.auto = true
		w.hub.mu.Unlock()
		last = w.apply("quick", "t/#", "s3")
		w.running("quick", last.Revision)
		r := rand.New(rand.NewPCG(seed, 7))
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range slow {
			for k := range 2 {
				l := w.hub.lane(fmt.Sprint("slow", i), k)
				r := rand.New(rand.NewPCG(seed, uint64(10+2*i+k)))
				wg.Go(func() {
					for {
						select {
						case <-stop:
							l.settle(1 << 30)
							l.mu.Lock()
							l.size = 0
							l.mu.Unlock()
							return
						default:
						}
						switch r.IntN(6) {
						case 0:
							time.Sleep(time.Duration(r.IntN(1500)) * time.Microsecond)
						case 1:
							l.settle(1 << 30)
						default:
							l.settle(r.IntN(4))
						}
					}
				})
			}
		}
		var want [3][]uint64
		for range 3000 {
			s := []string{"1", "2", "12", "0"}[r.IntN(4)]
			seq := w.log.add(0, "t/x", s)
			want[0] = append(want[0], seq)
			if strings.Contains(s, "1") {
				want[1] = append(want[1], seq)
			}
			if strings.Contains(s, "2") {
				want[2] = append(want[2], seq)
			}
			if r.IntN(50) == 0 {
				time.Sleep(200 * time.Microsecond)
			}
		}
		w.eventually("the quick rule", func() bool { return len(w.hub.seqs("quick", 0)) == 3000 })
		close(stop)
		wg.Wait()
		for i := range slow {
			for k := range 2 {
				l := w.hub.lane(fmt.Sprint("slow", i), k)
				name := fmt.Sprint("slow", i)
				ww := want[[]int{0, 1, 2, 0}[i]]
				w.eventually(name, func() bool { l.settle(1 << 30); return len(w.hub.seqs(name, k)) >= len(ww) })
				if got := w.hub.seqs(name, k); !slices.Equal(got, ww) {
					t.Fatalf("seed %d: %s/%d got %d results, want %d", seed, name, k, len(got), len(ww))
				}
				if l.refusals == 0 {
					t.Errorf("seed %d: %s/%d was never full: the test proves nothing", seed, name, k)
				}
			}
		}
		w.eventually("all are at the head", func() bool {
			for i := range slow {
				for k := range 2 {
					w.hub.lane(fmt.Sprint("slow", i), k).settle(1 << 30)
				}
			}
			for _, rs := range w.engine.Status() {
				for _, a := range rs.Actions {
					if !a.AtHead || a.Lag > 0 {
						return false
					}
				}
			}
			return true
		})
		w.end()
		if w.log.opened != 0 {
			t.Errorf("%d followers were left open", w.log.opened)
		}
	}
}

// A lane must come back under a load that does not pause.
func TestRejoinsUnderLoad(t *testing.T) {
	w := newWorld(t, 1)
	w.hub.auto, w.hub.size = false, 2
	w.start()
	st := w.apply("r", "t", "s3")
	w.running("r", st.Revision)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				w.log.add(0, "t", "x")
				if i%64 == 0 {
					time.Sleep(100 * time.Microsecond)
				}
			}
		}
	})
	w.eventually("away", func() bool { return !w.engine.Status()[0].Actions[0].AtHead })
	l := w.hub.lane("r", 0)
	l.mu.Lock()
	l.size, l.auto = 0, true
	l.mu.Unlock()
	l.settle(1 << 30)
	l.mu.Lock()
	l.room <- struct{}{}
	l.mu.Unlock()
	r := w.engine.parts[0].current().versions[st.Revision].lanes[0]
	w.eventually("back", func() bool { return !r.left.Load() })
	close(stop)
	wg.Wait()
	w.idle()
	exactly(t, "r", w.hub.seqs("r", 0), 1, w.log.Committed(0))
}

// Replacing a rule under load: each event belongs to exactly one version, also
// for a lane that lags behind, and the old versions go away.
func TestReplaceUnderLoad(t *testing.T) {
	w := newWorld(t, 1)
	w.hub.size, w.hub.auto = 5, false
	w.start()
	w.apply("r", "t v0", "s3")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				w.log.add(0, "t", "v0v1v2v3v4v5v6v7v8v9")
				if i%20 == 0 {
					time.Sleep(100 * time.Microsecond)
				}
			}
		}
	})
	wg.Go(func() { // slow sinks
		for {
			select {
			case <-stop:
				return
			default:
			}
			w.hub.mu.Lock()
			lanes := slices.Clone(w.hub.lanes)
			w.hub.mu.Unlock()
			for _, l := range lanes {
				l.settle(2)
			}
			time.Sleep(50 * time.Microsecond)
		}
	})
	for i := 1; i < 10; i++ {
		time.Sleep(3 * time.Millisecond)
		w.apply("r", fmt.Sprint("t v", i), "s3")
	}
	close(stop)
	wg.Wait()
	w.eventually("drained", func() bool {
		w.hub.mu.Lock()
		lanes := slices.Clone(w.hub.lanes)
		w.hub.mu.Unlock()
		for _, l := range lanes {
			l.settle(1 << 30)
		}
		st := w.engine.Status()[0]
		return st.Closed == 0 && st.Version == 10 && st.Actions[0].Matched == w.log.Committed(0) && st.Actions[0].Pending == 0
	})
	seqs := w.hub.seqs("r", 0)
	slices.Sort(seqs) // versions deliver side by side
	exactly(t, "r", seqs, 1, w.log.Committed(0))
	for _, k := range []string{"rule.r."} {
		n := 0
		w.bucket.Scan(context.Background(), k, func(Entry) error { n++; return nil })
		if n != 0 {
			t.Errorf("%d records of closed versions are left", n)
		}
	}
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	byVersion := map[uint64][2]uint64{}
	for _, g := range w.hub.got {
		x, ok := byVersion[g.version]
		if !ok {
			x[0] = g.seq
		}
		byVersion[g.version] = [2]uint64{min(x[0], g.seq), max(x[1], g.seq)}
	}
	var ends [][2]uint64
	for _, x := range byVersion {
		ends = append(ends, x)
	}
	slices.SortFunc(ends, func(a, b [2]uint64) int { return int(a[0]) - int(b[0]) })
	for i := 1; i < len(ends); i++ {
		if ends[i][0] != ends[i-1][1]+1 {
			t.Errorf("versions overlap or leave a gap: %v", ends)
		}
	}
}

func TestDisableDeleteEnable(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, 1)
	w.hub.auto = false
	w.start()
	st := w.apply("r", "t", "s3")
	w.running("r", st.Revision)
	w.log.add(0, "t", "x")
	w.eventually("matched", func() bool { return len(w.hub.seqs("r", 0)) == 1 })
	if _, err := w.store.SetEnabled(ctx, "r", false); err != nil {
		t.Fatal(err)
	}
	w.closed(1)
	w.log.add(0, "t", "x")
	st, err := w.store.SetEnabled(ctx, "r", true)
	if err != nil {
		t.Fatal(err)
	}
	w.running("r", st.Revision)
	w.log.add(0, "t", "x")
	w.eventually("matched", func() bool { return len(w.hub.seqs("r", 0)) == 2 })
	if got := w.hub.seqs("r", 0); !slices.Equal(got, []uint64{1, 3}) {
		t.Error(got)
	}
	if err := w.store.Delete(ctx, "r"); err != nil {
		t.Fatal(err)
	}
	w.closed(2)
	if st := w.engine.Status(); len(st) != 1 || !st[0].Deleted || st[0].Closed != 2 {
		t.Errorf("%+v", st)
	}
	w.log.add(0, "t", "x")
	if a := w.engine.Status()[0].Actions[0]; a.Pending != 2 {
		t.Errorf("what was matched before is still to be delivered: %+v", a)
	}
	for _, l := range w.hub.lanes {
		l.settle(10)
	}
	w.eventually("gone", func() bool { return len(w.engine.Status()) == 0 })
	if len(w.hub.seqs("r", 0)) != 2 {
		t.Error("a deleted rule has matched")
	}
	w.eventually("its positions are gone", func() bool {
		rec, _, err := loadRecord(ctx, w.positions, 0)
		return err == nil && len(rec.Versions) == 0 && len(rec.Past) == 0 && len(rec.Done) == 0
	})
	if err := w.store.Delete(ctx, "r"); err == nil {
		t.Error("deleted twice")
	}
	w.apply("r", "t", "s3")
}

// After a kill each lane gets what it had not confirmed and no more, and the
// account counts each match once.
func TestRestart(t *testing.T) {
	for seed := range uint64(8) {
		w := newWorld(t, 2)
		w.hub.auto, w.hub.size = false, 8
		w.start()
		r := rand.New(rand.NewPCG(seed, 3))
		w.apply("a", "t", "s3", "http")
		st := w.apply("b", "t 1", "s3")
		w.running("b", st.Revision)
		n := 0
		for round := range 6 {
			for range 40 {
				w.log.add(r.IntN(2), "t", fmt.Sprint(r.IntN(2)))
			}
			for range 10 {
				w.hub.mu.Lock()
				l := w.hub.lanes[r.IntN(len(w.hub.lanes))]
				w.hub.mu.Unlock()
				l.settle(r.IntN(6))
				time.Sleep(time.Duration(r.IntN(1000)) * time.Microsecond)
			}
			if round == 3 {
				w.apply("b", "t 0", "s3")
			}
			if round == 5 {
				break
			}
			w.hub.mu.Lock()
			n = len(w.hub.got)
			w.hub.mu.Unlock()
			if r.IntN(3) == 0 {
				w.end()
			} else {
				w.kill()
			}
			recs := map[int]record{}
			for p := range 2 {
				recs[p], _, _ = loadRecord(context.Background(), w.positions, p)
			}
			w.hub.mu.Lock()
			w.hub.lanes = nil
			w.hub.mu.Unlock()
			w.start()
			w.eventually("lanes", func() bool { w.hub.mu.Lock(); defer w.hub.mu.Unlock(); return len(w.hub.lanes) >= 6 })
			w.hub.mu.Lock()
			for _, l := range w.hub.lanes {
				sv := recs[l.spec.Partition].Versions[l.spec.Version]
				want := recs[l.spec.Partition].Position
				if x, ok := sv.Lanes[l.spec.Index]; ok {
					want = x.Confirmed
				}
				if l.spec.State.Confirmed != want {
					t.Fatalf("seed %d: a lane begins at %d, saved was %d", seed, l.spec.State.Confirmed, want)
				}
			}
			w.hub.mu.Unlock()
		}
		_ = n
		w.eventually("all delivered", func() bool {
			w.hub.mu.Lock()
			lanes := slices.Clone(w.hub.lanes)
			w.hub.mu.Unlock()
			for _, l := range lanes {
				l.settle(1 << 30)
			}
			for _, rs := range w.engine.Status() {
				for _, a := range rs.Actions {
					if a.Pending > 0 || a.Lag > 0 {
						return false
					}
				}
				if rs.Closed > 0 {
					return false
				}
			}
			return true
		})
		total := w.log.Committed(0) + w.log.Committed(1)
		for _, rs := range w.engine.Status() {
			for _, a := range rs.Actions {
				if a.Matched != a.Delivered || rs.Name == "a" && a.Matched != total {
					t.Errorf("seed %d: %s/%d: %+v of %d", seed, rs.Name, a.Index, a, total)
				}
				if rs.Name != "b" {
					continue
				}
				// Each event that b's version of its time selects is counted once.
				seen := map[string]bool{}
				w.hub.mu.Lock()
				for _, g := range w.hub.got {
					if g.rule == "b" {
						seen[fmt.Sprint(g.version, g.seq)] = true
					}
				}
				w.hub.mu.Unlock()
				if a.Matched > total || a.Matched < total/4 {
					t.Errorf("seed %d: b: %+v", seed, a)
				}
			}
		}
		w.end()
	}
}

// Evaluations that fail or panic reach the error action once for each event,
// and disturb nobody.
func TestPoison(t *testing.T) {
	w := newWorld(t, 1)
	w.start()
	w.apply("poison", "t panic", "s3", "http")
	st := w.apply("good", "t", "s3")
	w.running("good", st.Revision)
	w.log.add(0, "t", "panic")
	w.log.add(0, "t", "fail")
	w.log.append(&event.Event{Topic: "t", Payload: []byte("panic"), Hops: 11})
	w.log.add(0, "t", "x")
	w.idle()
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	var fails, results []got
	for _, g := range w.hub.got {
		if g.rule == "poison" {
			fails = append(fails, g)
		} else {
			results = append(results, g)
		}
	}
	if len(fails) != 3 || slices.ContainsFunc(fails, func(g got) bool { return !g.failed || g.index != 0 }) {
		t.Errorf("%+v", fails)
	}
	if len(results) != 4 || !results[1].failed || !results[2].failed || results[3].failed {
		t.Errorf("%+v", results)
	}
	if p := w.engine.Partitions()[0]; p.Panics != 1 || p.Loops != 2 {
		t.Errorf("%+v", p)
	}
}

func TestARuleOverItsWorkLimitLeavesTheWorker(t *testing.T) {
	w := newWorld(t, 1)
	w.start()
	st := w.apply("r", "t regex", "s3")
	w.running("r", st.Revision)
	for range 150 {
		w.log.add(0, "t", "x")
	}
	w.eventually("delivered", func() bool { return len(w.hub.seqs("r", 0)) == 150 })
	v := w.engine.parts[0].current().versions[st.Revision]
	if !v.hot.Load() || !v.lanes[0].left.Load() {
		t.Error("the rule is still with the worker")
	}
	w.log.add(0, "t", "x")
	w.eventually("goes on by itself", func() bool { return len(w.hub.seqs("r", 0)) == 151 })
	exactly(t, "r", w.hub.seqs("r", 0), 1, 151)
}

// A version that cannot be run keeps its positions and holds the log.
func TestABrokenRuleKeepsItsPosition(t *testing.T) {
	w := newWorld(t, 1)
	w.start()
	st := w.apply("r", "t", "s3")
	w.running("r", st.Revision)
	w.log.add(0, "t", "x")
	w.idle()
	w.end()
	w.hub.fail = errors.New("no such kind")
	w.start()
	w.log.add(0, "t", "x")
	w.eventually("reported", func() bool { st := w.engine.Status(); return len(st) == 1 && st[0].Error == "no such kind" })
	st = w.apply("s", "t", "s3")
	time.Sleep(10 * time.Millisecond)
	w.log.mu.Lock()
	hold := w.log.holds["rules0"]
	w.log.mu.Unlock()
	if hold() > 1 {
		t.Errorf("the log may be trimmed to %d", hold())
	}
	w.end()
	w.hub.fail = nil
	w.start()
	w.idle()
	exactly(t, "r", w.hub.seqs("r", 0), 1, 2)
}

// A second process takes over when the first is gone, and what the first still
// tries to save is refused.
func TestLease(t *testing.T) {
	w := newWorld(t, 1)
	w.start()
	st := w.apply("r", "t", "s3")
	w.running("r", st.Revision)
	first := w.engine
	s := first.parts[0].current()
	other, err := New(Options{Log: w.log, Store: w.store, Positions: w.positions, Language: testLanguage{}, Lanes: w.hub.make,
		Owner: "other", LeaseTTL: 200 * time.Millisecond, SaveEvery: 2 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { other.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	time.Sleep(300 * time.Millisecond)
	if other.Partitions()[0].Owned || !first.Partitions()[0].Owned {
		t.Fatal("a living owner has lost its lease")
	}
	w.end()
	w.eventually("taken over", func() bool { return other.Partitions()[0].Owned })
	if err := s.write(context.Background(), true); !errors.Is(err, errLost) {
		t.Errorf("a former owner's write: %v", err)
	}
	if other.Partitions()[0].Epoch != 2 {
		t.Error("the epoch has not grown")
	}
}

func TestTrimmedEventsAreCounted(t *testing.T) {
	w := newWorld(t, 1)
	w.start()
	st := w.apply("r", "t", "s3")
	w.running("r", st.Revision)
	w.log.add(0, "t", "x")
	w.idle()
	w.end()
	for range 9 {
		w.log.add(0, "t", "x")
	}
	w.log.first[0] = 5
	w.start()
	w.idle()
	if got := w.hub.seqs("r", 0); !slices.Equal(got, []uint64{1, 6, 7, 8, 9, 10}) {
		t.Error(got)
	}
	if p := w.engine.Partitions()[0]; p.Trimmed != 4 {
		t.Errorf("%+v", p)
	}
}

// A rule that waits for a look-up delays no other.
func TestARuleThatCallsOutIsAlone(t *testing.T) {
	w := newWorld(t, 1)
	w.start()
	w.apply("slow", "t call", "s3")
	st := w.apply("quick", "t", "s3")
	w.running("quick", st.Revision)
	for range 100 {
		w.log.add(0, "t", "call")
	}
	w.eventually("the quick rule", func() bool { return len(w.hub.seqs("quick", 0)) == 100 })
	if n := len(w.hub.seqs("slow", 0)); n != 0 {
		t.Errorf("%d results of a rule that waits", n)
	}
	close(blocked)
	w.idle()
	exactly(t, "slow", w.hub.seqs("slow", 0), 1, 100)
}

// Where the log has lost an unsynced tail its sequences are used again: no
// position may lie behind the new end.
func TestALostTailIsClamped(t *testing.T) {
	for _, running := range []bool{false, true} {
		w := newWorld(t, 1)
		w.start()
		st := w.apply("r", "t", "s3")
		w.running("r", st.Revision)
		for range 10 {
			w.log.add(0, "t", "x")
		}
		w.idle()
		w.eventually("saved", func() bool { rec, _, _ := loadRecord(context.Background(), w.positions, 0); return rec.Position == 10 })
		epoch := w.engine.Partitions()[0].Epoch
		if !running {
			w.end()
		}
		w.log.mu.Lock()
		w.log.parts[0] = w.log.parts[0][:6]
		close(w.log.moved)
		w.log.moved = make(chan struct{})
		w.log.mu.Unlock()
		if !running {
			w.start()
		}
		w.eventually("taken up again", func() bool { return w.engine.Partitions()[0].Epoch > epoch })
		w.running("r", st.Revision)
		for range 3 {
			w.log.add(0, "t", "x")
		}
		w.idle()
		got := w.hub.seqs("r", 0)
		if want := []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 7, 8, 9}; !slices.Equal(got, want) {
			t.Errorf("running %v: %v", running, got)
		}
		w.end()
	}
}

// What comes under the lost sequences is not skipped, also where the log has grown
// beyond the old positions by the time the rules are taken up again, and where a
// rule was to begin behind the new end.
func TestWhatComesBehindALostTailIsNotSkipped(t *testing.T) {
	w := newWorld(t, 1)
	w.start()
	st := w.apply("r", "t", "s3")
	w.running("r", st.Revision)
	for range 10 {
		w.log.add(0, "t", "x")
	}
	w.idle()
	late := w.apply("late", "t", "s3")
	w.running("late", late.Revision)
	epoch := w.engine.Partitions()[0].Epoch
	w.log.mu.Lock()
	w.log.parts[0] = w.log.parts[0][:6]
	close(w.log.moved)
	w.log.moved = make(chan struct{})
	w.log.mu.Unlock()
	w.eventually("noticed", func() bool { return !w.engine.Partitions()[0].Owned })
	for range 20 {
		w.log.add(0, "t", "x")
	}
	w.eventually("taken up again", func() bool { return w.engine.Partitions()[0].Epoch > epoch })
	w.idle()
	exactly(t, "r", w.hub.seqs("r", 0)[10:], 7, 26)
	exactly(t, "late", w.hub.seqs("late", 0), 7, 26)
}

// What is committed between the opening of the log and the taking up of the rules
// may already use the lost sequences again.
func TestALostTailIsClampedToTheEndAtOpening(t *testing.T) {
	w := newWorld(t, 1)
	w.start()
	st := w.apply("r", "t", "s3")
	w.running("r", st.Revision)
	for range 10 {
		w.log.add(0, "t", "x")
	}
	w.idle()
	w.end()
	w.log.mu.Lock()
	w.log.parts[0] = w.log.parts[0][:6]
	w.log.mu.Unlock()
	w.start(func(*Engine) {
		for range 6 {
			w.log.add(0, "t", "x")
		}
	})
	w.running("r", st.Revision)
	w.idle()
	got := w.hub.seqs("r", 0)
	if want := []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 7, 8, 9, 10, 11, 12}; !slices.Equal(got, want) {
		t.Error(got)
	}
}

// A lane that leaves the worker at the very end of its version has had all of it:
// told nothing, it would never count as drained, and hold the log for ever.
func TestALaneThatLeavesAtItsEndHasDrained(t *testing.T) {
	w, _ := benchWorker(t, 0)
	v := w.table.match.Match("factory/7/device/412/telemetry", nil)[0]
	l := &endLane{}
	v.lanes[0].lane, v.end, v.ctx = l, 1, t.Context()
	v.hot.Store(true)
	w.event(benchEvent("21.5"))
	w.s.readers.Wait()
	if l.upto != 1 {
		t.Errorf("the lane was told of everything up to %d, not 1", l.upto)
	}
}

type endLane struct {
	testLane
	upto uint64
}

func (l *endLane) Advance(upto uint64) { l.upto = upto }

// While nobody here knows the positions, before a partition is taken up and
// behind the loss of it, nothing of its log may go.
func TestTheLogIsHeldWithoutAnOwner(t *testing.T) {
	w := newWorld(t, 1)
	held := func() uint64 {
		w.log.mu.Lock()
		defer w.log.mu.Unlock()
		if f := w.log.holds["rules0"]; f != nil {
			return f()
		}
		return open
	}
	st := w.apply("r", "t", "s3")
	for range 10 {
		w.log.add(0, "t", "x")
	}
	w.start(func(*Engine) {
		if h := held(); h != 0 {
			t.Errorf("before: held at %d", h)
		}
	})
	w.running("r", st.Revision)
	w.idle()
	w.eventually("saved", func() bool { return held() == 10 })
	w.end()
	if h := held(); h != 0 {
		t.Errorf("behind: held at %d", h)
	}
}

// benchWorker returns a worker with n rules on the same topic of which one
// selects.
func benchWorker(b testing.TB, others int) (*worker, func()) {
	l := newMemLog(1)
	e := &Engine{o: Options{Log: l, Language: SQL{}, Now: time.Now}, entries: map[string]*entry{}, changed: make(chan struct{})}
	s := &session{e: e, p: &partition{engine: e}, versions: map[uint64]*version{}, ended: map[string]uint64{}}
	s.readersCtx = context.Background()
	tb := &table{match: newTrie(), byName: map[string][]*version{}}
	add := func(name, where string) {
		r := &Rule{Name: name, SQL: `SELECT deviceId, temperature, temperature*1.8+32 AS f, topic(2) AS site FROM 'factory/+/device/+/telemetry' WHERE ` + where,
			Actions: []Action{{Kind: "x"}}}
		prog, err := SQL{}.Compile(r)
		if err != nil {
			b.Fatal(err)
		}
		v := &version{stored: Stored{Rule: r}, prog: prog, end: open}
		v.lanes = []*runner{{v: v, lane: &nullLane{}}}
		f, _ := prog.Filter()
		tb.match.Add(f, v)
	}
	add("r", "temperature > 40 AND status = 'ok'")
	for i := range others {
		add(fmt.Sprint("o", i), fmt.Sprintf("temperature > %d AND status = 'ok'", 1000+i))
	}
	return &worker{s: s, table: tb, machine: SQL{}.NewMachine()}, func() {}
}

type nullLane struct{ testLane }

func (*nullLane) Offer(*event.Event, []byte) bool { return true }

func benchEvent(temp string) *event.Event {
	return &event.Event{Seq: 1, Topic: topic.Name("factory/7/device/412/telemetry"), ClientID: "c", Received: time.Now(),
		Payload: []byte(`{"deviceId":"device-412","temperature":` + temp + `,"status":"ok","humidity":55.25,"pressure":1013.25,"site":"north-7","firmware":"1.4.2","battery":87,"rssi":-61,"uptime":123456,"note":"abcdefghijklmnop"}`)}
}

func BenchmarkWorker(b *testing.B) {
	for _, c := range []struct {
		name   string
		others int
		ev     *event.Event
	}{
		{"no-topic", 0, &event.Event{Seq: 1, Topic: "somewhere/else", Payload: []byte("{}")}},
		{"where-false", 0, benchEvent("21.5")},
		{"selects", 0, benchEvent("41.5")},
		{"where-false+100", 100, benchEvent("21.5")},
		{"selects+100", 100, benchEvent("41.5")},
	} {
		b.Run(c.name, func(b *testing.B) {
			w, _ := benchWorker(b, c.others)
			b.ReportAllocs()
			for b.Loop() {
				w.event(c.ev)
			}
		})
	}
}

func TestNothingIsAllocatedWhereNothingMatches(t *testing.T) {
	w, _ := benchWorker(t, 3)
	ev := benchEvent("21.5")
	w.event(ev)
	if n := testing.AllocsPerRun(100, func() { w.event(ev) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
