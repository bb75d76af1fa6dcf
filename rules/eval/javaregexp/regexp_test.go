package javaregexp

import (
	"fmt"
	"math/rand"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// The expectations are what java.util.regex gives.
func TestFindFirst(t *testing.T) {
	for _, c := range []struct{ pattern, text, want string }{
		{`a`, "bab", "a"},
		{`foo(?=bar)`, "foobaz foobar", "foo"},
		{`foo(?!bar)\w`, "foobar foobaz", "foob"},
		{`foo(?!bar)`, "foobar foobaz", "foo"},
		{`(?<=\$)\d+`, "costs $42", "42"},
		{`(?<!\$)\b\d+`, "$42 17", "17"},
		{`(?<=a{1,3})b`, "aaab", "b"},
		{`(?<=(?:ab|c))d`, "abd", "d"},
		{`(?<=a*)b`, "aab", "b"},
		{`(\w)\1`, "hello", "ll"},
		{`(?<q>['"]).*?\k<q>`, `say "it's" now`, `"it's"`},
		{`(?i)(ab)\1`, "abAB", "abAB"},
		{`a++a`, "aaa", ""},
		{`a*+b`, "aaab", "aaab"},
		{`(?>a|ab)c`, "abc", ""},
		{`(a|ab)(c|bcd)`, "abcd", "abcd"},
		{`<.+?>`, "<a><b>", "<a>"},
		{`[a-z&&[^aeiou]]+`, "aeiouxyz", "xyz"},
		{`[a-z&&[def]]`, "abcd", "d"},
		{`[a-d[m-p]]+`, "xmnab", "mnab"},
		{`[^a-c&&[a-z]]`, "abcd!", "d"},
		{`[]a]+`, "x]a]", "]a]"},
		{`[a-]+`, "x-a", "-a"},
		{`[-a]+`, "x-a", "-a"},
		{`[\w.-]+`, "!a-b.c!", "a-b.c"},
		{`[&a]+`, "x&a", "&a"},
		{`\p{Alpha}+`, "12ab3", "ab"},
		{`\p{L}+`, "12zür3", "zür"},
		{`\pL+`, "1é", "é"},
		{`\P{L}+`, "ab12", "12"},
		{`\p{IsGreek}+`, "abγδ", "γδ"},
		{`\p{InCyrillic}+`, "abжд", "жд"},
		{`[\p{Lu}\d]+`, "abAB12", "AB12"},
		{`\p{Punct}`, "a$b", "$"},
		{`\Qa.b\E+`, "axb a.bb", "a.bb"},
		{`[\Q^]\E]+`, "a^]", "^]"},
		{`(?x) a \s b # comment`, "a b", "a b"},
		{`(?i)straße`, "STRAßE", "STRAßE"},
		{`(?i)é`, "É", ""},
		{`(?iu)é`, "É", "É"},
		{`a(?i)b`, "aB", "aB"},
		{`a(?i:b)c`, "aBC", ""},
		{`(?s)a.b`, "a\nb", "a\nb"},
		{`a.b`, "a\nb", ""},
		{`a.b`, "a\u0085b", ""},
		{`(?d)a.b`, "a\rb", "a\rb"},
		{`a$`, "a\n", "a"},
		{`a$`, "a\r\n", "a"},
		{`a$`, "a\n\n", ""},
		{`a\Z`, "a\u2028", "a"},
		{`a\z`, "a\n", ""},
		{`(?m)^b$`, "a\nb\nc", "b"},
		{`(?m)a$`, "a\r\nb", "a"},
		{`\bw\w+`, "ow wow", "wow"},
		{`\Bw`, "w ow", "w"},
		{`\d+`, "٣٤5", "5"},
		{`(?i)\p{Lu}+`, "1aB", "aB"},
		{`(?i)\P{Lu}+`, "aB1", "1"},
		{`(?i)\p{Lower}+`, "1aB", "aB"},
		{`(?U)\d+`, "x٣٤5", "٣٤5"},
		{`\h+`, "a\u00a0\tb", "\u00a0\t"},
		{`\R`, "a\r\nb", "\r\n"},
		{`\x41\u0042\x{43}\0104`, "ABCD", "ABCD"},
		{`\ud83d\ude00`, "x😀", "😀"},
		{`.`, "😀", "😀"},
		{`(a*)*b`, "aab", "aab"},
		{`(a|b)*?c`, "abc", "abc"},
		{`(?:a?){3}a{3}`, "aaa", "aaa"},
		{`x{2}`, "xxx", "xx"},
		{`x{2,}`, "xxx", "xxx"},
		{`x{0}y`, "xy", "y"},
		{`(ab){2,3}`, "abababab", "ababab"},
		{`(ab){2,3}?`, "abababab", "abab"},
		{`a|`, "b", ""},
		{`\cA`, "\x01", "\x01"},
		{`\e\t\a\f`, "\x1b\t\a\f", "\x1b\t\a\f"},
		{`}]`, "a}]", "}]"},
		{`\-\_\/`, "-_/", "-_/"},
		{`(?:(a)|b)*\1`, "aba", "ab" + "a"},
		{`(\d+)-\11`, "12-121", "12-121"},
		{`^\d{3}-\d{4}$`, "555-1234", "555-1234"},
		{`(?<year>\d{4})`, "in 2024", "2024"},
	} {
		re, err := Compile(c.pattern)
		if err != nil {
			t.Errorf("%q: %v", c.pattern, err)
			continue
		}
		from, to, ok, err := re.FindFirst(c.text, nil)
		if err != nil {
			t.Errorf("%q on %q: %v", c.pattern, c.text, err)
			continue
		}
		if got := c.text[from:to]; got != c.want || ok != (c.want != "" || c.pattern == `a|`) {
			t.Errorf("%q on %q: %q %v, want %q", c.pattern, c.text, got, ok, c.want)
		}
	}
}

func TestSyntaxErrors(t *testing.T) {
	for _, pattern := range []string{
		`(`, `)`, `a)`, `[`, `[a`, `[]`, `[^]`, `*`, `+a`, `?`, `a**`, `a{`, `a{x}`, `a{2`, `a{2,1}`, `a{,2}`, `\`, `[\]`, `(?<n>a)(?<n>b)`,
		`(?<1>a)`, `(?<n`, `\k<n>`, `\kn`, `(?z)`, `(?`, `(?i`, `\y`, `\p`, `\p{`, `\p{Nope}`, `\p{InNope}`, `[b-a]`, `[a&&`,
		`\x1`, `\x{110000}`, `\u12`, `\08`, `\c`, `(?<=(?:ab)*)b`, `(?<=(a)\1)b`, `\X`, `\b{g}`, `\N{LATIN SMALL LETTER A}`,
		"\xff", strings.Repeat("(", 300) + strings.Repeat(")", 300), strings.Repeat("[a", 300), strings.Repeat("a", maxPattern+1),
		strings.Repeat("()", maxGroups+1), strings.Repeat(`[\p{L}\p{M}]`, 400), `a{99999999999}`,
	} {
		if _, err := Compile(pattern); err == nil {
			t.Errorf("%.60q compiles", pattern)
		} else if _, ok := err.(*SyntaxError); !ok {
			t.Errorf("%.60q: %T", pattern, err)
		}
	}
}

func TestReplaceAll(t *testing.T) {
	for _, c := range []struct{ pattern, text, repl, want string }{
		{`bc`, "abcd", "x", "axd"},
		{`b(.*)d`, "abcd", "$1", "ac"},
		{`(?<a>.)(.)`, "abcd", "$2${a}", "badc"},
		{`(.)`, "ab", `\$1`, "$1$1"},
		{`(.)`, "ab", `\\`, `\\`},
		{`(a)`, "a", "$12", "a2"},
		{`a*`, "aab", "x", "xxbx"},
		{`x*`, "é", "-", "-é-"},
		{``, "ab", ".", ".a.b."},
		{`(a)|b`, "ab", "[$1]", "[a][]"},
		{`^a`, "aaa", "b", "baa"},
		{`\Ga`, "aab", "x", "xxb"},
		{`$`, "a\n", "!", "a!\n!"},
		{`[aeiou]`, "sensor", "*", "s*ns*r"},
		{`(?m)^`, "a\nb\n", ">", ">a\n>b\n"},
	} {
		re, err := Compile(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		got, err := re.ReplaceAll(c.text, c.repl, 1000, nil)
		if err != nil || got != c.want {
			t.Errorf("%q on %q by %q: %q %v, want %q", c.pattern, c.text, c.repl, got, err, c.want)
		}
	}
	re, _ := Compile(`(?<a>b)`)
	for _, repl := range []string{`$`, `\`, `$2`, `$x`, `${b}`, `${a`, `${}`, `${1}`, `a$`} {
		if _, err := re.ReplaceAll("abc", repl, 1000, nil); err == nil {
			t.Errorf("replacement %q is taken", repl)
		}
	}
	if _, err := re.ReplaceAll(strings.Repeat("b", 100), "0123456789", 999, nil); err != ErrTooLong {
		t.Errorf("999 bytes: %v", err)
	}
	if _, err := re.ReplaceAll(strings.Repeat("b", 100), "0123456789", 1000, nil); err != nil {
		t.Errorf("1000 bytes: %v", err)
	}
}

// A pattern that backtracks without end is answered by RE2 where it can be, and
// given up where not: both soon.
func TestCatastrophicPatternsEnd(t *testing.T) {
	as := strings.Repeat("a", 5000)
	for _, c := range []struct {
		pattern, text string
		limit         bool
	}{
		{`(a+)+$`, strings.Repeat("a", 40) + "!", false},
		{`(a|aa)+$`, as[:200] + "!", false},
		{`(x+x+)+y`, strings.Repeat("x", 200), false},
		{`(.*)*=`, as[:100], true},
		{`(a+)+(?=b)`, as, true},
		{`(a*)*\1b`, as, true},
		{`(?:a?){200}a{200}`, as[:199], true},
		{`(?<=a{1,1000})b|(a+)+c`, as, true},
		{`((a{1,100}){1,100}){1,100}b`, as, true},
		{`.*.*.*.*=(?!x)`, as, true},
		{`(?:(?=(a+))a*b)+`, as, true},
		{`(.)(.)(.)(.)(.)\5\4\3\2\1x|(a|a)*b`, as, true},
	} {
		re, err := Compile(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			begin := time.Now()
			ok, err := re.Match(c.text, nil)
			if d := time.Since(begin); d > 500*time.Millisecond {
				t.Errorf("%q: %v", c.pattern, d)
			}
			if (err == ErrLimit) != c.limit || ok {
				t.Errorf("%q: %v %v, want the limit: %v", c.pattern, ok, err, c.limit)
			}
			begin = time.Now()
			if _, err := re.ReplaceAll(c.text, "x", 1<<20, nil); c.limit && err == nil {
				t.Errorf("%q: replaced", c.pattern)
			}
			if d := time.Since(begin); d > 500*time.Millisecond {
				t.Errorf("replacing %q: %v", c.pattern, d)
			}
		}
	}
}

// randomPattern writes a pattern that means the same to Java and to Go.
func randomPattern(r *rand.Rand, depth int) string {
	atoms := []string{"a", "b", "c", "ab", "[ab]", "[^a]", `\d`, `\w`, `\s`, "é", `(?:\b)`, "^", "1"}
	quantifiers := []string{"", "", "", "*", "+", "?", "{2}", "{1,2}", "{0,3}", "*?", "+?", "??", "{1,3}?", "{2,}"}
	var b strings.Builder
	for range 1 + r.Intn(3) {
		if depth > 0 && r.Intn(3) == 0 {
			open := []string{"(", "(?:"}[r.Intn(2)]
			body := randomPattern(r, depth-1)
			for r.Intn(3) == 0 {
				body += "|" + randomPattern(r, depth-1)
			}
			b.WriteString(open + body + ")")
		} else {
			b.WriteString(atoms[r.Intn(len(atoms))])
		}
		b.WriteString(quantifiers[r.Intn(len(quantifiers))])
	}
	return b.String()
}

func TestAgreesWithGo(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	compared, gave := 0, 0
	for range 20000 {
		pattern := randomPattern(r, 2)
		re, err := Compile(pattern)
		if err != nil {
			t.Fatalf("%q: %v", pattern, err)
		}
		w := re2Text{ok: true}
		w.write(re.root)
		if !w.ok {
			continue // an empty turn of a loop
		}
		lin := regexp.MustCompile(w.b.String())
		var text strings.Builder
		for range r.Intn(12) {
			text.WriteString([]string{"a", "b", "c", "é", "1", " ", "_"}[r.Intn(7)])
		}
		want := lin.FindStringSubmatchIndex(text.String())
		plain := regexp.MustCompile(pattern).FindStringSubmatchIndex(text.String())
		m := newMatcher(re.prog, text.String(), maxSteps)
		o := m.find(0)
		var got []int
		if o == matched {
			for _, c := range m.caps {
				got = append(got, int(c))
			}
		}
		m.free()
		if o == gaveUp {
			gave++
			continue
		}
		compared++
		if fmt.Sprint(got) != fmt.Sprint(want) || fmt.Sprint(got) != fmt.Sprint(plain) {
			t.Fatalf("%q on %q: %v, Go %v, translated %v", pattern, text.String(), got, plain, want)
		}
	}
	if compared < 5000 || gave > 20 {
		t.Errorf("only %d compared, %d given up", compared, gave)
	}
}

// Calls share a budget: the later ones are given up sooner, and what is left is
// the same whenever the same calls are made.
func TestBudget(t *testing.T) {
	re, _ := Compile(`(a+)+(?=b)`)
	easy, _ := Compile(`b$`)
	spend := func() (hits int, left int) {
		b := &Budget{Steps: 1_000_000}
		for range 20 {
			begin := time.Now()
			if _, err := re.Match(strings.Repeat("a", 100), b); err == ErrLimit {
				hits++
			}
			if hits > 5 && time.Since(begin) > 100*time.Millisecond {
				t.Error("a call without budget took long")
			}
		}
		return hits, b.Steps
	}
	hits, left := spend()
	if again, l := spend(); again != hits || l != left || hits != 20 || left > 100 {
		t.Errorf("%d hits, %d left; then %d, %d", hits, left, again, l)
	}
	b := &Budget{Steps: 100}
	if ok, err := easy.Match("ab", b); !ok || err != nil || b.Steps >= 100 || b.Steps < 50 {
		t.Errorf("%v %v, %d left", ok, err, b.Steps)
	}
	if _, err := easy.Match("ab", &Budget{}); err != ErrLimit {
		t.Errorf("without any budget: %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	re, _ := Compile(`(\w+)-(\d+)(?=;)`)
	slow, _ := Compile(`(a+)+$`)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 50 {
				text := fmt.Sprintf("unit-%d;", i)
				if got, err := re.ReplaceAll(text, "$2-$1", 100, nil); err != nil || got != fmt.Sprintf("%d-unit;", i) {
					t.Errorf("%q %v", got, err)
				}
				if ok, err := slow.Match(strings.Repeat("a", 30)+"!", nil); ok || err != nil {
					t.Error(ok, err)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzRegexp(f *testing.F) {
	for _, s := range [][3]string{
		{`(a+)+$`, "aaaa!", "$1"}, {`(?<=a)b|\1(c)`, "abc", "${x}"}, {`[a-z&&[^b]]\Q.\E`, "c.", `\$`},
		{`(?imsx-d:a #\n)`, "A", "$0"}, {`\p{L}++\R?`, "é\r\n", ""}, {`(?:){3}{2}`, "", "x"}, {`(?<n>a*)*\k<n>`, "aa\xff", "$1"},
		{`\ud83d\ude00|\0377|\cA`, "\xed\xa0\x80", "$"},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, pattern, text, repl string) {
		begin := time.Now()
		re, err := Compile(pattern)
		if err != nil {
			return
		}
		if d := time.Since(begin); d > time.Second {
			t.Errorf("Compile took %v", d)
		}
		begin = time.Now()
		from, to, ok, err := re.FindFirst(text, nil)
		if err == nil && ok && (from < 0 || to < from || to > len(text)) {
			t.Errorf("bounds %d, %d of %d", from, to, len(text))
		}
		out, err := re.ReplaceAll(text, repl, 4*len(text)+100, nil)
		if err == nil && !ok && out != text {
			t.Errorf("replaced %q without a match", out)
		}
		if d := time.Since(begin); d > time.Second {
			t.Errorf("took %v", d)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	for _, c := range []struct{ name, pattern, text string }{
		{"anchored", `^1.*5$`, "12345"},
		{"digits", `[0-9]+`, "unit-204b-77"},
		{"alternation", `(red|blue)-(on|off)`, "lamp blue-off"},
		{"lookahead", `foo(?=bar)`, "foobar"},
		{"email", `^[\w.+-]+@[\w-]+\.[\w.]+$`, "someone@example.com"},
	} {
		re, err := Compile(c.pattern)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if ok, _ := re.Match(c.text, nil); !ok {
					b.Fatal("no match")
				}
			}
		})
	}
}

func BenchmarkGivenUp(b *testing.B) {
	text := strings.Repeat("a", 5000)
	for _, pattern := range []string{`(a+)+(?=b)`, `(?:a|a)*+(?=b)|(?:a?){500}c`, `(?:(a)|b)*(?=c)`, `.*.*.*=(?=x)`, `(\w+)\1+x`} {
		re, err := Compile(pattern)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(pattern, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := re.Match(text, nil); err != ErrLimit {
					b.Fatal(err)
				}
			}
		})
	}
}

// The worst RE2 may cost.
func BenchmarkLinear(b *testing.B) {
	for _, c := range []struct{ pattern, text string }{
		{`(x+x+)+y`, strings.Repeat("x", 5000)},
		{`(?:a|aa|aaa){1,20}b`, strings.Repeat("a", 800)},
	} {
		re, _ := Compile(c.pattern)
		b.Run(c.pattern, func(b *testing.B) {
			for b.Loop() {
				if ok, err := re.Match(c.text, nil); ok || err != nil {
					b.Fatal(ok, err)
				}
			}
			b.ReportMetric(float64(re.re2Size*len(c.text)), "work")
		})
	}
}
