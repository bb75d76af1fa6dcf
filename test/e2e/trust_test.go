package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/rules/replay"
	"github.com/weir-iot/weir/test/weirtest"
)

// sink is a webhook that does with each result what the result says, and keeps
// an account: the trace ids it took, and those it refused for good.
type sink struct {
	*httptest.Server
	mu    sync.Mutex // guards what follows
	taken map[string]int
	tries map[string]int
}

func newSink(t *testing.T) *sink {
	s := &sink{taken: map[string]int{}, tries: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		var m struct {
			Rule, ID, Do string
		}
		if err := json.Unmarshal(b, &m); err != nil {
			t.Error(err, string(b))
		}
		k := m.Rule + " " + m.ID
		s.mu.Lock()
		defer s.mu.Unlock()
		s.tries[k]++
		switch {
		case m.Do == "never", m.Do == "later" && s.tries[k] == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			s.taken[k]++
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// Whatever rules and messages come: what explain says of each message and rule
// is what the destinations have seen.
func TestExplainAgreesWithWhatHappened(t *testing.T) {
	w, s := weirtest.Start(t), newSink(t)
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	t.Log("seed", seed)
	filters := []string{"p/+/t", "p/a/t", "p/#", "+/a/+", "p/b/t"}
	conds := []string{"", " WHERE v > 50", " WHERE v > 20 AND kind = 'x'", " WHERE NOT v < 90 OR kind = 'y'", " WHERE isUndefined(kind)"}
	const rules, messages = 8, 60
	names := map[string]bool{} // with an error action
	for i := range rules {
		name := fmt.Sprint("r", i)
		names[name] = r.IntN(2) == 0
		doc := fmt.Sprintf("ruleName: %s\nsql: SELECT '%s' AS rule, traceid() AS id, do FROM '%s'%s\nawsIotSqlVersion: '2016-03-23'\nactions:\n  - http: {url: '%s'}\n",
			name, name, filters[r.IntN(len(filters))], conds[r.IntN(len(conds))], s.URL)
		if names[name] {
			doc += "errorAction:\n  republish: {topic: errors/" + name + ", qos: 1}\n"
		}
		w.Apply(doc)
	}
	for range messages {
		m := map[string]any{"v": r.IntN(100), "do": []string{"at once", "at once", "later", "never"}[r.IntN(4)]}
		if k := r.IntN(3); k > 0 {
			m["kind"] = string("xy"[k-1])
		}
		b, _ := json.Marshal(m)
		w.MustPublish("p/"+string("abc"[r.IntN(3)])+"/t", string(b))
	}
	for name := range names {
		w.Account(name) // waits until nothing is pending
	}
	list, err := w.API().Explain(t.Context(), control.ExplainQuery{Topic: "p/+/t", Last: messages})
	if err != nil || len(list) != messages {
		t.Fatalf("%d events, %v", len(list), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	told := map[string]bool{}
	for _, x := range list {
		for _, rule := range x.Rules {
			k := rule.Name + " " + x.Event.ID
			told[k] = true
			if !rule.Acts {
				if s.tries[k] > 0 || len(rule.Deliveries) > 0 {
					t.Errorf("%s: explained as no action; %d tries were seen\n%s", k, s.tries[k], rule.Text)
				}
				continue
			}
			if len(rule.Deliveries) != 1 {
				t.Errorf("%s: %+v", k, rule.Deliveries)
				continue
			}
			d := rule.Deliveries[0]
			want := "delivered"
			switch {
			case s.taken[k] == 0 && names[rule.Name]:
				want = "delivered by the error action"
			case s.taken[k] == 0:
				want = "dead"
			}
			if failed := s.tries[k] - s.taken[k]; d.State != want || len(d.Attempts) != failed {
				t.Errorf("%s: explained as %q with %d failed tries; it was %q with %d", k, d.State, len(d.Attempts), want, failed)
			}
			if rule.Note != "" {
				t.Errorf("%s: %s", k, rule.Note)
			}
		}
	}
	for k := range s.tries {
		if !told[k] {
			t.Errorf("%s was tried, and explain says nothing of it", k)
		}
	}
}

func TestExplainPlaces(t *testing.T) {
	w := weirtest.Start(t)
	w.Apply("ruleName: near\nsql: SELECT * FROM 'plant/+/temp'\nactions:\n  - republish: {topic: out}\n")
	w.Apply("ruleName: far\nsql: SELECT * FROM 'office/door'\nactions:\n  - republish: {topic: out}\n")
	w.MustPublish("Plant/1/temp", "x")
	list, err := w.API().Explain(t.Context(), control.ExplainQuery{Topic: "Plant/#", Last: 1})
	if err != nil || len(list) != 1 || len(list[0].Rules) != 0 || len(list[0].Near) != 1 || !strings.Contains(list[0].Near[0].Why, "upper and lower case") {
		t.Fatalf("%+v, %v", list, err)
	}
	e := list[0].Event
	for _, id := range []string{e.ID, fmt.Sprintf("%d:%d", e.Partition, e.Seq)} {
		if again, err := w.API().Explain(t.Context(), control.ExplainQuery{ID: id}); err != nil || len(again) != 1 || again[0].Event.ID != e.ID {
			t.Errorf("%s: %+v, %v", id, again, err)
		}
	}
	for id, want := range map[string]string{
		"0:99999999": "ends before", "9:1": "no partition", "x": "UUID", "0:0": "expected partition:sequence",
		"019c9a3e-5c40-8000-8000-000000000001": "", "550e8400-e29b-41d4-a716-446655440000": "UUID",
	} {
		if _, err := w.API().Explain(t.Context(), control.ExplainQuery{ID: id}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

const all = "ruleName: %s\nsql: SELECT v FROM 'in/+' WHERE v >= %d\nactions:\n  - republish: {topic: 'out/%s', qos: 1}\n"

func publishAll(w *weirtest.Weir, n int) {
	for i := range n {
		w.MustPublish(fmt.Sprint("in/", i%3), fmt.Sprintf(`{"v":%d}`, i))
	}
}

func TestBacktestThroughTheAPI(t *testing.T) {
	w := weirtest.Start(t)
	w.Apply(fmt.Sprintf(all, "r", 50, "x"))
	publishAll(w, 100)
	var report *control.BacktestReport
	seen := map[string]int{}
	q := control.BacktestRequest{RuleText: control.RuleText{File: "r.yaml", Content: fmt.Sprintf(all, "r", 40, "x")}, Against: true, Samples: -1}
	if err := w.API().Backtest(t.Context(), q, func(l *control.BacktestLine, _ []byte) error {
		if l.Outcome != nil {
			seen[l.Outcome.Verdict]++
		}
		report = l.Report
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if report.Same != 50 || report.Appear != 10 || report.Vanish+report.Change != 0 || seen["appears"] != 10 || len(seen) != 1 {
		t.Errorf("%+v, %v", report, seen)
	}
	bad := q
	bad.Content = "ruleName: r\nsql: SELECT FROM\nactions: []\n"
	if err := w.API().Backtest(t.Context(), bad, nil); err == nil || !strings.Contains(err.Error(), "r.yaml:") {
		t.Error(err)
	}
}

// A canary counts across a kill, and promoting it changes the rule.
func TestCanary(t *testing.T) {
	w := weirtest.Process(t)
	w.Apply(fmt.Sprintf(all, "r", 50, "x"))
	text := control.RuleText{File: "r.yaml", Content: fmt.Sprintf(all, "r", 40, "x")}
	if _, err := w.API().StartCanary(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	if _, err := w.API().StartCanary(t.Context(), text); err == nil {
		t.Error("a second canary of one rule")
	}
	publishAll(w, 100)
	w.Kill()
	w.BeginProcess()
	publishAll(w, 100)
	var j *replay.Job
	weirtest.Eventually(t, func() bool {
		var err error
		if j, err = w.API().Canary(t.Context(), "r"); err != nil {
			t.Fatal(err)
		}
		return j.Tally.Events >= 200
	}, func() string { return fmt.Sprintf("the canary has not seen all: %+v", j.Tally) })
	if c := j.Tally; c.Events != 200 || c.Same != 100 || c.Appear != 20 || c.Vanish+c.Change+c.Errors != 0 || len(j.Samples) == 0 {
		t.Errorf("%+v", j)
	}
	if a, err := w.API().Promote(t.Context(), "r"); err != nil || a.Result != "updated" {
		t.Error(a, err)
	}
	if r, err := w.API().Rule(t.Context(), "r"); err != nil || !strings.Contains(r.SQL, ">= 40") {
		t.Error(r, err)
	}
	if _, err := w.API().Canary(t.Context(), "r"); err == nil {
		t.Error("the canary is still there")
	}
}

// A backfill that is killed goes on where it stood: every result is delivered,
// and nothing the rule has handled itself.
func TestBackfillSurvivesAKill(t *testing.T) {
	w, s := weirtest.Process(t), newSink(t)
	for i := range 300 {
		w.MustPublish("in/x", fmt.Sprintf(`{"v":%d,"do":"at once"}`, i))
	}
	rule := "ruleName: late\nsql: SELECT 'late' AS rule, traceid() AS id, do FROM 'in/+' WHERE v >= 100\nawsIotSqlVersion: '2016-03-23'\nactions:\n  - http: {url: '" + s.URL + "'}\n"
	w.Apply(rule)
	w.MustPublish("in/x", `{"v":1000,"do":"at once"}`) // the rule's own
	j, err := w.API().StartBackfill(t.Context(), control.BackfillRequest{RuleText: control.RuleText{Name: "late"}, Rate: 100})
	if err != nil {
		t.Fatal(err)
	}
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.taken)
	}
	weirtest.Eventually(t, func() bool { return count() > 30 }, func() string { return "nothing is delivered" })
	w.Kill()
	if n := count(); n >= 201 {
		t.Fatal("the backfill did not keep its rate:", n)
	}
	w.BeginProcess()
	weirtest.Eventually(t, func() bool {
		if j, err = w.API().Backfill(t.Context(), j.ID); err != nil {
			t.Fatal(err)
		}
		return j.State == replay.Done
	}, func() string { return "the backfill does not end" })
	w.Account("late")
	if n := count(); n != 201 {
		t.Errorf("%d results, want 200 of the backfill and the rule's own", n)
	}
	if a := j.Account()[0]; a.Delivered != 200 {
		t.Errorf("%+v", a)
	}
}

func TestLoopsAreRefused(t *testing.T) {
	w := weirtest.Start(t)
	w.Apply("ruleName: a\nsql: SELECT * FROM 'x'\nactions:\n  - republish: {topic: 'y'}\n")
	closing := "ruleName: b\nsql: SELECT * FROM 'y'%s\nactions:\n  - republish: {topic: 'x'}\n"
	if _, err := w.API().Apply(t.Context(), "b.yaml", fmt.Appendf(nil, closing, ""), false); err == nil || !strings.Contains(err.Error(), "b → a → b") {
		t.Error(err)
	}
	applied, err := w.API().Apply(t.Context(), "b.yaml", fmt.Appendf(nil, closing, " WHERE n < 3"), false)
	if err != nil || len(applied[0].Warnings) != 1 {
		t.Fatal(applied, err)
	}
	g, err := w.API().Graph(t.Context())
	if err != nil || len(g.Rules) != 2 || len(g.Loops) != 1 {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestRedriveByError(t *testing.T) {
	w, s := weirtest.Start(t), newSink(t)
	w.Apply("ruleName: r\nsql: SELECT 'r' AS rule, traceid() AS id, do FROM 'in/+'\nawsIotSqlVersion: '2016-03-23'\nactions:\n  - http: {url: '" + s.URL + "'}\n")
	w.MustPublish("in/x", `{"do":"never"}`)
	if a := w.Account("r"); a.Dead != 1 {
		t.Fatalf("%+v", a)
	}
	for _, q := range []control.RedriveRequest{{Error: "no such reason"}, {Rule: "r", Until: time.Now().Add(-time.Hour)}, {Since: time.Now().Add(time.Hour)}} {
		if res, err := w.API().Redrive(t.Context(), q); err != nil || res.Delivered+res.Failed != 0 {
			t.Errorf("%+v: %+v, %v", q, res, err)
		}
	}
	if res, err := w.API().Redrive(t.Context(), control.RedriveRequest{Rule: "r", Error: "503", Since: time.Now().Add(-time.Hour)}); err != nil || res.Failed != 1 {
		t.Errorf("%+v, %v", res, err)
	}
}
