package provision

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/registry"
)

// Limits of a pre-provisioning hook.
// Source: AWS IoT Core developer guide, "Pre-provisioning hooks".
const (
	hookTimeout = 5 * time.Second
	maxHook     = 256 << 10 // bytes of its answer
)

// hookRequest is what the function gets.
type hookRequest struct {
	ClaimCertificateID string            `json:"claimCertificateId,omitempty"`
	CertificateID      string            `json:"certificateId"`
	CertificatePEM     string            `json:"certificatePem"`
	TemplateARN        string            `json:"templateArn"`
	ClientID           string            `json:"clientId"`
	Parameters         map[string]string `json:"parameters"`
}

type hookAnswer struct {
	Allow      *bool             `json:"allowProvisioning"`
	Parameters map[string]string `json:"parameterOverrides"`
}

var errHook = reject(403, "AccessDenied", "access denied by the pre-provisioning hook")

// hook asks a template's function and returns the parameters with what it puts
// in their place. Whatever is not a clear yes refuses.
func (s *Service) hook(ctx context.Context, who Caller, t *registry.Template, c *registry.Certificate, in map[string]string, a *Attempt) (map[string]string, error) {
	q := hookRequest{CertificateID: c.ID, CertificatePEM: c.PEM(), TemplateARN: s.o.Registry.TemplateARN(t.Name), ClientID: who.ClientID, Parameters: in}
	if who.Certificate {
		q.ClaimCertificateID = who.Principal
	}
	if q.Parameters == nil {
		q.Parameters = map[string]string{}
	}
	payload, err := json.Marshal(q)
	if err != nil {
		return nil, errs.E("provision.hook", errs.Internal, err)
	}
	b, err := s.invoke(ctx, t.Hook.TargetARN, payload)
	if ctx.Err() != nil {
		return nil, errs.E("provision.hook", errs.Timeout, ctx.Err())
	}
	if err != nil {
		a.step("hook", "failed: "+clip(errs.Text(err)))
		s.o.Logger.Warn("a pre-provisioning hook failed", "template", t.Name, "function", t.Hook.TargetARN, "err", err)
		return nil, errHook
	}
	var answer hookAnswer
	if len(b) > maxHook || json.Unmarshal(b, &answer) != nil || answer.Allow == nil {
		a.step("hook", "answered something else than allowProvisioning and parameterOverrides")
		return nil, errHook
	}
	if !*answer.Allow {
		a.step("hook", "refused")
		return nil, errHook
	}
	if err := checkParameters(answer.Parameters); err != nil {
		a.step("hook", "allowed, with parameters that cannot be set: "+errs.Text(err))
		return nil, errHook
	}
	detail := "allowed"
	if len(answer.Parameters) > 0 {
		detail += ", and set " + clip(strings.Join(slices.Sorted(maps.Keys(answer.Parameters)), ", "))
	}
	a.step("hook", detail)
	merged := maps.Clone(q.Parameters)
	maps.Copy(merged, answer.Parameters)
	return merged, nil
}

// invoke calls a hook. It may be slow: who waits for one is in the way of others
// who do, not of those who want a certificate.
func (s *Service) invoke(ctx context.Context, function string, payload []byte) ([]byte, error) {
	<-s.calls
	defer func() { s.calls <- struct{}{} }()
	select {
	case s.hooks <- struct{}{}:
		defer func() { <-s.hooks }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	b, err := s.o.Invoke.Invoke(ctx, function, payload)
	if err == nil {
		err = ctx.Err() // an answer that came too late
	}
	return b, err
}
