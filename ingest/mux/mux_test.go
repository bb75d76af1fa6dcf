package mux

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/auth/sigv4"
	"github.com/weir-iot/weir/ingest/domain"
)

func sha(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

// families are the loopback addresses of this machine.
func families(t *testing.T) []string {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Log("no IPv6 here")
		return []string{"127.0.0.1"}
	}
	l.Close()
	return []string{"127.0.0.1", "::1"}
}

const named = "u?x-amz-customauthorizer-name=vouch"

// Every row of the table of protocols, and every negative, on each family of
// addresses.
func TestProtocolTable(t *testing.T) {
	g := start(t)
	foreign := g.certificate(g.foreign)
	customHeader := http.Header{"X-Amz-Customauthorizer-Name": {"vouch"}, "Tok": {"letmein"}}
	const customQuery = "x-amz-customauthorizer-name=vouch&tok=letmein"
	type row struct {
		name string
		by   string // mqtt, wss, publish, shadow, jobs
		port string
		client
		want string // principal, or what the refusal says after "refused: "
	}
	leaf := auth.CertificateID(mustLeaf(t, g.device))
	rows := []row{
		// The table.
		{"WSS, SigV4", "wss", g.mux, client{sign: true}, keyID},
		{"WSS, custom in the query", "wss", g.mux, client{query: customQuery}, "vouched"},
		{"WSS, custom in headers", "wss", g.mux, client{header: customHeader}, "vouched"},
		{"WSS, custom in CONNECT", "wss", g.mux, client{user: named, password: "letmein"}, "vouched"},
		{"WSS, ALPN http/1.1", "wss", g.mux, client{sign: true, alpn: []string{"http/1.1"}}, keyID},
		{"MQTT, certificate, 443", "mqtt", g.mux, client{alpn: []string{CertificateProtocol}, cert: &g.device}, leaf},
		{"MQTT, certificate, 8883", "mqtt", g.mqtts, client{cert: &g.device}, leaf},
		{"MQTT, certificate, 8883 with ALPN", "mqtt", g.mqtts, client{alpn: []string{CertificateProtocol}, cert: &g.device}, leaf},
		{"MQTT, custom", "mqtt", g.mux, client{alpn: []string{CustomProtocol}, user: named, password: "letmein"}, "vouched"},
		{"MQTT, custom by token", "mqtt", g.mux, client{alpn: []string{CustomProtocol}, user: named + "&tok=letmein"}, "vouched"},
		{"HTTPS, SigV4", "publish", g.mux, client{sign: true}, keyID},
		{"HTTPS, SigV4 for the gateway", "publish", g.mux, client{sign: true, service: sigv4.DeviceGateway}, keyID},
		{"HTTPS, SigV4, ALPN http/1.1", "publish", g.mux, client{sign: true, alpn: []string{"h2", "http/1.1"}}, keyID},
		{"HTTPS, custom in headers", "publish", g.mux, client{header: customHeader}, "vouched"},
		{"HTTPS, custom in the query", "publish", g.mux, client{query: customQuery}, "vouched"},
		{"HTTPS, certificate, 443", "publish", g.mux, client{alpn: []string{HTTPProtocol}, cert: &g.device}, leaf},
		{"HTTPS, certificate, 8443", "publish", g.https, client{cert: &g.device}, leaf},
		{"HTTPS, certificate, 8443 with ALPN", "publish", g.https, client{cert: &g.device, alpn: []string{HTTPProtocol}}, leaf},
		{"shadow, certificate, 443", "shadow", g.mux, client{alpn: []string{HTTPProtocol}, cert: &g.device}, leaf},
		{"shadow, certificate, 8443", "shadow", g.https, client{cert: &g.device}, leaf},
		{"shadow, SigV4", "shadow", g.mux, client{sign: true}, keyID},
		{"jobs, certificate, 8443", "jobs", g.https, client{cert: &g.device}, leaf},
		{"jobs, SigV4", "jobs", g.mux, client{sign: true, service: sigv4.Jobs}, keyID},

		// TLS 1.2 does as well.
		{"MQTT, TLS 1.2", "mqtt", g.mux, client{alpn: []string{CertificateProtocol}, cert: &g.device, tls: tls12}, leaf},
		{"WSS, TLS 1.2", "wss", g.mux, client{sign: true, tls: tls12}, keyID},
		{"8883, TLS 1.2", "mqtt", g.mqtts, client{cert: &g.device, tls: tls12}, leaf},

		// The negatives.
		{"custom on 8443", "publish", g.https, client{header: customHeader}, "refused: 403 ForbiddenException"},
		{"custom on 8443, query", "publish", g.https, client{query: customQuery}, "refused: 403 ForbiddenException"},
		{"custom on 8443, WSS", "wss", g.https, client{query: customQuery}, "refused: HTTP 403"},
		{"custom on 8883", "mqtt", g.mqtts, client{user: named, password: "letmein"}, "refused: CONNECT"},
		{"custom on 8883, ALPN mqtt", "mqtt", g.mqtts, client{alpn: []string{CustomProtocol}, user: named, password: "letmein"}, "refused: CONNECT"},
		{"custom with the ALPN name of certificates", "mqtt", g.mux, client{alpn: []string{CertificateProtocol}, user: named, password: "letmein"}, "refused: CONNECT"},
		{"custom with the ALPN name of HTTPS certificates", "publish", g.mux, client{alpn: []string{HTTPProtocol}, header: customHeader}, "refused: 403 ForbiddenException"},
		{"SigV4 with the ALPN name of HTTPS certificates", "publish", g.mux, client{alpn: []string{HTTPProtocol}, sign: true}, "refused: 403 UnrecognizedClientException"},
		{"SigV4 on 8443", "publish", g.https, client{sign: true}, "refused: 403 UnrecognizedClientException"},
		{"SigV4 WSS on 8443", "wss", g.https, client{sign: true}, "refused: HTTP 403"},
		{"certificate on 443 without ALPN, MQTT", "mqtt", g.mux, client{cert: &g.device}, "refused: "},
		{"certificate on 443 with http/1.1, MQTT", "mqtt", g.mux, client{cert: &g.device, alpn: []string{"http/1.1"}}, "refused: "},
		{"certificate on 443 without ALPN, HTTPS", "publish", g.mux, client{cert: &g.device}, "refused: 403 MissingAuthenticationTokenException"},
		{"certificate on 443 without ALPN, WSS", "wss", g.mux, client{cert: &g.device}, "refused: CONNECT"},
		{"certificate with the ALPN name of custom", "mqtt", g.mux, client{cert: &g.device, alpn: []string{CustomProtocol}}, "refused: CONNECT"},
		{"jobs with the ALPN name of HTTPS certificates", "jobs", g.mux, client{cert: &g.device, alpn: []string{HTTPProtocol}}, "refused: 403 ForbiddenException"},
		{"no certificate, 443", "mqtt", g.mux, client{alpn: []string{CertificateProtocol}}, "refused: CONNECT"},
		{"no certificate, 8883", "mqtt", g.mqtts, client{}, "refused: CONNECT"},
		{"no certificate, 8443", "publish", g.https, client{}, "refused: 403 ForbiddenException"},
		{"foreign certificate, 443", "mqtt", g.mux, client{alpn: []string{CertificateProtocol}, cert: &foreign}, "refused: CONNECT"},
		{"foreign certificate, HTTPS", "publish", g.mux, client{alpn: []string{HTTPProtocol}, cert: &foreign}, "refused: 403 ForbiddenException"},
		{"nothing, HTTPS", "publish", g.mux, client{}, "refused: 403 MissingAuthenticationTokenException"},
		{"nothing, shadow", "shadow", g.mux, client{}, "refused: 403 MissingAuthenticationTokenException"},
		{"nothing, WSS", "wss", g.mux, client{}, "refused: CONNECT"},
		{"nothing, ALPN mqtt", "mqtt", g.mux, client{alpn: []string{CustomProtocol}}, "refused: CONNECT"},
		{"wrong password", "mqtt", g.mux, client{alpn: []string{CustomProtocol}, user: named, password: "x"}, "refused: CONNECT"},
		{"wrong token", "publish", g.mux, client{query: "x-amz-customauthorizer-name=vouch&tok=x"}, "refused: 403 ForbiddenException"},
		{"SigV4 and custom", "publish", g.mux, client{sign: true, header: customHeader}, "refused: 403"},
		{"SigV4 of another service", "publish", g.mux, client{sign: true, service: sigv4.Control}, "refused: 403 InvalidSignatureException"},
		{"SigV4 of another service, WSS", "wss", g.mux, client{sign: true, service: sigv4.Data}, "refused: HTTP 403 InvalidSignatureException"},
		{"SigV4 for data on jobs", "jobs", g.mux, client{sign: true, service: sigv4.Data}, "refused: 403 InvalidSignatureException"},
		{"SigV4 for jobs on data", "shadow", g.mux, client{sign: true, service: sigv4.Jobs}, "refused: 403 InvalidSignatureException"},
	}
	for _, port := range []string{g.mux, g.mqtts, g.https} {
		by, alpn := "mqtt", []string{CertificateProtocol}
		if port == g.https {
			by, alpn = "publish", nil
		}
		for name, change := range map[string]func(*tls.Config){
			"no SNI":         func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = "", true },
			"wrong SNI":      func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = "other.example", true },
			"address as SNI": func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = "127.0.0.1", true },
			"unknown ALPN":   func(c *tls.Config) { c.NextProtos = []string{"foo"} },
			"h2 alone":       func(c *tls.Config) { c.NextProtos = []string{"h2"} },
			"TLS 1.1":        func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			"TLS 1.0":        func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 },
			"3DES": func(c *tls.Config) {
				c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA}
			},
		} {
			rows = append(rows, row{name + " on " + map[string]string{g.mux: "443", g.mqtts: "8883", g.https: "8443"}[port], by, port,
				client{alpn: alpn, cert: &g.device, tls: change}, "refused: "})
		}
	}
	for _, host := range families(t) {
		for _, r := range rows {
			t.Run(r.name+" "+host, func(t *testing.T) {
				c := r.client
				c.host, c.port = host, r.port
				g.mu.Lock()
				g.seen = nil
				g.mu.Unlock()
				var err error
				var text string
				switch r.by {
				case "mqtt":
					err = g.connectMQTT(c)
				case "wss":
					err = g.connectWSS(c)
				case "publish":
					text, err = g.request(c, "POST", "/topics/a%2Fb?qos=1", "hello")
				case "shadow":
					text, err = g.request(c, "POST", "/things/t/shadow?name=n", "{}")
				case "jobs":
					text, err = g.request(c, "GET", "/things/t/jobs", "")
				}
				if err != nil {
					text = err.Error()
				}
				refused, is := strings.CutPrefix(r.want, "refused: ")
				if is {
					if refused == "CONNECT" {
						refused = "refused the CONNECT"
					}
					if err == nil && (refused == "" || !strings.HasPrefix(text, "403")) || !strings.Contains(text, refused) {
						t.Errorf("%s; want %q", text, refused)
					}
					if p := g.last(); p != nil {
						t.Errorf("a principal: %+v", p)
					}
					return
				}
				if err != nil || strings.HasPrefix(text, "4") {
					t.Fatal(text)
				}
				who := r.want
				if r.by == "shadow" || r.by == "jobs" {
					if !strings.HasPrefix(text, "200  "+who+" /things/t/") || r.by == "shadow" && !strings.HasSuffix(text, "/shadow {}") {
						t.Errorf("answer %q", text)
					}
					return
				}
				p := g.last()
				if p == nil || p.ID != who {
					t.Fatalf("principal %+v, want %s", p, who)
				}
				if r.sign && (p.Expires.Before(time.Now().Add(23*time.Hour)) || p.Expires.After(time.Now().Add(24*time.Hour))) {
					t.Errorf("expires %s", p.Expires)
				}
			})
		}
	}
}

func tls12(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }

// A WebSocket whose presigned URL is no good gets no upgrade.
func TestPresignedURLIsJudgedBeforeTheUpgrade(t *testing.T) {
	g := start(t)
	u := g.presign(client{port: g.mux}, "GET", "wss://localhost:"+g.mux+"/mqtt", "")
	for name, query := range map[string]string{
		"changed":    strings.Replace(u.RawQuery, "X-Amz-Signature=", "X-Amz-Signature=0", 1)[:len(u.RawQuery)],
		"parameter":  u.RawQuery + "&x=y",
		"twice":      u.RawQuery + "&X-Amz-Date=20260101T000000Z",
		"other date": strings.Replace(u.RawQuery, "X-Amz-Date=2", "X-Amz-Date=1", 1),
	} {
		err := g.connectWSS(client{host: "127.0.0.1", port: g.mux, query: query})
		if err == nil || !strings.Contains(err.Error(), "HTTP 403") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Two connections with one URL are both good, as within one second they are.
	for range 2 {
		if err := g.connectWSS(client{host: "127.0.0.1", port: g.mux, query: u.RawQuery}); err != nil {
			t.Error(err)
		}
	}
	// The token the SDKs append, empty.
	if err := g.connectWSS(client{host: "127.0.0.1", port: g.mux, query: u.RawQuery + "&X-Amz-Security-Token="}); err != nil {
		t.Error(err)
	}
}

func TestDomains(t *testing.T) {
	g := start(t)
	at := func(c client) client {
		c.host, c.port = "127.0.0.1", g.mux
		change := c.tls
		c.tls = func(cfg *tls.Config) {
			cfg.ServerName = "iot.example"
			if change != nil {
				change(cfg)
			}
		}
		return c
	}
	set := func(d *domain.Config) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.domains["iot.example"] = d
	}
	certificate := at(client{alpn: []string{CertificateProtocol}, cert: &g.device})
	password := at(client{alpn: []string{CustomProtocol}, user: "u", password: "letmein"})
	signed := at(client{sign: true})
	refused := func(name string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: let in", name)
		}
	}
	taken := func(name string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	taken("no configuration", g.connectMQTT(certificate))
	refused("no default authorizer", g.connectMQTT(password))
	set(&domain.Config{Enabled: true, DefaultAuthorizer: "vouch"})
	taken("default authorizer of the domain", g.connectMQTT(password))
	taken("and certificates", g.connectMQTT(certificate))
	if s, err := g.request(at(client{}), "POST", "/topics/a?tok=letmein", ""); err != nil || !strings.HasPrefix(s, "200") {
		t.Errorf("default authorizer, HTTPS: %s %v", s, err)
	}
	refused("default authorizer elsewhere", g.connectMQTT(client{host: "127.0.0.1", port: g.mux, alpn: []string{CustomProtocol}, user: "u", password: "letmein"}))
	set(&domain.Config{Enabled: false, DefaultAuthorizer: "vouch"})
	refused("disabled", g.connectMQTT(certificate))
	set(&domain.Config{Enabled: true, AuthenticationType: domain.Custom, DefaultAuthorizer: "vouch"})
	refused("custom only: certificate", g.connectMQTT(certificate))
	refused("custom only: signature", g.connectWSS(signed))
	taken("custom only", g.connectMQTT(password))
	set(&domain.Config{Enabled: true, AuthenticationType: domain.Certificate, DefaultAuthorizer: "vouch"})
	taken("certificates only", g.connectMQTT(certificate))
	refused("certificates only: custom", g.connectMQTT(password))
	refused("certificates only: signature", g.connectWSS(signed))
	set(&domain.Config{Enabled: true, ApplicationProtocol: "MQTT_WSS"})
	taken("WSS only", g.connectWSS(signed))
	refused("WSS only: MQTT", g.connectMQTT(certificate))
	set(&domain.Config{Enabled: true, TLSPolicy: domain.TLS13Only})
	old := certificate
	old.tls = func(c *tls.Config) { certificate.tls(c); tls12(c) }
	taken("TLS 1.3 only", g.connectMQTT(certificate))
	refused("TLS 1.3 only: 1.2", g.connectMQTT(old))
	set(&domain.Config{Enabled: true, TLSPolicy: domain.TLS12Only})
	taken("TLS 1.2 only", g.connectMQTT(old))
}

// Whoever says nothing, or not TLS, is cut.
func TestStrangersAreCut(t *testing.T) {
	g := start(t)
	for name, first := range map[string]string{
		"silence":            "",
		"half a ClientHello": "\x16\x03\x01\x02\x00\x01",
		"plain HTTP":         "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"plain MQTT":         "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", "127.0.0.1:"+g.mux)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte(first)); err != nil {
				t.Fatal(err)
			}
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			b, err := io.ReadAll(c)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("not cut")
			}
			if len(b) > 0 {
				t.Errorf("answered %q", b)
			}
		})
	}
}

func TestRunEndsWithConnectionsOpen(t *testing.T) {
	g := start(t)
	c, err := net.Dial("tcp", "127.0.0.1:"+g.mux)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() }) // runs before the gateway's
}

func mustLeaf(t testing.TB, c tls.Certificate) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// BenchmarkHandshake is a TLS handshake with a client certificate, CONNECT, one
// publish at QoS 1 and its PUBACK, client and server together.
func BenchmarkHandshake(b *testing.B) {
	g := start(b)
	for name, c := range map[string]client{
		"8883": {host: "127.0.0.1", port: g.mqtts, cert: &g.device},
		"443":  {host: "127.0.0.1", port: g.mux, alpn: []string{CertificateProtocol}, cert: &g.device},
	} {
		b.Run(name, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := g.connectMQTT(c); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
