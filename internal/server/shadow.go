package server

import (
	"context"

	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/shadow"
)

// openShadows joins the shadow service: topic requests come to it by the log,
// those of the APIs and of rule SQL by its Go API.
func (s *Server) openShadows(ctx context.Context) error {
	documents, err := kv.Open(ctx, s.log, kv.Config{Name: shadow.Bucket, History: s.cfg.Shadow.History, Singles: true})
	if err != nil {
		return err
	}
	leases, err := kv.Open(ctx, s.log, kv.Config{Name: "leases"})
	if err != nil {
		return err
	}
	limits := shadow.AWS()
	if s.cfg.Limits == "relaxed" {
		limits = shadow.Relaxed()
	}
	s.shadows, err = shadow.Open(ctx, shadow.Options{
		Log: s.log, Shadows: documents, Positions: leases, Owner: s.owner(), ClientOnly: s.roles&shadowRole == 0, Limits: limits,
		Keep: s.cfg.Shadow.Keep, Resend: s.cfg.Shadow.Resend, Diverged: s.cfg.Shadow.Diverged,
		Logger: s.logger.With("room", "shadow"), Now: s.now, Registerer: s.registry,
	})
	return err
}
