package mqtt

import "github.com/weir-iot/weir/internal/topic"

// aliases are the topic aliases of what is sent to a client. They last as long
// as its connection. The session's lock guards them.
type aliases struct {
	max   int // as CONNECT allows; 0: none
	of    map[topic.Name]uint16
	names []aliased // by alias, from 1
	sent  uint64
}

type aliased struct {
	name topic.Name
	at   uint64 // when it was last sent
}

const (
	aliasProperty = 3  // bytes an alias costs
	aliasIdle     = 64 // messages after which an alias is free for another topic
)

// get returns the alias of n, 0 where it has none. known tells that the client
// knows it: the name is left out.
func (a *aliases) get(n topic.Name) (alias uint16, known bool) {
	a.sent++
	if i, ok := a.of[n]; ok {
		a.names[i-1].at = a.sent
		return i, true
	}
	if len(n) <= aliasProperty {
		return 0, false
	}
	if a.of == nil {
		a.of = make(map[topic.Name]uint16, min(a.max, 8))
	}
	i := len(a.names)
	if i < a.max {
		a.names = append(a.names, aliased{})
	} else {
		i = 0
		for k := range a.names {
			if a.names[k].at < a.names[i].at {
				i = k
			}
		}
		if a.sent-a.names[i].at < aliasIdle {
			return 0, false
		}
		delete(a.of, a.names[i].name)
	}
	a.names[i] = aliased{n, a.sent}
	a.of[n] = uint16(i + 1)
	return uint16(i + 1), false
}

// unsent takes back what get gave n for the first time: the packet was not sent.
func (a *aliases) unsent(n topic.Name) {
	if i, ok := a.of[n]; ok {
		delete(a.of, n)
		a.names[i-1] = aliased{}
	}
}
