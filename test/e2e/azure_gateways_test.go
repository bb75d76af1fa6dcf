package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-iot/weir/ingest/azure"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/natstest"
	"github.com/weir-iot/weir/test/weirtest"
)

// Two gateways are one hub: what is asked of one reaches the device at the other.
func TestAzureTwoGateways(t *testing.T) {
	url := natstest.Start(t).URL()
	one := weirtest.Start(t, weirtest.Roles(url))
	// The sealing key is the hub's, not a process's.
	dir := t.TempDir()
	key, err := os.ReadFile(filepath.Join(one.Dir(), "seal.key"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "seal.key"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	two := weirtest.Start(t, weirtest.Roles(url, "ingest"), weirtest.Dir(dir))
	a, b := newHub(t, one), newHub(t, two)
	primary := a.device("dev1")
	a.must(201, azure.Owner, "PUT", "/devices/dev1/modules/m", `{"deviceId":"dev1","moduleId":"m"}`)
	weirtest.Eventually(t, func() bool { s, _, _ := b.do(azure.Owner, "GET", "/devices/dev1", nil); return s == 200 },
		func() string { return "the other gateway does not know the device" })
	d := b.listen(b.options("dev1", primary), 1, devicebound, "$iothub/methods/POST/#", "$iothub/twin/PATCH/properties/desired/#")
	weirtest.Eventually(t, func() bool {
		return string(a.must(200, azure.Owner, "GET", "/statistics/service", nil)) == `{"connectedDeviceCount":1}`
	}, func() string { return "the statistics do not know of the device at the other gateway" })
	if out := a.must(200, azure.Owner, "GET", "/twins/dev1", nil); !strings.Contains(string(out), `"connectionState":"Connected"`) {
		t.Errorf("the twin says %s", out)
	}
	if out := a.must(200, "service", "POST", "/devices/query", `{"query":"SELECT COUNT() AS n FROM devices WHERE connectionState = 'Connected'"}`); string(out) != `[{"n":1}]` {
		t.Errorf("the query says %s", out)
	}

	answered := make(chan error, 1)
	go func() {
		m := d.next()
		name, rid, _ := strings.Cut(m.Topic, "/?$rid=")
		if name != "$iothub/methods/POST/reboot" || string(m.Payload) != `{"in":3}` {
			answered <- fmt.Errorf("%s %s", m.Topic, m.Payload)
			return
		}
		answered <- d.Publish(t.Context(), &mqttclient.Message{Topic: "$iothub/methods/res/202/?$rid=" + rid, Payload: []byte(`{"ok":true}`)})
	}()
	out := a.must(200, "service", "POST", "/twins/dev1/methods", `{"methodName":"reboot","payload":{"in":3},"responseTimeoutInSeconds":60}`)
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	var r struct {
		Status  int
		Payload map[string]bool
	}
	if json.Unmarshal(out, &r); r.Status != 202 || !r.Payload["ok"] {
		t.Errorf("the method's answer: %s", out)
	}
	if status, hd, _ := a.do("service", "POST", "/twins/dev1/modules/m/methods", `{"methodName":"x"}`); status != 404 || hd.Get("iothub-errorcode") != "DeviceNotOnline" {
		t.Errorf("a method of who is nowhere: %d", status)
	}

	a.send("across", "iothub-messageid", "m1", "iothub-ack", "full")
	d.want("across")
	if got := a.feedback(1); len(got) != 1 || got[0] != "m1 Success" {
		t.Errorf("feedback %v", got)
	}
	a.must(200, "service", "PATCH", "/twins/dev1", `{"properties":{"desired":{"on":true}}}`)
	d.want(`{"$version":2,"on":true}`)

	// It connects to the first: the second lets go, and a key that is taken away
	// counts at both.
	again := a.listen(a.options("dev1", primary), 1, devicebound)
	<-d.Done()
	b.send("back")
	again.want("back")
	b.must(200, azure.Owner, "PUT", "/devices/dev1", `{"deviceId":"dev1","status":"disabled"}`, "If-Match", "*")
	<-again.Done()
}
