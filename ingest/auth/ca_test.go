package auth

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

func openCA(t *testing.T, dir string, now func() time.Time, names ...string) *CA {
	t.Helper()
	ca, err := OpenCA(dir, names, now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func pair(t *testing.T, ca *CA, cn string) tls.Certificate {
	t.Helper()
	c, k, err := ca.IssueClient(cn)
	if err != nil {
		t.Fatal(err)
	}
	p, err := tls.X509KeyPair(c, k)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAuthorityIsMadeOnceAndKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	a := openCA(t, dir, nil)
	b := openCA(t, dir, nil)
	if !bytes.Equal(a.PEM(), b.PEM()) || a.server.Leaf.SerialNumber.Cmp(b.server.Leaf.SerialNumber) != 0 {
		t.Error("opening again made another authority or server certificate")
	}
	for _, f := range []string{CAKeyFile, serverKeyFile} {
		info, err := os.Stat(filepath.Join(dir, f))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, mode %o", f, err, info.Mode().Perm())
		}
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
		if err := a.server.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Error("left behind:", left)
	}
}

func TestServerCertificateRenews(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	ca := openCA(t, dir, func() time.Time { return now })
	first, _ := ca.serverCertificate()
	now = now.Add(leafLife - renewAhead - time.Hour)
	if c, _ := ca.serverCertificate(); c != first {
		t.Error("renewed too early")
	}
	now = now.Add(2 * time.Hour)
	second, err := ca.serverCertificate()
	if err != nil || second == first {
		t.Fatal("not renewed while running", err)
	}
	named := openCA(t, dir, func() time.Time { return now }, "iot.example.com", "10.1.2.3")
	for _, n := range []string{"iot.example.com", "10.1.2.3", "localhost"} {
		if err := named.server.Leaf.VerifyHostname(n); err != nil {
			t.Error(err)
		}
	}
}

func TestDamagedAuthorityIsNotReplaced(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"key readable by others": func(d string) error { return os.Chmod(filepath.Join(d, CAKeyFile), 0o644) },
		"key missing":            func(d string) error { return os.Remove(filepath.Join(d, CAKeyFile)) },
		"no PEM":                 func(d string) error { return os.WriteFile(filepath.Join(d, CAFile), []byte("x"), 0o644) },
		"key of another": func(d string) error {
			b, err := os.ReadFile(filepath.Join(d, serverKeyFile))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(d, CAKeyFile), b, 0o600)
		},
	} {
		dir := t.TempDir()
		before := openCA(t, dir, nil).PEM()
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		if ca, err := OpenCA(dir, nil, nil); err == nil {
			t.Errorf("%s: opened, same authority %v", name, bytes.Equal(ca.PEM(), before))
		}
	}
}

func TestOwnAuthenticator(t *testing.T) {
	ca, other := openCA(t, t.TempDir(), nil), openCA(t, t.TempDir(), nil)
	own := &Own{CA: ca}
	state := func(p tls.Certificate) *tls.ConnectionState {
		if len(p.Certificate) == 0 {
			return &tls.ConnectionState{}
		}
		c, err := x509.ParseCertificate(p.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
	}
	far, near := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("[::ffff:127.0.0.1]:1")
	for name, c := range map[string]struct {
		conn Connection
		kind errs.Kind
		ok   bool
	}{
		"plain loopback":       {conn: Connection{Remote: near}, ok: true},
		"plain from elsewhere": {conn: Connection{Remote: far}, kind: errs.Forbidden},
		"own certificate":      {conn: Connection{Remote: far, TLS: state(pair(t, ca, "d1"))}, ok: true},
		"foreign certificate":  {conn: Connection{Remote: far, TLS: state(pair(t, other, "d1"))}, kind: errs.Unauthorized},
		"no certificate":       {conn: Connection{Remote: far, TLS: state(tls.Certificate{})}, kind: errs.Unauthorized},
		"the authority itself": {conn: Connection{Remote: far, TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{ca.cert}}}, kind: errs.Unauthorized},
		"the server's own":     {conn: Connection{Remote: far, TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{ca.server.Leaf}}}, kind: errs.Unauthorized},
	} {
		p, err := own.Authenticate(context.Background(), &c.conn)
		if (err == nil) != c.ok || err != nil && errs.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
		if name == "own certificate" && (p == nil || len(p.ID) != 64) {
			t.Errorf("principal %+v", p)
		}
	}
}

func TestPasswordsStayOutOfLogs(t *testing.T) {
	c := &Connection{ClientID: "c", Username: "canary-user", Password: []byte("canary-password")}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "connection", c)
	fmt.Fprintf(&b, "%v %s", c, c)
	if strings.Contains(b.String(), "canary") || !strings.Contains(b.String(), "clientId=c") {
		t.Error(b.String())
	}
}

func TestTLSPort(t *testing.T) {
	ca := openCA(t, t.TempDir(), nil)
	for _, c := range []struct {
		name     string
		opts     TLSOptions
		client   *tls.Config
		protocol string
		ok       bool
	}{
		{"with a name", TLSOptions{}, &tls.Config{ServerName: "localhost"}, "", true},
		{"no name", TLSOptions{}, &tls.Config{InsecureSkipVerify: true}, "", false},
		{"wrong name", TLSOptions{}, &tls.Config{ServerName: "other.example", InsecureSkipVerify: true}, "", false},
		{"another name of ours", TLSOptions{Serves: func(n string) bool { return n == "other.example" }}, &tls.Config{ServerName: "other.example", InsecureSkipVerify: true}, "", true},
		{"no name, optional on loopback", TLSOptions{SNIOptional: true}, &tls.Config{InsecureSkipVerify: true}, "", true},
		{"TLS 1.2", TLSOptions{}, &tls.Config{ServerName: "localhost", MaxVersion: tls.VersionTLS12}, "", true},
		{"TLS 1.1", TLSOptions{}, &tls.Config{ServerName: "localhost", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "", false},
		{"ALPN", TLSOptions{Protocols: []string{"x-amzn-mqtt-ca", "mqtt"}}, &tls.Config{ServerName: "localhost", NextProtos: []string{"x-amzn-mqtt-ca"}}, "x-amzn-mqtt-ca", true},
		{"unknown ALPN", TLSOptions{Protocols: []string{"mqtt"}}, &tls.Config{ServerName: "localhost", NextProtos: []string{"foo"}}, "", false},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := make(chan error, 1)
		go func() {
			nc, err := ln.Accept()
			if err != nil {
				server <- err
				return
			}
			defer nc.Close()
			server <- tls.Server(nc, ca.TLSConfig(c.opts)).Handshake()
		}()
		c.client.RootCAs = ca.Pool()
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		tc := tls.Client(nc, c.client)
		err = tc.Handshake()
		if serr := <-server; (err == nil && serr == nil) != c.ok {
			t.Errorf("%s: client %v, server %v", c.name, err, serr)
		}
		if got := tc.ConnectionState().NegotiatedProtocol; c.ok && got != c.protocol {
			t.Errorf("%s: protocol %q", c.name, got)
		}
		nc.Close()
		ln.Close()
	}
}
