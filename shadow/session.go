package shadow

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
)

// session is the time between taking a partition's lease and losing it. Its
// worker is one goroutine: it reads a batch of requests, works them out in
// memory, commits all new versions at once and appends the answers. A failure
// ends the session: the next one reads again from the saved position.
type session struct {
	p     *partition
	o     *Options
	m     *metrics
	epoch uint64
	from  uint64 // saved position
	since int64  // when the position was saved, milliseconds
	start uint64 // committed when the session began: up to here requests may be repeats

	writeMu sync.Mutex // guards rev and written
	rev     uint64
	written time.Time

	held atomic.Uint64 // the saved position
	stop context.CancelCauseFunc

	// Of the worker.
	cache cache
	turn  turn
	apart *watch // nil: nothing is watched

	mu        sync.Mutex // guards what follows
	appended  uint64     // answers handed to the log
	confirmed uint64     // of these, those that are on the log or given up
	marks     []mark     // positions that wait for answers
	position  uint64     // every answer up to here is on the log
	settled   chan struct{}
}

// mark says that position upto is reached once need answers are confirmed.
type mark struct{ upto, need uint64 }

func newSession(p *partition, l lease, rev uint64) *session {
	s := &session{p: p, o: &p.s.o, m: p.s.m, epoch: l.Epoch, rev: rev, written: time.Now(), since: l.Saved,
		start: p.s.o.Log.Committed(p.id), settled: make(chan struct{}, 1)}
	s.from = l.Position
	if p.sole {
		// After a lost tail its sequences are used again.
		s.from = p.s.o.Log.Clamp(p.id, s.from)
	}
	s.position = s.from
	s.held.Store(s.from)
	s.cache.limit = s.o.Cache
	return s
}

// run serves the partition until ctx ends or the session fails.
func (s *session) run(parent context.Context) error {
	ctx, stop := context.WithCancelCause(parent)
	defer stop(nil)
	s.stop = stop
	s.o.Log.Hold(holdName, s.p.id, s.held.Load)
	defer s.o.Log.Hold(holdName, s.p.id, func() uint64 { return 0 })
	var wg sync.WaitGroup
	defer wg.Wait()
	saving, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	wg.Go(func() {
		if err := s.save(saving); err != nil && saving.Err() == nil {
			stop(err)
		}
	})
	err := s.work(ctx)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if parent.Err() != nil && !s.p.s.crash.Load() {
		// The answers under way come first, so that nothing is repeated.
		last, cancel := context.WithTimeout(context.WithoutCancel(parent), 2*time.Second)
		defer cancel()
		s.drain(last)
		end()
		wg.Wait()
		if werr := s.write(last, true); werr != nil && !errors.Is(werr, errLost) {
			s.p.log.Warn("the position of the shadows was not saved at the end", "error", werr)
		}
	}
	return err
}

var filters = []topic.Filter{"$aws/things/+/shadow/#", topic.Filter(requestTopic)}

const batchMax = 256

var errBack = errors.New("the log's end has moved back")

func (s *session) work(ctx context.Context) error {
	if err := s.watchApart(ctx); err != nil {
		return err
	}
	f, err := s.o.Log.Follow(eventlog.FollowOptions{Partition: s.p.id, After: s.from, Filters: filters, Mode: topic.AWS})
	if err != nil {
		return err
	}
	defer f.Close()
	at := s.from
	for {
		wait, cancel := s.waiting(ctx)
		batch, upto, err := f.Next(wait, batchMax)
		due := wait.Err() != nil
		cancel()
		var gap *eventlog.GapError
		switch {
		case errors.As(err, &gap):
			s.m.gaps.Add(float64(gap.To - gap.From + 1))
			s.p.log.Error("shadow requests may be lost: events were trimmed before they were read", "from", gap.From, "to", gap.To)
			upto = gap.To
		case err != nil && ctx.Err() == nil && due:
			upto = at
		case err != nil:
			return err
		case upto < at:
			return errBack
		}
		at = upto
		s.turn.reset()
		clear(s.turn.inFlight)
		for _, e := range batch {
			if err := s.event(ctx, e); err != nil {
				return err
			}
			if s.turn.full {
				if err := s.flush(ctx, e.Seq); err != nil {
					return err
				}
				s.turn.reset()
			}
		}
		s.dueApart(ctx)
		if err := s.flush(ctx, upto); err != nil {
			return err
		}
	}
}

// turn is what one batch comes to.
type turn struct {
	docs     map[string]*doc
	changed  []*doc
	answers  []answer
	replies  []reply
	late     []answer // sent once the position behind their requests is saved
	inFlight map[string]int
	full     bool // some document has as many versions as one entry may hold
}

// doc is a document in a turn.
type doc struct {
	key, thing, name string
	rev              uint64
	rec              *record   // nil: there never was one
	made             []*record // in this turn, before rec
	changed          bool
	weight           int // bytes of the versions made in this turn, rather too many
	bytes            []byte
	past             []*record // read for a repeat
}

// maxWeight bounds the entry of a document.
const maxWeight = kv.MaxValue / 2

// answer is one request's events.
type answer struct{ events []*event.Event }

// reply is what a caller of the Go API waits for.
type reply struct {
	q *request
	r result
}

func (t *turn) reset() {
	if t.docs == nil || len(t.docs) > 4*batchMax {
		t.docs = map[string]*doc{}
	}
	clear(t.docs)
	clear(t.changed)
	clear(t.answers)
	t.changed, t.answers, t.replies, t.late, t.full = t.changed[:0], t.answers[:0], t.replies[:0], nil, false
}

// request is an event that asks for something.
type request struct {
	e           *event.Event
	thing, name string
	op          operation
	via         string
	to, id      string // of a caller of the Go API
}

// event works one request out. An error ends the session.
func (s *session) event(ctx context.Context, e *event.Event) error {
	q := request{e: e}
	if e.Topic == requestTopic {
		if e.Protocol != event.Server {
			return nil
		}
		props := userProps(e)
		q.thing, q.name, q.via, q.to, q.id = props["thing"], props["name"], props["via"], props["to"], props["id"]
		switch props["op"] {
		case "update":
			q.op = opUpdate
		case "delete":
			q.op = opDelete
		case "change":
			q.op = opChange
		default:
			return nil
		}
	} else {
		var ok bool
		if q.thing, q.name, q.op, ok = parseTopic(e.Topic); !ok {
			return nil
		}
		q.via = [...]string{event.MQTT: "mqtt", event.HTTP: "http", event.Server: "server"}[min(e.Protocol, event.Server)]
		if q.id == "" && s.tooMany(&q) {
			s.reject(&q, errTooMany, s.token(&q))
			return nil
		}
	}
	if bad := checkNames(q.thing, q.name); bad != nil {
		s.reject(&q, bad, s.token(&q))
		return nil
	}
	if s.o.Things != nil && !s.o.Things.ThingExists(q.thing) {
		s.reject(&q, errNoThing, s.token(&q))
		return nil
	}
	d, err := s.load(ctx, q.thing, q.name)
	if errors.Is(err, errRecord) {
		s.p.log.Error("a document cannot be read; its requests are refused", "thing", q.thing, "name", q.name, "error", err)
		s.reject(&q, errInternal, s.token(&q))
		return nil
	}
	if err != nil {
		return err
	}
	if q.op == opGet {
		s.get(d, &q)
		return nil
	}
	if d.rec != nil && e.Seq <= s.seen(d.rec) {
		return s.repeat(ctx, d, &q)
	}
	if q.op == opDelete {
		s.delete(d, &q)
		return nil
	}
	p, bad := s.parse(&q)
	if bad != nil {
		s.reject(&q, bad, p.token)
		return nil
	}
	next, bad := d.rec.apply(&p, e.Received.UnixMilli(), &s.o.Limits)
	if bad != nil {
		s.reject(&q, bad, p.token)
		return nil
	}
	next.by = origin{op: q.op.String(), token: p.token, note: p.note}
	if w := next.weight(); w > maxWeight && len(next.append(nil)) > kv.MaxValue*3/4 {
		s.reject(&q, errTooLarge, p.token)
		return nil
	}
	previous := d.rec
	s.put(d, next, &q)
	s.updated(d.thing, d.name, previous, next, &p, &q)
	return nil
}

func (s *session) parse(q *request) (patch, *Error) {
	if q.op == opChange {
		return parseChange(q.e.Payload, &s.o.Limits)
	}
	return parseUpdate(q.e.Payload, &s.o.Limits)
}

// token returns the client token of a request that is refused unread.
func (s *session) token(q *request) string { return parseDelete(q.e.Payload, &s.o.Limits) }

// seen returns the last request that r knows of. After a lost tail a record may
// know of requests that are not on the log any more; their sequences are used
// again.
func (s *session) seen(r *record) uint64 {
	if s.p.sole && r.epoch < s.epoch {
		return min(r.seq, s.start)
	}
	return r.seq
}

// tooMany counts requests of one connection for one thing that are under way
// together. What waited for the service does not count: it was not there to
// answer.
func (s *session) tooMany(q *request) bool {
	if s.o.Limits.InFlight == 0 || q.e.ClientID == "" || q.e.Seq <= s.start {
		return false
	}
	t := &s.turn
	if t.inFlight == nil {
		t.inFlight = map[string]int{}
	}
	k := q.e.ClientID + "\x00" + q.thing
	t.inFlight[k]++
	return t.inFlight[k] > s.o.Limits.InFlight
}

// load finds a document: in this turn, in the cache, in the bucket.
func (s *session) load(ctx context.Context, thing, name string) (*doc, error) {
	key := keyOf(thing, name)
	if d := s.turn.docs[key]; d != nil {
		return d, nil
	}
	d := &doc{key: key, thing: thing, name: name}
	rev, b, ok := s.cache.get(key)
	if !ok {
		e, err := s.o.Shadows.Get(ctx, key)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return nil, err
		}
		rev, b = e.Revision, e.Value
		s.cache.put(key, rev, b)
	}
	d.rev = rev
	if len(b) > 0 {
		var err error
		if d.rec, err = decode(b); err != nil {
			return nil, errs.Errorf("shadow.load", errs.Internal, "document %q: %w", key, err)
		}
		d.rec.past = nil
	}
	s.turn.docs[key] = d
	return d, nil
}

// put makes r the newest version of d.
func (s *session) put(d *doc, r *record, q *request) {
	r.seq, r.received, r.epoch = q.e.Seq, q.e.Received.UnixMilli(), s.epoch
	r.by.client, r.by.principal, r.by.ip, r.by.via = q.e.ClientID, q.e.Principal, q.e.SourceIP, q.via
	if d.changed {
		d.made = append(d.made, d.rec)
	} else {
		d.changed = true
		s.turn.changed = append(s.turn.changed, d)
	}
	d.rec = r
	if d.weight += r.weight(); d.weight > maxWeight {
		s.turn.full = true
	}
}

func (s *session) get(d *doc, q *request) {
	token, bad := parseGet(q.e.Payload, &s.o.Limits)
	if bad == nil && !d.rec.alive() {
		bad = errNoShadow(q.thing, q.name)
	}
	if bad != nil {
		s.reject(q, bad, token)
		return
	}
	s.m.answered(q.op, nil)
	s.answer(q.thing, message{topic: prefixOf(q.thing, q.name) + "get/accepted", payload: d.rec.appendDocument(nil, s.o.Now(), token)})
}

func (s *session) delete(d *doc, q *request) {
	token := s.token(q)
	if !d.rec.alive() {
		s.reject(q, errNoShadow(q.thing, q.name), token)
		return
	}
	gone := d.rec.remove(q.e.Received.UnixMilli())
	gone.by = origin{op: q.op.String(), token: token}
	s.put(d, gone, q)
	s.deleted(gone, q, token)
}

func (s *session) deleted(gone *record, q *request, token string) {
	s.m.answered(q.op, nil)
	b := gone.appendDeleted(nil, token)
	s.answer(q.thing, message{topic: prefixOf(q.thing, q.name) + "delete/accepted", payload: b})
	s.reply(q, result{payload: b})
}

// updated announces a new version.
func (s *session) updated(thing, name string, previous, r *record, p *patch, q *request) {
	s.m.answered(q.op, nil)
	prefix := prefixOf(thing, name)
	accepted := r.appendAccepted(make([]byte, 0, 256+2*len(q.e.Payload)), p)
	out := []message{{topic: prefix + "update/accepted", payload: accepted}}
	if r.apart > 0 {
		if b, ok := r.appendDelta(nil, p.token); ok {
			out = append(out, message{topic: prefix + "update/delta", payload: b})
		}
	}
	out = append(out, message{
		topic: prefix + "update/documents", payload: r.appendDocuments(make([]byte, 0, 512+4*len(accepted)), previous, p.token),
		// Who tells devices of changes needs them, when newer ones may long be there.
		aside: uitoa(r.desired.version) + " " + uitoa(r.reported.version),
	})
	s.answer(thing, out...)
	if q.op == opChange {
		accepted = r.append(nil)
	}
	s.reply(q, result{payload: accepted})
}

// reject answers a request that is refused. A caller of the Go API alone learns
// of it; a topic request is answered on its topic.
func (s *session) reject(q *request, e *Error, token string) {
	s.m.answered(q.op, e)
	if q.id != "" {
		s.reply(q, result{err: e})
		return
	}
	name, err := topic.ParseName(string(q.e.Topic)+"/rejected", topic.Limits{})
	if err != nil {
		return
	}
	a := answer{[]*event.Event{{Topic: name, Payload: appendRejected(nil, e, s.o.Now(), token), QoS: 1, Protocol: event.Server}}}
	if e.Code == 429 {
		// Repeated after a crash it could be accepted: it must not be.
		s.turn.late = append(s.turn.late, a)
		return
	}
	s.turn.answers = append(s.turn.answers, a)
}

type message struct {
	topic   string
	payload []byte
	aside   string
}

func (s *session) answer(_ string, list ...message) {
	events := make([]event.Event, len(list))
	a := answer{make([]*event.Event, len(list))}
	for i, m := range list {
		events[i] = event.Event{Topic: topic.Name(m.topic), Payload: m.payload, QoS: 1, Protocol: event.Server, Aside: m.aside}
		a.events[i] = &events[i]
	}
	s.turn.answers = append(s.turn.answers, a)
}

func (s *session) reply(q *request, r result) {
	if q.id == "" {
		return
	}
	if q.to == s.p.s.id {
		s.turn.replies = append(s.turn.replies, reply{q, r})
		return
	}
	props := []event.UserProperty{{Key: "to", Value: q.to}, {Key: "id", Value: q.id}}
	if r.err != nil {
		props = append(props, event.UserProperty{Key: "code", Value: strconv.Itoa(r.err.Code)})
		r.payload = []byte(r.err.Message)
	}
	s.turn.answers = append(s.turn.answers, answer{[]*event.Event{{
		Topic: answerTopic, Key: q.e.Key, Payload: r.payload, QoS: 1, Protocol: event.Server, Props: &event.Properties{User: props}}}})
}

// repeat answers a request that a document knows of already: with the version it
// made, or, where it made none, with what it must have been refused for.
func (s *session) repeat(ctx context.Context, d *doc, q *request) error {
	s.m.repeats.Inc()
	if d.past == nil {
		var err error
		if d.past, err = s.p.s.past(ctx, d.thing, d.name); err != nil {
			return err
		}
	}
	for i, r := range d.past {
		if r.seq != q.e.Seq || r.received != q.e.Received.UnixMilli() {
			continue
		}
		if r.deleted {
			s.deleted(r, q, s.token(q))
			return nil
		}
		p, bad := s.parse(q)
		if bad != nil {
			return nil
		}
		var previous *record
		if i > 0 {
			previous = d.past[i-1]
		}
		s.updated(d.thing, d.name, previous, r, &p, q)
		return nil
	}
	if q.op == opDelete {
		s.reject(q, errNoShadow(q.thing, q.name), s.token(q))
		return nil
	}
	p, bad := s.parse(q)
	switch {
	case bad != nil:
	case p.versioned:
		bad = errConflict
	case len(d.past) > 0 && (d.past[0].version == 1 || d.past[0].seq < q.e.Seq):
		bad = errTooLarge
	default:
		return nil // it may have been accepted: the past does not reach back that far
	}
	s.reject(q, bad, p.token)
	return nil
}

// flush commits the turn's versions, then hands out its answers.
func (s *session) flush(ctx context.Context, upto uint64) error {
	t := &s.turn
	if len(t.changed) > 0 {
		changes := make([]kv.Change, len(t.changed))
		for i, d := range t.changed {
			d.rec.past = d.made
			d.bytes = d.rec.append(make([]byte, 0, 1024))
			changes[i] = kv.Change{Key: d.key, Value: d.bytes, Expected: d.rev}
		}
		out, err := s.o.Shadows.UpdateEach(ctx, changes)
		if err != nil {
			return err
		}
		for i, d := range t.changed {
			if out[i].Err != nil {
				return out[i].Err
			}
			d.rev = out[i].Revision
			s.cache.put(d.key, d.rev, d.bytes)
			if s.apart != nil {
				s.apart.note(d.thing, d.name, d.rec, s.o)
			}
		}
	}
	for _, r := range t.replies {
		s.p.s.resolve(r.q.id, r.r)
	}
	if err := s.send(ctx, t.answers); err != nil {
		return err
	}
	s.reach(upto)
	if len(t.late) == 0 {
		return nil
	}
	s.drain(ctx)
	if err := s.write(ctx, false); err != nil {
		return err
	}
	return s.send(ctx, t.late)
}

// receipt is told of one request's answers.
type receipt struct{ s *session }

func (r *receipt) Flush() {}

func (r *receipt) Appended(_ uint64, e *event.Event, err error) {
	s := r.s
	switch {
	case err == nil:
	case errs.Is(err, errs.Quota) || errs.Is(err, errs.TooLarge):
		s.m.dropped.Inc()
		s.p.log.Warn("an answer was not taken by the log", "topic", string(e.Topic), "error", err)
	default:
		s.stop(err)
		return
	}
	s.mu.Lock()
	s.confirmed++
	s.settle()
	s.mu.Unlock()
}

// send appends answers; those of a turn share a commit.
func (s *session) send(ctx context.Context, list []answer) error {
	out := make([]eventlog.Outgoing, 0, 3*len(list))
	for i := range list {
		r := &receipt{s}
		for _, e := range list[i].events {
			out = append(out, eventlog.Outgoing{Event: e, Receipt: r})
		}
	}
	s.mu.Lock()
	s.appended += uint64(len(out))
	s.mu.Unlock()
	return s.o.Log.AppendAll(ctx, out)
}

// reach says that upto has been worked on.
func (s *session) reach(upto uint64) {
	s.mu.Lock()
	if n := len(s.marks); n > 0 && s.marks[n-1].need == s.appended {
		s.marks[n-1].upto = upto
	} else {
		s.marks = append(s.marks, mark{upto, s.appended})
	}
	s.settle()
	s.mu.Unlock()
}

// settle moves the position over what is confirmed. s.mu is held.
func (s *session) settle() {
	n := 0
	for n < len(s.marks) && s.marks[n].need <= s.confirmed {
		s.position = s.marks[n].upto
		n++
	}
	s.marks = append(s.marks[:0], s.marks[n:]...)
	if s.confirmed == s.appended {
		select {
		case s.settled <- struct{}{}:
		default:
		}
	}
}

func (s *session) confirmedPosition() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.position
}

// drain waits until the log has taken all answers.
func (s *session) drain(ctx context.Context) {
	for {
		s.mu.Lock()
		done := s.confirmed == s.appended
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-s.settled:
		case <-ctx.Done():
			return
		}
	}
}

// cache keeps documents as the bucket has them, the newest used ones, in two
// generations.
type cache struct {
	limit      int // bytes
	young, old map[string]cached
	bytes      int // of young
}

type cached struct {
	rev uint64
	b   []byte
}

func (c *cache) get(key string) (uint64, []byte, bool) {
	if x, ok := c.young[key]; ok {
		return x.rev, x.b, true
	}
	x, ok := c.old[key]
	if ok {
		c.put(key, x.rev, x.b)
	}
	return x.rev, x.b, ok
}

func (c *cache) put(key string, rev uint64, b []byte) {
	if c.young == nil {
		c.young = map[string]cached{}
	}
	if x, ok := c.young[key]; ok {
		c.bytes -= len(x.b)
	} else {
		c.bytes += len(key) + 100
	}
	c.young[key] = cached{rev, b}
	if c.bytes += len(b); c.bytes > c.limit/2 {
		c.old, c.young, c.bytes = c.young, nil, 0
	}
}
