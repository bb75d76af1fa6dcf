package auth

import "github.com/weir-iot/weir/ingest/policy"

// Facts returns what policies may ask of a connection without a client
// certificate, not yet prepared.
func (a *Policies) Facts(c *Connection) *policy.Facts {
	f := &policy.Facts{ClientID: c.ClientID, MQTT: c.Listener != HTTPS && c.Listener != HTTP, SourceIP: c.Remote.Addr()}
	if c.TLS != nil {
		f.DomainName, f.Secure = c.TLS.ServerName, true
	}
	f.Connecting(a.arn, c.Persistent, c.WillTopic)
	return f
}

// Reload makes the session load anew what holds, with the next question: what it
// loads has changed without a new generation.
func (s *Session) Reload() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Store(nil)
}
