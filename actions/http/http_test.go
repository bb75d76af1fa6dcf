package http

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/actiontest"
	"github.com/weir-iot/weir/internal/topic"
)

// receiver is a web server that notes what it is sent.
type receiver struct {
	mu   sync.Mutex
	got  []received // guarded by mu
	then func(w nethttp.ResponseWriter, r *nethttp.Request)
}

type received struct {
	header nethttp.Header
	url    string
	body   string
}

func (s *receiver) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.got = append(s.got, received{r.Header.Clone(), r.URL.RequestURI(), string(b)})
	s.mu.Unlock()
	if s.then != nil {
		s.then(w, r)
	}
}

func (s *receiver) all() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// anywhere is a Destinations that everyone has confirmed.
type anywhere struct{}

func (anywhere) Confirm(context.Context, string) error         { return nil }
func (anywhere) Enabled(context.Context, string) (bool, error) { return true, nil }

func open(t testing.TB, config string, change ...func(*actions.Env)) (actions.Action, actions.Spec) {
	t.Helper()
	a, spec, err := try(t, config, change...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(context.Background()) })
	return a, spec
}

func try(t testing.TB, config string, change ...func(*actions.Env)) (actions.Action, actions.Spec, error) {
	env := actiontest.Env(t, "")
	env.AllowPrivate, env.Destinations = true, anywhere{}
	for _, c := range change {
		c(&env)
	}
	return Kind.New(t.Context(), env, json.RawMessage(config))
}

func TestContract(t *testing.T) {
	for name, config := range map[string]string{
		"single":        `{"url":"%s/hook?d=${device}","confirmationUrl":"%s"}`,
		"batched":       `{"url":"%s/hook","confirmationUrl":"%s","enableBatching":true,"batchConfig":{"batchAcrossTopics":true,"maxBatchSizeBytes":131072}}`,
		"batch a topic": `{"url":"%s/hook","confirmationUrl":"%s","enableBatching":true}`,
	} {
		t.Run(name, func(t *testing.T) {
			f := actiontest.Features{
				Kind: Kind,
				Open: func(t testing.TB) *actiontest.Destination {
					r := &receiver{}
					p := actiontest.NewServer(t, r)
					return &actiontest.Destination{
						Config: fmt.Sprintf(config, p.URL, p.URL),
						Env:    func(e *actions.Env) { e.AllowPrivate, e.Destinations = true, anywhere{} },
						Received: func(t testing.TB) (out []actiontest.Delivery) {
							for _, q := range r.all() {
								ids := strings.Split(q.header.Get(HeaderMessageID), ",")
								bodies := []json.RawMessage{json.RawMessage(q.body)}
								if name != "single" {
									if err := json.Unmarshal([]byte(q.body), &bodies); err != nil {
										t.Fatal(err)
									}
								}
								for i, b := range bodies {
									out = append(out, actiontest.Delivery{ID: ids[i], Payload: string(b)})
								}
							}
							return out
						},
						Fault: p.Set,
					}
				},
			}
			if name == "single" {
				f.Bad = func(r *actions.Result) { r.Event.Payload = []byte(`{"device":"a\r\nb"}`) }
			}
			actiontest.Run(t, f)
		})
	}
}

func deliver(t testing.TB, a actions.Action, payload string) error {
	r := actiontest.Result(1)
	r.Payload = []byte(payload)
	r.Event.Payload = r.Payload
	return a.Deliver(t.Context(), []*actions.Result{r})
}

func TestRequest(t *testing.T) {
	s := &receiver{}
	srv := httptest.NewServer(s)
	defer srv.Close()
	a, _ := open(t, `{"url":"`+srv.URL+`/a","headers":[{"key":"x-device","value":"<${device}>"},{"key":"user-agent","value":"mine"}]}`)
	if err := deliver(t, a, `{"device":"d"}`); err != nil {
		t.Fatal(err)
	}
	if err := deliver(t, a, "not JSON"); err != nil {
		t.Fatal(err)
	}
	b, _ := open(t, `{"url":"`+srv.URL+`/b","headers":[{"key":"Content-Type","value":"text/csv"}]}`)
	if err := deliver(t, b, `{}`); err != nil {
		t.Fatal(err)
	}
	got := s.all()
	id := actiontest.Result(1).ID.String()
	for i, want := range []map[string]string{
		{"X-Device": "<d>", "Content-Type": "application/json", HeaderMessageID: id, HeaderRule: "test", "User-Agent": "mine"},
		{"X-Device": "<>", "Content-Type": "application/octet-stream"},
		{"Content-Type": "text/csv", "User-Agent": "Weir"},
	} {
		for k, v := range want {
			if got[i].header.Get(k) != v {
				t.Errorf("request %d: %s is %q, want %q", i, k, got[i].header.Get(k), v)
			}
		}
		if _, ok := got[i].header["Idempotency-Key"]; ok {
			t.Error("an empty Idempotency-Key was sent")
		}
	}
}

// Row 18 of the faults: what a web server can do to us.
func TestBadServers(t *testing.T) {
	canary := httptest.NewServer(nethttp.HandlerFunc(func(nethttp.ResponseWriter, *nethttp.Request) { t.Error("the redirect was followed") }))
	defer canary.Close()
	for name, c := range map[string]struct {
		then  func(w nethttp.ResponseWriter, r *nethttp.Request)
		class string
		part  string
		under time.Duration
	}{
		"200": {func(w nethttp.ResponseWriter, r *nethttp.Request) {}, "delivered", "", time.Second},
		"204": {func(w nethttp.ResponseWriter, r *nethttp.Request) { w.WriteHeader(204) }, "delivered", "", time.Second},
		"500": {func(w nethttp.ResponseWriter, r *nethttp.Request) { nethttp.Error(w, "boom", 500) }, "answered", "boom", time.Second},
		"429": {func(w nethttp.ResponseWriter, r *nethttp.Request) {
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(429)
		}, "answered", "429", time.Second},
		"400": {func(w nethttp.ResponseWriter, r *nethttp.Request) { w.WriteHeader(400) }, "permanent", "400", time.Second},
		"404": {func(w nethttp.ResponseWriter, r *nethttp.Request) { w.WriteHeader(404) }, "permanent", "404", time.Second},
		"302": {func(w nethttp.ResponseWriter, r *nethttp.Request) {
			nethttp.Redirect(w, r, canary.URL, nethttp.StatusFound)
		}, "permanent", "redirect", time.Second},
		"307": {func(w nethttp.ResponseWriter, r *nethttp.Request) {
			nethttp.Redirect(w, r, canary.URL, nethttp.StatusTemporaryRedirect)
		}, "permanent", "redirect", time.Second},
		"1 GB":        {func(w nethttp.ResponseWriter, r *nethttp.Request) { w.WriteHeader(500); flood(w) }, "permanent", "16384", 3 * time.Second},
		"1 GB of yes": {func(w nethttp.ResponseWriter, r *nethttp.Request) { flood(w) }, "delivered", "", 3 * time.Second},
		"drips a yes": {func(w nethttp.ResponseWriter, r *nethttp.Request) { drip(w, r) }, "delivered", "", 3 * time.Second},
		"drips a no":  {func(w nethttp.ResponseWriter, r *nethttp.Request) { w.WriteHeader(503); drip(w, r) }, "answered", "503", 3 * time.Second},
		"hangs":       {func(w nethttp.ResponseWriter, r *nethttp.Request) { <-r.Context().Done() }, "unreachable", "no reply", 5 * time.Second},
		"long header": {func(w nethttp.ResponseWriter, r *nethttp.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, "unreachable", "", 3 * time.Second},
		"cuts":        {func(w nethttp.ResponseWriter, r *nethttp.Request) { panic(nethttp.ErrAbortHandler) }, "unreachable", "", 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(&receiver{then: c.then})
			defer srv.Close()
			defer srv.CloseClientConnections()
			a, spec := open(t, `{"url":"`+srv.URL+`/hook?token=secret"}`)
			at := time.Now()
			err := deliver(t, a, `{}`)
			if took := time.Since(at); took > c.under {
				t.Errorf("took %v", took)
			}
			class := classOf(err)
			if class != c.class || err != nil && !strings.Contains(err.Error(), c.part) {
				t.Errorf("%s, want %s: %v", class, c.class, err)
			}
			if err != nil && (strings.Contains(err.Error(), "secret") || len(err.Error()) > 1000) || strings.Contains(spec.Resource, "secret") {
				t.Errorf("too much in the error: %v", err)
			}
		})
	}
}

func classOf(err error) string {
	switch {
	case err == nil:
		return "delivered"
	case actions.IsPermanent(err):
		return "permanent"
	case actions.IsUnreachable(err):
		return "unreachable"
	}
	return "answered"
}

func flood(w nethttp.ResponseWriter) {
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	for range 1024 {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func drip(w nethttp.ResponseWriter, r *nethttp.Request) {
	for {
		if _, err := w.Write([]byte{'x'}); err != nil {
			return
		}
		_ = nethttp.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// raw runs a TCP server that does as it likes.
func raw(t testing.TB, serve func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

func untilClosed(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func TestServersThatAreNone(t *testing.T) {
	for name, url := range map[string]string{
		"TLS stalls": "https://" + raw(t, untilClosed),
		"header drips": "http://" + raw(t, func(c net.Conn) {
			for _, b := range []byte("HTTP/1.1 200 OK\r\nA: ") {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(300 * time.Millisecond)
			}
			untilClosed(c)
		}),
		"not HTTP":       "http://" + raw(t, func(c net.Conn) { fmt.Fprint(c, "220 smtp\r\n"); untilClosed(c) }),
		"nothing there":  "http://127.0.0.1:1",
		"no such name":   "https://no-such-host.invalid",
		"TLS, untrusted": httptestTLS(t),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, _ := open(t, `{"url":"`+url+`"}`)
			at := time.Now()
			err := deliver(t, a, `{}`)
			if took := time.Since(at); !actions.IsUnreachable(err) || took > requestTime+2*time.Second {
				t.Errorf("after %v: %v", took, err)
			}
		})
	}
}

func httptestTLS(t testing.TB) string {
	srv := httptest.NewUnstartedServer(&receiver{})
	srv.Config.ErrorLog = discard
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestHTTPSAndHTTP2(t *testing.T) {
	for _, two := range []bool{false, true} {
		s := &receiver{}
		srv := httptest.NewUnstartedServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
			r.Header.Set("Proto", r.Proto)
			s.ServeHTTP(w, r)
		}))
		srv.EnableHTTP2 = two
		srv.StartTLS()
		a, _ := open(t, `{"url":"`+srv.URL+`/x"}`)
		roots := x509.NewCertPool()
		roots.AddCert(srv.Certificate())
		a.(*action).client.secure.TLSClientConfig.RootCAs = roots
		for range 3 {
			if err := deliver(t, a, `{}`); err != nil {
				t.Fatal(err)
			}
		}
		want := "HTTP/1.1"
		if two {
			want = "HTTP/2.0"
		}
		for _, q := range s.all() {
			if _, ok := q.header["Idempotency-Key"]; ok || q.header.Get("Proto") != want || q.header.Get(HeaderRule) != "test" {
				t.Errorf("%v", q.header)
			}
		}
		_ = a.Close(t.Context())
		srv.Close()
	}
}

// An idle connection that the server has closed is no failure.
func TestIdleConnectionClosed(t *testing.T) {
	var conns atomic.Int32
	addr := raw(t, func(c net.Conn) {
		conns.Add(1)
		buf := make([]byte, 64<<10)
		if _, err := c.Read(buf); err != nil {
			return
		}
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		// It says it stays, and goes when the next request comes.
		_, _ = c.Read(buf)
	})
	a, _ := open(t, `{"url":"http://`+addr+`/"}`)
	for range 5 {
		if err := deliver(t, a, `{}`); err != nil {
			t.Fatal(err)
		}
	}
	if conns.Load() < 2 {
		t.Error("no connection was used again: nothing was tested")
	}
}

func TestBatches(t *testing.T) {
	s := &receiver{}
	srv := httptest.NewServer(s)
	defer srv.Close()
	results := func(topics ...string) (out []*actions.Result) {
		for i, name := range topics {
			r := actiontest.Result(i + 1)
			r.Event.Topic = topic.Name(name)
			r.Payload = fmt.Appendf(nil, `{"i":%d,"t":%q}`, i, name)
			out = append(out, r)
		}
		return out
	}
	for name, c := range map[string]struct {
		config  string
		results []*actions.Result
		want    []string
	}{
		"a topic": {`"enableBatching":true`, results("a", "b", "a", "b", "a"),
			[]string{`[{"i":0,"t":"a"},{"i":2,"t":"a"},{"i":4,"t":"a"}]`, `[{"i":1,"t":"b"},{"i":3,"t":"b"}]`}},
		"across topics": {`"enableBatching":true,"batchConfig":{"batchAcrossTopics":true}`, results("a", "b", "a"),
			[]string{`[{"i":0,"t":"a"},{"i":1,"t":"b"},{"i":2,"t":"a"}]`}},
		"by number": {`"enableBatching":true,"batchConfig":{"maxBatchSize":2}`, results("a", "a", "a"),
			[]string{`[{"i":0,"t":"a"},{"i":1,"t":"a"}]`, `[{"i":2,"t":"a"}]`}},
		"by bytes": {`"enableBatching":true,"batchConfig":{"maxBatchSizeBytes":100}`, results("a", "a", "a", "a", "a", "a", "a"),
			[]string{`[{"i":0,"t":"a"},{"i":1,"t":"a"},{"i":2,"t":"a"},{"i":3,"t":"a"},{"i":4,"t":"a"},{"i":5,"t":"a"}]`, `[{"i":6,"t":"a"}]`}},
	} {
		t.Run(name, func(t *testing.T) {
			s.mu.Lock()
			s.got = nil
			s.mu.Unlock()
			a, spec := open(t, `{"url":"`+srv.URL+`",`+c.config+`}`)
			if spec.BatchMax < 2 || spec.BatchLinger != 20*time.Millisecond {
				t.Errorf("%+v", spec)
			}
			if err := a.Deliver(t.Context(), c.results); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, q := range s.all() {
				got = append(got, q.body)
				if n := len(strings.Split(q.header.Get(HeaderMessageID), ",")); n != strings.Count(q.body, `"i"`) {
					t.Errorf("%d ids for %s", n, q.body)
				}
			}
			slices.Sort(got)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestBatchFailsTogetherAndAlone(t *testing.T) {
	s := &receiver{then: func(w nethttp.ResponseWriter, r *nethttp.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(500)
		}
	}}
	srv := httptest.NewServer(s)
	defer srv.Close()
	a, _ := open(t, `{"url":"`+srv.URL+`/${p}","confirmationUrl":"`+srv.URL+`","enableBatching":true}`)
	var batch []*actions.Result
	for i, p := range []string{"good", "bad", "good", "bad", "raw"} {
		r := actiontest.Result(i + 1)
		r.Event.Topic = "same"
		r.Event.Payload = fmt.Appendf(nil, `{"p":%q}`, p)
		r.Payload = r.Event.Payload
		if p == "raw" {
			r.Payload = []byte{0xff, 0x00}
		}
		batch = append(batch, r)
	}
	var be *actions.BatchError
	if err := a.Deliver(t.Context(), batch); !errors.As(err, &be) {
		t.Fatal(err)
	}
	for i, want := range []string{"delivered", "answered", "delivered", "answered", "delivered"} {
		if got := classOf(be.Errs[i]); got != want {
			t.Errorf("result %d: %s: %v", i, got, be.Errs[i])
		}
	}
	if n := len(s.all()); n != 3 {
		t.Errorf("%d requests", n)
	}
	for _, q := range s.all() {
		if q.body == "\xff\x00" && q.header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("%v", q.header)
		}
	}
}

func TestValuesAreEncodedForTheirPlace(t *testing.T) {
	s := &receiver{}
	srv := httptest.NewServer(s)
	defer srv.Close()
	a, _ := open(t, `{"url":"`+srv.URL+`/x/${v}/y?a=${v}&b=1","confirmationUrl":"`+srv.URL+`/x/"}`)
	for v, want := range map[string]string{
		"plain":        "/x/plain/y?a=plain&b=1",
		"a/b":          "/x/a/b/y?a=a%2Fb&b=1",
		"a b?c#d&e=f%": "/x/a%20b%3Fc%23d&e=f%25/y?a=a%20b%3Fc%23d%26e%3Df%25&b=1",
		"ü@:":          "/x/%C3%BC@:/y?a=%C3%BC%40%3A&b=1",
	} {
		b, _ := json.Marshal(map[string]string{"v": v})
		if err := deliver(t, a, string(b)); err != nil {
			t.Errorf("%q: %v", v, err)
			continue
		}
		if got := s.all()[len(s.all())-1].url; got != want {
			t.Errorf("%q: %s, want %s", v, got, want)
		}
	}
	n := len(s.all())
	for _, v := range []string{"..", "../z", "a/../../b", ".", "a\r\nHost: evil", "a\x00b", strings.Repeat("x", 2000)} {
		b, _ := json.Marshal(map[string]string{"v": v})
		if err := deliver(t, a, string(b)); !actions.IsPermanent(err) {
			t.Errorf("%.20q: %v", v, err)
		}
	}
	if len(s.all()) != n {
		t.Error("one of them was sent")
	}
}

func TestHeaderValues(t *testing.T) {
	s := &receiver{}
	srv := httptest.NewServer(s)
	defer srv.Close()
	a, _ := open(t, `{"url":"`+srv.URL+`","headers":[{"key":"x-a","value":"${v}"}]}`)
	for _, v := range []string{"a\r\nX-Evil: 1", "a\nb", "a\x00b", "a\x7fb", strings.Repeat("x", maxHeaderSum+1)} {
		b, _ := json.Marshal(map[string]string{"v": v})
		if err := deliver(t, a, string(b)); !actions.IsPermanent(err) {
			t.Errorf("%.20q: %v", v, err)
		}
	}
	if len(s.all()) > 0 {
		t.Error("one of them was sent")
	}
}

// A value in the host chooses among confirmed destinations and can do no more.
func TestHostFromMessage(t *testing.T) {
	s := &receiver{}
	srv := httptest.NewServer(s)
	defer srv.Close()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	d := &some{enabled: "http://127.0.0.1:" + port}
	a, _ := open(t, `{"url":"http://${h}:`+port+`/x","confirmationUrl":"http://${h}:`+port+`"}`, func(e *actions.Env) { e.Destinations = d })
	if err := deliver(t, a, `{"h":"127.0.0.1"}`); err != nil {
		t.Error(err)
	}
	for _, h := range []string{"127.0.0.2", "evil.example", "127.0.0.1@evil.example", "127.0.0.1/", "127.0.0.1#", "[::1]", "a b", "", "127.0.0.1:80"} {
		b, _ := json.Marshal(map[string]string{"h": h})
		if err := deliver(t, a, string(b)); !actions.IsPermanent(err) {
			t.Errorf("%q: %v", h, err)
		}
	}
	if len(d.asked) > 0 {
		t.Errorf("asked %q to confirm", d.asked)
	}
	fixed, _ := open(t, `{"url":"http://127.0.0.9:`+port+`/x"}`, func(e *actions.Env) { e.Destinations = d })
	if err := deliver(t, fixed, `{}`); !actions.IsUnreachable(err) {
		t.Errorf("results for a destination that is not confirmed yet wait: %v", err)
	}
	if len(d.asked) != 1 {
		t.Errorf("asked %q", d.asked)
	}
}

type some struct {
	enabled string
	asked   []string
}

func (s *some) Confirm(_ context.Context, u string) error { s.asked = append(s.asked, u); return nil }
func (s *some) Enabled(_ context.Context, u string) (bool, error) {
	return strings.HasPrefix(u, s.enabled+"/"), nil
}

func TestSigV4(t *testing.T) {
	s := &receiver{}
	srv := httptest.NewServer(s)
	defer srv.Close()
	a, _ := open(t, `{"url":"`+srv.URL+`/x?b=2&a=1","auth":{"sigv4":{"signingRegion":"eu-west-1","serviceName":"execute-api","roleArn":"arn:aws:iam::123456789012:role/r"}}}`,
		func(e *actions.Env) {
			e.AWS = func(context.Context) (aws.Config, error) {
				return aws.Config{Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
					return aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "secret", SessionToken: "token"}, nil
				})}, nil
			}
		})
	if err := deliver(t, a, `{}`); err != nil {
		t.Fatal(err)
	}
	h := s.all()[0].header
	if auth := h.Get("Authorization"); !strings.Contains(auth, "AKID/") || !strings.Contains(auth, "/eu-west-1/execute-api/aws4_request") ||
		!strings.Contains(auth, "content-length;content-type;host;") || strings.Contains(auth, "idempotency") {
		t.Errorf("%s", auth)
	}
	if h.Get("X-Amz-Security-Token") != "token" || h.Get("X-Amz-Content-Sha256") != "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" {
		t.Errorf("%v", h)
	}
}

func TestConfigMistakes(t *testing.T) {
	many := strings.Repeat(`{"key":"a%d","value":"b"},`, 101)
	for i := range 101 {
		many = strings.Replace(many, "%d", fmt.Sprint(i), 1)
	}
	for _, c := range []struct{ config, path, part string }{
		{`{}`, "", "url"},
		{`{"url":"ftp://a.example"}`, "url", "https://"},
		{`{"url":"file:///etc/passwd"}`, "url", "https://"},
		{`{"url":"gopher://a.example"}`, "url", "https://"},
		{`{"url":"${scheme}://a.example"}`, "url", "https://"},
		{`{"url":"https://"}`, "url", "host"},
		{`{"url":"https://u:p@a.example"}`, "url", "not allowed"},
		{`{"url":"https://a.example/#x"}`, "url", "fragment"},
		{`{"url":"https://a.example/a b"}`, "url", "%20"},
		{`{"url":"https://a.example/a/../b"}`, "url", ".."},
		{`{"url":"https://a.example/%2e%2e/b"}`, "url", ".."},
		{`{"url":"https://a.example/${x}"}`, "", "confirmationUrl"},
		{`{"url":"https://a.example/${"}`, "url", ""},
		{`{"url":"https://a.example/x","confirmationUrl":"https://a.example/y"}`, "url", "begin with"},
		{`{"url":"https://a.example.net/","confirmationUrl":"https://a.example"}`, "url", "begin with"},
		{`{"url":"https://a.example:444/","confirmationUrl":"https://a.example"}`, "url", "begin with"},
		{`{"url":"https://a.example/` + strings.Repeat("x", 2000) + `"}`, "url", "2000"},
		{`{"url":"https://a.example","headers":[` + strings.TrimSuffix(many, ",") + `]}`, "headers", "100"},
		{`{"url":"https://a.example","headers":[{"key":"a b","value":"c"}]}`, "headers.0.key", "name"},
		{`{"url":"https://a.example","headers":[{"key":"a","value":"b"},{"key":"host","value":"c"}]}`, "headers.1.key", "host"},
		{`{"url":"https://a.example","headers":[{"key":"x-weir-rule","value":"c"}]}`, "headers.0.key", "yours"},
		{`{"url":"https://a.example","headers":[{"key":"a","value":"b\r\nc"}]}`, "headers.0.value", "control"},
		{`{"url":"https://a.example","headers":[{"key":"a","value":"b"},{"key":"A","value":"c"}]}`, "headers.1.key", "twice"},
		{`{"url":"https://a.example","batchConfig":{"maxBatchSize":2}}`, "batchConfig", "enabled"},
		{`{"url":"https://a.example","enableBatching":true,"batchConfig":{"maxBatchSize":11}}`, "batchConfig.maxBatchSize", "10"},
		{`{"url":"https://a.example","enableBatching":true,"batchConfig":{"maxBatchOpenMs":0}}`, "batchConfig.maxBatchOpenMs", "5"},
		{`{"url":"https://a.example","enableBatching":true,"batchConfig":{"maxBatchSizeBytes":131073}}`, "batchConfig.maxBatchSizeBytes", "131072"},
		{`{"url":"https://a.example","auth":{"sigv4":{"signingRegion":"r"}}}`, "auth.sigv4", "serviceName"},
		{`{"url":"https://a.example","auth":{"basic":{}}}`, "auth.basic", "sigv4"},
	} {
		_, _, err := try(t, c.config)
		var fe *actions.FieldError
		if !errors.As(err, &fe) || strings.Join(fe.Path, ".") != c.path || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%.80s: %v", c.config, err)
		}
	}
	public := func(e *actions.Env) { e.AllowPrivate = false }
	if _, _, err := try(t, `{"url":"http://a.example"}`, public); err == nil {
		t.Error("plain http is allowed where only public addresses are")
	}
	lan := func(e *actions.Env) {
		e.AllowPrivate, e.AllowNetworks = false, []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	}
	if _, _, err := try(t, `{"url":"http://printer.example"}`, lan); err != nil {
		t.Error(err)
	}
}

func BenchmarkDeliver(b *testing.B) {
	srv := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer srv.Close()
	for name, config := range map[string]string{
		"single":  `{"url":"` + srv.URL + `/x/${device}","confirmationUrl":"` + srv.URL + `"}`,
		"batched": `{"url":"` + srv.URL + `/x","enableBatching":true,"batchConfig":{"batchAcrossTopics":true}}`,
	} {
		b.Run(name, func(b *testing.B) {
			a, spec := open(b, config)
			var results []*actions.Result
			for i := range spec.BatchMax {
				results = append(results, actiontest.Result(i+1))
			}
			b.ReportAllocs()
			cpu := actiontest.CPU(b)
			n := 0
			for n < b.N {
				if err := a.Deliver(b.Context(), results); err != nil {
					b.Fatal(err)
				}
				n += len(results)
			}
			cpu(n)
		})
	}
}
