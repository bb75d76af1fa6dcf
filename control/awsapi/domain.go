package awsapi

import (
	"context"

	"github.com/weir-iot/weir/registry"
)

func domainOperations() []operation {
	const domain = "domainconfiguration/{domainConfigurationName}"
	const remark = "service type DATA; server certificates are files of the certificates folder"
	return []operation{
		op(IoT, "CreateDomainConfiguration", domain, (*API).createDomain, partly(remark)),
		op(IoT, "DescribeDomainConfiguration", domain, (*API).describeDomain),
		op(IoT, "UpdateDomainConfiguration", domain, (*API).updateDomain, partly(remark)),
		op(IoT, "DeleteDomainConfiguration", domain, (*API).deleteDomain),
		op(IoT, "ListDomainConfigurations", "*", (*API).listDomains),
	}
}

type authorizerConfig struct {
	DefaultAuthorizerName   string `json:"defaultAuthorizerName,omitempty" is:"1..128 ~word"`
	AllowAuthorizerOverride *bool  `json:"allowAuthorizerOverride,omitempty"`
}

type tlsConfig struct {
	SecurityPolicy string `json:"securityPolicy,omitempty" is:"..128"`
}

type serverCertificateConfig struct {
	EnableOCSPCheck            bool   `json:"enableOCSPCheck" refuse:"server certificates are not stapled here"`
	OCSPLambdaARN              string `json:"ocspLambdaArn" refuse:"server certificates are not stapled here"`
	OCSPAuthorizedResponderARN string `json:"ocspAuthorizedResponderArn" refuse:"server certificates are not stapled here"`
}

type clientCertificateConfig struct {
	ClientCertificateCallbackARN string `json:"clientCertificateCallbackArn" refuse:"client certificates are judged by the registry alone here"`
}

type createDomainRequest struct {
	DomainConfigurationName  string                   `json:"domainConfigurationName" in:"uri" is:"required 1..128 ~domain"`
	DomainName               string                   `json:"domainName" is:"1..253"`
	ServerCertificateARNs    []string                 `json:"serverCertificateArns" is:"..1" each:"1..2048 ~arn"`
	ValidationCertificateARN string                   `json:"validationCertificateArn" refuse:"the owner of this machine owns its names"`
	AuthorizerConfig         *authorizerConfig        `json:"authorizerConfig"`
	ServiceType              string                   `json:"serviceType" is:"=DATA|CREDENTIAL_PROVIDER|JOBS"`
	Tags                     []tag                    `json:"tags" is:"..50"`
	TLSConfig                *tlsConfig               `json:"tlsConfig"`
	ServerCertificateConfig  *serverCertificateConfig `json:"serverCertificateConfig"`
	AuthenticationType       string                   `json:"authenticationType" is:"=CUSTOM_AUTH_X509|CUSTOM_AUTH|AWS_X509|AWS_SIGV4|DEFAULT"`
	ApplicationProtocol      string                   `json:"applicationProtocol" is:"=SECURE_MQTT|MQTT_WSS|HTTPS|DEFAULT"`
	ClientCertificateConfig  *clientCertificateConfig `json:"clientCertificateConfig"`
}

type domainName struct {
	DomainConfigurationName string `json:"domainConfigurationName"`
	DomainConfigurationARN  string `json:"domainConfigurationArn"`
	ServiceType             string `json:"serviceType,omitempty"` // in lists
}

func (a *API) domainName(d *registry.DomainConfiguration, err error) (*domainName, error) {
	if err != nil {
		return nil, err
	}
	return &domainName{d.Name, a.o.Registry.DomainARN(d.Name, d.ID), ""}, nil
}

func (a *API) createDomain(ctx context.Context, q *createDomainRequest) (*domainName, error) {
	if q.ServiceType != "" && q.ServiceType != "DATA" {
		return nil, notSupported("serviceType", "domains of type "+q.ServiceType+" are not served here")
	}
	if q.DomainName == "" {
		return nil, notSupported("domainName", "a domain without a name of its own would be nobody's")
	}
	tags, err := tagsOf(q.Tags)
	if err != nil {
		return nil, err
	}
	in := registry.DomainConfiguration{Name: q.DomainConfigurationName, DomainName: q.DomainName, ServiceType: "DATA", Enabled: true,
		Certificates: q.ServerCertificateARNs, Authentication: q.AuthenticationType, Protocol: q.ApplicationProtocol, Tags: tags}
	if c := q.AuthorizerConfig; c != nil {
		in.HasAuthorizer, in.Authorizer = true, c.DefaultAuthorizerName
		in.AllowOverride = c.AllowAuthorizerOverride != nil && *c.AllowAuthorizerOverride
	}
	if c := q.TLSConfig; c != nil {
		in.SecurityPolicy = c.SecurityPolicy
	}
	return a.domainName(a.o.Registry.CreateDomainConfiguration(ctx, in))
}

type domainRequest struct {
	DomainConfigurationName string `json:"domainConfigurationName" in:"uri" is:"required 1..128 ~reserved"`
}

type describeDomainResponse struct {
	DomainConfigurationName   string              `json:"domainConfigurationName"`
	DomainConfigurationARN    string              `json:"domainConfigurationArn"`
	DomainName                string              `json:"domainName,omitempty"`
	ServerCertificates        []serverCertificate `json:"serverCertificates"`
	AuthorizerConfig          *authorizerConfig   `json:"authorizerConfig,omitempty"`
	DomainConfigurationStatus string              `json:"domainConfigurationStatus"`
	ServiceType               string              `json:"serviceType"`
	DomainType                string              `json:"domainType"`
	LastStatusChangeDate      Time                `json:"lastStatusChangeDate"`
	TLSConfig                 *tlsConfig          `json:"tlsConfig,omitempty"`
	AuthenticationType        string              `json:"authenticationType,omitempty"`
	ApplicationProtocol       string              `json:"applicationProtocol,omitempty"`
}

type serverCertificate struct {
	ServerCertificateARN string `json:"serverCertificateArn"`
}

func (a *API) describeDomain(_ context.Context, q *domainRequest) (*describeDomainResponse, error) {
	d, err := a.o.Registry.DomainConfiguration(q.DomainConfigurationName)
	if err != nil {
		return nil, err
	}
	out := &describeDomainResponse{
		DomainConfigurationName: d.Name, DomainConfigurationARN: a.o.Registry.DomainARN(d.Name, d.ID), DomainName: d.DomainName,
		ServerCertificates: []serverCertificate{}, DomainConfigurationStatus: "DISABLED", ServiceType: d.ServiceType, DomainType: "CUSTOMER_MANAGED",
		LastStatusChangeDate: Time{d.StatusChangedAt}, AuthenticationType: d.Authentication, ApplicationProtocol: d.Protocol,
	}
	if d.Enabled {
		out.DomainConfigurationStatus = "ENABLED"
	}
	for _, arn := range d.Certificates {
		out.ServerCertificates = append(out.ServerCertificates, serverCertificate{arn})
	}
	if d.HasAuthorizer {
		out.AuthorizerConfig = &authorizerConfig{d.Authorizer, &d.AllowOverride}
	}
	if d.SecurityPolicy != "" {
		out.TLSConfig = &tlsConfig{d.SecurityPolicy}
	}
	return out, nil
}

type updateDomainRequest struct {
	DomainConfigurationName   string                   `json:"domainConfigurationName" in:"uri" is:"required 1..128 ~reserved"`
	AuthorizerConfig          *authorizerConfig        `json:"authorizerConfig"`
	DomainConfigurationStatus string                   `json:"domainConfigurationStatus" is:"=ENABLED|DISABLED"`
	RemoveAuthorizerConfig    bool                     `json:"removeAuthorizerConfig"`
	TLSConfig                 *tlsConfig               `json:"tlsConfig"`
	ServerCertificateConfig   *serverCertificateConfig `json:"serverCertificateConfig"`
	AuthenticationType        string                   `json:"authenticationType" is:"=CUSTOM_AUTH_X509|CUSTOM_AUTH|AWS_X509|AWS_SIGV4|DEFAULT"`
	ApplicationProtocol       string                   `json:"applicationProtocol" is:"=SECURE_MQTT|MQTT_WSS|HTTPS|DEFAULT"`
	ClientCertificateConfig   *clientCertificateConfig `json:"clientCertificateConfig"`
}

func (a *API) updateDomain(ctx context.Context, q *updateDomainRequest) (*domainName, error) {
	in := registry.UpdateDomain{Name: q.DomainConfigurationName, RemoveAuthorizer: q.RemoveAuthorizerConfig,
		Authentication: q.AuthenticationType, Protocol: q.ApplicationProtocol}
	if q.DomainConfigurationStatus != "" {
		on := q.DomainConfigurationStatus == "ENABLED"
		in.Enabled = &on
	}
	if c := q.AuthorizerConfig; c != nil {
		in.Authorizer, in.AllowOverride = &c.DefaultAuthorizerName, c.AllowAuthorizerOverride
	}
	if c := q.TLSConfig; c != nil {
		in.SecurityPolicy = &c.SecurityPolicy
	}
	return a.domainName(a.o.Registry.UpdateDomainConfiguration(ctx, in))
}

func (a *API) deleteDomain(ctx context.Context, q *domainRequest) (*none, error) {
	return &none{}, a.o.Registry.DeleteDomainConfiguration(ctx, q.DomainConfigurationName)
}

type listDomainsRequest struct {
	Marker      string `json:"marker" in:"query" is:"..1024 ~base64"`
	PageSize    *int64 `json:"pageSize" in:"query" is:"1..250"`
	ServiceType string `json:"serviceType" in:"query" is:"=DATA|CREDENTIAL_PROVIDER|JOBS"`
}

type listDomainsResponse struct {
	DomainConfigurations []*domainName `json:"domainConfigurations"`
	NextMarker           string        `json:"nextMarker,omitempty"`
}

func (a *API) listDomains(_ context.Context, q *listDomainsRequest) (*listDomainsResponse, error) {
	list, next, err := a.o.Registry.DomainConfigurations(q.ServiceType, pageOf(q.PageSize, q.Marker))
	if err != nil {
		return nil, err
	}
	out := &listDomainsResponse{DomainConfigurations: make([]*domainName, 0, len(list)), NextMarker: next}
	for _, d := range list {
		out.DomainConfigurations = append(out.DomainConfigurations, &domainName{d.Name, a.o.Registry.DomainARN(d.Name, d.ID), d.ServiceType})
	}
	return out, nil
}
