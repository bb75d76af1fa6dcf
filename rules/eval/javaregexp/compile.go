package javaregexp

import (
	"fmt"
	"strings"
)

type opcode uint8

const (
	opMatch        opcode = iota
	opFail                // never matches
	opChar                // one character r
	opText                // text
	opSet                 // one character of set
	opRun                 // min to max characters of set
	opSplit               // go to x; if that fails, to y
	opJump                // go to x
	opGroup               // slot x := position: where a group may begin
	opGroupEnd            // group x is from the position in slot y to here
	opAssert              // assert
	opBackref             // group x
	opLoopInit            // counter x := 0
	opLoop                // counter x: into the body behind, or to y
	opAtomic              // register x: begin of what does not give back
	opAtomicEnd           // register x
	opAhead               // register x: begin of a look-ahead
	opAheadEnd            // register x: back to where it began
	opNotAhead            // register x: begin of a negative look-ahead; to y if it fails
	opNotBehind           // the same, behind, min to max characters back
	opNotEnd              // register x: a negative look-around matched
	opBehind              // register x: begin of a look-behind, min to max characters
	opBehindEnd           // register x: it must end where it began
	opNotBehindEnd        // register x: the same, negative
)

type inst struct {
	op       opcode
	mode     mode
	assert   assertion
	foldCase bool
	foldFull bool
	r        rune
	x, y     int32
	min, max int32
	set      *charSet
	text     string
}

type program struct {
	code     []inst
	groups   int
	counters int
	regs     int
	anchored bool     // matches at the beginning of the text only
	first    *charSet // of the first character of any match; nil: unknown
	prefix   string   // what every match begins with
}

func compileProgram(root *node, groups int) *program {
	p := &program{groups: groups}
	p.anchored = anchored(root)
	if set, known := firstSet(root); known {
		p.first = set
	}
	p.prefix = prefix(root)
	p.gen(root)
	p.emit(inst{op: opMatch})
	return p
}

func (p *program) emit(in inst) int {
	p.code = append(p.code, in)
	return len(p.code) - 1
}

func (p *program) here() int32 { return int32(len(p.code)) }

func (p *program) gen(n *node) {
	switch n.kind {
	case nodeEmpty:
	case nodeSet:
		p.genText(n)
	case nodeConcat:
		for i := 0; i < len(n.subs); {
			// Characters in a row become one text.
			var text []rune
			for i < len(n.subs) && n.subs[i].kind == nodeSet {
				r, ok := n.subs[i].set.single()
				if !ok || isSurrogate(r) {
					break
				}
				text = append(text, r)
				i++
			}
			switch {
			case len(text) > 1:
				p.emit(inst{op: opText, text: string(text)})
			case len(text) == 1:
				p.emit(inst{op: opChar, r: text[0]})
			default:
				p.gen(n.subs[i])
				i++
			}
		}
	case nodeAlt:
		var ends []int
		for i, s := range n.subs {
			if i == len(n.subs)-1 {
				p.gen(s)
				break
			}
			split := p.emit(inst{op: opSplit})
			p.code[split].x = p.here()
			p.gen(s)
			ends = append(ends, p.emit(inst{op: opJump}))
			p.code[split].y = p.here()
		}
		for _, e := range ends {
			p.code[e].x = p.here()
		}
	case nodeGroup:
		// A group is what it last matched until it matches again: a reference
		// to it from inside means the turn before.
		begin := int32(2*(p.groups+1) + n.n - 1)
		p.emit(inst{op: opGroup, x: begin})
		p.gen(n.subs[0])
		p.emit(inst{op: opGroupEnd, x: int32(n.n), y: begin})
	case nodeBackref:
		if n.n > p.groups {
			p.emit(inst{op: opFail})
			break
		}
		p.emit(inst{op: opBackref, x: int32(n.n), foldCase: n.foldCase, foldFull: n.foldFull})
	case nodeAssert:
		p.emit(inst{op: opAssert, assert: n.assert})
	case nodeAtomic:
		p.atomic(func() { p.gen(n.subs[0]) })
	case nodeAhead:
		reg := p.register()
		if n.negative {
			begin := p.emit(inst{op: opNotAhead, x: reg})
			p.gen(n.subs[0])
			p.emit(inst{op: opNotEnd, x: reg})
			p.code[begin].y = p.here()
			break
		}
		p.emit(inst{op: opAhead, x: reg})
		p.gen(n.subs[0])
		p.emit(inst{op: opAheadEnd, x: reg})
	case nodeBehind:
		reg := p.register()
		in := inst{op: opBehind, x: reg, min: int32(n.min), max: int32(n.max)}
		end := opBehindEnd
		if n.negative {
			in.op, end = opNotBehind, opNotBehindEnd
		}
		begin := p.emit(in)
		p.gen(n.subs[0])
		p.emit(inst{op: end, x: reg})
		p.code[begin].y = p.here()
	case nodeRepeat:
		p.genRepeat(n)
	}
}

func isSurrogate(r rune) bool { return 0xD800 <= r && r < 0xE000 }

func (p *program) genText(n *node) {
	if r, ok := n.set.single(); ok && !isSurrogate(r) {
		p.emit(inst{op: opChar, r: r})
		return
	}
	p.emit(inst{op: opSet, set: n.set})
}

func (p *program) register() int32 {
	p.regs++
	return int32(p.regs - 1)
}

func (p *program) atomic(body func()) {
	reg := p.register()
	p.emit(inst{op: opAtomic, x: reg})
	body()
	p.emit(inst{op: opAtomicEnd, x: reg})
}

func (p *program) genRepeat(n *node) {
	sub := n.subs[0]
	if sub.kind == nodeSet {
		p.emit(inst{op: opRun, set: sub.set, min: int32(n.min), max: int32(n.max), mode: n.mode})
		return
	}
	if n.mode == possessive {
		p.atomic(func() {
			g := *n
			g.mode = greedy
			p.genRepeat(&g)
		})
		return
	}
	low, _ := sub.length()
	switch {
	case n.max == 0:
	case n.min == 1 && n.max == 1:
		p.gen(sub)
	case n.min == 0 && n.max == 1:
		split := p.split(n.mode)
		p.branch(split, true)
		p.gen(sub)
		p.branch(split, false)
	case n.min == 0 && n.max == maxCount && low > 0:
		split := p.split(n.mode)
		p.branch(split, true)
		p.gen(sub)
		p.emit(inst{op: opJump, x: int32(split)})
		p.branch(split, false)
	default:
		// Counted, or with a body that may be empty: a counter, so that the
		// program stays as small as the pattern.
		c := int32(p.counters)
		p.counters++
		p.emit(inst{op: opLoopInit, x: c})
		loop := p.emit(inst{op: opLoop, x: c, min: int32(n.min), max: int32(n.max), mode: n.mode})
		p.gen(sub)
		p.emit(inst{op: opJump, x: int32(loop)})
		p.code[loop].y = p.here()
	}
}

// split emits a choice between a body and what follows it; branch sets where
// these are.
func (p *program) split(m mode) int { return p.emit(inst{op: opSplit, mode: m}) }

func (p *program) branch(split int, body bool) {
	if body == (p.code[split].mode == greedy) {
		p.code[split].x = p.here()
	} else {
		p.code[split].y = p.here()
	}
}

// anchored reports whether every match begins where the text does.
func anchored(n *node) bool {
	switch n.kind {
	case nodeAssert:
		return n.assert == assertBegin
	case nodeConcat:
		return anchored(n.subs[0])
	case nodeAlt:
		for _, s := range n.subs {
			if !anchored(s) {
				return false
			}
		}
		return true
	case nodeGroup, nodeAtomic:
		return anchored(n.subs[0])
	}
	return false
}

// firstSet returns the characters a match of n can begin with; known is false
// if it may be empty or nothing is known.
func firstSet(n *node) (set *charSet, known bool) {
	switch n.kind {
	case nodeSet:
		return n.set, true
	case nodeConcat:
		for _, s := range n.subs {
			f, ok := firstSet(s)
			if ok {
				return union(set, f), true
			}
			switch {
			case s.kind == nodeAssert || s.kind == nodeAhead || s.kind == nodeBehind || s.kind == nodeEmpty:
			case f != nil:
				set = union(set, f)
			default:
				return nil, false
			}
		}
		return set, false
	case nodeAlt:
		known = true
		for _, s := range n.subs {
			f, ok := firstSet(s)
			if f == nil {
				return nil, false
			}
			set = union(set, f)
			known = known && ok
		}
		return set, known
	case nodeRepeat:
		if n.max == 0 {
			return nil, false
		}
		f, ok := firstSet(n.subs[0])
		return f, ok && n.min > 0
	case nodeGroup, nodeAtomic:
		return firstSet(n.subs[0])
	}
	return nil, false
}

// prefix returns a text every match of n begins with.
func prefix(n *node) string {
	switch n.kind {
	case nodeSet:
		if r, ok := n.set.single(); ok && !isSurrogate(r) {
			return string(r)
		}
	case nodeGroup, nodeAtomic:
		return prefix(n.subs[0])
	case nodeConcat:
		var b strings.Builder
		for _, s := range n.subs {
			t := prefix(s)
			b.WriteString(t)
			if t == "" || s.kind != nodeSet {
				break
			}
		}
		return b.String()
	}
	return ""
}

// maxRE2Text bounds what RE2 has to read, in bytes.
const maxRE2Text = 32 << 10

// re2Text writes n for Go's regexp, where both mean exactly the same; ok is
// false where they may not.
type re2Text struct {
	b      strings.Builder
	ok     bool
	dollar bool // has a $ that is \z only if the text does not end in a line terminator
	look   bool // looks at what stands before a match
}

func (w *re2Text) write(n *node) {
	if !w.ok || w.b.Len() > maxRE2Text {
		w.ok = false
		return
	}
	switch n.kind {
	case nodeEmpty:
	case nodeSet:
		w.set(n.set)
	case nodeConcat:
		for _, s := range n.subs {
			if s.kind == nodeAlt {
				w.b.WriteString("(?:")
				w.write(s)
				w.b.WriteByte(')')
			} else {
				w.write(s)
			}
		}
	case nodeAlt:
		w.b.WriteString("(?:")
		for i, s := range n.subs {
			if i > 0 {
				w.b.WriteByte('|')
			}
			w.write(s)
		}
		w.b.WriteByte(')')
	case nodeGroup:
		w.b.WriteByte('(')
		w.write(n.subs[0])
		w.b.WriteByte(')')
	case nodeRepeat:
		low, _ := n.subs[0].length()
		if n.mode == possessive || n.max > 1 && low == 0 || n.min > 1000 || n.max > 1000 && n.max < maxCount {
			// What an empty turn of a loop does differs.
			w.ok = false
			return
		}
		w.b.WriteString("(?:")
		w.write(n.subs[0])
		w.b.WriteByte(')')
		switch {
		case n.min == 0 && n.max == maxCount:
			w.b.WriteByte('*')
		case n.min == 1 && n.max == maxCount:
			w.b.WriteByte('+')
		case n.min == 0 && n.max == 1:
			w.b.WriteByte('?')
		case n.max == maxCount:
			fmt.Fprintf(&w.b, "{%d,}", n.min)
		default:
			fmt.Fprintf(&w.b, "{%d,%d}", n.min, n.max)
		}
		if n.mode == lazy {
			w.b.WriteByte('?')
		}
	case nodeAssert:
		switch n.assert {
		case assertBegin:
			w.b.WriteString(`\A`)
			w.look = true
		case assertEnd:
			w.b.WriteString(`\z`)
		case assertDollar, assertDollarD:
			w.b.WriteString(`\z`)
			w.dollar = true
		case assertWord:
			w.b.WriteString(`\b`)
			w.look = true
		case assertNotWord:
			w.b.WriteString(`\B`)
			w.look = true
		default:
			w.ok = false
		}
	default:
		w.ok = false
	}
}

func (w *re2Text) set(s *charSet) {
	if len(s.ranges) == 0 {
		w.b.WriteString(`[^\x00-\x{10FFFF}]`)
		return
	}
	w.b.WriteByte('[')
	for _, r := range s.ranges {
		fmt.Fprintf(&w.b, `\x{%X}-\x{%X}`, r.lo, r.hi)
	}
	w.b.WriteByte(']')
}
