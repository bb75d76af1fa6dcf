package eventlog

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// window is a Receipt that frees a slot for each event.
type window struct{ slots chan struct{} }

func (w *window) Appended(_ uint64, _ *event.Event, err error) {
	if err != nil {
		panic(err)
	}
	<-w.slots
}
func (w *window) Flush() {}

func benchEvent(i int) *event.Event {
	return &event.Event{
		Topic: topic.Name(benchTopics[i%len(benchTopics)]), Payload: benchPayload, QoS: 1,
		ClientID: "device-0007", Received: time.UnixMilli(1_780_000_000_000),
	}
}

var (
	benchPayload = make([]byte, 200)
	benchTopics  = func() (s [500]string) {
		for i := range s {
			s[i] = fmt.Sprintf("factory/a/device/%03d/telemetry", i)
		}
		return
	}()
)

// BenchmarkAppend reports the CPU of client and server, which are one process.
func BenchmarkAppend(b *testing.B) {
	for _, d := range []Durability{Disk, OS} {
		for _, n := range []int{1, 64, 512, 1600} {
			b.Run(fmt.Sprintf("%s/inflight=%d", []string{"disk", "os"}[d], n), func(b *testing.B) {
				reg := prometheus.NewRegistry()
				l := start(b, Options{Durability: d, Logger: discard(), Registerer: reg})
				w := &window{slots: make(chan struct{}, n)}
				ctx := context.Background()
				b.ReportAllocs()
				b.ResetTimer()
				c0 := cpu()
				for i := range b.N {
					w.slots <- struct{}{}
					if err := l.Append(ctx, benchEvent(i), w, 0); err != nil {
						b.Fatal(err)
					}
				}
				for range n {
					w.slots <- struct{}{}
				}
				b.StopTimer()
				b.ReportMetric(float64((cpu()-c0).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
				b.ReportMetric(float64(b.N)/commits(b, reg), "msg/commit")
			})
		}
	}
}

func commits(b *testing.B, reg *prometheus.Registry) float64 {
	all, err := reg.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range all {
		if m.GetName() == "weir_log_commits_total" {
			return m.GetMetric()[0].GetCounter().GetValue()
		}
	}
	b.Fatal("no such metric")
	return 0
}

func BenchmarkFollow(b *testing.B) {
	const n = 100_000
	l := start(b, Options{Durability: OS, Logger: discard()})
	w := &window{slots: make(chan struct{}, 1600)}
	for i := range n {
		w.slots <- struct{}{}
		if err := l.Append(context.Background(), benchEvent(i), w, 0); err != nil {
			b.Fatal(err)
		}
	}
	for range cap(w.slots) {
		w.slots <- struct{}{}
	}
	read := func(b *testing.B, o FollowOptions, max int) {
		b.ReportAllocs()
		c0, got := cpu(), 0
		for got < b.N {
			f, err := l.Follow(o)
			if err != nil {
				b.Fatal(err)
			}
			for got < b.N {
				batch, _, err := f.Next(context.Background(), max)
				if err == io.EOF {
					break
				}
				if err != nil {
					b.Fatal(err)
				}
				got += len(batch)
			}
			f.Close()
		}
		b.ReportMetric(float64((cpu()-c0).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
	}
	b.Run("stream", func(b *testing.B) {
		l.parts[0].ring.reset(n)
		read(b, FollowOptions{ToEnd: true}, 500)
	})
	b.Run("stream/one-of-500", func(b *testing.B) {
		l.parts[0].ring.reset(n)
		read(b, FollowOptions{ToEnd: true, Filters: []topic.Filter{topic.Filter(benchTopics[7])}}, 500)
	})
	b.Run("ring", func(b *testing.B) {
		var all []*event.Event
		for i := range ringEvents {
			e := benchEvent(i)
			e.Seq = uint64(n - ringEvents + i + 1)
			all = append(all, e)
		}
		l.parts[0].ring.push(all)
		read(b, FollowOptions{ToEnd: true, After: n - ringEvents/2}, 500)
	})
}
