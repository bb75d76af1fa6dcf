package sql

import "testing"

func TestWarnings(t *testing.T) {
	for _, c := range []struct{ src, text, get string }{
		{"SELECT device-id AS id FROM 'a'", "device-id", "get(*, 'device-id')"},
		{"SELECT a WHERE a.b.my-long-name.c > 1", "a.b.my-long-name.c", "get(a.b, 'my-long-name').c"},
		{"SELECT (SELECT x-y FROM e) AS z FROM 'a'", "x-y", "get(*, 'x-y')"},
		{"SELECT max - min, a-1, a -b, (a)-(b), 'a'-b, @a-b, a-b*2 - c, f(a)-b", "", ""},
		{"SELECT a-b*c", "", ""},
	} {
		stmt, err := Parse(c.src)
		if err != nil {
			t.Fatal(err)
		}
		list := Warnings(stmt)
		if c.text == "" {
			for _, w := range list {
				t.Error(w.Detail())
			}
			continue
		}
		want := "for a member with a hyphen write " + c.get + "; for a subtraction put spaces around the minus"
		if len(list) != 1 || list[0].Msg != c.text+" is a subtraction" || list[0].Hint != want {
			t.Errorf("%s: %v, %+v", c.src, list, list)
		}
	}
}
