package fault_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/config"
	"github.com/weir-iot/weir/test/fault"
	"github.com/weir-iot/weir/test/natstest"
	"github.com/weir-iot/weir/test/weirtest"
)

const fleetRules = `
ruleName: fleet
sql: SELECT * FROM 'fault/+/telemetry' WHERE value >= 50
awsIotSqlVersion: '2016-03-23'
actions:
  - republish: {topic: 'results/${topic(2)}', qos: 1}
---
ruleName: called
sql: SELECT * FROM 'fault/+/telemetry' WHERE value >= 90
awsIotSqlVersion: '2016-03-23'
actions:
  - lambda: {functionArn: 'sink'}
---
ruleName: marks
sql: SELECT * FROM 'mark/#'
awsIotSqlVersion: '2016-03-23'
actions:
  - republish: {topic: 'seen', qos: 1}
`

// events remembers the events a function was given.
type events struct {
	*httptest.Server
	mu   sync.Mutex // guards list
	list [][]byte
}

func newEvents(t *testing.T) *events {
	e := &events{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		e.mu.Lock()
		e.list = append(e.list, body)
		e.mu.Unlock()
		fmt.Fprint(w, "{}")
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *events) all() [][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([][]byte(nil), e.list...)
}

// deploy makes a function that hands its events to url.
func deploy(t *testing.T, w *weirtest.Weir, name, url string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"config": map[string]any{"runtime": "http", "url": url}})
	if err != nil {
		t.Fatal(err)
	}
	api := w.API()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, api.URL+"/weir/v1/functions/"+name, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+api.Token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %s", resp.Status, text)
	}
}

// The five roles, rules and shadow twice, run as processes around one NATS
// server. Each is killed once while devices publish and writers change shadows.
// Nothing acknowledged is lost, no result is missing, shadows stay linearizable,
// and each role goes on within seconds.
func TestRolesAsProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("several processes, for some ten seconds")
	}
	url := natstest.Start(t).URL()
	seal := filepath.Join(t.TempDir(), "seal.key")
	process := func(role string) *weirtest.Weir {
		return weirtest.Process(t, weirtest.Roles(url, role), weirtest.Production(), weirtest.Durability("disk"),
			weirtest.Set(func(c *config.Config) { c.SealKeyFile = seal }))
	}
	api, ingest, runner := process("registry"), process("ingest"), process("functions")
	engines := []*weirtest.Weir{process("rules"), process("rules")}
	shadows := []*weirtest.Weir{process("shadow"), process("shadow")}
	given := newEvents(t)
	deploy(t, api, "sink", given.URL)
	api.Apply(fleetRules)
	if _, err := ingest.API().Rules(t.Context()); err == nil {
		t.Error("the process with the role ingest answers for the role registry")
	}

	var addr fault.Address
	addr.Set(ingest.Endpoints().MQTT)
	ledger := fault.NewLedger()
	fleet := &fault.Fleet{Addr: addr.Get, Devices: 8, Window: 20, Version: 5, Prefix: "d", Pause: 20 * time.Millisecond, Ledger: ledger}
	fleet.Start()
	client, again := theAPI(api)
	history, updates, stopWriters := shadowWriters(&addr, client, 8, 4)
	progress := func() {
		t.Helper()
		_, before := ledger.Totals()
		updated, called := updates(), len(given.all())
		weirtest.Eventually(t, func() bool {
			_, n := ledger.Totals()
			return n > before+100 && updates() > updated+10 && len(given.all()) > called
		}, func() string {
			_, n := ledger.Totals()
			return fmt.Sprintf("publishes %d→%d, shadow updates %d→%d, calls of the function %d→%d", before, n, updated, updates(), called, len(given.all()))
		})
	}
	progress()
	seen := ingest.Subscribe("seen")
	if list, err := api.API().Clients(t.Context(), "", 100); err != nil || len(list) < 9 {
		t.Errorf("the control API knows %d clients of the gateway, %v", len(list), err)
	}
	for i, e := range engines {
		e.Kill()
		ingest.MustPublish(fmt.Sprint("mark/", i), fmt.Sprintf(`{"mark": %d}`, i))
		if m := seen.Next(); string(m.Payload) != fmt.Sprintf(`{"mark":%d}`, i) && string(m.Payload) != fmt.Sprintf(`{"mark": %d}`, i) {
			t.Errorf("mark %d: %s", i, m.Payload)
		}
		e.BeginProcess()
		progress()
	}
	for _, s := range shadows {
		s.Kill()
		progress() // the other one goes on
		s.BeginProcess()
	}
	runner.Kill()
	runner.BeginProcess()
	progress()
	ingest.Kill()
	ingest.BeginProcess()
	addr.Set(ingest.Endpoints().MQTT)
	progress()
	api.Kill()
	_, before := ledger.Totals()
	weirtest.Eventually(t, func() bool { _, n := ledger.Totals(); return n > before+100 },
		func() string { return "devices are not served while the role registry is away" })
	api.BeginProcess()
	again()
	progress()
	fleet.Stop()
	stopWriters()

	for _, rule := range []string{"fleet", "called"} {
		if a := api.Account(rule); a.Matched != a.Delivered || a.Matched == 0 {
			t.Errorf("the account of the rule %s does not add up: %+v", rule, a)
		}
	}
	payloads := func(filter string) (all [][]byte) {
		t.Helper()
		err := api.API().Tail(t.Context(), control.TailOptions{Filter: filter, Since: time.Unix(1, 0)}, func(l *control.TailLine, _ []byte) error {
			all = append(all, append([]byte(nil), l.Payload...))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	above := func(least float64) func(fault.Message) bool {
		return func(m fault.Message) bool { return m.Value >= least }
	}
	for _, c := range []struct {
		what string
		got  [][]byte
		want func(fault.Message) bool
	}{
		{"on the log", payloads("fault/+/telemetry"), nil},
		{"results", payloads("results/+"), above(50)},
		{"calls of the function", given.all(), above(90)},
	} {
		r := ledger.Check(c.got, c.want, c.want != nil)
		if t.Log(c.what+": ", r); !r.OK() {
			t.Error(c.what, "are not what was acknowledged")
		}
	}
	judge(t, api, history)
}

// Processes that serve the same devices have the same authority and keys, and
// one that is not given the sealing key is refused.
func TestSecretsOfProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("several processes")
	}
	url := natstest.Start(t).URL()
	serve := func(role, seal string) *weirtest.Weir {
		return weirtest.Process(t, weirtest.Roles(url, role), weirtest.Production(), weirtest.Set(func(c *config.Config) { c.SealKeyFile = seal }))
	}
	api := serve("registry", "")
	seal := filepath.Join(api.Dir(), "seal.key")
	first, second := serve("ingest", seal), serve("ingest", seal)
	for _, file := range []string{"ca/ca.pem", "ca/ca-key.pem", "aws-credentials", "client.crt", "azure-hub.json"} {
		want := read(t, api, file)
		for _, w := range []*weirtest.Weir{first, second} {
			if !bytes.Equal(read(t, w, file), want) {
				t.Errorf("%s differs", file)
			}
		}
	}
	for _, w := range []*weirtest.Weir{first, serve("functions", "")} {
		if exists(w, "admin.token") && bytes.Equal(read(t, w, "admin.token"), read(t, api, "admin.token")) {
			t.Error("the token of the control API is in a folder that needs it not")
		}
	}
	if w := serve("rules", ""); exists(w, "ca") || exists(w, "seal.key") || exists(w, "aws-credentials") {
		t.Error("a process with the role rules has secrets it needs not")
	}
	// Without the key, and with another one.
	for want, file := range map[string]string{"seal.key is missing": "", "is not the sealing key of this Weir": filepath.Join(t.TempDir(), "other.key")} {
		if file != "" {
			write(t, file, bytes.Repeat([]byte{7}, 32))
		}
		dir := t.TempDir()
		out, stderr, code := weirtest.Run(t, "", []string{"WEIR_NATS_URL=" + url, "WEIR_SEAL_KEY_FILE=" + file, "WEIR_LISTEN_API=127.0.0.1:0"},
			"serve", "--data", dir, "--role", "ingest")
		if code == 0 || !bytes.Contains([]byte(stderr), []byte(want)) {
			t.Errorf("exit %d, %s%s", code, out, stderr)
		}
	}
	// A restart finds what it has.
	first.Restart()
}

func read(t *testing.T, w *weirtest.Weir, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.Dir(), file))
	if err != nil {
		t.Error(err)
	}
	return b
}

func exists(w *weirtest.Weir, file string) bool {
	_, err := os.Stat(filepath.Join(w.Dir(), file))
	return err == nil
}

func write(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
