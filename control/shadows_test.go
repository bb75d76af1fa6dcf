package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/shadow"
)

// fakeShadows has one shadow with the versions 1 to 3, and says what it was asked.
type fakeShadows struct{ asked string }

func version(n uint64) *shadow.Document {
	return &shadow.Document{Thing: "t", Version: n, Time: time.UnixMilli(1000).UTC(), Op: "update", By: shadow.Who{ClientID: "c"},
		Desired: shadow.Section{State: fmt.Appendf(nil, `{"n":%d}`, n), Metadata: []byte(`{"n":1000}`), Version: n}}
}

func (f *fakeShadows) Read(_ context.Context, thing, name string) (*shadow.Document, error) {
	if thing != "t" {
		return nil, errs.E("shadow.Read", errs.NotFound, &shadow.Error{Code: 404, Message: "No shadow exists with name: '" + thing + "'"})
	}
	f.asked = "read " + name
	return version(3), nil
}
func (f *fakeShadows) All(context.Context, string) ([]shadow.Summary, error) { return nil, nil }
func (f *fakeShadows) Update(_ context.Context, thing, name string, body []byte, who shadow.Who) ([]byte, error) {
	f.asked = fmt.Sprintf("update %s %s %s %s", thing, name, body, who.Via)
	if string(body) == "conflict" {
		return nil, errs.E("shadow.Update", errs.Conflict, &shadow.Error{Code: 409, Message: "Version conflict"})
	}
	return []byte(`{"version":4}`), nil
}
func (f *fakeShadows) Delete(context.Context, string, string, shadow.Who) ([]byte, error) {
	return []byte(`{"version":3}`), nil
}
func (f *fakeShadows) History(_ context.Context, _, _ string, max int) ([]*shadow.Document, error) {
	return []*shadow.Document{version(3), version(2), version(1)}[:min(max, 3)], nil
}
func (f *fakeShadows) Past(_ context.Context, _, _ string, at shadow.At) (*shadow.Document, error) {
	f.asked = fmt.Sprint("past ", at.Version, at.Time.Unix())
	return version(max(at.Version, 1)), nil
}
func (f *fakeShadows) Restore(_ context.Context, _, _ string, at shadow.At, all bool, _ shadow.Who) (*shadow.Document, error) {
	f.asked = fmt.Sprint("restore ", at.Version, all)
	return version(4), nil
}

func TestShadows(t *testing.T) {
	c, f := serveShadows(t)
	ctx := t.Context()
	d, err := c.Shadow(ctx, "t", nil)
	if err != nil || string(d.Document) != `{"state":{"desired":{"n":3},"delta":{"n":3}},"metadata":{"desired":{"n":{"timestamp":1}},"delta":{"n":{"timestamp":1}}},"version":3,"timestamp":1}` || d.Details.By.ClientID != "c" {
		t.Fatalf("%s %+v %v", d.Document, d.Details, err)
	}
	if _, err := c.Shadow(ctx, "t", url.Values{"at": {"2026-11-20T10:00:00Z"}, "name": {"n"}}); err != nil || f.asked != "past 0 1795168800" {
		t.Errorf("%q %v", f.asked, err)
	}
	if out, err := c.UpdateShadow(ctx, "t", "n", []byte(`{}`)); err != nil || string(out) != `{"version":4}` || f.asked != "update t n {} http" {
		t.Errorf("%s %q %v", out, f.asked, err)
	}
	var remote *RemoteError
	if _, err := c.UpdateShadow(ctx, "t", "", []byte("conflict")); !errors.As(err, &remote) || remote.Status != 409 || remote.Info.Message != "Version conflict" {
		t.Errorf("%v", err)
	}
	if _, err := c.Shadow(ctx, "x", nil); !errors.As(err, &remote) || remote.Status != 404 {
		t.Errorf("%v", err)
	}
	if out, err := c.DeleteShadow(ctx, "t", ""); err != nil || string(out) != `{"version":3}` {
		t.Errorf("%s %v", out, err)
	}
	log, err := c.ShadowLog(ctx, "t", "", 2)
	if b, _ := json.Marshal(log[1].Changes); err != nil || len(log) != 2 || string(b) != `[{"path":"desired.n","old":1,"new":2}]` {
		t.Errorf("%+v %v", log, err)
	}
	diff, err := c.ShadowDiff(ctx, "t", url.Values{"from": {"1"}})
	if b, _ := json.Marshal(diff); err != nil || string(b) != `{"from":1,"to":3,"changes":[{"path":"desired.n","old":1,"new":3}]}` {
		t.Errorf("%s %v", b, err)
	}
	if d, err := c.RestoreShadow(ctx, "t", url.Values{"version": {"2"}, "all": {"true"}}); err != nil || d.Details.Version != 4 || f.asked != "restore 2 true" {
		t.Errorf("%+v %q %v", d, f.asked, err)
	}
	if list, err := c.Shadows(ctx, ""); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	for _, q := range []url.Values{{"version": {"x"}}, {"version": {"0"}}, {"at": {"yesterday"}}, {"version": {"1"}, "at": {"2026-11-20T10:00:00Z"}}, {"other": {"1"}}} {
		if _, err := c.Shadow(ctx, "t", q); !errors.As(err, &remote) || remote.Status != 400 {
			t.Errorf("%v: %v", q, err)
		}
	}
	if _, err := c.RestoreShadow(ctx, "t", nil); !errors.As(err, &remote) || remote.Status != 400 {
		t.Errorf("%v", err)
	}
}
