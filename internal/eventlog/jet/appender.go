package jet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nuid"

	"github.com/weir-iot/weir/internal/errs"
)

// Unit is what is appended whole or not at all: one message, or a few that
// must fit into one batch. The appender calls its methods from one goroutine.
type Unit interface {
	Len() int  // number of messages, 1 … MaxUnit
	Size() int // bytes of all of them, headers and subjects included; an estimate will do
	AppendSubject(b []byte, i int) []byte
	AppendHeader(b []byte, i int) []byte // "Name:value\r\n" lines
	Payload(i int) []byte
	// Owner returns whose order the unit is part of; nil for nobody's. When one
	// unit fails, all that its owner queued behind it fail too. It must be
	// comparable.
	Owner() any
}

// MaxUnit and MaxUnitBytes bound one unit: a batch holds no more. The server
// takes in at most 128 MiB at a time.
const (
	MaxUnit      = 1000
	MaxUnitBytes = 8 << 20
)

const (
	maxBatchBytes = MaxUnitBytes
	maxPlain      = 2000 // messages of a pipelined group where batches do not pay
)

// Result is what became of one unit.
type Result struct {
	Seq uint64 // of its last message
	Err error
}

// AppenderConfig says what an Appender appends to and whom it tells.
type AppenderConfig[T Unit] struct {
	Stream   string
	MaxUnits int   // queue bound; Append blocks beyond it
	MaxQueue int   // the same in bytes
	MaxBytes int64 // the stream's byte limit; 0: none
	// Admit is asked once for each unit before it is written; an error refuses
	// it. It may be nil. Like the following it is called by the appender's
	// goroutine.
	Admit func(*T) error
	// Opened is told the stream's end after every opening, before anything is
	// appended.
	Opened func(StreamState)
	// Committed is called for the units of one commit or failure, in order.
	// Successful ones come with growing sequences.
	Committed func([]T, []Result)
}

// Appender is the one writer of a stream in this process. What arrives while a
// commit is outstanding forms the next one.
type Appender[T Unit] struct {
	c AppenderConfig[T]
	s *Store

	mu     sync.Mutex // guards the queue
	queue  []T
	bytes  int
	held   atomic.Int64  // bytes of the stream when last looked, with what other processes append
	room   chan struct{} // closed when there is room again; nil while nobody waits
	wake   chan struct{} // one token: the queue is not empty
	closed bool

	// Of the goroutine of Run.
	conn     *conn
	gen      uint64
	redo     *redo  // nil: the server completes batches by itself, or need not
	end      uint64 // last sequence of the stream
	prefix   string // of batch ids; new with every connection
	batches  uint64
	buf      []byte // what is written
	hdr      []byte
	units    []T
	results  []Result
	used     int64     // bytes of the stream, an upper estimate
	measured time.Time // when used was last read from the stream
	looked   int64     // used when the free space was last read
	pace     pace
}

// NewAppender returns an appender for a stream made by Ensure. Run must be
// running for Append to end.
func NewAppender[T Unit](s *Store, c AppenderConfig[T]) *Appender[T] {
	return &Appender[T]{c: c, s: s, wake: make(chan struct{}, 1), pace: newPace(s.stages())}
}

// Append queues u. It blocks while the queue is full, and queues nothing once ctx
// has ended.
// Errors: errs.Unavailable once the appender has closed, ctx's error.
func (a *Appender[T]) Append(ctx context.Context, u T) error {
	size := u.Size()
	a.mu.Lock()
	for !a.closed && len(a.queue) > 0 && (len(a.queue) >= a.c.MaxUnits || a.bytes+size > a.c.MaxQueue) {
		if a.room == nil {
			a.room = make(chan struct{})
		}
		room := a.room
		a.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
		a.mu.Lock()
	}
	if a.closed {
		a.mu.Unlock()
		return errs.Errorf("jet.Append", errs.Unavailable, "the log is closed")
	}
	// Under the lock: an owner that ends when it is told of a failure has nothing
	// stored behind it, neither what was queued (see tell) nor what comes now.
	if err := ctx.Err(); err != nil {
		a.mu.Unlock()
		return err
	}
	a.queue = append(a.queue, u)
	a.bytes += size
	first := len(a.queue) == 1
	a.mu.Unlock()
	if first {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// AppendAll queues the units of list in their order, as many at a time as there
// is room for, so that they share commits. It returns how many are queued: all of
// them unless there is an error, which is Append's.
func (a *Appender[T]) AppendAll(ctx context.Context, list []T) (n int, err error) {
	for n < len(list) {
		a.mu.Lock()
		before := n
		first := len(a.queue) == 0
		for !a.closed && ctx.Err() == nil && n < len(list) && len(a.queue) < a.c.MaxUnits {
			size := list[n].Size()
			if len(a.queue) > 0 && a.bytes+size > a.c.MaxQueue {
				break
			}
			a.queue = append(a.queue, list[n])
			a.bytes += size
			n++
		}
		a.mu.Unlock()
		if n > before {
			if first {
				select {
				case a.wake <- struct{}{}:
				default:
				}
			}
			continue
		}
		// No room, closed or too late: Append waits, or says so.
		if err := a.Append(ctx, list[n]); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Holds says how many bytes the stream was seen to hold: other processes may
// append to it.
func (a *Appender[T]) Holds(bytes int64) { a.held.Store(bytes) }

// Waiting returns the number of queued units.
func (a *Appender[T]) Waiting() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.queue)
}

// Run appends until ctx ends. What is queued by then is told to have failed.
func (a *Appender[T]) Run(ctx context.Context) error {
	defer func() {
		a.mu.Lock()
		a.closed = true
		a.openRoom()
		a.mu.Unlock()
		a.failQueue(errs.Errorf("jet.Append", errs.Unavailable, "the log is closed"))
		if a.conn != nil {
			a.conn.close()
		}
		a.closeRedo()
	}()
	idle := time.NewTimer(time.Hour)
	defer idle.Stop()
	for {
		if a.conn == nil && !a.connect(ctx) {
			return nil
		}
		gen, change, broken := a.s.state()
		if a.s.Embedded() && (gen != a.gen || broken != nil) {
			// Another appender has lost the store.
			a.conn.close()
			a.conn = nil
			continue
		}
		idle.Reset(20 * time.Second)
		a.mu.Lock()
		empty := len(a.queue) == 0
		a.mu.Unlock()
		if empty {
			select {
			case <-ctx.Done():
				return nil
			case <-a.wake:
			case <-change:
			case <-idle.C:
				a.keepAlive()
			}
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		a.take()
		began := time.Now()
		a.commit()
		a.linger(time.Since(began))
	}
}

// openRoom lets blocked Appends look again. a.mu is held.
func (a *Appender[T]) openRoom() {
	if a.room != nil {
		close(a.room)
		a.room = nil
	}
}

// keepAlive answers PINGs that came while there was nothing to do.
func (a *Appender[T]) keepAlive() {
	if _, err := a.conn.read(time.Now().Add(time.Millisecond)); err != nil && err != errWait {
		a.lost(err)
	}
}

// take moves the next units from the queue into a.units.
func (a *Appender[T]) take() {
	limit := MaxUnit
	if a.s.o.Durability != Disk {
		limit = maxPlain
	}
	maxBytes := maxBatchBytes
	if a.s.disk.dir != "" {
		maxBytes = min(maxBytes, int(a.s.disk.reserve/4))
	}
	a.mu.Lock()
	n, messages, size := 0, 0, 0
	for ; n < len(a.queue); n++ {
		m, s := a.queue[n].Len(), a.queue[n].Size()
		if n > 0 && (messages+m > limit || size+s > maxBytes) {
			break
		}
		messages += m
		size += s
	}
	a.units = append(a.units[:0], a.queue[:n]...)
	rest := copy(a.queue, a.queue[n:])
	clear(a.queue[rest:])
	a.queue = a.queue[:rest]
	a.bytes -= size
	a.openRoom()
	a.mu.Unlock()
}

// commit appends a.units and tells their owner.
func (a *Appender[T]) commit() {
	defer clear(a.units)
	units := a.units
	a.results = append(a.results[:0], make([]Result, len(units))...)
	res := a.results
	if err := a.ready(); err != nil {
		for i := range res {
			res[i].Err = err
		}
		a.tell(units, res, true)
		return
	}
	failed, size := false, int64(0)
	for i := range units {
		u := &units[i]
		var err error
		if a.c.Admit != nil {
			err = a.c.Admit(u)
		}
		if err == nil {
			err = a.fits(u, size)
		}
		if err != nil {
			res[i].Err, failed = err, true
			continue
		}
		size += int64((*u).Size() + (*u).Len()*perRecord)
	}
	if failed {
		// A refused unit takes along what its owner has behind it.
		a.spread(units, res)
		a.admitted(units, res)
	} else {
		a.write(units, res)
	}
	for i := range res {
		failed = failed || res[i].Err != nil
	}
	a.tell(units, res, failed)
}

// admitted writes the runs of units that have not failed.
func (a *Appender[T]) admitted(units []T, res []Result) {
	ok := make([]T, 0, len(units))
	at := make([]int, 0, len(units))
	for i := range units {
		if res[i].Err == nil {
			ok, at = append(ok, units[i]), append(at, i)
		}
	}
	if len(ok) == 0 {
		return
	}
	r := make([]Result, len(ok))
	a.write(ok, r)
	for i, k := range at {
		res[k] = r[i]
	}
	a.spread(units, res)
}

// errBehind is what a unit fails with because one before it failed.
func errBehind(err error) error {
	return errs.E("jet.Append", errs.KindOf(err), fmt.Errorf("not stored, because one before it failed: %w", err))
}

// spread fails every unit whose owner has a failed one before it.
func (a *Appender[T]) spread(units []T, res []Result) {
	var bad map[any]error
	for i := range units {
		o := units[i].Owner()
		if o == nil {
			continue
		}
		if res[i].Err != nil {
			if bad == nil {
				bad = map[any]error{}
			}
			if bad[o] == nil {
				bad[o] = res[i].Err
			}
		} else if err := bad[o]; err != nil {
			res[i].Err = errBehind(err)
		}
	}
}

// tell reports res, and where something failed also fails what the same owners
// have in the queue. The owner learns of the first failure before the queue is
// searched: what it appends after that is new.
func (a *Appender[T]) tell(units []T, res []Result, failed bool) {
	a.c.Committed(units, res)
	if !failed {
		return
	}
	bad := map[any]error{}
	for i := range units {
		if o := units[i].Owner(); o != nil && res[i].Err != nil && bad[o] == nil {
			bad[o] = res[i].Err
		}
	}
	if len(bad) == 0 {
		return
	}
	var behind []T
	var why []Result
	a.mu.Lock()
	keep := a.queue[:0]
	for _, u := range a.queue {
		if err := bad[u.Owner()]; err != nil {
			behind, why = append(behind, u), append(why, Result{Err: errBehind(err)})
			a.bytes -= u.Size()
		} else {
			keep = append(keep, u)
		}
	}
	clear(a.queue[len(keep):])
	a.queue = keep
	a.openRoom()
	a.mu.Unlock()
	if len(behind) > 0 {
		a.c.Committed(behind, why)
	}
}

// failQueue fails everything that is queued.
func (a *Appender[T]) failQueue(err error) {
	a.mu.Lock()
	units := a.queue
	a.queue, a.bytes = nil, 0
	a.openRoom()
	a.mu.Unlock()
	if len(units) == 0 {
		return
	}
	res := make([]Result, len(units))
	for i := range res {
		res[i].Err = err
	}
	a.c.Committed(units, res)
}

// ready refuses appends while the disk is nearly full.
func (a *Appender[T]) ready() error {
	d := &a.s.disk
	if d.dir == "" {
		return nil
	}
	if a.used-a.looked > int64(d.reserve/8) {
		a.looked = a.used
		if err := d.look(); err != nil {
			return errs.E("jet.Append", errs.Unavailable, err)
		}
	}
	if d.low() {
		return errs.E("jet.Append", errs.Quota, errDiskFull)
	}
	return nil
}

// perRecord is what the store adds to a message: its record's frame and the
// headers of a batch; rather too much than too little.
const perRecord = 100

// fits refuses a unit that would take the stream over its byte limit. The
// limit is kept here and not by the stream: a stream with a byte limit that
// refuses new messages goes over all subjects of a batch for each of its
// messages, and one that runs into a limit half way through a commit does not
// answer.
func (a *Appender[T]) fits(u *T, before int64) error {
	need := int64((*u).Size() + (*u).Len()*perRecord)
	if a.c.MaxBytes <= 0 || max(a.used, a.held.Load())+before+need <= a.c.MaxBytes {
		return nil
	}
	if time.Since(a.measured) > 100*time.Millisecond {
		// Trimming may have made room.
		st, err := a.s.State(a.c.Stream)
		if err != nil {
			return errs.E("jet.Append", errs.Unavailable, err)
		}
		a.used, a.measured = int64(st.Bytes), time.Now()
		a.held.Store(a.used)
		if a.used+before+need <= a.c.MaxBytes {
			return nil
		}
	}
	return errs.Errorf("jet.Append", errs.Quota, "the stream %s holds %d bytes, the limit", a.c.Stream, a.c.MaxBytes)
}

// write appends units and fills res. On an unknown outcome the connection is
// lost and all units without a result fail.
func (a *Appender[T]) write(units []T, res []Result) {
	messages, size := 0, 0
	single := true
	for i := range units {
		n := units[i].Len()
		single = single && n == 1
		messages += n
		size += units[i].Size()
	}
	switch {
	case !single:
		a.batch(units, res, messages, size)
	case a.s.o.Durability != Disk:
		// Without a sync to share, pipelined publishes cost half of a batch.
		a.plain(units, res, size)
	case a.pace.batchPays(messages):
		began := time.Now()
		if a.batch(units, res, messages, size) {
			a.pace.batchTook(messages, time.Since(began))
		}
	default:
		began := time.Now()
		if a.plain(units, res, size) {
			a.pace.plainTook(messages, time.Since(began))
		}
	}
}

// linger waits a moment for publishers that have just got their
// acknowledgement to come back, so that those of one group stay one group: two
// half groups in turn cost twice the syncs. It waits at most an eighth of what
// the commit took.
func (a *Appender[T]) linger(took time.Duration) {
	if a.s.o.Durability != Disk || len(a.units) < 2 || a.conn == nil {
		return
	}
	limit := time.Now().Add(min(took/8, 500*time.Microsecond))
	want := min(len(a.units)+a.Waiting(), MaxUnit)
	for a.Waiting() < want && time.Now().Before(limit) {
		time.Sleep(30 * time.Microsecond)
	}
}

// each appends one unit after the other, stopping an owner's at its first
// failure.
func (a *Appender[T]) each(units []T, res []Result) {
	var bad map[any]error
	for i := range units {
		o := units[i].Owner()
		if err := bad[o]; o != nil && err != nil {
			res[i].Err = errBehind(err)
			continue
		}
		if a.conn == nil {
			res[i].Err = errs.E("jet.Append", errs.Unavailable, errReopen)
		} else if n := units[i].Len(); n == 1 {
			a.plain(units[i:i+1], res[i:i+1], units[i].Size())
		} else {
			a.oneBatch(units[i:i+1], res[i:i+1], n, units[i].Size())
		}
		if res[i].Err != nil && o != nil {
			if bad == nil {
				bad = map[any]error{}
			}
			bad[o] = res[i].Err
		}
	}
}

// batch appends units as one atomic batch. Where the store refuses it, halves
// are tried, so that only the offender fails.
// It reports whether all went in at once.
func (a *Appender[T]) batch(units []T, res []Result, messages, size int) bool {
	if a.oneBatch(units, res, messages, size) {
		return a.conn != nil
	}
	if a.conn == nil || len(units) == 1 {
		return false
	}
	clear(res) // nothing is stored
	if len(units) <= 8 {
		a.each(units, res)
		return false
	}
	half := len(units) / 2
	for _, r := range [2][2]int{{0, half}, {half, len(units)}} {
		us, rs := units[r[0]:r[1]], res[r[0]:r[1]]
		if a.conn == nil {
			for i := range rs {
				rs[i].Err = errs.E("jet.Append", errs.Unavailable, errReopen)
			}
			continue
		}
		// What an owner has behind a failure of the first half stays out.
		a.spread(units[:r[1]], res[:r[1]])
		n, s, blocked := 0, 0, false
		for i := range us {
			n += us[i].Len()
			s += us[i].Size()
			blocked = blocked || rs[i].Err != nil
		}
		if blocked {
			a.admitted(us, rs)
		} else {
			a.batch(us, rs, n, s)
		}
	}
	return false
}

// oneBatch writes one atomic batch and reads its answer. It reports false
// where the store refused it; nothing of it is stored then.
func (a *Appender[T]) oneBatch(units []T, res []Result, messages, size int) bool {
	a.batches++
	var id [48]byte
	bid := strconv.AppendUint(append(id[:0], a.prefix...), a.batches, 36)
	b := a.buf[:0]
	k := 0
	if err := a.record(units); err != nil {
		for i := range res {
			res[i].Err = errs.E("jet.Append", errs.Unavailable, err)
		}
		return true
	}
	for i := range units {
		u := &units[i]
		for j, n := 0, (*u).Len(); j < n; j++ {
			k++
			h := append((*u).AppendHeader(a.hdr[:0], j), "Nats-Batch-Id:"...)
			h = append(append(h, bid...), "\r\nNats-Batch-Sequence:"...)
			h = append(strconv.AppendInt(h, int64(k), 10), '\r', '\n')
			b = append(b, "HPUB "...)
			b = append((*u).AppendSubject(b, j), ' ')
			if k == messages {
				h = append(h, "Nats-Batch-Commit:1\r\n"...)
				b = append(append(append(append(b, a.conn.inbox...), '.'), bid...), ' ')
			}
			a.hdr = h
			b = appendBody(b, h, (*u).Payload(j))
		}
		if len(b) >= 64<<10 {
			if !a.send(b, units, res) {
				return true
			}
			b = b[:0]
		}
	}
	a.buf = b
	if len(b) > 0 && !a.send(b, units, res) {
		return true
	}
	for {
		f, err := a.answer()
		if err != nil {
			a.unknown(units, res, err)
			return true
		}
		if !bytes.Equal(a.conn.tokenOf(f), bid) {
			continue
		}
		ack, err := parseAck(f)
		if err != nil {
			for i := range res {
				res[i] = Result{Err: refusal(err)}
			}
			if storeGone(err) {
				a.unknown(units, res, err)
				return true
			}
			if err := a.unrecord(); err != nil {
				clear(res)
				a.unknown(units, res, err)
				return true
			}
			return false
		}
		if ack.count != uint64(messages) {
			a.unknown(units, res, fmt.Errorf("batch of %d acknowledged as %d", messages, ack.count))
			return true
		}
		if !a.s.trusts(a.gen) {
			a.unknown(units, res, errReopen)
			return true
		}
		a.end = ack.seq
		seq := ack.seq - uint64(messages)
		for i := range units {
			seq += uint64(units[i].Len())
			res[i] = Result{Seq: seq}
		}
		a.used += int64(size + messages*perRecord)
		return true
	}
}

// openRedo completes what was cut off, opens the stream's redo file where it needs
// one, and returns the stream's state.
func (a *Appender[T]) openRedo() (st StreamState, err error) {
	a.closeRedo()
	if a.s.Embedded() {
		if err := a.s.recover(a.c.Stream); err != nil {
			return st, err
		}
	}
	if a.s.redoes(a.c.Stream) {
		if a.redo, err = a.s.openRedo(a.c.Stream); err != nil {
			return st, err
		}
	}
	return a.s.State(a.c.Stream)
}

func (a *Appender[T]) closeRedo() {
	if a.redo != nil {
		a.redo.f.Close()
		a.redo = nil
	}
}

// record makes a batch durable in the stream's redo file, where there is one.
func (a *Appender[T]) record(units []T) error {
	if a.redo == nil {
		return nil
	}
	a.redo.begin(a.end)
	for i := range units {
		u := &units[i]
		for j, n := 0, (*u).Len(); j < n; j++ {
			b := (*u).AppendSubject(a.hdr[:0], j)
			subject := len(b)
			a.hdr = (*u).AppendHeader(b, j)
			a.redo.add(a.hdr[:subject], a.hdr[subject:], (*u).Payload(j))
		}
	}
	return a.redo.commit()
}

// unrecord takes a batch back that was refused.
func (a *Appender[T]) unrecord() error {
	if a.redo == nil {
		return nil
	}
	return a.redo.clear()
}

// appendBody adds the sizes, the header and the payload of an HPUB.
func appendBody(b, h, payload []byte) []byte {
	hl := len(h) + len("NATS/1.0\r\n\r\n")
	b = strconv.AppendInt(b, int64(hl), 10)
	b = strconv.AppendInt(append(b, ' '), int64(hl+len(payload)), 10)
	b = append(b, "\r\nNATS/1.0\r\n"...)
	b = append(append(b, h...), '\r', '\n')
	return append(append(b, payload...), '\r', '\n')
}

// plain pipelines single-message units, each acknowledged by itself. It reports
// whether all went in.
func (a *Appender[T]) plain(units []T, res []Result, size int) bool {
	b := a.buf[:0]
	first := a.conn.next + 1
	for i := range units {
		u := &units[i]
		b = append(b, "HPUB "...)
		b = append((*u).AppendSubject(b, 0), ' ')
		a.conn.next++
		b = append(append(b, a.conn.inbox...), '.')
		b = append(strconv.AppendUint(b, a.conn.next, 36), ' ')
		a.hdr = (*u).AppendHeader(a.hdr[:0], 0)
		b = appendBody(b, a.hdr, (*u).Payload(0))
		if len(b) >= 64<<10 {
			if !a.send(b, units, res) {
				return false
			}
			b = b[:0]
		}
	}
	a.buf = b
	if len(b) > 0 && !a.send(b, units, res) {
		return false
	}
	gone, refused := error(nil), false
	for left := len(units); left > 0; {
		f, err := a.answer()
		if err != nil {
			a.unknown(units, res, err)
			return false
		}
		n, err := strconv.ParseUint(string(a.conn.tokenOf(f)), 36, 64)
		if err != nil || n < first || n-first >= uint64(len(units)) {
			continue
		}
		left--
		ack, err := parseAck(f)
		if err != nil {
			res[n-first], refused = Result{Err: refusal(err)}, true
			if storeGone(err) {
				gone = err
			}
			continue
		}
		res[n-first] = Result{Seq: ack.seq}
		a.end = max(a.end, ack.seq)
	}
	a.used += int64(size + len(units)*perRecord)
	if gone == nil && !a.s.trusts(a.gen) {
		gone = errReopen
		for i := range res {
			res[i].Seq = 0
		}
	}
	if gone != nil {
		a.unknown(units, res, gone)
		return false
	}
	a.spread(units, res)
	return !refused
}

// send writes b; where that fails the outcome of all units is unknown.
func (a *Appender[T]) send(b []byte, units []T, res []Result) bool {
	began := time.Now()
	err := a.conn.write(b, func() error { return a.patient(began) })
	if err != nil {
		a.unknown(units, res, err)
		return false
	}
	return true
}

// answer reads one reply, waiting as long as that makes sense.
func (a *Appender[T]) answer() (frame, error) {
	began := time.Now()
	for {
		f, err := a.conn.read(time.Now().Add(patience))
		if err != errWait {
			return f, err
		}
		if err := a.patient(began); err != nil {
			return frame{}, err
		}
	}
}

// patient returns why there is no use in waiting any longer for what began at
// began: the deadline is over, or the disk is full and JetStream will never
// answer.
func (a *Appender[T]) patient(began time.Time) error {
	waited := time.Since(began)
	if waited >= a.s.o.Deadline {
		return errUnknown
	}
	if waited >= 4*patience && a.s.Embedded() {
		if err := a.s.disk.look(); err == nil && a.s.disk.low() {
			return errDiskFull
		}
	}
	if gen, _, broken := a.s.state(); a.s.Embedded() && (gen != a.gen || broken != nil) {
		return errReopen
	}
	return nil
}

// unknown fails the units that have no sequence and gives the connection up.
func (a *Appender[T]) unknown(units []T, res []Result, err error) {
	for i := range res {
		if res[i].Seq == 0 && res[i].Err == nil {
			res[i].Err = errs.E("jet.Append", errs.Unavailable, err)
		}
	}
	a.spread(units, res)
	a.lost(err)
}

// lost gives the connection up; Run opens the next one.
func (a *Appender[T]) lost(err error) {
	a.conn.close()
	a.conn = nil
	a.s.Logger().Error("an append has no answer", "stream", a.c.Stream, "err", err)
	if a.s.Embedded() {
		a.s.fail(a.gen, err)
	}
}

// connect waits for a healthy store, connects, and reads the stream's end.
// What is queued meanwhile fails, so that publishers do not wait for ever. It
// reports false when ctx has ended.
func (a *Appender[T]) connect(ctx context.Context) bool {
	first := a.gen == 0
	began := time.Now()
	for {
		gen, change, broken := a.s.state()
		if broken == nil {
			c, err := a.s.dial()
			if err == nil {
				var st StreamState
				if st, err = a.openRedo(); err == nil {
					a.conn, a.gen, a.end = c, gen, st.LastSeq
					a.prefix, a.batches = nuid.Next()[12:], 0
					a.used = int64(st.Bytes)
					a.looked = a.used
					a.c.Opened(st)
					return true
				}
				c.close()
			}
			if ctx.Err() == nil {
				a.s.Logger().Warn("cannot reach the store", "stream", a.c.Stream, "err", err)
				if a.s.Embedded() {
					a.s.fail(gen, err)
				}
			}
		}
		if !first || time.Since(began) > time.Second {
			a.failQueue(errs.E("jet.Append", errs.Unavailable, errReopen))
		}
		select {
		case <-ctx.Done():
			return false
		case <-change:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// ack is a JetStream publish acknowledgement.
type ack struct{ seq, count uint64 }

// parseAck reads {"stream":"…","seq":1,"batch":"…","count":2} without a
// JSON decoder; anything else goes through one.
func parseAck(f frame) (ack, error) {
	if status(f.header) == 503 {
		return ack{}, errNoResponder
	}
	var k ack
	p := f.payload
	i := bytes.Index(p, []byte(`"seq":`))
	if i > 0 && bytes.HasPrefix(p, []byte(`{"stream":`)) {
		k.seq, p = digits(p[i+6:])
		if j := bytes.Index(p, []byte(`"count":`)); j >= 0 {
			k.count, _ = digits(p[j+8:])
		}
		if k.seq > 0 {
			return k, nil
		}
	}
	var full struct {
		Seq, Count uint64
		Error      *apiError
	}
	if err := json.Unmarshal(f.payload, &full); err != nil {
		return ack{}, fmt.Errorf("answer %.80q: %w", f.payload, err)
	}
	if full.Error != nil {
		return ack{}, full.Error
	}
	return ack{full.Seq, full.Count}, nil
}

func digits(p []byte) (uint64, []byte) {
	i := 0
	for i < len(p) && p[i] >= '0' && p[i] <= '9' {
		i++
	}
	n, _ := number(p[:i])
	return n, p[i:]
}

// storeGone reports whether an answer means that the store, rather than the
// message, is at fault: JetStream turns itself off when a disk is full.
func storeGone(err error) bool {
	var ae *apiError
	if !errors.As(err, &ae) {
		return true
	}
	switch ae.ErrCode {
	case 10039, 10074, 10076, 10008, 10005: // JetStream not enabled, offline, server shut down
		return true
	}
	return false
}

// refusal gives an answered error its kind.
func refusal(err error) error {
	const op = "jet.Append"
	var ae *apiError
	if !errors.As(err, &ae) {
		return errs.E(op, errs.Unavailable, err)
	}
	switch ae.ErrCode {
	case codeWrongLastSeq, codeWrongLastConst:
		return errs.E(op, errs.Conflict, ae)
	case 10054, 10097: // message or header over the maximum
		return errs.E(op, errs.TooLarge, ae)
	case 10077: // the stream is full; also other refusals by the store
		return errs.E(op, errs.Quota, ae)
	case 10047, 10002, 10023: // account, server or memory resources
		return errs.E(op, errs.Quota, ae)
	}
	return errs.E(op, errs.Unavailable, ae)
}
