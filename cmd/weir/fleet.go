package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/internal/mqttclient"
)

// fleetOptions describe simulated devices.
type fleetOptions struct {
	devices int
	every   time.Duration // between two messages of a device
	plain   string        // address of the plain port; "": all use TLS
	secure  string        // address of the TLS port; "": all use the plain one
	tls     *tls.Config
}

// fleet is simulated devices that publish telemetry at QoS 1 over connections
// of their own.
type fleet struct {
	o fleetOptions

	connected atomic.Int64
	acked     atomic.Uint64 // PUBACK received
	refused   atomic.Uint64 // PUBACK with an error
	unknown   atomic.Uint64 // sent, and the connection ended before an answer

	mu      sync.Mutex // guards what follows
	latency []time.Duration
	lastErr error
}

// clientPrefix begins the client id of every simulated device.
const clientPrefix = "demo-device-"

// run publishes until ctx ends; then each device waits for the answers it is
// still owed.
func (f *fleet) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range f.o.devices {
		wg.Add(1)
		go func() {
			defer wg.Done()
			d := &device{fleet: f, number: i + 1, random: rand.New(rand.NewPCG(uint64(i), 7))}
			d.run(ctx)
		}()
	}
	wg.Wait()
}

// percentiles returns the median and the 99th percentile of the PUBACK times
// since the last call.
func (f *fleet) percentiles() (p50, p99 time.Duration) {
	f.mu.Lock()
	l := f.latency
	f.latency = nil
	f.mu.Unlock()
	if len(l) == 0 {
		return 0, 0
	}
	slices.Sort(l)
	return l[len(l)/2], l[len(l)*99/100]
}

func (f *fleet) note(err error) {
	f.mu.Lock()
	f.lastErr = err
	f.mu.Unlock()
}

// device is one of them.
type device struct {
	*fleet
	number int
	random *rand.Rand
	seq    int
	temp   float64
	level  float64 // battery
}

func (d *device) run(ctx context.Context) {
	d.temp, d.level = 20+d.random.Float64()*15, 15+d.random.Float64()*85
	wait := 100 * time.Millisecond
	for ctx.Err() == nil {
		c, err := d.connect(ctx)
		if err == nil {
			wait = 100 * time.Millisecond
			d.connected.Add(1)
			err = d.publish(ctx, c)
			d.connected.Add(-1)
			c.Close()
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		d.note(err)
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + time.Duration(d.random.Int64N(int64(wait)))):
		}
		wait = min(2*wait, 5*time.Second)
	}
}

func (d *device) connect(ctx context.Context) (*mqttclient.Client, error) {
	o := mqttclient.Options{Addr: d.o.plain, ClientID: fmt.Sprintf("%s%02d", clientPrefix, d.number), Version: 5, Window: 16}
	if d.number%4 == 0 {
		o.Version = 4
	}
	// Every second device comes over TLS with a certificate.
	if d.o.plain == "" || d.o.secure != "" && d.number%2 == 0 {
		o.Addr, o.TLS = d.o.secure, d.o.tls
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return mqttclient.Connect(ctx, o)
}

// publish sends a message every now and then until ctx ends, and waits for the
// open answers. nil: ctx ended and all are there.
func (d *device) publish(ctx context.Context, c *mqttclient.Client) error {
	topic := fmt.Sprintf("factory/%d/device/%d/telemetry", (d.number-1)%5+1, d.number)
	var open sync.WaitGroup
	tick := time.NewTicker(d.o.every)
	defer tick.Stop()
	// Devices do not publish in step.
	select {
	case <-time.After(time.Duration(d.random.Int64N(int64(d.o.every)))):
	case <-ctx.Done():
	}
	for {
		select {
		case <-ctx.Done():
			open.Wait() // answered, or the connection has ended
			return nil
		case <-c.Done():
			open.Wait()
			return c.Err()
		case <-tick.C:
		}
		sent := time.Now()
		open.Add(1)
		// Not ctx: a message that is being written is waited for.
		err := c.PublishAsync(context.Background(), &mqttclient.Message{Topic: topic, QoS: 1, Payload: d.reading()}, func(err error) {
			defer open.Done()
			var reason *mqttclient.ReasonError
			switch {
			case err == nil:
				d.acked.Add(1)
				d.mu.Lock()
				if len(d.latency) < 100_000 {
					d.latency = append(d.latency, time.Since(sent))
				}
				d.mu.Unlock()
			case errors.As(err, &reason) && reason.Packet == "PUBLISH":
				d.refused.Add(1)
				d.note(err)
			default:
				d.unknown.Add(1)
				d.note(err)
			}
		})
		if err != nil {
			open.Done()
			return err
		}
	}
}

// reading is one telemetry message: about 210 bytes, one in ten hot, one in
// twenty with an error.
func (d *device) reading() []byte {
	d.seq++
	d.temp = min(39.9, max(10, d.temp+d.random.Float64()*2-1))
	d.level -= 0.02
	if d.level < 10 {
		d.level = 100 // a new battery
	}
	temp, status := d.temp, "ok"
	switch n := d.random.IntN(20); {
	case n < 2:
		temp = 40.1 + d.random.Float64()*19
	case n == 2:
		temp, status = 40.1+d.random.Float64()*19, "er"
	}
	return fmt.Appendf(nil, `{"deviceId":"d-%05d","ts":%d,"seq":%d,"temperature":%.1f,"humidity":%.1f,"battery":%.0f,`+
		`"location":{"lat":47.61,"lon":-122.33},"tags":["a","b"],"fw":"2.7.14-r3","net":"lte-m1","status":%q}`,
		d.number, time.Now().UnixMilli(), 1_000_000_000+d.seq, temp, 30+d.random.Float64()*40, d.level, status)
}
