package rules

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fieldError is an action's error with a place, as package actions has it.
type fieldError struct {
	path      []string
	off       int
	msg, hint string
}

func (e *fieldError) Error() string       { return e.msg }
func (e *fieldError) FieldPath() []string { return e.path }
func (e *fieldError) FieldOffset() int    { return e.off }
func (e *fieldError) FieldMsg() string    { return e.msg }
func (e *fieldError) FieldHint() string   { return e.hint }

var testChecker = Checker{Language: SQL{}, Action: func(_ context.Context, _ *Rule, _ Program, kind string, params json.RawMessage, _ bool) error {
	var m map[string]any
	if err := json.Unmarshal(params, &m); err != nil {
		return err
	}
	switch {
	case kind != "s3":
		return &fieldError{off: -1, msg: "unknown action", hint: `did you mean "s3"?`}
	case m["bukcet"] != nil:
		return &fieldError{path: []string{"bukcet"}, off: -1, msg: `unknown key "bukcet"`, hint: `did you mean "bucket"?`}
	}
	if s, ok := m["key"].(string); ok {
		if i := strings.Index(s, "${bad"); i >= 0 {
			return &fieldError{path: []string{"key"}, off: i, msg: "a bad template"}
		}
	}
	return nil
}}

const goodYAML = `# a rule
ruleName: hot
description: too hot
awsIotSqlVersion: '2016-03-23'
sql: |
  SELECT deviceId, temperature
  FROM 'factory/+/telemetry'
  WHERE temperature > 40
actions:
- s3: {bucket: b, key: "${deviceId}", n: 1}
errorAction:
  s3:
    bucket: e
`

func TestParseGood(t *testing.T) {
	js := `{"ruleName":"hot","description":"too hot","awsIotSqlVersion":"2016-03-23","sql":"SELECT deviceId, temperature\nFROM 'factory/+/telemetry'\nWHERE temperature > 40\n",
"actions":[{"s3":{"bucket":"b","key":"${deviceId}","n":1}}],"errorAction":{"s3":{"bucket":"e"}}}`
	a, err := Parse("r.yaml", []byte(goodYAML))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Parse("", []byte(js))
	if err != nil {
		t.Fatal(err)
	}
	if len(a) != 1 || len(b) != 1 || !a[0].Rule.Equal(b[0].Rule) {
		t.Errorf("%+v\n%+v", a[0].Rule, b[0].Rule)
	}
	if err := a[0].Check(context.Background(), testChecker); err != nil {
		t.Error(err)
	}
	for _, s := range []string{goodYAML + "---\n" + strings.Replace(goodYAML, "hot", "b", 1), "[" + js + "," + js + "]"} {
		if d, err := Parse("", []byte(s)); err != nil || len(d) != 2 {
			t.Error(len(d), err)
		}
	}
}

func TestMistakesAreFound(t *testing.T) {
	rule := func(old, new string) string {
		if !strings.Contains(goodYAML, old) {
			t.Fatalf("no %q", old)
		}
		return strings.Replace(goodYAML, old, new, 1)
	}
	for _, c := range []struct{ name, src, want string }{
		{"key", rule("description", "descripton"), `r.yaml:3:1: unknown key "descripton"
  descripton: too hot
  ^^^^^^^^^^
hint: did you mean "description"?`},
		{"name", rule("hot", "h-t"), `r.yaml:2:11: the rule's name "h-t": only letters, digits and _ are allowed
  ruleName: h-t
            ^^^`},
		{"literal", rule("temperature > 40", "temperature > > 40"), "r.yaml:8:23: "},
		{"literal é", rule("SELECT deviceId,", "SELECT 'é' AS e, bad(), "), "r.yaml:6:20: unknown function bad"},
		{"folded", rule("sql: |", "sql: >-") + "", ""},
		{"folded wrong", strings.Replace(rule("sql: |", "sql: >"), "> 40", "> > 40", 1), "r.yaml:8:23: "},
		{"plain", "ruleName: a\nactions: []\nsql: SELECT * FROM 'a' WHERE bad()\n", "r.yaml:3:30: unknown function bad"},
		{"plain folded", "ruleName: a\nactions: []\nsql: SELECT * FROM 'a'\n  WHERE   x = bad()\n", "r.yaml:4:15: unknown function bad"},
		{"double", "ruleName: a\nactions: []\nsql: \"SELECT \\\"é\\\" AS x,\\tbad() FROM 'a'\"\n", "r.yaml:3:27: unknown function bad"},
		{"single", "ruleName: a\nactions: []\nsql: 'SELECT bad() FROM ''a'''\n", "r.yaml:3:14: unknown function bad"},
		{"single later", "ruleName: a\nactions: []\nsql: 'SELECT * FROM ''a'' WHERE bad()'\n", "r.yaml:3:33: unknown function bad"},
		{"version", rule("2016-03-23", "2017"), "r.yaml:4:19: "},
		{"no sql", "ruleName: a\nactions: []\n", `r.yaml:1:1: the key "sql" is missing`},
		{"types", "ruleName: 12\nsql: true\nactions: x\n", "r.yaml:1:11: ruleName: expected a string, found a number"},
		{"kind", rule("- s3:", "- s4:"), "r.yaml:10:3: s4: unknown action"},
		{"two kinds", rule("n: 1}", "n: 1}\n  http: {}"), "r.yaml:11:3: an action has one key"},
		{"field", rule("bucket: b,", "bukcet: b,"), `r.yaml:10:8: s3: bukcet: unknown key "bukcet"`},
		{"template", rule("${deviceId}", "x/${bad}"), `r.yaml:10:27: s3: key: a bad template`},
		{"error action", rule("bucket: e", "bukcet: e"), `r.yaml:13:5: s3: bukcet: unknown key "bukcet"`},
		{"twice", rule("description: too hot", "sql: x"), "r.yaml:5:1: "},
		{"anchor", rule("too hot", "&a hot"), "r.yaml:3:14: anchors"},
		{"merge", "a: 1\n<<: *b\n", "r.yaml:2:"},
		{"yaml", "ruleName: a: b\n", "r.yaml:1:11: not YAML"},
		{"empty", "# nothing\n", "r.yaml:1:1: no rule in it"},
		{"json", `{"ruleName":"a","sql":"SELECT * FROM 'a' WHERE \"\u00e9\ud83d\ude00\" = bad()","actions":[]}`, "r.yaml:1:73: unknown function bad"},
		{"json twice", `{"ruleName":"a","ruleName":"b"}`, `r.yaml:1:17: the key "ruleName" comes twice`},
		{"many", "ruleName: a\nsql: x\nactions:\n" + strings.Repeat("- s3: {}\n", 11), "r.yaml:14:3: a rule has at most 10 actions"},
		{"large", "ruleName: a\nsql: x\nactions: []\ndescription: " + strings.Repeat("x", MaxDocument), "r.yaml:1:1: the rule document has"},
	} {
		docs, err := Parse("r.yaml", []byte(c.src))
		if err == nil {
			err = docs[0].Check(context.Background(), testChecker)
		}
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		var p *Problem
		var ps Problems
		if !errors.As(err, &ps) || !errors.As(err, &p) || !strings.HasPrefix(ps.Detail(), c.want) {
			t.Errorf("%s: %v\n%s", c.name, err, func() string {
				if ps != nil {
					return ps.Detail()
				}
				return ""
			}())
		}
	}
	if _, err := Parse("r.json", []byte(`{"ruleName": }`)); err == nil || !strings.HasPrefix(err.Error(), "r.json:1:14: not JSON") {
		t.Error(err)
	}
}

func TestWarnings(t *testing.T) {
	docs, err := Parse("r.yaml", []byte("ruleName: a\nactions: []\nsql: |\n  SELECT *\n  FROM 'a' WHERE device-id = 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if w := (SQL{}).Warnings(docs[0]); len(w) != 1 || w[0].Line != 5 || w[0].Column != 18 {
		t.Errorf("%+v", w)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, s string) {
		p := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(p), 0o700)
		if err := os.WriteFile(p, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.yaml", goodYAML)
	write("sub/b.yml", strings.Replace(goodYAML, "hot", "b", 1))
	write("c.json", `{"ruleName":"hot","sql":"SELECT * FROM 'a'","actions":[]}`)
	write("d.yaml", "ruleName: -\n")
	write(".hidden.yaml", "x")
	write("README.md", "x")
	docs, err := Load(dir)
	if len(docs) != 2 || docs[0].Rule.Name != "hot" || docs[1].Rule.Name != "b" {
		t.Error(docs)
	}
	if err == nil || !strings.Contains(err.Error(), `c.json:1:13: rule "hot" is in `) || !strings.Contains(err.Error(), "d.yaml:1:") {
		t.Error(err)
	}
	if _, err := Load(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(goodYAML))
	f.Add([]byte(`[{"ruleName":"a","sql":"SELECT \ud83d\ude00 FROM 'a'","actions":[{"s3":{"key":"${x"}}]}]`))
	f.Add([]byte("ruleName: a\nsql: >2-\n   x\n    y\n\n   z\nactions: [{s3: }]\n---\n- a\n"))
	f.Add([]byte("? a\n: b\n"))
	f.Add([]byte("sql: 'a''\r\n  b'\nruleName: \"\\x41\"\nactions:\n - http:\n    a: !!str 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		docs, err := Parse("f", b)
		var ps Problems
		if err != nil && !errors.As(err, &ps) {
			t.Fatalf("%T", err)
		}
		ps.Detail()
		for _, d := range docs {
			again, err := json.Marshal(d.Rule)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := Parse("f.json", again); err != nil || !back[0].Rule.Equal(d.Rule) {
				t.Fatalf("%s: %v", again, err)
			}
			n := d.root.Get("sql")
			for i := range len(n.Text) + 1 {
				if at := n.Inside(i); at < 0 || at > len(d.src.text) {
					t.Fatal(at)
				}
			}
			if err := d.Check(context.Background(), testChecker); err != nil {
				errors.As(err, &ps)
				ps.Detail()
			}
		}
	})
}
