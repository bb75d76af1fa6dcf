package mqtt

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
)

// tenure says whose a group is, where several gateways share the log. The
// group's record names its owner, who alone hands its messages out, and every
// write of the record has the revision of the one before: an owner that was
// taken for dead, and does not know it, writes in vain and has the group no
// more. The other gateways that have members are branches of the owner
// (branch.go). A group without members has no owner, whoever gets the first one
// takes it.
type tenure byte

const (
	tenureOwn       tenure = iota // this gateway's; always, where it is alone
	tenureUnknown                 // to be found out
	tenureBranch                  // another gateway's, asked
	tenureReleasing               // this gateway's until its record has been written
)

const (
	tenureRetry    = 20 * time.Millisecond
	tenurePatience = 8 * time.Second // of a SUBSCRIBE; more than a lease
)

// joint reports whether the group may have members on other gateways.
func (g *share) joint() bool { return g.s.node.shared() && g.s.sessions.bucket != nil }

// fenced returns the bucket of sessions as several gateways write it.
func (s *Server) fenced() *fence { return s.sessions.bucket.(*fence) }

// holdShares finds out whose the groups of subs are, or makes them, so that they
// exist before they are acknowledged. It reports whether that is known of all.
// The caller calls release when their members have joined.
func (c *client) holdShares(subs []*subscription) (release func(), ok bool) {
	s := c.s
	var held []*share
	if !s.node.shared() {
		return func() {}, true
	}
	s.routes.mu.Lock()
	for _, sub := range subs {
		if sub == nil || !sub.shared {
			continue
		}
		if g := s.shareOf(sub); g.joint() {
			g.mu.Lock()
			g.holders++
			g.seek()
			g.mu.Unlock()
			held = append(held, g)
		}
	}
	s.routes.mu.Unlock()
	if held == nil {
		return func() {}, true
	}
	ctx, cancel := context.WithTimeout(c.ctx, tenurePatience)
	defer cancel()
	for _, g := range held {
		for ctx.Err() == nil {
			g.mu.Lock()
			known, found := g.tenure == tenureOwn || g.tenure == tenureBranch, g.found
			g.mu.Unlock()
			if known {
				break
			}
			select {
			case <-found:
			case <-ctx.Done():
			}
		}
	}
	return func() {
		for _, g := range held {
			g.mu.Lock()
			g.holders--
			g.changed()
			g.mu.Unlock()
		}
	}, ctx.Err() == nil
}

// idle reports that nobody needs to know whose the group is. The caller holds
// g.mu.
func (g *share) idle() bool {
	return len(g.members) == 0 && g.holders == 0 && len(g.flights) == 0
}

// seek finds out whose the group is, where that is not known, without waiting
// for it. The caller holds g.mu.
func (g *share) seek() {
	if g.seeking || g.tenure == tenureOwn || g.tenure == tenureBranch {
		return
	}
	ctx, running := g.s.runState()
	if !running {
		return
	}
	g.seeking = true
	g.s.wg.Go(func() {
		for {
			g.mu.Lock()
			if g.tenure == tenureOwn || g.tenure == tenureBranch || g.idle() {
				g.seeking = false
				g.mu.Unlock()
				return
			}
			releasing := g.tenure == tenureReleasing
			g.mu.Unlock()
			if !releasing {
				if err := g.find(ctx); err != nil && ctx.Err() == nil {
					g.s.noise.warn("a shared subscription waits for its owner", "filter", string(g.key), "error", err)
				}
			}
			pause(ctx, tenureRetry)
		}
	})
}

// find asks the owner to have this gateway as a branch, or takes the group over
// where there is none. It is tried again where the tenure is still unknown.
func (g *share) find(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sessionsTimeout)
	defer cancel()
	n := g.s.node
	owner, value, err := g.s.fenced().read(ctx, shareKey+string(g.key))
	if err != nil {
		return err
	}
	if owner != "" && owner != n.id && n.alive(owner) {
		switch answer, err := g.ask(ctx, owner); {
		case err != nil || answer == branchWait:
			return err
		case answer == branchTaken:
			g.beBranch(owner)
			return nil
		}
		// It has ended, or does not know the group: its record is its last word.
	}
	r, err := g.begin(ctx, owner, value)
	if err != nil {
		return err
	}
	switch err := g.s.fenced().claim(ctx, shareKey+string(g.key), seal(n.id, r.append(nil))); {
	case errs.Is(err, errs.Conflict):
		return nil // another gateway was faster
	case err != nil:
		return err
	}
	g.beOwner(r, owner != "")
	return nil
}

// begin returns what a new owner begins with.
func (g *share) begin(ctx context.Context, owner string, value []byte) (*shareRecord, error) {
	fresh := &shareRecord{ids: []string{}}
	g.mu.Lock()
	for p := range g.places {
		fresh.upto = append(fresh.upto, g.places[p].after)
	}
	g.mu.Unlock()
	if len(value) == 0 {
		return fresh, nil
	}
	r, err := decodeShare(value, len(g.s.routed))
	if err != nil {
		g.s.logger.Error("a stored shared subscription cannot be read; it begins anew", "filter", string(g.key), "error", err)
		return fresh, nil
	}
	if r.ids == nil { // of a time with one gateway
		if r.ids, err = g.scanMembers(ctx); err != nil {
			return nil, err
		}
	}
	if owner == "" { // all have left; perhaps nobody comes back
		if r.ids, err = g.stillMembers(ctx, r.ids); err != nil {
			return nil, err
		}
		if len(r.ids) == 0 {
			return fresh, nil
		}
	}
	for p := range r.upto { // as Server.reach has it
		wait, cancel := context.WithTimeout(ctx, time.Second)
		for g.s.log.Committed(p) < r.upto[p] && pause(wait, 2*time.Millisecond) {
		}
		cancel()
	}
	return r, nil
}

// scanMembers returns the client ids whose stored sessions have the group's
// subscription.
func (g *share) scanMembers(ctx context.Context) ([]string, error) {
	ids := []string{}
	err := g.s.fenced().bucket.Scan(ctx, "", func(e kv.Entry) error {
		_, e.Value = unseal(e.Value)
		if r, err := decodeRecord(e.Value, len(g.s.routed)); err == nil && r.subscribed(g.key) {
			ids = append(ids, e.Key)
		}
		return nil
	})
	return ids, err
}

// stillMembers returns those of ids whose sessions are there and have the
// group's subscription.
func (g *share) stillMembers(ctx context.Context, ids []string) ([]string, error) {
	left := []string{}
	now := g.s.now()
	for _, id := range ids {
		e, err := g.s.fenced().bucket.Get(ctx, id)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		_, value := unseal(e.Value)
		r, err := decodeRecord(value, len(g.s.routed))
		if err == nil && r.subscribed(g.key) && (r.left.IsZero() || !now.After(r.left.Add(r.expiry))) {
			left = append(left, id)
		}
	}
	return left, nil
}

// subscribed reports whether the session has the filter.
func (r *record) subscribed(f topic.Filter) bool {
	return slices.ContainsFunc(r.subs, func(s *subscription) bool { return s.filter == f })
}

// beOwner makes the group this gateway's. died tells that the owner before has
// not released it: what is on the log by now may have been sent.
func (g *share) beOwner(r *shareRecord, died bool) {
	g.s.routes.mu.Lock()
	defer g.s.routes.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	dup := func(p int) uint64 { return r.upto[p] }
	if died {
		dup = g.s.log.Committed
	}
	g.restore(r, dup, g.s.log.Committed)
	for w := range g.flights { // this gateway's members have it
		delete(g.open, w)
	}
	for _, id := range r.ids {
		g.persistent[id] = struct{}{}
	}
	g.tenure = tenureOwn
	close(g.found)
	g.rouse()
	g.changed()
}

// beBranch makes the group another gateway's.
func (g *share) beBranch(owner string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tenure == tenureUnknown && g.asked == owner {
		g.tenure = tenureBranch
		close(g.found)
		g.tellState("") // members may have joined while it was asked
	}
}

// lose gives the group up: it is not, or no longer, as this gateway thought. What
// it had under way is the next owner's to send again. The caller holds routes.mu
// and g.mu.
func (g *share) lose() {
	if g.tenure == tenureUnknown {
		return
	}
	if g.stop != nil {
		g.s.routes.trie.Remove(g.inner, g.proxy)
		for p := range g.places {
			g.places[p].after, g.places[p].behind = g.position(p), false
		}
		g.stop()
		g.stop = nil
	}
	for _, m := range append(g.queue, g.returned...) {
		pl := &g.places[m.e.Partition]
		pl.after = min(pl.after, m.e.Seq-1)
	}
	g.members = slices.DeleteFunc(g.members, func(o member) bool { return o.session() == nil })
	clear(g.branches)
	clear(g.open)
	maps.DeleteFunc(g.flights, func(_ where, m message) bool { return m.by != nil })
	g.queue, g.queueBytes, g.returned = nil, 0, nil
	g.wait()
	g.room.Broadcast()
	if g.tenure != tenureReleasing {
		g.found = make(chan struct{})
	}
	g.tenure, g.asked, g.epoch = tenureUnknown, "", 0
	if !g.idle() {
		g.seek()
	}
}

// recordJoint is record among several gateways: while there are members the
// group is this gateway's, then nobody's, or gone. The caller holds g.mu.
func (g *share) recordJoint() (value []byte, stored bool) {
	switch {
	case g.tenure != tenureOwn:
		return nil, false
	case !g.idle():
		return seal(g.s.node.id, g.encode()), true
	}
	g.tenure, g.found = tenureReleasing, make(chan struct{})
	if len(g.persistent) == 0 {
		return nil, true
	}
	return seal("", g.encode()), true
}

// released is called when the record that gives the group up has been written,
// or may have been: whoever seeks it reads it, and asks this gateway where it
// still says so.
func (g *share) released() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tenure == tenureReleasing {
		g.tenure = tenureUnknown
	}
}

// shareLost is told by the fence that another gateway has written the record.
func (s *Server) shareLost(key string) {
	s.routes.mu.Lock()
	defer s.routes.mu.Unlock()
	if g := s.routes.shares[topic.Filter(strings.TrimPrefix(key, shareKey))]; g != nil {
		g.mu.Lock()
		g.lose()
		g.mu.Unlock()
	}
}

// tendShares looks after the groups of several gateways until ctx ends: branches
// whose gateway has died, owners that have, groups that nobody needs any more.
func (s *Server) tendShares(ctx context.Context) {
	n := s.node
	if !n.shared() || s.sessions.bucket == nil {
		return
	}
	t := time.NewTicker(n.ttl / 4)
	defer t.Stop()
	reconnects := n.nc.Stats().Reconnects
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		again := n.nc.Stats().Reconnects
		s.tendAll(again != reconnects)
		reconnects = again
	}
}

// tendAll looks after the groups once. prove makes this gateway write the records
// of its own, to find out whether they are: it may have been taken for dead.
func (s *Server) tendAll(prove bool) {
	var changed []*share
	s.routes.mu.RLock()
	for _, g := range s.routes.shares {
		g.mu.Lock()
		if g.tendable() {
			changed = append(changed, g)
		} else {
			g.tellState("")
		}
		if prove {
			g.changed()
		}
		g.mu.Unlock()
	}
	s.routes.mu.RUnlock()
	if changed == nil {
		return
	}
	s.routes.mu.Lock()
	for _, g := range changed {
		g.mu.Lock()
		g.tend()
		g.mu.Unlock()
	}
	s.routes.mu.Unlock()
	for _, g := range changed {
		g.pump()
	}
}

// tendable reports whether tend would do something. The caller holds g.mu.
func (g *share) tendable() bool {
	switch g.tenure {
	case tenureOwn:
		for _, b := range g.branches {
			if !g.s.node.alive(b.node) {
				return true
			}
		}
		return false
	case tenureBranch:
		return g.idle() || !g.s.node.alive(g.asked)
	case tenureUnknown:
		return g.idle()
	}
	return false
}

// tend cuts branches whose gateway has died, leaves an owner that has, and
// forgets a group nobody needs. The caller holds routes.mu and g.mu.
func (g *share) tend() {
	switch {
	case g.tenure == tenureOwn:
		for _, b := range g.branches {
			if !g.s.node.alive(b.node) {
				g.cut(b)
			}
		}
	case g.tenure == tenureReleasing:
	case g.idle():
		g.tellState("")
		delete(g.s.routes.shares, g.key)
	case g.tenure == tenureBranch && !g.s.node.alive(g.asked):
		g.lose()
	}
}

// closeShares ends what the gateway has to do with others' members, when its own
// have left.
func (s *Server) closeShares() {
	n := s.node
	if !n.shared() {
		return
	}
	n.hearing.Lock()
	n.deaf = true
	n.hearing.Unlock()
	s.routes.mu.Lock()
	defer s.routes.mu.Unlock()
	for _, g := range s.routes.shares {
		g.mu.Lock()
		for _, b := range g.branches {
			g.cut(b)
		}
		g.mu.Unlock()
	}
}

// sweepShares takes out the records of groups that nobody has and nobody will
// come back to, and forgets members of this gateway's own whose sessions have
// ended elsewhere.
func (s *Server) sweepShares(ctx context.Context) error {
	f := s.fenced()
	var all []kv.Entry
	err := f.bucket.Scan(ctx, shareKey, func(e kv.Entry) error {
		all = append(all, e)
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range all {
		key := topic.Filter(strings.TrimPrefix(e.Key, shareKey))
		owner, value := unseal(e.Value)
		r, err := decodeShare(value, len(s.routed))
		if err != nil || owner != "" && owner != s.node.id && s.node.alive(owner) {
			continue
		}
		s.routes.mu.Lock()
		g := s.routes.shares[key]
		s.routes.mu.Unlock()
		if g == nil {
			inner, _ := (&subscription{filter: key}).parseShare()
			g = newShare(s, key, inner)
		}
		if r.ids == nil {
			if r.ids, err = g.scanMembers(ctx); err != nil {
				return err
			}
		}
		left, err := g.stillMembers(ctx, r.ids)
		if err != nil {
			return err
		}
		if owner == s.node.id {
			g.mu.Lock()
			for _, id := range r.ids {
				if g.tenure == tenureOwn && !slices.Contains(left, id) && !g.has(id) {
					delete(g.persistent, id)
					g.changed()
				}
			}
			g.mu.Unlock()
			continue
		}
		if len(left) == 0 {
			// Where it conflicts somebody has come back.
			_, _ = f.bucket.Commit(ctx, []kv.Change{{Key: e.Key, Expected: e.Revision}})
		}
	}
	return nil
}

// has reports whether a client of this gateway is a member. The caller holds
// g.mu.
func (g *share) has(id string) bool {
	return slices.ContainsFunc(g.members, func(o member) bool { return o.session() != nil && o.name() == id })
}
