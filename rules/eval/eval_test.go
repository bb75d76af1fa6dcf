package eval_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

func mustCompile(tb testing.TB, src string, o eval.Options) *eval.Program {
	tb.Helper()
	stmt, err := sql.Parse(src)
	if err != nil {
		tb.Fatal(err)
	}
	p, _, err := eval.Compile(stmt, o)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// TestAllocations holds the promise of the non-matching path.
func TestAllocations(t *testing.T) {
	events := fleet()
	m, ctx := eval.NewMachine(), context.Background()
	for _, c := range []struct {
		src   string
		e     *event.Event
		limit float64
	}{
		{exampleRule, events[5], 0},
		{exampleRule, events[1], 0},
		{exampleRule, events[0], 2},
		{`SELECT * FROM 'a' WHERE temperature > 40`, events[5], 0},
		{`SELECT * FROM 'a' WHERE temperature > 40`, events[0], 2},
		{`SELECT *, topic(2) AS site FROM 'a'`, events[0], 2},
		{`SELECT 1 AS a FROM 'a' WHERE startswith(deviceId, 'x') OR location.lat * 2 > 1000 OR fw + net = '' OR 'c' IN tags`, events[0], 0},
	} {
		p := compile(t, c.src, "2016-03-23")
		got := testing.AllocsPerRun(200, func() {
			if _, _, err := p.Eval(ctx, m, c.e); err != nil {
				t.Fatal(err)
			}
		})
		if got > c.limit {
			t.Errorf("%s: %v allocations, want at most %v", c.src, got, c.limit)
		}
	}
}

// TestPayloadIsTheCallers checks that a result shares no memory with the event
// or with later evaluations.
func TestPayloadIsTheCallers(t *testing.T) {
	m, ctx := eval.NewMachine(), context.Background()
	for _, src := range []string{`SELECT * FROM 'a'`, `SELECT a FROM 'a'`, `SELECT *, 1 AS b FROM 'a'`, `SELECT VALUE upper(a) FROM 'a'`, `SELECT VALUE (SELECT a FROM *) FROM 'a'`} {
		p := compile(t, src, "2016-03-23")
		e := message(`{"a":"first"}`)
		out, ok, err := p.Eval(ctx, m, e)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		before := string(out)
		for i := range e.Payload {
			e.Payload[i] = 'x'
		}
		if _, _, err := p.Eval(ctx, m, message(`{"a":"second one"}`)); err != nil {
			t.Fatal(err)
		}
		if string(out) != before {
			t.Errorf("%s: %s became %s", src, before, out)
		}
	}
}

// TestSharedProgram runs one program of everything from eight goroutines.
func TestSharedProgram(t *testing.T) {
	p := compile(t, `SET @big = (SELECT VALUE v FROM e WHERE v > 1), @n = temperature * 3
		SELECT *, @big AS big, @n AS n, newuuid() AS id, rand() AS r, (SELECT newuuid() AS u FROM e) AS us,
		CASE status WHEN 'ok' THEN {'a': [1, temperature]} ELSE concat(status, '\u00e9') END AS c,
		regexp_replace(name, '(e+)', '<$1>') AS re, 'b' IN tags AS has, cast(temperature AS String) + name AS s, md5(name) AS h
		FROM 'factory/#' WHERE temperature > 1 AND EXISTS (SELECT * FROM e WHERE v = 2)`, "2016-03-23")
	tmpl, err := eval.CompileTemplate(`${topic(2)}/${newuuid()}/${@n}/${name}`, p)
	if err != nil {
		t.Fatal(err)
	}
	var events []*event.Event
	for i := range 50 {
		e := message(fmt.Sprintf(`{"temperature":%d.5,"status":"%s","name":"d\u0065ee%d","tags":["a","b"],"e":[{"v":1},{"v":2},{"v":%d}]}`, i, []string{"ok", "er"}[i%2], i, i))
		e.Seq = uint64(i + 1)
		events = append(events, e)
	}
	run := func() []string {
		m, ctx := eval.NewMachine(), context.Background()
		var all []string
		for _, e := range events {
			out, ok, err := p.Eval(ctx, m, e)
			text, err2 := tmpl.Execute(ctx, m, e)
			all = append(all, fmt.Sprint(string(out), ok, err, text, err2))
		}
		return all
	}
	want := run()
	if !strings.Contains(want[3], `"re":"d<eee>3"`) || !strings.Contains(want[3], "true<nil>") && !strings.Contains(want[3], "true <nil>") {
		t.Fatal(want[3])
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				for i, got := range run() {
					if got != want[i] {
						t.Errorf("got  %s\nwant %s", got, want[i])
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// TestDeterminism checks what newuuid(), rand(), timestamp() and traceid()
// depend on.
func TestDeterminism(t *testing.T) {
	src := `SELECT VALUE [newuuid(), newuuid(), rand(), timestamp(), traceid()] FROM 'factory/#'`
	one := func(rule string, e *event.Event) string {
		t.Helper()
		p := mustCompile(t, src, eval.Options{Version: "2016-03-23", RuleName: rule})
		out, ok, err := p.Eval(context.Background(), eval.NewMachine(), e)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		return string(out)
	}
	e := message("{}")
	first := one("r", e)
	if again := one("r", e); again != first {
		t.Errorf("a repeat gives %s, before %s", again, first)
	}
	if !strings.Contains(first, "1700000000000") || !strings.Contains(first, e.ID().String()) {
		t.Errorf("%s has not the arrival time and the message id", first)
	}
	seen := map[string]bool{}
	ids := func(s string) {
		v, err := decode([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range v.([]any)[:3] {
			if k := fmt.Sprint(x); seen[k] {
				t.Errorf("%s comes twice", k)
			} else {
				seen[k] = true
			}
		}
	}
	ids(first)
	ids(one("other", e))
	later := message("{}")
	later.Seq++
	ids(one("r", later))
	// Each item of a nested query has its own.
	p := compile(t, `SELECT VALUE (SELECT VALUE newuuid() FROM [1, 2, 3]) FROM 'a'`, "2016-03-23")
	out, _, err := p.Eval(context.Background(), eval.NewMachine(), e)
	if err != nil {
		t.Fatal(err)
	}
	ids(string(out))
}

// services are look-ups that answer, count and fail on demand.
type services struct {
	calls int
	err   error
}

func (s *services) answer(text string) ([]byte, error) {
	s.calls++
	return []byte(text), s.err
}

func (s *services) Shadow(_ context.Context, thing, name, _ string) ([]byte, error) {
	return s.answer(fmt.Sprintf(`{"thing":%q,"name":%q,"state":{"reported":{"t":1}}}`, thing, name))
}

func (s *services) Registry(_ context.Context, api, thing, _ string) ([]byte, error) {
	return s.answer(fmt.Sprintf(`{"api":%q,"thingName":%q}`, api, thing))
}

func (s *services) Item(context.Context, string, eval.TableKey, *eval.TableKey, string) ([]byte, error) {
	return s.answer(`{"pk":"x","n":5}`)
}

func (s *services) Secret(context.Context, string, bool, string) ([]byte, error) {
	return s.answer(`{"user":"u"}`)
}

func (s *services) Invoke(_ context.Context, _ string, input []byte) ([]byte, error) {
	return s.answer(string(input))
}

func (s *services) Descriptor(context.Context, string, string) ([]byte, error) { return s.answer("") }

func (s *services) Predict(context.Context, string, string, []byte) ([]byte, error) {
	return s.answer(`{"predictedLabel":"1"}`)
}

func (s *services) all() eval.Lookups {
	return eval.Lookups{Shadow: s, Registry: s, Table: s, Secret: s, Lambda: s, Descriptor: s, Predict: s}
}

var lookupCalls = map[string]string{
	"the shadow service":                      `get_thing_shadow('t1', 'role')`,
	"the registry":                            `get_registry_data('DescribeThing', 't1', 'role')`,
	"a DynamoDB endpoint":                     `get_dynamodb('T', 'pk', 'x', 'role')`,
	"a secrets manager":                       `get_secret('id', 'SecretString', 'role')`,
	"a Lambda endpoint":                       `aws_lambda('arn:aws:lambda:us-east-1:123456789012:function:f', {'a': 1})`,
	"object storage for Protobuf descriptors": `decode('CAE=', 'proto', 'bucket', 'key', 'f.proto', 'M')`,
	"a machine learning service":              `machinelearning_predict('m', 'role', {'a': 1})`,
}

// TestLookupsAreRefused checks that each service that is absent has its own
// error at Compile, and that error actions cannot call out.
func TestServicesAreRefused(t *testing.T) {
	all := (&services{}).all()
	for what, call := range lookupCalls {
		stmt, err := sql.Parse(fmt.Sprintf(`SELECT %s AS v FROM 'a'`, call))
		if err != nil {
			t.Fatal(err)
		}
		var at *sql.Error
		_, _, err = eval.Compile(stmt, eval.Options{Version: "2016-03-23"})
		if !errors.As(err, &at) || !strings.Contains(at.Msg, "needs "+what) || at.Hint == "" || at.Column != 8 {
			t.Errorf("%s without its service: %v", call, err)
		}
		p, _, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23", Lookups: all})
		if err != nil {
			t.Errorf("%s with its service: %v", call, err)
			continue
		}
		if _, err := eval.CompileTemplate("${"+call+"}", p); err != nil {
			t.Errorf("%s in a template: %v", call, err)
		}
		if _, err := eval.CompileTemplate("${"+call+"}", p.ForErrorAction()); !errors.As(err, &at) || !strings.Contains(at.Msg, "an error action cannot") {
			t.Errorf("%s in a template of an error action: %v", call, err)
		}
		if _, _, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23", Lookups: all, ErrorAction: true}); !errors.As(err, &at) {
			t.Errorf("%s in an error action: %v", call, err)
		}
	}
}

func TestLookupsInStatements(t *testing.T) {
	ctx, e := context.Background(), message(`{"id":"t1"}`)
	eval1 := func(s *services, src string) (string, bool, error) {
		p := mustCompile(t, src, eval.Options{Version: "2016-03-23", Lookups: s.all()})
		out, ok, err := p.Eval(ctx, eval.NewMachine(), e)
		return string(out), ok, err
	}
	s := &services{}
	got, ok, err := eval1(s, `SELECT get_thing_shadow(id, 'r').state.reported.t AS a, get_thing_shadow(id, 'r').thing AS b, get_thing_shadow(id, 'n', 'r').name AS c FROM 'a' WHERE get_thing_shadow(id, 'r').state.reported.t = 1`)
	if want := `{"a":1,"b":"t1","c":"n"}`; got != want || !ok || err != nil {
		t.Errorf("got %s %v %v, want %s", got, ok, err, want)
	}
	if s.calls != 2 {
		t.Errorf("%d calls for two shadows", s.calls)
	}
	// A failure is the rule's, unless a default stands in.
	s.err = errs.E("test", errs.Unavailable, errors.New("down"))
	if _, ok, err := eval1(s, `SELECT get_thing_shadow(id, 'r') AS a FROM 'a'`); ok || err == nil || !strings.Contains(err.Error(), "down") {
		t.Errorf("a look-up that fails: %v %v", ok, err)
	}
	if got, ok, err := eval1(s, `SELECT get_or_default(get_thing_shadow(id, 'r'), 'none') AS a FROM 'a'`); got != `{"a":"none"}` || !ok || err != nil {
		t.Errorf("a look-up that fails, with a default: %s %v %v", got, ok, err)
	}
	// Two calls of get_dynamodb are accepted, with a warning, and never act.
	stmt, err := sql.Parse(`SELECT get_dynamodb('T', 'pk', id, 'r') AS a, get_dynamodb('T', 'pk', id, 'r') AS b FROM 'a'`)
	if err != nil {
		t.Fatal(err)
	}
	p, warnings, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23", Lookups: (&services{}).all()})
	if err != nil || len(warnings) != 1 || warnings[0].Column != 47 {
		t.Fatal(warnings, err)
	}
	if _, ok, err := p.Eval(ctx, eval.NewMachine(), e); ok || err != nil {
		t.Errorf("two calls of get_dynamodb: %v %v", ok, err)
	}
}

func TestExplain(t *testing.T) {
	m, ctx := eval.NewMachine(), context.Background()
	for _, c := range []struct{ name, src, topic, payload, want string }{
		{
			"acts", exampleRule, "factory/7/device/42/telemetry", `{"deviceId":"d1","temperature":41.3,"status":"ok"}`,
			`topic    factory/7/device/42/telemetry matches factory/+/device/+/telemetry
where    temperature > 40 AND status = 'ok' → true
         ├─ temperature > 40                → true
         │  └─ temperature                  → 41.3
         └─ status = 'ok'                   → true
            └─ status                       → "ok"
result   {"deviceId":"d1","temperature":41.3,"f":106.34,"site":"7"}`,
		},
		{
			"false", `SELECT * FROM 'a' WHERE t > 40 OR s = 5`, "a", `{"t":12,"s":"5"}`,
			`topic    a matches a
where    t > 40 OR s = 5 → false
         ├─ t > 40       → false
         │  └─ t         → 12
         └─ s = 5        → false  (String and Int are never equal)
            └─ s         → "5"
result   no action: WHERE is false, not true`,
		},
		{
			"undefined", `SELECT * FROM 'a' WHERE NOT gone AND upper(t) > 'x'`, "a", `{"t":"hot"}`,
			`topic    a matches a
where    NOT gone AND upper(t) > 'x' → Undefined
         ├─ NOT gone                 → Undefined
         │  └─ gone                  → Undefined  (no such member)
         └─ upper(t) > 'x'           → Undefined  ("HOT" is not a number)
            └─ upper(t)              → "HOT"
               └─ t                  → "hot"
result   no action: WHERE is Undefined, not true`,
		},
		{
			"topic", `SELECT * FROM 'a/+'`, "a", `{}`,
			"topic    a does not match a/+\nresult   no action: the topic does not match",
		},
		{
			"no JSON", `SET @v = v * 2 SELECT @v AS v FROM 'a' WHERE v = 1`, "a", `{v: 1}`,
			`topic    a matches a
payload  the payload is not JSON, or is nested deeper than 64 levels: every member is Undefined
set      @v = Undefined
where    v = 1 → Undefined
         └─ v  → Undefined  (no such member)
result   no action: WHERE is Undefined, not true`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := message(c.payload)
			e.Topic = eventTopic(c.topic)
			x := compile(t, c.src, "2016-03-23").Explain(ctx, m, e)
			if got := x.Text(); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if x.Acts != (c.name == "acts") {
				t.Errorf("acts: %v", x.Acts)
			}
		})
	}
}

// TestLongStatements checks that programs as long as a rule document allows are
// compiled and run at a bounded cost.
func TestLongStatements(t *testing.T) {
	e := message(`{"a":1,"b":"` + strings.Repeat("x", 1000) + `"}`)
	for name, src := range map[string]string{
		"columns": "SELECT a AS c0" + repeat(2400, func(i int) string { return fmt.Sprintf(", a AS c%d", i+1) }) + " FROM 'a'",
		"names":   "SELECT a" + repeat(2400, func(i int) string { return fmt.Sprintf(", m%d", i) }) + " FROM 'a'",
		"or":      "SELECT a FROM 'a' WHERE a = 0" + strings.Repeat(" OR a = 2", 2400) + " OR a = 1",
		"plus":    "SELECT a" + strings.Repeat(" + 1", 2400) + " AS v FROM 'a'",
	} {
		t.Run(name, func(t *testing.T) {
			stmt, err := sql.Parse(src)
			if err != nil {
				t.Fatal(err)
			}
			p, _, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23"})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if _, ok, err := p.Eval(context.Background(), eval.NewMachine(), e); !ok || err != nil {
				t.Fatal(ok, err)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

func repeat(n int, f func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(f(i))
	}
	return b.String()
}

// FuzzEval gives any bytes as payload to statements of all kinds, and checks
// that what comes out is JSON and is repeatable.
func FuzzEval(f *testing.F) {
	for _, s := range []string{
		"", "80", "plain words", "\x00\x01\xfe", `{"a":1,"b":"x","e":[{"n":"flow","v":3.5},{"n":"head","v":12}]}`,
		`{"a":1e400,"b":"\ud800","e":[[[]]]}`, `{"a":{"b":{"c":[1,2,{"d":null}]}},"a":2}`, ` [1, 2.50, "x"] `,
		strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70), `{"a":"12","b":"é\n","e":{"n":-0.0,"v":9999999999999999999999999999999999999}}`,
		`{"a":"2023-11-14","b":"(a+)+$","e":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"}`,
	} {
		f.Add([]byte(s))
	}
	var programs []*eval.Program
	var templates []*eval.Template
	for _, src := range []string{
		exampleRule,
		`SELECT * FROM 'a'`,
		`SELECT VALUE * FROM 'a'`,
		`SELECT *, a AS b, 1 AS x.y FROM 'a'`,
		`SELECT *, a AS b.c, e AS b.d FROM 'a'`,
		`SELECT a + b AS p, a - b AS m, a * b AS t, a / b AS d, a % b AS r, -a AS n, a = b AS q, a < b AS l, a IN e AS i FROM 'a' WHERE isUndefined(zz)`,
		`SET @e = e, @s = concat(a, b, e) SELECT @s AS s, (SELECT *, @s AS s FROM @e WHERE v > 3 OR n = 'flow') AS x, (SELECT VALUE i FROM e AS i) AS y FROM 'a'`,
		`SELECT CASE a WHEN 1 THEN e WHEN b THEN [a, b, {'k': e}] ELSE cast(e AS String) END AS c, cast(a AS Int) AS i, cast(a AS Double) AS d, cast(a AS Bool) AS o FROM 'a'`,
		`SELECT get(e, 0) AS a, get(*, 'a') AS b, encode(*, 'base64') AS c, decode(a, 'base64') AS d, transform('enrichArray', a, e) AS t, length(b) AS l FROM 'a'`,
		`SELECT regexp_matches(e, b) AS a, regexp_replace(b, a, e) AS b, regexp_substr(e, '(a+)+$') AS c, substring(b, a, e) AS d, lpad(b, a) AS f, parse_time(a, e) AS g, time_to_epoch(a, 'yyyy-MM-dd') AS h FROM 'a'`,
		`SELECT floor(a) AS a, ceil(a) AS b, round(a) AS c, trunc(a, 2) AS d, power(a, 3) AS e, sqrt(a) AS f, bitand(a, e) AS g, bitnot(a) AS h, chr(a) AS i FROM 'a'`,
		`SELECT a FROM 'a' WHERE EXISTS (SELECT * FROM e WHERE n = 'head') AND (SELECT VALUE v FROM e) = e`,
	} {
		p := compile(f, src, "2016-03-23")
		programs = append(programs, p)
		if t, err := eval.CompileTemplate("x/${a}/${get(e, 0)}/${b + a}", p); err != nil {
			f.Fatal(err)
		} else {
			templates = append(templates, t)
		}
	}
	m := eval.NewMachine()
	f.Fuzz(func(t *testing.T, payload []byte) {
		ctx := context.Background()
		e := message(string(payload))
		start := time.Now()
		_, notJSON := decode(payload)
		for i, p := range programs {
			out, ok, err := p.Eval(ctx, m, e)
			if err != nil && !errors.Is(err, eval.ErrBudget) {
				t.Fatalf("%s: %v", p.Statement().Source, err)
			}
			if len(out) > 64*len(payload)+256<<10 {
				t.Fatalf("%d bytes of %d", len(out), len(payload))
			}
			if ok && i != 1 && i != 2 {
				if _, err := decode(out); err != nil {
					t.Fatalf("%s: %q: %v", p.Statement().Source, out, err)
				}
			}
			if ok && i == 1 && notJSON != nil && string(out) != string(payload) {
				t.Fatalf("* gives %q", out)
			}
			out2, ok2, err2 := p.Eval(ctx, eval.NewMachine(), e)
			if ok2 != ok || err2 != err || string(out) != string(out2) {
				t.Fatalf("%s: %q %v %v, again %q %v %v", p.Statement().Source, out, ok, err, out2, ok2, err2)
			}
			if _, err := templates[i].Execute(ctx, m, e); err != nil && !errors.Is(err, eval.ErrBudget) {
				t.Fatal(err)
			}
		}
		if d, limit := time.Since(start), time.Duration(len(payload)>>10+1)*time.Second; d > limit {
			t.Fatalf("took %v for %d bytes", d, len(payload))
		}
	})
}

// FuzzStatement compiles and runs any text as a statement and as a template.
func FuzzStatement(f *testing.F) {
	for _, s := range []string{
		exampleRule,
		`SELECT *, a AS b.c, (SELECT VALUE v FROM e WHERE v > 1) AS d FROM 'a' WHERE EXISTS (SELECT * FROM e AS x WHERE x.v IN [1, 2])`,
		`SET @x = concat(a, lpad(b, 1000)), @y = [@x, @x, {'a': @x}] SELECT VALUE [@y, @y, cast(@y AS String)] FROM 'a'`,
		`SELECT CASE WHEN a > 1 THEN get(e, 0).v ELSE regexp_replace(b, '(x+x+)+y', '$1') END, -a % 0.7, NOT a OR b FROM 'a/+'`,
		`SELECT (SELECT (SELECT (SELECT * FROM e) AS z FROM e) AS y FROM e) AS x, topic(2), newuuid() FROM '#'`,
		`${topic(2)}/${parse_time('yyyy', timestamp())}-${a * 1E300 * 1E300}-${b + '}' + e}`,
	} {
		f.Add(s)
	}
	e := message(`{"a":1.5,"b":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx","e":[{"v":1},{"v":2,"n":[1,2,3]},"s",null]}`)
	owner := compile(f, `SET @v = a SELECT * FROM 'a'`, "2016-03-23")
	f.Fuzz(func(t *testing.T, src string) {
		ctx, m := context.Background(), eval.NewMachine()
		start := time.Now()
		if tmpl, err := eval.CompileTemplate(src, owner); err == nil {
			if _, err := tmpl.Execute(ctx, m, e); err != nil && !errors.Is(err, eval.ErrBudget) {
				t.Fatal(err)
			}
		}
		stmt, err := sql.Parse(src)
		if err != nil {
			return
		}
		for _, version := range []string{"", "2016-03-23"} {
			p, warnings, err := eval.Compile(stmt, eval.Options{Version: version})
			var at *sql.Error
			if err != nil {
				if !errors.As(err, &at) || at.Line < 1 || at.Column < 1 || at.Detail() == "" {
					t.Fatal(err)
				}
				continue
			}
			for i := range warnings {
				_ = warnings[i].Detail()
			}
			out, ok, err := p.Eval(ctx, m, e)
			if err != nil && !errors.Is(err, eval.ErrBudget) {
				t.Fatal(err)
			}
			if ok && len(out) > 0 {
				if _, err := decode(out); err != nil {
					t.Fatalf("%q: %v", out, err)
				}
			}
			if x := p.Explain(ctx, m, e); x.Text() == "" {
				t.Fatal("no explanation")
			}
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Fatalf("took %v", d)
		}
	})
}
