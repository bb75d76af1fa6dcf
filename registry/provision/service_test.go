package provision

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/registry"
)

// signer is an authority.
type signer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	step func() // before each signature; may be nil
}

func (s *signer) SignClient(n pkix.Name, key crypto.PublicKey) ([]byte, error) {
	return s.SignClientUntil(n, key, time.Now().Add(24*time.Hour))
}

func (s *signer) SignClientUntil(n pkix.Name, key crypto.PublicKey, then time.Time) ([]byte, error) {
	if s.step != nil {
		s.step()
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial, Subject: n, NotBefore: time.Now().Add(-time.Hour), NotAfter: then}, s.cert, key, s.key)
}

// hook allows everything.
type hook struct{ step func() }

func (h hook) Invoke(context.Context, string, []byte) ([]byte, error) {
	h.step()
	defer h.step()
	return []byte(`{"allowProvisioning": true, "parameterOverrides": {"Site": "Seattle"}}`), nil
}

// world is a service over a registry, with a clock of the test's.
type world struct {
	*Service
	r   *registry.Registry
	who Caller // who asks
	csr string
}

func begin(t testing.TB, dir string, clock *atomic.Int64) (_ *world, stop func()) {
	t.Helper()
	return beginAt(t, dir, clock, func() {})
}

// beginAt is begin with step called between any two steps of what the service
// does.
func beginAt(t testing.TB, dir string, clock *atomic.Int64, step func()) (_ *world, stop func()) {
	t.Helper()
	l, err := eventlog.Open(t.Context(), eventlog.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- l.Run(ctx) }()
	b, err := kv.Open(ctx, l, kv.Config{Name: "registry"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }
	w := &world{who: Caller{Principal: "claim", ClientID: "device"}}
	w.r, err = registry.Open(ctx, registry.Options{Bucket: b, AccountID: "123456789012", Region: "us-east-1", CheckTemplate: Check, Keys: registry.ECDSAP256,
		CA: &signer{key, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}}, step}, Logger: slog.New(slog.DiscardHandler),
		// Each change begins by asking what time it is: so changes have steps between
		// them.
		Now: func() time.Time { step(); return now() }})
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- w.r.Run(ctx) }()
	publish := func(ctx context.Context, e *event.Event) error {
		step()
		defer step()
		return l.Publish(ctx, e)
	}
	w.Service, err = New(Options{Registry: w.r, Invoke: hook{step}, Publish: publish, Logger: slog.New(slog.DiscardHandler), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	w.csr = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	return w, func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func (w *world) template(t testing.TB, name, body string, typ registry.TemplateType, h *registry.Hook) {
	t.Helper()
	_, err := w.r.CreateTemplate(t.Context(), registry.CreateTemplate{Name: name, Type: typ, Body: body, Enabled: true, Hook: h, RoleARN: "arn:aws:iam::123456789012:role/r"})
	if err != nil {
		t.Fatal(err)
	}
}

// register asks for the thing lamp-<name>, where the template is fleet.
func (w *world) register(t testing.TB, template, token, name string) map[string]any {
	t.Helper()
	return w.ask(t, topic.Name("$aws/provisioning-templates/"+template+"/provision/json"),
		map[string]any{"certificateOwnershipToken": token, "parameters": map[string]string{"ThingName": name, "Serial": "x:1"}})
}

func (w *world) ask(t testing.TB, n topic.Name, q any) (answer map[string]any) {
	t.Helper()
	b, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	_, out, err := w.Call(t.Context(), w.who, n, b)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// A certificate that nobody activates is gone after its hour, also where Weir was
// down then; one that was activated stays, and its token is good no more.
func TestLapsedClaims(t *testing.T) {
	var clock atomic.Int64
	dir := t.TempDir()
	w, stop := begin(t, dir, &clock)
	w.template(t, "fleet", fleet, "", nil)
	create := func() (id, token string) {
		a := w.ask(t, "$aws/certificates/create-from-csr/json", map[string]string{"certificateSigningRequest": w.csr})
		return a["certificateId"].(string), a["certificateOwnershipToken"].(string)
	}
	register := func(token string) map[string]any { return w.register(t, "fleet", token, "7") }
	kept, token := create()
	if a := register(token); a["thingName"] != "lamp-7" {
		t.Fatal(a)
	}
	orphan, late := create()
	stop()
	clock.Store(int64(time.Hour + time.Minute))
	w, stop = begin(t, dir, &clock)
	defer stop()
	if a := register(late); a["errorCode"] != "InvalidCertificateOwnershipToken" {
		t.Errorf("a token that has ended: %v", a)
	}
	if err := w.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.r.Certificate(orphan); registry.CodeOf(err) != registry.NotFound {
		t.Errorf("the certificate that was not activated: %v", err)
	}
	if c, err := w.r.Certificate(kept); err != nil || c.Status != registry.Active {
		t.Errorf("the one that was: %v %v", c, err)
	}
}

// slowHook answers once it is let go.
type slowHook struct{ hook, let chan struct{} }

func (h slowHook) Invoke(ctx context.Context, _ string, _ []byte) ([]byte, error) {
	h.hook <- struct{}{}
	select {
	case <-h.let:
		return []byte(`{"allowProvisioning": true}`), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// While hooks are slow, as many as there may be, certificates are made all the
// same; and a token that many use at once is good for one of them.
func TestSlowHooks(t *testing.T) {
	var clock atomic.Int64
	w, stop := begin(t, t.TempDir(), &clock)
	defer stop()
	w.registrations.perSecond = 1 << 30
	w.template(t, "hooked", fleet, "", &registry.Hook{TargetARN: "arn:aws:lambda:us-east-1:123456789012:function:gate"})
	h := slowHook{make(chan struct{}), make(chan struct{})}
	w.o.Invoke = h
	csr := map[string]string{"certificateSigningRequest": w.csr}
	token := w.ask(t, "$aws/certificates/create-from-csr/json", csr)["certificateOwnershipToken"].(string)
	var registered, late atomic.Int64
	var devices sync.WaitGroup
	for i := range maxHooks {
		devices.Go(func() {
			switch a := w.register(t, "hooked", token, itoa(i)); {
			case a["thingName"] != nil:
				registered.Add(1)
			case a["errorCode"] == "AccessDenied":
				late.Add(1) // five seconds were over on a busy machine
			case a["errorCode"] != "InvalidCertificateOwnershipToken":
				t.Error(a)
			}
		})
	}
	for range maxHooks {
		<-h.hook
	}
	if n := len(w.calls); n > 0 {
		t.Errorf("%d calls stand in the way of others while they wait for their hooks", n)
	}
	if a := w.ask(t, "$aws/certificates/create-from-csr/json", csr); a["certificateId"] == nil {
		t.Error(a)
	}
	close(h.let)
	devices.Wait()
	if n := registered.Load(); n != 1 && late.Load() < maxHooks {
		t.Errorf("%d things with one token", n)
	}
	w.whole(t)
}

// A claim of CreateProvisioningClaim is for one template and five minutes.
func TestTemporaryClaim(t *testing.T) {
	var clock atomic.Int64
	w, stop := begin(t, t.TempDir(), &clock)
	defer stop()
	w.template(t, "fleet", fleet, "", nil)
	w.template(t, "other", fleet, "", nil)
	claim, _, err := w.r.CreateProvisioningClaim(t.Context(), "fleet")
	if err != nil {
		t.Fatal(err)
	}
	w.who = Caller{Principal: claim.ID, ClientID: "phone"}
	a := w.ask(t, "$aws/certificates/create-from-csr/json", map[string]string{"certificateSigningRequest": w.csr})
	token := a["certificateOwnershipToken"].(string)
	if r := w.register(t, "other", token, "1"); r["errorCode"] != "AccessDenied" {
		t.Errorf("by another template: %v", r)
	}
	if r := w.register(t, "fleet", token, "1"); r["thingName"] != "lamp-1" {
		t.Error(r)
	}
	clock.Store(int64(registry.ClaimLife))
	if _, err := w.r.ProvisioningClaim(claim.ID); registry.CodeOf(err) != registry.NotFound {
		t.Errorf("after its five minutes: %v", err)
	}
	if err := w.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	clock.Store(0)
	if _, err := w.r.ProvisioningClaim(claim.ID); registry.CodeOf(err) != registry.NotFound {
		t.Errorf("it is kept: %v", err)
	}
}

// BenchmarkEnrol is one device from its request to its thing, without the
// gateway.
func BenchmarkEnrol(b *testing.B) {
	var clock atomic.Int64
	w, stop := begin(b, b.TempDir(), &clock)
	defer stop()
	w.template(b, "fleet", fleet, "", nil)
	w.creations.perSecond, w.registrations.perSecond = 1<<30, 1<<30
	var n atomic.Int64
	b.SetParallelism(16)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			a := w.ask(b, "$aws/certificates/create-from-csr/json", map[string]string{"certificateSigningRequest": w.csr})
			r := w.register(b, "fleet", a["certificateOwnershipToken"].(string), itoa(int(n.Add(1))))
			if r["thingName"] == nil {
				b.Error(r)
			}
		}
	})
}

// What a device is told of a failure: what it can do about it, no more.
func TestRejections(t *testing.T) {
	for _, test := range []struct {
		kind   errs.Kind
		status int
		code   string
		told   bool // the text
	}{
		{errs.Invalid, 400, "InvalidParameters", true},
		{errs.Conflict, 409, "ResourceConflict", true},
		{errs.Quota, 429, "Throttled", true},
		{errs.Unavailable, 503, "ServiceUnavailable", false},
		{errs.Timeout, 503, "ServiceUnavailable", false},
		{errs.Internal, 500, "InternalError", false},
	} {
		r := rejectionOf(errs.Errorf("op", test.kind, "the text"))
		if r.StatusCode != test.status || r.ErrorCode != test.code || strings.Contains(r.ErrorMessage, "the text") != test.told {
			t.Errorf("%v: %+v", test.kind, r)
		}
	}
}
