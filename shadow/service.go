package shadow

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
)

// Bucket is the name of the bucket of documents.
const Bucket = "shadows"

// Things says which things there are, for who wants shadows of those only. AWS
// has shadows of things that are not in the registry.
type Things interface {
	ThingExists(thing string) bool
}

// Options configure a Service.
type Options struct {
	Log       *eventlog.Log
	Shadows   *kv.Bucket // documents; its History is how many entries of a past are kept
	Positions *kv.Bucket // positions and leases of the partitions' workers

	// Owner names this process in leases. A stable name says that no other process
	// serves these shadows: it takes its own lease over at once after a crash.
	// Empty: a random name, and a dead owner's lease runs out first.
	Owner string
	// ClientOnly serves the Go API without working on requests: other processes do.
	ClientOnly bool

	Limits Limits
	Things Things        // nil: any thing may have shadows
	Keep   time.Duration // how long versions of the past are shown; 0: as long as there are

	Resend    time.Duration // after which a delta that no report has answered is sent again, then at twice the distance each time; 0: never
	ResendMax time.Duration // greatest distance; default 1 h
	Diverged  time.Duration // after which an event says that desired and reported are apart; 0: never

	LeaseTTL   time.Duration // default 5 s
	SaveEvery  time.Duration // of positions; default 100 ms
	Cache      int           // bytes of documents kept in memory a partition; default 16 MiB
	Logger     *slog.Logger
	Now        func() time.Time
	Registerer prometheus.Registerer // nil: none
}

// Who is who asks for a change. It is kept with the version.
type Who struct {
	ClientID  string `json:"clientId,omitempty"`
	Principal string `json:"principal,omitempty"`
	SourceIP  string `json:"sourceIp,omitempty"`
	Via       string `json:"via,omitempty"` // "mqtt", "http", "server", or what a caller of the Go API says
}

// Service is the shadow service of one process. Its methods may be called
// concurrently; those that change something wait for a worker, here or in
// another process.
type Service struct {
	o     Options
	id    string // of this instance, in requests
	parts []*partition
	m     *metrics

	crash atomic.Bool // for tests: end as a killed process does

	mu      sync.Mutex // guards waiters
	waiters map[string]chan result
	calls   uint64
}

// result is what became of a request of the Go API.
type result struct {
	payload []byte
	err     *Error
}

// Open checks the options. Nothing runs until Run.
func Open(_ context.Context, o Options) (*Service, error) {
	const op = "shadow.Open"
	if o.Log == nil || o.Shadows == nil || o.Positions == nil && !o.ClientOnly {
		return nil, errs.Errorf(op, errs.Internal, "an option is missing")
	}
	if o.Limits.Document <= 0 {
		o.Limits = AWS()
	}
	if o.Limits.Depth > maxNesting-4 {
		return nil, errs.Errorf(op, errs.Invalid, "a depth of %d: at most %d", o.Limits.Depth, maxNesting-4)
	}
	if o.LeaseTTL <= 0 {
		o.LeaseTTL = 5 * time.Second
	}
	if o.SaveEvery <= 0 {
		o.SaveEvery = 100 * time.Millisecond
	}
	if o.ResendMax <= 0 {
		o.ResendMax = time.Hour
	}
	if o.Cache <= 0 {
		o.Cache = 16 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	var b [8]byte
	rand.Read(b[:])
	s := &Service{o: o, id: hex.EncodeToString(b[:]), waiters: map[string]chan result{}}
	s.m = newMetrics(o.Registerer)
	for p := range o.Log.Partitions() {
		part := &partition{s: s, id: p, owner: o.Owner, sole: o.Owner != "", log: o.Logger.With("partition", p), opened: o.Log.Committed(p)}
		if part.owner == "" {
			part.owner = s.id
		}
		s.parts = append(s.parts, part)
		if !o.ClientOnly {
			// Whoever does not own a partition does not know how far it is.
			o.Log.Hold(holdName, p, func() uint64 { return 0 })
		}
	}
	return s, nil
}

// Run works on requests until ctx ends; positions are saved on the way out.
// Every goroutine it started has ended on return.
func (s *Service) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, p := range s.parts {
		if !s.o.ClientOnly {
			wg.Go(func() { p.run(ctx) })
		}
		if !p.sole {
			wg.Go(func() { p.listen(ctx) })
		}
	}
	wg.Wait()
	return nil
}

// Keys of documents.
func keyOf(thing, name string) string {
	if name == "" {
		return "c." + thing
	}
	return "n." + thing + "." + name
}

func parseKey(key string) (thing, name string, ok bool) {
	if t, ok := strings.CutPrefix(key, "c."); ok {
		return t, "", true
	}
	rest, ok := strings.CutPrefix(key, "n.")
	if !ok {
		return "", "", false
	}
	return cut3(strings.Cut(rest, "."))
}

func cut3(a, b string, ok bool) (string, string, bool) { return a, b, ok }

func (s *Service) check(op, thing, name string) error {
	if bad := checkNames(thing, name); bad != nil {
		return wrap(op, bad)
	}
	if s.o.Things != nil && !s.o.Things.ThingExists(thing) {
		return wrap(op, errNoThing)
	}
	return nil
}

// read returns the newest record; nil where there is no document.
func (s *Service) read(ctx context.Context, op, thing, name string) (*record, error) {
	if err := s.check(op, thing, name); err != nil {
		return nil, err
	}
	e, err := s.o.Shadows.Get(ctx, keyOf(thing, name))
	if errs.Is(err, errs.NotFound) {
		return nil, wrap(op, errNoShadow(thing, name))
	}
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	r, err := decode(e.Value)
	if err != nil {
		return nil, errs.E(op, errs.Internal, err)
	}
	if !r.alive() {
		return nil, wrap(op, errNoShadow(thing, name))
	}
	return r, nil
}

// Get returns the document as GetThingShadow does; name "" is the unnamed
// shadow.
// Errors: an *Error (400, 404), errs.Unavailable.
func (s *Service) Get(ctx context.Context, thing, name string) ([]byte, error) {
	r, err := s.read(ctx, "shadow.Get", thing, name)
	if err != nil {
		return nil, err
	}
	return r.appendDocument(nil, s.o.Now(), ""), nil
}

// Shadow is Get in the words of rule SQL: a missing shadow has the kind
// errs.NotFound. Roles mean nothing here.
func (s *Service) Shadow(ctx context.Context, thing, name, _ string) ([]byte, error) {
	return s.Get(ctx, thing, name)
}

// Read returns the newest version with all there is about it.
// Errors: as Get's.
func (s *Service) Read(ctx context.Context, thing, name string) (*Document, error) {
	r, err := s.read(ctx, "shadow.Read", thing, name)
	if err != nil {
		return nil, err
	}
	return r.document(thing, name), nil
}

// Update merges a request document, as UpdateThingShadow does, and returns the
// accepted document once the new version is durable.
// Errors: an *Error (400, 404, 409, 413, 415), errs.Unavailable or errs.Timeout
// (the update may still be made).
func (s *Service) Update(ctx context.Context, thing, name string, body []byte, who Who) ([]byte, error) {
	const op = "shadow.Update"
	if err := s.check(op, thing, name); err != nil {
		return nil, err
	}
	// What is wrong with any document need not go to the log.
	if _, bad := parseUpdate(body, &s.o.Limits); bad != nil {
		return nil, wrap(op, bad)
	}
	return s.call(ctx, op, opUpdate, thing, name, body, who)
}

// Delete deletes a document and returns the answer of the topic
// …/delete/accepted.
// Errors: as Update's.
func (s *Service) Delete(ctx context.Context, thing, name string, who Who) ([]byte, error) {
	const op = "shadow.Delete"
	if err := s.check(op, thing, name); err != nil {
		return nil, err
	}
	return s.call(ctx, op, opDelete, thing, name, nil, who)
}

// Change is a change of sections, beyond what an AWS update can say. A section
// is an object, null to remove it, or nil to leave it.
type Change struct {
	Desired  json.RawMessage `json:"desired,omitempty"`
	Reported json.RawMessage `json:"reported,omitempty"`
	Tags     json.RawMessage `json:"tags,omitempty"`
	Replace  bool            `json:"replace,omitempty"` // instead of merging
	Version  *uint64         `json:"version,omitempty"` // the document must have; 0: there must be none
	Note     string          `json:"note,omitempty"`    // kept with the version
}

// Change makes c the next version and returns it.
// Errors: as Update's.
func (s *Service) Change(ctx context.Context, thing, name string, c Change, who Who) (*Document, error) {
	const op = "shadow.Change"
	if err := s.check(op, thing, name); err != nil {
		return nil, err
	}
	body, err := json.Marshal(c)
	if err != nil {
		return nil, wrap(op, errJSON)
	}
	if _, bad := parseChange(body, &s.o.Limits); bad != nil {
		return nil, wrap(op, bad)
	}
	out, err := s.call(ctx, op, opChange, thing, name, body, who)
	if err != nil {
		return nil, err
	}
	r, err := decode(out)
	if err != nil {
		return nil, errs.E(op, errs.Internal, err)
	}
	return r.document(thing, name), nil
}

func parseChange(body []byte, l *Limits) (patch, *Error) {
	p := patch{state: value{kind: object}}
	doc, err := parse(string(body))
	switch {
	case err == errUTF8:
		return p, errEncoding
	case err != nil || doc.kind != object:
		return p, errJSON
	}
	for i := range doc.members {
		m := &doc.members[i]
		to, bad := (*value)(nil), errNode
		switch m.name {
		case "desired":
			to, bad = &p.desired, errDesired
		case "reported":
			to, bad = &p.reported, errReported
		case "tags":
			to = &p.tags
		case "replace":
			p.replace = m.val.raw == "true"
			continue
		case "note":
			if m.val.kind == text {
				p.note = unquote(m.val.raw)
			}
			continue
		case "version":
			n, err := strconv.ParseUint(m.val.raw, 10, 63)
			if m.val.kind != number || err != nil {
				return p, errVersion
			}
			p.version, p.versioned = n, true
			continue
		default:
			return p, errNode
		}
		if m.val.kind != object && m.val.kind != null {
			return p, bad
		}
		if m.val.depth() > l.Depth+1 {
			return p, errNesting(l.Depth)
		}
		if m.val.nullInArray() {
			return p, errNode
		}
		*to = m.val
		if m.name != "tags" {
			p.state.members = append(p.state.members, *m)
		}
	}
	return p, nil
}

// Topics of Weir's own; no client reaches them.
const (
	requestTopic = topic.Name("$weir/shadow/request")
	answerTopic  = topic.Name("$weir/shadow/answer")
)

// call puts a request on the log and waits for its worker.
func (s *Service) call(ctx context.Context, op string, o operation, thing, name string, body []byte, who Who) ([]byte, error) {
	c := make(chan result, 1)
	s.mu.Lock()
	s.calls++
	id := strconv.FormatUint(s.calls, 36)
	s.waiters[id] = c
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiters, id)
		s.mu.Unlock()
	}()
	via := who.Via
	if via == "" {
		via = "api"
	}
	err := s.o.Log.Publish(ctx, &event.Event{
		Topic: requestTopic, Key: thing, Payload: body, QoS: 1, Protocol: event.Server,
		ClientID: who.ClientID, Principal: who.Principal, SourceIP: who.SourceIP,
		Props: &event.Properties{User: []event.UserProperty{
			{Key: "op", Value: o.String()}, {Key: "thing", Value: thing}, {Key: "name", Value: name},
			{Key: "via", Value: via}, {Key: "to", Value: s.id}, {Key: "id", Value: id},
		}},
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil, errs.E(op, errs.Timeout, err)
		}
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	select {
	case r := <-c:
		if r.err != nil {
			return nil, wrap(op, r.err)
		}
		return r.payload, nil
	case <-ctx.Done():
		return nil, errs.E(op, errs.Timeout, ctx.Err())
	}
}

// resolve hands a result to who waits for it in this instance.
func (s *Service) resolve(id string, r result) {
	s.mu.Lock()
	c := s.waiters[id]
	delete(s.waiters, id)
	s.mu.Unlock()
	if c != nil {
		c <- r
	}
}

// Names is a page of a thing's named shadows, as ListNamedShadowsForThing
// answers.
type Names struct {
	Results   []string `json:"results"`
	NextToken string   `json:"nextToken,omitempty"`
	Timestamp int64    `json:"timestamp"` // seconds since the epoch
}

// List returns the names of a thing's named shadows, sorted, size at a time (1 to
// 100; 0: 25). token is the NextToken of the page before.
// Errors: an *Error (400), errs.Unavailable.
func (s *Service) List(ctx context.Context, thing string, size int, token string) (*Names, error) {
	const op = "shadow.List"
	if bad := checkNames(thing, ""); bad != nil {
		return nil, wrap(op, bad)
	}
	if size == 0 {
		size = 25
	}
	if size < 1 || size > 100 {
		return nil, wrap(op, &Error{400, "pageSize must be from 1 to 100"})
	}
	after, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(after) > maxName || !nameRunes(string(after), "$") {
		return nil, wrap(op, &Error{400, "Invalid nextToken"})
	}
	out := &Names{Results: []string{}, Timestamp: s.o.Now().Unix()}
	err = s.o.Shadows.Scan(ctx, "n."+thing+".", func(e kv.Entry) error {
		_, name, ok := parseKey(e.Key)
		r, err := decode(e.Value)
		if ok && err == nil && r.alive() {
			out.Results = append(out.Results, name)
		}
		return nil
	})
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	slices.Sort(out.Results)
	i, found := slices.BinarySearch(out.Results, string(after))
	if found {
		i++
	}
	if out.Results = out.Results[i:]; len(out.Results) > size {
		out.Results = out.Results[:size]
		out.NextToken = base64.RawURLEncoding.EncodeToString([]byte(out.Results[size-1]))
	}
	return out, nil
}

// Summary is a line of All.
type Summary struct {
	Thing   string    `json:"thing"`
	Name    string    `json:"name,omitempty"`
	Version uint64    `json:"version"`
	Time    time.Time `json:"time"`
	Apart   time.Time `json:"apartSince,omitzero"`
}

// All returns every shadow there is, of one thing or, with thing "", of all,
// sorted. It reads the whole bucket: for people, not for programs.
func (s *Service) All(ctx context.Context, thing string) ([]Summary, error) {
	const op = "shadow.All"
	var out []Summary
	err := s.o.Shadows.Scan(ctx, "", func(e kv.Entry) error {
		t, n, ok := parseKey(e.Key)
		if !ok || thing != "" && t != thing {
			return nil
		}
		r, err := decode(e.Value)
		if err != nil {
			return errs.E(op, errs.Internal, err)
		}
		if r.alive() {
			x := Summary{Thing: t, Name: n, Version: r.version, Time: time.UnixMilli(r.at).UTC()}
			if r.apart > 0 {
				x.Apart = time.UnixMilli(r.apart).UTC()
			}
			out = append(out, x)
		}
		return nil
	})
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	slices.SortFunc(out, func(a, b Summary) int {
		if c := strings.Compare(a.Thing, b.Thing); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out, nil
}

// listen takes the answers of workers in other processes.
func (p *partition) listen(ctx context.Context) {
	after := p.opened
	for ctx.Err() == nil {
		f, err := p.s.o.Log.Follow(eventlog.FollowOptions{Partition: p.id, After: after, Filters: []topic.Filter{topic.Filter(answerTopic)}})
		if err != nil {
			p.log.Error("the log cannot be followed; trying again", "error", err)
			pause(ctx, 200*time.Millisecond)
			continue
		}
		for {
			batch, upto, err := f.Next(ctx, 256)
			var gap *eventlog.GapError
			if errors.As(err, &gap) {
				continue
			}
			if err != nil {
				break
			}
			for _, e := range batch {
				if props := userProps(e); props["to"] == p.s.id {
					r := result{payload: e.Payload}
					if code, err := strconv.Atoi(props["code"]); err == nil {
						r = result{err: &Error{code, string(e.Payload)}}
					}
					p.s.resolve(props["id"], r)
				}
			}
			after = upto
		}
		f.Close()
		pause(ctx, 50*time.Millisecond)
	}
}

func userProps(e *event.Event) map[string]string {
	m := map[string]string{}
	if e.Props != nil {
		for _, u := range e.Props.User {
			m[u.Key] = u.Value
		}
	}
	return m
}
