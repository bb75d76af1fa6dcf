package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/weir-iot/weir/internal/errs"
)

// Authz explains what is allowed to whom. Errors: NotFound (no such client or
// certificate), Invalid.
type Authz interface {
	Explain(ctx context.Context, q AuthzQuestion) (*AuthzAnswer, error)
}

// AuthzQuestion asks about a connected client, or about a connection a
// registered certificate would have.
type AuthzQuestion struct {
	ClientID    string `json:"clientId,omitempty"`    // alone: of the client that is connected
	Certificate string `json:"certificate,omitempty"` // id or ARN; then ClientID is the one it would use
	Action      string `json:"action"`                // "iot:Publish"
	Resource    string `json:"resource"`              // "topic/a/b", an ARN, or "*"
}

// AuthzAnswer says what decides, and why.
type AuthzAnswer struct {
	Action    string          `json:"action"`
	Resource  string          `json:"resource"` // an ARN, or "*"
	Allowed   bool            `json:"allowed"`
	Reason    string          `json:"reason"` // one sentence
	Principal string          `json:"principal,omitempty"`
	ClientID  string          `json:"clientId,omitempty"`
	Thing     string          `json:"thing,omitempty"` // the registered thing the connection is
	Policies  []string        `json:"policies"`        // those that hold
	Decided   *AuthzVerdict   `json:"decided,omitempty"`
	Verdicts  []AuthzVerdict  `json:"statements"`         // those about the action, denials first
	Others    int             `json:"otherStatements"`    // about other actions
	Smallest  json.RawMessage `json:"smallest,omitempty"` // the smallest statement that would allow it
}

// AuthzVerdict is what one statement of a policy has to say.
type AuthzVerdict struct {
	Policy    string          `json:"policy"`
	Statement int             `json:"statement"` // from 1
	Sid       string          `json:"sid,omitempty"`
	Effect    string          `json:"effect"`
	Applies   bool            `json:"applies"`
	Why       string          `json:"why"`
	Variables []AuthzVariable `json:"variables,omitempty"`
}

// AuthzVariable is a variable of a statement and what it stands for.
type AuthzVariable struct {
	Name    string `json:"name"`
	Value   string `json:"value,omitempty"`
	Missing bool   `json:"missing,omitempty"`
}

func (s *Server) explainAuthz(w http.ResponseWriter, r *http.Request) error {
	const op = "control.explainAuthz"
	if s.o.Authz == nil {
		return errs.Errorf(op, errs.NotImplemented, "this server has no policies")
	}
	var q AuthzQuestion
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return errs.E(op, errs.Invalid, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errs.Errorf(op, errs.Invalid, "text behind the question")
	}
	if q.ClientID == "" && q.Certificate == "" || q.Action == "" || q.Resource == "" {
		return errs.Errorf(op, errs.Invalid, "clientId or certificate, action and resource are needed")
	}
	a, err := s.o.Authz.Explain(r.Context(), q)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, a)
	return nil
}

// ExplainAuthz asks why something is allowed or denied.
func (c *Client) ExplainAuthz(ctx context.Context, q AuthzQuestion) (*AuthzAnswer, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	var out AuthzAnswer
	return &out, c.call(ctx, "POST", "/weir/v1/authz/explain", nil, body, &out)
}
