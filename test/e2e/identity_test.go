package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/weir-iot/weir/control"
	"github.com/weir-iot/weir/internal/server"
	"github.com/weir-iot/weir/test/weirtest"
)

// identity is a Weir with an owner's access key and two custom authorizers: open,
// and signed, which wants signed tokens.
type identity struct {
	*weirtest.Weir
	t         *testing.T
	e         server.Endpoints
	key       control.OwnerKey
	token     string
	signature string

	mu     sync.Mutex
	events []string // what the function was told, newest last
}

func startIdentity(t *testing.T) *identity {
	t.Helper()
	return identityOf(t, weirtest.Start)
}

func identityOf(t *testing.T, start func(testing.TB, ...weirtest.Option) *weirtest.Weir, opts ...weirtest.Option) *identity {
	t.Helper()
	if testing.Short() {
		t.Skip("other people's programs")
	}
	d := &identity{t: t, token: "token+/= of the test"}
	lambda := httptest.NewServer(http.HandlerFunc(d.invoke))
	t.Cleanup(lambda.Close)
	t.Setenv("AWS_ENDPOINT_URL_LAMBDA", lambda.URL)
	d.Weir = start(t, append(opts, weirtest.Key("listen.mqtts", "localhost:0"), weirtest.Key("listen.https", "localhost:0"), weirtest.Key("listen.mux", "localhost:0"),
		weirtest.Key("safety.failed_logins", "10000"))...)
	d.e = d.Endpoints()
	var err error
	if d.key, err = control.ReadAccessKey(d.e.AccessKeyFile); err != nil {
		t.Fatal(err)
	}
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(d.token))
	sig, err := rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	d.signature = base64.StdEncoding.EncodeToString(sig)
	const function = "arn:aws:lambda:us-east-1:123456789012:function:vouch"
	d.api("POST", "/authorizer/open", map[string]any{"authorizerFunctionArn": function, "signingDisabled": true, "status": "ACTIVE"})
	d.api("POST", "/authorizer/signed", map[string]any{"authorizerFunctionArn": function, "status": "ACTIVE", "tokenKeyName": "the-token",
		"tokenSigningPublicKeys": map[string]string{"k": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}})
	return d
}

// api calls the control plane with the owner's key.
func (d *identity) api(method, path string, body any) {
	d.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		d.t.Fatal(err)
	}
	r, err := http.NewRequest(method, d.e.API+path, bytes.NewReader(b))
	if err != nil {
		d.t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	if err := v4.NewSigner().SignHTTP(d.t.Context(), aws.Credentials{AccessKeyID: d.key.ID, SecretAccessKey: d.key.Secret}, r, hex.EncodeToString(sum[:]), "iot", "us-east-1", time.Now()); err != nil {
		d.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	if text, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		d.t.Fatalf("%s %s: %s %s", method, path, res.Status, text)
	}
}

// invoke is the Invoke API of Lambda with one function: it lets in who has the
// password "letmein" or a verified token.
func (d *identity) invoke(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	d.mu.Lock()
	d.events = append(d.events, string(b))
	d.mu.Unlock()
	var e struct {
		Token    string
		Verified bool `json:"signatureVerified"`
		Data     struct {
			MQTT struct {
				Username string
				Password []byte
			}
			HTTP struct{ Headers map[string]string }
		} `json:"protocolData"`
	}
	if err := json.Unmarshal(b, &e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ok := string(e.Data.MQTT.Password) == "letmein" || e.Data.HTTP.Headers["password"] == "letmein" || e.Verified && e.Token == d.token
	fmt.Fprintf(w, `{"isAuthenticated":%t,"principalId":"vouched","disconnectAfterInSeconds":86400,"refreshAfterInSeconds":300,"policyDocuments":[
		{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Action":"iot:Connect","Resource":"*"},
			{"Effect":"Allow","Action":["iot:Publish","iot:Receive"],"Resource":"arn:aws:iot:us-east-1:123456789012:topic/clients/*"},
			{"Effect":"Allow","Action":"iot:Subscribe","Resource":"arn:aws:iot:us-east-1:123456789012:topicfilter/clients/*"}]}]}`, ok)
}

// lastEvent returns what the function was told last.
func (d *identity) lastEvent() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.events) == 0 {
		return ""
	}
	return d.events[len(d.events)-1]
}

// args are the arguments the scripts of clients begin with.
func (d *identity) args(more ...string) []string {
	return append([]string{port(d.e.MQTTS), port(d.e.Mux), d.e.CAFile, d.e.CertFile, d.e.KeyFile, d.key.ID, d.key.Secret, d.token, d.signature}, more...)
}

// The AWS IoT Device SDK v2 for JavaScript in every way it can connect, with MQTT
// 3.1.1 and 5. Each connection subscribes, publishes at QoS 1 and gets its own
// message back; those that must be refused are.
func TestDeviceSDKv2Connects(t *testing.T) {
	d := startIdentity(t)
	out := node(t, `
const {mqtt, mqtt5, iot, auth} = require('aws-iot-device-sdk-v2')
const {once} = require('events')
const assert = require('assert').strict
const [mqtts, mux, ca, cert, key, id, secret, token, signature] = process.argv.slice(1)
setTimeout(() => { console.error('no end'); process.exit(1) }, 55000).unref()
const B = iot.AwsIotMqttConnectionConfigBuilder, B5 = iot.AwsIotMqtt5ClientConfigBuilder
const provider = auth.AwsCredentialsProvider.newStatic(id, secret)
const builders3 = {
  'mTLS 8883': () => B.new_mtls_builder_from_path(cert, key).with_port(+mqtts),
  'mTLS 443': () => B.new_mtls_builder_from_path(cert, key).with_port(+mux),
  'WSS SigV4': () => B.new_with_websockets({region: 'us-east-1', credentials_provider: provider}).with_port(+mux),
  'custom, password': () => B.new_default_builder().with_custom_authorizer('user', 'open', '', 'letmein').with_port(+mux),
  'custom, signed token': () => B.new_default_builder().with_custom_authorizer('', 'signed', encodeURIComponent(signature), '', 'the-token', encodeURIComponent(token)).with_port(+mux),
  'custom, WSS': () => B.new_builder_for_websocket().with_custom_authorizer('user', 'open', '', 'letmein').with_port(+mux),
  'no custom, password': () => B.new_default_builder().with_custom_authorizer('user', 'open', '', 'wrong').with_port(+mux),
  'no custom, other token': () => B.new_default_builder().with_custom_authorizer('', 'signed', encodeURIComponent(signature), '', 'the-token', 'other').with_port(+mux),
  'no WSS SigV4': () => B.new_with_websockets({region: 'us-east-1', credentials_provider: auth.AwsCredentialsProvider.newStatic(id, secret + 'x')}).with_port(+mux),
  'no WSS SigV4, region': () => B.new_with_websockets({region: 'eu-west-1', credentials_provider: provider}).with_port(+mux),
}
const builders5 = {
  'mTLS 8883': () => B5.newDirectMqttBuilderWithMtlsFromPath('localhost', cert, key).withPort(+mqtts),
  'mTLS 443': () => B5.newDirectMqttBuilderWithMtlsFromPath('localhost', cert, key).withPort(+mux),
  'WSS SigV4': () => B5.newWebsocketMqttBuilderWithSigv4Auth('localhost', {region: 'us-east-1', credentialsProvider: provider}).withPort(+mux),
  'custom, password': () => B5.newDirectMqttBuilderWithCustomAuth('localhost', {authorizerName: 'open', username: 'user', password: Buffer.from('letmein')}).withPort(+mux),
  'custom, signed token': () => B5.newDirectMqttBuilderWithCustomAuth('localhost', {authorizerName: 'signed', tokenKeyName: 'the-token', tokenValue: encodeURIComponent(token), tokenSignature: encodeURIComponent(signature)}).withPort(+mux),
  'custom, WSS': () => B5.newWebsocketMqttBuilderWithCustomAuth('localhost', {authorizerName: 'open', username: 'user', password: Buffer.from('letmein')}).withPort(+mux),
  'no custom, password': () => B5.newDirectMqttBuilderWithCustomAuth('localhost', {authorizerName: 'open', username: 'user', password: Buffer.from('wrong')}).withPort(+mux),
  'no WSS SigV4': () => B5.newWebsocketMqttBuilderWithSigv4Auth('localhost', {region: 'us-east-1', credentialsProvider: auth.AwsCredentialsProvider.newStatic(id, secret + 'x')}).withPort(+mux),
}
let n = 0
async function three(name, builder) {
  const topic = 'clients/three/' + ++n
  const c = new mqtt.MqttClient().new_connection(builder().with_certificate_authority_from_path(undefined, ca).with_endpoint('localhost').with_client_id('three' + n).with_clean_session(true).build())
  if (name.startsWith('no ')) { await assert.rejects(c.connect(), name); return }
  await c.connect()
  const got = new Promise(f => c.subscribe(topic, mqtt.QoS.AtLeastOnce, (t, p) => f(Buffer.from(p).toString())))
  await c.subscribe(topic + '/more', mqtt.QoS.AtLeastOnce)
  await c.publish(topic, 'hello ' + n, mqtt.QoS.AtLeastOnce)
  assert.equal(await got, 'hello ' + n)
  await c.disconnect()
}
async function five(name, builder) {
  const topic = 'clients/five/' + ++n
  const c = new mqtt5.Mqtt5Client(builder().withCertificateAuthorityFromPath(undefined, ca).withConnectProperties({clientId: 'five' + n, keepAliveIntervalSeconds: 60}).build())
  const outcome = new Promise((ok, no) => { c.on('connectionSuccess', ok); c.on('connectionFailure', e => no(e)) })
  c.start()
  if (name.startsWith('no ')) await assert.rejects(outcome, name)
  else {
    await outcome
    const got = new Promise(f => c.on('messageReceived', e => f(Buffer.from(e.message.payload).toString())))
    await c.subscribe({subscriptions: [{topicFilter: topic, qos: mqtt5.QoS.AtLeastOnce}]})
    await c.publish({topicName: topic, qos: mqtt5.QoS.AtLeastOnce, payload: 'hello ' + n})
    assert.equal(await got, 'hello ' + n)
  }
  const stopped = once(c, 'stopped')
  c.stop(); await stopped; c.close()
}
async function main() {
  for (const [name, b] of Object.entries(builders3)) { await three(name, b).catch(e => { throw new Error('3.1.1, ' + name + ': ' + e) }); console.log('3.1.1, ' + name) }
  for (const [name, b] of Object.entries(builders5)) { await five(name, b).catch(e => { throw new Error('5, ' + name + ': ' + (e.error || e) + ' ' + JSON.stringify(e.connack || '')) }); console.log('5, ' + name) }
  console.log('all done')
  process.exit(0)
}
main().catch(e => { console.error(e); process.exit(1) })
`, d.args()...)
	if !strings.Contains(out, "all done") {
		t.Error(out)
	}
	// What the SDK says of itself is no business of the function's.
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.events {
		if strings.Contains(e, "SDK=") || strings.Contains(e, "Metadata=") {
			t.Errorf("the function was told %s", e)
		}
	}
}

// The AWS IoT Device SDK v1 for JavaScript: certificates on both ports, WSS with
// Signature Version 4 and with a custom authorizer.
func TestDeviceSDKv1Connects(t *testing.T) {
	d := startIdentity(t)
	t.Setenv("NODE_EXTRA_CA_CERTS", d.e.CAFile)
	out := node(t, `
const {device} = require('aws-iot-device-sdk')
const [mqtts, mux, ca, cert, key, id, secret, token, signature] = process.argv.slice(1)
setTimeout(() => { console.error('no end'); process.exit(1) }, 55000).unref()
const ways = {
  'mTLS 8883': {protocol: 'mqtts', port: +mqtts, keyPath: key, certPath: cert, caPath: ca},
  'mTLS 443': {protocol: 'mqtts', port: +mux, keyPath: key, certPath: cert, caPath: ca, ALPNProtocols: ['x-amzn-mqtt-ca']},
  'WSS SigV4': {protocol: 'wss', port: +mux, region: 'us-east-1', accessKeyId: id, secretKey: secret},
  'WSS SigV4, empty token': {protocol: 'wss', port: +mux, region: 'us-east-1', accessKeyId: id, secretKey: secret, sessionToken: ''},
  'WSS custom': {protocol: 'wss-custom-auth', port: +mux, region: 'us-east-1', customAuthHeaders: {'X-Amz-CustomAuthorizer-Name': 'signed', 'X-Amz-CustomAuthorizer-Signature': signature, 'the-token': token}},
  'WSS custom in URL': {protocol: 'wss-custom-auth', port: +mux, region: 'us-east-1', customAuthQueryString: '?x-amz-customauthorizer-name=signed&x-amz-customauthorizer-signature=' + encodeURIComponent(signature) + '&the-token=' + encodeURIComponent(token)},
  'no WSS SigV4': {protocol: 'wss', port: +mux, region: 'us-east-1', accessKeyId: id, secretKey: secret + 'x'},
  'no WSS custom': {protocol: 'wss-custom-auth', port: +mux, region: 'us-east-1', customAuthHeaders: {'X-Amz-CustomAuthorizer-Name': 'signed', 'X-Amz-CustomAuthorizer-Signature': signature, 'the-token': 'other'}},
}
let n = 0
function run(name, o) {
  return new Promise((ok, no) => {
    const topic = 'clients/v1/' + ++n
    const c = device(Object.assign({host: 'localhost', clientId: 'v1-' + n}, o))
    const refused = name.startsWith('no ')
    let ended = false
    const end = f => { if (!ended) { ended = true; c.end(true); f() } }
    c.on('error', e => end(() => refused ? ok() : no(new Error(name + ': ' + e))))
    c.on('close', () => end(() => refused ? ok() : no(new Error(name + ': closed'))))
    c.on('connect', () => { if (refused) return end(() => no(new Error(name + ': let in'))); c.subscribe(topic, {qos: 1}, e => { if (e) no(e); c.publish(topic, 'hello', {qos: 1}) }) })
    c.on('message', (t, p) => end(ok))
  }).then(() => console.log(name))
}
(async () => { for (const [name, o] of Object.entries(ways)) await run(name, o); console.log('all done'); process.exit(0) })().catch(e => { console.error(e); process.exit(1) })
`, d.args()...)
	if !strings.Contains(out, "all done") {
		t.Error(out)
	}
	if e := d.lastEvent(); !strings.Contains(e, `"signatureVerified":true`) || !strings.Contains(e, `"http"`) {
		t.Errorf("the function was told %s", e)
	}
}

// mqtt.js by ALPN name, and over WebSocket with a presigned URL and with a custom
// authorizer in the URL, in CONNECT and in headers.
func TestMQTTJSOnThePortForAll(t *testing.T) {
	d := startIdentity(t)
	r, err := http.NewRequest(http.MethodGet, "wss://localhost:"+port(d.e.Mux)+"/mqtt?X-Amz-Expires=300", nil)
	if err != nil {
		t.Fatal(err)
	}
	empty := sha256.Sum256(nil)
	presigned, _, err := v4.NewSigner().PresignHTTP(t.Context(), aws.Credentials{AccessKeyID: d.key.ID, SecretAccessKey: d.key.Secret}, r, hex.EncodeToString(empty[:]), "iotdevicegateway", "us-east-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	out := node(t, `
const mqtt = require('mqtt'), fs = require('fs')
const [mqtts, mux, ca, cert, key, id, secret, token, signature, presigned] = process.argv.slice(1)
setTimeout(() => { console.error('no end'); process.exit(1) }, 55000).unref()
const tls = {cert: fs.readFileSync(cert), key: fs.readFileSync(key)}
const user = 'user?x-amz-customauthorizer-name=open', wss = 'wss://localhost:' + mux + '/mqtt'
const q = 'x-amz-customauthorizer-name=signed&x-amz-customauthorizer-signature=' + encodeURIComponent(signature) + '&the-token=' + encodeURIComponent(token)
const ways = {
  'certificate': ['mqtts://localhost:' + mux, {...tls, ALPNProtocols: ['x-amzn-mqtt-ca']}],
  'custom': ['mqtts://localhost:' + mux, {ALPNProtocols: ['mqtt'], username: user, password: 'letmein'}],
  'custom token': ['mqtts://localhost:' + mux, {ALPNProtocols: ['mqtt'], username: '?' + q}],
  'WSS presigned': [presigned, {}],
  'WSS presigned again': [presigned, {}],
  'WSS custom in CONNECT': [wss, {username: user, password: 'letmein'}],
  'WSS custom in URL': [wss + '?' + q, {}],
  'WSS custom in headers': [wss, {wsOptions: {headers: {'x-amz-customauthorizer-name': 'open', password: 'letmein'}}}],
  'no certificate without ALPN': ['mqtts://localhost:' + mux, tls],
  'no certificate as custom': ['mqtts://localhost:' + mux, {...tls, ALPNProtocols: ['mqtt']}],
  'no custom as certificate': ['mqtts://localhost:' + mux, {ALPNProtocols: ['x-amzn-mqtt-ca'], username: user, password: 'letmein'}],
  'no custom on 8883': ['mqtts://localhost:' + mqtts, {username: user, password: 'letmein'}],
  'no WSS without anything': [wss, {}],
  'no WSS, changed': [presigned + '0', {}],
}
let n = 0
function run(name, url, o, version) {
  return new Promise((ok, no) => {
    const topic = 'clients/js/' + ++n, refused = name.startsWith('no ')
    const c = mqtt.connect(url, {ca: fs.readFileSync(ca), servername: 'localhost', clientId: 'js' + n, reconnectPeriod: 0, connectTimeout: 20000, protocolVersion: version, ...o})
    let ended = false
    const end = f => { if (!ended) { ended = true; c.end(true); f() } }
    c.on('error', e => end(() => refused ? ok() : no(new Error(name + ': ' + e.message))))
    c.on('close', () => end(() => refused ? ok() : no(new Error(name + ': closed'))))
    c.on('connect', () => { if (refused) return end(() => no(new Error(name + ': let in'))); c.subscribe(topic, {qos: 1}, e => { if (e) no(e); c.publish(topic, 'hello', {qos: 1}) }) })
    c.on('message', () => end(ok))
  })
}
(async () => { for (const v of [4, 5]) for (const [name, [url, o]] of Object.entries(ways)) { await run(name, url, o, v); console.log(v, name) } console.log('all done'); process.exit(0) })().catch(e => { console.error(e); process.exit(1) })
`, d.args(presigned)...)
	if !strings.Contains(out, "all done") {
		t.Error(out)
	}
}

// mosquitto by the ALPN names of the one port.
func TestMosquittoOnThePortForAll(t *testing.T) {
	pub := tool(t, "mosquitto_pub", "mosquitto-clients")
	d := startIdentity(t)
	base := []string{"-h", "localhost", "-p", port(d.e.Mux), "--cafile", d.e.CAFile, "-q", "1", "-t", "clients/m", "-m", "x"}
	certificate := []string{"--cert", d.e.CertFile, "--key", d.e.KeyFile}
	for name, c := range map[string]struct {
		args []string
		ok   bool
	}{
		"certificate":            {append([]string{"--tls-alpn", "x-amzn-mqtt-ca"}, certificate...), true},
		"custom":                 {[]string{"--tls-alpn", "mqtt", "-u", "u?x-amz-customauthorizer-name=open", "-P", "letmein"}, true},
		"wrong password":         {[]string{"--tls-alpn", "mqtt", "-u", "u?x-amz-customauthorizer-name=open", "-P", "wrong"}, false},
		"certificate, no ALPN":   {certificate, false},
		"certificate, ALPN mqtt": {append([]string{"--tls-alpn", "mqtt"}, certificate...), false},
	} {
		for _, version := range []string{"mqttv311", "mqttv5"} {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			out, err := exec.CommandContext(ctx, pub, append(append([]string{"-V", version}, base...), c.args...)...).CombinedOutput()
			cancel()
			if (err == nil) != c.ok {
				t.Errorf("%s %s: %v %s", name, version, err, out)
			}
		}
	}
}

// curl publishes with certificates, with Signature Version 4 and with a custom
// authorizer; and what must be refused is, with AWS's words.
func TestCurl(t *testing.T) {
	curl := tool(t, "curl", "curl")
	d := startIdentity(t)
	certificate := []string{"--cert", d.e.CertFile, "--key", d.e.KeyFile}
	sigv4 := func(scope, secret string) []string {
		return []string{"--aws-sigv4", "aws:amz:" + scope, "--user", d.key.ID + ":" + secret}
	}
	custom := func(kv ...string) (args []string) {
		for _, h := range kv {
			args = append(args, "-H", h)
		}
		return args
	}
	signed := custom("x-amz-customauthorizer-name: signed", "x-amz-customauthorizer-signature: "+d.signature, "the-token: "+d.token)
	for name, c := range map[string]struct {
		port string
		args []string
		want string
	}{
		"certificate, 8443":      {d.e.HTTPS, certificate, "200"},
		"certificate, 443":       {d.e.Mux, certificate, "403 MissingAuthenticationTokenException"}, // curl has no way to ask for the ALPN name
		"nothing, 8443":          {d.e.HTTPS, nil, "403 ForbiddenException"},
		"nothing, 443":           {d.e.Mux, nil, "403 MissingAuthenticationTokenException"},
		"SigV4":                  {d.e.Mux, sigv4("us-east-1:iotdata", d.key.Secret), "200"},
		"SigV4, device gateway":  {d.e.Mux, sigv4("us-east-1:iotdevicegateway", d.key.Secret), "200"},
		"SigV4, no ALPN":         {d.e.Mux, append(sigv4("us-east-1:iotdata", d.key.Secret), "--no-alpn"), "200"},
		"SigV4, region":          {d.e.Mux, sigv4("eu-west-1:iotdata", d.key.Secret), "403 InvalidSignatureException"},
		"SigV4, service":         {d.e.Mux, sigv4("us-east-1:s3", d.key.Secret), "403 InvalidSignatureException"},
		"SigV4, secret":          {d.e.Mux, sigv4("us-east-1:iotdata", d.key.Secret+"x"), "403 InvalidSignatureException"},
		"SigV4, 8443":            {d.e.HTTPS, sigv4("us-east-1:iotdata", d.key.Secret), "403 UnrecognizedClientException"},
		"custom, signed token":   {d.e.Mux, signed, "200"},
		"custom, password":       {d.e.Mux, custom("x-amz-customauthorizer-name: open", "password: letmein"), "200"},
		"custom, wrong password": {d.e.Mux, custom("x-amz-customauthorizer-name: open", "password: x"), "403 ForbiddenException"},
		"custom, 8443":           {d.e.HTTPS, custom("x-amz-customauthorizer-name: open", "password: letmein"), "403 ForbiddenException"},
	} {
		for _, family := range []string{"-4", "-6"} {
			if family == "-6" && !hasIPv6() {
				continue
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			args := append([]string{"-s", family, "--cacert", d.e.CAFile, "-d", "hello", "-D", "-", "https://localhost:" + port(c.port) + "/topics/clients/curl?qos=1"}, c.args...)
			out, err := exec.CommandContext(ctx, curl, args...).CombinedOutput()
			cancel()
			text := string(out)
			status, kind, _ := strings.Cut(c.want, " ")
			if err != nil || !strings.HasPrefix(text, "HTTP/1.1 "+status) || !strings.Contains(strings.ToLower(text), "x-amzn-requestid: ") || kind != "" && !strings.Contains(text, kind) {
				t.Errorf("%s %s: %v %s", name, family, err, text)
			}
			if strings.Contains(text, d.key.Secret) || strings.Contains(text, d.token) {
				t.Errorf("%s: a secret in the answer", name)
			}
		}
	}
	// A presigned URL of the SDK's, as curl is given it.
	r, err := http.NewRequest(http.MethodPost, "https://localhost:"+port(d.e.Mux)+"/topics/"+url.PathEscape("clients/presigned a")+"?qos=1&X-Amz-Expires=60", nil)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("hello"))
	presigned, _, err := v4.NewSigner().PresignHTTP(t.Context(), aws.Credentials{AccessKeyID: d.key.ID, SecretAccessKey: d.key.Secret}, r, hex.EncodeToString(sum[:]), "iotdata", "us-east-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]string{"hello": "200", "other": "403"} {
		out, err := exec.CommandContext(t.Context(), curl, "-s", "--cacert", d.e.CAFile, "-d", body, "-o", "/dev/null", "-w", "%{http_code}", presigned).CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("presigned, body %s: %v %s", body, err, out)
		}
	}
	// Keep-alive: three requests, one connection.
	base := "https://localhost:" + port(d.e.HTTPS) + "/topics/clients%2Fcurl"
	out, err := exec.CommandContext(t.Context(), curl, append([]string{"-s", "-v", "--cacert", d.e.CAFile, "-d", "x", base, base, base}, certificate...)...).CombinedOutput()
	if err != nil || strings.Count(string(out), "Re-using existing connection") != 2 || strings.Count(string(out), "< HTTP/1.1 200") != 3 {
		t.Errorf("keep-alive: %v %s", err, out)
	}
}

// python3-awscrt, the library under AWS's SDKs for Python: certificates by ALPN
// name and on 8883, and WSS that it signs.
func TestPythonCRT(t *testing.T) {
	python := "/usr/bin/python3" // Debian's, which has Debian's packages
	if out, err := exec.Command(python, "-c", "import awscrt.mqtt").CombinedOutput(); err != nil {
		if testing.Short() {
			t.Skip("other people's programs")
		}
		t.Fatalf("python3-awscrt is not installed (Debian: apt-get install python3-awscrt; `go tool task packages` installs it): %v\n%s", err, out)
	}
	d := startIdentity(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, python, append([]string{"-c", `
import sys, threading
from awscrt import io, mqtt, auth, http
mqtts, mux, ca, cert, key, kid, secret, token, signature = sys.argv[1:10]
group = io.EventLoopGroup(1)
boot = io.ClientBootstrap(group, io.DefaultHostResolver(group))
def options(alpn=None, mtls=False):
    o = io.TlsContextOptions.create_client_with_mtls_from_path(cert, key) if mtls else io.TlsContextOptions()
    o.override_default_trust_store_from_path(None, ca)
    if alpn: o.alpn_list = [alpn]
    return io.ClientTlsContext(o)
def transform(secret, region='us-east-1'):
    provider = auth.AwsCredentialsProvider.new_static(kid, secret)
    def sign(transform_args, **kw):
        config = auth.AwsSigningConfig(algorithm=auth.AwsSigningAlgorithm.V4, signature_type=auth.AwsSignatureType.HTTP_REQUEST_QUERY_PARAMS,
            credentials_provider=provider, region=region, service='iotdevicegateway', omit_session_token=True)
        f = auth.aws_sign_request(transform_args.http_request, config)
        f.add_done_callback(lambda f: transform_args.set_done(f.exception()))
    return sign
def connect(name, port, tls, **kw):
    c = mqtt.Connection(client=mqtt.Client(boot, tls), host_name='localhost', port=int(port), client_id='py-' + name.replace(' ', ''), clean_session=True, **kw)
    if name.startswith('no '):
        try: c.connect().result(20)
        except Exception as e: print(name, 'refused', e); return
        raise Exception(name + ': let in')
    c.connect().result(20)
    got = threading.Event()
    topic = 'clients/py/' + name.replace(' ', '')
    c.subscribe(topic, mqtt.QoS.AT_LEAST_ONCE, lambda **k: got.set())[0].result(20)
    c.publish(topic, 'hello', mqtt.QoS.AT_LEAST_ONCE)[0].result(20)
    assert got.wait(20), name
    c.disconnect().result(20)
    print(name)
connect('mTLS 8883', mqtts, options(mtls=True))
connect('mTLS 443', mux, options('x-amzn-mqtt-ca', True))
connect('WSS SigV4', mux, options(), use_websockets=True, websocket_handshake_transform=transform(secret))
connect('custom', mux, options('mqtt'), username='user?SDK=PythonV2&x-amz-customauthorizer-name=open', password='letmein')
connect('no WSS SigV4', mux, options(), use_websockets=True, websocket_handshake_transform=transform(secret + 'x'))
connect('no WSS SigV4 region', mux, options(), use_websockets=True, websocket_handshake_transform=transform(secret, 'eu-west-1'))
connect('no mTLS without ALPN', mux, options(mtls=True))
connect('no custom', mux, options('mqtt'), username='user?x-amz-customauthorizer-name=open', password='wrong')
print('all done')
`}, d.args()...)...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "all done") {
		t.Errorf("%v\n%s", err, out)
	}
}

func hasIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		return false
	}
	return l.Close() == nil
}
