package eval

import (
	"math"
	"math/big"
	"math/bits"
	"strconv"
	"strings"

	"github.com/cockroachdb/apd/v3"
)

// Numbers are exact to 34 significant digits, as IEEE decimal128 has them. A
// small one is an int64 and a power of ten in the Value itself; the arithmetic
// below stays there as long as nothing is lost and goes over to apd otherwise.

const (
	digits      = 34
	maxExponent = 6144 // of the first digit; beyond it a number is Undefined
	minExponent = -6143
	minSmallExp = -40 // a small number has an exponent from here to 0
)

// decimal128 is shared: its methods only read it.
var decimal128 = apd.Context{
	Precision: digits, MaxExponent: maxExponent, MinExponent: minExponent, Rounding: apd.RoundHalfEven,
}

var pow10 = [...]int64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18}

// IntValue returns n as an Int.
func IntValue(n int64) Value { return Value{kind: Int, n: n} }

// small returns n × 10^exp; exp is from minSmallExp to 0.
func small(n int64, exp int32, v Version) Value {
	if v != V2015 && exp < 0 {
		// A number without a fraction is an Int.
		x := Value{kind: Decimal, n: n, exp: exp}
		if n%10 != 0 {
			return x
		}
		if w, ok := x.whole(); ok {
			return IntValue(w)
		}
		return x
	}
	return Value{kind: Decimal, n: n, exp: exp}
}

// whole returns the integer a small Decimal stands for, if it has no fraction.
func (v Value) whole() (int64, bool) {
	n, exp := v.n, v.exp
	if n == 0 {
		return 0, true
	}
	if -int(exp) >= len(pow10) {
		return 0, false
	}
	p := pow10[-exp]
	return n / p, n%p == 0
}

// DecimalValue returns d as a number, rounded to 34 digits, and keeps d. Under
// V2016 and later a d without a fraction becomes an Int. NaN, infinities and
// what is out of range give Undefined.
func DecimalValue(d *apd.Decimal, v Version) Value {
	if d.Form != apd.Finite {
		return Value{}
	}
	if _, err := decimal128.Round(d, d); err != nil || d.Form != apd.Finite {
		return Value{}
	}
	if d.IsZero() {
		d.Negative = false
	}
	if v != V2015 && d.Exponent < 0 {
		var r apd.Decimal
		r.Reduce(d)
		if r.Exponent >= 0 {
			d = &r
		}
	}
	if d.Exponent > 0 && d.NumDigits()+int64(d.Exponent) <= digits {
		if _, err := decimal128.Quantize(d, d, 0); err != nil {
			return Value{}
		}
	}
	kind := Decimal
	if v != V2015 && d.Exponent == 0 {
		kind = Int
	}
	return boxNumber(d, kind)
}

// intValue returns d, which is whole, as an Int, or as a Decimal where it has
// more than 34 digits.
func intValue(d *apd.Decimal) Value {
	if d.Form != apd.Finite {
		return Value{}
	}
	if _, err := decimal128.Round(d, d); err != nil || d.Form != apd.Finite {
		return Value{}
	}
	if d.IsZero() {
		d.Negative = false
	}
	if d.Exponent != 0 {
		if d.NumDigits()+int64(d.Exponent) > digits {
			return boxNumber(d, Decimal)
		}
		if _, err := decimal128.Quantize(d, d, 0); err != nil {
			return Value{}
		}
	}
	return boxNumber(d, Int)
}

// boxNumber returns d in the small form where it fits.
func boxNumber(d *apd.Decimal, kind Kind) Value {
	if d.Exponent <= 0 && d.Exponent >= minSmallExp && d.Coeff.IsInt64() {
		n := d.Coeff.Int64()
		if d.Negative {
			n = -n
		}
		return Value{kind: kind, n: n, exp: d.Exponent}
	}
	x := &boxed{}
	x.big.Set(d)
	return Value{kind: kind, p: x}
}

// BigIntValue returns b as an Int; beyond 34 digits it is rounded and a Decimal.
func BigIntValue(b *big.Int) Value {
	d := new(apd.Decimal)
	d.Coeff.SetMathBigInt(b)
	if d.Coeff.Sign() < 0 {
		d.Negative = true
		d.Coeff.Abs(&d.Coeff)
	}
	return intValue(d)
}

// FloatValue returns f, a result in double precision, as a Decimal of the
// fewest digits that stand for it. NaN and infinities give Undefined.
func FloatValue(f float64, v Version) Value {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return Value{}
	}
	var buf [32]byte
	b := strconv.AppendFloat(buf[:0], f, 'e', -1, 64)
	if v == V2015 && f == math.Trunc(f) && math.Abs(f) < 1e15 {
		b = strconv.AppendFloat(buf[:0], f, 'f', 1, 64)
	}
	x, _ := ParseNumber(string(b), v)
	if x.kind == Int && v == V2015 {
		x.kind = Decimal
	}
	return x
}

// ParseNumber reads a JSON number, or one written like it with leading zeros.
// ok is false where s is none or is out of range; numbers too small become 0.
func ParseNumber(s string, v Version) (x Value, ok bool) {
	i, neg := 0, false
	if i < len(s) && s[i] == '-' {
		neg = true
		i++
	}
	var n uint64
	start, nd := i, 0
	for ; i < len(s) && s[i]-'0' <= 9; i++ {
		n = n*10 + uint64(s[i]-'0')
	}
	nd = i - start
	if nd == 0 {
		return Value{}, false
	}
	frac := 0
	if i < len(s) && s[i] == '.' {
		i++
		at := i
		for ; i < len(s) && s[i]-'0' <= 9; i++ {
			n = n*10 + uint64(s[i]-'0')
		}
		if frac = i - at; frac == 0 {
			return Value{}, false
		}
		nd += frac
	}
	if i == len(s) && nd <= 18 {
		m := int64(n)
		if neg {
			m = -m
		}
		if frac == 0 {
			return IntValue(m), true
		}
		return small(m, int32(-frac), v), true
	}
	return parseSlow(s, i, v)
}

// parseSlow reads numbers with an exponent or many digits; s[:i] is the
// checked part before the exponent.
func parseSlow(s string, i int, v Version) (Value, bool) {
	exp := 0
	if i < len(s) {
		if s[i]|0x20 != 'e' {
			return Value{}, false
		}
		j := i + 1
		negExp := false
		if j < len(s) && (s[j] == '+' || s[j] == '-') {
			negExp = s[j] == '-'
			j++
		}
		if j == len(s) {
			return Value{}, false
		}
		for ; j < len(s); j++ {
			if s[j]-'0' > 9 {
				return Value{}, false
			}
			if exp < 1e6 {
				exp = exp*10 + int(s[j]-'0')
			}
		}
		if negExp {
			exp = -exp
		}
	}
	text := s[:i]
	neg := text[0] == '-'
	text = strings.TrimPrefix(text, "-")
	point := strings.IndexByte(text, '.')
	isInt := point < 0 && i == len(s)
	buf := make([]byte, 0, digits+2)
	// Collect 36 significant digits, the last one sticky, so that rounding sees
	// all of them at a bounded cost.
	dropped, sticky, seen := 0, false, false
	for k := 0; k < len(text); k++ {
		c := text[k]
		if c == '.' {
			continue
		}
		if point >= 0 && k > point {
			exp--
		}
		if c == '0' && !seen {
			continue
		}
		seen = true
		if len(buf) < digits+1 {
			buf = append(buf, c)
		} else {
			dropped++
			sticky = sticky || c != '0'
		}
	}
	if sticky {
		buf = append(buf, '1')
		dropped--
	}
	exp += dropped
	if !seen {
		if isInt || v != V2015 {
			return IntValue(0), true
		}
		return Value{kind: Decimal, exp: int32(max(min(exp, 0), minSmallExp))}, true
	}
	if exp > maxExponent+digits || exp+len(buf)-1 > maxExponent {
		return Value{}, false
	}
	if exp+len(buf)-1 < minExponent-digits {
		return IntValue(0), true
	}
	d := new(apd.Decimal)
	if len(buf) <= 18 {
		n, _ := strconv.ParseInt(string(buf), 10, 64)
		d.SetInt64(n)
	} else {
		var b big.Int
		b.SetString(string(buf), 10)
		d.Coeff.SetMathBigInt(&b)
	}
	d.Negative = neg
	d.Exponent = int32(exp)
	if isInt {
		x := intValue(d)
		return x, !x.IsUndefined()
	}
	x := DecimalValue(d, v)
	return x, !x.IsUndefined()
}

// ToNum converts v to a number: an Int or Decimal as it is, a String if the
// whole of it matches ^-?\d+(\.\d+)?([eE]-?\d+)?$; anything else gives
// Undefined.
func (v Value) ToNum(ver Version) Value {
	switch v.kind {
	case Int, Decimal:
		return v
	case String:
		if len(v.s) == 0 || len(v.s) > maxNumberText || strings.IndexByte(v.s, '+') >= 0 {
			return Value{}
		}
		x, _ := ParseNumber(v.s, ver)
		return x
	}
	return Value{}
}

// maxNumberText bounds the Strings that are looked at as numbers.
const maxNumberText = 8 << 10

// Apd sets d to v, which is a number.
func (v Value) Apd(d *apd.Decimal) *apd.Decimal {
	if v.p != nil {
		return d.Set(&v.p.big)
	}
	d.SetInt64(v.n)
	d.Exponent = v.exp
	return d
}

// Float64 returns the double nearest to v, which is a number.
func (v Value) Float64() float64 {
	if v.p == nil && v.exp == 0 && v.n>>53 == v.n>>63 {
		return float64(v.n)
	}
	var d apd.Decimal
	f, err := strconv.ParseFloat(v.Apd(&d).String(), 64)
	if err != nil && math.IsNaN(f) {
		return 0
	}
	return f
}

// Int64 returns v where it is an Int that fits.
func (v Value) Int64() (int64, bool) {
	if v.kind != Int || v.p != nil {
		return 0, false
	}
	return v.n, true
}

// Clamp returns v, an Int, brought into lo…hi.
func (v Value) Clamp(lo, hi int64) int64 {
	n := v.n
	if v.p != nil {
		n = math.MaxInt64
		if v.p.big.Negative {
			n = math.MinInt64
		}
	}
	return min(max(n, lo), hi)
}

// BigInt returns v, an Int, as a new big.Int.
func (v Value) BigInt() *big.Int {
	if v.p == nil {
		return big.NewInt(v.n)
	}
	b := new(big.Int).Set(v.p.big.Coeff.MathBigInt())
	if v.p.big.Negative {
		b.Neg(b)
	}
	return b
}

// Sign returns -1, 0 or 1 for a number.
func (v Value) Sign() int {
	if v.p != nil {
		return v.p.big.Sign()
	}
	switch {
	case v.n < 0:
		return -1
	case v.n > 0:
		return 1
	}
	return 0
}

// Floor rounds a number down to an Int; Undefined stays. A Decimal of more than
// 34 digits before the point stays a Decimal.
func (v Value) Floor() Value { return v.toInt(apd.RoundFloor) }

// Ceil rounds a number up to an Int.
func (v Value) Ceil() Value { return v.toInt(apd.RoundCeiling) }

// Round rounds a number to the nearest Int, a half away from zero.
func (v Value) Round() Value { return v.toInt(apd.RoundHalfUp) }

func (v Value) toInt(mode apd.Rounder) Value {
	if v.kind != Decimal {
		return v
	}
	if v.p == nil {
		if w, ok := v.whole(); ok {
			return IntValue(w)
		}
		if -int(v.exp) < len(pow10) && mode == apd.RoundFloor {
			w := v.n / pow10[-v.exp]
			if v.n < 0 {
				w--
			}
			return IntValue(w)
		}
	}
	var d apd.Decimal
	v.Apd(&d)
	if d.Exponent >= 0 {
		return intValue(&d)
	}
	c := decimal128
	c.Rounding = mode
	c.Precision = digits + 1
	if int64(d.Exponent)+d.NumDigits() < 0 {
		// Below a tenth: Quantize would need more digits than it may use.
		switch s := d.Sign(); {
		case mode == apd.RoundFloor && s < 0, mode == apd.RoundCeiling && s > 0:
			return IntValue(int64(s))
		}
		return IntValue(0)
	}
	if _, err := c.Quantize(&d, &d, 0); err != nil {
		return Value{}
	}
	return intValue(&d)
}

// appendNumber appends v: in plain notation, or with an exponent where jsonText
// is set and the plain one is long out of proportion to its digits.
func (v Value) appendNumber(b []byte, jsonText bool) []byte {
	if v.p != nil {
		d := &v.p.big
		if jsonText && (d.Exponent > 0 && d.NumDigits()+int64(d.Exponent) > digits || d.Exponent < 2*minSmallExp) {
			var r apd.Decimal
			r.Reduce(d)
			return r.Append(b, 'E')
		}
		return appendBig(b, d)
	}
	if v.exp == 0 {
		return strconv.AppendInt(b, v.n, 10)
	}
	var buf [24]byte
	n := v.n
	u := uint64(n)
	if n < 0 {
		b = append(b, '-')
		u = -u
	}
	d := strconv.AppendUint(buf[:0], u, 10)
	return appendPlain(b, d, int(v.exp))
}

// appendPlain appends digits × 10^exp; exp ≤ 0.
func appendPlain(b, d []byte, exp int) []byte {
	point := len(d) + exp
	if point <= 0 {
		b = append(b, '0', '.')
		for ; point < 0; point++ {
			b = append(b, '0')
		}
		return append(b, d...)
	}
	b = append(b, d[:point]...)
	if point == len(d) {
		return b
	}
	b = append(b, '.')
	return append(b, d[point:]...)
}

func appendBig(b []byte, d *apd.Decimal) []byte {
	if d.Negative {
		b = append(b, '-')
	}
	var buf [48]byte
	text := d.Coeff.Append(buf[:0], 10)
	if d.Exponent < 0 {
		return appendPlain(b, text, int(d.Exponent))
	}
	b = append(b, text...)
	for i := int32(0); i < d.Exponent; i++ {
		b = append(b, '0')
	}
	return b
}

// align brings two small numbers to one exponent.
func align(a, b Value) (x, y int64, exp int32, ok bool) {
	if a.exp == b.exp {
		return a.n, b.n, a.exp, true
	}
	if a.exp < b.exp {
		y, x, exp, ok = align(b, a)
		return x, y, exp, ok
	}
	k := int(a.exp - b.exp)
	if k >= len(pow10) {
		return 0, 0, 0, false
	}
	x, ok = mul64(a.n, pow10[k])
	return x, b.n, b.exp, ok
}

// mul64 multiplies; ok is false where the product does not fit.
func mul64(a, b int64) (int64, bool) {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	// Signed high half from the unsigned one.
	h := int64(hi) - (a>>63)&b - (b>>63)&a
	p := int64(lo)
	return p, h == p>>63 && p != math.MinInt64
}

// Add returns a + b of two numbers.
func Add(a, b Value, v Version) Value {
	if a.p == nil && b.p == nil {
		if x, y, exp, ok := align(a, b); ok {
			if s := x + y; (s > x) == (y > 0) && s != math.MinInt64 {
				return result(s, exp, a, b, v)
			}
		}
	}
	return bigOp(a, b, v, decimal128.Add)
}

// Sub returns a - b of two numbers.
func Sub(a, b Value, v Version) Value {
	if a.p == nil && b.p == nil {
		if x, y, exp, ok := align(a, b); ok {
			if s := x - y; (s < x) == (y > 0) && s != math.MinInt64 {
				return result(s, exp, a, b, v)
			}
		}
	}
	return bigOp(a, b, v, decimal128.Sub)
}

// Mul returns a × b of two numbers.
func Mul(a, b Value, v Version) Value {
	if a.p == nil && b.p == nil && a.exp+b.exp >= minSmallExp {
		if p, ok := mul64(a.n, b.n); ok {
			return result(p, a.exp+b.exp, a, b, v)
		}
	}
	return bigOp(a, b, v, decimal128.Mul)
}

// result is an Int where both operands are, otherwise a Decimal.
func result(n int64, exp int32, a, b Value, v Version) Value {
	if a.kind == Int && b.kind == Int {
		return IntValue(n)
	}
	return small(n, exp, v)
}

// Div returns a ÷ b of two numbers: of two Ints an Int where it divides evenly,
// otherwise a Decimal. Division by zero gives Undefined.
func Div(a, b Value, v Version) Value {
	if b.Sign() == 0 {
		return Value{}
	}
	if a.p == nil && b.p == nil {
		if x, y, _, ok := align(a, b); ok {
			if x%y == 0 {
				if a.kind == Int && b.kind == Int {
					return IntValue(x / y)
				}
				return small(x/y, 0, v).settled(v)
			}
			// Most quotients of measured values end within a few digits.
			for k := int32(1); k <= 6; k++ {
				if x, ok = mul64(x, 10); !ok {
					break
				}
				if x%y == 0 {
					return small(x/y, -k, v)
				}
			}
		}
	}
	var x, y apd.Decimal
	if _, err := decimal128.Quo(&x, a.Apd(&x), b.Apd(&y)); err != nil {
		return Value{}
	}
	x.Reduce(&x)
	if a.kind == Int && b.kind == Int && x.Form == apd.Finite && x.Exponent >= 0 {
		return intValue(&x)
	}
	return DecimalValue(&x, v)
}

// settled makes a whole Decimal an Int where the version wants it.
func (v Value) settled(ver Version) Value {
	if ver != V2015 && v.kind == Decimal && v.p == nil && v.exp == 0 {
		v.kind = Int
	}
	return v
}

// Rem returns the remainder of a ÷ b with the sign of a; Undefined for b = 0.
func Rem(a, b Value, v Version) Value {
	if b.Sign() == 0 {
		return Value{}
	}
	if a.p == nil && b.p == nil {
		if x, y, exp, ok := align(a, b); ok {
			return result(x%y, exp, a, b, v)
		}
	}
	var x, y, z apd.Decimal
	a.Apd(&x)
	b.Apd(&y)
	// Rem needs the whole quotient: as many digits as the exponents are apart.
	apart := x.NumDigits() + int64(x.Exponent) - int64(y.Exponent)
	if apart > 4*digits {
		return Value{}
	}
	c := decimal128
	c.Precision = 5 * digits
	if _, err := c.Rem(&z, &x, &y); err != nil {
		return Value{}
	}
	return numberLike(&z, a, b, v)
}

func bigOp(a, b Value, v Version, op func(d, x, y *apd.Decimal) (apd.Condition, error)) Value {
	var x, y, z apd.Decimal
	if _, err := op(&z, a.Apd(&x), b.Apd(&y)); err != nil {
		return Value{}
	}
	return numberLike(&z, a, b, v)
}

func numberLike(d *apd.Decimal, a, b Value, v Version) Value {
	if a.kind == Int && b.kind == Int {
		return intValue(d)
	}
	return DecimalValue(d, v)
}

// Neg returns -v of a number.
func Neg(a Value, v Version) Value {
	if a.p == nil && a.n != math.MinInt64 {
		a.n = -a.n
		return a
	}
	var d apd.Decimal
	a.Apd(&d)
	d.Neg(&d)
	return boxNumber(&d, a.kind)
}

// Compare returns -1, 0 or 1 for two numbers.
func Compare(a, b Value) int {
	if a.p == nil && b.p == nil {
		if x, y, _, ok := align(a, b); ok {
			switch {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return 0
		}
	}
	var x, y apd.Decimal
	return a.Apd(&x).Cmp(b.Apd(&y))
}
