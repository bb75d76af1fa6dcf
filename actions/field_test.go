package actions

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
)

var testFields = []Field{
	{Name: "url", Type: String, Required: true, Template: true, Help: "where to post"},
	{Name: "qos", Type: Int},
	{Name: "enableBatching", Type: Bool},
	{Name: "mode", Type: String, Values: []string{"private", "public-read"}},
	{Name: "headers", Type: List, Fields: []Field{{Name: "key", Type: String, Required: true}, {Name: "value", Type: String}}},
	{Name: "auth", Type: Object, Fields: []Field{{Name: "sigv4", Type: Object, Fields: []Field{{Name: "roleArn", Type: String}}}}},
}

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		raw  string
		path []string
		msg  string
		hint string
	}{
		{`{"url":"x","qos":1,"enableBatching":"true","headers":[{"key":"a","value":"b"}],"auth":{"sigv4":{"roleArn":"r"}}}`, nil, "", ""},
		{`{"url":"x","auth":null}`, nil, "", ""},
		{`{"ulr":"x"}`, []string{"ulr"}, `unknown key "ulr"`, `did you mean "url"?`},
		{`{"qos":1}`, nil, `the key "url" is missing`, "where to post"},
		{`{"url":"x","qos":1.5}`, []string{"qos"}, "expected an integer, found a number", ""},
		{`{"url":["x"]}`, []string{"url"}, "expected a string, found a list", ""},
		{`{"url":"x","url":"y"}`, []string{"url"}, "the key comes twice", ""},
		{`{"url":"x","headers":[{"key":"a"},{"kye":"b"}]}`, []string{"headers", "1", "kye"}, `unknown key "kye"`, `did you mean "key"?`},
		{`{"url":"x","auth":{"sigv4":{"role":"b"}}}`, []string{"auth", "sigv4", "role"}, `unknown key "role"`, "known are roleArn"},
		{`{"url":"x","mode":"privat"}`, []string{"mode"}, `"privat" is none of private, public-read`, `did you mean "private"?`},
		{`"x"`, nil, "expected an object, found a string", ""},
	} {
		var into struct {
			URL     string `json:"url"`
			Headers []struct{ Key, Value string }
		}
		err := Decode(json.RawMessage(c.raw), testFields, &into)
		if c.msg == "" {
			if err != nil || into.URL != "x" {
				t.Errorf("%s: %v, %+v", c.raw, err, into)
			}
			continue
		}
		var fe *FieldError
		if !errors.As(err, &fe) || !slices.Equal(fe.Path, c.path) || fe.Msg != c.msg || fe.Hint != c.hint {
			t.Errorf("%s: %#v", c.raw, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(`{"url":"x","qos":1,"headers":[{"key":"a"}]}`)
	f.Add(`{"auth":{"sigv4":{}}}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, s string) {
		var into map[string]any
		if Decode(json.RawMessage(s), testFields, &into) == nil && into["url"] == nil {
			t.Fatalf("%q: a required key is missing", s)
		}
	})
}

func TestClasses(t *testing.T) {
	err := errors.New("x")
	if IsPermanent(err) || IsUnreachable(err) || !IsPermanent(RetryAfter(Permanent(err), 5)) || retryAfter(Unreachable(RetryAfter(err, 5))) != 5 {
		t.Error("classes do not add up")
	}
	if Permanent(nil) != nil || RetryAfter(nil, 1) != nil || Network(nil) != nil {
		t.Error("nil must stay nil")
	}
}
