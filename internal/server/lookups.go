package server

import (
	"context"
	"encoding/json"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/registry"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/lookup"
)

// lookups returns the services that functions of rule SQL may call out to;
// aws_lambda asks a function that is deployed here before one of AWS.
func (s *Server) lookups() eval.Lookups {
	l := s.awsLookups
	l.Shadow, l.Registry, l.Lambda = s.shadows, registryReader{s.things}, s.invoker()
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

// registryReader serves get_registry_data as the APIs it names answer.
type registryReader struct{ r *registry.Registry }

// Registry implements eval.RegistryReader.
func (g registryReader) Registry(_ context.Context, api, thing, _ string) ([]byte, error) {
	const op = "server.Registry"
	switch api {
	case "DescribeThing":
		t, err := g.r.Thing(thing)
		if err != nil {
			return nil, unknown(op, err)
		}
		attributes := t.Attributes
		if attributes == nil {
			attributes = map[string]string{}
		}
		return json.Marshal(struct {
			DefaultClientID string            `json:"defaultClientId"`
			Name            string            `json:"thingName"`
			ID              string            `json:"thingId"`
			ARN             string            `json:"thingArn"`
			Type            string            `json:"thingTypeName,omitempty"`
			Attributes      map[string]string `json:"attributes"`
			Version         int64             `json:"version"`
		}{t.Name, t.Name, t.ID, g.r.ThingARN(t.Name), t.Type, attributes, t.Version})
	case "ListThingGroupsForThing":
		type group struct {
			Name string `json:"groupName"`
			ARN  string `json:"groupArn"`
		}
		groups := []group{}
		for p := (registry.Page{}); ; {
			list, next, err := g.r.GroupsOfThing(thing, p)
			if err != nil {
				return nil, unknown(op, err)
			}
			for _, name := range list {
				groups = append(groups, group{name, g.r.GroupARN(name)})
			}
			if next == "" {
				break
			}
			p.Token = next
		}
		return json.Marshal(struct {
			Groups []group `json:"thingGroups"`
		}{groups})
	}
	return nil, errs.Errorf(op, errs.NotImplemented, "get_registry_data knows DescribeThing and ListThingGroupsForThing")
}

// unknown gives a name that no thing can have the kind of one that none has: a
// message may hold anything.
func unknown(op string, err error) error {
	if registry.CodeOf(err) == registry.InvalidRequest {
		return errs.E(op, errs.NotFound, err)
	}
	return err
}
