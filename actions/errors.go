package actions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// BatchError is a Deliver that failed for some results. Errs has one entry for
// each result of the batch, nil where it was delivered; each has a class of its
// own.
type BatchError struct{ Errs []error }

// Failures returns what Deliver returns for errs, which has one entry for each
// result of the batch: nil where none failed, the one error of a batch of one, a
// *BatchError otherwise.
func Failures(errs []error) error {
	failed := slices.ContainsFunc(errs, func(err error) bool { return err != nil })
	switch {
	case !failed:
		return nil
	case len(errs) == 1:
		return errs[0]
	}
	return &BatchError{Errs: errs}
}

func (e *BatchError) Error() string {
	var first error
	n := 0
	for _, err := range e.Errs {
		if err != nil {
			if first == nil {
				first = err
			}
			n++
		}
	}
	if n == 0 {
		return "no result of the batch failed"
	}
	return fmt.Sprintf("%d of %d results failed, the first with: %v", n, len(e.Errs), first)
}

// Unwrap returns the errors of the failed results.
func (e *BatchError) Unwrap() []error {
	var out []error
	for _, err := range e.Errs {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}

type class uint8

const (
	answered    class = iota // the destination said no: one try
	permanent                // a repeat cannot help
	unreachable              // no answer
)

type classed struct {
	err   error
	class class
	after time.Duration
}

func (e *classed) Error() string { return e.err.Error() }
func (e *classed) Unwrap() error { return e.err }

// Permanent marks err as one that no repeat can mend: the result goes to the
// error action at once. nil stays nil.
func Permanent(err error) error { return mark(err, permanent) }

// Unreachable marks err as a connection failure or a time-out: no try is
// counted, the lane waits at its position and probes. nil stays nil.
func Unreachable(err error) error { return mark(err, unreachable) }

func mark(err error, c class) error {
	if err == nil {
		return nil
	}
	return &classed{err: err, class: c, after: retryAfter(err)}
}

// RetryAfter adds the destination's wish not to be asked again before d has
// passed; a lane waits no longer than it does for one that cannot be reached. It
// keeps err's class. nil stays nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &classed{err: err, class: classOf(err), after: max(d, 0)}
}

// IsPermanent reports whether err was marked by Permanent.
func IsPermanent(err error) bool { return classOf(err) == permanent }

// IsUnreachable reports whether err was marked by Unreachable.
func IsUnreachable(err error) bool { return classOf(err) == unreachable }

func classOf(err error) class {
	var c *classed
	if errors.As(err, &c) {
		return c.class
	}
	return answered
}

func retryAfter(err error) time.Duration {
	var c *classed
	if errors.As(err, &c) {
		return c.after
	}
	return 0
}

// Network marks err as Unreachable where it is a failure of the network below
// the destination's protocol: dialling, name resolution, a connection that
// broke, a time limit. Other errors, and those with a class already, come back
// unchanged.
func Network(err error) error {
	var c *classed
	if err == nil || errors.As(err, &c) {
		return err
	}
	var op *net.OpError
	var dns *net.DNSError
	if timedOut(err) || errors.As(err, &op) || errors.As(err, &dns) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return Unreachable(err)
	}
	return err
}

func timedOut(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &n) && n.Timeout()
}

// FieldError is a mistake in an action's own object.
type FieldError struct {
	Path   []string // keys and list indices from the action's object down; empty: the object itself
	Offset int      // byte in the field's text, for a template; -1: the whole field
	Msg    string
	Hint   string // may be empty
	Err    error  // the cause where there is one, such as the template's error
}

func (e *FieldError) Error() string {
	s := e.Msg
	if len(e.Path) > 0 {
		s = strings.Join(e.Path, ".") + ": " + s
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

func (e *FieldError) Unwrap() error { return e.Err }

// FieldPath, FieldOffset, FieldMsg and FieldHint let rules point into the file
// without knowing this package.
func (e *FieldError) FieldPath() []string { return e.Path }
func (e *FieldError) FieldOffset() int    { return e.Offset }
func (e *FieldError) FieldMsg() string    { return e.Msg }
func (e *FieldError) FieldHint() string   { return e.Hint }
