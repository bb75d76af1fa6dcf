package awsapi

import (
	"context"
	"strconv"

	"github.com/weir-iot/weir/registry"
)

func templateOperations() []operation {
	const template = "provisioningtemplate/{templateName}"
	return []operation{
		op(IoT, "CreateProvisioningTemplate", template, (*API).createTemplate),
		op(IoT, "DescribeProvisioningTemplate", template, (*API).describeTemplate),
		op(IoT, "ListProvisioningTemplates", "*", (*API).listTemplates),
		op(IoT, "UpdateProvisioningTemplate", template, (*API).updateTemplate),
		op(IoT, "DeleteProvisioningTemplate", template, (*API).deleteTemplate),
		op(IoT, "CreateProvisioningTemplateVersion", template, (*API).createTemplateVersion),
		op(IoT, "DescribeProvisioningTemplateVersion", template, (*API).describeTemplateVersion),
		op(IoT, "ListProvisioningTemplateVersions", template, (*API).listTemplateVersions),
		op(IoT, "DeleteProvisioningTemplateVersion", template, (*API).deleteTemplateVersion),
		op(IoT, "CreateProvisioningClaim", template, (*API).createProvisioningClaim),
		op(IoT, "RegisterThing", "*", (*API).registerThing),
	}
}

type provisioningHook struct {
	PayloadVersion string `json:"payloadVersion,omitempty" is:"10..32 ~payloadVersion"`
	TargetARN      string `json:"targetArn" is:"required ..2048"`
}

func (h *provisioningHook) of() *registry.Hook {
	if h == nil {
		return nil
	}
	return &registry.Hook{PayloadVersion: h.PayloadVersion, TargetARN: h.TargetARN}
}

type createTemplateRequest struct {
	TemplateName        string            `json:"templateName" is:"required 1..36 ~template"`
	Description         string            `json:"description" is:"..500 ~line"`
	TemplateBody        string            `json:"templateBody" is:"required ..10240"`
	Enabled             bool              `json:"enabled"`
	ProvisioningRoleARN string            `json:"provisioningRoleArn" is:"required 20..2048"`
	PreProvisioningHook *provisioningHook `json:"preProvisioningHook"`
	Tags                []tag             `json:"tags" is:"..50"`
	Type                string            `json:"type" is:"=FLEET_PROVISIONING|JITP"`
}

type createTemplateResponse struct {
	TemplateARN      string `json:"templateArn"`
	TemplateName     string `json:"templateName"`
	DefaultVersionID int    `json:"defaultVersionId"`
}

func (a *API) createTemplate(ctx context.Context, q *createTemplateRequest) (*createTemplateResponse, error) {
	tags, err := tagsOf(q.Tags)
	if err != nil {
		return nil, err
	}
	t, err := a.o.Registry.CreateTemplate(ctx, registry.CreateTemplate{
		Name: q.TemplateName, Type: registry.TemplateType(q.Type), Description: q.Description, Body: q.TemplateBody, Enabled: q.Enabled,
		RoleARN: q.ProvisioningRoleARN, Hook: q.PreProvisioningHook.of(), Tags: tags,
	})
	if err != nil {
		return nil, err
	}
	return &createTemplateResponse{a.o.Registry.TemplateARN(t.Name), t.Name, t.Default}, nil
}

type templateRequest struct {
	TemplateName string `json:"templateName" in:"uri" is:"required 1..36 ~template"`
}

type templateDescription struct {
	TemplateARN         string            `json:"templateArn"`
	TemplateName        string            `json:"templateName"`
	Description         string            `json:"description,omitempty"`
	CreationDate        Time              `json:"creationDate"`
	LastModifiedDate    Time              `json:"lastModifiedDate"`
	DefaultVersionID    int               `json:"defaultVersionId,omitempty"` // this and the following not in lists
	TemplateBody        string            `json:"templateBody,omitempty"`
	Enabled             bool              `json:"enabled"`
	ProvisioningRoleARN string            `json:"provisioningRoleArn,omitempty"`
	PreProvisioningHook *provisioningHook `json:"preProvisioningHook,omitempty"`
	Type                string            `json:"type"`
}

func (a *API) templateOf(t *registry.Template) *templateDescription {
	return &templateDescription{TemplateARN: a.o.Registry.TemplateARN(t.Name), TemplateName: t.Name, Description: t.Description,
		CreationDate: Time{t.CreatedAt}, LastModifiedDate: Time{t.ModifiedAt}, Enabled: t.Enabled, Type: string(t.Type)}
}

func (a *API) describeTemplate(_ context.Context, q *templateRequest) (*templateDescription, error) {
	t, err := a.o.Registry.Template(q.TemplateName)
	if err != nil {
		return nil, err
	}
	out := a.templateOf(t)
	out.DefaultVersionID, out.TemplateBody, out.ProvisioningRoleARN = t.Default, t.Body(), t.RoleARN
	if t.Hook != nil {
		out.PreProvisioningHook = &provisioningHook{t.Hook.PayloadVersion, t.Hook.TargetARN}
	}
	return out, nil
}

type listRequest struct {
	MaxResults *int64 `json:"maxResults" in:"query" is:"1..250"`
	NextToken  string `json:"nextToken" in:"query"`
}

type listTemplatesResponse struct {
	Templates []*templateDescription `json:"templates"`
	NextToken string                 `json:"nextToken,omitempty"`
}

func (a *API) listTemplates(_ context.Context, q *listRequest) (*listTemplatesResponse, error) {
	list, next, err := a.o.Registry.Templates(pageOf(q.MaxResults, q.NextToken))
	if err != nil {
		return nil, err
	}
	out := &listTemplatesResponse{Templates: make([]*templateDescription, 0, len(list)), NextToken: next}
	for _, t := range list {
		out.Templates = append(out.Templates, a.templateOf(t))
	}
	return out, nil
}

type updateTemplateRequest struct {
	TemplateName              string            `json:"templateName" in:"uri" is:"required 1..36 ~template"`
	Description               *string           `json:"description" is:"..500 ~line"`
	Enabled                   *bool             `json:"enabled"`
	DefaultVersionID          *int64            `json:"defaultVersionId" is:"1..2147483647"`
	ProvisioningRoleARN       string            `json:"provisioningRoleArn" is:"20..2048"`
	PreProvisioningHook       *provisioningHook `json:"preProvisioningHook"`
	RemovePreProvisioningHook bool              `json:"removePreProvisioningHook"`
}

func (a *API) updateTemplate(ctx context.Context, q *updateTemplateRequest) (*none, error) {
	_, err := a.o.Registry.UpdateTemplate(ctx, registry.UpdateTemplate{
		Name: q.TemplateName, Description: q.Description, Enabled: q.Enabled, Default: int(number(q.DefaultVersionID)), RoleARN: q.ProvisioningRoleARN,
		Hook: q.PreProvisioningHook.of(), RemoveHook: q.RemovePreProvisioningHook,
	})
	return &none{}, err
}

func (a *API) deleteTemplate(ctx context.Context, q *templateRequest) (*none, error) {
	return &none{}, a.o.Registry.DeleteTemplate(ctx, q.TemplateName)
}

type createTemplateVersionRequest struct {
	TemplateName string `json:"templateName" in:"uri" is:"required 1..36 ~template"`
	TemplateBody string `json:"templateBody" is:"required ..10240"`
	SetAsDefault bool   `json:"setAsDefault" in:"query"`
}

type createTemplateVersionResponse struct {
	TemplateARN      string `json:"templateArn"`
	TemplateName     string `json:"templateName"`
	VersionID        int    `json:"versionId"`
	IsDefaultVersion bool   `json:"isDefaultVersion"`
}

func (a *API) createTemplateVersion(ctx context.Context, q *createTemplateVersionRequest) (*createTemplateVersionResponse, error) {
	t, v, err := a.o.Registry.CreateTemplateVersion(ctx, q.TemplateName, q.TemplateBody, q.SetAsDefault)
	if err != nil {
		return nil, err
	}
	return &createTemplateVersionResponse{a.o.Registry.TemplateARN(t.Name), t.Name, v.ID, v.ID == t.Default}, nil
}

type templateVersionRequest struct {
	TemplateName string `json:"templateName" in:"uri" is:"required 1..36 ~template"`
	VersionID    int64  `json:"versionId" in:"uri" is:"0..2147483647"`
}

type templateVersion struct {
	VersionID        int    `json:"versionId"`
	CreationDate     Time   `json:"creationDate"`
	TemplateBody     string `json:"templateBody,omitempty"` // not in lists
	IsDefaultVersion bool   `json:"isDefaultVersion"`
}

func (a *API) describeTemplateVersion(_ context.Context, q *templateVersionRequest) (*templateVersion, error) {
	t, err := a.o.Registry.Template(q.TemplateName)
	if err != nil {
		return nil, err
	}
	v, ok := t.Version(int(q.VersionID))
	if !ok {
		return nil, notFound("template %s has no version %d", t.Name, q.VersionID)
	}
	return &templateVersion{v.ID, Time{v.CreatedAt}, v.Body, v.ID == t.Default}, nil
}

type listTemplateVersionsRequest struct {
	TemplateName string `json:"templateName" in:"uri" is:"required 1..36 ~template"`
	MaxResults   *int64 `json:"maxResults" in:"query" is:"1..250"`
	NextToken    string `json:"nextToken" in:"query"`
}

type listTemplateVersionsResponse struct {
	Versions  []templateVersion `json:"versions"`
	NextToken string            `json:"nextToken,omitempty"`
}

func (a *API) listTemplateVersions(_ context.Context, q *listTemplateVersionsRequest) (*listTemplateVersionsResponse, error) {
	t, list, err := a.o.Registry.TemplateVersions(q.TemplateName)
	if err != nil {
		return nil, err
	}
	key := func(v *registry.TemplateVersion) string { return numberKey(v.ID) }
	part, next, err := page("ListProvisioningTemplateVersions "+t.Name, list, key, q.NextToken, q.MaxResults, 250, false)
	if err != nil {
		return nil, err
	}
	out := &listTemplateVersionsResponse{Versions: make([]templateVersion, 0, len(part)), NextToken: next}
	for _, v := range part {
		out.Versions = append(out.Versions, templateVersion{VersionID: v.ID, CreationDate: Time{v.CreatedAt}, IsDefaultVersion: v.ID == t.Default})
	}
	return out, nil
}

// numberKey orders numbers as texts.
func numberKey(n int) string {
	s := strconv.Itoa(n)
	return string(rune('a'+len(s))) + s
}

func (a *API) deleteTemplateVersion(ctx context.Context, q *templateVersionRequest) (*none, error) {
	return &none{}, a.o.Registry.DeleteTemplateVersion(ctx, q.TemplateName, int(q.VersionID))
}
