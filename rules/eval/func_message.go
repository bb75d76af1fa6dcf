package eval

import (
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/weir-iot/weir/internal/event"
)

var messageFunctions = []Function{
	{
		Name: "accountid", Signature: "accountid()", Summary: "The account that owns the rule.", Source: "iot-sql-function-accountid",
		Examples: []Example{{Expr: "accountid()", Want: `"123456789012"`}},
		Eval:     func(c *Call, _ []Value) Value { return StringValue(c.Account()) },
	},
	{
		Name: "clientid", Signature: "clientid()", Source: "iot-sql-function-clientid",
		Summary:  "The MQTT client that published the message; n/a if it was not sent over MQTT.",
		Examples: []Example{{Expr: "clientid()", Want: `"client-1"`}},
		Eval: func(c *Call, _ []Value) Value {
			if c.Event().Protocol != event.MQTT {
				return StringValue("n/a")
			}
			return StringValue(c.Event().ClientID)
		},
	},
	{
		Name: "get_mqtt_property", Since: V2016, Signature: "get_mqtt_property(name)", MinArgs: 1, MaxArgs: 1, Literal: []int{0}, Source: "iot-sql-functions",
		Summary: "An MQTT 5 property of the message: content_type, response_topic or correlation_data (in base64), Undefined where it is not set; " +
			"format_indicator is UTF8_DATA or UNSPECIFIED_BYTES.",
		Examples: []Example{{Expr: "get_mqtt_property('format_indicator')", Want: `"UNSPECIFIED_BYTES"`}, {Expr: "get_mqtt_property('content_type')", Want: `"application/json"`}, {Expr: "get_mqtt_property('colour')"}},
		Eval: func(c *Call, args []Value) Value {
			var none event.Properties
			p := c.Event().Props
			if p == nil {
				p = &none
			}
			text := ""
			switch args[0].Str() {
			case "format_indicator":
				if p.PayloadUTF8 {
					return StringValue("UTF8_DATA")
				}
				return StringValue("UNSPECIFIED_BYTES")
			case "content_type":
				text = p.ContentType
			case "response_topic":
				text = p.ResponseTopic
			case "correlation_data":
				if len(p.CorrelationData) > 0 && c.Charge(2*len(p.CorrelationData)) {
					text = base64.StdEncoding.EncodeToString(p.CorrelationData)
				}
			}
			if text == "" {
				return Value{}
			}
			return StringValue(text)
		},
	},
	{
		Name: "get_user_properties", Since: V2016, Signature: "get_user_properties([key])", MaxArgs: 1, Source: "iot-sql-functions",
		Summary:  "The values of an MQTT 5 user property in the order they came, Undefined where there is none; without a key one Object for each property of the message.",
		Examples: []Example{{Expr: "get_user_properties('zone')", Want: `["north","dock"]`}, {Expr: "get_user_properties()", Want: `[{"zone":"north"},{"zone":"dock"}]`}, {Expr: "get_user_properties('none')"}},
		Eval: func(c *Call, args []Value) Value {
			var all []event.UserProperty
			if p := c.Event().Props; p != nil {
				all = p.User
			}
			if len(args) == 1 && args[0].Kind() != String || !c.Charge(len(all)*2*memberSize) {
				return Value{}
			}
			var items []Value
			for _, u := range all {
				switch {
				case len(args) == 0:
					items = append(items, ObjectValue([]Member{{u.Key, StringValue(u.Value)}}))
				case u.Key == args[0].Str():
					items = append(items, StringValue(u.Value))
				}
			}
			if len(args) == 1 && items == nil {
				return Value{}
			}
			return ArrayValue(items)
		},
	},
	{
		Name: "newuuid", Signature: "newuuid()", Source: "iot-sql-function-newuuid",
		Summary:  "A random UUID. It differs from call to call and from message to message; evaluated again, the same message gives the same one.",
		Examples: []Example{{Expr: "length(newuuid())", Want: "36"}, {Expr: "newuuid() = newuuid()", Want: "false"}},
		Eval: func(c *Call, _ []Value) Value {
			hi, lo := c.Random()
			hi = hi&^0xF000 | 0x4000
			lo = lo&^(3<<62) | 1<<63
			var b [16]byte
			for i := range 8 {
				b[i], b[8+i] = byte(hi>>(56-8*i)), byte(lo>>(56-8*i))
			}
			var text [36]byte
			at := 0
			for i, c := range b {
				if i == 4 || i == 6 || i == 8 || i == 10 {
					text[at] = '-'
					at++
				}
				hex.Encode(text[at:at+2], []byte{c})
				at += 2
			}
			return StringValue(string(text[:]))
		},
	},
	{
		Name: "principal", Signature: "principal()", Source: "iot-sql-function-principal",
		Summary:  "Who published: the certificate's thumbprint, a user id, or a role id and session name.",
		Examples: []Example{{Expr: "principal()", Want: `"AIDAXAMPLEUSERID0001"`}},
		Eval:     func(c *Call, _ []Value) Value { return known(c.Event().Principal) },
	},
	{
		Name: "sourceip", Since: V2016, Signature: "sourceip()", Source: "iot-sql-functions",
		Summary:  "The address the device, or the router before it, connects from.",
		Examples: []Example{{Expr: "sourceip()", Want: `"203.0.113.17"`}},
		Eval:     func(c *Call, _ []Value) Value { return known(c.Event().SourceIP) },
	},
	{
		Name: "sql_version", Signature: "sql_version()", Summary: "The SQL version of the rule.", Source: "iot-sql-function-sql-version",
		Examples: []Example{{Expr: "sql_version()", Want: `"2016-03-23"`}},
		Eval:     func(c *Call, _ []Value) Value { return StringValue(c.Version().String()) },
	},
	{
		Name: "topic", Signature: "topic([n])", MaxArgs: 1, Source: "iot-function-topic",
		Summary:  "The topic of the message, or its n-th level counted from 1. The prefix of a Basic Ingest topic, $aws/rules/<rule>/, is not part of it.",
		Examples: []Example{{Expr: "topic()", Want: `"a/b/c"`}, {Expr: "topic(2)", Want: `"b"`}, {Expr: "topic(4)"}},
		Eval: func(c *Call, args []Value) Value {
			name := string(c.Topic())
			if len(args) == 0 {
				return StringValue(name)
			}
			n, ok := clampInt(c, args[0], 0, int64(len(name))+2)
			if !ok || n == 0 {
				return Value{}
			}
			for ; n > 1; n-- {
				i := strings.IndexByte(name, '/')
				if i < 0 {
					return Value{}
				}
				name = name[i+1:]
			}
			if i := strings.IndexByte(name, '/'); i >= 0 {
				name = name[:i]
			}
			return StringValue(name)
		},
	},
	{
		Name: "traceid", Signature: "traceid()", Source: "iot-sql-function-traceid",
		Summary:  "The UUID of the message, the same on every redelivery, replay and backtest; Undefined if it was not sent over MQTT.",
		Examples: []Example{{Expr: "length(traceid())", Want: "36"}},
		Eval: func(c *Call, _ []Value) Value {
			if c.Event().Protocol != event.MQTT {
				return Value{}
			}
			return StringValue(c.Event().ID().String())
		},
	},
}

// known is s as a String, Undefined where it is empty: nobody knows it.
func known(s string) Value {
	if s == "" {
		return Value{}
	}
	return StringValue(s)
}
