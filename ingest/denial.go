package ingest

import (
	"log/slog"

	"github.com/weir-iot/weir/ingest/auth"
)

// Denials logs what an Authorizer denies, with its reason, at most ten lines a
// second.
type Denials struct {
	Noise
	Authorizer auth.Authorizer
}

// Log writes one denial.
func (d *Denials) Log(p *auth.Principal, a auth.Action, resource string) {
	d.Warn("denied", "action", a.String(), "resource", resource, "clientId", p.ClientID, "principal", p.ID,
		"remote", p.Remote.String(), "why", why{d.Authorizer, p, a, resource})
}

// why is made when a line is written, not before.
type why struct {
	authorizer auth.Authorizer
	p          *auth.Principal
	a          auth.Action
	resource   string
}

// LogValue implements slog.LogValuer.
func (w why) LogValue() slog.Value {
	if e, ok := w.authorizer.(auth.Explainer); ok {
		return slog.StringValue(e.Why(w.p, w.a, w.resource))
	}
	return slog.StringValue("the authorizer says no")
}
