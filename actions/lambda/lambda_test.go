package lambda_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/actiontest"
	"github.com/weir-iot/weir/actions/lambda"
	"github.com/weir-iot/weir/functions"
	"github.com/weir-iot/weir/functions/lambdaapi"
	"github.com/weir-iot/weir/functions/sandbox"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	os.Exit(m.Run())
}

// recorder is the function's code.
type recorder struct {
	mu   sync.Mutex
	seen []actiontest.Delivery
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	b, _ := io.ReadAll(q.Body)
	r.mu.Lock()
	r.seen = append(r.seen, actiontest.Delivery{ID: q.Header.Get("Lambda-Runtime-Aws-Request-Id"), Payload: string(b)})
	r.mu.Unlock()
	_, _ = w.Write(b)
}

func (r *recorder) received(testing.TB) []actiontest.Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]actiontest.Delivery(nil), r.seen...)
}

// serve runs functions with one, f, whose code is at url.
func serve(t testing.TB, url string) *functions.Service {
	t.Helper()
	dir := t.TempDir()
	log, err := eventlog.Open(t.Context(), eventlog.Options{Dir: filepath.Join(dir, "log"), Durability: eventlog.Memory})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	logged := make(chan error, 1)
	go func() { logged <- log.Run(ctx) }()
	b, err := kv.Open(t.Context(), log, kv.Config{Name: "functions"})
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	s, err := functions.Open(t.Context(), functions.Options{Bucket: b, Dir: filepath.Join(dir, "functions"), AccountID: "123456789012", Region: "us-east-1",
		HTTP: transport, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(run) }()
	t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		transport.CloseIdleConnections()
		cancel()
		<-logged
		log.Close()
	})
	if _, err := s.Deploy(t.Context(), functions.Deployment{Name: "f", Config: functions.Config{Runtime: "http", URL: url, Timeout: 60, Concurrency: 100}}); err != nil {
		t.Fatal(err)
	}
	return s
}

const arn = "arn:aws:lambda:us-east-1:123456789012:function:f"

// A function that is deployed here: the fault is in its own server.
func TestContractHere(t *testing.T) {
	actiontest.Run(t, actiontest.Features{
		Kind: lambda.Kind, InProcess: true, TooLarge: lambda.MaxPayload + 1, Without: []actiontest.Fault{actiontest.Refuse},
		Bad: func(r *actions.Result) { r.Payload = []byte("no JSON") },
		Open: func(t testing.TB) *actiontest.Destination {
			r := &recorder{}
			p := actiontest.NewServer(t, r)
			s := serve(t, p.URL)
			return &actiontest.Destination{Config: `{"functionArn":"` + arn + `"}`, Received: r.received, Fault: p.Set,
				Env: func(e *actions.Env) { e.Functions = s }}
		},
	})
}

// One of AWS Lambda, for which stands Weir's own API.
func TestContractThere(t *testing.T) {
	actiontest.Run(t, actiontest.Features{
		Kind: lambda.Kind, InProcess: true, TooLarge: lambda.MaxPayload + 1,
		Bad: func(r *actions.Result) { r.Payload = []byte("no JSON") },
		Open: func(t testing.TB) *actiontest.Destination {
			r := &recorder{}
			s := serve(t, actiontest.NewServer(t, r).URL)
			p := actiontest.NewServer(t, lambdaapi.New(lambdaapi.Options{Functions: s, Logger: slog.New(slog.DiscardHandler),
				Admit:     func(*http.Request) error { return nil },
				Authorize: func(*http.Request, []byte, string, string) error { return nil }}))
			transport := &http.Transport{}
			t.Cleanup(transport.CloseIdleConnections)
			return &actiontest.Destination{Config: `{"functionArn":"` + arn + `"}`, Fault: p.Set,
				Received: func(t testing.TB) []actiontest.Delivery {
					for deadline := time.Now().Add(time.Minute); s.Queued() > 0; time.Sleep(time.Millisecond) {
						if time.Now().After(deadline) {
							t.Fatal("the queue does not get empty")
						}
					}
					return withoutIDs(r.received(t))
				},
				Env: func(e *actions.Env) {
					e.AWS = func(context.Context) (aws.Config, error) {
						return aws.Config{Region: "us-east-1", BaseEndpoint: &p.URL, HTTPClient: &http.Client{Transport: transport},
							Credentials: credentials.NewStaticCredentialsProvider("AKID", "secret", "")}, nil
					}
				}}
		},
	})
}

// withoutIDs leaves the request ids out: AWS Lambda gives them itself.
func withoutIDs(list []actiontest.Delivery) []actiontest.Delivery {
	for i := range list {
		list[i].ID = ""
	}
	return list
}

// Every repeat of a result has one request id, of its own rule and function.
func TestRequestID(t *testing.T) {
	a, b := actiontest.Result(1), actiontest.Result(2)
	other := *a
	other.Rule = "other"
	ids := map[string]bool{lambda.RequestID(a, "f"): true, lambda.RequestID(b, "f"): true, lambda.RequestID(&other, "f"): true, lambda.RequestID(a, "g"): true}
	if len(ids) != 4 || !ids[lambda.RequestID(actiontest.Result(1), "f")] {
		t.Errorf("%v", ids)
	}
	for id := range ids {
		if len(id) != 36 {
			t.Error(id)
		}
	}
}
