package azure

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
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
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			err = a.serve()
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
	token  *Token
	host   string
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
	a.host = a.r.Host
	if !a.h.ours(a.host, sni) {
		return errs.Errorf(op, errs.Unauthorized, "the request is for another hub")
	}
	var err error
	if a.token, err = ParseToken(a.r.Header.Get("Authorization")); err != nil {
		return errs.E(op, errs.Unauthorized, err)
	}
	if a.token.Policy == "" {
		return errs.Errorf(op, errs.Unauthorized, "the token is not of a hub policy")
	}
	right := a.right()
	a.policy, err = a.h.policy(a.token, right, a.host, a.path...)
	return err
}

// right is what a request needs. Source: Azure IoT Hub, "Control access to IoT
// Hub by using shared access signatures", permissions.
func (a *request) right() Right {
	last := a.path[len(a.path)-1]
	switch {
	case a.path[0] == "twins", last == "query", last == "devicebound", a.path[0] == "messages":
		return ServiceConnect
	case a.r.Method == http.MethodGet:
		return RegistryRead
	}
	return RegistryWrite
}

func (a *request) serve() error {
	p, m := a.path, a.r.Method
	is := func(method string, n int, words ...string) bool {
		if m != method || len(p) != n {
			return false
		}
		for i, w := range words {
			if w != "" && p[i] != w {
				return false
			}
		}
		return true
	}
	switch {
	case is("GET", 1, "devices"):
		return a.list()
	case is("POST", 1, "devices"):
		return a.bulk()
	case is("POST", 2, "devices", "query"):
		return a.query()
	case is("GET", 2, "statistics", "devices"):
		return a.statistics()
	case is("GET", 2, "statistics", "service"):
		a.h.mu.Lock()
		n := len(a.h.links)
		a.h.mu.Unlock()
		a.json(200, map[string]int{"connectedDeviceCount": n})
		return nil
	case is("GET", 3, "devices", "", "modules"):
		return a.modules()
	case is("POST", 4, "devices", "", "messages", "devicebound"):
		return a.send()
	case is("POST", 3, "twins", "", "methods"):
		return a.method(p[1], "")
	case is("POST", 5, "twins", "", "modules", "", "methods"):
		return a.method(p[1], p[3])
	}
	device, module, ok := "", "", false
	switch {
	case len(p) == 2:
		device, ok = p[1], true
	case len(p) == 4 && p[2] == "modules":
		device, module, ok = p[1], p[3], true
	}
	switch {
	case !ok:
	case p[0] == "devices" && m == "GET":
		return a.show(device, module)
	case p[0] == "devices" && m == "PUT":
		return a.put(device, module)
	case p[0] == "devices" && m == "DELETE":
		return a.delete(device, module)
	case p[0] == "twins" && m == "GET":
		return a.twin(device, module)
	case p[0] == "twins" && (m == "PATCH" || m == "PUT"):
		return a.changeTwin(device, module, m == "PUT")
	}
	return errs.Errorf("azure.REST", errs.NotImplemented, "Weir does not have %s %s of the IoT Hub API", m, trimmed(a.r.URL.Path))
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

// identityDocument is an identity as the API shows and takes it.
type identityDocument struct {
	DeviceID               string           `json:"deviceId"`
	ModuleID               string           `json:"moduleId,omitempty"`
	Generation             string           `json:"generationId,omitempty"`
	ETag                   string           `json:"etag,omitempty"`
	ConnectionState        string           `json:"connectionState,omitempty"`
	Status                 string           `json:"status,omitempty"`
	StatusReason           *string          `json:"statusReason"`
	ConnectionStateUpdated string           `json:"connectionStateUpdatedTime,omitempty"`
	StatusUpdated          string           `json:"statusUpdatedTime,omitempty"`
	LastActivity           string           `json:"lastActivityTime,omitempty"`
	Authentication         *authentication  `json:"authentication,omitempty"`
	Capabilities           *capabilities    `json:"capabilities,omitempty"`
	ManagedBy              string           `json:"managedBy,omitempty"`
	ParentScopes           *json.RawMessage `json:"parentScopes,omitempty"`
}

type capabilities struct {
	Edge bool `json:"iotEdge"`
}

type authentication struct {
	Type string        `json:"type,omitempty"`
	Keys *symmetricKey `json:"symmetricKey,omitempty"`
	X509 *thumbprints  `json:"x509Thumbprint,omitempty"`
}

type symmetricKey struct {
	Primary   *string `json:"primaryKey"`
	Secondary *string `json:"secondaryKey"`
}

type thumbprints struct {
	Primary   *string `json:"primaryThumbprint"`
	Secondary *string `json:"secondaryThumbprint"`
}

func pointer(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func text(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

func (h *Hub) document(i *Identity) *identityDocument {
	connected, at := h.lastSeen(i.name())
	d := &identityDocument{
		DeviceID: i.Device, ModuleID: i.Module, Generation: i.Generation, ETag: i.ETag, ConnectionState: connectionWord(connected),
		ConnectionStateUpdated: stamp(at), StatusUpdated: stamp(i.StatusUpdated), LastActivity: stamp(at),
		Authentication: &authentication{
			Type: i.Type, Keys: &symmetricKey{pointer(i.PrimaryKey), pointer(i.SecondaryKey)},
			X509: &thumbprints{pointer(i.PrimaryThumb), pointer(i.SecondaryThumb)},
		},
	}
	if i.Module == "" {
		d.Status, d.StatusReason, d.Capabilities = statusWord(i.Enabled), pointer(i.StatusReason), &capabilities{}
	}
	return d
}

// need returns an identity that must be there.
func (h *Hub) need(device, module string) (*Identity, error) {
	if i := h.ids.get(device, module); i != nil {
		return i, nil
	}
	if module != "" && h.ids.get(device, "") != nil {
		return nil, fail(404, 404010, "ModuleNotFound", "there is no module %q of the device", trimmed(module))
	}
	return nil, errNoDevice(device)
}

func (a *request) show(device, module string) error {
	i, err := a.h.need(device, module)
	if err != nil {
		return err
	}
	a.w.Header().Set("ETag", `"`+i.ETag+`"`)
	a.json(200, a.h.document(i))
	return nil
}

const maxTop = 1000

func (a *request) list() error {
	top := maxTop
	if v := a.r.URL.Query().Get("top"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxTop {
			return errs.Errorf("azure.REST", errs.Invalid, "top is 1 to %d", maxTop)
		}
		top = n
	}
	out := []*identityDocument{}
	for _, i := range a.h.ids.list("") {
		if len(out) == top {
			break
		}
		out = append(out, a.h.document(i))
	}
	a.json(200, out)
	return nil
}

func (a *request) modules() error {
	if _, err := a.h.need(a.path[1], ""); err != nil {
		return err
	}
	out := []*identityDocument{}
	for _, i := range a.h.ids.list(a.path[1]) {
		out = append(out, a.h.document(i))
	}
	a.json(200, out)
	return nil
}

// merge makes the next version of old, which is nil for a new one.
func (h *Hub) merge(device, module string, d *identityDocument, old *Identity) (*Identity, error) {
	const op = "azure.REST"
	if d.DeviceID != "" && d.DeviceID != device || d.ModuleID != "" && d.ModuleID != module {
		return nil, errs.Errorf(op, errs.Invalid, "the ids in the body and in the path differ")
	}
	if d.Capabilities != nil && d.Capabilities.Edge {
		return nil, errs.Errorf(op, errs.NotImplemented, "IoT Edge devices are not supported")
	}
	now := h.now().UTC()
	i := &Identity{Device: device, Module: module, Enabled: true, Created: now, Generation: newGeneration(), StatusUpdated: now}
	if old != nil {
		*i = *old
	}
	i.ETag = newETag()
	switch d.Status {
	case "":
	case "enabled", "disabled":
		if enabled := d.Status == "enabled"; enabled != i.Enabled {
			i.Enabled, i.StatusUpdated = enabled, now
		}
	default:
		return nil, errs.Errorf(op, errs.Invalid, "status %q: expected enabled or disabled", trimmed(d.Status))
	}
	if d.StatusReason != nil {
		i.StatusReason = *d.StatusReason
	}
	if auth := d.Authentication; auth != nil {
		if auth.Type == "none" {
			return nil, errs.Errorf(op, errs.NotImplemented, "authentication type none is of IoT Edge modules, which are not supported")
		}
		if auth.Type != "" {
			i.Type = auth.Type
		}
		if auth.Keys != nil && (text(auth.Keys.Primary) != "" || text(auth.Keys.Secondary) != "") {
			i.PrimaryKey, i.SecondaryKey, i.unreadable = text(auth.Keys.Primary), text(auth.Keys.Secondary), false
		}
		if auth.X509 != nil {
			i.PrimaryThumb, i.SecondaryThumb = text(auth.X509.Primary), text(auth.X509.Secondary)
			if auth.Type == "" && (i.PrimaryThumb != "" || i.SecondaryThumb != "") {
				i.Type = authSelfSigned
			}
		}
	}
	return i, i.complete(h.o.Issued != nil)
}

// store makes d the next version of an identity. must and mustNot say that it
// has to be there, or must not be; tag is the version to be changed, "" any.
func (h *Hub) store(ctx context.Context, device, module string, d *identityDocument, must, mustNot bool, tag string) (*Identity, bool, error) {
	old := h.ids.get(device, module)
	switch {
	case old == nil && must:
		_, err := h.need(device, module)
		return nil, false, err
	case old != nil && mustNot:
		if module != "" {
			return nil, false, fail(409, 409301, "ModuleAlreadyExistsOnDevice", "the module exists already")
		}
		return nil, false, fail(409, 409001, "DeviceAlreadyExists", "a device with this id exists already")
	case old != nil && tag != "" && tag != old.ETag:
		return nil, false, errPrecondition
	case module != "" && h.ids.get(device, "") == nil:
		return nil, false, errNoDevice(device)
	}
	i, err := h.merge(device, module, d, old)
	if err != nil {
		return nil, false, err
	}
	err = h.ids.put(ctx, i, old)
	if errs.Is(err, errs.Conflict) && old == nil {
		return nil, false, fail(409, 409001, "DeviceAlreadyExists", "it was made meanwhile")
	}
	return i, old == nil, err
}

var errPrecondition = fail(412, 412002, "PreconditionFailed", "the ETag is not that of the current version")

func (a *request) put(device, module string) error {
	var d identityDocument
	if err := a.decode(&d); err != nil {
		return err
	}
	tag, any, none := a.ifMatch()
	if any {
		tag = ""
	}
	i, made, err := a.h.store(a.r.Context(), device, module, &d, !none, none, tag)
	if err != nil {
		return err
	}
	status := 200
	if made && module != "" {
		status = 201
	}
	a.w.Header().Set("ETag", `"`+i.ETag+`"`)
	a.json(status, a.h.document(i))
	return nil
}

func (a *request) delete(device, module string) error {
	tag, any, _ := a.ifMatch()
	if any {
		tag = ""
	}
	if err := a.h.remove(a.r.Context(), device, module, tag); err != nil {
		return err
	}
	a.w.WriteHeader(http.StatusNoContent)
	return nil
}

// remove deletes an identity, its modules and their twins. tag is the version
// that is to be deleted; "" any.
func (h *Hub) remove(ctx context.Context, device, module, tag string) error {
	old, err := h.need(device, module)
	if err != nil {
		return err
	}
	if tag != "" && tag != old.ETag {
		return errPrecondition
	}
	gone := []*Identity{old}
	if module == "" {
		gone = append(gone, h.ids.list(device)...)
	}
	if err := h.ids.remove(ctx, old); err != nil {
		return err
	}
	// Another device of this name must not find the twin of this one.
	for _, i := range gone {
		if err := h.o.Twins.Delete(ctx, i.Device, i.Module); err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
	}
	return nil
}

// maxBulk bounds the devices of one bulk request. Source: Azure IoT Hub quotas.
const maxBulk = 100

func (a *request) bulk() error {
	var list []struct {
		identityDocument
		ID   string `json:"id"`
		Tag  string `json:"eTag"`
		Mode string `json:"importMode"`
	}
	if err := a.decode(&list); err != nil {
		return err
	}
	if len(list) == 0 || len(list) > maxBulk {
		return errs.Errorf("azure.REST", errs.Invalid, "1 to %d devices at a time", maxBulk)
	}
	failures := []map[string]any{}
	for i := range list {
		d, ctx := &list[i], a.r.Context()
		if d.ID == "" {
			d.ID = d.DeviceID
		}
		tag := ""
		if strings.HasSuffix(d.Mode, "IfMatchETag") {
			if tag = strings.Trim(d.Tag, `"`); tag == "" {
				tag = " " // matches none
			}
		}
		var err error
		switch strings.TrimSuffix(d.Mode, "IfMatchETag") {
		case "create", "":
			_, _, err = a.h.store(ctx, d.ID, d.ModuleID, &d.identityDocument, false, true, "")
		case "createOrUpdate":
			_, _, err = a.h.store(ctx, d.ID, d.ModuleID, &d.identityDocument, false, false, tag)
		case "update":
			_, _, err = a.h.store(ctx, d.ID, d.ModuleID, &d.identityDocument, true, false, tag)
		case "delete":
			err = a.h.remove(ctx, d.ID, d.ModuleID, tag)
		default:
			err = errs.Errorf("azure.REST", errs.NotImplemented, "importMode %q is not supported", trimmed(d.Mode))
		}
		if err != nil {
			f := asFailure(err)
			failures = append(failures, map[string]any{"deviceId": d.ID, "errorCode": f.code, "errorStatus": f.text})
		}
	}
	status := 200
	if len(failures) > 0 {
		status = 400
	}
	a.json(status, map[string]any{"isSuccessful": len(failures) == 0, "errors": failures, "warnings": []any{}})
	return nil
}

func (a *request) statistics() error {
	enabled, all := 0, a.h.ids.list("")
	for _, i := range all {
		if i.Enabled {
			enabled++
		}
	}
	a.json(200, map[string]int{"totalDeviceCount": len(all), "enabledDeviceCount": enabled, "disabledDeviceCount": len(all) - enabled})
	return nil
}

func (a *request) twin(device, module string) error {
	i, err := a.h.need(device, module)
	if err != nil {
		return err
	}
	t, err := a.h.read(a.r.Context(), device, module)
	if err != nil {
		return err
	}
	a.w.Header().Set("ETag", `"`+t.etag()+`"`)
	a.json(200, a.h.twinDocument(i, t))
	return nil
}

func (a *request) changeTwin(device, module string, replace bool) error {
	i, err := a.h.need(device, module)
	if err != nil {
		return err
	}
	var body struct {
		Tags       json.RawMessage `json:"tags"`
		Properties struct {
			Desired  json.RawMessage `json:"desired"`
			Reported json.RawMessage `json:"reported"`
		} `json:"properties"`
	}
	if err := a.decode(&body); err != nil {
		return err
	}
	if !replace && body.Properties.Reported != nil {
		return errs.Errorf("azure.REST", errs.Invalid, "reported properties are the device's to change")
	}
	c := TwinChange{Replace: replace}
	for _, s := range []struct {
		from json.RawMessage
		to   *json.RawMessage
	}{{body.Tags, &c.Tags}, {body.Properties.Desired, &c.Desired}} {
		if s.from == nil {
			continue
		}
		patch, err := section(s.from)
		if err != nil {
			return err
		}
		if patch == nil {
			patch = json.RawMessage("null")
		}
		*s.to = patch
	}
	if module != "" && c.Tags != nil {
		return errs.Errorf("azure.REST", errs.Invalid, "modules have no tags")
	}
	ctx := a.r.Context()
	if tag, any, none := a.ifMatch(); !any && !none {
		t, err := a.h.read(ctx, device, module)
		if err != nil {
			return err
		}
		if t.etag() != tag {
			return errPrecondition
		}
		c.Version = &t.Version
	}
	t := &Twin{}
	if c.Tags == nil && c.Desired == nil {
		t, err = a.h.read(ctx, device, module)
	} else {
		t, err = a.h.o.Twins.Change(ctx, device, module, c, "azure policy "+a.policy.Name)
	}
	if err != nil {
		return err
	}
	a.w.Header().Set("ETag", `"`+t.etag()+`"`)
	a.json(200, a.h.twinDocument(i, t))
	return nil
}

func (a *request) method(device, module string) error {
	if _, err := a.h.need(device, module); err != nil {
		return err
	}
	var body struct {
		Name     string          `json:"methodName"`
		Payload  json.RawMessage `json:"payload"`
		Response *int            `json:"responseTimeoutInSeconds"`
		Connect  *int            `json:"connectTimeoutInSeconds"`
	}
	if err := a.decode(&body); err != nil {
		return err
	}
	response, connect := defaultResponse, time.Duration(0)
	if body.Response != nil {
		response = seconds(*body.Response)
	}
	if body.Connect != nil {
		connect = seconds(*body.Connect)
	}
	// The listener bounds how long a request may take, and this one takes its time.
	until := time.Now().Add(max(connect, 0) + max(response, 0) + 30*time.Second)
	c := http.NewResponseController(a.w)
	if err := errors.Join(c.SetReadDeadline(until), c.SetWriteDeadline(until)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return errs.E("azure.REST", errs.Unavailable, err)
	}
	status, answer, err := a.h.Method(a.r.Context(), device, module, body.Name, body.Payload, connect, response)
	if errors.Is(err, errOffline) {
		return fail(404, 404103, "DeviceNotOnline", "%s", errs.Text(err))
	}
	if err != nil {
		return err
	}
	a.json(200, map[string]any{"status": status, "payload": json.RawMessage(answer)})
	return nil
}

// seconds is n seconds; what is out of all bounds stays so.
func seconds(n int) time.Duration { return time.Duration(min(max(n, -1), 1_000_000)) * time.Second }

func (a *request) send() error {
	body, err := io.ReadAll(a.r.Body)
	if err != nil {
		return errs.Errorf("azure.REST", errs.TooLarge, "the body is over %d bytes", maxBody)
	}
	hd := a.r.Header
	m := &C2D{
		ID: hd.Get("iothub-messageid"), CorrelationID: hd.Get("iothub-correlationid"), UserID: hd.Get("iothub-userid"),
		Ack: hd.Get("iothub-ack"), ContentType: hd.Get("iothub-contenttype"), Encoding: hd.Get("iothub-contentencoding"), Payload: body,
	}
	if m.ContentType == "" {
		m.ContentType = hd.Get("iothub-app-$.ct")
	}
	if v := hd.Get("iothub-expiry"); v != "" {
		t, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			return errs.Errorf("azure.REST", errs.Invalid, "iothub-expiry is a time such as 2026-11-21T10:00:00Z")
		}
		m.Expiry = max(t.Sub(a.h.now()), 1)
	}
	for k, v := range hd {
		if name, ok := strings.CutPrefix(strings.ToLower(k), "iothub-app-"); ok && len(v) > 0 && !strings.HasPrefix(name, "$") {
			m.Properties = append(m.Properties, event.UserProperty{Key: name, Value: v[0]})
		}
	}
	slices.SortFunc(m.Properties, func(x, y event.UserProperty) int { return strings.Compare(x.Key, y.Key) })
	err = a.h.Send(a.r.Context(), a.path[1], m, a.policy.Name)
	if errs.Is(err, errs.NotFound) && a.h.ids.get(a.path[1], "") != nil {
		return fail(404, 404103, "DeviceNotOnline", "%s", errs.Text(err))
	}
	if err != nil {
		return err
	}
	a.w.WriteHeader(http.StatusNoContent)
	return nil
}
