package server

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/registry"
)

// The credentials provider gives a device with a certificate access keys for a
// time, which sign requests to the APIs and WebSockets. They may what the policy
// says that is named like the role of a role alias: a role has no other meaning
// here.
// Source: AWS IoT Core developer guide, "Authorizing direct calls to AWS
// services using AWS IoT Core credential provider".

// credentialsOf returns the role alias that path asks credentials of.
func credentialsOf(path string) (alias string, ok bool) {
	rest, ok1 := strings.CutPrefix(path, "/role-aliases/")
	name, ok2 := strings.CutSuffix(rest, "/credentials")
	alias, err := url.PathUnescape(name)
	return alias, ok1 && ok2 && err == nil
}

type credentials struct {
	Credentials temporaryKey `json:"credentials"`
}

type temporaryKey struct {
	AccessKeyID     string    `json:"accessKeyId"`
	SecretAccessKey string    `json:"secretAccessKey"`
	SessionToken    string    `json:"sessionToken"`
	Expiration      time.Time `json:"expiration"`
}

func (s *Server) serveCredentials(w http.ResponseWriter, r *http.Request, p *auth.Principal, alias string) {
	answer := func(status int, body any) {
		b, err := json.Marshal(body)
		if err != nil {
			panic(err) // texts
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_, _ = w.Write(b) // the client is gone, or it is not
	}
	refuse := func(status int, text string) {
		answer(status, struct {
			Message string `json:"message"`
		}{text})
	}
	role := registry.Role{Alias: alias, Certificate: certificateOf(r), Thing: r.Header.Get(auth.ThingNameHeader)}
	switch {
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		refuse(http.StatusMethodNotAllowed, "Method Not Allowed")
		return
	case role.Certificate == "" || role.Certificate != p.ID: // signed, or by a custom authorizer
		refuse(http.StatusForbidden, "Access Denied")
		return
	case !s.policies.May(p, auth.AssumeRoleWithCertificate, alias):
		s.denials.Log(p, auth.AssumeRoleWithCertificate, alias)
		refuse(http.StatusForbidden, "Access Denied")
		return
	}
	session, err := s.things.CreateRoleSession(role)
	switch {
	case errs.Is(err, errs.NotFound):
		refuse(http.StatusNotFound, "Role alias does not exist")
	case errs.Is(err, errs.Invalid):
		refuse(http.StatusBadRequest, errs.Text(err))
	case err != nil:
		s.denials.Warn("credentials refused", "why", errs.Text(err), "roleAlias", alias, "principal", p.ID, "remote", p.Remote.String())
		refuse(http.StatusForbidden, "Access Denied")
	default:
		s.logger.Debug("credentials given", "roleAlias", alias, "accessKey", session.AccessKeyID, "principal", p.ID, "remote", p.Remote.String())
		answer(http.StatusOK, credentials{temporaryKey{session.AccessKeyID, session.Secret, session.Token, session.Expires}})
	}
}

// certificateOf returns the id of the client certificate r came with, "" where
// there is none.
func certificateOf(r *http.Request) string {
	c := auth.ConnectionFrom(r.Context())
	if c == nil || c.TLS == nil || len(c.TLS.PeerCertificates) == 0 {
		return ""
	}
	return auth.CertificateID(c.TLS.PeerCertificates[0])
}

// roleContext has what policies of a role may ask of who has assumed it.
func (s *Server) roleContext(role *registry.Role) map[string][]string {
	if role == nil {
		return nil
	}
	out := map[string][]string{"credentials-iot:awscertificateid": {role.Certificate}}
	if t, err := s.things.Thing(role.Thing); err == nil {
		out["credentials-iot:thingname"] = []string{t.Name}
		if t.Type != "" {
			out["credentials-iot:thingtypename"] = []string{t.Type}
		}
	}
	return out
}
