// Package authtest has a registry in memory for tests of who is let in and what
// is allowed. It has no part in a message's way.
package authtest

import (
	"context"
	"crypto/x509"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/policy"
	"github.com/weir-iot/weir/internal/errs"
)

// Directory is an auth.Directory and auth.Registrar of what a test has put
// there.
type Directory struct {
	generation atomic.Uint64

	mu       sync.Mutex // guards what follows
	certs    map[string]*auth.Certificate
	cas      map[string]*auth.CA509
	things   map[string]*policy.Thing
	attached map[string][]auth.Attachment // by certificate
	policies map[string][]auth.Policy     // by certificate
}

// NewDirectory returns one in which there is nothing.
func NewDirectory() *Directory {
	return &Directory{certs: map[string]*auth.Certificate{}, cas: map[string]*auth.CA509{}, things: map[string]*policy.Thing{},
		attached: map[string][]auth.Attachment{}, policies: map[string][]auth.Policy{}}
}

func (d *Directory) change(f func()) {
	d.mu.Lock()
	f()
	d.mu.Unlock()
	d.generation.Add(1)
}

// Register makes a certificate known with a status; ca "": without one.
func (d *Directory) Register(id string, s auth.Status, ca string) {
	d.change(func() { d.certs[id] = &auth.Certificate{ID: id, Status: s, CA: ca, Registered: time.Now()} })
}

// RegisterCA makes a CA known and returns its id.
func (d *Directory) RegisterCA(c *x509.Certificate, s auth.Status, auto bool) string {
	id := auth.CertificateID(c)
	d.change(func() { d.cas[id] = &auth.CA509{ID: id, Status: s, Certificate: c, AutoRegistration: auto} })
	return id
}

// Put makes a thing, or replaces it.
func (d *Directory) Put(t *policy.Thing) { d.change(func() { d.things[t.Name] = t }) }

// Attach attaches things to a certificate, instead of those before.
func (d *Directory) Attach(id string, things ...auth.Attachment) {
	d.change(func() { d.attached[id] = things })
}

// SetPolicies attaches documents to a certificate, instead of those before.
func (d *Directory) SetPolicies(id string, documents ...string) {
	var list []auth.Policy
	for i, doc := range documents {
		list = append(list, auth.Policy{Name: string(rune('A' + i)), Document: doc})
	}
	d.change(func() { d.policies[id] = list })
}

// Generation implements auth.Directory, as the others do.
func (d *Directory) Generation() uint64 { return d.generation.Load() }

func (d *Directory) Certificate(id string) (*auth.Certificate, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, ok := d.certs[id]
	return c, ok
}

func (d *Directory) CA(id string) (*auth.CA509, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, ok := d.cas[id]
	return c, ok
}

func (d *Directory) CAsOf(leaf *x509.Certificate) []*auth.CA509 {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []*auth.CA509
	for _, c := range d.cas {
		if slices.Equal(c.Certificate.RawSubject, leaf.RawIssuer) {
			out = append(out, c)
		}
	}
	return out
}

func (d *Directory) ThingsOf(id string) []auth.Attachment {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.attached[id]
}

func (d *Directory) Thing(name string) (*policy.Thing, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, ok := d.things[name]
	return t, ok
}

func (d *Directory) PoliciesOf(id, _ string) []auth.Policy {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.policies[id]
}

// RegisterPending implements auth.Registrar.
func (d *Directory) RegisterPending(_ context.Context, leaf *x509.Certificate, ca *auth.CA509) error {
	id := auth.CertificateID(leaf)
	if _, ok := d.Certificate(id); ok {
		return errs.E("authtest", errs.Exists, nil)
	}
	d.Register(id, auth.PendingActivation, ca.ID)
	return nil
}
