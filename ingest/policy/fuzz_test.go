package policy

import (
	"errors"
	"testing"
	"unicode/utf8"
)

func FuzzParse(f *testing.F) {
	for _, v := range vectors(f) {
		for _, p := range v.Policies {
			f.Add(string(p))
		}
	}
	f.Add(`{"Statement":{"Effect":"Deny","NotAction":"iot:*","NotResource":"*","Condition":{"Null":{"a:b":true}}}}`)
	f.Add("{\"Version\":\"2012-10-17\",\"Statement\":[{}]\n}x")
	f.Add(`[[[[[[[[[[[[[[`)
	facts := (&Facts{ClientID: "c"}).Prepare()
	f.Fuzz(func(t *testing.T, doc string) {
		d, err := Parse(doc)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Line < 1 || e.Column < 1 || !utf8.ValidString(e.Detail()) {
				t.Fatalf("%v", err)
			}
			return
		}
		s := Compile(Source{"p", d})
		for _, a := range []string{"iot:Publish", "s3:GetObject"} {
			r := &Request{Action: ActionOf(a), Resource: prefix + "topic/x", Facts: facts}
			if e := s.Explain(r); e.Allowed != s.Decide(r).Allowed {
				t.Fatal("Explain and Decide differ")
			}
		}
	})
}

// model says for each end of s whether the pattern so far takes it up to there.
func model(p, s []rune) bool {
	to := make([]bool, len(s)+1)
	to[0] = true
	for _, c := range p {
		next := make([]bool, len(s)+1)
		for i := range next {
			if c == '*' {
				next[i] = to[i] || i > 0 && next[i-1]
			} else {
				next[i] = i > 0 && to[i-1] && (c == '?' || c == s[i-1])
			}
		}
		to = next
	}
	return to[len(s)]
}

func FuzzMatch(f *testing.F) {
	for _, c := range [][2]string{
		{"a*b?c", "axxbyc"}, {"*a*b*", "xaxbx"}, {"**?", "é"}, {"*??", "€"}, {"a*a*a", "aaa"}, {"", ""}, {"*", ""}, {"?", ""},
		{"*ab*abc", "abababc"}, {"topic/*/a*b/*", "topic/1/aaab/2"}, {"*?*", "a"}, {"*ab?", "aabab"},
	} {
		f.Add(c[0], c[1])
	}
	f.Fuzz(func(t *testing.T, p, s string) {
		if !utf8.ValidString(p) || !utf8.ValidString(s) || len(p) > 200 || len(s) > 400 {
			return
		}
		pat, msg := parsePattern(p, true, false)
		if msg != "" {
			t.Fatal(msg)
		}
		if got, want := pat.match(s, nil), model([]rune(p), []rune(s)); got != want {
			t.Fatalf("%q %q: %v, the model says %v", p, s, got, want)
		}
	})
}
