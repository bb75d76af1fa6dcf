package ruletest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/rulefolder"
	"github.com/weir-iot/weir/internal/strictyaml"
	"github.com/weir-iot/weir/internal/suggest"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/eval"
)

// RunOptions say what to run.
type RunOptions struct {
	Options
	Paths  []string       // as Find takes them
	Only   *regexp.Regexp // names of the cases to run; nil: all
	Update bool           // write golden files instead of comparing
}

// Report is what became of the cases. Its parts are in the order of the files.
type Report struct {
	Files    []*FileReport `json:"files"`
	Passed   int           `json:"passed"`
	Failed   int           `json:"failed"` // cases, and files that could not be run
	Updated  []string      `json:"updated,omitempty"`
	Coverage *Coverage     `json:"coverage,omitempty"` // nil where only some cases were run
	Elapsed  time.Duration `json:"elapsedNanoseconds"`
}

// FileReport is what became of one file.
type FileReport struct {
	File     string        `json:"file"`
	RuleFile string        `json:"ruleFile,omitempty"`
	Rule     string        `json:"ruleName,omitempty"`
	Problem  string        `json:"problem,omitempty"`  // why the cases could not be run, for people
	Warnings []string      `json:"warnings,omitempty"` // what the statement can hardly mean, for people
	Cases    []*CaseReport `json:"cases"`
	Elapsed  time.Duration `json:"elapsedNanoseconds"`
}

// Failed counts the cases that failed.
func (f *FileReport) Failed() (n int) {
	for _, c := range f.Cases {
		if len(c.Failures) > 0 {
			n++
		}
	}
	return n
}

// CaseReport is what became of one case.
type CaseReport struct {
	Name     string        `json:"name"`
	Line     int           `json:"line"` // in the file
	Failures []Failure     `json:"failures,omitempty"`
	Elapsed  time.Duration `json:"elapsedNanoseconds"`
}

// Failure is one way in which an outcome is not the expected one.
type Failure struct {
	What        string       `json:"what"` // "result", "action 1 s3", or a sentence
	Differences []Difference `json:"differences,omitempty"`
	Detail      []string     `json:"detail,omitempty"` // lines that say why
}

// Run runs all cases of all files. An error is one that no file is to blame for.
func Run(ctx context.Context, o RunOptions) (*Report, error) {
	start := time.Now()
	tests, ruleFiles, err := Find(o.Paths...)
	if err != nil {
		return nil, err
	}
	if len(tests) == 0 {
		return nil, fmt.Errorf("no file *%s in %s", suffixes[0], strings.Join(o.Paths, ", "))
	}
	r := &Report{Files: make([]*FileReport, len(tests))}
	covers := make([]*coverage, len(tests))
	updated := make([][]string, len(tests))
	each(len(tests), func(i int) {
		r.Files[i], covers[i], updated[i] = runFile(ctx, tests[i], o)
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for i, f := range r.Files {
		if f.Problem != "" {
			r.Failed++
		}
		r.Failed += f.Failed()
		r.Passed += len(f.Cases) - f.Failed()
		r.Updated = append(r.Updated, updated[i]...)
	}
	if o.Only == nil {
		r.cover(ctx, ruleFiles, covers, o.Options)
	}
	r.Elapsed = time.Since(start)
	return r, nil
}

// each calls f for 0 … n-1, several at a time, and returns when all have ended.
func each(n int, f func(int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// cover adds up the coverage, rules without a test included.
func (r *Report) cover(ctx context.Context, ruleFiles []string, covers []*coverage, o Options) {
	type key struct{ file, rule string }
	seen := map[key]*coverage{}
	var order []key
	for i, f := range r.Files {
		if covers[i] == nil {
			continue
		}
		k := key{f.RuleFile, f.Rule}
		if have := seen[k]; have != nil {
			have.merge(covers[i])
			continue
		}
		seen[k] = covers[i]
		order = append(order, k)
	}
	for _, name := range ruleFiles {
		if slices.ContainsFunc(r.Files, func(f *FileReport) bool { return f.RuleFile == name && f.Problem != "" }) {
			continue // said already
		}
		docs, err := readRules(name)
		for _, d := range docs {
			k := key{name, d.Rule.Name}
			if err != nil || seen[k] != nil {
				continue
			}
			var rule *Rule
			if rule, err = Compile(ctx, name, d, o); err == nil {
				seen[k] = newCoverage(rule, o)
				order = append(order, k)
				err = rule.Close(ctx)
			}
		}
		if err != nil {
			r.Files = append(r.Files, &FileReport{File: name, RuleFile: name, Problem: Detail(err), Cases: []*CaseReport{}})
			r.Failed++
		}
	}
	slices.SortFunc(order, func(a, b key) int {
		return cmp.Or(strings.Compare(a.file, b.file), strings.Compare(a.rule, b.rule))
	})
	r.Coverage = &Coverage{Missing: []Missed{}}
	for _, k := range order {
		r.Coverage.add(k.file, k.rule, seen[k])
	}
}

// readRules reads the rules of a file; none where the file is about something
// else.
func readRules(name string) ([]*rules.Document, error) {
	src, err := rulefolder.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if root, err := strictyaml.Parse(name, src.Content); err == nil && root.Kind != strictyaml.List && root.Get("ruleName") == nil && root.Get("sql") == nil {
		return nil, nil
	}
	return rules.Parse(name, src.Content)
}

// Choose returns the rule called name, the only one where name is "".
func Choose(file, name string, docs []*rules.Document) (*rules.Document, error) {
	var names []string
	for _, d := range docs {
		if d.Rule.Name == name || name == "" && len(docs) == 1 {
			return d, nil
		}
		names = append(names, d.Rule.Name)
	}
	switch {
	case len(docs) == 0:
		return nil, fmt.Errorf("%s holds no rule", file)
	case name == "":
		return nil, fmt.Errorf("%s holds %d rules: name one of %s", file, len(docs), strings.Join(names, ", "))
	}
	hint := "it has " + strings.Join(names, ", ")
	if near, ok := suggest.Nearest(name, names); ok {
		hint = "did you mean " + near + "?"
	}
	return nil, fmt.Errorf("%s holds no rule %s; %s", file, name, hint)
}

// Detail is an error as a user should read it, with line, caret and hint where
// it has them.
func Detail(err error) string {
	var d interface{ Detail() string }
	if errors.As(err, &d) {
		return d.Detail()
	}
	return err.Error()
}

func runFile(ctx context.Context, name string, o RunOptions) (r *FileReport, c *coverage, updated []string) {
	start := time.Now()
	r = &FileReport{File: name, Cases: []*CaseReport{}}
	defer func() { r.Elapsed = time.Since(start) }()
	src, err := os.ReadFile(name)
	if err != nil {
		r.Problem = err.Error()
		return r, nil, nil
	}
	f, err := readTests(name, src)
	if err != nil {
		r.Problem = Detail(err)
		return r, nil, nil
	}
	r.RuleFile = f.rule
	docs, err := readRules(f.rule)
	var rule *Rule
	if err == nil {
		var d *rules.Document
		if d, err = Choose(f.rule, f.ruleName, docs); err == nil {
			r.Rule = d.Rule.Name
			rule, err = Compile(ctx, f.rule, d, o.Options)
		}
	}
	if err != nil {
		r.Problem = Detail(err)
		return r, nil, nil
	}
	defer rule.Close(ctx)
	for _, w := range rule.Warnings {
		r.Warnings = append(r.Warnings, "sql "+w.Detail())
	}
	c = newCoverage(rule, o.Options)
	m := eval.NewMachine()
	for _, t := range f.cases {
		if o.Only != nil && !o.Only.MatchString(t.name) || ctx.Err() != nil {
			continue
		}
		began := time.Now()
		cr := &CaseReport{Name: t.name, Line: t.line}
		var wrote string
		cr.Failures, wrote = runCase(ctx, m, rule, c, t, o.Update)
		cr.Elapsed = time.Since(began)
		if wrote != "" {
			updated = append(updated, wrote)
		}
		r.Cases = append(r.Cases, cr)
	}
	return r, c, updated
}

func runCase(ctx context.Context, m *eval.Machine, rule *Rule, c *coverage, t *testCase, update bool) (failures []Failure, wrote string) {
	ctx = WithFixtures(ctx, t.fixtures)
	out := rule.Run(ctx, m, t.event)
	missing := MissingFixture(ctx)
	c.note(ctx, m, t.event, out)
	fail := func(detail []string, format string, args ...any) {
		failures = append(failures, Failure{What: fmt.Sprintf(format, args...), Detail: detail})
	}
	if missing != "" {
		fail(nil, "%s", missing)
		return failures, ""
	}
	x := &t.expect
	if x.golden != "" {
		return compareGolden(x.golden, out, rule, update)
	}
	if !out.Acts && out.Err == nil {
		if x.acts {
			fail(rule.why(ctx, m, t.event, out), "expected that the rule acts; it does not")
		} else if x.reason != "" && x.reason != out.Reason {
			fail(rule.why(ctx, m, t.event, out), "expected no action because of the %s; it is because of the %s", reasonText(x.reason), reasonText(out.Reason))
		}
		return failures, ""
	}
	if !x.acts && out.Acts {
		fail(rule.why(ctx, m, t.event, out), "expected no action; the rule acts")
		return failures, ""
	}
	failures = x.errors(out, failures)
	if out.Acts {
		failures = x.result(out, failures)
	}
	if x.errorAction != nil {
		switch {
		case rule.onError == nil:
			fail(nil, "expected an error action; the rule has none")
		case out.OnError == nil:
			fail(nil, "expected that the error action gets the message; nothing fails")
		default:
			failures = compareAction("error action", x.errorAction, out.OnError, failures)
		}
	}
	return failures, ""
}

func reasonText(s string) string {
	return map[string]string{"topic": "topic", "where": "WHERE clause", "twice": "second call of get_dynamodb"}[s]
}

// errors compares what went wrong.
func (x *expectation) errors(out *Outcome, failures []Failure) []Failure {
	var texts []string
	if out.Err != nil {
		texts = append(texts, "the evaluation fails: "+out.Err.Error())
	}
	for i, a := range out.Actions {
		if a.Err != nil {
			texts = append(texts, fmt.Sprintf("action %d, %s, refuses the result: %v", i+1, a.Kind, a.Err))
		}
	}
	all := strings.Join(texts, "\n")
	switch {
	case !x.hasErr && all != "":
		return append(failures, Failure{What: "expected no error", Detail: texts})
	case x.hasErr && all == "":
		return append(failures, Failure{What: fmt.Sprintf("expected an error with %q; there is none", x.err)})
	case x.hasErr && !strings.Contains(all, x.err):
		return append(failures, Failure{What: fmt.Sprintf("expected an error with %q", x.err), Detail: texts})
	}
	return failures
}

// result compares the payload and the actions.
func (x *expectation) result(out *Outcome, failures []Failure) []Failure {
	differ := func(what string, d []Difference) {
		if len(d) > 0 {
			failures = append(failures, Failure{What: what, Differences: d})
		}
	}
	if x.payload != nil {
		differ("result", diffPayload(x.payload, out.Payload, false))
	}
	if x.includes != nil {
		differ("result", diffPayload(x.includes, out.Payload, true))
	}
	if x.binary != nil && !bytes.Equal(x.binary, out.Payload) {
		differ("result, in base64", []Difference{{Want: base64.StdEncoding.EncodeToString(x.binary), Got: base64.StdEncoding.EncodeToString(out.Payload)}})
	}
	if len(x.members) > 0 {
		var result, params []Difference
		for _, m := range x.members {
			if m.action < 0 {
				result = at(result, m.path, m.want, out.Payload)
				continue
			}
			what := fmt.Sprintf("actions.%d", m.action+1)
			if m.action >= len(out.Actions) {
				params = append(params, Difference{Path: what, Want: string(m.want.JSON())})
				continue
			}
			for _, d := range at(nil, m.path, m.want, out.Actions[m.action].Params) {
				d.Path = what + "." + d.Path
				params = append(params, d)
			}
		}
		differ("result", result)
		differ("actions", params)
	}
	if x.actions == nil {
		return failures
	}
	if len(x.actions.Items) != len(out.Actions) {
		return append(failures, Failure{What: fmt.Sprintf("expected %d actions; the rule has %d", len(x.actions.Items), len(out.Actions))})
	}
	for i, want := range x.actions.Items {
		failures = compareAction(fmt.Sprintf("action %d", i+1), want, &out.Actions[i], failures)
	}
	return failures
}

// at compares the value at a path of a JSON text.
func at(out []Difference, path []string, want *strictyaml.Node, got []byte) []Difference {
	v, err := decode(got)
	name := ""
	for _, p := range path {
		name = join(name, p)
		if list, ok := v.([]any); ok {
			var i int
			if _, scanned := fmt.Sscan(p, &i); scanned == nil && i >= 0 && i < len(list) {
				v = list[i]
				continue
			}
		}
		m, _ := v.(map[string]any)
		next, ok := m[p]
		if !ok {
			if want.Kind == strictyaml.Null && err == nil {
				return out
			}
			return append(out, Difference{Path: strings.Join(path, "."), Want: string(want.JSON())})
		}
		v = next
	}
	if want.Kind == strictyaml.Null {
		return append(out, Difference{Path: name, Got: text(v)})
	}
	w, err := decode(want.JSON())
	if err != nil {
		return append(out, Difference{Path: name, Want: string(want.JSON()), Got: text(v)})
	}
	return diff(out, name, w, v, false)
}

// diffPayload compares a payload with what is expected: a text stands for the
// bytes themselves, or for the JSON it is.
func diffPayload(want *strictyaml.Node, got []byte, includes bool) []Difference {
	if want.Kind == strictyaml.String {
		if want.Text == string(got) {
			return nil
		}
		if json.Valid([]byte(want.Text)) && json.Valid(got) {
			return diffJSON([]byte(want.Text), got, includes)
		}
		return []Difference{{Want: shown([]byte(want.Text)), Got: shown(got)}}
	}
	return diffJSON(want.JSON(), got, includes)
}

func compareAction(what string, want *strictyaml.Node, got *Filled, failures []Failure) []Failure {
	kind := want.Text
	if want.Kind == strictyaml.Map {
		kind = want.Fields[0].Name
	}
	if kind != got.Kind {
		return append(failures, Failure{What: what, Differences: []Difference{{Path: "kind", Want: kind, Got: got.Kind}}})
	}
	if want.Kind == strictyaml.Map && want.Fields[0].Value.Kind != strictyaml.Null {
		if d := diffJSON(want.Fields[0].Value.JSON(), got.Params, true); len(d) > 0 {
			return append(failures, Failure{What: what + " " + kind, Differences: d})
		}
	}
	return failures
}

// why says in lines how an outcome came about.
func (r *Rule) why(ctx context.Context, m *eval.Machine, e *event.Event, o *Outcome) []string {
	if miss := r.Program.Mismatch(e.Topic); miss != nil {
		return []string{"the topic " + string(e.Topic) + " does not match: " + miss.Text}
	}
	x := r.Program.Explain(ctx, m, e)
	var lines []string
	if x.NoMembers != "" {
		lines = append(lines, x.NoMembers+": every member is Undefined")
	}
	for _, v := range x.Vars {
		lines = append(lines, "@"+v.Name+" = "+v.Value)
	}
	if x.Where == nil {
		return append(lines, "the statement has no WHERE")
	}
	return append(lines, x.Where.Tree()...)
}

// compareGolden compares an outcome with a file, or writes the file.
func compareGolden(name string, out *Outcome, rule *Rule, update bool) (failures []Failure, wrote string) {
	got := golden(out)
	want, err := os.ReadFile(name)
	if update {
		if err == nil && bytes.Equal(want, got) {
			return nil, ""
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return []Failure{{What: err.Error()}}, ""
		}
		if err := os.WriteFile(name, got, 0o644); err != nil {
			return []Failure{{What: err.Error()}}, ""
		}
		return nil, name
	}
	if err != nil {
		return []Failure{{What: fmt.Sprintf("the golden file %s cannot be read: run with --update to write it, and look at what it says", name)}}, ""
	}
	if !json.Valid(want) {
		return []Failure{{What: fmt.Sprintf("the golden file %s is not JSON", name)}}, ""
	}
	if d := diffJSON(want, got, false); len(d) > 0 {
		return []Failure{{What: "outcome, against " + name, Differences: d}}, ""
	}
	return nil, ""
}

// golden is an outcome as golden files have it.
func golden(o *Outcome) []byte {
	b := fmt.Appendf(nil, `{"acts":%t`, o.Acts)
	if o.Reason != "" {
		b = append(b, `,"reason":`...)
		b = strictyaml.AppendString(b, o.Reason)
	}
	if o.Err != nil {
		b = strictyaml.AppendString(append(b, `,"error":`...), o.Err.Error())
	}
	if o.Acts {
		switch {
		case json.Valid(o.Payload):
			b = append(append(b, `,"payload":`...), o.Payload...)
		case utf8.Valid(o.Payload):
			b = strictyaml.AppendString(append(b, `,"payloadText":`...), string(o.Payload))
		default:
			b = strictyaml.AppendString(append(b, `,"payloadBase64":`...), base64.StdEncoding.EncodeToString(o.Payload))
		}
		b = append(b, `,"actions":[`...)
		for i := range o.Actions {
			if i > 0 {
				b = append(b, ',')
			}
			b = goldenAction(b, &o.Actions[i])
		}
		b = append(b, ']')
	}
	if o.OnError != nil {
		b = goldenAction(append(b, `,"errorAction":`...), o.OnError)
	}
	var out bytes.Buffer
	if json.Indent(&out, append(b, '}'), "", "  ") != nil {
		return b
	}
	out.WriteByte('\n')
	return out.Bytes()
}

func goldenAction(b []byte, f *Filled) []byte {
	b = append(strictyaml.AppendString(append(b, '{'), f.Kind), ':')
	b = append(b, f.Params...)
	if f.Err != nil {
		b = strictyaml.AppendString(append(b, `,"refused":`...), f.Err.Error())
	}
	return append(b, '}')
}
