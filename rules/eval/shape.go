package eval

import (
	"encoding/binary"
	"strconv"
	"unicode/utf8"
	"unique"
	"unsafe"
)

// shape tells an extraction which members of an object to note. Shapes form a
// tree; the root is the current item. A shape is immutable.
type shape struct {
	keys    []shapeKey
	lengths uint64                // bit len(name)&63 is set for each key
	index   map[string]*shapeKey  // instead of a walk over keys, where there are many
	id      unique.Handle[string] // of a root: equal for equal shapes
}

type shapeKey struct {
	name   string
	head   uint64 // its first eight bytes, as they are loaded; zeros after a shorter name
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

// at returns the key whose name stands in b from start to end, as it is written
// there; nil where sh, which may be nil, does not have it.
func (sh *shape) at(b []byte, start, end int, escaped bool) *shapeKey {
	if sh == nil {
		return nil
	}
	name := b[start:end]
	if escaped {
		name = textBytes(unescape(name))
	}
	if sh.index != nil {
		return sh.index[string(name)]
	}
	head := uint64(0)
	if n := end - start; !escaped && start+8 <= len(b) {
		head = binary.LittleEndian.Uint64(b[start:])
		if n < 8 {
			head &= 1<<(8*uint(n)) - 1
		}
	} else {
		head = headOf(bytesText(name))
	}
	for i := range sh.keys {
		k := &sh.keys[i]
		if head == k.head && len(name) == len(k.name) && (len(name) <= 8 || string(name[8:]) == k.name[8:]) {
			return k
		}
	}
	return nil
}

// headOf returns the head of name.
func headOf(name string) uint64 {
	var b [8]byte
	copy(b[:], name)
	return binary.LittleEndian.Uint64(b[:])
}

// document validates the payload b to its end and notes the members sh names.
// ok is false where b is no JSON object or array nested at most 64 levels deep;
// the refs are meaningless then. messy: see scan.messy; from and to are the
// document without white space around it. memo may be nil.
func document(b []byte, sh *shape, refs []ref, memo []memoKey) (from, to int, messy, ok bool) {
	x := scan{b: b, refs: refs, memo: memo}
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

// load returns the eight bytes at p+i, which the caller knows to be there.
func load(p unsafe.Pointer, i int) uint64 {
	return binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(p, i))[:])
}

// at returns the byte at p+i, which the caller knows to be there.
func at(p unsafe.Pointer, i int) byte { return *(*byte)(unsafe.Add(p, i)) }

// object passes the object that begins at i as value does, and notes the
// members sh names; nil names none. Of several with one name the last counts.
//
// Most of a payload is read here. What is common (short names, ASCII strings,
// plain numbers, no white space) is passed without a call, and each access is
// checked against n, once, by hand: 0 ≤ i < n before at, i+8 ≤ n before load.
func (s *scan) object(i, depth int, sh *shape) int {
	if depth == 0 {
		return -1
	}
	p, n := unsafe.Pointer(unsafe.SliceData(s.b)), len(s.b)
	i++
	if i >= n {
		return -1
	}
	if at(p, i) != '"' {
		if i = s.space(i); i >= n {
			return -1
		}
		if at(p, i) == '}' {
			return i + 1
		}
	}
	lengths := uint64(0)
	if sh != nil {
		lengths = sh.lengths
	}
	for {
		if at(p, i) != '"' {
			return -1
		}
		i++
		start := i
		var memo *memoKey
		if s.seen < len(s.memo) {
			memo = &s.memo[s.seen]
			s.seen++
		}
		var c byte
		var key *shapeKey
		if memo != nil && memo.size != 0 && i+int(memo.skip)+8 <= n && (load(p, i)^memo.head)&memo.mask == 0 && (load(p, i+int(memo.skip))^memo.tail)&memo.mask == 0 {
			if i += int(memo.size); i >= n {
				return -1
			}
			if c = at(p, i); c <= ' ' {
				if i = s.space(i); i >= n {
					return -1
				}
				c = at(p, i)
			}
			if memo.shape != sh {
				memo.shape, memo.key = sh, sh.at(s.b, start, start+int(memo.size)-2, false)
			}
			key = memo.key
		} else {
			escaped := false
			for i+8 <= n {
				k := stop(load(p, i))
				if i += k; k != 8 {
					break
				}
			}
			if i < n && at(p, i) == '"' {
				i++
			} else if i, escaped = s.str(i); i < 0 {
				return -1
			}
			end := i - 1
			if i >= n {
				return -1
			}
			if at(p, i) != ':' {
				memo = nil
				if i = s.space(i); i >= n || at(p, i) != ':' {
					return -1
				}
			}
			if i++; i >= n {
				return -1
			}
			if c = at(p, i); c <= ' ' {
				if i = s.space(i); i >= n {
					return -1
				}
				c = at(p, i)
			}
			if lengths>>(uint(end-start)&63)&1 != 0 || escaped {
				key = sh.at(s.b, start, end, escaped)
			}
			if size := end + 2 - start; memo != nil && !escaped && size <= 16 && start+8 <= n {
				memo.learn(p, start, size)
				memo.shape, memo.key = sh, key
			}
		}
		switch {
		case key != nil:
			i = s.named(i, depth-1, key)
		case c == '"':
			i++
			for i+8 <= n {
				k := stop(load(p, i))
				if i += k; k != 8 {
					break
				}
			}
			if i < n && at(p, i) == '"' {
				i++
			} else {
				i, _ = s.str(i)
			}
		case c-'1' <= 8:
			from := i
			i++
			for i < n && at(p, i)-'0' <= 9 {
				i++
			}
			if i < n && at(p, i) == '.' {
				point := i
				i++
				for i < n && at(p, i)-'0' <= 9 {
					i++
				}
				if i == point+1 {
					return -1
				}
				if at(p, i-1) == '0' {
					s.messy = true
				}
			}
			if i-from > digits || i < n && at(p, i)|0x20 == 'e' {
				i = s.number(from)
			}
		case c == '{':
			i = s.object(i, depth-1, nil)
		case c == 't' && i+8 <= n && uint32(load(p, i)) == wordTrue:
			i += 4
		default:
			i = s.value(i, depth-1)
		}
		if uint(i) >= uint(n) {
			return -1
		}
		c = at(p, i)
		if c <= ' ' {
			if i = s.space(i); i >= n {
				return -1
			}
			c = at(p, i)
		}
		if c == '}' {
			return i + 1
		}
		if c != ',' {
			return -1
		}
		if i++; i >= n {
			return -1
		}
		if at(p, i) <= ' ' {
			if i = s.space(i); i >= n {
				return -1
			}
		}
	}
}

// wordTrue is the word true as load gives it.
const wordTrue = 't' | 'r'<<8 | 'u'<<16 | 'e'<<24

// memoKeys is how many keys of a document are remembered.
const memoKeys = 256

// memoKey is a key of the document before, with its closing quote and colon.
// Messages of one kind have the same keys in the same order: where the next one
// has the same bytes here, it is known to be well formed and which key it is.
type memoKey struct {
	head, tail uint64 // the first eight bytes and the last; of fewer, both are all of them
	mask       uint64 // the bytes of head and tail that count
	skip       int32  // from head to tail
	size       int32  // 2 to 16; 0: nothing is remembered
	shape      *shape
	key        *shapeKey // what shape says of it
}

// learn remembers the size bytes at p+start; they are there, and at least eight.
func (k *memoKey) learn(p unsafe.Pointer, start, size int) {
	k.size, k.mask, k.skip = int32(size), ^uint64(0), 0
	if size < 8 {
		k.mask = 1<<(8*uint(size)) - 1
	} else {
		k.skip = int32(size - 8)
	}
	k.head, k.tail = load(p, start)&k.mask, load(p, start+int(k.skip))&k.mask
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
	if before {
		s.messy = true
	}
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
			k.name, k.head, k.slot, k.lo = kid.name, headOf(kid.name), -1, next
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
	sh = walk(s.root)
	sh.id = unique.Make(string(s.root.appendTo(nil)))
	return sh, moved
}

// appendTo writes what the shape of n depends on.
func (n *shapeNode) appendTo(b []byte) []byte {
	b = strconv.AppendQuote(b, n.name)
	if n.slot >= 0 {
		b = append(b, '=')
	}
	if len(n.kids) > 0 {
		b = append(b, '{')
		for _, kid := range n.kids {
			b = kid.appendTo(b)
		}
		b = append(b, '}')
	}
	return b
}
