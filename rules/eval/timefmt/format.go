// Package timefmt formats and parses dates by pattern letters: those of
// Joda-Time's DateTimeFormat for formatting, those of java.time's
// DateTimeFormatter for parsing, as the rule language's parse_time and
// time_to_epoch have them.
//
// A pattern is compiled once and then used by any number of goroutines. Texts
// are English. Sources: Joda-Time 2, org.joda.time.format.DateTimeFormat; Java
// SE 11, java.time.format.DateTimeFormatter and DateTimeFormatterBuilder.
package timefmt

import (
	"fmt"
	"strconv"
	"time"
)

// maxPattern bounds a pattern, in bytes, and with it what a format gives.
const maxPattern = 256

// Format is a compiled pattern of Joda-Time.
type Format struct{ fields []formatField }

type formatField struct {
	letter byte // 0: text
	count  int
	text   string
}

// CompileFormat reads a pattern of Joda-Time.
func CompileFormat(pattern string) (*Format, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("pattern longer than %d bytes", maxPattern)
	}
	f := &Format{}
	text := ""
	flush := func() {
		if text != "" {
			f.fields = append(f.fields, formatField{text: text})
			text = ""
		}
	}
	for i := 0; i < len(pattern); {
		c := pattern[i]
		switch {
		case c == '\'':
			quoted, n := quotedText(pattern[i:])
			text += quoted
			i += n
		case isLetter(c):
			n := 1
			for i+n < len(pattern) && pattern[i+n] == c {
				n++
			}
			if !known(c, "GCYxwedEyDMahHkKmsSzZ") {
				return nil, fmt.Errorf("illegal pattern letter %q", c)
			}
			if n > 40 {
				return nil, fmt.Errorf("too many pattern letters %q", c)
			}
			flush()
			f.fields = append(f.fields, formatField{letter: c, count: n})
			i += n
		default:
			text += pattern[i : i+1]
			i++
		}
	}
	flush()
	return f, nil
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func known(c byte, letters string) bool {
	for i := range len(letters) {
		if letters[i] == c {
			return true
		}
	}
	return false
}

// quotedText reads a quoted text, quotes included, to its end or the
// pattern's; two quotes are one.
func quotedText(s string) (text string, n int) {
	if len(s) > 1 && s[1] == '\'' {
		return "'", 2
	}
	var b []byte
	for i := 1; i < len(s); i++ {
		if s[i] != '\'' {
			b = append(b, s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '\'' {
			b = append(b, '\'')
			i++
			continue
		}
		return string(b), i + 1
	}
	return string(b), len(s)
}

const maxMillis = 8_640_000_000_000_000 // 100 million days, either way

// Append appends the instant, in milliseconds since the epoch, as the zone's
// clock shows it. ok is false for an instant too far away.
func (f *Format) Append(b []byte, millis int64, zone *time.Location) (_ []byte, ok bool) {
	if millis < -maxMillis || millis > maxMillis {
		return b, false
	}
	t := time.UnixMilli(millis).In(zone)
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	for _, p := range f.fields {
		switch p.letter {
		case 0:
			b = append(b, p.text...)
		case 'G':
			if year > 0 {
				b = append(b, "AD"...)
			} else {
				b = append(b, "BC"...)
			}
		case 'C':
			b = appendPadded(b, yearOfEra(year)/100, p.count)
		case 'Y':
			b = appendYear(b, yearOfEra(year), p.count)
		case 'y':
			b = appendYear(b, year, p.count)
		case 'x':
			y, _ := t.ISOWeek()
			b = appendYear(b, y, p.count)
		case 'w':
			_, w := t.ISOWeek()
			b = appendPadded(b, w, p.count)
		case 'e':
			b = appendPadded(b, (int(t.Weekday())+6)%7+1, p.count)
		case 'E':
			b = appendName(b, t.Weekday().String(), p.count >= 4)
		case 'D':
			b = appendPadded(b, t.YearDay(), p.count)
		case 'M':
			if p.count < 3 {
				b = appendPadded(b, int(month), p.count)
			} else {
				b = appendName(b, month.String(), p.count >= 4)
			}
		case 'd':
			b = appendPadded(b, day, p.count)
		case 'a':
			b = append(b, "AP"[hour/12], 'M')
		case 'h':
			b = appendPadded(b, (hour+11)%12+1, p.count)
		case 'K':
			b = appendPadded(b, hour%12, p.count)
		case 'H':
			b = appendPadded(b, hour, p.count)
		case 'k':
			b = appendPadded(b, (hour+23)%24+1, p.count)
		case 'm':
			b = appendPadded(b, minute, p.count)
		case 's':
			b = appendPadded(b, second, p.count)
		case 'S':
			ms := t.Nanosecond() / 1e6
			digits := [3]byte{byte('0' + ms/100), byte('0' + ms/10%10), byte('0' + ms%10)}
			for i := range p.count {
				if i < 3 {
					b = append(b, digits[i])
				} else {
					b = append(b, '0')
				}
			}
		case 'z':
			b = appendZoneName(b, t, p.count >= 4)
		case 'Z':
			switch _, offset := t.Zone(); p.count {
			case 1, 2:
				b = appendOffset(b, offset, p.count == 2)
			default:
				b = append(b, zoneID(zone)...)
			}
		}
	}
	return b, true
}

func zoneID(zone *time.Location) string {
	if id := zone.String(); id != "" {
		return id
	}
	return "UTC"
}

func yearOfEra(year int) int {
	if year > 0 {
		return year
	}
	return 1 - year
}

// appendYear writes a year: two letters are its last two digits.
func appendYear(b []byte, year, count int) []byte {
	if count == 2 {
		return appendPadded(b, max(year, -year)%100, 2)
	}
	return appendPadded(b, year, count)
}

// appendPadded writes n with zeros in front, to at least width digits.
func appendPadded(b []byte, n, width int) []byte {
	if n < 0 {
		b = append(b, '-')
		n = -n
	}
	var digits [20]byte
	text := strconv.AppendInt(digits[:0], int64(n), 10)
	for i := len(text); i < width; i++ {
		b = append(b, '0')
	}
	return append(b, text...)
}

func appendName(b []byte, name string, full bool) []byte {
	if !full {
		name = name[:3]
	}
	return append(b, name...)
}
