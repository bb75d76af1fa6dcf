package mqtt

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/internal/topic"
)

func TestReachCoversWhatItIsMadeOf(t *testing.T) {
	levels := []string{"a", "b", "", "$aws", "$x", "+", "#"}
	random := func(wild int) string {
		s := ""
		for i := range 1 + rand.IntN(4) {
			if i > 0 {
				s += "/"
			}
			l := levels[rand.IntN(5+wild)]
			s += l
			if l == "#" {
				break
			}
		}
		return s
	}
	matched := 0
	for range 200_000 {
		var filters []topic.Filter
		for range 1 + rand.IntN(3) {
			if f, err := topic.ParseFilter(random(2), topic.Limits{}); err == nil {
				filters = append(filters, f)
			}
		}
		n, err := topic.ParseName(random(0), topic.Limits{})
		if err != nil || len(filters) == 0 {
			continue
		}
		r := reachOf(filters)
		if !r.covers(filters) {
			t.Fatalf("%q does not cover %q", r.filters, filters)
		}
		for _, m := range []topic.Mode{topic.AWS, topic.Standard} {
			is := func(list []topic.Filter) bool {
				for _, f := range list {
					if topic.Match(f, n, m) {
						return true
					}
				}
				return false
			}
			if is(filters) {
				matched++
				if !r.all && !is(r.filters) {
					t.Fatalf("%q is matched by %q but not by %q", n, filters, r.filters)
				}
			}
			// What is covered matches no more than what covers it.
			if len(filters) == 2 && covers(filters[0], filters[1]) && is(filters[1:]) && !is(filters[:1]) {
				t.Fatalf("%q is said to cover %q, %q says no", filters[0], filters[1], n)
			}
		}
	}
	if matched < 1000 {
		t.Error("hardly anything matched:", matched)
	}
}

// Sessions of all kinds come back at once, to a log in which the messages of
// some stand together: each gets its own, in order and once, and the log is
// read a few times, not once for each.
func TestMassReturn(t *testing.T) {
	const sessions, messages = 40, 60
	for _, parts := range []int{1, 3} {
		b := newFakeBucket()
		r := start(t, persist(b, func(o *Options) { o.Log = newFakeLog(parts) }))
		ids := make([]string, sessions)
		for i := range ids {
			ids[i] = fmt.Sprint("s", i)
			sub, _ := r.resume(5, ids[i])
			sub.subscribe(fmt.Sprintf("to/%d/#", i), "all/x")
			if i%10 == 9 {
				sub.subscribe("+/+/more")
			}
			r.leave(sub, ids[i])
		}
		var pubs sync.WaitGroup
		publish := func(id string, topics func(n int) string, count int) {
			pub := r.connect(4, id)
			pubs.Go(func() {
				for n := range count {
					pub.publish(topics(n), 1, uint16(n%60_000+1), fmt.Sprint(n))
					if _, _, err := pub.read(); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		publish("p1", func(n int) string { return fmt.Sprintf("to/%d/turns", n%sessions) }, sessions*messages)
		publish("p22", func(n int) string { return fmt.Sprintf("to/%d/clump", n/messages) }, sessions*messages)
		publish("p333", func(int) string { return "all/x" }, messages)
		publish("p4444", func(int) string { return "a/b/more" }, messages)
		publish("p55555", func(int) string { return "nobody/wants" }, 2*sessions*messages)
		pubs.Wait()
		eventually(t, "handed out", func() bool {
			for p := range parts {
				if r.s.handed[p].Load() < r.log.Committed(p) {
					return false
				}
			}
			return true
		})
		r.log.mu.Lock()
		before, events := r.log.read, 0
		for _, p := range r.log.parts {
			events += len(p)
		}
		r.log.mu.Unlock()

		var subs sync.WaitGroup
		for i, id := range ids {
			props := expiry(600)
			if i%3 == 0 {
				props = append(props, packets.PropReceiveMaximum, 0, byte(1+i%7))
			}
			subs.Go(func() {
				p := r.dial()
				p.v5 = true
				p.send(connectPacket(5, id, 0, 60, props))
				next := map[string]int{}
				want := 3 * messages
				if i%10 == 9 {
					want += messages
				}
				for got := 0; got < want; got++ {
					var d delivery
					for {
						h, body, err := p.read()
						if err != nil {
							t.Error(id, err, next)
							return
						}
						if h>>4 == packets.Publish {
							d = p.parse(h, body)
							break
						}
					}
					var n int
					fmt.Sscan(d.payload, &n)
					switch last, seen := next[d.topic]; {
					case d.dup:
						t.Error(id, d.topic, n, "is marked as a duplicate")
					case d.topic == fmt.Sprintf("to/%d/turns", i) && n != i+sessions*(last),
						d.topic == fmt.Sprintf("to/%d/clump", i) && n != i*messages+last,
						(d.topic == "all/x" || d.topic == "a/b/more") && n != last:
						t.Error(id, d.topic, n, "after", last, seen)
						return
					}
					next[d.topic]++
					p.nc.Write([]byte{packets.Puback << 4, 2, byte(d.pid >> 8), byte(d.pid)})
				}
				p.ping()
			})
		}
		subs.Wait()
		r.log.mu.Lock()
		read := r.log.read - before
		r.log.mu.Unlock()
		t.Logf("%d events read for %d on the log, %d sessions", read, events, sessions)
		if read > events*sessions/3 {
			t.Error("sessions do not share their reading")
		}
		eventually(t, "everybody is live", func() bool {
			r.s.mu.Lock()
			defer r.s.mu.Unlock()
			for _, c := range r.s.clients {
				c.sess.mu.Lock()
				for i := range c.sess.places {
					if c.sess.places[i].behind || c.sess.parked > 0 {
						c.sess.mu.Unlock()
						return false
					}
				}
				c.sess.mu.Unlock()
			}
			return true
		})
		r.stop()
		for _, v := range r.s.replays {
			if len(v.unplaced) > 0 {
				t.Error("a session waits for ever")
			}
		}
	}
}
