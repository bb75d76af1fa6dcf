package kv

import (
	"context"
	"fmt"
	"testing"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
)

func open(t testing.TB, dir string, c Config) (*Bucket, func()) {
	t.Helper()
	l, err := eventlog.Open(t.Context(), eventlog.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	b, err := Open(t.Context(), l, c)
	if err != nil {
		t.Fatal(err)
	}
	return b, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestUpdateComparesAndSets(t *testing.T) {
	b, stop := open(t, t.TempDir(), Config{Name: "x"})
	defer stop()
	ctx := t.Context()
	if _, err := b.Get(ctx, "a:b"); !errs.Is(err, errs.NotFound) {
		t.Fatal(err)
	}
	r1, err := b.Update(ctx, "a:b", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Update(ctx, "a:b", []byte("x"), 0); !errs.Is(err, errs.Conflict) {
		t.Fatal(err)
	}
	r2, err := b.Update(ctx, "a:b", nil, r1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(ctx, "a:b"); !errs.Is(err, errs.NotFound) {
		t.Fatal(err)
	}
	r3, err := b.Update(ctx, "a:b", []byte("3"), 0)
	if err != nil || r3 <= r2 {
		t.Fatal(r3, err)
	}
	e, err := b.Get(ctx, "a:b")
	if err != nil || string(e.Value) != "3" || e.Revision != r3 || e.Key != "a:b" {
		t.Fatalf("%+v %v", e, err)
	}
	var changes []Change
	for i := range 40 {
		changes = append(changes, Change{Key: fmt.Sprintf("k.%02d", i), Value: []byte("v")})
	}
	changes = append(changes, Change{Key: "a:b", Value: []byte("4"), Expected: r3})
	if _, err := b.Commit(ctx, changes); err != nil {
		t.Fatal(err)
	}
	changes[0].Any = true
	if _, err := b.Commit(ctx, changes); !errs.Is(err, errs.Conflict) {
		t.Fatal(err)
	}
	n := 0
	if err := b.Scan(ctx, "k.", func(e Entry) error { n++; return nil }); err != nil || n != 40 {
		t.Fatal(n, err)
	}
}
