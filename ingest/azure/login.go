package azure

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"strings"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
)

// WebSocketPath is where devices open a WebSocket.
const WebSocketPath = "/$iothub/websocket"

// user is the user name of a CONNECT.
type user struct {
	hub, device, module string
	version             bool // it names a version of the API
}

// parseUser takes a user name apart: <hub>/<device>[/<module>], then nothing,
// /?api-version=… or /api-version=….
// Source: Azure IoT Hub, "Communicate with your IoT hub using the MQTT protocol".
func parseUser(s string) (u user, ok bool) {
	path, query, ok := strings.Cut(s, "/?")
	if !ok {
		if path, query, ok = strings.Cut(s, "/api-version="); ok {
			query = "api-version=" + query
		}
	}
	for part := range strings.SplitSeq(query, "&") {
		if v, ok := strings.CutPrefix(part, "api-version="); ok && v != "" {
			u.version = true
		}
	}
	parts := strings.Split(strings.TrimSuffix(path, "/"), "/")
	if len(parts) < 2 || len(parts) > 3 {
		return user{}, false
	}
	u.hub, u.device = parts[0], parts[1]
	if len(parts) == 3 {
		u.module = parts[2]
	}
	return u, u.hub != "" && u.device != "" && (len(parts) < 3 || u.module != "")
}

// Claims reports whether a connection means this dialect: by the path of its
// WebSocket, else by its user name.
func (h *Hub) Claims(c *auth.Connection) bool {
	switch {
	case c.TLS == nil:
		return false
	case c.HTTP != nil:
		return c.Listener == auth.WebSocket && c.HTTP.URL.Path == WebSocketPath
	}
	u, ok := parseUser(c.Username)
	return ok && (u.version || h.ours(u.hub, c.TLS.ServerName))
}

// Authenticate implements auth.Authenticator. The error does not tell a stranger
// which devices there are.
func (h *Hub) Authenticate(ctx context.Context, c *auth.Connection) (*auth.Principal, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := h.loaded(ctx); err != nil {
		return nil, err
	}
	p, err := h.logIn(c)
	if err == nil {
		return p, nil
	}
	if p != nil {
		if d := p.Data.(*Device); h.ids.get(d.device, d.module) != nil {
			h.refused(d, err)
		}
	}
	return nil, err
}

// logIn judges a CONNECT. With an error it may return the principal that was
// refused.
func (h *Hub) logIn(c *auth.Connection) (p *auth.Principal, err error) {
	const op = "azure.Authenticate"
	refuse := func(err error) (*auth.Principal, error) {
		if err == nil {
			return p, errs.Errorf(op, errs.Unauthorized, "the device is not known, is disabled or has not shown who it is")
		}
		return p, errs.E(op, errs.Unauthorized, err)
	}
	u, ok := parseUser(c.Username)
	if !ok || c.TLS == nil {
		return refuse(nil)
	}
	if !h.ours(u.hub, c.TLS.ServerName) {
		return nil, errs.Errorf(op, errs.Unauthorized, "the user name is for the hub %q, which is not this one", trimmed(u.hub))
	}
	if c.ClientID != nameOf(u.device, u.module) {
		return nil, errs.Errorf(op, errs.Unauthorized, "the client id is not the device's")
	}
	i := h.ids.get(u.device, u.module)
	d := &Device{hub: h, device: u.device, module: u.module, since: h.now(), remote: c.Remote}
	p = &auth.Principal{ID: "azure:" + nameOf(u.device, u.module), ClientID: c.ClientID, Remote: c.Remote, Listener: c.Listener, Data: d}
	if len(c.Password) == 0 {
		if i == nil || len(c.TLS.PeerCertificates) == 0 {
			return refuse(nil)
		}
		d.certificate = c.TLS.PeerCertificates[0]
		p.Expires = d.certificate.NotAfter
	} else {
		t, err := ParseToken(string(c.Password))
		if err != nil {
			return refuse(err)
		}
		path := []string{"devices", u.device}
		if u.module != "" {
			path = append(path, "modules", u.module)
		}
		if t.Policy != "" {
			policy, err := h.policy(t, DeviceConnect, u.hub, path...)
			if err != nil {
				return p, err
			}
			d.policy = policy.Name
		} else {
			known := i
			if known == nil {
				known = &Identity{PrimaryKey: noKey, SecondaryKey: noKey}
			}
			first, second := t.Signed(known.PrimaryKey), t.Signed(known.SecondaryKey)
			switch {
			case i == nil || !first && !second:
				return refuse(nil)
			case !h.now().Before(t.Expires):
				return refuse(errExpired)
			case !t.Is(u.hub, path...):
				return refuse(errScope)
			case first:
				d.key = i.PrimaryKey
			default:
				d.key = i.SecondaryKey
			}
		}
		p.Expires = t.Expires
	}
	if i == nil {
		return refuse(nil)
	}
	d.generation = i.Generation
	if err := d.still(); err != nil {
		return p, err
	}
	d.prepare()
	return p, nil
}

// noKey is what a token of a device that does not exist is checked against, so
// that the time does not tell.
var noKey = newKey()

// still reports why the device may not be connected, nil where it may.
func (d *Device) still() error {
	const op = "azure.Still"
	i := d.hub.ids.get(d.device, d.module)
	refuse := func(text string) error { return errs.Errorf(op, errs.Unauthorized, "%s", text) }
	if i == nil || i.unreadable || i.Generation != d.generation {
		return refuse("the device is not known any more")
	}
	if !i.Enabled {
		return refuse("the device is disabled")
	}
	if d.module != "" {
		if of := d.hub.ids.get(d.device, ""); of == nil || !of.Enabled {
			return refuse("the module's device is not known or is disabled")
		}
	}
	switch {
	case d.policy != "":
		return nil
	case d.key != "":
		if i.Type != authSAS || d.key != i.PrimaryKey && d.key != i.SecondaryKey {
			return refuse("the device's keys have changed")
		}
		return nil
	case d.certificate == nil:
		return refuse("the device has not shown who it is")
	}
	return d.hub.certified(i, d.certificate)
}

// certified checks a certificate whose key the client has.
func (h *Hub) certified(i *Identity, leaf *x509.Certificate) error {
	const op = "azure.Authenticate"
	if now := h.now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return errs.Errorf(op, errs.Unauthorized, "the certificate is not valid at this time")
	}
	switch i.Type {
	case authSelfSigned:
		one, two := sha1.Sum(leaf.Raw), sha256.Sum256(leaf.Raw)
		for _, sum := range []string{hex.EncodeToString(one[:]), hex.EncodeToString(two[:])} {
			if sum = strings.ToUpper(sum); sum == i.PrimaryThumb || sum == i.SecondaryThumb {
				return nil
			}
		}
	case authCA:
		if leaf.Subject.CommonName == i.name() && h.o.Issued != nil && h.o.Issued(leaf) {
			return nil
		}
	}
	return errs.Errorf(op, errs.Unauthorized, "the certificate is not the device's")
}
