package install

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/actiontest"
	webhook "github.com/weir-iot/weir/actions/http"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

type confirmed struct{}

func (confirmed) Confirm(context.Context, string) error         { return nil }
func (confirmed) Enabled(context.Context, string) (bool, error) { return true, nil }

func maker(t *testing.T) (*actions.Maker, *eval.Program) {
	stmt, err := sql.Parse("SELECT * FROM 'a/#'")
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := eval.Compile(stmt, eval.Options{Version: "2016-03-23", RuleName: "r", AccountID: "123456789012"})
	if err != nil {
		t.Fatal(err)
	}
	env := actiontest.Env(t, "")
	env.AllowPrivate, env.Destinations = true, confirmed{}
	env.Publish = func(context.Context, *event.Event) error { return nil }
	env.AWS = func(context.Context) (aws.Config, error) { return aws.Config{}, nil }
	return &actions.Maker{Kinds: Kinds(), Env: env}, p
}

// What the class of an action's error makes of the number of requests; each
// carries the same id.
func TestTriesOfAWebhook(t *testing.T) {
	for status, want := range map[int]int{200: 1, 404: 1, 302: 1, 500: 3, 503: 3, 429: 3} {
		var mu sync.Mutex
		ids := map[string]int{}
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			mu.Lock()
			ids[r.Header.Get(webhook.HeaderMessageID)]++
			mu.Unlock()
			w.Header().Set("Retry-After", "0")
			w.Header().Set("Location", "http://127.0.0.1/")
			w.WriteHeader(status)
		}))
		m, p := maker(t)
		r := actiontest.Result(1)
		err := m.Deliver(t.Context(), actions.Plan{Rule: "r", Program: p, Kind: "http", Params: json.RawMessage(`{"url":"` + srv.URL + `"}`)}, r)
		srv.Close()
		if (err == nil) != (status == 200) || len(ids) != 1 || ids[r.ID.String()] != want {
			t.Errorf("status %d: %v, requests by id %v", status, err, ids)
		}
	}
}

func TestMistakesPointIntoTheRule(t *testing.T) {
	for _, c := range []struct{ kind, params, path, text string }{
		{"S3", `{}`, "", `"s3"`},
		{"dynamodb", `{}`, "", "dynamoDB"},
		{"s3", `{"bucketName":"b-1","kye":"x"}`, "kye", `"key"`},
		{"s3", `{"bucketName":"b-1","key":"${topic(}"}`, "key", ""},
		{"republish", `{"topic":"a/${nope()}"}`, "topic", "nope"},
		{"http", `{"url":"https://a.example/${nope()}","confirmationUrl":"https://a.example"}`, "url", "nope"},
	} {
		m, p := maker(t)
		err := m.Check(t.Context(), "r", p, c.kind, json.RawMessage(c.params), false)
		var fe *actions.FieldError
		if !errors.As(err, &fe) || strings.Join(fe.Path, ".") != c.path || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s %s: %v", c.kind, c.params, err)
		} else if strings.Contains(c.params, "${") && fe.Offset < 0 {
			t.Errorf("%s: no place: %#v", c.params, fe)
		}
	}
}

type counting struct {
	confirmed
	asked int
}

func (c *counting) Confirm(context.Context, string) error { c.asked++; return nil }

// Checking a rule tells nobody; making its lane asks the web server.
func TestCheckAsksNobody(t *testing.T) {
	m, p := maker(t)
	c := &counting{}
	m.Env.Destinations = c
	params := json.RawMessage(`{"url":"https://a.example/x"}`)
	if err := m.Check(t.Context(), "r", p, "http", params, false); err != nil || c.asked != 0 {
		t.Errorf("asked %d times, %v", c.asked, err)
	}
	if _, err := m.NewLane(t.Context(), actions.Plan{Rule: "r", Program: p, Kind: "http", Params: params}); err != nil || c.asked != 1 {
		t.Errorf("asked %d times, %v", c.asked, err)
	}
}
