package kv

import (
	"errors"
	"strings"
)

// A key becomes a subject behind the bucket's prefix. Its dots separate tokens,
// so that a scan of "thing." is a subject filter; in a token every byte outside
// [-_A-Za-z0-9] is written =XX, and an empty token as a lone "=":
//
//	thing.a:b    thing.a=3Ab
//	a..b         a.=.b

// MaxKey bounds a key, in bytes: NATS bounds its control line to 4,096 bytes
// and a byte can take three.
const MaxKey = 1024

const hexDigits = "0123456789ABCDEF"

func plain(c byte) bool {
	return c == '-' || c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

func appendKey(b []byte, key string) []byte {
	for rest, more := key, true; more; {
		var token string
		token, rest, more = strings.Cut(rest, ".")
		if token == "" {
			b = append(b, '=')
		}
		for i := 0; i < len(token); i++ {
			if c := token[i]; plain(c) {
				b = append(b, c)
			} else {
				b = append(b, '=', hexDigits[c>>4], hexDigits[c&15])
			}
		}
		if more {
			b = append(b, '.')
		}
	}
	return b
}

var errSubject = errors.New("not the subject of a key")

func parseKey(s string) (string, error) {
	b := make([]byte, 0, len(s))
	for i, token := range strings.Split(s, ".") {
		if i > 0 {
			b = append(b, '.')
		}
		if token == "=" {
			continue
		}
		if token == "" {
			return "", errSubject
		}
		for j := 0; j < len(token); j++ {
			c := token[j]
			if c == '=' {
				if j+2 >= len(token) {
					return "", errSubject
				}
				hi, lo := strings.IndexByte(hexDigits, token[j+1]), strings.IndexByte(hexDigits, token[j+2])
				if hi < 0 || lo < 0 || plain(byte(hi<<4|lo)) || byte(hi<<4|lo) == '.' {
					return "", errSubject
				}
				c = byte(hi<<4 | lo)
				j += 2
			} else if !plain(c) {
				return "", errSubject
			}
			b = append(b, c)
		}
	}
	return string(b), nil
}

// prefixFilter returns the narrowest subject filter that covers all keys with
// the prefix: its whole tokens, and anything behind them. It is empty where that
// is the whole bucket: the store counts what a filter matches with every read,
// which takes milliseconds with 100,000 keys.
func prefixFilter(root, prefix string) string {
	i := strings.LastIndexByte(prefix, '.')
	if i < 0 {
		return ""
	}
	return string(appendKey([]byte(root), prefix[:i])) + ".>"
}
