package mqtt

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
)

// Bucket is where retained messages are kept; *kv.Bucket is one.
type Bucket interface {
	Scan(ctx context.Context, prefix string, f func(kv.Entry) error) error
	Commit(ctx context.Context, changes []kv.Change) (rev uint64, err error)
}

// positionKey begins the keys of the bucket that are no topics: how far each
// partition's log has been projected. No topic has a control character.
const positionKey = "\x00position."

const (
	retainedEvery = 100 * time.Millisecond // how long a change may wait to be saved
	positionEvery = 5 * time.Second        // the same for a position alone
	retainedBatch = 400                    // changes in one commit
)

// retained is the projection of the log onto the retained message of each
// topic. The newest messages are in memory, so that a SUBSCRIBE finds just what
// the routers have handed out before it; the bucket has them for the next start,
// together with the positions they were taken from. routes.mu guards all of it.
type retained struct {
	bucket   Bucket // nil: there are no retained messages
	messages map[topic.Name]*event.Event
	bytes    int                     // of all of them
	changed  map[topic.Name]struct{} // not yet saved
	handled  []uint64                // by partition: what has been projected
	saved    []uint64                // by partition: what the bucket says
}

// take applies e, in the log's order. The caller holds routes.mu.
func (r *retained) take(e *event.Event) {
	if r.bucket == nil || !e.Retain || e.Topic[0] == '$' {
		return
	}
	if len(e.Payload) == 0 {
		if r.messages[e.Topic] == nil {
			return
		}
		r.bytes -= r.messages[e.Topic].Size()
		delete(r.messages, e.Topic)
	} else {
		// A copy: the event shares its memory with others of its time.
		m := *e
		m.Payload = slices.Clone(e.Payload)
		r.put(&m)
	}
	r.changed[e.Topic] = struct{}{}
}

func (r *retained) put(m *event.Event) {
	if old := r.messages[m.Topic]; old != nil {
		r.bytes -= old.Size()
	}
	r.bytes += m.Size()
	r.messages[m.Topic] = m
}

// restore reads the bucket, and from the log what was committed after the
// bucket was last saved.
func (s *Server) restore(ctx context.Context) error {
	r := &s.routes.retained
	if r.bucket == nil {
		return nil
	}
	err := r.bucket.Scan(ctx, "", func(e kv.Entry) error {
		if e.Key == saverName {
			return nil
		}
		if p, ok := strings.CutPrefix(e.Key, positionKey); ok {
			i, err := strconv.Atoi(p)
			pos, err2 := strconv.ParseUint(string(e.Value), 10, 64)
			if err := errors.Join(err, err2); err != nil || i < 0 || i >= len(r.handled) {
				return fmt.Errorf("position %q: %w", p, err)
			}
			// After a lost tail sequences are used again.
			r.handled[i] = min(pos, s.ends[i])
			r.saved[i] = r.handled[i]
			return nil
		}
		m, err := decodeRetained(e.Value)
		if err != nil {
			return fmt.Errorf("%q: %w", e.Key, err)
		}
		r.put(m)
		return nil
	})
	if err != nil {
		return fmt.Errorf("mqtt: reading retained messages: %w", err)
	}
	for p := range r.handled {
		if err := s.project(ctx, p); err != nil {
			return fmt.Errorf("mqtt: retained messages of partition %d: %w", p, err)
		}
	}
	return nil
}

func (s *Server) project(ctx context.Context, p int) error {
	r := &s.routes.retained
	f, err := s.log.Follow(eventlog.FollowOptions{Partition: p, After: r.handled[p], ToEnd: true})
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		batch, upto, err := f.Next(ctx, routeBatch)
		var gap *eventlog.GapError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &gap):
			s.m.gaps.Inc()
			s.logger.Error("retained messages have a gap", "partition", p, "from", gap.From, "to", gap.To)
			continue
		case err != nil:
			return err
		}
		for _, e := range batch {
			r.take(e)
		}
		r.handled[p] = max(r.handled[p], upto)
	}
}

// save writes changes to the bucket until ctx ends, and then what is left.
func (s *Server) save(ctx context.Context) {
	if s.routes.retained.bucket == nil {
		return
	}
	t := time.NewTicker(retainedEvery)
	defer t.Stop()
	last := s.now()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			final, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := s.saveOnce(final, true); err != nil {
				s.logger.Error("retained messages not saved; the log has them", "error", err)
			}
			return
		}
		now := s.now()
		positions := now.Sub(last) >= positionEvery
		if err := s.saveOnce(ctx, positions); err != nil && ctx.Err() == nil {
			s.noise.warn("retained messages not saved yet", "error", err)
			pause(ctx, time.Second)
		}
		if positions {
			last = now
		}
	}
}

// saveOnce saves what has changed. The positions go with the last commit: what
// a crash leaves out is projected from the log again.
func (s *Server) saveOnce(ctx context.Context, positions bool) error {
	r := &s.routes.retained
	if !s.saver.due() {
		s.saver.active = false
		return nil // what has changed is kept: it may be this gateway's turn later
	}
	s.routes.mu.RLock()
	at := slices.Clone(r.handled)
	s.routes.mu.RUnlock()
	if err := s.saver.claim(ctx, r, at); err != nil {
		return err
	}
	s.routes.mu.Lock()
	if len(r.changed) == 0 && !(positions && !slices.Equal(r.handled, r.saved)) {
		s.routes.mu.Unlock()
		return nil
	}
	changes := make([]kv.Change, 0, len(r.changed)+len(r.handled))
	for name := range r.changed {
		c := kv.Change{Key: string(name), Any: true}
		if m := r.messages[name]; m != nil {
			c.Value = encodeRetained(m)
		}
		changes = append(changes, c)
	}
	taken := r.changed
	r.changed = map[topic.Name]struct{}{}
	handled := slices.Clone(r.handled)
	s.routes.mu.Unlock()
	changes = append(changes, positionChanges(handled)...)
	for batch := range slices.Chunk(changes, retainedBatch) {
		if err := s.saver.commit(ctx, r.bucket, batch); err != nil {
			s.routes.mu.Lock()
			maps.Copy(r.changed, taken) // again, with what the topics hold by then
			s.routes.mu.Unlock()
			if s.saver.ignore(err) {
				return nil
			}
			return err
		}
	}
	s.routes.mu.Lock()
	copy(r.saved, handled)
	s.routes.mu.Unlock()
	return nil
}

// retainedFor returns the retained messages a new subscription gets. The caller
// holds routes.mu.
func (s *Server) retainedFor(f topic.Filter) []*event.Event {
	r := &s.routes.retained
	if len(r.messages) == 0 {
		return nil
	}
	now := s.now()
	if !strings.ContainsAny(string(f), "+#") {
		if m := r.messages[topic.Name(f)]; m != nil && !m.Expired(now) {
			return []*event.Event{m}
		}
		return nil
	}
	if !s.limits.RetainedOnWildcard {
		return nil
	}
	var out []*event.Event
	for n, m := range r.messages {
		if topic.Match(f, n, s.limits.Mode) && !m.Expired(now) {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b *event.Event) int { return strings.Compare(string(a.Topic), string(b.Topic)) })
	return out
}

// mayRetain reports whether one more topic may have a retained message.
func (s *Server) mayRetain(n topic.Name) bool {
	s.routes.mu.RLock()
	defer s.routes.mu.RUnlock()
	r := &s.routes.retained
	return len(r.messages) < s.safety.Retained || r.messages[n] != nil
}

// retainedRoom reports whether a retained message of size bytes may replace what
// its topic has.
func (s *Server) retainedRoom(n topic.Name, size int) bool {
	s.routes.mu.RLock()
	defer s.routes.mu.RUnlock()
	r := &s.routes.retained
	if old := r.messages[n]; old != nil {
		size -= old.Size()
	}
	return size <= 0 || r.bytes+size <= s.safety.RetainedBytes
}

// MayRetain reports whether there is room for a retained message of so many
// bytes on a topic; without any it clears what is there.
func (s *Server) MayRetain(n topic.Name, size int) bool {
	return size == 0 || s.mayRetain(n) && s.retainedRoom(n, size)
}

// Retained returns the retained message of a topic, nil where there is none.
func (s *Server) Retained(n topic.Name) *event.Event {
	s.routes.mu.RLock()
	defer s.routes.mu.RUnlock()
	m := s.routes.retained.messages[n]
	if m != nil && m.Expired(s.now()) {
		return nil
	}
	return m
}

// RetainedAfter returns up to max retained messages of the topics behind after,
// sorted by topic.
func (s *Server) RetainedAfter(after topic.Name, max int) []*event.Event {
	var out []*event.Event
	for len(out) < max {
		// The first of them, and as many more as may have expired since.
		page := s.retainedPage(after, max-len(out)+16)
		for _, m := range page {
			if after = m.Topic; !m.Expired(s.now()) && len(out) < max {
				out = append(out, m)
			}
		}
		if len(page) == 0 {
			break
		}
	}
	return out
}

// retainedPage returns the first n retained messages behind after, sorted by
// topic, looking at each message there is once.
func (s *Server) retainedPage(after topic.Name, n int) []*event.Event {
	byTopic := func(a, b *event.Event) int { return strings.Compare(string(a.Topic), string(b.Topic)) }
	var page []*event.Event
	var last topic.Name // nothing from here on is of the page; "": not known
	s.routes.mu.RLock()
	defer s.routes.mu.RUnlock()
	for name, m := range s.routes.retained.messages {
		if name <= after || last != "" && name >= last {
			continue
		}
		if page = append(page, m); len(page) >= 2*n {
			slices.SortFunc(page, byTopic)
			page = page[:n]
			last = page[n-1].Topic
		}
	}
	slices.SortFunc(page, byTopic)
	return page[:min(n, len(page))]
}

// retainedHead is what the bucket keeps of a message besides its payload.
type retainedHead struct {
	Topic     topic.Name        `json:"topic"`
	ClientID  string            `json:"clientId,omitempty"`
	Principal string            `json:"principal,omitempty"`
	SourceIP  string            `json:"sourceIp,omitempty"`
	Received  int64             `json:"received"` // milliseconds
	QoS       byte              `json:"qos"`
	Protocol  event.Protocol    `json:"protocol,omitempty"`
	Seq       uint64            `json:"seq"`
	Partition uint16            `json:"partition"`
	Props     *event.Properties `json:"props,omitempty"`
}

// A value is the length of the head, the head as JSON, the payload.
func encodeRetained(e *event.Event) []byte {
	head, err := json.Marshal(retainedHead{
		e.Topic, e.ClientID, e.Principal, e.SourceIP, e.Received.UnixMilli(), e.QoS, e.Protocol, e.Seq, e.Partition, e.Props,
	})
	if err != nil {
		panic(err) // the head holds nothing JSON cannot say
	}
	b := binary.AppendUvarint(make([]byte, 0, len(head)+len(e.Payload)+4), uint64(len(head)))
	return append(append(b, head...), e.Payload...)
}

var errRetained = errors.New("not a retained message")

func decodeRetained(b []byte) (*event.Event, error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return nil, errRetained
	}
	var h retainedHead
	if err := json.Unmarshal(b[k:k+int(n)], &h); err != nil {
		return nil, errRetained
	}
	payload := b[k+int(n):]
	if len(payload) == 0 || h.QoS > 1 {
		return nil, errRetained
	}
	if _, err := topic.ParseName(string(h.Topic), topic.Limits{}); err != nil {
		return nil, errRetained
	}
	return &event.Event{
		Topic: h.Topic, Payload: slices.Clone(payload), ClientID: h.ClientID, Principal: h.Principal, SourceIP: h.SourceIP,
		Received: time.UnixMilli(h.Received).UTC(), QoS: h.QoS, Protocol: h.Protocol, Seq: h.Seq, Partition: h.Partition,
		Props: h.Props, Retain: true,
	}, nil
}
