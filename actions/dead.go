package actions

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
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
	*journal
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
	j, err := openJournal(log, journalOptions{Stream: deadStream, Root: deadRoot, Description: "Weir's dead letters", What: "dead letters", MaxBytes: maxBytes, Logger: logger})
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	return &Dead{journal: j}, nil
}

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

// Put implements DeadLetters.
func (d *Dead) Put(ctx context.Context, l *Letter) error {
	const op = "actions.Put"
	b, err := encodeLetter(l)
	if err != nil {
		return errs.E(op, errs.Internal, err)
	}
	if err := d.put(ctx, fmt.Sprintf("%s%s.%d-%s", deadRoot, l.Rule, l.Index, l.Kind), b); err != nil {
		return errs.E(op, errs.KindOf(err), err)
	}
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
func (d *Dead) Count() uint64 { return uint64(max(0, d.messages.Load())) }

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
		d.messages.Add(-1)
		delivered++
	}
	return delivered, failed
}
