package eval

import (
	"strings"
	"time"

	"github.com/weir-iot/weir/rules/eval/timefmt"
)

var timeFunctions = []Function{
	{
		Name: "parse_time", Since: V2016, Signature: "parse_time(pattern, ms[, zone])", MinArgs: 2, MaxArgs: 3, Pure: true,
		Summary: "Formats milliseconds since the epoch by the pattern letters of Joda-Time, in English. " +
			"The zone is a name of the time zone database or an offset, UTC by default; an unknown one gives Undefined.",
		Source: "iot-sql-function-parse-time",
		Examples: []Example{
			{Expr: "parse_time('yyyy-MM-dd', 1514764800000)", Want: `"2018-01-01"`},
			{Expr: "parse_time('EEEE, d MMMM yyyy HH:mm:ss.SSSZZ', 1700000000123, 'Asia/Tokyo')", Want: `"Wednesday, 15 November 2023 07:13:20.123+09:00"`},
			{Expr: `parse_time("yyyy.MM.dd G 'at' HH:mm:ss z", 100000000, 'America/Belize')`, Want: `"1970.01.01 AD at 21:46:40 CST"`},
			{Expr: "parse_time('yyyy', 0, 'Mars/Olympus')"},
		},
		Prepare: func(args []*Value, _ Version) any {
			s := &timeFormat{}
			if args[0] != nil {
				s.format = compileFormat(args[0].ToStr())
			}
			if len(args) > 2 && args[2] != nil {
				s.zone, _ = timefmt.Zone(args[2].ToStr().Str())
			}
			return s
		},
		Eval: parseTime,
	},
	{
		Name: "time_to_epoch", Since: V2016, Signature: "time_to_epoch(text, pattern)", MinArgs: 2, MaxArgs: 2, Pure: true,
		Summary: "Reads a date and time by the pattern letters of java.time, in English, and gives milliseconds since the epoch; UTC if the text names no zone, " +
			"midnight if it has no time. Both arguments must be Strings; a text that does not fit gives Undefined.",
		Source: "iot-sql-function-time-to-epoch",
		Examples: []Example{
			{Expr: "time_to_epoch('2020-04-03 09:45:18 UTC+01:00', 'yyyy-MM-dd HH:mm:ss VV')", Want: "1585903518000"},
			{Expr: "time_to_epoch('18 December 2015', 'dd MMMM yyyy')", Want: "1450396800000"},
			{Expr: "time_to_epoch('2007-12-03 10:15:30.592 America/Los_Angeles', 'yyyy-MM-dd HH:mm:ss.SSS z')", Want: "1196705730592"},
			{Expr: "time_to_epoch('soon', 'yyyy-MM-dd')"},
		},
		Prepare: func(args []*Value, _ Version) any {
			if args[1] == nil {
				return nil
			}
			return compileTimeParse(args[1].Str())
		},
		Eval: func(c *Call, args []Value) Value {
			if args[0].Kind() != String || args[1].Kind() != String {
				return Value{}
			}
			p, _ := c.State.(*timeParse)
			if p == nil {
				if len(args[1].Str()) > maxCachedPattern {
					return Value{}
				}
				p = c.Cached("time_to_epoch", args[1].Str(), func() any { return compileTimeParse(strings.Clone(args[1].Str())) }).(*timeParse)
			}
			if p.parse == nil {
				return Value{}
			}
			ms, ok := p.parse.Millis(args[0].Str())
			if !ok {
				return Value{}
			}
			return IntValue(ms)
		},
	},
	{
		Name: "timestamp", Signature: "timestamp()",
		Summary:  "When the message arrived, in milliseconds since the epoch.",
		Source:   "iot-function-timestamp",
		Examples: []Example{{Expr: "timestamp() > 1600000000000", Want: "true"}},
		Eval:     func(c *Call, _ []Value) Value { return IntValue(c.Event().Received.UnixMilli()) },
	},
}

// timeFormat is what is known of a call of parse_time before it runs.
type timeFormat struct {
	format *timeFormatPattern // nil: not constant
	zone   *time.Location     // nil: not constant, or unknown
}

type timeFormatPattern struct{ f *timefmt.Format } // f nil: invalid

type timeParse struct{ parse *timefmt.Parse } // parse nil: invalid

func compileFormat(pattern Value) *timeFormatPattern {
	if pattern.IsUndefined() {
		return &timeFormatPattern{}
	}
	f, err := timefmt.CompileFormat(pattern.Str())
	if err != nil {
		return &timeFormatPattern{}
	}
	return &timeFormatPattern{f}
}

func compileTimeParse(pattern string) *timeParse {
	p, err := timefmt.CompileParse(pattern)
	if err != nil {
		return &timeParse{}
	}
	return &timeParse{p}
}

func parseTime(c *Call, args []Value) Value {
	s := c.State.(*timeFormat)
	const never = int64(1) << 62
	ms, ok := clampInt(c, args[1], -never, never)
	if !ok {
		return Value{}
	}
	format := s.format
	if format == nil {
		pattern := textOf(c, args[0])
		if pattern.IsUndefined() || len(pattern.Str()) > maxCachedPattern {
			return Value{}
		}
		format = c.Cached("parse_time", pattern.Str(), func() any { return compileFormat(StringValue(strings.Clone(pattern.Str()))) }).(*timeFormatPattern)
	}
	zone := s.zone
	if zone == nil {
		zone = time.UTC
		if len(args) > 2 {
			name := textOf(c, args[2])
			if zone, ok = timefmt.Zone(name.Str()); !ok {
				return Value{}
			}
		}
	}
	if format.f == nil {
		return Value{}
	}
	var small [64]byte
	out, ok := format.f.Append(small[:0], ms, zone)
	if !ok || !c.Charge(len(out)) {
		return Value{}
	}
	return StringValue(string(out))
}
