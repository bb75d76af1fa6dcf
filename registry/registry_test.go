package registry

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/seal"
)

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	goleak.VerifyTestMain(m)
}

// store is a running log with the registry's bucket.
func store(t testing.TB, o eventlog.Options) (*kv.Bucket, func()) {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	l, err := eventlog.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	b, err := kv.Open(context.Background(), l, kv.Config{Name: "registry"})
	if err != nil {
		t.Fatal(err)
	}
	return b, stop
}

// ca signs as Weir's own authority does.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t testing.TB, name string) *ca {
	if t != nil {
		t.Helper()
	}
	c := &ca{}
	var err error
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, c.key.Public(), c.key)
	if err != nil {
		panic(err)
	}
	if c.cert, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	return c
}

func (c *ca) pem() string { return pemOf(c.cert.Raw) }

func (c *ca) SignClient(subject pkix.Name, key crypto.PublicKey) ([]byte, error) {
	return c.SignClientUntil(subject, key, time.Now().Add(time.Hour))
}

func (c *ca) SignClientUntil(subject pkix.Name, key crypto.PublicKey, then time.Time) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: then, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, c.cert, key, c.key)
}

// client makes a certificate outside of the registry.
func (c *ca) client(name string) *x509.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := c.SignClient(pkix.Name{CommonName: name}, key.Public())
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}

func (c *ca) leaf(t testing.TB, name string) (string, *x509.Certificate) {
	t.Helper()
	cert := c.client(name)
	return pemOf(cert.Raw), cert
}

func csr(t testing.TB, key crypto.Signer, template *x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// open runs a registry; set may change its options.
func open(t testing.TB, b *kv.Bucket, set func(*Options)) (*Registry, func()) {
	t.Helper()
	box, err := seal.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Bucket: b, AccountID: "123456789012", Region: "us-east-1", Seal: box, Keys: ECDSAP256, CA: newCA(t, "own"), Logger: slog.New(slog.DiscardHandler)}
	if set != nil {
		set(&o)
	}
	r, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return r, stop
}

func start(t testing.TB, set func(*Options)) *Registry {
	t.Helper()
	b, _ := store(t, eventlog.Options{Durability: eventlog.Memory})
	r, _ := open(t, b, set)
	return r
}

// must returns a function that returns v where err is nil, and else fails.
func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused fails unless err has the code, its kind and a message.
func refused(t testing.TB, err error, c Code) {
	t.Helper()
	if CodeOf(err) != c || !errs.Is(err, kindOf[c]) || errs.Text(err) == "" {
		t.Fatalf("got %v (%s, %s), expected %s", err, CodeOf(err), errs.KindOf(err), c)
	}
}

func allow(action string) string {
	return fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "%s", "Resource": "*"}]}`, action)
}

func TestThings(t *testing.T) {
	r := start(t, nil)
	ctx := t.Context()
	must[*ThingType](t)(r.CreateThingType(ctx, "pump", ThingTypeProperties{Description: "moves water", Searchable: []string{"maker"}}, nil))
	a := must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: "a:1", Type: "pump", Attributes: map[string]string{"maker": "acme", "none": ""}}))
	if a.Version != 1 || len(a.ID) != 36 || a.Attributes["maker"] != "acme" || len(a.Attributes) != 1 || a.CreatedAt.IsZero() {
		t.Fatalf("%+v", a)
	}
	if r.ThingARN("a:1") != "arn:aws:iot:us-east-1:123456789012:thing/a:1" {
		t.Fatal(r.ThingARN("a:1"))
	}
	again := must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: "a:1", Type: "pump", Attributes: map[string]string{"maker": "acme"}}))
	if again.ID != a.ID {
		t.Fatal("the same create made another thing")
	}
	_, err := r.CreateThing(ctx, CreateThing{Name: "a:1"})
	refused(t, err, Exists)
	var e *Error
	if !errors.As(err, &e) || e.ID != a.ID || e.ARN != r.ThingARN("a:1") {
		t.Fatalf("%+v", e)
	}
	for _, in := range []CreateThing{{Name: ""}, {Name: "a b"}, {Name: "a.b"}, {Name: "a/b"}, {Name: "ä"}, {Name: string(make([]byte, 129))},
		{Name: "b", Attributes: map[string]string{"a b": "x"}}, {Name: "b", Attributes: map[string]string{"a": "x y"}}, {Name: "b", Attributes: map[string]string{"": "x"}},
		{Name: "b", Attributes: map[string]string{"a": "1", "b": "2", "c": "3", "d": "4"}}} {
		_, err := r.CreateThing(ctx, in)
		refused(t, err, InvalidRequest)
	}
	_, err = r.CreateThing(ctx, CreateThing{Name: "b", Type: "none"})
	refused(t, err, NotFound)

	b := must[*Thing](t)(r.UpdateThing(ctx, UpdateThing{Name: "a:1", Attributes: map[string]string{"site": "north", "maker": ""}, Merge: true, ExpectedVersion: 1}))
	if b.Version != 2 || b.ID != a.ID || len(b.Attributes) != 1 || b.Attributes["site"] != "north" || a.Attributes["maker"] != "acme" {
		t.Fatalf("%+v", b)
	}
	_, err = r.UpdateThing(ctx, UpdateThing{Name: "a:1", ExpectedVersion: 1})
	refused(t, err, VersionConflict)
	refused(t, r.DeleteThing(ctx, "a:1", 1), VersionConflict)
	c := must[*Thing](t)(r.UpdateThing(ctx, UpdateThing{Name: "a:1", RemoveType: true}))
	if c.Type != "" || c.Attributes["site"] != "north" {
		t.Fatalf("%+v", c)
	}
	ok(t, r.DeleteThing(ctx, "a:1", 3))
	ok(t, r.DeleteThing(ctx, "a:1", 0))
	_, err = r.Thing("a:1")
	refused(t, err, NotFound)
	d := must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: "a:1"}))
	if d.ID == a.ID || d.Version != 1 {
		t.Fatalf("%+v", d)
	}
}

func TestThingTypes(t *testing.T) {
	now := time.Now()
	var mu sync.Mutex
	r := start(t, func(o *Options) {
		o.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	ctx := t.Context()
	a := must[*ThingType](t)(r.CreateThingType(ctx, "pump", ThingTypeProperties{Description: "x"}, map[string]string{"team": "a b"}))
	if b := must[*ThingType](t)(r.CreateThingType(ctx, "pump", ThingTypeProperties{Description: "x"}, map[string]string{"team": "a b"})); b.ID != a.ID {
		t.Fatal(b)
	}
	_, err := r.CreateThingType(ctx, "pump", ThingTypeProperties{}, nil)
	refused(t, err, Exists)
	_, err = r.CreateThingType(ctx, "x", ThingTypeProperties{Searchable: []string{"a", "b", "c", "d"}}, nil)
	refused(t, err, InvalidRequest)
	must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: "t", Type: "pump"}))
	refused(t, r.DeleteThingType(ctx, "pump"), InvalidRequest)
	ok(t, r.DeprecateThingType(ctx, "pump", false))
	_, err = r.CreateThing(ctx, CreateThing{Name: "t2", Type: "pump"})
	refused(t, err, InvalidRequest)
	ok(t, r.DeprecateThingType(ctx, "pump", true))
	must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: "t2", Type: "pump"}))
	ok(t, r.DeprecateThingType(ctx, "pump", false))
	refused(t, r.DeleteThingType(ctx, "pump"), InvalidRequest) // too soon
	mu.Lock()
	now = now.Add(5*time.Minute + time.Second)
	mu.Unlock()
	refused(t, r.DeleteThingType(ctx, "pump"), InvalidRequest) // has things
	ok(t, r.DeleteThing(ctx, "t", 0))
	must[*Thing](t)(r.UpdateThing(ctx, UpdateThing{Name: "t2", RemoveType: true}))
	ok(t, r.DeleteThingType(ctx, "pump"))
	_, err = r.ThingType("pump")
	refused(t, err, NotFound)
	refused(t, r.DeleteThingType(ctx, "pump"), NotFound)
}
