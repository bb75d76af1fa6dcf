package sigv4

import (
	"errors"

	"github.com/weir-iot/weir/internal/errs"
)

// The names AWS has for what can be wrong with a signature. They go into
// X-Amzn-ErrorType; the status is 403.
const (
	MissingAuthenticationToken = "MissingAuthenticationTokenException" // no signature at all
	IncompleteSignature        = "IncompleteSignatureException"        // it lacks a part, or a part has no sense
	UnrecognizedClient         = "UnrecognizedClientException"         // no such access key or session token
	InvalidSignature           = "InvalidSignatureException"           // old, for somewhere else, or not of this request
)

// Error says why a request is refused. Verify returns it in an error of kind
// errs.Unauthorized.
type Error struct {
	Code    string // one of the names above
	Message string // for the caller; holds nothing of the signature
}

func (e *Error) Error() string { return e.Message }

// AWSCode returns what goes into X-Amzn-ErrorType.
func (e *Error) AWSCode() string { return e.Code }

// CodeOf returns AWS's name for what Verify found wrong, "" where err is of
// somebody else.
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func refuse(code, message string) error {
	return errs.E("sigv4.Verify", errs.Unauthorized, &Error{code, message})
}
