package mqtt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
)

var versions = []byte{4, 5}

func TestPublishAndSubscribe(t *testing.T) {
	for _, v := range versions {
		r := start(t, nil)
		sub, pub := r.connect(v, "sub"), r.connect(9-v, "pub")
		if codes := sub.subscribe("a/+", "b/#"); !bytes.Equal(codes, []byte{1, 1}) {
			t.Fatalf("SUBACK % x", codes)
		}
		pub.publish("a/1", 1, 5, "one")
		if pid, code := pub.puback(); pid != 5 || code != 0 {
			t.Error("PUBACK", pid, code)
		}
		pub.publish("c", 1, 6, "nobody's")
		pub.puback()
		pub.publish("b/x/y", 0, 0, "two")
		d := sub.delivery()
		if d.String() != "a/1=one qos 1 retain false" {
			t.Error(d)
		}
		sub.ack(d.pid)
		if d := sub.delivery(); d.String() != "b/x/y=two qos 0 retain false" {
			t.Error(d)
		}
		e := r.log.events(0)[0]
		if e.ClientID != "pub" || e.Principal != "p-pub" || e.SourceIP != "127.0.0.1" || e.Received.IsZero() || e.QoS != 1 {
			t.Errorf("%+v", e)
		}
		b := []byte{0, 9}
		if v == 5 {
			b = append(b, 0)
		}
		sub.send(packet(packets.Unsubscribe<<4|2, append(append(b, str("a/+")...), str("zzz")...)))
		if _, b := sub.expect(packets.Unsuback); v == 5 && !bytes.Equal(b, []byte{0, 9, 0, 0, codeNoSubscription}) || v == 4 && len(b) != 2 {
			t.Errorf("UNSUBACK % x", b)
		}
		pub.publish("a/1", 0, 0, "gone")
		pub.publish("b/1", 0, 0, "here")
		if d := sub.delivery(); d.payload != "here" {
			t.Error(d)
		}
		r.stop()
	}
}

// A payload on the log must not change when the buffer it came in is used again.
func TestPayloadsAreTheirOwn(t *testing.T) {
	r := start(t, nil)
	p := r.connect(4, "p")
	var b []byte
	for i := range 500 {
		b = append(b, p.publishPacket(fmt.Sprintf("t/%d", i%50), 0, 0, strings.Repeat(fmt.Sprint(i%10), 1+i*7%3000))...)
	}
	p.send(b)
	p.ping()
	events := r.log.events(0)
	if len(events) != 500 {
		t.Fatal(len(events))
	}
	for i, e := range events {
		if want := strings.Repeat(fmt.Sprint(i%10), 1+i*7%3000); string(e.Payload) != want || string(e.Topic) != fmt.Sprintf("t/%d", i%50) {
			t.Fatalf("event %d: %s, %d bytes", i, e.Topic, len(e.Payload))
		}
	}
}

func TestPubacksComeInOrderAfterTheCommit(t *testing.T) {
	for _, v := range versions {
		r := start(t, func(o *Options) { l := newFakeLog(3); l.auto = false; o.Log = l })
		p := r.connect(v, "p")
		// Three partitions, by the length of the thing's name.
		things := []string{"a", "bb", "ccc"}
		for i := 1; i <= 30; i++ {
			p.publish("$aws/things/"+things[i%3]+"/shadow/update", 1, uint16(i), "x")
		}
		p.ping() // nothing came before it
		r.log.mu.Lock()
		// Partition 2, which has the first publish, commits last.
		by := map[int][]appended{}
		for _, a := range r.log.waiting {
			by[len(a.e.OrderingKey())%3] = append(by[len(a.e.OrderingKey())%3], a)
		}
		r.log.waiting = append(append(by[0], by[1]...), by[2]...)
		r.log.mu.Unlock()
		r.log.commit(20)
		p.ping()
		r.log.commit(10)
		for i := 1; i <= 30; i++ {
			if pid, code := p.puback(); pid != uint16(i) || code != 0 {
				t.Fatalf("PUBACK %d, code %#x, want %d", pid, code, i)
			}
		}
		r.stop()
	}
}

func TestStoreFailureIsNeverAcknowledged(t *testing.T) {
	for _, v := range versions {
		for i := 1; i <= 5; i++ {
			for kind, code := range map[errs.Kind]byte{errs.Quota: codeQuota, errs.Unavailable: codeUnspecified, errs.TooLarge: codeImplementation} {
				r := start(t, func(o *Options) {
					l := newFakeLog(1)
					l.auto = false
					l.fail = func(k int) error {
						if k == i {
							return errs.E("fake", kind, nil)
						}
						return nil
					}
					o.Log = l
				})
				p := r.connect(v, "p")
				for pid := uint16(1); pid <= 5; pid++ {
					p.publish("a", 1, pid, "x")
				}
				eventually(t, "appended", func() bool { return r.log.pending() == 5 })
				r.log.commit(5)
				for pid := uint16(1); pid <= 5; pid++ {
					if v == 4 && int(pid) == i {
						p.closed()
						break
					}
					want := byte(0)
					if int(pid) == i {
						want = code
					}
					if got, c := p.puback(); got != pid || c != want {
						t.Fatalf("version %d, failing %d: PUBACK %d %#x", v, i, got, c)
					}
				}
				r.stop()
			}
		}
	}
}

// Behind a publish that is not stored, nothing more of a 3.1.1 client's goes to
// the log: sent again after a reconnect, it would stand there out of order.
func TestNothingIsAppendedBehindAFailure(t *testing.T) {
	r := start(t, func(o *Options) {
		l := newFakeLog(1)
		l.auto, l.fail = false, func(int) error { return errs.E("fake", errs.Quota, nil) }
		o.Log = l
	})
	p := r.connect(4, "p")
	p.publish("a", 1, 1, "x")
	eventually(t, "appended", func() bool { return r.log.pending() == 1 })
	r.s.mu.Lock()
	c := r.s.clients["p"]
	r.s.mu.Unlock()
	r.log.mu.Lock()
	failing := r.log.waiting[0]
	r.log.mu.Unlock()
	failing.r.Appended(failing.token, failing.e, errs.E("fake", errs.Quota, nil))
	if c.ctx.Err() == nil {
		t.Error("the client may still append when it has been told of the failure")
	}
	p.closed()
}

// The log refuses at once, because it is closing: earlier publishes keep their
// turn, this one is not acknowledged.
func TestLogThatTakesNothing(t *testing.T) {
	for _, v := range versions {
		r := start(t, func(o *Options) { l := newFakeLog(1); l.auto = false; o.Log = l })
		p := r.connect(v, "p")
		p.publish("a", 1, 1, "x")
		p.ping()
		r.log.mu.Lock()
		r.log.refuse = errs.E("fake", errs.Unavailable, errors.New("closing"))
		r.log.mu.Unlock()
		p.publish("a", 0, 0, "x")
		p.publish("a", 1, 2, "x")
		if v == 4 {
			p.closed()
			continue
		}
		p.ping()
		r.log.commit(1)
		for want, code := range []byte{0, codeUnspecified} {
			if pid, c := p.puback(); int(pid) != want+1 || c != code {
				t.Errorf("PUBACK %d %#x", pid, c)
			}
		}
		r.stop()
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	az := &policy{deny: map[string]bool{"iot:Publish no": true}}
	r := start(t, func(o *Options) { o.Registerer, o.Authorizer = reg, az })
	p := r.connect(5, "p")
	p.subscribe("a")
	p.publish("a", 1, 1, "x")
	p.publish("a", 0, 0, "x")
	p.publish("no", 1, 2, "x")
	for n := 0; n < 4; n++ { // two PUBACKs, two deliveries
		if _, _, err := p.read(); err != nil {
			t.Fatal(err)
		}
	}
	p.ping()
	want := map[string]float64{
		"weir_mqtt_connections": 1, "weir_mqtt_connects_total accepted": 1, "weir_mqtt_pubacks_total": 1,
		"weir_mqtt_publishes_total 0": 1, "weir_mqtt_publishes_total 1": 1,
		"weir_mqtt_deliveries_total 0": 1, "weir_mqtt_deliveries_total 1": 1, "weir_mqtt_denials_total iot:Publish": 1,
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			if w, ok := want[name]; ok && m.GetCounter().GetValue()+m.GetGauge().GetValue() != w {
				t.Errorf("%s is %v", name, m)
			}
			delete(want, name)
		}
	}
	if len(want) > 0 {
		t.Error("missing:", want)
	}
	if _, err := newMetrics(reg); err == nil {
		t.Error("registered twice")
	}
}

func TestFullLogSlowsPublishersDown(t *testing.T) {
	r := start(t, func(o *Options) { l := newFakeLog(1); l.auto, l.limit = false, 10; o.Log = l })
	p := r.connect(4, "p")
	var sent atomic.Int64
	go func() {
		b := p.publishPacket("a", 0, 0, strings.Repeat("x", 1000))
		for {
			if _, err := p.nc.Write(b); err != nil {
				return
			}
			sent.Add(1)
		}
	}()
	last := int64(-1)
	eventually(t, "the publisher stands still", func() bool {
		now := sent.Load()
		still := now == last && now > 10
		last = now
		time.Sleep(50 * time.Millisecond)
		return still
	})
	if n := r.log.pending(); n != 10 {
		t.Error(n, "wait in the log")
	}
	other := r.connect(4, "other") // nobody else is held up
	other.ping()
	p.nc.Close()
}

// A 3.1.1 client may send more than the window; it is read from no further. A
// client of version 5 has been told.
func TestWindowOfPublishes(t *testing.T) {
	r := start(t, func(o *Options) { l := newFakeLog(1); l.auto = false; o.Log = l })
	old, v5 := r.connect(4, "old"), r.connect(5, "new")
	var b []byte
	for i := 1; i <= 150; i++ {
		b = append(b, old.publishPacket("a", 1, uint16(i), "x")...)
	}
	old.send(b)
	eventually(t, "100 appended", func() bool { return r.log.pending() == 100 })
	r.log.commit(60)
	for i := 1; i <= 60; i++ {
		old.puback()
	}
	eventually(t, "the rest appended", func() bool { return r.log.pending() == 90 })
	for i := 1; i <= 100; i++ {
		v5.publish("a", 1, uint16(i), "x")
	}
	v5.publish("a", 0, 0, "QoS 0 needs no window")
	v5.ping()
	v5.publish("a", 1, 101, "x")
	v5.disconnected(codeReceiveMax)
}

func TestConnackAnnouncesWhatHolds(t *testing.T) {
	r := start(t, nil)
	p := r.dial()
	p.send(connectPacket(5, "", 0, 7, []byte{packets.PropSessionExpiryInterval, 0, 0, 0, 100}))
	code, props := p.connack()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, ProtocolVersion: 5}
	if err := pk.ConnackDecode(append([]byte{0, code}, props...)); err != nil {
		t.Fatal(err)
	}
	q := pk.Properties
	if q.ReceiveMaximum != 100 || !q.MaximumQosFlag || q.MaximumQos != 1 || q.MaximumPacketSize != 149504 || q.TopicAliasMaximum != 8 ||
		!q.SubIDAvailableFlag || q.SubIDAvailable != 0 || !q.SharedSubAvailableFlag || q.SharedSubAvailable != 1 ||
		!q.RetainAvailableFlag || !q.WildcardSubAvailableFlag || q.WildcardSubAvailable != 1 ||
		q.ServerKeepAlive != 30 || !strings.HasPrefix(q.AssignedClientID, "auto-") || !q.SessionExpiryIntervalFlag || q.SessionExpiryInterval != 0 {
		t.Errorf("%+v", q)
	}
}

func TestTakeover(t *testing.T) {
	for _, v := range versions {
		r := start(t, nil)
		first := r.connect(v, "same")
		first.subscribe("a")
		second := r.connect(v, "same")
		first.disconnected(codeTakenOver)
		if n := len(r.s.Clients()); n != 1 {
			t.Error(n, "clients")
		}
		second.publish("a", 1, 1, "x")
		second.puback()
		second.ping() // the first one's subscription is gone
		r.stop()
	}
}

func TestTakeoverIsForWhoMayConnect(t *testing.T) {
	az := &policy{deny: map[string]bool{}}
	r := start(t, func(o *Options) { o.Authorizer = az })
	first := r.connect(4, "same")
	az.set("iot:Connect same")
	p := r.dial()
	p.send(connectPacket(4, "same", 2, 60, nil))
	if code, _ := p.connack(); code != 5 {
		t.Error("CONNACK", code)
	}
	first.ping()
}

// policy denies "action resource".
type policy struct {
	mu   sync.Mutex
	deny map[string]bool
}

func (p *policy) set(denied ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range denied {
		p.deny[d] = true
	}
}

func (p *policy) May(_ *auth.Principal, a auth.Action, resource string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.deny[a.String()+" "+resource]
}

func TestDenials(t *testing.T) {
	az := &policy{deny: map[string]bool{}}
	az.set("iot:Publish no", "iot:Subscribe no", "iot:Subscribe $share/g/no", "iot:Receive silent")
	for _, v := range versions {
		r := start(t, func(o *Options) { o.Authorizer = az })
		for _, topic := range []string{"no", "$aws/events/x", "$SYS/x", "$aws/things/t/jobs/get", "$aws/certificates/create/json"} {
			p := r.connect(v, "p")
			p.publish(topic, 1, 1, "x")
			if v == 4 {
				p.closed()
			} else if pid, code := p.puback(); pid != 1 || code != codeNotAuthorized {
				t.Error(topic, pid, code)
			}
			p = r.connect(v, "p")
			p.publish(topic, 0, 0, "x")
			p.disconnected(codeNotAuthorized)
		}
		p := r.connect(v, "p")
		want := []byte{1, 0x87, 0x87, 0x87, 0x8f, 0x87, 0x8f, 0x87}
		if v == 4 {
			want = []byte{1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80}
		}
		got := p.subscribe("yes", "no", "$SYS/#", "$aws/rules/r", "a/#/b", "$share/g/no", "$share/+/x", "$SHARE/g/x")
		if !bytes.Equal(got, want) {
			t.Errorf("SUBACK % x, want % x", got, want)
		}
		p.subscribe("silent")
		p.publish("silent", 0, 0, "x")
		p.publish("yes", 0, 0, "x")
		if d := p.delivery(); d.topic != "yes" {
			t.Error(d)
		}
		if n := len(r.log.events(0)); n != 2 {
			t.Error(n, "events on the log")
		}
		r.stop()
	}
}

func TestBasicIngestGoesToItsRuleOnly(t *testing.T) {
	r := start(t, nil)
	p := r.connect(4, "p")
	p.subscribe("#", "a/b")
	p.publish("$aws/rules/r/a/b", 1, 1, "x")
	p.puback()
	p.ping()
	if e := r.log.events(0); len(e) != 1 || e[0].Topic != "$aws/rules/r/a/b" {
		t.Error(e)
	}
}

func TestTopicAliases(t *testing.T) {
	alias := func(n uint16) []byte { return binary.BigEndian.AppendUint16([]byte{packets.PropTopicAlias}, n) }
	az := &policy{deny: map[string]bool{}}
	r := start(t, func(o *Options) { o.Authorizer = az })
	p := r.connect(5, "p")
	p.publish("one", 1, 1, "a", alias(1)...)
	p.publish("", 1, 2, "b", alias(1)...)
	p.publish("two", 1, 3, "c", alias(1)...)
	p.publish("", 1, 4, "d", alias(1)...)
	for range 4 {
		if _, code := p.puback(); code != 0 {
			t.Fatal(code)
		}
	}
	var topics []string
	for _, e := range r.log.events(0) {
		topics = append(topics, string(e.Topic))
	}
	if strings.Join(topics, " ") != "one one two two" {
		t.Error(topics)
	}
	az.set("iot:Publish two")
	p.publish("", 1, 5, "e", alias(1)...) // the alias outlives the permission; the publish does not
	if _, code := p.puback(); code != codeNotAuthorized {
		t.Error(code)
	}
	for name, b := range map[string][]byte{
		"unknown": p.publishPacket("", 0, 0, "x", alias(2)...), "above": p.publishPacket("x", 0, 0, "x", alias(9)...), "zero": p.publishPacket("x", 0, 0, "x", alias(0)...),
	} {
		p := r.connect(5, "q")
		p.send(b)
		t.Log(name)
		p.disconnected(codeAliasInvalid)
	}
	p = r.connect(5, "q")
	p.publish("", 0, 0, "neither")
	p.disconnected(codeProtocol)
}

func TestLimits(t *testing.T) {
	for _, v := range versions {
		r := start(t, nil)
		long := "a/" + strings.Repeat("b", 255)
		for _, c := range []struct {
			name string
			code byte
			send func(p *peer)
		}{
			{"payload", codePacketTooLarge, func(p *peer) { p.publish("a", 0, 0, strings.Repeat("x", 128<<10+1)) }},
			{"packet", codePacketTooLarge, func(p *peer) { p.send([]byte{packets.Publish << 4, 0xff, 0xff, 0xff, 0x7f}) }},
			{"topic bytes", codeTopicInvalid, func(p *peer) { p.publish(long, 0, 0, "x") }},
			{"slashes", codeTopicInvalid, func(p *peer) { p.publish(strings.Repeat("/", 8), 0, 0, "x") }},
			{"65,400 slashes", codeTopicInvalid, func(p *peer) { p.publish(strings.Repeat("/", 65400), 0, 0, "x") }},
			{"QoS 2", codeQoSNone, func(p *peer) { p.publish("a", 2, 1, "x") }},
			{"wildcard", codeTopicInvalid, func(p *peer) { p.publish("a/+", 0, 0, "x") }},
		} {
			p := r.connect(v, "p")
			c.send(p)
			t.Log(c.name)
			p.disconnected(c.code)
		}
		p := r.connect(v, "p")
		p.publish("a", 1, 1, strings.Repeat("x", 128<<10))
		p.puback()
		nine := p.subscribe("1", "2", "3", "4", "5", "6", "7", "8", "9")
		if nine[7] != 1 || v == 5 && nine[8] != codeQuota || v == 4 && nine[8] != 0x80 {
			t.Errorf("% x", nine)
		}
		for i := range 42 {
			if c := p.subscribe(fmt.Sprint("s", i)); c[0] != 1 {
				t.Fatalf("subscription %d: %#x", i, c)
			}
		}
		if c := p.subscribe("over"); c[0] < 0x80 {
			t.Errorf("subscription 51: %#x", c)
		}
		if c := p.subscribe("1"); c[0] != 1 {
			t.Errorf("again: %#x", c)
		}
		r.stop()
	}
}

func TestConnectRefusals(t *testing.T) {
	r := start(t, nil)
	will := func(topic string) []byte { return append(str(topic), str("w")...) }
	for _, c := range []struct {
		name string
		b    []byte
		code int // -1: closed without CONNACK
	}{
		{"4: long id", connectPacket(4, strings.Repeat("x", 129), 2, 60, nil), 2},
		{"5: long id", connectPacket(5, strings.Repeat("x", 129), 2, 60, nil), codeClientID},
		{"4: wildcard", connectPacket(4, "a+", 2, 60, nil), 2},
		{"5: newline", connectPacket(5, "a\nb", 2, 60, nil), codeClientID},
		{"4: empty id, not clean", connectPacket(4, "", 0, 60, nil), 2},
		{"3.1", packet(packets.Connect<<4, append(append(str("MQIsdp"), 3, 2, 0, 60), str("x")...)), 1},
		{"version 6", connectPacket(6, "x", 2, 60, nil), codeVersion},
		{"4: reserved flag", connectPacket(4, "x", 3, 60, nil), -1},
		{"5: reserved flag", connectPacket(5, "x", 3, 60, nil), codeMalformed},
		{"5: auth method", connectPacket(5, "x", 2, 60, append([]byte{packets.PropAuthenticationMethod}, str("m")...)), codeBadAuthMethod},
		{"5: property twice", connectPacket(5, "x", 2, 60, []byte{packets.PropReceiveMaximum, 0, 1, packets.PropReceiveMaximum, 0, 1}), codeProtocol},
		{"5: receive maximum 0", connectPacket(5, "x", 2, 60, []byte{packets.PropReceiveMaximum, 0, 0}), codeProtocol},
		{"5: property of PUBLISH", connectPacket(5, "x", 2, 60, []byte{packets.PropTopicAlias, 0, 1}), codeProtocol},
		{"5: unknown property", connectPacket(5, "x", 2, 60, []byte{99}), codeMalformed},
		{"5: property cut short", connectPacket(5, "x", 2, 60, []byte{packets.PropReceiveMaximum, 0}), codeMalformed},
		{"4: bytes behind", connectPacket(4, "x", 2, 60, nil, 1), -1},
		{"4: will QoS 3", connectPacket(4, "x", 2|4|3<<3, 60, nil, will("a")...), -1},
		{"5: will QoS 2", connectPacket(5, "x", 2|4|2<<3, 60, nil, append([]byte{0}, will("a")...)...), codeQoSNone},
		{"4: will forbidden", connectPacket(4, "x", 2|4, 60, nil, will("$aws/events/x")...), 5},
		{"5: will forbidden", connectPacket(5, "x", 2|4, 60, nil, append([]byte{0}, will("$aws/events/x")...)...), codeNotAuthorized},
		{"5: will wildcard", connectPacket(5, "x", 2|4, 60, nil, append([]byte{0}, will("a/#")...)...), codeTopicInvalid},
		{"4: password without user name", connectPacket(4, "x", 2|0x40, 60, nil, str("p")...), -1},
		{"not a CONNECT", []byte{packets.Pingreq << 4, 0}, -1},
		{"AUTH", []byte{packets.Auth << 4, 0}, -1},
	} {
		p := r.dial()
		p.send(c.b)
		if c.code >= 0 {
			if code, _ := p.connack(); int(code) != c.code {
				t.Errorf("%s: CONNACK %#x, want %#x", c.name, code, c.code)
			}
		}
		t.Log(c.name)
		p.closed()
	}
	if n := len(r.s.Clients()); n != 0 {
		t.Error(n, "clients")
	}
}

func TestProtocolErrors(t *testing.T) {
	for _, v := range versions {
		r := start(t, nil)
		sub := func(p *peer, options byte, props []byte, filter string) []byte {
			b := []byte{0, 1}
			if p.v5 {
				b = append(appendLength(b, len(props)), props...)
			}
			return packet(packets.Subscribe<<4|2, append(append(b, str(filter)...), options))
		}
		for _, c := range []struct {
			name  string
			v     byte // 0: both
			code  byte
			bytes func(p *peer) []byte
		}{
			{"second CONNECT", 0, codeProtocol, func(*peer) []byte { return connectPacket(v, "p", 2, 60, nil) }},
			{"CONNACK", 0, codeProtocol, func(*peer) []byte { return []byte{packets.Connack << 4, 2, 0, 0} }},
			{"PUBREC", 0, codeProtocol, func(*peer) []byte { return []byte{packets.Pubrec << 4, 2, 0, 1} }},
			{"AUTH", 0, codeProtocol, func(*peer) []byte { return []byte{packets.Auth << 4, 0} }},
			{"type 0", 0, codeMalformed, func(*peer) []byte { return []byte{0, 0} }},
			{"flags", 0, codeMalformed, func(*peer) []byte { return []byte{packets.Pingreq<<4 | 1, 0} }},
			{"SUBSCRIBE flags", 0, codeMalformed, func(*peer) []byte { return []byte{packets.Subscribe << 4, 0} }},
			{"five bytes of length", 0, codeMalformed, func(*peer) []byte { return []byte{packets.Publish << 4, 0x80, 0x80, 0x80, 0x80, 0} }},
			{"packet id 0", 0, codeProtocol, func(p *peer) []byte { return p.publishPacket("a", 1, 0, "x") }},
			{"DUP with QoS 0", 0, codeMalformed, func(p *peer) []byte { b := p.publishPacket("a", 0, 0, "x"); b[0] |= 8; return b }},
			{"QoS 3", 0, codeMalformed, func(p *peer) []byte { b := p.publishPacket("a", 1, 1, "x"); b[0] |= 6; return b }},
			{"bad UTF-8", 0, codeMalformed, func(p *peer) []byte { return p.publishPacket("a\xff", 0, 0, "x") }},
			{"surrogate", 0, codeMalformed, func(p *peer) []byte { return p.publishPacket("a\xed\xa0\x80", 0, 0, "x") }},
			{"NUL", 0, codeMalformed, func(p *peer) []byte { return p.publishPacket("a\x00", 0, 0, "x") }},
			{"topic longer than packet", 0, codeMalformed, func(*peer) []byte { return packet(packets.Publish<<4, []byte{0xff, 0xff, 'a'}) }},
			{"empty SUBSCRIBE", 0, codeMalformed, func(*peer) []byte { return packet(packets.Subscribe<<4|2, nil) }},
			{"options missing", 5, codeMalformed, func(*peer) []byte { return packet(packets.Subscribe<<4|2, append([]byte{0, 1, 0}, str("a")...)) }},
			{"reserved option", 5, codeMalformed, func(p *peer) []byte { return sub(p, 0x40, nil, "a") }},
			{"subscription id", 5, codeSubscriptionIDNo, func(p *peer) []byte { return sub(p, 0, []byte{packets.PropSubscriptionIdentifier, 1}, "a") }},
			{"no local shared", 5, codeProtocol, func(p *peer) []byte { return sub(p, 4, nil, "$share/g/a") }},
			{"property twice", 5, codeProtocol, func(p *peer) []byte {
				return p.publishPacket("a", 0, 0, "x", packets.PropPayloadFormat, 1, packets.PropPayloadFormat, 1)
			}},
			{"property over the end", 5, codeMalformed, func(*peer) []byte { return packet(packets.Publish<<4, append(str("a"), 200)) }},
			{"response topic", 5, codeTopicInvalid, func(p *peer) []byte {
				return p.publishPacket("a", 0, 0, "x", append([]byte{packets.PropResponseTopic}, str("a/#")...)...)
			}},
		} {
			if c.v != 0 && c.v != v {
				continue
			}
			p := r.connect(v, "p")
			p.send(c.bytes(p))
			t.Log(v, c.name)
			p.disconnected(c.code)
		}
		if n := len(r.log.events(0)); n != 0 {
			t.Error(n, "events on the log")
		}
		r.stop()
	}
}

func TestSecretsAndPayloadsStayOutOfLogs(t *testing.T) {
	r := start(t, func(o *Options) {
		o.Authorizer = &policy{deny: map[string]bool{"iot:Publish no": true, "iot:Connect bad": true}}
	})
	creds := append(str("canary-user"), str("canary-password")...)
	for _, id := range []string{"good", "bad", "bad\n"} {
		p := r.dial()
		p.send(connectPacket(5, id, 2|0xc0, 60, nil, creds...))
		if code, _ := p.connack(); code == 0 {
			p.v5 = true
			p.publish("no", 1, 1, "canary-payload")
			p.puback()
			p.publish("a", 2, 1, "canary-payload")
			p.disconnected(codeQoSNone)
		}
	}
	r.stop()
	if out := r.out.String(); strings.Contains(out, "canary") || !strings.Contains(out, "refused") {
		t.Error(out)
	}
}

func TestKeepAlive(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	r := start(t, func(o *Options) {
		o.Now = func() time.Time { return time.Unix(0, now.Load()) }
		o.Safety.KeepAliveTick = time.Millisecond
	})
	p := r.connect(5, "p") // 60 s
	now.Add(int64(60 * time.Second))
	p.ping()
	now.Add(int64(89 * time.Second))
	p.ping()
	now.Add(int64(91 * time.Second))
	p.disconnected(codeKeepAlive)
}

// A client that the log holds up is not overdue.
func TestKeepAliveWhileTheLogIsFull(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	r := start(t, func(o *Options) {
		l := newFakeLog(1)
		l.auto, l.limit = false, 1
		o.Log, o.Now = l, func() time.Time { return time.Unix(0, now.Load()) }
		o.Safety.KeepAliveTick = time.Millisecond
	})
	p := r.connect(5, "p")
	p.publish("a", 1, 1, "x")
	p.publish("a", 1, 2, "x")
	eventually(t, "held up", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return r.log.pending() == 1 && !r.s.clients["p"].idle.Load()
	})
	now.Add(int64(200 * time.Second))
	tick := func() bool { return r.s.tick.Load() == now.Load() }
	eventually(t, "a sweep", tick)
	r.log.commit(1)
	p.puback()
	eventually(t, "the second", func() bool { return r.log.pending() == 1 })
	r.log.commit(1)
	p.puback()
	p.ping()
}

func TestMessageProperties(t *testing.T) {
	r := start(t, nil)
	sub, pub, old := r.connect(5, "sub"), r.connect(5, "pub"), r.connect(4, "old")
	sub.subscribe("a")
	old.subscribe("a")
	var props []byte
	props = append(props, packets.PropPayloadFormat, 1, packets.PropMessageExpiryInterval, 0, 0, 0, 100)
	props = append(append(props, packets.PropContentType), str("text/plain")...)
	props = append(append(props, packets.PropResponseTopic), str("re/ply")...)
	props = append(append(props, packets.PropCorrelationData), str("\x00\xff")...)
	for _, kv := range []string{"k", "k", "a"} {
		props = append(append(append(props, packets.PropUser), str(kv)...), str("v")...)
	}
	pub.publish("a", 1, 1, "x", props...)
	pub.puback()
	d := sub.delivery()
	if !bytes.Equal(d.props, props) {
		t.Errorf("got  % x\nwant % x", d.props, props)
	}
	if d := old.delivery(); d.payload != "x" {
		t.Error(d)
	}
	if p := r.log.events(0)[0].Props; p.MessageExpiry != 100 || p.ResponseTopic != "re/ply" || len(p.User) != 3 {
		t.Errorf("%+v", p)
	}
}

func TestExpiredMessagesAreNotSent(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	r := start(t, func(o *Options) {
		l := newFakeLog(1)
		l.auto = false
		o.Log, o.Now = l, func() time.Time { return time.Unix(0, now.Load()) }
	})
	sub, pub := r.connect(5, "sub"), r.connect(5, "pub")
	sub.subscribe("a")
	pub.publish("a", 1, 1, "short", packets.PropMessageExpiryInterval, 0, 0, 0, 5)
	pub.publish("a", 1, 2, "long", packets.PropMessageExpiryInterval, 0, 0, 0, 50)
	eventually(t, "appended", func() bool { return r.log.pending() == 2 })
	now.Add(int64(10 * time.Second))
	r.log.commit(2)
	d := sub.delivery()
	if d.payload != "long" || !bytes.Equal(d.props, []byte{packets.PropMessageExpiryInterval, 0, 0, 0, 40}) {
		t.Error(d, d.props)
	}
}

func TestWill(t *testing.T) {
	for _, v := range versions {
		az := &policy{deny: map[string]bool{}}
		r := start(t, func(o *Options) { o.Authorizer = az })
		watch := r.connect(4, "watch")
		watch.subscribe("will/#", "end")
		dial := func(id, topic string) *peer {
			p := r.dial()
			var rest []byte
			if v == 5 {
				rest = append(rest, 2, packets.PropPayloadFormat, 1)
			}
			p.send(connectPacket(v, id, 2|4|1<<3, 60, nil, append(append(rest, str(topic)...), str("bye "+id)...)...))
			p.connack()
			p.v5 = v == 5
			return p
		}
		gone := func(id string) {
			eventually(t, id+" is gone", func() bool {
				for _, c := range r.s.Clients() {
					if c.ClientID == id {
						return false
					}
				}
				return true
			})
		}
		dial("lost", "will/lost").nc.Close()
		if d := watch.delivery(); d.payload != "bye lost" || d.qos != 1 {
			t.Error(d)
		}
		p := dial("broken", "will/broken")
		p.send([]byte{0, 0})
		p.disconnected(codeMalformed)
		if d := watch.delivery(); d.payload != "bye broken" {
			t.Error(d)
		}
		if v == 5 {
			p := dial("asks", "will/asks")
			p.send([]byte{packets.Disconnect << 4, 2, codeWithWill, 0})
			if d := watch.delivery(); d.payload != "bye asks" {
				t.Error(d)
			}
		}
		p = dial("takes leave", "will/leave")
		p.send([]byte{packets.Disconnect << 4, 0})
		p.closed()
		p = dial("withdrawn", "will/withdrawn")
		az.set("iot:Publish will/withdrawn")
		p.nc.Close()
		gone("takes leave")
		gone("withdrawn")
		watch.publish("end", 0, 0, "end")
		if d := watch.delivery(); d.payload != "end" {
			t.Error(d)
		}
		r.stop()
	}
}

func TestOverlappingSubscriptionsDeliverOnce(t *testing.T) {
	r := start(t, func(o *Options) { o.Limits = ingest.Relaxed() })
	p := r.connect(5, "p")
	p.subscribeWith([]byte{packets.PropSubscriptionIdentifier, 3}, 0, "a/#")
	p.subscribeWith([]byte{packets.PropSubscriptionIdentifier, 4}, 1, "a/+")
	p.subscribeWith([]byte{packets.PropSubscriptionIdentifier, 5}, 1, "+/b")
	p.publish("a/b", 1, 1, "x")
	p.puback()
	d := p.delivery()
	if d.qos != 1 || len(d.props) != 6 {
		t.Error(d, d.props)
	}
	p.ping()
	// No local, and the same filter again.
	p.subscribeWith(nil, 1|4, "n")
	p.publish("n", 0, 0, "own")
	p.ping()
	eventually(t, "passed by", func() bool { return r.s.handed[0].Load() == r.log.Committed(0) })
	p.subscribeWith(nil, 1, "n")
	p.publish("n", 0, 0, "own")
	if d := p.delivery(); d.payload != "own" {
		t.Error(d)
	}
	p.ping()
}

// The client takes one message at a time, and never more than it said.
func TestReceiveMaximumOfTheClient(t *testing.T) {
	r := start(t, nil)
	sub := r.connect(5, "sub", packets.PropReceiveMaximum, 0, 2)
	pub := r.connect(4, "pub")
	sub.subscribe("a")
	for i := range 50 {
		pub.publish("a", 1, uint16(i+1), fmt.Sprint(i))
		pub.puback()
	}
	for i := 0; i < 50; i += 2 {
		one, two := sub.delivery(), sub.delivery()
		if one.payload != fmt.Sprint(i) || two.payload != fmt.Sprint(i+1) {
			t.Fatal(i, one, two)
		}
		sub.ping() // a third one would come before
		sub.ack(one.pid)
		sub.ack(two.pid)
	}
	sub.ping()
}

// A subscriber that is slow in every way: a small window, a small queue, a
// socket it does not read. Nothing of QoS 1 is lost or reordered, memory is
// bounded, QoS 0 is dropped.
func TestSlowSubscriberLosesNothing(t *testing.T) {
	for _, parts := range []int{1, 2} {
		r := start(t, func(o *Options) {
			o.Log = newFakeLog(parts)
			o.Safety.QueuedMessages = 10
			o.Safety.PendingBytes = 8 << 10
		})
		sub := r.connect(4, "sub")
		sub.subscribe("q1/#")
		const n = 3000
		var wg sync.WaitGroup
		for _, id := range []string{"x", "yy"} { // different partitions, where there are two
			pub := r.connect(4, id)
			wg.Go(func() {
				for i := range n {
					pub.publish("q1/"+id, 1, uint16(i+1), fmt.Sprintf("%d %s", i, strings.Repeat(".", 500)))
					if _, b, err := pub.read(); err != nil || len(b) != 2 {
						t.Error(err, b)
						return
					}
				}
			})
		}
		next := map[string]int{}
		for range 2 * n {
			d := sub.delivery()
			var i int
			fmt.Sscan(d.payload, &i)
			if i != next[d.topic] {
				t.Fatalf("%s: %d after %d", d.topic, i, next[d.topic]-1)
			}
			next[d.topic]++
			sub.ack(d.pid)
			if i == n/2 { // long enough for everything to fill
				wg.Wait()
			}
		}
		sub.ping()
		if r.log.follows <= parts {
			t.Error("the session never followed the log by itself")
		}
		eventually(t, "joined", func() bool {
			r.s.mu.Lock()
			s := r.s.clients["sub"].sess
			r.s.mu.Unlock()
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, p := range s.places {
				if p.behind {
					return false
				}
			}
			return true
		})
		// Live again, and a subscription made while late begins where it was made.
		pub := r.connect(4, "z")
		pub.publish("q1/z", 1, 1, "live")
		if d := sub.delivery(); d.payload != "live" {
			t.Error(d)
		}
		r.stop()
	}
}

// A session that follows the log by itself subscribes to something more: it gets
// all of it from there on, and nothing from before.
func TestSubscribingWhileSlow(t *testing.T) {
	r := start(t, func(o *Options) { o.Safety.QueuedMessages = 5 })
	sub, pub := r.connect(5, "sub", packets.PropReceiveMaximum, 0, 3), r.connect(4, "pub")
	sub.subscribe("a")
	next := map[string]int{}
	send := func(topic string) {
		next[topic]++
		pub.publish(topic, 1, 1, fmt.Sprint(next[topic]))
		pub.puback()
	}
	seen := map[string]int{}
	take := func() {
		d := sub.delivery()
		var i int
		fmt.Sscan(d.payload, &i)
		if last := seen[d.topic]; last != 0 && i != last+1 {
			t.Fatalf("%s: %d after %d", d.topic, i, last)
		}
		seen[d.topic] = i
		sub.ack(d.pid)
	}
	var filters []string
	for k := range 6 { // each time while the session is far behind
		f := fmt.Sprint("b/", k)
		for range 40 {
			send("a")
			for _, g := range append(filters, f) {
				send(g)
			}
		}
		b := append([]byte{0, 9, 0}, append(str(f), 1)...)
		sub.send(packet(packets.Subscribe<<4|2, b))
		for done := false; !done; {
			h, body, err := sub.read()
			if err != nil {
				t.Fatal(err)
			}
			if done = h>>4 == packets.Suback; !done {
				d := sub.parse(h, body)
				var i int
				fmt.Sscan(d.payload, &i)
				seen[d.topic] = i
				sub.ack(d.pid)
			}
		}
		first := next[f] + 1
		send(f)
		send("a")
		filters = append(filters, f)
		for range 30 {
			take()
		}
		if s := seen[f]; s != 0 && s < first {
			t.Errorf("%s: %d is from before", f, s)
		}
	}
	for seen["a"] < next["a"] || func() bool {
		for _, f := range filters {
			if seen[f] < next[f] {
				return true
			}
		}
		return false
	}() {
		take()
	}
	sub.ping()
}

func TestSlowSubscriberOfQoS0(t *testing.T) {
	r := start(t, func(o *Options) { o.Safety.PendingBytes = 8 << 10 })
	sub, other, pub := r.connect(4, "sub"), r.connect(4, "other"), r.connect(4, "pub")
	sub.subscribe("a")
	other.subscribeWith(nil, 0, "b")
	payload := strings.Repeat("x", 100<<10)
	for range 300 { // 30 MB: more than any socket takes
		pub.publish("a", 0, 0, payload)
	}
	pub.publish("b", 0, 0, "done")
	other.delivery()
	r.s.mu.Lock()
	c := r.s.clients["sub"]
	r.s.mu.Unlock()
	if n := c.out.Pending(); n > 8<<10+200<<10 {
		t.Error(n, "bytes pending")
	}
	// It reads on, and has all control packets.
	got := 0
	sub.send([]byte{packets.Pingreq << 4, 0})
	for {
		h, _, err := sub.read()
		if err != nil {
			t.Fatal(err)
		}
		if h>>4 == packets.Pingresp {
			break
		}
		got++
	}
	if got == 0 || got == 300 {
		t.Error(got, "delivered")
	}
}

// A client that sends PINGREQ and never reads must not grow the server.
func TestClientThatDoesNotRead(t *testing.T) {
	r := start(t, func(o *Options) { o.Safety.PendingHard = 32 << 10 })
	p := r.connect(4, "p")
	b := bytes.Repeat([]byte{packets.Pingreq << 4, 0}, 8<<10)
	stuck := false
	for range 10_000 {
		p.nc.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := p.nc.Write(b); err != nil {
			stuck = true
			b = append(b[n:], b[:n]...) // go on where it stopped
			break
		}
	}
	if !stuck {
		t.Fatal("the server takes everything")
	}
	r.s.mu.Lock()
	c := r.s.clients["p"]
	r.s.mu.Unlock()
	if n := c.out.Pending(); n > 64<<10 {
		t.Error(n, "bytes pending")
	}
	// It reads again, and is heard again.
	go io.Copy(io.Discard, p.nc)
	p.nc.SetWriteDeadline(time.Now().Add(60 * time.Second))
	for range 500 {
		if _, err := p.nc.Write(b); err != nil {
			t.Fatal(err)
		}
	}
}

// The window has room but the socket has not: when the client reads, what
// waits comes without any further acknowledgement.
func TestSocketThatFillsBeforeTheWindow(t *testing.T) {
	for _, queued := range []int{0, 1000} {
		r := start(t, func(o *Options) {
			o.Safety.QueuedMessages, o.Safety.QueuedBytes = queued, 100<<20
			o.Limits = ingest.Relaxed()
		})
		sub, pub := r.connect(4, "sub"), r.connect(4, "pub")
		sub.subscribe("a")
		payload := strings.Repeat("x", 100<<10)
		const n = 200 // 20 MB
		for i := range n {
			pub.publish("a", 1, uint16(i+1), fmt.Sprint(i, " ", payload))
			pub.puback()
		}
		for i := range n {
			if d := sub.delivery(); !strings.HasPrefix(d.payload, fmt.Sprint(i, " ")) {
				t.Fatal(i, d.payload[:10])
			}
		}
		sub.ping()
		r.stop()
	}
}

func TestSubackComesBeforeItsMessages(t *testing.T) {
	r := start(t, nil)
	pub := r.connect(4, "pub")
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		b := pub.publishPacket("a", 0, 0, "x")
		for ctx.Err() == nil {
			if _, err := pub.nc.Write(b); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 50 {
		sub := r.connect(4, fmt.Sprint("sub", i))
		sub.subscribe("a") // fails on a PUBLISH before the SUBACK
		sub.delivery()
		sub.nc.Close()
	}
	cancel()
	wg.Wait()
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestGuardBeforeConnect(t *testing.T) {
	r := start(t, func(o *Options) { o.Safety.ConnectTimeout = 300 * time.Millisecond })
	before := heap()
	var peers []*peer
	for range 100 { // 256 MiB announced
		p := r.dial()
		p.send([]byte{packets.Connect << 4, 0xff, 0xff, 0xff, 0x7f})
		peers = append(peers, p)
	}
	for range 100 { // as much as a CONNECT may be, and nothing follows
		p := r.dial()
		p.send([]byte{packets.Connect << 4, 0xff, 0xff, 7})
		peers = append(peers, p)
	}
	eventually(t, "all seen", func() bool { r.s.mu.Lock(); defer r.s.mu.Unlock(); return len(r.s.waiting) <= 100 })
	if after := heap(); after > before+10<<20 {
		t.Error(after-before, "bytes more")
	}
	silent, drip := r.dial(), r.dial()
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, b := range connectPacket(4, "drip", 2, 60, nil) {
			if _, err := drip.nc.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	r.connect(4, "other").ping() // nobody else is held up
	begin := time.Now()
	silent.closed()
	drip.closed()
	for _, p := range peers {
		p.closed()
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Error("cut after", d)
	}
	wg.Wait()
}

func TestUnauthenticatedConnectionsOfAnAddress(t *testing.T) {
	r := start(t, func(o *Options) { o.Safety.Unauthenticated = 5 })
	for range 5 {
		r.dial()
	}
	eventually(t, "five wait", func() bool { r.s.mu.Lock(); defer r.s.mu.Unlock(); return len(r.s.waiting) == 5 })
	r.dial().closed()
}

func TestFailedLogins(t *testing.T) {
	at := time.Unix(1_000_000, 0)
	var mu sync.Mutex
	r := start(t, func(o *Options) {
		o.Authenticator = authFunc(func(c *auth.Connection) error { return errs.E("x", errs.Unauthorized, errors.New("no")) })
		o.Safety.FailedLogins = 3
		o.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return at }
	})
	for range 3 {
		p := r.dial()
		p.send(connectPacket(4, "x", 2, 60, nil))
		if code, _ := p.connack(); code != 5 {
			t.Fatal(code)
		}
		p.closed()
	}
	r.dial().closed()
	mu.Lock()
	at = at.Add(time.Second)
	mu.Unlock()
	p := r.dial()
	p.send(connectPacket(4, "x", 2, 60, nil))
	p.connack()
}

type authFunc func(c *auth.Connection) error

func (f authFunc) Authenticate(_ context.Context, c *auth.Connection) (*auth.Principal, error) {
	return &auth.Principal{}, f(c)
}

func TestShutdownTellsClients(t *testing.T) {
	r := start(t, func(o *Options) {
		l := newFakeLog(1)
		l.auto = false
		o.Log = l
		o.Safety.ShutdownDrainTime = 5 * time.Second
	})
	p := r.connect(5, "p")
	p.publish("a", 1, 1, "under way")
	eventually(t, "appended", func() bool { return r.log.pending() == 1 })
	var wg sync.WaitGroup
	wg.Go(r.stop)
	eventually(t, "stopping", func() bool { r.s.mu.Lock(); defer r.s.mu.Unlock(); return !r.s.running })
	r.log.commit(1)
	p.puback()
	p.disconnected(codeShuttingDown)
	wg.Wait()
}

func TestAdministrativeDisconnect(t *testing.T) {
	r := start(t, nil)
	p, q := r.connect(5, "p"), r.connect(5, "q")
	if !r.s.Disconnect("p") || r.s.Disconnect("nobody") {
		t.Error("Disconnect")
	}
	p.disconnected(codeAdministrative)
	if r.s.DisconnectPrincipal("p-q") != 1 {
		t.Error("DisconnectPrincipal")
	}
	q.disconnected(codeNotAuthorized)
}

func TestPlainListenerIsForLoopback(t *testing.T) {
	for _, addr := range []string{":0", "0.0.0.0:0", "192.0.2.1:1883", "[::]:0"} {
		if s, err := New(Options{Log: newFakeLog(1), Authenticator: insider{}, Authorizer: auth.AllowAll{}, Plain: addr}); err == nil {
			s.Close()
			t.Error(addr, "is accepted")
		}
	}
}

// Whatever bytes a client sends, in whatever pieces: the server neither panics
// nor keeps the connection for ever, and others are served.
func FuzzPackets(f *testing.F) {
	p5 := &peer{v5: true}
	f.Add(byte(5), p5.publishPacket("a", 1, 1, "x", packets.PropTopicAlias, 0, 1))
	f.Add(byte(4), packet(packets.Subscribe<<4|2, append([]byte{0, 1}, append(str("a/#"), 1)...)))
	f.Add(byte(5), packet(packets.Subscribe<<4|2, append([]byte{0, 1, 0}, append(str("$share/g/a"), 1)...)))
	f.Add(byte(5), packet(packets.Unsubscribe<<4|2, append([]byte{0, 1, 0}, str("a")...)))
	f.Add(byte(5), []byte{packets.Disconnect << 4, 2, 4, 0})
	f.Add(byte(4), []byte{packets.Puback << 4, 2, 0, 1})
	f.Add(byte(0), connectPacket(5, "x", 2|4, 60, nil, append([]byte{0}, append(str("w"), str("p")...)...)...))
	r := start(f, nil)
	var n atomic.Int64
	f.Fuzz(func(t *testing.T, version byte, b []byte) {
		nc, err := net.Dial("tcp", r.s.Addr(auth.Plain).String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if version == 4 || version == 5 {
			nc.Write(connectPacket(version, fmt.Sprint("f", n.Add(1)), 2, 60, nil))
		}
		nc.Write(b)
		nc.Write([]byte{packets.Pingreq << 4, 0})
		nc.(*net.TCPConn).CloseWrite()
		nc.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, nc); err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				t.Fatal("the connection stays open")
			}
		}
	})
}

func FuzzCheck(f *testing.F) {
	f.Add(connectPacket(5, "x", 2, 60, []byte{packets.PropReceiveMaximum, 0, 1})[2:])
	f.Add(connectPacket(4, "x", 0xc6, 60, nil, append(append(str("w"), str("p")...), append(str("u"), str("p")...)...)...)[2:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if version, fault := checkConnect(b); fault == nil {
			pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect, Remaining: len(b)}}
			if err := pk.ConnectDecode(b); err != nil || pk.ProtocolVersion != version {
				t.Errorf("the codec refuses what the check takes: %v", err)
			}
		}
		for _, v5 := range []bool{false, true} {
			for _, typ := range []byte{packets.Subscribe, packets.Unsubscribe} {
				if checkSubscribe(b, typ, v5) != nil {
					continue
				}
				pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: typ, Remaining: len(b)}, ProtocolVersion: 4}
				if v5 {
					pk.ProtocolVersion = 5
				}
				decode := pk.SubscribeDecode
				if typ == packets.Unsubscribe {
					decode = pk.UnsubscribeDecode
				}
				if err := decode(b); err != nil {
					t.Errorf("the codec refuses what the check takes: %v", err)
				}
			}
			var p publish
			for _, h := range []byte{packets.Publish << 4, packets.Publish<<4 | 2} {
				if parsePublish(h, b, v5, &p) == nil && len(p.topic)+len(p.props)+len(p.payload) > len(b) {
					t.Error("more out than in")
				}
			}
		}
	})
}

// An answer does not wait for the rest of the packet behind its question.
func TestAnswerBeforeHalfAPacket(t *testing.T) {
	r := start(t, nil)
	p := r.connect(5, "p")
	next := p.publishPacket("a", 1, 1, "x")
	p.send(append([]byte{packets.Pingreq << 4, 0}, next[:4]...))
	p.expect(packets.Pingresp)
	p.send(next[4:])
	p.puback()
}
