package e2e

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/test/npm"
	"github.com/weir-iot/weir/test/weirtest"
)

func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed (Debian: apt-get install %s); `go tool task packages` installs it", name, pkg)
	}
	return path
}

// mosquitto_pub and mosquitto_sub, in both versions, plain and over TLS.
func TestMosquitto(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	pub, sub := tool(t, "mosquitto_pub", "mosquitto-clients"), tool(t, "mosquitto_sub", "mosquitto-clients")
	w := weirtest.Start(t)
	e := w.Endpoints()
	port := func(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }
	plain := []string{"-h", "localhost", "-p", port(e.MQTT)}
	secure := []string{"-h", "localhost", "-p", port(e.MQTTS), "--cafile", e.CAFile, "--cert", e.CertFile, "--key", e.KeyFile}
	for _, version := range []string{"mqttv311", "mqttv5"} {
		for name, conn := range map[string][]string{"plain": plain, "TLS": secure} {
			t.Run(version+" "+name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				topic := "mosquitto/" + version + "/" + name
				s := exec.CommandContext(ctx, sub, append([]string{"-V", version, "-q", "1", "-t", "mosquitto/#", "-C", "1", "-v"}, conn...)...)
				var out bytes.Buffer
				s.Stdout = &out
				if err := s.Start(); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- s.Wait() }()
				for {
					p := exec.CommandContext(ctx, pub, append([]string{"-V", version, "-q", "1", "-t", topic, "-m", "hello"}, conn...)...)
					if b, err := p.CombinedOutput(); err != nil {
						t.Fatalf("mosquitto_pub: %v\n%s", err, b)
					}
					select {
					case err := <-ended:
						if err != nil || strings.TrimSpace(out.String()) != topic+" hello" {
							t.Errorf("mosquitto_sub: %v %s", err, out.String())
						}
						return
					case <-time.After(50 * time.Millisecond):
					}
				}
			})
		}
	}
}

// mqtt.js subscribes, publishes and gets its message back, over TCP, TLS and
// WebSocket.
func TestMQTTJS(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	w := weirtest.Start(t)
	e := w.Endpoints()
	local := func(addr string) string { return strings.Replace(addr, "127.0.0.1", "localhost", 1) }
	const script = `
const mqtt = require('mqtt'), fs = require('fs')
const [url, version, ca, cert, key] = process.argv.slice(1)
const o = {protocolVersion: Number(version), clientId: 'mqttjs-' + process.pid, reconnectPeriod: 0, connectTimeout: 20000}
if (ca) Object.assign(o, {ca: fs.readFileSync(ca), cert: fs.readFileSync(cert), key: fs.readFileSync(key), servername: 'localhost'})
const c = mqtt.connect(url, o)
c.on('error', e => { console.log('error ' + e.message); process.exit(1) })
c.on('connect', () => c.subscribe('js/#', {qos: 1}, err => {
  if (err) throw err
  c.publish('js/' + version, 'from mqtt.js', {qos: 1}, err => { if (err) throw err })
}))
c.on('message', (topic, payload) => { console.log('got ' + topic + ' ' + payload); c.end(false, () => process.exit(0)) })
`
	dir := filepath.Dir(npm.Dir(t))
	for _, url := range []string{"mqtt://" + local(e.MQTT), "mqtts://" + local(e.MQTTS), "wss://" + local(e.HTTPS) + "/mqtt"} {
		for _, version := range []string{"4", "5"} {
			args := []string{"-e", script, "--", url, version}
			if !strings.HasPrefix(url, "mqtt:") {
				args = append(args, e.CAFile, e.CertFile, e.KeyFile)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			cmd := exec.CommandContext(ctx, "node", args...)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			cancel()
			if want := regexp.MustCompile(`(?m)^got js/` + version + ` from mqtt\.js$`); err != nil || !want.Match(out) {
				t.Errorf("%s version %s: %v\n%s", url, version, err, out)
			}
		}
	}
}
