package mqtt

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
)

// fakeLeases is a bucket of leases in memory.
type fakeLeases struct {
	mu      sync.Mutex
	values  map[string]kv.Entry
	all     []kv.Entry    // in their order, for those that watch
	changed chan struct{} // closed and replaced at every change
	before  func([]kv.Change)
}

func newFakeLeases() *fakeLeases {
	return &fakeLeases{values: map[string]kv.Entry{}, changed: make(chan struct{})}
}

// copy returns what a crash leaves.
func (b *fakeLeases) copy() *fakeLeases {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &fakeLeases{values: maps.Clone(b.values), all: slices.Clone(b.all), changed: make(chan struct{})}
}

func (b *fakeLeases) Get(_ context.Context, key string) (kv.Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.values[key]; len(e.Value) > 0 {
		return e, nil
	}
	return kv.Entry{}, errs.E("fake", errs.NotFound, nil)
}

func (b *fakeLeases) Commit(_ context.Context, changes []kv.Change) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.before != nil {
		b.before(changes)
	}
	for _, c := range changes {
		old := b.values[c.Key]
		if len(old.Value) == 0 {
			old.Revision = 0
		}
		if !c.Any && c.Expected != old.Revision {
			return 0, errs.E("fake", errs.Conflict, nil)
		}
	}
	for _, c := range changes {
		e := kv.Entry{Key: c.Key, Value: c.Value, Revision: uint64(len(b.all)) + 1}
		b.values[c.Key] = e
		b.all = append(b.all, e)
	}
	close(b.changed)
	b.changed = make(chan struct{})
	return uint64(len(b.all)), nil
}

func (b *fakeLeases) Watch(ctx context.Context, _ string, f func(kv.Entry)) error {
	for n, told := 0, false; ; {
		b.mu.Lock()
		more, changed := slices.Clone(b.all[n:]), b.changed
		b.mu.Unlock()
		n += len(more)
		for _, e := range more {
			f(e)
		}
		if !told {
			told = true
			f(kv.Entry{})
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// says reports whether the stored will of a client has a payload.
func (b *fakeLeases) says(client, payload string) bool {
	e, err := b.Get(context.Background(), willKey+client)
	var w willRecord
	return err == nil && json.Unmarshal(e.Value, &w) == nil && string(w.Will.Payload) == payload
}

// payloads returns those of a log's first partition.
func (l *fakeLog) payloads() (out []string) {
	for _, e := range l.events(0) {
		out = append(out, string(e.Payload))
	}
	return out
}

// connectWill begins to connect with a will, and does not wait for the answer.
func (r *rig) connectWill(v byte, id, payload string) *peer {
	p := r.dial()
	p.v5 = v == 5
	var rest []byte
	if p.v5 {
		rest = append(rest, 0)
	}
	rest = append(append(rest, str("will/"+id)...), str(payload)...)
	p.send(connectPacket(v, id, 2|4|1<<3, 60, nil, rest...))
	return p
}

// A gateway that dies while one connection takes over from another loses the
// will of neither: the older one's is on the log before it is nowhere else.
func TestATakenOverWillSurvivesTheGateway(t *testing.T) {
	for _, v := range versions {
		for _, how := range []string{"taken over", "back"} {
			l, leases := newFakeLog(1), newFakeLeases()
			r := start(t, func(o *Options) { o.Log, o.Leases = l, leases })
			older := r.connectWill(v, "c", "older")
			older.connack()
			leases.mu.Lock()
			leases.before = func(changes []kv.Change) {
				if len(changes[0].Value) > 0 && !bytes.Contains(changes[0].Value, []byte(`"b2xkZXI="`)) && !slices.Contains(l.payloads(), "older") {
					t.Error("the newer will takes the older one's place before that is on the log")
				}
			}
			leases.mu.Unlock()
			l.hold(true)
			if how == "back" { // after its connection was lost
				older.nc.Close()
				eventually(t, "the older will is on its way", func() bool { return l.pending() == 1 })
			}
			newer := r.connectWill(v, "c", "newer")
			eventually(t, "the older will is on its way", func() bool {
				r.s.mu.Lock()
				defer r.s.mu.Unlock()
				return l.pending() == 1 && len(r.s.waiting) == 1
			})
			// The gateway dies, and another one starts with what is left.
			left := newFakeLog(1)
			again := start(t, func(o *Options) { o.Log, o.Leases = left, leases.copy() })
			if got := left.payloads(); !slices.Equal(got, []string{"older"}) {
				t.Errorf("%s: wills %q", how, got)
			}
			again.stop()
			// It has not died after all.
			l.hold(false)
			if code, _ := newer.connack(); code != codeSuccess {
				t.Errorf("CONNACK %#x", code)
			}
			if !leases.says("c", "newer") {
				t.Error("the newer will is not stored")
			}
			newer.nc.Close()
			eventually(t, "both wills are published", func() bool { return slices.Equal(l.payloads(), []string{"older", "newer"}) })
			r.stop()
		}
	}
}

// A will the log did not take is tried again, and is not given up for that of
// the next connection.
func TestAWillThatWasNotStored(t *testing.T) {
	for _, v := range versions {
		l, leases := newFakeLog(1), newFakeLeases()
		full := true
		l.fail = func(int) error {
			if full {
				return errs.E("fake", errs.Quota, nil)
			}
			return nil
		}
		r := start(t, func(o *Options) { o.Log, o.Leases = l, leases })
		p := r.connectWill(v, "c", "older")
		p.connack()
		r.leave(p, "c")
		p = r.connectWill(v, "c", "newer")
		_, body := p.expect(packets.Connack)
		if want := map[byte]byte{4: 3, 5: codeUnavailable}[v]; body[1] != want {
			t.Errorf("CONNACK %#x, want %#x", body[1], want)
		}
		if !leases.says("c", "older") || leases.says("c", "newer") {
			t.Error("the older will is not stored any more")
		}
		l.mu.Lock()
		full = false
		l.mu.Unlock()
		eventually(t, "the older will", func() bool { return slices.Equal(l.payloads(), []string{"older"}) })
		eventually(t, "it is cleared", func() bool { return !leases.says("c", "older") })
		if !strings.Contains(r.out.String(), "will not stored") {
			t.Error("nothing is said in the log")
		}
		r.stop()
	}
}
