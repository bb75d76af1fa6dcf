package mqtt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/ingest"
)

// A client that takes topic aliases is sent a name once, as long as it fits.
func TestTopicAliasesToTheClient(t *testing.T) {
	r := start(t, persist(newFakeBucket()))
	most := []byte{packets.PropTopicAliasMaximum, 0, 3}
	p := r.connect(5, "p", append(most, packets.PropMaximumPacketSize, 0, 0, 0, 60)...)
	plain, pub := r.connect(5, "plain"), r.connect(4, "pub")
	p.subscribe("#")
	plain.subscribe("#")
	names := map[uint16]string{}
	saved := 0
	take := func(want, payload string) {
		t.Helper()
		d := p.delivery()
		p.ack(d.pid)
		if i := bytes.IndexByte(d.props, packets.PropTopicAlias); i >= 0 {
			alias := binary.BigEndian.Uint16(d.props[i+1:])
			if alias < 1 || alias > 3 {
				t.Fatal("alias", alias)
			}
			if d.topic == "" {
				d.topic = names[alias]
				saved++
			}
			names[alias] = d.topic
		}
		if d.topic != want || d.payload != payload {
			t.Fatalf("got %s=%s, want %s=%s", d.topic, d.payload, want, payload)
		}
		if d := plain.delivery(); d.topic != want || d.payload != payload {
			t.Fatal(d)
		} else {
			plain.ack(d.pid)
		}
	}
	send := func(topic, payload string) {
		pub.publish(topic, 1, 1, payload)
		pub.puback()
	}
	for i := range 10 { // more topics than aliases
		for k := range 4 {
			topic := fmt.Sprint("topic/", k)
			send(topic, fmt.Sprint(i))
			take(topic, fmt.Sprint(i))
		}
	}
	if saved != 3*9 {
		t.Error(saved, "names were left out")
	}
	// What is over the client's packet size teaches it nothing.
	send("another/topic", string(make([]byte, 60)))
	if d := plain.delivery(); d.topic != "another/topic" {
		t.Error(d)
	} else {
		plain.ack(d.pid)
	}
	for range 2 * aliasIdle { // the others become free
		send("another/topic", "x")
		take("another/topic", "x")
	}
	if len(names) != 3 || saved < 3*9+aliasIdle-2 {
		t.Error(names, saved)
	}
	// A new connection knows none.
	p, _ = r.resume(5, "again", append(expiry(100), most...)...)
	p.subscribe("topic/0")
	send("topic/0", "1")
	d := p.delivery()
	r.leave(p, "again")
	p, _ = r.resume(5, "again", append(expiry(100), most...)...)
	if d2 := p.delivery(); d.topic != "topic/0" || d2.topic != "topic/0" || !d2.dup {
		t.Error(d, d2)
	}
}

func TestRates(t *testing.T) {
	var clock atomic.Int64
	began := time.Now()
	now := func() time.Time { return began.Add(time.Duration(clock.Load())) }
	r := start(t, func(o *Options) { o.Rates, o.Now = ingest.AWSRates(), now })
	for _, v := range versions {
		id := fmt.Sprint("p", v)
		p := r.connect(v, id)
		before := len(r.log.events(0))
		for i := range 103 {
			p.publish("a", 1, uint16(i+1), "x")
		}
		taken, refused := 0, 0
		for range map[byte]int{4: 100, 5: 103}[v] {
			switch _, code := p.puback(); code {
			case codeSuccess:
				taken++
			case codeQuota:
				refused++
			}
		}
		p.ping()
		if n := len(r.log.events(0)) - before; taken != 100 || n != 100 || v == 5 && refused != 3 {
			t.Error(v, taken, refused, n)
		}
		clock.Add(int64(500 * time.Millisecond))
		for i := range 60 {
			p.publish("a", 0, 0, "x")
			_ = i
		}
		p.ping()
		if n := len(r.log.events(0)) - before; n != 150 {
			t.Error("half a second later:", n)
		}
		// The same client id again within a second.
		q := r.dial()
		q.v5 = v == 5
		q.send(connectPacket(v, id, 2, 60, nil))
		if _, body := q.expect(packets.Connack); body[1] != map[byte]byte{4: 3, 5: codeConnectRate}[v] {
			t.Errorf("CONNACK % x", body)
		}
		p.ping() // and the first stays
		clock.Add(int64(time.Second))
		r.connect(v, id)
	}
	if !bytes.Contains([]byte(r.out.String()), []byte("more publishes than a second allows")) {
		t.Error("no log line")
	}
}

func TestByteRateSlowsDown(t *testing.T) {
	r := start(t, func(o *Options) { o.Rates.Bytes = 100_000 })
	p := r.connect(5, "p")
	began := time.Now()
	for i := range 15 {
		p.publish("a", 1, uint16(i+1), string(make([]byte, 10_000)))
	}
	for range 15 {
		if _, code := p.puback(); code != 0 {
			t.Error(code)
		}
	}
	p.ping()
	if d := time.Since(began); d < 400*time.Millisecond {
		t.Errorf("150 kB in %v at 100 kB/s", d)
	}
}
