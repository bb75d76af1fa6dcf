package awsapi

import (
	"context"

	"github.com/weir-iot/weir/registry"
)

func certificateOperations() []operation {
	const cert, ca = "cert/{certificateId}", "cacert/{certificateId}"
	return []operation{
		op(IoT, "CreateKeysAndCertificate", "*", (*API).createKeysAndCertificate),
		op(IoT, "CreateCertificateFromCsr", "*", (*API).createCertificateFromCSR),
		op(IoT, "RegisterCertificate", "*", (*API).registerCertificate),
		op(IoT, "RegisterCertificateWithoutCA", "*", (*API).registerCertificateWithoutCA),
		op(IoT, "DescribeCertificate", cert, (*API).describeCertificate),
		op(IoT, "ListCertificates", "*", (*API).listCertificates),
		op(IoT, "ListCertificatesByCA", "cacert/{caCertificateId}", (*API).listCertificatesByCA),
		op(IoT, "UpdateCertificate", cert, (*API).updateCertificate),
		op(IoT, "DeleteCertificate", cert, (*API).deleteCertificate),
		op(IoT, "RegisterCACertificate", "*", (*API).registerCACertificate),
		op(IoT, "DescribeCACertificate", ca, (*API).describeCACertificate),
		op(IoT, "ListCACertificates", "*", (*API).listCACertificates),
		op(IoT, "UpdateCACertificate", ca, (*API).updateCACertificate),
		op(IoT, "DeleteCACertificate", ca, (*API).deleteCACertificate),
		op(IoT, "GetRegistrationCode", "*", (*API).getRegistrationCode),
		op(IoT, "DeleteRegistrationCode", "*", (*API).deleteRegistrationCode),
	}
}

type createKeysAndCertificateRequest struct {
	SetAsActive bool `json:"setAsActive" in:"query"`
}

type createCertificateResponse struct {
	CertificateARN string            `json:"certificateArn"`
	CertificateID  string            `json:"certificateId"`
	CertificatePEM string            `json:"certificatePem,omitempty"`
	KeyPair        *registry.KeyPair `json:"keyPair,omitempty"`
}

func activeIf(yes bool) registry.Status {
	if yes {
		return registry.Active
	}
	return registry.Inactive
}

func (a *API) createKeysAndCertificate(ctx context.Context, q *createKeysAndCertificateRequest) (*createCertificateResponse, error) {
	c, keys, err := a.o.Registry.CreateKeysAndCertificate(ctx, registry.CreateKeys{Status: activeIf(q.SetAsActive)})
	if err != nil {
		return nil, err
	}
	return &createCertificateResponse{a.o.Registry.CertificateARN(c.ID), c.ID, c.PEM(), keys}, nil
}

type createCertificateFromCSRRequest struct {
	CertificateSigningRequest string `json:"certificateSigningRequest" is:"required 1..4096"`
	SetAsActive               bool   `json:"setAsActive" in:"query"`
}

func (a *API) createCertificateFromCSR(ctx context.Context, q *createCertificateFromCSRRequest) (*createCertificateResponse, error) {
	c, err := a.o.Registry.CreateCertificateFromCSR(ctx, q.CertificateSigningRequest, activeIf(q.SetAsActive), nil)
	if err != nil {
		return nil, err
	}
	return &createCertificateResponse{a.o.Registry.CertificateARN(c.ID), c.ID, c.PEM(), nil}, nil
}

type registerCertificateRequest struct {
	CertificatePEM   string `json:"certificatePem" is:"required 1..65536"`
	CACertificatePEM string `json:"caCertificatePem" is:"1..65536"`
	SetAsActive      bool   `json:"setAsActive" in:"query"`
	Status           string `json:"status" is:"=ACTIVE|INACTIVE|REVOKED|PENDING_TRANSFER|REGISTER_INACTIVE|PENDING_ACTIVATION"`
}

func (a *API) registerCertificate(ctx context.Context, q *registerCertificateRequest) (*createCertificateResponse, error) {
	in := registry.RegisterCertificate{PEM: q.CertificatePEM, CAPEM: q.CACertificatePEM, Status: registry.Status(q.Status)}
	if in.Status == "" {
		in.Status = activeIf(q.SetAsActive)
	} else if q.SetAsActive && in.Status != registry.Active {
		return nil, invalid("setAsActive and status say different things")
	}
	return a.registered(a.o.Registry.RegisterCertificate(ctx, in))
}

func (a *API) registered(c *registry.Certificate, err error) (*createCertificateResponse, error) {
	if err != nil {
		return nil, err
	}
	return &createCertificateResponse{CertificateARN: a.o.Registry.CertificateARN(c.ID), CertificateID: c.ID}, nil
}

type registerCertificateWithoutCARequest struct {
	CertificatePEM string `json:"certificatePem" is:"required 1..65536"`
	Status         string `json:"status" is:"=ACTIVE|INACTIVE|REVOKED|PENDING_TRANSFER|REGISTER_INACTIVE|PENDING_ACTIVATION"`
}

func (a *API) registerCertificateWithoutCA(ctx context.Context, q *registerCertificateWithoutCARequest) (*createCertificateResponse, error) {
	return a.registered(a.o.Registry.RegisterCertificate(ctx, registry.RegisterCertificate{PEM: q.CertificatePEM, WithoutCA: true, Status: registry.Status(q.Status)}))
}

type certificateRequest struct {
	CertificateID string `json:"certificateId" in:"uri" is:"required 64..64 ~hex"`
}

type certificateDescription struct {
	CertificateARN         string   `json:"certificateArn"`
	CertificateID          string   `json:"certificateId"`
	CACertificateID        string   `json:"caCertificateId,omitempty"`
	Status                 string   `json:"status"`
	CertificatePEM         string   `json:"certificatePem"`
	OwnedBy                string   `json:"ownedBy"`
	CreationDate           Time     `json:"creationDate"`
	LastModifiedDate       Time     `json:"lastModifiedDate"`
	CustomerVersion        int      `json:"customerVersion"`
	GenerationID           string   `json:"generationId"`
	Validity               validity `json:"validity"`
	CertificateMode        string   `json:"certificateMode"`
	AutoRegistrationStatus string   `json:"autoRegistrationStatus,omitempty"` // of a CA
}

type validity struct {
	NotBefore Time `json:"notBefore"`
	NotAfter  Time `json:"notAfter"`
}

type describeCertificateResponse struct {
	CertificateDescription certificateDescription `json:"certificateDescription"`
}

func (a *API) describeCertificate(_ context.Context, q *certificateRequest) (*describeCertificateResponse, error) {
	c, err := a.o.Registry.Certificate(q.CertificateID)
	if err != nil {
		return nil, err
	}
	return &describeCertificateResponse{certificateDescription{
		CertificateARN: a.o.Registry.CertificateARN(c.ID), CertificateID: c.ID, CACertificateID: c.CAID, Status: string(c.Status), CertificatePEM: c.PEM(),
		OwnedBy: a.o.AccountID, CreationDate: Time{c.CreatedAt}, LastModifiedDate: Time{c.ModifiedAt}, CustomerVersion: c.Version,
		GenerationID: c.Generation, Validity: validity{Time{c.NotBefore}, Time{c.NotAfter}}, CertificateMode: string(c.Mode),
	}}, nil
}

type listCertificatesRequest struct {
	PageSize       *int64 `json:"pageSize" in:"query" is:"1..250"`
	Marker         string `json:"marker" in:"query" is:"..1024 ~base64"`
	AscendingOrder bool   `json:"isAscendingOrder" in:"query"`
}

type listCertificatesResponse struct {
	Certificates []certificate `json:"certificates"`
	NextMarker   string        `json:"nextMarker,omitempty"`
}

type certificate struct {
	CertificateARN  string `json:"certificateArn"`
	CertificateID   string `json:"certificateId"`
	Status          string `json:"status"`
	CertificateMode string `json:"certificateMode,omitempty"` // not of a CA
	CreationDate    Time   `json:"creationDate"`
}

func (a *API) certificates(list []*registry.Certificate, next string, err error) (*listCertificatesResponse, error) {
	if err != nil {
		return nil, err
	}
	out := &listCertificatesResponse{Certificates: make([]certificate, 0, len(list)), NextMarker: next}
	for _, c := range list {
		out.Certificates = append(out.Certificates, certificate{a.o.Registry.CertificateARN(c.ID), c.ID, string(c.Status), string(c.Mode), Time{c.CreatedAt}})
	}
	return out, nil
}

func (a *API) listCertificates(_ context.Context, q *listCertificatesRequest) (*listCertificatesResponse, error) {
	return a.certificates(a.o.Registry.Certificates(q.AscendingOrder, pageOf(q.PageSize, q.Marker)))
}

type listCertificatesByCARequest struct {
	CACertificateID string `json:"caCertificateId" in:"uri" is:"required 64..64 ~hex"`
	PageSize        *int64 `json:"pageSize" in:"query" is:"1..250"`
	Marker          string `json:"marker" in:"query" is:"..1024 ~base64"`
	AscendingOrder  bool   `json:"isAscendingOrder" in:"query"`
}

func (a *API) listCertificatesByCA(_ context.Context, q *listCertificatesByCARequest) (*listCertificatesResponse, error) {
	return a.certificates(a.o.Registry.CertificatesByCA(q.CACertificateID, q.AscendingOrder, pageOf(q.PageSize, q.Marker)))
}

type updateCertificateRequest struct {
	CertificateID string `json:"certificateId" in:"uri" is:"required 64..64 ~hex"`
	NewStatus     string `json:"newStatus" in:"query" is:"required =ACTIVE|INACTIVE|REVOKED|PENDING_TRANSFER|REGISTER_INACTIVE|PENDING_ACTIVATION"`
}

func (a *API) updateCertificate(ctx context.Context, q *updateCertificateRequest) (*none, error) {
	_, err := a.o.Registry.UpdateCertificate(ctx, q.CertificateID, registry.Status(q.NewStatus))
	return &none{}, err
}

type deleteCertificateRequest struct {
	CertificateID string `json:"certificateId" in:"uri" is:"required 64..64 ~hex"`
	ForceDelete   bool   `json:"forceDelete" in:"query"`
}

func (a *API) deleteCertificate(ctx context.Context, q *deleteCertificateRequest) (*none, error) {
	return &none{}, a.o.Registry.DeleteCertificate(ctx, q.CertificateID, q.ForceDelete)
}

type registrationConfig struct {
	TemplateBody string `json:"templateBody,omitempty" is:"..10240"`
	RoleARN      string `json:"roleArn,omitempty" is:"20..2048"`
	TemplateName string `json:"templateName,omitempty" is:"1..36 ~template"`
}

func (c *registrationConfig) of() *registry.RegistrationConfig {
	if c == nil || *c == (registrationConfig{}) {
		return nil
	}
	return &registry.RegistrationConfig{TemplateBody: c.TemplateBody, RoleARN: c.RoleARN, TemplateName: c.TemplateName}
}

type registerCACertificateRequest struct {
	CACertificate           string              `json:"caCertificate" is:"required 1..65536"`
	VerificationCertificate string              `json:"verificationCertificate" is:"1..65536"`
	SetAsActive             bool                `json:"setAsActive" in:"query"`
	AllowAutoRegistration   bool                `json:"allowAutoRegistration" in:"query"`
	RegistrationConfig      *registrationConfig `json:"registrationConfig"`
	Tags                    []tag               `json:"tags" is:"..50"`
	CertificateMode         string              `json:"certificateMode" is:"=DEFAULT|SNI_ONLY"`
}

func (a *API) registerCACertificate(ctx context.Context, q *registerCACertificateRequest) (*createCertificateResponse, error) {
	tags, err := tagsOf(q.Tags)
	if err != nil {
		return nil, err
	}
	c, err := a.o.Registry.RegisterCACertificate(ctx, registry.RegisterCA{PEM: q.CACertificate, Verification: q.VerificationCertificate,
		Mode: registry.Mode(q.CertificateMode), Active: q.SetAsActive, AutoRegistration: q.AllowAutoRegistration, Config: q.RegistrationConfig.of(), Tags: tags})
	if err != nil {
		return nil, err
	}
	return &createCertificateResponse{CertificateARN: a.o.Registry.CAARN(c.ID), CertificateID: c.ID}, nil
}

type describeCACertificateResponse struct {
	CertificateDescription certificateDescription `json:"certificateDescription"`
	RegistrationConfig     *registrationConfig    `json:"registrationConfig,omitempty"`
}

func (a *API) describeCACertificate(_ context.Context, q *certificateRequest) (*describeCACertificateResponse, error) {
	c, err := a.o.Registry.CACertificate(q.CertificateID)
	if err != nil {
		return nil, err
	}
	out := &describeCACertificateResponse{CertificateDescription: certificateDescription{
		CertificateARN: a.o.Registry.CAARN(c.ID), CertificateID: c.ID, Status: string(c.Status), CertificatePEM: c.PEM(), OwnedBy: a.o.AccountID,
		CreationDate: Time{c.CreatedAt}, LastModifiedDate: Time{c.ModifiedAt}, CustomerVersion: c.Version, GenerationID: c.Generation,
		Validity: validity{Time{c.NotBefore}, Time{c.NotAfter}}, CertificateMode: string(c.Mode), AutoRegistrationStatus: "DISABLE",
	}}
	if c.AutoRegistration {
		out.CertificateDescription.AutoRegistrationStatus = "ENABLE"
	}
	if r := c.Config; r != nil {
		out.RegistrationConfig = &registrationConfig{r.TemplateBody, r.RoleARN, r.TemplateName}
	}
	return out, nil
}

type listCACertificatesRequest struct {
	PageSize       *int64 `json:"pageSize" in:"query" is:"1..250"`
	Marker         string `json:"marker" in:"query" is:"..1024 ~base64"`
	AscendingOrder bool   `json:"isAscendingOrder" in:"query"`
	TemplateName   string `json:"templateName" in:"query" is:"1..36 ~template"`
}

func (a *API) listCACertificates(_ context.Context, q *listCACertificatesRequest) (*listCertificatesResponse, error) {
	list, next, err := a.o.Registry.CACertificates(q.TemplateName, q.AscendingOrder, pageOf(q.PageSize, q.Marker))
	if err != nil {
		return nil, err
	}
	out := &listCertificatesResponse{Certificates: make([]certificate, 0, len(list)), NextMarker: next}
	for _, c := range list {
		out.Certificates = append(out.Certificates, certificate{CertificateARN: a.o.Registry.CAARN(c.ID), CertificateID: c.ID, Status: string(c.Status), CreationDate: Time{c.CreatedAt}})
	}
	return out, nil
}

type updateCACertificateRequest struct {
	CertificateID             string              `json:"certificateId" in:"uri" is:"required 64..64 ~hex"`
	NewStatus                 string              `json:"newStatus" in:"query" is:"=ACTIVE|INACTIVE"`
	NewAutoRegistrationStatus string              `json:"newAutoRegistrationStatus" in:"query" is:"=ENABLE|DISABLE"`
	RegistrationConfig        *registrationConfig `json:"registrationConfig"`
	RemoveAutoRegistration    bool                `json:"removeAutoRegistration"`
}

func (a *API) updateCACertificate(ctx context.Context, q *updateCACertificateRequest) (*none, error) {
	in := registry.UpdateCA{ID: q.CertificateID, Status: registry.Status(q.NewStatus), Config: q.RegistrationConfig.of(), RemoveConfig: q.RemoveAutoRegistration}
	if q.NewAutoRegistrationStatus != "" {
		on := q.NewAutoRegistrationStatus == "ENABLE"
		in.AutoRegistration = &on
	}
	_, err := a.o.Registry.UpdateCACertificate(ctx, in)
	return &none{}, err
}

func (a *API) deleteCACertificate(ctx context.Context, q *certificateRequest) (*none, error) {
	return &none{}, a.o.Registry.DeleteCACertificate(ctx, q.CertificateID)
}

type getRegistrationCodeResponse struct {
	RegistrationCode string `json:"registrationCode"`
}

func (a *API) getRegistrationCode(ctx context.Context, _ *none) (*getRegistrationCodeResponse, error) {
	code, err := a.o.Registry.RegistrationCode(ctx)
	if err != nil {
		return nil, err
	}
	return &getRegistrationCodeResponse{code}, nil
}

func (a *API) deleteRegistrationCode(ctx context.Context, _ *none) (*none, error) {
	return &none{}, a.o.Registry.DeleteRegistrationCode(ctx)
}
