package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Names of the authority's files in its folder.
const CAFile, CAKeyFile = "ca.pem", "ca-key.pem"

const (
	serverFile, serverKeyFile = "server.pem", "server-key.pem"

	caLife     = 10 * 365 * 24 * time.Hour
	leafLife   = 365 * 24 * time.Hour
	renewAhead = 30 * 24 * time.Hour
	clockSkew  = time.Hour // certificates begin to hold this much before they are made
)

// CA is Weir's own certificate authority, kept in a folder: ECDSA P-256, the
// keys in files of mode 0600. It is safe for concurrent use.
type CA struct {
	Dir   string
	now   func() time.Time
	names []string
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	pool  *x509.CertPool

	mu     sync.Mutex // guards server
	server *tls.Certificate
}

// OpenCA opens the authority kept in dir, or makes it there. names are further
// host names and addresses of the server certificate, besides localhost,
// 127.0.0.1 and ::1. now may be nil.
func OpenCA(dir string, names []string, now func() time.Time) (*CA, error) {
	if now == nil {
		now = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ca := &CA{Dir: dir, now: now, names: names}
	cert, key, err := readPair(filepath.Join(dir, CAFile), filepath.Join(dir, CAKeyFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if cert, key, err = ca.makeCA(); err != nil {
			return nil, fmt.Errorf("making the certificate authority: %w", err)
		}
	case err != nil:
		return nil, fmt.Errorf("reading the certificate authority: %w", err)
	case !cert.IsCA:
		return nil, fmt.Errorf("%s is not a certificate authority", filepath.Join(dir, CAFile))
	}
	ca.cert, ca.key = cert, key
	ca.pool = x509.NewCertPool()
	ca.pool.AddCert(cert)
	if _, err := ca.serverCertificate(); err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	return ca, nil
}

// File returns the path of the authority's certificate, for clients to trust.
func (ca *CA) File() string { return filepath.Join(ca.Dir, CAFile) }

// Pool returns a pool that trusts this authority alone.
func (ca *CA) Pool() *x509.CertPool { return ca.pool }

// PEM returns the authority's certificate.
func (ca *CA) PEM() []byte { return certPEM(ca.cert.Raw) }

func (ca *CA) makeCA() (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Weir CA " + serial.Text(16)[:8]},
		NotBefore: ca.now().Add(-clockSkew), NotAfter: ca.now().Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: 0, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return cert, key, ca.writePair(CAFile, CAKeyFile, der, key)
}

// SignClient returns the DER of a client certificate for a key: not of an
// authority, without alternative names. It ends with the authority: whether it
// may be used is its status in the registry.
func (ca *CA) SignClient(subject pkix.Name, key crypto.PublicKey) ([]byte, error) {
	return ca.sign(&x509.Certificate{Subject: subject, NotAfter: ca.cert.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key)
}

// SignClientUntil is SignClient of a certificate that ends by then.
func (ca *CA) SignClientUntil(subject pkix.Name, key crypto.PublicKey, then time.Time) ([]byte, error) {
	return ca.sign(&x509.Certificate{Subject: subject, NotAfter: then, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key)
}

func (ca *CA) sign(t *x509.Certificate, key crypto.PublicKey) ([]byte, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial
	t.NotBefore = ca.now().Add(-clockSkew)
	if t.NotAfter.IsZero() {
		t.NotAfter = ca.now().Add(leafLife)
	}
	if t.NotAfter.After(ca.cert.NotAfter) {
		t.NotAfter = ca.cert.NotAfter
	}
	t.BasicConstraintsValid = true
	t.KeyUsage = x509.KeyUsageDigitalSignature
	return x509.CreateCertificate(rand.Reader, t, ca.cert, key, ca.key)
}

// IssueClient makes a client certificate with the common name cn, and returns
// certificate and key as PEM. Nothing is kept.
func (ca *CA) IssueClient(cn string) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := ca.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: cn}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, k.Public())
	if err != nil {
		return nil, nil, err
	}
	key, err = keyPEM(k)
	return certPEM(der), key, err
}

// VerifyClient reports why leaf is no client certificate of this authority that
// holds now.
func (ca *CA) VerifyClient(leaf *x509.Certificate) error {
	if leaf.IsCA {
		return errNotClient
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: ca.pool, CurrentTime: ca.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// serverCertificate returns the certificate of the TLS ports. It is read from
// the folder, and made anew where it is missing, of another authority, lacks a
// name or ends within 30 days.
func (ca *CA) serverCertificate() (*tls.Certificate, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if ca.server != nil && ca.lasts(ca.server.Leaf) {
		return ca.server, nil // its names and its signature were looked at when it was read
	}
	cert, key, err := readPair(filepath.Join(ca.Dir, serverFile), filepath.Join(ca.Dir, serverKeyFile))
	if err != nil || !ca.fits(cert) {
		if cert, key, err = ca.makeServer(); err != nil {
			return nil, err
		}
	}
	ca.server = &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	return ca.server, nil
}

// ServerCertificate returns the certificate of the TLS ports as it is now, its
// leaf parsed. It renews itself.
func (ca *CA) ServerCertificate() (*tls.Certificate, error) { return ca.serverCertificate() }

func (ca *CA) serverNames() (dns []string, ips []net.IP) {
	dns, ips = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, n := range ca.names {
		if ip := net.ParseIP(n); ip != nil {
			ips = append(ips, ip)
		} else if !slices.Contains(dns, n) {
			dns = append(dns, n)
		}
	}
	return dns, ips
}

// lasts reports whether c holds now and for some time.
func (ca *CA) lasts(c *x509.Certificate) bool {
	return !ca.now().Add(renewAhead).After(c.NotAfter) && !ca.now().Before(c.NotBefore)
}

// fits reports whether c is a server certificate as it must be.
func (ca *CA) fits(c *x509.Certificate) bool {
	if !ca.lasts(c) || c.CheckSignatureFrom(ca.cert) != nil {
		return false
	}
	dns, ips := ca.serverNames()
	for _, n := range dns {
		if !slices.Contains(c.DNSNames, n) {
			return false
		}
	}
	for _, ip := range ips {
		if !slices.ContainsFunc(c.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

func (ca *CA) makeServer() (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	dns, ips := ca.serverNames()
	der, err := ca.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: dns[len(dns)-1]}, DNSNames: dns, IPAddresses: ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key.Public())
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return cert, key, ca.writePair(serverFile, serverKeyFile, der, key)
}

// TLSOptions say what a TLS port asks of its clients.
type TLSOptions struct {
	Protocols   []string // ALPN; a client that offers none is taken, one that offers only others is refused
	SNIOptional bool     // loopback clients may leave out the server name; all others never
	// Serves reports whether a server name is one of Weir's, beside those of its
	// own certificate; nil: none is.
	Serves func(name string) bool
}

// TLSConfig returns the configuration of a TLS port: TLS 1.2 and 1.3, a client
// certificate asked for but judged by the Authenticator, no session tickets, so
// that every connection shows its certificate. The server certificate renews
// itself.
func (ca *CA) TLSConfig(o TLSOptions) *tls.Config {
	base := &tls.Config{
		MinVersion:             tls.VersionTLS12,
		ClientAuth:             tls.RequestClientCert,
		NextProtos:             o.Protocols,
		SessionTicketsDisabled: true,
		CipherSuites: []uint16{ // of TLS 1.2; forward secret and authenticated only
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.serverCertificate() },
	}
	base.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if h.ServerName == "" && !(o.SNIOptional && fromLoopback(h.Conn)) {
			return nil, errNoServerName
		}
		if h.ServerName != "" && !ca.named(h.ServerName) && (o.Serves == nil || !o.Serves(h.ServerName)) {
			return nil, errServerName
		}
		return nil, nil
	}
	return base
}

var (
	errNoServerName = errors.New("the client sent no server name (SNI)")
	errServerName   = errors.New("the client asked for a server name (SNI) that is not this server's")
)

// named reports whether name is one of the server certificate's.
func (ca *CA) named(name string) bool {
	dns, ips := ca.serverNames()
	if ip := net.ParseIP(name); ip != nil {
		return slices.ContainsFunc(ips, ip.Equal)
	}
	name = strings.TrimSuffix(name, ".")
	return slices.ContainsFunc(dns, func(n string) bool {
		if rest, ok := strings.CutPrefix(n, "*."); ok {
			_, tail, _ := strings.Cut(name, ".")
			return strings.EqualFold(rest, tail)
		}
		return strings.EqualFold(n, name)
	})
}

func fromLoopback(c net.Conn) bool {
	if c == nil {
		return false
	}
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

func serialNumber() (*big.Int, error) {
	for {
		n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
		if err != nil || n.BitLen() > 64 {
			return n, err
		}
	}
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// writePair writes the key before the certificate: a certificate without its
// key would be taken for a damaged authority, a key alone is replaced.
func (ca *CA) writePair(certName, keyName string, der []byte, key *ecdsa.PrivateKey) error {
	kp, err := keyPEM(key)
	if err != nil {
		return err
	}
	if err := writeAtomic(filepath.Join(ca.Dir, keyName), kp, 0o600); err != nil {
		return err
	}
	return writeAtomic(filepath.Join(ca.Dir, certName), certPEM(der), 0o644)
}

func readPair(certFile, keyFile string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	cp, err := os.ReadFile(certFile)
	if err != nil {
		return nil, nil, err
	}
	info, err := os.Stat(keyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("key of %s: %s", certFile, strings.TrimPrefix(err.Error(), "stat "))
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, nil, fmt.Errorf("%s can be read by others (mode %o): make it 0600", keyFile, info.Mode().Perm())
	}
	kp, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, nil, err
	}
	cb, _ := pem.Decode(cp)
	kb, _ := pem.Decode(kp)
	if cb == nil || kb == nil {
		return nil, nil, fmt.Errorf("%s or its key is not PEM", certFile)
	}
	cert, err := x509.ParseCertificate(cb.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	k, err := x509.ParsePKCS8PrivateKey(kb.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s is not the key of %s", keyFile, certFile)
	}
	return cert, key, nil
}

// writeAtomic leaves the old file or the whole new one, also after a power cut.
func writeAtomic(name string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync())
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
