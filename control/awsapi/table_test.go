package awsapi

import (
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/iot"
)

// The model is that of an SDK of the day: what it has, the other has.
func TestModelIsTheSDKs(t *testing.T) {
	var sdk []string
	client := reflect.TypeFor[*iot.Client]()
	for i := range client.NumMethod() {
		if m := client.Method(i); m.Type.NumIn() == 4 { // receiver, context, input, options
			sdk = append(sdk, m.Name)
		}
	}
	var have []string
	for _, l := range Model() {
		if l.Service == IoT {
			have = append(have, l.Name)
		}
	}
	slices.Sort(sdk)
	if !slices.Equal(have, sdk) {
		t.Errorf("the model has %d operations of iot, the SDK %d", len(have), len(sdk))
		for _, n := range sdk {
			if !slices.Contains(have, n) {
				t.Errorf("the model lacks %s", n)
			}
		}
	}
}

// Every row has a shape that can be read, and names its resource by members the
// request has; labels of the path are members that stand in the path.
func TestTable(t *testing.T) {
	_, all, err := table()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, o := range all {
		if key := string(o.Service) + o.Name; seen[key] {
			t.Errorf("%s is there twice", key)
		} else {
			seen[key] = true
		}
		if o.handle == nil {
			continue
		}
		checkShape(t, o.Name, o.request, map[reflect.Type]bool{})
		s := shapeOf(o.request)
		for _, label := range o.labels {
			if !slices.ContainsFunc(s.members, func(m member) bool { return m.name == label && m.in == "uri" }) {
				t.Errorf("%s: the path has %s, the request does not", o.Name, label)
			}
		}
		for _, m := range s.members {
			if m.in == "uri" && !slices.Contains(o.labels, m.name) {
				t.Errorf("%s: the request has %s, the path does not", o.Name, m.name)
			}
		}
		if o.resource == "" {
			t.Errorf("%s: no resource", o.Name)
		}
		if arn := o.arn("arn:x:", reflect.New(o.request).Elem()); strings.ContainsAny(arn, "{}") {
			t.Errorf("%s: resource %q", o.Name, arn)
		}
	}
}

func checkShape(t *testing.T, name string, typ reflect.Type, seen map[reflect.Type]bool) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || typ == timeType || seen[typ] {
		return
	}
	seen[typ] = true
	for _, m := range shapeOf(typ).members {
		if m.is.form != "" && m.typ.Kind() != reflect.String && m.typ.Kind() != reflect.Pointer {
			t.Errorf("%s.%s: a form is for texts", name, m.name)
		}
		checkShape(t, name+"."+m.name, m.typ, seen)
	}
}

// The table, the code and docs/compatibility.md say the same.
func TestReferenceIsUpToDate(t *testing.T) {
	const file = "../../docs/compatibility.md"
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	now, err := WithReference(string(old))
	if err != nil {
		t.Fatal(err)
	}
	if now != string(old) {
		t.Errorf("%s is not what the table says: run go generate ./control/awsapi", file)
	}
	for _, l := range Model() {
		if !regexp.MustCompile(`\b` + l.Name + `\b`).MatchString(now) {
			t.Errorf("%s does not name %s", file, l.Name)
		}
	}
}

func TestRoutes(t *testing.T) {
	routes, _, err := table()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		service      Service
		method, path string
		want         string // operation; "": none
		label, value string
	}{
		{IoT, "GET", "/things/t1", "DescribeThing", "thingName", "t1"},
		{IoT, "GET", "/things/t1/", "DescribeThing", "thingName", "t1"},
		{IoT, "GET", "/things", "ListThings", "", ""},
		{IoT, "GET", "/things/", "ListThings", "", ""},
		{IoT, "POST", "/things", "RegisterThing", "", ""},
		{IoT, "GET", "/things//principals", "", "", ""},
		{IoT, "GET", "/things/a%2Fb", "DescribeThing", "thingName", "a/b"},
		{IoT, "GET", "/things/..", "DescribeThing", "thingName", ".."},
		{IoT, "GET", "/things/../policies", "", "", ""},
		{IoT, "GET", "/things/%zz", "", "", ""},
		{IoT, "GET", "//things", "", "", ""},
		{IoT, "PUT", "/thing-groups/addThingToThingGroup", "AddThingToThingGroup", "", ""},
		{IoT, "PATCH", "/thing-groups/addThingToThingGroup", "UpdateThingGroup", "thingGroupName", "addThingToThingGroup"},
		{IoT, "GET", "/destinations/arn:aws:iot:r:1:ruledestination/http/x", "GetTopicRuleDestination", "arn", "arn:aws:iot:r:1:ruledestination/http/x"},
		{IoT, "GET", "/destinations/arn%3Aaws%3Aiot%3Ar%3A1%3Aruledestination%2Fhttp%2Fx", "GetTopicRuleDestination", "arn", "arn:aws:iot:r:1:ruledestination/http/x"},
		{IoT, "POST", "/attached-policies/arn%3Aaws%3Aiot%3Ar%3A1%3Acert%2Fx", "ListAttachedPolicies", "target", "arn:aws:iot:r:1:cert/x"},
		{IoT, "GET", "/authorizers", "ListAuthorizers", "", ""},
		{IoT, "GET", "/authorizers/", "ListAuthorizers", "", ""},
		{IoT, "BREW", "/things", "", "", ""},
		{Data, "POST", "/topics/a/b", "Publish", "topic", "a/b"},
		{Data, "POST", "/topics/a%2Fb", "Publish", "topic", "a/b"},
		{Data, "POST", "/topics//a//b/", "Publish", "topic", "/a//b/"},
		{Data, "POST", "/topics/", "", "", ""},
		{Data, "GET", "/retainedMessage", "ListRetainedMessages", "", ""},
		{Data, "GET", "/retainedMessage/a/../b", "GetRetainedMessage", "topic", "a/../b"},
		{Data, "GET", "/things/t/jobs/j", "", "", ""},
		{Jobs, "GET", "/things/t/jobs/j", "DescribeJobExecution", "jobId", "j"},
		{Jobs, "PUT", "/things/t/jobs/$next", "StartNextPendingJobExecution", "thingName", "t"},
	} {
		op, labels := routes[c.service].find(c.method, c.path)
		got := ""
		if op != nil {
			got = op.Name
		}
		if got != c.want || c.label != "" && labels[c.label] != c.value {
			t.Errorf("%s %s %s: %q %v, want %q %s=%s", c.service, c.method, c.path, got, labels, c.want, c.label, c.value)
		}
	}
}

// What is signed for a service that is not here is left to others.
func TestClaims(t *testing.T) {
	a := &API{}
	for scope, want := range map[string]bool{"iot": true, "iotdata": true, "iotdevicegateway": true, "iot-jobs-data": true, "execute-api": true, "lambda": false, "s3": false} {
		credential := "AKID/20260101/us-east-1/" + scope + "/aws4_request"
		r := httptest.NewRequest("GET", "/2015-03-31/functions", nil)
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+credential+", SignedHeaders=host, Signature=0")
		q := httptest.NewRequest("GET", "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential="+url.QueryEscape(credential), nil)
		if a.Claims(r) != want || a.Claims(q) != want {
			t.Errorf("%s: %v %v", scope, a.Claims(r), a.Claims(q))
		}
	}
	r := httptest.NewRequest("GET", "/things", nil)
	if a.Claims(r) {
		t.Error("not signed")
	}
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 what?")
	if !a.Claims(r) {
		t.Error("a signature that cannot be read gets no answer of AWS's")
	}
}
