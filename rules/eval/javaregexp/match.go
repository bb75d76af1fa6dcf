package javaregexp

import (
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// matcher runs a program over a text by backtracking. Its stack holds, besides
// the choices not yet tried, the old values of what changed since, so that
// giving up a choice undoes what came after it.
type matcher struct {
	prog  *program
	text  string
	steps int // left
	last  int // end of the match before, for \G
	caps  []int32
	loops []loop
	regs  []register
	stack []frame
	limit int // of the stack, in frames
}

type loop struct{ count, from int32 }

type register struct{ height, pos int32 }

type frame struct {
	kind    frameKind
	a, b, c int32
}

type frameKind int32

const (
	frameBranch frameKind = iota // go to a at position b
	frameCap                     // undo: slot a was b
	frameLoop                    // undo: counter a was {b, c}
	frameGive                    // opRun at a has run to b and may give back down to c
	frameTake                    // lazy opRun at a has taken c characters up to b
	frameEnter                   // lazy opLoop at a may turn once more at b
	frameBehind                  // opBehind at a, at position b, tries c characters back
)

var matchers = sync.Pool{New: func() any { return new(matcher) }}

// newMatcher takes a matcher; the caller gives it back with free.
func newMatcher(p *program, text string, steps int) *matcher {
	m := matchers.Get().(*matcher)
	m.prog, m.text, m.steps, m.last = p, text, steps, 0
	m.caps = resize(m.caps, 2*(p.groups+1))
	m.loops = resize(m.loops, p.counters)
	m.regs = resize(m.regs, p.regs)
	m.stack = m.stack[:0]
	m.limit = minStack + stackPerByte*len(text)
	return m
}

func (m *matcher) free() {
	m.prog, m.text = nil, ""
	if cap(m.stack) > 8*minStack {
		m.stack = nil
	}
	matchers.Put(m)
}

func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

type outcome uint8

const (
	failed outcome = iota
	matched
	gaveUp // at the limit of steps or of the stack
)

// find looks for the first match that begins at from or later. Its bounds, and
// those of the groups, are in m.caps.
func (m *matcher) find(from int) outcome {
	p := m.prog
	if p.anchored {
		if from > 0 {
			return failed
		}
		return m.try(0)
	}
	for pos := from; ; {
		start := pos
		switch {
		case p.prefix != "":
			i := strings.Index(m.text[pos:], p.prefix)
			if i < 0 {
				return failed
			}
			pos += i
			m.steps -= i >> 4
		case p.first != nil:
			for {
				if pos >= len(m.text) {
					return failed
				}
				r, w := m.rune(pos)
				if p.first.has(r) {
					break
				}
				pos += w
			}
			m.steps -= (pos - start) >> 2
		}
		if o := m.try(pos); o != failed {
			return o
		}
		if pos >= len(m.text) {
			return failed
		}
		_, w := m.rune(pos)
		pos += w
	}
}

func (m *matcher) rune(pos int) (rune, int) {
	if c := m.text[pos]; c < utf8.RuneSelf {
		return rune(c), 1
	}
	return utf8.DecodeRuneInString(m.text[pos:])
}

func (m *matcher) runeBefore(pos int) (rune, int) {
	if c := m.text[pos-1]; c < utf8.RuneSelf {
		return rune(c), 1
	}
	return utf8.DecodeLastRuneInString(m.text[:pos])
}

func (m *matcher) push(kind frameKind, a, b, c int32) {
	m.stack = append(m.stack, frame{kind, a, b, c})
}

// cut drops the choices above height, but not what undoes changes.
func (m *matcher) cut(height int32) {
	keep := m.stack[:height]
	for _, f := range m.stack[height:] {
		if f.kind == frameCap || f.kind == frameLoop {
			keep = append(keep, f)
		}
	}
	m.stack = keep
}

// unwind gives up all above height and undoes what changed there.
func (m *matcher) unwind(height int32) {
	for i := len(m.stack) - 1; i >= int(height); i-- {
		m.undo(&m.stack[i])
	}
	m.stack = m.stack[:height]
}

func (m *matcher) undo(f *frame) {
	switch f.kind {
	case frameCap:
		m.caps[f.a] = f.b
	case frameLoop:
		m.loops[f.a] = loop{f.b, f.c}
	}
}

// try looks for a match that begins at pos.
func (m *matcher) try(at int) outcome {
	for i := range m.caps {
		m.caps[i] = -1
	}
	clear(m.loops)
	m.stack = m.stack[:0]
	code, text := m.prog.code, m.text
	pc, pos := int32(0), at
	for {
		if m.steps--; m.steps < 0 || len(m.stack) > m.limit {
			return gaveUp
		}
		in := &code[pc]
		switch in.op {
		case opMatch:
			m.caps[0], m.caps[1] = int32(at), int32(pos)
			return matched
		case opFail:
			goto fail
		case opChar:
			if pos >= len(text) {
				goto fail
			}
			r, w := m.rune(pos)
			if r != in.r || r == utf8.RuneError && w == 1 && in.r != utf8.RuneError {
				goto fail
			}
			pos += w
			pc++
		case opText:
			if !strings.HasPrefix(text[pos:], in.text) {
				goto fail
			}
			m.steps -= len(in.text) >> 4
			pos += len(in.text)
			pc++
		case opSet:
			if pos >= len(text) {
				goto fail
			}
			r, w := m.rune(pos)
			if !in.set.has(r) {
				goto fail
			}
			pos += w
			pc++
		case opRun:
			most := in.max
			if in.mode == lazy {
				most = in.min
			}
			end, least := pos, pos
			n := int32(0)
			set := in.set
			for n < most && end < len(text) {
				if c := text[end]; c < utf8.RuneSelf {
					if set.ascii[c>>6]&(1<<(c&63)) == 0 {
						break
					}
					end++
				} else {
					r, w := utf8.DecodeRuneInString(text[end:])
					if !set.has(r) {
						break
					}
					end += w
				}
				if n++; n == in.min {
					least = end
				}
			}
			m.steps -= int(n >> 1)
			if n < in.min {
				goto fail
			}
			switch {
			case in.mode == greedy && end > least:
				m.push(frameGive, pc, int32(end), int32(least))
			case in.mode == lazy && in.min < in.max:
				m.push(frameTake, pc, int32(end), n)
			}
			pos = end
			pc++
		case opSplit:
			m.push(frameBranch, in.y, int32(pos), 0)
			pc = in.x
		case opJump:
			pc = in.x
		case opSave:
			m.push(frameCap, in.x, m.caps[in.x], 0)
			m.caps[in.x] = int32(pos)
			pc++
		case opAssert:
			if !m.assert(in.assert, pos) {
				goto fail
			}
			pc++
		case opBackref:
			end, ok := m.backref(in, pos)
			if !ok {
				goto fail
			}
			pos = end
			pc++
		case opLoopInit:
			l := &m.loops[in.x]
			m.push(frameLoop, in.x, l.count, l.from)
			*l = loop{0, -1}
			pc++
		case opLoop:
			l := &m.loops[in.x]
			switch {
			case l.count > 0 && int(l.from) == pos:
				pc = in.y // an empty turn ends the loop
			case l.count < in.min:
				pc = m.turn(pc, pos)
			case l.count >= in.max:
				pc = in.y
			case in.mode == lazy:
				m.push(frameEnter, pc, int32(pos), 0)
				pc = in.y
			default:
				m.push(frameBranch, in.y, int32(pos), 0)
				pc = m.turn(pc, pos)
			}
		case opAtomic, opAhead:
			m.regs[in.x] = register{int32(len(m.stack)), int32(pos)}
			pc++
		case opAtomicEnd:
			m.cut(m.regs[in.x].height)
			pc++
		case opAheadEnd:
			m.cut(m.regs[in.x].height)
			pos = int(m.regs[in.x].pos)
			pc++
		case opNotAhead:
			m.regs[in.x] = register{int32(len(m.stack)), int32(pos)}
			m.push(frameBranch, in.y, int32(pos), 0)
			pc++
		case opNotEnd:
			m.unwind(m.regs[in.x].height)
			goto fail
		case opBehind, opNotBehind:
			m.regs[in.x] = register{int32(len(m.stack)), int32(pos)}
			if in.op == opNotBehind {
				m.push(frameBranch, in.y, int32(pos), 0)
			}
			m.push(frameBehind, pc, int32(pos), in.min)
			goto fail // which tries the shortest first
		case opBehindEnd:
			if pos != int(m.regs[in.x].pos) {
				goto fail
			}
			m.cut(m.regs[in.x].height)
			pc++
		case opNotBehindEnd:
			if pos == int(m.regs[in.x].pos) {
				m.unwind(m.regs[in.x].height)
			}
			goto fail
		}
		continue
	fail:
		for {
			if len(m.stack) == 0 {
				return failed
			}
			f := &m.stack[len(m.stack)-1]
			if f.kind == frameCap || f.kind == frameLoop {
				m.undo(f)
				m.stack = m.stack[:len(m.stack)-1]
				continue
			}
			if next, to, ok := m.resume(f); ok {
				pc, pos = next, to
				break
			}
		}
	}
}

// turn begins one more turn of the loop at pc.
func (m *matcher) turn(pc int32, pos int) int32 {
	c := m.prog.code[pc].x
	l := &m.loops[c]
	m.push(frameLoop, c, l.count, l.from)
	*l = loop{l.count + 1, int32(pos)}
	return pc + 1
}

// resume takes the next choice of the topmost frame, and the frame away if it
// was the last one. ok is false if there was none left.
func (m *matcher) resume(f *frame) (pc int32, pos int, ok bool) {
	top := len(m.stack) - 1
	switch f.kind {
	case frameBranch:
		pc, pos = f.a, int(f.b)
		m.stack = m.stack[:top]
		return pc, pos, true
	case frameGive:
		_, w := m.runeBefore(int(f.b))
		f.b -= int32(w)
		pc, pos = f.a+1, int(f.b)
		if f.b <= f.c {
			m.stack = m.stack[:top]
		}
		return pc, pos, true
	case frameTake:
		in := &m.prog.code[f.a]
		if int(f.b) < len(m.text) {
			if r, w := m.rune(int(f.b)); in.set.has(r) {
				f.b += int32(w)
				f.c++
				pc, pos = f.a+1, int(f.b)
				if f.c >= in.max {
					m.stack = m.stack[:top]
				}
				return pc, pos, true
			}
		}
		m.stack = m.stack[:top]
		return 0, 0, false
	case frameEnter:
		pc, pos = f.a, int(f.b)
		m.stack = m.stack[:top]
		return m.turn(pc, pos), pos, true
	case frameBehind:
		in := &m.prog.code[f.a]
		// f.c characters back from where it began.
		pos = int(f.b)
		for range f.c {
			if pos == 0 {
				m.stack = m.stack[:top]
				return 0, 0, false
			}
			_, w := m.runeBefore(pos)
			pos -= w
		}
		m.steps -= int(f.c >> 2)
		pc = f.a + 1
		if f.c++; f.c > in.max {
			m.stack = m.stack[:top]
		}
		m.steps--
		return pc, pos, true
	}
	m.stack = m.stack[:top]
	return 0, 0, false
}

func (m *matcher) backref(in *inst, pos int) (end int, ok bool) {
	from, to := m.caps[2*in.x], m.caps[2*in.x+1]
	if from < 0 || to < from {
		return 0, false
	}
	group := m.text[from:to]
	m.steps -= len(group) >> 3
	if !in.foldCase {
		return pos + len(group), strings.HasPrefix(m.text[pos:], group)
	}
	for _, a := range group {
		if pos >= len(m.text) {
			return 0, false
		}
		b, w := m.rune(pos)
		if a != b && !sameFold(a, b, in.foldFull) {
			return 0, false
		}
		pos += w
	}
	return pos, true
}

func sameFold(a, b rune, full bool) bool {
	if !full {
		return isAlpha(a) && isAlpha(b) && a|0x20 == b|0x20
	}
	for f := unicode.SimpleFold(a); f != a; f = unicode.SimpleFold(f) {
		if f == b {
			return true
		}
	}
	return false
}

func (m *matcher) assert(a assertion, pos int) bool {
	text := m.text
	switch a {
	case assertBegin:
		return pos == 0
	case assertEnd:
		return pos == len(text)
	case assertLast:
		return pos == m.last
	case assertDollar:
		return pos == len(text) || finalTerminator(text, pos)
	case assertDollarD:
		return pos == len(text) || pos == len(text)-1 && text[pos] == '\n'
	case assertCaretM:
		// Java's (?m)^ is not at the end of the text, not even of an empty one.
		if pos == len(text) {
			return false
		}
		if pos == 0 {
			return true
		}
		r, _ := m.runeBefore(pos)
		return setTerminator.has(r) && !(r == '\r' && text[pos] == '\n')
	case assertCaretMD:
		return pos < len(text) && (pos == 0 || text[pos-1] == '\n')
	case assertDollarM:
		if pos == len(text) {
			return true
		}
		r, _ := m.rune(pos)
		return setTerminator.has(r) && !(r == '\n' && pos > 0 && text[pos-1] == '\r')
	case assertDollarMD:
		return pos == len(text) || text[pos] == '\n'
	case assertWord, assertNotWord:
		return m.boundary(setWord, pos) == (a == assertWord)
	case assertWordU, assertNotWordU:
		return m.boundary(setUnicodeWord(), pos) == (a == assertWordU)
	}
	return false
}

// finalTerminator reports whether the last line terminator of text stands at
// pos.
func finalTerminator(text string, pos int) bool {
	switch text[pos:] {
	case "\n":
		return pos == 0 || text[pos-1] != '\r'
	case "\r", "\r\n", "\u0085", "\u2028", "\u2029":
		return true
	}
	return false
}

// endsInTerminator reports whether $ may stand before the end of text.
func endsInTerminator(text string) bool {
	return strings.HasSuffix(text, "\n") || strings.HasSuffix(text, "\r") ||
		strings.HasSuffix(text, "\u0085") || strings.HasSuffix(text, "\u2028") || strings.HasSuffix(text, "\u2029")
}

func (m *matcher) boundary(word *charSet, pos int) bool {
	before, after := false, false
	if pos > 0 {
		r, _ := m.runeBefore(pos)
		before = word.has(r)
	}
	if pos < len(m.text) {
		r, _ := m.rune(pos)
		after = word.has(r)
	}
	return before != after
}
