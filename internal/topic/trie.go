package topic

import "strings"

// Trie finds all filters that match a name. T is what a filter stands for: a
// session, a rule. The zero Trie is not usable; make one with NewTrie.
//
// A Trie has no lock: its owner guards it, or builds a new one and swaps the
// pointer. Match may run concurrently with Match.
type Trie[T comparable] struct {
	mode Mode
	root node[T]
	size int
}

type node[T comparable] struct {
	children map[string]*node[T]
	plus     *node[T]
	here     []T // filters that end at this level
	below    []T // filters that end with # below this level
}

// NewTrie returns an empty Trie that matches in mode m.
func NewTrie[T comparable](m Mode) *Trie[T] {
	return &Trie[T]{mode: m}
}

// Len returns the number of pairs in the trie.
func (t *Trie[T]) Len() int { return t.size }

// Add puts the pair of f and v in. It reports false where it is in already.
func (t *Trie[T]) Add(f Filter, v T) bool {
	n := &t.root
	rest, more := string(f), true
	for more {
		var l string
		l, rest, more = strings.Cut(rest, "/")
		if l == "#" {
			return t.insert(&n.below, v)
		}
		n = n.child(l)
	}
	return t.insert(&n.here, v)
}

func (t *Trie[T]) insert(to *[]T, v T) bool {
	for _, x := range *to {
		if x == v {
			return false
		}
	}
	*to = append(*to, v)
	t.size++
	return true
}

func (n *node[T]) child(level string) *node[T] {
	if level == "+" {
		if n.plus == nil {
			n.plus = &node[T]{}
		}
		return n.plus
	}
	c := n.children[level]
	if c == nil {
		if n.children == nil {
			n.children = map[string]*node[T]{}
		}
		c = &node[T]{}
		// The level is cut from the caller's filter; a copy lets that go.
		n.children[strings.Clone(level)] = c
	}
	return c
}

// Remove takes the pair of f and v out, and with it the levels nothing else
// uses. It reports false where the pair is not in.
func (t *Trie[T]) Remove(f Filter, v T) bool {
	if !t.root.remove(string(f), v) {
		return false
	}
	t.size--
	return true
}

func (n *node[T]) remove(rest string, v T) bool {
	l, rest, more := strings.Cut(rest, "/")
	if l == "#" {
		return cut(&n.below, v)
	}
	c := n.plus
	if l != "+" {
		c = n.children[l]
	}
	if c == nil {
		return false
	}
	ok := false
	if more {
		ok = c.remove(rest, v)
	} else {
		ok = cut(&c.here, v)
	}
	if ok && c.empty() {
		if l == "+" {
			n.plus = nil
		} else {
			delete(n.children, l)
		}
	}
	return ok
}

func (n *node[T]) empty() bool {
	return len(n.children) == 0 && n.plus == nil && len(n.here) == 0 && len(n.below) == 0
}

func cut[T comparable](from *[]T, v T) bool {
	for i, x := range *from {
		if x == v {
			s := append((*from)[:i], (*from)[i+1:]...)
			clear(s[len(s) : len(s)+1])
			if len(s) == 0 {
				s = nil
			}
			*from = s
			return true
		}
	}
	return false
}

// Match appends the value of each filter that matches name to out, in no
// particular order, and returns the result. A value under several matching
// filters comes several times. It allocates only to grow out.
func (t *Trie[T]) Match(name Name, out []T) []T {
	s := string(name)
	if s != "" && s[0] == '$' {
		// Wildcards in the first level do not see $-topics.
		l, rest, more := strings.Cut(s, "/")
		if c := t.root.children[l]; c != nil {
			out = t.down(c, rest, more, out)
		}
		return out
	}
	return t.walk(&t.root, s, out)
}

func (t *Trie[T]) walk(n *node[T], s string, out []T) []T {
	out = append(out, n.below...)
	l, rest, more := strings.Cut(s, "/")
	if c := n.children[l]; c != nil {
		out = t.down(c, rest, more, out)
	}
	if n.plus != nil {
		out = t.down(n.plus, rest, more, out)
	}
	return out
}

func (t *Trie[T]) down(n *node[T], rest string, more bool, out []T) []T {
	if more {
		return t.walk(n, rest, out)
	}
	out = append(out, n.here...)
	if t.mode == Standard {
		out = append(out, n.below...)
	}
	return out
}
