package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/fxamacker/cbor/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/weirtest"
)

// fleetTemplate makes a thing of ThingName with a policy for its own topics.
const fleetTemplate = `{
  "Parameters": {"ThingName": {"Type": "String"}, "Site": {"Type": "String", "Default": "a"}},
  "Resources": {
    "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "ThingName"}, "AttributePayload": {"site": {"Ref": "Site"}}}},
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "Active"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"Version": "2012-10-17", "Statement": [
      {"Effect": "Allow", "Action": "iot:Connect", "Resource": {"Fn::Sub": "arn:aws:iot:us-east-1:123456789012:client/${ThingName}"}},
      {"Effect": "Allow", "Action": "iot:Publish", "Resource": {"Fn::Sub": "arn:aws:iot:us-east-1:123456789012:topic/dt/${ThingName}/*"}}]}}}
  },
  "DeviceConfiguration": {"Endpoint": {"Fn::Sub": "https://${Site}.example.com"}}
}`

// claimDocument is the guide's policy of a claim certificate.
const claimDocument = `{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
  {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": ["` + account + `topic/$aws/certificates/create/*",
    "` + account + `topic/$aws/certificates/create-from-csr/*", "` + account + `topic/$aws/provisioning-templates/*/provision/*"]},
  {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": ["` + account + `topicfilter/$aws/certificates/create/*",
    "` + account + `topicfilter/$aws/certificates/create-from-csr/*", "` + account + `topicfilter/$aws/provisioning-templates/*/provision/*"]}]}`

// enrolment is a Weir with a template "lamps" and a claim certificate.
type enrolment struct {
	*weirtest.Weir
	t     testing.TB
	api   *iot.Client
	conf  *tls.Config // of a client, with the owner's certificate
	claim tls.Certificate
	pem   [2]string // of the claim

	claimID, owner string // certificates' ids
}

func startEnrolment(t testing.TB, opts ...weirtest.Option) *enrolment {
	t.Helper()
	return newEnrolment(t, weirtest.Start(t, append(opts, weirtest.Key("listen.mqtts", "localhost:0"))...))
}

func newEnrolment(t testing.TB, w *weirtest.Weir) *enrolment {
	t.Helper()
	e := &enrolment{Weir: w, t: t, api: sdk(t, w, nil), conf: w.TLS()}
	sum := sha256.Sum256(e.conf.Certificates[0].Certificate[0])
	e.owner = hex.EncodeToString(sum[:])
	e.template("lamps", fleetTemplate, "")
	ctx := t.Context()
	made, err := e.api.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{SetAsActive: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.api.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: aws.String("claim"), PolicyDocument: aws.String(claimDocument)}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.api.AttachPolicy(ctx, &iot.AttachPolicyInput{PolicyName: aws.String("claim"), Target: made.CertificateArn}); err != nil {
		t.Fatal(err)
	}
	e.claimID = *made.CertificateId
	e.pem = [2]string{*made.CertificatePem, *made.KeyPair.PrivateKey}
	if e.claim, err = tls.X509KeyPair([]byte(e.pem[0]), []byte(e.pem[1])); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *enrolment) template(name, body, hook string) {
	e.t.Helper()
	in := &iot.CreateProvisioningTemplateInput{TemplateName: aws.String(name), TemplateBody: aws.String(body), Enabled: aws.Bool(true),
		ProvisioningRoleArn: aws.String("arn:aws:iam::123456789012:role/provisioning")}
	if hook != "" {
		in.PreProvisioningHook = &types.ProvisioningHook{TargetArn: aws.String(hook)}
	}
	if _, err := e.api.CreateProvisioningTemplate(e.t.Context(), in); err != nil {
		e.t.Fatal(err)
	}
}

// device is a connection that asks.
type device struct {
	t       testing.TB
	c       *mqttclient.Client
	answers chan *mqttclient.Message
}

func (e *enrolment) connect(id string, cert tls.Certificate, filters ...string) *device {
	e.t.Helper()
	d := &device{t: e.t, answers: make(chan *mqttclient.Message, 100)}
	conf := e.TLS()
	conf.Certificates = []tls.Certificate{cert}
	d.c = e.Connect(mqttclient.Options{Addr: e.Endpoints().MQTTS, TLS: conf, ClientID: id, OnMessage: func(m *mqttclient.Message) { d.answers <- m }})
	for _, f := range filters {
		if err := d.c.Subscribe(e.t.Context(), 1, f); err != nil {
			e.t.Fatal(err)
		}
	}
	return d
}

// enrolling is the filters of the answers a device waits for.
func enrolling(format, template string) []string {
	var out []string
	for _, call := range []string{"$aws/certificates/create/" + format, "$aws/certificates/create-from-csr/" + format, "$aws/provisioning-templates/" + template + "/provision/" + format} {
		out = append(out, call+"/accepted", call+"/rejected")
	}
	return out
}

// ask publishes a call and returns the answer; accepted tells which it is.
func (d *device) ask(topic string, q any) (answer map[string]any, accepted bool) {
	d.t.Helper()
	asCBOR := strings.HasSuffix(topic, "/cbor")
	var b []byte
	var err error
	switch q := q.(type) {
	case []byte:
		b = q
	default:
		if asCBOR {
			b, err = cbor.Marshal(q)
		} else {
			b, err = json.Marshal(q)
		}
	}
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	if err := d.c.Publish(ctx, &mqttclient.Message{Topic: topic, Payload: b, QoS: 1}); err != nil {
		d.t.Fatal(err)
	}
	select {
	case m := <-d.answers:
		if m.Topic != topic+"/accepted" && m.Topic != topic+"/rejected" {
			d.t.Fatalf("an answer on %s", m.Topic)
		}
		if asCBOR {
			err = cbor.Unmarshal(m.Payload, &answer)
		} else {
			err = json.Unmarshal(m.Payload, &answer)
		}
		if err != nil {
			d.t.Fatal(err)
		}
		return answer, strings.HasSuffix(m.Topic, "/accepted")
	case <-ctx.Done():
		d.t.Fatalf("no answer to %s", topic)
	}
	return nil, false
}

func (d *device) mustAsk(topic string, q any) map[string]any {
	d.t.Helper()
	answer, ok := d.ask(topic, q)
	if !ok {
		d.t.Fatalf("%s was refused: %v", topic, answer)
	}
	return answer
}

func (d *device) refused(topic string, q any, code string) {
	d.t.Helper()
	answer, ok := d.ask(topic, q)
	if ok || answer["errorCode"] != code || answer["errorMessage"] == "" || fmt.Sprint(answer["statusCode"]) < "400" {
		d.t.Errorf("%s answered %v, want %s", topic, answer, code)
	}
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func csrOf(t testing.TB, key crypto.Signer, template *x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// fromCSR gets a certificate for a new key.
func (d *device) fromCSR(format string) (tls.Certificate, string) {
	d.t.Helper()
	key := ecKey(d.t)
	a := d.mustAsk("$aws/certificates/create-from-csr/"+format, map[string]any{"certificateSigningRequest": csrOf(d.t, key, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}})})
	b, _ := pem.Decode([]byte(a["certificatePem"].(string)))
	return tls.Certificate{Certificate: [][]byte{b.Bytes}, PrivateKey: key}, a["certificateOwnershipToken"].(string)
}

const provisionLamps = "$aws/provisioning-templates/lamps/provision/"

// A device enrols, in either format, and connects with what it got. Nobody else
// sees a thing of it.
func TestProvisioning(t *testing.T) {
	var logged safeBuffer
	e := startEnrolment(t, weirtest.Log(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})))
	// An eavesdropper who may do everything.
	all := e.connect("eavesdropper", e.TLS().Certificates[0], "#", "$aws/certificates/#", "$aws/provisioning-templates/#")
	if err := all.c.Subscribe(t.Context(), 1, "$aws/#"); err == nil {
		t.Error("$aws/# is granted: it spans topics of Weir's own")
	}
	out := e.Subscribe("heard/#")
	e.Apply(`{"ruleName": "ears", "sql": "SELECT * FROM '$aws/#'", "actions": [{"republish": {"topic": "heard/all"}}]}`)

	var secrets []string
	for _, format := range []string{"json", "cbor"} {
		d := e.connect("new-"+format, e.claim, enrolling(format, "lamps")...)
		a := d.mustAsk("$aws/certificates/create/"+format, []byte(nil))
		if len(a) != 4 {
			t.Errorf("%v", a)
		}
		pair, err := tls.X509KeyPair([]byte(a["certificatePem"].(string)), []byte(a["privateKey"].(string)))
		if err != nil {
			t.Fatal(err)
		}
		token := a["certificateOwnershipToken"].(string)
		secrets = append(secrets, token, strings.Split(a["privateKey"].(string), "\n")[3])
		c, err := e.api.DescribeCertificate(t.Context(), &iot.DescribeCertificateInput{CertificateId: aws.String(a["certificateId"].(string))})
		if err != nil || c.CertificateDescription.Status != types.CertificateStatusPendingActivation {
			t.Fatal(c, err)
		}
		name := "lamp-" + format
		r := d.mustAsk(provisionLamps+format, map[string]any{"certificateOwnershipToken": token, "parameters": map[string]string{"ThingName": name, "Site": "b"}})
		if r["thingName"] != name || fmt.Sprint(r["deviceConfiguration"]) != "map[Endpoint:https://b.example.com]" {
			t.Errorf("%v", r)
		}
		own := e.connect(name, pair)
		if err := own.c.Publish(t.Context(), &mqttclient.Message{Topic: "dt/" + name + "/x", Payload: []byte("1"), QoS: 1}); err != nil {
			t.Error(err)
		}
		// A token is for once.
		d.refused(provisionLamps+format, map[string]any{"certificateOwnershipToken": token, "parameters": map[string]string{"ThingName": name + "2"}}, "InvalidCertificateOwnershipToken")
	}

	// A way around: everything that was said since is on the log, and the rule
	// has had it.
	e.MustPublish("last", "{}")
	for m := range all.answers {
		if strings.HasPrefix(m.Topic, "$aws/certificates") || strings.HasPrefix(m.Topic, "$aws/provisioning") {
			t.Errorf("heard %s", m.Topic)
		}
		for _, s := range secrets {
			if bytes.Contains(m.Payload, []byte(s)) {
				t.Errorf("heard a secret on %s", m.Topic)
			}
		}
		if m.Topic == "last" {
			break
		}
	}
	for heard := 0; heard < 6; { // two creations, two registrations, two refusals
		m := out.Next()
		for _, s := range secrets {
			if bytes.Contains(m.Payload, []byte(s)) {
				t.Errorf("a rule heard a secret: %s", m.Payload)
			}
		}
		if bytes.Contains(m.Payload, []byte("certificatePem")) || bytes.Contains(m.Payload, []byte("PRIVATE")) {
			t.Errorf("a rule heard %s", m.Payload)
		}
		if bytes.Contains(m.Payload, []byte(`"provisioning"`)) {
			heard++
		}
	}
	// Those who read the log with NATS.
	for _, m := range e.readLog() {
		for _, s := range secrets {
			if bytes.Contains(m, []byte(s)) || bytes.Contains(m, []byte("PRIVATE KEY")) {
				t.Errorf("a reader of the log has a secret: %s", m)
			}
		}
	}
	for _, s := range append(secrets, "PRIVATE KEY") {
		if strings.Contains(logged.String(), s) {
			t.Errorf("a secret is logged: %s", s)
		}
	}
	list, err := e.API().ProvisionLog(t.Context(), nil)
	if err != nil || len(list) != 6 {
		t.Fatal(len(list), err)
	}
	if list, err = e.API().ProvisionLog(t.Context(), map[string][]string{"device": {"lamp-cbor"}}); err != nil || len(list) != 1 || len(list[0].Steps) < 6 {
		t.Fatal(list, err)
	}
	// Neither is a secret in what is stored: only hashes are.
	err = filepath.WalkDir(filepath.Join(e.Dir(), "log"), func(path string, f os.DirEntry, err error) error {
		if err != nil || f.IsDir() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for _, s := range secrets {
			if bytes.Contains(b, []byte(s)) {
				t.Errorf("%s has a secret", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// safeBuffer is a bytes.Buffer for several goroutines.
type safeBuffer struct {
	mu sync.Mutex // guards b
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

// readLog returns all that the credentials for data teams can read: the log, with
// its headers. More they are refused.
func (e *enrolment) readLog() [][]byte {
	e.t.Helper()
	ends := e.Endpoints()
	if ends.NATS == "" {
		return nil // who reads an external server's log is its operator's business
	}
	refused := make(chan error, 10)
	nc, err := nats.Connect("nats://"+ends.NATS, nats.UserCredentials(ends.NATSCreds), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	if err != nil {
		e.t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.SubscribeSync(">"); err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(e.t.Context(), time.Minute)
	defer cancel()
	select {
	case err := <-refused:
		if !strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
			e.t.Error(err)
		}
	case <-ctx.Done():
		e.t.Fatal("readers may subscribe to everything")
	}
	js, err := jetstream.New(nc)
	if err != nil {
		e.t.Fatal(err)
	}
	stream, err := js.CreateConsumer(ctx, "EVENTS-0", jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		e.t.Fatal(err)
	}
	var out [][]byte
	for {
		m, err := stream.Next(jetstream.FetchMaxWait(time.Minute))
		if err != nil {
			e.t.Fatal(err)
		}
		out = append(out, fmt.Appendf(nil, "%s %v %s", m.Subject(), m.Headers(), m.Data()))
		if meta, err := m.Metadata(); err != nil || meta.NumPending == 0 {
			return out
		}
	}
}

// Twenty devices with one claim certificate, at once: each gets its own answers.
func TestProvisioningAtOnce(t *testing.T) {
	e := startEnrolment(t)
	var wg sync.WaitGroup
	for i := range 20 {
		d := e.connect(fmt.Sprintf("new-%d", i), e.claim, enrolling("json", "lamps")...)
		wg.Go(func() {
			cert, token := d.fromCSR("json")
			if cert.Leaf == nil {
				cert.Leaf, _ = x509.ParseCertificate(cert.Certificate[0])
			}
			if !cert.Leaf.PublicKey.(*ecdsa.PublicKey).Equal(cert.PrivateKey.(*ecdsa.PrivateKey).Public()) {
				t.Error("somebody else's certificate")
			}
			name := fmt.Sprintf("lamp-%d", i)
			if r := d.mustAsk(provisionLamps+"json", map[string]any{"certificateOwnershipToken": token, "parameters": map[string]string{"ThingName": name}}); r["thingName"] != name {
				t.Errorf("%s got %v", name, r)
			}
			select {
			case m := <-d.answers:
				t.Errorf("%s heard %s", name, m.Topic)
			default:
			}
		})
	}
	wg.Wait()
}

func TestProvisioningAttacks(t *testing.T) {
	var mode sync.Map
	stop := make(chan struct{})
	lambda := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		m, _ := mode.Load("mode")
		switch m {
		case "slow":
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		case "error":
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
			io.WriteString(w, `{"errorMessage": "x"}`)
		case "override":
			mode.Store("request", string(b))
			io.WriteString(w, `{"allowProvisioning": true, "parameterOverrides": {"Site": "c"}}`)
		default:
			io.WriteString(w, m.(string))
		}
	}))
	defer lambda.Close()
	defer close(stop)
	t.Setenv("AWS_ENDPOINT_URL_LAMBDA", lambda.URL)
	e := startEnrolment(t)
	e.template("hooked", fleetTemplate, "arn:aws:lambda:us-east-1:123456789012:function:gate")
	d := e.connect("attacker", e.claim, append(enrolling("json", "lamps"), enrolling("json", "hooked")[4:]...)...)

	const csr = "$aws/certificates/create-from-csr/json"
	for _, body := range []string{"", "{", "null", "[]", `{"certificateSigningRequest": 5}`, "\x00", `{}{}`} {
		want := "InvalidPayload"
		d.refused(csr, []byte(body), want)
	}
	d.refused(csr, map[string]any{"certificateSigningRequest": "rubbish"}, "InvalidCsr")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	d.refused(csr, map[string]any{"certificateSigningRequest": csrOf(t, weak, &x509.CertificateRequest{})}, "InvalidCsr")
	d.refused("$aws/certificates/create/json", []byte("{"), "InvalidPayload")

	// A request for an authority with foreign names makes a client certificate.
	key := ecKey(t)
	a := d.mustAsk(csr, map[string]any{"certificateSigningRequest": csrOf(t, key, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "lamp-of-somebody"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}},
	})})
	b, _ := pem.Decode([]byte(a["certificatePem"].(string)))
	leaf, err := x509.ParseCertificate(b.Bytes)
	if err != nil || leaf.IsCA || len(leaf.DNSNames)+len(leaf.IPAddresses) > 0 {
		t.Errorf("%v %v", leaf, err)
	}
	token := a["certificateOwnershipToken"].(string)

	register := func(token string, parameters map[string]string) map[string]any {
		return map[string]any{"certificateOwnershipToken": token, "parameters": parameters}
	}
	for _, name := range []string{"*", "a*", "../x", "a/b", "${iot:ClientId}", `a","x`, "#", "", strings.Repeat("x", 129), "a b"} {
		d.refused(provisionLamps+"json", register(token, map[string]string{"ThingName": name}), "InvalidParameters")
	}
	d.refused(provisionLamps+"json", register(token, nil), "InvalidParameters")
	d.refused(provisionLamps+"json", register(token, map[string]string{"ThingName": "a", "AWS::IoT::Certificate::Id": "x"}), "InvalidParameters")
	d.refused(provisionLamps+"json", []byte(`{"certificateOwnershipToken": "`+token+`", "parameters": {"ThingName": 5}}`), "InvalidPayload")
	for _, bad := range []string{"", "x", token[:len(token)-2] + "AA", strings.Repeat("A", len(token))} {
		d.refused(provisionLamps+"json", register(bad, map[string]string{"ThingName": "a"}), "InvalidCertificateOwnershipToken")
	}
	// Another identity with the token.
	other := e.connect("other", e.TLS().Certificates[0], enrolling("json", "lamps")...)
	other.refused(provisionLamps+"json", register(token, map[string]string{"ThingName": "a"}), "InvalidCertificateOwnershipToken")

	// The hook, in all its moods.
	hooked := "$aws/provisioning-templates/hooked/provision/json"
	for _, m := range []string{"error", "rubbish", "", "{}", `{"allowProvisioning": false}`, `{"allowProvisioning": "true"}`, `{"allowProvisioning": true, "parameterOverrides": {"Site": 5}}`,
		`{"allowProvisioning": true, "parameterOverrides": {"AWS::IoT::Certificate::Id": "x"}}`, "slow"} {
		mode.Store("mode", m)
		d.refused(hooked, register(token, map[string]string{"ThingName": "a"}), "AccessDenied")
	}
	if things, err := e.api.ListThings(t.Context(), &iot.ListThingsInput{}); err != nil || len(things.Things) != 0 {
		t.Errorf("%v %v", things, err)
	}
	mode.Store("mode", "override")
	if r := d.mustAsk(hooked, register(token, map[string]string{"ThingName": "a"})); fmt.Sprint(r["deviceConfiguration"]) != "map[Endpoint:https://c.example.com]" {
		t.Errorf("%v", r)
	}
	request, _ := mode.Load("request")
	for _, want := range []string{`"claimCertificateId":"`, `"certificateId":"` + a["certificateId"].(string), `"templateArn":"` + account + `provisioningtemplate/hooked"`, `"clientId":"attacker"`, `"parameters":{"ThingName":"a"}`} {
		if !strings.Contains(request.(string), want) {
			t.Errorf("the hook got %s, without %s", request, want)
		}
	}
	// A thing that is there and different is not taken over.
	_, second := d.fromCSR("json")
	d.refused(provisionLamps+"json", register(second, map[string]string{"ThingName": "a", "Site": "elsewhere"}), "ResourceConflict")

	// A hook that is not there at all.
	lambda.Close()
	d.refused(hooked, register(second, map[string]string{"ThingName": "b"}), "AccessDenied")

	// The claim is good for nothing else.
	if err := d.c.Publish(t.Context(), &mqttclient.Message{Topic: "dt/a/x", QoS: 1}); err == nil {
		t.Error("a claim certificate may publish")
	}
	if err := d.c.Subscribe(t.Context(), 1, "dt/#"); err == nil {
		t.Error("a claim certificate may subscribe")
	}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{ServerName: "localhost", RootCAs: e.conf.RootCAs, Certificates: []tls.Certificate{e.claim}}}}
	defer web.CloseIdleConnections()
	for path, why := range map[string]string{"dt/a/x": "not allowed", csr: "call it over MQTT"} {
		r, err := web.Post("https://"+e.Endpoints().HTTPS+"/topics/"+url.PathEscape(path), "", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != http.StatusForbidden || !strings.Contains(string(b), why) {
			t.Errorf("by HTTPS on %s: %d %s", path, r.StatusCode, b)
		}
	}
	// Nobody without an identity calls at all.
	plain := e.Connect(mqttclient.Options{})
	if err := plain.Publish(t.Context(), &mqttclient.Message{Topic: csr, Payload: []byte("{}"), QoS: 1}); err == nil {
		t.Error("a private call without an identity")
	}
}

// Creations beyond the safety limit are refused, and no more than it are made.
func TestProvisioningFlood(t *testing.T) {
	e := startEnrolment(t)
	d := e.connect("flood", e.claim)
	var wg sync.WaitGroup
	csr := csrOf(t, ecKey(t), &x509.CertificateRequest{})
	b, _ := json.Marshal(map[string]string{"certificateSigningRequest": csr})
	var mu sync.Mutex
	codes := map[string]int{}
	answered := make(chan struct{}, 2000)
	conf := e.TLS()
	conf.Certificates = []tls.Certificate{e.claim}
	_ = d
	var conns []*mqttclient.Client
	for i := range 4 {
		c := e.Connect(mqttclient.Options{Addr: e.Endpoints().MQTTS, TLS: conf, ClientID: fmt.Sprintf("flood-%d", i), OnMessage: func(m *mqttclient.Message) {
			var r struct{ ErrorCode string }
			json.Unmarshal(m.Payload, &r)
			mu.Lock()
			codes[r.ErrorCode]++
			mu.Unlock()
			answered <- struct{}{}
		}})
		if err := c.Subscribe(t.Context(), 1, "$aws/certificates/create-from-csr/json/accepted", "$aws/certificates/create-from-csr/json/rejected"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	begun := time.Now()
	for _, c := range conns {
		wg.Go(func() {
			for range 250 {
				if err := c.Publish(t.Context(), &mqttclient.Message{Topic: "$aws/certificates/create-from-csr/json", Payload: b, QoS: 1}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for range 1000 {
		<-answered
	}
	seconds := int(time.Since(begun)/time.Second) + 2
	mu.Lock()
	defer mu.Unlock()
	t.Log(codes, time.Since(begun))
	if codes[""] > 200*seconds || codes[""]+codes["Throttled"] != 1000 {
		t.Errorf("%v in %s", codes, time.Since(begun))
	}
}

// A trusted user's claim is for one template, five minutes and nothing else.
func TestProvisioningByTrustedUser(t *testing.T) {
	e := startEnrolment(t)
	e.template("other", fleetTemplate, "")
	c, err := e.api.CreateProvisioningClaim(t.Context(), &iot.CreateProvisioningClaimInput{TemplateName: aws.String("lamps")})
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(*c.Expiration); left > 5*time.Minute || left < 3*time.Minute {
		t.Errorf("ends in %s", left)
	}
	pair, err := tls.X509KeyPair([]byte(*c.CertificatePem), []byte(*c.KeyPair.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	list, err := e.api.ListCertificates(t.Context(), &iot.ListCertificatesInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list.Certificates {
		if *l.CertificateId == *c.CertificateId {
			t.Error("the claim is in the list")
		}
	}
	d := e.connect("phone", pair, enrolling("json", "lamps")...)
	if err := d.c.Subscribe(t.Context(), 1, "$aws/provisioning-templates/other/provision/json/accepted"); err == nil {
		t.Error("a claim may use another template")
	}
	_, token := d.fromCSR("json")
	d.mustAsk(provisionLamps+"json", map[string]any{"certificateOwnershipToken": token, "parameters": map[string]string{"ThingName": "lamp"}})
}

// A certificate of a CA with a template becomes a thing at its first connection.
func TestJustInTimeProvisioning(t *testing.T) {
	e := startEnrolment(t)
	ctx := t.Context()
	caKey := ecKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "factory"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	const body = `{"Parameters": {"AWS::IoT::Certificate::CommonName": {"Type": "String"}, "AWS::IoT::Certificate::Country": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
	 "Resources": {"thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "AWS::IoT::Certificate::CommonName"}, "AttributePayload": {"country": {"Ref": "AWS::IoT::Certificate::Country"}}}},
	 "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}, "OverrideSettings": {"Status": "DO_NOTHING"}},
	 "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": "{\"Version\": \"2012-10-17\", \"Statement\": [{\"Effect\": \"Allow\", \"Action\": \"iot:*\", \"Resource\": \"*\"}]}"}}}}`
	if _, err := e.api.CreateProvisioningTemplate(ctx, &iot.CreateProvisioningTemplateInput{TemplateName: aws.String("jit"), TemplateBody: aws.String(body), Enabled: aws.Bool(true), Type: types.TemplateTypeJitp,
		ProvisioningRoleArn: aws.String("arn:aws:iam::123456789012:role/provisioning")}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.api.RegisterCACertificate(ctx, &iot.RegisterCACertificateInput{CaCertificate: aws.String(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		CertificateMode: types.CertificateModeSniOnly, SetAsActive: true, AllowAutoRegistration: true, RegistrationConfig: &types.RegistrationConfig{TemplateName: aws.String("jit")}}); err != nil {
		t.Fatal(err)
	}
	dial := func(subject pkix.Name) func() error {
		key := ecKey(t)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		return func() error {
			conf := e.TLS()
			conf.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
			c, err := mqttclient.Connect(ctx, mqttclient.Options{Addr: e.Endpoints().MQTTS, TLS: conf, ClientID: "device-" + subject.CommonName})
			if err == nil {
				c.Abort()
			}
			return err
		}
	}
	connect := dial(pkix.Name{CommonName: "lamp-1", Country: []string{"CH"}})
	if connect() == nil {
		t.Error("the first connection was accepted")
	}
	if err := connect(); err != nil {
		t.Error(err)
	}
	thing, err := e.api.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: aws.String("lamp-1")})
	if err != nil || thing.Attributes["country"] != "CH" {
		t.Error(thing, err)
	}
	// Without a country nothing is made, not even the certificate.
	before, err := e.api.ListCertificates(ctx, &iot.ListCertificatesInput{})
	if err != nil {
		t.Fatal(err)
	}
	connect = dial(pkix.Name{CommonName: "lamp-2"})
	for range 2 {
		if connect() == nil {
			t.Error("a certificate without a country was accepted")
		}
	}
	after, err := e.api.ListCertificates(ctx, &iot.ListCertificatesInput{})
	if err != nil || len(after.Certificates) != len(before.Certificates) {
		t.Error(len(after.Certificates), err)
	}
	list, err := e.API().ProvisionLog(ctx, map[string][]string{"outcome": {"rejected"}})
	if err != nil || len(list) != 2 || !strings.Contains(list[0].Error, "Country") {
		t.Error(list, err)
	}
}

// RegisterThing of the control plane: a template with its parameters, for a key
// of the caller's.
func TestRegisterThingAPI(t *testing.T) {
	e := startEnrolment(t)
	const body = `{"Parameters": {"CSR": {"Type": "String"}, "ThingName": {"Type": "String"}}, "Resources": {
	 "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "ThingName"}}},
	 "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateSigningRequest": {"Ref": "CSR"}, "Status": "ACTIVE"}},
	 "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "claim"}}}}`
	in := &iot.RegisterThingInput{TemplateBody: aws.String(body), Parameters: map[string]string{"ThingName": "bulk", "CSR": csrOf(t, ecKey(t), &x509.CertificateRequest{})}}
	r, err := e.api.RegisterThing(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if r.ResourceArns["thing"] != account+"thing/bulk" || r.ResourceArns["policy"] != account+"policy/claim" || !strings.HasPrefix(r.ResourceArns["certificate"], account+"cert/") ||
		!strings.Contains(*r.CertificatePem, "BEGIN CERTIFICATE") {
		t.Errorf("%v", r)
	}
	in.Parameters["ThingName"] = "no/thing"
	if _, err := e.api.RegisterThing(t.Context(), in); err == nil {
		t.Error("a thing with a slash")
	}
	list, err := e.api.ListCertificates(t.Context(), &iot.ListCertificatesInput{})
	if err != nil || len(list.Certificates) != 3 { // the owner's, the claim, the one above
		t.Error(len(list.Certificates), err)
	}
	// A file of many devices is not taken: the caller is told so.
	_, err = e.api.StartThingRegistrationTask(t.Context(), &iot.StartThingRegistrationTaskInput{TemplateBody: aws.String(body), InputFileBucket: aws.String("bucket"), InputFileKey: aws.String("key"),
		RoleArn: aws.String("arn:aws:iam::123456789012:role/provisioning")})
	if err == nil || !strings.Contains(err.Error(), "does not have the operation StartThingRegistrationTask") {
		t.Error(err)
	}
	if _, err := e.api.CreateProvisioningTemplate(t.Context(), &iot.CreateProvisioningTemplateInput{TemplateName: aws.String("bad"), TemplateBody: aws.String(`{"Resources": {"x": {}}}`),
		ProvisioningRoleArn: aws.String("arn:aws:iam::123456789012:role/provisioning")}); err == nil || !strings.Contains(err.Error(), "1:21") {
		t.Error(err)
	}
}

var csrTemplate = &x509.CertificateRequest{Subject: pkix.Name{CommonName: "a device"}}
