package control

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// flushEvery is how long a line may wait for others to be sent with it.
const flushEvery = 50 * time.Millisecond

// writeLimit is how long one write may take: a reader that has stopped reading
// must not hold a follower for ever.
const writeLimit = 10 * time.Second

// lines writes newline-delimited JSON and flushes it soon, not at every line.
type lines struct {
	w      http.ResponseWriter
	rc     *http.ResponseController
	cancel context.CancelFunc // called when the reader is gone

	mu    sync.Mutex // guards w and what follows
	buf   bytes.Buffer
	dirty bool
	sent  bool // the status line is out
	timer *time.Timer
	err   error
}

func newLines(w http.ResponseWriter, cancel context.CancelFunc) *lines {
	l := &lines{w: w, rc: http.NewResponseController(w), cancel: cancel}
	w.Header().Set("Content-Type", "application/x-ndjson")
	// The server's time limit of a request would end a tail that only reads.
	_ = l.rc.SetReadDeadline(time.Time{})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dirty = true
	l.timer = time.AfterFunc(flushEvery, l.flush) // the headers go out even when no event comes
	return l
}

func (l *lines) write(v any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.sent = true
	l.buf.Reset()
	e := json.NewEncoder(&l.buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	_ = l.rc.SetWriteDeadline(time.Now().Add(writeLimit))
	if _, l.err = l.w.Write(l.buf.Bytes()); l.err != nil {
		return l.err
	}
	if !l.dirty {
		l.dirty = true
		l.timer.Reset(flushEvery)
	}
	return nil
}

func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.dirty || l.err != nil {
		return
	}
	l.dirty, l.sent = false, true
	_ = l.rc.SetWriteDeadline(time.Now().Add(writeLimit))
	if l.err = l.rc.Flush(); l.err != nil {
		l.cancel()
	}
}

// fail reports err: as the last line where the answer has begun, else as the
// answer of the handler, by returning it.
func (l *lines) fail(err error) error {
	l.mu.Lock()
	begun := l.sent
	l.sent = true // no flush from here on
	if !begun {
		l.dirty = false
	}
	l.mu.Unlock()
	if !begun {
		return err
	}
	_ = l.write(&TailLine{Error: &ErrorInfo{Kind: errs.KindOf(err).String(), Message: errs.Text(err)}})
	return nil
}

// stop ends the flushing: w must not be touched after the handler's return.
func (l *lines) stop() {
	l.timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dirty = false
	if l.err == nil {
		l.err = http.ErrHandlerTimeout
	}
	_ = l.rc.SetWriteDeadline(time.Time{}) // for the next request of the connection
}

func encodeBase64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
