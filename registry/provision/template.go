package provision

import (
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/suggest"
	"github.com/weir-iot/weir/registry"
)

// MaxTemplate is how many characters a template may have.
// Source: AWS IoT Core API reference, CreateProvisioningTemplate.
const MaxTemplate = 10240

// Bulk is the type of a template that is given with its request: RegisterThing
// of the control plane.
const Bulk registry.TemplateType = "BULK"

// certificateParameters are the parameters Weir sets, from the certificate. No
// device can.
// Source: AWS IoT Core developer guide, "Just-in-time provisioning".
var certificateParameters = []string{
	ofCertificate + "Country", ofCertificate + "Organization", ofCertificate + "OrganizationalUnit", ofCertificate + "DistinguishedNameQualifier",
	ofCertificate + "StateName", ofCertificate + "CommonName", ofCertificate + "SerialNumber", certificateID,
}

const (
	ofCertificate = "AWS::IoT::Certificate::"
	certificateID = ofCertificate + "Id"
	reserved      = "AWS::" // parameters that only Weir sets
)

// Template is a compiled template. It never changes, and may be expanded by
// many at a time.
type Template struct {
	typ        registry.TemplateType
	parameters map[string]parameter
	mappings   map[string]map[string]map[string]any

	thing         *thingResource // nil: none
	certificate   *certificateResource
	policies      []policyResource
	configuration object // DeviceConfiguration
}

type parameter struct {
	fallback string
	has      bool // fallback
}

type thingResource struct {
	logical    string
	properties map[string]expr
	override   map[string]Override
}

type certificateResource struct {
	logical    string
	properties map[string]expr
	override   Override // of the status
}

type policyResource struct {
	logical        string
	name, document expr // one of them
}

// Override says what happens to a property that is there already and different.
type Override string

const (
	DoNothing Override = "DO_NOTHING"
	Replace   Override = "REPLACE"
	Fail      Override = "FAIL"
	Merge     Override = "MERGE"
)

const (
	maxPolicies   = 10 // in a template, as many as a certificate can have
	maxParameters = 100
)

type compiler struct {
	*source
	t *Template
}

// Check reports why body is no template of a type; "" is FLEET_PROVISIONING.
func Check(body string, typ registry.TemplateType) error {
	_, err := Compile(body, typ)
	return err
}

// Compile reads a template. Its errors are errs.Invalid with an *Error, which
// has the place of the mistake.
func Compile(body string, typ registry.TemplateType) (*Template, error) {
	if typ == "" {
		typ = registry.FleetProvisioning
	}
	if n := utf8.RuneCountInString(body); n > MaxTemplate {
		return nil, (&source{}).fail(0, "", "a template has at most %d characters, this one has %d", MaxTemplate, n)
	}
	s, root, err := parse(body)
	if err != nil {
		return nil, err
	}
	c := &compiler{source: s, t: &Template{typ: typ, parameters: map[string]parameter{}, mappings: map[string]map[string]map[string]any{}}}
	sections := []string{"Parameters", "Resources"}
	if typ == registry.FleetProvisioning {
		sections = []string{"Parameters", "Mappings", "Resources", "DeviceConfiguration"}
	}
	if root.kind != '{' {
		return nil, c.fail(root.at, "", "a template is a JSON object, found %s", root.what())
	}
	if err := c.members(root, "a template of type "+string(typ), sections); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		name string
		read func(*node) error
	}{{"Parameters", c.parameters}, {"Mappings", c.mappings}, {"Resources", c.resources}, {"DeviceConfiguration", c.deviceConfiguration}} {
		n := root.get(step.name)
		if n == nil {
			if step.name == "Resources" {
				return nil, c.fail(root.at, "", "the template has no Resources")
			}
			continue
		}
		if n.kind != '{' {
			return nil, c.fail(n.at, "", "%s must be an object, found %s", step.name, n.what())
		}
		if err := step.read(n); err != nil {
			return nil, err
		}
	}
	return c.t, nil
}

// members refuses what n may not have.
func (c *compiler) members(n *node, what string, allowed []string) error {
	for _, k := range n.keys {
		if !slices.Contains(allowed, k.name) {
			return c.unknown(k, what, allowed)
		}
	}
	return nil
}

func (c *compiler) unknown(k key, what string, allowed []string) error {
	hint := "it may have " + strings.Join(allowed, ", ")
	if near, ok := suggest.Nearest(k.name, allowed); ok {
		hint = "did you mean " + near + "?"
	}
	return c.fail(k.at, hint, "%s has no %q", what, clip(k.name))
}

// known refuses a name that stands for nothing.
func (c *compiler) known(name string, at int) error {
	if _, ok := c.t.parameters[name]; ok || slices.Contains(certificateParameters, name) {
		return nil
	}
	names := slices.Clone(certificateParameters)
	for n := range c.t.parameters {
		names = append(names, n)
	}
	hint := "declare it in Parameters"
	if near, ok := suggest.Nearest(name, names); ok {
		hint = "did you mean " + near + "? If not, declare it in Parameters"
	}
	return c.fail(at, hint, "there is no parameter %q", clip(name))
}

func (c *compiler) parameters(n *node) error {
	if len(n.keys) > maxParameters {
		return c.fail(n.at, "", "a template has at most %d parameters", maxParameters)
	}
	for _, k := range n.keys {
		if strings.HasPrefix(k.name, reserved) && !slices.Contains(certificateParameters, k.name) {
			return c.fail(k.at, "there are "+strings.Join(certificateParameters, ", "), "%q is no parameter of a certificate", clip(k.name))
		}
		if k.name == "" || len(k.name) > 128 || strings.ContainsAny(k.name, "{}$") {
			return c.fail(k.at, "", "a parameter's name has 1 to 128 characters, none of them {, } or $")
		}
		if k.value.kind != '{' {
			return c.fail(k.value.at, `as in {"Type": "String"}`, "a parameter is an object, found %s", k.value.what())
		}
		if err := c.members(k.value, "a parameter", []string{"Type", "Default"}); err != nil {
			return err
		}
		typ := k.value.get("Type")
		if typ == nil {
			return c.fail(k.value.at, `as in {"Type": "String"}`, "parameter %q has no Type", k.name)
		}
		if typ.kind != 's' || typ.text != "String" {
			return c.fail(typ.at, "", "the Type of a parameter is String")
		}
		var p parameter
		if d := k.value.get("Default"); d != nil {
			if d.kind != 's' {
				return c.fail(d.at, "", "a Default must be a string, found %s", d.what())
			}
			if strings.HasPrefix(k.name, reserved) {
				return c.fail(d.at, "", "a parameter of the certificate has no Default")
			}
			p = parameter{d.text, true}
		}
		c.t.parameters[k.name] = p
	}
	return nil
}

func (c *compiler) mappings(n *node) error {
	for _, m := range n.keys {
		keys := map[string]map[string]any{}
		if m.value.kind != '{' {
			return c.fail(m.value.at, "", "a mapping is an object of objects, found %s", m.value.what())
		}
		for _, k := range m.value.keys {
			if k.value.kind != '{' {
				return c.fail(k.value.at, "", "a mapping is an object of objects, found %s", k.value.what())
			}
			inner := map[string]any{}
			for _, v := range k.value.keys {
				switch v.value.kind {
				case 's':
					inner[v.name] = v.value.text
				case '[':
					var values []any
					for _, i := range v.value.items {
						if i.kind != 's' {
							return c.fail(i.at, "", "a list in a mapping has strings, found %s", i.what())
						}
						values = append(values, i.text)
					}
					inner[v.name] = values
				default:
					return c.fail(v.value.at, "functions and parameters cannot be used in Mappings", "a value of a mapping is a string or a list of strings, found %s", v.value.what())
				}
			}
			keys[k.name] = inner
		}
		c.t.mappings[m.name] = keys
	}
	return nil
}

func (c *compiler) mappingNames() []string {
	var names []string
	for n := range c.t.mappings {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

const (
	typeThing       = "AWS::IoT::Thing"
	typeCertificate = "AWS::IoT::Certificate"
	typePolicy      = "AWS::IoT::Policy"
)

func (c *compiler) resources(n *node) error {
	for _, k := range n.keys {
		r := k.value
		if r.kind != '{' {
			return c.fail(r.at, "", "a resource is an object, found %s", r.what())
		}
		if err := c.members(r, "a resource", []string{"Type", "Properties", "OverrideSettings"}); err != nil {
			return err
		}
		typ, properties, override := r.get("Type"), r.get("Properties"), r.get("OverrideSettings")
		switch {
		case typ == nil:
			return c.fail(r.at, "", "resource %q has no Type", clip(k.name))
		case properties == nil:
			return c.fail(r.at, "", "resource %q has no Properties", clip(k.name))
		case properties.kind != '{':
			return c.fail(properties.at, "", "Properties must be an object, found %s", properties.what())
		case override != nil && override.kind != '{':
			return c.fail(override.at, "", "OverrideSettings must be an object, found %s", override.what())
		}
		var err error
		switch typ.text {
		case typeThing:
			err = c.thing(k, properties, override)
		case typeCertificate:
			err = c.certificate(k, properties, override)
		case typePolicy:
			err = c.policy(k, properties, override)
		default:
			hint := "there are " + strings.Join([]string{typeThing, typeCertificate, typePolicy}, ", ")
			if near, ok := suggest.Nearest(typ.text, []string{typeThing, typeCertificate, typePolicy}); ok {
				hint = "did you mean " + near + "?"
			}
			err = c.fail(typ.at, hint, "%q is no type of resource", clip(typ.text))
		}
		if err != nil {
			return err
		}
	}
	if c.t.certificate == nil {
		return c.fail(n.at, `as in {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}}`,
			"the template has no resource of type %s", typeCertificate)
	}
	return nil
}

// overrideNames are the properties of OverrideSettings as the guide's text has
// them; its examples have the others.
// Source: AWS IoT Core developer guide, "Provisioning templates".
var overrideNames = map[string]string{
	"ATTRIBUTE_PAYLOAD": "AttributePayload", "THING_TYPE_NAME": "ThingTypeName", "THING_GROUPS": "ThingGroups", "STATUS": "Status",
}

// overrides reads OverrideSettings; allowed has, for each property, what it may
// be.
func (c *compiler) overrides(n *node, what string, allowed map[string][]Override) (map[string]Override, error) {
	out := map[string]Override{}
	if n == nil {
		return out, nil
	}
	var names []string
	for name := range allowed {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, k := range n.keys {
		name := k.name
		if usual, ok := overrideNames[name]; ok {
			name = usual
		}
		values, ok := allowed[name]
		if !ok {
			return nil, c.unknown(k, "OverrideSettings of "+what, names)
		}
		if _, ok := out[name]; ok {
			return nil, c.fail(k.at, "", "%s is there twice", name)
		}
		o := Override(k.value.text)
		if k.value.kind != 's' || !slices.Contains(values, o) {
			var words []string
			for _, a := range values {
				words = append(words, string(a))
			}
			return nil, c.fail(k.value.at, "", "%s must be one of %s", name, strings.Join(words, ", "))
		}
		out[name] = o
	}
	return out, nil
}

func (c *compiler) thing(k key, properties, override *node) error {
	if c.t.thing != nil {
		return c.fail(k.at, "", "a template has one thing, %q is the second", clip(k.name))
	}
	if b := properties.get("BillingGroup"); b != nil {
		return c.fail(b.at, "leave it out", "there are no billing groups")
	}
	if err := c.members(properties, "a thing", []string{"ThingName", "AttributePayload", "ThingTypeName", "ThingGroups"}); err != nil {
		return err
	}
	if properties.get("ThingName") == nil {
		return c.fail(properties.at, "", "the thing has no ThingName")
	}
	t := &thingResource{logical: k.name, properties: map[string]expr{}}
	for _, p := range properties.keys {
		v := p.value
		want := byte('s')
		switch p.name {
		case "AttributePayload":
			want = '{'
		case "ThingGroups":
			want = '['
		}
		if v.kind != want && !function(v) || want == '{' && function(v) {
			return c.fail(v.at, "", "%s must be %s, found %s", p.name, map[byte]string{'s': "a string", '{': "an object of strings", '[': "a list of strings"}[want], v.what())
		}
		inner := v.items
		if want == '{' {
			for _, a := range v.keys {
				inner = append(inner, a.value)
			}
		}
		for _, i := range inner {
			if !function(v) && i.kind != 's' && !function(i) {
				return c.fail(i.at, "", "%s has strings, found %s", p.name, i.what())
			}
		}
		e, err := c.expr(v)
		if err != nil {
			return err
		}
		t.properties[p.name] = e
	}
	usual := []Override{DoNothing, Replace, Fail}
	var err error
	t.override, err = c.overrides(override, "a thing", map[string][]Override{
		"AttributePayload": append(slices.Clone(usual), Merge), "ThingTypeName": usual, "ThingGroups": append(slices.Clone(usual), Merge),
	})
	c.t.thing = t
	return err
}

func (c *compiler) certificate(k key, properties, override *node) error {
	if c.t.certificate != nil {
		return c.fail(k.at, "", "a template has one certificate, %q is the second", clip(k.name))
	}
	if err := c.members(properties, "a certificate", []string{"CertificateId", "CertificateSigningRequest", "CertificatePem", "CACertificatePem", "Status"}); err != nil {
		return err
	}
	r := &certificateResource{logical: k.name, properties: map[string]expr{}}
	var ways []string
	for _, p := range properties.keys {
		if p.value.kind != 's' && !function(p.value) {
			return c.fail(p.value.at, "", "%s must be a string, found %s", p.name, p.value.what())
		}
		switch p.name {
		case "Status":
			if p.value.kind == 's' && statusOf(p.value.text) == "" {
				return c.fail(p.value.at, "", "the Status of a certificate is ACTIVE or INACTIVE")
			}
		case "CACertificatePem":
		default:
			ways = append(ways, p.name)
		}
		e, err := c.expr(p.value)
		if err != nil {
			return err
		}
		r.properties[p.name] = e
	}
	switch {
	case len(ways) == 0:
		return c.fail(properties.at, `as in {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}}`, "the certificate has no CertificateId")
	case len(ways) > 1:
		return c.fail(properties.at, "", "a certificate is named in one way, not by %s", strings.Join(ways, " and "))
	case c.t.typ != Bulk && ways[0] != "CertificateId":
		return c.fail(properties.at, `as in {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}}`, "in a template of type %s a certificate is named by its CertificateId", c.t.typ)
	case properties.get("CACertificatePem") != nil && ways[0] != "CertificatePem":
		return c.fail(properties.get("CACertificatePem").at, "", "CACertificatePem goes with CertificatePem")
	}
	o, err := c.overrides(override, "a certificate", map[string][]Override{"Status": {DoNothing, Replace, Fail}})
	r.override = o["Status"]
	c.t.certificate = r
	return err
}

// statusOf reads a status; "" is none. The guide writes it in both cases.
func statusOf(s string) registry.Status {
	switch strings.ToUpper(s) {
	case string(registry.Active):
		return registry.Active
	case string(registry.Inactive):
		return registry.Inactive
	}
	return ""
}

func (c *compiler) policy(k key, properties, override *node) error {
	if override != nil {
		return c.fail(override.at, "leave it out", "a policy has no OverrideSettings")
	}
	if err := c.members(properties, "a policy", []string{"PolicyName", "PolicyDocument"}); err != nil {
		return err
	}
	name, document := properties.get("PolicyName"), properties.get("PolicyDocument")
	if (name == nil) == (document == nil) {
		return c.fail(properties.at, "", "a policy has a PolicyName or a PolicyDocument, not both and not none")
	}
	if len(c.t.policies) == maxPolicies {
		return c.fail(k.at, "", "a template has at most %d policies", maxPolicies)
	}
	r := policyResource{logical: k.name}
	var err error
	if name != nil {
		if name.kind != 's' && !function(name) {
			return c.fail(name.at, "", "PolicyName must be a string, found %s", name.what())
		}
		r.name, err = c.expr(name)
	} else {
		if document.kind != 's' && document.kind != '{' {
			return c.fail(document.at, "", "PolicyDocument must be an object, or a string with one, found %s", document.what())
		}
		if document.kind == 's' && !json.Valid([]byte(document.text)) {
			return c.fail(document.at, "", "PolicyDocument is a string that is not JSON")
		}
		r.document, err = c.expr(document)
	}
	c.t.policies = append(c.t.policies, r)
	return err
}

func (c *compiler) deviceConfiguration(n *node) error {
	for _, k := range n.keys {
		v := k.value
		if (v.kind == '{' || v.kind == '[') && !function(v) || v.kind == '0' {
			return c.fail(v.at, "", "DeviceConfiguration has strings, found %s", v.what())
		}
		e, err := c.expr(v)
		if err != nil {
			return err
		}
		c.t.configuration = append(c.t.configuration, field{k.name, e})
	}
	return nil
}
