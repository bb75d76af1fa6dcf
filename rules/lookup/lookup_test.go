package lookup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"
	"go.uber.org/goleak"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clean makes the environment of AWS the one of set.
func clean(t testing.TB, set map[string]string) {
	for _, kv := range os.Environ() {
		if k, v, _ := strings.Cut(kv, "="); strings.HasPrefix(k, "AWS_") {
			t.Setenv(k, v)
			os.Unsetenv(k)
		}
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	for k, v := range set {
		t.Setenv(k, v)
	}
}

// credentials are those of the environment, else made up.
type credentials struct{ first aws.CredentialsProvider }

func (c credentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if got, err := c.first.Retrieve(ctx); err == nil {
		return got, nil
	}
	return aws.Credentials{AccessKeyID: "made", SecretAccessKey: "up", Source: "test"}, nil
}

// inside is an S3 in the process.
type inside struct{ url string }

func (i inside) GetServiceBaseEndpoint(_ context.Context, service string) (string, bool, error) {
	return i.url, service == "S3", nil
}

// open opens the look-ups of the environment, with credentials made up where it
// has none.
func open(t testing.TB, now func() time.Time, change ...func(*aws.Config)) eval.Lookups {
	t.Helper()
	l, err := Open(t.Context(), func(ctx context.Context) (aws.Config, error) {
		cfg, err := config.LoadDefaultConfig(ctx, config.WithDefaultRegion("us-east-1"), config.WithLogger(logging.Nop{}))
		if err == nil {
			cfg.Credentials = credentials{cfg.Credentials}
			for _, f := range change {
				f(&cfg)
			}
		}
		return cfg, err
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// evaluate returns what SELECT expr AS v gives for a payload.
func evaluate(t testing.TB, l eval.Lookups, expr, payload string) (string, error) {
	t.Helper()
	stmt, err := sql.Parse("SELECT " + expr + " AS v FROM '#'")
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23", RuleName: "r", Lookups: l})
	if err != nil {
		t.Fatal(err)
	}
	b, ok, err := p.Eval(t.Context(), eval.NewMachine(), &event.Event{Topic: "a", Payload: []byte(payload)})
	if err == nil && !ok {
		t.Fatal("WHERE is not true")
	}
	return string(b), err
}

// metadata is the metadata service of an EC2 machine with a role.
func metadata(t testing.TB) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/latest/api/token":
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
			fmt.Fprint(w, "token")
		case "/latest/meta-data/iam/security-credentials/":
			fmt.Fprint(w, "role")
		case "/latest/meta-data/iam/security-credentials/role":
			json.NewEncoder(w).Encode(map[string]string{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ec2", "SecretAccessKey": "s",
				"Token": "t", "Expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestWhichServicesAreThere(t *testing.T) {
	const all = "table descriptor secret lambda"
	file := func(content string) string {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	own := func(cfg *aws.Config) { cfg.ConfigSources = append(cfg.ConfigSources, inside{"http://s3.inside"}) }
	for name, c := range map[string]struct {
		env    map[string]string
		change func(*aws.Config)
		want   string
	}{
		"nothing set":          {nil, nil, ""},
		"S3 in the process":    {nil, own, "descriptor"},
		"another endpoint too": {map[string]string{"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:1"}, own, "table descriptor"},
		"DynamoDB":             {map[string]string{"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:1"}, nil, "table"},
		"S3":                   {map[string]string{"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}, nil, "descriptor"},
		"Secrets Manager":      {map[string]string{"AWS_ENDPOINT_URL_SECRETS_MANAGER": "http://127.0.0.1:1"}, nil, "secret"},
		"Lambda":               {map[string]string{"AWS_ENDPOINT_URL_LAMBDA": "http://127.0.0.1:1"}, nil, "lambda"},
		"every endpoint":       {map[string]string{"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, nil, all},
		"set to nothing":       {map[string]string{"AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_LAMBDA": ""}, nil, ""},
		"nothing, and own S3":  {map[string]string{"AWS_ENDPOINT_URL": ""}, own, "descriptor"},
		"endpoint in a file": {map[string]string{"AWS_CONFIG_FILE": file("[default]\nservices = s\n[services s]\nlambda =\n  endpoint_url = http://127.0.0.1:1\n")},
			nil, "lambda"},
		"keys":          {map[string]string{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, nil, all},
		"half a key":    {map[string]string{"AWS_ACCESS_KEY_ID": "a"}, nil, ""},
		"a profile":     {map[string]string{"AWS_PROFILE": "p", "AWS_SHARED_CREDENTIALS_FILE": file("[p]\naws_access_key_id = a\naws_secret_access_key = b\n")}, nil, all},
		"other profile": {map[string]string{"AWS_SHARED_CREDENTIALS_FILE": file("[p]\naws_access_key_id = a\naws_secret_access_key = b\n")}, nil, ""},
		// These do not work here: what is named counts.
		"log-in": {map[string]string{"AWS_CONFIG_FILE": file("[default]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n" +
			"[sso-session s]\nsso_region = us-east-1\nsso_start_url = http://127.0.0.1:1\n")}, nil, all},
		"process":      {map[string]string{"AWS_CONFIG_FILE": file("[default]\ncredential_process = /nowhere\n")}, nil, all},
		"web identity": {map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere", "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/r"}, nil, all},
		"container":    {map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1"}, nil, all},
		"EC2":          {map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata(t), "AWS_EC2_METADATA_DISABLED": "false"}, nil, all},
	} {
		t.Run(name, func(t *testing.T) {
			clean(t, c.env)
			var change []func(*aws.Config)
			if c.change != nil {
				change = append(change, c.change)
			}
			l := open(t, time.Now, change...)
			var got []string
			for _, s := range []struct {
				name  string
				there bool
			}{{"table", l.Table != nil}, {"descriptor", l.Descriptor != nil}, {"secret", l.Secret != nil}, {"lambda", l.Lambda != nil},
				{"shadow", l.Shadow != nil}, {"registry", l.Registry != nil}, {"predict", l.Predict != nil}} {
				if s.there {
					got = append(got, s.name)
				}
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("there are %q, want %q", s, c.want)
			}
		})
	}
}

// A rule that needs a service which is not there is told what to set, or that
// this Weir has none.
func TestRefusals(t *testing.T) {
	clean(t, nil)
	l := open(t, time.Now)
	for call, want := range map[string]string{
		"get_dynamodb('t', 'k', 'v', 'r')":             "AWS_ENDPOINT_URL_DYNAMODB or AWS credentials",
		"get_secret('s', 'SecretString', 'r')":         "AWS_ENDPOINT_URL_SECRETS_MANAGER or AWS credentials",
		"aws_lambda('f', 1)":                           "AWS_ENDPOINT_URL_LAMBDA or AWS credentials",
		"decode(*, 'proto', 'b', 'k', 'f', 'm')":       "AWS_ENDPOINT_URL_S3 or AWS credentials",
		"get_thing_shadow('t', 'r')":                   "it is a part of a running Weir",
		"get_registry_data('DescribeThing', 't', 'r')": "a part of a running Weir",
		"machinelearning_predict('m', 'r', {})":        "this Weir runs no models",
	} {
		stmt, err := sql.Parse("SELECT " + call + " AS v FROM '#'")
		if err != nil {
			t.Fatal(err)
		}
		var at *sql.Error
		if _, _, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23", Lookups: l}); !errors.As(err, &at) || !strings.Contains(at.Detail(), want) {
			t.Errorf("%s: %v, want a hint with %q", call, err, want)
		}
	}
}

func TestBrokenConfiguration(t *testing.T) {
	down := errs.E("test", errs.Unavailable, errors.New("the file is broken"))
	l, err := Open(t.Context(), func(context.Context) (aws.Config, error) { return aws.Config{}, down }, time.Now)
	if !errs.Is(err, errs.Unavailable) || l != (eval.Lookups{}) {
		t.Errorf("%+v, %v", l, err)
	}
}

// The words of an error do not show why there are no credentials: a credential
// process may have written them.
func TestNoCredentials(t *testing.T) {
	clean(t, map[string]string{"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
	l := open(t, time.Now, func(cfg *aws.Config) {
		cfg.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{}, errors.New("cannot read hunter2")
		})
	})
	for _, ask := range asks(l) {
		if _, err := ask(t.Context()); !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "no AWS credentials") || strings.Contains(err.Error(), "hunter2") {
			t.Error(err)
		}
	}
}

// asks is one look-up of each service.
func asks(l eval.Lookups) []func(context.Context) ([]byte, error) {
	return []func(context.Context) ([]byte, error){
		func(ctx context.Context) ([]byte, error) {
			return l.Table.Item(ctx, "table", eval.TableKey{Name: "k", Value: "v"}, nil, "")
		},
		func(ctx context.Context) ([]byte, error) { return l.Descriptor.Descriptor(ctx, "bucket", "key") },
		func(ctx context.Context) ([]byte, error) { return l.Secret.Secret(ctx, "secret", false, "") },
		func(ctx context.Context) ([]byte, error) { return l.Lambda.Invoke(ctx, "function", []byte("{}")) },
	}
}

// What all services have in common: each misbehaves in the same ways.
func TestServicesThatFail(t *testing.T) {
	stop := make(chan struct{})
	var behave atomic.Pointer[http.HandlerFunc]
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not see that the client goes
		asked.Add(1)
		(*behave.Load())(w, r)
	}))
	defer s.Close()
	defer close(stop)
	clean(t, map[string]string{"AWS_ENDPOINT_URL": s.URL, "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_SESSION_TOKEN": "hunter3"})
	l := open(t, time.Now)
	refuse := func(status int, code, message string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet { // S3
				w.WriteHeader(status)
				fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
				return
			}
			w.Header().Set("X-Amzn-ErrorType", code)
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"__type":%q,"message":%q}`, code, message)
		}
	}
	for name, c := range map[string]struct {
		behave http.HandlerFunc
		kind   errs.Kind
		text   string
		asked  int32 // 0: any number of times
	}{
		"hangs":              {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, errs.Timeout, "in time", 0},
		"hangs in an answer": {hangInside(stop), errs.Timeout, "in time", 0},
		"breaks off":         {breakOff, errs.Unavailable, "", 0},
		"goes on for ever":   {goOn(-1), errs.TooLarge, "large", 1},
		"says it is large":   {goOn(100 << 20), errs.TooLarge, "large", 1},
		"is down":            {refuse(503, "ServiceUnavailable", "come again"), errs.Unavailable, "ServiceUnavailable", 3},
		"throttles":          {refuse(400, "ThrottlingException", "slower"), errs.Quota, "ThrottlingException", 3},
		"denies":             {refuse(403, "AccessDeniedException", "not you"), errs.Forbidden, "AccessDeniedException", 1},
		"refuses":            {refuse(400, "ValidationException", strings.Repeat("wrong\n", 1000)), errs.Invalid, "ValidationException", 1},
		"quotes the request": {refuse(403, "InvalidSignatureException", "the canonical string is x-amz-security-token:hunter3"), errs.Forbidden, "InvalidSignature", 1},
	} {
		for i, ask := range asks(l) {
			t.Run(fmt.Sprintf("%s %d", name, i), func(t *testing.T) {
				behave.Store(&c.behave)
				asked.Store(0)
				limit := 5 * time.Second
				if strings.HasPrefix(name, "hangs") {
					limit = 200 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				begin := time.Now()
				data, err := ask(ctx)
				if err == nil || errs.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
					t.Fatalf("%.100q, %v (%v), want %v with %q", data, err, errs.KindOf(err), c.kind, c.text)
				}
				if strings.Contains(err.Error(), "hunter") || strings.ContainsRune(err.Error(), '\n') || len(err.Error()) > 500 {
					t.Errorf("%s", err)
				}
				// A connection that an earlier case broke may cost one of three attempts.
				if n := asked.Load(); c.asked == 1 && n > 2 || c.asked == 3 && n < 2 {
					t.Errorf("asked %d times, want %d", n, c.asked)
				}
				if d := time.Since(begin); d > 3*time.Second {
					t.Errorf("took %v", d)
				}
			})
		}
	}
}

// hangInside begins an answer.
func hangInside(stop chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"Item":{"a":{"S":"`)
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-stop:
		}
	}
}

// breakOff closes the connection in an answer.
func breakOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	fmt.Fprint(w, `{"Item":{"a":{"S":"`)
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// goOn answers with n bytes, -1: without end.
func goOn(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if n > 0 {
			w.Header().Set("Content-Length", fmt.Sprint(n))
		}
		if _, err := fmt.Fprint(w, `{"SecretString":"`); err != nil {
			return
		}
		for r.Context().Err() == nil {
			if _, err := fmt.Fprint(w, strings.Repeat("x", 64<<10)); err != nil {
				return
			}
		}
	}
}

func TestNobodyListens(t *testing.T) {
	clean(t, map[string]string{"AWS_ENDPOINT_URL": "http://user:hunter2@127.0.0.1:1"})
	for _, ask := range asks(open(t, time.Now)) {
		if _, err := ask(t.Context()); !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "hunter") {
			t.Error(err)
		}
	}
}

func TestGivenUp(t *testing.T) {
	clean(t, map[string]string{"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ask := range asks(open(t, time.Now)) {
		if _, err := ask(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
