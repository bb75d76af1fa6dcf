package shadow

import "strconv"

// The functions here are pure: they share no memory with what they are given
// that could be changed, and the same arguments give the same results.
//
// Metadata has the shape of the state it is about, with the time of its last
// update, in milliseconds since the epoch, in place of each scalar.

// merge applies patch to a section: objects are merged member by member, null
// deletes, everything else, arrays too, replaces. state and meta are objects or
// absent, patch is an object. An object without members is no state: it is not
// kept. What patch names has the time at afterwards, the rest the time it had.
func merge(state, meta, patch *value, at int64) (newState, newMeta value) {
	newState, newMeta = value{kind: object}, value{kind: object}
	if state.kind == object {
		newState = state.clone()
		newMeta = meta.clone()
	}
	mergeInto(&newState, &newMeta, patch, strconv.FormatInt(at, 10))
	return newState, newMeta
}

func mergeInto(state, meta, patch *value, at string) {
	for i := range patch.members {
		p := &patch.members[i]
		k := state.find(p.name)
		if p.val.kind == null {
			if k >= 0 {
				remove(state, meta, k)
			}
			continue
		}
		if p.val.kind != object {
			set(state, meta, k, p.name, p.val.clone(), stamp(&p.val, at))
			continue
		}
		if k < 0 || state.members[k].val.kind != object {
			s, m := value{kind: object}, value{kind: object}
			mergeInto(&s, &m, &p.val, at)
			if len(s.members) > 0 {
				set(state, meta, k, p.name, s, m)
			} else if k >= 0 {
				remove(state, meta, k)
			}
			continue
		}
		mergeInto(&state.members[k].val, &meta.members[k].val, &p.val, at)
		if len(state.members[k].val.members) == 0 {
			remove(state, meta, k)
		}
	}
}

// remove and set keep members of state and meta at the same places.
func remove(state, meta *value, k int) {
	state.members = append(state.members[:k], state.members[k+1:]...)
	meta.members = append(meta.members[:k], meta.members[k+1:]...)
}

func set(state, meta *value, k int, name string, s, m value) {
	if k < 0 {
		state.members = append(state.members, member{name, s})
		meta.members = append(meta.members, member{name, m})
		return
	}
	state.members[k].val, meta.members[k].val = s, m
}

// stamp returns metadata in the shape of v with the time at everywhere.
func stamp(v *value, at string) value {
	switch v.kind {
	case array:
		m := value{kind: array, items: make([]value, len(v.items))}
		for i := range v.items {
			m.items[i] = stamp(&v.items[i], at)
		}
		return m
	case object:
		m := value{kind: object, members: make([]member, len(v.members))}
		for i := range v.members {
			m.members[i] = member{v.members[i].name, stamp(&v.members[i].val, at)}
		}
		return m
	}
	return value{kind: number, raw: at}
}

// delta returns what desired has and reported has not or has otherwise, with
// desired's metadata; absent values where there is nothing. Objects are compared
// member by member, arrays as a whole.
func delta(desired, meta, reported *value) (d, m value) {
	for i := range desired.members {
		want := &desired.members[i]
		k := reported.find(want.name)
		var wd, wm value
		switch {
		case k < 0:
			wd, wm = want.val.clone(), meta.members[i].val.clone()
		case want.val.kind == object && reported.members[k].val.kind == object:
			if wd, wm = delta(&want.val, &meta.members[i].val, &reported.members[k].val); wd.kind == absent {
				continue
			}
		case equal(&want.val, &reported.members[k].val):
			continue
		default:
			wd, wm = want.val.clone(), meta.members[i].val.clone()
		}
		d.kind, m.kind = object, object
		d.members = append(d.members, member{want.name, wd})
		m.members = append(m.members, member{want.name, wm})
	}
	return d, m
}

// differs reports whether delta would return something.
func differs(desired, reported *value) bool {
	for i := range desired.members {
		want := &desired.members[i]
		k := reported.find(want.name)
		if k < 0 {
			return true
		}
		have := &reported.members[k].val
		if want.val.kind == object && have.kind == object {
			if differs(&want.val, have) {
				return true
			}
		} else if !equal(&want.val, have) {
			return true
		}
	}
	return false
}

// touched returns metadata for what a patch sets: what it deletes has none.
func touched(patch *value, at string) value {
	m := value{kind: object}
	for i := range patch.members {
		p := &patch.members[i]
		switch p.val.kind {
		case null:
		case object:
			if x := touched(&p.val, at); len(x.members) > 0 {
				m.members = append(m.members, member{p.name, x})
			}
		default:
			m.members = append(m.members, member{p.name, stamp(&p.val, at)})
		}
	}
	return m
}

// appendMeta writes metadata as AWS has it: {"timestamp": seconds} for each time.
func appendMeta(b []byte, m *value) []byte {
	switch m.kind {
	case object:
		b = append(b, '{')
		for i := range m.members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendQuoted(b, m.members[i].name), ':')
			b = appendMeta(b, &m.members[i].val)
		}
		return append(b, '}')
	case array:
		b = append(b, '[')
		for i := range m.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendMeta(b, &m.items[i])
		}
		return append(b, ']')
	case number:
		b = append(b, `{"timestamp":`...)
		if len(m.raw) > 3 {
			b = append(b, m.raw[:len(m.raw)-3]...)
		} else {
			b = append(b, '0')
		}
		return append(b, '}')
	}
	return append(b, "{}"...)
}
