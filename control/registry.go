package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// Registry is things, certificates, policies and what goes with them, for
// people: one operation a verb of the command line, such as "thing.create".
type Registry interface {
	// Call does an operation with its request, a JSON object, and returns what is
	// written as the answer. Errors: NotFound (also of the operation), and the
	// registry's.
	Call(ctx context.Context, operation string, request json.RawMessage) (any, error)
}

// Named is the request of operations on one record.
type Named struct {
	Name    string `json:"name"`
	Force   bool   `json:"force,omitempty"`   // cert.delete
	Undo    bool   `json:"undo,omitempty"`    // type.deprecate
	Status  string `json:"status,omitempty"`  // cert.status, ca.status, access-key.status
	Version string `json:"version,omitempty"` // policy.show
}

// ListRequest is the request of lists; all results come at once.
type ListRequest struct {
	Type      string `json:"type,omitempty"`      // thing.list
	Attribute string `json:"attribute,omitempty"` // thing.list
	Value     string `json:"value,omitempty"`     // thing.list, with attribute
	Max       int    `json:"max,omitempty"`       // 0: 1000
	Token     string `json:"token,omitempty"`     // of the list before
}

// List is the answer of lists.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"` // there are more: the token that goes on
}

// Link is the request of attaching, detaching, adding and removing.
type Link struct {
	Thing       string `json:"thing,omitempty"`
	Certificate string `json:"certificate,omitempty"` // id or ARN
	Group       string `json:"group,omitempty"`
	Policy      string `json:"policy,omitempty"`
	Exclusive   bool   `json:"exclusive,omitempty"` // thing.attach
}

// Thing is a thing with what it is in and has.
type Thing struct {
	Name         string            `json:"thingName"`
	ARN          string            `json:"thingArn,omitempty"`
	ID           string            `json:"thingId,omitempty"`
	Type         string            `json:"thingTypeName,omitempty"`
	Attributes   map[string]string `json:"attributes,omitempty"`
	Version      int64             `json:"version,omitempty"`
	CreatedAt    time.Time         `json:"creationDate,omitzero"`
	Groups       []string          `json:"groups,omitempty"`       // show only
	Certificates []string          `json:"certificates,omitempty"` // show only; ids
}

// ThingType is a thing type.
type ThingType struct {
	Name        string    `json:"thingTypeName"`
	Description string    `json:"description,omitempty"`
	Searchable  []string  `json:"searchableAttributes,omitempty"`
	Deprecated  bool      `json:"deprecated,omitempty"`
	CreatedAt   time.Time `json:"creationDate,omitzero"`
}

// Group is a thing group.
type Group struct {
	Name        string            `json:"thingGroupName"`
	ARN         string            `json:"thingGroupArn,omitempty"`
	Parent      string            `json:"parentGroupName,omitempty"`
	Description string            `json:"description,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`
	Version     int64             `json:"version,omitempty"`
	CreatedAt   time.Time         `json:"creationDate,omitzero"`
	Things      []string          `json:"things,omitempty"`   // show only; the first of them
	Policies    []string          `json:"policies,omitempty"` // show only
}

// CreateCertificate is the request of cert.create: a certificate for the key of
// a CSR, and, at once with it, a thing it is attached to and policies.
type CreateCertificate struct {
	CSR      string   `json:"csr"`
	Thing    string   `json:"thing,omitempty"` // made where it does not exist
	Policies []string `json:"policies,omitempty"`
	Inactive bool     `json:"inactive,omitempty"`
}

// RegisterCertificate is the request of cert.register and ca.register.
type RegisterCertificate struct {
	PEM              string `json:"pem"`
	CA               string `json:"ca,omitempty"`           // cert.register: PEM
	WithoutCA        bool   `json:"withoutCa,omitempty"`    // cert.register
	Verification     string `json:"verification,omitempty"` // ca.register: PEM
	SNIOnly          bool   `json:"sniOnly,omitempty"`      // ca.register
	AutoRegistration bool   `json:"autoRegistration,omitempty"`
	Active           bool   `json:"active,omitempty"`
}

// Certificate is a certificate, of a client or of a CA.
type Certificate struct {
	ID               string    `json:"certificateId"`
	ARN              string    `json:"certificateArn"`
	Status           string    `json:"status"`
	Mode             string    `json:"certificateMode,omitempty"`
	CA               string    `json:"caCertificateId,omitempty"`
	AutoRegistration bool      `json:"autoRegistration,omitempty"`
	Subject          string    `json:"subject,omitempty"`
	NotBefore        time.Time `json:"notBefore"`
	NotAfter         time.Time `json:"notAfter"`
	CreatedAt        time.Time `json:"creationDate"`
	PEM              string    `json:"certificatePem,omitempty"` // show and create only
	Things           []string  `json:"things,omitempty"`         // show only
	Policies         []string  `json:"policies,omitempty"`       // show only
	Made             string    `json:"thingCreated,omitempty"`   // create: the thing that was made
	CAPEM            string    `json:"caPem,omitempty"`          // create: what the device is to trust
}

// Policy is a policy.
type Policy struct {
	Name      string    `json:"policyName"`
	ARN       string    `json:"policyArn,omitempty"`
	Default   int       `json:"defaultVersionId,omitempty"`
	Versions  []int     `json:"versions,omitempty"`
	Document  string    `json:"policyDocument,omitempty"` // show: of the version asked for
	CreatedAt time.Time `json:"creationDate,omitzero"`
	Targets   []string  `json:"targets,omitempty"` // show only; ARNs, the first of them
}

// AccessKey is an access key.
type AccessKey struct {
	ID          string    `json:"accessKeyId,omitempty"`
	Status      string    `json:"status,omitempty"`
	Description string    `json:"description,omitempty"`
	Policy      string    `json:"policyDocument,omitempty"`
	CreatedAt   time.Time `json:"creationDate,omitzero"`
	Secret      string    `json:"secretAccessKey,omitempty"` // create only
}

func (s *Server) callRegistry(w http.ResponseWriter, r *http.Request) error {
	const op = "control.registry"
	if s.o.Registry == nil {
		return errs.Errorf(op, errs.NotImplemented, "this Weir has no registry")
	}
	body, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return errs.Errorf(op, errs.TooLarge, "a request may have %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return errs.E(op, errs.Invalid, err)
	}
	out, err := s.o.Registry.Call(r.Context(), r.PathValue("operation"), body)
	if err != nil {
		return err
	}
	if out == nil {
		out = struct{}{}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// Registry does one operation of the registry; out may be nil.
func (c *Client) Registry(ctx context.Context, operation string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return c.call(ctx, "POST", "/weir/v1/registry/"+url.PathEscape(operation), nil, body, out)
}
