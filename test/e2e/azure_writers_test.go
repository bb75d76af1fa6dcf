package e2e

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/shadowcheck"
	"github.com/weir-iot/weir/test/weirtest"
)

// asker is a connection of which several ask at a time: an answer finds its
// question by a token.
type asker struct {
	*mqttclient.Client
	mu      sync.Mutex // guards waiting
	waiting map[string]chan *mqttclient.Message
}

// newAsker connects; token finds the token in an answer, "" where it is none.
func newAsker(w *weirtest.Weir, o mqttclient.Options, token func(m *mqttclient.Message) string) *asker {
	a := &asker{waiting: map[string]chan *mqttclient.Message{}}
	o.OnMessage = func(m *mqttclient.Message) {
		a.mu.Lock()
		c := a.waiting[token(m)]
		a.mu.Unlock()
		if c != nil {
			c <- m
		}
	}
	a.Client = w.Connect(o)
	return a
}

func (a *asker) ask(ctx context.Context, topic, token, body string) (*mqttclient.Message, error) {
	c := make(chan *mqttclient.Message, 1)
	a.mu.Lock()
	a.waiting[token] = c
	a.mu.Unlock()
	defer func() { a.mu.Lock(); delete(a.waiting, token); a.mu.Unlock() }()
	if err := a.Publish(ctx, &mqttclient.Message{Topic: topic, Payload: []byte(body), QoS: 1}); err != nil {
		return nil, err
	}
	select {
	case m := <-c:
		return m, nil
	case <-ctx.Done():
		return nil, errors.New("no answer to " + token)
	case <-a.Done():
		return nil, a.Err()
	}
}

// view is what an answer shows of a document, by either dialect.
type view struct {
	Version uint64
	Code    int
	State   struct {
		Desired, Reported struct{ W string }
	}
	Properties struct {
		Desired, Reported struct {
			W       string
			Version uint64 `json:"$version"`
		}
	}
	Desired, Reported struct {
		W       string
		Version uint64 `json:"$version"`
	}
}

func parseView(b []byte) (v view, err error) { return v, json.Unmarshal(b, &v) }

// twinView is what the service side sees of a twin.
func (v *view) twin() shadowcheck.Sections {
	p := v.Properties
	return shadowcheck.Sections{
		Version: v.Version, Desired: shadowcheck.Part{Version: p.Desired.Version, Write: p.Desired.W},
		Reported: shadowcheck.Part{Version: p.Reported.Version, Write: p.Reported.W},
	}
}

var nothing = shadowcheck.Sections{Desired: shadowcheck.Part{Write: shadowcheck.Unseen}, Reported: shadowcheck.Part{Write: shadowcheck.Unseen}}

// accepted is what an update document that was accepted shows: the version.
func (v *view) accepted() shadowcheck.Sections {
	s := nothing
	s.Version = v.Version + 1
	return s
}

// Devices, Azure's service side and AWS clients over MQTT and HTTP write and read
// the same documents at once. All have seen one history; no write is lost; who is
// told of changes is told of each, in order.
func TestAzureTwinAndShadowWriters(t *testing.T) {
	const writers, things, each = 32, 4, 24
	w := weirtest.Start(t)
	h := newHub(t, w)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	history := shadowcheck.NewViews()
	var mu sync.Mutex // guards told
	told := map[string][]string{}
	var devices, clouds []*asker
	for i := range things {
		id := fmt.Sprint("t", i)
		d := newAsker(w, h.options(id, h.device(id)), func(m *mqttclient.Message) string {
			if v, ok := strings.CutPrefix(m.Topic, "$iothub/twin/PATCH/properties/desired/?$version="); ok {
				mu.Lock()
				told[id] = append(told[id], v)
				mu.Unlock()
			}
			_, token, _ := strings.Cut(m.Topic, "$rid=")
			token, _, _ = strings.Cut(token, "&")
			return token
		})
		if err := d.Subscribe(ctx, 0, "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"); err != nil {
			t.Fatal(err)
		}
		devices = append(devices, d)
		c := newAsker(w, mqttclient.Options{Version: 5}, func(m *mqttclient.Message) string {
			var d struct{ ClientToken string }
			json.Unmarshal(m.Payload, &d)
			return d.ClientToken
		})
		if err := c.Subscribe(ctx, 1, "$aws/things/+/shadow/+/accepted", "$aws/things/+/shadow/+/rejected"); err != nil {
			t.Fatal(err)
		}
		clouds = append(clouds, c)
	}
	api := w.API()

	// One request, of the kind that a writer is of. view.Version 0: it is not known.
	request := func(kind, thing int, token string, get bool, expected uint64) (o shadowcheck.Outcome, s shadowcheck.Sections, reported bool, err error) {
		id := fmt.Sprint("t", thing)
		update := fmt.Sprintf(`{"state":{"desired":{"w":%q}},"clientToken":%[1]q`, token)
		if expected > 0 {
			update += fmt.Sprintf(`,"version":%d`, expected-1)
		}
		update += "}"
		code, b := 0, []byte(nil)
		switch kind {
		case 0: // the device
			if get {
				m, err := devices[thing].ask(ctx, "$iothub/twin/GET/?$rid="+token, token, "")
				if err != nil {
					return 0, s, false, err
				}
				v, err := parseView(m.Payload)
				return shadowcheck.Accepted, shadowcheck.Sections{Desired: shadowcheck.Part{Version: v.Desired.Version, Write: v.Desired.W},
					Reported: shadowcheck.Part{Version: v.Reported.Version, Write: v.Reported.W}}, false, err
			}
			m, err := devices[thing].ask(ctx, "$iothub/twin/PATCH/properties/reported/?$rid="+token, token, fmt.Sprintf(`{"w":%q}`, token))
			if err != nil {
				return 0, s, true, err
			}
			s = nothing
			version, ok := strings.CutPrefix(m.Topic, "$iothub/twin/res/204/?$rid="+token+"&$version=")
			if s.Reported.Version, err = strconv.ParseUint(version, 10, 64); !ok || err != nil {
				return 0, s, true, errors.New(m.Topic + " " + string(m.Payload))
			}
			return shadowcheck.Accepted, s, true, nil
		case 1, 2: // the service side, by PATCH and PUT
			method, body := "PATCH", fmt.Sprintf(`{"properties":{"desired":{"w":%q}}}`, token)
			tag := "*"
			if expected > 0 {
				tag = `"` + etagOf(expected) + `"`
			}
			switch {
			case get:
				method, body = "GET", ""
			case kind == 2:
				method = "PUT"
			}
			code, _, b = h.do("service", method, "/twins/"+id, body, "If-Match", tag)
			if code == http.StatusPreconditionFailed {
				return shadowcheck.Conflict, s, false, nil
			}
			v, err := parseView(b)
			if code != 200 || err != nil {
				return 0, s, false, fmt.Errorf("%d %s", code, b)
			}
			return shadowcheck.Accepted, v.twin(), false, nil
		case 3: // AWS over MQTT
			what, body := "update", update
			if get {
				what, body = "get", fmt.Sprintf(`{"clientToken":%q}`, token)
			}
			m, err := clouds[thing].ask(ctx, "$aws/things/"+id+"/shadow/"+what, token, body)
			if err != nil {
				return 0, s, false, err
			}
			b = m.Payload
		case 4: // AWS over HTTP
			if get {
				d, err := api.Shadow(ctx, id, nil)
				if err == nil {
					b = d.Document
				} else if code = statusOf(err); code == 0 {
					return 0, s, false, err
				}
			} else {
				d, err := api.UpdateShadow(ctx, id, "", []byte(update))
				if b = d; err != nil {
					if code = statusOf(err); code == 0 {
						return 0, s, false, err
					}
				}
			}
		}
		var v view
		if code == 0 {
			if v, err = parseView(b); err != nil {
				return 0, s, false, err
			}
			code = v.Code
		}
		switch {
		case code == http.StatusNotFound:
			return shadowcheck.Missing, s, false, nil
		case code == http.StatusConflict:
			return shadowcheck.Conflict, s, false, nil
		case code != 0:
			return 0, s, false, fmt.Errorf("%d %s", code, b)
		case !get:
			return shadowcheck.Accepted, v.accepted(), false, nil
		}
		s = shadowcheck.Sections{Version: v.Version + 1, Desired: shadowcheck.Part{Write: v.State.Desired.W}, Reported: shadowcheck.Part{Write: v.State.Reported.W}}
		return shadowcheck.Accepted, s, false, nil
	}

	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			r, kind := rand.New(rand.NewPCG(uint64(n), 7)), n%5
			known := map[int]uint64{}
			for i := range each {
				thing, token := r.IntN(things), fmt.Sprintf("w%d-%d", n, i)
				get, expected := r.IntN(4) == 0, uint64(0)
				if kind > 0 && !get && r.IntN(2) == 0 {
					expected = known[thing]
				}
				called := history.Now()
				o, s, reported, err := request(kind, thing, token, get, expected)
				if err != nil {
					t.Errorf("kind %d, %s: %v", kind, token, err)
					return
				}
				if id := fmt.Sprint("t", thing); get {
					history.Read(n, id, called, o, s)
				} else {
					history.Wrote(n, id, reported, token, expected, called, o, s)
				}
				if s.Version > 0 {
					known[thing] = s.Version
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	history.Check(t)
	for i := range things {
		id := fmt.Sprint("t", i)
		v, err := parseView(h.must(200, "service", "GET", "/twins/"+id, nil))
		if err != nil || v.Version != history.Accepted(id)+1 {
			t.Errorf("%s: version %d after %d writes: %v", id, v.Version, history.Accepted(id), err)
		}
		stream := &shadowcheck.Stream{Gapless: true}
		for _, l := range tail(t, w, control.TailOptions{Filter: "$aws/things/" + id + "/shadow/update/documents", Since: time.Unix(1, 0)}) {
			if err := stream.Add([]byte(l.Payload)); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
		if stream.Last() != history.Accepted(id) {
			t.Errorf("%s: AWS clients were told up to version %d of %d", id, stream.Last(), history.Accepted(id))
		}
		last := v.Properties.Desired.Version
		weirtest.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return uint64(len(told[id])) >= last-1 },
			func() string {
				return fmt.Sprintf("%s: the device was told of %d of %d changes", id, len(told[id]), last-1)
			})
		for n, version := range told[id] {
			if version != strconv.Itoa(n+2) {
				t.Errorf("%s: the device was told of version %s as number %d", id, version, n+2)
				break
			}
		}
	}
}

// etagOf is the ETag of a version of a twin.
func etagOf(version uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], version)
	return base64.StdEncoding.EncodeToString(b[:])
}

func statusOf(err error) int {
	var r *control.RemoteError
	if errors.As(err, &r) {
		return r.Status
	}
	return 0
}
