package strictyaml

import (
	"strings"
	"unicode/utf8"
)

// Inside returns the byte of the source where byte off of n's text is written:
// behind quotes, escapes, folds and indentation. Where the two cannot be
// aligned it is the last place they could; of a Node that is no String it is
// Offset.
func (n *Node) Inside(off int) int {
	text, i, indent := n.file.text, n.Offset, 0
	if n.Kind != String {
		return i
	}
	skip := func() { // the indentation of a block's line
		for k := 0; k < indent && i < len(text) && text[i] == ' '; k++ {
			i++
		}
	}
	switch n.style {
	case double, single:
		i++
	case block:
		nl := strings.IndexByte(text[i:], '\n')
		if nl < 0 {
			return n.Offset
		}
		i += nl + 1
		for j := i; j < len(text); j++ { // of the first line with content
			if text[j] == '\n' {
				indent = 0
			} else if text[j] == ' ' {
				indent++
			} else if text[j] != '\r' {
				break
			}
		}
		skip()
	}
	v := n.Text
	for k := 0; k < off && k < len(v) && i < len(text); {
		c := text[i]
		switch {
		case c == '\r':
			i++
		case n.style == double && c == '\\':
			_, w := utf8.DecodeRuneInString(v[k:])
			i += escapeLen(text[i:], v[k:])
			k += w
		case n.style == single && strings.HasPrefix(text[i:], "''") && v[k] == '\'':
			i, k = i+2, k+1
		case n.style == block && c == '\n' && (v[k] == '\n' || v[k] == ' '):
			i, k = i+1, k+1
			skip()
		case n.style != block && c == '\n' && (v[k] == ' ' || v[k] == '\n'):
			for i < len(text) && strings.IndexByte(" \t\r\n", text[i]) >= 0 {
				i++
			}
			k++
		case c == v[k]:
			i, k = i+1, k+1
		default:
			return i
		}
	}
	return i
}

// escapeLen returns the length of the escape sequence raw begins with; value is
// what it stands for.
func escapeLen(raw, value string) int {
	if len(raw) < 2 {
		return 1
	}
	n := 2
	switch raw[1] {
	case 'u':
		n = 6
		if r, _ := utf8.DecodeRuneInString(value); r > 0xffff {
			n = 12
		}
	case 'U':
		n = 10
	case 'x':
		n = 4
	}
	return min(n, len(raw))
}
