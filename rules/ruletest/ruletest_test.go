package ruletest

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/strictyaml"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/eval"
)

// send is an action with one parameter, "to", a template.
type send struct {
	m    *eval.Machine
	to   *eval.Template
	text string
}

func fakeActions(_ context.Context, _ *rules.Rule, p *eval.Program, a rules.Action, _ bool) (Action, error) {
	var params struct{ To string }
	if err := json.Unmarshal(a.Params, &params); err != nil {
		return nil, err
	}
	if a.Kind != "send" {
		return nil, fmt.Errorf("unknown action %s", a.Kind)
	}
	t, err := eval.CompileTemplate(params.To, p)
	return &send{eval.NewMachine(), t, params.To}, err
}

func (s *send) Render(ctx context.Context, e *event.Event, _ []byte) (json.RawMessage, error) {
	to, err := s.to.Execute(ctx, s.m, e)
	if strings.Contains(to, "#") {
		err = fmt.Errorf("%s has a #", to)
	}
	return append(strictyaml.AppendString([]byte(`{"to":`), to), '}'), err
}

func (s *send) Empty(context.Context, *event.Event) []string { return nil }

func (s *send) Templates() []string {
	if strings.Contains(s.text, "${") {
		return []string{"to"}
	}
	return nil
}

func (s *send) Close(context.Context) error { return nil }

func options(paths ...string) RunOptions {
	return RunOptions{Paths: paths, Options: Options{Lookups: Lookups(), Actions: fakeActions}}
}

func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

const rule = `ruleName: r
sql: SELECT a, newuuid() AS id, rand() AS n, timestamp() AS at, CASE a WHEN 1 THEN 'one' ELSE 'more' END AS word FROM 'x/+' WHERE a > 0
awsIotSqlVersion: '2016-03-23'
actions:
  - send: {to: 'y/${topic(2)}/${traceid()}'}
`

// TestDeterministic runs the same cases many times, several files at a time:
// ids, random numbers and times are the same in each.
func TestDeterministic(t *testing.T) {
	dir := t.TempDir()
	for i := range 8 {
		write(t, dir, fmt.Sprintf("r%d.yaml", i), rule)
		write(t, dir, fmt.Sprintf("r%d.rule_test.yaml", i), "tests:\n  - name: it\n    event: {topic: x/1, payload: {a: 1}}\n    expect: {golden: testdata/one.json}\n")
	}
	o := options(dir)
	o.Update = true
	if r, err := Run(t.Context(), o); err != nil || r.Failed > 0 || len(r.Updated) == 0 {
		t.Fatal(err, r)
	}
	first, err := os.ReadFile(filepath.Join(dir, "testdata", "one.json"))
	if err != nil || !bytes.Contains(first, []byte(`"at": 1767225600000`)) {
		t.Fatalf("%v %s", err, first)
	}
	for range 5 {
		if r, err := Run(t.Context(), options(dir)); err != nil || r.Failed > 0 || r.Passed != 8 || len(r.Updated) > 0 {
			var b bytes.Buffer
			r.Text(&b, TextOptions{Printable: func(s string) string { return s }})
			t.Fatal(err, b.String())
		}
	}
	write(t, dir, "testdata/one.json", strings.Replace(string(first), `"one"`, `"two"`, 1))
	r, err := Run(t.Context(), options(dir))
	if err != nil || r.Failed != 8 {
		t.Fatalf("a changed golden file: %v %+v", err, r)
	}
	if d := r.Files[0].Cases[0].Failures[0].Differences; len(d) != 1 || d[0] != (Difference{"payload.word", `"two"`, `"one"`}) {
		t.Errorf("%+v", d)
	}
}

// TestThousandCases bounds the time of a run as a user waits for it.
func TestThousandCases(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "r.yaml", rule)
	var b strings.Builder
	b.WriteString("tests:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  - name: case %d\n    event: {topic: x/%d, payload: {a: %d, b: [1, 2, 3], c: text}}\n    expect: {payloadIncludes: {a: %d}}\n", i, i, i+1, i+1)
	}
	write(t, dir, "r.rule_test.yaml", b.String())
	start := time.Now()
	r, err := Run(t.Context(), options(dir))
	if err != nil || r.Passed != 1000 || r.Failed != 0 {
		t.Fatal(err, r)
	}
	took := time.Since(start)
	t.Logf("1,000 cases in %v", took)
	if took > 20*time.Second { // far from what it takes, for a machine that is busy or races
		t.Errorf("1,000 cases took %v", took)
	}
}

func TestOnly(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "r.yaml", rule)
	write(t, dir, "r.rule_test.yaml", "tests:\n  - {name: good, event: {topic: x/1, payload: {a: 1}}, expect: {payloadIncludes: {a: 1}}}\n  - {name: bad, event: {topic: x/1, payload: {a: 1}}, expect: {noAction: true}}\n")
	o := options(dir)
	o.Only = regexp.MustCompile("^good$")
	if r, err := Run(t.Context(), o); err != nil || r.Passed != 1 || r.Failed != 0 || r.Coverage != nil {
		t.Errorf("%v %+v", err, r)
	}
	if r, err := Run(t.Context(), options(dir)); err != nil || r.Passed != 1 || r.Failed != 1 || r.Coverage == nil {
		t.Errorf("%v %+v", err, r)
	}
}

func TestJUnit(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "r.yaml", rule)
	write(t, dir, "r.rule_test.yaml", "tests:\n  - {name: good, event: {topic: x/1, payload: {a: 1}}, expect: {payloadIncludes: {a: 1}}}\n  - {name: \"bad \\x01 <&>\", event: {topic: x/1, payload: {a: 1}}, expect: {payloadIncludes: {a: 2}}}\n")
	write(t, dir, "s.rule_test.yaml", "nonsense: 1\n")
	r, err := Run(t.Context(), options(dir))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.JUnit(&b); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Suites   []struct {
			Cases []struct {
				Name    string  `xml:"name,attr"`
				Failure *string `xml:"failure"`
				Error   *string `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b.Bytes(), &doc); err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	if doc.Tests != 3 || doc.Failures != 1 || doc.Errors != 1 || len(doc.Suites) != 2 {
		t.Fatalf("%s", b.String())
	}
	bad := doc.Suites[0].Cases[1]
	if bad.Name != "bad \uFFFD <&>" || bad.Failure == nil || !strings.Contains(*bad.Failure, "want 2") {
		t.Errorf("%s", b.String())
	}
	if e := doc.Suites[1].Cases[0].Error; e == nil || !strings.Contains(*e, "nonsense") {
		t.Errorf("%s", b.String())
	}
}

func TestDiff(t *testing.T) {
	for _, c := range []struct {
		want, got string
		includes  bool
		diff      string
	}{
		{`{"a":1,"b":[1,2]}`, `{"b":[1,2],"a":1.0}`, false, ""},
		{`1e2`, `100`, false, ""},
		{`0.1000000000000000000000000000000001`, `0.1`, false, "value: want 0.1000000000000000000000000000000001, got 0.1"},
		{`1e999999999`, `2e999999999`, false, "value: want 1e999999999, got 2e999999999"},
		{`{"a":1}`, `{"a":1,"b":2}`, true, ""},
		{`{"a":1}`, `{"a":1,"b":2}`, false, "b: not expected, got 2"},
		{`{"a":{"b":1}}`, `{"a":{}}`, true, "a.b: missing, want 1"},
		{`[1,2]`, `[1]`, true, "[1]: missing, want 2"},
		{`{"a.b":null}`, `{"a.b":0}`, false, `["a.b"]: want null, got 0`},
		{`"x"`, `x`, false, `value: want "x", got "x"`},
		{`{"a":"<"}`, `{"a":">"}`, false, `a: want "<", got ">"`},
	} {
		var lines []string
		for _, d := range diffJSON([]byte(c.want), []byte(c.got), c.includes) {
			lines = append(lines, d.String())
		}
		if got := strings.Join(lines, "; "); got != c.diff {
			t.Errorf("%s, %s: got %s; want %s", c.want, c.got, got, c.diff)
		}
	}
}

func TestMismatch(t *testing.T) {
	for _, c := range []struct {
		filter string
		name   topic.Name
		level  int
		text   string
	}{
		{"a/+/c", "a/b/c", 0, ""},
		{"a/+/c", "a/b/d", 3, "level 3 is d; FROM wants c"},
		{"a/+/c", "a/b/C", 3, "upper and lower case"},
		{"a/+/c", "a//d", 3, "level 3 is d"},
		{"a/b", "a", 2, "ends before level 2; FROM wants b"},
		{"a/+", "a", 2, "FROM wants any one level"},
		{"a/#", "a", 2, "# stands for one level or more"},
		{"a/b", "a/b/c", 3, "FROM ends at level 2"},
		{"#", "$aws/x", 1, "a wildcard at the start"},
		{"a", "$aws/rules/s/a", 3, "Basic Ingest for the rule s; this one is r"},
		{"a/b", "a/", 2, "level 2 is an empty level"},
	} {
		r, err := CompileSQL("r", "SELECT * FROM '"+c.filter+"'", "", Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := r.Program.Mismatch(c.name)
		if m == nil {
			if c.text != "" {
				t.Errorf("%s %s: matches", c.filter, c.name)
			}
			continue
		}
		if c.text == "" || m.Level != c.level || !strings.Contains(m.Text, c.text) {
			t.Errorf("%s %s: %+v", c.filter, c.name, m)
		}
		if m.Level > 0 && !strings.HasPrefix(string(c.name)[min(m.From, len(c.name)):], m.Have) {
			t.Errorf("%s %s: %q is not at %d", c.filter, c.name, m.Have, m.From)
		}
	}
}

func TestWith(t *testing.T) {
	n, err := strictyaml.Parse("f", []byte(`{"a": {"b": 1, "c": 2}, "d": 3}`))
	if err != nil {
		t.Fatal(err)
	}
	before := string(n.JSON())
	for _, c := range []struct{ path, value, want string }{
		{"a.b", "9", `{"a":{"b":9,"c":2},"d":3}`},
		{"a.b", "null", `{"a":{"c":2},"d":3}`},
		{"a.x.y", "[1]", `{"a":{"b":1,"c":2,"x":{"y":[1]}},"d":3}`},
		{"x.y", "null", `{"a":{"b":1,"c":2},"d":3}`},
		{"d", `{"e": 1}`, `{"a":{"b":1,"c":2},"d":{"e":1}}`},
	} {
		v, err := strictyaml.Parse("f", []byte(c.value))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(with(n, strings.Split(c.path, "."), v).JSON()); got != c.want {
			t.Errorf("%s = %s: got %s, want %s", c.path, c.value, got, c.want)
		}
		if string(n.JSON()) != before {
			t.Fatalf("%s = %s changed the original", c.path, c.value)
		}
	}
}

// TestCoverage reads from the report which arms and branches one case takes.
func TestCoverage(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "r.yaml", `ruleName: r
sql: >-
  SET @k = CASE a WHEN 1 THEN 'x' ELSE 'y' END
  SELECT CASE WHEN b = 1 THEN CASE c WHEN 1 THEN 'p' WHEN 2 THEN 'q' END WHEN b = 2 THEN 'two' END AS s,
    (SELECT VALUE CASE n WHEN 1 THEN (SELECT VALUE CASE m WHEN 1 THEN 'm1' ELSE 'm2' END FROM inner) ELSE 'n2' END FROM list WHERE n > 0) AS l
  FROM 'x' WHERE d > 0 AND NOT e = 1
awsIotSqlVersion: '2016-03-23'
actions:
  - send: {to: 'y/${@k}'}
  - send: {to: fixed}
errorAction:
  send: {to: 'err/${a}'}
`)
	test := "tests:\n  - {name: it, event: {topic: x, payload: %s}, expect: {%s}}\n"
	for _, c := range []struct {
		payload, expect string
		where, arms     Share
		missing         []string
	}{
		{"{d: 0}", "noAction: where", Share{3, 6}, Share{0, 10}, []string{"WHERE is never true", "CASE a … WHEN 1", "CASE a … ELSE", "CASE c … WHEN 1"}},
		{"{d: 0, a: 5}", "noAction: where", Share{3, 6}, Share{1, 10}, []string{"CASE a … WHEN 1"}},
		{"{d: 1, a: 1, b: 1, c: 2}", "noAction: where", Share{3, 6}, Share{1, 10}, nil},
		{"{d: 1, e: 2, a: 1, b: 1, c: 2, list: [{n: 0, inner: [{m: 1}]}, {n: 1, inner: [{m: 2}]}]}", "payloadIncludes: {}", Share{3, 6}, Share{5, 10},
			[]string{"CASE c … WHEN 1 is never taken", "CASE … WHEN b = 2 is never taken", "CASE a … ELSE is never taken", "CASE n … ELSE", "CASE m … WHEN 1", "error action, send.to"}},
		{"{d: 1, e: 2, a: 1, b: 2, c: 2, list: [{n: 2}]}", "payloadIncludes: {}", Share{3, 6}, Share{3, 10}, []string{"CASE c … WHEN 2 is never taken"}},
	} {
		write(t, dir, "r.rule_test.yaml", fmt.Sprintf(test, c.payload, c.expect))
		r, err := Run(t.Context(), options(dir))
		if err != nil || r.Failed > 0 {
			var b bytes.Buffer
			r.Text(&b, TextOptions{Printable: func(s string) string { return s }})
			t.Fatal(err, b.String())
		}
		if r.Coverage.Where != c.where || r.Coverage.Case != c.arms {
			t.Errorf("%s: WHERE %v, CASE %v; want %v, %v: %v", c.payload, r.Coverage.Where, r.Coverage.Case, c.where, c.arms, r.Coverage.Missing)
		}
		for _, want := range c.missing {
			found := false
			for _, m := range r.Coverage.Missing {
				found = found || strings.Contains(m.Text, want)
			}
			if !found {
				t.Errorf("%s: %s is not reported: %v", c.payload, want, r.Coverage.Missing)
			}
		}
	}
}

func FuzzReadTests(f *testing.F) {
	dir := f.TempDir()
	write(f, dir, "r.yaml", rule)
	for _, s := range []string{
		"tests:\n  - {name: a, event: {topic: x, payload: 1}, expect: {noAction: true}}",
		"tests:\n  - name: a\n    event: {topic: x}\n    table: {columns: [payload.a, acts], rows: [[1, true], [~, false]]}",
		"defaults: {topic: a, time: 0, seq: 2, qos: 1, protocol: http, properties: {userProperties: [{key: a, value: b}]}}\nfixtures: {shadows: {a: 1}, tables: {t: [{a: 1}]}, secrets: {s: {base64: AA==}}, functions: [{arn: f, answer: 1}]}\ntests: []",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		file, err := readTests(filepath.Join(dir, "r.rule_test.yaml"), src)
		if err != nil {
			return
		}
		for _, c := range file.cases {
			if c.event == nil || c.name == "" && c.line == 0 {
				t.Fatalf("%+v", c)
			}
		}
	})
}
