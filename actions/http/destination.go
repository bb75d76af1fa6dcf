package http

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	nethttp "net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// Status is the state of a destination.
//
//	            confirmed            disabled
//	IN_PROGRESS ─────────> ENABLED <──────────> DISABLED
//	    │  ▲                  │        enabled      │
//	    │  └──── asked again ─┴─────────────────────┘
//	    ▼
//	  ERROR   not confirmed in time, or the request could not be delivered;
//	          asked again: IN_PROGRESS
//
// Source: AWS IoT developer guide, "Working with HTTP topic rule destinations".
type Status string

const (
	InProgress Status = "IN_PROGRESS"
	Enabled    Status = "ENABLED"
	Disabled   Status = "DISABLED"
	Failed     Status = "ERROR"
)

// Destination is a web server that was asked whether it wants results.
type Destination struct {
	ARN             string    `json:"arn"`
	ConfirmationURL string    `json:"confirmationUrl"`
	Status          Status    `json:"status"`
	StatusReason    string    `json:"statusReason,omitempty"`
	CreatedAt       time.Time `json:"createdAt"`
	LastUpdatedAt   time.Time `json:"lastUpdatedAt"`

	// Of the request to confirm, while IN_PROGRESS.
	TokenHash []byte    `json:"tokenHash,omitempty"` // SHA-256; the token itself is not kept
	AskedAt   time.Time `json:"askedAt,omitzero"`    // since when it is IN_PROGRESS
	Tries     int       `json:"tries,omitempty"`     // requests that failed
	Sent      bool      `json:"sent,omitempty"`      // a request was accepted
}

// Store keeps destinations. Values are opaque to it.
type Store interface {
	// Update writes value where id's revision is still expected; 0: id must be
	// absent. A nil value clears. It returns the new revision. Errors:
	// errs.Conflict.
	Update(ctx context.Context, id string, value []byte, expected uint64) (revision uint64, err error)
	// Scan calls fn for each value.
	Scan(ctx context.Context, fn func(id string, value []byte, revision uint64) error) error
}

// DestinationOptions configure Destinations.
type DestinationOptions struct {
	Store     Store
	AccountID string
	Region    string
	EnableURL string // where the owner confirms: <EnableURL>/confirmdestination/<token>
	Policy    Policy

	// EnableLoopback makes destinations on this machine (localhost, 127.0.0.0/8,
	// ::1) ENABLED without asking. For weir dev, where the receiver is the
	// developer's own script; it needs Policy.AllowPrivate.
	EnableLoopback bool

	ConfirmWithin time.Duration // default 72 h
	Logger        *slog.Logger
	Now           func() time.Time // nil: time.Now
}

// maxDestinations bounds them. Source: AWS IoT Core quotas, topic rule
// destinations per account.
const maxDestinations = 1000

// Destinations holds the HTTP destinations and the handshake that enables them.
// It is safe for concurrent use and implements actions.Destinations.
type Destinations struct {
	o      DestinationOptions
	client *client
	wake   chan struct{} // buffered; something is to be sent

	change sync.Mutex // held over a change of the store, and while it is read

	mu     sync.RWMutex
	all    map[string]*stored // by ARN; guarded by mu; entries are replaced, not changed
	loaded time.Time          // guarded by mu
}

type stored struct {
	Destination
	base     *url.URL
	revision uint64
}

const (
	reload    = time.Second // how stale another process's change may be here
	sendTries = 3
	sendPause = 2 * time.Second // between them, doubled each time
)

// OpenDestinations loads the destinations. Requests to confirm go out in Run.
func OpenDestinations(ctx context.Context, o DestinationOptions) (*Destinations, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.ConfirmWithin <= 0 {
		o.ConfirmWithin = 72 * time.Hour
	}
	d := &Destinations{o: o, client: newClient(o.Policy, 4), wake: make(chan struct{}, 1)}
	return d, d.load(ctx)
}

// load reads the store anew.
func (d *Destinations) load(ctx context.Context) error {
	d.change.Lock()
	defer d.change.Unlock()
	return d.loadLocked(ctx)
}

// loadLocked is load for a caller that holds change: a scan that began before a
// change must not undo it here.
func (d *Destinations) loadLocked(ctx context.Context) error {
	all := map[string]*stored{}
	err := d.o.Store.Scan(ctx, func(id string, value []byte, revision uint64) error {
		s := &stored{revision: revision}
		if err := json.Unmarshal(value, &s.Destination); err != nil {
			return fmt.Errorf("destination %s: %w", id, err)
		}
		var err error
		if s.base, err = parse(s.ConfirmationURL); err != nil {
			return fmt.Errorf("destination %s: %w", id, err)
		}
		all[s.ARN] = s
		return nil
	})
	if err != nil {
		return errs.E("http.Destinations", errs.Unavailable, err)
	}
	d.mu.Lock()
	d.all, d.loaded = all, d.o.Now()
	d.mu.Unlock()
	return nil
}

// Run sends the requests to confirm and lets those that nobody answers lapse,
// until ctx ends.
func (d *Destinations) Run(ctx context.Context) error {
	defer d.client.close()
	for {
		next := d.work(ctx)
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-d.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// work does what is due and returns when to look again.
func (d *Destinations) work(ctx context.Context) time.Duration {
	next := time.Minute
	for _, s := range d.snapshot() {
		if s.Status != InProgress || ctx.Err() != nil {
			continue
		}
		now := d.o.Now()
		if now.Sub(s.AskedAt) >= d.o.ConfirmWithin {
			d.settle(ctx, s, Failed, "the destination was not confirmed in time")
			continue
		}
		if s.Sent {
			continue
		}
		if s.Tries > 0 {
			if wait := s.LastUpdatedAt.Add(sendPause << (s.Tries - 1)).Sub(now); wait > 0 {
				next = min(next, wait)
				continue
			}
		}
		if again := d.challenge(ctx, s); again > 0 {
			next = min(next, again)
		}
	}
	return next
}

func (d *Destinations) snapshot() []*stored {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([]*stored, 0, len(d.all))
	for _, s := range d.all {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *stored) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return out
}

// challenge sends the request to confirm. The token's hash is stored before the
// token leaves, so that the answer cannot come too early.
func (d *Destinations) challenge(ctx context.Context, s *stored) (again time.Duration) {
	token := newToken()
	hash := sha256.Sum256([]byte(token))
	s, err := d.put(ctx, s, func(x *Destination) { x.TokenHash = hash[:] })
	if err != nil {
		return sendPause
	}
	status, err := d.ask(ctx, s, token)
	if err == nil && (status < 200 || status > 299) {
		err = fmt.Errorf("status %d", status)
	}
	if ctx.Err() != nil {
		return 0 // asked again at the next start
	}
	if err == nil {
		_, _ = d.put(ctx, s, func(x *Destination) { x.Sent, x.StatusReason = true, "waiting for the confirmation" })
		return 0
	}
	reason := "the request to confirm failed: " + err.Error()
	d.o.Logger.Warn("HTTP destination", "confirmationUrl", public(s.base), "error", reason)
	if s.Tries+1 >= sendTries {
		d.settle(ctx, s, Failed, reason)
		return 0
	}
	_, _ = d.put(ctx, s, func(x *Destination) { x.Tries++; x.StatusReason = reason })
	return sendPause << s.Tries
}

func newToken() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (d *Destinations) ask(ctx context.Context, s *stored, token string) (status int, err error) {
	body, err := json.Marshal(map[string]string{
		"arn": s.ARN, "confirmationToken": token, "messageType": "DestinationConfirmation",
		"enableUrl": strings.TrimSuffix(d.o.EnableURL, "/") + "/confirmdestination/" + token,
	})
	if err != nil {
		return 0, err
	}
	u := *s.base
	if u.Path == "" {
		u.Path = "/"
	}
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += "confirmationToken=" + token
	req, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Amz-Rules-Engine-Message-Type", "DestinationConfirmation")
	req.Header.Set("X-Amz-Rules-Engine-Destination-Arn", s.ARN)
	req.Header.Set("User-Agent", "Weir")
	r, err := d.client.do(ctx, req)
	if err != nil {
		return 0, err
	}
	return r.status, nil
}

// put changes a destination where it is still as s says.
func (d *Destinations) put(ctx context.Context, s *stored, change func(*Destination)) (*stored, error) {
	d.change.Lock()
	defer d.change.Unlock()
	return d.putLocked(ctx, s, change)
}

func (d *Destinations) putLocked(ctx context.Context, s *stored, change func(*Destination)) (*stored, error) {
	n := *s
	change(&n.Destination)
	n.LastUpdatedAt = d.o.Now().UTC()
	value, err := json.Marshal(n.Destination)
	if err != nil {
		return nil, err
	}
	if n.revision, err = d.o.Store.Update(ctx, id(n.ARN), value, s.revision); err != nil {
		if errs.Is(err, errs.Conflict) {
			_ = d.loadLocked(ctx) // another process was first
		}
		return nil, err
	}
	d.mu.Lock()
	d.all[n.ARN] = &n
	d.mu.Unlock()
	return &n, nil
}

func (d *Destinations) settle(ctx context.Context, s *stored, to Status, reason string) {
	_, _ = d.put(ctx, s, func(x *Destination) {
		x.Status, x.StatusReason, x.TokenHash, x.Tries, x.Sent = to, reason, nil, 0, false
	})
}

// id is the key of an ARN in the store: its UUID.
func id(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// Create adds a destination and asks it to confirm. Errors: errs.Invalid,
// errs.Exists for a URL that has one, errs.Quota.
// Source: AWS IoT API, CreateTopicRuleDestination.
func (d *Destinations) Create(ctx context.Context, confirmationURL string) (Destination, error) {
	const op = "http.CreateDestination"
	u, err := parse(confirmationURL)
	if err != nil {
		return Destination{}, errs.Errorf(op, errs.Invalid, "confirmationUrl: %w", err)
	}
	if u.Scheme == "http" && !d.o.Policy.plainAllowed() {
		return Destination{}, errs.Errorf(op, errs.Invalid, "confirmationUrl: only https is allowed here")
	}
	d.change.Lock()
	defer d.change.Unlock()
	if err := d.loadLocked(ctx); err != nil {
		return Destination{}, err
	}
	have := d.snapshot()
	for _, s := range have {
		if s.ConfirmationURL == confirmationURL {
			return s.Destination, errs.Errorf(op, errs.Exists, "there is a destination for %s", public(u))
		}
	}
	if len(have) >= maxDestinations {
		return Destination{}, errs.Errorf(op, errs.Quota, "there are %d destinations, no more are allowed", len(have))
	}
	now := d.o.Now().UTC()
	s := &stored{base: u, Destination: Destination{
		ARN:             fmt.Sprintf("arn:aws:iot:%s:%s:ruledestination/http/%s", d.o.Region, d.o.AccountID, newUUID()),
		ConfirmationURL: confirmationURL, Status: InProgress, CreatedAt: now, AskedAt: now,
	}}
	if d.o.EnableLoopback && d.o.Policy.AllowPrivate && loopback(u) {
		s.Status, s.StatusReason = Enabled, "on this machine: enabled without confirmation"
	}
	n, err := d.putLocked(ctx, s, func(*Destination) {})
	if err != nil {
		return Destination{}, errs.E(op, errs.Unavailable, err)
	}
	d.poke()
	return n.Destination, nil
}

// loopback says whether u's text names this machine. What a name resolves to is
// the dialler's business: it permits no more than the policy does.
func loopback(u *url.URL) bool {
	if strings.EqualFold(u.Hostname(), "localhost") {
		return true
	}
	a, err := netip.ParseAddr(u.Hostname())
	return err == nil && a.IsLoopback()
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (d *Destinations) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Confirm asks for a destination at confirmationURL where there is none.
func (d *Destinations) Confirm(ctx context.Context, confirmationURL string) error {
	for _, s := range d.snapshot() {
		if s.ConfirmationURL == confirmationURL {
			return nil
		}
	}
	_, err := d.Create(ctx, confirmationURL)
	if errs.Is(err, errs.Exists) {
		return nil
	}
	return err
}

// Accept enables the destination that was given token. Errors: errs.NotFound for
// a token that is unknown, used or lapsed.
// Source: AWS IoT API, ConfirmTopicRuleDestination.
func (d *Destinations) Accept(ctx context.Context, token string) (Destination, error) {
	const op = "http.ConfirmDestination"
	hash := sha256.Sum256([]byte(token))
	if err := d.load(ctx); err != nil {
		return Destination{}, err
	}
	for _, s := range d.snapshot() {
		if s.Status != InProgress || subtle.ConstantTimeCompare(s.TokenHash, hash[:]) != 1 {
			continue
		}
		if d.o.Now().Sub(s.AskedAt) >= d.o.ConfirmWithin {
			break
		}
		n, err := d.put(ctx, s, enable)
		if errs.Is(err, errs.Conflict) {
			// The sender noted that the request went out: try once more.
			if s = d.find(s.ARN); s != nil && s.Status == InProgress && bytes.Equal(s.TokenHash, hash[:]) {
				n, err = d.put(ctx, s, enable)
			}
		}
		if err != nil {
			return Destination{}, errs.E(op, errs.Unavailable, err)
		}
		return n.Destination, nil
	}
	return Destination{}, errs.Errorf(op, errs.NotFound, "the confirmation token is not known, was used or has lapsed")
}

func enable(x *Destination) {
	x.Status, x.StatusReason, x.TokenHash, x.Tries, x.Sent = Enabled, "", nil, 0, false
}

func (d *Destinations) find(arn string) *stored {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.all[arn]
}

// Update changes the state: ENABLED and DISABLED where it was confirmed once,
// IN_PROGRESS to be asked anew. Errors: errs.NotFound, errs.Invalid,
// errs.Conflict.
// Source: AWS IoT API, UpdateTopicRuleDestination.
func (d *Destinations) Update(ctx context.Context, arn string, to Status) (Destination, error) {
	const op = "http.UpdateDestination"
	if err := d.load(ctx); err != nil {
		return Destination{}, err
	}
	s := d.find(arn)
	if s == nil {
		return Destination{}, errs.Errorf(op, errs.NotFound, "there is no destination %s", arn)
	}
	confirmed := s.Status == Enabled || s.Status == Disabled
	var change func(*Destination)
	switch {
	case to == InProgress:
		change = func(x *Destination) {
			x.Status, x.StatusReason, x.TokenHash, x.Tries, x.Sent = InProgress, "", nil, 0, false
			x.AskedAt = d.o.Now().UTC()
		}
	case (to == Enabled || to == Disabled) && confirmed:
		change = func(x *Destination) { x.Status, x.StatusReason = to, "" }
	case to == Enabled || to == Disabled:
		return Destination{}, errs.Errorf(op, errs.Invalid, "the destination is %s: it must be confirmed first", s.Status)
	default:
		return Destination{}, errs.Errorf(op, errs.Invalid, "%q is none of ENABLED, DISABLED, IN_PROGRESS", to)
	}
	n, err := d.put(ctx, s, change)
	if err != nil {
		return Destination{}, errs.E(op, errs.KindOf(err), err)
	}
	d.poke()
	return n.Destination, nil
}

// Get returns a destination. Errors: errs.NotFound.
func (d *Destinations) Get(ctx context.Context, arn string) (Destination, error) {
	const op = "http.GetDestination"
	if err := d.load(ctx); err != nil {
		return Destination{}, err
	}
	if s := d.find(arn); s != nil {
		return s.Destination, nil
	}
	return Destination{}, errs.Errorf(op, errs.NotFound, "there is no destination %s", arn)
}

// List returns all destinations, oldest first.
func (d *Destinations) List(ctx context.Context) ([]Destination, error) {
	if err := d.load(ctx); err != nil {
		return nil, err
	}
	var out []Destination
	for _, s := range d.snapshot() {
		out = append(out, s.Destination)
	}
	return out, nil
}

// Delete removes a destination. Errors: errs.NotFound, errs.Conflict.
func (d *Destinations) Delete(ctx context.Context, arn string) error {
	const op = "http.DeleteDestination"
	if err := d.load(ctx); err != nil {
		return err
	}
	s := d.find(arn)
	if s == nil {
		return errs.Errorf(op, errs.NotFound, "there is no destination %s", arn)
	}
	d.change.Lock()
	defer d.change.Unlock()
	if _, err := d.o.Store.Update(ctx, id(arn), nil, s.revision); err != nil {
		return errs.E(op, errs.KindOf(err), err)
	}
	d.mu.Lock()
	delete(d.all, arn)
	d.mu.Unlock()
	return nil
}

// Enabled reports whether rawURL lies below an enabled destination. It answers
// from memory; what another process changed is seen within a second.
func (d *Destinations) Enabled(ctx context.Context, rawURL string) (bool, error) {
	u, err := parse(rawURL)
	if err != nil {
		return false, errs.E("http.Destinations", errs.Invalid, err)
	}
	now := d.o.Now()
	d.mu.RLock()
	stale := now.Sub(d.loaded) >= reload
	d.mu.RUnlock()
	if stale && d.change.TryLock() { // one delivery reads, the others go on
		err := d.loadLocked(ctx)
		d.change.Unlock()
		if err != nil {
			return false, err
		}
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, s := range d.all {
		if s.Status == Enabled && below(u, s.base) {
			return true, nil
		}
	}
	return false, nil
}
