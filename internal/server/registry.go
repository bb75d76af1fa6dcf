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
	o := registry.Options{
		Bucket: b, AccountID: s.cfg.AccountID, Region: s.cfg.Region, CheckPolicy: checkPolicy, CheckTemplate: provision.Check,
		Limits: registry.AWS(), Logger: s.logger.With("room", "registry"), Now: s.now,
	}
	if s.cfg.Limits == "relaxed" {
		o.Limits = registry.Relaxed()
	}
	if s.ca != nil { // rules only read
		if o.Seal, err = seal.Open(filepath.Join(s.dataDir, "seal.key")); err != nil {
			return err
		}
		o.CA = s.ca
	}
	s.things, err = registry.Open(ctx, o)
	return err
}

// checkPolicy reports why a text is no policy document. The registry counts its
// characters.
func checkPolicy(document string) error { return policy.Check(document, 0) }
