package mqtt

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// BenchmarkMassReturn drains b.N messages that so many sessions have missed, all
// of them from one reading of a log in memory; an operation is a message. Its
// clients are in the CPU time. `load return` measures a whole server.
func BenchmarkMassReturn(b *testing.B) {
	for _, sessions := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprint("sessions=", sessions), func(b *testing.B) {
			log := newFakeLog(1)
			r := start(b, persist(newFakeBucket(), func(o *Options) { o.Log = log }))
			id := func(i int) string { return fmt.Sprint("s", i) }
			for i := range sessions {
				p, _ := r.resume(4, id(i))
				p.subscribe(fmt.Sprint("to/", i))
				r.leave(p, id(i))
			}
			log.mu.Lock()
			for i := range b.N {
				log.parts[0] = append(log.parts[0], &event.Event{
					Topic: topic.Name(fmt.Sprint("to/", i%sessions)), Payload: make([]byte, 200), QoS: 1, Seq: uint64(len(log.parts[0])) + 1,
				})
			}
			log.committed[0] = uint64(len(log.parts[0]))
			log.wake()
			log.mu.Unlock()
			b.ResetTimer()
			var before, after syscall.Rusage
			syscall.Getrusage(syscall.RUSAGE_SELF, &before)
			var clients sync.WaitGroup
			for i := range sessions {
				p, present := r.resume(4, id(i))
				if !present {
					b.Fatal("no session")
				}
				p.nc.SetReadDeadline(time.Now().Add(time.Minute))
				clients.Go(func() {
					var acks []byte
					for n := b.N/sessions + (b.N%sessions+sessions-1-i)/sessions; n > 0; n-- {
						h, body, err := p.read()
						if err != nil || h>>4 != packets.Publish {
							b.Error(h, err)
							return
						}
						k := 2 + int(body[1])
						acks = append(acks, packets.Puback<<4, 2, body[k], body[k+1])
						if p.r.Buffered() == 0 {
							p.nc.Write(acks)
							acks = acks[:0]
						}
					}
				})
			}
			clients.Wait()
			syscall.Getrusage(syscall.RUSAGE_SELF, &after)
			used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(used)/1000/float64(b.N), "cpu-µs/op")
			b.StopTimer()
			r.stop()
		})
	}
}
