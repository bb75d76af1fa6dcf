package lookup

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/rules/eval"
)

// Open returns the look-ups whose service is there; the others are nil. A
// service is there where the environment points its endpoint somewhere
// (AWS_ENDPOINT_URL_DYNAMODB and its like, AWS_ENDPOINT_URL, a configuration
// file, the S3 inside the process) or names credentials for AWS. It asks none of
// them: a service that is down now is there all the same. Only the credentials
// of an EC2 machine are asked for, at most 2 seconds long.
//
// Errors: those of config.
func Open(ctx context.Context, config func(context.Context) (aws.Config, error), now func() time.Time) (eval.Lookups, error) {
	var l eval.Lookups
	cfg, err := config(ctx)
	if err != nil {
		return l, errs.E("lookup.Open", errs.KindOf(err), err)
	}
	real := hasCredentials(ctx, cfg)
	cfg.Credentials = marked{cfg.Credentials}
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = awshttp.NewBuildableClient() // one for all services
	}
	cfg.Retryer = func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = 3
			o.MaxBackoff = 200 * time.Millisecond // an evaluation waits for 2 seconds
		})
	}
	cfg.RetryMaxAttempts = 0 // the retryer's
	there := func(endpoint *string) bool { return real || endpoint != nil && *endpoint != "" }

	if c := dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) { o.HTTPClient = limit(cfg, maxItemAnswer) }); there(c.Options().BaseEndpoint) {
		l.Table = tables{c}
	}
	if c := newS3(ctx, cfg); there(c.Options().BaseEndpoint) {
		l.Descriptor = cacheDescriptors(descriptors{c}, now)
	}
	if c := secretsmanager.NewFromConfig(cfg, func(o *secretsmanager.Options) { o.HTTPClient = limit(cfg, maxSecretAnswer) }); there(c.Options().BaseEndpoint) {
		l.Secret = eval.CacheSecrets(secrets{c}, now)
	}
	if c := lambda.NewFromConfig(cfg, func(o *lambda.Options) { o.HTTPClient = limit(cfg, maxFunctionAnswer) }); there(c.Options().BaseEndpoint) {
		l.Lambda = functions{c}
	}
	return l, nil
}

// newS3 returns a client of S3, at the endpoint of a source of cfg that the SDK
// does not know, where it found none by itself.
func newS3(ctx context.Context, cfg aws.Config) *s3.Client {
	return s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.HTTPClient = limit(cfg, maxDescriptor)
		o.DisableLogOutputChecksumValidationSkipped = true
		if o.BaseEndpoint == nil {
			o.BaseEndpoint = ownEndpoint(ctx, cfg, s3.ServiceID)
		}
		// Few but Amazon serve buckets as host names.
		o.UsePathStyle = o.BaseEndpoint != nil
	})
}
