// Package lambda is the rule action lambda: it runs a function on each result.
//
// In a message's way it is a lane's last step: a function that is deployed here
// has done its work when Deliver returns; one of AWS Lambda has the event in its
// own queue then. A function that fails is tried twice more by the lane, and then
// the result goes to the error action; while there is no place for it, results
// wait on the log.
package lambda

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/awsenv"
	"github.com/weir-iot/weir/actions/param"
	"github.com/weir-iot/weir/internal/errs"
)

// MaxPayload is the largest result a function takes, in bytes.
// Source: AWS Lambda quotas, asynchronous invocation payload.
const MaxPayload = 256 << 10

// Kind is the action lambda.
// Source: AWS IoT API, LambdaAction; AWS IoT developer guide, "Lambda".
var Kind = actions.Kind{
	Name:    "lambda",
	Summary: "Runs a function on each result: one that is deployed here, or one of AWS Lambda.",
	Fields:  fields,
	New:     newAction,
}

var fields = []actions.Field{
	{Name: "functionArn", Type: actions.String, Required: true,
		Help: "ARN of the function, `arn:aws:lambda:us-east-1:123456789012:function:name`, with a version after another colon or without, or its name alone. A function deployed here is run here; any other one is asked of AWS Lambda."},
}

var function = regexp.MustCompile(`^(arn:aws[a-zA-Z-]*:lambda:[a-z]{2}(-[a-z]+)+-\d:\d{12}:function:)?[a-zA-Z0-9-_]{1,64}(:(\$LATEST|[a-zA-Z0-9-_]{1,128}))?$`)

// timeout is longer than any function's.
const timeout = 16 * time.Minute

type action struct {
	env    actions.Env
	arn    string
	client *lambda.Client // nil: made when first needed
	ready  chan struct{}  // has one while client is not being made
}

func newAction(_ context.Context, env actions.Env, raw json.RawMessage) (actions.Action, actions.Spec, error) {
	var p struct {
		FunctionARN string `json:"functionArn"`
	}
	var spec actions.Spec
	if err := actions.Decode(raw, fields, &p); err != nil {
		return nil, spec, err
	}
	if !function.MatchString(p.FunctionARN) {
		return nil, spec, param.Wrong([]string{"functionArn"}, fmt.Sprintf("%q is neither the ARN nor the name of a function", p.FunctionARN),
			"expected arn:aws:lambda:us-east-1:123456789012:function:name")
	}
	a := &action{env: env, arn: p.FunctionARN, ready: make(chan struct{}, 1)}
	a.ready <- struct{}{}
	return a, actions.Spec{MaxInFlight: 16, MaxTries: 3, Timeout: timeout, Resource: p.FunctionARN}, nil
}

// Deliver implements actions.Action.
func (a *action) Deliver(ctx context.Context, batch []*actions.Result) error {
	failures := make([]error, len(batch))
	for i, r := range batch {
		failures[i] = a.run(ctx, r)
	}
	return actions.Failures(failures)
}

// RequestID returns the id of the invocation on a result, the same in every
// repeat.
func RequestID(r *actions.Result, function string) string {
	sum := sha256.Sum256([]byte(r.ID.String() + "\x00" + r.Rule + "\x00" + function))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

func (a *action) run(ctx context.Context, r *actions.Result) error {
	if len(r.Payload) > MaxPayload {
		return actions.Permanent(errs.Errorf("lambda", errs.TooLarge, "the result has %d bytes, a function takes %d", len(r.Payload), MaxPayload))
	}
	payload := r.Payload
	if !json.Valid(payload) {
		return actions.Permanent(errs.Errorf("lambda", errs.Invalid, "the result is no JSON, which a function's event must be"))
	}
	if f := a.env.Functions; f != nil && f.Has(a.arn) {
		return classify(ctx, f.Do(ctx, a.arn, RequestID(r, a.arn), payload))
	}
	return a.remote(ctx, payload)
}

// classify says what a failure of a function here means for the lane.
func classify(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return actions.Unreachable(err)
	case errs.Is(err, errs.Quota), errs.Is(err, errs.Unavailable), errs.Is(err, errs.NotFound):
		return actions.Unreachable(err) // no place, or none now: the results wait
	case errs.Is(err, errs.Forbidden), errs.Is(err, errs.TooLarge), errs.Is(err, errs.NotImplemented):
		return actions.Permanent(err)
	}
	return err // it ran and failed: a try
}

// remote hands the event to AWS Lambda's own queue.
func (a *action) remote(ctx context.Context, payload []byte) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err = c.Invoke(ctx, &lambda.InvokeInput{FunctionName: &a.arn, InvocationType: types.InvocationTypeEvent, Payload: payload})
	return awsenv.Classify(err, time.Now())
}

func (a *action) connect(ctx context.Context) (*lambda.Client, error) {
	select {
	case <-a.ready:
	case <-ctx.Done():
		return nil, actions.Unreachable(ctx.Err())
	}
	defer func() { a.ready <- struct{}{} }()
	if a.client == nil {
		if a.env.AWS == nil {
			return nil, actions.Permanent(errors.New("the function is not deployed here, and there is no AWS Lambda to ask"))
		}
		cfg, err := a.env.AWS(ctx)
		if err != nil {
			return nil, actions.Unreachable(err)
		}
		cfg.Retryer = func() aws.Retryer { return aws.NopRetryer{} } // the lane tries again
		a.client = lambda.NewFromConfig(cfg)
	}
	return a.client, nil
}

// Close implements actions.Action.
func (a *action) Close(context.Context) error {
	return nil
}
