package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
)

func selfSigned(t testing.TB, c *x509.Certificate) *x509.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(4711), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func TestWhatPoliciesSeeOfACertificate(t *testing.T) {
	dir, err := asn1.Marshal(pkix.Name{CommonName: "Room 7"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	names, err := asn1.Marshal([]asn1.RawValue{{Class: 2, Tag: 4, IsCompound: true, Bytes: dir}, {Class: 2, Tag: 2, Bytes: []byte("ca.example")}})
	if err != nil {
		t.Fatal(err)
	}
	uri, _ := url.Parse("urn:dev:7")
	c := policyCertificate(selfSigned(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "pump, no. 7", Country: []string{"DE", "FR"}, Organization: []string{"1", "2", "3", "4", "5", "6"},
			ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 65}, Value: "nym"}}},
		DNSNames: []string{"a.example"}, EmailAddresses: []string{"a@b.example"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}, URIs: []*url.URL{uri},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 18}, Value: names}},
	}), "cafe")
	if c.ID != "cafe" || c.SerialNumber != "4711" {
		t.Error(c)
	}
	for name, want := range map[string][]string{
		"Subject.CommonName": {`pump\, no. 7`}, "Issuer.CommonName": {`pump\, no. 7`}, "Subject.Country": {"DE", "FR"},
		"Subject.Pseudonym": {"nym"}, "Subject.AlternativeName.DNSName": {"a.example"}, "Subject.AlternativeName.RFC822Name": {"a@b.example"},
		"Subject.AlternativeName.IPAddress": {"192.0.2.1"}, "Subject.AlternativeName.UniformResourceIdentifier": {"urn:dev:7"},
		"Issuer.AlternativeName.DirectoryName": {`CN\=Room 7`}, "Issuer.AlternativeName.DNSName": {"ca.example"},
		"Subject.Title": nil,
	} {
		if !reflect.DeepEqual(c.Attributes[name], want) {
			t.Errorf("%s: %q, want %q", name, c.Attributes[name], want)
		}
	}
	if n := len(c.Attributes["Subject.Organization"]); n != 5 {
		t.Error(n, "values are kept")
	}
}

// No tool makes such certificates any more; they are judged as parsed.
func TestOldSignatures(t *testing.T) {
	leaf := selfSigned(t, &x509.Certificate{Subject: pkix.Name{CommonName: "d"}})
	if err := fit(leaf, "x", time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, a := range []x509.SignatureAlgorithm{x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.MD5WithRSA, x509.UnknownSignatureAlgorithm} {
		old := *leaf
		old.SignatureAlgorithm = a
		var r *Refusal
		if err := fit(&old, "x", time.Now()); !errors.As(err, &r) || r.Reason != reasonWeak {
			t.Errorf("%s: %v", a, err)
		}
	}
	// A self-signed certificate that calls itself an authority speaks for itself.
	self := selfSigned(t, &x509.Certificate{Subject: pkix.Name{CommonName: "d"}, IsCA: true, BasicConstraintsValid: true})
	if err := fit(self, "x", time.Now()); err != nil {
		t.Error(err)
	}
}

func TestActions(t *testing.T) {
	for a := range actions {
		got, ok := ParseAction(strings.ToUpper(Action(a).String()))
		if !ok || got != Action(a) || actions[a].name == "" {
			t.Errorf("%d: %v", a, got)
		}
	}
	if _, ok := ParseAction("iot:Nothing"); ok {
		t.Error("iot:Nothing is an action")
	}
}

func FuzzAlternativeNames(f *testing.F) {
	f.Add([]byte{0x30, 3, 0x82, 1, 'a'})
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Add([]byte{0x30, 6, 0xa4, 4, 0x30, 2, 0x31, 0})
	f.Add([]byte{0x30, 6, 0x87, 4, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, der []byte) {
		for kind, values := range alternativeNames(der) {
			if kind == "" || len(values) == 0 || len(values) > len(der) {
				t.Error(kind, values)
			}
		}
	})
}
