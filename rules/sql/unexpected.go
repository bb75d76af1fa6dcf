package sql

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/suggest"
)

// The reader's mistakes: what to say when a token is not the one that must come.

// operators are the words among the operators.
var operators = []string{"AND", "OR", "NOT", "IN"}

// elsewhere are words of other SQL dialects, with what to write here.
var elsewhere = map[string]string{
	"LIKE":      "use startswith(x, 'a'), endswith(x, 'a') or regexp_matches(x, 'a.*b')",
	"ILIKE":     "use regexp_matches(x, '(?i)a.*b')",
	"REGEXP":    "use regexp_matches(x, 'a.*b')",
	"RLIKE":     "use regexp_matches(x, 'a.*b')",
	"BETWEEN":   "write x >= 1 AND x <= 3",
	"IS":        "use isNull(x) or isUndefined(x)",
	"DIV":       "write floor(x / y)",
	"MOD":       "write x % y or mod(x, y)",
	"XOR":       "write a <> b for two Booleans",
	"GROUP":     "a rule sees one message at a time; items of an array are picked with a nested SELECT",
	"HAVING":    "a rule sees one message at a time; put the condition into WHERE",
	"ORDER":     "a rule sees one message at a time, in the order of arrival",
	"LIMIT":     "a rule sees one message at a time",
	"OFFSET":    "a rule sees one message at a time",
	"JOIN":      "a rule reads from one topic filter; data of other sources comes from functions such as get_thing_shadow",
	"INNER":     "a rule reads from one topic filter; data of other sources comes from functions such as get_thing_shadow",
	"LEFT":      "a rule reads from one topic filter; data of other sources comes from functions such as get_thing_shadow",
	"RIGHT":     "a rule reads from one topic filter; data of other sources comes from functions such as get_thing_shadow",
	"CROSS":     "a rule reads from one topic filter; data of other sources comes from functions such as get_thing_shadow",
	"UNION":     "make a rule for each SELECT",
	"INTERSECT": "make a rule for each SELECT",
	"EXCEPT":    "make a rule for each SELECT",
	"WINDOW":    "a rule sees one message at a time",
	"ASC":       "a rule sees one message at a time",
	"DESC":      "a rule sees one message at a time",
}

// verbs are statements of other SQL dialects.
var verbs = []string{"INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "TRUNCATE", "REPLACE", "MERGE", "UPSERT", "WITH", "DECLARE", "EXPLAIN", "SHOW", "USE", "BEGIN"}

// unexpected fails at tok. expected says what must come; words are the keywords
// that may, for the case that one is misspelt.
func (r *reader) unexpected(expected string, words ...string) {
	t := &r.tok
	if t.kind == tokWrong {
		panic(t.err)
	}
	hint := ""
	if r.prev.is(",") {
		hint = "take out the comma before it"
	}
	if t.kind == tokName {
		upper := strings.ToUpper(t.text)
		if t.upper == "NOT" { // NOT LIKE
			if next := strings.ToUpper(r.peek(1).text); elsewhere[next] != "" && words != nil {
				r.fail(r.peek(1).span, elsewhere[next], "%s is not part of the language", next)
			}
		}
		if instead, ok := elsewhere[upper]; ok && t.upper == "" && words != nil {
			r.fail(t.span, instead, "%s is not part of the language", upper)
		}
		if t.upper == "" {
			if near, ok := suggest.Nearest(t.text, words); ok {
				hint = "did you mean " + near + "?"
			}
		}
	}
	r.fail(t.span, hint, "expected %s, found %s", expected, found(t))
}

// noExpression fails at tok, where an operand must come.
func (r *reader) noExpression() {
	t := &r.tok
	if t.kind == tokWrong {
		panic(t.err)
	}
	hint := ""
	switch {
	case t.upper != "" && r.prev.is(",") || (t.is("]") || t.is("}") || t.is(")")) && r.prev.is(","):
		hint = "take out the comma before it"
	case r.prev.upper == "SELECT" && t.upper == "FROM":
		hint = "name what to select, or write * for the whole message"
	case t.upper == "SELECT":
		hint = "a nested SELECT stands in parentheses of its own"
		if r.prev.is("=") {
			hint += "; a SET clause needs a value behind ="
		}
	case t.is("+"):
		hint = "numbers have no plus sign"
	case t.upper != "" && (r.prev.is(",") || r.prev.upper == "SELECT"):
		hint = fmt.Sprintf("%s is a keyword; a member of this name is reached with get(*, '%s')", t.upper, t.text)
	case t.is("."):
		hint = "a number starts with a digit: 0.5"
	}
	r.fail(t.span, hint, "expected expression, found %s", found(t))
}

// notPlain fails at tok, a name behind a dot that is no plain word. names are
// those before the dot, if it is a path.
func (r *reader) notPlain(names []string, dot Span) {
	t := &r.tok
	name := t.text
	if t.kind != tokString {
		name = wordAt(r.src, t.span.From)
		t.span.To = t.span.From + len(name)
	}
	of := "x"
	if names != nil {
		of = clip(strings.Join(names, "."))
	}
	hint := "use get(" + of + ", '" + clip(name) + "')"
	if name != "" && strings.Trim(name, "0123456789") == "" {
		hint = "use get(" + of + ", " + clip(name) + ") for an item of an array, get(" + of + ", '" + clip(name) + "') for a member"
	}
	r.fail(Span{dot.From, t.span.To}, hint, "a name behind a dot must be a plain word")
}

// wordAt returns the text at offset i of src as far as it could be one name with
// hyphens.
func wordAt(src string, i int) string {
	to := i
	for to < len(src) && (isNameByte(src[to]) || src[to] == '-' || src[to] >= utf8.RuneSelf) {
		to++
	}
	return src[i:to]
}

// noIndex fails where tok is an index.
func (r *reader) noIndex() {
	if r.tok.is("[") {
		r.fail(r.tok.span, "use get(x, 0) for an item of an array, get(x, 'name') for a member", "x[…] is not part of the language")
	}
}

// noSelect fails at tok, where a statement must start.
func (r *reader) noSelect() {
	t := &r.tok
	upper := strings.ToUpper(t.text)
	switch {
	case t.kind == tokEnd && len(strings.TrimSpace(r.src)) == 0:
		r.fail(t.span, "SELECT * FROM 'a/topic' passes every message on", "the statement is empty")
	case t.kind == tokName && slices.Contains(verbs, upper):
		r.fail(t.span, "a rule reads messages with SELECT; what is done with them is said by its actions", "%s is not part of the language", upper)
	}
	if _, ok := suggest.Nearest(t.text, []string{"SELECT", "SET"}); !ok && t.kind != tokWrong {
		r.fail(t.span, "a statement starts with SELECT or SET: SELECT * FROM 'a/topic' WHERE temp > 5", "expected SELECT, found %s", found(t))
	}
	r.unexpected("SELECT", "SELECT", "SET")
}

// afterItems checks what comes behind the columns.
func (r *reader) afterItems(stmt *Statement) {
	t := &r.tok
	switch {
	case t.upper == "FROM", t.upper == "WHERE" && stmt != nil, t.kind == tokEnd && stmt != nil:
		return
	case r.prev.kind == tokString && t.span.From == r.prev.span.To && (t.kind == tokName || t.kind == tokString):
		r.fail(t.span, "is the string that starts at "+r.place(r.prev.span)+" closed where it should be?", "expected a comma or FROM, found %s", found(t))
	case t.kind == tokName && t.upper == "":
		if _, ok := elsewhere[strings.ToUpper(t.text)]; ok {
			break
		}
		if before := strings.ToUpper(r.prev.text); r.prev.kind == tokName && (before == "DISTINCT" || before == "ALL" || before == "TOP") {
			r.fail(r.prev.span, "a rule sees one message at a time", "%s is not part of the language", before)
		}
		if near, ok := suggest.Nearest(t.text, append(operators, "FROM", "WHERE", "AS")); ok {
			r.fail(t.span, "did you mean "+near+"?", "expected a comma or FROM, found %s", found(t))
		}
		r.fail(t.span, "a column is renamed with AS; a member whose name has a space is reached with get(*, 'two words')", "expected a comma or FROM, found %s", found(t))
	case t.kind == tokString:
		r.fail(t.span, "the topic filter stands behind FROM, another name for the column behind AS", "expected a comma or FROM, found %s", found(t))
	case t.upper == "SELECT":
		r.fail(t.span, "a nested SELECT stands in parentheses", "expected a comma or FROM, found %s", found(t))
	case t.is(")") && stmt != nil, t.is("]"), t.is("}"):
		r.fail(t.span, "it closes nothing", "unexpected %s", t.text)
	case t.is(")"), t.kind == tokEnd, t.upper == "WHERE":
		r.fail(t.span, "a nested SELECT reads FROM a member, or FROM * for the whole message", "expected a comma or FROM, found %s", found(t))
	}
	r.unexpected("a comma or FROM", append(operators, "FROM", "WHERE", "AS")...)
}

// noTopic fails behind FROM, where the topic filter must come.
func (r *reader) noTopic() {
	t := &r.tok
	switch {
	case t.kind == tokString:
		r.fail(t.span, "write FROM '"+clip(t.text)+"'", "the topic filter must be in single quotes")
	case t.is("("):
		r.fail(t.span, "a nested SELECT is a column or a value: SELECT (SELECT a FROM list) AS x FROM 'a/topic'", "expected a topic filter in single quotes, found (")
	case t.kind == tokWrong && (r.src[t.span.From] == '\'' || r.src[t.span.From] == '"'):
		panic(t.err)
	case t.kind == tokEnd, t.upper != "":
		r.unexpected("a topic filter in single quotes after FROM")
	}
	// What was meant as the filter need not consist of tokens: sensors/#.
	to := t.span.From
	for to < len(r.src) && !isSpace(r.src[to]) {
		to++
	}
	text := r.src[t.span.From:to]
	r.fail(Span{t.span.From, to}, "write FROM '"+clip(strings.Trim(text, "'\"`;‘’“”"))+"'", "expected a topic filter in single quotes, found %s", clip(text))
}

// notTheEnd fails at tok, behind a whole statement.
func (r *reader) notTheEnd(stmt *Statement) {
	t := &r.tok
	switch {
	case t.upper == "FROM" && stmt.HasFrom:
		r.fail(t.span, "a rule reads from one topic filter; + and # stand for any level", "a second FROM")
	case t.upper == "FROM":
		r.fail(t.span, "the clauses stand in this order: SET, SELECT, FROM, WHERE", "FROM must come before WHERE")
	case t.upper == "WHERE":
		r.fail(t.span, "join the conditions with AND", "a second WHERE")
	case t.kind == tokName && strings.EqualFold(t.text, "set"):
		r.fail(t.span, "the clauses stand in this order: SET, SELECT, FROM, WHERE", "SET must come before SELECT")
	case t.is(",") && r.prev.kind == tokString && stmt.HasFrom:
		r.fail(t.span, "a rule reads from one topic filter; + and # stand for any level", "expected WHERE or the end, found a comma")
	case t.upper == "AS" && stmt.HasFrom:
		r.fail(t.span, "only the source of a nested SELECT has a name", "the topic filter has no alias")
	case t.is(")"), t.is("]"), t.is("}"):
		r.fail(t.span, "it closes nothing", "unexpected %s", t.text)
	case t.upper == "SELECT":
		r.fail(t.span, "a rule has one SELECT; a nested one stands in parentheses", "a second SELECT")
	}
	r.unexpected("WHERE, an operator or the end", append(operators, "WHERE")...)
}

// notClosed fails at tok, where opening should be closed.
func (r *reader) notClosed(opening token, expected string) {
	t := &r.tok
	if t.kind == tokEnd {
		r.fail(opening.span, "", "%s is not closed", opening.text)
	}
	if t.upper == "AS" && opening.is("(") && strings.HasPrefix(expected, "a comma") {
		r.fail(t.span, "inside a call only cast has AS: cast(x AS Int)", "expected %s, found AS", expected)
	}
	if t.kind == tokName || t.is(")") || t.is("]") || t.is("}") {
		hint := "the " + opening.text + " at " + r.place(opening.span) + " is still open"
		if _, ok := elsewhere[strings.ToUpper(t.text)]; !ok || t.upper != "" {
			if near, ok := suggest.Nearest(t.text, operators); ok && t.upper == "" {
				hint = "did you mean " + near + "?"
			}
			r.fail(t.span, hint, "expected %s, found %s", expected, found(t))
		}
	}
	r.unexpected(expected, operators...)
}

// noMemberName fails at tok, where the name of an object's member must come.
func (r *reader) noMemberName(opening token) {
	t := &r.tok
	switch {
	case t.kind == tokEnd:
		r.notClosed(opening, "}")
	case t.is("}"):
		r.fail(t.span, "take out the comma before it", "expected a member's name, found }")
	case t.kind == tokName:
		r.fail(t.span, "write '"+clip(t.text)+"'", "the name of a member must be in quotes")
	}
	r.unexpected("a member's name in quotes")
}

// place returns line and column of s.
func (r *reader) place(s Span) string {
	e := At(r.src, s, "", "")
	return fmt.Sprintf("%d:%d", e.Line, e.Column)
}

// found describes t for a message.
func found(t *token) string {
	switch t.kind {
	case tokEnd:
		return "the end"
	case tokVar:
		return "@" + clip(t.text)
	case tokString:
		return "'" + clip(t.text) + "'"
	case tokName:
		if t.upper != "" {
			return t.upper
		}
	case tokOp:
		if t.text == "," {
			return "a comma"
		}
	}
	return clip(t.text)
}

func oneOf(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
