package eval

import (
	"math"
	"math/big"

	"github.com/cockroachdb/apd/v3"
)

// numberFunctions keep Ints and Decimals exact, except those that are said to
// work in double precision.
var numberFunctions = []Function{
	{
		Name: "abs", Signature: "abs(x)", MinArgs: 1, MaxArgs: 1, Pure: true,
		Summary:  "The absolute value of x, to all its digits: an Int for an Int, otherwise a Decimal.",
		Source:   "iot-func-abs",
		Examples: []Example{{Expr: "abs(-5)", Want: "5"}, {Expr: "abs(t)", Payload: `{"t": "-0.25"}`, Want: "0.25"}, {Expr: "abs(true)"}},
		Eval: func(c *Call, args []Value) Value {
			x := c.Num(args[0])
			if x.IsNumber() && x.Sign() < 0 {
				return Neg(x, c.Version())
			}
			return x
		},
	},
	double("acos", "The angle in radians, from 0 to π, whose cosine is x; Undefined outside -1 to 1.", math.Acos,
		Example{Expr: "acos(0)", Want: "1.5707963267948966"}, Example{Expr: "acos(2)"}),
	double("asin", "The angle in radians, from -π/2 to π/2, whose sine is x; Undefined outside -1 to 1.", math.Asin,
		Example{Expr: "asin(0)", Want: "0"}, Example{Expr: "asin(-1)", Want: "-1.5707963267948966"}),
	double("atan", "The angle in radians, from -π/2 to π/2, whose tangent is x.", math.Atan,
		Example{Expr: "atan(1)", Want: "0.7853981633974483"}),
	double2("atan2", "atan2(y, x)", "The angle in radians from the positive x axis to the point (x, y). The y comes first.", "iot-func-atan2", math.Atan2,
		Example{Expr: "atan2(1, 0)", Want: "1.5707963267948966"}, Example{Expr: "atan2(1, -1)", Want: "2.356194490192345"}),
	bits2("bitand", "The bits set in both a and b. Fractions are dropped downwards first.", "iot-func-bitand",
		func(x, y int64) int64 { return x & y }, (*big.Int).And,
		Example{Expr: "bitand(13, 5)", Want: "5"}, Example{Expr: "bitand('13.7', 6)", Want: "4"}),
	bits2("bitor", "The bits set in a, in b or in both. Fractions are dropped downwards first.", "iot-func-bitor",
		func(x, y int64) int64 { return x | y }, (*big.Int).Or,
		Example{Expr: "bitor(8, 5)", Want: "13"}),
	bits2("bitxor", "The bits set in one of a and b, but not in both. Fractions are dropped downwards first.", "iot-func-xbitor",
		func(x, y int64) int64 { return x ^ y }, (*big.Int).Xor,
		Example{Expr: "bitxor(13, 5)", Want: "8"}),
	{
		Name: "bitnot", Signature: "bitnot(a)", MinArgs: 1, MaxArgs: 1, Pure: true,
		Summary:  "a with its significant bits inverted: those above its highest set bit stay as they are.",
		Source:   "iot-func-bitnot",
		Examples: []Example{{Expr: "bitnot(13)", Want: "2"}, {Expr: "bitnot('13.2')", Want: "2"}, {Expr: "bitnot(0)", Want: "0"}},
		Eval: func(c *Call, args []Value) Value {
			x := c.Int(args[0])
			if x.Kind() != Int {
				return Value{}
			}
			b := x.BigInt()
			n := b.BitLen()
			if b.Sign() < 0 {
				n = new(big.Int).Not(b).BitLen()
			}
			mask := new(big.Int).Lsh(big.NewInt(1), uint(n))
			return BigIntValue(b.Xor(b, mask.Sub(mask, big.NewInt(1))))
		},
	},
	toIntFunction("ceil", "x rounded up to an Int.", Value.Ceil,
		Example{Expr: "ceil(1.2)", Want: "2"}, Example{Expr: "ceil(-1.2)", Want: "-1"}),
	double("cos", "The cosine of x, an angle in radians.", math.Cos, Example{Expr: "cos(0)", Want: "1"}),
	double("cosh", "The hyperbolic cosine of x.", math.Cosh, Example{Expr: "cosh(2.3)", Want: "5.037220649268761"}),
	double("exp", "e to the power x.", math.Exp, Example{Expr: "exp(1)", Want: "2.718281828459045"}, Example{Expr: "exp(1000)"}),
	toIntFunction("floor", "x rounded down to an Int.", Value.Floor,
		Example{Expr: "floor(1.2)", Want: "1"}, Example{Expr: "floor(-1.2)", Want: "-2"}),
	double("ln", "The natural logarithm of x; Undefined unless x is positive.", math.Log,
		Example{Expr: "ln(2.5)", Want: "0.9162907318741551"}, Example{Expr: "ln(0)"}),
	double("log", "The logarithm of x to base 10; Undefined unless x is positive.", log10,
		Example{Expr: "log(100)", Want: "2"}, Example{Expr: "log(1000)", Want: "3"}),
	remainder("mod", "iot-func-mod"),
	{
		Name: "nanvl", Signature: "nanvl(a, b)", MinArgs: 2, MaxArgs: 2, Pure: true,
		Summary:  "a, or b where a is Undefined or Null. A result that is no number, such as the square root of -9, is Undefined.",
		Source:   "iot-func-nanvl",
		Examples: []Example{{Expr: "nanvl(8, 3)", Want: "8"}, {Expr: "nanvl(missing, 3)", Want: "3"}, {Expr: "nanvl(sqrt(-9), 'bad')", Want: `"bad"`}, {Expr: "nanvl('text', 1)", Want: `"text"`}},
		Eval: func(c *Call, args []Value) Value {
			if k := args[0].Kind(); k == Undefined || k == Null {
				return args[1]
			}
			return args[0]
		},
	},
	double2("power", "power(a, b)", "a to the power b.", "iot-func-power", math.Pow,
		Example{Expr: "power(2, 5)", Want: "32"}, Example{Expr: "power(4, -2)", Want: "0.0625"}),
	{
		Name: "rand", Signature: "rand()",
		Summary:  "A number from 0.0 to 1.0. It differs from call to call and from message to message; evaluated again, the same message gives the same one.",
		Source:   "iot-sql-function-rand",
		Examples: []Example{{Expr: "rand() >= 0 AND rand() < 1", Want: "true"}, {Expr: "rand() = rand()", Want: "false"}},
		Eval: func(c *Call, _ []Value) Value {
			hi, _ := c.Random()
			return FloatValue(float64(hi>>11)/(1<<53), c.Version())
		},
	},
	remainder("remainder", "iot-func-remainder"),
	toIntFunction("round", "x rounded to the nearest Int; a half goes away from zero.", Value.Round,
		Example{Expr: "round(1.5)", Want: "2"}, Example{Expr: "round(-1.5)", Want: "-2"}, Example{Expr: "round(-1.1)", Want: "-1"}),
	{
		Name: "sign", Signature: "sign(x)", MinArgs: 1, MaxArgs: 1, Pure: true,
		Summary:  "-1, 0 or 1, as x is negative, zero or positive.",
		Source:   "iot-func-sign",
		Examples: []Example{{Expr: "sign(-7)", Want: "-1"}, {Expr: "sign(0.0001)", Want: "1"}, {Expr: "sign('0')", Want: "0"}},
		Eval: func(c *Call, args []Value) Value {
			x := c.Num(args[0])
			if !x.IsNumber() {
				return Value{}
			}
			return IntValue(int64(x.Sign()))
		},
	},
	double("sin", "The sine of x, an angle in radians.", math.Sin, Example{Expr: "sin(0)", Want: "0"}),
	double("sinh", "The hyperbolic sine of x.", math.Sinh, Example{Expr: "sinh(2.3)", Want: "4.936961805545957"}),
	double("sqrt", "The square root of x; Undefined for negative x.", math.Sqrt, Example{Expr: "sqrt(9)", Want: "3"}, Example{Expr: "sqrt(-9)"}),
	double("tan", "The tangent of x, an angle in radians.", math.Tan, Example{Expr: "tan(3)", Want: "-0.1425465430742778"}),
	double("tanh", "The hyperbolic tangent of x.", math.Tanh, Example{Expr: "tanh(2.3)", Want: "0.9800963962661914"}),
	{
		Name: "trunc", Signature: "trunc(x, places)", MinArgs: 2, MaxArgs: 2, Pure: true,
		Summary:  "x without the digits behind the given number of places (kept within 0 and 34), and without trailing zeros. places must be a number, not a string.",
		Source:   "iot-func-trunc",
		Examples: []Example{{Expr: "trunc(2.3123, 2)", Want: "2.31"}, {Expr: "trunc(2.888, 2)", Want: "2.88"}, {Expr: "trunc(-1.99, 0)", Want: "-1"}, {Expr: "trunc(2.00, 5)", Want: "2"}, {Expr: "trunc(1.25, '1')"}},
		Eval: func(c *Call, args []Value) Value {
			x := c.Num(args[0])
			if !args[1].IsNumber() || !x.IsNumber() {
				return Value{}
			}
			if x.Kind() == Int {
				return x
			}
			return truncate(x, args[1].Floor().Clamp(0, digits), c.Version())
		},
	},
}

// double is a function of one number in double precision.
func double(name, summary string, f func(float64) float64, examples ...Example) Function {
	source := "iot-func-" + name
	if name == "ln" {
		source = "iot-func-nln"
	}
	return Function{
		Name: name, Signature: name + "(x)", MinArgs: 1, MaxArgs: 1, Pure: true,
		Summary: summary + " In double precision.", Source: source, Examples: examples,
		Eval: func(c *Call, args []Value) Value {
			x := c.Num(args[0])
			if !x.IsNumber() {
				return Value{}
			}
			return FloatValue(f(x.Float64()), c.Version())
		},
	}
}

// double2 is a function of two numbers in double precision.
func double2(name, signature, summary, source string, f func(a, b float64) float64, examples ...Example) Function {
	return Function{
		Name: name, Signature: signature, MinArgs: 2, MaxArgs: 2, Pure: true,
		Summary: summary + " In double precision.", Source: source, Examples: examples,
		Eval: func(c *Call, args []Value) Value {
			x, y := c.Num(args[0]), c.Num(args[1])
			if !x.IsNumber() || !y.IsNumber() {
				return Value{}
			}
			return FloatValue(f(x.Float64(), y.Float64()), c.Version())
		},
	}
}

// log10 is exact for powers of ten, which math.Log10 is not.
func log10(x float64) float64 {
	y := math.Log10(x)
	if n := math.Round(y); math.Abs(n) <= 308 && math.Pow10(int(n)) == x {
		return n
	}
	return y
}

// bits2 is a function of the bits of two Ints.
func bits2(name, summary, source string, short func(x, y int64) int64, long func(z, x, y *big.Int) *big.Int, examples ...Example) Function {
	return Function{
		Name: name, Signature: name + "(a, b)", MinArgs: 2, MaxArgs: 2, Pure: true,
		Summary: summary, Source: source, Examples: examples,
		Eval: func(c *Call, args []Value) Value {
			x, y := c.Int(args[0]), c.Int(args[1])
			if x.Kind() != Int || y.Kind() != Int {
				return Value{}
			}
			if a, ok := x.Int64(); ok {
				if b, ok := y.Int64(); ok {
					return IntValue(short(a, b))
				}
			}
			z := x.BigInt()
			return BigIntValue(long(z, z, y.BigInt()))
		},
	}
}

// toIntFunction is a function that rounds to an Int.
func toIntFunction(name, summary string, f func(Value) Value, examples ...Example) Function {
	return Function{
		Name: name, Signature: name + "(x)", MinArgs: 1, MaxArgs: 1, Pure: true,
		Summary: summary, Source: "iot-func-" + name, Examples: examples,
		Eval: func(c *Call, args []Value) Value { return f(c.Num(args[0])) },
	}
}

func remainder(name, source string) Function {
	return Function{
		Name: name, Signature: name + "(a, b)", MinArgs: 2, MaxArgs: 2, Pure: true,
		Summary:  "What is left when a is divided by b, with the sign of a; Undefined where b is 0. The same as a % b: an Int for two Ints, otherwise a Decimal.",
		Source:   source,
		Examples: []Example{{Expr: name + "(8, 3)", Want: "2"}, {Expr: name + "(-8, 3)", Want: "-2"}, {Expr: name + "(7.5, '2')", Want: "1.5"}, {Expr: name + "(8, 0)"}},
		Eval: func(c *Call, args []Value) Value {
			x, y := c.Num(args[0]), c.Num(args[1])
			if !x.IsNumber() || !y.IsNumber() {
				return Value{}
			}
			return Rem(x, y, c.Version())
		},
	}
}

// truncate drops the digits of x, a Decimal, behind places, and the zeros at
// its end.
func truncate(x Value, places int64, v Version) Value {
	var d apd.Decimal
	x.Apd(&d)
	if d.NumDigits()+int64(d.Exponent) <= -places {
		d.SetInt64(0)
	} else if int64(d.Exponent) < -places {
		ctx := apd.BaseContext.WithPrecision(2 * digits)
		ctx.Rounding = apd.RoundDown
		if _, err := ctx.Quantize(&d, &d, int32(-places)); err != nil {
			return Value{}
		}
	}
	d.Reduce(&d)
	return DecimalValue(&d, v)
}

// clampInt converts v to an Int, rounding down, and brings it into lo…hi; ok is
// false where it is no number.
func clampInt(c *Call, v Value, lo, hi int64) (n int64, ok bool) {
	x := c.Num(v)
	if !x.IsNumber() {
		return 0, false
	}
	if x = x.Floor(); !x.IsNumber() {
		return 0, false
	}
	return x.Clamp(lo, hi), true
}
