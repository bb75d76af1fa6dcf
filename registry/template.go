package registry

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/errs"
)

const maxTemplate = 10240 // characters

// TemplateType says what a provisioning template is for.
type TemplateType string

const (
	FleetProvisioning TemplateType = "FLEET_PROVISIONING"
	JITP              TemplateType = "JITP"
)

// Template is a provisioning template with its versions.
type Template struct {
	Name        string            `json:"templateName"`
	Type        TemplateType      `json:"type"`
	Description string            `json:"description,omitempty"`
	Enabled     bool              `json:"enabled"`
	RoleARN     string            `json:"provisioningRoleArn"`
	Hook        *Hook             `json:"preProvisioningHook,omitempty"`
	Default     int               `json:"defaultVersionId"`
	Last        int               `json:"lastVersionId"`
	Versions    []TemplateVersion `json:"versions"` // the oldest first
	CreatedAt   time.Time         `json:"creationDate"`
	ModifiedAt  time.Time         `json:"lastModifiedDate"`
	Tags        map[string]string `json:"tags,omitempty"`
}

// Hook is asked before a device is provisioned.
type Hook struct {
	PayloadVersion string `json:"payloadVersion,omitempty"` // "2020-04-01"
	TargetARN      string `json:"targetArn"`
}

// TemplateVersion is one body of a template. It never changes.
type TemplateVersion struct {
	ID        int       `json:"versionId"` // from 1
	Body      string    `json:"templateBody"`
	CreatedAt time.Time `json:"creationDate"`
}

// Version returns a version of the template.
func (t *Template) Version(id int) (*TemplateVersion, bool) {
	for i := range t.Versions {
		if t.Versions[i].ID == id {
			return &t.Versions[i], true
		}
	}
	return nil, false
}

// Body returns the default version's body.
func (t *Template) Body() string {
	v, ok := t.Version(t.Default)
	if !ok {
		return ""
	}
	return v.Body
}

// CreateTemplate says what to create.
type CreateTemplate struct {
	Name        string
	Type        TemplateType // "": FLEET_PROVISIONING
	Description string
	Body        string // JSON; its language is the provisioning engine's to check
	Enabled     bool
	RoleARN     string
	Hook        *Hook
	Tags        map[string]string
}

func (r *Registry) checkBody(body string, typ TemplateType) error {
	if n := utf8.RuneCountInString(body); n > maxTemplate {
		return invalid("a template body has at most %d characters, this one has %d", maxTemplate, n)
	}
	if r.o.CheckTemplate != nil {
		if err := r.o.CheckTemplate(body, typ); err != nil {
			return &Error{Code: InvalidRequest, Message: "the template body: " + errs.Text(err), Err: err}
		}
		return nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(body), &object); err != nil {
		return invalid("the template body is not a JSON object: %v", err)
	}
	return nil
}

func checkTemplateText(s string) error {
	if n := utf8.RuneCountInString(s); n > 500 {
		return invalid("the description of a template has at most 500 characters, this one has %d", n)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return unicode.In(c, unicode.C) }) {
		return invalid(`the description of a template must match [^\p{C}]*`)
	}
	return nil
}

// checkRole checks the ARN of a role; Weir keeps it and does not assume it.
func checkRole(arn string) error {
	if len(arn) < 20 || len(arn) > 2048 || !strings.HasPrefix(arn, "arn:") {
		return invalid("a role ARN has 20 to 2048 characters and begins with arn:")
	}
	return nil
}

func checkHook(h *Hook) error {
	if h == nil {
		return nil
	}
	if h.PayloadVersion != "" {
		if err := payloadVersion.check(h.PayloadVersion); err != nil {
			return err
		}
	}
	if h.TargetARN == "" || len(h.TargetARN) > 2048 {
		return invalid("a pre-provisioning hook needs the ARN of a function, of at most 2048 characters")
	}
	return nil
}

// CreateTemplate creates a provisioning template with its first version.
func (r *Registry) CreateTemplate(ctx context.Context, in CreateTemplate) (*Template, error) {
	return change(ctx, r, "CreateProvisioningTemplate", func(tx *Tx) (*Template, error) {
		if err := templateName.check(in.Name); err != nil {
			return nil, err
		}
		typ := in.Type
		switch typ {
		case "":
			typ = FleetProvisioning
		case FleetProvisioning, JITP:
		default:
			return nil, invalid("%q is no type of template: %s or %s", clip(string(typ)), FleetProvisioning, JITP)
		}
		if typ == JITP && in.Hook != nil {
			return nil, invalid("a template of type %s has no pre-provisioning hook", JITP)
		}
		for _, err := range []error{checkTemplateText(in.Description), r.checkBody(in.Body, typ), checkRole(in.RoleARN), checkHook(in.Hook), checkTags(in.Tags, r.limits.Tags)} {
			if err != nil {
				return nil, err
			}
		}
		if get(tx, r.templates, in.Name) != nil {
			return nil, &Error{Code: Exists, Message: "template " + in.Name + " exists already", ID: in.Name, ARN: r.TemplateARN(in.Name)}
		}
		t := &Template{
			Name: in.Name, Type: typ, Description: in.Description, Enabled: in.Enabled, RoleARN: in.RoleARN, Hook: in.Hook, Default: 1, Last: 1,
			Versions: []TemplateVersion{{1, in.Body, tx.now}}, CreatedAt: tx.now, ModifiedAt: tx.now, Tags: in.Tags,
		}
		put(tx, r.templates, t.Name, t)
		return t, nil
	})
}

// Template returns a provisioning template. Error: errs.NotFound.
func (r *Registry) Template(name string) (*Template, error) {
	return read(r, "Template", func(tx *Tx) (*Template, error) { return tx.Template(name) })
}

// Template is Registry.Template in a change.
func (tx *Tx) Template(name string) (*Template, error) {
	if err := templateName.check(name); err != nil {
		return nil, err
	}
	if t := get(tx, tx.r.templates, name); t != nil {
		return t, nil
	}
	return nil, fail(NotFound, "there is no provisioning template %s", name)
}

// Templates lists provisioning templates by name.
func (r *Registry) Templates(p Page) ([]*Template, string, error) {
	return readPage(r, "Templates", func(*Tx) ([]*Template, string, error) {
		return pageOf(&r.templates.order, p, "templates", false, every[*Template])
	})
}

// UpdateTemplate says what to change of a template.
type UpdateTemplate struct {
	Name        string
	Description *string // nil: as it is; so below
	Enabled     *bool
	Default     int    // 0: as it is
	RoleARN     string // "": as it is
	Hook        *Hook
	RemoveHook  bool
}

// UpdateTemplate changes a provisioning template and returns it.
func (r *Registry) UpdateTemplate(ctx context.Context, in UpdateTemplate) (*Template, error) {
	return change(ctx, r, "UpdateProvisioningTemplate", func(tx *Tx) (*Template, error) {
		old, err := tx.Template(in.Name)
		if err != nil {
			return nil, err
		}
		t := *old
		if in.Description != nil {
			if err := checkTemplateText(*in.Description); err != nil {
				return nil, err
			}
			t.Description = *in.Description
		}
		if in.Enabled != nil {
			t.Enabled = *in.Enabled
		}
		if in.Default != 0 {
			if _, ok := old.Version(in.Default); !ok {
				return nil, invalid("template %s has no version %d", in.Name, in.Default)
			}
			t.Default = in.Default
		}
		if in.RoleARN != "" {
			if err := checkRole(in.RoleARN); err != nil {
				return nil, err
			}
			t.RoleARN = in.RoleARN
		}
		if in.Hook != nil {
			if in.RemoveHook || t.Type == JITP {
				return nil, invalid("a hook to set and one to remove, or a template of type %s", JITP)
			}
			if err := checkHook(in.Hook); err != nil {
				return nil, err
			}
			t.Hook = in.Hook
		}
		if in.RemoveHook {
			t.Hook = nil
		}
		t.ModifiedAt = tx.now
		put(tx, r.templates, t.Name, &t)
		return &t, nil
	})
}

// CreateTemplateVersion adds a version to a template.
// Errors: NotFound, VersionsLimitExceeded, InvalidRequest.
func (r *Registry) CreateTemplateVersion(ctx context.Context, name, body string, setDefault bool) (*Template, *TemplateVersion, error) {
	var v *TemplateVersion
	t, err := change(ctx, r, "CreateProvisioningTemplateVersion", func(tx *Tx) (*Template, error) {
		old, err := tx.Template(name)
		if err != nil {
			return nil, err
		}
		if err := r.checkBody(body, old.Type); err != nil {
			return nil, err
		}
		if len(old.Versions) >= r.limits.TemplateVersions {
			return nil, fail(VersionsLimitExceeded, "template %s has %d versions, no more are allowed: delete one", name, len(old.Versions))
		}
		t := *old
		t.Last++
		t.Versions = append(slices.Clone(old.Versions), TemplateVersion{t.Last, body, tx.now})
		v = &t.Versions[len(t.Versions)-1]
		if setDefault {
			t.Default = t.Last
		}
		t.ModifiedAt = tx.now
		put(tx, r.templates, name, &t)
		return &t, nil
	})
	return t, v, err
}

// TemplateVersions lists the versions of a template, the oldest first. They are
// few: a page is all of them.
func (r *Registry) TemplateVersions(name string) (*Template, []TemplateVersion, error) {
	t, err := r.Template(name)
	if err != nil {
		return nil, nil, err
	}
	return t, t.Versions, nil
}

// DeleteTemplateVersion deletes a version that is not the default.
// Errors: NotFound, DeleteConflict.
func (r *Registry) DeleteTemplateVersion(ctx context.Context, name string, version int) error {
	return r.Change(ctx, "registry.DeleteProvisioningTemplateVersion", func(tx *Tx) error {
		old, err := tx.Template(name)
		if err != nil {
			return err
		}
		if _, ok := old.Version(version); !ok {
			return fail(NotFound, "template %s has no version %d", name, version)
		}
		if old.Default == version {
			return fail(DeleteConflict, "version %d of template %s cannot be deleted: it is the default", version, name)
		}
		t := *old
		t.Versions = slices.DeleteFunc(slices.Clone(old.Versions), func(v TemplateVersion) bool { return v.ID == version })
		t.ModifiedAt = tx.now
		put(tx, r.templates, name, &t)
		return nil
	})
}

// DeleteTemplate deletes a template that no CA's registration configuration
// names and that has no versions but its default.
// Errors: NotFound, DeleteConflict.
func (r *Registry) DeleteTemplate(ctx context.Context, name string) error {
	return r.Change(ctx, "registry.DeleteProvisioningTemplate", func(tx *Tx) error {
		t, err := tx.Template(name)
		if err != nil {
			return err
		}
		if n := len(t.Versions) - 1; n > 0 {
			return fail(DeleteConflict, "template %s cannot be deleted: it has %d versions beside the default", name, n)
		}
		for id, row := range r.cas.rows {
			if c := row.v.Config; c != nil && c.TemplateName == name {
				return fail(DeleteConflict, "template %s cannot be deleted: the CA certificate %s names it", name, id)
			}
		}
		tx.shake(KindTemplate, name)
		drop(tx, r.templates, name)
		return nil
	})
}
