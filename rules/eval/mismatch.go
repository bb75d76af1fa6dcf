package eval

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/weir-iot/weir/internal/topic"
)

// Mismatch says where a topic parts from a rule's filter.
type Mismatch struct {
	Level int    // from 1; 0: not at one level
	Have  string // of the topic; "" past its end
	Want  string // of the filter; "" past its end
	Text  string // for people
	From  int    // byte in the topic where Have stands
}

// Mismatch says why a topic does not reach p, nil where it does.
func (p *Program) Mismatch(n topic.Name) *Mismatch {
	if p.Matches(n) {
		return nil
	}
	if rule, _, ok := n.Rule(); ok {
		return &Mismatch{Level: 3, Have: rule, Want: p.info.rule, From: len("$aws/rules/"),
			Text: fmt.Sprintf("Basic Ingest for the rule %s; this one is %s", rule, p.info.rule)}
	}
	filter, ok := p.Filter()
	if !ok {
		return &Mismatch{Text: fmt.Sprintf("the statement has no FROM: only $aws/rules/%s/… reaches it", cmp.Or(p.info.rule, "<rule>"))}
	}
	have, want := strings.Split(string(n), "/"), strings.Split(string(filter), "/")
	if strings.HasPrefix(have[0], "$") && (want[0] == "+" || want[0] == "#") {
		return &Mismatch{Level: 1, Have: have[0], Want: want[0], Text: fmt.Sprintf("level 1 is %s, and a wildcard at the start does not stand for topics with $", have[0])}
	}
	at := 0
	for i, w := range want {
		if i >= len(have) {
			if w == "#" {
				return &Mismatch{Level: i + 1, Want: w, From: at, Text: fmt.Sprintf("the topic ends before level %d; # stands for one level or more", i+1)}
			}
			return &Mismatch{Level: i + 1, Want: w, From: at, Text: fmt.Sprintf("the topic ends before level %d; FROM wants %s there", i+1, levelText(w))}
		}
		if w == "#" {
			break
		}
		if w != "+" && w != have[i] {
			text := fmt.Sprintf("level %d is %s; FROM wants %s", i+1, levelText(have[i]), levelText(w))
			if strings.EqualFold(w, have[i]) {
				text += " (upper and lower case differ)"
			}
			return &Mismatch{Level: i + 1, Have: have[i], Want: w, From: at, Text: text}
		}
		at += len(have[i]) + 1
		if i == len(want)-1 && len(have) > len(want) {
			return &Mismatch{Level: i + 2, Have: have[i+1], From: at, Text: fmt.Sprintf("FROM ends at level %d, the topic goes on; # stands for all the rest", i+1)}
		}
	}
	return &Mismatch{Text: "it does not match"}
}

func levelText(s string) string {
	switch s {
	case "":
		return "an empty level"
	case "+":
		return "any one level"
	}
	return s
}

// Near reports whether f misses n by one level, by its letters' case, or by the
// number of levels alone: what a person may have meant.
func Near(f topic.Filter, n topic.Name) bool {
	if strings.EqualFold(string(f), string(n)) {
		return true
	}
	want, have := strings.Split(string(f), "/"), strings.Split(string(n), "/")
	if last := len(want) - 1; want[last] == "#" {
		want = want[:last]
		have = have[:min(len(have), last)]
	}
	missed, same := 0, 0
	for i := range min(len(want), len(have)) {
		switch want[i] {
		case have[i]:
			same++
		case "+":
		default:
			missed++
		}
	}
	if len(want) != len(have) {
		missed++
	}
	return missed == 1 && same > 0
}
