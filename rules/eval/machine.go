package eval

import (
	"context"
	"errors"
	"strings"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// Machine is the memory one goroutine evaluates with. It may be used with any
// number of programs and templates, one at a time. Make it with NewMachine.
type Machine struct {
	ctx       context.Context
	event     *event.Event
	frame     *frame // of the query being evaluated
	frames    []frame
	vars      []slotValue
	varBytes  int
	err       error  // first failure of this evaluation
	left      int    // bytes this evaluation may still use
	steps     int    // work it may still do
	iteration uint64 // hash of where nested queries are
	out       []byte // the result, and on top of it what is being rendered
	arena     []byte // text made on the way
	stack     []Value
	call      Call
	memo      [memoKeys]memoKey

	regexLimitHits uint64
	shared         shared           // of the event read last
	cache          map[cacheKey]any // lives with the Machine; emptied when full
	answers        map[cacheKey]any // lives for one evaluation
}

type slotValue struct {
	value Value
	known bool
}

type cacheKey struct{ kind, key string }

// Bounds. What an evaluation may hold and write, and the steps it may take over
// what it has read before, grow with its input. A step is in the order of 20 ns.
const (
	memoryPerByte = 28 // as counted; what the allocator takes for it can be twice that
	memoryFloor   = 256 << 10
	stepsPerByte  = 256
	stepsFloor    = 256 << 10
	bytesPerStep  = 4         // of JSON that is walked through again
	itemSteps     = 10        // of an item of a nested query, besides its bytes
	inSteps       = 5         // of an item of x IN set, besides its bytes
	maxVarBytes   = 128 << 10 // of the variables of a SET clause together
	maxCached     = 256       // entries of Machine.cache
	maxCachedKey  = 1 << 10   // bytes of a key
	maxKept       = 64 << 10  // bytes a buffer may keep from one evaluation to the next
)

// ErrBudget is the cause of an evaluation that failed because it would have
// used too much memory or work for its input.
var ErrBudget = errors.New("evaluation used too much memory or work for its input")

var (
	errBudget   = errs.E("eval.Eval", errs.TooLarge, ErrBudget)
	errVarBytes = errs.Errorf("eval.Eval", errs.TooLarge, "the variables of the SET clause hold more than 128 KiB")
)

// NewMachine returns a Machine.
func NewMachine() *Machine { return &Machine{} }

// RegexLimitHits returns how many regular expressions were given up at their
// step limit since the Machine was made.
func (m *Machine) RegexLimitHits() uint64 { return m.regexLimitHits }

// begin prepares m for one evaluation of code over e.
func (m *Machine) begin(ctx context.Context, e *event.Event, c *code) {
	m.ctx, m.event = ctx, e
	m.refill(len(e.Payload))
	m.iteration, m.varBytes = 0, 0
	if cap(m.out) > maxKept {
		m.out = nil
	}
	m.out = m.out[:0]
	if cap(m.arena) > maxKept {
		m.arena = nil
	}
	m.arena = m.arena[:0]
	if len(m.frames) < c.depth {
		m.frames = make([]frame, c.depth)
	}
	m.frame = &m.frames[0]
	if c.vars > 0 {
		if cap(m.vars) < c.vars {
			m.vars = make([]slotValue, c.vars)
		}
		m.vars = m.vars[:c.vars]
		clear(m.vars)
	}
	if len(m.answers) > 0 {
		clear(m.answers)
	}
	m.read(e.Payload, c)
}

// refill sets what may be used for a payload of n bytes, and forgets a failure.
func (m *Machine) refill(n int) {
	m.err = nil
	m.left = max(memoryFloor, memoryPerByte*n)
	m.steps = max(stepsFloor, stepsPerByte*n)
}

// read makes the event's payload the current item of the outermost frame.
func (m *Machine) read(payload []byte, c *code) {
	f := m.frame
	f.built, f.doc = false, payload
	f.pending, f.ver = false, c.ver
	if c.reads && m.shared.again(m.event, payload, c) {
		f.extent, f.refs, f.pending = m.shared.found, m.shared.refs, true
		return
	}
	f.reset(int(c.slots))
	m.shared.code = nil // refs are about to change
	if !c.reads {
		return
	}
	var ok bool
	if f.from, f.to, f.messy, ok = m.document(payload, c.shape, f.refs); !ok {
		clear(f.refs)
		f.from = -1
	}
	f.pending = true
	m.shared.code, m.shared.found, m.shared.refs = c, f.extent, f.refs
}

// item returns the current item.
func (m *Machine) item() Value {
	f := m.frame
	if f.pending {
		f.pending = false
		if f.from < 0 {
			f.item = Value{form: formPayload, s: bytesText(f.doc)}
		} else {
			f.item = rawComposite(f.doc[f.from:f.to], f.messy, f.ver)
			f.item.form |= formPayload
			f.item.n, f.item.exp = int64(f.from), int32(len(f.doc)-f.to)
		}
	}
	return f.item
}

func (m *Machine) topic() topic.Name {
	if _, rest, ok := m.event.Topic.Rule(); ok {
		return rest
	}
	return m.event.Topic
}

func (m *Machine) charge(n int) bool {
	if m.left -= n; m.left < 0 || n < 0 {
		m.fail(errBudget)
		return false
	}
	return m.err == nil
}

// again takes the work of walking through n bytes of JSON once more.
func (m *Machine) again(n int) bool { return m.work(1 + n/bytesPerStep) }

// work takes n steps.
func (m *Machine) work(n int) bool {
	if m.steps -= n; m.steps < 0 {
		m.fail(errBudget)
		return false
	}
	return m.err == nil
}

// checkOut fails an evaluation whose result grows too large.
func (m *Machine) checkOut() bool {
	if len(m.out) > m.left {
		m.fail(errBudget)
	}
	return m.err == nil
}

func (m *Machine) fail(err error) {
	if m.err == nil {
		m.err = err
	}
}

// mendable reports whether the failure is one a default may stand in for.
func (m *Machine) mendable() bool {
	return m.err != errBudget && m.err != errVarBytes && m.ctx.Err() == nil
}

func (m *Machine) cached(kind, key string, build func() any) any {
	if v, ok := m.cache[cacheKey{kind, key}]; ok {
		return v
	}
	if len(key) > maxCachedKey {
		return build()
	}
	if m.cache == nil || len(m.cache) >= maxCached {
		m.cache = make(map[cacheKey]any)
	}
	v := build()
	m.cache[cacheKey{kind, strings.Clone(key)}] = v
	return v
}

func (m *Machine) once(kind, key string, build func() any) any {
	if v, ok := m.answers[cacheKey{kind, key}]; ok {
		return v
	}
	v := build()
	if m.answers == nil {
		m.answers = make(map[cacheKey]any)
	}
	m.answers[cacheKey{kind, strings.Clone(key)}] = v
	return v
}
