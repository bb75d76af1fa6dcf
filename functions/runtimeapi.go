package functions

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// Headers of the Runtime API. Source: AWS Lambda developer guide, "AWS Lambda
// runtime API".
const (
	headerID       = "Lambda-Runtime-Aws-Request-Id"
	headerDeadline = "Lambda-Runtime-Deadline-Ms"
	headerARN      = "Lambda-Runtime-Invoked-Function-Arn"
	headerTrace    = "Lambda-Runtime-Trace-Id"
	headerClient   = "Lambda-Runtime-Client-Context"
	headerErrType  = "Lambda-Runtime-Function-Error-Type"
	apiRoot        = "/2018-06-01/runtime/"
)

// Bounds of what a program can have Weir hold.
const (
	maxConnections = 16
	maxHeader      = 1<<20 + 64<<10 // bytes; the cause of an error is a header of at most 1 MiB
	maxFailure     = 256 << 10      // bytes
)

// connection is one of a program's to the Runtime API. Its goroutine reads
// requests and answers them, but for the one that asks for an event: that is
// answered by whoever has an event, with no other goroutine in between.
type connection struct {
	net.Conn
	e     *environment
	limit io.LimitedReader // of what is read, for headers
	in    *bufio.Reader
}

// accept serves connections until the listener closes.
func (e *environment) accept(l net.Listener) {
	room := make(chan struct{}, maxConnections)
	for {
		room <- struct{}{} // more wait in the kernel
		nc, err := l.Accept()
		if err != nil {
			return
		}
		if e.private && !e.p.Owns(nc) {
			nc.Close()
			<-room
			continue
		}
		c := &connection{Conn: nc, e: e, limit: io.LimitedReader{R: nc}}
		c.in = bufio.NewReader(&c.limit)
		e.served.Go(func() {
			c.serve()
			c.Close()
			e.left(c)
			<-room
		})
	}
}

// serve answers requests until the connection ends.
func (c *connection) serve() {
	stop := context.AfterFunc(c.e.over, func() { c.Close() })
	defer stop()
	for {
		c.limit.N = maxHeader
		r, err := http.ReadRequest(c.in)
		if err != nil {
			return
		}
		c.limit.N = math.MaxInt64 // readBody bounds it
		if err := c.e.serveRequest(c, r); err != nil || r.Close || !r.ProtoAtLeast(1, 1) {
			return
		}
	}
}

// serveRequest answers one request. After an error the connection is of no more
// use.
func (e *environment) serveRequest(c *connection, r *http.Request) error {
	path, ok := strings.CutPrefix(r.URL.Path, apiRoot)
	id, what, _ := strings.Cut(strings.TrimPrefix(path, "invocation/"), "/")
	switch {
	case !ok:
	case path == "invocation/next" && r.Method == http.MethodGet:
		e.next(c)
		return nil
	case path == "init/error" && r.Method == http.MethodPost:
		return e.failed(c, r, "")
	case strings.HasPrefix(path, "invocation/") && what == "response" && r.Method == http.MethodPost:
		return e.answered(c, r, id)
	case strings.HasPrefix(path, "invocation/") && what == "error" && r.Method == http.MethodPost:
		return e.failed(c, r, id)
	}
	return c.refuse(http.StatusNotFound, "NotFound", "there is no "+r.Method+" "+r.URL.Path)
}

// reply writes an answer. It is one write, so that it mixes with no other.
func (c *connection) reply(status int, body []byte) error {
	out := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", status, http.StatusText(status), len(body))
	_, err := c.Write(append(out, body...))
	return err
}

// refuse answers with an error, and ends the connection: what follows the header
// is not read.
func (c *connection) refuse(status int, kind, text string) error {
	body, err := json.Marshal(failure{kind, text})
	if err == nil {
		err = c.reply(status, body)
	}
	if err == nil {
		err = io.EOF
	}
	return err
}

var statusOK = []byte(`{"status":"OK"}` + "\n")

func (c *connection) accepted() error { return c.reply(http.StatusAccepted, statusOK) }

// body reads a request's body of at most max bytes. Errors: errs.TooLarge.
func (c *connection) body(r *http.Request, max int64) ([]byte, error) {
	const op = "functions.body"
	if r.ContentLength > max {
		return nil, errs.Errorf(op, errs.TooLarge, "%d bytes", r.ContentLength)
	}
	if strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
		if _, err := io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return nil, err
		}
	}
	if r.ContentLength >= 0 {
		b := make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, b)
		return b, err
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, max+1))
	if int64(len(b)) > max {
		return nil, errs.Errorf(op, errs.TooLarge, "more than %d bytes", max)
	}
	return b, err
}

// next takes note that c waits for an event.
func (e *environment) next(c *connection) {
	e.mu.Lock()
	if e.busy != "" {
		// It goes on without having answered: the answer will not come.
		e.tell(failed(e.busy, typeInvalid, "the runtime asked for the next event without having answered this one"))
	}
	e.askers, e.began = append(e.askers, c), true
	e.mu.Unlock()
	select {
	case e.asks <- struct{}{}:
	default:
	}
}

// left takes note that c is closed.
func (e *environment) left(c *connection) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.askers = slices.DeleteFunc(e.askers, func(a *connection) bool { return a == c })
}

// asker returns a connection that waits for an event, which is inv; nil: there is
// none.
func (e *environment) asker(inv *invocation) *connection {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.askers) == 0 {
		return nil
	}
	c := e.askers[0]
	e.askers = slices.Delete(e.askers, 0, 1)
	e.busy = inv.id
	return c
}

// event answers the request that waits on c with inv.
func (c *connection) event(inv *invocation) error {
	// A program that reads nothing more ends by its time.
	_ = c.SetWriteDeadline(time.Now().Add(inv.timeout))
	defer func() { _ = c.SetWriteDeadline(time.Time{}) }()
	out := make([]byte, 0, 512+len(inv.client)+min(len(inv.payload), joined))
	out = append(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json"...)
	for _, h := range [...]struct{ name, value string }{
		{headerID, inv.id}, {headerDeadline, strconv.FormatInt(inv.deadline.UnixMilli(), 10)}, {headerARN, inv.arn}, {headerTrace, inv.trace}, {headerClient, inv.client},
		{"Content-Length", strconv.Itoa(len(inv.payload))},
	} {
		if h.value != "" {
			out = appendHeader(out, h.name, h.value)
		}
	}
	out = append(out, "\r\n\r\n"...)
	if len(inv.payload) <= joined {
		_, err := c.Write(append(out, inv.payload...))
		return err
	}
	parts := net.Buffers{out, inv.payload}
	_, err := parts.WriteTo(c.Conn)
	return err
}

// joined is up to how many bytes a payload is copied behind its header.
const joined = 32 << 10

// appendHeader appends a header line; control characters, which would end it,
// become spaces.
func appendHeader(b []byte, name, value string) []byte {
	b = append(append(append(b, "\r\n"...), name...), ": "...)
	for i := range len(value) {
		ch := value[i]
		if ch < ' ' || ch == 0x7f {
			ch = ' '
		}
		b = append(b, ch)
	}
	return b
}

// tell brings res to run, as the outcome of the invocation under way; e.mu is
// held.
func (e *environment) tell(res result) {
	e.busy, e.answering = "", false
	if e.done {
		return
	}
	select {
	case e.said <- res:
	default:
	}
}

// begins reports whether id is the invocation under way, or the start where it is
// "", and nothing answers it yet. What begins ends with finish.
func (e *environment) begins(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if id != e.busy || e.answering || id == "" && e.began {
		return false
	}
	e.answering = true
	return true
}

func (c *connection) notMine() error {
	return c.refuse(http.StatusBadRequest, "InvalidRequestID", "the invocation is not this environment's")
}

// answered takes the answer of the invocation id.
func (e *environment) answered(c *connection, r *http.Request, id string) error {
	if !e.begins(id) {
		return c.notMine()
	}
	body, err := c.body(r, maxAnswer)
	res := result{payload: body}
	switch {
	case errs.Is(err, errs.TooLarge):
		res = tooLarge()
	case err != nil:
		res = failed(id, typeInvalid, "the answer broke off: %v", err)
	case r.Trailer.Get(headerErrType) != "":
		res = failed(id, r.Trailer.Get(headerErrType), "the function failed while it answered")
	}
	e.finish(id, res)
	if err != nil {
		return c.refuse(http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "the answer is not taken")
	}
	return c.accepted()
}

// finish tells res where id is still the invocation under way. That comes before
// the program hears of it: it may ask for the next event, or end, at once.
func (e *environment) finish(id string, res result) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if id == e.busy {
		e.tell(res)
	}
}

// failed takes the error of the invocation id, or of the start where it is "".
func (e *environment) failed(c *connection, r *http.Request, id string) error {
	if !e.begins(id) {
		return c.notMine()
	}
	body, err := c.body(r, maxFailure)
	if err != nil || !json.Valid(body) {
		kind := r.Header.Get(headerErrType)
		if kind == "" {
			kind = "Runtime.Unknown"
		}
		body, _ = json.Marshal(failure{kind, strings.ToValidUTF8(string(body[:min(len(body), 1024)]), "\ufffd")})
	}
	e.finish(id, result{payload: body, failed: true})
	if err != nil {
		return c.refuse(http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "the error is not taken")
	}
	return c.accepted()
}
