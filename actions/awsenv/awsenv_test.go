package awsenv

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
)

// clean takes away what the developer's own environment says.
func clean(t *testing.T, set map[string]string) {
	for _, kv := range os.Environ() {
		if k, v, _ := strings.Cut(kv, "="); strings.HasPrefix(k, "AWS_") {
			t.Setenv(k, v)
			os.Unsetenv(k)
		}
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	for k, v := range set {
		t.Setenv(k, v)
	}
}

type inside struct{ dialled int }

var errInside = errors.New("dialled inside")

func (i *inside) Dial(context.Context) (net.Conn, error) { i.dialled++; return nil, errInside }

func list(t *testing.T, e *Env) error {
	cfg, err := e.Config(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = awss3.NewFromConfig(cfg, func(o *awss3.Options) {
		if o.BaseEndpoint == nil {
			o.BaseEndpoint = LocalEndpoint(cfg)
		}
	}).ListBuckets(t.Context(), &awss3.ListBucketsInput{})
	return err
}

func TestWhereS3Is(t *testing.T) {
	for name, c := range map[string]struct {
		env    map[string]string
		inside bool
	}{
		"nothing set":         {nil, true},
		"set to nothing":      {map[string]string{"AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_S3": ""}, true},
		"another service's":   {map[string]string{"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:1"}, true},
		"AWS_ENDPOINT_URL_S3": {map[string]string{"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}, false},
		"AWS_ENDPOINT_URL":    {map[string]string{"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			clean(t, c.env)
			s := &inside{}
			err := list(t, New(Options{LocalS3: s, NoMetadata: true, Credentials: aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}}))
			if (s.dialled > 0) != c.inside || !c.inside && !strings.Contains(err.Error(), "127.0.0.1:1") {
				t.Errorf("dialled %d times, %v", s.dialled, err)
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	dev := aws.Credentials{AccessKeyID: "dev", SecretAccessKey: "dev"}
	get := func(o Options) (string, error) {
		o.NoMetadata = true
		cfg, err := New(o).Config(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c, err := cfg.Credentials.Retrieve(t.Context())
		return c.AccessKeyID, err
	}
	clean(t, nil)
	at := time.Now()
	if key, err := get(Options{Credentials: dev}); err != nil || key != "dev" {
		t.Errorf("%q, %v", key, err)
	}
	if _, err := get(Options{}); err == nil || !strings.Contains(err.Error(), "no AWS credentials") {
		t.Errorf("%v", err)
	}
	if took := time.Since(at); took > 2*time.Second {
		t.Errorf("finding none took %v", took)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "env")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "env")
	if key, err := get(Options{Credentials: dev}); err != nil || key != "env" {
		t.Errorf("%q, %v", key, err)
	}
}

func TestRegion(t *testing.T) {
	region := func(o Options) string {
		cfg, err := New(o).Config(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return cfg.Region
	}
	clean(t, nil)
	if r := region(Options{}); r != "us-east-1" {
		t.Error(r)
	}
	if r := region(Options{Region: "eu-west-1"}); r != "eu-west-1" {
		t.Error(r)
	}
	t.Setenv("AWS_REGION", "eu-north-1")
	if r := region(Options{Region: "eu-west-1"}); r != "eu-north-1" {
		t.Error(r)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": -1, "0": 0, "7": 7 * time.Second, "-1": -1, "1.5": -1, "soon": -1, "99999999999": -1,
		now.Add(time.Minute).Format(http.TimeFormat):  time.Minute,
		now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		d, ok := RetryAfter(in, now)
		if ok != (want >= 0) || ok && d != want {
			t.Errorf("%q: %v, %v", in, d, ok)
		}
	}
}
