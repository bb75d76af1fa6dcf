package rules

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/rules/lane"
)

// partition runs the rules of one partition whenever this process owns it.
type partition struct {
	engine *Engine
	id     int
	log    *slog.Logger

	// opened is the committed end when the engine was made, before anything was
	// appended, or what the log was left with when it lost its end: no position of
	// that time (openedAt) may lie behind it. Once others may have had the
	// partition, or this process has, it bounds nothing: open.
	opened   uint64
	openedAt time.Time

	mu      sync.Mutex
	session *session // nil: not the owner
}

func (p *partition) run(ctx context.Context) {
	lost := false
	for ctx.Err() == nil {
		s, err := p.acquire(ctx, lost)
		if err == nil {
			p.mu.Lock()
			p.session = s
			p.mu.Unlock()
			err = s.run(ctx)
			p.opened, p.openedAt = s.back.Load(), p.engine.o.Now()
			p.mu.Lock()
			p.session = nil
			p.mu.Unlock()
			lost = errors.Is(err, errLost)
		}
		if ctx.Err() != nil {
			return
		}
		p.log.Error("the rules of a partition have stopped; taking them up again", "error", err)
		pause(ctx, 500*time.Millisecond)
	}
}

const holdName = "rules"

// holdAll keeps trimming off the partition: whoever does not own it does not know
// its positions. Its owner trims.
func (p *partition) holdAll() {
	p.engine.o.Log.Hold(holdName, p.id, func() uint64 { return 0 })
}

var errLost = errors.New("another process has taken the partition over")

// acquire waits for the partition's lease. A lease has run out when its record
// did not change for LeaseTTL by this process's own clock, so clocks need not
// agree.
func (p *partition) acquire(ctx context.Context, lost bool) (*session, error) {
	e := p.engine
	if err := e.waitLoaded(ctx); err != nil {
		return nil, err
	}
	var seen uint64
	since := time.Now()
	for {
		rec, rev, err := loadRecord(ctx, e.o.Positions, p.id)
		if err != nil {
			return nil, err
		}
		if rev != seen {
			seen, since = rev, time.Now()
		}
		free := rec.Owner == "" || rec.Owner == e.o.Owner && !lost || time.Since(since) >= e.o.LeaseTTL
		if !free {
			p.opened = open
			if !pause(ctx, e.o.LeaseTTL/10) {
				return nil, ctx.Err()
			}
			continue
		}
		rec.Owner = e.o.Owner
		rec.Epoch++
		b, err := json.Marshal(rec)
		if err != nil {
			return nil, err
		}
		rev, err = e.o.Positions.Update(ctx, recordKey(p.id), b, rev)
		if errs.Is(err, errs.Conflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return newSession(p, rec, rev), nil
	}
}

// waitLoaded blocks until the store has been read.
func (e *Engine) waitLoaded(ctx context.Context) error {
	for {
		_, loaded, changed := e.current()
		if loaded {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pause waits for d; false: ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// session is the time between taking a partition's lease and losing it.
type session struct {
	p        *partition
	e        *Engine
	restored record // as it was found; read only
	end      uint64 // committed when the session began, or when the log was opened: no restored position may lie behind it
	bounded  bool   // the second: nor where versions of that time begin and end

	// Of the saver alone.
	rev    uint64
	saved  []byte // what was written last
	epoch  uint64
	finish map[uint64]string // versions that have drained here, by revision: not cleared from the store yet

	position atomic.Uint64 // the shared worker has offered everything up to here
	held     atomic.Uint64 // lowest position that a restart would read from
	back     atomic.Uint64 // the end the log has gone back to; open: it has not
	next     atomic.Pointer[table]

	stop context.CancelCauseFunc // ends the session

	wakeMu  sync.Mutex
	wakeCtx context.Context // ends to call the worker away from waiting for events
	wakeUp  context.CancelFunc

	readers, deliverers       sync.WaitGroup
	readersCtx, deliverersCtx context.Context

	mu       sync.Mutex // guards the following and each version's from
	versions map[uint64]*version
	past     map[string]lane.Counts
	done     map[uint64]bool
	ended    map[string]uint64 // where the last closed version of a rule ended
	joining  []*runner         // have caught up and want to be taken over by the worker
	gaps     uint64            // events lost to trimming
	panics   uint64
	loops    uint64
}

// table is what the worker looks rules up in. It is immutable.
type table struct {
	match    *trie
	byName   map[string][]*version
	versions []*version            // by name and age
	closed   map[*version][]uint64 // End of the closed ones
}

// version is one version of a rule in this partition.
type version struct {
	stored Stored
	prog   Program
	lanes  []*runner
	kept   *savedVersion // the version cannot be run: what to save for it
	failed error         // why
	known  bool          // it was in the restored record
	taken  bool          // the worker has taken it up

	from uint64 // events up to here belong to earlier versions

	// mu is held by who offers for a lane that follows by itself, event by event,
	// and by the worker when it sets end.
	mu   sync.Mutex
	end  uint64 // the last position that is this version's; open: no end
	stop context.CancelFunc
	ctx  context.Context // of its lanes' followers
	lctx context.Context // of its lanes

	strikes struct { // evaluations over a work limit
		n     int
		since time.Time
	}
	hot atomic.Bool // over the work limit too often, or calls out: stays out of the worker
}

const open = math.MaxUint64

// runner is a lane with the way it reads.
type runner struct {
	v     *version
	index int
	lane  lane.Lane

	left atomic.Bool // follows by itself
	// pos: everything up to here was offered. It belongs to the worker while the
	// lane is with it (and then only says that the lane is ahead of the worker),
	// else to the follower, under v.mu.
	pos uint64
	f   Follower // handed over with the runner; nil: make one at pos
}

func newSession(p *partition, rec record, rev uint64) *session {
	s := &session{
		p: p, e: p.engine, restored: rec, rev: rev, epoch: rec.Epoch,
		versions: map[uint64]*version{}, past: map[string]lane.Counts{}, done: map[uint64]bool{},
		ended: map[string]uint64{}, finish: map[uint64]string{},
	}
	s.back.Store(open)
	maps.Copy(s.past, rec.Past)
	for _, r := range rec.Done {
		s.done[r] = true
	}
	return s
}

// run serves the partition until ctx ends or the lease is lost.
func (s *session) run(ctx context.Context) error {
	ctx, s.stop = context.WithCancelCause(ctx)
	defer s.stop(nil)
	readersCtx, stopReaders := context.WithCancel(ctx)
	deliverersCtx, stopDeliverers := context.WithCancel(context.WithoutCancel(ctx))
	s.readersCtx, s.deliverersCtx = readersCtx, deliverersCtx
	s.rearm()
	defer func() {
		s.wakeMu.Lock()
		s.wakeUp()
		s.wakeMu.Unlock()
	}()
	s.end = min(s.e.o.Log.Committed(s.p.id), s.p.opened)
	s.bounded = s.p.opened != open
	start := s.startPosition()
	s.position.Store(start)
	s.held.Store(s.lowestRestored(start))
	s.e.o.Log.Hold(holdName, s.p.id, s.held.Load)
	defer s.p.holdAll()

	w := &worker{s: s, machine: s.e.o.Language.NewMachine(), at: start}
	known := map[uint64]*version{}
	changed := s.prepare(known)
	s.readers.Go(func() {
		for {
			select {
			case <-changed:
			case <-readersCtx.Done():
				return
			}
			pause(readersCtx, 2*time.Millisecond) // changes come in groups
			changed = s.prepare(known)
		}
	})
	w.settle() // before the first save: it must hold every version
	s.readers.Go(func() { w.run(readersCtx) })

	err := s.save(ctx)
	stopReaders()
	s.readers.Wait()
	for _, r := range s.joining {
		r.f.Close()
	}
	stopDeliverers()
	s.deliverers.Wait()
	if errors.Is(err, errLost) {
		return err
	}
	final, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.write(final, true); err != nil {
		s.p.log.Error("the last positions could not be saved; what was delivered since is delivered again", "error", err)
	}
	return err
}

// spread is how far behind the foremost lane another one may be to be served by
// the worker after a restart, in events. The others begin by following by themselves.
const spread = 10_000

// startPosition returns where the worker begins: at the lowest of the restored
// lanes that are close to the foremost one.
func (s *session) startPosition() uint64 {
	list, _, _ := s.e.current()
	var all []uint64
	for _, n := range list {
		sv, ok := s.restored.Versions[n.stored.Revision]
		if !ok || n.prog == nil {
			continue
		}
		for i := range n.stored.Rule.Actions {
			all = append(all, s.clamp(s.restoredLane(sv, i).Confirmed))
		}
	}
	if len(all) == 0 {
		return s.end
	}
	top := slices.Max(all)
	low := top
	for _, c := range all {
		if c < low && c+spread >= top {
			low = c
		}
	}
	return low
}

func (s *session) restoredLane(sv savedVersion, i int) lane.State {
	if l, ok := sv.Lanes[i]; ok {
		return l.state()
	}
	return lane.State{Confirmed: s.restored.Position}
}

// clamp bounds a saved position: what lay behind the committed end was lost
// with an unsynced tail, and its sequences are used again.
func (s *session) clamp(pos uint64) uint64 { return min(pos, s.end) }

// bound is clamp for where a version begins or ends, if that was written before
// the end was lost.
func (s *session) bound(st Stored, pos uint64) uint64 {
	if s.bounded && st.UpdatedAt.Before(s.p.openedAt) {
		return s.clamp(pos)
	}
	return pos
}

func (s *session) lowestRestored(low uint64) uint64 {
	for _, sv := range s.restored.Versions {
		low = min(low, s.restored.Position)
		for _, l := range sv.Lanes {
			low = min(low, l.Confirmed)
		}
	}
	list, _, _ := s.e.current()
	for _, n := range list {
		if p := s.p.id; p < len(n.stored.Start) && !s.done[n.stored.Revision] {
			if _, ok := s.restored.Versions[n.stored.Revision]; !ok {
				low = min(low, n.stored.Start[p])
			}
		}
	}
	return low
}

// prepare makes the table of the store's current rules and hands it to the
// worker. known holds the versions of the table before.
func (s *session) prepare(known map[uint64]*version) (changed <-chan struct{}) {
	list, _, changed := s.e.current()
	t := &table{match: newTrie(), byName: map[string][]*version{}, closed: map[*version][]uint64{}}
	live := map[uint64]bool{}
	for _, n := range list {
		rev := n.stored.Revision
		s.mu.Lock()
		done := s.done[rev]
		s.mu.Unlock()
		if done {
			continue
		}
		if live[rev] {
			// Its closed record has come, what replaces it has not.
			if n.closed {
				t.closed[known[rev]] = n.stored.End
			}
			continue
		}
		live[rev] = true
		v := known[rev]
		if v == nil {
			v = s.newVersion(n)
			known[rev] = v
		}
		t.versions = append(t.versions, v)
		if n.closed {
			t.closed[v] = n.stored.End
		}
		if v.kept != nil {
			continue
		}
		t.byName[n.stored.Rule.Name] = append(t.byName[n.stored.Rule.Name], v)
		if f, ok := v.prog.Filter(); ok {
			t.match.Add(f, v)
		}
	}
	for rev := range known {
		if !live[rev] {
			delete(known, rev)
		}
	}
	s.next.Store(t)
	s.wake()
	return changed
}

// newVersion makes the version and its lanes; nothing of it runs yet.
func (s *session) newVersion(n *entry) *version {
	v := &version{stored: n.stored, prog: n.prog, end: open}
	sv, known := s.restored.Versions[n.stored.Revision]
	v.known = known
	v.from = s.end
	if p := s.p.id; p < len(n.stored.Start) {
		v.from = s.bound(n.stored, n.stored.Start[p])
	}
	if known {
		v.from = s.bound(n.stored, sv.From)
	}
	v.failed = n.err
	v.hot.Store(n.prog != nil && n.prog.CallsOut())
	if n.prog == nil && v.failed == nil {
		v.failed = errors.New("the statement was not compiled")
	}
	for i := 0; v.failed == nil && i < len(n.stored.Rule.Actions); i++ {
		st := lane.State{Confirmed: v.from}
		if known {
			st = s.restoredLane(sv, i)
		}
		st.Confirmed = s.clamp(st.Confirmed)
		l, err := s.e.o.Lanes(s.readersCtx, LaneSpec{
			Rule: n.stored.Rule, Program: n.prog, Version: n.stored.Revision, Index: i, Partition: s.p.id, State: st,
		})
		if err != nil {
			v.failed = err
			s.p.log.Error("a stored rule cannot be run; its positions are kept", "rule", n.stored.Rule.Name, "action", i, "error", err)
			break
		}
		r := &runner{v: v, index: i, lane: l, pos: st.Confirmed}
		r.left.Store(true) // until the worker has taken it up
		v.lanes = append(v.lanes, r)
	}
	if v.failed != nil {
		v.lanes = nil
		if !known {
			sv = savedVersion{Rule: n.stored.Rule.Name, From: v.from}
		}
		kept := savedVersion{Rule: sv.Rule, From: sv.From, Lanes: map[int]savedLane{}}
		for i := range MaxActions {
			st := lane.State{Confirmed: v.from}
			if known {
				st = s.restoredLane(sv, i)
			}
			kept.Lanes[i] = saveLane(st)
		}
		v.kept = &kept
		return v
	}
	readersCtx, stopReaders := context.WithCancel(s.readersCtx)
	deliverersCtx, stopDeliverers := context.WithCancel(s.deliverersCtx)
	v.ctx, v.lctx = readersCtx, deliverersCtx
	v.stop = func() { stopReaders(); stopDeliverers() }
	return v
}

// rearm makes a new wake-up call. wake ends the present one.
func (s *session) rearm() {
	s.wakeMu.Lock()
	if s.wakeUp != nil {
		s.wakeUp()
	}
	s.wakeCtx, s.wakeUp = context.WithCancel(s.readersCtx)
	s.wakeMu.Unlock()
}

func (s *session) wake() {
	s.wakeMu.Lock()
	s.wakeUp()
	s.wakeMu.Unlock()
}

func (s *session) waiting() context.Context {
	s.wakeMu.Lock()
	defer s.wakeMu.Unlock()
	return s.wakeCtx
}

// take makes t the worker's table at position at. It is called by the worker
// between two events.
func (s *session) take(t, old *table, at uint64, follow func(*runner)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var prev *version
	for i, v := range t.versions {
		if prev != nil && prev.stored.Rule.Name != v.stored.Rule.Name {
			prev = nil
		}
		if !v.taken {
			v.taken = true
			s.follows(v, prev, t, at)
			s.versions[v.stored.Revision] = v
			for _, r := range v.lanes {
				if !v.known {
					r.pos = v.from
					r.lane.Advance(v.from)
				}
				s.deliverers.Go(func() {
					if err := r.lane.Run(v.lctx); err != nil {
						s.p.log.Error("a lane has not ended cleanly", "rule", v.stored.Rule.Name, "action", r.index, "error", err)
					}
				})
				if r.pos < at || v.hot.Load() {
					follow(r)
				} else {
					r.left.Store(false)
				}
			}
		}
		last := i+1 == len(t.versions) || t.versions[i+1].stored.Rule.Name != v.stored.Rule.Name
		if end, ok := t.closed[v]; ok && last && v.end == open {
			s.close(v, max(s.part(end), v.offered(at)))
		}
		prev = v
	}
	if old != nil {
		for _, v := range old.versions {
			if !slices.Contains(t.versions, v) {
				delete(s.versions, v.stored.Revision)
				if v.stop != nil {
					v.stop()
				}
			}
		}
	}
}

// follows settles where v takes over from prev, the version before it. Both
// sides keep to it across a restart: v's side is saved, and where it is not,
// nothing of v was saved either.
func (s *session) follows(v, prev *version, t *table, at uint64) {
	if prev == nil {
		if !v.known {
			v.from = max(v.from, s.ended[v.stored.Rule.Name])
		}
		return
	}
	if prev.end != open {
		if !v.known {
			v.from = max(v.from, prev.end)
		}
		return
	}
	end, closed := t.closed[prev]
	if closed && s.part(end) < s.part(v.stored.Start) { // disabled or deleted for a while
		s.close(prev, max(s.part(end), prev.offered(at)))
		if !v.known {
			v.from = max(v.from, prev.end)
		}
		return
	}
	if !v.known {
		v.from = max(v.from, prev.offered(at))
	}
	s.close(prev, v.from)
}

func (s *session) part(positions []uint64) uint64 {
	if s.p.id < len(positions) {
		return positions[s.p.id]
	}
	return 0
}

// offered returns the highest position that any of v's lanes may have been
// offered; the worker stands at at.
func (v *version) offered(at uint64) uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	high := v.from
	for _, r := range v.lanes {
		high = max(high, r.pos)
		if !r.left.Load() {
			high = max(high, at)
		}
	}
	if len(v.lanes) == 0 {
		high = max(high, at)
	}
	return high
}

func (s *session) close(v *version, end uint64) {
	v.mu.Lock()
	v.end = end
	v.mu.Unlock()
	s.ended[v.stored.Rule.Name] = end
}

// save writes the positions down until ctx ends or the lease is lost.
func (s *session) save(ctx context.Context) error {
	tick := time.NewTicker(s.e.o.SaveEvery)
	defer tick.Stop()
	written := time.Now()
	failing := false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		before := s.rev
		err := s.write(ctx, time.Since(written) >= s.e.o.LeaseTTL/3)
		switch {
		case errors.Is(err, errLost):
			return err
		case err != nil && ctx.Err() == nil:
			if !failing {
				s.p.log.Error("positions cannot be saved; trying again", "error", err)
			}
			failing = true
		case err == nil:
			failing = false
			if s.rev != before {
				written = time.Now()
			}
			s.clearDrained(ctx)
		}
	}
}

// write saves the record if it has changed, or in any case with force.
func (s *session) write(ctx context.Context, force bool) error {
	rec := s.record()
	if force && ctx.Err() == nil && s.readersCtx.Err() != nil {
		rec.Owner = "" // the last one: whoever comes next need not wait
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if !force && bytes.Equal(b, s.saved) {
		return nil
	}
	rev, err := s.e.o.Positions.Update(ctx, recordKey(s.p.id), b, s.rev)
	if errs.Is(err, errs.Conflict) {
		// A write of our own whose answer was lost may be what stands there.
		cur, curRev, lerr := loadRecord(ctx, s.e.o.Positions, s.p.id)
		if lerr != nil {
			return lerr
		}
		if cur.Owner != s.e.o.Owner || cur.Epoch != s.epoch {
			return errLost
		}
		s.rev = curRev
		rev, err = s.e.o.Positions.Update(ctx, recordKey(s.p.id), b, s.rev)
	}
	if err != nil {
		return err
	}
	s.rev, s.saved = rev, b
	s.held.Store(lowest(rec))
	return nil
}

func lowest(rec record) uint64 {
	low := rec.Position
	for _, v := range rec.Versions {
		for _, l := range v.Lanes {
			low = min(low, l.Confirmed)
		}
	}
	return low
}

// record gathers what is to be saved.
func (s *session) record() record {
	// The position is read before each lane is asked whether it is with the
	// worker: a lane that leaves does so before the position passes it.
	back := s.back.Load()
	at := min(s.position.Load(), back)
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := record{Owner: s.e.o.Owner, Epoch: s.epoch, Position: at, Versions: make(map[uint64]savedVersion, len(s.versions))}
	for rev, v := range s.versions {
		if v.kept != nil {
			rec.Versions[rev] = *v.kept
			continue
		}
		sv := savedVersion{Rule: v.stored.Rule.Name, From: min(v.from, back)}
		drained := v.end != open && back == open && (at >= v.end || len(v.lanes) > 0)
		states := make([]lane.State, len(v.lanes))
		for i, r := range v.lanes {
			if !r.left.Load() {
				r.lane.Advance(at)
			}
			st := r.lane.State()
			st.Confirmed = min(st.Confirmed, back)
			states[i] = st
			drained = drained && st.Confirmed >= v.end
			if st.Confirmed != at || st.Settled() > 0 || !st.DownSince.IsZero() {
				if sv.Lanes == nil {
					sv.Lanes = map[int]savedLane{}
				}
				sv.Lanes[i] = saveLane(st)
			}
		}
		if !drained {
			rec.Versions[rev] = sv
			continue
		}
		for i, st := range states {
			k := pastKey(v.stored.Rule, i)
			c := s.past[k]
			c.Add(st.Counts)
			s.past[k] = c
		}
		v.stop()
		s.done[rev] = true
		s.finish[rev] = v.stored.Rule.Name
		delete(s.versions, rev)
	}
	s.e.mu.Lock()
	for k := range s.past {
		if !s.e.has(ruleOfPast(k)) {
			delete(s.past, k)
		}
	}
	for rev := range s.done {
		name, ok := s.finish[rev]
		if !ok {
			name = s.doneName(rev)
		}
		if s.e.entries[closedKey(name, rev)] == nil && s.e.loaded {
			delete(s.done, rev)
			delete(s.finish, rev)
		}
	}
	s.e.mu.Unlock()
	rec.Past = maps.Clone(s.past)
	rec.Done = slices.Sorted(maps.Keys(s.done))
	return rec
}

// doneName finds the rule of a version that had drained before this session.
// e.mu is held.
func (s *session) doneName(rev uint64) string {
	for _, n := range s.e.entries {
		if n.closed && n.stored.Revision == rev {
			s.finish[rev] = n.stored.Rule.Name
			return n.stored.Rule.Name
		}
	}
	return ""
}

// has reports whether any version of the rule is in the store. e.mu is held.
func (e *Engine) has(name string) bool {
	if e.entries[prefix+name] != nil {
		return true
	}
	for _, n := range e.entries {
		if n.stored.Rule.Name == name {
			return true
		}
	}
	return false
}

func saveLane(st lane.State) savedLane {
	l := savedLane{Confirmed: st.Confirmed, Counts: st.Counts}
	if !st.DownSince.IsZero() {
		t := st.DownSince.UTC()
		l.DownSince = &t
	}
	return l
}

func pastKey(r *Rule, i int) string {
	return r.Name + "/" + strconv.Itoa(i) + "/" + r.Actions[i].Kind
}

func ruleOfPast(k string) string {
	name, _, _ := bytes.Cut([]byte(k), []byte("/"))
	return string(name)
}

// clearDrained takes versions that have drained out of the store, once the
// record that says so is saved.
func (s *session) clearDrained(ctx context.Context) {
	s.mu.Lock()
	todo := maps.Clone(s.finish)
	s.mu.Unlock()
	for rev, name := range todo {
		if err := s.e.finished(ctx, name, rev); err != nil {
			if ctx.Err() == nil {
				s.p.log.Warn("the record of a drained rule version could not be cleared; trying again", "rule", name, "error", err)
			}
			return
		}
	}
}
