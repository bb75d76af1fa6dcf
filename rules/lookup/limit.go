package lookup

import (
	"errors"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// errTooLarge is the end of an answer that goes on past its limit.
var errTooLarge = errors.New("the answer is too large")

// limit returns cfg's HTTP client with answers of up to max bytes.
func limit(cfg aws.Config, max int64) aws.HTTPClient { return limited{cfg.HTTPClient, max} }

type limited struct {
	next aws.HTTPClient
	max  int64
}

// Do implements aws.HTTPClient. An answer that is too large fails when it is
// read, not here: the SDK would ask again.
func (l limited) Do(r *http.Request) (*http.Response, error) {
	resp, err := l.next.Do(r)
	if err != nil {
		return nil, err
	}
	left := l.max
	if resp.ContentLength > l.max {
		left = 0
	}
	resp.Body = &limitedBody{resp.Body, left}
	return resp, nil
}

type limitedBody struct {
	io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}
