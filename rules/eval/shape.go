package eval

import (
	"encoding/binary"
	"unicode/utf8"
)

// shape tells an extraction which members of an object to note. Shapes form a
// tree; the root is the current item. A shape is immutable.
type shape struct {
	keys    []shapeKey
	lengths uint64               // bit len(name)&63 is set for each key
	index   map[string]*shapeKey // instead of a walk over keys, where there are many
}

type shapeKey struct {
	name   string
	slot   int32  // where the member's place is noted; -1: nowhere
	lo, hi int32  // the slots of this key and all below it
	child  *shape // members of the member; nil: none are named
}

// ref is the place of a member's value in a JSON text. The zero ref is a member
// that is not there.
type ref struct {
	from, to int32
	messy    bool // see scan.messy
	escaped  bool // a string with escapes
}

// manyKeys is from where on a map is faster than a walk.
const manyKeys = 12

func (sh *shape) find(name []byte) *shapeKey {
	if sh.index != nil {
		return sh.index[string(name)]
	}
	for i := range sh.keys {
		if k := &sh.keys[i]; len(name) == len(k.name) && string(name) == k.name {
			return k
		}
	}
	return nil
}

// document validates the payload b to its end and notes the members sh names.
// ok is false where b is no JSON object or array nested at most 64 levels deep;
// the refs are meaningless then. messy: see scan.messy; from and to are the
// document without white space around it.
func document(b []byte, sh *shape, refs []ref) (from, to int, messy, ok bool) {
	x := scan{b: b, refs: refs}
	i := x.space(0)
	x.messy = false
	if i >= len(b) {
		return 0, 0, false, false
	}
	end := -1
	switch {
	case b[i] == '{':
		end = x.object(i, maxDepth, sh)
	case b[i] == '[':
		end = x.value(i, maxDepth)
	}
	if end < 0 {
		return 0, 0, false, false
	}
	messy = x.messy
	if x.space(end) != len(b) || x.high && !utf8.Valid(b) {
		return 0, 0, false, false
	}
	return i, end, messy, true
}

// object passes the object that begins at i as value does, and notes the
// members sh names; nil names none. Of several with one name the last counts.
func (s *scan) object(i, depth int, sh *shape) int {
	b := s.b
	if depth == 0 {
		return -1
	}
	i = s.space(i + 1)
	if uint(i) < uint(len(b)) && b[i] == '}' {
		return i + 1
	}
	var lengths uint64
	if sh != nil {
		lengths = sh.lengths
	}
	for {
		if uint(i) >= uint(len(b)) || b[i] != '"' {
			return -1
		}
		start := i + 1
		end, escaped := start, false
		if start+8 <= len(b) {
			end += stop(binary.LittleEndian.Uint64(b[start:]))
		}
		if uint(end) < uint(len(b)) && b[end] == '"' {
			end++
		} else {
			end, escaped = s.str(end)
		}
		if uint(end) >= uint(len(b)) {
			return -1
		}
		i = end
		if b[i] != ':' {
			if i = s.space(i); uint(i) >= uint(len(b)) || b[i] != ':' {
				return -1
			}
		}
		i++
		if uint(i) < uint(len(b)) && b[i] <= ' ' {
			i = s.space(i)
		}
		if uint(i) >= uint(len(b)) {
			return -1
		}
		var key *shapeKey
		switch {
		case escaped && sh != nil:
			key = sh.find(textBytes(unescape(b[start : end-1])))
		case lengths>>(uint(end-1-start)&63)&1 != 0:
			key = sh.find(b[start : end-1])
		}
		switch c := b[i]; {
		case key != nil:
			i = s.named(i, depth-1, key)
		case c == '"':
			i, _ = s.str(i + 1)
		case c-'0' <= 9:
			i = s.number(i)
		default:
			i = s.value(i, depth-1)
		}
		if uint(i) >= uint(len(b)) {
			return -1
		}
		if b[i] != ',' && b[i] != '}' {
			if i = s.space(i); uint(i) >= uint(len(b)) {
				return -1
			}
		}
		if b[i] == '}' {
			return i + 1
		}
		if b[i] != ',' {
			return -1
		}
		i++
		if uint(i) < uint(len(b)) && b[i] <= ' ' {
			i = s.space(i)
		}
	}
}

// named passes the value of a member that is asked for.
func (s *scan) named(i, depth int, key *shapeKey) int {
	before := s.messy
	s.messy = false
	from := i
	escaped := false
	if key.child != nil {
		clear(s.refs[key.lo:key.hi])
	}
	switch c := s.b[i]; {
	case c == '"':
		i, escaped = s.str(i + 1)
	case c-'0' <= 9:
		i = s.number(i)
	case c == '{':
		i = s.object(i, depth, key.child)
	default:
		i = s.value(i, depth)
	}
	if key.slot >= 0 {
		s.refs[key.slot] = ref{from: int32(from), to: int32(i), messy: s.messy, escaped: escaped}
	}
	s.messy = s.messy || before
	return i
}

// shapeBuilder collects the paths of one scope at Compile.
type shapeBuilder struct {
	root  *shapeNode
	slots int32
}

type shapeNode struct {
	name string
	slot int32
	kids []*shapeNode
}

// add returns the slot of a path of one or more names.
func (s *shapeBuilder) add(names []string) int32 {
	if s.root == nil {
		s.root = &shapeNode{slot: -1}
	}
	n := s.root
next:
	for _, name := range names {
		for _, kid := range n.kids {
			if kid.name == name {
				n = kid
				continue next
			}
		}
		kid := &shapeNode{name: name, slot: -1}
		n.kids = append(n.kids, kid)
		n = kid
	}
	if n.slot < 0 {
		n.slot = s.slots
		s.slots++
	}
	return n.slot
}

// build returns the shape, nil where no path was added, and for each slot given
// out by add the one it has now: those below one key are neighbours.
func (s *shapeBuilder) build() (sh *shape, moved []int32) {
	moved = make([]int32, s.slots)
	if s.root == nil {
		return nil, moved
	}
	next := int32(0)
	var walk func(n *shapeNode) *shape
	walk = func(n *shapeNode) *shape {
		sh := &shape{keys: make([]shapeKey, len(n.kids))}
		for i, kid := range n.kids {
			k := &sh.keys[i]
			k.name, k.slot, k.lo = kid.name, -1, next
			sh.lengths |= 1 << (uint(len(kid.name)) & 63)
			if kid.slot >= 0 {
				k.slot = next
				moved[kid.slot] = next
				next++
			}
			if len(kid.kids) > 0 {
				k.child = walk(kid)
			}
			k.hi = next
		}
		if len(sh.keys) >= manyKeys {
			sh.index = make(map[string]*shapeKey, len(sh.keys))
			for i := range sh.keys {
				sh.index[sh.keys[i].name] = &sh.keys[i]
			}
		}
		return sh
	}
	return walk(s.root), moved
}
