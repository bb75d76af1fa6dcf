package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// device makes the TLS configuration of a client with a certificate.
func (s settings) device() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(s.cert, s.key)
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(s.ca)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{ServerName: "localhost", RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{pair}}
	if !config.RootCAs.AppendCertsFromPEM(authority) {
		return nil, errors.New("no certificate in " + s.ca)
	}
	return config, nil
}

// enter connects client i over TLS. Clients come from many addresses, all of
// loopback: a server bounds how many of one address are on their way in.
func enter(ctx context.Context, addr string, config *tls.Config, i int) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+i/100%200), byte(1+i%100))}}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	nc.SetDeadline(deadline)
	c := tls.Client(nc, config)
	if err := greet(c, fmt.Sprintf("load-%d", i)); err != nil {
		nc.Close()
		return nil, err
	}
	nc.SetDeadline(time.Time{})
	return c, nil
}

// greet says CONNECT and waits for the CONNACK.
func greet(c net.Conn, id string) error {
	body := appendText([]byte{0, 4, 'M', 'Q', 'T', 'T', 4, 2, 4, 0}, id)
	if _, err := c.Write(append([]byte{0x10, byte(len(body))}, body...)); err != nil {
		return err
	}
	var ack [4]byte
	if _, err := io.ReadFull(c, ack[:]); err != nil {
		return err
	}
	if ack[0] != 0x20 || ack[3] != 0 {
		return fmt.Errorf("CONNECT refused: % x", ack)
	}
	return nil
}

// enterAll connects all clients, so many at a time, each until it is in.
func (s settings) enterAll(config *tls.Config, atATime int, in func(failed []error, took time.Duration)) []net.Conn {
	conns := make([]net.Conn, s.clients)
	turns := make(chan struct{}, atATime)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range conns {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			var failed []error
			for {
				ctx, cancel := context.WithTimeout(context.Background(), s.patience)
				c, err := enter(ctx, s.tlsAddr, config, i)
				cancel()
				if err == nil {
					conns[i] = c
					in(failed, time.Since(began))
					return
				}
				failed = append(failed, err)
				// As devices do: wait longer each time, not all alike.
				time.Sleep(min(time.Second<<min(len(failed)-1, 4), 10*time.Second) * time.Duration(50+rand.IntN(100)) / 100)
			}
		})
	}
	wg.Wait()
	return conns
}

// idle measures the memory of connections that are there and do nothing, and
// says what it is made of as far as the server's profiles tell.
func idle(s settings) error {
	config, err := s.device()
	if err != nil {
		return err
	}
	before, was := resident(s.pid), s.heap()
	conns := s.enterAll(config, 32, func([]error, time.Duration) {})
	time.Sleep(2 * time.Second)
	was.print(s.heap(), s.clients)
	each := float64(resident(s.pid)-before) / float64(s.clients) / 1024
	fmt.Printf("%d idle TLS connections with a client certificate: %.1f KiB RSS each\n", s.clients, each)
	for _, c := range conns {
		c.Close()
	}
	return nil
}

// storm lets all clients lose their connections at one moment and come back.
func storm(s settings) error {
	config, err := s.device()
	if err != nil {
		return err
	}
	began := time.Now()
	conns := s.enterAll(config, 32, func([]error, time.Duration) {})
	fmt.Printf("%d clients connected in %v, %d MiB resident\n", s.clients, time.Since(began).Round(time.Millisecond), resident(s.pid)>>20)
	for _, c := range conns {
		c.(*tls.Conn).NetConn().Close()
	}
	var mu sync.Mutex
	var back []time.Duration
	why, tries := map[string]int{}, 0
	most := int64(0)
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
				most = max(most, resident(s.pid))
			}
		}
	})
	cpu := cpuTime(s.pid)
	conns = s.enterAll(config, s.clients, func(failed []error, took time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		for _, err := range failed {
			_, text, _ := strings.Cut(err.Error(), "->") // without the addresses
			_, text, _ = strings.Cut(text, ": ")
			why[cmp.Or(text, err.Error())]++
			tries++
		}
		back = append(back, took)
	})
	used := cpuTime(s.pid) - cpu
	close(done)
	watch.Wait()
	slices.Sort(back)
	in60, _ := slices.BinarySearch(back, 60*time.Second)
	at := func(share float64) time.Duration {
		return back[min(int(share*float64(len(back))), len(back)-1)].Round(10 * time.Millisecond)
	}
	fmt.Printf("all reconnect at once: half back after %v, 99 %% after %v, the last after %v; %.1f %% within 60 s; %d tries failed; %d MiB resident at most",
		at(0.5), at(0.99), at(1), 100*float64(in60)/float64(len(back)), tries, most>>20)
	if s.pid > 0 {
		fmt.Printf("; %.0f µs server CPU each", float64(used.Microseconds())/float64(s.clients))
	}
	fmt.Println()
	for text, n := range why {
		fmt.Printf("%d tries: %s\n", n, text)
	}
	for _, c := range conns {
		c.Close()
	}
	return nil
}

// profile is what a server's heap profile says, by the innermost of its
// functions that is not of the runtime, and its memory by kind.
type profile struct {
	sites, kinds map[string]int64
}

var (
	rateLine  = regexp.MustCompile(`@ heap/(\d+)`)
	siteLine  = regexp.MustCompile(`^(\d+): (\d+) \[`)
	frameLine = regexp.MustCompile(`^#\t0x[0-9a-f]+\t(\S+)\+0x`)
	kindLine  = regexp.MustCompile(`^# (HeapInuse|HeapIdle|HeapReleased|Stack|MSpan) = (\d+)`)
)

// heap asks the server for its heap profile; nil where it serves none.
func (s settings) heap() *profile {
	b, err := s.ask("heap?gc=1&debug=1")
	if err != nil {
		return nil
	}
	p := &profile{map[string]int64{}, map[string]int64{}}
	size, named := int64(0), true
	rate := 0.0
	for line := range bytes.Lines(b) {
		if m := siteLine.FindSubmatch(line); m != nil {
			size, named = sampled(m[1], m[2], rate), false
		} else if m := rateLine.FindSubmatch(line); m != nil {
			rate, _ = strconv.ParseFloat(string(m[1]), 64)
			rate /= 2
		} else if m := frameLine.FindSubmatch(line); m != nil && !named && !bytes.HasPrefix(m[1], []byte("runtime.")) {
			p.sites[string(m[1])] += size
			named = true
		} else if m := kindLine.FindSubmatch(line); m != nil {
			p.kinds[string(m[1])], _ = strconv.ParseInt(string(m[2]), 10, 64)
		}
	}
	return p
}

// sampled returns the bytes that so many sampled objects of so many bytes stand
// for, where one byte in rate is a sample.
func sampled(count, size []byte, rate float64) int64 {
	n, _ := strconv.ParseFloat(string(count), 64)
	b, _ := strconv.ParseFloat(string(size), 64)
	if n == 0 || rate <= 0 {
		return int64(b)
	}
	return int64(b / (1 - math.Exp(-b/n/rate)))
}

// print prints what has come since p, for each of n.
func (p *profile) print(now *profile, n int) {
	if p == nil || now == nil {
		fmt.Println("(the server serves no profiles: debug.pprof, -api, -token)")
		return
	}
	each := func(v int64) float64 { return float64(v) / float64(n) / 1024 }
	fmt.Printf("KiB a connection: heap in use %.1f, heap kept free %.1f, stacks %.1f, spans %.1f; of the heap, sampled:\n",
		each(now.kinds["HeapInuse"]-p.kinds["HeapInuse"]),
		each(now.kinds["HeapIdle"]-now.kinds["HeapReleased"]-p.kinds["HeapIdle"]+p.kinds["HeapReleased"]),
		each(now.kinds["Stack"]-p.kinds["Stack"]), each(now.kinds["MSpan"]-p.kinds["MSpan"]))
	type site struct {
		name string
		size int64
	}
	var sites []site
	for name, size := range now.sites {
		sites = append(sites, site{name, size - p.sites[name]})
	}
	slices.SortFunc(sites, func(a, b site) int { return cmp.Compare(b.size, a.size) })
	for _, s := range sites[:min(len(sites), 14)] {
		fmt.Printf("%8.2f  %s\n", each(s.size), s.name)
	}
}
