package localstore

import (
	"strings"
)

// Keys become file names that can be read back, on any file system:
//
//	a/b.json   a/b.json
//	../x       %2E%2E/x
//	a//b       a/%-/b        an empty level
//	a          a/%           where "a" is a folder, for there is a key a/…
//
// A level longer than maxName goes on in the folder "…%+". Escaped names hold
// '%' before two hex digits only, so the marks cannot be mistaken.
const (
	markOwn   = "%"  // the object whose key ends at this folder
	markEmpty = "%-" // an empty level
	markMore  = "%+" // suffix of a folder: the level goes on
	markMeta  = "%m" // suffix of an object's metadata file
	maxName   = 200
)

const hexDigits = "0123456789ABCDEF"

// keyPath returns the file names of key, the last one being the file's.
func keyPath(key string, escapeUpper bool) []string {
	var out []string
	for level := range strings.SplitSeq(key, "/") {
		if level == "" {
			out = append(out, markEmpty)
			continue
		}
		var b strings.Builder
		for i := range len(level) {
			c := level[i]
			plain := c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' && !escapeUpper ||
				strings.IndexByte("-_~!$&'()+,;=@#{}[]^", c) >= 0 ||
				(c == '.' || c == ' ') && i > 0 && i < len(level)-1
			w := 3
			if plain {
				w = 1
			}
			if b.Len()+w > maxName {
				out = append(out, b.String()+markMore)
				b.Reset()
			}
			if plain {
				b.WriteByte(c)
			} else {
				b.WriteByte('%')
				b.WriteByte(hexDigits[c>>4])
				b.WriteByte(hexDigits[c&15])
			}
		}
		out = append(out, b.String())
	}
	return out
}

// level reads one file name back. more: the level goes on in this folder.
func levelOf(name string) (text string, more, ok bool) {
	if name == markEmpty {
		return "", false, true
	}
	name, more = strings.CutSuffix(name, markMore)
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] != '%' {
			b.WriteByte(name[i])
			continue
		}
		if i+2 >= len(name) {
			return "", false, false
		}
		hi, lo := strings.IndexByte(hexDigits, name[i+1]), strings.IndexByte(hexDigits, name[i+2])
		if hi < 0 || lo < 0 {
			return "", false, false
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	return b.String(), more, b.Len() > 0
}
