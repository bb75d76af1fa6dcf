package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
)

// Tx is one change under way: its methods read the registry as it will be and
// collect what is to be written. It is made by Change and holds within its
// function alone.
type Tx struct {
	r      *Registry
	id     string // of the change, however often its function runs; they sort by time
	now    time.Time
	writes map[string]*write
	order  []*write // in the order of first mention
	guards map[uint16]struct{}
}

type write struct {
	key      string
	expected uint64
	value    func() ([]byte, error) // nil: clear
	apply    func(rev uint64)       // to the projection
	record   any                    // *T of a table; nil for links and where cleared
	links    *links                 // of links, with left, right and linkValue ("": cleared)
	left     string
	right    string
	linked   string
}

// Change runs f and commits what its Tx has collected, all or nothing. f runs
// under the registry's lock, and again where something it read has changed
// meanwhile: it must be quick, have no other effect than on the Tx and set what
// it returns anew, and must not call the Registry itself. An error of f ends the
// change. Change returns once it is durable and readable.
// Errors: f's; errs.Unavailable, errs.Timeout (the outcome may be unknown),
// errs.TooLarge (more than 1,000 records).
func (r *Registry) Change(ctx context.Context, op string, f func(*Tx) error) error {
	var held, need []byte // locks
	defer func() { r.release(held) }()
	conflicts, rounds := 0, 0
	id := fmt.Sprintf("%019d-%s", r.now().UnixNano(), newID())
	for {
		if err := ctx.Err(); err != nil {
			return errs.E(op, errs.Timeout, err)
		}
		tx := &Tx{r: r, id: id, now: r.now().UTC().Truncate(time.Millisecond), writes: map[string]*write{}, guards: map[uint16]struct{}{}}
		r.mu.RLock()
		err := f(tx)
		var changes []kv.Change
		locked := false
		if err == nil {
			tx.announce()
			keys := tx.stripes()
			if locked = covers(held, keys); locked {
				changes, err = tx.changes()
			} else {
				need = keys
			}
		}
		moved := r.moved
		r.mu.RUnlock()
		if err != nil {
			return wrap(op, err)
		}
		// What others in this process change at the same time is waited for, not
		// fought over.
		if !locked {
			if rounds++; rounds > 3 { // f names other records each time
				need = allStripes
			}
			r.release(held)
			held = nil
			if err := r.acquire(ctx, need); err != nil {
				return errs.E(op, errs.Timeout, err)
			}
			held = need
			continue
		}
		if len(changes) == 0 {
			return nil
		}
		rev, err := r.o.Bucket.Commit(ctx, changes)
		if err == nil {
			tx.applied(changes, rev)
			return nil
		}
		if conflicts++; !errs.Is(err, errs.Conflict) || conflicts == 50 {
			return errs.E(op, errs.KindOf(err), err)
		}
		// Another process was first: what it has done comes by shortly.
		wait := time.NewTimer(20 * time.Millisecond * time.Duration(conflicts))
		select {
		case <-moved:
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
}

// change is Change for a function with a result.
func change[T any](ctx context.Context, r *Registry, op string, f func(*Tx) (T, error)) (T, error) {
	var out T
	err := r.Change(ctx, "registry."+op, func(tx *Tx) (err error) {
		out, err = f(tx)
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	return out, nil
}

func get[T any](tx *Tx, t *table[T], name string) *T {
	if w, ok := tx.writes[t.prefix+"."+name]; ok {
		v, _ := w.record.(*T)
		return v
	}
	return t.rows[name].v
}

func put[T any](tx *Tx, t *table[T], name string, v *T) {
	w := tx.write(t.prefix+"."+name, func() uint64 { return t.rows[name].rev })
	w.value, w.record = func() ([]byte, error) { return json.Marshal(v) }, v
	w.apply = func(rev uint64) { t.set(name, v, rev) }
}

func drop[T any](tx *Tx, t *table[T], name string) {
	w := tx.write(t.prefix+"."+name, func() uint64 { return t.rows[name].rev })
	w.value, w.record = nil, nil
	w.apply = func(rev uint64) { t.set(name, nil, rev) }
}

func (tx *Tx) write(key string, rev func() uint64) *write {
	w := tx.writes[key]
	if w == nil {
		w = &write{key: key, expected: rev()}
		tx.writes[key] = w
		tx.order = append(tx.order, w)
	}
	return w
}

func (tx *Tx) link(l *links, left, right, value string) {
	w := tx.linkWrite(l, left, right)
	w.linked = value
	w.value = func() ([]byte, error) { return []byte(value), nil }
	w.apply = func(rev uint64) {
		delete(tx.r.stale, w.key)
		l.set(left, right, link{intern(value), rev})
	}
}

func (tx *Tx) unlink(l *links, left, right string) {
	w := tx.linkWrite(l, left, right)
	w.linked, w.value = "", nil
	w.apply = func(uint64) { l.remove(left, right) }
}

func (tx *Tx) linkWrite(l *links, left, right string) *write {
	key := l.key(left, right)
	w := tx.write(key, func() uint64 {
		if v, ok := l.get(left, right); ok {
			return v.rev
		}
		return tx.r.stale[key]
	})
	w.links, w.left, w.right = l, left, right
	return w
}

// linked returns what the pair carries, "" where there is none.
func (tx *Tx) linked(l *links, left, right string) string {
	if w, ok := tx.writes[l.key(left, right)]; ok {
		return w.linked
	}
	v, _ := l.get(left, right)
	return v.value
}

// rights returns what left is linked with, sorted.
func (tx *Tx) rights(l *links, left string) []string {
	return tx.side(l.byLeft[left], func(w *write) (string, bool) { return w.right, w.links == l && w.left == left })
}

// lefts returns what is linked with right, sorted.
func (tx *Tx) lefts(l *links, right string) []string {
	return tx.side(l.byRight[right], func(w *write) (string, bool) { return w.left, w.links == l && w.right == right })
}

func (tx *Tx) side(o *ordered[link], of func(*write) (string, bool)) []string {
	names := o.keys()
	for _, w := range tx.order {
		n, ok := of(w)
		if !ok {
			continue
		}
		i, found := slices.BinarySearch(names, n)
		switch {
		case w.linked == "" && found:
			names = slices.Delete(names, i, i+1)
		case w.linked != "" && !found:
			names = slices.Insert(names, i, n)
		}
	}
	return names
}

// anyLeft reports whether anything is linked with right.
func (tx *Tx) anyLeft(l *links, right string) bool {
	for _, w := range tx.order {
		if w.links == l && w.right == right {
			return len(tx.lefts(l, right)) > 0
		}
	}
	return l.byRight[right].len() > 0
}

// Guards. What many lean on at a time has several, and who leans takes one of
// them.
const (
	guardCount  = 1024
	guardShards = 8
)

var shared = map[Kind]bool{KindPolicy: true, KindGroup: true, KindType: true, KindCA: true, KindAuthorizer: true, KindTemplate: true}

// lean makes the change hold only if name of this kind goes on to exist as it
// was read, on behalf of by.
func (tx *Tx) lean(k Kind, name, by string) {
	shard := uint32(0)
	if shared[k] {
		shard = hash(by) % guardShards
	}
	tx.guards[guardOf(k, name, shard)] = struct{}{}
}

// shake makes the change hold only if nothing that leans on name has changed.
func (tx *Tx) shake(k Kind, name string) {
	n := uint32(1)
	if shared[k] {
		n = guardShards
	}
	for shard := range n {
		tx.guards[guardOf(k, name, shard)] = struct{}{}
	}
}

func hash(s string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(s))
	return h.Sum32()
}

func guardOf(k Kind, name string, shard uint32) uint16 {
	return uint16(hash(string(k)+"\x00"+name+"\x00"+strconv.Itoa(int(shard))) % guardCount)
}

func guardKey(n uint16) string { return "guard." + strconv.Itoa(int(n)) }

func guardNumber(name string) (uint16, error) {
	n, err := strconv.ParseUint(name, 10, 16)
	if err != nil || n >= guardCount {
		return 0, fmt.Errorf("no guard %q", name)
	}
	return uint16(n), nil
}

var guardValue = []byte("1")

// changes returns what is to be committed: the records, and behind them the
// guards, so that who has seen a guard move has seen why.
func (tx *Tx) changes() ([]kv.Change, error) {
	var out []kv.Change
	for _, w := range tx.order {
		if w.value == nil && w.expected == 0 {
			continue // made and dropped
		}
		c := kv.Change{Key: w.key, Expected: w.expected}
		if w.value != nil {
			v, err := w.value()
			if err != nil {
				return nil, err
			}
			c.Value = v
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, nil
	}
	for n := range tx.guards {
		out = append(out, kv.Change{Key: guardKey(n), Value: guardValue, Expected: tx.r.guards[n]})
	}
	return out, nil
}

// applied puts what was committed into the projection, at once for all readers.
func (tx *Tx) applied(changes []kv.Change, rev uint64) {
	r := tx.r
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newest = max(r.newest, rev)
	for i, c := range changes {
		at := rev - uint64(len(changes)-1-i)
		if at <= r.seen {
			continue // it has come by already, and maybe more
		}
		r.direct[c.Key] = at
		if w := tx.writes[c.Key]; w != nil {
			w.apply(at)
			continue
		}
		n, _ := guardNumber(c.Key[len("guard."):])
		r.guards[n] = at
	}
}

// stripes returns the locks of what is to be committed, sorted.
func (tx *Tx) stripes() []byte {
	s := make([]byte, 0, len(tx.order)+len(tx.guards))
	for _, w := range tx.order {
		s = append(s, byte(hash(w.key)))
	}
	if len(s) == 0 {
		return nil
	}
	for n := range tx.guards {
		s = append(s, byte(hash(guardKey(n))))
	}
	slices.Sort(s)
	return slices.Compact(s)
}

// allStripes are all locks.
var allStripes = func() []byte {
	s := make([]byte, 256)
	for i := range s {
		s[i] = byte(i)
	}
	return s
}()

func covers(held, need []byte) bool {
	for _, s := range need {
		if _, ok := slices.BinarySearch(held, s); !ok {
			return false
		}
	}
	return true
}

func (r *Registry) acquire(ctx context.Context, stripes []byte) error {
	for i, s := range stripes {
		select {
		case r.stripes[s] <- struct{}{}:
		case <-ctx.Done():
			r.release(stripes[:i])
			return ctx.Err()
		}
	}
	return nil
}

func (r *Registry) release(stripes []byte) {
	for _, s := range stripes {
		<-r.stripes[s]
	}
}
