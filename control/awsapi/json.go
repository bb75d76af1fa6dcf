package awsapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a request's JSON; the deepest shape of the API
// has fewer levels.
const maxDepth = 64

// parseJSON reads one JSON value. Numbers are json.Number. Its cost is linear in
// len(b).
func parseJSON(b []byte) (any, error) {
	if !utf8.Valid(b) {
		return nil, &Error{Code: "SerializationException", Message: "the body is not UTF-8"}
	}
	if deeper(b, maxDepth) {
		return nil, &Error{Code: "SerializationException", Message: "the body is nested too deeply"}
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil // white space
		}
		return nil, &Error{Code: "SerializationException", Message: "the body is not JSON: " + clip(err.Error())}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, &Error{Code: "SerializationException", Message: "there is something behind the JSON of the body"}
	}
	return v, nil
}

// deeper reports whether b nests deeper than n, without reading it as JSON.
func deeper(b []byte, n int) bool {
	depth, text := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case text && c == '\\':
			i++
		case c == '"':
			text = !text
		case text:
		case c == '{' || c == '[':
			if depth++; depth > n {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}
