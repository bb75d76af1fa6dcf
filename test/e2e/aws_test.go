package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/smithy-go"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/config"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/weirtest"
)

const account = "arn:aws:iot:us-east-1:123456789012:"

func accessKey(t testing.TB, w *weirtest.Weir) control.OwnerKey {
	t.Helper()
	k, err := control.ReadAccessKey(w.Endpoints().AccessKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sdk returns the AWS SDK for Go's client. requests counts what it sends.
func sdk(t testing.TB, w *weirtest.Weir, requests *int) *iot.Client {
	t.Helper()
	k := accessKey(t, w)
	var mu sync.Mutex
	return iot.New(iot.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(w.Endpoints().API),
		Credentials: credentials.NewStaticCredentialsProvider(k.ID, k.Secret, ""),
		HTTPClient: doer(func(r *http.Request) (*http.Response, error) {
			if requests != nil {
				mu.Lock()
				*requests++
				mu.Unlock()
			}
			return http.DefaultClient.Do(r)
		}),
	})
}

type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

// The AWS SDK for Go v2, on which the Terraform provider stands: results, typed
// errors, pages.
func TestAWSSDKGo(t *testing.T) {
	w := weirtest.Start(t)
	sent := 0
	c := sdk(t, w, &sent)
	ctx := t.Context()

	made, err := c.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("pump"), AttributePayload: &types.AttributePayload{Attributes: map[string]string{"site": "a"}}})
	if err != nil || aws.ToString(made.ThingArn) != account+"thing/pump" {
		t.Fatal(made, err)
	}
	again, err := c.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("pump"), AttributePayload: &types.AttributePayload{Attributes: map[string]string{"site": "a"}}})
	if err != nil || aws.ToString(again.ThingId) != aws.ToString(made.ThingId) {
		t.Errorf("the same thing again: %v %v", again, err)
	}
	_, err = c.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("pump")})
	var exists *types.ResourceAlreadyExistsException
	if !errors.As(err, &exists) || aws.ToString(exists.ResourceArn) != account+"thing/pump" || aws.ToString(exists.ResourceId) == "" {
		t.Errorf("another thing of the name: %v", err)
	}
	_, err = c.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: aws.String("none")})
	if missing := (*types.ResourceNotFoundException)(nil); !errors.As(err, &missing) {
		t.Errorf("a thing that is not there: %v", err)
	}
	_, err = c.UpdateThing(ctx, &iot.UpdateThingInput{ThingName: aws.String("pump"), ExpectedVersion: aws.Int64(9), ThingTypeName: nil})
	if conflict := (*types.VersionConflictException)(nil); !errors.As(err, &conflict) {
		t.Errorf("another version: %v", err)
	}
	_, err = c.CreateTopicRule(ctx, &iot.CreateTopicRuleInput{RuleName: aws.String("r"), TopicRulePayload: &types.TopicRulePayload{Sql: aws.String("SELECT FROM 'a'"), Actions: []types.Action{}}})
	if sql := (*types.SqlParseException)(nil); !errors.As(err, &sql) || !strings.HasPrefix(sql.ErrorMessage(), "1:8:") {
		t.Errorf("a statement with a mistake: %v", err)
	}
	_, err = c.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: aws.String("p"), PolicyDocument: aws.String(`{"Version":"2012-10-17"}`)})
	if bad := (*types.MalformedPolicyException)(nil); !errors.As(err, &bad) {
		t.Errorf("a policy without statements: %v", err)
	}

	// What is not there is said once, by name.
	before := sent
	_, err = c.CreateJob(ctx, &iot.CreateJobInput{JobId: aws.String("j"), Targets: []string{account + "thing/pump"}})
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != "NotImplementedException" || !strings.Contains(api.ErrorMessage(), "CreateJob") {
		t.Errorf("jobs: %v", err)
	}
	if sent != before+1 {
		t.Errorf("the client asked %d times for what is not there", sent-before)
	}

	for i := range 7 {
		if _, err := c.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String(fmt.Sprintf("t%d", i))}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for p := iot.NewListThingsPaginator(c, &iot.ListThingsInput{MaxResults: aws.Int32(3)}); p.HasMorePages(); {
		page, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, th := range page.Things {
			names = append(names, aws.ToString(th.ThingName))
		}
	}
	if got := strings.Join(names, " "); got != "pump t0 t1 t2 t3 t4 t5 t6" {
		t.Errorf("things: %s", got)
	}

	// As the Terraform provider makes and reads a rule.
	payload := &types.TopicRulePayload{
		Sql: aws.String("SELECT *, topic(2) AS id FROM 'in/+'"), AwsIotSqlVersion: aws.String("2016-03-23"), RuleDisabled: aws.Bool(false), Description: aws.String("d"),
		Actions:     []types.Action{{Republish: &types.RepublishAction{RoleArn: aws.String("arn:aws:iam::123456789012:role/r"), Topic: aws.String("out/${topic(2)}"), Qos: aws.Int32(1)}}},
		ErrorAction: &types.Action{Republish: &types.RepublishAction{RoleArn: aws.String("arn:aws:iam::123456789012:role/r"), Topic: aws.String("err")}},
	}
	if _, err := c.CreateTopicRule(ctx, &iot.CreateTopicRuleInput{RuleName: aws.String("copy"), TopicRulePayload: payload}); err != nil {
		t.Fatal(err)
	}
	rule, err := c.GetTopicRule(ctx, &iot.GetTopicRuleInput{RuleName: aws.String("copy")})
	if err != nil || aws.ToString(rule.RuleArn) != account+"rule/copy" || aws.ToString(rule.Rule.Sql) != *payload.Sql || aws.ToInt32(rule.Rule.Actions[0].Republish.Qos) != 1 ||
		rule.Rule.ErrorAction == nil || rule.Rule.CreatedAt == nil || time.Since(*rule.Rule.CreatedAt) > time.Hour {
		t.Errorf("%+v %v", rule, err)
	}
	tags, err := c.ListTagsForResource(ctx, &iot.ListTagsForResourceInput{ResourceArn: rule.RuleArn})
	if err != nil || len(tags.Tags) != 0 {
		t.Errorf("%+v %v", tags, err)
	}
	sub := w.Subscribe("out/#")
	w.MustPublish("in/7", `{"a": 1}`)
	if m := sub.Next(); m.Topic != "out/7" {
		t.Errorf("%+v", m)
	}
	for _, f := range []func() error{
		func() error {
			_, err := c.DisableTopicRule(ctx, &iot.DisableTopicRuleInput{RuleName: aws.String("copy")})
			return err
		},
		func() error {
			_, err := c.DeleteTopicRule(ctx, &iot.DeleteTopicRuleInput{RuleName: aws.String("copy")})
			return err
		},
		func() error {
			_, err := c.DeleteTopicRule(ctx, &iot.DeleteTopicRuleInput{RuleName: aws.String("copy")})
			return err
		},
	} {
		if err := f(); err != nil {
			t.Error(err)
		}
	}
}

// The AWS SDK for JavaScript v3: both services, errors as its classes.
func TestAWSSDKJavaScript(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	w := weirtest.Start(t)
	k := accessKey(t, w)
	sub := w.Subscribe("js/#")
	const script = `
const iot = require('@aws-sdk/client-iot'), data = require('@aws-sdk/client-iot-data-plane')
const assert = require('assert').strict
const [endpoint, accessKeyId, secretAccessKey] = process.argv.slice(1)
const o = {region: 'us-east-1', endpoint, credentials: {accessKeyId, secretAccessKey}}
const c = new iot.IoTClient(o), d = new data.IoTDataPlaneClient(o)
const run = (name, q) => c.send(new iot[name + 'Command'](q)), rund = (name, q) => d.send(new data[name + 'Command'](q))
const fails = async (p, cls, text) => assert.rejects(p, e => { assert(typeof cls === 'string' ? e.name === cls : e instanceof cls, e.name + ' ' + e.message); assert.match(e.message, text); return true })
;(async () => {
  await run('CreateThingType', {thingTypeName: 'pump', thingTypeProperties: {thingTypeDescription: 'a pump', searchableAttributes: ['site']}, tags: [{Key: 'team', Value: 'a'}]})
  const thing = await run('CreateThing', {thingName: 'p1', thingTypeName: 'pump', attributePayload: {attributes: {site: 'x'}}})
  assert.equal((await run('DescribeThing', {thingName: 'p1'})).version, 1)
  await fails(run('CreateThing', {thingName: 'p1'}), iot.ResourceAlreadyExistsException, /p1/)
  await fails(run('DescribeThing', {thingName: 'no'}), iot.ResourceNotFoundException, /no/)
  await fails(run('CreateThing', {thingName: 'a b'}), iot.InvalidRequestException, /regular expression/)
  await run('CreateThingGroup', {thingGroupName: 'g', thingGroupProperties: {thingGroupDescription: 'd'}})
  await run('AddThingToThingGroup', {thingGroupName: 'g', thingArn: thing.thingArn})
  assert.deepEqual((await run('ListThingsInThingGroup', {thingGroupName: 'g'})).things, ['p1'])
  const cert = await run('CreateKeysAndCertificate', {setAsActive: true})
  assert.match(cert.keyPair.PrivateKey, /BEGIN .*PRIVATE KEY/)
  const doc = JSON.stringify({Version: '2012-10-17', Statement: [{Effect: 'Allow', Action: 'iot:Publish', Resource: 'arn:aws:iot:us-east-1:123456789012:topic/a'}]})
  await run('CreatePolicy', {policyName: 'pol', policyDocument: doc})
  await run('AttachPolicy', {policyName: 'pol', target: cert.certificateArn})
  await run('AttachThingPrincipal', {thingName: 'p1', principal: cert.certificateArn})
  assert.deepEqual((await run('ListThingPrincipals', {thingName: 'p1'})).principals, [cert.certificateArn])
  assert.deepEqual((await run('ListPrincipalThings', {principal: cert.certificateArn})).things, ['p1'])
  assert.deepEqual((await run('ListTargetsForPolicy', {policyName: 'pol'})).targets, [cert.certificateArn])
  assert.equal((await run('ListAttachedPolicies', {target: cert.certificateArn})).policies[0].policyName, 'pol')
  await fails(run('DeletePolicy', {policyName: 'pol'}), iot.DeleteConflictException, /attached/)
  await fails(run('DeleteCertificate', {certificateId: cert.certificateId}), iot.CertificateStateException, /ACTIVE/)
  const test = await run('TestAuthorization', {principal: cert.certificateArn, authInfos: [
    {actionType: 'PUBLISH', resources: ['arn:aws:iot:us-east-1:123456789012:topic/a']}, {actionType: 'PUBLISH', resources: ['arn:aws:iot:us-east-1:123456789012:topic/b']}]})
  assert.deepEqual(test.authResults.map(r => r.authDecision), ['ALLOWED', 'IMPLICIT_DENY'])
  assert.equal((await run('GetEffectivePolicies', {principal: cert.certificateArn})).effectivePolicies[0].policyDocument, doc)
  const typeArn = (await run('DescribeThingType', {thingTypeName: 'pump'})).thingTypeArn
  await run('TagResource', {resourceArn: typeArn, tags: [{Key: 'k', Value: 'v'}]})
  assert.deepEqual((await run('ListTagsForResource', {resourceArn: typeArn})).tags, [{Key: 'k', Value: 'v'}, {Key: 'team', Value: 'a'}])
  await fails(run('CreateJob', {jobId: 'j', targets: [thing.thingArn]}), 'NotImplementedException', /CreateJob/)
  assert.match((await run('DescribeEndpoint', {endpointType: 'iot:Data-ATS'})).endpointAddress, /:[0-9]+$/)

  await rund('Publish', {topic: 'js/retained/é', qos: 1, retain: true, payload: Buffer.from('hi'), contentType: 'text/plain',
    userProperties: JSON.stringify([{a: '1'}, {b: '2'}]), correlationData: Buffer.from('c').toString('base64'), responseTopic: 'js/answer'})
  for (let i = 0; ; i++) try { // a retained message is there once it has been projected
    const r = await rund('GetRetainedMessage', {topic: 'js/retained/é'})
    assert.equal(Buffer.from(r.payload).toString(), 'hi'); break
  } catch (e) { if (!(e instanceof data.ResourceNotFoundException) || i > 200) throw e; await new Promise(r => setTimeout(r, 20)) }
  assert.equal((await rund('ListRetainedMessages', {})).retainedTopics[0].topic, 'js/retained/é')
  await fails(rund('Publish', {topic: '$aws/events/x', payload: Buffer.from('')}), 'ForbiddenException', /reserved/)

  await fails(rund('GetThingShadow', {thingName: 'p1'}), data.ResourceNotFoundException, /No shadow/)
  const up = JSON.parse(Buffer.from((await rund('UpdateThingShadow', {thingName: 'p1', payload: JSON.stringify({state: {desired: {on: true}}})})).payload))
  assert.equal(up.version, 1)
  await fails(rund('UpdateThingShadow', {thingName: 'p1', payload: JSON.stringify({version: 9, state: {desired: {on: false}}})}), data.ConflictException, /ersion/)
  await rund('UpdateThingShadow', {thingName: 'p1', shadowName: 'cfg', payload: '{"state":{"reported":{"a":1}}}'})
  assert.deepEqual((await rund('ListNamedShadowsForThing', {thingName: 'p1'})).results, ['cfg'])
  await rund('DeleteThingShadow', {thingName: 'p1', shadowName: 'cfg'})

  const names = []
  for await (const page of iot.paginateListPolicies({client: c, pageSize: 1}, {})) names.push(...page.policies.map(p => p.policyName))
  assert(names.includes('pol'))
  console.log('done')
})().catch(e => { console.error(e); process.exit(1) })
`
	if out := node(t, script, w.Endpoints().API, k.ID, k.Secret); !strings.HasSuffix(strings.TrimSpace(out), "done") {
		t.Error(out)
	}
	m := sub.Next()
	if m.Topic != "js/retained/é" || string(m.Payload) != "hi" {
		t.Errorf("%+v", m)
	}
}

// The tutorials of the AWS guide, with the AWS CLI: see testdata/tutorials.sh.
func TestAWSCLITutorials(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	tool(t, "aws", "awscli")
	w := weirtest.Start(t, weirtest.Key("listen.mux", "localhost:0"))
	k := accessKey(t, w)
	dir := t.TempDir()
	for name, content := range map[string]string{
		"policy.json":    `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iot:Publish","iot:Subscribe","iot:Receive","iot:Connect"],"Resource":["*"]}]}`,
		"republish.json": `{"sql":"SELECT topic(2) as device_id, temperature FROM 'device/+/data'","actions":[{"republish":{"topic":"device/data/temp","roleArn":"arn:aws:iam::123456789012:role/republish_role"}}]}`,
		"myrule.json":    `{"sql":"SELECT * FROM 'iot/test'","ruleDisabled":false,"awsIotSqlVersion":"2016-03-23","actions":[{"s3":{"roleArn":"arn:aws:iam::123456789012:role/aws_iot_s3","bucketName":"my-bucket","key":"myS3Key"}}]}`,
		"message.json":   `{"temperature": 28, "humidity": 80, "barometer": 1013}`,
		"shadow.json":    `{"state":{"desired":{"ColorRGB":[255,255,0]}}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := ok(t, func() (string, error) { return filepath.Abs("testdata/tutorials.sh") })
	runner := ok(t, func() (string, error) { return filepath.Abs("testdata/tutorials.py") })
	sub := w.Subscribe("device/data/temp", "$aws/things/MyLightBulb/shadow/update/accepted")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "python3", runner, script, w.Endpoints().API)
	cmd.Env = append(cmd.Environ(), "AWS_ACCESS_KEY_ID="+k.ID, "AWS_SECRET_ACCESS_KEY="+k.Secret, "AWS_DEFAULT_REGION=us-east-1", "AWS_PAGER=",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_MAX_ATTEMPTS=1")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if m := sub.Next(); string(m.Payload) != `{"device_id":"22","temperature":28}` {
		t.Errorf("%s", m.Payload)
	}
	if m := sub.Next(); !strings.Contains(string(m.Payload), `"ColorRGB":[255,255,0]`) {
		t.Errorf("%s", m.Payload)
	}
	if _, err := os.Stat(filepath.Join(dir, "private.pem.key")); err != nil {
		t.Error(err)
	}
}

// raw sends a signed request and returns status and body.
func raw(t *testing.T, w *weirtest.Weir, k control.OwnerKey, service, method, url string, body []byte, headers ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, w.Endpoints().API+url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: k.ID, SecretAccessKey: k.Secret}, r, hex.EncodeToString(sum[:]), service, "us-east-1", time.Now()); err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("X-Amzn-Errortype") + " " + string(b)
}

// Input that means harm is refused, and costs little.
func TestAWSHostileInput(t *testing.T) {
	w := weirtest.Start(t, weirtest.Durability("memory"))
	k := accessKey(t, w)
	deep := []byte(`{"attributePayload":` + strings.Repeat(`{"a":`, 10_000) + `1` + strings.Repeat(`}`, 10_001))
	long := strings.Repeat("x", 1<<20)
	const other = "arn%3Aaws%3Aiot%3Aus-east-1%3A999999999999%3A"
	for _, c := range []struct {
		what, service, method, url string
		body                       []byte
		headers                    []string
		status                     int // 0: any of 400 to 499
	}{
		{"depth 10,000", "iot", "POST", "/things/t", deep, nil, 400},
		{"a name of 1 MB in the body", "iot", "PUT", "/thing-groups/addThingToThingGroup", []byte(`{"thingName":"` + long[:1<<20-100] + `"}`), nil, 400},
		{"a body over the limit", "iot", "POST", "/things/t", []byte(`{"a":"` + long + `"}`), nil, 413},
		{"a path of 9 KB", "iot", "GET", "/things/" + long[:9<<10], nil, nil, 400},
		{"a name of 129", "iot", "GET", "/things/" + long[:129], nil, nil, 400},
		{"path traversal", "iot", "GET", "/things/..%2F..%2Fpolicies", nil, nil, 400},
		{"path traversal, plain", "iot", "GET", "/things/../policies/p", nil, nil, 0},
		{"a null in a name", "iot", "GET", "/things/a%00b", nil, nil, 400},
		{"an ARN of another account", "iot", "POST", "/attached-policies/" + other + "cert%2F" + long[:64], nil, nil, 0},
		{"a target of another account", "iot", "PUT", "/target-policies/p", []byte(`{"target":"arn:aws:iot:us-east-1:999999999999:cert/` + strings.Repeat("a", 64) + `"}`), nil, 0},
		{"a principal with a tab", "iot", "PUT", "/things/t/principals", nil, []string{"X-Amzn-Principal", "arn\tx"}, 0},
		{"tags of another account", "iot", "GET", "/tags?resourceArn=" + other + "policy%2Fp", nil, nil, 0},
		{"a service there is not", "s3", "GET", "/things", nil, nil, 403},
		{"the console's API", "iot", "GET", "/weir/v1/status", nil, nil, 404},
		{"a topic too long", "iotdata", "POST", "/topics/" + long[:300], []byte("x"), nil, 400},
		{"a payload too large", "iotdata", "POST", "/topics/a", []byte(long[:129<<10]), nil, 413},
		{"a reserved topic", "iotdata", "POST", "/topics/$aws/events/x", []byte("x"), nil, 403},
		{"a parameter twice", "iot", "GET", "/things?maxResults=1&maxResults=2", nil, nil, 0},
		{"an unknown method", "iot", "BREW", "/things", nil, nil, 404},
	} {
		begun := time.Now()
		status, answer := raw(t, w, k, c.service, c.method, c.url, c.body, c.headers...)
		if status < 400 || status > 499 || c.status != 0 && status != c.status || len(answer) > 2000 {
			t.Errorf("%s: %d %.300s", c.what, status, answer)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("%s took %s", c.what, took)
		}
	}
	// Who did not sign, or with another secret.
	resp, err := http.Get(w.Endpoints().API + "/things")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 403 {
		t.Errorf("unsigned: %d", resp.StatusCode)
	}
	if status, answer := raw(t, w, control.OwnerKey{ID: k.ID, Secret: "x" + k.Secret}, "iot", "GET", "/things", nil); status != 403 || !strings.HasPrefix(answer, "InvalidSignatureException") {
		t.Errorf("another secret: %d %s", status, answer)
	}
	if status, answer := raw(t, w, control.OwnerKey{ID: "AKIAAAAAAAAAAAAAAAAA", Secret: k.Secret}, "iot", "GET", "/things", nil); status != 403 || !strings.HasPrefix(answer, "UnrecognizedClientException") {
		t.Errorf("another key: %d %s", status, answer)
	}
}

// Requests that two servers would read in two ways are refused, and so are
// headers that were added on the way.
func TestAWSRequestSmuggling(t *testing.T) {
	w := weirtest.Start(t, weirtest.Durability("memory"))
	k := accessKey(t, w)
	host := strings.TrimPrefix(w.Endpoints().API, "http://")
	// signed returns the head of a signed request, without its end.
	signed := func(method, path, body string) string {
		t.Helper()
		r := ok(t, func() (*http.Request, error) { return http.NewRequest(method, w.Endpoints().API+path, nil) })
		sum := sha256.Sum256([]byte(body))
		if err := v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: k.ID, SecretAccessKey: k.Secret}, r, hex.EncodeToString(sum[:]), "iot", "us-east-1", time.Now()); err != nil {
			t.Fatal(err)
		}
		return method + " " + path + " HTTP/1.1\r\nHost: " + host + "\r\nX-Amz-Date: " + r.Header.Get("X-Amz-Date") + "\r\nAuthorization: " + r.Header.Get("Authorization") + "\r\n"
	}
	send := func(request string) (statuses []string) {
		t.Helper()
		c := ok(t, func() (net.Conn, error) { return net.Dial("tcp", host) })
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c) // what came before it was cut
		for line := range strings.Lines(string(b)) {
			if rest, is := strings.CutPrefix(line, "HTTP/1.1 "); is {
				statuses = append(statuses, rest[:3])
			}
		}
		return statuses
	}
	const inner = "GET /things HTTP/1.1\r\nHost: x\r\n\r\n"
	head := signed("GET", "/things", "")
	if got := send(head + "Connection: close\r\n\r\n"); !slices.Equal(got, []string{"200"}) {
		t.Fatalf("the request as it should be: %v", got)
	}
	for what, request := range map[string]string{
		"two lengths":                  head + "Content-Length: 0\r\nContent-Length: 37\r\n\r\n" + inner,
		"two lengths in one":           head + "Content-Length: 0, 37\r\n\r\n" + inner,
		"a length with a sign":         head + "Content-Length: +0\r\n\r\n",
		"a length and chunks":          head + "Content-Length: 37\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
		"another encoding":             head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inner,
		"chunked twice":                head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + inner,
		"a blank before the colon":     head + "Content-Length : 37\r\n\r\n" + inner,
		"two hosts":                    head + "Host: elsewhere\r\n\r\n",
		"a principal nobody signed":    signed("GET", "/principals/things", "") + "X-Amzn-Principal: " + account + "cert/" + strings.Repeat("a", 64) + "\r\nConnection: close\r\n\r\n",
		"a tag nobody signed":          head + "X-Amz-Tagging: a=b\r\nConnection: close\r\n\r\n",
		"a body nobody signed":         signed("POST", "/things/t", "") + "Content-Length: 2\r\nConnection: close\r\n\r\n{}",
		"a query nobody signed":        strings.Replace(head, "/things HTTP", "/things?maxResults=1 HTTP", 1) + "Connection: close\r\n\r\n",
		"another method than signed":   strings.Replace(signed("GET", "/things/t", ""), "GET", "DELETE", 1) + "Connection: close\r\n\r\n",
		"a path that only looks alike": strings.Replace(head, "/things HTTP", "/./things HTTP", 1) + "Connection: close\r\n\r\n",
	} {
		got := send(request)
		for _, status := range got {
			if status[0] != '4' && !(status == "501" && what == "another encoding" || status == "501" && what == "chunked twice") {
				t.Errorf("%s: %v", what, got)
			}
		}
		if len(got) == 0 {
			t.Errorf("%s: no answer", what)
		}
	}
}

// 32 clients make, attach and delete the same things: each answer is one AWS
// gives, nothing half-made is left, and no update is lost.
func TestAWSContention(t *testing.T) {
	w := weirtest.Start(t)
	c := sdk(t, w, nil)
	ctx := t.Context()
	policy := aws.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}`)
	cert, err := c.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{SetAsActive: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("counter")}); err != nil {
		t.Fatal(err)
	}
	allowed := []string{"ResourceNotFoundException", "ResourceAlreadyExistsException", "DeleteConflictException", "InvalidRequestException", "VersionConflictException", "ConflictingResourceUpdateException"}
	var wg sync.WaitGroup
	const clients, rounds, counts = 32, 4, 2
	for range clients {
		wg.Go(func() {
			for range rounds {
				for _, f := range []func() error{
					func() error {
						_, err := c.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: aws.String("p"), PolicyDocument: policy})
						return err
					},
					func() error {
						_, err := c.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("t")})
						return err
					},
					func() error {
						_, err := c.AttachPolicy(ctx, &iot.AttachPolicyInput{PolicyName: aws.String("p"), Target: cert.CertificateArn})
						return err
					},
					func() error {
						_, err := c.AttachThingPrincipal(ctx, &iot.AttachThingPrincipalInput{ThingName: aws.String("t"), Principal: cert.CertificateArn})
						return err
					},
					func() error {
						_, err := c.DeletePolicy(ctx, &iot.DeletePolicyInput{PolicyName: aws.String("p")})
						return err
					},
					func() error {
						_, err := c.DetachPolicy(ctx, &iot.DetachPolicyInput{PolicyName: aws.String("p"), Target: cert.CertificateArn})
						return err
					},
					func() error {
						_, err := c.DetachThingPrincipal(ctx, &iot.DetachThingPrincipalInput{ThingName: aws.String("t"), Principal: cert.CertificateArn})
						return err
					},
					func() error {
						_, err := c.DeleteThing(ctx, &iot.DeleteThingInput{ThingName: aws.String("t")})
						return err
					},
					func() error {
						_, err := c.DeletePolicy(ctx, &iot.DeletePolicyInput{PolicyName: aws.String("p")})
						return err
					},
					func() error {
						_, err := c.CreateThingGroup(ctx, &iot.CreateThingGroupInput{ThingGroupName: aws.String("above")})
						return err
					},
					func() error {
						_, err := c.CreateThingGroup(ctx, &iot.CreateThingGroupInput{ThingGroupName: aws.String("below"), ParentGroupName: aws.String("above")})
						return err
					},
					func() error {
						_, err := c.AddThingToThingGroup(ctx, &iot.AddThingToThingGroupInput{ThingGroupName: aws.String("below"), ThingName: aws.String("counter")})
						return err
					},
					func() error {
						_, err := c.DeleteThingGroup(ctx, &iot.DeleteThingGroupInput{ThingGroupName: aws.String("above")})
						return err
					},
					func() error {
						_, err := c.DeleteThingGroup(ctx, &iot.DeleteThingGroupInput{ThingGroupName: aws.String("below")})
						return err
					},
				} {
					var api smithy.APIError
					if err := f(); err != nil && (!errors.As(err, &api) || !slices.Contains(allowed, api.ErrorCode())) {
						t.Error(err)
						return
					}
				}
			}
			for range counts {
				for { // by compare-and-set
					th, err := c.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: aws.String("counter")})
					if err != nil {
						t.Error(err)
						return
					}
					n := len(th.Attributes["n"]) + 1
					_, err = c.UpdateThing(ctx, &iot.UpdateThingInput{ThingName: aws.String("counter"), ExpectedVersion: aws.Int64(th.Version),
						AttributePayload: &types.AttributePayload{Attributes: map[string]string{"n": strings.Repeat("i", n)}}})
					if conflict := (*types.VersionConflictException)(nil); errors.As(err, &conflict) {
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					break
				}
			}
		})
	}
	wg.Wait()
	th, err := c.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: aws.String("counter")})
	if err != nil || len(th.Attributes["n"]) != clients*counts || th.Version != 1+clients*counts {
		t.Errorf("%d updates, want %d: %v", len(th.Attributes["n"]), clients*counts, err)
	}
	// What is attached is there.
	attached, err := c.ListAttachedPolicies(ctx, &iot.ListAttachedPoliciesInput{Target: cert.CertificateArn})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range attached.Policies {
		if _, err := c.GetPolicy(ctx, &iot.GetPolicyInput{PolicyName: p.PolicyName}); err != nil {
			t.Errorf("attached and not there: %v", err)
		}
	}
	things, err := c.ListPrincipalThings(ctx, &iot.ListPrincipalThingsInput{Principal: cert.CertificateArn})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range things.Things {
		if _, err := c.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: &name}); err != nil {
			t.Errorf("attached and not there: %v", err)
		}
	}
	in, err := c.ListThingGroupsForThing(ctx, &iot.ListThingGroupsForThingInput{ThingName: aws.String("counter")})
	if err != nil {
		t.Fatal(err)
	}
	all, err := c.ListThingGroups(ctx, &iot.ListThingGroupsInput{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, g := range all.ThingGroups {
		names = append(names, aws.ToString(g.GroupName))
	}
	if len(in.ThingGroups) > 0 && !slices.Contains(names, "below") || slices.Contains(names, "below") && !slices.Contains(names, "above") {
		t.Errorf("there are the groups %v, and the thing is in %d", names, len(in.ThingGroups))
	}
}

// The fleet is searched as its indexing configuration says, and not at all
// without one.
func TestAWSSearch(t *testing.T) {
	w := weirtest.Start(t, weirtest.Durability("memory"))
	c := sdk(t, w, nil)
	ctx := t.Context()
	k := accessKey(t, w)
	for i, site := range []string{"a", "a", "b"} {
		name := aws.String(fmt.Sprintf("pump%d", i))
		if _, err := c.CreateThing(ctx, &iot.CreateThingInput{ThingName: name, AttributePayload: &types.AttributePayload{Attributes: map[string]string{"site": site, "size": fmt.Sprint(10 * (i + 1))}}}); err != nil {
			t.Fatal(err)
		}
		if status, answer := raw(t, w, k, "iotdata", "POST", "/things/"+*name+"/shadow", fmt.Appendf(nil, `{"state":{"reported":{"battery":%d}}}`, 20*i)); status != 200 {
			t.Fatal(status, answer)
		}
	}
	search := func(q string) string {
		t.Helper()
		var names []string
		in := &iot.SearchIndexInput{QueryString: aws.String(q), MaxResults: aws.Int32(1)}
		for {
			page, err := c.SearchIndex(ctx, in)
			if err != nil {
				t.Fatalf("%s: %v", q, err)
			}
			for _, th := range page.Things {
				names = append(names, aws.ToString(th.ThingName))
			}
			if page.NextToken == nil {
				return strings.Join(names, " ")
			}
			in.NextToken = page.NextToken
		}
	}
	_, err := c.SearchIndex(ctx, &iot.SearchIndexInput{QueryString: aws.String("*")})
	if off := (*types.ResourceNotFoundException)(nil); !errors.As(err, &off) {
		t.Errorf("indexing is off: %v", err)
	}
	index := func(mode types.ThingIndexingMode, connectivity types.ThingConnectivityIndexingMode, fields ...types.Field) {
		t.Helper()
		if _, err := c.UpdateIndexingConfiguration(ctx, &iot.UpdateIndexingConfigurationInput{ThingIndexingConfiguration: &types.ThingIndexingConfiguration{
			ThingIndexingMode: mode, ThingConnectivityIndexingMode: connectivity, CustomFields: fields,
		}}); err != nil {
			t.Fatal(err)
		}
	}
	index(types.ThingIndexingModeRegistry, types.ThingConnectivityIndexingModeOff)
	for q, want := range map[string]string{
		"attributes.site:a": "pump0 pump1", "attributes.size > 10 AND NOT attributes.site:b": "pump1", "thingName:pump*": "pump0 pump1 pump2",
		"shadow.reported.battery < 30": "", "connectivity.connected:*": "",
	} {
		if got := search(q); got != want {
			t.Errorf("%s: %q, want %q", q, got, want)
		}
	}
	index(types.ThingIndexingModeRegistryAndShadow, types.ThingConnectivityIndexingModeStatus, types.Field{Name: aws.String("attributes.size"), Type: types.FieldTypeNumber})
	client := w.Connect(mqttclient.Options{ClientID: "pump2"})
	defer client.Close()
	for q, want := range map[string]string{
		"shadow.reported.battery < 30": "pump0 pump1", "connectivity.connected:true": "pump2", "connectivity.connected:false": "pump0 pump1", "shadow.hasDelta:true": "",
	} {
		if got := search(q); got != want {
			t.Errorf("%s: %q, want %q", q, got, want)
		}
	}
	stats, err := c.GetStatistics(ctx, &iot.GetStatisticsInput{QueryString: aws.String("*"), AggregationField: aws.String("attributes.size")})
	if err != nil || stats.Statistics.Count != 3 || aws.ToFloat64(stats.Statistics.Average) != 20 || aws.ToFloat64(stats.Statistics.Maximum) != 30 {
		t.Errorf("%+v %v", stats, err)
	}
	card, err := c.GetCardinality(ctx, &iot.GetCardinalityInput{QueryString: aws.String("attributes.site:a"), AggregationField: aws.String("attributes.size")})
	if err != nil || card.Cardinality != 2 {
		t.Errorf("%+v %v", card, err)
	}
	percentiles, err := c.GetPercentiles(ctx, &iot.GetPercentilesInput{QueryString: aws.String("*"), AggregationField: aws.String("attributes.size"), Percents: []float64{50}})
	if err != nil || len(percentiles.Percentiles) != 1 || percentiles.Percentiles[0].Value != 20 {
		t.Errorf("%+v %v", percentiles, err)
	}
	_, err = c.GetStatistics(ctx, &iot.GetStatisticsInput{QueryString: aws.String("*"), AggregationField: aws.String("attributes.site")})
	if bad := (*types.InvalidAggregationException)(nil); !errors.As(err, &bad) {
		t.Errorf("a field that is not indexed: %v", err)
	}
	_, err = c.SearchIndex(ctx, &iot.SearchIndexInput{QueryString: aws.String("*x")})
	if bad := (*types.InvalidQueryException)(nil); !errors.As(err, &bad) {
		t.Errorf("a wildcard first: %v", err)
	}
}

// A device reaches the data plane on its own port with its certificate, and may
// there what its policy says.
func TestAWSDataPlaneWithCertificate(t *testing.T) {
	w := weirtest.Start(t, weirtest.Durability("memory"))
	c := sdk(t, w, nil)
	ctx := t.Context()
	cert, err := c.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{SetAsActive: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: aws.String("own"), PolicyDocument: aws.String(
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iot:GetThingShadow","iot:UpdateThingShadow"],"Resource":"` + account + `thing/mine"}]}`)}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AttachPolicy(ctx, &iot.AttachPolicyInput{PolicyName: aws.String("own"), Target: cert.CertificateArn}); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(*cert.CertificatePem), []byte(*cert.KeyPair.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	config := w.TLS().Clone()
	config.Certificates = []tls.Certificate{pair}
	config.NextProtos = nil
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	defer client.CloseIdleConnections()
	base := strings.Replace("https://"+w.Endpoints().HTTPS, "127.0.0.1", "localhost", 1)
	ask := func(method, path, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequest(method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	// What was attached just now holds once the gateway has heard of it.
	weirtest.Eventually(t, func() bool {
		status, _ := ask("POST", "/things/mine/shadow", `{"state":{"reported":{"a":1}}}`)
		return status == 200
	}, func() string { return "its own shadow stays forbidden" })
	for _, q := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/things/mine/shadow", 200},
		{"GET", "/things/mine/shadow?name=other", 403}, // thing/mine/other to the policy
		{"DELETE", "/things/mine/shadow", 403},
		{"GET", "/things/yours/shadow", 403},
		{"GET", "/retainedMessage/a", 403},
		{"GET", "/retainedMessage", 403},
		{"DELETE", "/connections/x", 403}, // no device may
		{"GET", "/things/mine", 404},      // the registry is not here
	} {
		if status, answer := ask(q.method, q.path, ""); status != q.want {
			t.Errorf("%s %s: %d %s", q.method, q.path, status, answer)
		}
	}
}

// What the API bears: describes from memory, creations synced to disk. The
// client's work (signing, JSON) is in the figures.
func BenchmarkAWS(b *testing.B) {
	w := weirtest.Start(b)
	c := sdk(b, w, nil)
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 64
	if _, err := c.CreateThing(b.Context(), &iot.CreateThingInput{ThingName: aws.String("t")}); err != nil {
		b.Fatal(err)
	}
	run := func(name string, f func(n int64) error) {
		b.Run(name, func(b *testing.B) {
			var n atomic.Int64
			b.SetParallelism(16)
			begun := cpu(b)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if err := f(n.Add(1)); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
			b.ReportMetric(float64((cpu(b)-begun).Microseconds())/float64(b.N), "cpu-µs/request")
		})
	}
	run("describe", func(int64) error {
		_, err := c.DescribeThing(b.Context(), &iot.DescribeThingInput{ThingName: aws.String("t")})
		return err
	})
	start := time.Now().UnixNano()
	run("create", func(n int64) error {
		_, err := c.CreateThing(b.Context(), &iot.CreateThingInput{ThingName: aws.String(fmt.Sprintf("b%d-%d-%d", start, b.N, n))})
		return err
	})
}

// cpu returns what this process has used.
func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// The commands of docs/aws.md.
func TestAWSGuide(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	tool(t, "aws", "awscli")
	b, err := os.ReadFile("../../docs/aws.md")
	if err != nil {
		t.Fatal(err)
	}
	script := ""
	for _, block := range regexp.MustCompile("(?s)<!-- run by TestAWSGuide -->\n```sh\n(.*?)```").FindAllStringSubmatch(string(b), -1) {
		script += block[1]
	}
	version, err := exec.Command("aws", "--version").CombinedOutput()
	if err != nil {
		t.Fatal(err, string(version))
	}
	if strings.HasPrefix(string(version), "aws-cli/1.") {
		script = regexp.MustCompile(`"\$\((printf '[^']*') \| base64\)"`).ReplaceAllString(script, `"$$($1)"`)
	}
	w := weirtest.Start(t)
	sub := w.Subscribe("alarms/#")
	bin := t.TempDir()
	if err := os.Symlink(weirtest.Binary(t), filepath.Join(bin, "weir")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-e", "-c", "shopt -s expand_aliases\n"+script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(cmd.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "WEIR_DATA_DIR="+w.Dir(), "AWS_PAGER=", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "\na\n") || !strings.Contains(string(out), `"sessionToken":`) {
		t.Fatalf("%v\n%s", err, out)
	}
	if m := sub.Next(); m.Topic != "alarms/pump1" || string(m.Payload) != `{"c":91,"device":"pump1"}` {
		t.Errorf("%s %s", m.Topic, m.Payload)
	}
	shadow, err := os.ReadFile(filepath.Join(cmd.Dir, "shadow.json"))
	if err != nil || !strings.Contains(string(shadow), `"on":true`) {
		t.Errorf("%s %v", shadow, err)
	}
}

// A domain configuration that is disabled shuts its name.
func TestAWSDomainConfiguration(t *testing.T) {
	const name = "devices.example.com"
	w := weirtest.Start(t, weirtest.Durability("memory"), weirtest.Set(func(c *config.Config) { c.TLS.Names = []string{name} }))
	c := sdk(t, w, nil)
	ctx := t.Context()
	served := func() bool {
		o := w.TLS().Clone()
		o.ServerName, o.NextProtos = name, nil
		conn, err := tls.Dial("tcp", w.Endpoints().HTTPS, o)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	}
	if !served() {
		t.Fatal("the name is not served")
	}
	made, err := c.CreateDomainConfiguration(ctx, &iot.CreateDomainConfigurationInput{DomainConfigurationName: aws.String("d"), DomainName: aws.String(name)})
	if err != nil {
		t.Fatal(err)
	}
	set := func(to types.DomainConfigurationStatus) {
		t.Helper()
		if _, err := c.UpdateDomainConfiguration(ctx, &iot.UpdateDomainConfigurationInput{DomainConfigurationName: aws.String("d"), DomainConfigurationStatus: to}); err != nil {
			t.Fatal(err)
		}
		weirtest.Eventually(t, func() bool { return served() == (to == types.DomainConfigurationStatusEnabled) }, func() string { return "nothing changes at " + string(to) })
	}
	set(types.DomainConfigurationStatusDisabled)
	set(types.DomainConfigurationStatusEnabled)
	set(types.DomainConfigurationStatusDisabled)
	d, err := c.DescribeDomainConfiguration(ctx, &iot.DescribeDomainConfigurationInput{DomainConfigurationName: aws.String("d")})
	if err != nil || aws.ToString(d.DomainConfigurationArn) != aws.ToString(made.DomainConfigurationArn) || d.DomainConfigurationStatus != types.DomainConfigurationStatusDisabled {
		t.Errorf("%+v %v", d, err)
	}
	if _, err := c.DeleteDomainConfiguration(ctx, &iot.DeleteDomainConfigurationInput{DomainConfigurationName: aws.String("d")}); err != nil {
		t.Error(err)
	}
}
