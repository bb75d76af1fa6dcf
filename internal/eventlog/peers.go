package eventlog

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog/jet"
)

// Processes of one log tell each other what they have committed, once it is
// committed: nobody shows an event that its appender has no acknowledgement for.
//
//	subject               message
//	weir.process          hello, as JSON: who is here, every helloEvery
//	weir.commit.<stream>  the committed end, and copies of what was committed
//
// Copies are sent only while another process is here. They may be lost: the end
// comes again with each hello, and what is missing is read from the stream.
const (
	helloSubject  = "weir.process"
	commitSubject = "weir.commit."
	helloEvery    = 500 * time.Millisecond
	helloLapse    = 3 * time.Second // a process unheard of for this long is away
	copyBytes     = 512 << 10       // of copies in one message
)

// hello is what a process says of itself.
type hello struct {
	ID      string              `json:"id"`
	Ends    map[string]uint64   `json:"ends"`            // committed, by stream
	Holds   map[string][]uint64 `json:"holds,omitempty"` // what trimming must keep, by holder and partition; see Log.Hold
	Leaving bool                `json:"leaving,omitempty"`
}

// peers is this process among the others of its log.
type peers struct {
	l  *Log
	id string
	// present: another process is here. It is set before the ends are read for
	// the answer to its hello, and read after the end of a commit was set: what
	// is not announced is in the answer.
	present atomic.Bool

	mu     sync.Mutex
	nc     *nats.Conn // nil: not joined
	seen   map[string]*peer
	shared map[string]*shared
}

type peer struct {
	at    time.Time
	holds map[string][]uint64
}

// shared is a stream that several processes append to.
type shared struct {
	end     func() uint64
	learned func(end uint64, copies []byte)
	barrier atomic.Pointer[tail]
	sub     *nats.Subscription
}

// tail is an end of a stream that nobody has announced.
type tail struct {
	seq   uint64
	since time.Time
}

func newPeers(l *Log) *peers {
	return &peers{l: l, id: nuid.Next(), seen: map[string]*peer{}, shared: map[string]*shared{}}
}

// Share lets processes of an external store tell each other how far they have
// committed a stream. end returns what this process knows; learned is called,
// by one goroutine at a time for a stream, with what another one says, and the
// copies it sent along. Embedded, it does nothing.
func (l *Log) Share(stream string, end func() uint64, learned func(end uint64, copies []byte)) {
	ps := l.peers
	if l.store.Embedded() {
		return
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	sh := &shared{end: end, learned: learned}
	ps.shared[stream] = sh
	if ps.nc != nil {
		if err := ps.listen(stream, sh); err != nil {
			l.log.Error("cannot hear what others commit; the stream is asked instead", "stream", stream, "err", err)
		}
	}
}

// Announce tells other processes, where there are any, that stream is committed
// up to end.
func (l *Log) Announce(stream string, end uint64) {
	if l.peers.present.Load() {
		l.peers.publish(commitSubject+stream, binary.AppendUvarint(nil, end))
	}
}

// Alone reports whether no other process of this log has been heard of lately.
func (l *Log) Alone() bool { return !l.peers.present.Load() }

func (ps *peers) publish(subject string, b []byte) {
	ps.mu.Lock()
	nc := ps.nc
	ps.mu.Unlock()
	if nc == nil {
		return
	}
	if err := nc.Publish(subject, b); err != nil {
		ps.l.log.Debug("other processes are not told", "subject", subject, "err", err)
	}
}

// listen subscribes to what others commit to a stream. ps.mu is held.
func (ps *peers) listen(stream string, sh *shared) error {
	sub, err := ps.nc.Subscribe(commitSubject+stream, func(m *nats.Msg) {
		if end, n := binary.Uvarint(m.Data); n > 0 {
			sh.learned(end, m.Data[n:])
		}
	})
	if err != nil {
		return err
	}
	sh.sub = sub
	return sub.SetPendingLimits(1<<16, 64<<20)
}

// run is here among the others until ctx ends.
func (ps *peers) run(ctx context.Context) error {
	for !ps.join() {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
	tick := time.NewTicker(helloEvery)
	defer tick.Stop()
	ps.say(false)
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			ps.say(true)
			ps.mu.Lock()
			nc := ps.nc
			ps.nc = nil
			ps.mu.Unlock()
			ps.present.Store(false)
			if err := nc.FlushTimeout(time.Second); err != nil {
				ps.l.log.Debug("the last word to other processes", "err", err)
			}
			nc.Close()
			return nil
		}
		ps.lapse()
		ps.say(false)
		if n%2 == 1 {
			ps.check()
		}
	}
}

func (ps *peers) join() bool {
	nc, err := ps.l.store.Connect("weir log")
	if err == nil {
		ps.mu.Lock()
		ps.nc = nc
		_, err = nc.Subscribe(helloSubject, ps.hear)
		for stream, sh := range ps.shared {
			if err == nil {
				err = ps.listen(stream, sh)
			}
		}
		ps.mu.Unlock()
		if err == nil {
			return true
		}
		ps.mu.Lock()
		ps.nc = nil
		ps.mu.Unlock()
		nc.Close()
	}
	ps.l.log.Warn("cannot join the other processes; trying again", "err", err)
	return false
}

// say says hello, or farewell.
func (ps *peers) say(leaving bool) {
	h := hello{ID: ps.id, Ends: map[string]uint64{}, Holds: ps.l.ownHolds(), Leaving: leaving}
	ps.mu.Lock()
	list := maps.Clone(ps.shared)
	ps.mu.Unlock()
	for stream, sh := range list {
		h.Ends[stream] = sh.end()
	}
	b, err := json.Marshal(h)
	if err != nil {
		panic(err) // it holds nothing JSON cannot say
	}
	ps.publish(helloSubject, b)
}

// hear takes another process's hello.
func (ps *peers) hear(m *nats.Msg) {
	var h hello
	if err := json.Unmarshal(m.Data, &h); err != nil || h.ID == "" || h.ID == ps.id {
		return
	}
	ps.mu.Lock()
	_, known := ps.seen[h.ID]
	if h.Leaving {
		delete(ps.seen, h.ID)
	} else {
		ps.seen[h.ID] = &peer{at: time.Now(), holds: h.Holds}
	}
	ps.present.Store(len(ps.seen) > 0)
	list := maps.Clone(ps.shared)
	ps.mu.Unlock()
	for stream, end := range h.Ends {
		if sh := list[stream]; sh != nil && end > sh.end() {
			sh.learned(end, nil)
		}
	}
	if !known && !h.Leaving {
		ps.l.log.Info("another process is here", "id", h.ID)
		ps.say(false)
	}
}

// lapse forgets who has not been heard of.
func (ps *peers) lapse() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for id, p := range ps.seen {
		if time.Since(p.at) > helloLapse {
			delete(ps.seen, id)
			ps.l.log.Info("another process is away", "id", id)
		}
	}
	ps.present.Store(len(ps.seen) > 0)
}

// check looks for what nobody has announced: whoever committed it was killed
// before it could. An end that has stood for helloLapse is read, which the store
// answers behind the sync of what is being committed; see jet.Store.Settled.
func (ps *peers) check() {
	ps.mu.Lock()
	list := maps.Clone(ps.shared)
	ps.mu.Unlock()
	for stream, sh := range list {
		st, err := ps.l.store.State(stream)
		if err != nil {
			continue // the appender reports it
		}
		for _, p := range ps.l.parts {
			if p.stream == stream {
				p.looked(st)
			}
		}
		if st.LastSeq <= sh.end() {
			sh.barrier.Store(nil)
			continue
		}
		t := sh.barrier.Load()
		if t == nil || t.seq <= sh.end() {
			sh.barrier.Store(&tail{st.LastSeq, time.Now()})
			continue
		}
		if time.Since(t.since) < helloLapse {
			continue
		}
		sh.barrier.Store(nil)
		if ps.l.store.Settled(stream, t.seq) == nil {
			ps.l.log.Warn("events were committed by a process that did not live to tell", "stream", stream, "upto", t.seq)
			sh.learned(t.seq, nil)
		}
	}
}

// announce tells other processes of a commit to p.
func (p *partition) announce(events []*event.Event) {
	ps := p.l.peers
	if len(events) == 0 || !ps.present.Load() {
		return
	}
	subject := commitSubject + p.stream
	b := binary.AppendUvarint(nil, events[len(events)-1].Seq)
	head := len(b)
	var header []byte
	for _, e := range events {
		header = appendHeader(header[:0], e)
		size := e.Size() + len(header) + 64
		if size > copyBytes {
			continue // it is read from the stream
		}
		if len(b)+size > copyBytes && len(b) > head {
			ps.publish(subject, b)
			b = append([]byte(nil), b[:head]...)
		}
		b = appendCopy(b, e.Seq, appendSubject(nil, e.Partition, e.Topic), header, e.Payload)
	}
	ps.publish(subject, b)
}

// A copy is the sequence, and subject, header and payload with their lengths,
// all as on the stream.
func appendCopy(b []byte, seq uint64, subject, header, payload []byte) []byte {
	b = binary.AppendUvarint(b, seq)
	for _, part := range [][]byte{subject, header, payload} {
		b = append(binary.AppendUvarint(b, uint64(len(part))), part...)
	}
	return b
}

// readCopies makes events of copies. It stops at what is malformed.
func readCopies(b []byte, p uint16) []*event.Event {
	var events []*event.Event
	for len(b) > 0 {
		seq, n := binary.Uvarint(b)
		if n <= 0 || seq == 0 {
			return events
		}
		b = b[n:]
		var parts [3][]byte
		for i := range parts {
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return events
			}
			parts[i], b = b[n:n+int(size)], b[n+int(size):]
		}
		e, err := decode(&jet.Message{Seq: seq, Subject: parts[0], Header: parts[1], Payload: parts[2]}, p)
		if err != nil {
			continue // read from the stream, where it is reported
		}
		events = append(events, e)
	}
	return events
}
