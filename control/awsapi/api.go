package awsapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/registry"
)

// Limits of a request.
const (
	maxBody = 1 << 20 // bytes; the largest document is a rule's, 256 KiB
	maxPath = 8 << 10 // bytes, escaped

	// handleTimeout bounds an operation. What a client gave up on may have been
	// done nevertheless.
	handleTimeout = 30 * time.Second
)

// Caller is who makes a request.
type Caller struct {
	ID       string // access key id, or certificate id
	ARN      string // as error messages name it
	SourceIP netip.Addr

	// May reports whether the caller's policies allow action on the resource, an
	// ARN or "*". nil: nothing.
	May func(action, resource string) bool
}

// Verifier says who signed a request. body is all of it; the request's own is
// used up. Errors: errs.Unauthorized, errs.Forbidden, or one with the method
// AWSCode() string.
type Verifier interface {
	// Check is asked before the body is read, so that most strangers cannot send
	// one.
	Check(r *http.Request) error
	Verify(r *http.Request, body []byte) (*Caller, error)
}

// Options are the rooms behind the API.
type Options struct {
	AccountID string
	Region    string
	Verifier  Verifier // nil: only ServeData answers

	Registry     *registry.Registry
	Rules        Rules
	Destinations Destinations
	Messages     Messages
	Shadows      Shadows
	Connections  Connections
	Authorizers  Authorizers
	Provisioner  Provisioner

	// Endpoints returns host:port by endpoint type, for DescribeEndpoint. A type
	// that is missing is refused.
	Endpoints func() map[string]string

	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	Now        func() time.Time      // nil: time.Now
}

// API answers requests. It is safe for concurrent use.
type API struct {
	o        Options
	routes   map[Service]*routes
	arn      string // "arn:aws:iot:<region>:<account>:"
	requests *prometheus.CounterVec
}

// New checks o and builds the table.
func New(o Options) (*API, error) {
	if o.Registry == nil || o.Rules == nil || o.Destinations == nil || o.Messages == nil || o.Shadows == nil || o.Connections == nil || o.Authorizers == nil || o.Provisioner == nil || o.Endpoints == nil {
		return nil, errors.New("awsapi: a room is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	routes, _, err := table()
	if err != nil {
		return nil, err
	}
	a := &API{o: o, routes: routes, arn: "arn:aws:iot:" + o.Region + ":" + o.AccountID + ":",
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "weir", Subsystem: "api", Name: "requests_total", Help: "Requests to the AWS APIs by service, operation and status.",
		}, []string{"service", "operation", "status"})}
	if o.Registerer != nil {
		if err := o.Registerer.Register(a.requests); err != nil {
			return nil, fmt.Errorf("awsapi: metrics: %w", err)
		}
	}
	return a, nil
}

// call is one request on its way.
type call struct {
	w      http.ResponseWriter
	r      *http.Request
	id     string // request id
	op     *operation
	caller *Caller
}

type callerKey struct{}

// callerOf returns who makes the request that ctx belongs to.
func callerOf(ctx context.Context) *Caller {
	c, _ := ctx.Value(callerKey{}).(*Caller)
	if c == nil {
		return &Caller{}
	}
	return c
}

// may reports whether the caller is permitted action on what stands behind the
// account's prefix. For what an operation asks besides its own permission.
func (a *API) may(ctx context.Context, action, resource string) bool {
	c := callerOf(ctx)
	return c.May != nil && c.May(action, a.arn+resource)
}

// Claims reports whether r is signed for one of the services here, or for none
// that can be read: what is signed for others is left to its path.
func (a *API) Claims(r *http.Request) bool {
	if !signed(r) {
		return false
	}
	name := signedFor(r)
	_, ok := signingNames[name]
	return ok || name == ""
}

func signed(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Authorization"), algorithm) || strings.Contains(r.URL.RawQuery, "X-Amz-Algorithm=")
}

const algorithm = "AWS4-HMAC-SHA256"

// signedFor returns the service that r's signature names, "" where there is
// none.
func signedFor(r *http.Request) string {
	credential := ""
	if rest, ok := strings.CutPrefix(r.Header.Get("Authorization"), algorithm); ok {
		_, credential, _ = strings.Cut(rest, "Credential=")
		credential, _, _ = strings.Cut(credential, ",")
	} else if q, err := url.ParseQuery(r.URL.RawQuery); err == nil {
		credential = q.Get("X-Amz-Credential")
	}
	part := strings.Split(strings.TrimSpace(credential), "/") // key, date, region, service, "aws4_request"
	if len(part) != 5 {
		return ""
	}
	return part[3]
}

// ServeHTTP answers signed requests for all services.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a.o.Verifier == nil {
		http.NotFound(w, r)
		return
	}
	a.serve(w, r, func() (Service, error) {
		if len(r.TransferEncoding) > 0 {
			// Clients sign the whole body and know its length. With both, two servers
			// may disagree where it ends.
			return "", &Error{Code: "MissingContentLengthException", Message: "You must provide the Content-Length HTTP header."}
		}
		if !signed(r) {
			return "", &Error{Code: "MissingAuthenticationTokenException", Message: "Missing Authentication Token"}
		}
		name := signedFor(r)
		service, ok := signingNames[name]
		if !ok {
			return "", &Error{Code: "InvalidSignatureException", Message: fmt.Sprintf("Credential should be scoped to correct service: 'iot'; found '%s'.", clip(name))}
		}
		return service, a.o.Verifier.Check(r)
	}, func(body []byte) (*Caller, error) { return a.o.Verifier.Verify(r, body) })
}

// ServeData answers a request for the data plane on behalf of caller, whom
// somebody else has authenticated, such as by a client certificate. The
// operations are those of Data, and of Jobs.
func (a *API) ServeData(w http.ResponseWriter, r *http.Request, caller *Caller) {
	a.serve(w, r, func() (Service, error) {
		if op, _ := a.routes[Data].find(r.Method, r.URL.EscapedPath()); op == nil {
			if op, _ := a.routes[Jobs].find(r.Method, r.URL.EscapedPath()); op != nil {
				return Jobs, nil
			}
		}
		return Data, nil
	}, func([]byte) (*Caller, error) { return caller, nil })
}

func (a *API) serve(w http.ResponseWriter, r *http.Request, service func() (Service, error), verify func(body []byte) (*Caller, error)) {
	c := &call{w: w, r: r, id: requestID()}
	h := w.Header()
	h.Set("X-Amzn-Requestid", c.id)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			a.o.Logger.Error("panic in the AWS API", "operation", c.name(), "requestId", c.id, "panic", p, "stack", string(debug.Stack()))
			a.fail(c, &Error{Code: "InternalFailureException", Message: "the request failed; the log says why"})
		}
	}()
	s, err := service()
	if err != nil {
		a.fail(c, err)
		return
	}
	if err := a.answer(c, s, verify); err != nil {
		a.fail(c, err)
	}
}

func (a *API) answer(c *call, s Service, verify func(body []byte) (*Caller, error)) error {
	path := c.r.URL.EscapedPath()
	if len(path) > maxPath {
		return invalid("the path has %d bytes, at most %d are read", len(path), maxPath)
	}
	op, labels := a.routes[s].find(c.r.Method, path)
	if op == nil {
		return &Error{Code: "UnknownOperationException", Message: fmt.Sprintf("%s has no operation %s %s", s, c.r.Method, clip(path))}
	}
	c.op = op
	body, err := readBody(c.w, c.r, op.maxBody)
	if err != nil {
		return err
	}
	if c.caller, err = verify(body); err != nil {
		return err
	}
	if op.handle == nil {
		return &Error{Code: NotImplemented, Message: fmt.Sprintf("Weir does not have the operation %s of %s", op.Name, s)}
	}
	q, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return invalid("the query is not URL encoded")
	}
	in := &input{labels: labels, query: q, header: c.r.Header, body: body}
	request := reflect.New(op.request)
	if err := shapeOf(op.request).decode(request.Elem(), in); err != nil {
		return err
	}
	if len(in.ignored) > 0 {
		a.o.Logger.Warn("members of a request are ignored", "operation", op.Name, "requestId", c.id, "members", in.ignored)
	}
	if resource := op.arn(a.arn, request.Elem()); c.caller.May == nil || !c.caller.May(op.action, resource) {
		return a.denied(c.caller, op.action, resource, s)
	}
	ctx, cancel := context.WithTimeout(context.WithValue(c.r.Context(), callerKey{}, c.caller), handleTimeout)
	defer cancel()
	response, err := op.handle(a, ctx, request.Interface())
	if err != nil {
		return err
	}
	return a.write(c, response)
}

func (a *API) denied(c *Caller, action, resource string, s Service) error {
	if s != IoT {
		return &Error{Code: "ForbiddenException", Message: fmt.Sprintf("not authorized to perform: %s on resource: %s", action, clip(resource))}
	}
	return &Error{Code: "AccessDeniedException",
		Message: fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s", c.ARN, action, clip(resource))}
}

// readBody reads all of a request's body.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	if most == 0 {
		most = maxBody
	}
	tooLarge := &Error{Code: "RequestEntityTooLargeException", Message: fmt.Sprintf("the body may have %d bytes", most)}
	if r.ContentLength > most {
		return nil, tooLarge
	}
	if r.ContentLength == 0 {
		return nil, nil
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge
	case err != nil:
		return nil, invalid("the body could not be read")
	}
	return b, nil
}

// write answers with response, a pointer to a struct.
func (a *API) write(c *call, response any) error {
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	v := reflect.ValueOf(response)
	var body []byte
	if v.IsValid() && !v.IsNil() {
		if s := shapeOf(v.Type().Elem()); s.payload != nil {
			body = v.Elem().Field(s.payload.index).Bytes()
		} else if len(s.members) > 0 {
			var b bytes.Buffer
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			if err := e.Encode(response); err != nil {
				return errs.E("awsapi."+c.op.Name, errs.Internal, err)
			}
			body = bytes.TrimSuffix(b.Bytes(), []byte("\n"))
		}
	}
	if body == nil && c.op.Service == IoT {
		body = []byte("{}")
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	a.count(c, http.StatusOK)
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(body) // the client is gone, or it is not: there is no one else to tell
	return nil
}

func (c *call) name() string {
	if c.op == nil {
		return ""
	}
	return c.op.Name
}

func (a *API) count(c *call, status int) {
	service := ""
	if c.op != nil {
		service = string(c.op.Service)
	}
	a.requests.WithLabelValues(service, c.name(), strconv.Itoa(status)).Inc()
}

// coded is an error that knows its code.
type coded interface {
	error
	AWSCode() string
}

// asError returns err as the answer it makes.
func (c *call) asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var r *registry.Error
	if errors.As(err, &r) {
		return &Error{Code: string(r.Code) + "Exception", Message: r.Message, ResourceID: r.ID, ResourceARN: r.ARN, Err: err}
	}
	var known coded
	if errors.As(err, &known) {
		return &Error{Code: known.AWSCode(), Message: errs.Text(err), Err: err}
	}
	kind := errs.KindOf(err)
	if errors.Is(err, context.DeadlineExceeded) && kind == errs.Internal {
		kind = errs.Timeout
	}
	op := c.op
	if op == nil {
		op = &operation{Listed: Listed{Service: IoT}}
	}
	e = &Error{Code: op.codeOf(kind), Message: errs.Text(err), Err: err}
	if c.caller == nil && (kind == errs.Unauthorized || kind == errs.Forbidden) {
		e.Code = "UnrecognizedClientException"
	}
	if kind == errs.Internal {
		e.Message = "internal failure; the log has it under request id " + c.id
	}
	return e
}

// fail answers with an error in the shape of the services: its code in a header,
// the message in the body.
func (a *API) fail(c *call, err error) {
	if c.r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // nobody reads the answer
	}
	e := c.asError(err)
	status := e.Status
	if status == 0 {
		status = statuses[e.Code]
	}
	if e.Code == "ThrottlingException" && c.op != nil && c.op.Service != IoT {
		status = http.StatusTooManyRequests
	}
	if status == 0 {
		status = http.StatusBadRequest
	}
	log := a.o.Logger.Debug
	if status >= 500 && status != http.StatusNotImplemented {
		log = a.o.Logger.Error
	}
	log("AWS API", "operation", c.name(), "status", status, "code", e.Code, "err", err, "requestId", c.id)

	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Amzn-Errortype", e.Code)
	body, _ := json.Marshal(struct {
		Message     string `json:"message"`
		ResourceID  string `json:"resourceId,omitempty"`
		ResourceARN string `json:"resourceArn,omitempty"`
		TraceID     string `json:"traceId,omitempty"`
	}{e.Message, e.ResourceID, e.ResourceARN, c.trace()}) // of strings only
	h.Set("Content-Length", strconv.Itoa(len(body)))
	a.count(c, status)
	c.w.WriteHeader(status)
	_, _ = c.w.Write(body)
}

// trace is the request id, which the data plane repeats in the body.
func (c *call) trace() string {
	if c.op != nil && c.op.Service == Data {
		return c.id
	}
	return ""
}

// requestID returns a new UUID.
func requestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
