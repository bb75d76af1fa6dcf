package mqtt

import (
	"encoding/binary"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// A subscriber with a receive maximum of 1 takes 1 KiB/s and loses its connection
// every second, while 1,000 messages come a second. Nothing is lost, everything
// is in order, and what waits in memory for it stays bounded. `load slow` does it
// for longer, with a whole server.
func TestSlowSubscriberThatReconnects(t *testing.T) {
	const rate, lasts = 1000, 3 * time.Second
	b := newFakeBucket()
	r := start(t, persist(b))
	props := append(expiry(600), packets.PropReceiveMaximum, 0, 1)
	sub, _ := r.resume(5, "slow", props...)
	sub.subscribe("t")

	payload := make([]byte, 200)
	var published sync.WaitGroup
	sent := 0
	pub := r.connect(4, "pub")
	published.Go(func() {
		tick := time.NewTicker(time.Second / rate)
		defer tick.Stop()
		for began := time.Now(); time.Since(began) < lasts; sent++ {
			<-tick.C
			binary.BigEndian.PutUint32(payload, uint32(sent))
			pub.publish("t", 1, uint16(sent%60_000+1), string(payload))
			if _, _, err := pub.read(); err != nil {
				t.Error(err)
				return
			}
		}
	})

	next, dups := 0, 0
	take := func(d delivery) {
		t.Helper()
		switch n := int(binary.BigEndian.Uint32([]byte(d.payload))); {
		case n == next:
			next++
		case n < next && d.dup:
			dups++
		default:
			t.Fatalf("message %d came where %d was to come, marked %v", n, next, d.dup)
		}
		sub.ack(d.pid)
	}
	bounded := func() {
		t.Helper()
		r.s.mu.Lock()
		c := r.s.clients["slow"]
		r.s.mu.Unlock()
		if c == nil {
			return // away, and there is nothing of it
		}
		c.sess.mu.Lock()
		defer c.sess.mu.Unlock()
		safe := &r.s.safety
		if n := c.sess.flightTail - c.sess.flightHead; n > 1 {
			t.Error(n, "messages in flight")
		}
		if len(c.sess.queue) > safe.QueuedMessages || c.sess.queueBytes > safe.QueuedBytes || c.out.Pending() > safe.PendingHard {
			t.Error(len(c.sess.queue), "messages of", c.sess.queueBytes, "bytes wait,", c.out.Pending(), "bytes pending")
		}
	}
	for round := 0; round < int(lasts/time.Second); round++ {
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
			take(sub.delivery())
			bounded()
			time.Sleep(200 * time.Millisecond) // 1 KiB/s
		}
		sub.delivery() // which it does not acknowledge
		lost := sub
		lost.nc.(*net.TCPConn).SetLinger(0)
		lost.nc.Close()
		r.gone("slow")
		present := false
		if sub, present = r.resume(5, "slow", props...); !present {
			t.Fatal("no session")
		}
	}
	published.Wait()
	slowly := next
	for next < sent {
		take(sub.delivery())
		bounded()
	}
	sub.ping()
	t.Logf("%d sent, %d of them taken slowly, %d marked as duplicates", sent, slowly, dups)
	if slowly > sent/2 {
		t.Error("the subscriber was not slow")
	}
	if strings.Contains(r.out.String(), "gap") {
		t.Error(r.out)
	}
}
