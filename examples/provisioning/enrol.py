"""A device that enrols itself: with the claim certificate it was made with it gets
one of its own, becomes a thing, and publishes once as that thing.

    python3 enrol.py <thing name> <serial number>

It needs paho (Debian: python3-paho-mqtt), and of weir env the host, port and CA.
"""

import json
import os
import queue
import sys

from paho.mqtt import client as mqtt

PATIENCE = 60  # seconds


def connect(client_id, certificate, key):
    version = [mqtt.CallbackAPIVersion.VERSION1] if hasattr(mqtt, "CallbackAPIVersion") else []
    c = mqtt.Client(*version, client_id=client_id)
    c.tls_set(os.environ["WEIR_CA_FILE"], certificate, key)
    c.up, c.granted, c.answers = queue.Queue(), queue.Queue(), queue.Queue()
    c.on_connect = lambda c, _, flags, code: c.up.put(code)
    c.on_subscribe = lambda c, _, mid, codes: c.granted.put(codes)
    c.on_message = lambda c, _, m: c.answers.put((m.topic, json.loads(m.payload)))
    c.connect("localhost", int(os.environ["WEIR_MQTTS_PORT"]))
    c.loop_start()
    if code := c.up.get(timeout=PATIENCE):
        sys.exit("refused: " + mqtt.connack_string(code))
    return c


def ask(c, call, request):
    """Makes a call and returns its answer: subscribed first, or there is none."""
    c.subscribe([(call + "/accepted", 1), (call + "/rejected", 1)])
    c.granted.get(timeout=PATIENCE)
    c.publish(call, json.dumps(request), qos=1)
    topic, answer = c.answers.get(timeout=PATIENCE)
    if topic.endswith("/rejected"):
        sys.exit("{statusCode} {errorCode}: {errorMessage}".format(**answer))
    return answer


def keep(path, text):
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
        f.write(text)


name, serial = sys.argv[1:]
claim = connect("new-" + serial, "claim.pem", "claim.key")
made = ask(claim, "$aws/certificates/create/json", {})
keep("device.pem", made["certificatePem"])
keep("device.key", made["privateKey"])
thing = ask(claim, "$aws/provisioning-templates/lamps/provision/json", {
    "certificateOwnershipToken": made["certificateOwnershipToken"],
    "parameters": {"ThingName": name, "Serial": serial},
})
claim.disconnect()
print("I am {thingName}: {deviceConfiguration}".format(**thing))

device = connect(thing["thingName"], "device.pem", "device.key")
device.publish("lamps/" + name + "/state", '{"on": true}', qos=1).wait_for_publish()
device.disconnect()
