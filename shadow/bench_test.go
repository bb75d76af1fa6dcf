package shadow

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// update publishes one update for each thing and waits until all are accepted.
func updateAll(b *bench, acc *reader, things int, payload string) {
	b.t.Helper()
	for i := range things {
		e := &event.Event{Topic: topic.Name(fmt.Sprintf("$aws/things/thing-%06d/shadow/update", i)), Payload: []byte(payload), ClientID: "bench", QoS: 1}
		if err := b.log.Append(b.t.Context(), e, nil, 0); err != nil {
			b.t.Fatal(err)
		}
	}
	for range things {
		if e := acc.next(); strings.HasSuffix(string(e.Topic), "rejected") {
			b.t.Fatalf("%s", e.Payload)
		}
	}
}

const benchUpdate = `{"state":{"reported":{"temperature":21.5,"humidity":63.2,"battery":87,"location":{"lat":47.61,"lon":-122.33},"fw":"2.7.14-r3"}}}`

// An update on its whole way behind the gateway: log, document, answers.
func BenchmarkUpdate(b *testing.B) {
	x := newBench(b, "")
	o := x.options()
	o.Limits.InFlight = 0
	x.serve(o)
	acc := x.reader("$aws/things/+/shadow/update/accepted", "$aws/things/+/shadow/update/rejected")
	updateAll(x, acc, 1000, benchUpdate)
	b.ResetTimer()
	for n := 0; n < b.N; n += 1000 {
		updateAll(x, acc, min(1000, b.N-n), benchUpdate)
	}
}

// What a version costs without the log.
func BenchmarkApply(b *testing.B) {
	l := AWS()
	p, _ := parseUpdate([]byte(benchUpdate), &l)
	var r *record
	r, _ = r.apply(&p, 1, &l)
	stored := r.append(nil)
	b.ReportAllocs()
	for b.Loop() {
		r, _ := decode(stored)
		p, _ := parseUpdate([]byte(benchUpdate), &l)
		n, _ := r.apply(&p, 1_700_000_000_000, &l)
		n.append(nil)
		n.appendAccepted(nil, &p)
		n.appendDocuments(nil, r, "")
	}
}
