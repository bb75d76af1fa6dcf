package custom

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/ingest/auth"
	"github.com/weir-iot/weir/internal/errs"
)

type invokerFunc func(ctx context.Context, function string, payload []byte) ([]byte, error)

func (f invokerFunc) Invoke(ctx context.Context, function string, payload []byte) ([]byte, error) {
	return f(ctx, function, payload)
}

// fixture is an Authenticator with everything around it replaced.
type fixture struct {
	*Authenticator
	mu       sync.Mutex
	now      time.Time
	store    map[string]*Authorizer
	def      string
	over     bool
	answer   func(payload []byte) (string, error)
	calls    [][]byte
	ended    []*auth.Principal
	log      *bytes.Buffer
	policies *auth.Policies
}

func (f *fixture) Authorizer(name string) (*Authorizer, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	z, ok := f.store[name]
	return z, ok
}
func (f *fixture) time() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}
func (f *fixture) Default(string) (string, bool) { return f.def, f.over }

const good = `{"isAuthenticated": true, "principalId": "dev1", "disconnectAfterInSeconds": 3600, "refreshAfterInSeconds": 300,
	"policyDocuments": [{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:us-east-1:123456789012:topic/first"}]}], "password": "other members are not Weir's"}`

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{now: time.Unix(1_800_000_000, 0), log: &bytes.Buffer{}}
	f.answer = func([]byte) (string, error) { return good, nil }
	f.store = map[string]*Authorizer{
		"open":    {Name: "open", Function: "fn", Active: true, SigningDisabled: true, TokenKeyName: "tok", CacheHTTP: true},
		"signed":  {Name: "signed", Function: "fn", Active: true, TokenKeyName: "tok", PublicKeys: map[string]string{"a": publicPEM(t, other(t)), "b": publicPEM(t, key(t))}},
		"off":     {Name: "off", Function: "fn", SigningDisabled: true},
		"keyless": {Name: "keyless", Function: "fn", Active: true, TokenKeyName: "tok"},
		"weak":    {Name: "weak", Function: "fn", Active: true, TokenKeyName: "tok", PublicKeys: map[string]string{"a": publicPEM(t, weak(t))}},
	}
	f.policies = auth.NewPolicies(auth.PoliciesOptions{AccountID: "123456789012", Region: "us-east-1", Generation: func() uint64 { return 1 }, Now: f.time})
	var err error
	f.Authenticator, err = New(Options{
		Store: f, Timeout: 200 * time.Millisecond, InFlight: 2, Logger: slog.New(slog.NewTextHandler(f.log, nil)),
		Invoke: invokerFunc(func(ctx context.Context, function string, payload []byte) ([]byte, error) {
			f.mu.Lock()
			f.calls = append(f.calls, payload)
			answer := f.answer
			f.mu.Unlock()
			if answer == nil {
				<-ctx.Done()
				return []byte(good), nil // late, and careless about it
			}
			s, err := answer(payload)
			return []byte(s), err
		}),
		Policies: f.policies,
		End: func(p *auth.Principal) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.ended = append(f.ended, p)
		},
		Now: f.time,
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var key, other, weak = rsaKey(2048), rsaKey(2048), rsaKey(1024)

func rsaKey(bits int) func(testing.TB) *rsa.PrivateKey {
	var once sync.Once
	var k *rsa.PrivateKey
	return func(t testing.TB) *rsa.PrivateKey {
		once.Do(func() {
			var err error
			if k, err = rsa.GenerateKey(rand.Reader, bits); err != nil {
				t.Fatal(err)
			}
		})
		return k
	}
}

func publicPEM(t testing.TB, k *rsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func sign(t testing.TB, k *rsa.PrivateKey, token string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(token))
	b, err := rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(b)
}

func mqttConn(user, password string) *auth.Connection {
	return &auth.Connection{
		Listener: auth.TLS, Mux: true, ID: "c0ffee", Remote: netip.MustParseAddrPort("127.0.0.1:5"), TLS: &tls.ConnectionState{ServerName: "iot.example"},
		ClientID: "dev-1", Username: user, Password: []byte(password),
	}
}

func httpConn(target string, h http.Header) *auth.Connection {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		panic(err)
	}
	if h == nil {
		h = http.Header{}
	}
	return &auth.Connection{
		Listener: auth.HTTPS, Mux: true, ID: "c0ffee", TLS: &tls.ConnectionState{ServerName: "iot.example"},
		HTTP: &auth.Request{Request: &http.Request{Method: "POST", URL: u, Host: "iot.example", Header: h}},
	}
}

func TestWhatTheFunctionGets(t *testing.T) {
	signature := sign(t, key(t), "a+b/c=")
	for _, c := range []struct {
		name string
		conn *auth.Connection
		want string
	}{
		{"MQTT, parameters in one order", mqttConn("user?x-amz-customauthorizer-name=open&tok=T&SDK=IoTDeviceSDK%2FJS&Platform=Linux&Metadata=(a=b)", "pa\x00ss"),
			`{"token":"T","signatureVerified":false,"protocols":["tls","mqtt"],"protocolData":{"tls":{"serverName":"iot.example"},
			"mqtt":{"username":"user?x-amz-customauthorizer-name=open&tok=T","password":"cGEAc3M=","clientId":"dev-1"}},"connectionMetadata":{"id":"c0ffee"}}`},
		{"and in another", mqttConn("?SDK=X&tok=T&Metadata=(a=b)&x-amz-customauthorizer-name=open&Platform=Y", ""),
			`{"token":"T","signatureVerified":false,"protocols":["tls","mqtt"],"protocolData":{"tls":{"serverName":"iot.example"},
			"mqtt":{"username":"?tok=T&x-amz-customauthorizer-name=open","clientId":"dev-1"}},"connectionMetadata":{"id":"c0ffee"}}`},
		{"metrics alone", func() *auth.Connection {
			c := mqttConn("user?SDK=X&Platform=Y", "p")
			c.Assigned = true
			c.HTTP = httpConn("/mqtt?x-amz-customauthorizer-name=open", nil).HTTP
			c.Listener = auth.WebSocket
			return c
		}(), `{"signatureVerified":false,"protocols":["tls","http","mqtt"],"protocolData":{"tls":{"serverName":"iot.example"},
			"http":{"headers":{"host":"iot.example"},"queryString":"?x-amz-customauthorizer-name=open"},
			"mqtt":{"username":"user","password":"cA=="}},"connectionMetadata":{"id":"c0ffee"}}`},
		{"signed, in the user name", mqttConn("u?x-amz-customauthorizer-signature="+url.QueryEscape(signature)+"&x-amz-customauthorizer-name=signed&tok=a%2Bb%2Fc%3D", ""),
			`{"token":"a+b/c=","signatureVerified":true,"protocols":["tls","mqtt"],"protocolData":{"tls":{"serverName":"iot.example"},
			"mqtt":{"username":"u?x-amz-customauthorizer-signature=` + url.QueryEscape(signature) + `&x-amz-customauthorizer-name=signed&tok=a%2Bb%2Fc%3D","clientId":"dev-1"}},"connectionMetadata":{"id":"c0ffee"}}`},
		{"HTTPS, signed, in headers", httpConn("/topics/a?qos=1", http.Header{"Tok": {"a+b/c="}, "X-Amz-Customauthorizer-Name": {"signed"}, "X-Amz-Customauthorizer-Signature": {signature}, "Content-Length": {"5"}}),
			`{"token":"a+b/c=","signatureVerified":true,"protocols":["tls","http"],"protocolData":{"tls":{"serverName":"iot.example"},
			"http":{"headers":{"host":"iot.example","tok":"a+b/c=","x-amz-customauthorizer-name":"signed","x-amz-customauthorizer-signature":"` + signature + `"},"queryString":"?qos=1"}},
			"connectionMetadata":{"id":"c0ffee"}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			if !f.Named(c.conn) {
				t.Error("names no authorizer")
			}
			if err := f.Admit(t.Context(), c.conn); err != nil {
				t.Error(err)
			}
			p, err := f.Authenticate(t.Context(), c.conn)
			if err != nil {
				t.Fatalf("%v\n%s", err, f.log)
			}
			var got, want any
			if err := errors.Join(json.Unmarshal(f.calls[0], &got), json.Unmarshal([]byte(c.want), &want)); err != nil {
				t.Fatal(err)
			}
			g, _ := json.Marshal(got)
			w, _ := json.Marshal(want)
			if !bytes.Equal(g, w) {
				t.Errorf("the function got\n%s\nwant\n%s", g, w)
			}
			if p.ID != "dev1" || !f.policies.May(p, auth.Publish, "first") || f.policies.May(p, auth.Publish, "second") || f.policies.May(p, auth.Connect, "dev-1") {
				t.Errorf("%+v, or not what its policies say", p)
			}
			if mqtt := c.conn.Listener != auth.HTTPS; mqtt != (p.Ended != nil) || mqtt && !p.Expires.Equal(f.now.Add(time.Hour)) {
				t.Errorf("%+v", p)
			}
		})
	}
}

// Row by row what must be refused; no function may have been asked where none
// needed to be.
func TestRefused(t *testing.T) {
	token := "secret-token"
	signature := sign(t, key(t), token)
	query := func(kv ...string) string {
		var parts []string
		for i := 0; i < len(kv); i += 2 {
			parts = append(parts, kv[i]+"="+url.QueryEscape(kv[i+1]))
		}
		return "user?" + strings.Join(parts, "&")
	}
	document := func(n int) string {
		const form = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Connect","Resource":"arn:aws:iot:us-east-1:123456789012:client/%s"}]}`
		return fmt.Sprintf(form, strings.Repeat("x", n-len(form)+len("%s")))
	}
	with := func(change func(m map[string]any)) string {
		var m map[string]any
		if err := json.Unmarshal([]byte(good), &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		b, _ := json.Marshal(m)
		return string(b)
	}
	set := func(name string, v any) string { return with(func(m map[string]any) { m[name] = v }) }
	without := func(name string) string { return with(func(m map[string]any) { delete(m, name) }) }
	open := query(nameKey, "open", "tok", token)
	signed := query(nameKey, "signed", "tok", token, signatureKey, signature)
	type row struct {
		user   string
		conn   *auth.Connection
		answer string
		change func(*fixture)
		asked  bool
		kind   errs.Kind
	}
	rows := map[string]row{
		"no authorizer":                {user: "user"},
		"unknown authorizer":           {user: query(nameKey, "nobody")},
		"inactive authorizer":          {user: query(nameKey, "off")},
		"inactive default":             {user: "user", change: func(f *fixture) { f.def = "off" }},
		"override of the default":      {user: open, change: func(f *fixture) { f.def = "signed" }},
		"two authorizers":              {user: open + "&" + nameKey + "=signed"},
		"names in two places":          {conn: httpConn("/topics/a?"+nameKey+"=open", http.Header{"X-Amz-Customauthorizer-Name": {"signed"}})},
		"two tokens":                   {user: open + "&tok=other"},
		"name not URL encoded":         {user: "user?" + nameKey + "=open&a=%zz"},
		"token too long":               {user: query(nameKey, "open", "tok", strings.Repeat("t", maxToken+1))},
		"query too long":               {conn: httpConn("/topics/a?"+nameKey+"=open&a="+strings.Repeat("x", maxQuery), nil)},
		"header too long":              {conn: httpConn("/topics/a?"+nameKey+"=open", http.Header{"A": {strings.Repeat("x", maxHeader+1)}})},
		"too many parameters":          {user: "user?" + nameKey + "=open" + strings.Repeat("&a=b", 200)},
		"unsigned where signing is on": {user: query(nameKey, "signed", "tok", token)},
		"signature without a token":    {user: query(nameKey, "signed", signatureKey, signature)},
		"signature of another token":   {user: query(nameKey, "signed", "tok", token+"x", signatureKey, signature)},
		"signature of another key":     {user: query(nameKey, "signed", "tok", token, signatureKey, sign(t, weak(t), token))},
		"signature cut":                {user: query(nameKey, "signed", "tok", token, signatureKey, signature[:len(signature)-8])},
		"signature not Base64":         {user: query(nameKey, "signed", "tok", token, signatureKey, "!")},
		"signature too long":           {user: query(nameKey, "signed", "tok", token, signatureKey, strings.Repeat("A", maxSignature+4))},
		"signature in another name":    {user: query(nameKey, "signed", "tok", token, "signature", signature)},
		"signing without keys":         {user: query(nameKey, "keyless", "tok", token, signatureKey, signature)},
		"signing with a weak key":      {user: query(nameKey, "weak", "tok", token, signatureKey, sign(t, weak(t), token))},

		"time-out":                      {user: open, answer: "\x00late", asked: true, kind: errs.Unavailable},
		"function fails":                {user: open, answer: "\x00fails", asked: true, kind: errs.Unavailable},
		"1 MB answer":                   {user: open, answer: set("filler", strings.Repeat("x", 1<<20)), asked: true},
		"empty answer":                  {user: open, answer: "\x00empty", asked: true},
		"not JSON":                      {user: open, answer: "isAuthenticated: true", asked: true},
		"null":                          {user: open, answer: "null", asked: true},
		"a list":                        {user: open, answer: "[" + good + "]", asked: true},
		"text":                          {user: open, answer: `"true"`, asked: true},
		"two objects":                   {user: open, answer: good + good, asked: true},
		"not authenticated":             {user: open, answer: set("isAuthenticated", false), asked: true},
		"isAuthenticated as text":       {user: open, answer: set("isAuthenticated", "true"), asked: true},
		"isAuthenticated as number":     {user: open, answer: set("isAuthenticated", 1), asked: true},
		"isAuthenticated null":          {user: open, answer: set("isAuthenticated", nil), asked: true},
		"no isAuthenticated":            {user: open, answer: without("isAuthenticated"), asked: true},
		"isAuthenticated in other case": {user: open, answer: strings.Replace(good, "isAuthenticated", "isauthenticated", 1), asked: true},
		"no principal":                  {user: open, answer: without("principalId"), asked: true},
		"empty principal":               {user: open, answer: set("principalId", ""), asked: true},
		"principal with a wildcard":     {user: open, answer: set("principalId", "dev*"), asked: true},
		"principal with a line end":     {user: open, answer: set("principalId", "dev\n"), asked: true},
		"principal as number":           {user: open, answer: set("principalId", 1), asked: true},
		"long principal":                {user: open, answer: set("principalId", strings.Repeat("a", 129)), asked: true},
		"refresh 0":                     {user: open, answer: set("refreshAfterInSeconds", 0), asked: true},
		"refresh 299":                   {user: open, answer: set("refreshAfterInSeconds", 299), asked: true},
		"refresh as text":               {user: open, answer: set("refreshAfterInSeconds", "300"), asked: true},
		"refresh 300.5":                 {user: open, answer: set("refreshAfterInSeconds", 300.5), asked: true},
		"no refresh":                    {user: open, answer: without("refreshAfterInSeconds"), asked: true},
		"disconnect 299":                {user: open, answer: set("disconnectAfterInSeconds", 299), asked: true},
		"disconnect 86401":              {user: open, answer: set("disconnectAfterInSeconds", 86401), asked: true},
		"disconnect -1":                 {user: open, answer: set("disconnectAfterInSeconds", -1), asked: true},
		"no disconnect":                 {user: open, answer: without("disconnectAfterInSeconds"), asked: true},
		"no policies":                   {user: open, answer: without("policyDocuments"), asked: true},
		"policies as text":              {user: open, answer: set("policyDocuments", "{}"), asked: true},
		"11 policies":                   {user: open, answer: set("policyDocuments", make([]struct{}, 11)), asked: true},
		"policy of 2049 characters":     {user: open, answer: set("policyDocuments", []any{json.RawMessage(document(2049))}), asked: true},
		"policy as broken text":         {user: open, answer: set("policyDocuments", []string{"{"}), asked: true},
		"policy with a mistake":         {user: open, answer: strings.Replace(good, "Effect", "Affect", 1), asked: true},
	}
	for name, c := range rows {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			switch c.answer {
			case "":
			case "\x00late":
				f.answer = nil
			case "\x00fails":
				f.answer = func([]byte) (string, error) { return good, errors.New("Unhandled: " + token) }
			case "\x00empty":
				f.answer = func([]byte) (string, error) { return "", nil }
			default:
				f.answer = func([]byte) (string, error) { return c.answer, nil }
			}
			if c.change != nil {
				c.change(f)
			}
			conn := c.conn
			if conn == nil {
				conn = mqttConn(c.user, "canary-password")
			}
			p, err := f.Authenticate(t.Context(), conn)
			if err == nil {
				t.Fatalf("let in as %+v", p)
			}
			want := c.kind
			if want == errs.Internal {
				want = errs.Unauthorized
			}
			if !errs.Is(err, want) {
				t.Errorf("%s, want %s: %v", errs.KindOf(err), want, err)
			}
			if errs.Text(err) != "Forbidden" {
				t.Errorf("the client is told %q", errs.Text(err))
			}
			if (len(f.calls) > 0) != c.asked {
				t.Errorf("the function was asked %d times", len(f.calls))
			}
			if !strings.Contains(f.log.String(), "refused") {
				t.Error("nothing in the log")
			}
			for _, secret := range []string{token, "canary-password", signature} {
				if strings.Contains(f.log.String(), secret) || strings.Contains(err.Error(), secret) {
					t.Errorf("a secret in the log: %s", f.log)
				}
			}
			if len(f.sessions) != 0 {
				t.Error("a session is left")
			}
		})
	}
	// What is refused above is not so for another reason.
	for name, answer := range map[string]string{
		"10 policies of 2048 characters": set("policyDocuments", slices.Repeat([]any{json.RawMessage(document(2048))}, 10)),
		"policy as text":                 set("policyDocuments", []string{document(2048)}),
		"no policy":                      set("policyDocuments", []string{}),
		"longest":                        with(func(m map[string]any) { m["disconnectAfterInSeconds"] = 86400; m["refreshAfterInSeconds"] = 86400 }),
	} {
		f := newFixture(t)
		f.answer = func([]byte) (string, error) { return answer, nil }
		if _, err := f.Authenticate(t.Context(), mqttConn(signed, "p")); err != nil {
			t.Errorf("%s: %v\n%s", name, err, f.log)
		}
	}
}

func TestDefaultAuthorizer(t *testing.T) {
	f := newFixture(t)
	c := mqttConn("user", "p")
	if f.Named(c) || f.Authenticator.Default(c) {
		t.Error("an authorizer out of nothing")
	}
	f.def = "open"
	if f.Named(c) || !f.Authenticator.Default(c) {
		t.Error("the default one is not seen")
	}
	if _, err := f.Authenticate(t.Context(), c); err != nil {
		t.Error(err)
	}
	if _, err := f.Authenticate(t.Context(), mqttConn("user?"+nameKey+"=open", "p")); err != nil {
		t.Error("the default one by its name:", err)
	}
	f.def, f.over = "off", true
	if _, err := f.Authenticate(t.Context(), mqttConn("user?"+nameKey+"=open", "p")); err != nil {
		t.Error("another where that is allowed:", err)
	}
}

func TestCacheOfHTTPS(t *testing.T) {
	f := newFixture(t)
	ask := func(c *auth.Connection) int {
		t.Helper()
		before := len(f.calls)
		if _, err := f.Authenticate(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		return len(f.calls) - before
	}
	base := func() *auth.Connection {
		return httpConn("/topics/a?"+nameKey+"=open", http.Header{"Tok": {"T"}, "A": {"1"}})
	}
	if first, second := ask(base()), ask(base()); first != 1 || second != 0 {
		t.Error("an answer is not kept for the connection")
	}
	longer := base()
	longer.HTTP.Header.Set("Content-Length", "99")
	if ask(longer) != 0 {
		t.Error("the length of a body counts")
	}
	for name, change := range map[string]func(*auth.Connection){
		"connection":  func(c *auth.Connection) { c.ID = "other" },
		"token":       func(c *auth.Connection) { c.HTTP.Header.Set("Tok", "U") },
		"no token":    func(c *auth.Connection) { c.HTTP.Header.Del("Tok") },
		"header":      func(c *auth.Connection) { c.HTTP.Header.Set("A", "2") },
		"query":       func(c *auth.Connection) { c.HTTP.URL.RawQuery += "&b=c" },
		"host":        func(c *auth.Connection) { c.HTTP.Host = "other" },
		"server name": func(c *auth.Connection) { c.TLS = &tls.ConnectionState{ServerName: "other"} },
	} {
		c := base()
		change(c)
		if ask(c) != 1 {
			t.Errorf("another %s gets the answer of the first", name)
		}
	}
	f.store["open"] = &Authorizer{Name: "open", Function: "other", Active: true, SigningDisabled: true, TokenKeyName: "tok", CacheHTTP: true}
	if ask(base()) != 1 {
		t.Error("another function gets the answer of the first")
	}
	f.now = f.now.Add(300 * time.Second)
	if ask(base()) != 1 {
		t.Error("kept for longer than refreshAfterInSeconds")
	}
	f.Changed()
	if ask(base()) != 1 {
		t.Error("kept over a change of authorizers")
	}
	f.store["open"] = &Authorizer{Name: "open", Function: "other", SigningDisabled: true, TokenKeyName: "tok", CacheHTTP: true}
	if _, err := f.Authenticate(t.Context(), base()); err == nil {
		t.Error("kept for an authorizer that is switched off")
	}
	f.store["open"] = &Authorizer{Name: "open", Function: "fn", Active: true, SigningDisabled: true}
	if first, second := ask(base()), ask(base()); first != 1 || second != 1 {
		t.Error("kept where caching is off")
	}
	f.store["open"].CacheHTTP = true
	f.answer = func([]byte) (string, error) { return strings.Replace(good, "true", "false", 1), nil }
	for range 2 {
		before := len(f.calls)
		if _, err := f.Authenticate(t.Context(), base()); err == nil || len(f.calls) == before {
			t.Error("a refusal is kept")
		}
	}
	f.answer = func([]byte) (string, error) { return good, nil }
	f.now = f.now.Add(time.Hour)
	f.cache.max = 50
	for i := range f.cache.max + 10 {
		c := base()
		c.ID = fmt.Sprint(i)
		ask(c)
	}
	if n := len(f.cache.entries); n > f.cache.max {
		t.Errorf("%d answers are kept", n)
	}
}

// settle runs the sweep until its function calls are over.
func (f *fixture) settle(t *testing.T, after time.Duration) {
	t.Helper()
	f.mu.Lock()
	f.now = f.now.Add(after)
	f.mu.Unlock()
	var wg sync.WaitGroup
	f.sweep(t.Context(), &wg)
	wg.Wait()
}

func TestRefresh(t *testing.T) {
	user := "user?" + nameKey + "=open&tok=T"
	connect := func(f *fixture) *auth.Principal {
		t.Helper()
		p, err := f.Authenticate(t.Context(), mqttConn(user, "p"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Run("new policies", func(t *testing.T) {
		f := newFixture(t)
		p := connect(f)
		f.settle(t, 299*time.Second)
		if len(f.calls) != 1 {
			t.Error("asked too early")
		}
		f.answer = func([]byte) (string, error) { return strings.Replace(good, "first", "second", 1), nil }
		f.settle(t, time.Second)
		if len(f.calls) != 2 || !bytes.Equal(f.calls[0], f.calls[1]) {
			t.Fatalf("asked %d times, or for something else", len(f.calls))
		}
		if f.policies.May(p, auth.Publish, "first") || !f.policies.May(p, auth.Publish, "second") {
			t.Error("the policies of before")
		}
		f.settle(t, 299*time.Second)
		f.settle(t, time.Second)
		if len(f.calls) != 3 || len(f.ended) != 0 {
			t.Error("not asked in the same rhythm")
		}
		p.Ended()
		f.settle(t, time.Hour)
		if len(f.calls) != 3 || len(f.ended) != 0 {
			t.Error("asked for a connection that has ended")
		}
	})
	for name, change := range map[string]func(*fixture){
		"function fails":   func(f *fixture) { f.answer = func([]byte) (string, error) { return good, errors.New("x") } },
		"function is late": func(f *fixture) { f.answer = nil },
		"not authenticated": func(f *fixture) {
			f.answer = func([]byte) (string, error) { return strings.Replace(good, "true", "false", 1), nil }
		},
		"as text": func(f *fixture) {
			f.answer = func([]byte) (string, error) { return strings.Replace(good, "true", `"true"`, 1), nil }
		},
		"another principal": func(f *fixture) {
			f.answer = func([]byte) (string, error) { return strings.Replace(good, "dev1", "dev2", 1), nil }
		},
		"bad policies": func(f *fixture) {
			f.answer = func([]byte) (string, error) { return strings.Replace(good, "Effect", "Affect", 1), nil }
		},
		"authorizer gone":      func(f *fixture) { delete(f.store, "open") },
		"authorizer off":       func(f *fixture) { f.store["open"] = &Authorizer{Name: "open"} },
		"authorizer signs now": func(f *fixture) { f.store["open"] = f.store["keyless"] },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			p := connect(f)
			change(f)
			f.settle(t, 300*time.Second)
			if !slices.Contains(f.ended, p) {
				t.Error("the connection goes on")
			}
			// The gateway may not have had it yet: it is told until it says so.
			n := len(f.ended)
			f.settle(t, time.Second)
			if len(f.ended) != n+1 {
				t.Error("told once only")
			}
			p.Ended()
			f.settle(t, time.Second)
			if len(f.ended) != n+1 || len(f.sessions) != 0 {
				t.Error("told after the end")
			}
		})
	}
	t.Run("time is up", func(t *testing.T) {
		f := newFixture(t)
		p := connect(f)
		f.answer = func([]byte) (string, error) { return strings.Replace(good, "3600", "600", 1), nil }
		f.settle(t, 300*time.Second)
		f.settle(t, 299*time.Second)
		if len(f.ended) != 0 {
			t.Error("too early")
		}
		f.settle(t, time.Second)
		if !slices.Contains(f.ended, p) {
			t.Error("a shorter time does not count")
		}
	})
	t.Run("switched off", func(t *testing.T) {
		f := newFixture(t)
		p := connect(f)
		f.Changed()
		if len(f.ended) != 0 {
			t.Error("ended by a change of something else")
		}
		f.store["open"] = &Authorizer{Name: "open"}
		f.Changed()
		if !slices.Contains(f.ended, p) {
			t.Error("the connection goes on")
		}
	})
}

func TestRunEnds(t *testing.T) {
	f := newFixture(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// No more functions are called at a time than there is room for; the others
// wait their turn.
func TestCallsAreBounded(t *testing.T) {
	f := newFixture(t)
	f.o.Timeout = 20 * time.Second
	enter, leave := make(chan struct{}), make(chan struct{})
	f.answer = func([]byte) (string, error) {
		enter <- struct{}{}
		<-leave
		return good, nil
	}
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := f.Authenticate(t.Context(), mqttConn("u?"+nameKey+"=open", "")); err != nil {
				t.Error(err)
			}
		})
	}
	<-enter
	<-enter
	for range 3 {
		select {
		case <-enter:
			t.Fatal("a third one at a time")
		case <-time.After(20 * time.Millisecond):
		}
		leave <- struct{}{}
		<-enter
	}
	leave <- struct{}{}
	leave <- struct{}{}
	wg.Wait()
}

func FuzzCredentials(f *testing.F) {
	f.Add("user?x-amz-customauthorizer-name=a&tok=%2B&SDK=x", "a=b")
	f.Add("?&&=%&a", "%zz")
	f.Fuzz(func(t *testing.T, user, query string) {
		c := mqttConn(user, "")
		c.HTTP = &auth.Request{Request: &http.Request{URL: &url.URL{RawQuery: query}, Header: http.Header{}}}
		k, err := read(c)
		if err != nil {
			return
		}
		if len(k.clean) > len(user) {
			t.Error("a user name grows")
		}
		if again, clean, err := splitUser(k.clean); err != nil || clean != k.clean || !slices.Equal(again, k.user) {
			t.Errorf("%q is cleaned to %q and then to %q", user, k.clean, clean)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"isAuthenticated":true,"isAuthenticated":false}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := readAnswer(b)
		if (a == nil) == (err == nil) {
			t.Fatal("neither or both")
		}
		if a != nil && (len(a.Policies) > maxDocuments || a.RefreshAfter < 300*time.Second || !principalID.MatchString(a.PrincipalID)) {
			t.Fatalf("%+v", a)
		}
	})
}
