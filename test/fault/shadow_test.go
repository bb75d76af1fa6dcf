package fault_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/fault"
	"github.com/weir-iot/weir/test/shadowcheck"
	"github.com/weir-iot/weir/test/weirtest"
)

// asker is a device that waits for the answers to its shadow requests.
type asker struct {
	*mqttclient.Client
	answers chan *mqttclient.Message
}

func newAsker(addr, id string) (*asker, error) {
	a := &asker{answers: make(chan *mqttclient.Message, 100)}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	c, err := mqttclient.Connect(ctx, mqttclient.Options{Addr: addr, ClientID: id, OnMessage: func(m *mqttclient.Message) {
		if strings.Contains(string(m.Payload), `"clientToken":"`+id+"-") {
			select {
			case a.answers <- m:
			default:
			}
		}
	}})
	if err != nil {
		return nil, err
	}
	a.Client = c
	var filters []string
	for _, op := range []string{"get", "update"} {
		filters = append(filters, "$aws/things/+/shadow/"+op+"/accepted", "$aws/things/+/shadow/"+op+"/rejected")
	}
	if err := c.Subscribe(ctx, 1, filters...); err != nil {
		c.Abort()
		return nil, err
	}
	return a, nil
}

// ask returns the answer with the token; nil: none came.
func (a *asker) ask(thing, op, token, payload string) []byte {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if a.Publish(ctx, &mqttclient.Message{Topic: "$aws/things/" + thing + "/shadow/" + op, Payload: []byte(payload), QoS: 1}) != nil {
		return nil
	}
	for {
		select {
		case m := <-a.answers:
			if strings.Contains(string(m.Payload), `"clientToken":"`+token+`"`) {
				return m.Payload
			}
		case <-a.Done():
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// shadowWriters lets writers change and read shadows over MQTT and HTTP until
// stop is called, and records what they saw.
func shadowWriters(addr *fault.Address, api func() *control.Client, writers, shadows int) (h *shadowcheck.History, acked func() int, stop func()) {
	h = shadowcheck.New()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var mu sync.Mutex // guards count
	count := 0
	for w := range writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 3))
			client, known := h.Client(), map[string]uint64{}
			id := fmt.Sprintf("w%d", w)
			var a *asker
			for n := 0; ctx.Err() == nil; n++ {
				if w%2 == 0 && (a == nil || a.Err() != nil) {
					var err error
					if a, err = newAsker(addr.Get(), id); err != nil {
						time.Sleep(20 * time.Millisecond)
						continue
					}
				}
				thing, token := fmt.Sprintf("t%d", r.IntN(shadows)), fmt.Sprintf("%s-%d", id, n)
				get := r.IntN(4) == 0
				var expected *uint64
				if v, ok := known[thing]; ok && r.IntN(2) == 0 {
					expected = &v
				}
				body := fmt.Sprintf(`{"state":{"desired":{"w":%q}},"clientToken":%[1]q`, token)
				if expected != nil {
					body += fmt.Sprintf(`,"version":%d`, *expected)
				}
				body += "}"
				called := h.Now()
				var doc []byte
				code := 0
				call, end := context.WithTimeout(context.Background(), 3*time.Second)
				switch {
				case w%2 == 0 && get:
					doc = a.ask(thing, "get", token, `{"clientToken":"`+token+`"}`)
				case w%2 == 0:
					doc = a.ask(thing, "update", token, body)
				case get:
					if d, err := api().Shadow(call, thing, nil); err == nil {
						doc = d.Document
					} else {
						code = status(err)
					}
				default:
					if d, err := api().UpdateShadow(call, thing, "", []byte(body)); err == nil {
						doc = d
					} else {
						code = status(err)
					}
				}
				end()
				outcome := shadowcheck.Unknown
				var d struct {
					Version uint64
					Code    int
					State   struct{ Desired struct{ W string } }
				}
				if doc != nil && json.Unmarshal(doc, &d) == nil {
					outcome, code = shadowcheck.Accepted, d.Code
				}
				switch code {
				case 404:
					outcome = shadowcheck.Missing
				case 409:
					outcome = shadowcheck.Conflict
				}
				if get {
					h.Get(client, thing, called, outcome, d.Version, d.State.Desired.W)
				} else {
					h.Update(client, thing, token, expected, called, outcome, d.Version)
				}
				switch outcome {
				case shadowcheck.Accepted:
					known[thing] = d.Version
					mu.Lock()
					count++
					mu.Unlock()
				case shadowcheck.Unknown:
					client = h.Client()
					time.Sleep(20 * time.Millisecond)
				}
				time.Sleep(time.Duration(r.IntN(10)) * time.Millisecond)
			}
			if a != nil {
				a.Abort()
			}
		})
	}
	acked = func() int { mu.Lock(); defer mu.Unlock(); return count }
	return h, acked, func() { cancel(); wg.Wait() }
}

func status(err error) int {
	var r *control.RemoteError
	if errors.As(err, &r) {
		return r.Status
	}
	return 0
}

// judge checks what clients saw, and the order of what was sent to subscribers of
// documents and deltas.
func judge(t *testing.T, w *weirtest.Weir, h *shadowcheck.History) {
	t.Helper()
	made := map[string]uint64{}
	streams := map[string]*shadowcheck.Stream{}
	for _, topic := range []string{"documents", "delta"} {
		err := w.API().Tail(t.Context(), control.TailOptions{Filter: "$aws/things/+/shadow/update/" + topic, Since: time.Unix(1, 0)},
			func(l *control.TailLine, _ []byte) error {
				s := streams[l.Topic]
				if s == nil {
					s = &shadowcheck.Stream{Gapless: true}
					streams[l.Topic] = s
				}
				if version, write := shadowcheck.Write([]byte(l.Payload)); write != "" {
					made[write] = version
				}
				if err := s.Add([]byte(l.Payload)); err != nil {
					t.Errorf("%s: %v", l.Topic, err)
				}
				return nil
			})
		if err != nil {
			t.Fatal(err)
		}
	}
	h.Resolve(made)
	h.Check(t)
	repeats, versions := 0, uint64(0)
	for _, s := range streams {
		repeats += s.Repeats
		versions += s.Last()
	}
	t.Logf("%d messages of %d shadows' versions in order, %d repeated after crashes", versions, len(streams)/2, repeats)
}

// theAPI returns the control API of a Weir that may be away.
func theAPI(w *weirtest.Weir) (get func() *control.Client, set func()) {
	var mu sync.Mutex // guards c
	c := w.API()
	return func() *control.Client { mu.Lock(); defer mu.Unlock(); return c },
		func() { mu.Lock(); defer mu.Unlock(); c = w.API() }
}

// 32 writers on 8 shadows while the process is killed again and again.
func TestShadowKill(t *testing.T) {
	r := random(t)
	w := weirtest.Process(t, weirtest.Durability("os"))
	var addr fault.Address
	addr.Set(w.Endpoints().MQTT)
	api, again := theAPI(w)
	h, _, stop := shadowWriters(&addr, api, 32, 8)
	for range rounds(4) {
		time.Sleep(time.Duration(300+r.IntN(700)) * time.Millisecond)
		w.Kill()
		w.BeginProcess()
		addr.Set(w.Endpoints().MQTT)
		again()
	}
	time.Sleep(500 * time.Millisecond)
	stop()
	judge(t, w, h)
}

// An update that was accepted is on disk.
func TestShadowPowerCut(t *testing.T) {
	r := random(t)
	fs := fault.NewLoopFS(t, 512<<20)
	w := weirtest.Process(t, weirtest.Durability("disk"), weirtest.Dir(filepath.Join(fs.Dir, "data")))
	var addr fault.Address
	addr.Set(w.Endpoints().MQTT)
	api, again := theAPI(w)
	h, acked, stop := shadowWriters(&addr, api, 16, 8)
	for i := range rounds(3) {
		if i > 0 {
			time.Sleep(time.Duration(r.IntN(1200)) * time.Millisecond)
		}
		before := acked()
		weirtest.Eventually(t, func() bool { return acked() > before+20 }, func() string { return "no update was accepted" })
		w.Freeze()
		fs.PowerCut()
		w.Kill()
		fs.Remount()
		w.BeginProcess()
		addr.Set(w.Endpoints().MQTT)
		again()
	}
	time.Sleep(500 * time.Millisecond)
	stop()
	judge(t, w, h)
	w.Stop()
}
