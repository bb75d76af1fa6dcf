package sigv4

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
)

// Authenticator lets in who comes with a signed request: WebSockets and HTTPS.
// The principal's ID is the access key's, what it may is in the key's policies:
// a key that is switched off or changed has its effect on open connections.
type Authenticator struct {
	Verifier *Verifier
	Policies *auth.Policies
}

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
	session, err := a.session(c, caller)
	if err != nil {
		return nil, err
	}
	return &auth.Principal{
		ID: caller.AccessKeyID, ClientID: c.ClientID, Remote: c.Remote, Listener: c.Listener, Data: session, Expires: caller.Expires,
	}, nil
}

func (a *Authenticator) session(c *auth.Connection, caller *Caller) (*auth.Session, error) {
	facts := a.Policies.Facts(c)
	facts.Other = caller.Context
	facts.Prepare()
	keys, id, secret, token := a.Verifier.o.Keys, caller.AccessKeyID, caller.secret, caller.token
	return a.Policies.NewSession("", func() (auth.Standing, error) {
		// The secret too: a key deleted and made again is another.
		k, ok := keys.Key(context.Background(), id, token)
		if !ok || !equal(k.Secret, secret) {
			return auth.Standing{}, refuse(UnrecognizedClient, "The access key is gone or switched off.")
		}
		var list []auth.Policy
		for i, d := range k.Policies {
			name := "of access key " + id
			if len(k.Policies) > 1 {
				name += " (" + strconv.Itoa(i+1) + ")"
			}
			list = append(list, auth.Policy{Name: name, Document: d})
		}
		set, err := a.Policies.Compile(list)
		if err != nil {
			return auth.Standing{}, errs.E("sigv4.Authenticate", errs.Forbidden, err)
		}
		return auth.Standing{Set: set, Facts: facts, Until: caller.Expires}, nil
	})
}
