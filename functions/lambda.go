package functions

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"

	"github.com/weir-iot/weir/internal/errs"
)

// remote runs a function of AWS Lambda under a name of its own here, with the
// credentials of the AWS environment.
type remote struct {
	s      *Service
	target string

	mu     sync.Mutex
	client *lambda.Client
}

func (r *remote) connect(ctx context.Context) (*lambda.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client == nil {
		if r.s.o.AWS == nil {
			return nil, errs.Errorf("functions.lambda", errs.NotImplemented, "functions of the runtime lambda are not served here")
		}
		cfg, err := r.s.o.AWS(ctx)
		if err != nil {
			return nil, errs.E("functions.lambda", errs.Unavailable, err)
		}
		cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} } // who asked knows how often
		r.client = lambda.NewFromConfig(cfg)
	}
	return r.client, nil
}

// invoke implements runner.
func (r *remote) invoke(ctx context.Context, inv *invocation) (result, error) {
	const op = "functions.lambda"
	c, err := r.connect(ctx)
	if err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, inv.timeout)
	defer cancel()
	out, err := c.Invoke(ctx, &lambda.InvokeInput{FunctionName: &r.target, Payload: inv.payload, InvocationType: types.InvocationTypeRequestResponse})
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return timedOut(inv), nil
		}
		var e smithy.APIError
		if !errors.As(err, &e) {
			return result{}, errs.Errorf(op, errs.Unavailable, "AWS Lambda cannot be reached")
		}
		kind := errs.Unavailable
		switch e.ErrorCode() {
		case "TooManyRequestsException":
			kind = errs.Quota
		case "ResourceNotFoundException":
			kind = errs.NotFound
		case "AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException":
			kind = errs.Forbidden
		case "InvalidRequestContentException", "InvalidParameterValueException", "RequestTooLargeException", "UnsupportedMediaTypeException":
			kind = errs.Invalid
		}
		return result{}, errs.Errorf(op, kind, "AWS Lambda refused it: %s", e.ErrorCode())
	}
	if len(out.Payload) > maxAnswer {
		return tooLarge(), nil
	}
	return result{payload: out.Payload, failed: out.FunctionError != nil}, nil
}

func (r *remote) reap(time.Time) {}
func (r *remote) close()         {}
