package domain

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/weir-iot/weir/ingest/auth"
)

// issuer is an authority of the owner's.
type issuer struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.key = key
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "owner"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature}
	i.cert = i.sign(tmpl, tmpl, key.Public())
	return i
}

func (i *issuer) sign(tmpl, parent *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	i.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		i.t.Fatal(err)
	}
	return c
}

// write makes a certificate for names and writes it with its key.
func (i *issuer) write(certFile, keyFile string, rsaKey bool, names ...string) *x509.Certificate {
	i.t.Helper()
	var key crypto.Signer
	var err error
	if rsaKey {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		i.t.Fatal(err)
	}
	i.n++
	c := i.sign(&x509.Certificate{SerialNumber: big.NewInt(100 + i.n), DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(12 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, i.cert, key.Public())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		i.t.Fatal(err)
	}
	i.put(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	i.put(certFile, append(pemOf(c), pemOf(i.cert)...))
	return c
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func (i *issuer) put(file string, b []byte) {
	i.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, b, 0o600)); err != nil {
		i.t.Fatal(err)
	}
}

func (i *issuer) staple(c *x509.Certificate, until time.Time) []byte {
	i.t.Helper()
	b, err := ocsp.CreateResponse(i.cert, i.cert, ocsp.Response{Status: ocsp.Good, SerialNumber: c.SerialNumber, ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: until}, i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	return b
}

type configs map[string]*Config

func (c configs) Domain(name string) (*Config, bool) {
	d, ok := c[name]
	return d, ok
}

// shake makes a handshake with n and returns what the client saw.
func shake(t *testing.T, n *Names, change func(*tls.Config)) (*tls.ConnectionState, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		s := tls.Server(c, n.TLSConfig("a", "b"))
		if s.Handshake() == nil {
			s.Write([]byte("x"))
		}
	}()
	cfg := &tls.Config{InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	change(cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		<-done
		return nil, err
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err != nil {
		return nil, err
	}
	<-done
	st := c.(*tls.Conn).ConnectionState()
	return &st, nil
}

func name(s string) func(*tls.Config) { return func(c *tls.Config) { c.ServerName = s } }

func TestCertificateByServerName(t *testing.T) {
	ca, err := auth.OpenCA(t.TempDir(), []string{"weir.example"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	i, dir := newIssuer(t), t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	exact := i.write(at("exact.crt"), at("exact.key"), false, "iot.example.com")
	wild := i.write(at("wild", "fullchain.pem"), at("wild", "privkey.pem"), false, "*.example.com")
	mounted := i.write(at("mounted", "tls.crt"), at("mounted", "tls.key"), true, "rsa.example.org")
	i.put(at("README"), []byte("not a certificate"))
	i.put(at("wild", "ocsp.der"), i.staple(wild, time.Now().Add(time.Hour)))
	d := configs{
		"chosen.example.com": {Name: "chosen", Enabled: true, Certificates: []string{"arn:aws:acm:us-east-1:123456789012:certificate/wild"}},
		"iot.example.com":    {Name: "iot", Enabled: true},
		"off.example.com":    {Name: "off"},
		"old.example.com":    {Name: "old", Enabled: true, TLSPolicy: "IoTSecurityPolicy_TLS12_1_0_2015_01"},
		"new.example.com":    {Name: "new", Enabled: true, TLSPolicy: TLS13Only},
		"odd.example.com":    {Name: "odd", Enabled: true, TLSPolicy: "nonsense"},
	}
	n, err := Open(Options{Own: ca.ServerCertificate, Dir: dir, Configs: d})
	if err != nil {
		t.Fatal(err)
	}
	own, err := ca.ServerCertificate()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		want *x509.Certificate // nil: refused
	}{
		{"localhost", own.Leaf}, {"LOCALHOST", own.Leaf}, {"weir.example", own.Leaf}, {"weir.example.", own.Leaf},
		{"iot.example.com", exact}, {"IoT.Example.com", exact}, {"other.example.com", wild}, {"chosen.example.com", wild}, {"rsa.example.org", mounted},
		{"", nil}, {"example.com", nil}, {"a.b.example.com", nil}, {"nowhere", nil}, {"off.example.com", nil}, {"odd.example.com", nil},
	} {
		st, err := shake(t, n, name(c.name))
		switch {
		case c.want == nil && err == nil:
			t.Errorf("%q is served", c.name)
		case c.want != nil && err != nil:
			t.Errorf("%q: %v", c.name, err)
		case c.want != nil && !st.PeerCertificates[0].Equal(c.want):
			t.Errorf("%q gets %v", c.name, st.PeerCertificates[0].DNSNames)
		case c.want == wild && len(st.OCSPResponse) == 0, c.want == exact && len(st.OCSPResponse) > 0:
			t.Errorf("%q: stapled %d bytes", c.name, len(st.OCSPResponse))
		}
	}
	for server, want := range map[string][2]bool{"old.example.com": {true, false}, "new.example.com": {false, true}, "iot.example.com": {true, true}, "localhost": {true, true}} {
		for k, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			_, err := shake(t, n, func(c *tls.Config) { c.ServerName, c.MinVersion, c.MaxVersion = server, version, version })
			if (err == nil) != want[k] {
				t.Errorf("%s with %s: %v", server, tls.VersionName(version), err)
			}
		}
	}
	if _, err := shake(t, n, func(c *tls.Config) { c.ServerName, c.NextProtos = "localhost", []string{"c"} }); err == nil {
		t.Error("an ALPN name that is not offered")
	}
}

// AWS's list of cipher suites, as far as it is forward secret and safe; nothing
// else.
func TestCipherSuites(t *testing.T) {
	ca, err := auth.OpenCA(t.TempDir(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	i, dir := newIssuer(t), t.TempDir()
	i.write(filepath.Join(dir, "rsa.crt"), filepath.Join(dir, "rsa.key"), true, "rsa.example")
	n, err := Open(Options{Own: ca.ServerCertificate, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]bool{}
	for _, kind := range []string{"ECDSA", "RSA"} {
		for _, s := range []string{"128_GCM_SHA256", "256_GCM_SHA384", "128_CBC_SHA", "256_CBC_SHA"} {
			good["TLS_ECDHE_"+kind+"_WITH_AES_"+s] = true
		}
	}
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if s.SupportedVersions[0] == tls.VersionTLS13 {
			continue
		}
		host := "localhost"
		if strings.Contains(s.Name, "RSA") {
			host = "rsa.example"
		}
		if strings.Contains(s.Name, "ECDSA") {
			host = "localhost"
		}
		_, err := shake(t, n, func(c *tls.Config) {
			c.ServerName, c.MaxVersion, c.CipherSuites = host, tls.VersionTLS12, []uint16{s.ID}
		})
		if (err == nil) != good[s.Name] {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
}

func TestFolderIsReadAgain(t *testing.T) {
	ca, err := auth.OpenCA(t.TempDir(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	i, dir := newIssuer(t), t.TempDir()
	crt, key := filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key")
	first := i.write(crt, key, false, "a.example")
	now := time.Now()
	var log bytes.Buffer
	n, err := Open(Options{Own: ca.ServerCertificate, Dir: dir, Now: func() time.Time { return now }, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	shown := func() *tls.ConnectionState {
		t.Helper()
		now = now.Add(2 * time.Second)
		st, err := shake(t, n, name("a.example"))
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	serial := func() *big.Int { return shown().PeerCertificates[0].SerialNumber }
	if serial().Cmp(first.SerialNumber) != 0 {
		t.Fatal("not the first one")
	}
	second := i.write(crt, key, false, "a.example")
	if serial().Cmp(second.SerialNumber) != 0 {
		t.Error("the new one is not shown")
	}
	other := filepath.Join(dir, "b.key")
	i.write(crt, other, false, "a.example") // the key does not come with it
	if serial().Cmp(second.SerialNumber) != 0 || !strings.Contains(log.String(), "level=ERROR") {
		t.Error("half a change has an effect, or is not logged")
	}
	third := i.write(crt, key, false, "a.example")
	i.put(filepath.Join(dir, "a.ocsp"), i.staple(third, now.Add(time.Minute)))
	if st := shown(); st.PeerCertificates[0].SerialNumber.Cmp(third.SerialNumber) != 0 || len(st.OCSPResponse) == 0 {
		t.Error("not the third one, or without its OCSP response")
	}
	now = now.Add(2 * time.Minute)
	if st := shown(); len(st.OCSPResponse) != 0 {
		t.Error("a lapsed OCSP response is stapled")
	}
	i.put(filepath.Join(dir, "a.ocsp"), i.staple(first, now.Add(time.Hour)))
	if st := shown(); len(st.OCSPResponse) != 0 {
		t.Error("the OCSP response of another certificate is stapled")
	}
	if err := errors.Join(os.Remove(crt), os.Remove(key)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Second)
	if _, err := shake(t, n, name("a.example")); err == nil {
		t.Error("still shown after it was removed")
	}
	if strings.Contains(log.String(), "PRIVATE") {
		t.Error("a key in the log")
	}
}

func TestBadPairs(t *testing.T) {
	own := func() (*tls.Certificate, error) { return nil, errors.New("none") }
	for what, spoil := range map[string]func(i *issuer, dir string) error{
		"key that everybody can read": func(_ *issuer, dir string) error { return os.Chmod(filepath.Join(dir, "a.key"), 0o644) },
		"key of another": func(i *issuer, dir string) error {
			i.write(filepath.Join(dir, "b.tmp"), filepath.Join(dir, "a.key"), false, "b")
			return nil
		},
		"not PEM": func(_ *issuer, dir string) error {
			return os.WriteFile(filepath.Join(dir, "a.crt"), []byte("x"), 0o600)
		},
		"huge": func(_ *issuer, dir string) error {
			return os.WriteFile(filepath.Join(dir, "a.crt"), make([]byte, maxCertificate+1), 0o600)
		},
		"bad OCSP response": func(_ *issuer, dir string) error {
			return os.WriteFile(filepath.Join(dir, "a.ocsp"), []byte("x"), 0o600)
		},
	} {
		i, dir := newIssuer(t), t.TempDir()
		i.write(filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key"), false, "a.example")
		if _, err := Open(Options{Own: own, Dir: dir}); err != nil {
			t.Fatal(err)
		}
		if err := spoil(i, dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Own: own, Dir: dir}); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if _, err := Open(Options{Own: own, Policy: "TLS 1.0"}); err == nil {
		t.Error("an unknown TLS policy is taken")
	}
}

func TestServerNameIsOptionalFromLoopback(t *testing.T) {
	ca, err := auth.OpenCA(t.TempDir(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := Open(Options{Own: ca.ServerCertificate, SNIOptional: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shake(t, n, name("")); err != nil {
		t.Error(err)
	}
	if _, err := shake(t, n, name("nowhere.example")); err == nil {
		t.Error("a wrong name is taken")
	}
}

func TestAllows(t *testing.T) {
	for _, c := range []struct {
		config Config
		auth   string
		l      auth.Listener
		want   bool
	}{
		{Config{Enabled: true}, Custom, auth.HTTPS, true},
		{Config{}, Custom, auth.HTTPS, false},
		{Config{Enabled: true, AuthenticationType: "DEFAULT", ApplicationProtocol: "DEFAULT"}, Signature, auth.WebSocket, true},
		{Config{Enabled: true, AuthenticationType: Signature}, Certificate, auth.TLS, false},
		{Config{Enabled: true, AuthenticationType: "CUSTOM_AUTH_X509"}, Certificate, auth.TLS, false},
		{Config{Enabled: true, ApplicationProtocol: "SECURE_MQTT"}, Certificate, auth.TLS, true},
		{Config{Enabled: true, ApplicationProtocol: "SECURE_MQTT"}, Certificate, auth.WebSocket, false},
		{Config{Enabled: true, ApplicationProtocol: "HTTPS"}, Certificate, auth.HTTPS, true},
		{Config{Enabled: true, ApplicationProtocol: "other"}, Certificate, auth.HTTPS, false},
	} {
		if got := c.config.Allows(c.auth, c.l); got != c.want {
			t.Errorf("%+v %s %s: %t", c.config, c.auth, c.l, got)
		}
	}
}
