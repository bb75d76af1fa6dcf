package eval_test

import (
	"context"
	"flag"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

var update = flag.Bool("update", false, "write docs/sql-functions.md")

// evaluate gives what "SELECT expr AS v" sends, and the error of the
// evaluation.
func evaluate(t *testing.T, expr string, o eval.Options, e *event.Event) (string, error) {
	t.Helper()
	stmt, err := sql.Parse("SELECT " + expr + " AS v FROM '#'")
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	if o.AccountID == "" {
		o.AccountID = "123456789012"
	}
	p, _, err := eval.Compile(stmt, o)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	out, ok, err := p.Eval(context.Background(), eval.NewMachine(), e)
	if err != nil {
		return "", err
	}
	if !ok {
		t.Fatalf("%s does not act", expr)
	}
	return string(out), nil
}

func exampleEvent(x eval.Example) *event.Event {
	e := &event.Event{
		Topic: "a/b/c", Payload: []byte("{}"), ClientID: "client-1", Principal: "AIDAXAMPLEUSERID0001", SourceIP: "203.0.113.17",
		Received: time.UnixMilli(1700000000123), Seq: 7,
		Props: &event.Properties{ContentType: "application/json", User: []event.UserProperty{{Key: "zone", Value: "north"}, {Key: "zone", Value: "dock"}}},
	}
	if x.Payload != "" {
		e.Payload = []byte(x.Payload)
	}
	if x.Topic != "" {
		e.Topic = topic.Name(x.Topic)
	}
	return e
}

func runExample(t *testing.T, x eval.Example) {
	t.Helper()
	want := "{}"
	if x.Want != "" {
		want = `{"v":` + x.Want + `}`
	}
	if got, err := evaluate(t, x.Expr, eval.Options{Version: "2016-03-23"}, exampleEvent(x)); err != nil || got != want {
		t.Errorf("%s of %s: %s %v, want %s", x.Expr, x.Payload, got, err, want)
	}
}

func TestFunctionTable(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range eval.Functions {
		if seen[f.Name] || f.Name != strings.ToLower(f.Name) {
			t.Errorf("%s: there twice, or not in lower case", f.Name)
		}
		seen[f.Name] = true
		if f.Group == "" || !strings.HasPrefix(strings.ToLower(f.Signature), f.Name+"(") || !strings.HasSuffix(f.Summary, ".") || f.Source == "" {
			t.Errorf("%s: entry is not complete", f.Name)
		}
		if f.Service == eval.NoService && len(f.Examples) == 0 {
			t.Errorf("%s has no examples", f.Name)
		}
		for _, x := range f.Examples {
			if !strings.Contains(strings.ToLower(x.Expr), f.Name+"(") {
				t.Errorf("%s: example %s does not call it", f.Name, x.Expr)
			}
			runExample(t, x)
		}
	}
	for _, name := range strings.Fields(`abs acos asin atan atan2 bitand bitor bitxor bitnot ceil cos cosh exp floor ln log mod nanvl power rand remainder
		round sign sin sinh sqrt tan tanh trunc chr concat endswith indexof length lower lpad ltrim numbytes regexp_matches regexp_replace regexp_substr replace
		rpad rtrim startswith substring trim upper parse_time time_to_epoch timestamp get get_or_default isnull isundefined transform encode decode md2 md5 sha1
		sha224 sha256 sha384 sha512 accountid clientid get_mqtt_property get_user_properties newuuid principal sourceip sql_version topic traceid aws_lambda
		get_dynamodb get_registry_data get_secret get_thing_shadow machinelearning_predict`) {
		if !seen[name] {
			t.Errorf("no function %s", name)
		}
	}
}

func TestOperatorTable(t *testing.T) {
	for _, o := range eval.Operators {
		if len(o.Examples) == 0 {
			t.Errorf("%s has no examples", o.Syntax)
		}
		for _, x := range o.Examples {
			runExample(t, x)
		}
	}
}

func TestReferenceIsUpToDate(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "sql-functions.md")
	want := eval.Reference()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the function table says; run: go generate ./rules/eval", path)
	}
}

// Under 2015-10-08 whole results of functions in double precision stay
// Decimals.
func TestNumbersIn2015(t *testing.T) {
	for expr, want := range map[string]string{
		"asin(0)": "0.0", "power(2, 5)": "32.0", "log(100)": "2.0", "sqrt(9)": "3.0", "abs(-2.50)": "2.50", "floor(2.0)": "2", "round('7.5')": "8",
		"trunc(2.00, 5)": "2", "trunc(20.5, 0)": "20", "mod(7.5, 2.5)": "0.0", "sign(-0.0)": "0", "exp(0)": "1.0", "acos(0)": "1.5707963267948966",
	} {
		if got, err := evaluate(t, expr, eval.Options{}, exampleEvent(eval.Example{})); err != nil || got != `{"v":`+want+`}` {
			t.Errorf("%s: %s %v, want %s", expr, got, err, want)
		}
	}
}

func TestExactNumbers(t *testing.T) {
	huge := "1234567890123456789012345678901234" // 34 digits
	all := func(op func(z, x, y *big.Int) *big.Int) string {
		x, _ := new(big.Int).SetString(huge, 10)
		return op(new(big.Int), x, big.NewInt(255)).String()
	}
	for expr, want := range map[string]string{
		"abs(-" + huge + ")":                              huge,
		"abs(-0." + huge + ")":                            "0." + huge,
		"floor(" + huge + ")":                             huge,
		"bitand(" + huge + ", 255)":                       all((*big.Int).And),
		"bitor(" + huge + ", 255)":                        all((*big.Int).Or),
		"bitxor(" + huge + ", 255)":                       all((*big.Int).Xor),
		"bitand(-1, " + huge + ")":                        huge,
		"bitand(-2, 7)":                                   "6",
		"trunc(0.1234567890123456789012345678901239, 33)": "0.123456789012345678901234567890123",
		"trunc(1E-300, 34)":                               "0",
		"trunc(-1E-3, 2)":                                 "0",
		"trunc(12300.0, 0)":                               "12300",
		"mod(" + huge + ", 10)":                           "4",
		"ceil(0.0000000000000000000000000000000001)":      "1",
		"ceil(0.01)":                                      "1",
		"floor(-1E-30)":                                   "-1",
		"ceil(-0.01)":                                     "0",
		"round(0.04)":                                     "0",
		"round(2.5)":                                      "3",
		"round(-2.5)":                                     "-3",
		"round(0.4999999999999999999999999999999999)":     "0",
		"bitnot(5)":                                       "2",
		"bitnot(-14)":                                     "-3",
		"substring('valve', -2.411E247)":                  `"valve"`,
		"substring('valve', 1, 2.411E247)":                `"alve"`,
		"lpad('a', -1E500)":                               `"a"`,
		"log(0.001)":                                      "-3",
		"concat([missing2], [NULL])":                      "[null,null]",
		"get(['a'], 1E40)":                                "",
		"chr(1E40)":                                       "",
		"chr('x')":                                        "",
		"topic(1E40)":                                     "",
		"topic(0)":                                        "",
		"topic(-1)":                                       "",
		"topic('2')":                                      `"b"`,
		"lower('ΟΔΟΣ')":                                   `"οδος"`,
		"indexof('', '')":                                 "0",
		"replace('ab', '', '-')":                          `"-a-b-"`,
		"get('日本', 1)":                                    `"本"`,
		"length('😀')":                                     "1",
		"regexp_replace('ab', 1, 'x')":                    `"ab"`,
		"regexp_replace('a1', 1, 2)":                      `"a2"`,
		"regexp_matches('a', NULL)":                       "",
		"regexp_replace('abc', p, r)":                     `"[b]"`,
		"regexp_replace('abc', p, 'x')":                   `"x"`,
		"regexp_substr('abc', p)":                         `"abc"`,
		"parse_time(f, 0, z)":                             `"1970 JST"`,
		"parse_time('yyyy', 0, NULL)":                     "",
		"parse_time('yyyy', 1E30)":                        "",
		"parse_time('yyyy-bb', 0)":                        "",
		"time_to_epoch('1970', f)":                        "",
		"time_to_epoch(d, 'yyyyMMdd')":                    "",
		"time_to_epoch('19700102', g)":                    "86400000",
		"decode('IjgwIg==', 'base64')":                    `"80"`,
		"decode('bnVsbA==', 'base64')":                    "null",
		"decode('YQ', 'base64')":                          `"a"`,
		"decode('Y', 'base64')":                           "null",
		"decode(NULL, 'base64')":                          "",
		"decode('YQ==', 'hex')":                           "",
		"encode('a', 'hex')":                              "",
		"get_user_properties(1)":                          "",
		"get(*, 1)":                                       "",
		"transform('enrichArray', {'a': 1}, [{'a': 2, 'b': 3}])":  `[{"b":3,"a":1}]`,
		"transform('enrichArray', {'a': 1}, [])":                  "[]",
		"get_or_default(get([1], 5), get_or_default(missing, 4))": "4",
	} {
		e := exampleEvent(eval.Example{Payload: `{"p": "(?<x>b)|.+(?=(b))..", "r": "[${x}$2]", "f": "yyyy z", "z": "Asia/Tokyo", "d": 19700101, "g": "yyyyMMdd"}`})
		if expr == "regexp_replace('abc', p, r)" {
			e.Payload = []byte(`{"p": "a(?<x>b)c", "r": "[${x}]"}`)
		}
		if want = `{"v":` + want + `}`; want == `{"v":}` {
			want = "{}"
		}
		if got, err := evaluate(t, expr, eval.Options{Version: "2016-03-23"}, e); err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", expr, got, err, want)
		}
	}
}

// A wrong number of arguments gives Undefined, for every function.
func TestArgumentCounts(t *testing.T) {
	for _, f := range eval.Functions {
		if f.MaxArgs < 0 || f.Service != eval.NoService {
			continue
		}
		expr := f.Name + "(" + strings.TrimSuffix(strings.Repeat("'1', ", f.MaxArgs+1), ", ") + ")"
		if got, err := evaluate(t, expr, eval.Options{Version: "2016-03-23"}, exampleEvent(eval.Example{})); err != nil || got != "{}" {
			t.Errorf("%s: %s %v", expr, got, err)
		}
	}
}

// No function panics or answers with more than its budget, whatever it is
// given.
func TestAnyArguments(t *testing.T) {
	values := []string{"missing", "NULL", "true", "0", "-7", "2.5", "-1E6000", "1E6000", "1E-6000", "1234567890123456789012345678901234", "''", "'text'", "'2.5'", "'é😀'", "[]", "[1, 'a', [NULL]]", "{}", "{'k': {'l': 1}}", "*", "raw"}
	for _, f := range eval.Functions {
		if f.Service != eval.NoService || f.MaxArgs == 0 {
			continue
		}
		n := f.MaxArgs
		if n < 0 || n > 3 {
			n = 2
		}
		args := make([]string, n)
		var fill func(i int)
		fill = func(i int) {
			if i == n {
				expr := f.Name + "(" + strings.Join(args, ", ") + ")"
				if _, err := evaluate(t, expr, eval.Options{Version: "2016-03-23"}, exampleEvent(eval.Example{Payload: `{"raw": "\ud800 x"}`})); err != nil {
					t.Errorf("%s: %v", expr, err)
				}
				return
			}
			if slices.Contains(f.Literal, i) {
				args[i] = map[string]string{"transform": "'enrichArray'", "get_mqtt_property": "'content_type'"}[f.Name]
				if args[i] == "" {
					args[i] = "'base64'"
				}
				fill(i + 1)
				return
			}
			for j, v := range values {
				if n == 3 && i > 0 && j%3 != i%3 {
					continue
				}
				args[i] = v
				fill(i + 1)
			}
		}
		fill(0)
	}
}

func TestOutputIsBounded(t *testing.T) {
	long := strings.Repeat("a", 100_000)
	for _, expr := range []string{
		"replace(s, 'a', s)", "regexp_replace(s, 'a', s)", "concat(s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s)",
	} {
		if out, err := evaluate(t, expr, eval.Options{Version: "2016-03-23"}, exampleEvent(eval.Example{Payload: `{"s": "` + long + `"}`})); err == nil {
			t.Errorf("%.40s: %d bytes", expr, len(out))
		}
	}
	items := strings.TrimSuffix(strings.Repeat(`{"b":1},`, 2000), ",")
	payload := `{"o": {"a": "` + strings.Repeat("x", 100) + `"}, "l": [` + items + `]}`
	if out, err := evaluate(t, "transform('enrichArray', o, l)", eval.Options{Version: "2016-03-23"}, exampleEvent(eval.Example{Payload: payload})); err != nil || out != "{}" {
		t.Errorf("transform: %d bytes, %v", len(out), err)
	}
}

func TestRegexLimitIsCounted(t *testing.T) {
	stmt, err := sql.Parse("SELECT regexp_matches(s, '(a+)+(?=b)') AS v FROM '#'")
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := eval.Compile(stmt, eval.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := eval.NewMachine()
	out, _, err := p.Eval(context.Background(), m, exampleEvent(eval.Example{Payload: `{"s": "` + strings.Repeat("a", 200) + `"}`}))
	if err != nil || string(out) != "{}" || m.RegexLimitHits() != 1 {
		t.Errorf("%s %v, %d hits", out, err, m.RegexLimitHits())
	}
}

// However many items a nested query calls a catastrophic pattern for, the
// evaluation ends soon.
func TestRegexWorkIsBoundedPerEvaluation(t *testing.T) {
	payload := `{"l": [` + strings.TrimSuffix(strings.Repeat(`"`+strings.Repeat("a", 60)+`!",`, 1000), ",") + `]}`
	for _, expr := range []string{
		"(SELECT VALUE regexp_matches(x, '(a+)+(?=b)') FROM l AS x)",
		"(SELECT VALUE regexp_matches(x, '(a+)+$') FROM l AS x)",
		"(SELECT VALUE regexp_replace(x, '(a+)+(?=b)|c', '') FROM l AS x)",
	} {
		begin := time.Now()
		_, err := evaluate(t, expr, eval.Options{Version: "2016-03-23"}, exampleEvent(eval.Example{Payload: payload}))
		if d := time.Since(begin); d > 3*time.Second {
			t.Errorf("%s took %v (%v)", expr, d, err)
		}
	}
}

// The same message gives the same values, another one others.
func TestRandomValuesAreRepeated(t *testing.T) {
	a, b := exampleEvent(eval.Example{}), exampleEvent(eval.Example{})
	b.Seq++
	for _, expr := range []string{"newuuid()", "rand()", "[rand(), newuuid()]"} {
		x, _ := evaluate(t, expr, eval.Options{Version: "2016-03-23"}, a)
		y, _ := evaluate(t, expr, eval.Options{Version: "2016-03-23"}, a)
		z, _ := evaluate(t, expr, eval.Options{Version: "2016-03-23"}, b)
		if x != y || x == z {
			t.Errorf("%s: %s, again %s, of another message %s", expr, x, y, z)
		}
	}
	x, _ := evaluate(t, "newuuid()", eval.Options{}, a)
	if id := x[6:42]; id[14] != '4' || !strings.ContainsRune("89ab", rune(id[19])) {
		t.Errorf("%s is no UUID of version 4", id)
	}
}

func TestContextOfOtherProtocols(t *testing.T) {
	e := exampleEvent(eval.Example{})
	e.Protocol, e.Props, e.Principal, e.SourceIP = event.HTTP, nil, "", ""
	for expr, want := range map[string]string{
		"clientid()": `{"v":"n/a"}`, "traceid()": "{}", "principal()": "{}", "sourceip()": "{}", "get_user_properties()": `{"v":[]}`,
		"get_user_properties('zone')": "{}", "get_mqtt_property('correlation_data')": "{}", "get_mqtt_property('format_indicator')": `{"v":"UNSPECIFIED_BYTES"}`,
	} {
		if got, err := evaluate(t, expr, eval.Options{Version: "2016-03-23"}, e); err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", expr, got, err, want)
		}
	}
}
