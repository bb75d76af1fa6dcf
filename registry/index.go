package registry

import (
	"fmt"
	"time"
)

// indexes are further ways to records; see table.index.
type indexes struct {
	thingsByType map[string]*ordered[*Thing]
	children     map[string]*ordered[struct{}]     // parent group to groups
	certsByCA    map[string]*ordered[*Certificate] // CA id to certificates, in order of creation
	casBySubject map[string][]*CACertificate       // raw subject
	claims       ordered[*Certificate]             // certificates with a claim, by its end
}

func (r *Registry) makeIndexes() {
	r.thingsByType = map[string]*ordered[*Thing]{}
	r.things.index = func(name string, old, now *Thing) {
		if old != nil && old.Type != "" {
			remove(r.thingsByType, old.Type, name)
		}
		if now != nil && now.Type != "" {
			insert(r.thingsByType, now.Type, name, now)
		}
	}
	r.children = map[string]*ordered[struct{}]{}
	r.groups.index = func(name string, old, now *Group) {
		if old != nil && old.Parent != "" {
			remove(r.children, old.Parent, name)
		}
		if now != nil && now.Parent != "" {
			insert(r.children, now.Parent, name, struct{}{})
		}
		if old != nil && (now == nil || now.ID != old.ID) {
			r.leave(name, old.ID)
		}
	}
	r.members.holds = func(_, group, id string) bool {
		g := r.groups.rows[group].v
		return g != nil && g.ID == id
	}
	r.certsByCA = map[string]*ordered[*Certificate]{}
	r.certificates.orderKey = func(id string, c *Certificate) string { return byTime(c.CreatedAt, id) }
	r.certificates.index = func(id string, old, now *Certificate) {
		if old != nil && old.CAID != "" {
			remove(r.certsByCA, old.CAID, byTime(old.CreatedAt, id))
		}
		if now != nil && now.CAID != "" {
			insert(r.certsByCA, now.CAID, byTime(now.CreatedAt, id), now)
		}
		if old != nil && old.Claim != nil {
			r.claims.remove(byTime(old.Claim.Expires, id))
		}
		if now != nil && now.Claim != nil {
			r.claims.set(byTime(now.Claim.Expires, id), now)
		}
	}
	r.casBySubject = map[string][]*CACertificate{}
	r.cas.orderKey = func(id string, c *CACertificate) string { return byTime(c.CreatedAt, id) }
	r.cas.index = r.indexCA
	r.tempClaims.orderKey = func(id string, c *ProvisioningClaim) string { return byTime(c.Expires, id) }
	r.authorizers.orderKey = func(name string, a *Authorizer) string { return byTime(a.CreatedAt, name) }
	r.roleAliases.orderKey = func(name string, a *RoleAlias) string { return byTime(a.CreatedAt, name) }
	r.policies.orderKey = func(name string, p *Policy) string { return byTime(p.CreatedAt, name) }
}

// leave drops the memberships of a group that is gone. They are as many as its
// things, more than one change can hold; what names the group's id stands for
// nothing from now on, and Run clears its keys.
func (r *Registry) leave(group, id string) {
	things := r.members.byRight[group]
	for _, thing := range things.keys() {
		if v, ok := r.members.get(thing, group); ok && v.value == id {
			r.stale[r.members.key(thing, group)] = v.rev
			r.members.remove(thing, group)
		}
	}
}

// byTime orders by creation, in milliseconds.
func byTime(t time.Time, name string) string {
	return fmt.Sprintf("%012x", t.UnixMilli()) + name
}

func insert[V any](m map[string]*ordered[V], at, key string, v V) {
	o := m[at]
	if o == nil {
		o = &ordered[V]{}
		m[at] = o
	}
	o.set(key, v)
}

func remove[V any](m map[string]*ordered[V], at, key string) {
	if o := m[at]; o != nil {
		if o.remove(key); o.n == 0 {
			delete(m, at)
		}
	}
}
