package timefmt

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// Parse is a compiled pattern of java.time.
type Parse struct{ items []item }

// field is a field of a date or a time that a text can give.
type field uint8

const (
	fieldEra field = iota
	fieldYear
	fieldYearOfEra
	fieldQuarter
	fieldMonth
	fieldDay
	fieldDayOfYear
	fieldWeekYear
	fieldWeek
	fieldWeekOfMonth
	fieldDayOfWeek      // Monday is 1
	fieldLocalDayOfWeek // Sunday is 1
	fieldAlignedDay     // day within the weeks counted from the first of the month
	fieldHalfDay
	fieldHourOfHalf  // 0 to 11
	fieldClockOfHalf // 1 to 12; 0 is 12
	fieldHour        // 0 to 23; 24 for the end of a day
	fieldClock       // 1 to 24; 0 is 24
	fieldMinute
	fieldSecond
	fieldNano
	fieldMilliOfDay
	fieldNanoOfDay
	fieldOffset // seconds
	fields
)

// limits of the fields' values.
var limits = [fields][2]int64{
	fieldEra: {0, 1}, fieldYear: {-maxYear, maxYear}, fieldYearOfEra: {1, maxYear}, fieldQuarter: {1, 4}, fieldMonth: {1, 12},
	fieldDay: {1, 31}, fieldDayOfYear: {1, 366}, fieldWeekYear: {-maxYear, maxYear}, fieldWeek: {1, 53}, fieldWeekOfMonth: {0, 6},
	fieldDayOfWeek: {1, 7}, fieldLocalDayOfWeek: {1, 7}, fieldAlignedDay: {1, 7}, fieldHalfDay: {0, 1}, fieldHourOfHalf: {0, 11},
	fieldClockOfHalf: {0, 12}, fieldHour: {0, 24}, fieldClock: {0, 24}, fieldMinute: {0, 59}, fieldSecond: {0, 59},
	fieldNano: {0, 999_999_999}, fieldMilliOfDay: {0, 86_399_999}, fieldNanoOfDay: {0, 86_399_999_999_999}, fieldOffset: {-18 * 3600, 18 * 3600},
}

const maxYear = 200_000_000 // milliseconds of it fit an int64

type itemKind uint8

const (
	itemText itemKind = iota
	itemNumber
	itemFraction
	itemReduced // two digits of a year, 2000 to 2099
	itemName
	itemOffset
	itemLocalOffset // GMT+8
	itemZone        // an identifier
	itemZoneName    // a name, or an identifier
	itemOptional
	itemPad
)

type item struct {
	kind     itemKind
	field    field
	text     string // itemText; what an offset of zero may be written as
	min, max int    // digits; itemPad: width
	sign     signStyle
	fixed    bool // digits are exactly min
	after    int  // digits of the numbers directly behind, which this one leaves
	names    []string
	values   []int64
	pattern  int // itemOffset: index in offsetPatterns
	items    []item
}

type signStyle uint8

const (
	signNormal signStyle = iota // a minus is taken
	signNever
	signExceeds // a plus too, where there are more than min digits
)

var (
	shortMonths, longMonths []string
	shortDays, longDays     []string
	oneTo12                 = []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
)

func init() {
	for m := time.January; m <= time.December; m++ {
		longMonths = append(longMonths, m.String())
		shortMonths = append(shortMonths, m.String()[:3])
	}
	for d := range 7 { // Monday first
		name := time.Weekday((d + 1) % 7).String()
		longDays = append(longDays, name)
		shortDays = append(shortDays, name[:3])
	}
}

// CompileParse reads a pattern of java.time.
func CompileParse(pattern string) (*Parse, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("pattern longer than %d bytes", maxPattern)
	}
	c := &parseCompiler{pattern: pattern, open: [][]item{nil}, number: -1}
	if err := c.compile(); err != nil {
		return nil, err
	}
	for len(c.open) > 1 {
		c.closeOptional()
	}
	return &Parse{items: c.open[0]}, nil
}

type parseCompiler struct {
	pattern string
	open    [][]item // the items of the pattern and of each [ not yet closed
	number  int      // in the innermost: the number that digits directly behind belong to; -1: none
	pad     int      // width the next item is padded to
}

func (c *parseCompiler) add(it item) {
	if c.pad > 0 {
		it = item{kind: itemPad, max: c.pad, items: []item{it}}
		c.pad = 0
	}
	top := len(c.open) - 1
	c.open[top] = append(c.open[top], it)
	c.number = -1
}

// addNumber adds a number. One of fixed width directly behind another number
// takes its digits from that one's end.
func (c *parseCompiler) addNumber(it item) {
	padded := c.pad > 0
	active := c.number
	top := len(c.open) - 1
	fixedWidth := it.min == it.max && it.sign == signNever
	if active >= 0 && fixedWidth && !padded {
		it.fixed = true
		c.open[top][active].after += it.max
		c.add(it)
		c.number = active
		return
	}
	if active >= 0 {
		c.open[top][active].fixed = c.open[top][active].min == c.open[top][active].max || c.open[top][active].fixed
	}
	c.add(it)
	if !padded {
		c.number = len(c.open[top]) - 1
	}
}

func (c *parseCompiler) closeOptional() {
	top := len(c.open) - 1
	inner := c.open[top]
	c.open = c.open[:top]
	c.add(item{kind: itemOptional, items: inner})
}

func (c *parseCompiler) compile() error {
	p := c.pattern
	for i := 0; i < len(p); {
		ch := p[i]
		switch {
		case isLetter(ch):
			n := 1
			for i+n < len(p) && p[i+n] == ch {
				n++
			}
			i += n
			if ch == 'p' {
				if i == len(p) || !isLetter(p[i]) {
					return errors.New("pad letter p must stand before a field")
				}
				if c.pad > 0 {
					return errors.New("two pad letters in a row")
				}
				c.pad = n
				continue
			}
			if err := c.letter(ch, n); err != nil {
				return err
			}
		case ch == '\'':
			text, n := quotedText(p[i:])
			if p[i+n-1] != '\'' || n < 2 {
				return errors.New("unterminated quote")
			}
			i += n
			if text != "" {
				c.add(item{kind: itemText, text: text})
			}
		case ch == '[':
			if len(c.open) > 20 {
				return errors.New("optional parts nested deeper than 20")
			}
			c.open = append(c.open, nil)
			c.number = -1
			i++
		case ch == ']':
			if len(c.open) == 1 {
				return errors.New("] without [")
			}
			c.closeOptional()
			i++
		case ch == '{' || ch == '}' || ch == '#':
			return fmt.Errorf("%q is reserved in patterns", ch)
		default:
			c.add(item{kind: itemText, text: p[i : i+1]})
			i++
		}
	}
	return nil
}

// plainNumber is one with as many digits as there are, exactly the letters if
// they are more than one.
func plainNumber(f field, n int) item {
	if n == 1 {
		return item{kind: itemNumber, field: f, min: 1, max: 19}
	}
	return item{kind: itemNumber, field: f, min: n, max: n, sign: signNever}
}

var numberFields = map[byte]struct {
	field field
	most  int // letters
}{
	'd': {fieldDay, 2}, 'h': {fieldClockOfHalf, 2}, 'H': {fieldHour, 2}, 'k': {fieldClock, 2}, 'K': {fieldHourOfHalf, 2}, 'm': {fieldMinute, 2},
	's': {fieldSecond, 2}, 'F': {fieldAlignedDay, 1}, 'A': {fieldMilliOfDay, 19},
	'n': {fieldNano, 19}, 'N': {fieldNanoOfDay, 19},
}

var offsetPatterns = [...]string{"+HH", "+HHmm", "+HH:mm", "+HHMM", "+HH:MM", "+HHMMss", "+HH:MM:ss", "+HHMMSS", "+HH:MM:SS"}

func (c *parseCompiler) letter(ch byte, n int) error {
	tooMany := fmt.Errorf("too many pattern letters %q", ch)
	if f, ok := numberFields[ch]; ok {
		if n > f.most {
			return tooMany
		}
		c.addNumber(plainNumber(f.field, n))
		return nil
	}
	switch ch {
	case 'w':
		if n > 2 {
			return tooMany
		}
		c.addNumber(item{kind: itemNumber, field: fieldWeek, min: n, max: 2, sign: signNever})
	case 'W':
		if n > 1 {
			return tooMany
		}
		c.addNumber(item{kind: itemNumber, field: fieldWeekOfMonth, min: 1, max: 1, sign: signNever})
	case 'u', 'y', 'Y':
		f := map[byte]field{'u': fieldYear, 'y': fieldYearOfEra, 'Y': fieldWeekYear}[ch]
		switch {
		case n == 2:
			c.addNumber(item{kind: itemReduced, field: f, min: 2, max: 2, sign: signNever})
		case n < 4:
			c.addNumber(item{kind: itemNumber, field: f, min: n, max: 19})
		case n <= 19:
			c.addNumber(item{kind: itemNumber, field: f, min: n, max: 19, sign: signExceeds})
		default:
			return tooMany
		}
	case 'D':
		switch n {
		case 1:
			c.addNumber(plainNumber(fieldDayOfYear, 1))
		case 2, 3:
			c.addNumber(item{kind: itemNumber, field: fieldDayOfYear, min: n, max: 3, sign: signNever})
		default:
			return tooMany
		}
	case 'M', 'L', 'Q', 'q', 'E', 'e', 'c':
		return c.nameOrNumber(ch, n)
	case 'a':
		if n > 1 {
			return tooMany
		}
		c.add(item{kind: itemName, field: fieldHalfDay, names: []string{"AM", "PM"}, values: []int64{0, 1}})
	case 'G':
		names := []string{"BC", "AD"}
		switch {
		case n == 4:
			names = []string{"Before Christ", "Anno Domini"}
		case n == 5:
			names = []string{"B", "A"}
		case n > 5:
			return tooMany
		}
		c.add(item{kind: itemName, field: fieldEra, names: names, values: []int64{0, 1}})
	case 'S':
		if n > 9 {
			return tooMany
		}
		c.addNumber(item{kind: itemFraction, field: fieldNano, min: n, max: n, sign: signNever})
	case 'V':
		if n != 2 {
			return errors.New("pattern letter V must come twice")
		}
		c.add(item{kind: itemZone})
	case 'v':
		if n != 1 && n != 4 {
			return errors.New("pattern letter v must come once or four times")
		}
		c.add(item{kind: itemZoneName})
	case 'z':
		if n > 4 {
			return tooMany
		}
		c.add(item{kind: itemZoneName})
	case 'O':
		if n != 1 && n != 4 {
			return errors.New("pattern letter O must come once or four times")
		}
		c.add(item{kind: itemLocalOffset, min: n})
	case 'Z':
		switch {
		case n < 4:
			c.add(item{kind: itemOffset, pattern: 3, text: "+0000"})
		case n == 4:
			c.add(item{kind: itemLocalOffset, min: 4})
		case n == 5:
			c.add(item{kind: itemOffset, pattern: 6, text: "Z"})
		default:
			return tooMany
		}
	case 'X', 'x':
		if n > 5 {
			return tooMany
		}
		it := item{kind: itemOffset, text: "Z", pattern: n + 1}
		if n == 1 {
			it.pattern = 1
		}
		if ch == 'x' {
			it.text = map[int]string{1: "+00", 2: "+0000", 3: "+00:00", 4: "+0000", 5: "+00:00"}[n]
		}
		c.add(it)
	default:
		return fmt.Errorf("unknown pattern letter %q", ch)
	}
	return nil
}

func (c *parseCompiler) nameOrNumber(ch byte, n int) error {
	if n > 5 {
		return fmt.Errorf("too many pattern letters %q", ch)
	}
	if n == 5 {
		return fmt.Errorf("one-letter names (%q five times) cannot be told apart", ch)
	}
	f := map[byte]field{'M': fieldMonth, 'L': fieldMonth, 'Q': fieldQuarter, 'q': fieldQuarter, 'E': fieldDayOfWeek, 'e': fieldLocalDayOfWeek, 'c': fieldLocalDayOfWeek}[ch]
	if n < 3 && ch != 'E' {
		if ch == 'c' && n == 2 {
			return errors.New("pattern letter c must not come twice")
		}
		it := plainNumber(f, n)
		if f == fieldLocalDayOfWeek {
			it.max, it.sign = n, signNever
		}
		c.addNumber(it)
		return nil
	}
	it := item{kind: itemName, field: f, values: oneTo12}
	switch {
	case f == fieldMonth && n == 4:
		it.names = longMonths
	case f == fieldMonth:
		it.names = shortMonths
	case f == fieldQuarter && n == 4:
		it.names = []string{"1st quarter", "2nd quarter", "3rd quarter", "4th quarter"}
	case f == fieldQuarter:
		it.names = []string{"Q1", "Q2", "Q3", "Q4"}
	case n == 4:
		it.field, it.names = fieldDayOfWeek, longDays
	default:
		it.field, it.names = fieldDayOfWeek, shortDays
	}
	c.add(it)
	return nil
}

// parsed is what a text gave so far.
type parsed struct {
	has    [fields]bool
	values [fields]int64
	zone   *time.Location
}

// set records a value; ok is false where the text gave another one before.
func (s *parsed) set(f field, v int64) bool {
	if s.has[f] {
		return s.values[f] == v
	}
	s.has[f], s.values[f] = true, v
	return true
}

// Millis reads text and returns its instant in milliseconds since the epoch.
// ok is false for a text that does not fit the pattern, or gives no date, or no
// possible one. A text without time of day means midnight, one without zone
// UTC. As java.time's smart resolving has it, a day past its month's end is the
// last one, 24:00 is the next midnight, and a time that a zone skips moves on.
func (p *Parse) Millis(text string) (ms int64, ok bool) {
	if len(text) > 4*maxPattern {
		return 0, false
	}
	var s parsed
	n, ok := s.items(p.items, text, 0)
	if !ok || n != len(text) {
		return 0, false
	}
	return s.millis()
}

func (s *parsed) items(items []item, text string, pos int) (int, bool) {
	for i := range items {
		var ok bool
		if pos, ok = s.item(&items[i], text, pos); !ok {
			return 0, false
		}
	}
	return pos, true
}

func (s *parsed) item(it *item, text string, pos int) (int, bool) {
	switch it.kind {
	case itemText:
		return pos + len(it.text), strings.HasPrefix(text[pos:], it.text)
	case itemNumber, itemReduced:
		return s.number(it, text, pos)
	case itemFraction:
		end := pos + it.min
		if end > len(text) {
			return 0, false
		}
		v := int64(0)
		for i := pos; i < end; i++ {
			if !isDigit(text[i]) {
				return 0, false
			}
			v = v*10 + int64(text[i]-'0')
		}
		for range 9 - it.min {
			v *= 10
		}
		return end, s.set(it.field, v)
	case itemName:
		for i, name := range it.names {
			if strings.HasPrefix(text[pos:], name) {
				return pos + len(name), s.set(it.field, it.values[i])
			}
		}
		return 0, false
	case itemOffset:
		return s.offset(it, text, pos)
	case itemLocalOffset:
		if !strings.HasPrefix(text[pos:], "GMT") {
			return 0, false
		}
		pos += 3
		if pos == len(text) || text[pos] != '+' && text[pos] != '-' {
			return pos, s.set(fieldOffset, 0)
		}
		pattern := "+HH:MM:ss"
		if it.min < 4 {
			pattern = "+H:mm:ss"
		}
		seconds, n, ok := readOffset(pattern, text[pos:])
		return pos + n, ok && s.set(fieldOffset, seconds)
	case itemZone, itemZoneName:
		return s.zoneText(it.kind == itemZoneName, text, pos)
	case itemOptional:
		save := *s
		if n, ok := s.items(it.items, text, pos); ok {
			return n, true
		}
		*s = save
		return pos, true
	case itemPad:
		end := pos + it.max
		if end > len(text) {
			return 0, false
		}
		from := pos
		for from < end && text[from] == ' ' {
			from++
		}
		n, ok := s.item(&it.items[0], text[:end], from)
		return n, ok && n == end
	}
	return 0, false
}

func (s *parsed) number(it *item, text string, pos int) (int, bool) {
	negative, positive := false, false
	if pos < len(text) {
		switch text[pos] {
		case '+':
			if it.sign != signExceeds {
				return 0, false
			}
			positive = true
			pos++
		case '-':
			if it.sign == signNever {
				return 0, false
			}
			negative = true
			pos++
		}
	}
	most := it.max
	if it.fixed {
		most = it.min
	}
	end := pos
	for end < len(text) && end-pos < most+it.after && isDigit(text[end]) {
		end++
	}
	if it.after > 0 {
		// The digits at the end belong to the numbers behind.
		end = pos + max(it.min, end-pos-it.after)
	}
	if end-pos < it.min || end > len(text) {
		return 0, false
	}
	if end-pos > 18 {
		return 0, false
	}
	v := int64(0)
	for _, c := range []byte(text[pos:end]) {
		if !isDigit(c) {
			return 0, false
		}
		v = v*10 + int64(c-'0')
	}
	switch {
	case negative:
		if v == 0 {
			return 0, false
		}
		v = -v
	case it.sign == signExceeds && positive != (end-pos > it.min):
		return 0, false
	}
	if it.kind == itemReduced {
		v += 2000
	}
	return end, s.set(it.field, v)
}

func (s *parsed) offset(it *item, text string, pos int) (int, bool) {
	// The text of a zero offset comes first, even before a longer one.
	if strings.HasPrefix(text[pos:], it.text) {
		return pos + len(it.text), s.set(fieldOffset, 0)
	}
	seconds, n, ok := readOffset(offsetPatterns[it.pattern], text[pos:])
	return pos + n, ok && s.set(fieldOffset, seconds)
}

// readOffset reads an offset at the beginning of text. Of the pattern's parts
// the upper case ones must be there, the lower case ones may; a single H is one
// digit or two.
func readOffset(pattern, text string) (seconds int64, n int, ok bool) {
	if text == "" || text[0] != '+' && text[0] != '-' {
		return 0, 0, false
	}
	colon := strings.Contains(pattern, ":")
	n = 1
	for i, unit := range [...]string{"HH", "MM", "SS"} {
		must := strings.Contains(pattern, unit) || i == 0
		if !must && !strings.Contains(pattern, strings.ToLower(unit)) {
			break
		}
		at := n
		if i > 0 && colon {
			if at >= len(text) || text[at] != ':' {
				if must {
					return 0, 0, false
				}
				break
			}
			at++
		}
		var v int64
		switch {
		case at+2 <= len(text) && isDigit(text[at]) && isDigit(text[at+1]):
			v = int64(text[at]-'0')*10 + int64(text[at+1]-'0')
			n = at + 2
		case i == 0 && !strings.Contains(pattern, "HH") && at < len(text) && isDigit(text[at]):
			v = int64(text[at] - '0')
			n = at + 1
		case must:
			return 0, 0, false
		default:
			at = -1
		}
		if at < 0 {
			break
		}
		if i > 0 && v > 59 {
			return 0, 0, false
		}
		seconds += v * [...]int64{3600, 60, 1}[i]
	}
	if text[0] == '-' {
		seconds = -seconds
	}
	return seconds, n, true
}

func (s *parsed) zoneText(byName bool, text string, pos int) (int, bool) {
	rest := text[pos:]
	setZone := func(l *time.Location, n int) (int, bool) {
		if s.zone != nil && s.zone.String() != l.String() {
			return 0, false
		}
		s.zone = l
		return pos + n, true
	}
	if rest == "" {
		return 0, false
	}
	prefix := 0
	for _, p := range []string{"UTC", "GMT0", "GMT", "UT"} {
		if strings.HasPrefix(rest, p) {
			prefix = len(p)
			break
		}
	}
	if prefix > 0 || rest[0] == '+' || rest[0] == '-' {
		seconds, n, ok := readOffset("+HH:MM:ss", rest[prefix:])
		switch {
		case ok && seconds >= limits[fieldOffset][0] && seconds <= limits[fieldOffset][1]:
			return setZone(fixed(int(seconds)), prefix+n)
		case prefix > 0:
			return setZone(time.UTC, prefix)
		}
		return 0, false
	}
	if byName {
		best := ""
		for name := range zoneOf() {
			if len(name) > len(best) && strings.HasPrefix(rest, name) && (len(name) == len(rest) || isDigit(rest[len(name)]) || !zoneChar(rest[len(name)])) {
				best = name
			}
		}
		if best != "" {
			l, ok := Zone(zoneOf()[best])
			if !ok {
				return 0, false
			}
			return setZone(l, len(best))
		}
	}
	n := 0
	for n < len(rest) && zoneChar(rest[n]) {
		n++
	}
	// Punctuation and digits behind a name may belong to the pattern.
	for cut := n; cut > 0; cut-- {
		if cut < n && !strings.ContainsRune("/_+-0123456789", rune(rest[cut])) {
			continue
		}
		if l, ok := Zone(rest[:cut]); ok {
			return setZone(l, cut)
		}
	}
	return 0, false
}

// millis makes an instant of the fields.
func (s *parsed) millis() (int64, bool) {
	for f := range fields {
		if s.has[f] && (s.values[f] < limits[f][0] || s.values[f] > limits[f][1]) {
			return 0, false
		}
	}
	day, ok := s.date()
	if !ok {
		return 0, false
	}
	nanos, ok := s.timeOfDay()
	if !ok {
		return 0, false
	}
	local := day*86400 + nanos/1e9
	offset := int64(0)
	switch {
	case s.has[fieldOffset]:
		offset = s.values[fieldOffset]
	case s.zone != nil:
		offset = offsetAt(local, s.zone)
	}
	return (local-offset)*1000 + nanos%1e9/1e6, true
}

// offsetAt returns the offset of the zone where its clock shows local, seconds
// as if it were UTC: the earlier one where a clock set back shows it twice, the
// one before where a clock set forward skips it.
func offsetAt(local int64, zone *time.Location) int64 {
	at := func(unix int64) int64 {
		_, o := time.Unix(unix, 0).In(zone).Zone()
		return int64(o)
	}
	before := at(local - 86400)
	if at(local-before) == before {
		return before
	}
	if after := at(local + 86400); at(local-after) == after {
		return after
	}
	return before
}

// date returns days since the epoch.
func (s *parsed) date() (int64, bool) {
	year, hasYear := s.values[fieldYear], s.has[fieldYear]
	if s.has[fieldYearOfEra] {
		y := s.values[fieldYearOfEra]
		if s.has[fieldEra] && s.values[fieldEra] == 0 || !s.has[fieldEra] && hasYear && year <= 0 {
			y = 1 - y
		}
		if hasYear && y != year {
			return 0, false
		}
		year, hasYear = y, true
	}
	if s.has[fieldLocalDayOfWeek] && !s.set(fieldDayOfWeek, (s.values[fieldLocalDayOfWeek]+5)%7+1) {
		return 0, false
	}
	var t time.Time
	switch {
	case hasYear && s.has[fieldMonth] && s.has[fieldDay]:
		month := time.Month(s.values[fieldMonth])
		last := time.Date(int(year), month+1, 0, 0, 0, 0, 0, time.UTC).Day()
		t = time.Date(int(year), month, min(int(s.values[fieldDay]), last), 0, 0, 0, 0, time.UTC)
		s.values[fieldDay] = int64(t.Day())
	case hasYear && s.has[fieldDayOfYear]:
		t = time.Date(int(year), 1, int(s.values[fieldDayOfYear]), 0, 0, 0, 0, time.UTC)
		if t.Year() != int(year) {
			return 0, false
		}
	case s.has[fieldWeekYear] && s.has[fieldWeek] && s.has[fieldDayOfWeek]:
		t = weekStart(int(s.values[fieldWeekYear])).AddDate(0, 0, int(s.values[fieldWeek]-1)*7+int(s.values[fieldDayOfWeek]%7))
		if weekYear(t) != int(s.values[fieldWeekYear]) && s.values[fieldWeek] > 52 {
			return 0, false
		}
	default:
		return 0, false
	}
	// What else the text says of the date must be true.
	y := t.Year()
	yoe, era := int64(y), int64(1)
	if y <= 0 {
		yoe, era = int64(1-y), 0
	}
	first := time.Date(y, t.Month(), 1, 0, 0, 0, 0, time.UTC)
	for _, c := range [...]struct {
		f field
		v int64
	}{
		{fieldYear, int64(y)}, {fieldYearOfEra, yoe}, {fieldEra, era}, {fieldQuarter, int64(t.Month()-1)/3 + 1}, {fieldMonth, int64(t.Month())},
		{fieldDay, int64(t.Day())}, {fieldDayOfYear, int64(t.YearDay())}, {fieldDayOfWeek, int64(t.Weekday()+6)%7 + 1},
		{fieldAlignedDay, int64(t.Day()-1)%7 + 1}, {fieldWeekOfMonth, int64(t.Day()-1+int(first.Weekday()))/7 + 1},
		{fieldWeekYear, int64(weekYear(t))}, {fieldWeek, int64(t.Sub(weekStart(weekYear(t)))/(7*24*time.Hour)) + 1},
	} {
		if s.has[c.f] && s.values[c.f] != c.v {
			return 0, false
		}
	}
	return t.Unix() / 86400, t.Unix()%86400 == 0
}

// weekStart returns the Sunday of the week that holds January 1st: weeks are
// those of the United States.
func weekStart(year int) time.Time {
	t := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
	return t.AddDate(0, 0, -int(t.Weekday()))
}

func weekYear(t time.Time) int {
	if !t.Before(weekStart(t.Year() + 1)) {
		return t.Year() + 1
	}
	return t.Year()
}

// timeOfDay returns nanoseconds since midnight: 24 hours' worth at most.
func (s *parsed) timeOfDay() (int64, bool) {
	get := func(f field) (int64, bool) { return s.values[f], s.has[f] }
	hour, hasHour := get(fieldHour)
	merge := func(h int64) bool {
		if hasHour && hour != h {
			return false
		}
		hour, hasHour = h, true
		return true
	}
	if v, ok := get(fieldClock); ok && !merge(v%24) {
		return 0, false
	}
	half, hasHalf := get(fieldHalfDay)
	for _, f := range [...]field{fieldClockOfHalf, fieldHourOfHalf} {
		v, ok := get(f)
		if !ok {
			continue
		}
		if !hasHalf {
			if !hasHour || hour%12 != v%12 {
				return 0, false // which half of the day?
			}
			continue
		}
		if !merge(half*12 + v%12) {
			return 0, false
		}
	}
	if hasHalf && hasHour && hour/12 != half {
		return 0, false
	}
	minute, hasMinute := get(fieldMinute)
	second, hasSecond := get(fieldSecond)
	nano, hasNano := get(fieldNano)
	total := hour*3600e9 + minute*60e9 + second*1e9 + nano
	exact := int64(math.MinInt64)
	if v, ok := get(fieldNanoOfDay); ok {
		exact = v
	} else if v, ok := get(fieldMilliOfDay); ok {
		exact = v*1e6 + nano%1e6
	}
	switch {
	case exact >= 0:
		if hasHour && hour != exact/3600e9 || hasMinute && minute != exact/60e9%60 || hasSecond && second != exact/1e9%60 || hasNano && nano != exact%1e9 {
			return 0, false
		}
		return exact, true
	case !hasHour:
		return 0, !hasMinute && !hasSecond && !hasNano && !hasHalf
	case !hasMinute && (hasSecond || hasNano), hasMinute && !hasSecond && hasNano:
		return 0, false
	case hour == 24 && (minute != 0 || second != 0 || nano != 0):
		return 0, false
	}
	return total, true
}
