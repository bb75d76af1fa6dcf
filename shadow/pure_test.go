package shadow

import (
	"strings"
	"testing"
)

func must(t testing.TB, s string) value {
	t.Helper()
	v, err := parse(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return v
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{` {"a" : 1.50, "b":[1,{"c":null}] } `, `{"a":1.50,"b":[1,{"c":null}]}`},
		{`{"a":1,"b":2,"a":3}`, `{"a":3,"b":2}`},
		{`{"n":123456789012345678901234567890.10e+400}`, `{"n":123456789012345678901234567890.10e+400}`},
		{`"\u0041\n"`, `"\u0041\n"`},
		{`{"\u0041\"":1}`, `{"A\"":1}`},
		{`[]`, `[]`}, {`{}`, `{}`}, {`-0`, `-0`}, {`"é"`, `"é"`},
	} {
		if v, err := parse(c.in); err != nil || v.String() != c.want {
			t.Errorf("%s: %s %v, want %s", c.in, v.String(), err, c.want)
		}
	}
	for _, in := range []string{``, ` `, `{`, `{"a"}`, `{"a":}`, `{"a":1,}`, `[1,]`, `01`, `1.`, `.5`, `+1`, `1e`, `tru`, `"\x"`, `"\u12"`, "\"\n\"", `{a:1}`, `1 2`, `nul`, `--1`, `"a`, "{\"a\":\"\xff\"}"} {
		if v, err := parse(in); err == nil {
			t.Errorf("%q was read as %s", in, v.String())
		}
	}
	if _, err := parse(strings.Repeat("[", 65) + strings.Repeat("]", 65)); err != errDeep {
		t.Errorf("65 levels: %v", err)
	}
}

func TestEqual(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{`1`, `1.0`, true}, {`1`, `10e-1`, true}, {`100`, `1E2`, true}, {`0`, `-0.0e5`, true}, {`1`, `-1`, false},
		{`0.1`, `0.10000000000000000000000000000000001`, false}, {`1e9999999999`, `1e9999999999`, true},
		{`"a"`, `"\u0061"`, true}, {`"a"`, `"b"`, false}, {`true`, `false`, false}, {`1`, `"1"`, false},
		{`{"a":1,"b":2}`, `{"b":2,"a":1}`, true}, {`{"a":1}`, `{"a":1,"b":2}`, false}, {`{"a":1}`, `{"b":1}`, false},
		{`[1,2]`, `[1,2.0]`, true}, {`[1,2]`, `[2,1]`, false}, {`[1]`, `[1,1]`, false},
	} {
		a, b := must(t, c.a), must(t, c.b)
		if equal(&a, &b) != c.same || equal(&b, &a) != c.same {
			t.Errorf("%s and %s: want %v", c.a, c.b, c.same)
		}
	}
}

func TestMerge(t *testing.T) {
	for _, c := range []struct{ state, patch, want, meta string }{
		{``, `{"a":1}`, `{"a":1}`, `{"a":2}`},
		{`{"a":1}`, `{"b":2}`, `{"a":1,"b":2}`, `{"a":1,"b":2}`},
		{`{"a":1,"b":2}`, `{"a":null}`, `{"b":2}`, `{"b":1}`},
		{`{"a":1}`, `{"a":null}`, `{}`, `{}`},
		{`{"a":{"b":1,"c":1}}`, `{"a":{"b":5}}`, `{"a":{"b":5,"c":1}}`, `{"a":{"b":2,"c":1}}`},
		{`{"a":{"b":1}}`, `{"a":{"b":null}}`, `{}`, `{}`},
		{`{"a":{"b":{"c":1}},"d":1}`, `{"a":{"b":{"c":null}}}`, `{"d":1}`, `{"d":1}`},
		{`{"a":[1,2,3]}`, `{"a":[4]}`, `{"a":[4]}`, `{"a":[2]}`},
		{`{"a":[1,{"x":[1]}]}`, `{"b":[{"y":1}]}`, `{"a":[1,{"x":[1]}],"b":[{"y":1}]}`, `{"a":[1,{"x":[1]}],"b":[{"y":2}]}`},
		{`{"a":1}`, `{"a":{"b":2}}`, `{"a":{"b":2}}`, `{"a":{"b":2}}`},
		{`{"a":{"b":2}}`, `{"a":1}`, `{"a":1}`, `{"a":2}`},
		{`{"a":1}`, `{"a":{}}`, `{}`, `{}`},
		{`{"a":{"b":1}}`, `{"a":{}}`, `{"a":{"b":1}}`, `{"a":{"b":1}}`},
		{``, `{"a":{"b":null}}`, `{}`, `{}`},
		{``, `{"a":{"b":null,"c":1}}`, `{"a":{"c":1}}`, `{"a":{"c":2}}`},
		{`{"a":1}`, `{}`, `{"a":1}`, `{"a":1}`},
	} {
		var s, m value
		if c.state != "" {
			first := must(t, c.state)
			s, m = merge(&value{}, &value{}, &first, 1)
		}
		p := must(t, c.patch)
		ns, nm := merge(&s, &m, &p, 2)
		if ns.String() != c.want || nm.String() != c.meta {
			t.Errorf("%s + %s: %s %s, want %s %s", c.state, c.patch, ns.String(), nm.String(), c.want, c.meta)
		}
	}
}

func TestDelta(t *testing.T) {
	for _, c := range []struct{ desired, reported, want string }{
		{`{"color":"RED","state":"STOP"}`, `{"color":"GREEN","engine":"ON"}`, `{"color":"RED","state":"STOP"}`},
		{`{"lights":{"color":{"r":255,"g":255,"b":255}}}`, `{"lights":{"color":{"r":255,"g":0,"b":255}}}`, `{"lights":{"color":{"g":255}}}`},
		{`{"a":[1,2]}`, `{"a":[1]}`, `{"a":[1,2]}`},
		{`{"a":[1,2]}`, `{"a":[1.0,2e0]}`, ``},
		{`{"a":1}`, `{"a":1,"b":2}`, ``},
		{`{"a":{"b":1}}`, `{"a":1}`, `{"a":{"b":1}}`},
		{`{"a":1}`, `{"a":{"b":1}}`, `{"a":1}`},
		{`{"a":1}`, `{}`, `{"a":1}`},
	} {
		d, r := must(t, c.desired), must(t, c.reported)
		m := stamp(&d, "7")
		x, xm := delta(&d, &m, &r)
		if x.String() != c.want || differs(&d, &r) != (c.want != "") {
			t.Errorf("%s against %s: %s, want %s", c.desired, c.reported, x.String(), c.want)
		}
		if !sameShape(&x, &xm) {
			t.Errorf("%s: metadata %s", x.String(), xm.String())
		}
	}
}

// scramble changes everything that v owns.
func scramble(v *value) {
	for i := range v.items {
		scramble(&v.items[i])
		v.items[i] = value{kind: text, raw: `"scrambled"`}
	}
	for i := range v.members {
		scramble(&v.members[i].val)
		v.members[i] = member{"scrambled", value{kind: null, raw: "null"}}
	}
}

// monotonic reports whether no time in b is before the one in its place in a.
func monotonic(a, b *value) bool {
	if a.kind == number && b.kind == number {
		return len(a.raw) < len(b.raw) || len(a.raw) == len(b.raw) && a.raw <= b.raw
	}
	if a.kind == object && b.kind == object {
		for i := range a.members {
			if k := b.find(a.members[i].name); k >= 0 && !monotonic(&a.members[i].val, &b.members[k].val) {
				return false
			}
		}
	}
	return true
}

func hasEmpty(v *value) bool {
	for i := range v.members {
		x := &v.members[i].val
		if x.kind == null || x.kind == object && (len(x.members) == 0 || hasEmpty(x)) {
			return true
		}
	}
	return false
}

func FuzzMerge(f *testing.F) {
	for _, s := range [][3]string{
		{`{"a":1}`, `{"a":{"b":[1,2]}}`, `{"a":null}`},
		{`{"a":{"b":1,"c":{"d":2}}}`, `{"a":{"c":{"d":null}},"x":"\u0061"}`, `{"a":{"b":2},"x":{}}`},
		{`{"":0,"z":[{"a":null}]}`, `{"z":[[]]}`, `{"":{"":{"":1e5}}}`},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, sa, sb, sc string) {
		var in [3]value
		for i, s := range []string{sa, sb, sc} {
			v, err := parse(s)
			if err != nil || v.kind != object {
				return
			}
			in[i] = v
		}
		a, b, c := &in[0], &in[1], &in[2]
		texts := [3]string{a.String(), b.String(), c.String()}
		s1, m1 := merge(&value{}, &value{}, a, 1000)
		s2, m2 := merge(&s1, &m1, b, 2000)
		before, beforeMeta := s2.String(), m2.String()
		s3, m3 := merge(&s2, &m2, c, 3000)
		for _, x := range [][2]*value{{&s1, &m1}, {&s2, &m2}, {&s3, &m3}} {
			if !sameShape(x[0], x[1]) {
				t.Fatalf("metadata %s of %s", x[1].String(), x[0].String())
			}
			if hasEmpty(x[0]) {
				t.Fatalf("null or an empty object in %s", x[0].String())
			}
		}
		if !monotonic(&m1, &m2) || !monotonic(&m2, &m3) {
			t.Fatalf("metadata goes back: %s %s %s", m1.String(), m2.String(), m3.String())
		}
		// What was merged twice is as it was merged once, but for the times.
		again, _ := merge(&s3, &m3, c, 3000)
		if !equal(&again, &s3) {
			t.Fatalf("%s merged again: %s, was %s", texts[2], again.String(), s3.String())
		}
		// A device that reports what it is told to has no delta.
		reported, rm := merge(&s2, &m2, &s3, 4000)
		if d, _ := delta(&s3, &m3, &reported); d.kind != absent {
			t.Fatalf("delta %s after %s was reported over %s", d.String(), s3.String(), s2.String())
		}
		// And one that applies the delta alone has none either.
		if d, _ := delta(&s3, &m3, &s1); d.kind != absent {
			applied, _ := merge(&s1, &m1, &d, 4000)
			if rest, _ := delta(&s3, &m3, &applied); rest.kind != absent {
				t.Fatalf("delta %s after %s was applied to %s", rest.String(), d.String(), s1.String())
			}
			scramble(&d)
		}
		// Nothing that was given is part of what was returned.
		for _, v := range []*value{&s3, &m3, &reported, &rm, &again} {
			scramble(v)
		}
		if s2.String() != before || m2.String() != beforeMeta {
			t.Fatal("the result of a merge shares memory with the state")
		}
		for i := range in {
			if in[i].String() != texts[i] {
				t.Fatal("the result of a merge shares memory with the patch")
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e-3,"x\u00e9\\",true,null,{}]}`, `[[]]`, `"\ud83d\ude00"`, `{"a":1,"a":{"b":2}}`, `-0.0E+5`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parse(s)
		if err != nil {
			return
		}
		out := v.String()
		again, err := parse(out)
		if err != nil || again.String() != out || !equal(&v, &again) {
			t.Fatalf("%q: %q, then %q %v", s, out, again.String(), err)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(`{"v":3,"t":5,"d":{"a":1},"dm":{"a":5},"dv":1,"a":5,"q":9,"qt":4,"e":1,"o":"update","c":"x","past":[{"v":2,"t":4}]}`)
	f.Add(`{"v":1,"t":0,"x":true}`)
	f.Fuzz(func(t *testing.T, s string) {
		r, err := decode([]byte(s))
		if err != nil {
			return
		}
		out := r.append(nil)
		again, err := decode(out)
		if err != nil || string(again.append(nil)) != string(out) {
			t.Fatalf("%q: %q %v", s, out, err)
		}
	})
}

// A request may be anything; what it is refused with is one of AWS's.
func FuzzUpdate(f *testing.F) {
	for _, s := range []string{`{"state":{"desired":{"a":1},"reported":null},"clientToken":"x","version":3}`, `{"state":null}`, `{"state":{"delta":1}}`, `{}`, `[]`, `{"state":{"desired":{"a":[null]}}}`} {
		f.Add(s)
	}
	l := AWS()
	f.Fuzz(func(t *testing.T, s string) {
		p, bad := parseUpdate([]byte(s), &l)
		if bad != nil {
			if kinds[bad.Code] == 0 && bad.Code != 500 {
				t.Fatalf("code %d", bad.Code)
			}
			return
		}
		var r *record
		n, bad := r.apply(&p, 1_700_000_000_000, &l)
		if bad != nil {
			return
		}
		b := n.append(nil)
		back, err := decode(b)
		if err != nil || string(back.append(nil)) != string(b) {
			t.Fatalf("%s: %v", b, err)
		}
		for _, doc := range [][]byte{n.appendAccepted(nil, &p), n.appendDocuments(nil, nil, p.token), n.appendDocument(nil, back.document("t", "").Time, p.token)} {
			if _, err := parse(string(doc)); err != nil {
				t.Fatalf("%s: %v", doc, err)
			}
		}
	})
}

func TestUpdateRefused(t *testing.T) {
	l := AWS()
	nested := func(n int) string { return strings.Repeat(`{"a":`, n) + `1` + strings.Repeat(`}`, n) }
	for _, c := range []struct {
		in   string
		want *Error
	}{
		{``, errNoPayload}, {`{`, errJSON}, {`[]`, errJSON}, {`"x"`, errJSON}, {`{}`, errNoState}, {`{"state":1}`, errState}, {`{"state":[]}`, errState},
		{`{"state":{"desired":1}}`, errDesired}, {`{"state":{"reported":[]}}`, errReported}, {`{"state":{"color":1}}`, errNode},
		{`{"state":{"desired":{"a":[1,null]}}}`, errNode}, {`{"state":{"desired":{"a":[{"b":[null]}]}}}`, errNode},
		{`{"state":{},"version":"1"}`, errVersion}, {`{"state":{},"version":-1}`, errVersion}, {`{"state":{},"version":1.5}`, errVersion}, {`{"state":{},"version":true}`, errVersion},
		{`{"state":{},"clientToken":1}`, errToken}, {`{"state":{},"clientToken":"` + strings.Repeat("x", 65) + `"}`, errToken},
		{"{\"state\":{\"desired\":{\"a\":\"\xff\"}}}", errEncoding},
		{`{"state":{"desired":` + nested(10) + `}}`, errNesting(8)}, {`{"state":{"desired":{"a":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}}}`, errNesting(8)},
		{`{"state":{"desired":{"a":"` + strings.Repeat("x", 200_000) + `"}}}`, errTooLarge},
		{`{"state":{"desired":` + nested(9) + `}}`, nil}, {`{"state":null}`, nil}, {`{"state":{}}`, nil}, {`{"state":{"desired":null,"reported":{}}}`, nil},
		{`{"state":{"delta":{"a":1},"desired":{}},"other":[1]}`, nil}, {`{"state":{},"clientToken":"` + strings.Repeat("x", 64) + `"}`, nil},
	} {
		_, got := parseUpdate([]byte(c.in), &l)
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%.80s: %v, want %v", c.in, got, c.want)
		}
	}
}

func TestParseTopic(t *testing.T) {
	for in, want := range map[string]string{
		"$aws/things/t/shadow/update":          "t//update",
		"$aws/things/a:b/shadow/get":           "a:b//get",
		"$aws/things/t/shadow/name/n/delete":   "t/n/delete",
		"$aws/things/t/shadow/update/accepted": "",
		"$aws/things/t/shadow/name/n/update/x": "",
		"$aws/things/t/shadow/name//update":    "",
		"$aws/things/t/jobs/get":               "",
		"things/t/shadow/update":               "",
	} {
		thing, name, op, ok := parseTopic(topicName(in))
		got := ""
		if ok {
			got = thing + "/" + name + "/" + op.String()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}
