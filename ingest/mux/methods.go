package mux

import (
	"context"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/auth/sigv4"
	"github.com/weir-iot/weir/ingest/domain"
	"github.com/weir-iot/weir/internal/errs"
)

// HTTPProtocol is the ALPN name of HTTPS with a client certificate.
const HTTPProtocol = "x-amzn-http-ca"

// Custom is the Authenticator of custom authorizers.
type Custom interface {
	auth.Authenticator
	auth.Usher
	// Named reports whether c names an authorizer, wherever it may.
	Named(c *auth.Connection) bool
	// Default reports whether there is one for c that names none.
	Default(c *auth.Connection) bool
}

// Methods is the Authenticator of all ways in: it asks the one that the way
// allows and the client means. No way falls back to another method.
type Methods struct {
	Certificate auth.Authenticator // also for the listeners without TLS
	Signature   interface {        // nil: requests that are signed are refused
		auth.Authenticator
		auth.Usher
	}
	Custom  Custom         // nil: refused
	Domains domain.Configs // nil: none
	// Foreign is the Authenticator of another dialect, which knows its own clients;
	// nil: there is none.
	Foreign interface {
		auth.Authenticator
		Claims(c *auth.Connection) bool
	}
}

// Authenticate implements auth.Authenticator.
func (m *Methods) Authenticate(ctx context.Context, c *auth.Connection) (*auth.Principal, error) {
	a, err := m.choose(c)
	if err != nil {
		return nil, err
	}
	return a.Authenticate(ctx, c)
}

// Admit implements auth.Usher.
func (m *Methods) Admit(ctx context.Context, c *auth.Connection) error {
	a, err := m.choose(c)
	if err != nil {
		return err
	}
	if u, ok := a.(auth.Usher); ok {
		return u.Admit(ctx, c)
	}
	return nil
}

// choose returns the authenticator of the way c came in.
func (m *Methods) choose(c *auth.Connection) (auth.Authenticator, error) {
	const op = "mux.Authenticate"
	if c.TLS == nil {
		return m.Certificate, nil
	}
	if m.Foreign != nil && m.Foreign.Claims(c) {
		return m.Foreign, nil
	}
	refuse := func(format string, args ...any) (auth.Authenticator, error) {
		return nil, errs.Errorf(op, errs.Unauthorized, format, args...)
	}
	certificate := len(c.TLS.PeerCertificates) > 0
	signed := c.HTTP != nil && sigv4.Signed(c.HTTP.Request)
	alpn := c.TLS.NegotiatedProtocol
	allowed := func(kind string) bool {
		if m.Domains == nil {
			return true
		}
		d, ok := m.Domains.Domain(c.TLS.ServerName)
		return !ok || d.Allows(kind, c.Listener)
	}
	switch {
	case !c.Mux, alpn == CertificateProtocol, alpn == HTTPProtocol:
		switch {
		case !allowed(domain.Certificate):
			return refuse("client certificates are not for this domain")
		case !certificate && m.Custom != nil && m.Custom.Named(c):
			return refuse("custom authentication cannot be used on this port with this ALPN name")
		case !certificate && signed:
			return nil, errs.E(op, errs.Unauthorized, &sigv4.Error{Code: sigv4.UnrecognizedClient, Message: "Signature Version 4 cannot be used on this port with this ALPN name"})
		case !certificate && c.HTTP != nil:
			return refuse("no client certificate")
		}
		return m.Certificate, nil
	case alpn == CustomProtocol:
		if m.Custom == nil || !allowed(domain.Custom) {
			return refuse("custom authentication is not available")
		}
		return m.Custom, nil
	case c.HTTP == nil:
		return refuse("MQTT on this port needs the ALPN name %s or %s", CertificateProtocol, CustomProtocol)
	}
	custom := m.Custom != nil && m.Custom.Named(c)
	switch {
	case signed && custom:
		return refuse("the request is signed and names an authorizer: one of them must be left out")
	case signed && (m.Signature == nil || !allowed(domain.Signature)):
		return refuse("Signature Version 4 is not available")
	case signed:
		return m.Signature, nil
	case m.Custom != nil && allowed(domain.Custom) && (custom || m.Custom.Default(c)):
		return m.Custom, nil
	case custom:
		return refuse("custom authentication is not available")
	case c.Listener == auth.WebSocket && m.Custom != nil && allowed(domain.Custom):
		return m.Custom, nil // the user name of CONNECT may name one
	}
	return nil, errs.E(op, errs.Unauthorized, &sigv4.Error{Code: sigv4.MissingAuthenticationToken, Message: "Missing Authentication Token"})
}
