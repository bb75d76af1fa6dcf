package mqtt

import (
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// The log loses its end while clients are connected, and gives the sequences out
// again: nobody takes a new message for one it has had.
func TestLogLosesItsEnd(t *testing.T) {
	b := newFakeBucket()
	r := start(t, persist(b, func(o *Options) { o.Safety.QueuedMessages = 5 }))
	live, pub := r.connect(4, "live"), r.connect(4, "pub")
	kept, _ := r.resume(5, "kept")
	member := r.connect(5, "member")
	late := r.connect(5, "late", packets.PropReceiveMaximum, 0, 1)
	for _, p := range []*peer{live, kept, late} {
		p.subscribe("a")
	}
	member.subscribe("$share/g/a")
	pub.send1("a", 0, 50)
	for _, p := range []*peer{live, kept, member} {
		p.collect(50)
		p.ping()
	}
	held := late.delivery() // and all that is behind it waits
	r.log.lose(20)
	pub.send1("a", 100, 160)
	for _, p := range []*peer{live, kept, member} {
		for i, d := range p.collect(60) {
			if d.payload != fmt.Sprint(100+i) || d.dup {
				t.Fatal(d, 100+i)
			}
		}
		p.ping()
	}
	late.ack(held.pid)
	var got []string
	for len(got) == 0 || got[len(got)-1] != "159" {
		d := late.delivery()
		late.ack(d.pid)
		got = append(got, d.payload)
	}
	// What it had in its queue comes, what was lost does not, what is new does.
	if n := len(got); n < 60 || n > 110 {
		t.Error(n, got)
	}
	for i, p := range got[len(got)-60:] {
		if p != fmt.Sprint(100+i) {
			t.Fatal(i, p, got)
		}
	}
	r.leave(kept, "kept")
	pub.send1("a", 160, 170)
	kept, present := r.resume(5, "kept")
	if !present {
		t.Error("no session")
	}
	for i, d := range kept.collect(10) {
		if d.payload != fmt.Sprint(160+i) {
			t.Fatal(d)
		}
	}
	kept.ping()
}
