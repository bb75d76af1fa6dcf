package authtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/weir-iot/weir/ingest/auth"
)

// Pair is a certificate with its key, and its id.
type Pair struct {
	tls.Certificate
	ID string
}

// Key returns a new key on P-256.
func Key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Issue makes a certificate for key (nil: a new one), signed by issuer (nil: by
// itself). change may alter what goes into it: a client certificate that has
// been valid for an hour and is for another one.
func Issue(t testing.TB, cn string, issuer *Pair, key crypto.Signer, change func(*x509.Certificate)) *Pair {
	t.Helper()
	if key == nil {
		key = Key(t)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: cn}, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(c)
	}
	parent, signer := c, key
	if issuer != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey.(crypto.Signer)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Pair{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, auth.CertificateID(leaf)}
}

// Authority makes the certificate of a CA.
func Authority(t testing.TB, cn string) *Pair {
	t.Helper()
	return Issue(t, cn, nil, nil, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature, nil
	})
}
