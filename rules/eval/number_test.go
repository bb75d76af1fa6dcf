package eval

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/apd/v3"
)

// randomNumber is the text of a JSON number: of few digits, of many, near the
// bounds of an int64, with and without point and exponent.
func randomNumber(r *rand.Rand) string {
	digit := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteByte(byte('0' + r.IntN(10)))
		}
		s := strings.TrimLeft(b.String(), "0")
		if s == "" {
			s = "0"
		}
		return s
	}
	var s string
	switch r.IntN(6) {
	case 0:
		s = fmt.Sprint(r.IntN(100))
	case 1:
		s = digit(1 + r.IntN(20))
	case 2:
		s = digit(1 + r.IntN(60))
	case 3:
		s = new(big.Int).Add(big.NewInt(math.MaxInt64), big.NewInt(int64(r.IntN(5)-2))).String()
	default:
		s = digit(1+r.IntN(9)) + "." + strings.Repeat("0", r.IntN(3)) + fmt.Sprint(r.IntN(1e6))
	}
	if r.IntN(8) == 0 {
		s += fmt.Sprintf("e%d", r.IntN(120)-60)
	}
	if r.IntN(2) == 0 {
		s = "-" + s
	}
	return s
}

// reference has room for exact results; rounding comes last.
var reference = apd.BaseContext.WithPrecision(400)

func parsed(t *testing.T, s string, v Version) (Value, *apd.Decimal) {
	t.Helper()
	x, ok := ParseNumber(s, v)
	if !ok {
		t.Fatalf("%s is not read", s)
	}
	d, _, err := apd.NewFromString(s)
	if err != nil {
		t.Fatal(err)
	}
	rounded(t, d)
	return x, d
}

func rounded(t *testing.T, d *apd.Decimal) {
	t.Helper()
	if _, err := decimal128.Round(d, d); err != nil {
		t.Fatal(err)
	}
}

func sameNumber(v Value, d *apd.Decimal) bool {
	if !v.IsNumber() {
		return false
	}
	var x apd.Decimal
	return v.Apd(&x).Cmp(d) == 0
}

// TestArithmeticAgreesWithReference compares every operator with arbitrary
// precision, for both ways a number can be held.
func TestArithmeticAgreesWithReference(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 60000 {
		v := Version(i % 2)
		s1, s2 := randomNumber(r), randomNumber(r)
		a, x := parsed(t, s1, v)
		b, y := parsed(t, s2, v)
		if !sameNumber(a, x) {
			t.Fatalf("%s read as %s, want %s", s1, a, x)
		}
		check := func(op string, got Value, f func(d, x, y *apd.Decimal) (apd.Condition, error)) {
			t.Helper()
			var want apd.Decimal
			if _, err := f(&want, x, y); err != nil {
				t.Fatal(err)
			}
			if op != "%" {
				rounded(t, &want)
			}
			if !sameNumber(got, &want) {
				t.Fatalf("%s: %s %s %s = %s, want %s", v, s1, op, s2, got, &want)
			}
		}
		check("+", Add(a, b, v), reference.Add)
		check("-", Sub(a, b, v), reference.Sub)
		check("*", Mul(a, b, v), reference.Mul)
		if y.IsZero() {
			if q := Div(a, b, v); !q.IsUndefined() {
				t.Fatalf("%s / %s = %s, want Undefined", s1, s2, q)
			}
		} else {
			check("/", Div(a, b, v), reference.Quo)
			if got := Rem(a, b, v); !got.IsUndefined() {
				check("%", got, reference.Rem)
			}
		}
		if c := Compare(a, b); c != x.Cmp(y) {
			t.Fatalf("compare %s, %s = %d", s1, s2, c)
		}
		if a.kind == Int && b.kind == Int {
			if s := Add(a, b, v); s.kind != Int && len(s.ToStr().s) <= digits {
				t.Fatalf("%s + %s is a %s", s1, s2, s.kind)
			}
		}
	}
}

// TestNumberTextReadsBack checks that what is written is the same number, in
// plain notation and in JSON.
func TestNumberTextReadsBack(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 50000 {
		v := Version(i % 2)
		s := randomNumber(r)
		a, x := parsed(t, s, v)
		text := a.String()
		if !json.Valid([]byte(text)) {
			t.Fatalf("%s is written as %s, not JSON", s, text)
		}
		plain := a.ToStr().s
		if strings.ContainsAny(plain, "eE") {
			t.Fatalf("%s is not plain: %s", s, plain)
		}
		for _, text := range []string{text, plain} {
			d, _, err := apd.NewFromString(text)
			if err != nil || d.Cmp(x) != 0 {
				t.Fatalf("%s is written as %s, want %s (%v)", s, text, x, err)
			}
		}
		if w := a.Floor(); w.kind == Int {
			var f apd.Decimal
			if _, err := reference.Floor(&f, x); err != nil || !sameNumber(w, &f) {
				t.Fatalf("floor(%s) = %s, want %s", s, w, &f)
			}
		}
		if w := a.Ceil(); w.kind == Int {
			var f apd.Decimal
			if _, err := reference.Ceil(&f, x); err != nil || !sameNumber(w, &f) {
				t.Fatalf("ceil(%s) = %s, want %s", s, w, &f)
			}
		}
		if f, err := json.Number(s).Float64(); err == nil && len(s) < 17 && a.Float64() != f {
			t.Fatalf("%s as double is %v, want %v", s, a.Float64(), f)
		}
	}
}

func TestNumberKinds(t *testing.T) {
	for _, c := range []struct {
		text     string
		kind     Kind
		want2015 string
		kind2016 Kind
		want2016 string
	}{
		{"21.0", Decimal, "21.0", Int, "21"},
		{"-8.00", Decimal, "-8.00", Int, "-8"},
		{"21", Int, "21", Int, "21"},
		{"2.50", Decimal, "2.50", Decimal, "2.50"},
		{"1e3", Decimal, "1000", Int, "1000"},
		{"-0", Int, "0", Int, "0"},
		{"0.0", Decimal, "0.0", Int, "0"},
		{"0e5", Decimal, "0", Int, "0"},
		{"1e-3", Decimal, "0.001", Decimal, "0.001"},
		{"9999999999999999999999999999999999", Int, "9999999999999999999999999999999999", Int, "9999999999999999999999999999999999"},
		{"99999999999999999999999999999999999", Decimal, "1E+35", Decimal, "1E+35"},
		{"1e33", Decimal, "1000000000000000000000000000000000", Int, "1000000000000000000000000000000000"},
		{"1e34", Decimal, "1E+34", Decimal, "1E+34"},
		{"1e6144", Decimal, "1E+6144", Decimal, "1E+6144"},
		{"0.00000000000000000000000000000000000000000000000012", Decimal, "0.00000000000000000000000000000000000000000000000012", Decimal, "0.00000000000000000000000000000000000000000000000012"},
		{"1e-8000", Decimal, "0", Int, "0"},
	} {
		for v, want := range []string{c.want2015, c.want2016} {
			kind := []Kind{c.kind, c.kind2016}[v]
			x, ok := ParseNumber(c.text, Version(v))
			if !ok || x.String() != want || x.kind != kind && x.Sign() != 0 {
				t.Errorf("%s under %s is %s %s, want %s %s", c.text, Version(v), x.kind, x, kind, want)
			}
		}
	}
	for _, s := range []string{"", "-", ".5", "5.", "1e", "1e+", "0x1", "1_0", " 1", "1 ", "--1", "1e7000", "NaN", "Infinity"} {
		if x, ok := ParseNumber(s, V2016); ok {
			t.Errorf("%q is read as %s", s, x)
		}
	}
	// The pattern for Strings has no plus sign in the exponent.
	if x := StringValue("1e+3").ToNum(V2016); !x.IsUndefined() {
		t.Errorf("'1e+3' converts to %s", x)
	}
	if x := StringValue("007.50").ToNum(V2016); x.String() != "7.50" {
		t.Errorf("'007.50' converts to %s", x)
	}
}

func FuzzParseNumber(f *testing.F) {
	for _, s := range []string{"0", "-0.0", "1e400", "1e-400", "123456789012345678901234567890123456789.5", "1e999999999999", "-9223372036854775808", "0.1e-6176"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		x, ok := ParseNumber(s, V2016)
		if !ok {
			return
		}
		if text := x.String(); !json.Valid([]byte(text)) || len(text) > 200 {
			t.Fatalf("%q is written as %s", s, text)
		}
		if len(x.ToStr().s) > maxExponent+digits+10 {
			t.Fatalf("%q has %d characters", s, len(x.ToStr().s))
		}
		if i := strings.IndexAny(s, "eE"); i >= 0 && len(s)-i > 6 {
			return // the reference computes with all digits
		}
		d, _, err := apd.NewFromString(s)
		if err != nil || d.Form != apd.Finite {
			return
		}
		if _, err := decimal128.Round(d, d); err == nil && d.Form == apd.Finite && !sameNumber(x, d) {
			t.Fatalf("%q is read as %s, want %s", s, x, d)
		}
	})
}
