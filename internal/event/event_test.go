package event

import (
	"testing"
	"time"
)

func TestIDReadsBackIntoAPosition(t *testing.T) {
	at := time.UnixMilli(1_780_000_000_123).UTC()
	for _, e := range []Event{
		{Partition: 0, Seq: 1, Received: at},
		{Partition: MaxPartitions - 1, Seq: 1<<62 - 1, Received: at},
	} {
		text := e.ID().String()
		id, err := ParseID(text)
		if err != nil || id != e.ID() {
			t.Fatalf("%s: %v", text, err)
		}
		if p, seq, received := id.Position(); p != e.Partition || seq != e.Seq || !received.Equal(at) {
			t.Errorf("%s: partition %d, sequence %d, %v", text, p, seq, received)
		}
	}
	for _, s := range []string{"", "x", "018f9b3c-0000-4000-8000-000000000001", "zzzzzzzz-0000-8000-8000-000000000001"} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("ParseID(%q) has no error", s)
		}
	}
}

func TestOrderingKey(t *testing.T) {
	for want, e := range map[string]Event{
		"thing":  {Topic: "$aws/things/thing/shadow/update", ClientID: "c"},
		"c":      {Topic: "a/b", ClientID: "c", Principal: "p"},
		"p":      {Topic: "a/b", Principal: "p"},
		"source": {Topic: "$aws/things/thing/shadow/update", Key: "source"},
	} {
		if got := e.OrderingKey(); got != want {
			t.Errorf("%q: %q", want, got)
		}
	}
}

func TestExpired(t *testing.T) {
	at := time.UnixMilli(1_780_000_000_000)
	e := Event{Received: at, Props: &Properties{MessageExpiry: 2}}
	if e.Expired(at.Add(1999*time.Millisecond)) || !e.Expired(at.Add(2*time.Second)) {
		t.Error("a message expires when its seconds have passed")
	}
	if (&Event{Received: at}).Expired(at.Add(time.Hour)) {
		t.Error("a message without expiry expired")
	}
}
