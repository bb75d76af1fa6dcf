package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/ruletest"
	"github.com/weir-iot/weir/test/weirtest"
)

// TestGuide follows docs/rules.md: it runs its commands, against a server where
// they need one, and compares what they print.
func TestGuide(t *testing.T) {
	const guide = "../../docs/rules.md"
	quoteFiles(t, guide)
	w := weirtest.Start(t)
	runScriptWith(t, guide, "../../examples/rules", &scriptOptions{
		environ: append(os.Environ(), "WEIR_DATA_DIR="+w.Dir()),
		same:    sameGuide,
		blanks:  true,
		later:   regexp.MustCompile(`^\$ weir (rule status|dead|explain|rule canary show)`),
	})
}

// quoteFiles compares the files a document shows with those there are. A block
// of code that shows one follows a comment with its path from the document.
func quoteFiles(t *testing.T, doc string) {
	t.Helper()
	src, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^<!-- file: (\\S+) -->\n```yaml\n(.*?)^```$")
	found := 0
	out := block.ReplaceAllStringFunc(string(src), func(s string) string {
		found++
		m := block.FindStringSubmatch(s)
		want, err := os.ReadFile(filepath.Join(filepath.Dir(doc), m[1]))
		if err != nil {
			t.Fatal(err)
		}
		if m[2] != string(want) && !*update {
			t.Errorf("%s does not show %s as it is; run with -update", doc, m[1])
		}
		return "<!-- file: " + m[1] + " -->\n```yaml\n" + string(want) + "```"
	})
	if found == 0 {
		t.Fatalf("%s shows no file", doc)
	}
	if *update && out != string(src) {
		if err := os.WriteFile(doc, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// differs is what is another in each run against a server: message ids, times,
// the names of clients.
var differs = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}"|([0-9]{4}-)?[0-9]{2}-[0-9]{2} [0-9:]{8}(\.[0-9]{3})?|[0-9]+[smh] ago|weir-[a-z0-9]{8}|"at":[0-9]{13}|\b0:[0-9]+\b|[0-9]+ events read in [^ ]+( \([0-9,]+/s\))?|(backfill|show) [0-9a-f]{10}|[0-9]+ of [0-9]+ events| [0-9:]{8}\.[0-9]{3}`)

func sameGuide(got, want []string) bool {
	mask := func(lines []string) string { return differs.ReplaceAllString(sameTime(strings.Join(lines, "\n")), "*") }
	return mask(got) == mask(want)
}

// patience is how long a command is repeated until it prints what it should.
const patience = 20 * time.Second

// TestEvalAgreesWithServer publishes random messages and compares what became of
// them with what rule eval says of each.
func TestEvalAgreesWithServer(t *testing.T) {
	w := weirtest.Start(t)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	machine := eval.NewMachine()
	want := map[string]*control.Account{}
	compiled := map[string]*ruletest.Rule{}
	for _, name := range []string{"hot_readings", "device_alerts"} {
		src, err := os.ReadFile("../../examples/rules/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		docs, err := rules.Parse(name+".yaml", src)
		if err != nil {
			t.Fatal(err)
		}
		rule, err := ruletest.Compile(t.Context(), name+".yaml", docs[0], ruletest.Options{Lookups: ruletest.Lookups(), Actions: previewActions})
		if err != nil {
			t.Fatal(err)
		}
		defer rule.Close(t.Context())
		compiled[name], want[name] = rule, &control.Account{}
		w.Apply(string(src))
	}
	for range 600 {
		e := &event.Event{ClientID: "c", Seq: 1, Received: time.Now()}
		if r.IntN(2) == 0 {
			e.Topic = topic.Name(pick("factory/3/device/d7/telemetry", "factory/3/device/d7/telemetry", "factory//device//telemetry", "factory/3/dev/d7/telemetry"))
			e.Payload = []byte(`{"temperature": ` + pick("39", "40", "41.5", "50", "1e3", `"50"`, `"hot"`, "null", "[1]") + `, "status": ` + pick(`"ok"`, `"ok"`, `"bad"`, "1") + `, "deviceId": ` + pick(`"d7"`, `"d8"`, `".."`, `"a/b"`, `"\u0001"`, `7`, "{}") + `}`)
			if r.IntN(10) == 0 {
				e.Payload = []byte(pick("temp=50", "", "[1]"))
			}
		} else {
			e.Topic = topic.Name(pick("site/7/device/d1/alert", "site/7/device/d1/alert", "site/7/device/alert"))
			e.Payload = []byte(`{"level": ` + pick("0", "1", "3", `"3"`, `"x"`) + `, "muted": ` + pick("true", "false", "1") + `, "team": ` + pick(`"night"`, `"#"`, `"a/b/c/d/e/f/g/h"`, `""`) + `}`)
		}
		w.MustPublish(string(e.Topic), string(e.Payload))
		for name, rule := range compiled {
			o := rule.Run(t.Context(), machine, e)
			switch {
			case !o.Acts:
			case o.Actions[0].Err == nil:
				want[name].Matched++
				want[name].Delivered++
			case o.OnError != nil && o.OnError.Err == nil:
				want[name].Matched++
				want[name].ErrorDelivered++
			default:
				want[name].Matched++
				want[name].Dead++
			}
		}
	}
	for name, account := range want {
		weirtest.Eventually(t, func() bool { return w.Account(name) == *account }, func() string {
			return fmt.Sprintf("%s: rule eval says %+v, the server %+v", name, *account, w.Account(name))
		})
		if account.Delivered == 0 || account.ErrorDelivered == 0 {
			t.Errorf("%s: nothing to compare: %+v", name, *account)
		}
	}
}
