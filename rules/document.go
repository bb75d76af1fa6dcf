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

	"github.com/weir-iot/weir/internal/strictyaml"
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

// source is a text the user wrote.
type source struct{ file, text string }

func (s source) problem(at, n int, hint, format string, args ...any) *Problem {
	at = max(0, min(at, len(s.text)))
	span := sql.Span{From: at, To: min(at+n, len(s.text))}
	e := sql.At(s.text, span, hint, format, args...)
	return &Problem{File: s.file, Line: e.Line, Column: e.Column, Msg: e.Msg, Hint: hint, text: s.text, at: at, n: span.To - at}
}

// Document is a rule with the places of its parts.
type Document struct {
	Rule *Rule
	src  source
	root *strictyaml.Node
}

// maxFile bounds a file of rules.
const maxFile = 8 << 20

// Parse reads the rule documents of a file: JSON or YAML, one rule, a list of
// them, or several YAML documents. file is what errors call it. It checks form
// and limits; statements and actions are checked by Document.Check. The error
// is Problems; the documents without a mistake are returned with it.
func Parse(file string, data []byte) ([]*Document, error) {
	s := source{file, strings.TrimPrefix(string(data), "\ufeff")}
	if len(data) > maxFile {
		return nil, Problems{s.problem(0, 1, "", "the file has %d bytes, at most %d are read", len(data), maxFile)}
	}
	roots, err := strictyaml.ParseAll(file, []byte(s.text))
	var bad *strictyaml.Error
	if errors.As(err, &bad) {
		return nil, Problems{s.problem(bad.Offset, 1, bad.Hint, "%s", bad.Msg)}
	}
	var ps Problems
	var docs []*Document
	for _, r := range roots {
		list := []*strictyaml.Node{r}
		if r.Kind == strictyaml.List {
			list = r.Items
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
func (s source) rule(n *strictyaml.Node) (*Rule, Problems) {
	if n.Kind != strictyaml.Map {
		return nil, Problems{s.problem(n.Offset, 1, "a rule has the keys "+strings.Join(ruleKeys, ", "), "expected a rule, found %s", n.Kind)}
	}
	var ps Problems
	bad := func(at, l int, hint, format string, args ...any) {
		ps = append(ps, s.problem(at, l, hint, format, args...))
	}
	text := func(k strictyaml.Field) string {
		if k.Value.Kind != strictyaml.String {
			hint := ""
			if k.Value.Kind == strictyaml.Number || k.Value.Kind == strictyaml.Bool {
				hint = "write it in quotes"
			}
			bad(k.Value.Offset, 1, hint, "%s: expected a string, found %s", k.Name, k.Value.Kind)
		}
		return k.Value.Text
	}
	r := &Rule{}
	for _, k := range n.Fields {
		switch k.Name {
		case "ruleName":
			if r.Name = text(k); k.Value.Kind == strictyaml.String {
				if err := CheckName(r.Name); err != nil {
					bad(k.Value.Offset, max(1, len(r.Name)), "", "%s", err)
				}
			}
		case "sql":
			r.SQL = text(k)
		case "description":
			r.Description = text(k)
		case "awsIotSqlVersion":
			r.SQLVersion = text(k)
		case "ruleDisabled":
			if k.Value.Kind != strictyaml.Bool {
				bad(k.Value.Offset, 1, "", "ruleDisabled: expected true or false, found %s", k.Value.Kind)
			}
			r.Disabled = k.Value.Text == "true"
		case "actions":
			if k.Value.Kind != strictyaml.List {
				bad(k.Value.Offset, 1, "", "actions: expected a list, found %s", k.Value.Kind)
				continue
			}
			if len(k.Value.Items) > MaxActions {
				bad(k.Value.Items[MaxActions].Offset, 1, "", "a rule has at most %d actions, this one has %d", MaxActions, len(k.Value.Items))
			}
			for _, x := range k.Value.Items {
				if a, p := s.action(x); p != nil {
					ps = append(ps, p)
				} else {
					r.Actions = append(r.Actions, a)
				}
			}
		case "errorAction":
			if k.Value.Kind == strictyaml.Null {
				continue
			}
			a, p := s.action(k.Value)
			if p != nil {
				ps = append(ps, p)
			}
			r.ErrorAction = &a
		default:
			hint := "known are " + strings.Join(ruleKeys, ", ")
			if near, ok := suggest.Nearest(k.Name, ruleKeys); ok {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			bad(k.Offset, max(1, len(k.Name)), hint, "unknown key %q", k.Name)
		}
	}
	for _, name := range []string{"ruleName", "sql", "actions"} {
		if n.Get(name) == nil {
			bad(n.Offset, 1, "", "the key %q is missing", name)
		}
	}
	if len(ps) == 0 {
		if b, err := json.Marshal(r); err != nil || len(b) > MaxDocument {
			bad(n.Offset, 1, "", "the rule document has %d bytes, at most %d are allowed", len(b), MaxDocument)
		}
	}
	if r.Actions == nil {
		r.Actions = []Action{}
	}
	return r, ps
}

func (s source) action(n *strictyaml.Node) (Action, *Problem) {
	const hint = "write one action as {<kind>: {…}}"
	if n.Kind != strictyaml.Map {
		return Action{}, s.problem(n.Offset, 1, hint, "expected an action, found %s", n.Kind)
	}
	if len(n.Fields) != 1 {
		at := n.Offset
		if len(n.Fields) > 1 {
			at = n.Fields[1].Offset
		}
		return Action{}, s.problem(at, 1, hint+"; each action is an entry of its own", "an action has one key, its kind; this one has %d", len(n.Fields))
	}
	k := n.Fields[0]
	if k.Value.Kind != strictyaml.Map && k.Value.Kind != strictyaml.Null {
		return Action{}, s.problem(k.Value.Offset, 1, "", "%s: expected an object, found %s", k.Name, k.Value.Kind)
	}
	params := []byte("{}")
	if k.Value.Kind == strictyaml.Map {
		params = k.Value.JSON()
	}
	return Action{Kind: k.Name, Params: params}, nil
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
	stmt := d.root.Get("sql")
	prog, err := c.Language.Compile(d.Rule)
	if err != nil {
		return Problems{d.sqlProblem(stmt, err)}
	}
	if c.Action == nil {
		return nil
	}
	var ps Problems
	check := func(n *strictyaml.Node, a Action, errorAction bool) {
		if err := c.Action(ctx, d.Rule, prog, a.Kind, a.Params, errorAction); err != nil {
			ps = append(ps, d.actionProblem(n.Fields[0], err))
		}
	}
	for i, a := range d.Rule.Actions {
		check(d.root.Get("actions").Items[i], a, false)
	}
	if a := d.Rule.ErrorAction; a != nil {
		check(d.root.Get("errorAction"), *a, true)
	}
	return ps.err()
}

// sqlProblem points into the text of n, a string that holds SQL.
func (d *Document) sqlProblem(n *strictyaml.Node, err error) *Problem {
	var se *sql.Error
	if !errors.As(err, &se) {
		return d.src.problem(n.Offset, 1, "", "%s", err)
	}
	if strings.HasPrefix(se.Msg, "unknown SQL version") {
		if v := d.root.Get("awsIotSqlVersion"); v != nil {
			n = v
		}
		return d.src.problem(n.Offset, len(n.Text), se.Hint, "%s", se.Msg)
	}
	from := n.Inside(se.Span.From)
	to := n.Inside(se.Span.To)
	return d.src.problem(from, max(1, to-from), se.Hint, "%s", se.Msg)
}

// actionProblem points at the part of an action an error is about.
func (d *Document) actionProblem(k strictyaml.Field, err error) *Problem {
	var pe placed
	if !errors.As(err, &pe) {
		return d.src.problem(k.Offset, len(k.Name), "", "%s: %s", k.Name, err)
	}
	n, at, width := k.Value, k.Offset, len(k.Name) // the action itself
	path := pe.FieldPath()
	for _, step := range path {
		i := slices.IndexFunc(n.Fields, func(k strictyaml.Field) bool { return k.Name == step })
		if i >= 0 {
			n, at, width = n.Fields[i].Value, n.Fields[i].Offset, max(1, len(n.Fields[i].Name))
			continue
		}
		if j, e := strconv.Atoi(step); e == nil && n.Kind == strictyaml.List && j >= 0 && j < len(n.Items) {
			n = n.Items[j]
			at, width = n.Offset, 1
			continue
		}
		break
	}
	msg := pe.FieldMsg()
	if len(path) > 0 {
		msg = strings.Join(path, ".") + ": " + msg
	}
	msg = k.Name + ": " + msg
	var se *sql.Error
	if errors.As(err, &se) && n.Kind == strictyaml.String {
		p := d.sqlProblem(n, se)
		if p.Hint == "" {
			p.Hint = pe.FieldHint()
		}
		return p
	}
	if off := pe.FieldOffset(); off >= 0 && n.Kind == strictyaml.String {
		at, width = n.Inside(off), 1
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
				n := d.root.Get("ruleName")
				other := first.src.problem(first.root.Get("ruleName").Offset, 1, "", "")
				ps = append(ps, d.src.problem(n.Offset, len(n.Text), "", "rule %q is in %s:%d already", d.Rule.Name, other.File, other.Line))
				continue
			}
			seen[d.Rule.Name] = d
			docs = append(docs, d)
		}
	}
	return docs, ps.err()
}
