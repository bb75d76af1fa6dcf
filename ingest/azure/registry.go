package azure

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/weir-iot/weir/internal/errs"
)

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

// connections tells where devices are.
func (h *Hub) connections(ctx context.Context, list []*Identity) map[string]whereabouts {
	names := make([]string, len(list))
	for n, i := range list {
		names[n] = i.name()
	}
	all, _ := h.everywhere(ctx, names...)
	return all
}

// showAll returns identities as the API shows them.
func (h *Hub) showAll(ctx context.Context, list []*Identity) []*identityDocument {
	where, out := h.connections(ctx, list), make([]*identityDocument, len(list))
	for n, i := range list {
		out[n] = i.document(where[i.name()])
	}
	return out
}

func (i *Identity) document(w whereabouts) *identityDocument {
	d := &identityDocument{
		DeviceID: i.Device, ModuleID: i.Module, Generation: i.Generation, ETag: i.ETag, ConnectionState: connectionWord(w.Connected),
		ConnectionStateUpdated: stamp(w.At), StatusUpdated: stamp(i.StatusUpdated), LastActivity: stamp(w.At),
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

func (a *request) show() error {
	i, err := a.h.need(a.device, a.module)
	if err != nil {
		return err
	}
	a.w.Header().Set("ETag", `"`+i.ETag+`"`)
	a.json(200, a.h.showAll(a.r.Context(), []*Identity{i})[0])
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
	list := a.h.ids.list("")
	a.json(200, a.h.showAll(a.r.Context(), list[:min(len(list), top)]))
	return nil
}

func (a *request) modules() error {
	if _, err := a.h.need(a.device, ""); err != nil {
		return err
	}
	a.json(200, a.h.showAll(a.r.Context(), a.h.ids.list(a.device)))
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
	switch {
	case errs.Is(err, errs.Conflict) && old == nil:
		return nil, false, fail(409, 409001, "DeviceAlreadyExists", "it was made meanwhile")
	case err != nil:
		return nil, false, err
	case old == nil:
		h.tellLifecycle(i, "create")
	}
	return i, old == nil, nil
}

var errPrecondition = fail(412, 412002, "PreconditionFailed", "the ETag is not that of the current version")

func (a *request) put() error {
	var d identityDocument
	if err := a.decode(&d); err != nil {
		return err
	}
	tag, any, none := a.ifMatch()
	if any {
		tag = ""
	}
	i, made, err := a.h.store(a.r.Context(), a.device, a.module, &d, !none, none, tag)
	if err != nil {
		return err
	}
	status := 200
	if made && a.module != "" {
		status = 201
	}
	a.w.Header().Set("ETag", `"`+i.ETag+`"`)
	a.json(status, a.h.showAll(a.r.Context(), []*Identity{i})[0])
	return nil
}

func (a *request) delete() error {
	tag, any, _ := a.ifMatch()
	if any {
		tag = ""
	}
	if err := a.h.remove(a.r.Context(), a.device, a.module, tag); err != nil {
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
		h.tellLifecycle(i, "delete")
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

// connected answers GET /statistics/service: the devices of all gateways.
func (a *request) connected() error {
	_, n := a.h.everywhere(a.r.Context())
	a.json(200, map[string]int{"connectedDeviceCount": n})
	return nil
}
