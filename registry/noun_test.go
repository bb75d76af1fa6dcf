package registry

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

func TestGroups(t *testing.T) {
	r := start(t, nil)
	ctx := t.Context()
	parent := ""
	for i := 1; i <= 7; i++ {
		g := must[*Group](t)(r.CreateGroup(ctx, CreateGroup{Name: fmt.Sprint("g", i), Parent: parent, Attributes: map[string]string{"n": "1"}}))
		if again := must[*Group](t)(r.CreateGroup(ctx, CreateGroup{Name: g.Name, Parent: parent, Attributes: map[string]string{"n": "1"}})); again.ID != g.ID {
			t.Fatal(again)
		}
		parent = g.Name
	}
	_, err := r.CreateGroup(ctx, CreateGroup{Name: "g8", Parent: "g7"})
	refused(t, err, LimitExceeded)
	_, err = r.CreateGroup(ctx, CreateGroup{Name: "g1", Description: "other"})
	refused(t, err, Exists)
	_, err = r.CreateGroup(ctx, CreateGroup{Name: "x", Parent: "none"})
	refused(t, err, NotFound)
	if up := must[[]*Group](t)(r.Ancestors("g3")); len(up) != 2 || up[0].Name != "g1" || up[1].Name != "g2" {
		t.Fatal(up)
	}
	no := false
	for _, c := range []struct {
		f    GroupFilter
		want int
	}{{GroupFilter{}, 7}, {GroupFilter{Recursive: &no}, 1}, {GroupFilter{Parent: "g2"}, 5}, {GroupFilter{Parent: "g2", Recursive: &no}, 1}, {GroupFilter{Prefix: "g7"}, 1}} {
		if list, _, err := r.Groups(c.f, Page{}); err != nil || len(list) != c.want {
			t.Fatalf("%+v: %d, %v", c.f, len(list), err)
		}
	}
	refused(t, r.DeleteGroup(ctx, "g2", 0), InvalidRequest)
	refused(t, r.DeleteGroup(ctx, "g7", 5), VersionConflict)
	text := "new"
	if g := must[*Group](t)(r.UpdateGroup(ctx, UpdateGroup{Name: "g7", Description: &text, ExpectedVersion: 1})); g.Version != 2 || g.Attributes["n"] != "1" {
		t.Fatal(g)
	}
	for i := range 5 {
		must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: fmt.Sprint("t", i)}))
	}
	ok(t, r.AddToGroup(ctx, "t0", "g7"))
	ok(t, r.AddToGroup(ctx, "t0", "g7"))
	refused(t, r.AddToGroup(ctx, "t0", "g1"), InvalidRequest) // of one hierarchy
	refused(t, r.AddToGroup(ctx, "none", "g1"), NotFound)
	refused(t, r.AddToGroup(ctx, "t0", "none"), NotFound)
	ok(t, r.AddToGroup(ctx, "t1", "g5"))
	ok(t, r.AddToGroup(ctx, "t2", "g1"))
	for i := range 10 {
		g := fmt.Sprint("root", i)
		must[*Group](t)(r.CreateGroup(ctx, CreateGroup{Name: g}))
		err := r.AddToGroup(ctx, "t0", g)
		if i < 9 {
			ok(t, err)
		} else {
			refused(t, err, InvalidRequest)
		}
	}
	names := func(group string, recursive bool, p Page) string {
		t.Helper()
		list, next, err := r.ThingsInGroup(group, recursive, p)
		ok(t, err)
		if next != "" {
			more, _, err := r.ThingsInGroup(group, recursive, Page{Max: 250, Token: next})
			ok(t, err)
			return strings.Join(list, " ") + " | " + strings.Join(more, " ")
		}
		return strings.Join(list, " ")
	}
	if got := names("g1", true, Page{}); got != "t0 t1 t2" {
		t.Fatal(got)
	}
	if got := names("g1", true, Page{Max: 1}); got != "t0 | t1 t2" {
		t.Fatal(got)
	}
	if got := names("g1", false, Page{}); got != "t2" {
		t.Fatal(got)
	}
	ok(t, r.UpdateGroupsOfThing(ctx, "t0", []string{"g1"}, []string{"g7", "root0"}))
	if got := names("g1", false, Page{}); got != "t0 t2" {
		t.Fatal(got)
	}
	// What fails in one of several changes leaves all as it was.
	refused(t, r.UpdateGroupsOfThing(ctx, "t0", []string{"none"}, []string{"g1"}), NotFound)
	if got := names("g1", false, Page{}); got != "t0 t2" {
		t.Fatal(got)
	}
	// A group made again under its name has none of the things of the old one.
	ok(t, r.DeleteGroup(ctx, "root1", 0))
	ok(t, r.DeleteGroup(ctx, "root1", 0))
	must[*Group](t)(r.CreateGroup(ctx, CreateGroup{Name: "root1"}))
	if got := names("root1", false, Page{}); got != "" {
		t.Fatal(got)
	}
	ok(t, r.DeleteThing(ctx, "t2", 0))
	if got := names("g1", true, Page{}); got != "t0 t1" {
		t.Fatal(got)
	}
}

func TestCertificates(t *testing.T) {
	own := newCA(t, "own")
	r := start(t, func(o *Options) { o.CA = own })
	ctx := t.Context()
	for _, typ := range []KeyType{RSA2048, ECDSAP256} {
		c, keys, err := r.CreateKeysAndCertificate(ctx, CreateKeys{Type: typ, Status: Active})
		ok(t, err)
		block, _ := pem.Decode([]byte(keys.Private))
		var private any
		if typ == RSA2048 {
			private, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		} else {
			private, err = x509.ParseECPrivateKey(block.Bytes)
		}
		ok(t, err)
		leaf, err := parseCertificate(c.PEM())
		ok(t, err)
		if c.Status != Active || c.ID != fingerprint(leaf.Raw) || leaf.CheckSignatureFrom(own.cert) != nil || leaf.IsCA || c.CAID != "" || c.Mode != ModeDefault {
			t.Fatalf("%+v", c)
		}
		public, _ := pem.Decode([]byte(keys.Public))
		if string(public.Bytes) != string(leaf.RawSubjectPublicKeyInfo) || private == nil {
			t.Fatal("another key")
		}
		if text := fmt.Sprint(keys, *keys) + fmt.Sprintf("%v", keys); strings.Contains(text, "PRIVATE") {
			t.Fatal(text)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	// The CSR's extensions do not come into the certificate.
	c, err := r.CreateCertificateFromCSR(ctx, csr(t, key, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "d", Organization: []string{"o"}}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(1, 2, 3, 4)}, ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}}), "", nil)
	ok(t, err)
	leaf, err := parseCertificate(c.PEM())
	ok(t, err)
	if leaf.IsCA || len(leaf.DNSNames)+len(leaf.IPAddresses) > 0 || leaf.Subject.CommonName != "d" || c.Status != Inactive {
		t.Fatalf("%+v", leaf)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	ok(t, err)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	ok(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	good := csr(t, key, &x509.CertificateRequest{})
	broken, _ := pem.Decode([]byte(good))
	broken.Bytes[len(broken.Bytes)-1] ^= 1
	for what, text := range map[string]string{
		"1024 bit": csr(t, weak, &x509.CertificateRequest{}), "P-224": csr(t, p224, &x509.CertificateRequest{}), "Ed25519": csr(t, ed, &x509.CertificateRequest{}),
		"wrong signature": string(pem.EncodeToMemory(broken)), "empty": "", "no PEM": "x", "two": good + good, "a certificate": own.pem(), "too long": strings.Repeat("x", 5000),
	} {
		if _, err := r.CreateCertificateFromCSR(ctx, text, "", nil); CodeOf(err) != InvalidRequest {
			t.Errorf("%s: %v", what, err)
		}
	}

	// Status.
	for _, s := range []Status{Active, Revoked, Inactive} {
		if u := must[*Certificate](t)(r.UpdateCertificate(ctx, strings.ToUpper(c.ID), s)); u.Status != s {
			t.Fatal(u.Status)
		}
	}
	for _, s := range []Status{PendingActivation, PendingTransfer, "x", ""} {
		_, err := r.UpdateCertificate(ctx, c.ID, s)
		refused(t, err, InvalidRequest)
	}
	_, err = r.UpdateCertificate(ctx, strings.Repeat("0", 64), Active)
	refused(t, err, NotFound)

	// Deleting.
	must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: "t"}))
	must[*Policy](t)(r.CreatePolicy(ctx, "p", "{}", nil))
	ok(t, r.AttachPrincipal(ctx, "t", r.CertificateARN(c.ID), ""))
	ok(t, r.AttachPolicy(ctx, "p", r.CertificateARN(c.ID)))
	refused(t, r.DeleteThing(ctx, "t", 0), InvalidRequest)
	refused(t, r.DeleteCertificate(ctx, c.ID, true), DeleteConflict)
	must[*Certificate](t)(r.UpdateCertificate(ctx, c.ID, Active))
	refused(t, r.DeleteCertificate(ctx, c.ID, true), CertificateState)
	must[*Certificate](t)(r.UpdateCertificate(ctx, c.ID, Inactive))
	ok(t, r.DetachPrincipal(ctx, "t", c.ID))
	refused(t, r.DeleteCertificate(ctx, c.ID, false), DeleteConflict)
	refused(t, r.DeletePolicy(ctx, "p"), DeleteConflict)
	ok(t, r.DeleteCertificate(ctx, c.ID, true))
	refused(t, r.DeleteCertificate(ctx, c.ID, true), NotFound)
	ok(t, r.DeletePolicy(ctx, "p"))

	// Registering without CA.
	text, foreign := newCA(t, "foreign").leaf(t, "d")
	f := must[*Certificate](t)(r.RegisterCertificate(ctx, RegisterCertificate{PEM: text, WithoutCA: true, Status: Active}))
	if f.ID != fingerprint(foreign.Raw) || f.Mode != ModeSNIOnly {
		t.Fatalf("%+v", f)
	}
	_, err = r.RegisterCertificate(ctx, RegisterCertificate{PEM: text, WithoutCA: true})
	refused(t, err, Exists)
	var e *Error
	if !errors.As(err, &e) || e.ID != f.ID || e.ARN != r.CertificateARN(f.ID) {
		t.Fatal(e)
	}
	_, err = r.RegisterCertificate(ctx, RegisterCertificate{PEM: own.pem(), WithoutCA: true})
	refused(t, err, CertificateValidation) // a CA
	_, err = r.RegisterCertificate(ctx, RegisterCertificate{PEM: text + text, WithoutCA: true})
	refused(t, err, CertificateValidation)

	// The newest first, or last.
	down, _, err := r.Certificates(false, Page{})
	ok(t, err)
	up, _, err := r.Certificates(true, Page{})
	ok(t, err)
	slices.Reverse(up)
	if len(down) != 3 || down[0].ID != f.ID || !slices.Equal(down, up) {
		t.Fatal(len(down), len(up))
	}
	if held, why := f.Holds(time.Now()); !held || why != "" {
		t.Fatal(why)
	}
	if held, why := f.Holds(time.Now().Add(2 * time.Hour)); held || why == "" {
		t.Fatal("holds for ever")
	}

	// Claims.
	token := &Claim{Token: "h", Principal: "p", Expires: time.Now().Add(time.Hour)}
	p, err := r.CreateCertificateFromCSR(ctx, good, PendingActivation, token)
	ok(t, err)
	if n := len(r.LapsedClaims(time.Now(), 10)); n != 0 {
		t.Fatal(n)
	}
	if l := r.LapsedClaims(time.Now().Add(2*time.Hour), 10); len(l) != 1 || l[0].ID != p.ID {
		t.Fatal(l)
	}
	must[*Certificate](t)(r.UpdateCertificate(ctx, p.ID, Active))
	if l := r.LapsedClaims(time.Now().Add(2*time.Hour), 10); len(l) != 0 {
		t.Fatal(l)
	}
	// With it, or not at all.
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	_, err = r.CreateCertificateFromCSR(ctx, csr(t, other, &x509.CertificateRequest{}), Active, nil, func(tx *Tx, c *Certificate) error {
		if _, err := tx.CreateThing(CreateThing{Name: "with"}); err != nil {
			return err
		}
		return errors.Join(tx.AttachPrincipal("with", c.ID, Exclusive), tx.AttachPolicy("none", c.ID))
	})
	if !errs.Is(err, errs.NotFound) && CodeOf(err) != NotFound {
		t.Fatal(err)
	}
	if _, err := r.Thing("with"); CodeOf(err) != NotFound {
		t.Fatal("half made", err)
	}
}

func TestCAs(t *testing.T) {
	r := start(t, nil)
	ctx := t.Context()
	ca := newCA(t, "users")
	verification, _ := ca.leaf(t, "wrong code")
	_, err := r.RegisterCACertificate(ctx, RegisterCA{PEM: ca.pem(), Verification: verification})
	refused(t, err, RegistrationCode)
	code := must[string](t)(r.RegistrationCode(ctx))
	if again := must[string](t)(r.RegistrationCode(ctx)); len(code) != 64 || again != code {
		t.Fatal(code, again)
	}
	verification, _ = newCA(t, "users").leaf(t, code)
	_, err = r.RegisterCACertificate(ctx, RegisterCA{PEM: ca.pem(), Verification: verification})
	refused(t, err, CertificateValidation)
	_, err = r.RegisterCACertificate(ctx, RegisterCA{PEM: ca.pem()})
	refused(t, err, InvalidRequest)
	notCA, _ := ca.leaf(t, "x")
	verification, _ = ca.leaf(t, code)
	_, err = r.RegisterCACertificate(ctx, RegisterCA{PEM: notCA, Verification: verification})
	refused(t, err, CertificateValidation)
	c := must[*CACertificate](t)(r.RegisterCACertificate(ctx, RegisterCA{PEM: ca.pem(), Verification: verification}))
	_, err = r.RegisterCACertificate(ctx, RegisterCA{PEM: ca.pem(), Verification: verification})
	refused(t, err, Exists)

	text, leaf := ca.leaf(t, "device")
	_, err = r.RegisterCertificate(ctx, RegisterCertificate{PEM: text})
	refused(t, err, CertificateValidation) // the CA is INACTIVE
	_, _, _, err = r.AutoRegister(ctx, leaf)
	refused(t, err, NotFound)
	auto := true
	must[*CACertificate](t)(r.UpdateCACertificate(ctx, UpdateCA{ID: c.ID, Status: Active, AutoRegistration: &auto}))
	d, by, isNew, err := r.AutoRegister(ctx, leaf)
	ok(t, err)
	if d.Status != PendingActivation || by.ID != c.ID || !isNew || d.CAID != c.ID {
		t.Fatalf("%+v", d)
	}
	if _, _, isNew, err := r.AutoRegister(ctx, leaf); err != nil || isNew {
		t.Fatal(isNew, err)
	}
	text, _ = ca.leaf(t, "second")
	must[*Certificate](t)(r.RegisterCertificate(ctx, RegisterCertificate{PEM: text, CAPEM: ca.pem()}))
	text, _ = newCA(t, "users").leaf(t, "forged") // the same subject, another key
	_, err = r.RegisterCertificate(ctx, RegisterCertificate{PEM: text, CAPEM: ca.pem()})
	refused(t, err, CertificateValidation)
	_, err = r.RegisterCertificate(ctx, RegisterCertificate{PEM: text})
	refused(t, err, CertificateValidation)
	if list, _, err := r.CertificatesByCA(c.ID, true, Page{}); err != nil || len(list) != 2 || list[0].ID != d.ID {
		t.Fatal(list, err)
	}
	refused(t, r.DeleteCACertificate(ctx, c.ID), CertificateState)
	must[*CACertificate](t)(r.UpdateCACertificate(ctx, UpdateCA{ID: c.ID, Status: Inactive}))
	ok(t, r.DeleteCACertificate(ctx, c.ID))
	if len(r.CAsOf(leaf)) != 0 {
		t.Fatal("still a signer")
	}
	must[*Certificate](t)(r.Certificate(d.ID))
	sni := must[*CACertificate](t)(r.RegisterCACertificate(ctx, RegisterCA{PEM: ca.pem(), Mode: ModeSNIOnly, Active: true}))
	if sni.Mode != ModeSNIOnly || sni.Status != Active {
		t.Fatalf("%+v", sni)
	}
	// A template its configuration names cannot go.
	role := "arn:aws:iam::123456789012:role/provision"
	must[*Template](t)(r.CreateTemplate(ctx, CreateTemplate{Name: "jitp", Type: JITP, Body: "{}", RoleARN: role}))
	must[*CACertificate](t)(r.UpdateCACertificate(ctx, UpdateCA{ID: sni.ID, Config: &RegistrationConfig{TemplateName: "jitp"}}))
	refused(t, r.DeleteTemplate(ctx, "jitp"), DeleteConflict)
	must[*CACertificate](t)(r.UpdateCACertificate(ctx, UpdateCA{ID: sni.ID, RemoveConfig: true}))
	ok(t, r.DeleteTemplate(ctx, "jitp"))
}

func TestPolicies(t *testing.T) {
	r := start(t, func(o *Options) {
		o.CheckPolicy = func(doc string) error {
			if !strings.HasPrefix(doc, "{") {
				return errs.Errorf("policy.Parse", errs.Invalid, "1:1: expected {")
			}
			return nil
		}
	})
	ctx := t.Context()
	p := must[*Policy](t)(r.CreatePolicy(ctx, "p.a=,@+-", allow("iot:*"), nil))
	if p.Default != 1 || p.Document() != allow("iot:*") {
		t.Fatalf("%+v", p)
	}
	_, err := r.CreatePolicy(ctx, p.Name, allow("iot:*"), nil)
	refused(t, err, Exists)
	_, err = r.CreatePolicy(ctx, "x", "[]", nil)
	refused(t, err, MalformedPolicy)
	if errs.Text(err) != "1:1: expected {" {
		t.Fatal(errs.Text(err))
	}
	_, err = r.CreatePolicy(ctx, "x", "{"+strings.Repeat("x", 2048), nil)
	refused(t, err, MalformedPolicy)
	must[*Policy](t)(r.CreatePolicy(ctx, "spaces", "{"+strings.Repeat(" ", 5000), nil))
	_, err = r.CreatePolicy(ctx, "a/b", "{}", nil)
	refused(t, err, InvalidRequest)
	for i := 2; i <= 5; i++ {
		_, v, err := r.CreatePolicyVersion(ctx, p.Name, fmt.Sprintf(`{"v": %d}`, i), i == 3)
		ok(t, err)
		if v.ID != i {
			t.Fatal(v.ID)
		}
	}
	_, _, err = r.CreatePolicyVersion(ctx, p.Name, "{}", false)
	refused(t, err, VersionsLimitExceeded)
	if p := must[*Policy](t)(r.Policy(p.Name)); p.Default != 3 || p.Document() != `{"v": 3}` {
		t.Fatalf("%+v", p)
	}
	refused(t, r.DeletePolicyVersion(ctx, p.Name, "3"), DeleteConflict)
	refused(t, r.DeletePolicyVersion(ctx, p.Name, "9"), NotFound)
	refused(t, r.DeletePolicyVersion(ctx, p.Name, "x"), InvalidRequest)
	ok(t, r.SetDefaultPolicyVersion(ctx, p.Name, "1"))
	refused(t, r.DeletePolicy(ctx, p.Name), DeleteConflict)
	for _, v := range []string{"2", "3", "4", "5"} {
		ok(t, r.DeletePolicyVersion(ctx, p.Name, v))
	}
	if _, v, err := r.CreatePolicyVersion(ctx, p.Name, "{}", false); err != nil || v.ID != 6 {
		t.Fatal(v, err) // a number is never given out twice
	}
	ok(t, r.DeletePolicyVersion(ctx, p.Name, "6"))

	c, _, err := r.CreateKeysAndCertificate(ctx, CreateKeys{})
	ok(t, err)
	must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: "t"}))
	must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: "other"}))
	must[*Group](t)(r.CreateGroup(ctx, CreateGroup{Name: "root"}))
	must[*Group](t)(r.CreateGroup(ctx, CreateGroup{Name: "leaf", Parent: "root"}))
	for _, n := range []string{"own", "of-leaf", "of-root"} {
		must[*Policy](t)(r.CreatePolicy(ctx, n, "{}", nil))
	}
	ok(t, r.AddToGroup(ctx, "t", "leaf"))
	ok(t, r.AttachPolicy(ctx, "own", r.CertificateARN(c.ID)))
	ok(t, r.AttachPolicy(ctx, "own", r.CertificateARN(c.ID)))
	ok(t, r.AttachPolicy(ctx, "of-leaf", r.GroupARN("leaf")))
	ok(t, r.AttachPolicy(ctx, "of-root", r.GroupARN("root")))
	for _, target := range []string{"x", r.ThingARN("t"), "arn:aws:iot:eu-west-1:123456789012:cert/" + c.ID, r.PolicyARN("own")} {
		refused(t, r.AttachPolicy(ctx, "own", target), InvalidRequest)
	}
	effective := func(principal, thing string) string {
		t.Helper()
		list, err := r.EffectivePolicies(principal, thing)
		ok(t, err)
		var names []string
		for _, p := range list {
			names = append(names, p.Policy.Name)
		}
		return strings.Join(names, " ")
	}
	if got := effective(c.ID, ""); got != "own" {
		t.Fatal(got)
	}
	ok(t, r.AttachPrincipal(ctx, "t", c.ID, Exclusive))
	refused(t, r.AttachPrincipal(ctx, "other", c.ID, ""), InvalidRequest)
	if th := r.ThingOf(c.ID, "any"); th == nil || th.Name != "t" {
		t.Fatal(th)
	}
	for _, q := range []struct{ principal, thing, want string }{
		{c.ID, "", "own of-leaf of-root"}, {r.CertificateARN(c.ID), "t", "own of-leaf of-root"}, {c.ID, "other", "own"}, {"", "t", "of-leaf of-root"},
	} {
		if got := effective(q.principal, q.thing); got != q.want {
			t.Fatal(q, got)
		}
	}
	if list, _, err := r.AttachedPolicies(r.GroupARN("leaf"), true, Page{}); err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	if list, _, err := r.AttachedPolicies(r.GroupARN("leaf"), false, Page{}); err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if list, _, err := r.TargetsOf("own", Page{}); err != nil || len(list) != 1 || list[0] != r.CertificateARN(c.ID) {
		t.Fatal(list, err)
	}
	ok(t, r.DeleteGroup(ctx, "leaf", 0)) // detaches
	ok(t, r.DeletePolicy(ctx, "of-leaf"))
	if got := effective(c.ID, ""); got != "own" {
		t.Fatal(got)
	}
	for i := range 9 {
		n := fmt.Sprint("n", i)
		must[*Policy](t)(r.CreatePolicy(ctx, n, "{}", nil))
		ok(t, r.AttachPolicy(ctx, n, c.ID))
	}
	refused(t, r.AttachPolicy(ctx, "of-root", c.ID), LimitExceeded)
	ok(t, r.DetachPolicy(ctx, "own", c.ID))
	ok(t, r.DetachPolicy(ctx, "own", c.ID))
	ok(t, r.AttachPolicy(ctx, "of-root", c.ID))
}

func TestAccessKeys(t *testing.T) {
	now := time.Now()
	r := start(t, func(o *Options) { o.Now = func() time.Time { return now } })
	ctx := t.Context()
	k, secret, err := r.CreateAccessKey(ctx, allow("*"), "importer")
	ok(t, err)
	if len(k.ID) != 20 || !strings.HasPrefix(k.ID, "AKIA") || len(secret) != 40 || strings.Contains(string(k.Sealed), secret) {
		t.Fatalf("%+v", k)
	}
	e, err := r.o.Bucket.Get(ctx, "key."+k.ID)
	if err != nil || strings.Contains(string(e.Value), secret) {
		t.Fatal("the secret is plain in the bucket", err)
	}
	c := must[*Credential](t)(r.Credential(k.ID, ""))
	if c.Secret != secret || strings.Contains(fmt.Sprint(c, *c), secret) {
		t.Fatal(c)
	}
	s := must[*Session](t)(r.CreateSession(k.ID, time.Hour))
	if strings.Contains(fmt.Sprintf("%v %+v", s, *s), s.Secret) {
		t.Fatal("a session prints its secret")
	}
	c = must[*Credential](t)(r.Credential(s.AccessKeyID, s.Token))
	if c.Secret != s.Secret || c.Key.ID != k.ID || c.Expires.IsZero() {
		t.Fatalf("%+v", c)
	}
	_, err = r.CreateSession(k.ID, time.Minute)
	refused(t, err, InvalidRequest)
	for _, q := range [][2]string{{"AKIA0000000000000000", ""}, {s.AccessKeyID, ""}, {s.AccessKeyID, "AAAA"}, {k.ID, s.Token}, {"ASIA0000000000000000", s.Token}, {"", ""}, {"../../x", ""}} {
		if _, err := r.Credential(q[0], q[1]); !errs.Is(err, errs.Unauthorized) {
			t.Errorf("%q: %v", q, err)
		}
	}
	now = now.Add(2 * time.Hour)
	if _, err := r.Credential(s.AccessKeyID, s.Token); !errs.Is(err, errs.Unauthorized) {
		t.Fatal(err)
	}
	s = must[*Session](t)(r.CreateSession(k.ID, time.Hour))
	must[*AccessKey](t)(r.UpdateAccessKey(ctx, k.ID, Inactive, ""))
	for _, q := range [][2]string{{k.ID, ""}, {s.AccessKeyID, s.Token}} {
		if _, err := r.Credential(q[0], q[1]); !errs.Is(err, errs.Forbidden) {
			t.Fatal(err)
		}
	}
	ok(t, r.DeleteAccessKey(ctx, k.ID))
	if _, err := r.Credential(s.AccessKeyID, s.Token); !errs.Is(err, errs.Unauthorized) {
		t.Fatal(err)
	}
}

func TestRecordsOfOtherRooms(t *testing.T) {
	r := start(t, nil)
	ctx := t.Context()
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	ok(t, err)
	der, err := x509.MarshalPKIXPublicKey(rk.Public())
	ok(t, err)
	signing := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	_, err = r.CreateAuthorizer(ctx, CreateAuthorizer{Name: "a", Function: "f"})
	refused(t, err, InvalidRequest) // signing needs keys
	_, err = r.CreateAuthorizer(ctx, CreateAuthorizer{Name: "a", Function: "f", TokenKeyName: "t", Keys: map[string]string{"k": "no key"}})
	refused(t, err, InvalidRequest)
	a := must[*Authorizer](t)(r.CreateAuthorizer(ctx, CreateAuthorizer{Name: "a", Function: "f", Status: Active, TokenKeyName: "t", Keys: map[string]string{"k": signing}, Tags: map[string]string{"x": "y"}}))
	_, err = r.CreateAuthorizer(ctx, CreateAuthorizer{Name: "a", Function: "f", SigningDisabled: true})
	refused(t, err, Exists)
	_, err = r.DefaultAuthorizer()
	refused(t, err, NotFound)
	must[*Authorizer](t)(r.SetDefaultAuthorizer(ctx, "a"))
	_, err = r.SetDefaultAuthorizer(ctx, "a")
	refused(t, err, Exists)
	refused(t, r.DeleteAuthorizer(ctx, "a"), DeleteConflict)
	must[*Authorizer](t)(r.UpdateAuthorizer(ctx, UpdateAuthorizer{Name: "a", Status: Inactive}))
	refused(t, r.DeleteAuthorizer(ctx, "a"), DeleteConflict)
	ok(t, r.ClearDefaultAuthorizer(ctx))
	d := must[*DomainConfiguration](t)(r.CreateDomainConfiguration(ctx, DomainConfiguration{Name: "d", DomainName: "iot.example.com", Authorizer: "a"}))
	refused(t, r.DeleteAuthorizer(ctx, "a"), DeleteConflict)
	refused(t, r.DeleteDomainConfiguration(ctx, "d"), InvalidRequest)
	no := false
	must[*DomainConfiguration](t)(r.UpdateDomainConfiguration(ctx, UpdateDomain{Name: "d", Enabled: &no}))
	ok(t, r.TagResource(ctx, r.DomainARN(d.Name, d.ID), map[string]string{"team": "a"}))
	refused(t, r.TagResource(ctx, r.DomainARN(d.Name, "00000"), map[string]string{"team": "a"}), NotFound)
	ok(t, r.DeleteDomainConfiguration(ctx, "d"))
	_, err = r.CreateDomainConfiguration(ctx, DomainConfiguration{Name: "e", DomainName: "no domain"})
	refused(t, err, InvalidRequest)

	// Tags.
	arn := r.AuthorizerARN("a")
	ok(t, r.TagResource(ctx, arn, map[string]string{"x": "z", "n": "1"}))
	ok(t, r.UntagResource(ctx, arn, []string{"n", "none"}))
	if tags := must[map[string]string](t)(r.Tags(arn)); len(tags) != 1 || tags["x"] != "z" || a.Tags["x"] != "y" {
		t.Fatal(tags, a.Tags)
	}
	for _, tags := range []map[string]string{{"aws:x": ""}, {"": "x"}, {"a\n": "x"}, {"a": strings.Repeat("x", 257)}} {
		refused(t, r.TagResource(ctx, arn, tags), InvalidRequest)
	}
	many := map[string]string{}
	for i := range 51 {
		many[fmt.Sprint(i)] = ""
	}
	refused(t, r.TagResource(ctx, arn, many), LimitExceeded)
	refused(t, r.TagResource(ctx, r.PolicyARN("none"), map[string]string{"a": "b"}), NotFound)
	refused(t, r.TagResource(ctx, r.ThingARN("t"), map[string]string{"a": "b"}), InvalidRequest)
	ok(t, r.DeleteAuthorizer(ctx, "a"))

	// Templates.
	role := "arn:aws:iam::123456789012:role/provision"
	for _, in := range []CreateTemplate{{Name: "t", Body: "no", RoleARN: role}, {Name: "t", Body: "{}", RoleARN: "x"}, {Name: "t t", Body: "{}", RoleARN: role},
		{Name: "t", Body: `{"x": "` + strings.Repeat("y", 10240) + `"}`, RoleARN: role}, {Name: "t", Type: "x", Body: "{}", RoleARN: role}} {
		_, err := r.CreateTemplate(ctx, in)
		refused(t, err, InvalidRequest)
	}
	must[*Template](t)(r.CreateTemplate(ctx, CreateTemplate{Name: "t", Body: "{}", RoleARN: role, Enabled: true}))
	for i := 2; i <= 5; i++ {
		_, v, err := r.CreateTemplateVersion(ctx, "t", fmt.Sprintf(`{"v": %d}`, i), i == 5)
		if err != nil || v.ID != i {
			t.Fatal(v, err)
		}
	}
	_, _, err = r.CreateTemplateVersion(ctx, "t", "{}", false)
	refused(t, err, VersionsLimitExceeded)
	refused(t, r.DeleteTemplateVersion(ctx, "t", 5), DeleteConflict)
	refused(t, r.DeleteTemplate(ctx, "t"), DeleteConflict)
	u := must[*Template](t)(r.UpdateTemplate(ctx, UpdateTemplate{Name: "t", Default: 1, Enabled: &no, Hook: &Hook{TargetARN: "f"}}))
	if u.Default != 1 || u.Enabled || u.Hook == nil || u.Body() != "{}" {
		t.Fatalf("%+v", u)
	}

	// Role aliases and settings.
	must[*RoleAlias](t)(r.CreateRoleAlias(ctx, "alias", role, 0, nil))
	_, err = r.CreateRoleAlias(ctx, "alias", role, 0, nil)
	refused(t, err, Exists)
	_, err = r.CreateRoleAlias(ctx, "short", role, 899, nil)
	refused(t, err, InvalidRequest)
	ok(t, r.DeleteRoleAlias(ctx, "alias"))
	_, err = r.LoggingOptions()
	refused(t, err, NotConfigured)
	refused(t, r.SetLogLevel(ctx, LogTarget{"THING_GROUP", "g"}, LogDebug), NotConfigured)
	ok(t, r.SetLoggingOptions(ctx, LoggingOptions{Default: LogError}))
	ok(t, r.SetLogLevel(ctx, LogTarget{"THING_GROUP", "g"}, LogDebug))
	ok(t, r.SetLogLevel(ctx, LogTarget{Type: "DEFAULT"}, LogInfo))
	refused(t, r.SetLogLevel(ctx, LogTarget{"THING_GROUP", "g"}, "LOUD"), InvalidRequest)
	levels := func() []*TargetLevel {
		list, _, err := r.LogLevels("", Page{})
		ok(t, err)
		return list
	}
	if o := must[*LoggingOptions](t)(r.LoggingOptions()); o.Default != LogInfo || len(levels()) != 1 || levels()[0].Level != LogDebug {
		t.Fatal(o)
	}
	ok(t, r.DeleteLogLevel(ctx, LogTarget{"THING_GROUP", "g"}))
	if l := levels(); len(l) != 0 {
		t.Fatal(l)
	}
	ok(t, r.UpdateEventConfigurations(ctx, map[string]bool{"THING": true}))
	refused(t, r.UpdateEventConfigurations(ctx, map[string]bool{"WEATHER": true}), InvalidRequest)
	refused(t, r.UpdateEventConfigurations(ctx, map[string]bool{"THING": false, "JOB": true}), NotSupported)
	if e := r.EventConfigurations(); !e.On("THING") || e.On("JOB") || !e.On("CA_CERTIFICATE") {
		t.Fatal(e)
	}
	refused(t, r.SetIndexing(ctx, Indexing{Things: "OFF", Connectivity: "STATUS"}), InvalidRequest)
	refused(t, r.SetIndexing(ctx, Indexing{Things: "ALL"}), InvalidRequest)
	ok(t, r.SetIndexing(ctx, Indexing{Things: "REGISTRY_AND_SHADOW", Connectivity: "STATUS", NamedShadow: "ON", ShadowNames: []string{"$package"}}))
	if i := r.Indexing(); i.Things != "REGISTRY_AND_SHADOW" {
		t.Fatal(i)
	}
	var log strings.Builder
	s := slog.New(slog.NewTextHandler(&log, nil))
	s.InfoContext(context.Background(), "x", "keys", KeyPair{Private: "canary"})
	if strings.Contains(log.String(), "canary") {
		t.Fatal(log.String())
	}
}
