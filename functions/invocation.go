package functions

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// Request asks for one invocation.
type Request struct {
	Function      string // name, ARN or part of one, with or without a qualifier
	Qualifier     string // version or $LATEST; "": the one in Function, or $LATEST
	ID            string // "": a new one; the same in every repeat of one invocation
	Payload       []byte // JSON; at most MaxPayload
	ClientContext string // JSON
	Trace         string // "": made from the time and ID
	Tail          bool   // the answer has the end of the log
	Wait          bool   // for a place where all of the concurrency is taken; otherwise errs.Quota
}

// Response is what became of an invocation that took place.
type Response struct {
	ID       string
	Version  string
	Payload  []byte // JSON: the answer, or errorType and errorMessage
	Error    string // "": the function answered; "Unhandled": it failed, and Payload says how
	Log      []byte // with Request.Tail: at most 4 KiB
	Duration time.Duration
}

// Failed returns the error of a function that failed, nil of one that answered:
// errs.Timeout where its time was up, errs.Invalid otherwise.
func (r *Response) Failed(name string) error {
	if r.Error == "" {
		return nil
	}
	var f failure
	_ = json.Unmarshal(r.Payload, &f)
	kind := errs.Invalid
	if f.Type == typeTimeout {
		kind = errs.Timeout
	}
	text := "function " + name + " failed"
	for _, s := range []string{f.Type, f.Message} {
		if s != "" {
			text += ": " + clipTo(s, 300)
		}
	}
	return errs.Errorf("functions.Invoke", kind, "%s", text)
}

func clipTo(s string, n int) string {
	if len(s) > n {
		return clip(s[:n]) + "…"
	}
	return s
}

// failure is the payload of a function that failed.
type failure struct {
	Type    string `json:"errorType,omitempty"`
	Message string `json:"errorMessage"`
}

// Error types of Weir's own, as AWS Lambda calls them.
const (
	typeTimeout  = "Sandbox.Timedout"
	typeExit     = "Runtime.ExitError"
	typeMemory   = "Runtime.OutOfMemory"
	typeStart    = "Runtime.InvalidEntrypoint"
	typeTooLarge = "Function.ResponseSizeTooLarge"
	typeInvalid  = "Runtime.InvalidResponse"
	typeHTTP     = "Runtime.HTTPError"
)

// invocation is one event on its way through a runner.
type invocation struct {
	id, arn, trace, client string
	payload                []byte
	deadline               time.Time // of the function's own time
	timeout                time.Duration
	tail                   *tail // nil: not asked for
}

// result is what a runner brings back.
type result struct {
	payload []byte
	failed  bool
	init    time.Duration // of a new environment
	peak    int64         // bytes of memory; 0: not known
}

func failed(id, kind, format string, args ...any) result {
	text := fmt.Sprintf(format, args...)
	if id != "" {
		text = "RequestId: " + id + " Error: " + text
	}
	b, _ := json.Marshal(failure{kind, text})
	return result{payload: b, failed: true}
}

func timedOut(inv *invocation) result {
	return failed(inv.id, typeTimeout, "Task timed out after %.2f seconds", inv.timeout.Seconds())
}

func tooLarge() result {
	return failed("", typeTooLarge, "Response payload size exceeded maximum allowed payload size (%d bytes).", maxAnswer)
}

// runner runs the invocations of one version. invoke is called by up to
// Concurrency goroutines; it returns by the deadline of ctx, which is the
// function's. An error means that the function could not be asked.
type runner interface {
	invoke(ctx context.Context, inv *invocation) (result, error)
	// reap lets go of what has not been used since before.
	reap(before time.Time)
	// close ends what is idle; what is busy ends with its invocation.
	close()
}

// pool is one version with its places.
type pool struct {
	cfg     Config
	version string
	runner  runner
	places  chan struct{}
}

// take takes a place; the caller gives it back.
func (p *pool) take(ctx context.Context, wait bool) error {
	select {
	case p.places <- struct{}{}:
		return nil
	default:
	}
	if !wait {
		return errs.Errorf("functions.Invoke", errs.Quota, "all %d places of the function's concurrency are taken", cap(p.places))
	}
	select {
	case p.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errs.Errorf("functions.Invoke", errs.Quota, "all %d places of the function's concurrency stayed taken: %w", cap(p.places), ctx.Err())
	}
}

func (p *pool) give() { <-p.places }
