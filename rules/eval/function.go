package eval

import (
	"context"
	"math/bits"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// Function is one function of the rule language: what Compile checks, what the
// reference prints and what runs.
type Function struct {
	Name      string  // in lower case
	Since     Version // the oldest version that has it
	Group     string  // heading in the reference
	Signature string  // as the reference shows it: "substring(s, start[, end])"
	Summary   string  // one or two sentences
	Source    string  // section of the AWS IoT developer guide
	Examples  []Example

	MinArgs int
	MaxArgs int // -1: any number
	// Counts, if set, are the only numbers of arguments that fit, where not
	// every one from MinArgs to MaxArgs does.
	Counts []int
	// Literal lists the arguments (from 0) that must be constant strings.
	Literal []int
	// Pure functions depend on their arguments alone; a call with constants
	// runs once, at Compile.
	Pure bool
	// Catches makes a failed look-up in an argument give Undefined instead of
	// failing the evaluation (get_or_default).
	Catches bool
	// NoVars lists the arguments that no variable of SET may stand in (roles).
	NoVars []int
	// Service is what a function that calls out needs. Compile refuses the call
	// where Options.Lookups has none, and always in error actions.
	Service Service
	// ServiceOf, if set, stands in for Service where it depends on the arguments;
	// those that are not constants come as nil.
	ServiceOf func(args []*Value) Service
	// Prepare, if set, is called once per call at Compile and its result is
	// Call.State; arguments that are not constants come as nil. It is the place
	// to compile literal patterns.
	Prepare func(args []*Value, v Version) any
	// Eval runs the function. args has a number of values that fits, any of which may be Undefined; it is valid during the call only. A call that
	// cannot give a result gives Undefined, Value{}.
	Eval func(c *Call, args []Value) Value
}

// Service names what a function calls out to.
type Service uint8

const (
	NoService Service = iota
	ShadowService
	RegistryService
	TableService
	SecretService
	LambdaService
	DescriptorService
	PredictService
)

// Example is an expression and what it gives. Examples run as tests.
type Example struct {
	Expr    string // an expression of the rule language
	Payload string // JSON; "" is {}
	Want    string // JSON; "" is Undefined
	Topic   string // "" is "a/b/c"
}

// Call is what a function sees besides its arguments. It is valid during the
// call only.
type Call struct {
	State any // what Prepare returned

	m    *Machine
	site *callSite
}

// callSite is the part of a Call that is known at Compile.
type callSite struct {
	seed uint64 // hash of rule, source text and position
	rule *ruleInfo
}

// ruleInfo is what a program's calls know of its rule.
type ruleInfo struct {
	version Version
	rule    string
	account string
	lookups Lookups
}

// Context ends when the evaluation must. Only functions that call out need it.
func (c *Call) Context() context.Context { return c.m.ctx }

// Event is the event under evaluation.
func (c *Call) Event() *event.Event { return c.m.event }

// Topic is the event's topic without the prefix of Basic Ingest.
func (c *Call) Topic() topic.Name { return c.m.topic() }

// Version is the rule's version of the language.
func (c *Call) Version() Version { return c.site.rule.version }

// Rule is the rule's name.
func (c *Call) Rule() string { return c.site.rule.rule }

// Account is the account that owns the rule.
func (c *Call) Account() string { return c.site.rule.account }

// Lookups are the services the rule was compiled with.
func (c *Call) Lookups() *Lookups { return &c.site.rule.lookups }

// Num converts v to an Int or a Decimal, or gives Undefined.
func (c *Call) Num(v Value) Value { return v.ToNum(c.site.rule.version) }

// Int converts v to an Int, rounding down, or gives Undefined.
func (c *Call) Int(v Value) Value { return v.ToNum(c.site.rule.version).Floor() }

// Str converts v to a String, or gives Undefined. The text is charged.
func (c *Call) Str(v Value) Value {
	if v.kind == String {
		return v
	}
	s := v.ToStr()
	if !c.Charge(len(s.s)) {
		return Value{}
	}
	return s
}

// Charge takes n bytes from the memory the evaluation may use. Functions call
// it before they make anything larger than their arguments. Where it returns
// false the evaluation has failed and the function returns at once.
func (c *Call) Charge(n int) bool { return c.m.charge(n) }

// Fail makes the evaluation fail (the rule's error action then gets err) unless
// a function that Catches stands around this one. It returns Undefined.
func (c *Call) Fail(err error) Value {
	c.m.fail(err)
	return Value{}
}

// RegexLimitHit counts a regular expression that was given up at its step
// limit. It returns Undefined.
func (c *Call) RegexLimitHit() Value {
	c.m.regexLimitHits++
	return Value{}
}

// Cached returns what build gave for this key before on this Machine, or calls
// it. It is for things made from values that are seldom new, such as patterns;
// the number kept is bounded. Names of different functions must differ by kind.
func (c *Call) Cached(kind, key string, build func() any) any {
	return c.m.cached(kind, key, build)
}

// Once is Cached for the span of one evaluation: answers of look-ups.
func (c *Call) Once(kind, key string, build func() any) any {
	return c.m.once(kind, key, build)
}

// Random returns 128 bits that are the same whenever the same rule evaluates
// the same event at the same place of the statement, and differ otherwise. In a
// nested query each item has its own.
func (c *Call) Random() (hi, lo uint64) {
	id := c.m.event.ID()
	h := c.site.seed
	for _, b := range id {
		h = mix(h ^ uint64(b))
	}
	h = mix(h ^ c.m.iteration)
	hi = mix(h + 0x9e3779b97f4a7c15)
	return hi, mix(hi + h)
}

// mix is the finaliser of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// hashText folds s into h.
func hashText(h uint64, s string) uint64 {
	for i := 0; i < len(s); i++ {
		h = bits.RotateLeft64(h, 5) ^ uint64(s[i])
		h *= 0x9fb21c651e98df25
	}
	return mix(h ^ uint64(len(s)))
}
