package ruletest

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/rulefolder"
	"github.com/weir-iot/weir/internal/strictyaml"
	"github.com/weir-iot/weir/internal/suggest"
	"github.com/weir-iot/weir/internal/topic"
)

// Suffixes of the files that hold rule tests.
var suffixes = []string{".rule_test.yaml", ".rule_test.yml"}

// IsTest reports whether name is one of a file with rule tests.
func IsTest(name string) bool {
	return slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) })
}

// Find returns the test files and the rule files below paths, sorted. A path is
// a test file, a folder, or a folder and all below it: rules/... Hidden folders
// and folders named testdata are passed over.
func Find(paths ...string) (tests, ruleFiles []string, err error) {
	add := func(name string) {
		switch {
		case IsTest(name):
			tests = append(tests, filepath.Clean(name))
		case rulefolder.IsRule(name):
			ruleFiles = append(ruleFiles, filepath.Clean(name))
		}
	}
	for _, p := range paths {
		root, deep := strings.CutSuffix(filepath.ToSlash(p), "...")
		if deep {
			if root = strings.TrimSuffix(root, "/"); root == "" {
				root = "."
			}
			err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
				base := filepath.Base(name)
				switch {
				case err != nil:
					return err
				case d.IsDir() && name != root && (strings.HasPrefix(base, ".") || base == "testdata"):
					return fs.SkipDir
				case !d.IsDir():
					add(name)
				}
				return nil
			})
			if err != nil {
				return nil, nil, err
			}
			continue
		}
		info, err := os.Stat(p)
		if err != nil {
			return nil, nil, err
		}
		if !info.IsDir() {
			if !IsTest(p) {
				return nil, nil, fmt.Errorf("%s: the name of a file with rule tests ends with %s", p, suffixes[0])
			}
			add(p)
			continue
		}
		entries, err := os.ReadDir(p)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range entries {
			if !e.IsDir() {
				add(filepath.Join(p, e.Name()))
			}
		}
	}
	slices.Sort(tests)
	slices.Sort(ruleFiles)
	return slices.Compact(tests), slices.Compact(ruleFiles), nil
}

// testFile is one file with rule tests.
type testFile struct {
	name     string // path
	rule     string // path of the rule file
	ruleName string // "": the file's only rule
	cases    []*testCase
}

// testCase is one event and what is expected of it.
type testCase struct {
	name     string
	line     int // in the file
	event    *event.Event
	fixtures *Fixtures
	expect   expectation
}

// expectation is what a rule should make of an event.
type expectation struct {
	acts        bool
	reason      string           // where it should not act: "topic", "where"; "": any
	payload     *strictyaml.Node // nil: not looked at
	includes    *strictyaml.Node // members that must be there
	members     []member         // of a table
	binary      []byte           // nil: not looked at
	actions     *strictyaml.Node // nil: not looked at
	errorAction *strictyaml.Node
	err         string // text the error must contain
	hasErr      bool
	golden      string // path of a file; "": none
}

// member is one cell of a table: a place in the result or in an action's
// parameters, and what should stand there.
type member struct {
	action int // from 0; -1: in the result
	path   []string
	want   *strictyaml.Node // Null: nothing
}

// DefaultTime is when events arrive that say nothing of it.
var DefaultTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func readTests(name string, src []byte) (*testFile, error) {
	root, err := strictyaml.Parse(name, src)
	if err != nil {
		return nil, err
	}
	if err := root.Keys("rule", "ruleName", "defaults", "fixtures", "tests"); err != nil {
		return nil, err
	}
	dir := filepath.Dir(name)
	f := &testFile{name: name}
	if n := root.Get("rule"); n != nil {
		if err := n.Expect("rule", strictyaml.String); err != nil {
			return nil, err
		}
		f.rule = filepath.Join(dir, filepath.FromSlash(n.Text))
		if _, err := os.Stat(f.rule); err != nil {
			return nil, n.Errorf("the path counts from the folder of this file", "the rule file %s cannot be read", f.rule)
		}
	} else if f.rule = ruleBeside(name); f.rule == "" {
		return nil, root.Errorf("write rule: and the rule's file, or name this file like it", "no rule file %s beside this file", filepath.Base(trimSuffix(name))+".yaml")
	}
	if n := root.Get("ruleName"); n != nil {
		f.ruleName = n.Text
	}
	fixtures, err := readFixtures(root.Get("fixtures"), dir, nil)
	if err != nil {
		return nil, err
	}
	b := &caseReader{dir: dir, file: f, fixtures: fixtures, names: map[string]int{}, golden: map[string]int{}, defaults: root.Get("defaults")}
	if b.defaults != nil {
		if err := b.defaults.Keys(eventKeys...); err != nil {
			return nil, err
		}
	}
	tests := root.Get("tests")
	if tests == nil {
		return nil, root.Errorf("add tests: and below it - name: …", "the file has no tests")
	}
	if err := tests.Expect("tests", strictyaml.List); err != nil {
		return nil, err
	}
	for _, n := range tests.Items {
		if err := b.test(n); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func trimSuffix(name string) string {
	for _, s := range suffixes {
		name = strings.TrimSuffix(name, s)
	}
	return name
}

// ruleBeside returns the rule file that a test file is named after.
func ruleBeside(name string) string {
	for _, ext := range []string{".yaml", ".yml", ".json"} {
		if p := trimSuffix(name) + ext; p != name {
			if _, err := os.Stat(p); err == nil {
				return p
			}
		}
	}
	return ""
}

// caseReader reads the tests of one file.
type caseReader struct {
	dir      string
	file     *testFile
	fixtures *Fixtures
	defaults *strictyaml.Node
	names    map[string]int // line of each test
	golden   map[string]int // line of each test whose golden file is named after it
}

func (b *caseReader) test(n *strictyaml.Node) error {
	if err := n.Keys("name", "event", "fixtures", "expect", "table"); err != nil {
		return err
	}
	name := n.Get("name")
	if name == nil {
		return n.Errorf("begin it with - name: what it shows", "the test has no name")
	}
	if err := name.Expect("name", strictyaml.String, strictyaml.Number); err != nil {
		return err
	}
	if line, twice := b.names[name.Text]; twice {
		return name.Errorf(fmt.Sprintf("the other is in line %d", line), "two tests have the name %q", name.Text)
	}
	b.names[name.Text] = name.Line
	fixtures, err := readFixtures(n.Get("fixtures"), b.dir, b.fixtures)
	if err != nil {
		return err
	}
	given := n.Get("event")
	if given != nil {
		if err := given.Keys(eventKeys...); err != nil {
			return err
		}
		if err := noEmpty(given); err != nil {
			return err
		}
	} else if b.defaults == nil {
		return n.Errorf("add event: {topic: …, payload: …}", "the test has no event")
	}
	c := testCase{name: name.Text, line: name.Line, fixtures: fixtures}
	expect, table := n.Get("expect"), n.Get("table")
	switch {
	case table != nil && expect != nil:
		return n.KeyErrorf("expect", "put what is expected into columns: acts, result.…, actions.1.…, error", "a test with a table has no expect")
	case table != nil:
		return b.table(c, n, given, table)
	case expect == nil:
		return n.Errorf("add expect: {payload: …}, {actions: …}, {noAction: true} or {error: …}", "the test %q expects nothing", c.name)
	}
	if c.event, err = b.event(n, given, nil); err != nil {
		return err
	}
	if c.expect, err = b.expectation(c.name, expect); err != nil {
		return err
	}
	b.file.cases = append(b.file.cases, &c)
	return nil
}

var eventKeys = []string{"topic", "payload", "payloadFile", "payloadBase64", "clientId", "principal", "sourceIp", "time", "protocol", "qos", "seq", "properties"}

// noEmpty refuses keys without a value: what was meant cannot be told.
func noEmpty(n *strictyaml.Node) error {
	for _, f := range n.Fields {
		if f.Value.Kind == strictyaml.Null {
			return n.KeyErrorf(f.Name, "leave the key out; for null in JSON write "+f.Name+": 'null'", "%s has no value", f.Name)
		}
	}
	return nil
}

// event makes the event of a test: the defaults, over them what the test gives,
// over both a row of a table.
func (b *caseReader) event(at, given *strictyaml.Node, row map[string]*strictyaml.Node) (*event.Event, error) {
	get := func(key string) *strictyaml.Node {
		if v, ok := row[key]; ok {
			if v.Kind == strictyaml.Null {
				return nil
			}
			return v
		}
		if v := given.Get(key); v != nil {
			return v
		}
		return b.defaults.Get(key)
	}
	e := &event.Event{Received: DefaultTime, Seq: 1}
	n := get("topic")
	if n == nil {
		return nil, at.Errorf("add topic: to its event, or to defaults", "the event has no topic")
	}
	var err error
	if e.Topic, err = topic.ParseName(n.Text, topic.Limits{}); err != nil || n.Kind != strictyaml.String {
		return nil, n.Errorf("", "topic: %v", err)
	}
	for _, t := range []struct {
		key  string
		into *string
	}{{"clientId", &e.ClientID}, {"principal", &e.Principal}, {"sourceIp", &e.SourceIP}} {
		if n := get(t.key); n != nil {
			if err := n.Expect(t.key, strictyaml.String, strictyaml.Number); err != nil {
				return nil, err
			}
			*t.into = n.Text
		}
	}
	if n := get("time"); n != nil {
		if e.Received, err = ParseTime(n.Text); err != nil {
			return nil, n.Errorf("", "time: %v", err)
		}
	}
	for _, t := range []struct {
		key string
		max uint64
		set func(uint64)
	}{{"qos", 1, func(v uint64) { e.QoS = byte(v) }}, {"seq", 1 << 62, func(v uint64) { e.Seq = v }}} {
		if n := get(t.key); n != nil {
			v, err := strconv.ParseUint(n.Text, 10, 64)
			if err != nil || v > t.max {
				return nil, n.Errorf("", "%s: expected a number from 0 to %d", t.key, t.max)
			}
			t.set(v)
		}
	}
	if n := get("protocol"); n != nil {
		switch n.Text {
		case "mqtt":
		case "http":
			e.Protocol = event.HTTP
		default:
			return nil, n.Errorf("mqtt or http", "protocol: %q is not known", n.Text)
		}
	}
	if n := get("properties"); n != nil {
		if e.Props, err = properties(n); err != nil {
			return nil, err
		}
	}
	e.Payload, err = b.payload(given, row)
	return e, err
}

// payload returns the bytes of an event.
func (b *caseReader) payload(given *strictyaml.Node, row map[string]*strictyaml.Node) ([]byte, error) {
	// What comes nearer stands in for all the ways of what is farther away.
	level := b.defaults
	for _, key := range []string{"payload", "payloadFile", "payloadBase64"} {
		if given.Get(key) != nil {
			level = given
		}
	}
	n, file, coded := level.Get("payload"), level.Get("payloadFile"), level.Get("payloadBase64")
	if n != nil && (file != nil || coded != nil) || file != nil && coded != nil {
		return nil, level.Errorf("", "payload, payloadFile and payloadBase64: give one of them")
	}
	if v, ok := row["payload"]; ok {
		n, file, coded = v, nil, nil
	}
	var edits []string
	for key := range row {
		if strings.HasPrefix(key, "payload.") {
			edits = append(edits, key)
		}
	}
	slices.Sort(edits)
	switch {
	case file != nil && len(edits) == 0:
		p, err := os.ReadFile(filepath.Join(b.dir, filepath.FromSlash(file.Text)))
		if err != nil {
			return nil, file.Errorf("the path counts from the folder of this file", "payloadFile: %v", err)
		}
		return p, nil
	case coded != nil && len(edits) == 0:
		p, err := base64.StdEncoding.DecodeString(coded.Text)
		if err != nil {
			return nil, coded.Errorf("", "payloadBase64: %v", err)
		}
		return p, nil
	}
	for _, key := range edits {
		if n != nil && n.Kind != strictyaml.Map {
			return nil, n.Errorf("write the payload as keys and values", "the table has a column %s, and the payload is %s", key, n.Kind)
		}
		n = with(n, strings.Split(strings.TrimPrefix(key, "payload."), "."), row[key])
	}
	switch {
	case n == nil || n.Kind == strictyaml.Null:
		return nil, nil
	case n.Kind == strictyaml.String:
		return []byte(n.Text), nil
	}
	return n.JSON(), nil
}

// with returns a copy of n, a Map or nil, with v at path; a Null takes away what
// is there.
func with(n *strictyaml.Node, path []string, v *strictyaml.Node) *strictyaml.Node {
	c := &strictyaml.Node{Kind: strictyaml.Map}
	if n != nil && n.Kind == strictyaml.Map {
		*c = *n
		c.Fields = slices.Clone(n.Fields)
	}
	i := slices.IndexFunc(c.Fields, func(f strictyaml.Field) bool { return f.Name == path[0] })
	if len(path) > 1 {
		var inner *strictyaml.Node
		if i >= 0 {
			inner = c.Fields[i].Value
		} else if v.Kind == strictyaml.Null {
			return c
		}
		v = with(inner, path[1:], v)
	}
	switch {
	case v.Kind == strictyaml.Null && i >= 0:
		c.Fields = slices.Delete(c.Fields, i, i+1)
	case v.Kind == strictyaml.Null:
	case i >= 0:
		c.Fields[i].Value = v
	default:
		c.Fields = append(c.Fields, strictyaml.Field{Name: path[0], Value: v})
	}
	return c
}

func properties(n *strictyaml.Node) (*event.Properties, error) {
	if err := n.Keys("contentType", "responseTopic", "correlationData", "messageExpiry", "payloadFormatIndicator", "userProperties"); err != nil {
		return nil, err
	}
	p := &event.Properties{}
	for _, f := range n.Fields {
		v := f.Value
		if f.Name == "userProperties" {
			if err := v.Expect(f.Name, strictyaml.List); err != nil {
				return nil, err
			}
			for _, pair := range v.Items {
				if err := pair.Keys("key", "value"); err != nil {
					return nil, err
				}
				key, value := pair.Get("key"), pair.Get("value")
				if key == nil || value == nil {
					return nil, pair.Errorf("write {key: zone, value: north}", "a user property has a key and a value")
				}
				p.User = append(p.User, event.UserProperty{Key: key.Text, Value: value.Text})
			}
			continue
		}
		if err := v.Expect(f.Name, strictyaml.String, strictyaml.Number); err != nil {
			return nil, err
		}
		switch f.Name {
		case "contentType":
			p.ContentType = v.Text
		case "responseTopic":
			p.ResponseTopic = v.Text
		case "correlationData":
			raw, err := base64.StdEncoding.DecodeString(v.Text)
			if err != nil {
				return nil, v.Errorf("write it in base64", "correlationData: %v", err)
			}
			p.CorrelationData = raw
		case "messageExpiry":
			s, err := strconv.ParseUint(v.Text, 10, 32)
			if err != nil {
				return nil, v.Errorf("", "messageExpiry: expected seconds")
			}
			p.MessageExpiry = uint32(s)
		case "payloadFormatIndicator":
			if v.Text != "UTF8_DATA" && v.Text != "UNSPECIFIED_BYTES" {
				return nil, v.Errorf("UTF8_DATA or UNSPECIFIED_BYTES", "payloadFormatIndicator: %q is not known", v.Text)
			}
			p.PayloadUTF8 = v.Text == "UTF8_DATA"
		}
	}
	return p, nil
}

func (b *caseReader) expectation(name string, n *strictyaml.Node) (x expectation, err error) {
	if err := n.Keys("payload", "payloadIncludes", "payloadBase64", "actions", "errorAction", "noAction", "error", "golden"); err != nil {
		return x, err
	}
	if err := noEmpty(n); err != nil {
		return x, err
	}
	x = expectation{acts: true, payload: n.Get("payload"), includes: n.Get("payloadIncludes"), actions: n.Get("actions"), errorAction: n.Get("errorAction")}
	if c := n.Get("payloadBase64"); c != nil {
		if x.binary, err = base64.StdEncoding.DecodeString(c.Text); err != nil {
			return x, c.Errorf("", "payloadBase64: %v", err)
		}
	}
	if e := n.Get("error"); e != nil {
		if err := e.Expect("error", strictyaml.String); err != nil {
			return x, err
		}
		x.err, x.hasErr = e.Text, true
	}
	if v := n.Get("noAction"); v != nil {
		switch {
		case v.Kind == strictyaml.Bool && v.Text == "true":
		case v.Kind == strictyaml.String && (v.Text == "topic" || v.Text == "where"):
			x.reason = v.Text
		default:
			return x, v.Errorf("true; or topic or where, to say why", "noAction: %q is not known", v.Text)
		}
		x.acts = false
		if len(n.Fields) > 1 {
			return x, v.Errorf("", "noAction stands alone: a rule that does not act has no result")
		}
	}
	if g := n.Get("golden"); g != nil {
		switch {
		case g.Kind == strictyaml.Bool && g.Text == "true":
			x.golden = filepath.Join(b.dir, "testdata", filepath.Base(trimSuffix(b.file.name)), slug(name)+".json")
			if line, twice := b.golden[x.golden]; twice {
				return x, g.Errorf("name one of the files: golden: testdata/other.json", "the golden file %s is that of the test in line %d", x.golden, line)
			}
			b.golden[x.golden] = g.Line
		case g.Kind == strictyaml.String && g.Text != "":
			x.golden = filepath.Join(b.dir, filepath.FromSlash(g.Text))
		default:
			return x, g.Errorf("true, or the path of a file", "golden: expected a file")
		}
	}
	if x.actions != nil {
		if err := x.actions.Expect("actions", strictyaml.List); err != nil {
			return x, err
		}
		for _, a := range x.actions.Items {
			if err := oneAction(a); err != nil {
				return x, err
			}
		}
	}
	if x.errorAction != nil {
		if err := oneAction(x.errorAction); err != nil {
			return x, err
		}
	}
	if x.acts && !x.hasErr && x.golden == "" && x.payload == nil && x.includes == nil && x.binary == nil && x.actions == nil {
		return x, n.Errorf("say one of payload, payloadIncludes, payloadBase64, actions, noAction, error, golden", "nothing is expected")
	}
	return x, nil
}

// oneAction checks an expected action: a kind, or a kind with parameters.
func oneAction(n *strictyaml.Node) error {
	if n.Kind == strictyaml.String || n.Kind == strictyaml.Map && len(n.Fields) == 1 {
		return nil
	}
	return n.Errorf("write - s3: {key: a/b.json}, or - s3", "an expected action is its kind with the parameters to look at")
}

var notSlug = regexp.MustCompile(`[^\pL\pN]+`)

func slug(s string) string {
	s = strings.Trim(notSlug.ReplaceAllString(strings.ToLower(s), "_"), "_")
	if s == "" {
		s = "test"
	}
	if r := []rune(s); len(r) > 80 {
		s = string(r[:80])
	}
	return s
}

// columnHelp lists the columns a table may have.
const columnHelp = "name, topic, clientId, principal, sourceIp, time, payload, payload.MEMBER, acts, result, result.MEMBER, actions.1.PARAMETER, error"

func checkColumn(n *strictyaml.Node) error {
	if err := n.Expect("a column", strictyaml.String); err != nil {
		return err
	}
	fixed := []string{"name", "topic", "clientId", "principal", "sourceIp", "time", "payload", "acts", "result", "error"}
	if slices.Contains(fixed, n.Text) {
		return nil
	}
	first, rest, deep := strings.Cut(n.Text, ".")
	if deep && rest != "" && !slices.Contains(strings.Split(rest, "."), "") {
		switch first {
		case "payload", "result":
			return nil
		case "actions":
			number, param, _ := strings.Cut(rest, ".")
			if i, err := strconv.Atoi(number); err == nil && i > 0 && param != "" {
				return nil
			}
			return n.Errorf("write actions.1.key for the key of the first action", "%s: the number of an action and its parameter are missing", n.Text)
		}
	}
	hint := "columns are " + columnHelp
	if near, ok := suggest.Nearest(first, append(fixed, "actions")); ok {
		if deep {
			near += "." + rest
		}
		hint = fmt.Sprintf("did you mean %s?", near)
	}
	return n.Errorf(hint, "unknown column %q", n.Text)
}

// table makes a case of each row.
func (b *caseReader) table(c testCase, at, given, table *strictyaml.Node) error {
	if err := table.Keys("columns", "rows"); err != nil {
		return err
	}
	columns, rows := table.Get("columns"), table.Get("rows")
	if columns == nil || rows == nil {
		return table.Errorf("", "a table has columns and rows")
	}
	if err := columns.Expect("columns", strictyaml.List); err != nil {
		return err
	}
	if err := rows.Expect("rows", strictyaml.List); err != nil {
		return err
	}
	expects := false
	for i, col := range columns.Items {
		if err := checkColumn(col); err != nil {
			return err
		}
		for _, other := range columns.Items[:i] {
			if other.Text == col.Text {
				return col.Errorf("", "the column %s is there twice", col.Text)
			}
		}
		switch first, _, _ := strings.Cut(col.Text, "."); first {
		case "acts", "result", "actions", "error":
			expects = true
		}
	}
	if !expects {
		return columns.Errorf("add a column acts, result, result.MEMBER, actions.1.PARAMETER or error", "the table expects nothing")
	}
	for i, row := range rows.Items {
		if err := row.Expect("a row", strictyaml.List); err != nil {
			return err
		}
		if len(row.Items) != len(columns.Items) {
			return row.Errorf("~ stands for nothing", "the row has %s, the table %s", plural(len(row.Items), "cell"), plural(len(columns.Items), "column"))
		}
		cells := map[string]*strictyaml.Node{}
		var label []string
		for k, col := range columns.Items {
			cells[col.Text] = row.Items[k]
			switch first, _, _ := strings.Cut(col.Text, "."); first {
			case "acts", "result", "actions", "error":
			default:
				label = append(label, col.Text[strings.LastIndexByte(col.Text, '.')+1:]+" "+string(plain(row.Items[k])))
			}
		}
		rc := c
		rc.line = row.Line
		rc.name = fmt.Sprintf("%s: row %d (%s)", c.name, i+1, strings.Join(label, ", "))
		if n, ok := cells["name"]; ok {
			rc.name = c.name + ": " + n.Text
		}
		var err error
		if rc.event, err = b.event(at, given, cells); err != nil {
			return err
		}
		if rc.expect, err = rowExpectation(columns, row); err != nil {
			return err
		}
		b.file.cases = append(b.file.cases, &rc)
	}
	return nil
}

func plain(n *strictyaml.Node) []byte {
	switch n.Kind {
	case strictyaml.String:
		return []byte(n.Text)
	case strictyaml.Null:
		return []byte("~")
	}
	return n.JSON()
}

func rowExpectation(columns, row *strictyaml.Node) (expectation, error) {
	x := expectation{acts: true}
	var first *strictyaml.Node // a cell that only a rule that acts can have
	for i, col := range columns.Items {
		cell := row.Items[i]
		kind, rest, _ := strings.Cut(col.Text, ".")
		switch kind {
		case "acts":
			if err := cell.Expect("acts", strictyaml.Bool); err != nil {
				return x, err
			}
			x.acts = cell.Text == "true"
		case "error":
			if cell.Kind != strictyaml.Null {
				x.err, x.hasErr = cell.Text, true
			}
		case "result", "actions":
			m := member{action: -1, want: cell}
			if kind == "actions" {
				number, param, _ := strings.Cut(rest, ".")
				n, _ := strconv.Atoi(number)
				m.action, rest = n-1, param
			}
			if cell.Kind != strictyaml.Null && first == nil {
				first = cell
			}
			if rest == "" {
				if cell.Kind != strictyaml.Null {
					x.payload = cell
				}
				continue
			}
			m.path = strings.Split(rest, ".")
			x.members = append(x.members, m)
		}
	}
	if !x.acts || x.hasErr {
		if first != nil && !x.acts {
			return x, first.Errorf("write ~ for it", "the row expects a result, and that the rule does not act")
		}
		if !x.acts {
			x.members = nil
		}
	}
	return x, nil
}
