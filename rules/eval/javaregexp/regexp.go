// Package javaregexp runs the regular expressions of java.util.regex in
// bounded time.
//
// The rule language's regexp_… functions take the patterns of Java, with
// look-around, back-references and possessive quantifiers. A pattern runs on a
// backtracking matcher that counts its steps; where it takes too many and the
// pattern is one that Go's regexp (RE2) reads with exactly the same meaning, that
// one decides, in linear time; otherwise the match is given up with ErrLimit.
// No pattern can hold a worker longer than a few milliseconds.
//
// Source: Java SE 11, java.util.regex.Pattern and Matcher. \b and \w are ASCII
// unless (?U) is on; \X, \N{…}, \b{g} and canonical equivalence are refused.
package javaregexp

import (
	"errors"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// maxSteps bounds the work of a call: about 2 ms.
	maxSteps = 200_000
	// trySteps, and some for each byte, is what a pattern gets that RE2 can take
	// over.
	trySteps = 20_000
	// maxLinear bounds the instructions of RE2 times the bytes it reads.
	maxLinear = 500_000

	minStack     = 4 << 10 // frames of 16 bytes
	stackPerByte = 3
)

// ErrLimit is returned where a match was given up.
var ErrLimit = errors.New("regular expression took too many steps")

// ErrTooLong is returned where a replacement would grow beyond its bound.
var ErrTooLong = errors.New("result of the replacement is too long")

// Regexp is a compiled pattern, safe for concurrent use.
type Regexp struct {
	pattern string
	root    *node
	prog    *program
	names   map[string]int
	groups  int
	minLen  int

	re2Once sync.Once
	re2     *regexp.Regexp // nil: not for RE2
	re2Size int            // instructions, about
	dollar  bool
	look    bool
	slow    atomic.Bool // the matcher gave up before: begin with RE2
}

// Compile reads a pattern of java.util.regex. The error is a *SyntaxError.
func Compile(pattern string) (*Regexp, error) {
	root, groups, names, err := parse(pattern)
	if err != nil {
		return nil, err
	}
	low, _ := root.length()
	return &Regexp{
		pattern: pattern, root: root, names: names, groups: groups, minLen: low,
		prog: compileProgram(root, groups),
	}, nil
}

// String returns the pattern.
func (re *Regexp) String() string { return re.pattern }

// Groups returns the number of capturing groups.
func (re *Regexp) Groups() int { return re.groups }

// linear returns re for RE2, nil if it has none for this text.
func (re *Regexp) linear(text string) *regexp.Regexp {
	re.re2Once.Do(func() {
		w := re2Text{ok: true}
		w.write(re.root)
		if !w.ok {
			return
		}
		c, err := regexp.Compile(w.b.String())
		if err != nil {
			return
		}
		re.re2, re.dollar, re.look = c, w.dollar, w.look
		re.re2Size = re.root.weight()
	})
	if re.re2 == nil || re.re2Size*len(text) > maxLinear || re.dollar && endsInTerminator(text) {
		return nil
	}
	return re.re2
}

// weight is about the number of RE2's instructions for n.
func (n *node) weight() int {
	w := 1
	for _, s := range n.subs {
		w = min(w+s.weight(), maxCount)
	}
	switch n.kind {
	case nodeGroup:
		w += 2
	case nodeSet:
		// A set beyond ASCII is a handful of instructions; RE2 tests its ranges
		// one by one where it is large.
		w += len(n.set.ranges) / 64
	case nodeRepeat:
		times := n.min
		if n.max < maxCount {
			times = n.max
		}
		w = min(w*max(times, 1)+1, maxCount)
	}
	return w
}

// Match reports whether the pattern occurs anywhere in text.
func (re *Regexp) Match(text string) (bool, error) {
	_, _, ok, err := re.FindFirst(text)
	return ok, err
}

// FindFirst returns the bounds, in bytes, of the first match.
func (re *Regexp) FindFirst(text string) (from, to int, ok bool, err error) {
	if len(text) > maxCount {
		return 0, 0, false, ErrLimit
	}
	if re.slow.Load() {
		if lin := re.linear(text); lin != nil {
			return linearBounds(lin, text)
		}
	}
	o := gaveUp
	budgets := [2]int{trySteps + 4*len(text), maxSteps}
	for i, steps := range budgets {
		if i == 0 && steps >= maxSteps {
			continue
		}
		m := newMatcher(re.prog, text, steps)
		o = m.find(0)
		if o == matched {
			from, to = int(m.caps[0]), int(m.caps[1])
		}
		m.free()
		if o != gaveUp {
			return from, to, o == matched, nil
		}
		if lin := re.linear(text); lin != nil {
			re.slow.Store(true)
			return linearBounds(lin, text)
		}
	}
	return 0, 0, false, ErrLimit
}

func linearBounds(lin *regexp.Regexp, text string) (from, to int, ok bool, err error) {
	loc := lin.FindStringIndex(text)
	if loc == nil {
		return 0, 0, false, nil
	}
	return loc[0], loc[1], true, nil
}

// Replacement is a compiled replacement for one Regexp.
type Replacement struct {
	parts []part
	plain string // where all of it is text
	fixed bool
}

type part struct {
	text  string
	group int // -1: text
}

// CompileReplacement reads a replacement of Matcher.replaceAll: $n and ${name}
// are groups, a backslash takes what follows literally. The error is a
// *SyntaxError; a group the pattern does not have is one.
func (re *Regexp) CompileReplacement(repl string) (*Replacement, error) {
	if !strings.ContainsAny(repl, `\$`) {
		return &Replacement{plain: repl, fixed: true}, nil
	}
	fail := func(at int, msg string) (*Replacement, error) {
		return nil, &SyntaxError{Text: repl, Offset: len([]rune(repl[:min(at, len(repl))])), Msg: msg}
	}
	r := &Replacement{}
	var text strings.Builder
	group := func(n int) {
		if text.Len() > 0 {
			r.parts = append(r.parts, part{text: text.String(), group: -1})
			text.Reset()
		}
		r.parts = append(r.parts, part{group: n})
	}
	for i := 0; i < len(repl); i++ {
		switch c := repl[i]; {
		case c == '\\':
			if i++; i == len(repl) {
				return fail(i, "nothing follows the backslash")
			}
			text.WriteByte(repl[i])
		case c != '$':
			text.WriteByte(c)
		case i+1 < len(repl) && repl[i+1] == '{':
			from := i + 2
			end := from
			for end < len(repl) && isAlnum(rune(repl[end])) {
				end++
			}
			if end == from || !isAlpha(rune(repl[from])) {
				return fail(from, "expected a group name: a letter, then letters and digits")
			}
			if end == len(repl) || repl[end] != '}' {
				return fail(end, "expected } after the group name")
			}
			n, ok := re.names[repl[from:end]]
			if !ok {
				return fail(from, "the pattern has no group of this name")
			}
			group(n)
			i = end
		case i+1 < len(repl) && isDigit(rune(repl[i+1])):
			i++
			n := int(repl[i] - '0')
			if n > re.groups {
				return fail(i, "the pattern has no such group")
			}
			// Further digits count as long as they name a group.
			for i+1 < len(repl) && isDigit(rune(repl[i+1])) && n*10+int(repl[i+1]-'0') <= re.groups {
				i++
				n = n*10 + int(repl[i]-'0')
			}
			group(n)
		default:
			return fail(i+1, "expected a group number or {name} after $")
		}
	}
	if text.Len() > 0 {
		r.parts = append(r.parts, part{text: text.String(), group: -1})
	}
	return r, nil
}

// ReplaceAll compiles repl and replaces every match in text. The result has at
// most limit bytes.
func (re *Regexp) ReplaceAll(text, repl string, limit int) (string, error) {
	r, err := re.CompileReplacement(repl)
	if err != nil {
		return "", err
	}
	return re.Replace(text, r, limit)
}

// Replace replaces every match in text by r, which must have been compiled for
// re. The result has at most limit bytes: ErrTooLong. Text without a match is
// returned as it is.
func (re *Regexp) Replace(text string, r *Replacement, limit int) (string, error) {
	if len(text) > maxCount {
		return "", ErrLimit
	}
	if re.slow.Load() {
		if out, err := re.linearReplace(text, r, limit); err != ErrLimit {
			return out, err
		}
		return re.backtrackAll(text, r, limit, maxSteps)
	}
	if steps := trySteps + 4*len(text); steps < maxSteps {
		if out, err := re.backtrackAll(text, r, limit, steps); err != ErrLimit {
			return out, err
		}
		if out, err := re.linearReplace(text, r, limit); err != ErrLimit {
			re.slow.Store(true)
			return out, err
		}
	}
	return re.backtrackAll(text, r, limit, maxSteps)
}

// linearReplace is Replace by RE2, ErrLimit where that one cannot do it.
func (re *Regexp) linearReplace(text string, r *Replacement, limit int) (string, error) {
	lin := re.linearAll(text)
	if lin == nil {
		return "", ErrLimit
	}
	budget := maxLinear
	return replaceLoop(text, r, limit, func(pos int) (caps []int32, err error) {
		if budget -= (len(text) - pos) * re.re2Size; budget < 0 {
			return nil, ErrLimit
		}
		for _, i := range lin.FindStringSubmatchIndex(text[pos:]) {
			if i >= 0 {
				i += pos
			}
			caps = append(caps, int32(i))
		}
		return caps, nil
	})
}

// linearAll is linear for patterns that can be searched for in the rest of a
// text as in the whole of it, and never match nothing.
func (re *Regexp) linearAll(text string) *regexp.Regexp {
	lin := re.linear(text)
	if lin == nil || re.look || re.minLen == 0 {
		return nil
	}
	return lin
}

func (re *Regexp) backtrackAll(text string, r *Replacement, limit, steps int) (string, error) {
	m := newMatcher(re.prog, text, steps)
	defer m.free()
	return replaceLoop(text, r, limit, func(pos int) ([]int32, error) {
		switch m.find(pos) {
		case failed:
			return nil, nil
		case gaveUp:
			return nil, ErrLimit
		}
		m.last = int(m.caps[1])
		return m.caps, nil
	})
}

// replaceLoop goes from match to match as Matcher.find does: after an empty one
// it goes on a character later.
func replaceLoop(text string, r *Replacement, limit int, find func(pos int) ([]int32, error)) (string, error) {
	var out []byte
	done := 0
	for pos := 0; pos <= len(text); {
		caps, err := find(pos)
		if err != nil {
			return "", err
		}
		if caps == nil {
			break
		}
		from, to := int(caps[0]), int(caps[1])
		if out == nil {
			out = make([]byte, 0, min(limit, len(text)+len(text)/4+16))
		}
		out = append(out, text[done:from]...)
		out = r.expand(out, text, caps)
		if len(out) > limit {
			return "", ErrTooLong
		}
		done, pos = to, to
		if from == to {
			pos++
			for pos < len(text) && text[pos]&0xC0 == 0x80 {
				pos++
			}
		}
	}
	if out == nil {
		if len(text) > limit {
			return "", ErrTooLong
		}
		return text, nil
	}
	if len(out)+len(text)-done > limit {
		return "", ErrTooLong
	}
	return string(append(out, text[done:]...)), nil
}

func (r *Replacement) expand(out []byte, text string, caps []int32) []byte {
	if r.fixed {
		return append(out, r.plain...)
	}
	for _, p := range r.parts {
		if p.group < 0 {
			out = append(out, p.text...)
		} else if from, to := caps[2*p.group], caps[2*p.group+1]; from >= 0 && to >= from {
			out = append(out, text[from:to]...)
		}
	}
	return out
}

// Cache keeps the patterns compiled last, for patterns that come with the
// messages. Its zero value keeps none; make it with NewCache. It is safe for
// concurrent use.
type Cache struct {
	mu    sync.Mutex
	most  int
	young map[string]cached // guarded by mu; used since the last turn
	old   map[string]cached // guarded by mu; forgotten at the next turn
}

type cached struct {
	re  *Regexp
	err error
}

// NewCache returns a cache of at most 2n patterns.
func NewCache(n int) *Cache { return &Cache{most: n} }

// Get compiles pattern, or returns what doing so gave before.
func (c *Cache) Get(pattern string) (*Regexp, error) {
	c.mu.Lock()
	e, ok := c.young[pattern]
	if !ok {
		e, ok = c.old[pattern]
	}
	c.mu.Unlock()
	if !ok {
		e.re, e.err = Compile(pattern)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.young) >= c.most {
		c.old, c.young = c.young, nil
	}
	if c.young == nil {
		c.young = make(map[string]cached)
	}
	if c.most > 0 && len(pattern) <= maxPattern {
		c.young[pattern] = e
	}
	return e.re, e.err
}
