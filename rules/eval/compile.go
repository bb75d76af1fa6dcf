package eval

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/sql"
)

// Options are what a statement is compiled for.
type Options struct {
	Version   string // of the language, as a rule document has it; "" is 2015-10-08
	RuleName  string // seeds newuuid() and rand()
	AccountID string // what accountid() gives
	Lookups   Lookups
	// ErrorAction refuses functions that call out, in the statement and in
	// templates; see Program.ForErrorAction.
	ErrorAction bool
}

// Limits of a SET clause.
const (
	maxVars    = 10
	maxVarName = 64
)

// Compile makes a program of a statement. It finds every mistake that can be
// found without an event; the error is a *sql.Error. Warnings tell what the
// language accepts but cannot mean.
func Compile(stmt *sql.Statement, o Options) (*Program, []sql.Error, error) {
	version, ok := ParseVersion(o.Version)
	if !ok {
		return nil, nil, sql.At(stmt.Source, sql.Span{},
			"use 2016-03-23", "unknown SQL version %q", o.Version)
	}
	info := &ruleInfo{version: version, rule: o.RuleName, account: o.AccountID, lookups: o.Lookups}
	p := &Program{stmt: stmt, info: info, errorAction: o.ErrorAction, hasFilter: stmt.HasFrom}
	c := newCompiler(stmt.Source, p)
	if stmt.HasFrom {
		p.filter = c.filter(stmt.Filter, stmt.FilterSpan)
	}
	c.set(stmt)
	c.aliases = aliasesOf(stmt.Select)
	c.nodes = make(map[sql.Expr]node)
	if stmt.Select.Where != nil {
		c.inWhere = true
		p.whereNode = c.expr(stmt.Select.Where)
		p.where = condition(p.whereNode)
		c.inWhere = false
	}
	p.nodes, c.nodes = c.nodes, nil
	p.project = c.project(stmt.Select)
	if len(c.tables) > 1 {
		c.warn(c.tables[1], "call it once; a statement with two calls of it does nothing",
			"get_dynamodb is called more than once: the rule will never act")
		p.never = true
	}
	if c.err != nil {
		return nil, nil, c.err
	}
	p.variables = c.vars
	c.finish(&p.code)
	return p, c.warnings, nil
}

// compiler turns one statement, or the expressions of one template, into nodes.
type compiler struct {
	source   string
	version  Version
	program  *Program
	err      *sql.Error // the mistake that stands first
	warnings []sql.Error
	scope    *scope
	depth    int  // deepest scope
	count    int  // expressions so far
	reads    bool // see code
	vars     map[string]*variable
	tables   []sql.Span // calls of get_dynamodb
	nodes    map[sql.Expr]node
	aliases  map[string]sql.Expr // of the outermost SELECT, by first level
	inWhere  bool
}

// scope is what one level of queries names.
type scope struct {
	builder shapeBuilder
	paths   []*path
	name    string // of the item, from FROM … AS
	outer   *scope
	depth   int
	// fixups run when the slots have their final numbers.
	fixups []func(moved []int32)
}

func newCompiler(source string, p *Program) *compiler {
	return &compiler{source: source, version: p.info.version, program: p, scope: &scope{}, depth: 1, vars: map[string]*variable{}}
}

// finish completes code once all expressions are compiled.
func (c *compiler) finish(to *code) {
	shape, slots := c.scope.close()
	*to = code{ver: c.version, shape: shape, slots: slots, depth: c.depth, vars: len(c.vars), reads: c.reads}
}

// close gives the scope's paths their slots.
func (s *scope) close() (*shape, int32) {
	shape, moved := s.builder.build()
	for _, x := range s.paths {
		x.slot = moved[x.slot]
	}
	for _, f := range s.fixups {
		f(moved)
	}
	return shape, s.builder.slots
}

func (c *compiler) fail(span sql.Span, hint, format string, args ...any) {
	if c.err == nil || span.From < c.err.Span.From {
		c.err = sql.At(c.source, span, hint, format, args...)
	}
}

func (c *compiler) warn(span sql.Span, hint, format string, args ...any) {
	c.warnings = append(c.warnings, *sql.At(c.source, span, hint, format, args...))
}

// since refuses a feature that is newer than the statement's version.
func (c *compiler) since(v Version, span sql.Span, what string) {
	if c.version < v {
		c.fail(span, fmt.Sprintf("set awsIotSqlVersion to %s", v),
			"%s needs SQL version %s; this rule has %s", what, v, c.version)
	}
}

// filter checks the topic filter, whose text stands at span.
func (c *compiler) filter(s string, span sql.Span) topic.Filter {
	f, err := topic.ParseFilter(s, topic.Limits{})
	if err == nil {
		return f
	}
	at, hint := span, "a filter is levels between slashes; + stands for one level, # for all the rest"
	// Point at the wildcard that is wrong, not at the whole filter.
	if span.To-span.From == len(s) {
		for i := range len(s) {
			alone := (i == 0 || s[i-1] == '/') && (i+1 == len(s) || s[i+1] == '/')
			if (s[i] == '+' || s[i] == '#') && !alone || s[i] == '#' && i+1 < len(s) {
				at = sql.Span{From: span.From + i, To: span.From + i + 1}
				break
			}
		}
	}
	c.fail(at, hint, "%s", err)
	return ""
}

// set compiles the SET clause; each variable sees the ones before it.
func (c *compiler) set(stmt *sql.Statement) {
	for i, a := range stmt.Set {
		if i == 0 {
			c.since(V2016, a.NameSpan, "SET")
		}
		switch _, twice := c.vars[a.Name]; {
		case twice:
			c.fail(a.NameSpan, "give it another name", "@%s is set twice", a.Name)
		case i == maxVars:
			c.fail(a.NameSpan, "", "SET has more than %d variables", maxVars)
		case len(a.Name) > maxVarName:
			c.fail(a.NameSpan, "", "the name of a variable has at most %d characters, this one %d", maxVarName, len(a.Name))
		}
		v := c.expr(a.Value)
		c.vars[a.Name] = &variable{index: i, value: v}
	}
}

// aliasesOf returns the columns that have an alias which is not simply the
// member of that name.
func aliasesOf(sel *sql.Select) map[string]sql.Expr {
	t := make(map[string]sql.Expr)
	for _, item := range sel.Items {
		if len(item.Alias) == 0 || names(item.Expr, item.Alias[0]) {
			continue
		}
		t[item.Alias[0]] = item.Expr
	}
	return t
}

// names reports whether x reads the member name of the current item.
func names(x sql.Expr, name string) bool {
	switch x := x.(type) {
	case *sql.Path:
		return x.Names[0] == name
	case *sql.Member:
		return names(x.X, name)
	case *sql.Unary:
		return names(x.X, name)
	case *sql.Cast:
		return names(x.X, name)
	case *sql.Binary:
		return names(x.X, name) || names(x.Y, name)
	case *sql.Call:
		return slices.ContainsFunc(x.Args, func(a sql.Expr) bool { return names(a, name) })
	}
	return false
}

// project compiles what a SELECT gives for each item.
func (c *compiler) project(sel *sql.Select) *projection {
	if sel.Value {
		if len(sel.Items) != 1 {
			c.fail(sel.Items[1].Span, "use SELECT without VALUE, or an array: SELECT VALUE [a, b]",
				"SELECT VALUE takes one item, found %d", len(sel.Items))
		}
		item := sel.Items[0]
		if _, ok := item.Expr.(*sql.Star); ok {
			c.star()
			return &projection{star: true}
		}
		return &projection{value: c.expr(item.Expr)}
	}
	columns := make([]column, 0, len(sel.Items))
	for _, item := range sel.Items {
		if _, ok := item.Expr.(*sql.Star); ok && item.Alias == nil {
			c.star()
			columns = append(columns, column{star: true})
			continue
		}
		levels := item.Alias
		if levels == nil {
			levels = []string{c.columnName(item.Expr)}
		}
		columns = append(columns, column{levels: levels, expr: c.expr(item.Expr)})
	}
	s := c.scope
	p := arrange(columns, func(name string) int32 { return s.builder.add([]string{name}) })
	s.fixups = append(s.fixups, func(moved []int32) {
		for i := range p.probes {
			p.probes[i] = moved[p.probes[i]]
		}
	})
	return p
}

// columnName is the name of a column without an alias: the last name of a path,
// otherwise the expression as written.
func (c *compiler) columnName(x sql.Expr) string {
	switch x := x.(type) {
	case *sql.Path:
		return x.Names[len(x.Names)-1]
	case *sql.Member:
		return x.Names[len(x.Names)-1]
	case *sql.Var:
		return x.Name
	}
	span := x.Pos()
	return c.source[span.From:span.To]
}

var undefined node = &constant{}

// expr compiles an expression. After a mistake it still returns a node.
func (c *compiler) expr(x sql.Expr) node {
	c.count++
	n := c.compile(x)
	if c.nodes != nil && c.scope.depth == 0 {
		c.nodes[x] = n
	}
	return n
}

func (c *compiler) compile(x sql.Expr) node {
	switch x := x.(type) {
	case *sql.Literal:
		return c.literal(x)
	case *sql.Path:
		return c.path(x)
	case *sql.Star:
		c.star()
		return star{}
	case *sql.Var:
		return c.variable(x)
	case *sql.Member:
		return &member{x: c.expr(x.X), names: x.Names}
	case *sql.Unary:
		if x.Op == sql.Not {
			return c.fold(&not{c.expr(x.X)}, x.X)
		}
		return c.fold(&neg{c.expr(x.X), c.version}, x.X)
	case *sql.Binary:
		return c.binary(x)
	case *sql.In:
		c.since(V2016, x.Span, "IN")
		return &in{x: c.expr(x.X), set: c.set1(x.Set), not: x.Not}
	case *sql.Exists:
		c.since(V2016, x.Span, "EXISTS")
		return &exists{c.query(x.Select)}
	case *sql.Subquery:
		c.since(V2016, x.Span, "a nested SELECT")
		return &subquery{c.query(x.Select)}
	case *sql.Case:
		return c.choose(x)
	case *sql.Call:
		return c.call(x)
	case *sql.Cast:
		return c.cast(x)
	case *sql.Array:
		c.since(V2016, x.Span, "an array literal")
		return c.array(x)
	case *sql.Object:
		c.since(V2016, x.Span, "an object literal")
		return c.object(x)
	}
	c.fail(x.Pos(), "", "this expression cannot be evaluated")
	return undefined
}

// star notes a * of the current scope.
func (c *compiler) star() {
	if c.scope.outer == nil {
		c.reads = true
	}
}

func (c *compiler) literal(x *sql.Literal) node {
	switch x.Kind {
	case sql.Null:
		return &constant{NullValue}
	case sql.Bool:
		return &constant{BoolValue(x.Bool)}
	case sql.Number:
		text := x.Text
		if strings.HasPrefix(text, ".") {
			text = "0" + text
		}
		v, ok := ParseNumber(strings.TrimSuffix(text, "."), c.version)
		if !ok {
			c.fail(x.Span, "", "%s is out of range: a number goes up to 10^%d", x.Text, maxExponent+1)
		}
		return &constant{v}
	}
	return &constant{StringValue(x.Text)}
}

func (c *compiler) path(x *sql.Path) node {
	if c.inWhere && c.scope.outer == nil {
		if column, ok := c.aliases[x.Names[0]]; ok {
			span := column.Pos()
			c.warn(x.Span, fmt.Sprintf("WHERE runs before SELECT; write the expression itself: %s", c.source[span.From:span.To]),
				"%s is an alias of SELECT; in WHERE it is a member of the message", x.Names[0])
		}
	}
	if c.scope.name != "" && x.Names[0] == c.scope.name {
		return &itemName{x.Names[1:]}
	}
	if c.scope.outer == nil {
		c.reads = true
	}
	p := &path{names: x.Names, slot: c.scope.builder.add(x.Names), ver: c.version}
	c.scope.paths = append(c.scope.paths, p)
	return p
}

func (c *compiler) variable(x *sql.Var) node {
	if v, ok := c.vars[x.Name]; ok {
		return v
	}
	known := make([]string, 0, len(c.vars))
	for name := range c.vars {
		known = append(known, name)
	}
	hint := fmt.Sprintf("set it before SELECT: SET @%s = …", x.Name)
	if near := nearest(x.Name, known); near != "" {
		hint = fmt.Sprintf("did you mean @%s?", near)
	}
	c.fail(x.Span, hint, "variable @%s is not set", x.Name)
	return undefined
}

// fold replaces an operator over constants by its value.
func (c *compiler) fold(n node, operands ...sql.Expr) node {
	for _, x := range operands {
		if _, ok := x.(*sql.Literal); !ok {
			return n
		}
	}
	return &constant{detached(n)}
}

func (c *compiler) binary(x *sql.Binary) node {
	if x.Op == sql.Sub {
		c.hyphen(x)
	}
	// A chain of operators leans to the left and may be thousands long.
	a, b := c.expr(x.X), c.expr(x.Y)
	v := c.version
	switch x.Op {
	case sql.And:
		return &and{a, b}
	case sql.Or:
		return &or{a, b}
	case sql.Eq:
		return &equal{x: a, y: b}
	case sql.Ne:
		return &equal{x: a, y: b, differ: true}
	case sql.Lt:
		return &order{x: a, y: b, less: true, ver: v}
	case sql.Le:
		return &order{x: a, y: b, less: true, same: true, ver: v}
	case sql.Gt:
		return &order{x: a, y: b, more: true, ver: v}
	case sql.Ge:
		return &order{x: a, y: b, more: true, same: true, ver: v}
	case sql.Add:
		return c.fold(&add{a, b, v}, x.X, x.Y)
	}
	op := map[sql.Op]func(a, b Value, v Version) Value{sql.Sub: Sub, sql.Mul: Mul, sql.Div: Div, sql.Mod: Rem}[x.Op]
	if op == nil {
		c.fail(x.Span, "", "unknown operator %s", x.Op)
		return undefined
	}
	return c.fold(&arith{op, a, b, v}, x.X, x.Y)
}

// hyphen warns of a difference that is probably meant as a name: my-key.
func (c *compiler) hyphen(x *sql.Binary) {
	a, ok1 := x.X.(*sql.Path)
	b, ok2 := x.Y.(*sql.Path)
	if !ok1 || !ok2 || a.Span.To+1 != b.Span.From {
		return
	}
	last := len(a.Names) - 1
	of, rest := "*", ""
	if last > 0 {
		of = strings.Join(a.Names[:last], ".")
	}
	if len(b.Names) > 1 {
		rest = "." + strings.Join(b.Names[1:], ".")
	}
	c.warn(x.Span, fmt.Sprintf("for a member with a hyphen write get(%s, '%s-%s')%s; for a difference put spaces around the minus sign", of, a.Names[last], b.Names[0], rest),
		"%s is %s minus %s", c.source[x.Span.From:x.Span.To], strings.Join(a.Names, "."), strings.Join(b.Names, "."))
}

// set1 compiles the right side of IN; a list in parentheses is no array literal
// of its own.
func (c *compiler) set1(x sql.Expr) node {
	if list, ok := x.(*sql.Array); ok {
		return c.array(list)
	}
	return c.expr(x)
}

func (c *compiler) array(x *sql.Array) node {
	n := &array{items: make([]node, len(x.Items)), ver: c.version}
	values := make([]Value, len(x.Items))
	fixed := true
	for i, item := range x.Items {
		n.items[i] = c.expr(item)
		k, ok := n.items[i].(*constant)
		if fixed = fixed && ok; fixed {
			values[i] = k.v
		}
	}
	if fixed {
		return &constant{ArrayValue(values)}
	}
	return n
}

func (c *compiler) object(x *sql.Object) node {
	n := &object{members: make([]column, len(x.Members)), ver: c.version, distinct: true}
	values := make([]Member, len(x.Members))
	seen := make(map[string]bool)
	fixed := true
	for i, m := range x.Members {
		n.members[i] = newColumn(m.Name, c.expr(m.Value))
		k, ok := n.members[i].expr.(*constant)
		if fixed = fixed && ok; fixed {
			values[i] = Member{m.Name, k.v}
		}
		n.distinct = n.distinct && !seen[m.Name]
		seen[m.Name] = true
	}
	if fixed {
		return &constant{ObjectValue(values)}
	}
	return n
}

func (c *compiler) choose(x *sql.Case) node {
	tests, then := make([]node, len(x.Whens)), make([]node, len(x.Whens))
	var operand, otherwise node
	if x.Operand != nil {
		operand = c.expr(x.Operand)
	}
	for i, w := range x.Whens {
		tests[i], then[i] = c.expr(w.Cond), c.expr(w.Then)
	}
	if x.Else != nil {
		otherwise = c.expr(x.Else)
	}
	if operand == nil {
		return &chooseIf{tests, then, otherwise}
	}
	return &choose{operand, tests, then, otherwise}
}

// maxQueryDepth bounds how deep queries may nest.
const maxQueryDepth = 32

// query compiles a nested SELECT.
func (c *compiler) query(sel *sql.Select) *query {
	q := &query{ver: c.version, depth: c.scope.depth + 1}
	if q.depth > maxQueryDepth {
		c.fail(sel.Span, "", "queries are nested deeper than %d levels", maxQueryDepth)
		return q
	}
	if sel.From == nil {
		c.fail(sel.Span, "name what it reads from: (SELECT … FROM member)", "a nested SELECT needs FROM")
		return q
	}
	q.from = c.expr(sel.From)
	_, q.whole = sel.From.(*sql.Star)
	inWhere, before := c.inWhere, c.count
	c.inWhere = false
	c.scope = &scope{outer: c.scope, name: sel.As, depth: q.depth}
	c.depth = max(c.depth, q.depth+1)
	if sel.Where != nil {
		q.where = condition(c.expr(sel.Where))
	}
	q.project = c.project(sel)
	q.shape, q.slots = c.scope.close()
	q.steps = itemSteps + c.count - before
	c.scope, c.inWhere = c.scope.outer, inWhere
	return q
}

var castTypes = map[string]struct {
	to    castType
	since Version
}{
	"string": {toString, V2015}, "nvarchar": {toString, V2015}, "text": {toString, V2015},
	"ntext": {toString, V2015}, "varchar": {toString, V2015},
	"int": {toInt, V2015}, "integer": {toInt, V2015}, "double": {toDouble, V2015},
	"decimal": {toDecimal, V2016}, "bool": {toBool, V2016}, "boolean": {toBool, V2016},
}

func (c *compiler) cast(x *sql.Cast) node {
	t, ok := castTypes[strings.ToLower(x.Type)]
	if !ok {
		known := make([]string, 0, len(castTypes))
		for name := range castTypes {
			known = append(known, name)
		}
		hint := "the types are String, Int, Decimal, Double and Boolean"
		if near := nearest(strings.ToLower(x.Type), known); near != "" {
			hint = fmt.Sprintf("did you mean %s?", near)
		}
		c.fail(x.TypeSpan, hint, "cast knows no type %s", x.Type)
	}
	c.since(t.since, x.TypeSpan, "cast to "+x.Type)
	return &cast{x: c.expr(x.X), to: t.to, ver: c.version}
}

// functions finds the entries of the table by name.
var functions = sync.OnceValue(func() map[string]*Function {
	t := make(map[string]*Function, len(Functions))
	for i := range Functions {
		t[Functions[i].Name] = &Functions[i]
	}
	return t
})

func (c *compiler) call(x *sql.Call) node {
	fn, ok := functions()[x.Name]
	if !ok {
		known := make([]string, 0, len(Functions))
		for i := range Functions {
			known = append(known, Functions[i].Name)
		}
		hint := ""
		if near := nearest(x.Name, known); near != "" {
			hint = fmt.Sprintf("did you mean %s?", near)
		}
		c.fail(x.NameSpan, hint, "unknown function %s", c.source[x.NameSpan.From:x.NameSpan.To])
		return undefined
	}
	c.since(fn.Since, x.NameSpan, "function "+fn.Name)
	n := &call{fn: fn, args: make([]node, len(x.Args))}
	n.site.rule = c.program.info
	n.site.seed = hashText(hashText(hashText(uint64(x.Span.From), c.source), c.program.info.rule), fn.Name)
	constants := make([]*Value, len(x.Args))
	fixed := true
	for i, arg := range x.Args {
		n.args[i] = c.expr(arg)
		if k, ok := n.args[i].(*constant); ok {
			constants[i] = &k.v
		} else {
			fixed = false
		}
	}
	if !fits(fn, len(x.Args)) {
		c.warn(x.Span, fn.Signature, "%s takes %s, found %d: the call gives Undefined", fn.Name, arity(fn), len(x.Args))
		return undefined
	}
	for _, i := range fn.Literal {
		if i >= len(x.Args) {
			continue
		}
		if k, ok := x.Args[i].(*sql.Literal); !ok || k.Kind != sql.String {
			c.fail(x.Args[i].Pos(), fn.Signature, "argument %d of %s must be a string written in the statement", i+1, fn.Name)
		}
	}
	for _, i := range fn.NoVars {
		if i < 0 {
			i += len(x.Args)
		}
		if i < len(x.Args) {
			if v, ok := x.Args[i].(*sql.Var); ok {
				c.fail(v.Span, "", "argument %d of %s cannot be a variable", i+1, fn.Name)
			}
		}
	}
	c.service(fn, x, constants)
	if fn.Prepare != nil {
		n.state = fn.Prepare(constants, c.version)
	}
	if fn.Pure && fixed && c.err == nil {
		return &constant{detached(n)}
	}
	return n
}

// service checks that what a function calls out to is there and allowed.
func (c *compiler) service(fn *Function, x *sql.Call, constants []*Value) {
	s := fn.Service
	if fn.ServiceOf != nil {
		s = fn.ServiceOf(constants)
	}
	if s == NoService {
		return
	}
	c.program.callsOut = true
	if s == TableService {
		c.tables = append(c.tables, x.NameSpan)
	}
	switch t := serviceTexts[s]; {
	case c.program.errorAction:
		c.fail(x.NameSpan, "take what it needs from the message", "%s calls out to %s; an error action cannot", fn.Name, t.what)
	case !c.program.info.lookups.has(s):
		c.fail(x.NameSpan, t.hint, "%s needs %s, which this installation does not have", fn.Name, t.what)
	}
}

// serviceTexts says what a function that calls out needs, and what gives it one.
var serviceTexts = [...]struct{ what, hint string }{
	ShadowService:     {"the shadow service", "it is a part of a running Weir; elsewhere fixtures answer"},
	RegistryService:   {"the registry", "it is a part of a running Weir; elsewhere fixtures answer"},
	TableService:      {"a DynamoDB endpoint", "set AWS_ENDPOINT_URL_DYNAMODB or AWS credentials and start Weir again"},
	SecretService:     {"a secrets manager", "set AWS_ENDPOINT_URL_SECRETS_MANAGER or AWS credentials and start Weir again"},
	LambdaService:     {"a Lambda endpoint", "set AWS_ENDPOINT_URL_LAMBDA or AWS credentials and start Weir again"},
	DescriptorService: {"object storage for Protobuf descriptors", "set AWS_ENDPOINT_URL_S3 or AWS credentials and start Weir again"},
	PredictService:    {"a machine learning service", "this Weir runs no models"},
}

func fits(fn *Function, n int) bool {
	if fn.Counts != nil {
		return slices.Contains(fn.Counts, n)
	}
	return n >= fn.MinArgs && (fn.MaxArgs < 0 || n <= fn.MaxArgs)
}

// arity is what fits, in words.
func arity(fn *Function) string {
	plural := func(n int) string {
		if n == 1 {
			return "1 argument"
		}
		return fmt.Sprintf("%d arguments", n)
	}
	switch {
	case len(fn.Counts) > 1:
		words := make([]string, len(fn.Counts))
		for i, n := range fn.Counts {
			words[i] = fmt.Sprint(n)
		}
		return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1] + " arguments"
	case fn.MaxArgs < 0:
		return plural(fn.MinArgs) + " or more"
	case fn.MinArgs < fn.MaxArgs:
		return fmt.Sprintf("%d to %d arguments", fn.MinArgs, fn.MaxArgs)
	case fn.MaxArgs == 0:
		return "no arguments"
	}
	return plural(fn.MinArgs)
}

// nearest returns the known name closest to name, "" where none is close. Names
// are compared without regard to case.
func nearest(name string, known []string) string {
	best, dist := "", 1+max(1, len(name)/3)
	slices.Sort(known)
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < dist {
			best, dist = k, d
		}
	}
	return best
}

// distance counts the letters to add, drop, change or swap to get from a to b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b))
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range len(b) + 1 {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
