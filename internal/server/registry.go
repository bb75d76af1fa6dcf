package server

import (
	"context"

	"github.com/weir-iot/weir/ingest/policy"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/registry"
	"github.com/weir-iot/weir/registry/provision"
)

// openRegistry opens who and what there is.
func (s *Server) openRegistry(ctx context.Context) error {
	b, err := kv.Open(ctx, s.log, kv.Config{Name: "registry"})
	if err != nil {
		return err
	}
	limits := registry.AWS()
	if s.cfg.Limits == "relaxed" {
		limits = registry.Relaxed()
	}
	keysAhead := 0
	if s.roles&registryRole != 0 {
		keysAhead = s.cfg.Provisioning.KeysAhead
	}
	s.things, err = registry.Open(ctx, registry.Options{
		Bucket: b, AccountID: s.cfg.AccountID, Region: s.cfg.Region, CheckPolicy: checkPolicy, CheckTemplate: provision.Check, CA: s.ca, Seal: s.box,
		Keys: registry.KeyType(s.cfg.Provisioning.Keys), KeysAhead: keysAhead,
		Limits: limits, Publish: s.log.Publish, Logger: s.logger.With("room", "registry"), Now: s.now,
	})
	if err == nil {
		s.logLevels.follow(s.things)
	}
	return err
}

// checkPolicy reports why a text is no policy document. The registry counts its
// characters.
func checkPolicy(document string) error { return policy.Check(document, 0) }
