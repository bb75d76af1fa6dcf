package eval

import (
	"unsafe"

	"github.com/weir-iot/weir/internal/event"
)

// shared is what a Machine knows of the payload it has read last. Many rules on
// one topic read the same event one after another: the second one makes an
// index of the payload's members, and from then on a rule looks its members up
// instead of scanning the payload again. A rule that names the same members as
// the one before it takes over what that one has found.
type shared struct {
	event   *event.Event
	payload []byte // kept, so that its address is not used again
	state   sharedState
	from    int // the document without white space around it
	to      int
	messy   bool
	ok      bool
	members []sharedMember

	// What the last program that read the payload got. code is nil where refs
	// have been used for something else since.
	code  *code
	found extent
	refs  []ref
}

// again reports whether c reads of the payload exactly what the last program
// has read: found and refs are the answer.
func (s *shared) again(e *event.Event, payload []byte, c *code) bool {
	k := s.code
	return k != nil && s.event == e && len(s.payload) == len(payload) && unsafe.SliceData(s.payload) == unsafe.SliceData(payload) &&
		(k == c || k.ver == c.ver && k.slots == c.slots && sameShape(k.shape, c.shape))
}

func sameShape(a, b *shape) bool {
	return a == b || a != nil && b != nil && a.id == b.id
}

type sharedState uint8

const (
	readOnce sharedState = iota
	indexed
	tooMany // members: the payload is scanned each time
)

type sharedMember struct {
	name string
	ref  ref
}

// maxIndexed bounds the index: looking a member up walks it.
const maxIndexed = 64

// document does what the function does, for the payload of m's event.
func (m *Machine) document(payload []byte, sh *shape, refs []ref) (from, to int, messy, ok bool) {
	s := &m.shared
	if s.event != m.event || len(s.payload) != len(payload) || unsafe.SliceData(s.payload) != unsafe.SliceData(payload) {
		s.event, s.payload, s.state = m.event, payload, readOnce
		return document(payload, sh, refs, m.memo[:])
	}
	if s.state == readOnce {
		s.index()
	}
	if s.state == tooMany {
		return document(payload, sh, refs, m.memo[:])
	}
	if !s.ok {
		return 0, 0, false, false
	}
	if sh != nil && len(s.members) > 0 {
		for i := range sh.keys {
			s.note(&sh.keys[i], refs)
		}
	}
	return s.from, s.to, s.messy, true
}

// note fills in the places of one member that a shape names.
func (s *shared) note(k *shapeKey, refs []ref) {
	for i := len(s.members) - 1; i >= 0; i-- { // of several with one name the last counts
		x := &s.members[i]
		if x.name != k.name {
			continue
		}
		if k.child != nil && s.payload[x.ref.from] == '{' {
			in := scan{b: s.payload, refs: refs}
			in.object(int(x.ref.from), maxDepth-1, k.child)
		}
		if k.slot >= 0 {
			refs[k.slot] = x.ref
		}
		return
	}
}

// index notes every member of the payload.
func (s *shared) index() {
	clear(s.members)
	s.members = s.members[:0]
	s.state = indexed
	if s.from, s.to, s.messy, s.ok = document(s.payload, nil, nil, nil); !s.ok || s.payload[s.from] != '{' {
		return
	}
	x := scan{b: s.payload}
	for i := x.space(s.from + 1); x.b[i] != '}'; {
		if len(s.members) == maxIndexed {
			s.state = tooMany
			return
		}
		end, escaped := x.str(i + 1)
		name := bytesText(x.b[i+1 : end-1])
		if escaped {
			name = unescape(x.b[i+1 : end-1])
		}
		i = x.space(x.space(end) + 1)
		r := ref{from: int32(i)}
		x.messy = false
		if x.b[i] == '"' {
			i, r.escaped = x.str(i + 1)
		} else {
			i = x.value(i, maxDepth)
		}
		r.to, r.messy = int32(i), x.messy
		s.members = append(s.members, sharedMember{name, r})
		if i = x.space(i); x.b[i] == ',' {
			i = x.space(i + 1)
		}
	}
}
