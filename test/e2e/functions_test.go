package e2e

import (
	"archive/zip"
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/functions"
	"github.com/weir-iot/weir/functions/lambdaapi"
	"github.com/weir-iot/weir/test/weirtest"
)

const functionARN = "arn:aws:lambda:us-east-1:123456789012:function:"

// bootstrap returns a package whose bootstrap is text.
func bootstrap(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	out, err := z.Create("bootstrap")
	if err == nil {
		_, err = io.WriteString(out, text)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// deployFunction deploys cfg as weir function does; text is its bootstrap, "" for
// none.
func deployFunction(t testing.TB, w *weirtest.Weir, name string, cfg functions.Config, text string) {
	t.Helper()
	q := lambdaapi.Deploy{Config: cfg}
	if text != "" {
		q.Package = bootstrap(t, text)
	}
	body, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.API().Call(t.Context(), "PUT", "/weir/v1/functions/"+name, nil, body, nil); err != nil {
		t.Fatal(err)
	}
}

// python returns a custom runtime whose handler is the body of a Python function
// of event.
func python(t testing.TB, handler string) string {
	t.Helper()
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("python3 is not installed")
	}
	return `#!/usr/bin/python3
import glob, http.client, json, os, socket, traceback
def handle(event):
` + handler + `
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
def call(method, path, body=None):
    api.request(method, "/2018-06-01/runtime/" + path, body=body)
    answer = api.getresponse()
    return answer.headers, answer.read()
while True:
    headers, event = call("GET", "invocation/next")
    path = "invocation/" + headers["Lambda-Runtime-Aws-Request-Id"]
    try: call("POST", path + "/response", json.dumps(handle(json.loads(event))))
    except Exception: call("POST", path + "/error", json.dumps({"errorType": "Python", "errorMessage": traceback.format_exc()}))
`
}

// One function that is deployed in Weir serves all that call functions: SQL, a
// rule's action, a custom authorizer, a provisioning hook.
func TestFunctionsAreCalledFromEverywhere(t *testing.T) {
	gate := python(t, `
    print("event", json.dumps(event, sort_keys=True), flush=True)
    if "protocolData" in event:
        return {"isAuthenticated": event["protocolData"]["mqtt"]["username"] == "ann", "principalId": "ann", "disconnectAfterInSeconds": 3600,
            "refreshAfterInSeconds": 300, "policyDocuments": ['{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}']}
    if "claimCertificateId" in event:
        return {"allowProvisioning": event["parameters"]["ThingName"] != "stranger"}
    return {"twice": 2 * event["n"]}
`)
	e := newEnrolment(t, weirtest.Process(t, weirtest.Key("listen.mqtts", "localhost:0")))
	deployFunction(t, e.Weir, "gate", functions.Config{Runtime: "provided", Timeout: 60}, gate)
	t.Run("SQL", func(t *testing.T) {
		sub := e.Subscribe("doubled")
		e.Apply(`
ruleName: doubling
awsIotSqlVersion: "2016-03-23"
sql: SELECT aws_lambda('` + functionARN + `gate', {'n':n}).twice AS twice FROM 'numbers'
actions:
  - republish: {roleArn: "arn:aws:iam::123456789012:role/r", topic: doubled}
`)
		e.MustPublish("numbers", `{"n":21}`)
		if m := sub.Next(); string(m.Payload) != `{"twice":42}` {
			t.Errorf("%s", m.Payload)
		}
	})
	t.Run("Action", func(t *testing.T) {
		e.Apply(`
ruleName: acting
sql: SELECT n, 'by the action' AS how FROM 'acts'
actions:
  - lambda: {functionArn: "` + functionARN + `gate"}
`)
		// The log is followed from before the function runs.
		resp, err := e.API().Do(t.Context(), "GET", "/weir/v1/functions/gate/logs", url.Values{"follow": {"true"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		e.MustPublish("acts", `{"n":5}`)
		log := bufio.NewScanner(resp.Body)
		for found := false; !found; found = strings.Contains(log.Text(), "by the action") {
			if !log.Scan() {
				t.Fatalf("the log ended: %v", log.Err())
			}
		}
		if a := e.Account("acting"); a.Delivered != 1 || !a.AddsUp() {
			t.Errorf("%+v", a)
		}
	})
	t.Run("Authorizer", func(t *testing.T) {
		if _, err := e.api.CreateAuthorizer(t.Context(), &iot.CreateAuthorizerInput{AuthorizerName: aws.String("open"), AuthorizerFunctionArn: aws.String(functionARN + "gate"),
			SigningDisabled: aws.Bool(true), Status: "ACTIVE"}); err != nil {
			t.Fatal(err)
		}
		for user, want := range map[string]bool{"ann": true, "bob": false} {
			out, err := e.api.TestInvokeAuthorizer(t.Context(), &iot.TestInvokeAuthorizerInput{AuthorizerName: aws.String("open"),
				MqttContext: &types.MqttContext{ClientId: aws.String("d1"), Username: aws.String(user), Password: []byte("secret")}})
			if err != nil || aws.ToBool(out.IsAuthenticated) != want {
				t.Errorf("%s: %+v, %v", user, out, err)
			}
		}
	})
	t.Run("Hook", func(t *testing.T) {
		e.template("hooked", fleetTemplate, functionARN+"gate")
		d := e.connect("new", e.claim, append(enrolling("json", "lamps"), enrolling("json", "hooked")[4:]...)...)
		for name, want := range map[string]bool{"lamp7": true, "stranger": false} {
			made := d.mustAsk("$aws/certificates/create/json", map[string]any{})
			a, ok := d.ask("$aws/provisioning-templates/hooked/provision/json", map[string]any{"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": map[string]string{"ThingName": name}})
			if ok != want {
				t.Errorf("%s: %v", name, a)
			}
		}
	})
}

// A function made and called with the AWS SDK, whose requests are signed: the
// package too.
func TestFunctionByTheSDK(t *testing.T) {
	text := python(t, `
    return {"got": event}
`)
	w := weirtest.Process(t)
	k, err := control.ReadAccessKey(w.Endpoints().AccessKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	c := lambda.New(lambda.Options{Region: "us-east-1", BaseEndpoint: aws.String(w.Endpoints().API), Credentials: credentials.NewStaticCredentialsProvider(k.ID, k.Secret, "")})
	if _, err := c.CreateFunction(t.Context(), &lambda.CreateFunctionInput{FunctionName: aws.String("echo"), Runtime: lambdatypes.RuntimeProvidedal2023,
		Role: aws.String("arn:aws:iam::123456789012:role/r"), Handler: aws.String("x"), Timeout: aws.Int32(60), Code: &lambdatypes.FunctionCode{ZipFile: bootstrap(t, text)}}); err != nil {
		t.Fatal(err)
	}
	out, err := c.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("echo"), Payload: []byte(`[1]`)})
	if err != nil || string(out.Payload) != `{"got": [1]}` {
		t.Errorf("%s, %v", out.Payload, err)
	}
	list, err := c.ListFunctions(t.Context(), &lambda.ListFunctionsInput{})
	if err != nil || len(list.Functions) != 1 || aws.ToString(list.Functions[0].FunctionArn) != functionARN+"echo" {
		t.Errorf("%+v, %v", list, err)
	}
}

// flaky is a web server that is a function: it fails while it is told to.
type flaky struct {
	mu    sync.Mutex
	fails bool
	ids   map[string][]string // request ids of a payload
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ids[string(b)] = append(f.ids[string(b)], r.Header.Get("Lambda-Runtime-Aws-Request-Id"))
	if f.fails {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_, _ = w.Write([]byte("{}"))
}

// tries returns how often each payload came, and checks that it came with one id.
func (f *flaky) tries(t *testing.T) map[string]int {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]int{}
	for payload, ids := range f.ids {
		out[payload] = len(ids)
		if len(slices.Compact(slices.Sorted(slices.Values(ids)))) != 1 {
			t.Errorf("%s came as %v", payload, ids)
		}
	}
	return out
}

// A function that fails for a while: each result is tried three times with one
// request id and then goes to the error action. One that cannot be asked at all:
// results wait on the log, also past a kill, and come once it is back. None is
// lost, and the account adds up.
func TestFunctionFailsForAWhile(t *testing.T) {
	f := &flaky{ids: map[string][]string{}, fails: true}
	srv := httptest.NewUnstartedServer(f)
	addr := srv.Listener.Addr().String()
	srv.Start()
	defer func() { srv.Close() }()
	w := weirtest.Process(t, weirtest.Key("http.allow_private", "true"))
	deployFunction(t, w, "flaky", functions.Config{Runtime: "http", URL: "http://" + addr, Timeout: 30}, "")
	failed := w.Subscribe("failed")
	w.Apply(`
ruleName: working
sql: SELECT n FROM 'work'
actions:
  - lambda: {functionArn: "` + functionARN + `flaky"}
errorAction:
  republish: {roleArn: "arn:aws:iam::123456789012:role/r", topic: failed, qos: 1}
`)
	const many = 20
	for n := range many {
		w.MustPublish("work", fmt.Sprintf(`{"n":%d}`, n))
	}
	for range many {
		failed.Next()
	}
	tries := f.tries(t)
	for n := range many {
		if p := fmt.Sprintf(`{"n":%d}`, n); tries[p] != 3 {
			t.Errorf("%s was tried %d times", p, tries[p])
		}
	}
	if a := w.Account("working"); a.ErrorDelivered != many || !a.AddsUp() {
		t.Errorf("%+v", a)
	}
	// Now there is nobody to ask.
	srv.CloseClientConnections()
	srv.Close()
	f.mu.Lock()
	f.fails = false
	f.mu.Unlock()
	for n := many; n < 2*many; n++ {
		w.MustPublish("work", fmt.Sprintf(`{"n":%d}`, n))
	}
	weirtest.Eventually(t, func() bool {
		r, err := w.API().Rule(t.Context(), "working")
		return err == nil && len(r.Actions) == 1 && r.Actions[0].LastError != "" && r.Actions[0].Pending > 0
	}, func() string { return "the results do not wait" })
	w.Kill()
	w.BeginProcess()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv = &httptest.Server{Listener: l, Config: &http.Server{Handler: f}}
	srv.Start()
	// What the kill kept from being noted comes once more, and may succeed now.
	if a := w.Account("working"); a.Matched != 2*many || a.ErrorDelivered > many || a.ErrorDelivered+a.Delivered != 2*many || !a.AddsUp() {
		t.Errorf("%+v", a)
	}
	tries = f.tries(t)
	for n := many; n < 2*many; n++ {
		if p := fmt.Sprintf(`{"n":%d}`, n); tries[p] == 0 {
			t.Errorf("%s is lost", p)
		}
	}
}

// What Weir has, a function of a running Weir does not see: its data folder with
// keys and the log, its environment and processes, its ports.
func TestFunctionSeesNothingOfWeir(t *testing.T) {
	spy := python(t, `
    seen = []
    for path in event["paths"]:
        try: seen += [path] + os.listdir(path)
        except OSError: pass
        try: seen.append(open(path).read(100))
        except OSError: pass
    for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
        try: seen += [path for word in event["words"] if word in open(path).read()]
        except OSError: pass
    for addr in event["addrs"]:
        host, _, port = addr.rpartition(":")
        try: socket.create_connection((host.strip("[]"), int(port)), 2).close(); seen.append(addr)
        except OSError: pass
    return {"seen": seen, "uid": os.getuid()}
`)
	w := weirtest.Process(t, weirtest.Env("CANARY=canary-of-the-environment"))
	var r lambdaapi.Isolation
	if err := w.API().Call(t.Context(), "GET", "/weir/v1/function-isolation", nil, nil, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) == 1 {
		t.Skipf("this host permits no sandbox: %s", r.Findings[0].Detail)
	}
	deployFunction(t, w, "spy", functions.Config{Runtime: "provided", Timeout: 60}, spy)
	ends := w.Endpoints()
	event, err := json.Marshal(map[string]any{
		"paths": []string{w.Dir(), w.Dir() + "/admin.token", ends.AccessKeyFile, ends.CAFile, "/root", "/etc/shadow"},
		"words": []string{"canary-of-the-environment", w.Dir()},
		"addrs": []string{ends.MQTT, ends.MQTTS, ends.HTTPS, strings.TrimPrefix(ends.API, "http://"), ends.NATS},
	})
	if err != nil {
		t.Fatal(err)
	}
	var out lambdaapi.Invoked
	if err := w.API().Call(t.Context(), "POST", "/weir/v1/functions/spy/invoke", nil, event, &out); err != nil {
		t.Fatal(err)
	}
	var a struct {
		Seen []string
		UID  *int
	}
	if err := json.Unmarshal(out.Payload, &a); err != nil || a.UID == nil || len(a.Seen) > 0 {
		t.Errorf("%s\n%s", out.Payload, out.Log)
	}
}
