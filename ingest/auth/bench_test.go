package auth

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/weir-iot/weir/ingest/policy"
)

// tenPolicies are what a device with many rights has.
func tenPolicies() []Policy {
	var list []Policy
	for i := range 10 {
		list = append(list, Policy{Name: fmt.Sprint("p", i), Document: fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [
			{"Effect": "Allow", "Action": "iot:Connect", "Resource": "%[1]sclient/${iot:Connection.Thing.ThingName}"},
			{"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": ["%[1]stopic/p%[2]d/${iot:ClientId}/*", "%[1]stopic/p%[2]d/all/*/cmd"]},
			{"Effect": "Allow", "Action": "iot:Subscribe", "Resource": "%[1]stopicfilter/p%[2]d/*"},
			{"Effect": "Deny", "Action": "iot:*", "Resource": "%[1]stopic/p%[2]d/locked/*"}]}`, "arn:aws:iot:us-east-1:123456789012:", i)})
	}
	return list
}

func benchPrincipal(tb testing.TB, generation func() uint64) (*Policies, *Principal) {
	a := NewPolicies(PoliciesOptions{AccountID: "123456789012", Region: "us-east-1", Generation: generation})
	f := (&policy.Facts{ClientID: "dev-4711", MQTT: true, SourceIP: netip.MustParseAddr("192.0.2.1")}).Prepare()
	s, err := a.NewSession("c", func() (Standing, error) {
		set, err := a.Compile(tenPolicies())
		return Standing{Set: set, Facts: f}, err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return a, &Principal{ID: "c", ClientID: "dev-4711", Data: s}
}

func BenchmarkMay(b *testing.B) {
	gen := uint64(1)
	a, p := benchPrincipal(b, func() uint64 { return gen })
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !a.May(p, Publish, "p9/dev-4711/telemetry") {
				b.Fatal("denied")
			}
		}
	})
	b.Run("denied, cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if a.May(p, Publish, "p9/dev-4712/telemetry") {
				b.Fatal("allowed")
			}
		}
	})
	topics := make([]string, 4096)
	for i := range topics {
		topics[i] = fmt.Sprintf("p9/dev-4711/%d", i)
	}
	b.Run("another topic each time", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			a.May(p, Publish, topics[i%len(topics)])
			i++
		}
	})
	b.Run("after a change", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			gen++
			a.May(p, Publish, "p9/dev-4711/telemetry")
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				a.May(p, Publish, "p9/dev-4711/telemetry")
			}
		})
	})
}

func TestDecisionsDoNotAllocate(t *testing.T) {
	a, p := benchPrincipal(t, func() uint64 { return 1 })
	for range 2 { // what is asked again is bound
		a.May(p, Publish, "x")
	}
	i, topics := 0, []string{"p9/dev-4711/a", "p9/dev-4712/a", "p1/all/x/cmd", "other"}
	if n := testing.AllocsPerRun(100, func() { a.May(p, Publish, topics[i%len(topics)]); i++ }); n != 0 {
		t.Error(n, "allocations")
	}
}

// Policies with many wildcards are slow to ask: their answers are remembered, and
// stay right when they change.
func TestSlowPoliciesAreRemembered(t *testing.T) {
	var names []string
	for i := range 40 {
		names = append(names, fmt.Sprintf("arn:aws:iot:us-east-1:123456789012:topic/*a*b%d/${iot:ClientId}", i))
	}
	document := func(effect string) string {
		b, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{map[string]any{"Effect": effect, "Action": "iot:Publish", "Resource": names}}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	gen, effect := uint64(1), "Allow"
	a := NewPolicies(PoliciesOptions{AccountID: "123456789012", Region: "us-east-1", Generation: func() uint64 { return gen }})
	s, err := a.NewSession("c", func() (Standing, error) {
		set, err := a.Compile([]Policy{{Name: "p", Document: document(effect)}})
		return Standing{Set: set, Facts: (&policy.Facts{ClientID: "c", MQTT: true}).Prepare()}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &Principal{Data: s}
	for range 5 {
		if !a.May(p, Publish, "xaxb39/c") || a.May(p, Publish, "xaxb39/d") || a.May(p, Receive, "xaxb39/c") {
			t.Fatal("not what the policy says")
		}
	}
	if n := testing.AllocsPerRun(100, func() { a.May(p, Publish, "xaxb39/c") }); n != 0 {
		t.Error(n, "allocations")
	}
	effect = "Deny"
	gen++
	for range 3 {
		if a.May(p, Publish, "xaxb39/c") {
			t.Fatal("allowed by what was withdrawn")
		}
	}
}
