package functions_test

import (
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/actions/actiontest"
	"github.com/weir-iot/weir/functions"
)

// percentiles reports the median and the 99th percentile of single calls.
func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
}

func measure(b *testing.B, s *functions.Service, name string, payload []byte) {
	b.Helper()
	if _, err := s.Invoke(b.Context(), name, payload); err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	spent := actiontest.CPU(b)
	for b.Loop() {
		at := time.Now()
		if _, err := s.Invoke(b.Context(), name, payload); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(at))
	}
	spent(len(took))
	percentiles(b, took)
}

func BenchmarkWarm(b *testing.B) {
	s, _ := open(b, nil)
	b.Run("wasm", func(b *testing.B) {
		deploy(b, s, "echo", functions.Config{Runtime: "wasm"}, zipped(b, file{"main.wasm", string(module(1, "")), 0o644}))
		measure(b, s, "echo", []byte(`{"n":1}`))
	})
	b.Run("wasm-go", func(b *testing.B) {
		deploy(b, s, "level", functions.Config{Runtime: "wasm"}, wasmFunction(b))
		measure(b, s, "level", []byte(`{"level":1}`))
	})
	b.Run("provided", func(b *testing.B) {
		deploy(b, s, "celsius", functions.Config{Runtime: "provided"}, goFunction(b))
		measure(b, s, "celsius", []byte(`{"fahrenheit":1}`))
	})
}

// BenchmarkRate is many calls at a time; each b.N is one.
func BenchmarkRate(b *testing.B) {
	s, _ := open(b, nil)
	deploy(b, s, "celsius", functions.Config{Runtime: "provided", Concurrency: 8}, goFunction(b))
	deploy(b, s, "echo", functions.Config{Runtime: "wasm", Concurrency: 8}, zipped(b, file{"main.wasm", string(module(1, "")), 0o644}))
	for _, name := range []string{"celsius", "echo"} {
		b.Run(name, func(b *testing.B) {
			var wg sync.WaitGroup
			n := make(chan struct{}, 64)
			for range 8 {
				wg.Go(func() {
					for range n {
						if _, err := s.Invoke(b.Context(), name, []byte(`{"fahrenheit":1}`)); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for range 200 { // all environments are warm
				n <- struct{}{}
			}
			for b.Loop() {
				n <- struct{}{}
			}
			close(n)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

// BenchmarkCold has an environment made for each call.
func BenchmarkCold(b *testing.B) {
	s, _ := open(b, func(o *functions.Options) { o.Idle = time.Nanosecond })
	deploy(b, s, "celsius", functions.Config{Runtime: "provided"}, goFunction(b))
	b.Run("provided", func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			at := time.Now()
			if _, err := s.Invoke(b.Context(), "celsius", []byte(`{"fahrenheit":1}`)); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(at))
			b.StopTimer()
			for s.Environments() > 0 {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(100 * time.Millisecond) // starts that follow at once are another thing
			b.StartTimer()
		}
		percentiles(b, took)
	})
	// A Service of its own each time: only what the disk has is warm.
	dir := b.TempDir()
	w, end := openAt(b, dir, nil)
	deploy(b, w, "echo", functions.Config{Runtime: "wasm"}, zipped(b, file{"main.wasm", string(module(1, "")), 0o644}))
	deploy(b, w, "level", functions.Config{Runtime: "wasm"}, wasmFunction(b))
	for _, name := range []string{"echo", "level"} {
		if _, err := w.Invoke(b.Context(), name, []byte(`{}`)); err != nil {
			b.Fatal(err)
		}
	}
	end()
	if list, _ := filepath.Glob(filepath.Join(dir, "functions", "wasm", "*")); len(list) == 0 {
		b.Error("no compilation is kept")
	}
	for _, name := range []string{"echo", "level"} {
		b.Run("wasm/"+name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				b.StopTimer()
				s, end := openAt(b, dir, nil)
				b.StartTimer()
				at := time.Now()
				if _, err := s.Invoke(b.Context(), name, []byte(`{}`)); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(at))
				b.StopTimer()
				end()
				b.StartTimer()
			}
			percentiles(b, took)
		})
	}
}
