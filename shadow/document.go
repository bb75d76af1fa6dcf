package shadow

import (
	"encoding/json"
	"strconv"
	"time"
)

// The documents AWS answers with. Their members come in the order AWS writes
// them.
// Source: AWS IoT Core developer guide, "Response state documents".

// appendState writes {"desired":…,"reported":…} and, with d, the delta.
func (r *record) appendState(b []byte, d *value) []byte {
	return r.appendSections(b, d, func(b []byte, s *section) []byte { return s.state.append(b) },
		func(b []byte, d *value) []byte { return d.append(b) })
}

func (r *record) appendMetadata(b []byte, d *value) []byte {
	return r.appendSections(b, d, func(b []byte, s *section) []byte { return appendMeta(b, &s.meta) }, appendMeta)
}

func (r *record) appendSections(b []byte, d *value, one func([]byte, *section) []byte, diff func([]byte, *value) []byte) []byte {
	b = append(b, '{')
	before := len(b)
	if r.desired.state.kind == object {
		b = one(append(b, `"desired":`...), &r.desired)
	}
	if r.reported.state.kind == object {
		if len(b) > before {
			b = append(b, ',')
		}
		b = one(append(b, `"reported":`...), &r.reported)
	}
	if d != nil && d.kind == object {
		b = diff(append(b, `,"delta":`...), d)
	}
	return append(b, '}')
}

// appendDocument writes the answer to a get.
func (r *record) appendDocument(b []byte, at time.Time, token string) []byte {
	d, m := delta(&r.desired.state, &r.desired.meta, &r.reported.state)
	b = r.appendState(append(b, `{"state":`...), &d)
	b = r.appendMetadata(append(b, `,"metadata":`...), &m)
	b = strconv.AppendUint(append(b, `,"version":`...), r.version, 10)
	b = strconv.AppendInt(append(b, `,"timestamp":`...), at.Unix(), 10)
	return append(appendToken(b, token), '}')
}

// appendAccepted writes the answer to the update p that made r: what was asked
// for, with its times.
func (r *record) appendAccepted(b []byte, p *patch) []byte {
	b = p.state.append(append(b, `{"state":`...))
	b = append(b, `,"metadata":{`...)
	at := strconv.FormatInt(r.at, 10)
	first := true
	for i := range p.state.members {
		x := &p.state.members[i]
		if x.val.kind != object {
			continue
		}
		m := touched(&x.val, at)
		if len(m.members) == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendMeta(append(appendQuoted(b, x.name), ':'), &m)
	}
	b = strconv.AppendUint(append(b, `},"version":`...), r.version, 10)
	b = strconv.AppendInt(append(b, `,"timestamp":`...), r.at/1000, 10)
	return append(appendToken(b, p.token), '}')
}

// appendDelta writes the message of …/update/delta; ok is false where there is
// no difference.
func (r *record) appendDelta(b []byte, token string) (_ []byte, ok bool) {
	d, m := delta(&r.desired.state, &r.desired.meta, &r.reported.state)
	if d.kind == absent {
		return b, false
	}
	b = strconv.AppendUint(append(b, `{"version":`...), r.version, 10)
	b = strconv.AppendInt(append(b, `,"timestamp":`...), r.at/1000, 10)
	b = d.append(append(b, `,"state":`...))
	b = appendMeta(append(b, `,"metadata":`...), &m)
	return append(appendToken(b, token), '}'), true
}

// appendDocuments writes the message of …/update/documents. previous is nil or a
// deletion where there was no document.
func (r *record) appendDocuments(b []byte, previous *record, token string) []byte {
	one := func(r *record) {
		if !r.alive() {
			b = append(b, "null"...)
			return
		}
		b = r.appendState(append(b, `{"state":`...), nil)
		b = r.appendMetadata(append(b, `,"metadata":`...), nil)
		b = strconv.AppendUint(append(b, `,"version":`...), r.version, 10)
		b = append(b, '}')
	}
	b = append(b, `{"previous":`...)
	one(previous)
	b = append(b, `,"current":`...)
	one(r)
	b = strconv.AppendInt(append(b, `,"timestamp":`...), r.at/1000, 10)
	return append(appendToken(b, token), '}')
}

// appendDeleted writes the answer to the deletion r.
func (r *record) appendDeleted(b []byte, token string) []byte {
	b = strconv.AppendUint(append(b, `{"version":`...), r.version, 10)
	b = strconv.AppendInt(append(b, `,"timestamp":`...), r.at/1000, 10)
	return append(appendToken(b, token), '}')
}

// Section is one part of a Document.
type Section struct {
	State    json.RawMessage `json:"state,omitempty"`    // an object; nil: there is none
	Metadata json.RawMessage `json:"metadata,omitempty"` // in the shape of State, milliseconds since the epoch for each value
	Version  uint64          `json:"version"`            // updates that named this section
}

// Document is one version of a shadow with all there is about it.
type Document struct {
	Thing    string    `json:"thing"`
	Name     string    `json:"name,omitempty"` // "": the unnamed shadow
	Version  uint64    `json:"version"`
	Time     time.Time `json:"time"`
	Deleted  bool      `json:"deleted,omitempty"`
	Desired  Section   `json:"desired"`
	Reported Section   `json:"reported"`
	Tags     Section   `json:"tags"`
	Apart    time.Time `json:"apartSince,omitzero"` // since when desired has what reported has not
	By       Who       `json:"by"`
	Op       string    `json:"op"` // "update", "delete", "change"
	Note     string    `json:"note,omitempty"`
}

func (s *section) export() Section {
	x := Section{Version: s.version}
	if s.state.kind == object {
		x.State, x.Metadata = s.state.append(nil), s.meta.append(nil)
	}
	return x
}

func (r *record) document(thing, name string) *Document {
	d := &Document{
		Thing: thing, Name: name, Version: r.version, Time: time.UnixMilli(r.at).UTC(), Deleted: r.deleted,
		Desired: r.desired.export(), Reported: r.reported.export(), Tags: r.tags.export(),
		By: Who{ClientID: r.by.client, Principal: r.by.principal, SourceIP: r.by.ip, Via: r.by.via}, Op: r.by.op, Note: r.by.note,
	}
	if r.apart > 0 {
		d.Apart = time.UnixMilli(r.apart).UTC()
	}
	return d
}

// AWS returns d as GetThingShadow does, with at as the time of the answer.
func (d *Document) AWS(at time.Time) []byte {
	var r record
	for _, s := range [...]struct {
		to   *section
		from *Section
	}{{&r.desired, &d.Desired}, {&r.reported, &d.Reported}} {
		if s.from.State != nil {
			s.to.state, _ = parse(string(s.from.State))
			s.to.meta, _ = parse(string(s.from.Metadata))
		}
	}
	r.version = d.Version
	return r.appendDocument(nil, at, "")
}
