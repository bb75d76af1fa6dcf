package lookup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/weir-iot/weir/internal/errs"
)

// answered is what a service's error code says beyond its status.
// Source: the retry behaviour page of the AWS SDKs and Tools reference guide,
// the common errors of each API.
var answered = map[string]errs.Kind{
	"Throttling": errs.Quota, "ThrottlingException": errs.Quota, "ThrottledException": errs.Quota, "TooManyRequestsException": errs.Quota,
	"RequestLimitExceeded": errs.Quota, "LimitExceededException": errs.Quota, "SlowDown": errs.Quota,
	"ProvisionedThroughputExceededException": errs.Quota, "EC2ThrottledException": errs.Quota,

	"AccessDenied": errs.Forbidden, "AccessDeniedException": errs.Forbidden, "UnauthorizedOperation": errs.Forbidden,
	"UnrecognizedClientException": errs.Forbidden, "InvalidClientTokenId": errs.Forbidden, "InvalidAccessKeyId": errs.Forbidden,
	"InvalidSignatureException": errs.Forbidden, "SignatureDoesNotMatch": errs.Forbidden, "IncompleteSignature": errs.Forbidden,
	"IncompleteSignatureException": errs.Forbidden, "MissingAuthenticationToken": errs.Forbidden, "MissingAuthenticationTokenException": errs.Forbidden,
	"ExpiredToken": errs.Forbidden, "ExpiredTokenException": errs.Forbidden, "DecryptionFailure": errs.Forbidden,

	"InternalServerError": errs.Unavailable, "InternalServiceError": errs.Unavailable, "ServiceException": errs.Unavailable,
}

// failed gives an error of an AWS client its kind and words that may be shown:
// what was asked, who answered, and with which code. The service's own words
// follow where telling is true and they are not about the request's signature,
// which they would quote.
func failed(op, what, service string, err error, telling bool) error {
	kind, text := classify(service, err, telling)
	var cause error
	switch {
	case errors.Is(err, context.Canceled):
		cause = context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		cause = context.DeadlineExceeded
	}
	return errs.E(op, kind, &failure{what + ": " + text, cause})
}

// failure is an error whose text was chosen here. Its cause is that of a context
// or nil.
type failure struct {
	text  string
	cause error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.cause }

func classify(service string, err error, telling bool) (errs.Kind, string) {
	var api smithy.APIError
	var resp *awshttp.ResponseError
	var send *smithyhttp.RequestSendError
	var keys *credentialsError
	status := 0
	if errors.As(err, &resp) && resp.Response != nil {
		status = resp.HTTPStatusCode()
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return errs.Timeout, service + " did not answer in time"
	case errors.Is(err, context.Canceled):
		return errs.Unavailable, "was given up"
	case errors.Is(err, errTooLarge):
		return errs.TooLarge, "the answer of " + service + " is too large"
	case errors.As(err, &keys):
		return errs.Unavailable, "there are no AWS credentials to ask " + service + " with"
	case errors.As(err, &api):
		code, text := shorten(api.ErrorCode(), 64), service+" refused it"
		kind, known := answered[code]
		switch {
		case known:
		case status == http.StatusTooManyRequests:
			kind = errs.Quota
		case status == http.StatusUnauthorized, status == http.StatusForbidden:
			kind = errs.Forbidden
		case status >= 500:
			kind = errs.Unavailable
		default:
			kind = errs.Invalid
		}
		if kind == errs.Unavailable {
			text = service + " failed"
		}
		text += ": " + code
		if m := api.ErrorMessage(); telling && m != "" && !strings.Contains(code, "Signature") {
			text += ": " + shorten(m, 200)
		}
		return kind, text
	case errors.As(err, &send):
		return errs.Unavailable, service + " cannot be reached: " + network(send)
	case status > 0 && truncated(err):
		return errs.Unavailable, "the answer of " + service + " broke off"
	case status > 0:
		return errs.Invalid, fmt.Sprintf("the answer of %s, with status %d, makes no sense", service, status)
	}
	return errs.Invalid, "the request to " + service + " could not be made"
}

// truncated reports whether the connection ended within an answer.
func truncated(err error) bool {
	var n *net.OpError
	var s *json.SyntaxError // as an early end is called in JSON
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &n) || errors.As(err, &s) && s.Error() == "unexpected end of JSON input"
}

// network returns why a request got no answer, without its address, which may
// hold what it was signed with.
func network(send *smithyhttp.RequestSendError) string {
	err := send.Err
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return shorten(err.Error(), 200)
}

// shorten returns at most max bytes of s, as UTF-8 on one line.
func shorten(s string, max int) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "\ufffd")), " ")
	if len(s) <= max {
		return s
	}
	for max > 0 && !utf8.RuneStart(s[max]) {
		max--
	}
	return s[:max] + "…"
}
