package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/ingest/azure"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/internal/server"
	"github.com/weir-iot/weir/test/npm"
	"github.com/weir-iot/weir/test/weirtest"
)

// hub is the service side of a Weir's Azure dialect.
type hub struct {
	t  testing.TB
	w  *weirtest.Weir
	cl *http.Client
}

func newHub(t testing.TB, w *weirtest.Weir) *hub {
	conf := w.TLS()
	conf.Certificates = nil
	tr := &http.Transport{TLSClientConfig: conf}
	t.Cleanup(tr.CloseIdleConnections)
	return &hub{t, w, &http.Client{Transport: tr}}
}

// connection returns the connection string of a hub policy.
func (h *hub) connection(policy string) *azure.ConnectionString {
	h.t.Helper()
	list, err := server.ReadAzurePolicies(h.w.Endpoints().AzureFile)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, p := range list {
		if p.Name == policy {
			return &azure.ConnectionString{Host: "localhost", Policy: p.Name, Key: p.Primary}
		}
	}
	h.t.Fatalf("no policy %s", policy)
	return nil
}

// do sends a request as a hub policy; header is name, value, ….
func (h *hub) do(policy, method, path string, body any, header ...string) (int, http.Header, []byte) {
	h.t.Helper()
	c := h.connection(policy)
	token, err := azure.MakeToken(c.Host, c.Policy, c.Key, time.Now().Add(time.Hour))
	if err != nil {
		h.t.Fatal(err)
	}
	return h.as(token, method, path, body, header...)
}

func (h *hub) as(token, method, path string, body any, header ...string) (int, http.Header, []byte) {
	h.t.Helper()
	var b []byte
	switch v := body.(type) {
	case nil:
	case string:
		b = []byte(v)
	default:
		b, _ = json.Marshal(v)
	}
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	req, err := http.NewRequestWithContext(h.t.Context(), method, "https://localhost:"+port(h.w.Endpoints().HTTPS)+path+sep+"api-version=2021-04-12", bytes.NewReader(b))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Authorization", token)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := h.cl.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return res.StatusCode, res.Header, out
}

// device makes a device and returns its primary key.
func (h *hub) device(id string) string {
	h.t.Helper()
	status, _, body := h.do(azure.Owner, "PUT", "/devices/"+id, map[string]any{"deviceId": id})
	var d struct {
		Authentication struct{ SymmetricKey struct{ PrimaryKey string } }
	}
	if err := json.Unmarshal(body, &d); status != 200 || err != nil || d.Authentication.SymmetricKey.PrimaryKey == "" {
		h.t.Fatalf("PUT /devices/%s: %d %s", id, status, body)
	}
	return d.Authentication.SymmetricKey.PrimaryKey
}

func decode(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
}

// must is do, and fails the test where the status is another.
func (h *hub) must(want int, policy, method, path string, body any, header ...string) []byte {
	h.t.Helper()
	status, _, out := h.do(policy, method, path, body, header...)
	if status != want {
		h.t.Fatalf("%s %s: %d %s, want %d", method, path, status, out, want)
	}
	return out
}

func deviceToken(t testing.TB, id, key string, d time.Duration) string {
	t.Helper()
	s, err := azure.MakeToken("localhost/devices/"+id, "", key, time.Now().Add(d))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// options are those of a device's connection.
func (h *hub) options(id, key string) mqttclient.Options {
	conf := h.w.TLS()
	conf.Certificates, conf.NextProtos = nil, nil
	return mqttclient.Options{
		Addr: "localhost:" + port(h.w.Endpoints().MQTTS), TLS: conf, ClientID: id, Version: 4,
		Username: "localhost/" + id + "/?api-version=2021-04-12&DeviceClientType=test", Password: deviceToken(h.t, id, key, time.Hour),
	}
}

// azureNode runs a script of Node.js whose clients dial the ports they always
// dial, and reach those of this Weir.
func azureNode(t *testing.T, w *weirtest.Weir, script string, args ...string) string {
	t.Helper()
	e := w.Endpoints()
	const hook = `
const tlsModule = require('tls'), tlsConnect = tlsModule.connect
const portOf = {8883: process.env.MQTTS, 443: process.env.HTTPS}
tlsModule.connect = (...a) => {
  if (a[0] && typeof a[0] === 'object' && portOf[a[0].port]) a[0] = {...a[0], port: +portOf[a[0].port]}
  return tlsConnect(...a)
}
const ca = require('fs').readFileSync(process.env.NODE_EXTRA_CA_CERTS, 'utf8')
const assert = require('assert').strict
const die = setTimeout(() => { console.error('no end'); process.exit(1) }, 40000)
process.on('unhandledRejection', (e) => { console.error(e); process.exit(1) })
`
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{"-e", hook + script, "--"}, args...)...)
	cmd.Dir = filepath.Dir(npm.Dir(t))
	cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+e.CAFile, "MQTTS="+port(e.MQTTS), "HTTPS="+port(e.HTTPS))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, out)
	}
	return string(out)
}

// Microsoft's own clients, both sides: the device over MQTT and over WebSocket.
func TestAzureSDKs(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	w := weirtest.Start(t)
	h := newHub(t, w)
	sub := w.Subscribe("devices/+/messages/events")
	const script = `
const {Client: Device, Message} = require('azure-iot-device')
const {Mqtt, MqttWs} = require('azure-iot-device-mqtt')
const {Registry, Client: Service} = require('azure-iothub')
const hub = process.argv[1]
const registry = Registry.fromConnectionString(hub), service = Service.fromConnectionString(hub)
const until = async (what, f) => { for (let i = 0; i < 600; i++) { const v = await f(); if (v) return v; await new Promise(r => setTimeout(r, 50)) } throw new Error('never: ' + what) }
async function run(id, transport) {
  const created = (await registry.create({deviceId: id})).responseBody
  assert.equal(created.deviceId, id); assert.equal(created.status, 'enabled')
  const key = created.authentication.symmetricKey.primaryKey
  const device = Device.fromConnectionString('HostName=localhost;DeviceId=' + id + ';SharedAccessKey=' + key, transport)
  await device.setOptions({ca})
  await device.open()
  const m = new Message(JSON.stringify({t: 21.5}))
  m.properties.add('alert', 'yes & no'); m.messageId = 'm1'; m.contentType = 'application/json'; m.contentEncoding = 'utf-8'
  await device.sendEvent(m)

  const desired = []
  const twin = await device.getTwin()
  twin.on('properties.desired', (d) => desired.push(d))
  await new Promise((ok, no) => twin.properties.reported.update({fw: {v: 1}, list: [1, 2]}, (e) => e ? no(e) : ok()))
  const st = (await registry.getTwin(id)).responseBody
  assert.deepEqual(st.properties.reported.fw, {v: 1}); assert.equal(st.connectionState, 'Connected')
  const up = (await registry.updateTwin(id, {tags: {site: 'north'}, properties: {desired: {interval: 5, gone: 1}}}, st.etag)).responseBody
  assert.equal(up.tags.site, 'north')
  await until('desired', () => desired.some(d => d.interval === 5))
  await registry.updateTwin(id, {properties: {desired: {interval: 6, gone: null}}}, '*')
  const d2 = await until('desired 2', () => desired.find(d => d.interval === 6))
  assert.ok(d2.gone == null && d2['$version'] > 1)
  await assert.rejects(registry.updateTwin(id, {tags: {a: 1}}, st.etag), (e) => /412|Precondition|etag/i.test(e.message + e.name))

  device.onDeviceMethod('reboot', (req, res) => { assert.deepEqual(req.payload, {in: 3}); res.send(202, {ok: true}, () => {}) })
  const r = await until('method', async () => { try { return (await service.invokeDeviceMethod(id, {methodName: 'reboot', payload: {in: 3}, responseTimeoutInSeconds: 15, connectTimeoutInSeconds: 10})).result } catch (e) { if (/online|404/.test(e.message + e.name)) return null; throw e } })
  assert.equal(r.status, 202); assert.deepEqual(r.payload, {ok: true})

  const mod = (await registry.addModule({deviceId: id, moduleId: 'mod'})).responseBody
  assert.equal(mod.moduleId, 'mod')
  assert.equal((await registry.getModulesOnDevice(id)).responseBody.length, 1)
  await registry.removeModule(id, 'mod')

  const q = registry.createQuery("SELECT * FROM devices WHERE tags.site = 'north' AND properties.reported.fw.v IN [1, 2] AND deviceId = '" + id + "'", 10)
  const twins = (await q.nextAsTwin()).result
  assert.equal(twins.length, 1); assert.equal(twins[0].deviceId, id)
  await device.close()
  await until('gone', async () => (await registry.get(id)).responseBody.connectionState === 'Disconnected')
  return created
}
(async () => {
  await run('one', Mqtt)
  await run('two', MqttWs)
  const bulk = await registry.addDevices([{deviceId: 'b1'}, {deviceId: 'b2', status: 'disabled'}])
  assert.ok(bulk.responseBody.isSuccessful)
  assert.equal((await registry.list()).responseBody.length, 4)
  const stats = (await registry.getRegistryStatistics()).responseBody
  assert.deepEqual([stats.totalDeviceCount, stats.disabledDeviceCount], [4, 1])
  const names = [], q = registry.createQuery('SELECT deviceId AS id FROM devices', 3)
  while (q.hasMoreResults) for (const r of (await q.next(q.continuationToken)).result) names.push(r.id)
  assert.deepEqual(names, ['b1', 'b2', 'one', 'two'])
  const groups = (await registry.createQuery('SELECT status, COUNT() AS n FROM devices GROUP BY status').next()).result
  assert.deepEqual(groups.map(g => g.status + g.n).sort(), ['disabled1', 'enabled3'])
  const d = (await registry.get('b2')).responseBody
  d.status = 'enabled'
  assert.equal((await registry.update(d)).responseBody.status, 'enabled')
  await registry.delete('b1')
  await assert.rejects(registry.get('b1'), (e) => e.name === 'DeviceNotFoundError')
  await assert.rejects(registry.create({deviceId: 'one'}), (e) => e.name === 'DeviceAlreadyExistsError')
  await assert.rejects(Registry.fromConnectionString(hub.replace(/.....$/, 'AAAA=')).get('one'), (e) => e.name === 'UnauthorizedError')
  console.log('done'); process.exit(0)
})()
`
	if out := azureNode(t, w, script, h.connection(azure.Owner).String()); !strings.Contains(out, "done") {
		t.Fatal(out)
	}
	for _, id := range []string{"one", "two"} {
		m := sub.Next()
		if m.Topic != "devices/"+id+"/messages/events" || string(m.Payload) != `{"t":21.5}` {
			t.Errorf("%s: %s", m.Topic, m.Payload)
		}
		got := map[string]string{"content-type": m.ContentType}
		for _, u := range m.User {
			got[u.Key] = u.Val
		}
		for k, v := range map[string]string{"alert": "yes & no", "message-id": "m1", "content-type": "application/json", "content-encoding": "utf-8", "iothub-connection-device-id": id} {
			if got[k] != v {
				t.Errorf("%s: %s = %q, want %q", id, k, got[k], v)
			}
		}
	}
}

func TestAzureQueryPages(t *testing.T) {
	h := newHub(t, weirtest.Start(t))
	for _, id := range []string{"b1", "b2", "one", "two"} {
		h.device(id)
	}
	var got []string
	token := ""
	for range 4 {
		status, hd, body := h.do("service", "POST", "/devices/query", `{"query":"SELECT deviceId AS id FROM devices"}`, "x-ms-max-item-count", "3", "x-ms-continuation", token)
		if status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		got = append(got, string(body))
		if token = hd.Get("x-ms-continuation"); token == "" {
			break
		}
	}
	if want := `[{"id":"b1"},{"id":"b2"},{"id":"one"}] [{"id":"two"}]`; strings.Join(got, " ") != want {
		t.Errorf("got %s", got)
	}
}

// What is of one device, or of the Azure dialect, is out of reach for all others.
func TestAzureIsolation(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	key := h.device("dev1")
	h.device("dev10")
	for _, topic := range []string{
		"devices/dev10/messages/events/", "devices/dev1/messages/eventsx", "$iothub/twin/GET", "$aws/things/dev10/shadow/update",
		"$azure/devices/dev10/c2d", "any/topic", "devices/dev1/modules/m/messages/events/", "$iothub/methods/res/x/?$rid=1",
	} {
		c := w.Connect(h.options("dev1", key))
		_ = c.Publish(t.Context(), &mqttclient.Message{Topic: topic, Payload: []byte("x"), QoS: 1})
		select {
		case <-c.Done():
		case <-time.After(10 * time.Second):
			t.Errorf("a publish on %s leaves the connection open", topic)
		}
	}
	for _, f := range []string{"devices/dev10/messages/devicebound/#", "devices/+/messages/devicebound/#", "#", "$azure/#", "$aws/things/dev1/shadow/#", "$iothub/#"} {
		c := w.Connect(h.options("dev1", key))
		if c.Subscribe(t.Context(), 1, f) == nil {
			t.Errorf("subscribed to %s", f)
		}
	}
	// The plain port may all, but not this.
	c := w.Connect(mqttclient.Options{Version: 5})
	for _, f := range []string{"$azure/#", "$azure/devices/dev1/c2d"} {
		if c.Subscribe(t.Context(), 1, f) == nil {
			t.Errorf("a client of the plain port subscribed to %s", f)
		}
	}
	if c.Publish(t.Context(), &mqttclient.Message{Topic: "$azure/devices/dev1/c2d", QoS: 1}) == nil {
		t.Error("a client of the plain port published to a device")
	}
	if status, _, _ := h.do("registryRead", "PUT", "/devices/x", map[string]any{"deviceId": "x"}); status != 401 {
		t.Errorf("registryRead made a device: %d", status)
	}
	if status, _, _ := h.as(deviceToken(t, "dev1", key, time.Hour), "GET", "/devices/dev1", nil); status != 401 {
		t.Errorf("a device reads the registry: %d", status)
	}
}

// A message waits for a device that has left a session, and its sender is told.
func TestAzureCloudToDevice(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	key := h.device("dev1")
	o := h.options("dev1", key)
	o.Resume = true
	send := func(body string, header ...string) int {
		status, _, _ := h.do("service", "POST", "/devices/dev1/messages/devicebound", body, header...)
		return status
	}
	if got := send("early"); got != 204 {
		t.Errorf("a message for a device that was never here: %d", got)
	}
	messages := make(chan *mqttclient.Message, 16)
	o.OnMessage = func(m *mqttclient.Message) { messages <- m }
	c := w.Connect(o)
	if err := c.Subscribe(t.Context(), 1, "devices/dev1/messages/devicebound/#"); err != nil {
		t.Fatal(err)
	}
	next := func() *mqttclient.Message {
		t.Helper()
		select {
		case m := <-messages:
			return m
		case <-time.After(20 * time.Second):
			t.Fatal("no message")
			return nil
		}
	}
	if m := next(); string(m.Payload) != "early" {
		t.Errorf("%s", m.Payload)
	}
	if got := send("live", "iothub-messageid", "m 1", "iothub-app-level", "a&b"); got != 204 {
		t.Fatal(got)
	}
	if m := next(); string(m.Payload) != "live" || m.Topic != "devices/dev1/messages/devicebound/%24.mid=m%201&%24.to=%2Fdevices%2Fdev1%2Fmessages%2Fdevicebound&level=a%26b" {
		t.Errorf("%s: %s", m.Topic, m.Payload)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got := send("away", "iothub-ack", "full"); got != 204 {
		t.Fatal(got)
	}
	c = w.Connect(o)
	if m := next(); string(m.Payload) != "away" {
		t.Errorf("%s", m.Payload)
	}
	h.do(azure.Owner, "DELETE", "/devices/dev1", nil, "If-Match", "*")
	select {
	case <-c.Done():
	case <-time.After(20 * time.Second):
		t.Error("a deleted device stays connected")
	}
}

// mqtt.js with a token made by hand: telemetry, RETAIN and a will.
func TestAzureMQTTJS(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	w := weirtest.Start(t)
	h := newHub(t, w)
	key := h.device("js")
	sub := w.Subscribe("devices/js/messages/events")
	azureNode(t, w, `
const mqtt = require('mqtt'), crypto = require('crypto')
const key = process.argv[1], sr = encodeURIComponent('localhost/devices/js'), se = Math.floor(Date.now() / 1000) + 600
const sig = crypto.createHmac('sha256', Buffer.from(key, 'base64')).update(sr + '\n' + se).digest('base64')
const c = mqtt.connect('mqtts://localhost:' + process.env.MQTTS, {ca, clientId: 'js', protocolVersion: 4, reconnectPeriod: 0,
  username: 'localhost/js/?api-version=2021-04-12', password: 'SharedAccessSignature sr=' + sr + '&sig=' + encodeURIComponent(sig) + '&se=' + se,
  will: {topic: 'devices/js/messages/events/why=lost', payload: 'gone', qos: 1, retain: false}})
c.on('error', (e) => { console.error(e); process.exit(1) })
c.on('connect', async () => {
  const [g] = await c.subscribeAsync('devices/js/messages/devicebound/#', {qos: 2})
  assert.equal(g.qos, 1)
  await c.publishAsync('devices/js/messages/events/', 'plain', {qos: 1})
  await c.publishAsync('devices/js/messages/events/a=b', 'kept', {qos: 1, retain: true})
  c.stream.destroy(); process.exit(0)
})`, key)
	for _, want := range []string{"plain: iothub-connection-device-id=js", "kept: a=b iothub-connection-device-id=js x-opt-retain=true",
		"gone: why=lost iothub-connection-device-id=js iothub-MessageType=Will"} {
		m := sub.Next()
		got := string(m.Payload) + ":"
		for _, u := range m.User {
			got += " " + u.Key + "=" + u.Val
		}
		if got != want || m.Retain {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// The shadow and the twin are one: each side is told of what the other writes.
func TestAzureTwinIsShadow(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	o := h.options("d1", h.device("d1"))
	messages := make(chan *mqttclient.Message, 16)
	o.OnMessage = func(m *mqttclient.Message) { messages <- m }
	c := w.Connect(o)
	if err := c.Subscribe(t.Context(), 0, "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"); err != nil {
		t.Fatal(err)
	}
	documents := w.Subscribe("$aws/things/d1/shadow/update/documents")
	want := func(topic, payload string) {
		t.Helper()
		select {
		case m := <-messages:
			if m.Topic != topic || payload != "" && string(m.Payload) != payload {
				t.Errorf("%s: %s, want %s: %s", m.Topic, m.Payload, topic, payload)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no message, want %s", topic)
		}
	}
	publish := func(topic, payload string) {
		t.Helper()
		if err := c.Publish(t.Context(), &mqttclient.Message{Topic: topic, Payload: []byte(payload), QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	publish("$iothub/twin/GET/?$rid=1", " ")
	want("$iothub/twin/res/200/?$rid=1", `{"desired":{"$version":1},"reported":{"$version":1}}`)
	publish("$iothub/twin/PATCH/properties/reported/?$rid=a-2", `{"fw":"1.2","gone":1}`)
	want("$iothub/twin/res/204/?$rid=a-2&$version=2", "")
	if m := documents.Next(); !strings.Contains(string(m.Payload), `"fw":"1.2"`) {
		t.Errorf("%s", m.Payload)
	}
	publish("$iothub/twin/PATCH/properties/reported/?$rid=3", `not JSON`)
	want("$iothub/twin/res/400/?$rid=3", "")
	publish("$iothub/twin/PATCH/properties/reported/?$rid=4&$version=9", `{"fw":"x"}`)
	want("$iothub/twin/res/412/?$rid=4", "")
	w.MustPublish("$aws/things/d1/shadow/update", `{"state":{"desired":{"on":true,"c":{"r":1,"g":2}}}}`)
	want("$iothub/twin/PATCH/properties/desired/?$version=2", `{"$version":2,"c":{"g":2,"r":1},"on":true}`)
	w.MustPublish("$aws/things/d1/shadow/update", `{"state":{"desired":{"on":null,"c":{"r":5}}}}`)
	want("$iothub/twin/PATCH/properties/desired/?$version=3", `{"$version":3,"c":{"r":5},"on":null}`)
	publish("$iothub/twin/GET/?$rid=9", "")
	want("$iothub/twin/res/200/?$rid=9", `{"desired":{"c":{"r":5,"g":2},"$version":3},"reported":{"fw":"1.2","gone":1,"$version":2}}`)
}

// The Python example of docs/azure.md: paho with a token of `weir azure sas`.
func TestAzurePaho(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	w := weirtest.Start(t)
	h := newHub(t, w)
	token := deviceToken(t, "d1", h.device("d1"), time.Hour)
	sub := w.Subscribe("devices/d1/messages/events")
	const script = `
import os, ssl, sys
from paho.mqtt import client as mqtt
client = mqtt.Client(client_id="d1", protocol=mqtt.MQTTv311)
client.username_pw_set("localhost/d1/?api-version=2021-04-12", sys.argv[1])
client.tls_set(ca_certs=sys.argv[2], tls_version=ssl.PROTOCOL_TLS_CLIENT)
client.connect("localhost", port=int(sys.argv[3]))
client.loop_start()
m = client.publish("devices/d1/messages/events/alert=yes", '{"t": 21.5}', qos=1)
m.wait_for_publish(20)
assert m.is_published()
client.disconnect()
`
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/usr/bin/python3", "-c", script, token, w.Endpoints().CAFile, port(w.Endpoints().MQTTS)).CombinedOutput()
	if err != nil {
		t.Fatalf("/usr/bin/python3 with paho (Debian: python3-paho-mqtt): %v\n%s", err, out)
	}
	if m := sub.Next(); string(m.Payload) != `{"t": 21.5}` || len(m.User) == 0 || m.User[0].Key != "alert" {
		t.Errorf("%s %v", m.Payload, m.User)
	}
}
