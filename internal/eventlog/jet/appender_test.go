package jet

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/internal/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// msg is a Unit of one or more messages.
type msg struct {
	subject string
	bodies  []string
	header  string
	owner   any
	size    int // 0: of the bodies
}

func (m msg) Len() int { return len(m.bodies) }
func (m msg) Size() int {
	n := m.size
	for _, b := range m.bodies {
		n += len(b)
	}
	return n
}
func (m msg) AppendSubject(b []byte, _ int) []byte { return append(b, m.subject...) }
func (m msg) AppendHeader(b []byte, _ int) []byte  { return append(b, m.header...) }
func (m msg) Payload(i int) []byte                 { return []byte(m.bodies[i]) }
func (m msg) Owner() any                           { return m.owner }

type outcome struct {
	u msg
	r Result
}

// rig is a store with one stream and its appender.
type rig struct {
	*Appender[msg]
	s    *Store
	out  chan outcome
	ends chan uint64
}

func newRig(t *testing.T, o Options, set func(*Store)) *rig {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.Logger = slog.New(slog.DiscardHandler)
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Ensure(StreamConfig{Name: "T", Subjects: []string{"t.>"}}); err != nil {
		t.Fatal(err)
	}
	if set != nil {
		set(s)
	}
	r := &rig{s: s, out: make(chan outcome, 10000), ends: make(chan uint64, 100)}
	r.Appender = NewAppender(s, AppenderConfig[msg]{
		Stream: "T", MaxUnits: 5000, MaxQueue: 64 << 20,
		Opened: func(st StreamState) { r.ends <- st.LastSeq },
		Committed: func(us []msg, rs []Result) {
			for i := range us {
				r.out <- outcome{us[i], rs[i]}
			}
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	wg.Go(func() { r.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) add(t *testing.T, us ...msg) {
	t.Helper()
	for _, u := range us {
		if err := r.Append(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *rig) next(t *testing.T) outcome {
	t.Helper()
	select {
	case o := <-r.out:
		return o
	case <-time.After(20 * time.Second):
		t.Fatal("no outcome")
		panic("unreachable")
	}
}

func (r *rig) stored(t *testing.T) []string {
	t.Helper()
	var all []string
	for from := uint64(1); ; {
		end, err := r.s.Fetch(Query{Stream: "T", From: from, Max: 100}, func(m *Message) error {
			all = append(all, string(m.Payload))
			from = m.Seq + 1
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if end {
			return all
		}
	}
}

func TestOnlyTheOffenderOfABatchFails(t *testing.T) {
	for _, n := range []int{5, 100, 777} { // plain and batches
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			r := newRig(t, Options{}, nil)
			<-r.ends
			bad := n * 2 / 3
			for i := range n {
				u := msg{subject: "t.x", bodies: []string{fmt.Sprint(i)}}
				if i == bad {
					u.header = "Nats-Expected-Last-Sequence:99999\r\n"
				}
				r.add(t, u)
			}
			want := uint64(0)
			for i := range n {
				o := r.next(t)
				if o.u.bodies[0] != fmt.Sprint(i) {
					t.Fatalf("outcome %d is of %s", i, o.u.bodies[0])
				}
				if i == bad {
					if !errs.Is(o.r.Err, errs.Conflict) {
						t.Fatalf("offender: %v", o.r.Err)
					}
					continue
				}
				if want++; o.r.Err != nil || o.r.Seq != want {
					t.Fatalf("%d: sequence %d, want %d, %v", i, o.r.Seq, want, o.r.Err)
				}
			}
			if got := r.stored(t); len(got) != n-1 {
				t.Fatalf("%d stored", len(got))
			}
		})
	}
}

func TestOwnersUnitsBehindAFailureFail(t *testing.T) {
	r := newRig(t, Options{}, nil)
	<-r.ends
	const n = 200
	type client struct{ _ int }
	a, b := new(client), new(client)
	for i := range n {
		u := msg{subject: "t.x", bodies: []string{fmt.Sprint(i)}, owner: a}
		if i%2 == 1 {
			u.owner = b
		}
		if i == 100 {
			u.header = "Nats-Expected-Stream:other\r\n"
		}
		r.add(t, u)
	}
	failed := false
	okB := 0
	for range n {
		o := r.next(t)
		switch {
		case o.u.owner == b:
			if o.r.Err != nil {
				t.Fatal("another owner's unit failed:", o.r.Err)
			}
			okB++
		case o.r.Err != nil:
			failed = true
		case failed:
			t.Fatalf("%s was stored behind a failure of its owner", o.u.bodies[0])
		}
	}
	if !failed || okB != n/2 {
		t.Fatal(failed, okB)
	}
	for _, s := range r.stored(t) {
		var i int
		fmt.Sscan(s, &i)
		if i%2 == 0 && i >= 100 {
			t.Fatalf("%d is in the stream", i)
		}
	}
	// Once another's is stored the appender has looked through its queue.
	r.add(t, msg{subject: "t.x", bodies: []string{"between"}})
	r.next(t)
	r.add(t, msg{subject: "t.x", bodies: []string{"new"}, owner: a})
	if o := r.next(t); o.r.Err != nil {
		t.Fatal("the owner cannot go on:", o.r.Err)
	}
}

func TestUnitsAreAtomic(t *testing.T) {
	r := newRig(t, Options{}, nil)
	<-r.ends
	three := []string{"1", "2", "3"}
	r.add(t,
		msg{subject: "t.a", bodies: three},
		msg{subject: "t.b", bodies: three, header: "Nats-Expected-Stream:other\r\n"},
		msg{subject: "t.c", bodies: three},
	)
	for i := range 3 {
		if o := r.next(t); (o.r.Err != nil) != (i == 1) {
			t.Fatal(i, o.r.Err)
		} else if i == 2 && o.r.Seq != 6 {
			t.Fatal(o.r.Seq)
		}
	}
	if got := r.stored(t); len(got) != 6 {
		t.Fatal(got)
	}
}

// deaf is a connection that loses what the server says while it is deaf.
type deaf struct {
	net.Conn
	now *atomic.Bool
}

func (d deaf) Read(b []byte) (int, error) {
	for {
		n, err := d.Conn.Read(b)
		if n == 0 || !d.now.Load() || strings.HasPrefix(string(b[:n]), "INFO") {
			return n, err
		}
	}
}

func TestCommitWithoutAnswerIsNotAcknowledged(t *testing.T) {
	for _, n := range []int{1, 100} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var now atomic.Bool
			r := newRig(t, Options{Deadline: time.Second}, func(s *Store) {
				s.wrap = func(c net.Conn) net.Conn { return deaf{c, &now} }
			})
			<-r.ends
			r.add(t, msg{subject: "t.x", bodies: []string{"first"}})
			if o := r.next(t); o.r.Err != nil {
				t.Fatal(o.r.Err)
			}
			now.Store(true)
			began := time.Now()
			for i := range n {
				r.add(t, msg{subject: "t.x", bodies: []string{fmt.Sprint(i)}})
			}
			for range n {
				if o := r.next(t); !errs.Is(o.r.Err, errs.Unavailable) {
					t.Fatalf("without an answer: %v", o.r.Err)
				}
			}
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("told after %v", d)
			}
			now.Store(false)
			// The store is opened again without help; the end holds what was
			// stored without an answer.
			select {
			case end := <-r.ends:
				if end < 1 || end > uint64(n)+1 {
					t.Fatalf("the end is %d", end)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the store was not opened again")
			}
			r.add(t, msg{subject: "t.x", bodies: []string{"last"}})
			o := r.next(t)
			if o.r.Err != nil {
				t.Fatal(o.r.Err)
			}
			all := r.stored(t)
			if all[0] != "first" || all[len(all)-1] != "last" || uint64(len(all)) != o.r.Seq {
				t.Fatalf("%d stored, sequence %d", len(all), o.r.Seq)
			}
		})
	}
}

// givesUp is a connection over which an acknowledgement arrives just after the
// store was given up.
type givesUp struct {
	net.Conn
	s     *Store
	armed *atomic.Bool
}

func (c givesUp) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if bytes.Contains(b[:n], []byte(`"seq"`)) && c.armed.CompareAndSwap(true, false) {
		gen, _, _ := c.s.state()
		c.s.fail(gen, errDiskFull)
	}
	return n, err
}

// A store that is being shut down answers commits it has not synced.
func TestAcknowledgementOfAStoreGivenUpIsNotTrusted(t *testing.T) {
	for _, n := range []int{1, 100} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var armed atomic.Bool
			r := newRig(t, Options{}, func(s *Store) {
				s.wrap = func(c net.Conn) net.Conn { return givesUp{c, s, &armed} }
			})
			<-r.ends
			r.add(t, msg{subject: "t.x", bodies: []string{"first"}})
			if o := r.next(t); o.r.Err != nil {
				t.Fatal(o.r.Err)
			}
			armed.Store(true)
			bodies := make([]string, n)
			r.add(t, msg{subject: "t.x", bodies: bodies})
			if o := r.next(t); !errs.Is(o.r.Err, errs.Unavailable) {
				t.Fatalf("acknowledged: %v", o.r)
			}
			select {
			case <-r.ends:
			case <-time.After(20 * time.Second):
				t.Fatal("the store was not opened again")
			}
			r.add(t, msg{subject: "t.x", bodies: []string{"last"}})
			if o := r.next(t); o.r.Err != nil {
				t.Fatal(o.r.Err)
			}
		})
	}
}

func TestBatchIDsAreNewWithEveryConnection(t *testing.T) {
	r := newRig(t, Options{}, nil)
	<-r.ends
	before := r.prefix
	r.s.fail(1, errTimeout)
	<-r.ends
	if r.prefix == before || len(before) < 8 {
		t.Fatalf("prefixes %q and %q", before, r.prefix)
	}
}

func TestASecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	newRig(t, Options{Dir: dir}, nil)
	if s, err := Open(t.Context(), Options{Dir: dir}); err == nil {
		s.Close()
		t.Fatal("two stores in one folder")
	}
}

func TestPace(t *testing.T) {
	p := newPace(false)
	if p.batchPays(1) || p.batchPays(12) || !p.batchPays(13) {
		t.Fatal("a fast disk")
	}
	for range 50 {
		p.plainTook(1, 5*time.Millisecond)
		p.batchTook(100, 9*time.Millisecond)
	}
	if !p.batchPays(3) || p.batchPays(1) {
		t.Fatalf("a slow disk: %+v", p)
	}
	p.plainTook(1, 10*time.Second)
	for range 1000 {
		p.batchTook(100, 3*time.Millisecond)
	}
	if p.batchPays(5) {
		t.Fatalf("after a stall: %+v", p)
	}
}
