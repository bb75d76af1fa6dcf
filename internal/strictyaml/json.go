package strictyaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// json reads src, one JSON value.
func (f *file) json(src []byte) (*Node, error) {
	r := &jsonReader{file: f, d: json.NewDecoder(bytes.NewReader(src)), src: src, line: 1, column: 1}
	r.d.UseNumber()
	n, err := r.value(0)
	if err == nil {
		if _, extra := r.d.Token(); extra != io.EOF {
			return nil, f.errorAt(int(r.d.InputOffset())-1, "more than one JSON value")
		}
	}
	return n, err
}

func (f *file) errorAt(at int, format string, args ...any) *Error {
	line, column := f.lineColumn(max(0, min(at, len(f.text))))
	return f.errorf(line, column, "", format, args...)
}

type jsonReader struct {
	*file
	d            *json.Decoder
	src          []byte
	from         int // what line and column stand for
	line, column int
}

// place moves to the next token and returns where it begins.
func (r *jsonReader) place() (offset, line, column int) {
	to := int(r.d.InputOffset())
	for to < len(r.src) && bytes.IndexByte([]byte(" \t\r\n,:"), r.src[to]) >= 0 {
		to++
	}
	for r.from < to {
		c, n := utf8.DecodeRune(r.src[r.from:])
		r.from += n
		if r.column++; c == '\n' {
			r.line, r.column = r.line+1, 1
		}
	}
	return to, r.line, r.column
}

// token reads the next token; what the decoder refuses gets its place.
func (r *jsonReader) token() (json.Token, error) {
	t, err := r.d.Token()
	if err == nil {
		return t, nil
	}
	at := int(r.d.InputOffset())
	var se *json.SyntaxError
	if errors.As(err, &se) {
		// The decoder counts the offending character in, or does not.
		if at = int(se.Offset); at > 0 && !r.offends(err, at) && r.offends(err, at-1) {
			at--
		}
	}
	return nil, r.errorAt(at, "not JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
}

// offends reports whether the byte at at is the one err names.
func (r *jsonReader) offends(err error, at int) bool {
	return at < len(r.src) && strings.Contains(err.Error(), "character '"+string(r.src[at])+"'")
}

func (r *jsonReader) value(depth int) (*Node, error) {
	n := &Node{file: r.file}
	n.Offset, n.Line, n.Column = r.place()
	if r.left--; r.left < 0 {
		return nil, n.Errorf("", "more than %d values in one file", maxNodes)
	}
	if depth > maxDepth {
		return nil, n.Errorf("", "nested deeper than %d levels", maxDepth)
	}
	t, err := r.token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case bool:
		n.Kind, n.Text = Bool, strconv.FormatBool(t)
	case json.Number:
		n.Kind, n.Text = Number, string(t)
	case string:
		n.Kind, n.Text, n.style = String, t, double
	case json.Delim:
		if t == '[' {
			n.Kind = List
			for r.d.More() {
				item, err := r.value(depth + 1)
				if err != nil {
					return nil, err
				}
				n.Items = append(n.Items, item)
			}
		} else {
			n.Kind = Map
			for r.d.More() {
				offset, line, column := r.place()
				key, err := r.token()
				if err != nil {
					return nil, err
				}
				v, err := r.value(depth + 1)
				if err != nil {
					return nil, err
				}
				name, _ := key.(string)
				if err := r.add(n, Field{name, line, column, offset, v}); err != nil {
					return nil, err
				}
			}
		}
		if _, err := r.token(); err != nil {
			return nil, err
		}
	}
	return n, nil
}
