package kv

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/test/natstest"
)

// Several processes count up the same keys by compare-and-set: no count is lost,
// each sees at once what another was confirmed, and all watchers see every key
// grow to the end.
func TestSeveralProcesses(t *testing.T) {
	for name, url := range map[string]func() string{
		"one server": func() string { return natstest.Start(t).URL() },
		"three": func() string {
			if testing.Short() {
				t.Skip("a cluster takes a while to form")
			}
			return natstest.StartCluster(t).URL()
		},
	} {
		t.Run(name, func(t *testing.T) {
			const processes, rounds, keys = 3, 15, 3
			url := url()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var buckets []*Bucket
			for range processes {
				b, _ := open(t, eventlog.Options{URL: url}, Config{Name: "shared"})
				buckets = append(buckets, b)
			}
			var writers, watchers sync.WaitGroup
			for _, b := range buckets {
				watchers.Go(func() {
					ctx, done := context.WithCancel(ctx)
					defer done()
					last, finished := map[string]int{}, 0
					err := b.Watch(ctx, "", func(e Entry) {
						if e.Key == "" {
							return
						}
						n, err := strconv.Atoi(string(e.Value))
						if err != nil || n <= last[e.Key] {
							t.Errorf("%s is %q after %d", e.Key, e.Value, last[e.Key])
						}
						if last[e.Key] = n; n == processes*rounds {
							if finished++; finished == keys {
								done()
							}
						}
					})
					if err != nil || finished != keys {
						t.Errorf("watch: %v, %d of %d keys seen to their end", err, finished, keys)
					}
				})
				writers.Go(func() {
					for i := range rounds * keys {
						key := fmt.Sprint("k", i%keys)
						for {
							e, err := b.Get(ctx, key)
							if err != nil && !errs.Is(err, errs.NotFound) {
								t.Error(err)
								return
							}
							n, _ := strconv.Atoi(string(e.Value))
							rev, err := b.Update(ctx, key, []byte(strconv.Itoa(n+1)), e.Revision)
							if errs.Is(err, errs.Conflict) {
								continue
							}
							if err != nil {
								t.Error(err)
								return
							}
							for _, other := range buckets {
								if g, err := other.Get(ctx, key); err != nil || g.Revision < rev {
									t.Errorf("another process has revision %d of %s, %v; confirmed is %d", g.Revision, key, err, rev)
									return
								}
							}
							break
						}
					}
				})
			}
			writers.Wait()
			watchers.Wait()
		})
	}
}

// A change by a process that is killed before it can say so is seen all the
// same.
func TestAChangeNobodyAnnounces(t *testing.T) {
	srv := natstest.Start(t)
	b, _ := open(t, eventlog.Options{URL: srv.URL()}, Config{Name: "shared"})
	if _, err := b.Update(t.Context(), "a", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Request("$KV.shared.a", []byte("2"), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if e, err := b.Get(t.Context(), "a"); err != nil || string(e.Value) != "2" || time.Since(began) > 5*time.Second {
		t.Errorf("%q %v after %v", e.Value, err, time.Since(began))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var last string
	ready := make(chan struct{})
	watched := make(chan error, 1)
	go func() {
		watched <- b.Watch(ctx, "", func(e Entry) {
			if e.Key == "" {
				close(ready)
			}
			if last = string(e.Value); last == "3" {
				cancel()
			}
		})
	}()
	<-ready
	if _, err := nc.Request("$KV.shared.a", []byte("3"), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := <-watched; err != nil || last != "3" {
		t.Errorf("%v, the watcher's last value is %q", err, last)
	}
}
