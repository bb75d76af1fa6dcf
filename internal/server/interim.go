package server

import (
	"encoding/json"

	"github.com/goccy/go-yaml"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/rules"
)

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
