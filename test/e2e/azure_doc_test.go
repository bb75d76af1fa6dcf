package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/weirtest"
)

// The commands and the programs of docs/azure.md run as they stand there, but for
// the port.
func TestAzureGuide(t *testing.T) {
	if testing.Short() {
		t.Skip("other people's programs")
	}
	tool(t, "curl", "curl")
	guide, err := os.ReadFile("../../docs/azure.md")
	if err != nil {
		t.Fatal(err)
	}
	w := weirtest.Start(t)
	telemetry := w.Subscribe("devices/d1/messages/events")
	dir, bin := t.TempDir(), t.TempDir()
	if err := os.Symlink(weirtest.Binary(t), filepath.Join(bin, "weir")); err != nil {
		t.Fatal(err)
	}
	// Debian's, which has paho.
	if err := os.WriteFile(filepath.Join(bin, "python3"), []byte("#!/bin/sh\nexec /usr/bin/python3 \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(guide), "```python\n")[1:] {
		program, _, _ := strings.Cut(part, "```")
		name, _, _ := strings.Cut(strings.TrimPrefix(program, "# "), "\n")
		program = strings.ReplaceAll(program, "port=8883", "port="+port(w.Endpoints().MQTTS))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var script strings.Builder
	for _, part := range strings.Split(string(guide), "```console\n")[1:] {
		commands, _, _ := strings.Cut(part, "```")
		script.WriteString(commands)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-eu", "-c", script.String())
	cmd.Dir, cmd.WaitDelay = dir, 5*time.Second
	cmd.Env = append(os.Environ(), "WEIR_DATA_DIR="+w.Dir(), "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	log, _ := os.ReadFile(filepath.Join(dir, "device.log"))
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, log)
	}
	for _, want := range []string{
		"HostName=localhost;DeviceId=d1;SharedAccessKey=", "SharedAccessSignature sr=localhost%2Fdevices%2Fd1", "sent to d1", `"done": true`, `"interval": 5`,
		`"site": "north"`, `"statusCode": "Success"`, "device d1: disabled", "device d1: 1 dropped", `"totalDeviceCount":1`, "device d1: deleted",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output has no %s:\n%s", want, out)
		}
	}
	for _, want := range []string{"level=3 welcome", "hello", "$iothub/methods/POST/reboot/?$rid="} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the device has not seen %s:\n%s", want, log)
		}
	}
	m := telemetry.Next()
	if string(m.Payload) != `{"t": 21.5}` || len(m.User) == 0 || m.User[0].Key != "alert" {
		t.Errorf("%s %v", m.Payload, m.User)
	}
	_, _, code := weirtest.Run(t, "", []string{"WEIR_DATA_DIR=" + w.Dir()}, "azure", "device", "rotate", "d1")
	if code == 0 {
		t.Error("a key of a device that is not there was replaced")
	}
}

// A key that is replaced by the command line counts at once; the other one is
// left alone.
func TestAzureRotateCommand(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	env := []string{"WEIR_DATA_DIR=" + w.Dir()}
	old := h.device("d1")
	c := w.Connect(h.options("d1", old))
	rotate := func(key string) string {
		t.Helper()
		out, stderr, code := weirtest.Run(t, "", env, "azure", "device", "rotate", "d1", "--key", key)
		_, fresh, ok := strings.Cut(strings.TrimSpace(out), "SharedAccessKey=")
		if code != 0 || !ok {
			t.Fatalf("%s %s", out, stderr)
		}
		return fresh
	}
	second := rotate("secondary")
	if err := c.Publish(t.Context(), &mqttclient.Message{Topic: "devices/d1/messages/events/", QoS: 1}); err != nil {
		t.Errorf("a connection by the primary key ends: %v", err)
	}
	if err := w.Connect(h.options("d1", second)).Close(); err != nil {
		t.Error(err)
	}
	c = w.Connect(h.options("d1", old))
	first := rotate("primary")
	<-c.Done()
	refusal(t, "the old key", h.options("d1", old))
	for _, key := range []string{first, second} {
		if err := w.Connect(h.options("d1", key)).Close(); err != nil {
			t.Error(err)
		}
	}
}
