package mqtt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/internal/topic"
)

// TestModel drives gateways with random sequences of what clients do, right and
// wrong, and holds what they see against a small model. A world is a gateway with
// limits, log and clients of its own, and a seed for all that happens to it.
//
// WEIR_MODEL_STEPS is how many steps are taken in all, WEIR_MODEL_SEED the seed of
// the first world; without them a few worlds are tried, some of them new ones.
// WEIR_MODEL_FROM and WEIR_MODEL_TO bound the steps of a world, to look at a part
// of a failure.
func TestModel(t *testing.T) {
	number := func(name string, otherwise uint64) uint64 {
		if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
			return n
		}
		return otherwise
	}
	from, to := number("WEIR_MODEL_FROM", 0), number("WEIR_MODEL_TO", modelWorld)
	seeds := make(chan uint64)
	failed := make(chan struct{})
	go func() {
		defer close(seeds)
		for _, seed := range modelSeeds(number("WEIR_MODEL_STEPS", 0)/(to-from), number("WEIR_MODEL_SEED", 0)) {
			select {
			case seeds <- seed:
			case <-failed:
				return
			}
		}
	}()
	began, worlds := time.Now(), atomic.Uint64{}
	var once sync.Once
	var running sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		running.Go(func() {
			for seed := range seeds {
				if err := modelFailure(t, seed, from, to); err != nil {
					t.Error(err)
					once.Do(func() { close(failed) })
				}
				worlds.Add(1)
			}
		})
	}
	running.Wait()
	if !t.Failed() {
		t.Logf("%d steps in %v, 0 divergences", worlds.Load()*(to-from), time.Since(began).Round(time.Second))
	}
}

const modelWorld = 1000 // steps

// modelSeeds returns those of so many worlds, from first on; of a few, without.
func modelSeeds(worlds, first uint64) (seeds []uint64) {
	if worlds == 0 && first == 0 {
		return []uint64{1, 2, rand.Uint64() >> 16, rand.Uint64() >> 16}
	}
	for i := range max(worlds, 1) {
		seeds = append(seeds, first+i)
	}
	return seeds
}

// modelFailure takes the steps of a world, and of one that fails it tells the
// least: the largest prefix is left out without which it fails too. What depends
// on timing may not show again.
func modelFailure(t *testing.T, seed, from, to uint64) error {
	at, trace, err := runModel(t, seed, from, to)
	if err == nil {
		return nil
	}
	start := from
	patience := time.Now().Add(time.Minute)
	for cut := (at - from) / 2; cut > 0; cut /= 2 {
		for start+cut < at && time.Now().Before(patience) {
			end, shorter, again := runModel(t, seed, start+cut, at)
			if again == nil {
				break
			}
			start, trace, err, at = start+cut, shorter, again, end
		}
	}
	return fmt.Errorf("%w\nWEIR_MODEL_SEED=%d WEIR_MODEL_FROM=%d WEIR_MODEL_TO=%d, the last steps:\n%s",
		err, seed, start, at, strings.Join(trace[max(0, len(trace)-400):], "\n"))
}

// diverged is what the gateway and the model do not agree on.
type diverged string

// modelTB makes the failures of a test's helpers those of one world.
type modelTB struct {
	testing.TB
	cleanups []func()
}

func (m *modelTB) Helper()                   {}
func (m *modelTB) Fatal(a ...any)            { panic(diverged(fmt.Sprint(a...))) }
func (m *modelTB) Error(a ...any)            { panic(diverged(fmt.Sprint(a...))) }
func (m *modelTB) Fatalf(f string, a ...any) { panic(diverged(fmt.Sprintf(f, a...))) }
func (m *modelTB) Errorf(f string, a ...any) { panic(diverged(fmt.Sprintf(f, a...))) }
func (m *modelTB) Cleanup(f func())          { m.cleanups = append(m.cleanups, f) }

// runModel takes the steps from up to to of the world of seed, and tells behind
// which it ended and what they were.
func runModel(t *testing.T, seed, from, to uint64) (at uint64, trace []string, err error) {
	tb := &modelTB{TB: t}
	w := &world{t: tb, bucket: newFakeBucket(), kept: newFakeBucket(), retained: map[string]*modelMessage{}, groups: map[string]*modelGroup{}}
	defer func() {
		trace = w.trace
		if p := recover(); p != nil {
			d, ok := p.(diverged)
			if !ok {
				panic(p)
			}
			err = errors.New(string(d))
		}
		for _, f := range slices.Backward(tb.cleanups) {
			f()
		}
	}()
	rnd := rand.New(rand.NewPCG(seed, 1<<63))
	w.log = newFakeLog(1 + rnd.IntN(2))
	w.limits = ingest.AWS()
	if rnd.IntN(2) == 0 {
		w.limits = ingest.Relaxed()
	}
	if rnd.IntN(2) == 0 {
		w.leases = newFakeLeases()
	}
	w.now.Store(1e18)
	w.queue = []int{0, 3, 1000}[rnd.IntN(3)]
	w.next = make([]uint64, len(w.log.parts))
	w.start()
	for i := range 4 {
		w.clients = append(w.clients, &modelClient{w: w, id: strings.Repeat("c", i%2+1) + fmt.Sprint(i/2)})
	}
	for at = from; at < to; {
		i := at
		at++
		// A step's choices are its own, so that others can be left out.
		w.step(rand.New(rand.NewPCG(seed, i)))
	}
	w.drain()
	return at, w.trace, nil
}

// world is a gateway and the model of it.
type world struct {
	t            *modelTB
	r            *rig
	log          *fakeLog
	bucket, kept *fakeBucket
	leases       *fakeLeases // nil: wills are not stored, and not delayed
	now          atomic.Int64
	limits       ingest.Limits
	queue        int
	next         []uint64 // events of each partition the model has seen
	clients      []*modelClient
	retained     map[string]*modelMessage
	groups       map[string]*modelGroup
	sent         int
	trace        []string
}

// modelMessage is a message that a client is to be sent, in one partition.
type modelMessage struct {
	topic, payload string
	part           int
	qos            byte
	retain         bool // as published
	from           string
	taker          *modelClient  // of a will: who took over, and may get it
	delay          time.Duration // of a will
	lasts          time.Duration // message expiry; 0: for ever
	sent           time.Time     // with it

	// As one client has it.
	by       map[*modelSub]bool // QoS 1: the subscriptions it came by
	flags    [2]bool            // the retain flags it may have
	filter   string             // retained: the subscription it is for
	optional bool               // may not come
	loose    bool               // its QoS is not held against it
	anyFlag  bool               // the retain flag is not held against it
	either   bool               // a retained one, or a live one with the same payload
	retained bool               // the flag it came with
	ending   bool               // published while the gateway ends: clients may be gone
	pid      uint16             // on this connection; 0: not sent on it
	seen     bool               // came on a connection
	maybe    bool               // may have been sent on an earlier connection
	oldPid   uint16             // by which it came on an earlier connection
	acking   bool               // acknowledged, and that may not have been heard
	holder   *modelClient       // of a group's: who has it
}

// lives returns for how long a message still lasts; 0: for ever.
func (m *modelMessage) lives(now time.Time) time.Duration {
	if m.lasts == 0 {
		return 0
	}
	return m.lasts - now.Sub(m.sent)
}

// expired reports whether its time is over.
func (m *modelMessage) expired(now time.Time) bool { return m.lasts > 0 && m.lives(now) <= 0 }

type modelSub struct {
	filter       string
	qos          byte
	id           uint32
	noLocal, rap bool
}

type modelGroup struct {
	filter  string
	members map[*modelClient]bool
	pending []*modelMessage
	had     map[string]bool // came to a member; may come again
}

type modelClient struct {
	w       *world
	id      string
	p       *peer // nil: away
	session bool  // there is one
	keeps   bool
	window  int
	subs    map[string]*modelSub
	live    [2][]*modelMessage // QoS 1 by partition
	zero    [2][]*modelMessage // QoS 0
	ret     []*modelMessage    // retained
	owed    []*modelMessage    // sent to it by groups that have ended
	in      map[uint16]string  // aliases of the server's
	aliases int                // how many it may use
	out     map[uint16]string  // aliases of the client's
	will    *modelMessage
	delayed *modelMessage // a will whose delay runs
	due     time.Time     // when it is over
	expiry  time.Duration // of the session, while it is kept
	left    time.Time
	acked   []byte // packet ids of PUBACKs that came
	pid     uint16
}

func (w *world) start() {
	w.r = start(w.t, func(o *Options) {
		o.Log, o.Sessions, o.Retained, o.Limits = w.log, w.bucket, w.kept, w.limits
		o.Safety.QueuedMessages = w.queue
		o.Now = w.clock
		if w.leases != nil {
			o.Leases = w.leases
		}
	})
}

func (w *world) clock() time.Time { return time.Unix(0, w.now.Load()) }

func (w *world) say(c *modelClient, format string, a ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%5d %s ", len(w.trace), c.id)+fmt.Sprintf(format, a...))
}

// step takes one step; it always leaves one line of the trace.
func (w *world) step(rnd *rand.Rand) {
	c := w.clients[rnd.IntN(len(w.clients))]
	if c.p == nil {
		if rnd.IntN(3) > 0 {
			c.connect(rnd)
			return
		}
		for _, o := range w.clients {
			if o.p != nil {
				c = o
			}
		}
		if c.p == nil {
			c.connect(rnd)
			return
		}
	}
	switch n := rnd.IntN(100); {
	case n < 40:
		c.publish(rnd)
	case n < 62:
		c.acknowledge(rnd)
	case n < 74:
		c.subscribe(rnd)
	case n < 80:
		c.unsubscribe(rnd)
	case n < 84:
		c.connect(rnd)
	case n < 89:
		c.drop(rnd)
	case n < 92:
		c.disconnect(rnd)
	case n < 95:
		c.wrong(rnd)
	case n < 96:
		w.say(c, "all drain")
		w.drain()
	case n < 97 && rnd.IntN(5) == 0:
		w.restart(c)
	case n < 98 && rnd.IntN(2) == 0:
		w.pass(c, []time.Duration{30 * time.Second, 200 * time.Second, 2 * time.Hour}[rnd.IntN(3)])
	default:
		w.say(c, "ping")
		c.sync()
	}
}

var (
	modelTopics  = []string{"t/0", "t/1", "t/a/b", "t", "t/a", "s/g/0", "s/h/x"}
	modelFilters = []string{"t/0", "t/1", "t/+", "t/#", "+", "t/a/#", "t/+/b", "$share/g/s/g/+", "$share/h/s/h/#"}
)

// match is topic matching as the standard has it, or as AWS does.
func (w *world) match(filter, name string) bool {
	f, n := strings.Split(filter, "/"), strings.Split(name, "/")
	for i := range f {
		if f[i] == "#" {
			return len(n) > i || len(n) == i && w.limits.Name == "relaxed"
		}
		if i >= len(n) || f[i] != "+" && f[i] != n[i] {
			return false
		}
	}
	return len(f) == len(n)
}

func (w *world) fail(c *modelClient, format string, a ...any) {
	panic(diverged(c.id + ": " + fmt.Sprintf(format, a...)))
}

// pull takes what is new on the log, which must be want, in this order within a
// partition; those with the flag optional may be missing.
func (w *world) pull(c *modelClient, want ...*modelMessage) {
	for p := range w.log.parts {
		for _, e := range w.log.events(p)[w.next[p]:] {
			w.next[p]++
			found := false
			for i, m := range want {
				if m.topic == string(e.Topic) && m.payload == string(e.Payload) && m.qos == e.QoS && m.retain == e.Retain && m.from == e.ClientID {
					want, found = slices.Delete(slices.Clone(want), i, i+1), true
					m.part = p
					if m.retain && !m.ending && len(w.log.parts) > 1 {
						// Of two partitions' messages the one that is handed out last stays.
						eventually(w.t, "handed out", func() bool { return w.r.s.handed[p].Load() >= w.next[p] })
					}
					w.fan(m)
					break
				}
			}
			if !found {
				w.fail(c, "on the log: %s=%s of %s", e.Topic, e.Payload, e.ClientID)
			}
		}
	}
	for _, m := range want {
		if !m.optional {
			w.fail(c, "not on the log: %s=%s of %s", m.topic, m.payload, m.from)
		}
	}
}

// fan gives a message to all that are to be sent it.
func (w *world) fan(m *modelMessage) {
	if m.retain {
		kept := *m
		w.retained[m.topic] = &kept
		if m.payload == "" {
			delete(w.retained, m.topic)
		}
	}
	for _, c := range w.clients {
		if !c.session {
			continue
		}
		out := *m
		out.optional = false
		out.by = map[*modelSub]bool{}
		any, best := false, byte(0)
		for _, s := range c.subs {
			if w.match(s.filter, m.topic) && !(s.noLocal && m.from == c.id) {
				any, best = true, max(best, s.qos)
			}
		}
		if !any {
			continue
		}
		for _, s := range c.subs {
			if w.match(s.filter, m.topic) && !(s.noLocal && m.from == c.id) && s.qos == best {
				out.by[s] = true
				if m.retain && s.rap {
					out.flags[1] = true
				} else {
					out.flags[0] = true
				}
			}
		}
		if out.qos = min(m.qos, best); out.qos == 1 {
			c.live[m.part] = append(c.live[m.part], &out)
			continue
		}
		// A client that comes back while it is being handed out may get it.
		out.optional = c.p == nil || m.taker == c || m.ending
		c.zero[m.part] = append(c.zero[m.part], &out)
		if c.p == nil && len(c.zero[m.part]) > 100 {
			c.zero[m.part] = c.zero[m.part][1:]
		}
	}
	for _, g := range w.groups {
		if w.match(g.filter, m.topic) {
			out := *m
			out.optional = m.qos == 0
			g.pending = append(g.pending, &out)
		}
	}
}

// packet reads one packet; those that are no answer are dealt with.
func (c *modelClient) packet() (h byte, body []byte, err error) {
	h, body, err = c.p.read()
	if err != nil {
		return 0, nil, err
	}
	switch h >> 4 {
	case packets.Publish:
		d := c.p.parse(h, body)
		c.w.say(c, "    < %v dup %v packet id %d", d, d.dup, d.pid)
		c.delivered(d)
	case packets.Puback:
		c.acked = append(c.acked, body...)
	}
	return h, body, nil
}

// until reads up to a packet of a type.
func (c *modelClient) until(typ byte) []byte {
	for {
		h, body, err := c.packet()
		if err != nil {
			c.w.fail(c, "the connection ended: %v", err)
		}
		if h>>4 == typ {
			return body
		}
		if h>>4 != packets.Publish {
			c.w.fail(c, "packet % x % x", h, body)
		}
	}
}

// sync returns when the gateway has heard all that the client has said.
func (c *modelClient) sync() {
	c.p.send([]byte{packets.Pingreq << 4, 0})
	c.until(packets.Pingresp)
	gone := func(m *modelMessage) bool { return m.acking }
	for p := range c.live {
		c.live[p] = slices.DeleteFunc(c.live[p], gone)
	}
	c.ret = slices.DeleteFunc(c.ret, gone)
	c.owed = slices.DeleteFunc(c.owed, gone)
	for _, g := range c.w.groups {
		g.pending = slices.DeleteFunc(g.pending, func(m *modelMessage) bool { return m.holder == c && m.acking })
	}
}

// ended reads up to the end of the connection, before which there must be a
// DISCONNECT with code (MQTT 5, code not 0).
func (c *modelClient) ended(code byte) {
	told := false
	for {
		h, body, err := c.packet()
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				c.w.fail(c, "the connection stays open")
			}
			if code != 0 && c.p.v5 && !told && errors.Is(err, io.EOF) {
				c.w.fail(c, "no DISCONNECT %#x", code)
			}
			return
		}
		if h>>4 == packets.Disconnect {
			if told = true; len(body) == 0 || body[0] != code {
				c.w.fail(c, "DISCONNECT % x, want %#x", body, code)
			}
		}
	}
}

// sentNow are the messages of QoS 1 sent on this connection and not
// acknowledged.
func (c *modelClient) sentNow() (out []*modelMessage) {
	add := func(list []*modelMessage) {
		for _, m := range list {
			if m.pid != 0 && !m.acking {
				out = append(out, m)
			}
		}
	}
	for p := range c.live {
		add(c.live[p])
	}
	add(c.ret)
	add(c.owed)
	for _, g := range c.w.sortedGroups() {
		for _, m := range g.pending {
			if m.holder == c && m.pid != 0 && !m.acking {
				out = append(out, m)
			}
		}
	}
	slices.SortFunc(out, func(a, b *modelMessage) int { return int(a.pid) - int(b.pid) })
	return out
}

func (w *world) sortedGroups() (out []*modelGroup) {
	for _, f := range modelFilters {
		if g := w.groups[f]; g != nil {
			out = append(out, g)
		}
	}
	return out
}

// delivered holds a PUBLISH against the model.
func (c *modelClient) delivered(d delivery) {
	w := c.w
	left := uint32(0)
	if c.p.v5 {
		var alias uint16
		var ids []uint32
		for b := d.props; len(b) > 0; {
			switch b[0] {
			case packets.PropTopicAlias:
				alias, b = binary.BigEndian.Uint16(b[1:]), b[3:]
			case packets.PropSubscriptionIdentifier:
				n, k := varint(b[1:])
				ids, b = append(ids, uint32(n)), b[1+k:]
			case packets.PropMessageExpiryInterval:
				left, b = binary.BigEndian.Uint32(b[1:]), b[5:]
			default:
				w.fail(c, "property %d", b[0])
			}
		}
		if alias > 0 {
			if int(alias) > c.aliases {
				w.fail(c, "alias %d", alias)
			}
			if d.topic != "" {
				c.in[alias] = d.topic
			}
			d.topic = c.in[alias]
		}
		for _, id := range ids {
			if w.limits.Name != "relaxed" || id == 0 || id > 9 {
				w.fail(c, "subscription identifier %d", id)
			}
		}
	}
	if d.topic == "" {
		w.fail(c, "no topic")
	}
	if d.qos > 0 {
		now := c.sentNow()
		if len(now) >= c.window {
			w.fail(c, "%v is beyond the receive maximum %d", d, c.window)
		}
		for _, m := range now {
			if m.pid == d.pid {
				w.fail(c, "%v: packet id %d is in use by %s", d, d.pid, m.payload)
			}
		}
	}
	if strings.HasPrefix(d.topic, "s/") {
		c.deliveredShared(d)
		return
	}
	list, m := c.find(d)
	if m == nil {
		var waits []string
		for _, l := range [][]*modelMessage{c.live[0], c.live[1], c.zero[0], c.zero[1], c.ret} {
			for _, o := range l {
				waits = append(waits, fmt.Sprintf("%s=%s/%d", o.topic, o.payload, o.qos))
			}
			waits = append(waits, ";")
		}
		w.fail(c, "%v dup %v is not expected; what is: %v", d, d.dup, waits)
	}
	if m.qos != d.qos && !m.loose {
		w.fail(c, "%v, want QoS %d", d, m.qos)
	}
	if c.p.v5 && time.Duration(left)*time.Second != m.lives(w.clock()) {
		w.fail(c, "%v lasts for %d s, want %v", d, left, m.lives(w.clock()))
	}
	if list != &c.ret {
		if flag := map[bool]int{false: 0, true: 1}[d.retain]; !m.seen && !m.flags[flag] && !m.either && !m.anyFlag && len(m.by) == 1 || m.seen && m.retained != d.retain {
			w.fail(c, "%v: the retain flag", d)
		}
		if !m.either && !inOrder(*list, m) {
			w.fail(c, "%v comes before what was published before it: %+v", d, *list)
		}
		if d.dup && !m.maybe && !m.either {
			w.fail(c, "%v has DUP and is new", d)
		}
		if !d.dup && m.seen && d.qos > 0 && !m.either {
			w.fail(c, "%v comes again without DUP", d)
		}
		if d.qos > 0 && m.oldPid != 0 && m.oldPid != d.pid && !m.either && d.dup {
			w.fail(c, "%v comes again with packet id %d, had %d", d, d.pid, m.oldPid)
		}
	}
	if d.qos == 0 {
		*list = slices.DeleteFunc(*list, func(o *modelMessage) bool { return o == m })
		return
	}
	m.pid, m.seen, m.retained = d.pid, true, d.retain
}

// find looks for the message a delivery is.
func (c *modelClient) find(d delivery) (list *[]*modelMessage, m *modelMessage) {
	all := []*[]*modelMessage{&c.live[0], &c.live[1], &c.ret}
	for _, l := range all {
		for _, m := range *l { // once more, as its packet id tells
			if d.dup && m.pid == 0 && m.oldPid == d.pid && m.topic == d.topic && m.payload == d.payload {
				return l, m
			}
		}
	}
	var lists []*[]*modelMessage
	var found []*modelMessage
	look := func(l *[]*modelMessage) {
		var best *modelMessage
		most := 0
		for _, m := range *l {
			if m.pid != 0 || m.oldPid != 0 || m.topic != d.topic || m.payload != d.payload || m.qos != d.qos && !m.loose {
				continue
			}
			flag := m.flags[map[bool]int{false: 0, true: 1}[d.retain]] || m.anyFlag
			if l == &c.ret {
				flag = d.retain
			}
			if !flag && !m.either {
				continue
			}
			score := 0
			if m.qos == d.qos {
				score += 2
			}
			if !m.optional && (l == &c.ret || inOrder(*l, m)) { // it must come, and is due
				score++
			}
			if best == nil || score > most {
				best, most = m, score
			}
		}
		if best != nil {
			lists, found = append(lists, l), append(found, best)
		}
	}
	for p := range c.live {
		look(&c.live[p])
		look(&c.zero[p])
	}
	look(&c.ret)
	if len(found) == 0 {
		return nil, nil
	}
	if len(found) > 1 { // which of them it is cannot be told
		optional := slices.ContainsFunc(found, func(m *modelMessage) bool { return m.optional })
		for _, m := range found {
			m.optional = optional
		}
		for _, l := range all {
			for _, m := range *l {
				m.either = m.either || m.topic == d.topic && m.payload == d.payload
			}
		}
		// A live message that is not due is not it.
		for i := range found {
			if lists[i] == &c.ret || inOrder(*lists[i], found[i]) {
				return lists[i], found[i]
			}
		}
	}
	return lists[0], found[0]
}

// inOrder reports whether nothing before m still has to come.
func inOrder(list []*modelMessage, m *modelMessage) bool {
	for _, o := range list {
		if o == m {
			return true
		}
		if o.pid == 0 && !o.optional && !o.acking && !o.either {
			return false
		}
	}
	return false
}

func (c *modelClient) deliveredShared(d delivery) {
	for _, g := range c.w.groups {
		if !c.w.match(g.filter, d.topic) {
			continue
		}
		for i, m := range g.pending {
			if m.payload != d.payload || m.topic != d.topic || m.holder != nil {
				continue
			}
			if m.qos != d.qos || d.retain {
				c.w.fail(c, "%v, want QoS %d", d, m.qos)
			}
			if !g.members[c] {
				c.w.fail(c, "%v, and is not in the group", d)
			}
			g.had[d.payload] = true
			if m.holder, m.pid = c, d.pid; d.qos == 0 {
				g.pending = slices.Delete(g.pending, i, i+1)
			}
			return
		}
		if g.had[d.payload] && d.qos == 1 {
			g.pending = append(g.pending, &modelMessage{topic: d.topic, payload: d.payload, qos: 1, optional: true, holder: c, pid: d.pid})
			return
		}
	}
	c.w.fail(c, "%v of a group is not expected", d)
}

// away is the model's end of a connection.
func (c *modelClient) away(keeps bool) {
	c.p.nc.Close()
	c.p = nil
	for p := range c.zero {
		for _, m := range c.zero[p] {
			m.optional = true // may be handed out late, when it is back
		}
	}
	c.acked, c.owed, c.left = nil, nil, c.w.clock()
	lost := func(m *modelMessage) {
		if m.pid != 0 {
			m.oldPid = m.pid
		}
		m.pid, m.maybe = 0, true
		if m.acking {
			m.acking, m.optional = false, true
		}
	}
	for p := range c.live {
		for _, m := range c.live[p] {
			lost(m)
		}
	}
	for _, m := range c.ret {
		lost(m)
	}
	for _, g := range c.w.groups {
		for _, m := range g.pending {
			if m.holder == c {
				m.holder = nil
				lost(m)
			}
		}
	}
	if !keeps {
		c.forget()
	}
}

// forget is the end of a session.
func (c *modelClient) forget() {
	c.session, c.subs, c.live, c.ret = false, map[string]*modelSub{}, [2][]*modelMessage{}, nil
	c.zero = [2][]*modelMessage{}
	for f := range c.w.groups {
		c.leaveGroup(f)
	}
}

func (c *modelClient) leaveGroup(filter string) {
	g := c.w.groups[filter]
	if g == nil {
		return
	}
	if delete(g.members, c); len(g.members) > 0 {
		return
	}
	delete(c.w.groups, filter)
	for _, m := range g.pending {
		if m.holder != nil {
			m.holder.owed = append(m.holder.owed, m)
		}
	}
}

// lost is the will that is published when the connection ends. One with a delay
// waits, for as long as the session is kept.
func (c *modelClient) lost() []*modelMessage {
	if c.will == nil {
		return nil
	}
	delay := c.will.delay
	if !c.keeps || c.w.leases == nil {
		delay = 0
	}
	if delay = min(delay, c.expiry); delay > 0 {
		c.delayed, c.due = c.will, c.w.clock().Add(delay)
		return nil
	}
	return []*modelMessage{c.will}
}

func (c *modelClient) connect(rnd *rand.Rand) {
	v := versions[rnd.IntN(2)]
	clean, keeps := rnd.IntN(4) == 0, rnd.IntN(3) > 0
	flags := byte(0)
	if v == 4 {
		keeps = !clean
	}
	if clean {
		flags = 2
	}
	window, aliases := 0, 0
	var props []byte
	ends := c.w.limits.SessionExpiry
	if v == 5 {
		if ends = 0; keeps {
			ends = 600 * time.Second
			props = expiry(600)
		}
		if rnd.IntN(3) > 0 {
			window = 1 + rnd.IntN(5)
			props = append(props, packets.PropReceiveMaximum, 0, byte(window))
		}
		if aliases = rnd.IntN(4); aliases > 0 {
			props = append(props, packets.PropTopicAliasMaximum, 0, byte(aliases))
		}
	}
	var will *modelMessage
	var rest []byte
	if rnd.IntN(3) == 0 {
		will = &modelMessage{topic: modelTopics[rnd.IntN(len(modelTopics))], payload: fmt.Sprint("will", c.w.sent), qos: byte(rnd.IntN(2)), retain: rnd.IntN(4) == 0, from: c.id}
		if strings.HasPrefix(will.topic, "s/") {
			will.retain = false
		}
		c.w.sent++
		flags |= 4 | will.qos<<3
		if will.retain {
			flags |= 1 << 5
		}
		if v == 5 {
			var delay []byte
			if rnd.IntN(3) == 0 {
				will.delay = 50 * time.Second
				delay = willDelay(50)
			}
			rest = append(appendLength(rest, len(delay)), delay...)
		}
		rest = append(append(rest, str(will.topic)...), str(will.payload)...)
	}
	c.w.say(c, "connect %d clean %v keeps %v window %d aliases %d will %v, was connected %v", v, clean, keeps, window, aliases, will, c.p != nil)
	p := c.w.r.dial()
	p.v5 = v == 5
	p.send(connectPacket(v, c.id, flags, 1200, props, rest...))
	var wills []*modelMessage
	if c.p != nil {
		wills = c.lost()
		c.ended(codeTakenOver)
		c.away(c.keeps)
	}
	if c.delayed != nil && clean { // else it is taken back
		wills = append(wills, c.delayed)
	}
	c.delayed = nil
	for _, m := range wills {
		m.taker = c
	}
	h, body, err := p.read()
	before := maps.Clone(c.w.retained)
	c.w.pull(c, wills...) // before the CONNACK, and so before the new connection
	c.connected(p, h, body, err, clean)
	c.begin(keeps, window, aliases)
	c.expiry = ends
	for _, m := range c.ret { // what waited may be sent before the will is retained
		if old := before[m.topic]; old != nil && slices.ContainsFunc(wills, func(o *modelMessage) bool { return o.retain && o.topic == m.topic }) {
			other := *old
			other.optional, other.loose, other.filter, other.qos = true, true, m.filter, 1
			c.ret = append(c.ret, &other)
		}
	}
	c.will = will
	c.sync()
}

func (c *modelClient) connected(p *peer, h byte, body []byte, err error, clean bool) {
	if err != nil || h>>4 != packets.Connack || body[1] != 0 {
		c.w.fail(c, "CONNACK % x, %v", body, err)
	}
	if want := c.session && !clean; (body[0] == 1) != want {
		c.w.fail(c, "session present %d, want %v", body[0], want)
	}
	if clean {
		c.forget()
	}
	c.p = p
}

// begin is the model's beginning of a connection.
func (c *modelClient) begin(keeps bool, window, aliases int) {
	if window == 0 {
		window = c.w.limits.InFlight
	}
	if !c.session {
		c.subs, c.live, c.ret = map[string]*modelSub{}, [2][]*modelMessage{}, nil
	}
	c.session, c.keeps, c.window, c.aliases = true, keeps, window, aliases
	c.in, c.out = map[uint16]string{}, map[uint16]string{}
	// A retained message that was under way does not come where another one is
	// retained now; one that waited comes as that.
	var more []*modelMessage
	for _, m := range c.ret {
		now := c.w.retained[m.topic]
		if now == nil || now.payload != m.payload || m.qos == 0 {
			m.optional = true
		}
		if now != nil && now.payload != m.payload {
			other := *now
			other.optional, other.loose, other.filter, other.qos = true, true, m.filter, 1
			more = append(more, &other)
		}
	}
	c.ret = append(c.ret, more...)
}

func (c *modelClient) publish(rnd *rand.Rand) {
	w := c.w
	m := &modelMessage{topic: modelTopics[rnd.IntN(len(modelTopics))], payload: fmt.Sprint(w.sent), qos: 0, from: c.id}
	if rnd.IntN(4) > 0 {
		m.qos = 1
	}
	w.sent++
	if !strings.HasPrefix(m.topic, "s/") && rnd.IntN(6) == 0 {
		if m.retain = true; rnd.IntN(4) == 0 {
			m.payload = ""
		}
	}
	c.pid = c.pid%50_000 + 1
	name, unknown := m.topic, false
	var props []byte
	if c.p.v5 && rnd.IntN(3) == 0 {
		alias := uint16(1 + rnd.IntN(5))
		props = []byte{packets.PropTopicAlias, 0, byte(alias)}
		switch known, ok := c.out[alias]; {
		case ok && rnd.IntN(2) == 0:
			name = ""
			if m.topic = known; strings.HasPrefix(known, "s/") {
				m.retain = false
				if m.payload == "" {
					m.payload = fmt.Sprint("alias", w.sent)
				}
			}
		case !ok && rnd.IntN(20) == 0:
			name, unknown = "", true
		default:
			c.out[alias] = m.topic
		}
	}
	if c.p.v5 && rnd.IntN(4) == 0 {
		m.lasts, m.sent = []time.Duration{20 * time.Second, 100 * time.Second, time.Hour}[rnd.IntN(3)], w.clock()
		props = binary.BigEndian.AppendUint32(append(props, packets.PropMessageExpiryInterval), uint32(m.lasts/time.Second))
	}
	w.say(c, "publish %s=%s qos %d retain %v properties % x, name %q", m.topic, m.payload, m.qos, m.retain, props, name)
	b := c.p.publishPacket(name, m.qos, c.pid, m.payload, props...)
	if m.retain {
		b[0] |= 1
	}
	c.p.send(b)
	if unknown {
		wills := c.lost()
		c.ended(codeAliasInvalid)
		w.r.gone(c.id)
		c.away(c.keeps)
		w.pull(c, wills...)
		return
	}
	if rnd.IntN(30) == 0 { // and is gone
		m.optional, m.maybe = true, true
		wills := append([]*modelMessage{m}, c.lost()...)
		w.say(c, "    … and drops")
		c.cut(rnd)
		w.pull(c, wills...)
		return
	}
	// What comes to the client itself may come before the answer.
	w.await(m)
	w.pull(c, m)
	if m.qos == 1 {
		for len(c.acked) == 0 {
			if _, _, err := c.packet(); err != nil {
				w.fail(c, "waiting for PUBACK: %v", err)
			}
		}
		if pid := binary.BigEndian.Uint16(c.acked); pid != c.pid || len(c.acked) > 2 && c.acked[2] != 0 && c.acked[2] != 0x10 {
			w.fail(c, "PUBACK % x, want %d", c.acked, c.pid)
		}
		c.acked = nil
		return
	}
	c.sync()
}

// await waits until a message is on the log.
func (w *world) await(m *modelMessage) {
	eventually(w.t, "on the log: "+m.payload, func() bool {
		for p := range w.log.parts {
			w.log.mu.Lock()
			n := w.log.committed[p]
			w.log.mu.Unlock()
			if n > w.next[p] {
				return true
			}
		}
		return false
	})
}

// cut ends the connection without a word.
func (c *modelClient) cut(rnd *rand.Rand) {
	if tcp, ok := c.p.nc.(*net.TCPConn); ok && rnd.IntN(2) == 0 {
		tcp.SetLinger(0)
	}
	c.p.nc.Close()
	c.w.r.gone(c.id)
	c.away(c.keeps)
}

func (c *modelClient) drop(rnd *rand.Rand) {
	c.w.say(c, "drop")
	wills := c.lost()
	c.cut(rnd)
	c.w.pull(c, wills...)
}

func (c *modelClient) disconnect(rnd *rand.Rand) {
	var wills []*modelMessage
	keeps := c.keeps
	b := []byte{packets.Disconnect << 4, 0}
	if c.p.v5 {
		switch rnd.IntN(3) {
		case 0:
			b = []byte{packets.Disconnect << 4, 2, codeWithWill, 0}
			wills = c.lost()
		case 1:
			b = packet(packets.Disconnect<<4, append([]byte{0, 5}, expiry(0)...))
			keeps = false
		}
	}
	c.w.say(c, "disconnect % x", b)
	c.p.send(b)
	c.ended(0)
	c.w.r.gone(c.id)
	c.away(keeps)
	c.w.pull(c, wills...)
}

// wrong says something that ends the connection.
func (c *modelClient) wrong(rnd *rand.Rand) {
	kinds := []struct {
		name string
		v5   bool
		code byte
		b    []byte
	}{
		{"a second CONNECT", false, codeProtocol, connectPacket(c.p.version(), c.id, 2, 60, nil)},
		{"a CONNACK", false, codeProtocol, []byte{packets.Connack << 4, 2, 0, 0}},
		{"a PUBREL", false, codeProtocol, []byte{packets.Pubrel<<4 | 2, 2, 0, 1}},
		{"QoS 2", false, codeQoSNone, c.p.publishPacket("t/0", 2, 1, "x")},
		{"packet id 0", false, codeProtocol, c.p.publishPacket("t/0", 1, 0, "x")},
		{"type 0", false, codeMalformed, []byte{0, 0}},
		{"a wildcard", false, codeTopicInvalid, c.p.publishPacket("t/+", 1, 1, "x")},
		{"a reserved topic", false, codeNotAuthorized, c.p.publishPacket("$SYS/x", 0, 1, "x")},
		{"bad UTF-8", false, codeMalformed, c.p.publishPacket("t/\xc0\x80", 1, 1, "x")},
		{"alias 0", true, codeAliasInvalid, c.p.publishPacket("t/0", 1, 1, "x", packets.PropTopicAlias, 0, 0)},
		{"alias over the maximum", true, codeAliasInvalid, c.p.publishPacket("t/0", 1, 1, "x", packets.PropTopicAlias, 0, 9)},
		{"a property twice", true, codeProtocol, c.p.publishPacket("t/0", 1, 1, "x", packets.PropPayloadFormat, 1, packets.PropPayloadFormat, 1)},
		{"no local in a group", true, codeProtocol, packet(packets.Subscribe<<4|2, append(append([]byte{0, 1, 0}, str("$share/g/s/g/+")...), 5))},
	}
	k := kinds[rnd.IntN(len(kinds))]
	if k.v5 && !c.p.v5 {
		k = kinds[0]
	}
	c.w.say(c, "wrong: %s", k.name)
	wills := c.lost()
	c.p.send(k.b)
	c.ended(k.code)
	c.w.r.gone(c.id)
	c.away(c.keeps)
	c.w.pull(c, wills...)
}

func (p *peer) version() byte {
	if p.v5 {
		return 5
	}
	return 4
}

func (c *modelClient) acknowledge(rnd *rand.Rand) {
	now := c.sentNow()
	c.w.say(c, "acknowledge, of %d", len(now))
	for n := 1 + rnd.IntN(4); n > 0 && len(now) > 0; n-- {
		i := 0
		if rnd.IntN(4) == 0 {
			i = rnd.IntN(len(now))
		}
		c.w.say(c, "    > PUBACK %d", now[i].pid)
		c.p.ack(now[i].pid)
		now[i].acking = true
		now = slices.Delete(now, i, i+1)
	}
	if rnd.IntN(8) == 0 {
		c.p.ack(uint16(60_000 + rnd.IntN(1000))) // of nothing
	}
	if rnd.IntN(3) > 0 {
		c.sync()
	}
}

func (c *modelClient) subscribe(rnd *rand.Rand) {
	w := c.w
	var subs []*modelSub
	var handling []int
	b := []byte{0, 7}
	id := uint32(0)
	if c.p.v5 {
		if w.limits.Name == "relaxed" && rnd.IntN(3) == 0 {
			id = uint32(1 + rnd.IntN(9))
			b = append(b, 2, packets.PropSubscriptionIdentifier, byte(id))
		} else {
			b = append(b, 0)
		}
	}
	var codes []byte
	text := ""
	for range 1 + rnd.IntN(2) {
		s := &modelSub{filter: modelFilters[rnd.IntN(len(modelFilters))], qos: byte(rnd.IntN(4)+2) / 3, id: id}
		shared := strings.HasPrefix(s.filter, "$share/")
		options, rh := s.qos, 0
		if shared {
			s.qos, options = 1, 1
		}
		if c.p.v5 && !shared {
			if s.noLocal = rnd.IntN(4) == 0; s.noLocal {
				options |= 4
			}
			if s.rap = rnd.IntN(3) == 0; s.rap {
				options |= 8
			}
			rh = rnd.IntN(3)
			options |= byte(rh) << 4
		}
		code := s.qos
		if rnd.IntN(10) == 0 {
			s.filter, code = []string{"t/#/x", "t+", "$share//t"}[rnd.IntN(3)], codeFilterInvalid
			if !c.p.v5 {
				code = 0x80
			}
			if strings.HasPrefix(s.filter, "$share") {
				options &^= 4
			}
		}
		codes = append(codes, code)
		subs, handling = append(subs, s), append(handling, rh)
		b = append(append(b, str(s.filter)...), options)
		text += fmt.Sprintf(" %s %+v rh %d", s.filter, *s, rh)
	}
	w.say(c, "subscribe%s", text)
	c.p.send(packet(packets.Subscribe<<4|2, b))
	body := c.until(packets.Suback)
	got := body[2:]
	if c.p.v5 {
		got = got[1:]
	}
	if !slices.Equal(got, codes) {
		w.fail(c, "SUBACK % x, want % x", got, codes)
	}
	for i, s := range subs {
		if codes[i] > 1 {
			continue
		}
		old := c.subs[s.filter]
		if strings.HasPrefix(s.filter, "$share/") {
			g := w.groups[s.filter]
			if g == nil {
				g = &modelGroup{filter: s.filter[len("$share/g/"):], members: map[*modelClient]bool{}, had: map[string]bool{}}
				w.groups[s.filter] = g
			}
			g.members[c] = true
			c.subs[s.filter] = s
			continue
		}
		c.subs[s.filter] = s
		if old != nil {
			// Nothing is lost where a subscription is replaced; what is sent again has
			// the retain flag of the new one.
			for p := range c.live {
				for _, m := range c.live[p] {
					if m.by[old] {
						delete(m.by, old)
						m.by[s] = true
						m.anyFlag = m.anyFlag || old.rap != s.rap
					}
				}
			}
		}
		if handling[i] == 0 || handling[i] == 1 && old == nil {
			c.ret = slices.DeleteFunc(c.ret, func(m *modelMessage) bool {
				m.optional = m.optional || m.filter == s.filter && m.oldPid == 0 && m.maybe
				return m.filter == s.filter && m.pid == 0 && !m.maybe
			})
			if w.limits.RetainedOnWildcard || !strings.ContainsAny(s.filter, "+#") {
				for name, m := range w.retained {
					if w.match(s.filter, name) {
						out := *m
						out.filter, out.qos, out.optional, out.by = s.filter, min(m.qos, s.qos), false, nil
						out.either = slices.ContainsFunc(c.ret, func(o *modelMessage) bool {
							return o.either && o.topic == out.topic && o.payload == out.payload
						})
						c.ret = append(c.ret, &out)
					}
				}
			}
		} else if old != nil {
			for _, m := range c.ret {
				m.loose = m.loose || m.filter == s.filter && old.qos != s.qos
			}
		}
	}
	c.sync()
}

func (c *modelClient) unsubscribe(rnd *rand.Rand) {
	filter := modelFilters[rnd.IntN(len(modelFilters))]
	c.w.say(c, "unsubscribe %s", filter)
	b := []byte{0, 8}
	if c.p.v5 {
		b = append(b, 0)
	}
	c.p.send(packet(packets.Unsubscribe<<4|2, append(b, str(filter)...)))
	body := c.until(packets.Unsuback)
	s := c.subs[filter]
	if c.p.v5 {
		if want := map[bool]byte{true: 0, false: codeNoSubscription}[s != nil]; body[3] != want {
			c.w.fail(c, "UNSUBACK % x, want %#x", body, want)
		}
	}
	if s == nil {
		return
	}
	delete(c.subs, filter)
	if strings.HasPrefix(filter, "$share/") {
		c.leaveGroup(filter)
		return
	}
	// What it was to bring may come, and need not.
	drop := func(list []*modelMessage) {
		for _, m := range list {
			if m.by[s] {
				if delete(m.by, s); len(m.by) == 0 {
					m.optional = true
				}
				m.anyFlag = true
			}
		}
	}
	for p := range c.live {
		drop(c.live[p])
		drop(c.zero[p])
	}
	for _, m := range c.ret {
		if m.filter == filter {
			m.optional = true
		}
	}
}

// drain lets all that are connected acknowledge what they get until nothing is
// left that must come.
func (w *world) drain() {
	deadline := time.Now().Add(time.Minute)
	for {
		left, what := 0, ""
		for _, c := range w.clients {
			if c.p == nil {
				continue
			}
			c.sync()
			for _, m := range c.sentNow() {
				w.say(c, "    > PUBACK %d", m.pid)
				c.p.ack(m.pid)
				m.acking = true
			}
			c.sync()
			count := func(list []*modelMessage) {
				for _, m := range list {
					if !m.optional {
						left++
						what = fmt.Sprintf("%s: %s=%s qos %d, sent %v", c.id, m.topic, m.payload, m.qos, m.pid != 0)
					}
				}
			}
			for p := range c.live {
				count(c.live[p])
				count(c.zero[p])
			}
			count(c.ret)
		}
		for f, g := range w.groups {
			here := false
			for c := range g.members {
				here = here || c.p != nil
			}
			for _, m := range g.pending {
				if here && !m.optional {
					left++
					what = fmt.Sprintf("%s: %s", f, m.payload)
				}
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.r.s.routes.mu.RLock()
			for key, g := range w.r.s.routes.shares {
				g.mu.Lock()
				what += fmt.Sprintf("\n%s: places %+v, %d members, persistent %v, open %v, %d in flight, %d returned, %d queued, asleep %v",
					key, g.places, len(g.members), g.persistent, g.open, len(g.flights), len(g.returned), len(g.queue), g.stop == nil)
				g.mu.Unlock()
			}
			w.r.s.routes.mu.RUnlock()
			w.r.s.mu.Lock()
			for id, c := range w.r.s.clients {
				s := c.sess
				s.mu.Lock()
				what += fmt.Sprintf("\n%s: places %+v, flights %d to %d of %d, %d queued, %d retained, %d late, %d parked, replaced %d",
					id, s.places, s.flightHead, s.flightTail, s.window, len(s.queue), len(s.retained), len(s.late), s.parked, len(s.replaced))
				s.mu.Unlock()
			}
			w.r.s.mu.Unlock()
			panic(diverged(fmt.Sprintf("%d messages do not come: %s", left, what)))
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// pass lets time pass, in which nobody connected is silent for too long.
func (w *world) pass(c *modelClient, d time.Duration) {
	w.say(c, "%v pass", d)
	w.drain()
	for rest := d; rest > 0; rest -= 1000 * time.Second {
		w.now.Add(int64(min(rest, 1000*time.Second)))
		for _, c := range w.clients {
			if c.p != nil {
				c.sync()
			}
		}
	}
	now := w.clock()
	for name, m := range w.retained {
		if m.expired(now) {
			delete(w.retained, name)
		}
	}
	for _, c := range w.clients {
		if c.p == nil && c.delayed != nil && !now.Before(c.due) {
			w.await(c.delayed)
			w.pull(c, c.delayed)
			c.delayed = nil
		}
	}
	for _, c := range w.clients {
		if c.p == nil && c.session && now.After(c.left.Add(c.expiry)) {
			eventually(w.t, "the session has expired", func() bool {
				st := &w.r.s.sessions
				st.mu.Lock()
				defer st.mu.Unlock()
				_, there := st.stored[c.id]
				return !there
			})
			c.forget()
		}
		c.expire(now)
	}
	for _, g := range w.groups {
		g.pending = slices.DeleteFunc(g.pending, func(m *modelMessage) bool { return m.holder == nil && m.expired(now) })
	}
}

// expire forgets the messages whose time is over. Those that were sent before may
// come again.
func (c *modelClient) expire(now time.Time) {
	over := func(m *modelMessage) bool {
		m.optional = m.optional || m.expired(now)
		return m.expired(now) && m.pid == 0 && !m.maybe
	}
	for p := range c.live {
		c.live[p] = slices.DeleteFunc(c.live[p], over)
		c.zero[p] = slices.DeleteFunc(c.zero[p], over)
	}
	for _, m := range c.ret { // where one waits, another may be retained by then
		over(m)
	}
}

// restart ends the gateway and starts it anew.
func (w *world) restart(c *modelClient) {
	w.say(c, "the gateway restarts")
	w.r.stop()
	var wills []*modelMessage
	for _, c := range w.clients {
		if c.p == nil {
			continue
		}
		for _, m := range c.lost() {
			m.ending = true
			wills = append(wills, m)
		}
	}
	w.pull(c, wills...) // who ends later may be sent those of who ended before
	for _, c := range w.clients {
		if c.p != nil {
			c.ended(codeShuttingDown)
			c.away(c.keeps)
		}
	}
	w.start()
	for _, m := range wills { // of several on a topic, any may be the last
		if got := w.r.s.Retained(topic.Name(m.topic)); m.retain && got != nil && slices.ContainsFunc(wills, func(o *modelMessage) bool {
			return o.retain && o.topic == m.topic && o.payload == string(got.Payload)
		}) {
			w.retained[m.topic].payload, w.retained[m.topic].qos = string(got.Payload), got.QoS
		}
	}
}

func (m *modelMessage) String() string {
	if m == nil {
		return "none"
	}
	return fmt.Sprintf("%s=%s qos %d retain %v optional %v packet id %d, had %d", m.topic, m.payload, m.qos, m.retain, m.optional, m.pid, m.oldPid)
}
