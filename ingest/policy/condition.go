package policy

import (
	"encoding/base64"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// shape is what an operator compares.
type shape byte

const (
	text     shape = iota
	textFold       // upper and lower case are the same
	like           // with wildcards
	arn
	number
	date
	boolean
	binary
	address
	null
)

type relation byte

const (
	equal relation = iota
	less
	lessOrEqual
	greater
	greaterOrEqual
)

type quantifier byte

const (
	plain quantifier = iota
	forAll
	forAny
)

type operator struct {
	shape
	relation
	not      bool
	quant    quantifier
	ifExists bool
}

var operators = map[string]operator{
	"StringEquals": {shape: text}, "StringNotEquals": {shape: text, not: true},
	"StringEqualsIgnoreCase": {shape: textFold}, "StringNotEqualsIgnoreCase": {shape: textFold, not: true},
	"StringLike": {shape: like}, "StringNotLike": {shape: like, not: true},
	"NumericEquals": {shape: number}, "NumericNotEquals": {shape: number, not: true},
	"NumericLessThan": {shape: number, relation: less}, "NumericLessThanEquals": {shape: number, relation: lessOrEqual},
	"NumericGreaterThan": {shape: number, relation: greater}, "NumericGreaterThanEquals": {shape: number, relation: greaterOrEqual},
	"DateEquals": {shape: date}, "DateNotEquals": {shape: date, not: true},
	"DateLessThan": {shape: date, relation: less}, "DateLessThanEquals": {shape: date, relation: lessOrEqual},
	"DateGreaterThan": {shape: date, relation: greater}, "DateGreaterThanEquals": {shape: date, relation: greaterOrEqual},
	"Bool": {shape: boolean}, "BinaryEquals": {shape: binary},
	"IpAddress": {shape: address}, "NotIpAddress": {shape: address, not: true},
	"ArnEquals": {shape: arn}, "ArnLike": {shape: arn}, "ArnNotEquals": {shape: arn, not: true}, "ArnNotLike": {shape: arn, not: true},
	"Null": {shape: null},
}

func operatorNames() []string {
	var names []string
	for n := range operators {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func parseOperator(s string) (operator, bool) {
	quant := plain
	if rest, ok := strings.CutPrefix(s, "ForAllValues:"); ok {
		s, quant = rest, forAll
	} else if rest, ok := strings.CutPrefix(s, "ForAnyValue:"); ok {
		s, quant = rest, forAny
	}
	base, ifExists := strings.CutSuffix(s, "IfExists")
	op, ok := operators[base]
	if op.shape == null && (ifExists || quant != plain) {
		return op, false
	}
	op.quant, op.ifExists = quant, ifExists
	return op, ok
}

// test is one key of a Condition block, ready to be asked.
type test struct {
	operator
	key     key
	texts   []pattern    // text, textFold, like
	arns    [][6]pattern // arn
	numbers []*big.Rat
	dates   []time.Time
	bools   []bool // boolean, null
	bytes   []string
	nets    []netip.Prefix
}

// constant takes a value that has no variables; it returns what is wrong.
func (t *test) constant(s string) string {
	switch t.shape {
	case number:
		n, ok := parseNumber(s)
		if !ok {
			return strconv.Quote(s) + " is no number"
		}
		t.numbers = append(t.numbers, n)
	case date:
		d, ok := parseDate(s)
		if !ok {
			return strconv.Quote(s) + " is no date: YYYY-MM-DDThh:mm:ssZ, or seconds since 1970"
		}
		t.dates = append(t.dates, d)
	case boolean, null:
		switch strings.ToLower(s) {
		case "true":
			t.bools = append(t.bools, true)
		case "false":
			t.bools = append(t.bools, false)
		default:
			return strconv.Quote(s) + " is neither true nor false"
		}
	case binary:
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return strconv.Quote(s) + " is not base64"
		}
		t.bytes = append(t.bytes, string(b))
	case address:
		if p, err := netip.ParsePrefix(s); err == nil {
			t.nets = append(t.nets, p.Masked())
		} else if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			t.nets = append(t.nets, netip.PrefixFrom(a, a.BitLen()))
		} else {
			return strconv.Quote(s) + " is no address and no network"
		}
	}
	return ""
}

func parseNumber(s string) (*big.Rat, bool) {
	if len(s) > 64 || strings.ContainsAny(s, "/_xXpP") {
		return nil, false
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 { // an exponent must not make a number of a million digits
		if e, err := strconv.Atoi(s[i+1:]); err != nil || e > 400 || e < -400 {
			return nil, false
		}
	}
	return new(big.Rat).SetString(s)
}

func parseDate(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02", "20060102T150405Z"} {
		if d, err := time.Parse(layout, s); err == nil {
			return d, true
		}
	}
	if n, err := strconv.ParseInt(s, 10, 52); err == nil {
		return time.Unix(n, 0), true
	}
	return time.Time{}, false
}

// holds reports whether the condition is met. unsure tells that a variable in
// its values has none: the answer rests on it.
func (t *test) holds(r *Request) (ok, unsure bool) {
	for i := range t.texts {
		unsure = unsure || !t.texts[i].resolved(r)
	}
	for i := range t.arns {
		for j := range t.arns[i] {
			unsure = unsure || !t.arns[i][j].resolved(r)
		}
	}
	// values may share its memory with the variables of the patterns.
	values := t.key.values(r)
	var one [1]string
	if len(values) == 1 {
		one[0] = values[0]
		values = one[:]
	}
	if t.shape == null {
		return slices.Contains(t.bools, len(values) == 0), false
	}
	if len(values) == 0 {
		switch {
		case t.quant == forAny:
			return false, false
		case t.ifExists, t.quant == forAll:
			return true, false
		}
		return t.not, false
	}
	for _, v := range values {
		if len(v) > maxValue*4 && t.key.kind == certificateAttribute {
			continue
		}
		met := t.matches(v, r) != t.not
		switch {
		case t.quant == forAll && !met, t.quant == plain && t.not && !met:
			return false, unsure
		case t.quant == forAny && met, t.quant == plain && !t.not && met:
			return true, unsure
		}
	}
	return t.quant == forAll || t.quant == plain && t.not, unsure
}

// matches reports whether a value of the key is one of the condition's.
func (t *test) matches(v string, r *Request) bool {
	switch t.shape {
	case text, textFold:
		for i := range t.texts {
			if t.texts[i].equal(v, t.shape == textFold, r) {
				return true
			}
		}
	case like:
		for i := range t.texts {
			if t.texts[i].match(v, r) {
				return true
			}
		}
	case arn:
		parts := strings.SplitN(v, ":", 6)
		if len(parts) != 6 {
			return false
		}
	next:
		for i := range t.arns {
			for j := range parts {
				if !t.arns[i][j].match(parts[j], r) {
					continue next
				}
			}
			return true
		}
	case number:
		n, ok := parseNumber(v)
		for i := 0; ok && i < len(t.numbers); i++ {
			if t.relation.holds(n.Cmp(t.numbers[i])) {
				return true
			}
		}
	case date:
		d, ok := parseDate(v)
		for i := 0; ok && i < len(t.dates); i++ {
			if t.relation.holds(d.Compare(t.dates[i])) {
				return true
			}
		}
	case boolean:
		return slices.Contains(t.bools, true) && strings.EqualFold(v, "true") || slices.Contains(t.bools, false) && strings.EqualFold(v, "false")
	case binary:
		b, err := base64.StdEncoding.DecodeString(v)
		return err == nil && slices.Contains(t.bytes, string(b))
	case address:
		a := r.Facts.SourceIP
		if t.key.kind != sourceIP {
			var err error
			if a, err = netip.ParseAddr(v); err != nil {
				return false
			}
			a = a.Unmap().WithZone("")
		}
		for _, n := range t.nets {
			if n.Contains(a) {
				return true
			}
		}
	}
	return false
}

func (o relation) holds(c int) bool {
	switch o {
	case less:
		return c < 0
	case lessOrEqual:
		return c <= 0
	case greater:
		return c > 0
	case greaterOrEqual:
		return c >= 0
	}
	return c == 0
}
