package functions

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// endpoint runs a function as a web server that gets the event as a POST's body
// and answers with the result: 2xx is an answer, anything else a failure.
// Redirects are not followed.
type endpoint struct {
	s   *Service
	url *url.URL
}

// invoke implements runner.
func (e *endpoint) invoke(ctx context.Context, inv *invocation) (result, error) {
	const op = "functions.http"
	if e.s.o.HTTP == nil {
		return result{}, errs.Errorf(op, errs.NotImplemented, "functions of the runtime http are not served here")
	}
	ctx, cancel := context.WithTimeout(ctx, inv.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url.String(), bytes.NewReader(inv.payload))
	if err != nil {
		return result{}, errs.E(op, errs.Invalid, err)
	}
	h := req.Header
	h.Set("Content-Type", "application/json")
	h.Set(headerID, inv.id)
	h.Set(headerDeadline, strconv.FormatInt(inv.deadline.UnixMilli(), 10))
	h.Set(headerARN, inv.arn)
	h.Set(headerTrace, inv.trace)
	resp, err := e.s.o.HTTP.RoundTrip(req)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return timedOut(inv), nil
		}
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return result{}, errs.Errorf(op, errs.Unavailable, "the endpoint cannot be reached: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case len(body) > maxAnswer:
		return tooLarge(), nil
	case err != nil && ctx.Err() != nil:
		return timedOut(inv), nil
	case err != nil:
		return result{}, errs.Errorf(op, errs.Unavailable, "the endpoint's answer broke off: %w", err)
	case resp.StatusCode/100 == 2:
		return result{payload: body}, nil
	case json.Valid(body) && len(body) > 0 && len(body) <= maxFailure && body[0] == '{':
		return result{payload: body, failed: true}, nil
	}
	return failed(inv.id, typeHTTP, "the endpoint answered with status %d", resp.StatusCode), nil
}

func (e *endpoint) reap(time.Time) {}
func (e *endpoint) close()         {}
