package eval

// projection is what SELECT makes of an item.
type projection struct {
	value node // SELECT VALUE: the one item; nil: none
	star  bool // * is the only column
	// Columns that cannot meet each other or a member of *: written one after
	// the other. group is nil where that cannot be told at Compile.
	group   []column
	base    bool     // * stands before group
	probes  []int32  // slots of the members that columns after * would replace
	columns []column // all columns in order, for the general way
}

// column is one column, or a level of dotted aliases that holds columns.
type column struct {
	name   string
	prefix string // the name as a JSON key, colon included
	expr   node   // nil: a level
	writer writer // expr, where it is one
	group  []column
	levels []string // of the alias; only in projection.columns
	star   bool     // only in projection.columns
}

// write appends the projected item to m.out; false: Undefined, nothing written.
func (p *projection) write(m *Machine) bool {
	switch {
	case p.value != nil:
		return write(m, p.value)
	case p.star:
		item := m.item()
		if item.kind == Undefined {
			// Not JSON: the bytes as they came.
			b, ok := item.PayloadBytes()
			m.out = append(m.out, b...)
			return ok
		}
		m.out = item.AppendJSON(m.out)
		return m.checkOut()
	case p.group == nil && len(p.columns) > 0:
		return p.merge(m)
	case !p.base:
		m.out = append(m.out, '{')
		m.writeColumns(p.group, true)
		m.out = append(m.out, '}')
		return m.checkOut()
	}
	item := m.item()
	if item.kind != Object {
		m.out = append(m.out, '{')
		m.writeColumns(p.group, true)
		m.out = append(m.out, '}')
		return m.checkOut()
	}
	if m.frame.built {
		return p.merge(m)
	}
	for _, slot := range p.probes {
		if m.frame.refs[slot].to != 0 {
			return p.merge(m)
		}
	}
	mark := len(m.out)
	m.out = item.AppendJSON(m.out)
	m.out = m.out[:len(m.out)-1]
	m.writeColumns(p.group, len(m.out) == mark+1)
	m.out = append(m.out, '}')
	return m.checkOut()
}

// writeColumns appends columns with commas between them; first: nothing stands
// before them in their object. It reports whether anything does now.
func (m *Machine) writeColumns(columns []column, first bool) bool {
	for i := range columns {
		if m.writeColumn(&columns[i], first) {
			first = false
		}
	}
	return !first
}

func (m *Machine) writeColumn(c *column, first bool) bool {
	mark := len(m.out)
	if !first {
		m.out = append(m.out, ',')
	}
	m.out = append(m.out, c.prefix...)
	if c.expr != nil {
		wrote := false
		if c.writer != nil {
			wrote = c.writer.write(m)
		} else if v := c.expr.eval(m); v.kind != Undefined {
			m.out = v.AppendJSON(m.out)
			wrote = true
		}
		if !wrote || !m.checkOut() {
			m.out = m.out[:mark]
			return false
		}
		return true
	}
	m.out = append(m.out, '{')
	if !m.writeColumns(c.group, true) {
		m.out = m.out[:mark]
		return false
	}
	m.out = append(m.out, '}')
	return true
}

// merge writes the columns the general way: into a tree of members, in which a
// later column replaces an earlier member of its name.
func (p *projection) merge(m *Machine) bool {
	root := &level{}
	for i := range p.columns {
		c := &p.columns[i]
		if c.star {
			root.addAll(m, m.item())
			continue
		}
		mark := len(m.out)
		if !write(m, c.expr) || !m.checkOut() || !m.charge(levelBytes+len(m.out)-mark) {
			m.out = m.out[:mark]
			continue
		}
		text := string(m.out[mark:])
		m.out = m.out[:mark]
		root.put(m, c.levels, text)
	}
	if m.err != nil {
		return false
	}
	m.out = root.append(m.out)
	return m.checkOut()
}

// level is an object under construction.
type level struct {
	members []levelMember
	index   map[string]int // name to member
}

type levelMember struct {
	name string
	text string // compact JSON
	sub  *level // instead of text
}

// levelBytes is what a member of a level costs besides its text.
const levelBytes = 128

func (l *level) member(name string) *levelMember {
	if i, ok := l.index[name]; ok {
		return &l.members[i]
	}
	if l.index == nil {
		l.index = make(map[string]int)
	}
	l.index[name] = len(l.members)
	l.members = append(l.members, levelMember{name: name})
	return &l.members[len(l.members)-1]
}

func (l *level) put(m *Machine, names []string, text string) {
	for ; len(names) > 1; names = names[1:] {
		x := l.member(names[0])
		if x.sub == nil {
			x.sub = &level{}
			if len(x.text) > 0 && x.text[0] == '{' {
				x.sub.addAll(m, Value{kind: Object, form: formRaw, s: x.text})
			}
		}
		l = x.sub
	}
	*l.member(names[0]) = levelMember{name: names[0], text: text}
}

// addAll puts all members of an Object into l.
func (l *level) addAll(m *Machine, v Value) {
	if v.kind != Object {
		return
	}
	if v.form&formRaw == 0 {
		for _, x := range v.p.members {
			if x.Value.kind != Undefined && m.charge(levelBytes+x.Value.size()) {
				*l.member(x.Name) = levelMember{name: x.Name, text: string(x.Value.AppendJSON(nil))}
			}
		}
		return
	}
	if !m.again(len(v.s)) {
		return
	}
	v.walk(func(name, text []byte, messy bool) bool {
		x := levelMember{name: unescape(name), text: bytesText(text)}
		cost := levelBytes + len(x.name)
		if messy {
			y := rawValue(text, messy, v.version())
			if y.kind == Undefined {
				return true
			}
			x.text = string(y.AppendJSON(nil))
			cost += len(x.text)
		}
		if !m.charge(cost) {
			return false
		}
		*l.member(x.name) = x
		return true
	})
}

func (l *level) append(b []byte) []byte {
	b = append(b, '{')
	for i := range l.members {
		x := &l.members[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendQuoted(b, x.name), ':')
		if x.sub != nil {
			b = x.sub.append(b)
		} else {
			b = append(b, x.text...)
		}
	}
	return append(b, '}')
}

// newColumn returns a column of one level.
func newColumn(name string, expr node) column {
	w, _ := expr.(writer)
	return column{name: name, prefix: quoteName(name), expr: expr, writer: w}
}

// arrange finds the cheapest way to write columns. member gives the slot of a
// member of the item.
func arrange(columns []column, member func(name string) int32) *projection {
	if len(columns) == 1 && columns[0].star {
		return &projection{star: true}
	}
	p := &projection{columns: columns}
	group := []column{}
	for i, c := range columns {
		if c.star {
			if i > 0 {
				return p
			}
			p.base = true
			continue
		}
		if p.base {
			p.probes = append(p.probes, member(c.levels[0]))
		}
		if !place(&group, c.levels, c.expr) {
			p.base, p.probes = false, nil
			return p
		}
	}
	p.group = group
	return p
}

// place puts a column into a tree of levels; false where its place is taken.
func place(group *[]column, levels []string, expr node) bool {
	for i := range *group {
		c := &(*group)[i]
		if c.name != levels[0] {
			continue
		}
		return c.expr == nil && len(levels) > 1 && place(&c.group, levels[1:], expr)
	}
	var c column
	if len(levels) == 1 {
		c = newColumn(levels[0], expr)
	} else {
		c = newColumn(levels[0], nil)
		place(&c.group, levels[1:], expr)
	}
	*group = append(*group, c)
	return true
}
