package provision

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/weir-iot/weir/registry"
)

// fleet is a template with everything that is in the language.
const fleet = `{
  "Parameters": {
    "ThingName": {"Type": "String"},
    "Serial": {"Type": "String"},
    "Site": {"Type": "String", "Default": "Seattle"}
  },
  "Mappings": {"Sites": {"Seattle": {"Url": "https://example.aws", "Zones": ["a", "b"]}}},
  "Resources": {
    "thing": {
      "Type": "AWS::IoT::Thing",
      "Properties": {
        "ThingName": {"Fn::Join": ["-", ["lamp", {"Ref": "ThingName"}]]},
        "AttributePayload": {"serial": {"Ref": "Serial"}, "kind": {"Fn::Select": [0, {"Fn::Split": [":", {"Ref": "Serial"}]}]}}
      },
      "OverrideSettings": {"AttributePayload": "MERGE"}
    },
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "Active"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"Version": "2012-10-17", "Statement": [
      {"Effect": "Allow", "Action": "iot:Publish", "Resource": {"Fn::Sub": "arn:aws:iot:us-east-1:123456789012:topic/${ThingName}/${!iot:ClientId}"}}]}}}
  },
  "DeviceConfiguration": {
    "Url": {"Fn::FindInMap": ["Sites", {"Ref": "Site"}, "Url"]},
    "Zone": {"Fn::Select": ["1", {"Fn::FindInMap": ["Sites", "Seattle", "Zones"]}]},
    "Own": {"Fn::Sub": ["${a}/${Site}", {"a": {"Ref": "ThingName"}}]}
  }
}`

func TestExpand(t *testing.T) {
	c, err := Compile(fleet, "")
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Expand(map[string]string{"ThingName": "7", "Serial": "x1:99", "other": "is ignored"}, map[string]string{certificateID: "abc"})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(p)
	const want = `{"Thing":{"Logical":"thing","Name":"lamp-7","Type":"","Attributes":{"kind":"x1","serial":"x1:99"},"Groups":null,"Override":{"AttributePayload":"MERGE"}},` +
		`"Certificate":{"Logical":"certificate","ID":"abc","CSR":"","PEM":"","CAPEM":"","Status":"ACTIVE","Override":""},` +
		`"Policies":[{"Logical":"policy","Name":"`
	if !strings.HasPrefix(string(got), want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !strings.Contains(p.Policies[0].Document, `topic/7/${iot:ClientId}`) {
		t.Error(p.Policies[0].Document)
	}
	if c := p.Configuration; c["Url"] != "https://example.aws" || c["Zone"] != "b" || c["Own"] != "7/Seattle" {
		t.Error(c)
	}
}

// Each function, in what it gives and in what it refuses while a template is
// expanded.
func TestFunctions(t *testing.T) {
	const refused = "refused: "
	for expr, want := range map[string]string{
		`"as it is"`:          "as it is",
		`{"Ref": "P"}`:        "a,b,,c",
		`{"Ref": "Fallback"}`: "f",
		`{"Fn::Join": ["-", ["x", {"Ref": "Fallback"}, "y"]]}`:                        "x-f-y",
		`{"Fn::Join": ["", ["x", "y"]]}`:                                              "xy",
		`{"Fn::Join": ["/", []]}`:                                                     "",
		`{"Fn::Join": ["|", {"Fn::Split": [",", {"Ref": "P"}]}]}`:                     "a|b||c",
		`{"Fn::Select": [1, ["x", "y"]]}`:                                             "y",
		`{"Fn::Select": ["0", ["x", "y"]]}`:                                           "x",
		`{"Fn::Select": [{"Ref": "Number"}, {"Fn::Split": [",", {"Ref": "P"}]}]}`:     "c",
		`{"Fn::Select": [{"Ref": "Big"}, {"Fn::Split": [",", {"Ref": "P"}]}]}`:        refused + "there is no value 4 in a list of 4",
		`{"Fn::Select": [{"Ref": "P"}, ["x"]]}`:                                       refused + "the index must be a whole number",
		`{"Fn::Select": [0, [null]]}`:                                                 refused + "there is no value 0",
		`{"Fn::Select": [0, {"Ref": "P"}]}`:                                           refused + "argument 2 must be a list",
		`{"Fn::FindInMap": ["M", "k", "v"]}`:                                          "found",
		`{"Fn::FindInMap": ["M", {"Ref": "Key"}, "v"]}`:                               "found",
		`{"Fn::Select": [1, {"Fn::FindInMap": ["M", "k", "list"]}]}`:                  "two",
		`{"Fn::FindInMap": ["M", {"Ref": "P"}, "v"]}`:                                 refused + `mapping "M" has no "v" in "a,b,,c"`,
		`{"Fn::FindInMap": ["M", "k", {"Ref": "P"}]}`:                                 refused + `mapping "M" has no "a,b,,c" in "k"`,
		`{"Fn::Join": ["", [{"Fn::FindInMap": ["M", "k", "list"]}]]}`:                 refused + "value 1 is none",
		`{"Fn::Split": [",", {"Ref": "P"}]}`:                                          refused + "V is not a string",
		`{"Fn::Select": [0, {"Fn::Split": ["-", {"Ref": "P"}]}]}`:                     "a,b,,c",
		`{"Fn::Sub": "${Fallback} and ${ P }"}`:                                       "f and a,b,,c",
		`{"Fn::Sub": "${!Fallback} $ {x} $$"}`:                                        "${Fallback} $ {x} $$",
		`{"Fn::Sub": ["${own}${Fallback}", {"own": {"Fn::Join": ["", ["1", "2"]]}}]}`: "12f",
		`{"Fn::Sub": ["${Fallback}", {"Fallback": "its own"}]}`:                       "its own",
		`{"Fn::Sub": ["${x}", {"x": {"Fn::Split": [",", "a,b"]}}]}`:                   refused + "the variable x must be a string",
		`5`:    "5",
		`1.50`: "1.50",
		`true`: "true",
	} {
		c, err := Compile(`{"Parameters": {"P": {"Type": "String"}, "Number": {"Type": "String"}, "Big": {"Type": "String"}, "Key": {"Type": "String"}, "Fallback": {"Type": "String", "Default": "f"}},
 "Mappings": {"M": {"k": {"v": "found", "list": ["one", "two"]}}},
 "Resources": {"c": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}}}}, "DeviceConfiguration": {"V": `+expr+`}}`, "")
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		p, err := c.Expand(map[string]string{"P": "a,b,,c", "Number": "3", "Big": "4", "Key": "k"}, map[string]string{certificateID: "abc"})
		if text, ok := strings.CutPrefix(want, refused); ok {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, want %q", expr, err, text)
			}
			continue
		}
		if err != nil || p.Configuration["V"] != want {
			t.Errorf("%s: %v %v, want %q", expr, p, err, want)
		}
	}
}

// What a device sends cannot mean anything in a policy, nor stand for what Weir
// sets itself.
func TestExpandRefuses(t *testing.T) {
	c, err := Compile(fleet, "")
	if err != nil {
		t.Fatal(err)
	}
	id := map[string]string{certificateID: "abc"}
	for _, name := range []string{"*", "a*", "?", "../x", "a..b", "a/b", "${iot:ClientId}", `x","Action":"iot:*`, "a\\", "#", "+", "", "a b", "ä", "a\x00", strings.Repeat("a", 70000)} {
		if p, err := c.Expand(map[string]string{"ThingName": name, "Serial": "1"}, id); err == nil {
			t.Errorf("%q: %s", clip(name), p.Policies[0].Document)
		}
	}
	for _, in := range []map[string]string{
		{"Serial": "1"},
		{"ThingName": "a", "Serial": "1", certificateID: "another"},
		{"ThingName": "a", "Serial": "1", "AWS::Region": "x"},
		{"ThingName": "a", "Serial": "1", "Site": "nowhere"},
	} {
		if _, err := c.Expand(in, id); err == nil {
			t.Errorf("%v was expanded", in)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	resources := func(properties string) string {
		return `{"Resources": {"c": {"Type": "AWS::IoT::Certificate", "Properties": ` + properties + `}}}`
	}
	thing := func(properties, more string) string {
		return "{\"Parameters\": {\"P\": {\"Type\": \"String\"}},\n\"Resources\": {\"t\": {\"Type\": \"AWS::IoT::Thing\", \"Properties\": " + properties + more +
			"},\n\"c\": {\"Type\": \"AWS::IoT::Certificate\", \"Properties\": {\"CertificateId\": {\"Ref\": \"AWS::IoT::Certificate::Id\"}}}}}"
	}
	for body, want := range map[string]string{
		``:                                "1:1: the template ends too early",
		`[]`:                              "1:1: a template is a JSON object, found a list",
		`{}`:                              "1:1: the template has no Resources",
		`{"a`:                             "1:4: the template ends too early",
		"{\n \"Resource\": {}}":           `2:2: a template of type FLEET_PROVISIONING has no "Resource"`,
		`{"Resources": {}} x`:             "1:19: something follows the end of the template",
		`{"Resources": {}}{}`:             "1:18: something follows the end of the template",
		`{"Resources": {}}`:               "1:15: the template has no resource of type AWS::IoT::Certificate",
		`{"a": 1, "a": 2}`:                `1:10: "a" is there twice`,
		resources(`{"Status": "ACTIVE"}`): "1:69: the certificate has no CertificateId",
		resources(`{"CertificateSigningRequest": "x"}`):                                                           "1:69: in a template of type FLEET_PROVISIONING a certificate is named by its CertificateId",
		resources(`{"CertificateId": {"Ref": "Nmae"}}`):                                                           `1:95: there is no parameter "Nmae"`,
		resources(`{"CertificateId": "x", "Status": "REVOKED"}`):                                                  "1:102: the Status of a certificate is ACTIVE or INACTIVE",
		resources(`{"CertificateId": {"Fn::Joim": ["", []]}}`):                                                    "1:88: Fn::Joim is not a function",
		resources(`{"CertificateId": {"Fn::Join": [""]}}`):                                                        "1:100: Fn::Join takes a list of 2 arguments",
		resources(`{"CertificateId": {"Fn::Select": [2, ["a"]]}}`):                                                "1:103: Fn::Select: index 2 in a list of 1",
		resources(`{"CertificateId": {"Fn::FindInMap": ["M","a","b"]}}`):                                          `1:106: there is no mapping "M"`,
		resources(`{"CertificateId": {"Fn::Sub": "${x"}}`):                                                        "1:99: Fn::Sub: a ${ without its }",
		resources(`{"CertificateId": {"Fn::Sub": "${x}"}}`):                                                       `1:99: there is no parameter "x"`,
		thing(`{"ThingName": 5}`, ""):                                                                             "2:76: ThingName must be a string, found a number",
		thing(`{"ThingName": "a", "BillingGroup": "b"}`, ""):                                                      "2:97: there are no billing groups",
		thing(`{"ThingName": "a"}`, `, "OverrideSettings": {"ThingName": "MERGE"}`):                               `2:103: OverrideSettings of a thing has no "ThingName"`,
		thing(`{"ThingName": "a"}`, `, "OverrideSettings": {"THING_TYPE_NAME": "MERGE"}`):                         "2:122: ThingTypeName must be one of DO_NOTHING, REPLACE, FAIL",
		thing(`{"ThingName": "a"}`, `, "OverrideSettings": {"ThingTypeName": "FAIL", "THING_TYPE_NAME": "FAIL"}`): "2:128: ThingTypeName is there twice",
		thing(`{"ThingName": "a"}`, `, "OverrideSettings": {"ThingTypeName": "MERGE"}`):                           "2:120: ThingTypeName must be one of DO_NOTHING, REPLACE, FAIL",
		thing(`{"ThingName": "a", "AttributePayload": {"a": {"b": "c"}}}`, ""):                                    "2:107: AttributePayload has strings, found an object",
		strings.Repeat("[", 100):                                                                                  "1:34: values nest deeper than 32",
		"{\"a\": \"\xff\"}":                                                                                       "1:8: the template is not UTF-8",
		strings.Repeat(" ", 10241):                                                                                "1:1: a template has at most 10240 characters, this one has 10241",
	} {
		err := Check(body, "")
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%s: %v", clip(body), err)
			continue
		}
		if !strings.HasPrefix(e.Error(), want) {
			t.Errorf("%s\n got  %s\n want %s", clip(body), e.Error(), want)
		}
		e.Detail()
	}
	if err := Check(fleet, registry.JITP); err == nil {
		t.Error("a JITP template with Mappings")
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add(fleet, "a", "b")
	f.Add(`{"Resources": {"c": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Fn::Sub": ["${a}", {"a": "b"}]}}}}}`, "", "")
	f.Add(`{"Parameters": {"P": {"Type": "String"}}, "Resources": {"c": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "P"}}},
 "p": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"a": {"Fn::Select": ["0", {"Fn::Split": ["-", {"Ref": "P"}]}]}}}}}}`, `*"`, "x")
	f.Fuzz(func(t *testing.T, body, a, b string) {
		for _, typ := range []registry.TemplateType{registry.FleetProvisioning, registry.JITP, Bulk} {
			c, err := Compile(body, typ)
			if err != nil {
				var e *Error
				if !errors.As(err, &e) || e.Line < 1 || e.Column < 1 {
					t.Fatalf("no place: %v", err)
				}
				e.Detail()
				continue
			}
			in := map[string]string{"ThingName": a, "Serial": b, "P": a}
			p, err := c.Expand(in, map[string]string{certificateID: "abc"})
			if err != nil {
				continue
			}
			// What may be in a policy besides the template's own text is plain.
			for _, pol := range p.Policies {
				if a != "" && !plain(a) && len(a) > 3 && strings.Contains(pol.Document, a) && !strings.Contains(body, a) {
					t.Fatalf("%q reached a policy: %s", a, pol.Document)
				}
			}
		}
	})
}
