#!/usr/bin/env python3
"""Runs the interoperability suites of eclipse/paho.mqtt.testing against a Weir.

    git clone https://github.com/eclipse/paho.mqtt.testing /somewhere
    test/paho/run.py --paho /somewhere --weir bin/weir

Weir has no QoS 2, as AWS IoT Core has none: what the suites send with QoS 2 is
sent with QoS 1, a subscription or will asks for no more, and a test is told that
what it published with QoS 2 came with QoS 2. Each test runs in a
process of its own with a time limit. The run fails if a test fails that is not
listed below, or passes that is.
"""
import argparse
import ast
import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

SUITES = {"3.1.1": "client_test.py", "5": "client_test5.py"}

# What is not to pass, and why; docs/compatibility.md has the same list.
FAILS = {
    "3.1.1": {
        "test_dollar_topics": "publishes on $TopicA/B: topics that begin with $ are reserved",
        "test_keepalive": "a keep-alive of 5 s counts as 30 s; the test waits 15 s",
    },
    "5": {
        "test_dollar_topics": "its decoder takes no PUBACK with a reason string, which a refused publish gets",
        "test_flow_control2": "fills the server's window with QoS 2 publishes it never releases",
        "test_keepalive": "a keep-alive of 5 s counts as 30 s; the test waits 15 s",
        "test_server_keep_alive": "asserts a server keep-alive of 60 s where the client asked for 120 s",
        "test_subscribe_failure": "asserts reason code 0x80; a denial is 0x87",
        "test_will_message": "a keep-alive of 2 s counts as 30 s; the test waits 10 s",
    },
}

LIMIT = 60  # seconds a test may take


def cap(version):
    """Makes the suite's client ask for QoS 1 at most."""
    if version == "3.1.1":
        from mqtt.clients.V311 import Client
    else:
        from mqtt.clients.V5 import Client
    publish, subscribe, connect, register = Client.publish, Client.subscribe, Client.connect, Client.registerCallback
    asked = {}  # by topic and payload: the QoS of each publish, as the test wanted it

    def text(x):
        return x.encode() if isinstance(x, str) else bytes(x)

    def capped_publish(self, topic, payload, qos=0, *args, **kwargs):
        if qos > 0:
            asked.setdefault((text(topic), text(payload)), []).append(qos)
        return publish(self, topic, payload, min(qos, 1), *args, **kwargs)

    def capped_subscribe(self, topics, options, *args, **kwargs):
        if version == "3.1.1":
            options = [min(qos, 1) for qos in options]
        else:
            for option in options:
                option.QoS = min(option.QoS, 1)
        # The filter the suite expects to be refused: one that Weir refuses.
        topics = ["$SYS/nosubscribe" if t == "test/nosubscribe" else t for t in topics]
        return subscribe(self, topics, options, *args, **kwargs)

    def capped_connect(self, *args, **kwargs):
        kwargs["willQoS"] = min(kwargs.get("willQoS", 1), 1)
        return connect(self, *args, **kwargs)

    def register_with_qos(self, callback):
        """Tells the test of the QoS it had asked for, so that it goes on to its end."""
        arrived, came = callback.publishArrived, {}

        def with_qos(topic, payload, qos, *args, **kwargs):
            key = (text(topic), text(payload))
            if qos == 1 and key in asked:
                n = came[key] = came.get(key, -1) + 1
                qos = asked[key][n % len(asked[key])]
            return arrived(topic, payload, qos, *args, **kwargs)

        callback.publishArrived = with_qos
        return register(self, callback)

    Client.publish, Client.subscribe, Client.connect = capped_publish, capped_subscribe, capped_connect
    Client.registerCallback = register_with_qos


def child(folder, version, test, host, port):
    """Runs one test in this process."""
    os.chdir(folder)
    sys.path.insert(0, folder)
    cap(version)
    main, failed = unittest.main, []

    def one():
        program = main(module="__main__", argv=["paho", "Test." + test], exit=False)
        failed.append(not program.result.wasSuccessful())

    unittest.main = one
    sys.argv = [SUITES[version], "--hostname", host, "--port", port]
    runpy.run_path(SUITES[version], run_name="__main__")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if any(failed) or not failed else 0)  # receivers may still run


def tests(path):
    """The names of the tests in a suite, in the order of the file."""
    with open(path, encoding="utf-8") as f:
        tree = ast.parse(f.read())
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "Test":
            return [f.name for f in node.body if isinstance(f, ast.FunctionDef) and f.name.startswith("test")]
    raise SystemExit("no tests in " + path)


class Weir:
    """A Weir for development with limits: relaxed, on free ports."""

    def __init__(self, binary):
        self.folder = tempfile.mkdtemp(prefix="weir-paho-")
        data = os.path.join(self.folder, "data")
        self.config = os.path.join(self.folder, "weir.yaml")
        with open(self.config, "w", encoding="utf-8") as f:
            f.write("limits: relaxed\n")
        self.log = open(os.path.join(self.folder, "log"), "wb")
        self.process = subprocess.Popen(
            [binary, "dev", "--ports", "0", "--config", self.config, "--data", data], stdout=self.log, stderr=subprocess.STDOUT)
        for _ in range(600):
            status = subprocess.run([binary, "env", "-o", "json", "--data", data], capture_output=True, text=True, check=False)
            if status.returncode == 0:
                env = json.loads(status.stdout)
                self.host, self.port = env["WEIR_HOST"], str(env["WEIR_MQTT_PORT"])
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.close()
        raise SystemExit("weir does not run")

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder)


def run(folder, host, port, only):
    """Runs the suites; returns whether all went as listed."""
    good = True
    for version, name in SUITES.items():
        passed = 0
        names = tests(os.path.join(folder, name))
        for test in names:
            if only and test not in only:
                continue
            command = [sys.executable, os.path.abspath(__file__), "--child", version, test, host, port, folder]
            try:
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT, check=False)
                ok, text = done.returncode == 0, done.stdout
            except subprocess.TimeoutExpired as e:
                ok, text = False, (e.stdout or b"") + b"time limit"
            passed += ok
            reason = FAILS[version].get(test)
            if ok and not reason:
                print(f"MQTT {version} {test}: passes", flush=True)
            elif ok:
                good = False
                print(f"MQTT {version} {test}: PASSES, but is listed: {reason}", flush=True)
            elif reason:
                print(f"MQTT {version} {test}: fails: {reason}", flush=True)
            else:
                good = False
                print(f"MQTT {version} {test}: FAILS\n{text.decode(errors='replace')}", flush=True)
        print(f"MQTT {version}: {passed} of {len(names)} pass", flush=True)
    return good


def main():
    if sys.argv[1:2] == ["--child"]:
        _, _, version, test, host, port, folder = sys.argv
        child(folder, version, test, host, port)
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--paho", required=True, help="folder of the repository eclipse/paho.mqtt.testing")
    p.add_argument("--weir", help="binary to start; else --host and --port of a running one")
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", default="1883")
    p.add_argument("tests", nargs="*", help="tests to run; default: all")
    a = p.parse_args()
    folder = os.path.join(os.path.abspath(a.paho), "interoperability")
    if not a.weir:
        sys.exit(0 if run(folder, a.host, a.port, a.tests) else 1)
    weir = Weir(os.path.abspath(a.weir))
    try:
        good = run(folder, weir.host, weir.port, a.tests)
    finally:
        weir.close()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
