package lambdaapi

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/weir-iot/weir/functions"
	"github.com/weir-iot/weir/functions/sandbox"
	"github.com/weir-iot/weir/internal/errs"
)

// Options configure a handler.
type Options struct {
	Functions *functions.Service

	// Admit judges all of r but its body, before that is read: most strangers
	// cannot send one. Errors: errs.Unauthorized.
	Admit func(r *http.Request) error

	// Authorize says whether who sent r may do action ("lambda:InvokeFunction") to
	// resource, an ARN or "*". body is all of the request's.
	// Errors: errs.Unauthorized, errs.Forbidden.
	Authorize func(r *http.Request, body []byte, action, resource string) error

	Logger *slog.Logger
}

// API serves the operations of the table.
type API struct {
	o    Options
	mux  *http.ServeMux
	room *semaphore.Weighted // bytes of bodies in memory
}

// operation is one of AWS's.
type operation struct {
	pattern string
	action  string // of IAM
	status  int
	serve   func(a *API, r *http.Request, name string, body []byte) (any, error)
}

var operations = []operation{
	{"POST /2015-03-31/functions", "lambda:CreateFunction", 201, (*API).create},
	{"POST /2015-03-31/functions/{$}", "lambda:CreateFunction", 201, (*API).create},
	{"GET /2015-03-31/functions", "lambda:ListFunctions", 200, (*API).list},
	{"GET /2015-03-31/functions/{$}", "lambda:ListFunctions", 200, (*API).list},
	{"GET /2015-03-31/functions/{name}", "lambda:GetFunction", 200, (*API).get},
	{"DELETE /2015-03-31/functions/{name}", "lambda:DeleteFunction", 204, (*API).remove},
	{"GET /2015-03-31/functions/{name}/configuration", "lambda:GetFunctionConfiguration", 200, (*API).getConfiguration},
	{"PUT /2015-03-31/functions/{name}/configuration", "lambda:UpdateFunctionConfiguration", 200, (*API).updateConfiguration},
	{"PUT /2015-03-31/functions/{name}/code", "lambda:UpdateFunctionCode", 200, (*API).updateCode},
	{"GET /2015-03-31/functions/{name}/versions", "lambda:ListVersionsByFunction", 200, (*API).versions},
	{"POST /2015-03-31/functions/{name}/versions", "lambda:PublishVersion", 201, (*API).publish},
	{"PUT /2017-10-31/functions/{name}/concurrency", "lambda:PutFunctionConcurrency", 200, (*API).putConcurrency},
	{"GET /2019-09-30/functions/{name}/concurrency", "lambda:GetFunctionConcurrency", 200, (*API).getConcurrency},
}

// Roots are the paths the API is to be found below.
var Roots = []string{"/2015-03-31/functions", "/2015-03-31/functions/", "/2017-10-31/functions/", "/2019-09-30/functions/"}

// maxBody bounds a request: a package in base64 and its configuration.
const maxBody = functions.MaxPackage/3*4 + 1<<20

// maxBodies bounds the bodies that are in memory at a time, in bytes: who sent one
// is not known for sure before all of it is there. More requests wait.
const maxBodies = 2 * maxBody

// New returns the API.
func New(o Options) *API {
	a := &API{o: o, mux: http.NewServeMux(), room: semaphore.NewWeighted(maxBodies)}
	for _, op := range operations {
		a.mux.HandleFunc(op.pattern, func(w http.ResponseWriter, r *http.Request) { a.serve(op, w, r) })
	}
	a.mux.HandleFunc("POST /2015-03-31/functions/{name}/invocations", a.invoke)
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.fail(w, r, "", errs.Errorf("lambdaapi", errs.NotImplemented, "Weir does not serve %s %s of AWS Lambda", r.Method, r.URL.Path))
	})
	return a
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// resource returns the ARN that permission is asked for.
func (a *API) resource(name string) string {
	if name == "" {
		return "*"
	}
	if f, err := a.o.Functions.Get(name, ""); err == nil {
		return a.o.Functions.ARN(f.Name, "")
	}
	if strings.HasPrefix(name, "arn:") {
		return name
	}
	return a.o.Functions.ARN(name, "")
}

// body reads a body of at most max bytes. done gives its room back.
func (a *API) body(w http.ResponseWriter, r *http.Request, max int64) (b []byte, done func(), err error) {
	n := r.ContentLength
	if n > max {
		return nil, nil, tooLarge(max)
	}
	if n < 0 {
		n = max
	}
	if err := a.room.Acquire(r.Context(), n); err != nil {
		return nil, nil, errs.E("lambdaapi", errs.Unavailable, err)
	}
	done = func() { a.room.Release(n) }
	b, err = io.ReadAll(http.MaxBytesReader(w, r.Body, max))
	if err != nil {
		done()
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, nil, tooLarge(max)
		}
		return nil, nil, errs.Errorf("lambdaapi", errs.Invalid, "the request broke off")
	}
	return b, done, nil
}

func tooLarge(max int64) error {
	return errs.Errorf("lambdaapi", errs.TooLarge, "Request must be smaller than %d bytes for the operation", max)
}

// permit reads the body of r once who sent it may send one, and judges the whole.
func (a *API) permit(w http.ResponseWriter, r *http.Request, max int64, action string) (body []byte, done func(), err error) {
	if err := a.o.Admit(r); err != nil {
		return nil, nil, err
	}
	if body, done, err = a.body(w, r, max); err != nil {
		return nil, nil, err
	}
	if err := a.o.Authorize(r, body, action, a.resource(r.PathValue("name"))); err != nil {
		done()
		return nil, nil, err
	}
	return body, done, nil
}

func (a *API) serve(op operation, w http.ResponseWriter, r *http.Request) {
	var out any
	body, done, err := a.permit(w, r, maxBody, op.action)
	if err == nil {
		out, err = op.serve(a, r, r.PathValue("name"), body)
		done()
	}
	if err != nil {
		a.fail(w, r, op.action, err)
		return
	}
	w.Header().Set("X-Amzn-Requestid", functions.NewID())
	if op.status == http.StatusNoContent {
		w.WriteHeader(op.status)
		return
	}
	answer(w, op.status, out)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// kinds are the API's names of errors with their status.
var kinds = map[errs.Kind]struct {
	name   string
	status int
}{
	errs.Invalid: {"InvalidParameterValueException", 400}, errs.NotFound: {"ResourceNotFoundException", 404}, errs.Exists: {"ResourceConflictException", 409},
	errs.Conflict: {"PreconditionFailedException", 412}, errs.Unauthorized: {"UnrecognizedClientException", 403}, errs.Forbidden: {"AccessDeniedException", 403},
	errs.TooLarge: {"RequestTooLargeException", 413}, errs.Quota: {"TooManyRequestsException", 429}, errs.Unavailable: {"ServiceException", 500},
	errs.Timeout: {"ServiceException", 500}, errs.NotImplemented: {"InvalidParameterValueException", 400}, errs.Internal: {"ServiceException", 500},
}

func (a *API) fail(w http.ResponseWriter, r *http.Request, action string, err error) {
	kind := errs.KindOf(err)
	k, text := kinds[kind], errs.Text(err)
	if kind == errs.Internal {
		a.o.Logger.Error("Lambda API", "action", action, "err", err)
		text = "the request failed; Weir's log says why"
	}
	h := w.Header()
	h.Set("X-Amzn-Errortype", k.name)
	h.Set("X-Amzn-Requestid", functions.NewID())
	who := "User"
	if k.status >= 500 {
		who = "Server"
	}
	out := map[string]string{"Type": who, "Message": text, "message": text}
	if kind == errs.Quota {
		h.Set("Retry-After", "1")
		out["Reason"] = "ReservedFunctionConcurrentInvocationLimitExceeded"
	}
	answer(w, k.status, out)
}

// invoke is the operation Invoke.
func (a *API) invoke(w http.ResponseWriter, r *http.Request) {
	const action = "lambda:InvokeFunction"
	name := r.PathValue("name")
	body, done, err := a.permit(w, r, functions.MaxPayload+1<<10, action)
	if err == nil {
		done() // from here on the function's concurrency bounds it
	}
	kind, tail := r.Header.Get("X-Amz-Invocation-Type"), r.Header.Get("X-Amz-Log-Type")
	var client []byte
	if err == nil {
		switch {
		case len(body) > 0 && !json.Valid(body):
			err = &named{"InvalidRequestContentException", "Could not parse request body into json: it is no JSON"}
		case kind != "" && kind != "RequestResponse" && kind != "Event" && kind != "DryRun":
			err = errs.Errorf(action, errs.Invalid, "invocation type %.60q: expected RequestResponse, Event or DryRun", kind)
		case tail != "" && tail != "None" && tail != "Tail":
			err = errs.Errorf(action, errs.Invalid, "log type %.60q: expected None or Tail", tail)
		}
	}
	if c := r.Header.Get("X-Amz-Client-Context"); c != "" && err == nil {
		if client, err = base64.StdEncoding.DecodeString(c); err != nil || !json.Valid(client) || len(c) > 3583 {
			err = errs.Errorf(action, errs.Invalid, "the client context is no JSON object in base64 of at most 3583 bytes")
		}
	}
	if err != nil {
		a.failed(w, r, action, err)
		return
	}
	if len(body) == 0 {
		body = []byte("{}")
	}
	q := &functions.Request{Function: name, Qualifier: r.URL.Query().Get("Qualifier"), Payload: body, ClientContext: string(bytes.TrimSpace(client)),
		Trace: r.Header.Get("X-Amzn-Trace-Id"), Tail: tail == "Tail"}
	h := w.Header()
	switch kind {
	case "DryRun":
		f, err := a.o.Functions.Get(name, q.Qualifier)
		if err != nil {
			a.failed(w, r, action, err)
			return
		}
		h.Set("X-Amz-Executed-Version", f.Version)
		w.WriteHeader(http.StatusNoContent)
		return
	case "Event":
		id, err := a.o.Functions.Enqueue(r.Context(), q)
		if err != nil {
			a.failed(w, r, action, err)
			return
		}
		h.Set("X-Amzn-Requestid", id)
		w.WriteHeader(http.StatusAccepted)
		return
	}
	resp, err := a.o.Functions.Call(r.Context(), q)
	if err != nil {
		a.failed(w, r, action, err)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("X-Amzn-Requestid", resp.ID)
	h.Set("X-Amz-Executed-Version", resp.Version)
	if resp.Error != "" {
		h.Set("X-Amz-Function-Error", resp.Error)
	}
	if resp.Log != nil {
		h.Set("X-Amz-Log-Result", base64.StdEncoding.EncodeToString(resp.Log))
	}
	h.Set("Content-Length", strconv.Itoa(len(resp.Payload)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(resp.Payload)
}

// named is an error with a name of its own.
type named struct{ name, text string }

func (e *named) Error() string { return e.text }

func (a *API) failed(w http.ResponseWriter, r *http.Request, action string, err error) {
	var n *named
	if errors.As(err, &n) {
		w.Header().Set("X-Amzn-Errortype", n.name)
		answer(w, http.StatusBadRequest, map[string]string{"Type": "User", "Message": n.text, "message": n.text})
		return
	}
	a.fail(w, r, action, err)
}

// environment is the shape Environment. Values of secrets are not in it.
type environment struct {
	Variables map[string]string `json:"Variables"`
}

// configuration is the shape FunctionConfiguration.
type configuration struct {
	FunctionName     string            `json:"FunctionName"`
	FunctionArn      string            `json:"FunctionArn"`
	Runtime          string            `json:"Runtime"`
	Role             string            `json:"Role"`
	Handler          string            `json:"Handler,omitempty"`
	CodeSize         int64             `json:"CodeSize"`
	Description      string            `json:"Description"`
	Timeout          int               `json:"Timeout"`
	MemorySize       int               `json:"MemorySize"`
	LastModified     string            `json:"LastModified"`
	CodeSha256       string            `json:"CodeSha256,omitempty"`
	Version          string            `json:"Version"`
	Environment      *environment      `json:"Environment,omitempty"`
	TracingConfig    map[string]string `json:"TracingConfig"`
	RevisionID       string            `json:"RevisionId"`
	State            string            `json:"State"`
	LastUpdateStatus string            `json:"LastUpdateStatus"`
	PackageType      string            `json:"PackageType"`
	Architectures    []string          `json:"Architectures"`
	EphemeralStorage map[string]int    `json:"EphemeralStorage"`
}

func shape(f *functions.Function) *configuration {
	c := f.Config
	out := &configuration{
		FunctionName: f.Name, FunctionArn: f.ARN, Runtime: c.Runtime, Role: c.Role, Handler: c.Handler, CodeSize: c.CodeSize, Description: c.Description,
		Timeout: c.Timeout, MemorySize: c.Memory, LastModified: f.Modified.Format("2006-01-02T15:04:05.000-0700"), Version: f.Version,
		TracingConfig: map[string]string{"Mode": "PassThrough"}, RevisionID: f.Revision, State: "Active", LastUpdateStatus: "Successful",
		PackageType: "Zip", Architectures: []string{architecture}, EphemeralStorage: map[string]int{"Size": c.Temp},
	}
	if sum, err := hex.DecodeString(c.Code); err == nil && c.Code != "" {
		out.CodeSha256 = base64.StdEncoding.EncodeToString(sum)
	}
	if len(c.Env) > 0 {
		out.Environment = &environment{c.Env}
	}
	return out
}

// code is the shape FunctionCode.
type code struct {
	ZipFile         []byte
	S3Bucket, S3Key string
	S3ObjectVersion string
	ImageURI        string `json:"ImageUri"`
	SourceKMSKeyArn string
}

func (c *code) check() error {
	if c.S3Bucket != "" || c.ImageURI != "" || c.SourceKMSKeyArn != "" {
		return errs.Errorf("lambdaapi", errs.Invalid, "code comes as ZipFile only: Weir reads no packages from S3 and no container images")
	}
	if len(c.ZipFile) == 0 {
		return errs.Errorf("lambdaapi", errs.Invalid, "ZipFile is missing")
	}
	return nil
}

// settings are the members CreateFunction and UpdateFunctionConfiguration share.
type settings struct {
	Runtime, Role, Handler, Description *string
	Timeout, MemorySize                 *int
	Environment                         *struct{ Variables map[string]string }
	EphemeralStorage                    *struct{ Size int }
	Architectures                       []string
	Layers                              []string
	PackageType                         string
	RevisionId                          string
	VpcConfig                           *struct{ SubnetIds, SecurityGroupIds []string }
	FileSystemConfigs, DurableConfig    json.RawMessage
	ImageConfig, SnapStart              json.RawMessage
	CapacityProviderConfig              json.RawMessage
}

// apply puts what was given into c, and refuses what Weir does not do.
func (s *settings) apply(c *functions.Config) error {
	refuse := func(what string) error {
		return errs.Errorf("lambdaapi", errs.Invalid, "Weir does not serve %s of AWS Lambda", what)
	}
	given := func(raw json.RawMessage) bool {
		return len(raw) > 0 && string(raw) != "null" && string(raw) != "[]" && string(raw) != "{}"
	}
	switch {
	case len(s.Layers) > 0:
		return refuse("Layers")
	case s.PackageType != "" && s.PackageType != "Zip":
		return refuse("PackageType " + s.PackageType)
	case s.VpcConfig != nil && len(s.VpcConfig.SubnetIds)+len(s.VpcConfig.SecurityGroupIds) > 0:
		return refuse("VpcConfig")
	case given(s.FileSystemConfigs):
		return refuse("FileSystemConfigs")
	case given(s.ImageConfig):
		return refuse("ImageConfig")
	case given(s.DurableConfig):
		return refuse("DurableConfig")
	case given(s.CapacityProviderConfig):
		return refuse("CapacityProviderConfig")
	case len(s.Architectures) > 0 && s.Architectures[0] != architecture:
		return errs.Errorf("lambdaapi", errs.Invalid, "this machine is %s and cannot run code for %.60q", architecture, s.Architectures[0])
	}
	for _, f := range []struct{ from, to *string }{{s.Runtime, &c.Runtime}, {s.Role, &c.Role}, {s.Handler, &c.Handler}, {s.Description, &c.Description}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	if s.Timeout != nil {
		c.Timeout = *s.Timeout
	}
	if s.MemorySize != nil {
		c.Memory = *s.MemorySize
	}
	if s.EphemeralStorage != nil {
		c.Temp = s.EphemeralStorage.Size
	}
	if s.Environment != nil {
		c.Env = s.Environment.Variables
	}
	return nil
}

func decode(body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return errs.Errorf("lambdaapi", errs.Invalid, "Could not parse request body into json: %v", err)
	}
	return nil
}

func (a *API) create(r *http.Request, _ string, body []byte) (any, error) {
	var q struct {
		settings
		FunctionName string
		Code         code
		Publish      bool
	}
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	if err := q.Code.check(); err != nil {
		return nil, err
	}
	name := q.FunctionName
	if i := strings.LastIndex(name, ":"); i >= 0 {
		name = name[i+1:]
	}
	var c functions.Config
	if err := q.apply(&c); err != nil {
		return nil, err
	}
	d, err := a.o.Functions.Deploy(r.Context(), functions.Deployment{Name: name, Config: c, Package: q.Code.ZipFile, Create: true, Publish: q.Publish})
	if err != nil {
		return nil, err
	}
	return a.published(d.Function, q.Publish)
}

// published returns the numbered version where one was asked for.
func (a *API) published(f *functions.Function, publish bool) (any, error) {
	if publish && len(f.Versions) > 0 {
		var err error
		if f, err = a.o.Functions.Get(f.Name, strconv.Itoa(f.Versions[len(f.Versions)-1])); err != nil {
			return nil, err
		}
	}
	return shape(f), nil
}

func (a *API) list(r *http.Request, _ string, _ []byte) (any, error) {
	q := r.URL.Query()
	size := 50
	if v := q.Get("MaxItems"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 10000 {
			return nil, errs.Errorf("lambdaapi", errs.Invalid, "MaxItems: expected a number from 1 to 10000")
		}
		size = min(n, size)
	}
	out := struct {
		Functions  []*configuration
		NextMarker string `json:",omitempty"`
	}{Functions: []*configuration{}}
	after := q.Get("Marker")
	for _, f := range a.o.Functions.List() {
		if f.Name <= after {
			continue
		}
		if len(out.Functions) == size {
			out.NextMarker = out.Functions[size-1].FunctionName
			break
		}
		out.Functions = append(out.Functions, shape(f))
	}
	return out, nil
}

func (a *API) get(r *http.Request, name string, _ []byte) (any, error) {
	f, err := a.o.Functions.Get(name, r.URL.Query().Get("Qualifier"))
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"Configuration": shape(f), "Tags": map[string]string{},
		// Weir hands out no signed addresses of packages.
		"Code":        map[string]string{"RepositoryType": "Weir"},
		"Concurrency": map[string]int{"ReservedConcurrentExecutions": f.Config.Concurrency},
	}, nil
}

func (a *API) getConfiguration(r *http.Request, name string, _ []byte) (any, error) {
	f, err := a.o.Functions.Get(name, r.URL.Query().Get("Qualifier"))
	if err != nil {
		return nil, err
	}
	return shape(f), nil
}

func (a *API) remove(r *http.Request, name string, _ []byte) (any, error) {
	return nil, a.o.Functions.Delete(r.Context(), name, r.URL.Query().Get("Qualifier"))
}

func (a *API) updateConfiguration(r *http.Request, name string, body []byte) (any, error) {
	var q settings
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	f, err := a.o.Functions.Get(name, "")
	if err != nil {
		return nil, err
	}
	c := f.Config
	if err := q.apply(&c); err != nil {
		return nil, err
	}
	d, err := a.o.Functions.Deploy(r.Context(), functions.Deployment{Name: f.Name, Config: c, Update: true, Expect: q.RevisionId})
	if err != nil {
		return nil, err
	}
	return shape(d.Function), nil
}

func (a *API) updateCode(r *http.Request, name string, body []byte) (any, error) {
	var q struct {
		code
		Publish, DryRun bool
		RevisionId      string
		Architectures   []string
	}
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	f, err := a.o.Functions.Get(name, "")
	if err != nil {
		return nil, err
	}
	c := f.Config
	if err := (&settings{Architectures: q.Architectures}).apply(&c); err != nil {
		return nil, err
	}
	if q.DryRun {
		return shape(f), nil
	}
	d, err := a.o.Functions.Deploy(r.Context(), functions.Deployment{Name: f.Name, Config: c, Package: q.ZipFile, Update: true, Publish: q.Publish, Expect: q.RevisionId})
	if err != nil {
		return nil, err
	}
	return a.published(d.Function, q.Publish)
}

func (a *API) versions(_ *http.Request, name string, _ []byte) (any, error) {
	f, err := a.o.Functions.Get(name, "")
	if err != nil {
		return nil, err
	}
	out := []*configuration{shape(f)}
	for _, n := range f.Versions {
		if v, err := a.o.Functions.Get(f.Name, strconv.Itoa(n)); err == nil {
			out = append(out, shape(v))
		}
	}
	return map[string]any{"Versions": out}, nil
}

func (a *API) publish(r *http.Request, name string, body []byte) (any, error) {
	var q struct{ Description string }
	if len(body) > 0 {
		if err := decode(body, &q); err != nil {
			return nil, err
		}
	}
	f, err := a.o.Functions.Publish(r.Context(), name, q.Description)
	if err != nil {
		return nil, err
	}
	return shape(f), nil
}

func (a *API) putConcurrency(r *http.Request, name string, body []byte) (any, error) {
	var q struct{ ReservedConcurrentExecutions int }
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	f, err := a.o.Functions.Get(name, "")
	if err != nil {
		return nil, err
	}
	if q.ReservedConcurrentExecutions < 1 {
		return nil, errs.Errorf("lambdaapi", errs.Invalid, "ReservedConcurrentExecutions: at least 1; delete a function that is not to run")
	}
	c := f.Config
	c.Concurrency = q.ReservedConcurrentExecutions
	if _, err := a.o.Functions.Deploy(r.Context(), functions.Deployment{Name: f.Name, Config: c, Update: true}); err != nil {
		return nil, err
	}
	return map[string]int{"ReservedConcurrentExecutions": c.Concurrency}, nil
}

func (a *API) getConcurrency(_ *http.Request, name string, _ []byte) (any, error) {
	f, err := a.o.Functions.Get(name, "")
	if err != nil {
		return nil, err
	}
	return map[string]int{"ReservedConcurrentExecutions": f.Config.Concurrency}, nil
}

// Owner is what weir function asks, below /weir/v1/functions; whoever serves it
// has checked who asks.
func (a *API) Owner() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(w http.ResponseWriter, r *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := f(w, r); err != nil {
				ownerFailed(w, err)
			}
		})
	}
	handle("GET /weir/v1/functions", func(w http.ResponseWriter, r *http.Request) error {
		answer(w, http.StatusOK, map[string]any{"functions": a.o.Functions.List()})
		return nil
	})
	handle("GET /weir/v1/functions/{name}", func(w http.ResponseWriter, r *http.Request) error {
		f, err := a.o.Functions.Get(r.PathValue("name"), r.URL.Query().Get("version"))
		if err != nil {
			return err
		}
		lost, err := a.o.Functions.Lost(f.Name)
		if err != nil {
			return err
		}
		answer(w, http.StatusOK, &Shown{f, lost})
		return nil
	})
	handle("PUT /weir/v1/functions/{name}", func(w http.ResponseWriter, r *http.Request) error {
		body, done, err := a.body(w, r, maxBody)
		if err != nil {
			return err
		}
		defer done()
		var q Deploy
		in := json.NewDecoder(bytes.NewReader(body))
		in.DisallowUnknownFields()
		if err := in.Decode(&q); err != nil {
			return errs.Errorf("lambdaapi", errs.Invalid, "the request is not as expected: %v", err)
		}
		d, err := a.o.Functions.Deploy(r.Context(), functions.Deployment{Name: r.PathValue("name"), Config: q.Config, Package: q.Package, Publish: true})
		if err != nil {
			return err
		}
		answer(w, http.StatusOK, d)
		return nil
	})
	handle("DELETE /weir/v1/functions/{name}", func(w http.ResponseWriter, r *http.Request) error {
		if err := a.o.Functions.Delete(r.Context(), r.PathValue("name"), r.URL.Query().Get("version")); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	handle("POST /weir/v1/functions/{name}/invoke", func(w http.ResponseWriter, r *http.Request) error {
		body, done, err := a.body(w, r, functions.MaxPayload)
		if err != nil {
			return err
		}
		defer done()
		if !json.Valid(body) {
			return errs.Errorf("lambdaapi", errs.Invalid, "the event is no JSON")
		}
		q := &functions.Request{Function: r.PathValue("name"), Payload: body, Tail: true, Wait: true}
		if r.URL.Query().Get("async") == "true" {
			id, err := a.o.Functions.Enqueue(r.Context(), q)
			if err != nil {
				return err
			}
			answer(w, http.StatusAccepted, &Invoked{ID: id})
			return nil
		}
		resp, err := a.o.Functions.Call(r.Context(), q)
		if err != nil {
			return err
		}
		answer(w, http.StatusOK, &Invoked{ID: resp.ID, Version: resp.Version, Error: resp.Error, Payload: resp.Payload, Log: string(resp.Log), Duration: resp.Duration})
		return nil
	})
	handle("GET /weir/v1/functions/{name}/logs", func(w http.ResponseWriter, r *http.Request) error {
		q := r.URL.Query()
		last := -1
		if v := q.Get("last"); v != "" {
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 {
				return errs.Errorf("lambdaapi", errs.Invalid, "last: expected a number, found %.60q", v)
			}
			last = n
		}
		if _, err := a.o.Functions.Get(r.PathValue("name"), ""); err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(http.StatusOK)
		out := http.NewResponseController(w)
		_ = out.Flush()
		e := json.NewEncoder(w)
		_ = a.o.Functions.Logs(r.Context(), r.PathValue("name"), last, q.Get("follow") == "true", func(l functions.LogLine) error {
			if err := e.Encode(l); err != nil {
				return err
			}
			return out.Flush()
		})
		return nil
	})
	handle("GET /weir/v1/function-isolation", func(w http.ResponseWriter, r *http.Request) error {
		answer(w, http.StatusOK, a.o.Functions.Isolation(r.Context()))
		return nil
	})
	return mux
}

// Deploy is the request of weir function deploy.
type Deploy struct {
	Config  functions.Config `json:"config"`
	Package []byte           `json:"package,omitempty"` // zip
}

// Shown is the answer of weir function show.
type Shown struct {
	*functions.Function
	Lost []*functions.Lost `json:"lost"`
}

// Invoked is the answer of weir function invoke.
type Invoked struct {
	ID       string        `json:"requestId"`
	Version  string        `json:"version,omitempty"`
	Error    string        `json:"functionError,omitempty"`
	Payload  []byte        `json:"payload,omitempty"` // base64: it need not be JSON
	Log      string        `json:"log,omitempty"`
	Duration time.Duration `json:"durationNs,omitempty"`
}

// Isolation is the answer of weir function isolation.
type Isolation = sandbox.Report

var ownerStatus = map[errs.Kind]int{
	errs.Invalid: 400, errs.NotFound: 404, errs.Exists: 409, errs.Conflict: 409, errs.Unauthorized: 401, errs.Forbidden: 403, errs.TooLarge: 413,
	errs.Quota: 429, errs.Unavailable: 503, errs.Timeout: 504, errs.NotImplemented: 501,
}

func ownerFailed(w http.ResponseWriter, err error) {
	status := ownerStatus[errs.KindOf(err)]
	if status == 0 {
		status = http.StatusInternalServerError
	}
	answer(w, status, map[string]any{"error": map[string]string{"kind": errs.KindOf(err).String(), "message": errs.Text(err)}})
}
