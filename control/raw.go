package control

import (
	"context"
	"net/http"
	"net/url"
)

// Do asks for an operation that has no method of its own here, such as those of
// functions. The answer is a success; the caller closes its body. Errors: a
// *RemoteError, errs.Unavailable.
func (c *Client) Do(ctx context.Context, method, path string, q url.Values, body []byte) (*http.Response, error) {
	return c.do(ctx, method, path, q, body)
}

// Call is Do with an answer in JSON, decoded into into; nil: none is read.
func (c *Client) Call(ctx context.Context, method, path string, q url.Values, body []byte, into any) error {
	return c.call(ctx, method, path, q, body, into)
}
