package jet

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/nats-io/nuid"
)

// conn is a raw NATS protocol connection, used by one goroutine at a time:
// write requests, then read frames. nats.go's publisher costs twice as much a
// message and does not know atomic batches.
type conn struct {
	nc    net.Conn
	inbox string // own reply prefix, without the dot; new with every connection
	buf   []byte
	r, w  int // unread bytes are buf[r:w]
	next  uint64
	dead  error
}

// frame is one message from the server. Its slices are valid until the next
// read.
type frame struct {
	subject []byte // as delivered; for a reply inbox + "." + token
	reply   []byte
	header  []byte // with its NATS/1.0 line; nil where there is none
	payload []byte
}

var (
	errStale = errors.New("connection closed by the store")
	// errWait is returned by read when the deadline has passed; reading can go on.
	errWait = errors.New("no answer yet")
)

// authenticator fills in the CONNECT options from the server's INFO.
type authenticator func(nonce string, connect map[string]any) error

func password(user, pass string) authenticator {
	return func(_ string, c map[string]any) error {
		c["user"], c["pass"] = user, pass
		return nil
	}
}

// login reads a credentials file that is no NATS one: user:password in its only
// line, in a file that its owner alone can read. ok: it is one.
func login(file string) (user, pass string, ok bool, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", "", false, err
	}
	line := strings.TrimSpace(string(b))
	user, pass, ok = strings.Cut(line, ":")
	if !ok || strings.ContainsAny(line, "\r\n") {
		return "", "", false, nil
	}
	info, err := os.Stat(file)
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("%s can be read by others (mode %o): make it 0600", file, info.Mode().Perm())
	}
	return user, pass, true, err
}

func credentials(file string) authenticator {
	return func(nonce string, c map[string]any) error {
		if user, pass, ok, err := login(file); ok || err != nil {
			c["user"], c["pass"] = user, pass
			return err
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		jwt, err := nkeys.ParseDecoratedJWT(b)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		key, err := nkeys.ParseDecoratedNKey(b)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		defer key.Wipe()
		sig, err := key.Sign([]byte(nonce))
		if err != nil {
			return err
		}
		c["jwt"], c["sig"] = jwt, base64.RawURLEncoding.EncodeToString(sig)
		return nil
	}
}

// handshake makes a conn of a fresh network connection and subscribes to its
// inbox. host is for TLS and may be empty.
func handshake(nc net.Conn, auth authenticator, useTLS bool, host string) (*conn, error) {
	c := &conn{nc: nc, inbox: "_WEIR." + nuid.Next(), buf: make([]byte, 64<<10)}
	if err := nc.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	line, err := c.line()
	if err != nil {
		return nil, err
	}
	if len(line) < 5 || string(line[:5]) != "INFO " {
		return nil, fmt.Errorf("not a NATS server: %.40q", line)
	}
	var info struct {
		Nonce       string `json:"nonce"`
		TLSRequired bool   `json:"tls_required"`
	}
	if err := json.Unmarshal(line[5:], &info); err != nil {
		return nil, err
	}
	if useTLS || info.TLSRequired {
		t := tls.Client(nc, &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12})
		if err := t.Handshake(); err != nil {
			return nil, err
		}
		c.nc = t
	}
	connect := map[string]any{
		"verbose": false, "pedantic": false, "headers": true, "no_responders": true,
		"protocol": 1, "lang": "go", "version": "1", "name": "weir", "echo": true,
	}
	if err := auth(info.Nonce, connect); err != nil {
		return nil, err
	}
	j, err := json.Marshal(connect)
	if err != nil {
		return nil, err
	}
	if _, err := c.nc.Write([]byte("CONNECT " + string(j) + "\r\nSUB " + c.inbox + ".> 1\r\nPING\r\n")); err != nil {
		return nil, err
	}
	for {
		line, err := c.line()
		if err != nil {
			return nil, err
		}
		switch {
		case string(line) == "PONG":
			return c, nc.SetDeadline(time.Time{})
		case len(line) > 4 && string(line[:4]) == "-ERR":
			return nil, errors.New(string(line[5:]))
		}
	}
}

func (c *conn) close() {
	if c.dead == nil {
		c.dead = net.ErrClosed
	}
	c.nc.Close()
}

// token returns a reply token that this connection has not used before.
func (c *conn) token() string {
	c.next++
	return strconv.FormatUint(c.next, 36)
}

// fill reads more bytes behind the unread ones.
func (c *conn) fill() error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	} else if c.w == len(c.buf) {
		if c.r > 0 {
			copy(c.buf, c.buf[c.r:c.w])
			c.w -= c.r
			c.r = 0
		} else {
			c.buf = append(c.buf, make([]byte, len(c.buf))...)
		}
	}
	n, err := c.nc.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errWait
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
		err = errStale
	}
	c.dead = err
	return err
}

// line returns the next line without its CR LF.
func (c *conn) line() ([]byte, error) {
	from := 0
	for {
		if i := bytes.IndexByte(c.buf[c.r+from:c.w], '\n'); i >= 0 {
			l := c.buf[c.r : c.r+from+i]
			c.r += len(l) + 1
			return bytes.TrimSuffix(l, []byte("\r")), nil
		}
		from = c.w - c.r
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

// read returns the next message. It answers the server's PINGs. After errWait
// it may be called again; any other error ends the connection.
func (c *conn) read(deadline time.Time) (frame, error) {
	if c.dead != nil {
		return frame{}, c.dead
	}
	if err := c.nc.SetReadDeadline(deadline); err != nil {
		c.dead = err
		return frame{}, err
	}
	for {
		l, err := c.line()
		if err != nil {
			return frame{}, err
		}
		start := c.r - len(l) - 2
		switch {
		case len(l) > 4 && (l[0] == 'M' || l[0] == 'H' && l[1] == 'M'):
			f, ok, err := c.message(start, l)
			if err != nil || ok {
				return f, err
			}
		case string(l) == "PING":
			if err := c.nc.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
				c.dead = err
				return frame{}, err
			}
			if _, err := c.nc.Write([]byte("PONG\r\n")); err != nil {
				c.dead = err
				return frame{}, err
			}
		case len(l) >= 4 && string(l[:4]) == "-ERR":
			c.dead = errors.New(string(l))
			return frame{}, c.dead
		}
		// +OK, PONG and asynchronous INFO need nothing.
	}
}

// message parses a MSG or HMSG line l, which began at start, and the bytes
// behind it. Where the deadline passes half way everything is left unread.
func (c *conn) message(start int, l []byte) (frame, bool, error) {
	var f [6][]byte
	n := 0
	for i := 0; i < len(l) && n < len(f); {
		for i < len(l) && l[i] == ' ' {
			i++
		}
		from := i
		for i < len(l) && l[i] != ' ' {
			i++
		}
		if i > from {
			f[n] = l[from:i]
			n++
		}
	}
	hmsg := l[0] == 'H'
	want := 4 // MSG subject sid size
	if hmsg {
		want = 5
	}
	if n != want && n != want+1 {
		c.dead = fmt.Errorf("malformed message line %.80q", l)
		return frame{}, false, c.dead
	}
	size, ok := number(f[n-1])
	var hlen uint64
	if hmsg && ok {
		hlen, ok = number(f[n-2])
	}
	if !ok || hlen > size || size > 1<<30 {
		c.dead = fmt.Errorf("malformed message line %.80q", l)
		return frame{}, false, c.dead
	}
	head := c.r - start
	total := head + int(size) + 2
	if c.w-start < total {
		c.r = start
		for c.w-c.r < total {
			if len(c.buf)-c.r < total && len(c.buf) >= total {
				copy(c.buf, c.buf[c.r:c.w])
				c.w -= c.r
				c.r = 0
			}
			if err := c.fill(); err != nil {
				return frame{}, false, err
			}
		}
		// The bytes have moved: parse the line again, now with all of it there.
		start = c.r
		l = c.buf[start : start+head-2]
		c.r = start + head
		return c.message(start, l)
	}
	body := c.buf[start+head : start+head+int(size)]
	c.r = start + total
	fr := frame{subject: f[1], payload: body[hlen:]}
	if hmsg {
		fr.header = body[:hlen]
	}
	if n == want+1 {
		fr.reply = f[3]
	}
	return fr, true, nil
}

// write sends b whole. wait is called whenever a second has passed without
// progress; it returns an error to give up.
func (c *conn) write(b []byte, wait func() error) error {
	if c.dead != nil {
		return c.dead
	}
	for len(b) > 0 {
		if err := c.nc.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			c.dead = err
			return err
		}
		n, err := c.nc.Write(b)
		b = b[n:]
		if err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if err = wait(); err == nil {
				continue
			}
		}
		if errors.Is(err, io.ErrClosedPipe) {
			err = errStale
		}
		c.dead = err
		return err
	}
	return nil
}

// ask sends requests whole, or ends the connection at deadline.
func (c *conn) ask(b []byte, deadline time.Time) error {
	return c.write(b, func() error {
		if time.Now().After(deadline) {
			return errTimeout
		}
		return nil
	})
}

// answer is read for those that wait no longer than deadline; the connection ends
// with the first error, as what is not read any more would be in the way.
func (c *conn) answer(deadline time.Time) (frame, error) {
	f, err := c.read(deadline)
	if err == errWait {
		err = errTimeout
	}
	if err != nil {
		c.close()
	}
	return f, err
}

// request sends one request and returns a copy of its answer's payload.
// Header-only answers (no responders, batch ends) are an error.
func (c *conn) request(subject string, payload []byte, timeout time.Duration) ([]byte, error) {
	deadline := time.Now().Add(timeout)
	tok := c.token()
	b := make([]byte, 0, len(subject)+len(payload)+80)
	b = append(append(b, "PUB "...), subject...)
	b = append(append(append(append(b, ' '), c.inbox...), '.'), tok...)
	b = strconv.AppendInt(append(b, ' '), int64(len(payload)), 10)
	b = append(append(append(b, "\r\n"...), payload...), "\r\n"...)
	if err := c.ask(b, deadline); err != nil {
		return nil, fmt.Errorf("%s: %w", subject, err)
	}
	for {
		f, err := c.answer(deadline)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", subject, err)
		}
		if string(c.tokenOf(f)) != tok {
			continue // a late answer to a request that was given up
		}
		if status(f.header) == 503 {
			return nil, fmt.Errorf("%s: %w", subject, errNoResponder)
		}
		return append([]byte(nil), f.payload...), nil
	}
}

// tokenOf returns the token behind the inbox.
func (c *conn) tokenOf(f frame) []byte {
	if len(f.subject) <= len(c.inbox) {
		return nil
	}
	return f.subject[len(c.inbox)+1:]
}

var (
	errTimeout     = errors.New("the store did not answer in time")
	errNoResponder = errors.New("JetStream does not answer")
)

// status returns the code of a header's first line, "NATS/1.0 204 EOB"; 0
// where there is none.
func status(h []byte) int {
	const prefix = "NATS/1.0 "
	if len(h) < len(prefix)+3 || string(h[:len(prefix)]) != prefix {
		return 0
	}
	n, ok := number(h[len(prefix) : len(prefix)+3])
	if !ok {
		return 0
	}
	return int(n)
}

// number reads decimal digits; ok is false for anything else.
func number(b []byte) (n uint64, ok bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// dialURL connects to one server of an external cluster.
func dialURL(raw string, auth authenticator) (*conn, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	port := u.Port()
	if port == "" {
		port = "4222"
	}
	nc, err := net.DialTimeout("tcp", net.JoinHostPort(u.Hostname(), port), 5*time.Second)
	if err != nil {
		return nil, err
	}
	if auth == nil {
		pass, _ := u.User.Password()
		auth = password(u.User.Username(), pass)
	}
	c, err := handshake(nc, auth, u.Scheme == "tls", u.Hostname())
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}
