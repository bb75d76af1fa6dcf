package localstore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// plainBody undoes the content encoding aws-chunked, with and without
// signatures and trailers. The signatures of single chunks are not checked: the
// header's was.
// Source: AWS Signature Version 4, "Transferring payload in multiple chunks".
func plainBody(r *http.Request) error {
	chunked := strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-")
	var rest []string
	for e := range strings.SplitSeq(r.Header.Get("Content-Encoding"), ",") {
		switch e = strings.TrimSpace(e); e {
		case "aws-chunked":
			chunked = true
		case "":
		default:
			rest = append(rest, e)
		}
	}
	if !chunked {
		return nil
	}
	n, err := strconv.ParseInt(r.Header.Get("X-Amz-Decoded-Content-Length"), 10, 64)
	if err != nil || n < 0 {
		return errors.New("aws-chunked without X-Amz-Decoded-Content-Length")
	}
	r.Body = &chunkReader{in: bufio.NewReader(r.Body), close: r.Body, total: n}
	r.ContentLength = n
	r.Header.Set("Content-Length", strconv.FormatInt(n, 10))
	r.Header.Del("X-Amz-Content-Sha256")
	r.Header.Del("X-Amz-Trailer")
	r.Header.Del("Content-Encoding")
	if len(rest) > 0 {
		r.Header.Set("Content-Encoding", strings.Join(rest, ","))
	}
	return nil
}

// chunkReader reads `<hex size>[;extension]\r\n<bytes>\r\n` until a chunk of size 0 and
// leaves the trailers unread. total is what the chunks must add up to.
type chunkReader struct {
	in    *bufio.Reader
	close io.Closer
	total int64 // bytes still to come in all
	left  int64 // bytes still to come in this chunk
	inside,
	done bool
}

var errChunk = errors.New("aws-chunked: malformed")

func (c *chunkReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for c.left == 0 {
		if c.done {
			return 0, io.EOF
		}
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n, err := c.in.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	c.total -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (c *chunkReader) next() error {
	if c.inside {
		var end [2]byte
		if _, err := io.ReadFull(c.in, end[:]); err != nil || end != [2]byte{'\r', '\n'} {
			return errChunk
		}
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return errChunk
	}
	size, _, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), ";")
	n, err := strconv.ParseInt(size, 16, 63)
	if err != nil || n < 0 || n > c.total {
		return errChunk
	}
	if n == 0 {
		c.done = true
		if c.total != 0 {
			return fmt.Errorf("aws-chunked: %d bytes are missing", c.total)
		}
	}
	c.left, c.inside = n, true
	return nil
}

func (c *chunkReader) Close() error { return c.close.Close() }
