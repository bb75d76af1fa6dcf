package eval

import (
	"fmt"
	"strings"
)

//go:generate go test -run TestReferenceIsUpToDate -update .

// Operator is an operator or a clause for the reference.
type Operator struct {
	Syntax   string
	Since    Version
	Summary  string
	Examples []Example
}

// Operators are the operators and expressions that are not functions, loosest
// binding last.
var Operators = []Operator{
	{Syntax: "a.b", Summary: "A member of an Object, at any depth; Undefined where it is missing. Member names keep their case. Use get for names with hyphens, spaces or a leading digit.",
		Examples: []Example{{Expr: "state.temp", Payload: `{"state": {"temp": 21.5}}`, Want: "21.5"}, {Expr: "state.Temp", Payload: `{"state": {"temp": 21.5}}`}}},
	{Syntax: "-a", Summary: "The number with the other sign.",
		Examples: []Example{{Expr: "-t", Payload: `{"t": 4}`, Want: "-4"}}},
	{Syntax: "a * b, a / b, a % b", Summary: "Exact to 34 digits. Two Ints divide to an Int where that leaves no rest, otherwise to a Decimal; dividing by zero gives Undefined. A remainder has the sign of a. Strings that are numbers take part.",
		Examples: []Example{{Expr: "6 / 2", Want: "3"}, {Expr: "5 / 2", Want: "2.5"}, {Expr: "-5 % 3", Want: "-2"}, {Expr: "'2' * 3", Want: "6"}, {Expr: "1 / 0"}}},
	{Syntax: "a + b, a - b", Summary: "Exact to 34 digits. + joins texts where either side is a String; Null and Undefined give Undefined.",
		Examples: []Example{{Expr: "0.1 + 0.2", Want: "0.3"}, {Expr: "'n=' + 1", Want: `"n=1"`}, {Expr: "'a' + NULL"}, {Expr: "3 - '1'", Want: "2"}}},
	{Syntax: "a = b, a <> b", Summary: "Equal, not equal. Numbers compare by value, Arrays and Objects by what they hold.",
		Examples: []Example{{Expr: "1 = 1.0", Want: "true"}, {Expr: "'a' <> 'b'", Want: "true"}, {Expr: "NULL = NULL", Want: "true"}}},
	{Syntax: "a < b, a <= b, a > b, a >= b", Summary: "Compare numbers, Strings that are numbers included; anything else gives Undefined.",
		Examples: []Example{{Expr: "'10' > 9", Want: "true"}, {Expr: "'abc' < 'abd'"}, {Expr: "true > 1"}}},
	{Syntax: "x IN array", Since: V2016, Summary: "true if an item of the array equals x. A list in parentheses is one too.",
		Examples: []Example{{Expr: "2 IN [1, 2]", Want: "true"}, {Expr: "mode IN ('on', 'auto')", Payload: `{"mode": "off"}`, Want: "false"}}},
	{Syntax: "EXISTS (SELECT …)", Since: V2016, Summary: "true if the nested query gives at least one item.",
		Examples: []Example{{Expr: "EXISTS (SELECT * FROM parts WHERE ok = false)", Payload: `{"parts": [{"ok": true}, {"ok": false}]}`, Want: "true"}}},
	{Syntax: "NOT a", Summary: "The other Boolean; what is no Boolean gives Undefined.",
		Examples: []Example{{Expr: "NOT true", Want: "false"}, {Expr: "NOT 1"}}},
	{Syntax: "a AND b", Summary: "true if both are true. Strings true and false count as Booleans; Undefined and other values give Undefined.",
		Examples: []Example{{Expr: "true AND 'TRUE'", Want: "true"}, {Expr: "true AND missing"}}},
	{Syntax: "a OR b", Summary: "true if either is true, also where the other is Undefined.",
		Examples: []Example{{Expr: "false OR true", Want: "true"}, {Expr: "true OR missing", Want: "true"}}},
	{Syntax: "CASE v WHEN t THEN r … [ELSE e] END", Summary: "The r of the first t that equals v, else e. Without ELSE, and where v is Undefined, the result is Undefined.",
		Examples: []Example{{Expr: "CASE color WHEN 'green' THEN 'go' WHEN 'red' THEN 'stop' ELSE 'wait' END", Payload: `{"color": "red"}`, Want: `"stop"`}, {Expr: "CASE missing WHEN 1 THEN 2 ELSE 3 END"}}},
	{Syntax: "[a, b, …]", Since: V2016, Summary: "An Array.", Examples: []Example{{Expr: "[1, topic(1), [true]]", Want: `[1,"a",[true]]`}}},
	{Syntax: "{'name': a, …}", Since: V2016, Summary: "An Object.", Examples: []Example{{Expr: "{'id': id, 'none': missing}", Payload: `{"id": 7}`, Want: `{"id":7}`}}},
	{Syntax: "(SELECT … FROM a [WHERE …])", Since: V2016, Summary: "A query over a member: of an Array it gives an Array, of an Object one Object, or the value itself with VALUE.",
		Examples: []Example{{Expr: "(SELECT VALUE v FROM e WHERE n = 't')", Payload: `{"e": [{"n": "t", "v": 1}, {"n": "u", "v": 2}]}`, Want: "[1]"}, {Expr: "(SELECT a FROM box)", Payload: `{"box": {"a": 1, "b": 2}}`, Want: `{"a":1}`}}},
	{Syntax: "cast(x AS type)", Summary: "x as a String (also Nvarchar, Varchar, Text, Ntext), an Int (Integer; rounded down), a Double, or, from 2016-03-23 on, a Decimal or a Boolean (Bool). " +
		"Beyond the usual conversions it turns Booleans into 1 and 0 and numbers into Booleans, 0 being false. Arrays and Objects become Strings only, Null nothing.",
		Examples: []Example{{Expr: "cast(true AS Int)", Want: "1"}, {Expr: "cast('5E-3' AS Decimal)", Want: "0.005"}, {Expr: "cast(7 AS Boolean)", Want: "true"}, {Expr: "cast([1, 'a'] AS String)", Want: `"[1,\"a\"]"`}, {Expr: "cast(NULL AS String)"}}},
}

// Reference returns the reference of the functions and operators, in Markdown.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Functions and operators of the rule SQL

<!-- Made from the function table by "go generate ./rules/eval". Do not edit. -->

Names of functions ignore case. Every example is run as a test, under version 2016-03-23; *Undefined* means that the
column is left out. Arguments are converted: a String that is a number serves as one, and numbers, Booleans, Arrays and
Objects serve as text (as compact JSON). What cannot be converted, and a wrong number of arguments, gives Undefined.
Functions said to work in double precision have about 16 digits; all others keep 34.

| group | functions |
| --- | --- |
`)
	groups := []string{}
	of := map[string][]*Function{}
	for i := range Functions {
		f := &Functions[i]
		if of[f.Group] == nil {
			groups = append(groups, f.Group)
		}
		of[f.Group] = append(of[f.Group], f)
	}
	for _, g := range groups {
		fmt.Fprintf(&b, "| %s |", g)
		for _, f := range of[g] {
			fmt.Fprintf(&b, " [%s](#%s)", f.Name, f.Name)
		}
		b.WriteString(" |\n")
	}
	for _, g := range groups {
		fmt.Fprintf(&b, "\n## %s\n", g)
		for _, f := range of[g] {
			fmt.Fprintf(&b, "\n### %s\n\n`%s`%s\n\n%s\n", f.Name, f.Signature, since(f.Since), f.Summary)
			if s := f.Service; s != NoService {
				fmt.Fprintf(&b, "\nNeeds %s (%s); a rule that calls it without one is refused, and so is an error action.\n", serviceTexts[s].what, serviceTexts[s].hint)
			}
			writeExamples(&b, f.Examples)
		}
	}
	b.WriteString("\n## Operators and expressions\n\nThose that bind tightest come first.\n")
	for _, o := range Operators {
		fmt.Fprintf(&b, "\n### `%s`%s\n\n%s\n", o.Syntax, since(o.Since), o.Summary)
		writeExamples(&b, o.Examples)
	}
	return b.String()
}

func since(v Version) string {
	if v == V2015 {
		return ""
	}
	return fmt.Sprintf(" (from %s on)", v)
}

func writeExamples(b *strings.Builder, examples []Example) {
	if len(examples) == 0 {
		return
	}
	b.WriteString("\n| expression | message | result |\n| --- | --- | --- |\n")
	for _, e := range examples {
		message, want := "", "Undefined"
		if e.Payload != "" {
			message = code1(e.Payload)
		}
		if e.Topic != "" {
			message = strings.TrimPrefix(message+" on "+code1(e.Topic), " ")
		}
		if e.Want != "" {
			want = code1(e.Want)
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", code1(e.Expr), message, want)
	}
}

// code1 writes s as code in a cell of a table.
func code1(s string) string { return "`" + strings.ReplaceAll(s, "|", `\|`) + "`" }
