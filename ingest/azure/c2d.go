package azure

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/internal/event"
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

// Send puts a message for a device in its queue, and returns once it is there; by
// is the hub policy of who sends. The device gets it when it next listens.
// Errors: errs.NotFound (no such device), errs.Invalid, errs.TooLarge, errs.Quota,
// errs.Unavailable; a failure where the queue is full.
func (h *Hub) Send(ctx context.Context, device string, m *C2D, by string) error {
	if h.ids.get(device, "") == nil {
		return errNoDevice(device)
	}
	p, err := h.properties(device, m)
	if err != nil {
		return err
	}
	if err := h.reserve(device); err != nil {
		return err
	}
	defer h.queue.release(device)
	e := &event.Event{
		Topic: c2dTopic(device), Payload: m.Payload, Key: queueKey(device), Principal: "azure policy " + by,
		Received: h.now().UTC().Truncate(time.Millisecond), Protocol: event.Server, QoS: 1, Props: p,
	}
	if err := h.o.Log.Publish(ctx, e); err != nil {
		return err
	}
	return h.queue.reached(ctx, int(e.Partition), e.Seq)
}

// properties checks a message and makes its properties.
func (h *Hub) properties(device string, m *C2D) (*event.Properties, error) {
	const op = "azure.Send"
	longest := min(maxExpiry, h.o.Retention)
	switch m.Ack {
	case "", "none", "positive", "negative", "full":
	default:
		return nil, errs.Errorf(op, errs.Invalid, "ack %q: expected none, positive, negative or full", m.Ack)
	}
	if len(m.Payload) > maxC2D {
		return nil, errs.Errorf(op, errs.TooLarge, "a message to a device has at most %d bytes", maxC2D)
	}
	if m.Expiry == 0 {
		m.Expiry = min(defaultExpiry, longest)
	}
	if m.Expiry < time.Second || m.Expiry > longest {
		return nil, errs.Errorf(op, errs.Invalid, "the expiry is 1 s to %v from now", longest)
	}
	if m.ID == "" {
		var b [16]byte
		rand.Read(b[:])
		m.ID = hex.EncodeToString(b[:])
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
			return nil, errs.Errorf(op, errs.Invalid, "the properties have no name or are over %d bytes", maxBag/4)
		}
		if _, taken := short[u.Key]; taken || u.Key == propAck {
			return nil, errs.Errorf(op, errs.Invalid, "the property %q is the hub's", u.Key)
		}
		p.User = append(p.User, u)
	}
	return p, nil
}

func errNoDevice(device string) error {
	return errs.Errorf("azure.Device", errs.NotFound, "there is no device %q", trimmed(device))
}
