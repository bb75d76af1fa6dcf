package functions_test

import (
	"os"
	"strings"
	"testing"

	"github.com/weir-iot/weir/functions"
)

// rawRuntime is a program that speaks the Runtime API byte by byte, and answers
// its first event with what it was told.
const rawRuntime = `#!/usr/bin/python3
import json, os, socket
host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
root = "/2018-06-01/runtime/"
def connect():
    s = socket.create_connection((host, int(port)))
    return s, s.makefile("rb")
def answer(f):
    line = f.readline().decode().strip()
    if not line: return "closed", {}, b""
    head = {}
    while (l := f.readline().decode().strip()):
        k, _, v = l.partition(": "); head[k.lower()] = v
    return line.split(" ")[1], head, f.read(int(head.get("content-length", 0)))
def ask(text, body=b"", to=None):
    s, f = to or connect()
    try: s.sendall(text.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    except OSError: return "closed", {}, b""
    try: return answer(f)
    except OSError: return "closed", {}, b""
idle = [connect() for _ in range(10)]
first = connect()
_, head, event = ask("GET " + root + "invocation/next HTTP/1.1\nHost: x", to=first)
id = head["lambda-runtime-aws-request-id"]
post = lambda what, more="": "POST " + root + what + " HTTP/1.1\nHost: x\n" + more
seen = {}
seen["event"] = event.decode()
seen["another's"] = ask(post("invocation/other/response", "Content-Length: 1"), b"1")[0]
seen["late start"] = ask(post("init/error", "Content-Length: 2"), b"{}")[0]
seen["nothing"] = ask("GET /nothing HTTP/1.1\nHost: x")[0]
seen["no HTTP"] = ask("hello")[0] in ("closed", "400")
seen["long header"] = ask(post("invocation/" + id + "/response", "X: " + "x" * (3 << 20)))[0]
seen["old HTTP"] = ask("GET /nothing HTTP/1.0")[0]
# An answer in pieces over the connection that had the event.
s, f = first
s.sendall(post("invocation/" + id + "/response", "Transfer-Encoding: chunked\nExpect: 100-continue").replace("\n", "\r\n").encode() + b"\r\n\r\n")
seen["may go on"] = answer(f)[0]
s.sendall(b"1\r\n[\r\n")
seen["second answer"] = ask(post("invocation/" + id + "/response", "Content-Length: 1"), b"1")[0]
seen["second error"] = ask(post("invocation/" + id + "/error", "Content-Length: 2"), b"{}")[0]
rest = (json.dumps(seen) + "]").encode()
s.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest))
last = answer(f)[0]
# The same connection again, and errors with what is no JSON.
while True:
    _, head, event = ask("GET " + root + "invocation/next HTTP/1.1\nHost: x", to=first)
    ask(post("invocation/" + head["lambda-runtime-aws-request-id"] + "/error", "Content-Length: 10\nLambda-Runtime-Function-Error-Type: Raw.Error"), b"status " + last.encode(), to=first)
`

func TestRuntimeAPIByteByByte(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("python3 is not installed")
	}
	s, _ := open(t, nil)
	deploy(t, s, "raw", functions.Config{Runtime: "provided", Memory: 256}, zipped(t, file{"bootstrap", rawRuntime, 0o755}))
	large := `"` + strings.Repeat("x", 5<<20) + `"`
	r := invoke(t, s, "raw", `{"n":1}`)
	want := `[{"event": "{\"n\":1}", "another's": "400", "late start": "400", "nothing": "404", "no HTTP": true, "long header": "closed", "old HTTP": "404", "may go on": "100", "second answer": "400", "second error": "400"}]`
	if string(r.Payload) != want {
		t.Errorf("%s %s\nwant %s\n%s", r.Error, r.Payload, want, r.Log)
	}
	for _, event := range []string{large, `2`} {
		if kind, text := failureOf(t, invoke(t, s, "raw", event)); kind != "Raw.Error" || text != "status 202" {
			t.Errorf("%s %s", kind, text)
		}
	}
}
