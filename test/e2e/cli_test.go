package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/test/weirtest"
)

var update = flag.Bool("update", false, "write the expected outputs of the command line")

// What changes from run to run is replaced before outputs are compared.
var volatile = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?`), "TIME"},
	{regexp.MustCompile(`\b\d\d-\d\d \d\d:\d\d:\d\d\b`), "TIME"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`_PORT=\d+`), "_PORT=PORT"},
	{regexp.MustCompile(`(AWS_[A-Z_]*KEY[A-Z_]*)=\S+`), "$1=KEY"},
	{regexp.MustCompile(`SharedAccessKey=[^'"]+`), "SharedAccessKey=KEY"},
	{regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b`), "ID"},
	{regexp.MustCompile(`"seq":\d+`), `"seq":SEQ`}, // connections come and go on the log, too
	{regexp.MustCompile(`process \d+, up \S+`), "process N, up T"},
	{regexp.MustCompile(`\d+[smh] ago`), "T ago"},
	{regexp.MustCompile(`weir (devel|v\S+)( \(\S+?(, modified)?\))?, go\S+, \S+`), "weir VERSION"},
	{regexp.MustCompile(`version +(devel|v\S+?), process`), "version       VERSION, process"},
	{regexp.MustCompile(`\(weir-[0-9a-z]{8}\)`), "(weir-CLIENT)"},
	{regexp.MustCompile(`"weir-[0-9a-z]{8}"`), `"weir-CLIENT"`},
}

// The script runs in order against one Weir; its output lies in testdata/cli.txt,
// for people to read.
func TestCommandLine(t *testing.T) {
	w := weirtest.Start(t, weirtest.Durability("os"))
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("hot.yaml", strings.TrimLeft(republish, "\n"))
	write("syntax.yaml", "ruleName: bad\nsql: SELEC * FROM 'a'\nactions:\n  - republish: {topic: b}\n")
	write("function.yaml", "ruleName: bad\nsql: SELECT uper(x) FROM 'a'\nactions:\n  - republish: {topic: b}\n")
	write("action.json", `{"ruleName": "bad", "sql": "SELECT * FROM 'a'",`+"\n"+` "actions": [{"republsh": {"topic": "b"}}]}`+"\n")
	write("field.yaml", "ruleName: bad\nsql: SELECT * FROM 'a'\nactions:\n  - republish:\n      topik: b\n")
	write("template.yaml", "ruleName: bad\nsql: SELECT * FROM 'a'\nactions:\n  - republish:\n      topic: b/${topic(}\n")
	write("key.yaml", "ruleName: bad\nsqll: SELECT * FROM 'a'\nactions:\n  - republish: {topic: b}\n")
	write("bad.yaml", "durabilty: disk\n")

	var out strings.Builder
	env := []string{"WEIR_DATA_DIR=" + w.Dir(), "TZ=UTC"}
	weir := func(line string) {
		t.Helper()
		args := strings.Fields(line)
		for i := range args {
			args[i] = strings.ReplaceAll(strings.ReplaceAll(args[i], "_", " "), "DIR", dir)
		}
		stdout, stderr, code := weirtest.Run(t, "", env, args...)
		fmt.Fprintf(&out, "$ weir %s\n%s", line, stdout)
		if stderr != "" {
			fmt.Fprintf(&out, "%s", stderr)
		}
		fmt.Fprintf(&out, "[exit %d]\n\n", code)
	}
	weir("version")
	weir("env")
	weir("status")
	weir("rule list")
	weir("rule apply -f DIR/hot.yaml --dry-run")
	weir("rule apply -f DIR/hot.yaml")
	weir("rule apply -f DIR/hot.yaml")
	for _, f := range []string{"syntax.yaml", "function.yaml", "action.json", "field.yaml", "template.yaml", "key.yaml"} {
		weir("rule apply -f DIR/" + f)
	}
	weir("rule apply -f DIR/none.yaml")
	weir("rule apply")
	weir(`pub factory/1/device/7/telemetry {"deviceId":"d7","temperature":50,"status":"ok"}`)
	w.Account("hot") // the alert is on the log before what follows
	weir("pub --https a/b over_https")
	weir("pub --tls -q 0 a/b over_TLS")
	weir("pub -o json a/b x")
	weir("pub a/+ x")
	weir("pub --https a/+ x")
	weirtest.Eventually(t, func() bool { // QoS 0 is not waited for
		return len(tail(t, w, control.TailOptions{Filter: "#", Last: 100})) == 5
	}, func() string { return "five events were published" })
	weir("tail --last 10 --no-follow #")
	weir("tail --since 1h --no-follow alerts/#")
	weir("tail --last 1 --no-follow -o json alerts/#")
	weir("tail a/#/b")
	weir("tail --since yesterday")
	weir("rule list")
	weir("rule status hot")
	weir("rule show hot")
	weir("rule disable hot")
	weir("rule list")
	weir("rule enable hot")
	weir("rule delete hot")
	weir("rule delete hot")
	weir("rule show hot")
	weir("dead list")
	weir("dead show 1")
	weir("dead redrive")
	weir("destination list")
	weir("destination confirm nonsense")
	weir("destination delete nonsense")
	weir("config --check DIR/bad.yaml")
	weir("serve --role gateway")
	weir("--data DIR/none status")
	weir("status --api http://127.0.0.1:1")
	weir("pub --addr 127.0.0.1:1 a b")
	weir("dev --for 1ms")
	weir("dev --data " + w.Dir() + " --ports 0")
	weir("stauts")
	weir("rule aply")
	weir("pub")
	weir("-o xml status")

	got := out.String()
	got = strings.ReplaceAll(got, w.Dir(), "DATA")
	got = strings.ReplaceAll(got, dir, "DIR")
	for _, v := range volatile {
		got = v.re.ReplaceAllString(got, v.with)
	}
	const golden = "testdata/cli.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the command line's output has changed (go test ./test/e2e -run CommandLine -update writes %s):\n%s", golden, diff(string(want), got))
	}
}

// diff names the first lines that differ.
func diff(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := 0; i < len(a) || i < len(b); i++ {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			return fmt.Sprintf("line %d\nwant %s\ngot  %s\nin\n%s", i+1, x, y, strings.Join(b[max(0, i-6):min(len(b), i+6)], "\n"))
		}
	}
	return ""
}

func TestHelpHasExamples(t *testing.T) {
	for _, cmd := range []string{"dev", "serve", "config", "env", "pub", "sub", "authz explain", "status",
		"thing create", "type create", "group add", "cert create", "cert register", "ca register", "policy create", "policy attach", "access-key create", "tail", "version",
		"rule apply", "rule list", "rule show", "rule status", "rule enable", "rule disable", "rule delete", "dead list", "dead show", "dead redrive",
		"destination list", "destination confirm", "destination delete"} {
		out, _, code := weirtest.Run(t, "", nil, append(strings.Fields(cmd), "--help")...)
		if code != 0 || !strings.Contains(out, "Examples:\n  ") {
			t.Errorf("weir %s --help: exit %d, no examples\n%s", cmd, code, out)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, _, code := weirtest.Run(t, "", nil, "completion", shell); code != 0 || !strings.Contains(out, "weir") {
			t.Errorf("completion %s: exit %d", shell, code)
		}
	}
}

// What weir env prints, a shell can evaluate.
func TestEnvIsForShells(t *testing.T) {
	w := weirtest.Start(t, weirtest.Dir(filepath.Join(t.TempDir(), "it's a $folder")))
	cmd := exec.Command("sh", "-c", `eval "$("$WEIR" --data "$DATA" env)" && printf %s "$WEIR_CA_FILE"`)
	cmd.Env = append(os.Environ(), "WEIR="+weirtest.Binary(t), "DATA="+w.Dir())
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != w.Endpoints().CAFile {
		t.Errorf("%s, %v", out, err)
	}
}

// What a killed Weir leaves behind is not taken for a running one.
func TestEnvAfterAKill(t *testing.T) {
	w := weirtest.Process(t)
	w.Kill()
	for _, args := range [][]string{{"env"}, {"status"}, {"pub", "a", "b"}} {
		out, stderr, code := weirtest.Run(t, "", nil, append([]string{"--data", w.Dir()}, args...)...)
		if code != 3 || out != "" || !strings.Contains(stderr, "not running any more") {
			t.Errorf("weir %s: exit %d %s%s", args, code, out, stderr)
		}
	}
}

func TestSub(t *testing.T) {
	w := weirtest.Start(t)
	cmd := exec.Command(weirtest.Binary(t), "--data", w.Dir(), "sub", "-n", "2", "-o", "json", "s/#")
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for i := 0; ; i++ {
		w.MustPublish("s/1", fmt.Sprint(i))
		select {
		case err := <-ended:
			var m struct{ Topic, Payload string }
			if err != nil || json.Unmarshal([]byte(strings.SplitN(out.String(), "\n", 2)[0]), &m) != nil || m.Topic != "s/1" {
				t.Errorf("%v %s", err, out.String())
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// The demo's account adds up, and nothing of it stays behind.
func TestDemo(t *testing.T) {
	tmp := t.TempDir()
	out, stderr, code := weirtest.Run(t, "", []string{"TMPDIR=" + tmp}, "dev", "--demo", "--for", "3s", "--ports", "0", "-o", "json")
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, stderr)
	}
	var acc struct {
		Published, Stored uint64
		AddsUp            bool
		Rules             []struct {
			RuleName string
			control.Account
			Arrived int
		}
	}
	if err := json.Unmarshal([]byte(out), &acc); err != nil {
		t.Fatal(err)
	}
	if acc.Published < 100 || acc.Stored != acc.Published || !acc.AddsUp || len(acc.Rules) != 3 {
		t.Errorf("%+v", acc)
	}
	for _, r := range acc.Rules {
		if r.Delivered == 0 || uint64(r.Arrived) != r.Delivered || r.Matched != r.Delivered {
			t.Errorf("%+v", r)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "weir-demo-*")); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
}

func TestRulesFolder(t *testing.T) {
	rules := t.TempDir()
	file := filepath.Join(rules, "r.yaml")
	rule := func(topic string) string {
		return "ruleName: r\nsql: SELECT * FROM 'in'\nactions:\n  - republish: {topic: " + topic + ", qos: 1}\n"
	}
	if err := os.WriteFile(file, []byte(rule("one")), 0o600); err != nil {
		t.Fatal(err)
	}
	w := weirtest.Start(t, weirtest.Key("rules_dir", rules))
	version := func(want int) {
		t.Helper()
		weirtest.Eventually(t, func() bool {
			r, err := w.API().Rule(t.Context(), "r")
			return err == nil && r.Version == want && r.Actions[0].State == "live"
		}, func() string { return fmt.Sprintf("rule r does not reach version %d", want) })
	}
	version(1)
	sub := w.Subscribe("one", "two")
	w.MustPublish("in", "{}")
	if m := sub.Next(); m.Topic != "one" {
		t.Error(m.Topic)
	}
	// A bad file keeps the rule; the next good one replaces it.
	if err := os.WriteFile(file, []byte("ruleName: r\nsql: SELEC\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rules, "other.yaml"), []byte(strings.ReplaceAll(rule("three"), ": r\n", ": other\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	weirtest.Eventually(t, func() bool { _, err := w.API().Rule(t.Context(), "other"); return err == nil }, func() string { return "the new file is not read" })
	version(1)
	if err := os.WriteFile(file, []byte(rule("two")), 0o600); err != nil {
		t.Fatal(err)
	}
	version(2)
	w.MustPublish("in", "{}")
	if m := sub.Next(); m.Topic != "two" {
		t.Error(m.Topic)
	}
}
