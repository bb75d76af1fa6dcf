package shadow

import (
	"fmt"
	"strconv"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// Error is a refusal as AWS words it. It comes inside an *errs.Error with the
// kind that goes with the code.
// Source: AWS IoT Core developer guide, "Device Shadow error messages".
type Error struct {
	Code    int // as an HTTP status
	Message string
}

func (e *Error) Error() string { return e.Message }

var kinds = map[int]errs.Kind{
	400: errs.Invalid, 401: errs.Unauthorized, 403: errs.Forbidden, 404: errs.NotFound, 409: errs.Conflict,
	413: errs.TooLarge, 415: errs.Invalid, 429: errs.Quota, 500: errs.Internal, 503: errs.Unavailable,
}

func wrap(op string, e *Error) error { return errs.E(op, kinds[e.Code], e) }

// The refusals. Unauthorized and Forbidden are for those who check who asks.
var (
	ErrUnauthorized = &Error{401, "Unauthorized"}
	ErrForbidden    = &Error{403, "Forbidden"}

	errJSON       = &Error{400, "Invalid JSON"}
	errNoPayload  = &Error{400, "Missing update payload"}
	errNoState    = &Error{400, "Missing required node: state"}
	errState      = &Error{400, "State node must be an object"}
	errDesired    = &Error{400, "Desired node must be an object"}
	errReported   = &Error{400, "Reported node must be an object"}
	errNode       = &Error{400, "State contains an invalid node"}
	errVersion    = &Error{400, "Invalid version"}
	errToken      = &Error{400, "Invalid clientToken"}
	errThingName  = &Error{400, "Invalid thing name"}
	errShadowName = &Error{400, "Invalid shadow name"}
	errNoThing    = &Error{404, "Thing not found"}
	errConflict   = &Error{409, "Version conflict"}
	errTooLarge   = &Error{413, "The payload exceeds the maximum size allowed"}
	errEncoding   = &Error{415, "Unsupported documented encoding; supported encoding is UTF-8"}
	errTooMany    = &Error{429, "Too many requests: a connection may have 10 requests in flight for a thing"}
	errInternal   = &Error{500, "Internal service failure"}
)

func errNesting(max int) *Error {
	return &Error{400, fmt.Sprintf("JSON contains too many levels of nesting; maximum is %d", max)}
}

// errNoShadow names the shadow, or of an unnamed one the thing.
func errNoShadow(thing, name string) *Error {
	if name == "" {
		name = thing
	}
	return &Error{404, "No shadow exists with name: '" + name + "'"}
}

// appendRejected writes the error document of a topic …/rejected. A missing
// shadow and a conflict carry no time, as the guide shows them.
func appendRejected(b []byte, e *Error, at time.Time, token string) []byte {
	b = strconv.AppendInt(append(b, `{"code":`...), int64(e.Code), 10)
	b = appendQuoted(append(b, `,"message":`...), e.Message)
	if e.Code != 404 && e.Code != 409 {
		b = strconv.AppendInt(append(b, `,"timestamp":`...), at.Unix(), 10)
	}
	return append(appendToken(b, token), '}')
}

// appendToken writes the client token, which is JSON text; nothing where there
// is none.
func appendToken(b []byte, token string) []byte {
	if token == "" {
		return b
	}
	return append(append(b, `,"clientToken":`...), token...)
}
