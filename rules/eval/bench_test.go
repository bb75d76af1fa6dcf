package eval_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

// The telemetry of the project's figures: 204 bytes, twelve members.
const telemetry = `{"deviceId":"d-00042","ts":1700000000000,"seq":1000000000,"temperature":%s,"humidity":45.2,` +
	`"battery":87,"location":{"lat":47.61,"lon":-122.33},"tags":["a","b"],"fw":"2.7.14-r3","net":"lte-m1","status":"%s"}`

const exampleRule = `SELECT deviceId, temperature, temperature*1.8+32 AS f, topic(2) AS site ` +
	`FROM 'factory/+/device/+/telemetry' WHERE temperature > 40 AND status = 'ok'`

func message(payload string) *event.Event {
	return &event.Event{
		Topic: "factory/7/device/42/telemetry", Payload: []byte(payload), ClientID: "d-00042",
		Received: time.UnixMilli(1700000000000).UTC(), Seq: 42, QoS: 1,
	}
}

// fleet is ten messages: one matches the example rule, one fails on status, the
// others on temperature.
func fleet() []*event.Event {
	events := make([]*event.Event, 10)
	for i := range events {
		temperature, status := fmt.Sprintf("%d.%d", 10+i*2, i), "ok"
		switch i {
		case 0:
			temperature = "41.3"
		case 1:
			temperature, status = "52.7", "er"
		}
		events[i] = message(fmt.Sprintf(telemetry, temperature, status))
	}
	return events
}

func compile(tb testing.TB, src, version string) *eval.Program {
	tb.Helper()
	stmt, err := sql.Parse(src)
	if err != nil {
		tb.Fatal(err)
	}
	p, _, err := eval.Compile(stmt, eval.Options{Version: version, RuleName: "bench", AccountID: "123456789012"})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func benchmark(b *testing.B, src string, events []*event.Event, want int) {
	p := compile(b, src, "2016-03-23")
	m := eval.NewMachine()
	ctx := context.Background()
	acted := 0
	for _, e := range events {
		_, ok, err := p.Eval(ctx, m, e)
		if err != nil {
			b.Fatal(err)
		}
		if ok {
			acted++
		}
	}
	if acted != want {
		b.Fatalf("%d of %d messages match, want %d", acted, len(events), want)
	}
	b.ReportAllocs()
	defer cpuTime(b)()
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		if _, _, err := p.Eval(ctx, m, events[i%len(events)]); err != nil {
			b.Fatal(err)
		}
	}
}

// cpuTime reports the CPU time of the process beside the wall clock's: on a
// busy machine the latter says little.
func cpuTime(b *testing.B) (stop func()) {
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	start := used()
	return func() { b.ReportMetric(float64(used()-start)/float64(b.N), "cpu-ns/op") }
}

// BenchmarkExample is the example rule over a 10 % match.
func BenchmarkExample(b *testing.B) { benchmark(b, exampleRule, fleet(), 1) }

// BenchmarkExampleFalse has WHERE false for every message.
func BenchmarkExampleFalse(b *testing.B) { benchmark(b, exampleRule, fleet()[1:], 0) }

// BenchmarkExampleTrue has WHERE true for every message.
func BenchmarkExampleTrue(b *testing.B) { benchmark(b, exampleRule, fleet()[:1], 1) }

// BenchmarkStarWhere is SELECT * with WHERE over a 10 % match.
func BenchmarkStarWhere(b *testing.B) {
	benchmark(b, `SELECT * FROM 'factory/#' WHERE temperature > 40 AND status = 'ok'`, fleet(), 1)
}

// BenchmarkStarWhereTrue is SELECT * with a WHERE that always holds.
func BenchmarkStarWhereTrue(b *testing.B) {
	benchmark(b, `SELECT * FROM 'factory/#' WHERE temperature > 40 AND status = 'ok'`, fleet()[:1], 1)
}

// BenchmarkStarColumn adds a column to every message.
func BenchmarkStarColumn(b *testing.B) {
	benchmark(b, `SELECT *, temperature*1.8+32 AS f FROM 'factory/#'`, fleet(), 10)
}

// BenchmarkLast4KiB reads two members at the end of 4 KiB.
func BenchmarkLast4KiB(b *testing.B) {
	var s strings.Builder
	s.WriteString(`{`)
	for i := 0; s.Len() < 4<<10-60; i++ {
		fmt.Fprintf(&s, `"sensor%d":{"t":%d.%d,"unit":"celsius","ok":true},`, i, 20+i, i%10)
	}
	s.WriteString(`"temperature":41.3,"status":"ok"}`)
	b.SetBytes(int64(s.Len()))
	benchmark(b, `SELECT temperature FROM 'factory/#' WHERE temperature > 40 AND status = 'ok'`, []*event.Event{message(s.String())}, 1)
}

// BenchmarkTrie1000 finds the one of 1,000 rules that a message reaches and
// evaluates it.
func BenchmarkTrie1000(b *testing.B) {
	trie := topic.NewTrie[*eval.Program](topic.AWS)
	for i := range 1000 {
		trie.Add(topic.Filter(fmt.Sprintf("factory/%d/device/+/telemetry", i)),
			compile(b, fmt.Sprintf(`SELECT deviceId, temperature FROM 'factory/%d/device/+/telemetry' WHERE temperature > 40`, i), "2016-03-23"))
	}
	events := fleet()
	m, ctx := eval.NewMachine(), context.Background()
	var hits []*eval.Program
	b.ReportAllocs()
	defer cpuTime(b)()
	for i := 0; b.Loop(); i++ {
		e := events[i%len(events)]
		hits = trie.Match(e.Topic, hits[:0])
		if len(hits) != 1 {
			b.Fatal(len(hits))
		}
		if _, _, err := hits[0].Eval(ctx, m, e); err != nil {
			b.Fatal(err)
		}
	}
}
