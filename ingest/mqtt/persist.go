package mqtt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
)

// SessionBucket is where persistent sessions are kept; *kv.Bucket is one.
type SessionBucket interface {
	Bucket
	Get(ctx context.Context, key string) (kv.Entry, error)
}

const (
	sessionsEvery   = 200 * time.Millisecond // how long what a session was sent and has acknowledged may wait to be saved
	sessionsMove    = time.Minute            // the same for the position of one that nothing comes for
	sessionsExpire  = time.Second            // how often expired ones are looked for
	sessionsBatch   = 1000                   // records in one commit
	sessionsBytes   = 2 << 20                // the same in bytes
	sessionsTimeout = 4 * time.Second        // of a commit; below Safety.TakeoverTimeout
	sessionsRetry   = 50 * time.Millisecond  // until one that could not be read is read once more
)

// sessions are the persistent ones of the server. All their records are written
// by one goroutine (keep), so that an older state never follows a newer one.
type sessions struct {
	bucket SessionBucket // nil: there are none
	wake   chan struct{} // one buffered

	mu     sync.Mutex // guards what follows; comes after every session's
	stored map[string]stored
	dirty  []*session
	shares []*share // that have changed
	orders []*order
}

// stored says that the bucket has a session for a client id.
type stored struct {
	until  time.Time // when it expires; zero: its client is here
	unsure bool      // what its client was sent last has not been saved
}

// order is a record somebody waits for.
type order struct {
	key   string
	sess  *session // nil: the record is cleared
	final bool     // the session has ended; nothing of it is saved later
	done  chan error
}

// changed puts the session on the list of those to be saved. The caller holds
// s.mu.
func (s *session) changed() {
	if !s.persistent || s.dirty {
		return
	}
	s.dirty = true
	st := &s.c.s.sessions
	st.mu.Lock()
	st.dirty = append(st.dirty, s)
	st.mu.Unlock()
}

// place gives an order and waits until it is durable. The caller holds no lock.
// Errors: errs.Unavailable (the outcome is unknown), errs.TooLarge.
func (st *sessions) place(o *order) error {
	o.done = make(chan error, 1)
	st.mu.Lock()
	st.orders = append(st.orders, o)
	st.mu.Unlock()
	select {
	case st.wake <- struct{}{}:
	default:
	}
	t := time.NewTimer(sessionsTimeout)
	defer t.Stop()
	select {
	case err := <-o.done:
		return err
	case <-t.C:
		return errs.Errorf("mqtt.session", errs.Unavailable, "the session is not saved within %v", sessionsTimeout)
	}
}

func (st *sessions) set(id string, k stored) {
	st.mu.Lock()
	st.stored[id] = k
	st.mu.Unlock()
}

func (st *sessions) forget(id string) {
	st.mu.Lock()
	delete(st.stored, id)
	st.mu.Unlock()
}

// restoreSessions reads which sessions there are. Those whose client was here
// when the server ended were not saved at their end: what is on the log by now
// may have been sent to them.
func (s *Server) restoreSessions(ctx context.Context) error {
	st := &s.sessions
	if st.bucket == nil {
		return nil
	}
	var changes []kv.Change
	now := s.now()
	shares := map[topic.Filter]*shareRecord{}
	begins := map[topic.Filter]*shareRecord{}
	members := map[topic.Filter][]string{}
	err := st.bucket.Scan(ctx, "", func(e kv.Entry) error {
		if key, ok := strings.CutPrefix(e.Key, shareKey); ok {
			if s.node.shared() {
				return nil // whose first member it gets will read it
			}
			r, err := decodeShare(e.Value, len(s.routed))
			if err != nil {
				s.logger.Error("a stored shared subscription cannot be read; it begins anew", "filter", key, "error", err)
				changes = append(changes, kv.Change{Key: e.Key, Any: true})
				return nil
			}
			shares[topic.Filter(key)] = r
			return nil
		}
		r, err := decodeRecord(e.Value, len(s.routed))
		if err != nil {
			s.m.sessions.WithLabelValues("unreadable").Inc()
			s.logger.Error("a stored session cannot be read; its client will get a new one", "clientId", e.Key, "error", err)
			changes = append(changes, kv.Change{Key: e.Key, Any: true})
			return nil
		}
		changed := r.clamp(s.endAtNew)
		if r.left.IsZero() {
			r.left, changed = now, true
			for p := range r.dup {
				r.dup[p] = s.ends[p]
			}
		}
		if changed {
			changes = append(changes, kv.Change{Key: e.Key, Value: appendRecord(nil, r), Any: true})
		}
		st.stored[e.Key] = stored{until: r.left.Add(r.expiry)}
		for _, sub := range r.subs {
			if _, shared := sub.parseShare(); !shared || s.node.shared() {
				continue
			}
			members[sub.filter] = append(members[sub.filter], e.Key)
			// Where a group has no record yet all it was to have may be under way
			// still, to whichever member: it is read once more.
			from := &shareRecord{upto: slices.Clone(sub.start)}
			if b := begins[sub.filter]; b != nil {
				for p := range b.upto {
					from.upto[p] = min(from.upto[p], b.upto[p])
				}
			}
			begins[sub.filter] = from
		}
		return nil
	})
	for key := range shares {
		if members[key] == nil {
			changes = append(changes, kv.Change{Key: shareKey + string(key), Any: true})
		}
	}
	for key, ids := range members {
		r := shares[key]
		if r == nil {
			r = begins[key]
		}
		inner, _ := (&subscription{filter: key}).parseShare()
		g := s.restoreShare(key, inner, r)
		for _, id := range ids {
			g.persistent[id] = struct{}{}
		}
		s.routes.shares[key] = g
	}
	if err != nil {
		return fmt.Errorf("mqtt: reading sessions: %w", err)
	}
	for batch := range slices.Chunk(changes, sessionsBatch) {
		if _, err := st.bucket.Commit(ctx, batch); lostOf(err, "") != nil {
			return fmt.Errorf("mqtt: saving sessions: %w", err)
		}
	}
	return nil
}

// endAtNew returns where a partition ended when the server was made, or where it
// ends now if that is before.
func (s *Server) endAtNew(p int) uint64 { return min(s.ends[p], s.log.Committed(p)) }

// keep writes records until ctx ends.
func (s *Server) keep(ctx context.Context) {
	st := &s.sessions
	if st.bucket == nil {
		return
	}
	t := time.NewTicker(sessionsEvery)
	defer t.Stop()
	moved, expired := s.now(), s.now()
	for {
		due := false
		select {
		case <-t.C:
			due = true
		case <-st.wake:
		case <-ctx.Done():
			// Every connection has ended, and waited for its last record. Those of
			// groups have not been.
			s.saveSessions(context.WithoutCancel(ctx), true, s.now())
			return
		}
		now := s.now()
		if due && now.Sub(moved) >= sessionsMove {
			moved = now
			s.moveAll()
			if s.node.shared() {
				s.tendAll(true)
			}
		}
		s.saveSessions(ctx, due, now)
		if due && now.Sub(expired) >= sessionsExpire {
			expired = now
			s.expireSessions(ctx, now)
		}
	}
}

// moveAll marks every connected session, so that trimming does not overtake
// the record of one that nothing comes for.
func (s *Server) moveAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		c.sess.mu.Lock()
		c.sess.changed()
		c.sess.mu.Unlock()
	}
}

// saveSessions writes the records that are waited for and, where due, those
// that have changed.
func (s *Server) saveSessions(ctx context.Context, due bool, now time.Time) {
	st := &s.sessions
	st.mu.Lock()
	orders := st.orders
	st.orders = nil
	var dirty []*session
	var shares []*share
	if due {
		dirty, st.dirty = st.dirty, nil
		shares, st.shares = st.shares, nil
	}
	st.mu.Unlock()
	batch := batch{s: s, index: map[string]int{}}
	for _, o := range orders {
		if o.sess == nil {
			batch.add(ctx, kv.Change{Key: o.key, Any: true}, o, nil)
			continue
		}
		value := o.sess.record(now, o.final)
		if value == nil { // given up by who asked for it
			o.done <- errUnsaved
			continue
		}
		if len(value) > kv.MaxValue {
			o.done <- errs.Errorf("mqtt.session", errs.TooLarge, "the session takes %d bytes, at most %d are allowed", len(value), kv.MaxValue)
			continue
		}
		batch.add(ctx, kv.Change{Key: o.key, Value: value, Any: true}, o, nil)
	}
	for _, sess := range dirty {
		value := sess.record(now, false)
		switch {
		case value == nil:
		case len(value) > kv.MaxValue:
			s.m.sessionFailures.Inc()
			s.noise.warn("a session is too large to be saved", "clientId", sess.c.id, "bytes", len(value))
		default:
			batch.add(ctx, kv.Change{Key: sess.c.key, Value: value, Any: true}, nil, sess)
		}
	}
	for _, g := range shares {
		value, stored := g.record()
		if value == nil && !stored {
			continue
		}
		batch.shares = append(batch.shares, g)
		batch.add(ctx, kv.Change{Key: shareKey + string(g.key), Value: value, Any: true}, nil, nil)
	}
	batch.commit(ctx)
}

// batch gathers records for one commit. A later record of a key replaces the
// one before it.
type batch struct {
	s       *Server
	changes []kv.Change
	index   map[string]int
	bytes   int
	orders  []*order
	dirty   []*session
	shares  []*share
}

func (b *batch) add(ctx context.Context, c kv.Change, o *order, sess *session) {
	if i, ok := b.index[c.Key]; ok {
		b.changes[i] = c
	} else {
		b.index[c.Key] = len(b.changes)
		b.changes = append(b.changes, c)
	}
	b.bytes += len(c.Value)
	if o != nil {
		b.orders = append(b.orders, o)
	}
	if sess != nil {
		b.dirty = append(b.dirty, sess)
	}
	if len(b.changes) >= sessionsBatch || b.bytes >= sessionsBytes {
		b.commit(ctx)
	}
}

func (b *batch) commit(ctx context.Context) {
	if len(b.changes) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sessionsTimeout)
	_, err := b.s.sessions.bucket.Commit(ctx, b.changes)
	cancel()
	if lostOf(err, "") != nil {
		b.s.m.sessionFailures.Inc()
		b.s.noise.warn("sessions not saved yet", "sessions", len(b.changes), "error", err)
		for _, sess := range b.dirty {
			sess.mu.Lock()
			sess.changed()
			sess.mu.Unlock()
		}
		for _, g := range b.shares {
			g.mu.Lock()
			g.changed()
			g.mu.Unlock()
		}
	}
	for _, g := range b.shares {
		g.released()
	}
	for _, o := range b.orders {
		o.done <- lostOf(err, o.key)
	}
	b.changes, b.orders, b.dirty, b.shares, b.bytes = b.changes[:0], b.orders[:0], b.dirty[:0], b.shares[:0], 0
	clear(b.index)
}

// expireSessions clears the records of clients that have been away for too
// long.
func (s *Server) expireSessions(ctx context.Context, now time.Time) {
	st := &s.sessions
	b := batch{s: s, index: map[string]int{}}
	var gone []string
	st.mu.Lock()
	for id, k := range st.stored {
		if !k.until.IsZero() && now.After(k.until) {
			gone = append(gone, id)
			delete(st.stored, id)
		}
	}
	n := len(st.stored)
	st.mu.Unlock()
	s.m.storedSessions.Set(float64(n))
	for _, id := range gone {
		if s.here(id) {
			continue // it has just come back
		}
		s.m.sessions.WithLabelValues("expired").Inc()
		s.forgetMember(id)
		// Where this fails, the next start finds it expired again.
		b.add(ctx, kv.Change{Key: id, Any: true}, nil, nil)
	}
	b.commit(ctx)
}

// record encodes the session as it stands; nil where it is not persistent (any
// more).
func (s *session) record(now time.Time, final bool) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty = false
	if !s.persistent {
		return nil
	}
	r := record{
		principal: s.c.principal.ID, id: s.c.sessionID, expiry: s.c.expiry, ghosts: s.ghosts,
		cursor: s.cursors(), dup: make([]uint64, len(s.places)),
		head: s.flightHead % packetIDs, unsent: s.unsent,
	}
	s.dropSpent(r.cursor)
	r.replaced = slices.Clone(s.replaced)
	if final {
		r.left = now
		s.persistent = false
	}
	for p := range s.places {
		pl := &s.places[p]
		r.dup[p] = pl.dup
		if n := len(pl.again); n > 0 {
			// Those that were acknowledged are not in the window any more.
			r.dup[p] = max(r.dup[p], pl.again[n-1].seq)
		}
	}
	for i := s.flightHead; i != s.flightTail; i++ {
		f := s.flights[i%uint64(len(s.flights))]
		if f.share != nil {
			f.seq = 0 // its group's record has it
		}
		f.done = f.done || f.seq == 0
		r.flights = append(r.flights, f)
		if f.retained {
			if r.names == nil {
				r.names = map[uint64]topic.Name{}
			}
			r.names[r.head+i-s.flightHead] = s.names[i]
		}
	}
	for i := range s.retained {
		r.unsent = append(r.unsent[:len(r.unsent):len(r.unsent)], unsent{s.retained[i].e.Topic, s.retained[i].sub.filter})
	}
	for _, sub := range s.subs {
		if _, ok := s.pending[sub.filter]; !ok {
			r.subs = append(r.subs, sub)
		}
	}
	var at []uint64
	if len(s.pending) > 0 {
		at = s.reach()
	}
	for f, sub := range s.pending {
		if sub == nil {
			r.replaced = slices.DeleteFunc(r.replaced, func(o *subscription) bool { return o.filter == f })
			continue
		}
		from := *sub
		if left := s.replace(s.subs[f], &from, at); left != nil {
			r.replaced = append(r.replaced, left)
		}
		r.subs = append(r.subs, &from)
	}
	return appendRecord(nil, &r)
}

// openSession gives c the session its bucket has for it, or a new one.
// present tells that it is an old one. What is written is durable on return.
func (c *client) openSession(clean bool) (present bool, f *fault) {
	s, st := c.s, &c.s.sessions
	if st.bucket == nil {
		return false, nil
	}
	st.mu.Lock()
	k, have := st.stored[c.key]
	st.mu.Unlock()
	var r *record
	if have && !clean {
		if r, f = c.load(k); f != nil {
			return false, f
		}
	}
	if r != nil {
		c.sessionID = r.id
	}
	if have && r == nil {
		s.forgetMember(c.key) // of the groups of the session that was
	}
	c.sess.mu.Lock()
	if r != nil {
		c.sess.restore(r)
	}
	c.sess.persistent = c.expiry > 0
	c.sess.mu.Unlock()
	o := &order{key: c.key}
	switch {
	case c.expiry > 0:
		o.sess = c.sess
		st.set(c.key, stored{unsure: true})
	case !have:
		return false, nil
	}
	if err := st.place(o); err != nil {
		c.sess.mu.Lock()
		c.sess.persistent = false
		c.sess.mu.Unlock()
		if have {
			k.unsure = true
			st.set(c.key, k)
		} else {
			st.set(c.key, stored{until: s.now()})
		}
		return false, faultf(codeUnavailable, "unavailable", errs.Text(err))
	}
	if c.expiry == 0 {
		st.forget(c.key)
	}
	result := "new"
	if r != nil {
		result = "resumed"
	}
	s.m.sessions.WithLabelValues(result).Inc()
	return r != nil, nil
}

// load reads the record of c's client id; nil where it is not c's to have.
func (c *client) load(k stored) (*record, *fault) {
	s := c.s
	now := s.now()
	if !k.until.IsZero() && now.After(k.until) {
		s.m.sessions.WithLabelValues("expired").Inc()
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, sessionsTimeout)
	defer cancel()
	e, err := s.sessions.bucket.Get(ctx, c.key)
	for errs.Is(err, errs.Unavailable) && pause(ctx, sessionsRetry) {
		e, err = s.sessions.bucket.Get(ctx, c.key)
	}
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, faultf(codeUnavailable, "unavailable", errs.Text(err))
	}
	r, err := decodeRecord(e.Value, len(s.routed))
	if err != nil {
		s.m.sessions.WithLabelValues("unreadable").Inc()
		s.logger.Error("a stored session cannot be read; its client gets a new one", "clientId", c.id, "error", err)
		return nil, nil
	}
	if r.principal != c.principal.ID {
		s.m.sessions.WithLabelValues("other_principal").Inc()
		s.noise.warn("the stored session is of another principal; the client gets a new one", "clientId", c.id)
		return nil, nil
	}
	r.clamp(s.log.Committed)
	if k.unsure {
		for p := range r.dup {
			// Another gateway may have sent what this one does not know of yet.
			newest, err := s.log.Newest(p)
			if err != nil {
				return nil, faultf(codeUnavailable, "unavailable", errs.Text(err))
			}
			r.dup[p] = max(s.log.Committed(p), newest)
		}
	}
	return r, nil
}

// closeSession saves the session of a client that leaves, or forgets it.
func (c *client) closeSession() {
	st := &c.s.sessions
	c.sess.mu.Lock()
	persistent := c.sess.persistent
	c.sess.mu.Unlock()
	if !persistent {
		return
	}
	o := &order{key: c.key, sess: c.sess, final: true}
	if c.expiry == 0 { // as its DISCONNECT wants
		c.sess.mu.Lock()
		c.sess.persistent = false
		c.sess.mu.Unlock()
		o.sess = nil
	}
	err := st.place(o)
	k := stored{until: c.s.now().Add(c.expiry), unsure: err != nil}
	if err != nil {
		c.s.logger.Error("a session's end is not saved; some messages may come twice", "clientId", c.id, "error", err)
		c.sess.mu.Lock()
		c.sess.persistent = false
		c.sess.mu.Unlock()
	} else if c.expiry == 0 {
		st.forget(c.key)
		return
	}
	st.set(c.key, k)
}

var errUnsaved = errors.New("the session could not be saved")

// savePending makes a change of the subscriptions durable before it is in
// force and before its answer. Only the read loop changes subscriptions.
func (s *session) savePending(pending map[topic.Filter]*subscription) error {
	s.mu.Lock()
	if !s.persistent || s.closed || len(pending) == 0 {
		s.mu.Unlock()
		return nil
	}
	s.pending = pending
	s.mu.Unlock()
	err := s.c.s.sessions.place(&order{key: s.c.key, sess: s})
	s.mu.Lock()
	s.pending = nil
	s.changed() // with where they begin, or without them
	s.mu.Unlock()
	if err != nil {
		s.c.s.noise.warn("a change of subscriptions is not saved", "clientId", s.c.id, "error", err)
		return errUnsaved
	}
	return nil
}
