package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/actions/preview"
	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/internal/config"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/rulefolder"
	"github.com/weir-iot/weir/internal/strictyaml"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/ruletest"
	"github.com/weir-iot/weir/rules/sql"
)

// exitNoAction is the exit code of `weir rule eval` for a rule that would not
// act.
const exitNoAction = 5

type evalFlags struct {
	sql, file, rule               string
	topic, payload                string
	clientID, principal, sourceIP string
	version, time, fixtures       string
	user                          []string
	http                          bool
}

func (a *app) ruleEvalCmd() *cobra.Command {
	var f evalFlags
	c := &cobra.Command{
		Use:   "eval {--sql TEXT | -f FILE} --topic TOPIC --payload JSON",
		Short: "Show what a rule would make of a message, and why",
		Long: `Evaluates a statement, or a rule file with its actions, over one message. It needs no
server and sends nothing. It prints the result and what each action would be asked to do,
or why the rule would not act: the level at which the topic parts from FROM, WHERE with
the value of every operand, a payload that is not JSON, an action that refuses the result.

Exit codes: 0 the rule acts; 5 it does not act; 4 the statement or the rule is refused;
1 it acts no further than its error action; 2 wrong usage.`,
		Example: `  weir rule eval --sql "SELECT temp FROM 'site/+/temp' WHERE temp > 40" --topic site/3/temp --payload '{"temp": 41}'
  weir rule eval -f rules/hot.yaml --topic site/3/temp --payload @reading.json
  weir tail -n 1 --no-follow -o json 'site/+/temp' | jq -r .payload | weir rule eval -f rules/hot.yaml --topic site/3/temp --payload -`,
		Args: arguments(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.evalRule(cmd.Context(), &f) },
	}
	fl := c.Flags()
	fl.StringVar(&f.sql, "sql", "", "statement, or @FILE, or - for standard input")
	fl.StringVarP(&f.file, "filename", "f", "", "rule file, or - for standard input")
	fl.StringVar(&f.rule, "rule", "", "name of the rule, where the file holds several")
	fl.StringVarP(&f.topic, "topic", "t", "", "topic of the message")
	fl.StringVarP(&f.payload, "payload", "p", "", "payload of the message, or @FILE, or - for standard input")
	fl.StringVar(&f.clientID, "client-id", "client-1", "MQTT client that published it")
	fl.StringVar(&f.principal, "principal", "", "who published it, such as a certificate's id")
	fl.StringVar(&f.sourceIP, "source-ip", "", "address it came from")
	fl.BoolVar(&f.http, "http", false, "it came over HTTPS, not MQTT")
	fl.StringArrayVar(&f.user, "user-property", nil, "MQTT 5 user property, KEY=VALUE (may be repeated)")
	fl.StringVar(&f.version, "version", "2016-03-23", "SQL version, with --sql")
	fl.StringVar(&f.time, "time", "", "when it arrived, RFC 3339 or milliseconds since 1970 (default now)")
	fl.StringVar(&f.fixtures, "fixtures", "", "YAML file with what shadows, tables, functions and secrets answer, as in rule tests")
	return c
}

func (a *app) evalRule(ctx context.Context, f *evalFlags) error {
	stdin := 0
	for _, s := range []string{f.sql, f.file, f.payload} {
		if s == "-" {
			stdin++
		}
	}
	switch {
	case (f.sql == "") == (f.file == ""):
		return usagef("give the statement with --sql, or a rule file with -f")
	case f.topic == "":
		return usagef("give the message's topic with --topic")
	case stdin > 1:
		return usagef("standard input can be read once")
	}
	e, err := a.evalEvent(f)
	if err != nil {
		return err
	}
	o := ruletest.Options{AccountID: config.Default(false).AccountID, Lookups: ruletest.Lookups(), Actions: previewActions}
	fixtures, err := ruletest.ReadFixtures(f.fixtures)
	if err != nil {
		return detailed(exitRefused, err)
	}
	ctx = ruletest.WithFixtures(ctx, fixtures)
	var rule *ruletest.Rule
	if f.file != "" {
		doc, err := a.ruleDocument(f.file)
		if err != nil {
			return err
		}
		docs, err := rules.Parse(doc.Name, doc.Content)
		var one *rules.Document
		if err == nil {
			one, err = ruletest.Choose(doc.Name, f.rule, docs)
		}
		if err == nil {
			rule, err = ruletest.Compile(ctx, doc.Name, one, o)
		}
		if err != nil {
			return detailed(exitRefused, err)
		}
		defer rule.Close(ctx)
	} else {
		text, err := a.textFlag(f.sql)
		if err != nil {
			return err
		}
		name, _, _ := topic.Name(f.topic).Rule() // whose topic it is
		if rule, err = ruletest.CompileSQL(name, strings.TrimSpace(string(text)), f.version, o); err != nil {
			return detailed(exitRefused, err)
		}
	}
	m := eval.NewMachine()
	out := rule.Run(ctx, m, e)
	x := rule.Program.Explain(ctx, m, e)
	if a.output == "json" {
		if err := a.printJSON(evalJSON(ctx, rule, e, x, out)); err != nil {
			return err
		}
	} else {
		for _, w := range rule.Warnings {
			fmt.Fprintf(a.stderr, "warning: sql %s\n", printableLines(w.Detail()))
		}
		fmt.Fprint(a.stdout, evalText(rule, x, out, rule.Empty(ctx, e), ruletest.MissingFixture(ctx) != ""))
	}
	return evalExit(out)
}

func evalExit(o *ruletest.Outcome) error {
	if o.Err != nil {
		return &exitError{exitFailure, ""}
	}
	if !o.Acts {
		return &exitError{exitNoAction, ""}
	}
	for _, act := range o.Actions {
		if act.Err != nil {
			return &exitError{exitFailure, ""}
		}
	}
	return nil
}

// evalEvent makes the message the flags describe.
func (a *app) evalEvent(f *evalFlags) (*event.Event, error) {
	limits := ingest.AWS()
	name, err := topic.ParseName(f.topic, limits.Topic())
	if err != nil {
		return nil, usagef("--topic: %v", err)
	}
	e := &event.Event{Topic: name, ClientID: f.clientID, Principal: f.principal, SourceIP: f.sourceIP, Seq: 1,
		Received: time.Now().UTC().Truncate(time.Millisecond)}
	if f.http {
		e.Protocol, e.ClientID = event.HTTP, ""
	}
	if f.time != "" {
		if e.Received, err = ruletest.ParseTime(f.time); err != nil {
			return nil, usagef("--time: %v", err)
		}
	}
	for _, u := range f.user {
		k, v, ok := strings.Cut(u, "=")
		if !ok {
			return nil, usagef("--user-property %s: expected KEY=VALUE", u)
		}
		if e.Props == nil {
			e.Props = &event.Properties{}
		}
		e.Props.User = append(e.Props.User, event.UserProperty{Key: k, Value: v})
	}
	e.Payload, err = a.textFlag(f.payload)
	return e, err
}

// textFlag returns the value of a flag that may name a file.
func (a *app) textFlag(s string) ([]byte, error) {
	if s == "-" {
		return io.ReadAll(io.LimitReader(a.stdin, maxPayload))
	}
	if name, ok := strings.CutPrefix(s, "@"); ok {
		return os.ReadFile(name)
	}
	return []byte(s), nil
}

func (a *app) ruleDocument(name string) (rulefolder.File, error) {
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		return rulefolder.File{}, usagef("-f %s is a folder: name one rule file", name)
	}
	files, err := a.readRules(name)
	if err != nil {
		return rulefolder.File{}, err
	}
	return files[0], nil
}

// detailed is err with an exit code and all a user should read.
func detailed(code int, err error) error {
	var bad *sql.Error
	var at control.Detailed
	text := err.Error()
	switch {
	case errors.As(err, &at):
		text = at.Detail()
		if errors.As(err, &bad) && at == control.Detailed(bad) {
			text = "sql " + text
		}
	}
	return &exitError{code, printableLines(text)}
}

// previewActions joins rule tests with the actions.
func previewActions(ctx context.Context, r *rules.Rule, p *eval.Program, act rules.Action, errorAction bool) (ruletest.Action, error) {
	limits, c := ingest.AWS(), config.Default(false)
	a, err := preview.New(ctx, preview.Options{Rule: r.Name, Kind: act.Kind, Params: act.Params, Program: p, ErrorAction: errorAction,
		AccountID: c.AccountID, Region: c.Region, Topics: limits.Topic()})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// margin is the width of the labels on the left.
const margin = 9

// evalText shows an outcome to people.
func evalText(r *ruletest.Rule, x *eval.Explanation, o *ruletest.Outcome, empty [][]string, missing bool) string {
	var b strings.Builder
	label := func(s string) { fmt.Fprintf(&b, "%-*s", margin, s) }
	line := func(name, format string, args ...any) {
		label(name)
		fmt.Fprintf(&b, format+"\n", args...)
	}
	if r.Doc.Disabled {
		line("rule", "%s is disabled; enabled it would do this:", r.Doc.Name)
	}
	name := printable(string(x.Topic))
	_, _, basic := x.Topic.Rule()
	if miss := r.Program.Mismatch(x.Topic); miss == nil && basic {
		line("topic", "%s reaches the rule by Basic Ingest", name)
	} else if miss == nil {
		line("topic", "%s matches %s", name, x.Filter)
	} else {
		if x.Filter == "" {
			line("topic", "%s does not match", name)
		} else {
			line("topic", "%s does not match %s", name, x.Filter)
		}
		if miss.Level > 0 {
			at := utf8.RuneCountInString(name[:min(miss.From, len(name))])
			label("")
			fmt.Fprintf(&b, "%s%s %s\n", strings.Repeat(" ", at), strings.Repeat("^", max(1, utf8.RuneCountInString(miss.Have))), printable(miss.Text))
		} else {
			line("", "%s", printable(miss.Text))
		}
	}
	if x.NoMembers != "" {
		line("payload", "%s: every member is Undefined", strings.TrimPrefix(x.NoMembers, "the payload "))
	}
	for i, v := range x.Vars {
		line(map[bool]string{true: "set"}[i == 0], "@%s = %s", v.Name, printable(short(v.Value, 120)))
	}
	if x.Where != nil {
		label("where")
		for i, l := range x.Where.Tree() {
			if i > 0 {
				label("")
			}
			b.WriteString(printable(l) + "\n")
		}
	}
	switch {
	case o.Err != nil:
		line("result", "error: %s", printable(o.Err.Error()))
		if missing {
			line("", "hint: say what it answers in a file, and name it with --fixtures")
		}
	case o.Acts:
		label("result")
		b.WriteString(indent(shownPayload(o.Payload), margin))
		b.WriteByte('\n')
		if left := r.LeftOut(o.Payload); len(left) > 0 {
			line("", "left out, being Undefined: %s", printable(strings.Join(left, ", ")))
		}
	case o.Reason == "topic":
		line("result", "no action: the topic does not match")
	case o.Reason == "where":
		line("result", "no action: WHERE is %s, not true", x.Where.Value)
	default:
		line("result", "no action: the statement calls get_dynamodb more than once")
	}
	for i := range o.Actions {
		filledText(&b, fmt.Sprintf("action %d", i+1), &o.Actions[i])
		for _, s := range empty[i] {
			line("", "  %s stands for nothing", printable(s))
		}
	}
	switch {
	case o.OnError != nil:
		filledText(&b, "error", o.OnError)
	case r.File != "" && (o.Err != nil || o.Acts && evalExit(o) != nil):
		line("error", "the rule has no error action: the message goes to the dead letters")
	}
	return b.String()
}

func filledText(b *strings.Builder, label string, f *ruletest.Filled) {
	fmt.Fprintf(b, "%-*s%s\n", margin, label, f.Kind)
	if f.Err != nil {
		fmt.Fprintf(b, "%-*s  refused: %s\n", margin, "", printable(f.Err.Error()))
	}
	n, err := strictyaml.Parse(f.Kind, f.Params)
	if err != nil {
		return
	}
	rows := parameters(n, "")
	width := 0
	for _, r := range rows {
		width = max(width, utf8.RuneCountInString(r[0]))
	}
	for _, r := range rows {
		fmt.Fprintf(b, "%-*s  %s%s  %s\n", margin, "", r[0], strings.Repeat(" ", width-utf8.RuneCountInString(r[0])), printable(r[1]))
	}
}

// parameters flattens an action's parameters to dotted paths. Roles are left
// out: Weir does not use them.
func parameters(n *strictyaml.Node, path string) (rows [][2]string) {
	switch n.Kind {
	case strictyaml.Map:
		for _, f := range n.Fields {
			if f.Name == "roleArn" {
				continue
			}
			rows = append(rows, parameters(f.Value, strings.TrimPrefix(path+"."+f.Name, "."))...)
		}
	case strictyaml.List:
		for i, item := range n.Items {
			rows = append(rows, parameters(item, fmt.Sprintf("%s.%d", path, i))...)
		}
	case strictyaml.String:
		if n.Text == "" {
			return [][2]string{{path, `""`}}
		}
		return [][2]string{{path, n.Text}}
	default:
		return [][2]string{{path, string(n.JSON())}}
	}
	return rows
}

// shownPayload is a payload as a terminal may have it, JSON in several lines
// where one would be long.
func shownPayload(p []byte) string {
	if len(p) == 0 {
		return "an empty payload"
	}
	if !utf8.Valid(p) {
		return fmt.Sprintf("%d bytes that are not text, in base64: %s", len(p), base64.StdEncoding.EncodeToString(p))
	}
	if len(p) > 90 && json.Valid(p) {
		var b bytes.Buffer
		if json.Indent(&b, p, "", "  ") == nil {
			return printableLines(b.String())
		}
	}
	return printableLines(string(p))
}

func indent(s string, n int) string {
	return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", n))
}

// evaluation is an outcome as -o json prints it.
type evaluation struct {
	Topic     topic.Name        `json:"topic"`
	Filter    topic.Filter      `json:"filter,omitempty"`
	Matches   bool              `json:"matches"`
	Mismatch  *mismatchJSON     `json:"mismatch,omitempty"`
	NoMembers string            `json:"noMembers,omitempty"` // why the payload has no members
	Set       []variableJSON    `json:"set,omitempty"`
	Where     *operandJSON      `json:"where,omitempty"`
	Disabled  bool              `json:"disabled,omitempty"`
	Acts      bool              `json:"acts"`
	Reason    string            `json:"reason,omitempty"`  // why not: topic, where, error, twice
	Payload   json.RawMessage   `json:"payload,omitempty"` // of the result: JSON, or its text as a string
	Binary    string            `json:"payloadBase64,omitempty"`
	Error     string            `json:"error,omitempty"`
	Actions   []filledJSON      `json:"actions,omitempty"`
	OnError   *filledJSON       `json:"errorAction,omitempty"`
	LeftOut   []string          `json:"leftOut,omitempty"` // columns that are Undefined
	Warnings  []control.Problem `json:"warnings,omitempty"`
}

type mismatchJSON struct {
	Level int    `json:"level,omitempty"`
	Have  string `json:"have,omitempty"`
	Want  string `json:"want,omitempty"`
	Text  string `json:"text"`
}

type variableJSON struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type operandJSON struct {
	Text     string         `json:"text"`
	Value    string         `json:"value"`
	Note     string         `json:"note,omitempty"`
	Operands []*operandJSON `json:"operands,omitempty"`
}

type filledJSON struct {
	Kind   string          `json:"kind"`
	Params json.RawMessage `json:"parameters"`
	Error  string          `json:"error,omitempty"`
	Empty  []string        `json:"empty,omitempty"` // substitutions that give nothing
}

func evalJSON(ctx context.Context, r *ruletest.Rule, e *event.Event, x *eval.Explanation, o *ruletest.Outcome) *evaluation {
	out := &evaluation{Topic: e.Topic, Filter: x.Filter, Matches: x.Matches, NoMembers: x.NoMembers, Disabled: r.Doc.Disabled, Acts: o.Acts, Reason: o.Reason}
	if m := r.Program.Mismatch(e.Topic); m != nil {
		out.Mismatch = &mismatchJSON{m.Level, m.Have, m.Want, m.Text}
	}
	for _, v := range x.Vars {
		out.Set = append(out.Set, variableJSON{v.Name, v.Value})
	}
	if x.Where != nil {
		out.Where = operandOf(x.Where)
	}
	if o.Acts {
		out.LeftOut = r.LeftOut(o.Payload)
		switch {
		case json.Valid(o.Payload):
			out.Payload = o.Payload
		case utf8.Valid(o.Payload):
			out.Payload = strictyaml.AppendString(nil, string(o.Payload))
		default:
			out.Binary = base64.StdEncoding.EncodeToString(o.Payload)
		}
	}
	if o.Err != nil {
		out.Error = o.Err.Error()
	}
	empty := r.Empty(ctx, e)
	for i := range o.Actions {
		f := filledOf(&o.Actions[i])
		f.Empty = empty[i]
		out.Actions = append(out.Actions, f)
	}
	if o.OnError != nil {
		f := filledOf(o.OnError)
		out.OnError = &f
	}
	for _, w := range r.Warnings {
		out.Warnings = append(out.Warnings, control.Problem{Message: w.Msg, Line: w.Line, Column: w.Column, Detail: w.Detail()})
	}
	return out
}

func operandOf(o *eval.Operand) *operandJSON {
	out := &operandJSON{Text: o.Text, Value: o.Value, Note: o.Note}
	for _, y := range o.Operands {
		out.Operands = append(out.Operands, operandOf(y))
	}
	return out
}

func filledOf(f *ruletest.Filled) filledJSON {
	out := filledJSON{Kind: f.Kind, Params: f.Params}
	if f.Err != nil {
		out.Error = f.Err.Error()
	}
	return out
}
