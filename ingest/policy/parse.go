package policy

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/suggest"
)

// Versions of the language. Only the newer one has variables.
const (
	oldVersion = "2008-10-17"
	newVersion = "2012-10-17"
)

// maxBytes bounds a document whatever the limits say.
const maxBytes = 64 << 10

// AWSSize is the size AWS IoT takes, in characters that are not white space.
// Source: AWS IoT Core quotas, "Maximum policy document size".
const AWSSize = 2048

// Effect is what a statement does.
type Effect bool

const (
	Deny  Effect = false
	Allow Effect = true
)

func (e Effect) String() string {
	if e == Allow {
		return "Allow"
	}
	return "Deny"
}

// Document is a policy document that has been parsed. It is not changed any
// more, and compiled as it is parsed.
type Document struct {
	Version    string
	ID         string
	Statements []Statement
}

// Statement is one statement of a document, as written.
type Statement struct {
	Sid        string
	Effect     Effect
	Actions    []string
	NotAction  bool // Actions are those it does not hold for
	Resources  []string
	NotRes     bool // Resources are those it does not hold for
	Conditions []Condition
	Line       int // where it begins, from 1

	actions   []pattern // lower case
	resources []pattern
	tests     []test
}

// Condition is one key of a Condition block.
type Condition struct {
	Operator string // with quantifier and IfExists
	Key      string
	Values   []string
}

// Size returns the size of a document as AWS counts it: characters that are not
// white space.
func Size(doc string) int {
	n := 0
	for _, r := range doc {
		if !unicode.IsSpace(r) {
			n++
		}
	}
	return n
}

// Check reports why doc is no policy of at most size characters that are not
// white space; size 0: any.
func Check(doc string, size int) error {
	if n := Size(doc); size > 0 && n > size {
		return errs.Errorf("policy.Check", errs.TooLarge, "the policy document has %d characters that are not white space, at most %d are allowed", n, size)
	}
	_, err := Parse(doc)
	return err
}

// Parse reads a policy document. Its errors are errs.Invalid with an *Error,
// which has the place of the mistake.
func Parse(doc string) (*Document, error) {
	if len(doc) > maxBytes {
		return nil, at("", 0, 0, "", "the policy document has more than %d bytes", maxBytes)
	}
	if !utf8.ValidString(doc) {
		i := 0
		for i < len(doc) {
			r, n := utf8.DecodeRuneInString(doc[i:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			i += n
		}
		return nil, at(doc[:i], i, i, "", "the policy document is not UTF-8")
	}
	p := &parser{src: doc, dec: json.NewDecoder(strings.NewReader(doc))}
	p.dec.UseNumber()
	root, err := p.node(0)
	if err != nil {
		return nil, err
	}
	if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, p.errorAt(p.next(), len(doc), "", "text behind the policy document")
	}
	return p.document(root)
}

type kind byte

const (
	aString kind = iota
	aNumber
	aBool
	aNull
	anObject
	anArray
)

var kindNames = [...]string{"a string", "a number", "a Boolean", "null", "an object", "a list"}

// node is a JSON value with its place.
type node struct {
	kind     kind
	text     string // of a string, number or Boolean
	from, to int
	items    []*node  // of an array, or the values of an object
	members  []member // of an object
}

type member struct {
	name     string
	from, to int
	value    *node
}

type parser struct {
	src string
	dec *json.Decoder
}

func (p *parser) errorAt(from, to int, hint, format string, args ...any) error {
	return at(p.src, from, to, hint, format, args...)
}

func (p *parser) wrong(n *node, hint, format string, args ...any) error {
	return p.errorAt(n.from, n.to, hint, format, args...)
}

// next returns where the next token begins.
func (p *parser) next() int {
	i := int(p.dec.InputOffset())
	for i < len(p.src) && strings.IndexByte(" \t\r\n,:", p.src[i]) >= 0 {
		i++
	}
	return i
}

// maxDepth is deeper than any policy.
const maxDepth = 8

func (p *parser) token() (json.Token, int, error) {
	from := p.next()
	t, err := p.dec.Token()
	if err == nil {
		return t, from, nil
	}
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, from, p.errorAt(len(p.src), len(p.src), "", "the policy document ends too early")
	case errors.As(err, &syntax):
		place := max(0, min(int(syntax.Offset)-1, len(p.src)))
		return nil, from, p.errorAt(max(from, min(place, len(p.src))), place+1, "", "not JSON: %s", syntax.Error())
	}
	return nil, from, p.errorAt(from, from, "", "not JSON")
}

func (p *parser) node(depth int) (*node, error) {
	t, from, err := p.token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, p.errorAt(from, from+1, "", "nested too deeply for a policy document")
	}
	n := &node{from: from}
	switch v := t.(type) {
	case string:
		n.kind, n.text = aString, v
	case json.Number:
		n.kind, n.text = aNumber, v.String()
	case bool:
		n.kind, n.text = aBool, map[bool]string{true: "true", false: "false"}[v]
	case nil:
		n.kind = aNull
	case json.Delim:
		n.kind = anArray
		if v == '{' {
			n.kind = anObject
		}
		for p.dec.More() {
			var m member
			if n.kind == anObject {
				t, from, err := p.token()
				if err != nil {
					return nil, err
				}
				name, ok := t.(string)
				if !ok {
					return nil, p.errorAt(from, int(p.dec.InputOffset()), "", "expected the name of a member")
				}
				m = member{name: name, from: from, to: int(p.dec.InputOffset())}
				for _, o := range n.members {
					if o.name == name {
						return nil, p.errorAt(m.from, m.to, "", "%q is there twice", name)
					}
				}
			}
			item, err := p.node(depth + 1)
			if err != nil {
				return nil, err
			}
			m.value = item
			n.items = append(n.items, item)
			if n.kind == anObject {
				n.members = append(n.members, m)
			}
		}
		if _, _, err := p.token(); err != nil {
			return nil, err
		}
	}
	n.to = int(p.dec.InputOffset())
	return n, nil
}

// unknown is the error for a member that is not there in the language.
func (p *parser) unknown(m member, where string, known ...string) error {
	hint := ""
	if near, ok := suggest.Nearest(m.name, known); ok {
		hint = "did you mean " + near + "?"
	}
	return p.errorAt(m.from, m.to, hint, "%s has no element %q", where, m.name)
}

func (p *parser) document(root *node) (*Document, error) {
	if root.kind != anObject {
		return nil, p.wrong(root, "", "a policy document is an object, found %s", kindNames[root.kind])
	}
	d := &Document{Version: oldVersion}
	var statements *node
	for _, m := range root.members {
		v := m.value
		switch m.name {
		case "Version":
			if v.kind != aString || v.text != oldVersion && v.text != newVersion {
				return nil, p.wrong(v, "the version of the language, not of the policy", "Version must be %q or %q", newVersion, oldVersion)
			}
			d.Version = v.text
		case "Id":
			if v.kind != aString {
				return nil, p.wrong(v, "", "Id must be a string")
			}
			d.ID = v.text
		case "Statement":
			statements = v
		default:
			return nil, p.unknown(m, "a policy document", "Version", "Id", "Statement")
		}
	}
	if statements == nil {
		return nil, p.wrong(root, "", "the policy document has no Statement")
	}
	list := statements.items
	switch statements.kind {
	case anObject:
		list = []*node{statements}
	case anArray:
		if len(list) == 0 {
			return nil, p.wrong(statements, "", "Statement is empty")
		}
	default:
		return nil, p.wrong(statements, "", "Statement must be an object or a list of objects")
	}
	for _, n := range list {
		s, err := p.statement(n, d.Version == newVersion)
		if err != nil {
			return nil, err
		}
		if s.Sid != "" && slices.ContainsFunc(d.Statements, func(o Statement) bool { return o.Sid == s.Sid }) {
			return nil, p.wrong(n, "", "two statements have the Sid %q", s.Sid)
		}
		d.Statements = append(d.Statements, *s)
	}
	return d, nil
}

func (p *parser) statement(n *node, variables bool) (*Statement, error) {
	if n.kind != anObject {
		return nil, p.wrong(n, "", "a statement must be an object, found %s", kindNames[n.kind])
	}
	s := &Statement{Line: 1 + strings.Count(p.src[:n.from], "\n")}
	var effect, action, resource, condition *node
	for _, m := range n.members {
		v := m.value
		switch m.name {
		case "Sid":
			if v.kind != aString || strings.ContainsFunc(v.text, func(r rune) bool {
				return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9')
			}) {
				return nil, p.wrong(v, "", "Sid must be letters and digits")
			}
			s.Sid = v.text
		case "Effect":
			effect = v
			if v.kind != aString || v.text != "Allow" && v.text != "Deny" {
				return nil, p.wrong(v, "upper and lower case count", `Effect must be "Allow" or "Deny"`)
			}
			s.Effect = v.text == "Allow"
		case "Action", "NotAction":
			if action != nil {
				return nil, p.errorAt(m.from, m.to, "", "a statement has either Action or NotAction")
			}
			action, s.NotAction = v, m.name == "NotAction"
		case "Resource", "NotResource":
			if resource != nil {
				return nil, p.errorAt(m.from, m.to, "", "a statement has either Resource or NotResource")
			}
			resource, s.NotRes = v, m.name == "NotResource"
		case "Condition":
			condition = v
		case "Principal", "NotPrincipal":
			return nil, p.errorAt(m.from, m.to, "whom the policy is attached to says who it is for", "a policy that is attached to a principal names none")
		default:
			return nil, p.unknown(m, "a statement", "Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition")
		}
	}
	for _, f := range []struct {
		n    *node
		name string
	}{{effect, "Effect"}, {action, "Action"}, {resource, "Resource"}} {
		if f.n == nil {
			return nil, p.wrong(n, "", "the statement has no %s", f.name)
		}
	}
	if err := p.strings(action, "Action", false, func(v *node) error {
		pat, err := p.action(v)
		s.Actions, s.actions = append(s.Actions, v.text), append(s.actions, pat)
		return err
	}); err != nil {
		return nil, err
	}
	if err := p.strings(resource, "Resource", false, func(v *node) error {
		pat, err := p.resource(v, variables)
		s.Resources, s.resources = append(s.Resources, v.text), append(s.resources, pat)
		return err
	}); err != nil {
		return nil, err
	}
	if condition == nil {
		return s, nil
	}
	return s, p.conditions(s, condition, variables)
}

// strings calls f for a string, or each string of a list.
func (p *parser) strings(n *node, name string, scalars bool, f func(*node) error) error {
	list := []*node{n}
	if n.kind == anArray {
		list = n.items
		if len(list) == 0 && !scalars {
			return p.wrong(n, "", "%s is empty", name)
		}
	}
	for _, v := range list {
		if v.kind != aString && !(scalars && (v.kind == aNumber || v.kind == aBool)) {
			return p.wrong(v, "", "%s must be a string or a list of strings, found %s", name, kindNames[v.kind])
		}
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) action(v *node) (pattern, error) {
	if v.text != "*" {
		service, name, ok := strings.Cut(v.text, ":")
		if !ok || service == "" || name == "" || strings.ContainsFunc(v.text, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_*?:", r))
		}) || strings.Contains(name, ":") || strings.ContainsAny(service, "*?") {
			return pattern{}, p.wrong(v, `as in "iot:Publish"`, "an action is a service and a name with a colon between them")
		}
	}
	lower := strings.ToLower(v.text)
	if strings.HasPrefix(lower, "iot:") && !strings.ContainsAny(lower, "*?") {
		if _, ok := actionIDs[lower]; !ok {
			// Control-plane actions are many, and only looked at as text; a word
			// that nearly is one of the device's is a slip.
			if near, ok := suggest.Nearest(v.text, actionNames[:]); ok {
				return pattern{}, p.wrong(v, "did you mean "+near+"?", "there is no action %q", v.text)
			}
		}
	}
	pat, _ := parsePattern(lower, true, false)
	return pat, nil
}

func (p *parser) resource(v *node, variables bool) (pattern, error) {
	if v.text != "*" {
		if parts := splitARN(v.text); parts[0] != "arn" || len(parts) < 6 && !strings.HasSuffix(v.text, "*") || len(parts) < 2 {
			return pattern{}, p.wrong(v, `as in "arn:aws:iot:us-east-1:123456789012:topic/a/b"`, "a resource is \"*\" or an ARN")
		}
	}
	return p.pattern(v, true, variables)
}

func (p *parser) pattern(v *node, wildcards, variables bool) (pattern, error) {
	if !variables && strings.Contains(v.text, "${") {
		return pattern{}, p.wrong(v, `add "Version": "`+newVersion+`"`, "variables need the version %q of the language", newVersion)
	}
	pat, msg := parsePattern(v.text, wildcards, variables)
	if msg != "" {
		return pattern{}, p.wrong(v, "", "%s", msg)
	}
	return pat, nil
}

func (p *parser) conditions(s *Statement, n *node, variables bool) error {
	if n.kind != anObject {
		return p.wrong(n, "", "Condition must be an object, found %s", kindNames[n.kind])
	}
	for _, m := range n.members {
		op, ok := parseOperator(m.name)
		if !ok {
			hint := ""
			if near, ok := suggest.Nearest(m.name, operatorNames()); ok {
				hint = "did you mean " + near + "?"
			}
			return p.errorAt(m.from, m.to, hint, "there is no condition operator %q", m.name)
		}
		if m.value.kind != anObject || len(m.value.members) == 0 {
			return p.wrong(m.value, "", "%s must be an object of keys with their values", m.name)
		}
		for _, k := range m.value.members {
			if k.name == "" || strings.ContainsAny(k.name, "${}*?") || !strings.Contains(k.name, ":") {
				return p.errorAt(k.from, k.to, `as in "iot:ClientId"`, "%q is no condition key", k.name)
			}
			c := Condition{Operator: m.name, Key: k.name}
			t := test{operator: op, key: parseKey(k.name)}
			if err := p.strings(k.value, k.name, true, func(v *node) error {
				c.Values = append(c.Values, v.text)
				return p.value(&t, v, variables)
			}); err != nil {
				return err
			}
			s.Conditions = append(s.Conditions, c)
			s.tests = append(s.tests, t)
		}
	}
	return nil
}

func (p *parser) value(t *test, v *node, variables bool) error {
	switch t.shape {
	case text, textFold:
		pat, err := p.pattern(v, false, variables)
		t.texts = append(t.texts, pat)
		return err
	case like:
		pat, err := p.pattern(v, true, variables)
		t.texts = append(t.texts, pat)
		return err
	case arn:
		parts := splitARN(v.text)
		if len(parts) != 6 || parts[0] != "arn" {
			return p.wrong(v, "an asterisk stands for one of its six parts, not for several", "%q is no ARN", v.text)
		}
		var six [6]pattern
		for i, part := range parts {
			pat, err := p.pattern(&node{kind: aString, text: part, from: v.from, to: v.to}, true, variables)
			if err != nil {
				return err
			}
			six[i] = pat
		}
		t.arns = append(t.arns, six)
		return nil
	}
	if err := t.constant(v.text); err != "" {
		return p.wrong(v, "", "%s", err)
	}
	return nil
}

// splitARN cuts s at its first five colons, those of variables not counted.
func splitARN(s string) []string {
	var out []string
	start, inside := 0, false
	for i := 0; i < len(s) && len(out) < 5; i++ {
		switch {
		case s[i] == '$' && i+1 < len(s) && s[i+1] == '{':
			inside = true
		case s[i] == '}':
			inside = false
		case s[i] == ':' && !inside:
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:])
}
