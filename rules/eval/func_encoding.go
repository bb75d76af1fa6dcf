package eval

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"strings"
)

var encodingFunctions = []Function{
	{
		Name: "encode", Since: V2016, Signature: "encode(x, 'base64')", MinArgs: 2, MaxArgs: 2, Literal: []int{1}, Pure: true,
		Summary:  "The text of x in base64. encode(*, 'base64') takes the bytes of the payload as they came, JSON or not.",
		Source:   "iot-sql-encode-payload",
		Examples: []Example{{Expr: "encode('door open', 'base64')", Want: `"ZG9vciBvcGVu"`}, {Expr: "encode(*, 'base64')", Payload: `{"a":1}`, Want: `"eyJhIjoxfQ=="`}, {Expr: "encode(true, 'base64')", Want: `"dHJ1ZQ=="`}},
		Eval: func(c *Call, args []Value) Value {
			if args[1].Str() != "base64" {
				return Value{}
			}
			data, ok := args[0].PayloadBytes()
			if !ok {
				s := textOf(c, args[0])
				if s.IsUndefined() {
					return s
				}
				data = textBytes(s.Str())
			}
			n := base64.StdEncoding.EncodedLen(len(data))
			if !c.Charge(n) || !c.m.work(n) {
				return Value{}
			}
			out := make([]byte, n)
			base64.StdEncoding.Encode(out, data)
			return StringValue(bytesText(out))
		},
	},
	{
		Name: "decode", Since: V2016, Signature: "decode(x, 'base64') or decode(x, 'proto', bucket, key, protofile, messagetype)", MinArgs: 2, MaxArgs: 6, Counts: []int{2, 6}, Literal: []int{1},
		Summary: "'base64': the decoded text, or its value where it is JSON; Null where it cannot be decoded. " +
			"'proto': a Protobuf message (the payload, *, or base64) as JSON, read with a FileDescriptorSet kept in S3: the bucket and the key of the object, " +
			"which is read again after a minute, then the .proto file and the message in it. Without S3 a rule that calls it so is refused.",
		Source: "iot-sql-decode-base64",
		Examples: []Example{
			{Expr: "decode(e, 'base64').temperature", Payload: `{"e": "eyAidGVtcGVyYXR1cmUiOiAzMyB9Cg=="}`, Want: "33"},
			{Expr: "decode('T0sgZnJvbSB1bml0IDc=', 'base64')", Want: `"OK from unit 7"`}, {Expr: "decode('ODA=', 'base64') > 50", Want: "true"}, {Expr: "decode('?', 'base64')", Want: "null"},
		},
		ServiceOf: func(args []*Value) Service {
			if args[1] != nil && args[1].Str() == "proto" && len(args) == 6 {
				return DescriptorService
			}
			return NoService
		},
		Eval: func(c *Call, args []Value) Value {
			switch {
			case args[1].Str() == "proto" && len(args) == 6:
				return decodeProto(c, args)
			case args[1].Str() != "base64" || len(args) != 2:
				return Value{}
			}
			s := textOf(c, args[0])
			if s.IsUndefined() {
				return s
			}
			data, ok := fromBase64(c, s.Str())
			if !ok {
				return NullValue
			}
			if v, ok := ParseJSON(data, c.Version()); ok {
				return v
			}
			return StringValue(bytesText(data))
		},
	},
	hash("md2", "a9046c73e00331af68917d3804f70655", func(b []byte) []byte { d := md2(b); return d[:] }),
	hash("md5", "5d41402abc4b2a76b9719d911017c592", func(b []byte) []byte { d := md5.Sum(b); return d[:] }),
	hash("sha1", "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d", func(b []byte) []byte { d := sha1.Sum(b); return d[:] }),
	hash("sha224", "ea09ae9cc6768c50fcee903ed054556e5bfc8347907f12598aa24193", func(b []byte) []byte { d := sha256.Sum224(b); return d[:] }),
	hash("sha256", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", func(b []byte) []byte { d := sha256.Sum256(b); return d[:] }),
	hash("sha384", "59e1748777448c69de6b800d7a33bbfb9ff1b463e44354c3553bcdb9c666fa90125a3c79f90397bdf5f6a13de828684f", func(b []byte) []byte { d := sha512.Sum384(b); return d[:] }),
	hash("sha512", "9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043", func(b []byte) []byte { d := sha512.Sum512(b); return d[:] }),
}

// md2Work is what a byte takes in MD2, which is that slow.
const md2Work = 32

// hash is a hash function of a text; of is its hash of "hello".
func hash(name, of string, f func([]byte) []byte) Function {
	return Function{
		Name: name, Signature: name + "(s)", MinArgs: 1, MaxArgs: 1, Pure: true,
		Summary: "The " + strings.ToUpper(name) + " hash of s, in hexadecimal.", Source: "iot-sql-function-hash",
		Examples: []Example{{Expr: name + "('hello')", Want: `"` + of + `"`}},
		Eval: func(c *Call, args []Value) Value {
			s := textOf(c, args[0])
			if s.IsUndefined() || name == "md2" && !c.m.work(md2Work*len(s.Str())) {
				return Value{}
			}
			return StringValue(hex.EncodeToString(f(textBytes(s.Str()))))
		},
	}
}

// fromBase64 decodes s, with or without padding. ok is false where s is no
// base64.
func fromBase64(c *Call, s string) (data []byte, ok bool) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, false // which the decoder would pass over
	}
	s = strings.TrimSuffix(strings.TrimSuffix(s, "="), "=")
	if len(s)%4 == 1 || !c.Charge(base64.RawStdEncoding.DecodedLen(len(s))) {
		return nil, false
	}
	data, err := base64.RawStdEncoding.DecodeString(s)
	return data, err == nil
}
