package eval

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules/sql"
)

// randomJSON writes a JSON value with members named a, b, c and some others,
// white space, escapes and duplicates.
func randomJSON(r *rand.Rand, b *bytes.Buffer, depth int) {
	space := func() {
		if r.IntN(6) == 0 {
			b.WriteString([]string{" ", "\n", "\t", "  \r\n"}[r.IntN(4)])
		}
	}
	space()
	defer space()
	k := r.IntN(9)
	if depth == 0 && k > 6 {
		k = r.IntN(7)
	}
	switch k {
	case 0:
		b.WriteString([]string{"true", "false", "null"}[r.IntN(3)])
	case 1, 2:
		b.WriteString(randomNumber(r))
	case 3, 4, 5:
		randomString(r, b)
	case 6:
		b.WriteString("[]")
	case 7:
		b.WriteByte('[')
		for i := range 1 + r.IntN(3) {
			if i > 0 {
				b.WriteByte(',')
			}
			randomJSON(r, b, depth-1)
		}
		b.WriteByte(']')
	case 8:
		randomObject(r, b, depth)
	}
}

func randomObject(r *rand.Rand, b *bytes.Buffer, depth int) {
	b.WriteByte('{')
	for i := range r.IntN(6) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString([]string{`"a"`, `"b"`, `"c"`, ` "a" `, `"\u0061"`, `"other name"`, `"ab"`, `""`}[r.IntN(8)])
		b.WriteByte(':')
		randomJSON(r, b, depth-1)
	}
	b.WriteByte('}')
}

func randomString(r *rand.Rand, b *bytes.Buffer) {
	b.WriteByte('"')
	for range r.IntN(14) {
		b.WriteString([]string{"x", "é", "温", "😀", `\n`, `\"`, `\\`, `\/`, `\u00e9`, `\ud83d\ude00`, `\ud800`, `\u0000`, "longer text", " "}[r.IntN(14)])
	}
	b.WriteByte('"')
}

// lookUp is the reference: all of the document in maps, the last of several
// members counts.
func lookUp(doc any, names ...string) (any, bool) {
	for _, name := range names {
		m, ok := doc.(map[string]any)
		if !ok {
			return nil, false
		}
		if doc, ok = m[name]; !ok {
			return nil, false
		}
	}
	return doc, true
}

func decodeJSON(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var x any
	if err := d.Decode(&x); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("more than one value")
	}
	return x, nil
}

// equalJSON compares decoded JSON, numbers by value.
func equalJSON(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k, v := range a {
			if w, ok := b[k]; !ok || !equalJSON(v, w) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !equalJSON(a[i], b[i]) {
				return false
			}
		}
		return true
	case json.Number:
		b, ok := b.(json.Number)
		if !ok {
			return false
		}
		x, ok1 := ParseNumber(a.String(), V2016)
		y, ok2 := ParseNumber(b.String(), V2016)
		return a == b || ok1 && ok2 && Compare(x, y) == 0
	}
	return a == b
}

var extractionPaths = [][]string{{"a"}, {"b"}, {"a", "b"}, {"a", "b", "c"}, {"c", "a"}, {"other name"}, {""}}

func mustCompile(t testing.TB, src string) *Program {
	t.Helper()
	stmt, err := sql.Parse(src)
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := Compile(stmt, Options{Version: "2016-03-23", RuleName: "r", AccountID: "1"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// checkExtraction compares what a pass over b finds with the reference.
func checkExtraction(t *testing.T, b []byte, memo []memoKey) {
	t.Helper()
	var sb shapeBuilder
	for _, names := range extractionPaths {
		sb.add(names)
	}
	sh, moved := sb.build()
	refs := make([]ref, sb.slots)
	from, to, messy, ok := document(b, sh, refs, memo)
	want, err := decodeJSON(b)
	composite := err == nil
	switch want.(type) {
	case map[string]any, []any:
	default:
		composite = false
	}
	if ok && !composite {
		t.Fatalf("%q is taken for JSON: %v", b, err)
	}
	if !ok {
		if composite && utf8.Valid(b) && depthOf(want) <= maxDepth {
			t.Fatalf("%q is not taken for JSON", b)
		}
		return
	}
	// All of it, written compactly, is the same document.
	text := rawComposite(b[from:to], messy, V2016).AppendJSON(nil)
	got, err := decodeJSON(text)
	if err != nil || !equalJSON(got, want) {
		t.Fatalf("%q is written as %q (%v)", b, text, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil || compact.Len() != len(text) {
		t.Fatalf("%q is not compact", text)
	}
	m := NewMachine()
	for i, names := range extractionPaths {
		w, there := lookUp(want, names...)
		r := refs[moved[i]]
		if there != (r.to != 0) {
			t.Fatalf("%q: member %q found %v, want %v", b, names, r.to != 0, there)
		}
		if !there {
			continue
		}
		v := m.value(b[r.from:r.to], r, V2016)
		if n, ok := w.(json.Number); ok && v.IsUndefined() {
			if _, ok := ParseNumber(n.String(), V2016); !ok {
				continue
			}
		}
		got, err := decodeJSON(v.AppendJSON(nil))
		if err != nil || !equalJSON(got, w) {
			t.Fatalf("%q: member %q is %s, want %v", b, names, v, w)
		}
		if !r.messy {
			if got, err := decodeJSON(b[r.from:r.to]); err != nil || !equalJSON(got, w) || !bytes.Equal(v.AppendJSON(nil), b[r.from:r.to]) {
				t.Fatalf("%q: member %q does not stand as it is written: %s", b, names, v)
			}
		}
	}
}

func depthOf(x any) int {
	d := 0
	switch x := x.(type) {
	case map[string]any:
		for _, v := range x {
			d = max(d, depthOf(v))
		}
		return d + 1
	case []any:
		for _, v := range x {
			d = max(d, depthOf(v))
		}
		return d + 1
	}
	return 0
}

func TestExtractionAgreesWithEncodingJSON(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var b bytes.Buffer
	memo := make([]memoKey, memoKeys)
	for range 20000 {
		b.Reset()
		randomObject(r, &b, 4)
		doc := b.Bytes()
		checkExtraction(t, doc, nil)
		checkExtraction(t, doc, memo)
		checkExtraction(t, doc, memo)
		// One byte changed or cut is mostly no JSON.
		if len(doc) > 2 {
			broken := bytes.Clone(doc)
			broken[r.IntN(len(broken))] = `{}[]",:\ 0e.-tu`[r.IntN(15)]
			checkExtraction(t, broken, memo)
			checkExtraction(t, doc[:r.IntN(len(doc))], memo)
		}
	}
}

func FuzzExtraction(f *testing.F) {
	for _, s := range []string{
		`{"a":{"b":{"c":1}},"b":[1,2]}`, ` {"\u0061" : "\ud800" } `, `[{"a":1}]`, `{"a":1e400,"a":-0.0}`, "{\"a\":\"\xff\"}",
		`{"a":1}x`, `{"a":01}`, `{"a":tru}`, "{\"a\":\"\u2028\"}", `{"":""}`, `{"a":"12345678901234567\"890"}`,
	} {
		f.Add([]byte(s))
	}
	memo := make([]memoKey, memoKeys)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<12 {
			return
		}
		// Numbers the reference cannot compare.
		if bytes.ContainsAny(b, "eE") && bytes.ContainsAny(b, "0123456789") {
			if x, err := decodeJSON(b); err != nil || strange(x) {
				document(b, nil, nil, nil)
				return
			}
		}
		checkExtraction(t, b, nil)
		checkExtraction(t, b, memo)
		checkExtraction(t, b, memo)
	})
}

// strange reports whether x holds a number out of range.
func strange(x any) bool {
	switch x := x.(type) {
	case map[string]any:
		for _, v := range x {
			if strange(v) {
				return true
			}
		}
	case []any:
		for _, v := range x {
			if strange(v) {
				return true
			}
		}
	case json.Number:
		_, ok := ParseNumber(x.String(), V2016)
		return !ok
	}
	return false
}

func evalOver(t testing.TB, p *Program, payload string) (string, bool, error) {
	t.Helper()
	e := &event.Event{Topic: "a", Payload: []byte(payload), Received: time.UnixMilli(1700000000000), Seq: 1}
	out, ok, err := p.Eval(context.Background(), NewMachine(), e)
	return string(out), ok, err
}

func TestDepth(t *testing.T) {
	p := mustCompile(t, `SELECT x FROM 'a'`)
	nested := func(n int) string {
		return `{"x":1,"d":` + strings.Repeat(`[`, n-1) + strings.Repeat(`]`, n-1) + `}`
	}
	for n, want := range map[int]string{2: `{"x":1}`, 64: `{"x":1}`, 65: `{}`, 10000: `{}`} {
		if got, ok, err := evalOver(t, p, nested(n)); got != want || !ok || err != nil {
			t.Errorf("depth %d: %s %v %v, want %s", n, got, ok, err, want)
		}
		if got, _, _ := evalOver(t, mustCompile(t, `SELECT * FROM 'a'`), nested(n)); got != nested(n) {
			t.Errorf("depth %d: * does not pass it through", n)
		}
	}
}

// TestCostIsBounded holds inputs that are meant to be expensive against bounds
// far above what they take.
func TestCostIsBounded(t *testing.T) {
	var members strings.Builder
	members.WriteString(`{"a":1`)
	for i := range 1000000 {
		fmt.Fprintf(&members, `,"m%d":%d`, i, i)
	}
	members.WriteString(`,"a":2}`)
	many := members.String()
	cases := []struct{ name, sql, payload, want string }{
		{"a million members", `SELECT a FROM 'a'`, many, `{"a":2}`},
		{"a million members replaced", `SELECT *, 5 AS m7 FROM 'a' WHERE m999999 = 999999`, many, ""},
		{"10,000 levels", `SELECT a FROM 'a'`, strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat(`}`, 10000), `{}`},
		{"10,000 open arrays", `SELECT a FROM 'a'`, strings.Repeat(`[`, 10000), `{}`},
		{"a long number", `SELECT a FROM 'a'`, `{"a":` + strings.Repeat("9", 1<<20) + `}`, `{}`},
		{"a long fraction", `SELECT a FROM 'a'`, `{"a":0.` + strings.Repeat("3", 1<<20) + `}`, `{"a":0.3333333333333333333333333333333333}`},
		{"a long exponent", `SELECT a + 1 AS a FROM 'a'`, `{"a":1e` + strings.Repeat("9", 1<<10) + `}`, `{}`},
		{"far numbers", `SELECT * FROM 'a'`, `[` + strings.Repeat(`1e6144,`, 10000) + `1 ]`, ""},
		{"far numbers as text", `SELECT cast(* AS String) AS s FROM 'a'`, `[` + strings.Repeat(`1e6144,`, 10000) + `1]`, ""},
		{"escapes", `SELECT a FROM 'a'`, `{"a":"` + strings.Repeat(`\u0061`, 100000) + `"}`, ""},
		{"duplicates", `SELECT a FROM 'a'`, `{` + strings.Repeat(`"a":{"a":1},`, 100000) + `"a":3}`, `{"a":3}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := mustCompile(t, c.sql)
			start := time.Now()
			got, _, err := evalOver(t, p, c.payload)
			if limit := 10 * time.Millisecond * time.Duration(len(c.payload)>>10+10); time.Since(start) > limit {
				t.Errorf("took %v for %d KiB", time.Since(start), len(c.payload)>>10)
			}
			if err != nil || c.want != "" && got != c.want {
				t.Errorf("gives %.80s, %v", got, err)
			}
			if len(got) > memoryPerByte*len(c.payload) {
				t.Errorf("%d bytes of %d", len(got), len(c.payload))
			}
		})
	}
}

// TestBudget runs what grows out of proportion into its budget.
func TestBudget(t *testing.T) {
	list := `{"e":[` + strings.Repeat(`1,`, 50000) + `1]}`
	for _, c := range []struct{ sql, payload string }{
		{`SELECT (SELECT VALUE (SELECT VALUE 1 FROM @e WHERE false) FROM @e) AS x FROM 'a'`, list},
		{`SELECT (SELECT VALUE (SELECT VALUE @e FROM @e) FROM @e) AS x FROM 'a'`, list},
		{`SELECT (SELECT VALUE @e FROM @e) AS x FROM 'a'`, list},
		{`SELECT 1 AS x FROM 'a' WHERE EXISTS (SELECT * FROM @e AS i WHERE 2 IN @e)`, list},
	} {
		p := mustCompile(t, `SET @e = e `+c.sql)
		start := time.Now()
		_, ok, err := evalOver(t, p, c.payload)
		if ok || err == nil {
			t.Errorf("%s: no error", c.sql)
		}
		// The budget is counted in steps; this only tells a hang from an end.
		if d := time.Since(start); d > 2*time.Minute {
			t.Errorf("%s: took %v", c.sql, d)
		}
	}
	p := mustCompile(t, `SET @a = a, @b = b SELECT @a AS a, @b AS b FROM 'a'`)
	big := strings.Repeat("x", 70<<10)
	if _, _, err := evalOver(t, p, `{"a":"`+big+`","b":"`+big+`"}`); err != errVarBytes {
		t.Errorf("140 KiB of variables: %v", err)
	}
}

// TestEqualityIsNotExponential compares deep objects that differ inside.
func TestEqualityIsNotExponential(t *testing.T) {
	deep := func(leaf, order string) string {
		s := leaf
		for range 60 {
			s = fmt.Sprintf(order, s)
		}
		return s
	}
	p := mustCompile(t, `SELECT a = b AS x FROM 'a'`)
	for _, c := range []struct{ a, b, want string }{
		{deep("1", `{"k":%s,"l":1}`), deep("2", `{"k":%s,"l":1}`), `{"x":false}`},
		{deep("1", `{"k":%s,"l":1}`), deep("1.0", `{"k":%s,"l":1}`), `{"x":true}`},
		{deep("1", `{"k":%s,"l":1}`), deep("1", `{"l":1,"k":%s}`), `{"x":true}`},
		{deep("1", `{"k":%s,"l":1}`), deep("2", `{"l":1,"k":%s}`), `{"x":false}`},
		{deep("1", `{"k":1,"k":%s}`), deep("2", `{"k":1,"k":%s}`), `{"x":false}`},
	} {
		if got, _, err := evalOver(t, p, `{"a":`+c.a+`,"b":`+c.b+`}`); got != c.want || err != nil {
			t.Errorf("%.40s = %.40s gives %s, %v", c.a, c.b, got, err)
		}
	}
	list := `[` + strings.Repeat(`1,`, 60000) + `1]`
	if got, _, err := evalOver(t, p, `{"a":`+list+`,"b":`+list[:len(list)-1]+` ]}`); got != `{"x":true}` || err != nil {
		t.Errorf("60,000 items: %s, %v", got, err)
	}
}
