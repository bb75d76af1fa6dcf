package eventlog

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog/jet"
	"github.com/weir-iot/weir/internal/topic"
)

// wire encodes e as the stream keeps it, with what the server and a batch add.
func wire(e *event.Event) *jet.Message {
	h := appendHeader(nil, e)
	h = append(h, "Nats-Batch-Id:abc1\r\nNats-Batch-Sequence:7\r\nNats-Stream: EVENTS-0\r\nNats-Sequence: 9\r\n"...)
	return &jet.Message{
		Seq: e.Seq, Subject: appendSubject(nil, e.Partition, e.Topic), Header: h, Payload: e.Payload,
		Stored: []byte("2026-05-28T20:26:40.123456789Z"),
	}
}

func fullEvent() *event.Event {
	return &event.Event{
		Topic: "$aws/things/a.b c/x//ü*>", Payload: []byte("\x00\r\n\xff"), ClientID: " a%b\r\nt:1 ", Principal: "p=\x00\x7f",
		SourceIP: "2001:db8::1", Received: time.UnixMilli(1_780_000_000_123).UTC(), Key: "k\t", Seq: 77, Partition: 3,
		QoS: 1, Retain: true, Protocol: event.HTTP, Hops: 255, Aside: "a\r\nb",
		Props: &event.Properties{
			ContentType: "a/b; c=d", ResponseTopic: "r/#", CorrelationData: []byte{0, 1, 255}, MessageExpiry: 1<<32 - 1, PayloadUTF8: true,
			User: []event.UserProperty{{Key: "a=b", Value: "c=d"}, {Key: "", Value: ""}, {Key: "a=b", Value: "x\r\nc:y"}, {Key: " ", Value: " "}},
		},
	}
}

func TestEveryFieldSurvivesTheStream(t *testing.T) {
	// A field that is added to Event or Properties must be added to the codec.
	if n, m := reflect.TypeFor[event.Event]().NumField(), reflect.TypeFor[event.Properties]().NumField(); n != 15 || m != 6 {
		t.Fatalf("Event has %d fields, Properties %d: look at the codec", n, m)
	}
	bare := &event.Event{Topic: "a", Payload: []byte{}, Received: time.UnixMilli(0).UTC(), Seq: 1}
	variants := []*event.Event{fullEvent(), bare}
	for i := range reflect.TypeFor[event.Event]().NumField() {
		e := *bare // only this field set
		reflect.ValueOf(&e).Elem().Field(i).Set(reflect.ValueOf(*fullEvent()).Field(i))
		variants = append(variants, &e)
	}
	for i := range reflect.TypeFor[event.Properties]().NumField() {
		e := *bare
		e.Props = &event.Properties{}
		reflect.ValueOf(e.Props).Elem().Field(i).Set(reflect.ValueOf(*fullEvent().Props).Field(i))
		variants = append(variants, &e)
	}
	server, empty := *bare, *bare
	server.Protocol, empty.Props = event.Server, &event.Properties{}
	for _, e := range append(variants, &server, &empty) {
		m := wire(e)
		got, err := decode(m, e.Partition)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, e) {
			t.Errorf("\n got %+v %+v\nwant %+v %+v\nfrom %q", got, got.Props, e, e.Props, m.Header)
		}
	}
}

func TestHeadersOfAPlainEventAreShort(t *testing.T) {
	e := &event.Event{Topic: "a/b", ClientID: "dev-1", QoS: 1, Received: time.UnixMilli(1_780_000_000_123)}
	if h := string(appendHeader(nil, e)); h != "t:1780000000123\r\nc:dev-1\r\n" {
		t.Errorf("%q", h)
	}
}

func FuzzDecode(f *testing.F) {
	m := wire(fullEvent())
	f.Add(string(m.Subject), m.Header, m.Payload)
	f.Add("ev.0.m.a", []byte("t:\r\nu:\r\nu:%\r\nu:%4\r\ncd:*\r\nx:99999999999\r\nh:256\r\n:\r\nq"), []byte{})
	f.Add("ev.0.", []byte("\r\n\r\n"), []byte("x"))
	f.Fuzz(func(t *testing.T, subject string, header, payload []byte) {
		e, err := decode(&jet.Message{Seq: 1, Subject: []byte(subject), Header: header, Payload: payload}, 0)
		if err != nil {
			return
		}
		if !bytes.Equal(e.Payload, payload) {
			t.Fatal("the payload has changed")
		}
		// What was read is written in a way that reads the same.
		again, err := decode(&jet.Message{Seq: 1, Subject: appendSubject(nil, 0, e.Topic), Header: appendHeader(nil, e), Payload: e.Payload}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !again.Received.Equal(e.Received) && !e.Received.IsZero() {
			t.Fatal(again.Received, e.Received)
		}
		again.Received = e.Received
		if e.Props != nil && len(e.Props.CorrelationData) == 0 {
			e.Props.CorrelationData = nil
		}
		if !reflect.DeepEqual(e, again) {
			t.Fatalf("\n%+v %+v\n%+v %+v", e, e.Props, again, again.Props)
		}
	})
}

// FuzzHeader builds events of arbitrary texts: none may reach into another
// header or get lost.
func FuzzHeader(f *testing.F) {
	f.Add("a", "b", "c", "d")
	f.Add(" x ", "%41", "=\r\n", "\x00\x7f")
	f.Fuzz(func(t *testing.T, client, principal, name, value string) {
		e := &event.Event{Topic: "a", ClientID: client, Principal: principal, Received: time.UnixMilli(1).UTC(), Seq: 1, Payload: []byte{},
			Props: &event.Properties{User: []event.UserProperty{{Key: name, Value: value}}}}
		got, err := decode(wire(e), 0)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, e) {
			t.Fatalf("got %+v %+v", got, got.Props)
		}
	})
}

func TestSupersetCoversAndIsValid(t *testing.T) {
	for want, in := range map[string][]string{
		"":           nil,
		"ev.0.m.a":   {"ev.0.m.a"},
		"ev.0.m.*":   {"ev.0.m.a", "ev.0.m.b"},
		"ev.0.m.>":   {"ev.0.m.a", "ev.0.m.b.c"},
		"ev.0.*.>":   {"ev.0.m.a", "ev.0.s.b.c"},
		"ev.0.m.a.>": {"ev.0.m.a.>", "ev.0.m.a.b"},
	} {
		if got := superset(in); got != want {
			t.Errorf("%v: %q, want %q", in, got, want)
		}
	}
	// Both subjects of "a/#" in standard mode.
	var subjects []string
	for _, s := range topic.FilterSubjects("a/#", topic.Standard) {
		subjects = append(subjects, "ev.0."+s)
	}
	if got := superset(subjects); got != "ev.0.m.>" {
		t.Errorf("%v: %q", subjects, got)
	}
	if strings.Contains(superset([]string{"ev.0.m.>", "ev.0.m.a.b"}), "a") {
		t.Error("too narrow")
	}
}
