package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/auth/authtest"
	iotpolicy "github.com/weir-iot/weir/ingest/policy"
)

const arns = "arn:aws:iot:us-east-1:123456789012:"

// allow returns a policy that allows an action on resources of the test's
// account, for each "iot:Action resource".
func allow(grants ...string) string {
	var st []string
	for _, g := range grants {
		effect := "Allow"
		if rest, ok := strings.CutPrefix(g, "!"); ok {
			effect, g = "Deny", rest
		}
		action, resource, _ := strings.Cut(g, " ")
		if resource != "*" {
			resource = arns + resource
		}
		st = append(st, fmt.Sprintf(`{"Effect": %q, "Action": %q, "Resource": %q}`, effect, action, resource))
	}
	return `{"Version": "2012-10-17", "Statement": [` + strings.Join(st, ",") + `]}`
}

// fortress is a gateway with TLS, a registry of certificates, and policies.
type fortress struct {
	*rig
	ca        *auth.CA
	dir       *authtest.Directory
	metrics   *prometheus.Registry
	announced chan *auth.Registration
	retained  *fakeBucket
	sessions  *fakeBucket
}

func fortified(t testing.TB, change ...func(*Options)) *fortress {
	t.Helper()
	ca, err := auth.OpenCA(t.TempDir(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &fortress{ca: ca, dir: authtest.NewDirectory(), metrics: prometheus.NewRegistry(), announced: make(chan *auth.Registration, 10),
		retained: newFakeBucket(), sessions: newFakeBucket()}
	policies := auth.NewPolicies(auth.PoliciesOptions{AccountID: "123456789012", Region: "us-east-1", Generation: f.dir.Generation})
	authn, err := auth.NewRegistered(auth.RegisteredOptions{
		Directory: f.dir, Policies: policies, Registrar: f.dir, Registerer: f.metrics,
		Announce: func(_ context.Context, r *auth.Registration) error { f.announced <- r; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	f.rig = start(t, persist(f.sessions, func(o *Options) {
		o.Authenticator, o.Authorizer, o.Retained, o.Plain = authn, policies, f.retained, ""
		o.TLS, o.TLSConfig = "127.0.0.1:0", ca.TLSConfig(auth.TLSOptions{Protocols: Protocols})
		o.Safety.FailedLogins = 1000
		for _, c := range change {
			c(o)
		}
	}))
	return f
}

// device makes a certificate that is registered, ACTIVE and has a policy.
func (f *fortress) device(grants ...string) *authtest.Pair {
	p := authtest.Issue(f.t, "device", nil, nil, nil)
	f.dir.Register(p.ID, auth.Active, "")
	f.dir.SetPolicies(p.ID, allow(grants...))
	return p
}

func (f *fortress) tls(p *authtest.Pair) *tls.Config {
	c := &tls.Config{ServerName: "localhost", RootCAs: f.ca.Pool()}
	if p != nil {
		c.Certificates = []tls.Certificate{p.Certificate}
	}
	return c
}

// dialTLS opens a TLS connection; err may come with the first read only, as TLS
// 1.3 clients are done before the server is.
func (f *fortress) dialTLS(c *tls.Config) (*peer, error) {
	nc, err := tls.Dial("tcp", f.s.Addr(auth.TLS).String(), c)
	if err != nil {
		return nil, err
	}
	f.t.Cleanup(func() { nc.Close() })
	return &peer{t: f.t, nc: nc, r: bufio.NewReader(nc)}, nil
}

// enter sends a CONNECT and returns the CONNACK's code; -1: the connection was
// ended without one.
func (f *fortress) enter(p *authtest.Pair, connect []byte) (*peer, int) {
	f.t.Helper()
	c, err := f.dialTLS(f.tls(p))
	if err != nil {
		return nil, -1
	}
	c.v5 = bytes.Contains(connect[:12], append(str("MQTT"), 5))
	c.nc.Write(connect)
	h, b, err := c.read()
	if err != nil || h>>4 != packets.Connack {
		return nil, -1
	}
	return c, int(b[1])
}

func (f *fortress) in(p *authtest.Pair, version byte, id string, props ...byte) *peer {
	f.t.Helper()
	c, code := f.enter(p, connectPacket(version, id, 2, 60, props))
	if code != 0 {
		f.t.Fatalf("%s: CONNACK %#x\n%s", id, code, f.out)
	}
	return c
}

// logged waits until the log has said something.
func (f *fortress) logged(what string) {
	f.t.Helper()
	eventually(f.t, "in the log: "+what, func() bool { return strings.Contains(f.out.String(), what) })
}

// Certificates are refused by fingerprint and status, never taken by name, and
// the log says why.
func TestCertificatesThatAreRefused(t *testing.T) {
	f := fortified(t)
	good := f.device("iot:Connect *")
	f.in(good, 4, "good")
	own, other := authtest.Authority(t, "Plant CA"), authtest.Authority(t, "Plant CA")
	off := authtest.Authority(t, "Off CA")
	ownID := f.dir.RegisterCA(own.Leaf, auth.Active, false)
	offID := f.dir.RegisterCA(off.Leaf, auth.Inactive, true)
	registered := func(s auth.Status, ca string, issuer *authtest.Pair, change func(*x509.Certificate)) *authtest.Pair {
		p := authtest.Issue(t, "device", issuer, nil, change)
		f.dir.Register(p.ID, s, ca)
		f.dir.SetPolicies(p.ID, allow("iot:* *"))
		return p
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak := authtest.Issue(t, "weak", nil, small, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA256WithRSA })
	f.dir.Register(weak.ID, auth.Active, "")
	stolen := *good
	stolen.PrivateKey = authtest.Key(t)
	chain := *good
	for range 100 {
		chain.Certificate.Certificate = append(chain.Certificate.Certificate, good.Certificate.Certificate[0])
	}
	byLeaf := authtest.Issue(t, "device", good, nil, nil)
	sameName := authtest.Issue(t, "device", other, nil, nil)
	unsigned := authtest.Issue(t, "device", own, nil, nil)
	for _, c := range []struct {
		name string
		p    *authtest.Pair
		why  string // in the log
		word string // of the metric; "": refused by TLS
	}{
		{"no certificate", nil, "no client certificate", "none"},
		{"unknown", authtest.Issue(t, "device", nil, nil, nil), "not registered", "unknown"},
		{"of a registered CA without auto-registration", unsigned, "does not register by itself", "unknown"},
		{"signed by a CA of the same name", sameName, sameName.ID + ": not registered", "unknown"},
		{"signed by a leaf", byLeaf, byLeaf.ID + ": not registered", "unknown"},
		{"inactive", registered(auth.Inactive, "", nil, nil), "its status is INACTIVE", "inactive"},
		{"registered inactive", registered(auth.RegisterInactive, "", nil, nil), "its status is REGISTER_INACTIVE", "inactive"},
		{"revoked", registered(auth.Revoked, "", nil, nil), "revoked", "revoked"},
		{"pending", registered(auth.PendingActivation, ownID, own, nil), "its status is PENDING_ACTIVATION", "pending"},
		{"in transfer", registered(auth.PendingTransfer, "", nil, nil), "its status is PENDING_TRANSFER", "pending"},
		{"expired", registered(auth.Active, "", nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "expired at", "expired"},
		{"not yet valid", registered(auth.Active, "", nil, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), "not valid before", "not_yet_valid"},
		{"of a CA that is off", registered(auth.Active, offID, off, nil), "is INACTIVE", "ca_inactive"},
		{"not yet registered, of a CA that is off", authtest.Issue(t, "device", off, nil, nil), "not registered, and its CA", "ca_inactive"},
		{"RSA of 1,024 bits", weak, "1024 bits", "weak"},
		{"without client authentication", registered(auth.Active, "", nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "no client authentication", "usage"},
		{"that cannot sign", registered(auth.Active, "", nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), "no digital signature", "usage"},
		{"of an authority", registered(auth.Active, ownID, own, func(c *x509.Certificate) { c.IsCA = true }), "of an authority", "is_ca"},
		{"a chain of 101", &chain, "a chain of 101", "chain"},
		{"with another's key", &stolen, "", ""},
	} {
		before := counted(t, f.metrics, "weir_auth_certificates_refused_total", c.word)
		for _, v := range versions {
			want := map[byte]int{4: 5, 5: codeNotAuthorized}[v]
			if c.word == "" {
				want = -1
			}
			if _, code := f.enter(c.p, connectPacket(v, "dev", 2, 60, nil)); code != want {
				t.Errorf("%s, MQTT %d: CONNACK %#x", c.name, v, code)
			}
		}
		if c.word == "" {
			continue
		}
		if n := counted(t, f.metrics, "weir_auth_certificates_refused_total", c.word) - before; n != 2 {
			t.Errorf("%s: %v counted as %s\n", c.name, n, c.word)
		}
		if c.p != nil && c.why != "" && len(c.p.Certificate.Certificate) == 1 {
			if _, err := f.reason(c.p); !strings.Contains(err, c.why) {
				t.Errorf("%s: %s", c.name, err)
			}
		}
	}
	f.logged("not registered")
	if strings.Contains(f.out.String(), "PRIVATE KEY") {
		t.Error("a key is in the log")
	}
}

// reason asks the authenticator, whose text the log has (at most ten lines a
// second).
func (f *fortress) reason(p *authtest.Pair) (*auth.Principal, string) {
	pr, err := f.s.authn.Authenticate(f.t.Context(), &auth.Connection{Listener: auth.TLS, ClientID: "dev",
		TLS: &tls.ConnectionState{ServerName: "localhost", PeerCertificates: []*x509.Certificate{p.Leaf}}})
	if err != nil {
		return nil, err.Error()
	}
	return pr, ""
}

func counted(t testing.TB, r *prometheus.Registry, name, label string) float64 {
	t.Helper()
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		for _, x := range m.Metric {
			if m.GetName() == name && x.Label[0].GetValue() == label {
				return x.Counter.GetValue()
			}
		}
	}
	return 0
}

func TestJustInTimeRegistration(t *testing.T) {
	f := fortified(t)
	ca := authtest.Authority(t, "Plant CA")
	caID := f.dir.RegisterCA(ca.Leaf, auth.Active, true)
	p := authtest.Issue(t, "device", ca, nil, nil)
	for range 2 { // it is told of again when the device comes again
		if _, code := f.enter(p, connectPacket(4, "dev", 2, 60, nil)); code != 5 {
			t.Fatalf("CONNACK %#x", code)
		}
		select {
		case r := <-f.announced:
			if r.Certificate != p.ID || r.CA != caID || r.Registered.IsZero() {
				t.Errorf("%+v", r)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nobody was told")
		}
	}
	if c, ok := f.dir.Certificate(p.ID); !ok || c.Status != auth.PendingActivation || c.CA != caID {
		t.Errorf("%+v", c)
	}
	f.dir.Register(p.ID, auth.Active, caID)
	if _, code := f.enter(p, connectPacket(4, "dev", 2, 60, nil)); code != 5 {
		t.Errorf("without a policy: CONNACK %#x", code)
	}
	f.dir.SetPolicies(p.ID, allow("iot:Connect client/dev"))
	f.in(p, 4, "dev")
	expired := authtest.Issue(t, "Old CA", nil, nil, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage, c.NotAfter = true, x509.KeyUsageCertSign, nil, time.Now().Add(-time.Minute)
	})
	f.dir.RegisterCA(expired.Leaf, auth.Active, true)
	late := authtest.Issue(t, "device", expired, nil, nil)
	if _, code := f.enter(late, connectPacket(4, "dev", 2, 60, nil)); code != 5 {
		t.Errorf("of an expired CA: CONNACK %#x", code)
	}
	if _, ok := f.dir.Certificate(late.ID); ok {
		t.Error("registered with an expired CA")
	}
}

// What takes a principal's right to be here away acts on requests at once and
// on open connections within 5 s.
func TestWithdrawal(t *testing.T) {
	t.Run("at the usual pace", func(t *testing.T) { withdrawal(t, fortified(t), "revoked") })
	withdrawal(t, fortified(t, quick), "revoked", "inactive", "CA off", "detached", "changed policy", "thing detached", "broken policy")
}

// quick makes the sweep look ten times as often as it does.
func quick(o *Options) { o.Safety.KeepAliveTick = 50 * time.Millisecond }

func withdrawal(t *testing.T, f *fortress, ways ...string) {
	own := authtest.Authority(t, "Plant CA")
	all := map[string]func(p *authtest.Pair, ca string){
		"revoked":  func(p *authtest.Pair, ca string) { f.dir.Register(p.ID, auth.Revoked, ca) },
		"inactive": func(p *authtest.Pair, ca string) { f.dir.Register(p.ID, auth.Inactive, ca) },
		"CA off":   func(p *authtest.Pair, ca string) { f.dir.RegisterCA(own.Leaf, auth.Inactive, false) },
		"detached": func(p *authtest.Pair, ca string) { f.dir.SetPolicies(p.ID) },
		"changed policy": func(p *authtest.Pair, ca string) {
			f.dir.SetPolicies(p.ID, allow("iot:Connect client/other", "iot:Publish *"))
		},
		"thing detached": func(p *authtest.Pair, ca string) { f.dir.Attach(p.ID) },
		"broken policy":  func(p *authtest.Pair, ca string) { f.dir.SetPolicies(p.ID, allow("iot:* *"), "{") },
	}
	for _, name := range ways {
		withdraw := all[name]
		ca := f.dir.RegisterCA(own.Leaf, auth.Active, false)
		p := authtest.Issue(t, "device", own, nil, nil)
		f.dir.Register(p.ID, auth.Active, ca)
		f.dir.Put(&iotpolicy.Thing{Name: "dev"})
		f.dir.Attach(p.ID, auth.Attachment{Thing: "dev"})
		f.dir.SetPolicies(p.ID, allow("iot:Connect client/${iot:Connection.Thing.ThingName}", "iot:Publish topic/${iot:ClientId}/*"))
		for _, v := range versions {
			t.Run(fmt.Sprint(name, v), func(t *testing.T) {
				if v == 5 { // once more, after it was given back
					f.dir.RegisterCA(own.Leaf, auth.Active, false)
					f.dir.Register(p.ID, auth.Active, ca)
					f.dir.Attach(p.ID, auth.Attachment{Thing: "dev"})
					f.dir.SetPolicies(p.ID, allow("iot:Connect client/${iot:Connection.Thing.ThingName}", "iot:Publish topic/${iot:ClientId}/*"))
				}
				c := f.in(p, v, "dev")
				c.publish("dev/a", 1, 1, "x")
				if _, code := c.puback(); code != 0 {
					t.Fatalf("PUBACK %#x", code)
				}
				before := len(f.log.events(0))
				withdraw(p, ca)
				began := time.Now()
				want := map[byte]int{4: 5, 5: codeNotAuthorized}[v]
				if _, code := f.enter(p, connectPacket(v, "dev", 2, 60, nil)); code != want {
					t.Errorf("a new connection: CONNACK %#x", code)
				}
				if took := time.Since(began); took > time.Second {
					t.Errorf("a new connection was refused after %v", took)
				}
				c.disconnected(codeNotAuthorized)
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("cut after %v", took)
				} else {
					t.Logf("cut after %v", took)
				}
				if n := len(f.log.events(0)); n != before {
					t.Errorf("%d events behind the withdrawal", n-before)
				}
			})
		}
	}
}

func TestCertificateThatExpiresWhileConnected(t *testing.T) {
	f := fortified(t, quick)
	p := authtest.Issue(t, "device", nil, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(2 * time.Second) })
	f.dir.Register(p.ID, auth.Active, "")
	f.dir.SetPolicies(p.ID, allow("iot:* *"))
	c := f.in(p, 5, "dev")
	c.disconnected(codeNotAuthorized)
	if time.Now().Before(p.Leaf.NotAfter) {
		t.Error("cut too early")
	}
	f.logged("has expired")
}

// A permission that is withdrawn holds for the next packet, whatever was allowed
// and remembered before: the alias, the subscription, the will.
func TestPermissionsWithdrawn(t *testing.T) {
	f := fortified(t)
	p := f.device("iot:Connect *", "iot:Publish topic/*", "iot:Subscribe *", "iot:Receive topic/*")
	alias := func(n byte) []byte { return []byte{packets.PropTopicAlias, 0, n} }
	c := f.in(p, 5, "dev")
	c.publish("open/a", 1, 1, "1", alias(1)...)
	c.publish("", 1, 2, "2", alias(1)...)
	c.publish("secret/a", 1, 3, "3", alias(1)...) // re-pointed
	c.publish("", 1, 4, "4", alias(1)...)
	for i := range 4 {
		if pid, code := c.puback(); code != 0 || int(pid) != i+1 {
			t.Fatalf("PUBACK %d %#x", pid, code)
		}
	}
	f.dir.SetPolicies(p.ID, allow("iot:Connect *", "iot:Publish topic/open/*", "iot:Subscribe *"))
	c.publish("", 1, 5, "denied", alias(1)...)
	c.publish("open/a", 1, 6, "6", alias(1)...) // re-pointed to what is allowed
	c.publish("", 1, 7, "7", alias(1)...)
	c.publish("secret/b", 1, 8, "denied", alias(1)...) // and back
	c.publish("", 1, 9, "denied", alias(1)...)
	for i, want := range []byte{codeNotAuthorized, 0, 0, codeNotAuthorized, codeNotAuthorized} {
		if pid, code := c.puback(); code != want || int(pid) != i+5 {
			t.Errorf("PUBACK %d %#x, want %#x", pid, code, want)
		}
	}
	for _, e := range f.log.events(0) {
		if string(e.Payload) == "denied" {
			t.Error(e.Topic, "is on the log")
		}
	}
	f.logged(`action=iot:Publish resource=secret/a clientId=dev principal=` + p.ID)
	f.logged(`why="no statement allows it"`)

	// Receive, while subscribed; what waits for a slow client too.
	f.dir.SetPolicies(p.ID, allow("iot:Connect *", "iot:Publish topic/*", "iot:Subscribe *", "iot:Receive topic/*"))
	sub := f.in(p, 5, "sub", packets.PropReceiveMaximum, 0, 1)
	sub.subscribe("open/#")
	c.publish("open/1", 1, 1, "one")
	c.publish("open/2", 1, 2, "two")
	c.puback()
	c.puback()
	one := sub.delivery()
	f.dir.SetPolicies(p.ID, allow("iot:Connect *", "iot:Publish topic/*", "iot:Subscribe *", "iot:Receive topic/open/3"))
	c.publish("open/1", 1, 3, "denied")
	c.publish("open/3", 1, 4, "three")
	c.puback()
	c.puback()
	sub.ack(one.pid)
	if d := sub.delivery(); one.payload != "one" || d.payload != "three" {
		t.Error(one, d)
	}
	// 3.1.1 is disconnected.
	old := f.in(p, 4, "old")
	f.dir.SetPolicies(p.ID, allow("iot:Connect *"))
	old.publish("open/1", 0, 0, "denied")
	old.closed()
}

func TestWillsAreJudgedTwice(t *testing.T) {
	f := fortified(t)
	p := f.device("iot:Connect *", "iot:Publish topic/ok/*", "iot:RetainPublish topic/ok/kept")
	will := func(v byte, topic string, retain bool) []byte {
		flags := byte(2 | 4)
		if retain {
			flags |= 0x20
		}
		var rest []byte
		if v == 5 {
			rest = append(rest, 0)
		}
		return connectPacket(v, "dev", flags, 60, nil, append(append(rest, str(topic)...), str("gone")...)...)
	}
	for _, v := range versions {
		refused := map[byte]int{4: 5, 5: codeNotAuthorized}[v]
		for _, c := range []struct {
			topic  string
			retain bool
			code   int
		}{
			{"ok/a", false, 0}, {"secret", false, refused}, {"ok/a", true, refused}, {"ok/kept", true, 0}, {"$aws/things/x/shadow/update/accepted", false, refused},
		} {
			if _, code := f.enter(p, will(v, c.topic, c.retain)); code != c.code {
				t.Errorf("will on %s, retain %v: CONNACK %#x", c.topic, c.retain, code)
			}
		}
		for _, withdraw := range []func(){
			func() { f.dir.SetPolicies(p.ID, allow("iot:Connect *")) },
			func() { f.dir.SetPolicies(p.ID, allow("iot:* *", "!iot:Publish topic/ok/*")) },
			func() { f.dir.Register(p.ID, auth.Revoked, "") },
		} {
			c, code := f.enter(p, will(v, "ok/a", false))
			if code != 0 {
				t.Fatalf("CONNACK %#x", code)
			}
			f.log.mu.Lock()
			before := len(f.log.parts[0])
			f.log.mu.Unlock()
			withdraw()
			c.nc.Close()
			f.gone("dev")
			for _, e := range f.log.events(0)[before:] {
				t.Errorf("a will that was forbidden meanwhile is on %s", e.Topic)
			}
			f.dir.Register(p.ID, auth.Active, "")
			f.dir.SetPolicies(p.ID, allow("iot:Connect *", "iot:Publish topic/ok/*", "iot:RetainPublish topic/ok/kept"))
		}
	}
}

func TestRetainedNeedsItsOwnPermission(t *testing.T) {
	f := fortified(t)
	p := f.device("iot:Connect *", "iot:Publish *", "iot:RetainPublish topic/kept/*", "iot:Subscribe *", "iot:Receive topic/kept/a")
	c := f.in(p, 5, "dev")
	retain := func(topic string, pid uint16) byte {
		b := c.publishPacket(topic, 1, pid, "r")
		b[0] |= 1
		c.send(b)
		_, code := c.puback()
		return code
	}
	for topic, want := range map[string]byte{"kept/a": 0, "kept/b": 0, "other": codeNotAuthorized, "$aws/things/t/shadow/update": codeNotAuthorized, "$aws/rules/r/kept/a": codeNotAuthorized} {
		if code := retain(topic, 9); code != want {
			t.Errorf("%s: PUBACK %#x", topic, code)
		}
	}
	c.subscribe("kept/a")
	if d := c.delivery(); d.topic != "kept/a" || !d.retain {
		t.Error(d)
	}
	c.subscribe("kept/b") // may not be received
	c.ping()
	f.dir.SetPolicies(p.ID, allow("iot:Connect *", "iot:Subscribe *"))
	c.subscribe("kept/a")
	c.ping()
}

func TestFiltersAreJudgedAlone(t *testing.T) {
	f := fortified(t)
	p := f.device("iot:Connect *", "iot:Subscribe topicfilter/ok/*", "iot:Subscribe topicfilter/$share/*", "!iot:Subscribe topicfilter/secret/*", "iot:Receive *", "iot:Publish *")
	for _, v := range versions {
		c := f.in(p, v, "dev")
		no := map[byte]byte{4: 0x80, 5: codeNotAuthorized}[v]
		if codes := c.subscribe("ok/1", "secret/x", "ok/2", "other", "ok/#"); !bytes.Equal(codes, []byte{1, no, 1, no, 1}) {
			t.Errorf("SUBACK % x", codes)
		}
		for _, filter := range []string{"$share/g/secret/x", "$share/+/x", "$share//x", "$SHARE/g/ok/1", "$share/g/", "$share/g", "$share/#"} {
			if codes := c.subscribe(filter); codes[0] < 0x80 {
				t.Errorf("%s: SUBACK % x", filter, codes)
			}
		}
		c.publish("secret/x", 0, 0, "hidden")
		c.publish("ok/1", 0, 0, "seen")
		if d := c.delivery(); d.payload != "seen" {
			t.Error(d)
		}
	}
	// The authorizer by itself: what denies the filter denies it in a group.
	pr, err := f.reason(p)
	if pr == nil {
		t.Fatal(err)
	}
	for filter, want := range map[string]bool{"ok/1": true, "$share/g/ok/1": true, "$share/g/secret/x": false, "$share/g/any": true, "secret/x": false} {
		if got := f.s.authz.May(pr, auth.Subscribe, filter); got != want {
			t.Errorf("%s: %v", filter, got)
		}
	}
	f.dir.SetPolicies(p.ID, allow("iot:Subscribe topicfilter/ok/*"))
	if f.s.authz.May(pr, auth.Subscribe, "$share/g/ok/1") {
		t.Error("a shared subscription is allowed by the filter without its share")
	}
}

// The session of a client id belongs to whoever made it.
func TestAnothersSession(t *testing.T) {
	f := fortified(t)
	owner := f.device("iot:* *")
	thief := f.device("iot:* *")
	stranger := f.device("iot:Connect client/own", "iot:Subscribe *", "iot:Receive *")
	resume := func(p *authtest.Pair) (*peer, int, bool) {
		c, err := f.dialTLS(f.tls(p))
		if err != nil {
			t.Fatal(err)
		}
		c.send(connectPacket(4, "whose", 0, 60, nil))
		_, b := c.expect(packets.Connack)
		return c, int(b[1]), b[0] == 1
	}
	c, _, _ := resume(owner)
	c.subscribe("a")
	if _, code, _ := resume(stranger); code != 5 {
		t.Errorf("CONNACK %#x", code)
	}
	c.ping() // the owner is not cut by one who may not connect
	f.leave(c, "whose")
	pub := f.in(owner, 4, "pub")
	pub.publish("a", 1, 1, "private")
	pub.puback()
	c, code, present := resume(thief)
	if code != 0 || present {
		t.Errorf("CONNACK %#x, present %v", code, present)
	}
	c.ping() // and nothing before it
	pub.publish("a", 1, 2, "private")
	pub.puback()
	c.ping()
	old := f.in(owner, 5, "whose") // and takes it back
	c.closed()
	old.ping()
}

func TestClientIDsThatAreNone(t *testing.T) {
	f := fortified(t)
	p := f.device("iot:Connect client/*", "iot:Subscribe topicfilter/dev/${iot:ClientId}/#", "iot:Receive *")
	for _, id := range []string{"+", "#", "a+b", "*", "dev?", "a\nb", "a\x00b", "a\u202eb", "\ufeff", strings.Repeat("x", 129), strings.Repeat("x", 64<<10-1)} {
		if _, code := f.enter(p, connectPacket(5, id, 2, 60, nil)); code == 0 {
			t.Errorf("%.20q is taken", id)
		}
	}
	// Those that are taken mean only themselves.
	for _, id := range []string{"a/b", "$aws", "a.b", "a b", "${iot:ClientId}", "dev1/../dev2", "é", "ｅ"} {
		c := f.in(p, 5, id)
		if codes := c.subscribe("dev/"+id+"/#", "dev/other/#", "dev/+/#", "dev/#"); !bytes.Equal(codes, []byte{1, codeNotAuthorized, codeNotAuthorized, codeNotAuthorized}) {
			t.Errorf("%q: SUBACK % x", id, codes)
		}
		c.nc.Close()
	}
}

func TestTLSThatIsRefused(t *testing.T) {
	f := fortified(t)
	p := f.device("iot:Connect *")
	for name, change := range map[string]func(*tls.Config){
		"no server name":    func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = "", true },
		"wrong server name": func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = "other.example", true },
		"unknown ALPN":      func(c *tls.Config) { c.NextProtos = []string{"x-amzn-http-ca"} },
		"TLS 1.1":           func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
		"no forward secrecy": func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
		},
		"not that of clients": func(c *tls.Config) { c.RootCAs, c.Certificates = x509.NewCertPool(), nil },
	} {
		c := f.tls(p)
		change(c)
		if _, err := f.dialTLS(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, change := range map[string]func(*tls.Config){
		"TLS 1.2": func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
		"ALPN":    func(c *tls.Config) { c.NextProtos = []string{"x-amzn-mqtt-ca"} },
	} {
		c := f.tls(p)
		change(c)
		q, err := f.dialTLS(c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		q.send(connectPacket(4, "dev", 2, 60, nil))
		if code, _ := q.connack(); code != 0 {
			t.Errorf("%s: CONNACK %#x", name, code)
		}
	}
}

// TLS sessions are not resumed: each connection shows its certificate again, and
// one that was revoked meanwhile is refused.
func TestNoTLSResumption(t *testing.T) {
	f := fortified(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		p := f.device("iot:Connect *")
		c := f.tls(p)
		c.MinVersion, c.MaxVersion, c.ClientSessionCache = version, version, tls.NewLRUClientSessionCache(8)
		for round := range 3 {
			if round == 2 {
				f.dir.Register(p.ID, auth.Revoked, "")
			}
			q, err := f.dialTLS(c)
			if err != nil {
				t.Fatal(err)
			}
			q.send(connectPacket(4, "dev", 2, 60, nil))
			code, _ := q.connack() // read: tickets of TLS 1.3 come behind the handshake
			if q.nc.(*tls.Conn).ConnectionState().DidResume {
				t.Errorf("TLS %#x is resumed", version)
			}
			if want := map[bool]byte{false: 0, true: 5}[round == 2]; code != want {
				t.Errorf("TLS %#x, round %d: CONNACK %#x", version, round, code)
			}
			q.nc.Close()
		}
	}
}

// Every other word about who the client is means nothing.
func TestNoPolicyNothingAllowed(t *testing.T) {
	f := fortified(t)
	p := authtest.Issue(t, "device", nil, nil, nil)
	f.dir.Register(p.ID, auth.Active, "")
	for _, user := range []string{"admin", "weir", ""} {
		if _, code := f.enter(p, connectPacket(4, "dev", 2|0x80|0x40, 60, nil, append(str(user), str("canary-password")...)...)); code != 5 {
			t.Errorf("CONNACK %#x", code)
		}
	}
	f.logged("the principal has no policy")
	if strings.Contains(f.out.String(), "canary") {
		t.Error("a password is in the log")
	}
	// Nor does a principal of nobody's.
	for _, data := range []any{nil, "x", &struct{}{}} {
		if f.s.authz.May(&auth.Principal{ID: "x", Data: data}, auth.Publish, "a") {
			t.Errorf("%#v is allowed", data)
		}
	}
}

// The facts of a CONNECT reach the conditions of iot:Connect, and no others.
func TestConnectConditions(t *testing.T) {
	f := fortified(t)
	p := f.device()
	cond := func(c string) {
		f.dir.SetPolicies(p.ID, `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": `+c+`}}`)
	}
	connect := func(flags byte, rest ...byte) int {
		c, code := f.enter(p, connectPacket(4, "dev", flags, 60, nil, rest...))
		if c != nil {
			c.nc.Close()
			f.gone("dev")
		}
		return code
	}
	will := append(str("last/will"), str("x")...)
	for _, c := range []struct {
		cond  string
		flags byte
		rest  []byte
		code  int
	}{
		{`{"ForAllValues:StringEquals": {"iot:ConnectAttributes": []}}`, 2, nil, 0},
		{`{"ForAllValues:StringEquals": {"iot:ConnectAttributes": []}}`, 0, nil, 5},
		{`{"ForAllValues:StringEquals": {"iot:ConnectAttributes": ["PersistentConnect"]}}`, 0, nil, 0},
		{`{"ForAllValues:StringEquals": {"iot:ConnectAttributes": ["PersistentConnect"]}}`, 4, will, 5},
		{`{"ForAllValues:StringEquals": {"iot:ConnectAttributes": ["LastWill", "PersistentConnect"]}}`, 4, will, 0},
		{`{"ArnEquals": {"iot:LastWillTopic": "` + arns + `topic/last/*"}}`, 2, nil, 5},
		{`{"StringEquals": {"iot:DomainName": "localhost"}}`, 2, nil, 0},
		{`{"StringEquals": {"iot:DomainName": "other"}}`, 2, nil, 5},
		{`{"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}`, 2, nil, 0},
		{`{"StringEquals": {"iot:Certificate.Subject.CommonName": "device"}}`, 2, nil, 0},
	} {
		cond(c.cond)
		if code := connect(c.flags, c.rest...); code != c.code {
			t.Errorf("%s, flags %x: CONNACK %#x", c.cond, c.flags, code)
		}
	}
}
