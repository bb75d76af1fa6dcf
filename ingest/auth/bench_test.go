package auth

import (
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
	s, err := a.NewSession(func() (Standing, error) {
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
	b.Run("not cached", func(b *testing.B) {
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

func TestCachedDecisionsDoNotAllocate(t *testing.T) {
	a, p := benchPrincipal(t, func() uint64 { return 1 })
	for _, topic := range []string{"p9/dev-4711/a", "p9/dev-4712/a"} {
		if n := testing.AllocsPerRun(100, func() { a.May(p, Publish, topic) }); n != 0 {
			t.Error(n, "allocations")
		}
	}
}
