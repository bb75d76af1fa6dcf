package provision

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weir-iot/weir/registry"
)

// maxValue bounds a parameter's value, in bytes: a certificate chain fits.
const maxValue = 64 << 10

// Plan is what a template makes for one device.
type Plan struct {
	Thing       *PlannedThing // nil: none
	Certificate PlannedCertificate
	Policies    []PlannedPolicy
	// Configuration is what the device is told.
	Configuration map[string]string
}

// PlannedThing is the thing of a plan.
type PlannedThing struct {
	Logical    string
	Name       string
	Type       string            // "": none named
	Attributes map[string]string // nil: none named
	Groups     []string          // nil: none named
	Override   map[string]Override
}

// PlannedCertificate is the certificate of a plan: one of ID, CSR and PEM.
type PlannedCertificate struct {
	Logical             string
	ID, CSR, PEM, CAPEM string
	Status              registry.Status
	Override            Override
}

// PlannedPolicy is a policy of a plan: one that is there, or a document.
type PlannedPolicy struct {
	Logical  string
	Name     string
	Document string // "": the policy is there
}

// checkParameters refuses what a request may not set.
func checkParameters(in map[string]string) error {
	if len(in) > maxParameters {
		return refuse("there are %d parameters, at most %d are allowed", len(in), maxParameters)
	}
	for k, v := range in {
		switch {
		case strings.HasPrefix(k, reserved):
			return refuse("parameter %s is taken from the certificate, it cannot be set", clip(k))
		case len(k) > 128:
			return refuse("the name of a parameter has more than 128 bytes")
		case len(v) > maxValue:
			return refuse("parameter %s has more than %d bytes", clip(k), maxValue)
		}
	}
	return nil
}

// Expand returns what t makes with parameters: in is from outside, certificate
// has those of the certificate. Parameters the template does not declare are
// ignored. Errors: errs.Invalid.
func (t *Template) Expand(in, certificate map[string]string) (*Plan, error) {
	if err := checkParameters(in); err != nil {
		return nil, err
	}
	s := &scope{params: maps.Clone(certificate), mappings: t.mappings}
	if s.params == nil {
		s.params = map[string]string{}
	}
	for _, name := range slices.Sorted(maps.Keys(t.parameters)) {
		p := t.parameters[name]
		if strings.HasPrefix(name, reserved) {
			if certificate[name] == "" {
				return nil, refuse("the certificate has no value for %s", name)
			}
			continue
		}
		v, ok := in[name]
		switch {
		case ok:
			s.params[name] = v
		case p.has:
			s.params[name] = p.fallback
		default:
			return nil, refuse("parameter %s is missing", clip(name))
		}
	}
	out := &Plan{Configuration: map[string]string{}}
	var err error
	if t.thing != nil {
		if out.Thing, err = t.thing.expand(s); err != nil {
			return nil, err
		}
	}
	if err := t.certificate.expand(s, &out.Certificate); err != nil {
		return nil, err
	}
	for _, r := range t.policies {
		p, err := r.expand(s)
		if err != nil {
			return nil, err
		}
		out.Policies = append(out.Policies, p)
	}
	for _, f := range t.configuration {
		v, err := f.value.eval(s)
		if err != nil {
			return nil, err
		}
		switch v := v.(type) {
		case string:
			out.Configuration[f.name] = v
		case json.Number, bool:
			out.Configuration[f.name] = fmt.Sprint(v)
		default:
			return nil, refuse("DeviceConfiguration: %s is not a string", clip(f.name))
		}
	}
	return out, nil
}

// str evaluates what must be a string.
func str(s *scope, e expr, what string) (string, error) {
	v, err := e.eval(s)
	if err != nil {
		return "", err
	}
	t, ok := v.(string)
	if !ok {
		return "", refuse("%s is not a string", what)
	}
	return t, nil
}

func (r *thingResource) expand(s *scope) (*PlannedThing, error) {
	out := &PlannedThing{Logical: r.logical, Override: r.override}
	var err error
	if out.Name, err = str(s, r.properties["ThingName"], "ThingName"); err != nil {
		return nil, err
	}
	if e := r.properties["ThingTypeName"]; e != nil {
		if out.Type, err = str(s, e, "ThingTypeName"); err != nil {
			return nil, err
		}
	}
	if e := r.properties["AttributePayload"]; e != nil {
		v, err := e.eval(s)
		if err != nil {
			return nil, err
		}
		m, ok := v.(map[string]any)
		if !ok {
			return nil, refuse("AttributePayload is not an object")
		}
		out.Attributes = map[string]string{}
		for k, v := range m {
			t, ok := v.(string)
			if !ok {
				return nil, refuse("AttributePayload: %s is not a string", clip(k))
			}
			out.Attributes[k] = t
		}
	}
	if e := r.properties["ThingGroups"]; e != nil {
		v, err := e.eval(s)
		if err != nil {
			return nil, err
		}
		l, ok := v.([]any)
		if !ok {
			return nil, refuse("ThingGroups is not a list")
		}
		out.Groups = []string{}
		for _, v := range l {
			t, ok := v.(string)
			if !ok {
				return nil, refuse("ThingGroups has something that is not a string")
			}
			if !slices.Contains(out.Groups, t) {
				out.Groups = append(out.Groups, t)
			}
		}
	}
	return out, nil
}

func (r *certificateResource) expand(s *scope, out *PlannedCertificate) error {
	out.Logical, out.Override, out.Status = r.logical, r.override, registry.Active
	for name, e := range r.properties {
		v, err := str(s, e, name)
		if err != nil {
			return err
		}
		switch name {
		case "CertificateId":
			out.ID = v
		case "CertificateSigningRequest":
			out.CSR = v
		case "CertificatePem":
			out.PEM = v
		case "CACertificatePem":
			out.CAPEM = v
		case "Status":
			if out.Status = statusOf(v); out.Status == "" {
				return refuse("the Status of a certificate is ACTIVE or INACTIVE")
			}
		}
	}
	return nil
}

func (r *policyResource) expand(s *scope) (PlannedPolicy, error) {
	s.strict = true
	defer func() { s.strict = false }()
	out := PlannedPolicy{Logical: r.logical}
	if r.name != nil {
		var err error
		out.Name, err = str(s, r.name, "PolicyName")
		return out, err
	}
	v, err := r.document.eval(s)
	if err != nil {
		return out, err
	}
	switch v := v.(type) {
	case string:
		out.Document = v
	case map[string]any:
		b, err := json.Marshal(v)
		if err != nil {
			return out, refuse("PolicyDocument: %v", err)
		}
		if out.Document = string(b); len(out.Document) > maxExpansion {
			return out, refuse("the template expands to more than %d bytes", maxExpansion)
		}
	default:
		return out, refuse("PolicyDocument is not an object or a string")
	}
	sum := sha256.Sum256([]byte(out.Document))
	out.Name = hex.EncodeToString(sum[:])
	return out, nil
}
