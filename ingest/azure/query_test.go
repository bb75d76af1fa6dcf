package azure

import (
	"net/url"
	"strings"
	"testing"

	"github.com/weir-iot/weir/internal/event"
)

func TestQuery(t *testing.T) {
	doc := plain(map[string]any{
		"deviceId": "d1", "status": "enabled", "tags": map[string]any{"site": "north", "n": 3, "odd name": true},
		"properties": map[string]any{"reported": map[string]any{"t": 21.5, "fw": map[string]any{"v": "1.2"}, "nil": nil}},
	})
	for where, want := range map[string]bool{
		"deviceId = 'd1'": true, `deviceId = "d1"`: true, "deviceId != 'd1'": false, "tags.site IN ['south', 'north']": true, "tags.site NIN ['south']": true,
		"tags.n > 2 AND tags.n <= 3": true, "tags.n + 1 = 4": true, "-tags.n = 0 - 3": true, "tags.n % 2 = 1": true, "NOT tags.n = 3": false,
		"IS_DEFINED(tags.x)": false, "NOT IS_DEFINED(tags.x)": true, "tags.x = 1": false, "tags.x != 1": false, "is_null(properties.reported.nil)": true,
		"STARTS_WITH(deviceId, 'd') OR tags.x = 1": true, "properties.reported.t >= 21.5": true, "tags.site = 3": false, "tags.site > 3": false,
		"properties.reported.fw = 1": false, "LENGTH(tags.site) = 5": true, "SUBSTRING(tags.site, 1, 3) = 'ort'": true, "tags.[[odd name]] = true": true,
		"(tags.n = 1 OR tags.n = 3) AND status = 'enabled'": true, "tags.n = 1 OR tags.n = 3 AND status = 'disabled'": false,
	} {
		q, err := ParseQuery("SELECT * FROM devices WHERE " + where)
		if err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		if got := q.Matches(doc); got != want {
			t.Errorf("%s: %v", where, got)
		}
	}
	for _, bad := range []string{
		"", "SELECT", "SELECT * FROM things", "SELECT * FROM devices WHERE", "SELECT * FROM devices WHERE a =", "SELECT * FROM devices WHERE NOPE(a)",
		"SELECT * FROM devices ORDER BY a", "SELECT * FROM devices GROUP BY a", "SELECT a, COUNT() FROM devices", "SELECT * FROM devices WHERE a = 'x",
		"SELECT * FROM devices.jobs", "SELECT * FROM devices; DROP", "SELECT TOP 0 * FROM devices", "SELECT * FROM devices WHERE a IN 3",
		"SELECT * FROM devices WHERE " + strings.Repeat("(", 10_000), "SELECT * FROM devices WHERE " + strings.Repeat("NOT ", 4000) + "a",
	} {
		if _, err := ParseQuery(bad); err == nil {
			t.Errorf("%.60q is taken", bad)
		}
	}
}

func FuzzParseQuery(f *testing.F) {
	f.Add("SELECT TOP 3 deviceId AS id, tags.a.b FROM devices WHERE a IN [1, 'x'] AND NOT IS_DEFINED(b.c) OR -1 + 2 * 3 > 4")
	f.Add("SELECT status, COUNT() AS n, AVG(tags.n) FROM devices.modules GROUP BY status")
	f.Add(`SELECT * FROM devices WHERE [[a b]] = "\"" AND a <> 1e3`)
	doc := map[string]any{"a": 1.0, "b": map[string]any{"c": "x"}, "l": []any{1.0}}
	f.Fuzz(func(t *testing.T, s string) {
		q, err := ParseQuery(s)
		if err != nil {
			return
		}
		if q.Matches(doc); q.Grouped() {
			g := q.newGroups()
			g.add(doc)
			encodeJSON(g.rows())
			return
		}
		q.Project(doc)
	})
}

func FuzzBag(f *testing.F) {
	f.Add("a=b&%24.mid=1&c=%20&$.ct=text%2Fplain")
	f.Add("?x=/")
	f.Add("=&a&%zz")
	f.Fuzz(func(t *testing.T, s string) {
		var p, again event.Properties
		if parseBag(s, &p) != nil {
			return
		}
		for _, u := range p.User {
			if u.Key == propDevice || u.Key == propMessage || u.Key == "" {
				t.Errorf("%q gives %q", s, u.Key)
			}
		}
		b := string(appendBag(nil, &p))
		if err := parseBag(b, &again); err != nil && len(b) <= maxBag {
			t.Fatalf("%q → %q: %v", s, b, err)
		}
		if len(b) <= maxBag && (len(again.User) != len(p.User) || again.ContentType != p.ContentType) {
			t.Errorf("%q → %q", s, b)
		}
		if _, err := url.PathUnescape(b); err != nil {
			t.Error(err)
		}
	})
}

// What the dialect adds to a publish: the name of a topic into properties.
func BenchmarkTelemetry(b *testing.B) {
	h := newTestHub(b)
	d := &Device{hub: h, device: "dev1"}
	d.prepare()
	names := [][]byte{
		[]byte("devices/dev1/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8&alert=true&seq=1"),
		[]byte("devices/dev1/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8&alert=true&seq=2"),
	}
	b.Run("same", func(b *testing.B) {
		for b.Loop() {
			d.Publish(names[0], nil, false)
		}
	})
	b.Run("changing", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			d.Publish(names[i&1], nil, false)
		}
	})
}
