package actions

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/eventlog/jet"
)

// journal is a stream of records beside the log, with a byte limit: at it the
// oldest go, counted.
type journal struct {
	store    *jet.Store
	log      *slog.Logger
	o        journalOptions
	appender *jet.Appender[*record]

	full     chan struct{} // capacity 1: look whether the limit is passed
	bytes    atomic.Int64  // of the stream, an estimate from above
	messages atomic.Int64
	dropped  atomic.Uint64
	count    sync.Mutex // while the oldest go: messages and dropped belong together
}

type journalOptions struct {
	Stream      string
	Root        string // of the subjects, with the dot
	Description string
	What        string // the records, in log lines
	MaxBytes    int64
	Logger      *slog.Logger
}

// openJournal makes the stream where there is none. Records are stored while the
// log's Run runs.
func openJournal(log *eventlog.Log, o journalOptions) (*journal, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := log.Store()
	_, st, err := s.Ensure(jet.StreamConfig{Name: o.Stream, Subjects: []string{o.Root + ">"}, Description: o.Description, Singles: true})
	if err != nil {
		return nil, err
	}
	j := &journal{store: s, log: o.Logger, o: o, full: make(chan struct{}, 1)}
	j.bytes.Store(int64(st.Bytes))
	j.messages.Store(int64(st.Messages))
	j.appender = jet.NewAppender(s, jet.AppenderConfig[*record]{
		Stream: o.Stream, MaxUnits: 1024, MaxQueue: 16 << 20,
		Opened: func(jet.StreamState) {},
		Committed: func(units []*record, res []jet.Result) {
			for i, u := range units {
				u.settle(res[i].Err)
			}
		},
	})
	log.Serve(j.appender.Run)
	log.Serve(j.trim)
	return j, nil
}

// record is one record in the appender's queue.
type record struct {
	j       *journal
	subject string
	body    []byte
	done    chan error // one buffered; nil: nobody waits
}

func (u *record) Len() int                             { return 1 }
func (u *record) Size() int                            { return len(u.subject) + len(u.body) + 64 }
func (u *record) AppendSubject(b []byte, _ int) []byte { return append(b, u.subject...) }
func (u *record) AppendHeader(b []byte, _ int) []byte  { return b }
func (u *record) Payload(int) []byte                   { return u.body }
func (u *record) Owner() any                           { return nil }

// settle is told by the appender.
func (u *record) settle(err error) {
	j := u.j
	if err == nil {
		j.messages.Add(1)
		if j.bytes.Add(int64(u.Size())) > j.o.MaxBytes {
			select {
			case j.full <- struct{}{}:
			default:
			}
		}
	}
	switch {
	case u.done != nil:
		u.done <- err
	case err != nil:
		j.log.Warn("a record could not be stored", "stream", j.o.Stream, "error", err)
	}
}

// put returns when the record is stored durably.
func (j *journal) put(ctx context.Context, subject string, body []byte) error {
	u := &record{j: j, subject: subject, body: body, done: make(chan error, 1)}
	if err := j.appender.Append(ctx, u); err != nil {
		return errs.E("actions.journal", errs.Unavailable, err)
	}
	select {
	case err := <-u.done:
		return err
	case <-ctx.Done():
		return errs.E("actions.journal", errs.Timeout, ctx.Err())
	}
}

// offer queues the record and returns; it waits while the queue is full.
func (j *journal) offer(ctx context.Context, subject string, body []byte) error {
	return j.appender.Append(ctx, &record{j: j, subject: subject, body: body})
}

// trim lets the oldest records go whenever the limit is passed.
func (j *journal) trim(ctx context.Context) error {
	for {
		select {
		case <-j.full:
		case <-ctx.Done():
			return nil
		}
		if err := j.trimOnce(); err != nil && ctx.Err() == nil {
			j.log.Error("old records could not be trimmed", "stream", j.o.Stream, "error", err)
		}
	}
}

func (j *journal) trimOnce() error {
	j.count.Lock()
	defer j.count.Unlock()
	st, err := j.store.State(j.o.Stream)
	if err != nil {
		return err
	}
	if over := int64(st.Bytes) - j.o.MaxBytes; over > 0 {
		over += j.o.MaxBytes / 20
		keep, from := st.FirstSeq, st.FirstSeq
		for over > 0 && from <= st.LastSeq {
			end, err := j.store.Fetch(jet.Query{Stream: j.o.Stream, From: from, Max: 500, MaxBytes: 4 << 20}, func(m *jet.Message) error {
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
		if err := j.store.Purge(j.o.Stream, keep); err != nil {
			return err
		}
		after, err := j.store.State(j.o.Stream)
		if err != nil {
			return err
		}
		// Records that came meanwhile have sequences behind st.LastSeq.
		gone := st.Messages + (after.LastSeq - st.LastSeq) - min(after.Messages, st.Messages+(after.LastSeq-st.LastSeq))
		j.dropped.Add(gone)
		j.log.Warn("a stream has reached its limit: the oldest "+j.o.What+" are gone", "stream", j.o.Stream, "records", gone, "limit", j.o.MaxBytes)
		st = after
	}
	j.bytes.Store(int64(st.Bytes))
	j.messages.Store(int64(st.Messages))
	return nil
}
