package functions

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// FuzzRuntimeAPI sends what a program might. Weir answers in HTTP, holds no
// request for ever, and takes one outcome of the invocation at most.
func FuzzRuntimeAPI(f *testing.F) {
	const next, answer, failure = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n", "POST /2018-06-01/runtime/invocation/id/response HTTP/1.1\r\n",
		"POST /2018-06-01/runtime/invocation/id/error HTTP/1.1\r\n"
	f.Add([]byte(next + answer + "Content-Length: 2\r\n\r\n{}" + next))
	f.Add([]byte(next + answer + "Content-Length: 2\r\n\r\n{}" + answer + "Content-Length: 2\r\n\r\n{}"))
	f.Add([]byte(next + answer + "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\nTrailer: Lambda-Runtime-Function-Error-Type\r\n\r\n2\r\n{}\r\n0\r\nLambda-Runtime-Function-Error-Type: X\r\n\r\n"))
	f.Add([]byte(next + failure + "Content-Length: 9999999\r\n\r\n{}"))
	f.Add([]byte(next + failure + "Connection: close\r\nContent-Length: 3\r\n\r\n{x}"))
	f.Add([]byte("POST /2018-06-01/runtime/init/error HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("DELETE /else HTTP/1.1\r\nContent-Length: 5\r\n\r\n"))
	f.Add([]byte(next + next + next))
	f.Fuzz(func(t *testing.T, sent []byte) {
		e := &environment{asks: make(chan struct{}, 1), said: make(chan result, 1)}
		e.over, e.close = context.WithCancel(t.Context())
		defer e.close()
		ours, theirs := net.Pipe()
		c := &connection{Conn: ours, e: e, limit: io.LimitedReader{R: ours}}
		c.in = bufio.NewReader(&c.limit)
		served := make(chan struct{})
		go func() { defer close(served); c.serve(); c.Close(); e.left(c) }()
		go func() {
			_, _ = theirs.Write(sent)
			select { // what is there is read before the end
			case <-e.asks:
				if c := e.asker(&invocation{id: "id"}); c != nil {
					_ = c.event(&invocation{id: "id", arn: "a", trace: "t\r\nx: y", client: "{\n}", payload: []byte("{}"), timeout: time.Minute})
				}
			case <-served:
			case <-time.After(10 * time.Millisecond):
			}
			theirs.Close()
		}()
		in := bufio.NewReader(theirs)
		for {
			r, err := http.ReadResponse(in, nil)
			if err != nil {
				break
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil && r.ContentLength < 0 {
				t.Errorf("%v", err)
			}
			if r.Header.Get("X") != "" {
				t.Error("a value became a header of its own")
			}
		}
		<-served
		if len(e.askers) > 0 {
			t.Error("a connection that is gone waits for an event")
		}
	})
}
