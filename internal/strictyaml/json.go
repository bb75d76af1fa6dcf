package strictyaml

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// json reads src, which is valid JSON.
func (f *file) json(src []byte) (*Node, error) {
	r := &jsonReader{file: f, d: json.NewDecoder(bytes.NewReader(src)), src: src, line: 1, column: 1}
	r.d.UseNumber()
	return r.value(0)
}

type jsonReader struct {
	*file
	d            *json.Decoder
	src          []byte
	from         int // what line and column stand for
	line, column int
}

// place moves to the next token and returns where it begins.
func (r *jsonReader) place() (line, column int) {
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
	return r.line, r.column
}

func (r *jsonReader) value(depth int) (*Node, error) {
	n := &Node{file: r.file}
	n.Line, n.Column = r.place()
	if r.left--; r.left < 0 {
		return nil, n.Errorf("", "more than %d values in one file", maxNodes)
	}
	if depth > maxDepth {
		return nil, n.Errorf("", "nested deeper than %d levels", maxDepth)
	}
	t, err := r.d.Token()
	if err != nil {
		return nil, n.Errorf("", "%v", err)
	}
	switch t := t.(type) {
	case bool:
		n.Kind, n.Text = Bool, strconv.FormatBool(t)
	case json.Number:
		n.Kind, n.Text = Number, string(t)
	case string:
		n.Kind, n.Text, n.Quoted = String, t, true
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
				line, column := r.place()
				key, err := r.d.Token()
				if err != nil {
					return nil, n.Errorf("", "%v", err)
				}
				v, err := r.value(depth + 1)
				if err != nil {
					return nil, err
				}
				name, _ := key.(string)
				if err := r.add(n, Field{name, line, column, v}); err != nil {
					return nil, err
				}
			}
		}
		if _, err := r.d.Token(); err != nil {
			return nil, n.Errorf("", "%v", err)
		}
	}
	return n, nil
}
