package azure

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Query is a parsed query of the IoT Hub query language.
// Source: Azure IoT Hub, "IoT Hub query language for device and module twins,
// jobs, and message routing".
type Query struct {
	Modules bool     // FROM devices.modules
	Top     int      // 0: all
	Columns []column // none: *
	where   expr     // nil: all
	groupBy []*path
}

type column struct {
	as        string
	e         expr   // nil: COUNT()
	aggregate string // "", "COUNT", "SUM", "AVG", "MIN", "MAX"
}

// expr is a node of the tree. eval returns a decoded JSON value, or undefined.
type expr interface{ eval(doc map[string]any) any }

type undefinedType struct{}

// undefined is the value of what is not there.
var undefined = undefinedType{}

const (
	maxQuery   = 16 << 10 // bytes
	maxNesting = 64
)

// ParseQuery reads a query. The error says where it goes wrong.
func ParseQuery(s string) (*Query, error) {
	if len(s) > maxQuery {
		return nil, fmt.Errorf("the query is over %d bytes", maxQuery)
	}
	if !utf8.ValidString(s) {
		return nil, fmt.Errorf("the query is not UTF-8")
	}
	p := &queryParser{s: s}
	p.next()
	q, err := p.query()
	if p.err != nil {
		return nil, p.err
	}
	return q, err
}

type tokenKind byte

const (
	tEnd tokenKind = iota
	tName
	tNumber
	tText
	tSign
)

type queryParser struct {
	s     string
	pos   int // behind the token
	at    int // of the token
	kind  tokenKind
	text  string // the token's; a text without its quotes
	quote bool   // a name in [[ ]], which is no keyword
	depth int
	err   error
}

func (p *queryParser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("column %d: %s", p.at+1, fmt.Sprintf(format, args...))
	}
	p.kind, p.text = tEnd, ""
}

func nameByte(c byte, first bool) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$' || c >= 0x80 || !first && (c >= '0' && c <= '9' || c == '-')
}

func (p *queryParser) next() {
	if p.err != nil {
		p.kind, p.text = tEnd, ""
		return
	}
	for p.pos < len(p.s) && strings.IndexByte(" \t\r\n", p.s[p.pos]) >= 0 {
		p.pos++
	}
	p.at, p.quote = p.pos, false
	if p.pos == len(p.s) {
		p.kind, p.text = tEnd, ""
		return
	}
	rest := p.s[p.pos:]
	switch c := rest[0]; {
	case strings.HasPrefix(rest, "[["):
		end := strings.Index(rest, "]]")
		if end < 0 {
			p.fail("[[ without ]]")
			return
		}
		p.kind, p.text, p.quote = tName, rest[2:end], true
		p.pos += end + 2
	case nameByte(c, true):
		n := 1
		for n < len(rest) && nameByte(rest[n], false) {
			n++
		}
		p.kind, p.text = tName, rest[:n]
		p.pos += n
	case c >= '0' && c <= '9' || c == '.' && len(rest) > 1 && rest[1] >= '0' && rest[1] <= '9':
		n := 1
		for n < len(rest) && (rest[n] >= '0' && rest[n] <= '9' || rest[n] == '.' || rest[n]|0x20 == 'e' ||
			(rest[n] == '-' || rest[n] == '+') && rest[n-1]|0x20 == 'e') {
			n++
		}
		if _, err := strconv.ParseFloat(rest[:n], 64); err != nil {
			p.fail("%q is not a number", rest[:n])
			return
		}
		p.kind, p.text = tNumber, rest[:n]
		p.pos += n
	case c == '\'' || c == '"':
		var b strings.Builder
		for i := 1; i < len(rest); i++ {
			switch {
			case rest[i] == '\\' && i+1 < len(rest):
				i++
				b.WriteByte(rest[i])
			case rest[i] == c && i+1 < len(rest) && rest[i+1] == c:
				i++
				b.WriteByte(c)
			case rest[i] == c:
				p.kind, p.text = tText, b.String()
				p.pos += i + 1
				return
			default:
				b.WriteByte(rest[i])
			}
		}
		p.fail("a text without its end")
	default:
		for _, sign := range []string{"<>", "!=", "<=", ">=", "=", "<", ">", "(", ")", "[", "]", ",", ".", "*", "+", "-", "/", "%"} {
			if strings.HasPrefix(rest, sign) {
				p.kind, p.text = tSign, sign
				p.pos += len(sign)
				return
			}
		}
		r, _ := utf8.DecodeRuneInString(rest)
		p.fail("%q is not expected", r)
	}
}

func (p *queryParser) keyword(word string) bool {
	if p.kind == tName && !p.quote && strings.EqualFold(p.text, word) {
		p.next()
		return true
	}
	return false
}

func (p *queryParser) sign(text string) bool {
	if p.kind == tSign && p.text == text {
		p.next()
		return true
	}
	return false
}

func (p *queryParser) want(what string, ok bool) {
	if !ok {
		p.expected(what)
	}
}

func (p *queryParser) expected(what string) {
	found := "the end"
	if p.kind != tEnd {
		found = strconv.Quote(p.text)
	}
	p.fail("expected %s, found %s", what, found)
}

func (p *queryParser) query() (*Query, error) {
	q := &Query{}
	p.want("SELECT", p.keyword("SELECT"))
	if p.keyword("TOP") {
		wrapped := p.sign("(")
		n, err := strconv.Atoi(p.text)
		if p.kind != tNumber || err != nil || n < 1 {
			p.expected("a number from 1 after TOP")
		}
		p.next()
		q.Top = n
		if wrapped {
			p.want(")", p.sign(")"))
		}
	}
	if !p.sign("*") {
		for {
			q.Columns = append(q.Columns, p.column())
			if p.err != nil || !p.sign(",") {
				break
			}
		}
	}
	p.want("FROM", p.keyword("FROM"))
	p.want("devices", p.keyword("devices"))
	if p.sign(".") {
		if p.keyword("jobs") {
			p.fail("devices.jobs: Weir has no Azure jobs")
		}
		p.want("modules", p.keyword("modules"))
		q.Modules = true
	}
	if p.keyword("WHERE") {
		q.where = p.or()
	}
	if p.keyword("GROUP") {
		p.want("BY", p.keyword("BY"))
		for {
			if of, ok := p.primary().(*path); ok {
				q.groupBy = append(q.groupBy, of)
			} else {
				p.fail("GROUP BY takes properties")
			}
			if p.err != nil || !p.sign(",") {
				break
			}
		}
	}
	if p.keyword("ORDER") {
		p.fail("ORDER BY is not in the query language of IoT Hub")
	}
	if p.kind != tEnd {
		p.expected("the end")
	}
	if p.err != nil {
		return nil, p.err
	}
	return q, q.check()
}

func (p *queryParser) column() column {
	c := column{}
	start := p.at
	for _, name := range []string{"COUNT", "SUM", "AVG", "MIN", "MAX"} {
		if p.kind == tName && !p.quote && strings.EqualFold(p.text, name) && strings.HasPrefix(strings.TrimLeft(p.s[p.pos:], " "), "(") {
			c.aggregate = name
			p.next()
			p.sign("(")
			if name == "COUNT" {
				p.sign("*")
			} else {
				c.e = p.or()
			}
			p.want(")", p.sign(")"))
			break
		}
	}
	if c.aggregate == "" {
		c.e = p.or()
	}
	switch {
	case p.keyword("AS"):
		if p.kind != tName {
			p.expected("a name after AS")
		}
		c.as = p.text
		p.next()
	case c.aggregate != "":
		c.as = strings.ToLower(c.aggregate)
	default:
		if of, ok := c.e.(*path); ok {
			c.as = of.names[len(of.names)-1]
		} else {
			c.as = strings.TrimSpace(p.s[start:p.at])
		}
	}
	return c
}

// check refuses what has no meaning together.
func (q *Query) check() error {
	if !q.Grouped() {
		return nil
	}
	if len(q.Columns) == 0 {
		return fmt.Errorf("GROUP BY needs columns instead of *")
	}
	for _, c := range q.Columns {
		if c.aggregate != "" {
			continue
		}
		of, ok := c.e.(*path)
		if !ok || !slices.ContainsFunc(q.groupBy, func(g *path) bool { return g.String() == of.String() }) {
			return fmt.Errorf("the column %s is neither an aggregate nor in GROUP BY", c.as)
		}
	}
	return nil
}

// Grouped reports whether the answer has a row for a group instead of a device.
func (q *Query) Grouped() bool {
	for _, c := range q.Columns {
		if c.aggregate != "" {
			return true
		}
	}
	return len(q.groupBy) > 0
}

// enter bounds how deep the parser calls itself.
func (p *queryParser) enter() bool {
	if p.depth++; p.depth > maxNesting {
		p.fail("nested too deep")
	}
	return p.err == nil
}

func (p *queryParser) or() expr {
	defer func() { p.depth-- }()
	if !p.enter() {
		return &literal{nil}
	}
	e := p.and()
	for p.err == nil && p.keyword("OR") {
		e = &logic{true, e, p.and()}
	}
	return e
}

func (p *queryParser) and() expr {
	e := p.not()
	for p.err == nil && p.keyword("AND") {
		e = &logic{false, e, p.not()}
	}
	return e
}

func (p *queryParser) not() expr {
	defer func() { p.depth-- }()
	if !p.enter() {
		return &literal{nil}
	}
	if p.keyword("NOT") {
		return &negation{p.not()}
	}
	return p.comparison()
}

func (p *queryParser) comparison() expr {
	e := p.sum()
	if p.kind == tSign {
		switch op := p.text; op {
		case "=", "!=", "<>", "<", "<=", ">", ">=":
			p.next()
			if op == "<>" {
				op = "!="
			}
			return &compare{op, e, p.sum()}
		}
	}
	no := p.keyword("NIN")
	if no || p.keyword("IN") {
		if p.kind != tSign || p.text != "[" {
			p.expected("[ after IN")
		}
		var in expr = &membership{e, p.primary()}
		if no {
			in = &negation{in}
		}
		return in
	}
	return e
}

func (p *queryParser) sum() expr {
	e := p.product()
	for p.err == nil && p.kind == tSign && (p.text == "+" || p.text == "-") {
		op := p.text[0]
		p.next()
		e = &arithmetic{op, e, p.product()}
	}
	return e
}

func (p *queryParser) product() expr {
	e := p.unary()
	for p.err == nil && p.kind == tSign && (p.text == "*" || p.text == "/" || p.text == "%") {
		op := p.text[0]
		p.next()
		e = &arithmetic{op, e, p.unary()}
	}
	return e
}

func (p *queryParser) unary() expr {
	defer func() { p.depth-- }()
	if !p.enter() {
		return &literal{nil}
	}
	if p.sign("-") {
		return &arithmetic{'-', &literal{0.0}, p.unary()}
	}
	return p.primary()
}

func (p *queryParser) primary() expr {
	switch p.kind {
	case tNumber:
		f, _ := strconv.ParseFloat(p.text, 64)
		p.next()
		return &literal{f}
	case tText:
		s := p.text
		p.next()
		return &literal{s}
	case tSign:
		switch {
		case p.sign("("):
			e := p.or()
			p.want(")", p.sign(")"))
			return e
		case p.sign("["):
			l := &list{}
			for !p.sign("]") {
				l.items = append(l.items, p.or())
				if p.err != nil {
					return l
				}
				if !p.sign(",") {
					p.want("]", p.kind == tSign && p.text == "]")
				}
			}
			return l
		}
	case tName:
		if p.quote {
			return p.path()
		}
		switch {
		case p.keyword("true"):
			return &literal{true}
		case p.keyword("false"):
			return &literal{false}
		case p.keyword("null"):
			return &literal{nil}
		}
		for _, reserved := range []string{"SELECT", "FROM", "WHERE", "GROUP", "BY", "AND", "OR", "NOT", "IN", "NIN", "AS", "TOP", "ORDER"} {
			if strings.EqualFold(p.text, reserved) {
				p.expected("a value")
				return &literal{nil}
			}
		}
		if strings.HasPrefix(strings.TrimLeft(p.s[p.pos:], " \t\r\n"), "(") {
			return p.call()
		}
		return p.path()
	}
	p.expected("a value")
	return &literal{nil}
}

func (p *queryParser) path() expr {
	e := &path{names: []string{p.text}}
	prefix := !p.quote && strings.EqualFold(p.text, "devices")
	p.next()
	for p.err == nil {
		if p.sign(".") {
			if p.kind != tName {
				p.expected("a name")
				break
			}
			e.names = append(e.names, p.text)
			p.next()
			continue
		}
		break
	}
	if prefix && len(e.names) > 1 {
		e.names = e.names[1:]
	}
	return e
}

func (p *queryParser) call() expr {
	name := strings.ToUpper(p.text)
	f, ok := functions[name]
	if !ok {
		p.fail("there is no function %s", p.text)
		return &literal{nil}
	}
	p.next()
	p.sign("(")
	c := &call{f: f}
	for !p.sign(")") {
		c.args = append(c.args, p.or())
		if p.err != nil {
			return c
		}
		if !p.sign(",") {
			p.want(")", p.kind == tSign && p.text == ")")
		}
	}
	if len(c.args) < f.min || len(c.args) > f.max {
		p.fail("%s takes %d to %d arguments", name, f.min, f.max)
	}
	return c
}

type literal struct{ v any }

func (l *literal) eval(map[string]any) any { return l.v }

type path struct{ names []string }

func (p *path) String() string { return strings.Join(p.names, "\x00") }

func (p *path) eval(doc map[string]any) any {
	var v any = doc
	for _, n := range p.names {
		m, ok := v.(map[string]any)
		if !ok {
			return undefined
		}
		if v, ok = m[n]; !ok {
			return undefined
		}
	}
	if n, ok := v.(json.Number); ok {
		if f, err := n.Float64(); err == nil {
			return f
		}
		return undefined
	}
	return v
}

type list struct{ items []expr }

func (l *list) eval(doc map[string]any) any {
	out := make([]any, len(l.items))
	for i, e := range l.items {
		out[i] = e.eval(doc)
	}
	return out
}

type logic struct {
	or   bool
	a, b expr
}

func (l *logic) eval(doc map[string]any) any {
	if a := l.a.eval(doc) == true; a == l.or {
		return a
	}
	return l.b.eval(doc) == true
}

type negation struct{ e expr }

func (n *negation) eval(doc map[string]any) any {
	if b, ok := n.e.eval(doc).(bool); ok {
		return !b
	}
	return undefined
}

type compare struct {
	op   string
	a, b expr
}

func (c *compare) eval(doc map[string]any) any {
	a, b := c.a.eval(doc), c.b.eval(doc)
	if a == undefined || b == undefined {
		return undefined
	}
	switch c.op {
	case "=":
		return same(a, b)
	case "!=":
		return !same(a, b)
	}
	var order int
	switch x := a.(type) {
	case float64:
		y, ok := b.(float64)
		if !ok {
			return undefined
		}
		order = cmp.Compare(x, y)
	case string:
		y, ok := b.(string)
		if !ok {
			return undefined
		}
		order = strings.Compare(x, y)
	default:
		return undefined
	}
	switch c.op {
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	}
	return order >= 0
}

// same compares values; objects and arrays by what they are as JSON.
func same(a, b any) bool {
	switch a.(type) {
	case map[string]any, []any:
		switch b.(type) {
		case map[string]any, []any:
			return string(encodeJSON(cleaned(a))) == string(encodeJSON(cleaned(b)))
		}
		return false
	}
	switch b.(type) {
	case map[string]any, []any:
		return false
	}
	return a == b
}

// cleaned takes what JSON cannot say out of an array of the query.
func cleaned(v any) any {
	l, ok := v.([]any)
	if !ok {
		return v
	}
	out := make([]any, len(l))
	for i, e := range l {
		if out[i] = cleaned(e); e == undefined {
			out[i] = nil
		}
	}
	return out
}

type membership struct{ e, in expr }

func (m *membership) eval(doc map[string]any) any {
	v := m.e.eval(doc)
	if v == undefined {
		return undefined
	}
	items, _ := m.in.eval(doc).([]any)
	for _, item := range items {
		if item != undefined && same(v, item) {
			return true
		}
	}
	return false
}

type arithmetic struct {
	op   byte
	a, b expr
}

func (x *arithmetic) eval(doc map[string]any) any {
	a, ok := x.a.eval(doc).(float64)
	b, two := x.b.eval(doc).(float64)
	if !ok || !two {
		return undefined
	}
	switch x.op {
	case '+':
		return finite(a + b)
	case '-':
		return finite(a - b)
	case '*':
		return finite(a * b)
	case '/':
		return finite(a / b)
	}
	return finite(math.Mod(a, b))
}

func finite(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return undefined
	}
	return f
}

type function struct {
	min, max int
	f        func(args []any) any
}

type call struct {
	f    function
	args []expr
}

func (c *call) eval(doc map[string]any) any {
	args := make([]any, len(c.args))
	for i, a := range c.args {
		args[i] = a.eval(doc)
	}
	return c.f.f(args)
}

func number(f func(float64) float64) function {
	return function{1, 1, func(a []any) any {
		x, ok := a[0].(float64)
		if !ok {
			return undefined
		}
		return finite(f(x))
	}}
}

func texts(n int, f func(s []string) any) function {
	return function{n, n, func(a []any) any {
		s := make([]string, len(a))
		for i := range a {
			t, ok := a[i].(string)
			if !ok {
				return undefined
			}
			s[i] = t
		}
		return f(s)
	}}
}

func kind(ok func(v any) bool) function {
	return function{1, 1, func(a []any) any { return ok(a[0]) }}
}

func isType[T any](v any) bool { _, ok := v.(T); return ok }

var functions = map[string]function{
	"IS_DEFINED": kind(func(v any) bool { return v != undefined }),
	"IS_NULL":    kind(func(v any) bool { return v == nil }),
	"IS_NUMBER":  kind(isType[float64]),
	"IS_STRING":  kind(isType[string]),
	"IS_BOOL":    kind(isType[bool]),
	"IS_OBJECT":  kind(isType[map[string]any]),
	"IS_PRIMITIVE": kind(func(v any) bool {
		return v == nil || isType[float64](v) || isType[string](v) || isType[bool](v)
	}),
	"ABS": number(math.Abs), "EXP": number(math.Exp), "SQUARE": number(func(x float64) float64 { return x * x }), "CEILING": number(math.Ceil),
	"FLOOR": number(math.Floor), "SQRT": number(math.Sqrt),
	"SIGN": number(func(x float64) float64 {
		switch {
		case x > 0:
			return 1
		case x < 0:
			return -1
		}
		return 0
	}),
	"POWER": {2, 2, func(a []any) any {
		x, ok := a[0].(float64)
		y, two := a[1].(float64)
		if !ok || !two {
			return undefined
		}
		return finite(math.Pow(x, y))
	}},
	"AS_NUMBER": {1, 1, func(a []any) any {
		switch v := a[0].(type) {
		case float64:
			return v
		case string:
			if f, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil {
				return finite(f)
			}
		}
		return undefined
	}},
	"CONCAT": {2, 32, func(a []any) any {
		var b strings.Builder
		for _, v := range a {
			s, ok := v.(string)
			if !ok || b.Len()+len(s) > 1<<20 {
				return undefined
			}
			b.WriteString(s)
		}
		return b.String()
	}},
	"LENGTH":      texts(1, func(s []string) any { return float64(utf8.RuneCountInString(s[0])) }),
	"LOWER":       texts(1, func(s []string) any { return strings.ToLower(s[0]) }),
	"UPPER":       texts(1, func(s []string) any { return strings.ToUpper(s[0]) }),
	"STARTS_WITH": texts(2, func(s []string) any { return strings.HasPrefix(s[0], s[1]) }),
	"STARTSWITH":  texts(2, func(s []string) any { return strings.HasPrefix(s[0], s[1]) }),
	"ENDS_WITH":   texts(2, func(s []string) any { return strings.HasSuffix(s[0], s[1]) }),
	"ENDSWITH":    texts(2, func(s []string) any { return strings.HasSuffix(s[0], s[1]) }),
	"CONTAINS":    texts(2, func(s []string) any { return strings.Contains(s[0], s[1]) }),
	"INDEX_OF": texts(2, func(s []string) any {
		i := strings.Index(s[0], s[1])
		if i < 0 {
			return -1.0
		}
		return float64(utf8.RuneCountInString(s[0][:i]))
	}),
	"SUBSTRING": {2, 3, func(a []any) any {
		s, ok := a[0].(string)
		from, two := a[1].(float64)
		if !ok || !two {
			return undefined
		}
		r := []rune(s)
		start := int(min(max(from, 0), float64(len(r))))
		end := len(r)
		if len(a) == 3 {
			n, ok := a[2].(float64)
			if !ok {
				return undefined
			}
			end = start + int(min(max(n, 0), float64(len(r)-start)))
		}
		return string(r[start:end])
	}},
}

// Matches reports whether a device is asked for.
func (q *Query) Matches(doc map[string]any) bool { return q.where == nil || q.where.eval(doc) == true }

// Project returns a device's row.
func (q *Query) Project(doc map[string]any) any {
	if len(q.Columns) == 0 {
		return doc
	}
	row := map[string]any{}
	for _, c := range q.Columns {
		if v := c.e.eval(doc); v != undefined {
			row[c.as] = cleaned(v)
		}
	}
	return row
}

// groups gathers the rows of a query with aggregates.
type groups struct {
	q     *Query
	order []string
	of    map[string]*group
}

type group struct {
	doc    map[string]any // one of it
	count  int
	sums   []float64
	counts []int
	mins   []float64
	maxs   []float64
}

func (q *Query) newGroups() *groups { return &groups{q: q, of: map[string]*group{}} }

func (g *groups) add(doc map[string]any) {
	key := make([]any, len(g.q.groupBy))
	for i, p := range g.q.groupBy {
		if key[i] = p.eval(doc); key[i] == undefined {
			key[i] = map[string]any{"undefined": true}
		}
	}
	k := string(encodeJSON(key))
	one := g.of[k]
	if one == nil {
		n := len(g.q.Columns)
		one = &group{doc: doc, sums: make([]float64, n), counts: make([]int, n), mins: make([]float64, n), maxs: make([]float64, n)}
		g.of[k], g.order = one, append(g.order, k)
	}
	one.count++
	for i, c := range g.q.Columns {
		if c.aggregate == "" || c.aggregate == "COUNT" {
			continue
		}
		f, ok := c.e.eval(doc).(float64)
		if !ok {
			continue
		}
		if one.counts[i] == 0 || f < one.mins[i] {
			one.mins[i] = f
		}
		if one.counts[i] == 0 || f > one.maxs[i] {
			one.maxs[i] = f
		}
		one.counts[i]++
		one.sums[i] += f
	}
}

func (g *groups) rows() []any {
	if len(g.order) == 0 && len(g.q.groupBy) == 0 {
		row := map[string]any{}
		for _, c := range g.q.Columns {
			if c.aggregate == "COUNT" {
				row[c.as] = 0
			}
		}
		return []any{row}
	}
	out := []any{}
	for _, k := range g.order {
		one, row := g.of[k], map[string]any{}
		for i, c := range g.q.Columns {
			switch c.aggregate {
			case "COUNT":
				row[c.as] = one.count
				continue
			case "":
				if v := c.e.eval(one.doc); v != undefined {
					row[c.as] = v
				}
				continue
			}
			if one.counts[i] == 0 {
				continue
			}
			switch c.aggregate {
			case "SUM":
				row[c.as] = one.sums[i]
			case "AVG":
				row[c.as] = one.sums[i] / float64(one.counts[i])
			case "MIN":
				row[c.as] = one.mins[i]
			case "MAX":
				row[c.as] = one.maxs[i]
			}
		}
		out = append(out, row)
	}
	return out
}

// plain makes decoded JSON of what twinDocument returns.
func plain(doc map[string]any) map[string]any {
	v, _ := decodeJSON(encodeJSON(doc))
	m, _ := v.(map[string]any)
	return m
}

// cutNumber splits "12 name".
func cutNumber(s string) (int, string, bool) {
	n, rest, ok := strings.Cut(s, " ")
	i, err := strconv.Atoi(n)
	return i, rest, ok && err == nil && i >= 0
}
