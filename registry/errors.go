package registry

import (
	"errors"
	"fmt"

	"github.com/weir-iot/weir/internal/errs"
)

// Code is AWS's name of an error, without "Exception".
type Code string

const (
	NotFound              Code = "ResourceNotFound"
	Exists                Code = "ResourceAlreadyExists"
	InvalidRequest        Code = "InvalidRequest"
	VersionConflict       Code = "VersionConflict"
	DeleteConflict        Code = "DeleteConflict"
	LimitExceeded         Code = "LimitExceeded"
	VersionsLimitExceeded Code = "VersionsLimitExceeded"
	MalformedPolicy       Code = "MalformedPolicy"
	CertificateState      Code = "CertificateState"
	CertificateValidation Code = "CertificateValidation"
	CertificateConflict   Code = "CertificateConflict"
	RegistrationCode      Code = "RegistrationCodeValidation"
	NotConfigured         Code = "NotConfigured"
	NotSupported          Code = "NotImplemented"
)

var kindOf = map[Code]errs.Kind{
	NotFound: errs.NotFound, Exists: errs.Exists, InvalidRequest: errs.Invalid, VersionConflict: errs.Conflict, DeleteConflict: errs.Conflict,
	LimitExceeded: errs.Quota, VersionsLimitExceeded: errs.Quota, MalformedPolicy: errs.Invalid, CertificateState: errs.Conflict,
	CertificateValidation: errs.Invalid, CertificateConflict: errs.Conflict, RegistrationCode: errs.Invalid, NotConfigured: errs.NotFound, NotSupported: errs.NotImplemented,
}

// Error is the cause of every error of this package that is the caller's. It is
// found with errors.As; around it is an errs.Error of the kind that goes with
// the code.
type Error struct {
	Code    Code
	Message string
	ID      string // Exists: of the resource that is there
	ARN     string // Exists: of the resource that is there
	Err     error  // MalformedPolicy: what the policy check said; may be nil
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of err, "" where it has none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// fail makes an Error; Change adds the operation and the kind.
func fail(c Code, format string, args ...any) error {
	return &Error{Code: c, Message: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error { return fail(InvalidRequest, format, args...) }

// wrap gives err the operation and a kind.
func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	var k *errs.Error
	switch {
	case errors.As(err, &k):
		return errs.E(op, k.Kind, err)
	case errors.As(err, &e):
		return errs.E(op, kindOf[e.Code], err)
	}
	return errs.E(op, errs.Internal, err)
}
