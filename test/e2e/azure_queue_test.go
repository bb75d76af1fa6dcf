package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/ingest/azure"
	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/weirtest"
)

const devicebound = "devices/dev1/messages/devicebound/#"

// send puts a message in the queue of dev1.
func (h *hub) send(body string, header ...string) {
	h.t.Helper()
	h.must(http.StatusNoContent, "service", "POST", "/devices/dev1/messages/devicebound", body, header...)
}

// inbox is a device that notes what it is sent.
type inbox struct {
	*mqttclient.Client
	t        testing.TB
	messages chan *mqttclient.Message
}

// listen connects a device of the hub and has it subscribe.
func (h *hub) listen(o mqttclient.Options, qos byte, filters ...string) *inbox {
	h.t.Helper()
	in := &inbox{t: h.t, messages: make(chan *mqttclient.Message, 1000)}
	o.OnMessage = func(m *mqttclient.Message) { in.messages <- m }
	in.Client = h.w.Connect(o)
	if len(filters) > 0 {
		if err := in.Subscribe(h.t.Context(), qos, filters...); err != nil {
			h.t.Fatal(err)
		}
	}
	return in
}

func (in *inbox) next() *mqttclient.Message {
	in.t.Helper()
	select {
	case m := <-in.messages:
		return m
	case <-in.Done():
		in.t.Fatalf("the connection ended: %v", in.Err())
	case <-time.After(time.Minute):
		in.t.Fatal("no message")
	}
	return nil
}

func (in *inbox) want(payload string) *mqttclient.Message {
	in.t.Helper()
	m := in.next()
	if string(m.Payload) != payload {
		in.t.Fatalf("%s: %s, want %s", m.Topic, m.Payload, payload)
	}
	return m
}

// feedback receives the feedback of n messages and completes it, or, of none, what
// there is; the result is "id status", sorted.
func (h *hub) feedback(n int) []string {
	h.t.Helper()
	var got []string
	weirtest.Eventually(h.t, func() bool {
		status, hd, body := h.do("service", "GET", "/messages/serviceBound/feedback", nil)
		if status != 200 {
			return n == 0
		}
		var list []struct{ OriginalMessageID, StatusCode, DeviceID, DeviceGenerationID, EnqueuedTimeUTC, Description string }
		if err := json.Unmarshal(body, &list); err != nil || len(list) == 0 {
			h.t.Fatalf("%v %s", err, body)
		}
		for _, f := range list {
			if f.DeviceID != "dev1" || f.DeviceGenerationID == "" || f.EnqueuedTimeUTC == "" || f.Description == "" {
				h.t.Errorf("feedback %+v", f)
			}
			got = append(got, f.OriginalMessageID+" "+f.StatusCode)
		}
		h.must(204, "service", "DELETE", "/messages/serviceBound/feedback/"+strings.Trim(hd.Get("ETag"), `"`), nil)
		return n > 0 && len(got) >= n
	}, func() string { return fmt.Sprintf("feedback of %d messages, got %v", n, got) })
	slices.Sort(got)
	return got
}

// A queue begins with the registration of its device, is kept over a restart, has
// an end to its length, and what becomes of each message is told.
func TestAzureQueue(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	key := h.device("dev1")
	h.send("one", "iothub-messageid", "m1", "iothub-ack", "full")
	h.send("two", "iothub-messageid", "m2", "iothub-ack", "positive")
	h.send("brief", "iothub-messageid", "m3", "iothub-ack", "negative", "iothub-expiry", time.Now().Add(2*time.Second).UTC().Format(time.RFC3339Nano))
	if got := h.feedback(1); !slices.Equal(got, []string{"m3 Expired"}) {
		t.Errorf("feedback %v", got)
	}
	w.Restart()
	h = newHub(t, w)
	// Not a session, but the queue keeps them: CleanSession is 1.
	in := h.listen(h.options("dev1", key), 1, devicebound)
	in.want("one")
	in.want("two")
	if got := h.feedback(2); !slices.Equal(got, []string{"m1 Success", "m2 Success"}) {
		t.Errorf("feedback %v", got)
	}
	w.Restart() // what is complete does not come again, and neither does its feedback
	h = newHub(t, w)
	in = h.listen(h.options("dev1", key), 1, devicebound)
	h.send("three", "iothub-ack", "none")
	in.want("three")
	if status, _, body := h.do("service", "GET", "/messages/serviceBound/feedback", nil); status != 204 {
		t.Errorf("feedback that nobody wants: %d %s", status, body)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		h.send(fmt.Sprint("n", i))
	}
	status, hd, body := h.do("service", "POST", "/devices/dev1/messages/devicebound", "one more")
	if status != 403 || hd.Get("iothub-errorcode") != "DeviceMaximumQueueDepthExceeded" {
		t.Errorf("message 51: %d %s", status, body)
	}
	in = h.listen(h.options("dev1", key), 1, devicebound)
	for i := range 50 {
		in.want(fmt.Sprint("n", i))
	}
	// A moment after the message its acknowledgement comes.
	weirtest.Eventually(t, func() bool {
		status, _, _ := h.do("service", "POST", "/devices/dev1/messages/devicebound", "room again")
		return status == 204
	}, func() string { return "the queue does not get room" })
	in.want("room again")
	in.Abort()
	// Its acknowledgement may not have come through.
	weirtest.Eventually(t, func() bool {
		out := h.must(200, "service", "DELETE", "/devices/dev1/commands", nil)
		return strings.Contains(string(out), `"totalMessagesPurged":0`)
	}, func() string { return "the queue does not get empty" })
	h.send("unwanted", "iothub-messageid", "p1", "iothub-ack", "full")
	if out := h.must(200, "service", "DELETE", "/devices/dev1/commands", nil); !strings.Contains(string(out), `"totalMessagesPurged":1`) {
		t.Errorf("purge: %s", out)
	}
	if got := h.feedback(1); !slices.Equal(got, []string{"p1 Purged"}) {
		t.Errorf("feedback %v", got)
	}
	// The queue of a device that is deleted is not its successor's.
	h.send("old")
	h.must(204, azure.Owner, "DELETE", "/devices/dev1", nil)
	key = h.device("dev1")
	in = h.listen(h.options("dev1", key), 1, devicebound)
	h.send("new")
	in.want("new")
	if status, hd, _ := h.do("service", "POST", "/devices/none/messages/devicebound", "x"); status != 404 || hd.Get("iothub-errorcode") != "DeviceNotFound" {
		t.Errorf("a message for nobody: %d", status)
	}
}

// kill -9 between acknowledgements: each message comes, and each has feedback.
func TestAzureQueueSurvivesAKill(t *testing.T) {
	if testing.Short() {
		t.Skip("a process that is killed")
	}
	w := weirtest.Process(t, weirtest.Durability("disk"))
	h := newHub(t, w)
	o := h.options("dev1", h.device("dev1"))
	o.Resume = true
	const n = 40
	want := map[string]bool{}
	for i := range n {
		id := fmt.Sprintf("m%02d", i)
		h.send(id, "iothub-messageid", id, "iothub-ack", "full")
		want[id] = true
	}
	in := h.listen(o, 1, devicebound)
	got := map[string]bool{}
	for range n / 2 {
		got[string(in.next().Payload)] = true
	}
	w.Kill()
	in.Abort()
	w.BeginProcess()
	h = newHub(t, w)
	o.Addr = "localhost:" + port(w.Endpoints().MQTTS)
	in = h.listen(o, 1, devicebound)
	feedback := map[string]bool{}
	weirtest.Eventually(t, func() bool {
		for len(in.messages) > 0 {
			got[string((<-in.messages).Payload)] = true
		}
		for _, f := range h.feedback(0) {
			id, status, _ := strings.Cut(f, " ")
			if status != "Success" {
				t.Errorf("feedback %s", f)
			}
			feedback[id] = true
		}
		return len(feedback) == n
	}, func() string {
		return fmt.Sprintf("%d messages have come, %d have feedback, of %d", len(got), len(feedback), n)
	})
	for id := range want {
		if !got[id] && len(in.messages) == 0 {
			t.Errorf("%s has feedback, but the device has not seen it", id)
		}
	}
}

// A message that no connection acknowledges is given up after ten.
func TestAzureDeliveryCount(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	o := h.options("dev1", h.device("dev1"))
	h.send("poison", "iothub-messageid", "p", "iothub-ack", "full")
	sent := make(chan *mqttclient.Message, 100)
	for i := range 10 {
		leave := make(chan struct{})
		o.OnMessage = func(m *mqttclient.Message) { sent <- m; <-leave }
		c := w.Connect(o)
		if err := c.Subscribe(t.Context(), 1, devicebound); err != nil {
			t.Fatal(err)
		}
		select {
		case <-sent:
		case <-time.After(time.Minute):
			t.Fatalf("delivery %d does not come", i+1)
		}
		over := make(chan struct{})
		go func() { c.Abort(); close(over) }()
		<-c.Done()
		close(leave)
		<-over
	}
	in := h.listen(h.options("dev1", h.key("dev1")), 1, devicebound)
	if got := h.feedback(1); !slices.Equal(got, []string{"p DeliveryCountExceeded"}) {
		t.Errorf("feedback %v", got)
	}
	h.send("next")
	in.want("next")
}

// key returns the primary key of a device.
func (h *hub) key(id string) string {
	h.t.Helper()
	var d struct {
		Authentication struct{ SymmetricKey struct{ PrimaryKey string } }
	}
	if err := json.Unmarshal(h.must(200, azure.Owner, "GET", "/devices/"+id, nil), &d); err != nil {
		h.t.Fatal(err)
	}
	return d.Authentication.SymmetricKey.PrimaryKey
}

// Whoever receives feedback has it to himself until he completes or abandons it.
func TestAzureFeedbackLock(t *testing.T) {
	w := weirtest.Start(t)
	h := newHub(t, w)
	in := h.listen(h.options("dev1", h.device("dev1")), 1, devicebound)
	h.send("x", "iothub-messageid", "m", "iothub-ack", "full")
	in.want("x")
	receive := func() (status int, lock string) {
		status, hd, _ := h.do("service", "GET", "/messages/serviceBound/feedback", nil)
		return status, strings.Trim(hd.Get("ETag"), `"`)
	}
	lock := ""
	weirtest.Eventually(t, func() bool {
		status, l := receive()
		lock = l
		return status == 200
	}, func() string { return "no feedback" })
	if status, _ := receive(); status != 204 {
		t.Errorf("a second reader has it too: %d", status)
	}
	h.must(412, "service", "DELETE", "/messages/serviceBound/feedback/other", nil)
	h.must(401, "registryRead", "DELETE", "/messages/serviceBound/feedback/"+lock, nil)
	h.must(204, "service", "POST", "/messages/serviceBound/feedback/"+lock+"/abandon", nil)
	h.must(412, "service", "DELETE", "/messages/serviceBound/feedback/"+lock, nil)
	status, lock := receive()
	if status != 200 {
		t.Fatalf("abandoned feedback: %d", status)
	}
	h.must(204, "service", "DELETE", "/messages/serviceBound/feedback/"+lock, nil)
	if status, _ := receive(); status != 204 {
		t.Errorf("complete feedback comes again: %d", status)
	}
}
