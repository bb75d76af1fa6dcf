package rules

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/rules/lane"
)

// RuleStatus is the account of one rule over all partitions this process owns.
type RuleStatus struct {
	Name    string         `json:"name"`
	Version int            `json:"version"` // of the newest version
	Enabled bool           `json:"enabled"`
	Deleted bool           `json:"deleted,omitempty"` // only what it matched before is still delivered
	Closed  int            `json:"closed,omitempty"`  // versions before it that still have results to deliver
	Error   string         `json:"error,omitempty"`   // why it cannot be run
	Actions []ActionStatus `json:"actions"`
}

// ActionStatus is the account of one action. Matched = Delivered +
// ErrorDelivered + Dead + Pending, counted over all versions of the rule in
// which the action stood at this place.
type ActionStatus struct {
	Index          int       `json:"index"`
	Kind           string    `json:"kind"`
	Matched        uint64    `json:"matched"`
	Delivered      uint64    `json:"delivered"`
	ErrorDelivered uint64    `json:"errorDelivered"`
	Dead           uint64    `json:"dead"`
	Pending        uint64    `json:"pending"`
	PendingBytes   int       `json:"pendingBytes"`
	Oldest         time.Time `json:"oldestPending,omitzero"` // arrival of the oldest pending event
	Lag            uint64    `json:"lag"`                    // events on the log behind the confirmed position
	Retries        uint64    `json:"retries"`
	LastError      string    `json:"lastError,omitempty"`
	LastFailed     time.Time `json:"lastFailed,omitzero"`
	Breaker        string    `json:"breaker"` // "closed", "probing" or "open": the worst of the partitions
	DownSince      time.Time `json:"downSince,omitzero"`
	AtHead         bool      `json:"atHead"` // false: a lane follows the log by itself
	Lanes          int       `json:"lanes"`  // of the newest version that run, one a partition
}

// PartitionStatus is one partition's worker.
type PartitionStatus struct {
	Partition int    `json:"partition"`
	Owned     bool   `json:"owned"` // by this process
	Epoch     uint64 `json:"epoch"`
	Position  uint64 `json:"position"`
	Committed uint64 `json:"committed"`
	Trimmed   uint64 `json:"trimmed"` // events lost to trimming before a rule had read them
	Panics    uint64 `json:"panics"`  // evaluations that panicked
	Loops     uint64 `json:"loops"`   // matches refused because the message had gone through too many rules
}

// Status returns the accounts of all rules, sorted by name.
func (e *Engine) Status() []RuleStatus {
	byName := map[string]*RuleStatus{}
	get := func(name string) *RuleStatus {
		rs := byName[name]
		if rs == nil {
			rs = &RuleStatus{Name: name, Deleted: true, Actions: []ActionStatus{}}
			byName[name] = rs
		}
		return rs
	}
	e.mu.Lock()
	for _, n := range e.entries {
		rs := get(n.stored.Rule.Name)
		if n.closed {
			rs.Closed++
			rs.Version = max(rs.Version, n.stored.Version)
			continue
		}
		rs.Deleted, rs.Enabled, rs.Version = false, !n.stored.Rule.Disabled, n.stored.Version
		if n.err != nil {
			rs.Error = n.err.Error()
		}
		for i, a := range n.stored.Rule.Actions {
			rs.action(i, a.Kind)
		}
	}
	e.mu.Unlock()
	for _, p := range e.parts {
		if s := p.current(); s != nil {
			s.addTo(get)
		}
	}
	return sorted(byName)
}

func sorted(byName map[string]*RuleStatus) []RuleStatus {
	out := make([]RuleStatus, 0, len(byName))
	for _, rs := range byName {
		slices.SortFunc(rs.Actions, func(a, b ActionStatus) int {
			return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Kind, b.Kind))
		})
		out = append(out, *rs)
	}
	slices.SortFunc(out, func(a, b RuleStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// MergeStatus joins the accounts of processes that own different partitions.
func MergeStatus(lists ...[]RuleStatus) []RuleStatus {
	byName := map[string]*RuleStatus{}
	for _, list := range lists {
		for _, in := range list {
			rs := byName[in.Name]
			if rs == nil {
				rs = &RuleStatus{Name: in.Name, Deleted: true, Actions: []ActionStatus{}}
				byName[in.Name] = rs
			}
			// A process that lags behind the store knows an older version; its lanes
			// are not of the newest.
			newer := in.Version > rs.Version || in.Version == rs.Version && rs.Deleted && !in.Deleted
			older := in.Version < rs.Version
			if newer {
				rs.Version, rs.Enabled, rs.Deleted, rs.Error = in.Version, in.Enabled, in.Deleted, in.Error
				for i := range rs.Actions {
					rs.Actions[i].Lanes = 0
				}
			} else if rs.Error == "" {
				rs.Error = in.Error
			}
			rs.Closed = max(rs.Closed, in.Closed)
			for _, a := range in.Actions {
				if older {
					a.Lanes = 0
				}
				rs.action(a.Index, a.Kind).merge(&a)
			}
		}
	}
	return sorted(byName)
}

func (a *ActionStatus) merge(b *ActionStatus) {
	a.Matched += b.Matched
	a.Delivered += b.Delivered
	a.ErrorDelivered += b.ErrorDelivered
	a.Dead += b.Dead
	a.Pending += b.Pending
	a.PendingBytes += b.PendingBytes
	a.Lag += b.Lag
	a.Retries += b.Retries
	a.Lanes += b.Lanes
	a.AtHead = a.AtHead && b.AtHead
	if !b.Oldest.IsZero() && (a.Oldest.IsZero() || b.Oldest.Before(a.Oldest)) {
		a.Oldest = b.Oldest
	}
	if b.LastFailed.After(a.LastFailed) {
		a.LastError, a.LastFailed = b.LastError, b.LastFailed
	}
	if worse(b.Breaker, a.Breaker) {
		a.Breaker = b.Breaker
	}
	if !b.DownSince.IsZero() && (a.DownSince.IsZero() || b.DownSince.Before(a.DownSince)) {
		a.DownSince = b.DownSince
	}
}

// Partitions returns the state of each partition's worker.
func (e *Engine) Partitions() []PartitionStatus {
	out := make([]PartitionStatus, len(e.parts))
	for i, p := range e.parts {
		ps := PartitionStatus{Partition: i, Committed: e.o.Log.Committed(i)}
		if s := p.current(); s != nil {
			s.mu.Lock()
			ps.Owned, ps.Epoch, ps.Trimmed, ps.Panics, ps.Loops = true, s.epoch, s.gaps, s.panics, s.loops
			s.mu.Unlock()
			ps.Position = s.position.Load()
		}
		out[i] = ps
	}
	return out
}

func (p *partition) current() *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.session
}

func (rs *RuleStatus) action(i int, kind string) *ActionStatus {
	for k := range rs.Actions {
		if rs.Actions[k].Index == i && rs.Actions[k].Kind == kind {
			return &rs.Actions[k]
		}
	}
	rs.Actions = append(rs.Actions, ActionStatus{Index: i, Kind: kind, Breaker: "closed", AtHead: true})
	return &rs.Actions[len(rs.Actions)-1]
}

func (a *ActionStatus) add(c lane.Counts) {
	a.Delivered += c.Delivered
	a.ErrorDelivered += c.ErrorDelivered
	a.Dead += c.Dead
	a.Matched += c.Settled()
}

// addTo adds this partition's part to the accounts.
func (s *session) addTo(get func(string) *RuleStatus) {
	committed := s.e.o.Log.Committed(s.p.id)
	at := s.position.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, c := range s.past {
		name := ruleOfPast(k)
		idx, kind := splitPast(k)
		get(name).action(idx, kind).add(c)
	}
	for _, v := range s.versions {
		rs := get(v.stored.Rule.Name)
		if v.failed != nil && rs.Error == "" {
			rs.Error = v.failed.Error()
		}
		for _, r := range v.lanes {
			a := rs.action(r.index, v.stored.Rule.Actions[r.index].Kind)
			if v.end == open && v.stored.Version == rs.Version {
				a.Lanes++
			}
			left := r.left.Load()
			if !left {
				r.lane.Advance(at)
			}
			st := r.lane.Status()
			a.add(st.Counts)
			a.Matched += uint64(st.Pending)
			a.Pending += uint64(st.Pending)
			a.PendingBytes += st.Bytes
			a.Retries += st.Retries
			if !st.Oldest.IsZero() && (a.Oldest.IsZero() || st.Oldest.Before(a.Oldest)) {
				a.Oldest = st.Oldest
			}
			if st.LastFailed.After(a.LastFailed) {
				a.LastError, a.LastFailed = st.LastError, st.LastFailed
			}
			if worse(st.Breaker, a.Breaker) {
				a.Breaker = st.Breaker
			}
			if !st.DownSince.IsZero() && (a.DownSince.IsZero() || st.DownSince.Before(a.DownSince)) {
				a.DownSince = st.DownSince
			}
			end := min(committed, v.end)
			if end > st.Confirmed {
				a.Lag += end - st.Confirmed
			}
			if left && st.Confirmed < end {
				a.AtHead = false
			}
		}
	}
}

func splitPast(k string) (index int, kind string) {
	rest := k[len(ruleOfPast(k))+1:]
	for i := range len(rest) {
		if rest[i] == '/' {
			index, _ = strconv.Atoi(rest[:i])
			return index, rest[i+1:]
		}
	}
	return 0, rest
}

func worse(a, b string) bool {
	rank := func(s string) int { return slices.Index([]string{"closed", "probing", "open"}, s) }
	return rank(a) > rank(b)
}

// maxSeries bounds the rules that have a metric series of their own; the rest is
// summed under rule="_other".
const maxSeries = 500

var (
	descResults = prometheus.NewDesc("weir_rule_results_total", "Results of a rule's action by what became of them: delivered, error_delivered, dead.", []string{"rule", "action", "outcome"}, nil)
	descPending = prometheus.NewDesc("weir_rule_results_pending", "Results of a rule's action that are not settled.", []string{"rule", "action"}, nil)
	descLag     = prometheus.NewDesc("weir_rule_lag_events", "Events on the log behind the position a rule's action has confirmed.", []string{"rule", "action"}, nil)
	descRetries = prometheus.NewDesc("weir_rule_retries_total", "Failed tries of a rule's action.", []string{"rule", "action"}, nil)
	descOpen    = prometheus.NewDesc("weir_rule_breaker_open", "1 while the destination of a rule's action cannot be reached.", []string{"rule", "action"}, nil)
	descAway    = prometheus.NewDesc("weir_rule_lane_away", "1 while a lane of a rule's action follows the log by itself.", []string{"rule", "action"}, nil)
	descPos     = prometheus.NewDesc("weir_rules_position", "Position of the shared worker.", []string{"partition"}, nil)
	descTrimmed = prometheus.NewDesc("weir_rules_trimmed_total", "Events that were trimmed before a rule had read them.", []string{"partition"}, nil)
	descPanics  = prometheus.NewDesc("weir_rules_panics_total", "Evaluations that panicked.", []string{"partition"}, nil)
	descLoops   = prometheus.NewDesc("weir_rules_loops_total", "Matches refused because the message had passed too many rules.", []string{"partition"}, nil)
)

// Describe implements prometheus.Collector.
func (e *Engine) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descResults, descPending, descLag, descRetries, descOpen, descAway, descPos, descTrimmed, descPanics, descLoops} {
		ch <- d
	}
}

// Collect implements prometheus.Collector: the accounts are read when somebody
// asks, the way of a message pays nothing for them.
func (e *Engine) Collect(ch chan<- prometheus.Metric) {
	type key struct{ rule, action string }
	sums := map[key]*ActionStatus{}
	var order []key
	for i, rs := range e.Status() {
		for _, a := range rs.Actions {
			k := key{rs.Name, strconv.Itoa(a.Index) + "-" + a.Kind}
			if i >= maxSeries {
				k = key{"_other", "_other"}
			}
			sum := sums[k]
			if sum == nil {
				sum = &ActionStatus{AtHead: true, Breaker: "closed"}
				sums[k] = sum
				order = append(order, k)
			}
			sum.add(lane.Counts{Delivered: a.Delivered, ErrorDelivered: a.ErrorDelivered, Dead: a.Dead})
			sum.Pending += a.Pending
			sum.Lag += a.Lag
			sum.Retries += a.Retries
			sum.AtHead = sum.AtHead && a.AtHead
			if worse(a.Breaker, sum.Breaker) {
				sum.Breaker = a.Breaker
			}
		}
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	for _, k := range order {
		a := sums[k]
		for _, o := range []struct {
			name string
			n    uint64
		}{{"delivered", a.Delivered}, {"error_delivered", a.ErrorDelivered}, {"dead", a.Dead}} {
			ch <- prometheus.MustNewConstMetric(descResults, prometheus.CounterValue, float64(o.n), k.rule, k.action, o.name)
		}
		ch <- prometheus.MustNewConstMetric(descPending, prometheus.GaugeValue, float64(a.Pending), k.rule, k.action)
		ch <- prometheus.MustNewConstMetric(descLag, prometheus.GaugeValue, float64(a.Lag), k.rule, k.action)
		ch <- prometheus.MustNewConstMetric(descRetries, prometheus.CounterValue, float64(a.Retries), k.rule, k.action)
		ch <- prometheus.MustNewConstMetric(descOpen, prometheus.GaugeValue, flag(a.Breaker != "closed"), k.rule, k.action)
		ch <- prometheus.MustNewConstMetric(descAway, prometheus.GaugeValue, flag(!a.AtHead), k.rule, k.action)
	}
	for _, p := range e.Partitions() {
		l := strconv.Itoa(p.Partition)
		ch <- prometheus.MustNewConstMetric(descPos, prometheus.GaugeValue, float64(p.Position), l)
		ch <- prometheus.MustNewConstMetric(descTrimmed, prometheus.CounterValue, float64(p.Trimmed), l)
		ch <- prometheus.MustNewConstMetric(descPanics, prometheus.CounterValue, float64(p.Panics), l)
		ch <- prometheus.MustNewConstMetric(descLoops, prometheus.CounterValue, float64(p.Loops), l)
	}
}

// Idle blocks until the engine has taken up the rules that are in the store now
// and every lane this process runs has confirmed all that is committed now, or
// ctx ends.
func (e *Engine) Idle(ctx context.Context) error {
	ends := make([]uint64, len(e.parts))
	for i := range ends {
		ends[i] = e.o.Log.Committed(i)
	}
	for {
		list, err := e.o.Store.List(ctx)
		if err != nil {
			return err
		}
		idle := true
		for i, p := range e.parts {
			s := p.current()
			idle = idle && s != nil && s.runs(list) && s.confirmed() >= ends[i]
		}
		if idle {
			return nil
		}
		if !pause(ctx, 5*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// runs reports whether the worker has taken up every enabled rule of list.
func (s *session) runs(list []Stored) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range list {
		if v := s.versions[st.Revision]; !st.Rule.Disabled && (v == nil || !v.taken) {
			return false
		}
	}
	return true
}

// confirmed returns the position that all running lanes have confirmed.
func (s *session) confirmed() uint64 {
	at := s.position.Load()
	low := at
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.versions {
		for _, r := range v.lanes {
			if !r.left.Load() {
				r.lane.Advance(at)
			}
			if c := r.lane.State().Confirmed; c < v.end {
				low = min(low, c)
			}
		}
	}
	return low
}
