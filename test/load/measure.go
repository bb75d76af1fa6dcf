package main

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// telemetry returns the n-th message of a publisher: 208 bytes of JSON like a
// device's, one in share with a temperature over 40 and status ok, as many with
// a temperature over 40 and another status.
func telemetry(publisher, n, publishers, share int) (topic string, payload []byte) {
	device := publisher + publishers*(n%20)
	temperature, status := 20.1+float64(n%190)/10, "ok"
	switch n % share {
	case 0:
		temperature = 41.3
	case share / 2:
		temperature, status = 41.3, "er"
	}
	return fmt.Sprintf("factory/%d/device/%d/telemetry", device%20+1, device),
		fmt.Appendf(nil, `{"deviceId":"d-%05d","ts":1700000000123,"seq":%d,"temperature":%.1f,"humidity":63.2,"battery":87,`+
			`"location":{"lat":47.61,"lon":-122.33},"tags":["a","b"],"fw":"2.7.14-r3","net":"lte-m1","status":"%s"}`,
			device, 1_000_000_000+n, temperature, status)
}

func stamped() []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(time.Now().UnixNano()))
}
func stamp(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

// histogram counts durations in buckets of 1/16 of a power of two.
type histogram [64 * 16]atomic.Int64

func (h *histogram) add(d time.Duration) {
	v := uint64(max(d, 16))
	e := bits.Len64(v) - 1
	h[e*16+int(v>>(e-4)&15)].Add(1)
}

func (h *histogram) quantile(q float64) time.Duration {
	var all, seen int64
	for i := range h {
		all += h[i].Load()
	}
	for i := range h {
		if seen += h[i].Load(); seen > 0 && float64(seen) >= q*float64(all) {
			return time.Duration(uint64(16+i%16) << (i / 16) >> 4).Round(time.Microsecond)
		}
	}
	return 0
}

// cpuTime returns the user and system time a process has used; it is counted in
// ticks of 10 ms.
func cpuTime(pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// machineTime returns how much CPU time the hypervisor of a virtual machine has
// not given it, and all there was, in ticks.
func machineTime() (stolen, all int64) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line) {
		n, _ := strconv.ParseInt(f, 10, 64)
		if i >= 1 && i <= 8 { // user, nice, system, idle, iowait, irq, softirq, steal
			all += n
		}
		if i == 8 {
			stolen = n
		}
	}
	return stolen, all
}

// sleepUntil is time.Sleep for less than a millisecond, which the runtime's timers
// may round up to one.
func sleepUntil(due time.Time) {
	if d := time.Until(due); d > 0 {
		t := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&t, nil)
	}
}

// resident returns the memory of a process, in bytes.
func resident(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
