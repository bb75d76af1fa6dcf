package main

import (
	"encoding/binary"
	"fmt"
	"log"
	"sync"
	"sync/atomic"
	"time"
)

// massReturn makes persistent sessions, publishes to each while they are away,
// and measures how fast they drain when all come back at once. Every message
// must come, in order; what comes twice must say so.
func massReturn(s settings) error {
	name := func(i int) string { return fmt.Sprintf("load-return-%d", i) }
	for i := range s.sessions {
		// A clean one first: what an earlier run has left would come too.
		for _, flags := range []byte{2, 0} {
			c, _, err := connect(s.addr, name(i), flags)
			if err != nil {
				return err
			}
			if flags == 0 {
				if err := c.subscribe(fmt.Sprintf("return/%d/#", i), 1); err != nil {
					return err
				}
			}
			c.c.Write([]byte{0xe0, 0})
			c.c.Close()
		}
	}
	before := resident(s.pid)
	ended := make(chan error, s.publishers)
	began := time.Now()
	for k := range s.publishers {
		p, err := dial(s.addr, fmt.Sprintf("load-%d", k))
		if err != nil {
			return err
		}
		// Each publisher has its own sessions, so that their messages keep order.
		var mine []int
		for i := k; i < s.sessions; i += s.publishers {
			mine = append(mine, i)
		}
		payload := make([]byte, 200)
		go func() {
			ended <- p.publish(s.window, false, nil, func(n int) (string, []byte) {
				if n >= len(mine)*s.messages {
					return "", nil
				}
				to, seq := n%len(mine), n/len(mine)
				if s.clumped {
					to, seq = n/s.messages, n%s.messages
				}
				binary.BigEndian.PutUint32(payload, uint32(seq))
				return fmt.Sprintf("return/%d/t", mine[to]), payload
			}, func(time.Duration) {})
		}()
	}
	for range s.publishers {
		if err := <-ended; err != nil {
			return err
		}
	}
	all := s.sessions * s.messages
	fmt.Printf("%d sessions missed %d messages each, published in %v", s.sessions, s.messages, time.Since(began).Round(time.Millisecond))
	if s.pid > 0 {
		fmt.Printf("; %d bytes of memory a queued message", (resident(s.pid)-before)/int64(all))
	}
	fmt.Println()

	var got, dups, lost, absent atomic.Int64
	var wg sync.WaitGroup
	cpu := cpuTime(s.pid)
	began = time.Now()
	connecting := make(chan struct{}, 100) // a server bounds who has not logged in
	for i := range s.sessions {
		connecting <- struct{}{}
		wg.Go(func() {
			c, present, err := connect(s.addr, name(i), 0)
			<-connecting
			if err != nil || !present {
				log.Printf("%s: a session is there: %v, error: %v", name(i), present, err)
				absent.Add(1)
				return
			}
			defer c.c.Close()
			c.c.SetReadDeadline(time.Now().Add(s.duration * 10))
			next := 0
			c.take(func(dup bool, payload []byte) bool {
				switch seq := int(binary.BigEndian.Uint32(payload)); {
				case seq == next:
					next++
					got.Add(1)
				case seq < next && dup:
					dups.Add(1)
				default:
					lost.Add(1)
					return false
				}
				return next < s.messages
			})
		})
	}
	connected := time.Since(began)
	wg.Wait()
	took, used := time.Since(began), cpuTime(s.pid)-cpu
	fmt.Printf("%d of %d drained in %v, of them %v for connecting: %.0f messages/s, %d marked as duplicates", got.Load(), all, took.Round(time.Millisecond), connected.Round(time.Millisecond), float64(got.Load())/took.Seconds(), dups.Load())
	report(s.pid, used, got.Load())
	if got.Load() != int64(all) {
		return fmt.Errorf("%d missing; %d sessions had a gap, a reordering or an unmarked duplicate; %d were not there", int64(all)-got.Load(), lost.Load(), absent.Load())
	}
	return nil
}
