package jet

import (
	"context"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// BenchmarkBare is what the store itself costs: pipelined publishes without
// headers, written in groups, acknowledged one by one. BenchmarkAppend of
// eventlog is to be compared with it on the same machine in the same minute.
func BenchmarkBare(b *testing.B) {
	s, err := Open(context.Background(), Options{Dir: b.TempDir(), Durability: OS})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if _, _, err := s.Ensure(StreamConfig{Name: "T", Subjects: []string{"t.>"}}); err != nil {
		b.Fatal(err)
	}
	c, err := s.dial()
	if err != nil {
		b.Fatal(err)
	}
	defer c.close()
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	payload := make([]byte, 200)
	b.ResetTimer()
	c0 := cpu()
	for done := 0; done < b.N; {
		n := min(800, b.N-done)
		var buf []byte
		for i := range n {
			buf = append(buf, "PUB t.factory.a.device."...)
			buf = strconv.AppendInt(buf, int64((done+i)%500), 10)
			buf = append(append(append(append(buf, ".telemetry "...), c.inbox...), '.'), c.token()...)
			buf = append(append(append(buf, " 200\r\n"...), payload...), "\r\n"...)
		}
		if err := c.write(buf, func() error { return errTimeout }); err != nil {
			b.Fatal(err)
		}
		for range n {
			if _, err := c.read(time.Now().Add(10 * time.Second)); err != nil {
				b.Fatal(err)
			}
		}
		done += n
	}
	b.ReportMetric(float64((cpu()-c0).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
}
