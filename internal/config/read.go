package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/weir-iot/weir/internal/suggest"
)

// maxFile bounds a configuration file: it is read whole, and before anything
// else has been checked.
const maxFile = 1 << 20

// Error is a mistake in a configuration file or in the environment.
type Error struct {
	File   string // or the environment variable, with Line 0
	Line   int    // from 1
	Column int    // from 1, in characters
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

// Load reads the file at path over the defaults, then the environment over
// both, and validates the whole. An empty path means no file. environ is as
// os.Environ gives it. Every mistake found is reported: the error joins
// *Error values where more than one was made. checks find what Validate cannot:
// their Mistakes are shown at their place.
func Load(path string, dev bool, environ []string, checks ...func(*Config) error) (*Config, error) {
	c := Default(dev)
	r := &reader{c: c, name: "configuration", checks: checks}
	if path != "" {
		src, err := readFile(path)
		if err != nil {
			return nil, err
		}
		r.name = path
		r.parse(src)
	}
	r.environment(environ)
	r.validate()
	return r.done()
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s: larger than %s: not a configuration file", path, FormatSize(maxFile))
	}
	return b, nil
}

// Parse reads src over the defaults. name is what errors call the file.
func Parse(name string, src []byte, dev bool) (*Config, error) {
	r := &reader{c: Default(dev), name: name}
	r.parse(src)
	r.validate()
	return r.done()
}

type reader struct {
	c        *Config
	name     string
	lines    []string
	at       map[string]*token.Token // where each key's value stands
	mistakes []error
	checks   []func(*Config) error
}

func (r *reader) done() (*Config, error) {
	if len(r.mistakes) > 0 {
		return nil, errors.Join(r.mistakes...)
	}
	return r.c, nil
}

func (r *reader) validate() {
	for _, check := range append([]func(*Config) error{(*Config).Validate}, r.checks...) {
		if len(r.mistakes) > 0 {
			return
		}
		err := check(r.c)
		var ke *keyError
		switch {
		case errors.As(err, &ke):
			r.fail(r.at[ke.key], "", "%v", err)
		case err != nil:
			r.fail(nil, "", "%v", err)
		}
	}
}

func (r *reader) parse(src []byte) {
	r.lines, r.at = strings.Split(string(src), "\n"), map[string]*token.Token{}
	if !utf8.Valid(src) {
		r.fail(nil, "", "not UTF-8 text")
		return
	}
	f, err := parseYAML(src)
	if err != nil {
		var ye yaml.Error
		if errors.As(err, &ye) && ye.GetToken() != nil {
			r.fail(ye.GetToken(), "", "%s", ye.GetMessage())
			return
		}
		r.fail(nil, "", "%v", err)
		return
	}
	docs := f.Docs[:0]
	for _, d := range f.Docs {
		if d.Body != nil && d.Body.Type() != ast.CommentType && d.Body.Type() != ast.NullType {
			docs = append(docs, d)
		}
	}
	if len(docs) > 1 {
		r.fail(docs[1].Body.GetToken(), "", "a second document: a configuration file has one")
		return
	}
	if len(docs) == 1 {
		r.node("", docs[0].Body)
	}
}

// parseYAML keeps a panic of the YAML library from taking the process down: a
// configuration file must not be able to.
func parseYAML(src []byte) (f *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("not YAML (%v)", p)
		}
	}()
	return parser.ParseBytes(src, 0)
}

func (r *reader) fail(t *token.Token, hint, format string, args ...any) {
	e := &Error{File: r.name, Msg: fmt.Sprintf(format, args...), Hint: hint}
	if t != nil && t.Position != nil {
		e.Line, e.Column = t.Position.Line, t.Position.Column
		if e.Line >= 1 && e.Line <= len(r.lines) {
			e.source = strings.TrimRight(r.lines[e.Line-1], "\r")
		}
	}
	r.mistakes = append(r.mistakes, e)
}

// node reads what stands at path, a group of keys ("" or "events").
func (r *reader) node(path string, n ast.Node) {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	case *ast.NullNode:
		return
	default:
		where := "the file"
		if path != "" {
			where = path
		}
		r.fail(n.GetToken(), "", "%s must hold keys and values", where)
		return
	}
	for _, v := range values {
		r.entry(path, v)
	}
}

func (r *reader) entry(parent string, v *ast.MappingValueNode) {
	tok := v.Key.GetToken()
	if v.Key.Type() != ast.StringType && v.Key.Type() != ast.BoolType && v.Key.Type() != ast.IntegerType {
		r.fail(tok, "write each key out", "expected a key")
		return
	}
	name := tok.Value
	path := name
	if parent != "" {
		path = parent + "." + name
	}
	if group(path) {
		r.node(path, v.Value)
		return
	}
	k := Lookup(path)
	if k == nil {
		r.fail(tok, hintKey(parent, name), "unknown key %q", path)
		return
	}
	text, at, ok := r.value(k, v.Value)
	if !ok {
		return
	}
	r.at[path] = at
	if err := k.set(r.c, text); err != nil {
		r.fail(at, hintValue(err), "%s: %v", path, err)
	}
}

// value returns what n writes, and the token a caret belongs under.
func (r *reader) value(k *Key, n ast.Node) (string, *token.Token, bool) {
	switch n := n.(type) {
	case *ast.SequenceNode:
		if !k.List {
			r.fail(n.GetToken(), "", "%s: expected %s, found a list", k.Path, k.Type)
			return "", nil, false
		}
		var parts []string
		for _, e := range n.Values {
			s, ok := scalar(e)
			if !ok {
				r.fail(e.GetToken(), "", "%s: expected a text in the list", k.Path)
				return "", nil, false
			}
			parts = append(parts, s)
		}
		return strings.Join(parts, ","), n.GetToken(), true
	case *ast.NullNode:
		hint := "leave the key out for its default"
		if k.Default != "" {
			hint += ", " + k.Default
		}
		r.fail(n.GetToken(), hint, "%s has no value", k.Path)
		return "", nil, false
	case *ast.AliasNode, *ast.AnchorNode, *ast.TagNode:
		r.fail(n.GetToken(), "write the value out", "%s: anchors, aliases and tags are not used here", k.Path)
		return "", nil, false
	}
	s, ok := scalar(n)
	if !ok {
		r.fail(n.GetToken(), "", "%s: expected %s, found keys below it", k.Path, k.Type)
		return "", nil, false
	}
	return s, n.GetToken(), true
}

func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// group reports whether path is the parent of keys.
func group(path string) bool {
	return slices.ContainsFunc(Keys, func(k Key) bool { return strings.HasPrefix(k.Path, path+".") })
}

func hintKey(parent, name string) string {
	var siblings, all []string
	for _, k := range Keys {
		all = append(all, k.Path)
		rest, ok := strings.CutPrefix(k.Path, parent+".")
		if parent == "" {
			rest, ok = k.Path, true
		}
		if ok {
			first, _, _ := strings.Cut(rest, ".")
			if !slices.Contains(siblings, first) {
				siblings = append(siblings, first)
			}
		}
	}
	if near, ok := suggest.Nearest(name, siblings); ok {
		return fmt.Sprintf("did you mean %s?", near)
	}
	// The right name in the wrong group: max_bytes at the top, say.
	for _, p := range all {
		if strings.HasSuffix(p, "."+name) {
			return fmt.Sprintf("did you mean %s?", p)
		}
	}
	if near, ok := suggest.Nearest(name, all); ok {
		return fmt.Sprintf("did you mean %s?", near)
	}
	sort.Strings(siblings)
	return "known here: " + strings.Join(siblings, ", ")
}

func hintValue(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		if near, ok := suggest.Nearest(h.near, h.names); ok {
			return fmt.Sprintf("did you mean %s?", near)
		}
	}
	return ""
}

// environment reads WEIR_* over the file.
func (r *reader) environment(environ []string) {
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		k := byEnv(name)
		if k == nil {
			continue
		}
		delete(r.at, k.Path)
		if err := k.set(r.c, value); err != nil {
			r.mistakes = append(r.mistakes, &Error{File: "environment variable " + name, Msg: err.Error(), Hint: hintValue(err)})
		}
	}
}

func byEnv(name string) *Key {
	for i := range Keys {
		if Keys[i].Env() == name {
			return &Keys[i]
		}
	}
	return nil
}

// UnknownEnv returns a line for each WEIR_ variable that looks like a misspelt
// key. Others are left alone: `weir env` exports some, and orchestrators set
// WEIR_PORT and its like for a service named weir.
func UnknownEnv(environ []string) []string {
	var names, out []string
	for i := range Keys {
		names = append(names, Keys[i].Env())
	}
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "WEIR_") || byEnv(name) != nil || slices.Contains(exported, name) {
			continue
		}
		if near, ok := suggest.Nearest(name, names); ok {
			out = append(out, fmt.Sprintf("environment variable %s is not a setting; did you mean %s?", name, near))
		}
	}
	return out
}

// exported are the variables `weir env` prints for clients.
var exported = []string{
	"WEIR_HOST", "WEIR_MQTT_PORT", "WEIR_MQTTS_PORT", "WEIR_HTTPS_PORT", "WEIR_MUX_PORT", "WEIR_API_URL", "WEIR_CA_FILE",
	"WEIR_CERT_FILE", "WEIR_KEY_FILE", "WEIR_TOKEN_FILE",
}

// Detail returns err as a user should read it: every mistake with its line, a
// caret and a hint.
func Detail(err error) string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var parts []string
		for _, e := range joined.Unwrap() {
			parts = append(parts, Detail(e))
		}
		return strings.Join(parts, "\n")
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Detail()
	}
	return err.Error()
}
