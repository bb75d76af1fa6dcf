package domain

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weir-iot/weir/ingest/auth"
)

// Config is a domain configuration.
type Config struct {
	Name    string // of the configuration
	Enabled bool   // else connections to the domain are refused
	// Certificates name the pair in the folder to show; empty: one that covers the
	// domain's name. Of an ARN the part behind the last slash counts.
	Certificates []string
	TLSPolicy    string // see Policies; "": the default

	DefaultAuthorizer string // "": the account's
	AllowOverride     bool   // clients may name another authorizer

	AuthenticationType  string // "" or "DEFAULT": any; "AWS_X509", "AWS_SIGV4", "CUSTOM_AUTH"
	ApplicationProtocol string // "" or "DEFAULT": any; "SECURE_MQTT", "MQTT_WSS", "HTTPS"
}

// Configs finds domain configurations. Domain is called for every connection,
// and answers from memory. name is a server name as a client sent it.
type Configs interface {
	Domain(name string) (*Config, bool)
}

// The ways of authentication a domain may be limited to.
const (
	Certificate = "AWS_X509"
	Signature   = "AWS_SIGV4"
	Custom      = "CUSTOM_AUTH"
)

// Allows reports whether clients may use an authentication on a listener.
func (c *Config) Allows(authentication string, l auth.Listener) bool {
	if !c.Enabled {
		return false
	}
	if t := c.AuthenticationType; t != "" && t != "DEFAULT" && t != authentication {
		return false
	}
	switch c.ApplicationProtocol {
	case "", "DEFAULT":
		return true
	case "SECURE_MQTT":
		return l == auth.TLS
	case "MQTT_WSS":
		return l == auth.WebSocket
	case "HTTPS":
		return l == auth.HTTPS
	}
	return false
}

// The TLS policies, by AWS's names. Those that begin at TLS 1.0 mean TLS 1.2
// here: there is nothing below it.
// Source: AWS IoT Core developer guide, "Transport security", security policies.
const (
	TLS13Only      = "IoTSecurityPolicy_TLS13_1_3_2022_10"
	TLS12And13     = "IoTSecurityPolicy_TLS13_1_2_2022_10" // the default
	TLS12Only      = "IoTSecurityPolicy_TLS12_1_2_2022_10"
	defaultPolicy  = TLS12And13
	maxCertificate = 64 << 10 // bytes of a file
)

var policies = map[string]struct{ min, max uint16 }{
	TLS13Only:  {tls.VersionTLS13, tls.VersionTLS13},
	TLS12And13: {tls.VersionTLS12, tls.VersionTLS13},
	TLS12Only:  {tls.VersionTLS12, tls.VersionTLS12},

	"IoTSecurityPolicy_TLS12_1_0_2016_01": {tls.VersionTLS12, tls.VersionTLS12},
	"IoTSecurityPolicy_TLS12_1_0_2015_01": {tls.VersionTLS12, tls.VersionTLS12},
}

// Policies are the names of the TLS policies.
func Policies() []string { return slices.Sorted(maps.Keys(policies)) }

// CheckPolicy reports why name is no TLS policy; "" is the default.
func CheckPolicy(name string) error {
	if _, ok := policies[name]; name != "" && !ok {
		return fmt.Errorf("TLS policy %q is not one of %s", name, strings.Join(Policies(), ", "))
	}
	return nil
}

// ciphers are the suites of TLS 1.2: AWS's list, without those that have no
// forward secrecy or that Go's TLS does not have in constant time
// (ECDHE-*-AES*-SHA256, -SHA384 in CBC mode).
var ciphers = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
}
