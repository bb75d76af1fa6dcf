package server

import (
	"context"
	"encoding/json"

	"github.com/goccy/go-yaml"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/rules"
)

type deadLetters struct{}

func openDead(context.Context, *Server) (deadLetters, error) { return deadLetters{}, nil }
func (deadLetters) Put(context.Context, *actions.Letter) error {
	return errs.Errorf("dead", errs.NotImplemented, "none")
}
func (deadLetters) count(context.Context) (uint64, error) { return 0, nil }
func (deadLetters) List(ctx context.Context, rule string, after uint64, max int) ([]control.DeadLetter, error) {
	return nil, nil
}
func (deadLetters) Get(ctx context.Context, seq uint64) (*control.DeadLetter, error) {
	return nil, errs.Errorf("dead", errs.NotFound, "there is no dead letter %d", seq)
}
func (deadLetters) Redrive(ctx context.Context, rule string, seqs []uint64) (*control.Redriven, error) {
	return &control.Redriven{}, nil
}

func (s *Server) readRule(file string, src []byte) (*rules.Rule, error) {
	b, err := yaml.YAMLToJSON(src)
	if err != nil {
		return nil, errs.E("rules", errs.Invalid, err)
	}
	var r rules.Rule
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, errs.E("rules", errs.Invalid, err)
	}
	return &r, nil
}
