package eventlog

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/internal/errs"
)

func TestAFullQueueHoldsPublishersBack(t *testing.T) {
	l, err := Open(t.Context(), Options{Dir: t.TempDir(), Durability: OS}) // nothing runs: the queue only fills
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	b := newBook(queueEvents)
	for ; n < queueEvents; n++ {
		if err := l.Append(t.Context(), ev("a", n), b, uint64(n)); err != nil {
			t.Fatalf("%d queued, %v", n, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Append(ctx, ev("a", n), b, uint64(n)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the queue is full: %v", err)
	}
	// Once the log runs, a blocked publisher goes on.
	blocked := make(chan error, 1)
	go func() { blocked <- l.Append(context.Background(), ev("a", n), nil, 0) }()
	run, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(run) }()
	b.wait(t)
	if err := <-blocked; err != nil {
		t.Error(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := l.Append(t.Context(), ev("a", n), nil, 0); !errs.Is(err, errs.Unavailable) {
		t.Errorf("after the end: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// Who has ended while it waited, or before, appends nothing any more.
func TestNothingIsAppendedForWhoHasEnded(t *testing.T) {
	l, stop := open(t, Options{})
	defer stop()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Append(ctx, ev("a", 1), nil, 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestReceiptsTellEveryEventOnceAfterTheLogEnds(t *testing.T) {
	l, stop := open(t, Options{})
	const n = 5000
	b := newBook(n)
	for i := range n {
		if err := l.Append(t.Context(), ev("a", i), b, uint64(i)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	b.wait(t)
	failed := false
	for i := range n {
		if b.tokens[i] != uint64(i) {
			t.Fatalf("receipt %d is of %d", i, b.tokens[i])
		}
		if b.errs[i] != nil {
			failed = true
		} else if failed {
			t.Fatalf("%d was stored behind a failure", i)
		}
	}
}

func TestTooLargeAmongGoodOnes(t *testing.T) {
	l := start(t, Options{})
	const n = 100
	good, bad := newBook(n), newBook(n)
	for i := range n {
		if err := l.Append(t.Context(), ev("good", i), good, uint64(i)); err != nil {
			t.Fatal(err)
		}
		e := ev("bad", i)
		if i == 50 {
			e.Payload = make([]byte, MaxPayload+1)
		}
		if err := l.Append(t.Context(), e, bad, uint64(i)); err != nil {
			t.Fatal(err)
		}
	}
	good.wait(t)
	bad.wait(t)
	for i := range n {
		if good.errs[i] != nil {
			t.Fatalf("good %d: %v", i, good.errs[i])
		}
		if i < 50 && bad.errs[i] != nil || i == 50 && !errs.Is(bad.errs[i], errs.TooLarge) {
			t.Fatalf("bad %d: %v", i, bad.errs[i])
		}
	}
	// A payload of just the limit passes.
	e := ev("max", 0)
	e.Payload = make([]byte, MaxPayload)
	if err := l.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

func TestByteLimit(t *testing.T) {
	const limit = 2 << 20
	l := start(t, Options{MaxBytes: limit, MaxAge: time.Hour})
	stored := 0
	for i := range 1000 {
		e := ev("a", i)
		e.Payload = make([]byte, 10_000)
		err := l.Publish(t.Context(), e)
		if errs.Is(err, errs.Quota) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		stored++
	}
	st, err := l.store.State("EVENTS-0")
	if err != nil {
		t.Fatal(err)
	}
	if st.Bytes > limit || st.Bytes < limit*9/10 || st.Messages != uint64(stored) {
		t.Fatalf("%d bytes in %d events, %d acknowledged", st.Bytes, st.Messages, stored)
	}
	// A whole batch beyond the limit fails, and trimming makes room again.
	b := newBook(200)
	for i := range 200 {
		e := ev("a", i)
		e.Payload = make([]byte, 10_000)
		if err := l.Append(t.Context(), e, b, uint64(i)); err != nil {
			t.Fatal(err)
		}
	}
	b.wait(t)
	for i, err := range b.errs {
		if !errs.Is(err, errs.Quota) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if err := l.parts[0].trim(time.Now().Add(2 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := l.Publish(t.Context(), ev("a", 1))
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("after trimming:", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestSubjectLimit(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, Durability: OS, MaxSubjects: 100, MaxAge: time.Hour, Registerer: prometheus.NewRegistry()}
	l, stop := open(t, o)
	for i := range 100 {
		if err := l.Publish(t.Context(), ev(fmt.Sprint("a/", i), i)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(l *Log) {
		t.Helper()
		if err := l.Publish(t.Context(), ev("new", 0)); !errs.Is(err, errs.Quota) {
			t.Fatalf("a new topic: %v", err)
		}
		if err := l.Publish(t.Context(), ev("a/7", 0)); err != nil {
			t.Fatalf("a known topic: %v", err)
		}
	}
	check(l)
	stop()
	o.Registerer = prometheus.NewRegistry()
	l = start(t, o)
	check(l)
	if err := l.parts[0].trim(time.Now().Add(2 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := l.Publish(t.Context(), ev("new", 0))
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("after trimming:", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
