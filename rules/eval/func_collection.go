package eval

import "unicode/utf8"

// maxTransform bounds what transform gives, as JSON.
const maxTransform = 128 << 10

var collectionFunctions = []Function{
	{
		Name: "get", Signature: "get(c, key)", MinArgs: 2, MaxArgs: 2, Pure: true,
		Summary: "The item of an Array or the character of a String at an index counted from 0, or the member of an Object with this name. " +
			"Use it for names with hyphens, spaces or a leading digit. What is not there is Undefined.",
		Source: "iot-sql-function-get",
		Examples: []Example{
			{Expr: "get(['a', 'b', 'c'], 1)", Want: `"b"`}, {Expr: "get(o, 'oil temp')", Payload: `{"o": {"oil temp": 88}}`, Want: "88"}, {Expr: "get('abc', 0)", Want: `"a"`},
			{Expr: "get(*, 'my-key')", Payload: `{"my-key": "found"}`, Want: `"found"`}, {Expr: "get(['a'], 1)"}, {Expr: "get(123, 0)"},
		},
		Eval: func(c *Call, args []Value) Value {
			switch args[0].Kind() {
			case Object:
				if args[1].Kind() != String {
					return Value{}
				}
				return c.Member(args[0], args[1].Str())
			case Array:
				i, ok := clampInt(c, args[1], -1, 1<<40)
				if !ok {
					return Value{}
				}
				return c.Index(args[0], i)
			case String:
				s := args[0].Str()
				i, ok := clampInt(c, args[1], -1, int64(len(s)))
				if !ok || i < 0 {
					return Value{}
				}
				s = s[byteOffset(s, int(i)):]
				if s == "" {
					return Value{}
				}
				_, w := utf8.DecodeRuneInString(s)
				return StringValue(s[:w])
			}
			return Value{}
		},
	},
	{
		Name: "get_or_default", Since: V2016, Signature: "get_or_default(x[, default])", MinArgs: 1, MaxArgs: 2, Catches: true,
		Summary:  "x, or the default where x is Undefined, Null or a look-up that failed. Without a default the result is Undefined then.",
		Source:   "iot-sql-functions",
		Examples: []Example{{Expr: "get_or_default(t, 'none')", Payload: `{"t": null}`, Want: `"none"`}, {Expr: "get_or_default(t, 1)", Payload: `{"t": false}`, Want: "false"}, {Expr: "get_or_default(a.b.c, {'k': 0})", Want: `{"k":0}`}, {Expr: "get_or_default(missing)"}},
		Eval: func(c *Call, args []Value) Value {
			if k := args[0].Kind(); k != Undefined && k != Null {
				return args[0]
			}
			if len(args) == 2 {
				return args[1]
			}
			return Value{}
		},
	},
	{
		Name: "isnull", Signature: "isNull(x)", MinArgs: 1, MaxArgs: 1, Pure: true,
		Summary:  "true if x is Null. A missing member is Undefined, not Null.",
		Source:   "iot-sql-function-isNull",
		Examples: []Example{{Expr: "isNull(n)", Payload: `{"n": null}`, Want: "true"}, {Expr: "isNull(missing)", Want: "false"}},
		Eval:     func(_ *Call, args []Value) Value { return BoolValue(args[0].Kind() == Null) },
	},
	{
		Name: "isundefined", Since: V2016, Signature: "isUndefined(x)", MinArgs: 1, MaxArgs: 1, Pure: true,
		Summary:  "true if x is Undefined: a missing member, a failed conversion, a call with unsuitable arguments.",
		Source:   "iot-sql-function-isUndefined",
		Examples: []Example{{Expr: "isUndefined(5)", Want: "false"}, {Expr: "isUndefined(floor([1, 2, 3]))", Want: "true"}},
		Eval:     func(_ *Call, args []Value) Value { return BoolValue(args[0].Kind() == Undefined) },
	},
	{
		Name: "transform", Since: V2016, Signature: "transform('enrichArray', object, array)", MinArgs: 3, MaxArgs: 3, Literal: []int{0}, Pure: true,
		Summary: "A copy of an Array of Objects in which every item has the members of object too; of two with one name the object's counts. " +
			"Other modes, an item that is no Object and a result over 128 KiB give Undefined.",
		Source: "iot-func-transform",
		Examples: []Example{
			{Expr: "transform('enrichArray', meta, readings)", Payload: `{"meta": {"vin": "V1"}, "readings": [{"rpm": 900}, {"rpm": 950}]}`, Want: `[{"rpm":900,"vin":"V1"},{"rpm":950,"vin":"V1"}]`},
			{Expr: "transform('enrichArray', {'at': topic(2)}, [{'rpm': 1}])", Want: `[{"rpm":1,"at":"b"}]`}, {Expr: "transform('merge', {}, [])"}, {Expr: "transform('enrichArray', {}, [1])"},
		},
		Eval: transform,
	},
}

func transform(c *Call, args []Value) Value {
	if args[0].Str() != "enrichArray" || args[1].Kind() != Object || args[2].Kind() != Array {
		return Value{}
	}
	added := c.Members(args[1])
	size := len(args[1].AppendJSON(nil))
	n := args[2].Len()
	if n*(size-2) > maxTransform || !c.Charge(n*(len(added)+1)*memberSize) {
		return Value{}
	}
	items := c.Items(args[2])
	out := make([]Value, 0, n)
	for _, item := range items {
		if item.Kind() != Object {
			return Value{}
		}
		members := c.Members(item)
		both := make([]Member, 0, len(members)+len(added))
		out = append(out, ObjectValue(append(append(both, members...), added...)))
	}
	if c.m.err != nil {
		return Value{}
	}
	v := ArrayValue(out)
	if len(v.AppendJSON(nil)) > maxTransform {
		return Value{}
	}
	return v
}

// memberSize is about the memory of a Member.
const memberSize = 64
