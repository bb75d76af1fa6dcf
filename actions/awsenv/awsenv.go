// Package awsenv reads the standard AWS environment for the actions that speak
// to AWS services, and classifies what those services answer.
//
// It stands between a rule's action and its destination: AWS_REGION,
// AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3,
// AWS_ENDPOINT_URL_DYNAMODB and the files ~/.aws/config and credentials mean
// what they mean to every AWS SDK.
package awsenv

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/smithy-go/logging"

	"github.com/weir-iot/weir/internal/errs"
)

// Options configure an Env.
type Options struct {
	Region string // where the environment names none; empty: "us-east-1"

	// LocalS3 dials the S3 inside the process. It is used where neither
	// AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL nor a configuration file points S3
	// elsewhere. nil: Amazon S3.
	LocalS3 LocalS3

	// Credentials are used where the environment has none (weir dev). Zero: then
	// requests fail.
	Credentials aws.Credentials

	// NoMetadata leaves the metadata service of EC2 alone. Without it, a machine
	// outside of AWS waits for its time-out when no credentials are set.
	NoMetadata bool
}

// LocalS3 is an S3 server inside the process.
type LocalS3 interface {
	Dial(ctx context.Context) (net.Conn, error)
}

// localS3Host is the name LocalS3 is dialled by; localstore answers to no other.
const (
	localS3Host = "s3.weir.internal"
	localS3URL  = "http://" + localS3Host
)

// Env loads the environment once, at its first use. It is safe for concurrent
// use.
type Env struct {
	o Options

	mu     sync.Mutex
	loaded *aws.Config // guarded by mu; nil: not yet
}

// New returns an Env; it reads nothing yet.
func New(o Options) *Env {
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	return &Env{o: o}
}

// Config returns the configuration. The SDK's own retries are off in it: the
// lane owns them. Errors: errs.Unavailable, for a malformed configuration file.
func (e *Env) Config(ctx context.Context) (aws.Config, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.loaded != nil {
		return e.loaded.Copy(), nil
	}
	client := awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = 5 * time.Second }).
		WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConnsPerHost = 64
			t.MaxIdleConns = 512
			if e.o.LocalS3 != nil {
				t.DialContext = e.dialLocal(t.DialContext)
			}
		})
	load := []func(*config.LoadOptions) error{
		config.WithDefaultRegion(e.o.Region),
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		config.WithRetryMaxAttempts(1),
		config.WithHTTPClient(client),
		config.WithAppID("weir"),
		config.WithLogger(logging.Nop{}), // the SDK's own writes to stderr
	}
	if e.o.NoMetadata {
		load = append(load, config.WithEC2IMDSClientEnableState(imds.ClientDisabled))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return aws.Config{}, errs.E("awsenv.Config", errs.Unavailable, err)
	}
	cfg.Credentials = credentials{first: cfg.Credentials, then: e.o.Credentials}
	if e.o.LocalS3 != nil && cfg.BaseEndpoint == nil {
		cfg.ConfigSources = append(cfg.ConfigSources, localEndpoint{})
	}
	e.loaded = &cfg
	return cfg.Copy(), nil
}

func (e *Env) dialLocal(next func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if host, _, _ := strings.Cut(addr, ":"); host == localS3Host {
			return e.o.LocalS3.Dial(ctx)
		}
		return next(ctx, network, addr)
	}
}

// localEndpoint is the last source the SDK asks for a service's endpoint.
type localEndpoint struct{}

func (localEndpoint) GetServiceBaseEndpoint(_ context.Context, sdkID string) (string, bool, error) {
	return localS3URL, sdkID == "S3", nil
}

// LocalEndpoint returns the address of LocalS3 where cfg points S3 there, else
// nil. S3 clients set it where the SDK found no endpoint: it does not ask the
// sources when AWS_ENDPOINT_URL is set, and that includes to nothing.
func LocalEndpoint(cfg aws.Config) *string {
	for _, s := range cfg.ConfigSources {
		if _, ok := s.(localEndpoint); ok {
			return aws.String(localS3URL)
		}
	}
	return nil
}

// credentials asks the environment first. It marks its own failures, so that
// Classify can tell them from the service's.
type credentials struct {
	first aws.CredentialsProvider // caches by itself; may be nil
	then  aws.Credentials         // may be zero
}

// credentialsError is a failure to get credentials.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "no AWS credentials: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

func (c credentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	err := errors.New("the environment has none")
	if c.first != nil {
		var got aws.Credentials
		if got, err = c.first.Retrieve(ctx); err == nil {
			return got, nil
		}
	}
	if c.then.HasKeys() && ctx.Err() == nil {
		return c.then, nil
	}
	return aws.Credentials{}, &credentialsError{err}
}
