package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/test/weirtest"
)

// A function is deployed, asked by rules and by the Lambda API, and told of,
// wherever it runs; while nobody runs functions, that is said, and results wait.
func TestFunctionsElsewhere(t *testing.T) {
	seen := make(chan string, 100)
	double := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen <- string(body)
		_, _ = io.WriteString(w, `{"given": `+string(body)+`}`)
	}))
	t.Cleanup(double.Close)
	w := weirtest.Start(t)
	weir := func(stdin string, args ...string) (string, int) {
		out, stderr, code := weirtest.Run(t, stdin, nil, append([]string{"--data", w.Dir(), "function"}, args...)...)
		return out + stderr, code
	}
	if out, code := weir("", "deploy", "double", "--runtime", "http", "--url", double.URL); code != 0 {
		t.Fatal(out)
	}
	if out, code := weir("", "list"); code != 0 || !strings.Contains(out, "double") {
		t.Error(out)
	}
	k, err := control.ReadAccessKey(w.Endpoints().AccessKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	api := lambda.New(lambda.Options{Region: "us-east-1", BaseEndpoint: aws.String(w.Endpoints().API), RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(k.ID, k.Secret, "")})
	invoke := func() (string, error) {
		r, err := api.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("double"), Payload: []byte(`{"n":1}`)})
		if err != nil {
			return "", err
		}
		return string(r.Payload), nil
	}
	if got, err := invoke(); err != nil || got != `{"given": {"n":1}}` {
		t.Fatal(got, err)
	}
	<-seen
	w.Apply(`
ruleName: asks
sql: >-
  SELECT aws_lambda("arn:aws:lambda:us-east-1:123456789012:function:double", {"n": n}).given.n AS n FROM 'asks'
awsIotSqlVersion: '2016-03-23'
actions:
  - republish: {topic: asked, qos: 1}
---
ruleName: hands
sql: SELECT n FROM 'hands'
awsIotSqlVersion: '2016-03-23'
actions:
  - lambda: {functionArn: double}
`)
	asked := w.Subscribe("asked")
	w.MustPublish("asks", `{"n": 7}`)
	if m := asked.Next(); string(m.Payload) != `{"n":7}` {
		t.Errorf("%s", m.Payload)
	}
	<-seen
	w.MustPublish("hands", `{"n": 8}`)
	if got := <-seen; got != `{"n":8}` {
		t.Error(got)
	}
	runner := w.Part("functions")
	if runner == w {
		return // one process: it is there or not as a whole
	}
	runner.Kill()
	// The NATS server may take a moment to notice.
	if _, err := invoke(); err == nil || !strings.Contains(err.Error(), "no process is there for the role functions") &&
		!strings.Contains(err.Error(), "the role functions has not been heard of") {
		t.Error(err)
	}
	w.MustPublish("hands", `{"n": 9}`)
	runner.BeginProcess()
	for { // what was under way at the kill comes again
		got := <-seen
		if got == `{"n":9}` {
			break
		}
		if got != `{"n":8}` {
			t.Fatal(got)
		}
	}
	if out, code := weir("", "logs", "double"); code != 0 {
		t.Error(out)
	}
	if out, code := weir("", "delete", "double"); code != 0 {
		t.Error(out)
	}
	if out, _ := weir("", "list"); strings.Contains(out, "double") {
		t.Error(out)
	}
}
