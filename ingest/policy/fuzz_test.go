package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
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

// Bound to any beginning of the resource, statements say what they say of the
// whole.
func FuzzBind(f *testing.F) {
	for _, c := range []struct{ allow, deny, resource string }{
		{"t:*", "t:${iot:ClientId}/?", "t:c/x"}, {"*x*y", "t:*x", "t:axby"}, {"${iot:Nothing, ''}${iot:ClientId}*", "*${iot:Nothing}*", "c/d"},
		{"t:?b?", "*c", "t:abc"}, {"**a**", "?", "aa"}, {"t:${aws:EpochTime}", "t:0", "t:1"}, {"a${iot:ClientId}b", "", "acb"},
	} {
		for n := range 16 {
			f.Add(c.allow, c.deny, c.resource, uint8(n), uint8(n))
		}
	}
	facts := (&Facts{ClientID: "c"}).Prepare()
	now := func() time.Time { return time.Unix(1, 0) }
	f.Fuzz(func(t *testing.T, allow, deny, resource string, cut, how uint8) {
		i := int(cut) % (len(resource) + 1)
		if !utf8.ValidString(resource) || len(allow)+len(deny) > 200 || strings.ContainsFunc(resource[:i], func(r rune) bool { return r >= utf8.RuneSelf }) || !utf8.ValidString(resource[i:]) {
			return
		}
		var sources []Source
		for j, resource := range []string{allow, deny} {
			element := []string{"Resource", "NotResource"}[how>>j&1]
			condition := []string{"", `, "Condition": {"StringNotLike": {"iot:ClientId": "${iot:Nothing}"}}`, `, "Condition": {"NumericLessThan": {"aws:EpochTime": "2"}}`,
				`, "Condition": {"StringEquals": {"iot:ClientId": "c"}}`}[how>>(2+2*j)&3]
			list := make([]string, 6) // so many that they are indexed
			for k := range list {
				list[k] = strings.Repeat("z/", k) + resource
			}
			values, err := json.Marshal(list)
			if err != nil {
				t.Fatal(err)
			}
			d, err := Parse(statement(fmt.Sprintf(`{"Effect": %q, "Action": "*", %q: %s%s}`, []string{"Allow", "Deny"}[j], element, values, condition)))
			if err != nil {
				return
			}
			sources = append(sources, Source{"p", d})
		}
		s := Compile(sources...)
		d := s.Decide(&Request{Action: ActionOf("iot:Publish"), Resource: resource, Facts: facts, Now: now()})
		if got := s.Bind(ActionOf("iot:Publish"), resource[:i], facts).Allows(resource[i:], now); got != d.Allowed {
			t.Fatalf("allow %q, deny %q (%b), %q: bound to %q %v", allow, deny, how, resource, resource[:i], got)
		}
	})
}
