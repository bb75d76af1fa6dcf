package rules

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/internal/errs"
)

func TestStore(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, 2)
	w.log.add(1, "t", "x")
	r := &Rule{Name: "r", SQL: "t", Actions: []Action{{Kind: "s3", Params: []byte(`{"a":1,"b":2}`)}}}
	st, changed, err := w.store.Apply(ctx, r, 0)
	if err != nil || !changed || st.Version != 1 || st.Start[0] != 0 || st.Start[1] != 1 {
		t.Fatal(st, changed, err)
	}
	same := *r
	same.Actions = []Action{{Kind: "s3", Params: []byte(`{ "b": 2, "a": 1 }`)}}
	if again, changed, err := w.store.Apply(ctx, &same, 0); err != nil || changed || again.Revision != st.Revision {
		t.Error("the same document makes a new version:", again, changed, err)
	}
	other := same
	other.SQL = "u"
	if _, _, err := w.store.Apply(ctx, &other, st.Revision+100); !errs.Is(err, errs.Conflict) {
		t.Error("a stale revision:", err)
	}
	st2, changed, err := w.store.Apply(ctx, &other, st.Revision)
	if err != nil || !changed || st2.Version != 2 || !st2.CreatedAt.Equal(st.CreatedAt) {
		t.Error(st2, changed, err)
	}
	if got, err := w.store.Get(ctx, "r"); err != nil || got.Revision != st2.Revision || got.Rule.SQL != "u" {
		t.Error(got, err)
	}
	if got, err := w.store.SetEnabled(ctx, "r", true); err != nil || got.Version != 2 {
		t.Error("enabling an enabled rule:", got, err)
	}
	if got, err := w.store.SetEnabled(ctx, "r", false); err != nil || got.Version != 3 || !got.Rule.Disabled {
		t.Error(got, err)
	}
	w.apply("a", "t")
	if list, err := w.store.List(ctx); err != nil || len(list) != 2 || list[0].Rule.Name != "a" || list[1].Rule.Name != "r" {
		t.Error(list, err)
	}
	for _, name := range []string{"none", "a.b", ""} {
		if _, err := w.store.Get(ctx, name); !errs.Is(err, errs.NotFound) {
			t.Error(name, err)
		}
	}
	bad := NewStore(w.bucket, func(context.Context, *Rule) error { return errors.New("wrong") }, Ends(w.log), nil)
	if _, _, err := bad.Apply(ctx, r, 0); !errs.Is(err, errs.Invalid) {
		t.Error(err)
	}
}

// Of writers side by side each succeeds or learns that it did not.
func TestStoreWritersSideBySide(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, 1)
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for i := range 8 {
		wg.Go(func() {
			for k := range 5 {
				_, _, err := w.store.Apply(ctx, &Rule{Name: "r", SQL: fmt.Sprint("t", i, k), Actions: []Action{}}, 0)
				mu.Lock()
				switch {
				case err == nil:
					won++
				case !errs.Is(err, errs.Conflict):
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if st, err := w.store.Get(ctx, "r"); err != nil || st.Version != won {
		t.Errorf("version %d after %d changes, %v", st.Version, won, err)
	}
}

func TestClosedVersionsAreBounded(t *testing.T) {
	w := newWorld(t, 1)
	for i := range maxClosed + 1 {
		w.apply("r", fmt.Sprint("t", i))
	}
	_, _, err := w.store.Apply(context.Background(), &Rule{Name: "r", SQL: "x", Actions: []Action{}}, 0)
	if !errs.Is(err, errs.Quota) {
		t.Error(err)
	}
}

func TestCheckerNamesTheRule(t *testing.T) {
	err := testChecker.Check(context.Background(), &Rule{Name: "r", SQL: "SELECT * FROM 'a'", Actions: []Action{{Kind: "s4", Params: []byte(`{}`)}}})
	if err == nil || !strings.Contains(err.Error(), `rule "r": s4: unknown action (did you mean "s3"?)`) {
		t.Error(err)
	}
	if err := testChecker.Check(context.Background(), &Rule{Name: "r", SQL: "SELECT * FROM 'a'", Actions: []Action{}}); err != nil {
		t.Error(err)
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t, 1)
	w.start()
	var st Stored
	for i := range 3 {
		st = w.apply(fmt.Sprint("r", i), "t", "s3", "http")
	}
	w.running("r2", st.Revision)
	w.log.add(0, "t", "x")
	w.idle()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(w.engine); err != nil {
		t.Fatal(err)
	}
	fams, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range fams {
		if f.GetName() == "weir_rule_results_total" {
			found = len(f.GetMetric()) == 3*2*3
		}
	}
	if !found {
		t.Error(fams)
	}
}
