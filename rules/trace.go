package rules

import "github.com/weir-iot/weir/rules/lane"

// Handling is how one event stands with the version of a rule whose it is.
type Handling struct {
	Version int
	Actions []ActionHandling
}

// ActionHandling is how one event stands with one action.
type ActionHandling struct {
	Index int
	Kind  string
	lane.Trace
	// Settled: the action's position has passed the event. Without a State its
	// result, if there was one, was delivered or is among the recorded outcomes.
	Settled bool
}

// Trace returns how the event at seq stands with the rule of a name. false: no
// version that runs here has the event as its own: the rule began later, or its
// version of then has drained.
func (e *Engine) Trace(name string, partition int, seq uint64) (Handling, bool) {
	if partition < 0 || partition >= len(e.parts) {
		return Handling{}, false
	}
	s := e.parts[partition].current()
	if s == nil {
		return Handling{}, false
	}
	at := s.position.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.versions {
		if v.stored.Rule.Name != name || seq <= v.from || seq > v.end {
			continue
		}
		h := Handling{Version: v.stored.Version}
		for _, r := range v.lanes {
			if !r.left.Load() {
				r.lane.Advance(at)
			}
			h.Actions = append(h.Actions, ActionHandling{
				Index: r.index, Kind: v.stored.Rule.Actions[r.index].Kind,
				Trace: r.lane.Trace(seq), Settled: r.lane.State().Confirmed >= seq,
			})
		}
		return h, true
	}
	return Handling{}, false
}
