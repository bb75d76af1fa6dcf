package registry

import (
	"context"
)

// PrincipalType says how a thing holds a certificate.
type PrincipalType string

const (
	Exclusive    PrincipalType = "EXCLUSIVE_THING"     // the certificate is this thing's alone
	NonExclusive PrincipalType = "NON_EXCLUSIVE_THING" // other things may have it too
)

// ThingPrincipal is a certificate attached to a thing.
type ThingPrincipal struct {
	Thing         string
	CertificateID string
	Type          PrincipalType
}

// AttachPrincipal attaches a certificate (ARN or id) to a thing. typ "" is
// NON_EXCLUSIVE_THING. What is attached so already is no error.
// Errors: NotFound, InvalidRequest.
func (r *Registry) AttachPrincipal(ctx context.Context, thing, principal string, typ PrincipalType) error {
	return r.Change(ctx, "registry.AttachThingPrincipal", func(tx *Tx) error { return tx.AttachPrincipal(thing, principal, typ) })
}

// AttachPrincipal is Registry.AttachPrincipal in a change.
func (tx *Tx) AttachPrincipal(thing, principal string, typ PrincipalType) error {
	switch typ {
	case "":
		typ = NonExclusive
	case Exclusive, NonExclusive:
	default:
		return invalid("%q is no type of principal: %s or %s", clip(string(typ)), Exclusive, NonExclusive)
	}
	if _, err := tx.Thing(thing); err != nil {
		return err
	}
	c, err := tx.Certificate(principal)
	if err != nil {
		return err
	}
	r := tx.r
	if tx.linked(r.principals, thing, c.ID) == string(typ) {
		return nil
	}
	for _, other := range tx.lefts(r.principals, c.ID) {
		if other == thing {
			continue
		}
		if typ == Exclusive {
			return invalid("certificate %s cannot be attached exclusively: thing %s has it too", c.ID, other)
		}
		if tx.linked(r.principals, other, c.ID) == string(Exclusive) {
			return invalid("certificate %s is attached to thing %s exclusively", c.ID, other)
		}
	}
	tx.lean(KindThing, thing, "")
	tx.lean(KindCertificate, c.ID, "")
	tx.link(r.principals, thing, c.ID, string(typ))
	return nil
}

// DetachPrincipal detaches a certificate from a thing. Where it is not attached
// is no error.
func (r *Registry) DetachPrincipal(ctx context.Context, thing, principal string) error {
	return r.Change(ctx, "registry.DetachThingPrincipal", func(tx *Tx) error { return tx.DetachPrincipal(thing, principal) })
}

// DetachPrincipal is Registry.DetachPrincipal in a change.
func (tx *Tx) DetachPrincipal(thing, principal string) error {
	if _, err := tx.Thing(thing); err != nil {
		return err
	}
	c, err := tx.Certificate(principal)
	if err != nil {
		return err
	}
	if tx.linked(tx.r.principals, thing, c.ID) != "" {
		tx.unlink(tx.r.principals, thing, c.ID)
	}
	return nil
}

// PrincipalsOf lists the certificates of a thing; typ "": of either type.
func (r *Registry) PrincipalsOf(thing string, typ PrincipalType, p Page) ([]ThingPrincipal, string, error) {
	return readPage(r, "PrincipalsOf", func(tx *Tx) ([]ThingPrincipal, string, error) {
		if _, err := tx.Thing(thing); err != nil {
			return nil, "", err
		}
		return pageOf(r.principals.byLeft[thing], p, "principals\x00"+thing+"\x00"+string(typ), false, func(id string, l link) (ThingPrincipal, bool) {
			t := PrincipalType(l.value)
			return ThingPrincipal{thing, id, t}, typ == "" || typ == t
		})
	})
}

// ThingsOf lists the things a certificate (ARN or id) is attached to; typ "": of
// either type.
func (r *Registry) ThingsOf(principal string, typ PrincipalType, p Page) ([]ThingPrincipal, string, error) {
	return readPage(r, "ThingsOf", func(tx *Tx) ([]ThingPrincipal, string, error) {
		c, err := tx.Certificate(principal)
		if err != nil {
			return nil, "", err
		}
		return pageOf(r.principals.byRight[c.ID], p, "things of\x00"+c.ID+"\x00"+string(typ), false, func(thing string, l link) (ThingPrincipal, bool) {
			t := PrincipalType(l.value)
			return ThingPrincipal{thing, c.ID, t}, typ == "" || typ == t
		})
	})
}

// ThingOf returns the thing a connection with a certificate id and a client id
// is of: the thing named like the client where the certificate is attached to
// it, or the only one it is attached to exclusively; nil where there is none.
func (r *Registry) ThingOf(certificateID, clientID string) *Thing {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if _, ok := r.principals.get(clientID, certificateID); ok {
		return r.things.rows[clientID].v
	}
	var out *Thing
	r.principals.byRight[certificateID].after("", func(thing string, l link) bool {
		if l.value == string(Exclusive) {
			out = r.things.rows[thing].v
		}
		return false
	})
	return out
}

// Attached reports whether a certificate is attached to a thing.
func (r *Registry) Attached(thing, certificateID string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.principals.get(thing, certificateID)
	return ok
}
