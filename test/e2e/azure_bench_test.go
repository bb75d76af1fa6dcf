package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/weirtest"
)

// What the dialect adds to a QoS 1 publish: the server's CPU time a message, in a
// process of its own, for telemetry of Azure devices, without properties and with
// four that change, and for plain publishes with the same topic on the log and the
// same payload, over the same TLS listener. They take turns; the figures are
// medians.
//
//	go test -run '^$' -bench AzureTelemetry -benchtime 1x ./test/e2e
func BenchmarkAzureTelemetry(b *testing.B) {
	const devices, window, slice, rounds = 20, 32, 1500 * time.Millisecond, 6
	w := weirtest.Process(b)
	h := newHub(b, w)
	payload := []byte(`{"t": 21.5, "pad": "` + strings.Repeat("x", 180) + `"}`)
	type side struct {
		name  string
		bag   func(n int) string
		conns []*mqttclient.Client
		cost  []time.Duration
	}
	sides := []*side{
		{name: "plain", bag: func(int) string { return "" }},
		{name: "azure", bag: func(int) string { return "/" }},
		{name: "azure-properties", bag: func(n int) string { return fmt.Sprint("/%24.ct=application%2Fjson&%24.ce=utf-8&level=3&n=", n) }},
	}
	for i := range devices {
		plain := mqttclient.Options{Addr: h.options("x", "AAAA").Addr, TLS: w.TLS(), ClientID: fmt.Sprint("p", i), Version: 4, Window: window}
		sides[0].conns = append(sides[0].conns, w.Connect(plain))
		id := fmt.Sprint("d", i)
		o := h.options(id, h.device(id))
		o.Window = window
		c := w.Connect(o)
		sides[1].conns, sides[2].conns = append(sides[1].conns, c), append(sides[2].conns, c)
	}
	run := func(s *side) time.Duration {
		var n atomic.Int64
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(b.Context(), slice)
		defer cancel()
		began := processCPU(b, w.Endpoints().PID)
		for i, c := range s.conns {
			wg.Go(func() {
				var acked sync.WaitGroup
				for k := 0; ctx.Err() == nil; k++ {
					m := &mqttclient.Message{Topic: fmt.Sprintf("devices/d%d/messages/events", i) + s.bag(k), Payload: payload, QoS: 1}
					acked.Add(1)
					err := c.PublishAsync(ctx, m, func(err error) {
						if err != nil {
							b.Error(err)
						}
						n.Add(1)
						acked.Done()
					})
					if err != nil {
						acked.Done()
						if !errors.Is(err, context.DeadlineExceeded) {
							b.Error(err)
						}
						break
					}
				}
				acked.Wait()
			})
		}
		wg.Wait()
		return (processCPU(b, w.Endpoints().PID) - began) / time.Duration(max(n.Load(), 1))
	}
	for b.Loop() {
		for range rounds {
			for _, s := range sides {
				s.cost = append(s.cost, run(s))
			}
		}
	}
	median := func(s *side) float64 {
		slices.Sort(s.cost)
		return float64(s.cost[len(s.cost)/2]) / 1000
	}
	base := median(sides[0])
	for _, s := range sides {
		b.ReportMetric(median(s), s.name+"-µs/msg")
	}
	b.ReportMetric(median(sides[1])-base, "extra-µs/msg")
	b.ReportMetric(median(sides[2])-base, "extra-properties-µs/msg")
	b.ReportMetric(0, "ns/op")
}

// processCPU returns the CPU time a process has used.
func processCPU(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skip("no /proc")
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	ticks := int64(0)
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
