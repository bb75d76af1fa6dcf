package javaregexp

import (
	"slices"
	"sync"
	"unicode"
)

// charSet is an immutable set of characters: sorted, disjoint, non-adjacent
// ranges, with a bitmap for ASCII.
type charSet struct {
	ascii  [2]uint64
	ranges []runeRange
}

type runeRange struct{ lo, hi rune }

func (s *charSet) has(r rune) bool {
	if r < 128 {
		return s.ascii[r>>6]&(1<<(r&63)) != 0
	}
	lo, hi := 0, len(s.ranges)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		switch {
		case r < s.ranges[m].lo:
			hi = m
		case r > s.ranges[m].hi:
			lo = m + 1
		default:
			return true
		}
	}
	return false
}

// single returns the one character of s.
func (s *charSet) single() (rune, bool) {
	if len(s.ranges) == 1 && s.ranges[0].lo == s.ranges[0].hi {
		return s.ranges[0].lo, true
	}
	return 0, false
}

// newSet makes a set of ranges in any order, which it may reuse.
func newSet(ranges []runeRange) *charSet {
	if !slices.IsSortedFunc(ranges, byLow) {
		slices.SortFunc(ranges, byLow)
	}
	s := &charSet{ranges: ranges[:0]}
	for _, r := range ranges {
		if n := len(s.ranges); n > 0 && r.lo <= s.ranges[n-1].hi+1 {
			s.ranges[n-1].hi = max(s.ranges[n-1].hi, r.hi)
			continue
		}
		s.ranges = append(s.ranges, r)
	}
	for _, r := range s.ranges {
		for c := r.lo; c <= r.hi && c < 128; c++ {
			s.ascii[c>>6] |= 1 << (c & 63)
		}
	}
	return s
}

func byLow(a, b runeRange) int { return int(a.lo) - int(b.lo) }

func setOf(chars string) *charSet {
	var ranges []runeRange
	for _, r := range chars {
		ranges = append(ranges, runeRange{r, r})
	}
	return newSet(ranges)
}

func setRange(pairs ...rune) *charSet {
	var ranges []runeRange
	for i := 0; i < len(pairs); i += 2 {
		ranges = append(ranges, runeRange{pairs[i], pairs[i+1]})
	}
	return newSet(ranges)
}

func union(sets ...*charSet) *charSet {
	var ranges []runeRange
	for _, s := range sets {
		if s != nil {
			ranges = append(ranges, s.ranges...)
		}
	}
	return newSet(ranges)
}

func negate(s *charSet) *charSet {
	ranges := make([]runeRange, 0, len(s.ranges)+1)
	next := rune(0)
	for _, r := range s.ranges {
		if next < r.lo {
			ranges = append(ranges, runeRange{next, r.lo - 1})
		}
		next = r.hi + 1
	}
	if next <= unicode.MaxRune {
		ranges = append(ranges, runeRange{next, unicode.MaxRune})
	}
	return newSet(ranges)
}

func intersect(a, b *charSet) *charSet {
	var ranges []runeRange
	for i, j := 0, 0; i < len(a.ranges) && j < len(b.ranges); {
		x, y := a.ranges[i], b.ranges[j]
		if lo, hi := max(x.lo, y.lo), min(x.hi, y.hi); lo <= hi {
			ranges = append(ranges, runeRange{lo, hi})
		}
		if x.hi < y.hi {
			i++
		} else {
			j++
		}
	}
	return newSet(ranges)
}

func tableSet(tables ...*unicode.RangeTable) *charSet {
	var ranges []runeRange
	add := func(lo, hi, stride rune) {
		if stride == 1 {
			ranges = append(ranges, runeRange{lo, hi})
			return
		}
		for c := lo; c <= hi; c += stride {
			ranges = append(ranges, runeRange{c, c})
		}
	}
	for _, t := range tables {
		for _, r := range t.R16 {
			add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
		}
		for _, r := range t.R32 {
			add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
		}
	}
	return newSet(ranges)
}

// cased lists the characters that have another case.
var cased = sync.OnceValue(func() []rune {
	var list []rune
	for _, t := range []*unicode.RangeTable{unicode.Lu, unicode.Ll, unicode.Lt, unicode.M, unicode.N, unicode.So} {
		for _, r := range tableSet(t).ranges {
			for c := r.lo; c <= r.hi; c++ {
				if unicode.SimpleFold(c) != c {
					list = append(list, c)
				}
			}
		}
	}
	return list
})

// fold adds to s the other cases of its characters: ASCII letters only, as
// Java has it, unless full asks for Unicode's simple folding.
func fold(s *charSet, full bool) *charSet {
	ranges := slices.Clone(s.ranges)
	if !full {
		for c := 'a'; c <= 'z'; c++ {
			if low, up := s.has(c), s.has(c-32); low != up {
				ranges = append(ranges, runeRange{c, c}, runeRange{c - 32, c - 32})
			}
		}
		return newSet(ranges)
	}
	add := func(c rune) {
		for f := unicode.SimpleFold(c); f != c; f = unicode.SimpleFold(f) {
			ranges = append(ranges, runeRange{f, f})
		}
	}
	if c, ok := s.single(); ok {
		add(c)
	} else {
		for _, c := range cased() {
			if s.has(c) {
				add(c)
			}
		}
	}
	return newSet(ranges)
}

var (
	setDigit      = setRange('0', '9')
	setWord       = setRange('0', '9', 'A', 'Z', '_', '_', 'a', 'z')
	setSpace      = setOf(" \t\n\v\f\r")
	setHorizontal = setRange(' ', ' ', '\t', '\t', 0xA0, 0xA0, 0x1680, 0x1680, 0x180E, 0x180E, 0x2000, 0x200A, 0x202F, 0x202F, 0x205F, 0x205F, 0x3000, 0x3000)
	setVertical   = setRange('\n', '\r', 0x85, 0x85, 0x2028, 0x2029)
	setTerminator = setRange('\n', '\n', '\r', '\r', 0x85, 0x85, 0x2028, 0x2029)
	setAll        = setRange(0, unicode.MaxRune)
	setDot        = negate(setTerminator)
	setDotUnix    = negate(setOf("\n"))

	setUnicodeWord = sync.OnceValue(func() *charSet {
		return union(tableSet(unicode.L, unicode.Nl, unicode.Other_Alphabetic, unicode.M, unicode.Nd, unicode.Pc, unicode.Join_Control))
	})
)

// posix are Java's POSIX classes: ASCII, unless (?U) asks for the second one.
var posix = map[string]struct {
	ascii   *charSet
	unicode func() *charSet
}{
	"Lower":  {setRange('a', 'z'), func() *charSet { return tableSet(unicode.Ll, unicode.Other_Lowercase) }},
	"Upper":  {setRange('A', 'Z'), func() *charSet { return tableSet(unicode.Lu, unicode.Other_Uppercase) }},
	"ASCII":  {setRange(0, 127), func() *charSet { return setRange(0, 127) }},
	"Alpha":  {setRange('A', 'Z', 'a', 'z'), alphabetic},
	"Digit":  {setDigit, func() *charSet { return tableSet(unicode.Nd) }},
	"Alnum":  {setRange('0', '9', 'A', 'Z', 'a', 'z'), func() *charSet { return union(alphabetic(), tableSet(unicode.Nd)) }},
	"Punct":  {setRange('!', '/', ':', '@', '[', '`', '{', '~'), func() *charSet { return tableSet(unicode.P) }},
	"Graph":  {setRange('!', '~'), graph},
	"Print":  {setRange(' ', '~'), func() *charSet { return union(graph(), tableSet(unicode.Zs)) }},
	"Blank":  {setOf(" \t"), func() *charSet { return union(tableSet(unicode.Zs), setOf("\t")) }},
	"Cntrl":  {setRange(0, 31, 127, 127), func() *charSet { return tableSet(unicode.Cc) }},
	"XDigit": {setRange('0', '9', 'A', 'F', 'a', 'f'), func() *charSet { return tableSet(unicode.Nd, unicode.Hex_Digit) }},
	"Space":  {setSpace, func() *charSet { return tableSet(unicode.White_Space) }},
}

func alphabetic() *charSet { return tableSet(unicode.L, unicode.Nl, unicode.Other_Alphabetic) }

func graph() *charSet {
	return negate(union(tableSet(unicode.White_Space, unicode.Cc, unicode.Cs), unassigned()))
}

func unassigned() *charSet {
	return negate(tableSet(unicode.L, unicode.M, unicode.N, unicode.P, unicode.S, unicode.Z, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs))
}

// binary are the properties after "Is".
var binary = map[string]func() *charSet{
	"ALPHABETIC":              alphabetic,
	"IDEOGRAPHIC":             func() *charSet { return tableSet(unicode.Ideographic) },
	"LETTER":                  func() *charSet { return tableSet(unicode.L) },
	"LOWERCASE":               posix["Lower"].unicode,
	"UPPERCASE":               posix["Upper"].unicode,
	"TITLECASE":               func() *charSet { return tableSet(unicode.Lt) },
	"PUNCTUATION":             func() *charSet { return tableSet(unicode.P) },
	"CONTROL":                 func() *charSet { return tableSet(unicode.Cc) },
	"WHITE_SPACE":             func() *charSet { return tableSet(unicode.White_Space) },
	"WHITESPACE":              func() *charSet { return tableSet(unicode.White_Space) },
	"DIGIT":                   func() *charSet { return tableSet(unicode.Nd) },
	"HEX_DIGIT":               func() *charSet { return tableSet(unicode.Nd, unicode.Hex_Digit) },
	"HEXDIGIT":                func() *charSet { return tableSet(unicode.Nd, unicode.Hex_Digit) },
	"NONCHARACTER_CODE_POINT": func() *charSet { return tableSet(unicode.Noncharacter_Code_Point) },
	"NONCHARACTERCODEPOINT":   func() *charSet { return tableSet(unicode.Noncharacter_Code_Point) },
	"JOIN_CONTROL":            func() *charSet { return tableSet(unicode.Join_Control) },
	"JOINCONTROL":             func() *charSet { return tableSet(unicode.Join_Control) },
	"ASSIGNED":                func() *charSet { return negate(unassigned()) },
}

// javaClass are the classes named after methods of java.lang.Character.
var javaClass = map[string]func() *charSet{
	"javaLowerCase":     posix["Lower"].unicode,
	"javaUpperCase":     posix["Upper"].unicode,
	"javaTitleCase":     func() *charSet { return tableSet(unicode.Lt) },
	"javaAlphabetic":    alphabetic,
	"javaIdeographic":   func() *charSet { return tableSet(unicode.Ideographic) },
	"javaDigit":         func() *charSet { return tableSet(unicode.Nd) },
	"javaDefined":       func() *charSet { return negate(unassigned()) },
	"javaLetter":        func() *charSet { return tableSet(unicode.L) },
	"javaLetterOrDigit": func() *charSet { return tableSet(unicode.L, unicode.Nd) },
	"javaSpaceChar":     func() *charSet { return tableSet(unicode.Z) },
	"javaWhitespace": func() *charSet {
		z := intersect(tableSet(unicode.Z), negate(setRange(0xA0, 0xA0, 0x2007, 0x2007, 0x202F, 0x202F)))
		return union(z, setRange('\t', '\r', 0x1C, 0x1F))
	},
	"javaISOControl": func() *charSet { return setRange(0, 0x1F, 0x7F, 0x9F) },
}

// blocks are the Unicode blocks people name in patterns. Names are compared
// without case, spaces, hyphens and underscores.
var blocks = map[string]runeRange{
	"basiclatin":                         {0x0000, 0x007F},
	"latin1supplement":                   {0x0080, 0x00FF},
	"latinextendeda":                     {0x0100, 0x017F},
	"latinextendedb":                     {0x0180, 0x024F},
	"ipaextensions":                      {0x0250, 0x02AF},
	"combiningdiacriticalmarks":          {0x0300, 0x036F},
	"greek":                              {0x0370, 0x03FF},
	"greekandcoptic":                     {0x0370, 0x03FF},
	"cyrillic":                           {0x0400, 0x04FF},
	"armenian":                           {0x0530, 0x058F},
	"hebrew":                             {0x0590, 0x05FF},
	"arabic":                             {0x0600, 0x06FF},
	"devanagari":                         {0x0900, 0x097F},
	"bengali":                            {0x0980, 0x09FF},
	"tamil":                              {0x0B80, 0x0BFF},
	"thai":                               {0x0E00, 0x0E7F},
	"georgian":                           {0x10A0, 0x10FF},
	"hanguljamo":                         {0x1100, 0x11FF},
	"greekextended":                      {0x1F00, 0x1FFF},
	"generalpunctuation":                 {0x2000, 0x206F},
	"superscriptsandsubscripts":          {0x2070, 0x209F},
	"currencysymbols":                    {0x20A0, 0x20CF},
	"letterlikesymbols":                  {0x2100, 0x214F},
	"numberforms":                        {0x2150, 0x218F},
	"arrows":                             {0x2190, 0x21FF},
	"mathematicaloperators":              {0x2200, 0x22FF},
	"boxdrawing":                         {0x2500, 0x257F},
	"geometricshapes":                    {0x25A0, 0x25FF},
	"miscellaneoussymbols":               {0x2600, 0x26FF},
	"dingbats":                           {0x2700, 0x27BF},
	"cjksymbolsandpunctuation":           {0x3000, 0x303F},
	"hiragana":                           {0x3040, 0x309F},
	"katakana":                           {0x30A0, 0x30FF},
	"cjkunifiedideographs":               {0x4E00, 0x9FFF},
	"hangulsyllables":                    {0xAC00, 0xD7AF},
	"halfwidthandfullwidthforms":         {0xFF00, 0xFFEF},
	"emoticons":                          {0x1F600, 0x1F64F},
	"miscellaneoussymbolsandpictographs": {0x1F300, 0x1F5FF},
}

// propertySets keeps the sets of \p{…}: they are large and often the same.
var propertySets propertyCache

type propertyCache struct {
	mu   sync.Mutex
	sets map[string]*charSet // guarded by mu; bounded, for names may be spelt in many ways
}

func (c *propertyCache) get(name string) *charSet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sets[name]
}

func (c *propertyCache) put(name string, s *charSet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sets == nil {
		c.sets = map[string]*charSet{}
	}
	if len(c.sets) < 256 {
		c.sets[name] = s
	}
}
