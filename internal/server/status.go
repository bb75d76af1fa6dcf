package server

import (
	"context"
	"os"

	"github.com/weir-iot/weir/control"
)

// Status implements control.StatusReader.
func (s *Server) Status(ctx context.Context) (*control.Status, error) {
	st := &control.Status{
		Build: s.build, PID: os.Getpid(), Started: s.started, DataDir: s.dataDir,
		Durability: s.cfg.Durability, Limits: s.cfg.Limits, Listeners: map[string]string{}, Roles: s.roles.names(),
	}
	if s.gateway != nil {
		st.Connections = len(s.gateway.Clients())
	}
	if err := s.healthy(ctx); err != nil {
		st.Reason = err.Error()
	} else {
		st.Ready = true
	}
	for name, addr := range map[string]string{"mqtt": s.endpoints.MQTT, "mqtts": s.endpoints.MQTTS, "https": s.endpoints.HTTPS, "mux": s.endpoints.Mux,
		"api": s.apiListener.Addr().String(), "nats": s.endpoints.NATS} {
		if addr != "" {
			st.Listeners[name] = addr
		}
	}
	for p := range s.first {
		committed := s.log.Committed(p)
		st.Partitions = append(st.Partitions, control.Partition{Partition: p, First: s.log.First(p), Committed: committed})
		if committed > s.first[p] {
			st.Received += committed - s.first[p]
		}
	}
	for _, r := range s.ruleStatus(ctx) {
		if !r.Deleted {
			st.Rules++
		}
	}
	if s.dead != nil {
		st.DeadLetters = s.dead.Count()
	}
	return st, nil
}
