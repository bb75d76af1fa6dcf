package custom

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/ingest"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/policy"
	"github.com/weir-iot/weir/internal/errs"
)

// Options configure an Authenticator.
type Options struct {
	Store  Store
	Invoke Invoker
	// Policies is the Authorizer that judges those who are let in; documents it
	// cannot read refuse the client.
	Policies *auth.Policies
	// End ends the connection of a principal. It must not wait for it.
	End func(p *auth.Principal)

	InFlight int              // functions called at a time; 0: 100
	Timeout  time.Duration    // of one call; 0: 5 s
	Logger   *slog.Logger     // nil: discards
	Now      func() time.Time // nil: time.Now
}

// Authenticator is the Authenticator of custom authorizers. Run it: it asks
// functions again while connections last. It is safe for concurrent use.
type Authenticator struct {
	o     Options
	slots chan struct{}
	cache cache
	noise ingest.Noise

	mu       sync.Mutex // guards sessions
	sessions map[*session]struct{}
}

// New checks the options.
func New(o Options) (*Authenticator, error) {
	if o.Store == nil || o.Invoke == nil || o.Policies == nil || o.End == nil {
		return nil, errors.New("custom: store, invoker, policies and the ending of connections are needed")
	}
	if o.InFlight == 0 {
		o.InFlight = 100
	}
	if o.Timeout == 0 {
		o.Timeout = timeLimit
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &Authenticator{o: o, slots: make(chan struct{}, o.InFlight), sessions: map[*session]struct{}{}}
	a.noise.Logger, a.noise.Now = o.Logger, o.Now
	a.cache.max = maxCached
	return a, nil
}

// session is a connection as the functions see it.
type session struct {
	authorizer string
	current    atomic.Pointer[granted]

	// Constant from when it is registered.
	p      *auth.Principal
	event  event
	opened time.Time

	refresh, end time.Time // guarded by Authenticator.mu
}

// granted is what a function said last.
type granted struct {
	answer *Answer
	set    *policy.Set
}

// Named reports whether c names an authorizer, or a token of the default one.
func (a *Authenticator) Named(c *auth.Connection) bool {
	k, err := read(c)
	if err != nil {
		return false
	}
	for _, key := range []string{nameKey, signatureKey} {
		if v, err := k.value(key); v != "" || err != nil {
			return true
		}
	}
	return false
}

// Default reports whether there is an authorizer for c that names none.
func (a *Authenticator) Default(c *auth.Connection) bool {
	name, _ := a.o.Store.Default(serverName(c))
	return name != ""
}

func serverName(c *auth.Connection) string {
	if c.TLS == nil {
		return ""
	}
	return c.TLS.ServerName
}

// errRefused is all a client is told.
var errRefused = errors.New("Forbidden")

// refuse logs why, and tells the client nothing of it.
func (a *Authenticator) refuse(c *auth.Connection, authorizer string, kind errs.Kind, err error) error {
	a.noise.Warn("custom authentication refused", "authorizer", authorizer, "reason", errs.Text(err), "connection", c)
	return errs.E("custom.Authenticate", kind, &refusal{err})
}

// refusal is an error whose text says nothing to who is refused.
type refusal struct{ why error }

func (*refusal) Error() string   { return errRefused.Error() }
func (r *refusal) Unwrap() error { return nil }

// find returns the authorizer c is to be judged by, and what c brought for it.
func (a *Authenticator) find(c *auth.Connection) (*Authorizer, *credentials, error) {
	k, err := read(c)
	if err != nil {
		return nil, nil, err
	}
	named, err := k.value(nameKey)
	if err != nil {
		return nil, nil, err
	}
	name, override := a.o.Store.Default(serverName(c))
	switch {
	case named == "" && name == "":
		return nil, nil, errors.New("no authorizer is named, and there is no default one")
	case named != "" && name != "" && named != name && !override:
		return nil, nil, errors.New("the domain has its own authorizer, and clients may not name another")
	case named != "":
		name = named
	}
	z, ok := a.o.Store.Authorizer(name)
	if !ok {
		return nil, nil, errors.New("there is no such authorizer")
	}
	if !z.Active {
		return z, nil, errors.New("the authorizer is not active")
	}
	return z, k, nil
}

// token returns the token of k, and whether its signature was verified.
func (z *Authorizer) token(k *credentials) (token string, verified bool, err error) {
	if z.TokenKeyName != "" {
		if token, err = k.value(z.TokenKeyName); err != nil {
			return "", false, err
		}
	}
	if z.SigningDisabled {
		if len(token) > maxToken {
			return "", false, errors.New("the token is too long")
		}
		return token, false, nil
	}
	signature, err := k.value(signatureKey)
	if err != nil {
		return "", false, err
	}
	return token, true, z.verify(token, signature)
}

func nameOf(z *Authorizer) string {
	if z == nil {
		return ""
	}
	return z.Name
}

// Admit implements auth.Usher: it refuses what needs no function to be refused.
// A WebSocket that brings nothing yet may bring it with CONNECT.
func (a *Authenticator) Admit(_ context.Context, c *auth.Connection) error {
	if c.Listener == auth.WebSocket && !a.Named(c) {
		return nil
	}
	z, k, err := a.find(c)
	if err == nil && c.Listener != auth.WebSocket {
		_, _, err = z.token(k)
	}
	if err != nil {
		return a.refuse(c, nameOf(z), errs.Unauthorized, err)
	}
	return nil
}

// Authenticate implements auth.Authenticator.
func (a *Authenticator) Authenticate(ctx context.Context, c *auth.Connection) (*auth.Principal, error) {
	z, k, err := a.find(c)
	if err != nil {
		return nil, a.refuse(c, nameOf(z), errs.Unauthorized, err)
	}
	token, verified, err := z.token(k)
	if err != nil {
		return nil, a.refuse(c, z.Name, errs.Unauthorized, err)
	}
	e := newEvent(c, k, token, verified)
	now := a.o.Now()
	var key cacheKey
	caching := z.CacheHTTP && c.Listener == auth.HTTPS && c.ID != ""
	var g *granted
	if caching {
		key = keyOf(c.ID, z, e)
		g = a.cache.get(key, now)
	}
	if g == nil {
		if g, err = a.ask(ctx, z, e); err != nil {
			return nil, a.refuse(c, z.Name, errs.KindOf(err), err)
		}
		if caching {
			a.cache.put(key, g, now.Add(min(g.answer.RefreshAfter, g.answer.DisconnectAfter)))
		}
	}
	s := &session{authorizer: z.Name, event: e, opened: now}
	s.current.Store(g)
	end := now.Add(g.answer.DisconnectAfter)
	facts := a.o.Policies.Facts(c).Prepare()
	data, err := a.o.Policies.NewSession("", func() (auth.Standing, error) {
		return auth.Standing{Set: s.current.Load().set, Facts: facts, Until: end}, nil
	})
	if err != nil {
		return nil, a.refuse(c, z.Name, errs.Unauthorized, err)
	}
	p := &auth.Principal{ID: g.answer.PrincipalID, ClientID: c.ClientID, Remote: c.Remote, Listener: c.Listener, Data: data}
	if c.Listener == auth.HTTPS {
		return p, nil
	}
	// Run ends the connection; this does where it does not run.
	p.Expires = end
	s.p, s.refresh, s.end = p, now.Add(g.answer.RefreshAfter), end
	a.mu.Lock()
	a.sessions[s] = struct{}{}
	a.mu.Unlock()
	p.Ended = func() {
		a.mu.Lock()
		delete(a.sessions, s)
		a.mu.Unlock()
	}
	return p, nil
}

func newEvent(c *auth.Connection, k *credentials, token string, verified bool) event {
	e := event{Token: token, Verified: verified}
	e.Connection.ID = c.ID
	if c.TLS != nil {
		e.Protocols = append(e.Protocols, "tls")
		e.Data.TLS = &tlsData{c.TLS.ServerName}
	}
	if c.HTTP != nil {
		e.Protocols = append(e.Protocols, "http")
		e.Data.HTTP = &httpData{Headers: headers(c.HTTP.Request)}
		if q := c.HTTP.URL.RawQuery; q != "" {
			e.Data.HTTP.Query = "?" + q
		}
	}
	if c.Listener != auth.HTTPS && c.Listener != auth.HTTP {
		e.Protocols = append(e.Protocols, "mqtt")
		m := &mqttData{Username: k.clean, Password: c.Password}
		if !c.Assigned {
			m.ClientID = c.ClientID
		}
		e.Data.MQTT = m
	}
	return e
}

// ask calls the function and judges its answer. Errors: errs.Unauthorized, or
// errs.Unavailable where the function could not be asked.
func (a *Authenticator) ask(ctx context.Context, z *Authorizer, e event) (*granted, error) {
	const op = "custom.ask"
	payload, err := json.Marshal(e)
	if err != nil {
		return nil, errs.E(op, errs.Unauthorized, err)
	}
	ctx, cancel := context.WithTimeout(ctx, a.o.Timeout)
	defer cancel()
	select {
	case a.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, errs.Errorf(op, errs.Unavailable, "too many functions are being called")
	}
	var b []byte
	if ctx.Err() == nil {
		b, err = a.o.Invoke.Invoke(ctx, z.Function, payload)
	}
	<-a.slots
	switch {
	case ctx.Err() != nil:
		return nil, errs.Errorf(op, errs.Unavailable, "the function did not answer within %s", a.o.Timeout)
	case err != nil:
		return nil, errs.Errorf(op, errs.Unavailable, "the function failed (%s)", errs.KindOf(err))
	}
	answer, err := readAnswer(b)
	if err != nil {
		return nil, errs.E(op, errs.Unauthorized, err)
	}
	list := make([]auth.Policy, len(answer.Policies))
	for i, d := range answer.Policies {
		list[i] = auth.Policy{Name: fmt.Sprintf("%d of authorizer %s", i+1, z.Name), Document: d}
	}
	set, err := a.o.Policies.Compile(list)
	if err != nil {
		return nil, errs.E(op, errs.Unauthorized, err)
	}
	return &granted{answer, set}, nil
}

// cacheKey is a connection, an authorizer as it is now and all a function would
// be told.
type cacheKey [sha256.Size]byte

func keyOf(connection string, z *Authorizer, e event) cacheKey {
	b, err := json.Marshal(struct {
		Connection string
		Authorizer *Authorizer
		Event      event
	}{connection, z, e})
	if err != nil {
		panic(err) // strings and maps of strings
	}
	return sha256.Sum256(b)
}

// cache holds answers for HTTPS connections that last.
type cache struct {
	max     int        // entries
	mu      sync.Mutex // guards entries
	entries map[cacheKey]cached
}

type cached struct {
	*granted
	until time.Time
}

// maxCached bounds the cache. Past it entries that lapsed go, then any.
const maxCached = 10_000

func (c *cache) get(k cacheKey, now time.Time) *granted {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[k]
	if !ok || !now.Before(e.until) {
		return nil
	}
	return e.granted
}

func (c *cache) put(k cacheKey, g *granted, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[cacheKey]cached{}
	}
	if len(c.entries) >= c.max {
		for old := range c.entries { // any: Go's order is random
			delete(c.entries, old)
			if len(c.entries) < c.max*9/10 {
				break
			}
		}
	}
	c.entries[k] = cached{g, until}
}
