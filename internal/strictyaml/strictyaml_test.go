package strictyaml

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestJSON(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"", "null"},
		{"# nothing\n", "null"},
		{"a: 1\nb: [x, 'y', \"z\"]\n", `{"a":1,"b":["x","y","z"]}`},
		{"n: 12345678901234567890.123456789012345678901234567890", `{"n":12345678901234567890.123456789012345678901234567890}`},
		{"h: 0x1F\no: 1_000\ne: 1e400", `{"h":31,"o":1000,"e":1e400}`},
		{"t: 2026-01-31\nv: '2016-03-23'\ny: yes", `{"t":"2026-01-31","v":"2016-03-23","y":"yes"}`},
		{"z: ~\nb: true\nw:", `{"z":null,"b":true,"w":null}`},
		{"s: >-\n  a\n  b\nl: |\n  a\n  b\n", `{"s":"a b","l":"a\nb\n"}`},
		{"1: x\ntrue: y", `{"1":"x","true":"y"}`},
		{"- 1\n- {a: 2}", `[1,{"a":2}]`},
		{"s: 'ä <&> \u2028'", "{\"s\":\"ä <&> \u2028\"}"},
		{"{\n\t\"a\": [1.50, \"\\u00e4\\ud83d\\ude00\"],\n\t\"b\": null}", `{"a":[1.50,"ä😀"],"b":null}`},
		{`"only a text"`, `"only a text"`},
	} {
		n, err := Parse("f.yaml", []byte(c.src))
		if err != nil {
			t.Errorf("%q: %v", c.src, err)
			continue
		}
		if got := string(n.JSON()); got != c.want {
			t.Errorf("%q: got %s, want %s", c.src, got, c.want)
		}
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct{ src, want, caret string }{
		{"a: 1\na: 2\n", "f.yaml:2:1: ", "a: 2"},
		{"a: &x 1\nb: *x\n", "f.yaml:1:", "a: &x 1"},
		{"a: [1\n", "f.yaml:1", ""},
		{"a: .nan\n", "f.yaml:1:4: ", "a: .nan"},
		{"a: 1\n---\nb: 2\n", "f.yaml:3:1: a second document", ""},
		{"{\"a\": 1,\n \"b\": 2,\n \"a\": 3}", "f.yaml:3:2: the key \"a\" comes twice", ` "a": 3}`},
		{"a: \xff", "f.yaml: not UTF-8 text", ""},
		{strings.Repeat("[", 1000) + strings.Repeat("]", 1000), "f.yaml:1:", ""},
	} {
		_, err := Parse("f.yaml", []byte(c.src))
		if err == nil {
			t.Errorf("%.40q: no error", c.src)
			continue
		}
		var e *Error
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%.40q: %v; want %s", c.src, err, c.want)
			continue
		}
		if !strings.Contains(e.Detail(), c.caret) {
			t.Errorf("%.40q: %s", c.src, e.Detail())
		}
	}
}

func TestKeysAndPlaces(t *testing.T) {
	n, err := Parse("f.yaml", []byte("name: x\nlist:\n  - {topik: 'a/${x}'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	err = n.Get("list").Items[0].Keys("topic", "payload")
	if want := "f.yaml:3:6: unknown key \"topik\"\n   3 |   - {topik: 'a/${x}'}\n     |      ^\nhint: did you mean topic?"; err.(*Error).Detail() != want {
		t.Errorf("got %s\nwant %s", err.(*Error).Detail(), want)
	}
	v := n.Walk("list", "0", "topik")
	if e := v.ErrorAt(4, "", "here"); e.Column != 18 || e.Line != 3 {
		t.Errorf("%d:%d, want 3:18", e.Line, e.Column)
	}
	if e := n.Walk("list", "7").Errorf("", "x"); e.Line != 3 {
		t.Errorf("a path that leads nowhere: line %d", e.Line)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a: 1", "a: [1, {b: 'c'}]", "{\"a\": [1.5e3]}", "- |\n  x\n- >-\n  y", "a: &x 1\nb: *x", "? a\n: b", "a: !!str 1", "<<: {a: 1}", "a:\n\t- b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		n, err := Parse("f", src)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%T", err)
			}
			_ = e.Detail()
			return
		}
		b := n.JSON()
		if !json.Valid(b) {
			t.Fatalf("%q gives %q", src, b)
		}
		again, err := Parse("f", b)
		if err != nil {
			return // keys that JSON cannot tell apart
		}
		if c := again.JSON(); !bytes.Equal(b, c) {
			t.Fatalf("%s became %s", b, c)
		}
	})
}
