package mqtt

import (
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
)

// may asks the authorizer, and counts and logs what it denies.
func (s *Server) may(p *auth.Principal, a auth.Action, resource string) bool {
	if s.authz.May(p, a, resource) {
		return true
	}
	s.m.denials.WithLabelValues(a.String()).Inc()
	s.denials.Log(p, a, resource)
	return false
}

// reconsider ends the connections of principals that may no longer be here:
// their credential was revoked, deactivated or detached from what allowed it to
// connect, or has expired. It is called by the sweep, and asks about a connection
// when something has changed, and now and then for the passing of time.
func (s *Server) reconsider() {
	if s.keeper == nil {
		return
	}
	gen := s.keeper.Generation()
	s.sweeps++
	if gen == s.reconsidered && s.sweeps%sweepsForTime != 0 {
		return
	}
	s.reconsidered = gen
	s.mu.Lock()
	clients := make([]*client, 0, len(s.clients))
	for _, c := range s.clients {
		clients = append(clients, c)
	}
	s.mu.Unlock()
	for _, c := range clients {
		err := s.keeper.Still(c.principal)
		if err == nil {
			continue
		}
		s.denials.Warn("connection cut", "why", errs.Text(err), "clientId", c.id, "principal", c.principal.ID, "remote", c.remote.String())
		s.m.denials.WithLabelValues("withdrawn").Inc()
		c.end(faultf(codeNotAuthorized, "withdrawn", "the principal may no longer be connected"))
	}
}

// sweepsForTime is how many sweeps pass until connections are asked about though
// nothing has changed.
const sweepsForTime = 4

// Principal returns who is connected with a client id, nil where nobody is.
func (s *Server) Principal(clientID string) *auth.Principal {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[clientID]; c != nil {
		return c.principal
	}
	return nil
}
