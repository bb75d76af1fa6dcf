// Package config reads weir.yaml and the WEIR_* environment. It stands before
// any message: cmd/weir reads a Config once, at start, and hands every room the
// few options that room knows.
//
// The one table Keys holds each key with its meaning, unit and default. The
// reader, the environment, the file `weir config` prints and
// docs/configuration.md all come from it, so they cannot disagree.
package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Config is the whole configuration. Default gives one in which each field has
// the value Keys says; the zero value is of no use.
type Config struct {
	DataDir    string // folder, made if missing
	AccountID  string // 12 digits
	Region     string
	Durability string   // "disk", "os", "memory"
	Partitions int      // 1 to 64
	Limits     string   // "aws", "relaxed"
	Rates      string   // "off", "aws"
	RulesDir   string   // folder of rule files; "": none
	Roles      []string // of Roles; empty: all

	SealKeyFile string // "": in the data folder

	Listen       Listen
	TLS          TLS
	NATS         NATS
	Events       Events
	Dead         Dead
	Retry        Retry
	Shadow       Shadow
	HTTP         HTTP
	Limit        Limit
	Safety       Safety
	Provisioning Provisioning
	API          API
	Log          Log
	Debug        Debug
}

// Listen holds the addresses Weir listens on, host:port; "" means not at all.
type Listen struct {
	MQTT  string // plain text, loopback only, no credentials
	MQTTS string
	HTTPS string
	Mux   string // serves everything over TLS
	API   string
	NATS  string // for data teams
}

// TLS is about server certificates.
type TLS struct {
	Names    []string // DNS names and addresses beside localhost and the loopback addresses
	CertsDir string   // folder of the owner's certificates; "": none
	Policy   string   // one of AWS's security policies
}

// NATS points to an external cluster; an empty URL means the embedded server.
type NATS struct {
	URL   string
	Creds string // file
}

// Events bounds the log of each partition.
type Events struct {
	MaxBytes    int64 // 0: auto
	MaxAge      time.Duration
	MaxSubjects int
}

// Dead bounds the stream of dead letters.
type Dead struct{ MaxBytes int64 }

// Retry is how long and how often an action is tried.
type Retry struct {
	For   time.Duration
	Tries string // "weir", "aws"
}

// Shadow is about shadows. A duration of 0 means never, or without end.
type Shadow struct {
	History  int // entries of each shadow's past
	Keep     time.Duration
	Resend   time.Duration
	Diverged time.Duration
}

// HTTP is about webhooks.
type HTTP struct {
	AllowPrivate  bool
	AllowNetworks []netip.Prefix
	EnableURL     string
}

// Limit sets single limits of shape; the zero value of each leaves it to the
// profile Limits names.
type Limit struct {
	Payload, PacketBytes       int64
	TopicBytes, TopicSlashes   int
	Subscriptions              int
	PerSubscribe               int
	InFlight                   int
	TopicAliases               int
	ClientID, ShareName        int // bytes
	KeepAliveMin, KeepAliveMax time.Duration
	MessageExpiryMax           time.Duration
	SessionExpiry              time.Duration
	SessionExpiryMax           time.Duration
	SubscriptionIDs            string // "true", "false"
	RetainedOnWildcard         string
	SNIOptional                string
	Matching                   string // "aws", "standard"
}

// Provisioning is about devices that enrol themselves.
type Provisioning struct {
	Keys      string // "RSA_2048", "ECDSA_P256"
	KeysAhead int
}

// Safety bounds what a stranger can cost, whatever Limits and Rates say.
type Safety struct {
	ConnectTimeout  time.Duration
	Unauthenticated int // connections an address
	FailedLogins    int // a second and address
	Connections     int // in all
	RetainedBytes   int64
	Creations       int // of certificates, a second and principal
}

// API is about the control API.
type API struct {
	Hosts []string // Host headers accepted beside loopback ones
}

// Log is Weir's own log, not the event log.
type Log struct {
	Level  string // "debug", "info", "warn", "error"
	Format string // "text", "json"
}

// Debug is off by default.
type Debug struct {
	Pprof bool
}

// Default returns the configuration of an empty file. With dev it has the
// values `weir dev` starts from: a plain MQTT port, webhooks to loopback.
func Default(dev bool) *Config {
	c := new(Config)
	for _, k := range Keys {
		v := k.Default
		if dev && k.Dev != "" {
			v = k.Dev
		}
		if err := k.set(c, v); err != nil {
			panic("config: default of " + k.Path + ": " + err.Error())
		}
	}
	return c
}

// keyError is a mistake in the value of one key.
type keyError struct{ key, msg string }

func (e *keyError) Error() string { return e.key + ": " + e.msg }

// Mistake returns the error of a value that cannot stand with others; key is
// where the owner finds it.
func Mistake(key, format string, args ...any) error {
	return &keyError{key, fmt.Sprintf(format, args...)}
}

// Validate checks what no key can check by itself. Its errors name the key.
func (c *Config) Validate() error {
	if c.Listen.MQTT != "" && !loopback(c.Listen.MQTT) {
		return Mistake("listen.mqtt", "%s is not a loopback address: the plain MQTT port asks for no credentials; use listen.mqtts for devices", c.Listen.MQTT)
	}
	if c.Listen.NATS != "" && !loopback(c.Listen.NATS) {
		return Mistake("listen.nats", "%s is not a loopback address: the embedded NATS server has no TLS; give data teams an external cluster (nats.url) or a tunnel", c.Listen.NATS)
	}
	if c.NATS.URL == "" && c.NATS.Creds != "" {
		return Mistake("nats.creds", "nats.url is not set: credentials are for an external cluster")
	}
	listeners := []struct{ key, addr string }{
		{"listen.mqtt", c.Listen.MQTT}, {"listen.mqtts", c.Listen.MQTTS}, {"listen.https", c.Listen.HTTPS},
		{"listen.mux", c.Listen.Mux}, {"listen.api", c.Listen.API}, {"listen.nats", c.Listen.NATS},
	}
	for i, l := range listeners {
		for _, other := range listeners[:i] {
			if overlap(l.addr, other.addr) {
				return Mistake(l.key, "%s is the address of %s too (%s): each listener needs a port of its own", l.addr, other.key, other.addr)
			}
		}
	}
	if c.NATS.URL == "" && len(c.Roles) > 0 {
		return Mistake("roles", "nats.url is not set: processes with roles of their own meet on an external NATS server")
	}
	if c.Listen.API == "" {
		return Mistake("listen.api", "empty: the command line and the health check need it")
	}
	return nil
}

// overlap reports whether two listeners want one port of one address.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	every := func(host string) bool { ip, err := netip.ParseAddr(host); return err == nil && ip.IsUnspecified() }
	local := func(host, other string) bool { return host == "localhost" && loopback(net.JoinHostPort(other, portA)) }
	return hostA == hostB || every(hostA) || every(hostB) || local(hostA, hostB) || local(hostB, hostA)
}

// loopback reports whether addr, host:port, can be reached from this machine
// only.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// Loopback reports whether the address in key listen.api and its like stays on
// this machine.
func Loopback(addr string) bool { return loopback(addr) }

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("expected http://host or https://host, found %q", s)
	}
	return nil
}

func checkNATSURL(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		u, err := url.Parse(strings.TrimSpace(part))
		if err != nil || u.Host == "" || u.Scheme != "nats" && u.Scheme != "tls" {
			return fmt.Errorf("expected nats://host:port or tls://host:port, found %q", part)
		}
		if u.User != nil {
			return fmt.Errorf("%q holds credentials: put them into a file and name it in nats.creds", u.Redacted())
		}
	}
	return nil
}
