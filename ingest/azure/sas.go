package azure

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Token is a shared access signature as it was sent.
// Source: Azure IoT Hub, "Control access to IoT Hub with shared access
// signatures".
type Token struct {
	Resource []string // segments of sr, decoded once: host, "devices", id, …
	Policy   string   // skn; "": signed with a key of the resource itself
	Expires  time.Time

	signed string // what the signature is of: sr as sent, a line end, se as sent
	sig    []byte
}

const tokenPrefix = "SharedAccessSignature "

var (
	errToken     = errors.New("not a shared access signature")
	errTokenTime = errors.New("the expiry of the shared access signature is not a time in seconds")
	errExpired   = errors.New("the shared access signature has expired")
	errSignature = errors.New("the signature is not valid")
	errScope     = errors.New("the shared access signature is for another resource")
)

// maxToken bounds a token, in bytes.
const maxToken = 4 << 10

// ParseToken takes a token apart. Nothing of it is believed before Signed.
func ParseToken(s string) (*Token, error) {
	rest, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok || len(s) > maxToken {
		return nil, errToken
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(rest, "&") {
		name, value, ok := strings.Cut(part, "=")
		if _, twice := fields[name]; !ok || twice {
			return nil, errToken
		}
		switch name {
		case "sr", "sig", "se", "skn":
			fields[name] = value
		default:
			return nil, errToken
		}
	}
	if fields["sr"] == "" || fields["sig"] == "" {
		return nil, errToken
	}
	sr, sig, se, skn := fields["sr"], fields["sig"], fields["se"], fields["skn"]
	t := &Token{signed: sr + "\n" + se}
	resource, err := url.PathUnescape(sr)
	if err != nil {
		return nil, errToken
	}
	t.Resource = strings.Split(resource, "/")
	for _, segment := range t.Resource {
		if segment == "" {
			return nil, errToken
		}
	}
	if t.Policy, err = url.PathUnescape(skn); err != nil {
		return nil, errToken
	}
	// Ten digits reach the year 2286; more are milliseconds by mistake.
	if len(se) == 0 || len(se) > 10 || strings.Trim(se, "0123456789") != "" {
		return nil, errTokenTime
	}
	n, err := strconv.ParseInt(se, 10, 64)
	if err != nil {
		return nil, errTokenTime
	}
	t.Expires = time.Unix(n, 0)
	text, err := url.PathUnescape(sig)
	if err != nil {
		return nil, errSignature
	}
	if t.sig, err = base64.StdEncoding.Strict().DecodeString(text); err != nil || len(t.sig) != sha256.Size {
		return nil, errSignature
	}
	return t, nil
}

// Signed reports whether one of the keys, Base64 each, made the signature. The
// time it takes does not tell which, or how near a wrong one came.
func (t *Token) Signed(keys ...string) bool {
	good := false
	for _, key := range keys {
		k, err := base64.StdEncoding.DecodeString(key)
		if err != nil || len(k) == 0 {
			continue
		}
		if hmac.Equal(t.sig, mac(k, t.signed)) {
			good = true
		}
	}
	return good
}

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// Covers reports whether the token's resource is the resource asked for or one
// above it, segment by segment. Host names have no case, all else has.
func (t *Token) Covers(host string, path ...string) bool {
	if !sameHost(t.Resource[0], host) || len(t.Resource)-1 > len(path) {
		return false
	}
	for i, segment := range t.Resource[1:] {
		if segment != path[i] {
			return false
		}
	}
	return true
}

// Is reports whether the token's resource is the resource itself.
func (t *Token) Is(host string, path ...string) bool {
	return len(t.Resource)-1 == len(path) && t.Covers(host, path...)
}

// sameHost compares host names; a port does not count.
func sameHost(a, b string) bool { return strings.EqualFold(withoutPort(a), withoutPort(b)) }

func withoutPort(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

// MakeToken returns a token for a resource such as "hub/devices/dev1", signed
// with a key in Base64, that of policy where it is not empty.
func MakeToken(resource, policy, key string, expires time.Time) (string, error) {
	k, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(k) == 0 {
		return "", errors.New("the key is not Base64")
	}
	sr, se := url.QueryEscape(resource), strconv.FormatInt(expires.Unix(), 10)
	s := tokenPrefix + "sr=" + sr + "&sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac(k, sr+"\n"+se))) + "&se=" + se
	if policy != "" {
		s += "&skn=" + url.QueryEscape(policy)
	}
	return s, nil
}

// ConnectionString is what SDKs call by that name.
type ConnectionString struct {
	Host, Device, Module, Policy, Key string
}

// ParseConnectionString reads "HostName=…;DeviceId=…;SharedAccessKey=…" or
// "HostName=…;SharedAccessKeyName=…;SharedAccessKey=…".
func ParseConnectionString(s string) (*ConnectionString, error) {
	c := &ConnectionString{}
	for part := range strings.SplitSeq(s, ";") {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return nil, errors.New("not a connection string: expected NAME=VALUE;…")
		}
		switch name {
		case "HostName":
			c.Host = value
		case "DeviceId":
			c.Device = value
		case "ModuleId":
			c.Module = value
		case "SharedAccessKeyName":
			c.Policy = value
		case "SharedAccessKey":
			c.Key = value
		}
	}
	if c.Host == "" || c.Key == "" || (c.Device == "") == (c.Policy == "") {
		return nil, errors.New("the connection string needs HostName, SharedAccessKey, and either DeviceId or SharedAccessKeyName")
	}
	return c, nil
}

// String is the connection string; it has the key.
func (c *ConnectionString) String() string {
	s := "HostName=" + c.Host
	if c.Device != "" {
		s += ";DeviceId=" + c.Device
	}
	if c.Module != "" {
		s += ";ModuleId=" + c.Module
	}
	if c.Policy != "" {
		s += ";SharedAccessKeyName=" + c.Policy
	}
	return s + ";SharedAccessKey=" + c.Key
}
