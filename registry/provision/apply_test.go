package provision

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/registry"
)

// What OverrideSettings say becomes of a thing and a certificate that are there
// already and different; without them, a conflict that leaves all as it was.
func TestOverrideSettings(t *testing.T) {
	var clock atomic.Int64
	w, stop := begin(t, t.TempDir(), &clock)
	defer stop()
	ctx := t.Context()
	for _, name := range []string{"old", "new"} {
		if _, err := w.r.CreateThingType(ctx, name, registry.ThingTypeProperties{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "b"} {
		if _, err := w.r.CreateGroup(ctx, registry.CreateGroup{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	const as = "old map[kept:1 x:1] [a] INACTIVE" // as it was
	for i, test := range []struct{ property, setting, want string }{
		{"AttributePayload", "DO_NOTHING", as},
		{"AttributePayload", "REPLACE", "old map[x:2 y:2] [a] INACTIVE"},
		{"AttributePayload", "MERGE", "old map[kept:1 x:2 y:2] [a] INACTIVE"},
		{"AttributePayload", "FAIL", "conflict"},
		{"AttributePayload", "", "conflict"},
		{"ThingTypeName", "DO_NOTHING", as},
		{"ThingTypeName", "REPLACE", "new map[kept:1 x:1] [a] INACTIVE"},
		{"ThingTypeName", "FAIL", "conflict"},
		{"ThingTypeName", "", "conflict"},
		{"ThingGroups", "DO_NOTHING", as},
		{"ThingGroups", "REPLACE", "old map[kept:1 x:1] [b] INACTIVE"},
		{"ThingGroups", "MERGE", "old map[kept:1 x:1] [a b] INACTIVE"},
		{"ThingGroups", "FAIL", "conflict"},
		{"ThingGroups", "", "conflict"},
		{"Status", "DO_NOTHING", as},
		{"Status", "REPLACE", "old map[kept:1 x:1] [a] ACTIVE"},
		{"Status", "FAIL", "conflict"},
		{"Status", "", "conflict"},
	} {
		name := fmt.Sprint("thing-", i)
		if _, err := w.r.CreateThing(ctx, registry.CreateThing{Name: name, Type: "old", Attributes: map[string]string{"x": "1", "kept": "1"}}); err != nil {
			t.Fatal(err)
		}
		if err := w.r.AddToGroup(ctx, name, "a"); err != nil {
			t.Fatal(err)
		}
		c, err := w.r.CreateCertificateFromCSR(ctx, w.csr, registry.Inactive, nil)
		if err != nil {
			t.Fatal(err)
		}
		settings := map[string]string{"AttributePayload": "DO_NOTHING", "ThingTypeName": "DO_NOTHING", "ThingGroups": "DO_NOTHING", "Status": "DO_NOTHING"}
		delete(settings, test.property)
		if test.setting != "" {
			settings[test.property] = test.setting
		}
		override := func(properties ...string) string {
			var of []string
			for _, p := range properties {
				if s, ok := settings[p]; ok {
					of = append(of, fmt.Sprintf("%q: %q", p, s))
				}
			}
			return "{" + strings.Join(of, ", ") + "}"
		}
		body := `{"Parameters": {"Name": {"Type": "String"}, "Id": {"Type": "String"}}, "Resources": {
 "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Name"}, "AttributePayload": {"x": "2", "y": "2"}, "ThingTypeName": "new", "ThingGroups": ["b"]},
  "OverrideSettings": ` + override("AttributePayload", "ThingTypeName", "ThingGroups") + `},
 "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "Id"}, "Status": "ACTIVE"}, "OverrideSettings": ` + override("Status") + `}}}`
		_, _, failed := w.RegisterThing(ctx, body, map[string]string{"Name": name, "Id": c.ID})
		thing, err := w.r.Thing(name)
		if err != nil {
			t.Fatal(err)
		}
		groups, _, err := w.r.GroupsOfThing(name, registry.Page{})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(groups)
		held, _, err := w.r.PrincipalsOf(name, "", registry.Page{})
		if err != nil {
			t.Fatal(err)
		}
		if c, err = w.r.Certificate(c.ID); err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(thing.Type, " ", thing.Attributes, " ", groups, " ", c.Status)
		if test.want == "conflict" {
			if !errs.Is(failed, errs.Conflict) || got != as || len(held) > 0 {
				t.Errorf("%s %q: %v, and it is %s with %d certificates", test.property, test.setting, failed, got, len(held))
			}
			continue
		}
		if failed != nil || got != test.want || len(held) != 1 {
			t.Errorf("%s %q: %s with %d certificates, %v; want %s", test.property, test.setting, got, len(held), failed, test.want)
		}
	}
}

// What a template names and is not there refuses, and leaves nothing.
func TestApplyRefuses(t *testing.T) {
	var clock atomic.Int64
	w, stop := begin(t, t.TempDir(), &clock)
	defer stop()
	for what, code := range map[string]string{
		`"ThingTypeName": "none"`:           "ResourceNotFound",
		`"ThingGroups": ["none"]`:           "ResourceNotFound",
		`"AttributePayload": {"no no": ""}`: "InvalidParameters",
	} {
		w.template(t, "bad", `{"Parameters": {"ThingName": {"Type": "String"}}, "Resources": {
 "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "ThingName"}, `+what+`}},
 "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}}},
 "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"a": "b"}}}}}`, "", nil)
		a := w.ask(t, "$aws/certificates/create-from-csr/json", map[string]string{"certificateSigningRequest": w.csr})
		if r := w.register(t, "bad", a["certificateOwnershipToken"].(string), "lamp"); r["errorCode"] != code {
			t.Errorf("%s: %v, want %s", what, r, code)
		}
		w.whole(t)
		if things, _, err := w.r.Things(registry.ThingFilter{}, registry.Page{}); err != nil || len(things) > 0 {
			t.Error(what, things, err)
		}
		if policies, _, err := w.r.Policies(true, registry.Page{}); err != nil || len(policies) > 0 {
			t.Error(what, policies, err)
		}
		if err := w.r.DeleteTemplate(t.Context(), "bad"); err != nil {
			t.Fatal(err)
		}
	}
}
