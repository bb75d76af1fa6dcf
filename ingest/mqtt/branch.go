package mqtt

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/topic"
)

// branch is a gateway with members of a group that another one owns, as the
// owner sees it. It is in the group's turn once for each of them. It is sent as
// many messages as its members have windows for, gives them to them, and says of
// each what became of it: acknowledged, or back, since the member has left.
//
// What they say goes as frames on one subject a gateway, in order. Frames may be
// lost with a connection; so each second a branch says how it stands, all of it,
// and what it should have and has not is under way to nobody.
type branch struct {
	g       *share
	node    string
	epoch   uint64 // names this time of being a branch
	members int
	room    int              // messages it may have
	sent    uint64           // number of the last message
	flights map[where]uint64 // what it has, by number

	// Messages up to old were sent at least branchPatience ago, those up to mark at
	// markAt.
	old, mark uint64
	markAt    time.Time
}

// branchPatience is how long a message may be on its way.
const branchPatience = 500 * time.Millisecond

const shareSubject = "weir.share." // + node

// frame is what a gateway says to another about a group.
type frame struct {
	Kind  frameKind    `json:"kind"`
	Share topic.Filter `json:"share"`
	Node  string       `json:"node"` // who says it
	Epoch uint64       `json:"epoch,omitempty"`

	// Of a message; its payload follows the frame.
	N         uint64     `json:"n,omitempty"`
	To        string     `json:"to,omitempty"`
	Dup       bool       `json:"dup,omitempty"`
	Partition uint16     `json:"partition,omitempty"`
	Seq       uint64     `json:"seq,omitempty"` // of settled, refused and back too
	Received  int64      `json:"received,omitempty"`
	Event     *willEvent `json:"event,omitempty"`

	// Of a state: members, their windows together, the client ids of those whose
	// sessions are kept, one that has ended; the last message heard, and those it
	// has.
	Members int          `json:"members,omitempty"`
	Room    int          `json:"room,omitempty"`
	Kept    []string     `json:"kept,omitempty"`
	Gone    string       `json:"gone,omitempty"`
	Heard   uint64       `json:"heard,omitempty"`
	Has     []framePlace `json:"has,omitempty"`
}

// framePlace is a place as frames have it: partition and sequence.
type framePlace [2]uint64

type frameKind string

const (
	frameMessage frameKind = "message" // owner to branch
	frameUnknown frameKind = "unknown" // owner to branch: it is none
	frameSettled frameKind = "settled" // branch to owner
	frameRefused frameKind = "refused" // none of its members may have it
	frameBack    frameKind = "back"    // its member has left
	frameState   frameKind = "state"
)

// Answers to a state that is asked for.
const (
	branchTaken   = "taken"
	branchWait    = "wait"
	branchUnknown = "unknown"
)

func (f *frame) encode(payload []byte) []byte {
	head, err := json.Marshal(f)
	if err != nil {
		panic(err) // it holds nothing JSON cannot say
	}
	b := make([]byte, 0, len(head)+len(payload)+4)
	return append(append(binary.AppendUvarint(b, uint64(len(head))), head...), payload...)
}

func decodeFrame(b []byte) (f *frame, payload []byte, err error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return nil, nil, errors.New("a frame is cut off")
	}
	f = &frame{}
	if err := json.Unmarshal(b[k:k+int(n)], f); err != nil {
		return nil, nil, err
	}
	return f, b[k+int(n):], nil
}

func (f *frame) where() where { return where{f.Partition, f.Seq} }

// event returns the message of a frame.
func (f *frame) event(payload []byte) *event.Event {
	w := f.Event
	return &event.Event{
		Topic: w.Topic, Payload: payload, ClientID: w.ClientID, Principal: w.Principal, SourceIP: w.SourceIP, QoS: w.QoS, Retain: w.Retain,
		Props: w.Props, Received: time.UnixMilli(f.Received).UTC(), Seq: f.Seq, Partition: f.Partition,
	}
}

// say sends a frame about a group to another gateway. What is lost is found out
// by its states.
func (n *node) say(to string, key topic.Filter, f *frame, payload []byte) error {
	f.Share, f.Node = key, n.id
	err := n.nc.Publish(shareSubject+to, f.encode(payload))
	if err != nil {
		n.s.noise.warn("another gateway is not told of a shared subscription", "filter", string(key), "error", err)
	}
	return err
}

// take sends a message to the branch.
func (b *branch) take(x *encoder, m message, dup bool) shareResult {
	e := x.e
	switch {
	case slices.Contains(m.refused, b.node):
		return shareDenied
	case e.QoS == 1 && len(b.flights) >= b.room:
		return shareFull
	}
	b.sent++
	f := &frame{
		Kind: frameMessage, Epoch: b.epoch, N: b.sent, To: m.to, Dup: dup, Partition: e.Partition, Seq: e.Seq, Received: e.Received.UnixMilli(),
		Event: &willEvent{Topic: e.Topic, ClientID: e.ClientID, Principal: e.Principal, SourceIP: e.SourceIP, QoS: e.QoS, Retain: e.Retain, Props: e.Props},
	}
	switch {
	case b.g.s.node.say(b.node, b.g.key, f, e.Payload) != nil:
		return shareFull
	case e.QoS == 0:
		return shareSettled
	}
	b.flights[placeOf(e)] = b.sent
	return shareSent
}

func (b *branch) name() string      { return "\x00" + b.node } // no client id
func (b *branch) session() *session { return nil }

// cut ends a branch: what it has goes to others. The caller holds routes.mu and
// g.mu, and calls pump.
func (g *share) cut(b *branch) {
	g.turns(b, 0)
	delete(g.branches, b.node)
	for w := range b.flights {
		if m, ok := g.reclaim(b, w); ok {
			g.takeBack(w, m)
		}
	}
	g.changed()
}

// turns gives a branch its place among the members, n times. The caller holds
// routes.mu and g.mu.
func (g *share) turns(b *branch, n int) {
	if b.members == n {
		return
	}
	b.members = n
	g.members = slices.DeleteFunc(g.members, func(o member) bool { return o == b })
	for range n {
		g.members = append(g.members, b)
	}
	g.changed()
	g.rest()
	g.rouse()
}

// reclaim takes a message from a branch, for takeBack; ok is false where there is
// nothing to take back. The caller holds g.mu.
func (g *share) reclaim(b *branch, w where) (m message, ok bool) {
	delete(b.flights, w)
	if m, ok = g.flights[w]; !ok || m.by != b {
		return m, false
	}
	delete(g.flights, w)
	if m.e == nil { // the branch had it from an owner before
		g.open[w] = struct{}{}
		g.fetch(w)
		return m, false
	}
	return m, true
}

// fetch reads a message that nobody has, and that is open, once more. The caller
// holds g.mu.
func (g *share) fetch(w where) {
	ctx := g.ctx
	if g.stop == nil {
		g.places[w.part].after = min(g.places[w.part].after, w.seq-1)
		return // it is read when somebody comes
	}
	g.s.wg.Go(func() {
		for ctx.Err() == nil {
			e, err := g.s.readOne(ctx, w)
			if err == nil {
				g.mu.Lock()
				if _, open := g.open[w]; open && ctx.Err() == nil {
					delete(g.open, w)
					if e != nil {
						g.returned = append(g.returned, message{e: e, dup: true})
						g.wait()
					}
					g.changed()
				}
				g.mu.Unlock()
				g.pump()
				return
			}
			pause(ctx, 100*time.Millisecond)
		}
	})
}

// held is what a branch says it has of an owner before: it is under way. The
// caller holds g.mu.
func (g *share) held(b *branch, w where) {
	if _, flies := g.flights[w]; flies || int(w.part) >= len(g.places) {
		return
	}
	if _, open := g.open[w]; !open && w.seq <= g.position(int(w.part)) {
		return // it has been settled, or waits here
	}
	delete(g.open, w)
	g.flights[w] = message{by: b}
	b.flights[w] = 0
	g.changed()
}

// state is how this branch stands. The caller holds g.mu.
func (g *share) state(gone string) *frame {
	f := &frame{Kind: frameState, Share: g.key, Node: g.s.node.id, Epoch: g.epoch, Heard: g.heard, Gone: gone}
	for _, o := range g.members {
		sess := o.session()
		f.Members++
		f.Room += sess.window
		if _, kept := g.persistent[o.name()]; kept {
			f.Kept = append(f.Kept, o.name())
		}
	}
	for w := range g.flights {
		f.Has = append(f.Has, framePlace{uint64(w.part), w.seq})
	}
	for _, m := range append(g.queue[:len(g.queue):len(g.queue)], g.returned...) {
		f.Has = append(f.Has, framePlace{uint64(m.e.Partition), m.e.Seq})
	}
	return f
}

// tellState tells the owner how this branch stands; gone is a client id whose
// session has left the group. The caller holds g.mu.
func (g *share) tellState(gone string) {
	if g.tenure == tenureBranch {
		g.s.node.say(g.asked, g.key, g.state(gone), nil)
	}
}

// tellSettled tells the owner that a message is off its hands. The caller holds
// g.mu.
func (g *share) tellSettled(e *event.Event) { g.tell(frameSettled, e) }

// tellRefused tells the owner that none of this branch's members may have a
// message. The caller holds g.mu.
func (g *share) tellRefused(e *event.Event) { g.tell(frameRefused, e) }

func (g *share) tell(kind frameKind, e *event.Event) {
	if g.tenure == tenureBranch && e.QoS > 0 {
		g.s.node.say(g.asked, g.key, &frame{Kind: kind, Epoch: g.epoch, Partition: e.Partition, Seq: e.Seq}, nil)
	}
}

// giveBack gives the owner what no member of this branch is left for. The caller
// holds g.mu.
func (g *share) giveBack() {
	for _, m := range append(g.returned, g.queue...) {
		if m.e.QoS > 0 {
			f := &frame{Kind: frameBack, Epoch: g.epoch, To: m.to, Partition: m.e.Partition, Seq: m.e.Seq}
			g.s.node.say(g.asked, g.key, f, nil)
		}
	}
	g.queue, g.queueBytes, g.returned = nil, 0, nil
	g.wait()
}

// ask asks a gateway to have this one as a branch.
func (g *share) ask(ctx context.Context, owner string) (answer string, err error) {
	n := g.s.node
	g.mu.Lock()
	g.asked, g.epoch, g.heard = owner, 0, 0
	body := g.state("").encode(nil)
	g.mu.Unlock()
	wait, cancel := context.WithTimeout(ctx, n.ttl/4)
	defer cancel()
	m, err := n.nc.RequestWithContext(wait, shareSubject+owner, body)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return branchUnknown, nil
	case errors.Is(err, context.DeadlineExceeded):
		return branchWait, nil // until its lease has run out
	case err != nil:
		return "", err
	}
	return string(m.Data), nil
}

// hear takes what another gateway says.
func (n *node) hear(m *nats.Msg) {
	n.hearing.Lock()
	defer n.hearing.Unlock()
	if n.deaf {
		return
	}
	f, payload, err := decodeFrame(m.Data)
	if err != nil {
		n.s.noise.warn("another gateway is not understood", "error", err)
		return
	}
	if f.Kind == frameState {
		n.hearState(f, m)
		return
	}
	n.s.routes.mu.RLock()
	g := n.s.routes.shares[f.Share]
	n.s.routes.mu.RUnlock()
	if g == nil {
		n.giveBack(f)
		return
	}
	switch f.Kind {
	case frameMessage:
		if !g.hearMessage(f, payload) {
			n.giveBack(f)
		}
	case frameUnknown:
		n.s.routes.mu.Lock()
		g.mu.Lock()
		if g.tenure == tenureBranch && g.asked == f.Node {
			g.lose()
		}
		g.mu.Unlock()
		n.s.routes.mu.Unlock()
	case frameSettled, frameRefused, frameBack:
		g.hearBranch(f)
	}
}

// giveBack gives back a message that this gateway has no use for.
func (n *node) giveBack(f *frame) {
	if f.Kind == frameMessage && f.Event != nil && f.Event.QoS > 0 {
		n.say(f.Node, f.Share, &frame{Kind: frameBack, Epoch: f.Epoch, To: f.To, Partition: f.Partition, Seq: f.Seq}, nil)
	}
}

// hearMessage takes a message from the owner. It reports whether this gateway
// takes messages from there.
func (g *share) hearMessage(f *frame, payload []byte) bool {
	g.beBranch(f.Node)
	if f.Event == nil || int(f.Partition) >= len(g.places) || f.Seq == 0 {
		return false
	}
	m := message{e: f.event(payload), to: f.To, dup: f.Dup}
	g.mu.Lock()
	if g.tenure != tenureBranch || g.asked != f.Node {
		g.mu.Unlock()
		return false
	}
	g.epoch, g.heard = f.Epoch, f.N
	if pl := &g.places[f.Partition]; pl.after < f.Seq {
		pl.after = f.Seq // as far as is known here, where the owner leaves no word
	}
	if m.e.QoS == 0 {
		x := encoders.Get().(*encoder)
		x.reset(m.e, g.s.now())
		sess, ok := g.give(x, m)
		x.e = nil
		encoders.Put(x)
		g.mu.Unlock()
		if !ok {
			g.s.m.drops.WithLabelValues("slow").Inc()
		}
		if sess != nil {
			sess.Flush()
		}
		return true
	}
	if _, has := g.flights[f.where()]; !has {
		g.queue = append(g.queue, m)
		g.queueBytes += m.e.Size()
	}
	if len(g.members) == 0 {
		g.giveBack()
	}
	g.wait()
	g.mu.Unlock()
	g.pump()
	return true
}

// hearBranch takes what a branch says of a message.
func (g *share) hearBranch(f *frame) {
	g.mu.Lock()
	b := g.branches[f.Node]
	if g.tenure != tenureOwn || b == nil || f.Epoch != 0 && f.Epoch != b.epoch {
		g.mu.Unlock()
		return
	}
	w := f.where()
	switch f.Kind {
	case frameSettled:
		delete(b.flights, w)
		if g.flights[w].by == b {
			delete(g.flights, w)
		}
	case frameBack, frameRefused:
		m, ok := g.reclaim(b, w)
		if !ok {
			break
		}
		if m.to = f.To; f.Kind == frameRefused {
			m.refused = append(slices.Clip(m.refused), b.node)
		}
		g.takeBack(w, m)
	}
	g.changed()
	g.mu.Unlock()
	g.pump()
}

// hearState takes how a branch stands, and answers where it is asked to.
func (n *node) hearState(f *frame, m *nats.Msg) {
	answer := n.takeState(f)
	if m.Reply != "" {
		if err := m.Respond([]byte(answer)); err != nil {
			n.s.noise.warn("another gateway is not answered", "error", err)
		}
	} else if answer == branchUnknown && f.Members > 0 {
		n.say(f.Node, f.Share, &frame{Kind: frameUnknown}, nil)
	}
}

func (n *node) takeState(f *frame) (answer string) {
	n.s.routes.mu.Lock()
	g := n.s.routes.shares[f.Share]
	if g == nil {
		n.s.routes.mu.Unlock()
		return branchUnknown
	}
	g.mu.Lock()
	switch {
	case g.tenure == tenureReleasing:
		answer = branchWait
	case g.tenure != tenureOwn:
		answer = branchUnknown
	default:
		answer = branchTaken
		g.branchIs(f)
	}
	g.mu.Unlock()
	n.s.routes.mu.Unlock()
	if answer == branchTaken {
		g.pump()
	}
	return answer
}

// branchIs notes how a branch stands. The caller holds routes.mu and g.mu.
func (g *share) branchIs(f *frame) {
	b := g.branches[f.Node]
	if b != nil && f.Epoch != b.epoch && f.Epoch != 0 {
		g.cut(b) // of another time
		b = nil
	}
	if b == nil {
		b = &branch{g: g, node: f.Node, epoch: uint64(time.Now().UnixNano()), flights: map[where]uint64{}}
		g.branches[f.Node] = b
	}
	has := make(map[where]struct{}, len(f.Has))
	for _, p := range f.Has {
		w := where{uint16(p[0]), p[1]}
		has[w] = struct{}{}
		if _, known := b.flights[w]; !known && f.Epoch == 0 {
			g.held(b, w)
		}
	}
	if now := time.Now(); now.Sub(b.markAt) >= branchPatience {
		b.old, b.mark, b.markAt = b.mark, b.sent, now
	}
	for w, number := range b.flights {
		heard := f.Epoch == b.epoch && number <= f.Heard
		if _, still := has[w]; still || !heard && number > b.old {
			continue
		}
		if m, ok := g.reclaim(b, w); ok { // a frame was lost
			g.takeBack(w, m)
		}
	}
	for _, id := range f.Kept {
		if _, known := g.persistent[id]; !known {
			g.persistent[id] = struct{}{}
			g.changed()
		}
	}
	if _, known := g.persistent[f.Gone]; known && f.Gone != "" {
		delete(g.persistent, f.Gone)
		g.changed()
	}
	b.room = f.Room
	if len(b.flights) == 0 && f.Members == 0 {
		g.cut(b)
		return
	}
	g.turns(b, f.Members)
}

// readOne reads a message from the log; nil where it is not there any more.
func (s *Server) readOne(ctx context.Context, w where) (*event.Event, error) {
	f, err := s.log.Follow(eventlog.FollowOptions{Partition: int(w.part), After: w.seq - 1})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	batch, _, err := f.Next(ctx, 1)
	var gap *eventlog.GapError
	switch {
	case errors.As(err, &gap):
		return nil, nil
	case err != nil:
		return nil, err
	case len(batch) == 0 || batch[0].Seq != w.seq:
		return nil, nil
	}
	return batch[0], nil
}
