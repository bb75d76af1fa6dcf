package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/ingest/auth/authtest"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/registry"
)

// site is a running server, with its registry at hand.
type site struct {
	*Server
	t   *testing.T
	out *safeBuffer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func running(t *testing.T, o Options) *site {
	t.Helper()
	out := &safeBuffer{}
	o.Logger = slog.New(slog.NewTextHandler(out, nil))
	s, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-s.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("not ready")
	}
	return &site{s, t, out}
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// device registers a certificate, attached to a thing and a policy of its name.
func (s *site) device(name, statements string) *authtest.Pair {
	s.t.Helper()
	ctx := s.t.Context()
	p := authtest.Issue(s.t, name, nil, nil, nil)
	_, err := s.things.RegisterCertificate(ctx, registry.RegisterCertificate{PEM: pemOf(p), WithoutCA: true, Status: registry.Active})
	s.must(err)
	_, err = s.things.CreateThing(ctx, registry.CreateThing{Name: name})
	s.must(err)
	s.must(s.things.AttachPrincipal(ctx, name, p.ID, ""))
	_, err = s.things.CreatePolicy(ctx, name, `{"Version": "2012-10-17", "Statement": [`+statements+`]}`, nil)
	s.must(err)
	s.must(s.things.AttachPolicy(ctx, name, s.things.CertificateARN(p.ID)))
	return p
}

func pemOf(p *authtest.Pair) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Leaf.Raw}))
}

func (s *site) tls(p *authtest.Pair) *tls.Config {
	return &tls.Config{ServerName: "localhost", RootCAs: s.ca.Pool(), Certificates: []tls.Certificate{p.Certificate}}
}

func (s *site) connect(p *authtest.Pair, id string) (*mqttclient.Client, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	c, err := mqttclient.Connect(ctx, mqttclient.Options{Addr: s.Endpoints().MQTTS, TLS: s.tls(p), ClientID: id})
	if err == nil {
		s.t.Cleanup(c.Abort)
	}
	return c, err
}

const everything = `{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}`

// What the registry is told takes effect on the devices: new requests within
// 1 s, open connections within 5 s.
func TestTheRegistryDecides(t *testing.T) {
	s := running(t, options(t))
	ctx := t.Context()
	never := authtest.Issue(t, "never", nil, nil, nil)
	if _, err := s.connect(never, "never"); err == nil {
		t.Error("an unknown certificate is let in")
	}
	for name, withdraw := range map[string]func(id string) error{
		"revoked": func(id string) error {
			_, err := s.things.UpdateCertificate(ctx, id, registry.Revoked)
			return err
		},
		"detached": func(id string) error { return s.things.DetachPolicy(ctx, "detached", s.things.CertificateARN(id)) },
		"changed": func(id string) error {
			_, _, err := s.things.CreatePolicyVersion(ctx, "changed", `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Publish", "Resource": "*"}]}`, true)
			return err
		},
	} {
		p := s.device(name, everything)
		c, err := s.connect(p, name)
		s.must(err)
		s.must(c.Publish(ctx, &mqttclient.Message{Topic: "a/" + name, QoS: 1}))
		hc := &http.Client{Transport: &http.Transport{TLSClientConfig: s.tls(p)}, Timeout: 20 * time.Second}
		post := func() int {
			resp, err := hc.Post("https://"+s.Endpoints().HTTPS+"/topics/a?qos=1", "", strings.NewReader("x"))
			s.must(err)
			defer resp.Body.Close()
			io.Copy(io.Discard, resp.Body)
			return resp.StatusCode
		}
		if code := post(); code != 200 {
			t.Errorf("%s: HTTPS %d", name, code)
		}
		began := time.Now()
		s.must(withdraw(p.ID))
		for {
			_, err := s.connect(p, name+"-2")
			var reason *mqttclient.ReasonError
			if errors.As(err, &reason) && reason.Code == 0x87 {
				break
			}
			if time.Since(began) > time.Second {
				t.Fatalf("%s: still let in after %v: %v", name, time.Since(began), err)
			}
		}
		refused := time.Since(began)
		if name != "changed" { // there it may still publish
			if code := post(); code != 403 { // on the connection that was there
				t.Errorf("%s: HTTPS %d", name, code)
			}
		}
		select {
		case <-c.Done():
			t.Logf("%s: refused after %v, cut after %v", name, refused, time.Since(began))
		case <-time.After(5*time.Second - time.Since(began)):
			t.Errorf("%s: not cut within 5 s", name)
		}
	}
	if out := s.out.String(); !strings.Contains(out, "not registered") || !strings.Contains(out, "connection cut") || strings.Contains(out, "PRIVATE") {
		t.Error(out)
	}
}

// The owner's certificate is registered once; what the owner makes of it stays.
func TestOwnerCertificate(t *testing.T) {
	o := options(t)
	var id string
	t.Run("first", func(t *testing.T) {
		s := running(t, o)
		pair, err := tls.LoadX509KeyPair(s.Endpoints().CertFile, s.Endpoints().KeyFile)
		s.must(err)
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		s.must(err)
		owner := &authtest.Pair{Certificate: pair, ID: auth.CertificateID(leaf)}
		id = owner.ID
		c, err := s.connect(owner, "owner")
		s.must(err)
		s.must(c.Publish(t.Context(), &mqttclient.Message{Topic: "a", QoS: 1}))
		s.must(s.things.DetachPolicy(t.Context(), ownerPolicy, s.things.CertificateARN(id)))
	})
	t.Run("again", func(t *testing.T) {
		s := running(t, o)
		if list, err := s.things.EffectivePolicies(id, ""); err != nil || len(list) != 0 {
			t.Error("attached again", list, err)
		}
	})
}

func TestRegistrationJustInTime(t *testing.T) {
	s := running(t, options(t))
	ctx := t.Context()
	events := make(chan *mqttclient.Message, 10)
	dev, err := mqttclient.Connect(ctx, mqttclient.Options{Addr: s.Endpoints().MQTT, ClientID: "watch", OnMessage: func(m *mqttclient.Message) { events <- m }})
	s.must(err)
	t.Cleanup(dev.Abort)
	s.must(dev.Subscribe(ctx, 1, "$aws/events/certificates/registered/#"))
	ca := authtest.Authority(t, "Plant CA")
	rec, err := s.things.RegisterCACertificate(ctx, registry.RegisterCA{PEM: pemOf(ca), Mode: registry.ModeSNIOnly, Active: true, AutoRegistration: true})
	s.must(err)
	p := authtest.Issue(t, "pump-1", ca, nil, nil)
	if _, err := s.connect(p, "pump-1"); err == nil {
		t.Fatal("let in without activation")
	}
	select {
	case m := <-events:
		var e map[string]any
		if err := json.Unmarshal(m.Payload, &e); err != nil || m.Topic != "$aws/events/certificates/registered/"+rec.ID ||
			e["certificateId"] != p.ID || e["caCertificateId"] != rec.ID || e["certificateStatus"] != "PENDING_ACTIVATION" || e["awsAccountId"] != "123456789012" {
			t.Errorf("%s %s", m.Topic, m.Payload)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("no event")
	}
	c, err := s.things.Certificate(p.ID)
	if err != nil || c.Status != registry.PendingActivation || c.CAID != rec.ID {
		t.Fatalf("%+v %v", c, err)
	}
	_, err = s.things.UpdateCertificate(ctx, p.ID, registry.Active)
	s.must(err)
	_, err = s.things.CreatePolicy(ctx, "pumps", `{"Version": "2012-10-17", "Statement": [`+everything+`]}`, nil)
	s.must(err)
	s.must(s.things.AttachPolicy(ctx, "pumps", s.things.CertificateARN(p.ID)))
	s.eventually("the activated device is let in", func() bool { _, err := s.connect(p, "pump-1"); return err == nil })
}

func (s *site) eventually(what string, f func() bool) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("not in time: " + what)
		}
	}
}

// A device gets its group's policies too, and things' variables.
func TestExplainAuthorization(t *testing.T) {
	s := running(t, options(t))
	ctx := t.Context()
	p := s.device("pump-1", `{"Sid": "own", "Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:us-east-1:123456789012:topic/up/${iot:Connection.Thing.ThingName}"},
		{"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}`)
	_, err := s.things.CreatePolicy(ctx, "fence", `{"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "iot:Publish", "Resource": "arn:aws:iot:us-east-1:123456789012:topic/up/locked"}}`, nil)
	s.must(err)
	_, err = s.things.CreateGroup(ctx, registry.CreateGroup{Name: "pumps"})
	s.must(err)
	s.must(s.things.AddToGroup(ctx, "pump-1", "pumps"))
	s.must(s.things.AttachPolicy(ctx, "fence", s.things.GroupARN("pumps")))
	token, err := os.ReadFile(s.Endpoints().TokenFile)
	s.must(err)
	api := &control.Client{URL: s.Endpoints().API, Token: strings.TrimSpace(string(token))}
	ask := func(q control.AuthzQuestion) *control.AuthzAnswer {
		t.Helper()
		a, err := api.ExplainAuthz(ctx, q)
		s.must(err)
		return a
	}
	q := control.AuthzQuestion{Certificate: p.ID, Action: "iot:Publish", Resource: "topic/up/pump-1"}
	a := ask(q)
	if !a.Allowed || a.Decided == nil || a.Decided.Sid != "own" || a.Thing != "pump-1" || a.ClientID != "pump-1" ||
		len(a.Decided.Variables) != 1 || a.Decided.Variables[0].Value != "pump-1" || len(a.Policies) != 2 {
		t.Errorf("%+v", a)
	}
	q.Resource = "topic/up/locked"
	if a := ask(q); a.Allowed || a.Decided == nil || a.Decided.Policy != "fence" || a.Smallest != nil {
		t.Errorf("%+v", a)
	}
	q.Resource = "topic/else"
	if a := ask(q); a.Allowed || a.Reason != "no statement allows it" || string(a.Smallest) != `{"Effect":"Allow","Action":"iot:Publish","Resource":"arn:aws:iot:us-east-1:123456789012:topic/else"}` {
		t.Errorf("%+v %s", a, a.Smallest)
	}
	q.ClientID, q.Resource = "other", "topic/up/pump-1" // the variable has no value then
	if a := ask(q); a.Allowed || !strings.Contains(a.Verdicts[len(a.Verdicts)-1].Why, "has no value here") {
		t.Errorf("%+v", a)
	}
	// Of a client that is connected, as it is.
	if _, err := s.connect(p, "pump-1"); err != nil {
		t.Fatal(err)
	}
	if a := ask(control.AuthzQuestion{ClientID: "pump-1", Action: "iot:Publish", Resource: "topic/up/pump-1"}); !a.Allowed || a.Principal != p.ID {
		t.Errorf("%+v", a)
	}
	_, err = s.things.UpdateCertificate(ctx, p.ID, registry.Revoked)
	s.must(err)
	if a := ask(control.AuthzQuestion{Certificate: p.ID, Action: "iot:Publish", Resource: "topic/up/pump-1"}); a.Allowed || !strings.Contains(a.Reason, "revoked") {
		t.Errorf("%+v", a)
	}
	for _, bad := range []control.AuthzQuestion{
		{}, {ClientID: "nobody", Action: "iot:Publish", Resource: "topic/x"}, {Certificate: strings.Repeat("0", 64), Action: "iot:Publish", Resource: "topic/x"},
		{Certificate: "x", Action: "iot:Publish", Resource: "topic/x"},
	} {
		if a, err := api.ExplainAuthz(ctx, bad); err == nil {
			t.Errorf("%+v: %+v", bad, a)
		}
	}
}

// The plain port needs no credentials and is asked for no policy; nothing else
// is like it.
func TestThePlainPort(t *testing.T) {
	s := running(t, options(t))
	c, err := mqttclient.Connect(t.Context(), mqttclient.Options{Addr: s.Endpoints().MQTT, ClientID: "anyone"})
	s.must(err)
	t.Cleanup(c.Abort)
	s.must(c.Publish(t.Context(), &mqttclient.Message{Topic: "a/b", QoS: 1}))
	if err := c.Publish(t.Context(), &mqttclient.Message{Topic: "$aws/certificates/create/json", QoS: 1}); err == nil {
		t.Error("a private topic is open")
	}
	if nc, err := net.DialTimeout("tcp", s.Endpoints().MQTTS, 5*time.Second); err == nil {
		defer nc.Close()
		nc.Write([]byte{0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 1, 'x'})
		nc.SetReadDeadline(time.Now().Add(20 * time.Second))
		b := make([]byte, 4)
		if n, _ := io.ReadFull(nc, b); n == 4 && b[0] == 0x20 {
			t.Error("a CONNECT without TLS is answered on the TLS port")
		}
	}
}

// A certificate's generation moves with every change of what it may, and stands
// still while others are enrolled.
func TestGenerationsOfCertificates(t *testing.T) {
	s := running(t, options(t))
	ctx := t.Context()
	p := s.device("mine", everything)
	other := s.device("other", everything)
	for s.directory.certificate(other.ID) == s.directory.certificate(p.ID) {
		other = authtest.Issue(t, "other", nil, nil, nil)
		_, err := s.things.RegisterCertificate(ctx, registry.RegisterCertificate{PEM: pemOf(other), WithoutCA: true, Status: registry.Active})
		s.must(err)
	}
	thing := func(name string) error {
		_, err := s.things.CreateThing(ctx, registry.CreateThing{Name: name})
		return err
	}
	group := func(name, parent string) error {
		_, err := s.things.CreateGroup(ctx, registry.CreateGroup{Name: name, Parent: parent})
		return err
	}
	// What was changed has come by once something later has.
	told, markers := make(chan string, 100), 0
	s.things.OnChange(func(c registry.Change) {
		if strings.HasPrefix(c.Name, "marker-") {
			told <- c.Name
		}
	})
	settle := func() {
		markers++
		name := "marker-" + strconv.Itoa(markers)
		s.must(thing(name))
		for timeout := time.After(time.Minute); ; {
			select {
			case got := <-told:
				if got == name {
					return
				}
			case <-timeout:
				t.Fatal("changes do not come by")
			}
		}
	}
	settle()
	own := s.directory.GenerationOf(p.ID)
	for _, step := range []struct {
		what    string
		touches bool
		do      func() error
	}{
		{"a new thing", false, func() error { return thing("thing") }},
		{"a thing of another", false, func() error { s.must(thing("others")); return s.things.AttachPrincipal(ctx, "others", other.ID, "") }},
		{"another's attributes", false, func() error {
			_, err := s.things.UpdateThing(ctx, registry.UpdateThing{Name: "others", Attributes: map[string]string{"a": "b"}})
			return err
		}},
		{"another's status", false, func() error { _, err := s.things.UpdateCertificate(ctx, other.ID, registry.Inactive); return err }},
		{"attached to a thing", true, func() error { return s.things.AttachPrincipal(ctx, "thing", p.ID, "") }},
		{"the thing's attributes", true, func() error {
			_, err := s.things.UpdateThing(ctx, registry.UpdateThing{Name: "thing", Attributes: map[string]string{"a": "b"}})
			return err
		}},
		{"a group", true, func() error { s.must(group("parent", "")); return group("group", "parent") }},
		{"another in the group", false, func() error { return s.things.AddToGroup(ctx, "others", "group") }},
		{"its thing in the group", true, func() error { return s.things.AddToGroup(ctx, "thing", "group") }},
		{"a policy of the group's parent", true, func() error { return s.things.AttachPolicy(ctx, "mine", s.things.GroupARN("parent")) }},
		{"the policy taken away", true, func() error { return s.things.DetachPolicy(ctx, "mine", s.things.GroupARN("parent")) }},
		{"out of the group", true, func() error { return s.things.RemoveFromGroup(ctx, "thing", "group") }},
		{"a policy of another", false, func() error { return s.things.DetachPolicy(ctx, "other", s.things.CertificateARN(other.ID)) }},
		{"a new version of its policy", true, func() error {
			_, _, err := s.things.CreatePolicyVersion(ctx, "mine", `{"Version": "2012-10-17", "Statement": [`+everything+`]}`, true)
			return err
		}},
		{"its policy detached", true, func() error { return s.things.DetachPolicy(ctx, "mine", s.things.CertificateARN(p.ID)) }},
		{"detached from its thing", true, func() error { return s.things.DetachPrincipal(ctx, "thing", p.ID) }},
		{"its status", true, func() error { _, err := s.things.UpdateCertificate(ctx, p.ID, registry.Revoked); return err }},
	} {
		before := own()
		s.must(step.do())
		settle()
		if moved := own() != before; moved != step.touches {
			t.Errorf("%s: moved %v", step.what, moved)
		}
	}
}
