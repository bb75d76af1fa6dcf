package policy

import (
	"fmt"
	"net/netip"
	"testing"
)

// tenPolicies are what a device with many rights has: 10 policies of about 4
// statements each, with variables and conditions.
func tenPolicies(tb testing.TB) *Set {
	var sources []Source
	for i := range 10 {
		sources = append(sources, Source{fmt.Sprint("p", i), parse(tb, fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [
			{"Effect": "Allow", "Action": "iot:Connect", "Resource": "%[1]sclient/${iot:Connection.Thing.ThingName}"},
			{"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": [
				"%[1]stopic/p%[2]d/${iot:Connection.Thing.ThingName}/*", "%[1]stopic/p%[2]d/${iot:Connection.Thing.Attributes[site]}/*/cmd"]},
			{"Effect": "Allow", "Action": "iot:Subscribe", "Resource": "%[1]stopicfilter/p%[2]d/*"},
			{"Effect": "Deny", "Action": "iot:*", "Resource": "%[1]stopic/p%[2]d/locked/*", "Condition": {"NotIpAddress": {"aws:SourceIp": "192.0.2.0/24"}}}]}`, prefix, i))})
	}
	return Compile(sources...)
}

func benchFacts() *Facts {
	return (&Facts{
		ClientID: "thing-4711", MQTT: true, Secure: true, SourceIP: netip.MustParseAddr("198.51.100.7"),
		Thing: &Thing{Name: "thing-4711", Type: "pump", Attributes: map[string]string{"site": "berlin"}},
	}).Prepare()
}

// The worst case: every statement is looked at, none allows.
func BenchmarkDecideTenPolicies(b *testing.B) {
	s, f := tenPolicies(b), benchFacts()
	for name, res := range map[string]string{
		"first": "topic/p0/thing-4711/up", "last": "topic/p9/thing-4711/up", "none": "topic/p9/thing-4712/up", "denied": "topic/p9/locked/x",
	} {
		b.Run(name, func(b *testing.B) {
			r := &Request{Action: ActionOf("iot:Publish"), Resource: prefix + res, Facts: f}
			b.ReportAllocs()
			for b.Loop() {
				s.Decide(r)
			}
		})
	}
}

func BenchmarkBoundTenPolicies(b *testing.B) {
	s, f := tenPolicies(b), benchFacts()
	for name, topic := range map[string]string{"first": "p0/thing-4711/up", "last": "p9/thing-4711/up", "none": "p9/thing-4712/up", "denied": "p9/locked/x"} {
		b.Run(name, func(b *testing.B) {
			bound := s.Bind(ActionOf("iot:Publish"), prefix+"topic/", f)
			b.ReportAllocs()
			for b.Loop() {
				bound.Allows(topic, nil)
			}
		})
	}
}

func BenchmarkBindTenPolicies(b *testing.B) {
	s, f := tenPolicies(b), benchFacts()
	a := ActionOf("iot:Publish")
	b.ReportAllocs()
	for b.Loop() {
		s.Bind(a, prefix+"topic/", f)
	}
}

func BenchmarkCompileTenPolicies(b *testing.B) {
	s := tenPolicies(b)
	for b.Loop() {
		Compile(s.sources...)
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	s, f := tenPolicies(t), benchFacts()
	r := &Request{Action: ActionOf("iot:Publish"), Resource: prefix + "topic/p9/thing-4712/up", Facts: f}
	if n := testing.AllocsPerRun(100, func() { s.Decide(r) }); n != 0 {
		t.Error(n, "allocations")
	}
	bound := s.Bind(r.Action, prefix+"topic/", f)
	if n := testing.AllocsPerRun(100, func() { bound.Allows("p9/thing-4712/up", nil) }); n != 0 || !bound.Quick() {
		t.Error(n, "allocations,", bound.deny.tries()+bound.allow.tries(), "tries")
	}
}
