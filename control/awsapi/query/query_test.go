package query

import (
	"errors"
	"strings"
	"testing"
)

func doc(fields ...string) Document {
	d := Document{}
	for i := 0; i < len(fields); i += 2 {
		d.Add(fields[i], Text(fields[i+1]))
	}
	return d
}

func TestMatch(t *testing.T) {
	tv := doc("thingName", "tv-Living", "thingTypeName", "screen", "attributes.site", "a", "attributes.n", "75", "attributes.serialNumber", "abce",
		"shadow.reported.note", "needs new filament", "shadow.reported.values", "1", "shadow.reported.values", "2", "shadow.hasDelta", "true", "connectivity.timestamp", "1557651600001", "a:b", "x")
	for q, want := range map[string]bool{
		"*":                       true,
		"screen":                  true,
		"SCREEN":                  true,
		"plasma":                  false,
		"thingName:tv-living":     true,
		"thingName:tv*":           true,
		"thingName:tv-livin?":     true,
		"thingName:tv-living?":    false,
		"thingName:t*g":           true,
		"thingname:tv*":           false, // names of fields know case
		"attributes.n:75":         true,
		"attributes.n:75.0":       true,
		"attributes.n:[75 TO 80]": true,
		"attributes.n:{75 TO 80]": false,
		"attributes.n:[* TO 75}":  false,
		"attributes.n:[70 TO *]":  true,
		"attributes.n<75":         false,
		"attributes.n<=75":        true,
		"attributes.n > 5":        true,
		"attributes.n:>5":         true,
		"attributes.site < 5":     false,
		`attributes.serialNumber:["abcd" TO "abcf"]`:                 true,
		`attributes.serialNumber:["abcf" TO "abcg"]`:                 false,
		"attributes.site:a AND attributes.n<80 NOT attributes.n>100": true,
		"attributes.site:a attributes.n<5":                           false,
		"attributes.site:b OR attributes.n:75":                       true,
		"NOT attributes.model:legacy":                                true,
		"-attributes.site:a":                                         false,
		"thingName:(tv* AND -plasma)":                                true,
		"thingName:(tv* AND -tv-living)":                             false,
		"(screen OR plasma) attributes.site:*":                       true,
		"attributes.site:* NOT shadow.desired.stats.battery:*":       true,
		"shadow.reported.values:2":                                   true,
		"shadow.hasDelta:true":                                       true,
		`shadow.reported.note:"new filament"`:                        true,
		`shadow.reported.note:"filament new"`:                        false,
		"shadow.reported.note:fila*":                                 true,
		"connectivity.timestamp : [1557651600000 TO 1557867600000]":  true,
		"connectivity.timestamp > 1557651600000":                     true,
		`a\:b:x`:                                                     true,
		"attributes.n:-75":                                           false,
	} {
		p, err := Parse(q)
		if err != nil {
			t.Errorf("%s: %v", q, err)
			continue
		}
		if got := p.Match(tv); got != want {
			t.Errorf("%s: %v", q, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for q, at := range map[string]int{
		"": 1, "   ": 4, "AND a": 1, "a AND": 6, "a OR": 5, "(a": 3, "a)": 2, "a:": 3, "*xyz": 1, "thingName:*xyz": 11, `"abc`: 1, "n:[1 TO": 8, "n:[1 2]": 6,
		"a b c d e f g h": 16, "n:[1 TO 2": 10, "a:(b:c)": 5, "<5": 1, "n<": 3, "NOT": 4,
		strings.Repeat("(", 100) + "a": 17, strings.Repeat("x", 1001): 1001,
	} {
		_, err := Parse(q)
		var e *Error
		if !errors.As(err, &e) || e.At != at {
			t.Errorf("%.40q: %v, want a mistake at %d", q, err, at)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a:b AND (c OR -d)", `x:["a" TO *}`, `a\:b<=5 "p q"`, "((((", "-", "a:**?*", "\xff"} {
		f.Add(s, "value one")
	}
	f.Fuzz(func(t *testing.T, src, value string) {
		q, err := Parse(src)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.At < 1 {
				t.Fatal(err)
			}
			return
		}
		q.Match(doc("thingName", value, "a", "1"))
	})
}
