package server

import (
	"context"
	"path/filepath"
	"strings"
	"sync"

	"github.com/weir-iot/weir/ingest/policy"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/seal"
	"github.com/weir-iot/weir/registry"
)

// sealFile is the name, in the data folder, of the key that secrets in the
// registry are sealed with.
const sealFile = "seal.key"

// openRegistry joins the registry: who and what there is.
func (s *Server) openRegistry(ctx context.Context) error {
	var err error
	if s.records, err = kv.Open(ctx, s.log, kv.Config{Name: "registry"}); err != nil {
		return err
	}
	box, err := seal.Open(filepath.Join(s.dataDir, sealFile))
	if err != nil {
		return err
	}
	limits := registry.AWS()
	if s.cfg.Limits == "relaxed" {
		limits = registry.Relaxed()
	}
	s.policies = &policyCache{sets: map[string]*policy.Set{}}
	s.things, err = registry.Open(ctx, registry.Options{
		Bucket: s.records, AccountID: s.cfg.AccountID, Region: s.cfg.Region, CA: s.ca, Seal: box, Limits: limits,
		CheckPolicy: func(document string) error {
			_, err := policy.Parse(document)
			return err
		},
		Logger: s.logger.With("room", "registry"), Now: s.now,
	})
	return err
}

// policyCache keeps policy documents compiled. It is bounded: a full one begins
// anew.
type policyCache struct {
	mu   sync.Mutex
	sets map[string]*policy.Set // by their documents; guarded by mu
}

const maxPolicySets = 1024

// compile returns the set of documents.
func (c *policyCache) compile(documents []string) (*policy.Set, error) {
	key := strings.Join(documents, "\x00")
	c.mu.Lock()
	set := c.sets[key]
	c.mu.Unlock()
	if set != nil {
		return set, nil
	}
	sources := make([]policy.Source, len(documents))
	for i, d := range documents {
		doc, err := policy.Parse(d)
		if err != nil {
			return nil, err
		}
		sources[i] = policy.Source{Name: "access key", Document: doc}
	}
	set = policy.Compile(sources...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sets) >= maxPolicySets {
		clear(c.sets)
	}
	c.sets[key] = set
	return set, nil
}
