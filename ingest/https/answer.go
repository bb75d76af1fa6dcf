package https

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/weir-iot/weir/internal/errs"
)

// fail answers an error as AWS does.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, kind, text := http.StatusInternalServerError, "InternalFailureException", "Internal failure"
	switch errs.KindOf(err) {
	case errs.Invalid:
		status, kind, text = http.StatusBadRequest, "InvalidRequestException", errs.Text(err)
	case errs.Unauthorized, errs.Forbidden:
		status, kind, text = http.StatusForbidden, "ForbiddenException", errs.Text(err)
	case errs.TooLarge:
		status, kind, text = http.StatusRequestEntityTooLarge, "RequestEntityTooLargeException", errs.Text(err)
	case errs.Quota:
		status, kind, text = http.StatusTooManyRequests, "ThrottlingException", errs.Text(err)
	case errs.Unavailable, errs.Timeout:
		status, kind, text = http.StatusServiceUnavailable, "ServiceUnavailableException", "Service unavailable"
	}
	// Some errors bring AWS's name for them.
	var named interface{ AWSCode() string }
	if status == http.StatusForbidden && errors.As(err, &named) {
		kind = named.AWSCode()
	}
	id := traceID()
	if status >= 500 {
		s.o.Logger.Error("publish failed", "error", err, "traceId", id)
	} else {
		s.o.Logger.Debug("publish refused", "error", err, "remote", r.RemoteAddr, "traceId", id)
	}
	if status == http.StatusRequestEntityTooLarge || status == http.StatusForbidden {
		w.Header().Set("Connection", "close")
	}
	s.answer(w, status, kind, text, id)
}

func (s *Server) answer(w http.ResponseWriter, status int, kind, message, id string) {
	s.requests.WithLabelValues(strconv.Itoa(status)).Inc()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Amzn-RequestId", id)
	if kind != "" {
		h.Set("X-Amzn-ErrorType", kind)
	}
	b, err := json.Marshal(struct {
		Message string `json:"message"`
		TraceID string `json:"traceId"`
	}{message, id})
	if err != nil {
		b = []byte("{}")
	}
	w.WriteHeader(status)
	w.Write(b)
}

// traceID returns a random id, for answers that have no message.
func traceID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&15|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
