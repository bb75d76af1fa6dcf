package eventlog

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog/jet"
)

// Durability says what an acknowledgement means.
type Durability = jet.Durability

const (
	Disk   = jet.Disk   // synced: survives a power cut; the zero value
	OS     = jet.OS     // written: survives kill -9, not a power cut
	Memory = jet.Memory // survives nothing; for tests
)

// MaxPayload bounds an event's payload, in bytes.
const MaxPayload = jet.MaxMessage

// maxHeader bounds the headers of an event: NATS counts them in 16 bits.
const maxHeader = 60 << 10

// Options open a Log.
type Options struct {
	Dir         string // of the embedded store; unused with URL
	URL, Creds  string // of an external NATS cluster; "": embedded
	Durability  Durability
	Partitions  int                   // default 1; fixed when the folder is made, a change is refused
	MaxBytes    int64                 // of all events; publishers get errs.Quota beyond it; default 70 % of the volume
	MaxAge      time.Duration         // of an event; default 24 h
	MaxSubjects int                   // distinct live topics, all partitions together; default 1,000,000
	ListenAddr  string                // where data teams reach the embedded server; "": nowhere
	Logger      *slog.Logger          // default: discard
	Now         func() time.Time      // default time.Now
	Registerer  prometheus.Registerer // default: none
	Deadline    time.Duration         // of a commit's answer; default 10 s
	// Holders are the names positions are held under somewhere; see Log.Hold. On
	// an external store nothing is trimmed that one of them may still need: each
	// must have told where it stands, in this process or in another one.
	Holders []string
}

// Receipt is told of each appended event, by the partition's appender
// goroutine, in append order. It must not block, and must be comparable (a
// pointer).
type Receipt interface {
	// Appended: err nil means committed and (Disk) synced; e.Seq and
	// e.Partition are set. Kinds of err: Quota (stream or disk full, subject
	// limit), TooLarge, Unavailable (not stored, or the outcome is unknown).
	// After one failure all events of the same Receipt queued behind it fail too.
	Appended(token uint64, e *event.Event, err error)
	// Flush comes once after the last Appended of a commit, for each Receipt
	// the commit touched.
	Flush()
}

// Log is the event log. Its methods may be called concurrently.
type Log struct {
	o     Options
	store *jet.Store
	log   *slog.Logger
	parts []*partition
	m     *metrics
	peers *peers
	done  chan struct{} // closed when Run or Close ends the log
	once  sync.Once

	mu       sync.Mutex                    // guards what follows
	services []func(context.Context) error // of buckets, run by Run
	running  *errgroup.Group
	runCtx   context.Context

	onlyMu sync.Mutex // guards only
	only   map[string]any
}

// partition is one stream with its appender and its ring.
type partition struct {
	l        *Log
	n        int
	stream   string
	ring     *ring
	line     *line // before the ring
	appender *jet.Appender[entry]
	first    atomic.Uint64 // first sequence there is; set before trimming
	subjects subjects

	holdMu sync.Mutex // guards holds
	holds  map[string]func() uint64

	// Of the appender's goroutine.
	commit  []*event.Event
	touched []Receipt
	seen    map[Receipt]struct{}
}

// entry is one event in an appender's queue.
type entry struct {
	p     *partition
	e     *event.Event
	r     Receipt
	token uint64
}

func (x entry) Len() int  { return 1 }
func (x entry) Size() int { return x.e.Size() }
func (x entry) AppendSubject(b []byte, _ int) []byte {
	return appendSubject(b, uint16(x.p.n), x.e.Topic)
}
func (x entry) AppendHeader(b []byte, _ int) []byte { return appendHeader(b, x.e) }
func (x entry) Payload(int) []byte                  { return x.e.Payload }
func (x entry) Owner() any {
	if x.r == nil {
		return nil
	}
	return x.r
}

// Open starts the embedded server, or connects to the cluster, makes or opens
// the streams and reads their committed ends.
// Errors: errs.Invalid (options, a changed partition count), errs.Unavailable.
func Open(ctx context.Context, o Options) (*Log, error) {
	const op = "eventlog.Open"
	if o.Partitions == 0 {
		o.Partitions = 1
	}
	if o.Partitions < 0 || o.Partitions > event.MaxPartitions {
		return nil, errs.Errorf(op, errs.Invalid, "%d partitions: must be 1 to %d", o.Partitions, event.MaxPartitions)
	}
	if o.MaxAge == 0 {
		o.MaxAge = 24 * time.Hour
	}
	if o.MaxSubjects == 0 {
		o.MaxSubjects = 1_000_000
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	var readable []string
	for i := range o.Partitions {
		readable = append(readable, "EVENTS-"+strconv.Itoa(i))
	}
	s, err := jet.Open(ctx, jet.Options{
		Readable: readable,
		Dir:      o.Dir, URL: o.URL, Creds: o.Creds, Durability: o.Durability, MaxBytes: o.MaxBytes,
		ListenAddr: o.ListenAddr, Logger: o.Logger, Deadline: o.Deadline,
	})
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	l := &Log{o: o, store: s, log: o.Logger, done: make(chan struct{})}
	l.peers = newPeers(l)
	if err := l.open(); err != nil {
		return nil, errors.Join(errs.E(op, errs.KindOf(err), err), s.Close())
	}
	l.m = newMetrics(l)
	return l, nil
}

func (l *Log) open() error {
	maxBytes := l.store.MaxBytes() / int64(l.o.Partitions)
	for i := range l.o.Partitions {
		p := &partition{
			l: l, n: i, stream: "EVENTS-" + strconv.Itoa(i),
			ring: newRing(ringEvents, ringBytes), holds: map[string]func() uint64{}, seen: map[Receipt]struct{}{},
		}
		meta, st, err := l.store.Ensure(jet.StreamConfig{
			Name:        p.stream,
			Subjects:    []string{subjectRoot + strconv.Itoa(i) + ".>"},
			Description: "Weir's events, partition " + strconv.Itoa(i),
			Metadata:    map[string]string{metaPartitions: strconv.Itoa(l.o.Partitions)},
			Singles:     true,
		})
		if err != nil {
			return err
		}
		if n := meta[metaPartitions]; n != strconv.Itoa(l.o.Partitions) {
			return errs.Errorf("eventlog.Open", errs.Invalid,
				"the log was made with %s partitions, %d are asked for; the number cannot be changed", n, l.o.Partitions)
		}
		p.line = newLine(p.ring)
		p.subjects.init(p)
		p.appender = jet.NewAppender(l.store, jet.AppenderConfig[entry]{
			Stream: p.stream, MaxUnits: queueEvents, MaxQueue: queueBytes, MaxBytes: maxBytes,
			Admit: p.admit, Opened: p.opened, Committed: p.committed,
		})
		p.opened(st)
		l.parts = append(l.parts, p)
		l.Share(p.stream, p.line.end.Load, func(end uint64, copies []byte) {
			p.line.add(readCopies(copies, uint16(p.n)), end)
		})
	}
	return nil
}

const (
	metaPartitions = "weir.partitions"
	queueEvents    = 8192
	queueBytes     = 32 << 20
	ringEvents     = 16384
	ringBytes      = 16 << 20
)

// Run runs the appenders, trimming, the disk watch and, where it is needed,
// the reopening of the store. It returns when all of it has ended; what was
// queued by then has failed.
func (l *Log) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	defer l.end()
	// The store outlives the appenders: they may need it to end well.
	storeCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	storeDone := make(chan error, 1)
	go func() { storeDone <- l.store.Run(storeCtx) }()
	for _, p := range l.parts {
		g.Go(func() error { return p.appender.Run(ctx) })
		g.Go(func() error { return p.fill(ctx) })
	}
	if !l.store.Embedded() {
		g.Go(func() error { return l.peers.run(ctx) })
	}
	g.Go(func() error { return l.trim(ctx) })
	l.mu.Lock()
	l.running, l.runCtx = g, ctx
	for _, f := range l.services {
		g.Go(func() error { return f(ctx) })
	}
	l.services = nil
	l.mu.Unlock()
	g.Go(func() error { <-ctx.Done(); return nil })
	err := g.Wait()
	l.mu.Lock()
	l.running = nil
	l.mu.Unlock()
	stop()
	return errors.Join(err, <-storeDone)
}

// Serve adds f to what Run runs, whether Run has begun or not. It is how a
// bucket gets its appender's goroutine.
func (l *Log) Serve(f func(context.Context) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running != nil {
		g, ctx := l.running, l.runCtx
		g.Go(func() error { return f(ctx) })
		return
	}
	l.services = append(l.services, f)
}

// Store returns the store the log lies in, for what else lies there.
func (l *Log) Store() *jet.Store { return l.store }

// Only returns what made gave the first time it was called with name: of a
// stream beside the log's own there is one appender, which knows its end, however
// many open it. An error of made is returned and not kept.
func (l *Log) Only(name string, made func() (any, error)) (any, error) {
	l.onlyMu.Lock()
	defer l.onlyMu.Unlock()
	if v, ok := l.only[name]; ok {
		return v, nil
	}
	v, err := made()
	if err != nil {
		return nil, err
	}
	if l.only == nil {
		l.only = map[string]any{}
	}
	l.only[name] = v
	return v, nil
}

func (l *Log) end() { l.once.Do(func() { close(l.done) }) }

// Close shuts the store down. Run must have returned, or not have been called.
func (l *Log) Close() error {
	l.end()
	l.m.unregister()
	return l.store.Close()
}

// Addr returns the address data teams reach the embedded server at; "" where
// it does not listen.
func (l *Log) Addr() string { return l.store.Addr() }

// Partitions returns the number of partitions.
func (l *Log) Partitions() int { return len(l.parts) }

// Partition returns the partition of an ordering key.
func (l *Log) Partition(key string) uint16 {
	if len(l.parts) == 1 {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(key))
	return uint16(h.Sum64() % uint64(len(l.parts)))
}

// Append queues e; Seq and Partition are filled in at commit. It blocks while
// the partition's queue is full. Once ctx has ended or the log has closed it
// returns an error and Appended is not called. nil means Appended will be
// called exactly once. r may be nil.
// Errors: ctx's, errs.Unavailable.
func (l *Log) Append(ctx context.Context, e *event.Event, r Receipt, token uint64) error {
	if e.Received.IsZero() {
		e.Received = l.o.Now().UTC().Truncate(time.Millisecond)
	}
	p := l.parts[0]
	if len(l.parts) > 1 {
		p = l.parts[l.Partition(e.OrderingKey())]
	}
	return p.appender.Append(ctx, entry{p: p, e: e, r: r, token: token})
}

// Outgoing is an event for AppendAll.
type Outgoing struct {
	Event   *event.Event
	Receipt Receipt // told with token 0; nil: nobody
}

// AppendAll queues events as Append does, in their order, so that those of one
// partition share commits. Where it returns an error, of those that Append gives,
// some may be queued: those before the first event of which no receipt is ever told.
func (l *Log) AppendAll(ctx context.Context, list []Outgoing) error {
	for len(list) > 0 {
		var p *partition
		var run []entry
		for _, o := range list {
			if o.Event.Received.IsZero() {
				o.Event.Received = l.o.Now().UTC().Truncate(time.Millisecond)
			}
			q := l.parts[0]
			if len(l.parts) > 1 {
				q = l.parts[l.Partition(o.Event.OrderingKey())]
			}
			if p != nil && q != p {
				break
			}
			p = q
			run = append(run, entry{p: p, e: o.Event, r: o.Receipt})
		}
		if _, err := p.appender.AppendAll(ctx, run); err != nil {
			return err
		}
		list = list[len(run):]
	}
	return nil
}

// waiter is the Receipt of Publish.
type waiter chan error

func (w *waiter) Appended(_ uint64, _ *event.Event, err error) { *w <- err }
func (w *waiter) Flush()                                       {}

// Publish appends one event and waits for the outcome. When ctx ends first the
// event may still be stored.
func (l *Log) Publish(ctx context.Context, e *event.Event) error {
	w := make(waiter, 1)
	if err := l.Append(ctx, e, &w, 0); err != nil {
		return err
	}
	select {
	case err := <-w:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Committed returns the last committed sequence of partition p, by whichever
// process; 0 where it is empty. Followers get there within a moment.
func (l *Log) Committed(p int) uint64 { return l.parts[p].line.end.Load() }

// Newest returns the last sequence of partition p that there is, by whichever
// process, committed or about to be.
// Errors: errs.Unavailable.
func (l *Log) Newest(p int) (uint64, error) {
	st, err := l.store.State(l.parts[p].stream)
	return st.LastSeq, err
}

// First returns the first sequence of partition p that has not been trimmed.
func (l *Log) First(p int) uint64 { return l.parts[p].first.Load() }

// Clamp returns pos, or the committed end of partition p where pos lies beyond
// it: after a lost tail its sequences are used again. Whoever keeps a position
// passes it through here when the log has been opened.
func (l *Log) Clamp(p int, pos uint64) uint64 { return min(pos, l.Committed(p)) }

// opened takes over the stream's extent.
func (p *partition) opened(st jet.StreamState) {
	end := p.line.end.Load()
	if !p.l.store.Embedded() {
		st = p.settled(st, end)
	}
	p.first.Store(max(st.FirstSeq, p.first.Load(), 1))
	p.subjects.opened(st.Subjects)
	back := end > st.LastSeq
	if back {
		p.l.log.Error("the log has lost its end", "partition", p.n, "had", end, "has", st.LastSeq)
	}
	p.line.opened(st.LastSeq, back)
}

// settled is what of an external stream may be shown. A new leader has all that
// the quorum has, but may not have come to its end yet: before an end counts as
// lost it is asked for a while.
func (p *partition) settled(st jet.StreamState, end uint64) jet.StreamState {
	for began := time.Now(); st.LastSeq < end && time.Since(began) < 3*time.Second; {
		time.Sleep(50 * time.Millisecond)
		if again, err := p.l.store.State(p.stream); err == nil {
			st = again
		}
	}
	if err := p.l.store.Settled(p.stream, st.LastSeq); err != nil {
		p.l.log.Warn("the end of the log cannot be read", "partition", p.n, "err", err)
	}
	return st
}

// looked takes over what the stream was seen to hold; others append and trim.
func (p *partition) looked(st jet.StreamState) {
	if first := p.first.Load(); st.FirstSeq > first {
		p.first.CompareAndSwap(first, st.FirstSeq)
	}
	p.subjects.looked(st.Subjects)
	p.appender.Holds(int64(st.Bytes))
}

// admit refuses what the store would refuse, before it is written.
func (p *partition) admit(x *entry) error {
	const op = "eventlog.Append"
	if n := len(x.e.Payload); n > MaxPayload {
		return errs.E(op, errs.TooLarge, fmt.Errorf("payload of %d bytes, at most %d are allowed", n, MaxPayload))
	}
	if x.e.Size()-len(x.e.Payload) > maxHeader/4 {
		// Only now is it worth counting exactly.
		if n := len(appendHeader(nil, x.e)); n > maxHeader {
			return errs.E(op, errs.TooLarge, fmt.Errorf("properties of %d bytes, at most %d are allowed", n, maxHeader))
		}
	}
	return p.subjects.admit(x.e.Topic)
}

// committed hands a commit on: first to the followers, here and in other
// processes, then to the receipts, so that whoever has its acknowledgement finds
// the event.
func (p *partition) committed(units []entry, res []jet.Result) {
	p.commit, p.touched = p.commit[:0], p.touched[:0]
	bytes := 0
	for i := range units {
		e := units[i].e
		if res[i].Err == nil {
			e.Seq, e.Partition = res[i].Seq, uint16(p.n)
			p.commit = append(p.commit, e)
			bytes += len(e.Payload)
		}
	}
	if n := len(p.commit); n > 0 {
		p.line.add(p.commit, p.commit[n-1].Seq)
		p.announce(p.commit)
		p.l.m.commits.Inc()
	}
	p.l.m.appended.Add(float64(len(p.commit)))
	p.l.m.appendedBytes.Add(float64(bytes))
	p.l.m.failed.Add(float64(len(units) - len(p.commit)))
	var last Receipt
	for i := range units {
		r := units[i].r
		if r == nil {
			continue
		}
		r.Appended(units[i].token, units[i].e, res[i].Err)
		if r != last {
			last = r
			if _, ok := p.seen[r]; !ok {
				p.seen[r] = struct{}{}
				p.touched = append(p.touched, r)
			}
		}
	}
	for _, r := range p.touched {
		r.Flush()
	}
	clear(p.seen)
	clear(p.touched)
	clear(p.commit)
}

// seqAt returns the sequence of the first event stored at t or later, and the
// sequence behind the committed end where there is none.
func (p *partition) seqAt(t time.Time) (uint64, error) {
	for try := 0; ; try++ {
		end := p.line.end.Load()
		seq := end + 1
		_, err := p.l.store.Fetch(jet.Query{Stream: p.stream, Since: t, Max: 1}, func(m *jet.Message) error {
			seq = min(seq, m.Seq)
			return nil
		})
		if err != nil || seq <= end || end == 0 || p.l.store.Embedded() {
			return seq, err
		}
		// None, says a replica that may lag: does the last one confirm it?
		confirmed := false
		_, err = p.l.store.Fetch(jet.Query{Stream: p.stream, From: end, Max: 1}, func(m *jet.Message) error {
			confirmed = m.StoredAt().Before(t)
			return nil
		})
		if err != nil || confirmed {
			return seq, err
		}
		if end < p.first.Load() {
			return seq, nil // everything is trimmed
		}
		if try == 100 {
			return 0, errs.Errorf("eventlog.seqAt", errs.Unavailable, "the replicas of %s lag", p.stream)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Ready returns nil while the log accepts events, else why not: it is closed,
// or its store is being opened again.
func (l *Log) Ready() error { return l.store.Ready() }
