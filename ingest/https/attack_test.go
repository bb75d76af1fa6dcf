package https

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/auth/authtest"
	"github.com/weir-iot/weir/internal/event"
)

// keepLog keeps what is published.
type keepLog struct {
	mu     sync.Mutex
	topics []string
}

func (l *keepLog) Publish(_ context.Context, e *event.Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.topics = append(l.topics, string(e.Topic))
	return nil
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Each request is judged by itself, whatever was allowed before on its
// connection; the log says why, the client is not told.
func TestCertificatesAndPolicies(t *testing.T) {
	ca, err := auth.OpenCA(t.TempDir(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	metrics := prometheus.NewRegistry()
	dir, out, log := authtest.NewDirectory(), &lockedBuilder{}, &keepLog{}
	policies := auth.NewPolicies(auth.PoliciesOptions{AccountID: "123456789012", Region: "us-east-1", Generation: dir.Generation})
	authn, err := auth.NewRegistered(auth.RegisteredOptions{Directory: dir, Policies: policies})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{
		Log: log, Authenticator: authn, Authorizer: policies, Addr: "127.0.0.1:0", Registerer: metrics,
		TLSConfig: ca.TLSConfig(auth.TLSOptions{Protocols: Protocols}), Logger: slog.New(slog.NewTextHandler(out, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	client := func(p *authtest.Pair) *http.Client {
		tr := &http.Transport{TLSClientConfig: &tls.Config{ServerName: "localhost", RootCAs: ca.Pool(), Certificates: []tls.Certificate{p.Certificate}}}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	post := func(c *http.Client, path string) (int, string) {
		t.Helper()
		resp, err := c.Post("https://"+s.Addr().String()+path, "", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	p := authtest.Issue(t, "device", nil, nil, nil)
	dir.Register(p.ID, auth.Active, "")
	dir.Attach(p.ID, auth.Attachment{Thing: "dev"})
	grant := func(more string) {
		dir.SetPolicies(p.ID, fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [
			{"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:us-east-1:123456789012:topic/ok/*"},
			{"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:us-east-1:123456789012:topic/thing/${iot:Connection.Thing.ThingName}"},
			{"Effect": "Deny", "Action": "iot:Publish", "Resource": "arn:aws:iot:us-east-1:123456789012:topic/ok/locked"}%s]}`, more))
	}
	grant("")
	c := client(p)
	for path, want := range map[string]int{
		"/topics/ok/a?qos=1": 200, "/topics/ok%2Fb": 200, "/topics/other": 403, "/topics/ok/locked": 403, "/topics/ok%2Flocked": 403,
		"/topics/ok/a?retain=true": 403, "/topics/thing/dev": 403, // thing variables are of MQTT
		"/topics/$aws/rules/r/ok/a": 403, "/topics/%24aws/things/dev/shadow/update/accepted": 403,
	} {
		if code, body := post(c, path); code != want || strings.Contains(body, "statement") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if out := out.String(); !strings.Contains(out, "no statement allows it") || !strings.Contains(out, "statement 3 of policy A denies it") {
		t.Error(out)
	}
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	denials := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == "weir_https_denials_total" {
				denials[m.Label[0].GetValue()] = m.Counter.GetValue()
			}
		}
	}
	if denials["iot:RetainPublish"] != 1 || denials["iot:Publish"] != 5 || denials["reserved"] != 1 {
		t.Error(denials)
	}
	grant(`, {"Effect": "Allow", "Action": "iot:RetainPublish", "Resource": "*"}`)
	if code, _ := post(c, "/topics/ok/a?retain=true"); code != 200 {
		t.Error(code)
	}
	if code, _ := post(c, "/topics/$aws/rules/r/x?retain=true"); code != 403 {
		t.Error(code)
	}
	dir.Register(p.ID, auth.Revoked, "")
	code, body := post(c, "/topics/ok/a")
	if code != 403 || strings.Contains(body, p.ID) || strings.Contains(body, "revoked") {
		t.Error(code, body)
	}
	if !strings.Contains(out.String(), p.ID+": revoked") {
		t.Error(out)
	}
	for _, topic := range log.topics {
		if topic != "ok/a" && topic != "ok/b" {
			t.Error(topic, "is on the log")
		}
	}
}
