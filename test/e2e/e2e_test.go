// Package e2e tests the whole of Weir through its real ports, with Weir's own
// clients and with other people's.
package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/weirtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	weirtest.RemoveBinary()
	if code == 0 {
		http.DefaultClient.CloseIdleConnections()
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left:", err)
			code = 1
		}
	}
	os.Exit(code)
}

const republish = `
ruleName: hot
sql: >-
  SELECT deviceId, temperature * 1.8 + 32 AS f, topic(2) AS site
  FROM 'factory/+/device/+/telemetry' WHERE temperature > 40 AND status = 'ok'
awsIotSqlVersion: '2016-03-23'
actions:
  - republish:
      roleArn: arn:aws:iam::123456789012:role/r
      topic: alerts/${topic(2)}
      qos: 1
`

func TestMQTTToRuleToMQTT(t *testing.T) {
	w := weirtest.Start(t)
	w.Apply(republish)
	sub := w.Subscribe("alerts/#")
	w.MustPublish("factory/3/device/7/telemetry", `{"deviceId":"cold","temperature":39,"status":"ok"}`)
	w.MustPublish("factory/3/device/7/telemetry", `{"deviceId":"bad","temperature":50,"status":"er"}`)
	w.MustPublish("factory/3/device/7/telemetry", `{"deviceId":"d7","temperature":50,"status":"ok"}`)
	m := sub.Next()
	if m.Topic != "alerts/3" || string(m.Payload) != `{"deviceId":"d7","f":122,"site":"3"}` && string(m.Payload) != `{"deviceId":"d7","f":122.0,"site":"3"}` {
		t.Errorf("%s %s", m.Topic, m.Payload)
	}
	if a := w.Account("hot"); a.Matched != 1 || a.Delivered != 1 || !a.AddsUp() {
		t.Errorf("%+v", a)
	}
}

// hook is a webhook that counts.
type hook struct {
	*httptest.Server
	mu     sync.Mutex // guards what follows
	bodies map[string]string
	status int
}

func newHook(t *testing.T) *hook {
	h := &hook{bodies: map[string]string{}, status: http.StatusOK}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.status == http.StatusOK {
			h.bodies[r.Header.Get("X-Weir-Message-Id")] = string(b)
		}
		w.WriteHeader(h.status)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.bodies)
}

func TestMQTTToRuleToHTTPAndS3(t *testing.T) {
	w := weirtest.Start(t)
	h := newHook(t)
	w.Apply(`
ruleName: both
sql: SELECT *, topic(2) AS n FROM 'a/+'
actions:
  - http:
      url: ` + h.URL + `/in
  - s3:
      roleArn: arn:aws:iam::123456789012:role/r
      bucketName: e2e
      key: ${topic(2)}.json
`)
	const n = 50
	for i := range n {
		w.MustPublish(fmt.Sprintf("a/%d", i), fmt.Sprintf(`{"i":%d}`, i))
	}
	if a := w.Account("both"); a.Matched != 2*n || a.Delivered != 2*n {
		t.Errorf("%+v", a)
	}
	if h.count() != n {
		t.Errorf("%d requests", h.count())
	}
	files, err := filepath.Glob(filepath.Join(w.Part("rules").Dir(), "s3", "e2e", "*.json"))
	if err != nil || len(files) != n {
		t.Errorf("%d objects, %v", len(files), err)
	}
	b, err := os.ReadFile(filepath.Join(w.Part("rules").Dir(), "s3", "e2e", "7.json"))
	if err != nil || string(b) != `{"i":7,"n":"7"}` {
		t.Errorf("%s, %v", b, err)
	}
}

// What has come in before a restart is there after it: events, rules, and what
// became of their results.
func TestRestart(t *testing.T) {
	for name, start := range map[string]func(testing.TB, ...weirtest.Option) *weirtest.Weir{"in process": weirtest.Start, "child": weirtest.Process} {
		t.Run(name, func(t *testing.T) {
			w := start(t, weirtest.Durability("disk"))
			w.Apply(republish)
			for i := range 20 {
				w.MustPublish("factory/1/device/1/telemetry", fmt.Sprintf(`{"deviceId":"d%d","temperature":50,"status":"ok"}`, i))
			}
			before := w.Account("hot")
			w.Restart()
			if after := w.Account("hot"); after != before || after.Delivered != 20 {
				t.Errorf("before %+v, after %+v", before, after)
			}
			if n := len(tail(t, w, control.TailOptions{Filter: "factory/#", Last: 100})); n != 20 {
				t.Errorf("%d events", n)
			}
			w.MustPublish("factory/1/device/1/telemetry", `{"deviceId":"d","temperature":50,"status":"ok"}`)
			if after := w.Account("hot"); after.Delivered != 21 {
				t.Errorf("%+v", after)
			}
		})
	}
}

// Nothing acknowledged is lost by kill -9, and each result is delivered.
func TestKill(t *testing.T) {
	w := weirtest.Process(t, weirtest.Durability("disk"))
	h := newHook(t)
	w.Apply(`{"ruleName": "all", "sql": "SELECT * FROM 'k/#'", "actions": [{"http": {"url": "` + h.URL + `"}}]}`)
	acked := map[string]bool{}
	var mu sync.Mutex
	for round := range 3 {
		c := w.Connect(mqttclient.Options{Window: 64})
		var open sync.WaitGroup
		for i := range 500 {
			id := fmt.Sprintf("%d-%d", round, i)
			open.Add(1)
			err := c.PublishAsync(t.Context(), &mqttclient.Message{Topic: "k/" + id, QoS: 1, Payload: []byte(`{"id":"` + id + `"}`)}, func(err error) {
				if err == nil {
					mu.Lock()
					acked[id] = true
					mu.Unlock()
				}
				open.Done()
			})
			if err != nil {
				open.Done()
				break
			}
			if i == 300+50*round {
				w.Kill()
			}
		}
		open.Wait()
		w.BeginProcess()
	}
	a := w.Account("all")
	if !a.AddsUp() || a.Matched != a.Delivered {
		t.Errorf("%+v", a)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	arrived := map[string]bool{}
	for _, b := range h.bodies {
		var m struct{ ID string }
		if err := json.Unmarshal([]byte(b), &m); err != nil {
			t.Fatal(err)
		}
		arrived[m.ID] = true
	}
	if len(acked) == 0 {
		t.Fatal("nothing was acknowledged")
	}
	for id := range acked {
		if !arrived[id] {
			t.Errorf("%s was acknowledged and never arrived", id)
		}
	}
}

func tail(t *testing.T, w *weirtest.Weir, o control.TailOptions) []control.TailLine {
	t.Helper()
	var lines []control.TailLine
	err := w.API().Tail(t.Context(), o, func(l *control.TailLine, _ []byte) error {
		lines = append(lines, *l)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestTLS(t *testing.T) {
	w := weirtest.Start(t)
	sub := w.Subscribe("tls/#")
	for _, alpn := range []string{"", "mqtt", "x-amzn-mqtt-ca"} {
		for _, max := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			cfg := w.TLS()
			cfg.MaxVersion = max
			if alpn != "" {
				cfg.NextProtos = []string{alpn}
			}
			c := w.Connect(mqttclient.Options{Addr: w.Endpoints().MQTTS, TLS: cfg})
			if err := c.Publish(t.Context(), &mqttclient.Message{Topic: "tls/x", QoS: 1, Payload: []byte(alpn)}); err != nil {
				t.Fatalf("ALPN %q: %v", alpn, err)
			}
			if m := sub.Next(); string(m.Payload) != alpn {
				t.Errorf("%s", m.Payload)
			}
			c.Close()
		}
	}
	cfg := w.TLS()
	cfg.Certificates = nil
	_, err := mqttclient.Connect(t.Context(), mqttclient.Options{Addr: w.Endpoints().MQTTS, TLS: cfg, ClientID: "stranger"})
	var reason *mqttclient.ReasonError
	if !errors.As(err, &reason) {
		t.Errorf("a client without certificate: %v", err)
	}
}

func TestHTTPSPublish(t *testing.T) {
	w := weirtest.Start(t)
	sub := w.Subscribe("https/#")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: w.TLS(), ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	url := "https://" + strings.Replace(w.Endpoints().HTTPS, "127.0.0.1", "localhost", 1)
	for _, qos := range []string{"0", "1"} {
		resp, err := client.Post(url+"/topics/https/a%20b?qos="+qos, "application/json", strings.NewReader(qos))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", resp.Status, b)
		}
		if m := sub.Next(); m.Topic != "https/a b" || string(m.Payload) != qos {
			t.Errorf("%s %s", m.Topic, m.Payload)
		}
	}
}

// A data team reads the streams with a NATS client and can do nothing else.
func TestReadingWithNATS(t *testing.T) {
	w := weirtest.Start(t, weirtest.Whole("the embedded NATS server is for data teams"))
	w.MustPublish("a/b.c", `{"n":1}`)
	e := w.Endpoints()
	nc, err := nats.Connect("nats://"+e.NATS, nats.UserCredentials(e.NATSCreds), nats.MaxReconnects(0))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	denied := make(chan error, 10)
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err })
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cons, err := js.CreateConsumer(ctx, "EVENTS-0", jetstream.ConsumerConfig{FilterSubject: "ev.0.m.a.>", AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		t.Fatal(err)
	}
	msg, err := cons.Next(jetstream.FetchMaxWait(10 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if msg.Subject() != "ev.0.m.a.b=2Ec" || !bytes.Equal(msg.Data(), []byte(`{"n":1}`)) {
		t.Errorf("%s %s", msg.Subject(), msg.Data())
	}
	// May only read.
	if err := nc.Publish("ev.0.m.a.x", []byte("forged")); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-denied:
		if !strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the reader may publish")
	}
	if info, err := os.Stat(e.NATSCreds); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("credentials: %v, %v", info.Mode(), err)
	}
}

func TestTail(t *testing.T) {
	for _, partitions := range []string{"1", "3"} {
		t.Run("partitions "+partitions, func(t *testing.T) {
			w := weirtest.Start(t, weirtest.Key("partitions", partitions))
			start := time.Now().Add(-time.Second)
			for i := range 30 {
				c := w.Connect(mqttclient.Options{})
				if err := c.Publish(t.Context(), &mqttclient.Message{Topic: "t/x", QoS: 1, Payload: fmt.Append(nil, i)}); err != nil {
					t.Fatal(err)
				}
				c.Close()
			}
			w.MustPublish("other", "x")
			lines := tail(t, w, control.TailOptions{Filter: "t/#", Since: start})
			if len(lines) != 30 {
				t.Fatalf("%d lines", len(lines))
			}
			for i := range lines[1:] {
				if lines[i+1].Received.Before(lines[i].Received) {
					t.Errorf("line %d is older than the one before it", i+1)
				}
			}
			if last := tail(t, w, control.TailOptions{Filter: "t/#", Last: 3}); len(last) != 3 || last[2].Payload != "29" {
				t.Errorf("%+v", last)
			}
			// From the past into the present, nothing missed or twice.
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var got []string
			published := false
			err := w.API().Tail(ctx, control.TailOptions{Filter: "t/#", Since: start, Follow: true}, func(l *control.TailLine, _ []byte) error {
				got = append(got, l.Payload)
				if len(got) == 10 && !published {
					published = true
					w.MustPublish("t/x", "new")
				}
				if len(got) == 31 {
					cancel()
				}
				return nil
			})
			if err != nil || len(got) != 31 || got[30] != "new" {
				t.Errorf("%v %v", got, err)
			}
		})
	}
}

// A destination that is down holds its results, and they arrive when it is back.
func TestErrorActionAndDeadLetters(t *testing.T) {
	w := weirtest.Start(t)
	h := newHook(t)
	h.status = http.StatusForbidden // an answer: tried three times, then given up
	w.Apply(`
ruleName: doomed
sql: SELECT * FROM 'd/#'
actions:
  - http:
      url: ` + h.URL + `
`)
	w.MustPublish("d/1", `{"n":1}`)
	if a := w.Account("doomed"); a.Dead != 1 || !a.AddsUp() {
		t.Fatalf("%+v", a)
	}
	list, err := w.API().Dead(t.Context(), "doomed", 0, 10)
	if err != nil || len(list) != 1 || list[0].Topic != "d/1" {
		t.Fatalf("%+v, %v", list, err)
	}
	letter, err := w.API().DeadLetter(t.Context(), list[0].Seq)
	if err != nil || letter.Message.Payload != `{"n":1}` {
		t.Errorf("%+v, %v", letter, err)
	}
	h.mu.Lock()
	h.status = http.StatusOK
	h.mu.Unlock()
	res, err := w.API().Redrive(t.Context(), control.RedriveRequest{Seqs: []uint64{list[0].Seq}})
	if err != nil || res.Delivered != 1 || h.count() != 1 {
		t.Errorf("%+v, %v, %d arrived", res, err, h.count())
	}
	if list, err := w.API().Dead(t.Context(), "", 0, 10); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}

	// With an error action the failure document goes there.
	sub := w.Subscribe("failed/#")
	h.mu.Lock()
	h.status = http.StatusForbidden
	h.mu.Unlock()
	w.Apply(`
ruleName: caught
sql: SELECT * FROM 'c/#'
actions:
  - http:
      url: ` + h.URL + `
errorAction:
  republish:
    roleArn: arn:aws:iam::123456789012:role/r
    topic: failed/x
    qos: 1
`)
	w.MustPublish("c/1", `{"n":1}`)
	m := sub.Next()
	var doc struct {
		RuleName, Topic, ClientID, Base64OriginalPayload string
		Failures                                         []struct{ FailedAction, ErrorMessage string }
	}
	if err := json.Unmarshal(m.Payload, &doc); err != nil || doc.RuleName != "caught" || doc.Topic != "c/1" ||
		doc.Base64OriginalPayload != "eyJuIjoxfQ==" || len(doc.Failures) != 1 {
		t.Errorf("%s, %v", m.Payload, err)
	}
	if a := w.Account("caught"); a.ErrorDelivered != 1 || !a.AddsUp() {
		t.Errorf("%+v", a)
	}
}

func TestMetricsAndHealth(t *testing.T) {
	w := weirtest.Start(t)
	w.MustPublish("a", "1")
	for path, want := range map[string]string{"/healthz": "ok", "/metrics": "weir_"} {
		resp, err := http.Get(w.Endpoints().API + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || !strings.Contains(string(b), want) {
			t.Errorf("%s: %s %.200s", path, resp.Status, b)
		}
	}
	if resp, err := http.Get(w.Endpoints().API + "/debug/pprof/"); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("profiles are served unasked: %v %v", resp.Status, err)
	} else {
		resp.Body.Close()
	}
}
