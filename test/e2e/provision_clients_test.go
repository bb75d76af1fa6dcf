package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The AWS IoT Device SDK v2 for JavaScript: both generations of its identity
// client enrol a device, over MQTT 3.1.1 and MQTT 5.
func TestDeviceSDKv2Identity(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	e := startEnrolment(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"cert": e.pem[0], "key": e.pem[1], "csr": csrOf(t, ecKey(t), csrTemplate)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const script = `
const {mqtt, mqtt5, iot, iotidentity} = require('aws-iot-device-sdk-v2')
const {once} = require('events')
const fs = require('fs')
const [port, ca, cert, key, csr] = process.argv.slice(1)
const assert = require('assert').strict
setTimeout(() => { console.error('no end'); process.exit(1) }, 50000).unref()

async function v1() {
  const config = iot.AwsIotMqttConnectionConfigBuilder.new_mtls_builder_from_path(cert, key).with_certificate_authority_from_path(undefined, ca)
    .with_client_id('sdk-v1').with_endpoint('localhost').with_port(+port).with_clean_session(true).build()
  const c = new mqtt.MqttClient().new_connection(config)
  await c.connect()
  const id = new iotidentity.IotIdentityClient(c), q = mqtt.QoS.AtLeastOnce
  const wait = {}, answer = k => new Promise((resolve) => { wait[k] = resolve })
  const on = k => (err, r) => { if (err) throw err; wait[k](r) }
  await id.subscribeToCreateKeysAndCertificateAccepted({}, q, on('keys'))
  await id.subscribeToCreateKeysAndCertificateRejected({}, q, on('nokeys'))
  await id.subscribeToRegisterThingAccepted({templateName: 'lamps'}, q, on('thing'))
  await id.subscribeToRegisterThingRejected({templateName: 'lamps'}, q, on('nothing'))
  let p = answer('keys')
  await id.publishCreateKeysAndCertificate({}, q)
  const k = await p
  assert.ok(k.certificateId && k.certificatePem && k.privateKey && k.certificateOwnershipToken)
  p = answer('nothing')
  await id.publishRegisterThing({templateName: 'lamps', certificateOwnershipToken: 'x', parameters: {ThingName: 'a'}}, q)
  const no = await p
  assert.equal(no.statusCode, 400); assert.equal(no.errorCode, 'InvalidCertificateOwnershipToken'); assert.ok(no.errorMessage)
  p = answer('thing')
  await id.publishRegisterThing({templateName: 'lamps', certificateOwnershipToken: k.certificateOwnershipToken, parameters: {ThingName: 'sdk-v1'}}, q)
  const t = await p
  assert.equal(t.thingName, 'sdk-v1'); assert.deepEqual(t.deviceConfiguration, {Endpoint: 'https://a.example.com'})
  await c.disconnect()
}

async function v2() {
  const config = iot.AwsIotMqtt5ClientConfigBuilder.newDirectMqttBuilderWithMtlsFromPath('localhost', cert, key).withCertificateAuthorityFromPath(undefined, ca)
    .withPort(+port).withConnectProperties({clientId: 'sdk-v2', keepAliveIntervalSeconds: 60}).build()
  const c = new mqtt5.Mqtt5Client(config)
  const up = once(c, 'connectionSuccess')
  c.start()
  await up
  const id = iotidentity.IotIdentityClientv2.newFromMqtt5(c, {maxRequestResponseSubscriptions: 4, maxStreamingSubscriptions: 2, operationTimeoutInSeconds: 30})
  const k = await id.createCertificateFromCsr({certificateSigningRequest: fs.readFileSync(csr, 'utf8')})
  assert.ok(k.certificateId && k.certificatePem && k.certificateOwnershipToken)
  const t = await id.registerThing({templateName: 'lamps', certificateOwnershipToken: k.certificateOwnershipToken, parameters: {ThingName: 'sdk-v2'}})
  assert.equal(t.thingName, 'sdk-v2')
  await assert.rejects(id.registerThing({templateName: 'lamps', certificateOwnershipToken: k.certificateOwnershipToken, parameters: {ThingName: 'sdk-v2'}}))
  id.close()
  const down = once(c, 'stopped')
  c.stop()
  await down
}

v1().then(v2).then(() => { console.log('done'); process.exit(0) }, e => { console.error(e); process.exit(1) })
`
	ends := e.Endpoints()
	out := node(t, script, port(ends.MQTTS), ends.CAFile, filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "csr"))
	if !strings.Contains(out, "done") {
		t.Error(out)
	}
}

// mqtt.js enrols in CBOR, by the npm package of that name, with MQTT 3.1.1 and 5.
func TestMQTTJSEnrolsInCBOR(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	e := startEnrolment(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"cert": e.pem[0], "key": e.pem[1], "csr": csrOf(t, ecKey(t), csrTemplate)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const script = `
const mqtt = require('mqtt'), cbor = require('cbor'), fs = require('fs'), {once} = require('events'), assert = require('assert').strict
const [port, ca, cert, key, csr] = process.argv.slice(1)
setTimeout(() => { console.error('no end'); process.exit(1) }, 60000).unref()
const options = {protocol: 'mqtts', host: 'localhost', port: +port, servername: 'localhost', ca: fs.readFileSync(ca), reconnectPeriod: 0, connectTimeout: 30000}

async function enrol(version) {
  const c = mqtt.connect({...options, protocolVersion: version, clientId: 'cbor-' + version, cert: fs.readFileSync(cert), key: fs.readFileSync(key)})
  await once(c, 'connect')
  const ask = async (call, payload) => {
    await c.subscribeAsync([call + '/accepted', call + '/rejected'], {qos: 1})
    const answer = once(c, 'message')
    await c.publishAsync(call, payload, {qos: 1})
    const [topic, body] = await answer
    return [topic.slice(call.length + 1), cbor.decodeFirstSync(body)]
  }
  const accepted = ([outcome, a]) => { assert.equal(outcome, 'accepted', JSON.stringify(a)); return a }
  const rejected = ([outcome, a]) => { assert.equal(outcome, 'rejected'); return a }
  const register = '$aws/provisioning-templates/lamps/provision/cbor', name = 'mqttjs-' + version

  const k = accepted(await ask('$aws/certificates/create/cbor', version == 4 ? Buffer.alloc(0) : cbor.encode({})))
  assert.deepEqual(Object.keys(k).sort(), ['certificateId', 'certificateOwnershipToken', 'certificatePem', 'privateKey'])
  const s = accepted(await ask('$aws/certificates/create-from-csr/cbor', cbor.encode({certificateSigningRequest: fs.readFileSync(csr, 'utf8')})))
  assert.deepEqual(Object.keys(s).sort(), ['certificateId', 'certificateOwnershipToken', 'certificatePem'])
  const no = rejected(await ask(register, Buffer.from('{}')))
  assert.deepEqual([no.statusCode, no.errorCode], [400, 'InvalidPayload']); assert.ok(no.errorMessage)
  const t = accepted(await ask(register, cbor.encode({certificateOwnershipToken: k.certificateOwnershipToken, parameters: {ThingName: name, Site: 'c'}})))
  assert.deepEqual(t, {thingName: name, deviceConfiguration: {Endpoint: 'https://c.example.com'}})
  assert.equal(rejected(await ask(register, cbor.encode({certificateOwnershipToken: k.certificateOwnershipToken, parameters: {ThingName: name}}))).errorCode, 'InvalidCertificateOwnershipToken')
  await c.endAsync()

  const own = mqtt.connect({...options, protocolVersion: version, clientId: name, cert: k.certificatePem, key: k.privateKey})
  await once(own, 'connect')
  await own.publishAsync('dt/' + name + '/x', '1', {qos: 1})
  await own.endAsync()
}
enrol(4).then(() => enrol(5)).then(() => { console.log('done'); process.exit(0) }, e => { console.error(e); process.exit(1) })
`
	ends := e.Endpoints()
	out := node(t, script, port(ends.MQTTS), ends.CAFile, filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "csr"))
	if !strings.Contains(out, "done") {
		t.Error(out)
	}
}
