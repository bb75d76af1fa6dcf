package actions

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/eventlog/jet"
	"github.com/weir-iot/weir/internal/topic"
)

// Letter is a dead letter: a result that neither its action nor the rule's
// error action has taken.
type Letter struct {
	Seq         uint64    // position in the stream DEAD; 0: not stored yet
	Rule        string    // by name
	Index       int       // of the action in the rule
	Kind        string    // of the action
	Result      *Result   // the recorded result with its original event
	Evaluation  bool      // evaluating the statement failed: there is no payload
	Error       string    // of the last try
	ErrorAction string    // why the error action did not take it; empty: there is none, or it was not asked
	Tries       int       // answered failures
	Time        time.Time // when it was given up
	Omitted     bool      // the result was too large for a letter: only its event's position is known
}

// The stream of dead letters: subjects dead.<rule>.<index>-<kind>.
const (
	deadStream = "DEAD"
	deadRoot   = "dead."
)

// Dead is the stream DEAD. Its methods may be called concurrently.
type Dead struct {
	store    *jet.Store
	log      *slog.Logger
	max      int64
	appender *jet.Appender[*burial]

	full    chan struct{} // capacity 1: look whether the limit is passed
	bytes   atomic.Int64  // of the stream, an estimate from above
	letters atomic.Int64
	dropped atomic.Uint64
	count   sync.Mutex // while the oldest go: letters and dropped belong together
	redrive sync.Mutex // one at a time: a letter is not delivered twice side by side
}

// DeadStats is the extent of DEAD.
type DeadStats struct {
	Letters uint64
	Bytes   uint64
	Dropped uint64 // letters that went for want of room, since the process started
}

// OpenDead opens the stream of dead letters in the log's store. It holds at
// most maxBytes; then the oldest letters go, counted. Letters are stored while
// the log's Run runs.
func OpenDead(log *eventlog.Log, maxBytes int64, logger *slog.Logger) (*Dead, error) {
	const op = "actions.OpenDead"
	if maxBytes <= 0 {
		maxBytes = 1 << 30
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := log.Store()
	_, st, err := s.Ensure(jet.StreamConfig{Name: deadStream, Subjects: []string{deadRoot + ">"}, Description: "Weir's dead letters"})
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	d := &Dead{store: s, log: logger, max: maxBytes, full: make(chan struct{}, 1)}
	d.bytes.Store(int64(st.Bytes))
	d.letters.Store(int64(st.Messages))
	d.appender = jet.NewAppender(s, jet.AppenderConfig[*burial]{
		Stream: deadStream, MaxUnits: 1024, MaxQueue: 16 << 20,
		Opened: func(jet.StreamState) {},
		Committed: func(units []*burial, res []jet.Result) {
			for i, u := range units {
				u.done <- res[i].Err
			}
		},
	})
	log.Serve(d.appender.Run)
	log.Serve(d.trim)
	return d, nil
}

// burial is one letter in the appender's queue.
type burial struct {
	subject string
	body    []byte
	done    chan error // one buffered
}

func (u *burial) Len() int                             { return 1 }
func (u *burial) Size() int                            { return len(u.subject) + len(u.body) + 64 }
func (u *burial) AppendSubject(b []byte, _ int) []byte { return append(b, u.subject...) }
func (u *burial) AppendHeader(b []byte, _ int) []byte  { return b }
func (u *burial) Payload(int) []byte                   { return u.body }
func (u *burial) Owner() any                           { return nil }

// storedLetter is a letter on the stream.
type storedLetter struct {
	Rule        string      `json:"ruleName"`
	Index       int         `json:"actionIndex"`
	Kind        string      `json:"action"`
	Evaluation  bool        `json:"evaluation,omitempty"`
	Error       string      `json:"error"`
	ErrorAction string      `json:"errorActionError,omitempty"`
	Tries       int         `json:"tries"`
	Time        time.Time   `json:"time"`
	Omitted     bool        `json:"omitted,omitempty"`
	ID          string      `json:"id"`
	Event       storedEvent `json:"event"`
	Payload     []byte      `json:"payload,omitempty"`
}

type storedEvent struct {
	Topic     topic.Name        `json:"topic"`
	Payload   []byte            `json:"payload,omitempty"`
	ClientID  string            `json:"clientId,omitempty"`
	Principal string            `json:"principal,omitempty"`
	SourceIP  string            `json:"sourceIp,omitempty"`
	Received  time.Time         `json:"received"`
	Key       string            `json:"key,omitempty"`
	Props     *event.Properties `json:"properties,omitempty"`
	Seq       uint64            `json:"seq"`
	Partition uint16            `json:"partition,omitempty"`
	QoS       byte              `json:"qos,omitempty"`
	Retain    bool              `json:"retain,omitempty"`
	Protocol  event.Protocol    `json:"protocol,omitempty"`
	Hops      uint8             `json:"hops,omitempty"`
}

func encodeLetter(l *Letter) ([]byte, error) {
	e := l.Result.Event
	s := storedLetter{
		Rule: l.Rule, Index: l.Index, Kind: l.Kind, Evaluation: l.Evaluation, Error: l.Error, ErrorAction: l.ErrorAction,
		Tries: l.Tries, Time: l.Time, ID: l.Result.ID.String(), Payload: l.Result.Payload,
		Event: storedEvent{
			Topic: e.Topic, Payload: e.Payload, ClientID: e.ClientID, Principal: e.Principal, SourceIP: e.SourceIP, Received: e.Received,
			Key: e.Key, Props: e.Props, Seq: e.Seq, Partition: e.Partition, QoS: e.QoS, Retain: e.Retain, Protocol: e.Protocol, Hops: e.Hops,
		},
	}
	b, err := json.Marshal(s)
	if err == nil && len(b) > jet.MaxMessage {
		s.Event.Payload, s.Omitted = nil, len(l.Result.Payload) == 0
		b, err = json.Marshal(s)
	}
	if err == nil && len(b) > jet.MaxMessage {
		s.Payload, s.Omitted = nil, true
		b, err = json.Marshal(s)
	}
	return b, err
}

func decodeLetter(seq uint64, b []byte) (*Letter, error) {
	var s storedLetter
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, errs.Errorf("actions.letter", errs.Internal, "letter %d cannot be read: %w", seq, err)
	}
	id, err := event.ParseID(s.ID)
	if err != nil {
		return nil, errs.Errorf("actions.letter", errs.Internal, "letter %d: %w", seq, err)
	}
	e := &event.Event{
		Topic: s.Event.Topic, Payload: s.Event.Payload, ClientID: s.Event.ClientID, Principal: s.Event.Principal, SourceIP: s.Event.SourceIP,
		Received: s.Event.Received, Key: s.Event.Key, Props: s.Event.Props, Seq: s.Event.Seq, Partition: s.Event.Partition,
		QoS: s.Event.QoS, Retain: s.Event.Retain, Protocol: s.Event.Protocol, Hops: s.Event.Hops,
	}
	return &Letter{
		Seq: seq, Rule: s.Rule, Index: s.Index, Kind: s.Kind, Evaluation: s.Evaluation, Error: s.Error, ErrorAction: s.ErrorAction,
		Tries: s.Tries, Time: s.Time, Omitted: s.Omitted,
		Result: &Result{ID: id, Rule: s.Rule, Event: e, Payload: s.Payload},
	}, nil
}

// Put implements DeadLetters. After a crash a letter may be there twice, with
// the same message id.
func (d *Dead) Put(ctx context.Context, l *Letter) error {
	const op = "actions.Put"
	b, err := encodeLetter(l)
	if err != nil {
		return errs.E(op, errs.Internal, err)
	}
	u := &burial{subject: fmt.Sprintf("%s%s.%d-%s", deadRoot, l.Rule, l.Index, l.Kind), body: b, done: make(chan error, 1)}
	if err := d.appender.Append(ctx, u); err != nil {
		return errs.E(op, errs.Unavailable, err)
	}
	select {
	case err = <-u.done:
	case <-ctx.Done():
		return errs.E(op, errs.Timeout, ctx.Err())
	}
	if err != nil {
		return errs.E(op, errs.KindOf(err), err)
	}
	d.letters.Add(1)
	if d.bytes.Add(int64(len(b)+len(u.subject)+64)) > d.max {
		select {
		case d.full <- struct{}{}:
		default:
		}
	}
	return nil
}

// trim lets the oldest letters go whenever the limit is passed.
func (d *Dead) trim(ctx context.Context) error {
	for {
		select {
		case <-d.full:
		case <-ctx.Done():
			return nil
		}
		if err := d.trimOnce(); err != nil && ctx.Err() == nil {
			d.log.Error("old dead letters could not be trimmed", "error", err)
		}
	}
}

func (d *Dead) trimOnce() error {
	d.count.Lock()
	defer d.count.Unlock()
	st, err := d.store.State(deadStream)
	if err != nil {
		return err
	}
	if over := int64(st.Bytes) - d.max; over > 0 {
		over += d.max / 20
		keep, from := st.FirstSeq, st.FirstSeq
		for over > 0 && from <= st.LastSeq {
			end, err := d.store.Fetch(jet.Query{Stream: deadStream, From: from, Max: 500, MaxBytes: 4 << 20}, func(m *jet.Message) error {
				from = m.Seq + 1
				if over > 0 {
					over -= int64(len(m.Payload) + len(m.Subject) + 30)
					keep = m.Seq + 1
				}
				return nil
			})
			if err != nil {
				return err
			}
			if end {
				break
			}
		}
		if err := d.store.Purge(deadStream, keep); err != nil {
			return err
		}
		after, err := d.store.State(deadStream)
		if err != nil {
			return err
		}
		// Letters that came meanwhile have sequences behind st.LastSeq.
		gone := st.Messages + (after.LastSeq - st.LastSeq) - min(after.Messages, st.Messages+(after.LastSeq-st.LastSeq))
		d.dropped.Add(gone)
		d.log.Warn("DEAD has reached its limit: the oldest dead letters are gone", "letters", gone, "limit", d.max)
		st = after
	}
	d.bytes.Store(int64(st.Bytes))
	d.letters.Store(int64(st.Messages))
	return nil
}

// Stats returns the extent of DEAD.
func (d *Dead) Stats() (DeadStats, error) {
	d.count.Lock()
	defer d.count.Unlock()
	st, err := d.store.State(deadStream)
	if err != nil {
		return DeadStats{}, err
	}
	return DeadStats{Letters: st.Messages, Bytes: st.Bytes, Dropped: d.dropped.Load()}, nil
}

// Count returns the number of letters without asking the store; it may be a
// little out of date.
func (d *Dead) Count() uint64 { return uint64(max(0, d.letters.Load())) }

var (
	descLetters = prometheus.NewDesc("weir_dead_letters", "Letters in the stream DEAD.", nil, nil)
	descDropped = prometheus.NewDesc("weir_dead_letters_dropped_total", "Dead letters that went because DEAD was full.", nil, nil)
)

// Describe implements prometheus.Collector.
func (d *Dead) Describe(ch chan<- *prometheus.Desc) { ch <- descLetters; ch <- descDropped }

// Collect implements prometheus.Collector.
func (d *Dead) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(descLetters, prometheus.GaugeValue, float64(d.Count()))
	ch <- prometheus.MustNewConstMetric(descDropped, prometheus.CounterValue, float64(d.dropped.Load()))
}

// List returns at most limit letters behind sequence after, oldest first; rule
// "": of every rule.
func (d *Dead) List(ctx context.Context, rule string, after uint64, limit int) ([]*Letter, error) {
	const op = "actions.List"
	if limit <= 0 || limit > 1000 {
		limit = 1000
	}
	filter := ""
	if rule != "" {
		if strings.ContainsAny(rule, ".*> \t\r\n") {
			return nil, nil
		}
		filter = deadRoot + rule + ".>"
	}
	var out []*Letter
	from := after + 1
	for len(out) < limit && ctx.Err() == nil {
		n := 0
		end, err := d.store.Fetch(jet.Query{Stream: deadStream, From: from, Filter: filter, Max: limit - len(out), MaxBytes: 4 << 20}, func(m *jet.Message) error {
			l, err := decodeLetter(m.Seq, m.Payload)
			if err != nil {
				return err
			}
			n++
			from = m.Seq + 1
			out = append(out, l)
			return nil
		})
		if err != nil {
			return nil, errs.E(op, errs.KindOf(err), err)
		}
		if end || n == 0 {
			break
		}
	}
	return out, ctx.Err()
}

// Get returns the letter at seq. Errors: NotFound, Unavailable.
func (d *Dead) Get(_ context.Context, seq uint64) (*Letter, error) {
	const op = "actions.Get"
	var l *Letter
	if seq > 0 {
		_, err := d.store.Fetch(jet.Query{Stream: deadStream, From: seq, Max: 1}, func(m *jet.Message) (err error) {
			if m.Seq == seq {
				l, err = decodeLetter(m.Seq, m.Payload)
			}
			return err
		})
		if err != nil {
			return nil, errs.E(op, errs.KindOf(err), err)
		}
	}
	if l == nil {
		return nil, errs.Errorf(op, errs.NotFound, "no dead letter %d", seq)
	}
	return l, nil
}

// Redrive hands each letter to deliver and clears it once that has succeeded:
// a crash in between delivers it again, with the same id, and loses nothing.
// failed holds the error of each letter that stays.
func (d *Dead) Redrive(ctx context.Context, seqs []uint64, deliver func(context.Context, *Letter) error) (delivered int, failed map[uint64]error) {
	d.redrive.Lock()
	defer d.redrive.Unlock()
	failed = map[uint64]error{}
	for _, seq := range seqs {
		if ctx.Err() != nil {
			failed[seq] = ctx.Err()
			continue
		}
		l, err := d.Get(ctx, seq)
		switch {
		case err != nil:
		case l.Evaluation:
			err = errs.Errorf("actions.Redrive", errs.Invalid, "evaluating the statement failed, so nothing was selected that could be delivered")
		case l.Omitted:
			err = errs.Errorf("actions.Redrive", errs.Invalid, "the result was too large to be kept; its event is %s", l.Result.ID)
		default:
			err = deliver(ctx, l)
		}
		if err == nil {
			err = d.store.Delete(deadStream, seq)
		}
		if err != nil {
			failed[seq] = err
			continue
		}
		d.letters.Add(-1)
		delivered++
	}
	return delivered, failed
}
