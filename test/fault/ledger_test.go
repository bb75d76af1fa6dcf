package fault

import "testing"

// A checker that finds nothing proves nothing: each kind of damage must show.
func TestLedgerFindsDamage(t *testing.T) {
	newLedger := func() *Ledger {
		l := NewLedger()
		for n := 1; n <= 3; n++ {
			l.Sent(NewMessage("d", n))
		}
		l.Acked(NewMessage("d", 1))
		l.Acked(NewMessage("d", 2))
		return l
	}
	p := func(ns ...int) (out [][]byte) {
		for _, n := range ns {
			out = append(out, NewMessage("d", n).Payload())
		}
		return out
	}
	damaged := NewMessage("d", 2)
	damaged.Value++
	for name, c := range map[string]struct {
		found [][]byte
		bad   func(Report) int
	}{
		"lost":      {p(1), func(r Report) int { return r.Lost }},
		"phantom":   {p(1, 2, 9), func(r Report) int { return r.Phantom }},
		"reordered": {p(2, 1), func(r Report) int { return r.Reordered }},
		"duplicate": {p(1, 1, 2), func(r Report) int { return r.BadDuplicates }},
		"corrupt":   {[][]byte{damaged.Payload(), p(1)[0], p(2)[0]}, func(r Report) int { return r.Corrupt }},
	} {
		r := newLedger().Check(c.found, nil, false)
		if c.bad(r) != 1 || r.OK() {
			t.Errorf("%s: %v", name, r)
		}
	}
	l := newLedger()
	l.Sent(NewMessage("d", 3)) // sent again
	if r := l.Check(p(1, 2, 3, 3), nil, false); !r.OK() || r.Duplicates != 1 {
		t.Errorf("a message sent twice may be there twice: %v", r)
	}
	if r := newLedger().Check(p(2), func(m Message) bool { return m.N == 2 }, true); !r.OK() {
		t.Errorf("only the wanted ones must be found: %v", r)
	}
}
