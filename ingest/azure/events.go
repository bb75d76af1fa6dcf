package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/internal/topic"
)

// The hub tells of its devices by events on topics of $azure, named as Azure
// names the sources of messages that are not telemetry.
// Source: Azure IoT Hub, "Non-telemetry event schemas"; "IoT Hub operations
// monitoring".
const (
	connectionEvents = "deviceConnectionStateEvents"
	lifecycleEvents  = "deviceLifecycleEvents"
	twinEvents       = "twinChangeEvents"
	operationEvents  = "operationsMonitoring"
)

// eventsTimeout bounds how long whoever caused an event waits for room on the
// log.
const eventsTimeout = 5 * time.Second

// told is an event of the hub about a device or module.
func (h *Hub) told(device, module, source, operation string, body any) *event.Event {
	now := h.now().UTC()
	user := []event.UserProperty{
		{Key: "hubName", Value: h.name()}, {Key: "deviceId", Value: device}, {Key: "opType", Value: operation},
		{Key: "operationTimestamp", Value: stamp(now)}, {Key: "iothub-message-source", Value: source},
	}
	if module != "" {
		user = append(user, event.UserProperty{Key: "moduleId", Value: module})
	}
	return &event.Event{
		Topic: topic.Name(root(device, module) + "/" + source), Payload: encodeJSON(body), Key: queueKey(device), QoS: 1, Protocol: event.Server,
		Received: now.Truncate(time.Millisecond), Props: &event.Properties{ContentType: "application/json", User: user},
	}
}

// name is the hub's, in what it tells.
func (h *Hub) name() string {
	if len(h.o.Hosts) == 0 {
		return ""
	}
	return h.o.Hosts[0]
}

// tell puts an event on the log, without waiting for it to be there.
func (h *Hub) tell(e *event.Event) {
	ctx, cancel := context.WithTimeout(context.Background(), eventsTimeout)
	defer cancel()
	r := unstored{h}
	if err := h.o.Log.Append(ctx, e, r, 0); err != nil {
		r.Appended(0, e, err)
	}
}

type unstored struct{ h *Hub }

func (r unstored) Appended(_ uint64, e *event.Event, err error) {
	if err != nil {
		r.h.logger.Warn("an event of the hub is not stored", "topic", string(e.Topic), "error", err)
	}
}

func (unstored) Flush() {}

// monitored is an event of operations monitoring.
type monitored struct {
	Time              string `json:"time"`
	OperationName     string `json:"operationName"` // "deviceConnect", "deviceDisconnect"
	Category          string `json:"category"`
	Level             string `json:"level"`
	StatusCode        int    `json:"statusCode"`
	StatusType        string `json:"statusType"`
	StatusDescription string `json:"statusDescription"`
	DeviceID          string `json:"deviceId"`
	ModuleID          string `json:"moduleId,omitempty"`
	Protocol          string `json:"protocol"`
	AuthType          string `json:"authType,omitempty"`
	IPAddress         string `json:"maskedIpAddress,omitempty"`
	Reason            string `json:"reason,omitempty"` // in the words of lifecycle events
}

func (h *Hub) monitor(d *Device, m monitored) {
	m.Time, m.Category, m.DeviceID, m.ModuleID, m.Protocol = stamp(h.now()), "Connections", d.device, d.module, "Mqtt"
	if m.Level == "" {
		m.Level, m.StatusCode, m.StatusType = "Information", 200, "OK"
	}
	if d.remote.IsValid() {
		m.IPAddress = d.remote.Addr().String()
	}
	m.AuthType = d.authType()
	h.tell(h.told(d.device, d.module, operationEvents, m.OperationName, m))
}

// authType says how the device has shown who it is.
func (d *Device) authType() string {
	switch {
	case d.policy != "":
		return `{"scope":"hub","type":"sas","issuer":"iothub"}`
	case d.certificate != nil:
		return `{"scope":"device","type":"x509","issuer":"external"}`
	case d.key != "":
		return `{"scope":"device","type":"sas","issuer":"iothub"}`
	}
	return ""
}

// connected tells that a device has connected.
func (h *Hub) connected(d *Device) {
	h.monitor(d, monitored{OperationName: "deviceConnect"})
	h.tell(h.told(d.device, d.module, connectionEvents, deviceOrModule(d.module)+"Connected", sequenceNumber(d.since)))
}

// ends words why a connection has ended as Azure does, by the reason in
// lifecycle events.
var ends = map[string]struct {
	code       int
	kind, text string
}{
	"CONNECTION_LOST":             {404104, "DeviceConnectionClosedRemotely", "the device closed the connection without a DISCONNECT, or it was lost"},
	"MQTT_KEEP_ALIVE_TIMEOUT":     {404104, "DeviceConnectionClosedRemotely", "the device was silent for longer than its keep-alive allows"},
	"DUPLICATE_CLIENTID":          {400027, "ConnectionForcefullyClosedOnNewConnection", "the device has connected again"},
	"AUTH_ERROR":                  {401003, "IoTHubUnauthorized", "the token has expired, or the device may not be here any more"},
	"API_INITIATED_DISCONNECT":    {400027, "ConnectionForcefullyClosed", "the connection was ended by the administrator"},
	"SERVER_INITIATED_DISCONNECT": {500001, "ServerError", "the gateway shuts down"},
	"SERVER_ERROR":                {500001, "ServerError", "the gateway could not go on"},
	"CLIENT_ERROR":                {400000, "GenericBadRequest", "the device did what the protocol does not allow"},
}

// disconnected tells that a device has left, and why.
func (h *Hub) disconnected(d *Device, reason string) {
	m := monitored{OperationName: "deviceDisconnect", Reason: reason, StatusDescription: "the device disconnected"}
	if end, ok := ends[reason]; ok {
		m.Level, m.StatusCode, m.StatusType, m.StatusDescription = "Error", end.code, end.kind, end.text
	}
	h.monitor(d, m)
	h.tell(h.told(d.device, d.module, connectionEvents, deviceOrModule(d.module)+"Disconnected", sequenceNumber(h.now())))
}

// refusedEvery bounds the events of refused log-ins: strangers cause them.
const refusedEvery = 100 * time.Millisecond

// refused tells of a log-in that failed, of a device that there is.
func (h *Hub) refused(d *Device, why error) {
	now := h.now().UnixNano()
	last := h.refusals.Load()
	if now-last < int64(refusedEvery) || !h.refusals.CompareAndSwap(last, now) {
		return
	}
	h.monitor(d, monitored{
		OperationName: "deviceConnect", Level: "Error", StatusCode: 401003, StatusType: "IoTHubUnauthorized", StatusDescription: errs.Text(why),
	})
}

func deviceOrModule(module string) string {
	if module == "" {
		return "device"
	}
	return "module"
}

// sequenceNumber is the body of an event of a connection: later ones have higher
// ones.
func sequenceNumber(at time.Time) map[string]string {
	return map[string]string{"sequenceNumber": fmt.Sprintf("%064X", at.UnixNano())}
}

// tellLifecycle tells that an identity was made or deleted; verb is "create" or
// "delete".
func (h *Hub) tellLifecycle(i *Identity, verb string) {
	what := "DeviceIdentity"
	if i.Module != "" {
		what = "ModuleIdentity"
	}
	body := (&Twin{}).document(i, whereabouts{})
	h.tell(h.told(i.Device, i.Module, lifecycleEvents, verb+what, body))
}

// twinsKey is where it is kept how far changes of twins have been told of.
const twinsKey = "twins.told"

// tellTwins tells of changes of twins, on one of all gateways, until ctx ends. It
// reads on where whoever did it before stood, so none is left out; after a crash
// some are told of again.
func (h *Hub) tellTwins(ctx context.Context) error {
	if h.loaded(ctx) != nil {
		return nil
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if h.o.First() {
			if err := h.tellTwinsWhileFirst(ctx); err != nil && ctx.Err() == nil {
				h.logger.Warn("changes of twins could not be told of; they are tried again", "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (h *Hub) tellTwinsWhileFirst(ctx context.Context) error {
	at, revision, err := h.twinsTold(ctx)
	if err != nil {
		return err
	}
	followers := make([]*eventlog.Follower, len(at))
	for p := range at {
		if followers[p], err = h.o.Log.Follow(eventlog.FollowOptions{Partition: p, After: at[p], Filters: documents}); err != nil {
			return err
		}
		defer followers[p].Close()
	}
	var saved []uint64
	for h.o.First() && ctx.Err() == nil {
		var failed error
		for p, f := range followers {
			if at[p], err = h.tellTwinsOf(ctx, f, at[p]); err != nil {
				failed = err
				break
			}
		}
		if !slices.Equal(saved, at) {
			value, err := json.Marshal(at)
			if err != nil {
				return err
			}
			if revision, err = h.o.Bucket.Commit(ctx, []kv.Change{{Key: twinsKey, Value: value, Expected: revision}}); err != nil {
				return err // another one does it
			}
			saved = slices.Clone(at)
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}

// twinsTold returns the kept positions, or the log's end where there are none
// yet.
func (h *Hub) twinsTold(ctx context.Context) (at []uint64, revision uint64, err error) {
	for p := range h.o.Log.Partitions() {
		at = append(at, h.o.Log.Committed(p))
	}
	kept, revision, err := h.kept(ctx, twinsKey)
	copy(at, kept)
	return at, revision, err
}

// tellTwinsOf tells of what there is in one partition, waiting a moment for it,
// and returns how far it has got: behind the last event it has told of.
func (h *Hub) tellTwinsOf(ctx context.Context, f *eventlog.Follower, at uint64) (uint64, error) {
	wait, cancel := context.WithTimeout(ctx, time.Second/time.Duration(h.o.Log.Partitions()))
	defer cancel()
	batch, _, err := f.Next(wait, 256)
	var gap *eventlog.GapError
	switch {
	case errors.As(err, &gap):
		h.logger.Warn("changes of twins were trimmed before they were told of", "from", gap.From, "to", gap.To)
		return gap.To, nil
	case wait.Err() != nil:
		return at, nil
	case err != nil:
		return at, err
	}
	for _, e := range batch {
		if err := h.tellTwin(ctx, e); err != nil {
			return at, err
		}
		at = e.Seq
	}
	return at, nil
}

// tellTwin tells of a change of a shadow, where it is a twin.
func (h *Hub) tellTwin(ctx context.Context, e *event.Event) error {
	device, module := twinOfTopic(e.Topic)
	if h.ids.get(device, module) == nil {
		return nil
	}
	type side struct {
		State struct {
			Desired  json.RawMessage `json:"desired"`
			Reported json.RawMessage `json:"reported"`
		} `json:"state"`
		Version uint64 `json:"version"`
	}
	var doc struct{ Previous, Current side }
	if json.Unmarshal(e.Payload, &doc) != nil {
		return nil
	}
	desired, reported, ok := numbersOf(e)
	if !ok {
		h.logger.Warn("a change of a twin is not told of: it has no versions", "device", device)
		return nil
	}
	properties := map[string]any{}
	for _, s := range []struct {
		name    string
		was, is json.RawMessage
		number  uint64
	}{
		{"desired", doc.Previous.State.Desired, doc.Current.State.Desired, desired},
		{"reported", doc.Previous.State.Reported, doc.Current.State.Reported, reported},
	} {
		if patch := difference(s.was, s.is); len(patch) > 0 {
			patch["$version"] = s.number
			properties[s.name] = patch
		}
	}
	if len(properties) == 0 {
		return nil
	}
	return h.o.Log.Publish(ctx, h.told(device, module, twinEvents, "updateTwin", map[string]any{
		"version": doc.Current.Version + 1, "properties": properties,
	}))
}

// twinOfTopic returns the device and module of a topic of documents.
func twinOfTopic(name topic.Name) (device, module string) {
	levels := strings.Split(string(name), "/")
	if device = levels[2]; levels[4] == "name" {
		module = levels[5]
	}
	return device, module
}
