package mqtt

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/weir-iot/weir/internal/topic"
)

// record is a persistent session as its bucket keeps it: subscriptions, and how
// far its client has acknowledged the log. The messages themselves are on the
// log.
type record struct {
	principal string
	id        string        // session identifier, as lifecycle events have it
	expiry    time.Duration // whole seconds
	left      time.Time     // when its client left; zero: it had not when this was saved
	subs      []*subscription
	replaced  []*subscription // by newer ones; they have something left to bring
	ghosts    []topic.Filter  // filters without a subscription that messages in flight came by
	// By partition. Everything up to cursor is settled; what is sent from behind
	// it up to dup may have been sent before.
	cursor, dup []uint64
	head        uint64 // counter of the first flight, below packetIDs
	flights     []flight
	names       map[uint64]topic.Name // of the retained messages among the flights, by counter
	unsent      []unsent              // retained messages that wait to be sent
}

var errRecord = errors.New("not a session")

const recordVersion = 2

// Bits of a subscription and of a flight in a record.
const (
	subNoLocal = 1 << (iota + 1)
	subRetainAsPublished
	subStarts

	flightDone     = 1
	flightRetained = 2
	flightRetain   = 4
	flightPart     = 3 // bits above which the partition is
)

// appendRecord encodes r. Numbers are variable-length integers, sequences are
// relative to their partition's cursor.
func appendRecord(b []byte, r *record) []byte {
	num := func(n uint64) { b = binary.AppendUvarint(b, n) }
	text := func(s string) {
		num(uint64(len(s)))
		b = append(b, s...)
	}
	b = append(b, recordVersion)
	text(r.principal)
	text(r.id)
	num(uint64(r.expiry / time.Second))
	left := uint64(0)
	if !r.left.IsZero() {
		left = uint64(max(r.left.UnixMilli(), 1))
	}
	num(left)
	num(uint64(len(r.cursor)))
	for p, c := range r.cursor {
		num(c)
		d := uint64(0)
		if r.dup[p] > c {
			d = r.dup[p] - c
		}
		num(d)
	}
	starts := func(at []uint64) {
		for p, start := range at {
			num(max(start, r.cursor[p]) - r.cursor[p])
		}
	}
	subscription := func(s *subscription) {
		flags := uint64(s.qos)
		if s.noLocal {
			flags |= subNoLocal
		}
		if s.retainAsPublished {
			flags |= subRetainAsPublished
		}
		for p, start := range s.start {
			if start > r.cursor[p] {
				flags |= subStarts
			}
		}
		text(string(s.filter))
		num(flags)
		num(uint64(s.id))
		if flags&subStarts != 0 {
			starts(s.start)
		}
	}
	num(uint64(len(r.subs)))
	for _, s := range r.subs {
		subscription(s)
	}
	num(uint64(len(r.ghosts)))
	for _, f := range r.ghosts {
		text(string(f))
	}
	num(r.head)
	num(uint64(len(r.flights)))
	for i, f := range r.flights {
		flags := uint64(f.part) << flightPart
		if f.done {
			flags |= flightDone
		}
		if f.retained {
			flags |= flightRetained
		}
		if f.retain {
			flags |= flightRetain
		}
		num(flags)
		b = binary.AppendVarint(b, int64(f.seq-r.cursor[f.part]))
		if f.retained {
			text(string(r.names[r.head+uint64(i)]))
		}
	}
	num(uint64(len(r.unsent)))
	for _, u := range r.unsent {
		text(string(u.topic))
		text(string(u.filter))
	}
	num(uint64(len(r.replaced)))
	for _, s := range r.replaced {
		subscription(s)
		starts(s.until)
	}
	return b
}

// decodeRecord reads what appendRecord wrote, for a log of so many partitions.
func decodeRecord(b []byte, partitions int) (*record, error) {
	bad := false
	num := func(most uint64) uint64 {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > most {
			bad, b = true, nil
			return 0
		}
		b = b[k:]
		return n
	}
	// count is num for what takes at least one byte each.
	count := func() int { return int(num(uint64(len(b)))) }
	text := func() string {
		n := count()
		if n > len(b) {
			bad, b = true, nil
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	const mostSeq = 1 << 62
	if len(b) == 0 || b[0] != recordVersion {
		return nil, errRecord
	}
	b = b[1:]
	r := &record{principal: text(), id: text(), expiry: time.Duration(num(math.MaxUint32)) * time.Second}
	if left := num(1 << 50); left != 0 {
		r.left = time.UnixMilli(int64(left)).UTC()
	}
	if count() != partitions {
		return nil, errRecord
	}
	for range partitions {
		c := num(mostSeq)
		r.cursor = append(r.cursor, c)
		r.dup = append(r.dup, c+num(mostSeq))
	}
	starts := func(at []uint64) {
		for p := range at {
			at[p] = r.cursor[p] + num(mostSeq)
		}
	}
	sub := func() *subscription {
		s := &subscription{filter: topic.Filter(text()), start: make([]uint64, partitions)}
		flags := num(1<<4 - 1)
		s.qos, s.noLocal, s.retainAsPublished = byte(flags&1), flags&subNoLocal != 0, flags&subRetainAsPublished != 0
		s.id = uint32(num(math.MaxUint32))
		if flags&subStarts != 0 {
			starts(s.start)
		}
		if _, err := topic.ParseFilter(string(s.filter), topic.Limits{}); err != nil {
			bad = true
		}
		return s
	}
	for range count() {
		if r.subs = append(r.subs, sub()); bad {
			return nil, errRecord
		}
	}
	for range count() {
		f := topic.Filter(text())
		if _, err := topic.ParseFilter(string(f), topic.Limits{}); err != nil || bad {
			return nil, errRecord
		}
		r.ghosts = append(r.ghosts, f)
	}
	r.head = num(packetIDs - 1)
	n := count()
	if n >= packetIDs {
		return nil, errRecord
	}
	for i := range n {
		flags := num(uint64(partitions)<<flightPart - 1)
		if bad {
			return nil, errRecord
		}
		f := flight{
			part: uint16(flags >> flightPart), done: flags&flightDone != 0, retained: flags&flightRetained != 0, retain: flags&flightRetain != 0,
		}
		d, k := binary.Varint(b)
		if k <= 0 {
			return nil, errRecord
		}
		b = b[k:]
		f.seq = r.cursor[f.part] + uint64(d)
		if f.retained {
			if r.names == nil {
				r.names = map[uint64]topic.Name{}
			}
			r.names[r.head+uint64(i)] = topic.Name(text())
		}
		r.flights = append(r.flights, f)
	}
	for range count() {
		r.unsent = append(r.unsent, unsent{topic.Name(text()), topic.Filter(text())})
	}
	for range count() {
		s := sub()
		s.until = make([]uint64, partitions)
		if starts(s.until); bad {
			return nil, errRecord
		}
		r.replaced = append(r.replaced, s)
	}
	if bad || len(b) != 0 {
		return nil, errRecord
	}
	return r, nil
}

// clamp brings r's positions back to the end of the log: after a lost tail its
// sequences are used again. It reports whether any was beyond.
func (r *record) clamp(end func(p int) uint64) bool {
	beyond := false
	cut := func(v *uint64, p int) {
		if e := end(p); *v > e {
			*v, beyond = e, true
		}
	}
	for p := range r.cursor {
		cut(&r.cursor[p], p)
		cut(&r.dup[p], p)
		for _, s := range r.subs {
			cut(&s.start[p], p)
		}
		for _, s := range r.replaced {
			cut(&s.until[p], p)
		}
	}
	for i := range r.flights {
		if f := &r.flights[i]; !f.retained && f.seq > end(int(f.part)) {
			f.seq, f.done, beyond = 0, true, true // an empty place in the window
		}
	}
	return beyond
}
