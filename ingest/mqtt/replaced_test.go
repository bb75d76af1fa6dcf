package mqtt

import (
	"fmt"
	"slices"
	"testing"

	"github.com/weir-iot/weir/ingest"
)

// What a subscription was to bring comes, also where a SUBSCRIBE has replaced it
// by one that asks for less, and the client has been away since.
func TestReplacedSubscriptionLosesNothing(t *testing.T) {
	for _, v := range versions {
		for _, how := range []string{"connected", "away", "crash"} {
			b := newFakeBucket()
			l := newFakeLog(1)
			set := func(o *Options) {
				o.Log, o.Limits, o.Safety.QueuedMessages = l, ingest.AWS(), 1
				o.Limits.InFlight = 1
			}
			r := start(t, persist(b, set))
			pub := r.connect(4, "pub")
			sub, _ := r.resume(v, "sub")
			sub.subscribe("t")
			for i := 1; i <= 6; i++ {
				pub.publish("t", 1, uint16(i), fmt.Sprint(i))
				pub.puback()
			}
			d := sub.wants("1", false)
			if code := sub.subscribeWith(nil, 0, "t")[0]; code != 0 {
				t.Fatalf("the subscription is answered %#x", code)
			}
			switch how {
			case "away":
				r.leave(sub, "sub")
				sub, _ = r.resume(v, "sub")
				d = sub.wants("1", true)
			case "crash":
				left := b.copy() // as the SUBACK found it
				r.stop()
				r = start(t, persist(left, set))
				pub = r.connect(4, "pub")
				sub, _ = r.resume(v, "sub")
				d = sub.delivery()
			}
			pub.publish("t", 1, 7, "7")
			pub.puback()
			var got []string
			for sub.ack(d.pid); len(got) < 6; {
				d = sub.delivery()
				got = append(got, fmt.Sprint(d.payload, "/", d.qos))
				if d.qos > 0 {
					sub.ack(d.pid)
				}
			}
			slices.Sort(got)
			if want := []string{"2/1", "3/1", "4/1", "5/1", "6/1", "7/0"}; !slices.Equal(got, want) {
				t.Errorf("version %d, %s: %q, want %q", v, how, got, want)
			}
			r.stop()
		}
	}
}
