package auth

import (
	"context"
	"net/http"
)

// Request is the HTTP request of a connection, as it was received.
type Request struct {
	*http.Request
	Body []byte // of HTTPS publish; empty for a WebSocket

	// Admitted is what Usher.Admit wants Authenticate to find again.
	Admitted any
}

// Usher is an Authenticator that judges the request of a WebSocket before it is
// upgraded, by what it finds there; what is still to come with CONNECT it leaves
// to Authenticate. The errors are those of Authenticate.
type Usher interface {
	Admit(ctx context.Context, c *Connection) error
}

type connectionKey struct{}

// WithConnection returns a context that carries what a request has told of its
// connection, from the HTTPS listener to the dialect that takes it over.
func WithConnection(ctx context.Context, c *Connection) context.Context {
	return context.WithValue(ctx, connectionKey{}, c)
}

// ConnectionFrom returns what WithConnection put there, nil without.
func ConnectionFrom(ctx context.Context) *Connection {
	c, _ := ctx.Value(connectionKey{}).(*Connection)
	return c
}

type principalKey struct{}

// WithPrincipal returns a context that carries who sent a request, for the
// handlers behind the HTTPS listener.
func WithPrincipal(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFrom returns what WithPrincipal put there, nil without.
func PrincipalFrom(ctx context.Context) *Principal {
	p, _ := ctx.Value(principalKey{}).(*Principal)
	return p
}
