package ingest

import (
	"strings"

	"github.com/weir-iot/weir/internal/topic"
)

// Class is what a topic that clients name is to the gateway.
type Class uint8

const (
	Open     Class = iota // does not begin with '$', or is one of the reserved topics clients may publish on
	Private               // a call: certificates, provisioning templates, job requests. Never on the log
	Reserved              // Weir's own; clients may not publish there
)

// The reserved topics a client may publish on, below $aws/. "+" is one level
// that is not empty.
// Source: AWS IoT Core developer guide, "Reserved topics".
var publishable = split(
	"things/+/shadow/get", "things/+/shadow/update", "things/+/shadow/delete",
	"things/+/shadow/name/+/get", "things/+/shadow/name/+/update", "things/+/shadow/name/+/delete",
	"things/+/defender/metrics/json", "things/+/defender/metrics/cbor",
	"things/+/streams/+/get/json", "things/+/streams/+/get/cbor",
	"things/+/streams/+/describe/json", "things/+/streams/+/describe/cbor",
)

var private = split(
	"certificates/create/+", "certificates/create-from-csr/+", "provisioning-templates/+/provision/+",
	"things/+/jobs/get", "things/+/jobs/start-next", "things/+/jobs/+/get", "things/+/jobs/+/update",
)

// The roots below which a client may subscribe. $aws/rules is not one: what is
// published there goes to its rule only.
var subscribable = []string{"things", "events", "certificates", "provisioning-templates", "sitewise"}

func split(patterns ...string) [][]string {
	out := make([][]string, len(patterns))
	for i, p := range patterns {
		out[i] = strings.Split(p, "/")
	}
	return out
}

// Publish classifies a name a client wants to publish on.
func Publish(n topic.Name) Class {
	if n == "" || n[0] != '$' {
		return Open
	}
	rest, ok := strings.CutPrefix(string(n), "$aws/")
	if !ok {
		return Reserved
	}
	if rule, _, ok := n.Rule(); ok && rule != "" {
		return Open
	}
	levels := strings.Split(rest, "/")
	switch {
	case matches(private, levels):
		return Private
	case matches(publishable, levels):
		return Open
	}
	return Reserved
}

func matches(patterns [][]string, levels []string) bool {
next:
	for _, p := range patterns {
		if len(p) != len(levels) {
			continue
		}
		for i, l := range p {
			if l != levels[i] && (l != "+" || levels[i] == "") {
				continue next
			}
		}
		return true
	}
	return false
}

// Subscribe reports whether clients may subscribe to f at all. A wildcard in a
// place where it would span topics of Weir's own is refused.
func Subscribe(f topic.Filter) bool {
	if f == "" || f[0] != '$' {
		return true
	}
	rest, ok := strings.CutPrefix(string(f), "$aws/")
	if !ok {
		return false
	}
	root, _, _ := strings.Cut(rest, "/")
	for _, r := range subscribable {
		if root == r {
			return true
		}
	}
	return false
}

// IsPrivate reports whether n is a private call or the answer to one. Such
// topics are never matched by a subscription or a rule.
func IsPrivate(n topic.Name) bool {
	rest, ok := strings.CutPrefix(string(n), "$aws/")
	if !ok {
		return false
	}
	levels := strings.Split(rest, "/")
	if k := len(levels) - 1; levels[k] == "accepted" || levels[k] == "rejected" {
		levels = levels[:k]
	}
	return matches(private, levels)
}
