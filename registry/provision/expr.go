package provision

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/suggest"
)

// expr is a compiled value of a template. Its values are string, json.Number,
// bool, nil, []any and map[string]any.
type expr interface {
	eval(*scope) (any, error)
}

// scope is one expansion.
type scope struct {
	params   map[string]string
	mappings map[string]map[string]map[string]any
	// strict holds while a policy is expanded: a value from outside must then be
	// one that cannot mean anything in a policy document or a resource.
	strict bool
	size   int // bytes of text made
}

// maxExpansion bounds the text an expansion makes.
const maxExpansion = 256 << 10

func refuse(format string, args ...any) error {
	return errs.Errorf("provision.Expand", errs.Invalid, format, args...)
}

func (s *scope) made(text string) (any, error) {
	if s.size += len(text); s.size > maxExpansion {
		return nil, refuse("the template expands to more than %d bytes", maxExpansion)
	}
	return text, nil
}

type literal struct{ v any }

func (l literal) eval(*scope) (any, error) { return l.v, nil }

type ref struct{ name string }

func (r ref) eval(s *scope) (any, error) {
	v, ok := s.params[r.name]
	if !ok {
		return nil, refuse("parameter %s has no value", clip(r.name))
	}
	if s.strict && !plain(v) {
		return nil, refuse("parameter %s is used in a policy: it may have letters, digits and :_.,@=- there, nothing else", clip(r.name))
	}
	return s.made(v)
}

// plain reports whether v can be put into a policy document and means itself
// there, whatever stands around it: no wildcard, no variable, no further level
// of a topic, no end of a JSON string.
func plain(v string) bool {
	for _, c := range []byte(v) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(":_.,@=-", c) >= 0) {
			return false
		}
	}
	return v != "" && !strings.Contains(v, "..")
}

type list []expr

func (l list) eval(s *scope) (any, error) {
	out := make([]any, 0, len(l))
	for _, e := range l {
		v, err := e.eval(s)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

type object []field

type field struct {
	name  string
	value expr
}

func (o object) eval(s *scope) (any, error) {
	out := make(map[string]any, len(o))
	for _, f := range o {
		v, err := f.value.eval(s)
		if err != nil {
			return nil, err
		}
		out[f.name] = v
	}
	return out, nil
}

// call is a function. Its arguments have been counted.
type call struct {
	name string
	args list
	sub  []piece // of Fn::Sub
	vars object  // of Fn::Sub
}

// piece is a part of Fn::Sub's text: what stands there, or a variable.
type piece struct {
	text string
	name string
}

func (c *call) eval(s *scope) (any, error) {
	if c.name == "Fn::Sub" {
		return c.substitute(s)
	}
	args := make([]any, len(c.args))
	for i, a := range c.args {
		v, err := a.eval(s)
		if err != nil {
			return nil, err
		}
		args[i] = v
	}
	str := func(i int) (string, error) {
		v, ok := args[i].(string)
		if !ok {
			return "", refuse("%s: argument %d must be a string", c.name, i+1)
		}
		return v, nil
	}
	items := func(i int) ([]any, error) {
		v, ok := args[i].([]any)
		if !ok {
			return nil, refuse("%s: argument %d must be a list", c.name, i+1)
		}
		return v, nil
	}
	switch c.name {
	case "Fn::Join":
		delim, err := str(0)
		if err != nil {
			return nil, err
		}
		values, err := items(1)
		if err != nil {
			return nil, err
		}
		parts := make([]string, len(values))
		n := 0
		for i, v := range values {
			p, ok := v.(string)
			if !ok {
				return nil, refuse("Fn::Join joins strings; value %d is none", i+1)
			}
			parts[i] = p
			if n += len(p) + len(delim); n > maxExpansion {
				return nil, refuse("the template expands to more than %d bytes", maxExpansion)
			}
		}
		return s.made(strings.Join(parts, delim))
	case "Fn::Select":
		var index int
		var err error
		switch v := args[0].(type) {
		case string:
			index, err = strconv.Atoi(v)
		case json.Number:
			index, err = strconv.Atoi(v.String())
		default:
			return nil, refuse("Fn::Select: the index must be a number")
		}
		if err != nil {
			return nil, refuse("Fn::Select: the index must be a whole number")
		}
		values, err := items(1)
		if err != nil {
			return nil, err
		}
		if index < 0 || index >= len(values) || values[index] == nil {
			return nil, refuse("Fn::Select: there is no value %d in a list of %d", index, len(values))
		}
		return values[index], nil
	case "Fn::Split":
		delim, err := str(0)
		if err != nil {
			return nil, err
		}
		v, err := str(1)
		if err != nil {
			return nil, err
		}
		if delim == "" {
			return nil, refuse("Fn::Split: the delimiter is empty")
		}
		if _, err := s.made(v); err != nil {
			return nil, err
		}
		parts := strings.Split(v, delim)
		out := make([]any, len(parts))
		for i, p := range parts {
			out[i] = p
		}
		return out, nil
	case "Fn::FindInMap":
		var names [3]string
		for i := range names {
			var err error
			if names[i], err = str(i); err != nil {
				return nil, err
			}
		}
		v, ok := s.mappings[names[0]][names[1]][names[2]]
		if !ok {
			return nil, refuse("Fn::FindInMap: mapping %q has no %q in %q", clip(names[0]), clip(names[2]), clip(names[1]))
		}
		return v, nil
	}
	return nil, refuse("%s is not a function", c.name)
}

func (c *call) substitute(s *scope) (any, error) {
	vars := map[string]string{}
	for _, f := range c.vars {
		v, err := f.value.eval(s)
		if err != nil {
			return nil, err
		}
		t, ok := v.(string)
		if !ok {
			return nil, refuse("Fn::Sub: the variable %s must be a string", f.name)
		}
		vars[f.name] = t
	}
	var b strings.Builder
	for _, p := range c.sub {
		if p.name == "" {
			b.WriteString(p.text)
			continue
		}
		v, ok := vars[p.name]
		if !ok {
			t, err := (ref{p.name}).eval(s)
			if err != nil {
				return nil, err
			}
			v = t.(string)
		}
		b.WriteString(v)
		if b.Len() > maxExpansion {
			return nil, refuse("the template expands to more than %d bytes", maxExpansion)
		}
	}
	return s.made(b.String())
}

// arity has the functions and how many arguments they take.
var arity = map[string]int{"Fn::Join": 2, "Fn::Select": 2, "Fn::Split": 2, "Fn::FindInMap": 3, "Fn::Sub": 0}

var functionNames = []string{"Ref", "Fn::Join", "Fn::Select", "Fn::FindInMap", "Fn::Split", "Fn::Sub"}

// function reports whether n is an object that calls a function.
func function(n *node) bool {
	return n.kind == '{' && len(n.keys) == 1 && (n.keys[0].name == "Ref" || strings.HasPrefix(n.keys[0].name, "Fn::"))
}

// expr compiles a value.
func (c *compiler) expr(n *node) (expr, error) {
	switch n.kind {
	case 's':
		return literal{n.text}, nil
	case 'n':
		return literal{json.Number(n.text)}, nil
	case 'b':
		return literal{n.text == "true"}, nil
	case '0':
		return literal{nil}, nil
	case '[':
		return c.list(n)
	}
	if function(n) {
		return c.call(n.keys[0])
	}
	o := make(object, 0, len(n.keys))
	for _, k := range n.keys {
		if strings.HasPrefix(k.name, "Fn::") || k.name == "Ref" {
			return nil, c.fail(k.at, "a function stands alone in its object", "%s beside other members", clip(k.name))
		}
		v, err := c.expr(k.value)
		if err != nil {
			return nil, err
		}
		o = append(o, field{k.name, v})
	}
	return o, nil
}

func (c *compiler) list(n *node) (list, error) {
	l := make(list, 0, len(n.items))
	for _, i := range n.items {
		e, err := c.expr(i)
		if err != nil {
			return nil, err
		}
		l = append(l, e)
	}
	return l, nil
}

func (c *compiler) call(k key) (expr, error) {
	if k.name == "Ref" {
		if k.value.kind != 's' {
			return nil, c.fail(k.value.at, "", "Ref names a parameter, found %s", k.value.what())
		}
		return ref{k.value.text}, c.known(k.value.text, k.value.at)
	}
	want, ok := arity[k.name]
	if !ok {
		hint := "there are " + strings.Join(functionNames, ", ")
		if near, ok := suggest.Nearest(k.name, functionNames); ok {
			hint = "did you mean " + near + "?"
		}
		return nil, c.fail(k.at, hint, "%s is not a function", clip(k.name))
	}
	if k.name == "Fn::Sub" {
		return c.sub(k)
	}
	if k.value.kind != '[' || len(k.value.items) != want {
		return nil, c.fail(k.value.at, "", "%s takes a list of %d arguments", k.name, want)
	}
	args, err := c.list(k.value)
	if err != nil {
		return nil, err
	}
	out := &call{name: k.name, args: args}
	at := func(i int) int { return k.value.items[i].at }
	isText := func(i int) bool { return k.value.items[i].kind == 's' || function(k.value.items[i]) }
	isList := func(i int) bool { return k.value.items[i].kind == '[' || function(k.value.items[i]) }
	switch k.name {
	case "Fn::Join", "Fn::Split":
		if k.value.items[0].kind != 's' {
			return nil, c.fail(at(0), "", "%s: the delimiter must be a string, found %s", k.name, k.value.items[0].what())
		}
		if k.name == "Fn::Split" && k.value.items[0].text == "" {
			return nil, c.fail(at(0), "", "Fn::Split: the delimiter is empty")
		}
		if k.name == "Fn::Join" && !isList(1) {
			return nil, c.fail(at(1), "", "Fn::Join joins a list, found %s", k.value.items[1].what())
		}
		if k.name == "Fn::Split" && !isText(1) {
			return nil, c.fail(at(1), "", "Fn::Split splits a string, found %s", k.value.items[1].what())
		}
	case "Fn::Select":
		first, second := k.value.items[0], k.value.items[1]
		if first.kind == 's' || first.kind == 'n' {
			i, err := strconv.Atoi(first.text)
			if err != nil || i < 0 {
				return nil, c.fail(first.at, "the first value has index 0", "Fn::Select: %q is no index", clip(first.text))
			}
			if second.kind == '[' && i >= len(second.items) {
				return nil, c.fail(first.at, "the first value has index 0", "Fn::Select: index %d in a list of %d", i, len(second.items))
			}
		} else if !function(first) {
			return nil, c.fail(first.at, "", "Fn::Select: the index must be a number, found %s", first.what())
		}
		if !isList(1) {
			return nil, c.fail(second.at, "", "Fn::Select selects from a list, found %s", second.what())
		}
	case "Fn::FindInMap":
		names := c.mappingNames()
		m := c.t.mappings
		var keys map[string]map[string]any
		for i, a := range k.value.items {
			switch {
			case a.kind == 's' && i == 0:
				if keys = m[a.text]; keys == nil {
					hint := "there are no Mappings"
					if len(names) > 0 {
						hint = "there are " + strings.Join(names, ", ")
					}
					return nil, c.fail(a.at, hint, "there is no mapping %q", clip(a.text))
				}
			case a.kind == 's' && i == 1 && keys != nil:
				inner, ok := keys[a.text]
				if !ok {
					return nil, c.fail(a.at, "", "the mapping has no key %q", clip(a.text))
				}
				if last := k.value.items[2]; last.kind == 's' {
					if _, ok := inner[last.text]; !ok {
						return nil, c.fail(last.at, "", "the mapping has no %q in %q", clip(last.text), clip(a.text))
					}
				}
			case a.kind != 's' && !function(a):
				return nil, c.fail(a.at, "", "Fn::FindInMap takes names, found %s", a.what())
			}
		}
	}
	return out, nil
}

// sub compiles Fn::Sub: a text, or a text and variables of its own.
func (c *compiler) sub(k key) (expr, error) {
	n, out := k.value, &call{name: k.name}
	var vars *node
	if n.kind == '[' && len(n.items) == 2 {
		n, vars = n.items[0], n.items[1]
	}
	if n.kind != 's' || vars != nil && vars.kind != '{' {
		return nil, c.fail(k.value.at, `as in {"Fn::Sub": ["${Name}-1", {"Name": {"Ref": "ThingName"}}]}`, "Fn::Sub takes a string, or a list of a string and an object")
	}
	own := map[string]bool{}
	if vars != nil {
		for _, v := range vars.keys {
			e, err := c.expr(v.value)
			if err != nil {
				return nil, err
			}
			own[v.name] = true
			out.vars = append(out.vars, field{v.name, e})
		}
	}
	rest := n.text
	for {
		before, after, ok := strings.Cut(rest, "${")
		if before != "" {
			out.sub = append(out.sub, piece{text: before})
		}
		if !ok {
			return out, nil
		}
		name, behind, ok := strings.Cut(after, "}")
		if !ok {
			return nil, c.fail(n.at, "", "Fn::Sub: a ${ without its }")
		}
		rest = behind
		if literal, ok := strings.CutPrefix(name, "!"); ok {
			out.sub = append(out.sub, piece{text: "${" + literal + "}"})
			continue
		}
		name = strings.TrimSpace(name)
		if !own[name] {
			if err := c.known(name, n.at); err != nil {
				return nil, err
			}
		}
		out.sub = append(out.sub, piece{name: name})
	}
}
