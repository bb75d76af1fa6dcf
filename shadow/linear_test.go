package shadow

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/test/shadowcheck"
)

// device is a client of the topics: it publishes on the log as the gateway does
// and reads the answers from it.
type device struct {
	b *bench

	mu      sync.Mutex // guards waiting
	waiting map[string]chan *event.Event
}

func newDevice(b *bench) *device {
	d := &device{b: b, waiting: map[string]chan *event.Event{}}
	f, err := b.log.Follow(eventlog.FollowOptions{Filters: []topic.Filter{"$aws/things/+/shadow/update/accepted", "$aws/things/+/shadow/update/rejected",
		"$aws/things/+/shadow/get/accepted", "$aws/things/+/shadow/get/rejected"}})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	b.t.Cleanup(func() { cancel(); <-done; f.Close() })
	go func() {
		defer close(done)
		for {
			batch, _, err := f.Next(ctx, 100)
			if err != nil {
				return
			}
			for _, e := range batch {
				var m struct{ ClientToken string }
				if json.Unmarshal(e.Payload, &m) != nil {
					continue
				}
				d.mu.Lock()
				c := d.waiting[m.ClientToken]
				delete(d.waiting, m.ClientToken)
				d.mu.Unlock()
				if c != nil {
					c <- e
				}
			}
		}
	}()
	return d
}

// ask publishes a request and waits for its answer; nil: none came in time.
func (d *device) ask(client, thing, op, token, payload string, wait time.Duration) *event.Event {
	c := make(chan *event.Event, 1)
	d.mu.Lock()
	d.waiting[token] = c
	d.mu.Unlock()
	e := &event.Event{Topic: topic.Name("$aws/things/" + thing + "/shadow/" + op), Payload: []byte(payload), ClientID: client, QoS: 1}
	if err := d.b.log.Publish(context.Background(), e); err != nil {
		return nil
	}
	select {
	case a := <-c:
		return a
	case <-time.After(wait):
		return nil
	}
}

// 32 writers on 8 shadows, by topics and by the Go API of two instances, of which
// one or the other dies again and again: what each client saw fits one history
// per shadow, and the answers came in its order.
func TestLinearizable(t *testing.T) {
	b := newBench(t, "")
	linearizable(t, [2]*bench{b, b}, 400*time.Millisecond)
}

// The same with two processes on an external NATS server.
func TestLinearizableExternal(t *testing.T) {
	nats, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	t.Cleanup(func() { nats.Shutdown(); nats.WaitForShutdown() })
	if !nats.ReadyForConnections(patience) {
		t.Fatal("the NATS server is not ready")
	}
	var both [2]*bench
	for i := range both {
		log, err := eventlog.Open(t.Context(), eventlog.Options{URL: nats.ClientURL(), Durability: eventlog.OS})
		if err != nil {
			t.Fatal(err)
		}
		both[i] = benchOn(t, log)
	}
	linearizable(t, both, 800*time.Millisecond)
}

func linearizable(t *testing.T, both [2]*bench, ttl time.Duration) {
	b := both[0]
	var mu sync.Mutex // guards instances
	var instances [2]*Service
	var stops [2]func()
	begin := func(i int) {
		o := both[i].options()
		o.Owner, o.LeaseTTL = "", ttl
		s, stop := both[i].serve(o)
		mu.Lock()
		instances[i], stops[i] = s, stop
		mu.Unlock()
	}
	begin(0)
	begin(1)
	dev := newDevice(b)
	h := shadowcheck.New()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 7))
			client, known := h.Client(), map[string]uint64{}
			for n := 0; ctx.Err() == nil; n++ {
				thing := fmt.Sprintf("t%d", r.IntN(8))
				write := fmt.Sprintf("w%d-%d", w, n)
				mu.Lock()
				s := instances[r.IntN(2)]
				mu.Unlock()
				topics := w%2 == 0
				get := r.IntN(4) == 0
				var expected *uint64
				if v, ok := known[thing]; ok && r.IntN(2) == 0 {
					expected = &v
				}
				called := h.Now()
				outcome, version, found := shadowcheck.Unknown, uint64(0), ""
				judge := func(code int, doc []byte) {
					var d struct {
						Version uint64
						Code    int
						State   struct{ Desired struct{ W string } }
					}
					if doc != nil {
						if err := json.Unmarshal(doc, &d); err != nil {
							t.Errorf("%s: %v", doc, err)
						}
						code += d.Code
					}
					switch code {
					case 0:
						outcome, version, found = shadowcheck.Accepted, d.Version, d.State.Desired.W
					case 404:
						outcome = shadowcheck.Missing
					case 409:
						outcome = shadowcheck.Conflict
					}
				}
				body := fmt.Sprintf(`{"state":{"desired":{"w":%q}},"clientToken":%q`, write, write)
				if expected != nil {
					body += fmt.Sprintf(`,"version":%d`, *expected)
				}
				body += "}"
				call, end := context.WithTimeout(context.Background(), time.Second)
				switch {
				case topics && get:
					if e := dev.ask(fmt.Sprint("c", w), thing, "get", write, `{"clientToken":"`+write+`"}`, time.Second); e != nil {
						judge(0, e.Payload)
					}
				case topics:
					if e := dev.ask(fmt.Sprint("c", w), thing, "update", write, body, time.Second); e != nil {
						judge(0, e.Payload)
					}
				case get:
					if doc, err := s.Get(call, thing, ""); err == nil {
						judge(0, doc)
					} else if c := code(err); c != 0 {
						judge(c, nil)
					}
				default:
					if doc, err := s.Update(call, thing, "", []byte(body), Who{ClientID: "api"}); err == nil {
						judge(0, doc)
					} else if c := code(err); c != 0 {
						judge(c, nil)
					}
				}
				end()
				if get {
					h.Get(client, thing, called, outcome, version, found)
				} else {
					h.Update(client, thing, write, expected, called, outcome, version)
				}
				switch outcome {
				case shadowcheck.Accepted:
					known[thing] = version
				case shadowcheck.Unknown:
					client = h.Client()
				}
				time.Sleep(time.Duration(r.IntN(8)) * time.Millisecond)
			}
		})
	}
	r := rand.New(rand.NewPCG(1, 1))
	for i := 0; ctx.Err() == nil; i++ {
		pause(ctx, time.Duration(200+r.IntN(500))*time.Millisecond)
		mu.Lock()
		s, stop := instances[i%2], stops[i%2]
		mu.Unlock()
		s.crash.Store(i%3 > 0)
		stop()
		begin(i % 2)
	}
	wg.Wait()
	// What was stored when an instance died is announced by the next one: a request
	// that is answered now came behind all of it.
	for i := range 8 {
		if dev.ask("end", fmt.Sprint("t", i), "get", fmt.Sprint("end-", i), fmt.Sprintf(`{"clientToken":"end-%d"}`, i), time.Minute) == nil {
			t.Fatal("no instance answers at the end")
		}
	}
	b.publish("end", "end", "")
	f, err := b.log.Follow(eventlog.FollowOptions{ToEnd: true, Filters: []topic.Filter{"$aws/things/+/shadow/update/documents", "$aws/things/+/shadow/update/delta"}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	streams, repeats := map[topic.Name]*shadowcheck.Stream{}, 0
	made := map[string]uint64{}
	for {
		batch, _, err := f.Next(t.Context(), 100)
		if err != nil {
			break
		}
		for _, e := range batch {
			s := streams[e.Topic]
			if s == nil {
				s = &shadowcheck.Stream{Gapless: true}
				streams[e.Topic] = s
			}
			if version, write := shadowcheck.Write(e.Payload); write != "" {
				made[write] = version
			}
			if err := s.Add(e.Payload); err != nil {
				t.Errorf("%s: %v", e.Topic, err)
			}
		}
	}
	h.Resolve(made)
	h.Check(t)
	for name, s := range streams {
		repeats += s.Repeats
		thing, _ := name.Thing()
		d, err := instances[0].Read(t.Context(), thing, "")
		if err != nil || d.Version < s.Last() {
			t.Errorf("%s reached %d, the document is %+v %v", name, s.Last(), d, err)
		}
		if strings.HasSuffix(string(name), "documents") {
			t.Logf("%s: %d versions", thing, s.Last())
		}
	}
	t.Logf("%d messages repeated after crashes", repeats)
}
