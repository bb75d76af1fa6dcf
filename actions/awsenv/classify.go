package awsenv

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/weir-iot/weir/actions"
)

// again are the error codes after which a repeat can help though the status
// says otherwise. Source: the retry behaviour page of the AWS SDKs and Tools
// reference guide.
var again = map[string]bool{
	"Throttling": true, "ThrottlingException": true, "ThrottledException": true, "RequestThrottled": true,
	"RequestThrottledException": true, "TooManyRequestsException": true, "RequestLimitExceeded": true,
	"BandwidthLimitExceeded": true, "LimitExceededException": true, "SlowDown": true, "PriorRequestNotComplete": true,
	"ProvisionedThroughputExceededException": true, "TransactionInProgressException": true,
	"RequestTimeout": true, "RequestTimeoutException": true, "InternalError": true, "InternalServerError": true,
	"ServiceUnavailable": true, "OperationAborted": true, "EC2ThrottledException": true,
	"ReplicatedWriteConflictException": true,
	// Keys are renewed on their own.
	"ExpiredToken": true, "ExpiredTokenException": true, "RequestExpired": true,
}

// Classify gives an error of an AWS client its class. An answer that a repeat can
// mend (throttling, 5xx) is an answered failure with the destination's
// Retry-After; any other answer is Permanent; no answer, or half of one, is
// Unreachable. So are missing credentials: the results wait for them.
func Classify(err error, now time.Time) error {
	if err == nil {
		return nil
	}
	var resp *awshttp.ResponseError
	var api smithy.APIError
	var send *smithyhttp.RequestSendError
	var keys *credentialsError
	status := 0
	var header http.Header
	if errors.As(err, &resp) && resp.Response != nil {
		status, header = resp.HTTPStatusCode(), resp.Response.Header
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &send), errors.As(err, &keys):
		return actions.Unreachable(err)
	case errors.As(err, &api) && again[api.ErrorCode()], status >= 500, status == http.StatusTooManyRequests:
		if d, ok := RetryAfter(header.Get("Retry-After"), now); ok {
			return actions.RetryAfter(err, d)
		}
		return err
	case status >= 300:
		return actions.Permanent(err)
	case status > 0:
		return actions.Unreachable(err) // the answer could not be read: the outcome is unknown
	}
	if e := actions.Network(err); actions.IsUnreachable(e) {
		return e
	}
	return actions.Permanent(err) // refused before it was sent
}

// RetryAfter reads a Retry-After header: seconds or a date. ok is false where
// there is none that makes sense; a date in the past is 0.
// Source: RFC 9110, 10.2.3.
func RetryAfter(value string, now time.Time) (d time.Duration, ok bool) {
	if value == "" {
		return 0, false
	}
	if s, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(s) * time.Second, true
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0), true
	}
	return 0, false
}

// Code returns the service's error code, "" where err is no answer.
func Code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}
