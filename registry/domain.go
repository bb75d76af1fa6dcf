package registry

import (
	"context"
	"slices"
	"strings"
	"time"
)

// DomainConfiguration is a server name devices connect to, and how.
type DomainConfiguration struct {
	Name            string            `json:"domainConfigurationName"`
	ID              string            `json:"id"` // the end of its ARN
	DomainName      string            `json:"domainName,omitempty"`
	ServiceType     string            `json:"serviceType"` // DATA, CREDENTIAL_PROVIDER, JOBS
	Enabled         bool              `json:"enabled"`
	Certificates    []string          `json:"serverCertificateArns,omitempty"` // ARNs
	Validation      string            `json:"validationCertificateArn,omitempty"`
	Authorizer      string            `json:"defaultAuthorizerName,omitempty"`
	AllowOverride   bool              `json:"allowAuthorizerOverride,omitempty"`
	HasAuthorizer   bool              `json:"hasAuthorizerConfig,omitempty"`
	SecurityPolicy  string            `json:"securityPolicy,omitempty"`
	OCSP            bool              `json:"enableOCSPCheck,omitempty"`
	Authentication  string            `json:"authenticationType,omitempty"`  // CUSTOM_AUTH_X509, CUSTOM_AUTH, AWS_X509, AWS_SIGV4, DEFAULT
	Protocol        string            `json:"applicationProtocol,omitempty"` // SECURE_MQTT, MQTT_WSS, HTTPS, DEFAULT
	ClientCallback  string            `json:"clientCertificateCallbackArn,omitempty"`
	StatusChangedAt time.Time         `json:"lastStatusChangeDate"`
	Tags            map[string]string `json:"tags,omitempty"`
}

// UpdateDomain says what to change of a domain configuration.
type UpdateDomain struct {
	Name                     string
	Enabled                  *bool // nil: as it is; so below
	Authorizer               *string
	AllowOverride            *bool
	RemoveAuthorizer         bool
	SecurityPolicy           *string
	OCSP                     *bool
	Authentication, Protocol string // "": as it is
	ClientCallback           *string
}

// SecurityPolicies are the TLS policies a domain configuration may name.
var SecurityPolicies = []string{
	"IoTSecurityPolicy_TLS13_1_3_2022_10", "IoTSecurityPolicy_TLS13_1_2_2022_10", "IoTSecurityPolicy_TLS12_1_2_2022_10",
	"IoTSecurityPolicy_TLS12_1_0_2016_01", "IoTSecurityPolicy_TLS12_1_0_2015_01",
}

func (tx *Tx) checkDomain(d *DomainConfiguration) error {
	if d.DomainName != "" && !validDomain(d.DomainName) {
		return invalid("%q is no domain name", clip(d.DomainName))
	}
	if !slices.Contains([]string{"DATA", "CREDENTIAL_PROVIDER", "JOBS"}, d.ServiceType) {
		return invalid("%q is no service type: DATA, CREDENTIAL_PROVIDER or JOBS", clip(d.ServiceType))
	}
	if len(d.Certificates) > 1 {
		return invalid("a domain configuration has at most one server certificate")
	}
	for _, arn := range append(slices.Clone(d.Certificates), d.Validation) {
		if arn != "" && (len(arn) > 2048 || !strings.HasPrefix(arn, "arn:aws")) {
			return invalid("%q is no ARN of a certificate", clip(arn))
		}
	}
	if d.SecurityPolicy != "" && !slices.Contains(SecurityPolicies, d.SecurityPolicy) {
		return invalid("%q is no security policy", clip(d.SecurityPolicy))
	}
	if !slices.Contains([]string{"", "CUSTOM_AUTH_X509", "CUSTOM_AUTH", "AWS_X509", "AWS_SIGV4", "DEFAULT"}, d.Authentication) {
		return invalid("%q is no authentication type", clip(d.Authentication))
	}
	if !slices.Contains([]string{"", "SECURE_MQTT", "MQTT_WSS", "HTTPS", "DEFAULT"}, d.Protocol) {
		return invalid("%q is no application protocol", clip(d.Protocol))
	}
	if len(d.ClientCallback) > 2048 {
		return invalid("the ARN of a function has at most 2048 characters")
	}
	if d.Authorizer != "" {
		if _, err := tx.authorizer(d.Authorizer); err != nil {
			return err
		}
		tx.lean(KindAuthorizer, d.Authorizer, d.Name)
	}
	return nil
}

func validDomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for _, label := range strings.Split(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if !strings.ContainsRune(alnum+"-", rune(label[i])) {
				return false
			}
		}
	}
	return strings.Contains(s, ".")
}

// CreateDomainConfiguration creates a domain configuration from d: names,
// settings, tags.
// Errors: Exists, LimitExceeded, InvalidRequest, NotFound (authorizer).
func (r *Registry) CreateDomainConfiguration(ctx context.Context, in DomainConfiguration) (*DomainConfiguration, error) {
	return change(ctx, r, "CreateDomainConfiguration", func(tx *Tx) (*DomainConfiguration, error) {
		d := in
		if err := domainConfigName.check(d.Name); err != nil {
			return nil, err
		}
		if strings.Contains(d.Name, ":") {
			return nil, invalid(`domain configuration name %q: must match [\w.-]+`, d.Name)
		}
		if d.ServiceType == "" {
			d.ServiceType = "DATA"
		}
		d.ID, d.Enabled, d.StatusChangedAt = randomHex(3)[:5], true, tx.now
		if err := tx.checkDomain(&d); err != nil {
			return nil, err
		}
		if err := checkTags(d.Tags, r.limits.Tags); err != nil {
			return nil, err
		}
		if old := get(tx, r.domains, d.Name); old != nil {
			return nil, &Error{Code: Exists, Message: "domain configuration " + d.Name + " exists already", ID: d.Name, ARN: r.DomainARN(old.Name, old.ID)}
		}
		if err := tx.count(KindDomain, len(r.domains.rows), r.limits.DomainConfigs, "domain configurations"); err != nil {
			return nil, err
		}
		put(tx, r.domains, d.Name, &d)
		return &d, nil
	})
}

// DomainConfiguration returns a domain configuration. Error: errs.NotFound.
func (r *Registry) DomainConfiguration(name string) (*DomainConfiguration, error) {
	return read(r, "DomainConfiguration", func(tx *Tx) (*DomainConfiguration, error) { return tx.domain(name) })
}

func (tx *Tx) domain(name string) (*DomainConfiguration, error) {
	if err := domainConfigName.check(name); err != nil {
		return nil, err
	}
	if d := get(tx, tx.r.domains, name); d != nil {
		return d, nil
	}
	return nil, fail(NotFound, "there is no domain configuration %s", name)
}

// DomainConfigurations lists domain configurations by name; serviceType "": of
// any.
func (r *Registry) DomainConfigurations(serviceType string, p Page) ([]*DomainConfiguration, string, error) {
	return readPage(r, "DomainConfigurations", func(*Tx) ([]*DomainConfiguration, string, error) {
		return pageOf(&r.domains.order, p, "domains\x00"+serviceType, false, func(_ string, d *DomainConfiguration) (*DomainConfiguration, bool) {
			return d, serviceType == "" || d.ServiceType == serviceType
		})
	})
}

// UpdateDomainConfiguration changes a domain configuration and returns it.
func (r *Registry) UpdateDomainConfiguration(ctx context.Context, in UpdateDomain) (*DomainConfiguration, error) {
	return change(ctx, r, "UpdateDomainConfiguration", func(tx *Tx) (*DomainConfiguration, error) {
		old, err := tx.domain(in.Name)
		if err != nil {
			return nil, err
		}
		d := *old
		if in.Enabled != nil && *in.Enabled != d.Enabled {
			d.Enabled, d.StatusChangedAt = *in.Enabled, tx.now
		}
		if in.RemoveAuthorizer {
			if in.Authorizer != nil || in.AllowOverride != nil {
				return nil, invalid("an authorizer to set and one to remove: say one of them")
			}
			d.Authorizer, d.AllowOverride, d.HasAuthorizer = "", false, false
		}
		set := func(to *string, from *string) {
			if from != nil {
				*to = *from
			}
		}
		set(&d.Authorizer, in.Authorizer)
		set(&d.SecurityPolicy, in.SecurityPolicy)
		set(&d.ClientCallback, in.ClientCallback)
		if in.AllowOverride != nil {
			d.AllowOverride = *in.AllowOverride
		}
		d.HasAuthorizer = d.HasAuthorizer || in.Authorizer != nil || in.AllowOverride != nil
		if in.OCSP != nil {
			d.OCSP = *in.OCSP
		}
		if in.Authentication != "" {
			d.Authentication = in.Authentication
		}
		if in.Protocol != "" {
			d.Protocol = in.Protocol
		}
		if err := tx.checkDomain(&d); err != nil {
			return nil, err
		}
		put(tx, r.domains, d.Name, &d)
		return &d, nil
	})
}

// DeleteDomainConfiguration deletes a domain configuration that is disabled.
// Errors: NotFound, InvalidRequest.
func (r *Registry) DeleteDomainConfiguration(ctx context.Context, name string) error {
	return r.Change(ctx, "registry.DeleteDomainConfiguration", func(tx *Tx) error {
		d, err := tx.domain(name)
		if err != nil {
			return err
		}
		if d.Enabled {
			return invalid("domain configuration %s is ENABLED: disable it before deleting it", name)
		}
		drop(tx, r.domains, name)
		return nil
	})
}
