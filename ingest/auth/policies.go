package auth

import (
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/ingest/policy"
	"github.com/weir-iot/weir/internal/errs"
)

// PoliciesOptions configure Policies.
type PoliciesOptions struct {
	AccountID, Region string
	// Generation grows with each change of what sessions load; see Directory.
	Generation func() uint64
	// GenerationOf returns what grows with each change of what the sessions of one
	// principal load: while others are enrolled its decisions stand. nil:
	// Generation does for all.
	GenerationOf func(principal string) func() uint64
	Logger       *slog.Logger     // nil: discards
	Now          func() time.Time // nil: time.Now
}

// Policies is the Authorizer by IoT policies. A Principal it judges has a
// *Session as its Data, or a Carrier of one; all others are denied.
type Policies struct {
	arn        string // "arn:aws:iot:us-east-1:123456789012:"
	generation func() uint64
	of         func(principal string) func() uint64
	logger     *slog.Logger
	now        func() time.Time
	seed       maphash.Seed
	actions    [actionCount]policy.Action

	mu        sync.Mutex // guards what follows
	documents map[string]*document
	sets      map[string]*policy.Set
	lastID    int
}

type document struct {
	id  int
	doc *policy.Document
	err error
}

// maxCompiled bounds the documents and the sets that are kept compiled. Past it
// all are let go of; what connections hold stays with them.
const maxCompiled = 4096

// NewPolicies returns an Authorizer.
func NewPolicies(o PoliciesOptions) *Policies {
	a := &Policies{
		arn:        fmt.Sprintf("arn:aws:iot:%s:%s:", o.Region, o.AccountID),
		generation: o.Generation, of: o.GenerationOf, logger: o.Logger, now: o.Now, seed: maphash.MakeSeed(),
		documents: map[string]*document{}, sets: map[string]*policy.Set{},
	}
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	if a.now == nil {
		a.now = time.Now
	}
	for i := range actions {
		a.actions[i] = policy.ActionOf(actions[i].name)
	}
	return a
}

// ARN returns the ARN of what an action is asked for; "*" for an action without
// a resource.
func (a *Policies) ARN(act Action, resource string) string {
	if act.Prefix() == "" {
		return "*"
	}
	return a.arn + act.Prefix() + resource
}

// Compile returns the set of these policies; equal ones share it. A document
// that cannot be read is an error: it may be the one that denies.
func (a *Policies) Compile(list []Policy) (*policy.Set, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.documents) > maxCompiled || len(a.sets) > maxCompiled {
		clear(a.documents)
		clear(a.sets)
	}
	var key strings.Builder
	sources := make([]policy.Source, len(list))
	for i, p := range list {
		d := a.documents[p.Document]
		if d == nil {
			a.lastID++
			d = &document{id: a.lastID}
			d.doc, d.err = policy.Parse(p.Document)
			a.documents[p.Document] = d
		}
		if d.err != nil {
			return nil, errs.E("auth.Compile", errs.Invalid, fmt.Errorf("policy %s: %w", p.Name, d.err))
		}
		sources[i] = policy.Source{Name: p.Name, Document: d.doc}
		fmt.Fprintf(&key, "%d %s\x00", d.id, p.Name)
	}
	s := a.sets[key.String()]
	if s == nil {
		s = policy.Compile(sources...)
		a.sets[key.String()] = s
	}
	return s, nil
}

// Standing is what holds for a principal now.
type Standing struct {
	Set   *policy.Set
	Facts *policy.Facts // prepared
	Until time.Time     // its credential holds no longer than this; zero: for ever
}

// Session is Principal.Data of a principal that is judged by policies: what
// holds for it, and what was decided since.
type Session struct {
	a          *Policies
	generation func() uint64
	load       func() (Standing, error)

	mu    sync.Mutex // one refresh at a time
	state atomic.Pointer[state]
}

// Carrier is the Data of an authenticator that wants to find more there than the
// Session its principal is judged by.
type Carrier interface{ PolicySession() *Session }

// PolicySession implements Carrier.
func (s *Session) PolicySession() *Session { return s }

// sessionOf returns the session of a principal, nil where it has none.
func sessionOf(p *Principal) *Session {
	switch d := p.Data.(type) {
	case *Session:
		return d
	case Carrier:
		return d.PolicySession()
	}
	return nil
}

type state struct {
	generation atomic.Uint64
	Standing
	err   error // why the principal is not known any more
	bound [Receive + 1]atomic.Pointer[policy.Bound]
	cache atomic.Pointer[cache]
}

// once stands for what was asked once: who asks again has it bound.
var once = new(policy.Bound)

// often returns what the policies say of an action that is asked for each
// message, or whenever something has changed (Connect), with all resolved that does not change while st holds; nil for others,
// and the first time: many who connect ask once.
func (a *Policies) often(st *state, act Action) *policy.Bound {
	if act > Receive || act == Subscribe {
		return nil
	}
	switch b := st.bound[act].Load(); b {
	case nil:
		st.bound[act].CompareAndSwap(nil, once)
		return nil
	case once:
		b = st.Set.Bind(a.actions[act], a.ARN(act, ""), st.Facts)
		st.bound[act].Store(b)
		return b
	default:
		return b
	}
}

// cache has the decisions of one connection where making them is slower than
// finding them: one for each hash, a newer one replaces an older one.
type cache [cacheSize]atomic.Pointer[decided]

const cacheSize = 64

type decided struct {
	action   Action
	resource string
	allowed  bool
}

// NewSession returns the session of one connection. load is called now, and
// again after each change of the generation; its error says why the principal is
// not known any more: all is denied then. principal is the one whose changes
// alone matter to load; "": all changes may.
func (a *Policies) NewSession(principal string, load func() (Standing, error)) (*Session, error) {
	s := &Session{a: a, generation: a.generation, load: load}
	if a.of != nil && principal != "" {
		s.generation = a.of(principal)
	}
	return s, s.current().err
}

// current returns what holds now.
func (s *Session) current() *state {
	gen := s.generation()
	st := s.state.Load()
	if st != nil && st.generation.Load() >= gen {
		return st
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if st = s.state.Load(); st != nil && st.generation.Load() >= gen {
		return st
	}
	next := &state{}
	next.generation.Store(gen)
	next.Standing, next.err = s.load()
	if st != nil && st.err == nil && next.err == nil && st.Set == next.Set && st.Until.Equal(next.Until) && sameFacts(st.Facts, next.Facts) {
		st.generation.Store(gen) // something else changed: what was decided stands
		return st
	}
	s.state.Store(next)
	return next
}

// sameFacts reports whether nothing a registry can change differs.
func sameFacts(a, b *policy.Facts) bool {
	if a == b {
		return true
	}
	if a == nil || b == nil {
		return false
	}
	if (a.Thing == nil) != (b.Thing == nil) || a.Thing != b.Thing &&
		(a.Thing.Name != b.Thing.Name || a.Thing.Type != b.Thing.Type || !maps.Equal(a.Thing.Attributes, b.Thing.Attributes)) {
		return false
	}
	return a.Certificate == b.Certificate && a.ClientID == b.ClientID && a.SourceIP == b.SourceIP
}

// Generation implements Keeper.
func (a *Policies) Generation() uint64 { return a.generation() }

// May implements Authorizer.
func (a *Policies) May(p *Principal, act Action, resource string) bool {
	s := sessionOf(p)
	if s == nil {
		_, free := p.Data.(loopback)
		return free
	}
	st := s.current()
	if st.err != nil || !st.Until.IsZero() && a.now().After(st.Until) {
		return false
	}
	b := a.often(st, act)
	switch {
	case b == nil:
		return a.decide(st, act, resource).Allowed
	case b.Quick(), b.Timed():
		return b.Allows(resource, a.now)
	}
	slot := int((maphash.String(a.seed, resource) + uint64(act)*0x9e37) % cacheSize)
	c := st.cache.Load()
	if c == nil {
		c = new(cache)
		if !st.cache.CompareAndSwap(nil, c) {
			c = st.cache.Load()
		}
	}
	if d := c[slot].Load(); d != nil && d.action == act && d.resource == resource {
		return d.allowed
	}
	allowed := b.Allows(resource, a.now)
	// A copy: the text may lie in a packet's buffer, or keep an event alive.
	c[slot].Store(&decided{act, strings.Clone(resource), allowed})
	return allowed
}

const share = "$share/"

// decide asks the policies. A shared subscription is allowed by its whole
// filter; what denies the filter without the share denies it too.
func (a *Policies) decide(st *state, act Action, resource string) policy.Decision {
	r := policy.Request{Action: a.actions[act], Resource: a.ARN(act, resource), Facts: st.Facts, Now: a.now()}
	d := st.Set.Decide(&r)
	if act != Subscribe || !d.Allowed || !strings.HasPrefix(resource, share) {
		return d
	}
	if _, filter, ok := strings.Cut(resource[len(share):], "/"); ok {
		r.Resource = a.ARN(act, filter)
		if inner := st.Set.Decide(&r); inner.Explicit() {
			return inner
		}
	}
	return d
}

// Why implements Explainer.
func (a *Policies) Why(p *Principal, act Action, resource string) string {
	s := sessionOf(p)
	if s == nil {
		return "the principal is not judged by policies"
	}
	st := s.current()
	switch {
	case st.err != nil:
		return errs.Text(st.err)
	case !st.Until.IsZero() && a.now().After(st.Until):
		return "the credential has expired"
	}
	return st.Set.Text(a.decide(st, act, resource))
}

// Still implements Keeper: the credential must hold and Connect be allowed.
func (a *Policies) Still(p *Principal) error {
	s := sessionOf(p)
	if s == nil {
		return nil
	}
	st := s.current()
	const op = "auth.Still"
	switch {
	case st.err != nil:
		return st.err
	case !st.Until.IsZero() && a.now().After(st.Until):
		return errs.Errorf(op, errs.Unauthorized, "the credential has expired")
	case !a.May(p, Connect, p.ClientID):
		return errs.Errorf(op, errs.Forbidden, "iot:Connect is no longer allowed: %s", a.Why(p, Connect, p.ClientID))
	}
	return nil
}

// loopback is the Data of a principal that came in without TLS from this
// machine: it may do all that the gateway lets anybody do.
type loopback struct{}
