package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/kv"
)

// fakeBucket is a bucket in memory.
type fakeBucket struct {
	mu      sync.Mutex
	values  map[string][]byte
	commits int
	err     error
	unread  int // how many readings fail from now on
}

func newFakeBucket() *fakeBucket { return &fakeBucket{values: map[string][]byte{}} }

func (b *fakeBucket) Scan(_ context.Context, prefix string, f func(kv.Entry) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(b.values)) {
		if strings.HasPrefix(k, prefix) {
			if err := f(kv.Entry{Key: k, Value: b.values[k]}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *fakeBucket) Commit(_ context.Context, changes []kv.Change) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	b.commits++
	for _, c := range changes {
		if len(c.Value) == 0 {
			delete(b.values, c.Key)
		} else {
			b.values[c.Key] = c.Value
		}
	}
	return uint64(b.commits), nil
}

func (b *fakeBucket) Get(_ context.Context, key string) (kv.Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.unread > 0 {
		b.unread--
		return kv.Entry{}, errs.E("fake", errs.Unavailable, nil)
	}
	if b.values[key] == nil {
		return kv.Entry{}, errs.E("fake", errs.NotFound, nil)
	}
	return kv.Entry{Key: key, Value: b.values[key]}, nil
}

// copy returns what is in the bucket, as a crash would leave it.
func (b *fakeBucket) copy() *fakeBucket {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &fakeBucket{values: maps.Clone(b.values)}
}

func (b *fakeBucket) set(err error) {
	b.mu.Lock()
	b.err = err
	b.mu.Unlock()
}

func (b *fakeBucket) has(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.values[key] != nil
}

func (p *peer) retain(topic, payload string, pid uint16) {
	p.t.Helper()
	b := p.publishPacket(topic, 1, pid, payload)
	b[0] |= 1
	p.send(b)
}

func TestRetained(t *testing.T) {
	for _, relaxed := range []bool{false, true} {
		b := newFakeBucket()
		r := start(t, func(o *Options) {
			o.Retained = b
			if relaxed {
				o.Limits = ingest.Relaxed()
			}
		})
		pub, live, rap := r.connect(4, "pub"), r.connect(4, "live"), r.connect(5, "rap")
		live.subscribe("a/b")
		rap.subscribeWith(nil, 1|8, "a/b")
		pub.retain("a/b", "one", 1)
		pub.retain("a/c", "two", 2)
		pub.puback()
		pub.puback()
		if d := live.delivery(); d.retain {
			t.Error("live:", d)
		}
		if d := rap.delivery(); !d.retain {
			t.Error("retain as published:", d)
		}
		late := r.connect(5, "late")
		late.subscribe("a/b")
		if d := late.delivery(); d.String() != "a/b=one qos 1 retain true" {
			t.Error(d)
		}
		late.subscribeWith(nil, 1|1<<4, "a/b") // only if new
		late.subscribeWith(nil, 1|2<<4, "a/c") // never
		late.ping()
		late.subscribeWith(nil, 0, "a/c")
		if d := late.delivery(); d.String() != "a/c=two qos 0 retain true" {
			t.Error(d)
		}
		late.subscribe("a/+")
		if relaxed {
			if one, two := late.delivery(), late.delivery(); one.payload != "one" || two.payload != "two" {
				t.Error(one, two)
			}
		}
		late.ping()
		pub.retain("a/b", "", 3)
		pub.puback()
		if d := live.delivery(); d.payload != "" {
			t.Error(d)
		}
		last := r.connect(4, "last")
		last.subscribe("a/b")
		last.ping()
		eventually(t, "saved", func() bool { return b.has("a/c") && !b.has("a/b") })
		if m := r.s.Retained("a/c"); m == nil || m.ClientID != "pub" {
			t.Error(m)
		}
		if l := r.s.RetainedAfter("", 10); len(l) != 1 {
			t.Error(l)
		}
		r.stop()
	}
}

func TestRetainedSurvivesARestart(t *testing.T) {
	log, b := newFakeLog(2), newFakeBucket()
	with := func(o *Options) { o.Log, o.Retained = log, b }
	r := start(t, with)
	p := r.connect(4, "p")
	p.retain("saved", "1", 1)
	p.puback()
	eventually(t, "saved", func() bool { return b.has("saved") })
	b.mu.Lock()
	b.err = errors.New("the bucket is away") // from here on as in a crash
	b.mu.Unlock()
	p.retain("unsaved", "2", 2)
	p.retain("saved", "", 3)
	p.puback()
	p.puback()
	r.stop()
	b.mu.Lock()
	b.err = nil
	b.mu.Unlock()
	r = start(t, with)
	p = r.connect(4, "p")
	p.subscribe("saved", "unsaved")
	if d := p.delivery(); d.String() != "unsaved=2 qos 1 retain true" {
		t.Error(d)
	}
	p.ping()
	r.stop()
	if b.has("saved") || !b.has("unsaved") {
		t.Error("not saved at the end")
	}
}

func TestRetainedDenials(t *testing.T) {
	az := &policy{deny: map[string]bool{"iot:RetainPublish no": true}}
	r := start(t, func(o *Options) { o.Retained, o.Authorizer = newFakeBucket(), az; o.Safety.Retained = 1 })
	p := r.connect(5, "p")
	p.publish("no", 1, 1, "x")
	p.retain("no", "x", 2)
	p.retain("$aws/things/t/shadow/update", "x", 3)
	p.retain("a", "x", 4)
	for i, want := range []byte{0, codeNotAuthorized, codeNotAuthorized, 0} {
		if pid, code := p.puback(); pid != uint16(i+1) || code != want {
			t.Errorf("PUBACK %d %#x, want %#x", pid, code, want)
		}
	}
	eventually(t, "retained", func() bool { return r.s.Retained("a") != nil })
	p.retain("b", "x", 5)
	p.retain("a", "y", 6)
	for _, want := range []byte{codeQuota, 0} {
		if _, code := p.puback(); code != want {
			t.Errorf("%#x, want %#x", code, want)
		}
	}
	p.subscribe("no", "b")
	p.ping()
	az.set("iot:Receive a")
	p.subscribe("a")
	p.ping()
	// Without a bucket there are none, and the client is told.
	for _, v := range versions {
		r := start(t, nil)
		p := r.connect(v, "p")
		p.retain("a", "x", 1)
		p.disconnected(codeRetainNone)
		r.stop()
	}
}

// Many retained messages wait for room in the window like any others.
func TestManyRetained(t *testing.T) {
	r := start(t, func(o *Options) { o.Retained, o.Limits = newFakeBucket(), ingest.Relaxed() })
	pub := r.connect(4, "pub")
	for i := range 200 {
		pub.retain(fmt.Sprintf("a/%03d", i), "x", uint16(i+1))
		pub.puback()
	}
	eventually(t, "retained", func() bool { return r.s.Retained("a/199") != nil })
	p := r.connect(5, "p", packets.PropReceiveMaximum, 0, 3)
	p.subscribe("a/#")
	pub.publish("a/live", 1, 999, "x")
	for i := range 200 {
		d := p.delivery()
		if d.topic != fmt.Sprintf("a/%03d", i) || !d.retain {
			t.Fatal(i, d)
		}
		p.ack(d.pid)
	}
	if d := p.delivery(); d.topic != "a/live" || d.retain {
		t.Error(d)
	}
}

// A client that subscribes again and again, and acknowledges nothing, lets no
// retained messages pile up.
func TestRetainedOfOneFilterWaitOnce(t *testing.T) {
	r := start(t, func(o *Options) { o.Retained, o.Limits = newFakeBucket(), ingest.Relaxed() })
	pub := r.connect(4, "pub")
	for i := range 3 {
		pub.retain(fmt.Sprint("a/", i), "x", uint16(i+1))
		pub.puback()
	}
	eventually(t, "retained", func() bool { return r.s.Retained("a/2") != nil })
	p := r.connect(5, "p", packets.PropReceiveMaximum, 0, 1)
	p.subscribe("a/#")
	first := p.delivery()
	for range 20 {
		p.subscribe("a/#")
	}
	p.send(packet(packets.Unsubscribe<<4|2, append([]byte{0, 9, 0}, str("a/#")...)))
	p.expect(packets.Unsuback)
	p.subscribe("a/#")
	p.subscribeWith(nil, 1|1<<4, "a/#") // only if new: what waits stays
	r.s.mu.Lock()
	s := r.s.clients["p"].sess
	r.s.mu.Unlock()
	s.mu.Lock()
	n := len(s.retained)
	s.mu.Unlock()
	if n != 3 {
		t.Fatalf("%d retained messages wait, there are 3", n)
	}
	p.ack(first.pid)
	for i := range 3 {
		d := p.delivery()
		if d.topic != fmt.Sprint("a/", i) {
			t.Error(d)
		}
		p.ack(d.pid)
	}
}

func FuzzRetained(f *testing.F) {
	f.Add(encodeRetained(&event.Event{Topic: "a/b", Payload: []byte("x"), Received: time.UnixMilli(1), QoS: 1, Props: &event.Properties{ContentType: "t"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeRetained(b)
		if err != nil {
			return
		}
		again, err := decodeRetained(encodeRetained(e))
		if err != nil || again.Topic != e.Topic || !bytes.Equal(again.Payload, e.Payload) || again.Received != e.Received {
			t.Errorf("%+v, %v, %+v", e, err, again)
		}
	})
}
