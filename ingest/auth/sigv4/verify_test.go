package sigv4

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/weir-iot/weir/internal/errs"
)

const (
	keyID  = "AKIAIOSFODNN7EXAMPLE"
	secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	tempID = "ASIAIOSFODNN7EXAMPLE"
	token  = "FwoGZXIvYXdzEJr//////////wEaDB+token/with=signs"
)

var now = time.Date(2026, 3, 4, 10, 20, 30, 0, time.UTC)

func keys(_ context.Context, id, given string) (Key, bool) {
	switch id {
	case keyID:
		return Key{Secret: secret, Policies: []string{"{}"}}, given == ""
	case tempID:
		return Key{Secret: secret, Expires: now.Add(time.Hour)}, given == token
	case "AKIAEXPIRED":
		return Key{Secret: secret, Expires: now.Add(-time.Second)}, true
	case "AKIANOSECRET":
		return Key{}, true
	}
	return Key{}, false
}

func verifier() *Verifier {
	return New(Options{Keys: KeysFunc(keys), Region: "us-east-1", Services: []string{DeviceGateway, Data}, Now: func() time.Time { return now }})
}

// want is a request as a client of the SDK makes it.
type want struct {
	method, url, body string
	key               aws.Credentials
	service, region   string
	at                time.Time
	presign           bool
	expires           string // X-Amz-Expires
	tokenAfter        bool   // the session token is added after signing
	header            http.Header
}

func base() want {
	return want{
		method: "POST", url: "https://localhost:4443/topics/plant%2F7%2Ftemp?qos=1&contentType=text%20plain", body: `{"c": 21}`,
		key:     aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret},
		service: Data, region: "us-east-1", at: now, header: http.Header{},
	}
}

func hash(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

// sign returns the request the SDK's own signer makes.
func (w want) sign(t testing.TB) *http.Request {
	t.Helper()
	r, err := http.NewRequest(w.method, w.url, strings.NewReader(w.body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range w.header {
		r.Header[k] = v
	}
	s := v4.NewSigner()
	if !w.presign {
		if err := s.SignHTTP(t.Context(), w.key, r, hash(w.body), w.service, w.region, w.at); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if w.expires != "" {
		q := r.URL.Query()
		q.Set("X-Amz-Expires", w.expires)
		r.URL.RawQuery = q.Encode()
	}
	key := w.key
	if w.tokenAfter {
		key.SessionToken = ""
	}
	signed, _, err := s.PresignHTTP(t.Context(), key, r, hash(w.body), w.service, w.region, w.at)
	if err != nil {
		t.Fatal(err)
	}
	if w.tokenAfter {
		signed += "&X-Amz-Security-Token=" + url.QueryEscape(w.key.SessionToken)
	}
	u, err := url.Parse(signed)
	if err != nil {
		t.Fatal(err)
	}
	r.URL = u
	return r
}

// received returns r as a server of net/http gets it.
func received(t testing.TB, r *http.Request) (*http.Request, []byte) {
	t.Helper()
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		t.Fatal(err)
	}
	return parseWire(t, wire.Bytes())
}

func parseWire(t testing.TB, wire []byte) (*http.Request, []byte) {
	t.Helper()
	type got struct {
		r    *http.Request
		body []byte
	}
	c := make(chan got, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		c <- got{r, b}
	}))
	srv.Start()
	defer srv.Close()
	nc, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write(wire); err != nil {
		t.Fatal(err)
	}
	select {
	case g := <-c:
		return g.r.WithContext(context.Background()), g.body
	case <-time.After(20 * time.Second):
		t.Fatal("no request")
	}
	return nil, nil
}

func TestGood(t *testing.T) {
	temp := aws.Credentials{AccessKeyID: tempID, SecretAccessKey: secret, SessionToken: token}
	for name, change := range map[string]func(*want){
		"header":             func(*want) {},
		"clock 4 min behind": func(w *want) { w.at = now.Add(-4 * time.Minute) },
		"clock 4 min ahead":  func(w *want) { w.at = now.Add(4 * time.Minute) },
		"device gateway":     func(w *want) { w.service = DeviceGateway },
		"no body":            func(w *want) { w.body = "" },
		"odd characters": func(w *want) {
			w.url = "https://localhost/topics/" + url.PathEscape("a b/ü/~*'()!@:$&=+,;") + "?contentType=" + url.QueryEscape("a b&c=d/ü~+") + "&empty="
		},
		"levels in the path":  func(w *want) { w.url = "https://localhost/topics/a/b//c" },
		"host without a port": func(w *want) { w.url = "https://localhost/topics/a" },
		"properties": func(w *want) {
			w.header = http.Header{"X-Amz-Mqtt5-User-Properties": {"W3siYSI6ICJiIn1d"}, "Content-Type": {"application/json;  charset=utf-8 "}}
		},
		"hash header signed":        func(w *want) { w.header = http.Header{"X-Amz-Content-Sha256": {hash(w.body)}} },
		"session token":             func(w *want) { w.key = temp },
		"presigned":                 func(w *want) { w.presign, w.expires = true, "86400"; w.at = now.Add(-23 * time.Hour) },
		"presigned, no expiry":      func(w *want) { w.presign = true; w.at = now.Add(-4 * time.Minute) },
		"presigned, token signed":   func(w *want) { w.presign, w.key = true, temp },
		"presigned, token appended": func(w *want) { w.presign, w.tokenAfter, w.key = true, true, temp },
		"presigned, empty token":    func(w *want) { w.presign, w.tokenAfter = true, true },
		"WebSocket": func(w *want) {
			w.method, w.url, w.body, w.presign, w.service = "GET", "wss://localhost:4443/mqtt", "", true, DeviceGateway
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := base()
			change(&w)
			r, body := received(t, w.sign(t))
			if !Signed(r) {
				t.Error("not taken for a signed request")
			}
			if err := verifier().Check(r); err != nil {
				t.Error(err)
			}
			c, err := verifier().Verify(r, body)
			if err != nil {
				t.Fatal(err)
			}
			if c.AccessKeyID != w.key.AccessKeyID || c.Service != w.service || c.Region != "us-east-1" || c.Presigned != w.presign {
				t.Errorf("caller %+v", c)
			}
			end := now.Add(24 * time.Hour)
			if w.key.AccessKeyID == tempID {
				end = now.Add(time.Hour)
			} else if !slices.Equal(c.Policies, []string{"{}"}) {
				t.Errorf("policies %q", c.Policies)
			}
			if !c.Expires.Equal(end) {
				t.Errorf("expires %s, want %s", c.Expires, end)
			}
		})
	}
}

// Each is signed by the SDK's signer, or changed after signing, in a way that
// must not pass.
func TestRefused(t *testing.T) {
	temp := aws.Credentials{AccessKeyID: tempID, SecretAccessKey: secret, SessionToken: token}
	type attack struct {
		code   string
		sign   func(*want)
		change func(*http.Request)
		body   string // another body; "" for the signed one
	}
	query := func(f func(url.Values)) func(*http.Request) {
		return func(r *http.Request) {
			q := r.URL.Query()
			f(q)
			r.URL.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
		}
	}
	authorization := func(old, new string) func(*http.Request) {
		return func(r *http.Request) {
			is := r.Header.Get("Authorization")
			got := strings.Replace(is, old, new, 1)
			if got == is {
				panic("nothing replaced in " + is)
			}
			r.Header.Set("Authorization", got)
		}
	}
	presign := func(w *want) { w.presign, w.expires = true, "300" }
	for name, a := range map[string]attack{
		"replayed after 5 min": {code: InvalidSignature, sign: func(w *want) { w.at = now.Add(-5*time.Minute - time.Second) }},
		"15 min old":           {code: InvalidSignature, sign: func(w *want) { w.at = now.Add(-15 * time.Minute) }},
		"clock 15 min ahead":   {code: InvalidSignature, sign: func(w *want) { w.at = now.Add(15 * time.Minute) }},
		"other method":         {code: InvalidSignature, change: func(r *http.Request) { r.Method = "PUT" }},
		"other path":           {code: InvalidSignature, change: func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/topics/other", "" }},
		"path encoded twice": {code: InvalidSignature, change: func(r *http.Request) {
			r.URL.RawPath = "/topics/plant%252F7%252Ftemp"
			r.URL.Path = "/topics/plant%2F7%2Ftemp"
		}},
		"path decoded":          {code: InvalidSignature, change: func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/topics/plant/7/temp", "" }},
		"path with empty level": {code: InvalidSignature, sign: func(w *want) { w.url = "https://localhost/topics/a/b" }, change: func(r *http.Request) { r.URL.Path = "/topics/a//b" }},
		"path with dots":        {code: InvalidSignature, sign: func(w *want) { w.url = "https://localhost/topics/b" }, change: func(r *http.Request) { r.URL.Path = "/topics/a/../b" }},
		"other query":           {code: InvalidSignature, change: query(func(q url.Values) { q.Set("qos", "0") })},
		"query added":           {code: InvalidSignature, change: query(func(q url.Values) { q.Set("retain", "true") })},
		"query removed":         {code: InvalidSignature, change: query(func(q url.Values) { q.Del("qos") })},
		"plus for encoded plus": {code: InvalidSignature, sign: func(w *want) { w.url = "https://localhost/topics/a?contentType=a%2Bb" }, change: func(r *http.Request) { r.URL.RawQuery = "contentType=a+b" }},
		"duplicate query key":   {code: IncompleteSignature, change: func(r *http.Request) { r.URL.RawQuery += "&qos=0" }},
		"signed duplicate key":  {code: IncompleteSignature, sign: func(w *want) { w.url = "https://localhost/topics/a?qos=0&qos=1" }},
		"duplicate, encoded":    {code: IncompleteSignature, change: func(r *http.Request) { r.URL.RawQuery += "&q%6Fs=0" }},
		"query not encoded":     {code: IncompleteSignature, change: func(r *http.Request) { r.URL.RawQuery += "&a=%zz" }},
		"semicolon in query":    {code: IncompleteSignature, change: func(r *http.Request) { r.URL.RawQuery += ";qos=0" }},
		"other region":          {code: InvalidSignature, sign: func(w *want) { w.region = "eu-west-1" }},
		"region changed":        {code: InvalidSignature, sign: func(w *want) { w.region = "eu-west-1" }, change: authorization("eu-west-1", "us-east-1")},
		"other service":         {code: InvalidSignature, sign: func(w *want) { w.service = "s3" }},
		"service of the API":    {code: InvalidSignature, sign: func(w *want) { w.service = Control }},
		"service changed":       {code: InvalidSignature, sign: func(w *want) { w.service = Control }, change: authorization("/iot/", "/iotdata/")},
		"other host":            {code: InvalidSignature, change: func(r *http.Request) { r.Host = "evil.example" }},
		"host's port":           {code: InvalidSignature, change: func(r *http.Request) { r.Host = "localhost:8443" }},
		"body changed":          {code: InvalidSignature, body: `{"c": 99}`},
		"body emptied":          {code: InvalidSignature, body: "\x00none"},
		"body and hash changed": {code: InvalidSignature, sign: func(w *want) { w.header = http.Header{"X-Amz-Content-Sha256": {hash(w.body)}} },
			change: func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", hash(`{"c": 99}`)) }, body: `{"c": 99}`},
		"hash of another body": {code: InvalidSignature, change: func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", hash("x")) }},
		"unsigned payload":     {code: InvalidSignature, sign: func(w *want) { w.header = http.Header{"X-Amz-Content-Sha256": {"UNSIGNED-PAYLOAD"}} }},
		"unsigned payload in query": {code: InvalidSignature, sign: func(w *want) {
			presign(w)
			w.url += "&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD"
		}},
		"streaming payload": {code: InvalidSignature, sign: func(w *want) {
			w.header = http.Header{"X-Amz-Content-Sha256": {"STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}}
		}},
		"unsigned header":      {code: InvalidSignature, change: func(r *http.Request) { r.Header.Set("X-Amz-Mqtt5-User-Properties", "W10=") }},
		"unsigned principal":   {code: InvalidSignature, change: func(r *http.Request) { r.Header.Set("X-Amzn-Principal", "arn:aws:iot:us-east-1:1:cert/a") }},
		"unsigned header, URL": {code: InvalidSignature, sign: presign, change: func(r *http.Request) { r.Header.Set("X-Amz-Mqtt5-User-Properties", "W10=") }},
		"signed header gone": {code: InvalidSignature, sign: func(w *want) { w.header = http.Header{"X-Amz-Mqtt5-Correlation-Data": {""}} },
			change: func(r *http.Request) { r.Header.Del("X-Amz-Mqtt5-Correlation-Data") }},
		"signed header changed": {code: InvalidSignature, sign: func(w *want) { w.header = http.Header{"X-Amz-Mqtt5-Correlation-Data": {"YQ=="}} },
			change: func(r *http.Request) { r.Header.Set("X-Amz-Mqtt5-Correlation-Data", "Yg==") }},
		"signed header twice": {code: InvalidSignature, sign: func(w *want) { w.header = http.Header{"X-Amz-Mqtt5-Correlation-Data": {"YQ=="}} },
			change: func(r *http.Request) { r.Header.Add("X-Amz-Mqtt5-Correlation-Data", "Yg==") }},
		"host not signed":      {code: InvalidSignature, change: authorization("host;", "")},
		"date not signed":      {code: InvalidSignature, change: authorization(";x-amz-date", "")},
		"date moved":           {code: InvalidSignature, sign: func(w *want) { w.at = now.Add(-time.Hour) }, change: func(r *http.Request) { r.Header.Set("X-Amz-Date", now.Format(timeForm)) }},
		"date of another day":  {code: InvalidSignature, change: authorization("20260304", "20260303")},
		"date in another form": {code: IncompleteSignature, change: func(r *http.Request) { r.Header.Set("X-Amz-Date", "2026-03-04T10:20:30Z") }},
		"date twice":           {code: IncompleteSignature, change: func(r *http.Request) { r.Header.Add("X-Amz-Date", now.Format(timeForm)) }},
		"no date":              {code: IncompleteSignature, change: func(r *http.Request) { r.Header.Del("X-Amz-Date") }},
		"Date unsigned": {code: InvalidSignature, change: func(r *http.Request) {
			authorization(";x-amz-date", "")(r)
			r.Header.Del("X-Amz-Date")
			r.Header.Set("Date", now.Format(timeForm))
		}},
		"unknown key":                {code: UnrecognizedClient, sign: func(w *want) { w.key.AccessKeyID = "AKIAUNKNOWN" }},
		"expired key":                {code: UnrecognizedClient, sign: func(w *want) { w.key.AccessKeyID = "AKIAEXPIRED" }},
		"key without a secret":       {code: UnrecognizedClient, sign: func(w *want) { w.key.AccessKeyID, w.key.SecretAccessKey = "AKIANOSECRET", "x" }},
		"wrong secret":               {code: InvalidSignature, sign: func(w *want) { w.key.SecretAccessKey = secret + "x" }},
		"token missing":              {code: UnrecognizedClient, sign: func(w *want) { w.key = temp; w.key.SessionToken = "" }},
		"token of another":           {code: UnrecognizedClient, sign: func(w *want) { w.key = temp; w.key.SessionToken = "other" }},
		"token with a long-term key": {code: UnrecognizedClient, sign: func(w *want) { w.key.SessionToken = token }},
		"token appended, of another": {code: UnrecognizedClient, sign: func(w *want) { w.presign, w.tokenAfter, w.key = true, true, temp; w.key.SessionToken = "other" }},
		"signature cut":              {code: IncompleteSignature, change: func(r *http.Request) { h := r.Header.Get("Authorization"); r.Header.Set("Authorization", h[:len(h)-1]) }},
		"signature empty": {code: IncompleteSignature, change: func(r *http.Request) {
			h := r.Header.Get("Authorization")
			r.Header.Set("Authorization", h[:len(h)-64])
		}},
		"signature in capitals": {code: IncompleteSignature, change: func(r *http.Request) {
			h := r.Header.Get("Authorization")
			r.Header.Set("Authorization", h[:len(h)-64]+strings.ToUpper(h[len(h)-64:len(h)-1])+"A")
		}},
		"signature of zeros": {code: InvalidSignature, change: func(r *http.Request) {
			h := r.Header.Get("Authorization")
			r.Header.Set("Authorization", h[:len(h)-64]+strings.Repeat("0", 64))
		}},
		"no authorization":     {code: MissingAuthenticationToken, change: func(r *http.Request) { r.Header.Del("Authorization") }},
		"two authorizations":   {code: IncompleteSignature, change: func(r *http.Request) { r.Header.Add("Authorization", r.Header.Get("Authorization")) }},
		"basic authorization":  {code: IncompleteSignature, change: func(r *http.Request) { r.SetBasicAuth("a", "b") }},
		"header and query":     {code: InvalidSignature, sign: presign, change: func(r *http.Request) { r.Header.Set("Authorization", algorithm+" x") }},
		"part twice":           {code: IncompleteSignature, change: authorization("SignedHeaders=", "SignedHeaders=host, SignedHeaders=")},
		"part unknown":         {code: IncompleteSignature, change: authorization("SignedHeaders=", "Other=host, SignedHeaders=")},
		"scope of four parts":  {code: IncompleteSignature, change: authorization("/us-east-1/", "/")},
		"scope ends otherwise": {code: IncompleteSignature, change: authorization("aws4_request", "aws4_other")},
		"headers not sorted":   {code: IncompleteSignature, change: authorization("host;x-amz-date", "x-amz-date;host")},
		"other algorithm":      {code: IncompleteSignature, change: authorization("HMAC-SHA256", "ECDSA-P256-SHA256")},

		"URL expired":             {code: InvalidSignature, sign: func(w *want) { presign(w); w.at = now.Add(-301 * time.Second) }},
		"URL's expiry changed":    {code: InvalidSignature, sign: func(w *want) { presign(w); w.at = now.Add(-301 * time.Second) }, change: query(func(q url.Values) { q.Set("X-Amz-Expires", "3600") })},
		"URL for over 24 h":       {code: InvalidSignature, sign: func(w *want) { presign(w); w.expires = "86401" }},
		"URL for 0 s":             {code: InvalidSignature, sign: func(w *want) { presign(w); w.expires = "0" }},
		"URL for -1 s":            {code: InvalidSignature, sign: func(w *want) { presign(w); w.expires = "-1" }},
		"URL for 2⁶⁴ s":           {code: InvalidSignature, sign: func(w *want) { presign(w); w.expires = "18446744073709551616" }},
		"URL without expiry, old": {code: InvalidSignature, sign: func(w *want) { w.presign = true; w.at = now.Add(-6 * time.Minute) }},
		"URL of the future":       {code: InvalidSignature, sign: func(w *want) { presign(w); w.at = now.Add(6 * time.Minute) }},
		"URL: other method":       {code: InvalidSignature, sign: presign, change: func(r *http.Request) { r.Method = "DELETE" }},
		"URL: other path":         {code: InvalidSignature, sign: presign, change: func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/topics/other", "" }},
		"URL: query added":        {code: InvalidSignature, sign: presign, change: query(func(q url.Values) { q.Set("retain", "true") })},
		"URL: other host":         {code: InvalidSignature, sign: presign, change: func(r *http.Request) { r.Host = "evil.example" }},
		"URL: other body":         {code: InvalidSignature, sign: presign, body: "x"},
		"URL: region":             {code: InvalidSignature, sign: func(w *want) { presign(w); w.region = "eu-west-1" }},
		"URL: service":            {code: InvalidSignature, sign: func(w *want) { presign(w); w.service = "iot" }},
		"URL: no signature":       {code: IncompleteSignature, sign: presign, change: query(func(q url.Values) { q.Del("X-Amz-Signature") })},
		"URL: no algorithm":       {code: IncompleteSignature, sign: presign, change: query(func(q url.Values) { q.Del("X-Amz-Algorithm") })},
		"URL: no date":            {code: IncompleteSignature, sign: presign, change: query(func(q url.Values) { q.Del("X-Amz-Date") })},
		"URL: no signed headers":  {code: IncompleteSignature, sign: presign, change: query(func(q url.Values) { q.Del("X-Amz-SignedHeaders") })},
		"URL: signature twice":    {code: IncompleteSignature, sign: presign, change: func(r *http.Request) { r.URL.RawQuery += "&X-Amz-Signature=" + strings.Repeat("0", 64) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := base()
			if a.sign != nil {
				a.sign(&w)
			}
			r, body := received(t, w.sign(t))
			if a.change != nil {
				a.change(r)
			}
			if a.body == "\x00none" {
				body = nil
			} else if a.body != "" {
				body = []byte(a.body)
			}
			c, err := verifier().Verify(r, body)
			if err == nil {
				t.Fatalf("let in as %+v", c)
			}
			if !errs.Is(err, errs.Unauthorized) || CodeOf(err) != a.code {
				t.Errorf("%s: %v, want %s", CodeOf(err), err, a.code)
			}
			for _, canary := range []string{secret, token, w.key.SecretAccessKey} {
				if strings.Contains(err.Error(), canary) {
					t.Errorf("a secret in %q", err)
				}
			}
		})
	}
}

// A signature cannot be carried over from one request to a different one that
// only looks the same once it has been made canonical.
func TestSignatureIsOfOneRequest(t *testing.T) {
	for _, pair := range [][2]string{
		{"/topics/a%2Fb", "/topics/a%252Fb"}, {"/topics/a%252Fb", "/topics/a%2Fb"}, {"/topics/a%20b", "/topics/a+b"},
		{"/topics/a?x=a%26y%3Db", "/topics/a?x=a&y=b"}, {"/topics/a?a=&b=", "/topics/a?a=%26b"}, {"/topics/a", "/topics/a?"},
		{"/topics/a", "/topics/a/"}, {"/topics/a", "/topics//a"}, {"/topics/a", "/topics/./a"}, {"/topics/A", "/topics/a"},
	} {
		w := base()
		w.url = "https://localhost" + pair[0]
		r, body := received(t, w.sign(t))
		if _, err := verifier().Verify(r, body); err != nil {
			t.Fatalf("%s: %v", pair[0], err)
		}
		u, err := url.ParseRequestURI(pair[1])
		if err != nil {
			t.Fatal(err)
		}
		r.URL = u
		_, err = verifier().Verify(r, body)
		if same := pair[1] == "/topics/a?"; (err == nil) != same {
			t.Errorf("signed %s, sent %s: %v", pair[0], pair[1], err)
		}
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	k := Key{Secret: secret}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("key", "k", k, "p", &k)
	c := &Caller{AccessKeyID: keyID, secret: secret, token: token}
	slog.New(slog.NewJSONHandler(&log, nil)).Info("caller", "c", c)
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s", k, k, k, &k), fmt.Sprintf("%v %+v %#v", c, c, c), log.String()} {
		if strings.Contains(s, secret) || strings.Contains(s, token) {
			t.Errorf("printed: %s", s)
		}
	}
}

func FuzzVerify(f *testing.F) {
	w := base()
	r := w.sign(f)
	f.Add(r.Method, r.URL.RawQuery, r.Header.Get("Authorization"), r.Header.Get("X-Amz-Date"), []byte(w.body))
	w.presign, w.expires = true, "300"
	r = w.sign(f)
	f.Add(r.Method, r.URL.RawQuery, "", "", []byte(w.body))
	f.Add("GET", "a=%", "AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request, SignedHeaders=;, Signature=", "", []byte(nil))
	f.Add("GET", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Algorithm=&;", "", "x", []byte(nil))
	v := verifier()
	f.Fuzz(func(t *testing.T, method, query, authorization, date string, body []byte) {
		r := &http.Request{
			Method: method, Host: "localhost:4443", URL: &url.URL{Path: "/topics/plant/7/temp", RawPath: "/topics/plant%2F7%2Ftemp", RawQuery: query},
			Header: http.Header{}, ContentLength: int64(len(body)),
		}
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		if date != "" {
			r.Header.Set("X-Amz-Date", date)
		}
		r.Header.Set("Content-Length", fmt.Sprint(len(body)))
		c, err := v.Verify(r, body)
		if (c == nil) == (err == nil) {
			t.Fatalf("%v and %v", c, err)
		}
		if err != nil && CodeOf(err) == "" {
			t.Fatalf("no code: %v", err)
		}
		if c != nil && v.Check(r) != nil {
			t.Fatal("verified, but not by Check")
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	w := base()
	r := w.sign(b)
	r.Header.Set("Content-Length", fmt.Sprint(len(w.body)))
	v, body := verifier(), []byte(w.body)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(r, body); err != nil {
			b.Fatal(err)
		}
	}
}
