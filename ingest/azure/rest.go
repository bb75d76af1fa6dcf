package azure

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/weir-iot/weir/internal/errs"
)

// RESTOptions are what the REST API needs of its listener.
type RESTOptions struct {
	// SNI returns the name a client asked for; "" without TLS.
	SNI func(r *http.Request) string
	// Known tells the listener's guard how the log-in of a request went; nil:
	// nobody wants to know.
	Known func(r *http.Request, failed bool)
}

// Owns reports whether a path is of the REST API.
func Owns(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "devices", "twins", "statistics", "jobs", "configurations", "messages", "digitaltwins":
		return true
	}
	return false
}

// versions are the API versions whose requests have the shape of 2021-04-12.
var versions = []string{"2018-06-30", "2019-10-01", "2020-03-13", "2020-05-31-preview", "2020-09-30", "2021-04-12"}

// maxBody bounds a request: a bulk of 100 devices, or a message.
const maxBody = 1 << 20

// failure is an answer that is not a success, in Azure's words.
// Source: Azure IoT Hub REST, "Error codes".
type failure struct {
	status int
	code   int
	word   string
	text   string
}

func (f *failure) Error() string { return f.text }

func fail(status, code int, word, format string, args ...any) error {
	return &failure{status, code, word, fmt.Sprintf(format, args...)}
}

// asFailure words an error as Azure does.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	text := errs.Text(err)
	switch errs.KindOf(err) {
	case errs.Invalid:
		return &failure{400, 400004, "ArgumentInvalid", text}
	case errs.Unauthorized, errs.Forbidden:
		return &failure{401, 401002, "IotHubUnauthorizedAccess", "Unauthorized"}
	case errs.NotFound:
		return &failure{404, 404001, "DeviceNotFound", text}
	case errs.Exists:
		return &failure{409, 409001, "DeviceAlreadyExists", text}
	case errs.Conflict:
		return &failure{412, 412002, "PreconditionFailed", text}
	case errs.TooLarge:
		return &failure{413, 413001, "MessageTooLarge", text}
	case errs.Quota:
		return &failure{429, 429001, "ThrottlingException", text}
	case errs.Unavailable:
		return &failure{503, 503001, "ServiceUnavailable", text}
	case errs.Timeout:
		return &failure{504, 504101, "GatewayTimeout", text}
	case errs.NotImplemented:
		return &failure{501, 501000, "NotImplemented", text}
	}
	return &failure{500, 500001, "ServerError", "internal error"}
}

func statusOf(err error) int { return asFailure(err).status }

// REST returns the API of the service side.
func (h *Hub) REST(o RESTOptions) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &request{h: h, w: w, r: r}
		err := a.admit(o)
		if err == nil {
			err = h.loaded(r.Context())
		}
		if err == nil {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			err = a.operation.serve(a)
		}
		if err != nil {
			a.fail(err)
		}
	})
}

// request is one request under way.
type request struct {
	h      *Hub
	w      http.ResponseWriter
	r      *http.Request
	path   []string // unescaped segments
	policy *Policy

	operation      *operation
	device, module string // as the path has them
}

func (a *request) fail(err error) {
	f := asFailure(err)
	if f.status >= 500 {
		a.h.logger.Warn("a request failed", "method", a.r.Method, "path", trimmed(a.r.URL.Path), "error", err)
	}
	var id [16]byte
	rand.Read(id[:])
	a.w.Header().Set("iothub-errorcode", f.word)
	a.json(f.status, map[string]string{
		"Message":          "ErrorCode:" + f.word + ";" + f.text,
		"ExceptionMessage": "Tracking ID:" + hex.EncodeToString(id[:]) + "-TimeStamp:" + a.h.now().UTC().Format("01/02/2006 15:04:05"),
	})
}

func (a *request) json(status int, v any) {
	a.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	a.w.WriteHeader(status)
	a.w.Write(encodeJSON(v))
}

// admit says who asks, before anything of the body is read.
func (a *request) admit(o RESTOptions) error {
	err := a.authenticate(o)
	if o.Known != nil {
		o.Known(a.r, err != nil && statusOf(err) == http.StatusUnauthorized)
	}
	if err != nil {
		if f := asFailure(err); f.status == http.StatusUnauthorized {
			a.h.logger.Warn("a request of the Azure API was refused", "remote", a.r.RemoteAddr, "reason", errs.Text(err))
		}
		return err
	}
	if v := a.r.URL.Query().Get("api-version"); !slices.Contains(versions, v) {
		return fail(400, 400027, "InvalidProtocolVersion", "api-version %q: Weir speaks %s", trimmed(v), strings.Join(versions, ", "))
	}
	return nil
}

func (a *request) authenticate(o RESTOptions) error {
	const op = "azure.REST"
	for segment := range strings.SplitSeq(strings.Trim(a.r.URL.EscapedPath(), "/"), "/") {
		s, err := url.PathUnescape(segment)
		if err != nil {
			return errs.Errorf(op, errs.Invalid, "the path is not URL-encoded")
		}
		a.path = append(a.path, s)
	}
	sni := ""
	if o.SNI != nil {
		sni = o.SNI(a.r)
	}
	if !a.h.ours(a.r.Host, sni) {
		return errs.Errorf(op, errs.Unauthorized, "the request is for another hub")
	}
	token, err := ParseToken(a.r.Header.Get("Authorization"))
	if err != nil {
		return errs.E(op, errs.Unauthorized, err)
	}
	if token.Policy == "" {
		return errs.Errorf(op, errs.Unauthorized, "the token is not of a hub policy")
	}
	a.route()
	a.policy, err = a.h.policy(token, a.operation.right, a.r.Host, a.path...)
	return err
}

// operation is one of the API's.
type operation struct {
	method string
	path   string // "*" stands for one segment
	right  Right  // that a policy needs for it
	serve  func(a *request) error
}

// operations are all there are. Source: Azure IoT Hub REST, and "Control access to
// IoT Hub by using shared access signatures", permissions.
var operations = []operation{
	{"GET", "devices", RegistryRead, (*request).list},
	{"POST", "devices", RegistryWrite, (*request).bulk},
	{"POST", "devices/query", ServiceConnect, (*request).query},
	{"GET", "devices/*", RegistryRead, (*request).show},
	{"PUT", "devices/*", RegistryWrite, (*request).put},
	{"DELETE", "devices/*", RegistryWrite, (*request).delete},
	{"GET", "devices/*/modules", RegistryRead, (*request).modules},
	{"GET", "devices/*/modules/*", RegistryRead, (*request).show},
	{"PUT", "devices/*/modules/*", RegistryWrite, (*request).put},
	{"DELETE", "devices/*/modules/*", RegistryWrite, (*request).delete},
	{"POST", "devices/*/messages/devicebound", ServiceConnect, (*request).send},
	{"DELETE", "devices/*/commands", ServiceConnect, (*request).purge},
	{"GET", "messages/serviceBound/feedback", ServiceConnect, (*request).feedback},
	{"DELETE", "messages/serviceBound/feedback/*", ServiceConnect, (*request).complete},
	{"POST", "messages/serviceBound/feedback/*/abandon", ServiceConnect, (*request).abandon},
	{"GET", "statistics/devices", RegistryRead, (*request).statistics},
	{"GET", "statistics/service", RegistryRead, (*request).connected},
	{"GET", "twins/*", ServiceConnect, (*request).twin},
	{"PATCH", "twins/*", ServiceConnect, (*request).patchTwin},
	{"PUT", "twins/*", ServiceConnect, (*request).replaceTwin},
	{"POST", "twins/*/methods", ServiceConnect, (*request).method},
	{"GET", "twins/*/modules/*", ServiceConnect, (*request).twin},
	{"PATCH", "twins/*/modules/*", ServiceConnect, (*request).patchTwin},
	{"PUT", "twins/*/modules/*", ServiceConnect, (*request).replaceTwin},
	{"POST", "twins/*/modules/*/methods", ServiceConnect, (*request).method},
}

// matches reports whether a request is for the operation.
func (o *operation) matches(method string, path []string) bool {
	pattern := strings.Split(o.path, "/")
	if method != o.method || len(path) != len(pattern) {
		return false
	}
	for i, word := range pattern {
		if word != "*" && word != path[i] {
			return false
		}
	}
	return true
}

// unknown is the operation of a request that is for none. Only who has a policy
// is told so.
var unknown = operation{serve: func(a *request) error {
	return errs.Errorf("azure.REST", errs.NotImplemented, "Weir does not have %s %s of the IoT Hub API", a.r.Method, trimmed(a.r.URL.Path))
}}

// route finds the operation, and the device and module it is about.
func (a *request) route() {
	a.operation = &unknown
	for i := range operations {
		if operations[i].matches(a.r.Method, a.path) {
			a.operation = &operations[i]
			break
		}
	}
	if len(a.path) > 1 {
		a.device = a.path[1]
	}
	if len(a.path) > 3 && a.path[2] == "modules" {
		a.module = a.path[3]
	}
}

// decode reads the body as JSON.
func (a *request) decode(v any) error {
	b, err := io.ReadAll(a.r.Body)
	if err != nil {
		var big *http.MaxBytesError
		if errors.As(err, &big) {
			return errs.Errorf("azure.REST", errs.TooLarge, "the body is over %d bytes", maxBody)
		}
		return errs.E("azure.REST", errs.Invalid, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return errs.Errorf("azure.REST", errs.Invalid, "the body is not the JSON that is expected: %v", err)
	}
	return nil
}

// ifMatch returns the ETag the request wants to change; any is "*", none is no
// header.
func (a *request) ifMatch() (tag string, any, none bool) {
	v := strings.TrimSpace(a.r.Header.Get("If-Match"))
	v = strings.TrimPrefix(v, "W/")
	v = strings.Trim(v, `"`)
	return v, v == "*", v == ""
}
