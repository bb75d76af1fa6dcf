package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// Retained messages take a bounded amount of memory; what is there can be made
// smaller and cleared.
func TestRetainedBytes(t *testing.T) {
	r := start(t, func(o *Options) { o.Retained, o.Safety.RetainedBytes = newFakeBucket(), 2000 })
	p := r.connect(5, "p")
	retain := func(topic string, size int) byte {
		t.Helper()
		b := p.publishPacket(topic, 1, 1, strings.Repeat("x", size))
		b[0] |= 1
		p.send(b)
		_, code := p.puback()
		eventually(t, "handed out", func() bool { return r.s.handed[0].Load() == r.log.Committed(0) })
		return code
	}
	for _, step := range []struct {
		topic string
		size  int
		want  byte
	}{
		{"a", 900, 0}, {"b", 900, 0}, {"c", 900, codeQuota}, {"a", 1200, codeQuota}, {"a", 100, 0}, {"c", 700, 0}, {"d", 900, codeQuota},
		{"b", 0, 0}, {"d", 800, 0},
	} {
		if got := retain(step.topic, step.size); got != step.want {
			t.Errorf("%s, %d bytes: %#x, want %#x", step.topic, step.size, got, step.want)
		}
	}
	r.s.routes.mu.RLock()
	bytes := 0
	for _, m := range r.s.routes.retained.messages {
		bytes += m.Size()
	}
	if bytes != r.s.routes.retained.bytes {
		t.Error(bytes, r.s.routes.retained.bytes)
	}
	r.s.routes.mu.RUnlock()
	if !r.s.MayRetain("e", 0) || r.s.MayRetain("e", 1000) {
		t.Error("MayRetain")
	}
	p.ping()
}

// Connections that end because the server does are told of in one line.
func TestShutdownIsOneLine(t *testing.T) {
	r := start(t, nil)
	for _, id := range []string{"a", "b", "c"} {
		r.connect(5, id)
	}
	r.stop()
	out := r.out.String()
	if strings.Count(out, "level=WARN") != 0 || !strings.Contains(out, "connections=3") {
		t.Error(out)
	}
}

// A client that disconnects closes its connection itself, and is not met by a
// reset: the server ends its side and waits.
func TestDisconnectIsNotReset(t *testing.T) {
	for _, v := range versions {
		r := start(t, nil)
		p := r.connect(v, "p")
		p.send([]byte{packets.Disconnect << 4, 0})
		r.gone("p")
		p.closed() // the server's side has ended in order
		for range 10 {
			if _, err := p.nc.Write([]byte{packets.Pingreq << 4, 0}); err != nil {
				t.Fatal("the connection was cut while the client still wrote:", err)
			}
		}
		p.nc.Close()
		r.stop()
	}
}

func TestRetainedPages(t *testing.T) {
	r := start(t, func(o *Options) { o.Retained = newFakeBucket() })
	r.stop()
	var want []string
	for i := range 500 {
		n := topic.Name(fmt.Sprintf("t/%d", (i*7919)%500))
		m := &event.Event{Topic: n, Payload: []byte("x"), Received: time.Now()}
		if i%5 == 0 { // these have expired
			m.Received, m.Props = time.Now().Add(-time.Hour), &event.Properties{MessageExpiry: 1}
		} else {
			want = append(want, string(n))
		}
		r.s.routes.retained.put(m)
	}
	slices.Sort(want)
	for _, size := range []int{1, 7, 100, 1000} {
		var got []string
		for after := topic.Name(""); ; {
			page := r.s.RetainedAfter(after, size)
			if len(page) == 0 {
				break
			}
			for _, m := range page {
				after = m.Topic
				got = append(got, string(m.Topic))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: %d of %d", size, len(got), len(want))
		}
	}
}
