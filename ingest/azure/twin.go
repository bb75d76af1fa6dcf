package azure

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
)

// respond answers a request for the twin, where the device listens.
func (d *Device) respond(status int, q query, version uint64, body []byte) {
	l := d.link.Load()
	if l == nil || !l.Subscribed(d.twins) {
		return
	}
	name := "$iothub/twin/res/" + strconv.Itoa(status) + "/?$rid=" + escape(q.rid)
	if version > 0 {
		name += "&$version=" + strconv.FormatUint(version, 10)
	}
	l.Send(name, body)
}

// refuse answers a request for the twin with what went wrong.
func (d *Device) refuse(q query, err error) {
	status := twinStatus(err)
	body, _ := json.Marshal(map[string]any{"errorCode": status * 1000, "message": errs.Text(err)})
	d.respond(status, q, 0, body)
}

// twinStatus is an error as a device hears of it: it knows 400, 412, 429 and 5xx.
func twinStatus(err error) int {
	switch status := statusOf(err); status {
	case 413:
		return 400
	case 409:
		return 412
	default:
		return status
	}
}

// read returns a twin, an empty one where there is none yet.
func (h *Hub) read(ctx context.Context, device, module string) (*Twin, error) {
	t, err := h.o.Twins.Read(ctx, device, module)
	if errs.Is(err, errs.NotFound) {
		return &Twin{}, nil
	}
	return t, err
}

// number is a section's $version: the first one is 1, before any change.
func (s *Section) number() uint64 { return s.Version + 1 }

// numbered returns the section with its $version.
func (s *Section) numbered() []byte {
	tail := `"$version":` + strconv.FormatUint(s.number(), 10) + "}"
	state := bytes.TrimSpace(s.State)
	if len(state) < 2 || state[0] != '{' {
		return []byte("{" + tail)
	}
	inner := bytes.TrimSpace(state[1 : len(state)-1])
	if len(inner) == 0 {
		return []byte("{" + tail)
	}
	return []byte("{" + string(inner) + "," + tail)
}

func (d *Device) getTwin(ctx context.Context, q query) {
	t, err := d.hub.read(ctx, d.device, d.module)
	if err != nil {
		d.refuse(q, err)
		return
	}
	d.respond(200, q, 0, fmt.Appendf(nil, `{"desired":%s,"reported":%s}`, t.Desired.numbered(), t.Reported.numbered()))
}

func (d *Device) report(ctx context.Context, q query, body []byte) {
	const op = "azure.Report"
	patch, err := section(body)
	if err == nil && len(patch) == 0 {
		err = errs.Errorf(op, errs.Invalid, "the reported properties are null")
	}
	if err != nil {
		d.refuse(q, err)
		return
	}
	var want uint64
	if q.version != "" {
		if want, err = strconv.ParseUint(q.version, 10, 63); err != nil {
			d.refuse(q, errs.Errorf(op, errs.Invalid, "$version is not a number"))
			return
		}
	}
	for {
		c := TwinChange{Reported: patch}
		if want > 0 {
			t, err := d.hub.read(ctx, d.device, d.module)
			if err == nil && t.Reported.number() != want {
				err = errs.Errorf(op, errs.Conflict, "the version is %d", t.Reported.number())
			}
			if err != nil {
				d.refuse(q, err)
				return
			}
			c.Version = &t.Version
		}
		t, err := d.hub.o.Twins.Change(ctx, d.device, d.module, c, d.name())
		switch {
		case err == nil:
			d.respond(204, q, t.Reported.number(), nil)
		case want > 0 && errs.Is(err, errs.Conflict) && ctx.Err() == nil:
			continue // another section has changed, or this one: looked at again
		default:
			d.refuse(q, err)
		}
		return
	}
}

// section checks a patch of a section and takes out what is not a property. nil
// means null: the whole section.
func section(body []byte) (json.RawMessage, error) {
	const op = "azure.Twin"
	v, err := decodeJSON(body)
	if err != nil {
		return nil, errs.Errorf(op, errs.Invalid, "not JSON")
	}
	if v == nil {
		return nil, nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errs.Errorf(op, errs.Invalid, "the properties are not a JSON object")
	}
	delete(m, "$version")
	delete(m, "$metadata")
	if err := checkNames(m); err != nil {
		return nil, err
	}
	return encodeJSON(m), nil
}

// checkNames refuses what Azure does not take as a property's name.
func checkNames(v any) error {
	switch v := v.(type) {
	case map[string]any:
		for k, c := range v {
			if k == "" || strings.ContainsAny(k, ".$ ") || strings.ContainsFunc(k, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				return errs.Errorf("azure.Twin", errs.Invalid, "the property name %q: it must not be empty or have '.', '$', a space or a control character", trimmed(k))
			}
			if err := checkNames(c); err != nil {
				return err
			}
		}
	case []any:
		for _, c := range v {
			if err := checkNames(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// decodeJSON decodes one JSON value; numbers stay as they are written.
func decodeJSON(b []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

// encodeJSON encodes what was decoded.
func encodeJSON(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(v) != nil {
		return []byte("null") // not reached: it came from JSON
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}

// The topics that tell of a change of a shadow.
var documents = []topic.Filter{"$aws/things/+/shadow/update/documents", "$aws/things/+/shadow/name/+/update/documents"}

// follow tells devices of changes of what is desired of them.
func (h *Hub) follow(ctx context.Context, f *eventlog.Follower) error {
	defer f.Close()
	for {
		batch, _, err := f.Next(ctx, 256)
		var gap *eventlog.GapError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &gap):
			h.logger.Warn("changes of twins were trimmed before devices were told", "from", gap.From, "to", gap.To)
			continue
		case err != nil:
			return errs.E("azure.Follow", errs.KindOf(err), err)
		}
		for _, e := range batch {
			h.shadowChanged(e)
		}
	}
}

func (h *Hub) shadowChanged(e *event.Event) {
	device, module := twinOfTopic(e.Topic)
	name := nameOf(device, module)
	d := h.link(name)
	if d == nil {
		return
	}
	l := d.link.Load()
	if !l.Subscribed(d.desired) {
		return
	}
	type side struct {
		State struct {
			Desired json.RawMessage `json:"desired"`
		} `json:"state"`
	}
	var doc struct{ Previous, Current side }
	if json.Unmarshal(e.Payload, &doc) != nil || bytes.Equal(doc.Previous.State.Desired, doc.Current.State.Desired) {
		return
	}
	patch := difference(doc.Previous.State.Desired, doc.Current.State.Desired)
	if len(patch) == 0 {
		return
	}
	desired, _, ok := numbersOf(e)
	if !ok {
		h.logger.Warn("a device was not told of a change of its twin, which has no versions", "device", name)
		return
	}
	version := strconv.FormatUint(desired, 10)
	patch["$version"] = json.Number(version)
	l.Send("$iothub/twin/PATCH/properties/desired/?$version="+version, encodeJSON(patch))
}

// numbersOf returns the $version of each section of a twin after the change e tells
// of, which the shadow service says aside: the twin of now may be a later one.
func numbersOf(e *event.Event) (desired, reported uint64, ok bool) {
	text, rest, _ := strings.Cut(e.Aside, " ")
	d, err := strconv.ParseUint(text, 10, 64)
	r, err2 := strconv.ParseUint(rest, 10, 64)
	return (&Section{Version: d}).number(), (&Section{Version: r}).number(), err == nil && err2 == nil
}

// difference returns the patch that makes b out of a, each an object or absent.
func difference(a, b json.RawMessage) map[string]any {
	decode := func(raw json.RawMessage) map[string]any {
		v, err := decodeJSON(raw)
		m, _ := v.(map[string]any)
		if err != nil || m == nil {
			return map[string]any{}
		}
		return m
	}
	return diffObjects(decode(a), decode(b))
}

func diffObjects(a, b map[string]any) map[string]any {
	out := map[string]any{}
	for k := range a {
		if _, ok := b[k]; !ok {
			out[k] = nil
		}
	}
	for k, v := range b {
		old, ok := a[k]
		if ok && reflect.DeepEqual(old, v) {
			continue
		}
		was, one := old.(map[string]any)
		is, two := v.(map[string]any)
		if ok && one && two {
			v = diffObjects(was, is)
		}
		out[k] = v
	}
	return out
}

// etag is the version of a twin as its ETag.
func (t *Twin) etag() string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], t.Version+1)
	return base64.StdEncoding.EncodeToString(b[:])
}

// document is a section with $version and $metadata.
func (s *Section) document(at time.Time) map[string]any {
	out := map[string]any{}
	if v, err := decodeJSON(s.State); err == nil {
		if m, ok := v.(map[string]any); ok {
			out = m
		}
	}
	meta, _ := decodeJSON(s.Metadata)
	m, newest := metadata(meta, at)
	m["$lastUpdated"] = stamp(newest)
	m["$lastUpdatedVersion"] = s.number()
	out["$metadata"], out["$version"] = m, s.number()
	return out
}

// metadata is what Azure says of a property and those below it: when each was
// last changed. newest is the newest of them, or at without any.
func metadata(v any, at time.Time) (m map[string]any, newest time.Time) {
	m = map[string]any{}
	switch v := v.(type) {
	case json.Number:
		ms, _ := v.Int64()
		newest = time.UnixMilli(ms)
	case map[string]any:
		for k, c := range v {
			sub, t := metadata(c, time.Time{})
			if t.After(newest) {
				newest = t
			}
			m[k] = sub
		}
	case []any: // Azure has metadata of an array as a whole
		for _, c := range v {
			if _, t := metadata(c, time.Time{}); t.After(newest) {
				newest = t
			}
		}
	}
	if newest.IsZero() {
		newest = at
	}
	if !newest.IsZero() {
		m["$lastUpdated"] = stamp(newest)
	}
	return m, newest
}

// stamp is a time as Azure writes it; zero is the year 1.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000Z") }

// document is the twin as the service side sees it; w is where the device is.
func (t *Twin) document(i *Identity, w whereabouts) map[string]any {
	at := t.Time
	if at.IsZero() {
		at = i.Created
	}
	tags := map[string]any{}
	if v, err := decodeJSON(t.Tags.State); err == nil {
		if m, ok := v.(map[string]any); ok {
			tags = m
		}
	}
	out := map[string]any{
		"deviceId": i.Device, "etag": t.etag(), "deviceEtag": i.ETag, "status": statusWord(i.Enabled), "statusUpdateTime": stamp(i.StatusUpdated),
		"connectionState": connectionWord(w.Connected), "lastActivityTime": stamp(w.At), "authenticationType": i.Type,
		"x509Thumbprint": map[string]any{"primaryThumbprint": orNull(i.PrimaryThumb), "secondaryThumbprint": orNull(i.SecondaryThumb)},
		"version":        t.Version + 1,
		"properties":     map[string]any{"desired": t.Desired.document(at), "reported": t.Reported.document(at)},
	}
	if i.Module != "" {
		out["moduleId"] = i.Module
	} else {
		out["capabilities"] = map[string]any{"iotEdge": false}
		out["tags"] = tags
	}
	return out
}

func statusWord(enabled bool) string {
	if enabled {
		return "enabled"
	}
	return "disabled"
}

func connectionWord(connected bool) string {
	if connected {
		return "Connected"
	}
	return "Disconnected"
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}
