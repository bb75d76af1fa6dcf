package rules

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/suggest"
	"github.com/weir-iot/weir/rules/sql"
)

// Problem is a mistake in a rule document, with its place in the user's text.
type Problem struct {
	File   string // as the user named it; empty: none
	Line   int    // from 1
	Column int    // in characters, from 1
	Msg    string
	Hint   string // what to write instead; empty: none

	text string // the source
	at   int    // the place, in bytes
	n    int    // its length
}

// Error returns the message with its place: "r.yaml:3:5: unknown key".
func (p *Problem) Error() string {
	return fmt.Sprintf("%s%d:%d: %s", p.prefix(), p.Line, p.Column, p.Msg)
}

func (p *Problem) prefix() string {
	if p.File == "" {
		return ""
	}
	return p.File + ":"
}

// Detail returns the message, the line with carets under the place, and the
// hint, each on a line of its own.
func (p *Problem) Detail() string {
	e := sql.At(p.text, sql.Span{From: p.at, To: p.at + p.n}, p.Hint, "%s", p.Msg)
	return p.prefix() + e.Detail()
}

// Problems are all mistakes found.
type Problems []*Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Detail returns the details of all.
func (ps Problems) Detail() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Detail()
	}
	return strings.Join(lines, "\n\n")
}

// Unwrap makes errors.As find the first Problem.
func (ps Problems) Unwrap() []error {
	out := make([]error, len(ps))
	for i, p := range ps {
		out[i] = p
	}
	return out
}

func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// source is a text with the place of its lines.
type source struct {
	file  string
	text  string
	lines []int
}

func newSource(file string, data []byte) *source {
	s := &source{file: file, text: strings.TrimPrefix(string(data), "\ufeff"), lines: []int{0}}
	for i := range len(s.text) {
		if s.text[i] == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	return s
}

func (s *source) problem(at, n int, hint, format string, args ...any) *Problem {
	at = max(0, min(at, len(s.text)))
	line, _ := slices.BinarySearchFunc(s.lines, at, func(l, at int) int {
		if l <= at {
			return -1
		}
		return 1
	})
	return &Problem{
		File: s.file, Line: line, Column: 1 + utf8.RuneCountInString(s.text[s.lines[line-1]:at]),
		Msg: fmt.Sprintf(format, args...), Hint: hint, text: s.text, at: at, n: min(n, len(s.text)-at),
	}
}

// Document is a rule with the places of its parts.
type Document struct {
	Rule *Rule
	src  *source
	root *node
}

// maxFile bounds a file of rules.
const maxFile = 8 << 20

// Parse reads the rule documents of a file: JSON or YAML, one rule, a list of
// them, or several YAML documents. file is what errors call it. It checks form
// and limits; statements and actions are checked by Document.Check. The error
// is Problems; the documents without a mistake are returned with it.
func Parse(file string, data []byte) ([]*Document, error) {
	s := newSource(file, data)
	if len(data) > maxFile {
		return nil, Problems{s.problem(0, 1, "", "the file has %d bytes, at most %d are read", len(data), maxFile)}
	}
	read := s.readYAML
	if strings.EqualFold(filepath.Ext(file), ".json") || json.Valid([]byte(s.text)) {
		read = s.readJSON
	}
	roots, p := read()
	if p != nil {
		return nil, Problems{p}
	}
	var ps Problems
	var docs []*Document
	for _, r := range roots {
		list := []*node{r}
		if r.kind == listNode {
			list = r.items
		}
		for _, n := range list {
			rule, mistakes := s.rule(n)
			if len(mistakes) > 0 {
				ps = append(ps, mistakes...)
				continue
			}
			docs = append(docs, &Document{rule, s, n})
		}
	}
	if len(docs) == 0 && len(ps) == 0 {
		return nil, Problems{s.problem(0, 1, "", "no rule in it")}
	}
	return docs, ps.err()
}

var ruleKeys = []string{"ruleName", "sql", "description", "awsIotSqlVersion", "ruleDisabled", "actions", "errorAction"}

// rule reads one rule strictly.
func (s *source) rule(n *node) (*Rule, Problems) {
	if n.kind != objectNode {
		return nil, Problems{s.problem(n.at, 1, "a rule has the keys "+strings.Join(ruleKeys, ", "), "expected a rule, found %s", n.kind)}
	}
	var ps Problems
	bad := func(at, l int, hint, format string, args ...any) {
		ps = append(ps, s.problem(at, l, hint, format, args...))
	}
	text := func(k key) string {
		if k.val.kind != stringNode {
			hint := ""
			if k.val.kind == numberNode || k.val.kind == boolNode {
				hint = "write it in quotes"
			}
			bad(k.val.at, 1, hint, "%s: expected a string, found %s", k.name, k.val.kind)
		}
		return k.val.text
	}
	r := &Rule{}
	for _, k := range n.keys {
		switch k.name {
		case "ruleName":
			if r.Name = text(k); k.val.kind == stringNode {
				if err := CheckName(r.Name); err != nil {
					bad(k.val.at, max(1, len(r.Name)), "", "%s", err)
				}
			}
		case "sql":
			r.SQL = text(k)
		case "description":
			r.Description = text(k)
		case "awsIotSqlVersion":
			r.SQLVersion = text(k)
		case "ruleDisabled":
			if k.val.kind != boolNode {
				bad(k.val.at, 1, "", "ruleDisabled: expected true or false, found %s", k.val.kind)
			}
			r.Disabled = k.val.text == "true"
		case "actions":
			if k.val.kind != listNode {
				bad(k.val.at, 1, "", "actions: expected a list, found %s", k.val.kind)
				continue
			}
			if len(k.val.items) > MaxActions {
				bad(k.val.items[MaxActions].at, 1, "", "a rule has at most %d actions, this one has %d", MaxActions, len(k.val.items))
			}
			for _, x := range k.val.items {
				if a, p := s.action(x); p != nil {
					ps = append(ps, p)
				} else {
					r.Actions = append(r.Actions, a)
				}
			}
		case "errorAction":
			if k.val.kind == nullNode {
				continue
			}
			a, p := s.action(k.val)
			if p != nil {
				ps = append(ps, p)
			}
			r.ErrorAction = &a
		default:
			hint := "known are " + strings.Join(ruleKeys, ", ")
			if near, ok := suggest.Nearest(k.name, ruleKeys); ok {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			bad(k.at, max(1, len(k.name)), hint, "unknown key %q", k.name)
		}
	}
	for _, name := range []string{"ruleName", "sql", "actions"} {
		if n.get(name) == nil {
			bad(n.at, 1, "", "the key %q is missing", name)
		}
	}
	if len(ps) == 0 {
		if b, err := json.Marshal(r); err != nil || len(b) > MaxDocument {
			bad(n.at, 1, "", "the rule document has %d bytes, at most %d are allowed", len(b), MaxDocument)
		}
	}
	if r.Actions == nil {
		r.Actions = []Action{}
	}
	return r, ps
}

func (s *source) action(n *node) (Action, *Problem) {
	const hint = "write one action as {<kind>: {…}}"
	if n.kind != objectNode {
		return Action{}, s.problem(n.at, 1, hint, "expected an action, found %s", n.kind)
	}
	if len(n.keys) != 1 {
		at := n.at
		if len(n.keys) > 1 {
			at = n.keys[1].at
		}
		return Action{}, s.problem(at, 1, hint+"; each action is an entry of its own", "an action has one key, its kind; this one has %d", len(n.keys))
	}
	k := n.keys[0]
	if k.val.kind != objectNode && k.val.kind != nullNode {
		return Action{}, s.problem(k.val.at, 1, "", "%s: expected an object, found %s", k.name, k.val.kind)
	}
	params := []byte("{}")
	if k.val.kind == objectNode {
		params = k.val.appendJSON(nil)
	}
	return Action{Kind: k.name, Params: params}, nil
}

// Checker validates what only others know: statements and actions.
type Checker struct {
	Language Language
	// Action validates one action completely. An error may say where by the
	// methods of placed.
	Action func(ctx context.Context, r *Rule, p Program, kind string, params json.RawMessage, errorAction bool) error
}

// placed is an error that knows its place in an action's object.
type placed interface {
	error
	FieldPath() []string // keys and list indices
	FieldOffset() int    // byte in the field's text; -1: all of it
	FieldMsg() string
	FieldHint() string
}

// Check validates a rule completely, for NewStore. Where the rule was read
// from a file, Document.Check says where the mistake is.
func (c Checker) Check(ctx context.Context, r *Rule) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	docs, err := Parse("", b)
	if err != nil {
		return fmt.Errorf("rule %q: %w", r.Name, plainly(err))
	}
	if err := docs[0].Check(ctx, c); err != nil {
		return fmt.Errorf("rule %q: %w", r.Name, plainly(err))
	}
	return nil
}

// plainly drops the places: the text they point into is not the user's.
func plainly(err error) error {
	var ps Problems
	if !errors.As(err, &ps) {
		return err
	}
	var out []error
	for _, p := range ps {
		msg := p.Msg
		if p.Hint != "" {
			msg += " (" + p.Hint + ")"
		}
		out = append(out, errors.New(msg))
	}
	return errors.Join(out...)
}

// Check finds every mistake in the statement and the actions. The error is
// Problems.
func (d *Document) Check(ctx context.Context, c Checker) error {
	stmt := d.root.get("sql")
	prog, err := c.Language.Compile(d.Rule)
	if err != nil {
		return Problems{d.sqlProblem(stmt, err)}
	}
	if c.Action == nil {
		return nil
	}
	var ps Problems
	check := func(n *node, a Action, errorAction bool) {
		if err := c.Action(ctx, d.Rule, prog, a.Kind, a.Params, errorAction); err != nil {
			ps = append(ps, d.actionProblem(n.keys[0], err))
		}
	}
	for i, a := range d.Rule.Actions {
		check(d.root.get("actions").items[i], a, false)
	}
	if a := d.Rule.ErrorAction; a != nil {
		check(d.root.get("errorAction"), *a, true)
	}
	return ps.err()
}

// sqlProblem points into the text of n, a string that holds SQL.
func (d *Document) sqlProblem(n *node, err error) *Problem {
	var se *sql.Error
	if !errors.As(err, &se) {
		return d.src.problem(n.at, 1, "", "%s", err)
	}
	if strings.HasPrefix(se.Msg, "unknown SQL version") {
		if v := d.root.get("awsIotSqlVersion"); v != nil {
			n = v
		}
		return d.src.problem(n.at, len(n.text), se.Hint, "%s", se.Msg)
	}
	from := d.src.inside(n, se.Span.From)
	to := d.src.inside(n, se.Span.To)
	return d.src.problem(from, max(1, to-from), se.Hint, "%s", se.Msg)
}

// actionProblem points at the part of an action an error is about.
func (d *Document) actionProblem(k key, err error) *Problem {
	var pe placed
	if !errors.As(err, &pe) {
		return d.src.problem(k.at, len(k.name), "", "%s: %s", k.name, err)
	}
	n, at, width := k.val, k.at, len(k.name) // the action itself
	path := pe.FieldPath()
	for _, step := range path {
		i := slices.IndexFunc(n.keys, func(k key) bool { return k.name == step })
		if i >= 0 {
			n, at, width = n.keys[i].val, n.keys[i].at, max(1, len(n.keys[i].name))
			continue
		}
		if j, e := strconv.Atoi(step); e == nil && n.kind == listNode && j >= 0 && j < len(n.items) {
			n = n.items[j]
			at, width = n.at, 1
			continue
		}
		break
	}
	msg := pe.FieldMsg()
	if len(path) > 0 {
		msg = strings.Join(path, ".") + ": " + msg
	}
	msg = k.name + ": " + msg
	var se *sql.Error
	if errors.As(err, &se) && n.kind == stringNode {
		p := d.sqlProblem(n, se)
		if p.Hint == "" {
			p.Hint = pe.FieldHint()
		}
		return p
	}
	if off := pe.FieldOffset(); off >= 0 && n.kind == stringNode {
		at, width = d.src.inside(n, off), 1
	}
	return d.src.problem(at, width, pe.FieldHint(), "%s", msg)
}

// Load reads rules from a file, or from the files of a folder and its folders
// whose names end in .json, .yaml or .yml, sorted. Two rules of one name are a
// mistake. The error is Problems or that of the file system; the documents
// without a mistake are returned with it.
func Load(path string) ([]*Document, error) {
	var files []string
	err := filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(e.Name(), ".") && p != path
		if e.IsDir() {
			if hidden {
				return filepath.SkipDir
			}
			return nil
		}
		switch strings.ToLower(filepath.Ext(p)) {
		case ".json", ".yaml", ".yml":
			if !hidden {
				files = append(files, p)
			}
		default:
			if p == path {
				files = append(files, p)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var docs []*Document
	var ps Problems
	seen := map[string]*Document{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		list, err := Parse(f, b)
		var mistakes Problems
		if errors.As(err, &mistakes) {
			ps = append(ps, mistakes...)
		}
		for _, d := range list {
			if first := seen[d.Rule.Name]; first != nil {
				n := d.root.get("ruleName")
				other := first.src.problem(first.root.get("ruleName").at, 1, "", "")
				ps = append(ps, d.src.problem(n.at, len(n.text), "", "rule %q is in %s:%d already", d.Rule.Name, other.File, other.Line))
				continue
			}
			seen[d.Rule.Name] = d
			docs = append(docs, d)
		}
	}
	return docs, ps.err()
}
