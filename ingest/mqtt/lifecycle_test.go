package mqtt

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

func TestLifecycleEvents(t *testing.T) {
	for _, v := range versions {
		r := start(t, persist(newFakeBucket(), func(o *Options) { o.Lifecycle = true }))
		watch := r.connect(4, "watch")
		watch.subscribe("$aws/events/+/+/dev", "$aws/events/+/+/other")
		next := func(kind, id, rest string) lifecycle {
			t.Helper()
			d := watch.delivery()
			watch.ack(d.pid)
			var l lifecycle
			if err := json.Unmarshal([]byte(d.payload), &l); err != nil {
				t.Fatal(err)
			}
			about := "presence"
			if l.Topics != nil {
				about = "subscriptions"
			}
			got := fmt.Sprint(l.Topics, l.Reason)
			if l.ClientInitiated != nil {
				got += fmt.Sprint(*l.ClientInitiated)
			}
			if d.topic != "$aws/events/"+about+"/"+kind+"/"+id || l.EventType != kind || l.ClientID != id || got != rest ||
				l.Principal != "p-"+id || len(l.Session) != 32 || l.Timestamp == 0 || (kind == "connected") != (l.IP == "127.0.0.1") {
				t.Fatalf("%s %s", d.topic, d.payload)
			}
			return l
		}
		dev, _ := r.resume(v, "dev")
		first := next("connected", "dev", "[]")
		dev.subscribe("a", "#/b", "c/+")
		next("subscribed", "dev", "[a c/+]")
		b := []byte{0, 9}
		if v == 5 {
			b = append(b, 0)
		}
		dev.send(packet(packets.Unsubscribe<<4|2, append(append(b, str("a")...), str("not there")...)))
		dev.expect(packets.Unsuback)
		next("unsubscribed", "dev", "[a]")
		dev.nc.Close()
		if l := next("disconnected", "dev", "[]CONNECTION_LOSTfalse"); *l.Version != *first.Version || l.Session != first.Session {
			t.Error(l, first)
		}
		r.gone("dev")
		r.resume(v, "dev")
		second := next("connected", "dev", "[]")
		if *second.Version <= *first.Version || second.Session != first.Session {
			t.Error(first, second)
		}
		r.resume(v, "dev")
		next("disconnected", "dev", "[]DUPLICATE_CLIENTIDfalse")
		next("connected", "dev", "[]")
		r.s.Disconnect("dev")
		next("disconnected", "dev", "[]API_INITIATED_DISCONNECTfalse")
		other := r.connect(v, "other")
		next("connected", "other", "[]")
		other.send([]byte{packets.Disconnect << 4, 0})
		next("disconnected", "other", "[]CLIENT_INITIATED_DISCONNECTtrue")
		r.connect(v, "other").publish("a", 2, 1, "x")
		next("connected", "other", "[]")
		next("disconnected", "other", "[]CLIENT_ERRORfalse")
		r.stop()
	}
}
