package provision

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/registry"
)

// The process that TestKilledBetweenSteps kills is this test again, with these
// set: the folder, and the step at which it is killed; 0 is none.
const (
	crashDir = "WEIR_TEST_PROVISION_DIR"
	crashAt  = "WEIR_TEST_PROVISION_STEP"
)

// jitTemplate is what a certificate of the factory becomes.
const jitTemplate = `{"Parameters": {"AWS::IoT::Certificate::CommonName": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}}, "Resources": {
 "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "AWS::IoT::Certificate::CommonName"}}},
 "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}}},
 "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "devices"}}}}`

const bulkTemplate = `{"Parameters": {"Name": {"Type": "String"}, "CSR": {"Type": "String"}}, "Resources": {
 "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Name"}}},
 "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateSigningRequest": {"Ref": "CSR"}}},
 "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "devices"}}}}`

// factory is a CA of somebody's that is registered with jitTemplate.
func factory(t testing.TB, w *world) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "factory"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	_, err = w.r.RegisterCACertificate(t.Context(), registry.RegisterCA{PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), Mode: registry.ModeSNIOnly,
		Active: true, AutoRegistration: true, Config: &registry.RegistrationConfig{TemplateName: "jit"}})
	if err != nil {
		t.Fatal(err)
	}
	return &signer{key: key, cert: ca}
}

// TestEnrolUntilKilled is the process that is killed: devices enrol, each in a
// way of its own, and one is refused. It says what it was answered.
func TestEnrolUntilKilled(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("a part of TestKilledBetweenSteps")
	}
	at, err := strconv.Atoi(os.Getenv(crashAt))
	if err != nil {
		t.Fatal(err)
	}
	steps, begun := 0, false
	step := func() {
		if !begun {
			return
		}
		if steps++; steps == at {
			self, err := os.FindProcess(os.Getpid())
			if err == nil {
				err = self.Kill()
			}
			if err != nil {
				t.Error(err)
			}
			select {} // until it is
		}
	}
	told := func(what, value string) {
		step()
		fmt.Println("told", what, value)
	}
	var clock atomic.Int64
	w, stop := beginAt(t, dir, &clock, step)
	w.template(t, "fleet", fleet, registry.FleetProvisioning, nil)
	w.template(t, "hooked", fleet, registry.FleetProvisioning, &registry.Hook{TargetARN: "arn:aws:lambda:us-east-1:123456789012:function:gate"})
	w.template(t, "jit", jitTemplate, registry.JITP, nil)
	if _, err := w.r.CreatePolicy(t.Context(), "devices", "{}", nil); err != nil {
		t.Fatal(err)
	}
	ca := factory(t, w)
	begun = true

	token := func(call topic.Name, q any) string {
		token, _ := w.ask(t, call, q)["certificateOwnershipToken"].(string)
		told("token", token)
		return token
	}
	const byCSR = "$aws/certificates/create-from-csr/json"
	csr := map[string]string{"certificateSigningRequest": w.csr}
	register := func(template, token, name string) {
		a := w.register(t, template, token, name)
		if thing, ok := a["thingName"].(string); ok {
			told("thing", thing)
		} else {
			told("refusal", a["errorCode"].(string))
		}
	}
	register("hooked", token("$aws/certificates/create/json", map[string]any{}), "keys")
	second := token(byCSR, csr)
	register("fleet", second, "*")
	register("fleet", second, "csr")
	token(byCSR, csr) // never used
	made, _, err := w.RegisterThing(t.Context(), bulkTemplate, map[string]string{"Name": "bulk", "CSR": w.csr})
	if err != nil {
		t.Fatal(err)
	}
	told("thing", made.Thing)
	leaf := ca.client(t, "jit")
	if known, err := w.Provision(t.Context(), leaf, idOf(ca.cert), Caller{Principal: idOf(leaf), Certificate: true}); known || err != nil {
		t.Fatal(known, err)
	}
	told("thing", "jit")
	stop()
	fmt.Println("steps", steps)
}

// client makes a client certificate.
func (s *signer) client(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	der, err := s.SignClient(pkix.Name{CommonName: name}, s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func idOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// enrolUntil runs TestEnrolUntilKilled and returns what the devices were told;
// steps is how many there were, where it was not killed.
func enrolUntil(t *testing.T, dir string, at int) (things, tokens []string, steps int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestEnrolUntilKilled$", "-test.timeout", "5m")
	cmd.Env = append(os.Environ(), crashDir+"="+dir, crashAt+"="+strconv.Itoa(at))
	out, err := cmd.Output()
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		switch f := strings.Fields(s.Text()); {
		case len(f) == 3 && f[1] == "thing":
			things = append(things, f[2])
		case len(f) == 3 && f[1] == "token":
			tokens = append(tokens, f[2])
		case len(f) == 2 && f[0] == "steps":
			steps, _ = strconv.Atoi(f[1])
		}
	}
	if killed := cmd.ProcessState.ExitCode() == -1; killed != (at > 0) || killed == (steps > 0) {
		t.Fatalf("step %d: %v\n%s", at, err, out)
	}
	return things, tokens, steps
}

// Whatever step of an enrolment the process is killed at: what a device was told
// holds, it can go on with a token it was told, and there is no thing without its
// certificate, no certificate without its thing beyond its hour, no policy of
// nobody's.
func TestKilledBetweenSteps(t *testing.T) {
	if testing.Short() {
		t.Skip("a process for each step")
	}
	things, tokens, steps := enrolUntil(t, t.TempDir(), 0)
	if len(things) != 4 || len(tokens) != 3 {
		t.Fatal(things, tokens)
	}
	t.Logf("killed at each of %d steps", steps)
	for at := 1; at <= steps; at++ {
		t.Run(strconv.Itoa(at), func(t *testing.T) {
			dir := t.TempDir()
			things, tokens, _ := enrolUntil(t, dir, at)
			var clock atomic.Int64
			w, stop := begin(t, dir, &clock)
			defer stop()
			w.whole(t)
			for _, name := range things {
				if _, err := w.r.Thing(name); err != nil {
					t.Errorf("a device was told that it is %s: %v", name, err)
				}
			}
			for i, token := range tokens {
				c, err := w.r.Certificate(certificateOf(t, token))
				if err != nil {
					t.Fatal(err)
				}
				a := w.register(t, "fleet", token, fmt.Sprint("later-", i))
				if unused := c.Status == registry.PendingActivation; unused != (a["thingName"] != nil) {
					t.Errorf("with the token of a certificate that is %s: %v", c.Status, a)
				}
			}
			w.whole(t)
			clock.Store(int64(TokenLife + time.Minute))
			if err := w.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, c := range all(t, func(p registry.Page) ([]*registry.Certificate, string, error) { return w.r.Certificates(true, p) }) {
				if c.Status != registry.Active {
					t.Errorf("after its hour a certificate is %s", c.Status)
				}
			}
			w.whole(t)
		})
	}
}

// all returns the pages of a list.
func all[T any](t testing.TB, list func(registry.Page) ([]T, string, error)) []T {
	t.Helper()
	var out []T
	p := registry.Page{Max: 250}
	for {
		part, next, err := list(p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, part...)
		if p.Token = next; next == "" {
			return out
		}
	}
}

// certificateOf reads the certificate's id from a token.
func certificateOf(t testing.TB, token string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b[:32])
}

// whole fails the test where something is there without what belongs to it.
func (w *world) whole(t *testing.T) {
	t.Helper()
	things := all(t, func(p registry.Page) ([]*registry.Thing, string, error) { return w.r.Things(registry.ThingFilter{}, p) })
	for _, thing := range things {
		held, _, err := w.r.PrincipalsOf(thing.Name, "", registry.Page{})
		if err != nil || len(held) != 1 {
			t.Errorf("thing %s has %d certificates, %v", thing.Name, len(held), err)
			continue
		}
		if c, err := w.r.Certificate(held[0].CertificateID); err != nil || c.Status != registry.Active || c.Claim != nil {
			t.Errorf("the certificate of thing %s: %+v %v", thing.Name, c, err)
		}
	}
	attached := map[string]bool{"devices": true}
	for _, c := range all(t, func(p registry.Page) ([]*registry.Certificate, string, error) { return w.r.Certificates(true, p) }) {
		things, _, err := w.r.ThingsOf(c.ID, "", registry.Page{})
		if err != nil {
			t.Fatal(err)
		}
		policies, err := w.r.EffectivePolicies(c.ID, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range policies {
			attached[p.Policy.Name] = true
		}
		switch {
		case c.Status == registry.Active && len(things) == 1 && len(policies) == 1:
		case c.Status == registry.PendingActivation && c.Claim != nil && len(things)+len(policies) == 0 && time.Until(c.Claim.Expires) <= TokenLife:
		default:
			t.Errorf("certificate %s is %s, with %d things and %d policies", c.ID, c.Status, len(things), len(policies))
		}
	}
	for _, p := range all(t, func(p registry.Page) ([]*registry.Policy, string, error) { return w.r.Policies(true, p) }) {
		if !attached[p.Name] {
			t.Errorf("policy %s is nobody's", p.Name)
		}
	}
}
