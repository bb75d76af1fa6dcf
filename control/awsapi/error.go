package awsapi

import (
	"fmt"
	"net/http"

	"github.com/weir-iot/weir/internal/errs"
)

// NotImplemented is the code of an operation, or of a setting, that Weir does
// not have. See docs/rationale.md for why its status is 501.
const NotImplemented = "NotImplementedException"

// Error is an answer with an error code of the AWS API. A room's error becomes
// one by its kind; a room that knows better returns its own *Error, or an error
// with the method AWSCode() string.
type Error struct {
	Code    string // such as "ResourceNotFoundException"
	Message string // for the user

	// Of what exists already, for ResourceAlreadyExistsException.
	ResourceID  string
	ResourceARN string

	Status int   // 0: the one of Code
	Err    error // the cause, for the log; may be nil
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }
func (e *Error) Unwrap() error { return e.Err }

func invalid(format string, args ...any) error {
	return &Error{Code: "InvalidRequestException", Message: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) error {
	return &Error{Code: "ResourceNotFoundException", Message: fmt.Sprintf(format, args...)}
}

// statuses of the codes. Source: the API models of the services. A
// ThrottlingException has another in the data plane: see API.fail.
var statuses = map[string]int{
	"AccessDeniedException":                http.StatusForbidden,
	"CertificateConflictException":         http.StatusConflict,
	"CertificateStateException":            http.StatusNotAcceptable,
	"CertificateValidationException":       http.StatusBadRequest,
	"ConflictException":                    http.StatusConflict,
	"ConflictingResourceUpdateException":   http.StatusConflict,
	"DeleteConflictException":              http.StatusConflict,
	"ExpiredTokenException":                http.StatusForbidden,
	"ForbiddenException":                   http.StatusForbidden,
	"GatewayTimeoutException":              http.StatusGatewayTimeout,
	"IncompleteSignatureException":         http.StatusForbidden,
	"IndexNotReadyException":               http.StatusBadRequest,
	"InternalException":                    http.StatusInternalServerError,
	"InternalFailureException":             http.StatusInternalServerError,
	"InvalidAggregationException":          http.StatusBadRequest,
	"InvalidQueryException":                http.StatusBadRequest,
	"InvalidRequestException":              http.StatusBadRequest,
	"InvalidResponseException":             http.StatusBadRequest,
	"InvalidSignatureException":            http.StatusForbidden,
	"InvalidStateTransitionException":      http.StatusConflict,
	"LimitExceededException":               http.StatusGone,
	"MalformedPolicyException":             http.StatusBadRequest,
	"MethodNotAllowedException":            http.StatusMethodNotAllowed,
	"MissingAuthenticationTokenException":  http.StatusForbidden,
	"MissingContentLengthException":        http.StatusLengthRequired,
	"NotConfiguredException":               http.StatusNotFound,
	NotImplemented:                         http.StatusNotImplemented,
	"RegistrationCodeValidationException":  http.StatusBadRequest,
	"RequestEntityTooLargeException":       http.StatusRequestEntityTooLarge,
	"ResourceAlreadyExistsException":       http.StatusConflict,
	"ResourceNotFoundException":            http.StatusNotFound,
	"ResourceRegistrationFailureException": http.StatusBadRequest,
	"SerializationException":               http.StatusBadRequest,
	"ServiceUnavailableException":          http.StatusServiceUnavailable,
	"SqlParseException":                    http.StatusBadRequest,
	"TaskAlreadyExistsException":           http.StatusBadRequest,
	"ThrottlingException":                  http.StatusBadRequest,
	"TransferAlreadyCompletedException":    http.StatusGone,
	"TransferConflictException":            http.StatusConflict,
	"UnauthorizedException":                http.StatusUnauthorized,
	"UnknownOperationException":            http.StatusNotFound,
	"UnrecognizedClientException":          http.StatusForbidden,
	"UnsupportedDocumentEncodingException": http.StatusUnsupportedMediaType,
	"ValidationException":                  http.StatusBadRequest,
	"VersionConflictException":             http.StatusConflict,
	"VersionsLimitExceededException":       http.StatusConflict,
}

// codes of the kinds of a room's error.
var codes = map[Service]map[errs.Kind]string{
	IoT: {
		errs.Internal: "InternalFailureException", errs.Invalid: "InvalidRequestException", errs.NotFound: "ResourceNotFoundException",
		errs.Exists: "ResourceAlreadyExistsException", errs.Conflict: "ConflictingResourceUpdateException",
		errs.Unauthorized: "UnauthorizedException", errs.Forbidden: "UnauthorizedException", errs.TooLarge: "InvalidRequestException",
		errs.Quota: "LimitExceededException", errs.Unavailable: "ServiceUnavailableException", errs.Timeout: "ServiceUnavailableException",
		errs.NotImplemented: NotImplemented,
	},
	Data: {
		errs.Internal: "InternalFailureException", errs.Invalid: "InvalidRequestException", errs.NotFound: "ResourceNotFoundException",
		errs.Exists: "ConflictException", errs.Conflict: "ConflictException",
		errs.Unauthorized: "UnauthorizedException", errs.Forbidden: "ForbiddenException", errs.TooLarge: "RequestEntityTooLargeException",
		errs.Quota: "ThrottlingException", errs.Unavailable: "ServiceUnavailableException", errs.Timeout: "ServiceUnavailableException",
		errs.NotImplemented: NotImplemented,
	},
}
