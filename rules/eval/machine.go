package eval

import (
	"context"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// Machine is the memory one goroutine evaluates with. It may be used with any
// number of programs, one at a time. Make it with NewMachine.
type Machine struct {
	ctx            context.Context
	event          *event.Event
	rest           topic.Name // the event's topic without a Basic Ingest prefix
	err            error      // first failure of this evaluation
	left           int        // bytes this evaluation may still use
	iteration      uint64     // of nested queries
	regexLimitHits uint64
	cache          map[cacheKey]any // lives with the Machine; emptied when full
	answers        map[cacheKey]any // lives for one evaluation
}

type cacheKey struct{ kind, key string }

// maxCached bounds Machine.cache.
const maxCached = 256

// NewMachine returns a Machine.
func NewMachine() *Machine { return &Machine{} }

// RegexLimitHits returns how many regular expressions were given up at their
// step limit since the Machine was made.
func (m *Machine) RegexLimitHits() uint64 { return m.regexLimitHits }

func (m *Machine) topic() topic.Name { return m.rest }

func (m *Machine) charge(n int) bool {
	if m.left -= n; m.left < 0 || n < 0 {
		m.fail(ErrBudget)
		return false
	}
	return m.err == nil
}

func (m *Machine) fail(err error) {
	if m.err == nil {
		m.err = err
	}
}

func (m *Machine) cached(kind, key string, build func() any) any {
	k := cacheKey{kind, key}
	if v, ok := m.cache[k]; ok {
		return v
	}
	if m.cache == nil || len(m.cache) >= maxCached {
		m.cache = make(map[cacheKey]any)
	}
	v := build()
	m.cache[k] = v
	return v
}

func (m *Machine) once(kind, key string, build func() any) any {
	k := cacheKey{kind, key}
	if v, ok := m.answers[k]; ok {
		return v
	}
	v := build()
	if m.answers == nil {
		m.answers = make(map[cacheKey]any)
	}
	m.answers[k] = v
	return v
}
