package server

import (
	"context"
	"path/filepath"

	"github.com/weir-iot/weir/ingest/policy"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/seal"
	"github.com/weir-iot/weir/registry"
	"github.com/weir-iot/weir/registry/provision"
)

// openRegistry opens who and what there is.
func (s *Server) openRegistry(ctx context.Context) error {
	b, err := kv.Open(ctx, s.log, kv.Config{Name: "registry"})
	if err != nil {
		return err
	}
	box, err := seal.Open(filepath.Join(s.dataDir, "seal.key"))
	if err != nil {
		return err
	}
	limits := registry.AWS()
	if s.cfg.Limits == "relaxed" {
		limits = registry.Relaxed()
	}
	s.things, err = registry.Open(ctx, registry.Options{
		Bucket: b, AccountID: s.cfg.AccountID, Region: s.cfg.Region, CheckPolicy: checkPolicy, CheckTemplate: provision.Check, CA: s.ca, Seal: box,
		Limits: limits, Keys: registry.KeyType(s.cfg.Provisioning.Keys), KeysAhead: s.cfg.Provisioning.KeysAhead, Logger: s.logger.With("room", "registry"), Now: s.now,
	})
	return err
}

// checkPolicy reports why a text is no policy document. The registry counts its
// characters.
func checkPolicy(document string) error { return policy.Check(document, 0) }
