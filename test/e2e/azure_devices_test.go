package e2e

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"

	"github.com/weir-iot/weir/ingest/azure"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/weirtest"
)

// certificate makes a key and a certificate of it for a common name, signed by
// the issuer or, where there is none, by itself.
func certificate(t *testing.T, name string, issuer *tls.Certificate) tls.Certificate {
	t.Helper()
	key := ecKey(t)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	parent, signer := template, any(key)
	if issuer != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey
	} else if name == "authority" {
		template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func pems(t *testing.T, c tls.Certificate) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(c.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})),
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

func thumbprint(c tls.Certificate) string {
	sum := sha1.Sum(c.Certificate[0])
	return hex.EncodeToString(sum[:])
}

// refusal connects and expects to be refused.
func refusal(t *testing.T, what string, o mqttclient.Options) {
	t.Helper()
	c, err := mqttclient.Connect(t.Context(), o)
	if err == nil {
		c.Abort()
		t.Errorf("%s: is let in", what)
		return
	}
	var r *mqttclient.ReasonError
	if !errors.As(err, &r) {
		t.Errorf("%s: %v", what, err)
	}
}

// Certificates say who a device is: by thumbprint, or by an authority that is
// registered and active.
func TestAzureCertificates(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	with := func(id string, c tls.Certificate) mqttclient.Options {
		o := h.options(id, "AAAA")
		o.Password = ""
		o.TLS.Certificates = []tls.Certificate{c}
		return o
	}
	own, other := certificate(t, "x1", nil), certificate(t, "x1", nil)
	h.must(200, azure.Owner, "PUT", "/devices/x1", `{"deviceId":"x1","authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"`+thumbprint(other)+`","secondaryThumbprint":"`+thumbprint(own)+`"}}}`)
	c := w.Connect(with("x1", own))
	if err := c.Publish(t.Context(), &mqttclient.Message{Topic: "devices/x1/messages/events/", Payload: []byte("x"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	refusal(t, "another certificate", with("x1", certificate(t, "x1", nil)))
	refusal(t, "no certificate", func() mqttclient.Options { o := with("x1", own); o.TLS.Certificates = nil; return o }())
	h.must(200, azure.Owner, "PUT", "/devices/x1", `{"deviceId":"x1","authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"`+thumbprint(other)+`"}}}`, "If-Match", "*")
	<-c.Done() // its thumbprint is not the device's any more

	authority := certificate(t, "authority", nil)
	h.must(200, azure.Owner, "PUT", "/devices/ca1", `{"deviceId":"ca1","authentication":{"type":"certificateAuthority"}}`)
	leaf := certificate(t, "ca1", &authority)
	refusal(t, "of an authority that nobody knows", with("ca1", leaf))
	cert, _ := pems(t, authority)
	if _, err := sdk(t, w, nil).RegisterCACertificate(t.Context(), &iot.RegisterCACertificateInput{
		CaCertificate: aws.String(cert), SetAsActive: true, CertificateMode: "SNI_ONLY",
	}); err != nil {
		t.Fatal(err)
	}
	weirtest.Eventually(t, func() bool {
		c, err := mqttclient.Connect(t.Context(), with("ca1", leaf))
		if err != nil {
			return false
		}
		c.Abort()
		return true
	}, func() string { return "a certificate of a registered authority is refused" })
	refusal(t, "a certificate for another device", with("ca1", certificate(t, "ca2", &authority)))
	refusal(t, "one of another authority of that name", func() mqttclient.Options {
		a := certificate(t, "authority", nil)
		return with("ca1", certificate(t, "ca1", &a))
	}())
}

// Tokens run out, a second connection ends the first, and what is not of the
// dialect ends it too.
func TestAzureConnectionsEnd(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	key := h.device("dev1")
	for _, user := range []string{"localhost/dev1", "localhost/dev1/api-version=2016-11-14", "localhost/dev1/?api-version=2018-06-30&DeviceClientType=x%2F1"} {
		o := h.options("dev1", key)
		o.Username = user
		if err := w.Connect(o).Close(); err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
	ended := func(c *mqttclient.Client, what string) {
		t.Helper()
		select {
		case <-c.Done():
		case <-time.After(time.Minute):
			t.Errorf("%s: the connection stays", what)
		}
	}
	first := w.Connect(h.options("dev1", key))
	o := h.options("dev1", key)
	o.Password = deviceToken(t, "dev1", key, 2*time.Second)
	second := w.Connect(o)
	ended(first, "taken over")
	ended(second, "the token has expired")
	refusal(t, "with a token that has expired", o)
	five := h.options("dev1", key)
	five.Version = 5
	refusal(t, "MQTT 5", five)

	third := w.Connect(h.options("dev1", key))
	for _, regenerate := range []string{"primary", "secondary"} { // the second one leaves the first key
		var d map[string]any
		decode(t, h.must(200, azure.Owner, "GET", "/devices/dev1", nil), &d)
		keys := d["authentication"].(map[string]any)["symmetricKey"].(map[string]any)
		if regenerate == "primary" {
			keys["primaryKey"], keys["secondaryKey"] = keys["secondaryKey"], keys["primaryKey"] // rolled: the token's key is the secondary now
		} else {
			keys["secondaryKey"] = keys["primaryKey"] // and now it is none
		}
		h.must(200, azure.Owner, "PUT", "/devices/dev1", d, "If-Match", "*")
		if regenerate == "primary" {
			if err := third.Publish(t.Context(), &mqttclient.Message{Topic: "devices/dev1/messages/events/", QoS: 1}); err != nil {
				t.Errorf("the secondary key does not count: %v", err)
			}
		}
	}
	ended(third, "its key is gone")
	fourth := w.Connect(h.options("dev1", h.key("dev1")))
	h.must(200, azure.Owner, "PUT", "/devices/dev1", `{"deviceId":"dev1","status":"disabled"}`, "If-Match", "*")
	ended(fourth, "disabled")
}

// An AWS device has no way to what is Azure's without a policy that says so, nor
// does its certificate make it one of Azure's.
func TestAzureOutOfReachOfAWS(t *testing.T) {
	e := startEnrolment(t)
	h := newHub(t, e.Weir)
	h.device("dev1")
	conf := e.TLS()
	conf.Certificates = []tls.Certificate{e.claim}
	o := mqttclient.Options{Addr: e.Endpoints().MQTTS, TLS: conf, ClientID: "claim"}
	for _, f := range []string{"devices/dev1/messages/events", "devices/#", "$azure/#", "$iothub/twin/res/#", "$iothub/methods/POST/#", "devices/dev1/messages/devicebound/#"} {
		c := e.Connect(o)
		if c.Subscribe(t.Context(), 1, f) == nil {
			t.Errorf("subscribed to %s", f)
		}
		c.Abort()
	}
	for _, topic := range []string{"devices/dev1/messages/events", "devices/dev1/messages/events/", "$azure/devices/dev1/c2d", "$azure/devices/dev1/feedback", "$iothub/twin/GET/?$rid=1"} {
		c := e.Connect(o)
		if c.Publish(t.Context(), &mqttclient.Message{Topic: topic, Payload: []byte("x"), QoS: 1}) == nil {
			t.Errorf("published on %s", topic)
		}
		c.Abort()
	}
	o.ClientID, o.Version, o.Username = "dev1", 4, "localhost/dev1/?api-version=2021-04-12"
	refusal(t, "an AWS certificate as an Azure device", o)
}

// Microsoft's device client with a certificate, and as a module of a device.
func TestAzureSDKModuleAndCertificate(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	w := weirtest.Start(t)
	h := newHub(t, w)
	x := certificate(t, "x1", nil)
	cert, key := pems(t, x)
	h.must(200, azure.Owner, "PUT", "/devices/x1", `{"deviceId":"x1","authentication":{"type":"selfSigned","x509Thumbprint":{"primaryThumbprint":"`+thumbprint(x)+`"}}}`)
	sub := w.Subscribe("devices/+/messages/events", "devices/+/modules/+/messages/events")
	const script = `
const {Client: Device, ModuleClient, Message} = require('azure-iot-device')
const {Mqtt, MqttWs} = require('azure-iot-device-mqtt')
const {Registry, Client: Service} = require('azure-iothub')
const [hub, cert, key] = process.argv.slice(1)
const registry = Registry.fromConnectionString(hub), service = Service.fromConnectionString(hub)
const until = async (what, f) => { for (let i = 0; i < 600; i++) { const v = await f(); if (v) return v; await new Promise(r => setTimeout(r, 50)) } throw new Error('never: ' + what) }
;(async () => {
  const x = Device.fromConnectionString('HostName=localhost;DeviceId=x1;x509=true', Mqtt)
  await x.setOptions({ca, cert, key})
  await x.open()
  await x.sendEvent(new Message('by certificate'))
  await x.close()

  await registry.create({deviceId: 'd1'})
  const made = (await registry.addModule({deviceId: 'd1', moduleId: 'm1'})).responseBody
  const m = ModuleClient.fromConnectionString('HostName=localhost;DeviceId=d1;ModuleId=m1;SharedAccessKey=' + made.authentication.symmetricKey.primaryKey, Mqtt)
  await m.setOptions({ca})
  await m.open()
  await m.sendEvent(new Message('by module'))
  const twin = await m.getTwin(), desired = []
  twin.on('properties.desired', (d) => desired.push(d))
  await new Promise((ok, no) => twin.properties.reported.update({fw: 2}, (e) => e ? no(e) : ok()))
  const st = (await registry.getModuleTwin('d1', 'm1')).responseBody
  assert.equal(st.properties.reported.fw, 2); assert.equal(st.moduleId, 'm1'); assert.equal(st.connectionState, 'Connected')
  await registry.updateModuleTwin('d1', 'm1', {properties: {desired: {on: true}}}, st.etag)
  await until('desired', () => desired.some(d => d.on === true))
  m.onMethod('blink', (req, res) => res.send(200, {n: req.payload.n + 1}, () => {}))
  const r = await until('method', async () => { try { return (await service.invokeDeviceMethod('d1', 'm1', {methodName: 'blink', payload: {n: 1}, responseTimeoutInSeconds: 30})).result } catch (e) { if (/online|404/.test(e.message + e.name)) return null; throw e } })
  assert.deepEqual(r.payload, {n: 2})
  const q = (await registry.createQuery("SELECT deviceId, moduleId FROM devices.modules WHERE properties.reported.fw = 2").next()).result
  assert.deepEqual(q, [{deviceId: 'd1', moduleId: 'm1'}])
  await m.close()
  console.log('done'); process.exit(0)
})()
`
	if out := azureNode(t, w, script, h.connection(azure.Owner).String(), cert, key); !strings.Contains(out, "done") {
		t.Fatal(out)
	}
	for _, want := range []string{"devices/x1/messages/events by certificate x1/", "devices/d1/modules/m1/messages/events by module d1/m1"} {
		m := sub.Next()
		device, module := "", ""
		for _, u := range m.User {
			switch u.Key {
			case "iothub-connection-device-id":
				device = u.Val
			case "iothub-connection-module-id":
				module = u.Val
			}
		}
		if got := m.Topic + " " + string(m.Payload) + " " + device + "/" + module; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// paho over WebSocket with a token made by hand, and a QoS 2 publish, which ends
// the connection.
func TestAzurePahoWebSocket(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	w := weirtest.Start(t)
	h := newHub(t, w)
	key := h.device("ws")
	sub := w.Subscribe("devices/ws/messages/events")
	const script = `
import base64, hmac, hashlib, ssl, sys, threading, time, urllib.parse
from paho.mqtt import client as mqtt
key, ca, port = sys.argv[1:]
sr, se = urllib.parse.quote("localhost/devices/ws", safe=""), str(int(time.time()) + 600)
sig = base64.b64encode(hmac.new(base64.b64decode(key), (sr + "\n" + se).encode(), hashlib.sha256).digest())
token = "SharedAccessSignature sr=%s&sig=%s&se=%s" % (sr, urllib.parse.quote(sig, safe=""), se)
client = mqtt.Client(client_id="ws", protocol=mqtt.MQTTv311, transport="websockets")
client.ws_set_options(path="/$iothub/websocket?iothub-no-client-cert=true")
client.username_pw_set("localhost/ws/?api-version=2021-04-12", token)
client.tls_set(ca_certs=ca, tls_version=ssl.PROTOCOL_TLS_CLIENT)
granted, ended = [], threading.Event()
client.on_subscribe = lambda c, u, mid, qos: granted.extend(qos)
client.on_disconnect = lambda c, u, rc: ended.set()
client.connect("localhost", port=int(port))
client.loop_start()
m = client.publish("devices/ws/messages/events/", "over WebSocket", qos=1)
m.wait_for_publish(30)
assert m.is_published()
client.subscribe("devices/ws/messages/devicebound/#", qos=2)
for _ in range(300):
    if granted: break
    time.sleep(0.1)
assert granted == [1], granted
client.publish("devices/ws/messages/events/", "twice", qos=2)
assert ended.wait(30)
print("done")
`
	script2 := filepath.Join(t.TempDir(), "ws.py")
	if err := os.WriteFile(script2, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "/usr/bin/python3", script2, key, w.Endpoints().CAFile, port(w.Endpoints().HTTPS)).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "done") {
		t.Fatalf("/usr/bin/python3 with paho (Debian: python3-paho-mqtt): %v\n%s", err, out)
	}
	if m := sub.Next(); string(m.Payload) != "over WebSocket" {
		t.Errorf("%s", m.Payload)
	}
}
