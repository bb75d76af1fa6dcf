package main

import (
	"bytes"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"
)

// shadow updates shadows at a steady rate and measures from the write of an update
// to the receipt of its answer on …/update/accepted.
func shadow(s settings) error {
	var lat histogram
	var counting atomic.Bool
	var got, refused atomic.Int64
	sub, err := dial(s.addr, "load-subscriber")
	if err != nil {
		return err
	}
	for _, f := range []string{"$aws/things/+/shadow/update/accepted", "$aws/things/+/shadow/update/rejected"} {
		if err := sub.subscribe(f, 0); err != nil {
			return err
		}
	}
	token := []byte(`"clientToken":"`)
	go sub.receive(func(payload []byte) {
		if !counting.Load() {
			return
		}
		i := bytes.LastIndex(payload, token)
		if i < 0 || bytes.HasPrefix(payload, []byte(`{"code"`)) {
			refused.Add(1)
			return
		}
		rest := payload[i+len(token):]
		at, err := strconv.ParseInt(string(rest[:bytes.IndexByte(rest, '"')]), 36, 64)
		if err != nil {
			refused.Add(1)
			return
		}
		lat.add(time.Duration(time.Now().UnixNano() - at))
		got.Add(1)
	})
	done := make(chan struct{})
	ended := make(chan error, s.publishers)
	began := time.Now()
	for i := range s.publishers {
		p, err := dial(s.addr, fmt.Sprintf("load-%d", i))
		if err != nil {
			return err
		}
		go func() {
			ended <- p.publish(s.window, true, done, func(n int) (string, []byte) {
				// Each publisher keeps to its own part of the rate, between the others.
				due := began.Add(time.Duration(n*s.publishers+i) * time.Second / time.Duration(s.rate))
				time.Sleep(time.Until(due))
				thing := i + s.publishers*(n%max(1, s.things/s.publishers))
				return fmt.Sprintf("$aws/things/load-%d/shadow/update", thing),
					fmt.Appendf(nil, `{"state":{"reported":{"temperature":%d.%d,"humidity":63.2,"battery":87,"location":{"lat":47.61,"lon":-122.33},"fw":"2.7.14-r3"}},"clientToken":"%s"}`,
						n%190, n%10, strconv.FormatInt(time.Now().UnixNano(), 36))
			}, func(time.Duration) {})
		}()
	}
	time.Sleep(s.warmup)
	cpu := cpuTime(s.pid)
	from := time.Now()
	counting.Store(true)
	time.Sleep(s.duration)
	counting.Store(false)
	took, used := time.Since(from), cpuTime(s.pid)-cpu
	close(done)
	for range s.publishers {
		if err := <-ended; err != nil {
			return err
		}
	}
	n := got.Load()
	fmt.Printf("%d things, %d updates/s asked: %.0f accepted/s, p50 %v, p99 %v, %d refused", s.things, s.rate, float64(n)/took.Seconds(), lat.quantile(0.50), lat.quantile(0.99), refused.Load())
	report(s.pid, used, n)
	return nil
}
