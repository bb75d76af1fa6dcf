package registry

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// nameRule is what a name or value of one kind may look like. Source: the
// members' patterns and lengths in AWS's API model (service iot, 2015-05-28).
type nameRule struct {
	what     string
	min, max int // bytes
	ok       [128]bool
	pattern  string // as in the model, for messages
}

const (
	upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	lower = "abcdefghijklmnopqrstuvwxyz"
	digit = "0123456789"
	alnum = upper + lower + digit
	word  = alnum + "_"
)

func newRule(what string, min, max int, chars, pattern string) *nameRule {
	r := &nameRule{what: what, min: min, max: max, pattern: pattern}
	for i := range len(chars) {
		r.ok[chars[i]] = true
	}
	return r
}

var (
	thingName         = newRule("thing name", 1, 128, alnum+":_-", "[a-zA-Z0-9:_-]+")
	thingTypeName     = newRule("thing type name", 1, 128, alnum+":_-", "[a-zA-Z0-9:_-]+")
	groupName         = newRule("thing group name", 1, 128, alnum+":_-", "[a-zA-Z0-9:_-]+")
	attributeName     = newRule("attribute name", 1, 128, alnum+"_.,@/:#-", "[a-zA-Z0-9_.,@/:#-]+")
	attributeValue    = newRule("attribute value", 0, 800, alnum+"_.,@/:#=[]-", `[a-zA-Z0-9_.,@/:#=\[\]-]*`)
	policyName        = newRule("policy name", 1, 128, word+"+=,.@-", `[\w+=,.@-]+`)
	policyVersionID   = newRule("policy version", 1, 9, digit, "[0-9]+")
	authorizerName    = newRule("authorizer name", 1, 128, word+"=,@-", `[\w=,@-]+`)
	tokenKeyName      = newRule("token key name", 1, 128, alnum+"_-", "[a-zA-Z0-9_-]+")
	signingKeyName    = newRule("signing key name", 1, 128, alnum+":_-", "[a-zA-Z0-9:_-]+")
	templateName      = newRule("template name", 1, 36, alnum+"_-", "^[0-9A-Za-z_-]+$")
	domainConfigName  = newRule("domain configuration name", 1, 128, word+".:-", `[\w.:-]+`)
	topicRuleName     = newRule("topic rule name", 1, 128, word, "^[a-zA-Z0-9_]+$")
	roleAliasName     = newRule("role alias", 1, 128, word+"=,@-", `[\w=,@-]+`)
	certificateIDRule = newRule("certificate id", 64, 64, "0123456789abcdefABCDEF", "(0x)?[a-fA-F0-9]+")
	accessKeyIDRule   = newRule("access key id", 16, 128, word, `[\w]+`)
	payloadVersion    = newRule("payload version", 10, 32, digit+"-", "^[0-9-]+$")
	logDestination    = newRule("log destination", 1, 512, alnum+".-_/#", `^[.\-_/#A-Za-z0-9]+$`)
)

func (r *nameRule) check(s string) error {
	if len(s) < r.min || len(s) > r.max {
		if r.min == r.max {
			return invalid("a %s has %d characters, this one has %d", r.what, r.max, len(s))
		}
		return invalid("a %s has %d to %d characters, this one has %d", r.what, r.min, r.max, len(s))
	}
	for i := range len(s) {
		if c := s[i]; c >= 0x80 || !r.ok[c] {
			return invalid("%s %q: must match %s", r.what, clip(s), r.pattern)
		}
	}
	return nil
}

// clip bounds what an error shows of hostile input.
func clip(s string) string {
	if len(s) > 140 {
		return s[:140] + "…"
	}
	return s
}

// checkDescription checks descriptions of types and groups: printable ASCII.
func checkDescription(what, s string, max int) error {
	if len(s) > max {
		return invalid("%s: at most %d characters are allowed, these are %d", what, max, len(s))
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return invalid(`%s: must match [\p{Graph}\x20]*`, what)
		}
	}
	return nil
}

func checkTags(tags map[string]string, max int) error {
	if len(tags) > max {
		return fail(LimitExceeded, "a resource has at most %d tags, these are %d", max, len(tags))
	}
	for k, v := range tags {
		n := utf8.RuneCountInString(k)
		if n < 1 || n > 128 || !utf8.ValidString(k) {
			return invalid("a tag key has 1 to 128 characters, this one has %d", n)
		}
		if strings.HasPrefix(strings.ToLower(k), "aws:") {
			return invalid("tag key %q: aws: is reserved", clip(k))
		}
		for _, s := range [2]string{k, v} {
			if strings.ContainsFunc(s, func(c rune) bool {
				return !unicode.In(c, unicode.L, unicode.Z, unicode.N) && !strings.ContainsRune("_.:/=+-@", c)
			}) {
				return invalid(`tag %q: key and value must match ([\p{L}\p{Z}\p{N}_.:/=+\-@]*)`, clip(s))
			}
		}
		if n := utf8.RuneCountInString(v); n > 256 {
			return invalid("the value of tag %q has at most 256 characters, this one has %d", clip(k), n)
		}
	}
	return nil
}

// newID returns a random UUID.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}
