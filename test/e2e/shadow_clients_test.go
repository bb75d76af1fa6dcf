package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/test/npm"
	"github.com/weir-iot/weir/test/weirtest"
)

// node runs a script to its end and returns what it wrote.
func node(t *testing.T, script string, args ...string) string {
	t.Helper()
	dir := filepath.Dir(npm.Dir(t)) // may have to be filled first
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{"-e", script, "--"}, args...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, out)
	}
	return string(out)
}

func port(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// The AWS IoT Device SDK v2 for JavaScript: both generations of its shadow client,
// over MQTT 3.1.1 and MQTT 5.
func TestDeviceSDKv2Shadow(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	w := weirtest.Start(t)
	e := w.Endpoints()
	const script = `
const {mqtt, mqtt5, iot, iotshadow} = require('aws-iot-device-sdk-v2')
const {once} = require('events')
const [port, ca, cert, key] = process.argv.slice(1)
const assert = require('assert').strict
const die = setTimeout(() => { console.error('no end'); process.exit(1) }, 50000)

async function v1(sc, thing) {
  const name = 'config', wait = {}
  const answer = (kind) => new Promise((resolve, reject) => { wait[kind] = resolve })
  const on = (kind) => (err, r) => { if (err) throw err; wait[kind] && wait[kind](r) }
  for (const [sub, kind] of [['subscribeToGetNamedShadowAccepted', 'get'], ['subscribeToGetNamedShadowRejected', 'norget'],
    ['subscribeToUpdateNamedShadowAccepted', 'update'], ['subscribeToUpdateNamedShadowRejected', 'norupdate'],
    ['subscribeToNamedShadowDeltaUpdatedEvents', 'delta'], ['subscribeToNamedShadowUpdatedEvents', 'documents'],
    ['subscribeToDeleteNamedShadowAccepted', 'delete']]) {
    await sc[sub]({thingName: thing, shadowName: name}, mqtt.QoS.AtLeastOnce, on(kind))
  }
  let p = answer('norget')
  await sc.publishGetNamedShadow({thingName: thing, shadowName: name, clientToken: 'a'}, mqtt.QoS.AtLeastOnce)
  let r = await p
  assert.equal(r.code, 404); assert.equal(r.clientToken, 'a')
  p = Promise.all([answer('update'), answer('delta'), answer('documents')])
  await sc.publishUpdateNamedShadow({thingName: thing, shadowName: name, clientToken: 'b', state: {desired: {color: 'red', n: {x: 1}}, reported: {color: 'blue'}}}, mqtt.QoS.AtLeastOnce)
  let [u, d, docs] = await p
  assert.equal(u.version, 1); assert.equal(u.clientToken, 'b'); assert.equal(u.state.desired.color, 'red'); assert.ok(u.timestamp)
  assert.deepEqual(d.state, {color: 'red', n: {x: 1}}); assert.ok(d.metadata.color.timestamp)
  assert.equal(docs.current.version, 1); assert.equal(docs.current.state.reported.color, 'blue')
  p = answer('norupdate')
  await sc.publishUpdateNamedShadow({thingName: thing, shadowName: name, clientToken: 'c', version: 9, state: {desired: {color: 'x'}}}, mqtt.QoS.AtLeastOnce)
  r = await p
  assert.equal(r.code, 409); assert.equal(r.message, 'Version conflict')
  p = answer('get')
  await sc.publishGetNamedShadow({thingName: thing, shadowName: name}, mqtt.QoS.AtLeastOnce)
  r = await p
  assert.deepEqual(r.state.delta, {color: 'red', n: {x: 1}}); assert.equal(r.version, 1)
  p = answer('delete')
  await sc.publishDeleteNamedShadow({thingName: thing, shadowName: name, clientToken: 'd'}, mqtt.QoS.AtLeastOnce)
  r = await p
  assert.equal(r.version, 1); assert.equal(r.clientToken, 'd')
}

async function v2(sc, thing) {
  const stream = sc.createShadowDeltaUpdatedStream({thingName: thing})
  const deltas = []
  stream.on('incomingPublish', e => deltas.push(e.message))
  const up = once(stream, 'subscriptionStatus')
  stream.open()
  await up
  await assert.rejects(sc.getShadow({thingName: thing}), e => { assert.equal(e.modeledError.code, 404); assert.equal(e.modeledError.message, "No shadow exists with name: '" + thing + "'"); return true })
  let r = await sc.updateShadow({thingName: thing, state: {desired: {on: true}, reported: {on: false}}})
  assert.equal(r.version, 1)
  await assert.rejects(sc.updateShadow({thingName: thing, version: 7, state: {desired: {on: false}}}), e => { assert.equal(e.modeledError.code, 409); return true })
  r = await sc.getShadow({thingName: thing})
  assert.deepEqual(r.state.delta, {on: true})
  while (!deltas.length) await new Promise(f => setTimeout(f, 10))
  assert.deepEqual(deltas[0].state, {on: true}); assert.equal(deltas[0].version, 1)
  r = await sc.updateShadow({thingName: thing, state: {reported: {on: true}}})
  r = await sc.deleteShadow({thingName: thing})
  assert.equal(r.version, 2)
  stream.close(); sc.close()
}

async function main() {
  const rr = {maxRequestResponseSubscriptions: 6, maxStreamingSubscriptions: 2, operationTimeoutInSeconds: 20}
  const config = iot.AwsIotMqttConnectionConfigBuilder.new_mtls_builder_from_path(cert, key)
    .with_certificate_authority_from_path(undefined, ca).with_endpoint('localhost').with_port(Number(port)).with_client_id('sdk3').with_clean_session(true).build()
  const c3 = new mqtt.MqttClient().new_connection(config)
  await c3.connect()
  await v1(new iotshadow.IotShadowClient(c3), 'three')
  await v2(iotshadow.IotShadowClientv2.newFromMqtt311(c3, rr), 'three')
  await c3.disconnect()
  console.log('mqtt3 done')
  const c5 = new mqtt5.Mqtt5Client(iot.AwsIotMqtt5ClientConfigBuilder.newDirectMqttBuilderWithMtlsFromPath('localhost', cert, key)
    .withCertificateAuthorityFromPath(undefined, ca).withPort(Number(port)).withConnectProperties({clientId: 'sdk5', keepAliveIntervalSeconds: 60}).build())
  const connected = once(c5, 'connectionSuccess')
  c5.start()
  await connected
  await v1(iotshadow.IotShadowClient.newFromMqtt5Client(c5), 'five')
  await v2(iotshadow.IotShadowClientv2.newFromMqtt5(c5, rr), 'five')
  const stopped = once(c5, 'stopped')
  c5.stop()
  await stopped
  console.log('mqtt5 done')
  clearTimeout(die)
  process.exit(0)
}
main().catch(e => { console.error(e, e && e.innerError); process.exit(1) })
`
	out := node(t, script, port(e.MQTTS), e.CAFile, e.CertFile, e.KeyFile)
	if !strings.Contains(out, "mqtt3 done") || !strings.Contains(out, "mqtt5 done") {
		t.Errorf("%s", out)
	}
}

// The AWS IoT Device SDK v1 for JavaScript: thingShadow.
func TestDeviceSDKv1Shadow(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	w := weirtest.Start(t)
	e := w.Endpoints()
	const script = `
const {thingShadow} = require('aws-iot-device-sdk'), assert = require('assert').strict
const [port, ca, cert, key] = process.argv.slice(1)
const s = thingShadow({host: 'localhost', port: Number(port), caPath: ca, certPath: cert, keyPath: key, clientId: 'sdk1', region: 'us-east-1'})
setTimeout(() => { console.error('no end'); process.exit(1) }, 50000)
const fail = (e) => { console.error(e); process.exit(1) }
s.on('error', fail)
const waiting = {}
s.on('status', (thing, stat, token, state) => { try { waiting[token](stat, state) } catch (e) { fail(e) } })
s.on('timeout', (thing, token) => fail('timeout ' + token))
let delta
s.on('delta', (thing, state) => { delta = state })
const ask = (token) => new Promise(f => { if (!token) fail('not sent'); waiting[token] = (stat, state) => f([stat, state]) })
s.on('connect', () => s.register('lamp', {persistentSubscribe: true, ignoreDeltas: false}, async () => {
  try {
    let [stat, state] = await ask(s.get('lamp'))
    assert.equal(stat, 'rejected'); assert.equal(state.code, 404)
    ;[stat, state] = await ask(s.update('lamp', {state: {desired: {rgb: [1, 2, 3]}}}))
    assert.equal(stat, 'accepted'); assert.deepEqual(state.state.desired.rgb, [1, 2, 3])
    while (!delta) await new Promise(f => setTimeout(f, 10))
    assert.deepEqual(delta.state, {rgb: [1, 2, 3]})
    ;[stat, state] = await ask(s.update('lamp', {state: {reported: {rgb: [1, 2, 3]}}}))
    assert.equal(stat, 'accepted')
    ;[stat, state] = await ask(s.get('lamp'))
    assert.equal(state.state.delta, undefined); assert.deepEqual(state.state.reported, {rgb: [1, 2, 3]})
    ;[stat, state] = await ask(s.delete('lamp'))
    assert.equal(stat, 'accepted')
    console.log('done')
    process.exit(0)
  } catch (e) { fail(e) }
}))
`
	if out := node(t, script, port(e.MQTTS), e.CAFile, e.CertFile, e.KeyFile); !strings.Contains(out, "done") {
		t.Errorf("%s", out)
	}
}
