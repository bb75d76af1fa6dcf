package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestSecretsStayOutOfTheLog(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var b bytes.Buffer
		l, err := NewLogger(&b, "info", format)
		if err != nil {
			t.Fatal(err)
		}
		l.With("Authorization", "Bearer hunter2").Info("request",
			"admin_token", "hunter2", "value", Secret("hunter2"),
			slog.Group("mqtt", "password", "hunter2", "client", "c1"), "empty_password", "")
		l.Debug("not shown")
		out := b.String() + fmt.Sprintf("%v %s %#v", Secret("hunter2"), Secret("hunter2"), Secret("hunter2"))
		if strings.Contains(out, "hunter2") || !strings.Contains(out, Redacted) || !strings.Contains(out, "c1") || strings.Contains(out, "not shown") {
			t.Errorf("%s: %s", format, out)
		}
	}
}

func TestUnknownLevelAndFormat(t *testing.T) {
	if _, err := NewLogger(nil, "loud", "text"); err == nil {
		t.Error("level loud")
	}
	if _, err := NewLogger(nil, "info", "xml"); err == nil {
		t.Error("format xml")
	}
}

func TestHealth(t *testing.T) {
	var err error
	h := Health(func(context.Context) error { return err })
	for _, want := range []int{http.StatusOK, http.StatusServiceUnavailable} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
		if w.Code != want || err != nil && !strings.Contains(w.Body.String(), err.Error()) {
			t.Errorf("%d %s, want %d", w.Code, w.Body, want)
		}
		err = errors.New("log is reopening")
	}
}

func TestMetrics(t *testing.T) {
	w := httptest.NewRecorder()
	Metrics(NewRegistry("v1"), slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`weir_build_info{goversion="go`, "go_goroutines", "process_resident_memory_bytes"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s", want)
		}
	}
}
