package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/ingest/azure"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/weirtest"
)

// secrets are what must not be seen, by name: texts of which each alone would
// give it away.
type secrets map[string][]string

// file takes a file's text, or the lines of a PEM file but its frame.
func (s secrets) file(t *testing.T, name, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s.add(name, string(b))
}

// add takes a text, each line of it that is long enough to be one's own, and
// what it looks like in a URL, in hex and in base64.
func (s secrets) add(name, text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if len(line) < 12 || strings.HasPrefix(line, "-----") || strings.HasPrefix(line, "[") || strings.Contains(line, "aws_access_key_id") {
			continue
		}
		if _, value, ok := strings.Cut(line, "aws_secret_access_key"); ok {
			line = strings.Trim(value, " =")
		}
		s[name] = append(s[name], line, url.QueryEscape(line), hex.EncodeToString([]byte(line)), base64.StdEncoding.EncodeToString([]byte(line)))
	}
}

// in returns the names of the secrets that are in b.
func (s secrets) in(b []byte) (names []string) {
	for name, texts := range s {
		if slices.ContainsFunc(texts, func(text string) bool { return bytes.Contains(b, []byte(text)) }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// record is a log that is read while it is written.
type record struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *record) Bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.b.Bytes())
}

// A secret of each kind is used, rightly and wrongly, and then looked for: in the
// log, answers, metrics, profiles, command lines, events, and in the data folder
// outside the file that is its own.
func TestSecretsAreNowhere(t *testing.T) {
	var log record
	s := secrets{"secret of the environment": {"canary/Of+The/Environment+Secret"}, "password": {"canary-password-of-the-test"}}
	d := identityOf(t, weirtest.Process, weirtest.Stderr(&log), weirtest.Key("log.level", "debug"), weirtest.Key("debug.pprof", "true"),
		weirtest.Env("AWS_ACCESS_KEY_ID=AKIACANARY", "AWS_SECRET_ACCESS_KEY="+s["secret of the environment"][0]))
	w, dir := d.Weir, d.Dir()
	s.add("authorizer token", d.token)
	s.add("authorizer signature", d.signature)
	s.add("owner's secret", d.key.Secret)
	own := map[string]string{ // where each may be
		"admin token": "admin.token", "owner's secret": "aws-credentials", "seal key": "seal.key", "owner's key": "client.key",
		"key of the authority": "ca/ca-key.pem", "key of the server": "ca/server-key.pem", "NATS credentials": "log/nats-reader.creds", "hub key": "azure-hub.json",
	}
	for name, path := range own {
		if name != "owner's secret" && name != "hub key" {
			s.file(t, name, filepath.Join(dir, path))
		}
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "seal.key")); err != nil || len(raw) < 32 {
		t.Fatal(len(raw), err)
	} else {
		s["seal key"] = append(s["seal key"], string(raw), hex.EncodeToString(raw), base64.StdEncoding.EncodeToString(raw))
	}
	clear, err := os.ReadFile(filepath.Join(dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(clear))

	// What is answered where no secret is asked for.
	answers := map[string][]byte{}
	get := func(name, method, path, authorization string, body string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, d.e.API+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(name, err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(name, err)
		}
		var head bytes.Buffer
		_ = res.Header.Write(&head)
		answers[name] = append(head.Bytes(), b...)
	}

	// Certificates: keys made here and there; a key sent where a certificate or a
	// request for one belongs.
	e := newEnrolment(t, w)
	s.add("key of a certificate made here", e.pem[1])
	answers["key as certificate"] = []byte(func() string {
		_, text := raw(t, w, d.key, "iot", "POST", "/certificate/register-no-ca", mustJSON(t, map[string]string{"certificatePem": e.pem[1]}))
		return text
	}())
	lamp := e.connect("lamp-1", e.claim, enrolling("json", "lamps")...)
	made := lamp.mustAsk("$aws/certificates/create/json", []byte("{}"))
	s.add("key of a provisioned device", made["privateKey"].(string))
	s.add("ownership token", made["certificateOwnershipToken"].(string))
	given := map[string]any{"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": map[string]string{"SerialNumber": "1"}}
	answer, _ := lamp.ask(provisionLamps+"json", given)
	answers["provisioned"] = mustJSON(t, answer)
	answer, again := lamp.ask(provisionLamps+"json", given)
	answers["provisioned again"] = mustJSON(t, answer)
	if again {
		t.Error("an ownership token is good twice")
	}
	answer, _ = lamp.ask("$aws/certificates/create-from-csr/json", map[string]any{"certificateSigningRequest": e.pem[1]})
	answers["key as request"] = mustJSON(t, answer)

	// Access keys: a new one; requests with it, with a wrong signature, presigned.
	var key struct{ AccessKeyID, SecretAccessKey, ID, Secret string }
	document := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(document, []byte(`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Publish", "Resource": "*"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, stderr, code := weirtest.Run(t, "", []string{"WEIR_DATA_DIR=" + dir}, "access-key", "create", "--policy", document, "-o", "json")
	if err := json.Unmarshal([]byte(out), &key); err != nil || code != 0 {
		t.Fatal(out, stderr, err)
	}
	k := control.OwnerKey{ID: key.AccessKeyID + key.ID, Secret: key.SecretAccessKey + key.Secret}
	if len(k.Secret) < 30 {
		t.Fatalf("no secret in %s", out)
	}
	s.add("access key", k.Secret)
	for name, c := range map[string]control.OwnerKey{"key without rights": k, "wrong secret": {ID: k.ID, Secret: k.Secret + "x"}, "unknown key": {ID: "AKIANOBODY", Secret: k.Secret}} {
		_, text := raw(t, w, c, "iot", "GET", "/things", nil)
		answers[name] = []byte(text)
	}
	r, err := http.NewRequest(http.MethodGet, "wss://localhost:"+port(d.e.Mux)+"/mqtt?X-Amz-Expires=300", nil)
	if err != nil {
		t.Fatal(err)
	}
	empty := sha256.Sum256(nil)
	presigned, _, err := v4.NewSigner().PresignHTTP(t.Context(), aws.Credentials{AccessKeyID: k.ID, SecretAccessKey: k.Secret}, r, hex.EncodeToString(empty[:]), "iotdevicegateway", "us-east-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, signature, _ := strings.Cut(presigned, "X-Amz-Signature=")
	s.add("presigned URL", signature)
	tlsConfig := w.TLS()
	tlsConfig.Certificates, tlsConfig.NextProtos = nil, nil
	cl := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true}}
	ask := func(name, method, rawURL string, header http.Header, body string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, rawURL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = header
		res, err := cl.Do(r)
		if err != nil {
			t.Fatal(name, err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		answers[name] = b
	}
	ask("presigned, no upgrade", "GET", strings.Replace(presigned, "wss:", "https:", 1), nil, "")
	ask("presigned, changed", "GET", strings.Replace(presigned, "wss:", "https:", 1)+"0", nil, "")

	// Custom authorizers: right and wrong tokens and passwords.
	base := "https://localhost:" + port(d.e.Mux) + "/topics/clients/x?qos=1"
	signed := http.Header{"X-Amz-Customauthorizer-Name": {"signed"}, "X-Amz-Customauthorizer-Signature": {d.signature}, "The-Token": {d.token}}
	ask("custom", "POST", base, signed, "x")
	forged := signed.Clone()
	forged.Set("The-Token", d.token+"!")
	ask("custom, forged", "POST", base, forged, "x")
	ask("custom in the query", "POST", base+"&x-amz-customauthorizer-name=signed&x-amz-customauthorizer-signature="+url.QueryEscape(d.signature)+"&the-token="+url.QueryEscape(d.token+"?"), nil, "x")
	connect := func(o mqttclient.Options) {
		c, err := mqttclient.Connect(t.Context(), o)
		if err == nil {
			c.Close()
			return
		}
		answers["CONNECT as "+o.ClientID] = []byte(err.Error())
	}
	alpn := w.TLS()
	alpn.Certificates, alpn.NextProtos = nil, []string{"mqtt"}
	connect(mqttclient.Options{Addr: "localhost:" + port(d.e.Mux), TLS: alpn, ClientID: "custom", Version: 4, Username: "u?x-amz-customauthorizer-name=open", Password: s["password"][0]})
	connect(mqttclient.Options{Addr: "localhost:" + port(d.e.Mux), TLS: alpn, ClientID: "custom-token", Version: 5,
		Username: "?x-amz-customauthorizer-name=signed&x-amz-customauthorizer-signature=" + url.QueryEscape(d.signature) + "&the-token=" + url.QueryEscape(d.token)})
	connect(mqttclient.Options{Addr: d.e.MQTT, ClientID: "plain", Version: 4, Username: "u", Password: s["password"][0]})
	connect(mqttclient.Options{Addr: "localhost:" + port(d.e.MQTTS), TLS: tlsConfig, ClientID: "nobody", Version: 5, Username: "u", Password: s["password"][0]})

	// Shared access signatures.
	h := newHub(t, w)
	s.add("hub key", h.connection(azure.Owner).Key)
	deviceKey := h.device("hub-device")
	s.add("device key", deviceKey)
	sas := deviceToken(t, "hub-device", deviceKey, time.Hour)
	_, sig, _ := strings.Cut(sas, "sig=")
	sig, _, _ = strings.Cut(sig, "&")
	s.add("SAS token", sig)
	o := h.options("hub-device", deviceKey)
	o.Password = sas
	connect(o)
	o.ClientID, o.Password = "another", sas
	connect(o)
	o.ClientID, o.Password = "hub-device", sas+"x"
	connect(o)
	_, _, body := h.as(sas, "GET", "/devices", nil)
	answers["devices with a device's token"] = body

	// A function, which runs as a process of its own.
	python := false
	if _, err := exec.LookPath("python3"); err == nil {
		python = true
		for _, line := range [][]string{{"function", "deploy", "total", "--runtime", "provided", "--code", "../../examples/functions/python"}, {"function", "invoke", "total", "--payload", `{"values":[1]}`}} {
			if out, stderr, code := weirtest.Run(t, "", []string{"WEIR_DATA_DIR=" + dir}, line...); code != 0 {
				t.Fatal(out, stderr)
			}
		}
	}

	// The control API: wrong tokens, what is not understood, and lists.
	bearer := "Bearer " + token
	get("half a token", "GET", "/weir/v1/status", bearer[:len(bearer)-4], "")
	get("token as basic", "GET", "/weir/v1/status", "Basic "+base64.StdEncoding.EncodeToString([]byte("u:"+token)), "")
	get("token in the path", "GET", "/weir/v1/nothing", bearer, "")
	get("not understood", "POST", "/weir/v1/access-keys", bearer, `{"secret": "`+k.Secret+`"}`)
	for _, path := range []string{"/healthz", "/metrics", "/debug/vars", "/weir/v1/status", "/weir/v1/access-keys", "/weir/v1/clients", "/weir/v1/certificates", "/weir/v1/rules",
		"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/symbol", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/allocs?debug=1",
		"/debug/pprof/threadcreate?debug=1", "/debug/pprof/mutex?debug=1", "/debug/pprof/block?debug=1", "/debug/pprof/profile?seconds=1", "/debug/pprof/trace?seconds=1"} {
		get(path, "GET", path, bearer, "")
		get(path+" unasked", "GET", path, "", "")
	}
	for _, line := range []string{"access-key list -o json", "env", "status -o json"} {
		out, stderr, _ := weirtest.Run(t, "", []string{"WEIR_DATA_DIR=" + dir}, strings.Fields(line)...)
		if line != "env" {
			answers["weir "+line] = []byte(out + stderr)
		} else if found := s.in([]byte(out)); len(found) < 2 { // it is there to tell them
			t.Error("of what weir env tells only this is found:", found)
		}
	}
	for _, path := range []string{"/certificates", "/authorizers/", "/authorizer/signed", "/provisioning-templates", "/policies/claim"} {
		_, text := raw(t, w, d.key, "iot", "GET", path, nil)
		answers["AWS "+path] = []byte(text)
	}

	// Events, those of Weir among them.
	n := 0
	for _, filter := range []string{"#", "$aws/#"} {
		for _, l := range tail(t, w, control.TailOptions{Filter: filter, Last: 10_000}) {
			answers[fmt.Sprint("event ", l.Partition, ":", l.Seq, " on ", l.Topic)] = mustJSON(t, l)
			n++
		}
	}
	if n < 5 {
		t.Errorf("only %d events", n)
	}
	arguments := commandLines(t, d.e.PID)
	if python && len(arguments) < 2 {
		t.Error("the function's process is not seen", arguments)
	}
	for pid, line := range arguments {
		answers[fmt.Sprint("command line of ", pid)] = line
	}
	w.Stop()
	answers["log"] = log.Bytes()
	for _, word := range []string{"refused", "nobody"} { // it has something to tell
		if !bytes.Contains(answers["log"], []byte(word)) {
			t.Errorf("nothing %s in the log", word)
		}
	}
	for name, b := range answers {
		if found := s.in(b); len(found) > 0 {
			t.Errorf("%s: %s\n%.2000s", name, strings.Join(found, ", "), b)
		}
	}
	if len(s) < 18 {
		t.Errorf("%d kinds of secrets", len(s))
	}
	// Stored as plain text is only what has a file of its own.
	if err := filepath.WalkDir(dir, func(path string, f fs.DirEntry, err error) error {
		if err != nil || !f.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		info, err := f.Info()
		if err != nil {
			return err
		}
		for _, name := range s.in(b) {
			if own[name] != rel {
				t.Errorf("%s is in %s", name, rel)
			} else if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %o", rel, info.Mode().Perm())
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// commandLines returns the arguments of a process and of all that came from it.
func commandLines(t *testing.T, pid int) map[int][]byte {
	t.Helper()
	out := map[int][]byte{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Skip("no /proc here")
	}
	children := map[int][]int{}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		parent, _ := strconv.Atoi(fields[1])
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		children[parent] = append(children[parent], child)
	}
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", todo[0]))
		if err == nil {
			out[todo[0]] = b
		}
		todo = append(todo, children[todo[0]]...)
	}
	return out
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
