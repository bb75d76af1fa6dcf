package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// node is a value of a JSON or YAML document that knows its place.
type node struct {
	kind  nodeKind
	at    int    // byte in the source: the first of the value, quotes included
	text  string // of a string its value, of a number and a boolean its JSON text
	style style  // of a string: how it is written
	items []*node
	keys  []key
}

type key struct {
	name string
	at   int
	val  *node
}

type nodeKind uint8

const (
	nullNode nodeKind = iota
	boolNode
	numberNode
	stringNode
	listNode
	objectNode
)

func (k nodeKind) String() string {
	return [...]string{"nothing", "a boolean", "a number", "a string", "a list", "an object"}[k]
}

type style uint8

const (
	plain style = iota
	double
	single
	block // | and >
)

// maxDepth bounds the nesting of a document.
const maxDepth = 32

func (n *node) get(name string) *node {
	for i := range n.keys {
		if n.keys[i].name == name {
			return n.keys[i].val
		}
	}
	return nil
}

// appendJSON writes n as JSON.
func (n *node) appendJSON(b []byte) []byte {
	switch n.kind {
	case objectNode:
		b = append(b, '{')
		for i, k := range n.keys {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendText(b, k.name)
			b = k.val.appendJSON(append(b, ':'))
		}
		return append(b, '}')
	case listNode:
		b = append(b, '[')
		for i, x := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = x.appendJSON(b)
		}
		return append(b, ']')
	case stringNode:
		return appendText(b, n.text)
	case numberNode, boolNode:
		return append(b, n.text...)
	}
	return append(b, "null"...)
}

func appendText(b []byte, s string) []byte {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if e.Encode(s) != nil {
		return append(b, `""`...)
	}
	return append(b, bytes.TrimRight(buf.Bytes(), "\n")...)
}

// readJSON reads one JSON value that fills the source.
func (s *source) readJSON() ([]*node, *Problem) {
	d := json.NewDecoder(strings.NewReader(s.text))
	d.UseNumber()
	var read func(depth int) (*node, error)
	next := func() (json.Token, int, error) {
		at := int(d.InputOffset())
		for at < len(s.text) && strings.IndexByte(" \t\r\n,:", s.text[at]) >= 0 {
			at++
		}
		t, err := d.Token()
		return t, at, err
	}
	read = func(depth int) (*node, error) {
		t, at, err := next()
		if err != nil {
			return nil, err
		}
		n := &node{at: at}
		switch t := t.(type) {
		case json.Delim:
			if depth >= maxDepth {
				return nil, s.problem(at, 1, "", "nested too deeply")
			}
			n.kind = listNode
			if t == '{' {
				n.kind = objectNode
			}
			for d.More() {
				if n.kind == listNode {
					x, err := read(depth + 1)
					if err != nil {
						return nil, err
					}
					n.items = append(n.items, x)
					continue
				}
				t, at, err := next()
				if err != nil {
					return nil, err
				}
				name, _ := t.(string)
				if n.get(name) != nil {
					return nil, s.problem(at, len(name)+2, "", "the key %q comes twice", name)
				}
				x, err := read(depth + 1)
				if err != nil {
					return nil, err
				}
				n.keys = append(n.keys, key{name, at, x})
			}
			_, err := d.Token()
			return n, err
		case string:
			n.kind, n.text, n.style = stringNode, t, double
		case json.Number:
			n.kind, n.text = numberNode, t.String()
		case bool:
			n.kind, n.text = boolNode, strconv.FormatBool(t)
		}
		return n, nil
	}
	n, err := read(0)
	if err == nil {
		var extra error
		if _, extra = d.Token(); extra != io.EOF {
			err = s.problem(int(d.InputOffset())-1, 1, "", "more than one JSON value")
		}
	}
	if err != nil {
		var p *Problem
		if errors.As(err, &p) {
			return nil, p
		}
		at := int(d.InputOffset())
		var se *json.SyntaxError
		if errors.As(err, &se) {
			// The decoder counts the offending character in, or does not.
			if at = int(se.Offset); at > 0 && !s.offends(err, at) && s.offends(err, at-1) {
				at--
			}
		}
		return nil, s.problem(at, 1, "", "not JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return []*node{n}, nil
}

// offends reports whether the byte at at is the one err names.
func (s *source) offends(err error, at int) bool {
	return at < len(s.text) && strings.Contains(err.Error(), "character '"+s.text[at:at+1]+"'")
}

// readYAML reads the documents of a YAML source.
func (s *source) readYAML() (docs []*node, problem *Problem) {
	defer func() {
		if p := recover(); p != nil { // of the parser: a document it was not made for
			docs, problem = nil, s.problem(0, 1, "", "cannot be read as YAML")
		}
	}()
	if !utf8.ValidString(s.text) {
		return nil, s.problem(0, 1, "", "not UTF-8")
	}
	f, err := parser.ParseBytes([]byte(s.text), 0)
	if err != nil {
		var se *yaml.SyntaxError
		if errors.As(err, &se) && se.Token != nil {
			return nil, s.problem(s.offset(se.Token.Position), 1, "", "not YAML: %s", se.Message)
		}
		return nil, s.problem(0, 1, "", "not YAML: %s", err)
	}
	for _, d := range f.Docs {
		if d.Body == nil {
			continue
		}
		if _, comment := d.Body.(*ast.CommentGroupNode); comment {
			continue
		}
		n, p := s.fromYAML(d.Body, 0)
		if p != nil {
			return nil, p
		}
		docs = append(docs, n)
	}
	return docs, nil
}

func (s *source) fromYAML(y ast.Node, depth int) (*node, *Problem) {
	at := s.offset(y.GetToken().Position)
	if depth > maxDepth {
		return nil, s.problem(at, 1, "", "nested too deeply")
	}
	n := &node{at: at}
	switch y := y.(type) {
	case *ast.MappingNode:
		n.kind = objectNode
		if !y.IsFlowStyle && len(y.Values) > 0 {
			n.at = s.offset(y.Values[0].Key.GetToken().Position)
		}
		for _, v := range y.Values {
			if p := s.addKey(n, v, depth); p != nil {
				return nil, p
			}
		}
	case *ast.MappingValueNode:
		n.kind = objectNode
		n.at = s.offset(y.Key.GetToken().Position)
		if p := s.addKey(n, y, depth); p != nil {
			return nil, p
		}
	case *ast.SequenceNode:
		n.kind = listNode
		for _, v := range y.Values {
			x, p := s.fromYAML(v, depth+1)
			if p != nil {
				return nil, p
			}
			n.items = append(n.items, x)
		}
	case *ast.StringNode:
		n.kind, n.text = stringNode, y.Value
		switch y.GetToken().Type {
		case token.DoubleQuoteType:
			n.style = double
		case token.SingleQuoteType:
			n.style = single
		}
	case *ast.LiteralNode:
		n.kind, n.text, n.style = stringNode, y.Value.Value, block
	case *ast.IntegerNode:
		n.kind, n.text = numberNode, fmt.Sprint(y.Value)
	case *ast.FloatNode:
		n.kind, n.text = numberNode, strconv.FormatFloat(y.Value, 'g', -1, 64)
		if math.IsNaN(y.Value) || math.IsInf(y.Value, 0) {
			return nil, s.problem(at, 1, "", "not a number JSON knows")
		}
	case *ast.BoolNode:
		n.kind, n.text = boolNode, strconv.FormatBool(y.Value)
	case *ast.NullNode:
	case *ast.CommentGroupNode:
	default:
		return nil, s.problem(at, len(y.GetToken().Value), "write the value out", "anchors, aliases, tags and merge keys are not supported")
	}
	return n, nil
}

func (s *source) addKey(n *node, v *ast.MappingValueNode, depth int) *Problem {
	at := s.offset(v.Key.GetToken().Position)
	var name string
	switch k := v.Key.(type) {
	case *ast.StringNode:
		name = k.Value
	case *ast.MergeKeyNode, *ast.AliasNode, *ast.AnchorNode, *ast.TagNode, *ast.MappingKeyNode:
		return s.problem(at, 1, "write the value out", "anchors, aliases, tags and merge keys are not supported")
	default:
		name = v.Key.GetToken().Value
	}
	if n.get(name) != nil {
		return s.problem(at, len(name), "", "the key %q comes twice", name)
	}
	x, p := s.fromYAML(v.Value, depth+1)
	if p != nil {
		return p
	}
	n.keys = append(n.keys, key{name, at, x})
	return nil
}

// offset returns the byte a YAML position stands for: its columns count
// characters.
func (s *source) offset(p *token.Position) int {
	if p == nil || p.Line < 1 || p.Line > len(s.lines) {
		return len(s.text)
	}
	at := s.lines[p.Line-1]
	for c := 1; c < p.Column && at < len(s.text) && s.text[at] != '\n'; c++ {
		_, w := utf8.DecodeRuneInString(s.text[at:])
		at += w
	}
	return at
}

// inside returns the byte of the source where byte off of string n's value is
// written. Where the two cannot be aligned it is the last place they could.
func (s *source) inside(n *node, off int) int {
	i, indent := n.at, 0
	skip := func() { // the indentation of a block's line
		for k := 0; k < indent && i < len(s.text) && s.text[i] == ' '; k++ {
			i++
		}
	}
	switch n.style {
	case double, single:
		i++
	case block:
		nl := strings.IndexByte(s.text[i:], '\n')
		if nl < 0 {
			return n.at
		}
		i += nl + 1
		for j := i; j < len(s.text); j++ { // of the first line with content
			if s.text[j] == '\n' {
				indent = 0
			} else if s.text[j] == ' ' {
				indent++
			} else if s.text[j] != '\r' {
				break
			}
		}
		skip()
	}
	v := n.text
	for k := 0; k < off && k < len(v) && i < len(s.text); {
		c := s.text[i]
		switch {
		case c == '\r':
			i++
		case n.style == double && c == '\\':
			_, w := utf8.DecodeRuneInString(v[k:])
			i += escapeLen(s.text[i:], v[k:])
			k += w
		case n.style == single && strings.HasPrefix(s.text[i:], "''") && v[k] == '\'':
			i, k = i+2, k+1
		case n.style == block && c == '\n' && (v[k] == '\n' || v[k] == ' '):
			i, k = i+1, k+1
			skip()
		case n.style != block && c == '\n' && (v[k] == ' ' || v[k] == '\n'):
			for i < len(s.text) && strings.IndexByte(" \t\r\n", s.text[i]) >= 0 {
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
