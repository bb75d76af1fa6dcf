package domain

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options configure Names.
type Options struct {
	// Own returns the certificate Weir makes for itself.
	Own func() (*tls.Certificate, error)
	Dir string // of the owner's certificates; "" for none
	// Configs are the domain configurations; nil: none.
	Configs Configs
	Policy  string // TLS policy of domains that name none; "": TLS12And13
	// SNIOptional lets clients from loopback leave out the server name.
	SNIOptional bool
	Logger      *slog.Logger     // nil: discards
	Now         func() time.Time // nil: time.Now
}

// Names picks certificates. It is safe for concurrent use.
type Names struct {
	o Options

	mu      sync.Mutex // guards what follows
	pairs   []*pair
	state   string
	checked time.Time
}

// checkEvery is how old what is known of the folder may be.
const checkEvery = time.Second

// Open reads the folder of certificates. A pair in it that is no good is an
// error here, and only logged later.
func Open(o Options) (*Names, error) {
	if o.Own == nil {
		return nil, errors.New("domain: a certificate of Weir's own is needed")
	}
	if err := CheckPolicy(o.Policy); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	n := &Names{o: o}
	if o.Dir == "" {
		return n, nil
	}
	pairs, state, err := load(o.Dir, nil, o.Now())
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	n.pairs, n.state, n.checked = pairs, state, o.Now()
	return n, nil
}

// current returns the pairs of the folder, read again if it has changed.
func (n *Names) current() []*pair {
	if n.o.Dir == "" {
		return nil
	}
	now := n.o.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if d := now.Sub(n.checked); d >= 0 && d < checkEvery {
		return n.pairs
	}
	n.checked = now
	if _, state, err := list(n.o.Dir); err == nil && state == n.state {
		return n.pairs
	}
	pairs, state, err := load(n.o.Dir, n.pairs, now)
	if err != nil {
		n.o.Logger.Error("server certificates", "folder", n.o.Dir, "error", err)
	}
	// A file that could not be read is tried again when it changes.
	n.pairs, n.state = pairs, state
	n.o.Logger.Info("server certificates read again", "folder", n.o.Dir, "certificates", len(pairs))
	return n.pairs
}

var (
	errNoServerName = errors.New("the client sent no server name (SNI)")
	errDisabled     = errors.New("the domain configuration is disabled")
)

// TLSConfig returns the configuration of a TLS port: a client certificate asked
// for but judged by the Authenticator, no session tickets, so that every
// connection shows its certificate. protocols are the ALPN names it offers; a
// client that offers none is taken, one that offers only others is refused.
func (n *Names) TLSConfig(protocols ...string) *tls.Config {
	return n.config(protocols, func(*tls.ClientHelloInfo) tls.ClientAuthType { return tls.RequestClientCert })
}

// certificateProtocols are the ALPN names that say a client certificate comes.
var certificateProtocols = []string{"x-amzn-mqtt-ca", "x-amzn-http-ca"}

// MuxTLSConfig is TLSConfig for the one port: only clients whose ALPN name says
// that they have a certificate are asked for it. Some that have none cannot bear
// the question.
func (n *Names) MuxTLSConfig(protocols ...string) *tls.Config {
	return n.config(protocols, func(h *tls.ClientHelloInfo) tls.ClientAuthType {
		for _, p := range certificateProtocols {
			if slices.Contains(protocols, p) && slices.Contains(h.SupportedProtos, p) {
				return tls.RequestClientCert
			}
		}
		return tls.NoClientCert
	})
}

func (n *Names) config(protocols []string, ask func(*tls.ClientHelloInfo) tls.ClientAuthType) *tls.Config {
	base := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, SessionTicketsDisabled: true, CipherSuites: ciphers}
	// Connections that are alike share a configuration: each keeps its own for as
	// long as it lives.
	type kind struct {
		cert   *tls.Certificate
		policy string
		ask    tls.ClientAuthType
	}
	var mu sync.Mutex
	made := map[kind]*tls.Config{}
	base.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		cert, policy, err := n.pick(h)
		if err != nil {
			return nil, err
		}
		k := kind{cert, policy, ask(h)}
		mu.Lock()
		defer mu.Unlock()
		if c := made[k]; c != nil {
			return c, nil
		}
		if len(made) >= maxConfigs {
			clear(made) // certificates are renewed
		}
		made[k] = &tls.Config{
			MinVersion: policies[policy].min, MaxVersion: policies[policy].max, ClientAuth: k.ask, NextProtos: protocols,
			SessionTicketsDisabled: true, CipherSuites: ciphers, Certificates: []tls.Certificate{*cert},
		}
		return made[k], nil
	}
	return base
}

// maxConfigs bounds the TLS configurations that a port remembers.
const maxConfigs = 64

// pick returns the certificate and the TLS policy for a client.
func (n *Names) pick(h *tls.ClientHelloInfo) (*tls.Certificate, string, error) {
	policy := n.o.Policy
	if policy == "" {
		policy = defaultPolicy
	}
	name := strings.ToLower(strings.TrimSuffix(h.ServerName, "."))
	if name == "" {
		if !n.o.SNIOptional || !fromLoopback(h.Conn) {
			return nil, "", errNoServerName
		}
		c, err := n.o.Own()
		return c, policy, err
	}
	var wanted []string
	if n.o.Configs != nil {
		if d, ok := n.o.Configs.Domain(name); ok {
			if !d.Enabled {
				return nil, "", errDisabled
			}
			wanted = d.Certificates
			if d.TLSPolicy != "" {
				if policy = d.TLSPolicy; CheckPolicy(policy) != nil {
					return nil, "", fmt.Errorf("domain configuration %s: TLS policy %q is not known", d.Name, policy)
				}
			}
		}
	}
	pairs := n.current()
	for _, w := range wanted {
		w = w[strings.LastIndexByte(w, '/')+1:]
		for _, p := range pairs {
			if p.name == w && covers(p.cert.Leaf, name) {
				return p.certificate(n.o.Now()), policy, nil
			}
		}
	}
	var best *pair
	for _, p := range pairs {
		// Exact names before wildcards, later ends before earlier ones.
		if covers(p.cert.Leaf, name) && (best == nil || better(p.cert.Leaf, best.cert.Leaf, name)) {
			best = p
		}
	}
	if best != nil {
		return best.certificate(n.o.Now()), policy, nil
	}
	own, err := n.o.Own()
	if err != nil {
		return nil, "", err
	}
	if !covers(own.Leaf, name) {
		return nil, "", fmt.Errorf("no certificate is for the server name %q", h.ServerName)
	}
	return own, policy, nil
}

func covers(leaf *x509.Certificate, name string) bool { return leaf.VerifyHostname(name) == nil }

func better(a, b *x509.Certificate, name string) bool {
	exact := func(c *x509.Certificate) bool {
		for _, d := range c.DNSNames {
			if strings.EqualFold(d, name) {
				return true
			}
		}
		return false
	}
	if x, y := exact(a), exact(b); x != y {
		return x
	}
	return a.NotAfter.After(b.NotAfter)
}

func fromLoopback(c net.Conn) bool {
	if c == nil {
		return false
	}
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	return err == nil && ap.Addr().Unmap().IsLoopback()
}
