package server

import (
	"context"

	"github.com/weir-iot/weir/internal/kv"
)

// bucket returns a bucket, which is opened once: with the embedded store a
// second opening would not hear of what the first one commits.
func (s *Server) bucket(ctx context.Context, c kv.Config) (*kv.Bucket, error) {
	if b := s.buckets[c.Name]; b != nil {
		return b, nil
	}
	b, err := kv.Open(ctx, s.log, c)
	if err != nil {
		return nil, err
	}
	if s.buckets == nil {
		s.buckets = map[string]*kv.Bucket{}
	}
	s.buckets[c.Name] = b
	return b, nil
}
