package lookup

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/weir-iot/weir/internal/errs"
)

// maxFunctionAnswer bounds what a function answers.
// Source: AWS Lambda developer guide, "Lambda quotas": synchronous response.
const maxFunctionAnswer = 6 << 20

// functions runs functions with Invoke and waits for their answer.
type functions struct{ c *lambda.Client }

// Invoke implements eval.FunctionInvoker. A function that fails is an error with
// what it says of it; so is one that does not exist.
func (f functions) Invoke(ctx context.Context, arn string, input []byte) ([]byte, error) {
	const op = "lookup.Invoke"
	what := fmt.Sprintf("function %.255q", arn)
	out, err := f.c.Invoke(ctx, &lambda.InvokeInput{FunctionName: &arn, InvocationType: types.InvocationTypeRequestResponse, Payload: input})
	switch {
	case err != nil:
		return nil, failed(op, what, "Lambda", err, true)
	case out.FunctionError != nil:
		return nil, errs.Errorf(op, errs.Invalid, "%s failed%s", what, reason(out.Payload))
	case out.StatusCode != http.StatusOK:
		return nil, errs.Errorf(op, errs.Invalid, "%s: Lambda answered with status %d, which brings no result", what, out.StatusCode)
	case len(out.Payload) == 0:
		return nil, errs.Errorf(op, errs.Invalid, "%s answered nothing", what)
	}
	return out.Payload, nil
}

// reason returns what a function that failed says of it.
// Source: AWS Lambda developer guide, errors of each runtime.
func reason(payload []byte) string {
	var e struct {
		Type    string `json:"errorType"`
		Message string `json:"errorMessage"`
	}
	if json.Unmarshal(payload, &e) != nil {
		return ""
	}
	text := ""
	for _, s := range []string{shorten(e.Type, 64), shorten(e.Message, 200)} {
		if s != "" {
			text += ": " + s
		}
	}
	return text
}
