package topic

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

func TestParseName(t *testing.T) {
	aws := Limits{Bytes: 256, Slashes: 7}
	for _, c := range []struct {
		in  string
		lim Limits
		err string
	}{
		{"a/b", aws, ""},
		{"/", aws, ""},
		{"$aws/rules/r/a/b/c/d/e/f/g/h", aws, ""}, // the prefix is not counted
		{"", aws, "empty"},
		{"a/+/b", aws, `'+' at byte 3`},
		{"a/b#", aws, `'#' at byte 4`},
		{"a\x00b", aws, "U+0000"},
		{"a\nb", aws, "U+000A"},
		{"\xff", aws, "UTF-8"},
		{"\xed\xa0\x80", aws, "UTF-8"}, // a surrogate
		{"1/2/3/4/5/6/7/8/9", aws, "8 slashes"},
		{strings.Repeat("x", 257), aws, "257 bytes"},
		{strings.Repeat("x", MaxBytes), Limits{}, ""},
		{strings.Repeat("x", MaxBytes+1), Limits{}, "1025 bytes"},
	} {
		_, err := ParseName(c.in, c.lim)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("ParseName(%q): error %v, want %q", c.in, err, c.err)
		}
	}
}

func TestParseFilter(t *testing.T) {
	for in, want := range map[string]string{
		"#": "", "+": "", "a/#": "", "+/+/#": "", "/+": "", "a//b": "",
		"a/#/b": "last level", "#/a": "last level", "a+/b": "stand alone", "##": "stand alone", "": "empty", "a/b#": "stand alone",
	} {
		_, err := ParseFilter(in, Limits{})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("ParseFilter(%q): error %v, want %q", in, err, want)
		}
	}
}

func TestParseShare(t *testing.T) {
	for _, c := range []struct {
		in, group, filter string
		ok, fails         bool
	}{
		{"a/b", "", "a/b", false, false},
		{"$share/g/a/#", "g", "a/#", true, false},
		{"$share/g//", "g", "/", true, false},
		{"$SHARE/g/a", "", "$SHARE/g/a", false, false},
		{"$share//a", "", "", true, true},
		{"$share/+/a", "", "", true, true},
		{"$share/g", "", "", true, true},
		{"$share/g/", "", "", true, true},
		{"$share", "", "", true, true},
	} {
		g, f, ok, err := ParseShare(c.in)
		if g != c.group && !c.fails || f != c.filter && !c.fails || ok != c.ok || (err != nil) != c.fails {
			t.Errorf("ParseShare(%q) = %q, %q, %v, %v", c.in, g, f, ok, err)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		f             Filter
		n             Name
		standard, aws bool
	}{
		{"a/b", "a/b", true, true},
		{"a/#", "a", true, false},
		{"a/#", "a/", true, true},
		{"a/#", "a/b/c", true, true},
		{"+/#", "a", true, false},
		{"a/+/#", "a/b", true, false},
		{"#", "a", true, true},
		{"#", "$aws/x", false, false},
		{"+/x", "$aws/x", false, false},
		{"$aws/#", "$aws/x", true, true},
		{"$aws/+", "$aws/x", true, true},
		{"+", "/", false, false},
		{"+/+", "/", true, true},
		{"a/+", "a", false, false},
		{"a/+", "a/", true, true},
		{"a/+/c", "a/b/d", false, false},
	} {
		for m, want := range map[Mode]bool{Standard: c.standard, AWS: c.aws} {
			if got := Match(c.f, c.n, m); got != want {
				t.Errorf("Match(%q, %q, %d) = %v", c.f, c.n, m, got)
			}
		}
	}
}

func TestName(t *testing.T) {
	if r, rest, ok := Name("$aws/rules/r1/a/b").Rule(); r != "r1" || rest != "a/b" || !ok {
		t.Error("Rule of a Basic Ingest topic:", r, rest, ok)
	}
	if r, rest, ok := Name("$aws/rules/r1").Rule(); r != "r1" || rest != "" || !ok {
		t.Error("Rule without a topic behind it:", r, rest, ok)
	}
	if _, _, ok := Name("$aws/rules/").Rule(); ok {
		t.Error("a rule without a name")
	}
	if th, ok := Name("$aws/things/t1/shadow/get").Thing(); th != "t1" || !ok {
		t.Error("Thing:", th, ok)
	}
	if _, ok := Name("$aws/things/t1").Thing(); ok {
		t.Error("a thing without a level below it")
	}
	if l, ok := Name("a//c").Level(2); l != "" || !ok {
		t.Error("empty level:", l, ok)
	}
	for _, i := range []int{-1, 0, 4, 1 << 30} {
		if _, ok := Name("a/b/c").Level(i); ok {
			t.Error("level", i)
		}
	}
}

var alphabet = []string{"a", "b", "", ".", " ", "*", ">", "=", "=2E", "$x", "a.b", "é", "*>", "$share", "m", "s"}

func randomPair(r *rand.Rand) (Name, Filter) {
	var ns, fs []string
	for range 1 + r.IntN(4) {
		ns = append(ns, alphabet[r.IntN(len(alphabet))])
	}
	k := 1 + r.IntN(4)
	for i := range k {
		switch x := r.IntN(6); {
		case x == 0:
			fs = append(fs, "+")
		case x == 1 && i == k-1:
			fs = append(fs, "#")
		case i < len(ns) && x < 5:
			fs = append(fs, ns[i])
		default:
			fs = append(fs, alphabet[r.IntN(len(alphabet))])
		}
	}
	return Name(strings.Join(ns, "/")), Filter(strings.Join(fs, "/"))
}

// The mapping is held against NATS's own idea of a subject and of a match, and
// the trie against Match.
func TestSubjectsAndTrieAgreeWithMatch(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	seen := map[string]Name{}
	tries := map[Mode]*Trie[Filter]{Standard: NewTrie[Filter](Standard), AWS: NewTrie[Filter](AWS)}
	var filters []Filter
	hits := 0
	for i := range 100_000 {
		n, f := randomPair(r)
		if n == "" || f == "" {
			continue
		}
		s := string(AppendSubject(nil, n))
		if !server.IsValidLiteralSubject(s) {
			t.Fatalf("%q → %q is no literal subject", n, s)
		}
		if b, err := ParseSubject(s); err != nil || b != n {
			t.Fatalf("%q → %q → %q, %v", n, s, b, err)
		}
		if o, ok := seen[s]; ok && o != n {
			t.Fatalf("%q and %q share the subject %q", n, o, s)
		}
		seen[s] = n
		for m, trie := range tries {
			matched := 0
			for _, x := range FilterSubjects(f, m) {
				if !server.IsValidSubject(x) {
					t.Fatalf("filter %q → %q is no subject", f, x)
				}
				if server.SubjectsCollide(s, x) {
					matched++
				}
			}
			want := Match(f, n, m)
			if matched > 1 || (matched == 1) != want {
				t.Fatalf("filter %q, name %q, mode %d: Match %v, subjects %d", f, n, m, want, matched)
			}
			hits += matched
			if i < 300 && trie.Add(f, f) && m == Standard {
				filters = append(filters, f)
			}
			if i%50 == 0 {
				got := trie.Match(n, nil)
				var all []Filter
				for _, f := range filters {
					if Match(f, n, m) {
						all = append(all, f)
					}
				}
				slices.Sort(got)
				slices.Sort(all)
				if i >= 300 && !slices.Equal(got, all) {
					t.Fatalf("trie mode %d on %q: %q, want %q", m, n, got, all)
				}
			}
		}
	}
	if hits < 1000 {
		t.Errorf("only %d matches: the test proves little", hits)
	}
	for m, trie := range tries {
		for _, f := range filters {
			if !trie.Remove(f, f) || trie.Remove(f, f) {
				t.Fatalf("Remove(%q)", f)
			}
		}
		if trie.Len() != 0 || !trie.root.empty() {
			t.Errorf("mode %d: %d pairs are left after removing all", m, trie.Len())
		}
	}
}

func FuzzSubject(f *testing.F) {
	for _, s := range []string{"a/b.c//d", "$aws/things/x/shadow/get", "a b/*/>", "=2E/=", "é/\u00a0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseSubject(s); err == nil {
			if back := string(AppendSubject(nil, n)); back != s {
				t.Fatalf("subject %q → name %q → subject %q", s, n, back)
			}
		}
		n, err := ParseName(s, Limits{})
		if err != nil {
			return
		}
		subject := string(AppendSubject(nil, n))
		if len(subject) > 3*MaxBytes+400 || !server.IsValidLiteralSubject(subject) {
			t.Fatalf("%q → %q", s, subject)
		}
		if back, err := ParseSubject(subject); err != nil || back != n {
			t.Fatalf("%q → %q → %q, %v", s, subject, back, err)
		}
	})
}

func FuzzMatch(f *testing.F) {
	f.Add("a/+/#", "a/b")
	f.Fuzz(func(t *testing.T, fs, ns string) {
		filter, err := ParseFilter(fs, Limits{})
		name, err2 := ParseName(ns, Limits{})
		if err != nil || err2 != nil {
			return
		}
		for _, m := range []Mode{Standard, AWS} {
			trie := NewTrie[int](m)
			trie.Add(filter, 1)
			if got, want := len(trie.Match(name, nil)) == 1, Match(filter, name, m); got != want {
				t.Fatalf("filter %q, name %q, mode %d: trie %v, Match %v", filter, name, m, got, want)
			}
		}
	})
}

func BenchmarkTrie1000Filters(b *testing.B) {
	trie := NewTrie[int](AWS)
	for i := range 1000 {
		trie.Add(Filter("factory/"+string(rune('a'+i%26))+strings.Repeat("x", i/26)+"/device/+/telemetry"), i)
	}
	out := make([]int, 0, 16)
	b.ReportAllocs()
	for b.Loop() {
		out = trie.Match("factory/cxxx/device/17/telemetry", out[:0])
	}
	if len(out) != 1 {
		b.Fatal(out)
	}
}

func BenchmarkAppendSubject(b *testing.B) {
	buf := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendSubject(buf[:0], "factory/7/device/412/telemetry")
	}
}
