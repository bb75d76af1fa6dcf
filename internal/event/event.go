// Package event holds the one word every room shares: Event, one published
// message. An event is made by the gateway, appended to the log, and handed
// from there to live subscribers, rules and services.
package event

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"time"

	"github.com/weir-iot/weir/internal/topic"
)

// Protocol says how a message came in.
type Protocol uint8

const (
	MQTT   Protocol = iota // by an MQTT connection, WebSocket included
	HTTP                   // by an HTTPS publish
	Server                 // by Weir itself: a rule's republish, a lifecycle event, a service's answer
)

// Event is one published message. It is immutable once it has been appended:
// many readers share one Event.
type Event struct {
	Topic     topic.Name // never a filter
	Payload   []byte     // as published; shared, do not modify
	ClientID  string     // of the publishing connection; empty where there is none
	Principal string     // who published: certificate id, access key, …; may be empty
	SourceIP  string     // address of the publisher, without port; may be empty
	Received  time.Time  // arrival, UTC, to the millisecond; stored with the event
	Key       string     // ordering key; empty: the log derives it (see OrderingKey)
	Props     *Properties
	Seq       uint64 // position in its partition's stream, from 1; 0: not stored
	Partition uint16
	QoS       byte // 0 or 1
	Retain    bool
	Protocol  Protocol
	Hops      uint8  // how many rules' republish actions it has passed
	Aside     string // what the service that made it tells other services; no client or rule has it
}

// Properties are the MQTT 5 properties of a publish. Absent ones are empty.
type Properties struct {
	ContentType     string
	ResponseTopic   string
	CorrelationData []byte
	User            []UserProperty // in the order they came, names may repeat
	MessageExpiry   uint32         // seconds from Received; 0: never
	PayloadUTF8     bool           // payload format indicator is 1
}

// UserProperty is one MQTT 5 user property.
type UserProperty struct{ Key, Value string }

// Size estimates the bytes e takes, in memory and on the log: what is bounded in
// bytes counts with it.
func (e *Event) Size() int {
	n := 100 + len(e.Payload) + len(e.Topic) + len(e.ClientID) + len(e.Principal) + len(e.Key) + len(e.Aside)
	if p := e.Props; p != nil {
		n += 64 + len(p.ContentType) + len(p.ResponseTopic) + 2*len(p.CorrelationData)
		for _, u := range p.User {
			n += 8 + len(u.Key) + len(u.Value)
		}
	}
	return n
}

// Expired reports whether e's message expiry has passed at now.
func (e *Event) Expired(now time.Time) bool {
	return e.Props != nil && e.Props.MessageExpiry > 0 &&
		now.Sub(e.Received) >= time.Duration(e.Props.MessageExpiry)*time.Second
}

// OrderingKey returns what decides e's partition: events with the same key
// keep their order. It is the thing for $aws/things/<thing>/…, else the client
// id, else the principal; a republished event carries its source's key.
func (e *Event) OrderingKey() string {
	if e.Key != "" {
		return e.Key
	}
	if thing, ok := e.Topic.Thing(); ok {
		return thing
	}
	if e.ClientID != "" {
		return e.ClientID
	}
	return e.Principal
}

// ID is the identity of a stored event: the same on every redelivery, replay
// and backtest. It is a version 8 UUID that can be read back into a position:
//
//	bits   0 …  47  arrival time, milliseconds since the epoch
//	bits  48 …  51  version (8)
//	bits  52 …  63  partition
//	bits  64 …  65  variant
//	bits  66 … 127  sequence
//
// The arrival time is part of it because sequences are used again after an
// unsynced tail was lost.
type ID [16]byte

// MaxPartitions bounds the partition count: an ID has 12 bits for it.
const MaxPartitions = 1 << 12

// ID returns e's identity. It is meaningful only once e.Seq is set.
func (e *Event) ID() ID {
	var id ID
	ms := uint64(e.Received.UnixMilli())
	binary.BigEndian.PutUint64(id[0:], ms<<16|8<<12|uint64(e.Partition&(MaxPartitions-1)))
	binary.BigEndian.PutUint64(id[8:], 1<<63|e.Seq&(1<<62-1))
	return id
}

// ParseID reads the text form of an ID.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, errID
	}
	b, err := hex.DecodeString(s[0:8] + s[9:13] + s[14:18] + s[19:23] + s[24:36])
	if err != nil {
		return id, errID
	}
	copy(id[:], b)
	if id[6]>>4 != 8 || id[8]>>6 != 2 {
		return ID{}, errID
	}
	return id, nil
}

var errID = errors.New("not a message id: expected a UUID of version 8, as traceid() gives it")

// Position returns the partition, sequence and arrival time id was made of.
func (id ID) Position() (partition uint16, seq uint64, received time.Time) {
	hi, lo := binary.BigEndian.Uint64(id[0:]), binary.BigEndian.Uint64(id[8:])
	return uint16(hi & (MaxPartitions - 1)), lo & (1<<62 - 1), time.UnixMilli(int64(hi >> 16)).UTC()
}

// String returns id as a UUID.
func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	b[8] = '-'
	hex.Encode(b[9:13], id[4:6])
	b[13] = '-'
	hex.Encode(b[14:18], id[6:8])
	b[18] = '-'
	hex.Encode(b[19:23], id[8:10])
	b[23] = '-'
	hex.Encode(b[24:36], id[10:16])
	return string(b[:])
}
