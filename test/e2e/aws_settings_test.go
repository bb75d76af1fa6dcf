package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/smithy-go"
	"github.com/coder/websocket"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/weirtest"
)

// Settings are accepted where they change what Weir does: each test here sees
// the change.

// must1 fails the test on an error.
func must1[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// certified makes an active certificate with a policy of its own, and a client's
// TLS configuration with it.
func certified(t testing.TB, w *weirtest.Weir, c *iot.Client, name, statements string) (*iot.CreateKeysAndCertificateOutput, *tls.Config) {
	t.Helper()
	ctx := t.Context()
	cert := must1[*iot.CreateKeysAndCertificateOutput](t)(c.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{SetAsActive: true}))
	must1[*iot.CreatePolicyOutput](t)(c.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: aws.String(name), PolicyDocument: aws.String(
		`{"Version":"2012-10-17","Statement":[` + statements + `]}`)}))
	must1[*iot.AttachPolicyOutput](t)(c.AttachPolicy(ctx, &iot.AttachPolicyInput{PolicyName: aws.String(name), Target: cert.CertificateArn}))
	pair := must1[tls.Certificate](t)(tls.X509KeyPair([]byte(*cert.CertificatePem), []byte(*cert.KeyPair.PrivateKey)))
	config := w.TLS().Clone()
	config.Certificates = []tls.Certificate{pair}
	return cert, config
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take returns the lines that have every part, and forgets all.
func (l *lines) take(parts ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		all := true
		for _, p := range parts {
			all = all && strings.Contains(line, p)
		}
		if all {
			n++
		}
	}
	l.b.Reset()
	return n
}

// What is logged about a client is what its nearest log level says: of the
// client, its principal, its address, a group of its thing, the default.
func TestAWSLogLevels(t *testing.T) {
	log := &lines{}
	w := weirtest.Start(t, weirtest.Durability("memory"), weirtest.Log(slog.NewTextHandler(log, nil)))
	c := sdk(t, w, nil)
	ctx := t.Context()
	cert, config := certified(t, w, c, "floor", `{"Effect":"Allow","Action":"iot:Connect","Resource":"*"},{"Effect":"Allow","Action":"iot:Publish","Resource":"`+account+`topic/open"}`)
	pump, site, floor := aws.String("pump"), aws.String("site"), aws.String("floor")
	must1[*iot.CreateThingOutput](t)(c.CreateThing(ctx, &iot.CreateThingInput{ThingName: pump}))
	must1[*iot.AttachThingPrincipalOutput](t)(c.AttachThingPrincipal(ctx, &iot.AttachThingPrincipalInput{ThingName: pump, Principal: cert.CertificateArn}))
	must1[*iot.CreateThingGroupOutput](t)(c.CreateThingGroup(ctx, &iot.CreateThingGroupInput{ThingGroupName: site}))
	must1[*iot.CreateThingGroupOutput](t)(c.CreateThingGroup(ctx, &iot.CreateThingGroupInput{ThingGroupName: floor, ParentGroupName: site}))
	must1[*iot.AddThingToThingGroupOutput](t)(c.AddThingToThingGroup(ctx, &iot.AddThingToThingGroupInput{ThingGroupName: floor, ThingName: pump}))

	clients := map[string]*mqttclient.Client{}
	for _, id := range []string{"pump", "stranger", "marker"} {
		o := mqttclient.Options{ClientID: id, Addr: w.Endpoints().MQTTS, TLS: config}
		clients[id] = w.Connect(o)
	}
	// What a publish has to say is logged before it is acknowledged.
	publish := func(id, topic string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		err := clients[id].Publish(ctx, &mqttclient.Message{Topic: topic, QoS: 1})
		if topic == "open" && err != nil {
			t.Fatal(err)
		}
		if topic != "open" && err == nil {
			t.Fatalf("%s may publish on %s", id, topic)
		}
	}
	debugs := func(id string) bool {
		log.take()
		publish(id, "open")
		return log.take("level=DEBUG", "msg=publish", "clientId="+id+" ") == 1
	}
	warns := func(id string) bool {
		log.take()
		publish(id, "closed")
		return log.take("level=WARN", "msg=denied", "clientId="+id+" ") == 1
	}
	set := func(kind types.LogTargetType, name string, level types.LogLevel) {
		t.Helper()
		must1[*iot.SetV2LoggingLevelOutput](t)(c.SetV2LoggingLevel(ctx, &iot.SetV2LoggingLevelInput{LogLevel: level, LogTarget: &types.LogTarget{TargetType: kind, TargetName: &name}}))
	}
	unset := func(kind types.LogTargetType, name string) {
		t.Helper()
		must1[*iot.DeleteV2LoggingLevelOutput](t)(c.DeleteV2LoggingLevel(ctx, &iot.DeleteV2LoggingLevelInput{TargetType: kind, TargetName: &name}))
	}
	// settle returns once all settings made before hold: they do in order.
	shown := false
	settle := func() {
		t.Helper()
		shown = !shown
		if shown {
			set(types.LogTargetTypeClientId, "marker", types.LogLevelDebug)
		} else {
			set(types.LogTargetTypeClientId, "marker", types.LogLevelError)
		}
		weirtest.Eventually(t, func() bool { return debugs("marker") == shown }, func() string { return "the log does not change" })
	}
	expect := func(what, id string, debug, warn bool) {
		t.Helper()
		if d, w := debugs(id), warns(id); d != debug || w != warn {
			t.Errorf("%s: %s at DEBUG %v, at WARN %v; want %v %v", what, id, d, w, debug, warn)
		}
	}

	expect("nothing set", "pump", false, true)
	_, err := c.SetV2LoggingLevel(ctx, &iot.SetV2LoggingLevelInput{LogLevel: types.LogLevelDebug, LogTarget: &types.LogTarget{TargetType: types.LogTargetTypeClientId, TargetName: pump}})
	if missing := (*types.NotConfiguredException)(nil); !errors.As(err, &missing) {
		t.Errorf("a level before the options: %v", err)
	}
	if _, err = c.GetV2LoggingOptions(ctx, &iot.GetV2LoggingOptionsInput{}); !errors.As(err, new(*types.NotConfiguredException)) {
		t.Errorf("options that are not set: %v", err)
	}
	role := aws.String("arn:aws:iam::123456789012:role/logging")
	options := func(level types.LogLevel, off bool) {
		t.Helper()
		must1[*iot.SetV2LoggingOptionsOutput](t)(c.SetV2LoggingOptions(ctx, &iot.SetV2LoggingOptionsInput{RoleArn: role, DefaultLogLevel: level, DisableAllLogs: off}))
	}
	options(types.LogLevelWarn, false)
	set(types.LogTargetTypeThingGroup, "site", types.LogLevelDebug)
	settle()
	expect("a group above its own", "pump", true, true)
	expect("a group above its own", "stranger", false, true)
	set(types.LogTargetTypeThingGroup, "floor", types.LogLevelError)
	settle()
	expect("its own group", "pump", false, false)
	set(types.LogTargetTypeSourceIp, "127.0.0.1", types.LogLevelDebug)
	settle()
	expect("its address", "pump", true, true)
	expect("its address", "stranger", true, true)
	set(types.LogTargetTypePrincipalId, *cert.CertificateId, types.LogLevelDisabled)
	settle()
	expect("its principal", "pump", false, false)
	set(types.LogTargetTypeClientId, "pump", types.LogLevelInfo)
	settle()
	expect("the client itself", "pump", false, true)
	expect("the client itself", "stranger", false, false)

	var names []string
	for p := iot.NewListV2LoggingLevelsPaginator(c, &iot.ListV2LoggingLevelsInput{MaxResults: aws.Int32(2)}); p.HasMorePages(); {
		for _, l := range must1[*iot.ListV2LoggingLevelsOutput](t)(p.NextPage(ctx)).LogTargetConfigurations {
			names = append(names, string(l.LogTarget.TargetType)+"="+string(l.LogLevel))
		}
	}
	if len(names) != 6 {
		t.Errorf("levels: %v", names)
	}
	for _, l := range []struct {
		kind types.LogTargetType
		name string
	}{{types.LogTargetTypeThingGroup, "site"}, {types.LogTargetTypeThingGroup, "floor"}, {types.LogTargetTypeSourceIp, "127.0.0.1"},
		{types.LogTargetTypePrincipalId, *cert.CertificateId}, {types.LogTargetTypeClientId, "pump"}} {
		unset(l.kind, l.name)
	}
	options(types.LogLevelDebug, false)
	settle()
	expect("the default", "stranger", true, true)
	options(types.LogLevelDebug, true)
	weirtest.Eventually(t, func() bool { return !debugs("stranger") }, func() string { return "logging is not disabled" })
	expect("all logs disabled", "pump", false, false)
	got := must1[*iot.GetV2LoggingOptionsOutput](t)(c.GetV2LoggingOptions(ctx, &iot.GetV2LoggingOptionsInput{}))
	if !got.DisableAllLogs || got.DefaultLogLevel != types.LogLevelDebug || aws.ToString(got.RoleArn) != *role {
		t.Errorf("%+v", got)
	}
	var api smithy.APIError
	_, err = c.SetV2LoggingOptions(ctx, &iot.SetV2LoggingOptionsInput{RoleArn: role, EventConfigurations: []types.LogEventConfiguration{{EventType: aws.String("Connect")}}})
	if !errors.As(err, &api) || api.ErrorCode() != "NotImplementedException" {
		t.Errorf("a level of a type of event: %v", err)
	}
}

// Events of the registry come once they are asked for, with what the guide says
// is in them, and no more once they are not.
func TestAWSEventConfigurations(t *testing.T) {
	w := weirtest.Start(t, weirtest.Durability("memory"), weirtest.Key("limits", "relaxed"))
	c := sdk(t, w, nil)
	ctx := t.Context()
	sub := w.Subscribe("$aws/events/#", "end")
	enable := func(on bool, kinds ...string) {
		t.Helper()
		q := map[string]types.Configuration{}
		for _, k := range kinds {
			q[k] = types.Configuration{Enabled: on}
		}
		must1[*iot.UpdateEventConfigurationsOutput](t)(c.UpdateEventConfigurations(ctx, &iot.UpdateEventConfigurationsInput{EventConfigurations: q}))
	}
	was := must1[*iot.DescribeEventConfigurationsOutput](t)(c.DescribeEventConfigurations(ctx, &iot.DescribeEventConfigurationsInput{}))
	if len(was.EventConfigurations) != 11 || was.EventConfigurations["THING"].Enabled || !was.EventConfigurations["CERTIFICATE"].Enabled || !was.EventConfigurations["CA_CERTIFICATE"].Enabled {
		t.Errorf("%+v", was)
	}
	thing, typ, group, inner := aws.String("t"), aws.String("ty"), aws.String("g"), aws.String("in")
	// everything changes whatever there are events about.
	everything := func() {
		t.Helper()
		for _, f := range []func() error{
			func() error {
				_, err := c.CreateThingType(ctx, &iot.CreateThingTypeInput{ThingTypeName: typ})
				return err
			},
			func() error {
				_, err := c.CreateThing(ctx, &iot.CreateThingInput{ThingName: thing, ThingTypeName: typ, AttributePayload: &types.AttributePayload{Attributes: map[string]string{"a": "1"}}})
				return err
			},
			func() error {
				_, err := c.CreateThingGroup(ctx, &iot.CreateThingGroupInput{ThingGroupName: group})
				return err
			},
			func() error {
				_, err := c.CreateThingGroup(ctx, &iot.CreateThingGroupInput{ThingGroupName: inner, ParentGroupName: group})
				return err
			},
			func() error {
				_, err := c.AddThingToThingGroup(ctx, &iot.AddThingToThingGroupInput{ThingGroupName: inner, ThingName: thing})
				return err
			},
			func() error {
				_, err := c.UpdateThing(ctx, &iot.UpdateThingInput{ThingName: thing, RemoveThingType: true})
				return err
			},
			func() error {
				_, err := c.UpdateThingGroup(ctx, &iot.UpdateThingGroupInput{ThingGroupName: group, ThingGroupProperties: &types.ThingGroupProperties{ThingGroupDescription: aws.String("d")}})
				return err
			},
			func() error {
				_, err := c.TagResource(ctx, &iot.TagResourceInput{ResourceArn: aws.String(account + "thinggroup/g"), Tags: []types.Tag{{Key: aws.String("k"), Value: aws.String("v")}}})
				return err // changes nothing there are events about
			},
			func() error {
				_, err := c.RemoveThingFromThingGroup(ctx, &iot.RemoveThingFromThingGroupInput{ThingGroupName: inner, ThingName: thing})
				return err
			},
			func() error {
				_, err := c.DeprecateThingType(ctx, &iot.DeprecateThingTypeInput{ThingTypeName: typ})
				return err
			},
			func() error { _, err := c.DeleteThing(ctx, &iot.DeleteThingInput{ThingName: thing}); return err },
			func() error {
				_, err := c.DeleteThingGroup(ctx, &iot.DeleteThingGroupInput{ThingGroupName: inner})
				return err
			},
			func() error {
				_, err := c.DeleteThingGroup(ctx, &iot.DeleteThingGroupInput{ThingGroupName: group})
				return err
			},
			func() error {
				_, err := c.DeleteThingType(ctx, &iot.DeleteThingTypeInput{ThingTypeName: typ})
				return err
			},
		} {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := []string{"THING", "THING_TYPE", "THING_TYPE_ASSOCIATION", "THING_GROUP", "THING_GROUP_HIERARCHY", "THING_GROUP_MEMBERSHIP"}
	enable(true, all...)
	everything()
	want := map[string]string{
		"thing/t/created": "THING_EVENT", "thing/t/updated": "THING_EVENT", "thing/t/deleted": "THING_EVENT",
		"thingType/ty/created": "THING_TYPE_EVENT", "thingType/ty/updated": "THING_TYPE_EVENT", "thingType/ty/deleted": "THING_TYPE_EVENT",
		"thingTypeAssociation/thing/t/thingType/ty/added": "THING_TYPE_ASSOCIATION_EVENT", "thingTypeAssociation/thing/t/thingType/ty/removed": "THING_TYPE_ASSOCIATION_EVENT",
		"thingGroup/g/created": "THING_GROUP_EVENT", "thingGroup/g/updated": "THING_GROUP_EVENT", "thingGroup/g/deleted": "THING_GROUP_EVENT",
		"thingGroup/in/created": "THING_GROUP_EVENT", "thingGroup/in/deleted": "THING_GROUP_EVENT",
		"thingGroupHierarchy/thingGroup/g/childThingGroup/in/added": "THING_GROUP_HIERARCHY_EVENT", "thingGroupHierarchy/thingGroup/g/childThingGroup/in/removed": "THING_GROUP_HIERARCHY_EVENT",
		"thingGroupMembership/thingGroup/in/thing/t/added": "THING_GROUP_MEMBERSHIP_EVENT", "thingGroupMembership/thingGroup/in/thing/t/removed": "THING_GROUP_MEMBERSHIP_EVENT",
	}
	got := map[string]map[string]any{}
	for len(got) < len(want) {
		m := sub.Next()
		name := strings.TrimPrefix(m.Topic, "$aws/events/")
		if strings.HasPrefix(name, "presence/") || strings.HasPrefix(name, "subscriptions/") {
			continue
		}
		var body map[string]any
		if err := json.Unmarshal(m.Payload, &body); err != nil {
			t.Fatalf("%s: %s", m.Topic, m.Payload)
		}
		if want[name] == "" || got[name] != nil || body["eventType"] != want[name] {
			t.Fatalf("%s %s", m.Topic, m.Payload)
		}
		operation := strings.ToUpper(name[strings.LastIndexByte(name, '/')+1:])
		if id, _ := body["eventId"].(string); len(id) != 36 || body["operation"] != operation || body["accountId"] != "123456789012" || body["timestamp"].(float64) < 1.6e12 {
			t.Errorf("%s %s", m.Topic, m.Payload)
		}
		got[name] = body
	}
	for name, members := range map[string]string{
		"thing/t/created":      `{"thingName":"t","versionNumber":1,"thingTypeName":"ty","attributes":{"a":"1"}}`,
		"thing/t/updated":      `{"thingName":"t","versionNumber":2,"thingTypeName":null,"attributes":{"a":"1"}}`,
		"thingType/ty/created": `{"thingTypeName":"ty","isDeprecated":false,"deprecationDate":null,"searchableAttributes":[],"description":null}`,
		"thingType/ty/updated": `{"isDeprecated":true}`,
		"thingGroup/g/updated": `{"thingGroupName":"g","versionNumber":2,"parentGroupName":null,"parentGroupId":null,"description":"d","rootToParentThingGroups":[],"attributes":{},"dynamicGroupMappingId":null}`,
		"thingGroup/in/created": `{"parentGroupName":"g","parentGroupId":` + quote(got["thingGroup/g/created"]["thingGroupId"]) +
			`,"rootToParentThingGroups":[{"groupArn":"` + account + `thinggroup/g","groupId":` + quote(got["thingGroup/g/created"]["thingGroupId"]) + `}]}`,
		"thingGroupHierarchy/thingGroup/g/childThingGroup/in/removed": `{"thingGroupName":"g","childGroupName":"in","thingGroupId":` + quote(got["thingGroup/g/created"]["thingGroupId"]) + `}`,
		"thingGroupMembership/thingGroup/in/thing/t/removed": `{"groupArn":"` + account + `thinggroup/in","thingArn":"` + account + `thing/t","thingId":` + quote(got["thing/t/created"]["thingId"]) +
			`,"membershipId":` + quote(got["thingGroupMembership/thingGroup/in/thing/t/added"]["membershipId"]) + `}`,
	} {
		var want map[string]any
		if err := json.Unmarshal([]byte(members), &want); err != nil {
			t.Fatal(err)
		}
		for k, v := range want {
			if a, b := quote(v), quote(got[name][k]); a != b {
				t.Errorf("%s: %s is %s, want %s", name, k, b, a)
			}
		}
	}

	enable(false, all...)
	everything()
	w.MustPublish("end", "")
	for {
		m := sub.Next()
		if m.Topic == "end" {
			break
		}
		if strings.Contains(m.Topic, "/thing") {
			t.Errorf("switched off, and there is %s", m.Topic)
		}
	}

	// What cannot be changed is refused; to ask for what is so anyway is not.
	enable(true, "CERTIFICATE")
	enable(false, "JOB", "JOB_EXECUTION", "POLICY")
	for kind, on := range map[string]bool{"JOB": true, "JOB_EXECUTION": true, "POLICY": true, "CERTIFICATE": false} {
		var api smithy.APIError
		_, err := c.UpdateEventConfigurations(ctx, &iot.UpdateEventConfigurationsInput{EventConfigurations: map[string]types.Configuration{kind: {Enabled: on}}})
		if !errors.As(err, &api) || api.ErrorCode() != "NotImplementedException" {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func quote(v any) string {
	b, _ := json.Marshal(v) // of what was JSON
	return string(b)
}

// A device gets credentials for its certificate that sign requests to the API
// and WebSockets, and may what the policy of the role says for it.
func TestAWSCredentialProvider(t *testing.T) {
	w := weirtest.Start(t, weirtest.Durability("memory"), weirtest.Key("listen.https", "localhost:0"), weirtest.Key("listen.mux", "localhost:0"))
	c := sdk(t, w, nil)
	ctx := t.Context()
	_, bare := certified(t, w, c, "bare", `{"Effect":"Allow","Action":"iot:Connect","Resource":"*"}`)
	cert, config := certified(t, w, c, "assumes", `{"Effect":"Allow","Action":"iot:AssumeRoleWithCertificate","Resource":"`+account+`rolealias/pumps",
		"Condition":{"StringEquals":{"iot:Connection.Thing.ThingTypeName":"pump"}}},
		{"Effect":"Allow","Action":"iot:AssumeRoleWithCertificate","Resource":"`+account+`rolealias/free"}`)
	thing := aws.String("p1")
	must1[*iot.CreateThingTypeOutput](t)(c.CreateThingType(ctx, &iot.CreateThingTypeInput{ThingTypeName: aws.String("pump")}))
	must1[*iot.CreateThingOutput](t)(c.CreateThing(ctx, &iot.CreateThingInput{ThingName: thing, ThingTypeName: aws.String("pump")}))
	must1[*iot.CreateThingOutput](t)(c.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("p2"), ThingTypeName: aws.String("pump")}))
	must1[*iot.AttachThingPrincipalOutput](t)(c.AttachThingPrincipal(ctx, &iot.AttachThingPrincipalInput{ThingName: thing, Principal: cert.CertificateArn}))
	role := aws.String("arn:aws:iam::123456789012:role/service/pump-role")
	made := must1[*iot.CreateRoleAliasOutput](t)(c.CreateRoleAlias(ctx, &iot.CreateRoleAliasInput{RoleAlias: aws.String("pumps"), RoleArn: role, CredentialDurationSeconds: aws.Int32(900)}))
	if aws.ToString(made.RoleAliasArn) != account+"rolealias/pumps" {
		t.Errorf("%+v", made)
	}

	must1[*iot.CreateRoleAliasOutput](t)(c.CreateRoleAlias(ctx, &iot.CreateRoleAliasInput{RoleAlias: aws.String("free"), RoleArn: role}))

	at := must1[*iot.DescribeEndpointOutput](t)(c.DescribeEndpoint(ctx, &iot.DescribeEndpointInput{EndpointType: aws.String("iot:CredentialProvider")}))
	type key struct {
		Credentials struct {
			AccessKeyID, SecretAccessKey, SessionToken string
			Expiration                                 time.Time
		}
		Message string
	}
	ask := func(config *tls.Config, method, alias, thing string) (int, key) {
		t.Helper()
		config = config.Clone()
		config.NextProtos = nil
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		defer client.CloseIdleConnections()
		r := must1[*http.Request](t)(http.NewRequestWithContext(ctx, method, "https://"+*at.EndpointAddress+"/role-aliases/"+alias+"/credentials", nil))
		if thing != "" {
			r.Header.Set("x-amzn-iot-thingname", thing)
		}
		resp := must1[*http.Response](t)(client.Do(r))
		defer resp.Body.Close()
		b := must1[[]byte](t)(io.ReadAll(resp.Body))
		var k key
		if err := json.Unmarshal(b, &k); err != nil {
			t.Fatalf("%s: %s", resp.Status, b)
		}
		return resp.StatusCode, k
	}
	// A role without a policy of its name cannot be assumed.
	if status, _ := ask(config, "GET", "pumps", "p1"); status != 403 {
		t.Errorf("a role that is not there: %d", status)
	}
	must1[*iot.CreatePolicyOutput](t)(c.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: aws.String("pump-role"), PolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":"iot:DescribeThing","Resource":"` + account + `thing/${credentials-iot:ThingName}"},
		{"Effect":"Allow","Action":"iot:Connect","Resource":"` + account + `client/${credentials-iot:ThingTypeName}-*"},
		{"Effect":"Allow","Action":"iot:Publish","Resource":"` + account + `topic/of/${credentials-iot:AwsCertificateId}"}]}`)}))
	var k key
	weirtest.Eventually(t, func() bool {
		var status int
		status, k = ask(config, "GET", "pumps", "p1")
		return status == 200
	}, func() string { return k.Message })
	if until := time.Until(k.Credentials.Expiration); until > 900*time.Second || until < 600*time.Second || !strings.HasPrefix(k.Credentials.AccessKeyID, "ASIA") {
		t.Errorf("%s, for %s", k.Credentials.AccessKeyID, until)
	}
	for _, q := range []struct {
		what          string
		config        *tls.Config
		method, alias string
		thing         string
		want          int
	}{
		{"a certificate that may not", bare, "GET", "pumps", "", 403},
		{"another alias", config, "GET", "others", "p1", 403},
		{"without its thing, which its policy asks for", config, "GET", "pumps", "", 403},
		{"a thing that is another's", config, "GET", "pumps", "p2", 403},
		{"a thing that is none", config, "GET", "pumps", "p/../p1", 403},
		{"a thing that is another's, where nothing asks for it", config, "GET", "free", "p2", 403},
		{"no thing, where nothing asks for it", config, "GET", "free", "", 200},
		{"another method", config, "POST", "pumps", "p1", 405},
		{"an alias that is no name", config, "GET", "..%2Fpumps", "p1", 403},
	} {
		if status, got := ask(q.config, q.method, q.alias, q.thing); status != q.want || (got.Credentials.SecretAccessKey != "") != (status == 200) {
			t.Errorf("%s: %d %s, want %d", q.what, status, got.Message, q.want)
		}
	}

	// They sign the API's requests,
	temporary := iot.New(iot.Options{Region: "us-east-1", BaseEndpoint: aws.String(w.Endpoints().API),
		Credentials: credentials.NewStaticCredentialsProvider(k.Credentials.AccessKeyID, k.Credentials.SecretAccessKey, k.Credentials.SessionToken)})
	must1[*iot.DescribeThingOutput](t)(temporary.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: thing}))
	code := func(name string) string {
		_, err := temporary.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: &name})
		var api smithy.APIError
		if errors.As(err, &api) {
			return api.ErrorCode()
		}
		return ""
	}
	if got := code("p2"); got != "AccessDeniedException" {
		t.Errorf("another thing: %q", got)
	}
	// and WebSockets.
	url := presigned(t, w, k.Credentials.AccessKeyID, k.Credentials.SecretAccessKey, k.Credentials.SessionToken)
	if err := overWebSocket(t, w, url, "pump-7", "of/"+*cert.CertificateId); err != nil {
		t.Errorf("over a WebSocket: %v", err)
	}
	if err := overWebSocket(t, w, url, "pump-8", "of/another"); err == nil {
		t.Error("over a WebSocket: another topic is allowed")
	}
	if err := overWebSocket(t, w, url, "valve-7", "of/"+*cert.CertificateId); err == nil {
		t.Error("over a WebSocket: another client id is allowed")
	}

	// They end with what they stand on.
	must1[*iot.UpdateCertificateOutput](t)(c.UpdateCertificate(ctx, &iot.UpdateCertificateInput{CertificateId: cert.CertificateId, NewStatus: types.CertificateStatusRevoked}))
	weirtest.Eventually(t, func() bool { return code("p1") == "UnrecognizedClientException" }, func() string { return "a revoked certificate's credentials still hold: " + code("p1") })

	// Aliases themselves.
	d := must1[*iot.DescribeRoleAliasOutput](t)(c.DescribeRoleAlias(ctx, &iot.DescribeRoleAliasInput{RoleAlias: aws.String("pumps")})).RoleAliasDescription
	if aws.ToString(d.RoleArn) != *role || aws.ToInt32(d.CredentialDurationSeconds) != 900 || aws.ToString(d.Owner) != "123456789012" || d.CreationDate == nil {
		t.Errorf("%+v", d)
	}
	must1[*iot.UpdateRoleAliasOutput](t)(c.UpdateRoleAlias(ctx, &iot.UpdateRoleAliasInput{RoleAlias: aws.String("pumps"), CredentialDurationSeconds: aws.Int32(1000)}))
	if l := must1[*iot.ListRoleAliasesOutput](t)(c.ListRoleAliases(ctx, &iot.ListRoleAliasesInput{})).RoleAliases; len(l) != 2 || l[0] != "free" || l[1] != "pumps" { // the newest first
		t.Errorf("%v", l)
	}
	if _, err := c.CreateRoleAlias(ctx, &iot.CreateRoleAliasInput{RoleAlias: aws.String("pumps"), RoleArn: role}); !errors.As(err, new(*types.ResourceAlreadyExistsException)) {
		t.Errorf("%v", err)
	}
	must1[*iot.DeleteRoleAliasOutput](t)(c.DeleteRoleAlias(ctx, &iot.DeleteRoleAliasInput{RoleAlias: aws.String("pumps")}))
	if _, err := c.DescribeRoleAlias(ctx, &iot.DescribeRoleAliasInput{RoleAlias: aws.String("pumps")}); !errors.As(err, new(*types.ResourceNotFoundException)) {
		t.Errorf("%v", err)
	}
}

// Who may make role aliases and not pass a role gives devices nothing by it.
func TestAWSPassRole(t *testing.T) {
	w := weirtest.Start(t, weirtest.Durability("memory"))
	ctx := t.Context()
	var key control.AccessKey
	if err := w.API().Registry(ctx, "access-key.create", control.AccessKey{Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"},
		{"Effect":"Allow","Action":"iam:PassRole","Resource":"arn:aws:iam::123456789012:role/small"}]}`}, &key); err != nil {
		t.Fatal(err)
	}
	c := iot.New(iot.Options{Region: "us-east-1", BaseEndpoint: aws.String(w.Endpoints().API), Credentials: credentials.NewStaticCredentialsProvider(key.ID, key.Secret, "")})
	const role = "arn:aws:iam::123456789012:role/"
	refused := func(err error) bool {
		var api smithy.APIError
		return errors.As(err, &api) && api.ErrorCode() == "AccessDeniedException" && strings.Contains(api.ErrorMessage(), "iam:PassRole")
	}
	if _, err := c.CreateRoleAlias(ctx, &iot.CreateRoleAliasInput{RoleAlias: aws.String("a"), RoleArn: aws.String(role + "large")}); !refused(err) {
		t.Errorf("another role: %v", err)
	}
	ok(t, func() (*iot.CreateRoleAliasOutput, error) {
		return c.CreateRoleAlias(ctx, &iot.CreateRoleAliasInput{RoleAlias: aws.String("a"), RoleArn: aws.String(role + "small")})
	})
	if _, err := c.UpdateRoleAlias(ctx, &iot.UpdateRoleAliasInput{RoleAlias: aws.String("a"), RoleArn: aws.String(role + "large")}); !refused(err) {
		t.Errorf("changed to another role: %v", err)
	}
}

// presigned returns the URL of a WebSocket, signed as AWS's device SDKs do it:
// the session token is added to what is signed.
func presigned(t testing.TB, w *weirtest.Weir, id, secret, token string) string {
	t.Helper()
	r := must1[*http.Request](t)(http.NewRequest(http.MethodGet, "https://localhost:"+port(w.Endpoints().Mux)+"/mqtt", nil))
	empty := sha256.Sum256(nil)
	signed, _, err := v4.NewSigner().PresignHTTP(t.Context(), aws.Credentials{AccessKeyID: id, SecretAccessKey: secret}, r, hex.EncodeToString(empty[:]), "iotdevicegateway", "us-east-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return signed + "&X-Amz-Security-Token=" + url.QueryEscape(token)
}

// overWebSocket connects by url and publishes.
func overWebSocket(t testing.TB, w *weirtest.Weir, url, clientID, topic string) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	config := w.TLS().Clone()
	config.Certificates = nil
	c, err := mqttclient.Connect(ctx, mqttclient.Options{ClientID: clientID, Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: []string{"mqtt"}, HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: config}}})
		if err != nil {
			return nil, err
		}
		return websocket.NetConn(context.Background(), conn, websocket.MessageBinary), nil
	}})
	if err != nil {
		return err
	}
	defer c.Abort()
	return c.Publish(ctx, &mqttclient.Message{Topic: topic, QoS: 1})
}
