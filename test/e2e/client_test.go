package e2e

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/weir-iot/weir/test/weirtest"
)

// The owner sees which clients are connected and which are away, and ends them.
func TestClientCommands(t *testing.T) {
	w := weirtest.Start(t)
	env := []string{"WEIR_DATA_DIR=" + w.Dir(), "TZ=UTC"}
	weir := func(want int, args ...string) string {
		t.Helper()
		stdout, stderr, code := weirtest.Run(t, "", env, args...)
		if code != want {
			t.Errorf("weir %v: exit %d\n%s%s", args, code, stdout, stderr)
		}
		return stdout + stderr
	}
	text := func(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }
	packet := func(h byte, body []byte) []byte { return append([]byte{h, byte(len(body))}, body...) }
	conn, err := net.Dial("tcp", w.Endpoints().MQTT)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write(packet(0x10, append(append(text("MQTT"), 4, 0, 0, 60), text("../odd id")...)))
	conn.Write(packet(0x82, append(append([]byte{0, 1}, text("cmd/#")...), 1)))
	answers := make([]byte, 4+5)
	if _, err := io.ReadFull(conn, answers); err != nil || answers[8] != 1 {
		t.Fatalf("% x %v", answers, err)
	}
	for _, want := range []string{"../odd id", "connected", "127.0.0.1"} {
		if got := weir(0, "client", "list"); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for _, want := range []string{"connected", "MQTT 3.1.1", "cmd/# (QoS 1)", "kept for 1h0m0s", "in partition 0"} {
		if got := weir(0, "client", "show", "../odd id"); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	weir(0, "client", "disconnect", "../odd id")
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Error("the connection did not end in order:", err)
	}
	if got := weir(0, "client", "list", "--connected"); strings.Contains(got, "odd") {
		t.Error(got)
	}
	if got := weir(0, "client", "list", "--away", "-o", "json"); !strings.Contains(got, `"disconnectReason": "API_INITIATED_DISCONNECT"`) || !strings.Contains(got, `"topicFilter": "cmd/#"`) {
		t.Error(got)
	}
	weir(0, "client", "disconnect", "--clean-session", "../odd id")
	if got := weir(4, "client", "disconnect", "../odd id"); !strings.Contains(got, "is not connected") {
		t.Error(got)
	}
	if got := weir(4, "client", "show", "nobody"); !strings.Contains(got, "nobody") {
		t.Error(got)
	}
}
