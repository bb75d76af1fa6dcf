package registry

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/kv"
)

// Options are what a Registry needs.
type Options struct {
	Bucket            *kv.Bucket // "registry"
	AccountID, Region string

	// CheckPolicy says why a policy document is not one; its error is the cause of
	// MalformedPolicy. Nil: a document must only be a JSON object.
	CheckPolicy func(document string) error

	// CheckTemplate says why a text is no provisioning template of a type. Nil: it
	// must only be a JSON object.
	CheckTemplate func(body string, typ TemplateType) error

	CA     CertificateAuthority // nil: certificates can be registered but not made
	Seal   Sealer               // nil: no access keys
	Limits Limits               // zero: AWS()
	Keys   KeyType              // of CreateKeysAndCertificate; "": RSA of 2,048 bits, as AWS's
	// KeysAhead is how many RSA keys are made ahead while there is a template by
	// which devices may ask for them. They are in memory only.
	KeysAhead int

	// Publish takes the events of changes that the event configurations ask for.
	// It returns once they are durable. Nil: no change is told.
	Publish func(ctx context.Context, e *event.Event) error

	Logger *slog.Logger
	Now    func() time.Time // nil: time.Now
}

// Sealer encrypts what must not be plain in the bucket; *seal.Box is one.
type Sealer interface {
	Seal(name string, plain []byte) []byte
	Open(name string, sealed []byte) ([]byte, error)
}

// Limits bound what there may be.
type Limits struct {
	Attributes        int           // of a thing with a type, and of a group
	AttributesUntyped int           // of a thing without
	AttributeBytes    int           // names and values of one thing's attributes
	Searchable        int           // attributes of a thing type
	GroupDepth        int           // of nested groups
	GroupsPerThing    int           //
	PoliciesPerTarget int           // attached to a certificate or group
	PolicyBytes       int           // of a document, white space not counted
	PolicyVersions    int           // kept of a policy
	Tags              int           // of a resource
	TypeDeleteWait    time.Duration // between deprecation and deletion of a thing type
	TemplateVersions  int           // kept of a provisioning template
	Authorizers       int
	DomainConfigs     int
	RoleAliases       int
	CAsPerSubject     int // with one subject
}

// AWS returns the limits of AWS IoT Core.
func AWS() Limits {
	return Limits{
		Attributes: 50, AttributesUntyped: 3, AttributeBytes: 47 << 10, Searchable: 3, GroupDepth: 7, GroupsPerThing: 10,
		PoliciesPerTarget: 10, PolicyBytes: 2048, PolicyVersions: 5, Tags: 50, TypeDeleteWait: 5 * time.Minute,
		TemplateVersions: 5, Authorizers: 10, DomainConfigs: 10, RoleAliases: 100, CAsPerSubject: 10,
	}
}

// Relaxed returns limits that only bound what a record costs.
func Relaxed() Limits {
	l := AWS()
	l.AttributesUntyped = 50
	l.GroupDepth, l.GroupsPerThing = 32, 100
	l.PoliciesPerTarget, l.PolicyBytes = 50, 32<<10
	l.TypeDeleteWait = 0
	l.Authorizers, l.DomainConfigs, l.RoleAliases = 1000, 1000, 1000
	return l
}

// Kind names what a Change is of.
type Kind string

const (
	KindThing       Kind = "thing"
	KindType        Kind = "type"
	KindGroup       Kind = "group"
	KindCertificate Kind = "certificate"
	KindCA          Kind = "ca"
	KindPolicy      Kind = "policy"
	KindMember      Kind = "member"     // Name: thing, Other: group
	KindPrincipal   Kind = "principal"  // Name: thing, Other: certificate id
	KindAttachment  Kind = "attachment" // Name: "cert/<id>" or "thinggroup/<name>", Other: policy
	KindAccessKey   Kind = "accesskey"
	KindAuthorizer  Kind = "authorizer"
	KindTemplate    Kind = "template"
	KindClaim       Kind = "claim" // a temporary one of CreateProvisioningClaim
	KindDomain      Kind = "domain"
	KindRoleAlias   Kind = "rolealias"
	KindRuleTags    Kind = "ruletags"     // Name: of the topic rule
	KindLogLevel    Kind = "loglevel"     // Name: target type and name
	KindAnnounced   Kind = "announcement" // an event that is to be published, or was
	KindSetting     Kind = "setting"      // Name: "registrationcode", "defaultauthorizer", "logging", "events", "indexing"
)

// Change tells of one record that was made, replaced or deleted.
type Change struct {
	Kind     Kind
	Name     string
	Other    string // of links
	Deleted  bool
	Revision uint64 // of the bucket
}

// Registry is the projection of the bucket and the way to change it. Its
// methods may be called concurrently.
type Registry struct {
	o         Options
	limits    Limits
	now       func() time.Time
	arnPrefix string
	self      string             // names this process to others
	stripes   [256]chan struct{} // locks of keys being changed by this process
	keys      *keyMaker

	mu       sync.RWMutex // guards the rest
	tables   map[string]projection
	mark     kv.Mark           // where the bucket was loaded
	seen     uint64            // revision up to which the bucket was followed
	newest   uint64            // the last change of this process
	direct   map[string]uint64 // keys this process changed and has not yet seen come by
	moved    chan struct{}     // closed and replaced when seen moves
	guards   [guardCount]uint64
	stale    map[string]uint64 // keys of links whose group is gone, to be cleared
	handlers []func(Change)

	things        *table[Thing]
	types         *table[ThingType]
	groups        *table[Group]
	certificates  *table[Certificate]
	cas           *table[CACertificate]
	policies      *table[Policy]
	members       *links // thing ↔ group
	principals    *links // thing ↔ certificate
	attachments   *links // target ↔ policy
	templates     *table[Template]
	tempClaims    *table[ProvisioningClaim]
	accessKeys    *table[AccessKey]
	authorizers   *table[Authorizer]
	domains       *table[DomainConfiguration]
	roleAliases   *table[RoleAlias]
	ruleTags      *table[RuleTags]
	logLevels     *table[TargetLevel]
	announcements *table[announcement]
	settings      settings
	indexes
}

// settings are records of which there is one, named single.
type settings struct {
	code       *table[registrationCode]
	authorizer *table[defaultAuthorizer]
	logging    *table[LoggingOptions]
	events     *table[EventConfigurations]
	indexing   *table[Indexing]
}

const single = "default"

// projection is one kind of record in memory. Its methods are called under mu.
type projection interface {
	apply(r *Registry, name string, e kv.Entry) (Change, error)
	change(name string, e kv.Entry) Change // what e tells
}

// Open loads the registry. It can be read at once; changes wait for the log's
// Run, and other processes' are seen while Run runs.
func Open(ctx context.Context, o Options) (*Registry, error) {
	const op = "registry.Open"
	r := &Registry{
		o: o, limits: o.Limits, now: o.Now, arnPrefix: "arn:aws:iot:" + o.Region + ":" + o.AccountID + ":",
		self: newID(), direct: map[string]uint64{}, stale: map[string]uint64{}, moved: make(chan struct{}), keys: newKeyMaker(o.KeysAhead),
	}
	if o.Bucket == nil || o.Logger == nil || o.AccountID == "" || o.Region == "" {
		return nil, errs.Errorf(op, errs.Invalid, "bucket, logger, account or region is missing")
	}
	if r.limits == (Limits{}) {
		r.limits = AWS()
	}
	if r.now == nil {
		r.now = time.Now
	}
	for i := range r.stripes {
		r.stripes[i] = make(chan struct{}, 1)
	}
	r.makeTables()
	begun := time.Now()
	n := 0
	mark, err := o.Bucket.Load(ctx, "", func(e kv.Entry) error {
		n++
		r.apply(e)
		return nil
	})
	if err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	r.mark, r.seen = mark, mark.Revision
	o.Logger.Debug("registry loaded", "records", n, "things", len(r.things.rows), "took", time.Since(begun).Round(time.Millisecond))
	return r, nil
}

func (r *Registry) makeTables() {
	r.tables = map[string]projection{"guard": guardTable{}}
	r.things = newTable[Thing](r, "thing", KindThing)
	r.types = newTable[ThingType](r, "type", KindType)
	r.groups = newTable[Group](r, "group", KindGroup)
	r.certificates = newTable[Certificate](r, "cert", KindCertificate)
	r.cas = newTable[CACertificate](r, "ca", KindCA)
	r.policies = newTable[Policy](r, "policy", KindPolicy)
	r.members = newLinks(r, "member", KindMember)
	r.principals = newLinks(r, "principal", KindPrincipal)
	r.attachments = newLinks(r, "attach", KindAttachment)
	r.templates = newTable[Template](r, "template", KindTemplate)
	r.tempClaims = newTable[ProvisioningClaim](r, "claim", KindClaim)
	r.accessKeys = newTable[AccessKey](r, "key", KindAccessKey)
	r.authorizers = newTable[Authorizer](r, "authorizer", KindAuthorizer)
	r.domains = newTable[DomainConfiguration](r, "domain", KindDomain)
	r.roleAliases = newTable[RoleAlias](r, "alias", KindRoleAlias)
	r.logLevels = newTable[TargetLevel](r, "loglevel", KindLogLevel)
	r.ruleTags = newTable[RuleTags](r, "ruletags", KindRuleTags)
	r.announcements = newTable[announcement](r, "announce", KindAnnounced)
	r.settings.code = newTable[registrationCode](r, "registrationcode", KindSetting)
	r.settings.authorizer = newTable[defaultAuthorizer](r, "defaultauthorizer", KindSetting)
	r.settings.logging = newTable[LoggingOptions](r, "logging", KindSetting)
	r.settings.events = newTable[EventConfigurations](r, "events", KindSetting)
	r.settings.indexing = newTable[Indexing](r, "indexing", KindSetting)
	r.makeIndexes()
}

// Run follows the bucket until ctx ends; every goroutine it started has ended
// on return.
func (r *Registry) Run(ctx context.Context) error {
	r.mu.RLock()
	from := r.mark
	from.Revision = r.seen
	r.mu.RUnlock()
	ctx, cancel := context.WithCancel(ctx)
	var others sync.WaitGroup
	others.Go(func() { r.sweep(ctx) })
	others.Go(func() { r.publishAnnouncements(ctx) })
	if r.o.KeysAhead > 0 && r.o.Keys != ECDSAP256 {
		others.Go(func() { r.keys.makeAhead(ctx, r.enrols) })
	}
	err := r.o.Bucket.Follow(ctx, "", from, r.follow)
	cancel()
	others.Wait()
	return err
}

// OnChange has f called with every change of the registry, by whichever
// process, in order, by Run's goroutine: f must be quick and may read the
// registry, not change it. What f is told is readable by then.
func (r *Registry) OnChange(f func(Change)) {
	r.mu.Lock()
	r.handlers = append(r.handlers, f)
	r.mu.Unlock()
}

// Revision returns a revision of the bucket that has all that can be read here.
func (r *Registry) Revision() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return max(r.seen, r.newest)
}

// Await returns once everything up to a revision can be read here, or ctx ends.
// It is for who has heard of a change from another process, which need not have
// come by yet. Errors: errs.Timeout.
func (r *Registry) Await(ctx context.Context, revision uint64) error {
	for {
		r.mu.RLock()
		there, moved := r.seen >= revision, r.moved
		r.mu.RUnlock()
		if there {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return errs.E("registry.Await", errs.Timeout, ctx.Err())
		}
	}
}

// CatchUp waits until all that other processes had changed when it was called can
// be read here, or ctx ends.
func (r *Registry) CatchUp(ctx context.Context) error {
	newest, err := r.o.Bucket.Newest()
	if err != nil || newest <= r.Revision() {
		return err
	}
	return r.Await(ctx, newest)
}

// follow is called with each entry behind what was loaded, in order.
func (r *Registry) follow(e kv.Entry) {
	r.mu.Lock()
	c, ok := r.apply(e)
	if e.Revision > r.seen {
		r.seen = e.Revision
	}
	close(r.moved)
	r.moved = make(chan struct{})
	handlers := r.handlers
	r.mu.Unlock()
	if ok {
		for _, f := range handlers {
			f(c)
		}
	}
}

// apply puts e into the projection, unless a later change of this process is
// there already. ok: c is to be told.
func (r *Registry) apply(e kv.Entry) (c Change, ok bool) {
	prefix, name, found := strings.Cut(e.Key, ".")
	p := r.tables[prefix]
	if !found || p == nil {
		return c, false // of another room
	}
	if own, ok := r.direct[e.Key]; ok {
		if e.Revision >= own {
			delete(r.direct, e.Key)
		}
		if e.Revision <= own {
			return p.change(name, e), prefix != "guard" && e.Revision == own
		}
	}
	c, err := p.apply(r, name, e)
	if err != nil {
		r.o.Logger.Error("a record of the registry cannot be read", "key", e.Key, "revision", e.Revision, "err", err)
		return c, false
	}
	return c, prefix != "guard"
}

// sweep clears the keys of memberships whose group is gone.
func (r *Registry) sweep(ctx context.Context) {
	for {
		r.mu.RLock()
		var batch []kv.Change
		for key, rev := range r.stale {
			if batch = append(batch, kv.Change{Key: key, Expected: rev}); len(batch) == 200 {
				break
			}
		}
		moved := r.moved
		r.mu.RUnlock()
		if len(batch) == 0 {
			select {
			case <-moved:
				continue
			case <-ctx.Done():
				return
			}
		}
		_, err := r.o.Bucket.Commit(ctx, batch)
		for _, c := range batch {
			if err != nil { // one that has changed spoils the batch
				if _, err := r.o.Bucket.Update(ctx, c.Key, nil, c.Expected); err != nil && !errs.Is(err, errs.Conflict) {
					if ctx.Err() != nil {
						return
					}
					r.o.Logger.Warn("clearing a membership of a deleted group", "err", err)
					pause(ctx, time.Second)
					break
				}
			}
			r.mu.Lock()
			if r.stale[c.Key] == c.Expected {
				delete(r.stale, c.Key)
			}
			r.mu.Unlock()
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

var errNoSealer = errors.New("this Weir has no sealing key")
