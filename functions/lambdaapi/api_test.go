package lambdaapi_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"

	"github.com/weir-iot/weir/functions"
	"github.com/weir-iot/weir/functions/lambdaapi"
	"github.com/weir-iot/weir/functions/sandbox"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	os.Exit(m.Run())
}

// serve runs the API over functions of its own; whoever signs as AKID may do all.
func serve(t testing.TB) (*functions.Service, string) {
	t.Helper()
	dir := t.TempDir()
	log, err := eventlog.Open(t.Context(), eventlog.Options{Dir: filepath.Join(dir, "log"), Durability: eventlog.Memory})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- log.Run(ctx) }()
	b, err := kv.Open(t.Context(), log, kv.Config{Name: "functions"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := functions.Open(t.Context(), functions.Options{Bucket: b, Dir: filepath.Join(dir, "functions"), AccountID: "123456789012", Region: "us-east-1",
		HTTP: http.DefaultTransport, Waits: []time.Duration{time.Millisecond}, InitTime: time.Minute, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(run) }()
	srv := httptest.NewServer(lambdaapi.New(lambdaapi.Options{Functions: s, Logger: slog.New(slog.DiscardHandler),
		Admit: func(r *http.Request) error {
			if !strings.Contains(r.Header.Get("Authorization"), "Credential=AKID/") {
				return errs.Errorf("test", errs.Unauthorized, "The security token included in the request is invalid.")
			}
			return nil
		},
		Authorize: func(_ *http.Request, _ []byte, action, resource string) error {
			if action == "" || resource == "" {
				return errs.Errorf("test", errs.Unauthorized, "nothing to authorize")
			}
			return nil
		}}))
	t.Cleanup(func() {
		srv.Close()
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		cancel()
		<-done
		log.Close()
	})
	return s, srv.URL
}

func client(url, key string) *lambda.Client {
	return lambda.New(lambda.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: credentials.NewStaticCredentialsProvider(key, "secret", ""), Retryer: aws.NopRetryer{}})
}

func zipped(t testing.TB, name, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	h := &zip.FileHeader{Name: name, Method: zip.Deflate}
	h.SetMode(0o755)
	out, err := w.CreateHeader(h)
	if err == nil {
		_, err = io.WriteString(out, text)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// echo is a custom runtime in Python that answers with the event, and fails on
// null.
const echo = `#!/usr/bin/python3
import http.client, os, sys
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
while True:
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    a = api.getresponse(); event = a.read(); id = a.headers["Lambda-Runtime-Aws-Request-Id"]
    print("event of", len(event), "bytes", flush=True)
    if event == b"null":
        api.request("POST", "/2018-06-01/runtime/invocation/" + id + "/error", '{"errorType":"Null","errorMessage":"nothing"}')
    else:
        api.request("POST", "/2018-06-01/runtime/invocation/" + id + "/response", event)
    api.getresponse().read()
`

func needsPython(t testing.TB, s *functions.Service) {
	t.Helper()
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("python3 is not installed")
	}
	if r := s.Isolation(t.Context()); len(r.Findings) == 1 && !r.Findings[0].OK {
		t.Skipf("this host permits no sandbox: %s", r.Findings[0].Detail)
	}
}

func code(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	return "no answer"
}

func TestSDK(t *testing.T) {
	s, url := serve(t)
	needsPython(t, s)
	c := client(url, "AKID")
	ctx := t.Context()
	role := "arn:aws:iam::123456789012:role/r"
	made, err := c.CreateFunction(ctx, &lambda.CreateFunctionInput{FunctionName: aws.String("f"), Runtime: types.RuntimeProvidedal2023, Role: &role, Handler: aws.String("bootstrap"),
		Code: &types.FunctionCode{ZipFile: zipped(t, "bootstrap", echo)}, Timeout: aws.Int32(30), MemorySize: aws.Int32(200), Publish: true,
		Environment: &types.Environment{Variables: map[string]string{"A": "b"}}, Description: aws.String("an echo")})
	if err != nil || *made.FunctionArn != "arn:aws:lambda:us-east-1:123456789012:function:f:1" || made.State != types.StateActive || *made.Role != role || *made.Version != "1" {
		t.Fatalf("%+v, %v", made, err)
	}
	if _, err := c.CreateFunction(ctx, &lambda.CreateFunctionInput{FunctionName: aws.String("f"), Runtime: types.RuntimeProvidedal2023, Role: &role,
		Code: &types.FunctionCode{ZipFile: zipped(t, "bootstrap", echo)}}); code(err) != "ResourceConflictException" {
		t.Errorf("%v", err)
	}
	out, err := c.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`{"n":1}`), LogType: types.LogTypeTail})
	if err != nil || string(out.Payload) != `{"n":1}` || out.FunctionError != nil || out.StatusCode != 200 || *out.ExecutedVersion != "$LATEST" || out.LogResult == nil {
		t.Errorf("%+v %s %v", out, out.Payload, err)
	}
	out, err = c.Invoke(ctx, &lambda.InvokeInput{FunctionName: made.FunctionArn, Payload: []byte(`null`)})
	if err != nil || aws.ToString(out.FunctionError) != "Unhandled" || *out.ExecutedVersion != "1" || !strings.Contains(string(out.Payload), "nothing") {
		t.Errorf("%+v %v", out, err)
	}
	out, err = c.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`{"event":1}`), InvocationType: types.InvocationTypeEvent})
	if err != nil || out.StatusCode != 202 {
		t.Errorf("%+v %v", out, err)
	}
	out, err = c.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String("f"), InvocationType: types.InvocationTypeDryRun})
	if err != nil || out.StatusCode != 204 {
		t.Errorf("%+v %v", out, err)
	}
	for want, in := range map[string]*lambda.InvokeInput{
		"ResourceNotFoundException":      {FunctionName: aws.String("g")},
		"InvalidRequestContentException": {FunctionName: aws.String("f"), Payload: []byte(`{`)},
		"RequestTooLargeException":       {FunctionName: aws.String("f"), Payload: bytes.Repeat([]byte("1"), functions.MaxPayload+2<<10)},
	} {
		if _, err := c.Invoke(ctx, in); code(err) != want {
			t.Errorf("want %s, got %v", want, err)
		}
	}
	for deadline := time.Now().Add(time.Minute); s.Queued() > 0 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	var log []string
	_ = s.Logs(ctx, "f", -1, false, func(l functions.LogLine) error { log = append(log, l.Text); return nil })
	if !strings.Contains(strings.Join(log, "\n"), "event of 11 bytes") {
		t.Errorf("the queued event did not come: %q", log)
	}

	changed, err := c.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{FunctionName: aws.String("f"), Timeout: aws.Int32(5), RevisionId: aws.String("wrong")})
	if code(err) != "PreconditionFailedException" {
		t.Errorf("%+v %v", changed, err)
	}
	changed, err = c.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{FunctionName: aws.String("f"), Timeout: aws.Int32(5)})
	if err != nil || *changed.Timeout != 5 || *changed.MemorySize != 200 {
		t.Errorf("%+v %v", changed, err)
	}
	updated, err := c.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), Publish: true, ZipFile: zipped(t, "bootstrap", strings.Replace(echo, "event)\n    api.get", "b'2')\n    api.get", 1))})
	if err != nil || *updated.Version != "2" || *updated.CodeSha256 == *made.CodeSha256 {
		t.Errorf("%+v %v", updated, err)
	}
	for version, want := range map[string]string{"": "2", "1": "7", "2": "2"} {
		in := &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`7`)}
		if version != "" {
			in.Qualifier = &version
		}
		if out, err := c.Invoke(ctx, in); err != nil || string(out.Payload) != want {
			t.Errorf("version %q: %s, %v", version, out.Payload, err)
		}
	}
	list, err := c.ListFunctions(ctx, &lambda.ListFunctionsInput{})
	if err != nil || len(list.Functions) != 1 || *list.Functions[0].FunctionName != "f" {
		t.Errorf("%+v %v", list, err)
	}
	versions, err := c.ListVersionsByFunction(ctx, &lambda.ListVersionsByFunctionInput{FunctionName: aws.String("f")})
	if err != nil || len(versions.Versions) != 3 {
		t.Errorf("%+v %v", versions, err)
	}
	got, err := c.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: aws.String("f"), Qualifier: aws.String("1")})
	if err != nil || *got.Configuration.Version != "1" || *got.Configuration.Timeout != 30 || got.Configuration.Environment.Variables["A"] != "b" {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := c.PutFunctionConcurrency(ctx, &lambda.PutFunctionConcurrencyInput{FunctionName: aws.String("f"), ReservedConcurrentExecutions: aws.Int32(3)}); err != nil {
		t.Error(err)
	}
	if n, err := c.GetFunctionConcurrency(ctx, &lambda.GetFunctionConcurrencyInput{FunctionName: aws.String("f")}); err != nil || *n.ReservedConcurrentExecutions != 3 {
		t.Errorf("%+v %v", n, err)
	}
	if _, err := client(url, "OTHER").ListFunctions(ctx, &lambda.ListFunctionsInput{}); code(err) != "UnrecognizedClientException" {
		t.Error(err)
	}
	if _, err := c.CreateFunction(ctx, &lambda.CreateFunctionInput{FunctionName: aws.String("g"), Runtime: types.RuntimeJava21, Role: &role,
		Code: &types.FunctionCode{ZipFile: zipped(t, "x", "x")}}); code(err) != "InvalidParameterValueException" {
		t.Error(err)
	}
	if _, err := c.GetPolicy(ctx, &lambda.GetPolicyInput{FunctionName: aws.String("f")}); code(err) != "InvalidParameterValueException" {
		t.Errorf("an operation that is not there: %v", err)
	}
	if _, err := c.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: aws.String("f")}); err != nil {
		t.Error(err)
	}
	if _, err := c.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: aws.String("f")}); code(err) != "ResourceNotFoundException" {
		t.Error(err)
	}
}

// unread is a body that says when somebody reads it.
type unread struct{ read atomic.Bool }

func (u *unread) Read([]byte) (int, error) {
	u.read.Store(true)
	return 0, io.EOF
}

// Of a stranger no package is read.
func TestStrangersSendNothing(t *testing.T) {
	a := lambdaapi.New(lambdaapi.Options{Logger: slog.New(slog.DiscardHandler),
		Admit: func(*http.Request) error { return errs.Errorf("test", errs.Unauthorized, "a stranger") }})
	for _, path := range []string{"/2015-03-31/functions", "/2015-03-31/functions/f/invocations"} {
		body := &unread{}
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequest("POST", path, body))
		if w.Code != http.StatusForbidden || body.read.Load() {
			t.Errorf("%s: %d, read: %v", path, w.Code, body.read.Load())
		}
	}
}

// slow is a body that says when it is read, and breaks off once it is let go.
type slow struct{ read, end chan struct{} }

func newSlow() *slow { return &slow{make(chan struct{}), make(chan struct{})} }

func (s *slow) Read([]byte) (int, error) {
	close(s.read)
	<-s.end
	return 0, io.ErrUnexpectedEOF
}

// Bodies of all requests together are bounded: one that does not fit waits, and
// has its turn.
func TestBodiesAreBounded(t *testing.T) {
	a := lambdaapi.New(lambdaapi.Options{Logger: slog.New(slog.DiscardHandler),
		Admit:     func(*http.Request) error { return nil },
		Authorize: func(*http.Request, []byte, string, string) error { return nil }})
	var wg sync.WaitGroup
	send := func() *slow {
		body := newSlow()
		r := httptest.NewRequest("POST", "/2015-03-31/functions", body)
		r.ContentLength = 60 << 20
		wg.Go(func() {
			w := httptest.NewRecorder()
			if a.ServeHTTP(w, r); w.Code != http.StatusBadRequest {
				t.Errorf("%d", w.Code)
			}
		})
		return body
	}
	first, second := send(), send()
	<-first.read
	<-second.read
	third := send()
	select {
	case <-third.read:
		t.Error("a third body of 60 MiB is read")
	case <-time.After(50 * time.Millisecond):
	}
	close(first.end)
	<-third.read
	close(second.end)
	close(third.end)
	wg.Wait()
}

// Debian's AWS CLI, as it is.
func TestCommandLine(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the AWS CLI")
	}
	cli := "/usr/bin/aws"
	if _, err := os.Stat(cli); err != nil {
		if cli, err = exec.LookPath("aws"); err != nil {
			t.Skip("the AWS CLI is not installed (Debian: apt install awscli)")
		}
	}
	s, url := serve(t)
	needsPython(t, s)
	dir := t.TempDir()
	pkg := filepath.Join(dir, "function.zip")
	if err := os.WriteFile(pkg, zipped(t, "bootstrap", echo), 0o644); err != nil {
		t.Fatal(err)
	}
	answer := filepath.Join(dir, "answer.json")
	for _, c := range []struct{ line, want string }{
		{"create-function --function-name f --runtime provided.al2023 --role arn:aws:iam::123456789012:role/r --handler x --timeout 30 --zip-file fileb://" + pkg, `"State": "Active"`},
		{"invoke --function-name f --log-type Tail --cli-binary-format raw-in-base64-out --payload {\"n\":1} " + answer, `"StatusCode": 200`},
		{"list-functions", `"FunctionName": "f"`},
		{"get-function --function-name f", `"FunctionArn": "arn:aws:lambda:us-east-1:123456789012:function:f"`},
		{"delete-function --function-name f", ""},
	} {
		cmd := exec.Command(cli, append([]string{"--endpoint-url", url, "lambda"}, strings.Fields(c.line)...)...)
		cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=AKID", "AWS_SECRET_ACCESS_KEY=secret", "AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1", "AWS_PAGER=", "AWS_CONFIG_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) {
			t.Fatalf("aws lambda %s: %v\n%s", c.line, err, out)
		}
	}
	if b, err := os.ReadFile(answer); err != nil || string(b) != `{"n":1}` {
		t.Errorf("%s %v", b, err)
	}
	if len(s.List()) != 0 {
		t.Error("the function is still there")
	}
}

// FuzzRequests has the API answer anything with a status of its own and JSON.
func FuzzRequests(f *testing.F) {
	_, url := serve(f)
	f.Add("POST", "/2015-03-31/functions", `{"FunctionName":"f","Runtime":"wasm","Code":{"ZipFile":"UEs="}}`)
	f.Add("POST", "/2015-03-31/functions/f/invocations", `{}`)
	f.Add("PUT", "/2015-03-31/functions/f/code", `{"ZipFile":1}`)
	f.Add("GET", "/2015-03-31/functions/?Marker=%00&MaxItems=x", ``)
	f.Fuzz(func(t *testing.T, method, path, body string) {
		req, err := http.NewRequest(method, url, strings.NewReader(body))
		if err != nil {
			return
		}
		if req.URL, err = req.URL.Parse(path); err != nil || req.URL.Host != strings.TrimPrefix(url, "http://") {
			return
		}
		req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKID/x")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode == 500 || resp.Header.Get("Content-Type") == "application/json" && len(b) > 0 && !json.Valid(b) {
			t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, b)
		}
	})
}
