package server

import (
	"context"

	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/lookup"
)

// lookups returns the services that functions of rule SQL may call out to;
// aws_lambda asks a function that is deployed here before one of AWS.
func (s *Server) lookups() eval.Lookups {
	l := s.awsLookups
	l.Shadow, l.Lambda = s.shadows, s.invoker()
	return l
}

// openAWSLookups finds the services of AWS. A configuration that cannot be read
// leaves Weir without them: who needs none must not care.
func (s *Server) openAWSLookups(ctx context.Context) (err error) {
	if s.awsLookups, err = lookup.Open(ctx, s.awsConfig, s.now); err != nil {
		s.logger.Warn("rules that look up AWS services are refused", "err", err)
	}
	return nil
}
