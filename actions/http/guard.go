package http

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	nethttp "net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// Policy says which addresses webhooks may reach. The zero value: public ones
// only, by https.
type Policy struct {
	AllowPrivate  bool           // loopback and private networks too, there by plain http as well
	AllowNetworks []netip.Prefix // these networks too, by plain http as well
}

// errBlocked is an address that the policy keeps closed.
var errBlocked = errors.New("the address is not open to webhooks")

// private are the networks of one's own machine and house.
// Source: IANA special-purpose address registries.
var private = prefixes("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")

// closed are the networks that are nobody's web server: unspecified (which means
// this machine), shared and link-local addresses (where clouds keep metadata and
// credentials), tests, multicast, and what is reserved or tunnelled.
var closed = prefixes(
	"0.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
	"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16",
	"fe80::/10", "fec0::/10", "ff00::/8",
)

var (
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour = netip.MustParsePrefix("2002::/16")
)

func prefixes(s ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(s))
	for i := range s {
		out[i] = netip.MustParsePrefix(s[i])
	}
	return out
}

func within(a netip.Addr, list []netip.Prefix) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// permit decides over the address that is about to be dialled, not over a name.
func (p Policy) permit(a netip.Addr, plain bool) error {
	a = a.Unmap().WithZone("")
	if within(a, p.AllowNetworks) {
		return nil
	}
	if within(a, private) {
		if p.AllowPrivate {
			return nil
		}
		return fmt.Errorf("%s is a private address: %w", a, errBlocked)
	}
	if !a.IsValid() || within(a, closed) {
		return fmt.Errorf("%s is a special address: %w", a, errBlocked)
	}
	// Addresses that carry an IPv4 address are reached as that one.
	if b := a.As16(); nat64.Contains(a) {
		return p.permit(netip.AddrFrom4([4]byte(b[12:16])), plain)
	} else if sixToFour.Contains(a) {
		return p.permit(netip.AddrFrom4([4]byte(b[2:6])), plain)
	}
	if plain {
		return fmt.Errorf("%s is a public address, and the URL is not https: %w", a, errBlocked)
	}
	return nil
}

// Transport returns a transport for one request at a time to any URL, each dial
// checked against the policy, without proxy, redirects and cookies; it is for
// those that are no rule actions. conns bounds the connections to a host.
func (p Policy) Transport(conns int) nethttp.RoundTripper {
	c := newClient(p, conns)
	return guarded{c}
}

type guarded struct{ c *client }

// RoundTrip implements http.RoundTripper.
func (g guarded) RoundTrip(r *nethttp.Request) (*nethttp.Response, error) {
	if r.URL.Scheme == "http" {
		return g.c.plain.RoundTrip(r)
	}
	return g.c.secure.RoundTrip(r)
}

// plainAllowed reports whether any plain http URL can be served at all.
func (p Policy) plainAllowed() bool { return p.AllowPrivate || len(p.AllowNetworks) > 0 }

// Limits of one request. Source of the whole time and of the reply's size: AWS
// IoT Core quotas (HTTP action request timeout 3,000 ms) and developer guide,
// "HTTP action retry logic".
const (
	requestTime = 3 * time.Second
	maxReply    = 16384
	maxHeader   = 16 << 10 // bytes of a reply's header
)

// client sends single requests: no proxy, no redirect, no cookie, each dial
// checked against the policy.
type client struct{ plain, secure *nethttp.Transport }

func newClient(p Policy, conns int) *client {
	transport := func(plain bool) *nethttp.Transport {
		d := &net.Dialer{Timeout: requestTime, KeepAlive: 30 * time.Second,
			// Control sees the address after name resolution, for each attempt.
			Control: func(network, address string, _ syscall.RawConn) error {
				ap, err := netip.ParseAddrPort(address)
				if err != nil {
					return fmt.Errorf("%s: %w", address, errBlocked)
				}
				return p.permit(ap.Addr(), plain)
			}}
		return &nethttp.Transport{
			DialContext:            d.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    requestTime,
			MaxResponseHeaderBytes: maxHeader,
			MaxConnsPerHost:        conns,
			MaxIdleConnsPerHost:    conns,
			MaxIdleConns:           4 * conns,
			IdleConnTimeout:        30 * time.Second,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // a small reply must not grow
		}
	}
	return &client{plain: transport(true), secure: transport(false)}
}

// reply is what came back, cut at maxReply bytes.
type reply struct {
	status int
	header nethttp.Header
	body   []byte
	large  bool // longer than maxReply
}

// do sends req and returns the reply. Once the status is known, the body is
// worth little time: a server that drips it has answered all the same.
func (c *client) do(ctx context.Context, req *nethttp.Request) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	t := c.secure
	if req.URL.Scheme == "http" {
		t = c.plain
	}
	resp, err := t.RoundTrip(req.WithContext(ctx))
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // its text has the query, where secrets are
			err = u.Err
		}
		if ctx.Err() != nil && !errors.Is(err, errBlocked) {
			err = fmt.Errorf("no reply within %v: %w", requestTime, ctx.Err())
		}
		return nil, err
	}
	late := time.AfterFunc(bodyTime, cancel)
	defer late.Stop()
	defer resp.Body.Close()
	r := &reply{status: resp.StatusCode, header: resp.Header}
	buf := make([]byte, 0, 512)
	for len(buf) <= maxReply {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := resp.Body.Read(buf[len(buf):min(cap(buf), maxReply+1)])
		buf = buf[:len(buf)+n]
		if err != nil {
			break
		}
	}
	r.large = len(buf) > maxReply || resp.ContentLength > maxReply
	r.body = buf[:min(len(buf), maxReply)]
	return r, nil
}

// bodyTime bounds the reading of a reply's body.
const bodyTime = 500 * time.Millisecond

func (c *client) close() {
	c.plain.CloseIdleConnections()
	c.secure.CloseIdleConnections()
}
