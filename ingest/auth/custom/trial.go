package custom

import (
	"context"
	"errors"
	"strings"

	"github.com/weir-iot/weir/internal/errs"
)

// Trial is what an authorizer is tried with: AWS's TestInvokeAuthorizer. Parts
// that are nil or empty the function is not told of.
type Trial struct {
	Token, Signature string
	ServerName       string
	HTTP             bool
	Headers          map[string]string
	Query            string // with or without its '?'
	MQTT             bool
	Username         string
	Password         []byte
	ClientID         string
	ID               string // of the connection that is not there
}

// Try calls the function of an authorizer as for a connection. The answer is nil
// where the function does not let the client in. Errors: errs.NotFound, of the
// authorizer; errs.Invalid, of the token's signature or of what the function
// said; errs.Unavailable, of the call.
func (a *Authenticator) Try(ctx context.Context, name string, t Trial) (*Answer, error) {
	const op = "custom.Try"
	z, ok := a.o.Store.Authorizer(name)
	if !ok {
		return nil, errs.Errorf(op, errs.NotFound, "there is no authorizer %s", name)
	}
	if !z.Active {
		return nil, errs.Errorf(op, errs.Invalid, "the authorizer %s is not active", name)
	}
	if !z.SigningDisabled {
		if err := z.verify(t.Token, t.Signature); err != nil {
			return nil, errs.E(op, errs.Invalid, err)
		}
	}
	e := event{Token: t.Token, Verified: !z.SigningDisabled}
	e.Connection.ID = t.ID
	if t.ServerName != "" {
		e.Protocols = append(e.Protocols, "tls")
		e.Data.TLS = &tlsData{t.ServerName}
	}
	if t.HTTP {
		e.Protocols = append(e.Protocols, "http")
		e.Data.HTTP = &httpData{Headers: t.Headers, Query: t.Query}
		if t.Query != "" && !strings.HasPrefix(t.Query, "?") {
			e.Data.HTTP.Query = "?" + t.Query
		}
	}
	if t.MQTT {
		e.Protocols = append(e.Protocols, "mqtt")
		e.Data.MQTT = &mqttData{t.Username, t.Password, t.ClientID}
	}
	g, err := a.ask(ctx, z, e)
	switch {
	case errors.Is(err, errNotAuthenticated):
		return nil, nil
	case errs.Is(err, errs.Unauthorized):
		return nil, errs.E(op, errs.Invalid, err)
	case err != nil:
		return nil, err
	}
	return g.answer, nil
}
