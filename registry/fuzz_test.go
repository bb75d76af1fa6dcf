package registry

import (
	"crypto/x509"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzNames compares the checks of names with the patterns of the API model.
func FuzzNames(f *testing.F) {
	patterns := map[*nameRule]*regexp.Regexp{
		thingName: regexp.MustCompile(`^[a-zA-Z0-9:_-]+$`), attributeName: regexp.MustCompile(`^[a-zA-Z0-9_.,@/:#-]+$`),
		attributeValue: regexp.MustCompile(`^[a-zA-Z0-9_.,@/:#=\[\]-]*$`), policyName: regexp.MustCompile(`^[\w+=,.@-]+$`),
		authorizerName: regexp.MustCompile(`^[\w=,@-]+$`), templateName: regexp.MustCompile(`^[0-9A-Za-z_-]+$`), domainConfigName: regexp.MustCompile(`^[\w.:-]+$`),
	}
	for _, s := range []string{"", "a", "a:b", "a b", "a.b", "ä", "a\n", "\x00", "+", "#", "../x", "$x", "${iot:ClientId}", strings.Repeat("x", 128), strings.Repeat("x", 129), "a=b", "[x]", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for r, p := range patterns {
			want := len(s) >= r.min && len(s) <= r.max && !strings.HasSuffix(s, "\n") && (s == "" && r.min == 0 || p.MatchString(s))
			err := r.check(s)
			if (err == nil) != want {
				t.Errorf("%s %q: %v", r.what, s, err)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		}
		if err := checkTags(map[string]string{s: s}, 50); err == nil && (!utf8.ValidString(s) || s == "" || strings.ContainsAny(s, "\n\t<>\"")) {
			t.Errorf("tag %q was taken", s)
		}
		validDomain(s)
	})
}

// FuzzPEM reads certificates, requests and keys of strangers.
func FuzzPEM(f *testing.F) {
	ca := newCA(f, "ca")
	leaf, _ := ca.leaf(f, "d")
	for _, s := range []string{"", leaf, ca.pem(), leaf + leaf, csr(f, ca.key, &x509.CertificateRequest{}), "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
		"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", strings.ReplaceAll(leaf, "\n", "\r\n")} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := parseCertificate(s); err == nil {
			if len(c.Raw) == 0 {
				t.Error("no certificate")
			}
			checkLeaf(c)
		} else if CodeOf(err) != CertificateValidation {
			t.Errorf("%v", err)
		}
		if r, err := parseCSR(s); err == nil {
			if checkKey(r.PublicKey) != nil || r.CheckSignature() != nil {
				t.Error("a weak or unsigned request was taken")
			}
		} else if CodeOf(err) != InvalidRequest {
			t.Errorf("%v", err)
		}
		if k, err := ParseSigningKey(s); err == nil && k.N.BitLen() < 2048 {
			t.Error("a weak key was taken")
		}
	})
}

// FuzzToken gives lists tokens of strangers.
func FuzzToken(f *testing.F) {
	for _, s := range []string{"", "x", tokenOf("things", "a"), tokenOf("other", "a"), tokenOf("things", "\n")} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, last, err := Page{Token: s}.open("things")
		if err == nil && s != "" && tokenOf("things", last) != s && len(s) < 1000 {
			t.Errorf("%q stands for %q, and so does %q", s, last, tokenOf("things", last))
		}
	})
}
