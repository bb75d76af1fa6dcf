package azure

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
)

func (a *request) twin() error {
	i, err := a.h.need(a.device, a.module)
	if err != nil {
		return err
	}
	t, err := a.h.read(a.r.Context(), a.device, a.module)
	if err != nil {
		return err
	}
	a.showTwin(i, t)
	return nil
}

func (a *request) showTwin(i *Identity, t *Twin) {
	where := a.h.connections(a.r.Context(), []*Identity{i})
	a.w.Header().Set("ETag", `"`+t.etag()+`"`)
	a.json(200, t.document(i, where[i.name()]))
}

func (a *request) patchTwin() error   { return a.changeTwin(false) }
func (a *request) replaceTwin() error { return a.changeTwin(true) }

func (a *request) changeTwin(replace bool) error {
	device, module := a.device, a.module
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
	if c.Tags != nil { // of which the shadow's side knows nothing
		a.h.tell(a.h.told(device, module, twinEvents, map[bool]string{false: "updateTwin", true: "replaceTwin"}[replace],
			map[string]any{"version": t.Version + 1, "tags": c.Tags}))
	}
	a.showTwin(i, t)
	return nil
}

func (a *request) method() error {
	device, module := a.device, a.module
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
	if err := a.h.Send(a.r.Context(), a.device, m, a.policy.Name); err != nil {
		return err
	}
	a.w.WriteHeader(http.StatusNoContent)
	return nil
}

// purge answers DELETE /devices/<id>/commands.
func (a *request) purge() error {
	if _, err := a.h.need(a.device, ""); err != nil {
		return err
	}
	a.json(200, map[string]any{"totalMessagesPurged": a.h.purge(a.device), "deviceId": a.device, "moduleId": nil})
	return nil
}
