package kv

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/eventlog/jet"
)

// Config names a bucket.
type Config struct {
	Name    string // letters, digits, - and _
	History int    // values kept of each key; default 1, at most MaxHistory
	Singles bool   // no Commit has several changes; with a history commits then need one sync less
}

// Entry is one value of a key.
type Entry struct {
	Key      string
	Value    []byte // empty: the key is cleared
	Revision uint64 // from 1, growing with every change of the bucket
	Time     time.Time
}

// Change is one part of a Commit.
type Change struct {
	Key      string
	Value    []byte // empty clears the key
	Expected uint64 // revision the key must have; 0: it must be absent
	Any      bool   // whatever the revision is
}

// MaxValue bounds a value, in bytes.
const MaxValue = jet.MaxMessage

// MaxHistory bounds the values that are kept of a key.
const MaxHistory = 1000

// Bucket is a set of keys with values and revisions. Its methods may be called
// concurrently; changes wait for the log's Run.
type Bucket struct {
	log      *eventlog.Log
	store    *jet.Store
	history  int
	singles  bool
	stream   string
	root     string // subject prefix, with its dot
	appender *jet.Appender[*unit]

	mu    sync.Mutex
	busy  map[string]chan struct{} // keys with a change under way; closed at its end
	end   uint64                   // committed
	lost  int                      // how often end has gone back
	moved chan struct{}            // closed and replaced when end moves
}

// Open makes or opens a bucket in the log's store. Its changes are committed
// while the log's Run runs. Whoever opens it again on the same log gets the same
// Bucket.
// Errors: errs.Invalid, also of another History or Singles than it is open with;
// errs.Unavailable.
func Open(_ context.Context, log *eventlog.Log, c Config) (*Bucket, error) {
	const op = "kv.Open"
	if c.Name == "" || strings.ContainsFunc(c.Name, func(r rune) bool { return r > 0x7f || !plain(byte(r)) }) {
		return nil, errs.Errorf(op, errs.Invalid, "bucket name %q: only letters, digits, - and _", c.Name)
	}
	if c.History == 0 {
		c.History = 1
	}
	if c.History < 1 || c.History > MaxHistory {
		return nil, errs.Errorf(op, errs.Invalid, "history of %d values: must be 1 to %d", c.History, MaxHistory)
	}
	one, err := log.Only("kv."+c.Name, func() (any, error) { return newBucket(log, c) })
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	b := one.(*Bucket)
	if b.history != c.History || b.singles != c.Singles {
		return nil, errs.Errorf(op, errs.Invalid, "bucket %s is open with a history of %d values, for single changes: %t", c.Name, b.history, b.singles)
	}
	return b, nil
}

func newBucket(log *eventlog.Log, c Config) (*Bucket, error) {
	s := log.Store()
	b := &Bucket{
		log: log, store: s, history: c.History, singles: c.Singles, stream: "KV_" + c.Name, root: "$KV." + c.Name + ".",
		busy: map[string]chan struct{}{}, moved: make(chan struct{}),
	}
	_, st, err := s.Ensure(jet.StreamConfig{
		Name: b.stream, Subjects: []string{b.root + ">"}, Description: "Weir's bucket " + c.Name, PerSubject: int64(c.History), Singles: c.Singles && c.History > 1,
	})
	if err != nil {
		return nil, err
	}
	b.opened(st)
	b.appender = jet.NewAppender(s, jet.AppenderConfig[*unit]{
		Stream: b.stream, MaxUnits: 4096, MaxQueue: 32 << 20,
		Opened: b.opened, Committed: b.committed,
	})
	log.Share(b.stream, b.committedEnd, func(end uint64, _ []byte) { b.moveEnd(end, false) })
	log.Serve(b.appender.Run)
	return b, nil
}

// unit is one Update or Commit in the appender's queue.
type unit struct {
	b       *Bucket
	changes []Change
	size    int
	done    chan jet.Result // one buffered
}

func (u *unit) Len() int  { return len(u.changes) }
func (u *unit) Size() int { return u.size }

func (u *unit) AppendSubject(b []byte, i int) []byte {
	return appendKey(append(b, u.b.root...), u.changes[i].Key)
}

func (u *unit) AppendHeader(b []byte, i int) []byte {
	c := &u.changes[i]
	if c.Any {
		return b
	}
	b = append(b, jet.ExpectedLast+":"...)
	return append(strconv.AppendUint(b, c.Expected, 10), "\r\n"...)
}

func (u *unit) Payload(i int) []byte { return u.changes[i].Value }
func (u *unit) Owner() any           { return nil }

// opened takes over the stream's end. It goes back where a tail was lost; with
// an external store a new leader may only not have come to its end yet.
func (b *Bucket) opened(st jet.StreamState) {
	if b.store.Embedded() {
		b.moveEnd(st.LastSeq, true)
		return
	}
	for began := time.Now(); st.LastSeq < b.committedEnd() && time.Since(began) < 3*time.Second; {
		time.Sleep(50 * time.Millisecond)
		if again, err := b.store.State(b.stream); err == nil {
			st = again
		}
	}
	// Judged before the end is read: meanwhile others may have moved it on.
	lost := st.LastSeq < b.committedEnd()
	if err := b.store.Settled(b.stream, st.LastSeq); err != nil {
		b.store.Logger().Warn("the end of a bucket cannot be read", "stream", b.stream, "err", err)
	}
	b.moveEnd(st.LastSeq, lost)
}

// committedEnd returns the last revision that is known to be committed.
func (b *Bucket) committedEnd() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end
}

func (b *Bucket) committed(units []*unit, res []jet.Result) {
	end := uint64(0)
	for i := range units {
		end = max(end, res[i].Seq)
	}
	b.moveEnd(end, false)
	if end > 0 {
		b.log.Announce(b.stream, end)
	}
	for i, u := range units {
		u.done <- res[i]
	}
}

func (b *Bucket) moveEnd(end uint64, back bool) {
	b.mu.Lock()
	if end > b.end || back && end != b.end {
		if end < b.end {
			b.lost++
		}
		b.end = end
		close(b.moved)
		b.moved = make(chan struct{})
	}
	b.mu.Unlock()
}

// announced is how long a change seen in an external store waits for the word
// of the process that made it, before the store is asked.
const announced = 20 * time.Millisecond

// settled waits until seq, which was seen in the store, is committed: an
// embedded store shows a plain write before its sync.
func (b *Bucket) settled(ctx context.Context, seq uint64) error {
	late := make(<-chan time.Time)
	if !b.store.Embedded() {
		t := time.NewTimer(announced)
		defer t.Stop()
		late = t.C
	}
	for {
		b.mu.Lock()
		end, moved := b.end, b.moved
		b.mu.Unlock()
		if end >= seq {
			return nil
		}
		select {
		case <-moved:
		case <-late:
			if err := b.store.Settled(b.stream, seq); err != nil {
				return err
			}
			b.moveEnd(seq, false)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next waits for a change behind seq. more is false where the end has gone back
// since it had done so lost times.
func (b *Bucket) next(ctx context.Context, seq uint64, lost int) (more bool, err error) {
	for {
		b.mu.Lock()
		end, moved, same := b.end, b.moved, b.lost == lost
		b.mu.Unlock()
		if !same || end > seq {
			return same, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

func checkKey(op, key string) error {
	if key == "" || len(key) > MaxKey {
		return errs.Errorf(op, errs.Invalid, "a key has 1 to %d bytes, not %d", MaxKey, len(key))
	}
	return nil
}

// Newest returns the revision of the last change there is, by whichever process.
// Errors: errs.Unavailable.
func (b *Bucket) Newest() (uint64, error) {
	st, err := b.store.State(b.stream)
	if err != nil {
		return 0, wrap("kv.Newest", err)
	}
	return st.LastSeq, nil
}

// Get returns a key's value. With the embedded store, and in a cluster through
// the stream's leader, it sees every change that was confirmed before it began,
// and none that is not yet durable.
// Errors: errs.NotFound (absent or cleared), errs.Invalid, errs.Unavailable.
func (b *Bucket) Get(ctx context.Context, key string) (Entry, error) {
	const op = "kv.Get"
	e, err := b.get(ctx, key)
	if err == nil && len(e.Value) == 0 {
		return Entry{}, errs.Errorf(op, errs.NotFound, "no value for %q", key)
	}
	if err != nil {
		return Entry{}, errs.E(op, errs.KindOf(err), err)
	}
	return e, nil
}

// get returns also a cleared key.
func (b *Bucket) get(ctx context.Context, key string) (Entry, error) {
	if err := checkKey("kv.Get", key); err != nil {
		return Entry{}, err
	}
	m, err := b.store.Last(b.stream, string(appendKey([]byte(b.root), key)))
	if err != nil {
		if errs.Is(err, errs.NotFound) {
			return Entry{}, errs.Errorf("kv.Get", errs.NotFound, "no value for %q", key)
		}
		return Entry{}, err
	}
	if err := b.settled(ctx, m.Seq); err != nil {
		return Entry{}, wrap("kv.Get", err)
	}
	return entry(key, &m), nil
}

func entry(key string, m *jet.Message) Entry {
	return Entry{Key: key, Value: append([]byte(nil), m.Payload...), Revision: m.Seq, Time: m.StoredAt()}
}

// Update sets a key's value if its revision is expected; 0: if it is absent or
// cleared. An empty value clears it. It returns the new revision, once it is
// durable.
// Errors: errs.Conflict, errs.Invalid, errs.TooLarge, errs.Quota,
// errs.Unavailable (not changed, or the outcome is unknown).
func (b *Bucket) Update(ctx context.Context, key string, value []byte, expected uint64) (uint64, error) {
	rev, err := b.Commit(ctx, []Change{{Key: key, Value: value, Expected: expected}})
	if err != nil {
		return 0, errs.E("kv.Update", errs.KindOf(err), err)
	}
	return rev, nil
}

// Commit makes all changes or none. Each key may occur once. It returns the
// revision of the last change; change i has rev - (len(changes)-1-i).
// Errors as Update's.
func (b *Bucket) Commit(ctx context.Context, changes []Change) (rev uint64, err error) {
	const op = "kv.Commit"
	if len(changes) == 0 {
		return 0, errs.Errorf(op, errs.Invalid, "nothing to change")
	}
	if b.singles && len(changes) > 1 {
		return 0, errs.Errorf(op, errs.Invalid, "%d changes at once: the bucket %s is open for single ones", len(changes), b.stream)
	}
	if len(changes) > jet.MaxUnit {
		return 0, errs.Errorf(op, errs.TooLarge, "%d changes at once, at most %d are allowed", len(changes), jet.MaxUnit)
	}
	keys := make([]string, len(changes))
	size := 0
	for i, c := range changes {
		if err := checkKey(op, c.Key); err != nil {
			return 0, err
		}
		if len(c.Value) > MaxValue {
			return 0, errs.Errorf(op, errs.TooLarge, "value of %d bytes for %q, at most %d are allowed", len(c.Value), c.Key, MaxValue)
		}
		keys[i] = c.Key
		size += len(c.Value) + 2*len(c.Key) + 160
	}
	if size > jet.MaxUnitBytes {
		return 0, errs.Errorf(op, errs.TooLarge, "changes of %d bytes at once, at most %d are allowed", size, jet.MaxUnitBytes)
	}
	slices.Sort(keys)
	for i := 1; i < len(keys); i++ {
		if keys[i] == keys[i-1] {
			return 0, errs.Errorf(op, errs.Invalid, "key %q occurs twice", keys[i])
		}
	}
	// A batch checks a key once: changes of one key go one after the other.
	if err := b.lock(ctx, keys); err != nil {
		return 0, err
	}
	// The keys stay locked while a change is under way, even when ctx ends.
	free := func() { b.unlock(keys) }
	changes = slices.Clone(changes)
	for try := 0; ; try++ {
		u := &unit{b: b, changes: changes, size: size, done: make(chan jet.Result, 1)}
		if err := b.appender.Append(ctx, u); err != nil {
			free()
			return 0, errs.E(op, errs.Unavailable, err)
		}
		var res jet.Result
		select {
		case res = <-u.done:
		case <-ctx.Done():
			go func() { <-u.done; free() }() // the appender answers every unit
			return 0, errs.E(op, errs.Timeout, ctx.Err())
		}
		if res.Err == nil {
			free()
			return res.Seq, nil
		}
		if errs.Is(res.Err, errs.Conflict) && try == 0 && b.absent(ctx, changes) {
			continue
		}
		free()
		return 0, errs.E(op, errs.KindOf(res.Err), res.Err)
	}
}

// Outcome is what became of one change of UpdateEach.
type Outcome struct {
	Revision uint64
	Err      error // nil: it is durable
}

// UpdateEach makes each change by itself, as that many concurrent calls of Update
// would: they share commits, but one that fails leaves the others. Each key may
// occur once. It returns when all have an outcome, in the order of changes; err is
// for what concerns all of them, and then none was begun.
// Errors: errs.Invalid, errs.TooLarge, errs.Timeout; those of an Outcome are
// Update's.
func (b *Bucket) UpdateEach(ctx context.Context, changes []Change) ([]Outcome, error) {
	const op = "kv.UpdateEach"
	keys := make([]string, len(changes))
	for i, c := range changes {
		if err := checkKey(op, c.Key); err != nil {
			return nil, err
		}
		if len(c.Value) > MaxValue {
			return nil, errs.Errorf(op, errs.TooLarge, "value of %d bytes for %q, at most %d are allowed", len(c.Value), c.Key, MaxValue)
		}
		keys[i] = c.Key
	}
	slices.Sort(keys)
	for i := 1; i < len(keys); i++ {
		if keys[i] == keys[i-1] {
			return nil, errs.Errorf(op, errs.Invalid, "key %q occurs twice", keys[i])
		}
	}
	if err := b.lock(ctx, keys); err != nil {
		return nil, err
	}
	units := make([]unit, len(changes))
	out := make([]Outcome, len(changes))
	for i := range changes {
		u := &units[i]
		*u = unit{b: b, changes: changes[i : i+1 : i+1], size: len(changes[i].Value) + 2*len(changes[i].Key) + 160, done: make(chan jet.Result, 1)}
		if err := b.appender.Append(ctx, u); err != nil {
			u.done <- jet.Result{Err: errs.E(op, errs.Unavailable, err)}
		}
	}
	for i := range units {
		// The appender answers every unit, within its own deadline.
		res := <-units[i].done
		out[i] = Outcome{Revision: res.Seq}
		if res.Err != nil {
			out[i] = Outcome{Err: errs.E(op, errs.KindOf(res.Err), res.Err)}
		}
	}
	b.unlock(keys)
	for i := range changes {
		// A cleared key is absent too.
		if c := &changes[i]; errs.Is(out[i].Err, errs.Conflict) && c.Expected == 0 && !c.Any {
			out[i].Revision, out[i].Err = b.Update(ctx, c.Key, c.Value, 0)
		}
	}
	return out, nil
}

// absent looks at the keys that must be absent. For the cleared ones it expects
// the revision of the clearing instead, and reports whether there were any and
// none was in the way.
func (b *Bucket) absent(ctx context.Context, changes []Change) bool {
	cleared := false
	for i := range changes {
		c := &changes[i]
		if c.Any || c.Expected != 0 {
			continue
		}
		e, err := b.get(ctx, c.Key)
		switch {
		case errs.Is(err, errs.NotFound):
		case err != nil || len(e.Value) > 0:
			return false
		default:
			c.Expected, cleared = e.Revision, true
		}
	}
	return cleared
}

// lock waits until none of the sorted keys has a change under way.
func (b *Bucket) lock(ctx context.Context, keys []string) error {
	for i, k := range keys {
		for {
			b.mu.Lock()
			wait := b.busy[k]
			if wait == nil {
				b.busy[k] = make(chan struct{})
			}
			b.mu.Unlock()
			if wait == nil {
				break
			}
			select {
			case <-wait:
			case <-ctx.Done():
				b.unlock(keys[:i])
				return errs.E("kv.Commit", errs.Timeout, ctx.Err())
			}
		}
	}
	return nil
}

func (b *Bucket) unlock(keys []string) {
	b.mu.Lock()
	for _, k := range keys {
		close(b.busy[k])
		delete(b.busy, k)
	}
	b.mu.Unlock()
}

// The store counts what a filter matches with every read of many; without one
// these are all keys. Of a whole bucket, few changes are read by their numbers,
// many through a consumer.
const (
	fetchEntries = 500
	fetchBytes   = 1 << 20
	readEntries  = 32 // at a time
	nearEntries  = 1000
)

// near hands the committed changes from a revision on to f, by their numbers, and
// returns the revision it has come to. ok is false where there are too many.
func (b *Bucket) near(ctx context.Context, from uint64, f func(key string, m *jet.Message)) (upto uint64, ok bool, err error) {
	end := b.committedEnd()
	if end+1 < from || end+1-from > nearEntries {
		return 0, false, nil
	}
	for ; from <= end; from += readEntries {
		if err := ctx.Err(); err != nil {
			return 0, true, err
		}
		if err := b.store.Read(b.stream, from, min(from+readEntries-1, end), func(m *jet.Message) error { b.hand(m, f); return nil }); err != nil {
			return 0, true, err
		}
	}
	return end, true, nil
}

// far hands what it can of a long stretch to f, and returns where to read on.
func (b *Bucket) far(ctx context.Context, from uint64, f func(key string, m *jet.Message)) uint64 {
	c, ok, err := b.store.OpenCursor(b.stream, from, "")
	if !ok || err != nil {
		return from // it goes without
	}
	defer c.Close()
	for n := 1; n > 0 && err == nil && ctx.Err() == nil; {
		n, err = c.Read(fetchEntries, fetchBytes, func(m *jet.Message) error {
			from = m.Seq + 1
			b.hand(m, f)
			return nil
		})
	}
	return from
}

// hand gives m to f, with its key.
func (b *Bucket) hand(m *jet.Message, f func(key string, m *jet.Message)) {
	if key, err := parseKey(strings.TrimPrefix(string(m.Subject), b.root)); err == nil {
		f(key, m)
	}
}

// each hands the stored values from sequence from on to f, those that are
// durable only, and returns the sequence up to which it has seen all.
func (b *Bucket) each(ctx context.Context, from uint64, filter string, f func(key string, m *jet.Message)) (uint64, error) {
	least := uint64(0)
	if !b.store.Embedded() {
		// A replica that lags may answer: read all, up to the leader's end.
		filter = ""
		st, err := b.store.State(b.stream)
		if err != nil {
			return 0, err
		}
		least = st.LastSeq
	}
	if filter == "" && b.store.Embedded() {
		if b.committedEnd() > from+nearEntries {
			from = b.far(ctx, from, f)
		}
		if upto, ok, err := b.near(ctx, from, f); ok {
			return upto, err
		}
	}
	seen := from - 1
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		b.mu.Lock()
		committed := b.end
		b.mu.Unlock()
		last := from - 1
		end, err := b.store.Fetch(jet.Query{Stream: b.stream, From: from, Filter: filter, Max: fetchEntries, MaxBytes: fetchBytes},
			func(m *jet.Message) error {
				last = m.Seq
				b.hand(m, f)
				return nil
			})
		if err != nil {
			return 0, err
		}
		from, seen = last+1, max(seen, last)
		if end && seen >= least {
			if b.store.Embedded() {
				seen = max(seen, committed)
			}
			return seen, b.settled(ctx, last)
		}
		if end {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// current returns the newest values of all keys with the prefix, cleared ones
// too, sorted by key, and the revision up to which they are.
func (b *Bucket) current(ctx context.Context, prefix string) ([]Entry, uint64, error) {
	newest := map[string]Entry{}
	seen, err := b.each(ctx, 1, prefixFilter(b.root, prefix), func(key string, m *jet.Message) {
		if strings.HasPrefix(key, prefix) {
			newest[key] = entry(key, m)
		}
	})
	if err != nil {
		return nil, 0, err
	}
	all := make([]Entry, 0, len(newest))
	for _, e := range newest {
		all = append(all, e)
	}
	slices.SortFunc(all, func(x, y Entry) int { return strings.Compare(x.Key, y.Key) })
	return all, seen, nil
}

// Scan calls f for the values of all keys with the prefix, sorted by key, as
// they were at one moment. It ends with f's first error.
func (b *Bucket) Scan(ctx context.Context, prefix string, f func(Entry) error) error {
	_, err := b.Load(ctx, prefix, f)
	return err
}

// Mark is how far a bucket was read.
type Mark struct {
	Revision uint64
	lost     int // how often the bucket's end had gone back
}

// Load is Scan, and returns the mark from which Follow goes on without a gap.
func (b *Bucket) Load(ctx context.Context, prefix string, f func(Entry) error) (Mark, error) {
	b.mu.Lock()
	m := Mark{lost: b.lost}
	b.mu.Unlock()
	all, seen, err := b.current(ctx, prefix)
	if err != nil {
		return m, wrap("kv.Scan", err)
	}
	m.Revision = seen
	for _, e := range all {
		if len(e.Value) == 0 {
			continue
		}
		if err := f(e); err != nil {
			return m, err
		}
	}
	return m, nil
}

// Watch calls f with the values of all keys with the prefix, then with a zero
// Entry, then with every change, by whichever process, until ctx ends; it
// returns nil then. A cleared key comes as a change with an empty value. Changes
// of one key that follow each other fast may come as the last one alone.
// Errors: errs.Unavailable also where the store has lost changes that were
// handed on: who watches begins anew.
func (b *Bucket) Watch(ctx context.Context, prefix string, f func(Entry)) error {
	seen, err := b.Load(ctx, prefix, func(e Entry) error { f(e); return nil })
	if err != nil {
		return ended(ctx, wrap("kv.Watch", err))
	}
	f(Entry{})
	return b.Follow(ctx, prefix, seen, f)
}

// Follow calls f with every change behind a mark, as Watch does, with the same
// errors.
func (b *Bucket) Follow(ctx context.Context, prefix string, from Mark, f func(Entry)) error {
	const op = "kv.Follow"
	seen := from.Revision
	filter := prefixFilter(b.root, prefix)
	for {
		switch more, err := b.next(ctx, seen, from.lost); {
		case err != nil:
			return nil // ctx has ended
		case !more:
			return errs.Errorf(op, errs.Unavailable, "the bucket has lost its end")
		}
		var changes []Entry
		upto, err := b.each(ctx, seen+1, filter, func(key string, m *jet.Message) {
			if strings.HasPrefix(key, prefix) {
				changes = append(changes, entry(key, m))
			}
		})
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			// The store is being opened again; what changed stays to be read.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if upto == seen { // a replica that lags
			time.Sleep(2 * time.Millisecond)
		}
		seen = upto
		for _, e := range changes {
			f(e)
		}
	}
}

func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// History returns the kept values of a key, the oldest first, clearings among
// them. A key that never was has none.
func (b *Bucket) History(ctx context.Context, key string) ([]Entry, error) {
	if err := checkKey("kv.History", key); err != nil {
		return nil, err
	}
	var all []Entry
	_, err := b.each(ctx, 1, string(appendKey([]byte(b.root), key)), func(k string, m *jet.Message) {
		if k == key {
			all = append(all, entry(k, m))
		}
	})
	if err != nil {
		return nil, wrap("kv.History", err)
	}
	return all, nil
}

func wrap(op string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return errs.E(op, errs.Timeout, err)
	}
	return errs.E(op, errs.KindOf(err), err)
}
