package shadow

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// section is one part of a document. Its own version counts the updates that
// named it.
type section struct {
	state, meta value // objects; absent: there is none
	version     uint64
}

// record is one version of a document, as the bucket has it. A deletion is a
// record without sections, with the version that it deleted.
type record struct {
	version                 uint64 // from 1
	at                      int64  // when it was made, milliseconds since the epoch; never goes back
	deleted                 bool
	desired, reported, tags section
	apart                   int64 // since when desired has what reported has not; 0: it has not
	by                      origin
	bytes                   int // of its sections; only where it was just made

	// The request that made it: its place on the log, when it arrived, and the
	// lease it was handled under.
	seq      uint64
	received int64
	epoch    uint64

	// Versions that were made in the same commit before this one, oldest first.
	// Only of the newest version in an entry of the bucket.
	past []*record
}

// origin is who made a version, and how.
type origin struct {
	op                         string // "update", "delete", "change"
	client, principal, ip, via string
	token                      string // JSON text
	note                       string
}

// survives is how long the version of a deleted shadow is remembered.
// Source: AWS IoT Core developer guide, "Interacting with shadows".
const survives = 48 * time.Hour

// alive reports whether there is a document.
func (r *record) alive() bool { return r != nil && !r.deleted }

// current returns the version that the next one follows at a time.
func (r *record) current(at int64) uint64 {
	if r == nil || r.deleted && at-r.at > survives.Milliseconds() {
		return 0
	}
	return r.version
}

// apply makes the next version. r is not changed; nil means there never was one.
func (r *record) apply(p *patch, at int64, l *Limits) (*record, *Error) {
	cur := r.current(at)
	if p.versioned && p.version != cur {
		return nil, errConflict
	}
	n := &record{version: cur + 1, at: at}
	var old record
	if r != nil {
		n.at = max(at, r.at)
		old = *r
	}
	n.desired = old.desired.apply(&p.desired, p.replace, n.at)
	n.reported = old.reported.apply(&p.reported, p.replace, n.at)
	n.tags = old.tags.apply(&p.tags, p.replace, n.at)
	state, tags := n.desired.size()+n.reported.size(), n.tags.size()
	if state > l.Document || tags > l.Document {
		return nil, errTooLarge
	}
	n.bytes = state + tags
	for _, s := range [...]*section{&n.desired, &n.reported, &n.tags} {
		if s.state.depth() > l.Depth+1 {
			return nil, errNesting(l.Depth)
		}
	}
	if differs(&n.desired.state, &n.reported.state) {
		if n.apart = old.apart; n.apart == 0 {
			n.apart = n.at
		}
	}
	return n, nil
}

func (s *section) apply(p *value, replace bool, at int64) section {
	n := section{version: s.version}
	switch {
	case p.kind == absent:
		n.state, n.meta = s.state.clone(), s.meta.clone()
		return n
	case p.kind == null:
	case replace:
		n.state, n.meta = merge(&value{}, &value{}, p, at)
	default:
		n.state, n.meta = merge(&s.state, &s.meta, p, at)
	}
	n.version++
	if n.state.empty() {
		n.state, n.meta = value{}, value{}
	}
	return n
}

func (s *section) size() int {
	if s.state.kind == absent {
		return 0
	}
	return len(s.state.append(nil))
}

// weight estimates the bytes of the entry of r, which was just made, rather too many: metadata takes up to
// seven times what it is about.
func (r *record) weight() int {
	return 600 + len(r.by.note) + 8*r.bytes
}

// remove makes the record of a deletion.
func (r *record) remove(at int64) *record {
	return &record{version: r.version, at: max(at, r.at), deleted: true,
		desired: section{version: r.desired.version}, reported: section{version: r.reported.version}, tags: section{version: r.tags.version}}
}

// append writes r as the bucket keeps it.
func (r *record) append(b []byte) []byte {
	b = strconv.AppendUint(append(b, `{"v":`...), r.version, 10)
	b = strconv.AppendInt(append(b, `,"t":`...), r.at, 10)
	if r.deleted {
		b = append(b, `,"x":true`...)
	}
	for _, s := range [...]struct {
		name byte
		*section
	}{{'d', &r.desired}, {'r', &r.reported}, {'g', &r.tags}} {
		if s.state.kind == object {
			b = append(b, ',', '"', s.name, '"', ':')
			b = s.state.append(b)
			b = append(b, ',', '"', s.name, 'm', '"', ':')
			b = s.meta.append(b)
		}
		if s.version > 0 {
			b = append(b, ',', '"', s.name, 'v', '"', ':')
			b = strconv.AppendUint(b, s.version, 10)
		}
	}
	b = appendNumber(b, "a", uint64(r.apart))
	b = appendNumber(b, "q", r.seq)
	b = appendNumber(b, "qt", uint64(r.received))
	b = appendNumber(b, "e", r.epoch)
	o := &r.by
	b = appendMember(b, "o", o.op)
	b = appendMember(b, "c", o.client)
	b = appendMember(b, "p", o.principal)
	b = appendMember(b, "i", o.ip)
	b = appendMember(b, "y", o.via)
	b = appendMember(b, "n", o.note)
	if o.token != "" {
		b = append(append(b, `,"k":`...), o.token...)
	}
	if len(r.past) > 0 {
		b = append(b, `,"past":[`...)
		for i, p := range r.past {
			if i > 0 {
				b = append(b, ',')
			}
			b = p.append(b)
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

func appendNumber(b []byte, name string, n uint64) []byte {
	if n == 0 {
		return b
	}
	b = append(append(append(b, ',', '"'), name...), '"', ':')
	return strconv.AppendUint(b, n, 10)
}

func appendMember(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	b = append(append(append(b, ',', '"'), name...), '"', ':')
	return appendQuoted(b, s)
}

var errRecord = errors.New("not a record of a shadow")

// decode reads an entry of the bucket.
func decode(b []byte) (*record, error) {
	v, err := parse(string(b))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errRecord, err)
	}
	return decodeValue(&v)
}

func decodeValue(v *value) (*record, error) {
	if v.kind != object {
		return nil, errRecord
	}
	r := &record{}
	bad := false
	count := func(x *value) uint64 {
		n, err := strconv.ParseUint(x.raw, 10, 64)
		bad = bad || x.kind != number || err != nil
		return n
	}
	str := func(x *value) string {
		if x.kind != text {
			bad = true
			return ""
		}
		return unquote(x.raw)
	}
	for i := range v.members {
		x := &v.members[i].val
		switch v.members[i].name {
		case "v":
			r.version = count(x)
		case "t":
			r.at = int64(count(x))
		case "x":
			r.deleted = x.raw == "true"
		case "d":
			r.desired.state = *x
		case "dm":
			r.desired.meta = *x
		case "dv":
			r.desired.version = count(x)
		case "r":
			r.reported.state = *x
		case "rm":
			r.reported.meta = *x
		case "rv":
			r.reported.version = count(x)
		case "g":
			r.tags.state = *x
		case "gm":
			r.tags.meta = *x
		case "gv":
			r.tags.version = count(x)
		case "a":
			r.apart = int64(count(x))
		case "q":
			r.seq = count(x)
		case "qt":
			r.received = int64(count(x))
		case "e":
			r.epoch = count(x)
		case "o":
			r.by.op = str(x)
		case "c":
			r.by.client = str(x)
		case "p":
			r.by.principal = str(x)
		case "i":
			r.by.ip = str(x)
		case "y":
			r.by.via = str(x)
		case "n":
			r.by.note = str(x)
		case "k":
			r.by.token = x.raw
		case "past":
			for j := range x.items {
				p, err := decodeValue(&x.items[j])
				if err != nil {
					return nil, err
				}
				r.past = append(r.past, p)
			}
		}
	}
	for _, s := range [...]*section{&r.desired, &r.reported, &r.tags} {
		bad = bad || !sameShape(&s.state, &s.meta) || s.state.kind != absent && s.state.kind != object
	}
	if bad || r.version == 0 {
		return nil, errRecord
	}
	return r, nil
}

// sameShape reports whether metadata belongs to a state.
func sameShape(s, m *value) bool {
	switch s.kind {
	case object:
		if m.kind != object || len(m.members) != len(s.members) {
			return false
		}
		for i := range s.members {
			if s.members[i].name != m.members[i].name || !sameShape(&s.members[i].val, &m.members[i].val) {
				return false
			}
		}
		return true
	case array:
		if m.kind != array || len(m.items) != len(s.items) {
			return false
		}
		for i := range s.items {
			if !sameShape(&s.items[i], &m.items[i]) {
				return false
			}
		}
		return true
	case absent:
		return m.kind == absent
	}
	return m.kind == number
}
