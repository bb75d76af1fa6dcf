package eval

import (
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
	if sh.lengths>>(uint(len(name))&63)&1 == 0 {
		return nil
	}
	if sh.index != nil {
		return sh.index[string(name)]
	}
	for i := range sh.keys {
		if string(name) == sh.keys[i].name {
			return &sh.keys[i]
		}
	}
	return nil
}

// document validates the payload b to its end and notes the members sh names.
// ok is false where b is no JSON object or array nested at most 64 levels deep;
// the refs are meaningless then. messy: see scan.messy; from and to are the
// document without white space around it.
func document(b []byte, sh *shape, refs []ref) (from, to int, messy, ok bool) {
	x := extract{scan: scan{b: b}, refs: refs}
	i := x.space(0)
	x.messy = false
	if i >= len(b) {
		return 0, 0, false, false
	}
	end := -1
	switch {
	case b[i] == '{' && sh != nil:
		end = x.object(i, maxDepth, sh)
	case b[i] == '{' || b[i] == '[':
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

// extract is a scan that notes members on its way.
type extract struct {
	scan
	refs []ref
}

// object passes the object that begins at i as value does, and notes the
// members sh names. Of several with one name the last one counts.
func (x *extract) object(i, depth int, sh *shape) int {
	b := x.b
	if depth == 0 {
		return -1
	}
	i = x.space(i + 1)
	if uint(i) < uint(len(b)) && b[i] == '}' {
		return i + 1
	}
	for {
		if uint(i) >= uint(len(b)) || b[i] != '"' {
			return -1
		}
		start := i + 1
		end, escaped := x.str(start)
		if end < 0 {
			return -1
		}
		var key *shapeKey
		switch {
		case escaped:
			key = sh.find([]byte(unescape(b[start : end-1])))
		case sh.lengths>>(uint(end-1-start)&63)&1 != 0:
			key = sh.find(b[start : end-1])
		}
		if i = x.space(end); uint(i) >= uint(len(b)) || b[i] != ':' {
			return -1
		}
		if i = x.space(i + 1); uint(i) >= uint(len(b)) {
			return -1
		}
		switch {
		case key == nil:
			i = x.value(i, depth-1)
		case key.child == nil && b[i] == '"':
			from := i
			clean := !x.messy
			if clean {
				i, escaped = x.str(i + 1)
				x.refs[key.slot] = ref{from: int32(from), to: int32(i), messy: x.messy, escaped: escaped}
			} else {
				x.messy = false
				i, escaped = x.str(i + 1)
				x.refs[key.slot] = ref{from: int32(from), to: int32(i), messy: x.messy, escaped: escaped}
				x.messy = true
			}
		default:
			i = x.named(i, depth-1, key)
		}
		if i < 0 {
			return -1
		}
		if uint(i) >= uint(len(b)) || b[i] != ',' && b[i] != '}' {
			if i = x.space(i); uint(i) >= uint(len(b)) {
				return -1
			}
		}
		if b[i] == '}' {
			return i + 1
		}
		if b[i] != ',' {
			return -1
		}
		i = x.space(i + 1)
	}
}

// named passes the value of a member that is asked for.
func (x *extract) named(i, depth int, key *shapeKey) int {
	before := x.messy
	x.messy = false
	from := i
	escaped := false
	if key.child != nil {
		clear(x.refs[key.lo:key.hi])
	}
	switch c := x.b[i]; {
	case c == '{' && key.child != nil:
		i = x.object(i, depth, key.child)
	case c == '"':
		i, escaped = x.str(i + 1)
	default:
		i = x.value(i, depth)
	}
	if i >= 0 && key.slot >= 0 {
		x.refs[key.slot] = ref{from: int32(from), to: int32(i), messy: x.messy, escaped: escaped}
	}
	x.messy = x.messy || before
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
