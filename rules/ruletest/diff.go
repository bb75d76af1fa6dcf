package ruletest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/apd/v3"
)

// Difference is one place where a JSON value is not the expected one.
type Difference struct {
	Path string `json:"path"`           // a.b[2]; "" is the whole value
	Want string `json:"want,omitempty"` // JSON; "" where nothing is expected
	Got  string `json:"got,omitempty"`  // JSON; "" where there is nothing
}

func (d Difference) String() string {
	path := d.Path
	if path == "" {
		path = "value"
	}
	switch {
	case d.Want == "":
		return fmt.Sprintf("%s: not expected, got %s", path, d.Got)
	case d.Got == "":
		return fmt.Sprintf("%s: missing, want %s", path, d.Want)
	}
	return fmt.Sprintf("%s: want %s, got %s", path, d.Want, d.Got)
}

// diffJSON compares two JSON texts, numbers by value. With includes members that
// are not expected are passed over.
func diffJSON(want, got []byte, includes bool) []Difference {
	a, errA := decode(want)
	b, errB := decode(got)
	if errA != nil || errB != nil {
		if bytes.Equal(want, got) {
			return nil
		}
		return []Difference{{Want: shown(want), Got: shown(got)}}
	}
	return diff(nil, "", a, b, includes)
}

// shown is a text that need not be JSON.
func shown(b []byte) string {
	if json.Valid(b) {
		return string(b)
	}
	return strconv.Quote(string(b))
}

func decode(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err = d.Decode(&v); err == nil && d.More() {
		err = fmt.Errorf("more than one value")
	}
	return v, err
}

func diff(out []Difference, path string, want, got any, includes bool) []Difference {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			break
		}
		for _, k := range slices.Sorted(maps.Keys(w)) {
			v, ok := g[k]
			if !ok {
				out = append(out, Difference{Path: join(path, k), Want: text(w[k])})
				continue
			}
			out = diff(out, join(path, k), w[k], v, includes)
		}
		for _, k := range slices.Sorted(maps.Keys(g)) {
			if _, ok := w[k]; !ok && !includes {
				out = append(out, Difference{Path: join(path, k), Got: text(g[k])})
			}
		}
		return out
	case []any:
		g, ok := got.([]any)
		if !ok {
			break
		}
		for i := range max(len(w), len(g)) {
			at := fmt.Sprintf("%s[%d]", path, i)
			switch {
			case i >= len(g):
				out = append(out, Difference{Path: at, Want: text(w[i])})
			case i >= len(w):
				out = append(out, Difference{Path: at, Got: text(g[i])})
			default:
				out = diff(out, at, w[i], g[i], includes)
			}
		}
		return out
	case json.Number:
		if g, ok := got.(json.Number); ok && sameNumber(string(w), string(g)) {
			return out
		}
	default:
		if want == got {
			return out
		}
	}
	return append(out, Difference{Path: path, Want: text(want), Got: text(got)})
}

func join(path, name string) string {
	if name == "" || strings.ContainsAny(name, ".[]\" ") {
		return fmt.Sprintf("%s[%q]", path, name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func text(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimRight(b.String(), "\n")
}

// sameNumber compares two JSON numbers by value, all their digits.
func sameNumber(a, b string) bool {
	if a == b {
		return true
	}
	x, _, errA := apd.NewFromString(a)
	y, _, errB := apd.NewFromString(b)
	if errA != nil || errB != nil || huge(x) || huge(y) {
		return false
	}
	return x.Cmp(y) == 0
}

// huge numbers are compared by their text: to bring them to one exponent would
// fill the memory.
func huge(d *apd.Decimal) bool { return d.Exponent > 5000 || d.Exponent < -5000 }
