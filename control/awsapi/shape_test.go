package awsapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
)

func decodeInto[Q any](labels map[string]string, query, body string) (*Q, []string, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, nil, err
	}
	in := &input{labels: labels, query: values, header: http.Header{}, body: []byte(body)}
	var q Q
	err = shapeOf(reflect.TypeFor[Q]()).decode(reflect.ValueOf(&q).Elem(), in)
	return &q, in.ignored, err
}

func TestDecodeRefuses(t *testing.T) {
	name := map[string]string{"thingName": "t1"}
	for _, c := range []struct {
		what, name, body string
		code, message    string
	}{
		{"no name", "", `{}`, "InvalidRequestException", "Value 'null' at 'thingName' failed to satisfy constraint: Member must not be null"},
		{"a name too long", strings.Repeat("x", 129), `{}`, "InvalidRequestException", "Member must have length less than or equal to 128"},
		{"a name with other characters", "a b", `{}`, "InvalidRequestException", "Member must satisfy regular expression pattern: [a-zA-Z0-9:_-]+"},
		{"a name on two lines", "a\n", `{}`, "InvalidRequestException", "regular expression"},
		{"a text that is a number", "t1", `{"thingTypeName": 1}`, "SerializationException", "thingTypeName: expected a string, found a number"},
		{"an object that is a list", "t1", `{"attributePayload": []}`, "SerializationException", "attributePayload: expected an object, found a list"},
		{"a boolean that is a text", "t1", `{"attributePayload": {"merge": "true"}}`, "SerializationException", "attributePayload.merge: expected true or false"},
		{"a value inside", "t1", `{"attributePayload": {"attributes": {"a": "b c"}}}`, "InvalidRequestException", "at 'attributePayload.attributes.a.member'"},
		{"a key inside", "t1", `{"attributePayload": {"attributes": {"a b": "c"}}}`, "InvalidRequestException", "at 'attributePayload.attributes'"},
		{"a setting that would change nothing", "t1", `{"billingGroupName": "b"}`, NotImplemented, "billingGroupName: there are no billing groups here"},
		{"no JSON", "t1", `{`, "SerializationException", "the body is not JSON"},
		{"two values", "t1", `{} {}`, "SerializationException", "something behind"},
		{"a list as body", "t1", `[]`, "SerializationException", "the body: expected an object, found a list"},
		{"no UTF-8", "t1", "{\"thingTypeName\": \"\xff\"}", "SerializationException", "UTF-8"},
		{"depth", "t1", strings.Repeat(`{"a":`, 10_000), "SerializationException", "nested too deeply"},
	} {
		name["thingName"] = c.name
		_, _, err := decodeInto[createThingRequest](name, "", c.body)
		var e *Error
		if !errors.As(err, &e) || e.Code != c.code || !strings.Contains(e.Message, c.message) {
			t.Errorf("%s: %v, want %s: %s", c.what, err, c.code, c.message)
		}
		if e != nil && len(e.Message) > 1000 {
			t.Errorf("%s: the message has %d bytes", c.what, len(e.Message))
		}
	}
}

func TestDecodeReads(t *testing.T) {
	q, ignored, err := decodeInto[updateThingRequest](map[string]string{"thingName": "t1"}, "extra=1",
		`{"attributePayload": {"attributes": {"a": ""}, "merge": true, "Merge": 1}, "expectedVersion": 7, "removeThingType": null, "unknown": {}}`)
	if err != nil {
		t.Fatal(err)
	}
	if q.ThingName != "t1" || *q.ExpectedVersion != 7 || !q.AttributePayload.Merge || len(q.AttributePayload.Attributes) != 1 {
		t.Errorf("%+v", q)
	}
	if len(ignored) != 3 { // extra, attributePayload.Merge, unknown
		t.Errorf("ignored: %v", ignored)
	}
	list, _, err := decodeInto[listThingsRequest](nil, "maxResults=5&usePrefixAttributeValue=true&nextToken=", "")
	if err != nil || *list.MaxResults != 5 || !list.UsePrefixAttributeValue {
		t.Errorf("%+v %v", list, err)
	}
	for _, bad := range []string{"maxResults=0", "maxResults=251", "maxResults=x", "maxResults=1&maxResults=2", "usePrefixAttributeValue=yes"} {
		if _, _, err := decodeInto[listThingsRequest](nil, bad, ""); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestTimeIsSeconds(t *testing.T) {
	b, err := json.Marshal(Time{time.UnixMilli(1_700_000_000_007)})
	if err != nil || string(b) != "1700000000.007" {
		t.Errorf("%s %v", b, err)
	}
}

func TestPageStaysRightUnderChange(t *testing.T) {
	key := func(s *string) string { return *s }
	two := int64(2)
	first, next, err := page("l", []string{"a", "c", "e", "g"}, key, "", &two, 10, false)
	if err != nil || len(first) != 2 {
		t.Fatal(first, err)
	}
	// c is gone, d came.
	second, _, err := page("l", []string{"a", "d", "e", "g"}, key, next, &two, 10, false)
	if err != nil || strings.Join(second, "") != "de" {
		t.Errorf("%v %v", second, err)
	}
	down, _, err := page("l", []string{"g", "e", "b", "a"}, key, token("l", "c"), nil, 10, true)
	if err != nil || strings.Join(down, "") != "ba" {
		t.Errorf("%v %v", down, err)
	}
	for _, bad := range []string{"x", "!", token("other", "a")} {
		if _, _, err := page("l", []string{"a"}, key, bad, nil, 10, false); err == nil {
			t.Errorf("token %q is accepted", bad)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("t1", "maxResults=1", `{"topicRulePayload":{"sql":"SELECT 1","actions":[{"a":{}}]}}`)
	f.Add("", "a=%zz", `[[[[`)
	f.Add("a/b", "x", `{"tags":[{"Key":"a"}],"thingGroupProperties":{"attributePayload":{"attributes":{"a":null}}}}`)
	_, all, err := table()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, label, query, body string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			values = nil
		}
		for _, o := range all {
			if o.handle == nil {
				continue
			}
			labels := map[string]string{}
			for _, name := range o.labels {
				labels[name] = label
			}
			in := &input{labels: labels, query: values, header: http.Header{"X-Amzn-Principal": {label}, "X-Amz-Mqtt5-User-Properties": {body}}, body: []byte(body)}
			q := reflect.New(o.request).Elem()
			if err := shapeOf(o.request).decode(q, in); err != nil {
				var e *Error
				if !errors.As(err, &e) || statuses[e.Code] == 0 {
					t.Fatalf("%s: %v", o.Name, err)
				}
				continue
			}
			o.arn("arn:", q)
		}
	})
}

func FuzzRoute(f *testing.F) {
	f.Add("GET", "/things/a%2Fb/principals")
	f.Add("POST", "/topics///")
	f.Add("DELETE", "/")
	routes, _, err := table()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		for s, r := range routes {
			op, labels := r.find(method, path)
			if op != nil && len(labels) != len(op.labels) {
				t.Errorf("%s %s %s: %s has labels %v", s, method, path, op.Name, labels)
			}
		}
	})
}
