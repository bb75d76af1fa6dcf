package eval

import (
	"bytes"

	"github.com/cockroachdb/apd/v3"
)

// node is a compiled expression. Nodes are immutable.
type node interface {
	// eval gives the expression's value; Undefined where the evaluation failed.
	eval(m *Machine) Value
}

// writer is a node that writes its JSON more cheaply than by way of a Value.
type writer interface {
	// write appends the value's JSON to m.out; false where it is Undefined and
	// nothing was written.
	write(m *Machine) bool
}

// write appends x's JSON to m.out; false where x is Undefined.
func write(m *Machine, x node) bool {
	if w, ok := x.(writer); ok {
		return w.write(m)
	}
	v := x.eval(m)
	if v.kind == Undefined {
		return false
	}
	m.out = v.AppendJSON(m.out)
	return true
}

// constant is a literal, or what a pure function made of literals.
type constant struct{ v Value }

func (x *constant) eval(*Machine) Value { return x.v }

// path is a member of the current item.
type path struct {
	names []string
	slot  int32
	ver   Version
}

func (x *path) eval(m *Machine) Value {
	f := m.frame
	if f.built {
		return m.members(f.item, x.names)
	}
	r := f.refs[x.slot]
	if r.to == 0 {
		return Value{}
	}
	return m.value(f.doc[r.from:r.to], r, x.ver)
}

func (x *path) write(m *Machine) bool {
	f := m.frame
	if !f.built {
		r := f.refs[x.slot]
		if r.to == 0 {
			return false
		}
		if !r.messy {
			m.out = append(m.out, f.doc[r.from:r.to]...)
			return true
		}
	}
	v := x.eval(m)
	if v.kind == Undefined {
		return false
	}
	m.out = v.AppendJSON(m.out)
	return true
}

// value returns the value whose JSON text is b.
func (m *Machine) value(b []byte, r ref, v Version) Value {
	switch b[0] {
	case '"':
		if !r.escaped {
			return StringValue(bytesText(b[1 : len(b)-1]))
		}
		at := len(m.arena)
		m.arena = appendUnescaped(m.arena, b[1:len(b)-1])
		return StringValue(bytesText(m.arena[at:]))
	case '{', '[':
		return rawComposite(b, r.messy, v)
	}
	return rawValue(b, r.messy, v)
}

// members reaches into v by names.
func (m *Machine) members(v Value, names []string) Value {
	for _, name := range names {
		if v.kind != Object {
			return Value{}
		}
		if v.form&formRaw != 0 && !m.again(len(v.s)) {
			return Value{}
		}
		v = v.member(name)
	}
	return v
}

// star is the whole current item.
type star struct{}

func (star) eval(m *Machine) Value { return m.item() }

// itemName is the name a nested query gave its item, and members of it.
type itemName struct{ names []string }

func (x *itemName) eval(m *Machine) Value { return m.members(m.frame.item, x.names) }

// variable is a variable of the SET clause, evaluated when it is first needed,
// in the outermost frame.
type variable struct {
	index int
	value node
}

func (x *variable) eval(m *Machine) Value {
	v := &m.vars[x.index]
	if v.known {
		return v.value
	}
	frame, iteration := m.frame, m.iteration
	m.frame, m.iteration = &m.frames[0], 0
	value := x.value.eval(m)
	m.frame, m.iteration = frame, iteration
	if m.varBytes += value.size(); m.varBytes > maxVarBytes {
		m.fail(errVarBytes)
		return Value{}
	}
	v.value, v.known = value, true
	return value
}

// size estimates the bytes of v's JSON from below, without writing it.
func (v Value) size() int {
	switch v.kind {
	case Array, Object:
		if v.form&formRaw != 0 {
			return len(v.s)
		}
		n := 2
		for _, x := range v.p.items {
			n += x.size() + 1
		}
		for _, x := range v.p.members {
			n += len(x.Name) + x.Value.size() + 4
		}
		return n
	case String:
		return len(v.s) + 2
	}
	return 1
}

// member reaches into the value of an expression.
type member struct {
	x     node
	names []string
}

func (x *member) eval(m *Machine) Value { return m.members(x.x.eval(m), x.names) }

type not struct{ x node }

func (x *not) eval(m *Machine) Value {
	v := x.x.eval(m).ToBool()
	if v.kind == Undefined {
		return v
	}
	return BoolValue(v.n == 0)
}

type neg struct {
	x   node
	ver Version
}

func (x *neg) eval(m *Machine) Value {
	v := x.x.eval(m).ToNum(x.ver)
	if v.kind == Undefined {
		return v
	}
	return Neg(v, x.ver)
}

// and: Undefined where one side is no Boolean.
type and struct{ x, y node }

func (x *and) eval(m *Machine) Value {
	a, b := x.x.eval(m).ToBool(), x.y.eval(m).ToBool()
	if a.kind == Undefined || b.kind == Undefined {
		return Value{}
	}
	return BoolValue(a.n&b.n != 0)
}

// or: true where one side is, whatever the other.
type or struct{ x, y node }

func (x *or) eval(m *Machine) Value {
	a := x.x.eval(m).ToBool()
	if a.True() {
		return a
	}
	b := x.y.eval(m).ToBool()
	if a.kind == Undefined && !b.True() {
		return Value{}
	}
	return b
}

// add joins Strings and adds numbers.
type add struct {
	x, y node
	ver  Version
}

func (x *add) eval(m *Machine) Value {
	a, b := x.x.eval(m), x.y.eval(m)
	if a.IsNumber() && b.IsNumber() {
		return Add(a, b, x.ver)
	}
	if a.kind != String && b.kind != String {
		return Value{}
	}
	a, b = a.ToStr(), b.ToStr()
	if a.kind == Undefined || b.kind == Undefined || !m.charge(len(a.s)+len(b.s)) {
		return Value{}
	}
	at := len(m.arena)
	m.arena = append(append(m.arena, a.s...), b.s...)
	return StringValue(bytesText(m.arena[at:]))
}

// arith is an operator over numbers; Strings are converted.
type arith struct {
	op   func(a, b Value, v Version) Value
	x, y node
	ver  Version
}

func (x *arith) eval(m *Machine) Value {
	a := x.x.eval(m).ToNum(x.ver)
	b := x.y.eval(m).ToNum(x.ver)
	if a.kind == Undefined || b.kind == Undefined {
		return Value{}
	}
	return x.op(a, b, x.ver)
}

// order compares numbers; Strings are converted.
type order struct {
	x, y             node
	less, same, more bool // what the three outcomes give
	ver              Version
}

func (x *order) eval(m *Machine) Value {
	a := x.x.eval(m).ToNum(x.ver)
	if a.kind == Undefined {
		return a
	}
	b := x.y.eval(m).ToNum(x.ver)
	if b.kind == Undefined {
		return b
	}
	switch c := Compare(a, b); {
	case c < 0:
		return BoolValue(x.less)
	case c > 0:
		return BoolValue(x.more)
	}
	return BoolValue(x.same)
}

// equal is = and <>.
type equal struct {
	x, y   node
	differ bool
}

func (x *equal) eval(m *Machine) Value {
	a := x.x.eval(m)
	if a.kind == Undefined {
		return a
	}
	b := x.y.eval(m)
	if b.kind == Undefined {
		return b
	}
	return BoolValue(m.equal(a, b) != x.differ)
}

// equal compares two values that are not Undefined: numbers by value, Objects
// without regard to order, values of different types are different.
func (m *Machine) equal(a, b Value) bool {
	if a.IsNumber() && b.IsNumber() {
		return Compare(a, b) == 0
	}
	if a.kind != b.kind {
		return false
	}
	switch a.kind {
	case Bool:
		return a.n == b.n
	case String:
		return a.s == b.s
	case Array, Object:
		if a.form&b.form&formRaw != 0 {
			if a.s == b.s {
				return true
			}
			if !m.again(len(a.s) + len(b.s)) {
				return false
			}
			same, sure := m.equalRaw(a, b)
			if sure || m.err != nil {
				return same
			}
		}
	}
	c := Call{m: m}
	switch a.kind {
	case Array:
		x, y := c.Items(a), c.Items(b)
		if len(x) != len(y) {
			return false
		}
		for i := range x {
			if m.err != nil || !m.equal(x[i].orNull(), y[i].orNull()) {
				return false
			}
		}
	case Object:
		x, y := present(c.Members(a)), present(c.Members(b))
		if len(x) != len(y) || !m.charge(32*len(x)) {
			return false
		}
		for name, v := range x {
			w, ok := y[name]
			if m.err != nil || !ok || !m.equal(v, w) {
				return false
			}
		}
	}
	return true
}

// equalRaw compares two raw Arrays, or two raw Objects whose members have the
// same names in the same order; sure is false where they have not, or where
// names repeat.
func (m *Machine) equalRaw(a, b Value) (same, sure bool) {
	if a.kind == Object {
		names := make(map[string]struct{})
		x, y := a.cursor(), b.cursor()
		for x.next() {
			if !y.next() || string(x.name) != string(y.name) || !m.charge(nameBytes) {
				return false, false
			}
			names[bytesText(x.name)] = struct{}{}
			if bytes.IndexByte(x.name, '\\') >= 0 {
				return false, false
			}
		}
		if y.next() || len(names) != a.Len() {
			return false, false
		}
	}
	x, y := a.cursor(), b.cursor()
	for {
		more := x.next()
		if y.next() != more {
			return false, true
		}
		if !more {
			return true, true
		}
		if !m.work(inSteps) || !m.equal(x.value().orNull(), y.value().orNull()) {
			return false, true
		}
	}
}

// nameBytes is what a name in a set takes.
const nameBytes = 32

// orNull is the value an item of an Array is written as.
func (v Value) orNull() Value {
	if v.kind == Undefined {
		return NullValue
	}
	return v
}

func present(members []Member) map[string]Value {
	t := make(map[string]Value, len(members))
	for _, x := range members {
		if x.Value.kind != Undefined {
			t[x.Name] = x.Value
		}
	}
	return t
}

// in is x IN set.
type in struct {
	x, set node
	not    bool
}

func (x *in) eval(m *Machine) Value {
	v, set := x.x.eval(m), x.set.eval(m)
	if v.kind == Undefined || set.kind != Array {
		return Value{}
	}
	found := false
	if set.form&formRaw == 0 {
		for _, item := range set.p.items {
			if found = item.kind != Undefined && m.equal(v, item); found {
				break
			}
		}
	} else if m.again(len(set.s)) {
		set.walk(func(_, text []byte, messy bool) bool {
			found = m.work(inSteps) && m.equal(v, rawValue(text, messy, set.version()).orNull())
			return !found && m.err == nil
		})
	}
	return BoolValue(found != x.not)
}

// choose is CASE with an operand.
type choose struct {
	x           node
	tests, then []node
	otherwise   node // nil: none
}

func (x *choose) eval(m *Machine) Value {
	v := x.x.eval(m)
	if v.kind == Undefined {
		return v
	}
	for i, test := range x.tests {
		if t := test.eval(m); t.kind != Undefined && m.equal(v, t) {
			return x.then[i].eval(m)
		}
	}
	if x.otherwise == nil {
		return Value{}
	}
	return x.otherwise.eval(m)
}

// chooseIf is CASE without an operand: the first true condition decides.
type chooseIf struct {
	tests, then []node
	otherwise   node
}

func (x *chooseIf) eval(m *Machine) Value {
	for i, test := range x.tests {
		if test.eval(m).ToBool().True() {
			return x.then[i].eval(m)
		}
	}
	if x.otherwise == nil {
		return Value{}
	}
	return x.otherwise.eval(m)
}

// call runs a function of the table.
type call struct {
	fn    *Function
	site  callSite
	state any
	args  []node
}

func (x *call) eval(m *Machine) Value {
	base := len(m.stack)
	for _, arg := range x.args {
		v := arg.eval(m)
		if m.err != nil {
			if !x.fn.Catches || !m.mendable() {
				m.stack = m.stack[:base]
				return Value{}
			}
			m.err = nil
			v = Value{}
		}
		m.stack = append(m.stack, v)
	}
	m.call = Call{State: x.state, m: m, site: &x.site}
	v := x.fn.Eval(&m.call, m.stack[base:len(m.stack):len(m.stack)])
	m.stack = m.stack[:base]
	if m.err != nil {
		return Value{}
	}
	return v
}

// cast is cast(x AS type).
type cast struct {
	x   node
	to  castType
	ver Version
}

type castType uint8

const (
	toString castType = iota
	toInt
	toDecimal
	toDouble
	toBool
)

func (x *cast) eval(m *Machine) Value {
	v := x.x.eval(m)
	switch x.to {
	case toString:
		s := v.ToStr()
		if !m.charge(len(s.s)) {
			return Value{}
		}
		return s
	case toBool:
		if v.IsNumber() {
			return BoolValue(v.Sign() != 0)
		}
		return v.ToBool()
	}
	n := v
	switch v.kind {
	case Bool:
		n = IntValue(v.n)
	default:
		n = v.ToNum(x.ver)
	}
	if n.kind == Undefined {
		return n
	}
	switch x.to {
	case toInt:
		return n.Floor()
	case toDouble:
		return FloatValue(n.Float64(), x.ver)
	}
	if n.kind == Int && x.ver == V2015 {
		var d apd.Decimal
		return boxNumber(n.Apd(&d), Decimal)
	}
	return n
}

// array is an array literal. Like object it is written once and held as JSON.
type array struct {
	items []node
	ver   Version
}

func (x *array) eval(m *Machine) Value { return m.render(x, x.ver) }

func (x *array) write(m *Machine) bool {
	m.out = append(m.out, '[')
	for i, item := range x.items {
		if i > 0 {
			m.out = append(m.out, ',')
		}
		if !write(m, item) {
			m.out = append(m.out, "null"...)
		}
	}
	m.out = append(m.out, ']')
	return m.checkOut()
}

// object is an object literal; of several members with one name, the last one
// that is not Undefined counts.
type object struct {
	members  []column
	distinct bool
	ver      Version
}

func (x *object) eval(m *Machine) Value { return m.render(x, x.ver) }

func (x *object) write(m *Machine) bool {
	m.out = append(m.out, '{')
	if x.distinct {
		m.writeColumns(x.members, true)
	} else {
		first := true
		for i := range x.members {
			mark := len(m.out)
			if !m.writeColumn(&x.members[i], first) {
				continue
			}
			for j := i + 1; j < len(x.members); j++ {
				if x.members[j].name == x.members[i].name && x.members[j].expr.eval(m).kind != Undefined {
					m.out = m.out[:mark]
					break
				}
			}
			if len(m.out) > mark {
				first = false
			}
		}
	}
	m.out = append(m.out, '}')
	return m.checkOut()
}

// render returns what w writes as a raw value that lives for the evaluation.
func (m *Machine) render(w writer, v Version) Value {
	mark := len(m.out)
	ok := w.write(m)
	text := m.out[mark:]
	if !ok || m.err != nil || len(text) == 0 || !m.charge(len(text)) {
		m.out = m.out[:mark]
		return Value{}
	}
	at := len(m.arena)
	m.arena = append(m.arena, text...)
	m.out = m.out[:mark]
	return m.value(m.arena[at:len(m.arena):len(m.arena)], ref{escaped: true}, v)
}

// subquery is (SELECT …) as a value.
type subquery struct{ q *query }

func (x *subquery) eval(m *Machine) Value { return m.render(x, x.q.ver) }

func (x *subquery) write(m *Machine) bool {
	n := 0
	from, single := x.q.items(m)
	if from.kind == Undefined || m.err != nil {
		return false
	}
	if single {
		wrote := false
		kept := x.q.each(m, from, func() bool {
			wrote = x.q.project.write(m)
			return true
		})
		if kept == 0 {
			m.out = append(m.out, "[]"...)
			return true
		}
		return wrote && m.err == nil
	}
	m.out = append(m.out, '[')
	x.q.each(m, from, func() bool {
		mark := len(m.out)
		if n > 0 {
			m.out = append(m.out, ',')
		}
		if x.q.project.write(m) {
			n++
		} else {
			m.out = m.out[:mark]
		}
		return m.checkOut()
	})
	m.out = append(m.out, ']')
	return m.err == nil
}

// exists is EXISTS (SELECT …).
type exists struct{ q *query }

func (x *exists) eval(m *Machine) Value {
	from, _ := x.q.items(m)
	if from.kind == Undefined {
		return BoolValue(false)
	}
	return BoolValue(x.q.each(m, from, func() bool { return false }) > 0)
}

// query is a nested SELECT.
type query struct {
	from    node
	whole   bool // FROM *
	shape   *shape
	slots   int32
	depth   int  // of its frame
	steps   int  // that an item takes, besides its bytes
	where   cond // nil: none
	project *projection
	ver     Version
}

// items returns what the query reads from: an Array, or one item (single: and
// its result is no Array). Undefined where there is nothing to read from.
func (q *query) items(m *Machine) (from Value, single bool) {
	from = q.from.eval(m)
	switch from.kind {
	case Array:
		return from, false
	case Object:
		return from, !q.whole
	}
	return Value{}, false
}

// each calls f for each item that WHERE keeps, in the item's frame, until f
// returns false. It returns the number of items kept.
func (q *query) each(m *Machine, from Value, f func() bool) int {
	outer, iteration := m.frame, m.iteration
	frame := &m.frames[q.depth]
	kept, i := 0, uint64(0)
	item := func(v Value) bool {
		if !m.work(q.steps) {
			return false
		}
		i++
		m.frame, m.iteration = frame, mix(iteration+i)
		m.enter(frame, v, q.shape, int(q.slots))
		keep := q.where == nil || q.where.holds(m)
		more := m.err == nil
		if keep && more {
			kept++
			more = f()
		}
		return more && m.err == nil
	}
	switch {
	case from.kind == Object:
		item(from)
	case from.form&formRaw == 0:
		for _, v := range from.p.items {
			if !item(v.orNull()) {
				break
			}
		}
	case m.again(len(from.s)):
		ver := from.version()
		from.walk(func(_, text []byte, messy bool) bool {
			return item(rawValue(text, messy, ver).orNull())
		})
	}
	m.frame, m.iteration = outer, iteration
	return kept
}

// frame is one level of queries: the current item and the places of its
// members.
type frame struct {
	item  Value
	built bool   // item is not JSON text; members are looked up in it
	doc   []byte // what refs point into
	refs  []ref
	// Of the outermost frame, whose doc is the payload: item is yet to be made of
	// the extent.
	pending bool
	ver     Version
	extent
}

// extent is where the document stands in a payload.
type extent struct {
	from, to int  // from is -1 where the payload is not JSON
	messy    bool // see scan.messy
}

// enter makes v the current item of f.
func (m *Machine) enter(f *frame, v Value, sh *shape, slots int) {
	f.item, f.built = v, v.form&formRaw == 0
	if f.built || v.kind != Object || sh == nil {
		f.built = true
		return
	}
	f.doc = textBytes(v.s)
	f.reset(slots)
	x := scan{b: f.doc, refs: f.refs}
	if m.again(len(f.doc)) {
		x.object(0, maxDepth+1, sh)
	}
}

func (f *frame) reset(slots int) {
	if cap(f.refs) < slots {
		f.refs = make([]ref, slots)
		return
	}
	f.refs = f.refs[:slots]
	clear(f.refs)
}

// cond is a condition: what decides whether WHERE holds.
type cond interface{ holds(m *Machine) bool }

// condition returns x as the condition of a WHERE clause. Inside AND and OR the
// Strings true and false count; alone only the Boolean does.
func condition(x node) cond {
	switch x := x.(type) {
	case *and, *or, *order, *equal:
		return operand(x)
	}
	return isTrue{x}
}

func operand(x node) cond {
	switch x := x.(type) {
	case *and:
		return &bothHold{operand(x.x), operand(x.y)}
	case *or:
		return &oneHolds{operand(x.x), operand(x.y)}
	case *order:
		if c := newOrderConst(x); c != nil {
			return c
		}
	case *equal:
		if p, ok := x.x.(*path); ok {
			if k, ok := x.y.(*constant); ok && k.v.kind == String {
				return &equalText{p: p, text: k.v.s, x: x}
			}
		}
	case *constant, *path, *member, *variable, *call, *cast, *subquery, *choose, *chooseIf, *add, star, *itemName:
		return becomesTrue{x}
	}
	return isTrue{x}
}

// equalText is member = 'text', on the JSON as it stands.
type equalText struct {
	p    *path
	text string
	x    *equal
}

func (c *equalText) holds(m *Machine) bool {
	f := m.frame
	if f.built {
		return c.x.eval(m).True()
	}
	r := f.refs[c.p.slot]
	if r.to == 0 {
		return false
	}
	if b := f.doc[r.from:r.to]; !r.escaped && b[0] == '"' {
		return (string(b[1:len(b)-1]) == c.text) != c.x.differ
	}
	return c.x.eval(m).True()
}

// orderConst compares a member with a small number, on the JSON as it stands.
type orderConst struct {
	p *path
	x *order
	// limits[k] is the number × 10^k, for as many k as fit; below first it is no
	// whole number.
	limits []int64
	first  int
}

func newOrderConst(x *order) cond {
	p, ok1 := x.x.(*path)
	k, ok2 := x.y.(*constant)
	if !ok1 || !ok2 {
		return nil
	}
	v := k.v.ToNum(x.ver)
	if v.kind == Undefined || v.p != nil {
		return nil
	}
	c := &orderConst{p: p, x: x, first: -int(v.exp)}
	for e := range 10 {
		switch {
		case e < c.first:
			c.limits = append(c.limits, 0)
			continue
		case e+int(v.exp) >= len(pow10):
			return c
		}
		n, ok := mul64(v.n, pow10[e+int(v.exp)])
		if !ok {
			return c
		}
		c.limits = append(c.limits, n)
	}
	return c
}

func (c *orderConst) holds(m *Machine) bool {
	f := m.frame
	if f.built {
		return c.x.eval(m).True()
	}
	r := f.refs[c.p.slot]
	if r.to == 0 {
		return false
	}
	b := f.doc[r.from:r.to]
	if len(b) > 18 {
		return c.x.eval(m).True()
	}
	n, i, places := int64(0), 0, 0
	if b[0] == '-' {
		i = 1
	}
	for ; i < len(b) && b[i]-'0' <= 9; i++ {
		n = n*10 + int64(b[i]-'0')
	}
	if i < len(b) && b[i] == '.' {
		point := i
		for i++; i < len(b) && b[i]-'0' <= 9; i++ {
			n = n*10 + int64(b[i]-'0')
		}
		places = i - point - 1
	}
	if i < len(b) {
		return c.x.eval(m).True()
	}
	if b[0] == '-' {
		n = -n
	}
	if places < c.first || places >= len(c.limits) {
		return c.x.eval(m).True()
	}
	switch limit := c.limits[places]; {
	case n < limit:
		return c.x.less
	case n > limit:
		return c.x.more
	}
	return c.x.same
}

type isTrue struct{ x node }

func (c isTrue) holds(m *Machine) bool { return c.x.eval(m).True() }

type becomesTrue struct{ x node }

func (c becomesTrue) holds(m *Machine) bool { return c.x.eval(m).ToBool().True() }

type bothHold struct{ x, y cond }

func (c *bothHold) holds(m *Machine) bool { return c.x.holds(m) && c.y.holds(m) }

type oneHolds struct{ x, y cond }

func (c *oneHolds) holds(m *Machine) bool { return c.x.holds(m) || c.y.holds(m) }
