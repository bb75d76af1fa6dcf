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
)

const (
	// maxSteps bounds the work of a call: about 2 ms.
	maxSteps = 200_000
	// trySteps, and some for each byte, is what a pattern gets that RE2 can take
	// over.
	trySteps = 20_000

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

// Budget is the work several calls may take together, in steps of about 10 ns.
// A single call never takes more than about 2 ms, whatever is left; nil is a
// budget for one call.
type Budget struct{ Steps int }

// allow returns what one call may take.
func (b *Budget) allow() int {
	if b == nil {
		return maxSteps
	}
	return min(b.Steps, maxSteps)
}

func (b *Budget) take(n int) {
	if b != nil {
		b.Steps -= max(n, 1)
	}
}

// linear returns re for RE2, nil if it has none for this text or it would take
// more than allowed.
func (re *Regexp) linear(text string, allowed int) *regexp.Regexp {
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
	if re.re2 == nil || re.re2Size*len(text) > allowed || re.dollar && endsInTerminator(text) {
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
func (re *Regexp) Match(text string, b *Budget) (bool, error) {
	_, _, ok, err := re.FindFirst(text, b)
	return ok, err
}

// FindFirst returns the bounds, in bytes, of the first match.
func (re *Regexp) FindFirst(text string, b *Budget) (from, to int, ok bool, err error) {
	err = re.within(text, b, func(steps int) (left int, err error) {
		m := newMatcher(re.prog, text, steps)
		defer m.free()
		switch m.find(0) {
		case gaveUp:
			return m.steps, ErrLimit
		case matched:
			from, to, ok = int(m.caps[0]), int(m.caps[1]), true
		}
		return m.steps, nil
	}, func(left int) (int, error) {
		lin := re.linear(text, left)
		if lin == nil {
			return left, ErrLimit
		}
		if loc := lin.FindStringIndex(text); loc != nil {
			from, to, ok = loc[0], loc[1], true
		}
		return left - re.re2Size*len(text), nil
	})
	return from, to, ok, err
}

// within runs a search within b: by backtracking, then by RE2, then by
// backtracking with all that is left. Both return what they leave, ErrLimit
// where that did not do.
func (re *Regexp) within(text string, b *Budget, backtrack, linear func(steps int) (left int, err error)) error {
	if len(text) > maxCount {
		return ErrLimit
	}
	allowed := b.allow()
	left := allowed
	defer func() { b.take(allowed - left) }()
	try := min(allowed, trySteps+4*len(text))
	rest, err := backtrack(try)
	left -= try - rest
	if err != ErrLimit || left <= 0 {
		return err
	}
	if left, err = linear(left); err != ErrLimit || try == allowed {
		return err
	}
	left, err = backtrack(left)
	return err
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
func (re *Regexp) ReplaceAll(text, repl string, limit int, b *Budget) (string, error) {
	r, err := re.CompileReplacement(repl)
	if err != nil {
		return "", err
	}
	return re.Replace(text, r, limit, b)
}

// Replace replaces every match in text by r, which must have been compiled for
// re. The result has at most limit bytes: ErrTooLong. Text without a match is
// returned as it is.
func (re *Regexp) Replace(text string, r *Replacement, limit int, b *Budget) (out string, err error) {
	err = re.within(text, b, func(steps int) (left int, err error) {
		m := newMatcher(re.prog, text, steps)
		defer m.free()
		out, err = replaceLoop(text, r, limit, func(pos int) ([]int32, error) {
			switch m.find(pos) {
			case failed:
				return nil, nil
			case gaveUp:
				return nil, ErrLimit
			}
			m.last = int(m.caps[1])
			return m.caps, nil
		})
		return m.steps, err
	}, func(left int) (int, error) {
		lin := re.linear(text, left)
		if lin == nil || re.look || re.minLen == 0 {
			// The rest of a text is not like the whole; empty matches follow other rules.
			return left, ErrLimit
		}
		spent := 0
		out, err = replaceLoop(text, r, limit, func(pos int) (caps []int32, err error) {
			if spent += (len(text) - pos) * re.re2Size; spent > left {
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
		return left - min(spent, left), err
	})
	if err != nil {
		return "", err
	}
	return out, nil
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
