package mqtt

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/internal/errs"
)

func TestConnections(t *testing.T) {
	b := newFakeBucket()
	var clock atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }
	r := start(t, persist(b, func(o *Options) { o.Log, o.Now, o.Lifecycle = newFakeLog(2), now, true }))
	ctx := t.Context()
	if _, err := r.s.GetConnection(ctx, "nobody"); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	kept, _ := r.resume(5, "kept", expiry(600)...)
	kept.subscribe("b/#", "$share/g/c")
	kept.subscribeWith(nil, 0, "a")
	pub := r.connect(4, "pub")
	pub.send1("b/x", 0, 3)
	held := []delivery{kept.delivery(), kept.delivery(), kept.delivery()}
	kept.ack(held[1].pid)
	kept.ping()
	c, err := r.s.GetConnection(ctx, "kept")
	if err != nil || !c.Connected || c.CleanSession || c.SessionExpiry != 600*time.Second || c.Version != 5 || c.Principal != "p-kept" || c.InFlight != 2 ||
		!c.Remote.Addr().IsLoopback() || c.Local.Port() == 0 || c.KeepAlive != 60*time.Second || c.Since.IsZero() {
		t.Errorf("%+v %v", c, err)
	}
	want := []Subscription{{"$share/g/c", 1}, {"a", 0}, {"b/#", 1}}
	if !slices.Equal(c.Subscriptions, want) {
		t.Error(c.Subscriptions)
	}
	if c, err := r.s.GetConnection(ctx, "pub"); err != nil || !c.Connected || !c.CleanSession || c.Version != 4 || len(c.Subscriptions) != 0 {
		t.Errorf("%+v %v", c, err)
	}
	list := func() (ids []string) {
		t.Helper()
		for after := ""; ; {
			page, err := r.s.Connections(ctx, after, 1)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				return ids
			}
			after = page[0].ClientID
			ids = append(ids, fmt.Sprint(after, " ", page[0].Connected))
		}
	}
	if got := list(); !slices.Equal(got, []string{"kept true", "pub true"}) {
		t.Error(got)
	}
	// Away: what comes is counted as lag.
	r.leave(kept, "kept")
	pub.send1("b/x", 3, 10)
	if got := list(); !slices.Equal(got, []string{"kept false", "pub true"}) {
		t.Error(got)
	}
	c, err = r.s.GetConnection(ctx, "kept")
	if err != nil || c.Connected || c.CleanSession || c.Reason != "CONNECTION_LOST" || c.Since.IsZero() || c.Expires.Before(now()) || c.InFlight != 2 ||
		len(c.Lag) != 2 || c.Lag[0]+c.Lag[1] < 9 || !slices.Equal(c.Subscriptions, want) {
		t.Errorf("%+v %v", c, err)
	}
	if subs, err := r.s.ListSubscriptions(ctx, "kept"); err != nil || !slices.Equal(subs, want) {
		t.Error(subs, err)
	}
	// A clean one that has left is told of for half an hour.
	r.leave(pub, "pub")
	if c, err := r.s.GetConnection(ctx, "pub"); err != nil || c.Connected || c.Reason != "CONNECTION_LOST" {
		t.Errorf("%+v %v", c, err)
	}
	if _, err := r.s.ListSubscriptions(ctx, "pub"); !errs.Is(err, errs.NotFound) {
		t.Error(err)
	}
	clock.Add(int64(departedFor + time.Minute))
	for _, id := range []string{"pub", "kept"} { // whose session has expired too
		if _, err := r.s.GetConnection(ctx, id); !errs.Is(err, errs.NotFound) {
			t.Error(id, err)
		}
	}
}

func TestDeleteConnection(t *testing.T) {
	b := newFakeBucket()
	r := start(t, persist(b))
	ctx := t.Context()
	watch := r.connect(4, "watch")
	watch.subscribe("wills/+")
	begin := func(id string) *peer {
		p := r.dial()
		p.v5 = true
		p.send(connectWithWill(id, "wills/"+id, expiry(600)))
		if code, _ := p.connack(); code != 0 {
			t.Fatal(code)
		}
		p.subscribe("a")
		return p
	}
	for _, clean := range []bool{false, true} {
		for _, prevent := range []bool{false, true} {
			id := fmt.Sprint("c", clean, prevent)
			p := begin(id)
			if err := r.s.DeleteConnection(ctx, id, clean, prevent); err != nil {
				t.Error(err)
			}
			p.disconnected(codeAdministrative)
			if b.has(id) == clean {
				t.Error(id, "session is kept:", !clean)
			}
			if !prevent {
				if d := watch.delivery(); d.topic != "wills/"+id {
					t.Error(d)
				} else {
					watch.ack(d.pid)
				}
			}
			watch.ping()
			switch err := r.s.DeleteConnection(ctx, id, false, false); {
			case !errs.Is(err, errs.NotFound):
				t.Error(err)
			}
			// One that is away can only lose its session.
			if err := r.s.DeleteConnection(ctx, id, true, false); clean != errs.Is(err, errs.NotFound) {
				t.Error(clean, err)
			}
			if b.has(id) {
				t.Error("the session is still there")
			}
			p, present := r.resume(5, id)
			if present {
				t.Error("a session that was deleted comes back")
			}
			r.leave(p, id)
		}
	}
}

// connectWithWill is a CONNECT of MQTT 5 with a will of QoS 1 and without clean
// start.
func connectWithWill(id, topic string, props []byte) []byte {
	b := append(str("MQTT"), 5, 4|1<<3, 0, 60)
	b = append(appendLength(b, len(props)), props...)
	b = append(append(b, str(id)...), 0) // no will properties
	return packet(packets.Connect<<4, append(append(b, str(topic)...), str("gone")...))
}
