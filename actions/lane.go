package actions

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/rules/lane"
)

// LaneOptions configure a Lane. A zero value means the default.
type LaneOptions struct {
	Rule  string
	Index int    // of the action in the rule
	Kind  string // of the action

	Action Action
	Spec   Spec

	ErrorKind   string
	ErrorAction Action // nil: the rule has none
	ErrorSpec   Spec

	Dead DeadLetters // required

	Outcomes Recorder   // nil: what was not simply delivered is in the counters only
	State    lane.State // where the lane left off

	Window      int           // results taken and not settled in order; default 1,024
	WindowBytes int           // of these and their events; default 4 MiB; one larger result is taken alone
	RetryFor    time.Duration // how long a result waits for a destination that cannot be reached; default 1 h
	AWSRetries  bool          // a destination that cannot be reached counts as a try
	BackoffMin  time.Duration // default 100 ms
	BackoffMax  time.Duration // default 30 s
	Grace       time.Duration // for deliveries under way when the lane ends; default 5 s

	Logger *slog.Logger
	Now    func() time.Time
}

// DeadLetters keeps what could not be delivered.
type DeadLetters interface {
	// Put returns when l is stored durably. A Put that failed may have stored it:
	// put again it is there twice, with the same message id.
	Put(ctx context.Context, l *Letter) error
}

// Lane delivers the results of one rule's action. It implements lane.Lane.
//
// Results wait in a bounded window in the order of their events. Each belongs
// to the slot its ordering key hashes to; a slot is one goroutine that delivers
// one batch after another, retries included, so that the results of one key
// keep their order.
type Lane struct {
	o    LaneOptions
	seed maphash.Seed
	room chan struct{}

	wg sync.WaitGroup // the slots

	mu       sync.Mutex
	ctx      context.Context // ends when the lane ends; nil: Run was not called
	hard     context.Context // of deliveries: ends a grace later
	ended    bool
	slots    []slot
	ring     []place // window, a ring of power-of-two size
	head     uint64  // number of the oldest place
	tail     uint64  // number of the next place
	bytes    int
	pending  int
	refused  bool
	advanced uint64      // everything up to here was offered
	at       lane.Counts // at the confirmed position
	total    lane.Counts // of everything settled
	retries  uint64
	lastErr  string
	lastFail time.Time
	br       breaker
	errDown  time.Time // the error action could not be reached: not asked before
}

// place is a result's place in the window. It outlives the result until all
// before it are settled.
type place struct {
	seq      uint64
	received int64 // ms
	outcome  outcome
	it       *item // nil once it is settled
}

type outcome uint8

const (
	pending outcome = iota
	delivered
	errorDelivered
	dead
)

// item is a result in a slot.
type item struct {
	res   Result
	no    uint64 // its place
	size  int
	fail  error     // evaluating failed: straight to the error action
	tries int       // answered failures
	down  time.Time // since when this result alone cannot be delivered for want of an answer
	waits int       // failures without an answer

	attempts []lane.Attempt // that failed; see maxAttempts. Guarded by the lane's lock
	failed   uint64         // how many there were
}

func (o outcome) String() string {
	return [...]string{lane.Pending, lane.Delivered, lane.ErrorDelivered, lane.DeadLetter}[o]
}

type slot struct {
	queue   []*item
	signal  chan struct{} // capacity 1
	running bool
}

// NewLane returns a lane; nothing runs until Run.
func NewLane(o LaneOptions) *Lane {
	def := func(p *int, d int) {
		if *p <= 0 {
			*p = d
		}
	}
	dur := func(p *time.Duration, d time.Duration) {
		if *p <= 0 {
			*p = d
		}
	}
	for _, s := range []*Spec{&o.Spec, &o.ErrorSpec} {
		def(&s.MaxInFlight, 8)
		def(&s.BatchMax, 1)
		def(&s.BatchBytes, 1<<20)
		def(&s.MaxTries, 3)
		dur(&s.Timeout, 30*time.Second)
	}
	def(&o.Window, 1024)
	def(&o.WindowBytes, 4<<20)
	dur(&o.RetryFor, time.Hour)
	dur(&o.BackoffMin, 100*time.Millisecond)
	dur(&o.BackoffMax, 30*time.Second)
	dur(&o.Grace, 5*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Lane{
		o: o, seed: maphash.MakeSeed(), room: make(chan struct{}, 1),
		slots: make([]slot, o.Spec.MaxInFlight), ring: make([]place, 16),
		advanced: o.State.Confirmed, at: o.State.Counts, total: o.State.Counts,
	}
	for i := range l.slots {
		l.slots[i].signal = make(chan struct{}, 1)
	}
	l.br.changed = make(chan struct{})
	if d := o.State.DownSince; !d.IsZero() && !o.AWSRetries { // it was down before the restart: the clock runs on, the first try probes
		l.br.open, l.br.since = true, d
	}
	return l
}

var _ lane.Lane = (*Lane)(nil)

// Offer implements lane.Lane.
func (l *Lane) Offer(e *event.Event, payload []byte) bool {
	return l.put(&item{res: Result{ID: e.ID(), Rule: l.o.Rule, Event: e, Payload: payload}})
}

// Fail implements lane.Lane.
func (l *Lane) Fail(e *event.Event, err error) bool {
	return l.put(&item{res: Result{ID: e.ID(), Rule: l.o.Rule, Event: e}, fail: err})
}

func (l *Lane) put(it *item) bool {
	e := it.res.Event
	it.size = len(it.res.Payload) + e.Size()
	var k uint64
	if len(l.slots) > 1 {
		k = maphash.String(l.seed, e.OrderingKey()) % uint64(len(l.slots))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int(l.tail - l.head)
	if n >= l.o.Window || l.pending > 0 && l.bytes+it.size > l.o.WindowBytes {
		l.refused = true
		return false
	}
	if n == len(l.ring) {
		ring := make([]place, 2*len(l.ring))
		for i := l.head; i < l.tail; i++ {
			ring[i%uint64(len(ring))] = *l.place(i)
		}
		l.ring = ring
	}
	it.no = l.tail
	l.tail++
	*l.place(it.no) = place{seq: e.Seq, received: e.Received.UnixMilli(), it: it}
	l.pending++
	l.bytes += it.size
	s := &l.slots[k]
	s.queue = append(s.queue, it)
	l.start(s)
	select {
	case s.signal <- struct{}{}:
	default:
	}
	return true
}

func (l *Lane) place(no uint64) *place { return &l.ring[no%uint64(len(l.ring))] }

// start runs a slot that has work and does not run. l.mu is held.
func (l *Lane) start(s *slot) {
	if l.ctx != nil && !l.ended && !s.running {
		s.running = true
		l.wg.Go(func() { l.serve(s) })
	}
}

// Room implements lane.Lane.
func (l *Lane) Room() <-chan struct{} { return l.room }

// Advance implements lane.Lane.
func (l *Lane) Advance(upto uint64) {
	l.mu.Lock()
	l.advanced = max(l.advanced, upto)
	l.mu.Unlock()
}

// State implements lane.Lane.
func (l *Lane) State() lane.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return lane.State{Confirmed: l.confirmed(), Counts: l.at, DownSince: l.br.downSince()}
}

func (l *Lane) confirmed() uint64 {
	if l.head < l.tail {
		return l.place(l.head).seq - 1
	}
	return l.advanced
}

// Status implements lane.Lane.
func (l *Lane) Status() lane.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := lane.Status{
		Counts: l.total, Confirmed: l.confirmed(), Pending: l.pending, Bytes: l.bytes, Retries: l.retries,
		LastError: l.lastErr, LastFailed: l.lastFail, Breaker: l.br.String(), DownSince: l.br.downSince(),
	}
	if l.head < l.tail { // the head is never settled
		st.Oldest = time.UnixMilli(l.place(l.head).received).UTC()
	}
	return st
}

// maxAttempts is how many failed tries of a result are kept: the first half and
// the last.
const maxAttempts = 8

// attempt notes a try of it that failed.
func (l *Lane) attempt(it *item, err error) {
	a := lane.Attempt{Time: l.o.Now().UTC(), Error: errorText(err)}
	l.mu.Lock()
	defer l.mu.Unlock()
	it.failed++
	if len(it.attempts) == maxAttempts {
		it.attempts = append(it.attempts[:maxAttempts/2], it.attempts[maxAttempts/2+1:]...)
	}
	it.attempts = append(it.attempts, a)
}

// Trace implements lane.Lane.
func (l *Lane) Trace(seq uint64) lane.Trace {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := sort.Search(int(l.tail-l.head), func(i int) bool { return l.place(l.head+uint64(i)).seq >= seq })
	if n == int(l.tail-l.head) || l.place(l.head+uint64(n)).seq != seq {
		return lane.Trace{}
	}
	p := l.place(l.head + uint64(n))
	t := lane.Trace{State: p.outcome.String()}
	if p.it != nil {
		t.Attempts, t.Failed = slices.Clone(p.it.attempts), p.it.failed
	}
	return t
}

// record keeps what was not simply delivered.
func (l *Lane) record(it *item, o outcome) {
	l.mu.Lock()
	attempts, failed := it.attempts, it.failed
	l.mu.Unlock()
	if l.o.Outcomes == nil || o == delivered && failed == 0 {
		return
	}
	e := it.res.Event
	l.o.Outcomes.Record(l.hard, &Outcome{
		ID: it.res.ID, Partition: e.Partition, Seq: e.Seq, Rule: l.o.Rule, Index: l.o.Index, Kind: l.o.Kind,
		State: o.String(), Attempts: attempts, Failed: failed, Time: l.o.Now().UTC(),
	})
}

// settle says what became of a result.
func (l *Lane) settle(it *item, o outcome) {
	l.record(it, o)
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.place(it.no)
	p.outcome, p.it = o, nil
	count(&l.total, o)
	l.pending--
	l.bytes -= it.size
	for l.head < l.tail {
		p := l.place(l.head)
		if p.outcome == pending {
			break
		}
		count(&l.at, p.outcome)
		l.advanced = max(l.advanced, p.seq)
		l.head++
	}
	if l.refused && int(l.tail-l.head) <= l.o.Window*3/4 && l.bytes <= l.o.WindowBytes*3/4 {
		l.refused = false
		select {
		case l.room <- struct{}{}:
		default:
		}
	}
}

func count(c *lane.Counts, o outcome) {
	switch o {
	case delivered:
		c.Delivered++
	case errorDelivered:
		c.ErrorDelivered++
	case dead:
		c.Dead++
	}
}

// Run implements lane.Lane.
func (l *Lane) Run(ctx context.Context) error {
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	l.mu.Lock()
	l.ctx, l.hard = ctx, hard
	for i := range l.slots {
		if len(l.slots[i].queue) > 0 {
			l.start(&l.slots[i])
		}
	}
	l.mu.Unlock()
	<-ctx.Done()
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	grace := time.AfterFunc(l.o.Grace, cancel)
	defer grace.Stop()
	l.wg.Wait()
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), l.o.Grace)
	defer stop()
	err := l.o.Action.Close(last)
	if l.o.ErrorAction != nil {
		err = errors.Join(err, l.o.ErrorAction.Close(last))
	}
	return err
}

// serve delivers a slot's results until the lane ends.
func (l *Lane) serve(s *slot) {
	for {
		batch := l.next(s)
		if batch == nil {
			return
		}
		l.deliver(batch)
	}
}

// next returns the slot's next batch; nil: the lane has ended.
func (l *Lane) next(s *slot) []*item {
	var timer *time.Timer
	for {
		if l.ctx.Err() != nil {
			return nil
		}
		l.mu.Lock()
		batch, full := l.cut(s)
		if n := len(batch); n > 0 && (full || l.o.Spec.BatchLinger <= 0 || timer != nil && timer.C == nil) {
			batch = slices.Clone(batch)
			clear(s.queue[:n])
			if s.queue = s.queue[n:]; len(s.queue) == 0 {
				s.queue = nil
			}
			l.mu.Unlock()
			return batch
		}
		l.mu.Unlock()
		if len(batch) == 0 {
			select {
			case <-s.signal:
			case <-l.ctx.Done():
			}
			continue
		}
		if timer == nil {
			timer = time.NewTimer(l.o.Spec.BatchLinger)
			defer timer.Stop()
		}
		select {
		case <-s.signal:
		case <-timer.C:
			timer = &time.Timer{} // has run out: take what there is
		case <-l.ctx.Done():
		}
	}
}

// cut returns the head of the slot's queue that fits into one batch, and
// whether more could not join it. l.mu is held.
func (l *Lane) cut(s *slot) (batch []*item, full bool) {
	size := 0
	for i, it := range s.queue {
		if it.fail != nil { // goes alone, to the error action
			if i == 0 {
				return s.queue[:1], true
			}
			return s.queue[:i], true
		}
		size += len(it.res.Payload)
		if i > 0 && size > l.o.Spec.BatchBytes {
			return s.queue[:i], true
		}
		if i+1 == l.o.Spec.BatchMax {
			return s.queue[:i+1], true
		}
	}
	return s.queue, false
}

// failure is a result that was given up, and why.
type failure struct {
	it   *item
	err  error
	late bool // err is that its time has run out, not that of a try
}

// deliver settles batch, or returns early because the lane has ended.
func (l *Lane) deliver(batch []*item) {
	if batch[0].fail != nil {
		l.fail([]failure{{it: batch[0], err: batch[0].fail}})
		return
	}
	for len(batch) > 0 {
		expired, granted := l.gate(&batch)
		if len(expired) > 0 {
			l.fail(expired)
		}
		if !granted {
			if l.ctx.Err() != nil {
				return
			}
			continue
		}
		errs := l.try(l.o.Action, l.o.Spec.Timeout, batch)
		if l.hard.Err() != nil {
			// Cut off by the end of the lane: only what was delivered is settled.
			for i, it := range batch {
				if errs[i] == nil {
					l.settle(it, delivered)
				}
			}
			return
		}
		var lost []failure
		var wait time.Duration
		answers := 0
		rest := batch[:0]
		for i, it := range batch {
			err := errs[i]
			if err == nil {
				answers++
				l.settle(it, delivered)
				continue
			}
			l.note(err)
			l.attempt(it, err)
			c := classOf(err)
			if c == unreachable && l.o.AWSRetries {
				c = answered
			}
			switch c {
			case permanent:
				answers++
				lost = append(lost, failure{it: it, err: err})
				continue
			case unreachable:
				if it.down.IsZero() {
					it.down = l.o.Now()
				}
				wait = max(wait, l.backoff(it.waits), min(retryAfter(err), l.o.RetryFor))
				it.waits++
			default:
				answers++
				it.down, it.waits = time.Time{}, 0
				if it.tries++; it.tries >= l.o.Spec.MaxTries {
					lost = append(lost, failure{it: it, err: err})
					continue
				}
				wait = max(wait, l.backoff(it.tries-1), min(retryAfter(err), l.o.RetryFor))
			}
			rest = append(rest, it)
		}
		l.answered(answers > 0)
		batch = rest
		if len(lost) > 0 {
			l.fail(lost)
		}
		if len(batch) > 0 && answers > 0 && !l.pause(wait) {
			return
		}
	}
}

// gate waits until a try makes sense: at once while the breaker is closed, else
// until this slot may probe. Results that have waited too long are taken out of
// batch. granted false: there are such, or the lane has ended.
func (l *Lane) gate(batch *[]*item) (expired []failure, granted bool) {
	for l.ctx.Err() == nil {
		now := l.o.Now()
		l.mu.Lock()
		since := l.br.downSince()
		rest := (*batch)[:0]
		next := time.Duration(1<<63 - 1)
		for _, it := range *batch {
			from := since
			if !it.down.IsZero() && (from.IsZero() || it.down.Before(from)) {
				from = it.down
			}
			if from.IsZero() {
				rest = append(rest, it)
				continue
			}
			if it.res.Event.Received.After(from) {
				from = it.res.Event.Received
			}
			left := l.o.RetryFor - now.Sub(from)
			if left <= 0 {
				expired = append(expired, failure{it, fmt.Errorf("no answer for %s; the last error: %s", l.o.RetryFor, l.lastErr), true})
				continue
			}
			next = min(next, left)
			rest = append(rest, it)
		}
		*batch = rest
		if len(rest) == 0 || len(expired) > 0 {
			l.mu.Unlock()
			return expired, false
		}
		wait, granted := l.br.enter(now)
		changed := l.br.changed
		l.mu.Unlock()
		if granted {
			return nil, true
		}
		if wait > 0 {
			next = min(next, wait)
		}
		t := time.NewTimer(next)
		select {
		case <-changed:
		case <-t.C:
		case <-l.ctx.Done():
		}
		t.Stop()
	}
	return expired, false
}

// try calls Deliver once and returns one error for each result.
func (l *Lane) try(a Action, limit time.Duration, batch []*item) (errs []error) {
	errs = make([]error, len(batch))
	results := make([]*Result, len(batch))
	for i, it := range batch {
		results[i] = &it.res
	}
	err := call(l.hard, a, limit, results)
	var be *BatchError
	switch {
	case err == nil:
	case errors.As(err, &be) && len(be.Errs) == len(batch):
		for i, err := range be.Errs {
			errs[i] = Network(err)
		}
	default:
		for i := range errs {
			errs[i] = err
		}
	}
	return errs
}

// call is one Deliver under its time limit; a panic is contained.
func call(ctx context.Context, a Action, limit time.Duration, results []*Result) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = Permanent(fmt.Errorf("the action panicked: %v", p))
		}
	}()
	err = Network(a.Deliver(ctx, results))
	var be *BatchError
	if err != nil && !errors.As(err, &be) && ctx.Err() == context.DeadlineExceeded && classOf(err) == answered {
		return Unreachable(fmt.Errorf("no answer within %s: %w", limit, err))
	}
	return err
}

// note keeps the newest failure for the status.
func (l *Lane) note(err error) {
	text := err.Error()
	if len(text) > maxErrorText {
		text = text[:maxErrorText]
	}
	l.mu.Lock()
	l.retries++
	l.lastErr, l.lastFail = text, l.o.Now()
	l.mu.Unlock()
}

const maxErrorText = 4096

// backoff returns the pause behind the n-th failure, from 0, with jitter.
func (l *Lane) backoff(n int) time.Duration {
	d := l.o.BackoffMin << min(n, 20)
	if d > l.o.BackoffMax || d <= 0 {
		d = l.o.BackoffMax
	}
	return d/2 + rand.N(d/2+1)
}

// pause waits; false: the lane has ended.
func (l *Lane) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// answered tells the breaker whether the destination has answered a try.
func (l *Lane) answered(yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case yes && l.br.open:
		l.br.close()
		l.o.Logger.Info("the destination answers again", "rule", l.o.Rule, "action", l.o.Index, "kind", l.o.Kind)
	case !yes && !l.o.AWSRetries:
		if !l.br.open {
			l.o.Logger.Warn("the destination does not answer; results wait", "rule", l.o.Rule, "action", l.o.Index, "kind", l.o.Kind, "error", l.lastErr)
		}
		l.br.trip(l.o.Now(), l.backoff)
	}
}
