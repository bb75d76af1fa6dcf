package https

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
)

type fakeLog struct {
	mu     sync.Mutex
	events []*event.Event
	err    error
}

func (f *fakeLog) Publish(_ context.Context, e *event.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	f.events = append(f.events, e)
	e.Seq = uint64(len(f.events))
	return nil
}

type deny struct{ topic string }

func (d deny) May(_ *auth.Principal, _ auth.Action, resource string) bool { return resource != d.topic }

func start(t *testing.T, log *fakeLog) (url string, own, foreign, none *http.Client) {
	t.Helper()
	ca, err := auth.OpenCA(t.TempDir(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := auth.OpenCA(t.TempDir(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	safety, now := ingest.DefaultSafety(), time.Now() // a second that does not end
	safety.Unauthenticated = 5
	s, err := New(Options{
		Log: log, Authenticator: &auth.Own{CA: ca}, Authorizer: deny{"forbidden"},
		Safety: safety, Now: func() time.Time { return now },
		Addr: "127.0.0.1:0", TLSConfig: ca.TLSConfig(auth.TLSOptions{Protocols: Protocols}),
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
	client := func(from *auth.CA, alpn ...string) *http.Client {
		cfg := &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost", NextProtos: alpn}
		if from != nil {
			c, k, err := from.IssueClient("d")
			if err != nil {
				t.Fatal(err)
			}
			p, err := tls.X509KeyPair(c, k)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Certificates = []tls.Certificate{p}
		}
		tr := &http.Transport{TLSClientConfig: cfg}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	t.Cleanup(func() { stop(); wg.Wait() })
	return "https://" + s.Addr().String(), client(ca, "x-amzn-http-ca"), client(other), client(nil)
}

type answer struct {
	status           int
	kind             string
	Message, TraceID string
}

func post(t *testing.T, c *http.Client, url, body string, header http.Header) answer {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		r.Header = header
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode, kind: res.Header.Get("X-Amzn-ErrorType")}
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	if a.TraceID == "" {
		t.Error("no traceId")
	}
	return a
}

func TestPublish(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	log := &fakeLog{}
	t.Run("x", func(t *testing.T) {
		url, own, _, _ := start(t, log)
		a := post(t, own, url+"/topics/a%2Fb%20c//d?qos=1&contentType=text%2Fplain&responseTopic=r&messageExpiry=9", "hello", http.Header{
			"X-Amz-Mqtt5-Correlation-Data":         {base64.StdEncoding.EncodeToString([]byte{1, 2})},
			"X-Amz-Mqtt5-User-Properties":          {base64.StdEncoding.EncodeToString([]byte(`[{"b":"1"},{"a":"2"},{"b":"3"}]`))},
			"X-Amz-Mqtt5-Payload-Format-Indicator": {"UTF8_DATA"},
		})
		if a.status != 200 || a.Message != "OK" {
			t.Fatalf("%+v", a)
		}
		e := log.events[0]
		if e.Topic != "a/b c//d" || string(e.Payload) != "hello" || e.QoS != 1 || e.Protocol != event.HTTP || len(e.Principal) != 64 || e.SourceIP != "127.0.0.1" || e.Received.IsZero() {
			t.Errorf("%+v", e)
		}
		if a.TraceID != e.ID().String() {
			t.Error("traceId is not the message's id")
		}
		p := e.Props
		if p == nil || p.ContentType != "text/plain" || p.ResponseTopic != "r" || p.MessageExpiry != 9 || !p.PayloadUTF8 || !bytes.Equal(p.CorrelationData, []byte{1, 2}) {
			t.Errorf("%+v", p)
		}
		want := []event.UserProperty{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "3"}}
		for i, u := range p.User {
			if u != want[i] {
				t.Errorf("user property %d: %v", i, u)
			}
		}
		if a := post(t, own, url+"/topics/x", "", nil); a.status != 200 || log.events[1].Props != nil || log.events[1].QoS != 0 {
			t.Errorf("%+v", a)
		}
	})
}

func TestRefusals(t *testing.T) {
	log := &fakeLog{}
	url, own, foreign, none := start(t, log)
	big := strings.Repeat("x", 128<<10+1)
	for _, c := range []struct {
		name   string
		client *http.Client
		path   string
		body   string
		header http.Header
		err    error
		status int
		kind   string
	}{
		{name: "no certificate", client: none, path: "/topics/a", status: 403, kind: "ForbiddenException"},
		{name: "foreign certificate", client: foreign, path: "/topics/a", status: 403, kind: "ForbiddenException"},
		{name: "denied", path: "/topics/forbidden", status: 403, kind: "ForbiddenException"},
		{name: "reserved", path: "/topics/$aws/events/x", status: 403, kind: "ForbiddenException"},
		{name: "private", path: "/topics/$aws/things/t/jobs/get", status: 403, kind: "ForbiddenException"},
		{name: "wildcard", path: "/topics/a%2B%2F%2B", status: 400, kind: "InvalidRequestException"},
		{name: "empty topic", path: "/topics/", status: 400, kind: "InvalidRequestException"},
		{name: "bad qos", path: "/topics/a?qos=2", status: 400, kind: "InvalidRequestException"},
		{name: "bad expiry", path: "/topics/a?messageExpiry=-1", status: 400, kind: "InvalidRequestException"},
		{name: "bad response topic", path: "/topics/a?responseTopic=%23", status: 400, kind: "InvalidRequestException"},
		{name: "bad correlation data", path: "/topics/a", header: http.Header{"X-Amz-Mqtt5-Correlation-Data": {"!"}}, status: 400, kind: "InvalidRequestException"},
		{name: "bad user properties", path: "/topics/a", header: http.Header{"X-Amz-Mqtt5-User-Properties": {"e30="}}, status: 400, kind: "InvalidRequestException"},
		{name: "large", path: "/topics/a", body: big, status: 413, kind: "RequestEntityTooLargeException"},
		{name: "elsewhere", path: "/x", status: 404, kind: "ResourceNotFoundException"},
		{name: "stream full", path: "/topics/a", err: errs.E("x", errs.Quota, errors.New("full")), status: 429, kind: "ThrottlingException"},
		{name: "store away", path: "/topics/a", err: errs.E("x", errs.Unavailable, nil), status: 503, kind: "ServiceUnavailableException"},
		{name: "internal", path: "/topics/a", err: errors.New("secret detail"), status: 500, kind: "InternalFailureException"},
	} {
		if c.client == nil {
			c.client = own
		}
		log.mu.Lock()
		log.err = c.err
		log.mu.Unlock()
		a := post(t, c.client, url+c.path, c.body, c.header)
		if a.status != c.status || a.kind != c.kind || strings.Contains(a.Message, "secret") {
			t.Errorf("%s: %+v", c.name, a)
		}
	}
	if len(log.events) != 0 {
		t.Error("something refused is on the log")
	}
	res, err := own.Get(url + "/topics/a")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Error("GET:", res.Status)
	}
}

func TestUnauthenticatedConnectionsOfAnAddress(t *testing.T) {
	url, own, _, _ := start(t, &fakeLog{})
	addr := strings.TrimPrefix(url, "https://")
	for range 5 { // say nothing
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if _, err := own.Post(url+"/topics/a", "", nil); err == nil {
		t.Error("the sixth connection is served")
	}
}

func TestFailedLogins(t *testing.T) {
	url, _, _, none := start(t, &fakeLog{})
	refused := false
	for range 50 {
		res, err := none.Post(url+"/topics/a", "", nil)
		if refused = err != nil; refused {
			break
		}
		res.Body.Close()
	}
	if !refused {
		t.Error("any number of failed log-ins in a second")
	}
}

func FuzzUserProperties(f *testing.F) {
	f.Add(base64.StdEncoding.EncodeToString([]byte(`[{"a":"b"}]`)))
	f.Add("e30=")
	f.Fuzz(func(t *testing.T, s string) {
		list, err := userProperties(s)
		if err != nil && list != nil {
			t.Error("both")
		}
	})
}
