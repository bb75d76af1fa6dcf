package config

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Key is one setting: a row of the reference.
type Key struct {
	Path    string // as written in weir.yaml, levels joined with dots
	Type    string // for people: "duration", "size", "address", "disk, os or memory"
	Default string // as written in the file; "" is empty
	Dev     string // the default of `weir dev`, where it differs
	Help    string // what it does, in whole sentences
	List    bool

	set func(*Config, string) error // lists: joined with commas
	get func(*Config) string
}

// Env is the environment variable that overrides k.
func (k *Key) Env() string {
	return "WEIR_" + strings.ToUpper(strings.ReplaceAll(k.Path, ".", "_"))
}

// Roles are the parts of Weir that may run as processes of their own.
var Roles = []string{"ingest", "rules", "shadow", "registry", "functions"}

// Keys is every setting in the order of the file.
var Keys = []Key{
	text("data_dir", "folder", "./weir-data", func(c *Config) *string { return &c.DataDir }, notEmpty,
		"Everything Weir keeps: the event log, rules, its own CA and keys, the admin token. Made if missing, mode 0700."),
	text("account_id", "12 digits", "123456789012", func(c *Config) *string { return &c.AccountID }, pattern(`^[0-9]{12}$`, "12 digits"),
		"The AWS account Weir answers as: accountid() in rules, and ARNs."),
	text("region", "text", "us-east-1", func(c *Config) *string { return &c.Region }, pattern(`^[a-z0-9-]{1,32}$`, "a region such as us-east-1"),
		"The AWS region Weir answers as, and the one actions use unless they or AWS_REGION name another."),
	choice("durability", "disk", []string{"disk", "os", "memory"}, func(c *Config) *string { return &c.Durability },
		"What a PUBACK or a 200 promises. disk: the event is synced to disk and survives a power cut. os: it is written, and survives kill -9 but not a power cut. memory: gone with the process; for tests."),
	count("partitions", "1", 1, 64, func(c *Config) *int { return &c.Partitions },
		"Streams the events are spread over. One keeps up with over 60,000 messages a second. Fixed when the data folder is made; a later change is refused."),
	choice("limits", "aws", []string{"aws", "relaxed"}, func(c *Config) *string { return &c.Limits },
		"Limits of shape, such as sizes and levels. aws: those of AWS IoT Core. relaxed: payloads of 1 MiB, topics of 1,024 bytes and 32 levels, 1,000 in flight, the MQTT standard where AWS differs from it."),
	choice("rates", "off", []string{"off", "aws"}, func(c *Config) *string { return &c.Rates },
		"Limits of rate of MQTT clients. off: none. aws: 100 publishes and 512 KiB a second and connection, 1 CONNECT a second and client id. Publishes over it are not taken (MQTT 5: PUBACK 0x97; 3.1.1: none), bytes are read later, a CONNECT is refused (0x9F; 3.1.1: 3)."),
	some("roles", Roles, func(c *Config) *[]string { return &c.Roles },
		"The parts of Weir this process runs: ingest (MQTT and HTTPS for devices), rules (the rules engine and its actions), shadow (the shadow service), registry (things, certificates, enrolment, the control API and AWS's), functions (what runs functions). Several processes with roles of their own share one nats.url. Empty: all."),
	text("seal_key_file", "file", "", func(c *Config) *string { return &c.SealKeyFile }, nil,
		"The key that secrets in the store are sealed with: 32 bytes, mode 0600. Processes with the roles ingest and registry are given the same one; what else they have in common, such as the CA, they find sealed with it. Empty: seal.key in the data folder, made at the first start."),
	text("rules_dir", "folder", "", func(c *Config) *string { return &c.RulesDir }, nil,
		"A folder of rule files (.json, .yaml, .yml), applied at start and again when one changes. A bad file keeps the rule it had; a removed one leaves its rule, `weir rule delete` ends it. Empty: rules are made with `weir rule apply` only."),

	address("listen.mqtt", "", func(c *Config) *string { return &c.Listen.MQTT },
		"MQTT in plain text, without credentials. Loopback only, for development. Empty: off.").dev("127.0.0.1:1883"),
	address("listen.mqtts", "localhost:8883", func(c *Config) *string { return &c.Listen.MQTTS },
		"MQTT over TLS with client certificates. localhost: both loopback addresses; [::]: every interface, IPv4 and IPv6. Empty: off."),
	address("listen.https", "localhost:8443", func(c *Config) *string { return &c.Listen.HTTPS },
		"HTTPS publish, POST /topics/<topic>, and shadows, with client certificates. Empty: off."),
	address("listen.mux", "localhost:4443", func(c *Config) *string { return &c.Listen.Mux },
		"The one port that serves MQTT, MQTT over WebSocket and HTTPS by ALPN name, as AWS does on 443: with client certificates, Signature Version 4 and custom authorizers. Empty: off."),
	address("listen.api", "127.0.0.1:8080", func(c *Config) *string { return &c.Listen.API },
		"The control API the command line uses, /healthz and /metrics. Plain HTTP with a bearer token: put a TLS proxy in front of it before it leaves the machine."),
	address("listen.nats", "127.0.0.1:4222", func(c *Config) *string { return &c.Listen.NATS },
		"The embedded NATS server, for data teams with nats-reader.creds, which may only consume events. Loopback only. Empty: off."),

	list("tls.names", "", func(c *Config) *[]string { return &c.TLS.Names },
		"Names and addresses devices connect to, for the certificate Weir makes for itself; localhost, 127.0.0.1 and ::1 are always in it."),

	text("tls.certs_dir", "folder", "", func(c *Config) *string { return &c.TLS.CertsDir }, nil,
		"Your own server certificates, each shown for the names in it: NAME.crt and NAME.key, or NAME/fullchain.pem and NAME/privkey.pem, or NAME/tls.crt and NAME/tls.key, and to be stapled NAME.ocsp or NAME/ocsp.der. Read again when a file changes, so an ACME client may write there. Empty: the certificate Weir makes for itself."),
	choice("tls.policy", domainPolicies[0], domainPolicies, func(c *Config) *string { return &c.TLS.Policy },
		"TLS versions, by AWS's names of security policies. The suites of TLS 1.2 are AWS's that are forward secret. A domain configuration may name another policy."),

	text("nats.url", "text", "", func(c *Config) *string { return &c.NATS.URL }, optional(checkNATSURL),
		"An external NATS cluster, nats://host:port or tls://host:port, several with commas. Empty: the embedded server."),
	text("nats.creds", "file", "", func(c *Config) *string { return &c.NATS.Creds }, nil,
		"Credentials file for nats.url: one of NATS (a JWT and its key), or user:password in a file of mode 0600."),

	size("events.max_bytes", "auto", 64<<20, math.MaxInt64, func(c *Config) *int64 { return &c.Events.MaxBytes },
		"How large the log may grow. At the limit publishers get an error; nothing is dropped. auto: 70 % of the volume."),
	duration("events.max_age", "24h", time.Minute, 10*365*24*time.Hour, func(c *Config) *time.Duration { return &c.Events.MaxAge },
		"How long events are kept. Replay, sessions and `weir tail --since` reach back this far."),
	count("events.max_subjects", "1000000", 1, 1<<30, func(c *Config) *int { return &c.Events.MaxSubjects },
		"Different topics on the log at a time. Past it a new topic is refused with quota exceeded: each one costs memory."),

	size("dead.max_bytes", "1GiB", 1<<20, math.MaxInt64, func(c *Config) *int64 { return &c.Dead.MaxBytes },
		"How large the stream of dead letters may grow. At the limit the oldest go, counted and logged."),

	duration("retry.for", "1h", time.Second, 30*24*time.Hour, func(c *Config) *time.Duration { return &c.Retry.For },
		"How long an action waits for a destination that cannot be reached before its results go to the error action."),
	choice("retry.tries", "weir", []string{"weir", "aws"}, func(c *Config) *string { return &c.Retry.Tries },
		"What counts as a try. weir: an answer only; time-outs and refused connections wait up to retry.for. aws: those too, so a destination that is away loses results to the error action as it does at AWS."),

	count("shadow.history", "64", 1, 1000, func(c *Config) *int { return &c.Shadow.History },
		"How many versions of each shadow are kept, at least: versions made in the same moment count as one. Older ones go."),
	duration("shadow.keep", "0s", 0, 10*365*24*time.Hour, func(c *Config) *time.Duration { return &c.Shadow.Keep },
		"How long versions of a shadow can be looked at after a newer one has come. 0s: as long as shadow.history keeps them."),
	duration("shadow.resend", "0s", 0, 30*24*time.Hour, func(c *Config) *time.Duration { return &c.Shadow.Resend },
		"Send a delta again when no report has answered it for this long, then at twice the distance each time, up to 1h. 0s: never, as AWS does."),
	duration("shadow.diverged", "0s", 0, 365*24*time.Hour, func(c *Config) *time.Duration { return &c.Shadow.Diverged },
		"Publish an event on $aws/events/shadow/diverged/<thing>[/<shadow>] when the desired state of a shadow has not been reported for this long. 0s: never."),

	boolean("http.allow_private", "false", func(c *Config) *bool { return &c.HTTP.AllowPrivate },
		"Allow webhooks to private and loopback addresses, and plain http. Off, the address is checked when it is dialled.").dev("true"),
	networks("http.allow_networks", func(c *Config) *[]netip.Prefix { return &c.HTTP.AllowNetworks },
		"Private networks webhooks may go to all the same, such as 10.20.0.0/16; plain http is allowed there."),
	text("http.enable_url", "URL", "", func(c *Config) *string { return &c.HTTP.EnableURL }, optional(checkURL),
		"Where the owner of a webhook confirms it, as it is reached from outside: a proxy in front of the control API. The path /confirmdestination/<token> is added. Empty: confirm with `weir destination confirm TOKEN`."),

	override(size("limit.payload", "", 1, 8<<20, func(c *Config) *int64 { return &c.Limit.Payload },
		"Bytes of one message, instead of what `limits` says, as for all keys of this group."), func(c *Config) *int64 { return &c.Limit.Payload }),
	override(size("limit.packet_bytes", "", 2<<10, 16<<20, func(c *Config) *int64 { return &c.Limit.PacketBytes },
		"Bytes of a whole MQTT packet, announced in CONNACK. At least 1 KiB more than a message; grows with limit.payload where it is not set."), func(c *Config) *int64 { return &c.Limit.PacketBytes }),
	limit("limit.topic_bytes", 1, 1024, func(c *Config) *int { return &c.Limit.TopicBytes },
		"Bytes of a topic or a topic filter."),
	limit("limit.topic_slashes", 1, 1024, func(c *Config) *int { return &c.Limit.TopicSlashes },
		"Slashes in a topic or a topic filter."),
	limit("limit.subscriptions", 1, 1<<20, func(c *Config) *int { return &c.Limit.Subscriptions },
		"Subscriptions of one connection."),
	limit("limit.per_subscribe", 1, 1<<16, func(c *Config) *int { return &c.Limit.PerSubscribe },
		"Topic filters in one SUBSCRIBE."),
	limit("limit.in_flight", 1, 1<<16-1, func(c *Config) *int { return &c.Limit.InFlight },
		"QoS 1 messages of a connection that are not acknowledged, each way."),
	limit("limit.topic_aliases", 1, 1<<16-1, func(c *Config) *int { return &c.Limit.TopicAliases },
		"Topic aliases of a connection, each way."),
	limit("limit.client_id_bytes", 1, 1<<16-1, func(c *Config) *int { return &c.Limit.ClientID },
		"Bytes of a client id."),
	limit("limit.share_name_bytes", 1, 1<<16-1, func(c *Config) *int { return &c.Limit.ShareName },
		"Bytes of the name of a shared subscription."),
	override(duration("limit.keep_alive_min", "", time.Second, 65535*time.Second, func(c *Config) *time.Duration { return &c.Limit.KeepAliveMin },
		"Least keep-alive; a shorter one counts as this."), func(c *Config) *time.Duration { return &c.Limit.KeepAliveMin }),
	override(duration("limit.keep_alive_max", "", time.Second, 65535*time.Second, func(c *Config) *time.Duration { return &c.Limit.KeepAliveMax },
		"Longest keep-alive; a longer one, and none, counts as this."), func(c *Config) *time.Duration { return &c.Limit.KeepAliveMax }),
	override(duration("limit.message_expiry_max", "", time.Second, 3650*24*time.Hour, func(c *Config) *time.Duration { return &c.Limit.MessageExpiryMax },
		"Longest message expiry; a longer one counts as this."), func(c *Config) *time.Duration { return &c.Limit.MessageExpiryMax }),
	override(duration("limit.session_expiry", "", time.Second, 3650*24*time.Hour, func(c *Config) *time.Duration { return &c.Limit.SessionExpiry },
		"How long a persistent session of MQTT 3.1.1 is kept, which cannot say."), func(c *Config) *time.Duration { return &c.Limit.SessionExpiry }),
	override(duration("limit.session_expiry_max", "", time.Second, 3650*24*time.Hour, func(c *Config) *time.Duration { return &c.Limit.SessionExpiryMax },
		"Longest session expiry; a longer one counts as this. events.max_age bounds it too."), func(c *Config) *time.Duration { return &c.Limit.SessionExpiryMax }),
	toggle("limit.subscription_ids", func(c *Config) *string { return &c.Limit.SubscriptionIDs },
		"MQTT 5 subscription identifiers are available."),
	toggle("limit.retained_on_wildcard", func(c *Config) *string { return &c.Limit.RetainedOnWildcard },
		"A subscription with a wildcard gets retained messages."),
	toggle("limit.sni_optional", func(c *Config) *string { return &c.Limit.SNIOptional },
		"A TLS client from loopback may leave out the server name."),
	override(choice("limit.matching", "", []string{"aws", "standard"}, func(c *Config) *string { return &c.Limit.Matching },
		"How subscriptions match. standard: a/# matches a, as the MQTT standard says."), func(c *Config) *string { return &c.Limit.Matching }),

	duration("safety.connect_timeout", "10s", time.Second, 5*time.Minute, func(c *Config) *time.Duration { return &c.Safety.ConnectTimeout },
		"From accepting a connection to a complete CONNECT, TLS included."),
	count("safety.unauthenticated", "500", 1, 1<<20, func(c *Config) *int { return &c.Safety.Unauthenticated },
		"Connections one address may hold before they have logged in."),
	count("safety.failed_logins", "10", 1, 1<<20, func(c *Config) *int { return &c.Safety.FailedLogins },
		"Failed log-ins a second and address; more are cut without an answer."),
	count("safety.connections", "100000", 1, 1<<24, func(c *Config) *int { return &c.Safety.Connections },
		"Device connections in all."),

	size("safety.retained_bytes", "256MiB", 1<<20, 1<<40, func(c *Config) *int64 { return &c.Safety.RetainedBytes },
		"Memory for retained messages. Past it a larger or a new one is refused with quota exceeded."),

	count("safety.creations", "200", 1, 1<<20, func(c *Config) *int { return &c.Safety.Creations },
		"Certificates a second that the devices of one claim certificate, or any other identity, can ask for by MQTT; as many can be registered by a template."),

	choice("provisioning.keys", "RSA_2048", []string{"RSA_2048", "ECDSA_P256"}, func(c *Config) *string { return &c.Provisioning.Keys },
		"The keys Weir makes for devices and owners that bring none (CreateKeysAndCertificate, CreateProvisioningClaim). AWS makes RSA_2048; one takes a core for a tenth of a second, ECDSA_P256 nearly nothing."),
	count("provisioning.keys_ahead", "64", 0, 10_000, func(c *Config) *int { return &c.Provisioning.KeysAhead },
		"RSA keys made ahead, on at most a quarter of a core, while there is a fleet provisioning template: a burst of devices gets those at once. They are in memory only. 0: none."),

	list("api.hosts", "", func(c *Config) *[]string { return &c.API.Hosts },
		"Host names the control API may be reached by beside loopback ones. Requests with another Host header are refused, so that no web page can reach it through DNS."),

	choice("log.level", "info", []string{"debug", "info", "warn", "error"}, func(c *Config) *string { return &c.Log.Level },
		"The least level that is logged, to standard error."),
	choice("log.format", "text", []string{"text", "json"}, func(c *Config) *string { return &c.Log.Format },
		"The form of log lines."),

	boolean("debug.pprof", "false", func(c *Config) *bool { return &c.Debug.Pprof },
		"Serve Go profiles at /debug/pprof/ of the control API, with the admin token."),
}

// domainPolicies are the TLS policies, the default first.
var domainPolicies = []string{"IoTSecurityPolicy_TLS13_1_2_2022_10", "IoTSecurityPolicy_TLS13_1_3_2022_10", "IoTSecurityPolicy_TLS12_1_2_2022_10"}

// Lookup returns the key written as path, or nil.
func Lookup(path string) *Key {
	for i := range Keys {
		if Keys[i].Path == path {
			return &Keys[i]
		}
	}
	return nil
}

// Set gives the key at path the value text, as a file would.
func (c *Config) Set(path, text string) error {
	k := Lookup(path)
	if k == nil {
		return fmt.Errorf("unknown key %q", path)
	}
	if err := k.set(c, text); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Get returns the value of the key at path as a file would write it.
func (c *Config) Get(path string) string {
	if k := Lookup(path); k != nil {
		return k.get(c)
	}
	return ""
}

func (k Key) dev(value string) Key {
	k.Dev = value
	return k
}

func text(path, typ, def string, at func(*Config) *string, check func(string) error, help string) Key {
	return Key{Path: path, Type: typ, Default: def, Help: help,
		get: func(c *Config) string { return *at(c) },
		set: func(c *Config, s string) error {
			if check != nil {
				if err := check(s); err != nil {
					return err
				}
			}
			*at(c) = s
			return nil
		}}
}

func choice(path, def string, values []string, at func(*Config) *string, help string) Key {
	k := text(path, or(values), def, at, func(s string) error {
		if !slices.Contains(values, s) {
			return &hinted{msg: fmt.Sprintf("expected %s, found %q", or(values), s), near: s, names: values}
		}
		return nil
	}, help)
	return k
}

func address(path, def string, at func(*Config) *string, help string) Key {
	return text(path, "host:port", def, at, optional(func(s string) error {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			return fmt.Errorf("expected host:port, found %q", s)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			return fmt.Errorf("port %q is not a number from 0 to 65535", port)
		}
		if host == "" {
			return fmt.Errorf("%q names no host: write 127.0.0.1%s for this machine only, 0.0.0.0%s for every interface", s, s, s)
		}
		return nil
	}), help)
}

func networks(path string, at func(*Config) *[]netip.Prefix, help string) Key {
	return Key{Path: path, Type: "list of networks", Help: help, List: true,
		get: func(c *Config) string {
			var parts []string
			for _, p := range *at(c) {
				parts = append(parts, p.String())
			}
			return strings.Join(parts, ",")
		},
		set: func(c *Config, s string) error {
			var out []netip.Prefix
			for part := range strings.SplitSeq(s, ",") {
				part = strings.TrimSpace(part)
				if part == "" {
					continue
				}
				p, err := netip.ParsePrefix(part)
				if err != nil {
					return fmt.Errorf("%q is not a network: expected one such as 10.20.0.0/16", part)
				}
				out = append(out, p.Masked())
			}
			*at(c) = out
			return nil
		}}
}

func list(path, def string, at func(*Config) *[]string, help string) Key {
	return Key{Path: path, Type: "list of names", Default: def, Help: help, List: true,
		get: func(c *Config) string { return strings.Join(*at(c), ",") },
		set: func(c *Config, s string) error {
			var names []string
			for n := range strings.SplitSeq(s, ",") {
				n = strings.TrimSpace(n)
				if n == "" {
					continue
				}
				if strings.ContainsAny(n, " /:\"'") && net.ParseIP(n) == nil {
					return fmt.Errorf("%q is neither a host name nor an address", n)
				}
				names = append(names, n)
			}
			*at(c) = names
			return nil
		}}
}

// some is a list of known names.
func some(path string, known []string, at func(*Config) *[]string, help string) Key {
	return Key{Path: path, Type: "list of " + strings.Join(known, ", "), Help: help, List: true,
		get: func(c *Config) string { return strings.Join(*at(c), ",") },
		set: func(c *Config, s string) error {
			var names []string
			for n := range strings.SplitSeq(s, ",") {
				n = strings.TrimSpace(n)
				switch {
				case n == "":
					continue
				case !slices.Contains(known, n):
					return &hinted{msg: fmt.Sprintf("there is no %q: expected %s", n, or(known)), near: n, names: known}
				case !slices.Contains(names, n):
					names = append(names, n)
				}
			}
			*at(c) = names
			return nil
		}}
}

func count(path, def string, min, max int, at func(*Config) *int, help string) Key {
	return Key{Path: path, Type: fmt.Sprintf("number, %s to %s", grouped(min), grouped(max)), Default: def, Help: help,
		get: func(c *Config) string { return strconv.Itoa(*at(c)) },
		set: func(c *Config, s string) error {
			n, err := strconv.Atoi(strings.ReplaceAll(s, "_", ""))
			if err != nil {
				return fmt.Errorf("expected a whole number, found %q", s)
			}
			if n < min || n > max {
				return fmt.Errorf("%s is out of range: from %s to %s", grouped(n), grouped(min), grouped(max))
			}
			*at(c) = n
			return nil
		}}
}

func boolean(path, def string, at func(*Config) *bool, help string) Key {
	return Key{Path: path, Type: "true or false", Default: def, Help: help,
		get: func(c *Config) string { return strconv.FormatBool(*at(c)) },
		set: func(c *Config, s string) error {
			switch s {
			case "true":
				*at(c) = true
			case "false":
				*at(c) = false
			default:
				return fmt.Errorf("expected true or false, found %q", s)
			}
			return nil
		}}
}

func size(path, def string, min, max int64, at func(*Config) *int64, help string) Key {
	typ := "size"
	if def == "auto" {
		typ = "size, or auto"
	}
	return Key{Path: path, Type: typ, Default: def, Help: help,
		get: func(c *Config) string {
			if *at(c) == 0 {
				return "auto"
			}
			return FormatSize(*at(c))
		},
		set: func(c *Config, s string) error {
			if s == "auto" && def == "auto" {
				*at(c) = 0
				return nil
			}
			n, err := ParseSize(s)
			if err != nil {
				return err
			}
			if n < min {
				return fmt.Errorf("%s is too small: at least %s", s, FormatSize(min))
			}
			if n > max {
				return fmt.Errorf("%s is too large: at most %s", s, FormatSize(max))
			}
			*at(c) = n
			return nil
		}}
}

func duration(path, def string, min, max time.Duration, at func(*Config) *time.Duration, help string) Key {
	return Key{Path: path, Type: "duration", Default: def, Help: help,
		get: func(c *Config) string { return FormatDuration(*at(c)) },
		set: func(c *Config, s string) error {
			d, err := ParseDuration(s)
			if err != nil {
				return err
			}
			if d < min || d > max {
				return fmt.Errorf("%s is out of range: from %s to %s", s, FormatDuration(min), FormatDuration(max))
			}
			*at(c) = d
			return nil
		}}
}

// override makes k a key whose default, "profile", leaves the value to the
// profile that the key limits names: the zero value.
func override[T comparable](k Key, at func(*Config) *T) Key {
	set, get := k.set, k.get
	k.Default = "profile"
	k.Type += ", or profile"
	k.get = func(c *Config) string {
		var zero T
		if *at(c) == zero {
			return "profile"
		}
		return get(c)
	}
	k.set = func(c *Config, s string) error {
		if s == "profile" {
			var zero T
			*at(c) = zero
			return nil
		}
		return set(c, s)
	}
	return k
}

func limit(path string, min, max int, at func(*Config) *int, help string) Key {
	return override(count(path, "", min, max, at, help), at)
}

func toggle(path string, at func(*Config) *string, help string) Key {
	return override(choice(path, "", []string{"true", "false"}, at, help), at)
}

func notEmpty(s string) error {
	if s == "" {
		return fmt.Errorf("must not be empty")
	}
	return nil
}

func optional(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		return check(s)
	}
}

func pattern(re, want string) func(string) error {
	r := regexp.MustCompile(re)
	return func(s string) error {
		if !r.MatchString(s) {
			return fmt.Errorf("expected %s, found %q", want, s)
		}
		return nil
	}
}

// or joins values for people: "a, b or c".
func or(values []string) string {
	if len(values) < 2 {
		return strings.Join(values, "")
	}
	return strings.Join(values[:len(values)-1], ", ") + " or " + values[len(values)-1]
}

// hinted is an error of a value that is perhaps a misspelling of one of names.
type hinted struct {
	msg, near string
	names     []string
}

func (e *hinted) Error() string { return e.msg }
