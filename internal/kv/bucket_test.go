package kv

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/test/fault"
)

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	goleak.VerifyTestMain(m)
}

// open opens a bucket in a running log; stop ends both and may be called twice.
func open(t testing.TB, o eventlog.Options, c Config) (*Bucket, func()) {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	l, err := eventlog.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	b, err := Open(t.Context(), l, c)
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return b, stop
}

func mustUpdate(t testing.TB, b *Bucket, key, value string, expected uint64) uint64 {
	t.Helper()
	rev, err := b.Update(t.Context(), key, []byte(value), expected)
	if err != nil {
		t.Fatalf("update %q: %v", key, err)
	}
	return rev
}

func TestUpdateComparesAndSets(t *testing.T) {
	for _, d := range []eventlog.Durability{eventlog.Disk, eventlog.OS, eventlog.Memory} {
		b, _ := open(t, eventlog.Options{Durability: d}, Config{Name: "x"})
		ctx := t.Context()
		if _, err := b.Get(ctx, "a:b"); !errs.Is(err, errs.NotFound) {
			t.Fatal(err)
		}
		r1 := mustUpdate(t, b, "a:b", "1", 0)
		for _, wrong := range []uint64{0, r1 + 1} {
			if _, err := b.Update(ctx, "a:b", []byte("x"), wrong); !errs.Is(err, errs.Conflict) {
				t.Fatalf("expected %d: %v", wrong, err)
			}
		}
		r2 := mustUpdate(t, b, "a:b", "", r1) // cleared
		if _, err := b.Get(ctx, "a:b"); !errs.Is(err, errs.NotFound) {
			t.Fatal(err)
		}
		r3 := mustUpdate(t, b, "a:b", "3", 0)
		if r3 <= r2 || r2 <= r1 {
			t.Fatal(r1, r2, r3)
		}
		e, err := b.Get(ctx, "a:b")
		if err != nil || string(e.Value) != "3" || e.Revision != r3 || e.Key != "a:b" || time.Since(e.Time).Abs() > time.Minute {
			t.Fatalf("%+v %v", e, err)
		}
	}
}

func TestCommitIsAllOrNothing(t *testing.T) {
	b, stop := open(t, eventlog.Options{}, Config{Name: "x"})
	ctx := t.Context()
	r := mustUpdate(t, b, "guard", "1", 0)
	var changes []Change
	for i := range 40 {
		changes = append(changes, Change{Key: fmt.Sprintf("k.%02d", i), Value: []byte("v")})
	}
	bad := append(slices.Clone(changes), Change{Key: "guard", Value: []byte("2"), Expected: r + 7})
	if _, err := b.Commit(ctx, bad); !errs.Is(err, errs.Conflict) {
		t.Fatal(err)
	}
	count := func() (n int) {
		if err := b.Scan(ctx, "k.", func(Entry) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(); n != 0 {
		t.Fatalf("%d changes of a refused commit", n)
	}
	bad[40].Expected = r
	rev, err := b.Commit(ctx, bad)
	if err != nil || count() != 40 {
		t.Fatal(err, count())
	}
	if e, err := b.Get(ctx, "k.00"); err != nil || e.Revision != rev-40 {
		t.Fatal(e, err)
	}
	// Cleared keys count as absent in a commit, too; Any does not care.
	mustUpdate(t, b, "k.00", "", rev-40)
	if _, err := b.Commit(ctx, []Change{{Key: "k.00", Value: []byte("again")}, {Key: "k.01", Value: []byte("any"), Any: true}}); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string][]Change{
		"nothing":       nil,
		"a key twice":   {{Key: "a"}, {Key: "a"}},
		"no key":        {{}},
		"a long key":    {{Key: strings.Repeat("k", MaxKey+1)}},
		"a large value": {{Key: "a", Value: make([]byte, MaxValue+1)}},
		"too many":      make([]Change, 1001),
	} {
		if _, err := b.Commit(ctx, c); !errs.Is(err, errs.Invalid) && !errs.Is(err, errs.TooLarge) {
			t.Errorf("%s: %v", what, err)
		}
	}
	stop()
	if _, err := b.Update(ctx, "a", nil, 0); !errs.Is(err, errs.Unavailable) {
		t.Errorf("after the end: %v", err)
	}
}

func TestConcurrentUpdatesLoseNothing(t *testing.T) {
	b, _ := open(t, eventlog.Options{}, Config{Name: "x"})
	const keys, writers, each = 20, 40, 10
	var wg sync.WaitGroup
	var conflicts atomic.Int64
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				key := fmt.Sprint("counter.", (w+i)%keys)
				for {
					e, err := b.Get(t.Context(), key)
					if err != nil && !errs.Is(err, errs.NotFound) {
						t.Error(err)
						return
					}
					n, _ := strconv.Atoi(string(e.Value))
					_, err = b.Update(t.Context(), key, []byte(strconv.Itoa(n+1)), e.Revision)
					if err == nil {
						break
					}
					if !errs.Is(err, errs.Conflict) {
						t.Error(err)
						return
					}
					conflicts.Add(1)
				}
			}
		})
	}
	wg.Wait()
	total, before := 0, ""
	if err := b.Scan(t.Context(), "counter.", func(e Entry) error {
		if e.Key <= before {
			t.Errorf("%q after %q", e.Key, before)
		}
		before = e.Key
		n, err := strconv.Atoi(string(e.Value))
		total += n
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if total != writers*each {
		t.Fatalf("counted %d, want %d", total, writers*each)
	}
	if conflicts.Load() == 0 {
		t.Error("no conflicts: the test shows nothing")
	}
}

func TestUpdateOfACancelledCallerDoesNotBlockTheKey(t *testing.T) {
	b, _ := open(t, eventlog.Options{}, Config{Name: "x"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _ = b.Update(ctx, "a", []byte("1"), 0)
	if _, err := b.Commit(t.Context(), []Change{{Key: "a", Value: []byte("2"), Any: true}}); err != nil {
		t.Fatal(err)
	}
}

func TestHistory(t *testing.T) {
	dir := t.TempDir()
	b, stop := open(t, eventlog.Options{Dir: dir}, Config{Name: "x", History: 3})
	rev := uint64(0)
	for i := range 5 {
		rev = mustUpdate(t, b, "a", fmt.Sprint(i), rev)
		mustUpdate(t, b, fmt.Sprint("other", i), "x", 0)
	}
	mustUpdate(t, b, "a", "", rev)
	stop()
	b, _ = open(t, eventlog.Options{Dir: dir}, Config{Name: "x", History: 3})
	h, err := b.History(t.Context(), "a")
	if err != nil || len(h) != 3 || string(h[0].Value) != "3" || string(h[1].Value) != "4" || len(h[2].Value) != 0 {
		t.Fatalf("%+v %v", h, err)
	}
	if h, err := b.History(t.Context(), "never"); err != nil || len(h) != 0 {
		t.Fatal(h, err)
	}
}

func TestScanAndWatchSeePrefixes(t *testing.T) {
	b, _ := open(t, eventlog.Options{}, Config{Name: "x"})
	keys := []string{"thing.a", "thing.a.b", "thing.a:b", "thing.", "thingy", "type.a", "thing", "=", "..", "a b*>"}
	for _, k := range keys {
		mustUpdate(t, b, k, "v "+k, 0)
	}
	for prefix, want := range map[string]int{"": len(keys), "thing.": 4, "thing.a": 3, "thing": 6, "thing.a.": 1, "x": 0, ".": 1, "type.a": 1} {
		n := 0
		if err := b.Scan(t.Context(), prefix, func(e Entry) error {
			if !strings.HasPrefix(e.Key, prefix) || string(e.Value) != "v "+e.Key {
				t.Errorf("prefix %q: %+v", prefix, e)
			}
			n++
			return nil
		}); err != nil || n != want {
			t.Errorf("prefix %q: %d keys, want %d, %v", prefix, n, want, err)
		}
	}
	stop := errors.New("stop")
	if err := b.Scan(t.Context(), "", func(Entry) error { return stop }); err != stop {
		t.Error(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan Entry, 100)
	done := make(chan error, 1)
	go func() { done <- b.Watch(ctx, "thing.", func(e Entry) { got <- e }) }()
	for _, want := range []string{"thing.", "thing.a", "thing.a.b", "thing.a:b", ""} {
		if e := <-got; e.Key != want {
			t.Fatalf("%q comes where %q should", e.Key, want)
		}
	}
	mustUpdate(t, b, "type.b", "x", 0)
	r := mustUpdate(t, b, "thing.new", "1", 0)
	if e := <-got; e.Key != "thing.new" || string(e.Value) != "1" || e.Revision != r {
		t.Fatalf("%+v", e)
	}
	mustUpdate(t, b, "thing.new", "", r)
	if e := <-got; e.Key != "thing.new" || len(e.Value) != 0 || e.Revision != r+1 {
		t.Fatalf("%+v", e)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestWatchUnderLoadEndsWithTheLastValues(t *testing.T) {
	b, _ := open(t, eventlog.Options{Durability: eventlog.OS}, Config{Name: "x"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	seen := map[string]Entry{}
	done := make(chan error, 1)
	go func() {
		done <- b.Watch(ctx, "", func(e Entry) {
			mu.Lock()
			defer mu.Unlock()
			if e.Key != "" && e.Revision <= seen[e.Key].Revision {
				t.Errorf("%q goes back from %d to %d", e.Key, seen[e.Key].Revision, e.Revision)
			}
			seen[e.Key] = e
		})
	}()
	var wg sync.WaitGroup
	for w := range 10 {
		wg.Go(func() {
			rev := uint64(0)
			for i := range 200 {
				rev = mustUpdate(t, b, fmt.Sprint("k", w), fmt.Sprint(i+1), rev)
			}
		})
	}
	wg.Wait()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		mu.Lock()
		ok := true
		for w := range 10 {
			ok = ok && string(seen[fmt.Sprint("k", w)].Value) == "200"
		}
		mu.Unlock()
		if ok {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the last values do not come")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Near its end a bucket is read by numbers, from afar through a consumer: from
// wherever it is followed, nothing is missed, also behind changes of a key that
// a later one has replaced.
func TestFollowFromAnywhere(t *testing.T) {
	b, _ := open(t, eventlog.Options{Durability: eventlog.OS}, Config{Name: "x"})
	const keys, rounds = 700, 4 // more than nearEntries revisions, most of them replaced
	want := map[string]Entry{}
	for i := range rounds {
		var changes []Change
		for k := range keys - 100*i {
			changes = append(changes, Change{Key: fmt.Sprint("k.", k), Value: fmt.Append(nil, i), Any: true})
		}
		rev, err := b.Commit(t.Context(), changes)
		if err != nil {
			t.Fatal(err)
		}
		for k, c := range changes {
			want[c.Key] = Entry{Key: c.Key, Value: c.Value, Revision: rev - uint64(len(changes)-1-k)}
		}
	}
	end := b.committedEnd()
	for _, from := range []uint64{0, 1, end - nearEntries - 1, end - nearEntries, end - readEntries - 1, end - readEntries, end - 1} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		last := uint64(0)
		seen := map[string]Entry{}
		if err := b.Follow(ctx, "", Mark{Revision: from}, func(e Entry) {
			if e.Revision <= last || e.Revision <= from {
				t.Errorf("from %d: %d after %d", from, e.Revision, last)
			}
			last = e.Revision
			seen[e.Key] = e
			if last == end {
				cancel()
			}
		}); err != nil {
			t.Fatal(err)
		}
		cancel()
		for key, w := range want {
			if got := seen[key]; w.Revision > from && (got.Revision != w.Revision || string(got.Value) != string(w.Value)) {
				t.Fatalf("from %d: %s is %d %q, want %d %q", from, key, got.Revision, got.Value, w.Revision, w.Value)
			}
		}
	}
	n := 0
	if err := b.Scan(t.Context(), "", func(e Entry) error {
		if w := want[e.Key]; e.Revision != w.Revision {
			t.Errorf("%s has revision %d, want %d", e.Key, e.Revision, w.Revision)
		}
		n++
		return nil
	}); err != nil || n != keys {
		t.Errorf("%d keys, %v", n, err)
	}
}

func TestBucketNames(t *testing.T) {
	l, err := eventlog.Open(t.Context(), eventlog.Options{Durability: eventlog.Memory})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, name := range []string{"", "a.b", "a b", "ä", "*", "a>"} {
		if _, err := Open(t.Context(), l, Config{Name: name}); !errs.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzKey(f *testing.F) {
	for _, s := range []string{"a", "thing.a:b", "..", "=", "=.", "a=3Ab", " *>\x00\xff", "ü.€"} {
		f.Add(s, s+".")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if a == "" || b == "" {
			return
		}
		x, y := string(appendKey(nil, a)), string(appendKey(nil, b))
		if (a == b) != (x == y) {
			t.Fatalf("%q and %q become %q and %q", a, b, x, y)
		}
		for _, token := range strings.Split(x, ".") {
			if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r > 0x7f || !plain(byte(r)) && r != '=' }) {
				t.Fatalf("%q becomes %q", a, x)
			}
		}
		if back, err := parseKey(x); err != nil || back != a {
			t.Fatalf("%q becomes %q, read as %q, %v", a, x, back, err)
		}
		if key, err := parseKey(a); err == nil && string(appendKey(nil, key)) != a {
			t.Fatalf("%q is read as %q", a, key)
		}
		if strings.HasPrefix(a, b) {
			filter := strings.TrimSuffix(prefixFilter("", b), ">")
			if !strings.HasPrefix(x, filter) {
				t.Fatalf("a scan of %q by %q misses %q (%q)", b, filter, a, x)
			}
		}
	})
}

// A commit of the child's sets all of togetherKeys to one number, at a length that
// takes the store a while to write.
const (
	togetherKeys  = 600
	togetherBytes = 6000
)

const childTogether = "WEIR_TEST_TOGETHER"

func togetherKey(k int) string { return fmt.Sprint("together.", k) }

// The child updates keys until it is killed and says what was confirmed.
func childMain() bool {
	dir := os.Getenv("WEIR_TEST_CHILD_DIR")
	if dir == "" {
		return false
	}
	ctx := context.Background()
	l, err := eventlog.Open(ctx, eventlog.Options{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go l.Run(ctx)
	b, err := Open(ctx, l, Config{Name: "x"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("open")
	var out sync.Mutex
	if os.Getenv(childTogether) != "" {
		e, _ := b.Get(ctx, togetherKey(0))
		n, _ := strconv.Atoi(strings.TrimSpace(string(e.Value)))
		for {
			n++
			var all []Change
			for k := range togetherKeys {
				all = append(all, Change{Key: togetherKey(k), Value: fmt.Appendf(nil, "%*d", togetherBytes, n), Any: true})
			}
			r, err := b.Commit(ctx, all)
			if err != nil {
				return true
			}
			fmt.Println(togetherKey(0), n, r-togetherKeys+1)
		}
	}
	for k := range 30 {
		go func() {
			key := fmt.Sprint("k.", k)
			e, _ := b.Get(ctx, key)
			n, _ := strconv.Atoi(string(e.Value))
			for rev := e.Revision; ; {
				n++
				r, err := b.Update(ctx, key, []byte(strconv.Itoa(n)), rev)
				if err != nil {
					return
				}
				rev = r
				out.Lock()
				fmt.Println(key, n, rev)
				out.Unlock()
			}
		}()
	}
	select {}
}

// child starts one, and returns what it says.
func child(t *testing.T, dir string, env ...string) (*exec.Cmd, io.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(append(os.Environ(), "WEIR_TEST_CHILD_DIR="+dir), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

func TestPowerCutLosesNoConfirmedValue(t *testing.T) {
	disk := fault.NewLoopFS(t, 256<<20)
	dir := disk.Dir + "/log"
	value, rev := map[string]int{}, map[string]uint64{}
	for run := range 3 {
		cmd, out := child(t, dir)
		opened, confirmed, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			first := true
			for s := bufio.NewScanner(out); s.Scan(); {
				f := strings.Fields(s.Text())
				if len(f) == 1 {
					close(opened)
				} else if len(f) == 3 {
					if first {
						first = false
						close(confirmed)
					}
					value[f[0]], _ = strconv.Atoi(f[1])
					rev[f[0]], _ = strconv.ParseUint(f[2], 10, 64)
				}
			}
		}()
		select {
		case <-opened:
		case <-done:
			t.Fatal("the child has ended")
		}
		if run > 0 { // the first cut comes before anything is confirmed, most likely
			select {
			case <-confirmed:
			case <-done:
				t.Fatal("the child has ended")
			}
			time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		}
		disk.PowerCut()
		time.Sleep(20 * time.Millisecond)
		cmd.Process.Kill()
		<-done
		cmd.Wait()
		disk.Remount()

		b, stop := open(t, eventlog.Options{Dir: dir}, Config{Name: "x"})
		for key, n := range value {
			e, err := b.Get(t.Context(), key)
			have, _ := strconv.Atoi(strings.TrimSpace(string(e.Value)))
			if err != nil || have < n || e.Revision < rev[key] || have > n+1 {
				t.Errorf("run %d: %s was %d at %d, is %d at %d, %v", run, key, n, rev[key], have, e.Revision, err)
			}
			value[key], rev[key] = have, e.Revision
		}
		stop()
	}
	if len(value) == 0 {
		t.Error("nothing was confirmed")
	}
}

// A process that is killed, and a machine that loses its power, while a commit of
// many keys is written leave all of it or nothing.
func TestCommitCutOffIsWhole(t *testing.T) {
	t.Run("kill", func(t *testing.T) { cutOff(t, t.TempDir(), func() {}, func() {}) })
	t.Run("power", func(t *testing.T) {
		disk := fault.NewLoopFS(t, 512<<20)
		dir := disk.Dir + "/log"
		var memory []string // what the store had there goes with the power
		cutOff(t, dir, func() {
			links, _ := filepath.Glob(dir + "/jetstream/*/streams/*/batches")
			for _, link := range links {
				if target, err := os.Readlink(link); err == nil {
					memory = append(memory, filepath.Dir(target))
				}
			}
			disk.PowerCut()
		}, func() {
			for _, m := range memory {
				os.RemoveAll(m)
			}
			disk.Remount()
		})
	})
}

func cutOff(t *testing.T, dir string, cut, after func()) {
	for run := range 8 {
		cmd, out := child(t, dir, childTogether+"=1")
		confirmed, lines := 0, bufio.NewScanner(out)
		for lines.Scan() {
			var key string
			var rev int
			if n, _ := fmt.Sscan(lines.Text(), &key, &confirmed, &rev); n == 3 {
				break
			}
		}
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		cut()
		cmd.Process.Kill()
		for lines.Scan() {
		}
		cmd.Wait()
		after()
		if confirmed == 0 {
			t.Fatal("nothing was confirmed")
		}
		b, stop := open(t, eventlog.Options{Dir: dir}, Config{Name: "x"})
		values := map[int]int{}
		for k := range togetherKeys {
			e, err := b.Get(t.Context(), togetherKey(k))
			n, _ := strconv.Atoi(strings.TrimSpace(string(e.Value)))
			if err != nil || n < confirmed {
				t.Errorf("run %d: %s was %d, is %d, %v", run, togetherKey(k), confirmed, n, err)
			}
			values[n]++
		}
		if len(values) > 1 {
			t.Errorf("run %d: of the keys of one commit so many have each value: %v", run, values)
		}
		stop()
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, d := range []eventlog.Durability{eventlog.Disk, eventlog.OS} {
		for _, n := range []int{1, 64, 512} {
			b.Run(fmt.Sprintf("%s/keys=%d", []string{"disk", "os"}[d], n), func(b *testing.B) {
				k, _ := open(b, eventlog.Options{Durability: d}, Config{Name: "x"})
				value := make([]byte, 200)
				var left atomic.Int64
				left.Store(int64(b.N))
				var wg sync.WaitGroup
				b.ResetTimer()
				for w := range n {
					wg.Go(func() {
						key := fmt.Sprint("session.", w)
						for rev := uint64(0); left.Add(-1) >= 0; {
							r, err := k.Update(context.Background(), key, value, rev)
							if err != nil {
								b.Error(err)
								return
							}
							rev = r
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
			})
		}
	}
}

// UpdateEach's changes stand or fail each by itself.
func TestUpdateEach(t *testing.T) {
	b, _ := open(t, eventlog.Options{Durability: eventlog.OS}, Config{Name: "each"})
	first, err := b.Update(t.Context(), "a", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	cleared, err := b.Update(t.Context(), "c", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Update(t.Context(), "c", nil, cleared); err != nil {
		t.Fatal(err)
	}
	out, err := b.UpdateEach(t.Context(), []Change{
		{Key: "a", Value: []byte("2"), Expected: first}, {Key: "b", Value: []byte("1"), Expected: 99}, {Key: "c", Value: []byte("2")}, {Key: "d", Value: []byte("1"), Any: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	if out[0].Err != nil || !errs.Is(out[1].Err, errs.Conflict) || out[2].Err != nil || out[3].Err != nil {
		t.Fatalf("%+v", out)
	}
	for i, key := range []string{"a", "", "c", "d"} {
		if key == "" {
			continue
		}
		if e, err := b.Get(t.Context(), key); err != nil || e.Revision != out[i].Revision {
			t.Errorf("%s: %+v %v, want revision %d", key, e, err, out[i].Revision)
		}
	}
	if _, err := b.Get(t.Context(), "b"); !errs.Is(err, errs.NotFound) {
		t.Errorf("b: %v", err)
	}
	if _, err := b.UpdateEach(t.Context(), []Change{{Key: "a"}, {Key: "a"}}); !errs.Is(err, errs.Invalid) {
		t.Errorf("a key twice: %v", err)
	}
}

// Who opens a bucket that is open already shares it: what one changes the other
// sees, and waits for no end that only the first knows.
func TestOpenedTwice(t *testing.T) {
	one, _ := open(t, eventlog.Options{Durability: eventlog.Memory}, Config{Name: "x"})
	two, err := Open(t.Context(), one.log, Config{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	mustUpdate(t, one, "a", "1", 0)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	seen := 0
	if err := two.Scan(ctx, "", func(e Entry) error { seen++; return nil }); err != nil || seen != 1 {
		t.Errorf("%d values, %v", seen, err)
	}
	if _, err := Open(t.Context(), one.log, Config{Name: "x", History: 5}); !errs.Is(err, errs.Invalid) {
		t.Error("another history:", err)
	}
}
