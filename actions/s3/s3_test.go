package s3

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/actiontest"
	"github.com/weir-iot/weir/actions/awsenv"
	"github.com/weir-iot/weir/actions/s3/localstore"
	"github.com/weir-iot/weir/test/npm"
)

const s3rver = `
const S3rver = require("s3rver");
new S3rver({address: "127.0.0.1", port: 0, silent: true, directory: process.argv[1], vhostBuckets: false}).run((err, a) => {
	if (err) throw err;
	console.log("port " + a.port);
});
`

// environment points the AWS environment of the process at a server with
// s3rver's key.
func environment(t testing.TB, endpoint string) *awsenv.Env {
	for k, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_S3": endpoint, "AWS_REGION": "us-east-1",
		"AWS_CONFIG_FILE": filepath.Join(t.TempDir(), "none"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(t.TempDir(), "none"),
	} {
		t.Setenv(k, v)
	}
	return awsenv.New(awsenv.Options{NoMetadata: true})
}

func client(cfg aws.Config) *awss3.Client {
	return awss3.NewFromConfig(cfg, func(o *awss3.Options) {
		if o.UsePathStyle = true; o.BaseEndpoint == nil {
			o.BaseEndpoint = awsenv.LocalEndpoint(cfg)
		}
	})
}

// objects reads a bucket with a client of its own.
func objects(t testing.TB, env *awsenv.Env, bucket string) []actiontest.Delivery {
	cfg, err := env.Config(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := client(cfg)
	var out []actiontest.Delivery
	p := awss3.NewListObjectsV2Paginator(c, &awss3.ListObjectsV2Input{Bucket: &bucket})
	for p.HasMorePages() {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Contents {
			got, err := c.GetObject(t.Context(), &awss3.GetObjectInput{Bucket: &bucket, Key: o.Key})
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(got.Body)
			got.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, actiontest.Delivery{Payload: string(b)})
		}
	}
	return out
}

const config = `{"bucketName":%q,"key":"${topic()}/${device}/${timestamp()}.json","roleArn":"arn:aws:iam::123456789012:role/aws_iot_s3"}`

func features(open func(t testing.TB) *actiontest.Destination) actiontest.Features {
	return actiontest.Features{
		Kind:         Kind,
		Open:         open,
		Bad:          func(r *actions.Result) { r.Event.Payload = []byte(`{"device":".."}`) },
		Keyed:        true,
		SharedClient: true,
	}
}

// start runs s3rver until the test ends.
func start(t testing.TB) (url string) {
	return "http://127.0.0.1:" + npm.Node(t, s3rver, regexp.MustCompile(`^port (\d+)$`), t.TempDir())
}

func makeBucket(t testing.TB, env *awsenv.Env, name string) {
	t.Helper()
	cfg, err := env.Config(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client(cfg).CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatal(err)
	}
}

func TestContractS3rver(t *testing.T) {
	server := start(t)
	n := 0
	actiontest.Run(t, features(func(t testing.TB) *actiontest.Destination {
		n++
		bucket := fmt.Sprintf("bucket-%d", n)
		p := actiontest.NewProxy(t, server)
		env := environment(t, p.URL)
		makeBucket(t, env, bucket)
		return &actiontest.Destination{
			Config:   fmt.Sprintf(config, bucket),
			Env:      func(e *actions.Env) { e.AWS = env.Config },
			Received: func(t testing.TB) []actiontest.Delivery { return objects(t, env, bucket) },
			Fault:    p.Set,
		}
	}))
}

// The store of weir dev, dialled in process, through the SDK's real stack.
func TestContractLocalStore(t *testing.T) {
	f := features(func(t testing.TB) *actiontest.Destination {
		environment(t, "")
		for _, k := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
			os.Unsetenv(k) // Setenv of environment puts them back
		}
		s := local(t)
		env := awsenv.New(awsenv.Options{NoMetadata: true, LocalS3: s, Credentials: aws.Credentials{AccessKeyID: "dev", SecretAccessKey: "dev"}})
		return &actiontest.Destination{
			Config:   fmt.Sprintf(config, "bucket"),
			Env:      func(e *actions.Env) { e.AWS = env.Config },
			Received: func(t testing.TB) []actiontest.Delivery { return objects(t, env, "bucket") },
		}
	})
	f.Without = []actiontest.Fault{actiontest.Busy, actiontest.Refuse, actiontest.Cut, actiontest.Gone, actiontest.Hang}
	actiontest.Run(t, f)
}

func local(t testing.TB) *localstore.Server {
	s, err := localstore.Open(localstore.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func open(t testing.TB, env *awsenv.Env, config string) actions.Action {
	e := actiontest.Env(t, "")
	e.AWS = env.Config
	a, _, err := Kind.New(t.Context(), e, json.RawMessage(config))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// The bytes are the object, whatever they are.
func TestObject(t *testing.T) {
	env := environment(t, start(t))
	makeBucket(t, env, "bucket")
	for _, p := range []string{"", "x", "\x00\xff\r\n", strings.Repeat("0123456789", 20_000)} {
		a := open(t, env, `{"bucketName":"bucket","key":"constant","cannedAcl":"private"}`)
		r := actiontest.Result(1)
		r.Payload = []byte(p)
		if err := a.Deliver(t.Context(), []*actions.Result{r}); err != nil {
			t.Fatal(err)
		}
		if got := objects(t, env, "bucket"); len(got) != 1 || got[0].Payload != p {
			t.Errorf("%d objects", len(got))
		}
	}
}

func TestMissingBucketIsPermanent(t *testing.T) {
	env := environment(t, start(t))
	a := open(t, env, `{"bucketName":"missing","key":"k"}`)
	err := a.Deliver(t.Context(), []*actions.Result{actiontest.Result(1)})
	if !actions.IsPermanent(err) || awsenv.Code(err) != "NoSuchBucket" || !strings.Contains(err.Error(), "s3://missing/k") {
		t.Errorf("%v", err)
	}
}

func TestKeysFromMessages(t *testing.T) {
	s := local(t)
	environment(t, "")
	env := awsenv.New(awsenv.Options{NoMetadata: true, LocalS3: s})
	for payload, ok := range map[string]bool{
		`{"k":"plain"}`:         true,
		`{"k":"a b/ü+&=?#%2F"}`: true,
		`{"k":"a//b"}`:          true,
		`{"k":"../x"}`:          false,
		`{"k":"a/../../x"}`:     false,
		`{"k":"."}`:             false,
		`{"k":"a\r\nb"}`:        false,
		`{"k":"a\u0000b"}`:      false,
		`{"k":""}`:              false,
		`{}`:                    false,
		`{"k":"` + strings.Repeat("x", 1025) + `"}`: false,
	} {
		a := open(t, env, `{"bucketName":"bucket","key":"${k}"}`)
		r := actiontest.Result(1)
		r.Event.Payload = []byte(payload)
		if err := a.Deliver(t.Context(), []*actions.Result{r}); ok != (err == nil) || err != nil && !actions.IsPermanent(err) {
			t.Errorf("%s: %v", payload, err)
		}
	}
	var keys []string
	cfg, _ := env.Config(t.Context())
	l, err := client(cfg).ListObjectsV2(t.Context(), &awss3.ListObjectsV2Input{Bucket: aws.String("bucket")})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range l.Contents {
		keys = append(keys, *o.Key)
	}
	if strings.Join(keys, " | ") != "a b/ü+&=?#%2F | a//b | plain" {
		t.Errorf("%q", keys)
	}
}

func TestBucketFromMessage(t *testing.T) {
	env := environment(t, "")
	a := open(t, env, `{"bucketName":"${b}","key":"k"}`)
	for _, b := range []string{"", "Bucket", "a", "a/b", "../x", "a..b", "x\u0000y", strings.Repeat("b", 64)} {
		r := actiontest.Result(1)
		r.Event.Payload, _ = json.Marshal(map[string]string{"b": b})
		if err := a.Deliver(t.Context(), []*actions.Result{r}); !actions.IsPermanent(err) {
			t.Errorf("%q: %v", b, err)
		}
	}
}

// A server that is slow to answer is not tried again by the SDK.
func TestOneRequestATry(t *testing.T) {
	n := 0
	p := actiontest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`)
	}))
	env := environment(t, p.URL)
	t.Setenv("AWS_MAX_ATTEMPTS", "5")
	a := open(t, env, `{"bucketName":"bucket","key":"k"}`)
	err := a.Deliver(t.Context(), []*actions.Result{actiontest.Result(1)})
	if err == nil || actions.IsPermanent(err) || actions.IsUnreachable(err) || n != 1 {
		t.Errorf("%d requests, %v", n, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	p.Set(actiontest.Hang)
	if err := a.Deliver(ctx, []*actions.Result{actiontest.Result(1)}); !actions.IsUnreachable(err) {
		t.Errorf("a time-out: %v", err)
	}
}

func TestConfigMistakes(t *testing.T) {
	for _, c := range []struct{ config, path, part string }{
		{`{"bucketName":"b"}`, "", "key"},
		{`{"bucketName":"Bad_Bucket","key":"k"}`, "bucketName", "bucket name"},
		{`{"bucketName":"bucket","key":"a/../b"}`, "key", ".."},
		{`{"bucketName":"bucket","key":"${"}`, "key", ""},
		{`{"bucketName":"bucket","key":"k","cannedAcl":"publicread"}`, "cannedAcl", "public-read"},
		{`{"bucketName":"bucket","key":"k","cannedacl":"private"}`, "cannedacl", "cannedAcl"},
		{`{"bucket":"bucket","key":"k"}`, "bucket", "bucketName"},
		{`{"bucketName":"bucket","key":"k","roleArn":"arn:aws:iam::1:role/x"}`, "roleArn", "IAM role"},
	} {
		e := actiontest.Env(t, "")
		e.AWS = awsenv.New(awsenv.Options{}).Config
		_, _, err := Kind.New(t.Context(), e, json.RawMessage(c.config))
		var fe *actions.FieldError
		if !errors.As(err, &fe) || strings.Join(fe.Path, ".") != c.path || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v", c.config, err)
		}
	}
}
