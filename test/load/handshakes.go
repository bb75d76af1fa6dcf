package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// handshakes connects over TLS with a client certificate, says CONNECT, waits
// for CONNACK, and leaves; again and again, each worker with a client id of its
// own. With a rate it holds that one.
func handshakes(s settings) error {
	config, err := s.device()
	if err != nil {
		return err
	}
	var counted atomic.Int64
	var counting atomic.Bool
	var lat histogram
	done := make(chan struct{})
	var turns chan struct{} // nil: as fast as it goes
	var workers sync.WaitGroup
	if s.rate > 0 {
		turns = make(chan struct{})
		workers.Go(func() {
			tick := time.NewTicker(time.Second / time.Duration(s.rate))
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-done:
					return
				}
				select {
				case turns <- struct{}{}:
				case <-done:
					return
				}
			}
		})
	}
	failed := make(chan error, s.publishers)
	for i := range s.publishers {
		workers.Go(func() {
			for {
				if turns != nil {
					select {
					case <-turns:
					case <-done:
						return
					}
				}
				select {
				case <-done:
					return
				default:
				}
				began := time.Now()
				if err := handshake(s.tlsAddr, config, fmt.Sprintf("load-%d", i)); err != nil {
					failed <- err
					return
				}
				if counting.Load() {
					counted.Add(1)
					lat.add(time.Since(began))
				}
			}
		})
	}
	time.Sleep(s.warmup)
	cpu, began := cpuTime(s.pid), time.Now()
	counting.Store(true)
	select {
	case err = <-failed:
	case <-time.After(s.duration):
	}
	counting.Store(false)
	took, used := time.Since(began), cpuTime(s.pid)-cpu
	close(done)
	workers.Wait()
	if err != nil {
		return err
	}
	n := counted.Load()
	fmt.Printf("%d at a time: %.0f handshakes/s with a client certificate, p50 %v, p99 %v", s.publishers, float64(n)/took.Seconds(), lat.quantile(0.50), lat.quantile(0.99))
	if s.pid > 0 && n > 0 {
		fmt.Printf(", %.0f µs server CPU each", float64(used.Microseconds())/float64(n))
	}
	fmt.Println()
	return nil
}

func handshake(addr string, config *tls.Config, id string) error {
	nc, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(nc, config)
	if err := greet(c, id); err != nil {
		return err
	}
	_, err = c.Write([]byte{0xe0, 0})
	return err
}
