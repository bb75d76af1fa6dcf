package shadow

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
)

// A backlog of large updates of one shadow does not fit one entry of the bucket:
// it is made in several, and every version is kept.
func TestHeavyBacklog(t *testing.T) {
	b := newBench(t, "")
	const n = 200
	for i := range n {
		b.publish(fmt.Sprint("c", i), "$aws/things/big/shadow/update", fmt.Sprintf(`{"state":{"reported":{"n":%d,"x":%q}}}`, i, strings.Repeat("x", 7000)))
	}
	s, _ := b.serve(b.options())
	acc := b.reader("$aws/things/big/shadow/update/accepted", "$aws/things/big/shadow/update/rejected")
	for i := range n {
		if e := acc.next(); !bytes.Contains(e.Payload, fmt.Appendf(nil, `"version":%d,`, i+1)) {
			t.Fatalf("%.200s", e.Payload)
		}
	}
	h, err := s.History(t.Context(), "big", "", 0)
	if err != nil || len(h) != n || h[0].Version != n {
		t.Fatalf("%d versions: %v", len(h), err)
	}
}

// A document that cannot be read stops nobody but those who ask for it.
func TestUnreadable(t *testing.T) {
	b := newBench(t, "")
	if _, err := b.shadows.Update(t.Context(), keyOf("bad", ""), []byte("not a record"), 0); err != nil {
		t.Fatal(err)
	}
	s, _ := b.serve(b.options())
	if _, err := s.Update(t.Context(), "bad", "", []byte(`{"state":{}}`), Who{}); code(err) != 500 {
		t.Fatal(err)
	}
	if _, err := s.Update(t.Context(), "good", "", []byte(`{"state":{}}`), Who{}); err != nil {
		t.Fatal(err)
	}
}

// Sequences of a lost tail are used again: a document that knows of the lost
// requests takes the new ones all the same. Repeats of this session's own
// requests stay repeats.
func TestLostTail(t *testing.T) {
	s := &session{p: &partition{sole: true}, epoch: 5, start: 100}
	for _, c := range []struct {
		epoch, seq, want uint64
	}{{4, 90, 90}, {4, 150, 100}, {5, 150, 150}} {
		if got := s.seen(&record{epoch: c.epoch, seq: c.seq}); got != c.want {
			t.Errorf("epoch %d, request %d: seen up to %d, want %d", c.epoch, c.seq, got, c.want)
		}
	}
	s.p.sole = false
	if got := s.seen(&record{epoch: 4, seq: 150}); got != 150 {
		t.Errorf("where another process may have made it: %d", got)
	}
}

func TestKeep(t *testing.T) {
	b := newBench(t, "")
	o := b.options()
	now := time.Now()
	shift := time.Duration(0)
	o.Keep, o.Now = time.Hour, func() time.Time { return now.Add(shift) }
	s, _ := b.serve(o)
	for range 3 {
		if _, err := s.Update(t.Context(), "t", "", []byte(`{"state":{}}`), Who{}); err != nil {
			t.Fatal(err)
		}
	}
	if h, err := s.History(t.Context(), "t", "", 0); err != nil || len(h) != 3 {
		t.Fatalf("%d %v", len(h), err)
	}
	shift = 2 * time.Hour
	if h, err := s.History(t.Context(), "t", "", 0); err != nil || len(h) != 1 || h[0].Version != 3 {
		t.Fatalf("%d %v", len(h), err)
	}
	if _, err := s.Past(t.Context(), "t", "", At{Version: 2}); code(err) != 404 {
		t.Fatal(err)
	}
}

type someThings []string

func (s someThings) ThingExists(thing string) bool {
	for _, x := range s {
		if x == thing {
			return true
		}
	}
	return false
}

func TestThings(t *testing.T) {
	b := newBench(t, "")
	o := b.options()
	o.Things = someThings{"known"}
	s, _ := b.serve(o)
	if _, err := s.Update(t.Context(), "known", "", []byte(`{"state":{}}`), Who{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(t.Context(), "unknown", "", []byte(`{"state":{}}`), Who{}); code(err) != 404 || err.Error() == "" {
		t.Fatal(err)
	}
	r := b.reader("$aws/things/unknown/shadow/+/rejected")
	b.publish("c", "$aws/things/unknown/shadow/get", "")
	r.want("$aws/things/unknown/shadow/get/rejected", `{"code":404,"message":"Thing not found"}`)
}

// Two instances share the partitions; one that serves nothing itself still has
// the Go API.
func TestInstances(t *testing.T) {
	b := newBench(t, "")
	o := b.options()
	o.Owner, o.LeaseTTL = "", 300*time.Millisecond
	b.serve(o)
	o.ClientOnly, o.Positions = true, nil
	s, _ := b.serve(o)
	for i := range 3 {
		out, err := s.Update(t.Context(), "t", "n", []byte(`{"state":{"desired":{"a":1}}}`), Who{})
		if err != nil || !bytes.Contains(out, fmt.Appendf(nil, `"version":%d`, i+1)) {
			t.Fatalf("%s %v", out, err)
		}
	}
	if _, err := s.Update(t.Context(), "t", "n", []byte(`{"state":{},"version":1}`), Who{}); code(err) != 409 {
		t.Fatal(err)
	}
	if d, err := s.Change(t.Context(), "t", "n", Change{Tags: []byte(`{"x":1}`)}, Who{}); err != nil || d.Version != 4 {
		t.Fatalf("%+v %v", d, err)
	}
}

// Requests of clients on the service's own topic are not served.
func TestForged(t *testing.T) {
	b := newBench(t, "")
	s, _ := b.serve(b.options())
	e := &event.Event{Topic: requestTopic, Key: "t", ClientID: "evil", Payload: []byte(`{"state":{}}`), Protocol: event.MQTT, QoS: 1,
		Props: &event.Properties{User: []event.UserProperty{{Key: "op", Value: "update"}, {Key: "thing", Value: "t"}}}}
	if err := b.log.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(t.Context(), "after", "", []byte(`{"state":{}}`), Who{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "t", ""); code(err) != 404 {
		t.Fatal(err)
	}
}

// Several partitions, each with its worker.
func TestPartitions(t *testing.T) {
	log, err := eventlog.Open(t.Context(), eventlog.Options{Durability: eventlog.Memory, Dir: t.TempDir(), Partitions: 3})
	if err != nil {
		t.Fatal(err)
	}
	b := benchOn(t, log)
	s, _ := b.serve(b.options())
	for i := range 12 {
		thing := fmt.Sprint("t", i)
		if _, err := s.Update(t.Context(), thing, "", []byte(`{"state":{"desired":{"a":1}}}`), Who{}); err != nil {
			t.Fatal(err)
		}
		name := topic.Name("$aws/things/" + thing + "/shadow/update")
		if err := log.Publish(t.Context(), &event.Event{Topic: name, Payload: []byte(`{"state":{"reported":{"a":1}}}`), ClientID: "d", QoS: 1}); err != nil {
			t.Fatal(err)
		}
		if out, err := s.Update(t.Context(), thing, "", []byte(`{"state":{},"version":2}`), Who{}); err != nil {
			t.Fatalf("%s %v", out, err)
		}
	}
}
