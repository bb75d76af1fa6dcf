package actions_test

import (
	"context"
	"encoding/json"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
)

// BenchmarkSystem appends events to a log on disk, unsynced, with the example
// rule, one event in ten selected, and lanes whose sink takes everything. The
// figure that counts is cpu-ns/op: of the whole process, log included.
func BenchmarkSystem(b *testing.B) {
	for _, c := range []struct {
		name        string
		rules, more int
	}{{"no-rule", 0, 0}, {"1-rule", 1, 0}, {"1-rule+100-false", 1, 100}} {
		b.Run(c.name, func(b *testing.B) {
			null := actions.Kind{Name: "sink", New: func(context.Context, actions.Env, json.RawMessage) (actions.Action, actions.Spec, error) {
				return nullAction{}, actions.Spec{BatchMax: 256}, nil
			}}
			s := open(b, b.TempDir(), eventlog.OS, 1, null)
			const stmt = `SELECT deviceId, temperature, temperature*1.8+32 AS f, topic(2) AS site FROM 'factory/+/device/+/telemetry' WHERE temperature > %d AND status = 'ok'`
			if c.rules > 0 {
				s.apply("r", fmt.Sprintf(stmt, 40), to("x"))
			}
			for i := range c.more {
				s.apply(fmt.Sprint("o", i), fmt.Sprintf(stmt, 1000+i), to("x"))
			}
			evs := make([]event.Event, b.N)
			for i := range evs {
				temp := 20
				if i%10 == 0 {
					temp = 50
				}
				evs[i] = event.Event{Topic: topic.Name(fmt.Sprintf("factory/%d/device/%d/telemetry", i%7, i%500)), ClientID: fmt.Sprint("c", i%50), QoS: 1, Received: time.Now().UTC(),
					Payload: []byte(fmt.Sprintf(`{"deviceId":"device-%d","temperature":%d.5,"status":"ok","humidity":55.25,"pressure":1013.25,"site":"north-7","firmware":"1.4.2","battery":87,"rssi":-61,"uptime":123456,"note":"abcdefghij"}`, i%500, temp))}
			}
			r := &receipts{left: b.N, done: make(chan struct{})}
			before := cpu()
			b.ResetTimer()
			for i := range evs {
				if err := s.log.Append(context.Background(), &evs[i], r, 0); err != nil {
					b.Fatal(err)
				}
			}
			<-r.done
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := s.engine.Idle(ctx); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
			if a := s.account("r", 0); c.rules > 0 && a.Delivered != uint64((b.N+9)/10) {
				b.Errorf("%+v of %d", a, b.N)
			}
			s.stop()
		})
	}
}

type nullAction struct{}

func (nullAction) Deliver(context.Context, []*actions.Result) error { return nil }
func (nullAction) Close(context.Context) error                      { return nil }

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
