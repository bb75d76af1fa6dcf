// Package errs gives every error of Weir a kind and the operation it happened
// in, so that the edges (MQTT reason codes, HTTP statuses, exit codes) can map
// it without knowing the room it came from.
package errs

import (
	"errors"
	"fmt"
)

// Kind classifies an error for the edges. The zero value is Internal.
type Kind uint8

const (
	Internal       Kind = iota // a fault of Weir itself
	Invalid                    // the input is wrong; repeating it will not help
	NotFound                   // the named thing does not exist
	Exists                     // the named thing exists already
	Conflict                   // a version or a concurrent change stands against it
	Unauthorized               // who asks is not known
	Forbidden                  // who asks is known and may not
	TooLarge                   // over a size limit
	Quota                      // over a count or rate limit; may pass later
	Unavailable                // cannot be done now; may be tried again
	Timeout                    // no answer in time; the outcome is unknown
	NotImplemented             // Weir does not do this
)

var kindText = [...]string{
	"internal error", "invalid", "not found", "already exists", "conflict", "unauthorized",
	"forbidden", "too large", "quota exceeded", "unavailable", "timed out", "not implemented",
}

// String returns the text users see for k.
func (k Kind) String() string {
	if int(k) < len(kindText) {
		return kindText[k]
	}
	return kindText[Internal]
}

// Error is an error with its operation and kind. Build it with E.
type Error struct {
	Op   string // package and function, such as "eventlog.Append"
	Kind Kind
	Err  error // the cause; nil where the kind says it all
}

// E wraps err with the operation and the kind.
func E(op string, kind Kind, err error) error {
	return &Error{Op: op, Kind: kind, Err: err}
}

// Errorf is E with a formatted cause.
func Errorf(op string, kind Kind, format string, args ...any) error {
	return &Error{Op: op, Kind: kind, Err: fmt.Errorf(format, args...)}
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Op + ": " + e.Kind.String()
	}
	return e.Op + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the outermost Error in err's chain, Internal where
// there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Is reports whether err's kind is k. A nil error has no kind.
func Is(err error, k Kind) bool {
	return err != nil && KindOf(err) == k
}

// Text returns what a user may read of err: the innermost cause without the
// operations on the way. Operators get err.Error().
func Text(err error) string {
	for {
		var e *Error
		if !errors.As(err, &e) {
			return err.Error()
		}
		if e.Err == nil {
			return e.Kind.String()
		}
		err = e.Err
	}
}
