package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/ingest/azure"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/weirtest"
)

// Errors have Azure's shape: a word and a number of its own, in header and body.
func TestAzureErrors(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	h.device("dev1")
	h.must(200, azure.Owner, "PATCH", "/twins/dev1", `{"tags":{"a":1}}`)
	for _, q := range []struct {
		policy, method, path, body, tag string
		status                          int
		word                            string
	}{
		{azure.Owner, "GET", "/devices/none", "", "", 404, "DeviceNotFound"},
		{azure.Owner, "GET", "/devices/dev1/modules/none", "", "", 404, "ModuleNotFound"},
		{azure.Owner, "PUT", "/devices/dev1", `{"deviceId":"dev1"}`, "", 409, "DeviceAlreadyExists"},
		{azure.Owner, "PUT", "/devices/dev1", `{"deviceId":"dev1"}`, `"AAAA"`, 412, "PreconditionFailed"},
		{azure.Owner, "PUT", "/devices/none", `{"deviceId":"none"}`, "*", 404, "DeviceNotFound"},
		{azure.Owner, "PUT", "/devices/x", `{"deviceId":"y"}`, "", 400, "ArgumentInvalid"},
		{azure.Owner, "PUT", "/devices/x", `{"deviceId":"x","status":"asleep"}`, "", 400, "ArgumentInvalid"},
		{azure.Owner, "PUT", "/devices/a%2Fb", `{"deviceId":"a/b"}`, "", 400, "ArgumentInvalid"},
		{azure.Owner, "PUT", "/devices/x", `{"deviceId":`, "", 400, "ArgumentInvalid"},
		{azure.Owner, "DELETE", "/devices/dev1", "", `"AAAA"`, 412, "PreconditionFailed"},
		{azure.Owner, "DELETE", "/devices/none", "", "", 404, "DeviceNotFound"},
		{"service", "PATCH", "/twins/dev1", `{"tags":{"b":1}}`, `"AAAAAAAAAAE="`, 412, "PreconditionFailed"},
		{"service", "PATCH", "/twins/dev1", `{"properties":{"reported":{"a":1}}}`, "", 400, "ArgumentInvalid"},
		{"service", "PATCH", "/twins/dev1", `{"properties":{"desired":{"a.b":1}}}`, "", 400, "ArgumentInvalid"},
		{"service", "PATCH", "/twins/dev1", `{"properties":{"desired":[1]}}`, "", 400, "ArgumentInvalid"},
		{"service", "GET", "/twins/none", "", "", 404, "DeviceNotFound"},
		{"service", "POST", "/twins/dev1/methods", `{"methodName":"x"}`, "", 404, "DeviceNotOnline"},
		{"service", "POST", "/twins/dev1/methods", `{"methodName":"x","responseTimeoutInSeconds":4}`, "", 400, "ArgumentInvalid"},
		{"service", "POST", "/twins/dev1/methods", `{"methodName":"a/b"}`, "", 400, "ArgumentInvalid"},
		{"service", "POST", "/devices/query", `{"query":"SELECT"}`, "", 400, "ArgumentInvalid"},
		{"service", "POST", "/devices/dev1/messages/devicebound", strings.Repeat("x", 65<<10), "", 413, "MessageTooLarge"},
		{"service", "PUT", "/devices/x", `{"deviceId":"x"}`, "", 401, "IotHubUnauthorizedAccess"},
		{"registryRead", "GET", "/twins/dev1", "", "", 401, "IotHubUnauthorizedAccess"},
		{"device", "GET", "/devices/dev1", "", "", 401, "IotHubUnauthorizedAccess"},
		{azure.Owner, "POST", "/jobs/v2/create", `{}`, "", 501, "NotImplemented"},
		{azure.Owner, "GET", "/configurations/x", "", "", 501, "NotImplemented"},
	} {
		var header []string
		if q.tag != "" {
			header = []string{"If-Match", q.tag}
		}
		status, hd, out := h.do(q.policy, q.method, q.path, q.body, header...)
		var body struct{ Message, ExceptionMessage string }
		err := json.Unmarshal(out, &body)
		if status != q.status || hd.Get("iothub-errorcode") != q.word || err != nil || !strings.HasPrefix(body.Message, "ErrorCode:"+q.word+";") || !strings.HasPrefix(body.ExceptionMessage, "Tracking ID:") {
			t.Errorf("%s %s %.60s: %d %s, want %d %s", q.method, q.path, q.body, status, out, q.status, q.word)
		}
	}
	c := h.connection(azure.Owner)
	token, err := azure.MakeToken(c.Host, c.Policy, c.Key, time.Now().Add(-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if status, _, _ := h.as(token, "GET", "/devices/dev1", nil); status != 401 {
		t.Errorf("a token that has expired: %d", status)
	}
	if status, _, _ := h.as("", "GET", "/devices/dev1", nil); status != 401 {
		t.Errorf("no token: %d", status)
	}
}

// Up to a hundred devices at a time, each with what is to be done with it.
func TestAzureBulk(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	var list []map[string]any
	for i := range 100 {
		list = append(list, map[string]any{"id": fmt.Sprintf("b%02d", i), "importMode": "create", "status": "enabled"})
	}
	h.must(200, azure.Owner, "POST", "/devices", list)
	h.must(400, azure.Owner, "POST", "/devices", append(list, list[0]))
	var d struct{ ETag string }
	decode(t, h.must(200, azure.Owner, "GET", "/devices/b02", nil), &d)
	out := h.must(400, azure.Owner, "POST", "/devices", []map[string]any{
		{"id": "b00", "importMode": "create"},
		{"id": "b01", "importMode": "update", "status": "disabled"},
		{"id": "b02", "importMode": "updateIfMatchETag", "eTag": d.ETag, "status": "disabled"},
		{"id": "b03", "importMode": "deleteIfMatchETag", "eTag": "AAAA"},
		{"id": "b04", "importMode": "delete"},
		{"id": "new", "importMode": "createOrUpdate"},
		{"id": "none", "importMode": "update"},
		{"id": "b05", "importMode": "updateTwin"},
	})
	var r struct {
		IsSuccessful bool
		Errors       []struct {
			DeviceID  string
			ErrorCode int
		}
	}
	decode(t, out, &r)
	if got := fmt.Sprint(r.IsSuccessful, r.Errors); got != "false [{b00 409001} {b03 412002} {none 404001} {b05 501000}]" {
		t.Errorf("bulk: %s", out)
	}
	if got := string(h.must(200, azure.Owner, "GET", "/statistics/devices", nil)); got != `{"disabledDeviceCount":2,"enabledDeviceCount":98,"totalDeviceCount":100}` {
		t.Errorf("statistics: %s", got)
	}
	var all []struct{ DeviceID string }
	decode(t, h.must(200, azure.Owner, "GET", "/devices?top=7", nil), &all)
	if len(all) != 7 || all[0].DeviceID != "b00" || all[6].DeviceID != "b07" {
		t.Errorf("the first seven: %v", all)
	}
}

// The query language through the API, over devices, twins and modules.
func TestAzureQueries(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	for i, site := range []string{"north", "north", "south", ""} {
		id := fmt.Sprint("q", i)
		h.device(id)
		if site != "" {
			h.must(200, "service", "PATCH", "/twins/"+id, fmt.Sprintf(`{"tags":{"site":%q,"floor":{"n":%d}},"properties":{"desired":{"rate":%d}}}`, site, i, 10*i))
		}
	}
	for _, m := range []string{"q0/m", "q1/m", "q1-x/m"} {
		device, module, _ := strings.Cut(m, "/")
		if device == "q1-x" {
			h.device(device)
		}
		h.must(201, azure.Owner, "PUT", "/devices/"+device+"/modules/"+module, fmt.Sprintf(`{"deviceId":%q,"moduleId":%q}`, device, module))
	}
	for query, want := range map[string]string{
		"SELECT deviceId FROM devices WHERE tags.site = 'north'":                                                   `[{"deviceId":"q0"},{"deviceId":"q1"}]`,
		"SELECT deviceId FROM devices WHERE tags.site IN ['south', 'west']":                                        `[{"deviceId":"q2"}]`,
		"SELECT deviceId FROM devices WHERE IS_DEFINED(tags.floor.n) AND tags.floor.n >= 1":                        `[{"deviceId":"q1"},{"deviceId":"q2"}]`,
		"SELECT deviceId FROM devices WHERE NOT IS_DEFINED(tags.site) AND STARTS_WITH(deviceId,'q')":               `[{"deviceId":"q1-x"},{"deviceId":"q3"}]`,
		"SELECT tags.site AS s, COUNT() AS n FROM devices WHERE IS_DEFINED(tags.site) GROUP BY tags.site":          `[{"n":2,"s":"north"},{"n":1,"s":"south"}]`,
		"SELECT deviceId AS id, properties.desired.rate AS r FROM devices WHERE properties.desired.rate > 0":       `[{"id":"q1","r":10},{"id":"q2","r":20}]`,
		"SELECT TOP 2 deviceId FROM devices":                                                                       `[{"deviceId":"q0"},{"deviceId":"q1"}]`,
		"SELECT deviceId FROM devices WHERE status = 'enabled' AND authenticationType = 'sas' AND deviceId = 'q3'": `[{"deviceId":"q3"}]`,
		"SELECT deviceId FROM devices WHERE properties.desired.$version > 1 AND tags.site = 'south'":               `[{"deviceId":"q2"}]`,
	} {
		if got := string(h.must(200, "service", "POST", "/devices/query", map[string]string{"query": query})); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	var got []string
	for token := ""; ; {
		status, hd, out := h.do("service", "POST", "/devices/query", `{"query":"SELECT deviceId FROM devices.modules"}`, "x-ms-max-item-count", "1", "x-ms-continuation", token)
		if status != 200 || hd.Get("x-ms-item-type") != "Raw" {
			t.Fatalf("%d %s", status, out)
		}
		got = append(got, string(out))
		if token = hd.Get("x-ms-continuation"); token == "" || len(got) > 5 {
			break
		}
	}
	if all := strings.Join(got, ""); all != `[{"deviceId":"q0"}][{"deviceId":"q1-x"}][{"deviceId":"q1"}]` {
		t.Errorf("modules, a page each: %s", all)
	}
}

// A method waits for a device to connect, and no longer than it is told for its
// answer.
func TestAzureMethodTimeouts(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	key := h.device("dev1")
	type outcome struct {
		status int
		body   string
	}
	call := func(body string) chan outcome {
		c := make(chan outcome, 1)
		go func() {
			status, hd, out := h.do("service", "POST", "/twins/dev1/methods", body)
			c <- outcome{status, hd.Get("iothub-errorcode") + string(out)}
		}()
		return c
	}
	waiting := call(`{"methodName":"m","responseTimeoutInSeconds":60,"connectTimeoutInSeconds":60}`)
	d := h.listen(h.options("dev1", key), 0, "$iothub/methods/POST/#")
	m := d.next()
	name, rid, _ := strings.Cut(m.Topic, "/?$rid=")
	if name != "$iothub/methods/POST/m" {
		t.Fatal(m.Topic)
	}
	if err := d.Publish(t.Context(), &mqttclient.Message{Topic: "$iothub/methods/res/0/?$rid=" + rid, QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if o := <-waiting; o.status != 200 || o.body != `{"payload":null,"status":0}` {
		t.Errorf("an answer without a body: %+v", o)
	}
	began := time.Now()
	if o := <-call(`{"methodName":"m","responseTimeoutInSeconds":5}`); o.status != http.StatusGatewayTimeout || !strings.HasPrefix(o.body, "GatewayTimeout") || time.Since(began) < 5*time.Second {
		t.Errorf("no answer: %+v after %v", o, time.Since(began))
	}
	d.next()
	leaving := call(`{"methodName":"m","responseTimeoutInSeconds":60}`)
	d.next()
	d.Abort()
	if o := <-leaving; o.status != http.StatusGatewayTimeout {
		t.Errorf("the device left: %+v", o)
	}
}

// What the hub tells of its devices, rules can read.
func TestAzureEvents(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	w.Apply(`
ruleName: hub
sql: SELECT topic(4) AS source, get_user_properties('opType') AS op, * FROM '$azure/devices/+/+'
awsIotSqlVersion: '2016-03-23'
actions:
  - republish: {topic: 'seen/${topic(4)}', qos: 1}
`)
	sub := w.Subscribe("seen/deviceConnectionStateEvents", "seen/deviceLifecycleEvents", "seen/twinChangeEvents", "seen/operationsMonitoring")
	var got []string
	until := func(want ...string) {
		t.Helper()
		for len(want) > 0 {
			m := sub.Next()
			var e struct {
				Source, Reason, StatusType, SequenceNumber string
				Op                                         []string
				StatusCode                                 int
				Tags                                       map[string]any
				Properties                                 map[string]map[string]any
			}
			decode(t, m.Payload, &e)
			line := e.Source + " " + strings.Join(e.Op, "")
			switch e.Source {
			case "operationsMonitoring":
				line += fmt.Sprintf(" %d %s %s", e.StatusCode, e.StatusType, e.Reason)
			case "twinChangeEvents":
				for section, p := range e.Properties {
					b, _ := json.Marshal(p)
					line += " " + section + string(b)
				}
				if e.Tags != nil {
					line += fmt.Sprint(" ", e.Tags)
				}
			case "deviceConnectionStateEvents":
				if len(e.SequenceNumber) != 64 {
					t.Errorf("sequence number %q", e.SequenceNumber)
				}
			}
			got = append(got, strings.TrimSpace(line))
			for i, x := range want {
				if x == got[len(got)-1] {
					want = append(want[:i:i], want[i+1:]...)
					break
				}
			}
			if len(got) > 100 {
				t.Fatalf("no %q in %q", want, got)
			}
		}
	}
	key := h.device("dev1")
	until("deviceLifecycleEvents createDeviceIdentity")
	c := w.Connect(h.options("dev1", key))
	until("deviceConnectionStateEvents deviceConnected", "operationsMonitoring deviceConnect 200 OK")
	if err := c.Publish(t.Context(), &mqttclient.Message{Topic: "$iothub/twin/PATCH/properties/reported/?$rid=1", Payload: []byte(`{"fw":1}`), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	until(`twinChangeEvents updateTwin reported{"$version":2,"fw":1}`)
	w.MustPublish("$aws/things/dev1/shadow/update", `{"state":{"desired":{"on":true}}}`) // the other side's writes too
	until(`twinChangeEvents updateTwin desired{"$version":2,"on":true}`)
	h.must(200, "service", "PATCH", "/twins/dev1", `{"tags":{"site":"north"}}`)
	until("twinChangeEvents updateTwin map[site:north]")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	until("deviceConnectionStateEvents deviceDisconnected", "operationsMonitoring deviceDisconnect 200 OK CLIENT_INITIATED_DISCONNECT")
	w.Connect(h.options("dev1", key))
	w.Connect(h.options("dev1", key))
	until("operationsMonitoring deviceDisconnect 400027 ConnectionForcefullyClosedOnNewConnection DUPLICATE_CLIENTID")
	bad := h.options("dev1", "AAAA")
	bad.ClientID = "dev1"
	refusal(t, "a wrong key", bad)
	until("operationsMonitoring deviceConnect 401003 IoTHubUnauthorized")
	h.must(204, azure.Owner, "DELETE", "/devices/dev1", nil)
	until("deviceLifecycleEvents deleteDeviceIdentity", "operationsMonitoring deviceDisconnect 401003 IoTHubUnauthorized AUTH_ERROR")
}
