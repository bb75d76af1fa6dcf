package eval

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules/sql"
)

// sharedPayloads are read once and again: both ways must note the same places.
var sharedPayloads = []string{
	`{}`, ` { } `, `[]`, `[{"a":1}]`, `1`, `"a"`, ``, `{"a":1`, `{"a":1}x`, "\xff",
	`{"a":1,"b":"x","c":{"d":[1,2],"e":{"f":null}}}`,
	` {"a" : 1 , "b" :"\u0061", "c": { "d" : 1.50 } } `,
	`{"a":1,"a":2,"c":{"d":1},"c":{"e":{"f":7}}}`,
	`{"c":{"d":1},"c":3}`, `{"c":3,"c":{"d":1}}`, `{"\u0061":5,"c":{"\u0064":"\n"}}`,
	`{"a":-1e5,"b":true,"c":"é"}`,
	`{"c":` + strings.Repeat(`{"c":`, 63) + `1` + strings.Repeat(`}`, 64),
	`{"c":` + strings.Repeat(`{"c":`, 64) + `1` + strings.Repeat(`}`, 65),
	manyMembers(maxIndexed), manyMembers(maxIndexed + 1),
}

func manyMembers(n int) string {
	var b strings.Builder
	b.WriteString(`{"a":1`)
	for i := range n - 1 {
		fmt.Fprintf(&b, `,"x%d":%d`, i, i)
	}
	b.WriteString("}")
	return b.String()
}

func sharedShapes() []*shape {
	var out []*shape
	for _, paths := range [][]string{{"a"}, {"a", "b", "c"}, {"c.d", "c.e.f"}, {"c", "c.d", "a"}, {"nothing"}, {"c.e", "b"}} {
		var sb shapeBuilder
		for _, p := range paths {
			sb.add(strings.Split(p, "."))
		}
		sh, _ := sb.build()
		out = append(out, sh)
	}
	return append(out, nil)
}

func checkShared(t *testing.T, payload []byte) {
	t.Helper()
	m := NewMachine()
	m.event = &event.Event{Payload: payload}
	for round := range 3 {
		for i, sh := range sharedShapes() {
			a, b := make([]ref, 8), make([]ref, 8)
			from, to, messy, ok := document(payload, sh, a, nil)
			from2, to2, messy2, ok2 := m.document(payload, sh, b)
			if ok != ok2 || ok && (from != from2 || to != to2 || messy != messy2 || !slices.Equal(a, b)) {
				t.Fatalf("%q, shape %d, round %d: %d %d %v %v %v, shared %d %d %v %v %v", payload, i, round, from, to, messy, ok, a, from2, to2, messy2, ok2, b)
			}
		}
	}
}

func TestSharedReadsAlike(t *testing.T) {
	for _, p := range sharedPayloads {
		checkShared(t, []byte(p))
	}
}

func FuzzShared(f *testing.F) {
	for _, p := range sharedPayloads {
		f.Add([]byte(p))
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkShared(t, b) })
}

// One Machine that evaluates many rules over each event gives what a Machine of
// its own gives each.
func TestSharedEvaluatesAlike(t *testing.T) {
	var programs []*Program
	for _, src := range []string{
		`SELECT a, c.d FROM 't' WHERE a = 1`, `SELECT a, c.d FROM 't' WHERE c.d <> 1`, `SELECT * FROM 't' WHERE b = 'x'`, `SELECT b FROM 't'`,
		`SELECT (SELECT VALUE d FROM c) AS x, a FROM 't'`, `SELECT 1 AS one FROM 't'`, `SELECT a, c.d FROM 't' WHERE b = 'x'`, `SELECT c FROM 't' WHERE a > 0`,
	} {
		for _, v := range []string{"2015-10-08", "2016-03-23"} {
			stmt, err := sql.Parse(src)
			if err != nil {
				t.Fatal(err)
			}
			p, _, err := Compile(stmt, Options{Version: v, RuleName: "r"})
			if err != nil {
				if v == "2015-10-08" {
					continue // it has no nested SELECT
				}
				t.Fatal(err)
			}
			programs = append(programs, p)
		}
	}
	m := NewMachine()
	for round := range 3 {
		for i, payload := range sharedPayloads {
			e := &event.Event{Topic: "t", Payload: []byte(payload), Seq: uint64(i + 1)}
			for k := range programs {
				p := programs[(k*7+round)%len(programs)]
				a, okA, errA := p.Eval(context.Background(), m, e)
				b, okB, errB := p.Eval(context.Background(), NewMachine(), e)
				if okA != okB || !bytes.Equal(a, b) || (errA == nil) != (errB == nil) {
					t.Fatalf("%s over %q: %s %v %v, alone %s %v %v", p.Statement().Source, payload, a, okA, errA, b, okB, errB)
				}
			}
		}
	}
}
