package mux

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/gorilla/websocket"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/auth/custom"
	"github.com/weir-iot/weir/ingest/auth/sigv4"
	"github.com/weir-iot/weir/ingest/domain"
	"github.com/weir-iot/weir/ingest/https"
	"github.com/weir-iot/weir/ingest/mqtt"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/mqttclient"
)

const (
	keyID  = "AKIAIOSFODNN7EXAMPLE"
	secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	region = "us-east-1"
)

// gateway is all listeners in one process, with fakes for what the registry and
// functions give.
type gateway struct {
	t                 testing.TB
	ca, foreign       *auth.CA
	device            tls.Certificate
	mux, mqtts, https string // ports
	mqtt              *mqtt.Server

	mu      sync.Mutex
	seen    []*auth.Principal // by the authorizer
	domains map[string]*domain.Config
	def     string // authorizer
	asked   int    // functions called
}

// May implements auth.Authorizer.
func (g *gateway) May(p *auth.Principal, _ auth.Action, resource string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen = append(g.seen, p)
	return resource != "forbidden"
}

// last returns the principal that was asked about last.
func (g *gateway) last() *auth.Principal {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.seen) == 0 {
		return nil
	}
	return g.seen[len(g.seen)-1]
}

// Domain implements domain.Configs.
func (g *gateway) Domain(name string) (*domain.Config, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d, ok := g.domains[name]
	return d, ok
}

// Authorizer implements custom.Store.
func (g *gateway) Authorizer(name string) (*custom.Authorizer, bool) {
	return &custom.Authorizer{Name: name, Function: "fn", Active: true, SigningDisabled: true, TokenKeyName: "tok"}, name == "vouch"
}

// Default implements custom.Store.
func (g *gateway) Default(name string) (string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := g.domains[name]; d != nil && d.DefaultAuthorizer != "" {
		return d.DefaultAuthorizer, d.AllowOverride
	}
	return g.def, true
}

// Invoke implements custom.Invoker: password or token must be "letmein".
func (g *gateway) Invoke(_ context.Context, _ string, payload []byte) ([]byte, error) {
	g.mu.Lock()
	g.asked++
	g.mu.Unlock()
	var e struct {
		Token string
		Data  struct{ MQTT struct{ Password []byte } } `json:"protocolData"`
	}
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, err
	}
	ok := e.Token == "letmein" || string(e.Data.MQTT.Password) == "letmein"
	return fmt.Appendf(nil, `{"isAuthenticated":%t,"principalId":"vouched","disconnectAfterInSeconds":3600,"refreshAfterInSeconds":300,"policyDocuments":[]}`, ok), nil
}

func start(t testing.TB) *gateway {
	t.Helper()
	g := &gateway{t: t, domains: map[string]*domain.Config{}}
	var err error
	if g.ca, err = auth.OpenCA(t.TempDir(), []string{"iot.example"}, nil); err != nil {
		t.Fatal(err)
	}
	if g.foreign, err = auth.OpenCA(t.TempDir(), nil, nil); err != nil {
		t.Fatal(err)
	}
	g.device = g.certificate(g.ca)
	ctx, stop := context.WithCancel(context.Background())
	log, err := eventlog.Open(ctx, eventlog.Options{Dir: t.TempDir(), Durability: eventlog.Memory})
	if err != nil {
		t.Fatal(err)
	}
	names, err := domain.Open(domain.Options{Own: g.ca.ServerCertificate, Configs: g})
	if err != nil {
		t.Fatal(err)
	}
	safety := ingest.DefaultSafety()
	safety.ConnectTimeout, safety.FailedLogins = 2*time.Second, 1000
	logger := slog.New(slog.DiscardHandler)
	policies := auth.NewPolicies(auth.PoliciesOptions{AccountID: "123456789012", Region: region, Generation: func() uint64 { return 1 }})
	authorizers, err := custom.New(custom.Options{
		Store: g, Invoke: g, Policies: policies,
		End: func(p *auth.Principal) { g.mqtt.DisconnectSession(p) },
	})
	if err != nil {
		t.Fatal(err)
	}
	methods := &Methods{
		Certificate: &auth.Own{CA: g.ca}, Custom: authorizers, Domains: g,
		Signature: &sigv4.Authenticator{Policies: policies, Verifier: sigv4.New(sigv4.Options{Region: region, Keys: sigv4.KeysFunc(func(_ context.Context, id, token string) (sigv4.Key, bool) {
			return sigv4.Key{Secret: secret}, id == keyID && token == ""
		})})},
	}
	if g.mqtt, err = mqtt.New(mqtt.Options{
		Log: mqtt.OnLog(log), Authenticator: methods, Authorizer: g, Safety: safety, Logger: logger,
		TLS: "localhost:0", TLSConfig: names.TLSConfig(mqtt.Protocols...),
	}); err != nil {
		t.Fatal(err)
	}
	m, err := New(Options{Addr: "localhost:0", TLSConfig: names.MuxTLSConfig, MQTT: g.mqtt.Serve, Safety: safety, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	hs, err := https.New(https.Options{
		Log: log, Authenticator: methods, Authorizer: g, Safety: safety, Logger: logger,
		Addr: "localhost:0", TLSConfig: names.TLSConfig(https.Protocols...), MQTT: g.mqtt.WebSocket(https.TLSState),
		Mux: m.HTTP(), MuxTLSConfig: names.MuxTLSConfig(https.Protocols...),
		Data: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s %s", auth.PrincipalFrom(r.Context()).ID, r.URL.Path, b)
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	var parts []func()
	run := func(f func(context.Context) error) {
		ctx, stop := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		})
		parts = append(parts, func() { stop(); wg.Wait() })
	}
	run(log.Run)
	run(authorizers.Run)
	run(g.mqtt.Run)
	run(hs.Run)
	run(m.Run)
	t.Cleanup(func() {
		for i := len(parts) - 1; i >= 0; i-- {
			parts[i]()
		}
		stop()
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	port := func(a net.Addr) string {
		_, p, _ := net.SplitHostPort(a.String())
		return p
	}
	g.mux, g.mqtts, g.https = port(m.Addr()), port(g.mqtt.Addr(auth.TLS)), port(hs.Addr())
	return g
}

func (g *gateway) certificate(ca *auth.CA) tls.Certificate {
	g.t.Helper()
	c, k, err := ca.IssueClient("device")
	if err != nil {
		g.t.Fatal(err)
	}
	p, err := tls.X509KeyPair(c, k)
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}

// client is how one client connects.
type client struct {
	host string // 127.0.0.1 or ::1
	port string
	alpn []string
	cert *tls.Certificate
	tls  func(*tls.Config)

	user, password string
	sign           bool // with Signature Version 4
	service        string
	header         http.Header
	query          string
}

func (g *gateway) tlsConfig(c client) *tls.Config {
	cfg := &tls.Config{RootCAs: g.ca.Pool(), ServerName: "localhost", NextProtos: c.alpn}
	if c.cert != nil {
		cfg.Certificates = []tls.Certificate{*c.cert}
	}
	if c.tls != nil {
		c.tls(cfg)
	}
	return cfg
}

// connectMQTT connects over TLS, publishes at QoS 1 and waits for the PUBACK.
func (g *gateway) connectMQTT(c client) error {
	o := mqttclient.Options{Addr: net.JoinHostPort(c.host, c.port), TLS: g.tlsConfig(c), Username: c.user, Password: c.password}
	return g.publishMQTT(o)
}

var clients struct {
	sync.Mutex
	n int
}

func (g *gateway) publishMQTT(o mqttclient.Options) error {
	ctx, cancel := context.WithTimeout(g.t.Context(), 20*time.Second)
	defer cancel()
	clients.Lock()
	clients.n++
	o.ClientID, o.Version = fmt.Sprint("c", clients.n), byte(4+clients.n%2)
	clients.Unlock()
	m, err := mqttclient.Connect(ctx, o)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Publish(ctx, &mqttclient.Message{Topic: "a/b", QoS: 1, Payload: []byte("x")})
}

// connectWSS is connectMQTT over a WebSocket at /mqtt.
func (g *gateway) connectWSS(c client) error {
	return g.publishMQTT(mqttclient.Options{Addr: net.JoinHostPort(c.host, c.port), Username: c.user, Password: c.password,
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			u := url.URL{Scheme: "wss", Host: "localhost:" + c.port, Path: "/mqtt", RawQuery: c.query}
			if c.sign {
				u.RawQuery = g.presign(c, "GET", u.String(), "").RawQuery
			}
			d := websocket.Dialer{TLSClientConfig: g.tlsConfig(c), Subprotocols: []string{"mqtt"},
				NetDialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, network, addr)
				}}
			wc, res, err := d.DialContext(ctx, u.String(), c.header)
			if res != nil && err != nil {
				return nil, fmt.Errorf("HTTP %d %s: %w", res.StatusCode, res.Header.Get("X-Amzn-ErrorType"), err)
			}
			if err != nil {
				return nil, err
			}
			return &stream{Conn: wc}, nil
		}})
}

// stream makes a stream of a WebSocket's binary messages.
type stream struct {
	*websocket.Conn
	r io.Reader
}

func (s *stream) Read(p []byte) (int, error) {
	for {
		if s.r == nil {
			_, r, err := s.NextReader()
			if err != nil {
				return 0, err
			}
			s.r = r
		}
		n, err := s.r.Read(p)
		if errors.Is(err, io.EOF) {
			s.r, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (s *stream) Write(p []byte) (int, error) {
	return len(p), s.WriteMessage(websocket.BinaryMessage, p)
}
func (s *stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func (g *gateway) presign(c client, method, target, _ string) *url.URL {
	g.t.Helper()
	r, err := http.NewRequest(method, target, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	service := c.service
	if service == "" {
		service = sigv4.DeviceGateway
	}
	signed, _, err := v4.NewSigner().PresignHTTP(g.t.Context(), aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret}, r, emptyHash, service, region, time.Now())
	if err != nil {
		g.t.Fatal(err)
	}
	u, err := url.Parse(signed)
	if err != nil {
		g.t.Fatal(err)
	}
	return u
}

// request sends an HTTPS request and returns status and body.
func (g *gateway) request(c client, method, path, body string) (string, error) {
	r, err := http.NewRequest(method, "https://localhost:"+c.port+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	for k, v := range c.header {
		r.Header[k] = v
	}
	if c.query != "" {
		r.URL.RawQuery = c.query
	}
	if c.sign {
		service := c.service
		if service == "" {
			service = sigv4.Data
		}
		if err := v4.NewSigner().SignHTTP(g.t.Context(), aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret}, r, sha(body), service, region, time.Now()); err != nil {
			g.t.Fatal(err)
		}
	}
	tr := &http.Transport{TLSClientConfig: g.tlsConfig(c), DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(c.host, c.port))
	}}
	defer tr.CloseIdleConnections()
	// net/http would close a connection whose ALPN name it does not know.
	tr.DialTLSContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(c.host, c.port))
		if err != nil {
			return nil, err
		}
		tc := tls.Client(nc, g.tlsConfig(c))
		if err := tc.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, err
		}
		return struct{ net.Conn }{tc}, nil
	}
	res, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return fmt.Sprint(res.StatusCode, " ", res.Header.Get("X-Amzn-ErrorType"), " ", string(b)), err
}
