package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// fanout publishes to many subscribers of one topic, as fast as they take it, at
// each QoS, and measures the CPU of a delivery.
func fanout(s settings) error {
	for _, qos := range []byte{0, 1} {
		if err := fanoutAt(s, qos); err != nil {
			return err
		}
	}
	return nil
}

func fanoutAt(s settings, qos byte) error {
	var got atomic.Int64
	var subs []*client
	for i := range s.subscribers {
		c, err := dial(s.addr, fmt.Sprintf("load-sub-%d", i))
		if err != nil {
			return err
		}
		if err := c.subscribe("fan/out", qos); err != nil {
			return err
		}
		subs = append(subs, c)
		go c.receive(func([]byte) { got.Add(1) })
	}
	p, err := dial(s.addr, "load-publisher")
	if err != nil {
		return err
	}
	payload := make([]byte, 200)
	var sent atomic.Int64
	done := make(chan struct{})
	var cpu time.Duration
	var first int64
	var from time.Time
	time.AfterFunc(s.warmup, func() { cpu, first, from = cpuTime(s.pid), got.Load(), time.Now() })
	var used time.Duration
	var counted int64
	var took time.Duration
	time.AfterFunc(s.warmup+s.duration, func() {
		used, counted, took = cpuTime(s.pid)-cpu, got.Load()-first, time.Since(from)
		close(done)
	})
	err = p.publish(s.window, true, done, func(int) (string, []byte) {
		// No socket fills up: what is dropped is not measured.
		for sent.Load()*int64(s.subscribers)-got.Load() > int64(s.subscribers)*20 {
			time.Sleep(100 * time.Microsecond)
		}
		sent.Add(1)
		return "fan/out", payload
	}, func(time.Duration) {})
	if err != nil {
		return err
	}
	all := sent.Load() * int64(s.subscribers)
	for end := time.Now().Add(10 * time.Second); got.Load() < all && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	for _, c := range subs {
		c.c.Close()
	}
	fmt.Printf("fan-out to %d, QoS %d: %.0f deliveries/s, %d of %d came", s.subscribers, qos, float64(counted)/took.Seconds(), got.Load(), all)
	if s.pid > 0 && counted > 0 {
		fmt.Printf(", %.2f µs server CPU a delivery", float64(used.Microseconds())/float64(counted))
	}
	fmt.Println()
	if got.Load() != all {
		return fmt.Errorf("%d deliveries are missing", all-got.Load())
	}
	return nil
}

// fanin lets many publishers send to one subscriber at a rate, all at QoS 0.
func fanin(s settings) error {
	var got atomic.Int64
	sub, err := dial(s.addr, "load-subscriber")
	if err != nil {
		return err
	}
	if err := sub.subscribe("fan/in/#", 0); err != nil {
		return err
	}
	go sub.receive(func([]byte) { got.Add(1) })
	var sent atomic.Int64
	var pubs sync.WaitGroup
	failed := make(chan error, s.publishers)
	conns := make([]net.Conn, s.publishers)
	for i := range conns {
		c, err := dial(s.addr, fmt.Sprintf("load-%d", i))
		if err != nil {
			return err
		}
		conns[i] = c.c
	}
	cpu, began := cpuTime(s.pid), time.Now()
	for i, c := range conns {
		pubs.Go(func() {
			topic := fmt.Sprintf("fan/in/%d", i)
			payload := make([]byte, 200)
			var b []byte
			// Every 5 ms what is due by then.
			for n, end := 0, began.Add(s.duration); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				due := int(time.Since(began).Seconds() * float64(s.rate) / float64(s.publishers))
				b = b[:0]
				k := 0
				for ; n+k < due && k < 100; k++ {
					b = appendLength(append(b, 0x30), 2+len(topic)+len(payload))
					b = append(appendText(b, topic), payload...)
				}
				if _, err := c.Write(b); err != nil {
					failed <- err
					return
				}
				n += k
				sent.Add(int64(k))
			}
		})
	}
	pubs.Wait()
	took := time.Since(began)
	for end := time.Now().Add(10 * time.Second); got.Load() < sent.Load() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	used := cpuTime(s.pid) - cpu
	for _, c := range conns {
		c.Close()
	}
	select {
	case err := <-failed:
		return err
	default:
	}
	fmt.Printf("fan-in of %d at QoS 0, %d/s asked: %.0f messages/s sent, %d of %d came", s.publishers, s.rate, float64(sent.Load())/took.Seconds(), got.Load(), sent.Load())
	report(s.pid, used, got.Load())
	if got.Load() != sent.Load() {
		return fmt.Errorf("%d messages are lost", sent.Load()-got.Load())
	}
	return nil
}

// slow subscribes with a persistent session of MQTT 5 that takes 1 KiB/s, one
// message at a time, and reconnects now and then, while messages come at a rate;
// afterwards it takes all the rest as fast as it can. Nothing may be lost, and the
// server's memory may not grow with what waits.
func slow(s settings) error {
	sub := &slowSubscriber{addr: s.addr, next: 0}
	if err := sub.connect(2); err != nil { // what an earlier run has left
		return err
	}
	sub.c.Close()
	if err := sub.connect(0); err != nil {
		return err
	}
	if err := sub.subscribe("slow/#"); err != nil {
		return err
	}
	before := resident(s.pid)
	p, err := dial(s.addr, "load-publisher")
	if err != nil {
		return err
	}
	done := make(chan struct{})
	published := make(chan error, 1)
	var acked atomic.Int64
	tick := time.NewTicker(time.Second / time.Duration(s.rate))
	defer tick.Stop()
	go func() {
		payload := make([]byte, 200)
		published <- p.publish(100, true, done, func(n int) (string, []byte) {
			<-tick.C
			binary.BigEndian.PutUint32(payload, uint32(n))
			return "slow/1", payload
		}, func(time.Duration) { acked.Add(1) })
	}()
	most, began := int64(0), time.Now()
	for k := 1; time.Since(began) < s.duration; k++ {
		if err := sub.take(1024); err != nil {
			return err
		}
		most = max(most, resident(s.pid))
		time.Sleep(time.Second)
		if k%5 == 0 { // without a word
			sub.c.Close()
			if err := sub.connect(0); err != nil {
				return err
			}
		}
	}
	close(done)
	if err := <-published; err != nil {
		return err
	}
	slowly := sub.next
	for sub.next < int(acked.Load()) {
		if err := sub.take(1 << 20); err != nil {
			return fmt.Errorf("after %d of %d: %w", sub.next, acked.Load(), err)
		}
	}
	sub.c.Close()
	fmt.Printf("slow subscriber: %d messages acknowledged to the publisher at %d/s, %d taken at 1 KiB/s, the rest afterwards; 0 lost, %d marked as duplicates; %d KiB more resident at most, %.0f bytes a message\n",
		acked.Load(), s.rate, slowly, sub.dups, (most-before)>>10, float64(most-before)/float64(acked.Load()))
	return nil
}

// slowSubscriber is a client of MQTT 5 with a receive maximum of 1.
type slowSubscriber struct {
	addr string
	*client
	next int // number of the message that is awaited
	dups int
}

// connect connects with the flags of a CONNECT.
func (s *slowSubscriber) connect(flags byte) error {
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		return err
	}
	if t, ok := nc.(*net.TCPConn); ok {
		t.SetReadBuffer(4096)
	}
	s.client = newClient(nc)
	body := []byte{0, 4, 'M', 'Q', 'T', 'T', 5, flags, 4, 0, 8, 0x11, 0, 0, 14, 16, 0x21, 0, 1}
	body = appendText(body, "load-slow")
	if _, err := nc.Write(append([]byte{0x10, byte(len(body))}, body...)); err != nil {
		return err
	}
	head, body, err := s.packet()
	if err == nil && (head != 0x20 || body[1] != 0) {
		err = fmt.Errorf("CONNECT refused: % x", body)
	}
	return err
}

func (s *slowSubscriber) subscribe(filter string) error {
	body := append(appendText([]byte{0, 1, 0}, filter), 1)
	if _, err := s.c.Write(append([]byte{0x82, byte(len(body))}, body...)); err != nil {
		return err
	}
	_, _, err := s.packet()
	return err
}

// take takes messages of so many bytes together, or what comes within a second.
func (s *slowSubscriber) take(bytes int) error {
	s.c.SetReadDeadline(time.Now().Add(time.Second))
	defer s.c.SetReadDeadline(time.Time{})
	for bytes > 0 {
		head, body, err := s.packet()
		if os.IsTimeout(err) {
			return s.connect(0) // half a packet may have been read
		}
		if err != nil {
			return err
		}
		bytes -= 2 + len(body)
		if head>>4 != 3 {
			continue
		}
		n := 2 + int(binary.BigEndian.Uint16(body))
		number := int(binary.BigEndian.Uint32(body[n+3:]))
		switch {
		case number == s.next:
			s.next++
		case number < s.next && head&8 != 0:
			s.dups++
		default:
			return fmt.Errorf("message %d came where %d was to come", number, s.next)
		}
		if _, err := s.c.Write([]byte{0x40, 2, body[n], body[n+1]}); err != nil {
			return err
		}
	}
	return nil
}
