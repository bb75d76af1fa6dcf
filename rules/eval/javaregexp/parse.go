package javaregexp

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxPattern = 8 << 10 // bytes of a pattern
	maxDepth   = 200     // groups within groups, classes within classes
	maxRanges  = 100_000 // ranges of all classes of a pattern together
	maxCount   = 1 << 30 // of a repetition and of a length, which saturate here
	maxGroups  = 1000    // capturing groups
)

// SyntaxError says what is wrong with a pattern or a replacement.
type SyntaxError struct {
	Text   string // the pattern or replacement
	Offset int    // characters before the fault, \Q…\E counted as escapes
	Msg    string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s (at character %d of %q)", e.Msg, e.Offset+1, e.Text)
}

type flags uint8

const (
	flagCase      flags = 1 << iota // i
	flagUnixLines                   // d
	flagMultiline                   // m
	flagDotAll                      // s
	flagFullCase                    // u
	flagComments                    // x
	flagUnicode                     // U
)

var flagOf = map[rune]flags{
	'i': flagCase, 'd': flagUnixLines, 'm': flagMultiline, 's': flagDotAll,
	'u': flagFullCase, 'x': flagComments, 'U': flagUnicode | flagFullCase,
}

type nodeKind uint8

const (
	nodeEmpty   nodeKind = iota
	nodeSet              // one character of set
	nodeConcat           // subs in order
	nodeAlt              // the first of subs that leads to a match
	nodeRepeat           // subs[0], min to max times
	nodeGroup            // subs[0], captured as group n
	nodeBackref          // what group n matched
	nodeAtomic           // subs[0], without giving back
	nodeAhead            // (?=…), (?!…)
	nodeBehind           // (?<=…), (?<!…)
	nodeAssert           // assert
)

type assertion uint8

const (
	assertBegin    assertion = iota // \A, ^
	assertEnd                       // \z
	assertDollar                    // $, \Z: at the end, or before the last line terminator
	assertDollarD                   // the same, "\n" the only terminator
	assertCaretM                    // (?m)^
	assertCaretMD                   // (?md)^
	assertDollarM                   // (?m)$
	assertDollarMD                  // (?md)$
	assertWord                      // \b
	assertNotWord                   // \B
	assertWordU                     // (?U)\b
	assertNotWordU                  // (?U)\B
	assertLast                      // \G
)

type mode uint8

const (
	greedy mode = iota
	lazy
	possessive
)

type node struct {
	kind     nodeKind
	mode     mode      // nodeRepeat
	negative bool      // nodeAhead, nodeBehind
	foldCase bool      // nodeBackref: without case
	foldFull bool      // nodeBackref: Unicode's cases
	assert   assertion // nodeAssert
	set      *charSet  // nodeSet
	subs     []*node
	min, max int // nodeRepeat; max maxCount: no bound
	n        int // nodeGroup, nodeBackref
}

type parser struct {
	pattern string
	src     []rune // with \Q…\E made escapes
	pos     int
	flags   flags
	groups  int // capturing groups opened so far, the whole match not counted
	names   map[string]int
	depth   int
	ranges  int
}

// parse reads a pattern as java.util.regex.Pattern does.
// Source: Java SE 11, java.util.regex.Pattern.
func parse(pattern string) (root *node, groups int, names map[string]int, err error) {
	p := &parser{pattern: pattern, names: map[string]int{}}
	defer func() {
		if e, ok := recover().(*SyntaxError); ok {
			root, err = nil, e
		} else if e != nil {
			panic(e)
		}
	}()
	if len(pattern) > maxPattern {
		p.fail("pattern longer than %d bytes", maxPattern)
	}
	if !utf8.ValidString(pattern) {
		p.fail("pattern is not UTF-8")
	}
	p.src = unquote([]rune(pattern))
	root = p.alternatives()
	if p.pos < len(p.src) {
		p.fail("unmatched )")
	}
	return root, p.groups, p.names, nil
}

func (p *parser) fail(format string, args ...any) {
	panic(&SyntaxError{Text: p.pattern, Offset: p.pos, Msg: fmt.Sprintf(format, args...)})
}

// unquote turns \Q…\E into escapes, everywhere, as Java does before it parses.
func unquote(src []rune) []rune {
	out := make([]rune, 0, len(src))
	for i := 0; i < len(src); i++ {
		if src[i] != '\\' || i+1 >= len(src) {
			out = append(out, src[i])
			continue
		}
		if src[i+1] != 'Q' {
			out = append(out, src[i], src[i+1])
			i++
			continue
		}
		for i += 2; i < len(src) && !(src[i] == '\\' && i+1 < len(src) && src[i+1] == 'E'); i++ {
			c := src[i]
			if c < 128 && !isAlnum(c) {
				out = append(out, '\\')
			}
			out = append(out, c)
		}
		i++
	}
	return out
}

func isDigit(c rune) bool { return '0' <= c && c <= '9' }
func isAlpha(c rune) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isAlnum(c rune) bool { return isDigit(c) || isAlpha(c) }

const eof rune = -1

// peek returns the next character, past white space and comments under (?x).
func (p *parser) peek() rune {
	if p.flags&flagComments != 0 {
		for p.pos < len(p.src) {
			switch c := p.src[p.pos]; {
			case c == ' ' || '\t' <= c && c <= '\r':
				p.pos++
			case c == '#':
				for p.pos < len(p.src) && !setTerminator.has(p.src[p.pos]) {
					p.pos++
				}
			default:
				return c
			}
		}
	}
	return p.raw()
}

// raw returns the next character as it stands.
func (p *parser) raw() rune {
	if p.pos < len(p.src) {
		return p.src[p.pos]
	}
	return eof
}

func (p *parser) rawAt(i int) rune {
	if p.pos+i < len(p.src) {
		return p.src[p.pos+i]
	}
	return eof
}

func (p *parser) enter() {
	if p.depth++; p.depth > maxDepth {
		p.fail("nested deeper than %d", maxDepth)
	}
}

// setNode makes the node of a set and counts its size.
func (p *parser) setNode(s *charSet) *node {
	p.count(s)
	return &node{kind: nodeSet, set: s}
}

func (p *parser) count(s *charSet) {
	if p.ranges += len(s.ranges); p.ranges > maxRanges {
		p.fail("character classes too large")
	}
}

func (p *parser) alternatives() *node {
	p.enter()
	defer func() { p.depth-- }()
	var alts []*node
	for {
		alts = append(alts, p.sequence())
		if p.peek() != '|' {
			break
		}
		p.pos++
	}
	if len(alts) == 1 {
		return alts[0]
	}
	return &node{kind: nodeAlt, subs: alts}
}

func (p *parser) sequence() *node {
	var subs []*node
	for {
		var n *node
		switch c := p.peek(); c {
		case eof, '|', ')':
			switch len(subs) {
			case 0:
				return &node{kind: nodeEmpty}
			case 1:
				return subs[0]
			}
			return &node{kind: nodeConcat, subs: subs}
		case '(':
			if n = p.group(); n == nil {
				continue
			}
		case '[':
			p.pos++
			n = p.setNode(p.class(true))
		case '\\':
			n = p.escape()
		case '^':
			p.pos++
			n = p.caret()
		case '$':
			p.pos++
			n = p.dollar()
		case '.':
			p.pos++
			switch {
			case p.flags&flagDotAll != 0:
				n = p.setNode(setAll)
			case p.flags&flagUnixLines != 0:
				n = p.setNode(setDotUnix)
			default:
				n = p.setNode(setDot)
			}
		case '*', '+', '?':
			p.fail("%c repeats nothing", c)
		case '{':
			// Java repeats the empty text here.
			n = &node{kind: nodeEmpty}
		default:
			p.pos++
			n = p.literal(c)
		}
		subs = append(subs, p.repeat(n))
	}
}

func (p *parser) literal(c rune) *node {
	return p.setNode(p.folded(setRange(c, c)))
}

func (p *parser) folded(s *charSet) *charSet {
	if p.flags&flagCase == 0 {
		return s
	}
	return fold(s, p.flags&flagFullCase != 0)
}

func (p *parser) caret() *node {
	a := assertBegin
	switch p.flags & (flagMultiline | flagUnixLines) {
	case flagMultiline:
		a = assertCaretM
	case flagMultiline | flagUnixLines:
		a = assertCaretMD
	}
	return &node{kind: nodeAssert, assert: a}
}

func (p *parser) dollar() *node {
	a := assertDollar
	switch p.flags & (flagMultiline | flagUnixLines) {
	case flagUnixLines:
		a = assertDollarD
	case flagMultiline:
		a = assertDollarM
	case flagMultiline | flagUnixLines:
		a = assertDollarMD
	}
	return &node{kind: nodeAssert, assert: a}
}

// repeat reads the quantifier behind n, if there is one.
func (p *parser) repeat(n *node) *node {
	r := &node{kind: nodeRepeat, subs: []*node{n}, max: maxCount}
	switch p.peek() {
	case '?':
		r.max = 1
		p.pos++
	case '*':
		p.pos++
	case '+':
		r.min = 1
		p.pos++
	case '{':
		p.pos++
		if !isDigit(p.raw()) {
			p.fail("illegal repetition: expected a number after {")
		}
		r.min = p.number()
		r.max = r.min
		if p.raw() == ',' {
			p.pos++
			r.max = maxCount
			if p.raw() != '}' {
				if !isDigit(p.raw()) {
					p.fail("illegal repetition: expected a number or } after the comma")
				}
				r.max = p.number()
			}
		}
		if p.raw() != '}' {
			p.fail("unclosed repetition: expected }")
		}
		if r.max < r.min {
			p.fail("illegal repetition: %d to %d times", r.min, r.max)
		}
		p.pos++
	default:
		return n
	}
	switch p.peek() {
	case '?':
		p.pos++
		r.mode = lazy
	case '+':
		p.pos++
		r.mode = possessive
	}
	return r
}

func (p *parser) number() int {
	n := 0
	for isDigit(p.raw()) {
		if n = n*10 + int(p.raw()-'0'); n >= maxCount {
			p.fail("illegal repetition: number too large")
		}
		p.pos++
	}
	return n
}

// group reads what begins with "(". It returns nil for flags alone, which stay
// on to the end of the enclosing group.
func (p *parser) group() *node {
	p.pos++
	save := p.flags
	var n *node
	if p.peek() != '?' {
		n = p.capture()
	} else {
		p.pos++
		c := p.raw()
		p.pos++
		switch c {
		case ':':
			n = p.body()
		case '=', '!':
			n = &node{kind: nodeAhead, negative: c == '!', subs: []*node{p.body()}}
		case '>':
			n = &node{kind: nodeAtomic, subs: []*node{p.body()}}
		case '<':
			c = p.raw()
			if c == '=' || c == '!' {
				p.pos++
				at := p.pos
				n = &node{kind: nodeBehind, negative: c == '!', subs: []*node{p.body()}}
				if n.subs[0].boundless() {
					p.pos = at
					p.fail("look-behind has no greatest length")
				}
				n.min, n.max = n.subs[0].length()
				break
			}
			name := p.name()
			if _, ok := p.names[name]; ok {
				p.fail("group %q is defined twice", name)
			}
			p.names[name] = p.groups + 1
			n = p.capture()
		default:
			p.pos--
			if p.inlineFlags() {
				return nil
			}
			n = p.body()
		}
	}
	p.flags = save
	return n
}

func (p *parser) capture() *node {
	if p.groups++; p.groups > maxGroups {
		p.fail("more than %d groups", maxGroups)
	}
	n := &node{kind: nodeGroup, n: p.groups}
	n.subs = []*node{p.body()}
	return n
}

func (p *parser) body() *node {
	n := p.alternatives()
	if p.peek() != ')' {
		p.fail("unclosed group: expected )")
	}
	p.pos++
	return n
}

// name reads a group's name and the > behind it.
func (p *parser) name() string {
	from := p.pos
	for isAlnum(p.raw()) && (p.pos > from || isAlpha(p.raw())) {
		p.pos++
	}
	if p.pos == from {
		p.fail("expected a group name: a letter, then letters and digits")
	}
	if p.raw() != '>' {
		p.fail("expected > after the group name")
	}
	p.pos++
	return string(p.src[from : p.pos-1])
}

// inlineFlags reads i-m: or i-m) and tells whether it was the latter.
func (p *parser) inlineFlags() bool {
	off := false
	for {
		c := p.raw()
		if c == eof {
			p.fail("unclosed group: expected )")
		}
		f, ok := flagOf[c]
		switch {
		case ok && off:
			p.flags &^= f
		case ok:
			p.flags |= f
		case c == '-' && !off:
			off = true
		case c == ')':
			p.pos++
			return true
		case c == ':':
			p.pos++
			return false
		default:
			p.fail("unknown group flag %q", c)
		}
		p.pos++
	}
}

// escape reads what begins with a backslash outside a class.
func (p *parser) escape() *node {
	p.pos++
	c := p.raw()
	if c == eof {
		p.fail("nothing follows the backslash")
	}
	assert := func(a assertion) *node {
		p.pos++
		return &node{kind: nodeAssert, assert: a}
	}
	unicodeWord := p.flags&flagUnicode != 0
	switch c {
	case 'A':
		return assert(assertBegin)
	case 'z':
		return assert(assertEnd)
	case 'Z':
		if p.flags&flagUnixLines != 0 {
			return assert(assertDollarD)
		}
		return assert(assertDollar)
	case 'G':
		return assert(assertLast)
	case 'b':
		if p.rawAt(1) == '{' && !isDigit(p.rawAt(2)) {
			p.fail(`\b{…} is not supported`)
		}
		if unicodeWord {
			return assert(assertWordU)
		}
		return assert(assertWord)
	case 'B':
		if unicodeWord {
			return assert(assertNotWordU)
		}
		return assert(assertNotWord)
	case 'R':
		p.pos++
		return &node{kind: nodeAlt, subs: []*node{
			{kind: nodeConcat, subs: []*node{p.setNode(setRange('\r', '\r')), p.setNode(setRange('\n', '\n'))}},
			p.setNode(setVertical),
		}}
	case 'X':
		p.fail(`\X is not supported`)
	case 'k':
		p.pos++
		if p.raw() != '<' {
			p.fail(`expected < after \k`)
		}
		p.pos++
		name := p.name()
		n, ok := p.names[name]
		if !ok {
			p.fail("no group named %q before here", name)
		}
		return p.backref(n)
	}
	if '1' <= c && c <= '9' {
		// As many digits belong to the number as name a group opened before.
		n := int(c - '0')
		for p.pos++; isDigit(p.raw()); p.pos++ {
			next := n*10 + int(p.raw()-'0')
			if next > p.groups {
				break
			}
			n = next
		}
		return p.backref(n)
	}
	if s := p.classEscape(); s != nil {
		return p.setNode(s)
	}
	return p.literal(p.charEscape())
}

func (p *parser) backref(n int) *node {
	return &node{kind: nodeBackref, n: n, foldCase: p.flags&flagCase != 0, foldFull: p.flags&flagFullCase != 0}
}

// classEscape reads the escape of a set of characters, \d or \p{…}, after the
// backslash; nil: it is none, nothing was read.
func (p *parser) classEscape() *charSet {
	c := p.raw()
	var s *charSet
	u := p.flags&flagUnicode != 0
	switch c {
	case 'd', 'D':
		s = setDigit
		if u {
			s = posix["Digit"].unicode()
		}
	case 'w', 'W':
		s = setWord
		if u {
			s = setUnicodeWord()
		}
	case 's', 'S':
		s = setSpace
		if u {
			s = posix["Space"].unicode()
		}
	case 'h', 'H':
		s = setHorizontal
	case 'v', 'V':
		s = setVertical
	case 'p', 'P':
		p.pos++
		s = p.property()
		if c == 'P' {
			s = negate(s)
		}
		return s
	default:
		return nil
	}
	p.pos++
	if unicode.IsUpper(c) {
		s = negate(s)
	}
	return s
}

// property reads what follows \p.
func (p *parser) property() *charSet {
	at := p.pos
	name := string(p.raw())
	if p.raw() == eof {
		p.fail(`nothing follows \p`)
	}
	p.pos++
	if name == "{" {
		from := p.pos
		for p.raw() != '}' {
			if p.raw() == eof {
				p.fail("unclosed property: expected }")
			}
			p.pos++
		}
		name = string(p.src[from:p.pos])
		p.pos++
	}
	key := name
	if p.flags&flagUnicode != 0 {
		key = "U:" + name
	}
	if p.flags&flagCase != 0 {
		// Without case, a property that tells the cases apart means both.
		switch name {
		case "Lu", "Ll", "Lt", "IsLu", "IsLl", "IsLt", "IsUppercase", "IsLowercase", "IsTitlecase", "javaUpperCase", "javaLowerCase", "javaTitleCase":
			name, key = "LC", "LC"
		case "Upper", "Lower":
			if name, key = "Alpha", "Alpha"; p.flags&flagUnicode != 0 {
				name, key = "LC", "LC"
			}
		}
	}
	s := propertySets.get(key)
	if s != nil {
		return s
	}
	s = lookupProperty(name, p.flags&flagUnicode != 0)
	if s == nil {
		p.pos = at
		p.fail("unknown character property %q", name)
	}
	propertySets.put(key, s)
	return s
}

func lookupProperty(name string, unicodeClasses bool) *charSet {
	if key, value, ok := strings.Cut(name, "="); ok {
		switch strings.ToLower(key) {
		case "sc", "script":
			return script(value)
		case "blk", "block":
			return block(value)
		case "gc", "general_category":
			return category(value)
		}
		return nil
	}
	if rest, ok := strings.CutPrefix(name, "In"); ok {
		return block(rest)
	}
	if rest, ok := strings.CutPrefix(name, "Is"); ok {
		if f, ok := binary[strings.ToUpper(rest)]; ok {
			return f()
		}
		if s := category(rest); s != nil {
			return s
		}
		return script(rest)
	}
	if c, ok := posix[name]; ok {
		if unicodeClasses {
			return c.unicode()
		}
		return c.ascii
	}
	if f, ok := javaClass[name]; ok {
		return f()
	}
	return category(name)
}

func category(name string) *charSet {
	switch name {
	case "all":
		return setAll
	case "L1":
		return setRange(0, 255)
	case "LC":
		return tableSet(unicode.Lu, unicode.Ll, unicode.Lt)
	case "LD":
		return tableSet(unicode.L, unicode.Nd)
	case "Cn":
		return unassigned()
	case "C":
		return union(tableSet(unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs), unassigned())
	}
	if t, ok := unicode.Categories[name]; ok && len(name) <= 2 {
		return tableSet(t)
	}
	return nil
}

func script(name string) *charSet {
	want := strings.ToLower(strings.ReplaceAll(name, "_", ""))
	for n, t := range unicode.Scripts {
		if strings.ToLower(strings.ReplaceAll(n, "_", "")) == want {
			return tableSet(t)
		}
	}
	return nil
}

func block(name string) *charSet {
	b, ok := blocks[strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(name))]
	if !ok {
		return nil
	}
	return setRange(b.lo, b.hi)
}

// charEscape reads the escape of one character after the backslash.
func (p *parser) charEscape() rune {
	c := p.raw()
	if c == eof {
		p.fail("nothing follows the backslash")
	}
	p.pos++
	switch c {
	case 'a':
		return '\a'
	case 'e':
		return 0x1B
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'c':
		x := p.raw()
		if x == eof {
			p.fail(`nothing follows \c`)
		}
		p.pos++
		return x ^ 64
	case '0':
		n := p.digits(8, 1, 2)
		if n <= 0o37 && '0' <= p.raw() && p.raw() <= '7' {
			n = n*8 + p.digits(8, 1, 1)
		}
		return n
	case 'x':
		if p.raw() != '{' {
			return p.digits(16, 2, 2)
		}
		p.pos++
		n := p.digits(16, 1, 8)
		if n > unicode.MaxRune {
			p.fail("no such character")
		}
		if p.raw() != '}' {
			p.fail("expected } after the hexadecimal number")
		}
		p.pos++
		return n
	case 'u':
		n := p.digits(16, 4, 4)
		if 0xD800 <= n && n < 0xDC00 && p.raw() == '\\' && p.rawAt(1) == 'u' {
			back := p.pos
			p.pos += 2
			if low := p.digits(16, 4, 4); 0xDC00 <= low && low < 0xE000 {
				return (n-0xD800)<<10 + (low - 0xDC00) + 0x10000
			}
			p.pos = back
		}
		return n
	}
	if isAlpha(c) {
		p.pos--
		p.fail(`unknown escape \%c`, c)
	}
	return c
}

// digits reads least to most digits of a base.
func (p *parser) digits(base rune, least, most int) rune {
	n := rune(0)
	for i := range most {
		c := p.raw()
		d := rune(99)
		switch {
		case isDigit(c):
			d = c - '0'
		case isAlpha(c):
			d = (c | 0x20) - 'a' + 10
		}
		if d >= base {
			if i < least {
				p.fail("expected %d digits of base %d", least, base)
			}
			break
		}
		if n > unicode.MaxRune {
			p.fail("no such character")
		}
		n = n*base + d
		p.pos++
	}
	return n
}

// class reads a character class after its "[", to the "]" that closes it;
// that one is read too if consume is set. A class without brackets, behind &&,
// leaves it.
func (p *parser) class(consume bool) *charSet {
	p.enter()
	defer func() { p.depth-- }()
	var set *charSet // nil: nothing yet
	negative := false
	if consume && p.raw() == '^' {
		negative = true
		p.pos++
	}
	add := func(s *charSet) {
		p.count(s)
		if set == nil {
			set = s
		} else {
			set = union(set, s)
			p.count(set)
		}
	}
	// Plain characters are gathered, so that a long class costs one union.
	var plain []runeRange
	flush := func() {
		if plain != nil {
			add(newSet(plain))
			plain = nil
		}
	}
	for {
		switch c := p.peek(); {
		case c == eof:
			p.fail("unclosed character class: expected ]")
		case c == '[':
			p.pos++
			add(p.class(true))
			continue
		case c == ']' && (set != nil || plain != nil):
			if consume {
				p.pos++
			}
			flush()
			if negative {
				set = negate(set)
			}
			return set
		case c == '&' && p.rawAt(1) == '&':
			flush()
			p.pos += 2
			var right *charSet
			for {
				c := p.peek()
				if c == ']' || c == '&' {
					break
				}
				if c == eof {
					p.fail("unclosed character class: expected ]")
				}
				var s *charSet
				if c == '[' {
					p.pos++
					s = p.class(true)
				} else {
					s = p.class(false)
				}
				if right == nil {
					right = s
				} else {
					right = union(right, s)
				}
			}
			switch {
			case right == nil && set == nil:
				p.fail("empty intersection in a character class")
			case right == nil:
			case set == nil:
				set = right
			default:
				set = intersect(set, right)
			}
			if set != nil {
				p.count(set)
			}
			continue
		}
		if s, lo, hi := p.classItem(); s != nil {
			add(s)
		} else if plain = append(plain, runeRange{lo, hi}); p.flags&flagCase != 0 {
			plain = nil
			add(p.folded(setRange(lo, hi)))
		}
	}
}

// classItem reads a set, or a character or range (set is nil).
func (p *parser) classItem() (set *charSet, lo, hi rune) {
	c := p.peek()
	p.pos++
	if c == '\\' {
		if s := p.classEscape(); s != nil {
			return s, 0, 0
		}
		c = p.charEscape()
	}
	if p.peek() != '-' {
		return nil, c, c
	}
	if end := p.rawAt(1); end == '[' || end == ']' {
		return nil, c, c
	}
	p.pos++
	end := p.peek()
	if end == eof {
		p.fail("unclosed character class: expected ]")
	}
	p.pos++
	if end == '\\' {
		end = p.charEscape()
	}
	if end < c {
		p.fail("illegal range: %q comes after %q", c, end)
	}
	return nil, c, end
}

// length returns the least and greatest number of characters n can match;
// maxCount: no bound.
func (n *node) length() (low, high int) {
	switch n.kind {
	case nodeSet:
		return 1, 1
	case nodeConcat:
		for _, s := range n.subs {
			l, h := s.length()
			low, high = min(low+l, maxCount), min(high+h, maxCount)
		}
	case nodeAlt:
		low = maxCount
		for _, s := range n.subs {
			l, h := s.length()
			low, high = min(low, l), max(high, h)
		}
	case nodeRepeat:
		l, h := n.subs[0].length()
		return times(l, n.min), times(h, n.max)
	case nodeGroup, nodeAtomic:
		return n.subs[0].length()
	case nodeBackref:
		return 0, maxCount
	}
	return low, high
}

// boundless reports whether Java refuses n in a look-behind: it takes only one
// character, or a set, repeated without bound.
func (n *node) boundless() bool {
	if n.kind == nodeBackref {
		return true
	}
	if n.kind == nodeRepeat && n.max == maxCount {
		if _, high := n.subs[0].length(); high > 1 {
			return true
		}
	}
	for _, s := range n.subs {
		if s.boundless() {
			return true
		}
	}
	return false
}

func times(a, b int) int {
	if a == 0 || b == 0 {
		return 0
	}
	if a >= maxCount || b >= maxCount || a > maxCount/b {
		return maxCount
	}
	return a * b
}
