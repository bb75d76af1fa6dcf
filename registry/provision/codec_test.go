package provision

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// registration is what a device sends to become a thing.
type registration struct {
	Token      string            `json:"certificateOwnershipToken"`
	Parameters map[string]string `json:"parameters"`
}

// seeds are payloads of both formats: good, broken and made to hurt.
func seeds() [][]byte {
	good := map[string]any{"certificateOwnershipToken": "x", "parameters": map[string]string{"ThingName": "a"}, "other": []any{1, nil, true}}
	asJSON, err := json.Marshal(good)
	if err != nil {
		panic(err)
	}
	out := [][]byte{asJSON, must(cbor.Marshal(good)), must(cbor.Marshal(map[string]any{"certificateSigningRequest": "x"})), must(cbor.Marshal(map[int]string{1: "x"}))}
	for _, text := range []string{
		"", " ", "{", "{}", "{}{}", "null", "[]", `"x"`, "\x00", `{"parameters": 5}`, `{"parameters": {"a": {}}}`, `{"certificateSigningRequest": 5}`, `{"certificateSigningRequest": "\ud800"}`,
		strings.Repeat(`{"a":`, 5000), strings.Repeat("[", 5000),
		"\xa0", "\xbf\xff", "\xf6", "\xf7", "\x60", "\xa1\x61a", "\xbf\x61a", // no members, ended too early
		"\xa1\x6acertificate\xf6", "\xa2\x61a\x01\x61a\x02", // a name twice
		"\xba\xff\xff\xff\xff", "\xbb\xff\xff\xff\xff\xff\xff\xff\xff", "\x9b\x7f\xff\xff\xff\xff\xff\xff\xff", "\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", // lengths that are not there
		"\xa1\x61a" + strings.Repeat("\x81", 1000), strings.Repeat("\xa1\x61a", 1000), strings.Repeat("\xc1", 1000) + "\xa0", "\xa1\x61a\xc2\x41\x01", // depth, tags
		"\xa1\x6aparameters\xa1\x61a\x01", "\xa1\x61a\xfb\x7f\xf8\x00\x00\x00\x00\x00\x00", "\xa1\x61\xff\x61a", "\xa0\xa0",
	} {
		out = append(out, []byte(text))
	}
	return out
}

// What is read and written again is the same; a payload is no other format's.
func FuzzDecode(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, format := range []Format{JSON, CBOR} {
			var q, again registration
			if format.decode(payload, &q) != nil {
				continue
			}
			b, err := format.encode(q)
			if err != nil {
				t.Fatal(err)
			}
			if err := format.decode(b, &again); err != nil || again.Token != q.Token || !maps.Equal(again.Parameters, q.Parameters) {
				t.Fatalf("%s: %v, written and read %v, %v", format, q, again, err)
			}
			if other := map[Format]Format{JSON: CBOR, CBOR: JSON}[format]; other.decode(payload, &again) == nil {
				t.Fatalf("%q is both", payload)
			}
		}
	})
}

// Whatever is sent: there is an answer, in the topic's format, and what is refused
// says so in all three fields.
func FuzzCall(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b)
	}
	var clock atomic.Int64
	w, stop := begin(f, f.TempDir(), &clock)
	f.Cleanup(stop)
	w.template(f, "fleet", fleet, "", nil)
	w.creations.perSecond, w.registrations.perSecond = 1<<30, 1<<30
	w.o.Publish = func(context.Context, *event.Event) error { return nil } // it would only be slow
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, call := range []topic.Name{"$aws/certificates/create-from-csr/", "$aws/provisioning-templates/fleet/provision/", "$aws/provisioning-templates/none/provision/"} {
			for _, format := range []Format{JSON, CBOR} {
				n := call + topic.Name(format)
				at, answer, err := w.Call(t.Context(), Caller{Principal: "claim", ClientID: "device"}, n, bytes.Clone(payload))
				if err != nil {
					t.Fatal(err)
				}
				if at == n+"/accepted" {
					continue
				}
				var r rejection
				if err := format.decode(answer, &r); err != nil || at != n+"/rejected" || r.StatusCode < 400 || r.StatusCode >= 500 || r.ErrorCode == "" || r.ErrorMessage == "" {
					t.Fatalf("%s answered %q: %+v %v", n, answer, r, err)
				}
			}
		}
	})
}

// A payload that is none of its format says so, in that format.
func TestMalformed(t *testing.T) {
	var clock atomic.Int64
	w, stop := begin(t, t.TempDir(), &clock)
	defer stop()
	w.template(t, "fleet", fleet, "", nil)
	for format, bodies := range map[Format][]string{
		JSON: {"", "{", "null", "[]", `"x"`, "{}{}", "\xa0", `{"certificateSigningRequest": 5, "parameters": 5}`},
		CBOR: {"", "{}", "\xf6", "\xf7", "\x80", "\xa1", "\xa0\xa0", "\xa2\x61a\x01\x61a\x02", "\xa2\x78\x19certificateSigningRequest\x05\x6aparameters\x05", "\xbb\xff\xff\xff\xff\xff\xff\xff\xff"},
	} {
		for _, call := range []topic.Name{"$aws/certificates/create-from-csr/", "$aws/provisioning-templates/fleet/provision/"} {
			for _, body := range bodies {
				n := call + topic.Name(format)
				at, answer, err := w.Call(t.Context(), Caller{Principal: "claim"}, n, []byte(body))
				var r rejection
				if err != nil || at != n+"/rejected" || format.decode(answer, &r) != nil || r.StatusCode != 400 || r.ErrorCode != "InvalidPayload" {
					t.Errorf("%s with %q answered %s %+v %v", n, body, at, r, err)
				}
			}
		}
	}
}
