package awsapi

import (
	"context"

	"github.com/weir-iot/weir/ingest/auth/custom"
	"github.com/weir-iot/weir/internal/errs"
)

// Authorizers tries custom authorizers; *ingest/auth/custom.Authenticator does.
type Authorizers interface {
	// Try returns nil where the function does not let the client in. Errors:
	// errs.NotFound, errs.Invalid, errs.Unavailable.
	Try(ctx context.Context, name string, t custom.Trial) (*custom.Answer, error)
}

type testInvokeAuthorizerRequest struct {
	AuthorizerName string       `json:"authorizerName" in:"uri" is:"required 1..128 ~word"`
	Token          string       `json:"token" is:"1..6144"`
	TokenSignature string       `json:"tokenSignature" is:"1..2560 ~base64"`
	HTTPContext    *httpContext `json:"httpContext"`
	MQTTContext    *mqttContext `json:"mqttContext"`
	TLSContext     *tlsContext  `json:"tlsContext"`
}

type httpContext struct {
	Headers     map[string]string `json:"headers" each:"1..8192" keys:"1..8192"`
	QueryString string            `json:"queryString" is:"1..4096"`
}

type mqttContext struct {
	Username string `json:"username" is:"1..65535"`
	Password []byte `json:"password" is:"1..65535"`
	ClientID string `json:"clientId" is:"1..65535"`
}

type tlsContext struct {
	ServerName string `json:"serverName" is:"1..253"`
}

type testInvokeAuthorizerResponse struct {
	IsAuthenticated          bool     `json:"isAuthenticated"`
	PrincipalID              string   `json:"principalId,omitempty"`
	PolicyDocuments          []string `json:"policyDocuments,omitempty"`
	RefreshAfterInSeconds    int64    `json:"refreshAfterInSeconds,omitempty"`
	DisconnectAfterInSeconds int64    `json:"disconnectAfterInSeconds,omitempty"`
}

func (a *API) testInvokeAuthorizer(ctx context.Context, q *testInvokeAuthorizerRequest) (*testInvokeAuthorizerResponse, error) {
	t := custom.Trial{Token: q.Token, Signature: q.TokenSignature, ID: requestID()}
	if c := q.TLSContext; c != nil {
		t.ServerName = c.ServerName
	}
	if c := q.HTTPContext; c != nil {
		t.HTTP, t.Headers, t.Query = true, c.Headers, c.QueryString
	}
	if c := q.MQTTContext; c != nil {
		t.MQTT, t.Username, t.Password, t.ClientID = true, c.Username, c.Password, c.ClientID
	}
	answer, err := a.o.Authorizers.Try(ctx, q.AuthorizerName, t)
	switch {
	case errs.Is(err, errs.Unavailable):
		return nil, &Error{Code: "InvalidResponseException", Message: "the authorizer's function did not answer: " + clip(errs.Text(err)), Err: err}
	case err != nil:
		return nil, err
	case answer == nil:
		return &testInvokeAuthorizerResponse{}, nil
	}
	return &testInvokeAuthorizerResponse{true, answer.PrincipalID, answer.Policies, int64(answer.RefreshAfter.Seconds()), int64(answer.DisconnectAfter.Seconds())}, nil
}
