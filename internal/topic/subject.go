package topic

import (
	"errors"
	"strings"
)

// A level becomes a token. Letters, digits and everything else NATS takes stay
// as they are, so that a data team can read the subject; the rest is written as
// =XX, an empty level as a lone "=". The first token keeps $-topics apart, so
// that a filter with a leading wildcard cannot reach them:
//
//	a/b.c//d     m.a.b=2Ec.=.d
//	$aws/things  s.$aws.things

const hexDigits = "0123456789ABCDEF"

func escaped(c byte) bool {
	return c <= ' ' || c == 0x7f || c == '.' || c == '*' || c == '>' || c == '='
}

func root(s string) byte {
	if s != "" && s[0] == '$' {
		return 's'
	}
	return 'm'
}

// AppendSubject appends n's subject, without any stream prefix. The mapping is
// injective; ParseSubject reverses it.
func AppendSubject(b []byte, n Name) []byte {
	b = append(b, root(string(n)), '.')
	for rest, more := string(n), true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		b = appendLevel(b, level)
		if more {
			b = append(b, '.')
		}
	}
	return b
}

func appendLevel(b []byte, level string) []byte {
	if level == "" {
		return append(b, '=')
	}
	for i := 0; i < len(level); i++ {
		if c := level[i]; escaped(c) {
			b = append(b, '=', hexDigits[c>>4], hexDigits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

// FilterSubjects returns the one or two disjoint subject filters that match just
// what f matches in mode m.
func FilterSubjects(f Filter, m Mode) []string {
	b := []byte{root(string(f)), '.'}
	levels := strings.Split(string(f), "/")
	for i, l := range levels {
		if i > 0 {
			b = append(b, '.')
		}
		switch l {
		case "+":
			b = append(b, '*')
		case "#":
			below := string(append(b, '>'))
			if i == 0 || m == AWS {
				return []string{below}
			}
			return []string{string(b[:len(b)-1]), below}
		default:
			b = appendLevel(b, l)
		}
	}
	return []string{string(b)}
}

var errSubject = errors.New("not the subject of a topic")

// ParseSubject returns the name whose subject s is.
func ParseSubject(s string) (Name, error) {
	if len(s) < 3 || s[1] != '.' {
		return "", errSubject
	}
	b := make([]byte, 0, len(s))
	for i, t := range strings.Split(s[2:], ".") {
		if i > 0 {
			b = append(b, '/')
		}
		if t == "=" {
			continue
		}
		if t == "" {
			return "", errSubject
		}
		for j := 0; j < len(t); j++ {
			c := t[j]
			if c == '=' {
				if j+2 >= len(t) {
					return "", errSubject
				}
				hi, lo := strings.IndexByte(hexDigits, t[j+1]), strings.IndexByte(hexDigits, t[j+2])
				if hi < 0 || lo < 0 || !escaped(byte(hi<<4|lo)) {
					return "", errSubject
				}
				c = byte(hi<<4 | lo)
				j += 2
			} else if escaped(c) {
				return "", errSubject
			}
			b = append(b, c)
		}
	}
	if len(b) == 0 || root(string(b)) != s[0] {
		return "", errSubject
	}
	return Name(b), nil
}
