package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/weir-iot/weir/internal/errs"
)

// Client calls the API of a running Weir.
type Client struct {
	URL   string // http://host:port
	Token string
	HTTP  *http.Client // nil: http.DefaultClient
}

// RemoteError is an error the API answered with.
type RemoteError struct {
	Status int
	Info   ErrorInfo
}

func (e *RemoteError) Error() string { return e.Info.Message }

// Detail returns several lines, with source and caret, where the API gave them.
func (e *RemoteError) Detail() string {
	if e.Info.Detail != "" {
		return e.Info.Detail
	}
	return e.Info.Message
}

// Rules lists the rules.
func (c *Client) Rules(ctx context.Context) ([]Rule, error) {
	var out struct{ Rules []Rule }
	err := c.call(ctx, "GET", "/weir/v1/rules", nil, nil, &out)
	return out.Rules, err
}

// Rule returns one rule with its document.
func (c *Client) Rule(ctx context.Context, name string) (*Rule, error) {
	var out Rule
	return &out, c.call(ctx, "GET", "/weir/v1/rules/"+url.PathEscape(name), nil, nil, &out)
}

// Apply applies a file of rules; see the interface Rules.
func (c *Client) Apply(ctx context.Context, file string, content []byte, dry bool) ([]Applied, error) {
	var out struct{ Applied []Applied }
	q := url.Values{"file": {file}, "dry": {strconv.FormatBool(dry)}}
	err := c.call(ctx, "PUT", "/weir/v1/rules", q, content, &out)
	return out.Applied, err
}

// DeleteRule deletes a rule.
func (c *Client) DeleteRule(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", "/weir/v1/rules/"+url.PathEscape(name), nil, nil, nil)
}

// SetEnabled enables or disables a rule.
func (c *Client) SetEnabled(ctx context.Context, name string, enabled bool) error {
	verb := "/disable"
	if enabled {
		verb = "/enable"
	}
	return c.call(ctx, "POST", "/weir/v1/rules/"+url.PathEscape(name)+verb, nil, nil, nil)
}

// Status returns the state of the process.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var out Status
	return &out, c.call(ctx, "GET", "/weir/v1/status", nil, nil, &out)
}

// Destinations lists the destinations of the http action.
func (c *Client) Destinations(ctx context.Context) ([]Destination, error) {
	var out struct{ Destinations []Destination }
	err := c.call(ctx, "GET", "/weir/v1/destinations", nil, nil, &out)
	return out.Destinations, err
}

// ConfirmDestination enables the destination that was given token.
func (c *Client) ConfirmDestination(ctx context.Context, token string) (*Destination, error) {
	var out Destination
	return &out, c.call(ctx, "GET", "/confirmdestination/"+url.PathEscape(token), nil, nil, &out)
}

// DeleteDestination removes a destination by its URL or ARN.
func (c *Client) DeleteDestination(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", "/weir/v1/destinations", url.Values{"name": {name}}, nil, nil)
}

// Dead lists dead letters.
func (c *Client) Dead(ctx context.Context, rule string, after uint64, max int) ([]DeadLetter, error) {
	var out struct{ Dead []DeadLetter }
	q := url.Values{"rule": {rule}, "after": {strconv.FormatUint(after, 10)}, "max": {strconv.Itoa(max)}}
	err := c.call(ctx, "GET", "/weir/v1/dead", q, nil, &out)
	return out.Dead, err
}

// DeadLetter returns one dead letter with its contents.
func (c *Client) DeadLetter(ctx context.Context, seq uint64) (*Letter, error) {
	var out Letter
	return &out, c.call(ctx, "GET", "/weir/v1/dead/"+strconv.FormatUint(seq, 10), nil, nil, &out)
}

// Redrive hands dead letters to their actions again.
func (c *Client) Redrive(ctx context.Context, r RedriveRequest) (*Redriven, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	var out Redriven
	return &out, c.call(ctx, "POST", "/weir/v1/dead/redrive", nil, body, &out)
}

// Tail calls fn for each line, until the tail or ctx ends. raw is the line as
// it came, without its end.
func (c *Client) Tail(ctx context.Context, o TailOptions, fn func(l *TailLine, raw []byte) error) error {
	return c.TailOpened(ctx, o, func() {}, fn)
}

// TailOpened is Tail and calls opened once the server has begun to read: what is
// committed after that is not missed.
func (c *Client) TailOpened(ctx context.Context, o TailOptions, opened func(), fn func(l *TailLine, raw []byte) error) error {
	q := url.Values{"follow": {strconv.FormatBool(o.Follow)}}
	if o.Filter != "" {
		q.Set("filter", o.Filter)
	}
	if !o.Since.IsZero() {
		q.Set("since", o.Since.Format("2006-01-02T15:04:05.999999999Z07:00"))
	}
	if o.Last > 0 {
		q.Set("last", strconv.Itoa(o.Last))
	}
	resp, err := c.do(ctx, "GET", "/weir/v1/tail", q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	opened()
	s := bufio.NewScanner(resp.Body)
	s.Buffer(nil, 32<<20)
	for s.Scan() {
		var l TailLine
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			return fmt.Errorf("a line of the tail is not JSON: %w", err)
		}
		if l.Error != nil {
			return &RemoteError{http.StatusOK, *l.Error}
		}
		if err := fn(&l, s.Bytes()); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("the tail broke off: %w", err)
	}
	if o.Follow {
		return errors.New("the tail ended: Weir has stopped")
	}
	return nil
}

func (c *Client) call(ctx context.Context, method, path string, q url.Values, body []byte, into any) error {
	resp, err := c.do(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 256<<20)).Decode(into); err != nil {
		return fmt.Errorf("the answer of %s is not as expected: %w", c.URL, err)
	}
	return nil
}

// do returns an answer that is a success.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, body []byte) (*http.Response, error) {
	u := strings.TrimSuffix(c.URL, "/") + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	h := c.HTTP
	if h == nil {
		h = http.DefaultClient
	}
	resp, err := h.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, errs.E("control.Client", errs.Unavailable, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	var e ErrorBody
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if json.Unmarshal(b, &e) != nil || e.Error.Message == "" {
		e.Error.Message = fmt.Sprintf("%s answered %s, which is no answer of Weir", c.URL, resp.Status)
	}
	return nil, &RemoteError{resp.StatusCode, e.Error}
}
