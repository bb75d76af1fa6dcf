package awsapi

import "context"

// Provisioner carries out provisioning templates. Errors carry a kind.
type Provisioner interface {
	RegisterThing(ctx context.Context, body string, parameters map[string]string) (*Provisioned, error)
}

// Provisioned is what a template has made.
type Provisioned struct {
	CertificatePEM string
	ARNs           map[string]string // by the resources' names in the template
}

type createProvisioningClaimResponse struct {
	CertificateID  string       `json:"certificateId"`
	CertificatePEM string       `json:"certificatePem"`
	KeyPair        claimKeyPair `json:"keyPair"`
	Expiration     Time         `json:"expiration"`
}

type claimKeyPair struct {
	PublicKey  string
	PrivateKey string
}

func (a *API) createProvisioningClaim(ctx context.Context, q *templateRequest) (*createProvisioningClaimResponse, error) {
	c, keys, err := a.o.Registry.CreateProvisioningClaim(ctx, q.TemplateName)
	if err != nil {
		return nil, err
	}
	return &createProvisioningClaimResponse{c.ID, c.PEM(), claimKeyPair{keys.Public, keys.Private}, Time{c.Expires}}, nil
}

type registerThingRequest struct {
	TemplateBody string            `json:"templateBody" is:"required ..10240"`
	Parameters   map[string]string `json:"parameters"`
}

type registerThingResponse struct {
	CertificatePEM string            `json:"certificatePem"`
	ResourceARNs   map[string]string `json:"resourceArns"`
}

func (a *API) registerThing(ctx context.Context, q *registerThingRequest) (*registerThingResponse, error) {
	made, err := a.o.Provisioner.RegisterThing(ctx, q.TemplateBody, q.Parameters)
	if err != nil {
		return nil, err
	}
	return &registerThingResponse{made.CertificatePEM, made.ARNs}, nil
}
