package server

import (
	"context"

	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/lookup"
)

// lookups returns the services that functions of rule SQL may call out to;
// aws_lambda asks a function that is deployed here before one of AWS. An
// AWS configuration that cannot be read leaves Weir without them: who needs none
// must not care.
func (s *Server) lookups(ctx context.Context) eval.Lookups {
	l, err := lookup.Open(ctx, s.lanes.Env.AWS, s.now)
	if err != nil {
		s.logger.Warn("rules that look up AWS services are refused", "err", err)
	}
	l.Shadow = s.shadows
	l.Lambda = invoker{here: s.functions, there: l.Lambda}
	return l
}
