package actions

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-iot/weir/internal/suggest"
)

// FieldType is the JSON type of a Field.
type FieldType string

const (
	String FieldType = "string"
	Int    FieldType = "integer" // numbers without a fraction; their text as a string is accepted too
	Bool   FieldType = "boolean" // true, false; their text as a string is accepted too
	Object FieldType = "object"  // its members are Field.Fields; none: any
	List   FieldType = "list"    // of objects with Field.Fields, or of strings where there are none
)

// Field describes one key of an action's object. The reference and strict
// decoding come from it.
type Field struct {
	Name     string
	Type     FieldType
	Required bool
	Template bool   // ${…} is substituted
	Default  string // as the reference shows it; empty: none
	Values   []string
	Help     string
	Fields   []Field // of an Object or a List
}

// Decode checks raw strictly against fields, then unmarshals it into into, a
// pointer to a struct with json tags. Unknown keys, repeated keys, missing required keys
// and wrong types are a *FieldError; for an unknown key it names the nearest.
func Decode(raw json.RawMessage, fields []Field, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := checkObject(d, fields, nil)
	if err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return &FieldError{Offset: -1, Msg: "more than one value"}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return &FieldError{Offset: -1, Msg: err.Error(), Err: err}
	}
	if err := json.Unmarshal(b, into); err != nil {
		return &FieldError{Offset: -1, Msg: err.Error(), Err: err}
	}
	return nil
}

func checkObject(d *json.Decoder, fields []Field, path []string) (map[string]any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, &FieldError{Path: path, Offset: -1, Msg: "not JSON: " + err.Error(), Err: err}
	}
	if t != json.Delim('{') {
		return nil, wrongType(path, Object, t)
	}
	out := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, &FieldError{Path: path, Offset: -1, Msg: "not JSON: " + err.Error(), Err: err}
		}
		name, _ := t.(string)
		at := append(slices.Clone(path), name)
		i := slices.IndexFunc(fields, func(f Field) bool { return f.Name == name })
		if i < 0 {
			return nil, unknown(at, name, fields)
		}
		if _, ok := out[name]; ok {
			return nil, &FieldError{Path: at, Offset: -1, Msg: "the key comes twice"}
		}
		v, err := checkValue(d, fields[i], at)
		if err != nil {
			return nil, err
		}
		if v != nil { // null is as absent
			out[name] = v
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, &FieldError{Path: path, Offset: -1, Msg: "not JSON: " + err.Error(), Err: err}
	}
	for _, f := range fields {
		if _, ok := out[f.Name]; !ok && f.Required {
			return nil, &FieldError{Path: path, Offset: -1, Msg: fmt.Sprintf("the key %q is missing", f.Name), Hint: f.Help}
		}
	}
	return out, nil
}

func checkValue(d *json.Decoder, f Field, path []string) (any, error) {
	if f.Type == Object && len(f.Fields) > 0 {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, &FieldError{Path: path, Offset: -1, Msg: "not JSON: " + err.Error(), Err: err}
		}
		if string(bytes.TrimSpace(raw)) == "null" {
			return nil, nil
		}
		return checkObject(numbers(raw), f.Fields, path)
	}
	if f.Type == List {
		var items []json.RawMessage
		if err := d.Decode(&items); err != nil {
			return nil, &FieldError{Path: path, Offset: -1, Msg: "expected a list", Err: err}
		}
		out := make([]any, 0, len(items))
		for i, raw := range items {
			at := append(slices.Clone(path), strconv.Itoa(i))
			var v any
			var err error
			if len(f.Fields) > 0 {
				v, err = checkObject(numbers(raw), f.Fields, at)
			} else {
				v, err = checkValue(numbers(raw), Field{Type: String}, at)
			}
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	}
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, &FieldError{Path: path, Offset: -1, Msg: "not JSON: " + err.Error(), Err: err}
	}
	if v == nil {
		return nil, nil
	}
	switch f.Type {
	case String:
		s, ok := v.(string)
		if !ok {
			return nil, wrongType(path, f.Type, v)
		}
		if len(f.Values) > 0 && !slices.Contains(f.Values, s) {
			e := &FieldError{Path: path, Msg: fmt.Sprintf("%q is none of %s", s, strings.Join(f.Values, ", "))}
			if n, ok := suggest.Nearest(s, f.Values); ok {
				e.Hint = fmt.Sprintf("did you mean %q?", n)
			}
			return nil, e
		}
	case Int:
		s := fmt.Sprint(v)
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, wrongType(path, f.Type, v)
		}
		return n, nil
	case Bool:
		switch v {
		case true, "true":
			return true, nil
		case false, "false":
			return false, nil
		}
		return nil, wrongType(path, f.Type, v)
	case Object:
		if _, ok := v.(map[string]any); !ok {
			return nil, wrongType(path, f.Type, v)
		}
	}
	return v, nil
}

func numbers(raw json.RawMessage) *json.Decoder {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d
}

func wrongType(path []string, want FieldType, have any) error {
	what := "null"
	switch have.(type) {
	case string:
		what = "a string"
	case json.Number:
		what = "a number"
	case bool:
		what = "a boolean"
	case []any:
		what = "a list"
	case map[string]any:
		what = "an object"
	case json.Delim:
		what = "a list"
	}
	article := "a "
	if want == Int || want == Object {
		article = "an "
	}
	return &FieldError{Path: path, Offset: -1, Msg: "expected " + article + string(want) + ", found " + what}
}

func unknown(path []string, name string, fields []Field) error {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	e := &FieldError{Path: path, Offset: -1, Msg: fmt.Sprintf("unknown key %q", name)}
	if n, ok := suggest.Nearest(name, names); ok {
		e.Hint = fmt.Sprintf("did you mean %q?", n)
	} else if len(names) > 0 {
		e.Hint = "known are " + strings.Join(names, ", ")
	}
	return e
}
