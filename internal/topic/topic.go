// Package topic holds MQTT topic names and filters: their grammar, matching, a
// trie to match one name against many filters, and the mapping of names onto
// NATS subjects. The gateway parses names and filters once, at its edge; behind
// it the types Name and Filter say that this has been done.
package topic

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Name is a topic name: what a message is published on. It has no wildcards.
type Name string

// Filter is a topic filter: what a subscription or a rule asks for. It may hold
// the wildcards + (one level) and # (all further levels, at the end).
// The $share prefix is not part of it; see ParseShare.
type Filter string

// Mode chooses between the MQTT standard and AWS IoT Core where they differ.
type Mode uint8

const (
	Standard Mode = iota // "a/#" matches "a" too
	AWS                  // "a/#" matches "a/" and everything below, but not "a"
)

// Limits bound names and filters. A zero field means the hard limit.
type Limits struct {
	Bytes   int // of the whole text; at most MaxBytes
	Slashes int // level separators, a Basic Ingest prefix not counted
}

// MaxBytes is the hard limit of a name. NATS refuses a control line over 4,096
// bytes, and a byte can take three in a subject.
const MaxBytes = 1024

// BasicIngest is the prefix of topics that go straight to one rule.
const BasicIngest = "$aws/rules/"

const thingPrefix = "$aws/things/"

// ParseName checks s and returns it as a Name.
func ParseName(s string, lim Limits) (Name, error) {
	if err := check("topic name", s, Name(s).withoutBasicIngest(), lim); err != nil {
		return "", err
	}
	if i := strings.IndexAny(s, "+#"); i >= 0 {
		return "", fmt.Errorf("topic name: wildcard %q at byte %d", s[i], i+1)
	}
	return Name(s), nil
}

// ParseFilter checks s and returns it as a Filter.
func ParseFilter(s string, lim Limits) (Filter, error) {
	if err := check("topic filter", s, s, lim); err != nil {
		return "", err
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '+', '#':
			if i > 0 && s[i-1] != '/' || i+1 < len(s) && s[i+1] != '/' {
				return "", fmt.Errorf("topic filter: %q at byte %d must stand alone between slashes", c, i+1)
			}
			if c == '#' && i+1 < len(s) {
				return "", fmt.Errorf("topic filter: '#' at byte %d must be the last level", i+1)
			}
		}
	}
	return Filter(s), nil
}

// ParseShare splits a shared subscription, $share/<group>/<filter>. ok is false
// where s is none. The filter is not checked.
func ParseShare(s string) (group, filter string, ok bool, err error) {
	rest, ok := strings.CutPrefix(s, "$share/")
	if !ok {
		if s == "$share" {
			return "", "", true, fmt.Errorf("shared subscription: group and filter are missing")
		}
		return "", s, false, nil
	}
	group, filter, found := strings.Cut(rest, "/")
	switch {
	case group == "":
		return "", "", true, fmt.Errorf("shared subscription: empty group")
	case strings.ContainsAny(group, "+#"):
		return "", "", true, fmt.Errorf("shared subscription: wildcard in group %q", group)
	case !found || filter == "":
		return "", "", true, fmt.Errorf("shared subscription: filter is missing after group %q", group)
	}
	return group, filter, true, nil
}

func check(what, s, counted string, lim Limits) error {
	limit := lim.Bytes
	if limit <= 0 || limit > MaxBytes {
		limit = MaxBytes
	}
	switch {
	case s == "":
		return fmt.Errorf("%s is empty", what)
	case len(counted) > limit || len(s) > limit+len(BasicIngest)+129:
		return fmt.Errorf("%s has %d bytes, at most %d are allowed", what, len(counted), limit)
	case !utf8.ValidString(s):
		return fmt.Errorf("%s is not valid UTF-8", what)
	}
	if n := strings.Count(counted, "/"); lim.Slashes > 0 && n > lim.Slashes {
		return fmt.Errorf("%s has %d slashes, at most %d are allowed", what, n, lim.Slashes)
	}
	for i, r := range s {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\ufeff' || r >= 0xfffe && r&0xfffe == 0xfffe || r >= 0xfdd0 && r <= 0xfdef {
			return fmt.Errorf("%s: character %U at byte %d is not allowed", what, r, i+1)
		}
	}
	return nil
}

// Thing returns the thing of a name below $aws/things/<thing>/.
func (n Name) Thing() (thing string, ok bool) {
	rest, ok := strings.CutPrefix(string(n), thingPrefix)
	if !ok {
		return "", false
	}
	thing, _, ok = strings.Cut(rest, "/")
	return thing, ok && thing != ""
}

// Rule splits a Basic Ingest name $aws/rules/<rule>/<rest>; rest may be empty.
func (n Name) Rule() (rule string, rest Name, ok bool) {
	s, ok := strings.CutPrefix(string(n), BasicIngest)
	if !ok {
		return "", n, false
	}
	rule, tail, _ := strings.Cut(s, "/")
	return rule, Name(tail), rule != ""
}

func (n Name) withoutBasicIngest() string {
	if _, rest, ok := n.Rule(); ok {
		return string(rest)
	}
	return string(n)
}

// Level returns the i-th level of n, counted from 1.
func (n Name) Level(i int) (string, bool) {
	s := string(n)
	for ; i > 1; i-- {
		k := strings.IndexByte(s, '/')
		if k < 0 {
			return "", false
		}
		s = s[k+1:]
	}
	if i < 1 {
		return "", false
	}
	if k := strings.IndexByte(s, '/'); k >= 0 {
		s = s[:k]
	}
	return s, true
}

// Match reports whether f matches n. A filter that begins with a wildcard does
// not match names that begin with '$'.
func Match(f Filter, n Name, m Mode) bool {
	fs, ns := string(f), string(n)
	if ns != "" && ns[0] == '$' && fs != "" && (fs[0] == '+' || fs[0] == '#') {
		return false
	}
	for {
		fl, frest, fmore := strings.Cut(fs, "/")
		if fl == "#" {
			return true
		}
		nl, nrest, nmore := strings.Cut(ns, "/")
		if fl != "+" && fl != nl {
			return false
		}
		switch {
		case !fmore && !nmore:
			return true
		case fmore && !nmore:
			return frest == "#" && m == Standard
		case !fmore:
			return false
		}
		fs, ns = frest, nrest
	}
}
