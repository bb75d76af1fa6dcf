package shadow

import (
	"strconv"
	"strings"

	"github.com/weir-iot/weir/internal/topic"
)

// Limits bound documents and requests. See AWS and Relaxed.
type Limits struct {
	Document int // bytes of desired and reported together, metadata not counted
	Depth    int // objects and arrays in one another in a section, the section itself not counted
	Token    int // bytes of a client token
	InFlight int // requests of one connection for one thing; 0: no limit
}

// AWS returns the limits of AWS IoT Core.
func AWS() Limits { return Limits{Document: 8 << 10, Depth: 8, Token: 64, InFlight: 10} }

// Relaxed returns the limits of the profile relaxed.
func Relaxed() Limits { return Limits{Document: 128 << 10, Depth: 32, Token: 64} }

const (
	maxThing = 128
	maxName  = 64
)

func nameRunes(s string, also string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == ':' || c == '_' || c == '-' ||
			strings.IndexByte(also, c) >= 0) {
			return false
		}
	}
	return true
}

// checkNames holds names against AWS's patterns; name "" is the unnamed shadow.
func checkNames(thing, name string) *Error {
	if thing == "" || len(thing) > maxThing || !nameRunes(thing, "") {
		return errThingName
	}
	if len(name) > maxName || !nameRunes(name, "$") {
		return errShadowName
	}
	return nil
}

type operation uint8

const (
	opGet operation = iota + 1
	opUpdate
	opDelete
	opChange // of the Go API only
)

var operationNames = [...]string{opGet: "get", opUpdate: "update", opDelete: "delete", opChange: "change"}

func (o operation) String() string { return operationNames[o] }

const thingsPrefix = "$aws/things/"

// parseTopic takes a request topic apart; ok is false for any other.
func parseTopic(n topic.Name) (thing, name string, op operation, ok bool) {
	rest, ok := strings.CutPrefix(string(n), thingsPrefix)
	if !ok {
		return "", "", 0, false
	}
	thing, rest, ok = strings.Cut(rest, "/")
	if !ok {
		return "", "", 0, false
	}
	if rest, ok = strings.CutPrefix(rest, "shadow/"); !ok {
		return "", "", 0, false
	}
	if named, is := strings.CutPrefix(rest, "name/"); is {
		if name, rest, ok = strings.Cut(named, "/"); !ok || name == "" {
			return "", "", 0, false
		}
	}
	switch rest {
	case "get":
		op = opGet
	case "update":
		op = opUpdate
	case "delete":
		op = opDelete
	default:
		return "", "", 0, false
	}
	return thing, name, op, true
}

// prefixOf returns the topic prefix of a shadow.
func prefixOf(thing, name string) string {
	if name == "" {
		return thingsPrefix + thing + "/shadow/"
	}
	return thingsPrefix + thing + "/shadow/name/" + name + "/"
}

// patch is what a request wants changed. A section is an object to merge, null
// to remove, or absent.
type patch struct {
	desired, reported, tags value
	state                   value  // as requested, for the answer
	replace                 bool   // sections are replaced instead of merged
	token                   string // JSON text; "" where there is none
	version                 uint64 // the document must have
	versioned               bool
	note                    string
}

// parseUpdate reads the payload of an update.
// Source: AWS IoT Core developer guide, "Request state document".
func parseUpdate(payload []byte, l *Limits) (patch, *Error) {
	var p patch
	if len(payload) == 0 {
		return p, errNoPayload
	}
	if len(payload) > 16*l.Document {
		return p, errTooLarge
	}
	doc, err := parse(string(payload))
	switch {
	case err == errUTF8:
		return p, errEncoding
	case err == errDeep:
		return p, errNesting(l.Depth)
	case err != nil || doc.kind != object:
		return p, errJSON
	}
	var bad *Error
	if p.token, bad = tokenOf(&doc, l); bad != nil {
		return p, bad
	}
	if v := doc.get("version"); v.kind != absent && v.kind != null {
		n, err := strconv.ParseUint(v.raw, 10, 63)
		if v.kind != number || err != nil {
			return p, errVersion
		}
		p.version, p.versioned = n, true
	}
	state := doc.get("state")
	switch state.kind {
	case absent:
		return p, errNoState
	case null:
		p.state, p.desired, p.reported = state, state, state
		return p, nil
	case object:
	default:
		return p, errState
	}
	p.state.kind = object
	for i := range state.members {
		m := &state.members[i]
		var wrong *Error
		switch m.name {
		case "desired":
			p.desired, wrong = m.val, errDesired
		case "reported":
			p.reported, wrong = m.val, errReported
		case "delta": // part of a document that was read; nobody sets it
			continue
		default:
			return p, errNode
		}
		if m.val.kind != object && m.val.kind != null {
			return p, wrong
		}
		if m.val.depth() > l.Depth+1 {
			return p, errNesting(l.Depth)
		}
		if m.val.nullInArray() {
			return p, errNode
		}
		p.state.members = append(p.state.members, *m)
	}
	return p, nil
}

// tokenOf returns the client token of a request as JSON text.
func tokenOf(doc *value, l *Limits) (string, *Error) {
	v := doc.get("clientToken")
	switch v.kind {
	case absent, null:
		return "", nil
	case text:
		if len(unquote(v.raw)) <= l.Token {
			return v.raw, nil
		}
	}
	return "", errToken
}

// parseGet reads the payload of a get, which is empty or holds a client token.
func parseGet(payload []byte, l *Limits) (token string, bad *Error) {
	if len(strings.TrimSpace(string(payload))) == 0 {
		return "", nil
	}
	if len(payload) > 16*l.Document {
		return "", errTooLarge
	}
	doc, err := parse(string(payload))
	switch {
	case err == errUTF8:
		return "", errEncoding
	case err != nil || doc.kind != object:
		return "", errJSON
	}
	return tokenOf(&doc, l)
}

// parseDelete reads the payload of a delete, of which only a client token
// counts.
func parseDelete(payload []byte, l *Limits) (token string) {
	if len(payload) == 0 || len(payload) > 16*l.Document {
		return ""
	}
	if doc, err := parse(string(payload)); err == nil && doc.kind == object {
		token, _ = tokenOf(&doc, l)
	}
	return token
}
