package timefmt

import (
	"strings"
	"testing"
	"time"
)

func TestFormat(t *testing.T) {
	const newYear, nov = 1514764800000, 1700000000123 // 2018-01-01T00:00:00Z, 2023-11-14T22:13:20.123Z
	for _, c := range []struct {
		pattern string
		ms      int64
		zone    string
		want    string
	}{
		{"yyyy-MM-dd", newYear, "UTC", "2018-01-01"},
		{"y yy yyy yyyyy", newYear, "UTC", "2018 18 2018 02018"},
		{"Y YY C CCC", newYear, "UTC", "2018 18 20 020"},
		{"G", newYear, "UTC", "AD"},
		{"yyyy Y G", -63000000000000, "UTC", "-0027 28 BC"},
		{"x xx w ww e", 1546214400000, "UTC", "2019 19 1 01 1"},
		{"E EEE EEEE", nov, "UTC", "Tue Tue Tuesday"},
		{"D DDD", newYear, "UTC", "1 001"},
		{"M MM MMM MMMM", nov, "UTC", "11 11 Nov November"},
		{"d dd", newYear, "UTC", "1 01"},
		{"h hh H HH k kk K KK a", newYear, "UTC", "12 12 0 00 24 24 0 00 AM"},
		{"h H k K a", nov, "UTC", "10 22 22 10 PM"},
		{"m mm s ss", nov, "UTC", "13 13 20 20"},
		{"S SS SSS SSSSSS", nov, "UTC", "1 12 123 123000"},
		{"z zzzz Z ZZ ZZZ", nov, "UTC", "UTC Coordinated Universal Time +0000 +00:00 UTC"},
		{"z zzzz Z ZZ ZZZ", nov, "America/Los_Angeles", "PST Pacific Standard Time -0800 -08:00 America/Los_Angeles"},
		{"z zzzz", 1688205600000, "Europe/Berlin", "CEST Central European Summer Time"},
		{"HH:mm ZZZ", newYear, "Asia/Kolkata", "05:30 Asia/Kolkata"},
		{"z", newYear, "America/Sao_Paulo", "BRST"},
		{"z zzzz", newYear, "Asia/Yekaterinburg", "+05:00 +05:00"},
		{"HH:mm Z", newYear, "+05:30", "05:30 +0530"},
		{"yyyy.MM.dd G 'at' HH:mm:ss z", 100000000, "America/Belize", "1970.01.01 AD at 21:46:40 CST"},
		{"'it''s' yyyy", newYear, "UTC", "it's 2018"},
		{"yyyy''", newYear, "UTC", "2018'"},
		{"'open", newYear, "UTC", "open"},
		{"yyyy年MM", newYear, "UTC", "2018年01"},
		{"", newYear, "UTC", ""},
	} {
		f, err := CompileFormat(c.pattern)
		if err != nil {
			t.Errorf("%q: %v", c.pattern, err)
			continue
		}
		zone, ok := Zone(c.zone)
		if !ok {
			t.Fatal(c.zone)
		}
		if got, ok := f.Append(nil, c.ms, zone); !ok || string(got) != c.want {
			t.Errorf("%q of %d in %s: %q, want %q", c.pattern, c.ms, c.zone, got, c.want)
		}
	}
	for _, pattern := range []string{"b", "yyyy-mm-ddTHH", "A", "Q", strings.Repeat("y", 41), strings.Repeat("-", maxPattern+1)} {
		if _, err := CompileFormat(pattern); err == nil {
			t.Errorf("%q compiles", pattern)
		}
	}
	f, _ := CompileFormat("yyyy")
	for _, ms := range []int64{maxMillis + 1, -maxMillis - 1} {
		if _, ok := f.Append(nil, ms, time.UTC); ok {
			t.Errorf("%d is formatted", ms)
		}
	}
}

func TestZone(t *testing.T) {
	at := time.Unix(1700000000, 0)
	for name, want := range map[string]int{
		"UTC": 0, "Z": 0, "GMT": 0, "Asia/Tokyo": 9 * 3600, "America/Los_Angeles": -8 * 3600, "EST": -5 * 3600, "CET": 3600,
		"+05:30": 19800, "-0800": -28800, "UTC+2": 7200, "GMT-04:30": -16200, "UT+1": 3600, "+1": 3600, "+01:00:30": 3630, "Etc/GMT+5": -18000,
	} {
		l, ok := Zone(name)
		if !ok {
			t.Errorf("no zone %q", name)
			continue
		}
		if _, got := at.In(l).Zone(); got != want {
			t.Errorf("%q: %d", name, got)
		}
	}
	for _, name := range []string{"", "Local", "local", "Mars/Olympus", "../etc/passwd", "/UTC", "Asia/../UTC", "posix/UTC", "+", "+24:00", "+19", "+01:60", "UTC+x", "Asia", "asia/tokyo", strings.Repeat("A", 99)} {
		if _, ok := Zone(name); ok {
			t.Errorf("zone %q is taken", name)
		}
	}
}

// Every zone with an English name exists.
func TestZoneNames(t *testing.T) {
	for _, n := range zoneNames {
		for _, z := range n.zones {
			if _, ok := Zone(z); !ok {
				t.Errorf("no zone %q", z)
			}
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ pattern, text, want string }{
		{"yyyy-MM-dd", "2024-02-29", "2024-02-29T00:00:00Z"},
		{"dd/MM/yyyy", "29/02/2024", "2024-02-29T00:00:00Z"},
		{"yyyy-MM-dd'T'HH:mm:ssXXX", "2023-07-01T12:00:00+02:00", "2023-07-01T10:00:00Z"},
		{"yyyy-MM-dd'T'HH:mm:ssXXX", "2023-07-01T12:00:00Z", "2023-07-01T12:00:00Z"},
		{"yyyy-MM-dd'T'HH:mm:ssX", "2023-07-01T12:00:00Z", "2023-07-01T12:00:00Z"},
		{"yyyy-MM-dd'T'HH:mm:ssX", "2023-07-01T12:00:00-08", "2023-07-01T20:00:00Z"},
		{"yyyy-MM-dd'T'HH:mm:ssX", "2023-07-01T12:00:00+0530", "2023-07-01T06:30:00Z"},
		{"yyyy-MM-dd'T'HH:mm:ssXX", "2023-07-01T12:00:00+0530", "2023-07-01T06:30:00Z"},
		{"yyyy-MM-dd'T'HH:mm:ssXXXXX", "2023-07-01T12:00:00+00:00:30", "2023-07-01T11:59:30Z"},
		{"yyyy-MM-dd'T'HH:mm:ssxxx", "2023-07-01T12:00:00+00:00", "2023-07-01T12:00:00Z"},
		{"yyyy-MM-dd HH:mm:ss Z", "2023-07-01 12:00:00 -0700", "2023-07-01T19:00:00Z"},
		{"yyyy-MM-dd HH:mm:ss O", "2023-07-01 12:00:00 GMT+8", "2023-07-01T04:00:00Z"},
		{"yyyy-MM-dd HH:mm:ss OOOO", "2023-07-01 12:00:00 GMT+08:00", "2023-07-01T04:00:00Z"},
		{"h:mm a, d MMMM yyyy", "3:07 PM, 5 May 2022", "2022-05-05T15:07:00Z"},
		{"hh a dd.MM.yy", "12 AM 01.02.03", "2003-02-01T00:00:00Z"},
		{"K a dd.MM.yyyy", "0 PM 01.02.2003", "2003-02-01T12:00:00Z"},
		{"k dd.MM.yyyy", "24 01.02.2003", "2003-02-01T00:00:00Z"},
		{"yyyy-MM-dd HH:mm:ss.SSS z", "2022-11-30 06:30:15.250 Asia/Tokyo", "2022-11-29T21:30:15.25Z"},
		{"yyyy-MM-dd HH:mm z", "2022-07-01 12:00 PST", "2022-07-01T19:00:00Z"},
		{"yyyy-MM-dd HH:mm z", "2022-01-01 12:00 CET", "2022-01-01T11:00:00Z"},
		{"yyyy-MM-dd HH:mm zzzz", "2022-01-01 12:00 Japan Standard Time", "2022-01-01T03:00:00Z"},
		{"yyyyMMdd'T'HHmmss", "19991231T235959", "1999-12-31T23:59:59Z"},
		{"yyyyMMddHHmmssSSS", "20200403094518007", "2020-04-03T09:45:18.007Z"},
		{"yyyyDDD", "2024366", "2024-12-31T00:00:00Z"},
		{"MMM dd, yyyy - HH:mm", "Mar 09, 2021 - 17:05", "2021-03-09T17:05:00Z"},
		{"EEE, d MMM yyyy HH:mm:ss", "Tue, 3 Jun 2008 11:05:30", "2008-06-03T11:05:30Z"},
		{"EEEE d MMMM uuuu", "Tuesday 3 June 2008", "2008-06-03T00:00:00Z"},
		{"yyyy-MM-dd HH:mm:ss VV", "2018-06-21 10:20:30 UTC-04:30", "2018-06-21T14:50:30Z"},
		{"yyyy-MM-dd HH:mm:ss VV", "2020-04-03 09:45:18 UTC+01:00", "2020-04-03T08:45:18Z"},
		{"dd MMMM yyyy", "18 December 2015", "2015-12-18T00:00:00Z"},
		{"yyyy-MM-dd HH:mm:ss.SSS z", "2007-12-03 10:15:30.592 America/Los_Angeles", "2007-12-03T18:15:30.592Z"},
		{"yyyy-MM-dd[ HH:mm[:ss]]", "2020-01-02", "2020-01-02T00:00:00Z"},
		{"yyyy-MM-dd[ HH:mm[:ss]]", "2020-01-02 03:04", "2020-01-02T03:04:00Z"},
		{"yyyy-MM-dd[ HH:mm[:ss]]", "2020-01-02 03:04:05", "2020-01-02T03:04:05Z"},
		{"yyyy-MM-dd HH:mm", "2020-01-02 24:00", "2020-01-03T00:00:00Z"},
		{"yyyy-MM-dd", "2023-02-31", "2023-02-28T00:00:00Z"},
		{"yyyy-MM-dd HH", "2023-02-03 07", "2023-02-03T07:00:00Z"},
		{"YYYY-ww-e", "2019-01-1", "2018-12-30T00:00:00Z"},
		{"YYYYwwe", "2019011", "2018-12-30T00:00:00Z"},
		{"yyyy-MM-W-dd", "2020-01-1-02", "2020-01-02T00:00:00Z"},
		{"hh:mm a dd.MM.yyyy", "00:10 AM 01.02.2003", "2003-02-01T00:10:00Z"},
		{"yyyy-MM-dd HHz", "2020-01-02 03CET", "2020-01-02T02:00:00Z"},
		{"VVyyyy-MM-dd", "Europe/Paris2020-01-02", "2020-01-01T23:00:00Z"},
		{"yyyy-MM-dd[ XX]", "2020-01-02 +0130", "2020-01-01T22:30:00Z"},
		{"yyyy-MM-dd A", "2020-01-02 1500", "2020-01-02T00:00:01.5Z"},
		{"yyyy-MM-dd N", "2020-01-02 1500000000", "2020-01-02T00:00:01.5Z"},
		{"yyyy-MM-dd HH:mm:ss.n", "2020-01-02 00:00:01.500000000", "2020-01-02T00:00:01.5Z"},
		{"uuuu-MM-dd", "-0001-01-01", "-0001-01-01T00:00:00Z"},
		{"yyyy G-MM-dd", "0002 BC-01-01", "-0001-01-01T00:00:00Z"},
		{"yyyy-MM-dd ppH:mm", "2020-01-02  3:04", "2020-01-02T03:04:00Z"},
		{"yyyy-QQQ-MM-dd", "2020-Q1-01-02", "2020-01-02T00:00:00Z"},
		{"yyyy-MM-dd HH:mm VV", "2021-03-14 02:30 America/New_York", "2021-03-14T07:30:00Z"},
		{"yyyy-MM-dd HH:mm VV", "2021-11-07 01:30 America/New_York", "2021-11-07T05:30:00Z"},
		{"yyyy-MM-dd HH:mm '['VV']'", "2021-01-07 01:30 [Europe/Paris]", "2021-01-07T00:30:00Z"},
	} {
		p, err := CompileParse(c.pattern)
		if err != nil {
			t.Errorf("%q: %v", c.pattern, err)
			continue
		}
		ms, ok := p.Millis(c.text)
		if got := time.UnixMilli(ms).UTC().Format(time.RFC3339Nano); !ok || got != c.want {
			t.Errorf("%q by %q: %s %v, want %s", c.text, c.pattern, got, ok, c.want)
		}
	}
	for _, c := range []struct{ pattern, text string }{
		{"yyyy-MM-dd", "soon"}, {"yyyy-MM-dd", "2020-1-2"}, {"yyyy-MM-dd", "2020-01-02 "}, {"yyyy-MM-dd", "2020-13-01"}, {"yyyy-MM-dd", "2020-00-01"},
		{"yyyy-MM-dd", "2020-01-32"}, {"yyyy-MM-dd", ""}, {"yyyy-MM-dd", "0000-01-01"}, {"yyyy-MM-dd", "12020-01-01"}, {"yyyy", "2020"}, {"yyyy-MM", "2020-01"},
		{"HH:mm", "12:00"}, {"yyyy-MM-dd hh:mm", "2020-01-01 03:00"}, {"yyyy-MM-dd HH:mm", "2020-01-01 25:00"}, {"yyyy-MM-dd HH:mm", "2020-01-01 24:01"},
		{"yyyy-MM-dd h a", "2020-01-01 13 PM"}, {"yyyy-MM-dd h a", "2020-01-01 1 pm"}, {"EEE yyyy-MM-dd", "Mon 2020-01-01"}, {"yyyy-MM-dd VV", "2020-01-01 Mars/Olympus"},
		{"MMM d yyyy", "mar 1 2020"}, {"yyyy-DDD", "2023-366"}, {"yyyy-MM-dd X", "2020-01-01 +19"}, {"yyyy-MM-dd XXX", "2020-01-01 +0100"}, {"yyyy-MM-dd MM", "2020-01-01 02"},
		{"yyyy-MM-dd mm", "2020-01-01 02"}, {"yyyy-MM-dd OOOO", "2020-01-01 GMT+0900"}, {"yyyy-MM-dd z", "2020-01-01 -0:00"}, {"yyyy-MM-dd VV", "2020-01-01 UTC+1"}, {"yyyy-MM-dd x", "2020-01-01 +0030"}, {"yyyyyyyyyy-MM-dd", "9999999999-01-01"}, {"yyyy-MM-dd", "2020-01-0\u0661"},
	} {
		p, err := CompileParse(c.pattern)
		if err != nil {
			t.Errorf("%q: %v", c.pattern, err)
			continue
		}
		if ms, ok := p.Millis(c.text); ok {
			t.Errorf("%q by %q: %d", c.text, c.pattern, ms)
		}
	}
	for _, pattern := range []string{"'", "yyyy'", "b", "yyyy-MM-ddTHH", "]", "{", "}", "#", "V", "VVV", "ddd", "HHH", "MMMMM", "MMMMMM", "EEEEE", "cc", "aa", "zzzzz", "ZZZZZZ", "XXXXXX", "OO", "GGGGGG", "p", "p-", "DDDD", "SSSSSSSSSS", strings.Repeat("[", 30), strings.Repeat("-", maxPattern+1)} {
		if _, err := CompileParse(pattern); err == nil {
			t.Errorf("%q compiles", pattern)
		}
	}
}

// What a format writes with all of a date, a parse of the same letters reads.
func TestRoundTrip(t *testing.T) {
	for _, pattern := range []string{"yyyy-MM-dd'T'HH:mm:ss.SSSZ", "yyyyMMddHHmmssSSSZ", "EEEE, d MMMM yyyy h:mm:ss.SSS a Z", "MMM d yyyy k:m:s.SSS Z", "yyyy-DDD K a mm:ss.SSS Z"} {
		f, err := CompileFormat(pattern)
		if err != nil {
			t.Fatal(err)
		}
		p, err := CompileParse(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"UTC", "Asia/Kolkata", "America/New_York", "Australia/Lord_Howe"} {
			zone, _ := Zone(name)
			for ms := int64(-60_000_000_000_000); ms < 200_000_000_000_000; ms += 1_234_567_891_011 {
				if _, offset := time.UnixMilli(ms).In(zone).Zone(); offset%60 != 0 {
					continue // the letters have no seconds of an offset
				}
				text, ok := f.Append(nil, ms, zone)
				if !ok {
					t.Fatal(ms)
				}
				if got, ok := p.Millis(string(text)); !ok || got != ms {
					t.Fatalf("%q by %q: %d %v, want %d", text, pattern, got, ok, ms)
				}
			}
		}
	}
}

func FuzzFormat(f *testing.F) {
	for _, s := range []string{"yyyy-MM-dd'T'HH:mm:ss.SSSZZ", "GCYxwedEyDMahHkKmsSzZ", "'", "''", "zzzz ZZZ", "é"} {
		f.Add(s, int64(1700000000123), "America/New_York")
	}
	f.Fuzz(func(t *testing.T, pattern string, ms int64, name string) {
		c, err := CompileFormat(pattern)
		if err != nil {
			return
		}
		zone, ok := Zone(name)
		if !ok {
			zone = time.UTC
		}
		if out, ok := c.Append(nil, ms, zone); ok && len(out) > 60*len(pattern) {
			t.Errorf("%d bytes of %d", len(out), len(pattern))
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range [][2]string{{"yyyy-MM-dd[ HH:mm[:ss]]", "2020-01-02 03:04"}, {"yyyyMMddHHmmssSSSX", "20200102030405006Z"}, {"EEE d MMM uuuu zzzz", "Tue 3 Jun 2008 Japan Standard Time"}, {"YYYY-ww-e VV", "2019-01-1 UTC+1"}, {"ppppHNnA", "1"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		p, err := CompileParse(pattern)
		if err != nil {
			return
		}
		first, ok := p.Millis(text)
		if again, ok2 := p.Millis(text); again != first || ok != ok2 {
			t.Errorf("%d, then %d", first, again)
		}
	})
}

func BenchmarkFormat(b *testing.B) {
	f, _ := CompileFormat("yyyy-MM-dd'T'HH:mm:ss.SSSZZ")
	zone, _ := Zone("Europe/Berlin")
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = f.Append(buf[:0], 1700000000123, zone)
	}
}

func BenchmarkParse(b *testing.B) {
	p, _ := CompileParse("yyyy-MM-dd'T'HH:mm:ss.SSSXXX")
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := p.Millis("2023-07-01T12:00:00.123+02:00"); !ok {
			b.Fatal()
		}
	}
}
