package azure

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
)

// Bounds of a device's queue. Source: Azure IoT Hub, "Send cloud-to-device
// messages", life cycle.
const (
	maxQueue      = 50
	maxDeliveries = 10
)

// outcome is what became of a message for a device, in the words of feedback.
type outcome string

const (
	delivered    outcome = "Success"
	expired      outcome = "Expired"
	deadLettered outcome = "DeliveryCountExceeded"
	purged       outcome = "Purged"
	returned     outcome = "Returned" // it was sent, not acknowledged, and waits again; no feedback has it
)

// parcel is a message for a device that waits on the log.
type parcel struct {
	device          string
	partition       int
	seq             uint64
	id, ack         string
	enqueued, until time.Time
	deliveries      int  // connections that ended without acknowledging it
	settling        bool // what became of it is on its way to the log
}

func parcelOf(device string, e *event.Event) *parcel {
	p := &parcel{device: device, partition: int(e.Partition), seq: e.Seq, enqueued: e.Received, until: e.Received.Add(defaultExpiry)}
	if e.Props == nil {
		return p
	}
	if s := e.Props.MessageExpiry; s > 0 {
		p.until = e.Received.Add(time.Duration(s) * time.Second)
	}
	for _, u := range e.Props.User {
		switch u.Key {
		case "message-id":
			p.id = u.Value
		case propAck:
			p.ack = u.Value
		}
	}
	return p
}

// queue is which messages wait for which device: a projection of the log, on
// which the messages are, and what became of each (settlement). So all gateways
// have the same one, and a restart loses nothing of it. Its lock comes after
// those of sessions.
type queue struct {
	mu      sync.Mutex           // guards what follows
	waiting map[string][]*parcel // by device, in the log's order
	sending map[string]int       // by device: messages on their way to the log
	upto    []uint64             // by partition: all up to here is in
	loading []uint64             // by partition: the end at the start; nil once all up to there is in
	moved   chan struct{}        // closed and replaced when upto has moved
	told    []settlement         // to be appended
	wake    chan struct{}        // one token: told is not empty
}

func newQueue(log Log) *queue {
	q := &queue{waiting: map[string][]*parcel{}, sending: map[string]int{}, moved: make(chan struct{}), wake: make(chan struct{}, 1)}
	if log != nil {
		q.upto = make([]uint64, log.Partitions())
		for p := range q.upto {
			q.loading = append(q.loading, log.Committed(p))
		}
	}
	return q
}

// settlement is the payload of the event that says what became of a message.
type settlement struct {
	Sequence   uint64  `json:"sequence"`
	Outcome    outcome `json:"outcome"`
	Deliveries int     `json:"deliveries,omitempty"`

	parcel     *parcel
	generation string
	at         time.Time
}

func queueKey(device string) string            { return "azure:" + device }
func settlementTopic(device string) topic.Name { return topic.Name(root(device, "") + "/queue") }

// queueFilters take what the queue is made of.
var queueFilters = []topic.Filter{"$azure/devices/+/c2d", "$azure/devices/+/queue"}

// lowKey is where the positions are kept behind which everything that waits lies.
const lowKey = "queue.low"

// lows reads those positions.
func (h *Hub) lows(ctx context.Context) ([]uint64, error) {
	low := make([]uint64, h.o.Log.Partitions())
	kept, _, err := h.kept(ctx, lowKey)
	copy(low, kept)
	return low, err
}

// kept returns the positions that are kept under a key, one for each partition
// there was then; none where there are none. A lost tail's sequences are used
// again, so none lies behind the log's end.
func (h *Hub) kept(ctx context.Context, key string) (at []uint64, revision uint64, err error) {
	e, err := h.o.Bucket.Get(ctx, key)
	if errs.Is(err, errs.NotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, errs.E("azure.kept", errs.KindOf(err), err)
	}
	if json.Unmarshal(e.Value, &at) != nil || len(at) > h.o.Log.Partitions() {
		return nil, e.Revision, nil
	}
	for p := range at {
		at[p] = min(at[p], h.o.Log.Committed(p))
	}
	return at, e.Revision, nil
}

// keepLow saves the positions now and then until ctx ends, so that a start need
// not read the whole log.
func (h *Hub) keepLow(ctx context.Context) error {
	const often, step = 5 * time.Second, 1000
	tick := time.NewTicker(often)
	defer tick.Stop()
	var saved []uint64
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		low := h.queue.low()
		due := saved == nil
		for i := range saved {
			due = due || low[i] < saved[i] || low[i] >= saved[i]+step
		}
		if !due {
			continue
		}
		value, err := json.Marshal(low)
		if err != nil {
			return err
		}
		if _, err := h.o.Bucket.Commit(ctx, []kv.Change{{Key: lowKey, Value: value, Any: true}}); err != nil {
			if ctx.Err() == nil {
				h.logger.Warn("where the messages for devices begin is not saved", "error", err)
			}
			continue
		}
		saved = low
	}
}

func (q *queue) low() []uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	low := slices.Clone(q.upto)
	for _, list := range q.waiting {
		for _, p := range list {
			low[p.partition] = min(low[p.partition], p.seq-1)
		}
	}
	return low
}

// followQueue keeps one partition's part of the queue until ctx ends.
func (h *Hub) followQueue(ctx context.Context, p int, after uint64) error {
	f, err := h.o.Log.Follow(eventlog.FollowOptions{Partition: p, After: after, Filters: queueFilters})
	if err != nil {
		return errs.E("azure.Queue", errs.KindOf(err), err)
	}
	defer f.Close()
	h.queue.move(p, after)
	for {
		batch, upto, err := f.Next(ctx, 256)
		var gap *eventlog.GapError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &gap):
			continue // what has been trimmed away waits no more
		case err != nil:
			return errs.E("azure.Queue", errs.KindOf(err), err)
		}
		h.queue.mu.Lock()
		for _, e := range batch {
			h.queue.take(e)
		}
		h.queue.mu.Unlock()
		h.queue.move(p, upto)
	}
}

// take puts an event into the projection. The caller holds q.mu.
func (q *queue) take(e *event.Event) {
	levels := strings.Split(string(e.Topic), "/")
	device := levels[2]
	if levels[3] == "c2d" {
		if q.find(device, int(e.Partition), e.Seq) == nil {
			q.waiting[device] = append(q.waiting[device], parcelOf(device, e))
		}
		return
	}
	var s settlement
	if json.Unmarshal(e.Payload, &s) != nil {
		return
	}
	if p := q.find(device, int(e.Partition), s.Sequence); p != nil && s.Outcome == returned {
		p.deliveries = max(p.deliveries, s.Deliveries)
	} else if p != nil {
		q.drop(p)
	}
}

// drop takes p out. The caller holds q.mu.
func (q *queue) drop(p *parcel) {
	list := slices.DeleteFunc(q.waiting[p.device], func(o *parcel) bool { return o == p })
	if q.waiting[p.device] = list; len(list) == 0 {
		delete(q.waiting, p.device)
	}
}

// find returns a message that waits; nil where there is none. The caller holds
// q.mu.
func (q *queue) find(device string, partition int, seq uint64) *parcel {
	for _, p := range q.waiting[device] {
		if p.seq == seq && p.partition == partition {
			return p
		}
	}
	return nil
}

// move notes how far a partition has been read.
func (q *queue) move(p int, upto uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if upto < q.upto[p] { // the log's end went back
		for _, list := range q.waiting {
			for _, o := range slices.Clone(list) {
				if o.partition == p && o.seq > upto {
					q.drop(o)
				}
			}
		}
	}
	q.upto[p] = upto
	loaded := true
	for i, end := range q.loading {
		loaded = loaded && q.upto[i] >= end
	}
	if loaded {
		q.loading = nil
	}
	close(q.moved)
	q.moved = make(chan struct{})
}

// reached waits until a partition has been read up to seq.
func (q *queue) reached(ctx context.Context, p int, seq uint64) error {
	return q.wait(ctx, func() bool { return q.upto[p] >= seq })
}

// loaded waits until all that was on the log at the start is in.
func (q *queue) loaded(ctx context.Context) error {
	return q.wait(ctx, func() bool { return q.loading == nil })
}

// wait returns when ok, asked under the lock, is true.
func (q *queue) wait(ctx context.Context, ok func() bool) error {
	for {
		q.mu.Lock()
		done, moved := ok(), q.moved
		q.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return errs.E("azure.Queue", errs.Unavailable, ctx.Err())
		}
	}
}

// waitingFor returns the messages that wait for a device, without those for an earlier
// device of its name. The caller holds q.mu.
func (h *Hub) waitingFor(device string) []*parcel {
	i := h.ids.get(device, "")
	for _, p := range slices.Clone(h.queue.waiting[device]) {
		if i == nil || p.enqueued.Before(i.Created.Truncate(time.Millisecond)) {
			h.queue.drop(p)
		}
	}
	return h.queue.waiting[device]
}

// reserve makes room for one more message for a device, or says that its queue is
// full.
func (h *Hub) reserve(device string) error {
	q := h.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.sending[device]
	for _, p := range h.waitingFor(device) {
		if !p.settling {
			n++
		}
	}
	if n >= maxQueue {
		return fail(403, 403004, "DeviceMaximumQueueDepthExceeded", "%d messages wait for the device", maxQueue)
	}
	q.sending[device]++
	return nil
}

func (q *queue) release(device string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sending[device]--; q.sending[device] == 0 {
		delete(q.sending, device)
	}
}

// settle says what became of p. The caller holds q.mu.
func (q *queue) settle(p *parcel, o outcome, generation string, now time.Time) {
	s := settlement{Sequence: p.seq, Outcome: o, parcel: p, generation: generation, at: now}
	if o == returned {
		s.Deliveries = p.deliveries
	} else {
		p.settling = true
	}
	q.told = append(q.told, s)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// feedback reports whether feedback is asked for.
func (s *settlement) feedback() bool {
	switch s.parcel.ack {
	case "full":
		return s.Outcome != returned
	case "positive":
		return s.Outcome == delivered
	case "negative":
		return s.Outcome != delivered && s.Outcome != returned
	}
	return false
}

// tellSettled appends settlements until ctx ends, and what is left by then. The
// feedback comes first: a crash between the two settles the message again.
func (h *Hub) tellSettled(ctx context.Context) error {
	for ended := false; !ended; {
		select {
		case <-h.queue.wake:
		case <-ctx.Done():
			ended = true
		}
		h.queue.mu.Lock()
		list := h.queue.told
		h.queue.told = nil
		h.queue.mu.Unlock()
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		for i := range list {
			h.tellOne(within, &list[i])
		}
		cancel()
	}
	return nil
}

func (h *Hub) tellOne(ctx context.Context, s *settlement) {
	body, err := json.Marshal(s)
	if err != nil {
		return // not reached: it holds nothing JSON cannot say
	}
	r := &settled{h: h, s: s}
	if s.feedback() {
		r.append(ctx, feedbackTopic(s.parcel.device), encodeJSON([]feedback{feedbackOf(s)}))
	}
	r.append(ctx, settlementTopic(s.parcel.device), body)
}

// settled hears of the events of one settlement. Where they are not stored the
// message waits on.
type settled struct {
	h *Hub
	s *settlement
}

func (r *settled) append(ctx context.Context, name topic.Name, body []byte) {
	e := &event.Event{
		Topic: name, Payload: body, Key: queueKey(r.s.parcel.device), QoS: 1, Protocol: event.Server,
		Received: r.h.now().UTC().Truncate(time.Millisecond),
	}
	if err := r.h.o.Log.Append(ctx, e, r, 0); err != nil {
		r.Appended(0, e, err)
	}
}

// Appended implements eventlog.Receipt.
func (r *settled) Appended(_ uint64, _ *event.Event, err error) {
	if err == nil {
		return
	}
	r.h.queue.mu.Lock()
	r.s.parcel.settling = false
	r.h.queue.mu.Unlock()
	r.h.logger.Warn("what became of a message is not stored", "device", r.s.parcel.device, "error", err)
}

// Flush implements eventlog.Receipt.
func (r *settled) Flush() {}

// sweep gives up what has expired, on one of all gateways, until ctx ends.
func (h *Hub) sweep(ctx context.Context) error {
	if h.loaded(ctx) != nil {
		return nil
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if !h.o.First() {
			continue
		}
		now := h.now()
		h.queue.mu.Lock()
		for device := range h.queue.waiting {
			for _, p := range h.waitingFor(device) {
				if !p.settling && !now.Before(p.until) {
					h.queue.settle(p, expired, h.generationOf(device), now)
				}
			}
		}
		h.queue.mu.Unlock()
	}
}

func (h *Hub) generationOf(device string) string {
	if i := h.ids.get(device, ""); i != nil {
		return i.Generation
	}
	return ""
}

// purge gives up all messages that wait for a device, and returns how many.
func (h *Hub) purge(device string) int {
	h.queue.mu.Lock()
	defer h.queue.mu.Unlock()
	n := 0
	for _, p := range h.waitingFor(device) {
		if !p.settling {
			h.queue.settle(p, purged, h.generationOf(device), h.now())
			n++
		}
	}
	return n
}

// Begin implements mqtt.Dialect: a device is sent what waits for it.
func (d *Device) Begin(f topic.Filter) (partition int, after uint64, ok bool) {
	if f != topic.Filter(d.c2d) || d.c2d == "" {
		return 0, 0, false
	}
	q := d.hub.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	partition = int(d.hub.o.Log.Partition(queueKey(d.device)))
	after = q.upto[partition]
	for _, p := range d.hub.waitingFor(d.device) {
		after = min(after, p.seq-1)
	}
	return partition, after, true
}

// Wants implements mqtt.Dialect. What is not in the projection yet is new.
func (d *Device) Wants(e *event.Event) bool {
	q := d.hub.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if d.sent[e.Seq] != nil {
		return false
	}
	p := q.find(d.device, int(e.Partition), e.Seq)
	switch {
	case p == nil:
		return e.Seq > q.upto[e.Partition]
	case p.settling:
		return false
	case p.deliveries >= maxDeliveries:
		q.settle(p, deadLettered, d.generation, d.hub.now())
		return false
	}
	return true
}

// Topic implements mqtt.Dialect.
func (d *Device) Topic(b []byte, e *event.Event) []byte {
	q := d.hub.queue
	q.mu.Lock()
	p := q.find(d.device, int(e.Partition), e.Seq)
	if p == nil {
		p = parcelOf(d.device, e)
	}
	d.sent[e.Seq] = p
	q.mu.Unlock()
	return appendBag(append(b, d.bound...), e.Props)
}

// Settled implements mqtt.Dialect.
func (d *Device) Settled(e *event.Event, late bool) {
	q := d.hub.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	p := d.sent[e.Seq]
	if p == nil {
		p = q.find(d.device, int(e.Partition), e.Seq)
	}
	delete(d.sent, e.Seq)
	switch {
	case p == nil || p.settling:
	case late:
		q.settle(p, expired, d.generation, d.hub.now())
	default:
		q.settle(p, delivered, d.generation, d.hub.now())
	}
}

// giveBack returns what was sent and not acknowledged to the queue: the
// connection has ended.
func (d *Device) giveBack() {
	q := d.hub.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for seq, p := range d.sent {
		delete(d.sent, seq)
		if now := q.find(p.device, p.partition, p.seq); now != nil {
			p = now
		}
		if !p.settling {
			p.deliveries++
			q.settle(p, returned, d.generation, d.hub.now())
		}
	}
}
