package azure

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
)

// C2D is a message to a device.
type C2D struct {
	ID, CorrelationID, UserID string
	ContentType, Encoding     string
	Ack                       string        // "", "none", "positive", "negative", "full"
	Expiry                    time.Duration // how long it is worth being delivered; 0: 1 h
	Properties                []event.UserProperty
	Payload                   []byte
}

// Bounds of a message to a device. Source: Azure IoT Hub, "Send cloud-to-device
// messages from an IoT hub".
const (
	maxC2D        = 64 << 10
	defaultExpiry = time.Hour
	maxExpiry     = 48 * time.Hour
)

// Send puts a message for a device on the log, and returns once it is there; by
// is the hub policy of who sends. It reaches the device now, or when it comes
// back to the session it has left. Errors: errs.NotFound (no such device; or it
// is away and has no session, so that nothing would keep the message),
// errs.Invalid, errs.TooLarge, errs.Quota, errs.Unavailable.
func (h *Hub) Send(ctx context.Context, device string, m *C2D, by string) error {
	const op = "azure.Send"
	if h.ids.get(device, "") == nil {
		return errNoDevice(device)
	}
	if len(m.Payload) > maxC2D {
		return errs.Errorf(op, errs.TooLarge, "a message to a device has at most %d bytes", maxC2D)
	}
	switch m.Ack {
	case "", "none", "positive", "negative", "full":
	default:
		return errs.Errorf(op, errs.Invalid, "ack %q: expected none, positive, negative or full", m.Ack)
	}
	if m.Expiry == 0 {
		m.Expiry = defaultExpiry
	}
	if m.Expiry < time.Second || m.Expiry > maxExpiry {
		return errs.Errorf(op, errs.Invalid, "the expiry is 1 s to 48 h from now")
	}
	if m.ID == "" {
		var b [16]byte
		rand.Read(b[:])
		m.ID = hex.EncodeToString(b[:])
	}
	ok, err := h.o.Receives(ctx, sessionKey(device, ""), topic.Filter(c2dTopic(device)))
	if err != nil {
		return errs.E(op, errs.KindOf(err), err)
	}
	if !ok {
		return errs.Errorf(op, errs.NotFound, "the device does not listen for messages and has left no session that would keep them (CleanSession = 0)")
	}
	p := &event.Properties{ContentType: m.ContentType, MessageExpiry: uint32(m.Expiry / time.Second)}
	add := func(k, v string) {
		if v != "" {
			p.User = append(p.User, event.UserProperty{Key: k, Value: v})
		}
	}
	add("message-id", m.ID)
	add("to", "/devices/"+device+"/messages/devicebound")
	add("correlation-id", m.CorrelationID)
	add("user-id", m.UserID)
	add("content-encoding", m.Encoding)
	if m.Ack != "none" {
		add(propAck, m.Ack)
	}
	size := 0
	for _, u := range m.Properties {
		if size += len(u.Key) + len(u.Value); u.Key == "" || size > maxBag/4 {
			return errs.Errorf(op, errs.Invalid, "the properties have no name or are over %d bytes", maxBag/4)
		}
		if _, taken := short[u.Key]; taken || u.Key == propAck {
			return errs.Errorf(op, errs.Invalid, "the property %q is the hub's", u.Key)
		}
		p.User = append(p.User, u)
	}
	return h.o.Log.Publish(ctx, &event.Event{
		Topic: c2dTopic(device), Payload: m.Payload, Key: "azure:" + device, Principal: "azure policy " + by,
		Received: h.now().UTC().Truncate(time.Millisecond), Protocol: event.Server, QoS: 1, Props: p,
	})
}

func errNoDevice(device string) error {
	return errs.Errorf("azure.Device", errs.NotFound, "there is no device %q", trimmed(device))
}

// feedback is what became of a message whose sender wants to know.
type feedback struct {
	OriginalMessageID  string `json:"originalMessageId"`
	Description        string `json:"description"`
	DeviceGenerationID string `json:"deviceGenerationId"`
	DeviceID           string `json:"deviceId"`
	EnqueuedTimeUTC    string `json:"enqueuedTimeUtc"`
	StatusCode         string `json:"statusCode"`
}

// settled is told of each message a device has acknowledged, or that has expired
// when its turn came.
func (h *Hub) settled(d *Device, e *event.Event, expired bool) {
	if e.Props == nil {
		return
	}
	f := feedback{
		Description: "Success", StatusCode: "Success", DeviceID: d.device, DeviceGenerationID: d.generation, EnqueuedTimeUTC: stamp(h.now()),
	}
	if expired {
		f.Description, f.StatusCode = "Message expired", "Expired"
	}
	wanted := false
	for _, u := range e.Props.User {
		switch u.Key {
		case "message-id":
			f.OriginalMessageID = u.Value
		case propAck:
			wanted = u.Value == "full" || u.Value == "positive" && !expired || u.Value == "negative" && expired
		}
	}
	if !wanted {
		return
	}
	select {
	case h.feedback <- f:
	default:
		h.logger.Warn("the feedback of a message is lost: too many wait", "device", d.device)
	}
}

// feedbackTopic is where the feedback of a device's messages is published.
func feedbackTopic(device string) topic.Name { return topic.Name(root(device, "") + "/feedback") }

// tellFeedback publishes feedback until ctx ends.
func (h *Hub) tellFeedback(ctx context.Context) error {
	for {
		select {
		case f := <-h.feedback:
			body, err := json.Marshal([]feedback{f})
			if err != nil {
				return fmt.Errorf("azure: feedback: %w", err)
			}
			err = h.o.Log.Publish(ctx, &event.Event{
				Topic: feedbackTopic(f.DeviceID), Payload: body, Key: "azure:" + f.DeviceID, QoS: 1, Protocol: event.Server,
				Received: h.now().UTC().Truncate(time.Millisecond),
			})
			if err != nil && ctx.Err() == nil {
				h.logger.Warn("the feedback of a message is not stored", "device", f.DeviceID, "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}
