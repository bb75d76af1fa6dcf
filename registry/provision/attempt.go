package provision

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/registry"
)

// Attempt is what became of one call, step by step. It has no secrets: no key,
// no token, no value of a parameter but where it became a name.
type Attempt struct {
	Type          string    `json:"eventType"` // "provisioning"
	Operation     string    `json:"operation"`
	Outcome       string    `json:"outcome"` // "accepted" or "rejected"
	At            time.Time `json:"-"`
	Timestamp     int64     `json:"timestamp"` // milliseconds
	Template      string    `json:"templateName,omitempty"`
	Thing         string    `json:"thingName,omitempty"`
	CertificateID string    `json:"certificateId,omitempty"`
	ClientID      string    `json:"clientId,omitempty"`
	Principal     string    `json:"principalIdentifier,omitempty"`
	SourceIP      string    `json:"ipAddress,omitempty"`
	Format        string    `json:"payloadFormat,omitempty"`
	StatusCode    int       `json:"statusCode,omitempty"` // of a refusal, as the device was told
	ErrorCode     string    `json:"errorCode,omitempty"`
	Error         string    `json:"errorMessage,omitempty"`
	Steps         []Step    `json:"steps"`
}

// Step is one step of an attempt.
type Step struct {
	What   string `json:"step"`
	Detail string `json:"detail"`
}

// Events is the topic filter of attempts' events.
const (
	Events       = topic.Filter("$aws/events/provisioning/#")
	eventsPrefix = "$aws/events/provisioning/"
)

func itoa(n int) string { return strconv.Itoa(n) }

func (a *Attempt) step(what, detail string) { a.Steps = append(a.Steps, Step{what, detail}) }

func (a *Attempt) created(c *registry.Certificate) {
	a.CertificateID = c.ID
	a.step("created", "certificate "+string(c.Status)+" until "+c.Claim.Expires.UTC().Format(time.RFC3339))
}

// parameters notes which there are. Their values may be secrets between the
// device and the hook.
func (a *Attempt) parameters(in map[string]string) {
	names := slices.Sorted(maps.Keys(in))
	if len(names) > 20 {
		names = append(names[:20], "…")
	}
	for i := range names {
		names[i] = clip(names[i])
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	a.step("request", "parameters: "+strings.Join(names, ", "))
}

// summary tells what a plan is going to make.
func (p *Plan) summary() string {
	var parts []string
	if p.Thing != nil {
		s := "thing " + clip(p.Thing.Name)
		if p.Thing.Type != "" {
			s += " of type " + clip(p.Thing.Type)
		}
		if len(p.Thing.Groups) > 0 {
			s += " in " + itoa(len(p.Thing.Groups)) + " groups"
		}
		parts = append(parts, s)
	}
	parts = append(parts, "certificate "+string(p.Certificate.Status))
	for _, pol := range p.Policies {
		parts = append(parts, "policy "+clip(pol.Name))
	}
	return strings.Join(parts, "; ")
}

// tell appends the event of an attempt.
func (s *Service) tell(ctx context.Context, a *Attempt, err error) {
	a.Type, a.Outcome, a.Timestamp = "provisioning", "accepted", a.At.UnixMilli()
	if err != nil {
		r := rejectionOf(err)
		a.Outcome, a.StatusCode, a.ErrorCode, a.Error = "rejected", r.StatusCode, r.ErrorCode, r.ErrorMessage
		a.step("refused", r.ErrorMessage)
		if r.StatusCode >= 500 {
			s.o.Logger.Error("a provisioning call failed", "operation", a.Operation, "template", a.Template, "clientId", a.ClientID, "err", err)
		}
	}
	if a.Steps == nil {
		a.Steps = []Step{}
	}
	payload, jerr := json.Marshal(a)
	if jerr != nil {
		s.o.Logger.Error("a provisioning attempt cannot be told of", "err", jerr)
		return
	}
	perr := s.o.Publish(ctx, &event.Event{
		Topic: topic.Name(eventsPrefix + a.Outcome), Payload: payload, Principal: a.Principal, Key: a.ClientID,
		Received: a.At.Truncate(time.Millisecond), QoS: 1, Protocol: event.Server,
	})
	if perr != nil {
		s.o.Logger.Warn("a provisioning attempt is not told of", "operation", a.Operation, "template", a.Template, "outcome", a.Outcome, "err", perr)
	}
}
