package fault

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/internal/mqttclient"
)

// Fleet is a number of devices that publish at QoS 1 as fast as they are
// acknowledged, through faults and all: a device whose connection ends connects
// again and sends what was not acknowledged once more, in its order.
type Fleet struct {
	Addr    func() string // of the plain MQTT port; asked before each connection
	Devices int
	Window  int // publishes in flight a device
	Version byte
	Prefix  string                            // of the client ids, so that fleets stay apart
	Pause   time.Duration                     // between two messages of a device; 0: none
	Topic   func(device string, n int) string // default: fault/<device>/telemetry
	Ledger  *Ledger

	Refused atomic.Int64 // publishes answered with an error, or cut by a closed connection
	stop    chan struct{}
	running sync.WaitGroup
}

// Address is where a Weir listens; it changes when the Weir is started again.
type Address struct{ v atomic.Value }

// Set sets the address.
func (a *Address) Set(addr string) { a.v.Store(addr) }

// Get returns the address set last.
func (a *Address) Get() string { return a.v.Load().(string) }

// Start lets the devices begin. Stop must follow.
func (f *Fleet) Start() {
	if f.Topic == nil {
		f.Topic = func(device string, _ int) string { return "fault/" + device + "/telemetry" }
	}
	f.stop = make(chan struct{})
	for i := range f.Devices {
		f.running.Go(func() { f.device(fmt.Sprintf("%s%02d", f.Prefix, i)) })
	}
}

// Stop ends the devices and waits for them. What is not acknowledged then
// stays so.
func (f *Fleet) Stop() {
	close(f.stop)
	f.running.Wait()
}

func (f *Fleet) device(id string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-f.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	var (
		mu      sync.Mutex
		unacked []int // in order
		next    = 1
	)
	settle := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		for i, x := range unacked {
			if x == n {
				unacked = append(unacked[:i], unacked[i+1:]...)
				return
			}
		}
	}
	for ctx.Err() == nil {
		dctx, done := context.WithTimeout(ctx, 5*time.Second)
		c, err := mqttclient.Connect(dctx, mqttclient.Options{Addr: f.Addr(), ClientID: id, Version: f.Version, Window: f.Window})
		done()
		if err != nil {
			pause(ctx, 50*time.Millisecond)
			continue
		}
		connected, drop := context.WithCancel(ctx)
		// The session is not resumed; what was in flight is published anew.
		mu.Lock()
		again := append([]int(nil), unacked...)
		mu.Unlock()
		for connected.Err() == nil {
			n := next
			if len(again) > 0 {
				n, again = again[0], again[1:]
			} else {
				next++
				mu.Lock()
				unacked = append(unacked, n)
				mu.Unlock()
			}
			m := NewMessage(id, n)
			f.Ledger.Sent(m)
			err := c.PublishAsync(connected, &mqttclient.Message{Topic: f.Topic(id, n), Payload: m.Payload(), QoS: 1}, func(err error) {
				if err != nil {
					f.Refused.Add(1)
					drop() // what comes behind a refused message must not overtake it
					return
				}
				f.Ledger.Acked(m)
				settle(n)
			})
			if err != nil {
				break
			}
			if f.Pause > 0 {
				pause(connected, f.Pause)
			}
		}
		drop()
		if ctx.Err() != nil {
			c.Close()
		} else {
			c.Abort()
		}
		<-c.Done()
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
