package sigv4

import (
	"context"
	"net/url"
	"strings"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
)

// Authenticator lets in who comes with a signed request: WebSockets and HTTPS.
// The principal's ID is the access key's, its Data the *Caller.
type Authenticator struct{ Verifier *Verifier }

// services returns what a request to path may be signed for.
// Source: AWS SDKs; "Device communication protocols".
func services(path string) []string {
	switch {
	case path == "/mqtt":
		return []string{DeviceGateway}
	case strings.HasPrefix(path, "/topics/"):
		return []string{DeviceGateway, Data}
	}
	if rest, ok := strings.CutPrefix(path, "/things/"); ok {
		_, rest, _ = strings.Cut(rest, "/")
		first, _, _ := strings.Cut(rest, "/")
		if name, err := url.PathUnescape(first); err == nil && name == "jobs" {
			return []string{Jobs}
		}
	}
	return []string{Data}
}

func (a *Authenticator) of(c *auth.Connection) (*Verifier, error) {
	if c.HTTP == nil {
		return nil, errs.Errorf("sigv4.Authenticate", errs.Unauthorized, "a signature comes with a request, and there is none")
	}
	return a.Verifier.For(services(c.HTTP.URL.EscapedPath())...), nil
}

// Admit implements auth.Usher: a WebSocket's request is verified whole, another
// before its body.
func (a *Authenticator) Admit(_ context.Context, c *auth.Connection) error {
	v, err := a.of(c)
	if err != nil {
		return err
	}
	if c.Listener != auth.WebSocket {
		return v.Check(c.HTTP.Request)
	}
	caller, err := v.Verify(c.HTTP.Request, nil)
	if err != nil {
		return err
	}
	c.HTTP.Admitted = caller
	return nil
}

// Authenticate implements auth.Authenticator.
func (a *Authenticator) Authenticate(_ context.Context, c *auth.Connection) (*auth.Principal, error) {
	v, err := a.of(c)
	if err != nil {
		return nil, err
	}
	caller, ok := c.HTTP.Admitted.(*Caller)
	if !ok {
		if caller, err = v.Verify(c.HTTP.Request, c.HTTP.Body); err != nil {
			return nil, err
		}
	}
	return &auth.Principal{
		ID: caller.AccessKeyID, ClientID: c.ClientID, Remote: c.Remote, Listener: c.Listener, Data: caller, Expires: caller.Expires,
	}, nil
}
