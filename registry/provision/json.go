package provision

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/errs"
)

// Error is a mistake in a template, with its place.
type Error struct {
	Line, Column int // from 1; 0: of the template as a whole
	Msg, Hint    string
	source       string // the line
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Msg
	}
	return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Msg)
}

// Detail returns the message with the line of the source, a mark below the
// place, and a hint where there is one.
func (e *Error) Detail() string {
	var b strings.Builder
	b.WriteString(e.Error())
	if e.Line > 0 {
		line, mark := e.source, e.Column-1
		if mark > 60 {
			cut := mark - 40
			r := []rune(line)
			line, mark = "…"+string(r[min(cut, len(r)):]), mark-cut+1
		}
		if r := []rune(line); len(r) > 100 {
			line = string(r[:100]) + "…"
		}
		fmt.Fprintf(&b, "\n  %s\n  %s^", strings.ReplaceAll(line, "\t", " "), strings.Repeat(" ", max(mark, 0)))
	}
	if e.Hint != "" {
		b.WriteString("\nhint: " + e.Hint)
	}
	return b.String()
}

// node is one JSON value with its place.
type node struct {
	at    int    // byte offset
	kind  byte   // '{', '[', 's', 'n', 'b' or '0' (null)
	text  string // of 's', 'n' and 'b'
	keys  []key
	items []*node
}

type key struct {
	name  string
	at    int
	value *node
}

func (n *node) get(name string) *node {
	for _, k := range n.keys {
		if k.name == name {
			return k.value
		}
	}
	return nil
}

// what names the kind of a value in messages.
func (n *node) what() string {
	switch n.kind {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case 's':
		return "a string"
	case 'n':
		return "a number"
	case 'b':
		return n.text
	}
	return "null"
}

// maxDepth bounds how deep a template nests.
const maxDepth = 32

// source is the text of a template while it is read.
type source struct {
	text string
	dec  *json.Decoder
}

// fail makes the error of a mistake at an offset.
func (s *source) fail(at int, hint, format string, args ...any) error {
	at = min(max(at, 0), len(s.text))
	start := strings.LastIndexByte(s.text[:at], '\n') + 1
	line := s.text[start:]
	if i := strings.IndexByte(line, '\n'); i >= 0 {
		line = line[:i]
	}
	return errs.E("provision.Compile", errs.Invalid, &Error{
		Line: strings.Count(s.text[:at], "\n") + 1, Column: utf8.RuneCountInString(s.text[start:at]) + 1,
		Msg: fmt.Sprintf(format, args...), Hint: hint, source: strings.TrimRight(line, "\r"),
	})
}

// parse reads one JSON value with nothing behind it. Names may not repeat.
func parse(text string) (*source, *node, error) {
	s := &source{text: text, dec: json.NewDecoder(strings.NewReader(text))}
	s.dec.UseNumber()
	for i, r := range text {
		if r != utf8.RuneError {
			continue
		}
		if _, n := utf8.DecodeRuneInString(text[i:]); n == 1 {
			return nil, nil, s.fail(i, "", "the template is not UTF-8")
		}
	}
	root, err := s.value(0)
	if err != nil {
		return nil, nil, err
	}
	at := s.next()
	if _, err := s.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, s.fail(at, "", "something follows the end of the template")
	}
	return s, root, nil
}

// next returns where the next token begins.
func (s *source) next() int {
	at := int(s.dec.InputOffset())
	for at < len(s.text) && strings.IndexByte(" \t\r\n,:", s.text[at]) >= 0 {
		at++
	}
	return at
}

func (s *source) token() (json.Token, int, error) {
	at := s.next()
	t, err := s.dec.Token()
	if err == nil {
		return t, at, nil
	}
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, 0, s.fail(int(syntax.Offset)-1, "", "not JSON: %s", syntax.Error())
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, 0, s.fail(len(s.text), "a bracket may be missing", "the template ends too early")
	}
	return nil, 0, s.fail(at, "", "not JSON: %v", err)
}

func (s *source) value(depth int) (*node, error) {
	t, at, err := s.token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, s.fail(at, "", "values nest deeper than %d", maxDepth)
	}
	n := &node{at: at}
	switch v := t.(type) {
	case string:
		n.kind, n.text = 's', v
	case json.Number:
		n.kind, n.text = 'n', v.String()
	case bool:
		n.kind, n.text = 'b', fmt.Sprint(v)
	case nil:
		n.kind = '0'
	case json.Delim:
		n.kind = byte(v)
		for s.dec.More() {
			var k key
			if v == '{' {
				name, at, err := s.token()
				if err != nil {
					return nil, err
				}
				k.name, k.at = name.(string), at
				if n.get(k.name) != nil {
					return nil, s.fail(at, "", "%q is there twice", clip(k.name))
				}
			}
			if k.value, err = s.value(depth + 1); err != nil {
				return nil, err
			}
			if v == '{' {
				n.keys = append(n.keys, k)
			} else {
				n.items = append(n.items, k.value)
			}
		}
		if _, _, err := s.token(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// clip shortens what is shown of a text.
func clip(s string) string {
	if r := []rune(s); len(r) > 64 {
		return string(r[:64]) + "…"
	}
	return s
}
