package registry

import "strings"

// Resource types of ARNs, as AWS names them.
const (
	arnThing       = "thing"
	arnType        = "thingtype"
	arnGroup       = "thinggroup"
	arnCertificate = "cert"
	arnCA          = "cacert"
	arnPolicy      = "policy"
	arnAuthorizer  = "authorizer"
	arnTemplate    = "provisioningtemplate"
	arnDomain      = "domainconfiguration"
	arnRoleAlias   = "rolealias"
	arnRule        = "rule"
	arnAccessKey   = "accesskey"
)

func (r *Registry) arn(kind, name string) string {
	return r.arnPrefix + kind + "/" + name
}

// ThingARN returns the ARN of a thing, whether it exists or not; the others
// likewise.
func (r *Registry) ThingARN(name string) string      { return r.arn(arnThing, name) }
func (r *Registry) TypeARN(name string) string       { return r.arn(arnType, name) }
func (r *Registry) GroupARN(name string) string      { return r.arn(arnGroup, name) }
func (r *Registry) CertificateARN(id string) string  { return r.arn(arnCertificate, id) }
func (r *Registry) CAARN(id string) string           { return r.arn(arnCA, id) }
func (r *Registry) PolicyARN(name string) string     { return r.arn(arnPolicy, name) }
func (r *Registry) AuthorizerARN(name string) string { return r.arn(arnAuthorizer, name) }
func (r *Registry) TemplateARN(name string) string   { return r.arn(arnTemplate, name) }
func (r *Registry) RoleAliasARN(name string) string  { return r.arn(arnRoleAlias, name) }
func (r *Registry) RuleARN(name string) string       { return r.arn(arnRule, name) }
func (r *Registry) DomainARN(name, id string) string { return r.arn(arnDomain, name+"/"+id) }
func (r *Registry) AccessKeyARN(id string) string    { return r.arn(arnAccessKey, id) }

// parseARN splits an ARN of this account and region.
func (r *Registry) parseARN(s string) (kind, name string, err error) {
	if len(s) > 2048 {
		return "", "", invalid("an ARN has at most 2048 characters, this one has %d", len(s))
	}
	rest, ok := strings.CutPrefix(s, r.arnPrefix)
	if !ok {
		return "", "", invalid("%q is not an ARN of this account and region: those begin with %s", clip(s), r.arnPrefix)
	}
	kind, name, ok = strings.Cut(rest, "/")
	if !ok || name == "" {
		return "", "", invalid("%q does not name a resource", clip(s))
	}
	return kind, name, nil
}

// CertificateIDOf returns the certificate id that a principal names: an ARN of
// a certificate, or the id itself.
// Error: errs.Invalid.
func (r *Registry) CertificateIDOf(principal string) (string, error) {
	id, err := r.certificateID(principal)
	return id, wrap("registry.CertificateIDOf", err)
}

func (r *Registry) certificateID(principal string) (string, error) {
	id := principal
	if strings.HasPrefix(principal, "arn:") {
		kind, name, err := r.parseARN(principal)
		if err != nil {
			return "", err
		}
		if kind != arnCertificate {
			return "", invalid("%q is not the ARN of a certificate; no other principals are known", clip(principal))
		}
		id = name
	}
	if err := certificateIDRule.check(id); err != nil {
		return "", err
	}
	return strings.ToLower(id), nil
}

// ARNPrefix returns what every ARN of this account and region begins with.
func (r *Registry) ARNPrefix() string { return r.arnPrefix }
