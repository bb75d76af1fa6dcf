// Package strictyaml reads YAML and JSON files people write, and keeps the place
// of everything in them, so that a mistake is shown with its line and a caret.
//
// It stands before any message: the configuration, rules and rule tests are read with it.
package strictyaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/weir-iot/weir/internal/suggest"
)

// Error is a mistake in a file.
type Error struct {
	File   string
	Line   int // from 1; 0: the file as a whole
	Column int // from 1, in characters
	Offset int // the same place in bytes of the file
	Msg    string
	Hint   string // what to do instead; may be empty
	source string // the line
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Msg
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Msg)
}

// Detail is Error with the line, a caret under the place, and the hint.
func (e *Error) Detail() string {
	var b strings.Builder
	b.WriteString(e.Error())
	if e.Line > 0 {
		margin := fmt.Sprintf("%4d | ", e.Line)
		fmt.Fprintf(&b, "\n%s%s\n%s| %s^", margin, e.source, strings.Repeat(" ", len(margin)-2), blank(e.source, e.Column-1))
	}
	if e.Hint != "" {
		b.WriteString("\nhint: " + e.Hint)
	}
	return b.String()
}

// blank is as wide as the first n characters of s: tabs stay tabs.
func blank(s string, n int) string {
	var b strings.Builder
	for i, r := range []rune(s) {
		if i >= n {
			break
		}
		if r == '\t' {
			b.WriteRune('\t')
		} else {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// Kind is the kind of a Node, one of JSON's.
type Kind uint8

const (
	Null Kind = iota
	Bool
	Number
	String
	List
	Map
)

func (k Kind) String() string {
	return [...]string{"nothing", "true or false", "a number", "a text", "a list", "keys and values"}[k]
}

// Node is one value of a file.
type Node struct {
	Kind   Kind
	Text   string  // of a Bool or a Number its JSON, of a String its value
	Items  []*Node // of a List
	Fields []Field // of a Map, in the order of the file; names are distinct
	Line   int     // from 1
	Column int     // from 1, in characters
	Offset int     // the byte of the source it begins at, quotes included
	style  style   // of a String
	file   *file
}

// style is how a String is written.
type style uint8

const (
	plain style = iota
	double
	single
	block // | and >
)

// Field is one key of a Map with its value.
type Field struct {
	Name         string
	Line, Column int // of the key
	Offset       int // of the key, as Node.Offset
	Value        *Node
}

type file struct {
	name   string
	text   string
	starts []int // the byte each line begins at
	left   int   // nodes that may still be read
}

func newFile(name, text string) *file {
	f := &file{name: name, text: text, starts: []int{0}, left: maxNodes}
	for i := range len(text) {
		if text[i] == '\n' {
			f.starts = append(f.starts, i+1)
		}
	}
	return f
}

// line returns line n, from 1, without its end.
func (f *file) line(n int) string {
	to := len(f.text)
	if n < len(f.starts) {
		to = f.starts[n] - 1
	}
	return strings.TrimRight(f.text[f.starts[n-1]:to], "\r")
}

// offset returns the byte a place stands for: columns count characters.
func (f *file) offset(line, column int) int {
	if line < 1 || line > len(f.starts) {
		return len(f.text)
	}
	at := f.starts[line-1]
	for c := 1; c < column && at < len(f.text) && f.text[at] != '\n'; c++ {
		_, w := utf8.DecodeRuneInString(f.text[at:])
		at += w
	}
	return at
}

// Bounds of a file.
const (
	maxNodes = 1 << 20
	maxDepth = 200
)

// lineColumn returns the place of a byte.
func (f *file) lineColumn(at int) (line, column int) {
	line, found := slices.BinarySearch(f.starts, at)
	if found {
		line++
	}
	return line, 1 + utf8.RuneCountInString(f.text[f.starts[line-1]:at])
}

// Parse reads a file of one document. JSON is read as JSON, whatever the name.
// An empty file gives a Null.
func Parse(name string, src []byte) (*Node, error) {
	docs, err := ParseAll(name, src)
	if err != nil {
		return nil, err
	}
	switch len(docs) {
	case 0:
		return &Node{Line: 1, Column: 1, file: newFile(name, string(src))}, nil
	case 1:
		return docs[0], nil
	}
	return nil, docs[1].Errorf("put it into a file of its own", "a second document: a file has one")
}

// ParseAll reads a file of any number of documents; empty ones are left out.
// The error is an *Error.
func ParseAll(name string, src []byte) ([]*Node, error) {
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	f := newFile(name, string(src))
	if !utf8.Valid(src) {
		return nil, f.errorf(0, 0, "", "not UTF-8 text")
	}
	if strings.EqualFold(filepath.Ext(name), ".json") || json.Valid(src) {
		n, err := f.json(src)
		if err != nil {
			return nil, err
		}
		return []*Node{n}, nil
	}
	parsed, err := parseYAML(src)
	if err != nil {
		var ye yaml.Error
		if errors.As(err, &ye) && ye.GetToken() != nil {
			return nil, f.at(ye.GetToken(), "", "not YAML: %s", ye.GetMessage())
		}
		return nil, f.errorf(0, 0, "", "not YAML: %v", err)
	}
	var docs []*Node
	for _, d := range parsed.Docs {
		if d.Body == nil || d.Body.Type() == ast.CommentType || d.Body.Type() == ast.NullType {
			continue
		}
		n, err := f.node(d.Body, 0)
		if err != nil {
			return nil, err
		}
		docs = append(docs, n)
	}
	return docs, nil
}

// parseYAML keeps a panic of the YAML library from taking the process down.
func parseYAML(src []byte) (f *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the parser failed: %v", p)
		}
	}()
	return parser.ParseBytes(src, 0)
}

func (f *file) errorf(line, column int, hint, format string, args ...any) *Error {
	e := &Error{File: f.name, Line: line, Column: column, Msg: fmt.Sprintf(format, args...), Hint: hint}
	if line >= 1 && line <= len(f.starts) {
		e.source, e.Offset = f.line(line), f.offset(line, column)
	}
	return e
}

func (f *file) at(t *token.Token, hint, format string, args ...any) *Error {
	line, column := place(t)
	return f.errorf(line, column, hint, format, args...)
}

func place(t *token.Token) (line, column int) {
	if t == nil || t.Position == nil {
		return 0, 0
	}
	return t.Position.Line, t.Position.Column
}

func (f *file) node(n ast.Node, depth int) (*Node, error) {
	line, column := place(n.GetToken())
	out := &Node{Line: line, Column: column, Offset: f.offset(line, column), file: f}
	if f.left--; f.left < 0 {
		return nil, f.errorf(line, column, "", "more than %d values in one file", maxNodes)
	}
	if depth > maxDepth {
		return nil, f.errorf(line, column, "", "nested deeper than %d levels", maxDepth)
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		return f.mapping(out, n.Values, depth)
	case *ast.MappingValueNode:
		return f.mapping(out, []*ast.MappingValueNode{n}, depth)
	case *ast.SequenceNode:
		out.Kind = List
		for _, item := range n.Values {
			v, err := f.node(item, depth+1)
			if err != nil {
				return nil, err
			}
			out.Items = append(out.Items, v)
		}
	case *ast.NullNode:
	case *ast.BoolNode:
		out.Kind, out.Text = Bool, fmt.Sprint(n.Value)
	case *ast.IntegerNode:
		out.Kind, out.Text = Number, number(n.GetToken().Value, n.Value)
	case *ast.FloatNode:
		out.Kind, out.Text = Number, number(n.GetToken().Value, n.Value)
	case *ast.InfinityNode, *ast.NanNode:
		return nil, f.errorf(line, column, "write it in quotes to have the text", "%s is not a number JSON has", n.GetToken().Value)
	case *ast.StringNode:
		out.Kind, out.Text = String, n.Value
		switch n.GetToken().Type {
		case token.DoubleQuoteType:
			out.style = double
		case token.SingleQuoteType:
			out.style = single
		}
		if out.style == plain && n.Value != "" && strings.IndexByte("-0123456789", n.Value[0]) >= 0 && json.Valid([]byte(n.Value)) {
			out.Kind = Number // too large for the YAML library
		}
	case *ast.LiteralNode:
		out.Kind, out.Text, out.style = String, n.Value.Value, block
	case *ast.AliasNode, *ast.AnchorNode, *ast.TagNode, *ast.MergeKeyNode:
		return nil, f.errorf(line, column, "write the value out", "anchors, aliases, merges and tags are not used here")
	default:
		return nil, f.errorf(line, column, "", "expected a value")
	}
	return out, nil
}

// number is the JSON of a number: as written where JSON writes it so, which
// keeps every digit.
func number(text string, value any) string {
	if json.Valid([]byte(text)) {
		return text
	}
	b, err := json.Marshal(value)
	if err != nil {
		return "0"
	}
	return string(b)
}

func (f *file) mapping(out *Node, values []*ast.MappingValueNode, depth int) (*Node, error) {
	out.Kind = Map
	for i, v := range values {
		key := v.Key.GetToken()
		line, column := place(key)
		if i == 0 {
			out.Line, out.Column, out.Offset = line, column, f.offset(line, column)
		}
		switch v.Key.Type() {
		case ast.StringType, ast.BoolType, ast.IntegerType, ast.FloatType, ast.NullType:
		default:
			return nil, f.errorf(line, column, "write each key out", "expected a key")
		}
		name := key.Value
		value, err := f.node(v.Value, depth+1)
		if err != nil {
			return nil, err
		}
		if err := f.add(out, Field{name, line, column, f.offset(line, column), value}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (f *file) add(to *Node, field Field) error {
	for i := range to.Fields {
		if to.Fields[i].Name == field.Name {
			return f.errorf(field.Line, field.Column, fmt.Sprintf("the first is in line %d", to.Fields[i].Line), "the key %q comes twice", field.Name)
		}
	}
	to.Fields = append(to.Fields, field)
	return nil
}

// Errorf returns an error at n. hint may be empty.
func (n *Node) Errorf(hint, format string, args ...any) *Error {
	return n.file.errorf(n.Line, n.Column, hint, format, args...)
}

// ErrorAt is Errorf, offset bytes into the text of n.
func (n *Node) ErrorAt(offset int, hint, format string, args ...any) *Error {
	line, column := n.file.lineColumn(n.Inside(offset))
	return n.file.errorf(line, column, hint, format, args...)
}

// KeyErrorf returns an error at the key name of n, at n where there is none.
func (n *Node) KeyErrorf(name, hint, format string, args ...any) *Error {
	for _, f := range n.Fields {
		if f.Name == name {
			return n.file.errorf(f.Line, f.Column, hint, format, args...)
		}
	}
	return n.Errorf(hint, format, args...)
}

// File returns the name of n's file.
func (n *Node) File() string { return n.file.name }

// Get returns the value of a key, nil where n has none. A key without a value
// counts as none.
func (n *Node) Get(name string) *Node {
	if n == nil {
		return nil
	}
	for _, f := range n.Fields {
		if f.Name == name && f.Value.Kind != Null {
			return f.Value
		}
	}
	return nil
}

// Walk returns the node that path leads to, names of keys and indices of lists
// from 0, or the last one there is on the way.
func (n *Node) Walk(path ...string) *Node {
	for _, p := range path {
		next := n.Get(p)
		if n.Kind == List {
			i := 0
			if _, err := fmt.Sscan(p, &i); err == nil && i >= 0 && i < len(n.Items) {
				next = n.Items[i]
			}
		}
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

// Keys checks that n is a Map whose keys are all known.
func (n *Node) Keys(known ...string) error {
	if n.Kind != Map {
		return n.Errorf("known here: "+strings.Join(known, ", "), "expected keys and values, found %s", n.Kind)
	}
	for _, f := range n.Fields {
		if slices.Contains(known, f.Name) {
			continue
		}
		hint := "known here: " + strings.Join(known, ", ")
		if near, ok := suggest.Nearest(f.Name, known); ok {
			hint = fmt.Sprintf("did you mean %s?", near)
		}
		return n.file.errorf(f.Line, f.Column, hint, "unknown key %q", f.Name)
	}
	return nil
}

// Expect checks the kind of n. what is what n is called.
func (n *Node) Expect(what string, kinds ...Kind) error {
	if slices.Contains(kinds, n.Kind) {
		return nil
	}
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.String()
	}
	return n.Errorf("", "%s: expected %s, found %s", what, strings.Join(names, " or "), n.Kind)
}

// JSON returns n as compact JSON, members in the order of the file, numbers with
// every digit.
func (n *Node) JSON() json.RawMessage { return n.appendJSON(nil) }

func (n *Node) appendJSON(b []byte) []byte {
	switch n.Kind {
	case Null:
		return append(b, "null"...)
	case Bool, Number:
		return append(b, n.Text...)
	case String:
		return AppendString(b, n.Text)
	case List:
		b = append(b, '[')
		for i, item := range n.Items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.appendJSON(b)
		}
		return append(b, ']')
	}
	b = append(b, '{')
	for i, f := range n.Fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(AppendString(b, f.Name), ':')
		b = f.Value.appendJSON(b)
	}
	return append(b, '}')
}

// AppendString appends s as a JSON string. Unlike encoding/json it writes <, >
// and & as they are.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c < ' ' || c == 0x7f:
			b = fmt.Appendf(b, `\u%04x`, c)
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r)
			i += n
			continue
		default:
			b = append(b, c)
		}
		i++
	}
	return append(b, '"')
}
