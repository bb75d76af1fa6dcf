package mqtt

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// reasonOf returns the reason string in the properties of a packet, "" where
// there is none.
func reasonOf(t *testing.T, b []byte) string {
	t.Helper()
	n, k := binary.Uvarint(b)
	if k <= 0 || int(n) != len(b)-k {
		t.Fatalf("properties % x", b)
	}
	if b = b[k:]; n == 0 {
		return ""
	}
	if b[0] != packets.PropReasonString || int(binary.BigEndian.Uint16(b[1:])) != len(b)-3 {
		t.Fatalf("properties % x", b)
	}
	return string(b[3:])
}

// An MQTT 5 client is told why, where it wants to know and takes so large a packet.
func TestReasonStrings(t *testing.T) {
	az := &policy{deny: map[string]bool{"iot:Publish denied": true}}
	r := start(t, func(o *Options) { o.Authorizer = az })
	for _, props := range [][]byte{nil, {packets.PropRequestProblemInfo, 0}, {packets.PropMaximumPacketSize, 0, 0, 0, 20}} {
		told := func(where, reason string, want bool) {
			t.Helper()
			if (reason != "") != want {
				t.Errorf("%s with properties % x: reason %q", where, props, reason)
			}
		}
		small := len(props) > 2
		p := r.dial()
		p.v5 = true
		p.send(connectPacket(5, "a/+", 2, 60, props))
		_, b := p.expect(packets.Connack)
		told("CONNACK", reasonOf(t, b[2:]), !small)

		p = r.dial()
		p.v5 = true
		p.send(connectPacket(5, "c", 2, 60, props))
		p.connack()
		p.publish("denied", 1, 7, "x")
		_, b = p.expect(packets.Puback)
		if !bytes.Equal(b[:3], []byte{0, 7, codeNotAuthorized}) {
			t.Errorf("PUBACK % x", b)
		}
		if props == nil {
			told("PUBACK", reasonOf(t, b[3:]), true)
		} else if len(b) > 4 || len(b) == 4 && b[3] != 0 {
			t.Errorf("PUBACK % x", b)
		}
		p.publish("allowed", 1, 8, "x")
		if pid, code := p.puback(); pid != 8 || code != 0 {
			t.Error(pid, code)
		}
		p.send([]byte{packets.Pubrel<<4 | 2, 2, 0, 1})
		_, b = p.expect(packets.Disconnect)
		told("DISCONNECT", reasonOf(t, b[1:]), !small)
	}
}
