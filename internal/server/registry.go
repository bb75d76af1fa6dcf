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
	o := registry.Options{
		Bucket: b, AccountID: s.cfg.AccountID, Region: s.cfg.Region, CheckPolicy: checkPolicy, CheckTemplate: provision.Check,
		Keys: registry.KeyType(s.cfg.Provisioning.Keys), Limits: registry.AWS(), Publish: s.log.Publish, Logger: s.logger.With("room", "registry"), Now: s.now,
	}
	if s.cfg.Limits == "relaxed" {
		o.Limits = registry.Relaxed()
	}
	if s.roles&registryRole != 0 {
		o.KeysAhead = s.cfg.Provisioning.KeysAhead
	}
	if s.ca != nil { // rules only read
		o.CA, o.Seal = s.ca, s.box
	}
	if s.things, err = registry.Open(ctx, o); err == nil {
		s.logLevels.follow(s.things)
	}
	return err
}

// checkPolicy reports why a text is no policy document. The registry counts its
// characters.
func checkPolicy(document string) error { return policy.Check(document, 0) }
