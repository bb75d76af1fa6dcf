package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

func parse(t testing.TB, doc string) *Document {
	t.Helper()
	d, err := Parse(doc)
	if err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	return d
}

// statement makes a document of one statement's text.
func statement(s string) string {
	return `{"Version": "2012-10-17", "Statement": [` + s + `]}`
}

// Each file of testdata/bad has one mistake; what the user reads follows behind
// a line of dashes.
func TestMistakes(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatal(len(files), err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		doc, want, _ := strings.Cut(string(b), "\n----\n")
		_, err = Parse(doc)
		var e *Error
		if !errors.As(err, &e) || !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", f, err)
			continue
		}
		if got := e.Detail(); got != strings.TrimSuffix(want, "\n") {
			t.Errorf("%s:\n%s\nwant\n%s", f, got, want)
			if os.Getenv("UPDATE") != "" {
				os.WriteFile(f, []byte(doc+"\n----\n"+got+"\n"), 0o644)
			}
		}
	}
}

func TestSize(t *testing.T) {
	doc := statement(`{"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:us-east-1:123456789012:topic/é"}`)
	n := Size(doc)
	if n != len(strings.ReplaceAll(doc, " ", ""))-1 {
		t.Error(n)
	}
	spaced := strings.ReplaceAll(doc, ", ", ", \n\t")
	if err := Check(spaced, n); err != nil {
		t.Error(err)
	}
	if err := Check(doc, n-1); !errs.Is(err, errs.TooLarge) {
		t.Error(err)
	}
	if _, err := Parse(strings.Repeat(" ", maxBytes) + doc); !errs.Is(err, errs.Invalid) {
		t.Error(err)
	}
}

// ask decides one statement about iot:Publish on topic/x, or what act says.
func ask(t testing.TB, cond string, f *Facts, act string) bool {
	t.Helper()
	s := Compile(Source{"p", parse(t, statement(`{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {`+cond+`}}`))})
	return s.Decide(&Request{Action: ActionOf(act), Resource: prefix + "topic/x", Facts: f.Prepare(), Now: time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)}).Allowed
}

func TestConditions(t *testing.T) {
	f := &Facts{
		ClientID: "Client-7", MQTT: true, Secure: true, DomainName: "iot.example", SourceIP: netip.MustParseAddr("::ffff:192.0.2.9"),
		Thing: &Thing{Name: "Client-7", Type: "pump", Attributes: map[string]string{"n": "41.5", "Day": "2026-01-02", "a": "YQ=="}},
		Certificate: &Certificate{ID: "cafe", SerialNumber: "12", Attributes: map[string][]string{
			"Subject.Organization": {"A", "B"}, "Subject.CommonName": {"x"}, "Issuer.CommonName": {strings.Repeat("y", 1025)},
		}},
		Other: map[string][]string{"aws:username": {"ann"}},
	}
	for _, c := range []struct {
		cond string
		want bool
	}{
		{`"StringEquals": {"iot:ClientId": "Client-7"}`, true},
		{`"StringEquals": {"IOT:clientID": "Client-7"}`, true},
		{`"StringEquals": {"iot:ClientId": "client-7"}`, false},
		{`"StringEqualsIgnoreCase": {"iot:ClientId": "client-7"}`, true},
		{`"StringNotEquals": {"iot:ClientId": ["a", "Client-7"]}`, false},
		{`"StringNotEquals": {"iot:ClientId": ["a", "b"]}`, true},
		{`"StringNotEqualsIgnoreCase": {"iot:ClientId": "CLIENT-7"}`, false},
		{`"StringLike": {"iot:ClientId": "C*-?"}`, true},
		{`"StringEquals": {"iot:ClientId": "C*-?"}`, false},
		{`"StringNotLike": {"iot:ClientId": "C*"}`, false},
		{`"StringEquals": {"iot:ClientId": "${iot:Connection.Thing.ThingName}"}`, true},
		{`"StringNotEquals": {"iot:ClientId": "${iot:Connection.Thing.Attributes[none]}"}`, false}, // rests on what is not known
		{`"StringEquals": {"iot:Connection.Thing.Attributes[N]": "41.5"}`, false},
		{`"NumericEquals": {"iot:Connection.Thing.Attributes[n]": 41.50}`, true},
		{`"NumericLessThan": {"iot:Connection.Thing.Attributes[n]": "42"}`, true},
		{`"NumericGreaterThanEquals": {"iot:Connection.Thing.Attributes[n]": "42"}`, false},
		{`"NumericNotEquals": {"iot:Connection.Thing.Attributes[n]": "42"}`, true},
		{`"NumericEquals": {"iot:ClientId": "42"}`, false},
		{`"DateLessThan": {"iot:Connection.Thing.Attributes[Day]": "2026-01-02T00:00:01Z"}`, true},
		{`"DateGreaterThan": {"aws:CurrentTime": "2026-05-06T07:08:08Z"}`, true},
		{`"DateGreaterThan": {"aws:CurrentTime": "2026-05-06T07:08:09Z"}`, false},
		{`"NumericLessThanEquals": {"aws:EpochTime": "1778051289"}`, true},
		{`"Bool": {"aws:SecureTransport": true}`, true},
		{`"Bool": {"iot:Connection.Thing.IsAttached": "false"}`, false},
		{`"BinaryEquals": {"iot:Connection.Thing.Attributes[a]": "YQ=="}`, true},
		{`"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}`, true},
		{`"IpAddress": {"iot:SourceIp": "192.0.2.9"}`, true},
		{`"NotIpAddress": {"aws:SourceIp": ["10.0.0.0/8", "192.0.2.8/31"]}`, false},
		{`"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}`, true},
		{`"StringEquals": {"iot:DomainName": "iot.example"}`, true},
		{`"StringEquals": {"aws:username": "ann"}`, true},
		{`"StringEquals": {"aws:userid": "ann"}`, false},
		{`"StringNotEquals": {"aws:userid": "ann"}`, true},
		{`"StringEqualsIfExists": {"aws:userid": "ann"}`, true},
		{`"StringEqualsIfExists": {"aws:username": "bob"}`, false},
		{`"Null": {"aws:userid": "true"}`, true},
		{`"Null": {"aws:username": "true"}`, false},
		{`"Null": {"aws:username": false}`, true},
		{`"ForAllValues:StringEquals": {"iot:Certificate.Subject.Organization.List": ["A", "B", "C"]}`, true},
		{`"ForAllValues:StringEquals": {"iot:Certificate.Subject.Organization.List": ["A"]}`, false},
		{`"ForAnyValue:StringEquals": {"iot:Certificate.Subject.Organization.List": ["B"]}`, true},
		{`"ForAnyValue:StringEquals": {"iot:Certificate.Subject.Country.List": ["B"]}`, false},
		{`"ForAllValues:StringEquals": {"iot:Certificate.Subject.Country.List": ["B"]}`, true},
		{`"ForAllValues:StringNotEquals": {"iot:Certificate.Subject.Organization.List": ["B"]}`, false},
		{`"StringEquals": {"iot:Certificate.Subject.Organization": "B"}`, false},
		{`"StringEquals": {"iot:Certificate.Subject.Organization.1": "B"}`, true},
		{`"StringLike": {"iot:Certificate.Issuer.CommonName": "*"}`, false}, // too long
		{`"StringEquals": {"iot:Certificate.SerialNumber": "12", "iot:CertificateId": "cafe"}`, true},
		{`"StringEquals": {"iot:Certificate.SerialNumber": "12", "iot:CertificateId": "cafd"}`, false},
		{`"ForAnyValue:StringEquals": {"iot:Certificate.AvailableKeys": "iot:Certificate.Subject.CommonName"}`, true},
		{`"ForAnyValue:StringEquals": {"iot:Certificate.AvailableKeys": "iot:Certificate.Subject.Title"}`, false},
		{`"ForAllValues:StringEquals": {"iot:ConnectAttributes": []}`, true}, // only iot:Connect has any
	} {
		if got := ask(t, c.cond, f, "iot:Publish"); got != c.want {
			t.Errorf("%s: %v", c.cond, got)
		}
	}
	f.ConnectAttributes, f.LastWillTopic = []string{"LastWill"}, prefix+"topic/will/a"
	for cond, want := range map[string]bool{
		`"ArnEquals": {"iot:LastWillTopic": "` + prefix + `topic/will/*"}`:    true,
		`"ArnLike": {"iot:LastWillTopic": "arn:aws:iot:*:*:topic/will/?"}`:    true,
		`"ArnNotLike": {"iot:LastWillTopic": "arn:aws:iot:*:*:topic/will/?"}`: false,
		`"ArnLike": {"iot:LastWillTopic": "arn:aws:*:*:*:topic/other"}`:       false,
		`"ForAllValues:StringEquals": {"iot:ConnectAttributes": []}`:          false,
	} {
		if got := ask(t, cond, f, "iot:Connect"); got != want {
			t.Errorf("%s: %v", cond, got)
		}
	}
}

// Nothing a device chooses makes a statement say more than it says.
func TestVariablesDoNotWiden(t *testing.T) {
	for _, c := range []struct{ effect, element, resource, ask string }{
		{"Allow", "Resource", "topicfilter/dev/${iot:ClientId}", "topicfilter/dev/#"},
		{"Allow", "Resource", "topic/${iot:Connection.Thing.Attributes[a]}", "topic/x"},
		{"Allow", "Resource", "topic/${iot:Certificate.Subject.CommonName}/*", "topic/${iot:Certificate.Subject.CommonName}/x"},
		{"Allow", "NotResource", "topic/${iot:Connection.Thing.ThingName}/locked", "topic/dev1/locked"},
	} {
		s := Compile(Source{"p", parse(t, statement(fmt.Sprintf(`{"Effect": %q, "Action": "*", %q: %q}`, c.effect, c.element, prefix+c.resource)))})
		for _, id := range []string{"#", "+", "*", "dev?", "${iot:ClientId}", "${*}", "a/b", "$"} {
			f := (&Facts{ClientID: id, MQTT: true, Certificate: &Certificate{Attributes: map[string][]string{"Subject.CommonName": {id}}}}).Prepare()
			if c.resource == "topic/${iot:Connection.Thing.Attributes[a]}" {
				f.Thing = &Thing{Name: "t", Attributes: map[string]string{"a": id}}
			}
			if d := s.Decide(&Request{Action: ActionOf("iot:Subscribe"), Resource: prefix + c.ask, Facts: f}); d.Allowed {
				t.Errorf("%s as %q: %s is allowed", c.resource, id, c.ask)
			}
		}
	}
	// The same, denied: what is not known does not lift a denial.
	s := Compile(Source{"a", parse(t, statement(`{"Effect": "Allow", "Action": "*", "Resource": "*"}`))},
		Source{"d", parse(t, statement(`{"Effect": "Deny", "Action": "*", "NotResource": "`+prefix+`topic/${iot:Connection.Thing.ThingName}"}`))})
	if d := s.Decide(&Request{Action: ActionOf("iot:Publish"), Resource: prefix + "topic/x", Facts: &Facts{ClientID: "x"}}); !d.Explicit() {
		t.Error(d)
	}
}

func TestActionsAndEscapes(t *testing.T) {
	for _, c := range []struct {
		st, action, resource string
		want                 bool
	}{
		{`"Action": "IOT:publish", "Resource": "*"`, "iot:Publish", "x", true},
		{`"NotAction": "iot:Publish", "Resource": "*"`, "iot:Publish", "x", false},
		{`"NotAction": ["iot:Pub*", "s3:*"], "Resource": "*"`, "iot:Receive", "x", true},
		{`"Action": "dynamodb:Get?tem", "Resource": "arn:aws:dynamodb:*"`, "dynamodb:GetItem", "arn:aws:dynamodb:us-east-1:1:table/t", true},
		{`"Action": "*", "Resource": "arn:aws:s3:::b/*"`, "s3:PutObject", "arn:aws:s3:::b/k", true},
		{`"Action": "iot:ListRetainedMessages", "Resource": "` + prefix + `*"`, "iot:ListRetainedMessages", "*", false},
		{`"Action": "*", "Resource": "` + prefix + `a${*}b${?}c${$}{x}"`, "iot:Publish", prefix + "a*b?c${x}", true},
		{`"Action": "*", "Resource": "` + prefix + `t/${iot:Nothing, 'every*'}"`, "iot:Publish", prefix + "t/every*", true},
		{`"Action": "*", "Resource": "` + prefix + `t/${iot:Nothing, 'every*'}"`, "iot:Publish", prefix + "t/everyone", false},
	} {
		s := Compile(Source{"p", parse(t, statement(`{"Effect": "Allow", `+c.st+`}`))})
		if d := s.Decide(&Request{Action: ActionOf(c.action), Resource: c.resource, Facts: &Facts{}}); d.Allowed != c.want {
			t.Errorf("%s: %s %s: %v", c.st, c.action, c.resource, d)
		}
	}
	if d := Compile().Decide(&Request{Action: ActionOf("iot:Connect"), Resource: "*", Facts: &Facts{}}); d.Allowed || Compile().Text(d) != "the principal has no policy" {
		t.Error(d)
	}
}

func TestExplain(t *testing.T) {
	s := Compile(
		Source{"devices", parse(t, `{"Version": "2012-10-17", "Statement": [
			{"Sid": "own", "Effect": "Allow", "Action": "iot:Publish", "Resource": "`+prefix+`topic/${iot:ClientId}/*"},
			{"Effect": "Allow", "Action": "iot:Publish", "Resource": "`+prefix+`topic/${iot:Connection.Thing.ThingName}"},
			{"Effect": "Allow", "Action": ["iot:Publish", "iot:Connect"], "Resource": "*", "Condition": {"StringEquals": {"iot:ClientId": "other"}}},
			{"Effect": "Allow", "Action": "iot:Subscribe", "Resource": "*"}]}`)},
		Source{"fence", parse(t, statement(`{"Effect": "Deny", "Action": "*", "Resource": "`+prefix+`topic/c1/locked"}`))})
	f := (&Facts{ClientID: "c1", MQTT: true}).Prepare()
	explain := func(res string) *Explanation {
		return s.Explain(&Request{Action: ActionOf("iot:Publish"), Resource: prefix + res, Facts: f})
	}
	e := explain("topic/c1/t")
	if !e.Allowed || e.Decided == nil || e.Decided.Sid != "own" || e.Reason != "statement 1 (own) of policy devices allows it" || e.Smallest != "" || e.Others != 1 {
		t.Errorf("%+v", e)
	}
	if v := e.Decided.Variables; len(v) != 1 || v[0] != (Variable{"iot:ClientId", "c1", false}) {
		t.Error(v)
	}
	e = explain("topic/c1/locked")
	if e.Allowed || e.Reason != "statement 1 of policy fence denies it" || e.Smallest != "" {
		t.Errorf("%+v", e)
	}
	e = explain("topic/a*$b")
	if e.Allowed || e.Reason != "no statement allows it" || e.Decided != nil {
		t.Errorf("%+v", e)
	}
	var why []string
	for _, v := range e.Statements {
		why = append(why, v.Why)
	}
	if got := strings.Join(why, "\n"); got != `its resource is `+prefix+`topic/c1/locked
its resource is `+prefix+`topic/c1/*
${iot:Connection.Thing.ThingName} has no value here, so its resource matches nothing
its condition StringEquals is not met: iot:ClientId is "c1", the policy names "other"` {
		t.Error(got)
	}
	// The smallest statement does allow it, and nothing beside it.
	more := Compile(Source{"more", parse(t, statement(e.Smallest))})
	for res, want := range map[string]bool{"topic/a*$b": true, "topic/aX$b": false, "topic/a": false} {
		if d := more.Decide(&Request{Action: ActionOf("iot:Publish"), Resource: prefix + res, Facts: f}); d.Allowed != want {
			t.Errorf("%s with %s: %v", res, e.Smallest, d)
		}
	}
}
