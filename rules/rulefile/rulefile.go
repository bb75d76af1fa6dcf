// Package rulefile reads a rule's document from a file, YAML or JSON, and shows
// mistakes in it at their place.
//
// It stands before any message: what it reads is stored, tried out or tested.
package rulefile

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/weir-iot/weir/internal/strictyaml"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/sql"
)

// File is a rule with the places of its parts.
type File struct {
	Name string // of the file
	Rule *rules.Rule
	root *strictyaml.Node
}

// Read reads a rule document. Unknown keys, repeated keys and values of a wrong
// kind are a *strictyaml.Error. The statement and the actions' parameters are
// not looked into.
func Read(name string, src []byte) (*File, error) {
	root, err := strictyaml.Parse(name, src)
	if err != nil {
		return nil, err
	}
	if err := root.Keys("ruleName", "sql", "description", "awsIotSqlVersion", "ruleDisabled", "actions", "errorAction"); err != nil {
		return nil, err
	}
	f := &File{Name: name, Rule: &rules.Rule{}, root: root}
	r := f.Rule
	for _, t := range []struct {
		key  string
		into *string
	}{{"ruleName", &r.Name}, {"sql", &r.SQL}, {"description", &r.Description}, {"awsIotSqlVersion", &r.SQLVersion}} {
		n := root.Get(t.key)
		if n == nil {
			continue
		}
		if err := n.Expect(t.key, strictyaml.String); err != nil {
			if t.key == "awsIotSqlVersion" {
				return nil, n.Errorf("write it in quotes: '2016-03-23'", "awsIotSqlVersion: expected a text, found %s", n.Kind)
			}
			return nil, err
		}
		*t.into = n.Text
	}
	if r.Name == "" {
		return nil, root.KeyErrorf("ruleName", "add ruleName: a_name", "the rule has no name")
	}
	if err := rules.CheckName(r.Name); err != nil {
		return nil, root.Get("ruleName").Errorf("", "%v", err)
	}
	if r.SQL == "" {
		return nil, root.KeyErrorf("sql", "add sql: SELECT * FROM 'a/topic'", "the rule has no statement")
	}
	if n := root.Get("ruleDisabled"); n != nil {
		if err := n.Expect("ruleDisabled", strictyaml.Bool); err != nil {
			return nil, err
		}
		r.Disabled = n.Text == "true"
	}
	if n := root.Get("actions"); n != nil {
		if err := n.Expect("actions", strictyaml.List); err != nil {
			return nil, err
		}
		if len(n.Items) > rules.MaxActions {
			return nil, n.Errorf("", "a rule has at most %d actions, this one has %d", rules.MaxActions, len(n.Items))
		}
		for _, item := range n.Items {
			a, err := action(item)
			if err != nil {
				return nil, err
			}
			r.Actions = append(r.Actions, a)
		}
	}
	if len(r.Actions) == 0 {
		return nil, root.KeyErrorf("actions", "add actions: and below it - republish: {topic: results/${topic(2)}}", "the rule has no action")
	}
	if n := root.Get("errorAction"); n != nil {
		a, err := action(n)
		if err != nil {
			return nil, err
		}
		r.ErrorAction = &a
	}
	return f, nil
}

func action(n *strictyaml.Node) (rules.Action, error) {
	if err := n.Expect("an action", strictyaml.Map); err != nil {
		return rules.Action{}, err
	}
	if len(n.Fields) != 1 {
		return rules.Action{}, n.Errorf("begin each action with a dash of its own", "an action has one key, its kind; this one has %d", len(n.Fields))
	}
	f := n.Fields[0]
	if err := f.Value.Expect(f.Name, strictyaml.Map); err != nil {
		return rules.Action{}, err
	}
	return rules.Action{Kind: f.Name, Params: f.Value.JSON()}, nil
}

// SQLError is a mistake in the statement of a file.
type SQLError struct {
	File string
	Line int // where the statement begins in the file
	Err  *sql.Error
}

func (e *SQLError) Error() string {
	return fmt.Sprintf("%s:%d: sql %s", e.File, e.Line, e.Err)
}

// Detail shows the place in the statement, and the hint.
func (e *SQLError) Detail() string {
	return fmt.Sprintf("%s:%d: sql %s", e.File, e.Line, e.Err.Detail())
}

func (e *SQLError) Unwrap() error { return e.Err }

// InSQL gives a mistake in the statement its file; other errors come back as
// they are.
func (f *File) InSQL(err error) error {
	var at *sql.Error
	if !errors.As(err, &at) {
		return err
	}
	line := 1
	if n := f.root.Get("sql"); n != nil {
		line = n.Line
	}
	return &SQLError{File: f.Name, Line: line, Err: at}
}

// fieldError is how actions tell which of their fields is wrong.
type fieldError interface {
	FieldPath() []string
	FieldOffset() int
	FieldMsg() string
	FieldHint() string
}

// InAction gives a mistake in the i-th action, in the error action where i is
// -1, its place in the file.
func (f *File) InAction(i int, err error) error {
	path := []string{"errorAction"}
	kind := ""
	if i >= 0 {
		path = []string{"actions", strconv.Itoa(i)}
		kind = f.Rule.Actions[i].Kind
	} else if f.Rule.ErrorAction != nil {
		kind = f.Rule.ErrorAction.Kind
	}
	action := f.root.Walk(path...)
	var at fieldError
	if !errors.As(err, &at) {
		return action.Errorf("", "%v", err)
	}
	n := action.Walk(append([]string{kind}, at.FieldPath()...)...)
	if p := at.FieldPath(); len(p) > 0 {
		// An unknown key is shown itself, not its value.
		parent := action.Walk(append([]string{kind}, p[:len(p)-1]...)...)
		if at.FieldOffset() < 0 && parent.Kind == strictyaml.Map {
			return parent.KeyErrorf(p[len(p)-1], at.FieldHint(), "%s: %s", kind, at.FieldMsg())
		}
	}
	return n.ErrorAt(at.FieldOffset(), at.FieldHint(), "%s: %s", kind, at.FieldMsg())
}

// UnknownAction returns the error for an action whose kind is not known. i is as
// in InAction.
func (f *File) UnknownAction(i int, hint string) error {
	path, kind := []string{"errorAction"}, ""
	if i >= 0 {
		path, kind = []string{"actions", strconv.Itoa(i)}, f.Rule.Actions[i].Kind
	} else if f.Rule.ErrorAction != nil {
		kind = f.Rule.ErrorAction.Kind
	}
	return f.root.Walk(path...).KeyErrorf(kind, hint, "unknown action %q", kind)
}
