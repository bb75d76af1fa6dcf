package registry

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// CertificateAuthority signs client certificates; Weir's own is one.
type CertificateAuthority interface {
	// SignClient returns the DER of a client certificate for a key: not of an
	// authority, without alternative names.
	SignClient(subject pkix.Name, key crypto.PublicKey) ([]byte, error)
	// SignClientUntil is SignClient of a certificate that ends by then.
	SignClientUntil(subject pkix.Name, key crypto.PublicKey, then time.Time) ([]byte, error)
}

// IssuedSubject is the subject of certificates made with their keys.
var IssuedSubject = pkix.Name{CommonName: "Weir IoT Certificate"}

// CreateKeys says what to create.
type CreateKeys struct {
	Type   KeyType // "": Options.Keys
	Status Status  // ACTIVE, INACTIVE or PENDING_ACTIVATION; "": INACTIVE
	Claim  *Claim  // with PENDING_ACTIVATION
	Name   string  // common name; "": IssuedSubject
}

// CreateKeysAndCertificate makes a key and a certificate of Weir's own CA for
// it.
func (r *Registry) CreateKeysAndCertificate(ctx context.Context, in CreateKeys) (*Certificate, *KeyPair, error) {
	const op = "registry.CreateKeysAndCertificate"
	typ := in.Type
	if typ == "" {
		typ = r.o.Keys
	}
	pub, keys, err := r.keys.pair(ctx, typ)
	if err != nil {
		return nil, nil, wrap(op, err)
	}
	subject := IssuedSubject
	if in.Name != "" {
		subject = pkix.Name{CommonName: in.Name}
	}
	c, err := r.issue(ctx, op, subject, pub, in.Status, in.Claim)
	if err != nil {
		return nil, nil, err
	}
	return c, keys, nil
}

// CreateCertificateFromCSR makes a certificate of Weir's own CA for the key of a
// certificate signing request, with its subject; its extensions are ignored.
// also, where given, belongs to the change: what is to hold with the certificate.
func (r *Registry) CreateCertificateFromCSR(ctx context.Context, csrPEM string, status Status, claim *Claim, also ...func(*Tx, *Certificate) error) (*Certificate, error) {
	const op = "registry.CreateCertificateFromCsr"
	csr, err := parseCSR(csrPEM)
	if err != nil {
		return nil, wrap(op, err)
	}
	return r.issue(ctx, op, csr.Subject, csr.PublicKey, status, claim, also...)
}

func (r *Registry) issue(ctx context.Context, op string, subject pkix.Name, key crypto.PublicKey, status Status, claim *Claim, also ...func(*Tx, *Certificate) error) (*Certificate, error) {
	switch status {
	case "":
		status = Inactive
	case Active, Inactive, PendingActivation:
	default:
		return nil, wrap(op, invalid("a certificate cannot be created as %s", clip(string(status))))
	}
	if claim != nil && status != PendingActivation {
		return nil, wrap(op, invalid("a claim goes with %s", PendingActivation))
	}
	if r.o.CA == nil {
		return nil, errs.Errorf(op, errs.NotImplemented, "this Weir has no certificate authority")
	}
	der, err := r.o.CA.SignClient(subject, key)
	if err != nil {
		return nil, errs.E(op, errs.Internal, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errs.E(op, errs.Internal, err)
	}
	var c *Certificate
	err = r.Change(ctx, op, func(tx *Tx) (err error) {
		c, err = tx.add(leaf, nil, ModeDefault, status, claim)
		for _, f := range also {
			if err == nil {
				err = f(tx, c)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

const (
	maxPEM = 65536
	maxCSR = 4096
)

// onePEM returns the content of a PEM text of one block.
func onePEM(s string, max int, what string, types ...string) ([]byte, error) {
	if s == "" || len(s) > max {
		return nil, fail(CertificateValidation, "%s has 1 to %d characters, this one has %d", what, max, len(s))
	}
	b, rest := pem.Decode([]byte(s))
	if b == nil {
		return nil, fail(CertificateValidation, "%s is not PEM", what)
	}
	ok := false
	for _, t := range types {
		ok = ok || b.Type == t
	}
	if !ok {
		return nil, fail(CertificateValidation, "%s is expected, the PEM holds a %s", what, clip(b.Type))
	}
	if strings.TrimSpace(string(rest)) != "" {
		return nil, fail(CertificateValidation, "%s: one PEM block is expected, more follows it", what)
	}
	return b.Bytes, nil
}

func parseCertificate(s string) (*x509.Certificate, error) {
	der, err := onePEM(s, maxPEM, "a certificate", "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fail(CertificateValidation, "the certificate cannot be read: %v", err)
	}
	return c, nil
}

func parseCSR(s string) (*x509.CertificateRequest, error) {
	der, err := onePEM(s, maxCSR, "a certificate signing request", "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
	if err != nil {
		return nil, asInvalid(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, invalid("the certificate signing request cannot be read: %v", err)
	}
	if weakSignature(csr.SignatureAlgorithm) {
		return nil, invalid("the certificate signing request is signed with %s, which is too weak", csr.SignatureAlgorithm)
	}
	if err := checkKey(csr.PublicKey); err != nil { // before the signature: a huge key is slow to check
		return nil, asInvalid(err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, invalid("the certificate signing request is not signed by its own key")
	}
	return csr, nil
}

func asInvalid(err error) error { return invalid("%s", err.Error()) }

func weakSignature(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
		return false
	}
	return true
}

// checkKey refuses keys that are weak or that TLS clients do not use.
func checkKey(key any) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 8192 {
			return fail(CertificateValidation, "an RSA key has 2048 to 8192 bits, this one has %d", n)
		}
		if k.E < 3 || k.E&1 == 0 {
			return fail(CertificateValidation, "the RSA key's exponent is weak")
		}
		return nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return fail(CertificateValidation, "an EC key is of the curve P-256, P-384 or P-521")
	}
	return fail(CertificateValidation, "a key is RSA, or EC of the curve P-256, P-384 or P-521")
}

// checkLeaf refuses what is no sound client certificate.
func checkLeaf(c *x509.Certificate) error {
	if c.BasicConstraintsValid && c.IsCA {
		return fail(CertificateValidation, "the certificate is of a certificate authority")
	}
	if weakSignature(c.SignatureAlgorithm) {
		return fail(CertificateValidation, "the certificate is signed with %s, which is too weak", c.SignatureAlgorithm)
	}
	return checkKey(c.PublicKey)
}

// fingerprint is the id of a certificate.
func fingerprint(der []byte) string {
	h := sha256.Sum256(der)
	return hex.EncodeToString(h[:])
}
