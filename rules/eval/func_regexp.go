package eval

import (
	"strings"

	"github.com/weir-iot/weir/rules/eval/javaregexp"
)

var regexpFunctions = []Function{
	{
		Name: "regexp_matches", Signature: "regexp_matches(s, pattern)", MinArgs: 2, MaxArgs: 2, Pure: true,
		Summary: "true if the regular expression occurs anywhere in s. Patterns are those of Java, look-around and back-references included. " +
			"An invalid pattern, or one that takes more than about 2 ms, gives Undefined.",
		Source: "iot-func-regex-matches",
		Examples: []Example{
			{Expr: "regexp_matches('aaaa', 'a{2,}')", Want: "true"}, {Expr: "regexp_matches('aaaa', 'b')", Want: "false"},
			{Expr: "regexp_matches('unit-204b', '^[0-9]{3}')", Want: "false"}, {Expr: "regexp_matches('foobar', 'foo(?=bar)')", Want: "true"}, {Expr: "regexp_matches('a', '(')"},
		},
		Prepare: preparePattern,
		Eval: func(c *Call, args []Value) Value {
			s, re, ok := textAndPattern(c, args)
			if !ok {
				return Value{}
			}
			b := c.regexBudget()
			found, err := re.Match(s, b)
			c.regexSpent(b)
			if err != nil {
				return c.RegexLimitHit()
			}
			return BoolValue(found)
		},
	},
	{
		Name: "regexp_replace", Signature: "regexp_replace(s, pattern, replacement)", MinArgs: 3, MaxArgs: 3, Pure: true,
		Summary: "s with every match of the regular expression replaced. In the replacement $1 stands for the first group of the pattern, ${name} for a named one; " +
			"a backslash takes the next character as it is. An invalid pattern or replacement gives Undefined.",
		Source: "iot-func-regex-replace",
		Examples: []Example{
			{Expr: "regexp_replace('abcd', 'bc', 'x')", Want: `"axd"`}, {Expr: "regexp_replace('abcd', 'b(.*)d', '$1')", Want: `"ac"`},
			{Expr: "regexp_replace('a/b/c/d', '^[^/]*/[^/]*/', '')", Want: `"c/d"`}, {Expr: "regexp_replace('abc', 'b', '$4')"},
		},
		Prepare: prepareReplacement,
		Eval:    regexpReplace,
	},
	{
		Name: "regexp_substr", Signature: "regexp_substr(s, pattern)", MinArgs: 2, MaxArgs: 2, Pure: true,
		Summary: "The first match of the regular expression in s; Undefined where there is none or the pattern is invalid.",
		Source:  "iot-func-regex-substr",
		Examples: []Example{
			{Expr: "regexp_substr('hihihello', '(hi)*')", Want: `"hihi"`}, {Expr: "regexp_substr('unit-204b-77', '[0-9]+')", Want: `"204"`}, {Expr: "regexp_substr('abc', '[0-9]')"},
		},
		Prepare: preparePattern,
		Eval: func(c *Call, args []Value) Value {
			s, re, ok := textAndPattern(c, args)
			if !ok {
				return Value{}
			}
			b := c.regexBudget()
			from, to, found, err := re.FindFirst(s, b)
			c.regexSpent(b)
			switch {
			case err != nil:
				return c.RegexLimitHit()
			case !found:
				return Value{}
			}
			return StringValue(s[from:to])
		},
	},
}

// pattern is a pattern compiled before the call, or found to be none.
type pattern struct {
	re   *javaregexp.Regexp      // nil: invalid
	repl *javaregexp.Replacement // nil: not constant, or invalid
	bad  bool                    // the constant replacement is invalid
}

func compilePattern(text string) *pattern {
	re, err := javaregexp.Compile(text)
	if err != nil {
		return &pattern{}
	}
	return &pattern{re: re}
}

func preparePattern(args []*Value, _ Version) any {
	if args[1] == nil {
		return nil
	}
	text := args[1].ToStr()
	if text.IsUndefined() {
		return &pattern{}
	}
	return compilePattern(text.Str())
}

func prepareReplacement(args []*Value, v Version) any {
	state := preparePattern(args, v)
	p, ok := state.(*pattern)
	if !ok || p.re == nil || args[2] == nil {
		return state
	}
	text := args[2].ToStr()
	if text.IsUndefined() {
		p.bad = true
		return p
	}
	repl, err := p.re.CompileReplacement(text.Str())
	p.repl, p.bad = repl, err != nil
	return p
}

// regexWork is what a step of a regular expression takes of the evaluation's
// work.
const regexWork = 8

// regexBudget returns the steps one regular expression may take: half of what
// the evaluation has left, so that patterns that are given up leave enough for
// the rest of the statement, however many items it calls them for.
func (c *Call) regexBudget() *javaregexp.Budget {
	return &javaregexp.Budget{Steps: max(c.m.steps, 0) / (2 * regexWork)}
}

// regexSpent takes what is gone of b from the evaluation's work.
func (c *Call) regexSpent(b *javaregexp.Budget) {
	c.m.steps -= (max(c.m.steps, 0)/(2*regexWork) - b.Steps) * regexWork
}

// maxCachedPattern bounds the patterns that come with messages and are kept.
const maxCachedPattern = 512

// textAndPattern converts the first two arguments; ok is false where one is
// unsuitable.
func textAndPattern(c *Call, args []Value) (text string, re *javaregexp.Regexp, ok bool) {
	s := c.Str(args[0])
	if s.IsUndefined() {
		return "", nil, false
	}
	p, _ := c.State.(*pattern)
	if p == nil {
		t := c.Str(args[1])
		if t.IsUndefined() {
			return "", nil, false
		}
		if len(t.Str()) <= maxCachedPattern {
			// The text may share the memory of the message; what is kept must not.
			p = c.Cached("regexp", t.Str(), func() any { return compilePattern(strings.Clone(t.Str())) }).(*pattern)
		} else {
			p = compilePattern(t.Str())
		}
	}
	return s.Str(), p.re, p.re != nil
}

func regexpReplace(c *Call, args []Value) Value {
	s, re, ok := textAndPattern(c, args)
	if !ok {
		return Value{}
	}
	p, _ := c.State.(*pattern)
	var repl *javaregexp.Replacement
	switch {
	case p != nil && p.bad:
		return Value{}
	case p != nil && p.repl != nil:
		repl = p.repl
	default:
		text := c.Str(args[2])
		if text.IsUndefined() {
			return Value{}
		}
		var err error
		if repl, err = re.CompileReplacement(text.Str()); err != nil {
			return Value{}
		}
	}
	b := c.regexBudget()
	out, err := re.Replace(s, repl, max(c.m.left, 0), b)
	c.regexSpent(b)
	switch err {
	case nil:
	case javaregexp.ErrTooLong:
		c.Charge(c.m.left + 1) // which fails
		return Value{}
	default:
		return c.RegexLimitHit()
	}
	if !c.Charge(len(out)) {
		return Value{}
	}
	return StringValue(out)
}
