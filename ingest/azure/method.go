package azure

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// methodAnswer is what a device answers a direct method with.
type methodAnswer struct {
	status int
	body   []byte
}

// Bounds of a direct method. Source: Azure IoT Hub, "Understand and invoke direct
// methods".
const (
	minResponse, maxResponse, defaultResponse = 5 * time.Second, 300 * time.Second, 30 * time.Second
	maxMethodPayload                          = 128 << 10
	maxMethodName                             = 256
	maxCalls                                  = 64 // outstanding of one device
)

// answered takes a device's answer. One nobody waits for any more is dropped.
func (d *Device) answered(rid string, a methodAnswer) {
	d.mu.Lock()
	c := d.calls[rid]
	delete(d.calls, rid)
	d.mu.Unlock()
	if c != nil {
		c <- a
	}
}

// errOffline is the kind of a method whose device is not there.
var errOffline = errs.Errorf("azure.Method", errs.NotFound, "the device is not connected, or does not listen for methods")

// Method calls a direct method of a device and waits for its answer.
// Errors: errs.NotFound (not connected within connect), errs.Timeout (no answer
// within response), errs.Invalid, errs.Quota.
func (h *Hub) Method(ctx context.Context, device, module, method string, payload []byte, connect, response time.Duration) (status int, body []byte, err error) {
	const op = "azure.Method"
	switch {
	case method == "" || len(method) > maxMethodName || strings.ContainsAny(method, "/#+?") || !printable(method):
		return 0, nil, errs.Errorf(op, errs.Invalid, "the method's name: 1 to %d printable ASCII characters without '/', '#', '+' and '?'", maxMethodName)
	case len(payload) > maxMethodPayload:
		return 0, nil, errs.Errorf(op, errs.TooLarge, "the payload is over %d bytes", maxMethodPayload)
	case response < minResponse || response > maxResponse || connect < 0 || connect > maxResponse:
		return 0, nil, errs.Errorf(op, errs.Invalid, "time-outs: 5 to 300 s for the answer, 0 to 300 s to connect")
	}
	d, node, err := h.awaitDevice(ctx, nameOf(device, module), connect)
	switch {
	case err != nil:
		return 0, nil, err
	case d == nil:
		return h.invokeAt(ctx, node, remoteCall{nameOf(device, module), method, payload, response})
	}
	return d.invoke(ctx, method, payload, response)
}

// invoke calls a method of a device that is connected here.
func (d *Device) invoke(ctx context.Context, method string, payload []byte, response time.Duration) (status int, body []byte, err error) {
	const op = "azure.Method"
	c := make(chan methodAnswer, 1)
	d.mu.Lock()
	if len(d.calls) >= maxCalls {
		d.mu.Unlock()
		return 0, nil, errs.Errorf(op, errs.Quota, "the device has %d methods to answer", maxCalls)
	}
	d.nextRID++
	rid := strconv.FormatUint(d.nextRID, 16)
	d.calls[rid] = c
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.calls, rid)
		d.mu.Unlock()
	}()
	if !d.link.Load().Send("$iothub/methods/POST/"+method+"/?$rid="+rid, payload) {
		return 0, nil, errOffline
	}
	timer := time.NewTimer(response)
	defer timer.Stop()
	select {
	case a, ok := <-c:
		if !ok {
			return 0, nil, errs.Errorf(op, errs.Timeout, "the device left without an answer")
		}
		if len(a.body) == 0 {
			a.body = []byte("null")
		}
		if !json.Valid(a.body) {
			return 0, nil, errs.Errorf(op, errs.Invalid, "the device's answer is not JSON")
		}
		return a.status, a.body, nil
	case <-timer.C:
		return 0, nil, errs.Errorf(op, errs.Timeout, "the device did not answer in time")
	case <-ctx.Done():
		return 0, nil, errs.E(op, errs.Timeout, ctx.Err())
	}
}

// awaitDevice returns the connection that listens for methods, or the other
// gateway that has it.
func (h *Hub) awaitDevice(ctx context.Context, name string, wait time.Duration) (d *Device, node string, err error) {
	ctx, cancel := context.WithTimeout(ctx, max(wait, hubsPatience))
	defer cancel()
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var asked time.Time
	for {
		if d := h.link(name); d != nil && d.listens() {
			return d, "", nil
		}
		if time.Since(asked) >= askForDevices {
			all, _ := h.everywhere(ctx, name)
			if w := all[name]; w.Methods && w.node != h.node {
				return nil, w.node, nil
			}
			asked = time.Now()
		}
		if time.Since(began) >= wait {
			return nil, "", errOffline
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, "", errOffline
		}
	}
}

func printable(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}
