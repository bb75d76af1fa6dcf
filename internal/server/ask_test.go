package server

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/test/natstest"
)

// Whatever another process sends is a message or refused, never more.
func FuzzUnframe(f *testing.F) {
	good, err := frame(question{Operation: "call", Args: json.RawMessage(`{"a":1}`), Within: 5}, []byte("body"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, '{', '}'})
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var q question
		body, err := unframe(b, &q)
		if err != nil {
			return
		}
		again, err := frame(q, body)
		if err != nil {
			t.Fatal(err)
		}
		var q2 question
		body2, err := unframe(again, &q2)
		if err != nil || !bytes.Equal(body, body2) || q2.Operation != q.Operation || q2.Within != q.Within {
			t.Fatalf("%q: %+v, then %+v %v", b, q, q2, err)
		}
	})
}

// An answer, an error with its kind, one that is too long, one that comes too
// late, and nobody.
func TestAsk(t *testing.T) {
	url := natstest.Start(t).URL()
	connect := func() *services {
		nc, err := nats.Connect(url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return &services{s: &Server{logger: slog.New(slog.NewTextHandler(io.Discard, nil))}, nc: nc}
	}
	asks, answers := connect(), connect()
	run := &answering{v: answers, ctx: t.Context()}
	err := run.add("weir-test", "A test", false, map[string]micro.Handler{"weir.test.ask": run.endpoint(func(ctx context.Context, q *question, body []byte) (any, []byte, error) {
		switch q.Operation {
		case "echo":
			return q.Args, body, nil
		case "long":
			return nil, make([]byte, 3<<20), nil
		case "late":
			<-ctx.Done()
			return nil, nil, errSilent
		}
		return nil, nil, errs.Errorf("test", errs.Conflict, "no %s", q.Operation)
	})})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(operation string, body []byte) (answer string, out []byte, err error) {
		ctx := t.Context()
		if operation == "late" {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
		}
		out, err = asks.ask(ctx, "the test", "weir.test.ask", question{Operation: operation}, "a\nb", body, &answer)
		return answer, out, err
	}
	if a, out, err := ask("echo", []byte("body\x00")); err != nil || a != "a\nb" || string(out) != "body\x00" {
		t.Errorf("%q %q %v", a, out, err)
	}
	for operation, want := range map[string]struct {
		kind errs.Kind
		text string
	}{
		"unknown": {errs.Conflict, "no unknown"}, "long": {errs.TooLarge, "max_payload"}, "late": {errs.Timeout, "the test did not answer in time"},
	} {
		if _, _, err := ask(operation, nil); !errs.Is(err, want.kind) || !strings.Contains(errs.Text(err), want.text) {
			t.Errorf("%s: %v", operation, err)
		}
	}
	if _, _, err := ask("echo", make([]byte, 3<<20)); !errs.Is(err, errs.TooLarge) {
		t.Error(err)
	}
	if err := run.stop(); err != nil {
		t.Error(err)
	}
	if _, _, err := ask("echo", nil); !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "no process is there for the test") {
		t.Error(err)
	}
}

// Who is asked may take its time as long as it says so; one that is gone is not
// waited for.
func TestAskedForLong(t *testing.T) {
	t.Parallel()
	nc, err := nats.Connect(natstest.Start(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	v := &services{s: &Server{logger: slog.New(slog.DiscardHandler)}, nc: nc}
	run := &answering{v: v, ctx: t.Context()}
	err = run.add("weir-test", "A test", false, map[string]micro.Handler{"weir.test.ask": run.endpoint(func(context.Context, *question, []byte) (any, []byte, error) {
		time.Sleep(2*workingEvery + workingEvery/2)
		return nil, []byte("done"), nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := v.ask(t.Context(), "the test", "weir.test.ask", question{}, nil, nil, nil); err != nil || string(out) != "done" {
		t.Errorf("%q %v", out, err)
	}
	if err := run.stop(); err != nil {
		t.Error(err)
	}
	if _, err := nc.Subscribe("weir.test.gone", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*silence)
	defer cancel()
	_, err = v.ask(ctx, "the test", "weir.test.gone", question{}, nil, nil, nil)
	if !errs.Is(err, errs.Timeout) || !strings.Contains(errs.Text(err), "has not been heard of") {
		t.Error(err)
	}
}
