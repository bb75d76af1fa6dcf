package auth

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"

	"github.com/weir-iot/weir/internal/errs"
)

// Own is the Authenticator of a Weir without a registry: the plain listener
// lets in everyone from loopback, the TLS listeners every client certificate
// of the given authority.
type Own struct{ CA *CA }

// Authenticate implements Authenticator.
func (o *Own) Authenticate(_ context.Context, c *Connection) (*Principal, error) {
	const op = "auth.Authenticate"
	p := &Principal{ClientID: c.ClientID, Remote: c.Remote, Listener: c.Listener}
	if c.TLS == nil {
		if !c.Remote.Addr().Unmap().IsLoopback() {
			return nil, errs.Errorf(op, errs.Forbidden, "connections without TLS are for loopback only")
		}
		return p, nil
	}
	if len(c.TLS.PeerCertificates) == 0 {
		return nil, errs.Errorf(op, errs.Unauthorized, "no client certificate")
	}
	leaf := c.TLS.PeerCertificates[0]
	if err := o.CA.VerifyClient(leaf); err != nil {
		return nil, errs.E(op, errs.Unauthorized, err)
	}
	p.ID = CertificateID(leaf)
	return p, nil
}

// CertificateID returns the id of a certificate: the SHA-256 of its DER form in
// hexadecimal.
func CertificateID(c *x509.Certificate) string {
	h := sha256.Sum256(c.Raw)
	return hex.EncodeToString(h[:])
}

// AllowAll is the Authorizer that goes with Own. Private topics are not its
// matter: the gateway refuses them by itself until their services exist.
type AllowAll struct{}

// May implements Authorizer.
func (AllowAll) May(*Principal, Action, string) bool { return true }

var errNotClient = errors.New("the certificate is not for client authentication")
