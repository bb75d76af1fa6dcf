package eval

import "testing"

func TestSmoke(t *testing.T) {
	x, ok := ParseJSON([]byte(` {"a":[1, 21.0, 1e400], "b\u0041":"x\/y\n", "c":{"d":-8.0}} `), V2016)
	if !ok || len(x.String()) < 100 {
		t.Fatal(x.String(), ok)
	}
	if s := x.Member("bA").Str(); s != "x/y\n" {
		t.Fatal(s)
	}
	a, _ := ParseNumber("41.3", V2016)
	b, _ := ParseNumber("1.8", V2016)
	if s := Add(Mul(a, b, V2016), IntValue(32), V2016).String(); s != "106.34" {
		t.Fatal(s)
	}
}
