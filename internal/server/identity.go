package server

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/auth/custom"
	"github.com/weir-iot/weir/ingest/auth/sigv4"
	"github.com/weir-iot/weir/ingest/domain"
	"github.com/weir-iot/weir/ingest/mux"
	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/registry"
)

// openAuthorizers opens the custom authorizers: of connections, and to be tried
// by the AWS API.
func (s *Server) openAuthorizers(context.Context) (err error) {
	s.domains = newDomains(s.things)
	s.authorizers, err = custom.New(custom.Options{
		Store: s.domains, Invoke: s.invoker(), Policies: s.policies,
		End: func(p *auth.Principal) {
			if s.gateway != nil {
				s.gateway.DisconnectSession(p)
			}
		},
		Logger: s.logger.With("room", "auth"), Now: s.now,
	})
	if err != nil {
		return err
	}
	s.things.OnChange(func(c registry.Change) {
		if c.Kind == registry.KindAuthorizer {
			s.authorizers.Changed()
		}
	})
	return nil
}

// openIdentity opens the names Weir answers to and the ways of saying who one
// is: client certificates, signed requests, custom authorizers.
func (s *Server) openIdentity(context.Context) error {
	var err error
	s.names, err = domain.Open(domain.Options{
		Own: s.ca.ServerCertificate, Dir: s.cfg.TLS.CertsDir, Configs: s.domains, Policy: s.cfg.TLS.Policy,
		SNIOptional: s.limits().SNIOptional, Logger: s.logger.With("room", "tls"), Now: s.now,
	})
	if err != nil {
		return err
	}
	owner, err := control.OpenAccessKey(s.dataDir)
	if err != nil {
		return err
	}
	s.catchUps = make(chan struct{}, catchUpsAtOnce)
	s.methods = &mux.Methods{
		Certificate: s.authn, Custom: s.authorizers, Domains: s.domains,
		Signature: &sigv4.Authenticator{
			Verifier: sigv4.New(sigv4.Options{Keys: s.accessKeys(owner), Region: s.cfg.Region, Now: s.now}), Policies: s.policies,
		},
	}
	return nil
}

// newcomers lets in also who another process has just made known: before anyone
// is refused the registry catches up with what others did.
type newcomers struct {
	*mux.Methods
	s *Server
}

const (
	catchUpPatience = time.Second
	catchUpsAtOnce  = 4 // beyond it who comes is judged by what is known here
)

// Authenticate implements auth.Authenticator.
func (n newcomers) Authenticate(ctx context.Context, c *auth.Connection) (*auth.Principal, error) {
	known := n.s.things.Revision()
	p, err := n.Methods.Authenticate(ctx, c)
	var r *auth.Refusal
	if err == nil || n.s.services == nil || errs.Is(err, errs.Unavailable) || errors.As(err, &r) && r.JustRegistered() {
		return p, err
	}
	select {
	case n.s.catchUps <- struct{}{}:
	default:
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, catchUpPatience)
	cerr := n.s.things.CatchUp(waiting)
	cancel()
	<-n.s.catchUps
	if cerr != nil || n.s.things.Revision() == known {
		return nil, err
	}
	return n.Methods.Authenticate(ctx, c)
}

// openMux opens the one port that serves everything. The HTTPS server takes its
// share of it.
func (s *Server) openMux() (err error) {
	if s.cfg.Listen.Mux == "" {
		return nil
	}
	s.mux, err = mux.New(mux.Options{
		Addr: s.cfg.Listen.Mux, TLSConfig: s.names.MuxTLSConfig, MQTT: s.gateway.Serve, Safety: s.safety(),
		Logger: s.logger.With("room", "mux"), Now: s.now,
	})
	if err != nil {
		return portTaken("listen.mux", s.cfg.Listen.Mux, err)
	}
	s.onClose(func() error { s.mux.Close(); return nil })
	s.endpoints.Mux = s.mux.Addr().String()
	return nil
}

// public returns a listener's address as clients are told it: with a name the
// server certificate has, for they send the name they dial.
func (s *Server) public(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	for _, n := range s.cfg.TLS.Names {
		if net.ParseIP(n) == nil && !strings.HasPrefix(n, "*.") {
			return net.JoinHostPort(n, port)
		}
	}
	return net.JoinHostPort("localhost", port)
}

// domains is what the registry says of domains and authorizers, as the gateway
// asks it.
type domains struct {
	r *registry.Registry

	mu    sync.Mutex // guards what follows
	known map[string]*domain.Config
}

// defaultDomain is the name of the domain configuration that holds for all
// names without one of their own.
const defaultDomain = "iot:Data-ATS"

func newDomains(r *registry.Registry) *domains {
	d := &domains{r: r}
	r.OnChange(func(c registry.Change) {
		if c.Kind == registry.KindDomain {
			d.mu.Lock()
			d.known = nil
			d.mu.Unlock()
		}
	})
	return d
}

// Domain implements domain.Configs.
func (d *domains) Domain(name string) (*domain.Config, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == nil {
		known, err := d.read()
		if err != nil {
			return &domain.Config{Name: "unreadable"}, true // disabled: nobody comes in by mistake
		}
		d.known = known
	}
	c := d.known[strings.ToLower(strings.TrimSuffix(name, "."))]
	if c == nil {
		c = d.known[""]
	}
	return c, c != nil
}

func (d *domains) read() (map[string]*domain.Config, error) {
	out := map[string]*domain.Config{}
	for p := (registry.Page{}); ; {
		list, next, err := d.r.DomainConfigurations("DATA", p)
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			if c.DomainName == "" && c.Name != defaultDomain {
				continue
			}
			out[strings.ToLower(c.DomainName)] = &domain.Config{
				Name: c.Name, Enabled: c.Enabled, Certificates: slices.Clone(c.Certificates), TLSPolicy: c.SecurityPolicy,
				DefaultAuthorizer: c.Authorizer, AllowOverride: c.AllowOverride,
				AuthenticationType: c.Authentication, ApplicationProtocol: c.Protocol,
			}
		}
		if next == "" {
			return out, nil
		}
		p.Token = next
	}
}

// Authorizer implements custom.Store.
func (d *domains) Authorizer(name string) (*custom.Authorizer, bool) {
	a, err := d.r.Authorizer(name)
	if err != nil {
		return nil, false
	}
	return &custom.Authorizer{
		Name: a.Name, Function: a.Function, Active: a.Status == registry.Active, SigningDisabled: a.SigningDisabled,
		TokenKeyName: a.TokenKeyName, PublicKeys: a.Keys, CacheHTTP: a.CacheHTTP,
	}, true
}

// Default implements custom.Store.
func (d *domains) Default(name string) (string, bool) {
	if c, ok := d.Domain(name); ok && c.DefaultAuthorizer != "" {
		return c.DefaultAuthorizer, c.AllowOverride
	}
	a, err := d.r.DefaultAuthorizer()
	if err != nil {
		return "", true
	}
	return a.Name, true // the account's own
}
